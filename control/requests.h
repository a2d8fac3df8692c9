/*
 * What peers ask of the relay over their session: docs/protocol.md section 6, "Control messages".
 */
#ifndef VIADUCT_REQUESTS_H
#define VIADUCT_REQUESTS_H

#include "reputation.h"

enum request_op {
	REQUEST_RESOLVE,
	REQUEST_PEERS,
	REQUEST_RELAYS,
	REQUEST_LEAVE,
	REQUEST_ECHO,
	REQUEST_COMPLAIN,
	REQUEST_WATCH,
	REQUEST_UNWATCH,
	REQUEST_JOIN_TOPIC,
	REQUEST_LEAVE_TOPIC,
	REQUEST_REGISTER,
	REQUEST_UNREGISTER,
	REQUEST_REGION,
	REQUEST_COUNT
};

struct request {
	enum request_op op;
	char name[IDENTITY_NAME_MAX + 1];    // or service
	char cluster[IDENTITY_NAME_MAX + 1]; // "" for all
	struct wire_id after;                // zero for from the first
	struct wire_id id;                   // if `one`
	bool one;
	char token[MEMBER_TOKEN_TEXT + 1];
	char region[IDENTITY_NAME_MAX + 1];
	int64_t weight;
	int64_t policy_version;
	struct wire_id peer; // that a complaint is about
	char reason[REPUTATION_REASON + 1];
};

/*
 * Reads a request. Pure. Returns 0, -ENOTSUP (no such op) or -EINVAL, with the reason in `detail`
 * (static).
 */
int request_parse(struct request *request, const uint8_t *payload, size_t length,
		  const char **detail);

/*
 * Does what a control message asks for, and answers it; not if its peer asks too much. Control
 * thread.
 */
void request_handle(struct members *members, struct reputation *reputation,
		    const struct forward_event *event, uint64_t now_ms);

#endif
