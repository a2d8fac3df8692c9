/* viaduct ping. */
#include <stdio.h>
#include <string.h>

#include "cli_talk.h"

enum { LINGER_MS = 1000 }; // for the last answer

/* ping's state is what talk's callbacks find: one command, one process */
static struct {
	unsigned int count; // 0: until a signal
	unsigned int sent, received;
	double interval;
	size_t padding;
	uint64_t min, max, sum; // ns
} ping;

static void ping_next(struct talk *talk)
{
	bool last = ping.count && ping.sent == ping.count;
	int ret;

	if (last) {
		talk_end(talk, CLI_OK); // the last answer is overdue
		return;
	}
	ret = viaduct_ping(talk->peer, 0, talk->class, talk->to_relay ? NULL : &talk->to,
			   ping.sent + 1, ping.padding);
	if (ret) {
		talk_end(talk, cli_fail(CLI_FAILED, "%s", viaduct_strerror(ret)));
		return;
	}
	ping.sent++;
	last = ping.count && ping.sent == ping.count;
	talk->alarm_ms = talk_now() + (last ? LINGER_MS : (uint64_t)(ping.interval * 1000));
}

static void on_pong(struct viaduct_peer *peer, const struct viaduct_id *from, uint32_t tag,
		    uint64_t rtt)
{
	struct talk *talk = viaduct_peer_user(peer);

	if (!ping.received || rtt < ping.min)
		ping.min = rtt;
	if (rtt > ping.max)
		ping.max = rtt;
	ping.sum += rtt;
	ping.received++;
	if (cli_json) {
		cli_print(json_pack("{si so sf}", "seq", (int)tag, "from", talk_id(from), "rtt_us",
				    (double)rtt / 1000));
	} else {
		printf("pong %u from %s in %.3f ms\n", tag, talk->target, (double)rtt / 1e6);
		fflush(stdout);
	}
	if (ping.count && ping.received == ping.count)
		talk_end(talk, CLI_OK);
}

static void summarise(void)
{
	uint64_t mean = ping.received ? ping.sum / ping.received : 0; // ns

	if (cli_json) {
		cli_print(json_pack("{si si si s{sf sf sf}}", "sent", (int)ping.sent, "received",
				    (int)ping.received, "lost", (int)(ping.sent - ping.received),
				    "rtt_us", "min", (double)ping.min / 1e3, "mean",
				    (double)mean / 1e3, "max", (double)ping.max / 1e3));
		return;
	}
	printf("%u sent, %u received, %u lost", ping.sent, ping.received,
	       ping.sent - ping.received);
	if (ping.received)
		printf("; round trip min %.3f, mean %.3f, max %.3f ms", (double)ping.min / 1e6,
		       (double)mean / 1e6, (double)ping.max / 1e6);
	printf("\n");
}

static int ping_run(int argc, char **argv)
{
	static const struct option options[] = {{"count", required_argument, NULL, 'c'},
						{"interval", required_argument, NULL, 'i'},
						{"size", required_argument, NULL, 's'},
						TALK_OPTIONS,
						CLI_OPTIONS};
	struct talk talk = {
		.command = &command_ping,
		.ready = ping_next,
		.alarm = ping_next,
		.callbacks = {.pong = on_pong},
	};
	int option, code;

	ping.interval = 1;
	while ((option = talk_option(&talk, argc, argv, "c:i:s:h", options)) != -1) {
		if (option == 'c')
			ping.count = (unsigned int)cli_number(&command_ping, "-c", optarg, 1, 1e9);
		else if (option == 'i')
			ping.interval = cli_number(&command_ping, "-i", optarg, 0.001, 86400);
		else
			ping.padding = (size_t)cli_number(&command_ping, "-s", optarg, 0, 8800);
	}
	if (argc - optind != 1)
		cli_misused(&command_ping, "it takes one PEER, or relay");
	talk.target = argv[optind];
	code = talk_run(&talk);
	if (ping.sent)
		summarise();
	return code == CLI_OK && !ping.received ? CLI_FAILED : code;
}

const struct command command_ping = {
	.name = "ping",
	.arguments = "PEER|relay [-c N] [-i SECONDS] [-s BYTES] [OPTION…]",
	.summary = "ping a peer through the relay, or the relay itself",
	.help = TALK_HELP_PEER
	"  -c, --count N          stop after N pings; else at Ctrl-C\n"
	"  -i, --interval SECONDS time between them (1)\n"
	"  -s, --size BYTES       send so many more (0)\n" TALK_HELP TALK_HELP_CLASS
	"\nExits with 1 if no answer came at all.\n\n"
	"Example:\n"
	"  viaduct ping relay -c 3 --json\n",
	.run = ping_run,
};
