/* viaduct cert: certificates for a test federation. */
#include <errno.h>
#include <openssl/err.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "certificate.h"
#include "cli.h"

enum {
	DAY = 86400,
	DAYS_AUTHORITY = 3650,
	DAYS_ISSUED = 365,
	ADDRESSES_MAX = 16,
	NAME_MAX_TEXT = 64, // X.520's limit for a common name
};

/* One part of a SPIFFE ID's path, or a trust domain: what is in it must also do as a file name. */
static const char *checked(const char *what, const char *text)
{
	size_t length = strlen(text);

	if (!length || length > NAME_MAX_TEXT || text[0] == '.' ||
	    strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") !=
		    length)
		cli_misused(&command_cert,
			    "%s '%s' must be 1 to %d letters, digits, '-', '.' and '_'", what, text,
			    NAME_MAX_TEXT);
	return text;
}

static int complain(int error, const char *directory, const char *name)
{
	if (error == -EEXIST)
		return cli_fail(CLI_FAILED,
				"%s/%s.pem or .key is there already; --force replaces it",
				directory, name);
	if (error == -EINVAL)
		return cli_fail(CLI_FAILED, "%s: OpenSSL refuses: %s", name,
				ERR_reason_error_string(ERR_get_error()) ?: "no reason given");
	return cli_fail(CLI_FAILED, "%s/%s: %s", directory, name, strerror(-error));
}

static int cert_init(int argc, char **argv)
{
	static const struct option options[] = {{"federation", required_argument, NULL, 'f'},
						{"days", required_argument, NULL, 'd'},
						{"force", no_argument, NULL, 'F'},
						CLI_OPTIONS};
	struct certificate authority = {0};
	const char *federation = NULL, *directory;
	double days = DAYS_AUTHORITY;
	time_t now = time(NULL);
	bool force = false;
	int option, ret;

	while ((option = cli_option(&command_cert, argc, argv, "h", options)) != -1) {
		if (option == 'f')
			federation = checked("federation", optarg);
		else if (option == 'd')
			days = cli_number(&command_cert, "--days", optarg, 1, 36500);
		else
			force = true;
	}
	if (argc - optind != 1 || !federation)
		cli_misused(&command_cert, "init takes one directory, and needs --federation");
	directory = argv[optind];
	if (mkdir(directory, 0755) && errno != EEXIST)
		return cli_fail(CLI_FAILED, "%s: %s", directory, strerror(errno));
	ret = certificate_authority(&authority, federation, now - DAY, now + (time_t)(days * DAY));
	if (!ret)
		ret = certificate_write(&authority, directory, "ca", force);
	certificate_fini(&authority);
	if (ret)
		return complain(ret, directory, "ca");
	if (cli_json)
		cli_print(json_pack("{ss ss}", "federation", federation, "directory", directory));
	else
		printf("CA of federation %s: %s/ca.pem, ca.key\n", federation, directory);
	return CLI_OK;
}

static int issue_one(const struct certificate *authority, const struct certificate_request *common,
		     const char *directory, const char *name, bool force)
{
	struct certificate_request request = *common;
	struct certificate issued = {0};
	int ret;

	request.name = name;
	ret = certificate_issue(&issued, authority, &request);
	if (!ret)
		ret = certificate_write(&issued, directory, name, force);
	certificate_fini(&issued);
	if (ret)
		return complain(ret, directory, name);
	return CLI_OK;
}

/* The names in argv, and those that --prefix and --count make. */
static int issue_all(const struct certificate *authority, const struct certificate_request *request,
		     const char *directory, char **names, const char *prefix, unsigned int count,
		     bool force)
{
	json_t *list = json_array();
	char name[NAME_MAX_TEXT + 16];
	int ret = CLI_OK;

	for (; !ret && *names; names++) {
		ret = issue_one(authority, request, directory, checked("name", *names), force);
		json_array_append_new(list, json_string(*names));
		if (!cli_json && !ret)
			printf("%s/%s.pem, .key: spiffe://%s/%s/%s\n", directory, *names,
			       request->federation, request->cluster, *names);
	}
	for (unsigned int i = 1; !ret && i <= count; i++) {
		snprintf(name, sizeof(name), "%s%u", prefix, i);
		ret = issue_one(authority, request, directory, name, force);
		json_array_append_new(list, json_string(name));
	}
	if (cli_json && !ret)
		cli_print(json_pack("{ss ss ss sO}", "directory", directory, "federation",
				    request->federation, "cluster", request->cluster, "names",
				    list));
	else if (count && !ret)
		printf("%s/%s{1..%u}.pem, .key: spiffe://%s/%s/%s{1..%u}\n", directory, prefix,
		       count, request->federation, request->cluster, prefix, count);
	json_decref(list);
	return ret;
}

static int cert_issue(int argc, char **argv)
{
	static const struct option options[] = {{"cluster", required_argument, NULL, 'c'},
						{"relay", no_argument, NULL, 'r'},
						{"address", required_argument, NULL, 'a'},
						{"days", required_argument, NULL, 'd'},
						{"count", required_argument, NULL, 'n'},
						{"prefix", required_argument, NULL, 'p'},
						{"federation", required_argument, NULL, 'f'},
						{"force", no_argument, NULL, 'F'},
						CLI_OPTIONS};
	const char *addresses[ADDRESSES_MAX + 1] = {NULL};
	struct certificate authority = {0};
	time_t now = time(NULL);
	struct certificate_request request = {
		.cluster = "default",
		.addresses = addresses,
		.not_before = now - DAY,
		.not_after = now + DAYS_ISSUED * DAY,
	};
	const char *prefix = "peer-", *directory;
	unsigned int count = 0, address_count = 0;
	char federation[256] = "";
	bool force = false;
	int option, ret;

	while ((option = cli_option(&command_cert, argc, argv, "h", options)) != -1) {
		switch (option) {
		case 'c':
			request.cluster = checked("cluster", optarg);
			if (!strcmp(optarg, "relay"))
				cli_misused(&command_cert,
					    "cluster relay is reserved; use --relay");
			break;
		case 'r':
			request.cluster = "relay";
			break;
		case 'a':
			if (address_count == ADDRESSES_MAX)
				cli_misused(&command_cert, "at most %d addresses", ADDRESSES_MAX);
			addresses[address_count++] = optarg;
			break;
		case 'd':
			request.not_after = now + (time_t)(cli_number(&command_cert, "--days",
								      optarg, -1, 36500) *
							   DAY);
			break;
		case 'n':
			count = (unsigned int)cli_number(&command_cert, "--count", optarg, 1,
							 1000000);
			break;
		case 'p':
			prefix = checked("prefix", optarg);
			break;
		case 'f':
			snprintf(federation, sizeof(federation), "%s",
				 checked("federation", optarg));
			break;
		case 'F':
			force = true;
			break;
		}
	}
	if (argc - optind < 1 || (argc - optind < 2 && !count))
		cli_misused(&command_cert, "issue takes a directory and names, or --count");
	directory = argv[optind];
	ret = certificate_read(&authority, directory, "ca");
	if (ret == -EINVAL)
		ret = cli_fail(CLI_FAILED, "%s/ca.pem and ca.key are no certificate and its key",
			       directory);
	else if (ret)
		ret = cli_fail(CLI_FAILED,
			       "%s/ca.pem, ca.key: %s; make them with: viaduct cert init",
			       directory, strerror(-ret));
	if (!ret && !federation[0])
		certificate_federation(federation, sizeof(federation), &authority);
	request.federation = federation;
	if (!ret && !federation[0])
		ret = cli_fail(CLI_FAILED, "%s/ca.pem doesn't say its federation; use --federation",
			       directory);
	if (!ret)
		ret = issue_all(&authority, &request, directory, argv + optind + 1, prefix, count,
				force);
	certificate_fini(&authority);
	return ret;
}

static int cert_run(int argc, char **argv)
{
	static const struct option options[] = {CLI_OPTIONS};

	if (argc > 1 && !strcmp(argv[1], "init"))
		return cert_init(argc - 1, argv + 1);
	if (argc > 1 && !strcmp(argv[1], "issue"))
		return cert_issue(argc - 1, argv + 1);
	cli_option(&command_cert, argc, argv, "+h", options);
	cli_misused(&command_cert, "init or issue?");
}

const struct command command_cert = {
	.name = "cert",
	.arguments = "init DIR --federation NAME [--days N] [--force]\n"
		     "       viaduct cert issue DIR [NAME…] [--cluster NAME | --relay]\n"
		     "                    [--count N [--prefix TEXT]] [--address ADDRESS]…\n"
		     "                    [--days N] [--force]",
	.summary = "make certificates for a test federation",
	.help = "init makes a CA: DIR/ca.pem and DIR/ca.key. issue makes DIR/NAME.pem and\n"
		"DIR/NAME.key for each name, signed by it: P-256, SPIFFE ID\n"
		"spiffe://FEDERATION/CLUSTER/NAME, keys readable by their owner only.\n\n"
		"  --federation NAME  the trust domain; issue takes the CA's by itself\n"
		"  --cluster NAME     the peers' cluster (default)\n"
		"  --relay            a relay's certificate: cluster relay, serverAuth\n"
		"  --count N          also PREFIX1 … PREFIXN\n"
		"  --prefix TEXT      for --count (peer-)\n"
		"  --address ADDRESS  an IP address or DNS name to put in; may be repeated\n"
		"  --days N           validity (365; init 3650); -0.5 has expired half a day ago\n"
		"  --force            replace what is there\n\n"
		"For tests: a CA whose key lies in the same folder guards nothing.\n\n"
		"Examples:\n"
		"  viaduct cert init pki --federation lab\n"
		"  viaduct cert issue pki relay --relay --address 10.77.0.1\n"
		"  viaduct cert issue pki --count 1000\n",
	.run = cert_run,
};
