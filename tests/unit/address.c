#include "test.h"

#include <arpa/inet.h>

#include "address.h"

/* Reads and writes again. */
static void expect(const char *text, const char *ip, uint16_t port)
{
	struct sockaddr_storage address;
	struct endpoint endpoint;
	char out[ADDRESS_TEXT];

	assert_true(address_parse(&address, text) > 0);
	address_endpoint(&endpoint, &address);
	address_format(out, &endpoint);
	assert_string_equal(out, text);
	address_format_ip(out, &endpoint);
	assert_string_equal(out, ip);
	assert_int_equal(address_port(&endpoint), port);
	assert_int_equal(address_is_v4(&endpoint), text[0] != '[');
	assert_true(address_is_ip(ip));
}

static void test_good(void **state)
{
	expect("10.77.0.1:7740", "10.77.0.1", 7740);
	expect("0.0.0.0:1", "0.0.0.0", 1);
	expect("[::]:65535", "::", 65535);
	expect("[fd77::1]:7740", "fd77::1", 7740);
	expect("[1111:2222:3333:4444:5555:6666:7777:8888]:65535",
	       "1111:2222:3333:4444:5555:6666:7777:8888", 65535);
}

static void test_bad(void **state)
{
	static const char *const bad[] = {
		"",
		":",
		":80",
		"10.0.0.1",
		"10.0.0.1:",
		"10.0.0.1:0",
		"10.0.0:80",
		"10.0.0.1:65536",
		"10.0.0.1:-1",
		"10.0.0.1:080",
		"10.0.0.1:80x",
		"10.0.0.1: 80",
		"::1:80",
		"[::1]",
		"[::1]:",
		"[::1:80",
		"::1]:80",
		"[]:80",
		"[10.0.0.1]:80",
		"[:80",
		"host:80",
		"[::1]x:80",
		"10.0.0.1:99999999999999999999",
		"[1111:2222:3333:4444:5555:6666:7777:8888:1111:2222:3333]:80",
	};
	struct sockaddr_storage address;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(address_parse(&address, bad[i]), 0);
	assert_false(address_is_ip("10.0.0.1:80"));
	assert_false(address_is_ip("[::1]"));
	assert_false(address_is_ip("host"));
	assert_false(address_is_ip(""));
}

static void test_relay(void **state)
{
	static const char *const good[] = {"a:1", "relay-2.example:7740", "10.0.0.1:80",
					   "[fd00::1]:65535"};
	static const char *const bad[] = {"",      ":1",     "a",   "a:",     "a:0",   "a:65536",
					  "a b:1", "a\"b:1", "::1", "[::1]:", "a:1:2", "[a]:1"};

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_true(address_is_relay(good[i]));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(address_is_relay(bad[i]));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_bad),
		cmocka_unit_test(test_relay),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
