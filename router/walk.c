#include "walk.h"

#include "drop.h"
#include "pack.h"
#include "service.h"
#include "topic.h"

enum { US_PER_S = 1000000 };

static const struct wire_id *destination(const struct forward_message *message)
{
	return (const struct wire_id *)(message->data + 8);
}

/* One hop fewer, and who it is from in place of whom it is for. */
static inline void readdress(uint8_t *message, const struct wire_id *from)
{
	message[3] -= 1 << WIRE_HOP_SHIFT;
	memcpy(message + 8, from, WIRE_ID_SIZE);
}

/*
 * What is left of a record, from this message on, leaves in its buffer if all of it goes to one
 * session. Returns how many messages that is; 0: it doesn't.
 */
static unsigned int __attribute__((noinline))
leave_in_place(struct forward *forward, struct forward_message *message)
{
	const struct session *to = message->to;
	struct forward_message *last = message;
	uint32_t size = message->size;
	unsigned int number;
	struct wire_id id;

	while (!(last->marks & FORWARD_LAST)) {
		last++;
		size += last->size;
		if (last->to != to || last->verdict != DROP_MESSAGE_COUNT ||
		    WIRE_RECORD_OVERHEAD + size > to->record_max)
			return 0;
	}
	number = pack_in_place(forward, to, message->lane, message->class, message->data,
			       (uint16_t)size, (uint16_t)(last + 1 - message), message->in->input);
	if (number == FORWARD_NO_RECORD)
		return 0;
	id = message->in->session->id;
	for (struct forward_message *each = message; each <= last; each++) {
		readdress(each->data, &id);
		each->record = (uint8_t)number;
	}
	return (unsigned int)(last + 1 - message);
}

/* A pong to the relay: its ping's payload was the time. */
static void measure(struct forward *forward, const struct session *session, const uint8_t *payload,
		    uint16_t length)
{
	const uint64_t most = 10 * US_PER_S;
	uint32_t *average = &session->state->round_trip_us;
	uint32_t before = __atomic_load_n(average, __ATOMIC_RELAXED);
	uint64_t us;

	if (length != sizeof(us))
		return;
	us = forward->ops->now_us(forward->worker) - wire_get64(payload);
	if (us >= most)
		return;
	us = before ? (7 * (uint64_t)before + us + 4) / 8 : us;
	__atomic_store_n(average, us ? (uint32_t)us : 1, __ATOMIC_RELAXED);
}

/*
 * Hands a control message to the control thread. False: there is no room for it, or there is, but
 * not for this peer: it may have no more waiting than there is room for more, so that who asks
 * without end leaves half of it to others, and two of them a third. (Dynamic thresholds: Choudhury
 * and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", 1998.)
 */
static bool request(struct forward *forward, const struct forward_message *message)
{
	const struct session *from = message->in->session;
	struct session_tx *lane = session_tx_lane(from, forward->number);
	unsigned int waiting = forward->ops->events_waiting(forward->worker);

	// the last one has been taken, and so have those before
	if ((uint16_t)(forward->events - lane->event_at) >= waiting)
		lane->events = 0;
	if (lane->events + waiting >= FORWARD_EVENTS ||
	    !forward_send_event(forward, FORWARD_EVENT_CONTROL, from, message->in->input))
		return false;
	lane->events++;
	lane->event_at = forward->events;
	return true;
}

/*
 * Packs the relay's answer, which stands where its question did: in that one's buffer, if it can,
 * so that it needs no other. False, with `reason` set: there is no record for it.
 */
static bool answer(struct forward *forward, const struct forward_message *message, uint64_t now_ms,
		   enum drop_message *reason)
{
	struct forward_input *input = message->in->input;
	const struct session *to = message->in->session;
	struct session_tx *lane = session_tx_lane(to, forward->number);

	if ((message->marks & FORWARD_LAST) && input->buffer &&
	    pack_find(forward, to, lane, message->class, message->size) == FORWARD_NO_RECORD &&
	    pack_in_place(forward, to, lane, message->class, message->data, message->size, 1,
			  input) != FORWARD_NO_RECORD)
		return true;
	return pack_message(forward, to, message->class, message->data, message->size, now_ms,
			    reason) != FORWARD_NO_RECORD;
}

/* The relay is the destination. */
static void consume(struct forward *forward, struct forward_message *message, uint64_t now_ms)
{
	struct forward_event *event = &forward->event;
	const struct session *from = message->in->session;
	const uint8_t *payload = message->data + WIRE_MESSAGE_HEADER;
	uint16_t length = message->size - WIRE_MESSAGE_HEADER;
	uint8_t class = message->class;
	enum drop_message reason;

	switch (message->kind) {
	case WIRE_PING:
		counters_consumed(&forward->counters, class);
		// whose address isn't known yet gets `path` from the control thread instead
		if (!from->header.length)
			return;
		counters_made(&forward->counters, class);
		message->data[2] = WIRE_PONG;
		message->data[3] = WIRE_HOP_LIMIT << WIRE_HOP_SHIFT |
				   (message->data[3] & ~(0xf << WIRE_HOP_SHIFT));
		// the address was the relay's own, and is that again
		if (!answer(forward, message, now_ms, &reason))
			counters_dropped(&forward->counters, class, reason, 1);
		return;
	case WIRE_PONG:
		counters_consumed(&forward->counters, class);
		measure(forward, from, payload, length);
		return;
	case WIRE_KIND_CONTROL:
		if (length > FORWARD_PAYLOAD_MAX) {
			drop_message(forward, message, DROP_MESSAGE_TOO_LARGE, now_ms);
			return;
		}
		event->tag = message->tag;
		event->payload_length = length;
		memcpy(event->payload, payload, length);
		if (request(forward, message))
			counters_consumed(&forward->counters, class);
		else
			drop_message(forward, message, DROP_MESSAGE_CONTROL_FULL, now_ms);
		return;
	default:
		drop_message(forward, message, DROP_MESSAGE_UNSUPPORTED, now_ms);
	}
}

/* Why session `to` must not get a message; DROP_MESSAGE_COUNT if it may. */
static inline enum drop_message judge_receiver(const struct policy *policy,
					       const struct forward_message *message,
					       const struct session *to)
{
	if (!to->header.length)
		return DROP_MESSAGE_NO_ROUTE;
	if (message->size + WIRE_RECORD_OVERHEAD > to->record_max)
		return DROP_MESSAGE_TOO_LARGE;
	if (policy && !policy_allows(policy, message->in->session->cluster, to->cluster))
		return DROP_MESSAGE_POLICY;
	return DROP_MESSAGE_COUNT;
}

/* Why a message must not be forwarded to it, NULL: to nobody. */
static inline enum drop_message judge(const struct policy *policy,
				      const struct forward_message *message,
				      const struct session *to)
{
	if (!walk_forwards(message->kind, message->class))
		return DROP_MESSAGE_UNSUPPORTED;
	if (message->data[3] >> WIRE_HOP_SHIFT == 0)
		return DROP_MESSAGE_HOP_LIMIT;
	return to ? judge_receiver(policy, message, to) : DROP_MESSAGE_NO_ROUTE;
}

/*
 * A response through a service, or a message with a key that a session must not get. True: it may
 * go on like others, but not in its own buffer; else it is dropped.
 */
static bool __attribute__((noinline))
clear_flagged(struct forward *forward, struct forward_message *message, uint64_t now_ms)
{
	const struct session *from = message->in->session;
	const struct wire_id *via = (const struct wire_id *)(message->data + WIRE_MESSAGE_HEADER);
	bool failed = message->data[3] & WIRE_FLAG_FAILED;
	enum drop_message reason = DROP_MESSAGE_UNSUPPORTED;

	message->kind &= ~FORWARD_FLAGGED;
	message->marks &= ~FORWARD_FLAGGED;
	if (message->kind == WIRE_RESPONSE) {
		reason = DROP_MESSAGE_UNASKED;
		if (forward->requests &&
		    service_answered(forward->requests, from, message->to, message->tag, via,
				     failed, forward->ops->now_us(forward->worker)))
			reason = judge(rcu_dereference(forward->sessions->policy), message,
				       message->to);
	}
	message->verdict = (uint8_t)reason;
	if (reason != DROP_MESSAGE_COUNT)
		drop_message(forward, message, reason, now_ms);
	return reason == DROP_MESSAGE_COUNT;
}

/* A send or request to a service: to one of its instances, with its via. */
static void __attribute__((noinline))
serve(struct forward *forward, struct forward_message *message, const struct service *service,
      uint64_t now_ms)
{
	const struct session *from = message->in->session, *to = NULL;
	bool keyed = message->marks & FORWARD_FLAGGED;
	const uint8_t *key = message->data + WIRE_MESSAGE_HEADER;
	struct service_choice choice = {
		.service = service,
		.from = from,
		.policy = rcu_dereference(forward->sessions->policy),
		.now_us = forward->ops->now_us(forward->worker),
		.random = &forward->random,
		.worker = forward->number,
		.key = keyed ? key : NULL,
	};
	const uint8_t *payload = key + (keyed ? WIRE_SERVICE_KEY : 0);
	uint16_t length = (uint16_t)(message->data + message->size - payload);
	uint16_t size = WIRE_MESSAGE_HEADER + WIRE_VIA_SIZE + length;
	uint8_t hop_limit = message->data[3] >> WIRE_HOP_SHIFT;
	enum drop_message reason = DROP_MESSAGE_UNSUPPORTED;
	const struct service_member *member;
	uint8_t kind;

	if (keyed)
		message->kind &= ~FORWARD_FLAGGED;
	kind = message->kind;
	if ((kind != WIRE_SEND && kind != WIRE_REQUEST) || message->class == WIRE_CONTROL ||
	    !forward->requests)
		goto drop;
	reason = DROP_MESSAGE_HOP_LIMIT;
	if (!hop_limit)
		goto drop;
	if (kind == WIRE_REQUEST)
		message->marks |= FORWARD_PROMISED;
	message->entry = NULL;
	reason = DROP_MESSAGE_NO_INSTANCE;
	member = service_choose(&choice, &to);
	if (!member)
		goto drop;
	reason = DROP_MESSAGE_TOO_LARGE;
	if (size + WIRE_RECORD_OVERHEAD > to->record_max)
		goto drop;
	reason = DROP_MESSAGE_BUSY;
	if (kind == WIRE_REQUEST) {
		message->entry =
			service_enter(forward->requests, from, message->tag, message->class,
				      member->instance, choice.by, choice.now_us);
		if (!message->entry)
			goto drop;
	}
	wire_message_put(forward->through, length, kind, hop_limit - 1,
			 (message->data[3] & WIRE_FLAG_SEALED) | WIRE_FLAG_VIA, message->tag,
			 &from->id);
	memcpy(forward->through + WIRE_MESSAGE_HEADER, &service->state->id, WIRE_VIA_SIZE);
	memcpy(forward->through + WIRE_MESSAGE_HEADER + WIRE_VIA_SIZE, payload, length);
	message->record = (uint8_t)pack_message(forward, to, message->class, forward->through, size,
						now_ms, &reason);
	if (message->record != FORWARD_NO_RECORD)
		return;
	if (message->entry)
		service_undo(message->entry, from, message->tag);
drop:
	drop_message(forward, message, reason, now_ms);
}

/* Returns how many messages that was: as many as go together. */
static inline unsigned int deliver(struct forward *forward, struct forward_message *message,
				   uint64_t now_ms)
{
	const struct session *to = message->to;
	enum drop_message reason = message->verdict;
	bool flagged = false;
	unsigned int number, together;

	if (reason != DROP_MESSAGE_COUNT) {
		flagged = message->marks & FORWARD_FLAGGED;
		if (!flagged)
			drop_message(forward, message, reason, now_ms);
		if (!flagged || !clear_flagged(forward, message, now_ms))
			return 1;
	}
	number = pack_find(forward, to, message->lane, message->class, message->size);
	if (number == FORWARD_NO_RECORD) {
		if (message->in->input->buffer && !flagged) {
			together = leave_in_place(forward, message);
			if (together)
				return together;
		}
		number = pack_spare(forward, to, message->lane, message->class, now_ms, &reason);
		if (number == FORWARD_NO_RECORD) {
			drop_message(forward, message, reason, now_ms);
			return 1;
		}
	}
	readdress(message->data, &message->in->session->id);
	pack_append(forward, number, message->data, message->size);
	message->record = (uint8_t)number;
	return 1;
}

/* No session is the destination: the relay itself, a service or a topic is, or nobody. */
static void __attribute__((noinline))
deliver_elsewhere(struct forward *forward, struct forward_message *message, uint64_t now_ms)
{
	const struct session_slot *slot;
	struct group *group;

	if (wire_id_equal(destination(message), &message->in->session->relay)) {
		if (message->marks & FORWARD_FLAGGED)
			message->kind &= ~FORWARD_FLAGGED;
		consume(forward, message, now_ms);
		return;
	}
	slot = route_find(forward->routes, destination(message), message->hash);
	group = slot ? rcu_dereference(slot->group) : NULL;
	if (group && group->kind == GROUP_SERVICE)
		serve(forward, message, caa_container_of(group, struct service, group), now_ms);
	else if (group)
		topic_publish(forward, caa_container_of(group, struct topic, group),
			      (uint32_t)(slot - forward->sessions->slot), message, now_ms);
	else if ((message->marks & FORWARD_FLAGGED) ||
		 (message->kind == WIRE_PUBLISH && message->class != WIRE_CONTROL))
		drop_message(forward, message, DROP_MESSAGE_NO_ROUTE, now_ms);
	else
		drop_message(forward, message, judge(NULL, message, NULL), now_ms);
}

/*
 * A lone message, the first of the burst for its receiver and class: its record leaves in the
 * buffer that it came in. False: it isn't, or needs a closer look.
 */
static inline bool pass_on(struct forward *forward, struct forward_message *message)
{
	const struct forward_record *in = message->in;
	struct forward_input *input = in->input;
	const struct session *to = message->to;
	struct session_tx *lane = message->lane;
	uint8_t *data = message->data, class = message->class;
	uint16_t size = message->size;
	void *buffer = input->buffer;

	if (!(message->marks & FORWARD_LONE) || !pack_is_fresh(to, lane) ||
	    (lane->newest[class] ^ forward->packing.turn) < PACK_TURN)
		return false;
	forward->in_place++;
	input->buffer = NULL;
	readdress(data, &in->session->id);
	message->record =
		(uint8_t)pack_open(forward, to, lane, lane->first, &to->header, class, buffer,
				   data - WIRE_RECORD_HEADER, to->record_max, size, 1);
	return true;
}

/* Finds out what happens to the gathered messages, and fetches what sending them takes. */
static void decide(struct forward *forward)
{
	const struct policy *policy = rcu_dereference(forward->sessions->policy);
	struct forward_message *end = forward->messages_end;
	unsigned int number = forward->number;

	for (struct forward_message *message = forward->messages; message < end; message++) {
		const struct session *to = message->to;

		if (!to)
			continue;
		message->lane = session_tx_lane(to, number);
		__builtin_prefetch(message->lane, 1);
		if (message->marks & FORWARD_LONE) {
			message->verdict = judge_receiver(policy, message, to);
			if (message->verdict != DROP_MESSAGE_COUNT)
				message->marks &= ~FORWARD_LONE;
		} else {
			message->verdict = judge(policy, message, to);
		}
	}
}

void walk_all(struct forward *forward, uint64_t now_ms)
{
	struct forward_message *end = forward->messages_end;
	const struct route_table *routes = forward->routes;

	for (struct forward_message *message = forward->messages; message < end; message++)
		message->guess = route_guess(routes, message->hash);
	for (struct forward_message *message = forward->messages; message < end; message++) {
		const struct session_slot *slot;

		slot = route_confirm(routes, destination(message), message->hash, message->guess);
		message->to = slot ? rcu_dereference(slot->current) : NULL;
		if (message->to)
			session_prefetch(message->to);
	}
	decide(forward);
	for (struct forward_message *message = forward->messages; message < end; message++) {
		if (message->to && pass_on(forward, message))
			continue;
		message->record = FORWARD_NO_RECORD;
		forward->walked = message;
		if (message->to)
			message += deliver(forward, message, now_ms) - 1;
		else
			deliver_elsewhere(forward, message, now_ms);
	}
	forward->walked = end;
	if (forward->topics.queue_count)
		topic_turn(forward, now_ms);
	while (forward->packing.count)
		pack_flush(forward, now_ms);
	forward_begin(forward);
}
