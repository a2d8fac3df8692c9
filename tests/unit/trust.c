#include "test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "trust.h"

#define ALICE "v5iwnf4uisg67kjkspkl6xpoja"
#define RELAY "bc5zyjh5ot6rb23ybz5xhw6pxe"

static struct trust_set set;
static unsigned int line;

static int end(void **state)
{
	trust_set_free(&set);
	return 0;
}

/* From a copy of its own size, so that a sanitizer sees who reads beyond. */
static int parse(const char *text, size_t length)
{
	char *copy = malloc(length ? length : 1);
	int result;

	memcpy(copy, text, length);
	trust_set_free(&set);
	result = trust_parse(&set, copy, length, &line);
	free(copy);
	return result;
}

static void test_lists(void **state)
{
	static const char text[] = "# them\n\n" ALICE " # alice\r\n\t" RELAY "\n" ALICE;
	struct wire_id relay;

	assert_int_equal(parse("", 0), 0);
	assert_int_equal(set.count, 0);
	assert_int_equal(parse(text, sizeof(text) - 1), 0);
	// in order, and none twice
	assert_int_equal(set.count, 2);
	assert_int_equal(wire_id_parse(&relay, RELAY), 0);
	assert_true(wire_id_equal(&set.ids[0], &relay));
}

static void test_nonsense(void **state)
{
	static const struct {
		const char *text;
		size_t length;
		unsigned int line;
	} bad[] = {
		{"x", 1, 1},
		{"\0", 1, 1},
		{"\n\n" ALICE "x", 29, 3},
		{ALICE " " ALICE, 53, 1},
		{ALICE, 25, 1},
		{"# fine\n" ALICE "\n\xff", 35, 3},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(parse(bad[i].text, bad[i].length), -EINVAL);
		assert_int_equal(line, bad[i].line);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_lists, end),
		cmocka_unit_test_teardown(test_nonsense, end),
	};

	return cmocka_run_group_tests_name("trust", tests, NULL, NULL);
}
