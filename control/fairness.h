/*
 * What the configuration says about overload, rates of peers and of clusters, as the workers see
 * it. For the control thread.
 */
#ifndef VIADUCT_FAIRNESS_H
#define VIADUCT_FAIRNESS_H

#include "clusters.h"
#include "rates.h"

/* Gives numbers to the clusters it names. Returns 0, -ENOMEM, or -ENOSPC: too many names. */
int fairness_compile(struct clusters *clusters, const struct config_limits *config,
		     struct rates **rates);

/* Has them (NULL: none) be what `published` points at. */
void fairness_publish(struct rates **published, struct rates *rates);

#endif
