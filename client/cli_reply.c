/* viaduct reply: responds to requests, by echo or by what a command prints. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli_talk.h"

/* A command at work on a request; its stdout is talk->extras[i] for jobs[i]. */
struct job {
	struct viaduct_message request; // without its payload
	pid_t pid;
	size_t length;
	char output[9000]; // no response can be longer
};

static struct {
	const char *command;                 // NULL: echo
	struct viaduct_registration service; // name NULL: none
	unsigned int count;                  // 0: until a signal
	unsigned int replied;
	struct job *jobs[TALK_EXTRA_MAX];
} replying;

static void respond(struct talk *talk, const struct viaduct_message *request, const void *data,
		    size_t length)
{
	size_t most = viaduct_payload_max(talk->peer);
	int ret;

	if (length > most && most) {
		fprintf(stderr, "viaduct: response cut from %zu to %zu bytes\n", length, most);
		length = most;
	}
	ret = viaduct_respond(talk->peer, 0, request, data, length);
	if (ret) {
		fprintf(stderr, "viaduct: no response sent: %s\n", viaduct_strerror(ret));
		return;
	}
	replying.replied++;
	if (cli_json)
		cli_print(json_pack("{so sI si}", "to", talk_id(&request->from), "tag",
				    (json_int_t)request->tag, "length", (int)length));
	if (replying.replied == replying.count)
		talk_end(talk, CLI_OK);
}

/* Starts `sh -c COMMAND` between two descriptors. */
static int spawn(pid_t *pid, int input, int output)
{
	char *const argv[] = {(char *)"sh", (char *)"-c", (char *)replying.command, NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none;
	int ret;

	sigemptyset(&none); // we block those that end us; the command must not
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
	posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
	ret = posix_spawn(pid, "/bin/sh", &actions, &attributes, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	return -ret;
}

static int job_start(struct talk *talk, const struct viaduct_message *request)
{
	struct job *job = calloc(1, sizeof(*job));
	int input, pipes[2] = {-1, -1}, ret;

	// the request in a file, so that a command that doesn't read can't hold us up
	input = memfd_create("request", MFD_CLOEXEC);
	ret = -ENOMEM;
	if (!job || input < 0)
		goto out;
	ret = -EIO;
	if (pwrite(input, request->data, request->length, 0) != (ssize_t)request->length ||
	    pipe2(pipes, O_CLOEXEC))
		goto out;
	ret = spawn(&job->pid, input, pipes[1]);
	if (ret)
		goto out;
	close(input);
	close(pipes[1]);
	job->request = *request;
	replying.jobs[talk->extra_count] = job;
	talk->extras[talk->extra_count++] = (struct pollfd){.fd = pipes[0], .events = POLLIN};
	return 0;
out:
	for (int i = 0; i < 2; i++)
		if (pipes[i] >= 0)
			close(pipes[i]);
	if (input >= 0)
		close(input);
	free(job);
	return ret;
}

/* The command has closed its output: what it has said is the response. */
static void job_end(struct talk *talk, unsigned int at)
{
	struct job *job = replying.jobs[at];
	int status = 0;

	close(talk->extras[at].fd);
	talk->extra_count--;
	talk->extras[at] = talk->extras[talk->extra_count];
	replying.jobs[at] = replying.jobs[talk->extra_count];
	waitpid(job->pid, &status, 0);
	if (status)
		fprintf(stderr, "viaduct: the command failed, no response\n");
	else
		respond(talk, &job->request, job->output, job->length);
	free(job);
}

static void job_readable(struct talk *talk, struct pollfd *fd)
{
	char beyond[512];
	struct job *job;
	unsigned int at = 0;
	ssize_t n;

	while (talk->extras[at].fd != fd->fd)
		at++;
	job = replying.jobs[at];
	if (job->length < sizeof(job->output)) {
		n = read(fd->fd, job->output + job->length, sizeof(job->output) - job->length);
		job->length += n > 0 ? (size_t)n : 0;
	} else {
		n = read(fd->fd, beyond, sizeof(beyond));
	}
	if (n <= 0)
		job_end(talk, at);
}

static void on_message(struct viaduct_peer *peer, const struct viaduct_message *message)
{
	struct talk *talk = viaduct_peer_user(peer);
	int ret;

	if (message->kind != VIADUCT_REQUEST || talk->over)
		return;
	if (!replying.command) {
		respond(talk, message, message->data, message->length);
		return;
	}
	ret = talk->extra_count < TALK_EXTRA_MAX ? job_start(talk, message) : -EAGAIN;
	if (ret)
		fprintf(stderr, "viaduct: the command can't be started: %s\n", strerror(-ret));
}

static void registered(struct viaduct_peer *peer, void *user, int error, const char *answer,
		       size_t length)
{
	json_t *json = error ? NULL : json_loadb(answer, length, 0, NULL);
	const char *detail = json_string_value(json_object_get(json, "detail"));

	if (json_is_true(json_object_get(json, "ok")))
		fprintf(stderr, "registered for %s\n", replying.service.name);
	else
		talk_end(viaduct_peer_user(peer),
			 cli_fail(CLI_FAILED, "%s can't be registered for: %s",
				  replying.service.name,
				  detail ? detail : viaduct_strerror(error)));
	json_decref(json);
}

static void reply_ready(struct talk *talk)
{
	char id[VIADUCT_ID_TEXT + 1];

	viaduct_id_format(id, viaduct_peer_id(talk->peer));
	fprintf(stderr, "replying as %s (%s)\n", viaduct_peer_name(talk->peer), id);
	if (replying.service.name &&
	    viaduct_register(talk->peer, &replying.service, registered, NULL))
		talk_end(talk,
			 cli_fail(CLI_FAILED, "%s can't be registered for", replying.service.name));
}

static int reply_run(int argc, char **argv)
{
	static const struct option options[] = {{"exec", required_argument, NULL, 'e'},
						{"echo", no_argument, NULL, 'E'},
						{"count", required_argument, NULL, 'c'},
						{"service", required_argument, NULL, 's'},
						{"weight", required_argument, NULL, 'w'},
						{"region", required_argument, NULL, 'r'},
						{"policy-version", required_argument, NULL, 'v'},
						TALK_OPTIONS,
						CLI_OPTIONS};
	struct talk talk = {
		.command = &command_reply,
		.ready = reply_ready,
		.extra = job_readable,
		.stay = true,
		.callbacks = {.message = on_message},
	};
	int option, code;

	while ((option = talk_option(&talk, argc, argv, "e:c:h", options)) != -1) {
		if (option == 'e')
			replying.command = optarg;
		else if (option == 'E')
			replying.command = NULL;
		else if (option == 's')
			replying.service.name = optarg;
		else if (option == 'r')
			replying.service.region = optarg;
		else if (option == 'w')
			replying.service.weight = (unsigned int)cli_number(
				&command_reply, "--weight", optarg, 1, 1000);
		else if (option == 'v')
			replying.service.policy_version = (unsigned int)cli_number(
				&command_reply, "--policy-version", optarg, 0, 1e9);
		else
			replying.count =
				(unsigned int)cli_number(&command_reply, "--count", optarg, 1, 1e9);
	}
	if (optind != argc)
		cli_misused(&command_reply, "it takes no arguments");
	code = talk_run(&talk);
	for (unsigned int i = 0; i < talk.extra_count; i++) {
		close(talk.extras[i].fd);
		kill(replying.jobs[i]->pid, SIGTERM);
		waitpid(replying.jobs[i]->pid, NULL, 0);
		free(replying.jobs[i]);
	}
	return code;
}

const struct command command_reply = {
	.name = "reply",
	.arguments = "[--service NAME] [--echo | --exec COMMAND] [--count N] [OPTION…]",
	.summary = "respond to requests",
	.help = "      --echo             with what was asked (the default)\n"
		"  -e, --exec COMMAND     with what this shell command prints; the request is its "
		"stdin.\n"
		"                         No response if it fails. At most 64 at the same time\n"
		"  -c, --count N          stop after N responses; else at Ctrl-C\n"
		"      --service NAME     register for this service\n"
		"      --weight N         with so much capacity, 1 to 1000\n"
		"      --region NAME      from this region\n"
		"      --policy-version N shown to operators\n" TALK_HELP
		"\nJoins again by itself whenever the relay was away.\n\n"
		"Examples:\n"
		"  viaduct reply --exec date\n"
		"  viaduct reply --exec 'tr a-z A-Z'\n",
	.run = reply_run,
};
