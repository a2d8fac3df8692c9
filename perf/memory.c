#include "memory.h"

#include <rte_eal.h>
#include <rte_eth_ring.h>
#include <rte_ethdev.h>
#include <rte_launch.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "buffers.h"
#include "node.h"

enum { BUFFERS = 65535 };

static const char *program = "memory";
static uint64_t random_state = 1;

void memory_fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", program, what);
	exit(1);
}

void *memory_reserve(size_t n, size_t size)
{
	void *p = calloc(n, size);

	if (!p)
		memory_fail("out of memory");
	return p;
}

uint64_t memory_random(void)
{
	random_state += UINT64_C(0x9e3779b97f4a7c15);
	return route_mix(random_state, random_state ^ UINT64_C(0xd6e8feb86659fd93));
}

void memory_put_frame(uint8_t *frame, uint32_t peer)
{
	static const uint8_t fixed[MEMORY_HEADER] = {
		2,
		0,
		0,
		0,
		0,
		1,
		2,
		0,
		0,
		0,
		0,
		2,
		0x08,
		0x00, // Ethernet
		0x45,
		0,
		0,
		0,
		0,
		0,
		0x40,
		0,
		64,
		17,
		0,
		0,
		10,
		0,
		0,
		0,
		10,
		77,
		0,
		1, // IPv4
		0,
		0,
		MEMORY_PORT >> 8,
		MEMORY_PORT & 0xff,
		0,
		0,
		0,
		0, // UDP
	};

	memcpy(frame, fixed, MEMORY_HEADER);
	wire_put32(frame + 26, 10u << 24 | peer);
	wire_put16(frame + 34, 7740);
}

static struct aead_key *make_key(const struct aead_ops *aead, struct region *region)
{
	struct aead_key *key = region_take(region, aead->key_size());
	uint8_t secret[WIRE_EXPORT_SIZE];

	for (size_t i = 0; i < sizeof(secret); i++)
		secret[i] = (uint8_t)memory_random();
	if (!key || !aead->key_init(key, WIRE_AES_256_GCM, secret))
		memory_fail("out of memory");
	return key;
}

// Takes its parts from their region in the order in which viaductd does.
static void make_session(struct memory *memory, uint32_t slot)
{
	const uint8_t down = (uint8_t)memory->config.workers;
	uint8_t frame[MEMORY_HEADER + 64] = {0};
	struct memory_session *made;
	struct session *session;
	struct region *region;
	struct frame parsed;

	region = region_new(memory->regions);
	made = region ? region_take(region, sizeof(*made)) : NULL;
	if (!made)
		memory_fail("out of memory");
	made->region = region;
	session = &made->session;
	session->index = slot;
	session->tx_budget = UINT32_MAX;
	memset(&session->relay, 0xff, sizeof(session->relay));
	session->record_max = MEMORY_MTU - WIRE_IP_OVERHEAD;
	session->lanes_up = 1;
	session->lanes_down = down;
	session->state = session_state_new(region, 1, down);
	if (!session->state)
		memory_fail("out of memory");
	session->rx[0] = make_key(memory->aead, region);
	session->tx = make_key(memory->aead, region);
	memory->up_keys[slot] = session->rx[0];
	memory_put_frame(frame, slot);
	frame_finish(frame, MEMORY_HEADER, 64);
	parsed = frame_parse(&session->endpoint, frame, sizeof(frame));
	if (!parsed.header_length ||
	    dataplane_reply_header(&session->header, frame, MEMORY_HEADER, false))
		memory_fail("its own frames are not well-formed");
	memory->sessions->slot[slot].current = session;
}

static void make_tables(struct memory *memory, const struct memory_config *config)
{
	static struct rates no_limits; // as a relay has, if none are configured
	uint8_t secret[32];

	for (size_t i = 0; i < sizeof(secret); i++)
		secret[i] = (uint8_t)memory_random();
	memory->regions = session_pool_new(NODE_ANY, 1, (uint8_t)memory->config.workers,
					   sizeof(struct memory_session), memory->aead->key_size());
	memory->sessions = session_table_new(NODE_ANY, config->slots, config->groups);
	if (!memory->regions || !memory->sessions ||
	    route_table_init(&memory->routes, memory->sessions, config->slots + config->groups,
			     secret))
		memory_fail("out of memory");
	memory->sessions->rates = &no_limits;
	memory->sequences = memory_reserve(config->sessions, sizeof(*memory->sequences));
	memory->up_keys = memory_reserve(config->sessions, sizeof(*memory->up_keys));
	for (uint32_t slot = 0; slot < config->sessions; slot++)
		make_session(memory, slot);
	for (uint32_t slot = 0; slot < config->slots; slot++) {
		struct session_slot *slots = memory->sessions->slot;
		uint64_t words[2] = {memory_random(), memory_random()};
		struct wire_id id;

		memcpy(&id, words, sizeof(id));
		slots[slot].current = slots[slot % config->sessions].current;
		if (route_set(&memory->routes, &id, slot))
			memory_fail("out of memory");
		if (slot < config->sessions)
			slots[slot].current->id = id;
	}
}

static void make_ports(struct memory *memory, uint32_t buffers, struct nic *nic)
{
	struct rte_eth_conf conf = {0};

	// as in viaductd
	memory->pool = buffers_new("buffers", buffers ? buffers : BUFFERS, 512,
				   RTE_MBUF_DEFAULT_BUF_SIZE, NODE_ANY);
	if (!memory->pool)
		memory_fail("no memory for buffers");
	memory->port.queue_count = memory->config.workers;
	for (unsigned int i = 0; i < memory->config.workers; i++) {
		char name[32];
		int device;

		snprintf(name, sizeof(name), "rx%u", i);
		memory->rx[i] = rte_ring_create(name, MEMORY_RX_RING, SOCKET_ID_ANY,
						RING_F_SP_ENQ | RING_F_SC_DEQ);
		snprintf(name, sizeof(name), "tx%u", i);
		memory->tx[i] = rte_ring_create(name, MEMORY_TX_RING, SOCKET_ID_ANY,
						RING_F_SP_ENQ | RING_F_SC_DEQ);
		if (!memory->rx[i] || !memory->tx[i])
			memory_fail("no memory for rings");
		snprintf(name, sizeof(name), "port%u", i);
		device = rte_eth_from_rings(name, &memory->rx[i], 1, &memory->tx[i], 1, 0);
		if (device < 0 || rte_eth_dev_configure((uint16_t)device, 1, 1, &conf) ||
		    rte_eth_rx_queue_setup((uint16_t)device, 0, MEMORY_RX_RING, SOCKET_ID_ANY, NULL,
					   memory->pool) ||
		    rte_eth_tx_queue_setup((uint16_t)device, 0, MEMORY_RX_RING, SOCKET_ID_ANY,
					   NULL) ||
		    rte_eth_dev_start((uint16_t)device))
			memory_fail("the in-memory port does not start");
		if (nic && nic_attach(&nic[i], (uint16_t)device, memory->pool))
			memory_fail("out of memory");
		memory->port.queues[i] = (struct port_queue){(uint16_t)device, 0, -1, memory->pool};
	}
	memory->port.interface.mac[0] = 2;
	memory->port.interface.mac[5] = 9; // nobody's
}

static void make_workers(struct memory *memory)
{
	struct dataplane_config *config = &memory->config;

	config->port = MEMORY_PORT;
	config->busy = true;
	config->sessions = memory->sessions;
	config->routes = &memory->routes;
	config->aead = memory->aead;
	memory->workers = aligned_alloc(64, config->workers * sizeof(*memory->workers));
	if (!memory->workers)
		memory_fail("out of memory");
	memset(memory->workers, 0, config->workers * sizeof(*memory->workers));
	for (unsigned int i = 0; i < config->workers; i++) {
		if (worker_init(memory->workers, i, config, &memory->port, -1))
			memory_fail("a worker does not start");
	}
}

static void start_eal(unsigned int workers)
{
	char lcores[128], *at = lcores;
	const char *arguments[16] = {program,
				     "--no-pci",
				     "--no-telemetry",
				     "--iova-mode",
				     "va",
				     "-m",
				     "512",
				     "--log-level",
				     "3",
				     "--lcores",
				     lcores,
				     "--main-lcore",
				     "0"};
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	FILE *file = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "re");
	unsigned long pages = 0;
	int n = 13;

	if (cpus < 2)
		memory_fail("needs two cores");
	at += sprintf(at, "0@%ld", cpus - 1);
	for (unsigned int i = 0; i < workers; i++)
		at += sprintf(at, ",%u@%ld", i + 1, i % (cpus - 1));
	if (file) {
		if (fscanf(file, "%lu", &pages) != 1)
			pages = 0;
		fclose(file);
	}
	if (pages * 2 >= 512) {
		arguments[n++] = "--in-memory";
	} else {
		arguments[n++] = "--no-huge";
		arguments[n++] = "--no-shconf";
	}
	if (rte_eal_init(n, (char **)(uintptr_t)arguments) < 0)
		memory_fail("EAL does not start");
}

void memory_init(struct memory *memory, const struct memory_config *config)
{
	char error[CIPHERS_ERROR_MAX];

	program = config->name;
	memset(memory, 0, sizeof(*memory));
	memory->aead = config->aead;
	memory->config.workers = config->workers;
	start_eal(config->workers);
	rcu_register_thread();
	// the generator is a worker of its own, and so is what a benchmark runs in a worker's place
	if (config->aead == &aead_cryptodev &&
	    cryptodev_start(config->aead_device, config->workers + 2, 2 * config->sessions + 1,
			    error))
		memory_fail(error);
	memory->aead_worker = config->aead->worker_new(-1);
	if (!memory->aead_worker)
		memory_fail("out of memory");
	make_tables(memory, config);
	make_ports(memory, config->buffers, config->nic);
	make_workers(memory);
}

void memory_start(struct memory *memory)
{
	for (unsigned int i = 0; i < memory->config.workers; i++) {
		atomic_store(&memory->workers[i].stop, false);
		if (worker_start(&memory->workers[i]))
			memory_fail("a worker does not start");
	}
}

void memory_stop(struct memory *memory)
{
	rcu_thread_offline();
	for (unsigned int i = 0; i < memory->config.workers; i++)
		worker_stop(&memory->workers[i]);
	rcu_thread_online();
}

void memory_wait(unsigned int worker)
{
	rcu_thread_offline();
	rte_eal_wait_lcore(worker + 1);
	rcu_thread_online();
}

static int compare(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

double memory_median(double *values, int n)
{
	qsort(values, (size_t)n, sizeof(*values), compare);
	return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}
