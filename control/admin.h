/*
 * The admin socket: JSON lines on a UNIX socket, docs/operating.md; who is connected, what they ask
 * and hear. Control thread.
 */
#ifndef VIADUCT_ADMIN_H
#define VIADUCT_ADMIN_H

#include <uv.h>

#include "commands.h"

struct admin;

/*
 * Opens the socket, with the folder it is in. Returns 0, or a negative errno with one sentence in
 * `error` (CONFIG_ERROR_MAX bytes).
 */
int admin_start(struct admin **admin, uv_loop_t *loop, const struct commands_subject *subject,
		char *error);

/*
 * For member_config's `tell`; `arg` is the struct admin. Goes to those who asked for events; who is
 * slow is told later how many it has missed.
 */
void admin_tell(void *arg, const struct member_news *news);

/* Closes it. All is freed when the loop has run its close callbacks. */
void admin_stop(struct admin *admin);

#endif
