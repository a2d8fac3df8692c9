#include "test.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "route.h"

enum {
	SLOTS = 4096,
	STEADY = 64, // routes that are always there, while others come and go
	CHURN = 2000,
	ROUNDS = 200,
};

static const uint8_t secret[32] = {5, 4, 3, 2, 1, 2, 3, 4, [16] = 9, [24] = 7};

struct fixture {
	struct session_table *sessions;
	struct route_table routes;
};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->sessions = session_table_new(NODE_ANY, SLOTS, 0);
	assert_non_null(f->sessions);
	assert_int_equal(route_table_init(&f->routes, f->sessions, 0, secret), 0);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	route_table_fini(&f->routes);
	session_table_free(f->sessions);
	free(f);
	rcu_barrier();
	return 0;
}

static struct wire_id id_of(uint32_t number)
{
	struct wire_id id = {{'i', 'd'}};

	wire_put32(id.bytes + 12, number);
	return id;
}

/* Ids that all have one hash: a factor of route_hash() is zero for them. */
static struct wire_id colliding(uint32_t number)
{
	struct wire_id id;

	memcpy(id.bytes, secret, 8);
	wire_put64(id.bytes + 8, number);
	return id;
}

/* Looks up in stages, as workers do. */
static const struct session_slot *find(const struct route_table *routes, const struct wire_id *id)
{
	uint64_t hash = route_hash(routes, id);
	const struct session_slot *guess;

	route_prefetch(routes, hash);
	guess = route_guess(routes, hash);
	return route_confirm(routes, id, hash, guess);
}

/* ROUTE_NONE: it isn't there. */
static void expect(const struct fixture *f, const struct wire_id *id, uint32_t slot)
{
	const struct session_slot *found = find(&f->routes, id);

	assert_ptr_equal(found, route_find(&f->routes, id, route_hash(&f->routes, id)));
	if (slot == ROUTE_NONE) {
		assert_null(found);
		return;
	}
	assert_ptr_equal(found, &f->sessions->slot[slot]);
	assert_true(wire_id_equal(&found->id, id));
}

static void test_set_and_remove(void **state)
{
	struct fixture *f = *state;
	const struct wire_id one = id_of(1), two = id_of(2);

	expect(f, &one, ROUTE_NONE);
	assert_int_equal(route_remove(&f->routes, &one), -ENOENT);
	assert_int_equal(route_count(&f->routes), 0);

	assert_int_equal(route_set(&f->routes, &one, 10), 0);
	assert_int_equal(route_set(&f->routes, &two, SLOTS - 1), 0);
	assert_int_equal(route_count(&f->routes), 2);
	expect(f, &one, 10);
	expect(f, &two, SLOTS - 1);
	// again, and to another slot
	assert_int_equal(route_set(&f->routes, &one, 10), 0);
	assert_int_equal(route_set(&f->routes, &two, 11), 0);
	assert_int_equal(route_count(&f->routes), 2);
	expect(f, &one, 10);
	expect(f, &two, 11);

	assert_int_equal(route_remove(&f->routes, &one), 0);
	assert_int_equal(route_remove(&f->routes, &one), -ENOENT);
	assert_int_equal(route_count(&f->routes), 1);
	expect(f, &one, ROUTE_NONE);
	expect(f, &two, 11);
}

struct walked {
	unsigned int calls;
	unsigned int stop_after;
	bool seen[SLOTS];
};

static int each(void *arg, const struct wire_id *id, uint32_t slot)
{
	struct walked *walked = arg;
	const struct wire_id expected = id_of(slot);

	assert_true(wire_id_equal(id, &expected));
	assert_false(walked->seen[slot]);
	walked->seen[slot] = true;
	return ++walked->calls == walked->stop_after;
}

static void test_walk(void **state)
{
	struct fixture *f = *state;
	struct walked all = {0}, some = {.stop_after = 7};

	for (uint32_t i = 0; i < SLOTS; i++) {
		const struct wire_id id = id_of(i);

		assert_int_equal(route_set(&f->routes, &id, i), 0);
	}
	for (uint32_t i = 0; i < SLOTS; i += 2) {
		const struct wire_id id = id_of(i);

		assert_int_equal(route_remove(&f->routes, &id), 0);
	}
	route_walk(&f->routes, each, &all);
	assert_int_equal(all.calls, SLOTS / 2);
	for (uint32_t i = 0; i < SLOTS; i++)
		assert_int_equal(all.seen[i], i % 2);
	route_walk(&f->routes, each, &some);
	assert_int_equal(some.calls, 7);
}

static void test_expected_number_fits(void **state)
{
	struct fixture *f = *state;
	struct route_words *words;

	route_table_fini(&f->routes);
	assert_int_equal(route_table_init(&f->routes, f->sessions, SLOTS, secret), 0);
	words = f->routes.words;
	for (uint32_t i = 0; i < SLOTS; i++) {
		const struct wire_id id = id_of(i);

		assert_int_equal(route_set(&f->routes, &id, i), 0);
	}
	assert_ptr_equal(f->routes.words, words);
	for (uint32_t i = 0; i < SLOTS; i++) {
		const struct wire_id id = id_of(i);

		expect(f, &id, i);
	}
}

/* Ids of one hash fill bucket after bucket; what is behind a full one is still found. */
static void test_collisions(void **state)
{
	struct fixture *f = *state;
	struct wire_id ids[60];

	for (uint32_t i = 0; i < 60; i++) {
		ids[i] = colliding(i);
		assert_int_equal(route_hash(&f->routes, &ids[i]), route_hash(&f->routes, &ids[0]));
		assert_int_equal(route_set(&f->routes, &ids[i], i), 0);
		for (uint32_t j = 0; j < 60; j++)
			expect(f, &ids[j < i ? j : i], j < i ? j : i);
	}
	// in an order of no regard to theirs
	for (uint32_t i = 0; i < 60; i++) {
		uint32_t gone = i * 7 % 60;

		if (gone % 3 == 0)
			continue;
		assert_int_equal(route_remove(&f->routes, &ids[gone]), 0);
		expect(f, &ids[gone], ROUTE_NONE);
	}
	for (uint32_t i = 0; i < 60; i++)
		expect(f, &ids[i], i % 3 ? ROUTE_NONE : i);
	// what comes back takes the places that were left, without growth
	for (uint32_t i = 0; i < 60; i++)
		assert_int_equal(route_set(&f->routes, &ids[i], i), 0);
	for (uint32_t i = 0; i < 60; i++)
		expect(f, &ids[i], i);
	assert_int_equal(route_count(&f->routes), 60);
}

/* Against an array, with many more changes than the table has places. */
static void test_against_model(void **state)
{
	struct fixture *f = *state;
	static bool there[SLOTS];
	uint32_t count = 0;

	srandom(1);
	for (int i = 0; i < 300000; i++) {
		// now few, now many
		uint32_t range = i / 20000 % 2 ? SLOTS : 100;
		uint32_t slot = (uint32_t)random() % range;
		const struct wire_id id = slot % 16 ? id_of(slot) : colliding(slot);

		switch (random() % 4) {
		case 0:
			assert_int_equal(route_remove(&f->routes, &id), there[slot] ? 0 : -ENOENT);
			count -= there[slot];
			there[slot] = false;
			break;
		case 1:
			assert_int_equal(route_set(&f->routes, &id, slot), 0);
			count += !there[slot];
			there[slot] = true;
			break;
		default:
			expect(f, &id, there[slot] ? slot : ROUTE_NONE);
		}
		assert_int_equal(route_count(&f->routes), count);
		if (i % 1000 == 0)
			rcu_quiescent_state();
	}
	for (uint32_t slot = 0; slot < SLOTS; slot++) {
		const struct wire_id id = slot % 16 ? id_of(slot) : colliding(slot);

		expect(f, &id, there[slot] ? slot : ROUTE_NONE);
	}
}

/* The table never grows for nothing: what comes and goes leaves no lasting mark. */
static void test_churn_does_not_grow(void **state)
{
	struct fixture *f = *state;

	for (uint32_t i = 0; i < 200000; i++) {
		const struct wire_id id = colliding(i);

		assert_int_equal(route_set(&f->routes, &id, i % SLOTS), 0);
		if (i >= 20) {
			const struct wire_id old = colliding(i - 20);

			assert_int_equal(route_remove(&f->routes, &old), 0);
		}
		if (i % 1000 == 0)
			rcu_quiescent_state();
	}
	assert_int_equal(route_count(&f->routes), 20);
	assert_int_equal(f->routes.words->mask, 16 * ROUTE_BUCKET - 1);
}

/* What is emptied in a full bucket is counted, and swept before the table is half full of it. */
static void test_tombstones(void **state)
{
	struct fixture *f = *state;
	uint32_t live[60] = {0};

	srandom(2);
	for (uint32_t i = 1; i <= 60000; i++) {
		uint32_t *place = &live[(uint32_t)random() % 60];
		const struct wire_id old = id_of(*place), new = id_of(i);
		const struct route_words *words;
		uint32_t tombstones = 0, routes = 0;

		if (*place)
			assert_int_equal(route_remove(&f->routes, &old), 0);
		*place = i;
		assert_int_equal(route_set(&f->routes, &new, i % SLOTS), 0);
		words = f->routes.words;
		assert_true(words->mask <= 32 * ROUTE_BUCKET - 1);
		for (uint32_t at = 0; at <= words->mask; at++) {
			routes += words->word[at] > 1;
			tombstones += words->word[at] == 1;
		}
		assert_int_equal(routes, route_count(&f->routes));
		assert_int_equal(tombstones, f->routes.tombstones);
		assert_true(routes + tombstones <= (words->mask + 1) / 2);
		if (i % 1000 == 0)
			rcu_quiescent_state();
	}
}

struct reader {
	struct fixture *f;
	bool started; // reader writes, control waits for it (atomic)
	bool done;    // control writes, reader reads (atomic)
	unsigned long lookups;
	unsigned long missed;
	unsigned long wrong;
};

static void *look_up(void *arg)
{
	struct reader *reader = arg;
	const struct route_table *routes = &reader->f->routes;

	rcu_register_thread();
	__atomic_store_n(&reader->started, true, __ATOMIC_RELAXED);
	for (uint32_t i = 0; !__atomic_load_n(&reader->done, __ATOMIC_RELAXED); i++) {
		const struct wire_id steady = id_of(i % STEADY),
				     churned = id_of(i % CHURN + STEADY);
		const struct session_slot *slot;

		// one that is always there, though perhaps elsewhere
		slot = find(routes, &steady);
		reader->missed += !slot;
		reader->wrong += slot && !wire_id_equal(&slot->id, &steady);
		// one that may be
		slot = find(routes, &churned);
		reader->wrong += slot && !wire_id_equal(&slot->id, &churned);
		// and one that never is
		reader->wrong += find(routes, &(struct wire_id){{1}}) != NULL;
		reader->lookups++;
		if (i % 32 == 0)
			rcu_quiescent_state();
	}
	rcu_unregister_thread();
	return NULL;
}

static void test_lookups_during_churn(void **state)
{
	struct fixture *f = *state;
	struct reader reader = {.f = f};
	pthread_t thread;

	for (uint32_t i = 0; i < STEADY; i++) {
		const struct wire_id id = id_of(i);

		assert_int_equal(route_set(&f->routes, &id, i), 0);
	}
	assert_int_equal(pthread_create(&thread, NULL, look_up, &reader), 0);
	while (!__atomic_load_n(&reader.started, __ATOMIC_RELAXED))
		;
	for (uint32_t round = 0; round < ROUNDS; round++) {
		// grows from small, with new tables on the way, and shrinks to nothing
		for (uint32_t i = 0; i < CHURN; i++) {
			const struct wire_id id = id_of(i + STEADY);

			assert_int_equal(route_set(&f->routes, &id, i + STEADY), 0);
		}
		for (uint32_t i = 0; i < CHURN; i++) {
			const struct wire_id id = id_of(i + STEADY);

			assert_int_equal(route_remove(&f->routes, &id), 0);
		}
		// the steady ones are set again, every other time to another slot
		for (uint32_t i = 0; i < STEADY; i++) {
			const struct wire_id id = id_of(i);

			assert_int_equal(
				route_set(&f->routes, &id, round / 2 % 2 ? SLOTS - 1 - i : i), 0);
		}
		rcu_quiescent_state();
	}
	__atomic_store_n(&reader.done, true, __ATOMIC_RELAXED);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_true(reader.lookups > 0);
	assert_int_equal(reader.missed, 0);
	assert_int_equal(reader.wrong, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(set_and_remove),       TEST(walk),
		TEST(expected_number_fits), TEST(collisions),
		TEST(against_model),        TEST(churn_does_not_grow),
		TEST(tombstones),           TEST(lookups_during_churn),
	};
	int failed;

	rcu_register_thread();
	failed = cmocka_run_group_tests_name("route", tests, NULL, NULL);
	rcu_unregister_thread();
	return failed;
}
