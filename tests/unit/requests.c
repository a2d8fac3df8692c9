#include "society.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>

#include "requests.h"

static int parse(const char *text, struct request *request)
{
	const char *detail;

	return request_parse(request, (const uint8_t *)text, strlen(text), &detail);
}

static void test_parse(void **state)
{
	struct request request;

	assert_int_equal(parse("{\"op\":\"resolve\",\"name\":\"x\"}", &request), 0);
	assert_int_equal(request.op, REQUEST_RESOLVE);
	assert_string_equal(request.name, "x");
	assert_int_equal(parse("{\"op\":\"peers\"}", &request), 0);
	assert_int_equal(request.op, REQUEST_PEERS);
	assert_string_equal(request.cluster, "");
	assert_true(wire_id_equal(&request.after, &(struct wire_id){{0}}));
	assert_int_equal(parse("{\"op\":\"peers\",\"cluster\":\"c\",\"after\":"
			       "\"b4aaaaaaaaaaaaaaaaaaaaaaaa\",\"x\":[1]}",
			       &request),
			 0);
	assert_string_equal(request.cluster, "c");
	assert_true(wire_id_equal(&request.after, &(struct wire_id){{0x0f}}));
	assert_int_equal(parse(" {\"op\":\"leave\"} ", &request), 0);
	assert_int_equal(request.op, REQUEST_LEAVE);
	assert_int_equal(parse("{\"op\":\"relays\"}", &request), 0);
	assert_int_equal(request.op, REQUEST_RELAYS);
	assert_int_equal(parse("{\"op\":\"echo\",\"token\":\"7\"}", &request), 0);
	assert_int_equal(request.op, REQUEST_ECHO);
	assert_string_equal(request.token, "7");
	assert_int_equal(parse("{\"op\":\"watch\",\"cluster\":\"c\",\"id\":"
			       "\"b4aaaaaaaaaaaaaaaaaaaaaaaa\"}",
			       &request),
			 0);
	assert_int_equal(request.op, REQUEST_WATCH);
	assert_true(request.one && wire_id_equal(&request.id, &(struct wire_id){{0x0f}}));
	assert_int_equal(parse("{\"op\":\"unwatch\"}", &request), 0);
	assert_int_equal(request.op, REQUEST_UNWATCH);
	assert_false(request.one);
	assert_int_equal(parse("{\"op\":\"fly\"}", &request), -ENOTSUP);

	static const char *const bad[] = {
		"",
		"{",
		"[]",
		"null",
		"{\"op\":7}",
		"{}",
		"{\"op\":\"leave\"}x",
		"{\"op\":\"leave\",\"op\":\"leave\"}",
		"{\"op\":\"resolve\"}",
		"{\"op\":\"resolve\",\"name\":null}",
		"{\"op\":\"peers\",\"cluster\":1}",
		"{\"op\":\"peers\",\"after\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaa\"}",
		"{\"op\":\"peers\",\"after\":\"AAAAAAAAAAAAAAAAAAAAAAAAAA\"}",
		"{\"op\":\"watch\",\"id\":\"x\"}",
		"{\"op\":\"watch\",\"cluster\":7}",
		"{\"op\":\"echo\"}",
		"{\"op\":\"echo\",\"token\":\"000000000000000000000000000000000\"}",
		"\xff",
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(parse(bad[i], &request), -EINVAL);
}

/* What the relay answers to a request of this session. */
static const char *ask(struct society *society, uint32_t index, const char *text)
{
	struct forward_event event =
		society_event(FORWARD_EVENT_CONTROL, index, society_address(1, 4000));

	event.tag = 77;
	event.payload_length = (uint16_t)strlen(text);
	memcpy(event.payload, text, event.payload_length);
	request_handle(&society->members, &society->reputation, &event, society->now_ms);
	assert_int_equal(society->said_count, 1);
	assert_int_equal(society->said[0].tag, 77);
	return society_said(society, index);
}

static void test_answers(void **state)
{
	struct society *society = *state;
	struct member_session *session = society_settle(society, 1);
	char text[256], wanted[256];

	assert_string_equal(ask(society, session->index, "{\"op\":\"relays\"}"),
			    "{\"ok\":true,\"relays\":[]}");
	assert_string_equal(ask(society, session->index, "{\"op\":\"fly\"}"),
			    "{\"ok\":false,\"error\":\"unsupported\",\"detail\":\"no such op\"}");
	assert_non_null(strstr(ask(society, session->index, "nonsense"), "\"malformed\""));
	assert_non_null(strstr(ask(society, session->index, "{\"op\":\"echo\",\"token\":\"\"}"),
			       "\"malformed\""));
	assert_string_equal(ask(society, session->index, "{\"op\":\"resolve\",\"name\":\"x\"}"),
			    "{\"ok\":true,\"peers\":[]}");
	snprintf(text, sizeof(text), "{\"op\":\"resolve\",\"name\":\"%s\"}", session->member->name);
	snprintf(wanted, sizeof(wanted),
		 "{\"ok\":true,\"peers\":[{\"id\":\"%s\",\"name\":\"%s\"}]}", session->member->text,
		 session->member->name);
	assert_string_equal(ask(society, session->index, text), wanted);
}

/* A peer that asks too much isn't answered for a while, and others are; it is held against it. */
static void test_excess(void **state)
{
	struct society *society = *state;
	struct member_session *one = society_settle(society, 1), *two = society_settle(society, 2);
	struct forward_event event =
		society_event(FORWARD_EVENT_CONTROL, one->index, society_address(1, 4000));
	unsigned int answered = 0;

	event.payload_length = sizeof("{\"op\":\"relays\"}") - 1;
	memcpy(event.payload, "{\"op\":\"relays\"}", event.payload_length);
	for (int i = 0; i < 5000; i++) {
		request_handle(&society->members, &society->reputation, &event, society->now_ms);
		answered += society->said_count;
		society->said_count = 0;
	}
	assert_int_equal(answered, 1000);
	ask(society, two->index, "{\"op\":\"relays\"}");
	society->now_ms += 500;
	for (int i = 0; i < 500; i++)
		ask(society, one->index, "{\"op\":\"relays\"}");
	request_handle(&society->members, &society->reputation, &event, society->now_ms);
	society_silent(society);
	reputation_sweep(&society->reputation, society->now_ms);
	assert_int_equal(society->reputation.count, 1);
	assert_int_equal(society->reputation.records[0]->score.counts[SCORE_LIMIT], 4001);
}

static void test_leave(void **state)
{
	struct society *society = *state;
	uint32_t index = society_settle(society, 1)->index;

	assert_string_equal(ask(society, index, "{\"op\":\"leave\"}"), "{\"ok\":true}");
	assert_null(member_session_find(&society->members, index));
	// the answer still finds its way
	assert_non_null(session_find_any(society->members.sessions, index));
}

static void test_nobody_yet(void **state)
{
	struct society *society = *state;
	struct forward_event event;
	struct member_grant grant;

	assert_int_equal(society_join(society, 1, &grant), 0);
	event = society_event(FORWARD_EVENT_CONTROL, grant.index, society_address(1, 4000));
	event.payload_length = 14;
	memcpy(event.payload, "{\"op\":\"leave\"}", 14);
	request_handle(&society->members, &society->reputation, &event, society->now_ms);
	assert_non_null(member_session_find(&society->members, grant.index));
	event.index++;
	request_handle(&society->members, &society->reputation, &event, society->now_ms);
	society_silent(society);
}

static void test_only_who_has_joined_is_listed(void **state)
{
	struct society *society = *state;
	struct member_session *session = society_settle(society, 1);
	struct member_session *gone = society_settle(society, 2);
	struct member_grant grant;

	assert_int_equal(society_join(society, 3, &grant), 0);
	member_leave(&society->members, gone, society->now_ms);
	assert_null(strstr(ask(society, session->index, "{\"op\":\"peers\"}"), "lab/even/2"));
	assert_null(strstr(ask(society, session->index, "{\"op\":\"peers\"}"), "lab/odd/3"));
	assert_non_null(strstr(ask(society, session->index, "{\"op\":\"peers\"}"), "lab/odd/1"));
}

/* Whom the policy keeps apart from a peer, the relay doesn't tell it of. */
static void test_only_who_may_be_sent_to_is_listed(void **state)
{
	static const struct config_policy config = {.rules = {{.from = "even"}}, .rules_count = 1};
	struct society *society = *state;
	static struct clusters clusters;
	struct policy *policy;
	uint32_t even, odd;

	assert_int_equal(clusters_compile(&clusters, &config, &policy), 0);
	society->members.config.clusters = &clusters;
	clusters_publish(&society->members.sessions->policy, policy);
	odd = society_settle(society, 1)->index;
	even = society_settle(society, 2)->index;
	society_settle(society, 4);
	assert_non_null(strstr(ask(society, odd, "{\"op\":\"peers\"}"), "lab/even/2"));
	assert_null(strstr(ask(society, even, "{\"op\":\"peers\"}"), "lab/odd/1"));
	assert_non_null(strstr(ask(society, even, "{\"op\":\"peers\"}"), "lab/even/4"));
	assert_string_equal(ask(society, even, "{\"op\":\"peers\",\"cluster\":\"odd\"}"),
			    "{\"ok\":true,\"peers\":[]}");
	assert_string_equal(
		ask(society, even, "{\"op\":\"resolve\",\"name\":\"spiffe://lab/odd/1\"}"),
		"{\"ok\":true,\"peers\":[]}");
	assert_non_null(
		strstr(ask(society, odd, "{\"op\":\"resolve\",\"name\":\"spiffe://lab/even/2\"}"),
		       "lab/even/2"));
}

/* Goes through all pages of a list; returns how many peers there are, in how many pages. */
static size_t count(struct society *society, uint32_t index, const char *cluster, int *pages)
{
	char text[256], last[64] = "";
	struct wire_id before = {{0}};
	size_t total = 0;
	bool more = true;

	for (*pages = 0; more; ++*pages) {
		json_t *answer, *peers, *peer;
		size_t i;

		snprintf(text, sizeof(text),
			 "{\"op\":\"peers\",\"cluster\":\"%s\",\"after\":\"%s\"}", cluster, last);
		answer = json_loads(ask(society, index, text), 0, NULL);
		assert_true(json_is_true(json_object_get(answer, "ok")));
		peers = json_object_get(answer, "peers");
		json_array_foreach (peers, i, peer) {
			const char *id = json_string_value(json_object_get(peer, "id"));
			struct wire_id read;

			assert_int_equal(wire_id_parse(&read, id), 0);
			assert_true(memcmp(&read, &before, sizeof(read)) > 0);
			before = read;
			strcpy(last, id);
		}
		total += json_array_size(peers);
		more = json_is_true(json_object_get(answer, "more"));
		json_decref(answer);
	}
	return total;
}

static void test_pages(void **state)
{
	struct society *society = *state;
	uint32_t index = society_settle(society, 1)->index;
	int pages;

	for (unsigned int i = 2; i <= SOCIETY_MAX; i++) {
		// names so long that not all fit
		struct member_session *session = society_settle(society, (uint8_t)i);
		struct identity identity = society_identity((uint8_t)i);
		struct member *member;

		memset(identity.name, '"', IDENTITY_NAME_MAX);
		assert_int_equal(roster_enter(&society->members.roster, &identity, &member), 0);
		assert_ptr_equal(member, session->member);
	}
	assert_int_equal(count(society, index, "", &pages), SOCIETY_MAX);
	assert_true(pages > 1);
	assert_int_equal(count(society, index, "odd", &pages), SOCIETY_MAX / 2);
	assert_int_equal(count(society, index, "even", &pages), SOCIETY_MAX / 2);
	assert_int_equal(count(society, index, "none", &pages), 0);
	assert_int_equal(pages, 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, society_begin, society_end)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),
		TEST(answers),
		TEST(excess),
		TEST(leave),
		TEST(nobody_yet),
		TEST(only_who_has_joined_is_listed),
		TEST(only_who_may_be_sent_to_is_listed),
		TEST(pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
