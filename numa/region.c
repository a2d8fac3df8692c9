#include "region.h"

#include <sanitizer/asan_interface.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "node.h"

enum { CHUNK = 64 }; // regions that a pool gets at once

struct region {
	struct region_pool *pool;
	struct region *next; // in one of the pool's lists
	uint32_t users;      // what was taken, wherever it is, and who opened it (atomic)
	uint32_t taken;      // bits of places (atomic)
} __attribute__((aligned(REGION_ALIGN)));

struct chunk {
	struct chunk *next;
} __attribute__((aligned(REGION_ALIGN)));

struct region_pool {
	int node;
	uint32_t count;                    // of a region's places
	uint32_t begin[REGION_PLACES + 1]; // of each in it, and the end of the last
	size_t stride;                     // from region to region
	uint32_t users;                    // regions, and who opened it (atomic)
	struct chunk *chunks;
	struct region *free;     // for the pool's thread
	struct region *returned; // by any thread (atomic)
};

static size_t whole_lines(size_t size)
{
	return (size + REGION_ALIGN - 1) / REGION_ALIGN * REGION_ALIGN;
}

static uint8_t *place(const struct region *region, unsigned int number)
{
	return (uint8_t *)region + region->pool->begin[number];
}

static size_t place_size(const struct region *region, unsigned int number)
{
	return region->pool->begin[number + 1] - region->pool->begin[number];
}

struct region_pool *region_pool_new(int node, const size_t *sizes, unsigned int n)
{
	struct region_pool *pool = node_alloc(node, REGION_ALIGN, sizeof(*pool));

	if (!pool)
		return NULL;
	pool->node = node;
	pool->count = n;
	pool->users = 1;
	pool->begin[0] = sizeof(struct region);
	for (unsigned int i = 0; i < n; i++)
		pool->begin[i + 1] = pool->begin[i] + (uint32_t)whole_lines(sizes[i]);
	pool->stride = pool->begin[n] | REGION_ALIGN;
	return pool;
}

static void leave_pool(struct region_pool *pool)
{
	if (__atomic_sub_fetch(&pool->users, 1, __ATOMIC_ACQ_REL))
		return;
	for (struct chunk *chunk = pool->chunks, *next; chunk; chunk = next) {
		next = chunk->next;
		node_free(chunk);
	}
	node_free(pool);
}

void region_pool_close(struct region_pool *pool)
{
	if (pool)
		leave_pool(pool);
}

static bool get_chunk(struct region_pool *pool)
{
	struct chunk *chunk =
		node_alloc(pool->node, REGION_ALIGN, sizeof(*chunk) + CHUNK * pool->stride);

	if (!chunk)
		return false;
	chunk->next = pool->chunks;
	pool->chunks = chunk;
	// the first one is first in the list
	for (unsigned int i = CHUNK; i-- > 0;) {
		struct region *region = (void *)((uint8_t *)(chunk + 1) + i * pool->stride);

		region->pool = pool;
		region->next = pool->free;
		pool->free = region;
		// a sanitizer sees who uses what isn't taken
		ASAN_POISON_MEMORY_REGION(place(region, 0), pool->stride - sizeof(*region));
	}
	return true;
}

struct region *region_new(struct region_pool *pool)
{
	struct region *region;

	if (!pool->free)
		pool->free = __atomic_exchange_n(&pool->returned, NULL, __ATOMIC_ACQUIRE);
	if (!pool->free && !get_chunk(pool))
		return NULL;
	region = pool->free;
	pool->free = region->next;
	region->users = 1;
	__atomic_fetch_add(&pool->users, 1, __ATOMIC_RELAXED);
	return region;
}

void *region_take(struct region *region, size_t size)
{
	uint32_t taken = __atomic_load_n(&region->taken, __ATOMIC_ACQUIRE);
	void *memory = NULL;

	size = whole_lines(size);
	for (unsigned int i = 0; i < region->pool->count && !memory; i++) {
		if ((taken & 1u << i) || place_size(region, i) != size)
			continue;
		__atomic_fetch_or(&region->taken, 1u << i, __ATOMIC_RELAXED);
		ASAN_UNPOISON_MEMORY_REGION(place(region, i), size);
		memory = memset(place(region, i), 0, size);
	}
	if (!memory)
		memory = node_alloc(region->pool->node, REGION_ALIGN, size);
	if (memory)
		__atomic_fetch_add(&region->users, 1, __ATOMIC_RELAXED);
	return memory;
}

static void leave(struct region *region)
{
	struct region_pool *pool = region->pool;

	if (__atomic_sub_fetch(&region->users, 1, __ATOMIC_ACQ_REL))
		return;
	region->next = __atomic_load_n(&pool->returned, __ATOMIC_RELAXED);
	while (!__atomic_compare_exchange_n(&pool->returned, &region->next, region, true,
					    __ATOMIC_RELEASE, __ATOMIC_RELAXED))
		;
	leave_pool(pool);
}

void region_give(struct region *region, void *memory)
{
	unsigned int i = 0;

	if (!memory)
		return;
	while (i < region->pool->count && memory != place(region, i))
		i++;
	if (i < region->pool->count) {
		ASAN_POISON_MEMORY_REGION(memory, place_size(region, i));
		__atomic_fetch_and(&region->taken, ~(1u << i), __ATOMIC_RELEASE);
	} else {
		node_free(memory);
	}
	leave(region);
}

void region_close(struct region *region)
{
	if (region)
		leave(region);
}
