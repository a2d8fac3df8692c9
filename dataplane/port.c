#include "port.h"

#include <dirent.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/if_xdp.h>
#include <rte_bus_vdev.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "buffers.h"
#include "report.h"
#include "shed.h"

enum {
	// a queue: what its rings may hold, caches, spares, handed over; the backlog
	BUFFERS = 8192 + SHED_BACKLOG,
	BUFFER_CACHE = 256, // of the same, kept by each thread

	XDP_ROOM = 256,           // what the kernel leaves free in front of a frame
	FRAME_ROOM = 96,          // headers, with IPv4 options and a VLAN tag
	PACKET_FRAME_MIN = 2048,  // af_packet: what a frame of its ring takes up, and
	PACKET_FRAME_EXTRA = 128, // what of it isn't IP
	PACKET_FRAME_ALIGN = 512,
	PACKET_BLOCK_FRAMES = 8, // so that blocks are whole pages
	PACKET_RING = 4 << 20,   // bytes of each ring
	PACKET_SEND_BUFFER = 64 << 20,

	SOCKETS_MAX = 64,
};

static unsigned int packet_frame_size(uint16_t mtu)
{
	unsigned int size = RTE_ALIGN_CEIL(mtu + PACKET_FRAME_EXTRA, PACKET_FRAME_ALIGN);

	return RTE_MAX(size, (unsigned int)PACKET_FRAME_MIN);
}

// Data room of a buffer: enough for either driver.
static unsigned int buffer_room(uint16_t mtu)
{
	unsigned int room = RTE_PKTMBUF_HEADROOM + XDP_ROOM + FRAME_ROOM + mtu;

	room = RTE_MAX(room, RTE_PKTMBUF_HEADROOM + packet_frame_size(mtu));
	return RTE_ALIGN_CEIL(room, RTE_CACHE_LINE_SIZE);
}

size_t port_memory(const struct dataplane_config *config)
{
	return config->workers * BUFFERS *
	       (buffers_size(buffer_room(config->mtu)) + sizeof(void *) * 2);
}

struct sockets {
	unsigned int n;
	int fds[SOCKETS_MAX];
};

// The drivers don't tell their sockets, so look for those that came into being meanwhile.
static int sockets_find(struct sockets *found, int domain, const struct sockets *before)
{
	DIR *directory = opendir("/proc/self/fd");
	struct dirent *entry;

	found->n = 0;
	if (!directory)
		return -errno;
	while ((entry = readdir(directory)) && found->n < SOCKETS_MAX) {
		int fd = atoi(entry->d_name);
		int is = -1;
		socklen_t size = sizeof(is);
		unsigned int i = 0;

		if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &is, &size) || is != domain)
			continue;
		while (before && i < before->n && before->fds[i] != fd)
			i++;
		if (!before || i == before->n)
			found->fds[found->n++] = fd;
	}
	closedir(directory);
	return 0;
}

// A DPDK device with `n` queues, the next of the port.
static int device_start(struct port *port, const char *name, const char *arguments, uint16_t n)
{
	const struct rte_eth_conf configuration = {0};
	struct port_queue *queues = &port->queues[port->queue_count];
	uint16_t device;
	int r;

	r = rte_vdev_init(name, arguments);
	if (r)
		return r;
	port->device_count++;
	r = rte_eth_dev_get_port_by_name(name, &device);
	if (r)
		return r;
	r = rte_eth_dev_configure(device, n, n, &configuration);
	for (uint16_t i = 0; i < n && r == 0; i++) {
		queues[i].device = device;
		queues[i].queue = i;
		r = rte_eth_rx_queue_setup(device, i, PORT_DESCRIPTORS, (unsigned int)SOCKET_ID_ANY,
					   NULL, queues[i].pool);
		if (r == 0)
			r = rte_eth_tx_queue_setup(device, i, PORT_DESCRIPTORS,
						   (unsigned int)SOCKET_ID_ANY, NULL);
	}
	if (r == 0)
		r = rte_eth_dev_start(device);
	if (r)
		return r;
	// starting switches it off, whoever had switched it on
	if (port->interface.flags & IFF_PROMISC)
		rte_eth_promiscuous_enable(device);
	return 0;
}

static void devices_stop(struct port *port)
{
	char name[32];

	for (unsigned int i = 0; i < port->queue_count; i++)
		rte_eth_dev_stop(port->queues[i].device);
	for (unsigned int i = 0; i < port->device_count; i++) {
		snprintf(name, sizeof(name), "net_%s%u", dataplane_driver_name(port->driver), i);
		rte_vdev_uninit(name);
	}
	port->queue_count = port->device_count = 0;
}

static int af_xdp_queue_start(struct port *port, unsigned int queue)
{
	struct sockets before, found;
	char name[32], arguments[160];
	int r, relieved;

	snprintf(name, sizeof(name), "net_af_xdp%u", queue);
	// a budget would make each empty poll a system call
	snprintf(arguments, sizeof(arguments),
		 "iface=%s,start_queue=%u,queue_count=1,busy_budget=0,xdp_prog=%s",
		 port->interface.name, queue, port->xdp.path);
	r = sockets_find(&before, AF_XDP, NULL);
	if (r)
		return r;
	r = device_start(port, name, arguments, 1);
	relieved = xdp_relieve(&port->xdp);
	if (r == 0)
		r = relieved;
	if (r == 0)
		r = sockets_find(&found, AF_XDP, &before);
	if (r)
		return r;
	if (found.n != 1)
		return -ENOTSOCK;
	port->queues[queue].socket = found.fds[0];
	port->queue_count++;
	return xdp_map(&port->xdp, queue, found.fds[0]);
}

static int af_xdp_start(struct port *port, const struct dataplane_config *config, char *error)
{
	const struct interface *interface = &port->interface;
	int r;

	port->driver = DATAPLANE_AF_XDP;
	if (interface->rx_queues != config->workers) {
		snprintf(error, DATAPLANE_ERROR_MAX,
			 "%s has %u receive queues, and af_xdp wants one a worker: configure %u "
			 "workers, or the interface (ethtool -L %s), or use the driver af_packet",
			 interface->name, interface->rx_queues, interface->rx_queues,
			 interface->name);
		return -EINVAL;
	}
	if (interface->tx_queues < config->workers) {
		snprintf(error, DATAPLANE_ERROR_MAX,
			 "%s has %u transmit queues for %u workers: add some (ethtool -L %s), or "
			 "use the driver af_packet",
			 interface->name, interface->tx_queues, config->workers, interface->name);
		return -EINVAL;
	}
	if (buffers_size(buffer_room(config->mtu)) > (size_t)getpagesize()) {
		snprintf(error, DATAPLANE_ERROR_MAX,
			 "an mtu of %u is too much for af_xdp: its packets must fit into a page; "
			 "configure a smaller one, or use the driver af_packet",
			 config->mtu);
		return -EMSGSIZE;
	}
	r = xdp_init(&port->xdp, interface->name, interface->index, config->port, error);
	for (unsigned int i = 0; i < config->workers && r == 0; i++)
		r = af_xdp_queue_start(port, i);
	if (r == 0)
		r = xdp_attach(&port->xdp);
	return r;
}

// Only datagrams for us, and not those that we send; the kernel has taken VLAN tags off already.
static int af_packet_socket_init(int socket, uint16_t port)
{
	const struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12), // what is in the Ethernet frame
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x0800, 0, 6),
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 23), // IPv4: protocol
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_UDP, 0, 10),
		BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 20), // fragment
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 0x3fff, 8, 0),
		BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 14), // header length
		BPF_JUMP(BPF_JMP | BPF_JA, 4, 0, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x86dd, 0, 5),
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 20), // IPv6: next header
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_UDP, 0, 3),
		BPF_STMT(BPF_LDX | BPF_IMM, 40),
		BPF_STMT(BPF_LD | BPF_H | BPF_IND, 16), // UDP destination port
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, port, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, 0),
		BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
	};
	const struct sock_fprog program = {
		.len = sizeof(filter) / sizeof(filter[0]),
		.filter = (struct sock_filter *)filter,
	};
	const int ignore = 1, size = PACKET_SEND_BUFFER;

	// a full send buffer would make the driver's transmit wait
	if (setsockopt(socket, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) ||
	    setsockopt(socket, SOL_PACKET, PACKET_IGNORE_OUTGOING, &ignore, sizeof(ignore)) ||
	    setsockopt(socket, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)))
		return -errno;
	return 0;
}

static int af_packet_start(struct port *port, const struct dataplane_config *config, char *error)
{
	unsigned int frame = packet_frame_size(config->mtu);
	unsigned int block = frame * PACKET_BLOCK_FRAMES;
	struct sockets before, found;
	char arguments[160];
	int r;

	port->driver = DATAPLANE_AF_PACKET;
	snprintf(arguments, sizeof(arguments),
		 "iface=%s,qpairs=%u,framesz=%u,blocksz=%u,framecnt=%u", port->interface.name,
		 config->workers, frame, block, PACKET_RING / block * PACKET_BLOCK_FRAMES);
	r = sockets_find(&before, AF_PACKET, NULL);
	if (r == 0)
		r = device_start(port, "net_af_packet0", arguments, (uint16_t)config->workers);
	if (r == 0)
		r = sockets_find(&found, AF_PACKET, &before);
	if (r)
		return r;
	if (found.n != config->workers)
		return -ENOTSOCK;
	for (unsigned int i = 0; i < config->workers && r == 0; i++) {
		port->queues[i].socket = found.fds[i];
		port->queue_count++;
		r = af_packet_socket_init(found.fds[i], config->port);
	}
	return r;
}

static void driver_stop(struct port *port)
{
	devices_stop(port);
	if (port->driver == DATAPLANE_AF_XDP)
		xdp_fini(&port->xdp);
}

static int driver_start(struct port *port, const struct dataplane_config *config,
			enum dataplane_driver driver, char *error)
{
	int r;

	*error = 0;
	report_forget();
	r = driver == DATAPLANE_AF_XDP ? af_xdp_start(port, config, error)
				       : af_packet_start(port, config, error);
	if (r && !*error)
		snprintf(error, DATAPLANE_ERROR_MAX,
			 "DPDK's driver %s doesn't start on %s (%s%s%s)",
			 dataplane_driver_name(driver), config->interface, strerror(-r),
			 *report_last() ? "; " : "", report_last());
	if (r)
		driver_stop(port);
	return r;
}

static int some_driver_start(struct port *port, const struct dataplane_config *config, char *error)
{
	int r;

	if (config->driver != DATAPLANE_AUTO)
		return driver_start(port, config, config->driver, error);
	r = driver_start(port, config, DATAPLANE_AF_XDP, error);
	if (r) {
		report(REPORT_WARNING, "msg=\"driver af_xdp not used\" reason=\"%s\"", error);
		r = driver_start(port, config, DATAPLANE_AF_PACKET, error);
	}
	return r;
}

static int pools_new(struct port *port, const struct dataplane_config *config, char *error)
{
	for (unsigned int i = 0; i < config->workers; i++) {
		char name[32];

		snprintf(name, sizeof(name), "viaduct-%u", i);
		port->queues[i].pool = buffers_new(name, BUFFERS, BUFFER_CACHE,
						   buffer_room(config->mtu), config->nodes[i]);
		if (!port->queues[i].pool) {
			snprintf(error, DATAPLANE_ERROR_MAX,
				 "no memory for the buffers of worker %u", i);
			return -ENOMEM;
		}
	}
	return 0;
}

static void pools_free(struct port *port)
{
	for (unsigned int i = 0; i < DATAPLANE_WORKERS_MAX; i++)
		rte_mempool_free(port->queues[i].pool);
}

int port_start(struct port *port, const struct dataplane_config *config, char *error)
{
	int r;

	port->xdp.object = -1;
	r = pools_new(port, config, error);
	if (r == 0)
		r = some_driver_start(port, config, error);
	if (r)
		pools_free(port);
	return r;
}

void port_stop(struct port *port)
{
	driver_stop(port);
	pools_free(port);
}

void port_drops(struct port *port, struct dataplane_kernel_drops *drops)
{
	memset(drops, 0, sizeof(*drops));
	for (unsigned int i = 0; i < port->queue_count; i++) {
		int fd = port->queues[i].socket;

		if (port->driver == DATAPLANE_AF_XDP) {
			struct xdp_statistics statistics;
			socklen_t size = sizeof(statistics);

			if (getsockopt(fd, SOL_XDP, XDP_STATISTICS, &statistics, &size))
				continue;
			drops->rx_dropped += statistics.rx_dropped;
			drops->rx_ring_full += statistics.rx_ring_full;
			drops->rx_fill_empty += statistics.rx_fill_ring_empty_descs;
		} else {
			struct tpacket_stats statistics;
			socklen_t size = sizeof(statistics);

			if (getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &statistics, &size) == 0)
				port->packet_drops += statistics.tp_drops;
		}
	}
	drops->rx_ring_full += port->packet_drops;
}
