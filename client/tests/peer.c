/*
 * Whole peers against a stand-in for a relay (stub.h), on loopback and in one thread.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/udp.h>
#include <openssl/pem.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "certificate.h"
#include "stub.h"
#include "viaduct.h"

enum { NONCES = 1 << 16 };

/* What the callbacks of one peer have seen. */
struct seen {
	unsigned int joined, messages, requests, errors, pongs, paths, rekeyed, warnings, failed,
		closed, writable;
	int error, retry_ms;
	char text[256];
	uint32_t tag;
	enum viaduct_reason reason;
	struct viaduct_message message;
	char payload[2048];
	uint8_t arrived[4096]; // how often each tag has come
	bool close_on_message;
	unsigned int changes;
	char change[16], name[32];
	uint64_t missed; // by all changes
	unsigned int topics;
	int topic_error;
	bool fail_requests;
};

static char directory[] = "/tmp/viaduct-client-XXXXXX";
static struct viaduct *v;
static struct stub *stub;
static struct viaduct_id nobody = {{0xff}};

/* Every (index, epoch, lane, sequence) that was sealed, to see that none comes twice. */
static struct {
	uint64_t sequence;
	uint32_t index, epoch;
	unsigned int lane;
} sealed[NONCES];
static unsigned int sealed_count;

/* ---- What the library asks of the kernel and of OpenSSL ---- */

static struct {
	unsigned int keys_read;                 // from files
	unsigned int sends;                     // system calls
	unsigned int trains_sent, trains_taken; // of at least two records
	bool refuse_trains;
	int refuse_bundles; // with which error
} kernel;

EVP_PKEY *__real_PEM_read_PrivateKey(FILE *file, EVP_PKEY **key, pem_password_cb *password,
				     void *user);
EVP_PKEY *__wrap_PEM_read_PrivateKey(FILE *file, EVP_PKEY **key, pem_password_cb *password,
				     void *user);
int __real_sendmmsg(int fd, struct mmsghdr *headers, unsigned int count, int flags);
int __wrap_sendmmsg(int fd, struct mmsghdr *headers, unsigned int count, int flags);
int __real_recvmmsg(int fd, struct mmsghdr *headers, unsigned int count, int flags,
		    struct timespec *timeout);
int __wrap_recvmmsg(int fd, struct mmsghdr *headers, unsigned int count, int flags,
		    struct timespec *timeout);

EVP_PKEY *__wrap_PEM_read_PrivateKey(FILE *file, EVP_PKEY **key, pem_password_cb *password,
				     void *user)
{
	kernel.keys_read++;
	return __real_PEM_read_PrivateKey(file, key, password, user);
}

int __wrap_sendmmsg(int fd, struct mmsghdr *headers, unsigned int count, int flags)
{
	unsigned int trains = 0, plain = 0;

	for (unsigned int i = 0; i < count; i++)
		trains += headers[i].msg_hdr.msg_controllen != 0;
	if (trains && kernel.refuse_trains) {
		while (!headers[plain].msg_hdr.msg_controllen)
			plain++;
		errno = EIO;
		return plain ? __real_sendmmsg(fd, headers, plain, flags) : -1;
	}
	if (kernel.refuse_bundles &&
	    wire_is_bundle(headers->msg_hdr.msg_iov->iov_base, headers->msg_hdr.msg_iov->iov_len)) {
		errno = kernel.refuse_bundles;
		return -1;
	}
	kernel.sends++;
	kernel.trains_sent += trains;
	return __real_sendmmsg(fd, headers, count, flags);
}

int __wrap_recvmmsg(int fd, struct mmsghdr *headers, unsigned int count, int flags,
		    struct timespec *timeout)
{
	int n = __real_recvmmsg(fd, headers, count, flags, timeout), size;

	for (int i = 0; i < n; i++) {
		const struct cmsghdr *control = CMSG_FIRSTHDR(&headers[i].msg_hdr);

		if (!control || control->cmsg_type != UDP_GRO)
			continue;
		memcpy(&size, CMSG_DATA(control), sizeof(size));
		kernel.trains_taken += headers[i].msg_len > (unsigned int)size;
	}
	return n;
}

/* ---- Callbacks ---- */

static struct seen *seen_by(const struct viaduct_peer *peer)
{
	return viaduct_peer_user(peer);
}

static void on_joined(struct viaduct_peer *peer)
{
	seen_by(peer)->joined++;
}

static void on_message(struct viaduct_peer *peer, const struct viaduct_message *message)
{
	struct seen *seen = seen_by(peer);

	seen->messages++;
	seen->message = *message;
	memcpy(seen->payload, message->data, message->length);
	if (message->tag < sizeof(seen->arrived))
		seen->arrived[message->tag]++;
	if (message->kind == VIADUCT_REQUEST) {
		seen->requests++;
		assert_int_equal((seen->fail_requests ? viaduct_respond_failed : viaduct_respond)(
					 peer, 0, message, "pardon", 6),
				 0);
	}
	if (seen->close_on_message)
		viaduct_peer_close(peer, false);
}

static void on_error(struct viaduct_peer *peer, uint32_t tag, enum viaduct_reason reason)
{
	seen_by(peer)->errors++;
	seen_by(peer)->tag = tag;
	seen_by(peer)->reason = reason;
}

static void on_pong(struct viaduct_peer *peer, const struct viaduct_id *from, uint32_t tag,
		    uint64_t rtt_ns)
{
	seen_by(peer)->pongs++;
	seen_by(peer)->tag = tag;
	assert_true(rtt_ns < UINT64_C(5000000000));
}

static void on_path(struct viaduct_peer *peer, const char *address)
{
	seen_by(peer)->paths++;
}

static void on_changed(struct viaduct_peer *peer, const struct viaduct_change *change)
{
	struct seen *seen = seen_by(peer);

	seen->changes++;
	snprintf(seen->change, sizeof(seen->change), "%s", change->what);
	snprintf(seen->name, sizeof(seen->name), "%s", change->name);
	seen->missed += change->missed;
}

static void on_topic(struct viaduct_peer *peer, const char *name, int error, const char *text)
{
	struct seen *seen = seen_by(peer);

	seen->topics++;
	seen->topic_error = error;
	snprintf(seen->name, sizeof(seen->name), "%s", name);
	snprintf(seen->text, sizeof(seen->text), "%s", text);
}

static void on_rekeyed(struct viaduct_peer *peer, uint32_t epoch)
{
	seen_by(peer)->rekeyed++;
}

static void on_warning(struct viaduct_peer *peer, int error, const char *text)
{
	struct seen *seen = seen_by(peer);

	seen->warnings++;
	seen->error = error;
	snprintf(seen->text, sizeof(seen->text), "%s", text);
}

static void on_failed(struct viaduct_peer *peer, int error, const char *text, int retry_ms)
{
	struct seen *seen = seen_by(peer);

	seen->failed++;
	seen->error = error;
	seen->retry_ms = retry_ms;
	snprintf(seen->text, sizeof(seen->text), "%s", text);
}

static void on_closed(struct viaduct_peer *peer)
{
	seen_by(peer)->closed++;
}

static void on_sealed(struct viaduct_peer *peer, uint32_t index, uint32_t epoch, unsigned int lane,
		      uint64_t sequence)
{
	if (sealed_count == NONCES)
		return;
	sealed[sealed_count].index = index;
	sealed[sealed_count].epoch = epoch;
	sealed[sealed_count].lane = lane;
	sealed[sealed_count++].sequence = sequence;
}

static const struct viaduct_callbacks callbacks = {
	.joined = on_joined,
	.message = on_message,
	.error = on_error,
	.pong = on_pong,
	.path = on_path,
	.changed = on_changed,
	.topic = on_topic,
	.rekeyed = on_rekeyed,
	.warning = on_warning,
	.failed = on_failed,
	.closed = on_closed,
	.sealed = on_sealed,
};

/* ---- Running ---- */

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* One turn of both sides; waits for something to do, but not for long. */
static void turn(void)
{
	struct pollfd fds[] = {{.fd = viaduct_fd(v), .events = POLLIN},
			       {.fd = stub ? stub->epoll : -1, .events = POLLIN}};

	viaduct_flush(v);
	poll(fds, 2, 100);
	if (stub)
		stub_process(stub);
	assert_true(viaduct_process(v) >= 0);
}

/* Runs until `condition` holds; the test fails if it doesn't within ten seconds. */
#define run_until(condition)                                                                       \
	do {                                                                                       \
		uint64_t end_ = now_ms() + 10000;                                                  \
		while (!(condition) && now_ms() < end_)                                            \
			turn();                                                                    \
		assert_true(condition);                                                            \
	} while (0)

/* Runs until everything that was sent so far has gone to the stub and back. */
static void settle(struct viaduct_peer *peer)
{
	unsigned int pongs = seen_by(peer)->pongs;

	assert_int_equal(viaduct_ping(peer, 0, VIADUCT_NORMAL, NULL, 1, 0), 0);
	run_until(seen_by(peer)->pongs > pongs);
}

static const char *path(const char *name, const char *suffix)
{
	static char paths[4][256];
	static unsigned int next;
	char *text = paths[next++ % 4];

	snprintf(text, sizeof(paths[0]), "%s/%s.%s", directory, name, suffix);
	return text;
}

static struct viaduct_config config_for(const char *name, struct seen *seen)
{
	memset(seen, 0, sizeof(*seen));
	return (struct viaduct_config){
		.relay = stub->address,
		.ca = path("ca", "pem"),
		.certificate = path(name, "pem"),
		.key = path(name, "key"),
		.user = seen,
	};
}

static struct viaduct_peer *open_peer(const struct viaduct_config *config)
{
	struct viaduct_peer *peer;

	assert_int_equal(viaduct_peer_open(&peer, v, config, &callbacks), 0);
	return peer;
}

/* A peer that has joined and knows its path. */
static struct viaduct_peer *join(const char *name, struct seen *seen)
{
	struct viaduct_config config = config_for(name, seen);
	struct viaduct_peer *peer = open_peer(&config);

	run_until(seen->joined == 1 && seen->paths == 1);
	return peer;
}

static struct stub_session *session_of(struct viaduct_peer *peer)
{
	struct wire_id id;

	memcpy(&id, viaduct_peer_id(peer), sizeof(id));
	return stub_session(stub, &id);
}

static struct viaduct_stats stats_of(struct viaduct_peer *peer)
{
	struct viaduct_stats stats;

	viaduct_peer_stats(peer, &stats);
	return stats;
}

static int setup(void **state)
{
	v = viaduct_new();
	stub = stub_new(path("relay", "pem"), path("relay", "key"), path("ca", "pem"));
	sealed_count = 0;
	memset(&kernel, 0, sizeof(kernel));
	return v ? 0 : -1;
}

static int order(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(sealed[0]));
}

static int teardown(void **state)
{
	viaduct_free(v);
	stub_free(stub);
	qsort(sealed, sealed_count, sizeof(sealed[0]), order);
	for (unsigned int i = 1; i < sealed_count; i++)
		if (!order(&sealed[i], &sealed[i - 1]))
			return -1; // a nonce was used twice
	memset(sealed, 0, sizeof(sealed));
	return 0;
}

/* ---- Joining and sending ---- */

static void peer_joins(void **state)
{
	struct viaduct_session session;
	struct seen seen;
	struct viaduct_peer *peer = join("peer-1", &seen);

	assert_string_equal(viaduct_peer_name(peer), "spiffe://lab/default/peer-1");
	assert_ptr_equal(viaduct_peer_context(peer), v);
	assert_int_equal(viaduct_peer_session(peer, &session), 0);
	assert_memory_equal(&session.relay, &stub->id, sizeof(session.relay));
	assert_int_equal(session.mtu, 1280);
	assert_string_equal(session.cipher, "aes-256-gcm");
	assert_int_equal(viaduct_payload_max(peer), 1160);
	assert_non_null(
		strstr(stub->last_hello, "\"ciphers\":[\"aes-256-gcm\",\"chacha20-poly1305\"]"));
	settle(peer);
}

static void peer_joins_with_what_it_wants(void **state)
{
	struct viaduct_session session;
	struct viaduct_config config;
	struct viaduct_peer *peer;
	struct seen seen;

	config = config_for("peer-1", &seen);
	config.ciphers = "chacha20-poly1305";
	config.lanes = 2;
	config.mtu = 9000;
	config.checksum = true;
	peer = open_peer(&config);
	run_until(seen.joined);
	assert_int_equal(viaduct_peer_session(peer, &session), 0);
	assert_non_null(strstr(stub->last_hello, "\"checksum\":true"));
	assert_string_equal(session.cipher, "chacha20-poly1305");
	assert_int_equal(session.lanes_up, 2);
	assert_int_equal(viaduct_payload_max(peer), 8880);
	assert_int_equal(viaduct_ping(peer, 0, VIADUCT_BULK, NULL, 9, 8000), 0);
	run_until(seen.pongs);
	assert_int_equal(seen.tag, 9);
}

static void messages_arrive_and_are_packed(void **state)
{
	struct seen seen1, seen2;
	struct viaduct_peer *one = join("peer-1", &seen1), *two = join("peer-2", &seen2);

	for (uint32_t i = 0; i < 100; i++)
		assert_int_equal(
			viaduct_send(one, 0, VIADUCT_NORMAL, viaduct_peer_id(two), i, "hello", 5),
			0);
	run_until(seen2.messages == 100);
	for (int i = 0; i < 100; i++)
		assert_int_equal(seen2.arrived[i], 1);
	assert_memory_equal(&seen2.message.from, viaduct_peer_id(one), sizeof(nobody));
	assert_int_equal(seen2.message.class, VIADUCT_NORMAL);
	assert_memory_equal(seen2.payload, "hello", 5);
	assert_int_equal(stub->largest_batch, (1280 - 80) / (24 + 5)); // as many as fit
	assert_int_equal(viaduct_send(one, 0, VIADUCT_BULK, viaduct_peer_id(one), 1, NULL, 0), 0);
	run_until(seen1.messages == 1); // one's own id is fine, and so is no payload
	assert_int_equal(seen1.message.length, 0);
}

static void waiting_sends_and_receives(void **state)
{
	struct seen seen1, seen2;
	struct viaduct_peer *one = join("peer-1", &seen1), *two = join("peer-2", &seen2);
	uint64_t end = now_ms() + 10000;
	int received = 0;

	while (viaduct_wait(v, 0) > 0) // what is left of joining
		;
	assert_int_equal(viaduct_send(one, 0, VIADUCT_NORMAL, viaduct_peer_id(two), 1, "x", 1), 0);
	while (!seen2.messages && now_ms() < end) {
		received += viaduct_wait(v, 10);
		stub_process(stub);
	}
	assert_int_equal(seen2.messages, 1);
	assert_true(received > 0);
}

static void lanes_have_flows_of_their_own(void **state)
{
	struct viaduct_lane_stats lane;
	struct viaduct_config config;
	struct viaduct_peer *peer;
	struct seen seen;

	config = config_for("peer-1", &seen);
	config.lanes = 3;
	peer = open_peer(&config);
	run_until(seen.joined);
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(
			viaduct_send(peer, i, VIADUCT_BULK, viaduct_peer_id(peer), i, "x", 1), 0);
	run_until(seen.messages == 3);
	for (unsigned int i = 0; i < 3; i++) {
		assert_true(session_of(peer)->lane_records[i] >= 1);
		assert_int_equal(viaduct_lane_stats(peer, true, i, &lane), 0);
		assert_int_equal(lane.records, session_of(peer)->lane_records[i]);
	}
	assert_int_equal(viaduct_lane_stats(peer, true, 3, &lane), -EINVAL);
	assert_int_equal(viaduct_send(peer, 3, VIADUCT_BULK, &nobody, 0, "x", 1), -EINVAL);
}

/* Sends `count` messages, each of which fills a record, from one peer to the other at once. */
static void send_records(struct viaduct_peer *from, struct viaduct_peer *to, uint32_t count)
{
	static const uint8_t data[1160];

	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(viaduct_send(from, 0, VIADUCT_NORMAL, viaduct_peer_id(to), i, data,
					      i == count - 1 ? 9 : sizeof(data)),
				 0);
	kernel.sends = kernel.trains_sent = 0;
	viaduct_flush(v);
}

static void all_arrived(struct seen *seen, unsigned int count)
{
	run_until(seen->messages == count);
	for (unsigned int i = 0; i < count; i++)
		assert_int_equal(seen->arrived[i], 1);
}

static void peers_share_sockets_and_calls(void **state)
{
	struct seen seen1, seen2;
	struct viaduct_peer *one = join("peer-1", &seen1), *two = join("peer-2", &seen2);

	assert_int_equal(session_of(one)->address.sin_port, session_of(two)->address.sin_port);
	for (uint32_t i = 0; i < 2; i++)
		assert_int_equal(viaduct_send(i ? one : two, 0, VIADUCT_NORMAL,
					      viaduct_peer_id(i ? two : one), 0, "same", 4),
				 0);
	kernel.sends = kernel.trains_sent = 0;
	viaduct_flush(v);
	assert_int_equal(kernel.sends, 1);
	assert_int_equal(kernel.trains_sent, 1);
	all_arrived(&seen1, 1);
	all_arrived(&seen2, 1);
	viaduct_peer_close(one, false);
	settle(two); // which still has the socket
}

static void trains_leave_in_one_call(void **state)
{
	struct seen seen1, seen2;
	struct viaduct_peer *one = join("peer-1", &seen1), *two = join("peer-2", &seen2);

	send_records(one, two, 60); // more than one train may carry
	assert_int_equal(kernel.sends, 1);
	assert_int_equal(kernel.trains_sent, 2);
	all_arrived(&seen2, 60);
}

static void trains_that_are_refused(void **state)
{
	struct seen seen1, seen2;
	struct viaduct_peer *one = join("peer-1", &seen1), *two = join("peer-2", &seen2);

	kernel.refuse_trains = true;
	send_records(one, two, 60);
	assert_int_equal(kernel.sends, 1); // that was taken
	all_arrived(&seen2, 60);
	kernel.refuse_trains = false;
	memset(seen2.arrived, 0, sizeof(seen2.arrived));
	seen2.messages = 0;
	send_records(one, two, 60);
	assert_int_equal(kernel.trains_sent, 0); // once is enough
	all_arrived(&seen2, 60);
	assert_int_equal(stats_of(one).send_failed, 0);
}

static void trains_that_the_relay_does_not_take(void **state)
{
	struct seen seen1, seen2;
	struct viaduct_peer *one, *two;

	stub->patch = "{\"trains\":false}";
	one = join("peer-1", &seen1);
	two = join("peer-2", &seen2);
	send_records(one, two, 10);
	assert_int_equal(kernel.sends, 1);
	assert_int_equal(kernel.trains_sent, 0);
	all_arrived(&seen2, 10);
}

static void trains_are_taken_apart(void **state)
{
	struct seen seen1, seen2;
	struct viaduct_peer *one = join("peer-1", &seen1), *two = join("peer-2", &seen2);
	struct wire_id from = {{1}};
	uint8_t train[2048];
	size_t size = 0, segment = 0;

	for (uint32_t i = 0; i < 10; i++) {
		// to both peers in turn; the last is smaller
		size_t n = stub_seal(session_of(i % 2 ? two : one), train + size, WIRE_NORMAL,
				     WIRE_SEND, i / 2, &from, "payload", i == 9 ? 0 : 7);

		if (i == 0)
			segment = n;
		size += n;
	}
	stub_transmit_train(stub, session_of(one), train, size, segment);
	all_arrived(&seen1, 5);
	all_arrived(&seen2, 5);
	assert_int_equal(kernel.trains_taken, 1);
}

enum { BUNDLED = 9 };

/* Each of three peers sends a message of `length` bytes in each class, to the first; at once. */
static void send_bundled(struct viaduct_peer *const peers[3], size_t length)
{
	static const uint8_t data[1160];

	for (uint32_t i = 0; i < BUNDLED; i++)
		assert_int_equal(viaduct_send(peers[i / 3], 0, (enum viaduct_class)(i % 3),
					      viaduct_peer_id(peers[0]), i, data, length),
				 0);
	kernel.sends = kernel.trains_sent = 0;
	stub->datagrams = 0;
	stub->largest_datagram = 0;
	viaduct_flush(v);
}

static void join_bundled(struct viaduct_peer *peers[3], struct seen seen[3])
{
	stub->patch = "{\"bundles\":true}";
	peers[0] = join("peer-1", &seen[0]);
	peers[1] = join("peer-2", &seen[1]);
	peers[2] = join("peer-3", &seen[2]);
}

static void records_leave_in_bundles(void **state)
{
	struct viaduct_peer *peers[3];
	struct seen seen[3];

	join_bundled(peers, seen);
	send_bundled(peers, 10);
	all_arrived(&seen[0], BUNDLED);
	assert_int_equal(kernel.sends, 1);
	assert_int_equal(stub->datagrams, 1);
}

/* As many as fit, and behind each other as a train. */
static void bundles_have_their_limit(void **state)
{
	const size_t size = 1280 - WIRE_IP_OVERHEAD, record = (size - WIRE_BUNDLE_HEADER) / 2;
	const size_t overhead = WIRE_BUNDLE_LENGTH + WIRE_RECORD_OVERHEAD + WIRE_MESSAGE_HEADER;
	struct viaduct_peer *peers[3];
	struct seen seen[3];

	join_bundled(peers, seen);
	send_bundled(peers, record - overhead);
	all_arrived(&seen[0], BUNDLED);
	assert_int_equal(stub->datagrams, (BUNDLED + 1) / 2);
	assert_int_equal(stub->largest_datagram, size);
	assert_int_equal(kernel.sends, 1);
	assert_int_equal(kernel.trains_sent, 1);
	seen[0].messages = 0;
	memset(seen[0].arrived, 0, sizeof(seen[0].arrived));
	send_bundled(peers, record - overhead + 1);
	all_arrived(&seen[0], BUNDLED);
	assert_int_equal(stub->datagrams, BUNDLED);
}

static void bundles_that_the_relay_does_not_take(void **state)
{
	struct viaduct_peer *peers[3];
	struct seen seen[3];

	peers[0] = join("peer-1", &seen[0]);
	peers[1] = join("peer-2", &seen[1]);
	peers[2] = join("peer-3", &seen[2]);
	send_bundled(peers, 10);
	all_arrived(&seen[0], BUNDLED);
	assert_int_equal(stub->datagrams, BUNDLED);
}

/* Of two sessions that share a socket one is with the relay as it was before. */
static void bundles_of_some_sessions(void **state)
{
	struct viaduct_peer *peers[3];
	struct seen seen[3];

	peers[0] = join("peer-1", &seen[0]);
	stub->patch = "{\"bundles\":true}";
	peers[1] = join("peer-2", &seen[1]);
	peers[2] = join("peer-3", &seen[2]);
	send_bundled(peers, 10);
	all_arrived(&seen[0], BUNDLED);
	assert_int_equal(stub->datagrams, 3 + 1);
}

/* The interface carries less than was thought: small records still get through. */
static void bundles_that_are_too_large(void **state)
{
	struct viaduct_peer *peers[3];
	struct seen seen[3];

	join_bundled(peers, seen);
	kernel.refuse_bundles = EMSGSIZE;
	send_bundled(peers, 10);
	all_arrived(&seen[0], BUNDLED);
	assert_int_equal(stub->datagrams, BUNDLED);
	for (int i = 0; i < 3; i++)
		assert_int_equal(stats_of(peers[i]).send_failed, 0);
}

/* All that was in it is counted as not sent, by whom it was; what comes next is sent. */
static void bundles_that_are_refused(void **state)
{
	struct viaduct_peer *peers[3];
	struct seen seen[3];

	join_bundled(peers, seen);
	kernel.refuse_bundles = EPERM;
	send_bundled(peers, 10);
	for (int i = 0; i < 3; i++)
		assert_int_equal(stats_of(peers[i]).send_failed, 3);
	kernel.refuse_bundles = 0;
	send_bundled(peers, 10);
	all_arrived(&seen[0], BUNDLED);
	assert_int_equal(stub->datagrams, 1);
}

static void misuse_is_refused(void **state)
{
	static char large[1161];
	struct viaduct_config config;
	struct viaduct_peer *peer;
	struct seen seen;

	config = config_for("peer-1", &seen);
	peer = open_peer(&config);
	assert_int_equal(viaduct_send(peer, 0, VIADUCT_BULK, &nobody, 0, "x", 1), -ENOTCONN);
	assert_int_equal(viaduct_rekey(peer), -ENOTCONN);
	assert_int_equal(viaduct_roam(peer), -ENOTCONN);
	run_until(seen.joined);
	assert_int_equal(viaduct_send(peer, 0, VIADUCT_BULK, &nobody, 0, large, 1161), -EMSGSIZE);
	assert_int_equal(viaduct_send(peer, 0, 3, &nobody, 0, "x", 1), -EINVAL);
	assert_int_equal(viaduct_send(peer, 0, VIADUCT_BULK, &nobody, VIADUCT_TAG_MAX + 1u, "x", 1),
			 -EINVAL);
	config.lanes = 9;
	assert_int_equal(viaduct_peer_open(&peer, v, &config, &callbacks), -EINVAL);
	config.lanes = 1;
	config.ciphers = "aes-256-gcm,rot13";
	assert_int_equal(viaduct_peer_open(&peer, v, &config, &callbacks), -EINVAL);
	config.ciphers = NULL;
	config.relay = "fd77::1:7740";
	assert_int_equal(viaduct_peer_open(&peer, v, &config, &callbacks), -EINVAL);
	config.relay = stub->address;
	config.certificate = "/nowhere/at-all.pem";
	assert_int_equal(viaduct_peer_open(&peer, v, &config, &callbacks), -ENOENT);
	assert_string_equal(viaduct_open_error(v),
			    "/nowhere/at-all.pem: No such file or directory");
	config.certificate = path("peer-2", "pem"); // peer-1's key
	assert_int_equal(viaduct_peer_open(&peer, v, &config, &callbacks), -EKEYREJECTED);
}

static void errors_name_the_message(void **state)
{
	struct seen seen;
	struct viaduct_peer *peer = join("peer-1", &seen);

	assert_int_equal(viaduct_send(peer, 0, VIADUCT_BULK, &nobody, 77, "x", 1), 0);
	run_until(seen.errors);
	assert_int_equal(seen.tag, 77);
	assert_int_equal(seen.reason, VIADUCT_NO_ROUTE);
}

static void peers_ping_each_other(void **state)
{
	struct seen seen1, seen2;
	struct viaduct_peer *one = join("peer-1", &seen1), *two = join("peer-2", &seen2);

	assert_int_equal(viaduct_ping(one, 0, VIADUCT_CRITICAL, viaduct_peer_id(two), 5, 100), 0);
	run_until(seen1.pongs == 1);
	assert_int_equal(seen1.tag, 5);
	assert_int_equal(seen2.messages, 0); // the library answers
}

/* ---- Requests and questions ---- */

static int last_result;
static unsigned int results;
static bool last_failed;

static void on_response(struct viaduct_peer *peer, void *user, int result,
			const struct viaduct_message *response)
{
	results++;
	last_result = result;
	last_failed = !result && response->failed;
	if (!result)
		assert_memory_equal(response->data, "pardon", 6);
	else
		assert_null(response);
}

static int request(struct viaduct_peer *peer, const struct viaduct_id *to, unsigned int timeout_ms)
{
	return viaduct_request(peer, 0, VIADUCT_NORMAL, to, "what", 4, timeout_ms, on_response,
			       NULL);
}

static void requests_are_answered(void **state)
{
	struct seen seen1, seen2;
	struct viaduct_peer *one = join("peer-1", &seen1), *two = join("peer-2", &seen2);

	results = 0;
	for (int i = 0; i < 1000; i++)
		assert_int_equal(request(one, viaduct_peer_id(two), 5000), 0);
	assert_int_equal(stats_of(one).requests, 1000);
	run_until(results == 1000);
	assert_int_equal(last_result, 0);
	assert_int_equal(seen2.requests, 1000);
	assert_int_equal(stats_of(one).requests, 0);

	assert_int_equal(request(one, &nobody, 5000), 0); // the relay knows at once
	run_until(results == 1001);
	assert_int_equal(last_result, VIADUCT_NO_ROUTE);
	assert_int_equal(seen1.errors, 0);

	stub->lose = 1;
	assert_int_equal(request(one, viaduct_peer_id(two), 50), 0);
	run_until(results == 1002);
	assert_int_equal(last_result, -ETIMEDOUT);
}

static void who_is_asked_may_fail(void **state)
{
	struct seen seen1, seen2;
	struct viaduct_peer *one = join("peer-1", &seen1), *two = join("peer-2", &seen2);

	results = 0;
	assert_int_equal(request(one, viaduct_peer_id(two), 5000), 0);
	run_until(results == 1);
	assert_false(last_failed);
	seen2.fail_requests = true;
	assert_int_equal(request(one, viaduct_peer_id(two), 5000), 0);
	run_until(results == 2);
	assert_int_equal(last_result, 0);
	assert_true(last_failed);
}

static void sticky_requests_carry_their_key(void **state)
{
	static const uint8_t wanted[] = "\x00\x00\x00\x00\x00\x00\x12\x34what";
	struct seen seen;
	struct viaduct_peer *peer = join("peer-1", &seen);
	struct viaduct_id service;

	results = 0;
	viaduct_service_id(&service, "render");
	assert_int_equal(viaduct_request_sticky(peer, 0, VIADUCT_NORMAL, &service, 0x1234, "what",
						4, 5000, on_response, NULL),
			 0);
	run_until(results == 1);
	assert_int_equal(last_result, VIADUCT_NO_ROUTE); // the stub has no services
	assert_memory_equal(&stub->last_to, &service, sizeof(service));
	assert_int_equal(stub->last_kind, WIRE_REQUEST);
	assert_int_equal(stub->last_flags, WIRE_FLAG_KEY);
	assert_int_equal(stub->last_size, sizeof(wanted) - 1);
	assert_memory_equal(stub->last_payload, wanted, sizeof(wanted) - 1);
}

static void requests_have_a_limit(void **state)
{
	struct seen seen;
	struct viaduct_peer *peer = join("peer-1", &seen);
	unsigned int open = 0;

	stub->mute = true;
	results = 0;
	for (; open < VIADUCT_REQUESTS_MAX; open++) {
		if (request(peer, &nobody, 60000))
			break;
		if (open % 1000 == 0)
			turn();
	}
	assert_int_equal(open, VIADUCT_REQUESTS_MAX);
	assert_int_equal(request(peer, &nobody, 60000), -EBUSY);
	stub->mute = false;
	while (!results) // what was in the stub's socket buffer gets its error
		turn();
	stub_say(stub, session_of(peer), "{\"event\":\"closing\"}");
	run_until(seen.failed == 1); // all others are told that the session is lost
	assert_int_equal(results, VIADUCT_REQUESTS_MAX);
	assert_int_equal(last_result, -ENOTCONN);
	assert_int_equal(seen.error, VIADUCT_E_CLOSING);
}

static unsigned int listed, list_calls;
static int list_error;
static bool list_done;

static void on_list(struct viaduct_peer *peer, void *user, int error,
		    const struct viaduct_entry *entries, size_t count, bool more)
{
	list_calls++;
	listed += (unsigned int)count;
	list_error = error;
	list_done = !more;
	for (size_t i = 0; i < count; i++)
		assert_memory_equal(entries[i].name, "spiffe://lab/default/peer-", 26);
}

static void lists_come_in_parts(void **state)
{
	struct seen seen1, seen2, seen3;
	struct viaduct_peer *peer = join("peer-1", &seen1);

	join("peer-2", &seen2);
	join("peer-3", &seen3);
	listed = list_calls = 0;
	list_done = false;
	stub->lose = 1; // the question is repeated
	assert_int_equal(viaduct_peers(peer, "default", on_list, NULL), 0);
	run_until(list_done);
	assert_int_equal(list_error, 0);
	assert_int_equal(listed, 3);
	assert_int_equal(list_calls, 3);
}

static char control_answer[256];

static void on_control(struct viaduct_peer *peer, void *user, int error, const char *answer,
		       size_t length)
{
	assert_int_equal(error, 0);
	assert_int_equal(strlen(answer), length);
	snprintf(control_answer, sizeof(control_answer), "%s", answer);
}

static void control_is_open_to_new_questions(void **state)
{
	struct seen seen;
	struct viaduct_peer *peer = join("peer-1", &seen);

	control_answer[0] = '\0';
	assert_int_equal(viaduct_control(peer, "{\"op\":\"dance\"}", on_control, NULL), 0);
	run_until(control_answer[0]);
	assert_non_null(strstr(control_answer, "unsupported"));
}

static void services_are_registered_for(void **state)
{
	const struct viaduct_registration full = {
		.name = "render", .region = "north", .weight = 7, .policy_version = 2};
	const struct viaduct_registration plain = {.name = "render"};
	struct seen seen;
	struct viaduct_peer *peer = join("peer-1", &seen);

	stub->control_answer = "{\"ok\":true}";
	control_answer[0] = '\0';
	assert_int_equal(viaduct_register(peer, &full, on_control, NULL), 0);
	run_until(control_answer[0]);
	assert_string_equal(stub->last_control,
			    "{\"op\":\"register\",\"service\":\"render\",\"weight\":7,"
			    "\"policy_version\":2,\"region\":\"north\"}");
	control_answer[0] = '\0';
	assert_int_equal(viaduct_register(peer, &plain, on_control, NULL), 0);
	run_until(control_answer[0]);
	assert_string_equal(stub->last_control,
			    "{\"op\":\"register\",\"service\":\"render\",\"weight\":1,"
			    "\"policy_version\":0}");
	control_answer[0] = '\0';
	assert_int_equal(viaduct_unregister(peer, "render", on_control, NULL), 0);
	run_until(control_answer[0]);
	assert_string_equal(stub->last_control, "{\"op\":\"unregister\",\"service\":\"render\"}");
}

static void complaints_are_made(void **state)
{
	struct seen seen;
	struct viaduct_peer *peer = join("peer-1", &seen);
	char reason[VIADUCT_COMPLAINT_MAX + 2] = "";

	stub->control_answer = "{\"ok\":false,\"error\":\"unknown\",\"detail\":\"who?\"}";
	control_answer[0] = '\0';
	assert_int_equal(viaduct_complain(peer, &nobody, "spam", on_control, NULL), 0);
	run_until(control_answer[0]);
	assert_string_equal(control_answer, stub->control_answer);
	assert_string_equal(stub->last_control,
			    "{\"op\":\"complain\",\"peer\":\"74aaaaaaaaaaaaaaaaaaaaaaaa\","
			    "\"reason\":\"spam\"}");
	memset(reason, 'x', sizeof(reason) - 1);
	assert_int_equal(viaduct_complain(peer, &nobody, reason, on_control, NULL), -EMSGSIZE);
}

static void names_are_resolved(void **state)
{
	struct seen seen;
	struct viaduct_peer *peer = join("peer-1", &seen);

	listed = list_calls = 0;
	list_done = false;
	assert_int_equal(viaduct_resolve(peer, "spiffe://lab/default/peer-1", on_list, NULL), 0);
	run_until(list_done);
	assert_int_equal(listed, 1);
	assert_string_equal(stub->last_control,
			    "{\"op\":\"resolve\",\"name\":\"spiffe://lab/default/peer-1\"}");
}

/* ---- Topics ---- */

static void topics_are_joined_and_left(void **state)
{
	struct seen seen;
	struct viaduct_peer *peer = join("peer-1", &seen);

	stub->control_answer = "{\"ok\":true}";
	assert_int_equal(viaduct_topic_leave(peer, "news"), -ENOENT);
	assert_int_equal(viaduct_topic_join(peer, "news", NULL), 0);
	run_until(seen.topics == 1);
	assert_int_equal(seen.topic_error, 0);
	assert_string_equal(seen.name, "news");
	assert_string_equal(stub->last_control, "{\"op\":\"join_topic\",\"name\":\"news\"}");
	assert_int_equal(viaduct_topic_join(peer, "news", NULL), 0); // it is
	assert_int_equal(viaduct_topic_join(peer, "news", "default"), -EEXIST);

	assert_int_equal(viaduct_topic_leave(peer, "news"), 0);
	assert_int_equal(viaduct_topic_leave(peer, "news"), -ENOENT);
	run_until(strstr(stub->last_control, "leave_topic"));
	assert_string_equal(stub->last_control, "{\"op\":\"leave_topic\",\"name\":\"news\"}");
	settle(peer);
	assert_int_equal(viaduct_topic_join(peer, "news", "default"), 0); // nothing is left of it
	run_until(seen.topics == 2);
	assert_string_equal(stub->last_control,
			    "{\"op\":\"join_topic\",\"name\":\"news\",\"cluster\":\"default\"}");
}

static void topics_outlive_sessions(void **state)
{
	struct seen seen;
	struct viaduct_peer *peer = join("peer-1", &seen);

	stub->control_answer = "{\"ok\":true}";
	assert_int_equal(viaduct_topic_join(peer, "kept", NULL), 0);
	run_until(seen.topics == 1);
	assert_int_equal(viaduct_topic_join(peer, "left", NULL), 0);
	run_until(seen.topics == 2);
	stub_say(stub, session_of(peer), "{\"event\":\"closing\"}");
	run_until(seen.failed == 1);
	assert_int_equal(viaduct_topic_leave(peer, "left"), 0);
	run_until(seen.joined == 2 && seen.topics == 3);
	assert_string_equal(seen.name, "kept");
	settle(peer);
	assert_int_equal(seen.topics, 3);
	assert_int_equal(viaduct_topic_leave(peer, "left"), -ENOENT);
}

static void refused_topics_are_forgotten(void **state)
{
	struct seen seen;
	struct viaduct_peer *peer = join("peer-1", &seen);

	stub->control_answer = "{\"ok\":false,\"error\":\"limit\",\"detail\":\"too many\"}";
	assert_int_equal(viaduct_topic_join(peer, "news", NULL), 0);
	run_until(seen.topics == 1);
	assert_int_equal(seen.topic_error, -EACCES);
	assert_string_equal(seen.text, "limit: too many");
	assert_int_equal(viaduct_topic_leave(peer, "news"), -ENOENT);
}

static void publications_go_to_the_topic(void **state)
{
	struct seen seen;
	struct viaduct_peer *peer = join("peer-1", &seen);
	struct viaduct_id topic;

	viaduct_topic_id(&topic, "news");
	assert_int_equal(viaduct_publish(peer, 0, VIADUCT_NORMAL, &topic, 5, "green", 5), 0);
	settle(peer);
	assert_memory_equal(&stub->last_to, &topic, sizeof(topic));
	assert_int_equal(stub->last_kind, WIRE_PUBLISH);
	assert_int_equal(stub->last_size, 5);
	assert_memory_equal(stub->last_payload, "green", 5);
	assert_int_equal(
		viaduct_publish(peer, 0, VIADUCT_BULK, &topic, VIADUCT_TAG_MAX + 1U, "", 0),
		-EINVAL);
}

/* ---- Rekey, roam, take-over, leaving ---- */

static void rekey_loses_nothing(void **state)
{
	struct viaduct_session session;
	struct seen seen;
	struct viaduct_peer *peer = join("peer-1", &seen);
	uint32_t sent = 0;

	assert_int_equal(viaduct_rekey(peer), 0);
	while (!seen.rekeyed || sent < 500) {
		assert_int_equal(viaduct_send(peer, 0, VIADUCT_NORMAL, viaduct_peer_id(peer),
					      sent++, "x", 1),
				 0);
		turn();
		assert_true(sent < sizeof(seen.arrived));
	}
	settle(peer);
	for (uint32_t i = 0; i < sent; i++)
		assert_int_equal(seen.arrived[i], 1);
	assert_int_equal(viaduct_peer_session(peer, &session), 0);
	assert_int_equal(session.epoch, 1);
	assert_int_equal(stub->rekeys, 1);
	assert_int_equal(stub->resumed, 1);
	assert_int_equal(viaduct_rekey(peer), -EALREADY); // the old phase is not over
	assert_ptr_equal(session_of(peer)->sends, session_of(peer)->receiver.current);
}

static void rekey_follows_the_records(void **state)
{
	struct viaduct_session session;
	struct viaduct_peer *peer;
	struct seen seen;

	stub->key_records = 200;
	peer = join("peer-1", &seen);
	for (uint32_t i = 0; i < 99; i++) {
		assert_int_equal(
			viaduct_send(peer, 0, VIADUCT_BULK, viaduct_peer_id(peer), i, "x", 1), 0);
		viaduct_flush(v);
	}
	run_until(seen.rekeyed == 1);
	run_until(seen.messages == 99);

	// the next half is used up at once, and a rekey is not to be had: no record too many
	stub->answer = "{\"error\":\"rekey\",\"detail\":\"not now\"}";
	for (uint32_t i = 0; i < 300; i++) {
		int ret = viaduct_send(peer, 0, VIADUCT_BULK, viaduct_peer_id(peer), 1000 + i, "x",
				       1);

		assert_true(ret == 0 || ret == VIADUCT_E_KEY_EXHAUSTED);
		turn();
	}
	for (unsigned int i = 0, epochs[2] = {0}; i < sealed_count; i++) {
		assert_true(sealed[i].epoch < 2);
		assert_true(++epochs[sealed[i].epoch] <= 200);
	}
	run_until(seen.warnings); // once the old phase is over, it was asked for, and refused
	assert_int_equal(seen.error, VIADUCT_E_PROTOCOL);
	assert_string_equal(seen.text, "no rekey: the relay refused: rekey, not now");
	stub->answer = NULL;
	run_until(seen.rekeyed == 2); // it is tried again
	assert_int_equal(viaduct_send(peer, 0, VIADUCT_BULK, viaduct_peer_id(peer), 2000, "x", 1),
			 0);
	run_until(seen.arrived[2000]);
	assert_int_equal(viaduct_peer_session(peer, &session), 0);
	assert_int_equal(session.epoch, 2);
	assert_int_equal(seen.failed, 0);
}

static void rekey_only_by_who_has_the_session(void **state)
{
	struct seen seen;
	struct viaduct_peer *peer = join("peer-1", &seen);

	stub->patch =
		"{\"mac\":\"0000000000000000000000000000000000000000000000000000000000000000\"}";
	assert_int_equal(viaduct_rekey(peer), 0);
	run_until(seen.warnings);
	assert_int_equal(seen.error, VIADUCT_E_PROTOCOL);
	assert_int_equal(seen.rekeyed, 0);
	stub->patch = NULL;
}

static void say_change(struct viaduct_peer *peer, const char *change, int sequence)
{
	char text[256];

	snprintf(text, sizeof(text),
		 "{\"event\":\"peer\",\"change\":\"%s\",\"id\":\"aaaaaaaaaaaaaaaaaaaaaaaaaa\","
		 "\"name\":\"n\",\"sequence\":%d}",
		 change, sequence);
	stub_say(stub, session_of(peer), text);
}

static void what_is_missed_is_counted(void **state)
{
	struct seen seen;
	struct viaduct_peer *peer = join("peer-1", &seen);

	assert_int_equal(viaduct_watch(peer, "team", viaduct_peer_id(peer)), 0);
	settle(peer); // the answer's sequence is 3
	say_change(peer, "joined", 4);
	run_until(seen.changes == 1);
	assert_string_equal(seen.change, "joined");
	assert_string_equal(seen.name, "n");
	assert_int_equal(seen.missed, 0);
	say_change(peer, "left", 7);
	run_until(seen.changes == 2);
	assert_int_equal(seen.missed, 2);
	say_change(peer, "left", 6); // late
	run_until(seen.changes == 3);
	say_change(peer, "missed", 9);
	run_until(seen.changes == 4);
	assert_string_equal(seen.change, "missed");
	assert_int_equal(seen.missed, 4);
	say_change(peer, "joined", 10);
	run_until(seen.changes == 5);
	assert_int_equal(seen.missed, 4);
}

static void watching_ends(void **state)
{
	struct seen seen;
	struct viaduct_peer *peer = join("peer-1", &seen);

	assert_int_equal(viaduct_watch(peer, NULL, NULL), 0);
	settle(peer); // the answer's sequence is 3
	stub->control_answer = "{\"ok\":true}";
	assert_int_equal(viaduct_unwatch(peer), 0);
	settle(peer);
	assert_string_equal(stub->last_control, "{\"op\":\"unwatch\"}");
	stub->control_answer = NULL;
	assert_int_equal(viaduct_watch(peer, NULL, NULL), 0);
	settle(peer);
	say_change(peer, "joined", 4);
	run_until(seen.changes == 1);
	assert_int_equal(seen.missed, 0); // what happened meanwhile is nobody's loss
	stub_say(stub, session_of(peer), "{\"event\":\"closing\"}");
	run_until(seen.failed == 1);
	assert_int_equal(viaduct_unwatch(peer), -ENOTCONN);
}

static void rekey_when_told(void **state)
{
	struct seen seen;
	struct viaduct_peer *peer = join("peer-1", &seen);

	stub_say(stub, session_of(peer), "{\"event\":\"rekey\"}");
	run_until(seen.rekeyed == 1);
}

static void roaming_loses_nothing(void **state)
{
	struct viaduct_config config;
	struct viaduct_peer *peer;
	struct sockaddr_in before;
	struct seen seen;
	uint32_t sent = 0;

	config = config_for("peer-1", &seen);
	config.lanes = 2;
	peer = open_peer(&config);
	run_until(seen.joined && seen.paths == 1);
	before = session_of(peer)->address;
	assert_int_equal(viaduct_roam(peer), 0);
	assert_int_equal(viaduct_roam(peer), -EBUSY);
	while (seen.paths == 1 || sent < 500) {
		assert_int_equal(viaduct_send(peer, sent % 2, VIADUCT_NORMAL, viaduct_peer_id(peer),
					      sent, "x", 1),
				 0);
		sent++;
		turn();
		assert_true(sent < sizeof(seen.arrived));
	}
	settle(peer);
	run_until(seen.messages == sent);
	for (uint32_t i = 0; i < sent; i++)
		assert_int_equal(seen.arrived[i], 1);
	assert_int_not_equal(session_of(peer)->address.sin_port, before.sin_port);
	// what the relay had sent to the old address before it knew better
	session_of(peer)->address = before;
	stub_say(stub, session_of(peer), "{\"event\":\"rekey\"}");
	run_until(seen.rekeyed);
}

static void stays_away(const char *event, int error)
{
	struct seen seen;
	struct viaduct_peer *peer = join("peer-1", &seen);

	stub_say(stub, session_of(peer), event);
	run_until(seen.failed);
	assert_int_equal(seen.error, error);
	assert_int_equal(seen.retry_ms, -1);
	assert_false(viaduct_peer_joined(peer));
	viaduct_peer_close(peer, true); // nothing left to leave: gone at once
	assert_int_equal(stub->hellos, 1);
}

static void replaced_peers_stay_away(void **state)
{
	stays_away("{\"event\":\"replaced\"}", VIADUCT_E_REPLACED);
}

static void revoked_peers_stay_away(void **state)
{
	stays_away("{\"event\":\"revoked\"}", VIADUCT_E_REVOKED);
}

static void leaving_is_said(void **state)
{
	struct seen seen;
	struct viaduct_peer *peer = join("peer-1", &seen);
	struct stub_session *session = session_of(peer);

	viaduct_peer_close(peer, true);
	run_until(seen.closed);
	assert_false(session->used);
}

static void who_comes_back_resumes(void **state)
{
	struct seen seen, other;
	struct viaduct_peer *peer = join("peer-1", &seen);

	viaduct_peer_close(peer, true);
	run_until(seen.closed);
	join("peer-2", &other);
	assert_int_equal(stub->resumed, 0);
	peer = join("peer-1", &seen);
	assert_int_equal(stub->resumed, 1);
	viaduct_peer_close(peer, false);
	join("peer-1", &seen);
	assert_int_equal(stub->resumed, 2);
}

static void files_are_read_once(void **state)
{
	const struct timespec times[] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1}};
	struct seen seen;
	struct viaduct_peer *peer = join("peer-1", &seen);

	viaduct_peer_close(peer, true);
	run_until(seen.closed);
	peer = join("peer-1", &seen);
	assert_int_equal(viaduct_rekey(peer), 0);
	run_until(seen.rekeyed == 1);
	assert_int_equal(kernel.keys_read, 1);

	assert_int_equal(utimensat(AT_FDCWD, path("peer-1", "key"), times, 0), 0);
	viaduct_peer_close(peer, false);
	join("peer-1", &seen);
	assert_int_equal(kernel.keys_read, 2);
}

static void leaving_loses_nothing(void **state)
{
	struct seen seen1, seen2;
	struct viaduct_peer *one = join("peer-1", &seen1), *two = join("peer-2", &seen2);

	assert_int_equal(viaduct_send(one, 0, VIADUCT_BULK, viaduct_peer_id(two), 1, "bye", 3), 0);
	viaduct_peer_close(one, true);
	run_until(seen1.closed);
	run_until(seen2.messages == 1);
}

static void leaving_ends_without_an_answer(void **state)
{
	struct seen seen;
	struct viaduct_peer *peer = join("peer-1", &seen);

	stub->mute = true;
	viaduct_peer_close(peer, true);
	run_until(seen.closed);
}

static void closing_in_a_callback_is_fine(void **state)
{
	struct seen seen;
	struct viaduct_peer *peer = join("peer-1", &seen);
	struct viaduct_id id = *viaduct_peer_id(peer);

	seen.close_on_message = true;
	for (uint32_t i = 0; i < 10; i++)
		assert_int_equal(viaduct_send(peer, 0, VIADUCT_BULK, &id, i, "x", 1), 0);
	run_until(seen.messages);
	turn();
	assert_int_equal(seen.messages, 1);
	assert_int_equal(seen.failed, 0);
}

/* ---- Certificates ---- */

static void issue(const struct certificate *authority, const char *file, const char *federation,
		  const char *cluster, const char *name, time_t days)
{
	time_t now = time(NULL);
	struct certificate_request request = {.federation = federation,
					      .cluster = cluster,
					      .name = name,
					      .not_before = now - 86400,
					      .not_after = now + days * 86400};
	struct certificate issued = {0};

	assert_int_equal(certificate_issue(&issued, authority, &request), 0);
	assert_int_equal(certificate_write(&issued, directory, file, true), 0);
	certificate_fini(&issued);
}

static void renewed_certificates_are_used(void **state)
{
	struct certificate authority = {0};
	struct viaduct_id before;
	struct viaduct_peer *peer;
	struct seen seen;

	assert_int_equal(certificate_read(&authority, directory, "ca"), 0);
	issue(&authority, "renewed", "lab", "default", "renewed", 1);
	peer = join("renewed", &seen);
	before = *viaduct_peer_id(peer);
	issue(&authority, "renewed", "lab", "default", "renewed", 1); // with another key
	assert_int_equal(viaduct_rekey(peer), 0);
	run_until(seen.failed == 1);
	assert_int_equal(seen.error, VIADUCT_E_IDENTITY);
	run_until(seen.joined == 2);
	assert_memory_not_equal(&before, viaduct_peer_id(peer), sizeof(before));
	settle(peer);
	certificate_fini(&authority);
}

/* ---- What goes wrong ---- */

static void bad_records_are_counted(void **state)
{
	struct wire_id from = {{1}};
	struct seen seen;
	struct viaduct_peer *peer = join("peer-1", &seen);
	struct stub_session *session = session_of(peer);
	uint8_t record[256];
	size_t size;

	size = stub_seal(session, record, WIRE_NORMAL, WIRE_SEND, 1, &from, "x", 1);
	stub_transmit(stub, session, record, size);
	stub_transmit(stub, session, record, size); // again
	size = stub_seal(session, record, WIRE_NORMAL, WIRE_SEND, 2, &from, "x", 1);
	record[20] ^= 1;
	stub_transmit(stub, session, record, size);
	stub_transmit(stub, session, record, 30);
	stub_transmit(stub, session, record, 0);
	size = stub_seal(session, record, WIRE_NORMAL, WIRE_SEND, 3, &from, "x", 1);
	record[4] ^= 1; // another session's
	stub_transmit(stub, session, record, size);
	size = stub_seal(session, record, WIRE_NORMAL, WIRE_KIND_CONTROL, 0, &from,
			 "{\"event\":\"replaced\"}", 20); // not from the relay
	stub_transmit(stub, session, record, size);
	size = stub_seal(session, record, WIRE_NORMAL, WIRE_RESPONSE, 0x80010000, &from, "x", 1);
	stub_transmit(stub, session, record, size); // nobody has asked
	settle(peer);
	assert_int_equal(seen.messages, 1);
	assert_int_equal(seen.failed, 0);
	assert_int_equal(stats_of(peer).replayed, 1);
	assert_int_equal(stats_of(peer).forged, 1);
	assert_int_equal(stats_of(peer).malformed, 4);
	assert_int_equal(stats_of(peer).unmatched, 1);
	assert_int_equal(stats_of(peer).lost, 2); // what did not open, and what was another's
}

static size_t put_in_bundle(uint8_t *bundle, size_t at, struct stub_session *session, uint32_t tag)
{
	struct wire_id from = {{1}};
	size_t size = stub_seal(session, bundle + at + WIRE_BUNDLE_LENGTH, WIRE_NORMAL, WIRE_SEND,
				tag, &from, "x", 1);

	wire_put16(bundle + at, (uint16_t)size);
	return at + WIRE_BUNDLE_LENGTH + size;
}

/* Records of two peers that share a socket, and bundles that end too soon. */
static void bundles_are_taken_apart(void **state)
{
	struct seen seen1, seen2;
	struct viaduct_peer *one = join("peer-1", &seen1), *two = join("peer-2", &seen2);
	uint8_t bundle[512] = {WIRE_BUNDLE, 0};
	size_t size = WIRE_BUNDLE_HEADER, whole;

	assert_non_null(strstr(stub->last_hello, "\"bundles\":true"));
	size = put_in_bundle(bundle, size, session_of(one), 1);
	size = put_in_bundle(bundle, size, session_of(two), 2);
	whole = put_in_bundle(bundle, size, session_of(one), 3);
	stub_transmit(stub, session_of(one), bundle, whole);
	run_until(seen1.messages == 2 && seen2.messages == 1);
	assert_true(seen1.arrived[1] && seen2.arrived[2] && seen1.arrived[3]);

	// the first is good; the second says that it is longer, shorter than any, or nothing
	size = put_in_bundle(bundle, WIRE_BUNDLE_HEADER, session_of(one), 4);
	whole = put_in_bundle(bundle, size, session_of(two), 5);
	stub_transmit(stub, session_of(one), bundle, whole - 1);
	put_in_bundle(bundle, WIRE_BUNDLE_HEADER, session_of(one), 6);
	wire_put16(bundle + size, WIRE_RECORD_MIN - 1);
	stub_transmit(stub, session_of(one), bundle, whole);
	put_in_bundle(bundle, WIRE_BUNDLE_HEADER, session_of(one), 7);
	stub_transmit(stub, session_of(one), bundle, size + 1);
	stub_transmit(stub, session_of(one), bundle, WIRE_BUNDLE_HEADER);
	stub_transmit(stub, session_of(one), bundle, 1);
	run_until(stats_of(one).malformed + stats_of(two).malformed == 5);
	assert_true(seen1.arrived[4] && seen1.arrived[6] && seen1.arrived[7]);
	assert_int_equal(seen1.messages, 5);
	assert_int_equal(seen2.messages, 1);
}

static void data_port_is_missed(void **state)
{
	struct viaduct_config config;
	uint64_t begin = now_ms();
	struct seen seen;

	stub->mute = true;
	config = config_for("peer-1", &seen);
	config.no_reconnect = true;
	open_peer(&config);
	run_until(seen.failed);
	assert_int_equal(seen.error, VIADUCT_E_DATA_PORT);
	assert_int_equal(seen.retry_ms, -1);
	assert_non_null(strstr(seen.text, "joined, but the data port 127.0.0.1:"));
	assert_true(now_ms() - begin >= 2900);
}

static void silent_relay_is_joined_again(void **state)
{
	struct viaduct_peer *peer;
	struct seen seen;

	stub->expiry = 1;
	peer = join("peer-1", &seen);
	stub->mute = true;
	results = 0;
	assert_int_equal(request(peer, &nobody, 60000), 0);
	run_until(seen.failed);
	assert_int_equal(seen.error, VIADUCT_E_EXPIRED);
	assert_true(seen.retry_ms >= 0);
	assert_int_equal(results, 1);
	assert_int_equal(last_result, -ENOTCONN);
	stub->mute = false;
	run_until(seen.joined == 2);
	settle(peer);
}

static void keepalive_keeps_alive(void **state)
{
	struct viaduct_peer *peer;
	struct seen seen;
	uint64_t end;

	stub->keepalive = 1;
	stub->expiry = 2;
	peer = join("peer-1", &seen);
	stub->pings = 0;
	for (end = now_ms() + 3000; now_ms() < end;)
		turn();
	assert_in_range(stub->pings, 2, 4); // not more than it takes
	assert_int_equal(seen.failed, 0);
	assert_true(viaduct_peer_joined(peer));
}

static void first_records_may_get_lost(void **state)
{
	struct viaduct_config config;
	struct seen seen;

	stub->lose = 3;
	config = config_for("peer-1", &seen);
	open_peer(&config);
	run_until(seen.joined);
	assert_int_equal(seen.failed, 0);
}

static void busy_relays_are_left_alone(void **state)
{
	struct viaduct_config config;
	struct seen seen;

	stub->answer = "{\"error\":\"busy\",\"detail\":\"many\",\"retry_after\":0.4}";
	config = config_for("peer-1", &seen);
	open_peer(&config);
	run_until(seen.failed);
	assert_int_equal(seen.error, VIADUCT_E_BUSY);
	assert_true(seen.retry_ms >= 400);
	assert_string_equal(seen.text, "the relay refused: busy, many");
	stub->answer = NULL;
	run_until(seen.joined);
}

/* Opens a peer that does not try again, and returns how it fails. */
static int failure(const char *name, struct seen *seen)
{
	struct viaduct_config config = config_for(name, seen);
	struct viaduct_peer *peer;

	config.no_reconnect = true;
	peer = open_peer(&config);
	run_until(seen->failed);
	viaduct_peer_close(peer, false);
	return seen->error;
}

static void bad_answers_are_refused(void **state)
{
	static const char *const answers[] = {"{}", "hello", "[]", "{\"viaduct\":2}"};
	struct seen seen;

	for (size_t i = 0; i < 4; i++) {
		stub->answer = answers[i];
		assert_int_equal(failure("peer-1", &seen), VIADUCT_E_PROTOCOL);
	}
	stub->answer = NULL;
	stub->patch = "{\"id\":\"aaaaaaaaaaaaaaaaaaaaaaaaaa\"}";
	assert_int_equal(failure("peer-1", &seen), VIADUCT_E_PROTOCOL);
	stub->patch = "{\"relay\":\"aaaaaaaaaaaaaaaaaaaaaaaaaa\"}";
	assert_int_equal(failure("peer-1", &seen), VIADUCT_E_PROTOCOL);
	stub->patch = "{\"epoch\":1}";
	assert_int_equal(failure("peer-1", &seen), VIADUCT_E_PROTOCOL);
	stub->answer = "{\"error\":\"full\"}";
	assert_int_equal(failure("peer-1", &seen), VIADUCT_E_FULL);
	stub->answer = "{\"error\":\"cut\",\"retry_after\":60}";
	assert_int_equal(failure("peer-1", &seen), VIADUCT_E_CUT);
}

static void certificates_are_checked(void **state)
{
	static const char *const relays[] = {"peer-2", "stranger", "other-relay", "late-relay"};
	static const char *const texts[] = {
		"unsuitable certificate purpose",
		"unable to get local issuer certificate",
		"spiffe://other/relay/relay is not of federation lab",
		"certificate has expired",
	};
	struct seen seen;

	for (size_t i = 0; i < 4; i++) {
		stub_free(stub);
		stub = stub_new(path(relays[i], "pem"), path(relays[i], "key"), path("ca", "pem"));
		assert_int_equal(failure("peer-1", &seen), VIADUCT_E_TLS);
		assert_non_null(strstr(seen.text, texts[i]));
	}
	stub_free(stub);
	stub = stub_new(path("relay", "pem"), path("relay", "key"), path("stranger-ca", "pem"));
	assert_int_equal(failure("peer-1", &seen), VIADUCT_E_TLS); // by the relay's alert
	assert_non_null(strstr(seen.text, "alert unknown ca"));
}

static void absent_relays_are_tried_again(void **state)
{
	struct viaduct_config config;
	struct seen seen;
	char address[64];

	config = config_for("peer-1", &seen);
	strcpy(address, stub->address);
	config.relay = address;
	stub_free(stub);
	stub = NULL;
	open_peer(&config);
	run_until(seen.failed == 2);
	assert_int_equal(seen.error, -ECONNREFUSED);
	assert_string_equal(seen.text, "can't connect: Connection refused");
	stub = stub_new(path("relay", "pem"), path("relay", "key"), path("ca", "pem"));
}

static void names_are_looked_up(void **state)
{
	struct viaduct_config config;
	struct seen seen1, seen2;
	char address[64];

	snprintf(address, sizeof(address), "localhost%s", strchr(stub->address, ':'));
	config = config_for("peer-1", &seen1);
	config.relay = address;
	open_peer(&config);
	config = config_for("peer-2", &seen2);
	config.relay = address;
	open_peer(&config);
	run_until(seen1.joined && seen2.joined);
}

static void many_share_few_handshakes(void **state)
{
	struct viaduct_config config;
	struct seen seen[3];
	char name[16];

	viaduct_handshakes_limit(v, 1);
	for (int i = 0; i < 3; i++) {
		snprintf(name, sizeof(name), "peer-%d", i + 1);
		config = config_for(name, &seen[i]);
		open_peer(&config);
	}
	run_until(seen[0].joined && seen[1].joined && seen[2].joined);
}

/* ---- The federation ---- */

static int federation_make(void **state)
{
	struct certificate authority = {0}, stranger = {0};
	time_t now = time(NULL);

	if (!mkdtemp(directory))
		return -1;
	assert_int_equal(certificate_authority(&authority, "lab", now - 60, now + 86400), 0);
	assert_int_equal(certificate_write(&authority, directory, "ca", false), 0);
	issue(&authority, "relay", "lab", "relay", "relay", 1);
	issue(&authority, "late-relay", "lab", "relay", "relay", 0);
	issue(&authority, "other-relay", "other", "relay", "relay", 1);
	issue(&authority, "peer-1", "lab", "default", "peer-1", 1);
	issue(&authority, "peer-2", "lab", "default", "peer-2", 1);
	issue(&authority, "peer-3", "lab", "default", "peer-3", 1);
	assert_int_equal(certificate_authority(&stranger, "lab", now - 60, now + 86400), 0);
	assert_int_equal(certificate_write(&stranger, directory, "stranger-ca", false), 0);
	issue(&stranger, "stranger", "lab", "relay", "relay", 1);
	certificate_fini(&authority);
	certificate_fini(&stranger);
	return 0;
}

static int federation_remove(void **state)
{
	static const char *const files[] = {"ca",       "relay",  "late-relay", "other-relay",
					    "peer-1",   "peer-2", "peer-3",     "stranger-ca",
					    "stranger", "renewed"};

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		unlink(path(files[i], "pem"));
		unlink(path(files[i], "key"));
	}
	return rmdir(directory);
}

#define client_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		client_test(peer_joins),
		client_test(peer_joins_with_what_it_wants),
		client_test(messages_arrive_and_are_packed),
		client_test(waiting_sends_and_receives),
		client_test(lanes_have_flows_of_their_own),
		client_test(peers_share_sockets_and_calls),
		client_test(trains_leave_in_one_call),
		client_test(trains_that_are_refused),
		client_test(trains_that_the_relay_does_not_take),
		client_test(trains_are_taken_apart),
		client_test(records_leave_in_bundles),
		client_test(bundles_have_their_limit),
		client_test(bundles_that_the_relay_does_not_take),
		client_test(bundles_of_some_sessions),
		client_test(bundles_that_are_too_large),
		client_test(bundles_that_are_refused),
		client_test(misuse_is_refused),
		client_test(errors_name_the_message),
		client_test(peers_ping_each_other),
		client_test(requests_are_answered),
		client_test(who_is_asked_may_fail),
		client_test(sticky_requests_carry_their_key),
		client_test(requests_have_a_limit),
		client_test(lists_come_in_parts),
		client_test(control_is_open_to_new_questions),
		client_test(services_are_registered_for),
		client_test(complaints_are_made),
		client_test(names_are_resolved),
		client_test(topics_are_joined_and_left),
		client_test(topics_outlive_sessions),
		client_test(refused_topics_are_forgotten),
		client_test(publications_go_to_the_topic),
		client_test(rekey_loses_nothing),
		client_test(rekey_follows_the_records),
		client_test(rekey_only_by_who_has_the_session),
		client_test(what_is_missed_is_counted),
		client_test(watching_ends),
		client_test(rekey_when_told),
		client_test(roaming_loses_nothing),
		client_test(replaced_peers_stay_away),
		client_test(revoked_peers_stay_away),
		client_test(leaving_is_said),
		client_test(who_comes_back_resumes),
		client_test(files_are_read_once),
		client_test(leaving_loses_nothing),
		client_test(leaving_ends_without_an_answer),
		client_test(closing_in_a_callback_is_fine),
		client_test(renewed_certificates_are_used),
		client_test(bad_records_are_counted),
		client_test(bundles_are_taken_apart),
		client_test(data_port_is_missed),
		client_test(silent_relay_is_joined_again),
		client_test(keepalive_keeps_alive),
		client_test(first_records_may_get_lost),
		client_test(busy_relays_are_left_alone),
		client_test(bad_answers_are_refused),
		client_test(certificates_are_checked),
		client_test(absent_relays_are_tried_again),
		client_test(names_are_looked_up),
		client_test(many_share_few_handshakes),
	};

	return cmocka_run_group_tests(tests, federation_make, federation_remove);
}
