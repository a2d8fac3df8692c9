#include "node.h"

#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/mempolicy.h>

void node_bind(int node, void *pages, size_t size)
{
	uint64_t mask;

	if (node < 0 || node >= NODE_MAX)
		return;
	mask = UINT64_C(1) << node;
	syscall(SYS_mbind, pages, size, MPOL_PREFERRED, &mask, NODE_MAX + 1, 0);
}

#ifdef NUMA_JEMALLOC

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/mman.h>

#include <jemalloc/jemalloc.h>

/* Who takes memory from an arena. */
enum user {
	TABLES,  // node_alloc: what lives long
	THREADS, // node_prefer: malloc and its like
	USERS
};

struct arena {
	extent_hooks_t hooks; // first: jemalloc hands us this
	int node;
	enum user user;
	unsigned int index; // written once, under the lock, with release; 0: none yet
};

static struct arena arenas[NODE_MAX + 1][USERS]; // by node + 1
static extent_hooks_t *default_hooks;            // written once, before the first arena
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/*
 * Fresh pages for an arena; huge ones for tables, where the kernel has them. What threads take
 * comes and goes (TLS), and in huge pages what has been given back would be filled up again.
 */
static void *map_extent(extent_hooks_t *hooks, void *address, size_t size, size_t alignment,
			bool *zero, bool *commit, unsigned int index)
{
	const struct arena *arena = (const struct arena *)hooks;
	void *extent =
		default_hooks->alloc(default_hooks, address, size, alignment, zero, commit, index);

	if (!extent)
		return NULL;
	node_bind(arena->node, extent, size);
	if (arena->user == TABLES)
		madvise(extent, size, MADV_HUGEPAGE);
	return extent;
}

static int arena_new(struct arena *arena, int node, enum user user)
{
	extent_hooks_t *hooks = &arena->hooks;
	size_t size = sizeof(void *);
	unsigned int index;

	if (!default_hooks && mallctl("arena.0.extent_hooks", &default_hooks, &size, NULL, 0))
		return -1;
	arena->node = node;
	arena->user = user;
	arena->hooks = *default_hooks;
	arena->hooks.alloc = map_extent;
	size = sizeof(index);
	if (mallctl("arenas.create", &index, &size, &hooks, sizeof(void *)))
		return -1;
	__atomic_store_n(&arena->index, index, __ATOMIC_RELEASE);
	return 0;
}

/* The node's arena; NULL: it can't be made. */
static struct arena *arena_of(int node, enum user user)
{
	struct arena *arena;
	int status = 0;

	if (node < 0 || node >= NODE_MAX)
		node = NODE_ANY;
	arena = &arenas[node + 1][user];
	if (__atomic_load_n(&arena->index, __ATOMIC_ACQUIRE))
		return arena;
	pthread_mutex_lock(&lock);
	if (!arena->index)
		status = arena_new(arena, node, user);
	pthread_mutex_unlock(&lock);
	return status ? NULL : arena;
}

void *node_alloc(int node, size_t align, size_t size)
{
	struct arena *arena = arena_of(node, TABLES);

	if (!arena)
		return NULL;
	return mallocx(size, MALLOCX_ALIGN(align) | MALLOCX_ZERO | MALLOCX_TCACHE_NONE |
				     MALLOCX_ARENA(arena->index));
}

void node_free(void *memory)
{
	if (memory)
		dallocx(memory, MALLOCX_TCACHE_NONE);
}

int node_prefer(int node)
{
	struct arena *arena = arena_of(node, THREADS);

	if (!arena)
		return -ENOMEM;
	return -mallctl("thread.arena", NULL, NULL, &arena->index, sizeof(arena->index));
}

static size_t read_bytes(unsigned int index, const char *what)
{
	size_t value = 0, size = sizeof(value);
	char name[64];

	snprintf(name, sizeof(name), "stats.arenas.%u.%s.allocated", index, what);
	mallctl(name, &value, &size, NULL, 0);
	return value;
}

size_t node_bytes(int node)
{
	uint64_t epoch = 1;
	size_t sum = 0;

	mallctl("epoch", NULL, NULL, &epoch, sizeof(epoch));
	for (int user = 0; user < USERS; user++) {
		struct arena *arena = arena_of(node, user);

		if (arena)
			sum += read_bytes(arena->index, "small") +
			       read_bytes(arena->index, "large");
	}
	return sum;
}

#else

#include <stdlib.h>
#include <string.h>

void *node_alloc(int node, size_t align, size_t size)
{
	void *memory;

	if (posix_memalign(&memory, align < sizeof(void *) ? sizeof(void *) : align, size))
		return NULL;
	return memset(memory, 0, size);
}

void node_free(void *memory)
{
	free(memory);
}

int node_prefer(int node)
{
	return 0;
}

size_t node_bytes(int node)
{
	return 0;
}

#endif
