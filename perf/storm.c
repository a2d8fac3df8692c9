/*
 * The storm: many peers join a relay at the same moment, stay, and come back when it has been
 * killed, while bystanders talk to each other. Starts the relay itself; build/perf/storm makes the
 * network for it. Prints one JSON object.
 *
 * Rates are per second of the control thread's CPU time, so that the peers, which share the
 * machine, are not what limits them. They are compared with the server's side of the same
 * handshake, with the same certificates, in memory on the same core.
 */
#include <inttypes.h>
#include <jansson.h>
#include <openssl/ssl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "crowd.h"
#include "measure.h"
#include "options.h"
#include "relay.h"
#include "viaduct.h"

enum {
	QUIET_S = 3,         // bystanders before the storm
	BYSTANDER_RATE = 20, // messages a second, of each
	BYSTANDERS_JOIN_S = 10,
	RAW = 2000, // handshakes in memory
	RETURN_S = 120,
	PATIENCE = 5,
};

struct options {
	unsigned int peers, bystanders, join_s;
	bool as_json;
};

struct storm {
	struct options options;
	struct relay relay;
	struct viaduct *viaduct;
	struct viaduct_peer **peers;
	unsigned int joined;
	uint64_t failures;
};

/* ---- Peers ---- */

static void on_joined(struct viaduct_peer *peer)
{
	struct storm *s = viaduct_peer_user(peer);

	s->joined++;
}

/* Before it has joined, a peer has been told to wait, or has waited for too long. */
static void on_failed(struct viaduct_peer *peer, int error, const char *text, int retry_ms)
{
	struct storm *s = viaduct_peer_user(peer);

	if (!s->failures++)
		fprintf(stderr, "the first of those who must try again: %s\n", text);
}

static const struct viaduct_callbacks callbacks = {.joined = on_joined, .failed = on_failed};

/* Waits until so many have joined. Returns whether they have within the seconds. */
static bool joined_wait(struct storm *s, unsigned int wanted, unsigned int seconds)
{
	uint64_t deadline = now_ns() + seconds * SECOND;

	while (s->joined < wanted && now_ns() < deadline)
		viaduct_wait(s->viaduct, 10);
	return s->joined >= wanted;
}

/* ---- The same handshake in memory ---- */

static int choose_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_length,
		       const unsigned char *in, unsigned int in_length, void *arg)
{
	*out = in + 1;
	*out_length = in[0];
	return SSL_TLSEXT_ERR_OK;
}

static SSL_CTX *raw_context(const struct storm *s, const SSL_METHOD *method, const char *name)
{
	SSL_CTX *context = SSL_CTX_new(method);
	char ca[4096], certificate[4096], key[4096];

	snprintf(ca, sizeof(ca), "%s/pki/ca.pem", s->relay.lab);
	snprintf(certificate, sizeof(certificate), "%s/pki/%s.pem", s->relay.lab, name);
	snprintf(key, sizeof(key), "%s/pki/%s.key", s->relay.lab, name);
	if (!context || SSL_CTX_load_verify_file(context, ca) != 1 ||
	    SSL_CTX_use_certificate_chain_file(context, certificate) != 1 ||
	    SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1)
		die("can't read the certificates again");
	SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
	SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	return context;
}

static double thread_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* One handshake; returns the seconds that the server spent. */
static double raw_handshake(SSL_CTX *server_context, SSL_CTX *client_context)
{
	static const unsigned char alpn[] = "\x09viaduct/1";
	BIO *server_bio, *client_bio;
	SSL *server, *client = SSL_new(client_context);
	bool client_done = false, server_done = false;
	double seconds = 0, begin;

	BIO_new_bio_pair(&server_bio, 65536, &client_bio, 65536);
	SSL_set_bio(client, client_bio, client_bio);
	SSL_set_alpn_protos(client, alpn, sizeof(alpn) - 1);
	SSL_set_connect_state(client);
	begin = thread_seconds();
	server = SSL_new(server_context);
	SSL_set_bio(server, server_bio, server_bio);
	SSL_set_accept_state(server);
	seconds += thread_seconds() - begin;
	for (int turn = 0; turn < 10 && !(client_done && server_done); turn++) {
		client_done = client_done || SSL_do_handshake(client) == 1;
		begin = thread_seconds();
		server_done = server_done || SSL_do_handshake(server) == 1;
		seconds += thread_seconds() - begin;
	}
	if (!client_done || !server_done)
		die("the handshake in memory failed");
	begin = thread_seconds();
	SSL_shutdown(server);
	SSL_free(server);
	seconds += thread_seconds() - begin;
	SSL_free(client);
	return seconds;
}

/* Server's handshakes a second, with the certificates of as many peers as there are. */
static double raw_rate(const struct storm *s)
{
	SSL_CTX *server = raw_context(s, TLS_server_method(), "relay"), *client;
	double seconds = 0;
	char name[32];

	SSL_CTX_set_num_tickets(server, 1);
	SSL_CTX_set_alpn_select_cb(server, choose_alpn, NULL);
	SSL_CTX_set_session_cache_mode(server, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_session_id_context(server, (const unsigned char *)"storm", 5);
	for (unsigned int i = 0; i < RAW; i++) {
		snprintf(name, sizeof(name), "peer-%u", i % s->options.peers + 1);
		client = raw_context(s, TLS_client_method(), name);
		seconds += raw_handshake(server, client);
		SSL_CTX_free(client);
	}
	SSL_CTX_free(server);
	return RAW / seconds;
}

/* ---- The command line ---- */

static const char usage[] =
	"Usage: storm [OPTION…]\n"
	"\n"
	"Lets peers join a relay all at once and come back after it was killed, beside "
	"bystanders.\n"
	"Exit code 0 if all joined, all came back by resumed handshakes, and no bystander lost a\n"
	"message.\n"
	"\n"
	"  --peers N        that join at once (default 10000)\n"
	"  --bystanders N   that send to each other meanwhile (default 50)\n"
	"  --timeout S      for all to join (default 120)\n"
	"  --engine NAME    an OpenSSL engine for the relay's handshakes\n"
	"  --threads N      threads for them (default 0); rates are the control thread's all the\n"
	"                   same, threads_us_per_handshake is theirs\n"
	"  --json           print the result as JSON\n";

int main(int argc, char **argv)
{
	struct storm storm = {.options = {.peers = 10000, .bystanders = 50, .join_s = 120}};
	struct storm *s = &storm;
	const struct option_row rows[] = {
		OPTION_NUMBER("peers", &s->options.peers, 1, 20000),
		OPTION_NUMBER("bystanders", &s->options.bystanders, 2, 1000),
		OPTION_NUMBER("timeout", &s->options.join_s, 1, 3600),
		OPTION_FLAG("json", &s->options.as_json),
		{0},
	};
	struct crowd_report bystanding;
	struct crowd crowd;
	double base, memory, cpu, helpers, seconds, resumed_seconds, resumed_cpu, rate, raw;
	unsigned int joined, returned, spare;
	json_int_t resumed;
	uint64_t begin;
	cpu_set_t core;

	options_read(rows, usage, argc, argv);
	relay_find(&s->relay);
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);

	relay_start(&s->relay, "small");
	usleep(500000);
	base = process_memory(s->relay.pid);
	relay_end(&s->relay, SIGTERM);

	relay_start(&s->relay, "large");
	crowd = (struct crowd){.first = s->options.peers + 1,
			       .count = s->options.bystanders,
			       .rate = s->options.bystanders * BYSTANDER_RATE,
			       .join_s = BYSTANDERS_JOIN_S};
	crowd_start(&crowd, &s->relay);
	// the peers are on other machines, in truth: neither relay nor bystanders wait for them
	if (nice(PATIENCE) < 0)
		fprintf(stderr, "storm: nice: %m\n");
	sleep(QUIET_S);

	spare = descriptors_raise(s->options.peers);
	s->viaduct = viaduct_new();
	s->peers = calloc(s->options.peers, sizeof(*s->peers));
	viaduct_handshakes_limit(s->viaduct, spare);
	for (unsigned int i = 0; i < s->options.peers; i++)
		s->peers[i] = relay_peer_open(&s->relay, s->viaduct, i + 1, &callbacks, s);
	crowd_mark(&crowd);
	begin = now_ns();
	cpu = relay_cpu(&s->relay);
	joined_wait(s, s->options.peers, s->options.join_s);
	seconds = (double)(now_ns() - begin) / 1e9;
	cpu = relay_cpu(&s->relay) - cpu;
	helpers = relay_helpers_cpu(&s->relay);
	joined = s->joined;
	rate = joined / cpu;
	fprintf(stderr, "joined %u of %u in %.1f s, %" PRIu64 " tries failed\n", joined,
		s->options.peers, seconds, s->failures);
	crowd_end(&crowd, &bystanding, s->viaduct);
	pass_time(s->viaduct, 2);
	memory = process_memory(s->relay.pid);

	// without a word: the peers notice by its silence
	sched_getaffinity(s->relay.pid, sizeof(core), &core);
	relay_end(&s->relay, SIGKILL);
	relay_start(&s->relay, "large");
	s->joined = 0;
	s->failures = 0;
	while (!s->joined && now_ns() < begin + (uint64_t)(seconds + 60) * SECOND)
		viaduct_wait(s->viaduct, 1);
	begin = now_ns();
	resumed_cpu = relay_cpu(&s->relay);
	joined_wait(s, joined, RETURN_S);
	resumed_seconds = (double)(now_ns() - begin) / 1e9;
	resumed_cpu = relay_cpu(&s->relay) - resumed_cpu;
	returned = s->joined;
	resumed = relay_number(&s->relay, "handshakes", "resumed");
	fprintf(stderr, "%u came back in %.1f s, %lld by resumption, %" PRIu64 " tries failed\n",
		returned, resumed_seconds, (long long)resumed, s->failures);
	relay_end(&s->relay, SIGKILL);
	viaduct_free(s->viaduct);

	sched_setaffinity(0, sizeof(core), &core);
	raw = raw_rate(s);
	result_print(json_pack("{s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:f, s:f, s:f, "
			       "s:f, s:i}",
			       "joined", joined, "seconds", seconds, "handshakes_per_s", rate,
			       "raw_handshakes_per_s", raw, "share_of_raw", rate / raw,
			       "resumed_seconds", resumed_seconds, "resumed_per_s",
			       (double)resumed / resumed_cpu, "threads_us_per_handshake",
			       helpers * 1e6 / joined, "bystander_sent",
			       (json_int_t)bystanding.sent, "bystander_lost",
			       (json_int_t)bystanding.lost, "bystander_p99_us_before",
			       bystanding.p99_before, "bystander_p99_us_during",
			       bystanding.p99_during, "relay_memory_mb", memory,
			       "bytes_per_idle_peer", (memory - base) * 1048576 / s->options.peers,
			       "failed", s->options.peers - returned),
		     s->options.as_json);
	return joined == s->options.peers && returned == joined && resumed >= returned &&
			       !bystanding.lost && !bystanding.failed
		       ? EXIT_SUCCESS
		       : EXIT_FAILURE;
}
