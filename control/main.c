/*
 * viaductd: starts what there is, in order, runs the event loop, and stops it in reverse.
 */
#include <errno.h>
#include <getopt.h>
#include <openssl/rand.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "admin.h"
#include "config.h"
#include "dataplane.h"
#include "dispatch.h"
#include "fairness.h"
#include "join.h"
#include "keep.h"
#include "known.h"
#include "listener.h"
#include "log.h"
#include "member.h"
#include "node.h"
#include "offload.h"
#include "placement.h"
#include "services.h"
#include "ticket_file.h"
#include "tls.h"

enum {
	EXIT_USAGE = 2,
	GOODBYE_MS = 500, // at most, for the last words to leave
	GOODBYE_REST_MS = 50,
};

#define CONFIG_FILE "/etc/viaduct/viaductd.yaml"

static struct viaductd {
	const char *file; // of the configuration
	struct config config;
	struct plan plan;
	struct tls tls;
	struct trust trust;
	struct revoke revoke;
	struct clusters clusters;
	struct tickets tickets;
	struct ticket_file ticket_file;
	const struct aead_ops *aead;
	struct call_rcu_data *reclaimer;
	uv_loop_t loop;
	uv_signal_t signals[3];
	struct members members;
	struct reputation reputation;
	struct blocklist blocklist;
	struct keep keep;
	uv_timer_t second_timer;
	struct dataplane *dataplane;
	struct dispatch *dispatch;
	struct known known;
	struct join join;
	struct listener *listener;
	struct admin *admin;
	struct reload reload;
	uint64_t drained_ms; // when draining ends at the latest; 0: it has not begun
	bool over;
	char error[CONFIG_ERROR_MAX]; // why a step has failed, if not for want of memory
} viaductd;

/* Waits until something is ready, and does it. */
static void turn(struct viaductd *v)
{
	struct pollfd backend = {.fd = uv_backend_fd(&v->loop), .events = POLLIN};

	// waiting is done here and not in libuv, so that nobody waits for us meanwhile
	rcu_thread_offline();
	poll(&backend, 1, uv_backend_timeout(&v->loop));
	rcu_thread_online();
	uv_run(&v->loop, UV_RUN_NOWAIT);
}

/* Steps */

/* Each peer that joins needs a descriptor while it does. */
static int limits_start(struct viaductd *v)
{
	struct rlimit files;

	signal(SIGPIPE, SIG_IGN);
	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	return 0;
}

static int placement_start(struct viaductd *v)
{
	int result = placement_make(&v->plan, &v->config, NULL, v->error);

	if (result)
		return result;
	for (unsigned int i = 0; i < v->plan.warning_count; i++)
		log_warning("placement", "warning=%s", v->plan.warnings[i]);
	// much of what is made from here on is for the workers
	return node_prefer(v->plan.workers[0].node);
}

static int trust_start(struct viaductd *v)
{
	return trust_init(&v->trust, &v->config, v->error);
}

static void trust_stop(struct viaductd *v)
{
	trust_fini(&v->trust);
}

static int crypto_start(struct viaductd *v)
{
	return offload_load(&v->config.crypto, v->error);
}

static int tls_start(struct viaductd *v)
{
	int result = tls_init(&v->tls, &v->config, v->error);

	if (result)
		return result;
	result = tickets_init(&v->tickets, &v->config.tls, time(NULL));
	if (result)
		tls_fini(&v->tls);
	else
		tls_use_tickets(&v->tls, &v->tickets);
	v->tls.trust = &v->trust;
	return result;
}

static void tls_stop(struct viaductd *v)
{
	tls_fini(&v->tls);
	tickets_fini(&v->tickets);
}

static int tickets_start(struct viaductd *v)
{
	return ticket_file_start(&v->ticket_file, &v->tickets, &v->loop);
}

static void tickets_stop(struct viaductd *v)
{
	ticket_file_stop(&v->ticket_file);
}

static int rcu_start(struct viaductd *v)
{
	pthread_t thread;
	cpu_set_t core;

	rcu_register_thread();
	v->reclaimer = create_call_rcu_data(0, -1);
	if (!v->reclaimer)
		return -ENOMEM;
	// liburcu's own way to pin it only looks now and then whether it has strayed
	thread = get_call_rcu_thread(v->reclaimer);
	CPU_ZERO(&core);
	CPU_SET((size_t)v->plan.reclaimer.core, &core);
	pthread_setaffinity_np(thread, sizeof(core), &core);
	pthread_setname_np(thread, "viaduct-rcu");
	set_thread_call_rcu_data(v->reclaimer);
	return 0;
}

static void rcu_stop(struct viaductd *v)
{
	rcu_thread_offline();
	rcu_barrier();
	rcu_thread_online();
	set_thread_call_rcu_data(NULL);
	call_rcu_data_free(v->reclaimer);
	rcu_unregister_thread();
}

static int loop_start(struct viaductd *v)
{
	return uv_loop_init(&v->loop);
}

static void loop_stop(struct viaductd *v)
{
	while (uv_loop_alive(&v->loop))
		turn(v);
	uv_loop_close(&v->loop);
}

static int aead_start(struct viaductd *v)
{
	static const char *const names[] = {
		[CONFIG_AEAD_IPSEC_MB] = "ipsec_mb",
		[CONFIG_AEAD_OPENSSL] = "openssl",
		[CONFIG_AEAD_CRYPTODEV] = "cryptodev",
	};
	int chosen = v->config.data.aead;

	if ((chosen == CONFIG_AEAD_CRYPTODEV) != !!*v->config.data.aead_device) {
		snprintf(
			v->error, sizeof(v->error),
			"data.aead_device: \"aead: cryptodev\" wants a PCI address, or a name such "
			"as crypto_aesni_mb; others don't");
		return -EINVAL;
	}
	v->aead = chosen == CONFIG_AEAD_AUTO ? dataplane_aead_default()
					     : dataplane_aead(names[chosen]);
	if (v->aead)
		return 0;
	snprintf(v->error, sizeof(v->error),
		 "data.aead: %s doesn't work on this machine; choose auto", names[chosen]);
	return -ENOTSUP;
}

static int members_start(struct viaductd *v)
{
	const struct config *config = &v->config;
	struct member_config member = {
		.max = (unsigned int)config->session.max,
		.groups_max = (unsigned int)config->session.groups_max,
		.lanes_up = (unsigned int)config->session.lanes_up,
		.lanes_down = (unsigned int)config->data.workers,
		.mtu = (unsigned int)config->data.mtu,
		.expiry_ms = (unsigned int)config->session.expiry * 1000,
		.takeovers_per_minute = (unsigned int)config->limits.takeovers_per_minute,
		.watchers = (unsigned int)config->limits.watchers,
		.key_records = (uint32_t)config->session.key_records,
		.node = v->plan.workers[0].node,
		.aead = v->aead,
		.clusters = &v->clusters,
		.send = dispatch_send,
		.behind = dispatch_behind,
	};
	uint8_t secret[MEMBER_SECRET];
	struct policy *policy;
	struct rates *rates = NULL;
	int result;

	if (RAND_bytes(secret, sizeof(secret)) != 1)
		return -EIO;
	result = clusters_compile(&v->clusters, &config->policy, &policy);
	if (!result)
		result = fairness_compile(&v->clusters, &config->limits, &rates);
	if (!result)
		result = members_init(&v->members, &member, secret);
	if (result) {
		free(policy);
		free(rates);
		return result;
	}
	members_set_relays(&v->members, &config->control);
	clusters_publish(&v->members.sessions->policy, policy);
	fairness_publish(&v->members.sessions->rates, rates);
	result = topics_configure(&v->members, &config->topics);
	if (result)
		members_fini(&v->members);
	return result;
}

static void members_stop(struct viaductd *v)
{
	members_fini(&v->members);
}

static int services_start(struct viaductd *v)
{
	uint8_t secret[16];

	if (RAND_bytes(secret, sizeof(secret)) != 1)
		return -EIO;
	return services_new(&v->members.services, &v->members, &v->config.services,
			    (unsigned int)v->config.data.workers, dataplane_now_us, secret);
}

static void services_stop(struct viaductd *v)
{
	services_free(v->members.services);
	v->members.services = NULL;
}

static bool is_known(void *arg, const struct endpoint *remote)
{
	struct viaductd *v = arg;

	return known_has(&v->known, remote, dataplane_now_ms());
}

/* Where threads may run beside workers and, if there is another core, the control thread. */
static void thread_cores(const struct plan *plan, cpu_set_t *cores)
{
	cpu_set_t all, left;

	CPU_ZERO(&all);
	sched_getaffinity(0, sizeof(all), &all);
	left = all;
	for (unsigned int i = 0; i < plan->worker_count; i++)
		CPU_CLR((size_t)plan->workers[i].core, &left);
	*cores = CPU_COUNT(&left) ? left : all;
	CPU_CLR((size_t)plan->control.core, &left);
	if (CPU_COUNT(&left))
		*cores = left;
}

static int listener_begin(struct viaductd *v)
{
	struct listener_config config = {
		.handshake.tls = &v->tls,
		.handshake.answer = join_answer,
		.handshake.arg = &v->join,
		.addresses = v->config.control.listen,
		.address_count = v->config.control.listen_count,
		.threads = offload_pauses() ? 0 : (unsigned int)v->config.crypto.threads,
		.known = is_known,
		.arg = v,
	};
	uint64_t key[2];

	if (RAND_bytes((unsigned char *)key, sizeof(key)) != 1)
		return -EIO;
	thread_cores(&v->plan, &config.thread_cores);
	listener_config_limits(&config, &v->config.limits);
	memcpy(config.admission.key, key, sizeof(key));
	known_init(&v->known, &v->members, key);
	v->join.config = &v->config;
	v->join.tls = &v->tls;
	v->join.members = &v->members;
	return listener_start(&v->listener, &v->loop, &config, v->error);
}

static void listener_end(struct viaductd *v)
{
	listener_stop(v->listener);
	known_fini(&v->known);
}

static void log_dataplane(int level, const char *text)
{
	log_text((enum log_level)level, text);
}

/* Whether what sessions may use can be had: only a crypto device that runs can tell. */
static int ciphers_check(struct viaductd *v)
{
	const uint8_t secret[WIRE_EXPORT_SIZE] = {0};

	for (uint32_t i = 0; i < v->config.session.ciphers_count; i++) {
		enum wire_aead aead = (enum wire_aead)v->config.session.ciphers[i];
		struct aead_key *key = aead_key_new(v->aead, aead, secret, -1);

		aead_key_free(v->aead, key);
		if (key)
			continue;
		snprintf(v->error, sizeof(v->error),
			 "session.ciphers: data.aead %s %s can't do %s; leave that out",
			 v->aead->name, v->config.data.aead_device, wire_aead_name(aead));
		return -ENOTSUP;
	}
	return 0;
}

static int dataplane_begin(struct viaductd *v)
{
	const struct config *config = &v->config;
	struct dataplane_config dataplane = {
		.interface = config->data.interface,
		.driver = (enum dataplane_driver)config->data.driver,
		.port = (uint16_t)config->data.port,
		.workers = (unsigned int)config->data.workers,
		.control_core = v->plan.control.core,
		.busy = config->data.polling == CONFIG_BUSY,
		.mtu = (uint16_t)config->data.mtu,
		.sessions = v->members.sessions,
		.routes = &v->members.routes,
		.requests = services_requests(v->members.services),
		.aead = v->aead,
		.aead_device = config->data.aead_device,
	};
	int r;

	for (unsigned int i = 0; i < v->plan.worker_count; i++) {
		dataplane.cores[i] = v->plan.workers[i].core;
		dataplane.nodes[i] = v->plan.workers[i].node;
	}
	r = dataplane_start(&v->dataplane, &dataplane, log_dataplane, v->error);
	if (r)
		return r;
	v->join.trains = dataplane_takes_trains(v->dataplane);
	r = ciphers_check(v);
	if (r)
		dataplane_stop(v->dataplane);
	return r;
}

static void dataplane_end(struct viaductd *v)
{
	dataplane_stop(v->dataplane);
}

static void on_second(uv_timer_t *timer)
{
	struct viaductd *v = timer->data;
	uint64_t now_ms = dataplane_now_ms();

	keep_tick(&v->keep, &v->loop, now_ms);
	// who hasn't heard it would take a relay that is gone for a silent one
	if (v->drained_ms > now_ms)
		members_say_closing(&v->members, (unsigned int)(v->drained_ms - now_ms) / 1000 / 2);
}

/* Tells those who watch. */
static void on_verdict(void *arg, const struct member_news *news)
{
	struct viaductd *v = arg;

	if (v->admin)
		admin_tell(v->admin, news);
}

static void on_news(void *arg, const struct member_news *news)
{
	struct viaductd *v = arg;

	reputation_news(&v->reputation, news, dataplane_now_ms());
	on_verdict(v, news);
}

static int block(void *arg, const uint64_t source[2])
{
	const struct viaductd *v = arg;

	return dataplane_block(v->dataplane, source);
}

static int unblock(void *arg, const uint64_t source[2])
{
	const struct viaductd *v = arg;

	return dataplane_unblock(v->dataplane, source);
}

static int blocklist_start(struct viaductd *v)
{
	static const struct blocklist_ops ops = {
		.block = block,
		.unblock = unblock,
		.is_member = is_known,
	};

	v->blocklist.ops = &ops;
	v->blocklist.arg = v;
	v->join.blocklist = &v->blocklist;
	blocklist_configure(&v->blocklist, &v->config.trust, v->members.sessions);
	return 0;
}

static int reputation_start(struct viaductd *v)
{
	reputation_init(&v->reputation, &v->config.trust, &v->members, dataplane_now_ms());
	v->reputation.tell = on_verdict;
	v->reputation.arg = v;
	keep_start(&v->keep, v->config.trust.scores, &v->reputation, dataplane_now_ms());
	v->join.reputation = &v->reputation;
	v->members.config.tell = on_news;
	v->members.config.tell_arg = v;
	uv_timer_init(&v->loop, &v->second_timer);
	v->second_timer.data = v;
	return uv_timer_start(&v->second_timer, on_second, 1000, 1000);
}

static void reputation_stop(struct viaductd *v)
{
	v->members.config.tell = NULL;
	uv_close((uv_handle_t *)&v->second_timer, NULL);
	keep_stop(&v->keep, &v->loop, dataplane_now_ms());
	reputation_fini(&v->reputation);
}

static int revocations_start(struct viaductd *v)
{
	revoke_start(&v->revoke, &v->trust, &v->members, &v->loop);
	return 0;
}

static void revocations_stop(struct viaductd *v)
{
	revoke_stop(&v->revoke);
}

static int dispatch_begin(struct viaductd *v)
{
	int result = dispatch_start(&v->dispatch, &v->loop, v->dataplane, &v->members,
				    &v->reputation, &v->blocklist);

	v->members.config.arg = v->dispatch;
	return result;
}

static void dispatch_end(struct viaductd *v)
{
	dispatch_stop(v->dispatch);
}

/* Asks all to go; those who don't are left in `seconds`. */
static void drain(void *arg, unsigned int seconds)
{
	struct viaductd *v = arg;

	log_info("draining", "peers=%u seconds=%u", v->members.present, seconds);
	v->drained_ms = dataplane_now_ms() + seconds * 1000;
	v->join.closing_s = seconds + 1;
	// half of the time to spread out in, the other half to be gone
	members_say_closing(&v->members, seconds / 2);
}

static int admin_begin(struct viaductd *v)
{
	struct commands_subject subject;

	v->reload = (struct reload){
		.file = v->file,
		.config = &v->config,
		.tls = &v->tls,
		.tickets = &v->tickets,
		.trust = &v->trust,
		.clusters = &v->clusters,
		.members = &v->members,
		.reputation = &v->reputation,
		.blocklist = &v->blocklist,
		.listener = v->listener,
	};
	subject = (struct commands_subject){
		.config = &v->config,
		.tls = &v->tls,
		.listener = v->listener,
		.members = &v->members,
		.revoke = &v->revoke,
		.reputation = &v->reputation,
		.blocklist = &v->blocklist,
		.reload = &v->reload,
		.dataplane = v->dataplane,
		.drain = drain,
		.arg = v,
	};

	return admin_start(&v->admin, &v->loop, &subject, v->error);
}

static void admin_end(struct viaductd *v)
{
	admin_stop(v->admin);
	v->admin = NULL;
}

static bool is_drained(const struct viaductd *v)
{
	return v->drained_ms && (!v->members.present || dataplane_now_ms() >= v->drained_ms);
}

static void on_signal(uv_signal_t *handle, int number)
{
	struct viaductd *v = handle->data;

	if (number == SIGHUP) {
		reload_now(&v->reload, dataplane_now_ms());
		return;
	}
	log_info("stopping", "signal=%s", number == SIGTERM ? "SIGTERM" : "SIGINT");
	if (v->drained_ms)
		v->over = true;
	else
		drain(v, (unsigned int)v->config.drain.seconds);
}

static int signals_start(struct viaductd *v)
{
	static const int numbers[] = {SIGTERM, SIGINT, SIGHUP};

	for (int i = 0; i < 3; i++) {
		uv_signal_init(&v->loop, &v->signals[i]);
		v->signals[i].data = v;
		uv_signal_start(&v->signals[i], on_signal, numbers[i]);
	}
	return 0;
}

static void signals_stop(struct viaductd *v)
{
	for (int i = 0; i < 3; i++)
		uv_close((uv_handle_t *)&v->signals[i], NULL);
}

/* In this order at the start, in reverse at the end. */
static const struct step {
	const char *name;
	int (*start)(struct viaductd *v);
	void (*stop)(struct viaductd *v); // NULL: nothing to do
} steps[] = {
	{"limits", limits_start, NULL},
	{"placement", placement_start, NULL},
	{"trust", trust_start, trust_stop},
	{"crypto", crypto_start, NULL},
	{"TLS", tls_start, tls_stop},
	{"RCU", rcu_start, rcu_stop},
	{"AEAD", aead_start, NULL},
	{"members", members_start, members_stop},
	{"services", services_start, services_stop},
	{"event loop", loop_start, loop_stop},
	{"tickets", tickets_start, tickets_stop},
	{"signals", signals_start, signals_stop},
	{"listener", listener_begin, listener_end},
	{"dataplane", dataplane_begin, dataplane_end},
	{"blocklist", blocklist_start, NULL},
	{"scores", reputation_start, reputation_stop},
	{"revocations", revocations_start, revocations_stop},
	{"dispatch", dispatch_begin, dispatch_end},
	{"admin socket", admin_begin, admin_end},
};

enum { STEPS = sizeof(steps) / sizeof(steps[0]) };

/* Gives the workers the time to pass on the last words. */
static void say_goodbye(struct viaductd *v)
{
	uint64_t begin, now;

	uv_update_time(&v->loop);
	begin = uv_now(&v->loop);
	do {
		turn(v);
		now = uv_now(&v->loop) - begin;
	} while (now < GOODBYE_REST_MS || (now < GOODBYE_MS && dispatch_waiting(v->dispatch)));
}

static int run(struct viaductd *v)
{
	int started = 0, result = 0;

	while (started < STEPS && !result) {
		result = steps[started].start(v);
		if (!result)
			started++;
	}
	if (result) {
		if (!*v->error)
			snprintf(v->error, sizeof(v->error), "%s: %s", steps[started].name,
				 strerror(-result));
		log_error("can't start", "reason=%s", v->error);
	} else {
		if (!dataplane_huge_pages(v->dataplane))
			log_info("no huge pages", "advice=%s",
				 "it works without; for more speed, mount hugetlbfs and write a "
				 "number to /proc/sys/vm/nr_hugepages");
		log_info("ready", "driver=%s interface=%s workers=%d huge_pages=%s name=%s pid=%d",
			 dataplane_driver_name(dataplane_driver(v->dataplane)),
			 v->config.data.interface, v->config.data.workers,
			 dataplane_huge_pages(v->dataplane) ? "yes" : "no", v->tls.relay->name,
			 (int)getpid());
		while (!v->over && !is_drained(v))
			turn(v);
		say_goodbye(v);
	}
	while (started-- > 0) {
		if (steps[started].stop)
			steps[started].stop(v);
	}
	if (!result)
		log_info("stopped", "pid=%d", (int)getpid());
	return result ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* Command line */

static int check(struct viaductd *v, const char *file)
{
	if (tls_init(&v->tls, &v->config, v->error)) {
		fprintf(stderr, "%s: %s\n", file, v->error);
		return EXIT_FAILURE;
	}
	tls_fini(&v->tls);
	if (trust_init(&v->trust, &v->config, v->error)) {
		fprintf(stderr, "%s: %s\n", file, v->error);
		return EXIT_FAILURE;
	}
	trust_fini(&v->trust);
	printf("%s: ok\n", file);
	return EXIT_SUCCESS;
}

static int show_plan(struct viaductd *v, const char *machine, bool as_json)
{
	json_t *json;

	if (placement_make(&v->plan, &v->config, machine, v->error)) {
		fprintf(stderr, "viaductd: %s\n", v->error);
		return EXIT_FAILURE;
	}
	if (!as_json) {
		plan_print(&v->plan, stdout);
		return EXIT_SUCCESS;
	}
	json = plan_json(&v->plan);
	json_dumpf(json, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(json);
	return EXIT_SUCCESS;
}

static void print_usage(FILE *out)
{
	fputs("Usage: viaductd [-c FILE] [--check | --plan [--topology MACHINE] [--json]]\n"
	      "\n"
	      "A relay: lets the peers of a federation join over TLS, and forwards the messages "
	      "that\n"
	      "they send each other. Runs in the foreground, logs to stderr, ends on SIGTERM.\n"
	      "\n"
	      "  -c, --config FILE   the configuration (default " CONFIG_FILE ")\n"
	      "      --check         only check it and the files that it names\n"
	      "      --plan          only say which core each thread would get, and why\n"
	      "      --topology MACHINE\n"
	      "                      plan for another machine: an XML file of hwloc's lstopo, or "
	      "a\n"
	      "                      synthetic description such as 'numa:2 core:8 pu:2'\n"
	      "      --json          print the plan as JSON\n"
	      "      --version       print the version\n"
	      "  -h, --help          print this\n"
	      "\n"
	      "Exit code: 0 ended as it was told to, or the configuration is good; 1 an error;\n"
	      "2 wrong usage.\n",
	      out);
}

int main(int argc, char **argv)
{
	enum { CHECK = 256, PLAN, TOPOLOGY, JSON, VERSION };
	static const struct option options[] = {
		{"config", required_argument, NULL, 'c'},
		{"check", no_argument, NULL, CHECK},
		{"plan", no_argument, NULL, PLAN},
		{"topology", required_argument, NULL, TOPOLOGY},
		{"json", no_argument, NULL, JSON},
		{"version", no_argument, NULL, VERSION},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	struct viaductd *v = &viaductd;
	const char *file = CONFIG_FILE, *machine = NULL;
	bool only_check = false, only_plan = false, as_json = false;
	int option;

	while ((option = getopt_long(argc, argv, "c:h", options, NULL)) != -1) {
		switch (option) {
		case 'c':
			file = optarg;
			break;
		case CHECK:
			only_check = true;
			break;
		case PLAN:
			only_plan = true;
			break;
		case TOPOLOGY:
			machine = optarg;
			break;
		case JSON:
			as_json = true;
			break;
		case VERSION:
			puts("viaductd " VIADUCT_VERSION);
			return EXIT_SUCCESS;
		case 'h':
			print_usage(stdout);
			return EXIT_SUCCESS;
		default:
			print_usage(stderr);
			return EXIT_USAGE;
		}
	}
	if ((machine || as_json) && !only_plan) {
		fprintf(stderr, "viaductd: --topology and --json go with --plan\n");
		return EXIT_USAGE;
	}
	if (optind < argc) {
		fprintf(stderr, "viaductd: what is '%s'?\n", argv[optind]);
		print_usage(stderr);
		return EXIT_USAGE;
	}
	if (config_load(file, &v->config, v->error)) {
		fprintf(stderr, "%s\n", v->error);
		return EXIT_FAILURE;
	}
	if (only_check)
		return check(v, file);
	if (only_plan)
		return show_plan(v, machine, as_json);
	log_level_set((enum log_level)v->config.log.level);
	v->file = file;
	return run(v);
}
