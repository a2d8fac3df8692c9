#include "interface.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/capability.h>
#include <linux/ethtool.h>
#include <linux/filter.h>
#include <linux/sockios.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static int permission_check(char *error)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];
	const uint32_t wanted = 1u << CAP_NET_ADMIN | 1u << CAP_NET_RAW;

	if (syscall(SYS_capget, &header, data))
		return -errno;
	if ((data[0].effective & wanted) == wanted)
		return 0;
	snprintf(error, DATAPLANE_ERROR_MAX,
		 "not permitted to take packets off an interface: start as root, or with the "
		 "capabilities NET_ADMIN, NET_RAW, BPF and IPC_LOCK");
	return -EPERM;
}

// Receive and transmit queues; a device that doesn't know has one of each.
static void queues_read(struct interface *interface, int fd)
{
	struct ethtool_channels channels = {.cmd = ETHTOOL_GCHANNELS};
	struct ifreq request = {.ifr_data = (char *)&channels};

	interface->rx_queues = interface->tx_queues = 1;
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", interface->name);
	if (ioctl(fd, SIOCETHTOOL, &request))
		return;
	if (channels.combined_count + channels.rx_count)
		interface->rx_queues = channels.combined_count + channels.rx_count;
	if (channels.combined_count + channels.tx_count)
		interface->tx_queues = channels.combined_count + channels.tx_count;
}

static int attributes_read(struct interface *interface, uint16_t mtu, char *error)
{
	struct ifreq request;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int r = 0;

	if (fd < 0)
		return -errno;
	memset(&request, 0, sizeof(request));
	memcpy(request.ifr_name, interface->name, IFNAMSIZ);
	if (ioctl(fd, SIOCGIFINDEX, &request)) {
		r = -errno;
		snprintf(error, DATAPLANE_ERROR_MAX,
			 "there is no interface %s: ip link shows those that there are",
			 interface->name);
		goto out;
	}
	interface->index = request.ifr_ifindex;
	if (ioctl(fd, SIOCGIFHWADDR, &request)) {
		r = -errno;
		goto out;
	}
	if (request.ifr_hwaddr.sa_family != ARPHRD_ETHER) {
		r = -EOPNOTSUPP;
		snprintf(error, DATAPLANE_ERROR_MAX, "%s is not an Ethernet interface",
			 interface->name);
		goto out;
	}
	memcpy(interface->mac, request.ifr_hwaddr.sa_data, FRAME_MAC_SIZE);
	if (ioctl(fd, SIOCGIFFLAGS, &request)) {
		r = -errno;
		goto out;
	}
	interface->flags = request.ifr_flags;
	if (!(interface->flags & IFF_UP)) {
		r = -ENETDOWN;
		snprintf(error, DATAPLANE_ERROR_MAX, "the interface %s is down: ip link set %s up",
			 interface->name, interface->name);
		goto out;
	}
	if (ioctl(fd, SIOCGIFMTU, &request)) {
		r = -errno;
		goto out;
	}
	if (request.ifr_mtu < mtu) {
		r = -EMSGSIZE;
		snprintf(error, DATAPLANE_ERROR_MAX,
			 "%s carries packets of at most %d bytes, not %u: configure a smaller mtu, "
			 "or ip link set %s mtu %u",
			 interface->name, request.ifr_mtu, mtu, interface->name, mtu);
		goto out;
	}
	queues_read(interface, fd);
out:
	close(fd);
	return r;
}

// A socket on the data port that drops all. Returns it or a negative errno.
static int reserve(int family, uint16_t port)
{
	struct sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
	const struct sock_fprog program = {.len = 1, .filter = &drop};
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
	} address = {0};
	int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int one = 1;
	int r;

	if (fd < 0)
		return -errno;
	address.any.sa_family = (sa_family_t)family;
	if (family == AF_INET)
		address.in.sin_port = htons(port);
	else
		address.in6.sin6_port = htons(port);
	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) ||
	    (family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one))) ||
	    bind(fd, &address.any, family == AF_INET ? sizeof(address.in) : sizeof(address.in6))) {
		r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

int interface_init(struct interface *interface, const struct dataplane_config *config, char *error)
{
	static const int families[2] = {AF_INET, AF_INET6};
	int r;

	memset(interface, 0, sizeof(*interface));
	interface->reserved[0] = interface->reserved[1] = -1;
	r = permission_check(error);
	if (r)
		return r;
	if (strlen(config->interface) >= IFNAMSIZ) {
		snprintf(error, DATAPLANE_ERROR_MAX, "the interface's name is too long: %.40s",
			 config->interface);
		return -ENODEV;
	}
	memcpy(interface->name, config->interface, strlen(config->interface));
	r = attributes_read(interface, config->mtu, error);
	if (r)
		return r;
	for (int i = 0; i < 2; i++) {
		r = reserve(families[i], config->port);
		if (r == -EAFNOSUPPORT && families[i] == AF_INET6)
			continue; // a kernel without IPv6 has nothing to reserve
		if (r < 0)
			goto out;
		interface->reserved[i] = r;
	}
	return 0;
out:
	if (r == -EADDRINUSE)
		snprintf(error, DATAPLANE_ERROR_MAX,
			 "UDP port %u is in use: configure another data port, or stop who has it "
			 "(ss -lunp tells)",
			 config->port);
	else
		snprintf(error, DATAPLANE_ERROR_MAX, "UDP port %u can't be reserved: %s",
			 config->port, strerror(-r));
	interface_fini(interface);
	return r;
}

void interface_fini(struct interface *interface)
{
	for (int i = 0; i < 2; i++) {
		if (interface->reserved[i] >= 0)
			close(interface->reserved[i]);
	}
}
