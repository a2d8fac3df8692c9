/*
 * A changed configuration, applied while the relay runs: all of it or nothing. What is read anew,
 * too, are the files that it names. Control thread.
 */
#ifndef VIADUCT_RELOAD_H
#define VIADUCT_RELOAD_H

#include <jansson.h>

#include "blocklist.h"
#include "listener.h"
#include "reputation.h"
#include "tickets.h"
#include "trust.h"

/* What a configuration is applied to. */
struct reload {
	const char *file;
	struct config *config;
	struct tls *tls;
	struct tickets *tickets;
	struct trust *trust;
	struct clusters *clusters;
	struct members *members;
	struct reputation *reputation;
	struct blocklist *blocklist;
	struct listener *listener;
};

/*
 * Reads the file, and applies it unless `dry_run` is set. The answer, the caller's, is that of the
 * admin socket's {"cmd":"reload"}: docs/operating.md. NULL: no memory, and nothing has changed.
 */
json_t *reload_answer(const struct reload *reload, bool dry_run, uint64_t now_ms);

/* The same on a signal: the answer goes to the log. */
void reload_now(const struct reload *reload, uint64_t now_ms);

#endif
