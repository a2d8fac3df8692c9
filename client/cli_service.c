/* viaduct services, service: who stands behind which name, and how it is chosen. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static json_int_t number(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static const char *string(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "-";
}

/* ---- services ---- */

static void print_counts(const json_t *counts)
{
	static const char *const names[] = {"requests", "answered", "failed", "timed_out", "gone"};

	for (int i = 0; i < 5; i++)
		printf(" %s %" JSON_INTEGER_FORMAT, names[i], number(counts, names[i]));
}

static void print_settings(const json_t *settings)
{
	printf("  %s", string(settings, "policy"));
	if (number(settings, "share"))
		printf(", for %" JSON_INTEGER_FORMAT " %% %s", number(settings, "share"),
		       string(settings, "second"));
	printf("; slow start %" JSON_INTEGER_FORMAT " ms, silent %" JSON_INTEGER_FORMAT
	       " ms, timeout %" JSON_INTEGER_FORMAT " ms, eject after %" JSON_INTEGER_FORMAT "\n",
	       number(settings, "slow_start"), number(settings, "silent"),
	       number(settings, "timeout"), number(settings, "eject"));
}

static void print_service(const json_t *service)
{
	const json_t *policies = json_object_get(service, "policies"), *instance, *counts;
	const char *policy;
	size_t i;

	cli_print_text(string(service, "name"), strlen(string(service, "name")));
	printf(" (%s)\n", string(service, "id"));
	print_settings(json_object_get(service, "settings"));
	json_object_foreach ((json_t *)policies, policy, counts) {
		printf("  by %s:", policy);
		print_counts(counts);
		printf(" p50 %" JSON_INTEGER_FORMAT " us p99 %" JSON_INTEGER_FORMAT " us\n",
		       number(counts, "p50_us"), number(counts, "p99_us"));
	}
	json_array_foreach (json_object_get(service, "instances"), i, instance) {
		printf("  ");
		cli_print_text(string(instance, "name"), strlen(string(instance, "name")));
		printf(": %s, weight %" JSON_INTEGER_FORMAT, string(instance, "state"),
		       number(instance, "weight"));
		if (*string(instance, "region"))
			printf(", region %s", string(instance, "region"));
		printf(", version %" JSON_INTEGER_FORMAT ";", number(instance, "policy_version"));
		print_counts(instance);
		printf(" outstanding %" JSON_INTEGER_FORMAT " response %" JSON_INTEGER_FORMAT
		       " us\n",
		       number(instance, "outstanding"), number(instance, "response_us"));
	}
}

static int services_run(int argc, char **argv)
{
	static const struct option options[] = {{"socket", required_argument, NULL, 's'},
						CLI_OPTIONS};
	const char *path = NULL;
	const json_t *service;
	int code = CLI_OK;
	json_t *answer;
	size_t i;

	while (cli_option(&command_services, argc, argv, "h", options) != -1)
		path = optarg;
	if (optind != argc)
		cli_misused(&command_services, "it takes no arguments");
	answer = cli_admin_ask(path, json_pack("{ss}", "cmd", "services"), &code);
	if (!answer)
		return code;
	if (cli_json) {
		cli_print(answer);
		return CLI_OK;
	}
	json_array_foreach (json_object_get(answer, "services"), i, service)
		print_service(service);
	json_decref(answer);
	return CLI_OK;
}

const struct command command_services = {
	.name = "services",
	.arguments = "[OPTION…]",
	.summary = "list the services, how they choose, and what their instances do",
	.help = "      --socket PATH      the relay's admin socket (VIADUCT_ADMIN)\n"
		"      --json             JSON instead of text\n\n"
		"An instance is ready; new, and gets less at first; ejected, after failures in a\n"
		"row, for 1 to 64 s; or dead: silent, and not even a ping comes back.\n",
	.run = services_run,
};

/* ---- service ---- */

static int service_run(int argc, char **argv)
{
	static const struct option options[] = {{"socket", required_argument, NULL, 's'},
						{"policy", required_argument, NULL, 'p'},
						{"second", required_argument, NULL, '2'},
						{"share", required_argument, NULL, '%'},
						{"slow-start", required_argument, NULL, 'S'},
						{"silent", required_argument, NULL, 'Q'},
						{"timeout", required_argument, NULL, 't'},
						{"eject", required_argument, NULL, 'e'},
						CLI_OPTIONS};
	static const struct {
		int option;
		const char *key;
		double max; // 0: text
	} settings[] = {
		{'p', "policy", 0},       {'2', "second", 0},   {'%', "share", 100},
		{'S', "slow_start", 1e9}, {'Q', "silent", 1e9}, {'t', "timeout", 1e9},
		{'e', "eject", 1e9},
	};
	json_t *question = json_pack("{ss}", "cmd", "service"), *answer;
	const char *path = NULL;
	int code = CLI_OK, option;

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
	answer = cli_admin_ask(path, question, &code);
	if (!answer)
		return code;
	if (cli_json) {
		cli_print(answer);
		return CLI_OK;
	}
	print_settings(json_object_get(answer, "settings"));
	json_decref(answer);
	return CLI_OK;
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
