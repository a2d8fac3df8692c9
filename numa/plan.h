/*
 * The placement plan: which core each thread gets, and why. A pure function of the topology and of
 * what is asked for.
 *
 * Workers go to physical cores of their own on the node of their interface, isolated ones first,
 * that of CPU 0 last, since the kernel's own work gathers there. The control thread goes to a core
 * without a worker, not isolated, on the same node if one is left; the reclaimer of liburcu beside
 * it. Where there are too few cores, threads share some, and the plan warns.
 */
#ifndef VIADUCT_PLAN_H
#define VIADUCT_PLAN_H

#include <stdio.h>

#include <jansson.h>

#include "topology.h"

enum {
	PLAN_WORKERS_MAX = 32,
	PLAN_TEXT_MAX = 192,
	PLAN_WARNINGS_MAX = 2 * PLAN_WORKERS_MAX + 4, // two a worker, the control thread's and ours
};

struct plan_request {
	const char *interface;
	unsigned int workers;
	const int *cores; // of the workers, as many; NULL: to be chosen
	int control_core; // -1: to be chosen
};

struct plan_thread {
	int core;
	int node; // where its memory belongs; -1: any
	char why[PLAN_TEXT_MAX];
};

struct plan {
	char interface[PLAN_TEXT_MAX];
	int interface_node; // -1: unknown
	unsigned int worker_count;
	struct plan_thread workers[PLAN_WORKERS_MAX];
	struct plan_thread control;
	struct plan_thread reclaimer;
	unsigned int warning_count;
	char warnings[PLAN_WARNINGS_MAX][PLAN_TEXT_MAX];
};

/*
 * Makes the plan. On a request that can't be met returns -EINVAL and one sentence in `error`
 * (TOPOLOGY_ERROR_MAX bytes) that says what is possible.
 */
int plan_make(struct plan *plan, const struct topology *topology,
	      const struct plan_request *request, char *error);

/* Prints a table for people. */
void plan_print(const struct plan *plan, FILE *file);

/* The plan as a JSON object, the caller's; NULL without memory. An unknown node is null. */
json_t *plan_json(const struct plan *plan);

#endif
