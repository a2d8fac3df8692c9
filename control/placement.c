#include "placement.h"

_Static_assert((int)CONFIG_WORKERS_MAX <= (int)PLAN_WORKERS_MAX, "a plan has room for all workers");
_Static_assert((int)TOPOLOGY_ERROR_MAX <= (int)CONFIG_ERROR_MAX, "errors fit");

int placement_make(struct plan *plan, const struct config *config, const char *machine, char *error)
{
	const struct topology_source source = {.from = machine};
	const struct plan_request request = {
		.interface = config->data.interface,
		.workers = (unsigned int)config->data.workers,
		.cores = config->data.cores_count ? config->data.cores : NULL,
		.control_core = config->control.core,
	};
	struct topology *topology;
	int result = topology_read(&topology, &source, error);

	if (result)
		return result;
	result = plan_make(plan, topology, &request, error);
	topology_free(topology);
	return result;
}
