/*
 * Sources of whose packets a worker drops all that its port lets in: where there is no XDP program
 * that would have done so. A worker's own table, so that counting needs no atomic operation. Here
 * and not in dataplane/, like suspects.h, since all it needs to know of a packet is where it came
 * from.
 *
 * Sets as in a processor's cache: which one it is follows from a hash with a secret, so that nobody
 * can fill another's. A set is one line of 8 words, a source each: of an IPv6 /64 that half of the
 * address, of an IPv4 address the other half of ::ffff:a.b.c.d, whose first is zero. A word is
 * written and read at once, so who looks needs no lock. A full set takes no more: with FILTER_MAX
 * sources one of 6,800 finds its own full, with half as many one of 800,000 (Poisson). Most sets
 * are empty, which is all that nearly every packet needs to know: how many sources each has stands
 * in 2 KB of their own.
 *
 * Words are the same for ::ffff:a.b.c.d and for 0:ffff:a.b.c.d::/64. Nobody is there, as 0::/8 is
 * reserved (RFC 4291), but anybody can say so, and would have a member's IPv4 address blocked. So
 * that network never is, nor is ::/64. Packets that say so may be dropped with the source that has
 * the same word.
 */
#ifndef VIADUCT_FILTER_H
#define VIADUCT_FILTER_H

#include "route.h"

enum {
	FILTER_MAX = 4096,  // sources
	FILTER_SETS = 2048, // a power of two
	FILTER_WAYS = 8,
	FILTER_PLACES = FILTER_SETS * FILTER_WAYS,
};

struct filter {
	uint64_t secret[2];
	/* control writes, worker reads (relaxed) */
	uint32_t count;                                            // of sources
	uint8_t used[FILTER_SETS];                                 // places of each set
	uint64_t word[FILTER_PLACES] __attribute__((aligned(64))); // 0: none
	/* packets of who is in a place or was before; worker writes, control reads (relaxed) */
	uint64_t dropped[FILTER_PLACES] __attribute__((aligned(64)));
	/* those of who was before; control's own */
	uint64_t before[FILTER_PLACES];
};

/*
 * `filter` is zeroed; `secret`: two random words. Filters that have the same one and were told the
 * same give the same answers.
 */
void filter_init(struct filter *filter, const uint64_t secret[2]);

/*
 * Control thread. Blocks a source, see suspects_source(). Returns 0, -EEXIST, -ENOSPC, or -EINVAL
 * for one that nobody has.
 */
int filter_block(struct filter *filter, const uint64_t source[2]);

/* Control thread. Returns 0 or -ENOENT. */
int filter_unblock(struct filter *filter, const uint64_t source[2]);

/* Control thread: how many packets of a source that is blocked were dropped. */
uint64_t filter_dropped(const struct filter *filter, const uint64_t source[2]);

static inline uint32_t filter_set(const struct filter *filter, uint64_t word)
{
	// twice, as one product leaves neighbouring addresses in a line
	uint64_t hash = route_mix(word ^ filter->secret[0], filter->secret[1]);

	return route_mix(hash, filter->secret[1]) % FILTER_SETS;
}

/* Worker: whether any source is blocked. */
static inline bool filter_any(const struct filter *filter)
{
	return __atomic_load_n(&filter->count, __ATOMIC_RELAXED) != 0;
}

/* Worker: whether a packet is to be dropped, which is counted then. */
static inline bool filter_drops(struct filter *filter, const struct endpoint *from)
{
	uint64_t word = endpoint_word(from, 0) ?: endpoint_word(from, 1);
	uint32_t set = filter_set(filter, word);

	if (!__atomic_load_n(&filter->used[set], __ATOMIC_RELAXED))
		return false;
	for (uint32_t at = set * FILTER_WAYS; at < (set + 1) * FILTER_WAYS; at++) {
		if (__atomic_load_n(&filter->word[at], __ATOMIC_RELAXED) == word) {
			__atomic_store_n(&filter->dropped[at], filter->dropped[at] + 1,
					 __ATOMIC_RELAXED);
			return true;
		}
	}
	return false;
}

#endif
