/*
 * The route table: peer id to next hop. Workers look up inside RCU read-side sections, the control
 * thread changes it. Built on liburcu's lock-free hash table; ids are hashed with a secret, so that
 * nobody can choose ids that collide.
 */
#ifndef VIADUCT_ROUTE_H
#define VIADUCT_ROUTE_H

#include <urcu-qsbr.h>
#include <urcu/rculfhash.h>

#include "wire.h"

/* What a route points at, even a local one. Immutable while it is in the table. */
struct next_hop {
	struct wire_id id;
	uint32_t slot; // of the session table
	struct cds_lfht_node node;
	struct rcu_head rcu;
};

struct route_table {
	struct cds_lfht *table;
	uint64_t secret[4];
};

/* Control thread. `secret`: 32 random bytes. Returns 0 or -ENOMEM. */
int route_table_init(struct route_table *routes, const uint8_t secret[32]);

/* Control thread, after the workers are gone: frees the table and every next hop in it. */
void route_table_fini(struct route_table *routes);

/* Control thread. Points `id` at `slot`; a route that is there is replaced. Returns 0 or -ENOMEM.
 */
int route_set(struct route_table *routes, const struct wire_id *id, uint32_t slot);

/* Control thread. Returns 0 or -ENOENT. */
int route_remove(struct route_table *routes, const struct wire_id *id);

/* Control thread: how many there are. */
unsigned long route_count(const struct route_table *routes);

/* Control thread: calls `each` for every route until it returns non-zero. */
void route_walk(const struct route_table *routes,
		int (*each)(void *arg, const struct next_hop *hop), void *arg);

unsigned long route_hash(const struct route_table *routes, const struct wire_id *id);

/* Any registered thread, in a read-side section; NULL: no route. */
const struct next_hop *route_find(const struct route_table *routes, const struct wire_id *id,
				  unsigned long hash);

#endif
