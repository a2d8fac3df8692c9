#include "test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "config.h"
#include "dataplane.h"
#include "log.h"

#define TLS "tls: {certificate: a.pem, key: /k, ca: c/d}\n"

static int parse(const char *text, struct config *config, char *error)
{
	return config_parse((const uint8_t *)text, strlen(text), config, error);
}

static void test_defaults(void **state)
{
	struct config *config = malloc(sizeof(*config));
	char error[CONFIG_ERROR_MAX];

	assert_int_equal(parse(TLS "data: {interface: eth0}\n", config, error), 0);
	assert_string_equal(config->tls.certificate, "a.pem");
	assert_int_equal(config->control.listen_count, 2);
	assert_string_equal(config->control.listen[0], "0.0.0.0:7740");
	assert_string_equal(config->control.listen[1], "[::]:7740");
	assert_string_equal(config->control.admin, "/run/viaduct/viaduct.sock");
	assert_int_equal(config->control.core, -1);
	assert_string_equal(config->data.interface, "eth0");
	assert_int_equal(config->data.driver, DATAPLANE_AUTO);
	assert_int_equal(config->data.port, 7740);
	assert_int_equal(config->data.workers, 1);
	assert_int_equal(config->data.cores_count, 0);
	assert_int_equal(config->data.polling, CONFIG_ADAPTIVE);
	assert_int_equal(config->data.mtu, 1280);
	assert_int_equal(config->data.aead, CONFIG_AEAD_AUTO);
	assert_int_equal(config->data.address_count, 0);
	assert_int_equal(config->session.keepalive, 10);
	assert_int_equal(config->session.expiry, 30);
	assert_int_equal(config->session.rekey, 3600);
	assert_int_equal(config->session.lanes_up, 4);
	assert_int_equal(config->session.key_records, 1 << 28);
	assert_int_equal(config->session.max, 20000);
	assert_int_equal(config->session.groups_max, 4096);
	assert_int_equal(config->session.ciphers_count, 2);
	assert_int_equal(config->session.ciphers[0], WIRE_AES_256_GCM);
	assert_int_equal(config->limits.hello_timeout, 5);
	assert_int_equal(config->limits.handshakes, 256);
	assert_int_equal(config->limits.takeovers_per_minute, 6);
	assert_int_equal(config->limits.shed, 1);
	assert_int_equal(config->limits.control_share, 10);
	assert_int_equal(config->limits.peer.messages_per_second, 0);
	assert_int_equal(config->limits.levels_count, 0);
	assert_int_equal(config->log.level, LOG_INFO);
	free(config);
}

static void test_everything(void **state)
{
	struct config *config = malloc(sizeof(*config));
	char error[CONFIG_ERROR_MAX];

	assert_int_equal(
		parse(TLS
		      "control: {listen: ['[fd77::1]:1'], admin: sock, core: 0}\n"
		      "data:\n"
		      "  interface: eth0\n"
		      "  driver: af_packet\n"
		      "  port: 1\n"
		      "  workers: 2\n"
		      "  cores: [3, 0]\n"
		      "  polling: busy\n"
		      "  mtu: 9000\n"
		      "  aead: openssl\n"
		      "  address: [10.0.0.1, 'fd00::1']\n"
		      "session: {keepalive: 1, expiry: 2, rekey: 9, lanes_up: 8, key_records: 64,\n"
		      "          max: 1, ciphers: [chacha20-poly1305]}\n"
		      "limits: {hello_timeout: 1, handshakes: 1, takeovers_per_minute: 1}\n"
		      "log: {level: debug}\n",
		      config, error),
		0);
	assert_int_equal(config->control.listen_count, 1);
	assert_string_equal(config->control.listen[0], "[fd77::1]:1");
	assert_int_equal(config->control.core, 0);
	assert_int_equal(config->data.driver, DATAPLANE_AF_PACKET);
	assert_int_equal(config->data.cores_count, 2);
	assert_int_equal(config->data.cores[0], 3);
	assert_int_equal(config->data.cores[1], 0);
	assert_int_equal(config->data.polling, CONFIG_BUSY);
	assert_int_equal(config->data.aead, CONFIG_AEAD_OPENSSL);
	assert_string_equal(config->data.address[1], "fd00::1");
	assert_int_equal(config->session.ciphers_count, 1);
	assert_int_equal(config->session.ciphers[0], WIRE_CHACHA20_POLY1305);
	assert_int_equal(config->log.level, LOG_DEBUG);
	free(config);
}

static const struct {
	const char *text;
	const char *error;
} bad[] = {
	{"", "1:1: the file is empty"},
	{"# nothing\n", "1:1: the file is empty"},
	{"- a\n", "1:1: the file: must be a section with settings in it"},
	{"data: {interface: eth0}\n", "1:1: tls: is missing"},
	{TLS, "1:1: data: is missing"},
	{TLS "data: {port: 1}\n", "2:7: data.interface: is missing"},
	{"tls: {certificate: a, key: b}\n"
	 "data: {interface: e}\n",
	 "1:6: tls.ca: is missing"},
	{TLS "data:\n", "2:6: data: must be a section with settings in it"},
	{TLS "data: {interface: eth0, colour: red}\n",
	 "2:25: data.colour: unknown; one of interface, driver, port, workers, cores, polling, "
	 "mtu, "
	 "aead, aead_device, address"},
	{TLS "data: {interface: eth0}\nlogs: {}\n",
	 "3:1: logs: unknown; one of tls, crypto, control, data, session, limits, trust, policy, "
	 "topics, services, drain, log"},
	{TLS "data: {interface: eth0}\ntopics: {configured: [{name: A}]}\n",
	 "3:30: topics.configured.name: A is not allowed; a-z, 0-9, '.', '_', '-' and '/', first a "
	 "letter or digit, not beginning with viaduct or relay"},
	{TLS "data: {interface: eth0}\ntopics: {configured: [{name: relay.x}]}\n",
	 "3:30: topics.configured.name: relay.x is not allowed; a-z, 0-9, '.', '_', '-' and '/', "
	 "first a letter or digit, not beginning with viaduct or relay"},
	{TLS "data: {interface: eth0}\ntopics: {configured: [{name: a}, {name: a}]}\n",
	 "3:22: topics.configured: a is there twice"},
	{TLS "data: {interface: eth0}\ntopics: {max: 1, configured: [{name: a}, {name: b}]}\n",
	 "3:30: topics.configured: more than topics.max or session.groups_max allows"},
	{TLS "data: {interface: eth0}\ntopics: {configured: [{name: a, clusters: [\"\"]}]}\n",
	 "3:44: topics.configured.clusters: must not be empty"},
	{TLS "data: {interface: eth0}\nservices: {names: [{name: a, share: 101}]}\n",
	 "3:37: services.names.share: 101 is not allowed; a whole number from 0 to 100"},
	{TLS "data: {interface: e}\nservices: {names: [{name: a}, {name: b}, {name: a}]}\n",
	 "3:19: services.names: a is there twice"},
	{TLS "data: {interface: e}\nservices: {names: [{name: a, share: 9}]}\n",
	 "3:19: services.names: a has a share without a second policy"},
	{TLS "data: {interface: e}\nlimits: {clusters: [{name: a}, {name: a, burst: 9}]}\n",
	 "3:20: limits.clusters: a is there twice"},
	{TLS "data: {interface: e}\ncontrol: {relays: [b.example:7740, c]}\n",
	 "3:36: control.relays: c is not allowed; host:port or [IPv6 address]:port"},
	{TLS "data: {interface: eth0}\ntopics: {members: 0}\n",
	 "3:19: topics.members: 0 is not allowed; a whole number from 1 to 1048576"},
	{TLS "data:\n  interface: eth0\n  port: 1\n  port: 2\n", "5:3: data.port: is there twice"},
	{TLS "data: {interface: eth0}\ndata: {interface: eth0}\n", "3:1: data: is there twice"},
	{TLS "data: {interface: eth0, workers: 0}\n",
	 "2:34: data.workers: 0 is not allowed; a whole number from 1 to 8"},
	{TLS "data: {interface: eth0, workers: 9}\n",
	 "2:34: data.workers: 9 is not allowed; a whole number from 1 to 8"},
	{TLS "data: {interface: eth0, workers: two}\n",
	 "2:34: data.workers: two is not allowed; a whole number from 1 to 8"},
	{TLS "data: {interface: eth0, workers: 1.0}\n",
	 "2:34: data.workers: 1.0 is not allowed; a whole number from 1 to 8"},
	{TLS "data: {interface: eth0, workers: 010}\n",
	 "2:34: data.workers: 010 is not allowed; a whole number from 1 to 8"},
	{TLS "data: {interface: eth0, port: 0x10}\n",
	 "2:31: data.port: 0x10 is not allowed; a whole number from 1 to 65535"},
	{TLS "data: {interface: eth0, port: 99999999999999999999}\n",
	 "2:31: data.port: 99999999999999999999 is not allowed; a whole number from 1 to 65535"},
	{TLS "data: {interface: eth0, port: [1]}\n",
	 "2:31: data.port: must be a whole number from 1 to 65535"},
	{TLS "data: {interface: eth0, port: }\n",
	 "2:31: data.port: must be a whole number from 1 to 65535"},
	{TLS "data: {interface: eth0, driver: foo}\n",
	 "2:33: data.driver: foo is not allowed; one of auto, af_xdp, af_packet"},
	{TLS "data: {interface: eth0, driver: 1}\n",
	 "2:33: data.driver: 1 is not allowed; one of auto, af_xdp, af_packet"},
	{TLS "data: {interface: eth0, driver: {}}\n",
	 "2:33: data.driver: this is not allowed; one of auto, af_xdp, af_packet"},
	{TLS "data: {interface: eth0, cores: 1}\n", "2:32: data.cores: must be a list"},
	{TLS "data: {interface: eth0, cores: []}\n", "2:32: data.cores: must not be empty"},
	{TLS "data: {interface: eth0, cores: [1, 2]}\n",
	 "2:32: data.cores: must name 1, one a worker"},
	{TLS "data: {interface: eth0, cores: [-1]}\n",
	 "2:33: data.cores: -1 is not allowed; a whole number from 0 to 1023"},
	{TLS "data: {interface: eth0, cores: [1,1,1,1,1,1,1,1,1]}\n",
	 "2:49: data.cores: too many; at most 8"},
	{TLS "data: {interface: ''}\n", "2:19: data.interface: must not be empty"},
	{TLS "data: {interface: eth0123456789abc}\n",
	 "2:19: data.interface: is too long; at most 15 bytes"},
	{TLS "data: {interface: \"a\\0b\"}\n", "2:19: data.interface: must be text"},
	{TLS "data: {interface: eth0, \"a\\x1b[2J\": 1}\n",
	 "2:25: data.a?[2J: unknown; one of interface, driver, port, workers, cores, polling, mtu, "
	 "aead, aead_device, address"},
	{TLS "data: {interface: eth0, address: [host]}\n",
	 "2:35: data.address: host is not allowed; an IP address"},
	{TLS "data: {interface: eth0}\ntrust: {pins: [abc]}\n",
	 "3:16: trust.pins: abc is not allowed; a peer's id, of 26 characters"},
	{TLS "data: {interface: eth0}\ncontrol: {listen: [10.0.0.1]}\n",
	 "3:20: control.listen: 10.0.0.1 is not allowed; an address such as 0.0.0.0:7740 or "
	 "[::]:7740"},
	{TLS "data: {interface: eth0}\nsession: {expiry: 10}\n",
	 "3:19: session.expiry: 10 s is not allowed; more than session.keepalive, 10 s"},
	{TLS "data: {interface: eth0}\nsession: {keepalive: 60}\n",
	 "3:22: session.expiry: 30 s is not allowed; more than session.keepalive, 60 s"},
	{TLS "data: {interface: eth0}\nlimits: {? [a] : b}\n",
	 "3:12: limits.this: unknown; one of tls_timeout, hello_timeout, close_timeout, "
	 "hello_size, "
	 "handshakes, handshakes_per_second, source_handshakes, source_handshakes_per_second, "
	 "member_handshakes, member_handshakes_per_second, busy_per_second, waiting, "
	 "waiting_timeout, takeovers_per_minute, watchers, shed, control_share, peer, "
	 "levels, clusters"},
	{TLS "data: {interface: eth0}\n---\na: b\n", "4:1: a second document"},
	{TLS "data: [\n", "3:1: this is not YAML: did not find expected node content"},
	{TLS "data: {interface: *none}\n", "2:19: this is not YAML: found undefined alias"},
	{"tls: {certificate: &a a, key: *a, ca: *a}\ndata: {interface: e}\n",
	 "1:1: aliases (*name) are not supported"},
};

static void test_bad(void **state)
{
	struct config *config = malloc(sizeof(*config));
	char error[CONFIG_ERROR_MAX];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(parse(bad[i].text, config, error), -EINVAL);
		assert_string_equal(error, bad[i].error);
	}
	free(config);
}

static void on_difference(void *arg, const char *setting, const char *before, const char *after,
			  bool live)
{
	char *text = arg;

	sprintf(text + strlen(text), "%s: %s -> %s%s\n", setting, before, after,
		live ? "" : " (restart)");
}

static void test_compare(void **state)
{
	struct config *from = malloc(sizeof(*from)), *to = malloc(sizeof(*to));
	char error[CONFIG_ERROR_MAX], differences[2048] = "";

	assert_int_equal(parse(TLS "data: {interface: eth0, workers: 2, cores: [1, 2]}\n"
				   "topics: {cluster_joins: yes}\n"
				   "log: {level: debug}\n",
			       from, error),
			 0);
	config_compare(from, from, on_difference, differences);
	assert_string_equal(differences, "");
	assert_int_equal(parse(TLS "data: {interface: eth1, workers: 2}\n"
				   "session: {keepalive: 5, ciphers: [aes-256-gcm]}\n"
				   "limits: {peer: {burst: 7},\n"
				   "         clusters: [{name: red, bytes_per_second: 1}]}\n"
				   "policy: {rules: [{from: red, to: [green, blue]},\n"
				   "                 {from: grey, to: []}]}\n"
				   "log: {level: debug}\n",
			       to, error),
			 0);
	config_compare(from, to, on_difference, differences);
	assert_string_equal(differences,
			    "data.interface: eth0 -> eth1 (restart)\n"
			    "data.cores: 1, 2 ->  (restart)\n"
			    "session.keepalive: 10 -> 5\n"
			    "session.ciphers: aes-256-gcm, chacha20-poly1305 -> aes-256-gcm\n"
			    "limits.peer: messages_per_second: 0 bytes_per_second: 0 burst: 0 -> "
			    "messages_per_second: 0 bytes_per_second: 0 burst: 7\n"
			    "limits.clusters:  -> name: red messages_per_second: 0 "
			    "bytes_per_second: 1 burst: 0\n"
			    "policy.rules:  -> from: red to: green, blue, from: grey to: \n"
			    "topics.cluster_joins: yes -> no\n");
	free(from);
	free(to);
}

static void test_file(void **state)
{
	struct config *config = malloc(sizeof(*config));
	char file[] = "/tmp/unit_config_XXXXXX", error[CONFIG_ERROR_MAX], wanted[64];
	int fd = mkstemp(file);
	FILE *stream = fdopen(fd, "w");

	assert_non_null(stream);
	fputs(TLS "data: {interface: eth0}\n", stream);
	fflush(stream);
	assert_int_equal(config_load(file, config, error), 0);
	// relative to the file
	assert_string_equal(config->tls.certificate, "/tmp/a.pem");
	assert_string_equal(config->tls.key, "/k");
	assert_string_equal(config->tls.ca, "/tmp/c/d");

	fputs("x: y\n", stream);
	fclose(stream);
	assert_int_equal(config_load(file, config, error), -EINVAL);
	snprintf(wanted, sizeof(wanted), "%s:3:1: x: unknown; ", file);
	assert_memory_equal(error, wanted, strlen(wanted));
	unlink(file);
	assert_int_equal(config_load(file, config, error), -ENOENT);
	assert_int_equal(config_load("/tmp", config, error), -EINVAL);
	assert_string_equal(error, "/tmp: is not a regular file");
	free(config);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults), cmocka_unit_test(test_everything),
		cmocka_unit_test(test_bad),      cmocka_unit_test(test_compare),
		cmocka_unit_test(test_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
