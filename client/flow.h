/*
 * UDP. A flow is a socket to a relay's data address. Lanes of the same number share one, so that a
 * context with many peers has few, and what they have to send leaves in one system call: as many
 * records in a datagram as fit, if the relay takes such bundles, and equal datagrams behind each
 * other as a train, which the kernel (UDP_SEGMENT) takes through its stack in one go. Trains
 * (UDP_GRO) and bundles that come in are taken apart here.
 */
#ifndef CLIENT_FLOW_H
#define CLIENT_FLOW_H

#include "context.h"
#include "wire.h"

enum { FLOW_LANES = 64 }; // that share a flow at most

struct lane;
struct session;

/* A data address in use, and the sessions behind it by their index. */
struct remote {
	LIST_ENTRY(remote) link; // in v->remotes
	struct viaduct *v;
	struct sockaddr_storage address;
	LIST_HEAD(, flow) flows;
	struct session **buckets; // chains, by the index's lowest bits
	unsigned int bucket_count, session_count;
};

/* That a lane sends over a flow, or did so a moment ago. */
struct flow_use {
	LIST_ENTRY(flow_use) link;
	struct session *session;
	struct flow *flow; // NULL: unused
};

struct flow {
	struct watch watch;
	struct remote *remote;
	LIST_ENTRY(flow) link;
	LIST_HEAD(, flow_use) uses;
	unsigned int use_count;
	unsigned int number; // of the lanes that may share it
	bool shared;
	bool trains;  // may be sent
	bool bundles; // likewise, if the sessions' relay takes them
	bool blocked; // the kernel takes no more for now
	bool dirty;   // in v->flows
	STAILQ_ENTRY(flow) dirty_link;
	struct record_queue sealed;
};

/* Makes the session known at its data address. Returns 0 or -ENOMEM. */
int remote_enter(struct session *session);

/* Undoes it; fine if it was never done. Nothing is received for the session any more. */
void remote_leave(struct session *session);

/*
 * Gives `use` a flow for lanes of this number; one that no other has if not `shared`. Returns 0 or
 * a negative errno.
 */
int flow_open(struct flow_use *use, struct session *session, unsigned int number, bool shared);

/* Ends a use; the last one closes the flow. Fine if it is unused. */
void flow_close(struct flow_use *use);

/* Puts a sealed record in line; flow_send() sends it. */
void flow_queue(struct flow *flow, struct record *record);

/* Sends what is in line, also after the kernel took no more. Returns whether it took it all. */
bool flow_send(struct flow *flow);

/* Sends what is in line at all of a context's flows. */
void flow_send_all(struct viaduct *v);

/* Takes a lane's records out of line and frees them. */
void flow_drop(struct flow *flow, const struct lane *lane);

/*
 * Lets a lane send over the flow of the other use, with what it has in line; `other` becomes a use
 * of the flow that it leaves.
 */
void flow_exchange(struct lane *lane, struct flow_use *other);

#endif
