#include "context.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "credentials.h"
#include "dial.h"
#include "lane.h"
#include "lookup.h"
#include "peer.h"
#include "session.h"
#include "tickets.h"
#include "trust.h"

enum {
	SPARE_MAX = 256,
	BUFFER_SIZE = 1 << 16,              // the largest train
	BUFFER_STRIDE = BUFFER_SIZE + 1536, // no power of two, for which a cache has few places
};

uint64_t context_now(struct viaduct *v)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	v->now = (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
	return v->now;
}

static void clock_arm(struct viaduct *v, uint64_t due)
{
	struct itimerspec spec = {0};

	if (due != UINT64_MAX) {
		spec.it_value.tv_sec = (time_t)(due / SECOND);
		spec.it_value.tv_nsec = (long)(due % SECOND) | 1; // all zero would mean never
	}
	timerfd_settime(v->clock.fd, TFD_TIMER_ABSTIME, &spec, NULL);
	v->armed = due;
}

void context_timer(struct viaduct *v, struct timer *timer, uint64_t due)
{
	// whole milliseconds, so that 10,000 timers are at most 1,000 awakenings a second
	due = (due + MILLISECOND - 1) / MILLISECOND * MILLISECOND;
	timers_add(&v->timers, timer, due);
	if (due < v->armed && !v->processing)
		clock_arm(v, due);
}

void context_timer_in(struct viaduct *v, struct timer *timer, uint64_t ns)
{
	context_timer(v, timer, context_now(v) + ns);
}

void context_timer_stop(struct viaduct *v, struct timer *timer)
{
	timers_remove(&v->timers, timer);
}

uint64_t context_jitter(uint64_t base_ms)
{
	uint64_t half = base_ms * MILLISECOND / 2, chance = 0;

	if (getrandom(&chance, sizeof(chance), GRND_NONBLOCK) < 0)
		chance = (uint64_t)clock();
	return half + chance % (half + 1);
}

int context_watch(struct viaduct *v, struct watch *watch, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = watch};

	return epoll_ctl(v->epoll, EPOLL_CTL_ADD, watch->fd, &event) ? -errno : 0;
}

void context_rewatch(struct viaduct *v, struct watch *watch, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = watch};

	epoll_ctl(v->epoll, EPOLL_CTL_MOD, watch->fd, &event);
}

void context_unwatch(struct viaduct *v, struct watch *watch)
{
	if (watch->fd < 0)
		return;
	close(watch->fd);
	watch->fd = -1;
	for (int i = v->event; i < v->event_count; i++)
		if (v->events[i].data.ptr == watch)
			v->events[i].data.ptr = NULL;
}

struct record *context_record(struct viaduct *v, size_t capacity)
{
	struct record *record = STAILQ_FIRST(&v->spare);

	if (record) {
		STAILQ_REMOVE_HEAD(&v->spare, link);
		v->spare_count--;
		if (record->capacity < capacity) {
			free(record);
			record = NULL;
		}
	}
	if (!record) {
		record = malloc(sizeof(*record) + capacity);
		if (!record)
			return NULL;
		record->capacity = (uint32_t)capacity;
	}
	record->size = 0;
	return record;
}

void context_record_free(struct viaduct *v, struct record *record)
{
	if (v->spare_count == SPARE_MAX) {
		free(record);
		return;
	}
	STAILQ_INSERT_HEAD(&v->spare, record, link);
	v->spare_count++;
}

int context_receive(struct viaduct *v, int fd)
{
	for (int i = 0; i < CONTEXT_BATCH && v->headers[i].msg_len; i++) {
		v->headers[i].msg_len = 0;
		v->headers[i].msg_hdr.msg_controllen = CONTEXT_CONTROL;
	}
	return recvmmsg(fd, v->headers, CONTEXT_BATCH, MSG_DONTWAIT, NULL);
}

static int buffers_new(struct viaduct *v)
{
	v->buffers = malloc(CONTEXT_BATCH * (size_t)BUFFER_STRIDE);
	if (!v->buffers)
		return -ENOMEM;
	for (int i = 0; i < CONTEXT_BATCH; i++) {
		v->vectors[i] = (struct iovec){v->buffers + (size_t)i * BUFFER_STRIDE, BUFFER_SIZE};
		v->headers[i].msg_hdr = (struct msghdr){.msg_iov = &v->vectors[i],
							.msg_iovlen = 1,
							.msg_control = v->controls[i],
							.msg_controllen = CONTEXT_CONTROL};
	}
	return 0;
}

struct viaduct *viaduct_new(void)
{
	struct viaduct *v = calloc(1, sizeof(*v));
	int error;

	if (!v)
		return NULL;
	LIST_INIT(&v->peers);
	STAILQ_INIT(&v->dirty);
	STAILQ_INIT(&v->flows);
	LIST_INIT(&v->remotes);
	LIST_INIT(&v->ended);
	LIST_INIT(&v->closed);
	TAILQ_INIT(&v->rekeys);
	TAILQ_INIT(&v->joins);
	STAILQ_INIT(&v->spare);
	v->dialling_max = 64;
	v->dial.fire = dial_turn;
	v->armed = UINT64_MAX;
	v->clock.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	v->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (v->clock.fd < 0 || v->epoll < 0 || context_watch(v, &v->clock, EPOLLIN) ||
	    buffers_new(v)) {
		error = errno;
		viaduct_free(v);
		errno = error;
		return NULL;
	}
	return v;
}

void context_reap(struct viaduct *v)
{
	struct viaduct_peer *peer;
	struct session *session;

	while ((session = LIST_FIRST(&v->ended)))
		session_free(session);
	while ((peer = LIST_FIRST(&v->closed)))
		peer_free(peer);
}

void viaduct_free(struct viaduct *v)
{
	struct viaduct_peer *peer;
	struct record *record;

	if (!v)
		return;
	while ((peer = LIST_FIRST(&v->peers)))
		viaduct_peer_close(peer, false);
	context_reap(v);
	lookup_free_all(v);
	tickets_free_all(v);
	credentials_free_all(v);
	trust_free_all(v);
	while ((record = STAILQ_FIRST(&v->spare))) {
		STAILQ_REMOVE_HEAD(&v->spare, link);
		free(record);
	}
	context_unwatch(v, &v->clock);
	if (v->epoll >= 0)
		close(v->epoll);
	free(v->buffers);
	free(v);
}

int viaduct_fd(const struct viaduct *v)
{
	return v->epoll;
}

void viaduct_flush(struct viaduct *v)
{
	struct session *session;

	if (STAILQ_EMPTY(&v->dirty) && STAILQ_EMPTY(&v->flows))
		return;
	context_now(v);
	while ((session = STAILQ_FIRST(&v->dirty))) {
		STAILQ_REMOVE_HEAD(&v->dirty, dirty_link);
		session->dirty = false;
		lane_seal_all(session);
	}
	flow_send_all(v);
}

/* Waits for events and handles them. Returns how many datagrams came, or a negative errno. */
static int turn(struct viaduct *v, int timeout_ms)
{
	struct timer *timer;
	uint64_t due;
	int n;

	n = epoll_wait(v->epoll, v->events, CONTEXT_EVENTS, timeout_ms);
	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	v->processing = true;
	v->received = 0;
	v->event_count = n;
	context_now(v);
	for (v->event = 0; v->event < n; v->event++) {
		struct watch *watch = v->events[v->event].data.ptr;

		if (watch && watch->ready)
			watch->ready(watch, v->events[v->event].events);
	}
	v->event_count = 0;
	if (n)
		context_now(v);
	while ((timer = v->timers.first) && timer->due <= v->now) {
		timers_remove(&v->timers, timer);
		timer->fire(timer);
	}
	viaduct_flush(v);
	context_reap(v);
	v->processing = false;

	// a clock that has run out must be set again, or its descriptor stays readable
	due = v->timers.first ? v->timers.first->due : UINT64_MAX;
	if (due < v->armed || v->armed <= v->now)
		clock_arm(v, due);
	return v->received;
}

int viaduct_process(struct viaduct *v)
{
	return turn(v, 0);
}

int viaduct_wait(struct viaduct *v, int timeout_ms)
{
	viaduct_flush(v);
	return turn(v, timeout_ms);
}

void viaduct_handshakes_limit(struct viaduct *v, unsigned int limit)
{
	v->dialling_max = limit ? limit : 1;
	context_timer(v, &v->dial, 0);
}
