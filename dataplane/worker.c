#include "worker.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_launch.h>
#include <rte_ring_elem.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bundle.h"
#include "unbundle.h"

enum {
	SPIN_US = 20,    // without work before a worker goes to sleep: about what waking costs
	SLEEP_MS = 1000, // at most, in one piece
	AHEAD = 10,      // frames fetched before one is looked at; see catch_up()
	CATCH_UP = 8 * FORWARD_BURST, // read under overload before some are forwarded,
	LEFT_TURNS = 32,              // in which some may be left in the port
};

_Static_assert(sizeof(struct forward_input) + SESSION_HEADER_MAX <= RTE_PKTMBUF_HEADROOM,
	       "a handed-over record's description travels in front of its frame's headers");
_Static_assert(sizeof(struct forward_event) % 4 == 0 && sizeof(struct forward_command) % 4 == 0,
	       "rings copy whole words");
_Static_assert(SESSION_HEADER_MAX <= RTE_PKTMBUF_HEADROOM, "spares need room for a header");

uint64_t worker_now_ms(void)
{
	return rte_get_tsc_cycles() / (rte_get_tsc_hz() / MS_PER_S);
}

uint64_t worker_now_us(void)
{
	return rte_get_tsc_cycles() / (rte_get_tsc_hz() / US_PER_S);
}

static unsigned int spares(void *arg, struct forward_spare *out, unsigned int n)
{
	struct worker *worker = arg;
	struct rte_mempool *pool = worker->queue.pool;
	struct rte_mbuf *buffers[FORWARD_SPARES];

	// they are one segment each, and transmit() sets the rest: another core may have had them
	// last, so nothing is read yet
	if (rte_mempool_get_bulk(pool, (void **)buffers, n))
		return 0;
	for (unsigned int i = 0; i < n; i++) {
		__builtin_prefetch(buffers[i], 1);
		out[i].buffer = buffers[i];
		out[i].record =
			(uint8_t *)rte_mbuf_buf_addr(buffers[i], pool) + RTE_PKTMBUF_HEADROOM;
	}
	return n;
}

static void release(void *arg, void **buffers, unsigned int n)
{
	// they have one segment and one owner, so that only their first cache line need be looked
	// at; those that were handed over are of another pool
	for (unsigned int first = 0, end = 0; first < n; first = end) {
		struct rte_mempool *pool = ((struct rte_mbuf *)buffers[first])->pool;

		while (++end < n && ((struct rte_mbuf *)buffers[end])->pool == pool)
			;
		rte_mempool_put_bulk(pool, &buffers[first], end - first);
	}
}

static unsigned int transmit(void *arg, const struct aead_job *records,
			     struct forward_output *outputs, unsigned int n)
{
	struct worker *worker = arg;
	// all pools are alike; nothing is read of what another core may have had
	struct rte_mempool *pool = worker->queue.pool;
	const size_t begin = sizeof(struct rte_mbuf) + rte_pktmbuf_priv_size(pool);
	struct rte_mbuf *buffers[FORWARD_OUTPUTS];
	uint8_t numbers[FORWARD_OUTPUTS];
	struct bundles bundles;
	unsigned int count = 0, sent, accepted = 0;

	bundles_init(&bundles, begin + rte_pktmbuf_data_room_size(pool));
	for (unsigned int i = 0; i < n; i++) {
		unsigned int number =
			bundles_add(&bundles, &records[i], outputs[i].header, outputs[i].buffer);

		numbers[i] = (uint8_t)number;
		if (number == count)
			count++;
		else
			rte_mbuf_raw_free(outputs[i].buffer);
	}
	for (unsigned int i = 0; i < count; i++) {
		const struct bundle *bundle = &bundles.bundle[i];
		struct rte_mbuf *buffer = bundle->buffer;
		uint8_t *data = frame_put(bundle->payload, bundle->length, bundle->header);

		buffer->data_off = (uint16_t)(data - (uint8_t *)buffer - begin);
		buffer->data_len = (uint16_t)(bundle->payload + bundle->length - data);
		buffer->pkt_len = buffer->data_len;
		buffer->ol_flags = 0;
		buffers[i] = buffer;
	}
	sent = rte_eth_tx_burst(worker->queue.device, worker->queue.queue, buffers,
				(uint16_t)count);
	if (sent == count)
		return n;
	for (unsigned int i = sent; i < count; i++)
		rte_mbuf_raw_free(buffers[i]);
	for (unsigned int i = 0; i < n; i++) {
		outputs[i].sent = numbers[i] < sent;
		accepted += outputs[i].sent;
	}
	return accepted;
}

static bool handover(void *arg, unsigned int owner, struct forward_input *input)
{
	struct worker *worker = arg;
	struct rte_mbuf *buffer = input->buffer;

	// before the frame, where neither driver writes, nor unbundle()
	memcpy(buffer->buf_addr, input, sizeof(*input));
	if (rte_ring_sp_enqueue(worker->workers[owner].handovers[worker->number], buffer))
		return false;
	worker->woken |= 1u << owner;
	return true;
}

static bool event(void *arg, const struct forward_event *out)
{
	struct worker *worker = arg;

	return rte_ring_sp_enqueue_elem(worker->events, (void *)out, sizeof(*out)) == 0;
}

static unsigned int events_waiting(void *arg)
{
	const struct worker *worker = arg;

	return rte_ring_count(worker->events);
}

static uint64_t now_us(void *arg)
{
	return worker_now_us();
}

static const struct forward_ops ops = {
	.spares = spares,
	.release = release,
	.transmit = transmit,
	.handover = handover,
	.event = event,
	.events_waiting = events_waiting,
	.now_us = now_us,
};

void worker_wake(struct worker *worker)
{
	const uint64_t one = 1;

	// what was put into the ring is visible before the flag is looked at, see
	// sleep_until_work()
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&worker->sleeping, memory_order_relaxed) &&
	    atomic_exchange(&worker->sleeping, false) && write(worker->wake, &one, sizeof(one)) < 0)
		return; // EAGAIN: it has been woken 2^64 times already
}

static void wake_others(struct worker *worker)
{
	for (unsigned int i = 0; worker->woken; i++, worker->woken >>= 1) {
		if (worker->woken & 1)
			worker_wake(&worker->workers[i]);
	}
}

// Fetches the headers of a frame; the rest, when it is opened.
static inline void fetch(const struct rte_mbuf *buffer)
{
	__builtin_prefetch(rte_pktmbuf_mtod(buffer, const char *));
}

// Receives up to a burst, and fetches what describes it: with some ports other cores have.
static inline unsigned int receive_some(struct worker *worker, struct rte_mbuf **buffers)
{
	unsigned int n =
		rte_eth_rx_burst(worker->queue.device, worker->queue.queue, buffers, FORWARD_BURST);

	for (unsigned int i = 0; i < n; i++)
		rte_prefetch0(buffers[i]);
	return n;
}

// Gives back buffers of the worker's own, which have one segment and one owner.
static inline void give_back(struct worker *worker, struct rte_mbuf **buffers, unsigned int n)
{
	if (n)
		rte_mempool_put_bulk(worker->queue.pool, (void **)buffers, n);
}

// Reads a frame that is a datagram for us, and where it came from. False: it isn't, or is from a
// blocked source; counted, and its buffer is to be given back.
static inline bool classify(struct worker *worker, struct rte_mbuf *buffer, struct frame *frame,
			    struct endpoint *source)
{
	const uint8_t *data = rte_pktmbuf_mtod(buffer, const uint8_t *);

	*frame = frame_parse(source, data, rte_pktmbuf_data_len(buffer));
	if (!frame->header_length || frame->port != worker->port ||
	    memcmp(data + FRAME_MAC_SIZE, worker->mac, FRAME_MAC_SIZE) == 0) {
		worker->forward.counters.foreign++;
		return false;
	}
	if (filter_any(&worker->filter) && filter_drops(&worker->filter, source)) {
		worker->forward.counters.blocked++;
		return false;
	}
	return true;
}

// Describes it, but for its source.
static inline void describe(struct forward_input *input, struct rte_mbuf *buffer,
			    const struct frame *frame)
{
	input->buffer = buffer;
	input->record = rte_pktmbuf_mtod_offset(buffer, uint8_t *, frame->header_length);
	input->length = frame->record_length;
	input->frame_length = (uint8_t)frame->header_length;
	input->handed = false;
}

/* What was received, on its way to the core. */
struct intake {
	struct forward_input *next; // of those below
	struct forward_input inputs[FORWARD_BURST];
};

// Sets all but the inputs, which are large.
static inline void intake_init(struct intake *intake)
{
	intake->next = intake->inputs;
}

static inline unsigned int intake_room(const struct intake *intake)
{
	return (unsigned int)(intake->inputs + FORWARD_BURST - intake->next);
}

static inline void pass_on(struct worker *worker, struct intake *intake)
{
	unsigned int n = FORWARD_BURST - intake_room(intake);

	if (n)
		forward_burst(&worker->forward, intake->inputs, n, worker->now_ms);
	intake->next = intake->inputs;
}

static void __attribute__((noinline)) take_apart(struct worker *worker, struct intake *intake)
{
	struct forward_input bundle = *intake->next;
	size_t at = WIRE_BUNDLE_HEADER;

	while (bundle.buffer) {
		if (!intake_room(intake))
			pass_on(worker, intake);
		intake->next += unbundle(&worker->forward, &bundle, &at, intake->next,
					 intake_room(intake), worker->now_ms);
	}
}

// False: it ends here, see classify().
static inline bool take_in(struct worker *worker, struct intake *intake, struct rte_mbuf *buffer)
{
	struct forward_input *input;
	struct frame frame;

	if (intake->next == intake->inputs + FORWARD_BURST) // there were bundles
		pass_on(worker, intake);
	input = intake->next;
	if (!classify(worker, buffer, &frame, &input->source))
		return false;
	describe(input, buffer, &frame);
	forward_prefetch(&worker->forward, input->record);
	if (__builtin_expect(wire_is_bundle(input->record, input->length), 0))
		take_apart(worker, intake);
	else
		intake->next = input + 1;
	return true;
}

// Puts the records of a bundle, which the backlog has got a description of. Returns how many.
static unsigned int __attribute__((noinline)) put_apart(struct worker *worker)
{
	struct shed *shed = &worker->shed;
	struct forward_input bundle = *shed_next(shed);
	size_t at = WIRE_BUNDLE_HEADER;
	unsigned int sum = 0;

	while (bundle.buffer) {
		if (!unbundle(&worker->forward, &bundle, &at, shed_next(shed), 1, worker->now_ms))
			continue;
		shed_put(shed, &worker->forward);
		sum++;
	}
	return sum;
}

/* A record on its way to the backlog. */
struct arrival {
	struct forward_input input;
	struct shed_claim claim; // without a sender: to be dropped, or taken apart
};

// Looks at what was received, and fetches its sender's count. False: it ends here, see classify().
static inline bool look_at(struct worker *worker, struct rte_mbuf *buffer, struct arrival *arrival)
{
	struct forward_input *input = &arrival->input;
	struct wire_words header;
	struct frame frame;

	if (!classify(worker, buffer, &frame, &input->source))
		return false;
	describe(input, buffer, &frame);
	arrival->claim.sender = NULL;
	if (wire_words_get(&header, input->record, input->length) == WIRE_OK)
		arrival->claim =
			shed_claim(&worker->shed, &worker->forward, &header, &input->source);
	return true;
}

static unsigned int __attribute__((noinline, cold))
put_other(struct worker *worker, const struct forward_input *input)
{
	*shed_next(&worker->shed) = *input;
	if (wire_is_bundle(input->record, input->length))
		return put_apart(worker);
	shed_put(&worker->shed, &worker->forward);
	return 1;
}

// Puts what was looked at into the backlog. Classes come in any order, so what there is no room for
// is sifted out first, without a branch. Returns how many records it was.
static inline unsigned int put(struct worker *worker, struct arrival *arrivals, unsigned int n)
{
	struct shed *shed = &worker->shed;
	const struct arrival *kept[FORWARD_BURST];
	unsigned int count = 0, records = n;

	for (unsigned int i = 0; i < n; i++) {
		struct arrival *arrival = &arrivals[i];

		kept[count] = arrival;
		if (__builtin_expect(!arrival->claim.sender, 0)) {
			count++;
			continue;
		}
		shed_count(&arrival->claim);
		count += shed_sift(shed, &arrival->claim, arrival->input.buffer);
	}
	for (unsigned int i = 0; i < count; i++) {
		if (__builtin_expect(!kept[i]->claim.sender, 0)) {
			records += put_other(worker, &kept[i]->input) - 1;
			continue;
		}
		*shed_next(shed) = kept[i]->input;
		shed_keep(shed, &worker->forward, &kept[i]->claim);
	}
	shed_end(shed, &worker->forward);
	return records;
}

static unsigned int forward_backlog(struct worker *worker)
{
	struct forward_input inputs[FORWARD_BURST];
	unsigned int n = shed_take(&worker->shed, inputs, FORWARD_BURST);

	for (unsigned int i = 0; i < n; i++)
		forward_prefetch(&worker->forward, inputs[i].record);
	worker->forward.overloaded = shed_overloaded(&worker->shed);
	worker->forward.waited = true;
	if (n)
		forward_burst(&worker->forward, inputs, n, worker->now_ms);
	worker->forward.overloaded = worker->forward.waited = false;
	return n;
}

// Whether to leave what waits in the port for now: there is a burst of critical records, which are
// best forwarded before they have left the cache. What a port has no room for is lost whatever its
// class; so when a pile of them waits, and after some turns, all is read, until no full burst
// comes.
static inline bool leaves(const struct worker *worker)
{
	return worker->left_turns < LEFT_TURNS && shed_has_enough(&worker->shed);
}

// Reads all that waits, up to a limit, from the first `n` frames on, and forwards what is most
// important. Frames are on their way from where another core or a device has written them, some
// ahead of the one that is looked at, also from one burst to the next: more at once would be more
// than a processor can have under way, and less isn't enough where another core is far.
static unsigned int __attribute__((noinline))
catch_up(struct worker *worker, struct rte_mbuf **first, unsigned int n)
{
	struct rte_mbuf *buffers[2][FORWARD_BURST];
	struct rte_mbuf **now = first, **then = buffers[0];
	struct arrival arrivals[FORWARD_BURST];
	unsigned int next, count, ended, records = 0, work = n;

	shed_begin(&worker->shed, &worker->forward, worker->now_ms);
	for (unsigned int i = 0; i < n && i < AHEAD; i++)
		fetch(now[i]);
	while (n) {
		next = 0;
		if (n < FORWARD_BURST)
			worker->left_turns = 0;
		else if (leaves(worker))
			worker->left_turns++;
		else if (records + n < CATCH_UP)
			next = receive_some(worker, then);
		count = ended = 0;
		for (unsigned int i = 0; i < n; i++) {
			if (i + AHEAD < n)
				fetch(now[i + AHEAD]);
			else if (i + AHEAD - n < next)
				fetch(then[i + AHEAD - n]);
			if (look_at(worker, now[i], &arrivals[count]))
				count++;
			else
				now[ended++] = now[i];
		}
		give_back(worker, now, ended);
		// reading what ends here is work as well, of which there may be no end
		records += ended + put(worker, arrivals, count);
		n = next;
		now = then;
		then = now == buffers[0] ? buffers[1] : buffers[0];
	}
	// bundles may have held more than the limit
	for (; records > CATCH_UP; records -= CATCH_UP)
		forward_backlog(worker);
	work += forward_backlog(worker);
	return work;
}

// Whether to shed at all.
static bool sheds(struct worker *worker)
{
	const struct rates *rates = rcu_dereference(worker->forward.sessions->rates);

	if (!rates || !rates->shed)
		return false;
	worker->shed.control = rates->control;
	return true;
}

static unsigned int receive(struct worker *worker)
{
	struct rte_mbuf *buffers[FORWARD_BURST];
	struct intake intake;
	unsigned int n = receive_some(worker, buffers), ended = 0;

	if (worker->shed.count || (n == FORWARD_BURST && sheds(worker)))
		return catch_up(worker, buffers, n);
	intake_init(&intake);
	for (unsigned int i = 0; i < n && i < AHEAD; i++)
		fetch(buffers[i]);
	for (unsigned int i = 0; i < n; i++) {
		if (i + AHEAD < n)
			fetch(buffers[i + AHEAD]);
		if (!take_in(worker, &intake, buffers[i]))
			buffers[ended++] = buffers[i];
	}
	give_back(worker, buffers, ended);
	pass_on(worker, &intake);
	return n;
}

// Puts records that another worker received behind those of the same lanes that wait.
static void put_handed(struct worker *worker, struct rte_mbuf **buffers, unsigned int n)
{
	struct shed *shed = &worker->shed;

	shed_begin(shed, &worker->forward, worker->now_ms);
	for (unsigned int i = 0; i < n; i++) {
		memcpy(shed_next(shed), buffers[i]->buf_addr, sizeof(struct forward_input));
		shed_put(shed, &worker->forward);
	}
	shed_end(shed, &worker->forward);
}

// Records that other workers received on lanes of this one.
static unsigned int take_over(struct worker *worker)
{
	struct forward_input inputs[FORWARD_BURST];
	struct rte_mbuf *buffers[FORWARD_BURST];
	unsigned int n, sum = 0;

	for (unsigned int from = 0; from < worker->count; from++) {
		if (from == worker->number)
			continue;
		n = rte_ring_sc_dequeue_burst(worker->handovers[from], (void **)buffers,
					      FORWARD_BURST, NULL);
		for (unsigned int i = 0; i < n; i++)
			rte_prefetch0(buffers[i]->buf_addr);
		sum += n;
		if (worker->shed.count) {
			put_handed(worker, buffers, n);
			continue;
		}
		for (unsigned int i = 0; i < n; i++) {
			memcpy(&inputs[i], buffers[i]->buf_addr, sizeof(inputs[i]));
			forward_prefetch(&worker->forward, inputs[i].record);
		}
		if (n)
			forward_burst(&worker->forward, inputs, n, worker->now_ms);
	}
	return sum;
}

static unsigned int obey(struct worker *worker)
{
	unsigned int n = rte_ring_sc_dequeue_burst_elem(worker->commands, worker->batch,
							sizeof(worker->batch[0]),
							WORKER_COMMAND_BURST, NULL);

	if (n)
		forward_commands(&worker->forward, worker->batch, n, worker->now_ms);
	return n;
}

static bool has_work(const struct worker *worker)
{
	if (atomic_load(&worker->stop) || !rte_ring_empty(worker->commands))
		return true;
	for (unsigned int from = 0; from < worker->count; from++) {
		if (from != worker->number && !rte_ring_empty(worker->handovers[from]))
			return true;
	}
	return false;
}

/*
 * The rings' writers look at the flag after they have written, and we look at the rings after we
 * have set it: one of the two sees the other. The socket needs no such care, for poll() looks
 * itself.
 */
static void sleep_until_work(struct worker *worker)
{
	struct pollfd fds[] = {
		{.fd = worker->queue.socket, .events = POLLIN},
		{.fd = worker->wake, .events = POLLIN},
	};
	uint64_t value = 1;
	int error;
	socklen_t size = sizeof(error);

	counters_publish(&worker->published, &worker->forward.counters);
	if (!rte_ring_empty(worker->events) &&
	    write(worker->events_wake, &value, sizeof(value)) < 0)
		return; // EAGAIN: the control thread is far behind, and will look anyway

	atomic_store(&worker->sleeping, true);
	atomic_thread_fence(memory_order_seq_cst);
	if (!has_work(worker)) {
		rcu_thread_offline();
		poll(fds, 2, SLEEP_MS);
		rcu_thread_online();
	}
	atomic_store(&worker->sleeping, false);
	// the interface went down, which would keep poll() from waiting until it is read
	if (fds[0].revents & POLLERR)
		getsockopt(fds[0].fd, SOL_SOCKET, SO_ERROR, &error, &size);
	if ((fds[1].revents & POLLIN) && read(worker->wake, &value, sizeof(value)) < 0)
		return; // EAGAIN: somebody else's reset
}

static int run(void *arg)
{
	struct worker *worker = arg;
	uint64_t ms = rte_get_tsc_hz() / MS_PER_S;
	uint64_t spin = rte_get_tsc_hz() / US_PER_S * SPIN_US;
	char name[16];

	snprintf(name, sizeof(name), "viaduct-w%u", worker->number);
	pthread_setname_np(pthread_self(), name);
	rcu_register_thread();
	while (!atomic_load_explicit(&worker->stop, memory_order_relaxed)) {
		uint64_t now = rte_get_tsc_cycles();
		unsigned int work;

		if (now >= worker->tick) {
			worker->now_ms = now / ms;
			worker->tick = (worker->now_ms + 1) * ms;
			counters_publish(&worker->published, &worker->forward.counters);
		}
		work = receive(worker) + take_over(worker) + obey(worker);
		if (!work)
			work = forward_resume(&worker->forward, worker->now_ms);
		wake_others(worker);
		rcu_quiescent_state();
		if (work)
			worker->last_active = now;
		else if (!worker->busy && now - worker->last_active > spin)
			sleep_until_work(worker);
	}
	while (worker->shed.count)
		forward_backlog(worker);
	forward_fini(&worker->forward);
	counters_publish(&worker->published, &worker->forward.counters);
	rcu_unregister_thread();
	return 0;
}

static int ring_new(struct rte_ring **ring, const char *what, unsigned int number,
		    unsigned int other, unsigned int size, unsigned int count)
{
	char name[RTE_RING_NAMESIZE];

	snprintf(name, sizeof(name), "%s-%u-%u", what, number, other);
	*ring = rte_ring_create_elem(name, size, count, SOCKET_ID_ANY,
				     RING_F_SP_ENQ | RING_F_SC_DEQ);
	return *ring ? 0 : -rte_errno;
}

int worker_init(struct worker *workers, unsigned int number, const struct dataplane_config *config,
		const struct port *port, int events_wake)
{
	struct worker *worker = &workers[number];
	struct forward *forward = &worker->forward;
	int r;

	worker->number = number;
	worker->count = config->workers;
	worker->lcore = number + 1;
	worker->core = config->cores[number];
	worker->queue = port->queues[number];
	worker->port = config->port;
	memcpy(worker->mac, port->interface.mac, FRAME_MAC_SIZE);
	worker->busy = config->busy;
	worker->events_wake = events_wake;
	worker->workers = workers;
	worker->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (worker->wake < 0)
		return -errno;
	r = ring_new(&worker->events, "events", number, 0, sizeof(struct forward_event),
		     FORWARD_EVENTS);
	if (r == 0)
		r = ring_new(&worker->commands, "commands", number, 0,
			     sizeof(struct forward_command), WORKER_COMMANDS);
	for (unsigned int from = 0; from < worker->count && r == 0; from++) {
		if (from != number)
			r = ring_new(&worker->handovers[from], "handovers", number, from,
				     sizeof(void *), WORKER_HANDOVERS);
	}
	if (r)
		return r;

	forward->ops = &ops;
	forward->worker = worker;
	forward->sessions = config->sessions;
	forward->routes = config->routes;
	forward->requests = config->requests;
	forward->random = rte_get_tsc_cycles();
	forward->aead = config->aead;
	forward->number = (uint8_t)number;
	filter_init(&worker->filter, config->routes->secret);
	shed_init(&worker->shed);
	forward->aead_worker = config->aead->worker_new(config->nodes[number]);
	return forward->aead_worker ? 0 : -ENOMEM;
}

void worker_fini(struct worker *worker)
{
	if (worker->forward.aead_worker)
		worker->forward.aead->worker_free(worker->forward.aead_worker);
	for (unsigned int from = 0; from < worker->count; from++)
		rte_ring_free(worker->handovers[from]);
	rte_ring_free(worker->commands);
	rte_ring_free(worker->events);
	if (worker->wake >= 0)
		close(worker->wake);
}

int worker_start(struct worker *worker)
{
	return rte_eal_remote_launch(run, worker, worker->lcore);
}

void worker_stop(struct worker *worker)
{
	atomic_store(&worker->stop, true);
	worker_wake(worker);
	rte_eal_wait_lcore(worker->lcore);
}
