/*
 * Lanes between two workers that are real threads: a peer's flows change from one to the other
 * again and again, and every record is taken once, in the order of its way. What only a lane's
 * owner may touch is written here without atomics, so that ThreadSanitizer watches too:
 *
 *   meson setup -Db_sanitize=thread -Db_lundef=false …
 */
#include "test.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "forward.h"
#include "toy.h"

enum {
	WORKERS = 2,
	LANES = 4,
	RECORDS = 40000,
	AHEAD = 200, // records that a worker may be behind the feeder
	RECORD = WIRE_RECORD_MIN,
	BUFFER = SESSION_HEADER_MAX + WIRE_MTU_MIN,
	FROM = 1, // slots
	TO = 2,
};

/* Records in order, from one thread to another. */
struct queue {
	pthread_mutex_t lock;
	struct forward_input *inputs;
	unsigned int count;
};

struct lanes;

struct worker {
	struct forward forward;
	struct lanes *lanes;
	struct queue port;     // feeder to worker
	struct queue handover; // other worker to this one
	pthread_t thread;
};

struct lanes {
	struct region *region; // without places
	struct session_table *sessions;
	struct route_table routes;
	struct session *from, *to;
	struct aead_key *up, *down;
	struct worker workers[WORKERS];
	uint8_t received_by[RECORDS];  // worker, by tag; feeder writes before the record is there
	uint8_t delivered[RECORDS];    // by tag; a lane's owner writes
	uint32_t last[LANES][WORKERS]; // tag + 1, by who received it; a lane's owner writes
	unsigned int pending;          // records that no worker is done with (atomic)
	unsigned int buffers;          // that are out (atomic)
	bool stop;                     // feeder writes (atomic)
};

static unsigned int lane_of(uint32_t tag)
{
	return tag % LANES;
}

static void queue_put(struct queue *queue, const struct forward_input *input)
{
	pthread_mutex_lock(&queue->lock);
	queue->inputs[queue->count++] = *input;
	pthread_mutex_unlock(&queue->lock);
}

static unsigned int queue_take(struct queue *queue, struct forward_input *inputs)
{
	unsigned int n;

	pthread_mutex_lock(&queue->lock);
	n = queue->count < FORWARD_BURST ? queue->count : FORWARD_BURST;
	memcpy(inputs, queue->inputs, n * sizeof(inputs[0]));
	queue->count -= n;
	memmove(queue->inputs, queue->inputs + n, queue->count * sizeof(inputs[0]));
	pthread_mutex_unlock(&queue->lock);
	return n;
}

static unsigned int queue_length(struct queue *queue)
{
	unsigned int n;

	pthread_mutex_lock(&queue->lock);
	n = queue->count;
	pthread_mutex_unlock(&queue->lock);
	return n;
}

static uint8_t *buffer_new(struct lanes *lanes)
{
	uint8_t *buffer = malloc(BUFFER);

	assert(buffer);
	__atomic_fetch_add(&lanes->buffers, 1, __ATOMIC_RELAXED);
	return buffer;
}

static void release(void *arg, void **buffers, unsigned int n)
{
	struct worker *worker = arg;

	__atomic_fetch_sub(&worker->lanes->buffers, n, __ATOMIC_RELAXED);
	while (n--)
		free(*buffers++);
}

static unsigned int spares(void *arg, struct forward_spare *out, unsigned int n)
{
	struct worker *worker = arg;

	for (unsigned int i = 0; i < n; i++) {
		uint8_t *buffer = buffer_new(worker->lanes);

		out[i].buffer = buffer;
		out[i].record = buffer + SESSION_HEADER_MAX;
	}
	return n;
}

static void delivered(struct worker *worker, uint32_t tag)
{
	struct lanes *lanes = worker->lanes;
	uint32_t *last = &lanes->last[lane_of(tag)][lanes->received_by[tag]];

	assert(tag < RECORDS);
	lanes->delivered[tag]++;
	assert(tag + 1 > *last);
	*last = tag + 1;
	__atomic_fetch_sub(&lanes->pending, 1, __ATOMIC_RELAXED);
}

static unsigned int transmit(void *arg, const struct aead_job *records,
			     struct forward_output *outputs, unsigned int n)
{
	struct worker *worker = arg;

	for (unsigned int i = 0; i < n; i++) {
		struct aead_job job = records[i];
		uint8_t *text = job.record + WIRE_RECORD_HEADER;
		size_t length = job.length - WIRE_RECORD_OVERHEAD, at = 0;

		toy_aead.open(worker->forward.aead_worker, &job, 1);
		assert(job.ok);
		while (at < length) {
			struct wire_message message = {.data = text};

			at = wire_message_get(&message, text, length, at);
			assert(at);
			delivered(worker, wire_message_tag(message.data));
		}
		release(worker, (void *[]){outputs[i].buffer}, 1);
	}
	return n;
}

static bool hand_over(void *arg, unsigned int owner, struct forward_input *input)
{
	struct worker *worker = arg;

	assert(owner < WORKERS && owner != worker->forward.number);
	queue_put(&worker->lanes->workers[owner].handover, input);
	return true;
}

static bool event(void *arg, const struct forward_event *out)
{
	return true;
}

static const struct forward_ops ops = {
	.spares = spares,
	.release = release,
	.transmit = transmit,
	.handover = hand_over,
	.event = event,
};

static void *work(void *arg)
{
	struct worker *worker = arg;
	struct forward_input inputs[FORWARD_BURST];

	rcu_register_thread();
	while (!__atomic_load_n(&worker->lanes->stop, __ATOMIC_ACQUIRE)) {
		unsigned int n = queue_take(&worker->port, inputs), handed;

		forward_burst(&worker->forward, inputs, n, 1);
		handed = queue_take(&worker->handover, inputs);
		forward_burst(&worker->forward, inputs, handed, 1);
		rcu_quiescent_state();
		if (n + handed == 0)
			sched_yield();
	}
	forward_fini(&worker->forward);
	rcu_unregister_thread();
	return NULL;
}

/* A record of one message, whose tag says which it is. */
static void feed(struct lanes *lanes, unsigned int worker, uint32_t tag)
{
	const struct wire_record header = {
		.class = WIRE_NORMAL,
		.lane = lane_of(tag),
		.index = FROM,
		.sequence = tag / LANES,
	};
	struct forward_input input = {.buffer = buffer_new(lanes), .length = RECORD};
	struct aead_job job = {.key = lanes->up, .length = RECORD};

	input.record = (uint8_t *)input.buffer + SESSION_HEADER_MAX;
	job.record = input.record;
	wire_record_put(input.record, &header);
	wire_message_put(input.record + WIRE_RECORD_HEADER, 0, WIRE_SEND, WIRE_HOP_LIMIT, 0, tag,
			 &lanes->to->id);
	toy_aead.seal(NULL, &job, 1);
	lanes->received_by[tag] = worker;
	__atomic_fetch_add(&lanes->pending, 1, __ATOMIC_RELAXED);
	queue_put(&lanes->workers[worker].port, &input);
}

static struct session *session_new(struct lanes *lanes, uint32_t slot)
{
	struct session *session = aligned_alloc(64, sizeof(*session));

	assert_non_null(session);
	memset(session, 0, sizeof(*session));
	session->index = slot;
	session->tx_budget = WIRE_KEY_RECORDS;
	session->record_max = WIRE_MTU_MIN - WIRE_IP_OVERHEAD;
	session->lanes_up = LANES;
	session->lanes_down = WORKERS;
	session->rx[0] = lanes->up;
	session->tx = lanes->down;
	session->state = session_state_new(lanes->region, LANES, WORKERS);
	assert_non_null(session->state);
	session->header.length = 42;
	session->id.bytes[0] = (uint8_t)slot;
	session->relay.bytes[0] = 0xff;
	lanes->sessions->slot[slot].current = session;
	assert_int_equal(route_set(&lanes->routes, &session->id, slot), 0);
	return session;
}

static void queue_init(struct queue *queue)
{
	pthread_mutex_init(&queue->lock, NULL);
	queue->inputs = calloc(RECORDS, sizeof(queue->inputs[0]));
	assert_non_null(queue->inputs);
}

static void queue_fini(struct queue *queue)
{
	assert_int_equal(queue->count, 0);
	free(queue->inputs);
	pthread_mutex_destroy(&queue->lock);
}

static void lanes_init(struct lanes *lanes)
{
	static const uint8_t secrets[2][WIRE_EXPORT_SIZE] = {{1}, {2}};
	struct region_pool *regions;

	lanes->sessions = session_table_new(NODE_ANY, 4, 0);
	assert_non_null(lanes->sessions);
	assert_int_equal(route_table_init(&lanes->routes, lanes->sessions, 4, secrets[0]), 0);
	regions = region_pool_new(NODE_ANY, NULL, 0);
	assert_non_null(regions);
	lanes->region = region_new(regions);
	assert_non_null(lanes->region);
	region_pool_close(regions);
	lanes->up = aead_key_new(&toy_aead, WIRE_AES_256_GCM, secrets[0], NODE_ANY);
	lanes->down = aead_key_new(&toy_aead, WIRE_AES_256_GCM, secrets[1], NODE_ANY);
	lanes->from = session_new(lanes, FROM);
	lanes->to = session_new(lanes, TO);
	for (unsigned int i = 0; i < WORKERS; i++) {
		struct worker *worker = &lanes->workers[i];

		worker->lanes = lanes;
		worker->forward.ops = &ops;
		worker->forward.worker = worker;
		worker->forward.sessions = lanes->sessions;
		worker->forward.routes = &lanes->routes;
		worker->forward.aead = &toy_aead;
		worker->forward.number = (uint8_t)i;
		queue_init(&worker->port);
		queue_init(&worker->handover);
	}
}

static void lanes_fini(struct lanes *lanes)
{
	for (unsigned int i = 0; i < WORKERS; i++) {
		queue_fini(&lanes->workers[i].port);
		queue_fini(&lanes->workers[i].handover);
	}
	session_state_give(lanes->region, lanes->from->state);
	session_state_give(lanes->region, lanes->to->state);
	region_close(lanes->region);
	free(lanes->from);
	free(lanes->to);
	aead_key_free(&toy_aead, lanes->up);
	aead_key_free(&toy_aead, lanes->down);
	route_table_fini(&lanes->routes);
	session_table_free(lanes->sessions);
	free(lanes);
}

static void test_flows_change_workers(void **state)
{
	struct lanes *lanes = calloc(1, sizeof(*lanes));
	unsigned int way[LANES] = {0}, stays[LANES] = {0};
	struct counters sum = {0};

	assert_non_null(lanes);
	lanes_init(lanes);
	srandom(1);
	for (unsigned int i = 0; i < WORKERS; i++)
		assert_int_equal(
			pthread_create(&lanes->workers[i].thread, NULL, work, &lanes->workers[i]),
			0);
	for (uint32_t tag = 0; tag < RECORDS; tag++) {
		unsigned int lane = lane_of(tag);

		if (stays[lane]-- == 0) {
			way[lane] = !way[lane];
			stays[lane] = (unsigned int)random() % (random() % 4 ? 10 : 300);
		}
		feed(lanes, way[lane], tag);
		while (queue_length(&lanes->workers[way[lane]].port) > AHEAD)
			sched_yield();
	}
	while (__atomic_load_n(&lanes->pending, __ATOMIC_ACQUIRE))
		sched_yield();
	__atomic_store_n(&lanes->stop, true, __ATOMIC_RELEASE);
	for (unsigned int i = 0; i < WORKERS; i++) {
		assert_int_equal(pthread_join(lanes->workers[i].thread, NULL), 0);
		assert_true(counters_balance(&lanes->workers[i].forward.counters));
		sum.records_opened += lanes->workers[i].forward.counters.records_opened;
		sum.records_received += lanes->workers[i].forward.counters.records_received;
		sum.handed_over += lanes->workers[i].forward.counters.handed_over;
	}
	for (uint32_t tag = 0; tag < RECORDS; tag++)
		assert_int_equal(lanes->delivered[tag], 1);
	assert_int_equal(sum.records_received, RECORDS);
	assert_int_equal(sum.records_opened, RECORDS);
	assert_int_equal(lanes->buffers, 0);
	for (unsigned int i = 0; i < LANES; i++)
		assert_true(session_rx_lane(lanes->from, i)->owner < WORKERS);
	print_message("%lu handed over\n", (unsigned long)sum.handed_over);
	lanes_fini(lanes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_flows_change_workers),
	};
	int failed;

	rcu_register_thread();
	failed = cmocka_run_group_tests_name("lanes", tests, NULL, NULL);
	rcu_unregister_thread();
	return failed;
}
