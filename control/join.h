/*
 * Answers hellos: from a TLS connection and a line to a member's session. Control thread.
 */
#ifndef VIADUCT_JOIN_H
#define VIADUCT_JOIN_H

#include "blocklist.h"
#include "handshake.h"
#include "reputation.h"

struct join {
	const struct config *config;
	struct tls *tls;
	struct members *members;
	struct reputation *reputation;
	struct blocklist *blocklist;
	bool trains;            // the data port takes them
	unsigned int closing_s; // not 0: the relay stops, newcomers may come again after it
};

/* handshake_config's `answer`; `arg` is the struct join. */
size_t join_answer(void *arg, const struct handshake_hello *hello, char answer[WIRE_LINE_MAX],
		   bool *welcome);

#endif
