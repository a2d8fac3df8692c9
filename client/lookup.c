#include "lookup.h"

#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dial.h"

#define FRESH (30 * SECOND)

/* What the thread owns. It answers over a socket, so neither has to wait for the other to go away.
 */
struct question {
	int answer; // struct addresses goes there
	char *host, *port;
};

struct addresses {
	struct sockaddr_storage addresses[LOOKUP_ADDRESSES];
	unsigned int count;
};

static void resolve(struct addresses *out, const char *host, const char *port, int flags)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags};
	struct addrinfo *found = NULL;

	memset(out, 0, sizeof(*out));
	if (getaddrinfo(host, port, &hints, &found))
		return;
	for (struct addrinfo *i = found; i && out->count < LOOKUP_ADDRESSES; i = i->ai_next)
		memcpy(&out->addresses[out->count++], i->ai_addr, i->ai_addrlen);
	freeaddrinfo(found);
}

static void question_free(struct question *question)
{
	if (!question)
		return;
	close(question->answer);
	free(question->host);
	free(question->port);
	free(question);
}

static void *answer(void *argument)
{
	struct question *question = argument;
	struct addresses addresses;

	resolve(&addresses, question->host, question->port, AI_NUMERICSERV);
	send(question->answer, &addresses, sizeof(addresses), MSG_NOSIGNAL);
	question_free(question);
	return NULL;
}

static void take_answer(struct watch *watch, uint32_t events)
{
	struct relay *relay = owner_of(watch, struct relay, watch);
	struct addresses addresses;

	if (recv(watch->fd, &addresses, sizeof(addresses), MSG_DONTWAIT) != sizeof(addresses))
		addresses.count = 0;
	context_unwatch(relay->v, watch);
	memcpy(relay->addresses, addresses.addresses, sizeof(relay->addresses));
	relay->count = addresses.count;
	relay->fresh_until = context_now(relay->v) + (relay->count ? FRESH : 0);
	dial_looked_up(relay);
}

/* Splits the relay's copy of the text. */
static bool split(struct relay *relay)
{
	char *colon = strrchr(relay->text, ':'), *end;
	unsigned long port;

	relay->host = strdup(relay->text);
	if (!relay->host || !colon || colon == relay->text)
		return false;
	relay->port = relay->host + (colon - relay->text) + 1;
	relay->port[-1] = '\0';
	if (relay->host[0] == '[') {
		if (relay->port[-2] != ']')
			return false;
		relay->port[-2] = '\0';
		memmove(relay->host, relay->host + 1, strlen(relay->host));
	} else if (strchr(relay->host, ':')) {
		return false; // a v6 address without brackets
	}
	port = strtoul(relay->port, &end, 10);
	return *end == '\0' && port > 0 && port <= UINT16_MAX;
}

static void relay_free(struct relay *relay)
{
	context_unwatch(relay->v, &relay->watch);
	free(relay->text);
	free(relay->host);
	free(relay);
}

int lookup_relay(struct relay **relay, struct viaduct *v, const char *text)
{
	struct addresses addresses;
	struct relay *found = v->relays;
	int ret = -ENOMEM;

	while (found && strcmp(found->text, text))
		found = found->next;
	if (found) {
		*relay = found;
		return 0;
	}
	found = calloc(1, sizeof(*found));
	if (!found)
		return -ENOMEM;
	found->v = v;
	found->watch = (struct watch){.fd = -1, .ready = take_answer};
	found->text = strdup(text);
	if (!found->text)
		goto out;
	ret = -EINVAL;
	if (!split(found))
		goto out;
	resolve(&addresses, found->host, found->port, AI_NUMERICSERV | AI_NUMERICHOST);
	memcpy(found->addresses, addresses.addresses, sizeof(found->addresses));
	found->count = addresses.count;
	found->numeric = found->count > 0;
	found->next = v->relays;
	v->relays = found;
	*relay = found;
	return 0;
out:
	relay_free(found);
	return ret;
}

void lookup_free_all(struct viaduct *v)
{
	struct relay *relay;

	while ((relay = v->relays)) {
		v->relays = relay->next;
		relay_free(relay);
	}
}

/* Starts the thread. If that fails, the relay simply has no address now. */
static int ask(struct relay *relay)
{
	struct question *question = calloc(1, sizeof(*question));
	pthread_attr_t attributes;
	sigset_t all, before;
	pthread_t thread;
	int pair[2], ret;

	if (!question)
		return -ENOMEM;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
		free(question);
		return -errno;
	}
	relay->watch.fd = pair[0];
	question->answer = pair[1];
	question->host = strdup(relay->host);
	question->port = strdup(relay->port);
	ret = -ENOMEM;
	if (!question->host || !question->port)
		goto out;
	ret = context_watch(relay->v, &relay->watch, EPOLLIN);
	if (ret)
		goto out;
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	sigfillset(&all); // signals are the program's business, in its own threads
	pthread_sigmask(SIG_SETMASK, &all, &before);
	ret = -pthread_create(&thread, &attributes, answer, question);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	if (!ret)
		return 0;
out:
	question_free(question);
	context_unwatch(relay->v, &relay->watch);
	return ret;
}

int lookup_start(struct relay *relay)
{
	if (relay->watch.fd >= 0)
		return -EINPROGRESS;
	if (relay->numeric || context_now(relay->v) < relay->fresh_until)
		return 0;
	relay->count = 0;
	return ask(relay) ? 0 : -EINPROGRESS;
}
