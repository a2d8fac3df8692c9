/*
 * The route table: peer id to next hop, that is to a slot of the session table.
 *
 * Open addressing in buckets of one cache line: 8 words of 8 bytes, each a 44-bit tag of the key's
 * hash and a 20-bit slot. The key itself stands in the slot, in the same cache line as the pointer
 * to the session, which has to be fetched in any case: so a look-up costs two cache lines, both
 * known early enough to be prefetched for a whole burst. Words are written and read atomically;
 * what is emptied in a full bucket becomes a tombstone, since a full bucket means "go on in the
 * next". A key's hash says in which word of which bucket its search begins. The table is at most
 * half full; when it is fuller it is copied and replaced. docs/performance.md compares it with
 * liburcu's and DPDK's.
 *
 * Ids are hashed with a secret, so that nobody can choose ids that collide.
 */
#ifndef VIADUCT_ROUTE_H
#define VIADUCT_ROUTE_H

#include <urcu-qsbr.h>

#include "session.h"
#include "wire.h"

enum {
	ROUTE_BUCKET = 8,
	ROUTE_NONE = WIRE_SLOTS, // no slot
};

struct route_words {
	struct rcu_head rcu;
	uint32_t mask; // their number - 1
	uint64_t word[] __attribute__((aligned(64)));
};

struct route_table {
	struct session_table *sessions;
	struct route_words *words; // control writes, workers read (RCU)
	uint64_t secret[4];
	uint32_t count;      // control
	uint32_t tombstones; // control
};

/*
 * Control thread. An empty table for the slots of `sessions`, which must outlive it, sized so that
 * `expect` routes fit without copying. `secret`: 32 random bytes. Returns 0 or -ENOMEM.
 */
int route_table_init(struct route_table *routes, struct session_table *sessions, uint32_t expect,
		     const uint8_t secret[32]);

/* Control thread, when no worker looks any more. */
void route_table_fini(struct route_table *routes);

/*
 * Control thread. Routes `id` to `slot`, whose id it sets; a slot that a worker may still know
 * under another id must not be given. A route that is there is replaced. Returns 0 or -ENOMEM.
 */
int route_set(struct route_table *routes, const struct wire_id *id, uint32_t slot);

/* Control thread. Returns 0 or -ENOENT. */
int route_remove(struct route_table *routes, const struct wire_id *id);

/* Control thread: calls `each` for every route until it returns non-zero. */
void route_walk(const struct route_table *routes,
		int (*each)(void *arg, const struct wire_id *id, uint32_t slot), void *arg);

/* Control thread: how many there are. */
static inline uint32_t route_count(const struct route_table *routes)
{
	return routes->count;
}

static inline uint64_t route_mix(uint64_t a, uint64_t b)
{
	__extension__ unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t route_hash(const struct route_table *routes, const struct wire_id *id)
{
	uint64_t words[2];

	memcpy(words, id, sizeof(words));
	return route_mix(route_mix(words[0] ^ routes->secret[0], words[1] ^ routes->secret[1]) ^
				 routes->secret[2],
			 routes->secret[3]);
}

static inline uint64_t route_tag(uint64_t hash)
{
	// never 0, which is what empty words and tombstones have
	return hash >> WIRE_SLOT_BITS | UINT64_C(1) << 43;
}

/* Where the word is that is the `i`th to be looked at in the bucket of the one at `at`. */
static inline uint32_t route_place(uint32_t at, unsigned int i)
{
	return (at & ~(uint32_t)(ROUTE_BUCKET - 1)) | ((at + i) % ROUTE_BUCKET);
}

/*
 * The look-up in stages, for bursts; any registered thread, in one read-side section. First fetch
 * the words' cache line,
 */
static inline void route_prefetch(const struct route_table *routes, uint64_t hash)
{
	const struct route_words *words = rcu_dereference(routes->words);

	__builtin_prefetch(&words->word[hash & words->mask]);
}

/* The slot in a word that has the tag of `hash`; with any other tag it is none. */
static inline uint64_t route_slot(uint64_t word, uint64_t hash)
{
	return word ^ route_tag(hash) << WIRE_SLOT_BITS;
}

/* The slot of the first word with the tag of `hash`, or ROUTE_NONE. */
static inline uint64_t route_guess_on(const struct route_words *words, uint64_t hash)
{
	for (uint32_t at = hash & words->mask;; at = (at + ROUTE_BUCKET) & words->mask) {
		bool full = true;

		for (unsigned int i = 0; i < ROUTE_BUCKET; i++) {
			uint64_t word =
				__atomic_load_n(&words->word[route_place(at, i)], __ATOMIC_ACQUIRE);

			if (route_slot(word, hash) < WIRE_SLOTS)
				return route_slot(word, hash);
			full &= word != 0;
		}
		if (!full)
			return ROUTE_NONE;
	}
}

/* then find a slot that may be it (NULL: there is no route) and fetch that, */
static inline const struct session_slot *route_guess(const struct route_table *routes,
						     uint64_t hash)
{
	const struct route_words *words = rcu_dereference(routes->words);
	uint64_t word = __atomic_load_n(&words->word[hash & words->mask], __ATOMIC_ACQUIRE);
	uint64_t slot = route_slot(word, hash);

	if (slot >= WIRE_SLOTS)
		slot = route_guess_on(words, hash);
	if (slot == ROUTE_NONE)
		return NULL;
	__builtin_prefetch(&routes->sessions->slot[slot]);
	return &routes->sessions->slot[slot];
}

/* The whole look-up at once. NULL: no route. */
const struct session_slot *route_find(const struct route_table *routes, const struct wire_id *id,
				      uint64_t hash);

/* and at last confirm the guess. NULL: no route. */
static inline const struct session_slot *route_confirm(const struct route_table *routes,
						       const struct wire_id *id, uint64_t hash,
						       const struct session_slot *guess)
{
	if (!guess || wire_id_equal(&guess->id, id))
		return guess;
	return route_find(routes, id, hash);
}

#endif
