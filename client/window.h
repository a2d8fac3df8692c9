/*
 * The replay window of one lane, RFC 6479: a ring of words in which moving on clears whole words
 * and never shifts. WINDOW_WIDTH sequences behind the highest can still be told apart.
 */
#ifndef CLIENT_WINDOW_H
#define CLIENT_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

enum {
	WINDOW_WORDS = 64, // a power of two
	WINDOW_WIDTH = (WINDOW_WORDS - 1) * 64,
};

struct window {
	uint64_t next; // the highest sequence seen, plus one
	uint64_t seen; // how many were seen: what is missing below `next` was lost, or is late
	uint64_t bits[WINDOW_WORDS];
};

/* Whether a record with this sequence may still be opened. */
static inline bool window_check(const struct window *window, uint64_t sequence)
{
	if (sequence >= window->next)
		return true;
	if (window->next - sequence > WINDOW_WIDTH)
		return false;
	return !(window->bits[sequence / 64 % WINDOW_WORDS] >> sequence % 64 & 1);
}

/* Marks a sequence that was checked before and whose record has been opened since. */
static inline void window_mark(struct window *window, uint64_t sequence)
{
	if (sequence >= window->next) {
		// the word that holds next - 1 is in use, those behind it up to ours are stale
		uint64_t used = window->next ? (window->next - 1) / 64 : 0;
		uint64_t words = sequence / 64 - used;

		if (words > WINDOW_WORDS)
			words = WINDOW_WORDS;
		for (uint64_t i = 0; i < words; i++)
			window->bits[(sequence / 64 - i) % WINDOW_WORDS] = 0;
		window->next = sequence + 1;
	}
	window->bits[sequence / 64 % WINDOW_WORDS] |= UINT64_C(1) << sequence % 64;
	window->seen++;
}

/* Sequences below the highest that have not come. */
static inline uint64_t window_lost(const struct window *window)
{
	return window->next - window->seen;
}

#endif
