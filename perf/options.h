/* Benchmarks' options as a table, and their results as text or JSON. */
#ifndef VIADUCT_PERF_OPTIONS_H
#define VIADUCT_PERF_OPTIONS_H

#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum { EXIT_USAGE = 2, OPTIONS_MAX = 24 };

/* --name with a number, a text, or nothing behind it, and where that goes. */
struct option_row {
	const char *name; // NULL ends the table
	unsigned int *number;
	unsigned int low, high;
	const char **text;
	bool *flag;
};

#define OPTION_NUMBER(option, to, least, most)                                                     \
	{                                                                                          \
		.name = (option), .number = (to), .low = (least), .high = (most)                   \
	}
#define OPTION_TEXT(option, to)                                                                    \
	{                                                                                          \
		.name = (option), .text = (to)                                                     \
	}
#define OPTION_FLAG(option, to)                                                                    \
	{                                                                                          \
		.name = (option), .flag = (to)                                                     \
	}

/* A whole number from `low` to `high`, as the value of --`option`, or the end of the program. */
static inline unsigned int option_number(const char *option, const char *text, unsigned int low,
					 unsigned int high)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (end == text || *end || value < low || value > high) {
		fprintf(stderr, "%s: --%s wants a whole number from %u to %u, not '%s'\n",
			program_invocation_short_name, option, low, high, text);
		exit(EXIT_USAGE);
	}
	return (unsigned int)value;
}

/*
 * Reads the command line; what isn't there is left as it is. --help prints `usage` and ends the
 * program, as does what is wrong.
 */
static inline void options_read(const struct option_row *rows, const char *usage, int argc,
				char **argv)
{
	struct option options[OPTIONS_MAX + 2] = {{"help", no_argument, NULL, 'h'}};
	int option, index;

	for (int i = 0; i < OPTIONS_MAX && rows[i].name; i++)
		options[i + 1] = (struct option){
			rows[i].name, rows[i].flag ? no_argument : required_argument, NULL, 0};
	while ((option = getopt_long(argc, argv, "h", options, &index)) == 0) {
		const struct option_row *row = &rows[index - 1];

		if (row->flag)
			*row->flag = true;
		else if (row->text)
			*row->text = optarg;
		else
			*row->number = option_number(row->name, optarg, row->low, row->high);
	}
	if (option == 'h') {
		fputs(usage, stdout);
		exit(EXIT_SUCCESS);
	}
	if (option != -1)
		exit(EXIT_USAGE);
	if (optind < argc) {
		fprintf(stderr, "%s: takes options only; try --help\n",
			program_invocation_short_name);
		exit(EXIT_USAGE);
	}
}

/* Prints an object, a line a value or as JSON. Takes it over. */
static inline void result_print(json_t *result, bool as_json)
{
	const char *key;
	json_t *value;

	if (as_json) {
		json_dumpf(result, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
		putchar('\n');
	} else {
		json_object_foreach (result, key, value) {
			if (json_is_string(value))
				printf("%-26s%14s\n", key, json_string_value(value));
			else if (json_is_integer(value))
				printf("%-26s%14" JSON_INTEGER_FORMAT "\n", key,
				       json_integer_value(value));
			else
				printf("%-26s%14.3f\n", key, json_real_value(value));
		}
	}
	json_decref(result);
}

#endif
