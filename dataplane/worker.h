/*
 * A worker: one poll-mode thread with a queue of the port, its lanes, and the rings to and from
 * the others. Everything is set up before it starts; what threads share is said beside each field.
 */
#ifndef VIADUCT_WORKER_H
#define VIADUCT_WORKER_H

#include <rte_mbuf.h>
#include <rte_ring.h>
#include <stdatomic.h>

#include "dataplane.h"
#include "filter.h"
#include "port.h"
#include "shed.h"

enum {
	WORKER_HANDOVERS = 2048, // records from one worker to another that may wait, as a port's
				 // ring holds; less one
	WORKER_COMMANDS = 256,
	WORKER_COMMAND_BURST = 8,
};

struct worker {
	/* read-only once it runs */
	unsigned int number;
	unsigned int count; // of all workers
	unsigned int lcore;
	int core;
	struct port_queue queue;
	uint16_t port; // UDP
	uint8_t mac[FRAME_MAC_SIZE];
	bool busy;
	int wake;                                          // eventfd: wakes this worker
	int events_wake;                                   // eventfd: tells the control thread
	struct worker *workers;                            // all of them
	struct rte_ring *handovers[DATAPLANE_WORKERS_MAX]; // from each of the others
	struct rte_ring *events;                           // to control
	struct rte_ring *commands;                         // from control

	/* other threads write */
	atomic_bool stop __attribute__((aligned(64)));
	atomic_bool sleeping; // worker sets; who clears it wakes it

	/* the worker's own */
	struct forward forward __attribute__((aligned(64)));
	struct filter filter;
	struct shed shed;        // received, not yet forwarded
	unsigned int left_turns; // so often has something been left in the port
	uint64_t now_ms;
	uint64_t tick;        // TSC at which now_ms is to be read anew
	uint64_t last_active; // TSC
	uint32_t woken;       // bits of the workers that got a handover in this turn
	struct forward_command batch[WORKER_COMMAND_BURST];

	/* worker writes, readers through the sequence lock */
	struct counters_published published;
};

/*
 * Makes the rings and all else of `workers[number]`, which is zeroed; `port` is started. Returns 0
 * or a negative errno; then worker_fini() cleans up.
 */
int worker_init(struct worker *workers, unsigned int number, const struct dataplane_config *config,
		const struct port *port, int events_wake);
void worker_fini(struct worker *worker);

/* Control thread. Returns 0 or a negative errno. */
int worker_start(struct worker *worker);

/* Control thread: returns when it has come to its end; not before the last has may any be freed. */
void worker_stop(struct worker *worker);

/* Any thread that has put something into one of the worker's rings. */
void worker_wake(struct worker *worker);

/* Any thread: milliseconds, or microseconds, on the workers' clock, which counts CPU cycles since
 * power-on. */
uint64_t worker_now_ms(void);
uint64_t worker_now_us(void);

#endif
