/*
 * For benchmarks: a network card in memory. A port of one queue, whose other end is the
 * generator's.
 *
 * Two rings of descriptors, as cards have them. What a card's driver does happens on the worker's
 * core: it takes buffers from their pool, describes them, and gives them back when they were sent;
 * the generator touches descriptors and frames only. So what goes from core to core is what goes
 * from a card to a core: frames, and fractions of a line of descriptors and indices. A card's
 * frames are in memory or the shared cache and not in the other core's, which costs a worker no
 * less, see docs/performance.md.
 */
#ifndef VIADUCT_PERF_NIC_H
#define VIADUCT_PERF_NIC_H

#include <rte_mbuf.h>
#include <stdint.h>

enum {
	NIC_RX_RING = 2048, // as dataplane/port.c has it
	// takes whatever can come of a full receive ring and a backlog, so that nothing is refused
	NIC_TX_RING = 8192,
};

/* The indices count descriptors ever. */
struct nic_ring {
	uint32_t posted __attribute__((aligned(64))); // given to the card; worker writes
	uint32_t done __attribute__((aligned(64)));   // given back; generator writes
	uint32_t reaped __attribute__((aligned(64))); // taken back; the worker's own
	uint32_t size;
	struct rte_mbuf **buffers; // the worker's own: of each descriptor
	uint8_t **frames;          // worker writes: where each is, or is to be
	uint16_t *lengths;         // written by who fills the frame
};

struct nic {
	struct nic_ring rx, tx;
	struct rte_mempool *pool;
	void *queue; // the device's only one
};

/* Makes the started `device` such a card, and gives it buffers. Returns 0 or -ENOMEM. */
int nic_attach(struct nic *nic, uint16_t device, struct rte_mempool *pool);

/* The descriptor of this number. */
static inline uint32_t nic_place(const struct nic_ring *ring, uint32_t number)
{
	return number & (ring->size - 1);
}

/* Generator: how many descriptors are there, from `ring->done` on. */
static inline uint32_t nic_ready(const struct nic_ring *ring)
{
	return __atomic_load_n(&ring->posted, __ATOMIC_ACQUIRE) - ring->done;
}

/* Generator: it is done with `n` more: they are filled, or sent. */
static inline void nic_done(struct nic_ring *ring, uint32_t n)
{
	__atomic_store_n(&ring->done, ring->done + n, __ATOMIC_RELEASE);
}

#endif
