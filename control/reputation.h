/*
 * What the relay knows against its peers, and what follows from it: scores, levels, and for whom
 * there is no place at the moment. docs/trust.md. Remembered by identity, across sessions and, in a
 * file, restarts. Control thread; times are milliseconds of the workers' clock.
 */
#ifndef VIADUCT_REPUTATION_H
#define VIADUCT_REPUTATION_H

#include <jansson.h>
#include <stdio.h>

#include "config.h"
#include "member.h"
#include "score.h"

enum {
	REPUTATION_MAX = 16384,  // peers that something is known about
	REPUTATION_TARGETS = 16, // that one may complain about in a half-life
	REPUTATION_REASON = 64,  // bytes of a complaint's reason
	REPUTATION_STRIKES = 32, // counted at most
};

/* A complaint that was taken. */
struct complaint {
	struct wire_id target;
	uint64_t at_ms;
};

/* What is known about a peer. */
struct record {
	struct wire_id id;
	char *name;
	struct score score;
	uint8_t level;
	bool pinned; // level 0, whatever the score
	unsigned int strikes;
	uint64_t struck_ms; // when it last was cut, or a strike was forgiven
	uint64_t until_ms;  // it may not join before; 0: it may
	struct complaint complaints[REPUTATION_TARGETS]; // its own, newest last
	unsigned int complaint_count;
	struct wire_id accuser; // the last one's who complained about it
	char reason[REPUTATION_REASON + 1];
};

struct reputation_counters {
	uint64_t throttled; // times that a peer's level got worse, but
	uint64_t cut;       // not those
	uint64_t recovered; // times that it got better
	uint64_t refused;   // joins of who may not come
	uint64_t pardoned;
	uint64_t complaints;
	uint64_t complaints_refused;
	uint64_t forgotten; // records that had to make room
};

struct reputation {
	unsigned int half_life_s;
	unsigned int cut_s;     // for how long who is cut stays away the first time; then twice as
	unsigned int cut_max_s; // long, and so on, up to this
	struct members *members;
	struct record **records; // in the order of their ids
	size_t count;
	size_t room;
	uint64_t swept_ms;
	bool changed; // since the file was written
	struct reputation_counters counters;

	/* Is told what happens to those whose session is there or has just ended; NULL: nobody. */
	void (*tell)(void *arg, const struct member_news *news);
	void *arg;
};

void reputation_init(struct reputation *reputation, const struct config_trust *config,
		     struct members *members, uint64_t now_ms);
/* Takes new settings. */
void reputation_configure(struct reputation *reputation, const struct config_trust *config);

void reputation_fini(struct reputation *reputation);

/* A session joins or ends. To be told of each. */
void reputation_news(struct reputation *reputation, const struct member_news *news,
		     uint64_t now_ms);

/* Takes the workers' marks, lets time heal, and draws the consequences. Call it every second. */
void reputation_sweep(struct reputation *reputation, uint64_t now_ms);

/*
 * A complaint by a session's peer. Returns 0, -EINVAL (about itself), -ENOENT (no such peer here)
 * or -EBUSY (too many; again in `retry_s`).
 */
int reputation_complain(struct reputation *reputation, struct member_session *by,
			const struct wire_id *about, const char *reason, uint64_t now_ms,
			unsigned int *retry_s);

/* In how many seconds this identity may join again; 0: now. Counts a refusal. */
unsigned int reputation_refuses(struct reputation *reputation, const struct wire_id *id,
				uint64_t now_ms);

/*
 * Answers the admin socket's {"cmd":"trust"}: docs/operating.md. The answer is the caller's; NULL:
 * no memory.
 */
json_t *reputation_answer(struct reputation *reputation, const json_t *question, uint64_t now_ms);

/*
 * A copy of what is known, for another thread to write down, with `members` NULL. Returns 0 or
 * -ENOMEM. reputation_fini() frees it.
 */
int reputation_copy(struct reputation *copy, const struct reputation *reputation);

/*
 * Writes down what is worth keeping: JSON, an object a line; `wall_s` is the time of day. Returns 0
 * or -EIO. Pure.
 */
int reputation_write(const struct reputation *reputation, FILE *file, uint64_t now_ms,
		     int64_t wall_s);

/*
 * Takes over what such a file says; what was to pass meanwhile has passed. Returns 0, -ENOMEM or
 * -EINVAL (it isn't one). Lines that make no sense are left out, and counted in `bad`. Pure.
 */
int reputation_read(struct reputation *reputation, FILE *file, uint64_t now_ms, int64_t wall_s,
		    unsigned int *bad);

#endif
