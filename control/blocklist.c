#include "blocklist.h"

#include "suspects.h"

enum { MS = 1000 };

void blocklist_configure(struct blocklist *list, const struct config_trust *config,
			 struct session_table *sessions)
{
	uint32_t limit = (uint32_t)config->bad_records_per_second;

	list->seconds = (unsigned int)config->block_seconds;
	list->seconds_max = (unsigned int)config->block_seconds_max;
	__atomic_store_n(&sessions->suspect_limit, limit, __ATOMIC_RELAXED);
}

static struct blocked *find(struct blocklist *list, const uint64_t source[2])
{
	for (unsigned int i = 0; i < list->count; i++) {
		struct blocked *entry = &list->entries[i];

		if (entry->source[0] == source[0] && entry->source[1] == source[1])
			return entry;
	}
	return NULL;
}

/* A new entry, perhaps in place of one that is only remembered. NULL: no room. */
static struct blocked *add(struct blocklist *list, const uint64_t source[2])
{
	struct blocked *entry = NULL;

	if (list->count < BLOCKLIST_MAX)
		entry = &list->entries[list->count++];
	for (unsigned int i = 0; i < list->count && !entry; i++) {
		if (list->entries[i].state == BLOCKED_ENDED)
			entry = &list->entries[i];
	}
	if (entry)
		*entry = (struct blocked){.source = {source[0], source[1]}};
	return entry;
}

static void end(struct blocklist *list, struct blocked *entry)
{
	if (entry->state == BLOCKED_NOW) {
		list->ops->unblock(list->arg, entry->source);
		list->now--;
	}
	entry->state = BLOCKED_ENDED;
}

static uint64_t length_ms(const struct blocklist *list, unsigned int times)
{
	uint64_t seconds = list->seconds;

	while (--times && seconds < list->seconds_max)
		seconds *= 2;
	return (seconds < list->seconds_max ? seconds : list->seconds_max) * MS;
}

bool blocklist_report(struct blocklist *list, const struct endpoint *from, uint64_t now_ms)
{
	struct blocked *entry;
	uint64_t source[2], ms;

	suspects_source(source, from);
	entry = find(list, source);
	if ((entry && entry->state == BLOCKED_NEVER && now_ms < entry->until_ms) ||
	    list->ops->is_member(list->arg, from)) {
		list->spared++;
		return false;
	}
	if (entry && entry->state == BLOCKED_NOW)
		return true; // what was under way
	if (!entry)
		entry = add(list, source);
	if (!entry || list->ops->block(list->arg, source)) {
		list->full++;
		return false;
	}
	if (entry->times < UINT32_MAX)
		entry->times++;
	ms = length_ms(list, entry->times);
	entry->state = BLOCKED_NOW;
	entry->until_ms = now_ms + ms;
	entry->after_ms = now_ms + 2 * ms;
	list->now++;
	list->blocked++;
	return true;
}

void blocklist_lift(struct blocklist *list, const struct endpoint *from, uint64_t now_ms)
{
	struct blocked *entry;
	uint64_t source[2];

	suspects_source(source, from);
	entry = find(list, source);
	if (entry && entry->state == BLOCKED_NOW)
		list->lifted++;
	if (entry)
		end(list, entry);
	else
		entry = add(list, source);
	if (!entry)
		return;
	entry->state = BLOCKED_NEVER;
	entry->times = 0;
	entry->until_ms = entry->after_ms = now_ms + BLOCKLIST_GRACE_MS;
}

void blocklist_sweep(struct blocklist *list, uint64_t now_ms)
{
	unsigned int i = 0;

	while (i < list->count) {
		struct blocked *entry = &list->entries[i];

		if (now_ms >= entry->until_ms)
			end(list, entry);
		if (now_ms >= entry->after_ms)
			*entry = list->entries[--list->count];
		else
			i++;
	}
}
