/*
 * Plans for machines that nobody here has: hwloc's synthetic descriptions, and XML files where a
 * description can't say it (devices, forbidden cores).
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include <linux/mempolicy.h>

#include "node.h"
#include "plan.h"
#include "region.h"

#define ONE_NODE  "numa:1 core:8 pu:1"
#define SMT       "numa:1 core:4 pu:2(indexes=0,4,1,5,2,6,3,7)" // n and n + 4 are one core
#define FOUR      "numa:4 core:4 pu:1"
#define TWO_CORES "numa:1 core:2 pu:1"
#define TWO_NODES TOPOLOGIES "two-nodes.xml" // 4 cores each; eth1 is on node 1, eth0 on either
#define CGROUP    TOPOLOGIES "cgroup.xml" // SMT, n and n + 1 are one core; 1, 2, 3, 6 are allowed

static struct plan plan;
static char error[TOPOLOGY_ERROR_MAX];

static int make_from(const struct topology_source *source, const struct plan_request *request)
{
	struct topology *topology;
	int status = topology_read(&topology, source, error);

	assert_int_equal(status, 0);
	status = plan_make(&plan, topology, request, error);
	topology_free(topology);
	return status;
}

static int make(const char *from, const char *interface, unsigned int workers)
{
	return make_from(&(struct topology_source){.from = from},
			 &(struct plan_request){
				 .interface = interface, .workers = workers, .control_core = -1});
}

static int make_named(const char *from, unsigned int workers, const int *cores, int control)
{
	return make_from(&(struct topology_source){.from = from},
			 &(struct plan_request){.interface = "eth1",
						.workers = workers,
						.cores = cores,
						.control_core = control});
}

#define assert_cores(...)                                                                          \
	assert_workers((const int[]){__VA_ARGS__}, sizeof((const int[]){__VA_ARGS__}) / sizeof(int))

static void assert_workers(const int *cores, unsigned int n)
{
	assert_int_equal(plan.worker_count, n);
	for (unsigned int i = 0; i < n; i++)
		assert_int_equal(plan.workers[i].core, cores[i]);
}

static void assert_contains(const char *text, const char *part)
{
	if (!strstr(text, part))
		fail_msg("'%s' doesn't say '%s'", text, part);
}

static void assert_warned(const char *part)
{
	for (unsigned int i = 0; i < plan.warning_count; i++)
		if (strstr(plan.warnings[i], part))
			return;
	fail_msg("no warning says '%s'", part);
}

static void test_one_node(void **state)
{
	assert_int_equal(make(ONE_NODE, "eth0", 3), 0);
	assert_cores(1, 2, 3);
	assert_int_equal(plan.control.core, 0);
	assert_int_equal(plan.reclaimer.core, 0);
	assert_int_equal(plan.workers[0].node, 0);
	assert_string_equal(plan.workers[0].why, "a core of its own");
	assert_string_equal(plan.control.why, "free of workers");
	assert_int_equal(plan.warning_count, 0);
}

static void test_two_nodes(void **state)
{
	assert_int_equal(make(TWO_NODES, "eth1", 3), 0);
	assert_int_equal(plan.interface_node, 1);
	assert_cores(4, 5, 6);
	assert_int_equal(plan.workers[0].node, 1);
	assert_string_equal(plan.workers[0].why, "a core of its own, on eth1's node");
	assert_int_equal(plan.control.core, 7);
	assert_string_equal(plan.control.why, "free of workers, on the workers' node");
	assert_int_equal(plan.warning_count, 0);
}

static void test_control_leaves_a_full_node(void **state)
{
	assert_int_equal(make(TWO_NODES, "eth1", 4), 0);
	assert_cores(4, 5, 6, 7);
	assert_int_equal(plan.control.core, 0);
	assert_int_equal(plan.control.node, 0);
	assert_string_equal(plan.control.why, "free of workers, away from the workers' node");
	assert_int_equal(plan.warning_count, 0);
}

static void test_more_workers_than_the_node_has(void **state)
{
	assert_int_equal(make(TWO_NODES, "eth1", 5), 0);
	assert_cores(4, 5, 6, 7, 1);
	assert_int_equal(plan.control.core, 0);
	assert_int_equal(plan.warning_count, 1);
	assert_warned("worker 4 is on node 0 and eth1 on node 1");
}

static void test_smt(void **state)
{
	assert_int_equal(make(SMT, "eth0", 3), 0);
	assert_cores(1, 2, 3);
	assert_int_equal(plan.control.core, 0);
	assert_int_equal(plan.reclaimer.core, 4);
	assert_string_equal(plan.reclaimer.why, "hyper-thread beside the control thread");
	assert_int_equal(plan.warning_count, 0);
}

static void test_smt_is_better_than_sharing(void **state)
{
	assert_int_equal(make(SMT, "eth0", 4), 0);
	assert_cores(1, 2, 3, 0);
	assert_int_equal(plan.control.core, 4);
	assert_int_equal(plan.warning_count, 1);
	assert_warned("the control thread is a hyper-thread beside worker 3");

	assert_int_equal(make(SMT, "eth0", 5), 0);
	assert_cores(1, 2, 3, 0, 5);
	assert_string_equal(plan.workers[4].why, "hyper-thread beside worker 0");
	assert_int_equal(plan.control.core, 4);
	assert_warned("workers 0 and 4 are hyper-threads of one core");
}

static void test_four_nodes_unknown_interface(void **state)
{
	assert_int_equal(make(FOUR, "veth0", 4), 0);
	assert_int_equal(plan.interface_node, -1);
	assert_cores(1, 2, 3, 0);
	assert_int_equal(plan.control.core, 4);
	assert_int_equal(plan.warning_count, 1);
	assert_warned("veth0's node is unknown");
}

static void test_device_between_nodes(void **state)
{
	assert_int_equal(make(TWO_NODES, "eth0", 1), 0);
	assert_int_equal(plan.interface_node, -1);
	assert_warned("eth0's node is unknown");
}

static void test_isolated(void **state)
{
	struct topology_source source = {.from = ONE_NODE, .isolated = "5-6", .affinity = "0-4,7"};
	struct plan_request request = {.interface = "eth0", .workers = 2, .control_core = -1};

	// an affinity of all that isn't isolated is the kernel's default
	assert_int_equal(make_from(&source, &request), 0);
	assert_cores(5, 6);
	assert_int_equal(plan.control.core, 0);
	assert_string_equal(plan.workers[0].why, "a core of its own, isolated");
	assert_string_equal(plan.control.why, "free of workers, not isolated");
	assert_int_equal(plan.warning_count, 0);

	// a narrower one is a wish
	source.affinity = "0-4";
	assert_int_equal(make_from(&source, &request), 0);
	assert_cores(1, 2);
}

static void test_isolated_on_the_other_node(void **state)
{
	struct topology_source source = {.from = TWO_NODES, .isolated = "1-3"};
	struct plan_request request = {.interface = "eth1", .workers = 2, .control_core = -1};

	assert_int_equal(make_from(&source, &request), 0);
	assert_cores(4, 5);
	assert_warned("isolated cores are left without one");

	// nothing known of the interface: the node that was made ready
	request.interface = "veth0";
	assert_int_equal(make_from(&source, &request), 0);
	assert_cores(1, 2);
	assert_int_equal(plan.control.core, 0);
}

static void test_control_stays_off_isolated_cores(void **state)
{
	struct topology_source source = {.from = TWO_NODES, .isolated = "4-7"};
	struct plan_request request = {.interface = "eth1", .workers = 2, .control_core = -1};

	assert_int_equal(make_from(&source, &request), 0);
	assert_cores(4, 5);
	assert_int_equal(plan.control.core, 0);
}

static void test_cgroup(void **state)
{
	int forbidden = 4;

	assert_int_equal(make(CGROUP, "eth0", 2), 0);
	assert_cores(2, 6); // 1 is the second thread of CPU 0's core
	assert_int_equal(plan.control.core, 1);

	assert_int_equal(make(CGROUP, "eth0", 5), -EINVAL);
	assert_string_equal(error,
			    "5 workers asked for, but only 4 cores are allowed here (1-3,6): "
			    "at most 4");
	assert_int_equal(make_named(CGROUP, 1, &forbidden, -1), -EINVAL);
	assert_string_equal(error, "core 4 is forbidden by cgroup or affinity; allowed here are "
				   "1-3,6");
}

static void test_two_cores(void **state)
{
	assert_int_equal(make(TWO_CORES, "eth0", 1), 0);
	assert_cores(1);
	assert_int_equal(plan.control.core, 0);
	assert_int_equal(plan.warning_count, 0);

	assert_int_equal(make(TWO_CORES, "eth0", 2), 0);
	assert_cores(1, 0);
	assert_int_equal(plan.control.core, 0);
	assert_int_equal(plan.reclaimer.core, 0);
	assert_string_equal(plan.workers[1].why, "shared with the control thread");
	assert_string_equal(plan.control.why, "shared with worker 1");
	assert_int_equal(plan.warning_count, 1);
	assert_warned("worker 1 shares core 0 with the control thread");

	assert_int_equal(make(TWO_CORES, "eth0", 4), -EINVAL);
	assert_string_equal(error,
			    "4 workers asked for, but only 2 cores are allowed here (0-1): at "
			    "most 2");
}

static void test_one_core(void **state)
{
	assert_int_equal(make("numa:1 core:1 pu:1", "eth0", 1), 0);
	assert_cores(0);
	assert_int_equal(plan.control.core, 0);
	assert_int_equal(make("numa:1 core:1 pu:1", "eth0", 2), -EINVAL);
	assert_contains(error, "only 1 core is allowed here (0): at most 1");
}

static void test_named_cores(void **state)
{
	assert_int_equal(make_named(TWO_NODES, 2, (int[]){6, 2}, -1), 0);
	assert_cores(6, 2);
	assert_int_equal(plan.control.core, 4);
	assert_contains(plan.workers[0].why, "named in the configuration");
	assert_warned("worker 1 is on node 0 and eth1 on node 1");

	assert_int_equal(make_named(TWO_NODES, 1, (int[]){9}, -1), -EINVAL);
	assert_string_equal(error, "core 9 doesn't exist; this machine has 0-7");
	assert_int_equal(make_named(TWO_NODES, 2, (int[]){3, 3}, -1), -EINVAL);
	assert_contains(error, "core 3 is named for two workers");
}

static void test_named_control_core(void **state)
{
	assert_int_equal(make_named(TWO_NODES, 4, NULL, 5), 0);
	assert_cores(4, 6, 7, 1);
	assert_int_equal(plan.control.core, 5);

	assert_int_equal(make_named(TWO_CORES, 2, (int[]){0, 1}, 1), 0);
	assert_cores(0, 1);
	assert_int_equal(plan.control.core, 1);
	assert_warned("worker 1 shares core 1 with the control thread");

	assert_int_equal(make_named(TWO_CORES, 1, NULL, 2), -EINVAL);
	assert_string_equal(error, "core 2 doesn't exist; this machine has 0-1");
}

static void test_no_worker(void **state)
{
	assert_int_equal(make(TWO_CORES, "eth0", 0), -EINVAL);
	assert_string_equal(error, "0 workers asked for; possible are 1 to 32");
}

static void test_bad_sources(void **state)
{
	struct topology *topology;

	assert_int_equal(
		topology_read(&topology, &(struct topology_source){.from = "no/such.xml"}, error),
		-EINVAL);
	assert_contains(error, "'no/such.xml' is neither");
	assert_int_equal(topology_read(&topology,
				       &(struct topology_source){.from = TOPOLOGIES "numa.c"},
				       error),
			 -EINVAL);
	assert_contains(error, "numa.c' is neither");
	assert_int_equal(topology_read(&topology,
				       &(struct topology_source){.from = ONE_NODE, .isolated = "x"},
				       error),
			 -EINVAL);
	assert_contains(error, "'x' is not a list of cores");
}

static void test_this_machine(void **state)
{
	assert_int_equal(make(NULL, "lo", 1), 0);
	assert_int_equal(plan.interface_node, -1);
	assert_in_range(plan.workers[0].core, 0, sysconf(_SC_NPROCESSORS_CONF) - 1);
}

static void test_print(void **state)
{
	char *text;
	size_t size;
	FILE *file = open_memstream(&text, &size);

	assert_int_equal(make(TWO_NODES, "eth1", 1), 0);
	plan_print(&plan, file);
	fclose(file);
	assert_string_equal(text, "thread      core  node  why\n"
				  "worker 0       4     1  a core of its own, on eth1's node\n"
				  "control        5     1  free of workers, on the workers' node\n"
				  "reclaimer      5     1  with the control thread\n"
				  "\n"
				  "eth1 is on node 1.\n");
	free(text);
}

static void test_json(void **state)
{
	json_t *json, *worker, *warnings;

	assert_int_equal(make(FOUR, "veth0", 2), 0);
	json = plan_json(&plan);
	worker = json_array_get(json_object_get(json, "workers"), 1);
	warnings = json_object_get(json, "warnings");
	assert_true(json_is_null(json_object_get(json, "interface_node")));
	assert_int_equal(json_integer_value(json_object_get(worker, "core")), 2);
	assert_int_equal(json_integer_value(json_object_get(worker, "node")), 0);
	assert_int_equal(json_array_size(warnings), 1);
	assert_contains(json_string_value(json_array_get(warnings, 0)), "veth0");
	json_decref(json);
}

/* The size is odd, so that a sanitizer sees a byte too many. */
static void test_node_memory(void **state)
{
	const size_t size = 3000001;
	const int nodes[] = {NODE_ANY, 0, NODE_MAX};

	for (unsigned int i = 0; i < sizeof(nodes) / sizeof(nodes[0]); i++) {
		for (int again = 0; again < 2; again++) {
			unsigned char *memory = node_alloc(nodes[i], 64, size);

			assert_non_null(memory);
			assert_int_equal((uintptr_t)memory % 64, 0);
			for (size_t j = 0; j < size; j++)
				assert_true(memory[j] == 0);
			memset(memory, 0xff, size);
			node_free(memory);
		}
	}
	node_free(NULL);
}

enum { BIG = 200, SMALL = 100, REGIONS = 1000 }; // two sizes of places

static struct region_pool *big_small_small(void)
{
	const size_t sizes[] = {BIG, SMALL, SMALL};
	struct region_pool *pool = region_pool_new(0, sizes, 3);

	assert_non_null(pool);
	return pool;
}

static uint8_t *take(struct region *region, size_t size)
{
	uint8_t *memory = region_take(region, size);

	assert_non_null(memory);
	assert_int_equal((uintptr_t)memory % REGION_ALIGN, 0);
	for (size_t i = 0; i < size; i++)
		assert_true(memory[i] == 0);
	memset(memory, 0xff, size);
	return memory;
}

/* Places side by side, in order, whoever comes first; and whoever goes leaves one for the next. */
static void test_region(void **state)
{
	struct region_pool *pool = big_small_small();
	struct region *region = region_new(pool);
	uint8_t *small, *big, *last, *elsewhere, *again;

	assert_non_null(region);
	small = take(region, SMALL);
	big = take(region, BIG);
	last = take(region, SMALL);
	assert_ptr_equal(small, big + 256);
	assert_ptr_equal(last, small + 128);

	elsewhere = take(region, SMALL); // there is no place left
	assert_true(elsewhere < big || elsewhere > last);
	region_give(region, small);
	again = take(region, SMALL);
	assert_ptr_equal(again, small);
	region_give(region, NULL);

	region_close(region);
	region_give(region, big);
	region_give(region, again);
	region_give(region, elsewhere);
	region_give(region, last);
	region_pool_close(pool);
	region_pool_close(NULL);
	region_close(NULL);
}

/* A closed region is nobody's before all has been given back, and then the next one is in it. */
static void test_region_is_used_again(void **state)
{
	struct region_pool *pool = big_small_small();
	struct region *first = region_new(pool), *second;
	uint8_t *memory = take(first, BIG), *other;

	region_close(first);
	for (int i = 0; i < REGIONS; i++) {
		second = region_new(pool);
		other = take(second, BIG);
		assert_ptr_not_equal(other, memory);
		region_give(second, other);
		region_close(second);
	}
	region_give(first, memory);
	for (int i = 0; i < REGIONS && other != memory; i++) {
		second = region_new(pool);
		other = take(second, BIG);
		region_give(second, other);
		region_close(second);
	}
	assert_ptr_equal(other, memory);
	region_pool_close(pool);
}

/* The same places of all regions fall into all sets of a cache. */
static void test_regions_are_spread(void **state)
{
	enum { SETS = 64 };
	struct region_pool *pool = big_small_small();
	static struct region *regions[REGIONS];
	static void *memory[REGIONS];
	unsigned int sets[SETS] = {0};

	for (int i = 0; i < REGIONS; i++) {
		regions[i] = region_new(pool);
		memory[i] = take(regions[i], SMALL);
		sets[(uintptr_t)memory[i] / REGION_ALIGN % SETS]++;
	}
	for (int i = 0; i < SETS; i++)
		assert_in_range(sets[i], REGIONS / SETS / 2, REGIONS / SETS * 2);
	region_pool_close(pool); // goes when they have gone
	for (int i = 0; i < REGIONS; i++) {
		region_close(regions[i]);
		region_give(regions[i], memory[i]);
	}
}

#ifdef NUMA_JEMALLOC
/* All of it is given back, elsewhere or not. */
static void test_region_bytes(void **state)
{
	size_t before = node_bytes(0);
	struct region_pool *pool = big_small_small();
	struct region *region = region_new(pool);
	void *memory[5];

	for (int i = 0; i < 5; i++)
		memory[i] = region_take(region, SMALL);
	region_pool_close(pool);
	region_close(region);
	assert_true(node_bytes(0) > before);
	for (int i = 0; i < 5; i++)
		region_give(region, memory[i]);
	assert_int_equal(node_bytes(0), before);
}

static void test_node_bytes(void **state)
{
	size_t before = node_bytes(0), any = node_bytes(NODE_ANY);
	void *small = node_alloc(0, 8, 100), *large = node_alloc(0, 64, 1 << 20);

	assert_in_range(node_bytes(0) - before, 100 + (1 << 20), 2 << 20);
	assert_int_equal(node_bytes(NODE_ANY), any);
	node_free(small);
	node_free(large);
	assert_int_equal(node_bytes(0), before);
	assert_null(node_alloc(0, 64, SIZE_MAX / 2));
}

/* Whether a page is bound to node 0; where a container forbids the question, it is taken as such.
 */
static bool bound(void *memory)
{
	uint64_t mask[16] = {0};
	int mode = -1;

	if (syscall(SYS_get_mempolicy, &mode, mask, sizeof(mask) * 8, memory, MPOL_F_ADDR) < 0)
		return errno == EPERM || errno == ENOSYS;
	return mode == MPOL_PREFERRED && mask[0] == 1;
}

static void test_node_is_bound(void **state)
{
	void *memory = node_alloc(0, 64, 1 << 20);

	assert_true(bound(memory));
	node_free(memory);
}

/* Ordinary memory, as libraries take it. */
static void *prefer(void *memory)
{
	void **out = memory;

	assert_int_equal(node_prefer(0), 0);
	out[0] = aligned_alloc(64, 1 << 20);
	out[1] = malloc(100);
	return NULL;
}

static void test_node_prefer(void **state)
{
	size_t before = node_bytes(0);
	void *memory[2];
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, prefer, memory), 0);
	pthread_join(thread, NULL);
	assert_true(bound(memory[0]));
	assert_true(bound(memory[1]));
	assert_true(node_bytes(0) > before);
	free(memory[0]);
	free(memory[1]);
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_node),
		cmocka_unit_test(test_two_nodes),
		cmocka_unit_test(test_control_leaves_a_full_node),
		cmocka_unit_test(test_more_workers_than_the_node_has),
		cmocka_unit_test(test_smt),
		cmocka_unit_test(test_smt_is_better_than_sharing),
		cmocka_unit_test(test_four_nodes_unknown_interface),
		cmocka_unit_test(test_device_between_nodes),
		cmocka_unit_test(test_isolated),
		cmocka_unit_test(test_isolated_on_the_other_node),
		cmocka_unit_test(test_control_stays_off_isolated_cores),
		cmocka_unit_test(test_cgroup),
		cmocka_unit_test(test_two_cores),
		cmocka_unit_test(test_one_core),
		cmocka_unit_test(test_named_cores),
		cmocka_unit_test(test_named_control_core),
		cmocka_unit_test(test_no_worker),
		cmocka_unit_test(test_bad_sources),
		cmocka_unit_test(test_this_machine),
		cmocka_unit_test(test_print),
		cmocka_unit_test(test_json),
		cmocka_unit_test(test_node_memory),
		cmocka_unit_test(test_region),
		cmocka_unit_test(test_region_is_used_again),
		cmocka_unit_test(test_regions_are_spread),
#ifdef NUMA_JEMALLOC
		cmocka_unit_test(test_region_bytes),
		cmocka_unit_test(test_node_bytes),
		cmocka_unit_test(test_node_is_bound),
		cmocka_unit_test(test_node_prefer),
#endif
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
