/*
 * Numbers for the clusters that the policy names, and the policy as the workers see it. A number is
 * never another cluster's as long as the relay runs. For the control thread.
 */
#ifndef VIADUCT_CLUSTERS_H
#define VIADUCT_CLUSTERS_H

#include "config.h"
#include "policy.h"

struct clusters {
	unsigned int count; // of names, the first of which stands for all others
	char names[POLICY_CLUSTERS][CONFIG_CLUSTER_MAX];
};

/* The number of a cluster; 0: the policy doesn't name it. */
uint16_t clusters_number(const struct clusters *clusters, const char *name);

/* The same, and gives it one if need be; 0: there are too many. */
uint16_t clusters_add(struct clusters *clusters, const char *name);

/*
 * Makes a policy, NULL if no rule says anything (or for want of memory, see the return value), and
 * gives numbers to the clusters it names. Returns 0, -ENOMEM, or -ENOSPC: too many names.
 */
int clusters_compile(struct clusters *clusters, const struct config_policy *config,
		     struct policy **policy);

/* Has the policy (NULL: all may talk to all) be what `published` points at. */
void clusters_publish(struct policy **published, struct policy *policy);

#endif
