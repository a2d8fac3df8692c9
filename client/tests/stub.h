/*
 * A stand-in for a relay, in the test's own thread and on loopback: joins, rekeys, forwards, moves
 * a peer's address and misbehaves on demand. It shares the client's key and record code, so what it
 * can't show is that these are right: for that there are the test vectors and the real relay.
 */
#ifndef STUB_H
#define STUB_H

#include <netinet/in.h>
#include <openssl/ssl.h>

#include "receive.h"
#include "trust.h"

enum {
	STUB_SESSIONS = 4,
	STUB_CONNECTIONS = 8,
};

struct stub_connection {
	int fd; // -1 if free
	SSL *ssl;
	char line[WIRE_LINE_MAX];
	size_t length;
};

struct stub_session {
	bool used;
	struct wire_id id;
	char name[TRUST_NAME_TEXT];
	uint32_t index;
	struct receiver receiver;
	struct keys *sends; // with these; lags behind the receiver during a rekey
	struct receive_lane lanes[WIRE_LANES_MAX];
	uint64_t sequence; // of lane 0
	struct sockaddr_in address, candidate;
	bool reachable;
	unsigned int token;
	uint64_t highest; // of the peer's lane 0, plus one
	unsigned int lane_records[WIRE_LANES_MAX];
};

struct stub {
	int epoll, listener, udp;
	char address[64]; // "127.0.0.1:port", for the config
	struct sockaddr_in data;
	struct wire_id id;
	SSL_CTX *ctx;
	struct stub_connection connections[STUB_CONNECTIONS];
	struct stub_session sessions[STUB_SESSIONS];

	// what the test sets
	const char *answer;         // instead of a welcome
	const char *control_answer; // to whatever is asked in a control message
	const char *patch;          // a JSON object whose members replace the welcome's
	bool mute;                  // records get no answer
	unsigned int lose;          // so many of the next datagrams from peers
	unsigned int keepalive, expiry, key_records, lanes_down;

	// what it sees
	unsigned int hellos, resumed, rekeys, records, pings, largest_batch;
	unsigned int datagrams; // that the records came in
	size_t largest_datagram;
	char last_hello[WIRE_LINE_MAX];
	char last_control[256];

	// the last message that was for somebody else
	struct wire_id last_to;
	uint8_t last_kind, last_flags;
	size_t last_size; // of the payload, and of what stands before it
	uint8_t last_payload[64];
};

struct stub *stub_new(const char *certificate, const char *key, const char *ca);
void stub_free(struct stub *stub);

/* Does what is due, without waiting. stub->epoll is readable when something is. */
void stub_process(struct stub *stub);

/* The session of a peer, NULL if it has none. */
struct stub_session *stub_session(struct stub *stub, const struct wire_id *id);

/* Says something unasked to a session. */
void stub_say(struct stub *stub, struct stub_session *session, const char *json);

/* Seals one message and leaves it in `record`; returns its size. */
size_t stub_seal(struct stub_session *session, uint8_t *record, enum wire_class class, uint8_t kind,
		 uint32_t tag, const struct wire_id *from, const void *data, size_t length);

/*
 * Sends bytes to a session's address that the kernel cuts into datagrams of `segment` bytes, or
 * hands over as they are to who takes trains.
 */
void stub_transmit_train(struct stub *stub, struct stub_session *session, const void *data,
			 size_t size, size_t segment);

/* Sends any bytes to a session's address. */
void stub_transmit(struct stub *stub, struct stub_session *session, const void *data, size_t size);

#endif
