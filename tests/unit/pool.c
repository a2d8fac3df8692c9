#include "test.h"

#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>

#include "pool.h"

enum { JOBS = 20000, WINDOW = 100 };

struct job {
	struct pool_job job;
	pthread_t thread;
	unsigned int runs;
	bool running; // at the moment
	unsigned int number;
};

static cpu_set_t cores;

static void run(struct pool_job *job)
{
	struct job *of = (struct job *)job;

	assert_false(of->running);
	of->running = true;
	of->thread = pthread_self();
	of->runs++;
	of->running = false;
}

static struct pool_job *wait_for(struct pool *pool)
{
	struct pollfd fd = {.fd = pool_fd(pool), .events = POLLIN};

	assert_int_equal(poll(&fd, 1, 10000), 1);
	return pool_take(pool);
}

/* Each job is run once for each time that it is handed over, and never by us. */
static void test_each_once(void **state)
{
	struct job *jobs = calloc(WINDOW, sizeof(*jobs));
	unsigned int submitted = 0, back = 0;
	struct pool *pool;

	assert_int_equal(pool_new(&pool, 3, &cores), 0);
	for (; submitted < WINDOW; submitted++) {
		jobs[submitted].job.run = run;
		pool_submit(pool, &jobs[submitted].job, submitted % 7 == 0);
	}
	while (back < JOBS) {
		struct pool_job *next, *list = wait_for(pool);

		for (; list; list = next) {
			struct job *job = (struct job *)list;

			next = list->next;
			back++;
			assert_false(pthread_equal(job->thread, pthread_self()));
			if (submitted == JOBS)
				continue;
			submitted++;
			pool_submit(pool, list, submitted % 7 == 0);
		}
	}
	submitted = 0;
	for (unsigned int i = 0; i < WINDOW; i++)
		submitted += jobs[i].runs;
	assert_int_equal(submitted, JOBS);
	pool_free(pool);
	free(jobs);
}

static sem_t gate, entered;
static unsigned int order[8], ordered;

static void hold(struct pool_job *job)
{
	sem_post(&entered);
	while (sem_wait(&gate))
		;
}

static void note(struct pool_job *job)
{
	order[ordered++] = ((struct job *)job)->number;
}

static void test_urgent_first(void **state)
{
	struct job jobs[6] = {0}, gatekeeper = {.job.run = hold};
	struct pool_job *list;
	struct pool *pool;

	sem_init(&gate, 0, 0);
	sem_init(&entered, 0, 0);
	assert_int_equal(pool_new(&pool, 1, &cores), 0);
	pool_submit(pool, &gatekeeper.job, false);
	sem_wait(&entered);
	for (unsigned int i = 0; i < 6; i++) {
		jobs[i].job.run = note;
		jobs[i].number = i;
		pool_submit(pool, &jobs[i].job, i >= 4);
	}
	sem_post(&gate);
	for (unsigned int back = 0; back < 7;)
		for (list = wait_for(pool); list; list = list->next)
			back++;
	assert_int_equal(ordered, 6);
	for (unsigned int i = 0; i < 6; i++)
		assert_int_equal(order[i], (i + 4) % 6);
	pool_free(pool);
	sem_destroy(&gate);
	sem_destroy(&entered);
}

/* What is being done is waited for, what waits is not done. */
static void test_end(void **state)
{
	struct job waiting = {.job.run = run}, running = {.job.run = hold};
	struct pool *pool;

	sem_init(&gate, 0, 1);
	sem_init(&entered, 0, 0);
	assert_int_equal(pool_new(&pool, 1, &cores), 0);
	pool_submit(pool, &running.job, false);
	sem_wait(&entered);
	pool_free(pool);
	assert_int_equal(pool_new(&pool, 2, &cores), 0);
	pool_free(pool);
	assert_int_equal(waiting.runs, 0);
	sem_destroy(&gate);
	sem_destroy(&entered);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_once),
		cmocka_unit_test(test_urgent_first),
		cmocka_unit_test(test_end),
	};

	sched_getaffinity(0, sizeof(cores), &cores);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
