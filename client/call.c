#include "call.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "peer.h"

#define CONTROL_TIMEOUT (5 * SECOND)
#define CONTROL_REPEAT  (250 * MILLISECOND)
#define CONTROL_SLOWEST SECOND

struct call {
	struct timer timer;
	struct viaduct_peer *peer;
	uint32_t tag;
	void *user;

	viaduct_response_cb *response; // of a request
	struct wire_id to;

	call_answer_fn *answer; // of a control question, or
	viaduct_list_cb *list;
	char *text;
	uint64_t deadline, delay; // ns
};

/* ---- The table ---- */

static int table_grow(struct calls *calls)
{
	unsigned int size = calls->size ? calls->size * 2 : 8;
	struct call **table;
	uint16_t *spare;

	if (calls->size == VIADUCT_REQUESTS_MAX)
		return -EBUSY;
	table = realloc(calls->table, size * sizeof(*table));
	if (!table)
		return -ENOMEM;
	calls->table = table;
	spare = realloc(calls->spare, size * sizeof(*spare));
	if (!spare)
		return -ENOMEM;
	calls->spare = spare;
	for (unsigned int i = size; i-- > calls->size;) {
		table[i] = NULL;
		spare[calls->spare_count++] = (uint16_t)i;
	}
	calls->size = size;
	return 0;
}

static int call_new(struct call **made, struct viaduct_peer *peer, void *user)
{
	struct calls *calls = &peer->calls;
	struct call *call;
	uint16_t place;
	int ret;

	if (!calls->spare_count) {
		ret = table_grow(calls);
		if (ret)
			return ret;
	}
	call = calloc(1, sizeof(*call));
	if (!call)
		return -ENOMEM;
	place = calls->spare[--calls->spare_count];
	calls->table[place] = call;
	calls->count++;
	calls->turn = (calls->turn + 1) & 0x7fff;
	call->peer = peer;
	call->user = user;
	call->tag = CALL_TAG | (uint32_t)calls->turn << 16 | place;
	*made = call;
	return 0;
}

static void call_free(struct call *call)
{
	struct calls *calls = &call->peer->calls;
	uint16_t place = (uint16_t)call->tag;

	context_timer_stop(call->peer->v, &call->timer);
	calls->table[place] = NULL;
	calls->spare[calls->spare_count++] = place;
	calls->count--;
	free(call->text);
	free(call);
}

static struct call *call_find(const struct calls *calls, uint32_t tag)
{
	unsigned int place = tag & 0xffff;

	if (place >= calls->size || !calls->table[place] || calls->table[place]->tag != tag)
		return NULL;
	return calls->table[place];
}

/* Ends a call without an answer. */
static void call_fail(struct call *call, int error)
{
	struct viaduct_peer *peer = call->peer;
	struct call ended = *call;

	call_free(call);
	if (ended.response)
		ended.response(peer, ended.user, error, NULL);
	else if (ended.list)
		ended.list(peer, ended.user, error, NULL, 0, false);
	else if (ended.answer)
		ended.answer(peer, ended.user, error, NULL, 0);
}

void call_lost(struct viaduct_peer *peer)
{
	struct calls *calls = &peer->calls;

	for (unsigned int i = 0; i < calls->size; i++)
		if (calls->table[i])
			call_fail(calls->table[i], -ENOTCONN);
}

void call_free_all(struct viaduct_peer *peer)
{
	struct calls *calls = &peer->calls;

	for (unsigned int i = 0; i < calls->size; i++)
		if (calls->table[i])
			call_free(calls->table[i]);
	free(calls->table);
	free(calls->spare);
	memset(calls, 0, sizeof(*calls));
}

/* ---- Requests ---- */

static void request_late(struct timer *timer)
{
	call_fail(owner_of(timer, struct call, timer), -ETIMEDOUT);
}

static int request(struct viaduct_peer *peer, unsigned int lane, enum viaduct_class class,
		   const struct viaduct_id *to, const struct peer_flagged *flagged,
		   const void *data, size_t length, unsigned int timeout_ms,
		   viaduct_response_cb *callback, void *user)
{
	struct call *call;
	int ret;

	if (!timeout_ms || !callback)
		return -EINVAL;
	ret = peer_sendable(peer, lane, class, length);
	if (!ret)
		ret = call_new(&call, peer, user);
	if (ret)
		return ret;
	call->response = callback;
	memcpy(&call->to, to, sizeof(call->to));
	ret = peer_put_flagged(peer, lane, class, WIRE_REQUEST, to, call->tag, flagged, data,
			       length);
	if (ret) {
		call_free(call);
		return ret;
	}
	call->timer.fire = request_late;
	context_timer_in(peer->v, &call->timer, timeout_ms * MILLISECOND);
	return 0;
}

int viaduct_request(struct viaduct_peer *peer, unsigned int lane, enum viaduct_class class,
		    const struct viaduct_id *to, const void *data, size_t length,
		    unsigned int timeout_ms, viaduct_response_cb *callback, void *user)
{
	return request(peer, lane, class, to, &(struct peer_flagged){0}, data, length, timeout_ms,
		       callback, user);
}

int viaduct_request_sticky(struct viaduct_peer *peer, unsigned int lane, enum viaduct_class class,
			   const struct viaduct_id *service, uint64_t key, const void *data,
			   size_t length, unsigned int timeout_ms, viaduct_response_cb *callback,
			   void *user)
{
	uint8_t bytes[WIRE_SERVICE_KEY];
	const struct peer_flagged flagged = {WIRE_FLAG_KEY, bytes, sizeof(bytes)};

	wire_put64(bytes, key);
	return request(peer, lane, class, service, &flagged, data, length, timeout_ms, callback,
		       user);
}

void call_responded(struct viaduct_peer *peer, const struct viaduct_message *response)
{
	struct call *call = call_find(&peer->calls, response->tag);
	viaduct_response_cb *callback;
	void *user;

	// only from whom it was asked of, or on behalf of the service that was
	if (!call || !call->response ||
	    (memcmp(&call->to, &response->from, sizeof(call->to)) &&
	     (!response->via || memcmp(&call->to, response->via, sizeof(call->to))))) {
		peer->stats.unmatched++;
		return;
	}
	callback = call->response;
	user = call->user;
	call_free(call);
	callback(peer, user, 0, response);
}

void call_refused(struct viaduct_peer *peer, uint32_t tag, enum viaduct_reason reason)
{
	struct call *call = call_find(&peer->calls, tag);

	if (call && call->response)
		call_fail(call, (int)reason);
	else
		peer->stats.unmatched++;
}

/* ---- Control ---- */

/* Sends the question. If there is no room now, the next repeat may find some. */
static void control_send(struct call *call)
{
	struct session *session = call->peer->session;
	size_t length = strlen(call->text);
	uint8_t *payload;
	int error;

	payload = lane_message(session, 0, WIRE_CONTROL, WIRE_KIND_CONTROL, &session->welcome.relay,
			       call->tag, length, &error);
	if (payload)
		memcpy(payload, call->text, length);
}

static void control_due(struct timer *timer)
{
	struct call *call = owner_of(timer, struct call, timer);
	struct viaduct *v = call->peer->v;

	if (v->now >= call->deadline) {
		call_fail(call, -ETIMEDOUT);
		return;
	}
	control_send(call);
	call->delay = call->delay * 2 < CONTROL_SLOWEST ? call->delay * 2 : CONTROL_SLOWEST;
	context_timer(v, timer,
		      v->now + call->delay < call->deadline ? v->now + call->delay
							    : call->deadline);
}

/* Takes the text in any case. */
static int control_start(struct call **made, struct viaduct_peer *peer, char *text,
			 uint64_t timeout, void *user)
{
	struct call *call;
	int ret;

	ret = !text ? -ENOMEM : !peer->session ? -ENOTCONN : 0;
	if (!ret && strlen(text) > peer->session->welcome.max_payload)
		ret = -EMSGSIZE;
	if (!ret)
		ret = call_new(&call, peer, user);
	if (ret) {
		free(text);
		return ret;
	}
	call->text = text;
	call->deadline = context_now(peer->v) + timeout;
	call->delay = CONTROL_REPEAT;
	call->timer.fire = control_due;
	control_send(call);
	context_timer_in(peer->v, &call->timer, call->delay);
	*made = call;
	return 0;
}

int call_control(struct viaduct_peer *peer, const char *text, uint64_t timeout,
		 call_answer_fn *answer, void *user)
{
	struct call *call;
	int ret = control_start(&call, peer, strdup(text), timeout, user);

	if (!ret)
		call->answer = answer;
	return ret;
}

static int list_start(struct viaduct_peer *peer, json_t *question, viaduct_list_cb *callback,
		      void *user)
{
	struct call *call;
	int ret;

	if (peer->state != PEER_JOINED)
		ret = -ENOTCONN;
	else
		ret = control_start(&call, peer, json_dumps(question, JSON_COMPACT),
				    CONTROL_TIMEOUT, user);
	json_decref(question);
	if (!ret)
		call->list = callback;
	return ret;
}

/*
 * The question for what comes behind `last`; NULL if the relay's lists don't get on, for then this
 * would never end.
 */
static json_t *next_question(const char *text, const struct viaduct_id *last)
{
	json_t *question = json_loads(text, 0, NULL);
	const char *after = json_string_value(json_object_get(question, "after"));
	char id[VIADUCT_ID_TEXT + 1];
	struct viaduct_id before;

	if (after && !viaduct_id_parse(&before, after) &&
	    memcmp(last, &before, sizeof(before)) <= 0) {
		json_decref(question);
		return NULL;
	}
	viaduct_id_format(id, last);
	json_object_set_new(question, "after", json_string(id));
	return question;
}

static void list_answered(struct call *call, const char *text, size_t length)
{
	struct viaduct_peer *peer = call->peer;
	viaduct_list_cb *callback = call->list;
	void *user = call->user;
	json_t *question = NULL;
	struct list list;
	int ret;

	if (answer_parse_list(&list, text, length)) {
		call_fail(call, VIADUCT_E_PROTOCOL);
		return;
	}
	list.more = list.more && list.count;
	if (list.more)
		question = next_question(call->text, &list.entries[list.count - 1].id);
	call_free(call);
	callback(peer, user, 0, list.entries, list.count, list.more);
	if (list.more && peer->state == PEER_JOINED) {
		ret = question ? list_start(peer, question, callback, user) : VIADUCT_E_PROTOCOL;
		if (ret)
			callback(peer, user, ret, NULL, 0, false);
	} else {
		json_decref(question); // the callback has closed the peer
	}
	list_free(&list);
}

void call_answered(struct viaduct_peer *peer, uint32_t tag, const char *text, size_t length)
{
	struct call *call = call_find(&peer->calls, tag);
	call_answer_fn *answer;
	char *copy;
	void *user;

	if (!call || call->response) {
		peer->stats.unmatched++;
	} else if (call->list) {
		list_answered(call, text, length);
	} else {
		answer = call->answer;
		user = call->user;
		call_free(call);
		copy = strndup(text, length); // for the NUL
		answer(peer, user, copy ? 0 : -ENOMEM, copy, copy ? length : 0);
		free(copy);
	}
}

int viaduct_control(struct viaduct_peer *peer, const char *request, viaduct_control_cb *callback,
		    void *user)
{
	if (peer->state != PEER_JOINED)
		return -ENOTCONN;
	return call_control(peer, request, CONTROL_TIMEOUT, callback, user);
}

int call_ask(struct viaduct_peer *peer, json_t *question, viaduct_control_cb *callback, void *user)
{
	char *text = json_dumps(question, JSON_COMPACT);
	int ret = text ? viaduct_control(peer, text, callback, user) : -ENOMEM;

	free(text);
	json_decref(question);
	return ret;
}

int viaduct_complain(struct viaduct_peer *peer, const struct viaduct_id *about, const char *reason,
		     viaduct_control_cb *callback, void *user)
{
	char text[VIADUCT_ID_TEXT + 1];

	if (strlen(reason) > VIADUCT_COMPLAINT_MAX)
		return -EMSGSIZE;
	viaduct_id_format(text, about);
	return call_ask(peer,
			json_pack("{ss ss ss}", "op", "complain", "peer", text, "reason", reason),
			callback, user);
}

int viaduct_resolve(struct viaduct_peer *peer, const char *name, viaduct_list_cb *callback,
		    void *user)
{
	return list_start(peer, json_pack("{ss ss}", "op", "resolve", "name", name), callback,
			  user);
}

int viaduct_peers(struct viaduct_peer *peer, const char *cluster, viaduct_list_cb *callback,
		  void *user)
{
	return list_start(peer, json_pack("{ss ss*}", "op", "peers", "cluster", cluster), callback,
			  user);
}
