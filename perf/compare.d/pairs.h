/*
 * What pairs.c asks of a transport: a way for 2 × N endpoints in one process to send each other
 * messages through a relay. Endpoint e talks with endpoint e ^ 1. One thread uses all of it.
 */
#ifndef PERF_PAIRS_H
#define PERF_PAIRS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	PAIRS_MAX = 1024,
	PAYLOAD_MIN = 40,
	PAYLOAD_MAX = 1160,
	SETUP_TIMEOUT_S = 5, // for each answer while connecting
};

struct pairs;

struct pairs_options {
	const char *relay;      // IPv4 address
	const char *pki;        // folder with ca.pem, peer-N.pem, peer-N.key
	unsigned int endpoints; // twice the pairs
	unsigned int payload;   // bytes of every message
};

/* A transport has arrived with a message. The payload is valid until the call returns. */
void pairs_received(struct pairs *pairs, unsigned int endpoint, const uint8_t *payload,
		    size_t length);

struct transport {
	const char *name;

	/* Connects all endpoints, blocking. Returns its state, or NULL and has said why. */
	void *(*open)(const struct transport *transport, struct pairs *pairs,
		      const struct pairs_options *options);
	void (*close)(void *state);

	/* Queues a message of options.payload bytes. Returns false if there is no room for now. */
	bool (*send)(void *state, unsigned int endpoint, const uint8_t *payload);

	/* Sends what is queued, in as few system calls and records as it can. */
	void (*flush)(void *state);

	/*
	 * Waits at most `timeout_ms` for messages, takes those that are there, and calls
	 * pairs_received() for each. Returns 0, or a negative errno if a connection has ended.
	 */
	int (*poll)(void *state, int timeout_ms);

	const void *details; // the transport's own
};

extern const struct transport through_viaduct;
extern const struct transport through_nats, through_mqtt, through_zmq;
extern const struct transport through_udp, through_udp_trains, through_turn, through_turn_dtls;

#endif
