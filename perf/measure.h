/*
 * What all benchmarks need: a clock, and the memory of the process that they look at.
 */
#ifndef PERF_MEASURE_H
#define PERF_MEASURE_H

#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include <time.h>

#define SECOND UINT64_C(1000000000)

static inline uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

/* Resident memory and huge pages in MB (2^20 bytes); proc(5). 0 if there is no such process. */
static inline double process_memory(pid_t pid)
{
	unsigned long kb, sum = 0;
	char path[64], line[256];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	file = fopen(path, "re");
	if (!file)
		return 0;
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "VmRSS: %lu", &kb) == 1 ||
		    sscanf(line, "HugetlbPages: %lu", &kb) == 1)
			sum += kb;
	fclose(file);
	return (double)sum / 1024;
}

#endif
