#include "dataplane.h"

#include <errno.h>
#include <rte_ring_elem.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "ciphers.h"
#include "eal.h"
#include "report.h"
#include "worker.h"

enum {
	// for EAL, drivers and rings
	MEMORY_BASE = 8 << 20,
	MEMORY_WORKER = 2 << 20,

	// of a slot's sessions, with those that come and go, and of all slots
	KEYS_SLOT = 4,
	KEYS_BASE = 256,
};

_Static_assert((int)CIPHERS_ERROR_MAX <= (int)DATAPLANE_ERROR_MAX, "errors are passed on");

_Static_assert((int)XDP_SOURCES == (int)DATAPLANE_BLOCKED_MAX &&
		       (int)FILTER_MAX == (int)DATAPLANE_BLOCKED_MAX,
	       "the program's map and a filter have them all");

struct dataplane {
	struct port port;
	unsigned int worker_count;
	struct worker *workers;
	unsigned int first; // worker whose events are taken first, in turn
	int event_fd;
};

static const char *const driver_names[] = {
	[DATAPLANE_AUTO] = "auto",
	[DATAPLANE_AF_XDP] = "af_xdp",
	[DATAPLANE_AF_PACKET] = "af_packet",
};

static unsigned int keys_most(const struct dataplane_config *config)
{
	return KEYS_SLOT * config->sessions->slots + KEYS_BASE;
}

static int eal_begin(struct dataplane *dataplane, const struct dataplane_config *config,
		     char *error)
{
	size_t bytes = port_memory(config) + MEMORY_BASE + config->workers * (size_t)MEMORY_WORKER;

	if (config->aead == &aead_cryptodev)
		bytes += cryptodev_memory(keys_most(config));
	return eal_start(config, (bytes >> 20) + 1, error);
}

static void eal_end(struct dataplane *dataplane)
{
	eal_stop();
}

static int cipher_begin(struct dataplane *dataplane, const struct dataplane_config *config,
			char *error)
{
	if (config->aead != &aead_cryptodev)
		return 0;
	return cryptodev_start(config->aead_device, config->workers, keys_most(config), error);
}

static void cipher_end(struct dataplane *dataplane)
{
	cryptodev_stop();
}

static int interface_begin(struct dataplane *dataplane, const struct dataplane_config *config,
			   char *error)
{
	return interface_init(&dataplane->port.interface, config, error);
}

static void interface_end(struct dataplane *dataplane)
{
	interface_fini(&dataplane->port.interface);
}

static int port_begin(struct dataplane *dataplane, const struct dataplane_config *config,
		      char *error)
{
	return port_start(&dataplane->port, config, error);
}

static void port_end(struct dataplane *dataplane)
{
	port_stop(&dataplane->port);
}

static void workers_end(struct dataplane *dataplane)
{
	for (unsigned int i = 0; i < dataplane->worker_count; i++)
		worker_stop(&dataplane->workers[i]);
	for (unsigned int i = 0; i < dataplane->worker_count; i++)
		worker_fini(&dataplane->workers[i]);
	free(dataplane->workers);
	close(dataplane->event_fd);
}

static int workers_begin(struct dataplane *dataplane, const struct dataplane_config *config,
			 char *error)
{
	size_t size = config->workers * sizeof(struct worker);
	int r = 0;

	dataplane->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (dataplane->event_fd < 0)
		return -errno;
	dataplane->workers = aligned_alloc(64, size);
	if (!dataplane->workers) {
		close(dataplane->event_fd);
		return -ENOMEM;
	}
	memset(dataplane->workers, 0, size);
	dataplane->worker_count = config->workers;
	for (unsigned int i = 0; i < config->workers; i++)
		dataplane->workers[i].wake = -1;
	for (unsigned int i = 0; i < config->workers && r == 0; i++)
		r = worker_init(dataplane->workers, i, config, &dataplane->port,
				dataplane->event_fd);
	for (unsigned int i = 0; i < config->workers && r == 0; i++)
		r = worker_start(&dataplane->workers[i]);
	if (r)
		workers_end(dataplane);
	return r;
}

// In order; stopping goes backwards.
static const struct {
	const char *name;
	int (*begin)(struct dataplane *dataplane, const struct dataplane_config *config,
		     char *error);
	void (*end)(struct dataplane *dataplane);
} stages[] = {
	{"interface", interface_begin, interface_end}, {"EAL", eal_begin, eal_end},
	{"cipher", cipher_begin, cipher_end},          {"port", port_begin, port_end},
	{"workers", workers_begin, workers_end},
};

enum { STAGES = sizeof(stages) / sizeof(stages[0]) };

int dataplane_start(struct dataplane **out, const struct dataplane_config *config,
		    dataplane_log *log, char *error)
{
	struct dataplane *dataplane = calloc(1, sizeof(*dataplane));
	int stage = 0;
	int r = -ENOMEM;

	*error = 0;
	if (!dataplane)
		goto out;
	r = report_init(log);
	if (r)
		goto out;
	while (stage < STAGES && r == 0) {
		r = stages[stage].begin(dataplane, config, error);
		if (r == 0)
			stage++;
	}
	if (r == 0) {
		*out = dataplane;
		return 0;
	}
	if (!*error)
		snprintf(error, DATAPLANE_ERROR_MAX, "starting the dataplane's %s failed: %s",
			 stages[stage].name, strerror(-r));
	while (stage--)
		stages[stage].end(dataplane);
	report_fini();
out:
	if (!*error)
		snprintf(error, DATAPLANE_ERROR_MAX, "no memory for the dataplane");
	free(dataplane);
	return r;
}

void dataplane_stop(struct dataplane *dataplane)
{
	for (int stage = STAGES; stage--;)
		stages[stage].end(dataplane);
	report_fini();
	free(dataplane);
}

enum dataplane_driver dataplane_driver(const struct dataplane *dataplane)
{
	return dataplane->port.driver;
}

bool dataplane_takes_trains(const struct dataplane *dataplane)
{
	return dataplane->port.driver == DATAPLANE_AF_XDP && xdp_is_native(&dataplane->port.xdp);
}

const char *dataplane_driver_name(enum dataplane_driver driver)
{
	return driver_names[driver];
}

bool dataplane_huge_pages(const struct dataplane *dataplane)
{
	return eal_huge_pages();
}

unsigned int dataplane_worker_of(const struct dataplane *dataplane, uint32_t index)
{
	return wire_slot(index) % dataplane->worker_count;
}

int dataplane_send(struct dataplane *dataplane, const struct forward_command *command)
{
	struct worker *worker = &dataplane->workers[dataplane_worker_of(dataplane, command->index)];

	if (rte_ring_sp_enqueue_elem(worker->commands, (void *)command, sizeof(*command)))
		return -EAGAIN;
	worker_wake(worker);
	return 0;
}

unsigned int dataplane_events(struct dataplane *dataplane, struct forward_event *events,
			      unsigned int n)
{
	unsigned int workers = dataplane->worker_count;
	unsigned int sum = 0;

	for (unsigned int i = 0; i < workers; i++) {
		struct worker *worker = &dataplane->workers[(dataplane->first + i) % workers];
		unsigned int share = (n - sum + workers - i - 1) / (workers - i);

		sum += rte_ring_sc_dequeue_burst_elem(worker->events, &events[sum],
						      sizeof(events[0]), share, NULL);
	}
	if (++dataplane->first == workers)
		dataplane->first = 0;
	return sum;
}

int dataplane_event_fd(const struct dataplane *dataplane)
{
	return dataplane->event_fd;
}

void dataplane_worker(const struct dataplane *dataplane, unsigned int number,
		      struct dataplane_worker *out)
{
	const struct worker *worker = &dataplane->workers[number];

	memset(out, 0, sizeof(*out));
	out->core = worker->core;
	out->queue = worker->number;
	out->sleeping = atomic_load_explicit(&worker->sleeping, memory_order_relaxed);
	counters_add(&out->counters, &worker->published);
}

void dataplane_kernel_drops(struct dataplane *dataplane, struct dataplane_kernel_drops *out)
{
	port_drops(&dataplane->port, out);
}

// Whether the XDP program drops what comes from blocked sources; else the workers do.
static bool port_blocks(const struct dataplane *dataplane)
{
	return dataplane->port.driver == DATAPLANE_AF_XDP;
}

int dataplane_block(struct dataplane *dataplane, const uint64_t source[2])
{
	int r = 0;

	if (port_blocks(dataplane))
		return xdp_block(&dataplane->port.xdp, source);
	// the filters are alike: if it doesn't work, it is the first that says so
	for (unsigned int i = 0; i < dataplane->worker_count && r == 0; i++)
		r = filter_block(&dataplane->workers[i].filter, source);
	return r;
}

int dataplane_unblock(struct dataplane *dataplane, const uint64_t source[2])
{
	int r = 0;

	if (port_blocks(dataplane))
		return xdp_unblock(&dataplane->port.xdp, source);
	for (unsigned int i = 0; i < dataplane->worker_count && r == 0; i++)
		r = filter_unblock(&dataplane->workers[i].filter, source);
	return r;
}

uint64_t dataplane_dropped_from(const struct dataplane *dataplane, const uint64_t source[2])
{
	uint64_t sum = 0;

	if (port_blocks(dataplane))
		return xdp_dropped_from(&dataplane->port.xdp, source);
	for (unsigned int i = 0; i < dataplane->worker_count; i++)
		sum += filter_dropped(&dataplane->workers[i].filter, source);
	return sum;
}

uint64_t dataplane_dropped(const struct dataplane *dataplane)
{
	struct counters counters = {0};

	if (port_blocks(dataplane))
		return xdp_dropped(&dataplane->port.xdp);
	for (unsigned int i = 0; i < dataplane->worker_count; i++)
		counters_add(&counters, &dataplane->workers[i].published);
	return counters.blocked;
}

uint64_t dataplane_now_ms(void)
{
	return worker_now_ms();
}

uint64_t dataplane_now_us(void)
{
	return worker_now_us();
}
