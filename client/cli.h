/*
 * The command-line tool: what its commands share.
 */
#ifndef CLIENT_CLI_H
#define CLIENT_CLI_H

#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* Exit codes; `viaduct --help` explains them. */
enum cli_exit {
	CLI_OK,
	CLI_FAILED,
	CLI_USAGE,
	CLI_UNREACHABLE,
	CLI_UNBALANCED,
};

struct command {
	const char *name;
	const char *arguments;
	const char *summary;               // one line
	const char *help;                  // the rest of its --help
	int (*run)(int argc, char **argv); // argv[0] is the command
};

extern const struct command command_ping, command_send, command_listen, command_request,
	command_reply, command_watch, command_status, command_peers, command_routes, command_drops,
	command_cert, command_events, command_revoke, command_trust, command_reload, command_drain,
	command_publish, command_topics, command_services, command_service;

/* --json was given. */
extern bool cli_json;

/* Says what is wrong on stderr, with --json also as an object on stdout. Returns `code`. */
int cli_fail(enum cli_exit code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * The next option, as getopt_long(): handles --json and --help by itself (the latter exits), and
 * exits with CLI_USAGE on a wrong one. -1 at the end.
 */
int cli_option(const struct command *command, int argc, char **argv, const char *letters,
	       const struct option *options);

/* What every command takes; for the end of its list. */
#define CLI_OPTIONS                                                                                \
	{"json", no_argument, NULL, 'J'}, {"help", no_argument, NULL, 'h'},                        \
	{                                                                                          \
		0                                                                                  \
	}

/* Exits with CLI_USAGE, after one sentence. */
_Noreturn void cli_misused(const struct command *command, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* A number from `min` to `max`, or exits with CLI_USAGE. */
double cli_number(const struct command *command, const char *what, const char *text, double min,
		  double max);

/* Prints an object as one line of JSON, and frees it. */
void cli_print(json_t *object);

/* Prints text from elsewhere so that it can't steer a terminal. */
void cli_print_text(const char *text, size_t length);

#endif
