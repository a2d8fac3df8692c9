/* viaduct events, revoke, reload, drain: what changes a relay, and what happens there. */
#include <stdlib.h>

#include "cli_admin.h"

/* ---- events ---- */

static void print_event(const json_t *event)
{
	static const char *const fields[] = {"name", "id", "address"};

	printf("%-10s", cli_string(event, "event"));
	if (json_object_get(event, "count"))
		printf("%" JSON_INTEGER_FORMAT " events", cli_integer(event, "count"));
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		if (!json_object_get(event, fields[i]))
			continue;
		cli_print_string(event, fields[i]);
		putchar(' ');
	}
	if (json_object_get(event, "level"))
		printf("level %" JSON_INTEGER_FORMAT, cli_integer(event, "level"));
	putchar('\n');
}

static int events_run(int argc, char **argv)
{
	static const struct option options[] = {{"count", required_argument, NULL, 'c'},
						CLI_ADMIN_OPTIONS};
	const char *path = NULL;
	long left = -1;
	int code = CLI_OK, option;
	size_t size = 0;
	char *line = NULL;
	json_t *answer;
	FILE *file;

	while ((option = cli_option(&command_events, argc, argv, "hc:", options)) != -1) {
		if (option == 'c')
			left = (long)cli_number(&command_events, "--count", optarg, 1, 1e9);
		else
			path = optarg;
	}
	if (optind != argc)
		cli_misused(&command_events, "it takes no arguments");
	file = cli_admin_open(path, json_pack("{ss}", "cmd", "events"), &code);
	if (!file)
		return code;
	answer = cli_admin_answer(file, &code);
	while (answer && left != 0 && getline(&line, &size, file) > 0) {
		json_t *event = json_loads(line, 0, NULL);

		if (cli_json)
			fputs(line, stdout);
		else if (event)
			print_event(event);
		fflush(stdout);
		json_decref(event);
		left -= left > 0;
	}
	if (answer && left != 0)
		code = cli_fail(CLI_UNREACHABLE, "the relay has ended");
	json_decref(answer);
	free(line);
	fclose(file);
	return code;
}

const struct command command_events = {
	.name = "events",
	.arguments = "[--count N] " CLI_ADMIN_ARGUMENTS,
	.summary =
		"who joins, leaves, expires, moves, is revoked, slowed down or cut: as it happens",
	.help = "  --count N      end after so many\n" CLI_ADMIN_HELP
		"\nExample:\n  viaduct events --json | jq -r 'select(.event == "
		"\"expired\").name'\n",
	.run = events_run,
};

/* ---- revoke ---- */

static void print_ids(const json_t *ids, const char *what)
{
	json_t *id;
	size_t i;

	json_array_foreach (ids, i, id) {
		cli_print_text(json_string_value(id), json_string_length(id));
		printf("%s\n", what);
	}
}

static void print_revoke(const json_t *answer)
{
	json_t *cut = json_object_get(answer, "cut");

	print_ids(json_object_get(answer, "revoked"), cut ? " is revoked" : "");
	print_ids(json_object_get(answer, "undone"), " may join again");
	if (json_integer_value(cut))
		printf("%" JSON_INTEGER_FORMAT " thrown out\n", json_integer_value(cut));
	if (cut && !json_is_true(json_object_get(answer, "kept")))
		printf("This holds until the relay ends: trust.revoked in its configuration names "
		       "no file to keep it in.\n");
}

static int revoke_run(int argc, char **argv)
{
	static const struct option options[] = {{"undo", no_argument, NULL, 'u'},
						CLI_ADMIN_OPTIONS};
	json_t *question = json_pack("{ss}", "cmd", "revoke");
	const char *path = NULL;
	int option;

	while ((option = cli_option(&command_revoke, argc, argv, "h", options)) != -1) {
		if (option == 'u')
			json_object_set_new(question, "undo", json_true());
		else
			path = optarg;
	}
	if (argc - optind > 1 || (argc == optind && json_object_get(question, "undo")))
		cli_misused(&command_revoke, "one peer, by its id or name");
	if (optind < argc)
		json_object_set_new(question, "peer", json_string(argv[optind]));
	return cli_admin_run(path, question, print_revoke);
}

const struct command command_revoke = {
	.name = "revoke",
	.arguments = "[--undo] [PEER] " CLI_ADMIN_ARGUMENTS,
	.summary = "throw a peer out for good, or let it come back",
	.help = "PEER is an id, or the name of one that is here. Without it, lists who is "
		"revoked.\n"
		"\n"
		"  --undo         let it join again\n" CLI_ADMIN_HELP
		"\nExample:\n  viaduct revoke spiffe://lab/team/stolen-laptop\n",
	.run = revoke_run,
};

/* ---- reload ---- */

static void print_reload(const json_t *answer)
{
	json_t *changes = json_object_get(answer, "changes"), *change;
	size_t i;

	json_array_foreach (changes, i, change) {
		cli_print_string(change, "setting");
		printf(": ");
		cli_print_string(change, "from");
		printf(" -> ");
		cli_print_string(change, "to");
		putchar('\n');
	}
	if (!json_array_size(changes))
		printf("no setting has changed; the files that they name %s\n",
		       json_is_true(json_object_get(answer, "applied")) ? "were read again"
									: "are good");
	else
		printf("%s\n", json_is_true(json_object_get(answer, "applied")) ? "applied"
										: "not applied");
}

static int reload_run(int argc, char **argv)
{
	static const struct option options[] = {{"dry-run", no_argument, NULL, 'n'},
						CLI_ADMIN_OPTIONS};
	json_t *question = json_pack("{ss}", "cmd", "reload");
	const char *path = NULL;
	int option;

	while ((option = cli_option(&command_reload, argc, argv, "hn", options)) != -1) {
		if (option == 'n')
			json_object_set_new(question, "dry_run", json_true());
		else
			path = optarg;
	}
	if (optind != argc)
		cli_misused(&command_reload, "it takes no arguments");
	return cli_admin_run(path, question, print_reload);
}

const struct command command_reload = {
	.name = "reload",
	.arguments = "[--dry-run] " CLI_ADMIN_ARGUMENTS,
	.summary = "apply a changed configuration, all of it or nothing",
	.help = "Reads the configuration and all files that it names again. Sessions stay, and no\n"
		"message is lost. SIGHUP does the same.\n\n"
		"  --dry-run, -n  only say what would change, or why it can't\n" CLI_ADMIN_HELP
		"\nExample:\n  viaduct reload --dry-run && viaduct reload\n",
	.run = reload_run,
};

/* ---- drain ---- */

static void print_drain(const json_t *answer)
{
	printf("%" JSON_INTEGER_FORMAT
	       " peers are told to go; the relay ends in %" JSON_INTEGER_FORMAT
	       " s at the latest\n",
	       cli_integer(answer, "peers"), cli_integer(answer, "seconds"));
}

static int drain_run(int argc, char **argv)
{
	static const struct option options[] = {{"seconds", required_argument, NULL, 'n'},
						CLI_ADMIN_OPTIONS};
	json_t *question = json_pack("{ss}", "cmd", "drain");
	const char *path = NULL;
	int option;

	while ((option = cli_option(&command_drain, argc, argv, "h", options)) != -1) {
		if (option == 'n')
			json_object_set_new(question, "seconds",
					    json_integer((json_int_t)cli_number(
						    &command_drain, "--seconds", optarg, 0, 3600)));
		else
			path = optarg;
	}
	if (optind != argc)
		cli_misused(&command_drain, "it takes no arguments");
	return cli_admin_run(path, question, print_drain);
}

const struct command command_drain = {
	.name = "drain",
	.arguments = "[--seconds N] " CLI_ADMIN_ARGUMENTS,
	.summary = "ask all peers to go, and end the relay when they have",
	.help = "  --seconds N    wait for them so long (drain.seconds of the "
		"configuration)\n" CLI_ADMIN_HELP "\nExample:\n  viaduct drain --seconds 30\n",
	.run = drain_run,
};
