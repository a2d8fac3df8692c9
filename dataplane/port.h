/*
 * The data port's DPDK side: one receive and transmit queue a worker, by the driver af_xdp or
 * af_packet. Control thread only.
 */
#ifndef VIADUCT_PORT_H
#define VIADUCT_PORT_H

#include <rte_mempool.h>

#include "dataplane.h"
#include "interface.h"
#include "xdp.h"

enum { PORT_DESCRIPTORS = 2048 }; // of each ring of an AF_XDP socket

struct port_queue {
	uint16_t device; // DPDK's port id
	uint16_t queue;  // of that device
	int socket;      // to wait on; the driver's
	struct rte_mempool *pool;
};

struct port {
	struct interface interface;
	enum dataplane_driver driver;
	unsigned int queue_count;
	struct port_queue queues[DATAPLANE_WORKERS_MAX];
	unsigned int device_count;
	struct xdp xdp;
	uint64_t packet_drops; // af_packet's counter restarts with each reading
};

/* How much memory port_start() needs, by the configuration's driver, in bytes. */
size_t port_memory(const struct dataplane_config *config);

/*
 * Brings up the queues on `port->interface`, with the configured driver. Returns 0 or a negative
 * errno and a sentence in `error`.
 */
int port_start(struct port *port, const struct dataplane_config *config, char *error);
void port_stop(struct port *port);

/* Adds up what the kernel dropped on all queues since the start. */
void port_drops(struct port *port, struct dataplane_kernel_drops *drops);

#endif
