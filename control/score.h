/*
 * How far a peer is trusted, from what the relay has seen it do. The formula, with its reasons and
 * sources, is in docs/trust.md; its numbers are the list below and nowhere else. Pure: time is an
 * argument, in milliseconds of one monotonic clock.
 */
#ifndef VIADUCT_SCORE_H
#define VIADUCT_SCORE_H

#include <stdint.h>

/*
 * What counts: points for each time, how many a second are nothing unusual, the most points a
 * second, the most points at all, and what it is. The first are those of enum session_mark. What
 * others could have made up, forged records and complaints, has caps that together stay below
 * SCORE_LEVEL_2: nobody can be cut, or held back for long, by what he didn't do.
 */
#define SCORE_CAUSES(X)                                                                            \
	X(AUTH, "auth", 0.1, 1, 1, 40, "records from its address that didn't open")                \
	X(REPLAY, "replay", 0.1, 10, 1, 20, "records from its address that came before")           \
	X(MALFORMED, "malformed", 5, 0, 10, 600, "authentic records that are not well-formed")     \
	X(LIMIT, "limit", 0.01, 1, 2, 600, "over its limits")                                      \
	X(REFUSED, "refused", 0.1, 10, 1, 150, "messages to who isn't here, or against policy")    \
	X(CONTROL, "control", 2, 0.1, 10, 600, "control requests that are not well-formed")        \
	X(COMPLAINT, "complaint", 2, 0, 10, 30, "complaints by other peers")

enum score_cause {
#define X(name, text, points, usual, most, cap, help) SCORE_##name,
	SCORE_CAUSES(X)
#undef X
		SCORE_CAUSE_COUNT
};

enum {
	SCORE_FAITH = 100, // points at which half of the trust is gone
	SCORE_CUT = 4,     // the level of those who may not stay; below it they are slowed down
};

struct score {
	double points[SCORE_CAUSE_COUNT]; // as of at_ms
	uint64_t last_ms[SCORE_CAUSE_COUNT];
	uint64_t counts[SCORE_CAUSE_COUNT]; // how often it happened, ever
	uint64_t at_ms;
};

/* Brings the points to `now_ms`: every `half_life_s` half of them are forgotten. */
void score_decay(struct score *score, unsigned int half_life_s, uint64_t now_ms);

/*
 * Something that happened `times` times (for complaints, with their weight) within `seconds`, just
 * now: the score is one of now.
 */
void score_note(struct score *score, enum score_cause cause, double times, double seconds);

/*
 * Takes off what is above the middle of the last level before SCORE_CUT: whoever was cut begins
 * there when he comes back.
 */
void score_on_probation(struct score *score);

double score_points(const struct score *score);

/* From 1 (nothing is known against it) down to nearly 0. */
double score_value(const struct score *score);

/*
 * The level: 0 good, 1 to 3 slowed down, SCORE_CUT. Getting better takes a little more than staying
 * where it was, `before`, so that nobody flutters.
 */
unsigned int score_level(const struct score *score, unsigned int before);

/* The most points for this. */
double score_cap(enum score_cause cause);

const char *score_cause_name(enum score_cause cause);

#endif
