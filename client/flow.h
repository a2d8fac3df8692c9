/*
 * UDP: a flow is a socket, a lane sends on one. Messages are packed into a lane's open records, one
 * for each class; full or flushed ones are sealed and wait, briefly, for sendmmsg().
 */
#ifndef CLIENT_FLOW_H
#define CLIENT_FLOW_H

#include "context.h"
#include "wire.h"

struct session;

struct flow {
	struct watch watch;
	struct session *session;
	LIST_ENTRY(flow) link;
	bool retired; // lane 0 has left it; still listened on
};

/* A lane of ours. Sequences have one writer: lane_seal(). */
struct lane {
	struct flow *flow;
	uint64_t sequence; // of the next record; never restarts
	uint32_t used;     // records sealed under the current key
	struct record *open[WIRE_CLASSES];
	unsigned int open_count;
	struct record_queue sealed;
	unsigned int waiting; // sealed ones
	bool blocked;         // the kernel takes no more for now
};

/* Opens a socket to the session's data address. Returns 0 or a negative errno. */
int flow_open(struct flow **flow, struct session *session);
void flow_close(struct flow *flow);

/*
 * Makes room for a message of `length` bytes in an open record and writes its header. Returns where
 * the payload goes, or NULL and why in `error`: -EAGAIN, VIADUCT_E_KEY_EXHAUSTED, -ENOMEM.
 */
uint8_t *flow_message(struct session *session, unsigned int lane, enum wire_class class,
		      uint8_t kind, const struct wire_id *to, uint32_t tag, size_t length,
		      int *error);

/* Seals and sends what is queued. */
void flow_flush(struct session *session);

/* Frees what the lanes hold. */
void flow_drop(struct session *session);

#endif
