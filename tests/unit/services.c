#include "society.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "services.h"

enum { PEER_SERVICES = 3, PEER_REQUESTS = 24, TAG = 9, SILENT_MS = 1000, TIMEOUT_MS = 5000 };

static struct society *society;
static struct services *services;
static struct config_services config;
static const char *detail;

static uint64_t now_us(void)
{
	return society->now_ms * 1000;
}

static int set_up(void **state)
{
	static const uint8_t secret[16];
	int result = society_begin_many(state);

	society = *state;
	config = (struct config_services){
		.requests = 64,
		.peer_requests = PEER_REQUESTS,
		.peer_services = PEER_SERVICES,
		.policy = SERVICE_LEAST_OUTSTANDING + 1,
		.slow_start = 100,
		.silent = SILENT_MS,
		.timeout = TIMEOUT_MS,
		.eject = 5,
	};
	if (!result)
		result = services_new(&services, &society->members, &config, 1, now_us, secret);
	society->members.services = services;
	return result;
}

static int tear_down(void **state)
{
	society->said_count = 0;
	services_free(services);
	society->members.services = NULL;
	return society_end(state);
}

/* Lets time and a grace period pass. */
static void pass(unsigned int ms)
{
	society_keys();
	society->now_ms += ms;
	services_tick(services);
}

static const char *enroll(struct member_session *session, const char *name, int64_t weight)
{
	const struct services_registration registration = {
		.name = name, .region = "", .weight = weight};

	return services_register(services, session->member, &registration, &detail);
}

/* A service as workers see it; NULL: there is none. */
static const struct service *seen(const char *name)
{
	const struct group *group;
	uint32_t slot;

	if (groups_find(&society->members.groups, GROUP_SERVICE, name, &slot))
		return NULL;
	group = society->members.sessions->slot[slot].group;
	assert_int_equal(group->kind, GROUP_SERVICE);
	return caa_container_of(group, struct service, group);
}

/* Asks an instance, as a worker would. */
static void request(const struct member_session *from, const struct service_member *of)
{
	assert_non_null(service_enter(services_requests(services),
				      society_find(society, from->index), TAG, WIRE_NORMAL,
				      of->instance, SERVICE_LEAST_OUTSTANDING, now_us()));
}

/* A record of the session's has come. */
static void hear(const struct member_session *session)
{
	session_rx_lane(society_find(society, session->index), 0)->seen_ms =
		(uint32_t)society->now_ms;
}

/* The oldest thing said, to this session, without a payload. */
static uint8_t said(const struct member_session *session)
{
	uint8_t kind = society->said[0].kind;

	assert_string_equal(society_said(society, session->index), "");
	return kind;
}

/* Peer `number` returns. */
static struct member_session *come_back(uint8_t number)
{
	struct member_grant grant;
	struct forward_event event;

	assert_int_equal(society_join(society, number, &grant), 0);
	event = society_event(FORWARD_EVENT_PATH, grant.index, society_address(number, 4000));
	member_event(&society->members, &event, society->now_ms);
	society->said_count = 0; // "replaced" and "path"
	return member_session_find(&society->members, grant.index);
}

static void test_registering(void **state)
{
	struct member_session *one = society_settle(society, 1),
			      *three = society_settle(society, 3);
	struct wire_id id;

	assert_null(seen("render"));
	assert_null(enroll(one, "render", 1));
	assert_int_equal(seen("render")->count, 1);
	assert_int_equal(seen("render")->settings.policy[0], SERVICE_LEAST_OUTSTANDING);
	assert_null(enroll(three, "render", 7));
	assert_int_equal(seen("render")->count, 2);
	assert_int_equal(seen("render")->members[1].weight, 7);
	assert_ptr_equal(seen("render")->members[1].slot->current,
			 society_find(society, three->index));
	groups_id(&id, GROUP_SERVICE, "render");
	assert_non_null(route_find(&society->members.routes, &id,
				   route_hash(&society->members.routes, &id)));
	// said again, it replaces what was said before
	assert_null(enroll(three, "render", 2));
	assert_int_equal(seen("render")->count, 2);
	assert_int_equal(seen("render")->members[1].weight, 2);

	assert_null(services_unregister(services, one->member, "render", &detail));
	assert_null(services_unregister(services, one->member, "render", &detail));
	assert_int_equal(seen("render")->count, 1);
	assert_null(services_unregister(services, three->member, "render", &detail));
	assert_null(seen("render"));
	assert_null(route_find(&society->members.routes, &id,
			       route_hash(&society->members.routes, &id)));
	pass(10);
}

static void test_refusals(void **state)
{
	static const struct {
		const char *name;
		int64_t weight;
		const char *code;
	} refused[] = {
		{"", 1, "name"},
		{"A", 1, "name"},
		{"a b", 1, "name"},
		{"-a", 1, "name"},
		{"viaduct.a", 1, "reserved"},
		{"relay", 1, "reserved"},
		{"a", 0, "weight"},
		{"a", -1, "weight"},
		{"a", 1001, "weight"},
		{"a", INT64_MAX, "weight"},
		{"a", INT64_MIN, "weight"},
	};
	struct services_registration registration = {
		.name = "a", .region = "", .weight = 1, .policy_version = -1};
	struct member_session *one = society_settle(society, 1);
	char longest[GROUPS_NAME_MAX + 2];

	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		assert_string_equal(enroll(one, refused[i].name, refused[i].weight),
				    refused[i].code);
		assert_true(*detail);
	}
	memset(longest, 'x', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	assert_string_equal(enroll(one, longest, 1), "name");
	assert_string_equal(services_register(services, one->member, &registration, &detail),
			    "malformed");
	registration.policy_version = 1000000001;
	assert_string_equal(services_register(services, one->member, &registration, &detail),
			    "malformed");
	registration.policy_version = 0;
	registration.region = "No Region";
	assert_string_equal(services_register(services, one->member, &registration, &detail),
			    "name");
	assert_null(seen("a"));
}

/* A name is its first cluster's as long as one of it is there, or whose the operator says. */
static void test_someone_elses_name(void **state)
{
	struct member_session *odd = society_settle(society, 1), *even = society_settle(society, 2);

	assert_null(enroll(odd, "a", 1));
	assert_string_equal(enroll(even, "a", 1), "taken");
	assert_null(services_unregister(services, even->member, "a", &detail));
	assert_int_equal(seen("a")->count, 1);
	assert_null(services_unregister(services, odd->member, "a", &detail));
	assert_null(enroll(even, "a", 1));

	config.names[0] = (struct config_service){
		.name = "b", .clusters = {"even", "other"}, .clusters_count = 2};
	config.names_count = 1;
	services_configure(services, &config);
	assert_int_equal(seen("b")->count, 0); // it is there, also without instances
	assert_string_equal(enroll(odd, "b", 1), "taken");
	assert_null(enroll(even, "b", 1));
	assert_null(services_unregister(services, even->member, "b", &detail));
	assert_int_equal(seen("b")->count, 0);
	config.names_count = 0;
	services_configure(services, &config);
	assert_null(seen("b"));
}

/* Who no longer may be an instance isn't one: its requests end. */
static void test_name_is_given_away(void **state)
{
	struct member_session *odd = society_settle(society, 1),
			      *asker = society_settle(society, 2);

	assert_null(enroll(odd, "a", 1));
	request(asker, &seen("a")->members[0]);
	config.names[0] =
		(struct config_service){.name = "a", .clusters = {"even"}, .clusters_count = 1};
	config.names_count = 1;
	services_configure(services, &config);
	assert_int_equal(seen("a")->count, 0);
	pass(10);
	assert_int_equal(said(asker), WIRE_ERROR | WIRE_REASON_INSTANCE_GONE);
	assert_null(enroll(asker, "a", 1));
}

/* A key whose next certificate says another cluster. */
static void test_another_cluster(void **state)
{
	struct member_session *one = society_settle(society, 1),
			      *three = society_settle(society, 3);

	assert_null(enroll(one, "a", 1));
	assert_null(enroll(three, "a", 1));
	assert_null(enroll(one, "b", 1));
	society->cluster = "new";
	one = come_back(1);
	assert_int_equal(seen("a")->count, 1);
	assert_string_equal(enroll(one, "a", 1), "taken");
	// it was there alone, so there is nobody to take it away from
	assert_int_equal(seen("b")->count, 1);
	assert_string_equal(enroll(three, "b", 1), "taken");
	assert_null(enroll(one, "b", 1));
}

static void test_limits(void **state)
{
	struct member_session *one = society_settle(society, 1), *two = society_settle(society, 2);

	assert_null(enroll(one, "a", 1));
	assert_null(enroll(one, "b", 1));
	assert_null(enroll(one, "c", 1));
	assert_string_equal(enroll(one, "d", 1), "limit"); // of the peer
	assert_null(enroll(one, "c", 2));                  // which may still change them
	assert_null(enroll(two, "d", 1));
	assert_string_equal(enroll(two, "e", 1), "limit"); // of the relay: SOCIETY_GROUPS
	assert_null(seen("e"));
	// in and out, over and over: slots come back when no worker can look at them any more
	for (int i = 0; i < 100; i++) {
		char name[16];

		snprintf(name, sizeof(name), "name%d", i);
		assert_null(services_unregister(services, two->member, i ? "x" : "d", &detail));
		pass(10);
		assert_null(enroll(two, name, 1));
		assert_null(services_unregister(services, two->member, name, &detail));
		pass(10);
		assert_null(enroll(two, "x", 1));
	}
	assert_int_equal(seen("b")->count + seen("c")->count + seen("x")->count, 3);
}

static void test_session_ends(void **state)
{
	struct member_session *one = society_settle(society, 1),
			      *three = society_settle(society, 3);
	struct member_session *asker = society_settle(society, 2), *again;
	struct service_instance *instance;

	assert_null(enroll(one, "a", 1));
	assert_null(enroll(three, "a", 1));
	// who returns keeps it, but what it was asked is lost
	instance = seen("a")->members[0].instance;
	request(asker, &seen("a")->members[0]);
	society->now_ms += 10;
	again = come_back(1);
	assert_int_equal(seen("a")->count, 2);
	assert_ptr_equal(seen("a")->members[0].instance, instance);
	pass(10);
	assert_int_equal(said(asker), WIRE_ERROR | WIRE_REASON_INSTANCE_GONE);
	assert_int_equal(instance->outstanding, 0);
	// who leaves doesn't
	request(asker, &seen("a")->members[0]);
	member_leave(&society->members, again, society->now_ms);
	assert_int_equal(seen("a")->count, 1);
	pass(10);
	assert_int_equal(said(asker), WIRE_ERROR | WIRE_REASON_INSTANCE_GONE);
	member_leave(&society->members, three, society->now_ms);
	assert_null(seen("a"));
	pass(10);
	society_silent(society);
}

/* Who owes an answer and isn't heard is dead, until it is heard again. */
static void test_silent_instance(void **state)
{
	struct member_session *one = society_settle(society, 1),
			      *asker = society_settle(society, 2);
	const struct service_instance *instance;
	unsigned int waited = 0;

	assert_null(enroll(one, "a", 1));
	instance = seen("a")->members[0].instance;
	for (int i = 0; i < 50; i++)
		pass(100); // silence alone is none: it owes nothing
	assert_false(instance->dead);
	society_silent(society);
	request(asker, &seen("a")->members[0]);
	// it is pinged before it is given up
	for (; waited < SILENT_MS - 100; waited += 50)
		pass(50);
	assert_false(instance->dead);
	assert_true(society->said_count > 1);
	while (society->said_count)
		assert_int_equal(said(one), WIRE_PING);
	pass(200);
	assert_true(instance->dead);
	pass(10);
	while (society->said[0].kind == WIRE_PING)
		said(one);
	assert_int_equal(said(asker), WIRE_ERROR | WIRE_REASON_INSTANCE_GONE);

	pass(100);
	hear(one);
	pass(100);
	assert_false(instance->dead);
	// slow, but there: its request waits for as long as requests do
	while (society->said_count)
		said(one);
	request(asker, &seen("a")->members[0]);
	for (waited = 0; waited < TIMEOUT_MS - 100; waited += 100) {
		hear(one);
		pass(100);
		while (society->said_count)
			assert_int_equal(said(one), WIRE_PING);
	}
	assert_false(instance->dead);
	for (waited = 0; waited < 500; waited += 10) { // some ticks to look at all
		hear(one);
		pass(10);
	}
	while (society->said[0].kind == WIRE_PING)
		said(one);
	assert_int_equal(said(asker), WIRE_ERROR | WIRE_REASON_TIMEOUT);
	society->said_count = 0;
}

/* For so long others of service "a" are asked, and this one is heard. */
static void pass_asking(const struct member_session *heard, unsigned int ms)
{
	for (unsigned int passed = 0; passed < ms; passed += 50) {
		seen("a")->state->stats[SERVICE_LEAST_OUTSTANDING].counts.requests++;
		hear(heard);
		pass(50);
	}
}

/* Who isn't asked needn't be found dead by a request, if others of its service are asked. */
static void test_silent_unasked(void **state)
{
	struct member_session *one = society_settle(society, 1), *two = society_settle(society, 3);
	const struct service_instance *asked, *unasked;

	assert_null(enroll(one, "a", 1));
	assert_null(enroll(two, "a", 1));
	asked = seen("a")->members[0].instance;
	unasked = seen("a")->members[1].instance;
	pass(2 * SILENT_MS);
	society_silent(society); // nobody is asked
	hear(two);
	pass_asking(one, SILENT_MS - 100);
	assert_false(unasked->dead);
	// it answers in time, and then no more
	assert_true(society->said_count > 1);
	while (society->said_count)
		assert_int_equal(said(two), WIRE_PING);
	hear(two);
	pass_asking(one, SILENT_MS - 100);
	assert_false(unasked->dead);
	pass_asking(one, 200);
	assert_true(unasked->dead);
	assert_false(asked->dead);
	// it is pinged on, until it is heard
	society->said_count = 0;
	pass_asking(one, SILENT_MS);
	while (society->said_count)
		assert_int_equal(said(two), WIRE_PING);
	hear(two);
	pass_asking(one, 100);
	assert_false(unasked->dead);
	society->said_count = 0;
}

static bool behind(void *arg)
{
	return society->said_count > 0;
}

/* More requests end at once than can be told at once: each is told in the end. */
static void test_many_end(void **state)
{
	struct member_session *one = society_settle(society, 1),
			      *asker = society_settle(society, 2);
	const struct service_member *member;
	unsigned int told = 0;

	society->members.config.behind = behind;
	assert_null(enroll(one, "a", 1));
	member = &seen("a")->members[0];
	for (uint32_t tag = 0; tag < PEER_REQUESTS; tag++)
		assert_non_null(service_enter(
			services_requests(services), society_find(society, asker->index), tag,
			WIRE_NORMAL, member->instance, SERVICE_LEAST_OUTSTANDING, now_us()));
	member_leave(&society->members, one, society->now_ms);
	for (int i = 0; i < 100; i++) {
		pass(10);
		assert_true(society->said_count <= SERVICE_BUCKET);
		for (; society->said_count; told++)
			assert_int_equal(said(asker), WIRE_ERROR | WIRE_REASON_INSTANCE_GONE);
	}
	assert_int_equal(told, PEER_REQUESTS);
}

static void test_regions(void **state)
{
	struct member_session *one = society_settle(society, 1), *two = society_settle(society, 2);
	struct services_registration registration = {.name = "a", .region = "north", .weight = 1};
	uint8_t region;
	char name[16];

	assert_null(services_register(services, one->member, &registration, &detail));
	assert_int_equal(seen("a")->members[0].region, 1);
	assert_int_equal(society_find(society, one->index)->region, 1);
	assert_null(services_region(services, one->member, "south", &detail));
	assert_int_equal(seen("a")->members[0].region, 2);
	assert_string_equal(services_region(services, one->member, "", &detail), "name");
	assert_string_equal(services_region(services, one->member,
					    "a-region-of-more-than-32-characters", &detail),
			    "name");
	assert_null(services_region(services, two->member, "south", &detail));
	region = two->member->region;
	// who says many doesn't use them up
	for (int told = 0; told < 1000; told++) {
		snprintf(name, sizeof(name), "r%d", told);
		assert_null(services_region(services, one->member, name, &detail));
		assert_int_not_equal(one->member->region, region);
	}
	assert_null(services_region(services, one->member, "south", &detail));
	assert_int_equal(seen("a")->members[0].region, region);
}

/* As many as there are numbers, 0 being that of those who say nothing. */
static void test_all_regions(void **state)
{
	struct member_session *session;
	char name[16];

	for (int number = 0; number < 256; number++) {
		const char *code;

		session = society_settle(society, (uint8_t)number);
		snprintf(name, sizeof(name), "r%d", number);
		code = services_region(services, session->member, name, &detail);
		if (number < 255)
			assert_null(code);
		else
			assert_string_equal(code, "limit");
	}
	assert_null(services_region(services, session->member, "r9", &detail));
}

static bool set(const char *question)
{
	json_t *asked = json_loads(question, 0, NULL), *answer = services_set(services, asked);
	bool ok = json_is_true(json_object_get(answer, "ok"));

	assert_true(ok || json_string_length(json_object_get(answer, "error")));
	json_decref(asked);
	json_decref(answer);
	return ok;
}

static void test_operator(void **state)
{
	struct member_session *one = society_settle(society, 1);
	const struct service *before;

	assert_false(set("{\"name\":\"a\",\"policy\":\"weighted\"}"));
	assert_null(enroll(one, "a", 1));
	assert_true(set("{\"name\":\"a\",\"policy\":\"weighted\",\"second\":\"response_time\","
			"\"share\":10,\"timeout\":700,\"silent\":300,\"slow_start\":5,"
			"\"eject\":3}"));
	assert_int_equal(seen("a")->settings.policy[0], SERVICE_WEIGHTED);
	assert_int_equal(seen("a")->settings.policy[1], SERVICE_RESPONSE_TIME);
	assert_int_equal(seen("a")->settings.share, 10);
	assert_int_equal(seen("a")->settings.silent_us, 300000);
	assert_int_equal(seen("a")->settings.slow_start_us, 5000);
	assert_int_equal(seen("a")->state->timeout_us, 700000);
	assert_int_equal(seen("a")->state->eject, 3);

	before = seen("a");
	assert_false(set("{\"name\":\"a\",\"policy\":\"best\"}"));
	assert_false(set("{\"name\":\"a\",\"policy\":7}"));
	assert_false(set("{\"name\":\"a\",\"share\":101}"));
	assert_false(set("{\"name\":\"a\",\"share\":-1}"));
	assert_false(set("{\"name\":\"a\",\"share\":1.5}"));
	assert_false(set("{\"name\":\"a\",\"silent\":49}"));
	assert_false(set("{\"name\":\"a\",\"timeout\":600001}"));
	assert_false(set("{\"name\":\"a\",\"eject\":0}"));
	assert_false(set("{\"name\":7}"));
	assert_false(set("{}"));
	assert_ptr_equal(seen("a"), before);
	// with the next configuration that is over
	services_configure(services, &config);
	assert_int_equal(seen("a")->settings.policy[0], SERVICE_LEAST_OUTSTANDING);
	assert_int_equal(seen("a")->settings.silent_us, SILENT_MS * 1000);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(registering),     TEST(refusals),     TEST(someone_elses_name),
		TEST(limits),          TEST(session_ends), TEST(silent_instance),
		TEST(silent_unasked),  TEST(many_end),     TEST(regions),
		TEST(all_regions),     TEST(operator),     TEST(name_is_given_away),
		TEST(another_cluster),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
