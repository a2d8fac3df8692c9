#include "listener.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <urcu/list.h>

#include "log.h"

enum {
	BACKLOG = 16384,        // the kernel cuts it to net.core.somaxconn
	LINGER = 16,            // closing connections for each handshake that is allowed
	DRAIN_MAX = 256 * 1024, // bytes that a peer may send after its answer
};

enum stage {
	STAGE_HANDSHAKE,
	STAGE_HELLO,
	STAGE_ANSWER,
	STAGE_SHUTDOWN, // close_notify
	STAGE_DRAIN,    // until the peer closes, so that no reset eats what it has yet to read
};

struct connection {
	struct cds_list_head node;
	struct listener *listener;
	enum stage stage;
	int fd;
	int handles; // of libuv, not yet closed
	uv_poll_t poll;
	uv_timer_t timer;
	SSL *ssl;
	struct endpoint remote;
	char *line; // hello, then the answer
	size_t length;
	size_t drained;
};

struct listening {
	struct listener *listener;
	uv_poll_t poll;
	int fd;
};

struct listener {
	struct listener_config config;
	struct listener_counters counters;
	uv_loop_t *loop;
	struct cds_list_head connections;
	unsigned int connection_count;
	unsigned int handshake_count; // those before STAGE_SHUTDOWN
	bool paused;
	bool stopped;
	unsigned int socket_count; // not yet closed
	struct listening sockets[CONFIG_LISTEN_MAX];
};

static void on_accept(uv_poll_t *poll, int status, int events);

static bool is_full(const struct listener *listener)
{
	return listener->handshake_count >= listener->config.handshakes ||
	       listener->connection_count >= LINGER * listener->config.handshakes;
}

static void pause_accepting(struct listener *listener)
{
	listener->paused = true;
	for (unsigned int i = 0; i < listener->socket_count; i++)
		uv_poll_stop(&listener->sockets[i].poll);
}

static void resume_accepting(struct listener *listener)
{
	if (!listener->paused || listener->stopped || is_full(listener))
		return;
	listener->paused = false;
	for (unsigned int i = 0; i < listener->socket_count; i++)
		uv_poll_start(&listener->sockets[i].poll, UV_READABLE, on_accept);
}

/* Connections */

static void free_listener(struct listener *listener)
{
	if (listener->stopped && listener->connection_count == 0 && listener->socket_count == 0)
		free(listener);
}

static void on_connection_closed(uv_handle_t *handle)
{
	struct connection *connection = handle->data;
	struct listener *listener = connection->listener;

	if (--connection->handles)
		return;
	close(connection->fd);
	free(connection);
	listener->connection_count--;
	resume_accepting(listener);
	free_listener(listener);
}

static void forget_secrets(struct connection *connection)
{
	SSL_free(connection->ssl);
	connection->ssl = NULL;
	free(connection->line);
	connection->line = NULL;
}

static void close_connection(struct connection *connection)
{
	if (uv_is_closing((uv_handle_t *)&connection->poll))
		return;
	if (connection->stage < STAGE_SHUTDOWN)
		connection->listener->handshake_count--;
	cds_list_del(&connection->node);
	forget_secrets(connection);
	uv_close((uv_handle_t *)&connection->poll, on_connection_closed);
	uv_close((uv_handle_t *)&connection->timer, on_connection_closed);
}

static void on_timeout(uv_timer_t *timer)
{
	struct connection *connection = timer->data;
	char remote[ADDRESS_TEXT];

	if (connection->stage < STAGE_SHUTDOWN) {
		connection->listener->counters.timed_out++;
		address_format(remote, &connection->remote);
		log_warning("handshake timed out", "address=%s waited_for=%s", remote,
			    connection->stage == STAGE_HANDSHAKE ? "TLS" : "hello");
	}
	close_connection(connection);
}

/* The handshake is over, one way or another; what is left is to be polite. */
static void begin_closing(struct connection *connection, enum stage stage)
{
	connection->listener->handshake_count--;
	connection->stage = stage;
	uv_timer_start(&connection->timer, on_timeout, connection->listener->config.timeout_ms, 0);
	resume_accepting(connection->listener);
}

static void begin_draining(struct connection *connection)
{
	connection->stage = STAGE_DRAIN;
	forget_secrets(connection);
	shutdown(connection->fd, SHUT_WR);
}

static void fail(struct connection *connection, const char *reason)
{
	char remote[ADDRESS_TEXT];

	connection->listener->counters.failed++;
	address_format(remote, &connection->remote);
	log_warning("handshake refused", "address=%s reason=%s", remote, reason);
	begin_closing(connection, STAGE_DRAIN);
	begin_draining(connection);
}

/* What to wait for after an SSL function returned `result`; 0: it has failed. */
static int wanted_events(const struct connection *connection, int result)
{
	switch (SSL_get_error(connection->ssl, result)) {
	case SSL_ERROR_WANT_READ:
		return UV_READABLE;
	case SSL_ERROR_WANT_WRITE:
		return UV_WRITABLE;
	default:
		return 0;
	}
}

static const char *failure(const struct connection *connection, int result)
{
	switch (SSL_get_error(connection->ssl, result)) {
	case SSL_ERROR_SSL:
		return tls_reason(connection->ssl);
	case SSL_ERROR_SYSCALL:
		return errno ? strerror(errno) : "closed by the peer";
	default:
		return "closed by the peer";
	}
}

/*
 * Each stage does what it can. It returns the events to wait for, or 0 when the connection is in
 * another stage now.
 */
static int do_handshake(struct connection *connection)
{
	int result = SSL_do_handshake(connection->ssl);
	int events;

	if (result == 1) {
		if (SSL_session_reused(connection->ssl))
			connection->listener->counters.resumed++;
		connection->stage = STAGE_HELLO;
		return 0;
	}
	events = wanted_events(connection, result);
	if (!events)
		fail(connection, failure(connection, result));
	return events;
}

/* Asks the owner for an answer to a complete line, or to one that is too long. */
static void answer(struct connection *connection, const char *line, size_t length)
{
	struct listener *listener = connection->listener;
	struct sockaddr_storage address;
	socklen_t size = sizeof(address);
	struct endpoint local = {0};
	struct listener_hello hello = {
		.ssl = connection->ssl,
		.remote = &connection->remote,
		.local = &local,
		.line = line,
		.length = length,
	};
	char text[WIRE_LINE_MAX];
	bool welcome = false;

	if (!getsockname(connection->fd, (struct sockaddr *)&address, &size))
		address_endpoint(&local, &address);
	length = listener->config.answer(listener->config.arg, &hello, text, &welcome);
	if (!length) {
		fail(connection, "out of memory");
		return;
	}
	if (welcome)
		listener->counters.welcomed++;
	else
		listener->counters.refused++;
	memcpy(connection->line, text, length);
	connection->length = length;
	connection->stage = STAGE_ANSWER;
}

static int do_hello(struct connection *connection)
{
	int result, events;
	char *end;

	if (!connection->line)
		connection->line = malloc(WIRE_LINE_MAX);
	if (!connection->line) {
		fail(connection, "out of memory");
		return 0;
	}
	result = SSL_read(connection->ssl, connection->line + connection->length,
			  (int)(WIRE_LINE_MAX - connection->length));
	if (result <= 0) {
		events = wanted_events(connection, result);
		if (!events)
			fail(connection, failure(connection, result));
		return events;
	}
	end = memchr(connection->line + connection->length, '\n', (size_t)result);
	connection->length += (size_t)result;
	if (end)
		answer(connection, connection->line, (size_t)(end - connection->line));
	else if (connection->length == WIRE_LINE_MAX)
		answer(connection, NULL, 0);
	return 0;
}

static int do_answer(struct connection *connection)
{
	int result = SSL_write(connection->ssl, connection->line, (int)connection->length);
	int events;

	if (result > 0) {
		begin_closing(connection, STAGE_SHUTDOWN);
		return 0;
	}
	events = wanted_events(connection, result);
	if (!events) {
		begin_closing(connection, STAGE_DRAIN);
		begin_draining(connection);
	}
	return events;
}

static int do_shutdown(struct connection *connection)
{
	int result = SSL_shutdown(connection->ssl);
	int events = result < 0 ? wanted_events(connection, result) : 0;

	if (!events)
		begin_draining(connection);
	return events;
}

static int do_drain(struct connection *connection)
{
	char bytes[4096];
	ssize_t length = recv(connection->fd, bytes, sizeof(bytes), 0);

	if (length > 0)
		connection->drained += (size_t)length;
	else if (length < 0 && (errno == EAGAIN || errno == EINTR))
		return UV_READABLE;
	else
		close_connection(connection);
	if (connection->drained > DRAIN_MAX)
		close_connection(connection);
	return 0;
}

static void on_event(uv_poll_t *poll, int status, int events)
{
	static int (*const stages[])(struct connection * connection) = {
		[STAGE_HANDSHAKE] = do_handshake, [STAGE_HELLO] = do_hello,
		[STAGE_ANSWER] = do_answer,       [STAGE_SHUTDOWN] = do_shutdown,
		[STAGE_DRAIN] = do_drain,
	};
	struct connection *connection = poll->data;

	do {
		ERR_clear_error();
		errno = 0;
		events = stages[connection->stage](connection);
		if (uv_is_closing((uv_handle_t *)poll))
			return;
	} while (!events);
	uv_poll_start(poll, events, on_event);
}

static void open_connection(struct listener *listener, int fd,
			    const struct sockaddr_storage *address)
{
	struct connection *connection = calloc(1, sizeof(*connection));
	const int yes = 1;

	if (!connection)
		goto close;
	connection->ssl = tls_accept(listener->config.tls, fd);
	if (!connection->ssl || uv_poll_init(listener->loop, &connection->poll, fd))
		goto free;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	uv_timer_init(listener->loop, &connection->timer);
	connection->listener = listener;
	connection->fd = fd;
	connection->handles = 2;
	connection->poll.data = connection;
	connection->timer.data = connection;
	address_endpoint(&connection->remote, address);
	cds_list_add_tail(&connection->node, &listener->connections);
	listener->connection_count++;
	listener->handshake_count++;
	uv_timer_start(&connection->timer, on_timeout, listener->config.timeout_ms, 0);
	uv_poll_start(&connection->poll, UV_READABLE, on_event);
	return;
free:
	SSL_free(connection->ssl);
	free(connection);
close:
	log_error("connection refused", "reason=%s", "out of memory");
	close(fd);
}

static void on_accept(uv_poll_t *poll, int status, int events)
{
	struct listening *socket = poll->data;
	struct listener *listener = socket->listener;

	while (!is_full(listener)) {
		struct sockaddr_storage address;
		socklen_t size = sizeof(address);
		int fd = accept4(socket->fd, (struct sockaddr *)&address, &size,
				 SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0) {
			open_connection(listener, fd, &address);
			continue;
		}
		if (errno == EAGAIN)
			return;
		if (errno == EINTR || errno == ECONNABORTED)
			continue;
		// out of descriptors or memory: go on when a connection has closed
		log_error("connection refused", "reason=%s", strerror(errno));
		if (listener->connection_count)
			break;
		return;
	}
	pause_accepting(listener);
}

/* Sockets */

static int open_socket(const char *text, char *error)
{
	struct sockaddr_storage address;
	socklen_t size = address_parse(&address, text);
	const int yes = 1;
	int fd, result;

	fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		goto failed;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (address.ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &yes, sizeof(yes));
	if (!bind(fd, (struct sockaddr *)&address, size) && !listen(fd, BACKLOG))
		return fd;
failed:
	result = -errno;
	snprintf(error, CONFIG_ERROR_MAX, "control.listen: %s: %s%s", text, strerror(-result),
		 result == -EADDRINUSE      ? "; end what listens there, or choose another port"
		 : result == -EADDRNOTAVAIL ? "; no interface has this address"
		 : result == -EACCES        ? "; ports below 1024 need root"
					    : "");
	if (fd >= 0)
		close(fd);
	return result;
}

static void on_socket_closed(uv_handle_t *handle)
{
	struct listening *socket = handle->data;
	struct listener *listener = socket->listener;

	close(socket->fd);
	listener->socket_count--;
	free_listener(listener);
}

int listener_start(struct listener **out, uv_loop_t *loop, const struct listener_config *config,
		   char *error)
{
	struct listener *listener = calloc(1, sizeof(*listener));
	int result = -ENOMEM;

	if (!listener) {
		snprintf(error, CONFIG_ERROR_MAX, "out of memory");
		return result;
	}
	listener->config = *config;
	listener->loop = loop;
	CDS_INIT_LIST_HEAD(&listener->connections);
	for (unsigned int i = 0; i < config->address_count; i++) {
		struct listening *socket = &listener->sockets[i];

		result = open_socket(config->addresses[i], error);
		if (result < 0) {
			listener_stop(listener);
			return result;
		}
		socket->fd = result;
		socket->listener = listener;
		uv_poll_init(loop, &socket->poll, socket->fd);
		socket->poll.data = socket;
		listener->socket_count++;
	}
	listener->paused = true;
	resume_accepting(listener);
	*out = listener;
	return 0;
}

void listener_stop(struct listener *listener)
{
	struct connection *connection, *next;

	listener->stopped = true;
	cds_list_for_each_entry_safe (connection, next, &listener->connections, node) {
		close_connection(connection);
	}
	for (unsigned int i = 0; i < listener->socket_count; i++)
		uv_close((uv_handle_t *)&listener->sockets[i].poll, on_socket_closed);
	free_listener(listener);
}

const struct listener_counters *listener_counters(const struct listener *listener)
{
	return &listener->counters;
}
