/*
 * The forwarding core against a model of it: random bursts from peers that rekey, return, move and
 * change workers, over a network that loses, doubles, delays and forges, into a port, a pool and
 * rings that are full now and then. The model foretells what becomes of every record, and keeps
 * book of every message: delivered once, unchanged, in order, to the right one; or counted, and
 * then perhaps told of.
 *
 * Prints the seed of each run; VIADUCT_SEED runs that one alone.
 */
#include "test.h"

#include <stdio.h>
#include <stdlib.h>

#include "fixture.h"
#include "toy.h"

enum {
	SEEDS = 30,
	STEPS = 400,
	SLOTS = 12,
	RELAY = SLOTS, // as a destination
	NOBODY,
	DESTINATIONS,
	AIR = 128,           // records that may still arrive, or again
	SEQUENCES = 1 << 14, // of a lane, in one run
	MESSAGES = 1 << 18,  // in one run
	COMMANDS = 1 << 12,  // in one run
	COMMAND_TAG = 1 << 30,
	// what may become of a record, beside the reasons
	OPENED = DROP_RECORD_COUNT,
	HANDED_OVER,
	// and of a message
	FORWARDED = DROP_MESSAGE_COUNT, // unless something is full
	CONSUMED,
};

/* A message and what became of it; its tag is its number. */
struct message {
	struct peer *from;
	unsigned int to; // slot, RELAY or NOBODY
	struct said said;
	enum wire_class class;
	int fate;
	uint32_t opened; // the how manieth; 0: not yet
	bool delivered, told, answered;
};

/* A record of the peers'. */
struct record {
	struct peer *from;
	const struct aead_key *key;
	struct wire_record header;
	uint32_t first; // message
	uint32_t count;
	bool forged;
	bool handed;
	uint8_t received_by; // worker
	uint32_t received;   // the how manieth of its lane that this worker received
};

struct air {
	struct record record;
	struct kept kept;
};

struct lane {
	uint8_t owner;
	unsigned int handed; // on their way to the owner
	uint64_t next;
	uint32_t received[FIXTURE_WORKERS]; // by each
	// `received` of the last of these that was opened
	uint32_t opened[FIXTURE_WORKERS][WIRE_CLASSES];
	bool accepted[SEQUENCES];
};

/* A peer's session and how far its rekey is. */
struct view {
	struct peer *peer;
	unsigned int rekeying;
	struct lane lanes[FIXTURE_LANES];
};

struct place {
	struct view *current, *next, *last;
	bool routed;
};

struct model {
	struct fixture *f;
	struct wire_id ids[DESTINATIONS];
	struct view *views[FIXTURE_PEERS];
	unsigned int view_count;
	struct place places[SLOTS];
	struct message messages[MESSAGES];
	uint32_t message_count;
	struct peer *commands[COMMANDS]; // to whom; NULL: heard
	uint32_t command_count;
	struct air air[AIR];
	struct record queues[FIXTURE_WORKERS][FIXTURE_QUEUE]; // beside the fixture's
	uint32_t opened;                                      // messages so far
	uint32_t last[SLOTS][WIRE_CLASSES][SLOTS]; // `opened` of the last to, of class, from
	unsigned long delivered, told;
};

static unsigned int below(unsigned int n)
{
	return (unsigned int)random() % n;
}

static bool chance(unsigned int one_in)
{
	return below(one_in) == 0;
}

static unsigned int slot_of(const struct peer *peer)
{
	return wire_slot(peer->index);
}

static struct view *view_of(struct model *m, const struct peer *peer)
{
	for (unsigned int i = 0; i < m->view_count; i++) {
		if (m->views[i]->peer == peer)
			return m->views[i];
	}
	return NULL;
}

static struct view *view_new(struct model *m, struct peer *peer)
{
	struct view *view = calloc(1, sizeof(*view));

	assert_non_null(view);
	m->views[m->view_count++] = view;
	view->peer = peer;
	for (int i = 0; i < FIXTURE_LANES; i++)
		view->lanes[i].owner = SESSION_NO_OWNER;
	if (chance(3))
		peer->session->record_max = 300 + below(FIXTURE_RECORD_MAX - 300);
	if (chance(3))
		peer->session->tx_budget = 1 + below(200);
	return view;
}

/* The peers say something */

static struct said random_message(struct model *m, unsigned int to, uint16_t room)
{
	static const uint8_t kinds[] = {WIRE_SEND,     WIRE_SEND, WIRE_SEND, WIRE_REQUEST,
					WIRE_RESPONSE, WIRE_PING, WIRE_PONG};
	struct said said = say(&m->ids[to], m->message_count, 0);

	said.kind = kinds[below(sizeof(kinds))];
	if (to == RELAY)
		said.kind = chance(2) ? WIRE_PING : WIRE_KIND_CONTROL;
	if (chance(50))
		said.kind = (uint8_t)random();
	said.hop_limit = chance(50) ? 0 : 1 + below(15);
	said.flags = chance(8) ? WIRE_FLAG_SEALED : 0;
	said.length = chance(8) ? below(room + 1) : below(room < 60 ? room + 1 : 60);
	return said;
}

/* Seals a record of random messages and lets it go. */
static struct air *say_something(struct model *m)
{
	struct air *air = &m->air[below(AIR)];
	struct record *record = &air->record;
	struct view *view = m->views[below(m->view_count)];
	struct peer *peer;
	struct said said[400];
	unsigned int most = chance(4) ? 400 : 1 + below(3);
	uint16_t room;

	// mostly one that is there
	if (!chance(8))
		view = m->places[below(SLOTS)].current;
	peer = view->peer;
	memset(record, 0, sizeof(*record));
	record->from = peer;
	record->first = m->message_count;
	record->header.lane = chance(2) ? 0 : below(FIXTURE_LANES);
	record->header.class = chance(16) ? WIRE_CONTROL : below(WIRE_CONTROL);
	record->header.phase = peer->epoch & 1;
	record->header.index = peer->index;
	if (chance(100) && peer->next[record->header.lane] < SEQUENCES - 6000)
		peer->next[record->header.lane] += below(3000);
	record->header.sequence = peer->next[record->header.lane];
	record->key = peer->up[record->header.phase];
	room = peer->session->record_max - WIRE_RECORD_OVERHEAD;
	while (record->count < most && room >= WIRE_MESSAGE_HEADER) {
		struct message *message = &m->messages[m->message_count];

		assert_true(m->message_count < MESSAGES);
		message->from = peer;
		message->class = record->header.class;
		message->to = chance(30) ? NOBODY : chance(20) ? RELAY : below(SLOTS);
		message->said = random_message(m, message->to, room - WIRE_MESSAGE_HEADER);
		said[record->count++] = message->said;
		m->message_count++;
		room -= WIRE_MESSAGE_HEADER + message->said.length;
	}
	peer_says(m->f, peer, record->header.lane, record->header.class, said, record->count);
	if (chance(20)) {
		struct forward_input *input = &m->f->inputs[m->f->input_count - 1];

		input->record[WIRE_RECORD_HEADER + below(input->length - WIRE_RECORD_HEADER)] ^=
			1 << below(8);
		record->forged = true;
	}
	fixture_keep(m->f, &air->kept);
	return air;
}

/* The model of receiving */

static int find_session(struct model *m, const struct record *record)
{
	const struct place *place = &m->places[slot_of(record->from)];
	const struct session *session = record->from->session;

	if ((!place->current || place->current->peer != record->from) &&
	    (!place->next || place->next->peer != record->from))
		return DROP_RECORD_SESSION_STALE;
	return session->rx[record->header.phase] ? OPENED : (int)DROP_RECORD_KEY_PHASE;
}

static int check_window(const struct lane *lane, uint64_t sequence)
{
	assert_true(sequence < SEQUENCES);
	if (lane->next > WINDOW_SIZE && sequence < lane->next - WINDOW_SIZE)
		return DROP_RECORD_REPLAY_OLD;
	return lane->accepted[sequence] ? (int)DROP_RECORD_REPLAY_SEEN : OPENED;
}

static struct lane *lane_of(struct model *m, const struct record *record)
{
	return &view_of(m, record->from)->lanes[record->header.lane];
}

/* By a worker, from the port or from the other one. */
static void receive(struct model *m, struct record *record, unsigned int worker)
{
	struct lane *lane = lane_of(m, record);

	if (record->handed) {
		lane->handed--;
		return;
	}
	record->received_by = worker;
	record->received = ++lane->received[worker];
}

static int check_lane(struct model *m, struct record *record, unsigned int worker,
		      unsigned int *handovers)
{
	struct lane *lane = lane_of(m, record);

	if (lane->owner == SESSION_NO_OWNER)
		lane->owner = worker;
	if (lane->owner == worker)
		return check_window(lane, record->header.sequence);
	if (*handovers == 0)
		return DROP_RECORD_HANDOVER_FULL;
	(*handovers)--;
	// whoever is on the way to the owner finds it there
	assert_false(record->handed);
	record->handed = true;
	lane->handed++;
	return HANDED_OVER;
}

static int accept_record(struct model *m, const struct record *record)
{
	struct lane *lane = lane_of(m, record);
	uint32_t *last = &lane->opened[record->received_by][record->header.class];
	int result = check_window(lane, record->header.sequence);

	if (record->forged || record->key != record->from->session->rx[record->header.phase])
		return DROP_RECORD_AUTH;
	if (result == OPENED) {
		lane->accepted[record->header.sequence] = true;
		if (record->header.sequence >= lane->next)
			lane->next = record->header.sequence + 1;
		// a class that takes the same way stays in order, wherever the lane goes meanwhile
		assert_true(record->received > *last);
		*last = record->received;
	}
	return result;
}

static int fate_of(const struct model *m, const struct message *message)
{
	const struct said *said = &message->said;

	if (message->to == RELAY) {
		if (said->kind == WIRE_PING || said->kind == WIRE_PONG)
			return CONSUMED;
		if (said->kind != WIRE_KIND_CONTROL)
			return DROP_MESSAGE_UNSUPPORTED;
		return said->length > FORWARD_PAYLOAD_MAX ? (int)DROP_MESSAGE_TOO_LARGE : CONSUMED;
	}
	// a topic, perhaps
	if (said->kind == WIRE_PUBLISH && message->class != WIRE_CONTROL &&
	    (message->to == NOBODY || !m->places[message->to].routed))
		return DROP_MESSAGE_NO_ROUTE;
	if (message->class == WIRE_CONTROL ||
	    (said->kind != WIRE_SEND && said->kind != WIRE_REQUEST && said->kind != WIRE_RESPONSE &&
	     said->kind != WIRE_PING && said->kind != WIRE_PONG))
		return DROP_MESSAGE_UNSUPPORTED;
	if (said->hop_limit == 0)
		return DROP_MESSAGE_HOP_LIMIT;
	if (message->to == NOBODY || !m->places[message->to].routed)
		return DROP_MESSAGE_NO_ROUTE;
	if (WIRE_RECORD_OVERHEAD + WIRE_MESSAGE_HEADER + said->length >
	    m->places[message->to].current->peer->session->record_max)
		return DROP_MESSAGE_TOO_LARGE;
	return FORWARDED;
}

/* Judging what was heard */

static void judge_error(struct model *m, const struct heard *heard)
{
	static const enum wire_reason reasons[] = {
#define X(name, text, reason, help) reason,
		DROP_MESSAGES(X)
#undef X
	};
	unsigned int reason = heard->kind & ~WIRE_ERROR;
	struct message *message = &m->messages[heard->tag];

	assert_true(heard->tag < m->message_count);
	assert_ptr_equal(heard->peer, message->from);
	assert_true(wire_id_equal(&heard->address, &m->f->relay));
	assert_int_equal(heard->class, message->class);
	assert_int_equal(heard->length, 0);
	assert_true(message->opened && !message->delivered && !message->told);
	assert_true(message->said.kind == WIRE_SEND || message->said.kind == WIRE_REQUEST ||
		    message->said.kind == WIRE_PUBLISH);
	if (message->fate == FORWARDED)
		assert_true(reason == WIRE_REASON_TX_FULL || reason == WIRE_REASON_NO_BUFFER ||
			    reason == WIRE_REASON_KEY_EXHAUSTED);
	else
		assert_int_equal(reason, reasons[message->fate]);
	message->told = true;
	m->told++;
}

static void judge_message(struct model *m, const struct heard *heard)
{
	struct message *message = &m->messages[heard->tag];
	uint32_t *last;

	assert_true(heard->tag < m->message_count);
	assert_int_equal(heard->class, message->class);
	assert_int_equal(heard->flags, message->said.flags);
	assert_int_equal(heard->length, message->said.length);
	assert_true(payload_right(heard->tag, heard->payload, heard->length));
	if (heard->kind == WIRE_PONG && wire_id_equal(&heard->address, &m->f->relay)) {
		assert_int_equal(message->said.kind, WIRE_PING);
		assert_int_equal(message->fate, CONSUMED);
		assert_ptr_equal(heard->peer, message->from);
		assert_false(message->answered);
		message->answered = true;
		return;
	}
	assert_int_equal(message->fate, FORWARDED);
	assert_ptr_equal(heard->peer, m->places[message->to].current->peer);
	assert_int_equal(heard->kind, message->said.kind);
	assert_int_equal(heard->hop_limit, message->said.hop_limit - 1);
	assert_true(wire_id_equal(&heard->address, &message->from->id));
	assert_false(message->delivered || message->told);
	message->delivered = true;
	m->delivered++;
	last = &m->last[message->to][message->class][slot_of(message->from)];
	assert_true(message->opened > *last);
	*last = message->opened;
}

static void judge_command(struct model *m, const struct heard *heard)
{
	uint32_t number = heard->tag & ~COMMAND_TAG;

	assert_true(number < m->command_count);
	assert_ptr_equal(heard->peer, m->commands[number]);
	assert_int_equal(heard->kind, WIRE_KIND_CONTROL);
	assert_int_equal(heard->class, WIRE_CONTROL);
	assert_true(payload_right(heard->tag, heard->payload, heard->length));
	m->commands[number] = NULL;
}

static void judge_heard(struct model *m)
{
	for (unsigned int i = 0; i < m->f->heard_count; i++) {
		const struct heard *heard = &m->f->heard[i];

		if (heard->tag & COMMAND_TAG)
			judge_command(m, heard);
		else if (heard->kind & WIRE_ERROR)
			judge_error(m, heard);
		else
			judge_message(m, heard);
	}
}

/* Returns how many are control messages. */
static unsigned int judge_events(struct model *m)
{
	unsigned int control = 0;

	for (unsigned int i = 0; i < m->f->event_count; i++) {
		const struct forward_event *event = &m->f->events[i];
		struct message *message;

		if (event->type != FORWARD_EVENT_CONTROL)
			continue;
		control++;
		message = &m->messages[event->tag];
		assert_true(event->tag < m->message_count);
		assert_int_equal(message->fate, CONSUMED);
		assert_int_equal(message->said.kind, WIRE_KIND_CONTROL);
		assert_int_equal(event->index, message->from->index);
		assert_int_equal(event->payload_length, message->said.length);
		assert_true(payload_right(event->tag, event->payload, event->payload_length));
		assert_false(message->answered);
		message->answered = true;
	}
	return control;
}

/* The order in which a worker deals with them: a class stays in order. */
static void sort_by_class(struct record *records, unsigned int n)
{
	for (unsigned int i = 1; i < n; i++) {
		struct record record = records[i];
		unsigned int at = i;

		for (; at && records[at - 1].header.class < record.header.class; at--)
			records[at] = records[at - 1];
		records[at] = record;
	}
}

/* Foretells what becomes of `n` records that a worker is given; returns how many are for control.
 */
static unsigned int foretell(struct model *m, unsigned int worker, struct record *records,
			     unsigned int n, struct counters *expected)
{
	const struct fixture_worker *to = &m->f->workers[worker];
	const struct fixture_worker *other = &m->f->workers[!worker];
	unsigned int handovers = to->handovers, queued = other->queued, control = 0;
	struct lane *leaving[FORWARD_BURST] = {NULL};
	int results[FORWARD_BURST];

	if (handovers > FIXTURE_QUEUE - queued)
		handovers = FIXTURE_QUEUE - queued;
	sort_by_class(records, n);
	for (unsigned int i = 0; i < n; i++) {
		receive(m, &records[i], worker);
		results[i] = find_session(m, &records[i]);
	}
	for (unsigned int i = 0; i < n; i++) {
		if (results[i] == OPENED)
			results[i] = check_lane(m, &records[i], worker, &handovers);
		if (results[i] == HANDED_OVER)
			m->queues[!worker][queued++] = records[i];
	}
	for (unsigned int i = 0; i < n; i++) {
		const struct record *record = &records[i];
		struct lane *lane = lane_of(m, record);
		bool above = record->header.sequence >= lane->next;

		if (results[i] == OPENED)
			results[i] = accept_record(m, record);
		if (results[i] == HANDED_OVER) {
			expected->handed_over++;
			continue;
		}
		expected->records_received++;
		if (results[i] != OPENED) {
			expected->records_dropped[results[i]]++;
			continue;
		}
		expected->records_opened++;
		expected->messages_opened += record->count;
		if (record->handed && above)
			leaving[i] = lane;
		for (uint32_t j = 0; j < record->count; j++) {
			struct message *message = &m->messages[record->first + j];

			message->opened = ++m->opened;
			message->fate = fate_of(m, message);
			if (message->fate == CONSUMED && message->said.kind == WIRE_KIND_CONTROL)
				control++;
			else if (message->fate == CONSUMED)
				expected->messages_consumed++;
			else if (message->fate != FORWARDED)
				expected->messages_dropped[message->fate]++;
		}
	}
	// what leaves only does so at the end, and when nothing is on its way here
	for (unsigned int i = 0; i < n; i++) {
		if (leaving[i] && !leaving[i]->handed)
			leaving[i]->owner = records[i].received_by;
	}
	return control;
}

static void expect_foretold(const struct counters *expected, const struct counters *counted)
{
	static const enum drop_message reasons[] = {DROP_MESSAGE_NO_ROUTE, DROP_MESSAGE_TOO_LARGE,
						    DROP_MESSAGE_HOP_LIMIT,
						    DROP_MESSAGE_UNSUPPORTED};

	assert_int_equal(counted->handed_over, expected->handed_over);
	assert_int_equal(counted->records_received, expected->records_received);
	assert_int_equal(counted->records_opened, expected->records_opened);
	for (int i = 0; i < DROP_RECORD_COUNT; i++)
		assert_int_equal(counted->records_dropped[i], expected->records_dropped[i]);
	assert_int_equal(counted->messages_opened, expected->messages_opened);
	assert_int_equal(counted->messages_consumed, expected->messages_consumed);
	for (unsigned int i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++)
		assert_int_equal(counted->messages_dropped[reasons[i]],
				 expected->messages_dropped[reasons[i]]);
}

/*
 * Gives a worker `n` records, which are in `records` as the model knows them, and in the fixture's
 * inputs or its queue; judges all that comes of it.
 */
static void give(struct model *m, unsigned int worker, struct record *records, unsigned int n,
		 bool queued)
{
	const struct counters *counted = &m->f->workers[worker].forward.counters;
	const struct counters before = *counted;
	struct counters expected = before;
	unsigned int control = foretell(m, worker, records, n, &expected);
	unsigned int told;

	fixture_clear(m->f);
	if (queued)
		fixture_queue(m->f, worker);
	else
		fixture_burst(m->f, worker);
	judge_heard(m);
	told = judge_events(m);
	expected.messages_consumed += told;
	expect_foretold(&expected, counted);
	assert_int_equal(counted->messages_dropped[DROP_MESSAGE_CONTROL_FULL],
			 before.messages_dropped[DROP_MESSAGE_CONTROL_FULL] + control - told);
	assert_int_equal(counted->messages_delivered,
			 before.messages_delivered + m->f->heard_count);
	assert_int_equal(counted->records_sent, before.records_sent + m->f->sent_count);
}

static void give_queue(struct model *m, unsigned int worker)
{
	struct record records[FORWARD_BURST];
	unsigned int queued = m->f->workers[worker].queued;
	unsigned int n = queued < FORWARD_BURST ? queued : FORWARD_BURST;

	memcpy(records, m->queues[worker], n * sizeof(records[0]));
	memmove(m->queues[worker], m->queues[worker] + n, (queued - n) * sizeof(records[0]));
	give(m, worker, records, n, true);
}

static void give_burst(struct model *m, unsigned int worker)
{
	struct record records[FORWARD_BURST];
	unsigned int n = 0, wanted = below(FORWARD_BURST + 1);

	for (unsigned int i = 0; i < wanted; i++) {
		const struct air *air = chance(4) ? &m->air[below(AIR)] : say_something(m);

		if (!air->record.from || chance(6))
			continue;
		fixture_again(m->f, &air->kept);
		records[n++] = air->record;
	}
	give(m, worker, records, n, false);
}

/* What control does meanwhile */

static bool is_known(const struct model *m, const struct view *view)
{
	const struct place *place = &m->places[slot_of(view->peer)];

	return view == place->current || view == place->next || view == place->last;
}

static void give_commands(struct model *m, unsigned int worker)
{
	static struct forward_command commands[100];
	const struct counters *counted = &m->f->workers[worker].forward.counters;
	const struct counters before = *counted;
	unsigned int n = below(chance(4) ? 100 : 5), gone = 0, large = 0;

	for (unsigned int i = 0; i < n; i++) {
		const struct view *view = m->views[below(m->view_count)];
		struct forward_command *command = &commands[i];

		assert_true(m->command_count < COMMANDS);
		command->index = view->peer->index;
		command->tag = COMMAND_TAG | m->command_count;
		command->kind = WIRE_KIND_CONTROL;
		command->class = WIRE_CONTROL;
		command->payload_length = below(FORWARD_PAYLOAD_MAX + 1);
		for (uint16_t j = 0; j < command->payload_length; j++)
			command->payload[j] = payload_byte(command->tag, j);
		m->commands[m->command_count++] = view->peer;
		if (!is_known(m, view))
			gone++;
		else if (WIRE_RECORD_OVERHEAD + WIRE_MESSAGE_HEADER + command->payload_length >
			 view->peer->session->record_max)
			large++;
	}
	fixture_clear(m->f);
	fixture_commands(m->f, worker, commands, n);
	judge_heard(m);
	assert_int_equal(counted->messages_made, before.messages_made + n);
	assert_int_equal(counted->messages_delivered,
			 before.messages_delivered + m->f->heard_count);
	assert_int_equal(counted->messages_dropped[DROP_MESSAGE_SESSION_GONE],
			 before.messages_dropped[DROP_MESSAGE_SESSION_GONE] + gone);
	assert_int_equal(counted->messages_dropped[DROP_MESSAGE_TOO_LARGE],
			 before.messages_dropped[DROP_MESSAGE_TOO_LARGE] + large);
}

static void rekey(struct model *m, struct view *view)
{
	if (view->rekeying == 0)
		peer_rekey(m->f, view->peer);
	else if (view->rekeying == 1)
		peer_rekey_sends(m->f, view->peer);
	else
		peer_rekey_ends(m->f, view->peer);
	view->rekeying = (view->rekeying + 1) % 3;
}

static void come_or_take_over(struct model *m, struct place *place)
{
	if (!place->next) {
		place->next = view_new(m, peer_return(m->f, place->current->peer));
		return;
	}
	peer_take_over(m->f, place->next->peer);
	place->last = place->current;
	place->current = place->next;
	place->next = NULL;
}

static void move(struct model *m, struct peer *peer)
{
	if (chance(2)) {
		peer->endpoint.port[below(2)]++;
		return;
	}
	peer_republish(m->f, peer)->endpoint = peer->endpoint;
	peer->state->hints &= ~SESSION_HINT_PATH;
}

static void change_route(struct model *m, unsigned int slot)
{
	struct place *place = &m->places[slot];
	int r = place->routed ? route_remove(&m->f->routes, &m->ids[slot])
			      : route_set(&m->f->routes, &m->ids[slot], slot);

	assert_int_equal(r, 0);
	place->routed = !place->routed;
}

static void control(struct model *m)
{
	unsigned int slot = below(SLOTS);
	struct place *place = &m->places[slot];

	switch (below(12)) {
	case 0:
		come_or_take_over(m, place);
		break;
	case 1:
		change_route(m, slot);
		break;
	case 2:
		m->f->sessions->slot[slot].last = NULL;
		place->last = NULL;
		break;
	case 3:
	case 4:
		give_commands(m, below(FIXTURE_WORKERS));
		break;
	case 5:
	case 6:
		move(m, place->current->peer);
		break;
	default:
		rekey(m, place->current);
	}
}

/* How much of everything there is for the next call. */
static void ration(struct fixture_worker *worker)
{
	worker->port = chance(4) ? below(60) : FIXTURE_NO_LIMIT;
	worker->port_then = chance(4) ? below(60) : FIXTURE_NO_LIMIT;
	worker->ring = chance(4) ? below(3) : FIXTURE_NO_LIMIT;
	worker->handovers = chance(4) ? below(10) : FIXTURE_NO_LIMIT;
	worker->pool = FIXTURE_NO_LIMIT;
	if (chance(6)) {
		forward_fini(&worker->forward);
		worker->pool = below(40);
	}
}

static void run(struct model *m)
{
	for (unsigned int i = 0; i < SLOTS; i++) {
		struct peer *peer = peer_new(m->f, i);

		m->ids[i] = peer->id;
		m->places[i] = (struct place){.current = view_new(m, peer), .routed = true};
	}
	m->ids[RELAY] = m->f->relay;
	m->ids[NOBODY] = (struct wire_id){{'n', 'o', 'b', 'o', 'd', 'y'}};
	for (int step = 0; step < STEPS; step++) {
		m->f->now_ms += below(30);
		for (int i = 0; i < FIXTURE_WORKERS; i++)
			ration(&m->f->workers[i]);
		give_burst(m, below(FIXTURE_WORKERS));
		if (chance(2))
			give_queue(m, below(FIXTURE_WORKERS));
		if (chance(3))
			control(m);
	}
	// something came through, and something was told of, in spite of all that
	assert_true(m->delivered > 0);
	assert_true(m->told > 0);
}

static void test_seeds(void **state)
{
	const char *alone = getenv("VIADUCT_SEED");
	unsigned int first = alone ? (unsigned int)strtoul(alone, NULL, 0) : 1;

	for (unsigned int seed = first; seed < (alone ? first + 1 : first + SEEDS); seed++) {
		struct model *m = calloc(1, sizeof(*m));

		assert_non_null(m);
		fprintf(stderr, "seed %u\n", seed);
		srandom(seed);
		m->f = fixture_new(&toy_aead);
		run(m);
		fixture_free(m->f);
		for (unsigned int i = 0; i < m->view_count; i++)
			free(m->views[i]);
		free(m);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_seeds),
	};

	return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
