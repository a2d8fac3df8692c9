/* Through viaductd, by libviaduct's public interface. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pairs.h"
#include "viaduct.h"

enum { MTU = 1500 };

struct state;

struct endpoint {
	struct state *state;
	struct viaduct_peer *peer;
	struct viaduct_id id;
};

struct state {
	struct pairs *pairs;
	struct viaduct *viaduct;
	unsigned int payload, joined;
	int error; // why a session was lost
	struct endpoint endpoints[];
};

static void on_joined(struct viaduct_peer *peer)
{
	struct endpoint *endpoint = viaduct_peer_user(peer);

	endpoint->state->joined++;
}

static void on_message(struct viaduct_peer *peer, const struct viaduct_message *message)
{
	struct endpoint *endpoint = viaduct_peer_user(peer);
	struct state *s = endpoint->state;

	pairs_received(s->pairs, (unsigned int)(endpoint - s->endpoints), message->data,
		       message->length);
}

static void on_failed(struct viaduct_peer *peer, int error, const char *text, int retry_ms)
{
	struct endpoint *endpoint = viaduct_peer_user(peer);

	fprintf(stderr, "pairs: %s: %s\n", viaduct_peer_name(peer), text);
	endpoint->state->error = error;
}

static const struct viaduct_callbacks callbacks = {
	.joined = on_joined,
	.message = on_message,
	.failed = on_failed,
};

static void state_close(void *state)
{
	struct state *s = state;

	viaduct_free(s->viaduct);
	free(s);
}

static int endpoint_open(struct state *s, unsigned int i, const struct pairs_options *options)
{
	char relay[64], ca[4096], certificate[4096], key[4096];
	struct endpoint *endpoint = &s->endpoints[i];
	struct viaduct_config config = {
		.relay = relay,
		.ca = ca,
		.certificate = certificate,
		.key = key,
		.mtu = MTU,
		.no_reconnect = true,
		.user = endpoint,
	};
	int error;

	snprintf(relay, sizeof(relay), "%s:7740", options->relay);
	snprintf(ca, sizeof(ca), "%s/ca.pem", options->pki);
	snprintf(certificate, sizeof(certificate), "%s/peer-%u.pem", options->pki, i + 1);
	snprintf(key, sizeof(key), "%s/peer-%u.key", options->pki, i + 1);
	endpoint->state = s;
	error = viaduct_peer_open(&endpoint->peer, s->viaduct, &config, &callbacks);
	if (error) {
		fprintf(stderr, "pairs: %s\n", viaduct_open_error(s->viaduct));
		return error;
	}
	endpoint->id = *viaduct_peer_id(endpoint->peer);
	return 0;
}

static void *state_open(const struct transport *transport, struct pairs *pairs,
			const struct pairs_options *options)
{
	struct state *s = calloc(1, sizeof(*s) + options->endpoints * sizeof(s->endpoints[0]));
	time_t deadline = time(NULL) + 2 * SETUP_TIMEOUT_S;

	if (!s)
		return NULL;
	s->pairs = pairs;
	s->payload = options->payload;
	s->viaduct = viaduct_new();
	if (!s->viaduct)
		goto fail;
	for (unsigned int i = 0; i < options->endpoints; i++) {
		if (endpoint_open(s, i, options))
			goto fail;
	}
	while (s->joined < options->endpoints && !s->error && time(NULL) < deadline)
		viaduct_wait(s->viaduct, 100);
	if (s->joined == options->endpoints)
		return s;
	fprintf(stderr, "pairs: %u of %u joined\n", s->joined, options->endpoints);
fail:
	state_close(s);
	return NULL;
}

static bool state_send(void *state, unsigned int endpoint, const uint8_t *payload)
{
	struct state *s = state;

	return viaduct_send(s->endpoints[endpoint].peer, 0, VIADUCT_NORMAL,
			    &s->endpoints[endpoint ^ 1].id, 0, payload, s->payload) == 0;
}

static void state_flush(void *state)
{
	struct state *s = state;

	viaduct_flush(s->viaduct);
}

static int state_poll(void *state, int timeout_ms)
{
	struct state *s = state;

	if (timeout_ms)
		viaduct_wait(s->viaduct, timeout_ms);
	else
		viaduct_process(s->viaduct);
	return s->error;
}

const struct transport through_viaduct = {
	.name = "viaduct",
	.open = state_open,
	.close = state_close,
	.send = state_send,
	.flush = state_flush,
	.poll = state_poll,
};
