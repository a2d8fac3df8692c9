/*
 * What it costs a worker to copy a publication to a topic's members, beside what its core could do
 * at best.
 *
 * A generator on another core publishes through in-memory ports (rings of mbufs) to the real
 * worker, and takes what comes out. Rounds of three phases, medians over the rounds:
 *
 *   limit   the worker's core takes empty buffers, seals a record of one copy in each, under one
 * hot key, and transmits them, in bursts; it does nothing else single  the real worker, a key for
 * each member; two publications are under way at any time, so that it is never idle and each copy
 * still is a record of its own packed  the same with 32 under way, so that members get several in a
 * record
 *
 * The figures at the top of the output are those of `single`. Every 1,000th record that arrives is
 * opened and compared with what was published; every copy is counted.
 */
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
	PHASE_COPIES = 2000000,
	SINGLE = 2, // publications under way
	PACKED = 32,
	BURST = 64,
	BUFFERS = 8191, // as a queue of viaductd's has
	SAMPLE = 1000,
	STALLED_MS = 2000,
	ROUNDS_MAX = 100,
};

static struct options {
	uint32_t members, payload, seconds;
	const char *aead;
	bool json;
} options = {.members = 1000, .payload = 256, .seconds = 5};

static struct memory memory;
static struct wire_id topic_id = {{'t', 'o', 'p', 'i', 'c'}};
static struct aead_key *hot_key;
static uint64_t published, copies, bad, sampled;

/* What members get of a publication, in a record of its own. */
static uint16_t copy_size(void)
{
	return (uint16_t)(TOPIC_HEADER + options.payload);
}

/* A topic whose members are all sessions but the first, which publishes. */
static void make_topic(void)
{
	struct topic *topic = aligned_alloc(64, sizeof(*topic));
	struct topic_members *members =
		malloc(sizeof(*members) + options.members * sizeof(members->slots[0]));
	uint32_t slot = memory.sessions->slots;

	if (!topic || !members)
		memory_fail("out of memory");
	memset(topic, 0, sizeof(*topic));
	topic->group.kind = GROUP_TOPIC;
	topic->members = members;
	members->count = options.members;
	for (uint32_t i = 0; i < options.members; i++)
		members->slots[i] = i + 1;
	memory.sessions->slot[slot].group = &topic->group;
	if (route_set(&memory.routes, &topic_id, slot))
		memory_fail("out of memory");
}

static void put_payload(uint8_t *payload, uint32_t number)
{
	memset(payload, (int)(number % 251), options.payload);
	wire_put32(payload, number);
}

static void publish(void)
{
	struct rte_mbuf *buffer = rte_pktmbuf_alloc(memory.pool);
	struct wire_record header = {
		.class = WIRE_NORMAL,
		.sequence = memory.sequences[0]++,
	};
	struct aead_job job = {
		.key = memory.up_keys[0],
		.length = (uint16_t)(WIRE_RECORD_OVERHEAD + WIRE_MESSAGE_HEADER + options.payload),
	};
	uint32_t number = (uint32_t)published++;
	uint8_t *frame;

	if (!buffer)
		memory_fail("out of buffers");
	frame = rte_pktmbuf_mtod(buffer, uint8_t *);
	memory_put_frame(frame, 0);
	job.record = frame + MEMORY_HEADER;
	wire_record_put(job.record, &header);
	wire_message_put(job.record + WIRE_RECORD_HEADER, (uint16_t)options.payload, WIRE_PUBLISH,
			 WIRE_HOP_LIMIT, 0, number, &topic_id);
	put_payload(job.record + WIRE_RECORD_HEADER + WIRE_MESSAGE_HEADER, number);
	memory.aead->seal(memory.aead_worker, &job, 1);
	frame_finish(frame, MEMORY_HEADER, job.length);
	buffer->data_len = MEMORY_HEADER + job.length;
	buffer->pkt_len = buffer->data_len;
	if (rte_ring_sp_enqueue(memory.rx[0], buffer))
		memory_fail("the worker's ring is full");
}

/* Opens a record that the worker sent, and compares what it holds with what was published. */
static void check(const uint8_t *frame, uint16_t length)
{
	uint8_t record[2048], expected[2048];
	struct wire_message message = {0};
	struct wire_record header;
	struct aead_job job = {.record = record, .length = length - MEMORY_HEADER};
	size_t at = 0, text = job.length - WIRE_RECORD_OVERHEAD;

	sampled++;
	memcpy(record, frame + MEMORY_HEADER, job.length);
	if (wire_record_get(&header, record, job.length) != WIRE_OK || header.index == 0 ||
	    header.index > options.members)
		goto bad;
	job.key = memory.sessions->slot[header.index].current->tx;
	memory.aead->open(memory.aead_worker, &job, 1);
	if (!job.ok)
		goto bad;
	do {
		at = wire_message_get(&message, record + WIRE_RECORD_HEADER, text, at);
		if (!at || message.length != options.payload || message.kind != WIRE_PUBLISH ||
		    message.flags != WIRE_FLAG_VIA)
			goto bad;
		put_payload(expected, wire_message_tag(message.data));
		if (memcmp(message.data + 8, &memory.sessions->slot[0].id, WIRE_ID_SIZE) != 0 ||
		    memcmp(message.data + WIRE_MESSAGE_HEADER, &topic_id, WIRE_ID_SIZE) != 0 ||
		    memcmp(message.data + TOPIC_HEADER, expected, options.payload) != 0)
			goto bad;
	} while (at < text);
	return;
bad:
	bad++;
}

/* Takes what the worker has sent; the count of records. */
static unsigned int drain(bool real)
{
	static uint32_t until_sample = SAMPLE;
	struct rte_mbuf *buffers[BURST];
	unsigned int n;

	n = rte_ring_sc_dequeue_burst(memory.tx[0], (void **)buffers, BURST, NULL);
	for (unsigned int i = 0; i < n; i++)
		rte_prefetch0(buffers[i]);
	for (unsigned int i = 0; i < n && real; i++) {
		uint16_t length = rte_pktmbuf_data_len(buffers[i]);

		copies += (length - MEMORY_HEADER - WIRE_RECORD_OVERHEAD) / copy_size();
		if (--until_sample == 0) {
			until_sample = SAMPLE;
			check(rte_pktmbuf_mtod(buffers[i], uint8_t *), length);
		}
	}
	if (n)
		rte_pktmbuf_free_bulk(buffers, n);
	return n;
}

/* Publishes with so many under way; returns copies a second. */
static double fan_out(unsigned int under_way)
{
	uint64_t wanted = (PHASE_COPIES / options.members + 1) * (uint64_t)options.members;
	uint64_t first = published, before = copies, begin, now, moved;
	uint64_t stalled = rte_get_tsc_hz() / 1000 * STALLED_MS;

	memory_start(&memory);
	begin = now = moved = rte_get_tsc_cycles();
	while (copies - before < wanted && now - moved < stalled) {
		uint64_t sent = published - first, done = (copies - before) / options.members;

		if (sent - done < under_way && sent * options.members < wanted)
			publish();
		now = rte_get_tsc_cycles();
		if (drain(true))
			moved = now;
		rcu_quiescent_state();
	}
	memory_stop(&memory);
	return (double)(copies - before) * (double)rte_get_tsc_hz() / (double)(moved - begin);
}

/* What runs on the worker's core in the limit's phase. */
struct bare {
	atomic_bool stop;
	uint64_t cycles; // of turns that could send
	uint64_t records;
	void *aead;
};

/* Where a worker puts a record, too. */
static inline uint8_t *record_in(struct rte_mbuf *buffer)
{
	return (uint8_t *)rte_mbuf_buf_addr(buffer, memory.pool) + RTE_PKTMBUF_HEADROOM;
}

/* Takes a burst of buffers, and fetches what will be written of them. False: there are none. */
static inline bool take(struct rte_mbuf **buffers)
{
	uint16_t length = WIRE_RECORD_OVERHEAD + copy_size();

	if (rte_mempool_get_bulk(memory.pool, (void **)buffers, BURST))
		return false;
	for (unsigned int i = 0; i < BURST; i++) {
		const uint8_t *record = record_in(buffers[i]);

		__builtin_prefetch(buffers[i], 1);
		for (int at = -64; at < length; at += 64) // the header is in front of it
			__builtin_prefetch(record + at, 1);
	}
	return true;
}

static int bare_run(void *arg)
{
	uint16_t length = WIRE_RECORD_OVERHEAD + copy_size();
	struct rte_mbuf *buffers[2][BURST];
	static const uint8_t text[TOPIC_HEADER + MEMORY_MTU];
	const uint8_t *texts[BURST];
	struct bare *bare = arg;
	struct aead_job jobs[BURST];
	unsigned int now = 0;

	// one burst ahead, so that what it seals is in its cache
	while (!take(buffers[now]))
		continue;
	while (!atomic_load_explicit(&bare->stop, memory_order_relaxed)) {
		uint64_t begin = rte_get_tsc_cycles();

		if (!take(buffers[!now]))
			continue;
		for (unsigned int i = 0; i < BURST; i++) {
			struct rte_mbuf *buffer = buffers[now][i];

			jobs[i].key = hot_key;
			jobs[i].record = record_in(buffer);
			texts[i] = text;
			jobs[i].length = length;
			buffer->data_off = RTE_PKTMBUF_HEADROOM - MEMORY_HEADER;
			buffer->data_len = MEMORY_HEADER + length;
			buffer->pkt_len = buffer->data_len;
			buffer->ol_flags = 0;
		}
		memory.aead->seal_texts(bare->aead, jobs, texts, BURST);
		if (rte_eth_tx_burst(memory.port.queues[0].device, 0, buffers[now], BURST) < BURST)
			memory_fail("the port refused records");
		bare->cycles += rte_get_tsc_cycles() - begin;
		bare->records += BURST;
		now = !now;
	}
	rte_pktmbuf_free_bulk(buffers[now], BURST);
	return 0;
}

/* Nanoseconds a record. */
static double limit(void)
{
	static struct bare bare;
	uint64_t got = 0;

	memset(&bare, 0, sizeof(bare));
	bare.aead = memory.aead->worker_new(-1);
	if (!bare.aead)
		memory_fail("out of memory");
	rte_eal_remote_launch(bare_run, &bare, 1);
	while (got < PHASE_COPIES)
		got += drain(false);
	atomic_store(&bare.stop, true);
	memory_wait(0);
	while (drain(false))
		continue;
	memory.aead->worker_free(bare.aead);
	return (double)bare.cycles * 1e9 / (double)rte_get_tsc_hz() / (double)bare.records;
}

static const char usage[] = "usage: fanout-worker [--members N] [--payload BYTES] [--seconds S]\n"
			    "                     [--aead NAME] [--json]\n";

static const struct aead_ops *parse(int argc, char **argv)
{
	static const struct option_row rows[] = {
		OPTION_NUMBER("members", &options.members, 1, 100000),
		OPTION_NUMBER("payload", &options.payload, 4, MEMORY_MTU - WIRE_PAYLOAD_OVERHEAD),
		OPTION_NUMBER("seconds", &options.seconds, 1, 600),
		OPTION_TEXT("aead", &options.aead),
		OPTION_FLAG("json", &options.json),
		{0},
	};
	const struct aead_ops *aead;

	options_read(rows, usage, argc, argv);
	aead = options.aead ? dataplane_aead(options.aead) : dataplane_aead_default();
	// a crypto device would have to be started
	if (!aead || aead == &aead_cryptodev) {
		fprintf(stderr, "fanout-worker: an unknown cipher\n%s", usage);
		exit(EXIT_USAGE);
	}
	return aead;
}

int main(int argc, char **argv)
{
	static double limits[ROUNDS_MAX], single[ROUNDS_MAX], packed[ROUNDS_MAX];
	const struct memory_config config = {
		.name = "fanout-worker",
		.aead = parse(argc, argv),
		.workers = 1,
		.sessions = options.members + 1,
		.slots = options.members + 1,
		.groups = 1,
		.buffers = BUFFERS,
	};
	uint8_t secret[WIRE_EXPORT_SIZE] = {1};
	struct counters counters = {0};
	const char *verdict = "ok";
	double begin, ns, rate;
	int rounds = 0;
	uint64_t lost;
	json_t *out;

	memory_init(&memory, &config);
	hot_key = aead_key_new(memory.aead, WIRE_AES_256_GCM, secret, -1);
	if (!hot_key)
		memory_fail("out of memory");
	make_topic();
	begin = (double)rte_get_tsc_cycles();
	do {
		limits[rounds] = limit();
		single[rounds] = fan_out(SINGLE);
		packed[rounds] = fan_out(PACKED);
		rounds++;
	} while (((double)rte_get_tsc_cycles() - begin) / (double)rte_get_tsc_hz() <
			 options.seconds &&
		 rounds < ROUNDS_MAX);

	counters_add(&counters, &memory.workers[0].published);
	lost = published * options.members - copies;
	ns = memory_median(limits, rounds);
	rate = memory_median(single, rounds);
	if (lost || counters.messages_copies != published * options.members ||
	    counters.messages_delivered != copies || !counters_balance(&counters))
		verdict = "copies were lost";
	else if (bad)
		verdict = "records came out wrong";
	out = json_pack("{s:i s:i s:s s:f s:f s:f s:f s:f s:I s:I s:I s:i s:s}", "members",
			options.members, "payload", options.payload, "aead", memory.aead->name,
			"deliveries_per_s", rate, "ns_per_copy", 1e9 / rate, "limit_ns", ns,
			"share_of_limit", ns * rate / 1e9, "packed_deliveries_per_s",
			memory_median(packed, rounds), "lost", (json_int_t)lost, "bad",
			(json_int_t)bad, "sampled", (json_int_t)sampled, "rounds", rounds,
			"verdict", verdict);
	if (!out)
		memory_fail("out of memory");
	result_print(out, options.json);
	return strcmp(verdict, "ok") != 0;
}
