#include "admission.h"

#include <stdlib.h>

#include "address.h"

enum {
	SETS = 4096, // a power of two
	WAYS = 8,
	SAVED_S = 2,
};

/* An allowance: so many at once, and so many a second (a token bucket). */
struct budget {
	uint32_t at_once;
	uint32_t tokens; // in thousandths
	uint64_t since_ms;
};

/* Sources are kept in sets, as in a processor's cache; who is in one stays until it has left. */
struct source {
	uint64_t name; // see admission_source(); 0: free
	struct budget budget;
};

struct admission {
	struct admission_config config;
	struct budget budgets[ADMISSION_BUDGETS];
	struct source sources[SETS][WAYS];
};

static const enum admission_limit at_once_limits[] = {
	[ADMISSION_ALL] = ADMISSION_HANDSHAKES,
	[ADMISSION_MEMBER] = ADMISSION_MEMBER_HANDSHAKES,
	[ADMISSION_BUSY] = ADMISSION_BUSY_PER_SECOND,
};

static const enum admission_limit rate_limits[] = {
	[ADMISSION_ALL] = ADMISSION_HANDSHAKES_PER_SECOND,
	[ADMISSION_MEMBER] = ADMISSION_MEMBER_HANDSHAKES_PER_SECOND,
	[ADMISSION_BUSY] = ADMISSION_BUSY_PER_SECOND,
};

const char *admission_limit_name(enum admission_limit limit)
{
	static const char *const names[] = {[ADMISSION_FREE] = "none",
#define X(name, text) [ADMISSION_##name] = text,
					    ADMISSION_LIMITS(X)
#undef X
	};

	return names[limit];
}

void admission_limit(struct admission *admission, const struct admission_config *config)
{
	memcpy(admission->config.budgets, config->budgets, sizeof(config->budgets));
	admission->config.source = config->source;
}

static uint32_t full(unsigned int per_second)
{
	return per_second * SAVED_S * 1000;
}

static void budget_start(struct budget *budget, unsigned int per_second, uint64_t now_ms)
{
	budget->at_once = 0;
	budget->tokens = full(per_second);
	budget->since_ms = now_ms;
}

static bool budget_refill(struct budget *budget, unsigned int per_second, uint64_t now_ms)
{
	uint64_t elapsed = now_ms - budget->since_ms;
	uint64_t tokens = budget->tokens;

	tokens += (elapsed < SAVED_S * 1000 ? elapsed : SAVED_S * 1000) * per_second;
	budget->tokens = tokens < full(per_second) ? (uint32_t)tokens : full(per_second);
	budget->since_ms = now_ms;
	return budget->tokens >= 1000;
}

static void budget_take(struct budget *budget)
{
	budget->at_once++;
	budget->tokens -= 1000;
}

struct admission *admission_new(const struct admission_config *config, uint64_t now_ms)
{
	struct admission *admission = calloc(1, sizeof(*admission));

	if (!admission)
		return NULL;
	admission->config = *config;
	for (int i = 0; i < ADMISSION_BUDGETS; i++)
		budget_start(&admission->budgets[i], config->budgets[i].per_second, now_ms);
	return admission;
}

void admission_free(struct admission *admission)
{
	free(admission);
}

/* Two rounds of multiply and fold, in the manner of wyhash. */
static uint64_t mix(uint64_t a, uint64_t b)
{
	unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

uint64_t admission_source(const struct endpoint *from, const uint64_t key[2])
{
	uint64_t prefix, rest = 0, hash;

	memcpy(&prefix, from->ip, sizeof(prefix));
	if (address_is_v4(from))
		memcpy(&rest, from->ip + sizeof(prefix), sizeof(rest));
	hash = mix(mix(prefix ^ key[0], rest ^ key[1] ^ UINT64_C(0x9e3779b97f4a7c15)) ^ key[1],
		   key[0] | 1);
	return hash ? hash : 1;
}

/* The source's place; a new one if `take` is set, in place of the one idle for longest. */
static struct source *find(struct admission *admission, const struct endpoint *from, bool take,
			   uint64_t now_ms)
{
	uint64_t name = admission_source(from, admission->config.key);
	struct source *set = admission->sources[name & (SETS - 1)], *place = NULL;

	for (int i = 0; i < WAYS; i++) {
		if (set[i].name == name)
			return &set[i];
		if (!set[i].budget.at_once &&
		    (!place || set[i].budget.since_ms < place->budget.since_ms))
			place = &set[i];
	}
	if (!take || !place)
		return NULL;
	place->name = name;
	budget_start(&place->budget, admission->config.source.per_second, now_ms);
	return place;
}

enum admission_limit admission_enter(struct admission *admission, const struct endpoint *from,
				     uint64_t now_ms)
{
	struct source *source = find(admission, from, true, now_ms);

	// no place: as many sources at once as nobody well-meaning makes
	if (!source || source->budget.at_once >= admission->config.source.at_once)
		return ADMISSION_SOURCE_HANDSHAKES;
	if (!budget_refill(&source->budget, admission->config.source.per_second, now_ms))
		return ADMISSION_SOURCE_HANDSHAKES_PER_SECOND;
	budget_take(&source->budget);
	return ADMISSION_FREE;
}

void admission_leave(struct admission *admission, const struct endpoint *from)
{
	find(admission, from, false, 0)->budget.at_once--;
}

enum admission_limit admission_begin(struct admission *admission, enum admission_budget budget,
				     uint64_t now_ms)
{
	struct budget *of = &admission->budgets[budget];

	if (of->at_once >= admission->config.budgets[budget].at_once)
		return at_once_limits[budget];
	if (!budget_refill(of, admission->config.budgets[budget].per_second, now_ms))
		return rate_limits[budget];
	budget_take(of);
	return ADMISSION_FREE;
}

void admission_end(struct admission *admission, enum admission_budget budget)
{
	admission->budgets[budget].at_once--;
}
