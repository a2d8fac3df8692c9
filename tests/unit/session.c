#include "test.h"

#include <pthread.h>
#include <stdlib.h>

#include "session.h"

enum {
	SLOTS = 8,
	MOVES = 200000,
};

static uint32_t index_of(uint32_t slot, uint32_t generation)
{
	return generation << WIRE_SLOT_BITS | slot;
}

static void expect(const struct session_table *table, uint32_t index, const struct session *found,
		   bool stale)
{
	bool is_stale = false;

	assert_ptr_equal(session_find(table, index, &is_stale), found);
	if (!found)
		assert_int_equal(is_stale, stale);
}

static void test_layout(void **state)
{
	struct session_table *table = session_table_new(NODE_ANY, SLOTS, 0);

	// what workers share and write is alone in its cache lines
	assert_int_equal(sizeof(struct session) % 64, 0);
	assert_int_equal(sizeof(struct session_slot), 64);
	assert_int_equal(sizeof(struct session_rx) % 64, 0);
	assert_int_equal(sizeof(struct session_tx), 64);
	assert_non_null(table);
	assert_int_equal((uintptr_t)table->slot % 64, 0);
	assert_int_equal(table->slots, SLOTS);
	for (int i = 0; i < SLOTS; i++) {
		assert_null(table->slot[i].current);
		assert_null(table->slot[i].next);
		assert_null(table->slot[i].last);
	}
	session_table_free(table);
	session_table_free(NULL);
}

static void test_state(void **state)
{
	struct region_pool *regions = region_pool_new(NODE_ANY, NULL, 0);
	struct region *region;

	assert_non_null(regions);
	region = region_new(regions);
	assert_non_null(region);
	region_pool_close(regions);
	for (int up = 1; up <= WIRE_LANES_MAX; up++) {
		for (int down = 1; down <= WIRE_LANES_MAX; down++) {
			struct session session = {.lanes_up = up, .lanes_down = down};

			session.state = session_state_new(region, up, down);
			assert_non_null(session.state);
			assert_int_equal(session.state->hints, 0);
			assert_int_equal(session.state->lanes_up, up);
			assert_int_equal(session.state->lanes_down, down);
			// every lane is there, and no two overlap
			for (int i = 0; i < up; i++) {
				struct session_rx *lane = session_rx_lane(&session, i);

				assert_int_equal((uintptr_t)lane % 64, 0);
				assert_int_equal(lane->owner, SESSION_NO_OWNER);
				assert_int_equal(lane->window.next, 0);
				memset(lane, 0xff, sizeof(*lane));
			}
			for (int i = 0; i < down; i++) {
				struct session_tx *lane = session_tx_lane(&session, i);

				assert_int_equal((uintptr_t)lane % 64, 0);
				assert_int_equal(lane->next, wire_counter((uint8_t)i, 0));
				assert_int_equal(lane->used, 0);
				memset(lane, 0xff, sizeof(*lane));
			}
			assert_int_equal(session.state->hints, 0);
			session_state_give(region, session.state);
		}
	}
	session_state_give(region, NULL);
	region_close(region);
}

static void test_find(void **state)
{
	struct session_table *table = session_table_new(NODE_ANY, SLOTS, 0);
	struct session first = {.index = index_of(3, 4095)};
	struct session second = {.index = index_of(3, 0)};
	struct session third = {.index = index_of(3, 1)};
	struct session_slot *slot;

	assert_non_null(table);
	slot = &table->slot[3];
	expect(table, first.index, NULL, false);
	assert_null(session_find_any(table, first.index));

	// joins
	slot->next = &first;
	expect(table, first.index, &first, false);
	expect(table, second.index, NULL, true);
	slot->current = &first;
	slot->next = NULL;
	expect(table, first.index, &first, false);
	expect(table, second.index, NULL, true);

	// returns; generations wrap around
	slot->next = &second;
	expect(table, first.index, &first, false);
	expect(table, second.index, &second, false);
	expect(table, third.index, NULL, true);
	slot->last = &first;
	slot->current = &second;
	slot->next = NULL;
	expect(table, first.index, NULL, true);
	expect(table, second.index, &second, false);
	assert_ptr_equal(session_find_any(table, first.index), &first);
	assert_ptr_equal(session_find_any(table, second.index), &second);
	assert_null(session_find_any(table, third.index));

	// leaves
	slot->last = &second;
	slot->current = NULL;
	expect(table, second.index, NULL, true);
	assert_ptr_equal(session_find_any(table, second.index), &second);
	slot->last = NULL;
	expect(table, second.index, NULL, false);

	// the last slot, and those that aren't there
	slot = &table->slot[SLOTS - 1];
	first.index = index_of(SLOTS - 1, 7);
	slot->current = &first;
	expect(table, first.index, &first, false);
	for (uint32_t generation = 0; generation < WIRE_GENERATIONS; generation++) {
		expect(table, index_of(SLOTS, generation), NULL, false);
		expect(table, index_of(WIRE_SLOTS - 1, generation), NULL, false);
		assert_null(session_find_any(table, index_of(SLOTS, generation)));
	}
	session_table_free(table);
}

struct shared {
	struct session_table *table;
	uint32_t offered; // control writes, reader reads (atomic): an index that must be found
	bool started;     // reader writes, control waits for it (atomic)
	bool done;        // control writes, reader reads (atomic)
	unsigned long found;
	unsigned long missed;
};

static void *look_up(void *arg)
{
	struct shared *shared = arg;

	rcu_register_thread();
	__atomic_store_n(&shared->started, true, __ATOMIC_RELAXED);
	while (!__atomic_load_n(&shared->done, __ATOMIC_ACQUIRE)) {
		uint32_t index = __atomic_load_n(&shared->offered, __ATOMIC_ACQUIRE);
		bool stale;
		const struct session *session = session_find(shared->table, index, &stale);

		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (session && session->index == index)
			shared->found++;
		else if (index == __atomic_load_n(&shared->offered, __ATOMIC_RELAXED))
			shared->missed++; // and nothing else was current since
		rcu_quiescent_state();
	}
	rcu_unregister_thread();
	return NULL;
}

/* A session that moves from next to current is found before, meanwhile and after. */
static void test_move_has_no_gap(void **state)
{
	struct session *sessions = aligned_alloc(64, WIRE_GENERATIONS * sizeof(*sessions));
	struct shared shared = {.table = session_table_new(NODE_ANY, SLOTS, 0)};
	struct session_slot *slot;
	pthread_t reader;

	assert_non_null(sessions);
	assert_non_null(shared.table);
	memset(sessions, 0, WIRE_GENERATIONS * sizeof(*sessions));
	for (uint32_t i = 0; i < WIRE_GENERATIONS; i++)
		sessions[i].index = index_of(5, i);
	slot = &shared.table->slot[5];
	slot->current = &sessions[0];
	shared.offered = sessions[0].index;
	assert_int_equal(pthread_create(&reader, NULL, look_up, &shared), 0);
	while (!__atomic_load_n(&shared.started, __ATOMIC_RELAXED))
		;
	for (unsigned int i = 1; i < MOVES; i++) {
		struct session *session = &sessions[i % WIRE_GENERATIONS];

		rcu_assign_pointer(slot->next, session);
		__atomic_store_n(&shared.offered, session->index, __ATOMIC_RELEASE);
		for (volatile int j = 0; j < 20; j++)
			; // so that the reader looks now and then at a session that stays
		rcu_assign_pointer(slot->last, slot->current);
		rcu_assign_pointer(slot->current, session);
		__atomic_store_n(&slot->next, NULL, __ATOMIC_RELEASE);
	}
	__atomic_store_n(&shared.done, true, __ATOMIC_RELEASE);
	assert_int_equal(pthread_join(reader, NULL), 0);
	assert_true(shared.found > 0);
	assert_int_equal(shared.missed, 0);
	session_table_free(shared.table);
	free(sessions);
}

static void test_endpoints(void **state)
{
	const struct endpoint here = {.ip = {1}, .port = {2}, .mac = {3}};

	for (size_t i = 0; i < sizeof(here); i++) {
		struct endpoint there = here;

		((uint8_t *)&there)[i] ^= 1;
		assert_false(endpoint_equal(&here, &there));
		assert_int_equal(endpoint_same_address(&here, &there), i >= 18);
	}
	assert_true(endpoint_equal(&here, &here));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layout),    cmocka_unit_test(test_state),
		cmocka_unit_test(test_find),      cmocka_unit_test(test_move_has_no_gap),
		cmocka_unit_test(test_endpoints),
	};
	int failed;

	rcu_register_thread();
	failed = cmocka_run_group_tests_name("session", tests, NULL, NULL);
	rcu_unregister_thread();
	return failed;
}
