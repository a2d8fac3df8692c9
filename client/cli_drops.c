/* viaduct drops: the ledgers, and whether they balance. */
#include "cli_admin.h"

static json_int_t sum(json_t *counts)
{
	json_int_t total = 0;
	json_t *count;
	const char *key;

	json_object_foreach (counts, key, count)
		total += json_integer_value(count);
	return total;
}

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
		total += cli_integer(counts, *side);
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
		line("+", *in, cli_integer(counts, *in));
	line("=", "came in", side_sum(counts, ledger->in));
	for (const char *const *out = ledger->out; *out; out++)
		line("+", *out, cli_integer(counts, *out));
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

	printf("unread, from blocked sources\n");
	line(" ", "dropped", cli_integer(garbage, "dropped"));
	line(" ", "blocked", cli_integer(garbage, "blocked"));
	json_array_foreach (json_object_get(garbage, "sources"), i, source)
		printf("    %s: %" JSON_INTEGER_FORMAT " dropped, for %" JSON_INTEGER_FORMAT
		       " s more\n",
		       cli_string(source, "source"), cli_integer(source, "dropped"),
		       cli_integer(source, "for_s"));
}

/* What of each class became of it. */
static void classes_print(json_t *answer)
{
	static const char *const titles[] = {"CLASS",     "RECORDS OPENED", "DROPPED", "MESSAGES",
					     "DELIVERED", "DROPPED",        NULL};
	struct cli_table table;
	const char *name;
	json_t *class;

	cli_table_begin(&table, titles);
	json_object_foreach (json_object_get(answer, "classes"), name, class) {
		json_t *records = json_object_get(class, "records");
		json_t *messages = json_object_get(class, "messages");

		cli_table_text(&table, name);
		cli_table_number(&table, cli_integer(records, "opened"));
		cli_table_number(&table, sum(json_object_get(records, "dropped")));
		cli_table_number(&table, side_sum(messages, ledgers[1].in));
		cli_table_number(&table, cli_integer(messages, "delivered"));
		cli_table_number(&table, sum(json_object_get(messages, "dropped")));
	}
	cli_table_print(&table);
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
	line(" ", "foreign", cli_integer(answer, "foreign"));
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

static int drops_run(int argc, char **argv)
{
	static const struct option options[] = {{"check", no_argument, NULL, 'k'},
						CLI_ADMIN_OPTIONS};
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

const struct command command_drops = {
	.name = "drops",
	.arguments = "[--check] " CLI_ADMIN_ARGUMENTS,
	.summary = "what became of every record and message: the two ledgers",
	.help = "All records that were received must have been opened or dropped for a named\n"
		"reason; all messages opened, made by the relay or copied must have been\n"
		"delivered, consumed by the relay or dropped for a named reason. So it is for "
		"all,\n"
		"for each class, each worker, and each class of a worker. Exits with 4 if a\n"
		"ledger doesn't balance.\n\n"
		"  --check        only say of each ledger whether it balances\n" CLI_ADMIN_HELP
		"\nExample:\n  viaduct drops >/dev/null || echo 'something got lost unseen'\n",
	.run = drops_run,
};
