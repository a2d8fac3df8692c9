/*
 * Who may begin a handshake: limits at once and a second, for all, for each source, for the
 * addresses of members, and for those who are only told that the relay is busy. A source is an
 * IPv4 address or an IPv6 /64. Pure: time is an argument, in milliseconds of one monotonic clock.
 */
#ifndef VIADUCT_ADMISSION_H
#define VIADUCT_ADMISSION_H

#include "session.h"

/* What stands in the way; each has its counter. */
#define ADMISSION_LIMITS(X)                                                                        \
	X(HANDSHAKES, "over_handshakes")                                                           \
	X(HANDSHAKES_PER_SECOND, "over_handshakes_per_second")                                     \
	X(SOURCE_HANDSHAKES, "over_source_handshakes")                                             \
	X(SOURCE_HANDSHAKES_PER_SECOND, "over_source_handshakes_per_second")                       \
	X(MEMBER_HANDSHAKES, "over_member_handshakes")                                             \
	X(MEMBER_HANDSHAKES_PER_SECOND, "over_member_handshakes_per_second")                       \
	X(BUSY_PER_SECOND, "over_busy_per_second")

enum admission_limit {
	ADMISSION_FREE, // nothing
#define X(name, text) ADMISSION_##name,
	ADMISSION_LIMITS(X)
#undef X
		ADMISSION_LIMIT_COUNT
};

/* Which allowance a handshake uses. */
enum admission_budget { ADMISSION_ALL, ADMISSION_MEMBER, ADMISSION_BUSY, ADMISSION_BUDGETS };

struct admission_config {
	struct {
		unsigned int at_once, per_second; // at least 1; two seconds' worth may be saved up
	} budgets[ADMISSION_BUDGETS], source;
	uint64_t key[2]; // random, so that nobody can choose sources that collide
};

struct admission;

/* NULL: no memory. */
struct admission *admission_new(const struct admission_config *config, uint64_t now_ms);
/* Other limits from now on; the key stays. */
void admission_limit(struct admission *admission, const struct admission_config *config);

void admission_free(struct admission *admission);

/*
 * A connection from this address: counted for its source until admission_leave(). Returns
 * ADMISSION_FREE, or which of its source's limits it is over; then it isn't counted.
 */
enum admission_limit admission_enter(struct admission *admission, const struct endpoint *from,
				     uint64_t now_ms);
void admission_leave(struct admission *admission, const struct endpoint *from);

/*
 * Begins a handshake out of a budget, until admission_end(). Returns ADMISSION_FREE or the limit
 * that doesn't allow it.
 */
enum admission_limit admission_begin(struct admission *admission, enum admission_budget budget,
				     uint64_t now_ms);
void admission_end(struct admission *admission, enum admission_budget budget);

/* The first 64 bits that tell sources apart, hashed with `key`. Never 0. */
uint64_t admission_source(const struct endpoint *from, const uint64_t key[2]);

const char *admission_limit_name(enum admission_limit limit);

#endif
