/*
 * Records being packed, until the end of the burst or until there are no more buffers: a message
 * goes into the newest record for its receiver and class as long as that has room. The worker's.
 *
 * Which one is the newest is noted in the session's lane, by its number and the turn it is of, as
 * packing fetches the lane anyhow. Turns are counted in 24 bits; who finds a number there makes
 * sure that it is right.
 */
#ifndef VIADUCT_PACK_H
#define VIADUCT_PACK_H

#include "forward.h"

enum {
	PACK_TURN = 0x100, // more than there are numbers
	PACK_FETCH = 192,
};

/* Seals and sends what is being packed. */
void pack_flush(struct forward *forward, uint64_t now_ms);

/* Fills the reserve of buffers. */
void pack_refill(struct forward *forward);

/*
 * Whether a lane that has used half of its session's key, or was with another key, may seal one
 * more record: what it begins with, as session_tx.first, or 0. Asks the control thread for a new
 * key in time.
 */
uint64_t pack_renew(struct forward *forward, const struct session *to, struct session_tx *lane);

/*
 * A new record for `to` out of the reserve. FORWARD_NO_RECORD with `reason` set: there is none to
 * be had.
 */
unsigned int pack_spare(struct forward *forward, const struct session *to, struct session_tx *lane,
			uint8_t class, uint64_t now_ms, enum drop_message *reason);

/*
 * A new record for `to` in the buffer that `input` came in, of which nothing else is needed, with
 * `messages` of `size` bytes in all, which stay where they are from `message` on. The buffer is
 * taken over, if there is a record.
 */
unsigned int pack_in_place(struct forward *forward, const struct session *to,
			   struct session_tx *lane, uint8_t class, uint8_t *message, uint16_t size,
			   uint16_t messages, struct forward_input *input);

/*
 * Room for `messages` messages of `size` bytes in all in one record for `to`, which is known to
 * carry that much: the caller writes them there before it does anything else. NULL with `reason`
 * set: there is none to be had.
 */
uint8_t *pack_room(struct forward *forward, const struct session *to, uint8_t class, uint16_t size,
		   unsigned int messages, uint64_t now_ms, enum drop_message *reason);

/* Messages for many, in one piece. */
struct pack_text {
	const uint8_t *bytes; // stay as they are until the turn ends: they are sealed from there
	uint16_t size;
	uint16_t messages;
	uint8_t class;
};

/*
 * Puts them into a record for each of `n` sessions, which are known to carry so much, and counts
 * the copies. Returns how many sessions were served until there were no more buffers.
 */
unsigned int pack_copies(struct forward *forward, const struct session *const *to, unsigned int n,
			 const struct pack_text *text, uint64_t now_ms);

/* Fetches what is written next: other cores have read these lines, or written them. */
static inline void __attribute__((always_inline)) pack_fetch(const uint8_t *at, int size)
{
	for (int i = 0; i < size; i += 64)
		__builtin_prefetch(at + i, 1);
}

/* Whether a lane's next record begins with session_tx.first, without a closer look. */
static inline bool pack_is_fresh(const struct session *to, const struct session_tx *lane)
{
	return lane->epoch == to->tx_epoch + 1 && lane->used < to->tx_budget / 2;
}

/*
 * What a lane's next record begins with, as session_tx.first; 0 if the key has no more records to
 * give.
 */
static inline uint64_t pack_first(struct forward *forward, const struct session *to,
				  struct session_tx *lane)
{
	return pack_is_fresh(to, lane) ? lane->first : pack_renew(forward, to, lane);
}

/*
 * Opens a record to `to` of up to `limit` bytes, in `buffer` at `record`, with `messages` of `size`
 * bytes in place. Takes a sequence of this worker's lane: whether the record is sent or not, it is
 * never used again. There is a place for it: a burst has no more of its own buffers and spare ones
 * than there are places. Returns its number.
 */
static inline unsigned int __attribute__((always_inline))
pack_open(struct forward *forward, const struct session *to, struct session_tx *lane,
	  uint64_t first, const struct session_header *header, uint8_t class, void *buffer,
	  uint8_t *record, uint16_t limit, uint16_t size, uint16_t messages)
{
	struct forward_packing *packing = &forward->packing;
	unsigned int number = packing->count++;
	uint64_t counter = lane->next;

	session_prefetch_header(header);
	lane->next = counter + 1;
	lane->used++;
	lane->newest[class] = packing->turn | number;
	wire_put64(record, first | (uint64_t) class << WIRE_CLASS_BIT);
	wire_put64(record + 8, counter);
	packing->to[number] = to;
	packing->limit[number] = limit;
	packing->messages[number] = messages;
	packing->class[number] = class;
	packing->jobs[number].key = to->tx;
	packing->jobs[number].record = record;
	packing->jobs[number].length = WIRE_RECORD_OVERHEAD + size;
	packing->outputs[number].buffer = buffer;
	packing->outputs[number].header = header;
	return number;
}

/* The newest record for `to`, if it has room for `size` bytes; or FORWARD_NO_RECORD. */
static inline unsigned int pack_find(const struct forward *forward, const struct session *to,
				     const struct session_tx *lane, uint8_t class, uint16_t size)
{
	const struct forward_packing *packing = &forward->packing;
	uint32_t number = lane->newest[class] ^ packing->turn;

	if (number < packing->count && packing->to[number] == to &&
	    packing->class[number] == class &&
	    packing->jobs[number].length + size <= packing->limit[number])
		return number;
	return FORWARD_NO_RECORD;
}

/* Appends a message to a record that has room. */
static inline void pack_append(struct forward *forward, unsigned int number, const uint8_t *message,
			       uint16_t size)
{
	struct aead_job *job = &forward->packing.jobs[number];
	uint8_t *at = job->record + job->length - WIRE_TAG_SIZE;

	memcpy(at, message, size);
	pack_fetch(at + size, PACK_FETCH);
	job->length += size;
	forward->packing.messages[number]++;
}

/*
 * Copies a message into a record for `to`, which is known to carry that much. Returns the record's
 * number; FORWARD_NO_RECORD with `reason` set if there is none to be had.
 */
static inline unsigned int pack_message(struct forward *forward, const struct session *to,
					uint8_t class, const uint8_t *message, uint16_t size,
					uint64_t now_ms, enum drop_message *reason)
{
	struct session_tx *lane = session_tx_lane(to, forward->number);
	unsigned int number = pack_find(forward, to, lane, class, size);

	if (number == FORWARD_NO_RECORD)
		number = pack_spare(forward, to, lane, class, now_ms, reason);
	if (number != FORWARD_NO_RECORD)
		pack_append(forward, number, message, size);
	return number;
}

#endif
