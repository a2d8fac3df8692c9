#include "plan.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

/* Everything a decision depends on. */
struct planner {
	const struct topology *topology;
	const struct plan_request *request;
	struct plan *plan;
	int home;                  // the node to be on; -1: none is better
	bool isolation;            // some allowed CPU is isolated
	unsigned int worker_count; // so far
	const struct topology_cpu *workers[PLAN_WORKERS_MAX];
	const struct topology_cpu *control;
};

__attribute__((format(printf, 2, 3))) static void refuse(char *error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(error, TOPOLOGY_ERROR_MAX, format, args);
	va_end(args);
}

__attribute__((format(printf, 2, 3))) static void warn(struct plan *plan, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(plan->warnings[plan->warning_count++], PLAN_TEXT_MAX, format, args);
	va_end(args);
}

/* Adds to a thread's reasons. */
__attribute__((format(printf, 2, 3))) static void because(struct plan_thread *thread,
							  const char *format, ...)
{
	size_t used = strlen(thread->why);
	va_list args;

	if (used)
		used += (size_t)snprintf(thread->why + used, PLAN_TEXT_MAX - used, ", ");
	if (used >= PLAN_TEXT_MAX)
		return;
	va_start(args, format);
	vsnprintf(thread->why + used, PLAN_TEXT_MAX - used, format, args);
	va_end(args);
}

static bool same_core(const struct topology_cpu *a, const struct topology_cpu *b)
{
	return a && b && a->core == b->core;
}

/* The first worker but `except` on the physical core; -1: none. */
static int worker_on_core(const struct planner *p, const struct topology_cpu *cpu, int except)
{
	for (unsigned int i = 0; i < p->worker_count; i++)
		if ((int)i != except && same_core(p->workers[i], cpu))
			return (int)i;
	return -1;
}

static int worker_on_cpu(const struct planner *p, const struct topology_cpu *cpu)
{
	for (unsigned int i = 0; i < p->worker_count; i++)
		if (p->workers[i] == cpu)
			return (int)i;
	return -1;
}

/* Where nothing is known of the interface: the node with most isolated cores, then most cores. */
static int find_home(const struct planner *p)
{
	const struct topology *topology = p->topology;
	unsigned int best = 0, value;
	int home = -1;

	if (p->plan->interface_node >= 0)
		return p->plan->interface_node;
	for (unsigned int i = 0; i < topology->cpu_count; i++) {
		value = 0;
		for (unsigned int j = 0; j < topology->cpu_count; j++) {
			const struct topology_cpu *cpu = &topology->cpus[j];

			if (cpu->node == topology->cpus[i].node && cpu->allowed && cpu->first)
				value += 1 + cpu->isolated * topology->cpu_count;
		}
		if (value > best) {
			best = value;
			home = topology->cpus[i].node;
		}
	}
	return home;
}

/* Each term outweighs all that follow. */
static unsigned int worker_cost(const struct planner *p, const struct topology_cpu *cpu)
{
	return (cpu == p->control) << 5 |
	       (same_core(cpu, p->control) || worker_on_core(p, cpu, -1) >= 0) << 4 |
	       (cpu->node != p->home) << 3 | !cpu->isolated << 2 | !cpu->first << 1 |
	       same_core(cpu, topology_cpu(p->topology, 0));
}

static unsigned int control_cost(const struct planner *p, const struct topology_cpu *cpu)
{
	return (worker_on_cpu(p, cpu) >= 0) << 4 | (worker_on_core(p, cpu, -1) >= 0) << 3 |
	       cpu->isolated << 2 | (cpu->node != p->workers[0]->node) << 1 | !cpu->first;
}

/* The CPU of a number that the configuration names; NULL and the error if it can't be had. */
static const struct topology_cpu *find_named(const struct topology *topology, int number,
					     char *error)
{
	const struct topology_cpu *cpu = topology_cpu(topology, number);

	if (!cpu)
		refuse(error, "core %d doesn't exist; this machine has %s", number,
		       topology->present_list);
	else if (!cpu->allowed)
		refuse(error, "core %d is forbidden by cgroup or affinity; allowed here are %s",
		       number, topology->allowed_list);
	return cpu && cpu->allowed ? cpu : NULL;
}

/* The best of the allowed CPUs that aren't taken; NULL: none is left. */
static const struct topology_cpu *next_worker(const struct planner *p)
{
	const struct topology_cpu *best = NULL;

	for (unsigned int i = 0; i < p->topology->cpu_count; i++) {
		const struct topology_cpu *cpu = &p->topology->cpus[i];

		if (cpu->allowed && worker_on_cpu(p, cpu) < 0 &&
		    (!best || worker_cost(p, cpu) < worker_cost(p, best)))
			best = cpu;
	}
	return best;
}

static int place_workers(struct planner *p, char *error)
{
	const struct topology *topology = p->topology;
	const struct plan_request *request = p->request;
	const struct topology_cpu *cpu;

	if (request->workers < 1 || request->workers > PLAN_WORKERS_MAX) {
		refuse(error, "%u workers asked for; possible are 1 to %d", request->workers,
		       PLAN_WORKERS_MAX);
		return -EINVAL;
	}
	for (unsigned int i = 0; i < request->workers && request->cores; i++) {
		cpu = find_named(topology, request->cores[i], error);
		if (!cpu)
			return -EINVAL;
		if (worker_on_cpu(p, cpu) >= 0) {
			refuse(error,
			       "core %d is named for two workers; each needs one of its own, "
			       "allowed here are %s",
			       cpu->number, topology->allowed_list);
			return -EINVAL;
		}
		p->workers[p->worker_count++] = cpu;
	}
	while (p->worker_count < request->workers) {
		cpu = next_worker(p);
		if (!cpu) {
			refuse(error,
			       "%u workers asked for, but only %u core%s allowed here (%s): at "
			       "most %u",
			       request->workers, topology->allowed_count,
			       topology->allowed_count == 1 ? " is" : "s are",
			       topology->allowed_list, topology->allowed_count);
			return -EINVAL;
		}
		p->workers[p->worker_count++] = cpu;
	}
	return 0;
}

/* At worst the core of the last worker, which is the least good one for that anyway. */
static const struct topology_cpu *choose_control(const struct planner *p)
{
	const struct topology_cpu *best = p->workers[p->worker_count - 1];

	for (unsigned int i = 0; i < p->topology->cpu_count; i++) {
		const struct topology_cpu *cpu = &p->topology->cpus[i];

		if (cpu->allowed && control_cost(p, cpu) < control_cost(p, best))
			best = cpu;
	}
	return best;
}

static void set_thread(struct plan_thread *thread, const struct topology_cpu *cpu, bool named)
{
	thread->core = cpu->number;
	thread->node = cpu->node;
	if (named)
		because(thread, "named in the configuration");
}

static void explain_worker(struct planner *p, unsigned int i)
{
	const struct topology_cpu *cpu = p->workers[i];
	struct plan_thread *thread = &p->plan->workers[i];
	int other = worker_on_core(p, cpu, (int)i);
	const char *interface = p->plan->interface;

	set_thread(thread, cpu, p->request->cores);
	if (other >= 0)
		because(thread, "hyper-thread beside worker %d", other);
	else if (cpu == p->control)
		because(thread, "shared with the control thread");
	else if (same_core(cpu, p->control))
		because(thread, "hyper-thread beside the control thread");
	else
		because(thread, "a core of its own");
	if (other >= 0 && other < (int)i)
		warn(p->plan,
		     "workers %d and %u are hyper-threads of one core: each slows the other", other,
		     i);
	if (p->topology->node_count > 1 && p->plan->interface_node < 0) {
		because(thread, "%s's node is unknown", interface);
	} else if (p->topology->node_count > 1) {
		because(thread, "%s %s's node", cpu->node == p->home ? "on" : "away from",
			interface);
		if (cpu->node != p->home)
			warn(p->plan,
			     "worker %u is on node %d and %s on node %d: packets cross between "
			     "them",
			     i, cpu->node, interface, p->home);
	}
	if (p->isolation)
		because(thread, cpu->isolated ? "isolated" : "not isolated");
}

static void explain_control(struct planner *p)
{
	struct plan_thread *thread = &p->plan->control;
	int shared = worker_on_cpu(p, p->control), beside = worker_on_core(p, p->control, -1);

	set_thread(thread, p->control, p->request->control_core >= 0);
	if (shared >= 0) {
		because(thread, "shared with worker %d", shared);
		warn(p->plan,
		     "worker %d shares core %d with the control thread: fewer workers, or more "
		     "cores, would keep them apart",
		     shared, p->control->number);
	} else if (beside >= 0) {
		because(thread, "hyper-thread beside worker %d", beside);
		warn(p->plan, "the control thread is a hyper-thread beside worker %d and slows it",
		     beside);
	} else {
		because(thread, "free of workers");
	}
	if (p->topology->node_count > 1)
		because(thread, "%s the workers' node",
			p->control->node == p->workers[0]->node ? "on" : "away from");
	if (p->isolation)
		because(thread, p->control->isolated ? "isolated" : "not isolated");
}

/* A free sibling of the control thread's CPU, else the same: they work on the same data in turn. */
static void place_reclaimer(struct planner *p)
{
	struct plan_thread *thread = &p->plan->reclaimer;

	for (unsigned int i = 0; i < p->topology->cpu_count; i++) {
		const struct topology_cpu *cpu = &p->topology->cpus[i];

		if (cpu->allowed && cpu != p->control && same_core(cpu, p->control) &&
		    worker_on_cpu(p, cpu) < 0) {
			set_thread(thread, cpu, false);
			because(thread, "hyper-thread beside the control thread");
			return;
		}
	}
	set_thread(thread, p->control, false);
	because(thread, "with the control thread");
}

static void warn_of_topology(struct planner *p)
{
	const struct topology *topology = p->topology;
	unsigned int away = 0, unused = 0;

	if (topology->node_count > 1 && p->plan->interface_node < 0)
		warn(p->plan,
		     "%s's node is unknown (virtual, or not there): if it belongs to one, name "
		     "cores "
		     "of that",
		     p->plan->interface);
	for (unsigned int i = 0; i < topology->cpu_count; i++)
		unused += topology->cpus[i].allowed && topology->cpus[i].isolated &&
			  worker_on_core(p, &topology->cpus[i], -1) < 0;
	for (unsigned int i = 0; i < p->worker_count; i++)
		away += !p->workers[i]->isolated;
	if (unused && away)
		warn(p->plan, "%u worker%s not isolated, and isolated cores are left without one%s",
		     away, away == 1 ? " is" : "s are",
		     topology->node_count > 1 ? " (on another node?)" : "");
}

int plan_make(struct plan *plan, const struct topology *topology,
	      const struct plan_request *request, char *error)
{
	struct planner p = {.topology = topology, .request = request, .plan = plan};
	int status;

	memset(plan, 0, sizeof(*plan));
	snprintf(plan->interface, sizeof(plan->interface), "%s", request->interface);
	plan->interface_node = topology_interface_node(topology, request->interface);
	p.home = find_home(&p);
	for (unsigned int i = 0; i < topology->cpu_count; i++)
		p.isolation |= topology->cpus[i].allowed && topology->cpus[i].isolated;
	if (request->control_core >= 0) {
		p.control = find_named(topology, request->control_core, error);
		if (!p.control)
			return -EINVAL;
	}
	status = place_workers(&p, error);
	if (status < 0)
		return status;
	plan->worker_count = p.worker_count;
	if (!p.control)
		p.control = choose_control(&p);
	for (unsigned int i = 0; i < p.worker_count; i++)
		explain_worker(&p, i);
	explain_control(&p);
	place_reclaimer(&p);
	warn_of_topology(&p);
	return 0;
}

static void print_thread(FILE *file, const char *name, const struct plan_thread *thread)
{
	fprintf(file, "%-11s %4d %5d  %s\n", name, thread->core, thread->node, thread->why);
}

void plan_print(const struct plan *plan, FILE *file)
{
	char name[16];

	fprintf(file, "%-11s %4s %5s  %s\n", "thread", "core", "node", "why");
	for (unsigned int i = 0; i < plan->worker_count; i++) {
		snprintf(name, sizeof(name), "worker %u", i);
		print_thread(file, name, &plan->workers[i]);
	}
	print_thread(file, "control", &plan->control);
	print_thread(file, "reclaimer", &plan->reclaimer);
	if (plan->interface_node >= 0)
		fprintf(file, "\n%s is on node %d.\n", plan->interface, plan->interface_node);
	else
		fprintf(file, "\n%s is on no node that is known.\n", plan->interface);
	for (unsigned int i = 0; i < plan->warning_count; i++)
		fprintf(file, "warning: %s\n", plan->warnings[i]);
}

static json_t *node_json(int node)
{
	return node < 0 ? json_null() : json_integer(node);
}

static json_t *thread_json(const struct plan_thread *thread)
{
	return json_pack("{s:i, s:o, s:s}", "core", thread->core, "node", node_json(thread->node),
			 "why", thread->why);
}

json_t *plan_json(const struct plan *plan)
{
	json_t *workers = json_array(), *warnings = json_array();

	for (unsigned int i = 0; i < plan->worker_count; i++)
		json_array_append_new(workers, thread_json(&plan->workers[i]));
	for (unsigned int i = 0; i < plan->warning_count; i++)
		json_array_append_new(warnings, json_string(plan->warnings[i]));
	return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o}", "interface", plan->interface,
			 "interface_node", node_json(plan->interface_node), "workers", workers,
			 "control", thread_json(&plan->control), "reclaimer",
			 thread_json(&plan->reclaimer), "warnings", warnings);
}
