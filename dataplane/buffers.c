#include "buffers.h"

#include <rte_eal.h>
#include <rte_mbuf.h>
#include <rte_memzone.h>
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

// DPDK's memory, of another node if the wanted one has no huge pages left.
static void *zone_reserve(const char *name, size_t size, int node)
{
	unsigned int page = (unsigned int)getpagesize();
	const struct rte_memzone *zone = rte_memzone_reserve_aligned(name, size, node, 0, page);

	if (!zone)
		zone = rte_memzone_reserve_aligned(name, size, SOCKET_ID_ANY, 0, page);
	return zone ? zone->addr : NULL;
}

struct rte_mempool *buffers_new(const char *name, unsigned int count, unsigned int cache,
				unsigned int room, int node)
{
	size_t size = count * buffers_size(room);
	struct rte_mempool *pool = rte_mempool_create_empty(name, count, element_size(room), cache,
							    sizeof(struct rte_pktmbuf_pool_private),
							    SOCKET_ID_ANY, FLAGS);
	void *memory;

	if (!pool)
		return NULL;
	// devices on the PCI bus reach DPDK's memory only; that in ordinary pages is shared, which
	// transparent huge ones aren't for
	if (rte_eal_has_hugepages() || rte_eal_has_pci())
		memory = zone_reserve(name, size, node);
	else
		memory = node_alloc(node, HUGE_PAGE, size);
	if (!memory)
		return NULL;
	// what was given back last is in the cache; where this library is missing, the first is
	// taken
	rte_mempool_set_ops_byname(pool, "stack", NULL);
	rte_pktmbuf_pool_init(pool, NULL);
	// addresses are what devices see, too
	if (rte_mempool_populate_iova(pool, memory, (rte_iova_t)(uintptr_t)memory, size, NULL,
				      NULL) != (int)count)
		return NULL;
	rte_mempool_obj_iter(pool, rte_pktmbuf_init, NULL);
	return pool;
}
