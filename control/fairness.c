#include "fairness.h"

#include <errno.h>
#include <stdlib.h>

enum {
	BURST_MS = 1000, // worth of the rate, where nothing is configured
	MS_PER_S = 1000,
};

/* A level's rates, where `levels` doesn't say others: a peer that lost trust is slowed down. */
static const struct config_rate otherwise[RATES_LEVELS] = {
	[1] = {.messages_per_second = 10000, .bytes_per_second = 10000000},
	[2] = {.messages_per_second = 1000, .bytes_per_second = 1000000},
	[3] = {.messages_per_second = 100, .bytes_per_second = 100000},
};

static uint64_t burst(const struct config_rate *config, int per_second)
{
	uint64_t ms = config->burst ? (uint64_t)config->burst : BURST_MS;
	uint64_t tokens = (uint64_t)per_second * ms / MS_PER_S;

	return tokens ? tokens : 1;
}

/* Returns whether it is a limit. */
static bool set(struct rate *rate, const struct config_rate *config)
{
	rate->messages_per_s = (uint64_t)config->messages_per_second;
	rate->bytes_per_s = (uint64_t)config->bytes_per_second;
	rate->messages_burst = burst(config, config->messages_per_second);
	rate->bytes_burst = burst(config, config->bytes_per_second);
	return rate->messages_per_s || rate->bytes_per_s;
}

int fairness_compile(struct clusters *clusters, const struct config_limits *config,
		     struct rates **out)
{
	struct rates *rates = calloc(1, sizeof(*rates));

	*out = NULL;
	if (!rates)
		return -ENOMEM;
	rates->shed = config->shed;
	rates->control = (uint8_t)config->control_share;
	rates->limited = set(&rates->levels[0], &config->peer);
	for (uint32_t i = 1; i < RATES_LEVELS; i++)
		set(&rates->levels[i],
		    config->levels_count >= i ? &config->levels[i - 1] : &otherwise[i]);
	for (uint32_t i = 0; i < config->clusters_count; i++) {
		const struct config_cluster_rate *cluster = &config->clusters[i];
		uint16_t number = clusters_add(clusters, cluster->name);

		if (!number) {
			free(rates);
			return -ENOSPC;
		}
		rates->limited |= set(&rates->clusters[number], &cluster->rate);
	}
	*out = rates;
	return 0;
}

static void reclaim(struct rcu_head *head)
{
	free(caa_container_of(head, struct rates, rcu));
}

void fairness_publish(struct rates **published, struct rates *rates)
{
	struct rates *old = *published;

	rcu_assign_pointer(*published, rates);
	if (old)
		call_rcu(&old->rcu, reclaim);
}
