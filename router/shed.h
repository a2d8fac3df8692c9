/*
 * What a worker does with more than it can handle: a backlog in front of the forwarding core.
 *
 * While a worker keeps up, none of this runs. When its port has given it a full burst it reads on,
 * and what it reads waits here, by rank. It takes the highest ranks first, and when there is no
 * room, what is oldest in the lowest is shed: nothing that costs more than reading a header has
 * been paid for it, and nothing is shed that there would have been time for.
 *
 * The rank is the class that the header claims, as far as the sender (session index and source
 * address, so that nobody can speak for others) has not had its fair share of the worker in this
 * window of some milliseconds. What goes beyond that ranks below all that doesn't; so claiming to
 * be critical gains nobody more than twice its share. Higher classes use up the share first. The
 * fair share is the one at which all senders' records of the last window, cut at it, are what the
 * worker handled in that time (max-min fairness). What exceeds
 * it twice ranks lower still, since those who send little more than their share would otherwise
 * lose to those who send much more. In a new window all that waits beyond a share is ranked anew,
 * before what comes; so a sender's records of one class stay in order.
 *
 * Class control has a part of the backlog and of each burst to itself, and no more while others
 * wait.
 *
 * A backlog that is never empty makes all records late, and its frames cold. So when many have
 * waited throughout a window, what is less than critical has little room until all has been taken.
 *
 * One worker's own. Time is an argument.
 */
#ifndef VIADUCT_SHED_H
#define VIADUCT_SHED_H

#include "forward.h"

enum {
	SHED_BACKLOG = 1024, // records
	SHED_STANDING = 64,  // when more than so many have waited throughout a window,
	SHED_ROOM = 128,     // there is room for so many
	SHED_SENDERS = 4096, // counted apart; more share counts by chance
	SHED_WINDOW_MS = 4,
	SHED_CRITICAL_SHARES = 2,
	SHED_NO_SHARE = 1 << 16,             // no sender is cut
	SHED_FIRST_SHARE = SHED_BACKLOG / 4, // as long as nothing is known
};

enum shed_rank {
	SHED_CONTROL,
	SHED_CRITICAL,
	SHED_NORMAL,
	SHED_BULK,
	SHED_CRITICAL_OVER, // the sender's share
	SHED_NORMAL_OVER,
	SHED_BULK_OVER,
	SHED_CRITICAL_FAR, // beyond twice the share
	SHED_NORMAL_FAR,
	SHED_BULK_FAR,
	SHED_RANKS,
};

struct shed_sender {
	uint16_t arrived[WIRE_CLASSES]; // in this window, of this class or a higher one
};

struct shed_entry {
	struct forward_input input;
	uint16_t sender;
	uint8_t class;
} __attribute__((aligned(64)));

struct shed_queue {
	uint16_t first;
	uint16_t last;
	unsigned int count;
};

struct shed {
	unsigned int count;    // records in the backlog
	uint32_t occupied;     // bits of the ranks that have some
	unsigned int control;  // percent, set by the caller at any time
	uint32_t share;        // of a sender, records a window; SHED_NO_SHARE
	uint32_t handled;      // records taken in this window
	unsigned int room;     // of the backlog, for what is less than critical
	unsigned int standing; // the fewest that have waited in this window
	uint64_t window_ms;    // when it began
	uint16_t free;         // the first of the entries that are
	struct shed_queue queues[SHED_RANKS];
	uint16_t next[SHED_BACKLOG]; // of each entry in its queue
	struct shed_entry entries[SHED_BACKLOG];
	struct shed_sender senders[SHED_SENDERS];
};

/* `shed` is zeroed. */
void shed_init(struct shed *shed);

/*
 * Takes over `n` (up to FORWARD_BURST) received records, and sheds what there is no room for, by
 * the counters of `forward`.
 */
void shed_put(struct shed *shed, struct forward *forward, struct forward_input *inputs,
	      unsigned int n, uint64_t now_ms);

/* Moves up to `n` records to `inputs`, for forward_burst(); returns how many. */
unsigned int shed_take(struct shed *shed, struct forward_input *inputs, unsigned int n);

#endif
