/*
 * DPDK's environment: memory and threads. Control thread only.
 */
#ifndef VIADUCT_EAL_H
#define VIADUCT_EAL_H

#include "dataplane.h"

/*
 * Starts it, with room for `megabytes`: in huge pages if enough of them are free, in ordinary
 * memory otherwise. Lcore 0 is the calling thread, on the control core, lcore n the thread of
 * worker n - 1. Returns 0 or a negative errno and a sentence in `error`. Once a process.
 */
int eal_start(const struct dataplane_config *config, size_t megabytes, char *error);

/* Whether huge pages are used. */
bool eal_huge_pages(void);

void eal_stop(void);

#endif
