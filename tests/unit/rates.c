/* What peers and clusters may send: token buckets, with a clock of the test's own. */
#include "test.h"

#include <stdlib.h>

#include "fixture.h"
#include "toy.h"

static uint64_t spend(const struct rate *rate, struct rates_account *account,
		      struct rates_credit *credit, uint32_t messages, uint32_t bytes,
		      uint64_t now_ms)
{
	uint64_t n = 0;

	while (n < 1000000 && rates_charge(rate, account, credit, messages, bytes, now_ms))
		n++;
	return n;
}

static void test_burst_and_rate(void **state)
{
	const struct rate rate = {.messages_per_s = 250, .messages_burst = 100};
	struct rates_account account = {0};
	struct rates_credit credit = {0};
	uint64_t sum;

	assert_int_equal(spend(&rate, &account, &credit, 1, 1500, 1), 100);
	assert_int_equal(spend(&rate, &account, &credit, 1, 1500, 3), 0);
	assert_int_equal(spend(&rate, &account, &credit, 1, 1500, 4), 1);
	// exactly the rate, however time passes
	sum = 0;
	for (uint64_t ms = 5; ms <= 10004; ms += 1 + ms % 7)
		sum += spend(&rate, &account, &credit, 1, 0, ms);
	sum += spend(&rate, &account, &credit, 1, 0, 10004);
	assert_int_equal(sum, 2500);
	// what isn't used is saved up to the burst only
	assert_int_equal(spend(&rate, &account, &credit, 1, 0, 1000000), 100);
}

static void test_bytes(void **state)
{
	const struct rate rate = {.bytes_per_s = 1000000, .bytes_burst = 100000};
	struct rates_account account = {0};
	struct rates_credit credit = {0};

	assert_int_equal(spend(&rate, &account, &credit, 7, 1000, 1), 100);
	assert_int_equal(spend(&rate, &account, &credit, 7, 1000, 3), 2);
	// a small one fits where a large one doesn't
	assert_false(rates_charge(&rate, &account, &credit, 1, 1001, 4));
	assert_true(rates_charge(&rate, &account, &credit, 1, 1000, 4));
	assert_false(rates_charge(&rate, &account, &credit, 1, 1, 4));
}

/* A record larger than a burst passes when the bucket is full. */
static void test_larger_than_a_burst(void **state)
{
	const struct rate rate = {.messages_per_s = 10, .messages_burst = 5};
	struct rates_account account = {0};
	struct rates_credit credit = {0};

	assert_true(rates_charge(&rate, &account, &credit, 59, 1500, 1));
	assert_false(rates_charge(&rate, &account, &credit, 59, 1500, 400));
	assert_true(rates_charge(&rate, &account, &credit, 59, 1500, 600));
}

/* What fails costs nothing. */
static void test_both(void **state)
{
	const struct rate rate = {
		.messages_per_s = 10, .messages_burst = 10, .bytes_per_s = 10, .bytes_burst = 100};
	struct rates_account account = {0};
	struct rates_credit credit = {0};

	assert_int_equal(spend(&rate, &account, &credit, 1, 50, 1), 2);
	assert_int_equal(spend(&rate, &account, &credit, 1, 0, 1), 8);
}

/* However many workers there are, together they have the rate. */
static void test_workers_share(void **state)
{
	const struct rate rate = {.messages_per_s = 1000, .messages_burst = 800};
	struct rates_account account = {0};
	struct rates_credit credits[4] = {{0}};
	uint64_t sum = 0;

	for (uint64_t ms = 1; ms <= 5000; ms++) {
		// clocks of workers are apart by some milliseconds
		sum += spend(&rate, &account, &credits[ms % 4], 1, 0, 10 + ms - ms % 4);
		if (ms == 1)
			assert_int_equal(sum, 800);
	}
	assert_in_range(sum, 5790, 5800);
	// what one has borrowed and not spent is little
	for (int i = 0; i < 4; i++)
		assert_true(credits[i].messages <= 32);
}

static void test_rate_changes(void **state)
{
	struct rate rate = {.messages_per_s = 100000, .messages_burst = 10};
	struct rates_account account = {0};
	struct rates_credit credit = {0};
	uint64_t now_ms = UINT64_C(1000) * 3600 * 24 * 1000; // up for long

	assert_int_equal(spend(&rate, &account, &credit, 1, 0, now_ms), 10);
	rate.messages_per_s = 1;
	assert_in_range(spend(&rate, &account, &credit, 1, 0, now_ms), 0, 10);
	assert_int_equal(spend(&rate, &account, &credit, 1, 0, now_ms + 3000), 3);
	rate.messages_per_s = 100000;
	assert_int_equal(spend(&rate, &account, &credit, 1, 0, now_ms + 3000), 10);
	// no rate, no limit
	rate.messages_per_s = 0;
	assert_int_equal(spend(&rate, &account, &credit, 1, 0, now_ms + 3000), 1000000);
}

/* In the forwarding core */

struct rated {
	struct fixture *f;
	struct rates *rates;
	struct peer *a, *b, *c;
};

static int set_up(void **state)
{
	struct rated *r = calloc(1, sizeof(*r));

	r->f = fixture_new(&toy_aead);
	r->rates = calloc(1, sizeof(*r->rates));
	r->rates->limited = true;
	r->f->sessions->rates = r->rates;
	r->a = peer_new(r->f, 1);
	r->b = peer_new(r->f, 2);
	r->c = peer_new(r->f, 3);
	*state = r;
	return 0;
}

static int tear_down(void **state)
{
	struct rated *r = *state;

	fixture_free(r->f);
	free(r->rates);
	free(r);
	return 0;
}

static void says(struct rated *r, struct peer *from, uint8_t lane, enum wire_class class,
		 unsigned int n, uint32_t tag)
{
	struct said said[8];

	for (unsigned int i = 0; i < n; i++)
		said[i] = say(&r->c->id, tag + i, 4);
	peer_says(r->f, from, lane, class, said, n);
}

static unsigned int heard(const struct rated *r, const struct peer *by, uint8_t kind)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < r->f->heard_count; i++)
		n += r->f->heard[i].peer == by && r->f->heard[i].kind == kind;
	return n;
}

static const struct counters *counted(const struct rated *r)
{
	return &r->f->workers[0].forward.counters;
}

static void test_peer(void **state)
{
	struct rated *r = *state;
	uint32_t *marks = session_tx_lane(r->a->session, 0)->marks;

	r->rates->levels[0] = (struct rate){.messages_per_s = 1000, .messages_burst = 8};
	says(r, r->a, 0, WIRE_NORMAL, 5, 0);
	says(r, r->a, 0, WIRE_CRITICAL, 3, 10);
	says(r, r->a, 1, WIRE_NORMAL, 2, 20);
	says(r, r->b, 0, WIRE_NORMAL, 5, 30);
	fixture_burst(r->f, 0);
	assert_int_equal(heard(r, r->c, WIRE_SEND), 13);
	// its sender is told, message by message; others aren't concerned
	assert_int_equal(heard(r, r->a, WIRE_ERROR | WIRE_REASON_RATE), 2);
	assert_int_equal(counted(r)->messages_dropped[DROP_MESSAGE_RATE], 2);
	assert_int_equal(marks[SESSION_MARK_LIMIT], 1);
	// what follows is not even opened, but control is
	says(r, r->a, 1, WIRE_BULK, 8, 40);
	says(r, r->a, 1, WIRE_CONTROL, 1, 50);
	fixture_burst(r->f, 0);
	assert_int_equal(counted(r)->records_dropped[DROP_RECORD_RATE], 1);
	assert_int_equal(counted(r)->messages_dropped[DROP_MESSAGE_UNSUPPORTED], 1);
	assert_int_equal(heard(r, r->c, WIRE_SEND), 13);
	r->f->now_ms += 3;
	says(r, r->a, 1, WIRE_BULK, 3, 60);
	fixture_burst(r->f, 0);
	assert_int_equal(heard(r, r->c, WIRE_SEND), 16);
}

static void test_levels(void **state)
{
	struct rated *r = *state;

	r->rates->limited = false; // who has lost trust is, nobody else
	r->rates->levels[2] = (struct rate){.bytes_per_s = 1000, .bytes_burst = 200};
	r->b->session->level = 2;
	for (uint32_t i = 0; i < 10; i++) {
		says(r, r->a, 0, WIRE_NORMAL, 1, i);
		says(r, r->b, 0, WIRE_NORMAL, 1, i);
	}
	fixture_burst(r->f, 0);
	// records of 60 bytes
	assert_int_equal(heard(r, r->c, WIRE_SEND), 10 + 3);
	assert_int_equal(heard(r, r->a, WIRE_ERROR | WIRE_REASON_RATE), 0);
}

static void test_cluster(void **state)
{
	struct rated *r = *state;

	r->rates->levels[0] = (struct rate){.messages_per_s = 1000, .messages_burst = 100};
	r->rates->clusters[5] = (struct rate){.messages_per_s = 1000, .messages_burst = 10};
	r->a->session->cluster = r->b->session->cluster = 5;
	says(r, r->a, 0, WIRE_NORMAL, 6, 0);
	says(r, r->b, 0, WIRE_NORMAL, 3, 0);
	says(r, r->b, 0, WIRE_NORMAL, 3, 10);
	says(r, r->c, 0, WIRE_NORMAL, 7, 20);
	fixture_burst(r->f, 0);
	assert_int_equal(heard(r, r->c, WIRE_SEND), 6 + 3 + 7);
	assert_int_equal(heard(r, r->b, WIRE_ERROR | WIRE_REASON_RATE), 3);
	// which is no fault of the peer's own
	assert_int_equal(session_tx_lane(r->b->session, 0)->marks[SESSION_MARK_LIMIT], 0);
	assert_int_equal(session_rx_lane(r->b->session, 0)->over_ms, 0);
}

static void test_forged(void **state)
{
	struct rated *r = *state;
	struct kept kept;

	// nobody can use up what another may send
	r->rates->levels[0] = (struct rate){.messages_per_s = 1000, .messages_burst = 2};
	says(r, r->a, 0, WIRE_NORMAL, 1, 0);
	fixture_keep(r->f, &kept);
	kept.bytes[kept.length - 1] ^= 1;
	for (int i = 0; i < 20; i++)
		fixture_again(r->f, &kept);
	says(r, r->a, 0, WIRE_NORMAL, 2, 0);
	fixture_burst(r->f, 0);
	assert_int_equal(heard(r, r->c, WIRE_SEND), 2);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_burst_and_rate),
		cmocka_unit_test(test_bytes),
		cmocka_unit_test(test_larger_than_a_burst),
		cmocka_unit_test(test_both),
		cmocka_unit_test(test_workers_share),
		cmocka_unit_test(test_rate_changes),
		TEST(peer),
		TEST(levels),
		TEST(cluster),
		TEST(forged),
	};

	return cmocka_run_group_tests_name("rates", tests, NULL, NULL);
}
