// What of an interface's traffic bypasses the kernel: unfragmented UDP to the data port, if one of
// our sockets has the queue. Of that, what comes from blocked sources ends here. Everything else
// passes, also what isn't understood.
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

// A source is an IPv4 address, as ::ffff:a.b.c.d, or an IPv6 /64; its value counts what was
// dropped.
struct source {
	__u64 part[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096); // XDP_SOURCES
	__type(key, struct source);
	__type(value, __u64);
} blocked SEC(".maps");

__u32 blocked_count = 0; // sources in the map, so that mostly nobody looks; control writes
__u64 dropped = 0;       // from all of them, ever; control reads

// Host byte order. 0, as long as the driver has loaded this: takes nothing.
const volatile __u16 data_port = 0;

struct vlan {
	__be16 tag;
	__be16 type;
};

static __always_inline int is_blocked(const struct source *source)
{
	__u64 *count = bpf_map_lookup_elem(&blocked, source);

	if (!count)
		return 0;
	__sync_fetch_and_add(count, 1);
	__sync_fetch_and_add(&dropped, 1);
	return 1;
}

SEC("xdp")
int viaduct_xdp(struct xdp_md *context)
{
	void *data = (void *)(long)context->data;
	void *end = (void *)(long)context->data_end;
	struct ethhdr *ethernet = data;
	void *next = ethernet + 1;
	struct source source;
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
		source.part[0] = 0;
		source.part[1] = (__u64)bpf_htonl(0xffff) | (__u64)ip->saddr << 32;
	} else if (type == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = next;

		if ((void *)(ip + 1) > end || ip->nexthdr != IPPROTO_UDP)
			return XDP_PASS;
		udp = (void *)(ip + 1);
		__builtin_memcpy(&source.part[0], &ip->saddr, sizeof(source.part[0]));
		source.part[1] = 0;
	} else {
		return XDP_PASS;
	}
	if ((void *)(udp + 1) > end || !data_port || udp->dest != bpf_htons(data_port))
		return XDP_PASS;
	if (blocked_count && is_blocked(&source))
		return XDP_DROP;
	return bpf_redirect_map(&xsks_map, context->rx_queue_index, XDP_PASS);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
