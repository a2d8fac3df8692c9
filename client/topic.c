#include "topic.h"

#include <errno.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "peer.h"

#define TIMEOUT (5 * SECOND)

struct topic {
	char *name;
	char *cluster; // NULL: only this peer
	bool wanted;
	bool had;    // as far as the relay has said
	bool asking; // the opposite of `had`
};

static void topic_free(struct viaduct_peer *peer, struct topic *topic)
{
	struct topics *topics = &peer->topics;
	unsigned int at = 0;

	while (topics->all[at] != topic)
		at++;
	topics->all[at] = topics->all[--topics->count];
	free(topic->name);
	free(topic->cluster);
	free(topic);
}

static void answered(struct viaduct_peer *peer, void *user, int error, const char *answer,
		     size_t length);

/* Asks for what is wanted and not yet so. Returns 0 or a negative errno. */
static int ask(struct viaduct_peer *peer, struct topic *topic)
{
	json_t *question;
	char *text;
	int ret;

	if (peer->state != PEER_JOINED || topic->asking)
		return 0;
	if (topic->wanted == topic->had) {
		if (!topic->wanted)
			topic_free(peer, topic);
		return 0;
	}
	question = json_pack("{ss ss ss*}", "op", topic->wanted ? "join_topic" : "leave_topic",
			     "name", topic->name, "cluster", topic->wanted ? topic->cluster : NULL);
	text = json_dumps(question, JSON_COMPACT);
	json_decref(question);
	if (!text)
		return -ENOMEM;
	ret = call_control(peer, text, TIMEOUT, answered, topic);
	free(text);
	topic->asking = ret == 0;
	return ret;
}

/* The relay refuses; that won't change by asking again. */
static void refused(struct viaduct_peer *peer, struct topic *topic, int error, const char *text)
{
	char name[VIADUCT_NAME_MAX + 1];
	bool wanted = topic->wanted;

	snprintf(name, sizeof(name), "%s", topic->name);
	topic_free(peer, topic);
	if (wanted)
		peer_tell(peer, topic, name, error, text);
}

static void answered(struct viaduct_peer *peer, void *user, int error, const char *answer,
		     size_t length)
{
	struct topic *topic = user;
	struct refusal refusal;
	char text[sizeof(refusal)];
	int ret;

	topic->asking = false;
	// without a session it is asked again with the next; else it is repeated
	if (error == -ENOTCONN || error == -ETIMEDOUT) {
		ask(peer, topic);
		return;
	}
	ret = error ? error : answer_parse_done(&refusal, answer, length);
	if (ret == -EACCES) {
		snprintf(text, sizeof(text), "%s: %s", refusal.code, refusal.detail);
		refused(peer, topic, ret, text);
	} else if (ret) {
		refused(peer, topic, ret, viaduct_strerror(ret));
	} else {
		topic->had = !topic->had;
		if (topic->had && topic->wanted)
			peer_tell(peer, topic, topic->name, 0, "joined");
		else
			ask(peer, topic);
	}
}

/* One that has yet to be asked for, or forgotten. */
static struct topic *find_open(struct viaduct_peer *peer)
{
	for (unsigned int i = 0; i < peer->topics.count; i++) {
		struct topic *topic = peer->topics.all[i];

		if (!topic->asking && (!topic->wanted || !topic->had))
			return topic;
	}
	return NULL;
}

void topics_joined(struct viaduct_peer *peer)
{
	struct topic *topic;
	int ret;

	for (unsigned int i = 0; i < peer->topics.count; i++)
		peer->topics.all[i]->had = false;
	// callbacks may change the list, or close the peer
	while (peer->state == PEER_JOINED && (topic = find_open(peer))) {
		ret = ask(peer, topic);
		if (ret)
			refused(peer, topic, ret, viaduct_strerror(ret));
	}
}

void topics_free(struct viaduct_peer *peer)
{
	while (peer->topics.count)
		topic_free(peer, peer->topics.all[0]);
	free(peer->topics.all);
}

static struct topic *find(struct viaduct_peer *peer, const char *name)
{
	for (unsigned int i = 0; i < peer->topics.count; i++) {
		if (!strcmp(peer->topics.all[i]->name, name))
			return peer->topics.all[i];
	}
	return NULL;
}

/* A new topic without a name; NULL: no memory. */
static struct topic *topic_new(struct topics *topics)
{
	unsigned int room = topics->room ? 2 * topics->room : 4;
	struct topic **all = topics->all;
	struct topic *topic;

	if (topics->count == topics->room) {
		all = realloc(topics->all, room * sizeof(*all));
		if (!all)
			return NULL;
		topics->all = all;
		topics->room = room;
	}
	topic = calloc(1, sizeof(*topic));
	if (topic)
		all[topics->count++] = topic;
	return topic;
}

static bool same(const char *a, const char *b)
{
	return a && b ? !strcmp(a, b) : a == b;
}

int viaduct_topic_join(struct viaduct_peer *peer, const char *name, const char *cluster)
{
	struct topic *topic = find(peer, name);
	int ret;

	if (strlen(name) > VIADUCT_NAME_MAX)
		return -ENAMETOOLONG;
	if (topic && topic->wanted)
		return same(topic->cluster, cluster) ? 0 : -EEXIST;
	if (topic) {
		if (!same(topic->cluster, cluster))
			return -EBUSY;
		topic->wanted = true;
		return ask(peer, topic);
	}
	topic = topic_new(&peer->topics);
	if (!topic)
		return -ENOMEM;
	topic->name = strdup(name);
	topic->cluster = cluster ? strdup(cluster) : NULL;
	topic->wanted = true;
	ret = -ENOMEM;
	if (topic->name && (topic->cluster || !cluster))
		ret = ask(peer, topic);
	if (ret)
		topic_free(peer, topic);
	return ret;
}

int viaduct_topic_leave(struct viaduct_peer *peer, const char *name)
{
	struct topic *topic = find(peer, name);

	if (!topic || !topic->wanted)
		return -ENOENT;
	topic->wanted = false;
	// without a session there is nobody to tell
	if (peer->state != PEER_JOINED) {
		topic_free(peer, topic);
		return 0;
	}
	return ask(peer, topic);
}

void viaduct_topic_id(struct viaduct_id *id, const char *name)
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	EVP_MD_CTX *context = EVP_MD_CTX_new();

	if (!context || !EVP_DigestInit_ex(context, EVP_sha256(), NULL) ||
	    !EVP_DigestUpdate(context, WIRE_TOPIC_PREFIX, sizeof(WIRE_TOPIC_PREFIX) - 1) ||
	    !EVP_DigestUpdate(context, name, strlen(name)) ||
	    !EVP_DigestFinal_ex(context, digest, NULL))
		memset(digest, 0, sizeof(digest)); // out of memory: nobody's id
	EVP_MD_CTX_free(context);
	memcpy(id, digest, sizeof(*id));
}

int viaduct_publish(struct viaduct_peer *peer, unsigned int lane, enum viaduct_class class,
		    const struct viaduct_id *topic, uint32_t tag, const void *data, size_t length)
{
	int ret = tag > VIADUCT_TAG_MAX ? -EINVAL : peer_sendable(peer, lane, class, length);

	return ret ? ret : peer_put(peer, lane, class, WIRE_PUBLISH, topic, tag, data, length);
}
