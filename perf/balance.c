/*
 * How each policy of a service spreads requests: 20 instances of different speeds, of which one
 * turns slow and one is killed in mid-run. Real messages through a real relay; the instances are
 * simulated: each responds after a time of its own. Starts the relay itself; build/perf/balance
 * makes the network for it.
 */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "histogram.h"
#include "measure.h"
#include "options.h"
#include "relay.h"
#include "viaduct.h"

enum {
	INSTANCES = 20,
	CLIENTS = 4,
	SLOW = 7, // which one turns slow, and
	DEAD = 13,
	POLICIES = 5,
	PENDING = 65536,
	JOIN_S = 10,
	TIMEOUT_MS = 20000, // above the relay's own, so that what it forgets is seen
	STEP_MS = 100,
	WINDOW = 10, // steps over which a share is judged
	STEPS = 36000,
};

#define MS UINT64_C(1000000)

static const char *const policies[POLICIES] = {"round_robin", "weighted", "least_outstanding",
					       "response_time", "proximity"};

/* A response that is due. */
struct pending {
	uint64_t at;
	struct viaduct_message request;
	unsigned int instance;
};

/* A request that is under way. */
struct asked {
	struct run *run;
	uint64_t sent;
};

struct instance {
	struct run *run;
	unsigned int number;
	struct viaduct_peer *peer;
	uint64_t takes;    // ns
	uint64_t requests; // before anything happens
};

struct run {
	const char *policy;
	struct relay *relay;
	double seconds;
	unsigned int rate;
	struct viaduct *viaduct;
	struct instance instances[INSTANCES];
	struct viaduct_peer *clients[CLIENTS];
	struct viaduct_id service;
	unsigned int ready;
	struct pending *pending;
	unsigned int pending_count;
	uint64_t begin, slow, dead; // when
	bool killed;
	uint64_t requests, answered, refused, lost, open;
	uint64_t last_gone;                       // sent then, and ended by instance_gone
	struct histogram times;                   // while one is slow
	uint32_t steps[STEPS], slow_steps[STEPS]; // requests since one is slow, and those it got
};

/* Instances take 1, 2 and 3 ms, by turns; what they can is what they say. */
static unsigned int weight_of(unsigned int instance)
{
	static const unsigned int weights[] = {6, 3, 2};

	return weights[instance % 3];
}

static void on_registered(struct viaduct_peer *peer, void *user, int error, const char *answer,
			  size_t length)
{
	struct run *run = user;

	if (error || !strstr(answer, "\"ok\":true"))
		die("an instance can't register");
	run->ready++;
}

static void on_instance_joined(struct viaduct_peer *peer)
{
	struct instance *instance = viaduct_peer_user(peer);
	const struct viaduct_registration registration = {
		.name = instance->run->policy,
		.weight = weight_of(instance->number),
	};

	if (viaduct_register(peer, &registration, on_registered, instance->run))
		die("an instance can't register");
}

static void on_client_joined(struct viaduct_peer *peer)
{
	struct run *run = viaduct_peer_user(peer);

	run->ready++;
}

static void on_request(struct viaduct_peer *peer, const struct viaduct_message *message)
{
	struct instance *instance = viaduct_peer_user(peer);
	struct run *run = instance->run;
	uint64_t now = now_ns(), step;

	if (now < run->slow)
		instance->requests++;
	step = now >= run->slow ? (now - run->slow) / (STEP_MS * MS) : STEPS;
	if (step < STEPS) {
		run->steps[step]++;
		run->slow_steps[step] += instance->number == SLOW;
	}
	if (run->pending_count == PENDING)
		die("too many requests wait");
	run->pending[run->pending_count++] = (struct pending){
		.at = now + instance->takes, .request = *message, .instance = instance->number};
}

static void on_response(struct viaduct_peer *peer, void *user, int result,
			const struct viaduct_message *response)
{
	struct asked *asked = user;
	struct run *run = asked->run;

	run->open--;
	if (result == 0)
		run->answered++;
	else if (result > 0)
		run->refused++;
	else
		run->lost++;
	if (result == VIADUCT_INSTANCE_GONE && asked->sent > run->last_gone)
		run->last_gone = asked->sent;
	if (result == 0 && asked->sent >= run->slow && asked->sent < run->dead)
		histogram_add(&run->times, now_ns() - asked->sent);
	free(asked);
}

static const struct viaduct_callbacks instance_callbacks = {.joined = on_instance_joined,
							    .message = on_request};
static const struct viaduct_callbacks client_callbacks = {.joined = on_client_joined};

static void respond_due(struct run *run)
{
	uint64_t now = now_ns();

	for (unsigned int i = 0; i < run->pending_count;) {
		struct pending *pending = &run->pending[i];
		struct viaduct_peer *peer = run->instances[pending->instance].peer;

		if (pending->at > now) {
			i++;
			continue;
		}
		if (peer)
			viaduct_respond(peer, 0, &pending->request, "done", 4);
		*pending = run->pending[--run->pending_count];
	}
}

static void ask(struct run *run)
{
	struct asked *asked = malloc(sizeof(*asked));

	if (!asked)
		die("out of memory");
	*asked = (struct asked){.run = run, .sent = now_ns()};
	if (viaduct_request(run->clients[run->requests % CLIENTS], 0, VIADUCT_NORMAL, &run->service,
			    "please", 6, TIMEOUT_MS, on_response, asked))
		die("a request can't be sent");
	run->requests++;
	run->open++;
}

static void happen(struct run *run, uint64_t now)
{
	if (now >= run->slow)
		run->instances[SLOW].takes = 100 * MS;
	if (now >= run->dead && !run->killed) {
		viaduct_peer_close(run->instances[DEAD].peer, false);
		run->instances[DEAD].peer = NULL;
		run->killed = true;
	}
}

static void start(struct run *run)
{
	uint64_t deadline = now_ns() + JOIN_S * SECOND;

	run->viaduct = viaduct_new();
	viaduct_service_id(&run->service, run->policy);
	for (unsigned int i = 0; i < INSTANCES; i++) {
		struct instance *instance = &run->instances[i];

		*instance = (struct instance){.run = run, .number = i, .takes = (1 + i % 3) * MS};
		instance->peer = relay_peer_open(run->relay, run->viaduct, i + 1,
						 &instance_callbacks, instance);
	}
	for (unsigned int i = 0; i < CLIENTS; i++)
		run->clients[i] = relay_peer_open(run->relay, run->viaduct, INSTANCES + i + 1,
						  &client_callbacks, run);
	while (run->ready < INSTANCES + CLIENTS && now_ns() < deadline)
		viaduct_wait(run->viaduct, 10);
	if (run->ready < INSTANCES + CLIENTS)
		die("a peer can't join");
	pass_time(run->viaduct, 0.2);
}

/* Seconds until the slow one's share stays below half of what is fair; -1: it never does. */
static double slow_avoided(const struct run *run)
{
	unsigned int steps = (unsigned int)(run->seconds / 3 * 1000 / STEP_MS);

	for (unsigned int from = 0; from + WINDOW <= steps; from++) {
		uint64_t all = 0, slow = 0;

		for (unsigned int i = from; i < from + WINDOW; i++) {
			all += run->steps[i];
			slow += run->slow_steps[i];
		}
		if (slow * INSTANCES * 2 < all)
			return from * STEP_MS / 1000.0;
	}
	return -1;
}

static json_t *report(const struct run *run)
{
	double dead = run->last_gone > run->dead ? (double)(run->last_gone - run->dead) / 1e9 : 0;
	json_t *shares = json_array();
	uint64_t sum = 0;

	for (unsigned int i = 0; i < INSTANCES; i++)
		sum += run->instances[i].requests;
	for (unsigned int i = 0; i < INSTANCES; i++)
		json_array_append_new(shares,
				      json_real((double)run->instances[i].requests / (double)sum));
	return json_pack("{sf sf sI sI sI sI sf sf so}", "p50_us",
			 histogram_quantile(&run->times, 0.5) / 1e3, "p99_us",
			 histogram_quantile(&run->times, 0.99) / 1e3, "requests",
			 (json_int_t)run->requests, "answered", (json_int_t)run->answered,
			 "refused", (json_int_t)run->refused, "lost_silently",
			 (json_int_t)run->lost, "slow_avoided_s", slow_avoided(run),
			 "dead_avoided_s", dead, "shares", shares);
}

static json_t *run_policy(struct run *run)
{
	uint64_t end, next;
	json_t *result;

	start(run);
	run->begin = now_ns();
	run->slow = run->begin + (uint64_t)(run->seconds / 3 * 1e9);
	run->dead = run->begin + (uint64_t)(run->seconds / 3 * 2e9);
	end = run->begin + (uint64_t)(run->seconds * 1e9);
	next = run->begin;
	while (now_ns() < end || run->open) {
		uint64_t now = now_ns();

		happen(run, now);
		for (; next <= now && now < end; next += SECOND / run->rate)
			ask(run);
		respond_due(run);
		viaduct_wait(run->viaduct, 1);
	}
	result = report(run);
	for (unsigned int i = 0; i < INSTANCES; i++) {
		if (run->instances[i].peer)
			viaduct_peer_close(run->instances[i].peer, true);
	}
	for (unsigned int i = 0; i < CLIENTS; i++)
		viaduct_peer_close(run->clients[i], true);
	pass_time(run->viaduct, 0.2);
	viaduct_free(run->viaduct);
	return result;
}

/* The largest difference between a share and its weight's. */
static double weights_missed(const json_t *weighted)
{
	const json_t *shares = json_object_get(weighted, "shares");
	double sum = 0, most = 0;

	for (unsigned int i = 0; i < INSTANCES; i++)
		sum += weight_of(i);
	for (unsigned int i = 0; i < INSTANCES; i++) {
		double wanted = weight_of(i) / sum;
		double missed = fabs(json_real_value(json_array_get(shares, i)) / wanted - 1);

		most = missed > most ? missed : most;
	}
	return most;
}

static double value(const json_t *policy, const char *key)
{
	return json_number_value(json_object_get(policy, key));
}

static void print(const json_t *result)
{
	const json_t *policy;
	const char *name;

	printf("%-18s%9s%9s%10s%9s%6s%9s%9s\n", "", "p50", "p99", "requests", "refused", "lost",
	       "slow", "dead");
	json_object_foreach (json_object_get(result, "policies"), name, policy) {
		printf("%-18s%6.1f ms%6.1f ms%10.0f%9.0f%6.0f%7.1f s%7.2f s\n", name,
		       value(policy, "p50_us") / 1e3, value(policy, "p99_us") / 1e3,
		       value(policy, "requests"), value(policy, "refused"),
		       value(policy, "lost_silently"), value(policy, "slow_avoided_s"),
		       value(policy, "dead_avoided_s"));
	}
	printf("p99 of round_robin over that of response_time: %.1f\n"
	       "largest difference between weights and shares: %.2f %%\n",
	       value(result, "p99_ratio"), 100 * value(result, "weights_missed"));
}

static const char usage[] =
	"Usage: balance [OPTION…]\n"
	"\n"
	"Sends requests to a service of 20 instances, which respond after 1, 2 or 3 ms; after a "
	"third\n"
	"of the time one of them takes 100 ms, and after two thirds another is killed. Does so "
	"for\n"
	"each policy, and says when responses came while one was slow (p50, p99), what was lost, "
	"and\n"
	"in what time the slow one was avoided (-1: never) and the dead one gone. Exit code 0 if\n"
	"response_time has a p99 5 times below that of round_robin, nothing is lost without a "
	"word,\n"
	"the dead one is gone within a second, and shares are within 2 % of weights.\n"
	"\n"
	"  --seconds S   for each policy (default 9)\n"
	"  --rate N      requests a second (default 2000)\n"
	"  --json        print the result as JSON\n";

int main(int argc, char **argv)
{
	unsigned int seconds = 9, rate = 2000;
	json_t *all = json_object(), *result;
	struct relay relay = {0};
	bool as_json = false, good = true;
	const struct option_row rows[] = {
		OPTION_NUMBER("seconds", &seconds, 3, 3600),
		OPTION_NUMBER("rate", &rate, 20, 100000),
		OPTION_FLAG("json", &as_json),
		{0},
	};
	struct pending *pending;
	struct run *run;
	double ratio, missed;

	options_read(rows, usage, argc, argv);
	relay_find(&relay);
	pending = malloc(PENDING * sizeof(*pending));
	run = malloc(sizeof(*run));
	if (!pending || !run)
		die("out of memory");
	signal(SIGPIPE, SIG_IGN);
	relay_start(&relay, "small");
	for (int i = 0; i < POLICIES; i++) {
		json_t *policy;

		memset(run, 0, sizeof(*run));
		run->policy = policies[i];
		run->relay = &relay;
		run->seconds = seconds;
		run->rate = rate;
		run->pending = pending;
		policy = run_policy(run);
		good &= !value(policy, "lost_silently") && value(policy, "dead_avoided_s") <= 1;
		json_object_set_new(all, policies[i], policy);
	}
	relay_end(&relay, SIGTERM);
	free(pending);
	free(run);
	ratio = value(json_object_get(all, "round_robin"), "p99_us") /
		value(json_object_get(all, "response_time"), "p99_us");
	missed = weights_missed(json_object_get(all, "weighted"));
	result = json_pack("{so sf sf}", "policies", all, "p99_ratio", ratio, "weights_missed",
			   missed);
	if (!as_json)
		print(result);
	else
		result_print(json_incref(result), true);
	json_decref(result);
	return good && ratio >= 5 && missed <= 0.02 ? EXIT_SUCCESS : EXIT_FAILURE;
}
