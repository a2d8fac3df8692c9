/*
 * The admin socket: JSON lines on a UNIX socket, docs/operating.md. Control thread.
 */
#ifndef VIADUCT_ADMIN_H
#define VIADUCT_ADMIN_H

#include <uv.h>

#include "blocklist.h"
#include "config.h"
#include "dataplane.h"
#include "listener.h"
#include "member.h"
#include "reload.h"
#include "revoke.h"

/* What there is to report about; must outlive the socket. */
struct admin_subject {
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

struct admin;

/*
 * Opens the socket, with the folder it is in. Returns 0, or a negative errno with one sentence in
 * `error` (CONFIG_ERROR_MAX bytes).
 */
int admin_start(struct admin **admin, uv_loop_t *loop, const struct admin_subject *subject,
		char *error);

/*
 * For member_config's `tell`; `arg` is the struct admin. Goes to those who asked for events; who is
 * slow is told later how many it has missed.
 */
void admin_tell(void *arg, const struct member_news *news);

/* Closes it. All is freed when the loop has run its close callbacks. */
void admin_stop(struct admin *admin);

#endif
