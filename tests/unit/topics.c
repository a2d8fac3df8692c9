#include "society.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "requests.h"

enum { TAG = 77, TEXT_MAX = 512 };

static struct config_topics limits(void)
{
	return (struct config_topics){
		.max = 3, .members = 4, .per_peer = 2, .rate = 9, .publisher_rate = 8};
}

static int set_up(void **state)
{
	const struct config_topics config = limits();
	int result = society_begin(state);
	struct society *society = *state;

	return result ? result : topics_configure(&society->members, &config);
}

/* A topic as workers see it; NULL: there is none. */
static const struct topic *topic_of(const struct society *society, const char *name)
{
	uint32_t slot;

	if (groups_find(&society->members.groups, GROUP_TOPIC, name, &slot))
		return NULL;
	assert_int_equal(society->members.sessions->slot[slot].group->kind, GROUP_TOPIC);
	return caa_container_of(society->members.sessions->slot[slot].group, struct topic, group);
}

/* Who is a member as workers see it: the numbers of peers, as text. */
static const char *members_of(const struct society *society, const char *name)
{
	const struct topic *topic = topic_of(society, name);
	static char text[TEXT_MAX];
	bool there[UINT8_MAX + 1] = {false};
	char *at = text;

	if (!topic)
		return "no topic";
	for (uint32_t i = 0; i < topic->members->count; i++) {
		uint32_t slot = topic->members->slots[i];

		if (i)
			assert_true(slot > topic->members->slots[i - 1]);
		there[society->members.roster.by_slot[slot]->id.bytes[0]] = true;
	}
	*at = '\0';
	for (int number = 0; number <= UINT8_MAX; number++) {
		if (there[number])
			at += sprintf(at, "%s%d", at == text ? "" : " ", number);
	}
	return text;
}

static void tick(struct society *society)
{
	society_keys(); // a grace period
	society->now_ms += 10;
	members_tick(&society->members, society->now_ms);
}

static void request(struct society *society, const struct member_session *session, const char *text)
{
	struct forward_event event =
		society_event(FORWARD_EVENT_CONTROL, session->index, society_address(1, 4000));

	event.tag = TAG;
	event.payload_length = (uint16_t)strlen(text);
	memcpy(event.payload, text, event.payload_length);
	request_handle(&society->members, &society->reputation, &event, society->now_ms);
}

static void ask(struct society *society, const struct member_session *session, const char *op,
		const char *name, const char *cluster)
{
	char text[TEXT_MAX];

	snprintf(text, sizeof(text), "{\"op\":\"%s_topic\",\"name\":\"%s\",\"cluster\":\"%s\"}", op,
		 name, cluster);
	request(society, session, text);
}

static void expect_ok(struct society *society, const struct member_session *session)
{
	assert_string_equal(society_said(society, session->index), "{\"ok\":true}");
}

/* Asks, and is answered at the next tick. */
static void join(struct society *society, const struct member_session *session, const char *name)
{
	ask(society, session, "join", name, "");
	society_silent(society);
	tick(society);
	expect_ok(society, session);
	society_silent(society);
}

static void leave(struct society *society, const struct member_session *session, const char *name)
{
	ask(society, session, "leave", name, "");
	tick(society);
	expect_ok(society, session);
	society_silent(society);
}

static void refused(struct society *society, const struct member_session *session, const char *op,
		    const char *name, const char *cluster, const char *code)
{
	char begin[64];

	ask(society, session, op, name, cluster);
	snprintf(begin, sizeof(begin), "{\"ok\":false,\"error\":\"%s\",", code);
	assert_memory_equal(society_said(society, session->index), begin, strlen(begin));
	tick(society);
	society_silent(society);
}

static void test_by_wish(void **state)
{
	struct society *society = *state;
	struct member_session *one = society_settle(society, 1), *two = society_settle(society, 2);
	struct wire_id id;

	assert_string_equal(members_of(society, "a"), "no topic");
	join(society, two, "a");
	join(society, one, "a");
	assert_string_equal(members_of(society, "a"), "1 2");
	assert_int_equal(topic_of(society, "a")->rate, 9);
	assert_int_equal(topic_of(society, "a")->publisher_rate, 8);
	groups_id(&id, GROUP_TOPIC, "a");
	assert_non_null(route_find(&society->members.routes, &id,
				   route_hash(&society->members.routes, &id)));
	// once more changes nothing, and is answered at once
	ask(society, one, "join", "a", "");
	expect_ok(society, one);
	assert_string_equal(members_of(society, "a"), "1 2");
	leave(society, two, "a");
	assert_string_equal(members_of(society, "a"), "1");
	ask(society, two, "leave", "a", "");
	expect_ok(society, two);
	// with its last member it goes
	leave(society, one, "a");
	assert_string_equal(members_of(society, "a"), "no topic");
	assert_int_equal(society->members.topics.count, 0);
	ask(society, two, "leave", "a", "");
	expect_ok(society, two);
}

static void test_names(void **state)
{
	struct society *society = *state;
	struct member_session *one = society_settle(society, 1);
	char longest[66];

	memset(longest, 'x', 65);
	longest[65] = '\0';
	refused(society, one, "join", "", "", "name");
	refused(society, one, "join", longest, "", "name");
	refused(society, one, "join", "A", "", "name");
	refused(society, one, "join", "a b", "", "name");
	refused(society, one, "join", "-a", "", "name");
	refused(society, one, "join", "viaduct/a", "", "denied");
	refused(society, one, "join", "relay", "", "denied");
	refused(society, one, "leave", "A", "", "name");
	request(society, one, "{\"op\":\"join_topic\"}");
	assert_non_null(strstr(society_said(society, one->index), "\"malformed\""));
	assert_int_equal(society->members.topics.count, 0);
	longest[64] = '\0';
	join(society, one, longest);
	assert_string_equal(members_of(society, longest), "1");
}

static void test_limits(void **state)
{
	struct society *society = *state;
	struct member_session *peers[6];

	for (uint8_t i = 0; i < 6; i++)
		peers[i] = society_settle(society, i + 1);
	// topics of a peer
	join(society, peers[0], "a");
	join(society, peers[0], "b");
	refused(society, peers[0], "join", "c", "", "limit");
	assert_string_equal(members_of(society, "c"), "no topic");
	ask(society, peers[0], "join", "a", "");
	expect_ok(society, peers[0]);
	// topics in all
	join(society, peers[1], "c");
	for (int i = 0; i < 100; i++) {
		char name[16];

		snprintf(name, sizeof(name), "name%d", i);
		refused(society, peers[1], "join", name, "", "limit");
	}
	assert_int_equal(society->members.topics.count, 3);
	// members
	for (int i = 1; i < 4; i++)
		join(society, peers[i], "a");
	refused(society, peers[4], "join", "a", "", "limit");
	assert_string_equal(members_of(society, "a"), "1 2 3 4");
	leave(society, peers[1], "a");
	join(society, peers[4], "a");
	assert_string_equal(members_of(society, "a"), "1 3 4 5");
	// and there is room for another topic once one is gone
	leave(society, peers[1], "c");
	join(society, peers[5], "d");
}

/* Whoever asks for a million gets what the limits allow, and the rest leaves nothing behind. */
static void test_a_million(void **state)
{
	struct society *society = *state;
	struct members *members = &society->members;
	struct member_session *peers[4];
	unsigned int joined = 0, refused = 0;
	uint32_t room;

	for (uint8_t i = 0; i < 4; i++)
		peers[i] = society_settle(society, i + 1);
	room = members->groups.free_count;
	for (unsigned int i = 0; i < 1000000; i++) {
		const struct member_session *peer = peers[i % 4];
		const char *detail = NULL;
		char name[16];
		int result;

		snprintf(name, sizeof(name), "t%u", i);
		result = topics_join(members, peer->member, name, "", peer->index, i, &detail);
		joined += result == 0;
		refused += result == -ENOSPC && detail;
	}
	assert_int_equal(joined, limits().max);
	assert_int_equal(refused, 1000000 - joined);
	assert_int_equal(members->topics.count, joined);
	assert_int_equal(members->groups.free_count, room - joined);
	assert_int_equal(route_count(&members->routes), 4 + joined);
	tick(society);
	for (unsigned int i = 0; i < joined; i++)
		expect_ok(society, peers[i]);
	society_silent(society);
	// nobody else's is in the way of it
	leave(society, peers[0], "t0");
	join(society, peers[3], "another");
	assert_string_equal(members_of(society, "another"), "4");
}

/* Joining and leaving in a loop costs one array a tick, and nothing lasts. */
static void test_loop(void **state)
{
	struct society *society = *state;
	struct member_session *one = society_settle(society, 1), *two = society_settle(society, 2);
	const struct topic_members *before;

	join(society, two, "a");
	before = topic_of(society, "a")->members;
	for (int i = 0; i < 10; i++) {
		ask(society, one, "join", "a", "");
		ask(society, one, "leave", "a", "");
	}
	assert_ptr_equal(topic_of(society, "a")->members, before);
	tick(society);
	for (int i = 0; i < 20; i++)
		expect_ok(society, one);
	assert_string_equal(members_of(society, "a"), "2");
	// the same with topics that come and go
	for (int i = 0; i < 1000; i++) {
		ask(society, one, "join", "b", "");
		ask(society, one, "leave", "b", "");
		tick(society);
		expect_ok(society, one);
		expect_ok(society, one);
		assert_string_equal(members_of(society, "b"), "no topic");
	}
	assert_int_equal(society->members.topics.count, 1);
}

/* A membership by wish is the session's. */
static void test_session_ends(void **state)
{
	struct society *society = *state;
	struct member_session *one = society_settle(society, 1), *two = society_settle(society, 2);
	struct member_grant grant;
	struct forward_event event;

	join(society, one, "a");
	join(society, two, "a");
	// who returns joins again
	assert_int_equal(society_join(society, 1, &grant), 0);
	tick(society);
	assert_string_equal(members_of(society, "a"), "1 2");
	event = society_event(FORWARD_EVENT_PATH, grant.index, society_address(1, 4000));
	member_event(&society->members, &event, society->now_ms);
	society->said_count = 0;
	tick(society);
	assert_string_equal(members_of(society, "a"), "2");
	one = member_session_find(&society->members, grant.index);
	join(society, one, "a");
	// an answer to a session that has ended goes nowhere
	ask(society, two, "join", "b", "");
	member_leave(&society->members, two, society->now_ms);
	tick(society);
	society_silent(society);
	assert_string_equal(members_of(society, "a"), "1");
	assert_string_equal(members_of(society, "b"), "no topic");
	member_revoke(&society->members, one->member, society->now_ms);
	society->said_count = 0;
	tick(society);
	assert_string_equal(members_of(society, "a"), "no topic");
}

static struct config_topics with_clusters(const char *name, const char *first, const char *second)
{
	struct config_topics config = limits();

	config.configured_count = 1;
	strcpy(config.configured[0].name, name);
	for (const char *cluster = first; cluster; cluster = cluster == first ? second : NULL)
		strcpy(config.configured[0].clusters[config.configured[0].clusters_count++],
		       cluster);
	return config;
}

static void test_by_cluster(void **state)
{
	struct society *society = *state;
	struct member_session *one = society_settle(society, 1), *two = society_settle(society, 2);
	struct config_topics config = with_clusters("all", "odd", NULL);

	assert_int_equal(topics_configure(&society->members, &config), 0);
	tick(society);
	assert_string_equal(members_of(society, "all"), "1");
	society_settle(society, 3);
	tick(society);
	assert_string_equal(members_of(society, "all"), "1 3");
	// others join by wish; members by cluster can't leave
	join(society, two, "all");
	leave(society, one, "all");
	assert_string_equal(members_of(society, "all"), "1 2 3");
	ask(society, one, "join", "all", "");
	expect_ok(society, one);
	leave(society, one, "all");
	assert_string_equal(members_of(society, "all"), "1 2 3");
	member_leave(&society->members, one, society->now_ms);
	tick(society);
	assert_string_equal(members_of(society, "all"), "2 3");
	// it is full
	society_settle(society, 4);
	config = with_clusters("all", "odd", "even");
	assert_int_equal(topics_configure(&society->members, &config), 0);
	society_settle(society, 1);
	society_settle(society, 5);
	tick(society);
	assert_string_equal(members_of(society, "all"), "1 2 3 4");
	// another cluster; then none, and only who wished to is a member; then it isn't configured
	config = with_clusters("all", "even", NULL);
	assert_int_equal(topics_configure(&society->members, &config), 0);
	tick(society);
	assert_string_equal(members_of(society, "all"), "2 4");
	config = with_clusters("all", NULL, NULL);
	assert_int_equal(topics_configure(&society->members, &config), 0);
	tick(society);
	assert_string_equal(members_of(society, "all"), "2");
	leave(society, two, "all");
	assert_string_equal(members_of(society, "all"), "");
	config = limits();
	assert_int_equal(topics_configure(&society->members, &config), 0);
	tick(society);
	assert_string_equal(members_of(society, "all"), "no topic");
	// what there is no slot for
	config.max = 100;
	for (uint32_t i = 0; i < SOCIETY_GROUPS + 1; i++)
		snprintf(config.configured[i].name, sizeof(config.configured[i].name), "t%u", i);
	config.configured_count = SOCIETY_GROUPS + 1;
	society_keys();
	assert_int_equal(topics_configure(&society->members, &config), -ENOSPC);
	assert_int_equal(society->members.topics.count, SOCIETY_GROUPS);
}

static void test_cluster_by_wish(void **state)
{
	struct society *society = *state;
	struct member_session *peers[4];
	struct config_topics config = limits();

	for (uint8_t i = 0; i < 4; i++)
		peers[i] = society_settle(society, i + 1);
	refused(society, peers[0], "join", "a", "odd", "denied");
	config.cluster_joins = 1;
	assert_int_equal(topics_configure(&society->members, &config), 0);
	refused(society, peers[0], "join", "a", "even", "denied");
	// as long as one of those who asked is there
	ask(society, peers[0], "join", "a", "odd");
	ask(society, peers[2], "join", "a", "odd");
	ask(society, peers[2], "join", "a", "odd");
	tick(society);
	expect_ok(society, peers[0]);
	expect_ok(society, peers[2]);
	expect_ok(society, peers[2]);
	assert_string_equal(members_of(society, "a"), "1 3");
	peers[1] = society_settle(society, 5);
	tick(society);
	assert_string_equal(members_of(society, "a"), "1 3 5");
	leave(society, peers[0], "a");
	assert_string_equal(members_of(society, "a"), "1 3 5");
	member_leave(&society->members, peers[2], society->now_ms);
	tick(society);
	assert_string_equal(members_of(society, "a"), "no topic");
	// who is a member by wish stays one
	join(society, peers[0], "a");
	ask(society, peers[1], "join", "a", "odd");
	tick(society);
	expect_ok(society, peers[1]);
	assert_string_equal(members_of(society, "a"), "1 5");
	leave(society, peers[1], "a");
	assert_string_equal(members_of(society, "a"), "1");
}

/* A key whose next certificate says another cluster: what it was a member of as one of the first
 * ends with that session. */
static void test_another_cluster(void **state)
{
	struct society *society = *state;
	struct member_session *one = society_settle(society, 1),
			      *three = society_settle(society, 3);
	struct config_topics config = with_clusters("news", "odd", NULL);
	struct member_grant grant;
	struct forward_event event;

	config.cluster_joins = 1;
	assert_int_equal(topics_configure(&society->members, &config), 0);
	ask(society, one, "join", "a", "odd");
	tick(society);
	expect_ok(society, one);
	assert_string_equal(members_of(society, "a"), "1 3");
	assert_string_equal(members_of(society, "news"), "1 3");

	society->cluster = "new";
	assert_int_equal(society_join(society, 1, &grant), 0);
	event = society_event(FORWARD_EVENT_PATH, grant.index, society_address(1, 4000));
	member_event(&society->members, &event, society->now_ms);
	society->said_count = 0; // "replaced" and "path"
	tick(society);
	assert_string_equal(members_of(society, "a"), "no topic");
	assert_string_equal(members_of(society, "news"), "3");
	member_leave(&society->members, three, society->now_ms);
	tick(society);
	assert_string_equal(members_of(society, "news"), "");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, set_up, society_end)
	const struct CMUnitTest tests[] = {
		TEST(by_wish),
		TEST(names),
		TEST(limits),
		TEST(a_million),
		TEST(loop),
		TEST(session_ends),
		TEST(by_cluster),
		TEST(cluster_by_wish),
		TEST(another_cluster),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
