#include "topics.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "log.h"
#include "member.h"

enum {
	TICK_COPIES = 1 << 18, // members published in a tick, at least one topic
	TOPIC_CLUSTERS = 2 * CONFIG_TOPIC_CLUSTERS, // as many again as are configured
	WISH = 1, // why somebody is a member: low bits beside the slot
	CLUSTER = 2,
	WHY_BITS = 2,
};

/* A request that is answered when the topic is published. */
struct answer {
	uint32_t index;
	uint32_t tag;
};

/* A cluster whose peers are all members. */
struct topic_cluster {
	char name[CONFIG_CLUSTER_MAX]; // "": none
	bool configured;
	unsigned int wishes; // of peers that have joined for it
};

struct topic_entry {
	struct cds_list_head node;      // in all
	struct cds_list_head changed;   // in changed; else empty
	struct cds_list_head clustered; // in clusters; else empty
	struct topic *published;
	char name[GROUPS_NAME_MAX + 1];
	uint32_t slot;
	bool configured;
	uint32_t *members; // slot << WHY_BITS | why, ascending
	uint32_t count, room;
	struct topic_cluster clusters[TOPIC_CLUSTERS]; // which stay where they are
	unsigned int cluster_count;
	struct answer *answers;
	uint32_t answer_count, answer_room;
};

/* Topics that a peer has joined by wish. */
struct topic_peer {
	unsigned int count;
	unsigned int room;
	struct {
		struct topic_entry *topic;
		struct topic_cluster *cluster; // its whole one, as it was then; NULL: alone
	} wishes[];
};

/* An array with room for one more than `count`; NULL: no memory, and it is as before. */
static void *grow(void *array, uint32_t count, uint32_t *room, size_t size)
{
	uint32_t more = *room ? 2 * *room : 4;
	void *grown;

	if (count < *room)
		return array;
	grown = realloc(array, more * size);
	if (grown)
		*room = more;
	return grown;
}

static void note_changed(struct topics *topics, struct topic_entry *topic)
{
	if (cds_list_empty(&topic->changed))
		cds_list_add_tail(&topic->changed, &topics->changed);
}

/* Members */

static uint32_t seek(const struct topic_entry *topic, uint32_t slot)
{
	uint32_t low = 0, high = topic->count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (topic->members[middle] >> WHY_BITS < slot)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Returns 0, -ENOSPC (too many) or -ENOMEM. */
static int add(struct topics *topics, struct topic_entry *topic, uint32_t slot, uint32_t why)
{
	uint32_t at = seek(topic, slot), *grown;

	if (at < topic->count && topic->members[at] >> WHY_BITS == slot) {
		topic->members[at] |= why;
		return 0;
	}
	if (topic->count >= (uint32_t)topics->config.members)
		return -ENOSPC;
	grown = grow(topic->members, topic->count, &topic->room, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	topic->members = grown;
	memmove(&topic->members[at + 1], &topic->members[at],
		(topic->count - at) * sizeof(topic->members[0]));
	topic->members[at] = slot << WHY_BITS | why;
	topic->count++;
	note_changed(topics, topic);
	return 0;
}

static void take(struct topics *topics, struct topic_entry *topic, uint32_t slot, uint32_t why)
{
	uint32_t at = seek(topic, slot);

	if (at == topic->count || topic->members[at] >> WHY_BITS != slot)
		return;
	topic->members[at] &= ~why;
	if (topic->members[at] & (WISH | CLUSTER))
		return;
	topic->count--;
	memmove(&topic->members[at], &topic->members[at + 1],
		(topic->count - at) * sizeof(topic->members[0]));
	note_changed(topics, topic);
}

/* Topics */

static void reclaim_topic(struct rcu_head *head)
{
	struct topic *topic = caa_container_of(head, struct topic, rcu);

	free(topic->members);
	free(topic);
}

static void reclaim_members(struct rcu_head *head)
{
	free(caa_container_of(head, struct topic_members, rcu));
}

static struct topic_members *members_new(const struct topic_entry *topic)
{
	struct topic_members *members =
		malloc(sizeof(*members) + topic->count * sizeof(members->slots[0]));

	if (!members)
		return NULL;
	members->count = topic->count;
	for (uint32_t i = 0; i < topic->count; i++)
		members->slots[i] = topic->members[i] >> WHY_BITS;
	return members;
}

static void set_limits(const struct topics *topics, struct topic *topic)
{
	__atomic_store_n(&topic->rate, (uint32_t)topics->config.rate, __ATOMIC_RELAXED);
	__atomic_store_n(&topic->publisher_rate, (uint32_t)topics->config.publisher_rate,
			 __ATOMIC_RELAXED);
}

static void entry_free(struct topic_entry *topic)
{
	free(topic->members);
	free(topic->answers);
	free(topic);
}

/* Returns 0, -ENOSPC (too many) or -ENOMEM. */
static int topic_new(struct members *members, const char *name, struct topic_entry **out)
{
	struct topics *topics = &members->topics;
	struct topic_entry *topic;
	int result = -ENOMEM;

	if (topics->count >= (unsigned int)topics->config.max)
		return -ENOSPC;
	topic = calloc(1, sizeof(*topic));
	if (!topic)
		return -ENOMEM;
	CDS_INIT_LIST_HEAD(&topic->changed);
	CDS_INIT_LIST_HEAD(&topic->clustered);
	strcpy(topic->name, name);
	topic->published = aligned_alloc(64, sizeof(*topic->published));
	if (!topic->published)
		goto failed;
	memset(topic->published, 0, sizeof(*topic->published));
	topic->published->group.kind = GROUP_TOPIC;
	set_limits(topics, topic->published);
	topic->published->members = members_new(topic);
	if (!topic->published->members)
		goto failed;
	result = groups_add(&members->groups, GROUP_TOPIC, name, &topic->published->group,
			    &topic->slot);
	if (result)
		goto failed;
	topics->entries[topic->slot - members->sessions->slots] = topic;
	cds_list_add_tail(&topic->node, &topics->all);
	topics->count++;
	*out = topic;
	return 0;
failed:
	if (topic->published)
		free(topic->published->members);
	free(topic->published);
	entry_free(topic);
	return result;
}

static void topic_end(struct members *members, struct topic_entry *topic)
{
	struct topics *topics = &members->topics;

	groups_remove(&members->groups, topic->slot);
	topics->entries[topic->slot - members->sessions->slots] = NULL;
	call_rcu(&topic->published->rcu, reclaim_topic);
	cds_list_del(&topic->node);
	cds_list_del(&topic->changed);
	cds_list_del(&topic->clustered);
	topics->count--;
	entry_free(topic);
}

static struct topic_entry *topic_find(const struct members *members, const char *name)
{
	uint32_t slot;

	if (groups_find(&members->groups, GROUP_TOPIC, name, &slot))
		return NULL;
	return members->topics.entries[slot - members->sessions->slots];
}

/* Clusters */

/* The cluster's place; with the name "" a free one. NULL: there is none. */
static struct topic_cluster *cluster_find(struct topic_entry *topic, const char *name)
{
	for (unsigned int i = 0; i < TOPIC_CLUSTERS; i++) {
		if (strcmp(topic->clusters[i].name, name) == 0)
			return &topic->clusters[i];
	}
	return NULL;
}

/* Makes members of all of a cluster that are here. */
static void cluster_gather(struct members *members, struct topic_entry *topic, const char *name)
{
	const struct roster_index *index = &members->roster.by_cluster;
	unsigned int refused = 0;

	for (size_t at = roster_seek_cluster(&members->roster, name, &(struct wire_id){{0}});
	     at < index->count && strcmp(index->members[at]->cluster, name) == 0; at++) {
		const struct member *member = index->members[at];

		if (member->current)
			refused += add(&members->topics, topic, member->slot, CLUSTER) != 0;
	}
	if (refused)
		log_warning("topic is full", "topic=%s cluster=%s refused=%u", topic->name, name,
			    refused);
}

/* Ends it for those of no cluster that is there: also who has got another one meanwhile. */
static void cluster_scatter(struct members *members, struct topic_entry *topic)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < topic->count; i++) {
		uint32_t entry = topic->members[i];
		const struct member *member = members->roster.by_slot[entry >> WHY_BITS];

		if (!*member->cluster || !cluster_find(topic, member->cluster))
			entry &= ~(uint32_t)CLUSTER;
		if (entry & (WISH | CLUSTER))
			topic->members[kept++] = entry;
	}
	if (kept != topic->count)
		note_changed(&members->topics, topic);
	topic->count = kept;
}

static bool cluster_fits(struct topic_entry *topic, const char *name)
{
	return cluster_find(topic, name) ||
	       (topic->cluster_count < TOPIC_CLUSTERS && strlen(name) < CONFIG_CLUSTER_MAX);
}

/* One that fits. */
static struct topic_cluster *cluster_add(struct members *members, struct topic_entry *topic,
					 const char *name)
{
	struct topic_cluster *cluster = cluster_find(topic, name);

	if (cluster)
		return cluster;
	cluster = cluster_find(topic, "");
	topic->cluster_count++;
	strcpy(cluster->name, name);
	if (cds_list_empty(&topic->clustered))
		cds_list_add_tail(&topic->clustered, &members->topics.clusters);
	cluster_gather(members, topic, name);
	return cluster;
}

/* Ends a cluster's membership if nothing speaks for it any more. */
static void cluster_settle(struct members *members, struct topic_entry *topic,
			   struct topic_cluster *cluster)
{
	if (!*cluster->name || cluster->configured || cluster->wishes)
		return;
	*cluster->name = '\0';
	if (!--topic->cluster_count)
		cds_list_del_init(&topic->clustered);
	cluster_scatter(members, topic);
}

/* Wishes */

static int wish_find(const struct topic_peer *peer, const struct topic_entry *topic)
{
	for (unsigned int i = 0; peer && i < peer->count; i++) {
		if (peer->wishes[i].topic == topic)
			return (int)i;
	}
	return -1;
}

/* Room for one more wish. Returns 0, -ENOSPC or -ENOMEM. */
static int wish_room(struct topics *topics, uint32_t slot)
{
	struct topic_peer *peer = topics->peers[slot], *grown;
	unsigned int count = peer ? peer->count : 0, room = count ? 2 * count : 4;

	if (count >= (unsigned int)topics->config.per_peer)
		return -ENOSPC;
	if (peer && count < peer->room)
		return 0;
	grown = realloc(peer, sizeof(*grown) + room * sizeof(grown->wishes[0]));
	if (!grown)
		return -ENOMEM;
	grown->count = count;
	grown->room = room;
	topics->peers[slot] = grown;
	return 0;
}

static void wish_end(struct members *members, const struct member *member, int at)
{
	struct topic_peer *peer = members->topics.peers[member->slot];
	struct topic_entry *topic = peer->wishes[at].topic;
	struct topic_cluster *cluster = peer->wishes[at].cluster;

	if (cluster) {
		cluster->wishes--;
		cluster_settle(members, topic, cluster);
	}
	peer->wishes[at] = peer->wishes[--peer->count];
	take(&members->topics, topic, member->slot, WISH);
}

/* Requests */

static const char too_many_wishes[] = "this peer has joined as many topics as it may";

static int check_name(const char *name, const char **detail)
{
	*detail = "a name is 1 to 64 of a-z, 0-9, '.', '_', '-' and '/', first a letter or digit";
	if (!groups_name_good(name))
		return -EINVAL;
	*detail = "names that begin with viaduct or relay are the relay's own";
	return groups_name_reserved(name) ? -EPERM : 0;
}

static void answer(struct members *members, uint32_t index, uint32_t tag)
{
	static const char text[] = "{\"ok\":true}";
	struct member_session *session = member_session_find(members, index);

	if (session && session == session->member->current)
		member_send(members, session, tag, text, sizeof(text) - 1);
}

/*
 * Answers when workers see the topic as it is now. For want of memory it doesn't, and the peer asks
 * again.
 */
static void answer_later(struct members *members, struct topic_entry *topic, uint32_t index,
			 uint32_t tag)
{
	struct answer *answers;

	if (cds_list_empty(&topic->changed)) {
		answer(members, index, tag);
		return;
	}
	answers = grow(topic->answers, topic->answer_count, &topic->answer_room, sizeof(*answers));
	if (!answers)
		return;
	topic->answers = answers;
	answers[topic->answer_count++] = (struct answer){index, tag};
}

/* A new wish. Returns 0, -EPERM, -ENOSPC or -ENOMEM. */
static int wish(struct members *members, struct topic_entry *topic, const struct member *member,
		bool for_cluster, const char **detail)
{
	struct topics *topics = &members->topics;
	struct topic_cluster *cluster;
	struct topic_peer *peer;
	int result, at;

	*detail = "this topic has as many clusters as it may";
	if (for_cluster && !cluster_fits(topic, member->cluster))
		return -ENOSPC;
	*detail = too_many_wishes;
	at = wish_find(topics->peers[member->slot], topic);
	result = at < 0 ? wish_room(topics, member->slot) : 0;
	if (result)
		return result;
	*detail = "this topic has as many members as it may";
	result = add(topics, topic, member->slot, WISH);
	if (result)
		return result;
	peer = topics->peers[member->slot];
	if (at < 0) {
		at = (int)peer->count++;
		peer->wishes[at].topic = topic;
		peer->wishes[at].cluster = NULL;
	}
	if (!for_cluster || peer->wishes[at].cluster)
		return 0;
	cluster = cluster_add(members, topic, member->cluster);
	cluster->wishes++;
	peer->wishes[at].cluster = cluster;
	return 0;
}

int topics_join(struct members *members, const struct member *member, const char *name,
		const char *cluster, uint32_t index, uint32_t tag, const char **detail)
{
	struct topics *topics = &members->topics;
	struct topic_entry *topic;
	int result = check_name(name, detail);

	if (result)
		return result;
	*detail = "a peer can only join for its own cluster";
	if (*cluster && strcmp(cluster, member->cluster) != 0)
		return -EPERM;
	*detail = "this relay doesn't let peers join for their cluster (topics.cluster_joins)";
	if (*cluster && !topics->config.cluster_joins)
		return -EPERM;
	topic = topic_find(members, name);
	if (!topic) {
		*detail = too_many_wishes;
		result = wish_room(topics, member->slot);
		if (result)
			return result;
		*detail = "this relay has as many topics as it may";
		result = topic_new(members, name, &topic);
		if (result)
			return result;
		// so that it goes again if nobody is a member in the end
		note_changed(topics, topic);
	}
	result = wish(members, topic, member, *cluster, detail);
	if (!result)
		answer_later(members, topic, index, tag);
	return result;
}

int topics_leave(struct members *members, const struct member *member, const char *name,
		 uint32_t index, uint32_t tag, const char **detail)
{
	struct topic_entry *topic;
	int result = check_name(name, detail), at;

	if (result)
		return result;
	topic = topic_find(members, name);
	if (!topic) {
		answer(members, index, tag);
		return 0;
	}
	at = wish_find(members->topics.peers[member->slot], topic);
	if (at >= 0)
		wish_end(members, member, at);
	answer_later(members, topic, index, tag);
	return 0;
}

void topics_come(struct members *members, const struct member *member)
{
	struct topic_entry *topic;

	if (!*member->cluster)
		return;
	cds_list_for_each_entry (topic, &members->topics.clusters, clustered) {
		if (cluster_find(topic, member->cluster) &&
		    add(&members->topics, topic, member->slot, CLUSTER))
			log_warning("topic is full", "topic=%s cluster=%s refused=1", topic->name,
				    member->cluster);
	}
}

void topics_go(struct members *members, const struct member *member)
{
	struct topic_peer *peer = members->topics.peers[member->slot];
	struct topic_entry *topic, *next;

	while (peer && peer->count)
		wish_end(members, member, (int)peer->count - 1);
	free(peer);
	members->topics.peers[member->slot] = NULL;
	// of all, as its cluster may be another one by now
	cds_list_for_each_entry_safe (topic, next, &members->topics.clusters, clustered) {
		take(&members->topics, topic, member->slot, CLUSTER);
	}
}

/* Publishing */

static void publish(struct members *members, struct topic_entry *topic)
{
	struct topic_members *new = members_new(topic), *old = topic->published->members;

	// there is always the next tick
	if (!new)
		return;
	cds_list_del_init(&topic->changed);
	rcu_assign_pointer(topic->published->members, new);
	call_rcu(&old->rcu, reclaim_members);
	for (uint32_t i = 0; i < topic->answer_count; i++)
		answer(members, topic->answers[i].index, topic->answers[i].tag);
	topic->answer_count = 0;
	if (!topic->count && !topic->configured)
		topic_end(members, topic);
}

void topics_tick(struct members *members)
{
	struct topic_entry *topic, *next;
	uint32_t copies = 0;

	cds_list_for_each_entry_safe (topic, next, &members->topics.changed, changed) {
		if (copies > TICK_COPIES)
			break;
		copies += topic->count;
		publish(members, topic);
	}
}

/* Configuration */

static bool names_cluster(const struct config_topic *config, const char *name)
{
	for (uint32_t i = 0; config && i < config->clusters_count; i++) {
		if (strcmp(config->clusters[i], name) == 0)
			return true;
	}
	return false;
}

/* `config` NULL: it isn't configured. */
static void configure_entry(struct members *members, struct topic_entry *topic,
			    const struct config_topic *config)
{
	topic->configured = config != NULL;
	set_limits(&members->topics, topic->published);
	note_changed(&members->topics, topic);
	// those that go make room for those that come
	for (unsigned int i = 0; i < TOPIC_CLUSTERS; i++) {
		topic->clusters[i].configured = names_cluster(config, topic->clusters[i].name);
		cluster_settle(members, topic, &topic->clusters[i]);
	}
	for (uint32_t i = 0; config && i < config->clusters_count; i++) {
		const char *name = config->clusters[i];

		if (cluster_fits(topic, name))
			cluster_add(members, topic, name)->configured = true;
		else
			log_warning("topic is full", "topic=%s cluster=%s refused=all", topic->name,
				    name);
	}
}

static const struct config_topic *configured(const struct config_topics *config, const char *name)
{
	for (uint32_t i = 0; i < config->configured_count; i++) {
		if (strcmp(config->configured[i].name, name) == 0)
			return &config->configured[i];
	}
	return NULL;
}

int topics_configure(struct members *members, const struct config_topics *config)
{
	struct topics *topics = &members->topics;
	struct topic_entry *topic;
	int result = 0;

	topics->config = *config;
	for (uint32_t i = 0; i < config->configured_count; i++) {
		const char *name = config->configured[i].name;
		int made = topic_find(members, name) ? 0 : topic_new(members, name, &topic);

		if (made)
			result = made;
	}
	cds_list_for_each_entry (topic, &topics->all, node) {
		configure_entry(members, topic, configured(config, topic->name));
	}
	return result;
}

void topics_walk(const struct members *members,
		 void (*each)(void *arg, const struct topic_report *report), void *arg)
{
	const struct topic_entry *topic;

	cds_list_for_each_entry (topic, &members->topics.all, node) {
		struct topic_report report = {
			.name = topic->name,
			.members = topic->published->members->count,
			.configured = topic->configured,
		};

		for (int i = 0; i < WIRE_LANES_MAX; i++) {
			const struct topic_counts *counts = &topic->published->counts[i];

			report.counts.published +=
				__atomic_load_n(&counts->published, __ATOMIC_RELAXED);
			report.counts.copies += __atomic_load_n(&counts->copies, __ATOMIC_RELAXED);
			report.counts.refused +=
				__atomic_load_n(&counts->refused, __ATOMIC_RELAXED);
		}
		each(arg, &report);
	}
}

int topics_init(struct members *members)
{
	struct topics *topics = &members->topics;

	CDS_INIT_LIST_HEAD(&topics->all);
	CDS_INIT_LIST_HEAD(&topics->changed);
	CDS_INIT_LIST_HEAD(&topics->clusters);
	topics->entries = calloc(members->sessions->groups + 1, sizeof(topics->entries[0]));
	topics->peers = calloc(members->sessions->slots, sizeof(topics->peers[0]));
	if (topics->entries && topics->peers)
		return 0;
	free(topics->entries);
	free(topics->peers);
	return -ENOMEM;
}

void topics_fini(struct members *members)
{
	struct topics *topics = &members->topics;
	struct topic_entry *topic, *next;

	cds_list_for_each_entry_safe (topic, next, &topics->all, node) {
		topic_end(members, topic);
	}
	for (uint32_t i = 0; i < members->sessions->slots; i++)
		free(topics->peers[i]);
	free(topics->peers);
	free(topics->entries);
}
