#include "admin.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <urcu/list.h>

#include "ledger.h"
#include "log.h"
#include "services.h"

enum {
	BACKLOG = 16,
	CLIENTS_MAX = 64,
	LINE_MAX_BYTES = 4096,  // of a question
	SOURCES_MAX = 64,       // blocked ones that are listed
	EVENTS_MAX = 256 << 10, // bytes that wait for a client
};

struct client {
	struct cds_list_head node;
	struct admin *admin;
	uv_pipe_t pipe;
	uv_write_t write;
	char *answer; // being written, or NULL
	bool last;    // close it after the answer
	char *events; // that wait; NULL: it didn't ask for them
	size_t events_length;
	unsigned int missed; // events since they had no room
	size_t length;
	char line[LINE_MAX_BYTES];
};

struct admin {
	struct admin_subject subject;
	uv_loop_t *loop;
	uv_pipe_t pipe;
	uint64_t started_ms;
	struct cds_list_head clients;
	unsigned int client_count;
	unsigned int listeners; // clients that want events
	bool closed;            // the listening socket
	bool stopped;
};

/* Answers */

/* What the process holds: resident pages and huge pages. */
static json_int_t memory_mb(void)
{
	FILE *status = fopen("/proc/self/status", "re");
	unsigned long kib, total = 0;
	char line[256];

	if (!status)
		return 0;
	while (fgets(line, sizeof(line), status)) {
		if (sscanf(line, "VmRSS: %lu kB", &kib) == 1 ||
		    sscanf(line, "HugetlbPages: %lu kB", &kib) == 1)
			total += kib;
	}
	fclose(status);
	return (json_int_t)(total / 1024);
}

static json_t *status_workers(const struct admin_subject *subject)
{
	json_t *workers = json_array();

	for (int i = 0; i < subject->config->data.workers; i++) {
		struct dataplane_worker worker;

		dataplane_worker(subject->dataplane, (unsigned int)i, &worker);
		json_array_append_new(
			workers, json_pack("{si sI sI sI sb}", "core", worker.core, "queue",
					   (json_int_t)worker.queue, "records",
					   (json_int_t)worker.counters.records_received, "messages",
					   (json_int_t)worker.counters.messages_delivered,
					   "sleeping", worker.sleeping));
	}
	return workers;
}

static json_t *status_handshakes(const struct admin_subject *subject)
{
	const struct listener_counters counters = listener_counters(subject->listener);
	json_t *handshakes = json_pack(
		"{sI sI sI sI sI sI sI sI sI sI sI sI sI si si si}", //
		"ok", (json_int_t)counters.welcomed, "failed", (json_int_t)counters.failed,
		"refused", (json_int_t)counters.refused, "timed_out",
		(json_int_t)counters.timed_out, "resumed", (json_int_t)counters.resumed, "rekeyed",
		(json_int_t)subject->members->rekeyed, "offloaded", (json_int_t)counters.offloaded,
		"threaded", (json_int_t)counters.threaded, "of_members",
		(json_int_t)counters.of_members, "busy", (json_int_t)counters.busy, "closed",
		(json_int_t)counters.closed, "evicted", (json_int_t)counters.evicted,
		"no_descriptors", (json_int_t)counters.no_descriptors, "open", (int)counters.open,
		"waiting", (int)counters.waiting, "silent", (int)counters.silent);

	for (int limit = ADMISSION_FREE + 1; limit < ADMISSION_LIMIT_COUNT; limit++)
		json_object_set_new(handshakes, admission_limit_name((enum admission_limit)limit),
				    json_integer((json_int_t)counters.over[limit]));
	return handshakes;
}

static json_t *status(const struct admin_subject *subject, uint64_t uptime_ms)
{
	const struct members *members = subject->members;
	const struct identity *relay = subject->tls->relay;
	char id[WIRE_ID_TEXT + 1];

	wire_id_format(id, &relay->id);
	return json_pack("{sb ss ss ss ss si sI ss ss si sb sI so s{sI sI si} sI so}",            //
			 "ok", 1, "name", relay->name, "id", id, "federation", relay->federation, //
			 "version", VIADUCT_VERSION, "pid", (int)getpid(),                        //
			 "uptime_s", (json_int_t)(uptime_ms / 1000),                              //
			 "driver", dataplane_driver_name(dataplane_driver(subject->dataplane)),   //
			 "interface", subject->config->data.interface,                            //
			 "data_port", subject->config->data.port,                                 //
			 "huge_pages", dataplane_huge_pages(subject->dataplane),                  //
			 "memory_mb", memory_mb(), "workers", status_workers(subject),            //
			 "sessions", "joined", (json_int_t)members->joined, "joining",
			 (json_int_t)members->joining, "max", subject->config->session.max, //
			 "routes", (json_int_t)route_count(&members->routes),               //
			 "handshakes", status_handshakes(subject));
}

static json_t *peer(const struct member_session *session, const char *state, uint64_t now_ms)
{
	const struct member *member = session->member;
	char address[ADDRESS_TEXT] = "";

	if (session->header.length)
		address_format(address, &session->endpoint);
	return json_pack("{ss ss ss ss sI sI ss ss s{si si} si si sI sI}",                     //
			 "id", member->text, "name", member->name, "cluster", member->cluster, //
			 "state", state, "index", (json_int_t)session->index, "epoch",
			 (json_int_t)session->epoch, "cipher", wire_aead_name(session->aead),
			 "address", address, "lanes", "up", (int)session->lanes_up, "down",
			 (int)session->lanes_down, "mtu", (int)session->mtu, "level",
			 (int)member->level, "idle_ms", (json_int_t)member_idle_ms(session, now_ms),
			 "joined_s", (json_int_t)((now_ms - session->joined_ms) / 1000));
}

static json_t *peers(const struct admin_subject *subject)
{
	const struct roster_index *all = &subject->members->roster.by_id;
	uint64_t now_ms = dataplane_now_ms();
	json_t *list = json_array();

	for (size_t i = 0; i < all->count; i++) {
		const struct member *member = all->members[i];

		if (member->current)
			json_array_append_new(list, peer(member->current, "joined", now_ms));
		else if (member->next)
			json_array_append_new(list, peer(member->next, "joining", now_ms));
	}
	return json_pack("{sb so}", "ok", 1, "peers", list);
}

struct routes_walk {
	const struct members *members;
	json_t *list;
};

static int append_route(void *arg, const struct wire_id *id, uint32_t slot)
{
	const struct routes_walk *walk = arg;
	const struct groups_place *place = groups_place(&walk->members->groups, slot);
	char text[WIRE_ID_TEXT + 1], hop[GROUPS_NAME_MAX + 16];

	wire_id_format(text, id);
	if (place)
		snprintf(hop, sizeof(hop), "%s %s",
			 place->kind == GROUP_SERVICE ? "service" : "topic", place->name);
	else
		snprintf(hop, sizeof(hop), "session %u",
			 walk->members->roster.by_slot[slot]->current->index);
	json_array_append_new(walk->list, json_pack("{ss ss}", "id", text, "next_hop", hop));
	return 0;
}

static void append_topic(void *arg, const struct topic_report *report)
{
	json_array_append_new(arg, json_pack("{ss si sb sI sI sI}", "name", report->name, "members",
					     (int)report->members, "configured", report->configured,
					     "published", (json_int_t)report->counts.published,
					     "copies", (json_int_t)report->counts.copies, "refused",
					     (json_int_t)report->counts.refused));
}

static json_t *topics(const struct admin_subject *subject)
{
	json_t *list = json_array();

	topics_walk(subject->members, append_topic, list);
	return json_pack("{sb so}", "ok", 1, "topics", list);
}

static json_t *routes(const struct admin_subject *subject)
{
	struct routes_walk walk = {.members = subject->members, .list = json_array()};

	route_walk(&subject->members->routes, append_route, &walk);
	return json_pack("{sb so}", "ok", 1, "routes", walk.list);
}

static json_t *drain(const struct admin_subject *subject, const json_t *question)
{
	const json_t *seconds = json_object_get(question, "seconds");
	json_int_t number = seconds ? json_integer_value(seconds) : subject->config->drain.seconds;

	if ((seconds && !json_is_integer(seconds)) || number < 0 || number > 3600)
		return json_pack("{sb ss}", "ok", 0, "error",
				 "seconds must be a whole number from 0 to 3600");
	subject->drain(subject->arg, (unsigned int)number);
	return json_pack("{sb sI sI}", "ok", 1, "peers", (json_int_t)subject->members->present,
			 "seconds", number);
}

static void add_up(struct counters *total, const struct counters *counters)
{
	const uint64_t *from = (const uint64_t *)counters;
	uint64_t *to = (uint64_t *)total;

	for (size_t i = 0; i < sizeof(*counters) / sizeof(*from); i++)
		to[i] += from[i];
}

/* What is dropped ahead of the workers, and from whom; some of them, if there are many. */
static json_t *garbage(const struct admin_subject *subject)
{
	const struct blocklist *list = subject->blocklist;
	json_t *sources = json_array();
	uint64_t now_ms = dataplane_now_ms();

	for (unsigned int i = 0; i < list->count && json_array_size(sources) < SOURCES_MAX; i++) {
		const struct blocked *entry = &list->entries[i];
		struct endpoint at = {0};
		char address[ADDRESS_TEXT];

		if (entry->state != BLOCKED_NOW)
			continue;
		memcpy(at.ip, entry->source, sizeof(at.ip));
		address_format_ip(address, &at);
		json_array_append_new(
			sources, json_pack("{ss sI si sI}", "source", address, "dropped",
					   (json_int_t)dataplane_dropped_from(subject->dataplane,
									      entry->source),
					   "times", (int)entry->times, "for_s",
					   entry->until_ms > now_ms
						   ? (json_int_t)((entry->until_ms - now_ms) / 1000)
						   : 0));
	}
	return json_pack("{sb sI sI sI sI sI sI so}", "supported", list->works, "dropped",
			 (json_int_t)dataplane_dropped(subject->dataplane), "blocked",
			 (json_int_t)list->now, "times", (json_int_t)list->blocked, "lifted",
			 (json_int_t)list->lifted, "spared", (json_int_t)list->spared, "full",
			 (json_int_t)list->full, "sources", sources);
}

static json_t *drops(const struct admin_subject *subject)
{
	json_t *answer = json_pack("{sb}", "ok", 1), *workers = json_array(), *sum;
	struct dataplane_kernel_drops kernel;
	struct counters total;

	memset(&total, 0, sizeof(total));
	for (int i = 0; i < subject->config->data.workers; i++) {
		struct dataplane_worker worker;

		dataplane_worker(subject->dataplane, (unsigned int)i, &worker);
		add_up(&total, &worker.counters);
		json_array_append_new(workers, ledger_describe(&worker.counters));
	}
	sum = ledger_describe(&total);
	json_object_update(answer, sum);
	json_decref(sum);
	json_object_set_new(answer, "workers", workers);
	dataplane_kernel_drops(subject->dataplane, &kernel);
	json_object_set_new(answer, "kernel",
			    json_pack("{sI sI sI}", "rx_dropped", (json_int_t)kernel.rx_dropped,
				      "rx_ring_full", (json_int_t)kernel.rx_ring_full,
				      "rx_fill_empty", (json_int_t)kernel.rx_fill_empty));
	json_object_set_new(answer, "garbage", garbage(subject));
	json_object_set_new(answer, "foreign", json_integer((json_int_t)total.foreign));
	return answer;
}

/* The answer to all that is answered at once. */
static json_t *answer_now(const struct admin_subject *subject, uint64_t uptime_ms,
			  const char *command, const json_t *question)
{
	if (strcmp(command, "status") == 0)
		return status(subject, uptime_ms);
	if (strcmp(command, "peers") == 0)
		return peers(subject);
	if (strcmp(command, "routes") == 0)
		return routes(subject);
	if (strcmp(command, "topics") == 0)
		return topics(subject);
	if (strcmp(command, "drops") == 0)
		return drops(subject);
	if (strcmp(command, "trust") == 0)
		return reputation_answer(subject->reputation, question, dataplane_now_ms());
	if (strcmp(command, "reload") == 0)
		return reload_answer(subject->reload,
				     json_is_true(json_object_get(question, "dry_run")),
				     dataplane_now_ms());
	if (strcmp(command, "services") == 0)
		return services_answer(subject->members->services);
	if (strcmp(command, "service") == 0)
		return services_set(subject->members->services, question);
	if (strcmp(command, "drain") == 0)
		return drain(subject, question);
	return json_pack("{sb ss}", "ok", 0, "error",
			 "no such cmd; one of status, peers, routes, topics, drops, events, "
			 "revoke, trust, reload, services, service, drain");
}

/* Makes it a line, which is the caller's; NULL: no memory. Takes the answer. */
static char *line_of(json_t *answer)
{
	size_t size = json_dumpb(answer, NULL, 0, JSON_COMPACT);
	char *text = size ? malloc(size + 2) : NULL;

	if (text) {
		json_dumpb(answer, text, size, JSON_COMPACT);
		text[size] = '\n';
		text[size + 1] = '\0';
	}
	json_decref(answer);
	return text;
}

/* Connections */

static void free_admin(struct admin *admin)
{
	if (admin->stopped && admin->closed && admin->client_count == 0)
		free(admin);
}

static void on_client_closed(uv_handle_t *handle)
{
	struct client *client = handle->data;
	struct admin *admin = client->admin;

	free(client->answer);
	free(client->events);
	free(client);
	admin->client_count--;
	free_admin(admin);
}

static void close_client(struct client *client)
{
	if (uv_is_closing((uv_handle_t *)&client->pipe))
		return;
	client->admin->listeners -= client->events != NULL;
	revoke_forget(client->admin->subject.revoke, client);
	cds_list_del(&client->node);
	uv_close((uv_handle_t *)&client->pipe, on_client_closed);
}

static void serve(struct client *client);
static void write_events(struct client *client);
static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer);
static void on_read(uv_stream_t *stream, ssize_t length, const uv_buf_t *buffer);

static void on_written(uv_write_t *write, int result)
{
	struct client *client = write->data;

	free(client->answer);
	client->answer = NULL;
	if (result || client->last)
		close_client(client);
	else if (client->events)
		write_events(client);
	else
		serve(client);
}

static void write_answer(struct client *client, char *answer)
{
	uv_buf_t buffer;

	client->answer = answer;
	client->write.data = client;
	if (!answer) {
		close_client(client);
		return;
	}
	buffer = uv_buf_init(answer, (unsigned int)strlen(answer));
	if (uv_write(&client->write, (uv_stream_t *)&client->pipe, &buffer, 1, on_written))
		close_client(client);
}

/* Events */

/* Writes what waits, unless something is being written. */
static void write_events(struct client *client)
{
	char *events = client->events;

	if (client->answer)
		return;
	if (client->missed) {
		client->events_length +=
			(size_t)sprintf(events + client->events_length,
					"{\"event\":\"missed\",\"count\":%u}\n", client->missed);
		client->missed = 0;
	}
	if (!client->events_length)
		return;
	events[client->events_length] = '\0';
	client->events = malloc(EVENTS_MAX);
	client->events_length = 0;
	if (client->events) {
		write_answer(client, events);
	} else {
		free(events);
		client->admin->listeners--;
		close_client(client);
	}
}

static void add_event(struct client *client, const char *line, size_t length)
{
	enum { MISSED_MAX = 64 }; // bytes of that line

	if (client->missed || client->events_length + length + MISSED_MAX > EVENTS_MAX) {
		client->missed++;
		return;
	}
	memcpy(client->events + client->events_length, line, length);
	client->events_length += length;
	write_events(client);
}

static json_t *event_json(const struct member_news *news)
{
	const struct member_session *session = news->session;
	char id[WIRE_ID_TEXT + 1], address[ADDRESS_TEXT];
	struct timespec now;
	json_t *event;

	clock_gettime(CLOCK_REALTIME, &now);
	wire_id_format(id, session ? &session->member->id : news->id);
	event = json_pack("{sf ss ss ss?}", "time", (double)now.tv_sec + (double)now.tv_nsec / 1e9,
			  "event", news->event, "id", id, "name",
			  session ? session->member->name : news->name);
	if (session) {
		address_format(address, &session->endpoint);
		json_object_set_new(event, "cluster", json_string(session->member->cluster));
		json_object_set_new(event, "index", json_integer((json_int_t)session->index));
		json_object_set_new(event, "address", json_string(address));
	}
	if (strcmp(news->event, "throttled") == 0 || strcmp(news->event, "recovered") == 0)
		json_object_set_new(event, "level", json_integer(news->level));
	return event;
}

void admin_tell(void *arg, const struct member_news *news)
{
	struct admin *admin = arg;
	struct client *client, *next;
	char *line = NULL;
	json_t *event;

	if (!admin->listeners)
		return;
	event = event_json(news);
	line = json_dumps(event, JSON_COMPACT);
	json_decref(event);
	if (!line)
		return;
	cds_list_for_each_entry_safe (client, next, &admin->clients, node) {
		if (client->events) {
			size_t length = strlen(line);

			line[length] = '\n';
			add_event(client, line, length + 1);
			line[length] = '\0';
		}
	}
	free(line);
}

/* Events from now on; what the client still says is of no interest. */
static void subscribe(struct client *client)
{
	client->events = malloc(EVENTS_MAX);
	client->length = 0;
	if (!client->events) {
		close_client(client);
		return;
	}
	client->admin->listeners++;
	write_answer(client, strdup("{\"ok\":true}\n"));
	if (uv_read_start((uv_stream_t *)&client->pipe, on_alloc, on_read))
		close_client(client);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
	struct client *client = handle->data;

	*buffer = uv_buf_init(client->line + client->length,
			      (unsigned int)(sizeof(client->line) - client->length));
}

static void on_read(uv_stream_t *stream, ssize_t length, const uv_buf_t *buffer)
{
	struct client *client = stream->data;

	if (length < 0) {
		close_client(client);
		return;
	}
	if (client->events)
		return;
	client->length += (size_t)length;
	serve(client);
}

static void on_answer(void *arg, json_t *answer)
{
	write_answer(arg, line_of(answer));
}

static void ask(struct client *client, const json_t *question)
{
	const char *command = json_string_value(json_object_get(question, "cmd"));
	const struct admin *admin = client->admin;

	if (!command)
		on_answer(client, json_pack("{sb ss}", "ok", 0, "error",
					    "a question is one JSON object a line, with cmd"));
	else if (strcmp(command, "events") == 0)
		subscribe(client);
	else if (strcmp(command, "revoke") == 0)
		revoke_ask(admin->subject.revoke, question, dataplane_now_ms(), on_answer, client);
	else
		on_answer(client,
			  answer_now(&admin->subject, uv_now(admin->loop) - admin->started_ms,
				     command, question));
}

/* Answers the first line that is there, or reads on. One at a time, so that who doesn't read waits.
 */
static void serve(struct client *client)
{
	char *end = memchr(client->line, '\n', client->length);
	json_t *question;
	size_t used;

	if (!end && client->length < sizeof(client->line)) {
		if (uv_read_start((uv_stream_t *)&client->pipe, on_alloc, on_read))
			close_client(client);
		return;
	}
	uv_read_stop((uv_stream_t *)&client->pipe);
	if (!end) {
		client->last = true;
		write_answer(client, strdup("{\"ok\":false,\"error\":\"the line is too long\"}\n"));
		return;
	}
	used = (size_t)(end - client->line) + 1;
	question = json_loadb(client->line, used - 1, JSON_REJECT_DUPLICATES, NULL);
	client->length -= used;
	memmove(client->line, client->line + used, client->length);
	ask(client, question);
	json_decref(question);
}

static void on_connection(uv_stream_t *server, int status)
{
	struct admin *admin = server->data;
	struct client *client = calloc(1, sizeof(*client));

	if (status || !client) {
		free(client);
		return;
	}
	client->admin = admin;
	client->pipe.data = client;
	uv_pipe_init(admin->loop, &client->pipe, 0);
	cds_list_add_tail(&client->node, &admin->clients);
	admin->client_count++;
	if (uv_accept(server, (uv_stream_t *)&client->pipe) || admin->client_count > CLIENTS_MAX)
		close_client(client);
	else
		serve(client);
}

/* The socket */

/* Takes away a socket that nobody listens on. */
static int make_way(const char *path, char *error)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct stat status;
	int fd, result;

	if (strlen(path) >= sizeof(address.sun_path)) {
		snprintf(error, CONFIG_ERROR_MAX,
			 "control.admin: %s: is too long; at most %zu bytes", path,
			 sizeof(address.sun_path) - 1);
		return -ENAMETOOLONG;
	}
	strcpy(address.sun_path, path);
	if (strncmp(path, CONFIG_FOLDER "/", sizeof(CONFIG_FOLDER)) == 0)
		mkdir(CONFIG_FOLDER, 0755); // if it fails, so will bind()
	if (lstat(path, &status))
		return 0;
	if (!S_ISSOCK(status.st_mode)) {
		snprintf(error, CONFIG_ERROR_MAX, "control.admin: %s: is there, and not a socket",
			 path);
		return -EEXIST;
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return 0;
	result = connect(fd, (struct sockaddr *)&address, sizeof(address)) ? -errno : 0;
	close(fd);
	if (result == 0 || result == -EAGAIN) {
		snprintf(error, CONFIG_ERROR_MAX,
			 "control.admin: %s: another process listens there; end it, or choose "
			 "another path",
			 path);
		return -EADDRINUSE;
	}
	unlink(path);
	return 0;
}

static void on_pipe_closed(uv_handle_t *handle)
{
	struct admin *admin = handle->data;

	admin->closed = true;
	free_admin(admin);
}

int admin_start(struct admin **out, uv_loop_t *loop, const struct admin_subject *subject,
		char *error)
{
	const char *path = subject->config->control.admin;
	struct admin *admin;
	mode_t mask;
	int result;

	result = make_way(path, error);
	if (result)
		return result;
	admin = calloc(1, sizeof(*admin));
	if (!admin) {
		snprintf(error, CONFIG_ERROR_MAX, "out of memory");
		return -ENOMEM;
	}
	admin->subject = *subject;
	admin->loop = loop;
	admin->started_ms = uv_now(loop);
	CDS_INIT_LIST_HEAD(&admin->clients);
	uv_pipe_init(loop, &admin->pipe, 0);
	admin->pipe.data = admin;
	mask = umask(0177);
	result = uv_pipe_bind(&admin->pipe, path);
	umask(mask);
	if (!result)
		result = uv_listen((uv_stream_t *)&admin->pipe, BACKLOG, on_connection);
	if (result) {
		snprintf(error, CONFIG_ERROR_MAX, "control.admin: %s: %s", path, strerror(-result));
		admin_stop(admin);
		return result;
	}
	*out = admin;
	return 0;
}

void admin_stop(struct admin *admin)
{
	struct client *client, *next;

	admin->stopped = true;
	cds_list_for_each_entry_safe (client, next, &admin->clients, node) {
		close_client(client);
	}
	uv_close((uv_handle_t *)&admin->pipe, on_pipe_closed);
}
