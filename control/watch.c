#include "watch.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "member.h"

enum { SECOND_US = 1000000, SAVED_S = 2 };

void watches_init(struct watches *watches, unsigned int max)
{
	memset(watches, 0, sizeof(*watches));
	CDS_INIT_LIST_HEAD(&watches->list);
	watches->max = max;
}

int watch_begin(struct members *members, struct member_session *session, const struct wire_id *id,
		const char *cluster, uint64_t *sequence)
{
	struct watches *watches = &members->watches;
	struct watch *watch = session->watch;
	char *copy = NULL;

	if (!watch && watches->count >= watches->max)
		return -EBUSY;
	if (cluster && !(copy = strdup(cluster)))
		return -ENOMEM;
	if (!watch) {
		watch = calloc(1, sizeof(*watch));
		if (!watch) {
			free(copy);
			return -ENOMEM;
		}
		watch->session = session;
		session->watch = watch;
		cds_list_add_tail(&watch->node, &watches->list);
		watches->count++;
	}
	free(watch->cluster);
	watch->cluster = copy;
	watch->one = id != NULL;
	if (id)
		watch->id = *id;
	*sequence = watch->sequence;
	return 0;
}

void watch_end(struct members *members, struct member_session *session)
{
	struct watch *watch = session->watch;

	if (!watch)
		return;
	members->watches.behind -= watch->told != watch->sequence;
	members->watches.count--;
	cds_list_del(&watch->node);
	free(watch->cluster);
	free(watch);
	session->watch = NULL;
}

/* A budget is the time when it will be full again (GCRA, ITU-T I.371). */
static bool has(uint64_t full_us, unsigned int per_second, uint64_t now_us)
{
	return full_us + SECOND_US / per_second <= now_us + SAVED_S * SECOND_US;
}

static void take(uint64_t *full_us, unsigned int per_second, uint64_t now_us)
{
	*full_us = (*full_us > now_us ? *full_us : now_us) + SECOND_US / per_second;
}

/* Whether one more may be told now; counts it if so. */
static bool may_tell(struct watches *watches, struct watch *watch)
{
	uint64_t now_us = watches->now_us;

	if (!has(watch->full_us, WATCH_PER_SECOND, now_us) ||
	    !has(watches->full_us, WATCH_ALL_PER_SECOND, now_us))
		return false;
	take(&watch->full_us, WATCH_PER_SECOND, now_us);
	take(&watches->full_us, WATCH_ALL_PER_SECOND, now_us);
	return true;
}

static bool is_about(const struct members *members, const struct watch *watch,
		     const struct member_session *session)
{
	const struct member *member = session->member;

	if (member == watch->session->member ||
	    (watch->one && !wire_id_equal(&watch->id, &member->id)) ||
	    (watch->cluster && strcmp(watch->cluster, member->cluster) != 0))
		return false;
	return member_may_send(members, watch->session, session);
}

/* The event without its number and its end. Returns its length. */
static size_t write_event(char text[FORWARD_PAYLOAD_MAX], const struct member *member,
			  const char *event)
{
	// room for the number
	const size_t size = FORWARD_PAYLOAD_MAX - 64;
	json_t *root = json_pack("{ss ss ss ss}", "event", "peer", "change", event, "id",
				 member->text, "name", member->name);
	size_t length = json_dumpb(root, text, size, JSON_COMPACT);

	if (length > size) {
		// a name that is too long in JSON; who needs it can ask
		json_object_del(root, "name");
		length = json_dumpb(root, text, size, JSON_COMPACT);
	}
	json_decref(root);
	return length ? length - 1 : 0;
}

static void say(struct members *members, struct watch *watch, char text[FORWARD_PAYLOAD_MAX],
		size_t length)
{
	length += (size_t)snprintf(text + length, FORWARD_PAYLOAD_MAX - length,
				   ",\"sequence\":%llu}", (unsigned long long)watch->sequence);
	members->watches.behind -= watch->told != watch->sequence;
	watch->told = watch->sequence;
	member_send(members, watch->session, 0, text, length);
}

void watches_tell(struct members *members, const struct member_session *session, const char *event)
{
	struct watches *watches = &members->watches;
	char text[FORWARD_PAYLOAD_MAX];
	size_t length = 0;
	struct watch *watch;

	// a peer that comes back joins once more
	if (cds_list_empty(&watches->list) || strcmp(event, "replaced") == 0)
		return;
	cds_list_for_each_entry (watch, &watches->list, node) {
		bool behind = watch->told != watch->sequence;

		if (!is_about(members, watch, session))
			continue;
		if (!length)
			length = write_event(text, session->member, event);
		watch->sequence++;
		watches->behind += !behind;
		if (length && may_tell(watches, watch))
			say(members, watch, text, length);
	}
	// so that the budget of all isn't always used up by the same
	watch = cds_list_first_entry(&watches->list, struct watch, node);
	cds_list_del(&watch->node);
	cds_list_add_tail(&watch->node, &watches->list);
}

void watches_tick(struct members *members, uint64_t now_ms)
{
	struct watches *watches = &members->watches;
	char text[FORWARD_PAYLOAD_MAX] = "{\"event\":\"peer\",\"change\":\"missed\"";
	size_t length = strlen(text);
	struct watch *watch;

	watches->now_us = now_ms * 1000;
	if (!watches->behind)
		return;
	cds_list_for_each_entry (watch, &watches->list, node) {
		if (watch->told != watch->sequence && may_tell(watches, watch))
			say(members, watch, text, length);
	}
}
