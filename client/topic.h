/*
 * Topics that a peer wants to be a member of. The relay forgets them with the session; the library
 * joins them again. Of one topic one question is open at a time, so that an answer that comes late
 * can't undo what was wanted after.
 */
#ifndef CLIENT_TOPIC_H
#define CLIENT_TOPIC_H

#include "viaduct.h"

struct topic;

struct topics {
	struct topic **all; // in no order
	unsigned int count, room;
};

/* The session works: joins all that are wanted. */
void topics_joined(struct viaduct_peer *peer);

/* Forgets all without a word. */
void topics_free(struct viaduct_peer *peer);

#endif
