#include "filter.h"

#include <errno.h>

void filter_init(struct filter *filter, const uint64_t secret[2])
{
	filter->secret[0] = secret[0];
	filter->secret[1] = secret[1] | 1; // a factor of zero would forget its input
}

/* What stands for a source; 0: nobody has it. */
static uint64_t word_of(const uint64_t source[2])
{
	static const uint8_t v4[4] = {0, 0, 0xff, 0xff};

	if (source[0] && memcmp(&source[0], v4, sizeof(v4)) == 0)
		return 0;
	return source[0] ?: source[1];
}

/* Where in its set, or that of `word`, `wanted` is; FILTER_PLACES: nowhere. */
static uint32_t find(const struct filter *filter, uint64_t word, uint64_t wanted)
{
	uint32_t set = filter_set(filter, word);

	for (uint32_t at = set * FILTER_WAYS; at < (set + 1) * FILTER_WAYS; at++) {
		if (filter->word[at] == wanted)
			return at;
	}
	return FILTER_PLACES;
}

/* Where a source is that may be blocked; FILTER_PLACES: nowhere. */
static uint32_t find_source(const struct filter *filter, const uint64_t source[2])
{
	uint64_t word = word_of(source);

	return word ? find(filter, word, word) : FILTER_PLACES;
}

/* Sets a place, with which there are `more` sources. */
static void put(struct filter *filter, uint32_t at, uint64_t word, int more)
{
	uint8_t *used = &filter->used[at / FILTER_WAYS];

	__atomic_store_n(&filter->word[at], word, __ATOMIC_RELAXED);
	__atomic_store_n(used, (uint8_t)(*used + more), __ATOMIC_RELAXED);
	__atomic_store_n(&filter->count, filter->count + (uint32_t)more, __ATOMIC_RELAXED);
}

static uint64_t dropped_at(const struct filter *filter, uint32_t at)
{
	return __atomic_load_n(&filter->dropped[at], __ATOMIC_RELAXED);
}

int filter_block(struct filter *filter, const uint64_t source[2])
{
	uint64_t word = word_of(source);
	uint32_t at;

	if (!word)
		return -EINVAL;
	if (find(filter, word, word) != FILTER_PLACES)
		return -EEXIST;
	at = find(filter, word, 0);
	if (at == FILTER_PLACES || filter->count == FILTER_MAX)
		return -ENOSPC;
	filter->before[at] = dropped_at(filter, at);
	put(filter, at, word, 1);
	return 0;
}

int filter_unblock(struct filter *filter, const uint64_t source[2])
{
	uint32_t at = find_source(filter, source);

	if (at == FILTER_PLACES)
		return -ENOENT;
	put(filter, at, 0, -1);
	return 0;
}

uint64_t filter_dropped(const struct filter *filter, const uint64_t source[2])
{
	uint32_t at = find_source(filter, source);

	return at == FILTER_PLACES ? 0 : dropped_at(filter, at) - filter->before[at];
}
