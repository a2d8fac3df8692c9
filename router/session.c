#include "session.h"

#include <stdlib.h>

struct session_table *session_table_new(uint32_t slots, uint32_t groups)
{
	struct session_table *table;
	size_t size = sizeof(*table) + (slots + groups) * sizeof(table->slot[0]);

	table = aligned_alloc(64, size);
	if (!table)
		return NULL;
	memset(table, 0, size);
	table->slots = slots;
	table->groups = groups;
	return table;
}

void session_table_free(struct session_table *table)
{
	free(table);
}

struct session_state *session_state_new(uint8_t up, uint8_t down)
{
	size_t size = sizeof(struct session_state) + up * sizeof(struct session_rx) +
		      down * sizeof(struct session_tx);
	struct session_state *state;
	struct session_rx *rx;

	state = aligned_alloc(64, size);
	if (!state)
		return NULL;
	memset(state, 0, size);
	state->lanes_up = up;
	state->lanes_down = down;
	rx = (struct session_rx *)((struct session_tx *)(state + 1) + down);
	for (int i = 0; i < up; i++)
		rx[i].owner = SESSION_NO_OWNER;
	return state;
}

void session_state_free(struct session_state *state)
{
	free(state);
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
