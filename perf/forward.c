/*
 * How fast a worker forwards, beside what its core could do at best.
 *
 * A generator on another core feeds sealed records through in-memory ports (rings of mbufs) to the
 * real worker, and takes what comes out. Rounds of four phases, medians over the rounds:
 *
 *   io       the worker's core receives and transmits bursts, and does nothing else
 *   aead     it opens and seals records of that size under one hot key, out of its own cache
 *   limit    the same ports and bursts, one open and one seal a record under one hot key
 *   forward  the real worker: random sessions, random destinations
 *
 * Records are sealed before each phase, with sequences that go on as on a wire, so that the
 * generator only copies them while the clock runs; what it could do is measured in the io phase.
 * Every 1,000th record that arrives is opened and compared with what was sent.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include <rte_cycles.h>
#include <rte_ethdev.h>
#include <rte_launch.h>
#include <rte_mbuf.h>

#include "memory.h"
#include "options.h"

enum {
	ARENA_RECORDS = 8192, // few, so that they don't push all else out of the shared cache
	ARENAS = 64,          // a phase
	PHASE_RECORDS = ARENAS * ARENA_RECORDS,
	SAMPLE = 1000, // one record of so many is opened
	STALLED_MS = 2000,
	PACK_MAX = 64,
	EXTRA_ROUTES = 1024, // that come and go
};

struct options {
	uint32_t sessions, routes, payload, pack, spread, workers, churn, seconds;
	const char *aead, *aead_device;
	bool json;
};

static struct options options = {
	.sessions = 64,
	.payload = 128,
	.pack = 1,
	.workers = 1,
	.seconds = 5,
	.aead_device = "crypto_aesni_mb",
};

/* A sealed record with the frame around it, ready to copy. */
struct arena {
	uint8_t *bytes;
	uint32_t stride;
	uint16_t length; // of each frame
	uint32_t records;
	uint32_t *from; // session of each record
	uint32_t *to;   // route of each message
};

static struct memory memory;
static const struct aead_ops *aead;
static struct arena arena;
static struct aead_key *hot_key;
static uint64_t sent, delivered, bad, sampled;
static uint64_t churned, churn_due; // TSC

static uint16_t record_length(void)
{
	return (uint16_t)(WIRE_RECORD_OVERHEAD +
			  options.pack * (WIRE_MESSAGE_HEADER + options.payload));
}

static void make_arena(void)
{
	arena.length = MEMORY_HEADER + record_length();
	arena.stride = RTE_ALIGN_CEIL(arena.length, 64u);
	arena.records = ARENA_RECORDS;
	arena.bytes = aligned_alloc(64, (size_t)arena.records * arena.stride);
	arena.from = memory_reserve(arena.records, sizeof(*arena.from));
	arena.to = memory_reserve((size_t)arena.records * options.pack, sizeof(*arena.to));
	if (!arena.bytes)
		memory_fail("out of memory");
}

static void put_payload(uint8_t *payload, uint32_t message)
{
	memset(payload, (int)(message % 251), options.payload);
	if (options.payload >= 4)
		wire_put32(payload, message);
}

/* Seals an arena full of records: each session's under its own key, or all under the hot one. */
static void seal_arena(bool hot)
{
	struct aead_job jobs[64];
	unsigned int n = 0;

	for (uint32_t r = 0; r < arena.records; r++) {
		uint32_t from = (uint32_t)(memory_random() % options.sessions);
		uint32_t to = (uint32_t)(memory_random() % options.routes);
		uint8_t *frame = arena.bytes + (size_t)r * arena.stride;
		struct wire_record header = {
			.class = WIRE_NORMAL,
			.index = from,
			.sequence = memory.sequences[from]++,
		};
		uint8_t *at = frame + MEMORY_HEADER;

		memory_put_frame(frame, from);
		wire_record_put(at, &header);
		at += WIRE_RECORD_HEADER;
		for (uint32_t m = 0; m < options.pack; m++) {
			uint32_t message = r * options.pack + m;

			if (options.spread)
				to = (uint32_t)(memory_random() % options.spread);
			wire_message_put(at, (uint16_t)options.payload, WIRE_SEND, WIRE_HOP_LIMIT,
					 0, message, &memory.sessions->slot[to].id);
			put_payload(at + WIRE_MESSAGE_HEADER, message);
			at += WIRE_MESSAGE_HEADER + options.payload;
			arena.to[message] = to;
		}
		arena.from[r] = from;
		frame_finish(frame, MEMORY_HEADER, record_length());
		jobs[n].key = hot ? hot_key : memory.up_keys[from];
		jobs[n].record = frame + MEMORY_HEADER;
		jobs[n].length = record_length();
		if (++n == RTE_DIM(jobs) || r + 1 == arena.records) {
			aead->seal(memory.aead_worker, jobs, n);
			n = 0;
		}
	}
}

/* Opens a record that the worker sent, and compares its messages with what went in. */
static void check(const uint8_t *frame, uint16_t length)
{
	uint8_t record[2048];
	struct wire_record header;
	struct wire_message message = {0};
	struct aead_job job = {.record = record};
	size_t at = 0, text = length - MEMORY_HEADER - WIRE_RECORD_OVERHEAD;
	uint8_t expected[2048];

	sampled++;
	memcpy(record, frame + MEMORY_HEADER, length - MEMORY_HEADER);
	if (wire_record_get(&header, record, length - MEMORY_HEADER) != WIRE_OK ||
	    header.index >= options.sessions)
		goto bad;
	job.key = memory.sessions->slot[header.index].current->tx;
	job.length = length - MEMORY_HEADER;
	aead->open(memory.aead_worker, &job, 1);
	if (!job.ok)
		goto bad;
	do {
		uint32_t number;

		at = wire_message_get(&message, record + WIRE_RECORD_HEADER, text, at);
		if (!at || message.length != options.payload || message.kind != WIRE_SEND)
			goto bad;
		number = wire_message_tag(message.data);
		put_payload(expected, number);
		if (number >= arena.records * options.pack ||
		    arena.to[number] % options.sessions != header.index ||
		    memcmp(message.data + 8,
			   &memory.sessions->slot[arena.from[number / options.pack]].id,
			   WIRE_ID_SIZE) ||
		    memcmp(message.data + WIRE_MESSAGE_HEADER, expected, options.payload))
			goto bad;
	} while (at < text);
	return;
bad:
	bad++;
}

/* Takes what a worker has sent; the count of messages in it. */
static uint64_t drain(uint32_t worker, bool real)
{
	const uint16_t message = (uint16_t)(WIRE_MESSAGE_HEADER + options.payload);
	static uint32_t until_sample = SAMPLE;
	struct rte_mbuf *buffers[64];
	uint64_t messages = 0;
	unsigned int n;

	n = rte_ring_sc_dequeue_burst(memory.tx[worker], (void **)buffers, RTE_DIM(buffers), NULL);
	for (unsigned int i = 0; i < n; i++) {
		messages +=
			(rte_pktmbuf_data_len(buffers[i]) - MEMORY_HEADER - WIRE_RECORD_OVERHEAD) /
			message;
		if (real && --until_sample == 0) {
			until_sample = SAMPLE;
			check(rte_pktmbuf_mtod(buffers[i], uint8_t *),
			      rte_pktmbuf_data_len(buffers[i]));
		}
	}
	if (n)
		rte_pktmbuf_free_bulk(buffers, n);
	return messages;
}

/* Puts up to 32 records from `*next` on into a worker's ring, as far as there is room. */
static unsigned int feed(uint32_t worker, uint32_t *next)
{
	struct rte_mbuf *buffers[FORWARD_BURST];
	unsigned int n = RTE_MIN(FORWARD_BURST, arena.records - *next);

	if (!n || rte_ring_free_count(memory.rx[worker]) < n ||
	    rte_pktmbuf_alloc_bulk(memory.pool, buffers, n))
		return 0;
	for (unsigned int i = 0; i < n; i++) {
		char *at = rte_pktmbuf_mtod(buffers[i], char *);

		for (unsigned int line = 0; line < arena.stride; line += 64)
			__builtin_prefetch(at + line, 1);
	}
	for (unsigned int i = 0; i < n; i++) {
		memcpy(rte_pktmbuf_mtod(buffers[i], void *),
		       arena.bytes + (size_t)(*next + i) * arena.stride, arena.length);
		buffers[i]->data_len = arena.length;
		buffers[i]->pkt_len = arena.length;
	}
	rte_ring_sp_enqueue_bulk(memory.rx[worker], (void **)buffers, n, NULL);
	*next += n;
	return n;
}

static void give_session(struct rcu_head *head)
{
	struct memory_session *session = caa_container_of(head, struct memory_session, rcu);

	region_give(session->region, session);
}

/*
 * What the control thread does meanwhile: peers come and go (every other update), and sessions are
 * published anew as after a rekey or a move.
 */
static void churn(void)
{
	static bool gone;
	static uint32_t extra;

	if (churned++ % 2) {
		uint32_t slot = (uint32_t)(memory_random() % options.sessions);
		struct memory_session *old = caa_container_of(memory.sessions->slot[slot].current,
							      struct memory_session, session);
		struct memory_session *new = region_take(old->region, sizeof(*new));

		if (!new)
			memory_fail("out of memory");
		new->session = old->session;
		new->region = old->region;
		for (uint32_t i = slot; i < options.routes + EXTRA_ROUTES; i += options.sessions) {
			rcu_assign_pointer(memory.sessions->slot[i].current, &new->session);
			// with many ids a session, one is enough to pay for
			if (options.routes > options.sessions * 16)
				break;
		}
		if (options.routes <= options.sessions * 16)
			call_rcu(&old->rcu, give_session);
		return;
	}
	if (!gone)
		extra = options.routes + (uint32_t)(memory_random() % EXTRA_ROUTES);
	if (gone ? route_set(&memory.routes, &memory.sessions->slot[extra].id, extra)
		 : route_remove(&memory.routes, &memory.sessions->slot[extra].id))
		memory_fail("a route was not where it should be");
	gone = !gone;
}

static void churn_when_due(void)
{
	uint64_t now;

	if (!options.churn)
		return;
	now = rte_get_tsc_cycles();
	if (now >= churn_due) {
		churn_due = RTE_MAX(churn_due, now - rte_get_tsc_hz() / 100) +
			    rte_get_tsc_hz() / options.churn;
		churn();
	}
}

/* Sends the whole arena through; returns seconds. */
static double pump_arena(bool real)
{
	uint64_t begin = rte_get_tsc_cycles(), last = begin, end = begin;
	uint64_t stalled = rte_get_tsc_hz() / 1000 * STALLED_MS;
	uint64_t wanted = (uint64_t)arena.records * options.pack, got = 0;
	uint32_t next = 0, worker = 0;

	while (got < wanted && last - end < stalled) {
		uint64_t messages = drain(worker, real);

		got += messages;
		feed(worker, &next);
		if (real)
			churn_when_due();
		rcu_quiescent_state();
		last = rte_get_tsc_cycles();
		if (messages)
			end = last;
		worker = (worker + 1) % options.workers;
	}
	if (real) {
		sent += wanted;
		delivered += got;
	}
	return (double)(end - begin) / (double)rte_get_tsc_hz();
}

/* Seals and sends a phase's arenas; returns the seconds of the sending. */
static double pump(bool real)
{
	double seconds = 0;

	for (int i = 0; i < ARENAS; i++) {
		seal_arena(!real);
		churn_due = rte_get_tsc_cycles();
		seconds += pump_arena(real);
	}
	return seconds;
}

/* What runs on the worker's core in the other phases. */
struct bare {
	atomic_bool stop;
	bool crypto;     // open and seal
	uint64_t cycles; // of turns that had records
	uint64_t records;
	void *aead;
	bool lone; // aead alone, out of the cache
};

static int bare_run(void *arg)
{
	struct bare *bare = arg;
	struct rte_mbuf *buffers[FORWARD_BURST];
	struct aead_job jobs[FORWARD_BURST];

	while (!atomic_load_explicit(&bare->stop, memory_order_relaxed)) {
		uint64_t begin = rte_get_tsc_cycles();
		unsigned int n, done;

		n = rte_eth_rx_burst(memory.port.queues[0].device, 0, buffers, FORWARD_BURST);
		if (!n)
			continue;
		if (bare->crypto) {
			for (unsigned int i = 0; i < n; i++)
				rte_prefetch0(buffers[i]);
			for (unsigned int i = 0; i < n; i++) {
				jobs[i].key = hot_key;
				jobs[i].record = rte_pktmbuf_mtod_offset(buffers[i], uint8_t *,
									 MEMORY_HEADER);
				jobs[i].length = rte_pktmbuf_data_len(buffers[i]) - MEMORY_HEADER;
				// as the worker does
				rte_prefetch0(jobs[i].record - MEMORY_HEADER);
			}
			aead->open(bare->aead, jobs, n);
			for (unsigned int i = 0; i < n; i++) {
				if (!jobs[i].ok)
					memory_fail("a record of the limit's does not open");
			}
			aead->seal(bare->aead, jobs, n);
		}
		done = rte_eth_tx_burst(memory.port.queues[0].device, 0, buffers, (uint16_t)n);
		if (done < n)
			memory_fail("the port refused records");
		bare->cycles += rte_get_tsc_cycles() - begin;
		bare->records += n;
	}
	return 0;
}

static double bare_phase(bool crypto, double *ns)
{
	static struct bare bare;
	double seconds;

	memset(&bare, 0, sizeof(bare));
	bare.crypto = crypto;
	bare.aead = aead->worker_new(-1);
	if (!bare.aead)
		memory_fail("out of memory");
	rte_eal_remote_launch(bare_run, &bare, 1);
	seconds = pump(false);
	atomic_store(&bare.stop, true);
	memory_wait(0);
	aead->worker_free(bare.aead);
	if (bare.records != PHASE_RECORDS)
		memory_fail("records were lost by the in-memory port");
	*ns = (double)bare.cycles * 1e9 / (double)rte_get_tsc_hz() / (double)bare.records;
	return PHASE_RECORDS / seconds;
}

static double aead_ns;

static int aead_run(void *arg)
{
	enum { TURNS = 2000 };
	static uint8_t records[FORWARD_BURST][2048];
	struct aead_job jobs[FORWARD_BURST];
	uint64_t begin;

	for (int i = 0; i < FORWARD_BURST; i++) {
		jobs[i].key = hot_key;
		jobs[i].record = records[i];
		jobs[i].length = record_length();
	}
	begin = rte_get_tsc_cycles();
	for (int turn = 0; turn < TURNS; turn++) {
		aead->seal(arg, jobs, FORWARD_BURST);
		aead->open(arg, jobs, FORWARD_BURST);
	}
	aead_ns = (double)(rte_get_tsc_cycles() - begin) * 1e9 / (double)rte_get_tsc_hz() /
		  (TURNS * FORWARD_BURST);
	return 0;
}

static void aead_phase(void)
{
	void *worker = aead->worker_new(-1);

	if (!worker)
		memory_fail("out of memory");
	rte_eal_remote_launch(aead_run, worker, 1);
	memory_wait(0);
	aead->worker_free(worker);
}

static double forward_phase(void)
{
	double seconds;

	memory_start(&memory);
	seconds = pump(true);
	memory_stop(&memory);
	return (double)PHASE_RECORDS * options.pack / seconds;
}

static const char usage[] =
	"usage: forward [--sessions N] [--routes N] [--payload BYTES] [--pack M] [--spread R]\n"
	"               [--workers W] [--churn UPDATES_PER_S] [--seconds S] [--aead NAME]\n"
	"               [--aead-device DEVICE] [--json]\n";

static void parse(int argc, char **argv)
{
	static const struct option_row rows[] = {
		OPTION_NUMBER("sessions", &options.sessions, 1, 100000),
		OPTION_NUMBER("routes", &options.routes, 1, 1000000),
		OPTION_NUMBER("payload", &options.payload, 0, MEMORY_MTU - WIRE_PAYLOAD_OVERHEAD),
		OPTION_NUMBER("pack", &options.pack, 1, PACK_MAX),
		OPTION_NUMBER("spread", &options.spread, 1, 100000),
		OPTION_NUMBER("workers", &options.workers, 1, DATAPLANE_WORKERS_MAX),
		OPTION_NUMBER("churn", &options.churn, 0, 1000000),
		OPTION_NUMBER("seconds", &options.seconds, 1, 600),
		OPTION_TEXT("aead", &options.aead),
		OPTION_TEXT("aead-device", &options.aead_device),
		OPTION_FLAG("json", &options.json),
		{0},
	};

	options_read(rows, usage, argc, argv);
	if (!options.routes)
		options.routes = options.sessions;
	aead = options.aead ? dataplane_aead(options.aead) : dataplane_aead_default();
	if (!aead || options.routes < options.sessions || options.spread > options.routes ||
	    record_length() > MEMORY_MTU - WIRE_IP_OVERHEAD) {
		fprintf(stderr,
			"forward: fewer routes than sessions, more spread than routes, a record "
			"that is too large, or an unknown cipher\n%s",
			usage);
		exit(EXIT_USAGE);
	}
}

int main(int argc, char **argv)
{
	enum { ROUNDS_MAX = 400 };
	static double io[ROUNDS_MAX], generator[ROUNDS_MAX], crypto[ROUNDS_MAX], limit[ROUNDS_MAX],
		rate[ROUNDS_MAX];
	uint8_t secret[WIRE_EXPORT_SIZE] = {1};
	double begin, ns, limit_msgs, share, headroom;
	struct counters counters = {0};
	const char *verdict = "ok";
	int rounds = 0;
	json_t *out;

	parse(argc, argv);
	memory_init(&memory, &(struct memory_config){
				     .name = "forward",
				     .aead = aead,
				     .aead_device = options.aead_device,
				     .workers = options.workers,
				     .sessions = options.sessions,
				     // more routes than sessions: several ids stand for one
				     // session, as behind a trunk
				     .slots = options.routes + EXTRA_ROUTES,
			     });
	hot_key = aead_key_new(aead, WIRE_AES_256_GCM, secret, -1);
	if (!hot_key)
		memory_fail("out of memory");
	make_arena();

	begin = (double)rte_get_tsc_cycles();
	do {
		generator[rounds] = bare_phase(false, &io[rounds]) * options.pack;
		aead_phase();
		crypto[rounds] = aead_ns;
		limit[rounds] = bare_phase(true, &ns) * options.pack * options.workers;
		rate[rounds] = forward_phase();
		rounds++;
	} while (((double)rte_get_tsc_cycles() - begin) / (double)rte_get_tsc_hz() <
			 options.seconds &&
		 rounds < ROUNDS_MAX);

	for (uint32_t i = 0; i < options.workers; i++)
		counters_add(&counters, &memory.workers[i].published);
	limit_msgs = memory_median(limit, rounds);
	share = memory_median(rate, rounds) / limit_msgs;
	headroom = memory_median(generator, rounds) / memory_median(rate, rounds);
	if (sent != delivered || counters.messages_delivered != sent ||
	    !counters_balance(&counters))
		verdict = "messages were lost";
	else if (bad)
		verdict = "records came out wrong";
	else if (headroom < 1.5)
		verdict = "the generator is too slow to say";
	else if (1e9 / memory_median(io, rounds) < 15e6)
		verdict = "the bare port is slower than 15 million records a second";
	else if (1e9 / limit_msgs * options.pack * options.workers >
		 1.2 * (memory_median(io, rounds) + memory_median(crypto, rounds)))
		verdict = "the limit is more than 1.2 times its parts";
	out = json_pack(
		"{s:i s:i s:i s:i s:i s:i s:i s:s s:f s:f s:f s:f s:f s:f s:I s:I s:I s:f s:i s:s}",
		"sessions", options.sessions, "routes", options.routes, "payload", options.payload,
		"pack", options.pack, "spread", options.spread, "workers", options.workers, "churn",
		options.churn, "aead", aead->name, "io_ns", memory_median(io, rounds), "aead_ns",
		memory_median(crypto, rounds), "msgs_per_s", memory_median(rate, rounds),
		"ns_per_msg", 1e9 / memory_median(rate, rounds), "limit_msgs_per_s", limit_msgs,
		"share_of_limit", share, "lost", (json_int_t)(sent - delivered), "bad",
		(json_int_t)bad, "sampled", (json_int_t)sampled, "generator_msgs_per_s",
		memory_median(generator, rounds), "rounds", rounds, "verdict", verdict);
	if (!out)
		memory_fail("out of memory");
	result_print(out, options.json);
	return strcmp(verdict, "ok") != 0;
}
