#include "roster.h"

#include <errno.h>
#include <stdlib.h>

static int compare_ids(const struct member *a, const struct member *b)
{
	return memcmp(&a->id, &b->id, sizeof(a->id));
}

static int compare_names(const struct member *a, const struct member *b)
{
	int order = strcmp(a->name, b->name);

	return order ? order : compare_ids(a, b);
}

static int compare_clusters(const struct member *a, const struct member *b)
{
	int order = strcmp(a->cluster, b->cluster);

	return order ? order : compare_ids(a, b);
}

/* The first position whose member is not below `key`. */
static size_t seek(const struct roster_index *index, const struct member *key)
{
	size_t low = 0, high = index->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (index->compare(index->members[middle], key) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void index_add(struct roster_index *index, struct member *member)
{
	size_t at = seek(index, member);

	memmove(&index->members[at + 1], &index->members[at],
		(index->count - at) * sizeof(index->members[0]));
	index->members[at] = member;
	index->count++;
}

static void index_remove(struct roster_index *index, const struct member *member)
{
	size_t at = seek(index, member);

	index->count--;
	memmove(&index->members[at], &index->members[at + 1],
		(index->count - at) * sizeof(index->members[0]));
}

static void member_free(struct member *member)
{
	free(member->name);
	free(member);
}

int roster_init(struct roster *roster, uint32_t slots, uint32_t random)
{
	struct member **memory;

	memset(roster, 0, sizeof(*roster));
	CDS_INIT_LIST_HEAD(&roster->resting);
	roster->slots = slots;
	roster->by_id.compare = compare_ids;
	roster->by_name.compare = compare_names;
	roster->by_cluster.compare = compare_clusters;
	memory = calloc(slots, 4 * sizeof(struct member *) + sizeof(uint32_t) + sizeof(uint16_t));
	if (!memory)
		return -ENOMEM;
	roster->by_id.members = memory;
	roster->by_name.members = memory + slots;
	roster->by_cluster.members = memory + 2 * slots;
	roster->by_slot = memory + 3 * slots;
	roster->free = (uint32_t *)(memory + 4 * slots);
	roster->generations = (uint16_t *)(roster->free + slots);
	for (uint32_t i = 0; i < slots; i++) {
		roster->free[i] = (wire_slot(random) + i) % slots;
		roster->generations[i] = (uint16_t)wire_generation(random);
	}
	roster->free_count = slots;
	return 0;
}

void roster_fini(struct roster *roster)
{
	for (size_t i = 0; i < roster->by_id.count; i++)
		member_free(roster->by_id.members[i]);
	free(roster->by_id.members); // and all other arrays
}

size_t roster_seek_id(const struct roster *roster, const struct wire_id *id)
{
	struct member key = {.id = *id};

	return seek(&roster->by_id, &key);
}

size_t roster_seek_name(const struct roster *roster, const char *name)
{
	struct member key = {.name = (char *)name};

	return seek(&roster->by_name, &key);
}

size_t roster_seek_cluster(const struct roster *roster, const char *cluster,
			   const struct wire_id *id)
{
	struct member key = {.id = *id, .cluster = (char *)cluster};

	return seek(&roster->by_cluster, &key);
}

struct member *roster_find(const struct roster *roster, const struct wire_id *id)
{
	size_t at = roster_seek_id(roster, id);

	if (at == roster->by_id.count || !wire_id_equal(&roster->by_id.members[at]->id, id))
		return NULL;
	return roster->by_id.members[at];
}

/* Gives the member its name and files it there. */
static int file_name(struct roster *roster, struct member *member, const struct identity *identity)
{
	size_t name_size = strlen(identity->name) + 1;
	size_t cluster_size = strlen(identity->cluster) + 1;
	char *texts = malloc(name_size + cluster_size);

	if (!texts)
		return -ENOMEM;
	if (member->name) {
		index_remove(&roster->by_name, member);
		index_remove(&roster->by_cluster, member);
		free(member->name);
	}
	memcpy(texts, identity->name, name_size);
	memcpy(texts + name_size, identity->cluster, cluster_size);
	member->name = texts;
	member->cluster = texts + name_size;
	index_add(&roster->by_name, member);
	index_add(&roster->by_cluster, member);
	return 0;
}

/* Makes a member in a free slot. */
static int make(struct roster *roster, const struct identity *identity, struct member **out)
{
	struct member *member;
	int result;

	if (!roster->free_count)
		return -ENOSPC;
	member = calloc(1, sizeof(*member));
	if (!member)
		return -ENOMEM;
	member->id = identity->id;
	member->certificate = identity->certificate;
	wire_id_format(member->text, &member->id);
	CDS_INIT_LIST_HEAD(&member->resting);
	CDS_INIT_LIST_HEAD(&member->registrations);
	result = file_name(roster, member, identity);
	if (result) {
		free(member);
		return result;
	}
	index_add(&roster->by_id, member);
	member->slot = roster->free[roster->free_first];
	roster->free_first = (roster->free_first + 1) % roster->slots;
	roster->free_count--;
	roster->by_slot[member->slot] = member;
	*out = member;
	return 0;
}

int roster_enter(struct roster *roster, const struct identity *identity, struct member **out)
{
	struct member *member = roster_find(roster, &identity->id);
	int result;

	if (!member)
		return make(roster, identity, out);
	if (strcmp(member->name, identity->name) != 0) {
		result = file_name(roster, member, identity);
		if (result)
			return result;
	}
	member->certificate = identity->certificate;
	cds_list_del_init(&member->resting);
	*out = member;
	return 0;
}

void roster_leave(struct roster *roster, struct member *member, uint64_t now_ms)
{
	member->rested_ms = now_ms + ROSTER_REST_MS;
	cds_list_add_tail(&member->resting, &roster->resting);
}

void roster_expire(struct roster *roster, uint64_t now_ms)
{
	struct member *member, *next;

	cds_list_for_each_entry_safe (member, next, &roster->resting, resting) {
		if (member->rested_ms > now_ms)
			break;
		cds_list_del(&member->resting);
		index_remove(&roster->by_id, member);
		index_remove(&roster->by_name, member);
		index_remove(&roster->by_cluster, member);
		roster->by_slot[member->slot] = NULL;
		roster->free[(roster->free_first + roster->free_count) % roster->slots] =
			member->slot;
		roster->free_count++;
		member_free(member);
	}
}

uint32_t roster_index(struct roster *roster, const struct member *member)
{
	uint16_t *generation = &roster->generations[member->slot];

	*generation = (*generation + 1) % WIRE_GENERATIONS;
	return (uint32_t)*generation << WIRE_SLOT_BITS | member->slot;
}

/* A leaky bucket that holds the time when it will be empty (GCRA, ITU-T I.371). */
bool roster_may_take_over(struct member *member, unsigned int per_minute, uint64_t now_ms,
			  unsigned int *retry_s)
{
	const uint64_t interval = 60000 / per_minute, most = 60000 - interval;
	uint64_t empty = member->takeover_ms > now_ms ? member->takeover_ms : now_ms;

	if (empty > now_ms + most) {
		*retry_s = (unsigned int)((empty - now_ms - most + 999) / 1000);
		return false;
	}
	member->takeover_ms = empty + interval;
	return true;
}
