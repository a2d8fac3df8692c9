/* viaduct services, service: who stands behind which name, and how it is chosen. */
#include "cli_admin.h"

/* ---- services ---- */

static void print_counts(const json_t *counts)
{
	static const char *const names[] = {"requests", "answered", "failed", "timed_out", "gone"};

	for (int i = 0; i < 5; i++)
		printf(" %s %" JSON_INTEGER_FORMAT, names[i], cli_integer(counts, names[i]));
}

static void print_settings(const json_t *settings)
{
	printf("  %s", cli_string(settings, "policy"));
	if (cli_integer(settings, "share"))
		printf(", for %" JSON_INTEGER_FORMAT " %% %s", cli_integer(settings, "share"),
		       cli_string(settings, "second"));
	printf("; slow start %" JSON_INTEGER_FORMAT " ms, silent %" JSON_INTEGER_FORMAT
	       " ms, timeout %" JSON_INTEGER_FORMAT " ms, eject after %" JSON_INTEGER_FORMAT "\n",
	       cli_integer(settings, "slow_start"), cli_integer(settings, "silent"),
	       cli_integer(settings, "timeout"), cli_integer(settings, "eject"));
}

static void print_service(const json_t *service)
{
	const json_t *policies = json_object_get(service, "policies"), *instance, *counts;
	const char *policy;
	size_t i;

	cli_print_string(service, "name");
	printf(" (%s)\n", cli_string(service, "id"));
	print_settings(json_object_get(service, "settings"));
	json_object_foreach ((json_t *)policies, policy, counts) {
		printf("  by %s:", policy);
		print_counts(counts);
		printf(" p50 %" JSON_INTEGER_FORMAT " us p99 %" JSON_INTEGER_FORMAT " us\n",
		       cli_integer(counts, "p50_us"), cli_integer(counts, "p99_us"));
	}
	json_array_foreach (json_object_get(service, "instances"), i, instance) {
		printf("  ");
		cli_print_string(instance, "name");
		printf(": %s, weight %" JSON_INTEGER_FORMAT, cli_string(instance, "state"),
		       cli_integer(instance, "weight"));
		if (*cli_string(instance, "region"))
			printf(", region %s", cli_string(instance, "region"));
		printf(", version %" JSON_INTEGER_FORMAT ";",
		       cli_integer(instance, "policy_version"));
		print_counts(instance);
		printf(" outstanding %" JSON_INTEGER_FORMAT " response %" JSON_INTEGER_FORMAT
		       " us\n",
		       cli_integer(instance, "outstanding"), cli_integer(instance, "response_us"));
	}
}

static void print_services(const json_t *answer)
{
	const json_t *service;
	size_t i;

	json_array_foreach (json_object_get(answer, "services"), i, service)
		print_service(service);
}

static int services_run(int argc, char **argv)
{
	return cli_admin_command(&command_services, argc, argv, print_services);
}

const struct command command_services = {
	.name = "services",
	.arguments = CLI_ADMIN_ARGUMENTS,
	.summary = "list the services, how they choose, and what their instances do",
	.help = CLI_ADMIN_HELP
	"\nAn instance is ready; new, and gets less at first; ejected, after failures in a\n"
	"row, for 1 to 64 s; or dead: silent, and not even a ping comes back.\n",
	.run = services_run,
};

/* ---- service ---- */

static void print_set(const json_t *answer)
{
	print_settings(json_object_get(answer, "settings"));
}

static int service_run(int argc, char **argv)
{
	static const struct option options[] = {{"policy", required_argument, NULL, 'p'},
						{"second", required_argument, NULL, '2'},
						{"share", required_argument, NULL, '%'},
						{"slow-start", required_argument, NULL, 'S'},
						{"silent", required_argument, NULL, 'Q'},
						{"timeout", required_argument, NULL, 't'},
						{"eject", required_argument, NULL, 'e'},
						CLI_ADMIN_OPTIONS};
	static const struct {
		int option;
		const char *key;
		double max; // 0: text
	} settings[] = {
		{'p', "policy", 0},       {'2', "second", 0},   {'%', "share", 100},
		{'S', "slow_start", 1e9}, {'Q', "silent", 1e9}, {'t', "timeout", 1e9},
		{'e', "eject", 1e9},
	};
	json_t *question = json_pack("{ss}", "cmd", "service");
	const char *path = NULL;
	int option;

	while ((option = cli_option(&command_service, argc, argv, "h", options)) != -1) {
		if (option == 's')
			path = optarg;
		for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
			if (settings[i].option != option)
				continue;
			json_object_set_new(question, settings[i].key,
					    settings[i].max
						    ? json_integer((json_int_t)cli_number(
							      &command_service, settings[i].key,
							      optarg, 0, settings[i].max))
						    : json_string(optarg));
		}
	}
	if (argc - optind != 1)
		cli_misused(&command_service, "it takes a NAME");
	json_object_set_new(question, "name", json_string(argv[optind]));
	return cli_admin_run(path, question, print_set);
}

const struct command command_service = {
	.name = "service",
	.arguments = "NAME [OPTION…]",
	.summary = "set how a service chooses, until the next reload",
	.help = "      --policy POLICY    round_robin, weighted, least_outstanding, response_time "
		"or\n"
		"                         proximity\n"
		"      --second POLICY    another one,\n"
		"      --share PERCENT    for so many of the requests\n"
		"      --slow-start MS    how long a new instance gets less\n"
		"      --silent MS        who owes an answer for so long is avoided\n"
		"      --timeout MS       a request without response for so long has failed\n"
		"      --eject N          failures in a row that eject an instance\n"
		"      --socket PATH      the relay's admin socket (VIADUCT_ADMIN)\n"
		"      --json             JSON instead of text\n\n"
		"Which policy:\n"
		"  round_robin        instances and requests are all alike\n"
		"  weighted           instances differ, and you know by how much\n"
		"  least_outstanding  requests differ; the default\n"
		"  response_time      instances may turn slow\n"
		"  proximity          instances are far from each other\n"
		"docs/services.md has how each of them counts.\n\n"
		"Example:\n"
		"  viaduct service build.queue --second response_time --share 10\n",
	.run = service_run,
};
