#include "eal.h"

#include <dirent.h>
#include <errno.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>

#include "report.h"

static bool huge;

// Megabytes that are free in huge pages of all sizes.
static size_t huge_free(void)
{
	static const char path[] = "/sys/kernel/mm/hugepages";
	DIR *directory = opendir(path);
	struct dirent *entry;
	size_t sum = 0;

	if (!directory)
		return 0;
	while ((entry = readdir(directory))) {
		unsigned long kilobytes, pages;
		char name[128];
		FILE *file;

		if (sscanf(entry->d_name, "hugepages-%lukB", &kilobytes) != 1)
			continue;
		snprintf(name, sizeof(name), "%s/hugepages-%lukB/free_hugepages", path, kilobytes);
		file = fopen(name, "re");
		if (!file)
			continue;
		if (fscanf(file, "%lu", &pages) == 1)
			sum += pages * kilobytes / 1024;
		fclose(file);
	}
	closedir(directory);
	return sum;
}

// Writes a set like 0-3,8.
static void cores_format(char *text, size_t size, const cpu_set_t *cores)
{
	size_t length = 0;

	*text = 0;
	for (int first = 0; first < CPU_SETSIZE && length < size; first++) {
		int last = first;

		if (!CPU_ISSET(first, cores))
			continue;
		while (last + 1 < CPU_SETSIZE && CPU_ISSET(last + 1, cores))
			last++;
		length += (size_t)snprintf(text + length, size - length, "%s%d", length ? "," : "",
					   first);
		if (last > first && length < size)
			length += (size_t)snprintf(text + length, size - length, "-%d", last);
		first = last;
	}
}

static int core_check(int core, char *error)
{
	cpu_set_t cores;
	char text[64];

	if (sched_getaffinity(0, sizeof(cores), &cores))
		return -errno;
	if (core >= 0 && core < CPU_SETSIZE && CPU_ISSET(core, &cores))
		return 0;
	cores_format(text, sizeof(text), &cores);
	snprintf(error, DATAPLANE_ERROR_MAX, "CPU %d can't be used: this process may run on %s",
		 core, text);
	return -EINVAL;
}

int eal_start(const struct dataplane_config *config, size_t megabytes, char *error)
{
	char lcores[16 * (DATAPLANE_WORKERS_MAX + 1)], memory[16];
	const char *arguments[16] = {
		"viaductd", "--lcores", lcores,           "--main-lcore", "0",  "-m",
		memory,     "--no-pci", "--no-telemetry", "--iova-mode",  "va",
	};
	int n = 11;
	size_t length;
	sigset_t all, before;
	int r;

	length = (size_t)snprintf(lcores, sizeof(lcores), "0@%d", config->control_core);
	r = core_check(config->control_core, error);
	for (unsigned int i = 0; i < config->workers && r == 0; i++) {
		r = core_check(config->cores[i], error);
		length += (size_t)snprintf(lcores + length, sizeof(lcores) - length, ",%u@%d",
					   i + 1, config->cores[i]);
	}
	if (r)
		return r;
	snprintf(memory, sizeof(memory), "%zu", megabytes);
	huge = huge_free() >= megabytes;
	if (huge) {
		arguments[n++] = "--in-memory";
	} else {
		arguments[n++] = "--no-huge";
		arguments[n++] = "--no-shconf";
	}

	// signals are the control thread's, and new threads inherit what is blocked
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = rte_eal_init(n, (char **)arguments);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r < 0) {
		snprintf(error, DATAPLANE_ERROR_MAX,
			 "DPDK doesn't start with %zu MB of %s memory (%s%s%s)", megabytes,
			 huge ? "huge page" : "ordinary", rte_strerror(rte_errno),
			 *report_last() ? "; " : "", report_last());
		return rte_errno ? -rte_errno : -EIO;
	}
	return 0;
}

bool eal_huge_pages(void)
{
	return huge;
}

void eal_stop(void)
{
	rte_eal_cleanup();
}
