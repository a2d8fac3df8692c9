#include "test.h"

#include <math.h>

#include "score.h"

enum { LIFE_S = 300 };

/* Whether two numbers are the same as far as it matters. */
static void expect_near(double a, double b)
{
	if (fabs(a - b) > 0.001)
		fail_msg("%f, not %f", a, b);
}

/* Goes on for so many seconds, with this each second. */
static void live(struct score *score, enum score_cause cause, double times, unsigned int seconds)
{
	while (seconds--) {
		score_decay(score, LIFE_S, score->at_ms + 1000);
		score_note(score, cause, times, 1);
	}
}

static void test_nothing_known(void **state)
{
	const struct score score = {0};

	expect_near(score_value(&score), 1);
	assert_int_equal(score_level(&score, 0), 0);
	assert_int_equal(score_level(&score, SCORE_CUT), 0);
}

static void test_formula(void **state)
{
	struct score score = {.at_ms = 5000};

	score_note(&score, SCORE_MALFORMED, 2, 1);
	expect_near(score_points(&score), 10);
	expect_near(score_value(&score), 100.0 / 110);
	// the most a second
	score_note(&score, SCORE_MALFORMED, 1000000, 1);
	expect_near(score_points(&score), 20);
	// what is usual costs nothing
	score_note(&score, SCORE_REFUSED, 10, 1);
	expect_near(score_points(&score), 20);
	score_note(&score, SCORE_REFUSED, 15, 1);
	expect_near(score_points(&score), 20.5);
	assert_int_equal(score.counts[SCORE_REFUSED], 25);
	assert_int_equal(score.last_ms[SCORE_REFUSED], 5000);
}

static void test_decay(void **state)
{
	struct score score = {.at_ms = 5000};

	score_note(&score, SCORE_MALFORMED, 2, 1);
	score_decay(&score, LIFE_S, 5000 + LIFE_S * 1000);
	expect_near(score_points(&score), 5);
	score_decay(&score, LIFE_S, 5000 + 2 * LIFE_S * 1000);
	expect_near(score_points(&score), 2.5);
	// however often it is looked at
	for (int i = 0; i < LIFE_S; i++)
		score_decay(&score, LIFE_S, score.at_ms + 1000);
	expect_near(score_points(&score), 1.25);
	// a clock that seems to go back changes nothing
	score_decay(&score, LIFE_S, score.at_ms - 1000);
	expect_near(score_points(&score), 1.25);
}

/* What goes on and on leads from level to level, and in the end out; and back, when it is over. */
static void test_down_and_up(void **state)
{
	struct score score = {0};
	unsigned int level = 0, at[SCORE_CUT + 1] = {0};

	for (unsigned int second = 1; level < SCORE_CUT && second < 3600; second++) {
		unsigned int before = level;

		live(&score, SCORE_LIMIT, 1000000, 1);
		level = score_level(&score, before);
		assert_in_range(level, before, before + 1);
		if (level > before)
			at[level] = second;
	}
	assert_in_range(at[1], 15, 20);
	assert_in_range(at[2], 50, 60);
	assert_in_range(at[3], 90, 120);
	assert_in_range(at[4], 240, 300);
	for (unsigned int second = 0; level && second < 2 * 3600; second++) {
		unsigned int before = level;

		score_decay(&score, LIFE_S, score.at_ms + 1000);
		level = score_level(&score, before);
		assert_true(level <= before);
	}
	assert_int_equal(level, 0);
}

/* Up to `a` and `b` seconds in a row of what others can make up, however much: never level 2. */
static void test_what_can_be_made_up(void **state)
{
	static const enum score_cause made_up[] = {SCORE_AUTH, SCORE_REPLAY, SCORE_COMPLAINT};
	struct score score = {0};

	for (unsigned int second = 0; second < 24 * 3600; second++) {
		for (int i = 0; i < 3; i++)
			score_note(&score, made_up[i], 1e9, 1);
		score_decay(&score, LIFE_S, score.at_ms + 1000);
		assert_in_range(score_level(&score, SCORE_CUT), 0, 1);
	}
	// and complaints alone don't even slow down
	score = (struct score){0};
	live(&score, SCORE_COMPLAINT, 1e9, 24 * 3600);
	assert_int_equal(score_level(&score, 0), 0);
	// nor does who sends to those who have gone ever have to go
	score = (struct score){0};
	live(&score, SCORE_REFUSED, 1e9, 24 * 3600);
	assert_int_equal(score_level(&score, 0), 2);
}

static void test_no_flutter(void **state)
{
	struct score score = {.points = {[SCORE_LIMIT] = 34}};
	int changes = 0;

	for (unsigned int second = 0, level = 0; second < 60; second++) {
		unsigned int before = level;

		// to and fro around the first level
		score.points[SCORE_LIMIT] = second % 2 ? 33 : 34;
		level = score_level(&score, before);
		changes += level != before;
	}
	assert_int_equal(changes, 1);
}

static void test_probation(void **state)
{
	struct score score = {.points = {[SCORE_LIMIT] = 600, [SCORE_MALFORMED] = 200}};

	assert_int_equal(score_level(&score, 0), SCORE_CUT);
	score_on_probation(&score);
	assert_int_equal(score_level(&score, SCORE_CUT), SCORE_CUT - 1);
	expect_near(score.points[SCORE_LIMIT], 3 * score.points[SCORE_MALFORMED]);
	score = (struct score){.points = {[SCORE_LIMIT] = 50}};
	score_on_probation(&score);
	expect_near(score_points(&score), 50);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_known),
		cmocka_unit_test(test_formula),
		cmocka_unit_test(test_decay),
		cmocka_unit_test(test_down_and_up),
		cmocka_unit_test(test_what_can_be_made_up),
		cmocka_unit_test(test_no_flutter),
		cmocka_unit_test(test_probation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
