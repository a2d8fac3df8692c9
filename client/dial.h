/*
 * From "this peer wants to talk to its relay" to the relay's answer: the look-up, the line of those
 * who wait for their turn, one address after the other.
 */
#ifndef CLIENT_DIAL_H
#define CLIENT_DIAL_H

#include <openssl/ssl.h>

#include "lookup.h"

enum dial {
	DIAL_IDLE,
	DIAL_LOOKUP,
	DIAL_QUEUE,
	DIAL_LINK,
	DIAL_DRAIN, // answered, the connection is being closed
};

/*
 * Starts for a join or, if the peer has a session, a rekey of it. Ends in peer_answered() or
 * peer_unanswered(), unless dial_stop() comes first. Inside viaduct_process() only.
 */
void dial_start(struct viaduct_peer *peer);
void dial_stop(struct viaduct_peer *peer);

/* For lookup.c: the relay's addresses are there. */
void dial_looked_up(struct relay *relay);

/* For the context's timer: shake hands with as many as may. */
void dial_turn(struct timer *timer);

/* For link.c: write the hello line, LF included, and return its length or a negative errno. */
int dial_hello(struct viaduct_peer *peer, SSL *ssl, char *line);

/* For link.c: this is the answer, without LF. The link may be gone when it returns. */
void dial_answered(struct viaduct_peer *peer, SSL *ssl, const char *line, size_t length);

/* For link.c: the connection was closed in order, or wasn't; either way it is over. */
void dial_drained(struct viaduct_peer *peer);

/* For link.c: no answer. `text` is one sentence for people. */
void dial_failed(struct viaduct_peer *peer, int error, const char *text);

#endif
