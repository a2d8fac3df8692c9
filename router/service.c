#include "service.h"

#include <stdlib.h>

#include "route.h"

#define SECOND_US UINT64_C(1000000)

enum {
	AVERAGE_US = 5000000, // what the average remembers
	EJECTION_DOUBLES = 6, // from 1 s to 64 s
	NEAR_US = 50,         // round trips that differ by less, or by a quarter, are equally near
};

/* How good an instance is for the next request. */
enum rank {
	OUT,     // can't be asked
	AVOIDED, // if there is no other
	GOOD,
};

#define load(at)        __atomic_load_n(at, __ATOMIC_RELAXED)
#define store(at, what) __atomic_store_n(at, what, __ATOMIC_RELAXED)
#define add(at, what)   __atomic_fetch_add(at, what, __ATOMIC_RELAXED)
#define take(at, what)  __atomic_fetch_sub(at, what, __ATOMIC_RELAXED)

/* splitmix64, by S. Vigna; in the public domain. */
static uint64_t draw(uint64_t *state)
{
	uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

/* What is left of a value after so long: e^-x, by its first terms. */
static double fading(uint64_t from_us, uint64_t now_us)
{
	double x = now_us > from_us ? (double)(now_us - from_us) / AVERAGE_US : 0;

	return 1 / (1 + x + x * x / 2);
}

/* Since when the instance owes an answer, in us. */
static uint64_t owed_us(const struct service_instance *instance, uint64_t now_us)
{
	uint64_t waiting_us = load(&instance->waiting_us);

	return load(&instance->outstanding) && now_us > waiting_us ? now_us - waiting_us : 0;
}

/* How far it has come in its slow start, of SERVICE_READY. */
static unsigned int readiness(const struct service_choice *choice,
			      const struct service_instance *instance)
{
	const uint64_t least = SERVICE_READY / 16;
	uint64_t ready_us = load(&instance->ready_us),
		 slow = choice->service->settings.slow_start_us;
	uint64_t age = choice->now_us > ready_us ? choice->now_us - ready_us : 0;

	if (age >= slow)
		return SERVICE_READY;
	age = age * SERVICE_READY / slow;
	return (unsigned int)(age < least ? least : age);
}

static enum rank rank(const struct service_choice *choice, const struct service_member *member)
{
	const struct service_instance *instance = member->instance;
	const struct session *to = rcu_dereference(member->slot->current);

	if (!to || load(&instance->dead))
		return OUT;
	if (choice->policy && !policy_allows(choice->policy, choice->from->cluster, to->cluster))
		return OUT;
	if (load(&instance->ejected_us) > choice->now_us ||
	    owed_us(instance, choice->now_us) >= choice->service->settings.silent_us)
		return AVOIDED;
	// who was ejected must show first that it can do one
	if (load(&instance->ejections) && load(&instance->outstanding))
		return AVOIDED;
	return GOOD;
}

/* The first one at or behind `at`, cyclically, that is at least so good; NULL: none. */
static const struct service_member *seek(const struct service_choice *choice, unsigned int at,
					 enum rank least)
{
	const struct service *service = choice->service;

	for (unsigned int i = 0; i < service->count; i++) {
		const struct service_member *member = &service->members[(at + i) % service->count];

		if (rank(choice, member) >= least)
			return member;
	}
	return NULL;
}

/* Whether a newcomer takes part in this turn. */
static bool takes_part(const struct service_choice *choice, const struct service_member *member)
{
	return draw(choice->random) % SERVICE_READY < readiness(choice, member->instance);
}

static const struct service_member *round_robin(const struct service_choice *choice,
						enum rank least)
{
	const struct service *service = choice->service;
	struct service_turn *turn = &service->state->turns[choice->worker];
	const struct service_member *first = NULL, *member;

	for (unsigned int i = 0; i < service->count; i++) {
		member = seek(choice, (unsigned int)(turn->current % service->count), least);
		if (!member)
			return NULL;
		turn->current = member - service->members + 1;
		if (takes_part(choice, member))
			return member;
		if (!first)
			first = member;
	}
	return first;
}

/* Smooth weighted round robin, as Nginx does it. */
static const struct service_member *weighted(const struct service_choice *choice, enum rank least)
{
	const struct service *service = choice->service;
	const struct service_member *best = NULL;
	int64_t total = 0;

	for (unsigned int i = 0; i < service->count; i++) {
		const struct service_member *member = &service->members[i];
		int64_t *current = &member->instance->turns[choice->worker].current;
		int64_t weight = member->weight * readiness(choice, member->instance);

		if (rank(choice, member) < least)
			continue;
		*current += weight;
		total += weight;
		if (!best || *current > best->instance->turns[choice->worker].current)
			best = member;
	}
	if (best)
		best->instance->turns[choice->worker].current -= total;
	return best;
}

/* How much an instance has to do, for what it can. */
static double burden(const struct service_choice *choice, const struct service_member *member)
{
	return (load(&member->instance->outstanding) + 1.0) /
	       (member->weight * readiness(choice, member->instance));
}

static const struct service_member *least_outstanding(const struct service_choice *choice,
						      enum rank least)
{
	const struct service *service = choice->service;
	// so that equals get equally much
	unsigned int from = (unsigned int)(draw(choice->random) % service->count);
	const struct service_member *best = NULL;
	double lowest = 0;

	for (unsigned int i = 0; i < service->count; i++) {
		const struct service_member *member =
			&service->members[(from + i) % service->count];
		double burden_here;

		if (rank(choice, member) < least)
			continue;
		burden_here = burden(choice, member);
		if (!best || burden_here < lowest) {
			best = member;
			lowest = burden_here;
		}
	}
	return best;
}

/* When the next response might come from it. */
static double delay(const struct service_choice *choice, const struct service_member *member)
{
	const double unknown = 1e9; // ns: of who has yet to give its first response
	const struct service_instance *instance = member->instance;
	uint32_t outstanding = load(&instance->outstanding);
	double average = (double)load(&instance->average_ns) *
			 fading(load(&instance->averaged_us), choice->now_us);
	double owed = (double)owed_us(instance, choice->now_us) * 1000;

	if (average == 0 && outstanding)
		average = unknown;
	if (owed > average)
		average = owed;
	return average * (outstanding + 1) / readiness(choice, instance);
}

/* The better one of two, by peak-sensitive averages. */
static const struct service_member *response_time(const struct service_choice *choice,
						  enum rank least)
{
	const struct service *service = choice->service;
	unsigned int n = service->count, at = (unsigned int)(draw(choice->random) % n);
	const struct service_member *one = seek(choice, at, least), *other;

	if (!one || n == 1)
		return one;
	at = (unsigned int)(one - service->members) + 1;
	other = seek(choice, at + (unsigned int)(draw(choice->random) % (n - 1)), least);
	return delay(choice, other) < delay(choice, one) ? other : one;
}

/* Whether it is in the region of who asks, and its round trip. */
static bool is_home(const struct service_choice *choice, const struct service_member *member)
{
	return member->region && member->region == choice->from->region;
}

static uint32_t round_trip_us(const struct service_member *member)
{
	const struct session *to = rcu_dereference(member->slot->current);
	uint32_t us = to ? load(&to->state->round_trip_us) : 0;

	return us ? us : UINT32_MAX / 2; // not measured yet
}

/* The least burdened one of the nearest. */
static const struct service_member *proximity(const struct service_choice *choice, enum rank least)
{
	const struct service *service = choice->service;
	const struct service_member *best = NULL;
	uint32_t nearest = UINT32_MAX;
	bool home = false;
	double lowest = 0;

	for (unsigned int i = 0; i < service->count; i++) {
		const struct service_member *member = &service->members[i];
		uint32_t us = round_trip_us(member);
		bool here = is_home(choice, member);

		if (rank(choice, member) < least || here < home || (here == home && us >= nearest))
			continue;
		home = here;
		nearest = us;
	}
	for (unsigned int i = 0; i < service->count; i++) {
		const struct service_member *member = &service->members[i];
		double burden_here = burden(choice, member);

		if (is_home(choice, member) != home || rank(choice, member) < least ||
		    round_trip_us(member) > nearest + nearest / 4 + NEAR_US)
			continue;
		if (!best || burden_here < lowest) {
			best = member;
			lowest = burden_here;
		}
	}
	return best;
}

/*
 * Rendezvous hashing (Thaler, Ravishankar 1998), passing over those that owe more than a quarter
 * above their share (bounded loads: Mirrokni, Thorup, Zadimoghaddam 2018).
 */
static const struct service_member *sticky(const struct service_choice *choice, enum rank least)
{
	const struct service *service = choice->service;
	const struct service_member *best = NULL;
	uint64_t owed = 1, weights = 0, key, highest = 0;

	memcpy(&key, choice->key, sizeof(key));
	for (unsigned int i = 0; i < service->count; i++) {
		if (rank(choice, &service->members[i]) < least)
			continue;
		owed += load(&service->members[i].instance->outstanding);
		weights += service->members[i].weight;
	}
	for (unsigned int i = 0; i < service->count; i++) {
		const struct service_member *member = &service->members[i];
		uint64_t mine = load(&member->instance->outstanding), score;

		if (rank(choice, member) < least ||
		    (mine >= SERVICE_STICKY_FLOOR &&
		     mine * 4 * weights >= owed * 5 * member->weight))
			continue;
		score = member->hash ^ key;
		score = draw(&score);
		if (!best || score > highest) {
			best = member;
			highest = score;
		}
	}
	return best;
}

const struct service_member *service_choose(struct service_choice *choice,
					    const struct session **to)
{
	static const struct service_member *(*const policies[])(const struct service_choice *choice,
								enum rank least) = {
		[SERVICE_ROUND_ROBIN] = round_robin,
		[SERVICE_WEIGHTED] = weighted,
		[SERVICE_LEAST_OUTSTANDING] = least_outstanding,
		[SERVICE_RESPONSE_TIME] = response_time,
		[SERVICE_PROXIMITY] = proximity,
	};
	const struct service_settings *settings = &choice->service->settings;
	const struct service_member *member = NULL;

	if (!choice->service->count)
		return NULL;
	choice->by =
		settings->policy[settings->share && draw(choice->random) % 100 < settings->share];
	for (enum rank least = GOOD; least > OUT && !member; least--) {
		if (choice->key)
			member = sticky(choice, least);
		if (!member)
			member = policies[choice->by](choice, least);
	}
	if (member)
		*to = rcu_dereference(member->slot->current);
	return member && *to ? member : NULL;
}

/* What becomes of requests */

static void end_request(struct service_instance *instance)
{
	__atomic_fetch_sub(&instance->outstanding, 1, __ATOMIC_RELEASE);
}

/* One more failure, by answer or by silence. */
static void note_failure(struct service_instance *instance, uint64_t sent_us, uint64_t now_us)
{
	uint32_t failures = add(&instance->failures, 1) + 1, ejections;

	// many that were under way at once fail together, and eject it once
	if (sent_us < load(&instance->ejected_us) ||
	    (failures < load(&instance->service->eject) && !load(&instance->ejections)))
		return;
	ejections = add(&instance->ejections, 1);
	if (ejections > EJECTION_DOUBLES)
		ejections = EJECTION_DOUBLES;
	store(&instance->ejected_us, now_us + (SECOND_US << ejections));
	store(&instance->ready_us, now_us + (SECOND_US << ejections));
	store(&instance->failures, 0);
}

static void note_response(struct service_instance *instance, uint64_t sent_us, uint64_t now_us)
{
	uint64_t ns = (now_us > sent_us ? now_us - sent_us : 0) * 1000 + 1;
	double old = fading(load(&instance->averaged_us), now_us);
	double average = (double)load(&instance->average_ns) * old; // as it was when it was chosen

	if ((double)ns < average)
		ns = (uint64_t)(average * old + (double)ns * (1 - old));
	store(&instance->average_ns, ns);
	store(&instance->averaged_us, now_us);
	store(&instance->waiting_us, now_us);
}

/* Requests under way */

/*
 * A word is tag (32 bits), slot of who asks (20), how often the entry was used (11) and whether it
 * is in use (1). Whoever has exchanged it for BUSY owns the entry until it writes another one.
 * Slots are never all ones, as those of groups lie behind the sessions'.
 */
#define BUSY UINT64_MAX
enum { USE_BITS = 11, SLOT_SHIFT = USE_BITS + 1 };
#define USES (((UINT64_C(1) << USE_BITS) - 1) << 1)

static bool claim(struct service_entry *entry, uint64_t word)
{
	return __atomic_compare_exchange_n(&entry->word, &word, BUSY, false, __ATOMIC_ACQUIRE,
					   __ATOMIC_RELAXED);
}

static void release(struct service_entry *entry, uint64_t word)
{
	__atomic_store_n(&entry->word, word, __ATOMIC_RELEASE);
}

/* The word of a free entry after `word`. */
static uint64_t freed(uint64_t word)
{
	return (word + 2) & USES;
}

struct service_requests *service_requests_new(int node, uint32_t entries, const uint8_t secret[16])
{
	struct service_requests *requests;
	uint32_t buckets = SERVICE_PROBES;
	size_t size;

	while (buckets * SERVICE_BUCKET < entries)
		buckets *= 2;
	size = sizeof(*requests) + buckets * sizeof(requests->entries[0]);
	requests = node_alloc(node, 64, size);
	if (!requests)
		return NULL;
	memcpy(requests->secret, secret, sizeof(requests->secret));
	requests->secret[1] |= 1;
	requests->mask = buckets - 1;
	return requests;
}

void service_requests_free(struct service_requests *requests)
{
	node_free(requests);
}

static uint64_t word_of(const struct session *from, uint32_t tag)
{
	return (uint64_t)tag << 32 | (uint64_t)wire_slot(from->index) << SLOT_SHIFT | 1;
}

/* The bucket where a search for the word begins. */
static uint64_t place_of(const struct service_requests *requests, uint64_t word)
{
	return route_mix(word ^ requests->secret[0], requests->secret[1]);
}

struct service_entry *service_enter(struct service_requests *requests, const struct session *from,
				    uint32_t tag, uint8_t class, struct service_instance *instance,
				    enum service_policy by, uint64_t now_us)
{
	uint64_t word = word_of(from, tag), place = place_of(requests, word);

	if (add(&from->state->requests, 1) >= load(&requests->peer_max))
		goto full;
	for (unsigned int i = 0; i < SERVICE_PROBES * SERVICE_BUCKET; i++) {
		struct service_entry *entry =
			&requests->entries[(place + i / SERVICE_BUCKET) & requests->mask]
					  [i % SERVICE_BUCKET];
		uint64_t before = load(&entry->word);

		if ((before & 1) || !claim(entry, before))
			continue;
		entry->instance = instance;
		entry->sent_us = now_us;
		entry->requester = from->index;
		entry->policy = (uint8_t)by;
		entry->class = class;
		if (!add(&instance->outstanding, 1))
			store(&instance->waiting_us, now_us);
		add(&instance->counts.requests, 1);
		add(&instance->service->stats[by].counts.requests, 1);
		release(entry, word | before);
		return entry;
	}
full:
	take(&from->state->requests, 1);
	return NULL;
}

void service_undo(struct service_entry *entry, const struct session *from, uint32_t tag)
{
	uint64_t word = load(&entry->word);
	struct service_instance *instance;
	uint8_t by;

	// control may have been faster
	if ((word & ~USES) != word_of(from, tag) || !claim(entry, word))
		return;
	instance = entry->instance;
	by = entry->policy;
	release(entry, freed(word));
	take(&from->state->requests, 1);
	take(&instance->counts.requests, 1);
	take(&instance->service->stats[by].counts.requests, 1);
	end_request(instance);
}

/* Whether an entry in use is of a request of `to` to `from`, through `via`. */
static bool is_of(const struct service_entry *entry, const struct session *from,
		  const struct session *to, const struct wire_id *via)
{
	const struct service_instance *instance = load(&entry->instance);

	return load(&entry->requester) == to->index && instance->slot == wire_slot(from->index) &&
	       wire_id_equal(&instance->service->id, via);
}

/* Takes the request out, if it is there. The instance isn't freed before the caller is quiescent.
 */
static struct service_instance *take_out(struct service_requests *requests,
					 const struct session *from, const struct session *to,
					 uint32_t tag, const struct wire_id *via, uint8_t *by,
					 uint64_t *sent_us)
{
	uint64_t word = word_of(to, tag), place = place_of(requests, word);

	for (unsigned int i = 0; i < SERVICE_PROBES * SERVICE_BUCKET; i++) {
		struct service_entry *entry =
			&requests->entries[(place + i / SERVICE_BUCKET) & requests->mask]
					  [i % SERVICE_BUCKET];
		uint64_t found = __atomic_load_n(&entry->word, __ATOMIC_ACQUIRE);
		struct service_instance *instance;

		if ((found & ~USES) != word || !is_of(entry, from, to, via) || !claim(entry, found))
			continue;
		instance = entry->instance;
		*by = entry->policy;
		*sent_us = entry->sent_us;
		release(entry, freed(found));
		return instance;
	}
	return NULL;
}

bool service_answered(struct service_requests *requests, const struct session *from,
		      const struct session *to, uint32_t tag, const struct wire_id *via,
		      bool failed, uint64_t now_us)
{
	struct service_instance *instance;
	struct service_stats *stats;
	uint64_t sent_us;
	uint8_t by;

	instance = take_out(requests, from, to, tag, via, &by, &sent_us);
	if (!instance)
		return false;
	take(&to->state->requests, 1);
	stats = &instance->service->stats[by];
	note_response(instance, sent_us, now_us);
	add(&stats->histogram[service_histogram_at(now_us > sent_us ? now_us - sent_us : 0)], 1);
	if (failed) {
		add(&instance->counts.failed, 1);
		add(&stats->counts.failed, 1);
		note_failure(instance, sent_us, now_us);
	} else {
		add(&instance->counts.answered, 1);
		add(&stats->counts.answered, 1);
		store(&instance->failures, 0);
		// what was asked before it was ejected proves nothing
		if (load(&instance->ejections) && sent_us >= load(&instance->ejected_us))
			store(&instance->ejections, 0);
	}
	end_request(instance);
	return true;
}

static void sweep_entry(struct service_entry *entry, const struct session_table *sessions,
			uint64_t now_us,
			void (*each)(void *arg, const struct service_overdue *overdue), void *arg)
{
	uint64_t word = __atomic_load_n(&entry->word, __ATOMIC_ACQUIRE);
	struct service_overdue overdue;
	const struct session *requester;
	struct service_counts *counts;
	uint64_t sent_us;
	uint8_t by;

	if (!(word & 1) || word == BUSY)
		return;
	// what is read may be another request's already, but then it can't be claimed
	overdue.instance = load(&entry->instance);
	overdue.requester = load(&entry->requester);
	overdue.class = load(&entry->class);
	overdue.tag = (uint32_t)(word >> 32);
	sent_us = load(&entry->sent_us);
	by = load(&entry->policy);
	requester = rcu_dereference(sessions->slot[wire_slot(overdue.requester)].current);
	if (!requester || requester->index != overdue.requester)
		overdue.reason = WIRE_REASON_NONE;
	else if (sent_us < load(&overdue.instance->cut_us))
		overdue.reason = WIRE_REASON_INSTANCE_GONE;
	else if (now_us > sent_us && now_us - sent_us > overdue.instance->service->timeout_us)
		overdue.reason = WIRE_REASON_TIMEOUT;
	else
		return;
	if (!claim(entry, word))
		return;
	release(entry, freed(word));
	counts = &overdue.instance->service->stats[by].counts;
	if (overdue.reason == WIRE_REASON_TIMEOUT) {
		add(&overdue.instance->counts.timed_out, 1);
		add(&counts->timed_out, 1);
		note_failure(overdue.instance, sent_us, now_us);
	} else {
		add(&overdue.instance->counts.gone, 1);
		add(&counts->gone, 1);
	}
	if (overdue.reason != WIRE_REASON_NONE) {
		take(&requester->state->requests, 1);
		each(arg, &overdue);
	}
	end_request(overdue.instance);
}

void service_sweep(struct service_requests *requests, const struct session_table *sessions,
		   uint32_t first, uint32_t count, uint64_t now_us,
		   void (*each)(void *arg, const struct service_overdue *overdue), void *arg)
{
	for (uint32_t i = 0; i < count; i++) {
		for (int j = 0; j < SERVICE_BUCKET; j++)
			sweep_entry(&requests->entries[(first + i) & requests->mask][j], sessions,
				    now_us, each, arg);
	}
}

/* Words and figures */

unsigned int service_histogram_at(uint64_t us)
{
	unsigned int exponent, at;

	if (us < 8)
		return (unsigned int)us;
	exponent = 63 - (unsigned int)__builtin_clzll(us);
	at = (exponent - 2) * 8 + (us >> (exponent - 3) & 7);
	return at < SERVICE_HISTOGRAM ? at : SERVICE_HISTOGRAM - 1;
}

uint64_t service_histogram_us(unsigned int bucket)
{
	if (bucket < 8)
		return bucket;
	return ((UINT64_C(9) + bucket % 8) << (bucket / 8 - 1)) - 1;
}

static const char *const policy_names[SERVICE_POLICIES] = {
#define X(name, text) text,
	SERVICE_POLICY_LIST(X)
#undef X
};

const char *service_policy_name(enum service_policy policy)
{
	return policy_names[policy];
}

enum service_policy service_policy_parse(const char *name)
{
	enum service_policy policy = 0;

	while (policy < SERVICE_POLICIES && strcmp(policy_names[policy], name) != 0)
		policy++;
	return policy;
}
