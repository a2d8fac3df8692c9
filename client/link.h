/*
 * One TLS connection to a relay: connect, handshake, hello, answer, orderly close. It knows nothing
 * of what is said; dial.h hears of its end.
 */
#ifndef CLIENT_LINK_H
#define CLIENT_LINK_H

#include "context.h"
#include "trust.h"

enum link_state {
	LINK_CONNECT,
	LINK_HANDSHAKE,
	LINK_HELLO,
	LINK_ANSWER,
	LINK_DRAIN, // the answer is there; until close_notify
};

struct link {
	struct viaduct_peer *peer;
	struct watch watch;
	struct timer deadline;
	SSL *ssl;
	enum link_state state;
	struct trust_check check;
	size_t length, done; // of hello, then of the answer
	char line[WIRE_LINE_MAX];
};

/*
 * Starts a connection for peer->link. Calls back dial_hello(), dial_answered(), dial_drained() and
 * dial_failed(). Returns 0, or a negative errno and says why in `text`; then none is called.
 */
int link_open(struct viaduct_peer *peer, const struct sockaddr_storage *address, char *text,
	      size_t size);

/* Closes, tells the relay if it still listens, and frees. NULL is fine. */
void link_free(struct link *link);

#endif
