/*
 * Which clusters may send to which: a matrix of bits. Immutable once published, like a session, by
 * the control thread; workers read.
 */
#ifndef VIADUCT_POLICY_H
#define VIADUCT_POLICY_H

#include <stdbool.h>
#include <stdint.h>
#include <urcu-qsbr.h>

enum { POLICY_CLUSTERS = 256 }; // 0 stands for all that have no number

struct policy {
	uint64_t allowed[POLICY_CLUSTERS][POLICY_CLUSTERS / 64]; // by sender, bits by receiver
	struct rcu_head rcu;                                     // control
};

static inline bool policy_allows(const struct policy *policy, uint16_t from, uint16_t to)
{
	return policy->allowed[from][to / 64] >> (to % 64) & 1;
}

#endif
