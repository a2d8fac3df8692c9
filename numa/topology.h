/*
 * The facts about a machine that decide where threads run: CPUs, their cores and NUMA nodes, which
 * of them we may use, and where the network interfaces hang off. Read by hwloc, once at start-up.
 *
 * A CPU here is a hardware thread, by the number the kernel gives it; that is what configuration
 * and output call a core. CPUs with the same `core` are siblings on one physical core. A node is
 * the kernel's number too, and the same as a DPDK socket.
 */
#ifndef VIADUCT_TOPOLOGY_H
#define VIADUCT_TOPOLOGY_H

#include <stdbool.h>
#include <stddef.h>

enum {
	TOPOLOGY_ERROR_MAX = 256,
	TOPOLOGY_LIST_MAX = 256,
};

/* Where to read. All NULL: this machine, as this thread may use it. */
struct topology_source {
	const char *from;     // hwloc XML file or synthetic description
	const char *isolated; // as "2-5,8"; NULL: what the kernel isolates, none of another machine
	const char *affinity; // likewise; NULL: the calling thread's, all of another machine
};

struct topology_cpu {
	int number;
	int core;   // counted from 0 in hwloc's order
	int node;   // -1: none
	bool first; // first hardware thread of its core
	bool isolated;
	bool allowed;
};

struct topology_interface {
	char *name;
	int node; // -1: not nearer to one than to others
};

/* Immutable; the arrays are in hwloc's order, in which neighbours share caches. */
struct topology {
	struct topology_cpu *cpus;
	unsigned int cpu_count;
	unsigned int allowed_count;
	unsigned int node_count;
	struct topology_interface *interfaces;
	unsigned int interface_count;
	char present_list[TOPOLOGY_LIST_MAX]; // as "0-7", cut short if longer
	char allowed_list[TOPOLOGY_LIST_MAX];
};

/*
 * Reads the topology; the caller frees it. Call before pinning, as the thread's affinity counts. On
 * failure returns a negative errno and one sentence in `error` (TOPOLOGY_ERROR_MAX bytes).
 */
int topology_read(struct topology **topology, const struct topology_source *source, char *error);

void topology_free(struct topology *topology);

/* The CPU of that number; NULL if there is none. */
const struct topology_cpu *topology_cpu(const struct topology *topology, int number);

/* The node of an interface; -1 if unknown, as of all virtual interfaces. */
int topology_interface_node(const struct topology *topology, const char *name);

#endif
