#include "topology.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <hwloc.h>

enum { LINE_MAX_SIZE = 4096 };

static int fail(char *error, int code, const char *format, const char *text)
{
	snprintf(error, TOPOLOGY_ERROR_MAX, format, text);
	return code;
}

/* Disallowed CPUs are kept, so that a plan can tell "not allowed" from "not there". */
static int load(hwloc_topology_t *out, const char *from, char *error)
{
	hwloc_topology_t hwloc;
	int status = 0;

	if (hwloc_topology_init(&hwloc) < 0)
		return fail(error, -ENOMEM, "%s", "no memory for the topology");
	hwloc_topology_set_flags(hwloc, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED);
	hwloc_topology_set_io_types_filter(hwloc, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
	if (from)
		status = access(from, R_OK) == 0 ? hwloc_topology_set_xml(hwloc, from)
						 : hwloc_topology_set_synthetic(hwloc, from);
	if (status == 0)
		status = hwloc_topology_load(hwloc);
	if (status == 0) {
		*out = hwloc;
		return 0;
	}
	hwloc_topology_destroy(hwloc);
	if (!from)
		return fail(error, -EIO, "%s", "hwloc can't read this machine's topology");
	return fail(error, -EINVAL,
		    "'%s' is neither a readable XML file of hwloc's lstopo nor a synthetic "
		    "description such as 'numa:2 core:4 pu:2'",
		    from);
}

static int parse_list(hwloc_bitmap_t set, const char *list, char *error)
{
	hwloc_bitmap_zero(set);
	if (!list[0] || hwloc_bitmap_list_sscanf(set, list) == 0)
		return 0;
	return fail(error, -EINVAL, "'%s' is not a list of cores such as '2-5,8'", list);
}

static int read_isolated(hwloc_bitmap_t isolated, const struct topology_source *source, char *error)
{
	char line[LINE_MAX_SIZE] = "";
	FILE *file;

	if (source->isolated)
		return parse_list(isolated, source->isolated, error);
	file = source->from ? NULL : fopen("/sys/devices/system/cpu/isolated", "re");
	if (file) {
		if (!fgets(line, sizeof(line), file))
			line[0] = '\0';
		fclose(file);
		line[strcspn(line, "\n")] = '\0';
	}
	return parse_list(isolated, line, error);
}

/*
 * What the cgroup allows and the affinity too. With isolcpus the kernel starts init, and so
 * everyone, on the other CPUs only; an affinity of exactly these is nobody's wish, and the isolated
 * ones are what they were isolated for.
 */
static int read_allowed(hwloc_bitmap_t allowed, hwloc_topology_t hwloc,
			const struct topology_source *source, hwloc_const_bitmap_t isolated,
			char *error)
{
	hwloc_const_bitmap_t cgroup = hwloc_topology_get_allowed_cpuset(hwloc);
	hwloc_bitmap_t housekeeping = hwloc_bitmap_alloc();
	int status = 0;

	if (!housekeeping)
		return fail(error, -ENOMEM, "%s", "no memory for the topology");
	hwloc_bitmap_fill(allowed);
	if (source->affinity)
		status = parse_list(allowed, source->affinity, error);
	else if (!source->from && hwloc_get_cpubind(hwloc, allowed, HWLOC_CPUBIND_THREAD) < 0)
		hwloc_bitmap_fill(allowed);
	hwloc_bitmap_and(allowed, allowed, cgroup);
	hwloc_bitmap_andnot(housekeeping, cgroup, isolated);
	if (hwloc_bitmap_isequal(allowed, housekeeping))
		hwloc_bitmap_copy(allowed, cgroup);
	hwloc_bitmap_free(housekeeping);
	return status;
}

/* A CPU may have several nodes (memory of other kinds, of the whole machine): the narrowest. */
static int cpu_node(hwloc_topology_t hwloc, unsigned int cpu)
{
	hwloc_obj_t node = NULL;
	int best = -1, width = 0;

	while ((node = hwloc_get_next_obj_by_type(hwloc, HWLOC_OBJ_NUMANODE, node))) {
		int w = hwloc_bitmap_weight(node->cpuset);

		if (hwloc_bitmap_isset(node->cpuset, cpu) && (best < 0 || w < width)) {
			best = (int)node->os_index;
			width = w;
		}
	}
	return best;
}

static void read_cpus(struct topology *topology, hwloc_topology_t hwloc,
		      hwloc_const_bitmap_t isolated, hwloc_const_bitmap_t allowed)
{
	hwloc_obj_t pu = NULL, core, last = NULL;
	int number = -1;

	while ((pu = hwloc_get_next_obj_by_type(hwloc, HWLOC_OBJ_PU, pu))) {
		struct topology_cpu *cpu = &topology->cpus[topology->cpu_count++];

		core = hwloc_get_ancestor_obj_by_type(hwloc, HWLOC_OBJ_CORE, pu);
		cpu->first = !core || core != last;
		number += cpu->first;
		last = core;
		cpu->number = (int)pu->os_index;
		cpu->core = number;
		cpu->node = cpu_node(hwloc, pu->os_index);
		cpu->isolated = hwloc_bitmap_isset(isolated, pu->os_index);
		cpu->allowed = hwloc_bitmap_isset(allowed, pu->os_index);
		topology->allowed_count += cpu->allowed;
	}
}

/* The one node of all CPUs that a device is near to; -1 if they are of several. */
static int device_node(const struct topology *topology, hwloc_topology_t hwloc, hwloc_obj_t device)
{
	hwloc_obj_t near = hwloc_get_non_io_ancestor_obj(hwloc, device);
	int node = -1;

	for (unsigned int i = 0; i < topology->cpu_count; i++) {
		const struct topology_cpu *cpu = &topology->cpus[i];

		if (!hwloc_bitmap_isset(near->cpuset, (unsigned int)cpu->number))
			continue;
		if (node >= 0 && cpu->node != node)
			return -1;
		node = cpu->node;
	}
	return node;
}

/*
 * hwloc places a device by its PCI bus, or by the device's numa_node in sysfs; it leaves out
 * interfaces that are on no device.
 */
static int read_interfaces(struct topology *topology, hwloc_topology_t hwloc)
{
	hwloc_obj_t device = NULL;
	unsigned int n = 0;

	while ((device = hwloc_get_next_osdev(hwloc, device)))
		n++;
	topology->interfaces = calloc(n + 1, sizeof(*topology->interfaces));
	if (!topology->interfaces)
		return -ENOMEM;
	while ((device = hwloc_get_next_osdev(hwloc, device))) {
		struct topology_interface *interface =
			&topology->interfaces[topology->interface_count];

		if (device->attr->osdev.type != HWLOC_OBJ_OSDEV_NETWORK || !device->name)
			continue;
		interface->name = strdup(device->name);
		if (!interface->name)
			return -ENOMEM;
		interface->node = device_node(topology, hwloc, device);
		topology->interface_count++;
	}
	return 0;
}

int topology_read(struct topology **out, const struct topology_source *source, char *error)
{
	struct topology *topology = calloc(1, sizeof(*topology));
	hwloc_bitmap_t isolated = hwloc_bitmap_alloc(), allowed = hwloc_bitmap_alloc();
	hwloc_const_bitmap_t present;
	hwloc_topology_t hwloc = NULL;
	int status = fail(error, -ENOMEM, "%s", "no memory for the topology");

	if (!topology || !isolated || !allowed)
		goto out;
	status = load(&hwloc, source->from, error);
	if (status < 0)
		goto out;
	status = read_isolated(isolated, source, error);
	if (status < 0)
		goto out;
	status = read_allowed(allowed, hwloc, source, isolated, error);
	if (status < 0)
		goto out;
	present = hwloc_topology_get_topology_cpuset(hwloc);
	topology->node_count = (unsigned int)hwloc_get_nbobjs_by_type(hwloc, HWLOC_OBJ_NUMANODE);
	topology->cpus = calloc((size_t)hwloc_bitmap_weight(present), sizeof(*topology->cpus));
	if (!topology->cpus) {
		status = fail(error, -ENOMEM, "%s", "no memory for the topology");
		goto out;
	}
	read_cpus(topology, hwloc, isolated, allowed);
	hwloc_bitmap_list_snprintf(topology->allowed_list, TOPOLOGY_LIST_MAX, allowed);
	hwloc_bitmap_list_snprintf(topology->present_list, TOPOLOGY_LIST_MAX, present);
	status = read_interfaces(topology, hwloc);
	if (status < 0)
		fail(error, status, "%s", "no memory for the topology");
out:
	if (hwloc)
		hwloc_topology_destroy(hwloc);
	hwloc_bitmap_free(allowed);
	hwloc_bitmap_free(isolated);
	if (status < 0)
		topology_free(topology);
	else
		*out = topology;
	return status;
}

void topology_free(struct topology *topology)
{
	if (!topology)
		return;
	for (unsigned int i = 0; i < topology->interface_count; i++)
		free(topology->interfaces[i].name);
	free(topology->interfaces);
	free(topology->cpus);
	free(topology);
}

const struct topology_cpu *topology_cpu(const struct topology *topology, int number)
{
	for (unsigned int i = 0; i < topology->cpu_count; i++)
		if (topology->cpus[i].number == number)
			return &topology->cpus[i];
	return NULL;
}

int topology_interface_node(const struct topology *topology, const char *name)
{
	for (unsigned int i = 0; i < topology->interface_count; i++)
		if (strcmp(topology->interfaces[i].name, name) == 0)
			return topology->interfaces[i].node;
	return -1;
}
