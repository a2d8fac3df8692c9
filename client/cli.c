/* viaduct: the command-line tool. Here: which command, and what all of them share. */
#include "cli.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "viaduct.h"

bool cli_json;

static const struct command *const commands[] = {
	&command_ping,     &command_send,    &command_publish, &command_listen, &command_request,
	&command_reply,    &command_watch,   &command_status,  &command_peers,  &command_routes,
	&command_topics,   &command_drops,   &command_events,  &command_revoke, &command_trust,
	&command_services, &command_service, &command_reload,  &command_drain,  &command_cert,
};

enum { COMMANDS = sizeof(commands) / sizeof(commands[0]) };

static void usage(void)
{
	printf("Usage: viaduct COMMAND [OPTION…] [ARGUMENT…]\n\n"
	       "Talks through a Viaduct relay, looks at one, and makes certificates for a test\n"
	       "federation.\n\n");
	for (int i = 0; i < COMMANDS; i++) {
		if (i == 0)
			printf("As a peer:\n");
		if (commands[i] == &command_status)
			printf("\nOn the relay's host, over its admin socket:\n");
		if (commands[i] == &command_cert)
			printf("\nAnywhere:\n");
		printf("  %-9s%s\n", commands[i]->name, commands[i]->summary);
	}
	printf("\n`viaduct COMMAND --help` says more. All commands take --json: one JSON object, "
	       "or\n"
	       "one a line for what goes on and on.\n\n"
	       "Exit codes:\n"
	       "  0  done\n"
	       "  1  failed, or nobody answered\n"
	       "  2  wrong usage\n"
	       "  3  the relay or its admin socket can't be reached\n"
	       "  4  a ledger doesn't balance (drops)\n");
}

int cli_fail(enum cli_exit code, const char *format, ...)
{
	char text[512];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	fprintf(stderr, "viaduct: %s\n", text);
	if (cli_json)
		cli_print(json_pack("{ss}", "error", text));
	return code;
}

void cli_misused(const struct command *command, const char *format, ...)
{
	va_list arguments;

	fprintf(stderr, "viaduct %s: ", command->name);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fprintf(stderr, "\nTry: viaduct %s --help\n", command->name);
	exit(CLI_USAGE);
}

int cli_option(const struct command *command, int argc, char **argv, const char *letters,
	       const struct option *options)
{
	int option;

	opterr = 0;
	while ((option = getopt_long(argc, argv, letters, options, NULL)) == 'J')
		cli_json = true;
	if (option == 'h') {
		printf("Usage: viaduct %s %s\n\n%c%s.\n\n%s", command->name, command->arguments,
		       toupper(command->summary[0]), command->summary + 1, command->help);
		exit(CLI_OK);
	}
	if (option == '?')
		cli_misused(command, "%s is no option of this command, or lacks its value",
			    argv[optind - 1]);
	return option;
}

double cli_number(const struct command *command, const char *what, const char *text, double min,
		  double max)
{
	char *end;
	double number = strtod(text, &end);

	if (end == text || *end || !(number >= min && number <= max))
		cli_misused(command, "%s must be a number from %g to %g, not '%s'", what, min, max,
			    text);
	return number;
}

void cli_print(json_t *object)
{
	// a double holds so many digits for sure; more would be noise
	char *text = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(15));

	if (text)
		puts(text);
	fflush(stdout);
	free(text);
	json_decref(object);
}

void cli_print_text(const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		unsigned char c = (unsigned char)text[i];

		// bytes from 0x80 on are UTF-8 where the text is; C1 controls need two of them
		if (c < ' ' || c == 0x7f ||
		    (c == 0xc2 && i + 1 < length && (unsigned char)text[i + 1] < 0xa0))
			printf("\\x%02x", c);
		else
			putchar(c);
	}
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";

	if (!strcmp(name, "--version")) {
		printf("viaduct %s\n", viaduct_version());
		return CLI_OK;
	}
	if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
		usage();
		return CLI_OK;
	}
	for (int i = 0; i < COMMANDS; i++)
		if (!strcmp(name, commands[i]->name))
			return commands[i]->run(argc - 1, argv + 1);
	if (*name)
		fprintf(stderr, "viaduct: there is no command '%s'\n", name);
	else
		fprintf(stderr, "viaduct: which command?\n");
	fprintf(stderr, "Try: viaduct --help\n");
	return CLI_USAGE;
}
