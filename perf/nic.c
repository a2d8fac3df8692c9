#include "nic.h"

#include <errno.h>
#include <rte_ethdev.h>
#include <stdlib.h>

enum {
	REFILL = 32, // descriptors at a time, as drivers do
	AHEAD = 8,   // buffers, of which the descriptions are fetched
};

/* Fetches the descriptors that are written next, which the generator has read. */
static void fetch_next(const struct nic_ring *ring)
{
	for (unsigned int i = 0; i < REFILL; i += RTE_CACHE_LINE_SIZE / sizeof(void *))
		__builtin_prefetch(&ring->frames[nic_place(ring, ring->posted + i)], 1);
}

static void refill(struct nic *nic)
{
	struct nic_ring *ring = &nic->rx;

	while (ring->size - (ring->posted - ring->reaped) >= REFILL) {
		unsigned int first = nic_place(ring, ring->posted);

		if (rte_mempool_get_bulk(nic->pool, (void **)&ring->buffers[first], REFILL))
			return;
		for (unsigned int i = first; i < first + REFILL; i++)
			ring->frames[i] =
				(uint8_t *)ring->buffers[i]->buf_addr + RTE_PKTMBUF_HEADROOM;
		__atomic_store_n(&ring->posted, ring->posted + REFILL, __ATOMIC_RELEASE);
		fetch_next(ring);
	}
}

static uint16_t receive(void *queue, struct rte_mbuf **buffers, uint16_t n)
{
	struct nic *nic = queue;
	struct nic_ring *ring = &nic->rx;
	uint32_t ready;

	rte_prefetch0(&ring->lengths[nic_place(ring, ring->reaped)]);
	ready = __atomic_load_n(&ring->done, __ATOMIC_ACQUIRE) - ring->reaped;
	if (n > ready)
		n = (uint16_t)ready;
	for (uint16_t i = 0; i < n; i++) {
		unsigned int at = nic_place(ring, ring->reaped + i);
		struct rte_mbuf *buffer = ring->buffers[at];

		rte_prefetch0(ring->buffers[nic_place(ring, ring->reaped + i + AHEAD)]);
		buffer->data_off = RTE_PKTMBUF_HEADROOM;
		buffer->data_len = ring->lengths[at];
		buffer->pkt_len = buffer->data_len;
		buffers[i] = buffer;
	}
	ring->reaped += n;
	refill(nic);
	return n;
}

static uint16_t transmit(void *queue, struct rte_mbuf **buffers, uint16_t n)
{
	struct nic *nic = queue;
	struct nic_ring *ring = &nic->tx;
	uint32_t done = __atomic_load_n(&ring->done, __ATOMIC_ACQUIRE) - ring->reaped;
	uint32_t room;

	// all have one segment, one owner and one pool
	while (done >= REFILL) {
		rte_mempool_put_bulk(
			nic->pool, (void **)&ring->buffers[nic_place(ring, ring->reaped)], REFILL);
		ring->reaped += REFILL;
		done -= REFILL;
	}
	room = ring->size - (ring->posted - ring->reaped);
	if (n > room)
		n = (uint16_t)room;
	for (uint16_t i = 0; i < n; i++) {
		unsigned int at = nic_place(ring, ring->posted + i);

		ring->buffers[at] = buffers[i];
		ring->frames[at] = rte_pktmbuf_mtod(buffers[i], uint8_t *);
		ring->lengths[at] = buffers[i]->data_len;
	}
	__atomic_store_n(&ring->posted, ring->posted + n, __ATOMIC_RELEASE);
	fetch_next(ring);
	__builtin_prefetch(&ring->lengths[nic_place(ring, ring->posted + REFILL)], 1);
	return n;
}

static int make_ring(struct nic_ring *ring, uint32_t size)
{
	ring->size = size;
	ring->buffers = calloc(size, sizeof(*ring->buffers));
	ring->frames = aligned_alloc(64, size * sizeof(*ring->frames));
	ring->lengths = aligned_alloc(64, size * sizeof(*ring->lengths));
	return ring->buffers && ring->frames && ring->lengths ? 0 : -ENOMEM;
}

int nic_attach(struct nic *nic, uint16_t device, struct rte_mempool *pool)
{
	struct rte_eth_fp_ops *ops = &rte_eth_fp_ops[device];

	if (make_ring(&nic->rx, NIC_RX_RING) || make_ring(&nic->tx, NIC_TX_RING))
		return -ENOMEM;
	nic->pool = pool;
	nic->queue = nic;
	refill(nic);
	// DPDK has no public way to make a driver; these are what its inline functions call
	ops->rxq.data = ops->txq.data = &nic->queue;
	ops->rx_pkt_burst = receive;
	ops->tx_pkt_burst = transmit;
	return 0;
}
