#include "dispatch.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "log.h"
#include "requests.h"
#include "services.h"

enum {
	TICK_MS = 10,  // workers that stay awake don't wake us
	REFILL_MS = 1, // while something waits for a worker: about what it takes for a ringful
	SWEEP_MS = 1000,
	BATCH = 32,
	BATCHES = 64,        // a tick; then others get their turn
	WAITING_MAX = 16384, // messages for a worker; peers ask again for what is dropped
};

struct waiting {
	struct cds_list_head node;
	struct forward_command command;
};

/* What a worker's ring has no room for yet. */
struct queue {
	struct cds_list_head waiting;
	unsigned int count;
};

struct dispatch {
	struct dataplane *dataplane;
	struct members *members;
	struct reputation *reputation;
	struct blocklist *blocklist;
	uv_timer_t tick;
	uv_timer_t sweep;
	uv_timer_t refill;
	uv_poll_t wake;
	int handles; // not yet closed
	struct queue queues[DATAPLANE_WORKERS_MAX];
	unsigned int waiting; // in all of them
	struct forward_event events[BATCH];
};

static size_t command_size(const struct forward_command *command)
{
	return offsetof(struct forward_command, payload) + command->payload_length;
}

static void send_waiting(struct dispatch *dispatch, struct queue *queue)
{
	struct waiting *waiting, *next;

	cds_list_for_each_entry_safe (waiting, next, &queue->waiting, node) {
		if (dataplane_send(dispatch->dataplane, &waiting->command) == -EAGAIN)
			break;
		cds_list_del(&waiting->node);
		queue->count--;
		dispatch->waiting--;
		free(waiting);
	}
}

static void on_refill(uv_timer_t *timer)
{
	struct dispatch *dispatch = timer->data;

	for (int i = 0; i < DATAPLANE_WORKERS_MAX; i++)
		send_waiting(dispatch, &dispatch->queues[i]);
	if (!dispatch->waiting)
		uv_timer_stop(timer);
}

void dispatch_send(void *arg, const struct forward_command *command)
{
	struct dispatch *dispatch = arg;
	struct queue *queue =
		&dispatch->queues[dataplane_worker_of(dispatch->dataplane, command->index)];
	struct waiting *waiting;

	// in order
	if (!queue->count && !dataplane_send(dispatch->dataplane, command))
		return;
	waiting = queue->count < WAITING_MAX ? malloc(sizeof(*waiting)) : NULL;
	if (!waiting) {
		log_debug("message dropped", "index=%u reason=%s", command->index,
			  "the worker is too far behind");
		return;
	}
	memcpy(&waiting->command, command, command_size(command));
	cds_list_add_tail(&waiting->node, &queue->waiting);
	queue->count++;
	if (!dispatch->waiting++)
		uv_timer_start(&dispatch->refill, on_refill, REFILL_MS, REFILL_MS);
}

bool dispatch_behind(void *arg)
{
	return dispatch_waiting(arg) > WAITING_MAX / 4;
}

unsigned int dispatch_waiting(const struct dispatch *dispatch)
{
	return dispatch->waiting;
}

static void take_events(struct dispatch *dispatch)
{
	uint64_t now_ms = dataplane_now_ms();
	unsigned int n = BATCH;

	for (int batch = 0; batch < BATCHES && n == BATCH; batch++) {
		n = dataplane_events(dispatch->dataplane, dispatch->events, BATCH);
		for (unsigned int i = 0; i < n; i++) {
			const struct forward_event *event = &dispatch->events[i];

			if (event->type == FORWARD_EVENT_CONTROL)
				request_handle(dispatch->members, dispatch->reputation, event,
					       now_ms);
			else if (event->type == FORWARD_EVENT_SUSPECT)
				blocklist_report(dispatch->blocklist, &event->source, now_ms);
			else
				member_event(dispatch->members, event, now_ms);
		}
	}
}

static void on_tick(uv_timer_t *timer)
{
	struct dispatch *dispatch = timer->data;

	take_events(dispatch);
	members_tick(dispatch->members, dataplane_now_ms());
	services_tick(dispatch->members->services);
}

static void on_sweep(uv_timer_t *timer)
{
	struct dispatch *dispatch = timer->data;

	members_sweep(dispatch->members, dataplane_now_ms());
	reputation_sweep(dispatch->reputation, dataplane_now_ms());
	blocklist_sweep(dispatch->blocklist, dataplane_now_ms());
}

static void on_wake(uv_poll_t *poll, int status, int events)
{
	struct dispatch *dispatch = poll->data;
	uint64_t count;

	if (read(dataplane_event_fd(dispatch->dataplane), &count, sizeof(count)) < 0 &&
	    errno != EAGAIN)
		log_error("no wake-ups", "reason=%s", strerror(errno));
	take_events(dispatch);
}

int dispatch_start(struct dispatch **out, uv_loop_t *loop, struct dataplane *dataplane,
		   struct members *members, struct reputation *reputation,
		   struct blocklist *blocklist)
{
	struct dispatch *dispatch = calloc(1, sizeof(*dispatch));
	int result;

	if (!dispatch)
		return -ENOMEM;
	dispatch->dataplane = dataplane;
	dispatch->members = members;
	dispatch->reputation = reputation;
	dispatch->blocklist = blocklist;
	for (int i = 0; i < DATAPLANE_WORKERS_MAX; i++)
		CDS_INIT_LIST_HEAD(&dispatch->queues[i].waiting);
	result = uv_poll_init(loop, &dispatch->wake, dataplane_event_fd(dataplane));
	if (result) {
		free(dispatch);
		return result;
	}
	uv_timer_init(loop, &dispatch->tick);
	uv_timer_init(loop, &dispatch->sweep);
	uv_timer_init(loop, &dispatch->refill);
	dispatch->handles = 4;
	dispatch->wake.data = dispatch;
	dispatch->tick.data = dispatch;
	dispatch->sweep.data = dispatch;
	dispatch->refill.data = dispatch;
	uv_poll_start(&dispatch->wake, UV_READABLE, on_wake);
	uv_timer_start(&dispatch->tick, on_tick, TICK_MS, TICK_MS);
	uv_timer_start(&dispatch->sweep, on_sweep, SWEEP_MS, SWEEP_MS);
	*out = dispatch;
	return 0;
}

static void on_closed(uv_handle_t *handle)
{
	struct dispatch *dispatch = handle->data;

	if (--dispatch->handles)
		return;
	free(dispatch);
}

void dispatch_stop(struct dispatch *dispatch)
{
	struct waiting *waiting, *next;

	for (int i = 0; i < DATAPLANE_WORKERS_MAX; i++) {
		cds_list_for_each_entry_safe (waiting, next, &dispatch->queues[i].waiting, node) {
			free(waiting);
		}
	}
	uv_close((uv_handle_t *)&dispatch->wake, on_closed);
	uv_close((uv_handle_t *)&dispatch->refill, on_closed);
	uv_close((uv_handle_t *)&dispatch->tick, on_closed);
	uv_close((uv_handle_t *)&dispatch->sweep, on_closed);
}
