#include "test.h"

#include <stdlib.h>

#include "fixture.h"
#include "toy.h"

enum {
	FIRST = 10, // slot of the first member
	TURNS = 1000,
};

struct state {
	struct fixture *f;
	struct peer *publisher;
	struct topic *topics[FIXTURE_GROUPS];
	struct wire_id ids[FIXTURE_GROUPS];
	struct peer *members[FIXTURE_SLOTS];
	unsigned int heard[FIXTURE_SLOTS]; // by tag, of one member
};

static int set_up(void **out)
{
	struct state *state = calloc(1, sizeof(*state));

	assert_non_null(state);
	state->f = fixture_new(&toy_aead);
	state->publisher = peer_new(state->f, 1);
	*out = state;
	return 0;
}

static int tear_down(void **out)
{
	struct state *state = *out;

	fixture_free(state->f);
	for (int i = 0; i < FIXTURE_GROUPS; i++) {
		if (state->topics[i])
			free(state->topics[i]->members);
		free(state->topics[i]);
	}
	free(state);
	return 0;
}

static struct counters *counters(struct state *state)
{
	return &state->f->workers[0].forward.counters;
}

static struct topic_members *members_new(const uint32_t *slots, unsigned int n)
{
	struct topic_members *members = malloc(sizeof(*members) + n * sizeof(slots[0]));

	assert_non_null(members);
	members->count = n;
	if (n)
		memcpy(members->slots, slots, n * sizeof(slots[0]));
	return members;
}

/* What control does with a topic whose members have changed; the grace period is over at once. */
static void republish(struct state *state, unsigned int topic, const uint32_t *slots,
		      unsigned int n)
{
	free(state->topics[topic]->members);
	state->topics[topic]->members = members_new(slots, n);
}

/* A topic with these members. */
static void topic_new(struct state *state, unsigned int number, const uint32_t *slots,
		      unsigned int n)
{
	struct topic *topic = aligned_alloc(64, sizeof(*topic));

	assert_non_null(topic);
	memset(topic, 0, sizeof(*topic));
	topic->group.kind = GROUP_TOPIC;
	topic->members = members_new(slots, n);
	memcpy(state->ids[number].bytes, "topic", 5);
	state->ids[number].bytes[5] = (uint8_t)number;
	state->topics[number] = topic;
	rcu_assign_pointer(state->f->sessions->slot[FIXTURE_SLOTS + number].group, &topic->group);
	assert_int_equal(route_set(&state->f->routes, &state->ids[number], FIXTURE_SLOTS + number),
			 0);
}

static void topic_end(struct state *state, unsigned int number)
{
	assert_int_equal(route_remove(&state->f->routes, &state->ids[number]), 0);
	rcu_assign_pointer(state->f->sessions->slot[FIXTURE_SLOTS + number].group, NULL);
}

/* Topic 0 with members in the `n` slots from FIRST on. */
static void gather(struct state *state, unsigned int n)
{
	uint32_t slots[FIXTURE_SLOTS];

	for (unsigned int i = 0; i < n; i++) {
		slots[i] = FIRST + i;
		state->members[i] = peer_new(state->f, FIRST + i);
	}
	topic_new(state, 0, slots, n);
}

static struct said publication(struct state *state, unsigned int topic, uint32_t tag,
			       uint16_t length)
{
	struct said said = say(&state->ids[topic], tag, length);

	said.kind = WIRE_PUBLISH;
	return said;
}

static void publish(struct state *state, struct peer *from, unsigned int topic,
		    enum wire_class class, uint32_t tag, uint16_t length)
{
	struct said said = publication(state, topic, tag, length);

	peer_says(state->f, from, 0, class, &said, 1);
	fixture_burst(state->f, 0);
}

/* Runs until nothing is left to be done; returns the number of turns. */
static unsigned int finish(struct state *state)
{
	unsigned int turns = 0;

	while (fixture_resume(state->f, 0)) {
		turns++;
		assert_true(turns < TURNS);
	}
	return turns;
}

/* How often a member heard what was published with this tag, as it should be. */
static unsigned int times_heard(struct state *state, const struct peer *member, unsigned int topic,
				uint32_t tag)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < state->f->heard_count; i++) {
		const struct heard *heard = &state->f->heard[i];

		if (heard->peer != member || heard->tag != tag || heard->kind != WIRE_PUBLISH)
			continue;
		assert_int_equal(heard->flags, WIRE_FLAG_VIA);
		assert_memory_equal(heard->payload, &state->ids[topic], WIRE_VIA_SIZE);
		assert_int_equal(heard->hop_limit, WIRE_HOP_LIMIT - 1);
		assert_true(payload_right(tag, heard->payload + WIRE_VIA_SIZE, heard->length));
		n++;
	}
	return n;
}

static void expect_heard_once(struct state *state, unsigned int first, unsigned int end,
			      uint32_t tag)
{
	for (unsigned int i = first; i < end; i++)
		assert_int_equal(times_heard(state, state->members[i], 0, tag), 1);
}

/* The error that the publisher heard last. */
static void expect_refused(struct state *state, enum drop_message reason, uint8_t kind,
			   uint64_t times)
{
	const struct heard *last = &state->f->heard[state->f->heard_count - 1];

	assert_int_equal(counters(state)->messages_dropped[reason], times);
	assert_true(state->f->heard_count > 0);
	assert_ptr_equal(last->peer, state->publisher);
	assert_int_equal(last->kind, kind);
}

static void test_each_once(void **out)
{
	struct state *state = *out;
	struct counters *c = counters(state);

	gather(state, 5);
	publish(state, state->publisher, 0, WIRE_NORMAL, 7, 100);
	// all in the turn that it came in
	assert_false(fixture_resume(state->f, 0));
	assert_int_equal(state->f->heard_count, 5);
	expect_heard_once(state, 0, 5, 7);
	for (unsigned int i = 0; i < 5; i++) {
		assert_true(wire_id_equal(&state->f->heard[i].address, &state->publisher->id));
		assert_int_equal(state->f->heard[i].class, WIRE_NORMAL);
		assert_int_equal(state->f->heard[i].length, 100);
	}
	// the ledger: the publication itself is consumed
	assert_int_equal(c->messages_opened, 1);
	assert_int_equal(c->messages_consumed, 1);
	assert_int_equal(c->messages_copies, 5);
	assert_int_equal(c->messages_delivered, 5);
	assert_int_equal(state->topics[0]->counts[0].published, 1);
	assert_int_equal(state->topics[0]->counts[0].copies, 5);

	// a member that publishes gets no copy
	fixture_clear(state->f);
	publish(state, state->members[2], 0, WIRE_BULK, 8, 0);
	assert_int_equal(state->f->heard_count, 4);
	assert_int_equal(times_heard(state, state->members[2], 0, 8), 0);
	assert_int_equal(c->messages_copies, 9);

	// a topic that nobody has joined is there nevertheless if it is configured
	republish(state, 0, NULL, 0);
	fixture_clear(state->f);
	publish(state, state->publisher, 0, WIRE_NORMAL, 9, 0);
	assert_int_equal(state->f->heard_count, 0);
	assert_int_equal(c->messages_consumed, 3);
	assert_int_equal(c->messages_copies, 9);
}

static void test_packed(void **out)
{
	struct state *state = *out;
	struct said said[6];

	gather(state, 3);
	// four of them fill a record; from two records of the publisher's, and in order
	for (uint32_t i = 0; i < 6; i++)
		said[i] = publication(state, 0, i, 256);
	peer_says(state->f, state->publisher, 0, WIRE_NORMAL, said, 2);
	peer_says(state->f, state->publisher, 0, WIRE_NORMAL, said + 2, 4);
	fixture_burst(state->f, 0);
	finish(state);
	assert_int_equal(state->f->heard_count, 18);
	assert_int_equal(state->f->sent_count, 6);
	for (uint32_t i = 0; i < 6; i++)
		expect_heard_once(state, 0, 3, i);
	for (unsigned int i = 1; i < 18; i++) {
		const struct heard *before = &state->f->heard[i - 1], *now = &state->f->heard[i];

		assert_true(now->peer != before->peer || now->tag == before->tag + 1);
	}

	// with what else the burst has for a member
	fixture_clear(state->f);
	peer_says(state->f, state->publisher, 0, WIRE_NORMAL, said, 1);
	said[1] = say(&state->members[1]->id, 100, 20);
	said[2] = say(&state->members[1]->id, 101, 20);
	peer_says(state->f, state->publisher, 0, WIRE_NORMAL, said + 1, 2);
	fixture_burst(state->f, 0);
	assert_int_equal(state->f->heard_count, 5);
	assert_int_equal(state->f->sent_count, 3);

	// classes don't mix
	fixture_clear(state->f);
	said[1] = publication(state, 0, 1, 10);
	peer_says(state->f, state->publisher, 0, WIRE_NORMAL, said, 1);
	peer_says(state->f, state->publisher, 0, WIRE_CRITICAL, said + 1, 1);
	fixture_burst(state->f, 0);
	finish(state);
	assert_int_equal(state->f->sent_count, 6);
	// the critical one first, though it came second
	assert_int_equal(state->f->heard[0].tag, 1);
	assert_int_equal(state->f->heard[0].class, WIRE_CRITICAL);
}

/* What one turn has for the same member from several topics, or publishers. */
static void test_mixed(void **out)
{
	struct state *state = *out;
	uint32_t slots[] = {FIRST, FIRST + 1, FIRST + 2};
	struct said said[3];

	gather(state, 3);
	topic_new(state, 1, slots, 2);
	topic_new(state, 2, slots + 1, 2);
	for (uint32_t i = 0; i < 3; i++)
		said[i] = publication(state, i, i, 100);
	peer_says(state->f, state->publisher, 0, WIRE_NORMAL, said, 3);
	fixture_burst(state->f, 0);
	assert_false(fixture_resume(state->f, 0));
	assert_int_equal(state->f->sent_count, 3);
	assert_int_equal(state->f->heard_count, 7);
	for (unsigned int i = 0; i < 3; i++) {
		assert_int_equal(times_heard(state, state->members[i], 0, 0), 1);
		assert_int_equal(times_heard(state, state->members[i], 1, 1), i < 2);
		assert_int_equal(times_heard(state, state->members[i], 2, 2), i > 0);
	}

	// of those that wait together a member gets all but its own
	fixture_clear(state->f);
	peer_says(state->f, state->publisher, 0, WIRE_NORMAL, said, 1);
	said[0].tag = 3;
	peer_says(state->f, state->members[1], 0, WIRE_NORMAL, said, 1);
	said[0].tag = 4;
	peer_says(state->f, state->publisher, 0, WIRE_NORMAL, said, 1);
	said[0] = publication(state, 1, 5, 10);
	peer_says(state->f, state->publisher, 0, WIRE_NORMAL, said, 1);
	fixture_burst(state->f, 0);
	finish(state);
	assert_int_equal(state->f->sent_count, 3);
	assert_int_equal(state->f->heard_count, 3 + 2 + 3 + 2);
	for (unsigned int i = 0; i < 3; i++) {
		assert_int_equal(times_heard(state, state->members[i], 0, 0), 1);
		assert_int_equal(times_heard(state, state->members[i], 0, 3), i != 1);
		assert_int_equal(times_heard(state, state->members[i], 0, 4), 1);
		assert_int_equal(times_heard(state, state->members[i], 1, 5), i < 2);
	}
}

/* A turn in which buffers run out, and more are to be had. */
static void test_flushed_meanwhile(void **out)
{
	struct state *state = *out;
	struct said said[4];

	gather(state, FORWARD_SPARES);
	said[0] = publication(state, 0, 1, 100);
	for (uint32_t i = 1; i < 4; i++)
		said[i] = say(&state->members[i]->id, 100 + i, 20);
	peer_says(state->f, state->publisher, 0, WIRE_NORMAL, said, 4);
	peer_says(state->f, state->publisher, 0, WIRE_CRITICAL, said + 1, 3);
	fixture_burst(state->f, 0);
	finish(state);
	expect_heard_once(state, 0, FORWARD_SPARES, 1);
	assert_int_equal(state->f->heard_count, FORWARD_SPARES + 6);
}

/* More text than a turn has room for. */
static void test_much_text(void **out)
{
	enum { LENGTH = 1000, FIT = TOPIC_TEXTS / (TOPIC_HEADER + LENGTH) };
	struct state *state = *out;

	gather(state, 2);
	for (uint32_t i = 0; i < FIT + 5; i++) {
		struct said said = publication(state, 0, i, LENGTH);

		peer_says(state->f, state->publisher, 0, WIRE_NORMAL, &said, 1);
	}
	fixture_burst(state->f, 0);
	assert_int_equal(state->f->heard_count, 2 * FIT);
	assert_int_equal(finish(state), 1);
	for (uint32_t i = 0; i < FIT + 5; i++)
		expect_heard_once(state, 0, 2, i);
}

/* A fan-out goes on over many turns, and what comes meanwhile doesn't wait for it. */
static void test_turns(void **out)
{
	struct state *state = *out;
	struct said said;
	unsigned int n = 3 * TOPIC_TURN + 5;

	gather(state, n);
	publish(state, state->publisher, 0, WIRE_NORMAL, 1, 1000);
	assert_int_equal(state->f->heard_count, TOPIC_TURN);
	said = say(&state->publisher->id, 2, 10);
	peer_says(state->f, state->members[n - 1], 0, WIRE_NORMAL, &said, 1);
	fixture_burst(state->f, 0);
	assert_int_equal(state->f->heard_count, 2 * TOPIC_TURN + 1);
	assert_int_equal(state->f->heard[TOPIC_TURN].tag, 2);
	assert_int_equal(finish(state), 2);
	assert_int_equal(state->f->heard_count, n + 1);
	expect_heard_once(state, 0, n, 1);
	assert_int_equal(counters(state)->messages_copies, n);
}

/* Members come and go while a fan-out is under way. */
static void test_replaced_meanwhile(void **out)
{
	struct state *state = *out;
	uint32_t slots[FIXTURE_SLOTS];
	unsigned int n = 2 * TOPIC_TURN, count = 0;
	struct peer *early, *late;

	gather(state, n);
	early = peer_new(state->f, 2);
	late = peer_new(state->f, FIRST + n);
	publish(state, state->publisher, 0, WIRE_NORMAL, 1, 10);
	// one before the place where it stopped has come, and one behind; the first and last went
	slots[count++] = 2;
	for (unsigned int i = 1; i < n - 1; i++)
		slots[count++] = FIRST + i;
	slots[count++] = FIRST + n;
	republish(state, 0, slots, count);
	finish(state);
	expect_heard_once(state, 0, n - 1, 1);
	assert_int_equal(times_heard(state, state->members[n - 1], 0, 1), 0);
	assert_int_equal(times_heard(state, early, 0, 1), 0);
	assert_int_equal(times_heard(state, late, 0, 1), 1);

	// the one where it stopped has gone as well
	fixture_clear(state->f);
	publish(state, state->publisher, 0, WIRE_NORMAL, 2, 10);
	republish(state, 0, slots + 70, count - 70);
	finish(state);
	for (unsigned int i = 70; i < n - 1; i++)
		assert_int_equal(times_heard(state, state->members[i], 0, 2), 1);
	assert_int_equal(state->f->heard_count, 64 + count - 70);

	// the topic itself goes, and another gets its place
	fixture_clear(state->f);
	republish(state, 0, slots, count);
	publish(state, state->publisher, 0, WIRE_NORMAL, 3, 10);
	assert_int_equal(state->f->heard_count, TOPIC_TURN);
	topic_end(state, 0);
	assert_int_equal(finish(state), 1);
	assert_int_equal(state->f->heard_count, TOPIC_TURN);
	publish(state, state->publisher, 0, WIRE_NORMAL, 4, 10);
	expect_refused(state, DROP_MESSAGE_NO_ROUTE, WIRE_ERROR | WIRE_REASON_NO_ROUTE, 1);
}

/* Members that can't get their copy cost the others nothing. */
static void test_unreachable(void **out)
{
	struct state *state = *out;
	struct counters *c = counters(state);
	struct session *session;

	gather(state, 6);
	// without a session; without an address; with a key that is used up; for too small records
	rcu_assign_pointer(state->f->sessions->slot[FIRST].current, NULL);
	peer_republish(state->f, state->members[1])->header.length = 0;
	peer_republish(state->f, state->members[2])->tx_budget = 0;
	session = peer_republish(state->f, state->members[3]);
	session->record_max = 1000;
	publish(state, state->publisher, 0, WIRE_NORMAL, 1, 1000);
	finish(state);
	assert_int_equal(state->f->heard_count, 2);
	expect_heard_once(state, 4, 6, 1);
	assert_int_equal(c->messages_copies, 6);
	assert_int_equal(c->messages_dropped[DROP_MESSAGE_NO_ROUTE], 2);
	assert_int_equal(c->messages_dropped[DROP_MESSAGE_KEY_EXHAUSTED], 1);
	assert_int_equal(c->messages_dropped[DROP_MESSAGE_TOO_LARGE], 1);

	// what the port refuses is lost, and only that
	fixture_clear(state->f);
	session->record_max = WIRE_MTU_MIN - WIRE_IP_OVERHEAD;
	state->f->workers[0].port = 2;
	publish(state, state->publisher, 0, WIRE_NORMAL, 2, 10);
	finish(state);
	assert_int_equal(c->messages_dropped[DROP_MESSAGE_TX_FULL], 1);
	expect_heard_once(state, 3, 5, 2);
	publish(state, state->publisher, 0, WIRE_NORMAL, 3, 10);
	expect_heard_once(state, 3, 6, 3);
}

static void test_policy(void **out)
{
	struct state *state = *out;
	struct policy policy;

	gather(state, 4);
	memset(&policy, 0xff, sizeof(policy));
	policy.allowed[1][0] &= ~UINT64_C(4); // 1 not to 2
	peer_republish(state->f, state->publisher)->cluster = 1;
	peer_republish(state->f, state->members[0])->cluster = 2;
	peer_republish(state->f, state->members[3])->cluster = 2;
	rcu_assign_pointer(state->f->sessions->policy, &policy);
	publish(state, state->publisher, 0, WIRE_NORMAL, 1, 10);
	assert_int_equal(state->f->heard_count, 2);
	expect_heard_once(state, 1, 3, 1);
	assert_int_equal(counters(state)->messages_dropped[DROP_MESSAGE_POLICY], 2);
	assert_int_equal(counters(state)->messages_copies, 4);
	// whoever is allowed to reaches all
	fixture_clear(state->f);
	publish(state, state->members[1], 0, WIRE_NORMAL, 2, 10);
	assert_int_equal(state->f->heard_count, 3);
	rcu_assign_pointer(state->f->sessions->policy, NULL);
}

/* Want of buffers delays, and loses nothing. */
static void test_no_buffers(void **out)
{
	struct state *state = *out;
	struct fixture_worker *worker = &state->f->workers[0];
	unsigned int n = 150;

	gather(state, n);
	worker->pool = 3;
	for (unsigned int i = 0; i < 5; i++)
		publish(state, state->publisher, 0, WIRE_NORMAL, i, 1000);
	// what is sent comes back to the pool, as far as it was of the pool
	finish(state);
	for (unsigned int i = 0; i < 5; i++)
		expect_heard_once(state, 0, n, i);
	assert_int_equal(counters(state)->messages_dropped[DROP_MESSAGE_NO_BUFFER], 0);
	assert_int_equal(counters(state)->messages_delivered, 5 * n);
}

static void test_not_taken(void **out)
{
	struct state *state = *out;
	struct counters *c = counters(state);
	struct said said;

	gather(state, 2);
	// only publications go to a topic
	said = say(&state->ids[0], 1, 10);
	peer_says(state->f, state->publisher, 0, WIRE_NORMAL, &said, 1);
	fixture_burst(state->f, 0);
	expect_refused(state, DROP_MESSAGE_UNSUPPORTED, WIRE_ERROR | WIRE_REASON_UNSUPPORTED, 1);
	said.kind = WIRE_REQUEST;
	peer_says(state->f, state->publisher, 0, WIRE_NORMAL, &said, 1);
	fixture_burst(state->f, 0);
	expect_refused(state, DROP_MESSAGE_UNSUPPORTED, WIRE_ERROR | WIRE_REASON_UNSUPPORTED, 2);
	said.kind = WIRE_RESPONSE;
	peer_says(state->f, state->publisher, 0, WIRE_NORMAL, &said, 1);
	fixture_burst(state->f, 0);
	assert_int_equal(c->messages_dropped[DROP_MESSAGE_UNSUPPORTED], 3);
	// and to nothing else
	said = say(&state->members[0]->id, 1, 10);
	said.kind = WIRE_PUBLISH;
	peer_says(state->f, state->publisher, 0, WIRE_NORMAL, &said, 1);
	fixture_burst(state->f, 0);
	expect_refused(state, DROP_MESSAGE_UNSUPPORTED, WIRE_ERROR | WIRE_REASON_UNSUPPORTED, 4);
	said = publication(state, 0, 1, 10);
	peer_says(state->f, state->publisher, 0, WIRE_CONTROL, &said, 1);
	fixture_burst(state->f, 0);
	expect_refused(state, DROP_MESSAGE_UNSUPPORTED, WIRE_ERROR | WIRE_REASON_UNSUPPORTED, 5);
	said.hop_limit = 0;
	peer_says(state->f, state->publisher, 0, WIRE_NORMAL, &said, 1);
	fixture_burst(state->f, 0);
	expect_refused(state, DROP_MESSAGE_HOP_LIMIT, WIRE_ERROR | WIRE_REASON_HOP_LIMIT, 1);
	assert_int_equal(c->messages_copies, 0);
}

static void test_rates(void **out)
{
	struct state *state = *out;
	struct peer *other;
	uint32_t tag = 0;

	gather(state, 2);
	other = state->members[0];
	state->topics[0]->publisher_rate = 10;
	state->topics[0]->rate = 15;
	for (int i = 0; i < 10; i++)
		publish(state, state->publisher, 0, WIRE_NORMAL, tag++, 0);
	assert_int_equal(counters(state)->messages_consumed, 10);
	publish(state, state->publisher, 0, WIRE_NORMAL, tag++, 0);
	expect_refused(state, DROP_MESSAGE_PUBLISHER_RATE, WIRE_ERROR | WIRE_REASON_PUBLISHER_RATE,
		       1);
	// of others the topic takes more, but not any number; workers share both rates
	for (int i = 0; i < 5; i++) {
		struct said said = publication(state, 0, tag++, 0);

		peer_says(state->f, other, 1, WIRE_NORMAL, &said, 1);
		fixture_burst(state->f, 1);
	}
	assert_int_equal(state->f->workers[1].forward.counters.messages_consumed, 5);
	publish(state, other, 0, WIRE_NORMAL, tag++, 0);
	assert_int_equal(counters(state)->messages_dropped[DROP_MESSAGE_TOPIC_RATE], 1);
	assert_int_equal(state->topics[0]->counts[0].refused, 2);
	// time brings more
	state->f->now_ms += 100;
	publish(state, state->publisher, 0, WIRE_NORMAL, tag++, 0);
	publish(state, state->publisher, 0, WIRE_NORMAL, tag++, 0);
	assert_int_equal(counters(state)->messages_consumed, 11);
	assert_int_equal(counters(state)->messages_dropped[DROP_MESSAGE_PUBLISHER_RATE], 2);
}

static void test_admit(void **out)
{
	uint64_t due = 0, now = 5000;
	unsigned int passed = 0;

	// a second's worth at once, then at the rate, over 20 seconds
	for (int ms = 0; ms < 20000; ms++) {
		for (int i = 0; i < 3; i++)
			passed += topic_admit(&due, 700, now + (uint64_t)ms);
	}
	assert_in_range(passed, 21 * 700 - 2, 21 * 700 + 2);
	for (int i = 0; i < 100; i++)
		assert_true(topic_admit(&due, 0, 0));
	// a clock that is a little behind another worker's does no harm
	due = 0;
	assert_true(topic_admit(&due, 1, now));
	assert_false(topic_admit(&due, 1, now - 1));
	assert_false(topic_admit(&due, 1, now + 999));
	assert_true(topic_admit(&due, 1, now + 1000));
}

/* What comes in faster than it goes out is refused, and only to the topic that it is for. */
static void test_full(void **out)
{
	struct state *state = *out;
	struct said said[TOPIC_JOBS_EACH + 3];
	uint32_t slots[] = {FIRST};
	unsigned int half = TOPIC_JOBS_EACH / 2;

	gather(state, 200);
	topic_new(state, 1, slots, 1);
	// in records that are larger than most
	peer_republish(state->f, state->publisher)->record_max = FIXTURE_RECORD_MAX;
	for (uint32_t i = 0; i < TOPIC_JOBS_EACH + 2; i++)
		said[i] = publication(state, 0, i, 0);
	said[TOPIC_JOBS_EACH + 2] = publication(state, 1, 1000, 0);
	peer_says(state->f, state->publisher, 0, WIRE_NORMAL, said, half);
	peer_says(state->f, state->publisher, 0, WIRE_NORMAL, said + half, half);
	fixture_burst(state->f, 0);
	assert_int_equal(counters(state)->messages_dropped[DROP_MESSAGE_TOPIC_FULL], 0);
	peer_says(state->f, state->publisher, 0, WIRE_NORMAL, said + 2 * half, 3);
	fixture_burst(state->f, 0);
	assert_int_equal(counters(state)->messages_dropped[DROP_MESSAGE_TOPIC_FULL], 2);
	assert_int_equal(state->topics[0]->counts[0].refused, 2);
	// the small topic doesn't wait until the large one is done
	fixture_resume(state->f, 0);
	assert_int_equal(times_heard(state, state->members[0], 1, 1000), 1);
	assert_int_equal(times_heard(state, state->members[199], 0, 0), 0);
	finish(state);
	for (uint32_t i = 0; i < TOPIC_JOBS_EACH; i += 50)
		expect_heard_once(state, 0, 200, i);
	assert_int_equal(counters(state)->messages_delivered,
			 200 * TOPIC_JOBS_EACH + 1 + counters(state)->messages_made);
	// and there is room again, over and over
	for (uint32_t round = 0; round < 3; round++) {
		fixture_clear(state->f);
		for (uint32_t i = 0; i < 100; i++) {
			publish(state, state->publisher, round % 2, WIRE_NORMAL, i, 100);
			finish(state);
		}
	}
	assert_int_equal(counters(state)->messages_dropped[DROP_MESSAGE_TOPIC_FULL], 2);
}

/* Ends with work undone: fixture_free() sees that all buffers come back. */
static void test_ends_early(void **out)
{
	struct state *state = *out;

	gather(state, 200);
	for (uint32_t i = 0; i < 10; i++)
		publish(state, state->publisher, 0, WIRE_NORMAL, i, 1000);
	assert_true(state->f->workers[0].forward.topics.queue_count > 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(each_once),
		TEST(packed),
		TEST(mixed),
		TEST(flushed_meanwhile),
		TEST(much_text),
		TEST(turns),
		TEST(replaced_meanwhile),
		TEST(unreachable),
		TEST(policy),
		TEST(no_buffers),
		TEST(not_taken),
		TEST(rates),
		TEST(admit),
		TEST(full),
		TEST(ends_early),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
