/*
 * The kernel's side of the interface that records come and go by. Control thread only.
 */
#ifndef VIADUCT_INTERFACE_H
#define VIADUCT_INTERFACE_H

#include <net/if.h>

#include "dataplane.h"
#include "frame.h"

struct interface {
	char name[IFNAMSIZ];
	int index;
	short flags; // IFF_…
	uint8_t mac[FRAME_MAC_SIZE];
	unsigned int rx_queues;
	unsigned int tx_queues;
	int reserved[2]; // sockets that hold the data port, IPv4 and IPv6; -1: none
};

/*
 * Reads what there is to know of the configured interface, checks that it will do, and reserves
 * the data port, so that nobody else gets it and the kernel doesn't answer "port unreachable".
 * Returns 0 or a negative errno and a sentence in `error`; then nothing is left open.
 */
int interface_init(struct interface *interface, const struct dataplane_config *config, char *error);
void interface_fini(struct interface *interface);

#endif
