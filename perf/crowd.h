/*
 * Bystanders: peers in a process of their own that send each other messages at an even rate, from
 * the quiet before something happens to its end. They say what was lost and how long it took.
 */
#ifndef PERF_CROWD_H
#define PERF_CROWD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "relay.h"

/* What they report at the end. */
struct crowd_report {
	uint64_t sent, lost;
	double p99_before, p99_during; // us
	bool failed;                   // not all of them had joined, or one was lost
};

struct crowd {
	unsigned int first, count; // numbers of their certificates
	unsigned int rate;         // messages a second, all together
	unsigned int join_s;       // for all to join
	bool urgent;               // they run before all others here, as on a machine of their own

	pid_t process;
	int stop, report; // pipes to and from it
};

/* Starts them, and returns when they have joined and talk. */
void crowd_start(struct crowd *crowd, const struct relay *relay);

/* What happens, happens from now on. */
void crowd_mark(const struct crowd *crowd);

/* Ends them. Peers of `viaduct` live on meanwhile, if it isn't NULL. */
void crowd_end(struct crowd *crowd, struct crowd_report *report, struct viaduct *viaduct);

#endif
