/*
 * The dataplane as the control thread sees it: EAL, port, workers, and the ways to and from them.
 * All functions are for the control thread.
 */
#ifndef VIADUCT_DATAPLANE_H
#define VIADUCT_DATAPLANE_H

#include "aead.h"
#include "counters.h"
#include "forward.h"
#include "route.h"
#include "session.h"

enum {
	DATAPLANE_WORKERS_MAX = WIRE_LANES_MAX,
	DATAPLANE_ERROR_MAX = 256,
	DATAPLANE_BLOCKED_MAX = 4096,
};

enum dataplane_driver {
	DATAPLANE_AUTO, // the first that works of the following
	DATAPLANE_AF_XDP,
	DATAPLANE_AF_PACKET,
};

struct dataplane_config {
	const char *interface;
	enum dataplane_driver driver;
	uint16_t port;                    // UDP, host byte order
	unsigned int workers;             // 1 to DATAPLANE_WORKERS_MAX
	int cores[DATAPLANE_WORKERS_MAX]; // CPU of each worker
	int nodes[DATAPLANE_WORKERS_MAX]; // NUMA node of each, where its memory is; -1: any
	int control_core;                 // CPU of the control thread
	bool busy;                        // never sleep
	uint16_t mtu;                     // largest IP packet of a record
	const struct session_table *sessions;
	const struct route_table *routes;
	struct service_requests *requests; // to services, under way
	const struct aead_ops *aead;
	const char *aead_device; // for cryptodev: PCI address, or name of a vdev; else unused
};

struct dataplane_worker {
	int core;
	unsigned int queue;
	bool sleeping;
	struct counters counters;
};

/* What the kernel dropped before us, over all queues since start: XDP_STATISTICS,
 * PACKET_STATISTICS. */
struct dataplane_kernel_drops {
	uint64_t rx_dropped;
	uint64_t rx_ring_full;
	uint64_t rx_fill_empty;
};

struct dataplane;

/* Logs `key=value` text, nothing that is per message. level: 0 debug … 3 error. Any thread. */
typedef void dataplane_log(int level, const char *text);

/*
 * Brings up EAL, port and workers; they forward from here on. On failure returns a negative errno
 * and one sentence in `error` (DATAPLANE_ERROR_MAX bytes) that says what is wrong and what to do;
 * nothing stays behind. Once a process.
 */
int dataplane_start(struct dataplane **dataplane, const struct dataplane_config *config,
		    dataplane_log *log, char *error);

/* Stops the workers, detaches from the interface, frees all. The tables are the caller's. */
void dataplane_stop(struct dataplane *dataplane);

enum dataplane_driver dataplane_driver(const struct dataplane *dataplane);

/*
 * Whether records arrive one by one that a peer's kernel hands over as a train (UDP_SEGMENT): over
 * a virtual link, where no hardware takes it apart, that is up to the port.
 */
bool dataplane_takes_trains(const struct dataplane *dataplane);
const char *dataplane_driver_name(enum dataplane_driver driver);
bool dataplane_huge_pages(const struct dataplane *dataplane);

/* The number of the worker that serves a session's slot. */
unsigned int dataplane_worker_of(const struct dataplane *dataplane, uint32_t index);

/*
 * Queues a control message for the worker that serves its session's slot, and wakes it if it
 * sleeps. Copied. Returns 0, or -EAGAIN when the ring is full: try again later.
 */
int dataplane_send(struct dataplane *dataplane, const struct forward_command *command);

/* Takes up to `n` events from all workers, fairly; returns how many. */
unsigned int dataplane_events(struct dataplane *dataplane, struct forward_event *events,
			      unsigned int n);

/*
 * An eventfd that turns readable when a worker goes to sleep with events left behind; workers that
 * stay awake don't write it, so look at least every 10 ms too. Read it to reset.
 */
int dataplane_event_fd(const struct dataplane *dataplane);

/* The last published state of a worker, at most about 1 ms old; exact in itself. */
void dataplane_worker(const struct dataplane *dataplane, unsigned int worker,
		      struct dataplane_worker *out);

void dataplane_kernel_drops(struct dataplane *dataplane, struct dataplane_kernel_drops *out);

/*
 * Sources (see suspects_source()) whose packets to the data port are dropped before anything is
 * paid for them: with the driver af_xdp in the XDP program, else as soon as a worker sees where one
 * comes from. At most DATAPLANE_BLOCKED_MAX. Returns 0 or a negative errno: -EEXIST, -ENOENT,
 * -ENOSPC …
 */
int dataplane_block(struct dataplane *dataplane, const uint64_t source[2]);
int dataplane_unblock(struct dataplane *dataplane, const uint64_t source[2]);

/* Packets dropped so: of a source that is blocked, and ever of all. In no ledger. */
uint64_t dataplane_dropped_from(const struct dataplane *dataplane, const uint64_t source[2]);
uint64_t dataplane_dropped(const struct dataplane *dataplane);

/*
 * Milliseconds on the workers' clock, which session_rx.seen_ms is of: monotonic, from the CPU's
 * cycle counter, and so without a relation to any other clock. Any thread, once started.
 */
uint64_t dataplane_now_ms(void);

/* The same in microseconds. */
uint64_t dataplane_now_us(void);

/*
 * The header with which to answer a received frame (Ethernet, optional VLAN tag, IP, UDP; `length`
 * bytes): addresses and ports swapped, lengths and checksums left to the worker. With `checksum`
 * IPv4 gets one for UDP; IPv6 has it always. Returns 0 or -EINVAL. Pure.
 */
int dataplane_reply_header(struct session_header *header, const uint8_t *frame, size_t length,
			   bool checksum);

/* Ciphers by name: "ipsec_mb", "openssl" or "cryptodev"; NULL: unknown or not for this machine. */
const struct aead_ops *dataplane_aead(const char *name);

/* What to use where nothing is configured. */
const struct aead_ops *dataplane_aead_default(void);

#endif
