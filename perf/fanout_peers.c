/*
 * perf/fanout's load: one publisher and many subscribers to one topic of a relay, in one thread:
 * viaductd, nats-server or mosquitto, the latter two over TLS 1.3, spoken directly. Publishes at an
 * even rate, counts what arrives, and measures how busy the relay's core was meanwhile.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <openssl/ssl.h>

#include "options.h"
#include "viaduct.h"

enum {
	PAYLOAD_MAX = 1024,
	MEMBERS_MAX = 10000,
	SETUP_S = 60,
	SETTLE_MS = 1000, // for the last to arrive
	PATH_SIZE = 512,
};

#define NS UINT64_C(1000000000)

static const char *relay, *pki;
static unsigned int members = 1000, payload_size = 256, rate = 50, seconds = 4, relay_core;
static uint8_t payload[PAYLOAD_MAX];
static uint64_t received; // copies

struct through {
	const char *name;
	void (*open)(void);    // returns when all are members
	void (*publish)(void); // one
	void (*poll)(int timeout_ms);
};

__attribute__((noreturn)) static void die(const char *what)
{
	fprintf(stderr, "fanout-peers: %s\n", what);
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS + (uint64_t)now.tv_nsec;
}

/* ---- viaductd ---- */

static struct viaduct *viaduct;
static struct viaduct_peer **peers; // the first publishes
static struct viaduct_id topic;
static unsigned int ready;

static void on_joined(struct viaduct_peer *peer)
{
	if (peer == peers[0])
		ready++;
	else if (viaduct_topic_join(peer, "fan", NULL))
		die("a peer can't join the topic");
}

static void on_topic(struct viaduct_peer *peer, const char *name, int error, const char *text)
{
	if (error)
		die(text);
	ready++;
}

static void on_message(struct viaduct_peer *peer, const struct viaduct_message *message)
{
	received += message->length == payload_size;
}

static void on_failed(struct viaduct_peer *peer, int error, const char *text, int retry_ms)
{
	if (retry_ms < 0)
		die(text);
}

static void on_error(struct viaduct_peer *peer, uint32_t tag, enum viaduct_reason reason)
{
	die(viaduct_reason_name(reason));
}

static void viaduct_open(void)
{
	static const struct viaduct_callbacks callbacks = {
		.joined = on_joined,
		.topic = on_topic,
		.message = on_message,
		.failed = on_failed,
		.error = on_error,
	};
	char address[64], ca[PATH_SIZE], certificate[PATH_SIZE], key[PATH_SIZE];
	struct viaduct_config config = {
		.relay = address, .ca = ca, .certificate = certificate, .key = key, .mtu = 1500};
	uint64_t deadline = now_ns() + SETUP_S * NS;

	snprintf(address, sizeof(address), "%s:7740", relay);
	snprintf(ca, sizeof(ca), "%s/ca.pem", pki);
	viaduct_topic_id(&topic, "fan");
	viaduct = viaduct_new();
	peers = calloc(members + 1, sizeof(struct viaduct_peer *));
	if (!viaduct || !peers)
		die("out of memory");
	for (unsigned int i = 0; i <= members; i++) {
		snprintf(certificate, sizeof(certificate), "%s/peer-%u.pem", pki, i + 1);
		snprintf(key, sizeof(key), "%s/peer-%u.key", pki, i + 1);
		if (viaduct_peer_open(&peers[i], viaduct, &config, &callbacks))
			die(viaduct_open_error(viaduct));
	}
	while (ready <= members) {
		if (now_ns() > deadline)
			die("not all peers have joined");
		viaduct_wait(viaduct, 100);
	}
}

static void viaduct_publish_one(void)
{
	if (viaduct_publish(peers[0], 0, VIADUCT_NORMAL, &topic, 1, payload, payload_size))
		die("the publisher can't publish");
	viaduct_flush(viaduct);
}

static void viaduct_poll(int timeout_ms)
{
	viaduct_wait(viaduct, timeout_ms);
}

/* ---- Brokers: what a subscriber gets has always the same size, so bytes are enough to count ----
 */

static SSL **streams; // the first publishes
static int epoll;
static uint16_t port;
static const char *log_in; // what to say first
static size_t log_in_size;
static const char *subscribe;
static size_t subscribe_size;
static size_t answer_size;          // of what is answered to both, in all; 0: until "PONG"
static size_t head_size, tail_size; // of a message from a broker, around the payload
static uint64_t *bytes;             // that each has got

static void put(SSL *stream, const void *data, size_t size)
{
	if (SSL_write(stream, data, (int)size) != (int)size)
		die("a broker has closed a connection");
}

/* Reads what a broker says while connecting. */
static void await(SSL *stream)
{
	char text[4096] = "";
	size_t length = 0;

	while (answer_size ? length < answer_size : !strstr(text, "PONG\r\n")) {
		int n = SSL_read(stream, text + length, (int)(sizeof(text) - 1 - length));

		if (n <= 0)
			die("a broker does not let a subscriber in");
		length += (size_t)n;
		text[length] = '\0';
	}
}

static void stream_open(SSL_CTX *tls, unsigned int number)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
	struct epoll_event event = {.events = EPOLLIN, .data.u32 = number};
	const int one = 1;
	char letter = 0;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	inet_pton(AF_INET, relay, &to.sin_addr);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)))
		die("a broker can't be reached");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	// nats-server says a line before TLS
	while (!answer_size && letter != '\n') {
		if (recv(fd, &letter, 1, 0) != 1)
			die("a broker does not greet");
	}
	streams[number] = SSL_new(tls);
	if (!streams[number] || SSL_set_fd(streams[number], fd) != 1 ||
	    SSL_connect(streams[number]) != 1)
		die("no TLS with a broker");
	put(streams[number], log_in, log_in_size);
	if (number) {
		put(streams[number], subscribe, subscribe_size);
		await(streams[number]);
	}
	fcntl(fd, F_SETFL, O_NONBLOCK);
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
		die("out of memory");
}

static void streams_open(void)
{
	SSL_CTX *tls = SSL_CTX_new(TLS_client_method());

	epoll = epoll_create1(EPOLL_CLOEXEC);
	streams = calloc(members + 1, sizeof(SSL *));
	bytes = calloc(members + 1, sizeof(*bytes));
	if (!tls || !streams || !bytes || epoll < 0)
		die("out of memory");
	SSL_CTX_set_min_proto_version(tls, TLS1_3_VERSION);
	for (unsigned int i = 0; i <= members; i++)
		stream_open(tls, i);
}

static void streams_poll(int timeout_ms)
{
	static uint8_t data[1 << 16];
	struct epoll_event events[256];
	int n = epoll_wait(epoll, events, 256, timeout_ms);

	for (int i = 0; i < n; i++) {
		SSL *stream = streams[events[i].data.u32];
		int length;

		uint64_t *got = &bytes[events[i].data.u32];
		size_t size = head_size + payload_size + tail_size;

		// what a broker says beside is less than a message, and goes no further than this
		received -= *got / size;
		while ((length = SSL_read(stream, data, sizeof(data))) > 0)
			*got += events[i].data.u32 ? (uint64_t)length : 0;
		received += *got / size;
		if (SSL_get_error(stream, length) != SSL_ERROR_WANT_READ)
			die("a broker has closed a connection");
	}
}

static void nats_open(void)
{
	static const char hello[] = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n";
	char head[64];

	port = 4222;
	log_in = hello;
	log_in_size = sizeof(hello) - 1;
	subscribe = "SUB fan 1\r\nPING\r\n";
	subscribe_size = strlen(subscribe);
	head_size = (size_t)snprintf(head, sizeof(head), "MSG fan 1 %u\r\n", payload_size);
	tail_size = 2;
	streams_open();
}

static void nats_publish(void)
{
	uint8_t message[PAYLOAD_MAX + 64];
	int head = sprintf((char *)message, "PUB fan %u\r\n", payload_size);

	memcpy(message + head, payload, payload_size);
	memcpy(message + head + payload_size, "\r\n", 2);
	put(streams[0], message, (size_t)head + payload_size + 2);
}

/* Fixed header, its length in two bytes, topic "fan". */
static size_t mqtt_put(uint8_t *out)
{
	unsigned int length = 5 + payload_size;

	out[0] = 0x30;
	out[1] = (uint8_t)(length % 128) | 0x80;
	out[2] = (uint8_t)(length / 128);
	memcpy(out + 3, "\0\3fan", 5);
	return 8;
}

static void mqtt_open(void)
{
	// MQTT 3.1.1, clean session, no keepalive, no client id; SUBSCRIBE 1 to "fan", QoS 0
	static const char hello[] = "\x10\x0c\0\4MQTT\4\2\0\0\0\0";
	static const char ask[] = "\x82\x08\0\1\0\3fan\0";

	port = 8883;
	log_in = hello;
	log_in_size = sizeof(hello) - 1;
	subscribe = ask;
	subscribe_size = sizeof(ask) - 1;
	answer_size = 4 + 5;
	head_size = 8;
	streams_open();
}

static void mqtt_publish(void)
{
	uint8_t message[PAYLOAD_MAX + 8];
	size_t head = mqtt_put(message);

	memcpy(message + head, payload, payload_size);
	put(streams[0], message, head + payload_size);
}

/* ---- The measurement ---- */

/* Microseconds for which a core had nothing to do so far. */
static uint64_t idle_us(unsigned int core)
{
	char line[256], name[16];
	FILE *file = fopen("/proc/stat", "re");
	uint64_t idle = 0, wait = 0;

	snprintf(name, sizeof(name), "cpu%u ", core);
	while (file && fgets(line, sizeof(line), file)) {
		if (strncmp(line, name, strlen(name)) == 0)
			sscanf(line, "%*s %*u %*u %*u %" SCNu64 " %" SCNu64, &idle, &wait);
	}
	if (file)
		fclose(file);
	return (idle + wait) * 1000000 / (uint64_t)sysconf(_SC_CLK_TCK);
}

/* Publishes for so long; returns how many. */
static uint64_t run(const struct through *through, double length)
{
	uint64_t begin = now_ns(), end = begin + (uint64_t)(length * 1e9), due = begin, sent = 0;

	while (now_ns() < end) {
		if (now_ns() >= due) {
			through->publish();
			sent++;
			due += NS / rate;
		}
		through->poll(due > now_ns() + 2000000 ? 1 : 0);
	}
	return sent;
}

static void settle(const struct through *through, uint64_t wanted)
{
	uint64_t end = now_ns() + SETTLE_MS * (NS / 1000);

	while (received < wanted && now_ns() < end)
		through->poll(1);
}

static const struct through throughs[] = {
	{"viaduct", viaduct_open, viaduct_publish_one, viaduct_poll},
	{"nats", nats_open, nats_publish, streams_poll},
	{"mqtt", mqtt_open, mqtt_publish, streams_poll},
};

static const char usage[] =
	"usage: fanout-peers --through viaduct|nats|mqtt --relay IP --pki DIR [--members N]\n"
	"                    [--payload BYTES] [--rate N] [--seconds S] [--core RELAYS]\n";

static const struct through *parse(int argc, char **argv)
{
	const char *name = "";
	const struct option_row rows[] = {
		OPTION_TEXT("through", &name),
		OPTION_TEXT("relay", &relay),
		OPTION_TEXT("pki", &pki),
		OPTION_NUMBER("members", &members, 1, MEMBERS_MAX),
		OPTION_NUMBER("payload", &payload_size, 128, PAYLOAD_MAX),
		OPTION_NUMBER("rate", &rate, 1, 100000),
		OPTION_NUMBER("seconds", &seconds, 1, 600),
		OPTION_NUMBER("core", &relay_core, 0, 1023),
		{0},
	};

	options_read(rows, usage, argc, argv);
	for (size_t i = 0; i < sizeof(throughs) / sizeof(throughs[0]); i++) {
		if (strcmp(throughs[i].name, name) == 0 && relay && pki)
			return &throughs[i];
	}
	fputs(usage, stderr);
	exit(EXIT_USAGE);
}

int main(int argc, char **argv)
{
	const struct through *through = parse(argc, argv);
	struct rlimit files;
	uint64_t sent, before, begin, idle, busy, length;

	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	through->open();
	// what is learnt by the first is no part of it
	sent = run(through, 0.5);
	settle(through, sent * members);
	before = received;
	begin = now_ns();
	idle = idle_us(relay_core);
	sent = run(through, seconds);
	settle(through, before + sent * members);
	length = (now_ns() - begin) / 1000;
	busy = length - (idle_us(relay_core) - idle);
	received -= before;
	result_print(json_pack("{s:I s:I s:I s:f s:f}", "published", (json_int_t)sent, "delivered",
			       (json_int_t)received, "lost",
			       (json_int_t)(sent * members - received), "relay_busy",
			       (double)busy / (double)length, "cpu_per_million",
			       received ? (double)busy / (double)received : 0),
		     true);
	return 0;
}
