/*
 * Members without TLS and without workers: keys that only count, peers that ask for anything, and
 * what was said to them, in order.
 */
#ifndef SOCIETY_H
#define SOCIETY_H

#include "test.h"

#include <stdbool.h>

#include "reputation.h"

enum {
	SOCIETY_MAX = 8, // members
	SOCIETY_MANY = 256,
	SOCIETY_GROUPS = 4,
	SOCIETY_SAID = 64,
};

struct society {
	struct members members;
	struct reputation reputation;
	uint64_t now_ms;
	int exporter_error;
	struct wire_id relay;
	const char *cluster; // of all who join; NULL: by their number
	unsigned int said_count;
	struct forward_command said[SOCIETY_SAID]; // payloads are NUL-terminated
};

/* setup and teardown of a test; the latter proves that no key is left. */
int society_begin(void **state);
int society_begin_many(void **state); // the same with room for more
int society_end(void **state);

/* Keys that exist now. */
int society_keys(void);

/* Peer `number`, of cluster "even" or "odd". */
struct identity society_identity(uint8_t number);

/* Address 10.0.0.`host`. */
struct endpoint society_address(uint8_t host, uint16_t port);

/* Joins, from 10.0.0.`number`. Returns as member_join(). */
int society_join(struct society *society, uint8_t number, struct member_grant *grant);

/* Joins and is heard of. Returns the session. */
struct member_session *society_settle(struct society *society, uint8_t number);

/* An event of the session's, as if from this address. */
struct forward_event society_event(enum forward_event_type type, uint32_t index,
				   struct endpoint source);

/* Rekeys with a right MAC made of `secret`. Returns as member_rekey(). */
int society_rekey(struct society *society, uint8_t number, uint32_t index, uint32_t epoch,
		  const uint8_t *secret, struct member_grant *grant);

/* The session that a worker finds. */
const struct session *society_find(const struct society *society, uint32_t index);

/* The oldest thing said that was not yet taken, which must be to this session. */
const char *society_said(struct society *society, uint32_t index);

/* Nothing else was said. */
void society_silent(const struct society *society);

#endif
