#include "test.h"

#include <stdlib.h>
#include <string.h>

#include "window.h"

enum { REMEMBERED = 1 << 16 };

#define SEQUENCE_MAX ((UINT64_C(1) << 56) - 1)

/* The same as a list: slow, and plain to see. */
struct model {
	uint64_t next;
	uint64_t accepted[REMEMBERED];
	unsigned int count;
};

static enum window_result model_check(const struct model *model, uint64_t sequence)
{
	if (model->next > WINDOW_SIZE && sequence < model->next - WINDOW_SIZE)
		return WINDOW_OLD;
	for (unsigned int i = model->count; i-- > 0;) {
		if (model->accepted[i] == sequence)
			return WINDOW_SEEN;
	}
	return WINDOW_NEW;
}

static void model_accept(struct model *model, uint64_t sequence)
{
	assert_true(model->count < REMEMBERED);
	model->accepted[model->count++] = sequence;
	if (sequence >= model->next)
		model->next = sequence + 1;
}

/* Offers `sequence` to both. */
static void offer(struct window *window, struct model *model, uint64_t sequence)
{
	const struct window before = *window;
	enum window_result expected = model_check(model, sequence);

	assert_int_equal(window_check(window, sequence), expected);
	assert_memory_equal(window, &before, sizeof(before));
	assert_int_equal(window_accept(window, sequence), expected);
	if (expected == WINDOW_NEW)
		model_accept(model, sequence);
	else
		assert_memory_equal(window, &before, sizeof(before));
	assert_int_equal(window->next, model->next);
}

static void test_in_order(void **state)
{
	struct window window = {0};

	for (uint64_t i = 0; i < 10000; i++) {
		assert_int_equal(window_accept(&window, i), WINDOW_NEW);
		assert_int_equal(window_accept(&window, i), WINDOW_SEEN);
	}
	assert_int_equal(window.next, 10000);
}

static void test_sides(void **state)
{
	// wherever in a block the highest falls
	for (uint64_t highest = 2 * WINDOW_SIZE; highest < 2 * WINDOW_SIZE + 130; highest++) {
		struct window window = {0};

		assert_int_equal(window_accept(&window, highest), WINDOW_NEW);
		assert_int_equal(window_check(&window, highest - WINDOW_SIZE), WINDOW_OLD);
		assert_int_equal(window_accept(&window, highest - WINDOW_SIZE + 1), WINDOW_NEW);
		assert_int_equal(window_accept(&window, highest - WINDOW_SIZE + 1), WINDOW_SEEN);
		assert_int_equal(window_check(&window, 0), WINDOW_OLD);
		// all in between are still free
		for (uint64_t i = highest - WINDOW_SIZE + 2; i < highest; i++)
			assert_int_equal(window_accept(&window, i), WINDOW_NEW);
		assert_int_equal(window.next, highest + 1);
	}
}

static void test_below_a_window_of_zero(void **state)
{
	struct window window = {0};

	assert_int_equal(window_accept(&window, 100), WINDOW_NEW);
	for (uint64_t i = 0; i < 100; i++)
		assert_int_equal(window_accept(&window, i), WINDOW_NEW);
	assert_int_equal(window_accept(&window, WINDOW_SIZE), WINDOW_NEW);
	assert_int_equal(window_accept(&window, 0), WINDOW_OLD);
	assert_int_equal(window_accept(&window, 1), WINDOW_SEEN);
}

static void test_jumps(void **state)
{
	// a jump of any number of blocks leaves nothing behind that looks accepted
	for (uint64_t jump = 1; jump < 3 * WINDOW_WORDS * 64; jump += 13) {
		struct window window = {0};

		for (uint64_t i = 0; i < WINDOW_WORDS * 64; i++)
			window_accept(&window, i);
		assert_int_equal(window_accept(&window, WINDOW_WORDS * 64 - 1 + jump), WINDOW_NEW);
		for (uint64_t i = WINDOW_WORDS * 64; i < WINDOW_WORDS * 64 - 1 + jump; i++) {
			bool old = window.next - i > WINDOW_SIZE;

			assert_int_equal(window_check(&window, i), old ? WINDOW_OLD : WINDOW_NEW);
		}
	}
}

static void test_last(void **state)
{
	struct window window = {0};

	assert_int_equal(window_accept(&window, SEQUENCE_MAX - 1), WINDOW_NEW);
	assert_int_equal(window_accept(&window, SEQUENCE_MAX), WINDOW_NEW);
	assert_int_equal(window_accept(&window, SEQUENCE_MAX), WINDOW_SEEN);
	assert_int_equal(window_accept(&window, SEQUENCE_MAX - WINDOW_SIZE + 1), WINDOW_NEW);
	assert_int_equal(window_accept(&window, SEQUENCE_MAX - WINDOW_SIZE), WINDOW_OLD);
	assert_int_equal(window_accept(&window, 0), WINDOW_OLD);
}

/* Random walks over all distances, from the start and up to the end of the numbers. */
static void test_against_model(void **state)
{
	struct model *model = malloc(sizeof(*model));

	assert_non_null(model);
	for (unsigned int seed = 0; seed < 60; seed++) {
		struct window window = {0};
		uint64_t at = seed % 3 == 0 ? SEQUENCE_MAX - 3000 : 0;

		srandom(seed);
		memset(model, 0, sizeof(*model));
		for (int i = 0; i < 2500; i++) {
			uint64_t next = model->next > at ? model->next : at;
			uint64_t back = (uint64_t)random() % (WINDOW_SIZE + 200);
			uint64_t sequence;

			switch (random() % 16) {
			case 0: // far ahead
				sequence = next + ((uint64_t)random() << random() % 26);
				break;
			case 1: // around the far side
				sequence = next - WINDOW_SIZE - 3 + random() % 6;
				break;
			case 2:
			case 3:
			case 4: // a little ahead
				sequence = next + random() % 200;
				break;
			case 5:
			case 6:
			case 7:
				sequence = next;
				break;
			default:
				sequence = next - back;
			}
			if (seed % 3 == 0 && sequence > SEQUENCE_MAX)
				sequence = SEQUENCE_MAX - random() % 4;
			offer(&window, model, sequence & SEQUENCE_MAX);
		}
	}
	free(model);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_in_order),
		cmocka_unit_test(test_sides),
		cmocka_unit_test(test_below_a_window_of_zero),
		cmocka_unit_test(test_jumps),
		cmocka_unit_test(test_last),
		cmocka_unit_test(test_against_model),
	};

	return cmocka_run_group_tests_name("window", tests, NULL, NULL);
}
