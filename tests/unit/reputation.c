#include "society.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { PEERS = 100, GANG = 30 };

/* So many seconds go by. */
static void pass(struct society *society, unsigned int seconds)
{
	while (seconds--) {
		society->now_ms += 1000;
		members_tick(&society->members, society->now_ms);
		reputation_sweep(&society->reputation, society->now_ms);
	}
}

/* Its workers see it do something. */
static void mark(struct society *society, uint32_t index, enum session_mark what, int times)
{
	const struct session *session = society_find(society, index);

	for (int i = 0; i < times; i++)
		session_mark(session, i % 2, what);
}

/* Misbehaves as much as it can, until it is cut; returns in how many seconds. */
static unsigned int misbehave(struct society *society, const struct member_session *session)
{
	const struct member *member = session->member;
	uint32_t index = session->index;
	unsigned int seconds = 0;

	society->reputation.swept_ms = society->now_ms;
	while (member->current && seconds++ < 300) {
		session_rx_lane(society_find(society, index), 0)->seen_ms =
			(uint32_t)society->now_ms;
		mark(society, index, SESSION_MARK_MALFORMED, 100);
		pass(society, 1);
	}
	return seconds;
}

static json_t *ask(struct society *society, const char *peer, const char *action)
{
	json_t *question = json_pack("{ss ss* ss*}", "cmd", "trust", "peer", peer, "do", action);
	json_t *answer = reputation_answer(&society->reputation, question, society->now_ms);

	json_decref(question);
	return answer;
}

static json_int_t level_of(struct society *society, const struct member *member)
{
	json_t *answer = ask(society, member->text, NULL);
	json_int_t level = json_integer_value(json_object_get(answer, "level"));

	json_decref(answer);
	return level;
}

static double score_of(struct society *society, const struct member *member)
{
	json_t *answer = ask(society, member->text, NULL);
	double score = json_real_value(json_object_get(answer, "score"));

	json_decref(answer);
	return score;
}

static void test_throttled_and_cut(void **state)
{
	struct society *society = *state;
	struct member_session *bad = society_settle(society, 1), *good = society_settle(society, 2);
	const struct member *member = bad->member;
	uint32_t index = bad->index;

	good->expiry_ms = UINT32_MAX;
	for (int i = 0; i < 10; i++) {
		mark(society, index, SESSION_MARK_MALFORMED, 100);
		pass(society, 1);
		assert_int_equal(society_find(society, index)->level, member->level);
	}
	assert_int_equal(member->level, 1);
	assert_in_range(misbehave(society, bad), 30, 60);
	assert_string_equal(society_said(society, index), "{\"event\":\"cut\",\"retry_after\":60}");
	assert_int_equal(society->reputation.counters.throttled, 3);
	assert_int_equal(society->reputation.counters.cut, 1);
	assert_null(society_find(society, index));
	assert_int_equal(society_find(society, good->index)->level, 0);
	// for a minute
	assert_int_equal(reputation_refuses(&society->reputation, &member->id, society->now_ms),
			 60);
	pass(society, 58);
	assert_int_equal(reputation_refuses(&society->reputation, &member->id, society->now_ms), 2);
	pass(society, 2);
	assert_int_equal(
		reputation_refuses(&society->reputation, &(struct wire_id){{1}}, society->now_ms),
		0);
	assert_int_equal(society->reputation.counters.refused, 2);
	// then it may, and begins where it ended
	bad = society_settle(society, 1);
	assert_int_equal(society_find(society, bad->index)->level, 3);
}

/* Each time twice as long, up to the most; and forgiven at last. */
static void test_growing(void **state)
{
	static const unsigned int seconds[] = {60, 120, 240, 480, 960, 1920, 3600, 3600};
	struct society *society = *state;
	const struct wire_id id = {{1}};

	for (size_t i = 0; i < sizeof(seconds) / sizeof(seconds[0]); i++) {
		struct member_session *session = society_settle(society, 1);
		uint32_t index = session->index;
		char said[64];

		misbehave(society, session);
		snprintf(said, sizeof(said), "{\"event\":\"cut\",\"retry_after\":%u}", seconds[i]);
		assert_string_equal(society_said(society, index), said);
		pass(society, seconds[i]);
		assert_int_equal(reputation_refuses(&society->reputation, &id, society->now_ms), 0);
	}
	pass(society, 9 * 3600);
	assert_int_equal(society->reputation.count, 0);
}

/* A third of all complain about an honest peer, for a day, as loudly as they may. */
static void test_gang(void **state)
{
	struct society *society = *state;
	struct member_session *peers[PEERS];
	struct member *honest;
	unsigned int retry_s;

	for (int i = 0; i < PEERS; i++)
		peers[i] = society_settle(society, (uint8_t)(i + 1));
	honest = peers[PEERS - 1]->member;
	society->members.config.expiry_ms = UINT32_MAX;
	for (int i = 0; i < PEERS; i++)
		peers[i]->expiry_ms = UINT32_MAX;
	for (int minute = 0; minute < 24 * 60; minute++) {
		for (int i = 0; i < GANG; i++)
			reputation_complain(&society->reputation, peers[i], &honest->id, "bad!",
					    society->now_ms, &retry_s);
		pass(society, 60);
		assert_int_equal(honest->level, 0);
	}
	assert_true(score_of(society, honest) > 0.75);
	// nor when it has really done a little, which alone would cost nothing
	for (int second = 0; second < 3600; second++) {
		mark(society, peers[PEERS - 1]->index, SESSION_MARK_LIMIT, 5);
		reputation_complain(&society->reputation, peers[second % GANG], &honest->id, "bad!",
				    society->now_ms, &retry_s);
		pass(society, 1);
		assert_in_range(honest->level, 0, 1);
	}
	assert_int_equal(society->reputation.counters.cut, 0);
	// the gang itself is no worse for it
	assert_int_equal(level_of(society, peers[0]->member), 0);
}

/* What they say counts for more about one against whom there is something already. */
static void test_complaints_add_up(void **state)
{
	struct society *society = *state;
	struct member_session *peers[SOCIETY_MAX];
	unsigned int retry_s;
	double before;

	for (int i = 0; i < SOCIETY_MAX; i++)
		peers[i] = society_settle(society, (uint8_t)(i + 1));
	mark(society, peers[0]->index, SESSION_MARK_MALFORMED, 5);
	pass(society, 3);
	mark(society, peers[0]->index, SESSION_MARK_MALFORMED, 5);
	pass(society, 1);
	assert_int_equal(level_of(society, peers[0]->member), 0);
	before = score_of(society, peers[0]->member);
	for (int i = 1; i < SOCIETY_MAX; i++)
		assert_int_equal(reputation_complain(&society->reputation, peers[i],
						     &peers[0]->member->id, "spam", society->now_ms,
						     &retry_s),
				 0);
	assert_true(score_of(society, peers[0]->member) < before);
	pass(society, 1);
	assert_int_equal(level_of(society, peers[0]->member), 1);
	assert_int_equal(society_find(society, peers[0]->index)->level, 1);
	// the same again changes nothing
	before = score_of(society, peers[0]->member);
	for (int i = 0; i < 1000; i++)
		reputation_complain(&society->reputation, peers[1], &peers[0]->member->id, "spam",
				    society->now_ms, &retry_s);
	assert_true(score_of(society, peers[0]->member) == before);
}

static void test_bad_complaints(void **state)
{
	struct society *society = *state;
	struct member_session *peers[PEERS];
	const struct wire_id nobody = {{200}};
	unsigned int retry_s = 0;
	int taken = 0;

	for (int i = 0; i < PEERS; i++)
		peers[i] = society_settle(society, (uint8_t)(i + 1));
	assert_int_equal(reputation_complain(&society->reputation, peers[0], &nobody, "",
					     society->now_ms, &retry_s),
			 -ENOENT);
	assert_int_equal(reputation_complain(&society->reputation, peers[0], &peers[0]->member->id,
					     "", society->now_ms, &retry_s),
			 -EINVAL);
	assert_int_equal(society->reputation.count, 0);
	// about everybody: so many are taken, each for less; more is held against who complains
	for (int i = 1; i < PEERS; i++)
		taken += reputation_complain(&society->reputation, peers[0], &peers[i]->member->id,
					     "", society->now_ms, &retry_s) == 0;
	assert_int_equal(taken, REPUTATION_TARGETS);
	assert_in_range(retry_s, 300, 301);
	assert_true(score_of(society, peers[1]->member) < score_of(society, peers[16]->member));
	assert_int_equal(society->reputation.counters.complaints_refused, 2 + 99 - 16);
	pass(society, 1);
	assert_true(score_of(society, peers[0]->member) < 1);
	pass(society, 300);
	for (int i = 0; i < PEERS; i++)
		peers[i]->expiry_ms = UINT32_MAX;
	assert_int_equal(reputation_complain(&society->reputation, peers[0], &peers[50]->member->id,
					     "", society->now_ms, &retry_s),
			 0);
}

static void test_operator(void **state)
{
	struct society *society = *state;
	struct member_session *session = society_settle(society, 1);
	struct member *member = session->member;
	json_t *answer;

	answer = ask(society, member->name, "pin");
	assert_true(json_is_true(json_object_get(answer, "pinned")));
	json_decref(answer);
	for (int i = 0; i < 60; i++) {
		mark(society, session->index, SESSION_MARK_MALFORMED, 100);
		pass(society, 1);
	}
	assert_non_null(member->current);
	assert_int_equal(level_of(society, member), 0);
	assert_true(score_of(society, member) < 0.2);
	answer = ask(society, member->text, "pardon");
	assert_int_equal(society->reputation.counters.pardoned, 1);
	json_decref(answer);
	json_decref(ask(society, member->text, "unpin"));
	pass(society, 1);
	assert_non_null(member->current);
	assert_true(score_of(society, member) == 1);

	answer = ask(society, "nobody", "pin");
	assert_non_null(json_object_get(answer, "error"));
	json_decref(answer);
	answer = ask(society, member->text, "kiss");
	assert_non_null(json_object_get(answer, "error"));
	json_decref(answer);
}

/* The text of the file as it would be now. */
static char *written(struct society *society, int64_t wall_s)
{
	enum { SIZE = 1 << 16 };
	struct reputation copy;
	char *text = calloc(1, SIZE);
	FILE *file = fmemopen(text, SIZE, "w");

	assert_int_equal(reputation_copy(&copy, &society->reputation), 0);
	assert_int_equal(reputation_write(&copy, file, society->now_ms, wall_s), 0);
	reputation_fini(&copy);
	fclose(file);
	return text;
}

/* Forgets everything, and reads it again. Returns how many lines were bad, or a negative errno. */
static int restart(struct society *society, const char *text, int64_t wall_s)
{
	const struct config_trust trust = {
		.score_half_life = 300, .cut_seconds = 60, .cut_seconds_max = 3600};
	FILE *file = fmemopen((char *)text, strlen(text), "r");
	unsigned int bad;
	int result;

	reputation_fini(&society->reputation);
	reputation_init(&society->reputation, &trust, &society->members, society->now_ms);
	result = reputation_read(&society->reputation, file, society->now_ms, wall_s, &bad);
	fclose(file);
	return result ? result : (int)bad;
}

static void test_restart(void **state)
{
	struct society *society = *state;
	struct member_session *session = society_settle(society, 1);
	const struct wire_id id = {{1}};
	char *text;
	double before;

	society_settle(society, 2)->expiry_ms = UINT32_MAX;
	json_decref(ask(society, "spiffe://lab/even/2", "pin"));
	misbehave(society, session);
	text = written(society, 1000);
	before = score_points(&society->reputation.records[0]->score);
	assert_int_equal(restart(society, text, 1030), 0);
	assert_int_equal(society->reputation.count, 2);
	// the time between has passed
	assert_int_equal(reputation_refuses(&society->reputation, &id, society->now_ms), 30);
	assert_true(score_points(&society->reputation.records[0]->score) < before);
	assert_true(score_points(&society->reputation.records[0]->score) > 0.9 * before);
	assert_true(society->reputation.records[1]->pinned);
	// a clock that was set back doesn't make it longer
	assert_int_equal(restart(society, text, 10), 0);
	assert_int_equal(reputation_refuses(&society->reputation, &id, society->now_ms), 60);
	assert_int_equal(restart(society, text, 1000 + 1000000), 0);
	assert_int_equal(reputation_refuses(&society->reputation, &id, society->now_ms), 0);
	free(text);
}

static void test_damaged(void **state)
{
	struct society *society = *state;
	char *text, *bent, *end;

	society_settle(society, 1);
	society_settle(society, 2);
	json_decref(ask(society, "spiffe://lab/odd/1", "pin"));
	json_decref(ask(society, "spiffe://lab/even/2", "pin"));
	text = written(society, 1000);
	// what can be read is
	end = strrchr(strstr(text, "even"), '\n');
	end[-10] = '\0';
	assert_int_equal(restart(society, text, 1000), 1);
	assert_int_equal(society->reputation.count, 1);
	free(text);
	text = written(society, 1000);
	// twice the same
	assert_true(asprintf(&bent, "%s%s", text, strchr(text, '\n') + 1) > 0);
	assert_int_equal(restart(society, bent, 1000), 1);
	free(bent);
	free(text);
	// no such file at all
	assert_int_equal(restart(society, "\xff\n", 1000), -EINVAL);
	assert_int_equal(restart(society, "[]\n", 1000), -EINVAL);
	assert_int_equal(restart(society, "{\"viaduct_scores\":2,\"written\":7}\n", 1000), -EINVAL);
	assert_int_equal(restart(society,
				 "{\"viaduct_scores\":1,\"written\":7}\n[]\n{}\n\n7\n"
				 "{\"id\":\"x\"}\n",
				 1000),
			 5);
	assert_int_equal(society->reputation.count, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_throttled_and_cut, society_begin, society_end),
		cmocka_unit_test_setup_teardown(test_growing, society_begin, society_end),
		cmocka_unit_test_setup_teardown(test_gang, society_begin_many, society_end),
		cmocka_unit_test_setup_teardown(test_complaints_add_up, society_begin, society_end),
		cmocka_unit_test_setup_teardown(test_bad_complaints, society_begin_many,
						society_end),
		cmocka_unit_test_setup_teardown(test_operator, society_begin, society_end),
		cmocka_unit_test_setup_teardown(test_restart, society_begin, society_end),
		cmocka_unit_test_setup_teardown(test_damaged, society_begin, society_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
