/*
 * Which CPU each thread gets.
 */
#ifndef VIADUCT_PLACEMENT_H
#define VIADUCT_PLACEMENT_H

#include "config.h"

struct placement {
	int control;
	int workers[CONFIG_WORKERS_MAX];
};

/*
 * Fills in what the configuration leaves open, from the CPUs that this process may use: workers
 * from the last one down, the control thread on the first; with too few they share. Returns 0, or
 * -EINVAL with one sentence in `error` (CONFIG_ERROR_MAX bytes).
 */
int placement_make(struct placement *placement, const struct config *config, char *error);

#endif
