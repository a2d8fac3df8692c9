/* viaduct status, peers, routes, topics, drops: questions to viaductd's admin socket. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "cli.h"

#define SOCKET_DEFAULT CLI_ADMIN_SOCKET

enum { COLUMNS_MAX = 8 };

/* ---- The question ---- */

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
		path = SOCKET_DEFAULT;
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

/* ---- Values ---- */

static json_int_t number(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static const char *string(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "-";
}

static json_int_t sum(json_t *counts)
{
	json_int_t total = 0;
	json_t *count;
	const char *key;

	json_object_foreach (counts, key, count)
		total += json_integer_value(count);
	return total;
}

static char *duration(json_int_t seconds)
{
	char *text = NULL;
	int ret;

	if (seconds < 60)
		ret = asprintf(&text, "%" JSON_INTEGER_FORMAT " s", seconds);
	else if (seconds < 3600)
		ret = asprintf(&text, "%" JSON_INTEGER_FORMAT " min", seconds / 60);
	else if (seconds < 48 * 3600)
		ret = asprintf(&text, "%" JSON_INTEGER_FORMAT " h", seconds / 3600);
	else
		ret = asprintf(&text, "%" JSON_INTEGER_FORMAT " d", seconds / 86400);
	return ret < 0 ? NULL : text;
}

/* ---- Tables ---- */

struct table {
	unsigned int columns, rows, room;
	char **cells; // row by row, owned
	size_t width[COLUMNS_MAX];
};

/* Takes the cell; NULL prints as nothing. */
static void table_add(struct table *table, char *cell)
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

static void table_add_text(struct table *table, const char *text)
{
	table_add(table, strdup(text));
}

__attribute__((format(printf, 2, 3))) static void table_addf(struct table *table,
							     const char *format, ...)
{
	va_list arguments;
	char *cell;

	va_start(arguments, format);
	if (vasprintf(&cell, format, arguments) < 0)
		cell = NULL;
	va_end(arguments);
	table_add(table, cell);
}

/* Prints and empties. */
static void table_print(struct table *table)
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

/* ---- The reports ---- */

static void status_print(json_t *status)
{
	json_t *sessions = json_object_get(status, "sessions");
	json_t *handshakes = json_object_get(status, "handshakes"), *worker, *count;
	struct table table = {.columns = 5};
	char *uptime = duration(number(status, "uptime_s"));
	const char *key;
	size_t i;

	printf("relay        ");
	cli_print_text(string(status, "name"), strlen(string(status, "name")));
	printf(" (%s)\n", string(status, "id"));
	printf("viaductd     %s, process %" JSON_INTEGER_FORMAT ", up %s\n",
	       string(status, "version"), number(status, "pid"), uptime ? uptime : "-");
	printf("data         %s on %s, port %" JSON_INTEGER_FORMAT "\n", string(status, "driver"),
	       string(status, "interface"), number(status, "data_port"));
	printf("memory       %" JSON_INTEGER_FORMAT " MB, %s huge pages\n",
	       number(status, "memory_mb"),
	       json_is_true(json_object_get(status, "huge_pages")) ? "with" : "without");
	printf("sessions     %" JSON_INTEGER_FORMAT " joined, %" JSON_INTEGER_FORMAT
	       " joining, at most %" JSON_INTEGER_FORMAT "\n",
	       number(sessions, "joined"), number(sessions, "joining"), number(sessions, "max"));
	printf("routes       %" JSON_INTEGER_FORMAT "\n", number(status, "routes"));
	printf("handshakes   ");
	json_object_foreach (handshakes, key, count)
		if (json_integer_value(count))
			printf("%" JSON_INTEGER_FORMAT " %s  ", json_integer_value(count), key);
	printf("\n\n");
	table_add_text(&table, "CORE");
	table_add_text(&table, "QUEUE");
	table_add_text(&table, "RECORDS");
	table_add_text(&table, "MESSAGES");
	table_add_text(&table, "WORKER");
	json_array_foreach (json_object_get(status, "workers"), i, worker) {
		table_addf(&table, "%" JSON_INTEGER_FORMAT, number(worker, "core"));
		table_addf(&table, "%" JSON_INTEGER_FORMAT, number(worker, "queue"));
		table_addf(&table, "%" JSON_INTEGER_FORMAT, number(worker, "records"));
		table_addf(&table, "%" JSON_INTEGER_FORMAT, number(worker, "messages"));
		table_add_text(&table, json_is_true(json_object_get(worker, "sleeping")) ? "sleeps"
											 : "polls");
	}
	table_print(&table);
	free(uptime);
}

static void peers_print(json_t *answer)
{
	static const char *const titles[] = {"NAME",  "ID",     "STATE", "ADDRESS",
					     "EPOCH", "CIPHER", "LANES", "IDLE"};
	struct table table = {.columns = COLUMNS_MAX};
	json_t *peer, *lanes;
	size_t i;

	for (i = 0; i < COLUMNS_MAX; i++)
		table_add_text(&table, titles[i]);
	json_array_foreach (json_object_get(answer, "peers"), i, peer) {
		lanes = json_object_get(peer, "lanes");
		table_add_text(&table, string(peer, "name"));
		table_add_text(&table, string(peer, "id"));
		table_add_text(&table, string(peer, "state"));
		table_add_text(&table, string(peer, "address"));
		table_addf(&table, "%" JSON_INTEGER_FORMAT, number(peer, "epoch"));
		table_add_text(&table, string(peer, "cipher"));
		table_addf(&table, "%" JSON_INTEGER_FORMAT "/%" JSON_INTEGER_FORMAT,
			   number(lanes, "up"), number(lanes, "down"));
		table_addf(&table, "%.1f s", (double)number(peer, "idle_ms") / 1000);
	}
	table_print(&table);
}

static void routes_print(json_t *answer)
{
	struct table table = {.columns = 2};
	json_t *route;
	size_t i;

	table_add_text(&table, "ID");
	table_add_text(&table, "NEXT HOP");
	json_array_foreach (json_object_get(answer, "routes"), i, route) {
		table_add_text(&table, string(route, "id"));
		table_add_text(&table, string(route, "next_hop"));
	}
	table_print(&table);
}

static void topics_print(json_t *answer)
{
	struct table table = {.columns = 5};
	json_t *topic;
	size_t i;

	table_add_text(&table, "TOPIC");
	table_add_text(&table, "MEMBERS");
	table_add_text(&table, "PUBLISHED");
	table_add_text(&table, "COPIES");
	table_add_text(&table, "REFUSED");
	json_array_foreach (json_object_get(answer, "topics"), i, topic) {
		table_add_text(&table, string(topic, "name"));
		table_addf(&table, "%" JSON_INTEGER_FORMAT, number(topic, "members"));
		table_addf(&table, "%" JSON_INTEGER_FORMAT, number(topic, "published"));
		table_addf(&table, "%" JSON_INTEGER_FORMAT, number(topic, "copies"));
		table_addf(&table, "%" JSON_INTEGER_FORMAT, number(topic, "refused"));
	}
	table_print(&table);
}

/* ---- Ledgers ---- */

/* One ledger: what came in on one side, what became of it on the other, both with their sums. */
struct ledger {
	const char *name;
	const char *in[4], *out[4]; // counts, NULL at the end; `dropped` belongs to the out side
};

static const struct ledger ledgers[] = {
	{"records", {"received"}, {"opened"}},
	{"messages", {"opened", "made", "copies"}, {"delivered", "consumed"}},
};

enum { LEDGERS = sizeof(ledgers) / sizeof(ledgers[0]) };

static json_int_t side_sum(const json_t *counts, const char *const *side)
{
	json_int_t total = 0;

	for (; *side; side++)
		total += number(counts, *side);
	return total;
}

static bool ledger_balances(const struct ledger *ledger, json_t *counts)
{
	return side_sum(counts, ledger->in) ==
	       side_sum(counts, ledger->out) + sum(json_object_get(counts, "dropped"));
}

static void line(const char *sign, const char *name, json_int_t count)
{
	printf("  %s %-24s%20" JSON_INTEGER_FORMAT "\n", sign, name, count);
}

static void ledger_print(const struct ledger *ledger, json_t *counts)
{
	json_t *dropped = json_object_get(counts, "dropped"), *count;
	const char *reason;

	printf("%s\n", ledger->name);
	for (const char *const *in = ledger->in; *in; in++)
		line("+", *in, number(counts, *in));
	line("=", "came in", side_sum(counts, ledger->in));
	for (const char *const *out = ledger->out; *out; out++)
		line("+", *out, number(counts, *out));
	json_object_foreach (dropped, reason, count)
		if (json_integer_value(count))
			line("+", reason, json_integer_value(count));
	line("=", "accounted for", side_sum(counts, ledger->out) + sum(dropped));
	printf("  %s\n\n", ledger_balances(ledger, counts) ? "balances" : "DOES NOT BALANCE");
}

static void garbage_print(const json_t *garbage)
{
	json_t *source;
	size_t i;

	if (!json_is_true(json_object_get(garbage, "supported"))) {
		printf("before us, from sources of garbage: this driver drops none\n");
		return;
	}
	printf("before us, from sources of garbage\n");
	line(" ", "dropped", number(garbage, "dropped"));
	line(" ", "blocked", number(garbage, "blocked"));
	json_array_foreach (json_object_get(garbage, "sources"), i, source)
		printf("    %s: %" JSON_INTEGER_FORMAT " dropped, for %" JSON_INTEGER_FORMAT
		       " s more\n",
		       string(source, "source"), number(source, "dropped"),
		       number(source, "for_s"));
}

/* What of each class became of it. */
static void classes_print(json_t *answer)
{
	static const char *const titles[] = {"CLASS",    "RECORDS OPENED", "DROPPED",
					     "MESSAGES", "DELIVERED",      "DROPPED"};
	struct table table = {.columns = sizeof(titles) / sizeof(titles[0])};
	const char *name;
	json_t *class;

	for (unsigned int i = 0; i < table.columns; i++)
		table_add_text(&table, titles[i]);
	json_object_foreach (json_object_get(answer, "classes"), name, class) {
		json_t *records = json_object_get(class, "records");
		json_t *messages = json_object_get(class, "messages");

		table_add_text(&table, name);
		table_addf(&table, "%" JSON_INTEGER_FORMAT, number(records, "opened"));
		table_addf(&table, "%" JSON_INTEGER_FORMAT,
			   sum(json_object_get(records, "dropped")));
		table_addf(&table, "%" JSON_INTEGER_FORMAT, side_sum(messages, ledgers[1].in));
		table_addf(&table, "%" JSON_INTEGER_FORMAT, number(messages, "delivered"));
		table_addf(&table, "%" JSON_INTEGER_FORMAT,
			   sum(json_object_get(messages, "dropped")));
	}
	table_print(&table);
	putchar('\n');
}

static void drops_print(json_t *answer)
{
	json_t *count;
	const char *key;

	for (int i = 0; i < LEDGERS; i++)
		ledger_print(&ledgers[i], json_object_get(answer, ledgers[i].name));
	classes_print(answer);
	printf("before us, in the kernel\n");
	json_object_foreach (json_object_get(answer, "kernel"), key, count)
		line(" ", key, json_integer_value(count));
	garbage_print(json_object_get(answer, "garbage"));
	printf("not for the data port\n");
	line(" ", "foreign", number(answer, "foreign"));
}

/* Whether all ledgers of the sum or of a worker balance; says of which that isn't so. */
static bool all_balance(json_t *whole, const char *of, bool say)
{
	json_t *classes = json_object_get(whole, "classes"), *class;
	const char *name;
	bool good = true;

	for (int i = 0; i < LEDGERS; i++) {
		bool balances =
			ledger_balances(&ledgers[i], json_object_get(whole, ledgers[i].name));

		if (say)
			printf("%-10s %-9s %-9s %s\n", of, "", ledgers[i].name,
			       balances ? "balances" : "DOES NOT BALANCE");
		good = good && balances;
		json_object_foreach (classes, name, class) {
			balances = ledger_balances(&ledgers[i],
						   json_object_get(class, ledgers[i].name));
			if (say)
				printf("%-10s %-9s %-9s %s\n", of, name, ledgers[i].name,
				       balances ? "balances" : "DOES NOT BALANCE");
			good = good && balances;
		}
	}
	return good;
}

/* The verdict on the sum, each worker, and each class of them. */
static bool drops_check(json_t *answer, bool say)
{
	bool good = all_balance(answer, "all", say);
	json_t *worker;
	size_t i;

	json_array_foreach (json_object_get(answer, "workers"), i, worker) {
		char name[32];

		snprintf(name, sizeof(name), "worker %zu", i);
		good = all_balance(worker, name, say) && good;
	}
	return good;
}

/* Adds the verdict to the answer; returns whether it is good. */
static bool drops_judge(json_t *answer)
{
	json_t *balanced = json_object();
	bool good = true;

	for (int i = 0; i < LEDGERS; i++) {
		bool balances =
			ledger_balances(&ledgers[i], json_object_get(answer, ledgers[i].name));

		good = good && balances;
		json_object_set_new(balanced, ledgers[i].name, json_boolean(balances));
	}
	json_object_set_new(answer, "balanced", balanced);
	return drops_check(answer, false) && good;
}

/* ---- The commands ---- */

/* Asks what the command is called; NULL if that came to nothing. */
static json_t *admin_answer(const struct command *command, int argc, char **argv, int *code)
{
	static const struct option options[] = {{"socket", required_argument, NULL, 's'},
						CLI_OPTIONS};
	const char *path = NULL;

	while (cli_option(command, argc, argv, "h", options) != -1)
		path = optarg;
	if (optind != argc)
		cli_misused(command, "it takes no arguments");
	return cli_admin_ask(path, json_pack("{ss}", "cmd", command->name), code);
}

static int admin_run(const struct command *command, int argc, char **argv, void (*print)(json_t *))
{
	int code = CLI_OK;
	json_t *answer = admin_answer(command, argc, argv, &code);

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

static int status_run(int argc, char **argv)
{
	return admin_run(&command_status, argc, argv, status_print);
}

static int peers_run(int argc, char **argv)
{
	return admin_run(&command_peers, argc, argv, peers_print);
}

static int routes_run(int argc, char **argv)
{
	return admin_run(&command_routes, argc, argv, routes_print);
}

static int topics_run(int argc, char **argv)
{
	return admin_run(&command_topics, argc, argv, topics_print);
}

static int drops_run(int argc, char **argv)
{
	static const struct option options[] = {{"socket", required_argument, NULL, 's'},
						{"check", no_argument, NULL, 'k'},
						CLI_OPTIONS};
	const char *path = NULL;
	bool check = false, good;
	int code = CLI_OK, option;
	json_t *answer;

	while ((option = cli_option(&command_drops, argc, argv, "h", options)) != -1) {
		if (option == 'k')
			check = true;
		else
			path = optarg;
	}
	if (optind != argc)
		cli_misused(&command_drops, "it takes no arguments");
	answer = cli_admin_ask(path, json_pack("{ss}", "cmd", "drops"), &code);
	if (!answer)
		return code;
	good = drops_judge(answer);
	if (cli_json) {
		cli_print(answer);
		return good ? CLI_OK : CLI_UNBALANCED;
	}
	if (check)
		drops_check(answer, true);
	else
		drops_print(answer);
	json_decref(answer);
	return good ? CLI_OK : CLI_UNBALANCED;
}

#define ADMIN_ARGUMENTS "[--socket PATH] [--json]"
#define ADMIN_OPTIONS   CLI_ADMIN_OPTIONS

const struct command command_status = {
	.name = "status",
	.arguments = ADMIN_ARGUMENTS,
	.summary = "how the relay is",
	.help = ADMIN_OPTIONS "\nExample:\n  viaduct status --json | jq .sessions.joined\n",
	.run = status_run,
};

const struct command command_peers = {
	.name = "peers",
	.arguments = ADMIN_ARGUMENTS,
	.summary = "who has joined the relay",
	.help = ADMIN_OPTIONS "\nExample:\n  viaduct peers --json | jq -r '.peers[].name'\n",
	.run = peers_run,
};

const struct command command_routes = {
	.name = "routes",
	.arguments = ADMIN_ARGUMENTS,
	.summary = "where messages to each peer go",
	.help = ADMIN_OPTIONS,
	.run = routes_run,
};

const struct command command_topics = {
	.name = "topics",
	.arguments = ADMIN_ARGUMENTS,
	.summary = "topics, how many have joined them, and what was published",
	.help = ADMIN_OPTIONS
	"\nCOPIES counts what was made for members, REFUSED what the relay did not take: because\n"
	"of a rate, or because too much was waiting.\n",
	.run = topics_run,
};

const struct command command_drops = {
	.name = "drops",
	.arguments = "[--check] " ADMIN_ARGUMENTS,
	.summary = "what became of every record and message: the two ledgers",
	.help = "All records that were received must have been opened or dropped for a named\n"
		"reason; all messages opened, made by the relay or copied must have been\n"
		"delivered, consumed by the relay or dropped for a named reason. So it is for "
		"all,\n"
		"for each class, each worker, and each class of a worker. Exits with 4 if a\n"
		"ledger doesn't balance.\n\n"
		"  --check        only say of each ledger whether it balances\n" ADMIN_OPTIONS
		"\nExample:\n  viaduct drops >/dev/null || echo 'something got lost unseen'\n",
	.run = drops_run,
};
