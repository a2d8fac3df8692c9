/*
 * Through brokers on TCP, each in its own protocol, spoken directly: NATS and MQTT 3.1.1 over TLS
 * 1.3, ZeroMQ's ZMTP 3.0 without. What is queued for a connection leaves in one write.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#include "pairs.h"

enum {
	IN_SIZE = 1 << 18,
	OUT_FIRST = 1 << 16,
	MESSAGE_MAX = PAYLOAD_MAX + 64, // with what any protocol puts around it
	EVENTS = 256,
	READS_MAX = 4, // of one connection, before others have their turn
};

struct state;

struct stream {
	struct state *state;
	unsigned int number;
	int fd;
	SSL *ssl; // NULL without TLS
	uint8_t *in;
	size_t in_length;
	uint8_t *out;
	size_t out_size, out_length, out_done;
	bool dirty, blocked;
};

struct state {
	const struct protocol *protocol;
	struct pairs *pairs;
	SSL_CTX *tls;
	int epoll;
	unsigned int payload, count, dirty_count;
	struct stream **dirty; // with something to send
	struct stream streams[];
};

struct protocol {
	uint16_t port;
	bool tls;

	/* Before TLS, where something is said before it. NULL: nothing. */
	int (*greet)(struct stream *stream);

	/* Logs in under the endpoint's number, blocking. Returns 0 or a negative errno. */
	int (*login)(struct stream *stream);

	/* Writes a message to endpoint `to`. Returns its size. */
	size_t (*put)(uint8_t *out, unsigned int to, const uint8_t *payload, size_t length);

	/*
	 * Reads one thing that the broker said. Returns the bytes it takes, 0 if it isn't whole
	 * yet, negative if it isn't understood. `payload` stays NULL if it is no message.
	 */
	ssize_t (*get)(const uint8_t *in, size_t length, const uint8_t **payload,
		       size_t *payload_length);
};

/* ---- Bytes ---- */

/* Blocking, while connecting. */
static int stream_put(struct stream *stream, const void *data, size_t length)
{
	ssize_t n = stream->ssl ? SSL_write(stream->ssl, data, (int)length)
				: send(stream->fd, data, length, 0);

	return n == (ssize_t)length ? 0 : -EPIPE;
}

/* As recv(): bytes, 0 at the end, -EAGAIN, or another negative errno. */
static ssize_t stream_read(struct stream *stream, void *data, size_t size)
{
	ssize_t n;
	int error;

	if (!stream->ssl) {
		n = recv(stream->fd, data, size, 0);
		return n < 0 ? -errno : n;
	}
	ERR_clear_error();
	n = SSL_read(stream->ssl, data, (int)size);
	if (n > 0)
		return n;
	error = SSL_get_error(stream->ssl, (int)n);
	if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
		return -EAGAIN;
	return error == SSL_ERROR_ZERO_RETURN ? 0 : -EPIPE;
}

/* Reads until `size` bytes are there; while connecting. */
static int stream_await(struct stream *stream, size_t size)
{
	while (stream->in_length < size) {
		ssize_t n = stream_read(stream, stream->in + stream->in_length,
					size - stream->in_length);

		if (n <= 0)
			return n ? (int)n : -ECONNRESET;
		stream->in_length += (size_t)n;
	}
	return 0;
}

static void stream_took(struct stream *stream, size_t length)
{
	stream->in_length -= length;
	memmove(stream->in, stream->in + length, stream->in_length);
}

/* Reads lines, byte by byte, until one begins with `word`. */
static int line_await(struct stream *stream, const char *word)
{
	size_t length = strlen(word);
	int ret;

	do {
		stream->in_length = 0;
		do {
			if (stream->in_length == IN_SIZE)
				return -EPROTO;
			ret = stream_await(stream, stream->in_length + 1);
			if (ret)
				return ret;
		} while (stream->in[stream->in_length - 1] != '\n');
	} while (stream->in_length < length || memcmp(stream->in, word, length));
	stream->in_length = 0;
	return 0;
}

/* ---- NATS ---- */

static int nats_greet(struct stream *stream)
{
	return line_await(stream, "INFO ");
}

static int nats_login(struct stream *stream)
{
	char text[256];
	int length, ret;

	length = snprintf(text, sizeof(text),
			  "CONNECT {\"verbose\":false,\"pedantic\":false,\"echo\":false,"
			  "\"lang\":\"c\",\"version\":\"1\",\"protocol\":1}\r\n"
			  "SUB e%u 1\r\nPING\r\n",
			  stream->number);
	ret = stream_put(stream, text, (size_t)length);
	return ret ? ret : line_await(stream, "PONG");
}

/* With a NUL behind it, which the next overwrites. */
static size_t text_put(uint8_t *out, const char *text)
{
	return (size_t)(stpcpy((char *)out, text) - (char *)out);
}

static size_t number_put(uint8_t *out, unsigned int number)
{
	uint8_t digits[10];
	size_t count = 0;

	do
		digits[count++] = (uint8_t)('0' + number % 10);
	while (number /= 10);
	for (size_t i = 0; i < count; i++)
		out[i] = digits[count - 1 - i];
	return count;
}

static size_t nats_put(uint8_t *out, unsigned int to, const uint8_t *payload, size_t length)
{
	uint8_t *at = out;

	at += text_put(at, "PUB e");
	at += number_put(at, to);
	*at++ = ' ';
	at += number_put(at, (unsigned int)length);
	at += text_put(at, "\r\n");
	memcpy(at, payload, length);
	at += length;
	at += text_put(at, "\r\n");
	return (size_t)(at - out);
}

/* MSG SUBJECT SID LENGTH, or PING, or others that need no answer. */
static ssize_t nats_get(const uint8_t *in, size_t length, const uint8_t **payload,
			size_t *payload_length)
{
	const uint8_t *end = memchr(in, '\n', length);
	size_t size = 0, head, unit = 1;

	if (!end)
		return 0;
	head = (size_t)(end + 1 - in);
	if (memcmp(in, "MSG ", 4) != 0)
		return memcmp(in, "-ERR", 4) == 0 ? -EPROTO : (ssize_t)head;
	for (const uint8_t *digit = end - 2; digit > in && *digit != ' '; digit--, unit *= 10)
		size += (size_t)(*digit - '0') * unit;
	if (size > PAYLOAD_MAX)
		return -EPROTO;
	if (length < head + size + 2)
		return 0;
	*payload = end + 1;
	*payload_length = size;
	return (ssize_t)(head + size + 2);
}

static const struct protocol nats = {
	.port = 4222,
	.tls = true,
	.greet = nats_greet,
	.login = nats_login,
	.put = nats_put,
	.get = nats_get,
};

/* ---- MQTT 3.1.1 (OASIS), QoS 0 ---- */

enum {
	MQTT_PUBLISH = 0x30,
	MQTT_CONNACK = 0x20,
	MQTT_SUBACK = 0x90,
};

static int mqtt_login(struct stream *stream)
{
	uint8_t packet[64] = {0x10, 0, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0, 0, 0};
	size_t id = 14, topic = 6, length;
	int ret;

	length = (size_t)snprintf((char *)packet + id, sizeof(packet) - id, "e%u", stream->number);
	packet[1] = (uint8_t)(id - 2 + length);
	packet[13] = (uint8_t)length;
	ret = stream_put(stream, packet, id + length);
	if (!ret)
		ret = stream_await(stream, 4);
	if (ret)
		return ret;
	if (stream->in[0] != MQTT_CONNACK || stream->in[3] != 0)
		return -EPROTO;
	stream_took(stream, 4);

	memcpy(packet, (uint8_t[]){0x82, 0, 0, 1, 0, 0}, topic);
	length = (size_t)snprintf((char *)packet + topic, sizeof(packet) - topic, "e%u",
				  stream->number);
	packet[1] = (uint8_t)(topic - 2 + length + 1);
	packet[5] = (uint8_t)length;
	packet[topic + length] = 0; // QoS
	ret = stream_put(stream, packet, topic + length + 1);
	if (!ret)
		ret = stream_await(stream, 5);
	if (ret)
		return ret;
	if (stream->in[0] != MQTT_SUBACK || stream->in[4] != 0)
		return -EPROTO;
	stream_took(stream, 5);
	return 0;
}

static size_t mqtt_put(uint8_t *out, unsigned int to, const uint8_t *payload, size_t length)
{
	uint8_t topic[16] = {0, 0, 'e'}, *at = out;
	size_t topic_length = 3 + number_put(topic + 3, to);
	size_t rest = topic_length + length;

	topic[1] = (uint8_t)(topic_length - 2);
	*at++ = MQTT_PUBLISH;
	for (; rest > 0x7f; rest >>= 7)
		*at++ = (uint8_t)(rest | 0x80);
	*at++ = (uint8_t)rest;
	memcpy(at, topic, topic_length);
	memcpy(at + topic_length, payload, length);
	return (size_t)(at - out) + topic_length + length;
}

static ssize_t mqtt_get(const uint8_t *in, size_t length, const uint8_t **payload,
			size_t *payload_length)
{
	size_t rest = 0, topic, at = 1;

	do {
		if (at == 5)
			return -EPROTO;
		if (at >= length)
			return 0;
		rest |= (size_t)(in[at] & 0x7f) << 7 * (at - 1);
	} while (in[at++] & 0x80);
	if (rest > MESSAGE_MAX)
		return -EPROTO;
	if (length < at + rest)
		return 0;
	if (in[0] == MQTT_PUBLISH) {
		topic = rest < 2 ? 0 : (size_t)(in[at] << 8 | in[at + 1]);
		if (rest < topic + 2)
			return -EPROTO;
		*payload = in + at + 2 + topic;
		*payload_length = rest - 2 - topic;
	}
	return (ssize_t)(at + rest);
}

static const struct protocol mqtt = {
	.port = 8883,
	.tls = true,
	.login = mqtt_login,
	.put = mqtt_put,
	.get = mqtt_get,
};

/* ---- ZMTP 3.0 (ZeroMQ RFC 23), mechanism NULL, a DEALER ---- */

enum {
	ZMTP_GREETING = 64,
	ZMTP_MORE = 0x01,
	ZMTP_LONG = 0x02,
	ZMTP_COMMAND = 0x04,
};

static int zmtp_login(struct stream *stream)
{
	uint8_t greeting[ZMTP_GREETING] = {[0] = 0xff, [9] = 0x7f, [10] = 3, [12] = 'N',
					   'U',        'L',        'L'};
	uint8_t ready[80] = {ZMTP_COMMAND, 0};
	size_t at = 2, identity;
	int ret;

	// a name is preceded by its length in one byte, a value by its in four
	at += text_put(ready + at, "\005READY\013Socket-Type");
	at += 3 + text_put(ready + at + 3, "\006DEALER");
	at += text_put(ready + at, "\010Identity");
	at += 3;
	identity = (size_t)snprintf((char *)ready + at + 1, sizeof(ready) - at - 1, "e%u",
				    stream->number);
	ready[at] = (uint8_t)identity;
	at += 1 + identity;
	ready[1] = (uint8_t)(at - 2);

	ret = stream_put(stream, greeting, sizeof(greeting));
	if (!ret)
		ret = stream_await(stream, ZMTP_GREETING);
	if (ret)
		return ret;
	if (stream->in[0] != 0xff || stream->in[10] < 3 || memcmp(stream->in + 12, "NULL", 5))
		return -EPROTO;
	stream_took(stream, ZMTP_GREETING);
	ret = stream_put(stream, ready, at);
	if (!ret)
		ret = stream_await(stream, 2);
	if (!ret)
		ret = stream_await(stream, 2 + (size_t)stream->in[1]);
	if (ret)
		return ret;
	if (stream->in[0] != ZMTP_COMMAND || stream->in[1] < 6 ||
	    memcmp(stream->in + 2, "\005READY", 6))
		return -EPROTO;
	stream_took(stream, 2 + (size_t)stream->in[1]);
	return 0;
}

/* Two frames: to whom, and what. */
static size_t zmtp_put(uint8_t *out, unsigned int to, const uint8_t *payload, size_t length)
{
	uint8_t *at = out + 3;

	out[0] = ZMTP_MORE;
	out[2] = 'e';
	at += number_put(at, to);
	out[1] = (uint8_t)(at - out - 2);
	if (length > UINT8_MAX) {
		memset(at, 0, 9);
		at[0] = ZMTP_LONG;
		at[7] = (uint8_t)(length >> 8);
		at[8] = (uint8_t)length;
		at += 9;
	} else {
		*at++ = 0;
		*at++ = (uint8_t)length;
	}
	memcpy(at, payload, length);
	return (size_t)(at - out) + length;
}

static ssize_t zmtp_get(const uint8_t *in, size_t length, const uint8_t **payload,
			size_t *payload_length)
{
	size_t head = in[0] & ZMTP_LONG ? 9 : 2, size = 0;

	if (length < head)
		return 0;
	for (size_t i = 1; i < head; i++)
		size = size << 8 | in[i];
	if (size > PAYLOAD_MAX)
		return -EPROTO;
	if (length < head + size)
		return 0;
	if (!(in[0] & ZMTP_COMMAND)) {
		*payload = in + head;
		*payload_length = size;
	}
	return (ssize_t)(head + size);
}

static const struct protocol zmtp = {
	.port = 5555,
	.login = zmtp_login,
	.put = zmtp_put,
	.get = zmtp_get,
};

/* ---- Connections ---- */

static void state_close(void *state)
{
	struct state *s = state;

	for (unsigned int i = 0; i < s->count; i++) {
		SSL_free(s->streams[i].ssl);
		if (s->streams[i].fd >= 0)
			close(s->streams[i].fd);
		free(s->streams[i].in);
		free(s->streams[i].out);
	}
	SSL_CTX_free(s->tls);
	if (s->epoll >= 0)
		close(s->epoll);
	free(s->dirty);
	free(s);
}

static int tls_open(struct stream *stream)
{
	stream->ssl = SSL_new(stream->state->tls);
	if (!stream->ssl || SSL_set_fd(stream->ssl, stream->fd) != 1)
		return -ENOMEM;
	if (SSL_connect(stream->ssl) != 1) {
		ERR_print_errors_fp(stderr);
		return -EPROTO;
	}
	return 0;
}

static int stream_open(struct stream *stream, const char *relay)
{
	const struct protocol *protocol = stream->state->protocol;
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(protocol->port)};
	struct timeval timeout = {.tv_sec = SETUP_TIMEOUT_S};
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = stream};
	int one = 1, ret = 0;

	stream->in = malloc(IN_SIZE);
	stream->out = malloc(OUT_FIRST);
	stream->out_size = OUT_FIRST;
	stream->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (!stream->in || !stream->out || stream->fd < 0 ||
	    inet_pton(AF_INET, relay, &to.sin_addr) != 1)
		return -EINVAL;
	setsockopt(stream->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(stream->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	if (connect(stream->fd, (struct sockaddr *)&to, sizeof(to)))
		return -errno;
	if (protocol->greet)
		ret = protocol->greet(stream);
	if (!ret && protocol->tls)
		ret = tls_open(stream);
	if (!ret)
		ret = protocol->login(stream);
	if (!ret && (fcntl(stream->fd, F_SETFL, O_NONBLOCK) ||
		     epoll_ctl(stream->state->epoll, EPOLL_CTL_ADD, stream->fd, &event)))
		ret = -errno;
	return ret;
}

static SSL_CTX *tls_new(const char *pki)
{
	SSL_CTX *tls = SSL_CTX_new(TLS_client_method());
	char ca[4096];

	snprintf(ca, sizeof(ca), "%s/ca.pem", pki);
	if (!tls || SSL_CTX_load_verify_locations(tls, ca, NULL) != 1) {
		SSL_CTX_free(tls);
		return NULL;
	}
	SSL_CTX_set_verify(tls, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_min_proto_version(tls, TLS1_3_VERSION);
	SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	return tls;
}

static void *state_open(const struct transport *transport, struct pairs *pairs,
			const struct pairs_options *options)
{
	struct state *s = calloc(1, sizeof(*s) + options->endpoints * sizeof(s->streams[0]));
	int ret;

	if (!s)
		return NULL;
	s->protocol = transport->details;
	s->pairs = pairs;
	s->payload = options->payload;
	s->epoll = epoll_create1(EPOLL_CLOEXEC);
	s->tls = tls_new(options->pki);
	s->dirty = calloc(options->endpoints, sizeof(struct stream *));
	if (s->epoll < 0 || !s->tls || !s->dirty) {
		fprintf(stderr, "pairs: no memory, or no %s/ca.pem\n", options->pki);
		goto fail;
	}
	for (; s->count < options->endpoints;) {
		struct stream *stream = &s->streams[s->count];

		stream->state = s;
		stream->number = s->count++;
		ret = stream_open(stream, options->relay);
		if (ret) {
			fprintf(stderr, "pairs: endpoint %u can't connect: %s\n", stream->number,
				strerror(-ret));
			goto fail;
		}
	}
	return s;
fail:
	state_close(s);
	return NULL;
}

/* ---- Messages ---- */

static bool state_send(void *state, unsigned int endpoint, const uint8_t *payload)
{
	struct state *s = state;
	struct stream *stream = &s->streams[endpoint];

	if (stream->out_size - stream->out_length < MESSAGE_MAX) {
		uint8_t *out = realloc(stream->out, stream->out_size * 2);

		if (!out)
			return false;
		stream->out = out;
		stream->out_size *= 2;
	}
	stream->out_length += s->protocol->put(stream->out + stream->out_length, endpoint ^ 1,
					       payload, s->payload);
	if (!stream->dirty) {
		stream->dirty = true;
		s->dirty[s->dirty_count++] = stream;
	}
	return true;
}

/* Waits for room in the kernel, or no longer. */
static void stream_block(struct stream *stream, bool blocked)
{
	struct epoll_event event = {.events = EPOLLIN | (blocked ? EPOLLOUT : 0),
				    .data.ptr = stream};

	if (stream->blocked != blocked)
		epoll_ctl(stream->state->epoll, EPOLL_CTL_MOD, stream->fd, &event);
	stream->blocked = blocked;
}

/* What can't be sent waits; a connection that has ended is found out by reading. */
static void stream_flush(struct stream *stream)
{
	while (stream->out_done < stream->out_length) {
		const uint8_t *data = stream->out + stream->out_done;
		size_t length = stream->out_length - stream->out_done;
		ssize_t n;

		if (stream->ssl) {
			ERR_clear_error();
			n = SSL_write(stream->ssl, data, (int)length);
		} else {
			n = send(stream->fd, data, length, MSG_NOSIGNAL);
		}
		if (n <= 0) {
			stream_block(stream, true);
			return;
		}
		stream->out_done += (size_t)n;
	}
	stream->out_done = stream->out_length = 0;
	stream_block(stream, false);
}

static void state_flush(void *state)
{
	struct state *s = state;

	for (unsigned int i = 0; i < s->dirty_count; i++) {
		s->dirty[i]->dirty = false;
		if (!s->dirty[i]->blocked)
			stream_flush(s->dirty[i]);
	}
	s->dirty_count = 0;
}

static int messages_take(struct stream *stream)
{
	struct state *s = stream->state;
	size_t done = 0;

	while (done < stream->in_length) {
		const uint8_t *payload = NULL;
		size_t length = 0;
		ssize_t n = s->protocol->get(stream->in + done, stream->in_length - done, &payload,
					     &length);

		if (n < 0)
			return (int)n;
		if (n == 0)
			break;
		if (payload)
			pairs_received(s->pairs, stream->number, payload, length);
		done += (size_t)n;
	}
	stream_took(stream, done);
	return 0;
}

static int stream_receive(struct stream *stream)
{
	for (int i = 0; i < READS_MAX; i++) {
		size_t room = IN_SIZE - stream->in_length;
		ssize_t n = stream_read(stream, stream->in + stream->in_length, room);

		if (n == -EAGAIN)
			break;
		if (n <= 0)
			return n ? (int)n : -ECONNRESET;
		stream->in_length += (size_t)n;
		if (!stream->ssl && (size_t)n < room)
			break;
	}
	return messages_take(stream);
}

static int state_poll(void *state, int timeout_ms)
{
	struct epoll_event events[EVENTS];
	struct state *s = state;
	int n = epoll_wait(s->epoll, events, EVENTS, timeout_ms), ret = 0;

	for (int i = 0; i < n && !ret; i++) {
		struct stream *stream = events[i].data.ptr;

		if (events[i].events & EPOLLOUT)
			stream_flush(stream);
		if (events[i].events & ~(uint32_t)EPOLLOUT)
			ret = stream_receive(stream);
	}
	return ret;
}

#define TRANSPORT(word, how)                                                                       \
	{                                                                                          \
		.name = word, .open = state_open, .close = state_close, .send = state_send,        \
		.flush = state_flush, .poll = state_poll, .details = how                           \
	}

const struct transport through_nats = TRANSPORT("nats", &nats);
const struct transport through_mqtt = TRANSPORT("mqtt", &mqtt);
const struct transport through_zmq = TRANSPORT("zmq", &zmtp);
