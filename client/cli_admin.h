/*
 * The command-line tool: what commands over viaductd's admin socket share.
 */
#ifndef CLIENT_CLI_ADMIN_H
#define CLIENT_CLI_ADMIN_H

#include <string.h>

#include "cli.h"

#define CLI_ADMIN_SOCKET    "/run/viaduct/viaduct.sock"
#define CLI_ADMIN_ARGUMENTS "[--socket PATH] [--json]"
#define CLI_ADMIN_HELP                                                                             \
	"  --socket PATH  viaductd's admin socket (VIADUCT_ADMIN, " CLI_ADMIN_SOCKET ")\n"         \
	"  --json         the answer as viaductd gives it; docs/operating.md lists it\n"

/* What every one of them takes; for the end of its list. */
#define CLI_ADMIN_OPTIONS {"socket", required_argument, NULL, 's'}, CLI_OPTIONS

/*
 * Opens viaductd's admin socket (`path` NULL: VIADUCT_ADMIN or the default) and asks `question`,
 * which is freed. NULL after having said why not, with `code` to exit with.
 */
FILE *cli_admin_open(const char *path, json_t *question, int *code);

/* Waits for an answer that is ok. NULL after having said why there is none, likewise. */
json_t *cli_admin_answer(FILE *file, int *code);

/* Both, for a single answer. */
json_t *cli_admin_ask(const char *path, json_t *question, int *code);

/* Asks, and prints the answer: as JSON, or by `print`. Returns what to exit with. */
int cli_admin_run(const char *path, json_t *question, void (*print)(const json_t *answer));

/* The same for a command that only has these options, and asks what it is called. */
int cli_admin_command(const struct command *command, int argc, char **argv,
		      void (*print)(const json_t *answer));

/* A value of an answer: 0 or "-" if it isn't there. */
json_int_t cli_integer(const json_t *object, const char *key);
const char *cli_string(const json_t *object, const char *key);

/* Prints such a text, as cli_print_text(). */
void cli_print_string(const json_t *object, const char *key);

/* ---- Tables ---- */

enum { CLI_COLUMNS_MAX = 8 };

struct cli_table {
	unsigned int columns, rows, room;
	char **cells; // row by row, owned
	size_t width[CLI_COLUMNS_MAX];
};

/* Begins one with these titles, NULL after the last. */
void cli_table_begin(struct cli_table *table, const char *const *titles);

/* The next cell. */
void cli_table_text(struct cli_table *table, const char *text);
void cli_table_number(struct cli_table *table, json_int_t number);
void cli_table_format(struct cli_table *table, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* Prints and empties. */
void cli_table_print(struct cli_table *table);

#endif
