/*
 * Addresses of relays. A numeric "host:port" is known at once; names are looked up by a thread, one
 * for all peers that ask for the same relay, because getaddrinfo() blocks.
 */
#ifndef CLIENT_LOOKUP_H
#define CLIENT_LOOKUP_H

#include "context.h"

enum { LOOKUP_ADDRESSES = 8 };

/* One "host:port", shared by all peers of a context that name it. */
struct relay {
	struct relay *next;
	char *text;
	char *host, *port; // into one copy of the text
	struct sockaddr_storage addresses[LOOKUP_ADDRESSES];
	unsigned int count;
	bool numeric;
	uint64_t fresh_until; // ns; names change
	struct viaduct *v;
	struct watch watch; // where the thread says that it is done; fd -1 if none is at work
};

/*
 * Finds or makes the relay for "host:port" or "[v6]:port". It belongs to the context. Returns 0,
 * -EINVAL or -ENOMEM.
 */
int lookup_relay(struct relay **relay, struct viaduct *v, const char *text);
void lookup_free_all(struct viaduct *v);

/*
 * Makes sure that the relay's addresses are fresh. Returns 0 if they are (perhaps none are), or
 * -EINPROGRESS: then dial_looked_up() will be called.
 */
int lookup_start(struct relay *relay);

#endif
