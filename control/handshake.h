/*
 * One connection's way through TLS handshake, hello, answer and an orderly close. Never blocks, and
 * knows no event loop. What a hello means is its owner's business. Control thread.
 */
#ifndef VIADUCT_HANDSHAKE_H
#define VIADUCT_HANDSHAKE_H

#include "address.h"
#include "tls.h"

enum handshake_stage {
	HANDSHAKE_TLS,
	HANDSHAKE_HELLO,
	HANDSHAKE_ANSWER,
	HANDSHAKE_SHUTDOWN, // close_notify
	HANDSHAKE_DRAIN,    // until the peer closes, so that no reset eats what it has yet to read
	HANDSHAKE_OVER,
};

enum handshake_result {
	HANDSHAKE_NONE, // not yet
	HANDSHAKE_WELCOMED,
	HANDSHAKE_REFUSED, // by an error line
	HANDSHAKE_FAILED,  // in TLS, or closed before hello
};

/* A hello, and who it is from. */
struct handshake_hello {
	SSL *ssl;
	const struct endpoint *remote;
	const struct endpoint *local; // where the connection came to
	const char *line;             // without its LF; NULL: longer than allowed
	size_t length;
	size_t length_max;
	unsigned int retry_s; // not 0: the relay is overloaded, come back in so many seconds
};

struct handshake_config {
	struct tls *tls;
	size_t hello_max; // bytes with the LF, at most WIRE_LINE_MAX

	/*
	 * Answers a hello whose sender TLS has authenticated: writes a line to `answer` and returns
	 * its length, or 0 if there is no memory for one. `welcome`: whether it is a welcome.
	 */
	size_t (*answer)(void *arg, const struct handshake_hello *hello, char answer[WIRE_LINE_MAX],
			 bool *welcome);
	void *arg;
};

struct handshake {
	const struct handshake_config *config;
	enum handshake_stage stage;
	enum handshake_result result;
	const char *reason; // with HANDSHAKE_FAILED, until the next TLS operation of any connection
	bool resumed;
	int fd; // the owner's
	SSL *ssl;
	struct endpoint remote;
	unsigned int retry_s; // see handshake_hello
	size_t hello_max;     // the config's, when it began
	char *line;           // hello, then the answer
	size_t length;
	size_t drained;
};

/* Events to wait for. */
enum {
	HANDSHAKE_READABLE = 1,
	HANDSHAKE_WRITABLE = 2,
	HANDSHAKE_PAUSED = 4, // handshake_paused_fd() becomes readable
};

/*
 * Begins with a connected, non-blocking socket. Zero the struct first, with `remote` and `retry_s`
 * as they are. Returns 0 or -ENOMEM.
 */
int handshake_begin(struct handshake *handshake, const struct handshake_config *config, int fd);

/*
 * Does what can be done in this stage. Returns the events to wait for, or 0: there is more to do at
 * once, or it is over (HANDSHAKE_OVER).
 */
int handshake_step(struct handshake *handshake);

/* What becomes readable when the engine has done its work; -1: there is nothing to wait for. */
int handshake_paused_fd(const struct handshake *handshake);

/* Whether the peer has not yet sent a whole ClientHello. */
bool handshake_silent(const struct handshake *handshake);

/* Frees all that it has. The descriptor stays open. */
void handshake_end(struct handshake *handshake);

#endif
