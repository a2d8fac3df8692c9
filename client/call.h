/*
 * What waits for an answer: requests to peers and control questions to the relay. An answer is
 * found by its tag: the highest bit says that the tag is the library's, the next 15 change with
 * each call, the low 16 say which call it is.
 */
#ifndef CLIENT_CALL_H
#define CLIENT_CALL_H

#include <jansson.h>

#include "context.h"
#include "wire.h"

#define CALL_TAG      UINT32_C(0x80000000)
#define CALL_TAG_PING UINT32_C(0xffffffff) // the library's own pings; they are not calls

struct call;

struct calls {
	struct call **table;
	unsigned int size, count;
	uint16_t *spare; // a stack of free places in the table
	unsigned int spare_count;
	uint16_t turn;
};

/* Control answers for the library itself; `error` and text as viaduct_control_cb gets them. */
typedef void call_answer_fn(struct viaduct_peer *peer, void *user, int error, const char *answer,
			    size_t length);

/*
 * Asks the relay, and asks again until it answers or `timeout` ns have passed. The text is copied.
 * Returns 0, -ENOTCONN, -EMSGSIZE or -ENOMEM, or as flow_message().
 */
int call_control(struct viaduct_peer *peer, const char *text, uint64_t timeout,
		 call_answer_fn *answer, void *user);

/* The same of an object, which it takes in any case, for the user. */
int call_ask(struct viaduct_peer *peer, json_t *question, viaduct_control_cb *callback, void *user);

/* For the session: an answer of the relay; a response; an error to a tag of the library's. */
void call_answered(struct viaduct_peer *peer, uint32_t tag, const char *text, size_t length);
void call_responded(struct viaduct_peer *peer, const struct viaduct_message *response);
void call_refused(struct viaduct_peer *peer, uint32_t tag, enum viaduct_reason reason);

/* Tells all open calls that the session is lost. */
void call_lost(struct viaduct_peer *peer);

/* Frees all without telling. */
void call_free_all(struct viaduct_peer *peer);

#endif
