/* viaduct trust: what a relay knows against its peers, and an operator's word on it. */
#include "cli_admin.h"

static double real(const json_t *object, const char *key)
{
	return json_number_value(json_object_get(object, key));
}

/* Peers may have no name, and complaints no reason. */
static void print_or_dash(const json_t *object, const char *key)
{
	if (*cli_string(object, key))
		cli_print_string(object, key);
	else
		putchar('-');
}

static void print_state(const json_t *peer)
{
	printf("%.2f  ", real(peer, "score"));
	if (json_is_true(json_object_get(peer, "pinned")))
		printf("pinned");
	else if (cli_integer(peer, "cut_s"))
		printf("away for %" JSON_INTEGER_FORMAT " s", cli_integer(peer, "cut_s"));
	else
		printf("level %" JSON_INTEGER_FORMAT, cli_integer(peer, "level"));
	if (cli_integer(peer, "cuts"))
		printf(", cut %" JSON_INTEGER_FORMAT " times", cli_integer(peer, "cuts"));
}

static void print_peer(const json_t *answer)
{
	const json_t *complaint = json_object_get(answer, "complaint"), *cause;
	size_t i;

	print_or_dash(answer, "name");
	printf(" (%s)\nscore  ", cli_string(answer, "id"));
	print_state(answer);
	putchar('\n');
	if (json_array_size(json_object_get(answer, "causes")))
		printf("\nCAUSE       POINTS  SHARE     TIMES  LAST\n");
	json_array_foreach (json_object_get(answer, "causes"), i, cause)
		printf("%-10s%8.1f%6.0f %%%10" JSON_INTEGER_FORMAT "  %" JSON_INTEGER_FORMAT
		       " s ago\n",
		       cli_string(cause, "cause"), real(cause, "points"),
		       100 * real(cause, "share"), cli_integer(cause, "times"),
		       cli_integer(cause, "ago_s"));
	if (complaint) {
		printf("\nlast complaint, by %s: ", cli_string(complaint, "by"));
		print_or_dash(complaint, "reason");
		putchar('\n');
	}
}

static void print_peers(const json_t *answer)
{
	const json_t *peer, *count;
	const char *key;
	size_t i;

	json_array_foreach (json_object_get(answer, "peers"), i, peer) {
		printf("%s  ", cli_string(peer, "id"));
		print_state(peer);
		printf("  ");
		print_or_dash(peer, "name");
		putchar('\n');
	}
	if (!json_array_size(json_object_get(answer, "peers")))
		printf("nothing is known against anybody\n");
	json_object_foreach (json_object_get(answer, "counters"), key, count)
		if (json_integer_value(count))
			printf("%" JSON_INTEGER_FORMAT " %s  ", json_integer_value(count), key);
	putchar('\n');
}

static int trust_run(int argc, char **argv)
{
	static const struct option options[] = {CLI_ADMIN_OPTIONS};
	json_t *question = json_pack("{ss}", "cmd", "trust");
	const char *path = NULL;

	while (cli_option(&command_trust, argc, argv, "h", options) != -1)
		path = optarg;
	if (argc - optind > 2)
		cli_misused(&command_trust, "one peer, and what to do");
	if (optind < argc)
		json_object_set_new(question, "peer", json_string(argv[optind]));
	if (optind + 1 < argc)
		json_object_set_new(question, "do", json_string(argv[optind + 1]));
	return cli_admin_run(path, question, optind < argc ? print_peer : print_peers);
}

const struct command command_trust = {
	.name = "trust",
	.arguments = "[PEER [pin | unpin | pardon]] " CLI_ADMIN_ARGUMENTS,
	.summary = "how far the relay trusts its peers, and why",
	.help = "PEER is an id, or a name that is known here. Without it, lists all against whom\n"
		"there is something.\n\n"
		"  pin            always level 0, whatever the score\n"
		"  unpin          no longer\n"
		"  pardon         forget everything; who is away may come back\n" CLI_ADMIN_HELP
		"\n"
		"The score is 100 / (100 + points). Below 0.75, 0.5 and 0.35 a peer is slowed "
		"down\n"
		"more and more (levels 1, 2, 3), below 0.2 it is cut: its session ends, and it "
		"may\n"
		"not join for trust.cut_seconds, each time twice as long. Half of the points are\n"
		"forgotten every trust.score_half_life seconds. They come from:\n\n"
		"             each  usual/s  most/s  at most\n"
		"  auth        0.1        1       1       40  records from its address that don't "
		"open\n"
		"  replay      0.1       10       1       20  records from there that came before\n"
		"  malformed   5          0      10      600  authentic records, not well-formed\n"
		"  limit       0.01       1       2      600  over its limits\n"
		"  refused     0.1       10       1      150  messages to nobody, or against "
		"policy\n"
		"  control     2        0.1      10      600  control requests, not well-formed\n"
		"  complaint   2          0      10       30  complaints, by the complainer's "
		"score\n"
		"\n"
		"What others can make up (auth, replay, complaint) never leads below level 1, and\n"
		"complaints alone lead nowhere. docs/trust.md has the reasons.\n"
		"\nExample:\n  viaduct trust spiffe://lab/team/chatty pardon\n",
	.run = trust_run,
};
