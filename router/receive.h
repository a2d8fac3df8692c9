/*
 * From datagrams to messages: records are parsed, their sessions found, owners and windows checked,
 * and what is new opened, and taken apart into messages. The worker's.
 */
#ifndef VIADUCT_RECEIVE_H
#define VIADUCT_RECEIVE_H

#include "forward.h"

/* Takes a burst through these stages. What is gathered waits for walk_all(). */
void receive_burst(struct forward *forward, struct forward_input *inputs, unsigned int n);

/* When nothing more is needed of the burst: gives back its buffers, and lanes that are to leave. */
void receive_end(struct forward *forward);

/* forward_drop_unread() and forward_refuse() */
void receive_drop_unread(struct forward *forward, struct forward_input *input, enum wire_parse why);
void receive_refuse(struct forward *forward, struct forward_input *input, enum drop_record reason);

#endif
