/*
 * What peers and clusters may send: token buckets, in messages and bytes a second, charged for what
 * was opened.
 *
 * A bucket is one number, the tokens ever taken; those there have ever been follow from the clock.
 * Workers that serve the same peer or cluster share its account, from which each borrows a batch at
 * a time (the only atomic operation) and spends it on its own.
 */
#ifndef VIADUCT_RATES_H
#define VIADUCT_RATES_H

#include <stdbool.h>
#include <stdint.h>
#include <urcu-qsbr.h>

#include "policy.h"

enum { RATES_LEVELS = 4 }; // of trust

/* 0 a second: no limit. */
struct rate {
	uint64_t messages_per_s;
	uint64_t bytes_per_s;
	uint64_t messages_burst;
	uint64_t bytes_burst;
};

/* What has been taken in all. Zero: as much as a burst may be had. Workers write (atomic). */
struct rates_account {
	uint64_t messages;
	uint64_t bytes;
};

/* What a worker has borrowed and not yet spent. */
struct rates_credit {
	uint32_t messages;
	uint32_t bytes;
};

/* Published by control, immutable but for the accounts. */
struct rates {
	bool shed;       // under overload, see shed.h
	uint8_t control; // percent of a worker that is reserved for class control
	// whether peers of level 0, or a cluster, have a limit; other levels are charged anyhow
	bool limited;
	struct rate levels[RATES_LEVELS]; // of a peer, by its trust
	struct rate clusters[POLICY_CLUSTERS];
	struct rates_account accounts[POLICY_CLUSTERS];
	struct rcu_head rcu; // control
};

/* Worker: sees to it that there is so much credit, out of `account`. False: there isn't as much. */
bool rates_borrow(const struct rate *rate, struct rates_account *account,
		  struct rates_credit *credit, uint32_t messages, uint32_t bytes, uint64_t now_ms);

/* What is larger than a burst needs all of it. */
static inline uint32_t rates_cost(uint64_t per_s, uint64_t burst, uint32_t n)
{
	if (!per_s)
		return 0;
	return n < burst ? n : (uint32_t)burst;
}

/*
 * Worker: takes what a record costs out of `credit`, and that out of `account`. False: there isn't
 * as much, and nothing was taken.
 */
static inline bool rates_charge(const struct rate *rate, struct rates_account *account,
				struct rates_credit *credit, uint32_t messages, uint32_t bytes,
				uint64_t now_ms)
{
	messages = rates_cost(rate->messages_per_s, rate->messages_burst, messages);
	bytes = rates_cost(rate->bytes_per_s, rate->bytes_burst, bytes);
	if ((credit->messages < messages || credit->bytes < bytes) &&
	    !rates_borrow(rate, account, credit, messages, bytes, now_ms))
		return false;
	credit->messages -= messages;
	credit->bytes -= bytes;
	return true;
}

/* Gives back what rates_charge() has just taken. */
static inline void rates_return(const struct rate *rate, struct rates_credit *credit,
				uint32_t messages, uint32_t bytes)
{
	credit->messages += rates_cost(rate->messages_per_s, rate->messages_burst, messages);
	credit->bytes += rates_cost(rate->bytes_per_s, rate->bytes_burst, bytes);
}

#endif
