#include "fixture.h"

#include <assert.h>
#include <stdlib.h>

static void *more(void *array, unsigned int count, size_t size)
{
	// doubled at powers of two, exact otherwise would be slow and no help to ASan
	if (count == 0 || (count & (count - 1)) == 0)
		array = realloc(array, (count ? 2 * count : 1) * size);
	assert(array);
	return array;
}

static uint8_t *buffer_new(struct fixture *fixture, uint8_t **record)
{
	uint8_t *buffer = malloc(SESSION_HEADER_MAX + FIXTURE_RECORD_MAX);

	assert(buffer);
	fixture->buffers++;
	*record = buffer + SESSION_HEADER_MAX;
	return buffer;
}

static void buffer_free(struct fixture *fixture, void *buffer)
{
	assert(buffer);
	fixture->buffers--;
	free(buffer);
}

/* Back into the worker's pool. */
static void release(void *arg, void **buffers, unsigned int n)
{
	struct fixture_worker *worker = arg;

	worker->pool += n;
	while (n--)
		buffer_free(worker->fixture, *buffers++);
}

static unsigned int give_spares(void *arg, struct forward_spare *spares, unsigned int n)
{
	struct fixture_worker *worker = arg;

	if (n > worker->pool)
		n = worker->pool;
	worker->pool -= n;
	for (unsigned int i = 0; i < n; i++)
		spares[i].buffer = buffer_new(worker->fixture, &spares[i].record);
	return n;
}

static struct peer *peer_of(struct fixture *fixture, uint32_t index)
{
	for (unsigned int i = 0; i < fixture->peer_count; i++) {
		if (fixture->peers[i]->index == index)
			return fixture->peers[i];
	}
	return NULL;
}

static void hear(struct fixture *fixture, struct sent *sent)
{
	struct wire_record header;
	enum wire_parse parsed = wire_record_get(&header, sent->record, sent->length);
	struct peer *peer;
	uint8_t *text = sent->record + WIRE_RECORD_HEADER;
	size_t length = sent->length - WIRE_RECORD_OVERHEAD;
	struct aead_job opening = {.record = sent->record, .length = sent->length};

	assert(parsed == WIRE_OK);
	peer = peer_of(fixture, header.index);
	assert(peer);
	assert(sent->length <= peer->session->record_max);
	assert(header.lane == sent->worker);
	assert(header.sequence >= peer->seen[header.lane]);
	peer->seen[header.lane] = header.sequence + 1;
	assert(peer->down[header.phase]);
	opening.key = peer->down[header.phase];
	fixture->aead->open(fixture->workers[0].forward.aead_worker, &opening, 1);
	assert(opening.ok);
	for (size_t at = 0; at < length;) {
		struct wire_message message;
		struct heard *heard;

		at = wire_message_get(&message, text, length, at);
		assert(at);
		fixture->heard =
			more(fixture->heard, fixture->heard_count, sizeof(fixture->heard[0]));
		heard = &fixture->heard[fixture->heard_count++];
		heard->peer = peer;
		heard->record = fixture->sent_count - 1;
		heard->class = header.class;
		heard->kind = message.kind;
		heard->hop_limit = message.hop_limit;
		heard->flags = message.flags;
		heard->tag = wire_message_tag(message.data);
		memcpy(&heard->address, message.data + 8, WIRE_ID_SIZE);
		heard->length = message.length;
		heard->payload = message.data + WIRE_MESSAGE_HEADER;
	}
}

static unsigned int transmit(void *arg, const struct aead_job *records,
			     struct forward_output *outputs, unsigned int n)
{
	struct fixture_worker *worker = arg;
	struct fixture *fixture = worker->fixture;
	unsigned int taken = n < worker->port ? n : worker->port, first = fixture->sent_count;

	worker->port = worker->port_then;
	for (unsigned int i = 0; i < n; i++) {
		struct sent *sent;

		// any of them
		outputs[i].sent = (i + first) % n < taken;
		if (!outputs[i].sent) {
			release(worker, &outputs[i].buffer, 1);
			continue;
		}

		fixture->sent = more(fixture->sent, fixture->sent_count, sizeof(fixture->sent[0]));
		sent = &fixture->sent[fixture->sent_count++];
		sent->buffer = outputs[i].buffer;
		sent->length = records[i].length;
		sent->worker = worker->forward.number;
		sent->header = *outputs[i].header;
		assert(sent->header.length);
		sent->record = malloc(sent->length);
		assert(sent->record);
		memcpy(sent->record, records[i].record, sent->length);
		// as a dataplane does: the header goes right in front
		memcpy(records[i].record - sent->header.length, sent->header.bytes,
		       sent->header.length);
		release(worker, (void *[]){outputs[i].buffer}, 1);
		hear(fixture, sent);
	}
	return taken;
}

static bool hand_over(void *arg, unsigned int owner, struct forward_input *input)
{
	struct fixture_worker *worker = arg;
	struct fixture_worker *to = &worker->fixture->workers[owner];

	assert(owner < FIXTURE_WORKERS && to != worker);
	if (worker->handovers == 0 || to->queued == FIXTURE_QUEUE)
		return false;
	worker->handovers--;
	to->queue[to->queued++] = *input;
	return true;
}

static bool tell(void *arg, const struct forward_event *event)
{
	struct fixture_worker *worker = arg;
	struct fixture *fixture = worker->fixture;

	if (worker->ring == 0)
		return false;
	worker->ring--;
	fixture->events = more(fixture->events, fixture->event_count, sizeof(fixture->events[0]));
	fixture->events[fixture->event_count++] = *event;
	return true;
}

static unsigned int events_waiting(void *arg)
{
	const struct fixture_worker *worker = arg;

	return worker->ring < FORWARD_EVENTS ? FORWARD_EVENTS - worker->ring : 0;
}

static uint64_t now_us(void *arg)
{
	const struct fixture_worker *worker = arg;

	return worker->fixture->now_ms * 1000 + worker->fixture->us;
}

static const struct forward_ops ops = {
	.spares = give_spares,
	.release = release,
	.transmit = transmit,
	.handover = hand_over,
	.event = tell,
	.events_waiting = events_waiting,
	.now_us = now_us,
};

struct fixture *fixture_new(const struct aead_ops *aead)
{
	static const uint8_t secret[32] = {1, 2, 3, 4, 5};
	struct fixture *fixture = calloc(1, sizeof(*fixture));
	struct region_pool *regions;
	int r;

	assert(fixture);
	rcu_register_thread();
	fixture->aead = aead;
	memcpy(fixture->relay.bytes, "relay's own id..", WIRE_ID_SIZE);
	fixture->now_ms = 1000;
	regions = region_pool_new(NODE_ANY, NULL, 0);
	assert(regions);
	fixture->region = region_new(regions);
	assert(fixture->region);
	region_pool_close(regions);
	fixture->sessions = session_table_new(NODE_ANY, FIXTURE_SLOTS, FIXTURE_GROUPS);
	assert(fixture->sessions);
	r = route_table_init(&fixture->routes, fixture->sessions, 0, secret);
	assert(r == 0);
	for (unsigned int i = 0; i < FIXTURE_WORKERS; i++) {
		struct fixture_worker *worker = &fixture->workers[i];

		worker->fixture = fixture;
		worker->pool = worker->ring = worker->handovers = FIXTURE_NO_LIMIT;
		worker->port = worker->port_then = FIXTURE_NO_LIMIT;
		worker->forward.ops = &ops;
		worker->forward.worker = worker;
		worker->forward.sessions = fixture->sessions;
		worker->forward.routes = &fixture->routes;
		worker->forward.aead = aead;
		worker->forward.aead_worker = aead->worker_new(-1);
		worker->forward.number = (uint8_t)i;
	}
	return fixture;
}

/* After a call: a grace period, and what must always hold. */
static void settle(struct fixture *fixture)
{
	long buffers = fixture->input_count + fixture->held;

	for (unsigned int i = 0; i < FIXTURE_WORKERS; i++) {
		const struct topic_worker *topics = &fixture->workers[i].forward.topics;

		assert(counters_balance(&fixture->workers[i].forward.counters));
		assert(counters_balance_classes(&fixture->workers[i].forward.counters));
		buffers += fixture->workers[i].forward.spare_count + fixture->workers[i].queued;
		for (unsigned int held = 1; held <= topics->held_used; held++)
			buffers += topics->held[held].jobs > 0;
	}
	assert(fixture->buffers == buffers);
	for (unsigned int i = 0; i < fixture->retired_count; i++)
		free(fixture->retired[i]);
	fixture->retired_count = 0;
	rcu_quiescent_state();
}

void fixture_free(struct fixture *fixture)
{
	fixture_clear(fixture);
	settle(fixture);
	for (unsigned int i = 0; i < fixture->input_count; i++)
		buffer_free(fixture, fixture->inputs[i].buffer);
	for (unsigned int i = 0; i < FIXTURE_WORKERS; i++) {
		struct fixture_worker *worker = &fixture->workers[i];

		for (unsigned int j = 0; j < worker->queued; j++)
			buffer_free(fixture, worker->queue[j].buffer);
		forward_fini(&worker->forward);
		fixture->aead->worker_free(worker->forward.aead_worker);
	}
	assert(fixture->buffers == 0);
	route_table_fini(&fixture->routes);
	for (unsigned int i = 0; i < fixture->peer_count; i++) {
		session_state_give(fixture->region, fixture->peers[i]->state);
		free(fixture->peers[i]->session);
		free(fixture->peers[i]);
	}
	for (unsigned int i = 0; i < fixture->key_count; i++)
		aead_key_free(fixture->aead, fixture->keys[i]);
	region_close(fixture->region);
	free(fixture->keys);
	free(fixture->sent);
	free(fixture->heard);
	free(fixture->events);
	free(fixture->retired);
	session_table_free(fixture->sessions);
	free(fixture);
	rcu_barrier();
	rcu_unregister_thread();
}

void fixture_clear(struct fixture *fixture)
{
	for (unsigned int i = 0; i < fixture->sent_count; i++)
		free(fixture->sent[i].record);
	fixture->sent_count = fixture->heard_count = fixture->event_count = 0;
}

static struct aead_key *key_new(struct fixture *fixture)
{
	uint8_t secret[WIRE_EXPORT_SIZE] = {0};
	struct aead_key *key;

	wire_put32(secret, fixture->key_count);
	key = aead_key_new(fixture->aead, WIRE_CHACHA20_POLY1305, secret, NODE_ANY);
	assert(key);
	fixture->keys = more(fixture->keys, fixture->key_count, sizeof(fixture->keys[0]));
	fixture->keys[fixture->key_count++] = key;
	return key;
}

static struct session *session_new(void)
{
	struct session *session = aligned_alloc(64, sizeof(*session));

	assert(session);
	memset(session, 0, sizeof(*session));
	return session;
}

static struct peer *peer_add(struct fixture *fixture, const struct wire_id *id, uint32_t index)
{
	struct peer *peer = calloc(1, sizeof(*peer));
	struct session *session = session_new();

	assert(peer && fixture->peer_count < FIXTURE_PEERS);
	fixture->peers[fixture->peer_count++] = peer;
	peer->id = *id;
	peer->index = index;
	peer->up[0] = key_new(fixture);
	peer->down[0] = key_new(fixture);
	peer->state = session_state_new(fixture->region, FIXTURE_LANES, FIXTURE_WORKERS);
	assert(peer->state);
	peer->endpoint.ip[15] = (uint8_t)index;
	peer->endpoint.mac[0] = 2;
	peer->session = session;
	session->index = index;
	session->tx_budget = WIRE_KEY_RECORDS / FIXTURE_WORKERS;
	session->record_max = WIRE_MTU_MIN - WIRE_IP_OVERHEAD;
	session->lanes_up = FIXTURE_LANES;
	session->lanes_down = FIXTURE_WORKERS;
	session->rx[0] = peer->up[0];
	session->tx = peer->down[0];
	session->state = peer->state;
	session->endpoint = peer->endpoint;
	session->header.length = FIXTURE_FRAME;
	memset(session->header.bytes, (int)index, FIXTURE_FRAME);
	session->id = *id;
	session->relay = fixture->relay;
	return peer;
}

struct peer *peer_new(struct fixture *fixture, uint32_t slot)
{
	struct wire_id id = {{'p', 'e', 'e', 'r', (uint8_t)(slot >> 8), (uint8_t)slot}};
	struct peer *peer = peer_add(fixture, &id, slot);
	int r;

	rcu_assign_pointer(fixture->sessions->slot[slot].current, peer->session);
	r = route_set(&fixture->routes, &id, slot);
	assert(r == 0);
	return peer;
}

struct peer *peer_return(struct fixture *fixture, const struct peer *old)
{
	struct peer *peer = peer_add(fixture, &old->id, old->index + WIRE_SLOTS);

	rcu_assign_pointer(fixture->sessions->slot[wire_slot(peer->index)].next, peer->session);
	return peer;
}

void peer_take_over(struct fixture *fixture, struct peer *peer)
{
	struct session_slot *slot = &fixture->sessions->slot[wire_slot(peer->index)];

	assert(slot->next == peer->session);
	rcu_assign_pointer(slot->last, slot->current);
	rcu_assign_pointer(slot->current, peer->session);
	rcu_assign_pointer(slot->next, NULL);
}

struct session *peer_republish(struct fixture *fixture, struct peer *peer)
{
	struct session_slot *slot = &fixture->sessions->slot[wire_slot(peer->index)];
	struct session *session = session_new();

	*session = *peer->session;
	if (slot->current == peer->session)
		rcu_assign_pointer(slot->current, session);
	else if (slot->next == peer->session)
		rcu_assign_pointer(slot->next, session);
	else if (slot->last == peer->session)
		rcu_assign_pointer(slot->last, session);
	fixture->retired =
		more(fixture->retired, fixture->retired_count, sizeof(fixture->retired[0]));
	fixture->retired[fixture->retired_count++] = peer->session;
	peer->session = session;
	return session;
}

void peer_rekey(struct fixture *fixture, struct peer *peer)
{
	struct session *session = peer_republish(fixture, peer);
	uint32_t phase = (peer->epoch + 1) & 1;

	peer->up[phase] = key_new(fixture);
	peer->down[phase] = key_new(fixture);
	session->rx[phase] = peer->up[phase];
	session->rx_epoch = ++peer->epoch;
}

void peer_rekey_sends(struct fixture *fixture, struct peer *peer)
{
	struct session *session = peer_republish(fixture, peer);

	session->tx_epoch = session->rx_epoch;
	session->tx = peer->down[session->tx_epoch & 1];
	__atomic_and_fetch(&peer->state->hints, ~(SESSION_HINT_PHASE | SESSION_HINT_REKEY),
			   __ATOMIC_RELEASE);
}

void peer_rekey_ends(struct fixture *fixture, struct peer *peer)
{
	struct session *session = peer_republish(fixture, peer);
	uint32_t phase = (session->rx_epoch + 1) & 1;

	session->rx[phase] = NULL;
	peer->down[phase] = NULL;
}

struct said say(const struct wire_id *to, uint32_t tag, uint16_t length)
{
	return (struct said){
		.to = to,
		.tag = tag,
		.length = length,
		.kind = WIRE_SEND,
		.hop_limit = WIRE_HOP_LIMIT,
	};
}

uint8_t payload_byte(uint32_t tag, uint16_t i)
{
	return (uint8_t)((tag + i) * UINT32_C(0x9e3779b1) >> 24);
}

bool payload_right(uint32_t tag, const uint8_t *payload, uint16_t length)
{
	for (uint16_t i = 0; i < length; i++) {
		if (payload[i] != payload_byte(tag, i))
			return false;
	}
	return true;
}

struct forward_input *fixture_datagram(struct fixture *fixture, const void *bytes, uint16_t length)
{
	struct forward_input *input = &fixture->inputs[fixture->input_count++];

	assert(fixture->input_count <= FORWARD_BURST && length <= FIXTURE_RECORD_MAX);
	memset(input, 0, sizeof(*input));
	input->buffer = buffer_new(fixture, &input->record);
	input->length = length;
	input->frame_length = FIXTURE_FRAME;
	memset(input->record - FIXTURE_FRAME, FIXTURE_FRAME_BYTE, FIXTURE_FRAME);
	memcpy(input->record, bytes, length);
	return input;
}

struct forward_input *peer_seals(struct fixture *fixture, struct peer *peer,
				 const struct wire_record *header, const void *text,
				 uint16_t length)
{
	uint8_t record[FIXTURE_RECORD_MAX];
	struct aead_job sealing = {
		.key = peer->up[header->phase],
		.record = record,
		.length = WIRE_RECORD_OVERHEAD + length,
	};
	struct forward_input *input;

	assert(WIRE_RECORD_OVERHEAD + length <= FIXTURE_RECORD_MAX);
	wire_record_put(record, header);
	memcpy(record + WIRE_RECORD_HEADER, text, length);
	fixture->aead->seal(fixture->workers[0].forward.aead_worker, &sealing, 1);
	input = fixture_datagram(fixture, record, WIRE_RECORD_OVERHEAD + length);
	input->source = peer->endpoint;
	return input;
}

struct forward_input *peer_says(struct fixture *fixture, struct peer *peer, uint8_t lane,
				enum wire_class class, const struct said *messages, unsigned int n)
{
	const struct wire_record header = {
		.class = class,
		.phase = peer->epoch & 1,
		.lane = lane,
		.index = peer->index,
		.sequence = peer->next[lane]++,
	};
	uint8_t text[FIXTURE_RECORD_MAX] = {0};
	uint16_t length = 0;

	for (unsigned int i = 0; i < n; i++) {
		const struct said *said = &messages[i];

		assert(length + WIRE_MESSAGE_HEADER + said->length <= FIXTURE_RECORD_MAX);
		wire_message_put(text + length, said->length, said->kind, said->hop_limit,
				 said->flags, said->tag, said->to);
		length += WIRE_MESSAGE_HEADER;
		for (uint16_t j = 0; j < said->length; j++)
			text[length++] = payload_byte(said->tag, j);
	}
	return peer_seals(fixture, peer, &header, text, length);
}

void fixture_keep(struct fixture *fixture, struct kept *kept)
{
	const struct forward_input *input = &fixture->inputs[--fixture->input_count];

	kept->length = input->length;
	kept->source = input->source;
	memcpy(kept->bytes, input->record, input->length);
	buffer_free(fixture, input->buffer);
}

struct forward_input *fixture_again(struct fixture *fixture, const struct kept *kept)
{
	struct forward_input *input = fixture_datagram(fixture, kept->bytes, kept->length);

	input->source = kept->source;
	return input;
}

void fixture_burst(struct fixture *fixture, unsigned int worker)
{
	struct forward_input inputs[FORWARD_BURST];
	unsigned int n = fixture->input_count;

	memcpy(inputs, fixture->inputs, n * sizeof(inputs[0]));
	fixture->input_count = 0;
	forward_burst(&fixture->workers[worker].forward, inputs, n, fixture->now_ms);
	settle(fixture);
}

unsigned int fixture_queue(struct fixture *fixture, unsigned int worker)
{
	struct fixture_worker *to = &fixture->workers[worker];
	struct forward_input inputs[FORWARD_BURST];
	unsigned int n = to->queued < FORWARD_BURST ? to->queued : FORWARD_BURST;

	memcpy(inputs, to->queue, n * sizeof(inputs[0]));
	to->queued -= n;
	memmove(to->queue, to->queue + n, to->queued * sizeof(inputs[0]));
	forward_burst(&to->forward, inputs, n, fixture->now_ms);
	settle(fixture);
	return n;
}

bool fixture_resume(struct fixture *fixture, unsigned int worker)
{
	bool more = forward_resume(&fixture->workers[worker].forward, fixture->now_ms);

	settle(fixture);
	return more;
}

void fixture_commands(struct fixture *fixture, unsigned int worker,
		      const struct forward_command *commands, unsigned int n)
{
	forward_commands(&fixture->workers[worker].forward, commands, n, fixture->now_ms);
	settle(fixture);
}
