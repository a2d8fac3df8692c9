#include "clusters.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

uint16_t clusters_number(const struct clusters *clusters, const char *name)
{
	for (unsigned int i = 1; i < clusters->count; i++) {
		if (strcmp(clusters->names[i], name) == 0)
			return (uint16_t)i;
	}
	return 0;
}

uint16_t clusters_add(struct clusters *clusters, const char *name)
{
	uint16_t number = clusters_number(clusters, name);

	if (number)
		return number;
	if (!clusters->count)
		clusters->count = 1;
	if (clusters->count == POLICY_CLUSTERS)
		return 0;
	strcpy(clusters->names[clusters->count], name);
	return (uint16_t)clusters->count++;
}

static void allow(struct policy *policy, uint16_t from, uint16_t to)
{
	policy->allowed[from][to / 64] |= UINT64_C(1) << (to % 64);
}

int clusters_compile(struct clusters *clusters, const struct config_policy *config,
		     struct policy **out)
{
	struct policy *policy = NULL;

	*out = NULL;
	if (!config->rules_count)
		return 0;
	policy = malloc(sizeof(*policy));
	if (!policy)
		return -ENOMEM;
	// whom no rule is about may send to all
	memset(policy, 0xff, sizeof(*policy));
	for (uint32_t i = 0; i < config->rules_count; i++) {
		uint16_t from = clusters_add(clusters, config->rules[i].from);

		if (!from)
			goto full;
		memset(policy->allowed[from], 0, sizeof(policy->allowed[from]));
		allow(policy, from, from);
	}
	for (uint32_t i = 0; i < config->rules_count; i++) {
		const struct config_rule *rule = &config->rules[i];

		for (uint32_t j = 0; j < rule->to_count; j++) {
			uint16_t to = clusters_add(clusters, rule->to[j]);

			if (!to)
				goto full;
			allow(policy, clusters_number(clusters, rule->from), to);
		}
	}
	*out = policy;
	return 0;
full:
	free(policy);
	return -ENOSPC;
}

static void reclaim(struct rcu_head *head)
{
	free(caa_container_of(head, struct policy, rcu));
}

void clusters_publish(struct policy **published, struct policy *policy)
{
	struct policy *old = *published;

	rcu_assign_pointer(*published, policy);
	if (old)
		call_rcu(&old->rcu, reclaim);
}
