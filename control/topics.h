/*
 * Topics and who is a member of which, by wish, or because a whole cluster is. For the control
 * thread.
 *
 * Changes are collected and published once a tick, each topic as a whole: who joins and leaves in a
 * loop, or ten thousand who join at once, cost one new array a tick. So is the number of members
 * that a tick may copy bounded. A request is answered when workers see what it has changed.
 */
#ifndef VIADUCT_TOPICS_H
#define VIADUCT_TOPICS_H

#include <urcu/list.h>

#include "config.h"
#include "groups.h"
#include "roster.h"
#include "topic.h"

struct members;
struct topic_entry;
struct topic_peer;

struct topics {
	struct config_topics config;
	struct topic_entry **entries; // by slot, less the first group's
	uint32_t entry_count;
	struct topic_peer **peers;     // by slot: what a peer has joined by wish; NULL: nothing
	struct cds_list_head all;      // topics, oldest first
	struct cds_list_head changed;  // to be published, longest waiting first
	struct cds_list_head clusters; // topics with members by cluster
	unsigned int count;
};

/* What `viaduct topics` shows of one. */
struct topic_report {
	const char *name;
	uint32_t members; // as workers see it
	bool configured;
	struct topic_counts counts; // of all workers
};

/* For the slots of `members`, whose groups and roster are made. Returns 0 or -ENOMEM. */
int topics_init(struct members *members);

/* When the workers are gone. */
void topics_fini(struct members *members);

/*
 * Takes over limits and configured topics. Who is a member by wish stays, also where it is more
 * than the new limits allow. Returns 0, or -ENOSPC or -ENOMEM: then some of the topics aren't
 * there.
 */
int topics_configure(struct members *members, const struct config_topics *config);

/*
 * Makes a peer a member, or with `cluster` (not "", and its own) all of its cluster as long as the
 * peer is one. Idempotent. The request with this index and tag is answered at a later tick. Returns
 * 0, or with one sentence in `detail` (static) -EINVAL (a bad name), -EPERM (a reserved one, or not
 * its cluster), -ENOSPC (a limit) or -ENOMEM.
 */
int topics_join(struct members *members, const struct member *member, const char *name,
		const char *cluster, uint32_t index, uint32_t tag, const char **detail);

/* The opposite, likewise. Who was no member by wish isn't one after, either. */
int topics_leave(struct members *members, const struct member *member, const char *name,
		 uint32_t index, uint32_t tag, const char **detail);

/* A peer has come; it has gone, or somebody else is it now. */
void topics_come(struct members *members, const struct member *member);
void topics_go(struct members *members, const struct member *member);

/* Publishes what has changed, and answers. Call it every 10 ms or so. */
void topics_tick(struct members *members);

/* Calls `each` for every topic. */
void topics_walk(const struct members *members,
		 void (*each)(void *arg, const struct topic_report *report), void *arg);

#endif
