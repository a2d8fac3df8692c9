/*
 * Peers that asked to be told what happens to others: docs/protocol.md section 6, "Watching". Best
 * effort: who is told more than it may be is told later how much it has missed. Control thread;
 * times are milliseconds of the workers' clock.
 */
#ifndef VIADUCT_WATCH_H
#define VIADUCT_WATCH_H

#include <stdbool.h>
#include <urcu/list.h>

#include "wire.h"

struct member_session;
struct members;

enum {
	WATCH_PER_SECOND = 100, // for each watcher, and twice as many at once
	WATCH_ALL_PER_SECOND = 10000,
};

/* What a session watches; it ends with it. */
struct watch {
	struct cds_list_head node;
	struct member_session *session; // whose it is
	struct wire_id id;              // of the only peer that it is about, if `one`
	bool one;
	char *cluster;     // the only one that it is about, NULL: all
	uint64_t sequence; // of the last event that it was about
	uint64_t told;     // the last of which the watcher knows
	uint64_t full_us;  // when its budget will be full again, see watch.c
};

struct watches {
	struct cds_list_head list; // those who are told next are first
	unsigned int count;
	unsigned int max;
	unsigned int behind; // those who have yet to be told that they have missed some
	uint64_t now_us;
	uint64_t full_us; // of the budget of all
};

void watches_init(struct watches *watches, unsigned int max);

/*
 * Has a session watch peer `id` (NULL: any) of `cluster` (NULL: any), instead of what it has
 * watched before. Returns 0 and the number of the last event in `sequence`, -EBUSY (enough watch
 * already) or -ENOMEM.
 */
int watch_begin(struct members *members, struct member_session *session, const struct wire_id *id,
		const char *cluster, uint64_t *sequence);

/* Ends it, if the session watches anything. */
void watch_end(struct members *members, struct member_session *session);

/* Tells those who watch this session's peer, and may send to it, of an event. */
void watches_tell(struct members *members, const struct member_session *session, const char *event);

/* Keeps time, and tells those who have missed something. Call it every 10 ms or so. */
void watches_tick(struct members *members, uint64_t now_ms);

#endif
