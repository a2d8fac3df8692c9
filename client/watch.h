/*
 * Being told of other peers: docs/protocol.md section 6, "Watching".
 */
#ifndef CLIENT_WATCH_H
#define CLIENT_WATCH_H

#include "answer.h"
#include "session.h"

/* For the session: an event of kind EVENT_PEER. */
void watch_changed(struct session *session, const struct event *event);

#endif
