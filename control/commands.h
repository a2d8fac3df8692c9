/*
 * What the admin socket's commands say and do, as far as that is known at once: docs/operating.md.
 * Control thread.
 */
#ifndef VIADUCT_COMMANDS_H
#define VIADUCT_COMMANDS_H

#include <jansson.h>

#include "blocklist.h"
#include "config.h"
#include "dataplane.h"
#include "listener.h"
#include "member.h"
#include "reload.h"
#include "revoke.h"

/* What there is to report about; must outlive who asks. */
struct commands_subject {
	const struct config *config;
	const struct tls *tls;
	const struct listener *listener;
	struct members *members;
	struct revoke *revoke;
	struct reputation *reputation;
	const struct blocklist *blocklist;
	const struct reload *reload;
	struct dataplane *dataplane;

	/* Asks all members to go, and ends the relay when they have or after so long. */
	void (*drain)(void *arg, unsigned int seconds);
	void *arg;
};

/*
 * The answer to a question with this `command`, the caller's; NULL: no memory. `uptime_ms`: of the
 * relay.
 */
json_t *commands_answer(const struct commands_subject *subject, uint64_t uptime_ms,
			const char *command, const json_t *question);

#endif
