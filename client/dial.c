#include "dial.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "peer.h"

static void dial_end(struct viaduct_peer *peer)
{
	struct viaduct *v = peer->v;

	link_free(peer->link);
	peer->link = NULL;
	peer->dial = DIAL_IDLE;
	v->dialling--;
	if (!TAILQ_EMPTY(&v->rekeys) || !TAILQ_EMPTY(&v->joins))
		context_timer(v, &v->dial, v->now);
}

/* Connects to the address whose turn it is, or the first behind it that can be tried. */
static int dial_connect(struct viaduct_peer *peer, char *text, size_t size)
{
	struct relay *relay = peer->relay;
	int ret = -EHOSTUNREACH;

	if (!relay->count)
		snprintf(text, size, "the name %s has no address", relay->host);
	for (; peer->address < relay->count; peer->address++) {
		ret = link_open(peer, &relay->addresses[peer->address], text, size);
		if (!ret)
			break;
	}
	return ret;
}

static void dial_begin(struct viaduct_peer *peer)
{
	char text[256];
	int ret;

	peer->dial = DIAL_LINK;
	peer->v->dialling++;
	peer->address = 0;
	ret = dial_connect(peer, text, sizeof(text));
	if (!ret)
		return;
	dial_end(peer);
	peer_unanswered(peer, ret, text);
}

void dial_turn(struct timer *timer)
{
	struct viaduct *v = owner_of(timer, struct viaduct, dial);
	struct viaduct_peer *peer;

	while (v->dialling < v->dialling_max) {
		// rekeys first: their keys are running out
		peer = TAILQ_FIRST(&v->rekeys);
		if (!peer)
			peer = TAILQ_FIRST(&v->joins);
		if (!peer)
			break;
		TAILQ_REMOVE(peer->line, peer, link_dials);
		dial_begin(peer);
	}
}

static void dial_queue(struct viaduct_peer *peer)
{
	struct viaduct *v = peer->v;

	peer->dial = DIAL_QUEUE;
	peer->line = peer->session ? &v->rekeys : &v->joins;
	TAILQ_INSERT_TAIL(peer->line, peer, link_dials);
	context_timer(v, &v->dial, v->now);
}

void dial_start(struct viaduct_peer *peer)
{
	dial_stop(peer);
	if (lookup_start(peer->relay))
		peer->dial = DIAL_LOOKUP;
	else
		dial_queue(peer);
}

void dial_looked_up(struct relay *relay)
{
	struct viaduct_peer *peer;

	LIST_FOREACH(peer, &relay->v->peers, link_peers)
	if (peer->relay == relay && peer->dial == DIAL_LOOKUP)
		dial_queue(peer);
}

void dial_stop(struct viaduct_peer *peer)
{
	switch (peer->dial) {
	case DIAL_IDLE:
		break;
	case DIAL_LOOKUP:
		peer->dial = DIAL_IDLE;
		break;
	case DIAL_QUEUE:
		TAILQ_REMOVE(peer->line, peer, link_dials);
		peer->dial = DIAL_IDLE;
		break;
	case DIAL_LINK:
	case DIAL_DRAIN:
		dial_end(peer);
		break;
	}
}

static json_t *cipher_list(const char *ciphers)
{
	json_t *list = json_array();

	while (*ciphers) {
		const char *end = strchrnul(ciphers, ',');

		json_array_append_new(list, json_stringn(ciphers, (size_t)(end - ciphers)));
		ciphers = *end ? end + 1 : end;
	}
	return list;
}

/* What makes a hello ask for the next epoch of the session. */
static json_t *rekey_proof(struct session *session, SSL *ssl)
{
	uint32_t index = session->welcome.index;
	uint8_t mac[32];
	char hex[2 * sizeof(mac) + 1];

	if (keys_rekey_mac(session->receiver.current, ssl, WIRE_REKEY_ASKS, index, mac))
		return NULL;
	for (size_t i = 0; i < sizeof(mac); i++)
		sprintf(hex + 2 * i, "%02x", mac[i]);
	return json_pack("{sI sI ss}", "index", (json_int_t)index, "epoch",
			 (json_int_t)session->receiver.current->epoch, "mac", hex);
}

int dial_hello(struct viaduct_peer *peer, SSL *ssl, char *line)
{
	json_t *root =
		json_pack("{si so si si sb}", "viaduct", 1, "ciphers", cipher_list(peer->ciphers),
			  "lanes", (int)peer->lanes, "mtu", (int)peer->mtu, "bundles", 1);
	size_t length = 0;

	if (peer->checksum)
		json_object_set_new(root, "checksum", json_true());
	if (peer->session && json_object_set_new(root, "rekey", rekey_proof(peer->session, ssl)))
		goto out;
	length = json_dumpb(root, line, WIRE_LINE_MAX - 1, JSON_COMPACT);
	if (length > WIRE_LINE_MAX - 1)
		length = 0;
out:
	json_decref(root);
	if (!length)
		return -ENOMEM;
	line[length] = '\n';
	return (int)length + 1;
}

void dial_answered(struct viaduct_peer *peer, SSL *ssl, const char *line, size_t length)
{
	peer->dial = DIAL_DRAIN;
	peer_answered(peer, ssl, line, length);
}

void dial_drained(struct viaduct_peer *peer)
{
	dial_end(peer);
}

void dial_failed(struct viaduct_peer *peer, int error, const char *text)
{
	bool connecting = peer->link->state == LINK_CONNECT;
	char other[256];

	if (connecting && ++peer->address < peer->relay->count) {
		link_free(peer->link);
		peer->link = NULL;
		if (!dial_connect(peer, other, sizeof(other)))
			return;
	}
	dial_end(peer);
	peer_unanswered(peer, error, text);
}
