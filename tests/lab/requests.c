/*
 * Peers that ask each other questions, all at once, and answer none before every question has
 * arrived: so all requests are outstanding at the same moment. For test_requests.py.
 *
 *	requests RELAY CA REQUESTS <files
 *
 * A line of the standard input has a peer's certificate and key. Prints how many requests each
 * peer makes, how many arrived, and how many were answered right.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "viaduct.h"

enum {
	PEERS_MAX = 1000,
	PATIENCE_MS = 20000,
};

struct asking {
	struct viaduct_peer *peers[PEERS_MAX];
	unsigned int count, each;
	unsigned int joined, failed;
	unsigned int arrived, answered, over;
	struct held {
		struct viaduct_peer *peer;
		struct viaduct_message request;
		unsigned int number;
	} * held;
};

static void on_joined(struct viaduct_peer *peer)
{
	struct asking *a = viaduct_peer_user(peer);

	a->joined++;
}

static void on_failed(struct viaduct_peer *peer, int error, const char *text, int retry_ms)
{
	struct asking *a = viaduct_peer_user(peer);

	fprintf(stderr, "%s: %s\n", viaduct_peer_name(peer), text);
	a->failed++;
}

/* The request's bytes are ours only until we return: its number is kept. */
static void on_message(struct viaduct_peer *peer, const struct viaduct_message *message)
{
	struct asking *a = viaduct_peer_user(peer);
	struct held *held = &a->held[a->arrived];

	if (message->kind != VIADUCT_REQUEST || message->length != sizeof(held->number) ||
	    a->arrived == a->count * a->each)
		return;
	held->peer = peer;
	held->request = *message;
	memcpy(&held->number, message->data, sizeof(held->number));
	a->arrived++;
}

static void on_response(struct viaduct_peer *peer, void *user, int result,
			const struct viaduct_message *response)
{
	const unsigned int *asked = user;
	struct asking *a = viaduct_peer_user(peer);
	unsigned int answer;

	a->over++;
	if (result || response->length != sizeof(answer))
		return;
	memcpy(&answer, response->data, sizeof(answer));
	a->answered += answer == *asked + 1;
}

static const struct viaduct_callbacks callbacks = {
	.joined = on_joined, .failed = on_failed, .message = on_message};

static int peers_open(struct asking *a, struct viaduct *v, const char *relay, const char *ca)
{
	char certificate[512], key[512];
	struct viaduct_config config = {.relay = relay,
					.ca = ca,
					.certificate = certificate,
					.key = key,
					.no_reconnect = true,
					.user = a};

	while (a->count < PEERS_MAX && scanf("%511s %511s", certificate, key) == 2) {
		if (viaduct_peer_open(&a->peers[a->count], v, &config, &callbacks)) {
			fprintf(stderr, "%s\n", viaduct_open_error(v));
			return EXIT_FAILURE;
		}
		a->count++;
	}
	while (a->joined < a->count && !a->failed)
		viaduct_wait(v, -1);
	return a->failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* Each asks the peers after it in turn. */
static int all_ask(struct asking *a, unsigned int *numbers)
{
	for (unsigned int i = 0; i < a->count * a->each; i++) {
		unsigned int from = i / a->each, to = (from + 1 + i % a->each) % a->count;

		numbers[i] = i;
		if (viaduct_request(a->peers[from], 0, VIADUCT_NORMAL,
				    viaduct_peer_id(a->peers[to]), &numbers[i], sizeof(numbers[i]),
				    PATIENCE_MS, on_response, &numbers[i]))
			return EXIT_FAILURE;
	}
	return EXIT_SUCCESS;
}

static int all_answer(struct asking *a)
{
	for (unsigned int i = 0; i < a->arrived; i++) {
		struct held *held = &a->held[i];
		unsigned int answer = held->number + 1;

		if (viaduct_respond(held->peer, 0, &held->request, &answer, sizeof(answer)))
			return EXIT_FAILURE;
	}
	return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	struct asking *a = calloc(1, sizeof(*a));
	struct viaduct *v = viaduct_new();
	unsigned int *numbers = NULL;
	struct viaduct_stats stats;
	int status = EXIT_FAILURE;

	if (argc != 4 || !a || !v)
		goto out;
	a->each = (unsigned int)strtoul(argv[3], NULL, 10);
	if (!a->each || peers_open(a, v, argv[1], argv[2]) || !a->count)
		goto out;
	a->held = calloc((size_t)a->count * a->each, sizeof(*a->held));
	numbers = calloc((size_t)a->count * a->each, sizeof(*numbers));
	if (!a->held || !numbers || all_ask(a, numbers))
		goto out;
	viaduct_peer_stats(a->peers[a->count - 1], &stats);
	while (a->arrived < a->count * a->each && a->over < a->count * a->each)
		viaduct_wait(v, -1);
	if (all_answer(a))
		goto out;
	while (a->over < a->count * a->each)
		viaduct_wait(v, -1);
	printf("%u %u %u\n", stats.requests, a->arrived, a->answered);
	status = EXIT_SUCCESS;
out:
	viaduct_free(v);
	if (a)
		free(a->held);
	free(numbers);
	free(a);
	return status;
}
