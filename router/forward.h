/*
 * The forwarding core: a burst of received records in, sealed records out.
 *
 * Stages, each over the whole burst: parse and prefetch; find sessions; check lanes, owners and
 * windows; open; gather the messages (receive.h); look up where they go; judge them (walk.h); pack
 * by receiver and class; seal; transmit (pack.h). What goes no further is dropped (drop.h). A
 * record whose only message is the first for its receiver leaves in its own buffer;
 * other messages are copied once, into the newest open record for that receiver and class. Nothing
 * waits for a record to fill: what a burst opened is sealed at its end.
 *
 * One struct forward belongs to one worker. It allocates nothing and calls out only through its
 * ops, so that unit tests, fuzzers and a simulator drive it as the dataplane does.
 */
#ifndef VIADUCT_FORWARD_H
#define VIADUCT_FORWARD_H

#include "aead.h"
#include "counters.h"
#include "route.h"
#include "service.h"
#include "session.h"
#include "topic.h"
#include "suspects.h"

enum {
	FORWARD_BURST = 32,  // records a call
	FORWARD_SPARES = 64, // buffers kept in reserve, and so records opened for packing at once
	FORWARD_OUTPUTS = FORWARD_BURST + FORWARD_SPARES, // in as many buffers, with a burst's own
	FORWARD_MESSAGES = 512, // walked at once; at least what the largest record holds
	FORWARD_NO_RECORD = 0xff,
	FORWARD_PAYLOAD_MAX = 1024, // of a control message, either way
	FORWARD_EVENTS = 512,       // from a worker that may wait for the control thread; less one
	FORWARD_ERRORS_PER_S = 100, // error messages a lane and second, and
	FORWARD_ERRORS_BURST = 200, // how many at once
	FORWARD_STRANGERS = 1, // records a burst that aren't from their session's address, under
			       // overload
};

/* A received record. The buffer around it has room for a full record and SESSION_HEADER_MAX before.
 */
struct forward_input {
	void *buffer; // the caller's name for it
	uint8_t *record;
	struct endpoint source;
	uint16_t length;
	uint8_t frame_length; // the Ethernet, IP and UDP headers right before `record`
	bool handed;          // by another worker, which didn't count it
	uint8_t handed_by;    // that worker; the core sets both
};

/* An empty buffer to pack messages into. */
struct forward_spare {
	void *buffer;
	uint8_t *record; // with SESSION_HEADER_MAX bytes of room before, and behind for the largest
			 // record
};

/* Where a sealed record goes, and what it is in. Valid until the transmit op returns. */
struct forward_output {
	void *buffer;
	const struct session_header *header;
	bool sent; // set by the op if it hasn't sent all
};

enum forward_event_type {
	FORWARD_EVENT_PATH, // lane 0 came from another address, above all before: `source`, `frame`
	FORWARD_EVENT_PHASE,   // a record of the new key phase was opened
	FORWARD_EVENT_REKEY,   // half of the transmit key is used
	FORWARD_EVENT_CONTROL, // a control message: all fields
	FORWARD_EVENT_SUSPECT, // too many bad records from `source`; of no session
};

/* From a worker to the control thread. Copied; hints may be lost, their bits in the state are not.
 */
struct forward_event {
	uint32_t index;
	uint32_t tag;
	uint8_t type; // enum forward_event_type
	uint8_t frame_length;
	uint16_t payload_length;
	struct endpoint source;
	uint8_t frame[SESSION_HEADER_MAX]; // as received
	uint8_t payload[FORWARD_PAYLOAD_MAX];
};

/*
 * From the control thread to a worker: a message of the relay's to seal and send. A ping is given
 * the time as its payload.
 */
struct forward_command {
	uint32_t index; // of the session
	uint32_t tag;
	uint8_t kind; // control, ping, or an error
	uint8_t class;
	uint16_t payload_length;
	struct session_header header; // length 0: the session's own
	uint8_t payload[FORWARD_PAYLOAD_MAX];
};

struct forward;

struct forward_ops {
	/* Fills up to `n` spares; returns how many. */
	unsigned int (*spares)(void *worker, struct forward_spare *spares, unsigned int n);

	/* Gives `n` (up to FORWARD_OUTPUTS) buffers back that are not transmitted. */
	void (*release)(void *worker, void **buffers, unsigned int n);

	/*
	 * Sends `n` records, those to one session in order, and takes over their buffers. Returns
	 * how many the port has accepted; if not all, `sent` says of each whether it is one of
	 * them. `records` says where in its buffer each is, and how long.
	 */
	unsigned int (*transmit)(void *worker, const struct aead_job *records,
				 struct forward_output *outputs, unsigned int n);

	/*
	 * Hands a record, with all that is in `input`, to the worker that owns its lane. False: no
	 * room, nothing taken over.
	 */
	bool (*handover)(void *worker, unsigned int owner, struct forward_input *input);

	/* Copies an event for the control thread. False: no room. */
	bool (*event)(void *worker, const struct forward_event *event);

	/* How many of them wait: the last ones, as they are taken in order. */
	unsigned int (*events_waiting)(void *worker);

	/* Microseconds, on the clock of `now_ms`, now: for what is measured. */
	uint64_t (*now_us)(void *worker);
};

/* A received record that belongs to a session. */
struct forward_record {
	struct forward_input *input;
	const struct session *session;
	struct session_rx *lane; // NULL: it was dropped before that was found
	struct wire_words header;
};

static inline enum wire_class forward_class(const struct forward_record *record)
{
	return wire_words_class(&record->header);
}

enum forward_mark {
	FORWARD_LAST = 1,     // of its record,
	FORWARD_LONE = 4,     // and the only one, without flags
	FORWARD_PROMISED = 2, // a request to a service: it is told in any case
	// for services only; or'ed to its kind too, which then is one that isn't forwarded
	FORWARD_FLAGGED = 0x40,
};

/* A message on its way, for those stages that go over all of a burst's. */
struct forward_message {
	const struct forward_record *in; // came in this one
	uint8_t *data;                   // message header
	union {
		const struct session_slot *guess; // of the route table
		const struct session *to;         // NULL: the destination isn't a session's
	};
	union {
		uint64_t hash;               // of the destination; until that is found
		struct session_tx *lane;     // to a session
		struct service_entry *entry; // of a request that goes to a service
	};
	uint32_t tag;
	uint16_t size;
	uint8_t kind;
	uint8_t record;  // once it has walked: packed into which; FORWARD_NO_RECORD
	uint8_t verdict; // of a message to a session: why it goes no further; DROP_MESSAGE_COUNT
	uint8_t marks;   // bits of forward_mark
	uint8_t class;
};

/*
 * Records being packed, by number: their headers are written, and their lengths so far stand in
 * their jobs. See pack.h.
 */
struct forward_packing {
	unsigned int count;
	uint32_t turn; // tells which records lanes have noted, see pack.h
	const struct session *to[FORWARD_OUTPUTS];
	uint16_t limit[FORWARD_OUTPUTS]; // of the length, with the tag
	uint16_t messages[FORWARD_OUTPUTS];
	uint8_t class[FORWARD_OUTPUTS];
	struct aead_job jobs[FORWARD_OUTPUTS];
	struct forward_output outputs[FORWARD_OUTPUTS];
};

/* A lane that goes to another worker once this burst no longer needs its window. */
struct forward_leaving {
	struct session_rx *lane;
	uint8_t owner;
};

struct forward {
	/* set up once by the caller */
	const struct forward_ops *ops;
	void *worker; // passed to ops
	const struct session_table *sessions;
	const struct route_table *routes;
	struct service_requests *requests; // NULL: there are no services
	const struct aead_ops *aead;
	void *aead_worker;
	uint8_t number; // of the worker, which is also its lane down

	/* what the caller says of each burst; see shed.h */
	bool overloaded;
	bool waited; // in a backlog, where newer ones may have overtaken it
	struct counters counters;
	struct rates_credit clusters[POLICY_CLUSTERS]; // borrowed from the clusters' accounts
	struct suspects suspects;

	uint32_t over_ms; // when a lane was last found over its rate; see session_rx

	uint64_t random; // state; any value to begin with

	uint16_t events; // put, ever; wraps around

	/* scratch of one burst */
	uint64_t now_ms;
	struct rates *rates;    // NULL: none
	bool limited;           // see there
	bool has_texts;         // whether there are any below
	unsigned int strangers; // how many may be opened
	unsigned int spare_count;
	unsigned int record_count;
	unsigned int in_place; // of the records, those that leave in their own buffers
	unsigned int leaving_count;
	struct forward_spare spares[FORWARD_SPARES];
	struct forward_record records[FORWARD_BURST];
	struct aead_job opening[FORWARD_BURST]; // of each record
	struct forward_leaving leaving[FORWARD_BURST];
	struct forward_packing packing;
	const uint8_t *texts[FORWARD_OUTPUTS]; // what is sealed from elsewhere; else NULL
	// lone messages need no room to be made for them
	struct forward_message messages[FORWARD_MESSAGES + FORWARD_BURST];
	struct forward_message *messages_end;
	struct forward_message *walked; // those before have found their record, or been dropped,
	struct forward_message *sent;   // and the record of those before is on its way
	struct forward_event event;
	uint8_t through[WIRE_MTU_MAX]; // a message with its via

	struct topic_worker topics;
};

/*
 * Fetches where a record's session is looked for: for the caller, as soon as it has seen the record
 * and before it looks at others.
 */
static inline void forward_prefetch(const struct forward *forward, const uint8_t *record)
{
	__builtin_prefetch(&forward->sessions->slot[wire_slot(wire_get32(record + 4))]);
}

/*
 * Takes `n` (up to FORWARD_BURST) records through all stages. Takes over every input's buffer. The
 * caller is a registered, online RCU reader and reports its quiescent state after. `now_ms`:
 * monotonic; may wrap around only after 2^64.
 */
void forward_burst(struct forward *forward, struct forward_input *inputs, unsigned int n,
		   uint64_t now_ms);

/* Seals and sends `n` of the control thread's messages. The same rules. */
void forward_commands(struct forward *forward, const struct forward_command *commands,
		      unsigned int n, uint64_t now_ms);

/* Drops what wire_words_get() says is no record, `why`. The same rules. */
void forward_drop_unread(struct forward *forward, struct forward_input *input, enum wire_parse why);

/* Drops a record that shall not be opened, for `reason`. The same rules. */
void forward_refuse(struct forward *forward, struct forward_input *input, enum drop_record reason);

/*
 * Does some of what bursts have left to be done; a burst does so too. For a turn without one. The
 * same rules. Returns whether there was any.
 */
bool forward_resume(struct forward *forward, uint64_t now_ms);

/* Gives all buffers back, before the worker ends. */
void forward_fini(struct forward *forward);

/* ---- For the core's other files ---- */

/* Nothing has been gathered. */
static inline void forward_begin(struct forward *forward)
{
	forward->messages_end = forward->walked = forward->sent = forward->messages;
}

/* Tells the control thread what stands in forward->event; true if there was room. */
bool forward_put_event(struct forward *forward);

/* The same, of something that a session's peer has caused. */
bool forward_send_event(struct forward *forward, enum forward_event_type type,
			const struct session *session, const struct forward_input *input);

#endif
