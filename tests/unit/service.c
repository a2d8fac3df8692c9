#include "test.h"

#include <stdlib.h>

#include "fixture.h"
#include "service.h"
#include "toy.h"

enum {
	MS = 1000,
	S = 1000 * MS,
	FIRST = 10, // slot of the first instance
	PLENTY = 1 << 20,
	REQUESTS = 4096,
};

/* A service of up to 20 instances, without and with workers. */
static struct stage {
	struct fixture *f;
	struct service_requests *requests;
	struct service_state *state;
	struct service *service;
	struct service_instance *instances[20];
	struct peer *peers[20];
	struct peer *asks;
	uint32_t tag;
	uint64_t random;
} s;

static const struct wire_id service_id = {{'s', 'e', 'r', 'v', 'i', 'c', 'e'}};

static uint64_t now_us(void)
{
	return s.f->now_ms * MS + s.f->us;
}

static int set_up(void **state)
{
	static const uint8_t secret[16] = "a secret of 16 b";

	memset(&s, 0, sizeof(s));
	s.f = fixture_new(&toy_aead);
	s.f->now_ms = 1000000;
	s.requests = service_requests_new(NODE_ANY, REQUESTS, secret);
	s.requests->peer_max = PLENTY;
	s.random = 1;
	s.asks = peer_new(s.f, 1);
	for (int i = 0; i < FIXTURE_WORKERS; i++)
		s.f->workers[i].forward.requests = s.requests;
	return 0;
}

static int tear_down(void **state)
{
	for (unsigned int i = 0; s.service && i < s.service->count; i++)
		free(s.instances[i]);
	free(s.service);
	free(s.state);
	service_requests_free(s.requests);
	fixture_free(s.f);
	return 0;
}

/* A service of `count` instances of weight 1, that are not new any more. */
static void make(unsigned int count, enum service_policy policy)
{
	const size_t turns = FIXTURE_WORKERS * sizeof(struct service_turn);
	uint32_t slot = FIXTURE_SLOTS;

	s.state = aligned_alloc(64, sizeof(*s.state) + turns);
	memset(s.state, 0, sizeof(*s.state) + turns);
	s.state->id = service_id;
	s.state->eject = 5;
	s.state->timeout_us = 5 * S;
	s.service = calloc(1, sizeof(*s.service) + count * sizeof(s.service->members[0]));
	s.service->group.kind = GROUP_SERVICE;
	s.service->state = s.state;
	s.service->count = count;
	s.service->settings = (struct service_settings){
		.policy = {policy, policy},
		.slow_start_us = 10 * S,
		.silent_us = 800 * MS,
	};
	for (unsigned int i = 0; i < count; i++) {
		struct service_instance *instance = aligned_alloc(64, sizeof(*instance) + turns);

		memset(instance, 0, sizeof(*instance) + turns);
		s.peers[i] = peer_new(s.f, FIRST + i);
		instance->service = s.state;
		instance->slot = FIRST + i;
		s.instances[i] = instance;
		s.service->members[i] = (struct service_member){
			.instance = instance,
			.slot = &s.f->sessions->slot[FIRST + i],
			.hash = i * UINT64_C(0x123456789abcdef),
			.weight = 1,
		};
	}
	s.f->sessions->slot[slot].group = &s.service->group;
	assert_int_equal(route_set(&s.f->routes, &service_id, slot), 0);
}

/* Which instance would get the next request; -1: none. */
static int choose(const uint8_t *key)
{
	struct service_choice choice = {
		.service = s.service,
		.from = s.asks->session,
		.now_us = now_us(),
		.random = &s.random,
		.key = key,
	};
	const struct session *to;
	const struct service_member *member = service_choose(&choice, &to);

	if (!member)
		return -1;
	assert_ptr_equal(to, member->slot->current);
	return (int)(member - s.service->members);
}

/* A request of this tag under way to the next one chosen; which one. */
static int ask(uint32_t tag)
{
	int at = choose(NULL);

	if (at < 0)
		abort();
	assert_non_null(service_enter(s.requests, s.asks->session, tag, WIRE_NORMAL,
				      s.instances[at], s.service->settings.policy[0], now_us()));
	return at;
}

static bool answer(int at, uint32_t tag, bool failed)
{
	return service_answered(s.requests, s.peers[at]->session, s.asks->session, tag, &service_id,
				failed, now_us());
}

/* So many requests, each answered after what its instance takes. */
static void run(unsigned int count, const unsigned int *takes_us, unsigned int shares[])
{
	for (unsigned int i = 0; i < count; i++) {
		int at = ask(++s.tag);

		shares[at]++;
		s.f->us += takes_us[at];
		assert_true(answer(at, s.tag, false));
	}
}

/* Policies */

static void test_round_robin(void **state)
{
	make(3, SERVICE_ROUND_ROBIN);
	for (int i = 0; i < 9; i++)
		assert_int_equal(choose(NULL), i % 3);
	// who is gone is passed over
	s.f->sessions->slot[FIRST + 1].current = NULL;
	for (int i = 0; i < 6; i++)
		assert_int_equal(choose(NULL), i % 2 ? 2 : 0);
}

/* The sequence that Nginx's description of it gives for weights of 5, 1 and 1. */
static void test_weighted_is_smooth(void **state)
{
	static const int expected[] = {0, 0, 1, 0, 2, 0, 0};

	make(3, SERVICE_WEIGHTED);
	s.service->members[0].weight = 5;
	for (int round = 0; round < 3; round++)
		for (int i = 0; i < 7; i++)
			assert_int_equal(choose(NULL), expected[i]);
}

static void test_weighted_shares(void **state)
{
	static const uint16_t weights[] = {1, 2, 3, 10, 100};
	unsigned int shares[5] = {0}, total = 116;

	make(5, SERVICE_WEIGHTED);
	for (int i = 0; i < 5; i++)
		s.service->members[i].weight = weights[i];
	for (unsigned int i = 0; i < 100 * total; i++)
		shares[choose(NULL)]++;
	for (int i = 0; i < 5; i++)
		assert_int_equal(shares[i], 100 * weights[i]);
}

static void test_least_outstanding(void **state)
{
	unsigned int shares[3] = {0};

	make(3, SERVICE_LEAST_OUTSTANDING);
	s.instances[0]->outstanding = 2;
	s.instances[1]->outstanding = 1;
	s.instances[2]->outstanding = 2;
	s.instances[0]->waiting_us = s.instances[1]->waiting_us = s.instances[2]->waiting_us =
		now_us();
	for (int i = 0; i < 10; i++)
		assert_int_equal(choose(NULL), 1);
	// half as much for its weight
	s.service->members[2].weight = 4;
	for (int i = 0; i < 10; i++)
		assert_int_equal(choose(NULL), 2);
	// equals share
	s.service->members[2].weight = 1;
	s.instances[1]->outstanding = 2;
	for (int i = 0; i < 300; i++)
		shares[choose(NULL)]++;
	for (int i = 0; i < 3; i++)
		assert_in_range(shares[i], 70, 130);
}

static void test_response_time_avoids_the_slow(void **state)
{
	unsigned int takes[20], shares[20] = {0}, round_robin[20] = {0};

	make(20, SERVICE_RESPONSE_TIME);
	for (int i = 0; i < 20; i++)
		takes[i] = 1 * MS;
	takes[7] = 50 * MS;
	run(2000, takes, shares);
	// it is tried once and then, and that is all
	assert_in_range(shares[7], 1, 4);
	for (int i = 0; i < 20; i++)
		if (i != 7)
			assert_in_range(shares[i], 50, 200);

	// one turns slow in mid-run: one response says so
	memset(shares, 0, sizeof(shares));
	takes[3] = 20 * MS;
	run(1000, takes, shares);
	// (and one in 190 pairs is that of both)
	assert_in_range(shares[3], 1, 20);

	// and when it is fast again, it is found out
	memset(shares, 0, sizeof(shares));
	takes[3] = takes[7] = 1 * MS;
	s.f->now_ms += 60 * 1000;
	run(20000, takes, shares);
	assert_in_range(shares[3], 500, 2000);
	assert_in_range(shares[7], 500, 2000);

	s.service->settings.policy[0] = SERVICE_ROUND_ROBIN;
	run(2000, takes, round_robin);
	for (int i = 0; i < 20; i++)
		assert_int_equal(round_robin[i], 100);
}

/* Who owes an answer for long looks slow before it has given it. */
static void test_response_time_sees_silence(void **state)
{
	unsigned int takes[] = {1 * MS, 1 * MS, 1 * MS}, shares[3] = {0};
	int at;

	make(3, SERVICE_RESPONSE_TIME);
	run(30, takes, shares);
	at = ask(++s.tag);
	s.f->us += 100 * MS;
	for (int i = 0; i < 100; i++)
		assert_int_not_equal(choose(NULL), at);
}

static void set_round_trip(unsigned int at, uint32_t us)
{
	s.peers[at]->state->round_trip_us = us;
}

static void test_proximity(void **state)
{
	unsigned int shares[4] = {0};

	make(4, SERVICE_PROXIMITY);
	set_round_trip(0, 10 * MS);
	set_round_trip(1, 2 * MS);
	set_round_trip(2, 2200);
	set_round_trip(3, 1 * MS);
	// without regions, the nearest
	for (int i = 0; i < 10; i++)
		assert_int_equal(choose(NULL), 3);
	// in the region of who asks, however far
	s.service->members[0].region = s.service->members[1].region = s.service->members[2].region =
		1;
	s.service->members[3].region = 2;
	peer_republish(s.f, s.asks)->region = 1;
	// those that are equally near share
	s.instances[1]->outstanding = 1;
	s.instances[1]->waiting_us = now_us();
	assert_int_equal(choose(NULL), 2);
	s.instances[1]->outstanding = 0;
	s.instances[2]->outstanding = 1;
	s.instances[2]->waiting_us = now_us();
	assert_int_equal(choose(NULL), 1);
	// none there: those of elsewhere
	for (int i = 0; i < 3; i++)
		s.f->sessions->slot[FIRST + i].current = NULL;
	assert_int_equal(choose(NULL), 3);
	// those that have not been measured come last
	for (int i = 0; i < 3; i++)
		s.f->sessions->slot[FIRST + i].current = s.peers[i]->session;
	set_round_trip(1, 0);
	s.instances[2]->outstanding = 0;
	for (int i = 0; i < 10; i++)
		shares[choose(NULL)]++;
	assert_int_equal(shares[2], 10);
}

static void test_two_policies(void **state)
{
	unsigned int takes[] = {1 * MS, 1 * MS};
	const struct service_stats *one, *other;

	make(2, SERVICE_ROUND_ROBIN);
	s.service->settings.policy[1] = SERVICE_LEAST_OUTSTANDING;
	s.service->settings.share = 25;
	for (int i = 0; i < 2000; i++) {
		const struct session *to;
		struct service_choice choice = {
			.service = s.service,
			.from = s.asks->session,
			.now_us = now_us(),
			.random = &s.random,
		};
		const struct service_member *member = service_choose(&choice, &to);

		assert_non_null(service_enter(s.requests, s.asks->session, 1, WIRE_NORMAL,
					      member->instance, choice.by, now_us()));
		s.f->us += takes[0];
		assert_true(answer((int)(member - s.service->members), 1, false));
	}
	one = &s.state->stats[SERVICE_ROUND_ROBIN];
	other = &s.state->stats[SERVICE_LEAST_OUTSTANDING];
	assert_int_equal(one->counts.requests + other->counts.requests, 2000);
	assert_int_equal(one->counts.requests, one->counts.answered);
	assert_in_range(other->counts.requests, 450, 550);
	assert_int_equal(one->histogram[service_histogram_at(1 * MS)], one->counts.answered);
}

/* A newcomer's share grows with its age, whatever chooses. */
static void test_slow_start(void **state)
{
	for (enum service_policy policy = 0; policy < SERVICE_PROXIMITY; policy++) {
		unsigned int shares[3] = {0};

		set_up(NULL);
		make(2, policy);
		s.instances[0]->average_ns = s.instances[1]->average_ns = 1000 * MS;
		s.instances[0]->averaged_us = s.instances[1]->averaged_us = now_us();
		s.instances[1]->ready_us = now_us() - 1 * S;
		// each has enough to do for that to count
		for (int i = 0; i < 1000; i++) {
			int at = ask(++s.tag);

			shares[at]++;
		}
		assert_in_range(shares[1], 30, 170);
		tear_down(NULL);
	}
	set_up(NULL); // for the runner's
}

/* Ejection and return */

static void fail_times(int at, unsigned int times)
{
	for (unsigned int i = 0; i < times; i++) {
		assert_non_null(service_enter(s.requests, s.asks->session, ++s.tag, WIRE_NORMAL,
					      s.instances[at], 0, now_us()));
		assert_true(answer(at, s.tag, true));
	}
}

static void test_ejection(void **state)
{
	make(2, SERVICE_ROUND_ROBIN);
	s.service->settings.slow_start_us = 1; // not what this is about
	fail_times(0, 4);
	assert_int_equal(choose(NULL), 0);
	assert_int_equal(choose(NULL), 1);
	// an answer between makes it begin anew
	assert_int_equal(ask(++s.tag), 0);
	assert_true(answer(0, s.tag, false));
	fail_times(0, 4);
	choose(NULL);
	assert_int_equal(choose(NULL), 0);
	fail_times(0, 1);
	for (int i = 0; i < 4; i++)
		assert_int_equal(choose(NULL), 1);
	// back after a second, with one request
	s.f->now_ms += 1001;
	assert_int_equal(ask(1), 0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(choose(NULL), 1);
	// which fails: twice as long
	assert_true(answer(0, 1, true));
	s.f->now_ms += 1001;
	for (int i = 0; i < 4; i++)
		assert_int_equal(choose(NULL), 1);
	s.f->now_ms += 1001;
	assert_int_equal(ask(2), 0);
	assert_true(answer(0, 2, false));
	// it is as before
	assert_int_equal(choose(NULL), 1);
	assert_int_equal(ask(3), 0);
	assert_int_equal(choose(NULL), 1);
	assert_int_equal(choose(NULL), 0);
	assert_true(answer(0, 3, false));
	// where there is no other, one that fails is better than none
	s.f->sessions->slot[FIRST + 1].current = NULL;
	fail_times(0, 5);
	assert_int_equal(choose(NULL), 0);
}

static void test_silence(void **state)
{
	make(2, SERVICE_ROUND_ROBIN);
	assert_int_equal(ask(1), 0);
	s.f->now_ms += 799;
	assert_int_equal(choose(NULL), 1);
	assert_int_equal(choose(NULL), 0);
	s.f->now_ms += 1;
	for (int i = 0; i < 4; i++)
		assert_int_equal(choose(NULL), 1);
	// it was only slow
	assert_true(answer(0, 1, false));
	assert_int_equal(choose(NULL), 0);
	// not even a ping comes back
	s.instances[0]->dead = true;
	for (int i = 0; i < 4; i++)
		assert_int_equal(choose(NULL), 1);
	s.instances[1]->dead = true;
	assert_int_equal(choose(NULL), -1);
}

static void test_clusters(void **state)
{
	struct policy *policy = calloc(1, sizeof(*policy));
	struct service_choice choice = {.policy = policy, .random = &s.random};
	const struct session *to;

	make(2, SERVICE_ROUND_ROBIN);
	choice.service = s.service;
	choice.now_us = now_us();
	choice.from = s.asks->session;
	peer_republish(s.f, s.peers[1])->cluster = 3;
	assert_null(service_choose(&choice, &to));
	policy->allowed[0][0] = 1 << 3;
	for (int i = 0; i < 3; i++)
		assert_ptr_equal(service_choose(&choice, &to), &s.service->members[1]);
	free(policy);
}

/* Keys */

static void test_sticky(void **state)
{
	int before[100], moved = 0;
	unsigned int shares[5] = {0};
	uint64_t key;

	make(5, SERVICE_ROUND_ROBIN);
	for (key = 0; key < 100; key++) {
		before[key] = choose((uint8_t *)&key);
		shares[before[key]]++;
		for (int i = 0; i < 3; i++)
			assert_int_equal(choose((uint8_t *)&key), before[key]);
	}
	for (int i = 0; i < 5; i++)
		assert_in_range(shares[i], 8, 35);
	// when one goes, only its keys move
	s.f->sessions->slot[FIRST + 2].current = NULL;
	for (key = 0; key < 100; key++) {
		int at = choose((uint8_t *)&key);

		assert_int_not_equal(at, 2);
		moved += at != before[key];
	}
	assert_int_equal(moved, shares[2]);
}

/* A key that everybody uses can't overload who has it. */
static void test_sticky_is_bounded(void **state)
{
	const uint64_t key = 42;
	unsigned int shares[5] = {0};

	make(5, SERVICE_ROUND_ROBIN);
	for (int i = 0; i < 500; i++) {
		int at = choose((const uint8_t *)&key);

		assert_non_null(service_enter(s.requests, s.asks->session, ++s.tag, WIRE_NORMAL,
					      s.instances[at], 0, now_us()));
		shares[at]++;
	}
	for (int i = 0; i < 5; i++)
		assert_true(shares[i] <= 500 / 5 * 5 / 4 + 1);
}

/* Requests under way */

static void ignore(void *arg, const struct service_overdue *overdue)
{
	struct service_overdue *last = arg;

	*last = *overdue;
}

static struct service_overdue sweep(void)
{
	struct service_overdue last = {.reason = WIRE_REASON_NONE};

	service_sweep(s.requests, s.f->sessions, 0, s.requests->mask + 1, now_us(), ignore, &last);
	return last;
}

static void test_who_was_asked(void **state)
{
	static const struct wire_id other = {{'o'}};
	struct peer *stranger;

	make(2, SERVICE_ROUND_ROBIN);
	stranger = peer_new(s.f, 5);
	assert_int_equal(ask(1), 0);
	assert_int_equal(s.instances[0]->outstanding, 1);
	assert_int_equal(s.asks->state->requests, 1);
	// another tag, another instance, no instance, another service, to another peer
	assert_false(answer(0, 2, false));
	assert_false(answer(1, 1, false));
	assert_false(service_answered(s.requests, stranger->session, s.asks->session, 1,
				      &service_id, false, now_us()));
	assert_false(service_answered(s.requests, s.peers[0]->session, s.asks->session, 1, &other,
				      false, now_us()));
	assert_false(service_answered(s.requests, s.peers[0]->session, stranger->session, 1,
				      &service_id, false, now_us()));
	assert_int_equal(s.instances[0]->outstanding, 1);
	// once
	assert_true(answer(0, 1, false));
	assert_false(answer(0, 1, false));
	assert_int_equal(s.instances[0]->outstanding, 0);
	assert_int_equal(s.asks->state->requests, 0);
}

static void test_limits(void **state)
{
	unsigned int n = 0;

	make(1, SERVICE_ROUND_ROBIN);
	s.requests->peer_max = 3;
	for (uint32_t tag = 1; tag <= 3; tag++)
		ask(tag);
	assert_null(service_enter(s.requests, s.asks->session, 4, WIRE_NORMAL, s.instances[0], 0,
				  now_us()));
	assert_int_equal(s.asks->state->requests, 3);
	assert_int_equal(s.instances[0]->outstanding, 3);
	assert_true(answer(0, 2, false));
	ask(4);
	// and of all together: nearly as many as there is room for
	s.requests->peer_max = PLENTY;
	while (service_enter(s.requests, s.asks->session, 100 + n, WIRE_NORMAL, s.instances[0], 0,
			     now_us()))
		n++;
	assert_in_range(n, REQUESTS * 3 / 4, REQUESTS);
	assert_int_equal(s.instances[0]->outstanding, n + 3);
	for (unsigned int i = 0; i < n; i++)
		assert_true(answer(0, 100 + i, false));
}

static void test_timeouts(void **state)
{
	struct service_overdue overdue;

	make(2, SERVICE_ROUND_ROBIN);
	ask(1);
	s.f->now_ms += 5000;
	assert_int_equal(sweep().reason, WIRE_REASON_NONE);
	s.f->now_ms += 1;
	overdue = sweep();
	assert_int_equal(overdue.reason, WIRE_REASON_TIMEOUT);
	assert_ptr_equal(overdue.instance, s.instances[0]);
	assert_int_equal(overdue.requester, s.asks->index);
	assert_int_equal(overdue.tag, 1);
	assert_int_equal(overdue.class, WIRE_NORMAL);
	assert_int_equal(s.instances[0]->failures, 1);
	assert_int_equal(s.instances[0]->outstanding, 0);
	assert_int_equal(s.asks->state->requests, 0);
	assert_false(answer(0, 1, false));
	assert_int_equal(sweep().reason, WIRE_REASON_NONE);
}

static void test_gone(void **state)
{
	struct service_overdue overdue;

	make(2, SERVICE_ROUND_ROBIN);
	ask(1);
	ask(2);
	s.instances[1]->cut_us = UINT64_MAX;
	overdue = sweep();
	assert_int_equal(overdue.reason, WIRE_REASON_INSTANCE_GONE);
	assert_int_equal(overdue.tag, 2);
	assert_int_equal(s.instances[0]->outstanding, 1);
	assert_int_equal(s.instances[1]->outstanding, 0);
	assert_true(answer(0, 1, false));
	// nobody is told when it is the requester that is gone, and no instance is blamed
	s.instances[1]->cut_us = 0;
	ask(3);
	s.f->sessions->slot[1].current = NULL;
	s.f->now_ms += 60000;
	assert_int_equal(sweep().reason, WIRE_REASON_NONE);
	assert_int_equal(s.instances[0]->outstanding, 0);
	assert_int_equal(s.instances[0]->failures, 0);
}

static void test_histogram(void **state)
{
	for (uint64_t us = 0; us < 100 * S; us += 1 + us / 100) {
		unsigned int at = service_histogram_at(us);

		assert_true(us <= service_histogram_us(at));
		assert_true(!at || us > service_histogram_us(at - 1));
	}
	assert_int_equal(service_histogram_at(UINT64_MAX), SERVICE_HISTOGRAM - 1);
}

/* Through a worker */

static struct said request(uint32_t tag, uint16_t length)
{
	struct said said = say(&service_id, tag, length);

	said.kind = WIRE_REQUEST;
	return said;
}

/* The response of an instance, with any via. */
static void respond(struct peer *from, const struct wire_id *to, uint32_t tag,
		    const struct wire_id *via, uint8_t flags)
{
	static uint64_t sequence;
	struct wire_record header = {
		.class = WIRE_NORMAL, .index = from->index, .lane = 1, .sequence = sequence};
	uint8_t text[WIRE_MESSAGE_HEADER + WIRE_VIA_SIZE + 3];

	sequence++;

	wire_message_put(text, 3, WIRE_RESPONSE, WIRE_HOP_LIMIT, WIRE_FLAG_VIA | flags, tag, to);
	memcpy(text + WIRE_MESSAGE_HEADER, via, WIRE_VIA_SIZE);
	memcpy(text + WIRE_MESSAGE_HEADER + WIRE_VIA_SIZE, "yes", 3);
	peer_seals(s.f, from, &header, text, sizeof(text));
}

static const struct counters *counters(unsigned int worker)
{
	return &s.f->workers[worker].forward.counters;
}

static void burst(unsigned int worker)
{
	fixture_clear(s.f);
	fixture_burst(s.f, worker);
}

static void expect_error(uint32_t tag, enum wire_reason reason)
{
	assert_int_equal(s.f->heard_count, 1);
	assert_ptr_equal(s.f->heard[0].peer, s.asks);
	assert_int_equal(s.f->heard[0].kind, WIRE_ERROR | reason);
	assert_int_equal(s.f->heard[0].tag, tag);
}

static void test_there_and_back(void **state)
{
	const struct said said[] = {request(7, 100), request(8, 0)};

	make(2, SERVICE_ROUND_ROBIN);
	peer_says(s.f, s.asks, 0, WIRE_CRITICAL, said, 2);
	burst(0);
	assert_int_equal(s.f->heard_count, 2);
	for (int i = 0; i < 2; i++) {
		const struct heard *heard = &s.f->heard[i];

		assert_ptr_equal(heard->peer, s.peers[i]);
		assert_int_equal(heard->kind, WIRE_REQUEST);
		assert_int_equal(heard->class, WIRE_CRITICAL);
		assert_int_equal(heard->flags, WIRE_FLAG_VIA);
		assert_int_equal(heard->tag, 7 + i);
		assert_int_equal(heard->hop_limit, WIRE_HOP_LIMIT - 1);
		assert_true(wire_id_equal(&heard->address, &s.asks->id));
		assert_int_equal(heard->length, said[i].length);
		assert_memory_equal(heard->payload, &service_id, WIRE_VIA_SIZE);
		assert_true(payload_right(7 + i, heard->payload + WIRE_VIA_SIZE, said[i].length));
	}
	// the other worker has the instance's lane
	s.f->us += 1500;
	respond(s.peers[0], &s.asks->id, 7, &service_id, WIRE_FLAG_FAILED);
	burst(1);
	assert_int_equal(s.f->heard_count, 1);
	assert_ptr_equal(s.f->heard[0].peer, s.asks);
	assert_int_equal(s.f->heard[0].kind, WIRE_RESPONSE);
	assert_int_equal(s.f->heard[0].flags, WIRE_FLAG_VIA | WIRE_FLAG_FAILED);
	assert_true(wire_id_equal(&s.f->heard[0].address, &s.peers[0]->id));
	assert_memory_equal(s.f->heard[0].payload, &service_id, WIRE_VIA_SIZE);
	assert_memory_equal(s.f->heard[0].payload + WIRE_VIA_SIZE, "yes", 3);
	assert_int_equal(s.instances[0]->average_ns, 1500 * 1000 + 1);
	assert_int_equal(s.instances[0]->counts.failed, 1);
}

/* Nobody asked: forged, twice, by others; what goes from peer to peer is not touched. */
static void test_unasked(void **state)
{
	const struct said said = request(7, 10);
	struct said direct = say(&s.asks->id, 7, 4);

	make(2, SERVICE_ROUND_ROBIN);
	peer_says(s.f, s.asks, 0, WIRE_NORMAL, &said, 1);
	burst(0);
	respond(s.peers[1], &s.asks->id, 7, &service_id, 0);
	respond(s.peers[0], &s.peers[1]->id, 7, &service_id, 0);
	respond(s.peers[0], &s.asks->id, 8, &service_id, 0);
	respond(s.peers[0], &s.asks->id, 7, &s.peers[0]->id, 0);
	burst(0);
	assert_int_equal(s.f->heard_count, 0);
	assert_int_equal(counters(0)->messages_dropped[DROP_MESSAGE_UNASKED], 4);
	respond(s.peers[0], &s.asks->id, 7, &service_id, 0);
	respond(s.peers[0], &s.asks->id, 7, &service_id, 0);
	burst(0);
	assert_int_equal(s.f->heard_count, 1);
	assert_int_equal(counters(0)->messages_dropped[DROP_MESSAGE_UNASKED], 5);
	direct.kind = WIRE_RESPONSE;
	peer_says(s.f, s.peers[1], 0, WIRE_NORMAL, &direct, 1);
	burst(0);
	assert_int_equal(s.f->heard_count, 1);
	assert_int_equal(s.f->heard[0].flags, 0);
}

static void test_refusals(void **state)
{
	struct said said = request(7, 10);

	make(1, SERVICE_ROUND_ROBIN);
	said.hop_limit = 0;
	peer_says(s.f, s.asks, 0, WIRE_NORMAL, &said, 1);
	burst(0);
	expect_error(7, WIRE_REASON_HOP_LIMIT);
	said.hop_limit = WIRE_HOP_LIMIT;
	said.kind = WIRE_PUBLISH;
	peer_says(s.f, s.asks, 0, WIRE_NORMAL, &said, 1);
	burst(0);
	expect_error(7, WIRE_REASON_UNSUPPORTED);
	said.kind = WIRE_REQUEST;
	// it could be sent, but not with its via
	said.length = s.asks->session->record_max - WIRE_RECORD_OVERHEAD - WIRE_MESSAGE_HEADER;
	peer_says(s.f, s.asks, 0, WIRE_NORMAL, &said, 1);
	burst(0);
	expect_error(7, WIRE_REASON_TOO_LARGE);
	said.length = 10;
	s.requests->peer_max = 0;
	peer_says(s.f, s.asks, 0, WIRE_NORMAL, &said, 1);
	burst(0);
	expect_error(7, WIRE_REASON_BUSY);
	s.requests->peer_max = PLENTY;
	// each one is told, however many there are
	s.f->sessions->slot[FIRST].current = NULL;
	for (int i = 0; i < 2 * FORWARD_ERRORS_BURST; i++) {
		peer_says(s.f, s.asks, 0, WIRE_NORMAL, &said, 1);
		burst(0);
		expect_error(7, WIRE_REASON_NO_INSTANCE);
	}
	assert_int_equal(s.instances[0]->outstanding, 0);
}

/* What the port didn't take is not under way. */
static void test_port_refuses(void **state)
{
	const struct said said = request(7, 10);

	make(1, SERVICE_ROUND_ROBIN);
	peer_says(s.f, s.asks, 0, WIRE_NORMAL, &said, 1);
	s.f->workers[0].port = 0;
	burst(0);
	expect_error(7, WIRE_REASON_TX_FULL);
	assert_int_equal(s.instances[0]->outstanding, 0);
	assert_int_equal(s.instances[0]->counts.requests, 0);
	assert_int_equal(s.asks->state->requests, 0);
	assert_int_equal(sweep().reason, WIRE_REASON_NONE);
	respond(s.peers[0], &s.asks->id, 7, &service_id, 0);
	burst(0);
	assert_int_equal(s.f->heard_count, 0);
}

/* A send goes to one of them, and is waited for by nobody. */
static void test_send(void **state)
{
	const struct said said = say(&service_id, 7, 10);

	make(2, SERVICE_ROUND_ROBIN);
	peer_says(s.f, s.asks, 0, WIRE_NORMAL, &said, 1);
	burst(0);
	assert_int_equal(s.f->heard_count, 1);
	assert_int_equal(s.f->heard[0].kind, WIRE_SEND);
	assert_int_equal(s.f->heard[0].flags, WIRE_FLAG_VIA);
	assert_int_equal(s.instances[0]->outstanding + s.instances[1]->outstanding, 0);
}

static void test_keys_are_taken_off(void **state)
{
	struct said said = request(0, 30);
	struct peer *last = NULL;

	make(5, SERVICE_ROUND_ROBIN);
	said.flags = WIRE_FLAG_KEY;
	for (int i = 0; i < SERVICE_STICKY_FLOOR; i++) {
		peer_says(s.f, s.asks, 0, WIRE_NORMAL, &said, 1);
		burst(0);
		assert_int_equal(s.f->heard_count, 1);
		assert_true(!last || s.f->heard[0].peer == last);
		last = s.f->heard[0].peer;
		assert_int_equal(s.f->heard[0].flags, WIRE_FLAG_VIA);
		assert_int_equal(s.f->heard[0].length, 30 - WIRE_SERVICE_KEY);
		for (uint16_t j = WIRE_SERVICE_KEY; j < 30; j++)
			assert_int_equal(
				s.f->heard[0].payload[WIRE_VIA_SIZE + j - WIRE_SERVICE_KEY],
				payload_byte(0, j));
	}
	// a peer has no use for a key, and nobody none
	said.to = &last->id;
	said.tag = 9;
	peer_says(s.f, s.asks, 0, WIRE_NORMAL, &said, 1);
	burst(0);
	expect_error(9, WIRE_REASON_UNSUPPORTED);
	said.to = &s.f->relay;
	peer_says(s.f, s.asks, 0, WIRE_NORMAL, &said, 1);
	burst(0);
	expect_error(9, WIRE_REASON_UNSUPPORTED);
	// less than a key is no key
	said.length = WIRE_SERVICE_KEY - 1;
	peer_says(s.f, s.asks, 0, WIRE_NORMAL, &said, 1);
	burst(0);
	assert_int_equal(counters(0)->records_dropped[DROP_RECORD_MALFORMED], 1);
}

static void test_round_trips(void **state)
{
	struct forward_command ping = {
		.kind = WIRE_PING, .class = WIRE_CONTROL, .tag = 5, .payload_length = 0};
	uint8_t text[WIRE_MESSAGE_HEADER + 8];
	struct wire_record header = {.class = WIRE_CONTROL};

	make(1, SERVICE_PROXIMITY);
	ping.index = header.index = s.peers[0]->index;
	fixture_commands(s.f, 0, &ping, 1);
	assert_int_equal(s.f->heard_count, 1);
	assert_int_equal(s.f->heard[0].kind, WIRE_PING);
	assert_int_equal(s.f->heard[0].length, 8);
	wire_message_put(text, 8, WIRE_PONG, WIRE_HOP_LIMIT, 0, 5, &s.f->relay);
	memcpy(text + WIRE_MESSAGE_HEADER, s.f->heard[0].payload, 8);
	s.f->us += 777;
	peer_seals(s.f, s.peers[0], &header, text, sizeof(text));
	burst(1);
	assert_int_equal(s.peers[0]->state->round_trip_us, 777);
	// who lies by hours is not believed
	header.sequence++;
	memset(text + WIRE_MESSAGE_HEADER, 0, 8);
	peer_seals(s.f, s.peers[0], &header, text, sizeof(text));
	burst(1);
	assert_int_equal(s.peers[0]->state->round_trip_us, 777);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_round_robin),
		CASE(test_weighted_is_smooth),
		CASE(test_weighted_shares),
		CASE(test_least_outstanding),
		CASE(test_response_time_avoids_the_slow),
		CASE(test_response_time_sees_silence),
		CASE(test_proximity),
		CASE(test_two_policies),
		cmocka_unit_test_teardown(test_slow_start, tear_down),
		CASE(test_ejection),
		CASE(test_silence),
		CASE(test_clusters),
		CASE(test_sticky),
		CASE(test_sticky_is_bounded),
		CASE(test_who_was_asked),
		CASE(test_limits),
		CASE(test_timeouts),
		CASE(test_gone),
		cmocka_unit_test(test_histogram),
		CASE(test_there_and_back),
		CASE(test_unasked),
		CASE(test_refusals),
		CASE(test_port_refuses),
		CASE(test_send),
		CASE(test_keys_are_taken_off),
		CASE(test_round_trips),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
