/* Received bundles, taken apart: what is in them, and what is wrong with them. */
#include "test.h"

#include <stdlib.h>

#include "fixture.h"
#include "toy.h"
#include "unbundle.h"

enum {
	SMALLEST = WIRE_BUNDLE_LENGTH + WIRE_RECORD_MIN,
	FEW = 5,
};

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

static const struct counters *counters(const struct fixture *f)
{
	return &f->workers[0].forward.counters;
}

/*
 * Makes one datagram of those in the next burst; it is all that is in its buffer, so that what is
 * read behind it is found out.
 */
static struct forward_input bundle_up(struct fixture *f)
{
	uint8_t bytes[FIXTURE_RECORD_MAX] = {WIRE_BUNDLE, 0};
	struct endpoint source = f->inputs[0].source;
	struct forward_input *input;
	uint16_t at = WIRE_BUNDLE_HEADER;

	for (unsigned int i = 0; i < f->input_count; i++) {
		const struct forward_input *record = &f->inputs[i];

		wire_put16(bytes + at, record->length);
		memcpy(bytes + at + WIRE_BUNDLE_LENGTH, record->record, record->length);
		at += WIRE_BUNDLE_LENGTH + record->length;
		free(record->buffer);
		f->buffers--;
	}
	f->input_count = 0;
	input = fixture_datagram(f, bytes, at);
	input->source = source;
	f->input_count = 0;
	return *input;
}

/* Cuts a bundle off. */
static void cut(struct forward_input *bundle, uint16_t length)
{
	size_t front = (size_t)(bundle->record - (uint8_t *)bundle->buffer);

	bundle->buffer = realloc(bundle->buffer, front + length);
	bundle->record = (uint8_t *)bundle->buffer + front;
	bundle->length = length;
}

/* Takes all out of it, a few at a time, and forwards them. */
static unsigned int take_apart(struct fixture *f, struct forward_input bundle)
{
	struct forward *forward = &f->workers[0].forward;
	unsigned int sum = 0;
	size_t at = WIRE_BUNDLE_HEADER;

	assert_true(wire_is_bundle(bundle.record, bundle.length));
	while (bundle.buffer) {
		unsigned int n = unbundle(forward, &bundle, &at, f->inputs, FEW, f->now_ms);

		assert_true(n <= FEW);
		// the first is sent in its buffer while others are still in the bundle
		f->input_count = n;
		f->held = bundle.buffer != NULL;
		fixture_burst(f, 0);
		f->held = 0;
		sum += n;
	}
	return sum;
}

/* Says `n` messages to a peer, each in a record, with tags from 0. */
static void says(struct fixture *f, struct peer *from, const struct peer *to, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		const struct said said = say(&to->id, i, 0);

		peer_says(f, from, 0, WIRE_NORMAL, &said, 1);
	}
}

/* Records of several peers, lanes and classes come as if each had come alone. */
static void test_records(void **state)
{
	struct fixture *f = *state;
	struct peer *peers[] = {peer_new(f, 1), peer_new(f, 2), peer_new(f, 3)};
	struct endpoint elsewhere = {.ip = {[15] = 99}, .port = {1, 2}, .mac = {2, 4}};
	struct forward_input bundle;
	unsigned int n = 2 * FEW + 2;

	for (unsigned int i = 0; i < n; i++) {
		const struct said said = say(&peers[(i + 1) % 3]->id, i, (uint16_t)(7 * i));

		peer_says(f, peers[i % 3], i & 1, i & 2 ? WIRE_BULK : WIRE_CRITICAL, &said, 1);
	}
	bundle = bundle_up(f);
	bundle.source = elsewhere;
	assert_int_equal(take_apart(f, bundle), n);
	assert_int_equal(counters(f)->records_received, n);
	assert_int_equal(counters(f)->records_opened, n);
	assert_int_equal(f->heard_count, n);
	for (unsigned int i = 0; i < n; i++) {
		const struct heard *heard = &f->heard[i];

		assert_int_equal(heard->length, 7 * heard->tag);
		assert_true(payload_right(heard->tag, heard->payload, heard->length));
		assert_ptr_equal(heard->peer, peers[(heard->tag + 1) % 3]);
		assert_int_equal(heard->class, heard->tag & 2 ? WIRE_BULK : WIRE_CRITICAL);
	}
	// each moves with it, and by the frame that it came in
	assert_int_equal(f->event_count, 3);
	for (unsigned int i = 0; i < f->event_count; i++) {
		assert_int_equal(f->events[i].type, FORWARD_EVENT_PATH);
		assert_memory_equal(&f->events[i].source, &elsewhere, sizeof(elsewhere));
		assert_int_equal(f->events[i].frame_length, FIXTURE_FRAME);
		for (unsigned int j = 0; j < FIXTURE_FRAME; j++)
			assert_int_equal(f->events[i].frame[j], FIXTURE_FRAME_BYTE);
	}
}

/* The most that fit, and in order. */
static void test_most(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);

	says(f, a, b, FORWARD_BURST);
	assert_int_equal(take_apart(f, bundle_up(f)), FORWARD_BURST);
	assert_int_equal(f->heard_count, FORWARD_BURST);
	for (unsigned int i = 0; i < FORWARD_BURST; i++)
		assert_int_equal(f->heard[i].tag, i);
}

/* Wherever it is cut off: what is whole counts, and the rest is one that doesn't. */
static void test_cut_off(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	const unsigned int records = 3, size = WIRE_BUNDLE_HEADER + records * SMALLEST;
	uint64_t received = 0, rests = 0;

	for (uint16_t length = WIRE_RECORD_MIN; length <= size; length++) {
		unsigned int whole = (length - WIRE_BUNDLE_HEADER) / SMALLEST;
		bool rest = (length - WIRE_BUNDLE_HEADER) % SMALLEST;
		struct forward_input bundle;

		says(f, a, b, records);
		bundle = bundle_up(f);
		cut(&bundle, length);
		fixture_clear(f);
		assert_int_equal(take_apart(f, bundle), whole);
		assert_int_equal(f->heard_count, whole);
		received += whole + rest;
		rests += rest;
		assert_int_equal(counters(f)->records_received, received);
		assert_int_equal(counters(f)->records_dropped[DROP_RECORD_BUNDLE], rests);
	}
}

/* A length that is shorter than any record, or longer than what is left. */
static void test_lengths(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	static const uint16_t wrong[] = {0, WIRE_RECORD_MIN - 1, SMALLEST + WIRE_RECORD_MIN + 1,
					 UINT16_MAX};

	for (unsigned int i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct forward_input bundle;

		says(f, a, b, 3);
		bundle = bundle_up(f);
		wire_put16(bundle.record + WIRE_BUNDLE_HEADER + SMALLEST, wrong[i]);
		assert_int_equal(take_apart(f, bundle), 1);
		assert_int_equal(counters(f)->records_dropped[DROP_RECORD_BUNDLE], i + 1);
		assert_int_equal(counters(f)->records_received, 2 * (i + 1));
	}
}

/* One that is bad says nothing about the others. */
static void test_bad_record(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	struct forward_input bundle;

	says(f, a, b, 3);
	f->inputs[1].record[WIRE_RECORD_HEADER] ^= 1;
	assert_int_equal(take_apart(f, bundle_up(f)), 3);
	assert_int_equal(f->heard_count, 2);
	assert_int_equal(counters(f)->records_dropped[DROP_RECORD_AUTH], 1);
	// a bundle in a bundle is no record
	fixture_clear(f);
	says(f, a, b, 2);
	bundle = bundle_up(f);
	f->inputs[0] = bundle;
	f->input_count = 1;
	says(f, a, b, 1);
	assert_int_equal(take_apart(f, bundle_up(f)), 2);
	assert_int_equal(f->heard_count, 1);
	assert_int_equal(counters(f)->records_dropped[DROP_RECORD_VERSION], 1);
}

static void test_no_buffers(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	struct fixture_worker *worker = &f->workers[0];

	forward_fini(&worker->forward);
	worker->pool = 0;
	says(f, a, b, 3);
	assert_int_equal(take_apart(f, bundle_up(f)), 0);
	assert_int_equal(counters(f)->records_received, 3);
	assert_int_equal(counters(f)->records_dropped[DROP_RECORD_NO_BUFFER], 3);
	forward_fini(&worker->forward);
	worker->pool = 2;
	says(f, a, b, 3);
	assert_int_equal(take_apart(f, bundle_up(f)), 2);
	assert_int_equal(f->heard_count, 2);
	assert_int_equal(counters(f)->records_dropped[DROP_RECORD_NO_BUFFER], 4);
	worker->pool = FIXTURE_NO_LIMIT;
}

/* Who sends many that are malformed is reported. */
static void test_suspect(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	const unsigned int limit = 10;

	f->sessions->suspect_limit = limit;
	for (unsigned int i = 0; i < limit; i++) {
		struct forward_input bundle;

		assert_int_equal(f->event_count, 0);
		says(f, a, b, 1);
		bundle = bundle_up(f);
		cut(&bundle, bundle.length - 1);
		assert_int_equal(take_apart(f, bundle), 0);
	}
	assert_int_equal(f->event_count, 1);
	assert_int_equal(f->events[0].type, FORWARD_EVENT_SUSPECT);
	assert_memory_equal(&f->events[0].source, &a->endpoint, sizeof(a->endpoint));
}

/* What is none: too short for a record, another type, a second byte that isn't zero. */
static void test_no_bundle(void **state)
{
	uint8_t datagram[WIRE_RECORD_MIN] = {WIRE_BUNDLE, 0};

	assert_true(wire_is_bundle(datagram, sizeof(datagram)));
	assert_false(wire_is_bundle(NULL, 0));
	for (size_t size = 1; size < sizeof(datagram); size++) {
		uint8_t *exact = malloc(size);

		memcpy(exact, datagram, size);
		assert_false(wire_is_bundle(exact, size));
		free(exact);
	}
	for (int bit = 0; bit < 16; bit++) {
		datagram[bit / 8] ^= 1 << bit % 8;
		assert_false(wire_is_bundle(datagram, sizeof(datagram)));
		datagram[bit / 8] ^= 1 << bit % 8;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_records, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_most, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_cut_off, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_lengths, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_bad_record, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_no_buffers, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_suspect, set_up, tear_down),
		cmocka_unit_test(test_no_bundle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
