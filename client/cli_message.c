/* viaduct send, publish, request, listen. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli_talk.h"

enum {
	LINE_MAX = 16384,
	TOPICS_MAX = 64,
	REPEAT_MS = 250, // of the pings that end a send
	REPEATS = 12,
};

/* ---- send, publish ---- */

static struct {
	bool publish;
	uint32_t sent, refused;
	const char *text; // NULL: lines of stdin
	char line[LINE_MAX];
	size_t length;
	bool ended; // there is no more to send
	unsigned int rounds, repeats;
} sending;

/* Asks the relay whether it has seen what was sent before. */
static void send_check(struct talk *talk)
{
	if (sending.repeats++ == REPEATS) {
		talk_end(talk, cli_fail(CLI_FAILED, "sent, but the relay has fallen silent"));
		return;
	}
	viaduct_ping(talk->peer, 0, talk->class, NULL, 0, 0);
	talk->alarm_ms = talk_now() + REPEAT_MS;
}

/* Sends a message; false if the kernel must take the others first. */
static bool send_one(struct talk *talk, const char *text, size_t length)
{
	int ret = (sending.publish ? viaduct_publish : viaduct_send)(
		talk->peer, 0, talk->class, &talk->to, sending.sent + 1, text, length);

	if (ret == -EAGAIN)
		return false;
	if (ret)
		talk_end(talk, cli_fail(CLI_FAILED, "%s", viaduct_strerror(ret)));
	else
		sending.sent++;
	return true;
}

static void send_end(struct talk *talk)
{
	sending.ended = true;
	talk->extra_count = 0;
	send_check(talk);
}

/* Sends the whole lines that have been read; at the end of stdin, also what is no whole line. */
static bool send_lines(struct talk *talk, bool end)
{
	size_t done = 0;
	bool room = true;

	while (room && !talk->over && done < sending.length) {
		char *at = sending.line + done;
		char *feed = memchr(at, '\n', sending.length - done);
		size_t length = feed ? (size_t)(feed - at) : sending.length - done;

		if (!feed && !end && sending.length < LINE_MAX)
			break;
		room = send_one(talk, at, length);
		if (room)
			done += length + (feed != NULL);
	}
	memmove(sending.line, sending.line + done, sending.length - done);
	sending.length -= done;
	return room;
}

static void send_readable(struct talk *talk, struct pollfd *fd)
{
	ssize_t n = read(fd->fd, sending.line + sending.length, LINE_MAX - sending.length);

	if (n < 0 && errno == EINTR)
		return;
	if (n > 0)
		sending.length += (size_t)n;
	if (!send_lines(talk, n <= 0))
		talk->extra_count = 0; // until on_writable
	else if (n <= 0)
		send_end(talk);
}

static void stdin_watch(struct talk *talk)
{
	talk->extras[0] = (struct pollfd){.fd = STDIN_FILENO, .events = POLLIN};
	talk->extra_count = 1;
}

static void on_writable(struct viaduct_peer *peer)
{
	struct talk *talk = viaduct_peer_user(peer);

	if (!sending.ended && send_lines(talk, false))
		stdin_watch(talk);
}

static void send_ready(struct talk *talk)
{
	if (!sending.text) {
		stdin_watch(talk);
	} else {
		send_one(talk, sending.text, strlen(sending.text));
		send_end(talk);
	}
}

static void on_error(struct viaduct_peer *peer, uint32_t tag, enum viaduct_reason reason)
{
	sending.refused++;
	if (cli_json)
		cli_print(json_pack("{si ss}", "refused", (int)tag, "reason",
				    viaduct_reason_name(reason)));
	else
		fprintf(stderr, "viaduct: message %u was refused: %s\n", tag,
			viaduct_reason_name(reason));
}

/* Two round trips: an error may be a burst behind the first pong, but not two. */
static void on_pong(struct viaduct_peer *peer, const struct viaduct_id *from, uint32_t tag,
		    uint64_t rtt)
{
	struct talk *talk = viaduct_peer_user(peer);

	if (++sending.rounds < 2)
		send_check(talk);
	else
		talk_end(talk, sending.refused ? CLI_FAILED : CLI_OK);
}

static int run(const struct command *command, const char *target, int argc, char **argv)
{
	static const struct option options[] = {TALK_OPTIONS, CLI_OPTIONS};
	struct talk talk = {
		.command = command,
		.ready = send_ready,
		.alarm = send_check,
		.extra = send_readable,
		.callbacks = {.error = on_error, .pong = on_pong, .writable = on_writable},
	};
	int code;

	talk_option(&talk, argc, argv, "h", options);
	if (argc - optind < 1 || argc - optind > 2)
		cli_misused(command, "it takes a %s and perhaps a TEXT", target);
	if (sending.publish)
		viaduct_topic_id(&talk.to, argv[optind]);
	else
		talk.target = argv[optind];
	if (argc - optind == 2 && strcmp(argv[optind + 1], "-"))
		sending.text = argv[optind + 1];
	code = talk_run(&talk);
	if (cli_json)
		cli_print(json_pack("{sI sI}", "sent", (json_int_t)sending.sent, "refused",
				    (json_int_t)sending.refused));
	return code;
}

static int send_run(int argc, char **argv)
{
	return run(&command_send, "PEER", argc, argv);
}

static int publish_run(int argc, char **argv)
{
	sending.publish = true;
	return run(&command_publish, "TOPIC", argc, argv);
}

const struct command command_send = {
	.name = "send",
	.arguments = "PEER [TEXT | -] [OPTION…]",
	.summary = "send a peer a message, or each line of stdin",
	.help = TALK_HELP_PEER TALK_HELP TALK_HELP_CLASS
	"\nExits with 1 if the relay could not forward a message. That it could does not mean\n"
	"that the peer has acted on it: for that there is request.\n\n"
	"Examples:\n"
	"  viaduct send peer-2 'hello there'\n"
	"  journalctl -f | viaduct send spiffe://lab/ops/log --class bulk\n",
	.run = send_run,
};

const struct command command_publish = {
	.name = "publish",
	.arguments = "TOPIC [TEXT | -] [OPTION…]",
	.summary = "tell all members of a topic something, or each line of stdin",
	.help = TALK_HELP TALK_HELP_CLASS
	"\nYou need not be a member, and get no copy yourself. Exits with 1 if the relay did not\n"
	"take a message: because nobody has joined the topic (no_route), or because more is\n"
	"published than it allows (publisher_rate, topic_rate, topic_full).\n\n"
	"Examples:\n"
	"  viaduct publish build/status 'main is green'\n"
	"  tail -f events | viaduct publish events --class bulk\n",
	.run = publish_run,
};

/* ---- request ---- */

static struct {
	const char *text;
	unsigned int timeout_ms;
	bool sticky;
	uint64_t key;
} asking;

static void on_response(struct viaduct_peer *peer, void *user, int result,
			const struct viaduct_message *response)
{
	struct talk *talk = user;
	json_t *object;

	if (result) {
		talk_end(talk,
			 cli_fail(CLI_FAILED, "no response: %s",
				  result > 0 ? viaduct_reason_name((enum viaduct_reason)result)
					     : viaduct_strerror(result)));
		return;
	}
	if (cli_json) {
		object = json_pack("{so si}", "from", talk_id(&response->from), "length",
				   (int)response->length);
		talk_add_payload(object, response->data, response->length);
		cli_print(object);
	} else {
		talk_print_payload(response->data, response->length);
	}
	talk_end(talk, CLI_OK);
}

static void request_ready(struct talk *talk)
{
	size_t length = strlen(asking.text);
	int ret;

	if (asking.sticky)
		ret = viaduct_request_sticky(talk->peer, 0, talk->class, &talk->to, asking.key,
					     asking.text, length, asking.timeout_ms, on_response,
					     talk);
	else
		ret = viaduct_request(talk->peer, 0, talk->class, &talk->to, asking.text, length,
				      asking.timeout_ms, on_response, talk);
	if (ret)
		talk_end(talk, cli_fail(CLI_FAILED, "%s", viaduct_strerror(ret)));
}

static uint64_t sticky_key(const char *text)
{
	bool digits = *text && !text[strspn(text, "0123456789")];
	unsigned long long key;

	errno = 0;
	key = strtoull(text, NULL, 10);
	if (!digits || errno)
		cli_misused(&command_request,
			    "--sticky must be a whole number from 0 to 18446744073709551615, not "
			    "'%s'",
			    text);
	return key;
}

static int request_run(int argc, char **argv)
{
	static const struct option options[] = {{"timeout", required_argument, NULL, 't'},
						{"sticky", required_argument, NULL, 's'},
						TALK_OPTIONS,
						CLI_OPTIONS};
	struct talk talk = {.command = &command_request, .ready = request_ready};
	int option;

	asking.timeout_ms = 5000;
	while ((option = talk_option(&talk, argc, argv, "t:s:h", options)) != -1) {
		if (option == 's') {
			asking.sticky = true;
			asking.key = sticky_key(optarg);
		} else {
			asking.timeout_ms = (unsigned int)(cli_number(&command_request, "--timeout",
								      optarg, 0.001, 86400) *
							   1000);
		}
	}
	if (argc - optind != 2)
		cli_misused(&command_request, "it takes a PEER and a TEXT");
	talk.target = argv[optind];
	asking.text = argv[optind + 1];
	return talk_run(&talk);
}

const struct command command_request = {
	.name = "request",
	.arguments = "PEER TEXT [--timeout SECONDS] [--sticky KEY] [OPTION…]",
	.summary = "ask a peer, and print what it responds",
	.help = TALK_HELP_PEER
	"  -t, --timeout SECONDS  how long to wait for it (5)\n"
	"  -s, --sticky KEY       a service's requests of the same KEY, a whole number, go to the\n"
	"                         same instance\n" TALK_HELP TALK_HELP_CLASS
	"\nExits with 1 if there was no response.\n\n"
	"Examples:\n"
	"  viaduct request peer-2 'what time is it?'\n"
	"  viaduct request service:carts --sticky 4711 'add 2 apples'\n",
	.run = request_run,
};

/* ---- listen ---- */

static struct {
	unsigned int count; // 0: until a signal
	unsigned int heard;
	const char *topics[TOPICS_MAX];
	struct viaduct_id ids[TOPICS_MAX];
	unsigned int topic_count;
} listening;

/* The name of the topic that a message came through; NULL: none, or not one that was asked for. */
static const char *topic_of(const struct viaduct_message *message)
{
	for (unsigned int i = 0; message->via && i < listening.topic_count; i++) {
		if (!memcmp(message->via, &listening.ids[i], sizeof(*message->via)))
			return listening.topics[i];
	}
	return NULL;
}

static void on_message(struct viaduct_peer *peer, const struct viaduct_message *message)
{
	static const char *const kinds[] = {"", "send", "request", "", "publish"};
	static const char *const classes[] = {"bulk", "normal", "critical"};
	struct talk *talk = viaduct_peer_user(peer);
	const char *topic = topic_of(message);
	char id[VIADUCT_ID_TEXT + 1];
	json_t *object;

	if (talk->over)
		return;
	if (cli_json) {
		object = json_pack("{so ss ss sI si}", "from", talk_id(&message->from), "kind",
				   kinds[message->kind], "class", classes[message->class], "tag",
				   (json_int_t)message->tag, "length", (int)message->length);
		if (message->via)
			json_object_set_new(object, "via", talk_id(message->via));
		if (topic)
			json_object_set_new(object, "topic", json_string(topic));
		talk_add_payload(object, message->data, message->length);
		cli_print(object);
	} else {
		viaduct_id_format(id, &message->from);
		printf("%s  ", id);
		if (topic)
			printf("%s  ", topic);
		talk_print_payload(message->data, message->length);
	}
	if (++listening.heard == listening.count)
		talk_end(talk, CLI_OK);
}

static void on_topic(struct viaduct_peer *peer, const char *name, int error, const char *text)
{
	if (error)
		talk_end(viaduct_peer_user(peer), cli_fail(CLI_FAILED, "topic %s: %s", name, text));
	else
		fprintf(stderr, "joined topic %s\n", name);
}

static void listen_ready(struct talk *talk)
{
	char id[VIADUCT_ID_TEXT + 1];
	int ret = 0;

	// again after a rejoin, where it is nothing new
	for (unsigned int i = 0; i < listening.topic_count && !ret; i++) {
		ret = viaduct_topic_join(talk->peer, listening.topics[i], NULL);
		if (ret)
			talk_end(talk, cli_fail(CLI_FAILED, "topic %s: %s", listening.topics[i],
						viaduct_strerror(ret)));
	}

	viaduct_id_format(id, viaduct_peer_id(talk->peer));
	fprintf(stderr, "listening as %s (%s)\n", viaduct_peer_name(talk->peer), id);
}

static int listen_run(int argc, char **argv)
{
	static const struct option options[] = {{"count", required_argument, NULL, 'c'},
						{"topic", required_argument, NULL, 't'},
						TALK_OPTIONS,
						CLI_OPTIONS};
	struct talk talk = {
		.command = &command_listen,
		.ready = listen_ready,
		.stay = true,
		.callbacks = {.message = on_message, .topic = on_topic},
	};
	int option;

	while ((option = talk_option(&talk, argc, argv, "c:t:h", options)) != -1) {
		if (option == 'c') {
			listening.count = (unsigned int)cli_number(&command_listen, "--count",
								   optarg, 1, 1e9);
			continue;
		}
		if (listening.topic_count == TOPICS_MAX)
			cli_misused(&command_listen, "it takes at most %d topics", TOPICS_MAX);
		viaduct_topic_id(&listening.ids[listening.topic_count], optarg);
		listening.topics[listening.topic_count++] = optarg;
	}
	if (optind != argc)
		cli_misused(&command_listen, "it takes no arguments");
	return talk_run(&talk);
}

const struct command command_listen = {
	.name = "listen",
	.arguments = "[--topic TOPIC…] [--count N] [OPTION…]",
	.summary = "print the messages that come, and who sent them",
	.help = "  -t, --topic TOPIC      also what is published to this topic; may be repeated\n"
		"  -c, --count N          stop after N messages; else at Ctrl-C\n" TALK_HELP
		"\nJoins again by itself whenever the relay was away. Requests are printed, but "
		"not\n"
		"responded to: for that there is reply.\n\n"
		"Example:\n"
		"  viaduct listen --json | jq -r .text\n"
		"  viaduct listen --topic build/status\n",
	.run = listen_run,
};
