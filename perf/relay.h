/*
 * The relay that a benchmark starts for itself, in the lab that perf/lab.sh has made: a folder with
 * certificates (pki/) and configurations, a network namespace for the relay, and another in which
 * the benchmark runs. What goes wrong here ends the program with a sentence.
 */
#ifndef PERF_RELAY_H
#define PERF_RELAY_H

#include <jansson.h>
#include <sys/types.h>

#include "viaduct.h"

struct relay {
	const char *lab;   // its folder
	const char *netns; // where the relay runs
	const char *build; // the build tree
	pid_t pid;
};

/* Ends the program, whose name comes first. */
__attribute__((noreturn)) void die(const char *what);

/* Fills in the first three from the environment, as perf/lab.sh has set it. */
void relay_find(struct relay *relay);

/* Starts it with this configuration of the lab's folder, and waits until it is ready. */
void relay_start(struct relay *relay, const char *config);

void relay_end(struct relay *relay, int signal);

/* Asks the admin socket. The answer is the caller's; NULL: nobody is there. */
json_t *relay_ask(const struct relay *relay, const char *question);

/* A number of the relay's status, such as "handshakes", "resumed"; 0 if it isn't there. */
json_int_t relay_number(const struct relay *relay, const char *section, const char *key);

/* Seconds that its control thread has run. */
double relay_cpu(const struct relay *relay);

/* The same of its threads that only do handshakes (crypto.threads). */
double relay_helpers_cpu(const struct relay *relay);

/* Lets its workers run before whatever else runs on their cores, which should be theirs alone. */
void relay_workers_first(const struct relay *relay);

/* Opens peer `number` (from 1) of the lab's federation. */
struct viaduct_peer *relay_peer_open(const struct relay *relay, struct viaduct *viaduct,
				     unsigned int number, const struct viaduct_callbacks *callbacks,
				     void *user);

/* Lets the peers of a context live for so many seconds. */
void pass_time(struct viaduct *viaduct, double seconds);

/*
 * Raises the limit of descriptors. Returns how many of so many peers can join at once: each has a
 * socket for records, and one more while it joins.
 */
unsigned int descriptors_raise(unsigned int peers);

#endif
