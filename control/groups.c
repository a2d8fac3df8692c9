#include "groups.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>

struct groups_places {
	struct rcu_head rcu;
	struct groups_place place[];
};

int groups_init(struct groups *groups, struct session_table *sessions, struct route_table *routes)
{
	uint32_t count = sessions->groups;

	groups->sessions = sessions;
	groups->routes = routes;
	groups->places =
		calloc(1, sizeof(*groups->places) + count * sizeof(groups->places->place[0]));
	groups->free = malloc((count + 1) * sizeof(groups->free[0]));
	if (!groups->places || !groups->free) {
		free(groups->places);
		free(groups->free);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < count; i++)
		groups->free[i] = i;
	groups->free_first = 0;
	groups->free_count = count;
	return 0;
}

static void places_free(struct rcu_head *head)
{
	free(caa_container_of(head, struct groups_places, rcu));
}

void groups_fini(struct groups *groups)
{
	// after those that rest
	call_rcu(&groups->places->rcu, places_free);
	free(groups->free);
}

bool groups_name_good(const char *name)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789";
	size_t length = strlen(name);

	return length <= GROUPS_NAME_MAX && strspn(name, letters) &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789._-/") == length;
}

bool groups_name_reserved(const char *name)
{
	size_t length = strcspn(name, "./-_");

	return (length == 5 && !memcmp(name, "relay", 5)) ||
	       (length == 7 && !memcmp(name, "viaduct", 7));
}

void groups_id(struct wire_id *id, enum group_kind kind, const char *name)
{
	char text[sizeof(WIRE_SERVICE_PREFIX) + GROUPS_NAME_MAX];
	uint8_t digest[EVP_MAX_MD_SIZE];
	int length =
		snprintf(text, sizeof(text), "%s%s",
			 kind == GROUP_SERVICE ? WIRE_SERVICE_PREFIX : WIRE_TOPIC_PREFIX, name);

	// of so short a text it can't fail
	EVP_Digest(text, (size_t)length, digest, NULL, EVP_sha256(), NULL);
	memcpy(id, digest, sizeof(*id));
}

const struct groups_place *groups_place(const struct groups *groups, uint32_t slot)
{
	if (slot < groups->sessions->slots)
		return NULL;
	return &groups->places->place[slot - groups->sessions->slots];
}

int groups_add(struct groups *groups, enum group_kind kind, const char *name, struct group *group,
	       uint32_t *slot)
{
	struct groups_place *place;
	struct wire_id id;
	uint32_t number;
	int result;

	if (!groups->free_count)
		return -ENOSPC;
	number = groups->free[groups->free_first];
	place = &groups->places->place[number];
	if (__atomic_load_n(&place->resting, __ATOMIC_ACQUIRE))
		return -ENOSPC;
	*slot = groups->sessions->slots + number;
	groups_id(&id, kind, name);
	rcu_assign_pointer(groups->sessions->slot[*slot].group, group);
	result = route_set(groups->routes, &id, *slot);
	if (result) {
		rcu_assign_pointer(groups->sessions->slot[*slot].group, NULL);
		return result;
	}
	place->kind = kind;
	strcpy(place->name, name);
	groups->free_first = (groups->free_first + 1) % groups->sessions->groups;
	groups->free_count--;
	return 0;
}

void groups_publish(struct groups *groups, uint32_t slot, struct group *group)
{
	rcu_assign_pointer(groups->sessions->slot[slot].group, group);
}

static void rested(struct rcu_head *head)
{
	struct groups_place *place = caa_container_of(head, struct groups_place, rcu);

	__atomic_store_n(&place->resting, false, __ATOMIC_RELEASE);
}

void groups_remove(struct groups *groups, uint32_t slot)
{
	uint32_t number = slot - groups->sessions->slots;
	struct groups_place *place = &groups->places->place[number];

	route_remove(groups->routes, &groups->sessions->slot[slot].id);
	rcu_assign_pointer(groups->sessions->slot[slot].group, NULL);
	place->name[0] = '\0';
	// a worker may have found it by its old id, so it must not be another's yet
	place->resting = true;
	call_rcu(&place->rcu, rested);
	groups->free[(groups->free_first + groups->free_count) % groups->sessions->groups] = number;
	groups->free_count++;
}

int groups_find(const struct groups *groups, enum group_kind kind, const char *name, uint32_t *slot)
{
	const struct session_slot *found;
	struct wire_id id;

	groups_id(&id, kind, name);
	found = route_find(groups->routes, &id, route_hash(groups->routes, &id));
	if (!found || !found->group)
		return -ENOENT;
	*slot = (uint32_t)(found - groups->sessions->slot);
	return 0;
}
