#include "forward.h"

#include "pack.h"
#include "receive.h"
#include "walk.h"

void forward_burst(struct forward *forward, struct forward_input *inputs, unsigned int n,
		   uint64_t now_ms)
{
	forward->now_ms = now_ms;
	forward->rates = rcu_dereference(forward->sessions->rates);
	forward->limited = forward->rates && forward->rates->limited;
	forward->strangers = FORWARD_STRANGERS;
	forward_begin(forward);
	pack_refill(forward);
	receive_burst(forward, inputs, n);
	walk_all(forward, now_ms);
	receive_end(forward);
}

void forward_drop_unread(struct forward *forward, struct forward_input *input, enum wire_parse why)
{
	receive_drop_unread(forward, input, why);
}

void forward_refuse(struct forward *forward, struct forward_input *input, enum drop_record reason)
{
	receive_refuse(forward, input, reason);
}

bool forward_put_event(struct forward *forward)
{
	bool put = forward->ops->event(forward->worker, &forward->event);

	forward->events += put;
	return put;
}

bool forward_send_event(struct forward *forward, enum forward_event_type type,
			const struct session *session, const struct forward_input *input)
{
	struct forward_event *event = &forward->event;

	event->type = type;
	event->index = session->index;
	if (type != FORWARD_EVENT_CONTROL)
		event->payload_length = 0;
	event->frame_length = 0;
	if (input && input->frame_length <= SESSION_HEADER_MAX) {
		event->frame_length = input->frame_length;
		event->source = input->source;
		memcpy(event->frame, input->record - input->frame_length, input->frame_length);
	}
	return forward_put_event(forward);
}

static enum drop_message command(struct forward *forward, const struct forward_command *command)
{
	const struct session *to = session_find_any(forward->sessions, command->index);
	uint16_t size = WIRE_MESSAGE_HEADER + command->payload_length;
	const struct session_header *header;
	struct forward_spare *spare;
	uint8_t message[WIRE_MESSAGE_HEADER + FORWARD_PAYLOAD_MAX];
	struct session_tx *lane;
	unsigned int number;
	uint64_t first;

	if (!to)
		return DROP_MESSAGE_SESSION_GONE;
	header = command->header.length ? &command->header : &to->header;
	if (!header->length)
		return DROP_MESSAGE_SESSION_GONE;
	if (command->kind == WIRE_PING)
		size = WIRE_MESSAGE_HEADER + sizeof(uint64_t);
	if (size + WIRE_RECORD_OVERHEAD > to->record_max)
		return DROP_MESSAGE_TOO_LARGE;
	if (!forward->spare_count)
		return DROP_MESSAGE_NO_BUFFER;
	lane = session_tx_lane(to, forward->number);
	first = pack_first(forward, to, lane);
	if (!first)
		return DROP_MESSAGE_KEY_EXHAUSTED;
	spare = &forward->spares[--forward->spare_count];
	number = pack_open(forward, to, lane, first, header, command->class, spare->buffer,
			   spare->record, to->record_max, 0, 0);
	wire_message_put(message, size - WIRE_MESSAGE_HEADER, command->kind, WIRE_HOP_LIMIT, 0,
			 command->tag, &to->relay);
	if (command->kind == WIRE_PING)
		wire_put64(message + WIRE_MESSAGE_HEADER, forward->ops->now_us(forward->worker));
	else
		memcpy(message + WIRE_MESSAGE_HEADER, command->payload, command->payload_length);
	pack_append(forward, number, message, size);
	return DROP_MESSAGE_COUNT;
}

void forward_commands(struct forward *forward, const struct forward_command *commands,
		      unsigned int n, uint64_t now_ms)
{
	pack_refill(forward);
	for (unsigned int i = 0; i < n; i++) {
		enum drop_message reason = command(forward, &commands[i]);

		counters_made(&forward->counters, commands[i].class);
		if (reason != DROP_MESSAGE_COUNT)
			counters_dropped(&forward->counters, commands[i].class, reason, 1);
		if (!forward->spare_count)
			pack_flush(forward, now_ms);
	}
	pack_flush(forward, now_ms);
}

bool forward_resume(struct forward *forward, uint64_t now_ms)
{
	if (!forward->topics.queue_count)
		return false;
	forward_begin(forward);
	pack_refill(forward);
	walk_all(forward, now_ms);
	return true;
}

void forward_fini(struct forward *forward)
{
	topic_fini(forward);
	while (forward->spare_count)
		forward->ops->release(forward->worker,
				      &forward->spares[--forward->spare_count].buffer, 1);
}
