#include "known.h"

#include <stdlib.h>

#include "admission.h"

enum {
	FRESH_MS = 1000,
	SIZE_MIN = 64,
};

void known_init(struct known *known, const struct members *members, const uint64_t key[2])
{
	*known = (struct known){.members = members, .key = {key[0], key[1]}};
}

void known_fini(struct known *known)
{
	free(known->names);
	known->names = NULL;
}

/* Where the name is, or would be. */
static uint64_t *find(const struct known *known, uint64_t name)
{
	size_t i = name & (known->size - 1);

	while (known->names[i] && known->names[i] != name)
		i = (i + 1) & (known->size - 1);
	return &known->names[i];
}

static void refresh(struct known *known)
{
	const struct roster_index *all = &known->members->roster.by_id;
	size_t size = SIZE_MIN;

	while (size < 2 * all->count)
		size *= 2;
	free(known->names);
	known->names = calloc(size, sizeof(*known->names));
	known->size = size;
	for (size_t i = 0; known->names && i < all->count; i++) {
		const struct member *member = all->members[i];
		uint64_t name;

		if (!member->current)
			continue;
		name = admission_source(&member->current->endpoint, known->key);
		*find(known, name) = name;
	}
}

bool known_has(struct known *known, const struct endpoint *from, uint64_t now_ms)
{
	if (!known->names || now_ms - known->made_ms >= FRESH_MS) {
		refresh(known);
		known->made_ms = now_ms;
	}
	return known->names && *find(known, admission_source(from, known->key));
}
