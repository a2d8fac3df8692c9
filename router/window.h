/*
 * The replay window of one lane: RFC 6479, a bitmap of blocks whose oldest is cleared instead of
 * shifted. 2,048 bits, of which the newest 1,984 are always valid. Not thread-safe: a lane has one
 * owner.
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
	uint64_t next; // one above the highest sequence accepted; 0: none yet
	uint64_t bits[WINDOW_WORDS];
};

enum window_result {
	WINDOW_NEW,
	WINDOW_OLD,  // below the window
	WINDOW_SEEN, // accepted before
};

/* Fetches what checking a sequence that is in order touches, */
static inline void window_prefetch(const struct window *window)
{
	__builtin_prefetch(&window->next, 1);
}

/* and what accepting `sequence` does. */
static inline void window_prefetch_bits(const struct window *window, uint64_t sequence)
{
	__builtin_prefetch(&window->bits[sequence / 64 % WINDOW_WORDS], 1);
}

/* Whether `sequence` (up to 2^56 - 1) could be accepted. Changes nothing: for use before opening.
 */
static inline enum window_result window_check(const struct window *window, uint64_t sequence)
{
	if (sequence >= window->next)
		return WINDOW_NEW;
	if (window->next - sequence > WINDOW_SIZE)
		return WINDOW_OLD;
	return window->bits[sequence / 64 % WINDOW_WORDS] >> (sequence % 64) & 1 ? WINDOW_SEEN
										 : WINDOW_NEW;
}

/* Checks again and, if new, remembers `sequence`: for use after the record was opened. */
static inline enum window_result window_accept(struct window *window, uint64_t sequence)
{
	uint64_t *word = &window->bits[sequence / 64 % WINDOW_WORDS];
	uint64_t bit = UINT64_C(1) << (sequence % 64);
	enum window_result result;

	// in order, as most are
	if (sequence == window->next) {
		*word = (*word & (bit - 1)) | bit; // those above are a block's before
		window->next = sequence + 1;
		return WINDOW_NEW;
	}
	result = window_check(window, sequence);
	if (result != WINDOW_NEW)
		return result;
	if (sequence >= window->next) {
		// clear the blocks between the highest so far and this one, at most all of them
		uint64_t from = window->next ? (window->next - 1) / 64 : 0;
		uint64_t steps = sequence / 64 - from;

		if (steps > WINDOW_WORDS)
			steps = WINDOW_WORDS;
		for (uint64_t i = 1; i <= steps; i++)
			window->bits[(sequence / 64 - steps + i) % WINDOW_WORDS] = 0;
		window->next = sequence + 1;
	}
	*word |= bit;
	return WINDOW_NEW;
}

#endif
