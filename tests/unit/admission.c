#include "test.h"

#include <string.h>

#include "address.h"
#include "admission.h"

static const struct admission_config config = {
	.budgets[ADMISSION_ALL] = {.at_once = 3, .per_second = 10},
	.budgets[ADMISSION_MEMBER] = {.at_once = 2, .per_second = 5},
	.budgets[ADMISSION_BUSY] = {.at_once = 1, .per_second = 1},
	.source = {.at_once = 2, .per_second = 4},
	.key = {1, 2},
};

static struct endpoint from(const char *text)
{
	struct sockaddr_storage address;
	struct endpoint endpoint;

	assert_true(address_parse(&address, text));
	address_endpoint(&endpoint, &address);
	return endpoint;
}

static void test_at_once(void **state)
{
	struct admission *admission = admission_new(&config, 0);

	for (int i = 0; i < 3; i++)
		assert_int_equal(admission_begin(admission, ADMISSION_ALL, 0), ADMISSION_FREE);
	assert_int_equal(admission_begin(admission, ADMISSION_ALL, 0), ADMISSION_HANDSHAKES);
	// others' budgets are their own
	assert_int_equal(admission_begin(admission, ADMISSION_MEMBER, 0), ADMISSION_FREE);
	assert_int_equal(admission_begin(admission, ADMISSION_BUSY, 0), ADMISSION_FREE);
	admission_end(admission, ADMISSION_ALL);
	assert_int_equal(admission_begin(admission, ADMISSION_ALL, 0), ADMISSION_FREE);
	admission_free(admission);
}

/* Begins and ends as many as are allowed at this moment. */
static unsigned int rush(struct admission *admission, enum admission_budget budget, uint64_t now_ms)
{
	unsigned int count = 0;

	while (admission_begin(admission, budget, now_ms) == ADMISSION_FREE) {
		admission_end(admission, budget);
		count++;
	}
	return count;
}

static void test_per_second(void **state)
{
	struct admission *admission = admission_new(&config, 5000);

	assert_int_equal(rush(admission, ADMISSION_ALL, 5000), 20);
	assert_int_equal(admission_begin(admission, ADMISSION_ALL, 5099),
			 ADMISSION_HANDSHAKES_PER_SECOND);
	assert_int_equal(rush(admission, ADMISSION_ALL, 5100), 1);
	assert_int_equal(rush(admission, ADMISSION_ALL, 6100), 10);
	// what is saved up has a limit
	assert_int_equal(rush(admission, ADMISSION_ALL, 1000000000000), 20);
	admission_free(admission);
}

static void test_sources(void **state)
{
	struct admission *admission = admission_new(&config, 0);
	struct endpoint a = from("192.0.2.1:1"), b = from("192.0.2.1:2"), c = from("192.0.2.2:1");

	assert_int_equal(admission_enter(admission, &a, 0), ADMISSION_FREE);
	assert_int_equal(admission_enter(admission, &b, 0), ADMISSION_FREE);
	assert_int_equal(admission_enter(admission, &a, 0), ADMISSION_SOURCE_HANDSHAKES);
	assert_int_equal(admission_enter(admission, &c, 0), ADMISSION_FREE);
	for (int i = 0; i < 6; i++) {
		admission_leave(admission, &b);
		assert_int_equal(admission_enter(admission, &a, 0), ADMISSION_FREE);
	}
	admission_leave(admission, &a);
	assert_int_equal(admission_enter(admission, &a, 0), ADMISSION_SOURCE_HANDSHAKES_PER_SECOND);
	assert_int_equal(admission_enter(admission, &a, 250), ADMISSION_FREE);
	admission_free(admission);
}

static void test_networks(void **state)
{
	struct admission *admission = admission_new(&config, 0);
	struct endpoint a = from("[2001:db8::1]:1"), b = from("[2001:db8::ffff:0:0:2]:1"),
			c = from("[2001:db8:0:1::1]:1");

	assert_int_equal(admission_enter(admission, &a, 0), ADMISSION_FREE);
	assert_int_equal(admission_enter(admission, &b, 0), ADMISSION_FREE);
	assert_int_equal(admission_enter(admission, &a, 0), ADMISSION_SOURCE_HANDSHAKES);
	assert_int_equal(admission_enter(admission, &c, 0), ADMISSION_FREE);
	admission_free(admission);
}

/* However many sources there are: those that are in stay counted, and are let out again. */
static void test_many_sources(void **state)
{
	struct admission *admission = admission_new(&config, 0);
	struct endpoint stays = from("192.0.2.1:1"), other = from("10.0.0.0:1");

	assert_int_equal(admission_enter(admission, &stays, 0), ADMISSION_FREE);
	assert_int_equal(admission_enter(admission, &stays, 0), ADMISSION_FREE);
	for (uint32_t i = 0; i < 200000; i++) {
		memcpy(other.ip + 12, &i, sizeof(i));
		if (admission_enter(admission, &other, i) == ADMISSION_FREE)
			admission_leave(admission, &other);
	}
	assert_int_equal(admission_enter(admission, &stays, 200000), ADMISSION_SOURCE_HANDSHAKES);
	admission_leave(admission, &stays);
	admission_leave(admission, &stays);
	admission_free(admission);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_at_once),      cmocka_unit_test(test_per_second),
		cmocka_unit_test(test_sources),      cmocka_unit_test(test_networks),
		cmocka_unit_test(test_many_sources),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
