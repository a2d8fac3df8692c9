#include "suspects.h"

#include "route.h"

static struct suspect *set_of(struct suspects *suspects, const uint64_t source[2])
{
	uint64_t hash = route_mix(source[0] ^ source[1], UINT64_C(0x9e3779b97f4a7c15));

	return suspects->sets[hash % SUSPECTS_SETS];
}

bool suspects_note(struct suspects *suspects, const struct endpoint *from, uint32_t limit,
		   uint64_t now_ms)
{
	uint64_t source[2];
	struct suspect *set, *place;

	suspects_source(source, from);
	set = set_of(suspects, source);
	place = &set[0];
	for (int i = 0; i < SUSPECTS_WAYS; i++) {
		struct suspect *suspect = &set[i];

		if ((uint32_t)now_ms - suspect->since_ms >= SUSPECTS_MS) {
			suspect->since_ms = (uint32_t)now_ms;
			suspect->records = 0;
		}
		if (suspect->source[0] == source[0] && suspect->source[1] == source[1])
			return ++suspect->records == limit;
		if (suspect->records < place->records)
			place = suspect;
	}
	if (place->records) {
		place->records--;
		return false;
	}
	place->source[0] = source[0];
	place->source[1] = source[1];
	place->since_ms = (uint32_t)now_ms;
	place->records = 1;
	return limit == 1;
}
