#include "receive.h"

#include "drop.h"
#include "walk.h"

/* RFC 9001 section 6.6 allows 2^36 failed opens a key; shared out between the most lanes there are.
 */
#define FAILED_MAX (UINT64_C(1) << 33)

enum {
	FLAGS = WIRE_FLAG_VIA | WIRE_FLAG_KEY,
	MALFORMED = 0xff,
};

_Static_assert((int)FORWARD_MESSAGES >= (int)WIRE_MTU_MAX / WIRE_MESSAGE_HEADER,
	       "the messages of the largest record must fit");

/* Messages */

static inline void gather_one(struct forward *forward, const struct forward_record *record,
			      uint8_t class, uint8_t *data, uint16_t size, uint8_t kind,
			      struct forward_message *out)
{
	out->in = record;
	out->data = data;
	out->tag = wire_message_tag(data);
	out->size = size;
	out->kind = kind;
	out->class = class;
	out->hash = route_hash(forward->routes, (const struct wire_id *)(data + 8));
	route_prefetch(forward->routes, out->hash);
}

/*
 * Takes what a record costs from what its sender and the sender's cluster may send. False: there
 * isn't as much.
 */
static bool __attribute__((noinline))
charge(struct forward *forward, const struct forward_record *record, unsigned int messages)
{
	struct rates *rates = forward->rates;
	const struct session *session = record->session;
	struct session_rx *lane = record->lane;
	uint16_t bytes = record->input->length;

	if (!rates)
		return true;
	if (!rates_charge(&rates->levels[session->level], &session->state->account, &lane->credit,
			  messages, bytes, forward->now_ms)) {
		forward->over_ms = lane->over_ms = (uint32_t)forward->now_ms;
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

/* Drops `n` messages that were gathered, as they are over their sender's rate. */
static void __attribute__((noinline, cold))
drop_over(struct forward *forward, struct forward_message *messages, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		messages[i].kind &= ~(messages[i].marks & FORWARD_FLAGGED);
		drop_message(forward, &messages[i], DROP_MESSAGE_RATE, forward->now_ms);
	}
}

/* Has `n` messages that were gathered walk, unless they are over their sender's rate. */
static inline void take_in(struct forward *forward, const struct forward_record *record,
			   uint8_t class, unsigned int n)
{
	if ((forward->limited || record->session->level) && class != WIRE_CONTROL &&
	    !charge(forward, record, n))
		drop_over(forward, forward->messages_end, n);
	else
		forward->messages_end += n;
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
	struct forward_message *first = forward->messages_end;
	uint8_t class = forward_class(record);
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
		gather_one(forward, record, class, message.data, message.size, message.kind,
			   &first[n++]);
	} while (at < length);
	counters_opened(&forward->counters, class, 1, n);
	take_in(forward, record, class, n);
	return true;
}

/* A record of several messages: gathers them, all or none; false: they are not well-formed. */
static bool __attribute__((noinline))
gather_several(struct forward *forward, const struct forward_record *record)
{
	uint8_t *text = record->input->record + WIRE_RECORD_HEADER;
	size_t length = record->input->length - WIRE_RECORD_OVERHEAD;
	uint8_t class = forward_class(record);
	struct wire_message message = {0};
	struct forward_message *first;
	unsigned int n = 0;
	size_t at = 0;

	if (forward->messages_end - forward->messages + length / WIRE_MESSAGE_HEADER >
	    FORWARD_MESSAGES)
		walk_all(forward, forward->now_ms);
	first = forward->messages_end;
	do {
		at = wire_message_get(&message, text, length, at);
		if (!at || (message.flags & FLAGS))
			return gather_flagged(forward, record, text, length);
		first[n].marks = at == length ? FORWARD_LAST : 0;
		gather_one(forward, record, class, message.data, message.size, message.kind,
			   &first[n++]);
	} while (at < length);
	counters_opened(&forward->counters, class, 1, n);
	take_in(forward, record, class, n);
	return true;
}

/*
 * What most records are: one message from peer to peer, without flags. There is always room for
 * that; the caller counts it.
 */
static inline bool gather_lone(struct forward *forward, const struct forward_record *record,
			       const struct aead_job *job, uint8_t class)
{
	struct forward_message *out = forward->messages_end;
	uint8_t *data = job->record + WIRE_RECORD_HEADER;
	uint32_t first = wire_get32(data);
	uint8_t kind = (uint8_t)(first >> 8);

	if ((first >> 16) + WIRE_MESSAGE_HEADER + WIRE_RECORD_OVERHEAD != job->length ||
	    (first & (FLAGS | WIRE_MESSAGE_RESERVED)) || !(first & 0xf << WIRE_HOP_SHIFT) ||
	    !walk_forwards(kind, class))
		return false;
	out->marks = FORWARD_LAST | FORWARD_LONE;
	gather_one(forward, record, class, data, job->length - WIRE_RECORD_OVERHEAD, kind, out);
	take_in(forward, record, class, 1);
	return true;
}

/* Records */

static void __attribute__((noinline, cold))
hint_path(struct forward *forward, const struct forward_record *record)
{
	const struct session *session = record->session;

	if (session_has_hint(session, SESSION_HINT_PATH))
		return;
	// set first: the control thread clears it when it has seen the event
	session_set_hint(session, SESSION_HINT_PATH);
	if (!forward_send_event(forward, FORWARD_EVENT_PATH, session, record->input))
		session_clear_hint(session, SESSION_HINT_PATH);
}

static void __attribute__((noinline, cold))
hint_phase(struct forward *forward, const struct forward_record *record)
{
	const struct session *session = record->session;

	if (wire_words_phase(&record->header) != (session->rx_epoch & 1) ||
	    session_has_hint(session, SESSION_HINT_PHASE))
		return;
	session_set_hint(session, SESSION_HINT_PHASE);
	forward_send_event(forward, FORWARD_EVENT_PHASE, session, NULL);
}

/* What an authentic, new record says about its sender beside its messages. */
static inline void learn(struct forward *forward, const struct forward_record *record, bool above)
{
	const struct session *session = record->session;

	__atomic_store_n(&record->lane->seen_ms, (uint32_t)forward->now_ms, __ATOMIC_RELAXED);
	if (above && wire_words_lane(&record->header) == 0 &&
	    !endpoint_equal(&record->input->source, &session->endpoint))
		hint_path(forward, record);
	if (session->rx_epoch != session->tx_epoch)
		hint_phase(forward, record);
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
 * Whether this worker owns a lane that it isn't known to own; an unowned one is claimed. A record
 * of somebody else's lane is handed over, and as long as it is on its way the lane stays: so it
 * finds its owner, and those that this worker receives after it can't overtake it.
 */
static bool __attribute__((noinline))
claim(struct forward *forward, const struct forward_record *record)
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

static inline bool own(struct forward *forward, const struct forward_record *record)
{
	return (uint8_t)__atomic_load_n(&record->lane->owner, __ATOMIC_ACQUIRE) ==
		       forward->number ||
	       claim(forward, record);
}

/* Gives a lane away, unless more of its records are on their way here. */
static void give_away(struct forward *forward, const struct forward_leaving *leaving)
{
	uint32_t owner = forward->number;

	__atomic_compare_exchange_n(&leaving->lane->owner, &owner, leaving->owner, false,
				    __ATOMIC_RELEASE, __ATOMIC_RELAXED);
}

void __attribute__((noinline, cold))
receive_drop_unread(struct forward *forward, struct forward_input *input, enum wire_parse why)
{
	static const uint8_t reasons[] = {
		[WIRE_BAD_SIZE] = DROP_RECORD_TRUNCATED,
		[WIRE_BAD_VERSION] = DROP_RECORD_VERSION,
		[WIRE_BAD_RESERVED] = DROP_RECORD_RESERVED,
	};

	drop_record(forward, input, reasons[why]);
}

void receive_refuse(struct forward *forward, struct forward_input *input, enum drop_record reason)
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

/* Highest classes first; a class stays in order. What comes out of a backlog mostly is so. */
static void __attribute__((noinline)) sort_by_class(struct forward_record *records, unsigned int n)
{
	struct forward_record sorted[FORWARD_BURST];
	unsigned int ordered = 1, done = 0;

	while (ordered < n &&
	       forward_class(&records[ordered]) <= forward_class(&records[ordered - 1]))
		ordered++;
	if (ordered == n)
		return;
	for (unsigned int class = WIRE_CLASSES; class --&&done < n;) {
		for (unsigned int i = 0; i < n; i++) {
			if (forward_class(&records[i]) == class)
				sorted[done++] = records[i];
		}
	}
	memcpy(records, sorted, done * sizeof(*records));
}

/*
 * Parses, looks into the slots that records claim, and fetches the sessions that are there. Leaves
 * those that are records in `records`, in the order in which they are handled; returns how many.
 */
static unsigned int parse_all(struct forward *forward, struct forward_input *inputs, unsigned int n,
			      struct forward_record *records)
{
	const struct session_table *sessions = forward->sessions;
	struct forward_record *record = records;
	uint64_t some = 0, all = UINT64_MAX; // bits of their headers

	for (struct forward_input *input = inputs; input < inputs + n; input++) {
		enum wire_parse result;
		uint32_t slot;

		result = wire_words_get(&record->header, input->record, input->length);
		if (result != WIRE_OK) {
			receive_drop_unread(forward, input, result);
			continue;
		}
		record->input = input;
		some |= record->header.first;
		all &= record->header.first;
		slot = wire_slot(wire_words_index(&record->header));
		record->session = NULL;
		if (slot < sessions->slots)
			record->session = rcu_dereference(sessions->slot[slot].current);
		if (record->session)
			session_prefetch(record->session);
		record++;
	}
	n = (unsigned int)(record - records);
	if (n && ((some ^ all) >> WIRE_CLASS_BIT & (WIRE_CLASSES - 1)))
		sort_by_class(records, n);
	return n;
}

/* Why no record is opened for who claims to be `index`. */
static enum drop_record __attribute__((noinline, cold))
unknown(const struct session_table *sessions, uint32_t index, bool stale)
{
	if (session_is_revoked(sessions, index))
		return DROP_RECORD_REVOKED;
	return stale ? DROP_RECORD_SESSION_STALE : DROP_RECORD_SESSION_UNKNOWN;
}

static void __attribute__((noinline, cold))
drop_unclaimed(struct forward *forward, struct forward_record *record, enum drop_record reason)
{
	drop_record(forward, record->input, reason);
	record->lane = NULL;
}

/* The session of who isn't found at once; NULL: there is none, and the record was dropped. */
static const struct session *__attribute__((noinline, cold))
find_other(struct forward *forward, struct forward_record *record)
{
	uint32_t index = wire_words_index(&record->header);
	bool stale;

	record->session = session_find_other(forward->sessions, index, &stale);
	if (!record->session)
		drop_unclaimed(forward, record, unknown(forward->sessions, index, stale));
	return record->session;
}

/* Finds and fetches lanes, and writes the jobs of all that have one. */
static void find_lanes(struct forward *forward, struct forward_record *records, unsigned int n)
{
	struct aead_job *job = forward->opening;

	for (struct forward_record *record = records; record < records + n; record++, job++) {
		const struct session *session = record->session;
		const struct forward_input *input = record->input;
		const struct wire_words header = record->header;
		uint8_t number = wire_words_lane(&header);
		uint16_t length = input->length;
		const struct aead_key *key;
		struct session_rx *lane;

		if (!session || session->index != wire_words_index(&header)) {
			session = find_other(forward, record);
			if (!session)
				continue;
		}
		if (length > session->record_max) {
			drop_unclaimed(forward, record, DROP_RECORD_OVERSIZED);
			continue;
		}
		if (number >= session->lanes_up) {
			drop_unclaimed(forward, record, DROP_RECORD_LANE);
			continue;
		}
		lane = session_rx_lane(session, number);
		window_prefetch(&lane->window);
		if (forward->overloaded) // guard() looks at it
			session_prefetch_source(session);
		if (input->handed)
			__atomic_fetch_sub(&lane->owner, SESSION_HANDED, __ATOMIC_RELAXED);
		key = session->rx[wire_words_phase(&header)];
		if (!key) {
			drop_unclaimed(forward, record, DROP_RECORD_KEY_PHASE);
			continue;
		}
		job->key = key;
		job->record = input->record;
		job->length = length;
		record->lane = lane;
	}
}

static void __attribute__((noinline, cold))
drop_repeated(struct forward *forward, const struct forward_record *record,
	      enum window_result result)
{
	if (result == WINDOW_SEEN)
		drop_claim(forward, record, DROP_RECORD_REPLAY_SEEN, SESSION_MARK_REPLAY);
	else if (forward->waited) // it was in time, and is late by our doing
		drop_record(forward, record->input, DROP_RECORD_SHED_BULK + forward_class(record));
	else // late rather than repeated
		drop_record(forward, record->input, DROP_RECORD_REPLAY_OLD);
}

/* Drops what the window says is not new. */
static inline bool is_new(struct forward *forward, const struct forward_record *record,
			  enum window_result result)
{
	if (result == WINDOW_NEW)
		return true;
	drop_repeated(forward, record, result);
	return false;
}

/*
 * Whether a record may be opened although there is too much to do, or its sender is known to send
 * too much. Anybody can send it: so what is over the limits is known from records that were opened.
 */
static inline bool guard(struct forward *forward, const struct forward_record *record)
{
	enum drop_record reason = DROP_RECORD_RATE;

	// no tokens come within a millisecond
	if (record->lane->over_ms == (uint32_t)forward->now_ms &&
	    forward_class(record) != WIRE_CONTROL)
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

/* Checks owners and windows. Leaves what is worth opening; returns how many. */
static unsigned int admit(struct forward *forward, struct forward_record *records, unsigned int n)
{
	bool guarded = forward->over_ms == (uint32_t)forward->now_ms || forward->overloaded;
	unsigned int admitted = 0;

	for (unsigned int i = 0; i < n; i++) {
		struct forward_record *record = &records[i];
		struct session_rx *lane = record->lane;

		if (!lane || !own(forward, record))
			continue;
		session_prefetch_source(record->session);
		if (guarded && !guard(forward, record))
			continue;
		if (!is_new(forward, record,
			    window_check(&lane->window, wire_words_sequence(&record->header))))
			continue;
		if (used_up(record->session, lane)) {
			drop_record(forward, record->input, DROP_RECORD_KEY_LIMIT);
			continue;
		}
		if (admitted != i) {
			records[admitted] = *record;
			forward->opening[admitted] = forward->opening[i];
		}
		admitted++;
	}
	return admitted;
}

void receive_burst(struct forward *forward, struct forward_input *inputs, unsigned int n)
{
	const struct forward_record *record = forward->records, *end;
	const struct aead_job *job = forward->opening;
	uint32_t lone[WIRE_CLASSES] = {0};

	forward->leaving_count = forward->in_place = 0;
	n = parse_all(forward, inputs, n, forward->records);
	find_lanes(forward, forward->records, n);
	n = admit(forward, forward->records, n);
	forward->record_count = n;
	if (n)
		forward->aead->open(forward->aead_worker, forward->opening, n);
	for (end = record + n; record < end; record++, job++) {
		bool above = wire_words_sequence(&record->header) >= record->lane->window.next;
		uint8_t class = forward_class(record);

		if (!job->ok) {
			failed(forward, record);
			continue;
		}
		// a copy may be in the same burst, or one that is far ahead
		if (!is_new(forward, record,
			    window_accept(&record->lane->window,
					  wire_words_sequence(&record->header))))
			continue;
		// a lane's owner follows its newest records
		if (record->input->handed && above)
			forward->leaving[forward->leaving_count++] = (struct forward_leaving){
				.lane = record->lane, .owner = record->input->handed_by};
		if (gather_lone(forward, record, job, class))
			lone[class]++;
		else if (!gather_several(forward, record))
			continue;
		learn(forward, record, above);
	}
	for (enum wire_class class = WIRE_BULK; class < WIRE_CLASSES; class ++)
		counters_opened(&forward->counters, class, lone[class], lone[class]);
}

void receive_end(struct forward *forward)
{
	void *buffers[FORWARD_BURST];
	unsigned int count = 0;

	// mostly all have left
	if (forward->in_place < forward->record_count) {
		for (unsigned int i = 0; i < forward->record_count; i++) {
			void *buffer = forward->records[i].input->buffer;

			if (buffer)
				buffers[count++] = buffer;
		}
	}
	if (count)
		forward->ops->release(forward->worker, buffers, count);
	for (unsigned int i = 0; i < forward->leaving_count; i++)
		give_away(forward, &forward->leaving[i]);
}
