/*
 * The TLS listener: accepts connections, decides who may begin a handshake and who waits, is told
 * to come back, or is closed, and gives each its turns, so that nothing else on the control thread
 * waits for long. For the control thread.
 */
#ifndef VIADUCT_LISTENER_H
#define VIADUCT_LISTENER_H

#include <uv.h>

#include "admission.h"
#include "config.h"
#include "handshake.h"
#include "pool.h"

struct listener_config {
	struct handshake_config handshake;
	struct admission_config admission;
	const char (*addresses)[ADDRESS_TEXT];
	unsigned int address_count;
	unsigned int waiting_max;        // that wait for their handshake to begin; as many silent
	unsigned int waiting_timeout_ms; // from the first byte to its begin
	unsigned int tls_timeout_ms;     // to the first byte; from the begin to the end of TLS
	unsigned int hello_timeout_ms;   // from there to the end of hello
	unsigned int close_timeout_ms;   // from there to the peer's close
	unsigned int threads;            // that do TLS; 0: the control thread does
	cpu_set_t thread_cores;

	/* Whether a member's session is at this address. */
	bool (*known)(void *arg, const struct endpoint *remote);
	void *arg;
};

/* What became of connections, since start. */
struct listener_counters {
	uint64_t welcomed;
	uint64_t failed;  // in TLS, or closed before hello
	uint64_t refused; // by an error line
	uint64_t timed_out;
	uint64_t resumed;        // handshakes, whatever hello they brought
	uint64_t offloaded;      // times that a handshake waited for an engine
	uint64_t threaded;       // times that it was handed to a thread
	uint64_t of_members;     // handshakes that began out of the members' budget
	uint64_t busy;           // handshakes begun only to say that the relay is busy
	uint64_t closed;         // at once, over a limit
	uint64_t evicted;        // without a whole ClientHello, when others needed the place
	uint64_t no_descriptors; // the process or the machine had none
	uint64_t over[ADMISSION_LIMIT_COUNT];
	unsigned int open;    // now: handshakes, up to their answer
	unsigned int waiting; // now: to begin
	unsigned int silent;  // now: have sent nothing
};

struct listener;

/* Fills in what the configuration limits. */
void listener_config_limits(struct listener_config *config, const struct config_limits *limits);

/*
 * Opens the sockets; accepts while the loop runs. Returns 0, or a negative errno with one sentence
 * in `error` (CONFIG_ERROR_MAX bytes).
 */
int listener_start(struct listener **listener, uv_loop_t *loop,
		   const struct listener_config *config, char *error);

/* Other limits from now on. */
void listener_limit(struct listener *listener, const struct config_limits *limits);

/* Closes all connections and sockets. All is freed when the loop has run its close callbacks. */
void listener_stop(struct listener *listener);

struct listener_counters listener_counters(const struct listener *listener);

#endif
