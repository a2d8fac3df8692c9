#include "forward.h"

/* RFC 9001 section 6.6 allows 2^36 failed opens a key; shared out between the most lanes there are.
 */
#define FAILED_MAX (UINT64_C(1) << 33)

enum {
	THOUSAND = 1000,
	US_PER_S = 1000000,
	FLAGS = WIRE_FLAG_VIA | WIRE_FLAG_KEY,
	MALFORMED = 0xff,
	FETCH_SIZE = 192,
	// bits of the reasons that speak of who sent the record, and could be forged by anybody
	SUSPICIOUS =
		1 << DROP_RECORD_TRUNCATED | 1 << DROP_RECORD_VERSION | 1 << DROP_RECORD_RESERVED |
		1 << DROP_RECORD_SESSION_UNKNOWN | 1 << DROP_RECORD_SESSION_STALE |
		1 << DROP_RECORD_REVOKED | 1 << DROP_RECORD_OVERSIZED | 1 << DROP_RECORD_LANE |
		1 << DROP_RECORD_KEY_PHASE | 1 << DROP_RECORD_KEY_LIMIT |
		1 << DROP_RECORD_REPLAY_OLD | 1 << DROP_RECORD_REPLAY_SEEN | 1 << DROP_RECORD_AUTH,
	// bits of the kinds that go from peer to peer
	FORWARDED = 1 << WIRE_SEND | 1 << WIRE_REQUEST | 1 << WIRE_RESPONSE | 1 << WIRE_PING |
		    1 << WIRE_PONG,
};

_Static_assert((int)FORWARD_MESSAGES >= (int)WIRE_MTU_MAX / WIRE_MESSAGE_HEADER,
	       "the messages of the largest record must fit");

/* A lane that goes to another worker once this burst no longer needs its window. */
struct leaving {
	struct session_rx *lane;
	uint8_t owner;
};

static void give_back(struct forward *forward, struct forward_input *input)
{
	if (input->buffer)
		forward->ops->release(forward->worker, &input->buffer, 1);
	input->buffer = NULL;
}

/* Counts a source of bad records, and tells the control thread of one that sends too many. */
static void suspect(struct forward *forward, const struct forward_input *input)
{
	uint32_t limit = __atomic_load_n(&forward->sessions->suspect_limit, __ATOMIC_RELAXED);
	struct forward_event *event = &forward->event;

	if (!limit || !suspects_note(&forward->suspects, &input->source, limit, forward->now_ms))
		return;
	event->type = FORWARD_EVENT_SUSPECT;
	event->frame_length = 0;
	event->payload_length = 0;
	event->source = input->source;
	forward->ops->event(forward->worker, event);
}

static void __attribute__((noinline, cold))
drop_record(struct forward *forward, struct forward_input *input, enum drop_record reason)
{
	counters_refused(&forward->counters, reason, input->record);
	if (SUSPICIOUS >> reason & 1)
		suspect(forward, input);
	give_back(forward, input);
}

/*
 * A record that names a session, and was not opened. Anybody can send such; so only what comes from
 * the session's address is held against its peer.
 */
static void __attribute__((noinline, cold))
drop_claim(struct forward *forward, const struct forward_record *record, enum drop_record reason,
	   enum session_mark mark)
{
	if (endpoint_same_address(&record->input->source, &record->session->endpoint))
		session_mark(record->session, forward->number, mark);
	drop_record(forward, record->input, reason);
}

static void set_hint(const struct session *session, enum session_hint hint)
{
	__atomic_fetch_or(&session->state->hints, hint, __ATOMIC_RELEASE);
}

static void clear_hint(const struct session *session, enum session_hint hint)
{
	__atomic_fetch_and(&session->state->hints, ~(uint32_t)hint, __ATOMIC_RELEASE);
}

static bool has_hint(const struct session *session, enum session_hint hint)
{
	return __atomic_load_n(&session->state->hints, __ATOMIC_RELAXED) & hint;
}

/* Tells the control thread; true if there was room. */
static bool __attribute__((noinline, cold))
send_event(struct forward *forward, enum forward_event_type type, const struct session *session,
	   const struct forward_input *input)
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
	return forward->ops->event(forward->worker, event);
}

/* Fetches what is written next: other cores have read these lines, or written them. */
static inline void __attribute__((always_inline)) fetch_to_write(const uint8_t *at, int size)
{
	for (int i = 0; i < size; i += 64)
		__builtin_prefetch(at + i, 1);
}

static void refill(struct forward *forward)
{
	unsigned int count = forward->spare_count;

	if (count == FORWARD_SPARES)
		return;
	forward->spare_count += forward->ops->spares(forward->worker, &forward->spares[count],
						     FORWARD_SPARES - count);
	for (; count < forward->spare_count; count++)
		fetch_to_write(forward->spares[count].record - 64, 64 + FETCH_SIZE);
}

/* Whether a lane may cause one more error message. */
static bool may_tell(struct session_rx *lane, uint64_t now_ms)
{
	const uint64_t most = FORWARD_ERRORS_BURST * THOUSAND;
	// the lane's worker before may have looked at the clock later
	uint64_t passed = now_ms > lane->bucket_ms ? now_ms - lane->bucket_ms : 0;
	uint64_t tokens = lane->bucket + passed * FORWARD_ERRORS_PER_S;

	if (!lane->bucket_ms || tokens > most)
		tokens = most;
	lane->bucket_ms += passed;
	lane->bucket = (uint32_t)tokens;
	if (tokens < THOUSAND)
		return false;
	lane->bucket -= THOUSAND;
	return true;
}

static void flush(struct forward *forward, uint64_t now_ms);

/*
 * Opens a record to `to` of up to `limit` bytes, in `buffer` at `record`. Takes a sequence of this
 * worker's lane: whether the record is sent or not, it is never used again. Returns its number, or
 * FORWARD_NO_RECORD if the key has no more records to give.
 */
static inline unsigned int open_record(struct forward *forward, const struct session *to,
				       const struct session_header *header, uint8_t class,
				       void *buffer, uint8_t *record, uint16_t limit)
{
	struct session_tx *lane = session_tx_lane(to, forward->number);
	unsigned int number = forward->open_count;
	struct wire_record clear = {
		.class = class,
		.phase = to->tx_epoch & 1,
		.lane = forward->number,
		.index = to->index,
	};

	// only forward: a burst may still hold the session as it was before
	if (lane->epoch < to->tx_epoch) {
		lane->epoch = to->tx_epoch;
		lane->used = 0;
	}
	if (lane->used >= to->tx_budget)
		return FORWARD_NO_RECORD;
	if (++lane->used > to->tx_budget / 2 && !has_hint(to, SESSION_HINT_REKEY)) {
		set_hint(to, SESSION_HINT_REKEY);
		send_event(forward, FORWARD_EVENT_REKEY, to, NULL);
	}
	clear.sequence = lane->next++;
	wire_record_put(record, &clear);
	forward->open_count++;
	forward->open[number].to = to;
	forward->open[number].limit = limit;
	forward->open[number].messages = 0;
	forward->open[number].class = class;
	forward->sealing[number].key = to->tx;
	forward->sealing[number].record = record;
	forward->sealing[number].length = WIRE_RECORD_OVERHEAD;
	forward->outputs[number].buffer = buffer;
	forward->outputs[number].header = header;
	return number;
}

/* Appends a message to an open record that has room; it may be in place already. */
static inline void append(struct forward *forward, unsigned int number, const uint8_t *message,
			  uint16_t size)
{
	struct aead_job *job = &forward->sealing[number];
	uint8_t *at = job->record + job->length - WIRE_TAG_SIZE;

	if (at != message) {
		memcpy(at, message, size);
		fetch_to_write(at + size, FETCH_SIZE);
	}
	job->length += size;
	forward->open[number].messages++;
}

/* Where to note the newest open record for a session and class. Collisions only cost packing. */
static uint8_t *newest(struct forward *forward, const struct session *to, uint8_t class)
{
	uint32_t hash = (to->index * UINT32_C(0x9e3779b1)) >> 16;

	return &forward->newest[(hash + class) % FORWARD_NEWEST];
}

/*
 * More is to come into a record whose text is elsewhere. Only topics open such, and when it is
 * their turn all other messages of the burst have found their records.
 */
static void __attribute__((noinline, cold)) take_text(struct forward *forward, unsigned int number)
{
	const struct aead_job *job = &forward->sealing[number];

	memcpy(job->record + WIRE_RECORD_HEADER, forward->texts[number],
	       job->length - WIRE_RECORD_OVERHEAD);
	forward->texts[number] = NULL;
}

/*
 * A record for `to`, which is known to carry that much, with room for `size` bytes. `input`: the
 * one that the message is in, if from there on nothing else will be needed of it, so that its
 * buffer may be sent; or NULL. Returns the record's number; FORWARD_NO_RECORD with `reason` set if
 * there is none to be had.
 */
static inline unsigned int find_record(struct forward *forward, const struct session *to,
				       uint8_t class, uint8_t *message, uint16_t size,
				       struct forward_input *input, uint64_t now_ms,
				       enum drop_message *reason)
{
	uint8_t *noted = newest(forward, to, class);
	unsigned int number = *noted;
	struct forward_spare *spare;

	if (number < forward->open_count && forward->open[number].to == to &&
	    forward->open[number].class == class &&
	    forward->sealing[number].length + size <= forward->open[number].limit)
		return number;
	if (input && !input->buffer)
		input = NULL;
	if (forward->open_count == FORWARD_OUTPUTS || (!input && forward->spare_count == 0))
		flush(forward, now_ms);
	if (input) {
		// further in than a whole record's place, there is less room behind it
		uint8_t *record = message - WIRE_RECORD_HEADER;
		uint16_t room = input->length > to->record_max ? input->length : to->record_max;

		number = open_record(forward, to, &to->header, class, input->buffer, record,
				     room - (uint16_t)(record - input->record));
	} else if (forward->spare_count == 0) {
		*reason = DROP_MESSAGE_NO_BUFFER;
		return FORWARD_NO_RECORD;
	} else {
		spare = &forward->spares[forward->spare_count - 1];
		number = open_record(forward, to, &to->header, class, spare->buffer, spare->record,
				     to->record_max);
	}
	if (number == FORWARD_NO_RECORD) {
		*reason = DROP_MESSAGE_KEY_EXHAUSTED;
		return FORWARD_NO_RECORD;
	}
	if (input)
		input->buffer = NULL;
	else
		forward->spare_count--;
	*noted = (uint8_t)number;
	return number;
}

/* Puts a message into a record for `to`, likewise. */
static inline unsigned int pack(struct forward *forward, const struct session *to, uint8_t class,
				uint8_t *message, uint16_t size, struct forward_input *input,
				uint64_t now_ms, enum drop_message *reason)
{
	unsigned int number = find_record(forward, to, class, message, size, input, now_ms, reason);

	if (number != FORWARD_NO_RECORD)
		append(forward, number, message, size);
	return number;
}

uint8_t *forward_room(struct forward *forward, const struct session *to, uint8_t class,
		      uint16_t size, unsigned int messages, uint64_t now_ms,
		      enum drop_message *reason)
{
	unsigned int number = find_record(forward, to, class, NULL, size, NULL, now_ms, reason);
	struct aead_job *job;

	if (number == FORWARD_NO_RECORD)
		return NULL;
	if (forward->texts[number])
		take_text(forward, number);
	job = &forward->sealing[number];
	job->length += size;
	forward->open[number].messages += messages;
	return job->record + job->length - WIRE_TAG_SIZE - size;
}

unsigned int forward_copies(struct forward *forward, const struct session *const *to,
			    unsigned int n, const struct forward_text *text, uint64_t now_ms)
{
	unsigned int i, messages = text->messages;
	uint8_t class = text->class;

	for (i = 0; i < n; i++) {
		enum drop_message reason = DROP_MESSAGE_COUNT;
		unsigned int number =
			find_record(forward, to[i], class, NULL, text->size, NULL, now_ms, &reason);
		struct aead_job *job;

		if (reason == DROP_MESSAGE_NO_BUFFER)
			break;
		if (reason != DROP_MESSAGE_COUNT) {
			counters_dropped(&forward->counters, class, reason, messages);
			continue;
		}
		job = &forward->sealing[number];
		if (forward->texts[number])
			take_text(forward, number);
		if (job->length == WIRE_RECORD_OVERHEAD) {
			forward->texts[number] = text->bytes;
			forward->has_texts = true;
		} else {
			memcpy(job->record + job->length - WIRE_TAG_SIZE, text->bytes, text->size);
		}
		job->length += text->size;
		forward->open[number].messages += messages;
		// written at the end of the burst
		for (unsigned int at = FETCH_SIZE; at < job->length; at += 64)
			__builtin_prefetch(job->record + at, 1);
	}
	counters_copied(&forward->counters, class, i * messages);
	return i;
}

/* A message of the relay's own, to a session. */
static void make(struct forward *forward, const struct session *to, uint8_t class, uint8_t kind,
		 uint32_t tag, uint64_t now_ms)
{
	uint8_t message[WIRE_MESSAGE_HEADER];
	enum drop_message reason = DROP_MESSAGE_NO_BUFFER;

	wire_message_put(message, 0, kind, WIRE_HOP_LIMIT, 0, tag, &to->relay);
	counters_made(&forward->counters, class);
	if (!to->header.length)
		counters_dropped(&forward->counters, class, DROP_MESSAGE_SESSION_GONE, 1);
	else if (pack(forward, to, class, message, sizeof(message), NULL, now_ms, &reason) ==
		 FORWARD_NO_RECORD)
		counters_dropped(&forward->counters, class, reason, 1);
}

/* Tells a message's sender why it went no further, if it is one that wants to know. */
static void tell(struct forward *forward, const struct forward_message *message,
		 enum drop_message reason, uint64_t now_ms)
{
	static const uint8_t told[DROP_MESSAGE_COUNT] = {
#define X(name, text, reason, help) reason,
		DROP_MESSAGES(X)
#undef X
	};
	uint8_t kind = message->kind;

	if ((kind == WIRE_SEND || kind == WIRE_REQUEST || kind == WIRE_PUBLISH) && told[reason] &&
	    ((message->marks & FORWARD_PROMISED) || may_tell(message->in->lane, now_ms)))
		make(forward, message->in->session, message->in->header.class,
		     WIRE_ERROR | told[reason], message->tag, now_ms);
}

static void __attribute__((noinline, cold))
drop_message(struct forward *forward, const struct forward_message *message,
	     enum drop_message reason, uint64_t now_ms)
{
	counters_dropped(&forward->counters, message->in->header.class, reason, 1);
	// whether a topic has members is nothing that a publisher can know
	if ((reason == DROP_MESSAGE_NO_ROUTE && message->kind != WIRE_PUBLISH) ||
	    reason == DROP_MESSAGE_POLICY)
		session_mark(message->in->session, forward->number, SESSION_MARK_REFUSED);
	tell(forward, message, reason, now_ms);
}

void forward_drop(struct forward *forward, const struct forward_message *message,
		  enum drop_message reason, uint64_t now_ms)
{
	drop_message(forward, message, reason, now_ms);
}

/* What the port didn't take of the open records. */
static void __attribute__((noinline, cold)) refused(struct forward *forward, uint64_t now_ms)
{
	unsigned int from = forward->sent, to = forward->walked;
	bool sent[FORWARD_OUTPUTS];

	for (unsigned int i = 0; i < forward->open_count; i++) {
		const struct forward_open *open = &forward->open[i];

		sent[i] = forward->outputs[i].sent;
		if (sent[i])
			counters_delivered(&forward->counters, open->class, open->messages);
		else
			counters_dropped(&forward->counters, open->class, DROP_MESSAGE_TX_FULL,
					 open->messages);
	}
	forward->sent = forward->walked;
	forward->open_count = 0;
	refill(forward);
	// only errors are made below, whose own fate nobody is told: so this ends
	for (unsigned int i = from; i < to; i++) {
		const struct forward_message *message = &forward->messages[i];

		if (message->record == FORWARD_NO_RECORD || sent[message->record])
			continue;
		if (message->marks & FORWARD_PROMISED)
			service_undo(message->entry, message->in->session, message->tag);
		tell(forward, message, DROP_MESSAGE_TX_FULL, now_ms);
	}
}

/* Seals and sends what is open. */
static void flush(struct forward *forward, uint64_t now_ms)
{
	unsigned int n = forward->open_count, sent;

	if (n == 0)
		return;
	if (forward->has_texts) {
		forward->aead->seal_texts(forward->aead_worker, forward->sealing, forward->texts,
					  n);
		memset(forward->texts, 0, n * sizeof(forward->texts[0]));
		forward->has_texts = false;
	} else {
		forward->aead->seal(forward->aead_worker, forward->sealing, n);
	}
	sent = forward->ops->transmit(forward->worker, forward->sealing, forward->outputs, n);
	forward->counters.records_sent += sent;
	if (sent < n) {
		refused(forward, now_ms);
		return;
	}
	for (unsigned int i = 0; i < n; i++)
		counters_delivered(&forward->counters, forward->open[i].class,
				   forward->open[i].messages);
	forward->sent = forward->walked;
	forward->open_count = 0;
	refill(forward);
}

static const struct wire_id *destination(const struct forward_message *message)
{
	return (const struct wire_id *)(message->data + 8);
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

/* The relay is the destination. */
static void consume(struct forward *forward, struct forward_message *message, uint64_t now_ms)
{
	struct forward_event *event = &forward->event;
	const uint8_t *payload = message->data + WIRE_MESSAGE_HEADER;
	uint16_t length = message->size - WIRE_MESSAGE_HEADER;
	uint8_t class = message->in->header.class;
	enum drop_message reason = DROP_MESSAGE_NO_BUFFER;

	switch (message->kind) {
	case WIRE_PING:
		counters_consumed(&forward->counters, class);
		// whose address isn't known yet gets `path` from the control thread instead
		if (!message->in->session->header.length)
			return;
		counters_made(&forward->counters, class);
		message->data[2] = WIRE_PONG;
		message->data[3] = WIRE_HOP_LIMIT << WIRE_HOP_SHIFT |
				   (message->data[3] & ~(0xf << WIRE_HOP_SHIFT));
		// the address was the relay's own, and is that again
		if (pack(forward, message->in->session, class, message->data, message->size,
			 message->marks & FORWARD_LAST ? message->in->input : NULL, now_ms,
			 &reason) == FORWARD_NO_RECORD)
			counters_dropped(&forward->counters, class, reason, 1);
		return;
	case WIRE_PONG:
		counters_consumed(&forward->counters, class);
		measure(forward, message->in->session, payload, length);
		return;
	case WIRE_KIND_CONTROL:
		if (length > FORWARD_PAYLOAD_MAX) {
			drop_message(forward, message, DROP_MESSAGE_TOO_LARGE, now_ms);
			return;
		}
		event->tag = message->tag;
		event->payload_length = length;
		memcpy(event->payload, payload, length);
		if (send_event(forward, FORWARD_EVENT_CONTROL, message->in->session,
			       message->in->input))
			counters_consumed(&forward->counters, class);
		else
			drop_message(forward, message, DROP_MESSAGE_CONTROL_FULL, now_ms);
		return;
	default:
		drop_message(forward, message, DROP_MESSAGE_UNSUPPORTED, now_ms);
	}
}

/* Why a message to `to` must not be forwarded; DROP_MESSAGE_COUNT if it may. */
static inline enum drop_message judge(const struct policy *policy,
				      const struct forward_message *message)
{
	const struct forward_record *in = message->in;
	const struct session *to = message->to;

	if (message->kind > WIRE_PONG || !(FORWARDED >> message->kind & 1) ||
	    in->header.class == WIRE_CONTROL)
		return DROP_MESSAGE_UNSUPPORTED;
	if (message->data[3] >> WIRE_HOP_SHIFT == 0)
		return DROP_MESSAGE_HOP_LIMIT;
	if (!to || !to->header.length)
		return DROP_MESSAGE_NO_ROUTE;
	if (message->size + WIRE_RECORD_OVERHEAD > to->record_max)
		return DROP_MESSAGE_TOO_LARGE;
	if (policy && !policy_allows(policy, in->session->cluster, to->cluster))
		return DROP_MESSAGE_POLICY;
	return DROP_MESSAGE_COUNT;
}

/*
 * A response through a service, or a message with a key that a session must not get. True: it may
 * go on like others, but not in its own buffer; else it is dropped.
 */
static bool __attribute__((noinline, cold))
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
			reason = judge(rcu_dereference(forward->sessions->policy), message);
	}
	message->verdict = (uint8_t)reason;
	if (reason != DROP_MESSAGE_COUNT)
		drop_message(forward, message, reason, now_ms);
	return reason == DROP_MESSAGE_COUNT;
}

/* A send or request to a service: to one of its instances, with its via. */
static void __attribute__((noinline, cold))
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
	if ((kind != WIRE_SEND && kind != WIRE_REQUEST) ||
	    message->in->header.class == WIRE_CONTROL || !forward->requests)
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
		message->entry = service_enter(forward->requests, from, message->tag,
					       message->in->header.class, member->instance,
					       choice.by, choice.now_us);
		if (!message->entry)
			goto drop;
	}
	wire_message_put(forward->through, length, kind, hop_limit - 1,
			 (message->data[3] & WIRE_FLAG_SEALED) | WIRE_FLAG_VIA, message->tag,
			 &from->id);
	memcpy(forward->through + WIRE_MESSAGE_HEADER, &service->state->id, WIRE_VIA_SIZE);
	memcpy(forward->through + WIRE_MESSAGE_HEADER + WIRE_VIA_SIZE, payload, length);
	message->record = (uint8_t)pack(forward, to, message->in->header.class, forward->through,
					size, NULL, now_ms, &reason);
	if (message->record != FORWARD_NO_RECORD)
		return;
	if (message->entry)
		service_undo(message->entry, from, message->tag);
drop:
	drop_message(forward, message, reason, now_ms);
}

static inline void deliver(struct forward *forward, struct forward_message *message,
			   uint64_t now_ms)
{
	const struct forward_record *in = message->in;
	const struct session *to = message->to;
	enum drop_message reason = DROP_MESSAGE_NO_BUFFER;
	struct forward_input *input = NULL;

	if (message->verdict != DROP_MESSAGE_COUNT) {
		if (!(message->marks & FORWARD_FLAGGED)) {
			drop_message(forward, message, message->verdict, now_ms);
			return;
		}
		if (!clear_flagged(forward, message, now_ms))
			return;
	}
	message->data[3] -= 1 << WIRE_HOP_SHIFT;
	memcpy(message->data + 8, &in->session->id, WIRE_ID_SIZE);
	// the rest must fit too: it stays in the buffer, which goes when this record goes
	if (message->rest && message->rest + WIRE_RECORD_OVERHEAD <= to->record_max)
		input = in->input;
	message->record = (uint8_t)pack(forward, to, in->header.class, message->data, message->size,
					input, now_ms, &reason);
	if (message->record == FORWARD_NO_RECORD)
		drop_message(forward, message, reason, now_ms);
}

/* No session is the destination: the relay itself, a service or a topic is, or nobody. */
static void __attribute__((noinline, cold))
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
		 (message->kind == WIRE_PUBLISH && message->in->header.class != WIRE_CONTROL))
		drop_message(forward, message, DROP_MESSAGE_NO_ROUTE, now_ms);
	else
		drop_message(forward, message, judge(NULL, message), now_ms);
}

/* Finds out what happens to the gathered messages, and fetches what sending them takes. */
static void decide(struct forward *forward)
{
	const struct policy *policy = rcu_dereference(forward->sessions->policy);
	const struct session *next = NULL;
	uint16_t rest = 0;

	// from the last on, as a message must know whether those behind it stay with it
	for (unsigned int i = forward->message_count; i-- > 0;) {
		struct forward_message *message = &forward->messages[i];
		const struct session *to = message->to;

		if ((message->marks & FORWARD_LAST) || to != next)
			rest = 0;
		if (!to) {
			next = NULL;
			continue;
		}
		message->verdict = judge(policy, message);
		if (message->verdict == DROP_MESSAGE_COUNT &&
		    ((message->marks & FORWARD_LAST) || rest))
			rest += message->size;
		else
			rest = 0;
		message->rest = rest;
		if (to != next)
			__builtin_prefetch(session_tx_lane(to, forward->number), 1);
		next = to;
	}
}

/* Looks up where the gathered messages go, all of them stage by stage, packs them and sends. */
static void walk(struct forward *forward, uint64_t now_ms)
{
	const struct route_table *routes = forward->routes;
	unsigned int n = forward->message_count;

	for (unsigned int i = 0; i < n; i++)
		forward->messages[i].guess = route_guess(routes, forward->messages[i].hash);
	for (unsigned int i = 0; i < n; i++) {
		struct forward_message *message = &forward->messages[i];
		const struct session_slot *slot;

		slot = route_confirm(routes, destination(message), message->hash, message->guess);
		message->to = slot ? rcu_dereference(slot->current) : NULL;
		if (message->to)
			session_prefetch_target(message->to);
	}
	decide(forward);
	for (unsigned int i = 0; i < n; i++) {
		struct forward_message *message = &forward->messages[i];

		if (!message->to)
			deliver_elsewhere(forward, message, now_ms);
		else
			deliver(forward, message, now_ms);
		forward->walked++;
	}
	if (forward->topics.queue_count)
		topic_turn(forward, now_ms);
	while (forward->open_count)
		flush(forward, now_ms);
	forward->message_count = forward->walked = forward->sent = 0;
}

static inline void gather_one(struct forward *forward, const struct forward_record *record,
			      const struct wire_message *message, struct forward_message *out)
{
	out->in = record;
	out->data = message->data;
	out->tag = wire_message_tag(message->data);
	out->size = message->size;
	out->kind = message->kind;
	out->record = FORWARD_NO_RECORD;
	out->hash = route_hash(forward->routes, destination(out));
	route_prefetch(forward->routes, out->hash);
}

/*
 * Takes what a record costs from what its sender and the sender's cluster may send. False: there
 * isn't as much.
 */
static bool __attribute__((noinline, cold))
charge(struct forward *forward, const struct forward_record *record, unsigned int messages)
{
	struct rates *rates = forward->rates;
	const struct session *session = record->session;
	struct session_rx *lane = record->lane;
	uint16_t bytes = record->input->length;

	if (!rates_charge(&rates->levels[session->level], &session->state->account, &lane->credit,
			  messages, bytes, forward->now_ms)) {
		lane->over_ms = (uint32_t)forward->now_ms;
		session_mark(session, forward->number, SESSION_MARK_LIMIT);
		return false;
	}
	if (rates_charge(&rates->clusters[session->cluster], &rates->accounts[session->cluster],
			 &forward->clusters[session->cluster], messages, bytes, forward->now_ms))
		return true;
	// what the others of its cluster do is not the peer's fault
	rates_return(&rates->levels[session->level], &lane->credit, messages, bytes);
	return false;
}

/* Has `n` messages that were gathered walk, unless they are over their sender's rate. */
static inline void take_in(struct forward *forward, const struct forward_record *record,
			   unsigned int n)
{
	struct forward_message *first = &forward->messages[forward->message_count];

	counters_opened(&forward->counters, record->header.class, n);
	if (forward->rates && record->header.class != WIRE_CONTROL && !charge(forward, record, n)) {
		for (unsigned int i = 0; i < n; i++) {
			first[i].kind &= ~(first[i].marks & FORWARD_FLAGGED);
			drop_message(forward, &first[i], DROP_MESSAGE_RATE, forward->now_ms);
		}
		return;
	}
	forward->message_count += n;
}

/*
 * Whether a message may have its flags: only a response says what it came through, and keys are
 * for sends and requests. What is for services only is to be marked, so that it leaves the usual
 * way. Returns a mark, 0, or MALFORMED.
 */
static uint8_t judge_flags(uint8_t kind, uint8_t flags, uint16_t length)
{
	if (kind == WIRE_RESPONSE)
		return flags & WIRE_FLAG_VIA ? FORWARD_FLAGGED : 0;
	if ((flags & WIRE_FLAG_VIA) || length < WIRE_SERVICE_KEY ||
	    (kind != WIRE_SEND && kind != WIRE_REQUEST))
		return MALFORMED;
	return FORWARD_FLAGGED;
}

/* The same as gather(), of a record with flags in it; or one that isn't well-formed. */
static bool __attribute__((noinline, cold))
gather_flagged(struct forward *forward, const struct forward_record *record, uint8_t *text,
	       size_t length)
{
	struct forward_message *first = &forward->messages[forward->message_count];
	struct wire_message message = {0};
	unsigned int n = 0;
	size_t at = 0;

	do {
		uint8_t marks = 0;

		at = wire_message_get(&message, text, length, at);
		if (at && (message.flags & FLAGS))
			marks = judge_flags(message.kind, message.flags, message.length);
		if (!at || marks == MALFORMED) {
			session_mark(record->session, forward->number, SESSION_MARK_MALFORMED);
			drop_record(forward, record->input, DROP_RECORD_MALFORMED);
			return false;
		}
		message.kind |= marks;
		first[n].marks = marks | (at == length ? FORWARD_LAST : 0);
		gather_one(forward, record, &message, &first[n++]);
	} while (at < length);
	take_in(forward, record, n);
	return true;
}

/* An authentic record: gathers its messages, all or none; false: they are not well-formed. */
static bool gather(struct forward *forward, const struct forward_record *record, uint64_t now_ms)
{
	uint8_t *text = record->input->record + WIRE_RECORD_HEADER;
	size_t length = record->input->length - WIRE_RECORD_OVERHEAD;
	struct wire_message message = {0};
	struct forward_message *first;
	unsigned int n = 0;
	size_t at = 0;

	if (forward->message_count + length / WIRE_MESSAGE_HEADER > FORWARD_MESSAGES)
		walk(forward, now_ms);
	first = &forward->messages[forward->message_count];
	do {
		at = wire_message_get(&message, text, length, at);
		if (!at || (message.flags & FLAGS))
			return gather_flagged(forward, record, text, length);
		first[n].marks = at == length ? FORWARD_LAST : 0;
		gather_one(forward, record, &message, &first[n++]);
	} while (at < length);
	take_in(forward, record, n);
	return true;
}

/* What an authentic, new record says about its sender beside its messages. */
static void learn(struct forward *forward, const struct forward_record *record, bool above,
		  uint64_t now_ms)
{
	const struct session *session = record->session;

	__atomic_store_n(&record->lane->seen_ms, (uint32_t)now_ms, __ATOMIC_RELAXED);
	if (above && record->header.lane == 0 &&
	    !endpoint_equal(&record->input->source, &session->endpoint) &&
	    !has_hint(session, SESSION_HINT_PATH)) {
		// set first: the control thread clears it when it has seen the event
		set_hint(session, SESSION_HINT_PATH);
		if (!send_event(forward, FORWARD_EVENT_PATH, session, record->input))
			clear_hint(session, SESSION_HINT_PATH);
	}
	if (session->rx_epoch != session->tx_epoch &&
	    record->header.phase == (session->rx_epoch & 1) &&
	    !has_hint(session, SESSION_HINT_PHASE)) {
		set_hint(session, SESSION_HINT_PHASE);
		send_event(forward, FORWARD_EVENT_PHASE, session, NULL);
	}
}

static void failed(struct forward *forward, const struct forward_record *record)
{
	struct session_rx *lane = record->lane;

	if (lane->failed_epoch != record->session->rx_epoch) {
		lane->failed_epoch = record->session->rx_epoch;
		lane->failed = 0;
	}
	lane->failed++;
	drop_claim(forward, record, DROP_RECORD_AUTH, SESSION_MARK_AUTH);
}

static bool used_up(const struct session *session, const struct session_rx *lane)
{
	return lane->failed >= FAILED_MAX && lane->failed_epoch == session->rx_epoch &&
	       session->tx->aead == WIRE_CHACHA20_POLY1305;
}

static void __attribute__((noinline, cold))
hand_over(struct forward *forward, struct session_rx *lane, uint8_t owner,
	  struct forward_input *input)
{
	input->handed = true;
	input->handed_by = forward->number;
	if (forward->ops->handover(forward->worker, owner, input)) {
		forward->counters.handed_over++;
		input->buffer = NULL;
		return;
	}
	__atomic_fetch_sub(&lane->owner, SESSION_HANDED, __ATOMIC_RELEASE);
	drop_record(forward, input, DROP_RECORD_HANDOVER_FULL);
}

/*
 * Whether this worker owns the lane; an unowned one is claimed. A record of somebody else's lane is
 * handed over, and as long as it is on its way the lane stays: so it finds its owner, and those
 * that this worker receives after it can't overtake it.
 */
static bool own(struct forward *forward, const struct forward_record *record)
{
	uint32_t *lane_owner = &record->lane->owner;
	uint32_t owner = __atomic_load_n(lane_owner, __ATOMIC_ACQUIRE);

	if (owner == SESSION_NO_OWNER &&
	    __atomic_compare_exchange_n(lane_owner, &owner, forward->number, false,
					__ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		return true;
	while ((uint8_t)owner != forward->number) {
		if (__atomic_compare_exchange_n(lane_owner, &owner, owner + SESSION_HANDED, true,
						__ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
			hand_over(forward, record->lane, (uint8_t)owner, record->input);
			return false;
		}
	}
	return true;
}

/* Gives a lane away, unless more of its records are on their way here. */
static void give_away(struct forward *forward, const struct leaving *leaving)
{
	uint32_t owner = forward->number;

	__atomic_compare_exchange_n(&leaving->lane->owner, &owner, leaving->owner, false,
				    __ATOMIC_RELEASE, __ATOMIC_RELAXED);
}

/* Reads a record's header. False: it is none, and was dropped. */
static inline bool parse(struct forward *forward, struct forward_input *input,
			 struct wire_record *header)
{
	static const uint8_t reasons[] = {
		[WIRE_BAD_SIZE] = DROP_RECORD_TRUNCATED,
		[WIRE_BAD_VERSION] = DROP_RECORD_VERSION,
		[WIRE_BAD_RESERVED] = DROP_RECORD_RESERVED,
	};
	enum wire_parse result = wire_record_get(header, input->record, input->length);

	if (result == WIRE_OK)
		return true;
	drop_record(forward, input, reasons[result]);
	return false;
}

bool forward_parse(struct forward *forward, struct forward_input *input, struct wire_record *header)
{
	return parse(forward, input, header);
}

/* Highest classes first; a class stays in order. */
static void __attribute__((noinline, cold))
sort_by_class(struct forward_record *records, unsigned int n)
{
	struct forward_record sorted[FORWARD_BURST];
	unsigned int done = 0;

	for (unsigned int class = WIRE_CLASSES; class --&&done < n;) {
		for (unsigned int i = 0; i < n; i++) {
			if (records[i].header.class == class)
				sorted[done++] = records[i];
		}
	}
	memcpy(records, sorted, done * sizeof(*records));
}

/* Parses and finds the sessions: leaves the records that have one in `records`. */
static unsigned int find_sessions(struct forward *forward, struct forward_input *inputs,
				  unsigned int n, struct forward_record *records)
{
	const struct session_table *sessions = forward->sessions;
	unsigned int parsed = 0, found = 0, classes = 0;

	for (unsigned int i = 0; i < n; i++) {
		struct forward_record *record = &records[parsed];

		if (!parse(forward, &inputs[i], &record->header))
			continue;
		classes |= 1u << record->header.class;
		record->input = &inputs[i];
		if (wire_slot(record->header.index) < sessions->slots)
			__builtin_prefetch(&sessions->slot[wire_slot(record->header.index)]);
		parsed++;
	}
	for (unsigned int i = 0; i < parsed; i++) {
		uint32_t slot = wire_slot(records[i].header.index);

		if (slot < sessions->slots) {
			const struct session *session =
				rcu_dereference(sessions->slot[slot].current);

			if (session)
				session_prefetch_source(session);
		}
	}
	for (unsigned int i = 0; i < parsed; i++) {
		struct forward_record *record = &records[found];
		const struct session *session;
		bool stale;

		if (found != i)
			*record = records[i];
		session = session_find(sessions, record->header.index, &stale);
		if (!session) {
			drop_record(forward, record->input,
				    session_is_revoked(sessions, record->header.index)
					    ? DROP_RECORD_REVOKED
				    : stale ? DROP_RECORD_SESSION_STALE
					    : DROP_RECORD_SESSION_UNKNOWN);
		} else if (record->input->length > session->record_max) {
			drop_record(forward, record->input, DROP_RECORD_OVERSIZED);
		} else if (record->header.lane >= session->lanes_up) {
			drop_record(forward, record->input, DROP_RECORD_LANE);
		} else {
			record->session = session;
			record->lane = session_rx_lane(session, record->header.lane);
			if (record->input->handed)
				__atomic_fetch_sub(&record->lane->owner, SESSION_HANDED,
						   __ATOMIC_RELAXED);
			if (!session->rx[record->header.phase]) {
				drop_record(forward, record->input, DROP_RECORD_KEY_PHASE);
				continue;
			}
			window_prefetch(&record->lane->window, record->header.sequence);
			found++;
		}
	}
	if (classes & (classes - 1))
		sort_by_class(records, found);
	return found;
}

/* Drops what the window says is not new. */
static bool is_new(struct forward *forward, const struct forward_record *record,
		   enum window_result result)
{
	if (result == WINDOW_NEW)
		return true;
	if (result == WINDOW_OLD) // late rather than repeated
		drop_record(forward, record->input, DROP_RECORD_REPLAY_OLD);
	else
		drop_claim(forward, record, DROP_RECORD_REPLAY_SEEN, SESSION_MARK_REPLAY);
	return false;
}

/*
 * Whether a record may be opened although there is too much to do, or its sender is known to send
 * too much. Anybody can send it: so what is over the limits is known from records that were opened.
 */
static bool __attribute__((noinline, cold))
guard(struct forward *forward, const struct forward_record *record)
{
	enum drop_record reason = DROP_RECORD_RATE;

	// no tokens come within a millisecond
	if (forward->rates && record->lane->over_ms == (uint32_t)forward->now_ms &&
	    record->header.class != WIRE_CONTROL)
		goto refused;
	// its IP address; lanes may have ports of their own
	if (!forward->overloaded || memcmp(record->input->source.ip, record->session->endpoint.ip,
					   sizeof(record->input->source.ip)) == 0)
		return true;
	if (forward->strangers) {
		forward->strangers--;
		return true;
	}
	reason = DROP_RECORD_STRANGER;
refused:
	drop_record(forward, record->input, reason);
	return false;
}

/* Checks owners and windows: leaves what is worth opening in `records`. */
static unsigned int check_windows(struct forward *forward, struct forward_record *records,
				  unsigned int n)
{
	unsigned int kept = 0;

	for (unsigned int i = 0; i < n; i++) {
		struct forward_record *record = &records[kept];

		if (kept != i)
			*record = records[i];
		if (!own(forward, record))
			continue;
		if (forward->guarded && !guard(forward, record))
			continue;
		if (!is_new(forward, record,
			    window_check(&record->lane->window, record->header.sequence)))
			continue;
		if (used_up(record->session, record->lane)) {
			drop_record(forward, record->input, DROP_RECORD_KEY_LIMIT);
			continue;
		}
		forward->opening[kept].key = record->session->rx[record->header.phase];
		forward->opening[kept].record = record->input->record;
		forward->opening[kept].length = record->input->length;
		kept++;
	}
	return kept;
}

/* The buffers of what was opened, if they weren't sent. */
static void give_back_all(struct forward *forward, unsigned int n)
{
	void *buffers[FORWARD_BURST];
	unsigned int count = 0;

	for (unsigned int i = 0; i < n; i++) {
		void *buffer = forward->records[i].input->buffer;

		if (buffer)
			buffers[count++] = buffer;
	}
	if (count)
		forward->ops->release(forward->worker, buffers, count);
}

void forward_burst(struct forward *forward, struct forward_input *inputs, unsigned int n,
		   uint64_t now_ms)
{
	struct forward_record *records = forward->records;
	struct leaving leaving[FORWARD_BURST];
	unsigned int leaving_count = 0;

	forward->now_ms = now_ms;
	forward->rates = rcu_dereference(forward->sessions->rates);
	if (forward->rates && !forward->rates->limited)
		forward->rates = NULL;
	forward->guarded = forward->rates || forward->overloaded;
	forward->strangers = FORWARD_STRANGERS;
	refill(forward);
	n = find_sessions(forward, inputs, n, records);
	n = check_windows(forward, records, n);
	if (n)
		forward->aead->open(forward->aead_worker, forward->opening, n);
	for (unsigned int i = 0; i < n; i++) {
		struct forward_record *record = &records[i];
		bool above = record->header.sequence >= record->lane->window.next;

		if (!forward->opening[i].ok) {
			failed(forward, record);
			continue;
		}
		// a copy may be in the same burst, or one that is far ahead
		if (!is_new(forward, record,
			    window_accept(&record->lane->window, record->header.sequence)))
			continue;
		// a lane's owner follows its newest records
		if (record->input->handed && above) {
			leaving[leaving_count].lane = record->lane;
			leaving[leaving_count++].owner = record->input->handed_by;
		}
		if (gather(forward, record, now_ms))
			learn(forward, record, above, now_ms);
	}
	walk(forward, now_ms);
	give_back_all(forward, n);
	for (unsigned int i = 0; i < leaving_count; i++)
		give_away(forward, &leaving[i]);
}

void forward_refuse(struct forward *forward, struct forward_input *input, enum drop_record reason)
{
	const struct session *session;
	struct wire_record header;
	bool stale;

	// it is on its way to its lane's owner no more
	if (input->handed && wire_record_get(&header, input->record, input->length) == WIRE_OK) {
		session = session_find(forward->sessions, header.index, &stale);
		if (session && header.lane < session->lanes_up)
			__atomic_fetch_sub(&session_rx_lane(session, header.lane)->owner,
					   SESSION_HANDED, __ATOMIC_RELAXED);
	}
	drop_record(forward, input, reason);
}

static enum drop_message command(struct forward *forward, const struct forward_command *command)
{
	const struct session *to = session_find_any(forward->sessions, command->index);
	uint16_t size = WIRE_MESSAGE_HEADER + command->payload_length;
	const struct session_header *header;
	struct forward_spare *spare;
	uint8_t message[WIRE_MESSAGE_HEADER + FORWARD_PAYLOAD_MAX];
	unsigned int number;

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
	spare = &forward->spares[forward->spare_count - 1];
	number = open_record(forward, to, header, command->class, spare->buffer, spare->record,
			     to->record_max);
	if (number == FORWARD_NO_RECORD)
		return DROP_MESSAGE_KEY_EXHAUSTED;
	forward->spare_count--;
	wire_message_put(message, size - WIRE_MESSAGE_HEADER, command->kind, WIRE_HOP_LIMIT, 0,
			 command->tag, &to->relay);
	if (command->kind == WIRE_PING)
		wire_put64(message + WIRE_MESSAGE_HEADER, forward->ops->now_us(forward->worker));
	else
		memcpy(message + WIRE_MESSAGE_HEADER, command->payload, command->payload_length);
	append(forward, number, message, size);
	return DROP_MESSAGE_COUNT;
}

void forward_commands(struct forward *forward, const struct forward_command *commands,
		      unsigned int n, uint64_t now_ms)
{
	refill(forward);
	for (unsigned int i = 0; i < n; i++) {
		enum drop_message reason = command(forward, &commands[i]);

		counters_made(&forward->counters, commands[i].class);
		if (reason != DROP_MESSAGE_COUNT)
			counters_dropped(&forward->counters, commands[i].class, reason, 1);
		if (forward->open_count == FORWARD_OUTPUTS || !forward->spare_count)
			flush(forward, now_ms);
	}
	flush(forward, now_ms);
}

bool forward_resume(struct forward *forward, uint64_t now_ms)
{
	if (!forward->topics.queue_count)
		return false;
	refill(forward);
	walk(forward, now_ms);
	return true;
}

void forward_fini(struct forward *forward)
{
	topic_fini(forward);
	while (forward->spare_count)
		forward->ops->release(forward->worker,
				      &forward->spares[--forward->spare_count].buffer, 1);
}
