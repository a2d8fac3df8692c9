/*
 * Workers without a dataplane: struct forward over malloc'ed buffers of exact size, a port, rings
 * and a pool that refuse when told to, and peers that speak to them. Knows no
 * test framework, so that fuzz targets use it too; what must always hold it asserts after every
 * call: the ledgers balance, no buffer is lost, no sequence comes twice, and what goes to a peer
 * opens with its key.
 */
#ifndef FIXTURE_H
#define FIXTURE_H

#include "forward.h"

enum {
	FIXTURE_WORKERS = 2,
	FIXTURE_LANES = 4, // up
	FIXTURE_SLOTS = 256,
	FIXTURE_GROUPS = 4,   // slots behind those
	FIXTURE_PEERS = 1024, // sessions made in one test
	FIXTURE_RECORD_MAX = WIRE_MTU_MAX - WIRE_IP_OVERHEAD,
	FIXTURE_FRAME = 42, // what inputs have in front of the record, all of it
	FIXTURE_FRAME_BYTE = 0xee,
	FIXTURE_QUEUE = 256, // handed-over records that wait for a worker
	FIXTURE_NO_LIMIT = 1 << 30,
};

/* A message as a test says it. Its payload follows from tag and length. */
struct said {
	const struct wire_id *to;
	uint32_t tag;
	uint16_t length; // of the payload
	uint8_t kind;
	uint8_t hop_limit;
	uint8_t flags;
};

/* A peer's side of one session. */
struct peer {
	struct wire_id id;
	uint32_t index;
	uint32_t epoch;         // that it sends in
	struct aead_key *up[2]; // by phase
	struct aead_key *down[2];
	uint64_t next[WIRE_LANES_MAX]; // sequence, by lane
	uint64_t seen[WIRE_LANES_MAX]; // one above the highest that the relay sent
	struct session *session;       // as published last
	struct session_state *state;
	struct endpoint endpoint; // where its records come from
};

/* A record that the port took. */
struct sent {
	void *buffer; // its name; freed
	uint8_t *record;
	uint16_t length;
	unsigned int worker;
	struct session_header header;
};

/* A message in such a record, opened by the peer. */
struct heard {
	struct peer *peer;
	unsigned int record; // index of `sent`
	enum wire_class class;
	uint8_t kind;
	uint8_t hop_limit;
	uint8_t flags;
	uint32_t tag;
	struct wire_id address;
	uint16_t length;
	uint8_t *payload; // with its via in front, if it has one; until the next fixture_clear
};

struct fixture_worker {
	struct forward forward;
	struct fixture *fixture;
	unsigned int pool;                         // buffers that it has left
	unsigned int port;                         // records that it takes in the next call,
	unsigned int port_then;                    // and in each after that
	unsigned int ring;                         // events that control's ring has room for
	unsigned int handovers;                    // records that others' rings have room for
	struct forward_input queue[FIXTURE_QUEUE]; // handed over by others
	unsigned int queued;
};

struct fixture {
	const struct aead_ops *aead;
	struct wire_id relay;
	struct region *region; // without places: each part in memory of its own
	struct session_table *sessions;
	struct route_table routes;
	uint64_t now_ms;
	uint64_t us; // beyond now_ms, for what is measured
	struct fixture_worker workers[FIXTURE_WORKERS];
	long buffers; // that are out,
	long held;    // and of those what the test keeps
	struct peer *peers[FIXTURE_PEERS];
	unsigned int peer_count;
	struct aead_key **keys;
	unsigned int key_count;
	struct forward_input inputs[FORWARD_BURST]; // of the next burst
	unsigned int input_count;
	struct session **retired; // replaced, perhaps during a call: freed after the next
	unsigned int retired_count;

	/* since fixture_clear */
	struct sent *sent;
	unsigned int sent_count;
	struct heard *heard;
	unsigned int heard_count;
	struct forward_event *events;
	unsigned int event_count;
};

/* Registers the calling thread as an RCU reader. Never fails: asserts. */
struct fixture *fixture_new(const struct aead_ops *aead);

/* Asserts that every buffer came back. */
void fixture_free(struct fixture *fixture);

/* Forgets what was sent, heard and told. */
void fixture_clear(struct fixture *fixture);

/* A peer that is joined, with a route and an address. */
struct peer *peer_new(struct fixture *fixture, uint32_t slot);

/* The same identity again: published as its slot's `next`. */
struct peer *peer_return(struct fixture *fixture, const struct peer *old);

/* What the first record of a returned peer brings about: `next` is current, `current` last. */
void peer_take_over(struct fixture *fixture, struct peer *peer);

/* Publishes a copy of the peer's session, to be changed by the test before the next call. */
struct session *peer_republish(struct fixture *fixture, struct peer *peer);

/* The three steps of a rekey, as control takes them. The peer sends in the new phase from the
 * first. */
void peer_rekey(struct fixture *fixture, struct peer *peer);
void peer_rekey_sends(struct fixture *fixture, struct peer *peer);
void peer_rekey_ends(struct fixture *fixture, struct peer *peer);

/* Says send, to `to`. */
struct said say(const struct wire_id *to, uint32_t tag, uint16_t length);

/* Adds a record of `n` messages to the next burst; returns it. */
struct forward_input *peer_says(struct fixture *fixture, struct peer *peer, uint8_t lane,
				enum wire_class class, const struct said *messages, unsigned int n);

/* The same with any bytes in the record; `header` as sealed. */
struct forward_input *peer_seals(struct fixture *fixture, struct peer *peer,
				 const struct wire_record *header, const void *text,
				 uint16_t length);

/* Adds any datagram to the next burst. */
struct forward_input *fixture_datagram(struct fixture *fixture, const void *bytes, uint16_t length);

/* A record as it was sent, to be sent any number of times. */
struct kept {
	uint16_t length;
	struct endpoint source;
	uint8_t bytes[FIXTURE_RECORD_MAX];
};

/* Takes the last record out of the next burst again. */
void fixture_keep(struct fixture *fixture, struct kept *kept);

/* Adds a copy of it to the next burst. */
struct forward_input *fixture_again(struct fixture *fixture, const struct kept *kept);

/* Gives the collected records to a worker. */
void fixture_burst(struct fixture *fixture, unsigned int worker);

/* Gives a worker what others handed over to it, up to a burst of it; returns how many. */
unsigned int fixture_queue(struct fixture *fixture, unsigned int worker);

/* A turn of a worker without records; returns whether there was something to do. */
bool fixture_resume(struct fixture *fixture, unsigned int worker);

void fixture_commands(struct fixture *fixture, unsigned int worker,
		      const struct forward_command *commands, unsigned int n);

/* The payload that goes with a tag. */
uint8_t payload_byte(uint32_t tag, uint16_t i);
bool payload_right(uint32_t tag, const uint8_t *payload, uint16_t length);

#endif
