/*
 * Pairs of peers in one process that send each other messages through some relay, always in the
 * same way whatever the relay: by a transport (pairs.h). Every message carries its receiver and its
 * number, so that each is accounted for: delivered once, lost, doubled or damaged.
 *
 * A run is either closed, `depth=N`: every pair keeps N messages on their way, and whoever receives
 * one sends one back; or open, `rate=R`: R messages a second from random endpoints at random times
 * (a Poisson stream), each of which is sent back, for latencies. In an open run this process never
 * sleeps, so that its own awakening isn't measured.
 *
 * Both ends are in this process, so that one clock stamps both, and one core makes all the load.
 * The time that the relay's core was not idle is read from the kernel. Prints one JSON object a
 * run.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "histogram.h"
#include "pairs.h"

enum {
	RUNS_MAX = 32,
	SEEN_BITS = 1 << 16, // numbers behind the newest that are told apart
	EXIT_USAGE = 2,
};

#define MILLISECOND UINT64_C(1000000)
#define SECOND      (1000 * MILLISECOND)
#define WARM_UP     (SECOND / 5)
#define SILENCE     (3 * SECOND / 10) // after which what a pair has on its way counts as lost

static const struct transport *const transports[] = {
	&through_viaduct, &through_nats,       &through_mqtt, &through_zmq,
	&through_udp,     &through_udp_trains, &through_turn, &through_turn_dtls,
};

struct run {
	unsigned int depth;
	double rate;
	double seconds;
};

/* The head of a payload; all of this host. */
struct stamp {
	uint32_t receiver;
	uint32_t generation; // of the receiver's pair
	uint64_t number;     // of the sender's
	uint64_t sent_ns;
	uint64_t asked_ns; // when what it answers was sent; 0 if it is no answer
	uint64_t pattern;
};
_Static_assert(sizeof(struct stamp) == PAYLOAD_MIN, "the payload's head has no holes");

struct endpoint {
	uint64_t sent;
	uint64_t next; // number after the highest received
	uint64_t seen[SEEN_BITS / 64];
	unsigned int owed; // messages that the transport had no room for
};

struct pair {
	uint32_t generation;
	unsigned int flying; // messages of this generation on their way
	uint64_t heard_ns;
};

enum state {
	REACH, // every endpoint is tried until all work
	CLOSED,
	OPEN,
	DRAIN, // nothing is answered
};

struct counts {
	uint64_t sent, delivered, doubled, bad, stalls;
	uint64_t relay_idle_us, client_idle_us, steal_us, time_ns;
};

struct pairs {
	struct pairs_options options;
	const struct transport *transport;
	void *transport_state;
	int relay_core, client_core;
	struct run runs[RUNS_MAX];
	unsigned int run_count;

	enum state state;
	struct endpoint *endpoints;
	struct pair *pairs;
	uint64_t now;
	uint64_t random;
	struct counts counts;
	bool recording;
	struct histogram one_way, rtt;
	uint8_t payload[PAYLOAD_MAX];
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

/* splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators). */
static uint64_t random_next(struct pairs *p)
{
	uint64_t z = p->random += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

/* ---- Messages ---- */

static uint64_t pattern(const struct stamp *stamp)
{
	return (stamp->number + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ stamp->receiver;
}

/* `asked_ns` as in struct stamp. Returns false if the transport has no room. */
static bool message_send(struct pairs *p, unsigned int from, uint64_t asked_ns)
{
	struct stamp *stamp = (struct stamp *)p->payload;

	stamp->receiver = from ^ 1;
	stamp->generation = p->pairs[from / 2].generation;
	stamp->number = p->endpoints[from].sent;
	stamp->sent_ns = p->state == OPEN ? now_ns() : 0;
	stamp->asked_ns = asked_ns;
	stamp->pattern = pattern(stamp);
	if (!p->transport->send(p->transport_state, from, p->payload))
		return false;
	p->endpoints[from].sent++;
	p->counts.sent++;
	return true;
}

/* One more message of a pair on its way, now or when there is room. */
static void message_owe(struct pairs *p, unsigned int from)
{
	if (p->endpoints[from].owed || !message_send(p, from, 0))
		p->endpoints[from].owed++;
}

/* Whether this number comes for the first time. */
static bool seen_first(struct endpoint *endpoint, uint64_t number)
{
	uint64_t bit = UINT64_C(1) << number % 64;
	uint64_t *word = &endpoint->seen[number % SEEN_BITS / 64];

	if (number + SEEN_BITS < endpoint->next)
		return false;
	for (; endpoint->next <= number; endpoint->next++)
		endpoint->seen[endpoint->next % SEEN_BITS / 64] &=
			~(UINT64_C(1) << endpoint->next % 64);
	if (*word & bit)
		return false;
	*word |= bit;
	return true;
}

void pairs_received(struct pairs *p, unsigned int to, const uint8_t *payload, size_t length)
{
	struct pair *pair = &p->pairs[to / 2];
	struct stamp stamp;

	if (length != p->options.payload) {
		p->counts.bad++;
		return;
	}
	memcpy(&stamp, payload, sizeof(stamp));
	if (stamp.receiver != to || stamp.number >= p->endpoints[to ^ 1].sent ||
	    stamp.pattern != pattern(&stamp) ||
	    memcmp(payload + sizeof(stamp), p->payload + sizeof(stamp), length - sizeof(stamp))) {
		p->counts.bad++;
		return;
	}
	if (!seen_first(&p->endpoints[to], stamp.number)) {
		p->counts.doubled++;
		return;
	}
	p->counts.delivered++;
	pair->heard_ns = p->now;
	if (stamp.generation != pair->generation)
		return; // given up already
	if (p->state == CLOSED) {
		message_owe(p, to);
	} else if (p->state == OPEN && stamp.asked_ns) {
		if (p->recording)
			histogram_add(&p->rtt, now_ns() - stamp.asked_ns);
	} else if (p->state == OPEN) {
		if (p->recording)
			histogram_add(&p->one_way, now_ns() - stamp.sent_ns);
		message_send(p, to, stamp.sent_ns);
	} else {
		pair->flying--;
	}
}

static void owed_send(struct pairs *p)
{
	for (unsigned int i = 0; i < p->options.endpoints; i++) {
		while (p->endpoints[i].owed && message_send(p, i, 0))
			p->endpoints[i].owed--;
	}
}

/* Sends, waits, receives. Returns 0 or a negative errno. */
static int turn(struct pairs *p, int timeout_ms)
{
	int ret;

	p->transport->flush(p->transport_state);
	ret = p->transport->poll(p->transport_state, timeout_ms);
	p->now = now_ns();
	return ret;
}

/* ---- Runs ---- */

/* Puts `depth` messages of a pair on their way, half of them from either side. */
static void pair_start(struct pairs *p, unsigned int number, unsigned int depth)
{
	struct pair *pair = &p->pairs[number];

	pair->generation++;
	pair->flying = depth;
	pair->heard_ns = p->now;
	p->endpoints[2 * number].owed = 0;
	p->endpoints[2 * number + 1].owed = 0;
	for (unsigned int i = 0; i < depth; i++)
		message_owe(p, 2 * number + (i + number) % 2);
}

/* Whether all of a pair's messages have been delivered or given up. */
static bool all_landed(const struct pairs *p)
{
	for (unsigned int i = 0; i < p->options.endpoints / 2; i++) {
		if (p->pairs[i].flying && p->now - p->pairs[i].heard_ns < 2 * SILENCE)
			return false;
	}
	return true;
}

static int drain(struct pairs *p)
{
	int ret = 0;

	p->state = DRAIN;
	for (unsigned int i = 0; i < p->options.endpoints; i++) {
		p->pairs[i / 2].flying -= p->endpoints[i].owed;
		p->endpoints[i].owed = 0;
	}
	while (!all_landed(p) && !ret)
		ret = turn(p, 10);
	return ret;
}

/* Each endpoint sends until each has heard: some relays take a moment to know all of them. */
static int reach(struct pairs *p)
{
	uint64_t deadline = now_ns() + SETUP_TIMEOUT_S * SECOND, again = 0;
	unsigned int missing = 1;
	int ret = 0;

	while (missing && !ret) {
		bool send = now_ns() >= again;

		missing = 0;
		for (unsigned int i = 0; i < p->options.endpoints; i++) {
			if (p->endpoints[i].next)
				continue;
			missing++;
			if (send && message_send(p, i ^ 1, 0))
				p->pairs[i / 2].flying++;
		}
		if (send)
			again = now_ns() + SILENCE;
		ret = turn(p, 10);
		if (p->now > deadline)
			ret = -ETIMEDOUT;
	}
	if (ret)
		fprintf(stderr, "pairs: %u endpoints can't be reached: %s\n", missing,
			strerror(-ret));
	return ret ? ret : drain(p);
}

/* Time for which a core has been idle, and the one that others had of it, so far; proc(5). */
static int core_times(int core, uint64_t *idle_us, uint64_t *steal_us)
{
	uint64_t tick = SECOND / 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
	uint64_t idle, wait, steal;
	char line[512], name[16];
	FILE *file = fopen("/proc/stat", "re");
	int ret = -ENOENT;

	if (!file)
		return -errno;
	snprintf(name, sizeof(name), "cpu%d ", core);
	while (ret && fgets(line, sizeof(line), file)) {
		if (strncmp(line, name, strlen(name)) == 0 &&
		    sscanf(line, "%*s %*u %*u %*u %" SCNu64 " %" SCNu64 " %*u %*u %" SCNu64, &idle,
			   &wait, &steal) == 3)
			ret = 0;
	}
	fclose(file);
	if (ret == 0) {
		*idle_us = (idle + wait) * tick;
		*steal_us += steal * tick;
	}
	return ret;
}

static void counts_read(struct pairs *p, struct counts *counts)
{
	*counts = p->counts;
	counts->steal_us = 0;
	counts->time_ns = now_ns();
	core_times(p->client_core, &counts->client_idle_us, &counts->steal_us);
	counts->steal_us = 0;
	core_times(p->relay_core, &counts->relay_idle_us, &counts->steal_us);
}

static int run_closed(struct pairs *p, const struct run *run, struct counts *begin,
		      struct counts *end)
{
	uint64_t start = now_ns(), look = 0, measure = start + WARM_UP;
	uint64_t stop = measure + (uint64_t)(run->seconds * SECOND);
	int ret = 0;

	p->state = CLOSED;
	p->now = start;
	for (unsigned int i = 0; i < p->options.endpoints / 2; i++)
		pair_start(p, i, run->depth);
	while (p->now < stop && !ret) {
		ret = turn(p, 10);
		owed_send(p);
		if (measure && p->now >= measure) {
			counts_read(p, begin);
			measure = 0;
		}
		if (p->now < look)
			continue;
		look = p->now + SILENCE / 30;
		for (unsigned int i = 0; i < p->options.endpoints / 2; i++) {
			if (p->now - p->pairs[i].heard_ns < SILENCE)
				continue;
			p->counts.stalls++;
			pair_start(p, i, run->depth);
		}
	}
	counts_read(p, end);
	return ret ? ret : drain(p);
}

static int run_open(struct pairs *p, const struct run *run, struct counts *begin,
		    struct counts *end)
{
	uint64_t start = now_ns(), measure = start + WARM_UP;
	uint64_t stop = measure + (uint64_t)(run->seconds * SECOND);
	double due = (double)start;
	int ret = 0;

	p->state = OPEN;
	p->now = start;
	while (p->now < stop && !ret) {
		if (measure && p->now >= measure) {
			counts_read(p, begin);
			p->recording = true;
			measure = 0;
		}
		// what can't be sent has no latency; due to the low rate it doesn't happen
		if ((double)p->now >= due) {
			message_send(p, (unsigned int)(random_next(p) % p->options.endpoints), 0);
			due += -log1p(-(double)(random_next(p) >> 11) * 0x1p-53) / run->rate *
			       (double)SECOND;
		}
		ret = turn(p, 0);
	}
	p->recording = false;
	counts_read(p, end);
	for (uint64_t linger = p->now + 2 * SILENCE; p->now < linger && !ret;)
		ret = turn(p, 10);
	return ret;
}

static json_t *quantiles(const struct histogram *h)
{
	return json_pack("{s:f, s:f, s:f}", "p50", histogram_quantile(h, 0.5) / 1000, "p99",
			 histogram_quantile(h, 0.99) / 1000, "p999",
			 histogram_quantile(h, 0.999) / 1000);
}

/* The share of a time in which a core was not idle. */
static double busy(uint64_t idle_us, uint64_t steal_us, double seconds)
{
	double share = 1 - (double)(idle_us + steal_us) / 1e6 / seconds;

	return share > 0 ? share : 0;
}

static int run(struct pairs *p, const struct run *run)
{
	struct counts before = p->counts, begin = {0}, end = {0};
	double seconds, delivered, relay;
	json_t *result;
	int ret;

	memset(&p->one_way, 0, sizeof(p->one_way));
	memset(&p->rtt, 0, sizeof(p->rtt));
	ret = run->depth ? run_closed(p, run, &begin, &end) : run_open(p, run, &begin, &end);
	if (ret) {
		fprintf(stderr, "pairs: a connection ended: %s\n", strerror(-ret));
		return ret;
	}
	seconds = (double)(end.time_ns - begin.time_ns) / (double)SECOND;
	delivered = (double)(end.delivered - begin.delivered);
	relay = busy(end.relay_idle_us - begin.relay_idle_us, end.steal_us - begin.steal_us,
		     seconds);
	result = json_pack(
		"{s:s, s:i, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f}",
		"transport", p->transport->name, "depth", run->depth, "rate", run->rate, "seconds",
		seconds, "sent", p->counts.sent - before.sent, "delivered",
		p->counts.delivered - before.delivered, "lost",
		p->counts.sent - before.sent - (p->counts.delivered - before.delivered), "doubled",
		p->counts.doubled - before.doubled, "bad", p->counts.bad - before.bad, "stalls",
		p->counts.stalls - before.stalls, "msgs_per_s", delivered / seconds, "relay_busy",
		relay, "client_busy", busy(end.client_idle_us - begin.client_idle_us, 0, seconds),
		"cpu_per_million", delivered > 0 ? relay * seconds / delivered * 1e6 : 0.0);
	if (!run->depth) {
		json_object_set_new(result, "one_way_us", quantiles(&p->one_way));
		json_object_set_new(result, "rtt_us", quantiles(&p->rtt));
	}
	json_dumpf(result, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
	putchar('\n');
	fflush(stdout);
	json_decref(result);
	return 0;
}

/* ---- The command line ---- */

static const char usage[] =
	"Usage: pairs --transport NAME --relay ADDRESS [OPTION…] RUN…\n"
	"\n"
	"Lets pairs of peers send each other messages through a relay. A RUN is depth=N,seconds=S "
	"or\n"
	"rate=R,seconds=S. Prints one JSON object a run.\n"
	"\n"
	"  --transport NAME   viaduct, nats, mqtt, zmq, udp, udp-trains, turn, turn-dtls\n"
	"  --pki DIR          ca.pem, and peer-1.pem, peer-1.key…, two for each pair\n"
	"  --pairs N          how many (default 64)\n"
	"  --payload N        bytes a message (default 128)\n"
	"  --relay-core N     the relay's core (default 0)\n"
	"  --client-core N    this process's core (default 1)\n";

__attribute__((noreturn)) static void usage_fail(const char *what)
{
	fprintf(stderr, "pairs: %s\n%s", what, usage);
	exit(EXIT_USAGE);
}

static unsigned int number_read(const char *text, unsigned int min, unsigned int max)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (*end || !*text || value < min || value > max)
		usage_fail("a number is wrong or out of range");
	return (unsigned int)value;
}

static void run_read(struct pairs *p, const char *text)
{
	struct run *r = &p->runs[p->run_count];

	if (p->run_count++ == RUNS_MAX)
		usage_fail("too many runs");
	if (sscanf(text, "depth=%u,seconds=%lf", &r->depth, &r->seconds) != 2 &&
	    sscanf(text, "rate=%lf,seconds=%lf", &r->rate, &r->seconds) != 2)
		usage_fail("a run is depth=N,seconds=S or rate=R,seconds=S");
	if (r->depth > SEEN_BITS / 4 || (!r->depth && !(r->rate > 0)) || !(r->seconds > 0))
		usage_fail("a run is out of range");
}

static void options_read(struct pairs *p, int argc, char **argv)
{
	static const struct option names[] = {
		{"transport", required_argument, NULL, 't'},
		{"relay", required_argument, NULL, 'r'},
		{"pki", required_argument, NULL, 'k'},
		{"pairs", required_argument, NULL, 'n'},
		{"payload", required_argument, NULL, 'b'},
		{"relay-core", required_argument, NULL, 'R'},
		{"client-core", required_argument, NULL, 'C'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int option;

	p->options.pki = ".";
	p->options.endpoints = 128;
	p->options.payload = 128;
	p->client_core = 1;
	while ((option = getopt_long(argc, argv, "h", names, NULL)) != -1) {
		switch (option) {
		case 't':
			for (size_t i = 0; i < sizeof(transports) / sizeof(transports[0]); i++)
				if (strcmp(transports[i]->name, optarg) == 0)
					p->transport = transports[i];
			break;
		case 'r':
			p->options.relay = optarg;
			break;
		case 'k':
			p->options.pki = optarg;
			break;
		case 'n':
			p->options.endpoints = 2 * number_read(optarg, 1, PAIRS_MAX);
			break;
		case 'b':
			p->options.payload = number_read(optarg, PAYLOAD_MIN, PAYLOAD_MAX);
			break;
		case 'R':
			p->relay_core = (int)number_read(optarg, 0, 1023);
			break;
		case 'C':
			p->client_core = (int)number_read(optarg, 0, 1023);
			break;
		case 'h':
			fputs(usage, stdout);
			exit(EXIT_SUCCESS);
		default:
			exit(EXIT_USAGE);
		}
	}
	if (!p->transport || !p->options.relay || optind == argc)
		usage_fail("--transport, --relay and a run are needed");
	while (optind < argc)
		run_read(p, argv[optind++]);
}

int main(int argc, char **argv)
{
	struct pairs *p = calloc(1, sizeof(*p));
	struct rlimit files;
	int status = EXIT_FAILURE;

	if (!p)
		return EXIT_FAILURE;
	options_read(p, argc, argv);
	signal(SIGPIPE, SIG_IGN);
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	for (size_t i = 0; i < sizeof(p->payload); i++)
		p->payload[i] = (uint8_t)i;
	p->random = now_ns();
	p->endpoints = calloc(p->options.endpoints, sizeof(*p->endpoints));
	p->pairs = calloc(p->options.endpoints / 2, sizeof(*p->pairs));
	if (!p->endpoints || !p->pairs)
		goto out;
	p->transport_state = p->transport->open(p->transport, p, &p->options);
	if (!p->transport_state || reach(p))
		goto out;
	for (unsigned int i = 0; i < p->run_count; i++) {
		if (run(p, &p->runs[i]))
			goto out;
	}
	status = EXIT_SUCCESS;
out:
	if (p->transport_state)
		p->transport->close(p->transport_state);
	free(p->pairs);
	free(p->endpoints);
	free(p);
	return status;
}
