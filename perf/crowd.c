#include "crowd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "histogram.h"
#include "measure.h"

enum {
	PAYLOAD = 64,
	BURST = 64, // messages that are caught up with at once
	LEAVE_S = 5,
};

struct talk {
	struct viaduct *viaduct;
	struct viaduct_peer **peers;
	unsigned int count, joined;
	bool marked, failed;
	uint64_t sent, received;
	struct histogram before, during;
};

struct note {
	uint64_t sent_ns;
	uint64_t marked;
	uint8_t padding[PAYLOAD - 16];
};

static void on_joined(struct viaduct_peer *peer)
{
	struct talk *talk = viaduct_peer_user(peer);

	talk->joined++;
}

static void on_failed(struct viaduct_peer *peer, int error, const char *text, int retry_ms)
{
	struct talk *talk = viaduct_peer_user(peer);

	// before, it was told to wait, or has waited for too long, and tries again
	if (talk->sent)
		talk->failed = true;
}

static void on_closed(struct viaduct_peer *peer)
{
	struct talk *talk = viaduct_peer_user(peer);

	talk->joined--;
}

static void on_message(struct viaduct_peer *peer, const struct viaduct_message *message)
{
	struct talk *talk = viaduct_peer_user(peer);
	struct note note;

	if (message->length != sizeof(note))
		return;
	memcpy(&note, message->data, sizeof(note));
	talk->received++;
	histogram_add(note.marked ? &talk->during : &talk->before, now_ns() - note.sent_ns);
}

/*
 * Each in its turn sends to its neighbour, until `stop` ends; a byte there is the mark. What is to
 * be sent within a millisecond is sent at its beginning, so that time isn't spent on waking up.
 */
static void converse(struct talk *talk, unsigned int rate, int stop)
{
	const uint64_t begin = now_ns();
	uint64_t due = begin;
	struct pollfd ready = {.fd = viaduct_fd(talk->viaduct), .events = POLLIN};
	char byte;

	for (;;) {
		ssize_t length = read(stop, &byte, 1);

		if (length == 1)
			talk->marked = true;
		else if (length == 0)
			return;
		for (int burst = 0; burst < BURST && due <= now_ns(); burst++) {
			struct note note = {.sent_ns = due, .marked = talk->marked};
			unsigned int from = (unsigned int)(talk->sent % talk->count);
			unsigned int to = (from + 1) % talk->count;

			if (viaduct_send(talk->peers[from], 0, VIADUCT_NORMAL,
					 viaduct_peer_id(talk->peers[to]), 0, &note,
					 sizeof(note)) == -EAGAIN)
				break;
			talk->sent++;
			due = begin + talk->sent * 1000 / rate * (SECOND / 1000);
		}
		viaduct_flush(talk->viaduct);
		if (due > now_ns()) {
			struct timespec wait = {.tv_nsec = (long)(due - now_ns()) % (long)SECOND};

			ppoll(&ready, 1, &wait, NULL);
		}
		viaduct_process(talk->viaduct);
	}
}

static void stand_by(const struct crowd *crowd, const struct relay *relay, int stop, int report)
{
	static const struct viaduct_callbacks callbacks = {.joined = on_joined,
							   .failed = on_failed,
							   .message = on_message,
							   .closed = on_closed};
	struct talk *talk = calloc(1, sizeof(*talk));
	const struct sched_param priority = {.sched_priority = 1};
	struct crowd_report result = {0};
	uint64_t deadline = now_ns() + crowd->join_s * SECOND;

	talk->viaduct = viaduct_new();
	talk->count = crowd->count;
	talk->peers = calloc(talk->count, sizeof(*talk->peers));
	viaduct_handshakes_limit(talk->viaduct, descriptors_raise(talk->count));
	for (unsigned int i = 0; i < talk->count; i++)
		talk->peers[i] =
			relay_peer_open(relay, talk->viaduct, crowd->first + i, &callbacks, talk);
	while (talk->joined < talk->count && now_ns() < deadline)
		viaduct_wait(talk->viaduct, 10);
	result.failed = talk->joined != talk->count;
	if (crowd->urgent && sched_setscheduler(0, SCHED_FIFO, &priority) != 0)
		result.failed = true;
	if (write(report, "", 1) != 1)
		_exit(EXIT_FAILURE);
	fcntl(stop, F_SETFL, O_NONBLOCK);
	converse(talk, crowd->rate, stop);
	deadline = now_ns() + SECOND;
	while (talk->received < talk->sent && now_ns() < deadline)
		viaduct_wait(talk->viaduct, 10);
	result.failed |= talk->failed;
	result.sent = talk->sent;
	result.lost = talk->sent - talk->received;
	result.p99_before = histogram_quantile(&talk->before, 0.99) / 1000;
	result.p99_during = histogram_quantile(&talk->during, 0.99) / 1000;
	sched_setscheduler(0, SCHED_OTHER, &(struct sched_param){0});
	for (unsigned int i = 0; i < talk->count; i++) {
		viaduct_peer_close(talk->peers[i], true);
		if (i % BURST == 0)
			pass_time(talk->viaduct, 0.01); // so that none needs to say it twice
	}
	deadline = now_ns() + LEAVE_S * SECOND;
	while (talk->joined && now_ns() < deadline)
		viaduct_wait(talk->viaduct, 10);
	if (write(report, &result, sizeof(result)) != sizeof(result))
		_exit(EXIT_FAILURE);
	_exit(EXIT_SUCCESS);
}

void crowd_start(struct crowd *crowd, const struct relay *relay)
{
	int stop[2], report[2];
	char byte;

	if (pipe2(stop, O_CLOEXEC) || pipe2(report, O_CLOEXEC))
		die("no pipes");
	crowd->process = fork();
	if (crowd->process == 0) {
		close(stop[1]);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		stand_by(crowd, relay, stop[0], report[1]);
	}
	close(stop[0]);
	close(report[1]);
	crowd->stop = stop[1];
	crowd->report = report[0];
	if (read(crowd->report, &byte, 1) != 1)
		die("the bystanders are gone");
}

void crowd_mark(const struct crowd *crowd)
{
	if (write(crowd->stop, "", 1) != 1)
		die("the bystanders are gone");
}

void crowd_end(struct crowd *crowd, struct crowd_report *report, struct viaduct *viaduct)
{
	struct pollfd ready[] = {
		{.fd = crowd->report, .events = POLLIN},
		{.fd = viaduct ? viaduct_fd(viaduct) : -1, .events = POLLIN},
	};

	close(crowd->stop);
	while (!(ready[0].revents & (POLLIN | POLLHUP))) {
		poll(ready, 2, 1000);
		if (viaduct)
			viaduct_process(viaduct);
	}
	if (read(crowd->report, report, sizeof(*report)) != sizeof(*report))
		die("the bystanders are gone");
	close(crowd->report);
	waitpid(crowd->process, NULL, 0);
}
