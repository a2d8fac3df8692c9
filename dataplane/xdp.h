/*
 * The XDP program on an interface. DPDK's driver insists on loading and attaching a program of its
 * own for every queue, which on most devices can be done only once; so it gets ours, in a form that
 * takes nothing, and is relieved of it at once. What then stays is one instance for all queues,
 * attached by a link that ends with the process, however that ends.
 *
 * Control thread only.
 */
#ifndef VIADUCT_XDP_H
#define VIADUCT_XDP_H

#include <stdbool.h>
#include <stdint.h>

enum { XDP_SOURCES = 4096 }; // that may be blocked at a time

struct xdp_bpf;
struct bpf_link;

struct xdp {
	int ifindex;
	int object;    // memory file with the program, for the driver
	char path[32]; // of the same
	struct xdp_bpf *skeleton;
	struct bpf_link *link;
};

/*
 * Loads the program for UDP to `port` and tries whether `interface` takes it. A leftover of a
 * killed process is removed. Returns 0 or a negative errno and a sentence in `error`
 * (DATAPLANE_ERROR_MAX bytes).
 */
int xdp_init(struct xdp *xdp, const char *interface, int ifindex, uint16_t port, char *error);

/* Detaches a program of ours that the driver attached. Returns 0 or a negative errno. */
int xdp_relieve(struct xdp *xdp);

/* Sends what arrives on receive queue `queue` to an AF_XDP socket. Returns 0 or a negative errno.
 */
int xdp_map(struct xdp *xdp, uint32_t queue, int socket);

/* Starts to take packets. Returns 0 or a negative errno. */
int xdp_attach(struct xdp *xdp);

/*
 * Drops all packets to the port from a source, see suspects_source(), or no longer. Returns 0
 * or a negative errno.
 */
int xdp_block(struct xdp *xdp, const uint64_t source[2]);
int xdp_unblock(struct xdp *xdp, const uint64_t source[2]);

/* How many packets were dropped from a source that is blocked, and since the start from all. */
uint64_t xdp_dropped_from(const struct xdp *xdp, const uint64_t source[2]);
uint64_t xdp_dropped(const struct xdp *xdp);

/* Whether the interface's driver runs the program, which sees single packets then. */
bool xdp_is_native(const struct xdp *xdp);

/* Undoes all, also after a failed xdp_init(). */
void xdp_fini(struct xdp *xdp);

#endif
