#include "test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "roster.h"

enum { SLOTS = 4 };

static struct roster roster;

static int set_up(void **state)
{
	return roster_init(&roster, SLOTS, 0);
}

static int tear_down(void **state)
{
	roster_fini(&roster);
	return 0;
}

static struct identity someone(uint8_t number, const char *cluster)
{
	struct identity identity = {.id = {{number}}};

	snprintf(identity.name, sizeof(identity.name), "spiffe://lab/%s/%u", cluster, number);
	strcpy(identity.cluster, cluster);
	return identity;
}

static struct member *enter(uint8_t number, const char *cluster)
{
	struct identity identity = someone(number, cluster);
	struct member *member = NULL;

	assert_int_equal(roster_enter(&roster, &identity, &member), 0);
	assert_non_null(member);
	return member;
}

static void test_enter(void **state)
{
	struct identity identity = someone(1, "a");
	struct member *member = enter(1, "a");

	assert_ptr_equal(enter(1, "a"), member);
	assert_ptr_equal(roster_find(&roster, &identity.id), member);
	assert_string_equal(member->name, "spiffe://lab/a/1");
	assert_string_equal(member->cluster, "a");
	assert_int_equal(strlen(member->text), WIRE_ID_TEXT);
	assert_ptr_equal(roster.by_slot[member->slot], member);
	identity.id.bytes[0] = 2;
	assert_null(roster_find(&roster, &identity.id));
}

static void test_full(void **state)
{
	struct identity fifth = someone(5, "a");
	struct member *member, *first = enter(1, "a");

	for (unsigned int i = 2; i <= SLOTS; i++)
		enter((uint8_t)i, "a");
	assert_int_equal(roster_enter(&roster, &fifth, &member), -ENOSPC);

	// a slot rests before it is somebody else's
	roster_leave(&roster, first, 1000);
	roster_expire(&roster, 1000 + ROSTER_REST_MS - 1);
	assert_int_equal(roster_enter(&roster, &fifth, &member), -ENOSPC);
	roster_expire(&roster, 1000 + ROSTER_REST_MS);
	assert_null(roster_find(&roster, &(struct wire_id){{1}}));
	assert_int_equal(roster_enter(&roster, &fifth, &member), 0);
	assert_int_equal(member->slot, 0);
	// and goes on where it was
	assert_int_equal(roster_index(&roster, member), 1 << WIRE_SLOT_BITS);
}

static void test_oldest_slot_first(void **state)
{
	struct member *members[2] = {enter(1, "a"), enter(2, "a")};

	assert_int_equal(members[0]->slot, 0);
	assert_int_equal(members[1]->slot, 1);
	roster_leave(&roster, members[1], 0);
	roster_leave(&roster, members[0], 0);
	roster_expire(&roster, ROSTER_REST_MS);
	assert_int_equal(enter(3, "a")->slot, 2);
	assert_int_equal(enter(4, "a")->slot, 3);
	assert_int_equal(enter(5, "a")->slot, 1);
	assert_int_equal(enter(6, "a")->slot, 0);
}

static void test_return_while_resting(void **state)
{
	struct member *member = enter(1, "a");
	uint32_t index = roster_index(&roster, member);

	roster_leave(&roster, member, 0);
	assert_ptr_equal(enter(1, "a"), member);
	roster_expire(&roster, 10 * ROSTER_REST_MS);
	assert_ptr_equal(enter(1, "a"), member);
	assert_int_equal(roster_index(&roster, member), index + (1 << WIRE_SLOT_BITS));
}

static void test_generations(void **state)
{
	const struct member *member;
	struct roster other;
	struct identity identity = someone(1, "a");
	struct member *made;

	member = enter(1, "a");
	for (uint32_t i = 1; i < 2 * WIRE_GENERATIONS; i++) {
		uint32_t index = roster_index(&roster, member);

		assert_int_equal(wire_slot(index), member->slot);
		assert_int_equal(wire_generation(index), i % WIRE_GENERATIONS);
	}

	// another process begins elsewhere
	assert_int_equal(roster_init(&other, SLOTS, 0xabc00000 | (1 << 10) | 3), 0);
	assert_int_equal(roster_enter(&other, &identity, &made), 0);
	assert_int_equal(made->slot, 3);
	assert_int_equal(wire_generation(roster_index(&other, made)), 0xabd);
	roster_fini(&other);
}

static void test_order(void **state)
{
	struct member *c = enter(200, "b"), *b = enter(100, "a");
	size_t at;
	struct wire_id first = {{0}}, last;

	memset(&last, 0xff, sizeof(last));
	enter(3, "b");
	// not by the ids' texts, in which a digit comes before a letter
	assert_int_equal(roster.by_id.count, 3);
	for (size_t i = 1; i < 3; i++)
		assert_true(memcmp(&roster.by_id.members[i - 1]->id, &roster.by_id.members[i]->id,
				   sizeof(first)) < 0);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(roster_seek_id(&roster, &roster.by_id.members[i]->id), i);
	assert_int_equal(roster_seek_id(&roster, &first), 0);
	assert_int_equal(roster_seek_id(&roster, &last), 3);

	at = roster_seek_name(&roster, "spiffe://lab/b/200");
	assert_ptr_equal(roster.by_name.members[at], c);
	assert_ptr_equal(roster.by_cluster.members[roster_seek_cluster(&roster, "a", &first)], b);
	at = roster_seek_cluster(&roster, "b", &first);
	assert_int_equal(at, 1);
	assert_string_equal(roster.by_cluster.members[1]->cluster, "b");
	assert_string_equal(roster.by_cluster.members[2]->cluster, "b");
	assert_int_equal(roster_seek_cluster(&roster, "c", &first), 3);
}

static void test_new_name(void **state)
{
	struct member *member = enter(1, "a");

	enter(2, "b");
	assert_ptr_equal(enter(1, "z"), member);
	assert_string_equal(member->name, "spiffe://lab/z/1");
	assert_int_equal(roster.by_name.count, 2);
	assert_int_equal(roster.by_cluster.count, 2);
	assert_ptr_equal(roster.by_cluster.members[1], member);
	assert_ptr_equal(roster.by_name.members[1], member);
}

static void test_takeovers(void **state)
{
	struct member member = {0};
	unsigned int retry_s;
	uint64_t now_ms = 5;

	for (int i = 0; i < 6; i++)
		assert_true(roster_may_take_over(&member, 6, now_ms, &retry_s));
	assert_false(roster_may_take_over(&member, 6, now_ms, &retry_s));
	assert_int_equal(retry_s, 10);
	now_ms += 9999;
	assert_false(roster_may_take_over(&member, 6, now_ms, &retry_s));
	assert_int_equal(retry_s, 1);
	now_ms += 1;
	assert_true(roster_may_take_over(&member, 6, now_ms, &retry_s));
	assert_false(roster_may_take_over(&member, 6, now_ms, &retry_s));
	now_ms += 1000000;
	for (int i = 0; i < 6; i++)
		assert_true(roster_may_take_over(&member, 6, now_ms, &retry_s));
	assert_false(roster_may_take_over(&member, 6, now_ms, &retry_s));

	memset(&member, 0, sizeof(member));
	assert_true(roster_may_take_over(&member, 1, 0, &retry_s));
	assert_false(roster_may_take_over(&member, 1, 0, &retry_s));
	assert_int_equal(retry_s, 60);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(enter),
		TEST(full),
		TEST(oldest_slot_first),
		TEST(return_while_resting),
		TEST(generations),
		TEST(order),
		TEST(new_name),
		cmocka_unit_test(test_takeovers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
