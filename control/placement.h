/*
 * Which core each thread gets: numa's plan for what the configuration says.
 */
#ifndef VIADUCT_PLACEMENT_H
#define VIADUCT_PLACEMENT_H

#include "config.h"
#include "plan.h"

/*
 * Plans for this machine as the calling thread may use it, so before that is pinned; or for another
 * one, `machine`: an XML file of hwloc's lstopo or a synthetic description. Returns 0, or a
 * negative errno with one sentence in `error` (CONFIG_ERROR_MAX bytes).
 */
int placement_make(struct plan *plan, const struct config *config, const char *machine,
		   char *error);

#endif
