/*
 * Sources that only send garbage, and for how long they are blocked: what workers report, unless a
 * member's session is there. Entries are short, since addresses can be forged; they get longer for
 * who begins again. docs/trust.md. Control thread; pure: time is an argument, and what blocks is
 * called through ops.
 */
#ifndef VIADUCT_BLOCKLIST_H
#define VIADUCT_BLOCKLIST_H

#include "config.h"
#include "session.h"

enum {
	BLOCKLIST_MAX = 4096,
	BLOCKLIST_GRACE_MS = 10000, // after a join, until its session is known to be there
};

struct blocklist_ops {
	/* Both return 0 or a negative errno. */
	int (*block)(void *arg, const uint64_t source[2]);
	int (*unblock)(void *arg, const uint64_t source[2]);
	/* Whether a member's session is at this address. */
	bool (*is_member)(void *arg, const struct endpoint *at);
};

/* A source that is blocked, or was lately, or may not be for a while. */
struct blocked {
	uint64_t source[2];
	uint64_t until_ms; // blocked, or spared, and
	uint64_t after_ms; // until then remembered
	unsigned int times;
	enum blocked_state {
		BLOCKED_ENDED,
		BLOCKED_NOW,
		BLOCKED_NEVER, // has just joined
	} state;
};

struct blocklist {
	const struct blocklist_ops *ops;
	void *arg;
	unsigned int seconds; // for how long the first time, then twice as long
	unsigned int seconds_max;
	struct blocked entries[BLOCKLIST_MAX]; // in no order
	unsigned int count;
	unsigned int now; // blocked ones
	uint64_t blocked; // times, ever
	uint64_t lifted;  // by joins
	uint64_t spared;  // reports about where a member is, or somebody has just joined
	uint64_t full;    // reports without room for an entry
};

/* Takes new settings, and tells the workers what to report. */
void blocklist_configure(struct blocklist *list, const struct config_trust *config,
			 struct session_table *sessions);

/* A worker reports too many bad records from this address. Returns whether it is blocked now. */
bool blocklist_report(struct blocklist *list, const struct endpoint *from, uint64_t now_ms);

/* Somebody has joined from this address. */
void blocklist_lift(struct blocklist *list, const struct endpoint *from, uint64_t now_ms);

/* Ends what is over. Call it every second. */
void blocklist_sweep(struct blocklist *list, uint64_t now_ms);

#endif
