#include "session.h"

#include "node.h"

struct session_table *session_table_new(int node, uint32_t slots, uint32_t groups)
{
	struct session_table *table;
	size_t size = sizeof(*table) + (slots + groups) * sizeof(table->slot[0]);

	table = node_alloc(node, 64, size);
	if (!table)
		return NULL;
	table->node = node;
	table->slots = slots;
	table->groups = groups;
	return table;
}

void session_table_free(struct session_table *table)
{
	node_free(table);
}

static size_t state_size(uint8_t up, uint8_t down)
{
	return down * sizeof(struct session_tx) + sizeof(struct session_state) +
	       up * sizeof(struct session_rx);
}

struct region_pool *session_pool_new(int node, uint8_t up, uint8_t down, size_t publication,
				     size_t key)
{
	const size_t sizes[] = {state_size(up, down), publication, key, key, publication, key, key};

	return region_pool_new(node, sizes, sizeof(sizes) / sizeof(sizes[0]));
}

struct session_state *session_state_new(struct region *region, uint8_t up, uint8_t down)
{
	struct session_tx *memory = region_take(region, state_size(up, down));
	struct session_state *state;
	struct session_rx *rx;
	struct session_tx *tx;

	if (!memory)
		return NULL;
	state = (struct session_state *)(memory + down);
	state->lanes_up = up;
	state->lanes_down = down;
	rx = (struct session_rx *)(state + 1);
	for (int i = 0; i < up; i++)
		rx[i].owner = SESSION_NO_OWNER;
	tx = (struct session_tx *)state - 1;
	for (int i = 0; i < down; i++)
		tx[-i].next = wire_counter((uint8_t)i, 0);
	return state;
}

void session_state_give(struct region *region, struct session_state *state)
{
	if (state)
		region_give(region, (struct session_tx *)state - state->lanes_down);
}

const struct session *session_find_other(const struct session_table *table, uint32_t index,
					 bool *stale)
{
	const struct session_slot *slot;
	const struct session *session;

	*stale = false;
	if (wire_slot(index) >= table->slots)
		return NULL;
	slot = &table->slot[wire_slot(index)];
	*stale = rcu_dereference(slot->current) != NULL;
	session = rcu_dereference(slot->next);
	if (session && session->index == index)
		return session;
	*stale |= session != NULL || rcu_dereference(slot->last) != NULL;
	// what just moved from `next` to `current`, which is written first, was seen in neither
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	session = rcu_dereference(slot->current);
	return session && session->index == index ? session : NULL;
}
