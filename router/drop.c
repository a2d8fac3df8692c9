#include "drop.h"

#include "pack.h"

enum {
	THOUSAND = 1000,
	// bits of the reasons that speak of who sent the record, and could be forged by anybody
	SUSPICIOUS = 1 << DROP_RECORD_TRUNCATED | 1 << DROP_RECORD_VERSION |
		     1 << DROP_RECORD_RESERVED | 1 << DROP_RECORD_SESSION_UNKNOWN |
		     1 << DROP_RECORD_SESSION_STALE | 1 << DROP_RECORD_REVOKED |
		     1 << DROP_RECORD_OVERSIZED | 1 << DROP_RECORD_LANE |
		     1 << DROP_RECORD_KEY_PHASE | 1 << DROP_RECORD_KEY_LIMIT |
		     1 << DROP_RECORD_REPLAY_OLD | 1 << DROP_RECORD_REPLAY_SEEN |
		     1 << DROP_RECORD_AUTH | 1 << DROP_RECORD_BUNDLE,
};

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
	forward_put_event(forward);
}

void drop_record(struct forward *forward, struct forward_input *input, enum drop_record reason)
{
	counters_refused(&forward->counters, reason, input->record);
	if (SUSPICIOUS >> reason & 1)
		suspect(forward, input);
	if (input->buffer)
		forward->ops->release(forward->worker, &input->buffer, 1);
	input->buffer = NULL;
}

void drop_claim(struct forward *forward, const struct forward_record *record,
		enum drop_record reason, enum session_mark mark)
{
	if (endpoint_same_address(&record->input->source, &record->session->endpoint))
		session_mark(record->session, forward->number, mark);
	drop_record(forward, record->input, reason);
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

/* A message of the relay's own, to a session. */
static void make(struct forward *forward, const struct session *to, uint8_t class, uint8_t kind,
		 uint32_t tag, uint64_t now_ms)
{
	uint8_t message[WIRE_MESSAGE_HEADER];
	enum drop_message reason;

	wire_message_put(message, 0, kind, WIRE_HOP_LIMIT, 0, tag, &to->relay);
	counters_made(&forward->counters, class);
	if (!to->header.length)
		counters_dropped(&forward->counters, class, DROP_MESSAGE_SESSION_GONE, 1);
	else if (pack_message(forward, to, class, message, sizeof(message), now_ms, &reason) ==
		 FORWARD_NO_RECORD)
		counters_dropped(&forward->counters, class, reason, 1);
}

void drop_tell(struct forward *forward, const struct forward_message *message,
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
		make(forward, message->in->session, forward_class(message->in),
		     WIRE_ERROR | told[reason], message->tag, now_ms);
}

void drop_message(struct forward *forward, const struct forward_message *message,
		  enum drop_message reason, uint64_t now_ms)
{
	counters_dropped(&forward->counters, forward_class(message->in), reason, 1);
	// whether a topic has members is nothing that a publisher can know
	if ((reason == DROP_MESSAGE_NO_ROUTE && message->kind != WIRE_PUBLISH) ||
	    reason == DROP_MESSAGE_POLICY)
		session_mark(message->in->session, forward->number, SESSION_MARK_REFUSED);
	drop_tell(forward, message, reason, now_ms);
}
