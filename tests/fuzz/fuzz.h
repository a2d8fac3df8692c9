/*
 * What every fuzz target has in common: libFuzzer calls LLVMFuzzerTestOneInput with inputs that it
 * makes from the corpus, and ASan, UBSan and assert() say what is wrong.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A copy without a byte of room behind it, so that ASan sees the first that is read too many. */
static inline void *fuzz_copy(const void *data, size_t size)
{
	void *copy = malloc(size ? size : 1);

	assert(copy);
	if (size)
		memcpy(copy, data, size);
	return copy;
}

#endif
