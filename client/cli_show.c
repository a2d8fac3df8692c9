/* viaduct status, peers, routes, topics: how a relay is. */
#include <stdlib.h>

#include "cli_admin.h"

/* The caller's to free; NULL if there is no memory. */
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

static void status_print(const json_t *status)
{
	static const char *const titles[] = {"CORE",     "QUEUE",  "RECORDS",
					     "MESSAGES", "WORKER", NULL};
	json_t *sessions = json_object_get(status, "sessions");
	json_t *handshakes = json_object_get(status, "handshakes"), *worker, *count;
	struct cli_table table;
	char *uptime = duration(cli_integer(status, "uptime_s"));
	const char *key;
	size_t i;

	printf("relay        ");
	cli_print_string(status, "name");
	printf(" (%s)\n", cli_string(status, "id"));
	printf("viaductd     %s, process %" JSON_INTEGER_FORMAT ", up %s\n",
	       cli_string(status, "version"), cli_integer(status, "pid"), uptime ? uptime : "-");
	printf("data         %s on %s, port %" JSON_INTEGER_FORMAT "\n",
	       cli_string(status, "driver"), cli_string(status, "interface"),
	       cli_integer(status, "data_port"));
	printf("memory       %" JSON_INTEGER_FORMAT " MB, %s huge pages\n",
	       cli_integer(status, "memory_mb"),
	       json_is_true(json_object_get(status, "huge_pages")) ? "with" : "without");
	printf("sessions     %" JSON_INTEGER_FORMAT " joined, %" JSON_INTEGER_FORMAT
	       " joining, at most %" JSON_INTEGER_FORMAT "\n",
	       cli_integer(sessions, "joined"), cli_integer(sessions, "joining"),
	       cli_integer(sessions, "max"));
	printf("routes       %" JSON_INTEGER_FORMAT "\n", cli_integer(status, "routes"));
	printf("handshakes   ");
	json_object_foreach (handshakes, key, count)
		if (json_integer_value(count))
			printf("%" JSON_INTEGER_FORMAT " %s  ", json_integer_value(count), key);
	printf("\n\n");
	cli_table_begin(&table, titles);
	json_array_foreach (json_object_get(status, "workers"), i, worker) {
		cli_table_number(&table, cli_integer(worker, "core"));
		cli_table_number(&table, cli_integer(worker, "queue"));
		cli_table_number(&table, cli_integer(worker, "records"));
		cli_table_number(&table, cli_integer(worker, "messages"));
		cli_table_text(&table, json_is_true(json_object_get(worker, "sleeping")) ? "sleeps"
											 : "polls");
	}
	cli_table_print(&table);
	free(uptime);
}

static void peers_print(const json_t *answer)
{
	static const char *const titles[] = {"NAME",   "ID",    "STATE", "ADDRESS", "EPOCH",
					     "CIPHER", "LANES", "IDLE",  NULL};
	struct cli_table table;
	json_t *peer, *lanes;
	size_t i;

	cli_table_begin(&table, titles);
	json_array_foreach (json_object_get(answer, "peers"), i, peer) {
		lanes = json_object_get(peer, "lanes");
		cli_table_text(&table, cli_string(peer, "name"));
		cli_table_text(&table, cli_string(peer, "id"));
		cli_table_text(&table, cli_string(peer, "state"));
		cli_table_text(&table, cli_string(peer, "address"));
		cli_table_number(&table, cli_integer(peer, "epoch"));
		cli_table_text(&table, cli_string(peer, "cipher"));
		cli_table_format(&table, "%" JSON_INTEGER_FORMAT "/%" JSON_INTEGER_FORMAT,
				 cli_integer(lanes, "up"), cli_integer(lanes, "down"));
		cli_table_format(&table, "%.1f s", (double)cli_integer(peer, "idle_ms") / 1000);
	}
	cli_table_print(&table);
}

static void routes_print(const json_t *answer)
{
	static const char *const titles[] = {"ID", "NEXT HOP", NULL};
	struct cli_table table;
	json_t *route;
	size_t i;

	cli_table_begin(&table, titles);
	json_array_foreach (json_object_get(answer, "routes"), i, route) {
		cli_table_text(&table, cli_string(route, "id"));
		cli_table_text(&table, cli_string(route, "next_hop"));
	}
	cli_table_print(&table);
}

static void topics_print(const json_t *answer)
{
	static const char *const titles[] = {"TOPIC",  "MEMBERS", "PUBLISHED",
					     "COPIES", "REFUSED", NULL};
	struct cli_table table;
	json_t *topic;
	size_t i;

	cli_table_begin(&table, titles);
	json_array_foreach (json_object_get(answer, "topics"), i, topic) {
		cli_table_text(&table, cli_string(topic, "name"));
		cli_table_number(&table, cli_integer(topic, "members"));
		cli_table_number(&table, cli_integer(topic, "published"));
		cli_table_number(&table, cli_integer(topic, "copies"));
		cli_table_number(&table, cli_integer(topic, "refused"));
	}
	cli_table_print(&table);
}

static int status_run(int argc, char **argv)
{
	return cli_admin_command(&command_status, argc, argv, status_print);
}

static int peers_run(int argc, char **argv)
{
	return cli_admin_command(&command_peers, argc, argv, peers_print);
}

static int routes_run(int argc, char **argv)
{
	return cli_admin_command(&command_routes, argc, argv, routes_print);
}

static int topics_run(int argc, char **argv)
{
	return cli_admin_command(&command_topics, argc, argv, topics_print);
}

const struct command command_status = {
	.name = "status",
	.arguments = CLI_ADMIN_ARGUMENTS,
	.summary = "how the relay is",
	.help = CLI_ADMIN_HELP "\nExample:\n  viaduct status --json | jq .sessions.joined\n",
	.run = status_run,
};

const struct command command_peers = {
	.name = "peers",
	.arguments = CLI_ADMIN_ARGUMENTS,
	.summary = "who has joined the relay",
	.help = CLI_ADMIN_HELP "\nExample:\n  viaduct peers --json | jq -r '.peers[].name'\n",
	.run = peers_run,
};

const struct command command_routes = {
	.name = "routes",
	.arguments = CLI_ADMIN_ARGUMENTS,
	.summary = "where messages to each peer go",
	.help = CLI_ADMIN_HELP,
	.run = routes_run,
};

const struct command command_topics = {
	.name = "topics",
	.arguments = CLI_ADMIN_ARGUMENTS,
	.summary = "topics, how many have joined them, and what was published",
	.help = CLI_ADMIN_HELP
	"\nCOPIES counts what was made for members, REFUSED what the relay did not take: because\n"
	"of a rate, or because too much was waiting.\n",
	.run = topics_run,
};
