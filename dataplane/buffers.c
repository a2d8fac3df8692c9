#include "buffers.h"

#include <rte_eal.h>
#include <rte_mbuf.h>
#include <rte_memzone.h>
#include <stdbool.h>
#include <unistd.h>

#include "node.h"

enum {
	FLAGS = RTE_MEMPOOL_F_NO_IOVA_CONTIG,
	HUGE_PAGE = 2 << 20,
};

static unsigned int element_size(unsigned int room)
{
	return (unsigned int)sizeof(struct rte_mbuf) + room;
}

size_t buffers_size(unsigned int room)
{
	return rte_mempool_calc_obj_size(element_size(room), FLAGS, NULL);
}

static void zone_free(struct rte_mempool_memhdr *chunk, void *zone)
{
	rte_memzone_free(zone);
}

static void memory_free(struct rte_mempool_memhdr *chunk, void *memory)
{
	node_free(memory);
}

static bool populate(struct rte_mempool *pool, void *memory, size_t size,
		     rte_mempool_memchunk_free_cb_t *end, void *end_of)
{
	// addresses are what devices see, too
	int n = rte_mempool_populate_iova(pool, memory, (rte_iova_t)(uintptr_t)memory, size, end,
					  end_of);

	if (n <= 0) // the pool doesn't know of it
		end(NULL, end_of);
	return n == (int)pool->size;
}

// DPDK's memory, of another node if the wanted one has no huge pages left.
static bool populate_from_zone(struct rte_mempool *pool, size_t size, int node)
{
	unsigned int page = (unsigned int)getpagesize();
	const struct rte_memzone *zone =
		rte_memzone_reserve_aligned(pool->name, size, node, 0, page);

	if (!zone)
		zone = rte_memzone_reserve_aligned(pool->name, size, SOCKET_ID_ANY, 0, page);
	return zone && populate(pool, zone->addr, size, zone_free, (void *)(uintptr_t)zone);
}

static bool populate_from_node(struct rte_mempool *pool, size_t size, int node)
{
	void *memory = node_alloc(node, HUGE_PAGE, size);

	return memory && populate(pool, memory, size, memory_free, memory);
}

struct rte_mempool *buffers_new(const char *name, unsigned int count, unsigned int cache,
				unsigned int room, int node)
{
	size_t size = count * buffers_size(room);
	struct rte_mempool *pool = rte_mempool_create_empty(name, count, element_size(room), cache,
							    sizeof(struct rte_pktmbuf_pool_private),
							    SOCKET_ID_ANY, FLAGS);
	bool populated;

	if (!pool)
		return NULL;
	// what was given back last is in the cache; where this library is missing, the first is
	// taken
	rte_mempool_set_ops_byname(pool, "stack", NULL);
	rte_pktmbuf_pool_init(pool, NULL);
	// devices on the PCI bus reach DPDK's memory only; that in ordinary pages is shared, which
	// transparent huge ones aren't for
	if (rte_eal_has_hugepages() || rte_eal_has_pci())
		populated = populate_from_zone(pool, size, node);
	else
		populated = populate_from_node(pool, size, node);
	if (!populated) {
		rte_mempool_free(pool);
		return NULL;
	}
	rte_mempool_obj_iter(pool, rte_pktmbuf_init, NULL);
	return pool;
}
