/*
 * For benchmarks: the real workers between in-memory ports (rings of mbufs), sessions with keys of
 * their own, and frames as their peers would send them. One generator thread, which is EAL's main
 * thread and stands for the control thread as well. Whatever fails ends the program.
 */
#ifndef VIADUCT_PERF_MEMORY_H
#define VIADUCT_PERF_MEMORY_H

#include "ciphers.h"
#include "frame.h"
#include "nic.h"
#include "worker.h"

enum {
	MEMORY_PORT = 7740,
	MEMORY_MTU = 1500, // eight messages of 128 bytes need more than 1,280
	MEMORY_HEADER = 14 + 20 + 8,
	MEMORY_RX_RING = 1024,
	// holds whatever can come of a full receive ring, so that nothing is refused
	MEMORY_TX_RING = 32768,
};

/* A session, as it is published. */
struct memory_session {
	struct session session;
	struct rcu_head rcu;
	struct region *region; // that all of it is from
};

struct memory_config {
	const char *name; // of the program
	const struct aead_ops *aead;
	const char *aead_device; // for cryptodev
	unsigned int workers;
	uint32_t sessions;
	uint32_t slots;   // at least as many; those behind stand for the same sessions in turn
	uint32_t groups;  // slots behind those, for services and topics
	uint32_t buffers; // 0: as many as there may be
	struct nic *nic;  // one a worker, zeroed: what its port is, instead of rings
};

struct memory {
	const struct aead_ops *aead;
	void *aead_worker; // the generator's
	struct dataplane_config config;
	struct region_pool *regions;
	struct session_table *sessions;  // a session's slot is its number
	struct route_table routes;       // to all slots, by slot[].id
	const struct aead_key **up_keys; // of each session
	uint64_t *sequences;             // next ones of their lane 0
	struct port port;
	struct rte_mempool *pool;
	struct rte_ring *rx[DATAPLANE_WORKERS_MAX]; // to each worker
	struct rte_ring *tx[DATAPLANE_WORKERS_MAX]; // from each worker
	struct worker *workers;
};

void memory_fail(const char *what) __attribute__((noreturn));

/* Zeroed. */
void *memory_reserve(size_t n, size_t size);

uint64_t memory_random(void);

/* Starts EAL, registers this thread as a reader, and makes everything. */
void memory_init(struct memory *memory, const struct memory_config *config);

/* Starts and stops all workers, each on its core; they may be started again. */
void memory_start(struct memory *memory);
void memory_stop(struct memory *memory);

/* Waits for what was launched on a worker's core. */
void memory_wait(unsigned int worker);

/* Writes the frame's header in front of a record from a peer's address. */
void memory_put_frame(uint8_t *frame, uint32_t peer);

/* The median of `n` values, which it sorts. */
double memory_median(double *values, int n);

#endif
