/*
 * Who is a member: identities, their slots of the session table, and how to find them. Knows
 * nothing of sessions. For the control thread; times are milliseconds of one monotonic clock.
 *
 * A slot belongs to one identity. When that is gone, the slot rests, so that nobody else answers
 * to an index that others may still use; who comes back meanwhile gets the same slot again.
 */
#ifndef VIADUCT_ROSTER_H
#define VIADUCT_ROSTER_H

#include <urcu/list.h>

#include "identity.h"

enum { ROSTER_REST_MS = 60000 };

struct member_session;

struct member {
	struct wire_id id;
	char text[WIRE_ID_TEXT + 1]; // of the id
	struct wire_id certificate;  // that it came with last
	uint32_t slot;
	char *name;
	char *cluster;        // "" if none; in the same allocation
	uint8_t level;        // of trust, see struct session
	uint64_t takeover_ms; // rate limit, see roster_may_take_over()

	struct cds_list_head registrations; // services.c's
	uint8_t region;                     // its number; 0: not known

	/* member.c's, see session_slot */
	struct member_session *current;
	struct member_session *next;
	struct member_session *last;

	struct cds_list_head resting; // empty unless the slot rests
	uint64_t rested_ms;
};

/* Members in an order of their own. */
struct roster_index {
	struct member **members;
	size_t count;
	int (*compare)(const struct member *a, const struct member *b);
};

struct roster {
	struct roster_index by_id;      // all, in the order of the ids' bytes
	struct roster_index by_name;    // by name, then id
	struct roster_index by_cluster; // by cluster, then id
	uint32_t slots;
	struct member **by_slot;
	uint16_t *generations; // of each slot, the newest
	uint32_t *free;        // ring of free slots
	uint32_t free_first;
	uint32_t free_count;
	struct cds_list_head resting; // oldest first
};

/*
 * `random`: where slots and generations begin, so that the indexes of an earlier process are most
 * probably nobody's. Returns 0 or -ENOMEM.
 */
int roster_init(struct roster *roster, uint32_t slots, uint32_t random);
void roster_fini(struct roster *roster);

/* The member with this identity, NULL: none. One whose slot rests is found as well. */
struct member *roster_find(const struct roster *roster, const struct wire_id *id);

/*
 * The member with this identity; made, with a slot, if there is none. Takes over the identity's
 * name, which a renewed certificate may have changed. The slot no longer rests. Returns 0, -ENOSPC
 * (no free slot) or -ENOMEM.
 */
int roster_enter(struct roster *roster, const struct identity *identity, struct member **member);

/* The member's sessions are gone: lets its slot rest, then frees both. */
void roster_leave(struct roster *roster, struct member *member, uint64_t now_ms);

/* Frees what has rested long enough. */
void roster_expire(struct roster *roster, uint64_t now_ms);

/* A new session index in the member's slot: the next generation. */
uint32_t roster_index(struct roster *roster, const struct member *member);

/*
 * The position of the first member with this name in by_name, or of the first at or behind this id
 * in by_id, or in by_cluster within that cluster. May be the index's end
 * or somebody else's.
 */
size_t roster_seek_name(const struct roster *roster, const char *name);
size_t roster_seek_id(const struct roster *roster, const struct wire_id *id);
size_t roster_seek_cluster(const struct roster *roster, const char *cluster,
			   const struct wire_id *id);

/*
 * Whether this member may take over its own session once more, at most `per_minute` times a minute
 * and as many at once. If not, `retry_s` says in how many seconds.
 */
bool roster_may_take_over(struct member *member, unsigned int per_minute, uint64_t now_ms,
			  unsigned int *retry_s);

#endif
