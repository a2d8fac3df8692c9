#include "pack.h"

#include "drop.h"

void pack_refill(struct forward *forward)
{
	unsigned int count = forward->spare_count;

	if (count == FORWARD_SPARES)
		return;
	forward->spare_count += forward->ops->spares(forward->worker, &forward->spares[count],
						     FORWARD_SPARES - count);
	for (; count < forward->spare_count; count++)
		pack_fetch(forward->spares[count].record - 64, 64 + PACK_FETCH);
}

uint64_t __attribute__((noinline, cold))
pack_renew(struct forward *forward, const struct session *to, struct session_tx *lane)
{
	uint64_t first = wire_first(0, to->tx_epoch & 1, to->index);

	// only forward: a burst may still hold the session as it was before
	if (lane->epoch < to->tx_epoch + 1) {
		lane->epoch = to->tx_epoch + 1;
		lane->first = first;
		lane->used = 0;
	}
	if (lane->used >= to->tx_budget)
		return 0;
	if (lane->used >= to->tx_budget / 2 && !session_has_hint(to, SESSION_HINT_REKEY)) {
		session_set_hint(to, SESSION_HINT_REKEY);
		forward_send_event(forward, FORWARD_EVENT_REKEY, to, NULL);
	}
	return first;
}

static inline unsigned int __attribute__((always_inline))
spare(struct forward *forward, const struct session *to, struct session_tx *lane, uint8_t class,
      uint64_t now_ms, enum drop_message *reason)
{
	const struct forward_spare *spare;
	uint64_t first;

	if (forward->spare_count == 0)
		pack_flush(forward, now_ms);
	*reason = DROP_MESSAGE_NO_BUFFER;
	if (forward->spare_count == 0)
		return FORWARD_NO_RECORD;
	*reason = DROP_MESSAGE_KEY_EXHAUSTED;
	first = pack_first(forward, to, lane);
	if (!first)
		return FORWARD_NO_RECORD;
	spare = &forward->spares[--forward->spare_count];
	return pack_open(forward, to, lane, first, &to->header, class, spare->buffer, spare->record,
			 to->record_max, 0, 0);
}

unsigned int pack_spare(struct forward *forward, const struct session *to, struct session_tx *lane,
			uint8_t class, uint64_t now_ms, enum drop_message *reason)
{
	return spare(forward, to, lane, class, now_ms, reason);
}

unsigned int pack_in_place(struct forward *forward, const struct session *to,
			   struct session_tx *lane, uint8_t class, uint8_t *message, uint16_t size,
			   uint16_t messages, struct forward_input *input)
{
	// further in than a whole record's place, there is less room behind it
	uint8_t *record = message - WIRE_RECORD_HEADER;
	uint16_t room = input->length > to->record_max ? input->length : to->record_max;
	uint64_t first = pack_first(forward, to, lane);
	void *buffer = input->buffer;

	if (!first)
		return FORWARD_NO_RECORD;
	forward->in_place++;
	input->buffer = NULL;
	return pack_open(forward, to, lane, first, &to->header, class, buffer, record,
			 room - (uint16_t)(record - input->record), size, messages);
}

/*
 * More is to come into a record whose text is elsewhere. Only topics open such, and when it is
 * their turn all other messages of the burst have found their records.
 */
static void __attribute__((noinline, cold)) take_text(struct forward *forward, unsigned int number)
{
	const struct aead_job *job = &forward->packing.jobs[number];

	memcpy(job->record + WIRE_RECORD_HEADER, forward->texts[number],
	       job->length - WIRE_RECORD_OVERHEAD);
	forward->texts[number] = NULL;
}

uint8_t *pack_room(struct forward *forward, const struct session *to, uint8_t class, uint16_t size,
		   unsigned int messages, uint64_t now_ms, enum drop_message *reason)
{
	struct session_tx *lane = session_tx_lane(to, forward->number);
	unsigned int number = pack_find(forward, to, lane, class, size);
	struct aead_job *job;

	if (number == FORWARD_NO_RECORD)
		number = spare(forward, to, lane, class, now_ms, reason);
	if (number == FORWARD_NO_RECORD)
		return NULL;
	if (forward->texts[number])
		take_text(forward, number);
	job = &forward->packing.jobs[number];
	job->length += size;
	forward->packing.messages[number] += messages;
	return job->record + job->length - WIRE_TAG_SIZE - size;
}

unsigned int pack_copies(struct forward *forward, const struct session *const *to, unsigned int n,
			 const struct pack_text *text, uint64_t now_ms)
{
	unsigned int i, messages = text->messages;
	uint8_t class = text->class;

	for (i = 0; i < n; i++) {
		struct session_tx *lane = session_tx_lane(to[i], forward->number);
		unsigned int number = pack_find(forward, to[i], lane, class, text->size);
		enum drop_message reason;
		struct aead_job *job;

		if (number == FORWARD_NO_RECORD)
			number = spare(forward, to[i], lane, class, now_ms, &reason);
		if (number == FORWARD_NO_RECORD) {
			if (reason == DROP_MESSAGE_NO_BUFFER)
				break;
			counters_dropped(&forward->counters, class, reason, messages);
			continue;
		}
		job = &forward->packing.jobs[number];
		if (forward->texts[number])
			take_text(forward, number);
		if (job->length == WIRE_RECORD_OVERHEAD) {
			forward->texts[number] = text->bytes;
			forward->has_texts = true;
		} else {
			memcpy(job->record + job->length - WIRE_TAG_SIZE, text->bytes, text->size);
		}
		job->length += text->size;
		forward->packing.messages[number] += messages;
		// written at the end of the burst
		for (unsigned int at = PACK_FETCH; at < job->length; at += 64)
			__builtin_prefetch(job->record + at, 1);
	}
	counters_copied(&forward->counters, class, i * messages);
	return i;
}

/* All places are free again, and what lanes have noted is no longer so. */
static void start_anew(struct forward *forward)
{
	forward->sent = forward->walked;
	forward->packing.count = 0;
	forward->packing.turn += PACK_TURN;
	pack_refill(forward);
}

/* What the port didn't take of the open records. */
static void __attribute__((noinline, cold)) refused(struct forward *forward, uint64_t now_ms)
{
	const struct forward_packing *packing = &forward->packing;
	const struct forward_message *message = forward->sent, *end = forward->walked;
	bool sent[FORWARD_OUTPUTS];

	for (unsigned int i = 0; i < packing->count; i++) {
		uint32_t messages = packing->messages[i];
		uint8_t class = packing->class[i];

		sent[i] = packing->outputs[i].sent;
		if (sent[i])
			counters_delivered(&forward->counters, class, messages);
		else
			counters_dropped(&forward->counters, class, DROP_MESSAGE_TX_FULL, messages);
	}
	start_anew(forward);
	// only errors are made below, whose own fate nobody is told: so this ends
	for (; message < end; message++) {
		if (message->record == FORWARD_NO_RECORD || sent[message->record])
			continue;
		if (message->marks & FORWARD_PROMISED)
			service_undo(message->entry, message->in->session, message->tag);
		drop_tell(forward, message, DROP_MESSAGE_TX_FULL, now_ms);
	}
}

static void count_delivered(struct forward *forward)
{
	const struct forward_packing *packing = &forward->packing;
	uint8_t class = packing->class[0], others = 0;
	uint32_t sum = 0;

	for (unsigned int i = 0; i < packing->count; i++) {
		sum += packing->messages[i];
		others |= packing->class[i] ^ class;
	}
	if (!others) {
		counters_delivered(&forward->counters, class, sum);
		return;
	}
	for (unsigned int i = 0; i < packing->count; i++) {
		uint32_t messages = packing->messages[i];

		class = packing->class[i];
		counters_delivered(&forward->counters, class, messages);
	}
}

void pack_flush(struct forward *forward, uint64_t now_ms)
{
	struct forward_packing *packing = &forward->packing;
	unsigned int n = packing->count, sent;

	if (n == 0)
		return;
	if (forward->has_texts) {
		forward->aead->seal_texts(forward->aead_worker, packing->jobs, forward->texts, n);
		memset(forward->texts, 0, n * sizeof(forward->texts[0]));
		forward->has_texts = false;
	} else {
		forward->aead->seal(forward->aead_worker, packing->jobs, n);
	}
	sent = forward->ops->transmit(forward->worker, packing->jobs, packing->outputs, n);
	forward->counters.records_sent += sent;
	if (sent < n) {
		refused(forward, now_ms);
		return;
	}
	count_delivered(forward);
	start_anew(forward);
}
