/*
 * The TLS listener: accepts connections and takes each through handshake, hello, answer and an
 * orderly close, within limits. Never blocks. What a hello means is its owner's business. For the
 * control thread.
 */
#ifndef VIADUCT_LISTENER_H
#define VIADUCT_LISTENER_H

#include <uv.h>

#include "address.h"
#include "tls.h"

/* A hello, and who it is from. */
struct listener_hello {
	SSL *ssl;
	const struct endpoint *remote;
	const struct endpoint *local; // where the connection came to
	const char *line;             // without its LF; NULL: longer than WIRE_LINE_MAX
	size_t length;
};

struct listener_config {
	struct tls *tls;
	const char (*addresses)[ADDRESS_TEXT];
	unsigned int address_count;
	unsigned int timeout_ms; // from accept to the end of hello; as much again for closing
	unsigned int handshakes; // at once; more wait in the kernel's backlog

	/*
	 * Answers a hello whose sender TLS has authenticated: writes a line to `answer` and returns
	 * its length, or 0 if there is no memory for one. `welcome`: whether it is a welcome.
	 */
	size_t (*answer)(void *arg, const struct listener_hello *hello, char answer[WIRE_LINE_MAX],
			 bool *welcome);
	void *arg;
};

/* What became of connections, since start. */
struct listener_counters {
	uint64_t welcomed;
	uint64_t failed;  // in TLS, or closed before hello
	uint64_t refused; // by an error line
	uint64_t timed_out;
	uint64_t resumed; // handshakes, whatever hello they brought
};

struct listener;

/*
 * Opens the sockets; accepts while the loop runs. Returns 0, or a negative errno with one sentence
 * in `error` (CONFIG_ERROR_MAX bytes).
 */
int listener_start(struct listener **listener, uv_loop_t *loop,
		   const struct listener_config *config, char *error);

/* Closes all connections and sockets. All is freed when the loop has run its close callbacks. */
void listener_stop(struct listener *listener);

const struct listener_counters *listener_counters(const struct listener *listener);

#endif
