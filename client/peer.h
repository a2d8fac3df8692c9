/*
 * A peer: one identity that wants to be, and stay, joined to a relay.
 */
#ifndef CLIENT_PEER_H
#define CLIENT_PEER_H

#include "answer.h"
#include "call.h"
#include "credentials.h"
#include "dial.h"
#include "keys.h"
#include "link.h"
#include "session.h"
#include "topic.h"

enum peer_state {
	PEER_JOINING,  // or waiting to try again
	PEER_REACHING, // welcome, but nothing sealed has come yet
	PEER_JOINED,
	PEER_LEAVING,
	PEER_ENDED,  // until the user closes it
	PEER_CLOSED, // until nobody looks at it any more
};

struct viaduct_peer {
	struct viaduct *v;
	LIST_ENTRY(viaduct_peer) link_peers; // in v->peers, or in v->closed
	const struct viaduct_callbacks *callbacks;
	void *user;

	struct relay *relay;                 // the context's; one of
	struct relay *home;                  // the one that was asked for, and
	struct relay *others[ANSWER_RELAYS]; // those that one which stopped has named
	unsigned int other_count, other;     // which of these; the count: home
	char *ca, *certificate, *key, *federation, *ciphers;
	unsigned int lanes, mtu;
	bool checksum, reconnect;
	struct wire_id id;
	char *name;

	enum peer_state state;
	struct timer retry;    // joining: when to dial again
	unsigned int attempts; // that failed in a row

	enum dial dial;
	TAILQ_ENTRY(viaduct_peer) link_dials;
	struct dial_line *line; // that it waits in
	unsigned int address;   // of relay->addresses, the one being tried
	struct link *link;
	SSL_CTX *ctx;        // what the ticket was verified against
	SSL_SESSION *ticket; // the latest

	struct session *session; // NULL unless reaching, joined or leaving
	struct calls calls;
	struct topics topics;
	bool starved; // somebody was told -EAGAIN

	struct viaduct_stats stats;
	uint64_t lost; // in sessions before this one
};

/* Calls `peer->callbacks->NAME(peer, …)` if the user wants to hear. */
#define peer_tell(peer, name, ...)                                                                 \
	do {                                                                                       \
		if ((peer)->callbacks->name)                                                       \
			(peer)->callbacks->name(peer, ##__VA_ARGS__);                              \
	} while (0)

/* For dial.c: the relay has answered hello. */
void peer_answered(struct viaduct_peer *peer, SSL *ssl, const char *line, size_t length);

/* For dial.c: it hasn't. */
void peer_unanswered(struct viaduct_peer *peer, int error, const char *text);

/*
 * For link.c: what is in the certificate files now, as credentials_get() says. Without a session
 * the peer becomes who they say. Returns 0 or a negative errno, VIADUCT_E_IDENTITY if the session
 * is another identity's, and says why in `text`.
 */
int peer_credentials(struct viaduct_peer *peer, const struct credentials **credentials, char *text,
		     size_t size);

/* For session.c: the session is over, or never came to work. */
void peer_lost(struct viaduct_peer *peer, int error, const char *text);

/* For session.c: the relay stops, and names others to go to when the session is over. */
void peer_elsewhere(struct viaduct_peer *peer, const struct event *event);

/* For session.c: something sealed has come. */
void peer_reached(struct viaduct_peer *peer);

/* Whether such a message can be sent at all: 0, -ENOTCONN, -EINVAL or -EMSGSIZE. */
int peer_sendable(const struct viaduct_peer *peer, unsigned int lane, enum viaduct_class class,
		  size_t length);

/* Queues a message that is sendable. Returns 0 or what flow_message() says. */
int peer_put(struct viaduct_peer *peer, unsigned int lane, enum viaduct_class class, uint8_t kind,
	     const struct viaduct_id *to, uint32_t tag, const void *data, size_t length);

/* What stands before a payload, and the flags that say so. */
struct peer_flagged {
	uint8_t flags;
	const void *bytes;
	size_t size;
};

/* As peer_put(), with flags. */
int peer_put_flagged(struct viaduct_peer *peer, unsigned int lane, enum viaduct_class class,
		     uint8_t kind, const struct viaduct_id *to, uint32_t tag,
		     const struct peer_flagged *flagged, const void *data, size_t length);

/* Frees a closed peer. */
void peer_free(struct viaduct_peer *peer);

#endif
