/*
 * Sessions as the workers see them.
 *
 * struct session is immutable once published: a change (new key, new address) publishes a successor
 * and frees the old one after a grace period. What changes with every record (counters, windows) is
 * in struct session_state, which lives as long as the session's index and is never copied, so that
 * republishing can't repeat a nonce. All of it and the keys are side by side in a region.
 */
#ifndef VIADUCT_SESSION_H
#define VIADUCT_SESSION_H

#include <urcu-qsbr.h>

#include "aead.h"
#include "rates.h"
#include "region.h"
#include "group.h"
#include "policy.h"
#include "window.h"
#include "wire.h"

enum {
	SESSION_HEADER_MAX = 72, // Ethernet, VLAN tag, IPv6, UDP
	SESSION_NO_OWNER = 0xff,
	SESSION_HANDED = 1 << 8, // one record in session_rx.owner
};

/* Where a record came from, for comparing. */
struct endpoint {
	uint8_t ip[16]; // IPv4 as ::ffff:a.b.c.d
	uint8_t port[2];
	uint8_t mac[6];
};

/* Ready-made Ethernet, IP and UDP header in front of a record; opaque to the router. */
struct session_header {
	uint16_t bundle_max; // bytes that several records in a datagram may take; 0: one in each
	uint8_t length;      // 0: no address known yet
	uint8_t bytes[SESSION_HEADER_MAX];
};

/* What a worker wants the control thread to look at. Bits of session_state.hints. */
enum session_hint {
	SESSION_HINT_PATH = 1,  // a new address proposed, or a first one
	SESSION_HINT_PHASE = 2, // a record of the new phase was opened
	SESSION_HINT_REKEY = 4, // half of a transmit key is used
	SESSION_HINT_MARKS = 8, // session_tx.marks have grown
};

/* What a peer does that it shouldn't, as a worker sees it; docs/trust.md says what follows. */
enum session_mark {
	SESSION_MARK_AUTH,      // a record from its address that didn't open
	SESSION_MARK_REPLAY,    // one from there that came before
	SESSION_MARK_MALFORMED, // an authentic record that is not well-formed
	SESSION_MARK_LIMIT,     // something over its limits
	SESSION_MARK_REFUSED,   // a message to who isn't here, or may not be sent to
	SESSION_MARK_COUNT,
};

/* A peer's lane into the relay. Only its owning worker touches it, except where said. */
struct session_rx {
	uint64_t failed;    // opens that failed since `failed_epoch` began
	uint64_t bucket_ms; // error messages: token bucket, when last filled
	uint32_t bucket;    // in thousandths of a message
	uint32_t failed_epoch;
	uint32_t seen_ms; // owner writes, control reads (relaxed): when last authentic
	// worker, or SESSION_NO_OWNER, and above these 8 bits how many records others are handing
	// over to it; atomic: whoever gets one counts it first, and a lane moves only at none
	uint32_t owner;
	struct rates_credit credit; // borrowed from the session's account
	uint32_t over_ms;           // when that last had no more; 0: never
	struct window window; // last, so that its first word shares the cache line of the above
} __attribute__((aligned(64)));

/* A relay's lane to the peer: lane number = worker number. Only that worker touches it. */
struct session_tx {
	uint64_t next;                 // of a record's wire_words: the lane and its next sequence
	uint64_t first;                // of a record's wire_words, but for its class, in `epoch`
	uint32_t used;                 // records sealed in it
	uint32_t epoch;                // one above its number; 0: none yet
	uint32_t newest[WIRE_CLASSES]; // record of each class being packed, see pack.h
	uint32_t marks[SESSION_MARK_COUNT]; // worker counts, control reads (relaxed)
	uint16_t events;   // that the peer has caused, and that may wait for the control thread;
	uint16_t event_at; // the number of the last one, see walk.c
} __attribute__((aligned(64)));

/*
 * In memory between `lanes_down` session_tx, the first one nearest, and `lanes_up` session_rx: so
 * that a lane is found without knowing how many there are.
 */
struct session_state {
	uint32_t hints; // worker sets, control clears (atomic)
	uint8_t lanes_up;
	uint8_t lanes_down;
	struct rates_account account; // what its lanes have borrowed
	uint32_t requests;      // to services, under way; any worker and control count (atomic)
	uint32_t round_trip_us; // to the peer, averaged; any worker writes (relaxed); 0: unknown
	uint64_t published_ns;  // workers (atomic): its publications, see topic_admit()
} __attribute__((aligned(64)));

struct session {
	// read for every record
	uint32_t index;
	uint32_t tx_epoch;
	uint32_t rx_epoch;   // of the newest receive key; one above tx_epoch during a rekey
	uint32_t tx_budget;  // records a lane may seal under one key
	uint16_t record_max; // bytes of a record, either way
	uint8_t lanes_up;
	uint8_t lanes_down;
	uint16_t cluster;             // its number, for the policy
	uint8_t level;                // of trust: 0 good … 3 nearly cut, see docs/trust.md
	uint8_t region;               // its number, for services; 0: not known
	const struct aead_key *rx[2]; // by key phase, the lowest bit of the epoch; NULL: none
	const struct aead_key *tx;
	struct session_state *state;
	// when sending to it: its length in the same cache line, the bytes mostly in the next one
	struct session_header header;
	// for records from it: the one after that
	struct endpoint endpoint __attribute__((aligned(64)));
	struct wire_id id;
	struct wire_id relay; // as the peer knows it
} __attribute__((aligned(64)));

/*
 * A next hop: what routes point at. It belongs to one identity at a time and holds up to three
 * generations of its session, or it is a service's or topic's and holds that. Control writes,
 * workers read.
 */
struct session_slot {
	struct session *current; // where the peer's messages go
	struct wire_id id;
	struct session *next; // joined, its first record not yet opened
	bool revoked;         // who was here last was thrown out (relaxed)
	struct session *last; // ended; only what the relay itself still has to say goes there
	struct group *group;  // NULL: not a service's or topic's
} __attribute__((aligned(64)));

struct session_table {
	int node;              // NUMA node, for what belongs to the table
	uint32_t slots;        // of sessions
	uint32_t groups;       // slots behind those, of services and topics
	struct policy *policy; // published by control; NULL: all may talk to all
	struct rates *rates;   // published by control; NULL: none
	// bad records within SUSPECTS_MS that make a source one to report (relaxed); 0: none
	uint32_t suspect_limit;
	struct session_slot slot[];
};

/*
 * Control thread. A table of `slots` empty slots for sessions and `groups` for services and topics,
 * up to WIRE_SLOTS in all, in memory of a NUMA node (node.h); NULL: no memory.
 */
struct session_table *session_table_new(int node, uint32_t slots, uint32_t groups);
void session_table_free(struct session_table *table);

/*
 * Control thread. A pool of regions of a NUMA node, one a session, with places for the state of one
 * with `up` and `down` lanes, for its publications, of so many bytes each, and for its keys: what
 * is in use until a rekey first, and what takes its place then behind that. NULL: no memory.
 */
struct region_pool *session_pool_new(int node, uint8_t up, uint8_t down, size_t publication,
				     size_t key);

/* Control thread. Fresh state, from a region; NULL: no memory. Given back after a grace period. */
struct session_state *session_state_new(struct region *region, uint8_t up, uint8_t down);
void session_state_give(struct region *region, struct session_state *state);

/* The lanes of a session; nothing of the state is read. */
static inline struct session_tx *session_tx_lane(const struct session *session, unsigned int lane)
{
	return (struct session_tx *)session->state - 1 - lane;
}

static inline struct session_rx *session_rx_lane(const struct session *session, unsigned int lane)
{
	return (struct session_rx *)(session->state + 1) + lane;
}

/* Worker: asks the control thread to look at something, or no longer; and whether it is asked. */
static inline void session_set_hint(const struct session *session, enum session_hint hint)
{
	__atomic_fetch_or(&session->state->hints, hint, __ATOMIC_RELEASE);
}

static inline void session_clear_hint(const struct session *session, enum session_hint hint)
{
	__atomic_fetch_and(&session->state->hints, ~(uint32_t)hint, __ATOMIC_RELEASE);
}

static inline bool session_has_hint(const struct session *session, enum session_hint hint)
{
	return __atomic_load_n(&session->state->hints, __ATOMIC_RELAXED) & hint;
}

/* Worker: counts what this session's peer did. */
static inline void session_mark(const struct session *session, unsigned int worker,
				enum session_mark mark)
{
	uint32_t *count = &session_tx_lane(session, worker)->marks[mark];

	__atomic_store_n(count, *count + 1, __ATOMIC_RELAXED);
	if (!session_has_hint(session, SESSION_HINT_MARKS))
		session_set_hint(session, SESSION_HINT_MARKS);
}

/*
 * Worker, in a read-side section: the session that may send under `index`. NULL: none, and `stale`
 * says whether somebody else's index uses its slot.
 */
const struct session *session_find_other(const struct session_table *table, uint32_t index,
					 bool *stale);

static inline const struct session *session_find(const struct session_table *table, uint32_t index,
						 bool *stale)
{
	if (wire_slot(index) < table->slots) {
		const struct session *session =
			rcu_dereference(table->slot[wire_slot(index)].current);

		if (session && session->index == index)
			return session;
	}
	return session_find_other(table, index, stale);
}

/* Worker: whether there was a session in this slot that was revoked. */
static inline bool session_is_revoked(const struct session_table *table, uint32_t index)
{
	return wire_slot(index) < table->slots &&
	       __atomic_load_n(&table->slot[wire_slot(index)].revoked, __ATOMIC_RELAXED);
}

/* The same with sessions that have ended: for what the relay itself sends. */
static inline const struct session *session_find_any(const struct session_table *table,
						     uint32_t index)
{
	bool stale;
	const struct session *session = session_find(table, index, &stale);

	if (!session && wire_slot(index) < table->slots) {
		session = rcu_dereference(table->slot[wire_slot(index)].last);
		if (session && session->index != index)
			session = NULL;
	}
	return session;
}

_Static_assert(offsetof(struct session, header.length) < 64 &&
		       offsetof(struct session, header) + sizeof(struct session_header) <= 192,
	       "whether there is a header is known from the first cache line");
_Static_assert(offsetof(struct session, endpoint) / 64 ==
		       (offsetof(struct session, id) + WIRE_ID_SIZE - 1) / 64,
	       "what opened records from a peer need is fetched as one cache line");

/*
 * Fetches what deciding about a record or message needs of a session. The rest follows when it is
 * known to be needed, as a processor drops what it can't have under way.
 */
static inline void session_prefetch(const struct session *session)
{
	__builtin_prefetch(session);
}

/* Fetches what an opened record from the session's peer needs. */
static inline void session_prefetch_source(const struct session *session)
{
	__builtin_prefetch(&session->endpoint);
}

/* Fetches what sending in front of a record takes. */
static inline void session_prefetch_header(const struct session_header *header)
{
	__builtin_prefetch(&header->bytes[SESSION_HEADER_MAX / 2]);
}

static inline uint64_t endpoint_word(const struct endpoint *endpoint, unsigned int i)
{
	uint64_t word;

	memcpy(&word, endpoint->ip + i * sizeof(word), sizeof(word));
	return word;
}

static inline bool endpoint_equal(const struct endpoint *a, const struct endpoint *b)
{
	// without a branch for each of its words: nearly always they are the same
	_Static_assert(sizeof(*a) == 24, "three words");
	return ((endpoint_word(a, 0) ^ endpoint_word(b, 0)) |
		(endpoint_word(a, 1) ^ endpoint_word(b, 1)) |
		(endpoint_word(a, 2) ^ endpoint_word(b, 2))) == 0;
}

/* The same IP address and port; the MAC may differ. */
static inline bool endpoint_same_address(const struct endpoint *a, const struct endpoint *b)
{
	return memcmp(a, b, offsetof(struct endpoint, mac)) == 0;
}

#endif
