/*
 * Memory side by side for what is used together but doesn't live equally long, so that a core needs
 * one translation of an address for it and not several. A region has places of given sizes; what
 * has gone leaves its place to what comes after it.
 *
 * Regions alike come from a pool, an odd number of cache lines apart: so the same places of all of
 * them are spread over all sets of a cache. A pool keeps what it has got for its next regions.
 */
#ifndef VIADUCT_REGION_H
#define VIADUCT_REGION_H

#include <stddef.h>

enum {
	REGION_PLACES = 8,
	REGION_ALIGN = 64, // bytes
};

struct region;
struct region_pool;

/*
 * A pool of regions of a NUMA node (see node_alloc()), each with `n` places, up to REGION_PLACES,
 * of these sizes: bytes, in this order, each in whole cache lines. NULL: no memory. Belongs to one
 * thread, as its regions do.
 */
struct region_pool *region_pool_new(int node, const size_t *sizes, unsigned int n);

/* There will be no more regions of it. It is freed when all of them are; NULL is allowed. */
void region_pool_close(struct region_pool *pool);

/* A region with all places free; NULL: no memory. Ended by region_close(). */
struct region *region_new(struct region_pool *pool);

/*
 * The first free place of this size; if there is none, memory elsewhere on the same node. Zeroed,
 * aligned to REGION_ALIGN; NULL: no memory. Given back by region_give().
 */
void *region_take(struct region *region, size_t size);

/* Any thread: gives back what was taken from this region; NULL is allowed. */
void region_give(struct region *region, void *memory);

/*
 * Takes no more. The region goes back to its pool when all has been given back; NULL is allowed.
 */
void region_close(struct region *region);

#endif
