#include "pool.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { URGENCIES = 2 };

/* Jobs in the order in which they came: threads take them, one thread at a time. */
struct queue {
	struct pool_job *inbox; // a stack; the control thread pushes, threads take all (atomic)
	struct pool_job *first; // threads, under the lock
};

struct pool {
	struct queue queues[URGENCIES]; // the urgent first
	sem_t waiting;        // as many as there are jobs in them, and one more a thread at the end
	pthread_mutex_t lock; // among the threads
	struct pool_job *done; // a stack; threads push, the control thread takes all (atomic)
	int fd;
	bool ended; // control writes, threads read (atomic)
	unsigned int count;
	pthread_t threads[POOL_THREADS_MAX];
};

static void push(struct pool_job **stack, struct pool_job *job)
{
	job->next = __atomic_load_n(stack, __ATOMIC_RELAXED);
	while (!__atomic_compare_exchange_n(stack, &job->next, job, true, __ATOMIC_RELEASE,
					    __ATOMIC_RELAXED))
		;
}

/* All of a stack, the oldest first. */
static struct pool_job *take_all(struct pool_job **stack)
{
	struct pool_job *job = __atomic_exchange_n(stack, NULL, __ATOMIC_ACQUIRE), *list = NULL;

	while (job) {
		struct pool_job *next = job->next;

		job->next = list;
		list = job;
		job = next;
	}
	return list;
}

static struct pool_job *next_job(struct pool *pool)
{
	struct pool_job *job = NULL;

	pthread_mutex_lock(&pool->lock);
	for (int i = 0; i < URGENCIES && !job; i++) {
		struct queue *queue = &pool->queues[i];

		if (!queue->first)
			queue->first = take_all(&queue->inbox);
		job = queue->first;
		if (job)
			queue->first = job->next;
	}
	pthread_mutex_unlock(&pool->lock);
	return job;
}

static void *work(void *arg)
{
	const uint64_t one = 1;
	struct pool *pool = arg;
	struct pool_job *job;

	for (;;) {
		if (sem_wait(&pool->waiting))
			continue; // a signal that can't be blocked
		if (__atomic_load_n(&pool->ended, __ATOMIC_ACQUIRE))
			return NULL;
		job = next_job(pool);
		job->run(job);
		push(&pool->done, job);
		// it can't overflow, as who reads it takes all
		while (write(pool->fd, &one, sizeof(one)) < 0 && errno == EINTR)
			;
	}
}

/* They leave signals to the event loop. */
static int start_threads(struct pool *pool, unsigned int count, const cpu_set_t *cores)
{
	sigset_t all, before;
	char name[16];
	int result = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (pool->count < count && !result) {
		pthread_t *thread = &pool->threads[pool->count];

		result = -pthread_create(thread, NULL, work, pool);
		if (result)
			break;
		snprintf(name, sizeof(name), "viaduct-tls%u", pool->count++);
		pthread_setname_np(*thread, name);
		pthread_setaffinity_np(*thread, sizeof(*cores), cores);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return result;
}

int pool_new(struct pool **out, unsigned int count, const cpu_set_t *cores)
{
	struct pool *pool = calloc(1, sizeof(*pool));
	int result;

	if (!pool)
		return -ENOMEM;
	pool->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (pool->fd < 0) {
		result = -errno;
		free(pool);
		return result;
	}
	sem_init(&pool->waiting, 0, 0);
	pthread_mutex_init(&pool->lock, NULL);
	result = start_threads(pool, count, cores);
	if (result)
		pool_free(pool);
	else
		*out = pool;
	return result;
}

void pool_free(struct pool *pool)
{
	__atomic_store_n(&pool->ended, true, __ATOMIC_RELEASE);
	for (unsigned int i = 0; i < pool->count; i++)
		sem_post(&pool->waiting);
	for (unsigned int i = 0; i < pool->count; i++)
		pthread_join(pool->threads[i], NULL);
	pthread_mutex_destroy(&pool->lock);
	sem_destroy(&pool->waiting);
	close(pool->fd);
	free(pool);
}

void pool_submit(struct pool *pool, struct pool_job *job, bool urgent)
{
	push(&pool->queues[!urgent].inbox, job);
	sem_post(&pool->waiting);
}

int pool_fd(const struct pool *pool)
{
	return pool->fd;
}

struct pool_job *pool_take(struct pool *pool)
{
	uint64_t count;

	// read first: what comes after that makes it readable again
	while (read(pool->fd, &count, sizeof(count)) < 0 && errno == EINTR)
		;
	return take_all(&pool->done);
}
