/*
 * The load generator: any number of peers in one process, through libviaduct's public interface.
 *
 * All join; then random ones send to random others at an even total rate. Each message carries its
 * number in the run, so that every one is accounted for: delivered once, lost, doubled or damaged.
 * Some messages are requests, which give the round trips. Prints one JSON object.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "viaduct.h"
#include "histogram.h"
#include "measure.h"
#include "options.h"
#include "relay.h"

enum {
	PAYLOAD_MIN = 24, // number, time, sender, receiver
	PAYLOAD_MAX = 9000,
	PATTERN_PERIOD = 251,
	LEAVE_S = 3,
	EXIT_INTERRUPTED = 130,
};

struct options {
	const char *relay;
	const char *pki;
	const char *json;
	unsigned int peers, payload, lanes, handshakes;
	unsigned int rate;     // messages a second, all peers together
	unsigned int requests; // one message in so many is a request
	unsigned int join_s, linger_s;
	unsigned int seconds;
	bool poisson;
	unsigned int seed;
	unsigned int watch; // process; 0: none
};

struct swarm;

struct peer {
	struct swarm *swarm;
	struct viaduct_peer *handle;
	struct viaduct_id id;
	bool joined;
};

struct swarm {
	struct options options;
	struct viaduct *viaduct;
	struct peer *peers;
	uint8_t *seen; // a bit for each message of the run
	uint64_t planned;
	uint8_t pattern[PAYLOAD_MAX + PATTERN_PERIOD];
	uint64_t random;

	unsigned int joined, leaving, dropped; // dropped: sessions lost after joining
	uint64_t sent, delivered, doubled, bad;
	uint64_t requests, answered, waiting;
	uint64_t errors[VIADUCT_NO_BUFFER + 1]; // by reason
	double join_seconds, seconds;
	struct histogram rtt, one_way;

	double cpu_percent, memory_mb; // of the watched process
	uint64_t shown;                // when progress was last shown
};

static volatile sig_atomic_t interrupted;

/* splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators). */
static uint64_t random_next(struct swarm *s)
{
	uint64_t z = s->random += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static unsigned int random_below(struct swarm *s, unsigned int limit)
{
	return (unsigned int)((random_next(s) >> 32) * limit >> 32);
}

/* ---- Progress, on stderr: one line that changes on a terminal, else a line a second ---- */

__attribute__((format(printf, 3, 4))) static void progress_show(struct swarm *s, bool last,
								const char *format, ...)
{
	bool terminal = isatty(STDERR_FILENO);
	uint64_t now = now_ns();
	va_list arguments;

	if (!last && now - s->shown < (terminal ? SECOND / 5 : SECOND))
		return;
	s->shown = now;
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputs(terminal ? (last ? "\033[K\n" : "\033[K\r") : "\n", stderr);
}

/* ---- What arrives ---- */

/* Payload: number (8), time of sending (8), sender (4), receiver (4), pattern; all of this host. */
struct stamp {
	uint64_t number;
	uint64_t sent_ns;
	uint32_t sender, receiver;
};
_Static_assert(sizeof(struct stamp) == PAYLOAD_MIN, "the payload's head has no holes");

static size_t payload_make(const struct swarm *s, uint8_t *payload, const struct stamp *stamp)
{
	size_t length = s->options.payload;

	memcpy(payload, stamp, sizeof(*stamp));
	memcpy(payload + sizeof(*stamp), s->pattern + stamp->number % PATTERN_PERIOD,
	       length - sizeof(*stamp));
	return length;
}

/* Whether it is a payload of this run, whole; copies its head to `stamp`. */
static bool payload_check(const struct swarm *s, struct stamp *stamp, const uint8_t *payload,
			  size_t length)
{
	if (length != s->options.payload)
		return false;
	memcpy(stamp, payload, sizeof(*stamp));
	return stamp->number < s->planned && stamp->sender < s->options.peers &&
	       memcmp(payload + sizeof(*stamp), s->pattern + stamp->number % PATTERN_PERIOD,
		      length - sizeof(*stamp)) == 0;
}

static void on_message(struct viaduct_peer *handle, const struct viaduct_message *message)
{
	struct peer *peer = viaduct_peer_user(handle);
	struct swarm *s = peer->swarm;
	struct stamp stamp;
	uint8_t bit;

	if (!payload_check(s, &stamp, message->data, message->length) ||
	    stamp.receiver != peer - s->peers ||
	    memcmp(&message->from, &s->peers[stamp.sender].id, sizeof(message->from)) != 0) {
		s->bad++;
		return;
	}
	bit = (uint8_t)(1 << stamp.number % 8);
	if (s->seen[stamp.number / 8] & bit) {
		s->doubled++;
		return;
	}
	s->seen[stamp.number / 8] |= bit;
	s->delivered++;
	histogram_add(&s->one_way, now_ns() - stamp.sent_ns);
	// an answer that can't be sent is missed by the one who asked
	if (message->kind == VIADUCT_REQUEST)
		viaduct_respond(handle, 0, message, message->data, message->length);
}

static void on_response(struct viaduct_peer *handle, void *user, int result,
			const struct viaduct_message *response)
{
	struct swarm *s = user;
	struct stamp stamp;

	s->waiting--;
	if (result > 0 && result <= VIADUCT_NO_BUFFER)
		s->errors[result]++;
	if (result != 0)
		return;
	if (!payload_check(s, &stamp, response->data, response->length)) {
		s->bad++;
		return;
	}
	s->answered++;
	histogram_add(&s->rtt, now_ns() - stamp.sent_ns);
}

static void on_error(struct viaduct_peer *handle, uint32_t tag, enum viaduct_reason reason)
{
	struct peer *peer = viaduct_peer_user(handle);

	if (reason <= VIADUCT_NO_BUFFER)
		peer->swarm->errors[reason]++;
}

static void on_joined(struct viaduct_peer *handle)
{
	struct peer *peer = viaduct_peer_user(handle);

	peer->joined = true;
	peer->swarm->joined++;
}

/* Before the run the library tries again by itself; during it a lost session is a result. */
static void on_failed(struct viaduct_peer *handle, int error, const char *text, int retry_ms)
{
	struct peer *peer = viaduct_peer_user(handle);
	struct swarm *s = peer->swarm;

	if (peer->joined) {
		peer->joined = false;
		s->joined--;
		s->dropped++;
	}
	if (error != VIADUCT_E_BUSY)
		progress_show(s, false, "%s: %s", viaduct_peer_name(handle), text);
}

static void on_closed(struct viaduct_peer *handle)
{
	struct peer *peer = viaduct_peer_user(handle);

	peer->swarm->leaving--;
}

static const struct viaduct_callbacks callbacks = {
	.joined = on_joined,
	.message = on_message,
	.error = on_error,
	.failed = on_failed,
	.closed = on_closed,
};

/* ---- The watched process ---- */

/* User and system time so far in seconds, all threads; proc(5). 0 if there is no such process. */
static double watch_cpu(pid_t pid)
{
	unsigned long user, system;
	char path[64], line[1024];
	char *fields = NULL;
	FILE *file;
	int found = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = fopen(path, "re");
	if (!file)
		return 0;
	// the command's name, in brackets, may hold anything
	if (fgets(line, sizeof(line), file))
		fields = strrchr(line, ')');
	if (fields)
		found = sscanf(fields, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
			       &user, &system);
	fclose(file);
	return found == 2 ? (double)(user + system) / (double)sysconf(_SC_CLK_TCK) : 0;
}

/* ---- The phases ---- */

/* Opens the peers of the PKI folder. Returns 0 or a negative errno, having said what is wrong. */
static int peers_open(struct swarm *s)
{
	char ca[4096], certificate[4096], key[4096];
	struct viaduct_config config = {
		.relay = s->options.relay,
		.ca = ca,
		.certificate = certificate,
		.key = key,
		.lanes = s->options.lanes,
	};

	snprintf(ca, sizeof(ca), "%s/ca.pem", s->options.pki);
	for (unsigned int i = 0; i < s->options.peers && !interrupted; i++) {
		struct peer *peer = &s->peers[i];
		int error;

		peer->swarm = s;
		config.user = peer;
		snprintf(certificate, sizeof(certificate), "%s/peer-%u.pem", s->options.pki, i + 1);
		snprintf(key, sizeof(key), "%s/peer-%u.key", s->options.pki, i + 1);
		error = viaduct_peer_open(&peer->handle, s->viaduct, &config, &callbacks);
		if (error) {
			fprintf(stderr, "swarm: %s\n", viaduct_open_error(s->viaduct));
			return error;
		}
		peer->id = *viaduct_peer_id(peer->handle);
		viaduct_process(s->viaduct);
		progress_show(s, false, "joined %u of %u", s->joined, s->options.peers);
	}
	return 0;
}

/* Waits until all have joined, or the time for it is up. */
static void peers_join(struct swarm *s, uint64_t start)
{
	uint64_t deadline = start + s->options.join_s * SECOND;

	while (s->joined < s->options.peers && now_ns() < deadline && !interrupted) {
		viaduct_wait(s->viaduct, 100);
		progress_show(s, false, "joined %u of %u", s->joined, s->options.peers);
	}
	s->join_seconds = (double)(now_ns() - start) / (double)SECOND;
	progress_show(s, true, "joined %u of %u in %.1f s", s->joined, s->options.peers,
		      s->join_seconds);
}

static void peers_leave(struct swarm *s)
{
	uint64_t deadline = now_ns() + LEAVE_S * SECOND;

	for (unsigned int i = 0; i < s->options.peers; i++) {
		if (!s->peers[i].joined)
			continue;
		s->leaving++;
		viaduct_peer_close(s->peers[i].handle, true);
	}
	while (s->leaving && now_ns() < deadline && !interrupted)
		viaduct_wait(s->viaduct, 100);
}

/* Sends the next message. Returns false if the kernel takes no more for now. */
static bool message_send(struct swarm *s)
{
	uint8_t payload[PAYLOAD_MAX];
	struct stamp stamp = {.number = s->sent, .sent_ns = now_ns()};
	bool request = s->options.requests && s->sent % s->options.requests == 0;
	uint64_t random = s->random; // so that a message put off goes the same way
	unsigned int lane;
	struct peer *sender;
	size_t length;
	int error;

	stamp.sender = random_below(s, s->options.peers);
	stamp.receiver = stamp.sender;
	if (s->options.peers > 1) {
		stamp.receiver = random_below(s, s->options.peers - 1);
		stamp.receiver += stamp.receiver >= stamp.sender;
	}
	lane = random_below(s, s->options.lanes);
	length = payload_make(s, payload, &stamp);
	sender = &s->peers[stamp.sender];
	if (request)
		error = viaduct_request(sender->handle, lane, VIADUCT_NORMAL,
					&s->peers[stamp.receiver].id, payload, length,
					s->options.linger_s * 1000, on_response, s);
	else
		error = viaduct_send(sender->handle, lane, VIADUCT_NORMAL,
				     &s->peers[stamp.receiver].id, 0, payload, length);
	if (error == -EAGAIN) {
		s->random = random;
		return false;
	}
	// what could not even be sent is lost
	s->sent++;
	s->requests += request;
	s->waiting += request && !error;
	return true;
}

/* Nanoseconds to the next message. */
static double gap_next(struct swarm *s)
{
	double mean = (double)SECOND / s->options.rate;

	if (!s->options.poisson)
		return mean;
	return -mean * log1p(-(double)(random_next(s) >> 11) * 0x1p-53);
}

static void run_show(struct swarm *s, uint64_t start, bool last)
{
	progress_show(s, last,
		      "%4.1f s: sent %" PRIu64 ", delivered %" PRIu64 ", round trip p50 %.0f µs",
		      (double)(now_ns() - start) / (double)SECOND, s->sent, s->delivered,
		      histogram_quantile(&s->rtt, 0.5) / 1000);
}

/* Sends all that is planned on schedule, catching up when late, then waits for stragglers. */
static void messages_run(struct swarm *s)
{
	struct pollfd ready = {.fd = viaduct_fd(s->viaduct), .events = POLLIN};
	double cpu = watch_cpu((pid_t)s->options.watch);
	uint64_t start = now_ns(), now = start, deadline;
	double due = 0; // when the next message is, after start

	while (s->sent < s->planned && !interrupted) {
		double wait = due - (double)(now - start);

		if (wait > 0) {
			struct timespec timeout = {.tv_sec = (time_t)(wait / 1e9),
						   .tv_nsec = (long)fmod(wait, 1e9)};

			viaduct_flush(s->viaduct);
			ppoll(&ready, 1, &timeout, NULL);
		}
		now = now_ns();
		for (int burst = 0; burst < 64 && due <= (double)(now - start); burst++) {
			if (s->sent == s->planned || !message_send(s))
				break;
			due += gap_next(s);
		}
		viaduct_process(s->viaduct);
		run_show(s, start, false);
		now = now_ns();
	}
	s->seconds = (double)(now - start) / (double)SECOND;
	s->cpu_percent = 100 * (watch_cpu((pid_t)s->options.watch) - cpu) / s->seconds;
	s->memory_mb = process_memory((pid_t)s->options.watch);
	deadline = now + s->options.linger_s * SECOND;
	while ((s->delivered < s->sent || s->waiting) && now_ns() < deadline && !interrupted)
		viaduct_wait(s->viaduct, 10);
	run_show(s, start, true);
}

/* ---- The result ---- */

static json_t *quantiles(const struct histogram *h)
{
	return json_pack("{s:f, s:f, s:f}", "p50", histogram_quantile(h, 0.5) / 1000, "p99",
			 histogram_quantile(h, 0.99) / 1000, "p999",
			 histogram_quantile(h, 0.999) / 1000);
}

static int result_write(const struct swarm *s)
{
	json_t *result, *errors = json_object();
	FILE *file = stdout;
	int status = 0;

	for (unsigned int i = 1; i <= VIADUCT_NO_BUFFER; i++)
		if (s->errors[i])
			json_object_set_new(errors, viaduct_reason_name(i),
					    json_integer((json_int_t)s->errors[i]));
	result = json_pack(
		"{s:i, s:i, s:i, s:i, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:o, s:o, "
		"s:o}",
		"peers", s->options.peers, "joined", s->joined + s->dropped, "sessions_dropped",
		s->dropped, "payload", s->options.payload, "join_seconds", s->join_seconds,
		"seconds", s->seconds, "sent", s->sent, "delivered", s->delivered, "lost",
		s->sent - s->delivered, "doubled", s->doubled, "bad", s->bad, "requests",
		s->requests, "unanswered", s->requests - s->answered, "msgs_per_s",
		s->seconds > 0 ? (double)s->delivered / s->seconds : 0.0, "rtt_us",
		quantiles(&s->rtt), "one_way_us", quantiles(&s->one_way), "errors", errors);
	if (s->options.watch) {
		json_object_set_new(result, "cpu_percent", json_real(s->cpu_percent));
		json_object_set_new(result, "memory_mb", json_real(s->memory_mb));
	}
	if (s->options.json)
		file = fopen(s->options.json, "we");
	if (!file || json_dumpf(result, file, JSON_INDENT(2) | JSON_REAL_PRECISION(5)) != 0 ||
	    fputc('\n', file) == EOF || fflush(file) != 0) {
		fprintf(stderr, "swarm: %s: %m\n", s->options.json ? s->options.json : "stdout");
		status = -EIO;
	}
	if (file && file != stdout)
		fclose(file);
	json_decref(result);
	return status;
}

/* ---- The command line ---- */

static const char usage[] =
	"Usage: swarm --relay HOST:PORT --pki DIR [OPTION…]\n"
	"\n"
	"Joins many peers to a relay and lets them send each other messages at random. Prints the\n"
	"result as JSON. Exit code 0 if all joined, and every message arrived once and whole.\n"
	"\n"
	"  --relay HOST:PORT    the relay's control address (default: $VIADUCT_RELAY)\n"
	"  --pki DIR            holds ca.pem and peer-1.pem, peer-1.key, peer-2.pem, …\n"
	"  --peers N            how many join (default 1000)\n"
	"  --rate N             messages a second, of all together (default 10000)\n"
	"  --seconds S          how long to send (default 10)\n"
	"  --payload BYTES      of each message, from 24 (default 256)\n"
	"  --lanes N            lanes to send on, 1 to 8 (default 1)\n"
	"  --poisson            random gaps between messages instead of even ones\n"
	"  --request-every N    one message in N is a request, 0 for none (default 10)\n"
	"  --handshakes N       TLS handshakes at the same time (default 64)\n"
	"  --join-timeout S     for all peers to join (default 60)\n"
	"  --linger S           how long to wait for stragglers at the end (default 3)\n"
	"  --seed N             of the random choices (default 1)\n"
	"  --watch PID          also report CPU and memory of this process\n"
	"  --json FILE          where the result goes (default: standard output)\n";

static void options_get(struct options *o, int argc, char **argv)
{
	const struct option_row rows[] = {
		OPTION_TEXT("relay", &o->relay),
		OPTION_TEXT("pki", &o->pki),
		OPTION_NUMBER("peers", &o->peers, 1, 1000000),
		OPTION_NUMBER("rate", &o->rate, 1, 100000000),
		OPTION_NUMBER("seconds", &o->seconds, 1, 86400),
		OPTION_NUMBER("payload", &o->payload, PAYLOAD_MIN, PAYLOAD_MAX),
		OPTION_NUMBER("lanes", &o->lanes, 1, VIADUCT_LANES_MAX),
		OPTION_FLAG("poisson", &o->poisson),
		OPTION_NUMBER("request-every", &o->requests, 0, 1000000),
		OPTION_NUMBER("handshakes", &o->handshakes, 1, 100000),
		OPTION_NUMBER("join-timeout", &o->join_s, 1, 86400),
		OPTION_NUMBER("linger", &o->linger_s, 1, 3600),
		OPTION_NUMBER("seed", &o->seed, 0, UINT32_MAX),
		OPTION_NUMBER("watch", &o->watch, 1, INT32_MAX),
		OPTION_TEXT("json", &o->json),
		{0},
	};

	*o = (struct options){
		.relay = getenv("VIADUCT_RELAY"),
		.peers = 1000,
		.rate = 10000,
		.seconds = 10,
		.payload = 256,
		.lanes = 1,
		.requests = 10,
		.handshakes = 64,
		.join_s = 60,
		.linger_s = 3,
		.seed = 1,
	};
	options_read(rows, usage, argc, argv);
	if (!o->relay || !o->pki) {
		fputs("swarm: needs --relay and --pki; try --help\n", stderr);
		exit(EXIT_USAGE);
	}
}

static void interrupt(int signal)
{
	interrupted = 1;
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = interrupt};
	struct swarm *s = calloc(1, sizeof(*s));
	int status = EXIT_FAILURE;
	uint64_t start;

	if (!s)
		return EXIT_FAILURE;
	options_get(&s->options, argc, argv);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	descriptors_raise(s->options.peers);
	s->planned = (uint64_t)s->options.seconds * s->options.rate;
	if (!s->planned)
		s->planned = 1;
	s->random = s->options.seed;
	for (size_t i = 0; i < sizeof(s->pattern); i++)
		s->pattern[i] = (uint8_t)(i % PATTERN_PERIOD);
	s->viaduct = viaduct_new();
	s->peers = calloc(s->options.peers, sizeof(*s->peers));
	s->seen = calloc(s->planned / 8 + 1, 1);
	if (!s->viaduct || !s->peers || !s->seen) {
		fprintf(stderr, "swarm: %m\n");
		goto out;
	}
	viaduct_handshakes_limit(s->viaduct, s->options.handshakes);

	start = now_ns();
	if (peers_open(s) != 0)
		goto out;
	peers_join(s, start);
	if (s->joined == s->options.peers) {
		size_t most = viaduct_payload_max(s->peers[0].handle);

		if (s->options.payload > most)
			fprintf(stderr, "swarm: this relay takes at most --payload %zu\n", most);
		else
			messages_run(s);
	}
	peers_leave(s);
	if (interrupted) {
		status = EXIT_INTERRUPTED;
		goto out;
	}
	if (result_write(s) == 0 && s->sent == s->planned && s->delivered == s->sent &&
	    s->answered == s->requests && !s->doubled && !s->bad && !s->dropped)
		status = EXIT_SUCCESS;
out:
	viaduct_free(s->viaduct);
	free(s->seen);
	free(s->peers);
	free(s);
	return status;
}
