#include "requests.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>

#include "services.h"

enum {
	ANSWER_SIZE = FORWARD_PAYLOAD_MAX + 1, // with a NUL
	ASK_MS = 1,                            // a request of a peer, on average
	ASK_SAVED_MS = 1000,
};

/* Copies a string field that fits. `needed`: whether there must be one. */
static bool get_text(const json_t *root, const char *key, bool needed, char *text, size_t size)
{
	const json_t *field = json_object_get(root, key);

	text[0] = '\0';
	if (!field)
		return !needed;
	if (!json_is_string(field) || json_string_length(field) >= size)
		return false;
	memcpy(text, json_string_value(field), json_string_length(field) + 1);
	return true;
}

/* Reads a whole number that may be there. */
static bool get_number(const json_t *root, const char *key, int64_t otherwise, int64_t *number)
{
	const json_t *field = json_object_get(root, key);

	*number = field ? json_integer_value(field) : otherwise;
	return !field || json_is_integer(field);
}

static bool is_of_service(enum request_op op)
{
	return op == REQUEST_REGISTER || op == REQUEST_UNREGISTER;
}

static int parse_object(struct request *request, const json_t *root, const char **detail)
{
	static const char *const ops[] = {
		[REQUEST_RESOLVE] = "resolve",
		[REQUEST_PEERS] = "peers",
		[REQUEST_RELAYS] = "relays",
		[REQUEST_LEAVE] = "leave",
		[REQUEST_ECHO] = "echo",
		[REQUEST_COMPLAIN] = "complain",
		[REQUEST_WATCH] = "watch",
		[REQUEST_UNWATCH] = "unwatch",
		[REQUEST_JOIN_TOPIC] = "join_topic",
		[REQUEST_LEAVE_TOPIC] = "leave_topic",
		[REQUEST_REGISTER] = "register",
		[REQUEST_UNREGISTER] = "unregister",
		[REQUEST_REGION] = "region",
	};
	const char *op = json_string_value(json_object_get(root, "op"));
	char after[WIRE_ID_TEXT + 1], id[WIRE_ID_TEXT + 1], peer[WIRE_ID_TEXT + 1];
	size_t i = 0;
	bool needed;

	*detail = "op must be a string";
	if (!op)
		return -EINVAL;
	*detail = "no such op";
	while (i < sizeof(ops) / sizeof(ops[0]) && strcmp(ops[i], op) != 0)
		i++;
	if (i == sizeof(ops) / sizeof(ops[0]))
		return -ENOTSUP;
	request->op = (enum request_op)i;

	*detail = "service must be a string of at most 255 bytes";
	if (is_of_service(request->op) &&
	    !get_text(root, "service", true, request->name, sizeof(request->name)))
		return -EINVAL;
	*detail = "region must be a string of at most 255 bytes";
	if (!get_text(root, "region", request->op == REQUEST_REGION, request->region,
		      sizeof(request->region)))
		return -EINVAL;
	*detail = "weight and policy_version must be whole numbers";
	if (!get_number(root, "weight", 1, &request->weight) ||
	    !get_number(root, "policy_version", 0, &request->policy_version))
		return -EINVAL;
	*detail = "name must be a string of at most 255 bytes";
	needed = request->op == REQUEST_RESOLVE || request->op == REQUEST_JOIN_TOPIC ||
		 request->op == REQUEST_LEAVE_TOPIC;
	if (!is_of_service(request->op) &&
	    !get_text(root, "name", needed, request->name, sizeof(request->name)))
		return -EINVAL;
	*detail = "cluster must be a string of at most 255 bytes";
	if (!get_text(root, "cluster", false, request->cluster, sizeof(request->cluster)))
		return -EINVAL;
	*detail = "after must be a peer's id";
	if (!get_text(root, "after", false, after, sizeof(after)) ||
	    (*after && wire_id_parse(&request->after, after)))
		return -EINVAL;
	*detail = "id must be a peer's id";
	if (!get_text(root, "id", false, id, sizeof(id)) ||
	    (*id && wire_id_parse(&request->id, id)))
		return -EINVAL;
	request->one = *id;
	*detail = "token must be the challenge's";
	if (!get_text(root, "token", request->op == REQUEST_ECHO, request->token,
		      sizeof(request->token)))
		return -EINVAL;
	*detail = "peer must be a peer's id";
	if (!get_text(root, "peer", request->op == REQUEST_COMPLAIN, peer, sizeof(peer)) ||
	    (*peer && wire_id_parse(&request->peer, peer)))
		return -EINVAL;
	*detail = "reason must be a string of at most 64 bytes";
	if (!get_text(root, "reason", request->op == REQUEST_COMPLAIN, request->reason,
		      sizeof(request->reason)))
		return -EINVAL;
	return 0;
}

int request_parse(struct request *request, const uint8_t *payload, size_t length,
		  const char **detail)
{
	json_t *root = json_loadb((const char *)payload, length, JSON_REJECT_DUPLICATES, NULL);
	int result = -EINVAL;

	memset(request, 0, sizeof(*request));
	*detail = "a request is one JSON object";
	if (json_is_object(root))
		result = parse_object(request, root, detail);
	json_decref(root);
	return result;
}

static bool has_name(const struct member *member, const struct request *request)
{
	return strcmp(member->name, request->name) == 0;
}

static bool has_cluster(const struct member *member, const struct request *request)
{
	return !*request->cluster || strcmp(member->cluster, request->cluster) == 0;
}

/* Writes a member as a JSON object. Returns its length, which is above `size` if it didn't fit. */
static size_t write_member(char *text, size_t size, const struct member *member)
{
	json_t *entry = json_pack("{ss ss}", "id", member->text, "name", member->name);
	size_t length = json_dumpb(entry, text, size, JSON_COMPACT);

	json_decref(entry);
	return length ? length : size + 1;
}

/* A list of peers that a session's peer asks for. */
struct query {
	const struct members *members;
	const struct member_session *asker;
	const struct request *request;
};

/* Whether a member is here, behind those that were listed before, and known to who asks. */
static bool is_listed(const struct query *query, const struct member *member)
{
	return member->current &&
	       memcmp(&member->id, &query->request->after, sizeof(member->id)) > 0 &&
	       member_may_send(query->members, query->asker, member->current);
}

/*
 * Answers with the members at and behind `at` that belong to what is asked for, as many as fit.
 * Returns the answer's length.
 */
static size_t list(char answer[ANSWER_SIZE], const struct query *query,
		   const struct roster_index *index, size_t at,
		   bool (*belongs)(const struct member *member, const struct request *request))
{
	static const char begin[] = "{\"ok\":true,\"peers\":[", more[] = "],\"more\":true}",
			  end[] = "]}";
	const size_t room = FORWARD_PAYLOAD_MAX - (sizeof(more) - 1);
	size_t length = sizeof(begin) - 1;
	const char *last = end;

	memcpy(answer, begin, length);
	for (; at < index->count && belongs(index->members[at], query->request); at++) {
		const struct member *member = index->members[at];
		size_t comma = length > sizeof(begin) - 1, size;

		if (!is_listed(query, member))
			continue;
		if (room < length + comma)
			size = room + 1;
		else
			size = write_member(answer + length + comma, room - length - comma, member);
		if (length + comma + size > room) {
			last = more;
			break;
		}
		if (comma)
			answer[length] = ',';
		length += comma + size;
	}
	strcpy(answer + length, last);
	return length + strlen(last);
}

static size_t answer_peers(const struct query *query, char answer[ANSWER_SIZE])
{
	const struct roster *roster = &query->members->roster;
	const struct request *request = query->request;

	if (request->op == REQUEST_RESOLVE)
		return list(answer, query, &roster->by_name,
			    roster_seek_name(roster, request->name), has_name);
	if (*request->cluster)
		return list(answer, query, &roster->by_cluster,
			    roster_seek_cluster(roster, request->cluster, &request->after),
			    has_cluster);
	return list(answer, query, &roster->by_id, roster_seek_id(roster, &request->after),
		    has_cluster);
}

static size_t answer_text(char answer[ANSWER_SIZE], const char *text)
{
	strcpy(answer, text);
	return strlen(text);
}

static size_t answer_error(char answer[ANSWER_SIZE], const char *code, const char *detail)
{
	return (size_t)snprintf(answer, ANSWER_SIZE,
				"{\"ok\":false,\"error\":\"%s\",\"detail\":\"%s\"}", code, detail);
}

static size_t watch(struct members *members, struct member_session *session,
		    const struct request *request, char answer[ANSWER_SIZE])
{
	uint64_t sequence;
	int result;

	if (session != session->member->current)
		return 0; // isn't answered
	result = watch_begin(members, session, request->one ? &request->id : NULL,
			     *request->cluster ? request->cluster : NULL, &sequence);
	if (result)
		return answer_error(answer, "busy",
				    result == -EBUSY ? "enough peers watch already"
						     : "out of memory");
	return (size_t)snprintf(answer, ANSWER_SIZE, "{\"ok\":true,\"sequence\":%llu}",
				(unsigned long long)sequence);
}

static size_t answer_complaint(struct reputation *reputation, struct member_session *session,
			       const struct request *request, char answer[ANSWER_SIZE],
			       uint64_t now_ms)
{
	unsigned int retry_s;

	switch (reputation_complain(reputation, session, &request->peer, request->reason, now_ms,
				    &retry_s)) {
	case 0:
		return answer_text(answer, "{\"ok\":true}");
	case -EINVAL:
		return answer_error(answer, "malformed", "a complaint about oneself");
	case -ENOENT:
		return answer_error(answer, "unknown", "no such peer is here");
	default:
		return (size_t)snprintf(answer, ANSWER_SIZE,
					"{\"ok\":false,\"error\":\"busy\",\"detail\":\"too many "
					"complaints\",\"retry_after\":%u}",
					retry_s);
	}
}

/* Asks for or gives up a topic. Returns the length of the answer, 0 if it comes later. */
static size_t answer_topic(struct members *members, const struct request *request,
			   const struct member_session *session, uint32_t tag,
			   char answer[ANSWER_SIZE])
{
	const char *detail;
	int result;

	if (session != session->member->current)
		return 0;
	if (request->op == REQUEST_JOIN_TOPIC)
		result = topics_join(members, session->member, request->name, request->cluster,
				     session->index, tag, &detail);
	else
		result = topics_leave(members, session->member, request->name, session->index, tag,
				      &detail);
	switch (result) {
	case 0:
		return 0;
	case -EINVAL:
		return answer_error(answer, "name", detail);
	case -EPERM:
		return answer_error(answer, "denied", detail);
	case -ENOSPC:
		return answer_error(answer, "limit", detail);
	default:
		return answer_error(answer, "busy", "the relay is out of memory");
	}
}

/* What concerns services: one call each, which says what is wrong, if anything. */
static size_t answer_service(struct members *members, struct member *member,
			     const struct request *request, char answer[ANSWER_SIZE])
{
	struct services_registration registration = {
		.name = request->name,
		.region = request->region,
		.weight = request->weight,
		.policy_version = request->policy_version,
	};
	const char *code, *detail;
	char id[WIRE_ID_TEXT + 1];
	struct wire_id wire;

	if (!members->services)
		return answer_error(answer, "unsupported", "this relay has no services");
	if (request->op == REQUEST_REGISTER)
		code = services_register(members->services, member, &registration, &detail);
	else if (request->op == REQUEST_UNREGISTER)
		code = services_unregister(members->services, member, request->name, &detail);
	else
		code = services_region(members->services, member, request->region, &detail);
	if (code)
		return answer_error(answer, code, detail);
	if (request->op == REQUEST_REGION)
		return answer_text(answer, "{\"ok\":true}");
	groups_id(&wire, GROUP_SERVICE, request->name);
	wire_id_format(id, &wire);
	return (size_t)snprintf(answer, ANSWER_SIZE, "{\"ok\":true,\"id\":\"%s\"}", id);
}

/* Whether it is this peer's turn: so that nobody keeps us from others. (GCRA, ITU-T I.371) */
static bool may_ask(struct member_session *session, uint64_t now_ms)
{
	uint64_t full_ms = session->asked_ms > now_ms ? session->asked_ms : now_ms;

	if (full_ms + ASK_MS > now_ms + ASK_SAVED_MS) {
		session->excess++;
		return false;
	}
	session->asked_ms = full_ms + ASK_MS;
	return true;
}

void request_handle(struct members *members, struct reputation *reputation,
		    const struct forward_event *event, uint64_t now_ms)
{
	struct member_session *session = member_session_find(members, event->index);
	struct request request;
	char answer[ANSWER_SIZE];
	const char *detail;
	size_t length;
	int result;

	if (!session || !may_ask(session, now_ms))
		return;
	result = request_parse(&request, event->payload, event->payload_length, &detail);
	if (result == 0 && request.op == REQUEST_ECHO) {
		if (member_echo(members, session, request.token, event, now_ms))
			length = answer_text(answer, "{\"ok\":true}");
		else
			length = answer_error(answer, "malformed",
					      "not the token of a challenge "
					      "to this address");
	} else if (result == -ENOTSUP) {
		length = answer_error(answer, "unsupported", detail);
	} else if (result) {
		session->malformed++;
		length = answer_error(answer, "malformed", detail);
	} else if (request.op == REQUEST_COMPLAIN) {
		length = answer_complaint(reputation, session, &request, answer, now_ms);
	} else if (request.op == REQUEST_RELAYS) {
		length = (size_t)snprintf(answer, ANSWER_SIZE, "{\"ok\":true,\"relays\":%s}",
					  members->relays);
	} else if (request.op == REQUEST_LEAVE) {
		length = answer_text(answer, "{\"ok\":true}");
	} else if (request.op >= REQUEST_REGISTER && request.op <= REQUEST_REGION) {
		if (session != session->member->current)
			return;
		length = answer_service(members, session->member, &request, answer);
	} else if (request.op == REQUEST_WATCH) {
		length = watch(members, session, &request, answer);
	} else if (request.op == REQUEST_UNWATCH) {
		watch_end(members, session);
		length = answer_text(answer, "{\"ok\":true}");
	} else if (request.op == REQUEST_JOIN_TOPIC || request.op == REQUEST_LEAVE_TOPIC) {
		length = answer_topic(members, &request, session, event->tag, answer);
		if (!length)
			return;
	} else {
		length = answer_peers(&(struct query){members, session, &request}, answer);
	}
	// a session without an address gets nothing, and the peer asks again
	if (session != session->member->current)
		return;
	// first, so that who has the answer is asked by nobody any more
	if (result == 0 && request.op == REQUEST_LEAVE)
		member_leave(members, session, now_ms);
	member_send(members, session, event->tag, answer, length);
}
