/*
 * Between the workers' rings and the members: takes events in, sends commands out, and keeps the
 * members' time. Control thread.
 */
#ifndef VIADUCT_DISPATCH_H
#define VIADUCT_DISPATCH_H

#include <uv.h>

#include "blocklist.h"
#include "dataplane.h"
#include "reputation.h"

struct dispatch;

/* Begins to work when the loop runs. Returns 0 or a negative errno. */
int dispatch_start(struct dispatch **dispatch, uv_loop_t *loop, struct dataplane *dataplane,
		   struct members *members, struct reputation *reputation,
		   struct blocklist *blocklist);

/* All is freed when the loop has run its close callbacks. */
void dispatch_stop(struct dispatch *dispatch);

/* member_config's `send`; `arg` is the struct dispatch. What finds no room waits, some of it. */
void dispatch_send(void *arg, const struct forward_command *command);

/* member_config's `behind`: there is little room left for what waits. */
bool dispatch_behind(void *arg);

/* How many messages wait for room in a ring. */
unsigned int dispatch_waiting(const struct dispatch *dispatch);

#endif
