#include "cli_talk.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

/* ---- Options ---- */

static enum viaduct_class class_parse(const struct command *command, const char *text)
{
	static const char *const names[] = {"bulk", "normal", "critical"};

	for (int i = 0; i < 3; i++)
		if (!strcmp(text, names[i]))
			return (enum viaduct_class)i;
	cli_misused(command, "--class must be bulk, normal or critical, not '%s'", text);
}

int talk_option(struct talk *talk, int argc, char **argv, const char *letters,
		const struct option *options)
{
	int option;

	if (!talk->relay) {
		talk->relay = getenv("VIADUCT_RELAY");
		talk->ca = getenv("VIADUCT_CA");
		talk->certificate = getenv("VIADUCT_CERT");
		talk->key = getenv("VIADUCT_KEY");
		talk->class = VIADUCT_NORMAL;
	}
	while ((option = cli_option(talk->command, argc, argv, letters, options)) != -1) {
		switch (option) {
		case 'R':
			talk->relay = optarg;
			break;
		case 'A':
			talk->ca = optarg;
			break;
		case 'C':
			talk->certificate = optarg;
			break;
		case 'K':
			talk->key = optarg;
			break;
		case 'L':
			talk->class = class_parse(talk->command, optarg);
			break;
		default:
			return option;
		}
	}
	if (!talk->relay || !talk->ca || !talk->certificate || !talk->key)
		cli_misused(talk->command, "--relay, --ca, --cert and --key are needed, here or as "
					   "VIADUCT_RELAY, _CA, _CERT and _KEY");
	return -1;
}

/* ---- Finding the target ---- */

static void begin(struct talk *talk)
{
	talk->begun = true;
	talk->ready(talk);
}

static void resolve(struct talk *talk, const char *name, viaduct_list_cb *callback)
{
	int ret = viaduct_resolve(talk->peer, name, callback, NULL);

	if (ret)
		talk_end(talk, cli_fail(CLI_FAILED, "%s: %s", name, viaduct_strerror(ret)));
}

static void found(struct talk *talk, int error, const struct viaduct_entry *entries, size_t count,
		  bool more)
{
	if (error)
		talk_end(talk, cli_fail(CLI_FAILED, "%s can't be looked up: %s", talk->target,
					viaduct_strerror(error)));
	else if (!count)
		talk_end(talk, cli_fail(CLI_FAILED, "%s is not at this relay", talk->target));
	else if (count > 1 || more)
		talk_end(talk,
			 cli_fail(CLI_FAILED, "several peers go by %s; give an id", talk->target));
	if (talk->over)
		return;
	talk->to = entries[0].id;
	begin(talk);
}

static void found_completed(struct viaduct_peer *peer, void *user, int error,
			    const struct viaduct_entry *entries, size_t count, bool more)
{
	found(viaduct_peer_user(peer), error, entries, count, more);
}

/* The target as it would be called beside our own name: "peer-2" and "team/peer-2" are short. */
static char *complete(const char *target, const char *own)
{
	char *name = NULL;
	size_t keep;

	if (!strncmp(target, "spiffe://", 9) || strncmp(own, "spiffe://", 9))
		return NULL;
	keep = strcspn(own + 9, "/") + 10; // up to the slash behind the trust domain
	if (!strchr(target, '/'))
		keep += strcspn(own + keep, "/") + 1;
	return asprintf(&name, "%.*s%s", (int)keep, own, target) < 0 ? NULL : name;
}

static void found_literal(struct viaduct_peer *peer, void *user, int error,
			  const struct viaduct_entry *entries, size_t count, bool more)
{
	struct talk *talk = viaduct_peer_user(peer);
	char *whole = NULL;

	if (!error && !count)
		whole = complete(talk->target, viaduct_peer_name(peer));
	if (whole)
		resolve(talk, whole, found_completed);
	else
		found(talk, error, entries, count, more);
	free(whole);
}

/* ---- The loop ---- */

static void on_joined(struct viaduct_peer *peer)
{
	struct talk *talk = viaduct_peer_user(peer);

	talk->to_relay = talk->target && !strcmp(talk->target, "relay");
	if (talk->target && !strncmp(talk->target, "service:", 8)) {
		viaduct_service_id(&talk->to, talk->target + 8);
		begin(talk);
		return;
	}
	if (talk->begun || !talk->target || talk->to_relay ||
	    !viaduct_id_parse(&talk->to, talk->target))
		begin(talk);
	else
		resolve(talk, talk->target, found_literal);
}

static void on_failed(struct viaduct_peer *peer, int error, const char *text, int retry_ms)
{
	struct talk *talk = viaduct_peer_user(peer);
	bool ended = error == VIADUCT_E_REPLACED || error == VIADUCT_E_REVOKED;

	if (retry_ms < 0)
		talk_end(talk, cli_fail(ended ? CLI_FAILED : CLI_UNREACHABLE, "%s: %s", talk->relay,
					text));
	else
		fprintf(stderr, "viaduct: %s: %s; trying again in %.1f s\n", talk->relay, text,
			retry_ms / 1000.0);
}

static void on_closed(struct viaduct_peer *peer)
{
	struct talk *talk = viaduct_peer_user(peer);

	talk->peer = NULL;
}

static int peer_open(struct talk *talk)
{
	struct viaduct_config config = {
		.relay = talk->relay,
		.ca = talk->ca,
		.certificate = talk->certificate,
		.key = talk->key,
		.no_reconnect = !talk->stay,
		.user = talk,
	};

	int ret;

	talk->callbacks.joined = on_joined;
	talk->callbacks.failed = on_failed;
	talk->callbacks.closed = on_closed;
	ret = viaduct_peer_open(&talk->peer, talk->v, &config, &talk->callbacks);
	return ret ? cli_fail(ret == -EINVAL ? CLI_USAGE : CLI_FAILED, "%s",
			      viaduct_open_error(talk->v))
		   : 0;
}

static int signals_open(void)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	return signalfd(-1, &signals, SFD_CLOEXEC);
}

static int wait_ms(const struct talk *talk)
{
	uint64_t now = talk_now();

	if (!talk->alarm_ms)
		return -1;
	return talk->alarm_ms > now ? (int)(talk->alarm_ms - now) : 0;
}

static void turn(struct talk *talk, int signals)
{
	struct pollfd fds[2 + TALK_EXTRA_MAX] = {{.fd = viaduct_fd(talk->v), .events = POLLIN},
						 {.fd = signals, .events = POLLIN}};
	unsigned int count = talk->extra_count;

	memcpy(fds + 2, talk->extras, count * sizeof(fds[0]));
	viaduct_flush(talk->v);
	if (poll(fds, 2 + count, wait_ms(talk)) < 0)
		return;
	if (fds[1].revents)
		talk_end(talk, talk->code);
	if (fds[0].revents)
		viaduct_process(talk->v);
	for (unsigned int i = 0; i < count; i++)
		if (fds[2 + i].revents)
			talk->extra(talk, &fds[2 + i]);
	if (talk->alarm_ms && talk->alarm_ms <= talk_now()) {
		talk->alarm_ms = 0;
		talk->alarm(talk);
	}
}

int talk_run(struct talk *talk)
{
	int signals, ret;

	talk->v = viaduct_new();
	if (!talk->v)
		return cli_fail(CLI_FAILED, "no event loop: %m");
	ret = peer_open(talk);
	if (ret)
		goto out;
	signals = signals_open();
	while (!talk->over)
		turn(talk, signals);
	if (viaduct_peer_joined(talk->peer)) {
		viaduct_peer_close(talk->peer, true);
		while (talk->peer)
			viaduct_wait(talk->v, 1000);
	}
	close(signals);
	ret = talk->code;
out:
	viaduct_free(talk->v);
	return ret;
}

void talk_end(struct talk *talk, int code)
{
	talk->over = true;
	talk->code = code;
}

/* ---- Words ---- */

uint64_t talk_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void talk_print_payload(const void *data, size_t length)
{
	cli_print_text(data, length);
	putchar('\n');
	fflush(stdout);
}

void talk_add_payload(json_t *object, const void *data, size_t length)
{
	json_t *text = json_stringn(data, length);
	char *hex;

	if (text) {
		json_object_set_new(object, "text", text);
		return;
	}
	hex = malloc(2 * length + 1);
	if (!hex)
		return;
	for (size_t i = 0; i < length; i++)
		sprintf(hex + 2 * i, "%02x", ((const unsigned char *)data)[i]);
	json_object_set_new(object, "hex", json_string(hex));
	free(hex);
}

json_t *talk_id(const struct viaduct_id *id)
{
	char text[VIADUCT_ID_TEXT + 1];

	viaduct_id_format(text, id);
	return json_string(text);
}
