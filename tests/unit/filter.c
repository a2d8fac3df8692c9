#include "test.h"

#include <errno.h>
#include <stdlib.h>

#include "filter.h"
#include "suspects.h"

static struct endpoint v4(uint32_t host)
{
	struct endpoint at = {.ip = {[10] = 0xff, [11] = 0xff}};

	wire_put32(at.ip + 12, host);
	return at;
}

static struct endpoint v6(uint64_t network, uint64_t host)
{
	struct endpoint at;

	wire_put64(at.ip, network);
	wire_put64(at.ip + 8, host);
	return at;
}

static int block(struct filter *filter, struct endpoint at)
{
	uint64_t source[2];

	suspects_source(source, &at);
	return filter_block(filter, source);
}

static int unblock(struct filter *filter, struct endpoint at)
{
	uint64_t source[2];

	suspects_source(source, &at);
	return filter_unblock(filter, source);
}

static uint64_t dropped(const struct filter *filter, struct endpoint at)
{
	uint64_t source[2];

	suspects_source(source, &at);
	return filter_dropped(filter, source);
}

static bool drops(struct filter *filter, struct endpoint from)
{
	return filter_any(filter) && filter_drops(filter, &from);
}

static int begin(void **state)
{
	static const uint64_t secret[2] = {UINT64_C(0x0123456789abcdef),
					   UINT64_C(0xf0e1d2c3b4a59687)};
	struct filter *filter = aligned_alloc(64, sizeof(*filter));

	memset(filter, 0, sizeof(*filter));
	filter_init(filter, secret);
	*state = filter;
	return 0;
}

static int end(void **state)
{
	free(*state);
	return 0;
}

static void test_block(void **state)
{
	struct filter *filter = *state;
	struct endpoint port = v4(1);

	assert_false(filter_any(filter));
	assert_int_equal(block(filter, v4(1)), 0);
	assert_int_equal(block(filter, v4(1)), -EEXIST);
	assert_true(drops(filter, v4(1)));
	wire_put16(port.port, 7740);
	port.mac[0] = 2;
	assert_true(drops(filter, port));
	for (uint32_t host = 2; host < 100000; host++)
		assert_false(drops(filter, v4(host)));
	assert_int_equal(unblock(filter, v4(2)), -ENOENT);
	assert_int_equal(unblock(filter, v4(1)), 0);
	assert_int_equal(unblock(filter, v4(1)), -ENOENT);
	assert_false(drops(filter, v4(1)));
	assert_false(filter_any(filter));
}

static void test_networks(void **state)
{
	const uint64_t network = UINT64_C(0x20010db800000001);
	struct filter *filter = *state;

	assert_int_equal(block(filter, v6(network, 1)), 0);
	assert_true(drops(filter, v6(network, 1)));
	assert_true(drops(filter, v6(network, UINT64_MAX)));
	assert_false(drops(filter, v6(network + 1, 1)));
	assert_false(drops(filter, v6(1, network)));
	assert_int_equal(unblock(filter, v6(network, 2)), 0);
	assert_false(drops(filter, v6(network, 1)));
}

/* Sources that nobody has, but that say what is blocked where somebody is. */
static void test_forged(void **state)
{
	struct filter *filter = *state;

	assert_int_equal(block(filter, v6(UINT64_C(0x0000ffff0a4d0001), 1)), -EINVAL);
	assert_int_equal(block(filter, v6(0, 0)), -EINVAL);
	assert_int_equal(block(filter, v6(0, UINT64_C(0x20010db800000001))), -EINVAL);
	assert_int_equal(block(filter, v4(1)), 0);
	assert_false(drops(filter, v4(0x0a4d0001)));
	assert_false(drops(filter, v6(UINT64_C(0x20010db800000001), 1)));
	assert_int_equal(unblock(filter, v6(0, 0)), -ENOENT);
	assert_int_equal(dropped(filter, v6(0, 0)), 0);
}

static void test_counts(void **state)
{
	struct filter *filter = *state;

	for (int times = 0; times < 3; times++) {
		assert_int_equal(dropped(filter, v4(1)), 0);
		assert_int_equal(block(filter, v4(1)), 0);
		assert_int_equal(block(filter, v6(1 << 20, 0)), 0);
		assert_int_equal(dropped(filter, v4(1)), 0);
		for (int i = 0; i < 10; i++)
			drops(filter, v4(1));
		drops(filter, v6(1 << 20, 5));
		drops(filter, v4(2));
		assert_int_equal(dropped(filter, v4(1)), 10);
		assert_int_equal(dropped(filter, v6(1 << 20, 0)), 1);
		assert_int_equal(dropped(filter, v4(2)), 0);
		assert_int_equal(unblock(filter, v4(1)), 0);
		assert_int_equal(unblock(filter, v6(1 << 20, 0)), 0);
	}
}

/* Blocks hosts from 0 on until so many are; returns the next one. `refused`: these were not. */
static uint32_t fill(struct filter *filter, bool *refused)
{
	uint32_t host = 0;

	while (filter->count < FILTER_MAX) {
		int r = block(filter, v4(host));

		refused[host++] = r != 0;
		assert_true(r == 0 || r == -ENOSPC);
		assert_true(host < FILTER_MAX + 10); // few are
	}
	return host;
}

static void test_full(void **state)
{
	struct filter *filter = *state;
	bool refused[FILTER_MAX + 10];
	uint32_t end_of_them = fill(filter, refused);

	assert_int_equal(block(filter, v4(end_of_them)), -ENOSPC);
	for (uint32_t host = 0; host < end_of_them; host++)
		assert_int_equal(drops(filter, v4(host)), !refused[host]);
	for (uint32_t host = end_of_them; host < 100000; host++)
		assert_false(drops(filter, v4(host)));
	assert_int_equal(block(filter, v4(0)), -EEXIST);
	for (uint32_t host = 0; host < end_of_them; host++)
		assert_int_equal(unblock(filter, v4(host)), refused[host] ? -ENOENT : 0);
	assert_false(filter_any(filter));
	assert_int_equal(block(filter, v4(end_of_them)), 0);
}

/* Sources that meet in one set, which nobody can bring about who doesn't know the secret. */
static void test_full_set(void **state)
{
	struct filter *filter = *state;
	struct endpoint at[FILTER_WAYS + 1];
	uint32_t host = 0;

	for (int i = 0; i <= FILTER_WAYS; host++) {
		at[i] = v4(host);
		if (filter_set(filter, endpoint_word(&at[i], 1)) == 7)
			i++;
	}
	for (int i = 0; i < FILTER_WAYS; i++)
		assert_int_equal(block(filter, at[i]), 0);
	assert_int_equal(block(filter, at[FILTER_WAYS]), -ENOSPC);
	assert_false(drops(filter, at[FILTER_WAYS]));
	for (int i = 0; i < FILTER_WAYS; i++)
		assert_true(drops(filter, at[i]));
	assert_int_equal(unblock(filter, at[3]), 0);
	assert_int_equal(block(filter, at[FILTER_WAYS]), 0);
	assert_int_equal(dropped(filter, at[FILTER_WAYS]), 0);
	for (int i = 0; i <= FILTER_WAYS; i++)
		assert_int_equal(drops(filter, at[i]), i != 3);
	assert_int_equal(dropped(filter, at[FILTER_WAYS]), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_block, begin, end),
		cmocka_unit_test_setup_teardown(test_networks, begin, end),
		cmocka_unit_test_setup_teardown(test_forged, begin, end),
		cmocka_unit_test_setup_teardown(test_counts, begin, end),
		cmocka_unit_test_setup_teardown(test_full, begin, end),
		cmocka_unit_test_setup_teardown(test_full_set, begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
