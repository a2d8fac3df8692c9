/*
 * Pools of packet buffers.
 */
#ifndef VIADUCT_BUFFERS_H
#define VIADUCT_BUFFERS_H

#include <rte_mempool.h>

/* What each takes up, with `room` bytes for data, headroom included. */
size_t buffers_size(unsigned int room);

/*
 * Makes a pool of `count` of them, of which each thread keeps up to `cache`, on the node if it has
 * memory left: in one piece, since a pool becomes the memory of an AF_XDP socket, and in huge
 * pages, of DPDK's if it has some, or else transparent ones, where the kernel has them: a worker
 * goes through more buffers than a processor has translations of ordinary pages for. Control
 * thread. NULL: there is no memory. Freed by rte_mempool_free(), when no device uses it any more.
 */
struct rte_mempool *buffers_new(const char *name, unsigned int count, unsigned int cache,
				unsigned int room, int node);

#endif
