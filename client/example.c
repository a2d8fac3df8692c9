/*
 * A small peer: joins, sends itself a message and asks itself a question, and leaves.
 *
 *	example RELAY CA CERTIFICATE KEY
 *	example 10.77.0.1:7740 pki/ca.pem pki/peer-1.pem pki/peer-1.key
 */
#include <stdio.h>
#include <string.h>

#include "viaduct.h"

/* What the program waits for. Callbacks find it as the peer's user pointer. */
struct progress {
	bool message, response, over;
	int error;
};

static void leave_when_done(struct viaduct_peer *peer, const struct progress *progress)
{
	if (progress->message && progress->response)
		viaduct_peer_close(peer, true); // tells the relay; `closed` follows
}

/* The response to the request below, or why there is none. */
static void on_response(struct viaduct_peer *peer, void *user, int result,
			const struct viaduct_message *response)
{
	struct progress *progress = user;

	if (result)
		printf("no response: %d\n", result);
	else
		printf("response: %.*s\n", (int)response->length, (const char *)response->data);
	progress->response = true;
	leave_when_done(peer, progress);
}

/* The session works: from here on messages can be sent. Any peer's id would do as well as ours. */
static void on_joined(struct viaduct_peer *peer)
{
	const struct viaduct_id *to = viaduct_peer_id(peer);
	char id[VIADUCT_ID_TEXT + 1];

	viaduct_id_format(id, to);
	printf("joined as %s, %s\n", viaduct_peer_name(peer), id);

	// both are queued, and leave in one record when the library is done with its callbacks
	viaduct_send(peer, 0, VIADUCT_NORMAL, to, 1, "hello", 5);
	viaduct_request(peer, 0, VIADUCT_NORMAL, to, "how are you?", 12, 1000, on_response,
			viaduct_peer_user(peer));
}

/* The message's bytes are ours only until we return. */
static void on_message(struct viaduct_peer *peer, const struct viaduct_message *message)
{
	struct progress *progress = viaduct_peer_user(peer);

	printf("%s: %.*s\n", message->kind == VIADUCT_REQUEST ? "request" : "message",
	       (int)message->length, (const char *)message->data);
	if (message->kind == VIADUCT_REQUEST)
		viaduct_respond(peer, 0, message, "fine", 4);
	else
		progress->message = true;
	leave_when_done(peer, progress);
}

/* With no_reconnect the first failure is the last; without it the library would try again. */
static void on_failed(struct viaduct_peer *peer, int error, const char *text, int retry_ms)
{
	struct progress *progress = viaduct_peer_user(peer);

	fprintf(stderr, "failed: %s\n", text);
	progress->error = error;
	progress->over = true;
}

static void on_closed(struct viaduct_peer *peer)
{
	struct progress *progress = viaduct_peer_user(peer);

	progress->over = true;
}

static const struct viaduct_callbacks callbacks = {
	.joined = on_joined,
	.message = on_message,
	.failed = on_failed,
	.closed = on_closed,
};

int main(int argc, char **argv)
{
	struct progress progress = {0};
	struct viaduct_config config = {.no_reconnect = true, .user = &progress};
	struct viaduct_peer *peer;
	struct viaduct *v;

	if (argc != 5) {
		fprintf(stderr, "Usage: %s RELAY CA CERTIFICATE KEY\n", argv[0]);
		return 2;
	}
	config.relay = argv[1];
	config.ca = argv[2];
	config.certificate = argv[3];
	config.key = argv[4];

	v = viaduct_new();
	if (!v || viaduct_peer_open(&peer, v, &config, &callbacks)) {
		fprintf(stderr, "%s\n", v ? viaduct_open_error(v) : "out of memory");
		viaduct_free(v);
		return 1;
	}
	while (!progress.over)
		viaduct_wait(v, -1); // or poll viaduct_fd() and call viaduct_process()
	viaduct_free(v);
	return progress.error ? 1 : 0;
}
