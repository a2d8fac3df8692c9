#include "xdp.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/if_link.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dataplane.h"
#include "report.h"
#include "xdp.skel.h"

static const char program_name[] = "viaduct_xdp";

enum attached {
	NOTHING,
	OURS,
	FOREIGN,
};

// What is attached (enum attached), with its name and id in `info`; or a negative errno.
static int look(int ifindex, struct bpf_prog_info *info)
{
	struct bpf_xdp_query_opts query = {.sz = sizeof(query)};
	uint32_t size = sizeof(*info);
	uint32_t id;
	int fd, r;

	memset(info, 0, sizeof(*info));
	r = bpf_xdp_query(ifindex, 0, &query);
	if (r)
		return r;
	id = query.prog_id ?: query.drv_prog_id ?: query.skb_prog_id ?: query.hw_prog_id;
	if (!id)
		return NOTHING;
	fd = bpf_prog_get_fd_by_id(id);
	if (fd < 0)
		return -errno;
	r = bpf_obj_get_info_by_fd(fd, info, &size);
	close(fd);
	if (r)
		return r;
	return strcmp(info->name, program_name) == 0 ? OURS : FOREIGN;
}

int xdp_relieve(struct xdp *xdp)
{
	struct bpf_prog_info info;
	int r = look(xdp->ifindex, &info);

	return r == OURS ? bpf_xdp_detach(xdp->ifindex, 0, NULL) : r;
}

static int object_file(struct xdp *xdp)
{
	size_t size;
	const void *bytes = xdp_bpf__elf_bytes(&size);

	xdp->object = memfd_create("viaduct-xdp", MFD_CLOEXEC);
	if (xdp->object < 0 || write(xdp->object, bytes, size) != (ssize_t)size)
		return -errno;
	snprintf(xdp->path, sizeof(xdp->path), "/proc/self/fd/%d", xdp->object);
	return 0;
}

int xdp_init(struct xdp *xdp, const char *interface, int ifindex, uint16_t port, char *error)
{
	struct bpf_prog_info info;
	int r;

	*xdp = (struct xdp){.ifindex = ifindex, .object = -1};
	r = look(ifindex, &info);
	if (r == FOREIGN) {
		snprintf(
			error, DATAPLANE_ERROR_MAX,
			"another XDP program (%s, id %u) is attached to %s: detach it (ip link set "
			"dev %s xdp off) or use the driver af_packet",
			info.name, info.id, interface, interface);
		return -EBUSY;
	}
	if (r == OURS) {
		r = bpf_xdp_detach(ifindex, 0, NULL);
		if (r == -EBUSY)
			snprintf(error, DATAPLANE_ERROR_MAX,
				 "another viaductd serves %s: stop it, or use another interface",
				 interface);
		else if (r == 0)
			report(REPORT_INFO,
			       "msg=\"removed what a killed process left attached\" interface=%s",
			       interface);
	}
	if (r)
		goto out;

	r = -ENOMEM;
	xdp->skeleton = xdp_bpf__open();
	if (!xdp->skeleton)
		goto out;
	xdp->skeleton->rodata->data_port = port;
	r = xdp_bpf__load(xdp->skeleton);
	if (r == 0)
		r = object_file(xdp);
	if (r)
		goto out;

	// the driver would fail in the same way, but not say why
	r = bpf_xdp_attach(ifindex, bpf_program__fd(xdp->skeleton->progs.viaduct_xdp),
			   XDP_FLAGS_UPDATE_IF_NOEXIST, NULL);
	if (r == 0)
		r = bpf_xdp_detach(ifindex, 0, NULL);
out:
	if (r && !*error)
		snprintf(error, DATAPLANE_ERROR_MAX,
			 "%s doesn't take an XDP program (%s%s%s): use the driver af_packet",
			 interface, strerror(-r), *report_last() ? "; " : "", report_last());
	return r;
}

int xdp_map(struct xdp *xdp, uint32_t queue, int socket)
{
	return bpf_map_update_elem(bpf_map__fd(xdp->skeleton->maps.xsks_map), &queue, &socket,
				   BPF_ANY);
}

int xdp_block(struct xdp *xdp, const uint64_t source[2])
{
	const uint64_t none = 0;
	int r = bpf_map_update_elem(bpf_map__fd(xdp->skeleton->maps.blocked), source, &none,
				    BPF_NOEXIST);

	if (r == 0)
		__atomic_add_fetch(&xdp->skeleton->bss->blocked_count, 1, __ATOMIC_RELEASE);
	return r;
}

int xdp_unblock(struct xdp *xdp, const uint64_t source[2])
{
	int r = bpf_map_delete_elem(bpf_map__fd(xdp->skeleton->maps.blocked), source);

	if (r == 0)
		__atomic_sub_fetch(&xdp->skeleton->bss->blocked_count, 1, __ATOMIC_RELEASE);
	return r;
}

uint64_t xdp_dropped_from(const struct xdp *xdp, const uint64_t source[2])
{
	uint64_t count = 0;

	bpf_map_lookup_elem(bpf_map__fd(xdp->skeleton->maps.blocked), source, &count);
	return count;
}

uint64_t xdp_dropped(const struct xdp *xdp)
{
	return __atomic_load_n(&xdp->skeleton->bss->dropped, __ATOMIC_RELAXED);
}

int xdp_attach(struct xdp *xdp)
{
	xdp->link = bpf_program__attach_xdp(xdp->skeleton->progs.viaduct_xdp, xdp->ifindex);
	return xdp->link ? 0 : -errno;
}

bool xdp_is_native(const struct xdp *xdp)
{
	struct bpf_xdp_query_opts query = {.sz = sizeof(query)};

	return bpf_xdp_query(xdp->ifindex, 0, &query) == 0 && query.attach_mode == XDP_ATTACHED_DRV;
}

void xdp_fini(struct xdp *xdp)
{
	bpf_link__destroy(xdp->link);
	xdp_bpf__destroy(xdp->skeleton);
	if (xdp->object >= 0)
		close(xdp->object);
	*xdp = (struct xdp){.object = -1};
}
