#include "route.h"

#include <errno.h>
#include <stdlib.h>

static uint64_t mix(uint64_t a, uint64_t b)
{
	__extension__ unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

unsigned long route_hash(const struct route_table *routes, const struct wire_id *id)
{
	uint64_t words[2];

	memcpy(words, id, sizeof(words));
	return mix(mix(words[0] ^ routes->secret[0], words[1] ^ routes->secret[1]) ^
			   routes->secret[2],
		   routes->secret[3]);
}

static int match(struct cds_lfht_node *node, const void *key)
{
	return wire_id_equal(&caa_container_of(node, struct next_hop, node)->id, key);
}

int route_table_init(struct route_table *routes, const uint8_t secret[32])
{
	memcpy(routes->secret, secret, sizeof(routes->secret));
	for (int i = 0; i < 4; i++)
		routes->secret[i] |= 1; // a factor of zero would forget its input
	routes->table = cds_lfht_new(1024, 1024, 0, CDS_LFHT_AUTO_RESIZE, NULL);
	return routes->table ? 0 : -ENOMEM;
}

static void hop_free(struct rcu_head *head)
{
	free(caa_container_of(head, struct next_hop, rcu));
}

void route_table_fini(struct route_table *routes)
{
	struct cds_lfht_iter iter;
	struct next_hop *hop;

	cds_lfht_for_each_entry(routes->table, &iter, hop, node)
	{
		cds_lfht_del(routes->table, &hop->node);
		call_rcu(&hop->rcu, hop_free);
	}
	rcu_thread_offline();
	rcu_barrier();
	cds_lfht_destroy(routes->table, NULL);
	rcu_thread_online();
	routes->table = NULL;
}

const struct next_hop *route_find(const struct route_table *routes, const struct wire_id *id,
				  unsigned long hash)
{
	struct cds_lfht_iter iter;
	struct cds_lfht_node *node;

	cds_lfht_lookup(routes->table, hash, match, id, &iter);
	node = cds_lfht_iter_get_node(&iter);
	return node ? caa_container_of(node, struct next_hop, node) : NULL;
}

int route_set(struct route_table *routes, const struct wire_id *id, uint32_t slot)
{
	struct next_hop *hop = calloc(1, sizeof(*hop));
	struct cds_lfht_node *old;

	if (!hop)
		return -ENOMEM;
	hop->id = *id;
	hop->slot = slot;
	old = cds_lfht_add_replace(routes->table, route_hash(routes, id), match, &hop->id,
				   &hop->node);
	if (old)
		call_rcu(&caa_container_of(old, struct next_hop, node)->rcu, hop_free);
	return 0;
}

int route_remove(struct route_table *routes, const struct wire_id *id)
{
	struct cds_lfht_iter iter;
	struct cds_lfht_node *node;

	cds_lfht_lookup(routes->table, route_hash(routes, id), match, id, &iter);
	node = cds_lfht_iter_get_node(&iter);
	if (!node || cds_lfht_del(routes->table, node))
		return -ENOENT;
	call_rcu(&caa_container_of(node, struct next_hop, node)->rcu, hop_free);
	return 0;
}

unsigned long route_count(const struct route_table *routes)
{
	unsigned long count;
	long before, after;

	cds_lfht_count_nodes(routes->table, &before, &count, &after);
	return count;
}

void route_walk(const struct route_table *routes,
		int (*each)(void *arg, const struct next_hop *hop), void *arg)
{
	struct cds_lfht_iter iter;
	struct next_hop *hop;

	cds_lfht_for_each_entry(routes->table, &iter, hop, node)
	{
		if (each(arg, hop))
			break;
	}
}
