/*
 * Route tables compared: liburcu's cds_lfht, DPDK's rte_hash (bulk look-up, lock-free readers) and
 * router/route.h. Bursts of 32 destinations, as a worker looks them up, up to the pointer of the
 * session; 10,000 and 1,000,000 entries, uniform and Zipf (s = 1), without updates and with 10,000
 * a second from another thread. Prints a table, or JSON with --json.
 */
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <rte_eal.h>
#include <rte_hash.h>
#include <urcu-qsbr.h>
#include <urcu/rculfhash.h>

#include "route.h"

enum {
	BURST = 32,
	TRACE = 1 << 20, // destinations, drawn beforehand
	UPDATES_PER_S = 10000,
};

struct lfht_hop {
	struct wire_id id;
	uint32_t slot;
	struct cds_lfht_node node;
	struct rcu_head rcu;
};

static struct session_table *sessions;
static struct route_table routes;
static struct cds_lfht *lfht;
static struct rte_hash *rte;
static struct wire_id *ids;
static uint32_t *trace;

static uint64_t random_next(uint64_t *state)
{
	*state += UINT64_C(0x9e3779b97f4a7c15);
	return route_mix(*state, *state ^ UINT64_C(0xd6e8feb86659fd93));
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void *reserve(size_t n, size_t size)
{
	void *p = calloc(n, size);

	if (!p) {
		fprintf(stderr, "routes: out of memory\n");
		exit(1);
	}
	return p;
}

/* One table behind the benchmark. */
struct table {
	const char *name;
	void (*set)(uint32_t slot);
	void (*unset)(uint32_t slot);
	void (*find)(const struct wire_id *const *keys, const struct session **out);
};

static int lfht_match(struct cds_lfht_node *node, const void *key)
{
	return wire_id_equal(&caa_container_of(node, struct lfht_hop, node)->id, key);
}

static void lfht_free(struct rcu_head *head)
{
	free(caa_container_of(head, struct lfht_hop, rcu));
}

static void lfht_set(uint32_t slot)
{
	struct lfht_hop *hop = reserve(1, sizeof(*hop));

	hop->id = ids[slot];
	hop->slot = slot;
	cds_lfht_add(lfht, route_hash(&routes, &hop->id), &hop->node);
}

static void lfht_unset(uint32_t slot)
{
	struct cds_lfht_iter iter;
	struct cds_lfht_node *node;

	cds_lfht_lookup(lfht, route_hash(&routes, &ids[slot]), lfht_match, &ids[slot], &iter);
	node = cds_lfht_iter_get_node(&iter);
	if (node && !cds_lfht_del(lfht, node))
		call_rcu(&caa_container_of(node, struct lfht_hop, node)->rcu, lfht_free);
}

static void lfht_find(const struct wire_id *const *keys, const struct session **out)
{
	const struct session_slot *slots[BURST];

	for (int i = 0; i < BURST; i++) {
		struct cds_lfht_iter iter;
		struct cds_lfht_node *node;

		cds_lfht_lookup(lfht, route_hash(&routes, keys[i]), lfht_match, keys[i], &iter);
		node = cds_lfht_iter_get_node(&iter);
		slots[i] =
			node ? &sessions->slot[caa_container_of(node, struct lfht_hop, node)->slot]
			     : NULL;
		if (slots[i])
			__builtin_prefetch(slots[i]);
	}
	for (int i = 0; i < BURST; i++)
		out[i] = slots[i] ? rcu_dereference(slots[i]->current) : NULL;
}

static void rte_set(uint32_t slot)
{
	rte_hash_add_key_with_hash_data(rte, &ids[slot],
					(hash_sig_t)route_hash(&routes, &ids[slot]),
					&sessions->slot[slot]);
}

static void rte_unset(uint32_t slot)
{
	rte_hash_del_key_with_hash(rte, &ids[slot], (hash_sig_t)route_hash(&routes, &ids[slot]));
}

static void rte_find(const struct wire_id *const *keys, const struct session **out)
{
	hash_sig_t hashes[BURST];
	const void *pointers[BURST];
	void *data[BURST];
	uint64_t hit = 0;

	for (int i = 0; i < BURST; i++) {
		pointers[i] = keys[i];
		hashes[i] = (hash_sig_t)route_hash(&routes, keys[i]);
	}
	rte_hash_lookup_with_hash_bulk_data(rte, pointers, hashes, BURST, &hit, data);
	for (int i = 0; i < BURST; i++) {
		if (hit >> i & 1)
			__builtin_prefetch(data[i]);
	}
	for (int i = 0; i < BURST; i++) {
		const struct session_slot *slot = data[i];

		out[i] = hit >> i & 1 ? rcu_dereference(slot->current) : NULL;
	}
}

static void own_set(uint32_t slot)
{
	if (route_set(&routes, &ids[slot], slot))
		exit(1);
}

static void own_unset(uint32_t slot)
{
	route_remove(&routes, &ids[slot]);
}

static void own_find(const struct wire_id *const *keys, const struct session **out)
{
	uint64_t hashes[BURST];
	const struct session_slot *guesses[BURST];

	for (int i = 0; i < BURST; i++) {
		hashes[i] = route_hash(&routes, keys[i]);
		route_prefetch(&routes, hashes[i]);
	}
	for (int i = 0; i < BURST; i++)
		guesses[i] = route_guess(&routes, hashes[i]);
	for (int i = 0; i < BURST; i++) {
		const struct session_slot *slot =
			route_confirm(&routes, keys[i], hashes[i], guesses[i]);

		out[i] = slot ? rcu_dereference(slot->current) : NULL;
	}
}

static const struct table tables[] = {
	{"cds_lfht", lfht_set, lfht_unset, lfht_find},
	{"rte_hash", rte_set, rte_unset, rte_find},
	{"viaduct", own_set, own_unset, own_find},
};

struct churn {
	const struct table *table;
	uint32_t count;
	uint64_t made;
	int stop;
};

/* Removes and adds entries above `count`, a half each. */
static void *churn_run(void *arg)
{
	struct churn *churn = arg;
	double begin = now();
	uint64_t random = 7;
	bool there = true;
	uint32_t slot = 0;

	rcu_register_thread();
	while (!__atomic_load_n(&churn->stop, __ATOMIC_RELAXED)) {
		if ((double)churn->made < (now() - begin) * UPDATES_PER_S) {
			if (there)
				slot = (uint32_t)(random_next(&random) % churn->count);
			(there ? churn->table->unset : churn->table->set)(slot);
			there = !there;
			churn->made++;
		}
		rcu_quiescent_state();
	}
	if (!there)
		churn->table->set(slot);
	rcu_unregister_thread();
	return NULL;
}

/* Nanoseconds a look-up. `missed`: how many found nothing (only those that churn had removed). */
static double measure(const struct table *table, uint32_t count, bool updates, double seconds,
		      uint64_t *missed, uint64_t *made)
{
	struct churn churn = {.table = table, .count = count};
	const struct session *out[BURST];
	const struct wire_id *keys[BURST];
	uint64_t lookups = 0;
	uint32_t at = 0;
	pthread_t thread;
	double begin, spent;

	*missed = 0;
	if (updates && pthread_create(&thread, NULL, churn_run, &churn))
		exit(1);
	begin = now();
	do {
		for (int round = 0; round < 256; round++) {
			for (int i = 0; i < BURST; i++)
				keys[i] = &ids[trace[at++ % TRACE]];
			table->find(keys, out);
			for (int i = 0; i < BURST; i++)
				*missed += out[i] == NULL;
			rcu_quiescent_state();
		}
		lookups += 256 * BURST;
		spent = now() - begin;
	} while (spent < seconds);
	if (updates) {
		__atomic_store_n(&churn.stop, 1, __ATOMIC_RELAXED);
		rcu_thread_offline();
		pthread_join(thread, NULL);
		rcu_thread_online();
	}
	*made = churn.made;
	return spent * 1e9 / (double)lookups;
}

static void draw(uint32_t count, bool zipf, uint64_t *random)
{
	for (uint32_t i = 0; i < TRACE; i++) {
		double u = (double)(random_next(random) >> 11) * 0x1p-53;

		// s = 1: the inverse of the (continuous) distribution is count^u
		trace[i] = zipf ? (uint32_t)(pow(count, u) - 1) : (uint32_t)(u * count);
	}
}

int main(int argc, char **argv)
{
	static const uint32_t counts[] = {10000, 1000000};
	static const uint8_t secret[32] = "a secret of thirty-two bytes....";
	const char *eal[] = {"routes", "--no-huge", "--no-shconf", "--no-pci", "--no-telemetry",
			     "-m",     "512",       "--log-level", "3",        "-l",
			     "0"};
	bool json = argc > 1 && !strcmp(argv[1], "--json");
	const char *separator = "";
	uint64_t random = 1;

	if (rte_eal_init(sizeof(eal) / sizeof(eal[0]), (char **)(uintptr_t)eal) < 0) {
		fprintf(stderr, "routes: EAL does not start\n");
		return 1;
	}
	rcu_register_thread();
	trace = reserve(TRACE, sizeof(*trace));
	if (json)
		printf("[");
	else
		printf("%-9s %9s %-8s %9s %9s\n", "table", "entries", "keys", "updates/s", "ns");
	for (int c = 0; c < 2; c++) {
		uint32_t count = counts[c];
		struct rte_hash_parameters parameters = {
			.name = c ? "large" : "small",
			.entries = count * 2,
			.key_len = sizeof(struct wire_id),
			.socket_id = SOCKET_ID_ANY,
			.extra_flag = RTE_HASH_EXTRA_FLAGS_RW_CONCURRENCY_LF,
		};

		ids = reserve(count, sizeof(*ids));
		sessions = session_table_new(NODE_ANY, count, 0);
		lfht = cds_lfht_new(c ? 1 << 20 : 1 << 14, 1024, 0, CDS_LFHT_AUTO_RESIZE, NULL);
		rte = rte_hash_create(&parameters);
		if (!sessions || !lfht || !rte ||
		    route_table_init(&routes, sessions, count, secret)) {
			fprintf(stderr, "routes: out of memory\n");
			return 1;
		}
		for (uint32_t i = 0; i < count; i++) {
			uint64_t words[2] = {random_next(&random), random_next(&random)};

			memcpy(&ids[i], words, sizeof(ids[i]));
			sessions->slot[i].current = (struct session *)(uintptr_t)(64 + i);
			for (int t = 0; t < 3; t++)
				tables[t].set(i);
		}
		for (int zipf = 0; zipf < 2; zipf++) {
			draw(count, zipf, &random);
			for (int updates = 0; updates < 2; updates++) {
				// in turn, medians of five, so that a noisy neighbour hits all
				// alike
				double ns[3][5];
				uint64_t missed[3] = {0}, made[3] = {0}, m, n;

				for (int run = 0; run < 5; run++) {
					for (int t = 0; t < 3; t++) {
						ns[t][run] = measure(&tables[t], count, updates,
								     0.25, &m, &n);
						missed[t] += m;
						made[t] += n;
					}
				}
				for (int t = 0; t < 3; t++) {
					double median;

					for (int i = 0; i < 5; i++) {
						for (int j = i + 1; j < 5; j++) {
							if (ns[t][j] < ns[t][i]) {
								median = ns[t][i];
								ns[t][i] = ns[t][j];
								ns[t][j] = median;
							}
						}
					}
					median = ns[t][2];
					if (missed[t] && !updates) {
						fprintf(stderr, "routes: %s lost entries\n",
							tables[t].name);
						return 1;
					}
					if (json)
						printf("%s\n{\"table\": \"%s\", \"entries\": %u, "
						       "\"keys\": \"%s\", \"updates_per_s\": %.0f, "
						       "\"ns\": %.1f}",
						       separator, tables[t].name, count,
						       zipf ? "zipf" : "uniform",
						       (double)made[t] / 1.25, median);
					else
						printf("%-9s %9u %-8s %9.0f %9.1f\n",
						       tables[t].name, count,
						       zipf ? "zipf" : "uniform",
						       (double)made[t] / 1.25, median);
					separator = ",";
					fflush(stdout);
				}
			}
		}
	}
	if (json)
		printf("\n]\n");
	return 0;
}
