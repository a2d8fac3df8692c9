#include "test.h"

#include <stdlib.h>

#include "fixture.h"
#include "toy.h"

enum { LIMIT = 100 };

static struct endpoint v4(uint32_t host)
{
	struct endpoint from = {.ip = {[10] = 0xff, [11] = 0xff}};

	wire_put32(from.ip + 12, host);
	return from;
}

static struct endpoint v6(uint8_t network, uint8_t host)
{
	struct endpoint from = {.ip = {0x20, 1, 0xd, 0xb8, [7] = network, [15] = host}};

	return from;
}

static int begin(void **state)
{
	*state = calloc(1, sizeof(struct suspects));
	return *state == NULL;
}

static int end(void **state)
{
	free(*state);
	return 0;
}

/* How often this source is reported if it sends so many. */
static int send(struct suspects *suspects, struct endpoint from, int records, uint64_t now_ms)
{
	int reports = 0;

	for (int i = 0; i < records; i++)
		reports += suspects_note(suspects, &from, LIMIT, now_ms);
	return reports;
}

static void test_limit(void **state)
{
	struct suspects *suspects = *state;

	assert_int_equal(send(suspects, v4(1), LIMIT - 1, 5000), 0);
	assert_int_equal(send(suspects, v4(2), LIMIT - 1, 5000), 0);
	assert_int_equal(send(suspects, v4(1), 1, 5999), 1);
	// once in that time, however many come
	assert_int_equal(send(suspects, v4(1), 10 * LIMIT, 5999), 0);
	assert_int_equal(send(suspects, v4(1), 10 * LIMIT, 6000), 1);
	// what came long ago doesn't count
	assert_int_equal(send(suspects, v4(2), LIMIT - 1, 6000), 0);
}

static void test_networks(void **state)
{
	struct suspects *suspects = *state;

	assert_int_equal(send(suspects, v6(1, 1), LIMIT / 2, 5000), 0);
	assert_int_equal(send(suspects, v6(2, 1), LIMIT / 2, 5000), 0);
	// another address of the same /64
	assert_int_equal(send(suspects, v6(1, 2), LIMIT / 2, 5000), 1);
}

/* As many as come from one network at the same time, each is found. */
static void test_neighbours(void **state)
{
	enum { NEIGHBOURS = 50 };
	struct suspects *suspects = *state;
	int v4_reports[NEIGHBOURS] = {0}, v6_reports[NEIGHBOURS] = {0};

	for (int i = 0; i < LIMIT; i++) {
		for (int host = 0; host < NEIGHBOURS; host++) {
			v4_reports[host] +=
				send(suspects, v4(0x0a000064 + (uint32_t)host), 1, 5000);
			v6_reports[host] += send(suspects, v6((uint8_t)host, 1), 1, 5000);
		}
	}
	for (int host = 0; host < NEIGHBOURS; host++) {
		assert_int_equal(v4_reports[host], 1);
		assert_int_equal(v6_reports[host], 1);
	}
}

/* So are nearly all of a thousand that send equally much, from wherever. */
static void test_many(void **state)
{
	enum { MANY = 1000 };
	struct suspects *suspects = *state;
	int reports = 0;

	for (int i = 0; i < LIMIT; i++) {
		for (uint32_t host = 0; host < MANY; host++)
			reports += send(suspects, v4(host * 2654435761u), 1, 5000);
	}
	assert_in_range(reports, MANY * 95 / 100, MANY);
}

/* Of a flood with a million forged addresses none is reported, and who hides in it is. */
static void test_forged(void **state)
{
	struct suspects *suspects = *state;
	int forged = 0, real = 0;

	for (uint32_t i = 0; i < 1000000; i++) {
		forged += send(suspects, v4(1000 + i), 1, 5000 + i / 100);
		if (i % 4 == 0)
			real += send(suspects, v4(7), 1, 5000 + i / 100);
	}
	assert_int_equal(forged, 0);
	assert_in_range(real, 10, 11);
}

static int begin_fixture(void **state)
{
	*state = fixture_new(&toy_aead);
	return 0;
}

static int end_fixture(void **state)
{
	fixture_free(*state);
	return 0;
}

static uint32_t marks(const struct peer *peer, enum session_mark mark)
{
	return session_tx_lane(peer->session, 0)->marks[mark];
}

/* Whether there is no other mark but so many of this. */
static void expect_marks(const struct peer *peer, enum session_mark mark, uint32_t count)
{
	for (int i = 0; i < SESSION_MARK_COUNT; i++)
		assert_int_equal(marks(peer, i), i == (int)mark ? count : 0);
	assert_int_equal(!!(peer->session->state->hints & SESSION_HINT_MARKS), count != 0);
}

static void test_marks(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	const struct wire_id nobody = {{'n'}};
	struct said said = say(&b->id, 1, 8);
	struct wire_record header = {.class = WIRE_NORMAL};
	struct endpoint elsewhere = v4(99);
	struct kept kept;

	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	fixture_keep(f, &kept);
	fixture_again(f, &kept);
	fixture_burst(f, 0);
	expect_marks(a, SESSION_MARK_AUTH, 0);

	// what anybody could have sent counts only if it comes from the peer's address
	fixture_again(f, &kept)->source = elsewhere;
	fixture_burst(f, 0);
	expect_marks(a, SESSION_MARK_AUTH, 0);
	fixture_again(f, &kept);
	fixture_burst(f, 0);
	expect_marks(a, SESSION_MARK_REPLAY, 1);

	peer_says(f, b, 0, WIRE_NORMAL, &said, 1);
	fixture_keep(f, &kept);
	kept.bytes[kept.length - 1] ^= 1;
	fixture_again(f, &kept)->source = elsewhere;
	fixture_again(f, &kept);
	fixture_again(f, &kept);
	fixture_burst(f, 0);
	expect_marks(b, SESSION_MARK_AUTH, 2);

	a = peer_new(f, 3);
	said = say(&nobody, 1, 8);
	peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
	fixture_burst(f, 0);
	expect_marks(a, SESSION_MARK_REFUSED, 1);

	a = peer_new(f, 4);
	header.index = a->index;
	peer_seals(f, a, &header, "0123456789012345678901234", 25);
	fixture_burst(f, 0);
	expect_marks(a, SESSION_MARK_MALFORMED, 1);
}

static void test_report(void **state)
{
	struct fixture *f = *state;
	struct peer *a = peer_new(f, 1), *b = peer_new(f, 2);
	const struct said said = say(&b->id, 1, 8);
	unsigned int reports = 0;

	f->sessions->suspect_limit = LIMIT;
	for (int i = 0; i < LIMIT + 10; i++) {
		fixture_clear(f);
		fixture_datagram(f, "x", 1)->source = v4(66);
		peer_says(f, a, 0, WIRE_NORMAL, &said, 1);
		fixture_burst(f, 0);
		assert_int_equal(f->heard_count, 1);
		if (f->event_count) {
			const struct endpoint from = v4(66);

			assert_int_equal(f->events[0].type, FORWARD_EVENT_SUSPECT);
			assert_true(endpoint_equal(&f->events[0].source, &from));
			assert_int_equal(i, LIMIT - 1);
			reports++;
		}
	}
	assert_int_equal(reports, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_limit, begin, end),
		cmocka_unit_test_setup_teardown(test_networks, begin, end),
		cmocka_unit_test_setup_teardown(test_neighbours, begin, end),
		cmocka_unit_test_setup_teardown(test_many, begin, end),
		cmocka_unit_test_setup_teardown(test_forged, begin, end),
		cmocka_unit_test_setup_teardown(test_marks, begin_fixture, end_fixture),
		cmocka_unit_test_setup_teardown(test_report, begin_fixture, end_fixture),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
