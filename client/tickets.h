/*
 * The tickets of peers that were closed: an identity that is opened again in the same context
 * resumes its last handshake.
 */
#ifndef CLIENT_TICKETS_H
#define CLIENT_TICKETS_H

#include "context.h"

/* Takes the ticket, if any, of a peer that is about to be freed. */
void tickets_keep(struct viaduct_peer *peer);

/* Gives it to a new peer that is the same in all that a ticket stands for. */
void tickets_recall(struct viaduct_peer *peer);

void tickets_free_all(struct viaduct *v);

#endif
