/*
 * The storm: many peers join a relay at the same moment, stay, and come back when it has been
 * killed, while bystanders talk to each other. Starts the relay itself; build/perf/storm makes the
 * network for it. Prints one JSON object.
 *
 * Rates are per second of the control thread's CPU time, so that the peers, which share the
 * machine, are not what limits them. They are compared with the server's side of the same
 * handshake, with the same certificates, in memory on the same core.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <openssl/ssl.h>
#include <poll.h>
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
#include <time.h>
#include <unistd.h>

#include "viaduct.h"
#include "histogram.h"

enum {
	EXIT_USAGE = 2,
	QUIET_S = 3,         // bystanders before the storm
	BYSTANDER_RATE = 20, // messages a second, of each
	PAYLOAD = 64,
	READY_S = 30,
	RAW = 2000, // handshakes in memory
	RETURN_S = 120,
	DESCRIPTORS = 200, // for all else
	PATIENCE = 5,
};

#define SECOND UINT64_C(1000000000)

struct options {
	const char *lab;    // folder with pki/ and the relay's configurations
	const char *netns;  // where the relay runs
	const char *daemon; // viaductd
	unsigned int peers, bystanders, join_s;
	bool as_json;
};

/* What the bystanders' process reports. */
struct bystanding {
	uint64_t sent, lost;
	double p99_before, p99_during; // us
	bool failed;
};

struct storm {
	struct options options;
	pid_t relay;
	struct viaduct *viaduct;
	struct viaduct_peer **peers;
	unsigned int joined;
	uint64_t first_lost; // ns; 0: none yet
	double lost_cpu;     // the control thread's then
	uint64_t failures;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void die(const char *what)
{
	fprintf(stderr, "storm: %s\n", what);
	exit(EXIT_FAILURE);
}

/* ---- The relay ---- */

/* Asks the admin socket. The answer is the caller's; NULL: nobody is there. */
static json_t *relay_ask(const struct storm *s, const char *question)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	json_t *answer = NULL;
	FILE *stream;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/viaduct.sock", s->options.lab);
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

/* A number of the relay's status, such as "handshakes", "resumed". */
static json_int_t relay_number(const struct storm *s, const char *section, const char *key)
{
	json_t *status = relay_ask(s, "status");
	json_int_t number =
		json_integer_value(json_object_get(json_object_get(status, section), key));

	json_decref(status);
	return number;
}

/* Starts it with this configuration of the lab's folder, and waits until it is ready. */
static void relay_start(struct storm *s, const char *config)
{
	char file[4096], log[4096];
	uint64_t deadline = now_ns() + READY_S * SECOND;
	json_t *status = NULL;

	snprintf(file, sizeof(file), "%s/%s.yaml", s->options.lab, config);
	snprintf(log, sizeof(log), "%s/viaductd.log", s->options.lab);
	s->relay = fork();
	if (s->relay == 0) {
		int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(fd, STDERR_FILENO);
		execlp("ip", "ip", "netns", "exec", s->options.netns, s->options.daemon, "-c", file,
		       (char *)NULL);
		_exit(127);
	}
	while (!status && now_ns() < deadline) {
		if (waitpid(s->relay, NULL, WNOHANG) == s->relay)
			die("the relay ended; see viaductd.log in the lab's folder");
		usleep(20000);
		status = relay_ask(s, "status");
	}
	if (!status)
		die("the relay did not get ready");
	json_decref(status);
}

static void relay_end(struct storm *s, int signal)
{
	kill(s->relay, signal);
	waitpid(s->relay, NULL, 0);
}

/* Seconds that its control thread has run; proc(5). */
static double relay_cpu(const struct storm *s)
{
	unsigned long long ns = 0;
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/schedstat", s->relay, s->relay);
	file = fopen(path, "re");
	if (!file || fscanf(file, "%llu", &ns) != 1)
		die("no schedstat of the relay's control thread");
	fclose(file);
	return (double)ns / 1e9;
}

/* Resident memory and huge pages, in bytes. */
static double relay_memory(const struct storm *s)
{
	unsigned long kb, sum = 0;
	char path[64], line[256];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", s->relay);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "VmRSS: %lu", &kb) == 1 ||
		    sscanf(line, "HugetlbPages: %lu", &kb) == 1)
			sum += kb;
	if (file)
		fclose(file);
	return (double)sum * 1024;
}

/* ---- Peers ---- */

/* Opens peer `number` (from 1) of the lab's federation. */
static struct viaduct_peer *peer_open(const struct storm *s, struct viaduct *viaduct,
				      unsigned int number,
				      const struct viaduct_callbacks *callbacks, void *user)
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

	snprintf(ca, sizeof(ca), "%s/pki/ca.pem", s->options.lab);
	snprintf(certificate, sizeof(certificate), "%s/pki/peer-%u.pem", s->options.lab, number);
	snprintf(key, sizeof(key), "%s/pki/peer-%u.key", s->options.lab, number);
	if (viaduct_peer_open(&peer, viaduct, &config, callbacks))
		die(viaduct_open_error(viaduct));
	return peer;
}

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

/* Lets the sessions live for so long. */
static void pass_time(struct storm *s, double seconds)
{
	uint64_t end = now_ns() + (uint64_t)(seconds * 1e9);

	while (now_ns() < end)
		viaduct_wait(s->viaduct, 10);
}

/* ---- Bystanders: a process of their own ---- */

struct crowd {
	struct viaduct *viaduct;
	struct viaduct_peer **peers;
	unsigned int count, joined;
	bool storming;
	uint64_t sent, received;
	struct histogram before, during;
};

struct note {
	uint64_t sent_ns;
	uint64_t storming;
	uint8_t padding[PAYLOAD - 16];
};

static void crowd_joined(struct viaduct_peer *peer)
{
	struct crowd *crowd = viaduct_peer_user(peer);

	crowd->joined++;
}

static void crowd_message(struct viaduct_peer *peer, const struct viaduct_message *message)
{
	struct crowd *crowd = viaduct_peer_user(peer);
	struct note note;

	if (message->length != sizeof(note))
		return;
	memcpy(&note, message->data, sizeof(note));
	crowd->received++;
	histogram_add(note.storming ? &crowd->during : &crowd->before, now_ns() - note.sent_ns);
}

/* Each in its turn sends to its neighbour, at an even rate. */
static void crowd_talk(struct crowd *crowd, int stop)
{
	uint64_t gap = SECOND / (BYSTANDER_RATE * crowd->count), due = now_ns();
	struct pollfd ready = {.fd = viaduct_fd(crowd->viaduct), .events = POLLIN};
	char byte;

	for (;;) {
		ssize_t length = read(stop, &byte, 1);

		if (length == 1)
			crowd->storming = true;
		else if (length == 0)
			return;
		for (; due <= now_ns(); due += gap) {
			struct note note = {.sent_ns = due, .storming = crowd->storming};
			unsigned int from = (unsigned int)(crowd->sent % crowd->count);

			if (viaduct_send(crowd->peers[from], 0, VIADUCT_NORMAL,
					 viaduct_peer_id(crowd->peers[(from + 1) % crowd->count]),
					 0, &note, sizeof(note)) == -EAGAIN)
				break;
			crowd->sent++;
		}
		viaduct_flush(crowd->viaduct);
		if (due > now_ns()) {
			struct timespec wait = {.tv_nsec = (long)(due - now_ns()) % (long)SECOND};

			ppoll(&ready, 1, &wait, NULL);
		}
		viaduct_process(crowd->viaduct);
	}
}

/* Talks until `stop` ends; a byte there says that the storm begins. */
static void bystand(const struct storm *s, int stop, int report)
{
	static const struct viaduct_callbacks own = {.joined = crowd_joined,
						     .message = crowd_message};
	struct crowd *crowd = calloc(1, sizeof(*crowd));
	struct bystanding result = {0};
	uint64_t deadline = now_ns() + 10 * SECOND;

	crowd->viaduct = viaduct_new();
	crowd->count = s->options.bystanders;
	crowd->peers = calloc(crowd->count, sizeof(*crowd->peers));
	for (unsigned int i = 0; i < crowd->count; i++)
		crowd->peers[i] =
			peer_open(s, crowd->viaduct, s->options.peers + i + 1, &own, crowd);
	while (crowd->joined < crowd->count && now_ns() < deadline)
		viaduct_wait(crowd->viaduct, 10);
	if (write(report, "", 1) != 1)
		_exit(EXIT_FAILURE);
	fcntl(stop, F_SETFL, O_NONBLOCK);
	crowd_talk(crowd, stop);
	deadline = now_ns() + SECOND;
	while (crowd->received < crowd->sent && now_ns() < deadline)
		viaduct_wait(crowd->viaduct, 10);
	result.sent = crowd->sent;
	result.lost = crowd->sent - crowd->received;
	result.p99_before = histogram_quantile(&crowd->before, 0.99) / 1000;
	result.p99_during = histogram_quantile(&crowd->during, 0.99) / 1000;
	result.failed = crowd->joined != crowd->count;
	for (unsigned int i = 0; i < crowd->count; i++)
		viaduct_peer_close(crowd->peers[i], true);
	deadline = now_ns() + SECOND;
	while (now_ns() < deadline)
		viaduct_wait(crowd->viaduct, 10);
	if (write(report, &result, sizeof(result)) != sizeof(result))
		_exit(EXIT_FAILURE);
	_exit(EXIT_SUCCESS);
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

	snprintf(ca, sizeof(ca), "%s/pki/ca.pem", s->options.lab);
	snprintf(certificate, sizeof(certificate), "%s/pki/%s.pem", s->options.lab, name);
	snprintf(key, sizeof(key), "%s/pki/%s.key", s->options.lab, name);
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
	"  --json           print the result as JSON\n";

static unsigned int number(const char *option, const char *text, unsigned int low,
			   unsigned int high)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (end == text || *end || value < low || value > high) {
		fprintf(stderr, "storm: --%s wants a whole number from %u to %u, not '%s'\n",
			option, low, high, text);
		exit(EXIT_USAGE);
	}
	return (unsigned int)value;
}

static void options_read(struct options *o, int argc, char **argv)
{
	static const struct option names[] = {
		{"peers", required_argument, NULL, 'n'},
		{"bystanders", required_argument, NULL, 'b'},
		{"timeout", required_argument, NULL, 't'},
		{"json", no_argument, NULL, 'j'},
		{"lab", required_argument, NULL, 'l'},
		{"netns", required_argument, NULL, 'N'},
		{"daemon", required_argument, NULL, 'd'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int index = 0, c;

	*o = (struct options){.peers = 10000, .bystanders = 50, .join_s = 120};
	while ((c = getopt_long(argc, argv, "h", names, &index)) != -1) {
		switch (c) {
		case 'n':
			o->peers = number("peers", optarg, 1, 20000);
			break;
		case 'b':
			o->bystanders = number("bystanders", optarg, 2, 1000);
			break;
		case 't':
			o->join_s = number("timeout", optarg, 1, 3600);
			break;
		case 'j':
			o->as_json = true;
			break;
		case 'l':
			o->lab = optarg;
			break;
		case 'N':
			o->netns = optarg;
			break;
		case 'd':
			o->daemon = optarg;
			break;
		case 'h':
			fputs(usage, stdout);
			exit(EXIT_SUCCESS);
		default:
			exit(EXIT_USAGE);
		}
	}
	if (optind < argc || !o->lab || !o->netns || !o->daemon) {
		fputs("storm: is run by build/perf/storm; try its --help\n", stderr);
		exit(EXIT_USAGE);
	}
}

/* How many peers can join at once: each has a socket for records, and one more while it joins. */
static unsigned int descriptors_raise(unsigned int peers)
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

static void result_print(const struct storm *s, json_t *result)
{
	const char *key;
	json_t *value;

	if (s->options.as_json) {
		json_dumpf(result, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
		putchar('\n');
		return;
	}
	json_object_foreach (result, key, value)
		printf("%-26s%14.2f\n", key, json_number_value(value));
}

int main(int argc, char **argv)
{
	struct storm storm = {0}, *s = &storm;
	struct bystanding bystanding;
	int stop[2], report[2];
	double base, memory, cpu, seconds, resumed_seconds, resumed_cpu, rate, raw;
	unsigned int joined, returned, spare;
	json_int_t resumed;
	uint64_t begin;
	cpu_set_t core;
	pid_t child;
	char byte;

	options_read(&s->options, argc, argv);
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);

	relay_start(s, "small");
	usleep(500000);
	base = relay_memory(s);
	relay_end(s, SIGTERM);

	relay_start(s, "storm");
	if (pipe(stop) || pipe(report))
		die("no pipes");
	child = fork();
	if (child == 0) {
		close(stop[1]);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		bystand(s, stop[0], report[1]);
	}
	close(stop[0]);
	close(report[1]);
	// the peers are on other machines, in truth: neither relay nor bystanders wait for them
	if (nice(PATIENCE) < 0)
		fprintf(stderr, "storm: nice: %m\n");
	if (read(report[0], &byte, 1) != 1)
		die("the bystanders are gone");
	sleep(QUIET_S);

	spare = descriptors_raise(s->options.peers);
	s->viaduct = viaduct_new();
	s->peers = calloc(s->options.peers, sizeof(*s->peers));
	viaduct_handshakes_limit(s->viaduct, spare);
	for (unsigned int i = 0; i < s->options.peers; i++)
		s->peers[i] = peer_open(s, s->viaduct, i + 1, &callbacks, s);
	if (write(stop[1], "", 1) != 1)
		die("the bystanders are gone");
	begin = now_ns();
	cpu = relay_cpu(s);
	joined_wait(s, s->options.peers, s->options.join_s);
	seconds = (double)(now_ns() - begin) / 1e9;
	cpu = relay_cpu(s) - cpu;
	joined = s->joined;
	rate = joined / cpu;
	fprintf(stderr, "joined %u of %u in %.1f s, %" PRIu64 " tries failed\n", joined,
		s->options.peers, seconds, s->failures);
	close(stop[1]);
	for (size_t length = 0; length < sizeof(bystanding);) {
		ssize_t got =
			read(report[0], (char *)&bystanding + length, sizeof(bystanding) - length);

		if (got <= 0)
			die("the bystanders are gone");
		length += (size_t)got;
		pass_time(s, 0.001);
	}
	waitpid(child, NULL, 0);
	pass_time(s, 2);
	memory = relay_memory(s);

	// without a word: the peers notice by its silence
	sched_getaffinity(s->relay, sizeof(core), &core);
	relay_end(s, SIGKILL);
	relay_start(s, "storm");
	s->joined = 0;
	s->failures = 0;
	while (!s->joined && now_ns() < begin + (uint64_t)(seconds + 60) * SECOND)
		viaduct_wait(s->viaduct, 1);
	begin = now_ns();
	resumed_cpu = relay_cpu(s);
	joined_wait(s, joined, RETURN_S);
	resumed_seconds = (double)(now_ns() - begin) / 1e9;
	resumed_cpu = relay_cpu(s) - resumed_cpu;
	returned = s->joined;
	resumed = relay_number(s, "handshakes", "resumed");
	fprintf(stderr, "%u came back in %.1f s, %lld by resumption, %" PRIu64 " tries failed\n",
		returned, resumed_seconds, (long long)resumed, s->failures);
	relay_end(s, SIGKILL);
	viaduct_free(s->viaduct);

	sched_setaffinity(0, sizeof(core), &core);
	raw = raw_rate(s);
	result_print(
		s,
		json_pack("{s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:f, s:f, s:f, s:f, s:i}",
			  "joined", joined, "seconds", seconds, "handshakes_per_s", rate,
			  "raw_handshakes_per_s", raw, "share_of_raw", rate / raw,
			  "resumed_seconds", resumed_seconds, "resumed_per_s",
			  (double)resumed / resumed_cpu, "bystander_sent",
			  (json_int_t)bystanding.sent, "bystander_lost",
			  (json_int_t)bystanding.lost, "bystander_p99_us_before",
			  bystanding.p99_before, "bystander_p99_us_during", bystanding.p99_during,
			  "relay_memory_mb", memory / 1048576, "bytes_per_idle_peer",
			  (memory - base) / s->options.peers, "failed",
			  s->options.peers - joined + joined - returned));
	return joined == s->options.peers && returned == joined && resumed >= returned &&
			       !bystanding.lost && !bystanding.failed
		       ? EXIT_SUCCESS
		       : EXIT_FAILURE;
}
