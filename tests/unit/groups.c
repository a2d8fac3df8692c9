#include "test.h"

#include <errno.h>
#include <stdio.h>

#include "groups.h"

enum { SLOTS = 4, GROUPS = 3 };

static struct fixture {
	struct session_table *sessions;
	struct route_table routes;
	struct groups groups;
} f;

static struct group service = {GROUP_SERVICE}, other = {GROUP_SERVICE}, topic = {GROUP_TOPIC};

static int set_up(void **state)
{
	static const uint8_t secret[32] = {1};

	rcu_register_thread();
	f.sessions = session_table_new(NODE_ANY, SLOTS, GROUPS);
	assert_int_equal(route_table_init(&f.routes, f.sessions, SLOTS + GROUPS, secret), 0);
	assert_int_equal(groups_init(&f.groups, f.sessions, &f.routes), 0);
	return 0;
}

static int tear_down(void **state)
{
	groups_fini(&f.groups);
	rcu_thread_offline();
	rcu_barrier();
	rcu_thread_online();
	route_table_fini(&f.routes);
	session_table_free(f.sessions);
	rcu_unregister_thread();
	return 0;
}

static void test_names(void **state)
{
	char name[GROUPS_NAME_MAX + 2];

	memset(name, 'a', sizeof(name));
	name[GROUPS_NAME_MAX + 1] = '\0';
	assert_false(groups_name_good(name));
	name[GROUPS_NAME_MAX] = '\0';
	assert_true(groups_name_good(name));
	assert_true(groups_name_good("a"));
	assert_true(groups_name_good("0"));
	assert_true(groups_name_good("build.queue-2/fast_lane"));
	assert_false(groups_name_good(""));
	assert_false(groups_name_good(".a"));
	assert_false(groups_name_good("-a"));
	assert_false(groups_name_good("A"));
	assert_false(groups_name_good("a b"));
	assert_false(groups_name_good("a\n"));
	assert_false(groups_name_good("stra\xc3\x9f"
				      "e"));

	assert_true(groups_name_reserved("viaduct"));
	assert_true(groups_name_reserved("viaduct/status"));
	assert_true(groups_name_reserved("relay.events"));
	assert_true(groups_name_reserved("relay-1"));
	assert_false(groups_name_reserved("relays"));
	assert_false(groups_name_reserved("viaducts/status"));
	assert_false(groups_name_reserved("my/relay"));
}

/* Computed with sha256sum. */
static void test_ids(void **state)
{
	static const struct wire_id echo_service = {{0xf1, 0xf6, 0x53, 0x20, 0x88, 0x0f, 0xbd, 0xc7,
						     0xbc, 0xe7, 0x69, 0x1a, 0xcc, 0x24, 0xa0,
						     0x1e}};
	static const struct wire_id echo_topic = {{0x53, 0x4a, 0x27, 0x84, 0x8e, 0xa7, 0x7d, 0x60,
						   0x0c, 0x16, 0xbb, 0xad, 0xd9, 0xf0, 0x27, 0xdf}};
	struct wire_id id;

	groups_id(&id, GROUP_SERVICE, "echo");
	assert_true(wire_id_equal(&id, &echo_service));
	groups_id(&id, GROUP_TOPIC, "echo");
	assert_true(wire_id_equal(&id, &echo_topic));
}

/* What a worker finds behind an id. */
static const struct group *find(enum group_kind kind, const char *name)
{
	const struct session_slot *slot;
	struct wire_id id;

	groups_id(&id, kind, name);
	slot = route_find(&f.routes, &id, route_hash(&f.routes, &id));
	return slot ? rcu_dereference(slot->group) : NULL;
}

static void test_add(void **state)
{
	uint32_t slot, found, second;

	assert_int_equal(groups_find(&f.groups, GROUP_SERVICE, "echo", &found), -ENOENT);
	assert_int_equal(groups_add(&f.groups, GROUP_SERVICE, "echo", &service, &slot), 0);
	assert_true(slot >= SLOTS && slot < SLOTS + GROUPS);
	assert_ptr_equal(find(GROUP_SERVICE, "echo"), &service);
	assert_null(find(GROUP_TOPIC, "echo"));
	assert_int_equal(groups_find(&f.groups, GROUP_SERVICE, "echo", &found), 0);
	assert_int_equal(found, slot);
	assert_string_equal(groups_place(&f.groups, slot)->name, "echo");
	assert_null(groups_place(&f.groups, SLOTS - 1));

	// a topic of the same name is another id
	assert_int_equal(groups_add(&f.groups, GROUP_TOPIC, "echo", &topic, &second), 0);
	assert_int_not_equal(second, slot);
	assert_ptr_equal(find(GROUP_TOPIC, "echo"), &topic);

	groups_publish(&f.groups, slot, &other);
	assert_ptr_equal(find(GROUP_SERVICE, "echo"), &other);
	groups_remove(&f.groups, slot);
	assert_null(find(GROUP_SERVICE, "echo"));
	assert_ptr_equal(find(GROUP_TOPIC, "echo"), &topic);
	assert_int_equal(groups_find(&f.groups, GROUP_SERVICE, "echo", &found), -ENOENT);
}

/* A slot that a worker may still know by its old id isn't given to another one. */
static void test_full(void **state)
{
	uint32_t slots[GROUPS], again;
	char name[8];

	for (int i = 0; i < GROUPS; i++) {
		snprintf(name, sizeof(name), "s%d", i);
		assert_int_equal(groups_add(&f.groups, GROUP_SERVICE, name, &service, &slots[i]),
				 0);
	}
	assert_int_equal(groups_add(&f.groups, GROUP_SERVICE, "more", &service, &again), -ENOSPC);
	groups_remove(&f.groups, slots[1]);
	// this thread has not been quiescent since
	assert_int_equal(groups_add(&f.groups, GROUP_SERVICE, "more", &service, &again), -ENOSPC);
	rcu_thread_offline();
	rcu_barrier();
	rcu_thread_online();
	assert_int_equal(groups_add(&f.groups, GROUP_SERVICE, "more", &service, &again), 0);
	assert_int_equal(again, slots[1]);
	assert_ptr_equal(find(GROUP_SERVICE, "more"), &service);
	assert_ptr_equal(find(GROUP_SERVICE, "s0"), &service);
	assert_null(find(GROUP_SERVICE, "s1"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_ids),
		cmocka_unit_test_setup_teardown(test_add, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_full, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
