/*
 * How long a peer still counts that is gone without a word, with default settings; and one that is
 * revoked in the middle of its sending. Starts the relay itself; build/perf/gone makes the network
 * for it.
 */
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "measure.h"
#include "options.h"
#include "relay.h"
#include "viaduct.h"

enum {
	JOIN_S = 10,
	SPREAD_S = 10, // the killed ones joined over so long: their keepalives' interval
	EXPIRED_S = 32,
	LOOK_US = 20000,
	REVOCATIONS = 20,
	BURST = 10, // messages that are sent, each millisecond
	AFTER_S = 1,
	PEERS_MAX = 1000,
};

struct gone {
	struct relay relay;
	unsigned int peers;
	bool as_json;
	struct viaduct *viaduct;
	unsigned int joined;
	bool refused;       // the sender, since it was last opened
	uint64_t delivered; // messages, to the receiver
	uint64_t last_ns;   // when the last of them came
};

static void on_joined(struct viaduct_peer *peer)
{
	struct gone *g = viaduct_peer_user(peer);

	g->joined++;
}

static void on_message(struct viaduct_peer *peer, const struct viaduct_message *message)
{
	struct gone *g = viaduct_peer_user(peer);

	g->delivered++;
	g->last_ns = now_ns();
}

static void on_failed(struct viaduct_peer *peer, int error, const char *text, int retry_ms)
{
	struct gone *g = viaduct_peer_user(peer);

	g->refused = error == VIADUCT_E_REVOKED;
}

static const struct viaduct_callbacks callbacks = {
	.joined = on_joined, .message = on_message, .failed = on_failed};

static void join_wait(struct gone *g, unsigned int joined)
{
	uint64_t deadline = now_ns() + JOIN_S * SECOND;

	while (g->joined < joined && now_ns() < deadline)
		viaduct_wait(g->viaduct, 10);
	if (g->joined < joined)
		die("a peer can't join");
}

/* ---- Killed ---- */

/* The process that will be killed: its peers join one after another. */
static void live(struct gone *g, int report)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	g->viaduct = viaduct_new();
	for (unsigned int i = 0; i < g->peers; i++) {
		relay_peer_open(&g->relay, g->viaduct, i + 1, &callbacks, g);
		join_wait(g, i + 1);
		pass_time(g->viaduct, (double)SPREAD_S / g->peers);
	}
	pass_time(g->viaduct, SPREAD_S);
	if (write(report, "", 1) != 1)
		_exit(EXIT_FAILURE);
	for (;;)
		viaduct_wait(g->viaduct, -1);
}

static size_t count_routes(const struct gone *g)
{
	json_t *answer = relay_ask(&g->relay, "routes");
	size_t count = json_array_size(json_object_get(answer, "routes"));

	json_decref(answer);
	return count;
}

/* Seconds until the first and the last of the routes are gone. */
static void kill_and_wait(struct gone *g, double *first, double *last)
{
	uint64_t begin, deadline;
	size_t others = count_routes(g), left = g->peers;
	int report[2];
	pid_t process;
	char byte;

	if (pipe(report))
		die("no pipes");
	process = fork();
	if (process == 0)
		live(g, report[1]);
	close(report[1]);
	if (read(report[0], &byte, 1) != 1)
		die("a peer can't join");
	close(report[0]);
	kill(process, SIGKILL);
	begin = now_ns();
	deadline = begin + 2 * EXPIRED_S * SECOND;
	waitpid(process, NULL, 0);
	*first = *last = 0;
	while (left && now_ns() < deadline) {
		size_t routes = count_routes(g) - others;

		*last = (double)(now_ns() - begin) / 1e9;
		if (left == g->peers && routes < left)
			*first = *last;
		left = routes;
		usleep(LOOK_US);
	}
	if (left)
		die("routes stay");
}

/* ---- Revoked ---- */

/* Starts `viaduct revoke`; `undo` may be NULL. Returns its process. */
static pid_t revoke_start(const struct gone *g, const char *id, const char *undo)
{
	char tool[4096], path[4096];
	pid_t process;

	snprintf(tool, sizeof(tool), "%s/client/viaduct", g->relay.build);
	snprintf(path, sizeof(path), "%s/viaduct.sock", g->relay.lab);
	process = fork();
	if (process == 0) {
		if (!freopen("/dev/null", "w", stdout))
			_exit(EXIT_FAILURE);
		execl(tool, tool, "revoke", "--socket", path, id, undo, (char *)NULL);
		_exit(127);
	}
	return process;
}

/* Lets one send to the other while it is revoked, and notes the milliseconds from the start of the
 * command to the last message that is delivered, and how many are after the command's end. */
static void revoke_sender(struct gone *g, double *ms, uint64_t *late)
{
	char id[VIADUCT_ID_TEXT + 1];
	struct viaduct_peer *sender, *receiver;
	uint64_t begin = 0, end = 0, at_end = 0, next = now_ns(), start = next;
	pid_t process = 0;

	g->joined = 0;
	g->refused = false;
	sender = relay_peer_open(&g->relay, g->viaduct, 1, &callbacks, g);
	receiver = relay_peer_open(&g->relay, g->viaduct, 2, &callbacks, g);
	viaduct_id_format(id, viaduct_peer_id(sender));
	join_wait(g, 2);
	while (!end || now_ns() < end + AFTER_S * SECOND) {
		for (int i = 0; i < BURST; i++)
			viaduct_send(sender, 0, VIADUCT_NORMAL, viaduct_peer_id(receiver), 0, "x",
				     1);
		next += SECOND / 1000;
		do
			viaduct_wait(g->viaduct, 1);
		while (now_ns() < next);
		if (!process && now_ns() > start + SECOND / 2) {
			begin = now_ns();
			process = revoke_start(g, id, NULL);
		}
		if (process && !end && waitpid(process, NULL, WNOHANG) == process) {
			end = now_ns();
			at_end = g->delivered;
		}
	}
	*ms = g->last_ns > begin ? (double)(g->last_ns - begin) / 1e6 : 0;
	*late = g->delivered - at_end;
	if (!g->refused)
		die("the one who was revoked has not noticed");
	viaduct_peer_close(sender, false);
	viaduct_peer_close(receiver, true);
	waitpid(revoke_start(g, id, "--undo"), NULL, 0);
	pass_time(g->viaduct, 0.1);
}

/* ---- The command line ---- */

static const char usage[] =
	"Usage: gone [OPTION…]\n"
	"\n"
	"Kills a process with peers, and waits until the relay, with default settings, has no "
	"route\n"
	"to them any more. Then revokes a peer that sends 10,000 messages a second, again and "
	"again.\n"
	"Exit code 0 if the routes were gone within 32 s, and the last message of any who was\n"
	"revoked was delivered within a second.\n"
	"\n"
	"  --peers N   that are killed (default 100)\n"
	"  --json      print the result as JSON\n";

int main(int argc, char **argv)
{
	struct gone gone = {.peers = 100}, *g = &gone;
	const struct option_row rows[] = {
		OPTION_NUMBER("peers", &g->peers, 2, PEERS_MAX),
		OPTION_FLAG("json", &g->as_json),
		{0},
	};
	double first, last, ms, ms_most = 0, ms_sum = 0;
	uint64_t late, late_most = 0;

	options_read(rows, usage, argc, argv);
	relay_find(&g->relay);
	signal(SIGPIPE, SIG_IGN);
	relay_start(&g->relay, "large");
	kill_and_wait(g, &first, &last);
	g->viaduct = viaduct_new();
	for (int i = 0; i < REVOCATIONS; i++) {
		revoke_sender(g, &ms, &late);
		ms_sum += ms;
		ms_most = ms > ms_most ? ms : ms_most;
		late_most = late > late_most ? late : late_most;
	}
	relay_end(&g->relay, SIGTERM);
	viaduct_free(g->viaduct);
	result_print(json_pack("{s:i, s:f, s:f, s:i, s:f, s:f, s:I}", "killed", g->peers,
			       "first_gone_s", first, "last_gone_s", last, "revoked", REVOCATIONS,
			       "revoked_ms_mean", ms_sum / REVOCATIONS, "revoked_ms_most", ms_most,
			       "delivered_after_command_most", (json_int_t)late_most),
		     g->as_json);
	return last <= EXPIRED_S && ms_most <= 1000 ? EXIT_SUCCESS : EXIT_FAILURE;
}
