#include "relay.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "measure.h"

enum {
	READY_S = 30,
	DESCRIPTORS = 200, // for all but peers
};

void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", program_invocation_short_name, what);
	exit(EXIT_FAILURE);
}

void relay_find(struct relay *relay)
{
	relay->lab = getenv("LAB_FOLDER");
	relay->netns = getenv("LAB_RELAY");
	relay->build = getenv("LAB_BUILD");
	if (!relay->lab || !relay->netns || !relay->build)
		die("is run by the program of this name without -peers");
}

json_t *relay_ask(const struct relay *relay, const char *question)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	json_t *answer = NULL;
	FILE *stream;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/viaduct.sock", relay->lab);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0 ||
	    dprintf(fd, "{\"cmd\":\"%s\"}\n", question) < 0) {
		close(fd);
		return NULL;
	}
	stream = fdopen(fd, "r");
	if (stream) {
		answer = json_loadf(stream, JSON_DISABLE_EOF_CHECK, NULL);
		fclose(stream);
	}
	return answer;
}

json_int_t relay_number(const struct relay *relay, const char *section, const char *key)
{
	json_t *status = relay_ask(relay, "status");
	json_int_t value =
		json_integer_value(json_object_get(json_object_get(status, section), key));

	json_decref(status);
	return value;
}

void relay_start(struct relay *relay, const char *config)
{
	char daemon[4096], file[4096], log[4096];
	uint64_t deadline = now_ns() + READY_S * SECOND;
	json_t *status = NULL;

	snprintf(daemon, sizeof(daemon), "%s/control/viaductd", relay->build);
	snprintf(file, sizeof(file), "%s/%s.yaml", relay->lab, config);
	snprintf(log, sizeof(log), "%s/viaductd.log", relay->lab);
	relay->pid = fork();
	if (relay->pid == 0) {
		int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(fd, STDERR_FILENO);
		execlp("ip", "ip", "netns", "exec", relay->netns, daemon, "-c", file, (char *)NULL);
		_exit(127);
	}
	while (!status && now_ns() < deadline) {
		if (waitpid(relay->pid, NULL, WNOHANG) == relay->pid)
			die("the relay ended; see viaductd.log in the lab's folder");
		usleep(20000);
		status = relay_ask(relay, "status");
	}
	if (!status)
		die("the relay did not get ready");
	json_decref(status);
}

void relay_end(struct relay *relay, int signal)
{
	kill(relay->pid, signal);
	waitpid(relay->pid, NULL, 0);
}

/* Seconds that one of its threads has run; proc(5). */
static double thread_cpu(const struct relay *relay, int thread)
{
	unsigned long long ns = 0;
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/schedstat", relay->pid, thread);
	file = fopen(path, "re");
	if (!file || fscanf(file, "%llu", &ns) != 1)
		die("no schedstat of a thread of the relay");
	fclose(file);
	return (double)ns / 1e9;
}

double relay_cpu(const struct relay *relay)
{
	return thread_cpu(relay, relay->pid); // the main thread is the control thread
}

double relay_helpers_cpu(const struct relay *relay)
{
	char path[300], name[32];
	struct dirent *task;
	double sum = 0;
	FILE *file;
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%d/task", relay->pid);
	tasks = opendir(path);
	while (tasks && (task = readdir(tasks))) {
		snprintf(path, sizeof(path), "/proc/%d/task/%s/comm", relay->pid, task->d_name);
		file = *task->d_name == '.' ? NULL : fopen(path, "re");
		if (!file)
			continue;
		if (fgets(name, sizeof(name), file) && strncmp(name, "viaduct-tls", 11) == 0)
			sum += thread_cpu(relay, atoi(task->d_name));
		fclose(file);
	}
	if (tasks)
		closedir(tasks);
	return sum;
}

void relay_workers_first(const struct relay *relay)
{
	const struct sched_param first = {.sched_priority = 1};
	char path[300], name[32];
	struct dirent *entry;
	FILE *file;
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%d/task", relay->pid);
	tasks = opendir(path);
	while (tasks && (entry = readdir(tasks))) {
		snprintf(path, sizeof(path), "/proc/%d/task/%s/comm", relay->pid, entry->d_name);
		file = fopen(path, "re");
		if (!file)
			continue;
		if (fgets(name, sizeof(name), file) && strncmp(name, "viaduct-w", 9) == 0 &&
		    sched_setscheduler(atoi(entry->d_name), SCHED_FIFO, &first) != 0)
			die("can't give the workers their priority");
		fclose(file);
	}
	if (tasks)
		closedir(tasks);
}

struct viaduct_peer *relay_peer_open(const struct relay *relay, struct viaduct *viaduct,
				     unsigned int number, const struct viaduct_callbacks *callbacks,
				     void *user)
{
	char ca[4096], certificate[4096], key[4096];
	struct viaduct_config config = {
		.relay = "10.77.0.1:7740",
		.ca = ca,
		.certificate = certificate,
		.key = key,
		.user = user,
	};
	struct viaduct_peer *peer;

	snprintf(ca, sizeof(ca), "%s/pki/ca.pem", relay->lab);
	snprintf(certificate, sizeof(certificate), "%s/pki/peer-%u.pem", relay->lab, number);
	snprintf(key, sizeof(key), "%s/pki/peer-%u.key", relay->lab, number);
	if (viaduct_peer_open(&peer, viaduct, &config, callbacks))
		die(viaduct_open_error(viaduct));
	return peer;
}

void pass_time(struct viaduct *viaduct, double seconds)
{
	uint64_t end = now_ns() + (uint64_t)(seconds * 1e9);

	while (now_ns() < end)
		viaduct_wait(viaduct, 10);
}

unsigned int descriptors_raise(unsigned int peers)
{
	rlim_t wanted = 2 * (rlim_t)peers + DESCRIPTORS;
	struct rlimit limit = {wanted, wanted};

	if (setrlimit(RLIMIT_NOFILE, &limit) == 0 || getrlimit(RLIMIT_NOFILE, &limit) != 0)
		return peers;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_max >= wanted)
		return peers;
	if (limit.rlim_max < peers + 2 * DESCRIPTORS)
		die("may open too few files (ulimit -n)");
	return (unsigned int)limit.rlim_max - peers - DESCRIPTORS;
}
