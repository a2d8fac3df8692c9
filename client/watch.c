#include "watch.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>

#include "peer.h"

#define WATCH_TIMEOUT (5 * SECOND)

/* How many events lie between the last one known and this one. */
static uint64_t missed(struct session *session, const struct event *event, bool is_event)
{
	uint64_t last = session->watch_last, next = event->sequence - is_event;

	if (!session->watch_known)
		last = next;
	session->watch_known = true;
	if (event->sequence > session->watch_last)
		session->watch_last = event->sequence;
	return next > last ? next - last : 0;
}

void watch_changed(struct session *session, const struct event *event)
{
	bool is_event = strcmp(event->change, "missed") != 0;
	struct viaduct_change change = {
		.what = event->change,
		.name = event->name,
		.missed = missed(session, event, is_event),
	};

	memcpy(&change.id, &event->id, sizeof(change.id));
	peer_tell(session->peer, changed, &change);
}

static void watch_answered(struct viaduct_peer *peer, void *user, int error, const char *answer,
			   size_t length)
{
	struct session *session = peer->session;
	uint64_t sequence;

	if (!error && answer_parse_watch(&sequence, answer, length))
		error = VIADUCT_E_PROTOCOL;
	if (error == -ENOTCONN)
		return; // whoever is told of that knows
	if (error) {
		peer_tell(peer, warning, error, "the relay won't say what happens to peers");
		return;
	}
	if (!session->watch_known)
		session->watch_last = sequence;
	session->watch_known = true;
}

int viaduct_watch(struct viaduct_peer *peer, const char *cluster, const struct viaduct_id *id)
{
	char text[VIADUCT_ID_TEXT + 1], *question;
	json_t *root;
	int ret;

	if (peer->state != PEER_JOINED)
		return -ENOTCONN;
	if (id)
		viaduct_id_format(text, id);
	root = json_pack("{ss ss* ss*}", "op", "watch", "cluster", cluster, "id", id ? text : NULL);
	question = json_dumps(root, JSON_COMPACT);
	json_decref(root);
	ret = question ? call_control(peer, question, WATCH_TIMEOUT, watch_answered, NULL)
		       : -ENOMEM;
	free(question);
	return ret;
}

static void unwatch_answered(struct viaduct_peer *peer, void *user, int error, const char *answer,
			     size_t length)
{
	if (!error)
		peer->session->watch_known = false;
}

int viaduct_unwatch(struct viaduct_peer *peer)
{
	if (peer->state != PEER_JOINED)
		return -ENOTCONN;
	return call_control(peer, "{\"op\":\"unwatch\"}", WATCH_TIMEOUT, unwatch_answered, NULL);
}
