#include "eal.h"

#include <dirent.h>
#include <errno.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <signal.h>
#include <stdio.h>

#include "ciphers.h"
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

int eal_start(const struct dataplane_config *config, size_t megabytes, char *error)
{
	char lcores[16 * (DATAPLANE_WORKERS_MAX + 1)], memory[16];
	const char *arguments[16] = {
		"viaductd", "--lcores", lcores,           "--main-lcore", "0",
		"-m",       memory,     "--no-telemetry", "--iova-mode",  "va",
	};
	int n = 10;
	size_t length;
	sigset_t all, before;
	int r;

	length = (size_t)snprintf(lcores, sizeof(lcores), "0@%d", config->control_core);
	for (unsigned int i = 0; i < config->workers; i++)
		length += (size_t)snprintf(lcores + length, sizeof(lcores) - length, ",%u@%d",
					   i + 1, config->cores[i]);
	if (config->aead == &aead_cryptodev && cryptodev_is_pci(config->aead_device)) {
		arguments[n++] = "-a";
		arguments[n++] = config->aead_device;
	} else {
		arguments[n++] = "--no-pci";
	}
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
