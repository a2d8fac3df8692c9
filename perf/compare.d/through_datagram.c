/*
 * Through relays on UDP: perf's own (relay_udp.c), with or without trains (UDP_SEGMENT, UDP_GRO),
 * and TURN (RFC 8656) with or without DTLS. All datagrams that wait for a socket leave in one
 * system call. Through the plain relay many endpoints share a socket, as peers in libviaduct do;
 * trains are longer, and TURN only works, with one each.
 *
 * A TURN server relays between its client and any peer. So of each pair the even endpoint is a
 * client and sends channel data, and the odd one a plain peer: the least work for the server.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
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
	HEADER_MAX = 4,
	SHARED = 64,       // endpoints a socket
	QUEUE = 512,       // datagrams a socket
	SEGMENTS = 64,     // a train
	TRAIN_MAX = 65000, // bytes
	RECEIVE = 64,      // datagrams or trains a system call
	RECEIVE_MAX = 65536,
	SOCKET_BUFFER = 8 << 20,
	EVENTS = 256,
	CHANNEL = 0x4000,
};

struct kind {
	uint16_t port;
	bool shared, trains, turn, dtls;
};

struct flow {
	struct flow *socket; // the flow whose socket and queue it uses
	int fd;
	SSL *ssl;                   // NULL without DTLS
	uint8_t header[HEADER_MAX]; // of every datagram
	size_t header_size;
	uint8_t *queue; // QUEUE datagrams, back to back
	unsigned int queued;
	bool dirty;
};

struct state {
	const struct kind *kind;
	struct pairs *pairs;
	SSL_CTX *dtls;
	int epoll;
	unsigned int payload, count, dirty_count;
	struct flow **dirty; // with something to send
	uint8_t *buffers;    // RECEIVE of RECEIVE_MAX
	struct flow flows[];
};

/* ---- Setting up ---- */

static int flow_put(struct flow *flow, const void *data, size_t length)
{
	ssize_t n = flow->ssl ? SSL_write(flow->ssl, data, (int)length)
			      : send(flow->fd, data, length, 0);

	return n == (ssize_t)length ? 0 : -EPIPE;
}

/* Asks, and again, until there is an answer. Returns its length or a negative errno. */
static ssize_t flow_ask(struct flow *flow, const void *question, size_t length, void *answer,
			size_t size)
{
	struct pollfd poller = {.fd = flow->fd, .events = POLLIN};

	for (int i = 0; i < SETUP_TIMEOUT_S; i++) {
		ssize_t n;

		if (flow_put(flow, question, length))
			return -EPIPE;
		if (poll(&poller, 1, 1000) < 1)
			continue;
		n = flow->ssl ? SSL_read(flow->ssl, answer, (int)size)
			      : recv(flow->fd, answer, size, 0);
		if (n > 0)
			return n;
	}
	return -ETIMEDOUT;
}

static int dtls_open(struct state *s, struct flow *flow, const struct sockaddr_in *relay)
{
	struct timeval timeout = {.tv_sec = SETUP_TIMEOUT_S};
	BIO *bio = BIO_new_dgram(flow->fd, BIO_NOCLOSE);

	flow->ssl = SSL_new(s->dtls);
	if (!bio || !flow->ssl)
		return -ENOMEM;
	BIO_ctrl(bio, BIO_CTRL_DGRAM_SET_CONNECTED, 0, (void *)relay);
	BIO_ctrl(bio, BIO_CTRL_DGRAM_SET_RECV_TIMEOUT, 0, &timeout);
	SSL_set_bio(flow->ssl, bio, bio);
	if (SSL_connect(flow->ssl) != 1) {
		ERR_print_errors_fp(stderr);
		return -EPROTO;
	}
	return 0;
}

static void put16(uint8_t *at, unsigned int value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static const uint8_t cookie[4] = {0x21, 0x12, 0xa4, 0x42};

/* An IPv4 address in an attribute: RFC 8489 section 14.2. */
static void xor_address(uint8_t to[6], const uint8_t from[6])
{
	for (int i = 0; i < 2; i++)
		to[i] = from[i] ^ cookie[i];
	for (int i = 0; i < 4; i++)
		to[2 + i] = from[2 + i] ^ cookie[i];
}

/* Sends a STUN request and awaits success. Returns the answer's length or a negative errno. */
static ssize_t stun_ask(struct flow *flow, unsigned int method, const uint8_t *attributes,
			size_t length, uint8_t *answer, size_t size)
{
	uint8_t request[64] = {0};
	ssize_t n;

	put16(request, method);
	put16(request + 2, (unsigned int)length);
	memcpy(request + 4, cookie, sizeof(cookie));
	memcpy(request + 8, &flow, sizeof(flow)); // the transaction's number
	request[16] = (uint8_t)method;
	memcpy(request + 20, attributes, length);
	n = flow_ask(flow, request, 20 + length, answer, size);
	if (n < 0)
		return n;
	return n >= 20 && answer[0] == 0x01 && answer[1] == method ? n : -EPROTO;
}

/* `client` is a client of the TURN server, and `peer` will be its peer. */
static int turn_allocate(struct flow *client, struct flow *peer)
{
	static const uint8_t udp[] = {0x00, 0x19, 0, 4, IPPROTO_UDP, 0, 0, 0};
	uint8_t bind[] = {0x00, 0x0c, 0, 4, CHANNEL >> 8, 0, 0, 0, 0x00, 0x12, 0, 8, 0, 1, 0, 0,
			  0,    0,    0, 0};
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t size = sizeof(address);
	uint8_t answer[512], plain[6];
	const uint8_t *relayed = NULL;
	ssize_t n = stun_ask(client, 0x0003, udp, sizeof(udp), answer, sizeof(answer));

	if (n < 0)
		return (int)n;
	for (ssize_t at = 20; at + 12 <= n && !relayed; at += 4 + (answer[at + 3] + 3) / 4 * 4) {
		if (answer[at] == 0 && answer[at + 1] == 0x16) // XOR-RELAYED-ADDRESS
			relayed = answer + at + 6;
	}
	if (!relayed)
		return -EPROTO;
	xor_address(plain, relayed);
	memcpy(&address.sin_port, plain, 2);
	memcpy(&address.sin_addr, plain + 2, 4);
	if (connect(peer->fd, (struct sockaddr *)&address, sizeof(address)) ||
	    getsockname(peer->fd, (struct sockaddr *)&address, &size))
		return -errno;
	memcpy(plain, &address.sin_port, 2);
	memcpy(plain + 2, &address.sin_addr, 4);
	xor_address(bind + 14, plain);
	n = stun_ask(client, 0x0009, bind, sizeof(bind), answer, sizeof(answer));
	return n < 0 ? (int)n : 0;
}

/* Tells the relay where an endpoint is; its datagrams begin with their receiver's number. */
static int udp_register(struct flow *flow, unsigned int number)
{
	uint32_t own = htonl(number), other = htonl(number ^ 1);
	uint8_t answer[HEADER_MAX];
	ssize_t n;

	flow->header_size = HEADER_MAX;
	memcpy(flow->header, &other, sizeof(other));
	n = flow_ask(flow->socket, &own, sizeof(own), answer, sizeof(answer));
	return n < 0 ? (int)n : 0;
}

static int flow_open(struct state *s, unsigned int number, const char *relay)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(s->kind->port)};
	int size = SOCKET_BUFFER, one = 1;
	struct flow *flow = &s->flows[number];

	flow->socket = s->kind->shared ? &s->flows[number - number % SHARED] : flow;
	if (flow->socket != flow) {
		flow->fd = -1;
		return udp_register(flow, number);
	}
	flow->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	flow->queue = malloc((size_t)QUEUE * (HEADER_MAX + s->payload));
	if (flow->fd < 0 || !flow->queue || inet_pton(AF_INET, relay, &to.sin_addr) != 1)
		return -EINVAL;
	setsockopt(flow->fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	setsockopt(flow->fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	if (s->kind->trains)
		setsockopt(flow->fd, SOL_UDP, UDP_GRO, &one, sizeof(one));
	if (s->kind->turn && number % 2)
		return turn_allocate(flow - 1, flow);
	if (connect(flow->fd, (struct sockaddr *)&to, sizeof(to)))
		return -errno;
	if (!s->kind->turn)
		return udp_register(flow, number);
	flow->header_size = HEADER_MAX;
	put16(flow->header, CHANNEL);
	put16(flow->header + 2, s->payload);
	return s->kind->dtls ? dtls_open(s, flow, &to) : 0;
}

static void state_close(void *state)
{
	struct state *s = state;

	for (unsigned int i = 0; i < s->count; i++) {
		SSL_free(s->flows[i].ssl);
		if (s->flows[i].fd >= 0)
			close(s->flows[i].fd);
		free(s->flows[i].queue);
	}
	SSL_CTX_free(s->dtls);
	if (s->epoll >= 0)
		close(s->epoll);
	free(s->buffers);
	free(s->dirty);
	free(s);
}

static void *state_open(const struct transport *transport, struct pairs *pairs,
			const struct pairs_options *options)
{
	struct state *s = calloc(1, sizeof(*s) + options->endpoints * sizeof(s->flows[0]));
	int ret = 0;

	if (!s)
		return NULL;
	s->kind = transport->details;
	s->pairs = pairs;
	s->payload = options->payload;
	s->epoll = epoll_create1(EPOLL_CLOEXEC);
	s->dtls = SSL_CTX_new(DTLS_client_method());
	s->dirty = calloc(options->endpoints, sizeof(struct flow *));
	s->buffers = malloc((size_t)RECEIVE * RECEIVE_MAX);
	if (s->epoll < 0 || !s->dtls || !s->dirty || !s->buffers)
		ret = -ENOMEM;
	while (s->count < options->endpoints && !ret)
		ret = flow_open(s, s->count++, options->relay);
	for (unsigned int i = 0; i < s->count && !ret; i++) {
		struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};

		if (s->flows[i].fd < 0)
			continue;
		if (fcntl(s->flows[i].fd, F_SETFL, O_NONBLOCK) ||
		    epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->flows[i].fd, &event))
			ret = -errno;
	}
	if (!ret)
		return s;
	fprintf(stderr, "pairs: endpoint %u can't connect: %s\n", s->count - 1, strerror(-ret));
	state_close(s);
	return NULL;
}

/* ---- Messages ---- */

static size_t datagram_size(const struct state *s, const struct flow *flow)
{
	return flow->header_size + s->payload;
}

/* How many of the queue leave as one: a train's, or 1. */
static unsigned int train_length(const struct state *s, const struct flow *flow)
{
	unsigned int most = (unsigned int)(TRAIN_MAX / datagram_size(s, flow));

	if (!s->kind->trains)
		return 1;
	return most < SEGMENTS ? most : SEGMENTS;
}

static void queue_took(const struct state *s, struct flow *flow, unsigned int count)
{
	size_t size = datagram_size(s, flow);

	flow->queued -= count;
	memmove(flow->queue, flow->queue + count * size, flow->queued * size);
}

static void flow_flush(struct state *s, struct flow *flow)
{
	union {
		char bytes[CMSG_SPACE(sizeof(uint16_t))];
		struct cmsghdr align;
	} control[QUEUE];
	unsigned int length = train_length(s, flow), count = 0;
	size_t size = datagram_size(s, flow);
	struct mmsghdr headers[QUEUE];
	struct iovec vectors[QUEUE];
	int sent;

	if (flow->ssl) {
		while (count < flow->queued &&
		       SSL_write(flow->ssl, flow->queue + count * size, (int)size) > 0)
			count++;
		queue_took(s, flow, count);
		return;
	}
	for (unsigned int i = 0; i < flow->queued; i += length, count++) {
		unsigned int n = flow->queued - i < length ? flow->queued - i : length;
		struct msghdr *header = &headers[count].msg_hdr;

		vectors[count] = (struct iovec){flow->queue + i * size, n * size};
		*header = (struct msghdr){.msg_iov = &vectors[count], .msg_iovlen = 1};
		if (n > 1) {
			const uint16_t segment = (uint16_t)size;

			header->msg_control = &control[count];
			header->msg_controllen = sizeof(control[count].bytes);
			CMSG_FIRSTHDR(header)->cmsg_level = SOL_UDP;
			CMSG_FIRSTHDR(header)->cmsg_type = UDP_SEGMENT;
			CMSG_FIRSTHDR(header)->cmsg_len = CMSG_LEN(sizeof(segment));
			memcpy(CMSG_DATA(CMSG_FIRSTHDR(header)), &segment, sizeof(segment));
		}
	}
	sent = sendmmsg(flow->fd, headers, count, MSG_NOSIGNAL);
	if (sent > 0) {
		unsigned int gone = (unsigned int)sent * length;

		queue_took(s, flow, gone < flow->queued ? gone : flow->queued);
	}
}

static bool state_send(void *state, unsigned int endpoint, const uint8_t *payload)
{
	struct state *s = state;
	const struct flow *flow = &s->flows[endpoint];
	struct flow *socket = flow->socket;
	uint8_t *at;

	if (socket->queued == QUEUE)
		flow_flush(s, socket);
	if (socket->queued == QUEUE)
		return false;
	at = socket->queue + socket->queued++ * datagram_size(s, socket);
	memcpy(at, flow->header, flow->header_size);
	memcpy(at + flow->header_size, payload, s->payload);
	if (!socket->dirty) {
		socket->dirty = true;
		s->dirty[s->dirty_count++] = socket;
	}
	return true;
}

/* What the kernel doesn't take stays for the next time. */
static void state_flush(void *state)
{
	struct state *s = state;
	unsigned int left = 0;

	for (unsigned int i = 0; i < s->dirty_count; i++) {
		flow_flush(s, s->dirty[i]);
		s->dirty[i]->dirty = s->dirty[i]->queued;
		if (s->dirty[i]->dirty)
			s->dirty[left++] = s->dirty[i];
	}
	s->dirty_count = left;
}

/* The size of a train's datagrams, which are `length` bytes together. */
static size_t segment_size(struct msghdr *header, size_t length)
{
	struct cmsghdr *control = CMSG_FIRSTHDR(header);
	int size;

	if (!control || control->cmsg_level != SOL_UDP || control->cmsg_type != UDP_GRO)
		return length;
	memcpy(&size, CMSG_DATA(control), sizeof(size));
	return (size_t)size;
}

/* Whose a datagram is that came to the socket of endpoint `number`. */
static unsigned int endpoint_of(const struct state *s, unsigned int number, const uint8_t *data)
{
	uint32_t receiver;

	if (s->kind->turn)
		return number;
	memcpy(&receiver, data, sizeof(receiver));
	return ntohl(receiver) % s->count;
}

static void flow_receive(struct state *s, unsigned int number)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control[RECEIVE];
	struct flow *flow = &s->flows[number];
	size_t head = flow->header_size;
	struct mmsghdr headers[RECEIVE];
	struct iovec vectors[RECEIVE];
	int n;

	if (flow->ssl) {
		for (int i = 0; i < RECEIVE; i++) {
			n = SSL_read(flow->ssl, s->buffers, RECEIVE_MAX);
			if (n <= (int)head)
				break;
			pairs_received(s->pairs, number, s->buffers + head, (size_t)n - head);
		}
		ERR_clear_error();
		return;
	}
	for (int i = 0; i < RECEIVE; i++) {
		vectors[i] = (struct iovec){s->buffers + (size_t)i * RECEIVE_MAX, RECEIVE_MAX};
		headers[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
		if (s->kind->trains) {
			headers[i].msg_hdr.msg_control = &control[i];
			headers[i].msg_hdr.msg_controllen = sizeof(control[i].bytes);
		}
	}
	n = recvmmsg(flow->fd, headers, RECEIVE, MSG_DONTWAIT, NULL);
	for (int i = 0; i < n; i++) {
		size_t length = headers[i].msg_len;
		size_t size = segment_size(&headers[i].msg_hdr, length);
		const uint8_t *data = vectors[i].iov_base;

		while (length > head) {
			if (size > length)
				size = length;
			pairs_received(s->pairs, endpoint_of(s, number, data), data + head,
				       size - head);
			data += size;
			length -= size;
		}
	}
}

static int state_poll(void *state, int timeout_ms)
{
	struct epoll_event events[EVENTS];
	struct state *s = state;
	int n = epoll_wait(s->epoll, events, EVENTS, timeout_ms);

	for (int i = 0; i < n; i++)
		flow_receive(s, events[i].data.u32);
	return 0;
}

static const struct kind udp = {.port = 7741, .shared = true};
static const struct kind udp_trains = {.port = 7741, .trains = true};
static const struct kind turn = {.port = 3478, .turn = true};
static const struct kind turn_dtls = {.port = 5349, .turn = true, .dtls = true};

#define TRANSPORT(word, how)                                                                       \
	{                                                                                          \
		.name = word, .open = state_open, .close = state_close, .send = state_send,        \
		.flush = state_flush, .poll = state_poll, .details = how                           \
	}

const struct transport through_udp = TRANSPORT("udp", &udp);
const struct transport through_udp_trains = TRANSPORT("udp-trains", &udp_trains);
const struct transport through_turn = TRANSPORT("turn", &turn);
const struct transport through_turn_dtls = TRANSPORT("turn-dtls", &turn_dtls);
