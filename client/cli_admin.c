/* Asking viaductd over its admin socket, and showing what it says. */
#include "cli_admin.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int admin_connect(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd;

	if (strlen(path) >= sizeof(address.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		close(fd);
		return -1;
	}
	return fd;
}

FILE *cli_admin_open(const char *path, json_t *question, int *code)
{
	FILE *file;
	int fd;

	if (!path)
		path = getenv("VIADUCT_ADMIN");
	if (!path)
		path = CLI_ADMIN_SOCKET;
	fd = admin_connect(path);
	file = fd >= 0 ? fdopen(fd, "r+") : NULL;
	if (file) {
		json_dumpf(question, file, JSON_COMPACT);
		fputc('\n', file);
		fflush(file);
	} else {
		*code = cli_fail(CLI_UNREACHABLE,
				 "%s: %s; is viaductd running, and this its socket?", path,
				 strerror(errno));
	}
	json_decref(question);
	return file;
}

json_t *cli_admin_answer(FILE *file, int *code)
{
	json_t *answer = NULL;
	char *line = NULL;
	size_t size = 0;

	if (getline(&line, &size, file) > 0)
		answer = json_loads(line, 0, NULL);
	free(line);
	if (!json_is_object(answer)) {
		*code = cli_fail(CLI_UNREACHABLE, "no answer that makes sense");
	} else if (!json_is_true(json_object_get(answer, "ok"))) {
		const char *error = json_string_value(json_object_get(answer, "error"));

		*code = cli_fail(CLI_FAILED, "the relay says: %s", error ? error : "no");
	} else {
		return answer;
	}
	json_decref(answer);
	return NULL;
}

json_t *cli_admin_ask(const char *path, json_t *question, int *code)
{
	FILE *file = cli_admin_open(path, question, code);
	json_t *answer = NULL;

	if (file) {
		answer = cli_admin_answer(file, code);
		fclose(file);
	}
	return answer;
}

int cli_admin_run(const char *path, json_t *question, void (*print)(const json_t *answer))
{
	int code = CLI_OK;
	json_t *answer = cli_admin_ask(path, question, &code);

	if (!answer)
		return code;
	if (cli_json) {
		cli_print(answer);
	} else {
		print(answer);
		json_decref(answer);
	}
	return CLI_OK;
}

int cli_admin_command(const struct command *command, int argc, char **argv,
		      void (*print)(const json_t *answer))
{
	static const struct option options[] = {CLI_ADMIN_OPTIONS};
	const char *path = NULL;

	while (cli_option(command, argc, argv, "h", options) != -1)
		path = optarg;
	if (optind != argc)
		cli_misused(command, "it takes no arguments");
	return cli_admin_run(path, json_pack("{ss}", "cmd", command->name), print);
}

json_int_t cli_integer(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

const char *cli_string(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "-";
}

void cli_print_string(const json_t *object, const char *key)
{
	const char *text = cli_string(object, key);

	cli_print_text(text, strlen(text));
}

/* Takes the cell; NULL prints as nothing. */
static void add(struct cli_table *table, char *cell)
{
	unsigned int at = table->rows, column = at % table->columns;
	char **cells;

	if (at == table->room) {
		table->room = table->room ? 2 * table->room : 256;
		cells = reallocarray(table->cells, table->room, sizeof(*cells));
		if (!cells)
			abort();
		table->cells = cells;
	}
	if (cell && strlen(cell) > table->width[column])
		table->width[column] = strlen(cell);
	table->cells[table->rows++] = cell;
}

void cli_table_begin(struct cli_table *table, const char *const *titles)
{
	*table = (struct cli_table){0};
	while (titles[table->columns])
		table->columns++;
	for (unsigned int i = 0; i < table->columns; i++)
		cli_table_text(table, titles[i]);
}

void cli_table_text(struct cli_table *table, const char *text)
{
	add(table, strdup(text));
}

void cli_table_number(struct cli_table *table, json_int_t number)
{
	cli_table_format(table, "%" JSON_INTEGER_FORMAT, number);
}

void cli_table_format(struct cli_table *table, const char *format, ...)
{
	va_list arguments;
	char *cell;

	va_start(arguments, format);
	if (vasprintf(&cell, format, arguments) < 0)
		cell = NULL;
	va_end(arguments);
	add(table, cell);
}

void cli_table_print(struct cli_table *table)
{
	for (unsigned int i = 0; i < table->rows; i++) {
		const char *cell = table->cells[i] ? table->cells[i] : "";
		unsigned int column = i % table->columns;
		bool last = column == table->columns - 1;

		cli_print_text(cell, strlen(cell));
		printf("%*s", last ? 0 : (int)(table->width[column] - strlen(cell) + 2), "");
		if (last)
			putchar('\n');
		free(table->cells[i]);
	}
	free(table->cells);
}
