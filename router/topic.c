#include "topic.h"

#include "drop.h"
#include "pack.h"

#define SECOND UINT64_C(1000000000) // ns

bool topic_admit(uint64_t *due_ns, uint32_t per_s, uint64_t now_ms)
{
	uint64_t now = now_ms * (SECOND / 1000), due, then;

	if (!per_s)
		return true;
	due = __atomic_load_n(due_ns, __ATOMIC_RELAXED);
	do {
		then = (due > now ? due : now) + SECOND / per_s;
		if (then > now + SECOND)
			return false;
	} while (!__atomic_compare_exchange_n(due_ns, &due, then, true, __ATOMIC_RELAXED,
					      __ATOMIC_RELAXED));
	return true;
}

static void count(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

/* Queues and jobs */

static struct topic_queue *find_queue(struct topic_worker *worker, uint32_t slot,
				      const struct wire_id *id, uint8_t class)
{
	for (unsigned int i = 0; i < worker->queue_count; i++) {
		struct topic_queue *queue = &worker->queues[i];

		if (queue->slot == slot && queue->class == class && wire_id_equal(&queue->id, id))
			return queue;
	}
	return NULL;
}

/* The queue for a topic and class that has room for one more; NULL: there is none. */
static struct topic_queue *get_queue(struct topic_worker *worker, uint32_t slot,
				     const struct wire_id *id, uint8_t class)
{
	struct topic_queue *queue = find_queue(worker, slot, id, class);

	if ((!worker->free_job && worker->jobs_used == TOPIC_JOBS) ||
	    (!worker->free_held && worker->held_used == TOPIC_HELD))
		return NULL;
	if (queue)
		return queue->count < TOPIC_JOBS_EACH ? queue : NULL;
	if (worker->queue_count == TOPIC_QUEUES)
		return NULL;
	queue = &worker->queues[worker->queue_count++];
	*queue = (struct topic_queue){.id = *id, .slot = slot, .class = class};
	return queue;
}

/* Takes over the buffer of an input, or notes that one more of its messages needs it. */
static uint16_t hold(struct topic_worker *worker, struct forward_input *input)
{
	struct topic_held *held;

	// a record's messages come one after the other: what took its buffer was the last
	if (!input->buffer) {
		worker->held[worker->newest_held].jobs++;
		return worker->newest_held;
	}
	worker->newest_held = worker->free_held;
	if (worker->newest_held)
		worker->free_held = worker->held[worker->newest_held].next;
	else
		worker->newest_held = ++worker->held_used;
	held = &worker->held[worker->newest_held];
	held->buffer = input->buffer;
	held->jobs = 1;
	input->buffer = NULL;
	return worker->newest_held;
}

static void let_go(struct forward *forward, uint16_t number)
{
	struct topic_worker *worker = &forward->topics;
	struct topic_held *held = &worker->held[number];

	if (--held->jobs)
		return;
	forward->ops->release(forward->worker, &held->buffer, 1);
	held->next = worker->free_held;
	worker->free_held = number;
}

static struct topic_job *add_job(struct topic_worker *worker, struct topic_queue *queue)
{
	uint16_t number = worker->free_job;

	if (number)
		worker->free_job = worker->jobs[number].next;
	else
		number = ++worker->jobs_used;
	if (queue->count++)
		worker->jobs[queue->last].next = number;
	else
		queue->first = number;
	queue->last = number;
	return &worker->jobs[number];
}

/* Ends the first `n` jobs of a queue. */
static void end_jobs(struct forward *forward, struct topic_queue *queue, unsigned int n)
{
	struct topic_worker *worker = &forward->topics;

	for (; n; n--) {
		uint16_t number = queue->first;
		struct topic_job *job = &worker->jobs[number];

		queue->first = job->next;
		queue->count--;
		let_go(forward, job->held);
		job->next = worker->free_job;
		worker->free_job = number;
	}
}

/* Publishing */

/* Why a message isn't taken; DROP_MESSAGE_COUNT: it is, and `queue` is where. */
static enum drop_message refuse(struct forward *forward, struct topic *topic, uint32_t slot,
				const struct forward_message *message, uint64_t now_ms,
				struct topic_queue **queue)
{
	const struct forward_record *in = message->in;

	if (message->kind != WIRE_PUBLISH || forward_class(in) == WIRE_CONTROL)
		return DROP_MESSAGE_UNSUPPORTED;
	if (message->data[3] >> WIRE_HOP_SHIFT == 0)
		return DROP_MESSAGE_HOP_LIMIT;
	if (!topic_admit(&in->session->state->published_ns,
			 __atomic_load_n(&topic->publisher_rate, __ATOMIC_RELAXED), now_ms))
		return DROP_MESSAGE_PUBLISHER_RATE;
	if (!topic_admit(&topic->due_ns, __atomic_load_n(&topic->rate, __ATOMIC_RELAXED), now_ms))
		return DROP_MESSAGE_TOPIC_RATE;
	*queue = get_queue(&forward->topics, slot, (const struct wire_id *)(message->data + 8),
			   forward_class(in));
	return *queue ? DROP_MESSAGE_COUNT : DROP_MESSAGE_TOPIC_FULL;
}

void topic_publish(struct forward *forward, struct topic *topic, uint32_t slot,
		   struct forward_message *message, uint64_t now_ms)
{
	struct topic_counts *counts = &topic->counts[forward->number];
	const struct session *from = message->in->session;
	struct topic_queue *queue = NULL;
	enum drop_message reason;
	struct topic_job *job;

	reason = refuse(forward, topic, slot, message, now_ms, &queue);
	if (reason != DROP_MESSAGE_COUNT) {
		count(&counts->refused, 1);
		message->kind &= ~(message->marks & FORWARD_FLAGGED);
		if (reason == DROP_MESSAGE_PUBLISHER_RATE)
			session_mark(from, forward->number, SESSION_MARK_LIMIT);
		drop_message(forward, message, reason, now_ms);
		return;
	}
	counters_consumed(&forward->counters, queue->class);
	count(&counts->published, 1);
	job = add_job(&forward->topics, queue);
	job->held = hold(&forward->topics, message->in->input);
	job->from = wire_slot(from->index);
	job->cluster = from->cluster;
	job->payload = message->data + WIRE_MESSAGE_HEADER;
	job->length = message->size - WIRE_MESSAGE_HEADER;
	memcpy(job->header, message->data, 8);
	job->header[3] -= 1 << WIRE_HOP_SHIFT;
	job->header[3] |= WIRE_FLAG_VIA;
	memcpy(job->header + 8, &from->id, WIRE_ID_SIZE);
	memcpy(job->header + WIRE_MESSAGE_HEADER, message->data + 8, WIRE_VIA_SIZE);
}

/* Copying */

/* Where the members from slot `at` on begin. */
static uint32_t seek(const struct topic_members *members, uint32_t at)
{
	uint32_t low = 0, high = members->count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (members->slots[middle] < at)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* What members of one topic are served with. */
struct batch {
	const struct policy *policy;
	uint64_t now_ms;
	const struct topic_job *jobs[TOPIC_BATCH];
	struct pack_text text; // of all of them
	bool alike;            // all come from one slot, and cluster:
	uint32_t from;
	uint16_t cluster;
};

static uint16_t job_size(const struct topic_job *job)
{
	return TOPIC_HEADER + job->length;
}

static uint8_t *put_job(uint8_t *at, const struct topic_job *job)
{
	memcpy(at, job->header, TOPIC_HEADER);
	memcpy(at + TOPIC_HEADER, job->payload, job->length);
	return at + job_size(job);
}

/*
 * The jobs that a queue's next members get, all that fit into one record or else one. False: there
 * is no room for their text in this turn.
 */
static bool get_batch(struct topic_worker *worker, struct topic_queue *queue, struct batch *batch)
{
	unsigned int most = queue->batch ? queue->batch : TOPIC_BATCH, n = 0;
	uint8_t *at = worker->texts + worker->texts_used;
	size_t size = 0;

	batch->alike = true;
	for (uint16_t number = queue->first; n < most && n < queue->count; n++) {
		const struct topic_job *job = &worker->jobs[number];

		if (!queue->batch && n && size + job_size(job) > TOPIC_BATCH_SIZE)
			break;
		size += job_size(job);
		batch->jobs[n] = job;
		if (!n) {
			batch->from = job->from;
			batch->cluster = job->cluster;
		}
		batch->alike &= job->from == batch->from && job->cluster == batch->cluster;
		number = job->next;
	}
	if (size > TOPIC_TEXTS - worker->texts_used)
		return false;
	worker->texts_used += size;
	batch->text.bytes = at;
	batch->text.size = (uint16_t)size;
	batch->text.messages = (uint16_t)n;
	batch->text.class = queue->class;
	for (unsigned int i = 0; i < n; i++)
		at = put_job(at, batch->jobs[i]);
	if (!queue->batch)
		queue->at = 0;
	queue->batch = (uint8_t)n;
	return true;
}

/* Whether a session can be sent so much. */
static inline bool takes(const struct session *to, size_t size)
{
	return to->header.length && size + WIRE_RECORD_OVERHEAD <= to->record_max;
}

static inline bool denies(const struct batch *batch, uint16_t cluster, const struct session *to)
{
	return batch->policy && !policy_allows(batch->policy, cluster, to->cluster);
}

/* Whether a member gets all of a batch, as most do. */
static inline bool is_plain(const struct batch *batch, const struct session *to, uint32_t slot)
{
	return batch->alike && to && slot != batch->from && takes(to, batch->text.size) &&
	       !denies(batch, batch->cluster, to);
}

/*
 * Copies what one member gets of a batch; false: not now, there is no buffer to be had. Whatever is
 * not copied is counted, but its publisher isn't told.
 */
static bool __attribute__((noinline)) copy_some(struct forward *forward, const struct session *to,
						uint32_t slot, const struct batch *batch)
{
	enum drop_message reason = DROP_MESSAGE_NO_ROUTE;
	const struct topic_job *wanted[TOPIC_BATCH];
	unsigned int copies = 0, denied = 0;
	uint8_t class = batch->text.class;
	uint8_t *at = NULL;
	size_t size = 0;

	for (unsigned int i = 0; i < batch->text.messages; i++) {
		const struct topic_job *job = batch->jobs[i];

		if (job->from == slot)
			continue;
		if (to && denies(batch, job->cluster, to)) {
			denied++;
			continue;
		}
		size += job_size(job);
		wanted[copies++] = job;
	}
	if (copies && to && to->header.length)
		reason = DROP_MESSAGE_TOO_LARGE;
	if (copies && to && takes(to, size)) {
		if (copies == batch->text.messages)
			return pack_copies(forward, &to, 1, &batch->text, batch->now_ms);
		at = pack_room(forward, to, class, (uint16_t)size, copies, batch->now_ms, &reason);
		if (reason == DROP_MESSAGE_NO_BUFFER)
			return false;
	}
	counters_copied(&forward->counters, class, copies + denied);
	counters_dropped(&forward->counters, class, DROP_MESSAGE_POLICY, denied);
	if (!at)
		counters_dropped(&forward->counters, class, reason, copies);
	for (unsigned int i = 0; at && i < copies; i++)
		at = put_job(at, wanted[i]);
	return true;
}

/* Serves `n` (up to TOPIC_TURN) members; returns how many until there were no buffers. */
static unsigned int serve(struct forward *forward, const uint32_t *slots, unsigned int n,
			  const struct batch *batch)
{
	const struct session_slot *table = forward->sessions->slot;
	const struct session *to[TOPIC_TURN];
	unsigned int done = 0, plain;

	for (unsigned int i = 0; i < n; i++)
		__builtin_prefetch(&table[slots[i]]);
	for (unsigned int i = 0; i < n; i++) {
		to[i] = rcu_dereference(table[slots[i]].current);
		if (to[i])
			session_prefetch(to[i]);
	}
	for (unsigned int i = 0; i < n; i++) {
		if (to[i])
			__builtin_prefetch(session_tx_lane(to[i], forward->number), 1);
	}
	while (done < n) {
		for (plain = 0; done + plain < n; plain++) {
			if (!is_plain(batch, to[done + plain], slots[done + plain]))
				break;
		}
		if (plain) {
			unsigned int served =
				pack_copies(forward, &to[done], plain, &batch->text, batch->now_ms);

			done += served;
			if (served < plain)
				break;
		} else {
			if (!copy_some(forward, to[done], slots[done], batch))
				break;
			done++;
		}
	}
	return done;
}

/* The topic of a queue, NULL: it is no more. */
static struct topic *find_topic(const struct forward *forward, const struct topic_queue *queue)
{
	const struct session_slot *slot = &forward->sessions->slot[queue->slot];
	struct group *group = rcu_dereference(slot->group);

	if (!group || group->kind != GROUP_TOPIC || !wire_id_equal(&slot->id, &queue->id))
		return NULL;
	return caa_container_of(group, struct topic, group);
}

/*
 * Serves up to `most` of a queue's next members. Returns how many; more than `most`: there are no
 * buffers, or no room, to go on with.
 */
static unsigned int go_on(struct forward *forward, struct topic_queue *queue, unsigned int most,
			  uint64_t now_ms)
{
	struct batch batch = {
		.policy = rcu_dereference(forward->sessions->policy),
		.now_ms = now_ms,
	};
	struct topic *topic = find_topic(forward, queue);
	const struct topic_members *members;
	uint64_t before = forward->counters.messages_copies;
	uint32_t from, n, served;

	if (!topic) {
		end_jobs(forward, queue, queue->count);
		return 0;
	}
	if (!get_batch(&forward->topics, queue, &batch))
		return most + 1;
	members = rcu_dereference(topic->members);
	from = seek(members, queue->at);
	n = members->count - from;
	if (n > most)
		n = most;
	served = serve(forward, members->slots + from, n, &batch);
	count(&topic->counts[forward->number].copies, forward->counters.messages_copies - before);
	if (from + served < members->count) {
		queue->at = members->slots[from + served];
	} else {
		end_jobs(forward, queue, queue->batch);
		queue->batch = 0;
	}
	return served < n ? most + 1 : served;
}

/* The queue to be served first. */
static unsigned int choose(const struct topic_worker *worker)
{
	unsigned int chosen = 0;

	for (unsigned int i = 1; i < worker->queue_count; i++) {
		if (worker->queues[i].class > worker->queues[chosen].class)
			chosen = i;
	}
	return chosen;
}

void topic_turn(struct forward *forward, uint64_t now_ms)
{
	struct topic_worker *worker = &forward->topics;
	unsigned int left = TOPIC_TURN;

	worker->texts_used = 0;
	while (worker->queue_count && left) {
		unsigned int chosen = choose(worker);
		struct topic_queue queue = worker->queues[chosen];
		// a batch without members is work, too
		unsigned int served = go_on(forward, &queue, left, now_ms) + 1;

		left -= served < left ? served : left;
		// behind all others, or away
		worker->queue_count--;
		memmove(&worker->queues[chosen], &worker->queues[chosen + 1],
			(worker->queue_count - chosen) * sizeof(queue));
		if (queue.count)
			worker->queues[worker->queue_count++] = queue;
	}
}

void topic_fini(struct forward *forward)
{
	struct topic_worker *worker = &forward->topics;

	for (unsigned int i = 0; i < worker->queue_count; i++)
		end_jobs(forward, &worker->queues[i], worker->queues[i].count);
	worker->queue_count = 0;
}
