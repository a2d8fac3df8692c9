/*
 * What a worker does with more than it can handle.
 *
 * A generator on another core sends sealed records at a given rate through a network card in memory
 * (nic.h) to the real worker, with shedding as viaductd has it by default; what the card has no
 * descriptors for is lost. Records are sealed before each phase, with sequences that go on as on a
 * wire; each peer sends to the next one, so that the clear header of what arrives tells whose it
 * is. Every 16th critical record that arrives is opened, for how long it took from ring to ring.
 * Classes come in any order. Phases, in turn, medians over the rounds:
 *
 *   quiet     half of the capacity, a third of each class: how long critical messages take
 *   overload  twice the capacity, a third of each class
 *   alone     100 peers, class normal, together at the capacity
 *   flood     the same with one of them at ten times its share
 *   good      all at the capacity
 *   garbage   the same beside as much garbage as the generator can send, at most 1 million a
 * second, from 50 sources: a third each no records, of no session, and forged ones of sessions (of
 * class critical, from elsewhere). The worker reports its sources, and the control thread's own
 * code has them blocked, before the clock runs
 *   open      the same with blocking switched off
 *
 * The capacity is what the worker forwards of one class when the ring is kept full and nothing is
 * shed. It is measured before each phase and after it, as the machine's speed changes by a third
 * within seconds; what is compared between two phases are shares of the mean. Generator and worker
 * have a core each, so the generator's is not counted. A phase is repeated if the two capacities
 * differ, if the worker sent less in a part of it, or if the machine kept one of the two cores for
 * longer than a worker's own ever would be. If it never gets through, the verdict says so.
 */
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <rte_cycles.h>
#include <rte_mbuf.h>

#include "blocklist.h"
#include "histogram.h"
#include "memory.h"
#include "options.h"

enum {
	PEERS = 100,
	FLOODER = 0,
	FLOOD = 10, // times its share
	GARBAGE_PER_S = 1000000,
	GARBAGE = 3072, // different ones
	GARBAGE_SOURCES = 50,
	BLOCKED_MS = 3000,       // at most, until all of those are blocked
	SAMPLE = 16,             // one critical record of so many is opened
	LAG = 4 * FORWARD_BURST, // records that a generator that was kept from working makes up for
	DRAIN = 64,              // records at a time
	STOPPED_US = 100,        // without progress: it was not running
	DRIFT_PERCENT = 10,      // of the capacity during a phase: more is another machine
	SLICES = 10,             // of a phase, each of which should bring as much
	SLOW_PERCENT = 20,       // less than the best one brought: the machine was slower
	TRIES = 20,              // of a phase
	SETTLE_MS = 5,           // the worker publishes once in each
	QUIET_MS = 20,           // without anything from the worker: it is done
	CONTROL_PERCENT = 10,    // viaductd's default
	ROUNDS_MAX = 100,
	MARGIN = 4, // records that there are, over those of the first capacity
	RATE_MAX = 40000000,
};

struct options {
	uint32_t payload, milliseconds, rounds;
	const char *aead;
	int json;
};

static struct options options = {.payload = 128, .milliseconds = 100, .rounds = 5};

/* Frames ready to copy. */
struct arena {
	uint8_t *bytes;
	uint32_t stride;
	uint16_t length; // of each
	uint32_t count;
};

/* What a phase sends, and what became of it. */
struct phase {
	double load; // of the capacity; 0: what the ring takes
	double rate; // which is so many records a second
	double capacity;
	uint32_t milliseconds;
	uint32_t records; // to be sent, at most
	bool classes;     // a third each, or else all normal
	bool flood;       // one peer sends FLOOD times its share
	bool garbage;     // as well
	bool open;        // its sources aren't blocked
	bool shed;        // as viaductd does
	uint64_t offered[WIRE_CLASSES];
	uint64_t arrived[PEERS][WIRE_CLASSES]; // from whom
	uint64_t garbage_sent;
	double seconds;
	bool disturbed;
	struct counters counters;
	struct histogram critical;
};

/* Of all rounds. */
static struct results {
	unsigned int repeated, disturbed; // phases
	uint64_t offered[WIRE_CLASSES], delivered[WIRE_CLASSES], shed[WIRE_CLASSES];
	double capacity[ROUNDS_MAX], offered_per_s[ROUNDS_MAX], p50[ROUNDS_MAX], p99[ROUNDS_MAX],
		p50_quiet[ROUNDS_MAX], p99_quiet[ROUNDS_MAX], share[ROUNDS_MAX],
		garbage[ROUNDS_MAX], garbage_blocked[ROUNDS_MAX], good_share[ROUNDS_MAX],
		open_share[ROUNDS_MAX];
} results;

static struct memory memory;
static struct nic nic;
static struct arena good, garbage;
static uint32_t *sent_at; // low bits of the TSC, of each record of `good`
static struct rates rates = {.control = CONTROL_PERCENT};
static struct blocklist blocklist;

static void fail_unless(bool condition, const char *what)
{
	if (!condition)
		memory_fail(what);
}

static uint16_t record_length(void)
{
	return (uint16_t)(WIRE_RECORD_OVERHEAD + WIRE_MESSAGE_HEADER + options.payload);
}

static void make_arena(struct arena *arena, uint32_t count)
{
	free(arena->bytes);
	arena->count = count;
	arena->length = MEMORY_HEADER + record_length();
	arena->stride = RTE_ALIGN_CEIL(arena->length, (uint32_t)RTE_CACHE_LINE_SIZE);
	arena->bytes = aligned_alloc(RTE_CACHE_LINE_SIZE, (size_t)count * arena->stride);
	fail_unless(arena->bytes, "out of memory");
}

static uint8_t *frame_at(const struct arena *arena, uint32_t number)
{
	return arena->bytes + (size_t)number * arena->stride;
}

/* Whose record is next: in turn, a flooder's after every tenth or so. */
static uint32_t peer_of(uint32_t number, bool flood)
{
	const uint32_t cycle = PEERS - 1 + FLOOD;

	if (!flood)
		return number % PEERS;
	if (number * FLOOD % cycle < FLOOD)
		return FLOODER;
	number = number % cycle;
	return 1 + (number - number * FLOOD / cycle - 1) % (PEERS - 1);
}

/* The sealed record's job; the tag is what tells it from others. */
static struct aead_job put_record(uint8_t *frame, uint32_t from, enum wire_class class,
				  uint32_t tag)
{
	struct wire_record header = {
		.class = class,
		.index = from,
		.sequence = memory.sequences[from]++,
	};
	uint8_t *record = frame + MEMORY_HEADER, *message = record + WIRE_RECORD_HEADER;

	memory_put_frame(frame, from);
	wire_record_put(record, &header);
	// nobody is told of a response that doesn't arrive
	wire_message_put(message, (uint16_t)options.payload, WIRE_RESPONSE, WIRE_HOP_LIMIT, 0, tag,
			 &memory.sessions->slot[(from + 1) % PEERS].id);
	memset(message + WIRE_MESSAGE_HEADER, (int)tag, options.payload);
	frame_finish(frame, MEMORY_HEADER, record_length());
	return (struct aead_job){
		.key = memory.up_keys[from], .record = record, .length = record_length()};
}

static enum wire_class class_of(uint32_t number, bool classes)
{
	// at random, as peers don't agree on when to send which
	return classes ? route_mix(number, UINT64_C(0x9e3779b97f4a7c15)) % 3 : WIRE_NORMAL;
}

static void seal_good(const struct phase *phase)
{
	struct aead_job jobs[64];
	unsigned int n = 0;

	for (uint32_t i = 0; i < phase->records; i++) {
		jobs[n++] = put_record(frame_at(&good, i), peer_of(i, phase->flood),
				       class_of(i, phase->classes), i);
		if (n == RTE_DIM(jobs) || i + 1 == phase->records) {
			memory.aead->seal(memory.aead_worker, jobs, n);
			n = 0;
		}
	}
}

static void make_garbage(void)
{
	make_arena(&garbage, GARBAGE);
	for (uint32_t i = 0; i < GARBAGE; i++) {
		uint8_t *frame = frame_at(&garbage, i), *record = frame + MEMORY_HEADER;
		struct wire_record header = {
			.class = WIRE_CRITICAL,
			.index = (uint32_t)memory_random() % PEERS,
			.sequence = WIRE_SEQUENCE_MAX - i,
		};

		if (i % 3 == 1)
			header.index = (uint32_t)memory_random() | PEERS;
		memory_put_frame(frame, PEERS + i % GARBAGE_SOURCES);
		for (uint16_t at = 0; at < record_length(); at++)
			record[at] = (uint8_t)memory_random();
		if (i % 3)
			wire_record_put(record, &header);
		frame_finish(frame, MEMORY_HEADER, record_length());
	}
}

static int block(void *arg, const uint64_t source[2])
{
	return filter_block(&memory.workers[0].filter, source);
}

static int unblock(void *arg, const uint64_t source[2])
{
	return filter_unblock(&memory.workers[0].filter, source);
}

static bool is_member(void *arg, const struct endpoint *at)
{
	for (uint32_t peer = 0; peer < PEERS; peer++) {
		const struct endpoint *here = &memory.sessions->slot[peer].current->endpoint;

		if (memcmp(here->ip, at->ip, sizeof(at->ip)) == 0)
			return true;
	}
	return false;
}

/* As viaductd has it by default, or no source is ever blocked. The worker doesn't run. */
static void blocklist_begin(bool open)
{
	static const struct blocklist_ops ops = {block, unblock, is_member};
	const struct config_trust trust = {
		.bad_records_per_second = open ? 0 : 1000,
		.block_seconds = 10,
		.block_seconds_max = 600,
	};

	blocklist.ops = &ops;
	blocklist_configure(&blocklist, &trust, memory.sessions);
	// it would report whom it has reported only a second later, when the machine is another
	memset(&memory.workers[0].forward.suspects, 0, sizeof(struct suspects));
}

static void blocklist_end(void)
{
	blocklist_sweep(&blocklist, UINT64_MAX); // all is over then
}

/* What of the control thread's work there is: to block whom the worker reports. */
static void control(void)
{
	struct forward_event events[8];
	unsigned int n = rte_ring_sc_dequeue_burst_elem(memory.workers[0].events, events,
							sizeof(events[0]), RTE_DIM(events), NULL);

	for (unsigned int i = 0; i < n; i++) {
		if (events[i].type == FORWARD_EVENT_SUSPECT)
			blocklist_report(&blocklist, &events[i].source, dataplane_now_ms());
	}
}

/* How long a critical record was on its way. */
static void time_it(struct phase *phase, const uint8_t *frame, uint16_t length, uint32_t now)
{
	uint8_t record[2048];
	struct aead_job job = {
		.record = record,
		.length = length - MEMORY_HEADER,
	};
	uint32_t number;

	memcpy(record, frame + MEMORY_HEADER, job.length);
	job.key = memory.sessions->slot[wire_get32(record + 4)].current->tx;
	memory.aead->open(memory.aead_worker, &job, 1);
	fail_unless(job.ok, "a record that arrived does not open");
	number = wire_message_tag(record + WIRE_RECORD_HEADER);
	fail_unless(number < good.count, "a message that arrived was never sent");
	histogram_add(&phase->critical,
		      (uint64_t)(now - sent_at[number]) * 1000000000 / rte_get_tsc_hz());
}

/* Takes what the worker has sent; returns how many records. */
static unsigned int drain(struct phase *phase)
{
	const uint32_t message = WIRE_MESSAGE_HEADER + options.payload;
	static uint32_t until_sample = SAMPLE;
	uint32_t now = (uint32_t)rte_get_tsc_cycles();
	unsigned int n = RTE_MIN(nic_ready(&nic.tx), (uint32_t)DRAIN);

	for (unsigned int i = 0; i < n; i++)
		rte_prefetch0(nic.tx.frames[nic_place(&nic.tx, nic.tx.done + i)] + MEMORY_HEADER);
	for (unsigned int i = 0; i < n; i++) {
		uint32_t place = nic_place(&nic.tx, nic.tx.done + i);
		const uint8_t *frame = nic.tx.frames[place];
		const uint8_t *record = frame + MEMORY_HEADER;
		enum wire_class class = record[1] >> WIRE_CLASS_SHIFT;
		uint32_t to = wire_get32(record + 4);

		phase->arrived[(to + PEERS - 1) % PEERS][class] +=
			(nic.tx.lengths[place] - MEMORY_HEADER - WIRE_RECORD_OVERHEAD) / message;
		if (class == WIRE_CRITICAL && --until_sample == 0) {
			until_sample = SAMPLE;
			time_it(phase, frame, nic.tx.lengths[place], now);
		}
	}
	if (n)
		nic_done(&nic.tx, n);
	return n;
}

/* Receives up to `n` frames, as far as there are descriptors; returns how many. */
static unsigned int feed(const struct arena *arena, uint32_t first, unsigned int n)
{
	uint32_t now = (uint32_t)rte_get_tsc_cycles();

	n = RTE_MIN(nic_ready(&nic.rx), n);
	for (unsigned int i = 0; i < n; i++) {
		for (unsigned int line = 0; line < arena->stride; line += RTE_CACHE_LINE_SIZE)
			__builtin_prefetch(
				nic.rx.frames[nic_place(&nic.rx, nic.rx.done + i)] + line, 1);
	}
	for (unsigned int i = 0; i < n; i++) {
		uint32_t place = nic_place(&nic.rx, nic.rx.done + i);

		memcpy(nic.rx.frames[place], frame_at(arena, first + i), arena->length);
		nic.rx.lengths[place] = arena->length;
		if (arena == &good)
			sent_at[first + i] = now;
	}
	if (n)
		nic_done(&nic.rx, n);
	return n;
}

static unsigned int due(double rate, uint64_t *begin, uint64_t now, uint64_t sent)
{
	double hz = (double)rte_get_tsc_hz();
	double wanted = (double)(now - *begin) / hz * rate - (double)sent;

	if (wanted > LAG) {
		// the machine had something else to do
		*begin += (uint64_t)((wanted - LAG) / rate * hz);
		wanted = LAG;
	}
	return wanted < 1 ? 0 : (unsigned int)RTE_MIN(wanted, FORWARD_BURST);
}

/* Whether the worker has done anything since it was asked last; when there is nothing to do, yes.
 */
static bool is_running(void)
{
	static uint32_t received, sent;
	uint32_t now_received = __atomic_load_n(&nic.rx.posted, __ATOMIC_RELAXED);
	uint32_t now_sent = __atomic_load_n(&nic.tx.posted, __ATOMIC_RELAXED);
	// the last ones are given back a burst at a time
	bool running = now_received != received || now_sent != sent ||
		       now_received - nic.rx.done > NIC_RX_RING - 2 * FORWARD_BURST;

	received = now_received;
	sent = now_sent;
	return running;
}

/* Sees to it that both cores are there for us. */
static void watch(struct phase *phase, uint64_t now, uint64_t *before, uint64_t *seen)
{
	uint64_t most = rte_get_tsc_hz() / US_PER_S * STOPPED_US;

	if (is_running() || now - *before > most)
		*seen = now;
	if (now - *before > most || now - *seen > most)
		phase->disturbed = true;
	*before = now;
}

/* Sends garbage alone, until all of its sources are blocked. */
static void have_blocked(void)
{
	uint64_t begin = rte_get_tsc_cycles(),
		 end = begin + rte_get_tsc_hz() / MS_PER_S * BLOCKED_MS;
	uint64_t now, sent = 0;

	while (blocklist.now < GARBAGE_SOURCES) {
		uint32_t next = sent % GARBAGE;
		unsigned int n;

		now = rte_get_tsc_cycles();
		fail_unless(now < end, "sources of garbage are not blocked");
		n = due(GARBAGE_PER_S, &begin, now, sent);
		n = RTE_MIN(n, GARBAGE - next);
		if (n)
			feed(&garbage, next, n);
		sent += n;
		control();
		rcu_quiescent_state();
	}
}

/*
 * Whether the machine was as fast all the time, by what arrived in each slice of a phase; but the
 * first, which begins with cold caches.
 */
static bool is_steady(const uint64_t *slices)
{
	uint64_t least = slices[1], most = slices[1];

	for (int i = 2; i < SLICES; i++) {
		least = RTE_MIN(least, slices[i]);
		most = RTE_MAX(most, slices[i]);
	}
	return least * 100 >= most * (100 - SLOW_PERCENT);
}

static void offer(struct phase *phase)
{
	uint64_t begin = rte_get_tsc_cycles(), garbage_begin = begin, paced = begin, last;
	uint64_t end = begin + rte_get_tsc_hz() / MS_PER_S * phase->milliseconds;
	uint64_t quiet = rte_get_tsc_hz() / MS_PER_S * QUIET_MS;
	uint64_t before = begin, seen = begin;
	uint32_t next = 0, next_garbage = 0;
	uint64_t slices[SLICES] = {0};

	while (next < phase->records && (last = rte_get_tsc_cycles()) < end) {
		unsigned int n = FORWARD_BURST;

		watch(phase, last, &before, &seen);

		if (phase->rate > 0)
			n = due(phase->rate, &paced, last, next);
		else if (nic_ready(&nic.rx) < n)
			n = 0;
		n = RTE_MIN(n, phase->records - next);
		if (n) {
			feed(&good, next, n);
			for (unsigned int i = 0; i < n; i++)
				phase->offered[class_of(next + i, phase->classes)]++;
			next += n;
		}
		if (phase->garbage) {
			n = due(GARBAGE_PER_S, &garbage_begin, last, phase->garbage_sent);
			n = RTE_MIN(n, GARBAGE - next_garbage);
			if (n)
				feed(&garbage, next_garbage, n);
			next_garbage = (next_garbage + n) % GARBAGE;
			phase->garbage_sent += n;
		}
		slices[(last - begin) * SLICES / (end - begin)] += drain(phase);
		control();
		rcu_quiescent_state();
	}
	last = rte_get_tsc_cycles();
	watch(phase, last, &before, &seen);
	// how the capacity varies is seen from one to the next
	if (phase->load > 0 && !is_steady(slices))
		phase->disturbed = true;
	phase->seconds = (double)(last - begin) / (double)rte_get_tsc_hz();
	while (rte_get_tsc_cycles() - last < quiet) {
		if (drain(phase))
			last = rte_get_tsc_cycles();
		rcu_quiescent_state();
	}
}

static struct counters count(void)
{
	struct counters counters = {0};

	counters_add(&counters, &memory.workers[0].published);
	return counters;
}

/* Until the worker has told what it counted, a few times. */
static void settle(void)
{
	const uint32_t *published = &memory.workers[0].published.sequence;
	uint32_t sequence = __atomic_load_n(published, __ATOMIC_RELAXED);

	while (__atomic_load_n(published, __ATOMIC_RELAXED) - sequence < 2 * SETTLE_MS)
		rcu_quiescent_state();
}

static void try(struct phase *phase)
{
	struct counters before;
	const uint64_t *was = (const uint64_t *)&before;
	uint64_t *is = (uint64_t *)&phase->counters;

	seal_good(phase);
	rates.shed = phase->shed;
	blocklist_begin(phase->open);
	memory_start(&memory);
	// it takes a while to come up, and the kernel to settle
	settle();
	if (phase->garbage && !phase->open) {
		have_blocked();
		settle();
	}
	before = count();
	offer(phase);
	memory_stop(&memory);
	blocklist_end();
	phase->counters = count();
	fail_unless(counters_balance(&phase->counters) &&
			    counters_balance_classes(&phase->counters),
		    "the ledgers don't balance");
	for (size_t i = 0; i < sizeof(before) / sizeof(*was); i++)
		is[i] -= was[i];
}

static uint64_t arrived(const struct phase *phase, enum wire_class class)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < PEERS; i++)
		sum += phase->arrived[i][class];
	return sum;
}

/* What all but the flooder got through, of the capacity. */
static double well_behaved(const struct phase *phase)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < PEERS; i++) {
		if (i != FLOODER)
			sum += phase->arrived[i][WIRE_NORMAL];
	}
	return (double)sum / phase->seconds / phase->capacity;
}

/* What was good and got through, of the capacity. */
static double good_share(const struct phase *phase)
{
	return (double)arrived(phase, WIRE_NORMAL) / phase->seconds / phase->capacity;
}

static uint64_t shed(const struct phase *phase, enum wire_class class)
{
	uint64_t sum = 0;

	for (int i = 0; i < DROP_RECORD_COUNT; i++)
		sum += phase->counters.classes.records_dropped[class][i];
	return sum;
}

/*
 * What a worker forwards that has always something to do, a second. `disturbed`: whether the
 * machine had other things to do meanwhile, so that it would be more.
 */
static double capacity(bool *disturbed)
{
	static struct phase phase;

	phase = (struct phase){.milliseconds = options.milliseconds / 3,
			       .records = good.count / MARGIN};
	try(&phase);
	*disturbed = phase.disturbed;
	return (double)arrived(&phase, WIRE_NORMAL) / phase.seconds;
}

/* Runs a phase with what of it is set. */
static void run(struct phase *phase)
{
	struct phase wanted = *phase;
	bool unsure, disturbed;
	double before = capacity(&unsure), after;

	for (int i = 0; i < TRIES; i++) {
		*phase = wanted;
		phase->rate = phase->load * before;
		phase->milliseconds = options.milliseconds;
		phase->records = RTE_MIN(good.count,
					 (uint32_t)(phase->rate / MS_PER_S * options.milliseconds));
		// the last one is told of, whatever it is
		if (!unsure || i + 1 == TRIES)
			try(phase);
		after = capacity(&disturbed);
		phase->capacity = (before + after) / 2;
		if (!unsure && !disturbed && !phase->disturbed &&
		    fabs(after - before) <= before * DRIFT_PERCENT / 100)
			return;
		before = after;
		unsure = disturbed;
		results.repeated++;
	}
	results.disturbed++;
}

/* 0: one of the two says nothing. */
static double ratio(double a, double b)
{
	return b > 0 && isfinite(a) ? a / b : 0;
}

static void round_of_phases(int round)
{
	static struct phase phase;
	double before;

	phase = (struct phase){.load = 0.5, .classes = true, .shed = true};
	run(&phase);
	results.p50_quiet[round] = histogram_quantile(&phase.critical, 0.5) / 1000;
	results.p99_quiet[round] = histogram_quantile(&phase.critical, 0.99) / 1000;

	phase = (struct phase){.load = 2, .classes = true, .shed = true};
	run(&phase);
	results.capacity[round] = phase.capacity;
	results.p50[round] = histogram_quantile(&phase.critical, 0.5) / 1000;
	results.p99[round] = histogram_quantile(&phase.critical, 0.99) / 1000;
	results.offered_per_s[round] = 0;
	for (int class = WIRE_BULK; class <= WIRE_CRITICAL; class ++) {
		results.offered[class] += phase.offered[class];
		results.delivered[class] += arrived(&phase, class);
		results.shed[class] += shed(&phase, class);
		results.offered_per_s[round] += ratio((double)phase.offered[class], phase.seconds);
	}

	phase = (struct phase){.load = 1, .shed = true};
	run(&phase);
	before = well_behaved(&phase);
	phase = (struct phase){.load = (PEERS - 1.0 + FLOOD) / PEERS, .flood = true, .shed = true};
	run(&phase);
	results.share[round] = ratio(well_behaved(&phase), before);

	phase = (struct phase){.load = 1, .shed = true};
	run(&phase);
	before = good_share(&phase);
	phase = (struct phase){.load = 1, .garbage = true, .shed = true};
	run(&phase);
	results.good_share[round] = ratio(good_share(&phase), before);
	results.garbage[round] = ratio((double)phase.garbage_sent, phase.seconds);
	results.garbage_blocked[round] =
		ratio((double)phase.counters.blocked, (double)phase.garbage_sent);
	phase = (struct phase){.load = 1, .garbage = true, .open = true, .shed = true};
	run(&phase);
	results.open_share[round] = ratio(good_share(&phase), before);
}

static json_t *classes(void)
{
	json_t *all = json_object();

	for (int class = WIRE_CRITICAL; class >= WIRE_BULK; class --)
		json_object_set_new(all, wire_class_name(class),
				    json_pack("{sI sI sI}", "offered",
					      (json_int_t)results.offered[class], "delivered",
					      (json_int_t)results.delivered[class], "shed",
					      (json_int_t)results.shed[class]));
	return all;
}

static const char usage[] = "usage: overload [--payload BYTES] [--milliseconds N] [--rounds N]\n"
			    "                [--aead NAME] [--json]\n";

static void parse(int argc, char **argv)
{
	static const struct option longs[] = {
		{"payload", 1, NULL, 'b'},
		{"milliseconds", 1, NULL, 't'},
		{"rounds", 1, NULL, 'r'},
		{"aead", 1, NULL, 'a'},
		{"json", 0, NULL, 'j'},
		{"help", 0, NULL, 'h'},
		{0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 'b':
			options.payload = option_number("payload", optarg, 0,
							MEMORY_MTU - WIRE_PAYLOAD_OVERHEAD);
			break;
		case 't':
			options.milliseconds = option_number("milliseconds", optarg, 10, 1000);
			break;
		case 'r':
			options.rounds = option_number("rounds", optarg, 1, ROUNDS_MAX);
			break;
		case 'a':
			options.aead = optarg;
			break;
		case 'j':
			options.json = 1;
			break;
		default:
			fputs(usage, c == 'h' ? stdout : stderr);
			exit(c == 'h' ? 0 : 2);
		}
	}
	if (optind < argc) {
		fputs(usage, stderr);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	struct memory_config config = {
		.name = "overload",
		.workers = 1,
		.sessions = PEERS,
		.slots = PEERS,
		.nic = &nic,
	};
	const char *verdict = "ok";
	bool disturbed = true;
	double first = 0, most, offered;
	json_t *out;

	parse(argc, argv);
	config.aead = options.aead ? dataplane_aead(options.aead) : dataplane_aead_default();
	if (!config.aead || config.aead == &aead_cryptodev) {
		fputs("overload: an unknown cipher, or one that needs a device\n", stderr);
		return 2;
	}
	memory_init(&memory, &config);
	memory.sessions->rates = &rates;
	make_garbage();

	make_arena(&good, 1 << 20);
	sent_at = memory_reserve(RATE_MAX / MS_PER_S * options.milliseconds, sizeof(*sent_at));
	for (int i = 0; i < TRIES && disturbed; i++)
		first = RTE_MAX(first, capacity(&disturbed));
	fail_unless(first > 0, "nothing is forwarded");
	fail_unless(first * MARGIN < RATE_MAX, "faster than it knows how to measure");
	// enough for the most that is sent
	make_arena(&good, (uint32_t)(first * MARGIN / MS_PER_S * options.milliseconds));
	for (uint32_t i = 0; i < options.rounds; i++)
		round_of_phases((int)i);

	most = memory_median(results.capacity, (int)options.rounds);
	offered = memory_median(results.offered_per_s, (int)options.rounds);
	if (offered < 1.9 * most)
		verdict = "the generator is too slow to say";
	if (results.disturbed)
		verdict = "the machine had other things to do";
	out = json_pack(
		"{sf sf so sI sf sf sf sf sf sf sf sf sf si si si ss ss}", "offered", offered,
		"capacity", most, "classes", classes(), "critical_lost",
		(json_int_t)(results.offered[WIRE_CRITICAL] - results.delivered[WIRE_CRITICAL]),
		"critical_p50_us", memory_median(results.p50, (int)options.rounds),
		"critical_p50_us_quiet", memory_median(results.p50_quiet, (int)options.rounds),
		"critical_p99_us", memory_median(results.p99, (int)options.rounds),
		"critical_p99_us_quiet", memory_median(results.p99_quiet, (int)options.rounds),
		"well_behaved_share", memory_median(results.share, (int)options.rounds),
		"garbage_per_s", memory_median(results.garbage, (int)options.rounds),
		"garbage_blocked", memory_median(results.garbage_blocked, (int)options.rounds),
		"garbage_good_share", memory_median(results.good_share, (int)options.rounds),
		"garbage_good_share_open", memory_median(results.open_share, (int)options.rounds),
		"payload", options.payload, "rounds", options.rounds, "repeated", results.repeated,
		"aead", config.aead->name, "verdict", verdict);
	fail_unless(out, "out of memory");
	json_dumpf(out, stdout, JSON_REAL_PRECISION(6) | (options.json ? 0 : JSON_INDENT(2)));
	putchar('\n');
	json_decref(out);
	return strcmp(verdict, "ok") != 0;
}
