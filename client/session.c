#include "session.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "peer.h"
#include "watch.h"

#define REACH_TIMEOUT  (3 * SECOND)
#define PING_FIRST     (50 * MILLISECOND)
#define PING_LAST      SECOND
#define FORGET_AFTER   (5 * SECOND)
#define RETIRE_AFTER   (5 * SECOND)
#define ECHO_TIMEOUT   (5 * SECOND)
#define REKEY_WAIT_MAX 60000 // ms

/* ---- Keeping it alive ---- */

/* Pings the relay over lane 0. If there is no room, later pings will have it. */
static void ping(struct session *session)
{
	int error;

	lane_message(session, 0, WIRE_CONTROL, WIRE_PING, &session->welcome.relay, CALL_TAG_PING, 0,
		     &error);
}

/* Pings until what is awaited has happened. */
static void await(struct session *session, enum session_await what)
{
	session->awaiting |= what;
	session->ping_delay = PING_FIRST;
	ping(session);
	context_timer_in(session->peer->v, &session->ping, session->ping_delay);
}

static void ping_due(struct timer *timer)
{
	struct session *session = owner_of(timer, struct session, ping);
	struct viaduct *v = session->peer->v;
	uint64_t keepalive = session->welcome.keepalive * SECOND, quiet, next;

	if (session->awaiting) {
		session->ping_delay *= 2;
		if (session->ping_delay > PING_LAST)
			session->ping_delay = PING_LAST;
		ping(session);
		next = session->ping_delay;
	} else {
		// quiet in either direction: who only sends must also know whether it arrives
		quiet = v->now - (session->sent < session->heard ? session->sent : session->heard);
		if (quiet >= keepalive)
			ping(session);
		next = quiet >= keepalive ? keepalive / 4 : keepalive - quiet;
	}
	context_timer_in(v, timer, next);
}

static void expiry_due(struct timer *timer)
{
	struct session *session = owner_of(timer, struct session, expiry);
	uint64_t expiry = session->welcome.expiry * SECOND;
	struct viaduct *v = session->peer->v;
	char text[160];

	if (session->awaiting & AWAIT_FIRST) {
		snprintf(text, sizeof(text), "joined, but the data port %s can't be reached",
			 session->data);
		peer_lost(session->peer, VIADUCT_E_DATA_PORT, text);
	} else if (v->now - session->heard >= expiry) {
		snprintf(text, sizeof(text), "the relay has not been heard for %u s",
			 session->welcome.expiry);
		peer_lost(session->peer, VIADUCT_E_EXPIRED, text);
	} else {
		context_timer(v, timer, session->heard + expiry);
	}
}

/* ---- Rekey ---- */

/* Some sooner than others, so that those who have joined together don't rekey together. */
static void rekey_schedule(struct session *session)
{
	uint64_t ms = session->welcome.rekey * UINT64_C(1000);

	context_timer_in(session->peer->v, &session->rekey,
			 ms * MILLISECOND * 4 / 5 + context_jitter(ms / 5));
}

/* Whether the relay would refuse a rekey because the last one is not over. */
static bool rekey_under_way(const struct session *session)
{
	return session->receiver.old || session->awaiting & AWAIT_PHASE;
}

static bool dialling(const struct session *session)
{
	return session->peer->dial != DIAL_IDLE && session->peer->dial != DIAL_DRAIN;
}

static void rekey_due(struct timer *timer)
{
	struct session *session = owner_of(timer, struct session, rekey);

	session->rekey_wanted = true;
	if (session->peer->state == PEER_JOINED && !rekey_under_way(session) && !dialling(session))
		dial_start(session->peer);
}

void session_rekey_soon(struct session *session)
{
	if (session->rekey_wanted)
		return;
	session->rekey_wanted = true;
	context_timer(session->peer->v, &session->rekey, session->peer->v->now);
}

static void forget_due(struct timer *timer)
{
	struct session *session = owner_of(timer, struct session, forget);

	keys_free(session->receiver.old);
	session->receiver.old = NULL;
	if (session->rekey_wanted)
		context_timer(session->peer->v, &session->rekey, session->peer->v->now);
}

void session_rekeyed(struct session *session, struct keys *keys)
{
	struct receiver *receiver = &session->receiver;

	receiver->old = receiver->current;
	receiver->current = keys;
	for (unsigned int i = 0; i < receiver->lane_count; i++)
		receiver->lanes[i].used = 0;
	for (unsigned int i = 0; i < session->welcome.lanes_up; i++)
		session->up[i].used = 0;
	session->rekey_wanted = false;
	session->rekey_attempts = 0;
	session->peer->stats.rekeys++;
	rekey_schedule(session);
	await(session, AWAIT_PHASE);
	peer_tell(session->peer, rekeyed, keys->epoch);
}

void session_rekey_failed(struct session *session, int error, const char *text,
			  uint64_t retry_after)
{
	uint64_t ms = UINT64_C(1000) << (session->rekey_attempts < 6 ? session->rekey_attempts : 6);

	session->rekey_attempts++;
	session->rekey_wanted = true;
	context_timer_in(session->peer->v, &session->rekey,
			 retry_after + context_jitter(ms < REKEY_WAIT_MAX ? ms : REKEY_WAIT_MAX));
	peer_tell(session->peer, warning, error, text);
}

int viaduct_rekey(struct viaduct_peer *peer)
{
	struct session *session = peer->session;

	if (peer->state != PEER_JOINED)
		return -ENOTCONN;
	if (rekey_under_way(session) || dialling(session))
		return -EALREADY;
	session->rekey_wanted = true;
	context_timer(peer->v, &session->rekey, peer->v->now);
	return 0;
}

/* ---- Moving to another address ---- */

static void retire_due(struct timer *timer)
{
	struct session *session = owner_of(timer, struct session, retire);

	while (session->retired_count)
		flow_close(&session->retired[--session->retired_count]);
}

/* The relay sends to the new address now; what it sent before may still be on its way. */
static void moved(struct session *session)
{
	session->awaiting &= ~(unsigned int)AWAIT_PATH;
	if (session->retired_count)
		context_timer_in(session->peer->v, &session->retire, RETIRE_AFTER);
}

int viaduct_roam(struct viaduct_peer *peer)
{
	struct session *session = peer->session;
	int ret;

	if (peer->state != PEER_JOINED)
		return -ENOTCONN;
	if (session->awaiting & AWAIT_PATH || session->retired_count == SESSION_RETIRED_MAX)
		return -EBUSY;
	ret = flow_open(&session->retired[session->retired_count], session, 0, false);
	if (ret)
		return ret;
	flow_exchange(&session->up[0], &session->retired[session->retired_count++]);
	context_timer_stop(peer->v, &session->retire);
	peer->stats.roams++;
	await(session, AWAIT_PATH);
	return 0;
}

static void echo_answered(struct viaduct_peer *peer, void *user, int error, const char *answer,
			  size_t length)
{
	// says as much as `path` does, and is repeated where that may get lost
	if (!error && !answer_parse_ok(answer, length))
		moved(peer->session);
}

static void echo(struct session *session, const char *token)
{
	json_t *root = json_pack("{ss ss}", "op", "echo", "token", token);
	char *text = json_dumps(root, JSON_COMPACT);

	if (text)
		call_control(session->peer, text, ECHO_TIMEOUT, echo_answered, NULL);
	free(text);
	json_decref(root);
}

/* Best effort: a relay that stops waits for those who haven't said that they go. */
static void say_leave(struct session *session)
{
	static const char leave[] = "{\"op\":\"leave\"}";
	uint8_t *payload;
	int error;

	payload = lane_message(session, 0, WIRE_CONTROL, WIRE_KIND_CONTROL, &session->welcome.relay,
			       0, sizeof(leave) - 1, &error);
	if (payload)
		memcpy(payload, leave, sizeof(leave) - 1);
	lane_flush(session);
}

/* ---- Leaving a relay that stops ---- */

static void leave_due(struct timer *timer)
{
	struct session *session = owner_of(timer, struct session, leave);

	say_leave(session);
	peer_lost(session->peer, VIADUCT_E_CLOSING, "the relay stops");
}

/* Until a moment of our own things go on as before, so that not all come elsewhere at once. */
static void relay_closes(struct session *session, const struct event *event)
{
	uint64_t within = event->within * SECOND;

	// it is said again and again
	if (session->leave.set)
		return;
	peer_elsewhere(session->peer, event);
	context_timer_in(session->peer->v, &session->leave,
			 context_jitter(2 * within / MILLISECOND) - within);
}

/* ---- Receiving ---- */

static void take_event(struct session *session, struct flow *flow, const uint8_t *text,
		       size_t length)
{
	struct viaduct_peer *peer = session->peer;
	struct event event;

	if (answer_parse_event(&event, text, length)) {
		peer->stats.malformed++;
		return;
	}
	switch (event.kind) {
	case EVENT_UNKNOWN:
		break;
	case EVENT_PATH:
		strcpy(session->path, event.address);
		moved(session);
		peer_tell(peer, path, session->path);
		break;
	case EVENT_CHALLENGE:
		// it is about the address that lane 0 sends from; elsewhere it is out of date
		if (flow == session->up[0].use.flow)
			echo(session, event.token);
		break;
	case EVENT_REKEY:
		session_rekey_soon(session);
		break;
	case EVENT_REPLACED:
		peer_lost(peer, VIADUCT_E_REPLACED, "another join of the same identity took over");
		break;
	case EVENT_REVOKED:
		peer_lost(peer, VIADUCT_E_REVOKED,
			  "the relay's operator has revoked this identity");
		break;
	case EVENT_PEER:
		watch_changed(session, &event);
		break;
	case EVENT_CLOSING:
		relay_closes(session, &event);
		break;
	case EVENT_CUT:
		peer_lost(peer, VIADUCT_E_CUT, viaduct_strerror(VIADUCT_E_CUT));
		break;
	}
}

/* Answers a ping with its own payload. */
static void answer_ping(struct session *session, const struct viaduct_message *message)
{
	struct wire_id to;
	uint8_t *payload;
	int error;

	if (message->length > session->welcome.max_payload)
		return;
	memcpy(&to, &message->from, sizeof(to));
	payload = lane_message(session, 0, (enum wire_class)message->class, WIRE_PONG, &to,
			       message->tag, message->length, &error);
	if (payload)
		memcpy(payload, message->data, message->length);
}

static void take_pong(struct session *session, const struct viaduct_message *message)
{
	uint64_t sent;

	if (message->tag & CALL_TAG)
		return; // the library's own
	if (message->length < sizeof(sent)) {
		session->peer->stats.malformed++;
		return;
	}
	sent = wire_get64(message->data);
	peer_tell(session->peer, pong, &message->from, message->tag, session->peer->v->now - sent);
}

/* What only the relay may say. */
static void take_relay(struct session *session, struct flow *flow, uint8_t kind,
		       const struct viaduct_message *message)
{
	struct viaduct_peer *peer = session->peer;
	enum viaduct_reason reason = kind & ~WIRE_ERROR;

	if (kind == WIRE_KIND_CONTROL && message->tag == 0)
		take_event(session, flow, message->data, message->length);
	else if (kind == WIRE_KIND_CONTROL)
		call_answered(peer, message->tag, message->data, message->length);
	else if (message->tag & CALL_TAG)
		call_refused(peer, message->tag, reason);
	else
		peer_tell(peer, error, message->tag, reason);
}

static void take_message(struct session *session, struct flow *flow,
			 const struct wire_message *wire, enum wire_class class)
{
	struct viaduct_peer *peer = session->peer;
	const uint8_t *payload = wire->data + WIRE_MESSAGE_HEADER;
	struct viaduct_message message = {
		.kind = (enum viaduct_kind)wire->kind,
		.class = (enum viaduct_class) class,
		.tag = wire_message_tag(wire->data),
		.sealed = wire->flags & WIRE_FLAG_SEALED,
		.failed = wire->kind == WIRE_RESPONSE && (wire->flags & WIRE_FLAG_FAILED),
		.length = wire->length,
	};
	bool from_relay = !memcmp(wire->data + 8, &session->welcome.relay, WIRE_ID_SIZE);
	bool control = class == WIRE_CONTROL;
	struct viaduct_id via;

	memcpy(&message.from, wire->data + 8, WIRE_ID_SIZE);
	if (wire->flags & WIRE_FLAG_VIA) {
		memcpy(&via, payload, sizeof(via));
		message.via = &via;
		message.through = via;
		payload += WIRE_VIA_SIZE;
	}
	message.data = payload;

	if (wire->kind == WIRE_PING)
		answer_ping(session, &message);
	else if (wire->kind == WIRE_PONG)
		take_pong(session, &message);
	else if (from_relay &&
		 (wire->kind & WIRE_ERROR || (wire->kind == WIRE_KIND_CONTROL && control)))
		take_relay(session, flow, wire->kind, &message);
	else if (wire->kind == WIRE_RESPONSE && !control)
		call_responded(peer, &message);
	else if (!control && (wire->kind == WIRE_SEND || wire->kind == WIRE_REQUEST ||
			      (wire->kind == WIRE_PUBLISH && message.via)))
		peer_tell(peer, message, &message);
	else
		peer->stats.malformed++;
}

/* Something authentic has come. */
static void heard(struct session *session, bool current)
{
	struct viaduct *v = session->peer->v;

	session->heard = v->now;
	if (session->awaiting & AWAIT_FIRST) {
		session->awaiting &= ~(unsigned int)AWAIT_FIRST;
		context_timer(v, &session->expiry, v->now + session->welcome.expiry * SECOND);
		peer_reached(session->peer);
	}
	if (session->awaiting & AWAIT_PHASE && current && !session->dead) {
		session->awaiting &= ~(unsigned int)AWAIT_PHASE;
		context_timer(v, &session->forget, v->now + FORGET_AFTER);
	}
}

void session_receive(struct session *session, struct flow *flow, uint8_t *data, size_t size)
{
	struct viaduct_stats *stats = &session->peer->stats;
	struct receiver *receiver = &session->receiver;
	struct wire_message message;
	struct received received;
	size_t offset = 0;

	switch (receive_open(&received, receiver, data, size)) {
	case RECEIVE_OK:
		break;
	case RECEIVE_MALFORMED:
		stats->malformed++;
		return;
	case RECEIVE_REPLAYED:
		stats->replayed++;
		return;
	case RECEIVE_FORGED:
		stats->forged++;
		return;
	}
	stats->records_received++;
	stats->bytes_received += size;
	if (receiver->lanes[received.record.lane].used >=
	    session->welcome.key_records / receiver->lane_count / 2)
		session_rekey_soon(session);
	heard(session, received.current);
	while (!session->dead && offset < received.length) {
		offset = wire_message_get(&message, received.text, received.length, offset);
		if (!offset)
			break; // receive_open() has made sure that this can't be
		stats->messages_received++;
		take_message(session, flow, &message, received.record.class);
	}
}

/* ---- Beginning and end ---- */

static int flows_open(struct session *session)
{
	for (unsigned int i = 0; i < session->welcome.lanes_up; i++) {
		int ret = flow_open(&session->up[i].use, session, i, true);

		if (ret)
			return ret;
	}
	return 0;
}

int session_open(struct viaduct_peer *peer, const struct welcome *welcome, struct keys *keys)
{
	struct viaduct *v = peer->v;
	struct session *session;
	int ret = -ENOMEM;

	session = calloc(1, sizeof(*session) + welcome->lanes_up * sizeof(session->up[0]));
	if (!session) {
		keys_free(keys);
		return -ENOMEM;
	}
	session->peer = peer;
	session->welcome = *welcome;
	session->receiver = (struct receiver){
		.index = welcome->index,
		.size_max = welcome->mtu - WIRE_IP_OVERHEAD,
		.lane_count = welcome->lanes_down,
		.lanes = calloc(welcome->lanes_down, sizeof(struct receive_lane)),
		.current = keys,
	};
	session->ping.fire = ping_due;
	session->expiry.fire = expiry_due;
	session->leave.fire = leave_due;
	session->rekey.fire = rekey_due;
	session->forget.fire = forget_due;
	session->retire.fire = retire_due;
	answer_format_address(session->data, &welcome->data);
	peer->session = session;
	if (!session->receiver.lanes)
		goto out;
	ret = remote_enter(session);
	if (!ret)
		ret = flows_open(session);
	if (ret)
		goto out;
	session->heard = session->sent = context_now(v);
	context_timer_in(v, &session->expiry, REACH_TIMEOUT);
	rekey_schedule(session);
	await(session, AWAIT_FIRST);
	return 0;
out:
	session_end(session);
	return ret;
}

/* What the relay's lanes lost goes into the peer's sum. */
static uint64_t lost(const struct session *session)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < session->receiver.lane_count; i++)
		sum += receive_lost(&session->receiver.lanes[i]);
	return sum;
}

void session_end(struct session *session)
{
	struct viaduct *v = session->peer->v;
	struct timer *timers[] = {&session->ping,  &session->expiry, &session->leave,
				  &session->rekey, &session->forget, &session->retire};

	for (size_t i = 0; i < sizeof(timers) / sizeof(timers[0]); i++)
		context_timer_stop(v, timers[i]);
	if (session->dirty)
		STAILQ_REMOVE(&v->dirty, session, session, dirty_link);
	if (session->receiver.lanes)
		session->peer->lost += lost(session);
	remote_leave(session);
	session->dead = true;
	session->peer->session = NULL;
	LIST_INSERT_HEAD(&v->ended, session, link_ended);
}

void session_free(struct session *session)
{
	LIST_REMOVE(session, link_ended);
	retire_due(&session->retire);
	for (unsigned int i = 0; i < session->welcome.lanes_up; i++)
		lane_fini(session, &session->up[i]);
	keys_free(session->receiver.current);
	keys_free(session->receiver.old);
	free(session->receiver.lanes);
	free(session);
}

/* ---- Looking at it ---- */

int viaduct_peer_session(const struct viaduct_peer *peer, struct viaduct_session *out)
{
	const struct session *session = peer->session;
	const struct welcome *welcome;

	if (peer->state != PEER_JOINED)
		return -ENOTCONN;
	welcome = &session->welcome;
	*out = (struct viaduct_session){
		.data = session->data,
		.path = session->path,
		.cipher = wire_aead_name(welcome->aead),
		.index = welcome->index,
		.epoch = session->receiver.current->epoch,
		.lanes_up = welcome->lanes_up,
		.lanes_down = welcome->lanes_down,
		.mtu = welcome->mtu,
		.keepalive = welcome->keepalive,
		.expiry = welcome->expiry,
		.rekey = welcome->rekey,
		.key_records = welcome->key_records,
	};
	memcpy(&out->relay, &welcome->relay, sizeof(out->relay));
	return 0;
}

void viaduct_peer_stats(const struct viaduct_peer *peer, struct viaduct_stats *stats)
{
	*stats = peer->stats;
	stats->lost = peer->lost + (peer->session ? lost(peer->session) : 0);
	stats->requests = peer->calls.count;
}

int viaduct_lane_stats(const struct viaduct_peer *peer, bool up, unsigned int lane,
		       struct viaduct_lane_stats *stats)
{
	const struct session *session = peer->session;
	const struct receive_lane *down;

	if (peer->state != PEER_JOINED)
		return -ENOTCONN;
	if (lane >= (up ? session->welcome.lanes_up : session->welcome.lanes_down))
		return -EINVAL;
	down = &session->receiver.lanes[up ? 0 : lane];
	stats->records = up ? session->up[lane].sequence : down->seen;
	stats->lost = up ? 0 : receive_lost(down);
	return 0;
}
