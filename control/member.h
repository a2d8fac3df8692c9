/*
 * Members and their sessions: joining, addresses, rekeying, returning, leaving. What the workers
 * see of it is published here and only here. For the control thread, online as an RCU reader; times
 * are milliseconds of the workers' clock.
 */
#ifndef VIADUCT_MEMBER_H
#define VIADUCT_MEMBER_H

#include "clusters.h"
#include "forward.h"
#include "groups.h"
#include "roster.h"
#include "route.h"
#include "topics.h"
#include "watch.h"

enum {
	MEMBER_FIRST_RECORD_MS = 10000, // a session that is not used until then is forgotten
	MEMBER_OVERLAP_MS = 5000,       // how long the old key still opens after a rekey
	MEMBER_LAST_MS = 1000,          // how long an ended session can still be told so
	MEMBER_CHALLENGE_MS = 10000,    // how long a challenge may be answered
	MEMBER_CHALLENGE_PAUSE_MS = 1000,
	MEMBER_TOKEN_TEXT = 32, // hex digits
	MEMBER_SECRET = 36,     // bytes
	MEMBER_RELAYS_TEXT = CONFIG_RELAYS_MAX * (CONFIG_RELAY_TEXT + 3) + 3,
};

/* The stages of a rekey. */
enum member_rekeying {
	MEMBER_SETTLED,
	MEMBER_REKEYING, // the next epoch's key opens, the peer has yet to use it
	MEMBER_OVERLAP,  // both sides use it; the one before still opens
};

/* When something is due; in a list of equal delays, so that the first is due first. */
struct member_deadline {
	struct cds_list_head node;
	uint64_t at_ms;
};

struct publication;

/* One generation of a member's session, as the control thread knows it. */
struct member_session {
	struct member *member;
	uint32_t index;
	uint32_t epoch; // that the relay sends in
	enum wire_aead aead;
	uint32_t expiry_ms; // that it was told
	uint16_t mtu;
	bool checksum; // it wants one for UDP
	bool bundles;  // it takes several records in a datagram
	uint8_t lanes_up;
	uint8_t lanes_down;
	enum member_rekeying rekeying;
	struct region *region; // of what workers see of it
	struct session_state *state;
	struct aead_key *rx[2]; // by key phase
	struct aead_key *tx;
	struct aead_key *tx_next; // while rekeying
	uint8_t secret[WIRE_REKEY_SECRET_SIZE];
	uint8_t secret_next[WIRE_REKEY_SECRET_SIZE];
	struct wire_id relay; // that the join's TLS connection came to
	struct endpoint tls;  // where the join came from
	struct endpoint endpoint;
	struct session_header header; // length 0: no address known yet
	struct publication *published;
	struct member_deadline deadline;
	uint32_t marks[SESSION_MARK_COUNT]; // see member_marks()
	uint32_t malformed;                 // control requests, since then
	uint32_t excess;                    // and those that were too many
	uint64_t asked_ms;                  // when it has all of its allowance of them again
	uint64_t joined_ms;
	uint64_t challenged_ms; // 0: never
	struct endpoint challenged;
	char token[MEMBER_TOKEN_TEXT + 1];
	struct watch *watch; // NULL: it watches nobody
};

/* Something that those who watch want to know. */
struct member_news {
	// joined, left, expired, moved, replaced, revoked, throttled, recovered, cut, pardoned
	const char *event;
	struct member_session *session; // NULL: there is none; then
	const struct wire_id *id;       // tells who,
	const char *name;               // if that is known
	unsigned int level;             // with throttled and recovered
};

struct member_config {
	unsigned int max;
	unsigned int groups_max;
	unsigned int lanes_up;
	unsigned int lanes_down;
	unsigned int mtu;
	unsigned int expiry_ms;
	unsigned int takeovers_per_minute;
	unsigned int watchers;
	uint32_t key_records;
	int node; // NUMA node for keys, -1: any
	const struct aead_ops *aead;
	const struct clusters *clusters; // NULL: none has a number

	/* Queues a message to a session. Copies it. */
	void (*send)(void *arg, const struct forward_command *command);

	/* Whether so much is queued that what can wait should; NULL: it never is. */
	bool (*behind)(void *arg);
	void *arg;

	/* Is told what happens; NULL: nobody wants to know. */
	void (*tell)(void *arg, const struct member_news *news);
	void *tell_arg;
};

struct services;

struct members {
	struct member_config config;
	struct roster roster;
	struct region_pool *regions;    // of sessions: what workers see of them
	struct session_table *sessions; // for the workers, like
	struct route_table routes;
	struct groups groups;
	struct topics topics;
	struct services *services;        // NULL: there are none
	struct cds_list_head pending;     // sessions without a first record
	struct cds_list_head overlapping; // with an old key
	struct cds_list_head ending;      // that are the last one of their slot
	unsigned int joined;              // members with a current session
	unsigned int joining;             // with a next one
	unsigned int present;             // with either
	uint64_t rekeyed;                 // since start
	struct watches watches;
	char relays[MEMBER_RELAYS_TEXT];       // others: a JSON array of host:port
	char closing[64 + MEMBER_RELAYS_TEXT]; // event; "" unless the relay stops
};

/* What a peer that TLS has authenticated asks for. */
struct member_ask {
	const struct identity *identity;
	const struct endpoint *remote; // of its TLS connection
	const struct wire_id *relay;   // as whom the relay speaks there
	enum wire_aead aead;
	uint8_t lanes;
	uint16_t mtu;
	bool checksum;
	bool bundles;
	/* to rekey */
	uint32_t index;
	uint32_t epoch;
	const uint8_t *mac;     // 32 bytes
	const uint8_t *binding; // 32 bytes

	/* The TLS exporter: `size` bytes to `out`. Returns 0 or a negative errno. */
	int (*export)(void *arg, const char *label, const uint8_t context[WIRE_CONTEXT_SIZE],
		      uint8_t *out, size_t size);
	void *arg;
};

/* What it gets. */
struct member_grant {
	uint32_t index;
	uint32_t epoch;
	enum wire_aead aead;
	uint16_t mtu;
	uint8_t lanes_up;
	uint8_t lanes_down;
	unsigned int retry_s; // with -EBUSY
	uint8_t mac[32];      // of a rekey's welcome
};

/* `secret`: random bytes. Returns 0 or -ENOMEM. */
int members_init(struct members *members, const struct member_config *config,
		 const uint8_t secret[MEMBER_SECRET]);

/* When the workers are gone: ends all sessions and frees all. */
void members_fini(struct members *members);

/*
 * A new session for this identity. It replaces an earlier one with its first record. Returns 0,
 * -EBUSY (too many takeovers, see retry_s), -ENOSPC (no free session), -ENOMEM, or what the
 * exporter returned.
 */
int member_join(struct members *members, const struct member_ask *ask, uint64_t now_ms,
		struct member_grant *grant);

/*
 * The next epoch's keys for a living session. Returns 0, -EPERM (no such session of this identity,
 * wrong epoch or MAC, or the last rekey is not over), -ENOMEM, or what the exporter returned.
 */
int member_rekey(struct members *members, const struct member_ask *ask, uint64_t now_ms,
		 struct member_grant *grant);

/* A worker's event about a session, but for control messages. */
void member_event(struct members *members, const struct forward_event *event, uint64_t now_ms);

/* The current or next session of this index, NULL: none. */
struct member_session *member_session_find(const struct members *members, uint32_t index);

/*
 * The echo of a challenge, from where `event` came. Returns whether it is a right one; then the
 * session moves there.
 */
bool member_echo(struct members *members, struct member_session *session, const char *token,
		 const struct forward_event *event, uint64_t now_ms);

/* Ends a current session at once; what is queued for it is still sent. */
void member_leave(struct members *members, struct member_session *session, uint64_t now_ms);

/*
 * Throws a member out at once, and its records are dropped as revoked until its slot is somebody's
 * again. Refusing new handshakes is up to the caller. Returns whether there was a session.
 */
bool member_revoke(struct members *members, struct member *member, uint64_t now_ms);

/*
 * Ends a member's sessions at once, and tells it that it may come again in `retry_s`. Refusing new
 * handshakes is up to the caller.
 */
void member_cut(struct members *members, struct member *member, unsigned int retry_s,
		uint64_t now_ms);

/* Tells the workers of a member's level of trust; out of memory it stays: try again. */
void member_set_level(struct members *members, struct member *member, uint8_t level);

/* Tells the workers of clusters that have got a number, and of regions. Returns 0 or -ENOMEM. */
int members_number(struct members *members);

/* Does what is due. Call it every 10 ms or so. */
void members_tick(struct members *members, uint64_t now_ms);

/* Ends silent sessions and picks up lost hints. Call it every second or so. */
void members_sweep(struct members *members, uint64_t now_ms);

/* Other relays, that peers are told of. */
void members_set_relays(struct members *members, const struct config_control *config);

/*
 * Tells all members that the relay stops, now and whoever comes to be one: they are to go within
 * these seconds.
 */
void members_say_closing(struct members *members, unsigned int within_s);

/* How often workers have marked the session since the last call. Returns whether they have. */
bool member_marks(struct member_session *session, uint32_t marks[SESSION_MARK_COUNT]);

/* Whether the policy lets the one's peer send to the other's: who may not, isn't told of it. */
bool member_may_send(const struct members *members, const struct member_session *from,
		     const struct member_session *to);

/* Since when nothing authentic has come, in ms. */
uint32_t member_idle_ms(const struct member_session *session, uint64_t now_ms);

/* Queues a control message of `length` bytes to a session. */
void member_send(struct members *members, const struct member_session *session, uint32_t tag,
		 const void *payload, size_t length);

#endif
