/*
 * A session: what lives between a welcome and the loss of it. Keys, lanes, windows, sockets, and
 * the clockwork that keeps it alive (docs/protocol.md sections 6 and 7).
 */
#ifndef CLIENT_SESSION_H
#define CLIENT_SESSION_H

#include "answer.h"
#include "context.h"
#include "lane.h"
#include "receive.h"

/* Why the session pings more often than keepalive demands. */
enum session_await {
	AWAIT_FIRST = 1, // nothing sealed has come yet
	AWAIT_PHASE = 2, // the relay hasn't sent in the new phase yet
	AWAIT_PATH = 4,  // the relay hasn't moved to the new address yet
};

enum { SESSION_RETIRED_MAX = 4 };

struct session {
	struct viaduct_peer *peer;
	LIST_ENTRY(session) link_ended;
	STAILQ_ENTRY(session) dirty_link;
	bool dirty; // something is queued
	bool dead;  // freed when nobody looks at it any more

	struct welcome welcome;
	char data[ANSWER_ADDRESS_TEXT], path[ANSWER_ADDRESS_TEXT];

	struct receiver receiver; // with the keys, which serve both directions
	struct timer forget;      // the old keys

	unsigned int awaiting; // enum session_await
	uint64_t sent;         // on lane 0, ns
	uint64_t heard;        // anything authentic, ns
	uint64_t ping_delay;
	struct timer ping, expiry;

	struct timer leave; // the relay stops

	struct timer rekey;
	bool rekey_wanted;           // as soon as the last one is over
	unsigned int rekey_attempts; // that failed in a row

	uint64_t watch_last; // event of others, if `watch_known`
	bool watch_known;

	struct remote *remote;                        // NULL: not entered there
	struct session *remote_next;                  // in its bucket
	struct flow_use retired[SESSION_RETIRED_MAX]; // flows that lane 0 has left
	unsigned int retired_count;
	struct timer retire; // ends their use

	struct lane up[];
};

/*
 * Starts the session of peer->session from a welcome; takes the keys in any case. Returns 0 or a
 * negative errno.
 */
int session_open(struct viaduct_peer *peer, const struct welcome *welcome, struct keys *keys);

/* Ends it at once: nothing is sent or received any more, peer->session is NULL. */
void session_end(struct session *session);

/* Frees an ended session. */
void session_free(struct session *session);

/* The next epoch is there; takes the keys. */
void session_rekeyed(struct session *session, struct keys *keys);

/* It isn't; tries again, not before `retry_after` ns. */
void session_rekey_failed(struct session *session, int error, const char *text,
			  uint64_t retry_after);

/* Rekeys as soon as it may. */
void session_rekey_soon(struct session *session);

/* A datagram of `size` bytes has come over `flow`. May end the session. */
void session_receive(struct session *session, struct flow *flow, uint8_t *data, size_t size);

#endif
