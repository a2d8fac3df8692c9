/*
 * Threads that do jobs for the control thread, which never waits for them: it hands jobs over and
 * takes them back without a lock.
 */
#ifndef VIADUCT_POOL_H
#define VIADUCT_POOL_H

#include <sched.h>
#include <stdbool.h>

enum { POOL_THREADS_MAX = 64 };

struct pool;

/* Embedded in what it is about. */
struct pool_job {
	struct pool_job *next;
	void (*run)(struct pool_job *job); // on one of the threads
};

/*
 * Starts `count` threads, at most POOL_THREADS_MAX, on these cores, called viaduct-tls0 and so on.
 * Returns 0 or a negative errno.
 */
int pool_new(struct pool **pool, unsigned int count, const cpu_set_t *cores);

/*
 * Ends the threads after what they are doing; this is waited for. Jobs that are not back yet are
 * the caller's again, run or not.
 */
void pool_free(struct pool *pool);

/* Hands a job over; urgent ones are done before others. */
void pool_submit(struct pool *pool, struct pool_job *job, bool urgent);

/* Readable when jobs are back. */
int pool_fd(const struct pool *pool);

/* Takes back all jobs that have been run, as a list, in the order in which they were. */
struct pool_job *pool_take(struct pool *pool);

#endif
