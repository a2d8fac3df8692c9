/*
 * Peers that come and go beside others that talk: what do these lose, how long do their messages
 * take, and does the relay's memory grow? Who comes stays for two seconds, and comes back later by
 * a resumed handshake. With nobody who comes (--rate 0) it is the endurance test. Starts the relay
 * itself; build/perf/churn makes the network for it.
 */
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "crowd.h"
#include "measure.h"
#include "options.h"
#include "relay.h"
#include "viaduct.h"

enum {
	QUIET_S = 10,  // bystanders before the churn
	JOIN_S = 120,  // bystanders
	STAY_S = 2,    // a peer, between joining and leaving
	SETTLE_S = 15, // for the last ones to join, and to leave
	WARM_S = 60,   // at most, from when on memory shall not grow
	GROWTH_MB = 4, // is none: some 60 handshakes that are under way at once
	PATIENCE = 5,
	PAUSE = 1000000, // ns
};

struct options {
	unsigned int peers, bystanders; // certificates for those who come and go, and the others
	unsigned int rate, messages;    // a second
	unsigned int seconds;
	bool as_json;
};

struct peer {
	struct churn *churn;
	struct viaduct_peer *handle;
	unsigned int number;
	bool queued;
};

/* Peers in the order in which they came in; as many as there are fit. */
struct queue {
	struct peer **peers;
	unsigned int first, count;
};

struct churn {
	struct options options;
	struct relay relay;
	struct viaduct *viaduct;
	struct peer *peers;
	struct queue away, here;
	uint64_t due; // the next who comes
	unsigned int opened, joined, leaving, left, failed;
};

static void queue_put(struct churn *c, struct queue *queue, struct peer *peer)
{
	queue->peers[(queue->first + queue->count++) % c->options.peers] = peer;
}

static struct peer *queue_take(struct churn *c, struct queue *queue)
{
	struct peer *peer = queue->peers[queue->first];

	queue->first = (queue->first + 1) % c->options.peers;
	queue->count--;
	return peer;
}

static void on_joined(struct viaduct_peer *handle)
{
	struct peer *peer = viaduct_peer_user(handle);
	struct churn *c = peer->churn;

	if (peer->queued)
		return; // it had failed, and is back
	peer->queued = true;
	c->joined++;
	queue_put(c, &c->here, peer);
}

static void on_failed(struct viaduct_peer *handle, int error, const char *text, int retry_ms)
{
	struct peer *peer = viaduct_peer_user(handle);

	if (!peer->churn->failed++)
		fprintf(stderr, "the first failure: %s\n", text);
}

static void on_closed(struct viaduct_peer *handle)
{
	struct peer *peer = viaduct_peer_user(handle);
	struct churn *c = peer->churn;

	c->leaving--;
	c->left++;
	queue_put(c, &c->away, peer);
}

static const struct viaduct_callbacks callbacks = {
	.joined = on_joined, .failed = on_failed, .closed = on_closed};

static void come(struct churn *c)
{
	struct peer *peer = queue_take(c, &c->away);

	peer->queued = false;
	peer->handle = relay_peer_open(&c->relay, c->viaduct, peer->number, &callbacks, peer);
	c->opened++;
}

static void go(struct churn *c)
{
	struct peer *peer = queue_take(c, &c->here);

	if (viaduct_peer_joined(peer->handle)) {
		c->leaving++;
		viaduct_peer_close(peer->handle, true);
	} else {
		viaduct_peer_close(peer->handle, false);
		queue_put(c, &c->away, peer);
	}
}

/* One comes and one goes, at an even rate, until `end`. */
static void come_and_go(struct churn *c, uint64_t end)
{
	uint64_t gap = c->options.rate ? SECOND / c->options.rate : 0;
	struct pollfd ready = {.fd = viaduct_fd(c->viaduct), .events = POLLIN};
	uint64_t now = now_ns(), wake;

	while (now < end) {
		for (; c->due <= now; c->due += gap) {
			if (c->here.count > STAY_S * c->options.rate)
				go(c);
			if (!c->away.count)
				break; // all others are on their way
			come(c);
		}
		viaduct_flush(c->viaduct);
		now = now_ns();
		wake = c->due <= now ? now + PAUSE : c->due < end ? c->due : end;
		if (wake > now) {
			struct timespec wait = {.tv_sec = (time_t)((wake - now) / SECOND),
						.tv_nsec = (long)((wake - now) % SECOND)};

			ppoll(&ready, 1, &wait, NULL);
		}
		viaduct_process(c->viaduct);
		now = now_ns();
	}
}

/*
 * The same from one second to another. Returns the least memory that the relay had meanwhile: what
 * a burst of handshakes takes, its allocator gives back some ten seconds later.
 */
static double spend(struct churn *c, uint64_t begin, unsigned int from, unsigned int to)
{
	double least = 1e9, memory;

	while (from++ < to) {
		come_and_go(c, begin + from * SECOND);
		memory = process_memory(c->relay.pid);
		if (memory < least)
			least = memory;
	}
	return least;
}

/* Those on their way still come in, and then all leave. */
static void empty(struct churn *c)
{
	uint64_t deadline = now_ns() + SETTLE_S * SECOND;

	while (c->joined < c->opened && now_ns() < deadline)
		viaduct_wait(c->viaduct, 10);
	while (c->here.count)
		go(c);
	while (c->leaving && now_ns() < deadline)
		viaduct_wait(c->viaduct, 10);
}

static double seconds_of(const struct rusage *usage)
{
	return (double)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) +
	       (double)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) / 1e6;
}

/* ---- The command line ---- */

static const char usage[] =
	"Usage: churn [OPTION…]\n"
	"\n"
	"Lets peers join a relay and leave it again beside bystanders, who send to each other.\n"
	"Exit code 0 if all joined and left, no bystander lost a message, their p99 was at most\n"
	"twice that of before, and the relay's memory, after the first third of the time, or\n"
	"minute, was in the second half of the rest what it was in the first.\n"
	"\n"
	"  --seconds S      how long (default 60)\n"
	"  --rate N         peers that join, and as many that leave, a second; or 0 (default 500)\n"
	"  --peers N        identities that they have (default 4000)\n"
	"  --bystanders N   (default 50)\n"
	"  --messages N     a second, of all bystanders (default 20000)\n"
	"  --json           print the result as JSON\n";

int main(int argc, char **argv)
{
	struct churn churn = {.options = {.seconds = 60,
					  .rate = 500,
					  .peers = 4000,
					  .bystanders = 50,
					  .messages = 20000}};
	struct churn *c = &churn;
	const struct option_row rows[] = {
		OPTION_NUMBER("seconds", &c->options.seconds, 3, 86400),
		OPTION_NUMBER("rate", &c->options.rate, 0, 10000),
		OPTION_NUMBER("peers", &c->options.peers, 1, 20000),
		OPTION_NUMBER("bystanders", &c->options.bystanders, 2, 20000),
		OPTION_NUMBER("messages", &c->options.messages, 1, 10000000),
		OPTION_FLAG("json", &c->options.as_json),
		{0},
	};
	struct crowd_report report;
	struct rusage before, after;
	struct crowd crowd;
	double memory, warm, end_memory, control, joins;
	const char *verdict = "ok";
	json_int_t stayed, resumed;
	unsigned int warm_s, middle_s;
	uint64_t begin;

	options_read(rows, usage, argc, argv);
	relay_find(&c->relay);
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	relay_start(&c->relay, "large");
	crowd = (struct crowd){.first = c->options.peers + 1,
			       .count = c->options.bystanders,
			       .rate = c->options.messages,
			       .join_s = JOIN_S,
			       .urgent = true};
	relay_workers_first(&c->relay);
	crowd_start(&crowd, &c->relay);
	// in truth they are on other machines, and leave the relay its time
	if (nice(PATIENCE) < 0)
		fprintf(stderr, "churn: nice: %m\n");

	c->viaduct = viaduct_new();
	c->peers = calloc(c->options.peers, sizeof(*c->peers));
	c->away.peers = calloc(c->options.peers, sizeof(*c->away.peers));
	c->here.peers = calloc(c->options.peers, sizeof(*c->here.peers));
	for (unsigned int i = 0; i < c->options.peers; i++) {
		c->peers[i] = (struct peer){.churn = c, .number = i + 1};
		queue_put(c, &c->away, &c->peers[i]);
	}
	descriptors_raise(c->options.peers);
	sleep(QUIET_S);

	memory = process_memory(c->relay.pid);
	warm_s = c->options.seconds / 3 < WARM_S ? c->options.seconds / 3 : WARM_S;
	crowd_mark(&crowd);
	begin = now_ns();
	control = relay_cpu(&c->relay);
	getrusage(RUSAGE_SELF, &before);
	c->due = c->options.rate ? begin : UINT64_MAX;
	middle_s = warm_s + (c->options.seconds - warm_s) / 2;
	spend(c, begin, 0, warm_s);
	warm = spend(c, begin, warm_s, middle_s);
	end_memory = spend(c, begin, middle_s, c->options.seconds);
	control = (relay_cpu(&c->relay) - control) / c->options.seconds;
	getrusage(RUSAGE_SELF, &after);
	joins = c->joined / (double)c->options.seconds;
	crowd_end(&crowd, &report, c->viaduct);
	empty(c);
	resumed = relay_number(&c->relay, "handshakes", "resumed");
	stayed = relay_number(&c->relay, "sessions", "joined");
	relay_end(&c->relay, SIGTERM);
	viaduct_free(c->viaduct);

	if (report.lost || report.failed)
		verdict = "lost";
	else if (c->failed || c->joined != c->opened)
		verdict = "failed";
	else if (c->left != c->joined || stayed)
		verdict = "not left";
	else if (joins < 0.98 * c->options.rate)
		verdict = "too slow";
	else if (end_memory > warm + GROWTH_MB)
		verdict = "grown";
	else if (c->options.rate && report.p99_during > 2 * report.p99_before)
		verdict = "p99";
	result_print(
		json_pack("{s:i, s:I, s:i, s:i, s:f, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, "
			  "s:s}",
			  "joined", c->joined, "resumed", resumed, "left", c->left, "failed",
			  c->failed, "joins_per_s", joins, "sent", (json_int_t)report.sent, "lost",
			  (json_int_t)report.lost, "p99_us_quiet", report.p99_before,
			  "p99_us_during", report.p99_during, "relay_memory_mb_before", memory,
			  "relay_memory_mb_warm", warm, "relay_memory_mb_after", end_memory,
			  "control_cpu_percent", 100 * control, "peers_cpu_percent",
			  100 * (seconds_of(&after) - seconds_of(&before)) / c->options.seconds,
			  "verdict", verdict),
		c->options.as_json);
	return strcmp(verdict, "ok") == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
