/*
 * The least that a relay in user space has to do: receive a batch of datagrams, look at the number
 * in front of each, and send it to who has that number. No cryptography, no check of any kind: for
 * measurements only.
 *
 * A datagram of only a number (4 bytes, big-endian) says whose the address is that it came from,
 * and is sent back. With --busy it never sleeps. With --trains it receives and sends trains of
 * datagrams (UDP_GRO, UDP_SEGMENT); what stands together for one receiver stays together.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
	PORT = 7741,
	PEERS = 4096,
	BATCH = 64,
	OUTPUTS = 256,
	NUMBER = 4,
	DATAGRAM_MAX = 2048,
	TRAIN_MAX = 65536,
	SOCKET_BUFFER = 8 << 20,
};

union control {
	char bytes[CMSG_SPACE(sizeof(int))];
	struct cmsghdr align;
};

struct relay {
	int fd;
	bool trains;
	size_t buffer_size;
	uint8_t *buffers;
	struct sockaddr_in peers[PEERS];

	struct mmsghdr in[BATCH];
	struct iovec in_vectors[BATCH];
	struct sockaddr_in from[BATCH];
	union control in_control[BATCH];

	unsigned int waiting;
	struct mmsghdr out[OUTPUTS];
	struct iovec out_vectors[OUTPUTS];
	union control out_control[OUTPUTS];
};

static void flush(struct relay *relay)
{
	unsigned int done = 0;

	// what the kernel refuses is lost
	while (done < relay->waiting) {
		int n = sendmmsg(relay->fd, relay->out + done, relay->waiting - done, 0);

		done += n > 0 ? (unsigned int)n : 1;
	}
	relay->waiting = 0;
}

/* Queues `length` bytes for a peer, datagrams of `size`. */
static void output(struct relay *relay, uint32_t to, uint8_t *data, size_t length, size_t size)
{
	struct msghdr *header = &relay->out[relay->waiting].msg_hdr;
	uint16_t segment = (uint16_t)size;

	if (to >= PEERS || !relay->peers[to].sin_port)
		return;
	relay->out_vectors[relay->waiting] = (struct iovec){data, length};
	*header = (struct msghdr){
		.msg_name = &relay->peers[to],
		.msg_namelen = sizeof(relay->peers[to]),
		.msg_iov = &relay->out_vectors[relay->waiting],
		.msg_iovlen = 1,
	};
	if (length > size) {
		header->msg_control = &relay->out_control[relay->waiting];
		header->msg_controllen = CMSG_SPACE(sizeof(segment));
		CMSG_FIRSTHDR(header)->cmsg_level = SOL_UDP;
		CMSG_FIRSTHDR(header)->cmsg_type = UDP_SEGMENT;
		CMSG_FIRSTHDR(header)->cmsg_len = CMSG_LEN(sizeof(segment));
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(header)), &segment, sizeof(segment));
	}
	if (++relay->waiting == OUTPUTS)
		flush(relay);
}

static uint32_t receiver(const uint8_t *data)
{
	uint32_t number;

	memcpy(&number, data, sizeof(number));
	return ntohl(number);
}

static size_t segment_size(struct msghdr *header, size_t length)
{
	struct cmsghdr *control = CMSG_FIRSTHDR(header);
	int size;

	if (!control || control->cmsg_level != SOL_UDP || control->cmsg_type != UDP_GRO)
		return length;
	memcpy(&size, CMSG_DATA(control), sizeof(size));
	return (size_t)size;
}

/* One datagram or train; each run of it for one receiver leaves as one. */
static void forward(struct relay *relay, unsigned int i)
{
	uint8_t *data = relay->in_vectors[i].iov_base;
	size_t length = relay->in[i].msg_len, size = segment_size(&relay->in[i].msg_hdr, length);

	if (length == NUMBER && receiver(data) < PEERS)
		relay->peers[receiver(data)] = relay->from[i];
	while (length >= NUMBER && size >= NUMBER) {
		size_t run = size < length ? size : length;
		uint32_t to = receiver(data);

		while (length >= run + NUMBER && receiver(data + run) == to)
			run += length - run < size ? length - run : size;
		output(relay, to, data, run, size);
		data += run;
		length -= run;
	}
}

static int turn(struct relay *relay, int flags)
{
	int n;

	for (int i = 0; i < BATCH; i++) {
		relay->in_vectors[i] = (struct iovec){
			relay->buffers + (size_t)i * relay->buffer_size, relay->buffer_size};
		relay->in[i].msg_hdr = (struct msghdr){
			.msg_name = &relay->from[i],
			.msg_namelen = sizeof(relay->from[i]),
			.msg_iov = &relay->in_vectors[i],
			.msg_iovlen = 1,
		};
		if (relay->trains) {
			relay->in[i].msg_hdr.msg_control = &relay->in_control[i];
			relay->in[i].msg_hdr.msg_controllen = sizeof(relay->in_control[i].bytes);
		}
	}
	n = recvmmsg(relay->fd, relay->in, BATCH, flags, NULL);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	for (int i = 0; i < n; i++)
		forward(relay, (unsigned int)i);
	flush(relay);
	return 0;
}

int main(int argc, char **argv)
{
	struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	static struct relay relay = {.buffer_size = DATAGRAM_MAX};
	int size = SOCKET_BUFFER, one = 1, flags = MSG_WAITFORONE, ret;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--busy") == 0) {
			flags = MSG_DONTWAIT;
		} else if (strcmp(argv[i], "--trains") == 0) {
			relay.trains = true;
			relay.buffer_size = TRAIN_MAX;
		} else {
			fprintf(stderr, "Usage: relay_udp [--busy] [--trains]\n");
			return 2;
		}
	}
	relay.fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	relay.buffers = malloc(BATCH * relay.buffer_size);
	if (relay.fd < 0 || !relay.buffers ||
	    bind(relay.fd, (struct sockaddr *)&own, sizeof(own))) {
		perror("relay_udp");
		return EXIT_FAILURE;
	}
	setsockopt(relay.fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	setsockopt(relay.fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	if (relay.trains)
		setsockopt(relay.fd, SOL_UDP, UDP_GRO, &one, sizeof(one));
	do
		ret = turn(&relay, flags);
	while (ret == 0);
	fprintf(stderr, "relay_udp: %s\n", strerror(-ret));
	return EXIT_FAILURE;
}
