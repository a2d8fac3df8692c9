/*
 * Timers: a pairing heap (Fredman, Sedgewick, Sleator, Tarjan 1986), because its nodes live in what
 * they time: setting a timer never allocates, so it can't fail. Setting is O(1), taking the next
 * one O(log n) amortised.
 */
#ifndef CLIENT_TIMER_H
#define CLIENT_TIMER_H

#include <stdbool.h>
#include <stdint.h>

struct timer {
	uint64_t due; // CLOCK_MONOTONIC, ns
	void (*fire)(struct timer *timer);
	struct timer *child, *next;
	struct timer *prev; // the sibling before, or the parent of the first
	bool set;
};

struct timers {
	struct timer *first;
};

/* Sets or moves a timer. Its `fire` must be there. */
void timers_add(struct timers *timers, struct timer *timer, uint64_t due);

/* Takes a timer out; fine if it isn't set. */
void timers_remove(struct timers *timers, struct timer *timer);

#endif
