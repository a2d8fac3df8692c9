#include "test.h"

#include <stdlib.h>

#include "fixture.h"
#include "toy.h"

static int set_up(void **state)
{
	*state = fixture_new(&toy_aead);
	return 0;
}

static int tear_down(void **state)
{
	fixture_free(*state);
	return 0;
}

static struct counters *counters(struct fixture *f, unsigned int worker)
{
	return &f->workers[worker].forward.counters;
}

static const struct wire_id nobody = {{'n', 'o', 'b', 'o', 'd', 'y'}};

/* Runs the one record of the next burst, which must be dropped for `reason` and nothing else. */
static void expect_dropped(struct fixture *f, enum drop_record reason)
{
	struct counters before = *counters(f, 0), after;

	fixture_clear(f);
	fixture_burst(f, 0);
	after = *counters(f, 0);
	before.records_received++;
	before.records_dropped[reason]++;
	// those of classes are in fixture_burst()'s care
	assert_memory_equal(&before, &after, offsetof(struct counters, classes));
	assert_int_equal(f->sent_count, 0);
	assert_int_equal(f->event_count, 0);
}

/* Runs the next burst, whose only message must be dropped for `reason`. */
static void expect_refused(struct fixture *f, struct peer *from, enum wire_class class,
			   enum drop_message reason, bool told)
{
	static const enum wire_reason reasons[] = {
#define X(name, text, wire, help) wire,
		DROP_MESSAGES(X)
#undef X
	};
	struct counters before = *counters(f, 0);

	fixture_clear(f);
	fixture_burst(f, 0);
	assert_int_equal(counters(f, 0)->messages_opened, before.messages_opened + 1);
	assert_int_equal(counters(f, 0)->messages_dropped[reason],
			 before.messages_dropped[reason] + 1);
	assert_int_equal(counters(f, 0)->messages_made, before.messages_made + told);
	assert_int_equal(f->heard_count, told);
	if (!told)
		return;
	assert_ptr_equal(f->heard[0].peer, from);
	assert_int_equal(f->heard[0].kind, WIRE_ERROR | reasons[reason]);
	assert_int_equal(f->heard[0].tag, 77);
	assert_int_equal(f->heard[0].length, 0);
	assert_int_equal(f->heard[0].class, class);
	assert_true(wire_id_equal(&f->heard[0].address, &f->relay));
}

/* A message that arrived as it was said. */
static void expect_heard(const struct fixture *f, unsigned int i, const struct peer *from,
			 const struct peer *to, const struct said *said, enum wire_class class)
{
	const struct heard *heard = &f->heard[i];

	assert_true(i < f->heard_count);
	assert_ptr_equal(heard->peer, to);
	assert_int_equal(heard->kind, said->kind);
	assert_int_equal(heard->tag, said->tag);
	assert_int_equal(heard->length, said->length);
	assert_int_equal(heard->flags, said->flags);
	assert_int_equal(heard->class, class);
	assert_int_equal(heard->hop_limit, said->hop_limit - 1);
	assert_true(wire_id_equal(&heard->address, &from->id));
	assert_true(payload_right(heard->tag, heard->payload, heard->length));
}

/* Records */

static void test_not_a_record(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1);
	const struct said said = say(&nobody, 1, 0);
	struct forward_input *input;

	// every size below the smallest record's
	for (int length = 0; length < WIRE_RECORD_MIN; length++) {
		peer_says(f, a, 0, WIRE_NORMAL, &said, 1)->length = length;
		expect_dropped(f, DROP_RECORD_TRUNCATED);
	}
	// every other version and type
	for (int bit = 0; bit < 8; bit++) {
		input = peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
		input->record[0] ^= 1 << bit;
		expect_dropped(f, DROP_RECORD_VERSION);
	}
	// every reserved bit
	for (int bit = 0; bit < 21; bit++) {
		input = peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
		input->record[1 + (bit + 3) / 8] |= 0x80 >> (bit + 3) % 8;
		expect_dropped(f, DROP_RECORD_RESERVED);
	}
}

static void test_no_session(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *again;
	const struct said said = say(&nobody, 1, 0);
	struct forward_input *input;

	// an empty slot, a slot beyond the table
	input = peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	wire_put32(input->record + 4, 2);
	expect_dropped(f, DROP_RECORD_SESSION_UNKNOWN);
	input = peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	wire_put32(input->record + 4, FIXTURE_SLOTS);
	expect_dropped(f, DROP_RECORD_SESSION_UNKNOWN);
	input = peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	wire_put32(input->record + 4, UINT32_MAX);
	expect_dropped(f, DROP_RECORD_SESSION_UNKNOWN);
	// another generation
	input = peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	wire_put32(input->record + 4, a->index + WIRE_SLOTS);
	expect_dropped(f, DROP_RECORD_SESSION_STALE);
	// one that was taken over, while it is remembered and after
	again = peer_return(f, a);
	peer_take_over(f, again);
	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	expect_dropped(f, DROP_RECORD_SESSION_STALE);
	f->sessions->slot[1].last = NULL;
	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	expect_dropped(f, DROP_RECORD_SESSION_STALE);
	// one that left
	f->sessions->slot[1].last = f->sessions->slot[1].current;
	f->sessions->slot[1].current = NULL;
	peer_says(f, again, 0, WIRE_NORMAL, &said, 1);
	expect_dropped(f, DROP_RECORD_SESSION_STALE);
	f->sessions->slot[1].last = NULL;
	peer_says(f, again, 0, WIRE_NORMAL, &said, 1);
	expect_dropped(f, DROP_RECORD_SESSION_UNKNOWN);
	// one that was thrown out, as long as nobody has come after it
	f->sessions->slot[1].revoked = true;
	f->sessions->slot[1].last = again->session;
	peer_says(f, again, 0, WIRE_NORMAL, &said, 1);
	expect_dropped(f, DROP_RECORD_REVOKED);
	f->sessions->slot[1].last = NULL;
	peer_says(f, again, 0, WIRE_NORMAL, &said, 1);
	expect_dropped(f, DROP_RECORD_REVOKED);
}

static void test_not_agreed(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	struct said said = say(&b->id, 1, 0);
	struct forward_input *input;

	peer_says(f, a, FIXTURE_LANES, WIRE_NORMAL, &said, 1);
	expect_dropped(f, DROP_RECORD_LANE);
	input = peer_says(f, a, 1, WIRE_NORMAL, &said, 1);
	input->record[8] = 0xff;
	expect_dropped(f, DROP_RECORD_LANE);

	input = peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	input->record[1] ^= WIRE_PHASE;
	expect_dropped(f, DROP_RECORD_KEY_PHASE);

	// one byte more than a record may have; the largest is taken
	said.length = a->session->record_max - WIRE_RECORD_OVERHEAD - WIRE_MESSAGE_HEADER + 1;
	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	expect_dropped(f, DROP_RECORD_OVERSIZED);
	said.length--;
	input = peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	assert_int_equal(input->length, a->session->record_max);
	fixture_burst(f, 0);
	assert_int_equal(counters(f, 0)->messages_delivered, 1);
}

static void test_forged(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	const struct said said = say(&b->id, 1, 8);
	struct forward_input *input;
	struct kept kept;

	b->up[1] = b->up[0]; // so that a flipped phase bit finds a key
	b->session->rx[1] = b->session->rx[0];
	b->session->rx_epoch = 1;
	peer_says(f, b, 0, WIRE_NORMAL, &said, 1);
	fixture_keep(f, &kept);
	for (unsigned int i = 0; i < kept.length; i++) {
		for (int bit = 0; bit < 8; bit++) {
			// what parsing would refuse is not forged
			if (i == 0 || (i == 1 && bit < 5) || i == 2 || i == 3)
				continue;
			// another session's index: that of a; or nobody's
			if (i >= 4 && i < 8)
				continue;
			// a lane that was not agreed
			if (i == 8 && 1 << bit >= FIXTURE_LANES)
				continue;
			input = fixture_again(f, &kept);
			input->record[i] ^= 1 << bit;
			expect_dropped(f, DROP_RECORD_AUTH);
		}
	}
	input = fixture_again(f, &kept);
	wire_put32(input->record + 4, a->index);
	expect_dropped(f, DROP_RECORD_AUTH);
	input = fixture_again(f, &kept);
	input->length--;
	expect_dropped(f, DROP_RECORD_AUTH);
	// none of them moved a window or used the sequence up
	fixture_again(f, &kept);
	fixture_burst(f, 0);
	expect_heard(f, 0, b, b, &said, WIRE_NORMAL);
}

static void test_replayed(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	const struct said said = say(&b->id, 1, 8);
	struct kept first, second;

	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	fixture_keep(f, &first);
	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	fixture_keep(f, &second);
	// newest first: reordering is no replay
	fixture_again(f, &second);
	fixture_again(f, &first);
	fixture_burst(f, 0);
	assert_int_equal(counters(f, 0)->messages_delivered, 2);
	fixture_again(f, &first);
	expect_dropped(f, DROP_RECORD_REPLAY_SEEN);
	fixture_again(f, &second);
	expect_dropped(f, DROP_RECORD_REPLAY_SEEN);

	// far behind
	a->next[0] += WINDOW_SIZE;
	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	fixture_burst(f, 0);
	fixture_again(f, &first);
	expect_dropped(f, DROP_RECORD_REPLAY_OLD);

	// the same twice in one burst
	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	fixture_keep(f, &first);
	fixture_again(f, &first);
	fixture_again(f, &first);
	fixture_clear(f);
	fixture_burst(f, 0);
	assert_int_equal(f->heard_count, 1);
	assert_int_equal(counters(f, 0)->records_dropped[DROP_RECORD_REPLAY_SEEN], 3);

	// or left far behind by another one of the burst
	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	fixture_keep(f, &first);
	a->next[0] += WINDOW_SIZE;
	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	fixture_again(f, &first);
	fixture_burst(f, 0);
	assert_int_equal(f->heard_count, 2);
	assert_int_equal(counters(f, 0)->records_dropped[DROP_RECORD_REPLAY_OLD], 2);

	// lanes have windows of their own
	peer_says(f, a, 1, WIRE_NORMAL, &said, 1);
	fixture_burst(f, 0);
	assert_int_equal(f->heard_count, 3);
}

static void test_key_limit(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	const struct said said = say(&b->id, 1, 8);
	struct kept kept;

	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	fixture_keep(f, &kept);
	session_rx_lane(a->session, 0)->failed = (UINT64_C(1) << 33) - 1;
	fixture_again(f, &kept)->record[20] ^= 1;
	expect_dropped(f, DROP_RECORD_AUTH);
	fixture_again(f, &kept);
	expect_dropped(f, DROP_RECORD_KEY_LIMIT);
	// the other lanes have their own share
	peer_says(f, a, 1, WIRE_NORMAL, &said, 1);
	fixture_burst(f, 0);
	assert_int_equal(f->heard_count, 1);
	// a new key starts anew
	peer_rekey(f, a);
	fixture_again(f, &kept);
	fixture_burst(f, 0);
	assert_int_equal(f->heard_count, 2);
	fixture_again(f, &kept)->record[15]++;
	expect_dropped(f, DROP_RECORD_AUTH);
	assert_int_equal(session_rx_lane(a->session, 0)->failed, 1);
}

static void test_malformed(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	struct wire_record header = {.class = WIRE_NORMAL, .index = a->index};
	uint8_t text[3 * WIRE_MESSAGE_HEADER];

	for (int i = 0; i < 3; i++)
		wire_message_put(text + i * WIRE_MESSAGE_HEADER, 0, WIRE_SEND, WIRE_HOP_LIMIT, 0, i,
				 &b->id);
	// bytes behind the last message that are too few for another
	for (int length = WIRE_MESSAGE_HEADER + 1; length < 2 * WIRE_MESSAGE_HEADER; length++) {
		peer_seals(f, a, &header, text, length);
		expect_dropped(f, DROP_RECORD_MALFORMED);
		header.sequence++;
	}
	// a length that reaches beyond the end, in each place: none of the three is forwarded
	for (int i = 0; i < 3; i++) {
		const uint16_t behind = (2 - i) * WIRE_MESSAGE_HEADER;
		const uint16_t lies[] = {behind + 1, behind + WIRE_MESSAGE_HEADER, 0x7fff, 0xffff};

		for (int j = 0; j < 4; j++) {
			wire_put16(text + i * WIRE_MESSAGE_HEADER, lies[j]);
			peer_seals(f, a, &header, text, sizeof(text));
			expect_dropped(f, DROP_RECORD_MALFORMED);
			header.sequence++;
		}
		wire_put16(text + i * WIRE_MESSAGE_HEADER, 0);
	}
	// via is for relays, the other two flags for nobody
	for (int i = 0; i < 3; i++) {
		static const uint8_t flags[] = {WIRE_FLAG_VIA, 0x8, 0xc, 0xf};

		for (unsigned int j = 0; j < sizeof(flags); j++) {
			text[i * WIRE_MESSAGE_HEADER + 3] ^= flags[j];
			peer_seals(f, a, &header, text, sizeof(text));
			expect_dropped(f, DROP_RECORD_MALFORMED);
			header.sequence++;
			text[i * WIRE_MESSAGE_HEADER + 3] ^= flags[j];
		}
	}
	peer_seals(f, a, &header, text, sizeof(text));
	fixture_clear(f);
	fixture_burst(f, 0);
	assert_int_equal(f->heard_count, 3);

	// a via alone, with all that it needs
	header.sequence++;
	memset(text, 0, sizeof(text));
	wire_message_put(text, 8, WIRE_SEND, WIRE_HOP_LIMIT, WIRE_FLAG_VIA, 1, &b->id);
	peer_seals(f, a, &header, text, WIRE_MESSAGE_HEADER + WIRE_VIA_SIZE + 8);
	expect_dropped(f, DROP_RECORD_MALFORMED);
}

/* Lanes and their owners */

static void test_lane_is_claimed_and_follows(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	struct session_rx *lane = session_rx_lane(a->session, 3);
	const struct said said = say(&b->id, 1, 8);
	struct kept old;

	assert_int_equal(lane->owner, SESSION_NO_OWNER);
	peer_says(f, a, 3, WIRE_NORMAL, &said, 1);
	fixture_keep(f, &old);
	peer_says(f, a, 3, WIRE_NORMAL, &said, 1);
	fixture_burst(f, 0);
	assert_int_equal(lane->owner, 0);

	// the flow moves: its first records are handed over, and with them goes the lane
	peer_says(f, a, 3, WIRE_NORMAL, &said, 1);
	peer_says(f, a, 3, WIRE_NORMAL, &said, 1);
	fixture_burst(f, 1);
	assert_int_equal(counters(f, 1)->records_received, 0);
	assert_int_equal(counters(f, 1)->handed_over, 2);
	assert_int_equal(lane->owner, 2 * SESSION_HANDED);
	assert_int_equal(fixture_queue(f, 0), 2);
	assert_int_equal(lane->owner, 1);
	assert_int_equal(counters(f, 0)->records_received, 3);
	assert_int_equal(counters(f, 0)->messages_delivered, 3);

	peer_says(f, a, 3, WIRE_NORMAL, &said, 1);
	fixture_burst(f, 1);
	assert_int_equal(counters(f, 1)->messages_delivered, 1);
	assert_int_equal(counters(f, 1)->handed_over, 2);

	// one that comes late by the old way is taken, but takes the lane nowhere
	fixture_again(f, &old);
	fixture_burst(f, 0);
	assert_int_equal(counters(f, 0)->handed_over, 1);
	assert_int_equal(fixture_queue(f, 1), 1);
	assert_int_equal(counters(f, 1)->messages_delivered, 2);
	assert_int_equal(lane->owner, 1);

	// neither do a replayed and a forged one
	fixture_again(f, &old);
	fixture_again(f, &old)->record[15] += 100;
	fixture_burst(f, 0);
	assert_int_equal(fixture_queue(f, 1), 2);
	assert_int_equal(counters(f, 1)->records_dropped[DROP_RECORD_REPLAY_SEEN], 1);
	assert_int_equal(counters(f, 1)->records_dropped[DROP_RECORD_AUTH], 1);
	assert_int_equal(lane->owner, 1);
}

static void test_lane_waits_for_what_is_on_its_way(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	struct session_rx *lane = session_rx_lane(a->session, 0);
	const unsigned int records = FORWARD_BURST + 2;

	for (uint32_t tag = 0; tag <= records; tag++) {
		const struct said said = say(&b->id, tag, 8);

		peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
		fixture_burst(f, tag > 0);
	}
	// the lane's owner takes a burst of them, and the lane stays for the others
	assert_int_equal(fixture_queue(f, 0), FORWARD_BURST);
	assert_int_equal(lane->owner, 2 * SESSION_HANDED);
	{
		const struct said said = say(&b->id, records + 1, 8);

		peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
		fixture_burst(f, 1);
	}
	assert_int_equal(fixture_queue(f, 0), 3);
	assert_int_equal(lane->owner, 1);
	assert_int_equal(f->heard_count, records + 2);
	for (uint32_t tag = 0; tag < f->heard_count; tag++)
		assert_int_equal(f->heard[tag].tag, tag);
}

static void test_record_handed_over_in_vain(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	struct session_rx *lane = session_rx_lane(a->session, 0);
	const struct said said = say(&b->id, 1, 8);

	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	fixture_burst(f, 0);
	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	fixture_burst(f, 1);
	assert_int_equal(lane->owner, SESSION_HANDED);
	// its key is gone when it gets there: it no longer keeps the lane from moving
	peer_rekey(f, a);
	peer_rekey_sends(f, a);
	peer_rekey_ends(f, a);
	assert_int_equal(fixture_queue(f, 0), 1);
	assert_int_equal(counters(f, 0)->records_dropped[DROP_RECORD_KEY_PHASE], 1);
	assert_int_equal(lane->owner, 0);
	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	fixture_burst(f, 1);
	assert_int_equal(fixture_queue(f, 0), 1);
	assert_int_equal(lane->owner, 1);
}

static void test_lane_stays_for_the_burst(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	const struct said said = say(&nobody, 1, 8);
	struct kept kept;

	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	fixture_burst(f, 0);
	// the burst that gives the lane away still uses its window and its limits
	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	fixture_keep(f, &kept);
	fixture_again(f, &kept);
	fixture_again(f, &kept);
	fixture_burst(f, 1);
	fixture_clear(f);
	assert_int_equal(fixture_queue(f, 0), 2);
	assert_int_equal(counters(f, 0)->records_dropped[DROP_RECORD_REPLAY_SEEN], 1);
	assert_int_equal(f->heard_count, 1);
	assert_int_equal(session_rx_lane(a->session, 0)->owner, 1);
	assert_int_equal(session_rx_lane(b->session, 0)->owner, SESSION_NO_OWNER);
}

static void test_owner_is_behind(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	const struct said said = say(&b->id, 1, 8);

	session_rx_lane(a->session, 0)->owner = 1;
	f->workers[0].handovers = 0;
	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	expect_dropped(f, DROP_RECORD_HANDOVER_FULL);
	assert_int_equal(f->workers[1].queued, 0);
	assert_int_equal(session_rx_lane(a->session, 0)->owner, 1);
}

/* Messages that go no further */

static bool is_told(uint8_t kind)
{
	return kind == WIRE_SEND || kind == WIRE_REQUEST || kind == WIRE_PUBLISH;
}

static void refuse(struct fixture *f, struct peer *from, struct said said, enum wire_class class,
		   enum drop_message reason)
{
	said.tag = 77;
	peer_says(f, from, 0, class, &said, 1);
	expect_refused(f, from, class, reason,
		       is_told(said.kind) && reason != DROP_MESSAGE_CONTROL_FULL);
	f->now_ms += 1000; // so that the limit of errors doesn't come into it
}

static void test_every_kind(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);

	for (int kind = 0; kind < 256; kind++) {
		bool forwarded = kind == WIRE_SEND || kind == WIRE_REQUEST ||
				 kind == WIRE_RESPONSE || kind == WIRE_PING || kind == WIRE_PONG;
		bool consumed = kind == WIRE_PING || kind == WIRE_PONG || kind == WIRE_KIND_CONTROL;
		struct said said = say(&b->id, 1, 8);

		said.kind = (uint8_t)kind;
		if (forwarded) {
			for (int class = WIRE_BULK; class < WIRE_CONTROL; class ++) {
				fixture_clear(f);
				peer_says(f, a, 0, class, &said, 1);
				fixture_burst(f, 0);
				assert_int_equal(f->heard_count, 1);
				expect_heard(f, 0, a, b, &said, class);
			}
			said.to = &nobody;
			refuse(f, a, said, WIRE_NORMAL, DROP_MESSAGE_NO_ROUTE);
			said.to = &b->id;
			said.hop_limit = 0;
			refuse(f, a, said, WIRE_NORMAL, DROP_MESSAGE_HOP_LIMIT);
			said.to = &nobody;
			refuse(f, a, said, WIRE_NORMAL, DROP_MESSAGE_HOP_LIMIT);
			said.to = &b->id;
			said.hop_limit = WIRE_HOP_LIMIT;
		} else {
			refuse(f, a, said, WIRE_NORMAL, DROP_MESSAGE_UNSUPPORTED);
		}
		// peers don't reach each other in the router's own class
		refuse(f, a, said, WIRE_CONTROL, DROP_MESSAGE_UNSUPPORTED);
		said.to = &f->relay;
		if (!consumed)
			refuse(f, a, said, WIRE_NORMAL, DROP_MESSAGE_UNSUPPORTED);
	}
}

static void test_last_hop(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	struct said said = say(&b->id, 1, 8);

	said.hop_limit = 1;
	said.flags = WIRE_FLAG_SEALED;
	peer_says(f, a, 0, WIRE_BULK, &said, 1);
	fixture_burst(f, 0);
	expect_heard(f, 0, a, b, &said, WIRE_BULK);
}

static void test_too_large(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	struct said said = say(&b->id, 77, 0);

	a->session->record_max = FIXTURE_RECORD_MAX;
	said.length = b->session->record_max - WIRE_RECORD_OVERHEAD - WIRE_MESSAGE_HEADER;
	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	fixture_burst(f, 0);
	assert_int_equal(f->sent[0].length, b->session->record_max);
	expect_heard(f, 0, a, b, &said, WIRE_NORMAL);
	said.length++;
	refuse(f, a, said, WIRE_NORMAL, DROP_MESSAGE_TOO_LARGE);
	said.length = FIXTURE_RECORD_MAX - WIRE_RECORD_OVERHEAD - WIRE_MESSAGE_HEADER;
	refuse(f, a, said, WIRE_NORMAL, DROP_MESSAGE_TOO_LARGE);
	said.kind = WIRE_RESPONSE;
	refuse(f, a, said, WIRE_NORMAL, DROP_MESSAGE_TOO_LARGE);
	// control takes FORWARD_PAYLOAD_MAX
	said.to = &f->relay;
	said.kind = WIRE_KIND_CONTROL;
	said.length = FORWARD_PAYLOAD_MAX + 1;
	refuse(f, a, said, WIRE_CONTROL, DROP_MESSAGE_TOO_LARGE);
}

static void test_no_address(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	const struct said said = say(&b->id, 77, 8);

	// joined, but it isn't known yet where: there is no way to it
	b->session->header.length = 0;
	refuse(f, a, said, WIRE_NORMAL, DROP_MESSAGE_NO_ROUTE);
	// nor an error to one that has no address
	a->session->header.length = 0;
	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	fixture_clear(f);
	fixture_burst(f, 0);
	assert_int_equal(f->sent_count, 0);
	assert_int_equal(counters(f, 0)->messages_dropped[DROP_MESSAGE_SESSION_GONE], 1);
}

static void test_policy(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	struct policy *policy = calloc(1, sizeof(*policy));
	const struct said to_a = say(&a->id, 77, 8), to_b = say(&b->id, 77, 8);
	struct said ping = say(&f->relay, 1, 8);

	assert_non_null(policy);
	a->session->cluster = 3;
	b->session->cluster = POLICY_CLUSTERS - 1;
	policy->allowed[3][(POLICY_CLUSTERS - 1) / 64] = UINT64_C(1) << 63;
	rcu_assign_pointer(f->sessions->policy, policy);
	// one way, not the other, nor among themselves; the relay is everybody's
	peer_says(f, a, 0, WIRE_NORMAL, &to_b, 1);
	fixture_burst(f, 0);
	expect_heard(f, 0, a, b, &to_b, WIRE_NORMAL);
	refuse(f, b, to_a, WIRE_NORMAL, DROP_MESSAGE_POLICY);
	refuse(f, a, to_a, WIRE_NORMAL, DROP_MESSAGE_POLICY);
	ping.kind = WIRE_PING;
	peer_says(f, a, 0, WIRE_NORMAL, &ping, 1);
	fixture_clear(f);
	fixture_burst(f, 0);
	assert_int_equal(f->heard_count, 1);
	assert_int_equal(f->heard[0].kind, WIRE_PONG);
	// without one all may
	f->sessions->policy = NULL;
	free(policy);
	fixture_clear(f);
	peer_says(f, b, 0, WIRE_NORMAL, &to_a, 1);
	fixture_burst(f, 0);
	expect_heard(f, 0, b, a, &to_a, WIRE_NORMAL);
}

static void test_key_exhausted(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	const struct said said = say(&b->id, 77, 8);

	b->session->tx_budget = 4;
	for (int i = 0; i < 4; i++) {
		assert_int_equal(b->state->hints & SESSION_HINT_REKEY,
				 i > 2 ? SESSION_HINT_REKEY : 0);
		peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
		fixture_burst(f, 0);
	}
	assert_int_equal(f->heard_count, 4);
	assert_int_equal(f->event_count, 1);
	assert_int_equal(f->events[0].type, FORWARD_EVENT_REKEY);
	assert_int_equal(f->events[0].index, b->index);
	for (int i = 0; i < 3; i++)
		refuse(f, a, said, WIRE_NORMAL, DROP_MESSAGE_KEY_EXHAUSTED);
	// the other worker's lane has a share of its own
	fixture_clear(f);
	peer_says(f, a, 1, WIRE_NORMAL, &said, 1);
	fixture_burst(f, 1);
	assert_int_equal(f->heard_count, 1);
	// publishing the session anew gives nothing back
	peer_republish(f, b);
	refuse(f, a, said, WIRE_NORMAL, DROP_MESSAGE_KEY_EXHAUSTED);
	// a new key does, and only once it sends with it
	peer_rekey(f, b);
	refuse(f, a, said, WIRE_NORMAL, DROP_MESSAGE_KEY_EXHAUSTED);
	peer_rekey_sends(f, b);
	fixture_clear(f);
	for (int i = 0; i < 4; i++) {
		peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
		fixture_burst(f, 0);
	}
	assert_int_equal(f->heard_count, 4);
	refuse(f, a, said, WIRE_NORMAL, DROP_MESSAGE_KEY_EXHAUSTED);
}

/* A record full of messages needs one of the budget. */
static void test_budget_counts_records(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	struct said said[20];

	b->session->tx_budget = 1;
	for (int i = 0; i < 20; i++)
		said[i] = say(&b->id, i, 8);
	peer_says(f, a, 0, WIRE_NORMAL, said, 20);
	fixture_burst(f, 0);
	assert_int_equal(f->heard_count, 20);
	assert_int_equal(f->event_count, 1);
}

static void test_port_takes_some(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *peers[10];
	struct said said[10];

	for (int i = 0; i < 10; i++) {
		peers[i] = peer_new(f, 10 + i);
		said[i] = say(&peers[i]->id, i, 8);
	}
	said[7].kind = WIRE_RESPONSE;
	said[8].kind = WIRE_REQUEST;
	// nine lone messages and one that has company
	for (int i = 0; i < 10; i++)
		peer_says(f, a, 0, WIRE_CRITICAL, &said[i], 1);
	peer_says(f, a, 0, WIRE_CRITICAL, &said[9], 1);
	f->workers[0].port = 6;
	fixture_burst(f, 0);
	assert_int_equal(counters(f, 0)->messages_dropped[DROP_MESSAGE_TX_FULL], 5);
	assert_int_equal(counters(f, 0)->messages_delivered, 6 + 4);
	assert_int_equal(counters(f, 0)->messages_made, 4);
	for (int i = 0; i < 6; i++)
		expect_heard(f, i, a, peers[i], &said[i], WIRE_CRITICAL);
	// all but the response are told of, in one record
	static const uint32_t tags[] = {6, 8, 9, 9};

	assert_int_equal(f->heard_count, 10);
	assert_int_equal(f->sent_count, 7);
	for (int i = 0; i < 4; i++) {
		assert_ptr_equal(f->heard[6 + i].peer, a);
		assert_int_equal(f->heard[6 + i].kind, WIRE_ERROR | WIRE_REASON_TX_FULL);
		assert_int_equal(f->heard[6 + i].tag, tags[i]);
	}

	// a port that takes nothing at all: the errors are lost too, and nobody is told of those
	fixture_clear(f);
	f->workers[0].port = f->workers[0].port_then = 0;
	peer_says(f, a, 0, WIRE_NORMAL, said, 10);
	fixture_burst(f, 0);
	assert_int_equal(f->sent_count, 0);
	assert_int_equal(counters(f, 0)->messages_dropped[DROP_MESSAGE_TX_FULL], 5 + 10 + 9);
}

/* The worker has these many buffers and no more. */
static void has_buffers(struct fixture *f, unsigned int n)
{
	forward_fini(&f->workers[0].forward);
	f->workers[0].pool = n;
}

static void test_no_buffer(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2), *c = peer_new(f, 3);
	const struct said three[] = {say(&b->id, 1, 8), say(&c->id, 2, 8), say(&b->id, 3, 8)};

	// what is in a record for one receiver needs none
	has_buffers(f, 0);
	peer_says(f, a, 0, WIRE_NORMAL, &three[0], 1);
	fixture_burst(f, 0);
	assert_int_equal(f->heard_count, 1);
	// nor does the end of any; the others do, and so would errors
	fixture_clear(f);
	has_buffers(f, 0);
	peer_says(f, a, 0, WIRE_NORMAL, three, 3);
	fixture_burst(f, 0);
	assert_int_equal(f->heard_count, 1);
	expect_heard(f, 0, a, b, &three[2], WIRE_NORMAL);
	assert_int_equal(counters(f, 0)->messages_made, 2);
	assert_int_equal(counters(f, 0)->messages_dropped[DROP_MESSAGE_NO_BUFFER], 4);
	// one buffer goes round, since it comes back when its record is sent
	fixture_clear(f);
	has_buffers(f, 1);
	peer_says(f, a, 0, WIRE_NORMAL, three, 3);
	fixture_burst(f, 0);
	expect_heard(f, 0, a, b, &three[0], WIRE_NORMAL);
	expect_heard(f, 1, a, c, &three[1], WIRE_NORMAL);
	expect_heard(f, 2, a, b, &three[2], WIRE_NORMAL);
	// and if an error has it, there is room in that for another
	fixture_clear(f);
	has_buffers(f, 1);
	f->workers[0].port = 0;
	peer_says(f, a, 0, WIRE_NORMAL, three, 2);
	fixture_burst(f, 0);
	assert_int_equal(f->heard_count, 2);
	for (unsigned int i = 0; i < 2; i++) {
		assert_int_equal(f->heard[i].kind, WIRE_ERROR | WIRE_REASON_TX_FULL);
		assert_int_equal(f->heard[i].tag, i + 1);
	}
}

static void test_errors_are_limited(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1);
	struct said said[48];

	for (int i = 0; i < 48; i++)
		said[i] = say(&nobody, i, 0);
	for (int i = 0; i < 5; i++)
		peer_says(f, a, 0, WIRE_NORMAL, said, 48);
	fixture_burst(f, 0);
	assert_int_equal(f->heard_count, FORWARD_ERRORS_BURST);
	assert_int_equal(counters(f, 0)->messages_dropped[DROP_MESSAGE_NO_ROUTE], 240);

	// each lane has its own
	peer_says(f, a, 1, WIRE_NORMAL, said, 48);
	fixture_clear(f);
	fixture_burst(f, 0);
	assert_int_equal(f->heard_count, 48);

	// a hundred a second
	for (int i = 0; i < 10; i++) {
		f->now_ms += 5;
		peer_says(f, a, 0, WIRE_NORMAL, said, 48);
		fixture_clear(f);
		fixture_burst(f, 0);
		assert_int_equal(f->heard_count, i % 2);
	}
	f->now_ms += 100;
	peer_says(f, a, 0, WIRE_NORMAL, said, 48);
	fixture_clear(f);
	fixture_burst(f, 0);
	assert_int_equal(f->heard_count, 10);

	// another worker's clock may be a little behind: that gives nothing
	session_rx_lane(a->session, 0)->owner = 1;
	f->now_ms--;
	peer_says(f, a, 0, WIRE_NORMAL, said, 48);
	fixture_clear(f);
	fixture_burst(f, 1);
	assert_int_equal(f->heard_count, 0);

	// saved up to the burst, and no further
	f->now_ms += UINT64_C(1) << 40;
	for (int i = 0; i < 5; i++)
		peer_says(f, a, 0, WIRE_NORMAL, said, 48);
	fixture_clear(f);
	fixture_burst(f, 1);
	assert_int_equal(f->heard_count, FORWARD_ERRORS_BURST);
}

/* Messages on their way */

static void test_lone_message_keeps_its_buffer(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	const struct said said = say(&b->id, 1, 100);
	void *buffer = peer_says(f, a, 0, WIRE_NORMAL, &said, 1)->buffer;

	fixture_burst(f, 0);
	assert_int_equal(f->sent_count, 1);
	assert_ptr_equal(f->sent[0].buffer, buffer);
	assert_memory_equal(&f->sent[0].header, &b->session->header, sizeof(b->session->header));
	expect_heard(f, 0, a, b, &said, WIRE_NORMAL);
}

static void test_whole_record_keeps_its_buffer(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2), *c = peer_new(f, 3);
	struct said said[8];
	void *buffer;

	for (int i = 0; i < 8; i++)
		said[i] = say(&b->id, i, 100);
	buffer = peer_says(f, a, 0, WIRE_NORMAL, said, 8)->buffer;
	has_buffers(f, 0);
	fixture_burst(f, 0);
	assert_int_equal(f->sent_count, 1);
	assert_ptr_equal(f->sent[0].buffer, buffer);
	for (int i = 0; i < 8; i++)
		expect_heard(f, i, a, b, &said[i], WIRE_NORMAL);

	// the end of a record does too, and takes more of the next only as far as its buffer goes
	fixture_clear(f);
	has_buffers(f, FORWARD_SPARES);
	said[0] = say(&c->id, 0, 100);
	buffer = peer_says(f, a, 0, WIRE_NORMAL, said, 8)->buffer;
	for (int i = 0; i < 8; i++)
		said[i] = say(&b->id, 10 + i, 100);
	peer_says(f, a, 0, WIRE_NORMAL, said, 8);
	fixture_burst(f, 0);
	assert_int_equal(f->sent_count, 3);
	assert_int_equal(f->heard_count, 16);
	assert_ptr_equal(f->sent[1].buffer, buffer);
	for (int i = 0; i < 8; i++)
		expect_heard(f, 8 + i, a, b, &said[i], WIRE_NORMAL);

	// one that may not go on breaks it up
	fixture_clear(f);
	said[4].kind = WIRE_PUBLISH;
	peer_says(f, a, 0, WIRE_NORMAL, said, 8);
	fixture_burst(f, 0);
	assert_int_equal(f->heard_count, 8);
	for (int i = 0; i < 7; i++)
		expect_heard(f, i, a, b, &said[i < 4 ? i : i + 1], WIRE_NORMAL);
	assert_int_equal(f->heard[7].kind, WIRE_ERROR | WIRE_REASON_UNSUPPORTED);
}

static void test_to_itself(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1);
	const struct said said = say(&a->id, 1, 100);

	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	fixture_burst(f, 0);
	expect_heard(f, 0, a, a, &said, WIRE_NORMAL);
}

static void test_packed_by_receiver(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2), *c = peer_new(f, 3);
	struct said said[9];
	void *buffer;

	// from one record to two receivers: a record each, in order
	for (int i = 0; i < 9; i++)
		said[i] = say(i % 2 ? &b->id : &c->id, i, 100);
	peer_says(f, a, 0, WIRE_NORMAL, said, 9);
	fixture_burst(f, 0);
	assert_int_equal(f->sent_count, 2);
	for (int i = 0; i < 9; i++)
		expect_heard(f, i, a, i < 5 ? c : b, &said[i < 5 ? 2 * i : 2 * i - 9], WIRE_NORMAL);

	// from several senders to one receiver: behind the first, in its buffer
	fixture_clear(f);
	said[0] = say(&b->id, 10, 100);
	said[1] = say(&b->id, 11, 0);
	buffer = peer_says(f, a, 0, WIRE_NORMAL, &said[0], 1)->buffer;
	peer_says(f, c, 0, WIRE_NORMAL, &said[1], 1);
	peer_says(f, b, 0, WIRE_NORMAL, said, 2);
	fixture_burst(f, 0);
	assert_int_equal(f->sent_count, 1);
	assert_ptr_equal(f->sent[0].buffer, buffer);
	expect_heard(f, 0, a, b, &said[0], WIRE_NORMAL);
	expect_heard(f, 1, c, b, &said[1], WIRE_NORMAL);
	expect_heard(f, 2, b, b, &said[0], WIRE_NORMAL);
	expect_heard(f, 3, b, b, &said[1], WIRE_NORMAL);
}

static void test_packed_as_tight_as_it_fits(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	struct said said[4];
	uint16_t room = b->session->record_max - WIRE_RECORD_OVERHEAD;

	a->session->record_max = FIXTURE_RECORD_MAX;
	// four that fill a record to the byte; then one byte more
	for (int more = 0; more < 2; more++) {
		fixture_clear(f);
		for (int i = 0; i < 4; i++)
			said[i] = say(&b->id, i, room / 4 - WIRE_MESSAGE_HEADER);
		said[3].length += more;
		peer_says(f, a, 0, WIRE_NORMAL, said, 4);
		fixture_burst(f, 0);
		assert_int_equal(f->sent_count, 1 + more);
		assert_int_equal(f->sent[0].length,
				 more ? b->session->record_max - room / 4 : b->session->record_max);
		for (int i = 0; i < 4; i++)
			expect_heard(f, i, a, b, &said[i], WIRE_NORMAL);
	}
}

/* Each has records of its own, and higher ones leave first. */
static void test_classes(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	const struct said said[] = {say(&b->id, 1, 8), say(&b->id, 2, 8)};

	for (int i = 0; i < 6; i++)
		peer_says(f, a, 0, i % 3, said, 2);
	fixture_burst(f, 0);
	assert_int_equal(f->sent_count, 3);
	for (int i = 0; i < 12; i++)
		expect_heard(f, i, a, b, &said[i % 2], WIRE_CRITICAL - i / 4);
}

/* More messages, receivers and records than one pass has room for. */
static void test_full_burst(void **state)
{
	struct fixture *f = *state;
	struct peer *peers[60];
	struct said said[50];

	for (unsigned int i = 0; i < 60; i++)
		peers[i] = peer_new(f, i);
	for (unsigned int i = 0; i < FORWARD_BURST; i++) {
		for (unsigned int j = 0; j < 50; j++)
			said[j] = say(&peers[(7 * i + j) % 60]->id, 100 * (i / 8) + j + 1, 0);
		peer_says(f, peers[i % 8], 0, i % 3, said, 50);
	}
	fixture_burst(f, 0);
	assert_int_equal(f->heard_count, FORWARD_BURST * 50);
	assert_int_equal(counters(f, 0)->messages_delivered, FORWARD_BURST * 50);

	// the same with all for one
	fixture_clear(f);
	for (unsigned int j = 0; j < 50; j++)
		said[j] = say(&peers[0]->id, j, 0);
	for (unsigned int i = 0; i < FORWARD_BURST; i++)
		peer_says(f, peers[i], 0, WIRE_NORMAL, said, 50);
	fixture_burst(f, 0);
	assert_int_equal(f->heard_count, FORWARD_BURST * 50);
	for (unsigned int i = 0; i < f->heard_count; i++)
		expect_heard(f, i, peers[i / 50], peers[0], &said[i % 50], WIRE_NORMAL);

	// and with nothing but errors, from as many senders as the limit lets tell
	fixture_clear(f);
	for (unsigned int j = 0; j < 50; j++)
		said[j] = say(&nobody, j, 0);
	for (unsigned int i = 0; i < FORWARD_BURST; i++)
		peer_says(f, peers[i], 0, WIRE_NORMAL, said, 50);
	fixture_burst(f, 0);
	assert_int_equal(f->heard_count, FORWARD_BURST * 50);
}

/* Records are opened before the first is walked, since sealing uses the same scratch. */
static void test_forged_behind_many(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *peers[50];
	struct said said[50];

	for (unsigned int i = 0; i < 50; i++) {
		peers[i] = peer_new(f, 10 + i);
		said[i] = say(&peers[i]->id, i, 0);
	}
	// so many receivers that records are sealed before all are walked
	for (unsigned int i = 0; i < 24; i++)
		peer_says(f, a, 0, i % 3, said, 50);
	for (unsigned int i = 0; i < 8; i++)
		peer_says(f, peers[i], 0, WIRE_NORMAL, said, 50)->record[40] ^= 1;
	fixture_burst(f, 0);
	assert_int_equal(counters(f, 0)->records_dropped[DROP_RECORD_AUTH], 8);
	assert_int_equal(f->heard_count, 24 * 50);
}

static void test_jumbo(void **state)
{
	struct fixture *f = *state;
	struct peer *peers[4];
	struct said said[371];

	for (int i = 0; i < 4; i++) {
		peers[i] = peer_new(f, i);
		peers[i]->session->record_max = FIXTURE_RECORD_MAX;
	}
	// the largest there is
	said[0] = say(&peers[1]->id, 1,
		      FIXTURE_RECORD_MAX - WIRE_RECORD_OVERHEAD - WIRE_MESSAGE_HEADER);
	peer_says(f, peers[0], 0, WIRE_NORMAL, said, 1);
	fixture_burst(f, 0);
	expect_heard(f, 0, peers[0], peers[1], &said[0], WIRE_NORMAL);
	assert_int_equal(f->sent[0].length, FIXTURE_RECORD_MAX);
	// the most messages there can be
	fixture_clear(f);
	for (int i = 0; i < 371; i++)
		said[i] = say(&peers[i % 4]->id, i, 0);
	for (int i = 0; i < FORWARD_BURST; i++)
		peer_says(f, peers[i % 4], 0, i % 3, said, 371);
	fixture_burst(f, 0);
	assert_int_equal(f->heard_count, FORWARD_BURST * 371);
	assert_int_equal(counters(f, 0)->messages_delivered, FORWARD_BURST * 371 + 1);
}

/* What the relay itself hears and says */

static void test_ping(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	struct said pings[3], said;
	void *buffer;

	for (int i = 0; i < 3; i++) {
		pings[i] = say(&f->relay, 40 + i, 60 * i);
		pings[i].kind = WIRE_PING;
		pings[i].hop_limit = 3;
		pings[i].flags = WIRE_FLAG_SEALED;
	}
	for (int class = WIRE_BULK; class < WIRE_CLASSES; class ++) {
		fixture_clear(f);
		buffer = peer_says(f, a, 0, class, &pings[1], 1)->buffer;
		fixture_burst(f, 0);
		assert_int_equal(f->sent_count, 1);
		assert_ptr_equal(f->sent[0].buffer, buffer);
		assert_int_equal(f->heard[0].kind, WIRE_PONG);
		assert_int_equal(f->heard[0].class, class);
		assert_int_equal(f->heard[0].tag, 41);
		assert_int_equal(f->heard[0].length, 60);
		assert_int_equal(f->heard[0].hop_limit, WIRE_HOP_LIMIT);
		assert_int_equal(f->heard[0].flags, WIRE_FLAG_SEALED);
		assert_true(wire_id_equal(&f->heard[0].address, &f->relay));
		assert_true(payload_right(41, f->heard[0].payload, 60));
	}
	// several, and others behind them
	fixture_clear(f);
	peer_says(f, a, 0, WIRE_NORMAL, pings, 3);
	said = say(&a->id, 50, 8);
	peer_says(f, b, 0, WIRE_NORMAL, &said, 1);
	fixture_burst(f, 0);
	assert_int_equal(f->sent_count, 1);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(f->heard[i].kind, WIRE_PONG);
		assert_int_equal(f->heard[i].tag, 40 + i);
		assert_true(payload_right(40 + i, f->heard[i].payload, 60 * i));
	}
	expect_heard(f, 3, b, a, &said, WIRE_NORMAL);
	assert_int_equal(counters(f, 0)->messages_consumed, 7);
	assert_int_equal(counters(f, 0)->messages_made, 7);

	// a pong's answer is silence
	fixture_clear(f);
	pings[0].kind = WIRE_PONG;
	peer_says(f, a, 0, WIRE_NORMAL, pings, 1);
	fixture_burst(f, 0);
	assert_int_equal(f->sent_count, 0);
	assert_int_equal(counters(f, 0)->messages_consumed, 8);
}

static void test_ping_from_nowhere(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1);
	struct said ping = say(&f->relay, 1, 8);

	ping.kind = WIRE_PING;
	a->session->header.length = 0;
	peer_says(f, a, 0, WIRE_NORMAL, &ping, 1);
	fixture_burst(f, 0);
	assert_int_equal(f->sent_count, 0);
	assert_int_equal(counters(f, 0)->messages_consumed, 1);
	assert_int_equal(counters(f, 0)->messages_made, 0);
}

static void test_pong_finds_no_key(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1);
	struct said ping = say(&f->relay, 1, 8);

	ping.kind = WIRE_PING;
	a->session->tx_budget = 0;
	peer_says(f, a, 0, WIRE_NORMAL, &ping, 1);
	fixture_burst(f, 0);
	assert_int_equal(f->sent_count, 0);
	assert_int_equal(counters(f, 0)->messages_made, 1);
	assert_int_equal(counters(f, 0)->messages_dropped[DROP_MESSAGE_KEY_EXHAUSTED], 1);
}

static void test_control(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	struct said said[3] = {
		say(&f->relay, 1, FORWARD_PAYLOAD_MAX),
		say(&f->relay, 2, 0),
		say(&b->id, 3, 8),
	};

	said[0].kind = said[1].kind = WIRE_KIND_CONTROL;
	a->endpoint.port[1] = 99;
	f->workers[0].ring = 3; // and a peer leaves as much as it has taken
	// on another lane: so that the address proposes nothing
	peer_says(f, a, 1, WIRE_CONTROL, said, 3);
	peer_says(f, a, 1, WIRE_NORMAL, &said[2], 1);
	peer_says(f, a, 1, WIRE_CONTROL, &said[1], 1);
	fixture_burst(f, 0);
	assert_int_equal(f->event_count, 2);
	for (int i = 0; i < 2; i++) {
		static const uint8_t frame[FIXTURE_FRAME] = {[0 ... FIXTURE_FRAME - 1] =
								     FIXTURE_FRAME_BYTE};

		assert_int_equal(f->events[i].type, FORWARD_EVENT_CONTROL);
		assert_int_equal(f->events[i].index, a->index);
		assert_int_equal(f->events[i].tag, i + 1);
		assert_int_equal(f->events[i].payload_length, said[i].length);
		assert_true(payload_right(i + 1, f->events[i].payload, said[i].length));
		assert_true(endpoint_equal(&f->events[i].source, &a->endpoint));
		assert_int_equal(f->events[i].frame_length, FIXTURE_FRAME);
		assert_memory_equal(f->events[i].frame, frame, FIXTURE_FRAME);
	}
	assert_int_equal(counters(f, 0)->messages_consumed, 2);
	assert_int_equal(counters(f, 0)->messages_dropped[DROP_MESSAGE_UNSUPPORTED], 1);
	// the third found no room, of which nobody is told
	assert_int_equal(counters(f, 0)->messages_dropped[DROP_MESSAGE_CONTROL_FULL], 1);
	assert_int_equal(counters(f, 0)->messages_made, 1);
	assert_int_equal(f->heard_count, 2);
}

/* Control messages, a record each; returns how many of them control gets. */
static unsigned int ask(struct fixture *f, struct peer *from, unsigned int lane, unsigned int count)
{
	struct said said = say(&f->relay, 1, 8);
	unsigned int before = f->event_count;

	said.kind = WIRE_KIND_CONTROL;
	while (count--) {
		peer_says(f, from, lane, WIRE_CONTROL, &said, 1);
		fixture_burst(f, 0);
	}
	return f->event_count - before;
}

static void test_control_is_shared(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2), *c = peer_new(f, 3);
	unsigned int half = FORWARD_EVENTS / 2, room;

	// as if it were about to take nothing for a while
	f->workers[0].ring = FORWARD_EVENTS;
	assert_int_equal(ask(f, a, 0, 2 * FORWARD_EVENTS), half);
	assert_int_equal(counters(f, 0)->messages_dropped[DROP_MESSAGE_CONTROL_FULL],
			 2 * FORWARD_EVENTS - half);
	// on another lane, it is the same peer
	assert_int_equal(ask(f, a, 1, 10), 0);
	// others don't notice, but for a second one that asks without end
	assert_int_equal(ask(f, b, 0, 20), 20);
	assert_int_equal(ask(f, c, 0, FORWARD_EVENTS), (half - 20) / 2);
	assert_int_equal(ask(f, b, 0, 20), 20);
	// some are taken, but not the last one of `a`'s; then all of its are
	room = f->workers[0].ring += half - 1;
	assert_int_equal(ask(f, a, 0, FORWARD_EVENTS), (room - half + 1) / 2);
	f->workers[0].ring = FORWARD_EVENTS;
	assert_int_equal(ask(f, a, 0, 2 * FORWARD_EVENTS), half);
}

static void test_path(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	const struct said said = say(&b->id, 1, 8);
	struct kept late;
	uint32_t *hints = &a->state->hints;

	// where it was: nothing to say
	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	fixture_burst(f, 0);
	assert_int_equal(f->event_count, 0);
	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	fixture_keep(f, &late);
	late.source.port[0]++;

	// elsewhere: said once, until control has looked
	a->endpoint.port[0]++;
	for (int i = 0; i < 3; i++) {
		peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
		peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
		fixture_burst(f, 0);
	}
	assert_int_equal(f->event_count, 1);
	assert_int_equal(f->events[0].type, FORWARD_EVENT_PATH);
	assert_int_equal(f->events[0].index, a->index);
	assert_int_equal(f->events[0].frame_length, FIXTURE_FRAME);
	assert_int_equal(f->events[0].payload_length, 0);
	assert_true(endpoint_equal(&f->events[0].source, &a->endpoint));
	assert_int_equal(*hints, SESSION_HINT_PATH);

	// not by a late record, not on another lane
	*hints = 0;
	fixture_clear(f);
	fixture_again(f, &late);
	peer_says(f, a, 1, WIRE_NORMAL, &said, 1);
	fixture_burst(f, 0);
	assert_int_equal(f->heard_count, 2);
	assert_int_equal(f->event_count, 0);
	assert_int_equal(*hints, 0);

	// nor by a forged or replayed one
	fixture_again(f, &late);
	peer_says(f, a, 0, WIRE_NORMAL, &said, 1)->record[20] ^= 1;
	fixture_burst(f, 0);
	assert_int_equal(f->event_count, 0);

	// a full ring forgets it, the next record says it again
	f->workers[0].ring = 0;
	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	fixture_burst(f, 0);
	assert_int_equal(*hints, 0);
	f->workers[0].ring = 1;
	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	fixture_burst(f, 0);
	assert_int_equal(f->event_count, 1);
	assert_int_equal(*hints, SESSION_HINT_PATH);

	// another MAC alone is worth saying too
	*hints = 0;
	f->workers[0].ring = 1;
	peer_republish(f, a)->endpoint = a->endpoint;
	a->endpoint.mac[5]++;
	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	fixture_burst(f, 0);
	assert_int_equal(f->event_count, 2);
	assert_true(endpoint_same_address(&f->events[1].source, &a->session->endpoint));
}

static void test_seen(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1);
	const struct said said = say(&a->id, 1, 8);

	f->now_ms = 0x300001234;
	peer_says(f, a, 2, WIRE_NORMAL, &said, 1);
	fixture_burst(f, 0);
	assert_int_equal(session_rx_lane(a->session, 2)->seen_ms, 0x1234);
	f->now_ms++;
	peer_says(f, a, 2, WIRE_NORMAL, &said, 1)->record[20] ^= 1;
	fixture_burst(f, 0);
	assert_int_equal(session_rx_lane(a->session, 2)->seen_ms, 0x1234);
}

static void test_rekey(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	const struct said said = say(&b->id, 1, 8), answer = say(&a->id, 2, 8);
	struct kept old[3];
	struct wire_record header = {0};

	for (uint32_t epoch = 1; epoch < 6; epoch++) {
		fixture_clear(f);
		for (int i = 0; i < 3; i++) {
			peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
			fixture_keep(f, &old[i]);
		}
		peer_rekey(f, a);
		// the relay opens both phases, and sends in the old
		fixture_again(f, &old[0]);
		peer_says(f, b, 0, WIRE_NORMAL, &answer, 1);
		fixture_burst(f, 0);
		assert_int_equal(f->heard_count, 2);
		assert_int_equal(f->event_count, 0);
		wire_record_get(&header, f->sent[1].record, f->sent[1].length);
		assert_int_equal(header.phase, (epoch - 1) & 1);
		// the first record of the new phase is worth a word to control
		peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
		peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
		fixture_again(f, &old[1]);
		fixture_burst(f, 0);
		assert_int_equal(f->heard_count, 5);
		assert_int_equal(f->event_count, 1);
		assert_int_equal(f->events[0].type, FORWARD_EVENT_PHASE);
		assert_int_equal(f->events[0].index, a->index);
		assert_int_equal(a->state->hints & ~SESSION_HINT_MARKS, SESSION_HINT_PHASE);
		// then the relay sends in it; one window serves both
		peer_rekey_sends(f, a);
		fixture_again(f, &old[2]);
		fixture_again(f, &old[1]);
		peer_says(f, b, 0, WIRE_NORMAL, &answer, 1);
		fixture_burst(f, 0);
		assert_int_equal(f->heard_count, 7);
		assert_int_equal(f->event_count, 1);
		wire_record_get(&header, f->sent[f->sent_count - 1].record, WIRE_RECORD_MIN);
		assert_int_equal(header.phase, epoch & 1);
		assert_int_equal(header.sequence, 2 * epoch - 1);
		// and at last the old phase is over
		peer_rekey_ends(f, a);
		fixture_again(f, &old[0]);
		expect_dropped(f, DROP_RECORD_KEY_PHASE);
	}
}

/* toy_aead, and control publishes a peer's new key while its records are being opened. */
static struct peer *rekeyed_meanwhile;

static void open_and_rekey(void *worker, struct aead_job *jobs, unsigned int n)
{
	struct fixture *f = worker;

	toy_aead.open(NULL, jobs, n);
	if (rekeyed_meanwhile) {
		peer_rekey(f, rekeyed_meanwhile);
		peer_rekey_sends(f, rekeyed_meanwhile);
	}
	rekeyed_meanwhile = NULL;
}

static void test_two_epochs_in_a_burst(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1);
	struct said said[3] = {say(&a->id, 1, 8), say(&f->relay, 2, 8), say(&a->id, 3, 8)};
	struct aead_ops aead = toy_aead;
	struct session_tx *lane = session_tx_lane(a->session, 0);
	void *scratch = f->workers[0].forward.aead_worker;

	// the ping is answered by the session as it was when the record came, the others go to what
	// it is when they are looked up
	said[1].kind = WIRE_PING;
	a->session->tx_budget = 10;
	lane->used = 4;
	aead.open = open_and_rekey;
	rekeyed_meanwhile = a;
	f->workers[0].forward.aead = &aead;
	f->workers[0].forward.aead_worker = f;
	peer_says(f, a, 0, WIRE_NORMAL, said, 3);
	fixture_burst(f, 0);
	f->workers[0].forward.aead_worker = scratch;
	f->workers[0].forward.aead = &toy_aead;
	assert_int_equal(f->heard_count, 3);
	assert_int_equal(f->sent_count, 3);
	assert_int_equal(lane->epoch, 2);
	assert_int_equal(lane->used, 3);
}

/* A full ring loses the hint of a new phase or a used-up key, but not its bit. */
static void test_hints_stay(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1);
	const struct said said = say(&a->id, 1, 8);

	f->workers[0].ring = 0;
	a->session->tx_budget = 2;
	peer_rekey(f, a);
	for (int i = 0; i < 2; i++) {
		peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
		fixture_burst(f, 0);
	}
	assert_int_equal(a->state->hints, SESSION_HINT_PHASE | SESSION_HINT_REKEY);
}

static void test_return(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2), *again;
	const struct said said = say(&b->id, 1, 8), answer = say(&a->id, 2, 8);

	// joined again, nothing heard yet: the old session goes on
	again = peer_return(f, a);
	peer_says(f, b, 0, WIRE_NORMAL, &answer, 1);
	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	peer_says(f, again, 0, WIRE_NORMAL, &said, 1);
	fixture_burst(f, 0);
	expect_heard(f, 0, b, a, &answer, WIRE_NORMAL);
	expect_heard(f, 1, a, b, &said, WIRE_NORMAL);
	expect_heard(f, 2, again, b, &said, WIRE_NORMAL);
	// from then on the new
	fixture_clear(f);
	peer_take_over(f, again);
	peer_says(f, b, 0, WIRE_NORMAL, &answer, 1);
	peer_says(f, again, 0, WIRE_NORMAL, &said, 1);
	fixture_burst(f, 0);
	expect_heard(f, 0, b, again, &answer, WIRE_NORMAL);
	expect_heard(f, 1, again, b, &said, WIRE_NORMAL);
	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	expect_dropped(f, DROP_RECORD_SESSION_STALE);
}

/* Control's own messages */

static struct forward_command order(uint32_t index, uint32_t tag, uint16_t length)
{
	struct forward_command command = {
		.index = index,
		.tag = tag,
		.kind = WIRE_KIND_CONTROL,
		.class = WIRE_CONTROL,
		.payload_length = length,
	};

	for (uint16_t i = 0; i < length; i++)
		command.payload[i] = payload_byte(tag, i);
	return command;
}

static void expect_order(const struct fixture *f, unsigned int i, const struct peer *to,
			 const struct forward_command *command)
{
	const struct heard *heard = &f->heard[i];

	assert_true(i < f->heard_count);
	assert_ptr_equal(heard->peer, to);
	assert_int_equal(heard->kind, WIRE_KIND_CONTROL);
	assert_int_equal(heard->class, WIRE_CONTROL);
	assert_int_equal(heard->hop_limit, WIRE_HOP_LIMIT);
	assert_int_equal(heard->flags, 0);
	assert_int_equal(heard->tag, command->tag);
	assert_int_equal(heard->length, command->payload_length);
	assert_true(payload_right(heard->tag, heard->payload, heard->length));
	assert_true(wire_id_equal(&heard->address, &f->relay));
}

static void test_commands(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2), *again;
	struct forward_command commands[5];

	again = peer_return(f, a);
	peer_take_over(f, again);
	commands[0] = order(a->index, 1, 0);
	commands[1] = order(again->index, 2, FORWARD_PAYLOAD_MAX);
	commands[2] = order(b->index, 3, 10);
	commands[3] = order(b->index, 4, 10);
	commands[3].header.length = 60;
	memset(commands[3].header.bytes, 0x5a, 60);
	again = peer_return(f, again);
	commands[4] = order(again->index, 5, 10);
	fixture_commands(f, 1, commands, 5);
	// one record each, also to one receiver: they may go different ways
	assert_int_equal(f->sent_count, 5);
	expect_order(f, 0, a, &commands[0]);
	expect_order(f, 1, f->peers[2], &commands[1]);
	expect_order(f, 2, b, &commands[2]);
	expect_order(f, 3, b, &commands[3]);
	expect_order(f, 4, again, &commands[4]);
	assert_memory_equal(&f->sent[2].header, &b->session->header, sizeof(f->sent[2].header));
	assert_memory_equal(&f->sent[3].header, &commands[3].header, sizeof(f->sent[3].header));
	assert_int_equal(counters(f, 1)->messages_made, 5);
	assert_int_equal(counters(f, 1)->messages_delivered, 5);
}

static void test_commands_refused(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	struct counters *counted = counters(f, 0);
	struct forward_command commands[4];

	// nobody there, another generation, beyond the table; no address
	b->session->header.length = 0;
	commands[0] = order(3, 1, 0);
	commands[1] = order(a->index + WIRE_SLOTS, 1, 0);
	commands[2] = order(FIXTURE_SLOTS, 1, 0);
	commands[3] = order(b->index, 1, 0);
	fixture_commands(f, 0, commands, 4);
	assert_int_equal(f->sent_count, 0);
	assert_int_equal(counted->messages_made, 4);
	assert_int_equal(counted->messages_dropped[DROP_MESSAGE_SESSION_GONE], 4);
	// which the command itself may have
	commands[3].header.length = 14;
	fixture_commands(f, 0, &commands[3], 1);
	expect_order(f, 0, b, &commands[3]);

	a->session->record_max = 200;
	commands[0] = order(a->index, 1, 200 - WIRE_RECORD_OVERHEAD - WIRE_MESSAGE_HEADER);
	commands[1] = order(a->index, 1, 200 - WIRE_RECORD_OVERHEAD - WIRE_MESSAGE_HEADER + 1);
	fixture_commands(f, 0, commands, 2);
	expect_order(f, 1, a, &commands[0]);
	assert_int_equal(counted->messages_dropped[DROP_MESSAGE_TOO_LARGE], 1);

	a->session->tx_budget = 1;
	fixture_commands(f, 0, commands, 1);
	assert_int_equal(counted->messages_dropped[DROP_MESSAGE_KEY_EXHAUSTED], 1);
	a->session->tx_budget = 1000;
	f->workers[0].port = 0;
	fixture_commands(f, 0, commands, 1);
	assert_int_equal(counted->messages_dropped[DROP_MESSAGE_TX_FULL], 1);

	has_buffers(f, 0);
	fixture_commands(f, 0, commands, 1);
	assert_int_equal(counted->messages_dropped[DROP_MESSAGE_NO_BUFFER], 1);
	// one buffer is enough for any number
	has_buffers(f, 1);
	for (int i = 0; i < 4; i++)
		commands[i] = order(a->index, i, 4);
	fixture_clear(f);
	fixture_commands(f, 0, commands, 4);
	for (int i = 0; i < 4; i++)
		expect_order(f, i, a, &commands[i]);
}

static void test_many_commands(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1);
	struct forward_command *commands = calloc(200, sizeof(*commands));

	assert_non_null(commands);
	for (int i = 0; i < 200; i++)
		commands[i] = order(a->index, i, i);
	fixture_commands(f, 0, commands, 200);
	for (int i = 0; i < 200; i++)
		expect_order(f, i, a, &commands[i]);
	free(commands);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(not_a_record),
		TEST(no_session),
		TEST(not_agreed),
		TEST(forged),
		TEST(replayed),
		TEST(key_limit),
		TEST(malformed),
		TEST(lane_is_claimed_and_follows),
		TEST(lane_waits_for_what_is_on_its_way),
		TEST(record_handed_over_in_vain),
		TEST(lane_stays_for_the_burst),
		TEST(owner_is_behind),
		TEST(every_kind),
		TEST(last_hop),
		TEST(too_large),
		TEST(no_address),
		TEST(policy),
		TEST(key_exhausted),
		TEST(budget_counts_records),
		TEST(port_takes_some),
		TEST(no_buffer),
		TEST(errors_are_limited),
		TEST(lone_message_keeps_its_buffer),
		TEST(whole_record_keeps_its_buffer),
		TEST(to_itself),
		TEST(packed_by_receiver),
		TEST(packed_as_tight_as_it_fits),
		TEST(classes),
		TEST(full_burst),
		TEST(forged_behind_many),
		TEST(jumbo),
		TEST(ping),
		TEST(ping_from_nowhere),
		TEST(pong_finds_no_key),
		TEST(control),
		TEST(control_is_shared),
		TEST(path),
		TEST(seen),
		TEST(rekey),
		TEST(two_epochs_in_a_burst),
		TEST(hints_stay),
		TEST(return ),
		TEST(commands),
		TEST(commands_refused),
		TEST(many_commands),
	};

	return cmocka_run_group_tests_name("forward", tests, NULL, NULL);
}
