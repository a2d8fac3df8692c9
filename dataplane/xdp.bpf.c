// What of an interface's traffic bypasses the kernel: unfragmented UDP to the data port, if one of
// our sockets has the queue. Everything else passes, also what isn't understood.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// The name is the driver's: it looks for it in any program that it is given.
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} xsks_map SEC(".maps");

// Host byte order. 0, as long as the driver has loaded this: takes nothing.
const volatile __u16 data_port = 0;

struct vlan {
	__be16 tag;
	__be16 type;
};

SEC("xdp")
int viaduct_xdp(struct xdp_md *context)
{
	void *data = (void *)(long)context->data;
	void *end = (void *)(long)context->data_end;
	struct ethhdr *ethernet = data;
	void *next = ethernet + 1;
	struct udphdr *udp;
	__be16 type;

	if (next > end)
		return XDP_PASS;
	type = ethernet->h_proto;
	if (type == bpf_htons(ETH_P_8021Q)) {
		struct vlan *vlan = next;

		next = vlan + 1;
		if (next > end)
			return XDP_PASS;
		type = vlan->type;
	}
	if (type == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = next;

		if ((void *)(ip + 1) > end || ip->protocol != IPPROTO_UDP || ip->ihl < 5 ||
		    (ip->frag_off & bpf_htons(0x3fff)))
			return XDP_PASS;
		udp = next + 4 * ip->ihl;
	} else if (type == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = next;

		if ((void *)(ip + 1) > end || ip->nexthdr != IPPROTO_UDP)
			return XDP_PASS;
		udp = (void *)(ip + 1);
	} else {
		return XDP_PASS;
	}
	if ((void *)(udp + 1) > end || !data_port || udp->dest != bpf_htons(data_port))
		return XDP_PASS;
	return bpf_redirect_map(&xsks_map, context->rx_queue_index, XDP_PASS);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
