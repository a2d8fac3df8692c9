/*
 * From a datagram to the messages in it: pure functions over bytes that anybody may have sent.
 */
#ifndef CLIENT_RECEIVE_H
#define CLIENT_RECEIVE_H

#include "keys.h"
#include "window.h"
#include "wire.h"

/* A lane of the relay's. */
struct receive_lane {
	struct window window;
	uint64_t seen; // records accepted: what is missing below the window's `next` was lost, or
		       // is late
	uint32_t used; // records opened under the current key
};

/* Records of the lane below its highest that have not come. */
static inline uint64_t receive_lost(const struct receive_lane *lane)
{
	return lane->window.next - lane->seen;
}

/* What a session opens records with. */
struct receiver {
	uint32_t index;
	size_t size_max; // of a record
	unsigned int lane_count;
	struct receive_lane *lanes;
	struct keys *current, *old; // `old` is NULL except for some seconds after a rekey
};

enum receive_result {
	RECEIVE_OK,
	RECEIVE_MALFORMED, // no record, or of another session, lane or phase, or its lengths lie
	RECEIVE_REPLAYED,  // seen before, or too old to tell
	RECEIVE_FORGED,    // doesn't open
};

struct received {
	struct wire_record record;
	uint8_t *text; // the plaintext, inside the datagram
	size_t length;
	bool current; // it was sealed with the current keys
};

/*
 * Opens a datagram of `size` bytes in place and marks its sequence as seen. After RECEIVE_OK the
 * plaintext is known to be whole messages, so wire_message_get() walks it without failing.
 */
enum receive_result receive_open(struct received *received, struct receiver *receiver,
				 uint8_t *data, size_t size);

/* Whether a plaintext is one or more whole messages and nothing else. */
bool receive_check(uint8_t *text, size_t length);

#endif
