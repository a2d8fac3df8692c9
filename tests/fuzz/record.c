/*
 * Datagrams through the forwarding core, two workers of it, with a cipher that ciphers nothing: so
 * that what is behind authentication is within reach. The fixture asserts what must hold.
 *
 * An input is a list of steps: a byte whose low three bits say what, and the other five how much;
 * and for a datagram, of a record or several, two bytes of length and its bytes, header included.
 * Peers 1 to PEERS have the session indexes 1 to PEERS; all are members of a topic, and two of them
 * instances of a service.
 */
#include "fuzz.h"

#include "fixture.h"
#include "unbundle.h"

enum {
	PEERS = 4,
	INSTANCES = 2,
	REQUESTS = 64,
	TURNS = 1000,  // in which all publications are out
	FORGED = 0xff, // first byte of a tag that doesn't fit
};

enum step {
	STEP_DATAGRAM, // for the next burst
	STEP_BURST,    // of which worker
	STEP_QUEUE,    // likewise
	STEP_COMMAND,  // to which session
	STEP_PORT,     // how many records it takes
	STEP_POOL,     // how many buffers there are
	STEP_RINGS,    // how much room
	STEP_TIME,     // how much passes
};

static size_t key_size(void)
{
	return sizeof(struct aead_key);
}

static bool key_init(struct aead_key *key, enum wire_aead aead,
		     const uint8_t secret[WIRE_EXPORT_SIZE])
{
	key->aead = aead;
	return true;
}

static void key_fini(struct aead_key *key)
{
}

static void *worker_new(int node)
{
	return malloc(1);
}

static void open_all(void *worker, struct aead_job *jobs, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		jobs[i].ok = jobs[i].record[jobs[i].length - WIRE_TAG_SIZE] != FORGED;
}

static void seal_all(void *worker, struct aead_job *jobs, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		memset(jobs[i].record + jobs[i].length - WIRE_TAG_SIZE, 0, WIRE_TAG_SIZE);
}

static void seal_texts(void *worker, struct aead_job *jobs, const uint8_t *const *texts,
		       unsigned int n)
{
	aead_place_texts(jobs, texts, n);
	seal_all(worker, jobs, n);
}

static const struct aead_ops null_aead = {
	.name = "null",
	.key_size = key_size,
	.key_init = key_init,
	.key_fini = key_fini,
	.worker_new = worker_new,
	.worker_free = free,
	.open = open_all,
	.seal = seal_all,
	.seal_texts = seal_texts,
};

/* Made once, since RCU's grace periods take their time; brought back to its first state after. */
static struct fixture *fixture;
static struct topic *topic;
static struct service_requests *requests;
static struct service_state *state;
static struct service_instance *instances[INSTANCES];

static void *zeroed(size_t size)
{
	void *made = aligned_alloc(64, (size + 63) / 64 * 64);

	assert(made);
	return memset(made, 0, size);
}

static void group_add(unsigned int number, const struct wire_id *id, struct group *group)
{
	rcu_assign_pointer(fixture->sessions->slot[FIXTURE_SLOTS + number].group, group);
	assert(route_set(&fixture->routes, id, FIXTURE_SLOTS + number) == 0);
}

static void topic_start(void)
{
	const struct wire_id id = {"topic"};
	struct topic_members *members = zeroed(sizeof(*members) + PEERS * sizeof(uint32_t));

	topic = zeroed(sizeof(*topic));
	members->count = PEERS;
	for (uint32_t i = 0; i < PEERS; i++)
		members->slots[i] = 1 + i;
	topic->group.kind = GROUP_TOPIC;
	topic->members = members;
	topic->rate = topic->publisher_rate = 1000;
	group_add(0, &id, &topic->group);
}

static void service_start(void)
{
	static const uint8_t secret[16];
	const size_t turns = FIXTURE_WORKERS * sizeof(struct service_turn);
	struct service *service =
		zeroed(sizeof(*service) + INSTANCES * sizeof(service->members[0]));

	requests = service_requests_new(NODE_ANY, REQUESTS, secret);
	state = zeroed(sizeof(*state) + turns);
	state->id = (struct wire_id){"service"};
	service->group.kind = GROUP_SERVICE;
	service->state = state;
	service->count = INSTANCES;
	service->settings = (struct service_settings){
		.policy = {SERVICE_RESPONSE_TIME, SERVICE_WEIGHTED},
		.share = 50,
		.slow_start_us = 1000,
		.silent_us = 1000,
	};
	for (uint32_t i = 0; i < INSTANCES; i++) {
		instances[i] = zeroed(sizeof(*instances[i]) + turns);
		service->members[i] =
			(struct service_member){.instance = instances[i],
						.slot = &fixture->sessions->slot[1 + i],
						.hash = 1 + i,
						.weight = 1};
	}
	group_add(1, &state->id, &service->group);
}

static void groups_reset(void)
{
	const size_t turns = FIXTURE_WORKERS * sizeof(struct service_turn);
	const struct wire_id id = state->id;

	topic->due_ns = 0;
	requests->peer_max = 8;
	memset(requests->entries, 0, (requests->mask + 1) * sizeof(requests->entries[0]));
	memset(state, 0, sizeof(*state) + turns);
	state->id = id;
	state->eject = 2;
	state->timeout_us = 5000000;
	for (uint32_t i = 0; i < INSTANCES; i++) {
		memset(instances[i], 0, sizeof(*instances[i]) + turns);
		instances[i]->service = state;
		instances[i]->slot = 1 + i;
	}
}

static void start(void)
{
	struct peer *peers[PEERS];

	fixture = fixture_new(&null_aead);
	for (int i = 0; i < PEERS; i++)
		peers[i] = peer_new(fixture, 1 + i);
	peers[1]->session->record_max = FIXTURE_RECORD_MAX;
	peers[1]->session->tx_budget = 5;
	peers[2]->session->record_max = 200;
	peers[3]->session->header.length = 0;
	peer_rekey(fixture, peers[0]);
	peer_return(fixture, peers[2]);
	topic_start();
	service_start();
	groups_reset();
	for (int i = 0; i < FIXTURE_WORKERS; i++)
		fixture->workers[i].forward.requests = requests;
}

static void reset(void)
{
	for (unsigned int i = 0; i < fixture->peer_count; i++) {
		struct peer *peer = fixture->peers[i];

		session_state_give(fixture->region, peer->state);
		peer->state = session_state_new(fixture->region, FIXTURE_LANES, FIXTURE_WORKERS);
		assert(peer->state);
		peer->session->state = peer->state;
		memset(peer->seen, 0, sizeof(peer->seen));
	}
	for (unsigned int i = 0; i < FIXTURE_WORKERS; i++) {
		struct fixture_worker *worker = &fixture->workers[i];

		memset(&worker->forward.counters, 0, sizeof(worker->forward.counters));
		worker->pool = worker->ring = worker->handovers = FIXTURE_NO_LIMIT;
		worker->port = worker->port_then = FIXTURE_NO_LIMIT;
	}
	fixture->now_ms = 1000;
	groups_reset();
	fixture_clear(fixture);
}

/* What was added last is a bundle: its records take its place, in bursts as they fill. */
static void take_apart(void)
{
	struct forward_input bundle = fixture->inputs[--fixture->input_count];
	size_t at = WIRE_BUNDLE_HEADER;

	while (bundle.buffer) {
		unsigned int count = fixture->input_count;

		if (count == FORWARD_BURST) {
			fixture->held = 1;
			fixture_burst(fixture, 0);
			fixture->held = 0;
			count = 0;
		}
		fixture->input_count +=
			unbundle(&fixture->workers[0].forward, &bundle, &at,
				 &fixture->inputs[count], FORWARD_BURST - count, fixture->now_ms);
	}
}

/* Returns how many bytes it took. */
static size_t add_datagram(const uint8_t *data, size_t size)
{
	struct forward_input *input;
	size_t length;

	if (size < 2)
		return size;
	length = wire_get16(data);
	if (length > FIXTURE_RECORD_MAX)
		length = FIXTURE_RECORD_MAX;
	if (length > size - 2)
		length = size - 2;
	if (fixture->input_count == FORWARD_BURST)
		fixture_burst(fixture, 0);
	input = fixture_datagram(fixture, data + 2, (uint16_t)length);
	input->source.ip[15] = data[0] & 3;
	if (wire_is_bundle(input->record, input->length))
		take_apart();
	return 2 + length;
}

static void command(unsigned int index)
{
	static struct forward_command command;

	command.index = index % 8 + (index & 8 ? WIRE_SLOTS : 0);
	command.header.length = index & 16 ? 62 : 0;
	command.kind = index & 32 ? WIRE_PING : WIRE_KIND_CONTROL;
	command.class = WIRE_CONTROL;
	command.payload_length = FORWARD_PAYLOAD_MAX / (1 + index % 8);
	fixture_commands(fixture, index & 1, &command, 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!fixture)
		start();
	for (size_t at = 0; at < size;) {
		unsigned int amount = data[at] >> 3;
		struct fixture_worker *worker = &fixture->workers[amount & 1];

		switch ((enum step)(data[at++] & 7)) {
		case STEP_DATAGRAM:
			at += add_datagram(data + at, size - at);
			break;
		case STEP_BURST:
			fixture_burst(fixture, amount & 1);
			break;
		case STEP_QUEUE:
			fixture_queue(fixture, amount & 1);
			break;
		case STEP_COMMAND:
			command(amount);
			break;
		case STEP_PORT:
			worker->port = amount / 2;
			break;
		case STEP_POOL:
			forward_fini(&worker->forward);
			worker->pool = amount / 2;
			break;
		case STEP_RINGS:
			worker->ring = amount / 8;
			worker->handovers = amount / 2 % 4;
			break;
		case STEP_TIME:
			fixture->now_ms += 1 << amount / 2;
		}
	}
	fixture_burst(fixture, 0);
	// records go back and forth no more often than their lanes change hands
	for (int turns = 0; fixture->workers[0].queued || fixture->workers[1].queued; turns++) {
		assert(turns < FIXTURE_QUEUE);
		fixture_queue(fixture, turns & 1);
	}
	for (unsigned int i = 0; i < FIXTURE_WORKERS; i++)
		for (int turns = 0; fixture_resume(fixture, i); turns++)
			assert(turns < TURNS);
	reset();
	return 0;
}
