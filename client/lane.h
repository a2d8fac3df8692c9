/*
 * Lanes of ours. Messages are packed into a lane's open records, one for each class; full or
 * flushed ones are sealed, and leave by the lane's flow.
 */
#ifndef CLIENT_LANE_H
#define CLIENT_LANE_H

#include "flow.h"

/* Sequences have one writer: lane_seal(). */
struct lane {
	struct flow_use use;
	uint64_t sequence; // of the next record; never restarts
	uint32_t used;     // records sealed under the current key
	struct record *open[WIRE_CLASSES];
	unsigned int open_count;
	unsigned int waiting; // sealed records in the flow's line
};

/*
 * Makes room for a message of `length` bytes in an open record and writes its header. Returns where
 * the payload goes, or NULL and why in `error`: -EAGAIN, VIADUCT_E_KEY_EXHAUSTED, -ENOMEM.
 */
uint8_t *lane_message(struct session *session, unsigned int lane, enum wire_class class,
		      uint8_t kind, const struct wire_id *to, uint32_t tag, size_t length,
		      int *error);

/* Seals what is open on all lanes and puts it in line. */
void lane_seal_all(struct session *session);

/* The same, and sends it at once. */
void lane_flush(struct session *session);

/* Frees what a lane holds, and ends the use of its flow. */
void lane_fini(struct session *session, struct lane *lane);

#endif
