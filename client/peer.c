#include "peer.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "tickets.h"

#define LEAVE_TIMEOUT SECOND
#define CIPHERS       "aes-256-gcm,chacha20-poly1305"

enum {
	RETRY_FIRST = 500,  // ms; doubles with each failure
	RETRY_LAST = 30000, // ms
};

/* ---- Opening ---- */

static int config_check(const struct viaduct_config *config, char *text, size_t size)
{
	const char *cipher = config->ciphers ? config->ciphers : "";
	const char *wrong = NULL;
	char name[32];

	if (!config->relay || !config->ca || !config->certificate || !config->key)
		wrong = "relay, ca, certificate and key are needed";
	else if (config->lanes > WIRE_LANES_MAX)
		wrong = "at most 8 lanes";
	else if (config->mtu && (config->mtu < WIRE_MTU_MIN || config->mtu > WIRE_MTU_MAX))
		wrong = "the mtu must be from 1280 to 9000";
	while (!wrong && *cipher) {
		size_t length = strcspn(cipher, ",");

		snprintf(name, sizeof(name), "%.*s", (int)length, cipher);
		if (!wire_aead_parse(name))
			wrong = "ciphers are aes-256-gcm and chacha20-poly1305, with a comma "
				"between";
		cipher += length + (cipher[length] == ',');
	}
	if (!wrong)
		return 0;
	snprintf(text, size, "%s", wrong);
	return -EINVAL;
}

/* Takes over an identity; VIADUCT_E_IDENTITY if a session says that the peer is somebody else. */
static int identify(struct viaduct_peer *peer, const struct identity *identity, char *text,
		    size_t size)
{
	char *name;

	if (peer->name && wire_id_equal(&peer->id, &identity->id) &&
	    !strcmp(peer->name, identity->name))
		return 0;
	if (peer->session) {
		snprintf(text, size, "%s is another identity's now", peer->certificate);
		return VIADUCT_E_IDENTITY;
	}
	name = strdup(identity->name);
	if (!name) {
		snprintf(text, size, "out of memory");
		return -ENOMEM;
	}
	free(peer->name);
	peer->name = name;
	peer->id = identity->id;
	SSL_SESSION_free(peer->ticket); // it would prove who the peer was
	peer->ticket = NULL;
	return 0;
}

int peer_credentials(struct viaduct_peer *peer, const struct credentials **credentials, char *text,
		     size_t size)
{
	int ret = credentials_get(credentials, peer->v, peer->certificate, peer->key, text, size);

	return ret ? ret : identify(peer, &(*credentials)->identity, text, size);
}

/* Reads the certificate files to see whether they are of use at all, and whose they are. */
static int files_check(struct viaduct_peer *peer, char *text, size_t size)
{
	const struct credentials *credentials;
	SSL_CTX *ctx;
	int ret;

	ret = trust_get(&ctx, peer->v, peer->ca, text, size);
	if (!ret)
		ret = peer_credentials(peer, &credentials, text, size);
	if (!ret && !peer->federation)
		peer->federation = strdup(credentials->identity.federation);
	return ret || peer->federation ? ret : -ENOMEM;
}

static void retry_due(struct timer *timer)
{
	dial_start(owner_of(timer, struct viaduct_peer, retry));
}

int viaduct_peer_open(struct viaduct_peer **opened, struct viaduct *v,
		      const struct viaduct_config *config,
		      const struct viaduct_callbacks *callbacks)
{
	char *text = v->open_error;
	size_t size = sizeof(v->open_error);
	struct viaduct_peer *peer;
	int ret;

	text[0] = '\0';
	ret = config_check(config, text, size);
	if (ret)
		return ret;
	peer = calloc(1, sizeof(*peer));
	if (!peer) {
		snprintf(text, size, "out of memory");
		return -ENOMEM;
	}
	peer->v = v;
	peer->callbacks = callbacks;
	peer->user = config->user;
	peer->checksum = config->checksum;
	peer->reconnect = !config->no_reconnect;
	peer->lanes = config->lanes ? config->lanes : 1;
	peer->mtu = config->mtu ? config->mtu : WIRE_MTU_MIN;
	peer->ca = strdup(config->ca);
	peer->certificate = strdup(config->certificate);
	peer->key = strdup(config->key);
	peer->ciphers = strdup(config->ciphers ? config->ciphers : CIPHERS);
	peer->federation = config->federation ? strdup(config->federation) : NULL;
	ret = -ENOMEM;
	if (!peer->ca || !peer->certificate || !peer->key || !peer->ciphers ||
	    (config->federation && !peer->federation)) {
		snprintf(text, size, "out of memory");
		goto out;
	}
	ret = lookup_relay(&peer->home, v, config->relay);
	peer->relay = peer->home;
	if (ret) {
		snprintf(text, size, "relay '%s': must be host:port or [v6 address]:port",
			 config->relay);
		goto out;
	}
	ret = files_check(peer, text, size);
	if (ret)
		goto out;
	tickets_recall(peer);
	LIST_INSERT_HEAD(&v->peers, peer, link_peers);
	v->peer_count++;
	peer->retry.fire = retry_due;
	context_timer_in(v, &peer->retry, 0);
	*opened = peer;
	return 0;
out:
	LIST_INSERT_HEAD(&v->closed, peer, link_peers);
	peer_free(peer);
	return ret;
}

const char *viaduct_open_error(const struct viaduct *v)
{
	return v->open_error;
}

/* ---- Joining, failing, trying again ---- */

static void peer_detach(struct viaduct_peer *peer);

/* The end of leaving, whether the relay has answered or not. */
static void leave_over(struct timer *timer)
{
	struct viaduct_peer *peer = owner_of(timer, struct viaduct_peer, retry);

	peer_detach(peer);
	peer_tell(peer, closed);
}

/* One of the others, as they were named, or in the end the one that was asked for. */
static void choose_relay(struct viaduct_peer *peer, unsigned int other)
{
	peer->other = other;
	peer->relay = other < peer->other_count ? peer->others[other] : peer->home;
}

/* The relay can't be reached: the next one's turn. */
static void next_relay(struct viaduct_peer *peer)
{
	choose_relay(peer, (peer->other + 1) % (peer->other_count + 1));
}

void peer_elsewhere(struct viaduct_peer *peer, const struct event *event)
{
	struct relay *relay;

	peer->other_count = 0;
	for (unsigned int i = 0; i < event->relay_count; i++) {
		if (!lookup_relay(&relay, peer->v, event->relays[i]) && relay != peer->home)
			peer->others[peer->other_count++] = relay;
	}
}

/* Tells the user, and tries again if that is wanted. */
static void peer_fail(struct viaduct_peer *peer, int error, const char *text, double retry_after)
{
	unsigned int shift = peer->attempts < 6 ? peer->attempts : 6;
	uint64_t ms = (uint64_t)RETRY_FIRST << shift, wait;
	int retry_ms = -1;

	if (peer->state == PEER_LEAVING) {
		context_timer(peer->v, &peer->retry, peer->v->now);
		return;
	}
	peer->state = PEER_ENDED;
	if (peer->reconnect && error != VIADUCT_E_REPLACED && error != VIADUCT_E_REVOKED) {
		peer->state = PEER_JOINING;
		peer->attempts++;
		wait = context_jitter(ms < RETRY_LAST ? ms : RETRY_LAST) +
		       (uint64_t)(retry_after * 1000) * MILLISECOND;
		retry_ms = (int)(wait / MILLISECOND);
		context_timer_in(peer->v, &peer->retry, wait);
	}
	call_lost(peer);
	if (peer->state != PEER_CLOSED)
		peer_tell(peer, failed, error, text, retry_ms);
}

void peer_lost(struct viaduct_peer *peer, int error, const char *text)
{
	dial_stop(peer);
	session_end(peer->session);
	if (error == VIADUCT_E_CLOSING)
		choose_relay(peer, 0);
	else if (error == VIADUCT_E_DATA_PORT)
		next_relay(peer);
	peer_fail(peer, error, text, 0);
}

/* The dial has come to nothing: no join, or no rekey. */
static void dial_lost(struct viaduct_peer *peer, int error, const char *text, double retry_after)
{
	char words[320];

	if (!peer->session) {
		peer_fail(peer, error, text, retry_after);
		return;
	}
	snprintf(words, sizeof(words), "no rekey: %s", text);
	if (error == VIADUCT_E_IDENTITY)
		peer_lost(peer, error, words); // and come back as who we are now
	else
		session_rekey_failed(peer->session, error, words,
				     (uint64_t)(retry_after * 1000) * MILLISECOND);
}

void peer_unanswered(struct viaduct_peer *peer, int error, const char *text)
{
	if (!peer->session)
		next_relay(peer);
	dial_lost(peer, error, text, 0);
}

static int refusal_error(const struct refusal *refusal)
{
	if (!strcmp(refusal->code, "busy"))
		return VIADUCT_E_BUSY;
	if (!strcmp(refusal->code, "full"))
		return VIADUCT_E_FULL;
	if (!strcmp(refusal->code, "cut"))
		return VIADUCT_E_CUT;
	return VIADUCT_E_PROTOCOL;
}

static bool welcome_fits(const struct viaduct_peer *peer, const struct welcome *welcome,
			 const struct wire_id *relay, SSL *ssl)
{
	const struct session *session = peer->session;
	uint8_t mac[sizeof(welcome->mac)];

	if (!wire_id_equal(&welcome->id, &peer->id) || !wire_id_equal(&welcome->relay, relay))
		return false;
	if (!session)
		return welcome->epoch == 0;
	return welcome->index == session->welcome.index &&
	       welcome->epoch == session->receiver.current->epoch + 1 &&
	       welcome->aead == session->welcome.aead &&
	       // its key may be another by now, but it must be who has the session
	       !keys_rekey_mac(session->receiver.current, ssl, WIRE_REKEY_GRANTS, welcome->index,
			       mac) &&
	       !CRYPTO_memcmp(mac, welcome->mac, sizeof(mac));
}

static void peer_welcomed(struct viaduct_peer *peer, SSL *ssl, const struct welcome *welcome)
{
	struct keys_binding binding = {.aead = welcome->aead,
				       .index = welcome->index,
				       .epoch = welcome->epoch,
				       .peer = welcome->id,
				       .relay = welcome->relay};
	struct keys *keys;
	int ret;

	ret = keys_export(&keys, ssl, &binding, WIRE_UP);
	if (!ret && peer->session) {
		session_rekeyed(peer->session, keys);
		return;
	}
	if (!ret)
		ret = session_open(peer, welcome, keys);
	if (ret)
		dial_lost(peer, ret, viaduct_strerror(ret), 0);
	else
		peer->state = PEER_REACHING;
}

void peer_answered(struct viaduct_peer *peer, SSL *ssl, const char *line, size_t length)
{
	struct welcome welcome;
	struct refusal refusal;
	struct wire_id relay;
	char text[256];

	switch (answer_parse_line(&welcome, &refusal, line, length)) {
	case 0:
		if (trust_relay(&relay, ssl))
			dial_lost(peer, VIADUCT_E_TLS, "the relay's certificate has expired", 0);
		else if (!welcome_fits(peer, &welcome, &relay, ssl))
			dial_lost(peer, VIADUCT_E_PROTOCOL,
				  "the relay's welcome is for somebody else", 0);
		else
			peer_welcomed(peer, ssl, &welcome);
		break;
	case -ECONNREFUSED:
		snprintf(text, sizeof(text), "the relay refused: %s%s%s", refusal.code,
			 refusal.detail[0] ? ", " : "", refusal.detail);
		dial_lost(peer, refusal_error(&refusal), text, refusal.retry_after);
		break;
	default:
		dial_lost(peer, VIADUCT_E_PROTOCOL, "the relay's answer makes no sense", 0);
	}
}

void peer_reached(struct viaduct_peer *peer)
{
	peer->attempts = 0;
	peer->stats.joins++;
	if (peer->state != PEER_REACHING)
		return;
	peer->state = PEER_JOINED;
	topics_joined(peer);
	if (peer->state == PEER_JOINED)
		peer_tell(peer, joined);
}

/* ---- Closing ---- */

/* Takes everything from the peer but its memory, which goes when nobody looks at it any more. */
static void peer_detach(struct viaduct_peer *peer)
{
	struct viaduct *v = peer->v;
	struct session *session = peer->session;

	dial_stop(peer);
	if (session)
		session_end(session);
	call_free_all(peer);
	context_timer_stop(v, &peer->retry);
	peer->state = PEER_CLOSED;
	LIST_REMOVE(peer, link_peers);
	v->peer_count--;
	LIST_INSERT_HEAD(&v->closed, peer, link_peers);
}

static void left(struct viaduct_peer *peer, void *user, int error, const char *answer,
		 size_t length)
{
	context_timer(peer->v, &peer->retry, peer->v->now);
}

void viaduct_peer_close(struct viaduct_peer *peer, bool leave)
{
	struct viaduct *v = peer->v;

	if (peer->state == PEER_CLOSED || (leave && peer->state == PEER_LEAVING))
		return;
	if (!leave || peer->state != PEER_JOINED) {
		peer_detach(peer);
		if (!v->processing)
			context_reap(v);
		return;
	}
	lane_flush(peer->session); // or the leave would overtake messages of lower classes
	dial_stop(peer);
	call_free_all(peer);
	peer->state = PEER_LEAVING;
	peer->retry.fire = leave_over;
	context_timer_in(v, &peer->retry, LEAVE_TIMEOUT);
	call_control(peer, "{\"op\":\"leave\"}", LEAVE_TIMEOUT, left, NULL);
}

void peer_free(struct viaduct_peer *peer)
{
	LIST_REMOVE(peer, link_peers);
	tickets_keep(peer);
	topics_free(peer);
	SSL_SESSION_free(peer->ticket);
	SSL_CTX_free(peer->ctx);
	free(peer->ca);
	free(peer->certificate);
	free(peer->key);
	free(peer->federation);
	free(peer->ciphers);
	free(peer->name);
	free(peer);
}

/* ---- Looking at it ---- */

void *viaduct_peer_user(const struct viaduct_peer *peer)
{
	return peer->user;
}

struct viaduct *viaduct_peer_context(const struct viaduct_peer *peer)
{
	return peer->v;
}

const struct viaduct_id *viaduct_peer_id(const struct viaduct_peer *peer)
{
	return (const struct viaduct_id *)&peer->id;
}

const char *viaduct_peer_name(const struct viaduct_peer *peer)
{
	return peer->name;
}

bool viaduct_peer_joined(const struct viaduct_peer *peer)
{
	return peer->state == PEER_JOINED;
}

size_t viaduct_payload_max(const struct viaduct_peer *peer)
{
	return peer->state == PEER_JOINED ? peer->session->welcome.max_payload : 0;
}

/* ---- Sending ---- */

int peer_sendable(const struct viaduct_peer *peer, unsigned int lane, enum viaduct_class class,
		  size_t length)
{
	if (peer->state != PEER_JOINED)
		return -ENOTCONN;
	if (lane >= peer->session->welcome.lanes_up || class > VIADUCT_CRITICAL)
		return -EINVAL;
	return length > peer->session->welcome.max_payload ? -EMSGSIZE : 0;
}

int peer_put(struct viaduct_peer *peer, unsigned int lane, enum viaduct_class class, uint8_t kind,
	     const struct viaduct_id *to, uint32_t tag, const void *data, size_t length)
{
	struct wire_id address;
	uint8_t *payload;
	int error;

	memcpy(&address, to, sizeof(address));
	payload = lane_message(peer->session, lane, (enum wire_class) class, kind, &address, tag,
			       length, &error);
	if (!payload)
		return error;
	if (length)
		memcpy(payload, data, length);
	return 0;
}

int viaduct_send(struct viaduct_peer *peer, unsigned int lane, enum viaduct_class class,
		 const struct viaduct_id *to, uint32_t tag, const void *data, size_t length)
{
	int ret = tag > VIADUCT_TAG_MAX ? -EINVAL : peer_sendable(peer, lane, class, length);

	return ret ? ret : peer_put(peer, lane, class, WIRE_SEND, to, tag, data, length);
}

int viaduct_ping(struct viaduct_peer *peer, unsigned int lane, enum viaduct_class class,
		 const struct viaduct_id *to, uint32_t tag, size_t padding)
{
	int ret = tag > VIADUCT_TAG_MAX
			  ? -EINVAL
			  : peer_sendable(peer, lane, class, padding + sizeof(uint64_t));
	struct wire_id address;
	uint8_t *payload;

	if (ret)
		return ret;
	if (to)
		memcpy(&address, to, sizeof(address));
	else
		address = peer->session->welcome.relay;
	payload = lane_message(peer->session, lane, (enum wire_class) class, WIRE_PING, &address,
			       tag, padding + sizeof(uint64_t), &ret);
	if (!payload)
		return ret;
	// the pong brings it back, so that no ping need be remembered
	wire_put64(payload, context_now(peer->v));
	memset(payload + sizeof(uint64_t), 0, padding);
	return 0;
}
