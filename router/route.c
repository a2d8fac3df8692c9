#include "route.h"

#include <errno.h>

#include "node.h"

#define TOMBSTONE UINT64_C(1)

static struct route_words *words_new(int node, uint32_t routes)
{
	struct route_words *words;
	uint32_t count = 16 * ROUTE_BUCKET;
	size_t size;

	while (count / 2 < routes)
		count *= 2;
	size = sizeof(*words) + count * sizeof(words->word[0]);
	words = node_alloc(node, 64, size);
	if (!words)
		return NULL;
	words->mask = count - 1;
	return words;
}

static void words_free(struct rcu_head *head)
{
	node_free(caa_container_of(head, struct route_words, rcu));
}

int route_table_init(struct route_table *routes, struct session_table *sessions, uint32_t expect,
		     const uint8_t secret[32])
{
	memset(routes, 0, sizeof(*routes));
	memcpy(routes->secret, secret, sizeof(routes->secret));
	routes->secret[3] |= 1; // a factor of zero would forget its input
	routes->sessions = sessions;
	routes->words = words_new(sessions->node, expect);
	return routes->words ? 0 : -ENOMEM;
}

void route_table_fini(struct route_table *routes)
{
	node_free(routes->words);
	routes->words = NULL;
}

/* Where the word of `id` is, and what it was; NULL: nowhere. */
static uint64_t *find_word(const struct route_table *routes, const struct wire_id *id,
			   uint64_t hash, uint64_t *word)
{
	struct route_words *words = rcu_dereference(routes->words);
	uint64_t tag = route_tag(hash);

	for (uint32_t at = hash & words->mask;; at = (at + ROUTE_BUCKET) & words->mask) {
		bool full = true;

		for (unsigned int i = 0; i < ROUTE_BUCKET; i++) {
			uint64_t *place = &words->word[route_place(at, i)];

			*word = __atomic_load_n(place, __ATOMIC_ACQUIRE);
			if (*word >> WIRE_SLOT_BITS == tag &&
			    wire_id_equal(&routes->sessions->slot[*word & (WIRE_SLOTS - 1)].id, id))
				return place;
			full &= *word != 0;
		}
		if (!full)
			return NULL;
	}
}

const struct session_slot *route_find(const struct route_table *routes, const struct wire_id *id,
				      uint64_t hash)
{
	uint64_t word;

	if (!find_word(routes, id, hash, &word))
		return NULL;
	return &routes->sessions->slot[word & (WIRE_SLOTS - 1)];
}

/* Puts a word of a key that isn't there into the first place that is free; true: a tombstone's. */
static bool put(struct route_words *words, uint64_t hash, uint32_t slot)
{
	for (uint32_t at = hash & words->mask;; at = (at + ROUTE_BUCKET) & words->mask) {
		for (unsigned int i = 0; i < ROUTE_BUCKET; i++) {
			uint64_t *place = &words->word[route_place(at, i)], word = *place;

			if (word > TOMBSTONE)
				continue;
			__atomic_store_n(place, route_tag(hash) << WIRE_SLOT_BITS | slot,
					 __ATOMIC_RELEASE);
			return word == TOMBSTONE;
		}
	}
}

/* Makes room for one more. */
static int grow(struct route_table *routes)
{
	struct route_words *old = routes->words, *words;
	uint32_t most = (old->mask + 1) / 2;

	if (routes->count + routes->tombstones < most)
		return 0;
	// mostly tombstones: the same size again will do
	words = words_new(routes->sessions->node, routes->count < most / 2 ? most : 2 * most);
	if (!words)
		return -ENOMEM;
	for (uint32_t at = 0; at <= old->mask; at++) {
		uint64_t word = old->word[at];
		uint32_t slot = word & (WIRE_SLOTS - 1);

		if (word > TOMBSTONE)
			put(words, route_hash(routes, &routes->sessions->slot[slot].id), slot);
	}
	routes->tombstones = 0;
	rcu_assign_pointer(routes->words, words);
	call_rcu(&old->rcu, words_free);
	return 0;
}

int route_set(struct route_table *routes, const struct wire_id *id, uint32_t slot)
{
	uint64_t hash = route_hash(routes, id);
	uint64_t word, *at = find_word(routes, id, hash, &word);

	// a worker may be comparing it, unless it is new there
	if (!wire_id_equal(&routes->sessions->slot[slot].id, id))
		routes->sessions->slot[slot].id = *id;
	if (at) {
		__atomic_store_n(at, route_tag(hash) << WIRE_SLOT_BITS | slot, __ATOMIC_RELEASE);
		return 0;
	}
	if (grow(routes))
		return -ENOMEM;
	if (put(routes->words, hash, slot))
		routes->tombstones--;
	routes->count++;
	return 0;
}

int route_remove(struct route_table *routes, const struct wire_id *id)
{
	uint64_t word, *at = find_word(routes, id, route_hash(routes, id), &word);
	const struct route_words *words = routes->words;
	bool full = true;

	if (!at)
		return -ENOENT;
	for (unsigned int i = 0; i < ROUTE_BUCKET; i++)
		full &= words->word[route_place((uint32_t)(at - words->word), i)] != 0;
	__atomic_store_n(at, full ? TOMBSTONE : 0, __ATOMIC_RELEASE);
	routes->tombstones += full;
	routes->count--;
	return 0;
}

void route_walk(const struct route_table *routes,
		int (*each)(void *arg, const struct wire_id *id, uint32_t slot), void *arg)
{
	const struct route_words *words = routes->words;

	for (uint32_t at = 0; at <= words->mask; at++) {
		uint64_t word = words->word[at];
		uint32_t slot = word & (WIRE_SLOTS - 1);

		if (word > TOMBSTONE && each(arg, &routes->sessions->slot[slot].id, slot))
			return;
	}
}
