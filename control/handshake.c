#include "handshake.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdlib.h>

enum { DRAIN_MAX = 256 * 1024 }; // bytes that a peer may send after its answer

int handshake_begin(struct handshake *handshake, const struct handshake_config *config, int fd)
{
	handshake->config = config;
	handshake->fd = fd;
	handshake->hello_max = config->hello_max;
	handshake->ssl = tls_accept(config->tls, fd);
	return handshake->ssl ? 0 : -ENOMEM;
}

void handshake_end(struct handshake *handshake)
{
	SSL_free(handshake->ssl);
	handshake->ssl = NULL;
	free(handshake->line);
	handshake->line = NULL;
}

bool handshake_silent(const struct handshake *handshake)
{
	OSSL_HANDSHAKE_STATE state;

	if (handshake->stage != HANDSHAKE_TLS)
		return false;
	state = SSL_get_state(handshake->ssl);
	return state == TLS_ST_BEFORE || state == TLS_ST_SR_CLNT_HELLO;
}

int handshake_paused_fd(const struct handshake *handshake)
{
	OSSL_ASYNC_FD fd;
	size_t count = 0;

	// one job at a time waits for one thing
	if (!SSL_get_all_async_fds(handshake->ssl, NULL, &count) || count != 1 ||
	    !SSL_get_all_async_fds(handshake->ssl, &fd, &count))
		return -1;
	return fd;
}

static void drain(struct handshake *handshake)
{
	handshake->stage = HANDSHAKE_DRAIN;
	shutdown(handshake->fd, SHUT_WR);
}

static void fail(struct handshake *handshake, const char *reason)
{
	handshake->result = HANDSHAKE_FAILED;
	handshake->reason = reason;
	drain(handshake);
}

/* What to wait for after an SSL function returned `result`; 0: it has failed. */
static int wanted_events(const struct handshake *handshake, int result)
{
	switch (SSL_get_error(handshake->ssl, result)) {
	case SSL_ERROR_WANT_READ:
		return HANDSHAKE_READABLE;
	case SSL_ERROR_WANT_WRITE:
		return HANDSHAKE_WRITABLE;
	case SSL_ERROR_WANT_ASYNC:
		return HANDSHAKE_PAUSED;
	default:
		return 0;
	}
}

static const char *failure(const struct handshake *handshake, int result)
{
	switch (SSL_get_error(handshake->ssl, result)) {
	case SSL_ERROR_SSL:
		return tls_reason(handshake->ssl);
	case SSL_ERROR_SYSCALL:
		return errno ? strerror(errno) : "closed by the peer";
	default:
		return "closed by the peer";
	}
}

/* Each stage does what it can, and returns as handshake_step() does. */
static int do_tls(struct handshake *handshake)
{
	int result = SSL_do_handshake(handshake->ssl);
	int events;

	if (result == 1) {
		handshake->resumed = SSL_session_reused(handshake->ssl);
		handshake->stage = HANDSHAKE_HELLO;
		return 0;
	}
	events = wanted_events(handshake, result);
	if (!events)
		fail(handshake, failure(handshake, result));
	return events;
}

/* Asks the owner for an answer to a complete line, or to one that is too long (NULL). */
static void answer(struct handshake *handshake, const char *line, size_t length)
{
	const struct handshake_config *config = handshake->config;
	struct sockaddr_storage address;
	socklen_t size = sizeof(address);
	struct endpoint local = {0};
	struct handshake_hello hello = {
		.ssl = handshake->ssl,
		.remote = &handshake->remote,
		.local = &local,
		.line = line,
		.length = length,
		.length_max = handshake->hello_max,
		.retry_s = handshake->retry_s,
	};
	char text[WIRE_LINE_MAX];
	bool welcome = false;

	if (!getsockname(handshake->fd, (struct sockaddr *)&address, &size))
		address_endpoint(&local, &address);
	length = config->answer(config->arg, &hello, text, &welcome);
	if (!length) {
		fail(handshake, "out of memory");
		return;
	}
	handshake->result = welcome ? HANDSHAKE_WELCOMED : HANDSHAKE_REFUSED;
	memcpy(handshake->line, text, length);
	handshake->length = length;
	handshake->stage = HANDSHAKE_ANSWER;
}

static int do_hello(struct handshake *handshake)
{
	size_t room = handshake->hello_max - handshake->length;
	int result, events;
	char *end;

	if (!handshake->line)
		handshake->line = malloc(WIRE_LINE_MAX);
	if (!handshake->line) {
		fail(handshake, "out of memory");
		return 0;
	}
	result = SSL_read(handshake->ssl, handshake->line + handshake->length, (int)room);
	if (result <= 0) {
		events = wanted_events(handshake, result);
		if (!events)
			fail(handshake, failure(handshake, result));
		return events;
	}
	end = memchr(handshake->line + handshake->length, '\n', (size_t)result);
	handshake->length += (size_t)result;
	if (end)
		answer(handshake, handshake->line, (size_t)(end - handshake->line));
	else if ((size_t)result == room)
		answer(handshake, NULL, 0);
	return 0;
}

static int do_answer(struct handshake *handshake)
{
	int result = SSL_write(handshake->ssl, handshake->line, (int)handshake->length);
	int events;

	if (result > 0) {
		handshake->stage = HANDSHAKE_SHUTDOWN;
		return 0;
	}
	events = wanted_events(handshake, result);
	if (!events)
		drain(handshake);
	return events;
}

static int do_shutdown(struct handshake *handshake)
{
	int result = SSL_shutdown(handshake->ssl);
	int events = result < 0 ? wanted_events(handshake, result) : 0;

	if (!events)
		drain(handshake);
	return events;
}

static int do_drain(struct handshake *handshake)
{
	char bytes[4096];
	ssize_t length;

	handshake_end(handshake); // TLS has nothing left to say
	length = recv(handshake->fd, bytes, sizeof(bytes), 0);
	if (length > 0)
		handshake->drained += (size_t)length;
	else if (length < 0 && (errno == EAGAIN || errno == EINTR))
		return HANDSHAKE_READABLE;
	if (length <= 0 || handshake->drained > DRAIN_MAX)
		handshake->stage = HANDSHAKE_OVER;
	return 0;
}

int handshake_step(struct handshake *handshake)
{
	static int (*const stages[])(struct handshake * handshake) = {
		[HANDSHAKE_TLS] = do_tls,       [HANDSHAKE_HELLO] = do_hello,
		[HANDSHAKE_ANSWER] = do_answer, [HANDSHAKE_SHUTDOWN] = do_shutdown,
		[HANDSHAKE_DRAIN] = do_drain,
	};

	ERR_clear_error();
	errno = 0;
	return stages[handshake->stage](handshake);
}
