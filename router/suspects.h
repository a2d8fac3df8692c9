/*
 * Which source addresses send most of the records that are dropped without having been opened. A
 * worker's own small table, touched only when such a record is dropped.
 *
 * It finds heavy sources by counters that others wear down, after Misra and Gries, "Finding
 * repeated elements" (1982), within sets as in a processor's cache: a source that sends more than
 * all others of its set together keeps its place, and a flood from forged addresses, each of which
 * comes once, only wears out itself. Pure: time is an argument.
 */
#ifndef VIADUCT_SUSPECTS_H
#define VIADUCT_SUSPECTS_H

#include "session.h"

enum {
	SUSPECTS_SETS = 1024, // a power of two: 96 KB, for as many sources as can be blocked
	SUSPECTS_WAYS = 4,
	SUSPECTS_MS = 1000, // what a source sends in less than this is added up
};

/* 24 bytes: two sets in three cache lines. */
struct suspect {
	uint64_t source[2]; // see suspects_source()
	uint32_t since_ms;
	uint32_t records;
};

struct suspects {
	struct suspect sets[SUSPECTS_SETS][SUSPECTS_WAYS];
};

/* What tells sources apart: an IPv4 address as ::ffff:a.b.c.d, or an IPv6 /64. */
static inline void suspects_source(uint64_t source[2], const struct endpoint *from)
{
	static const uint8_t v4[12] = {[10] = 0xff, [11] = 0xff};

	memcpy(source, from->ip, sizeof(from->ip));
	if (memcmp(from->ip, v4, sizeof(v4)) != 0)
		source[1] = 0;
}

/*
 * One bad record from this address. Returns whether they have just become `limit` within
 * SUSPECTS_MS; then they are counted anew, but not before that time is over.
 */
bool suspects_note(struct suspects *suspects, const struct endpoint *from, uint32_t limit,
		   uint64_t now_ms);

#endif
