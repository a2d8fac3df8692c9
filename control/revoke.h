/*
 * What an operator says of peers: revoke them, or let them come back. Control thread.
 */
#ifndef VIADUCT_REVOKE_H
#define VIADUCT_REVOKE_H

#include <jansson.h>

#include "member.h"
#include "trust.h"

/*
 * Answers the admin socket's {"cmd":"revoke"}: docs/operating.md. `peer` is an id, or a name that
 * somebody here has. The answer is the caller's; NULL: no memory.
 */
json_t *revoke_answer(struct trust *trust, struct members *members, const json_t *question,
		      uint64_t now_ms);

/* Throws out whoever `trust` refuses. Returns how many have lost a session. */
unsigned int revoke_enforce(struct trust *trust, struct members *members, uint64_t now_ms);

#endif
