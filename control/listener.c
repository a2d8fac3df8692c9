#include "listener.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <urcu/list.h>

#include "log.h"

enum {
	BACKLOG = 16384, // the kernel cuts it to net.core.somaxconn
	ACCEPTS = 64,    // a turn of the loop
	TURN_US = 2000,  // for handshakes in a turn of the loop; members' messages wait meanwhile
	WATCH_MS = 50,   // between looks at what is due
	EARLY_MS = 100,  // a ClientHello follows TCP's own handshake at once, and in one piece
	CLOSING = 4,     // closing connections for each handshake that is allowed
	LINES_A_SECOND = 20, // of log
	RETRY_S = 2,         // with busy: so long at least
	RETRY_SPREAD_S = 9,
};

/* Each has a list of its own, oldest first but for STATE_ACTIVE. */
enum state {
	STATE_SILENT,  // has sent nothing: costs a descriptor
	STATE_WAITING, // for its handshake to begin
	STATE_EARLY,   // in its handshake, without a whole ClientHello
	STATE_ACTIVE,
	STATE_CLOSING,
	STATES
};

struct connection {
	struct cds_list_head node;  // of its state's list
	struct cds_list_head ready; // empty unless there is something to do for it
	struct listener *listener;
	enum state state;
	uint64_t since_ms; // in this state
	uint64_t due_ms;
	int fd;
	bool entered; // counted for its source
	bool begun;   // counted for `budget`
	bool closed;
	enum admission_budget budget;
	struct offload *offload; // NULL unless an engine works for it
	bool threaded;           // a thread works for it: `job` and `handshake` are that one's
	struct pool_job job;
	int events; // that the thread's work has ended with
	uv_poll_t poll;
	struct handshake handshake;
};

/* What a paused handshake waits for. */
struct offload {
	uv_poll_t poll;
	struct connection *connection;
};

struct listening {
	struct listener *listener;
	uv_poll_t poll;
	int fd;
};

struct listener {
	struct listener_config config;
	struct listener_counters counters;
	struct admission *admission;
	uv_loop_t *loop;
	struct pool *pool; // NULL: no threads
	uv_poll_t pool_poll;
	uv_idle_t work;
	uv_timer_t watch;
	struct cds_list_head lists[STATES];
	unsigned int counts[STATES];
	struct cds_list_head ready;
	enum admission_limit blocked; // why those who wait do
	bool paused;
	bool stopped;
	unsigned int handles; // not yet closed, and connections
	unsigned int socket_count;
	struct listening sockets[CONFIG_LISTEN_MAX];
	uint64_t log_second;
	unsigned int log_lines; // of that second
	unsigned int log_left;  // lines left out
};

static void on_accept(uv_poll_t *poll, int status, int events);
static void on_work(uv_idle_t *idle);
static void on_offload_closed(uv_handle_t *handle);

static uint64_t now_ms(const struct listener *listener)
{
	return uv_now(listener->loop);
}

/* Whether there may be a line in the log: a flood must not become one of those. */
static bool may_log(struct listener *listener)
{
	uint64_t second = now_ms(listener) / 1000;

	if (second != listener->log_second) {
		if (listener->log_left)
			log_warning("handshakes refused", "not_logged=%u", listener->log_left);
		listener->log_second = second;
		listener->log_lines = 0;
		listener->log_left = 0;
	}
	if (listener->log_lines < LINES_A_SECOND) {
		listener->log_lines++;
		return true;
	}
	listener->log_left++;
	return false;
}

static void log_refused(struct connection *connection, const char *message, const char *reason)
{
	char remote[ADDRESS_TEXT];

	if (!may_log(connection->listener))
		return;
	address_format(remote, &connection->handshake.remote);
	log_warning(message, "address=%s reason=%s", remote, reason);
}

/* Connections */

static void release(struct listener *listener)
{
	if (--listener->handles)
		return;
	admission_free(listener->admission);
	free(listener);
}

static void on_connection_closed(uv_handle_t *handle)
{
	struct connection *connection = handle->data;
	struct listener *listener = connection->listener;

	close(connection->fd);
	free(connection);
	release(listener);
}

static void enter_state(struct connection *connection, enum state state, unsigned int timeout_ms)
{
	struct listener *listener = connection->listener;

	connection->state = state;
	connection->since_ms = now_ms(listener);
	connection->due_ms = connection->since_ms + timeout_ms;
	cds_list_add_tail(&connection->node, &listener->lists[state]);
	listener->counts[state]++;
}

static void leave_state(struct connection *connection)
{
	cds_list_del(&connection->node);
	connection->listener->counts[connection->state]--;
}

/* Gives others its place. */
static void leave_place(struct connection *connection)
{
	struct listener *listener = connection->listener;

	if (connection->begun) {
		admission_end(listener->admission, connection->budget);
		if (!listener->stopped && listener->counts[STATE_WAITING])
			uv_idle_start(&listener->work, on_work);
	}
	if (connection->entered)
		admission_leave(listener->admission, &connection->handshake.remote);
	connection->begun = false;
	connection->entered = false;
}

static void close_connection(struct connection *connection)
{
	if (connection->closed)
		return;
	connection->closed = true;
	if (connection->offload)
		uv_close((uv_handle_t *)&connection->offload->poll, on_offload_closed);
	leave_place(connection);
	leave_state(connection);
	cds_list_del(&connection->ready);
	handshake_end(&connection->handshake);
	uv_close((uv_handle_t *)&connection->poll, on_connection_closed);
}

static struct connection *oldest(struct listener *listener, enum state state)
{
	return cds_list_empty(&listener->lists[state])
		       ? NULL
		       : cds_list_first_entry(&listener->lists[state], struct connection, node);
}

/* Whether somebody else works for it, who will be back: meanwhile it can't be freed. */
static bool is_away(const struct connection *connection)
{
	return connection->offload || connection->threaded;
}

/* Whether it waits for us, not we for it: after a pause of ours it may have said all long ago. */
static bool is_unread(struct connection *connection)
{
	int bytes = 0;

	return !cds_list_empty(&connection->ready) ||
	       (ioctl(connection->fd, FIONREAD, &bytes) == 0 && bytes > 0);
}

/* Closes the oldest of this state that has had so many ms, and whose turn it is. Returns whether
 * there was one. */
static bool evict(struct listener *listener, enum state state, unsigned int ms)
{
	struct connection *connection;

	cds_list_for_each_entry (connection, &listener->lists[state], node) {
		if (now_ms(listener) - connection->since_ms < ms)
			break;
		if (is_away(connection) || (state != STATE_CLOSING && is_unread(connection)))
			continue;
		close_connection(connection);
		return true;
	}
	return false;
}

/* The same, of one that has had the time for its ClientHello. */
static bool evict_slow(struct listener *listener, enum state state)
{
	bool evicted = evict(listener, state, EARLY_MS);

	listener->counters.evicted += evicted;
	return evicted;
}

/* The handshake is over, one way or another; what is left is to be polite. */
static void begin_closing(struct connection *connection)
{
	struct listener *listener = connection->listener;

	leave_place(connection);
	leave_state(connection);
	enter_state(connection, STATE_CLOSING, listener->config.close_timeout_ms);
	if (listener->counts[STATE_CLOSING] >
	    CLOSING * listener->config.admission.budgets[ADMISSION_ALL].at_once)
		evict(listener, STATE_CLOSING, 0);
}

/* Keeps the books when a connection may have come into another stage. */
static void note(struct connection *connection, enum handshake_stage before,
		 enum handshake_result result)
{
	const struct handshake *handshake = &connection->handshake;
	struct listener *listener = connection->listener;
	struct listener_counters *counters = &listener->counters;

	if (handshake->result != result) {
		counters->welcomed += handshake->result == HANDSHAKE_WELCOMED;
		counters->refused += handshake->result == HANDSHAKE_REFUSED;
		if (handshake->result == HANDSHAKE_FAILED) {
			counters->failed++;
			log_refused(connection, "handshake refused", handshake->reason);
		}
	}
	if (before == HANDSHAKE_TLS && handshake->stage == HANDSHAKE_HELLO) {
		counters->resumed += handshake->resumed;
		leave_state(connection);
		enter_state(connection, STATE_ACTIVE, listener->config.hello_timeout_ms);
	} else if (connection->state == STATE_EARLY && !handshake_silent(handshake)) {
		leave_state(connection);
		enter_state(connection, STATE_ACTIVE, listener->config.tls_timeout_ms);
	}
	if (before < HANDSHAKE_SHUTDOWN && handshake->stage >= HANDSHAKE_SHUTDOWN)
		begin_closing(connection);
}

static void make_ready(struct connection *connection)
{
	struct listener *listener = connection->listener;

	// members first
	if (connection->budget == ADMISSION_MEMBER)
		cds_list_add(&connection->ready, &listener->ready);
	else
		cds_list_add_tail(&connection->ready, &listener->ready);
	uv_idle_start(&listener->work, on_work);
}

static void hear(struct connection *connection);

static void on_event(uv_poll_t *poll, int status, int events)
{
	struct connection *connection = poll->data;

	uv_poll_stop(poll);
	if (connection->state == STATE_SILENT) {
		hear(connection);
	} else if (connection->state == STATE_WAITING) {
		connection->listener->counters.failed++; // gave up
		close_connection(connection);
	} else {
		make_ready(connection);
	}
}

static void on_offload_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static void on_offload(uv_poll_t *poll, int status, int events)
{
	struct offload *offload = poll->data;
	struct connection *connection = offload->connection;

	uv_close((uv_handle_t *)poll, on_offload_closed);
	connection->offload = NULL;
	make_ready(connection);
}

/* Waits for the engine. A job that is under way can't be freed, so no time-out ends it. */
static void wait_for_engine(struct connection *connection)
{
	struct listener *listener = connection->listener;
	int fd = handshake_paused_fd(&connection->handshake);
	struct offload *offload = calloc(1, sizeof(*offload));

	listener->counters.offloaded++;
	if (!offload || fd < 0 || uv_poll_init(listener->loop, &offload->poll, fd)) {
		free(offload);
		make_ready(connection); // asks again and again, but goes on
		return;
	}
	offload->connection = connection;
	offload->poll.data = offload;
	connection->offload = offload;
	uv_poll_start(&offload->poll, UV_READABLE, on_offload);
}

static void wait_for(struct connection *connection, int events)
{
	uv_poll_start(&connection->poll,
		      (events & HANDSHAKE_READABLE ? UV_READABLE : 0) |
			      (events & HANDSHAKE_WRITABLE ? UV_WRITABLE : 0),
		      on_event);
}

/* On a thread: TLS, as far as it gets. */
static void run_tls(struct pool_job *job)
{
	struct connection *connection = caa_container_of(job, struct connection, job);

	do {
		connection->events = handshake_step(&connection->handshake);
	} while (!connection->events && connection->handshake.stage == HANDSHAKE_TLS);
}

static void hand_over(struct connection *connection)
{
	struct listener *listener = connection->listener;

	listener->counters.threaded++;
	connection->threaded = true;
	connection->job.run = run_tls;
	pool_submit(listener->pool, &connection->job, connection->budget == ADMISSION_MEMBER);
}

static void time_out(struct connection *connection);

static void take_back(struct connection *connection)
{
	connection->threaded = false;
	note(connection, HANDSHAKE_TLS, HANDSHAKE_NONE);
	if (connection->closed)
		return;
	if (connection->due_ms <= now_ms(connection->listener))
		time_out(connection);
	else if (connection->events)
		wait_for(connection, connection->events);
	else
		make_ready(connection);
}

static void on_pool(uv_poll_t *poll, int status, int events)
{
	struct listener *listener = poll->data;
	struct pool_job *job, *next;

	for (job = pool_take(listener->pool); job; job = next) {
		next = job->next;
		take_back(caa_container_of(job, struct connection, job));
	}
}

/* Does all that can be done for it now. */
static void serve(struct connection *connection)
{
	struct listener *listener = connection->listener;
	int events;

	cds_list_del_init(&connection->ready);
	if (listener->pool && connection->handshake.stage == HANDSHAKE_TLS) {
		hand_over(connection);
		return;
	}
	do {
		enum handshake_stage stage = connection->handshake.stage;
		enum handshake_result result = connection->handshake.result;

		events = handshake_step(&connection->handshake);
		note(connection, stage, result);
		if (connection->closed)
			return;
		if (connection->handshake.stage == HANDSHAKE_OVER) {
			close_connection(connection);
			return;
		}
	} while (!events);
	if (events & HANDSHAKE_PAUSED)
		wait_for_engine(connection);
	else
		wait_for(connection, events);
}

/* Begins the handshake, out of a budget that has been asked. */
static void begin(struct connection *connection, enum admission_budget budget)
{
	struct listener *listener = connection->listener;
	const int yes = 1;

	connection->budget = budget;
	connection->begun = true;
	listener->counters.of_members += budget == ADMISSION_MEMBER;
	if (handshake_begin(&connection->handshake, &listener->config.handshake, connection->fd)) {
		log_refused(connection, "connection refused", "out of memory");
		close_connection(connection);
		return;
	}
	setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	uv_poll_stop(&connection->poll);
	leave_state(connection);
	enter_state(connection, STATE_EARLY, listener->config.tls_timeout_ms);
	make_ready(connection);
}

/* Without a word, and without leaving a TIME_WAIT. */
static void close_at_once(struct connection *connection)
{
	const struct linger now = {.l_onoff = 1};

	connection->listener->counters.closed++;
	setsockopt(connection->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close_connection(connection);
}

/* Whether it is a member's address, and the budget of those allows it. */
static bool begin_as_member(struct connection *connection)
{
	struct listener *listener = connection->listener;
	enum admission_limit limit;

	if (!listener->config.known(listener->config.arg, &connection->handshake.remote))
		return false;
	limit = admission_begin(listener->admission, ADMISSION_MEMBER, now_ms(listener));
	listener->counters.over[limit]++;
	if (limit == ADMISSION_FREE)
		begin(connection, ADMISSION_MEMBER);
	return limit == ADMISSION_FREE;
}

/* A newcomer over this limit: a few are told so, the others are closed. */
static void turn_away(struct connection *connection, enum admission_limit limit)
{
	struct listener *listener = connection->listener;
	struct listener_counters *counters = &listener->counters;

	counters->over[limit]++;
	limit = admission_begin(listener->admission, ADMISSION_BUSY, now_ms(listener));
	counters->over[limit]++;
	if (limit == ADMISSION_FREE) {
		connection->handshake.retry_s =
			RETRY_S + (unsigned int)(counters->busy++ % RETRY_SPREAD_S);
		begin(connection, ADMISSION_BUSY);
	} else {
		close_at_once(connection);
	}
}

/* Lets the one who has waited for longest begin. Returns whether one has. */
static bool begin_next(struct listener *listener)
{
	struct connection *connection = oldest(listener, STATE_WAITING);

	if (!connection)
		return false;
	listener->blocked = admission_begin(listener->admission, ADMISSION_ALL, now_ms(listener));
	if (listener->blocked == ADMISSION_HANDSHAKES && evict_slow(listener, STATE_EARLY))
		listener->blocked =
			admission_begin(listener->admission, ADMISSION_ALL, now_ms(listener));
	if (listener->blocked != ADMISSION_FREE)
		return false;
	begin(connection, ADMISSION_ALL);
	return true;
}

static void on_work(uv_idle_t *idle)
{
	struct listener *listener = idle->data;
	uint64_t end = uv_hrtime() + TURN_US * UINT64_C(1000);

	do {
		if (!cds_list_empty(&listener->ready)) {
			serve(cds_list_first_entry(&listener->ready, struct connection, ready));
		} else if (!begin_next(listener)) {
			uv_idle_stop(idle);
			return;
		}
	} while (uv_hrtime() < end);
}

/* It has sent something: it begins, or waits behind those who came before it. */
static void hear(struct connection *connection)
{
	struct listener *listener = connection->listener;

	leave_state(connection);
	enter_state(connection, STATE_WAITING, listener->config.waiting_timeout_ms);
	if (listener->counts[STATE_WAITING] == 1 && begin_next(listener))
		return;
	if (begin_as_member(connection))
		return;
	if (listener->counts[STATE_WAITING] > listener->config.waiting_max)
		turn_away(connection, listener->blocked);
	else
		uv_poll_start(&connection->poll, UV_DISCONNECT, on_event);
}

static void admit(struct connection *connection)
{
	struct listener *listener = connection->listener;
	enum admission_limit limit = admission_enter(
		listener->admission, &connection->handshake.remote, now_ms(listener));
	char byte;

	connection->entered = limit == ADMISSION_FREE;
	if (limit != ADMISSION_FREE) {
		if (!begin_as_member(connection))
			turn_away(connection, limit);
		return;
	}
	if (recv(connection->fd, &byte, 1, MSG_PEEK) >= 0) {
		hear(connection);
		return;
	}
	uv_poll_start(&connection->poll, UV_READABLE, on_event);
	if (listener->counts[STATE_SILENT] > listener->config.waiting_max + 1) {
		listener->counters.evicted++;
		close_connection(oldest(listener, STATE_SILENT));
	}
}

static void open_connection(struct listener *listener, int fd,
			    const struct sockaddr_storage *address)
{
	struct connection *connection = calloc(1, sizeof(*connection));

	if (!connection || uv_poll_init(listener->loop, &connection->poll, fd)) {
		free(connection);
		close(fd);
		return;
	}
	connection->listener = listener;
	connection->fd = fd;
	connection->poll.data = connection;
	address_endpoint(&connection->handshake.remote, address);
	CDS_INIT_LIST_HEAD(&connection->ready);
	listener->handles++;
	enter_state(connection, STATE_SILENT, listener->config.tls_timeout_ms);
	admit(connection);
}

/* Time */

static void pause_accepting(struct listener *listener)
{
	listener->paused = true;
	for (unsigned int i = 0; i < listener->socket_count; i++)
		uv_poll_stop(&listener->sockets[i].poll);
}

static void resume_accepting(struct listener *listener)
{
	listener->paused = false;
	for (unsigned int i = 0; i < listener->socket_count; i++)
		uv_poll_start(&listener->sockets[i].poll, UV_READABLE, on_accept);
}

static void time_out(struct connection *connection)
{
	struct listener *listener = connection->listener;

	if (connection->state == STATE_WAITING) {
		turn_away(connection, listener->blocked);
		return;
	}
	if (connection->state != STATE_CLOSING) {
		listener->counters.timed_out++;
		log_refused(connection, "handshake timed out",
			    connection->handshake.stage == HANDSHAKE_TLS ? "no end of TLS"
									 : "no hello");
	}
	close_connection(connection);
}

static void expire(struct listener *listener, enum state state)
{
	struct connection *connection, *next;

	cds_list_for_each_entry_safe (connection, next, &listener->lists[state], node) {
		if (connection->due_ms <= now_ms(listener) && !is_away(connection))
			time_out(connection);
	}
}

static void on_watch(uv_timer_t *timer)
{
	struct listener *listener = timer->data;

	for (int state = 0; state < STATES; state++)
		expire(listener, (enum state)state);
	if (listener->counts[STATE_WAITING])
		uv_idle_start(&listener->work, on_work);
	if (listener->paused)
		resume_accepting(listener);
}

/* Accepting */

static void on_accept(uv_poll_t *poll, int status, int events)
{
	struct listening *socket = poll->data;
	struct listener *listener = socket->listener;

	for (int i = 0; i < ACCEPTS; i++) {
		struct sockaddr_storage address;
		socklen_t size = sizeof(address);
		int fd = accept4(socket->fd, (struct sockaddr *)&address, &size,
				 SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0) {
			open_connection(listener, fd, &address);
			continue;
		}
		if (errno == EAGAIN)
			return;
		if (errno == EINTR || errno == ECONNABORTED)
			continue;
		// out of descriptors or memory: make room, and try again a little later
		listener->counters.no_descriptors++;
		if (may_log(listener))
			log_error("connection refused", "reason=%s", strerror(errno));
		if (!evict_slow(listener, STATE_SILENT) && !evict_slow(listener, STATE_CLOSING))
			evict_slow(listener, STATE_EARLY);
		pause_accepting(listener);
		return;
	}
}

/* Sockets */

static int open_socket(const char *text, char *error)
{
	struct sockaddr_storage address;
	socklen_t size = address_parse(&address, text);
	const int yes = 1;
	int fd, result;

	fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		goto failed;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (address.ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &yes, sizeof(yes));
	if (!bind(fd, (struct sockaddr *)&address, size) && !listen(fd, BACKLOG))
		return fd;
failed:
	result = -errno;
	snprintf(error, CONFIG_ERROR_MAX, "control.listen: %s: %s%s", text, strerror(-result),
		 result == -EADDRINUSE      ? "; end what listens there, or choose another port"
		 : result == -EADDRNOTAVAIL ? "; no interface has this address"
		 : result == -EACCES        ? "; ports below 1024 need root"
					    : "");
	if (fd >= 0)
		close(fd);
	return result;
}

static void on_closed(uv_handle_t *handle)
{
	release(handle->data);
}

static void on_socket_closed(uv_handle_t *handle)
{
	struct listening *socket = handle->data;

	close(socket->fd);
	release(socket->listener);
}

static int start_pool(struct listener *listener, char *error)
{
	const struct listener_config *config = &listener->config;
	int result = pool_new(&listener->pool, config->threads, &config->thread_cores);

	if (result) {
		snprintf(error, CONFIG_ERROR_MAX, "crypto.threads: %s", strerror(-result));
		return result;
	}
	uv_poll_init(listener->loop, &listener->pool_poll, pool_fd(listener->pool));
	listener->pool_poll.data = listener;
	listener->handles++;
	return uv_poll_start(&listener->pool_poll, UV_READABLE, on_pool);
}

int listener_start(struct listener **out, uv_loop_t *loop, const struct listener_config *config,
		   char *error)
{
	struct listener *listener = calloc(1, sizeof(*listener));
	int result;

	if (listener)
		listener->admission = admission_new(&config->admission, uv_now(loop));
	if (!listener || !listener->admission) {
		free(listener);
		snprintf(error, CONFIG_ERROR_MAX, "out of memory");
		return -ENOMEM;
	}
	listener->config = *config;
	listener->loop = loop;
	for (int state = 0; state < STATES; state++)
		CDS_INIT_LIST_HEAD(&listener->lists[state]);
	CDS_INIT_LIST_HEAD(&listener->ready);
	uv_idle_init(loop, &listener->work);
	uv_timer_init(loop, &listener->watch);
	listener->work.data = listener;
	listener->watch.data = listener;
	listener->handles = 2;
	for (unsigned int i = 0; i < config->address_count; i++) {
		struct listening *socket = &listener->sockets[i];

		result = open_socket(config->addresses[i], error);
		if (result < 0) {
			listener_stop(listener);
			return result;
		}
		socket->fd = result;
		socket->listener = listener;
		uv_poll_init(loop, &socket->poll, socket->fd);
		socket->poll.data = socket;
		listener->socket_count++;
		listener->handles++;
	}
	if (config->threads) {
		result = start_pool(listener, error);
		if (result) {
			listener_stop(listener);
			return result;
		}
	}
	uv_timer_start(&listener->watch, on_watch, WATCH_MS, WATCH_MS);
	resume_accepting(listener);
	*out = listener;
	return 0;
}

void listener_config_limits(struct listener_config *config, const struct config_limits *limits)
{
	config->admission.budgets[ADMISSION_ALL].at_once = (unsigned int)limits->handshakes;
	config->admission.budgets[ADMISSION_ALL].per_second =
		(unsigned int)limits->handshakes_per_second;
	config->admission.budgets[ADMISSION_MEMBER].at_once =
		(unsigned int)limits->member_handshakes;
	config->admission.budgets[ADMISSION_MEMBER].per_second =
		(unsigned int)limits->member_handshakes_per_second;
	config->admission.budgets[ADMISSION_BUSY].at_once = (unsigned int)limits->busy_per_second;
	config->admission.budgets[ADMISSION_BUSY].per_second =
		(unsigned int)limits->busy_per_second;
	config->admission.source.at_once = (unsigned int)limits->source_handshakes;
	config->admission.source.per_second = (unsigned int)limits->source_handshakes_per_second;
	config->handshake.hello_max = (size_t)limits->hello_size;
	config->waiting_max = (unsigned int)limits->waiting;
	config->waiting_timeout_ms = (unsigned int)limits->waiting_timeout * 1000;
	config->tls_timeout_ms = (unsigned int)limits->tls_timeout * 1000;
	config->hello_timeout_ms = (unsigned int)limits->hello_timeout * 1000;
	config->close_timeout_ms = (unsigned int)limits->close_timeout * 1000;
}

void listener_limit(struct listener *listener, const struct config_limits *limits)
{
	listener_config_limits(&listener->config, limits);
	admission_limit(listener->admission, &listener->config.admission);
}

void listener_stop(struct listener *listener)
{
	struct connection *connection, *next;

	listener->stopped = true;
	if (listener->pool) {
		// before its threads' connections are freed, and before its descriptor is
		uv_poll_stop(&listener->pool_poll);
		uv_close((uv_handle_t *)&listener->pool_poll, on_closed);
		pool_free(listener->pool);
	}
	for (int state = 0; state < STATES; state++) {
		cds_list_for_each_entry_safe (connection, next, &listener->lists[state], node) {
			close_connection(connection);
		}
	}
	uv_close((uv_handle_t *)&listener->work, on_closed);
	uv_close((uv_handle_t *)&listener->watch, on_closed);
	for (unsigned int i = 0; i < listener->socket_count; i++)
		uv_close((uv_handle_t *)&listener->sockets[i].poll, on_socket_closed);
}

struct listener_counters listener_counters(const struct listener *listener)
{
	struct listener_counters counters = listener->counters;

	counters.open = listener->counts[STATE_EARLY] + listener->counts[STATE_ACTIVE];
	counters.waiting = listener->counts[STATE_WAITING];
	counters.silent = listener->counts[STATE_SILENT];
	return counters;
}
