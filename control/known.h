/*
 * The addresses that members' sessions are at, for the listener: who comes from one of them has a
 * budget of its own. Control thread.
 */
#ifndef VIADUCT_KNOWN_H
#define VIADUCT_KNOWN_H

#include "member.h"

struct known {
	const struct members *members;
	uint64_t key[2]; // random
	uint64_t *names; // open addressing; see admission_source()
	size_t size;     // a power of two
	uint64_t made_ms;
};

void known_init(struct known *known, const struct members *members, const uint64_t key[2]);
void known_fini(struct known *known);

/*
 * Whether a member's session is or was, up to a second ago, at this address or, with IPv6, in its
 * /64. Looks through all members, but only when asked and once a second.
 */
bool known_has(struct known *known, const struct endpoint *from, uint64_t now_ms);

#endif
