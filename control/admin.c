#include "admin.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <urcu/list.h>

#include "log.h"

enum {
	BACKLOG = 16,
	CLIENTS_MAX = 64,
	LINE_MAX_BYTES = 4096,  // of a question
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
	struct commands_subject subject;
	uv_loop_t *loop;
	uv_pipe_t pipe;
	uint64_t started_ms;
	struct cds_list_head clients;
	unsigned int client_count;
	unsigned int listeners; // clients that want events
	bool closed;            // the listening socket
	bool stopped;
};

/* Connections */

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
			  commands_answer(&admin->subject, uv_now(admin->loop) - admin->started_ms,
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
	// with a full backlog it would wait for who listens
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
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

int admin_start(struct admin **out, uv_loop_t *loop, const struct commands_subject *subject,
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
