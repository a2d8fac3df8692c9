/*
 * The slots and routes of services and topics. What stands in a slot is its owner's. For the
 * control thread.
 */
#ifndef VIADUCT_GROUPS_H
#define VIADUCT_GROUPS_H

#include "route.h"

enum { GROUPS_NAME_MAX = 64 }; // bytes, without the NUL

/* A slot of a group. */
struct groups_place {
	enum group_kind kind;
	char name[GROUPS_NAME_MAX + 1]; // "": nobody's
	bool resting; // the reclaimer clears it (release), control reads (acquire)
	struct rcu_head rcu;
};

struct groups {
	struct session_table *sessions;
	struct route_table *routes;
	struct groups_places *places;
	uint32_t *free; // ring of places that are nobody's; those that rest are last
	uint32_t free_first;
	uint32_t free_count;
};

/* For the groups' slots of `sessions`, which must outlive it. Returns 0 or -ENOMEM. */
int groups_init(struct groups *groups, struct session_table *sessions, struct route_table *routes);
void groups_fini(struct groups *groups);

/*
 * Whether a service or topic may be called so: 1 to GROUPS_NAME_MAX of a-z, 0-9, '.', '_', '-' and
 * '/', the first a letter or digit. Pure.
 */
bool groups_name_good(const char *name);

/* Whether the name's first part, up to one of "./-_", is one that only the relay may use. Pure. */
bool groups_name_reserved(const char *name);

/* The id of a service or topic: docs/protocol.md section 1. Pure. */
void groups_id(struct wire_id *id, enum group_kind kind, const char *name);

/*
 * Gives a group of this good name a slot and a route, and publishes it. Returns 0, -ENOSPC (no free
 * slot) or -ENOMEM.
 */
int groups_add(struct groups *groups, enum group_kind kind, const char *name, struct group *group,
	       uint32_t *slot);

/* Publishes another one in a slot; the one before is the caller's to free after a grace period. */
void groups_publish(struct groups *groups, uint32_t slot, struct group *group);

/* Takes slot and route away. What was published is the caller's, as above. */
void groups_remove(struct groups *groups, uint32_t slot);

/* The slot of this name. Returns 0 or -ENOENT. */
int groups_find(const struct groups *groups, enum group_kind kind, const char *name,
		uint32_t *slot);

/* What is in a slot; NULL: it is a session's. */
const struct groups_place *groups_place(const struct groups *groups, uint32_t slot);

#endif
