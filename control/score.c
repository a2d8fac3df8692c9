#include "score.h"

#include <math.h>

#include "session.h"

#define SAME(name) ((int)SCORE_##name == (int)SESSION_MARK_##name)
_Static_assert(SAME(AUTH) && SAME(REPLAY) && SAME(MALFORMED) && SAME(LIMIT) && SAME(REFUSED) &&
		       (int)SCORE_CONTROL == (int)SESSION_MARK_COUNT,
	       "what workers mark comes first, in their order");

static const struct cause {
	const char *name;
	double points;
	double usual;
	double most;
	double cap;
} causes[] = {
#define X(name, text, points, usual, most, cap, help) {text, points, usual, most, cap},
	SCORE_CAUSES(X)
#undef X
};

// below the first one is at level 1, and so on
static const double levels[SCORE_CUT] = {0.75, 0.5, 0.35, 0.2};

static const double margin = 0.02;
static const double probation = 0.27;

void score_decay(struct score *score, unsigned int half_life_s, uint64_t now_ms)
{
	double passed = now_ms > score->at_ms ? (double)(now_ms - score->at_ms) / 1000 : 0;
	double left = exp2(-passed / half_life_s);

	for (int i = 0; i < SCORE_CAUSE_COUNT; i++)
		score->points[i] *= left;
	score->at_ms = now_ms;
}

void score_note(struct score *score, enum score_cause cause, double times, double seconds)
{
	const struct cause *of = &causes[cause];
	double points = of->points * fmax(0, times - of->usual * seconds);

	points = score->points[cause] + fmin(points, of->most * seconds);
	score->points[cause] = fmin(points, of->cap);
	score->last_ms[cause] = score->at_ms;
	score->counts[cause] += (uint64_t)ceil(times);
}

void score_on_probation(struct score *score)
{
	double most = SCORE_FAITH / probation - SCORE_FAITH, points = score_points(score);

	for (int i = 0; i < SCORE_CAUSE_COUNT && points > most; i++)
		score->points[i] *= most / points;
}

double score_points(const struct score *score)
{
	double points = 0;

	for (int i = 0; i < SCORE_CAUSE_COUNT; i++)
		points += score->points[i];
	return points;
}

double score_value(const struct score *score)
{
	return SCORE_FAITH / (SCORE_FAITH + score_points(score));
}

unsigned int score_level(const struct score *score, unsigned int before)
{
	double value = score_value(score);
	unsigned int level = 0;

	while (level < SCORE_CUT && value < levels[level] + (level < before ? margin : 0))
		level++;
	return level;
}

double score_cap(enum score_cause cause)
{
	return causes[cause].cap;
}

const char *score_cause_name(enum score_cause cause)
{
	return causes[cause].name;
}
