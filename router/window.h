/*
 * The replay window of one lane: RFC 6479, a bitmap of blocks whose oldest is cleared instead of
 * shifted. 2,048 bits, of which the newest 1,984 are always valid. The newest block stands beside
 * the highest sequence, so that records in order touch one cache line. Not thread-safe: a lane has
 * one owner.
 */
#ifndef VIADUCT_WINDOW_H
#define VIADUCT_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

enum {
	WINDOW_WORDS = 32, // a power of two
	WINDOW_SIZE = (WINDOW_WORDS - 1) * 64,
};

struct window {
	uint64_t next;                    // one above the highest sequence accepted; 0: none yet
	uint64_t block[1 + WINDOW_WORDS]; // the highest sequence's, then those before by number
};

enum window_result {
	WINDOW_NEW,
	WINDOW_OLD,  // below the window
	WINDOW_SEEN, // accepted before
};

/* Fetches what a sequence that is in order touches. */
static inline void window_prefetch(const struct window *window)
{
	__builtin_prefetch(&window->next, 1);
}

/* Where block `number`, one of those before, is. */
static inline unsigned int window_place(uint64_t number)
{
	return 1 + number % WINDOW_WORDS;
}

/* Where the block of `sequence` is, which is not above the highest. */
static inline unsigned int window_find(const struct window *window, uint64_t sequence)
{
	return sequence / 64 == (window->next - 1) / 64 ? 0 : window_place(sequence / 64);
}

/* Whether `sequence` (up to 2^56 - 1) could be accepted. Changes nothing: for use before opening.
 */
static inline enum window_result window_check(const struct window *window, uint64_t sequence)
{
	if (sequence >= window->next)
		return WINDOW_NEW;
	if (window->next - sequence > WINDOW_SIZE)
		return WINDOW_OLD;
	return window->block[window_find(window, sequence)] >> (sequence % 64) & 1 ? WINDOW_SEEN
										   : WINDOW_NEW;
}

/* Goes on to block `number`, if the highest sequence is in one before. */
static inline void window_advance(struct window *window, uint64_t number)
{
	uint64_t last = window->next ? (window->next - 1) / 64 : 0;

	if (number == last)
		return;
	window->block[window_place(last)] = window->block[0];
	window->block[0] = 0;
	// those between are empty: at most all of them
	if (number - last > WINDOW_WORDS)
		last = number - WINDOW_WORDS;
	while (++last < number)
		window->block[window_place(last)] = 0;
}

/* Checks again and, if new, remembers `sequence`: for use after the record was opened. */
static inline enum window_result window_accept(struct window *window, uint64_t sequence)
{
	uint64_t bit = UINT64_C(1) << (sequence % 64);
	unsigned int at = 0;
	enum window_result result;

	// in order, as most are
	if (sequence != window->next || bit == 1) {
		result = window_check(window, sequence);
		if (result != WINDOW_NEW)
			return result;
		if (sequence < window->next)
			at = window_find(window, sequence);
		else
			window_advance(window, sequence / 64);
	}
	window->block[at] |= bit;
	if (sequence >= window->next)
		window->next = sequence + 1;
	return WINDOW_NEW;
}

#endif
