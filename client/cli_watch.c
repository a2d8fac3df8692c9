/* viaduct watch. */
#include <stdio.h>
#include <string.h>

#include "cli_talk.h"

/* watch's state is what talk's callbacks find: one command, one process */
static struct {
	const char *cluster; // NULL: any
	unsigned int count;  // 0: until a signal
	unsigned int heard;
} watching;

static void on_changed(struct viaduct_peer *peer, const struct viaduct_change *change)
{
	struct talk *talk = viaduct_peer_user(peer);
	char id[VIADUCT_ID_TEXT + 1];

	if (talk->over)
		return;
	viaduct_id_format(id, &change->id);
	if (change->missed)
		fprintf(stderr, "viaduct: %llu events were missed\n",
			(unsigned long long)change->missed);
	if (cli_json) {
		cli_print(json_pack("{ss so ss sI}", "change", change->what, "id",
				    talk_id(&change->id), "name", change->name, "missed",
				    (json_int_t)change->missed));
	} else {
		printf("%-8s  %s  ", change->what, id);
		talk_print_payload(change->name, strlen(change->name));
	}
	if (++watching.heard == watching.count)
		talk_end(talk, CLI_OK);
}

static void on_warning(struct viaduct_peer *peer, int error, const char *text)
{
	struct talk *talk = viaduct_peer_user(peer);

	talk_end(talk, cli_fail(CLI_FAILED, "%s: %s", text, viaduct_strerror(error)));
}

static void watch_ready(struct talk *talk)
{
	int ret = viaduct_watch(talk->peer, watching.cluster, talk->target ? &talk->to : NULL);
	char id[VIADUCT_ID_TEXT + 1];

	if (ret)
		talk_end(talk, cli_fail(CLI_FAILED, "%s", viaduct_strerror(ret)));
	viaduct_id_format(id, viaduct_peer_id(talk->peer));
	fprintf(stderr, "watching as %s (%s)\n", viaduct_peer_name(talk->peer), id);
}

static int watch_run(int argc, char **argv)
{
	static const struct option options[] = {{"count", required_argument, NULL, 'c'},
						{"cluster", required_argument, NULL, 'l'},
						TALK_OPTIONS,
						CLI_OPTIONS};
	struct talk talk = {
		.command = &command_watch,
		.ready = watch_ready,
		.stay = true,
		.callbacks = {.changed = on_changed, .warning = on_warning},
	};
	int option;

	while ((option = talk_option(&talk, argc, argv, "c:h", options)) != -1) {
		if (option == 'c')
			watching.count =
				(unsigned int)cli_number(&command_watch, "--count", optarg, 1, 1e9);
		else
			watching.cluster = optarg;
	}
	if (argc - optind > 1)
		cli_misused(&command_watch, "it takes one PEER, or none");
	if (optind < argc)
		talk.target = argv[optind];
	return talk_run(&talk);
}

const struct command command_watch = {
	.name = "watch",
	.arguments = "[PEER | --cluster CLUSTER] [--count N] [OPTION…]",
	.summary = "say what happens to other peers, as it happens",
	.help = TALK_HELP_PEER
	"      --cluster CLUSTER  only those of this cluster\n"
	"  -c, --count N          stop after N events; else at Ctrl-C\n" TALK_HELP
	"\nPeers join, leave, expire (fall silent), move to another address, and are revoked. The\n"
	"relay tells only of those that you may send to.\n\n"
	"Example:\n"
	"  viaduct watch --cluster build --json | jq -r 'select(.change == \"joined\").name'\n",
	.run = watch_run,
};
