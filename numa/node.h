/*
 * Memory that belongs to a NUMA node: jemalloc arenas whose pages are bound to the node before
 * anyone touches them. Any thread may call these; workers don't allocate.
 *
 * In a build with a sanitizer all of it comes from the sanitizer's own allocator instead, so that
 * it sees every mistake.
 */
#ifndef VIADUCT_NODE_H
#define VIADUCT_NODE_H

#include <stddef.h>

enum {
	NODE_ANY = -1,
	NODE_MAX = 64, // nodes from here on are as good as any
};

/*
 * For what lives long and workers read (tables, sessions, keys): its pages may be huge. `size` > 0
 * bytes, zeroed, aligned to `align`, a power of 2; prefers the node's memory, and takes
 * other when that is full. NULL if there is none at all. Freed by node_free.
 */
void *node_alloc(int node, size_t align, size_t size);

/* Frees what node_alloc gave; NULL is allowed. */
void node_free(void *memory);

/*
 * Asks that whole pages that nobody has touched yet come from the node, if it has any left. Without
 * effect (one node, a container's seccomp) memory is where the kernel puts it, and works as well.
 */
void node_bind(int node, void *pages, size_t size);

/*
 * From here on what the calling thread gets from malloc and its like is the node's too, in ordinary
 * pages. Nothing happens in a build with a sanitizer. Returns 0 or a negative errno, and then
 * nothing has changed.
 */
int node_prefer(int node);

/* Bytes allocated of a node now; always 0 in a build with a sanitizer. */
size_t node_bytes(int node);

#endif
