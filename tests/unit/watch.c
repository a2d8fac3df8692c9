#include "society.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy.h"
#include "watch.h"

/* What peer `number` of the society is said to have done. */
static const char *expected(uint8_t number, const char *change, unsigned int sequence)
{
	const struct identity identity = society_identity(number);
	static char text[512];
	char id[WIRE_ID_TEXT + 1];

	wire_id_format(id, &identity.id);
	snprintf(text, sizeof(text),
		 "{\"event\":\"peer\",\"change\":\"%s\",\"id\":\"%s\",\"name\":\"%s\","
		 "\"sequence\":%u}",
		 change, id, identity.name, sequence);
	return text;
}

static struct member_session *session_of(const struct society *society, uint8_t number)
{
	const struct identity identity = society_identity(number);

	return roster_find(&society->members.roster, &identity.id)->current;
}

static void leave(struct society *society, uint8_t number)
{
	member_leave(&society->members, session_of(society, number), society->now_ms);
}

/* society_settle() takes what is said to the one who comes: here others are told as well. */
static void come(struct society *society, uint8_t number)
{
	struct forward_event event;
	struct member_grant grant;

	assert_int_equal(society_join(society, number, &grant), 0);
	event = society_event(FORWARD_EVENT_PATH, grant.index, society_address(number, 4000));
	member_event(&society->members, &event, society->now_ms);
	// the last thing said is the path
	assert_int_equal(society->said[--society->said_count].index, grant.index);
}

static struct member_session *watcher(struct society *society, uint8_t number,
				      const struct wire_id *id, const char *cluster)
{
	struct member_session *session;
	uint64_t sequence;

	come(society, number);
	society->said_count = 0;
	session = session_of(society, number);
	assert_int_equal(watch_begin(&society->members, session, id, cluster, &sequence), 0);
	assert_int_equal(sequence, 0);
	return session;
}

static void pass(struct society *society, uint64_t ms)
{
	society->now_ms += ms;
	members_tick(&society->members, society->now_ms);
}

static void test_all(void **state)
{
	struct society *society = *state;
	uint32_t index = watcher(society, 1, NULL, NULL)->index;

	come(society, 2);
	assert_string_equal(society_said(society, index), expected(2, "joined", 1));
	come(society, 2); // again: the first one is replaced
	assert_non_null(strstr((char *)society->said[0].payload, "replaced"));
	assert_string_equal((char *)society->said[1].payload, expected(2, "joined", 2));
	society->said_count = 0;
	leave(society, 2);
	assert_string_equal(society_said(society, index), expected(2, "left", 3));
	society_silent(society);
}

static void test_one_and_cluster(void **state)
{
	struct society *society = *state;
	const struct identity three = society_identity(3);
	struct member_session *one = watcher(society, 1, &three.id, NULL);
	uint32_t even = watcher(society, 5, NULL, "even")->index;
	uint64_t sequence;

	come(society, 2);
	assert_string_equal(society_said(society, even), expected(2, "joined", 1));
	come(society, 3);
	assert_string_equal(society_said(society, one->index), expected(3, "joined", 1));
	// the last word counts, and the numbers go on
	assert_int_equal(watch_begin(&society->members, one, NULL, "even", &sequence), 0);
	assert_int_equal(sequence, 1);
	leave(society, 3);
	society_silent(society);
	leave(society, 2);
	assert_int_equal(society->said_count, 2);
	assert_non_null(strstr((char *)society->said[0].payload, "\"left\""));
	society->said_count = 0;
}

static void test_ends_with_the_session(void **state)
{
	struct society *society = *state;
	uint64_t sequence;

	watcher(society, 1, NULL, NULL);
	watcher(society, 2, NULL, "odd");
	come(society, 4);
	assert_int_equal(
		watch_begin(&society->members, session_of(society, 4), NULL, NULL, &sequence),
		-EBUSY);
	society->said_count = 0;
	leave(society, 1);
	assert_int_equal(society->members.watches.count, 1);
	society->said_count = 0;
	come(society, 2); // the new session watches nothing
	assert_int_equal(society->members.watches.count, 0);
	// the teardown proves that one that is left is freed
	watcher(society, 3, NULL, "odd");
}

static void test_policy(void **state)
{
	struct society *society = *state;
	struct policy *policy = malloc(sizeof(*policy));
	struct clusters clusters = {.count = 3, .names = {"", "odd", "even"}};
	uint32_t index;

	memset(policy, 0xff, sizeof(*policy));
	policy->allowed[1][0] &= ~(UINT64_C(1) << 2); // odd may not send to even
	society->members.config.clusters = &clusters;
	clusters_publish(&society->members.sessions->policy, policy);
	index = watcher(society, 1, NULL, NULL)->index;
	come(society, 2);
	society_silent(society);
	come(society, 3);
	assert_string_equal(society_said(society, index), expected(3, "joined", 1));
	society->members.config.clusters = NULL;
}

/* More than it may be told at once: it is told how much it missed as soon as it may be. */
static void test_bounded(void **state)
{
	struct society *society = *state;
	struct member_session *session = watcher(society, 1, NULL, NULL);
	unsigned int told = 0, all = 3 * WATCH_PER_SECOND;

	pass(society, 10);
	for (unsigned int i = 0; i < all; i++) {
		if (i % 2)
			leave(society, 3);
		else
			come(society, 3);
		told += society->said_count;
		society->said_count = 0;
	}
	assert_int_equal(told, 2 * WATCH_PER_SECOND);
	assert_int_equal(society->members.watches.behind, 1);
	pass(society, 10);
	assert_string_equal(society_said(society, session->index),
			    "{\"event\":\"peer\",\"change\":\"missed\",\"sequence\":300}");
	assert_int_equal(society->members.watches.behind, 0);
	pass(society, 10);
	society_silent(society);
	come(society, 3);
	assert_string_equal(society_said(society, session->index), expected(3, "joined", all + 1));
}

static void test_ends_while_behind(void **state)
{
	struct society *society = *state;

	watcher(society, 1, NULL, NULL);
	for (unsigned int i = 0; i < 3 * WATCH_PER_SECOND; i++) {
		if (i % 2)
			leave(society, 3);
		else
			come(society, 3);
		society->said_count = 0;
	}
	assert_int_equal(society->members.watches.behind, 1);
	leave(society, 1);
	assert_int_equal(society->members.watches.behind, 0);
	pass(society, 1000);
	society_silent(society);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, society_begin, society_end)
	const struct CMUnitTest tests[] = {
		TEST(all),    TEST(one_and_cluster), TEST(ends_with_the_session),
		TEST(policy), TEST(bounded),         TEST(ends_while_behind),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
