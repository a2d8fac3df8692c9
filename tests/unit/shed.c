/* What is served first, and what is shed, when there is too much: by class and by sender. */
#include "test.h"

#include <stdlib.h>

#include "fixture.h"
#include "shed.h"
#include "toy.h"

enum {
	CONTROL = 10, // percent
	RESERVED = SHED_BACKLOG * CONTROL / 100,
	ROOM = SHED_BACKLOG - RESERVED,
};

/* A backlog in front of the fixture's first worker. */
struct over {
	struct fixture *f;
	struct shed *shed;
};

static int set_up(void **state)
{
	struct over *o = calloc(1, sizeof(*o));

	o->f = fixture_new(&toy_aead);
	o->shed = calloc(1, sizeof(*o->shed));
	shed_init(o->shed);
	o->shed->control = CONTROL;
	// in mid-window, and everybody has kept up
	o->shed->share = SHED_NO_SHARE;
	o->shed->window_ms = o->f->now_ms;
	*state = o;
	return 0;
}

/* Puts what the peers have said since into the backlog, as a worker does: at most a burst. */
static void put(struct over *o)
{
	struct fixture *f = o->f;
	struct forward *forward = &f->workers[0].forward;
	struct forward_input *kept[FORWARD_BURST];
	struct shed_claim claims[FORWARD_BURST];
	unsigned int n = 0;

	shed_begin(o->shed, forward, f->now_ms);
	for (unsigned int i = 0; i < f->input_count; i++) {
		struct forward_input *input = &f->inputs[i];
		struct wire_words header;

		if (input->handed ||
		    wire_words_get(&header, input->record, input->length) != WIRE_OK) {
			*shed_next(o->shed) = *input;
			shed_put(o->shed, forward);
			continue;
		}
		claims[n] = shed_claim(o->shed, forward, &header, &input->source);
		shed_count(&claims[n]);
		kept[n] = input;
		n += shed_sift(o->shed, &claims[n], input->buffer);
	}
	for (unsigned int i = 0; i < n; i++) {
		*shed_next(o->shed) = *kept[i];
		shed_keep(o->shed, forward, &claims[i]);
	}
	shed_end(o->shed, forward);
	f->input_count = 0;
	f->held = o->shed->count;
}

/* Forwards up to `n` records out of it; returns how many. */
static unsigned int forward(struct over *o, unsigned int n)
{
	struct fixture *f = o->f;

	f->input_count = shed_take(o->shed, f->inputs, n);
	n = f->input_count;
	f->held = o->shed->count;
	f->workers[0].forward.waited = true;
	fixture_burst(f, 0);
	f->workers[0].forward.waited = false;
	return n;
}

static int tear_down(void **state)
{
	struct over *o = *state;

	while (forward(o, FORWARD_BURST))
		;
	fixture_free(o->f);
	free(o->shed);
	free(o);
	return 0;
}

/* `n` records of one peer, each with one message for the other. */
static void says(struct over *o, struct peer *from, struct peer *to, enum wire_class class,
		 unsigned int n, uint32_t tag)
{
	for (unsigned int i = 0; i < n; i++) {
		struct said said = say(&to->id, tag + i, 4);

		said.kind = class == WIRE_CONTROL ? WIRE_PING : WIRE_RESPONSE;
		if (class == WIRE_CONTROL)
			said.to = &o->f->relay;
		peer_says(o->f, from, 0, class, &said, 1);
		if (o->f->input_count == FORWARD_BURST)
			put(o);
	}
	put(o);
}

static uint64_t shed(const struct over *o, enum drop_record reason)
{
	return o->f->workers[0].forward.counters.records_dropped[reason];
}

static void test_classes_in_order(void **state)
{
	struct over *o = *state;
	struct peer *a = peer_new(o->f, 1), *b = peer_new(o->f, 2);
	static const enum wire_class said[] = {WIRE_BULK,    WIRE_NORMAL,   WIRE_BULK,
					       WIRE_CONTROL, WIRE_CRITICAL, WIRE_NORMAL};
	static const enum wire_class heard[] = {WIRE_CONTROL, WIRE_CRITICAL, WIRE_NORMAL,
						WIRE_NORMAL,  WIRE_BULK,     WIRE_BULK};

	for (uint32_t i = 0; i < 6; i++)
		says(o, a, b, said[i], 1, i);
	for (unsigned int i = 0; i < 6; i++) {
		fixture_clear(o->f);
		assert_int_equal(forward(o, 1), 1);
		assert_int_equal(o->f->heard_count, 1);
		assert_int_equal(o->f->heard[0].class, heard[i]);
	}
	assert_int_equal(forward(o, 1), 0);
}

static void test_lowest_is_shed(void **state)
{
	struct over *o = *state;
	struct peer *a = peer_new(o->f, 1), *b = peer_new(o->f, 2);

	says(o, a, b, WIRE_BULK, ROOM, 0);
	assert_int_equal(shed(o, DROP_RECORD_SHED_BULK), 0);
	says(o, a, b, WIRE_BULK, 1, 0);
	assert_int_equal(shed(o, DROP_RECORD_SHED_BULK), 1);
	// higher classes take the place of the lowest, oldest first
	says(o, a, b, WIRE_NORMAL, 300, 1000);
	assert_int_equal(shed(o, DROP_RECORD_SHED_BULK), 301);
	says(o, a, b, WIRE_CRITICAL, ROOM, 2000);
	assert_int_equal(shed(o, DROP_RECORD_SHED_BULK), ROOM + 1);
	assert_int_equal(shed(o, DROP_RECORD_SHED_NORMAL), 300);
	says(o, a, b, WIRE_NORMAL, 2, 0);
	assert_int_equal(shed(o, DROP_RECORD_SHED_NORMAL), 302);
	assert_int_equal(shed(o, DROP_RECORD_SHED_CRITICAL), 0);
	says(o, a, b, WIRE_CRITICAL, 1, 0);
	assert_int_equal(shed(o, DROP_RECORD_SHED_CRITICAL), 1);
	// and those that stayed arrive in order
	fixture_clear(o->f);
	while (forward(o, FORWARD_BURST))
		;
	assert_int_equal(o->f->heard_count, ROOM);
	for (uint32_t i = 0; i < ROOM; i++)
		assert_int_equal(o->f->heard[i].tag, 2000 + i);
}

static void test_reserve_for_control(void **state)
{
	struct over *o = *state;
	struct peer *a = peer_new(o->f, 1), *b = peer_new(o->f, 2);

	says(o, a, b, WIRE_CRITICAL, ROOM, 0);
	says(o, b, a, WIRE_CONTROL, RESERVED, 0);
	assert_int_equal(shed(o, DROP_RECORD_SHED_CONTROL), 0);
	assert_int_equal(shed(o, DROP_RECORD_SHED_CRITICAL), 0);
	// it has no more than that
	says(o, b, a, WIRE_CONTROL, 5, 0);
	assert_int_equal(shed(o, DROP_RECORD_SHED_CONTROL), 5);
	fixture_clear(o->f);
	forward(o, 20);
	assert_int_equal(o->f->heard_count, 20);
	assert_int_equal(o->f->heard[1].class, WIRE_CONTROL);
	assert_int_equal(o->f->heard[2].class, WIRE_CRITICAL);
	// unless nobody else waits
	while (o->shed->queues[SHED_CRITICAL].count)
		forward(o, 20);
	says(o, b, a, WIRE_CONTROL, 20, 0);
	fixture_clear(o->f);
	forward(o, 20);
	for (unsigned int i = 0; i < 20; i++)
		assert_int_equal(o->f->heard[i].class, WIRE_CONTROL);
}

/* A window in which `others` send `each` records, and the first peer `most`; `handled` are taken.
 */
static void window(struct over *o, struct peer **peers, unsigned int others, unsigned int each,
		   unsigned int most, enum wire_class class, unsigned int handled)
{
	o->f->now_ms += SHED_WINDOW_MS;
	for (unsigned int i = 0; i < others; i++)
		says(o, peers[1 + i], peers[0], WIRE_NORMAL, each, 100 * i);
	says(o, peers[0], peers[1], class, most, 100000);
	while (handled)
		handled -= forward(o, handled < FORWARD_BURST ? handled : FORWARD_BURST);
}

static unsigned int heard_of(const struct fixture *f, const struct peer *from)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < f->heard_count; i++)
		n += wire_id_equal(&f->heard[i].address, &from->id);
	return n;
}

static void make_peers(struct over *o, struct peer **peers, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		peers[i] = peer_new(o->f, 1 + i);
}

static void test_fair_share(void **state)
{
	struct over *o = *state;
	struct peer *peers[10];

	make_peers(o, peers, 10);
	for (int i = 0; i < 4; i++)
		window(o, peers, 9, 10, 200, WIRE_NORMAL, 100);
	// 9 times 10, and the rest of 100
	o->f->now_ms += SHED_WINDOW_MS;
	put(o);
	assert_int_equal(o->shed->share, 10);
	while (forward(o, FORWARD_BURST))
		;
	o->shed->share = 10;
	// nobody else notices the flood, although it is there first
	fixture_clear(o->f);
	says(o, peers[0], peers[1], WIRE_NORMAL, 200, 0);
	for (unsigned int i = 1; i < 10; i++)
		says(o, peers[i], peers[0], WIRE_NORMAL, 10, 0);
	for (unsigned int i = 0; i < 100;)
		i += forward(o, 20);
	for (unsigned int i = 1; i < 10; i++)
		assert_int_equal(heard_of(o->f, peers[i]), 10);
	assert_int_equal(heard_of(o->f, peers[0]), 10);
	// who stays below has nothing shed, and what there is time for is not
	assert_int_equal(shed(o, DROP_RECORD_SHED_BULK), 0);
	while (forward(o, FORWARD_BURST))
		;
	assert_int_equal(heard_of(o->f, peers[0]), 200);
}

/* When everybody sends more than there is time for, those who send much more gain nothing by it. */
static void test_all_send_too_much(void **state)
{
	struct over *o = *state;
	struct peer *peers[10];

	make_peers(o, peers, 10);
	// until the backlog is full of what is beyond the shares
	for (int i = 0; i < 40; i++) {
		fixture_clear(o->f);
		window(o, peers, 9, 13, 130, WIRE_NORMAL, 100);
	}
	assert_true(shed(o, DROP_RECORD_SHED_NORMAL) > 0);
	for (unsigned int i = 1; i < 10; i++)
		assert_in_range(heard_of(o->f, peers[i]), 9, 13);
	assert_true(heard_of(o->f, peers[0]) <= 13);
}

/* Marking everything critical gains no more than twice the share. */
static void test_all_critical(void **state)
{
	struct over *o = *state;
	struct peer *peers[10];

	make_peers(o, peers, 10);
	for (int i = 0; i < 4; i++)
		window(o, peers, 9, 10, 200, WIRE_CRITICAL, 100);
	o->f->now_ms += SHED_WINDOW_MS;
	put(o);
	assert_in_range(o->shed->share, 8, 10);
	while (forward(o, FORWARD_BURST))
		;
	o->shed->share = 10;
	fixture_clear(o->f);
	says(o, peers[0], peers[1], WIRE_CRITICAL, 200, 0);
	for (unsigned int i = 1; i < 10; i++)
		says(o, peers[i], peers[0], WIRE_BULK, 10, 0);
	for (unsigned int i = 0; i < 90 + 2 * 10;)
		i += forward(o, 10);
	for (unsigned int i = 1; i < 10; i++)
		assert_int_equal(heard_of(o->f, peers[i]), 10);
}

/* A full backlog of one peer's critical records hides from nobody what the others send. */
static void test_critical_flood(void **state)
{
	enum { STEPS = 200, HANDLED = 30, EACH = 3, FLOOD = 2 * HANDLED - 1 };
	struct over *o = *state;
	struct peer *peers[10];

	make_peers(o, peers, 10);
	for (int i = 0; i < 10; i++) {
		fixture_clear(o->f);
		o->f->now_ms += SHED_WINDOW_MS;
		for (int step = 0; step < STEPS; step++) {
			says(o, peers[0], peers[1], WIRE_CRITICAL, FLOOD, 0);
			for (unsigned int from = 1; from < 10; from++)
				says(o, peers[from], peers[0], WIRE_BULK, EACH, 0);
			forward(o, HANDLED);
		}
	}
	// twice its share, and the others what is left
	assert_in_range(heard_of(o->f, peers[0]), 1, 3 * STEPS * EACH);
	for (unsigned int i = 1; i < 10; i++)
		assert_true(heard_of(o->f, peers[i]) >= STEPS * EACH * 3 / 4);
}

/* Higher classes use up a sender's share first, whenever they come. */
static void test_share_by_class(void **state)
{
	struct over *o = *state;
	struct peer *a = peer_new(o->f, 1), *b = peer_new(o->f, 2);

	o->f->now_ms += SHED_WINDOW_MS;
	put(o);
	o->shed->share = 10;
	says(o, a, b, WIRE_BULK, 12, 0);
	says(o, a, b, WIRE_NORMAL, 6, 0);
	says(o, a, b, WIRE_CRITICAL, 8, 0);
	assert_int_equal(o->shed->queues[SHED_BULK].count, 10);
	assert_int_equal(o->shed->queues[SHED_BULK_OVER].count, 2);
	assert_int_equal(o->shed->queues[SHED_NORMAL].count, 6);
	assert_int_equal(o->shed->queues[SHED_CRITICAL].count, 8);
	says(o, a, b, WIRE_NORMAL, 1, 0);
	assert_int_equal(o->shed->queues[SHED_NORMAL_OVER].count, 1);
}

static void test_sender_stays_in_order(void **state)
{
	struct over *o = *state;
	struct peer *a = peer_new(o->f, 1), *b = peer_new(o->f, 2);

	o->f->now_ms += SHED_WINDOW_MS;
	put(o);
	o->shed->share = 5;
	says(o, a, b, WIRE_NORMAL, 20, 0);
	// a new share, but some of the old ones still wait
	o->f->now_ms += SHED_WINDOW_MS;
	says(o, a, b, WIRE_NORMAL, 20, 20);
	fixture_clear(o->f);
	while (forward(o, 7))
		;
	assert_int_equal(o->f->heard_count, 40);
	for (uint32_t i = 0; i < 40; i++)
		assert_int_equal(o->f->heard[i].tag, i);
	o->f->now_ms += 2 * SHED_WINDOW_MS;
	says(o, a, b, WIRE_NORMAL, 1, 40);
	assert_int_equal(o->shed->queues[SHED_NORMAL].count, 1);
}

/* Records in a peer's name from elsewhere are not counted as the peer's. */
static void test_others_in_its_name(void **state)
{
	struct over *o = *state;
	struct peer *a = peer_new(o->f, 1), *b = peer_new(o->f, 2);

	o->f->now_ms += SHED_WINDOW_MS;
	put(o);
	o->shed->share = 5;
	a->endpoint.ip[0] ^= 1;
	says(o, a, b, WIRE_CRITICAL, 20, 0);
	a->endpoint.ip[0] ^= 1;
	says(o, a, b, WIRE_CRITICAL, 5, 0);
	assert_int_equal(o->shed->queues[SHED_CRITICAL].count, 10 + 5);
}

static void test_share_changes(void **state)
{
	struct over *o = *state;
	struct peer *a = peer_new(o->f, 1), *b = peer_new(o->f, 2);

	says(o, a, b, WIRE_NORMAL, 400, 0);
	for (unsigned int i = 0; i < 200; i += 20)
		forward(o, 20);
	o->f->now_ms += SHED_WINDOW_MS;
	put(o);
	assert_int_equal(o->shed->share, 200);
	// one bad window takes a quarter at most
	says(o, a, b, WIRE_NORMAL, 400, 0);
	o->f->now_ms += SHED_WINDOW_MS;
	put(o);
	assert_int_equal(o->shed->share, 150);
	// who keeps up cuts nobody
	while (forward(o, FORWARD_BURST))
		;
	o->f->now_ms += SHED_WINDOW_MS;
	put(o);
	assert_int_equal(o->shed->share, SHED_NO_SHARE);
	// what was long ago says nothing
	says(o, a, b, WIRE_NORMAL, 400, 0);
	o->f->now_ms += 2 * SHED_WINDOW_MS;
	put(o);
	assert_int_equal(o->shed->share, SHED_FIRST_SHARE);
}

/* Of large records fewer are taken at once. */
static void test_large(void **state)
{
	enum { PAYLOAD = 1000, LENGTH = WIRE_RECORD_OVERHEAD + WIRE_MESSAGE_HEADER + PAYLOAD };
	const unsigned int most = (SHED_BYTES + LENGTH - 1) / LENGTH;
	struct over *o = *state;
	struct peer *a = peer_new(o->f, 1), *b = peer_new(o->f, 2);

	for (uint32_t i = 0; i < FORWARD_BURST; i++) {
		struct said said = say(&b->id, i, PAYLOAD);

		said.kind = WIRE_RESPONSE;
		peer_says(o->f, a, 0, i < 5 ? WIRE_NORMAL : WIRE_CRITICAL, &said, 1);
	}
	put(o);
	fixture_clear(o->f);
	assert_int_equal(forward(o, 2), 2);
	assert_int_equal(forward(o, FORWARD_BURST), most);
	assert_int_equal(o->f->heard_count, 2 + most);
	for (uint32_t i = 0; i < 2 + most; i++)
		assert_int_equal(o->f->heard[i].tag, 5 + i);
	while (forward(o, FORWARD_BURST))
		;
	assert_int_equal(o->f->heard_count, FORWARD_BURST);
}

/* That critical ones fill the next burst is known before it is taken. */
static void test_enough(void **state)
{
	enum { PAYLOAD = 1000, LENGTH = WIRE_RECORD_OVERHEAD + WIRE_MESSAGE_HEADER + PAYLOAD };
	const unsigned int most = (SHED_BYTES + LENGTH - 1) / LENGTH;
	struct over *o = *state;
	struct peer *a = peer_new(o->f, 1), *b = peer_new(o->f, 2);

	says(o, a, b, WIRE_NORMAL, 2 * FORWARD_BURST, 0);
	says(o, a, b, WIRE_CRITICAL, FORWARD_BURST - 1, 0);
	assert_false(shed_has_enough(o->shed));
	says(o, a, b, WIRE_CRITICAL, 1, 0);
	assert_true(shed_has_enough(o->shed));
	// a pile is more
	says(o, a, b, WIRE_CRITICAL, SHED_ENOUGH - FORWARD_BURST, 0);
	assert_true(shed_has_enough(o->shed));
	says(o, a, b, WIRE_CRITICAL, 1, 0);
	assert_false(shed_has_enough(o->shed));
	while (forward(o, FORWARD_BURST))
		;
	assert_false(shed_has_enough(o->shed));
	// of large ones fewer do
	for (unsigned int i = 0; i < most; i++) {
		struct said said = say(&b->id, i, PAYLOAD);

		said.kind = WIRE_RESPONSE;
		assert_false(shed_has_enough(o->shed));
		peer_says(o->f, a, 0, WIRE_CRITICAL, &said, 1);
		put(o);
	}
	assert_true(shed_has_enough(o->shed));
	assert_int_equal(forward(o, FORWARD_BURST), most);
}

/*
 * When there are always many that wait, few may but critical ones, and fewer of less than normal;
 * those that may displace nobody else.
 */
static void test_standing(void **state)
{
	struct over *o = *state;
	unsigned int bulk;
	struct peer *a = peer_new(o->f, 1), *b = peer_new(o->f, 2);

	// a pile is none
	says(o, a, b, WIRE_NORMAL, ROOM - 1, 0);
	for (unsigned int i = 0; i < SHED_STANDING; i += FORWARD_BURST) {
		assert_false(shed_overloaded(o->shed));
		assert_int_equal(forward(o, FORWARD_BURST), FORWARD_BURST);
		says(o, a, b, WIRE_NORMAL, FORWARD_BURST, 0);
	}
	assert_int_equal(shed(o, DROP_RECORD_SHED_NORMAL), 0);
	forward(o, FORWARD_BURST);
	assert_true(shed_overloaded(o->shed));
	while (o->shed->count >= SHED_ROOM)
		forward(o, FORWARD_BURST);
	while (o->shed->count >= SHED_ROOM / 2)
		forward(o, FORWARD_BURST);
	says(o, a, b, WIRE_BULK, ROOM, 0);
	assert_int_equal(o->shed->count, SHED_ROOM / 2);
	bulk = o->shed->queues[SHED_BULK].count;
	says(o, a, b, WIRE_NORMAL, SHED_ROOM / 2, 0);
	assert_int_equal(o->shed->queues[SHED_BULK].count, bulk);
	says(o, a, b, WIRE_NORMAL, ROOM, 0);
	assert_int_equal(o->shed->queues[SHED_BULK].count, 0);
	assert_int_equal(o->shed->count, SHED_ROOM);
	says(o, a, b, WIRE_CRITICAL, SHED_ROOM + 10, 0);
	assert_int_equal(o->shed->count, 2 * SHED_ROOM + 10);
	says(o, a, b, WIRE_NORMAL, 1, 0);
	assert_int_equal(o->shed->count, 2 * SHED_ROOM + 10);
	says(o, a, b, WIRE_CRITICAL, ROOM, 0);
	assert_int_equal(o->shed->count, ROOM);
	// until there was time for all
	while (forward(o, FORWARD_BURST))
		;
	says(o, a, b, WIRE_NORMAL, ROOM, 0);
	assert_int_equal(o->shed->count, ROOM);
}

/* A burst that is kept as long as there is room is shed where there is none any more. */
static void test_last_places(void **state)
{
	struct over *o = *state;
	struct peer *a = peer_new(o->f, 1), *b = peer_new(o->f, 2);

	says(o, a, b, WIRE_CRITICAL, ROOM - 10, 0);
	says(o, a, b, WIRE_BULK, 5, 0);
	for (uint32_t i = 0; i < FORWARD_BURST; i++) {
		struct said said = say(&b->id, i, 4);

		peer_says(o->f, a, 0, i % 2 ? WIRE_CRITICAL : WIRE_NORMAL, &said, 1);
	}
	put(o);
	assert_int_equal(o->shed->queues[SHED_CRITICAL].count, ROOM);
	assert_int_equal(o->shed->count, ROOM);
	assert_int_equal(shed(o, DROP_RECORD_SHED_BULK), 5);
	assert_int_equal(shed(o, DROP_RECORD_SHED_NORMAL), FORWARD_BURST / 2);
	assert_int_equal(shed(o, DROP_RECORD_SHED_CRITICAL), FORWARD_BURST / 2 - 10);
}

/* What has filled it is no pile that came at once: others than critical ones have little room. */
static void test_full(void **state)
{
	struct over *o = *state;
	struct peer *a = peer_new(o->f, 1), *b = peer_new(o->f, 2);

	says(o, a, b, WIRE_NORMAL, ROOM - 1, 0);
	forward(o, FORWARD_BURST);
	says(o, a, b, WIRE_NORMAL, 1, 0);
	assert_int_equal(o->shed->count, ROOM - FORWARD_BURST);
	says(o, a, b, WIRE_NORMAL, FORWARD_BURST, 0);
	assert_int_equal(o->shed->count, ROOM);
	forward(o, FORWARD_BURST);
	says(o, a, b, WIRE_NORMAL, 1, 0);
	assert_int_equal(o->shed->count, ROOM - FORWARD_BURST);
	assert_int_equal(shed(o, DROP_RECORD_SHED_NORMAL), 1);
	says(o, a, b, WIRE_CRITICAL, 1, 0);
	assert_int_equal(o->shed->count, ROOM - FORWARD_BURST + 1);
	// until there was time for all
	while (forward(o, FORWARD_BURST))
		;
	says(o, a, b, WIRE_NORMAL, ROOM - 1, 0);
	assert_int_equal(o->shed->count, ROOM - 1);
}

/* What its own lane's newer records have overtaken was late here, and is none of its sender's
 * replays. */
static void test_overtaken(void **state)
{
	struct over *o = *state;
	struct peer *a = peer_new(o->f, 1), *b = peer_new(o->f, 2);

	says(o, a, b, WIRE_BULK, 1, 0);
	for (unsigned int i = 0; i <= WINDOW_SIZE; i += FORWARD_BURST) {
		says(o, a, b, WIRE_CRITICAL, FORWARD_BURST, 0);
		assert_int_equal(forward(o, FORWARD_BURST), FORWARD_BURST);
	}
	assert_int_equal(forward(o, FORWARD_BURST), 1);
	assert_int_equal(shed(o, DROP_RECORD_SHED_BULK), 1);
	assert_int_equal(shed(o, DROP_RECORD_REPLAY_OLD), 0);
}

static void test_no_records(void **state)
{
	struct over *o = *state;
	uint8_t bytes[100] = {0};

	fixture_datagram(o->f, bytes, 20);
	fixture_datagram(o->f, bytes, sizeof(bytes));
	put(o);
	assert_int_equal(o->shed->count, 0);
	assert_int_equal(shed(o, DROP_RECORD_TRUNCATED), 1);
	assert_int_equal(shed(o, DROP_RECORD_VERSION), 1);
}

/* Under overload few are opened that come from elsewhere than their session. */
static void test_strangers(void **state)
{
	struct over *o = *state;
	struct forward *worker = &o->f->workers[0].forward;
	struct peer *a = peer_new(o->f, 1), *b = peer_new(o->f, 2);
	struct said said = say(&b->id, 1, 4);

	a->endpoint.ip[12] ^= 1;
	for (int i = 0; i < 5; i++)
		peer_says(o->f, a, 1, WIRE_CRITICAL, &said, 1);
	fixture_burst(o->f, 0);
	assert_int_equal(o->f->heard_count, 5);

	worker->overloaded = true;
	for (int i = 0; i < 5; i++)
		peer_says(o->f, a, 1, WIRE_CRITICAL, &said, 1);
	peer_says(o->f, b, 1, WIRE_NORMAL, &said, 1);
	// another socket of the same host is no stranger
	b->endpoint.port[0] ^= 1;
	peer_says(o->f, b, 1, WIRE_NORMAL, &said, 1);
	fixture_burst(o->f, 0);
	assert_int_equal(o->f->heard_count, 5 + FORWARD_STRANGERS + 2);
	assert_int_equal(shed(o, DROP_RECORD_STRANGER), 5 - FORWARD_STRANGERS);
}

/* A lane whose handed-over record is shed may move again. */
static void test_handed_over(void **state)
{
	struct over *o = *state;
	struct fixture *f = o->f;
	struct fixture_worker *first = &f->workers[0];
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	struct said said = say(&b->id, 1, 4);

	peer_says(f, a, 0, WIRE_BULK, &said, 1);
	fixture_burst(f, 0);
	peer_says(f, a, 0, WIRE_BULK, &said, 1);
	fixture_burst(f, 1);
	assert_int_equal(first->queued, 1);
	assert_int_equal(session_rx_lane(a->session, 0)->owner, SESSION_HANDED);

	memcpy(f->inputs, first->queue, sizeof(f->inputs[0]));
	f->input_count = 1;
	first->queued = 0;
	put(o);
	says(o, b, a, WIRE_CRITICAL, ROOM, 0);
	assert_int_equal(shed(o, DROP_RECORD_SHED_BULK), 1);
	assert_int_equal(session_rx_lane(a->session, 0)->owner, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(classes_in_order),
		TEST(lowest_is_shed),
		TEST(reserve_for_control),
		TEST(fair_share),
		TEST(all_send_too_much),
		TEST(all_critical),
		TEST(critical_flood),
		TEST(share_by_class),
		TEST(sender_stays_in_order),
		TEST(others_in_its_name),
		TEST(share_changes),
		TEST(large),
		TEST(enough),
		TEST(standing),
		TEST(last_places),
		TEST(full),
		TEST(overtaken),
		TEST(no_records),
		TEST(strangers),
		TEST(handed_over),
	};

	return cmocka_run_group_tests_name("shed", tests, NULL, NULL);
}
