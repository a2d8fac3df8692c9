/*
 * Topics: what is published to one goes to each of its members, sealed with the member's own key.
 *
 * A publication is not always copied out at once: a topic may have many thousand members, and
 * whoever else uses the worker must not wait for them. It is kept, in the buffer that it came in,
 * and each turn of the worker serves a number of members, going on where the last turn stopped. So
 * turns stay short however large topics are, and what comes in faster than it can go out meets a
 * queue, whose end is a refusal that the publisher is told.
 *
 * Members are an immutable array in the order of their slots. Where a turn stopped is a slot and
 * not a position: so the array may be replaced meanwhile, and still nobody gets a message twice,
 * and whoever is a member all the time gets it once.
 *
 * Publications to a topic that wait together are packed: each member gets one record with all that
 * fits. Its text is put together once a turn, and sealed from there with each member's key, so that
 * it is not copied for members. Of several topics those with messages of a higher class go first;
 * equals take turns.
 */
#ifndef VIADUCT_TOPIC_H
#define VIADUCT_TOPIC_H

#include "group.h"
#include "session.h"
#include "wire.h"

enum {
	TOPIC_TURN = 64,       // members that a turn serves, each with a batch
	TOPIC_JOBS = 1024,     // publications that a worker keeps,
	TOPIC_JOBS_EACH = 512, // of those for one topic and class: as many as a burst may bring
	TOPIC_HELD = 512,      // and the buffers with them
	TOPIC_QUEUES = 32,     // topics, by class, that it serves at a time
	TOPIC_BATCH = 32,      // publications that are served together,
	// and what they have together at most: every member's record holds so much
	TOPIC_BATCH_SIZE = WIRE_MTU_MIN - WIRE_IP_OVERHEAD - WIRE_RECORD_OVERHEAD,
	TOPIC_HEADER = WIRE_MESSAGE_HEADER + WIRE_VIA_SIZE,
	TOPIC_TEXTS = 16384, // bytes of plaintext that a turn seals from
};

_Static_assert((int)TOPIC_TEXTS >= (int)WIRE_MTU_MAX, "the largest message must fit");

/* Immutable once published by the control thread. */
struct topic_members {
	struct rcu_head rcu; // control
	uint32_t count;
	uint32_t slots[]; // of the session table, ascending
};

/* What one worker has done for a topic. It writes, control reads (relaxed). */
struct topic_counts {
	uint64_t published; // publications taken
	uint64_t copies;    // made of them
	uint64_t refused;   // publications over a rate, or too many at once
} __attribute__((aligned(64)));

/* Control makes and publishes it. */
struct topic {
	struct group group;            // first
	struct topic_members *members; // control replaces it, workers read (RCU)
	uint32_t rate;                 // publications a second; 0: any (relaxed)
	uint32_t publisher_rate;       // of each peer, over all topics; 0: any (relaxed)
	uint64_t due_ns;               // workers (atomic), see topic_admit()
	struct rcu_head rcu;           // control
	struct topic_counts counts[WIRE_LANES_MAX]; // by worker
} __attribute__((aligned(64)));

/* A publication on its way to the members. Index 0 of these arrays stands for none. */
struct topic_job {
	uint8_t header[TOPIC_HEADER]; // as members get it
	const uint8_t *payload;
	uint32_t from; // slot of the publisher, which gets no copy
	uint16_t cluster;
	uint16_t length; // of the payload
	uint16_t held;   // what it is in
	uint16_t next;   // of its queue, or of the free ones
};

/* A buffer with publications in it. */
struct topic_held {
	void *buffer;
	uint16_t jobs; // that need it
	uint16_t next; // of the free ones
};

/* Publications to one topic in one class. */
struct topic_queue {
	struct wire_id id;
	uint32_t slot; // the topic's own
	uint32_t at;   // members from this slot on have yet to get the batch
	uint16_t first, last;
	uint16_t count;
	uint8_t batch; // so many of the first are under way
	uint8_t class;
};

/* A worker's share. Zero it first. */
struct topic_worker {
	uint16_t queue_count;
	uint16_t free_job, free_held, newest_held;
	uint16_t jobs_used, held_used; // ever; what lies behind has never been
	struct topic_queue queues[TOPIC_QUEUES];
	struct topic_job jobs[TOPIC_JOBS + 1];
	struct topic_held held[TOPIC_HELD + 1];
	unsigned int texts_used; // in this turn
	uint8_t texts[TOPIC_TEXTS];
};

struct forward;
struct forward_message;

/*
 * Worker: takes a message that was sent to the topic in this slot, and with it the buffer that it
 * came in; or drops it.
 */
void topic_publish(struct forward *forward, struct topic *topic, uint32_t slot,
		   struct forward_message *message, uint64_t now_ms);

/* Worker, if there are queues: packs the copies of one turn, which the caller flushes. */
void topic_turn(struct forward *forward, uint64_t now_ms);

/* Worker, at its end: gives the buffers back. */
void topic_fini(struct forward *forward);

/*
 * Whether one more may pass at a rate of `per_s` (0: any), with a second's worth at once. `due_ns`
 * is the theoretical arrival time of GCRA (ITU-T I.371), which all that pass move on: so threads
 * share a rate by one atomic word. Any thread.
 */
bool topic_admit(uint64_t *due_ns, uint32_t per_s, uint64_t now_ms);

#endif
