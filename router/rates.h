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
	bool shed;                        // under overload, see shed.h
	uint8_t control;                  // percent of a worker that is reserved for class control
	bool limited;                     // whether any of the following is a limit
	struct rate levels[RATES_LEVELS]; // of a peer, by its trust
	struct rate clusters[POLICY_CLUSTERS];
	struct rates_account accounts[POLICY_CLUSTERS];
	struct rcu_head rcu; // control
};

/*
 * Worker: takes what a record costs out of `credit`, and that out of `account`. False: there isn't
 * as much, and nothing was taken.
 */
bool rates_charge(const struct rate *rate, struct rates_account *account,
		  struct rates_credit *credit, uint32_t messages, uint32_t bytes, uint64_t now_ms);

/* Gives back what rates_charge() has just taken. */
void rates_return(const struct rate *rate, struct rates_credit *credit, uint32_t messages,
		  uint32_t bytes);

#endif
