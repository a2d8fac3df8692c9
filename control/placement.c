#include "placement.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>

int placement_make(struct placement *placement, const struct config *config, char *error)
{
	int allowed[CPU_SETSIZE], count = 0;
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set)) {
		snprintf(error, CONFIG_ERROR_MAX, "can't learn which CPUs may be used");
		return -errno;
	}
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (CPU_ISSET(cpu, &set))
			allowed[count++] = cpu;
	}
	placement->control = config->control.core >= 0 ? config->control.core : allowed[0];
	for (int i = 0; i < config->data.workers; i++)
		placement->workers[i] = config->data.cores_count ? config->data.cores[i]
								 : allowed[count - 1 - i % count];
	for (int i = -1; i < config->data.workers; i++) {
		int cpu = i < 0 ? placement->control : placement->workers[i];

		if (CPU_ISSET(cpu, &set))
			continue;
		snprintf(error, CONFIG_ERROR_MAX,
			 "%s: this process may not use CPU %d; CPUs are %d to %d",
			 i < 0 ? "control.core" : "data.cores", cpu, allowed[0],
			 allowed[count - 1]);
		return -EINVAL;
	}
	return 0;
}
