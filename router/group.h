/*
 * What stands behind an id that isn't a peer's: a service or a topic. Its slot lies behind those of
 * sessions in the session table, has no session, and points here. Immutable once published, like a
 * session, by the control thread; workers read.
 */
#ifndef VIADUCT_GROUP_H
#define VIADUCT_GROUP_H

enum group_kind {
	GROUP_SERVICE,
	GROUP_TOPIC,
};

/* The first member of what it is. */
struct group {
	enum group_kind kind;
};

#endif
