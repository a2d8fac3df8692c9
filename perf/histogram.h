/*
 * A histogram of times: logarithmic octaves, each divided evenly in 128, so that a value read back
 * is off by less than 1 %. Fixed size; counting is a few instructions.
 */
#ifndef PERF_HISTOGRAM_H
#define PERF_HISTOGRAM_H

#include <stdint.h>

enum {
	HISTOGRAM_STEPS = 128, // an octave
	HISTOGRAM_SHIFT = 7,
	HISTOGRAM_OCTAVES = 34, // up to 2^40 ns, 18 minutes; more counts as that
	HISTOGRAM_SIZE = (HISTOGRAM_OCTAVES + 1) * HISTOGRAM_STEPS,
};

struct histogram {
	uint64_t total;
	uint64_t counts[HISTOGRAM_SIZE];
};

static inline void histogram_add(struct histogram *h, uint64_t ns)
{
	unsigned int shift = 0, index;

	if (ns >= HISTOGRAM_STEPS)
		shift = 63 - HISTOGRAM_SHIFT - (unsigned int)__builtin_clzll(ns);
	// below one octave of steps a value is its own index
	index = shift * HISTOGRAM_STEPS + (unsigned int)(ns >> shift);
	if (index >= HISTOGRAM_SIZE)
		index = HISTOGRAM_SIZE - 1;
	h->counts[index]++;
	h->total++;
}

/* The value that `share` (0 to 1) of all are at most, in nanoseconds; 0 if there are none. */
static inline double histogram_quantile(const struct histogram *h, double share)
{
	double wanted = share * (double)h->total;
	uint64_t sum = 0;

	for (unsigned int i = 0; i < HISTOGRAM_SIZE; i++) {
		unsigned int shift = i < 2 * HISTOGRAM_STEPS ? 0 : i / HISTOGRAM_STEPS - 1;
		double low = (double)((uint64_t)(i - shift * HISTOGRAM_STEPS) << shift);

		sum += h->counts[i];
		if (h->counts[i] && (double)sum >= wanted)
			return low + (double)(UINT64_C(1) << shift) / 2;
	}
	return 0;
}

#endif
