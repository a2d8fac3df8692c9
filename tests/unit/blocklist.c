#include "test.h"

#include <errno.h>
#include <stdlib.h>

#include "blocklist.h"
#include "suspects.h"
#include "wire.h"

/* What the XDP program or the workers would do. */
struct program {
	struct blocklist list;
	uint64_t sources[BLOCKLIST_MAX][2];
	unsigned int count;
	struct endpoint member;
};

static struct endpoint host(uint32_t number)
{
	struct endpoint at = {.ip = {[10] = 0xff, [11] = 0xff}};

	wire_put32(at.ip + 12, number);
	return at;
}

static int block(void *arg, const uint64_t source[2])
{
	struct program *program = arg;

	if (program->count == BLOCKLIST_MAX)
		return -E2BIG;
	memcpy(program->sources[program->count++], source, 16);
	return 0;
}

static int unblock(void *arg, const uint64_t source[2])
{
	struct program *program = arg;
	unsigned int i = 0;

	while (i < program->count && memcmp(program->sources[i], source, 16) != 0)
		i++;
	assert_in_range(i, 0, program->count - 1);
	memcpy(program->sources[i], program->sources[--program->count], 16);
	return 0;
}

static bool is_member(void *arg, const struct endpoint *at)
{
	const struct program *program = arg;

	return endpoint_equal(&program->member, at);
}

static bool drops(const struct program *program, uint32_t number)
{
	const struct endpoint at = host(number);
	uint64_t source[2];
	unsigned int i = 0;

	suspects_source(source, &at);
	while (i < program->count && memcmp(program->sources[i], source, 16) != 0)
		i++;
	return i < program->count;
}

static bool report(struct program *program, uint32_t number, uint64_t now_s)
{
	const struct endpoint from = host(number);

	return blocklist_report(&program->list, &from, now_s * 1000);
}

static void lift(struct program *program, uint32_t number, uint64_t now_s)
{
	const struct endpoint from = host(number);

	blocklist_lift(&program->list, &from, now_s * 1000);
}

static void sweep(struct program *program, uint64_t now_s)
{
	blocklist_sweep(&program->list, now_s * 1000);
}

static int begin(void **state)
{
	static const struct blocklist_ops ops = {block, unblock, is_member};
	struct program *program = calloc(1, sizeof(*program));

	program->list.ops = &ops;
	program->list.arg = program;
	program->list.seconds = 10;
	program->list.seconds_max = 60;
	*state = program;
	return 0;
}

static int end(void **state)
{
	free(*state);
	return 0;
}

static void test_growing(void **state)
{
	static const unsigned int seconds[] = {10, 20, 40, 60, 60};
	struct program *program = *state;
	uint64_t now_s = 100;

	for (int i = 0; i < 5; i++) {
		assert_true(report(program, 1, now_s));
		assert_true(report(program, 1, now_s)); // what was under way
		sweep(program, now_s + seconds[i] - 1);
		assert_true(drops(program, 1));
		sweep(program, now_s + seconds[i]);
		assert_false(drops(program, 1));
		now_s += seconds[i] + 5;
	}
	assert_int_equal(program->list.blocked, 5);
	// forgotten
	sweep(program, now_s + 60);
	assert_int_equal(program->list.count, 0);
	assert_true(report(program, 1, now_s + 60));
	sweep(program, now_s + 70);
	assert_false(drops(program, 1));
}

static void test_member(void **state)
{
	struct program *program = *state;

	program->member = host(1);
	assert_false(report(program, 1, 100));
	assert_true(report(program, 2, 100));
	assert_false(drops(program, 1));
	assert_int_equal(program->list.spared, 1);
}

static void test_join_lifts(void **state)
{
	struct program *program = *state;

	assert_true(report(program, 1, 100));
	lift(program, 1, 101);
	assert_false(drops(program, 1));
	// and for a while nobody can have it blocked again by forging that address
	assert_false(report(program, 1, 105));
	lift(program, 2, 105);
	assert_false(report(program, 2, 105));
	sweep(program, 112);
	assert_true(report(program, 1, 112));
	sweep(program, 122);
	assert_false(drops(program, 1));
	assert_int_equal(program->list.lifted, 1);
	assert_int_equal(program->list.spared, 2);
}

static void test_networks(void **state)
{
	struct program *program = *state;
	struct endpoint a = {.ip = {0x20, 1, [15] = 1}}, b = {.ip = {0x20, 1, [15] = 2}};

	assert_true(blocklist_report(&program->list, &a, 0));
	blocklist_lift(&program->list, &b, 0);
	assert_int_equal(program->count, 0);
}

static void test_full(void **state)
{
	struct program *program = *state;

	for (uint32_t i = 0; i < BLOCKLIST_MAX; i++)
		assert_true(report(program, i, 100));
	assert_false(report(program, BLOCKLIST_MAX, 100));
	assert_int_equal(program->list.full, 1);
	// those that are only remembered make room
	sweep(program, 110);
	assert_int_equal(program->count, 0);
	assert_true(report(program, BLOCKLIST_MAX, 110));
	sweep(program, 1000);
	assert_int_equal(program->list.count, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_growing, begin, end),
		cmocka_unit_test_setup_teardown(test_member, begin, end),
		cmocka_unit_test_setup_teardown(test_join_lifts, begin, end),
		cmocka_unit_test_setup_teardown(test_networks, begin, end),
		cmocka_unit_test_setup_teardown(test_full, begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
