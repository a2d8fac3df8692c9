#include "config.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane.h"
#include "file.h"
#include "groups.h"
#include "log.h"
#include "pool.h"
#include "schema.h"

static const struct schema_choice drivers[] = {
	{"auto", DATAPLANE_AUTO},
	{"af_xdp", DATAPLANE_AF_XDP},
	{"af_packet", DATAPLANE_AF_PACKET},
	{0},
};

static const struct schema_choice answers[] = {{"no", 0}, {"yes", 1}, {0}};

static const struct schema_choice pollings[] = {
	{"adaptive", CONFIG_ADAPTIVE},
	{"busy", CONFIG_BUSY},
	{0},
};

static const struct schema_choice aeads[] = {
	{"auto", CONFIG_AEAD_AUTO},
	{"ipsec_mb", CONFIG_AEAD_IPSEC_MB},
	{"openssl", CONFIG_AEAD_OPENSSL},
	{"cryptodev", CONFIG_AEAD_CRYPTODEV},
	{0},
};

static const struct schema_choice ciphers[] = {
	{"aes-256-gcm", WIRE_AES_256_GCM},
	{"chacha20-poly1305", WIRE_CHACHA20_POLY1305},
	{0},
};

static const struct schema_choice levels[] = {
	{"debug", LOG_DEBUG},
	{"info", LOG_INFO},
	{"warning", LOG_WARNING},
	{"error", LOG_ERROR},
	{0},
};

static const struct schema_choice service_policies[] = {
#define X(name, text) {text, SERVICE_##name + 1},
	SERVICE_POLICY_LIST(X)
#undef X
		{0},
};

static bool is_listen(const char *text)
{
	struct sockaddr_storage address;

	return address_parse(&address, text) != 0;
}

static bool is_group_name(const char *text)
{
	return groups_name_good(text) && !groups_name_reserved(text);
}

static bool is_id(const char *text)
{
	struct wire_id id;

	return wire_id_parse(&id, text) == 0;
}

#define GROUP_NAME                                                                                 \
	"a-z, 0-9, '.', '_', '-' and '/', first a letter or digit, not beginning with viaduct or " \
	"relay"

/* A line of a section's table; what else there is to say of a setting comes last. */
#define PLACE(section, field) .key = #field, .offset = offsetof(struct config_##section, field)
#define SIZE(section, field)  sizeof(((struct config_##section *)0)->field)
#define NUMBER(section, field, from, to, by_default, ...)                                          \
	{                                                                                          \
		PLACE(section, field), .kind = SCHEMA_NUMBER, .min = (from), .max = (to),          \
				       .otherwise = (by_default), ##__VA_ARGS__                    \
	}
#define CHOICE(section, field, names, by_default, ...)                                             \
	{                                                                                          \
		PLACE(section, field), .kind = SCHEMA_CHOICE, .choices = (names),                  \
				       .otherwise = (by_default), ##__VA_ARGS__                    \
	}
#define TEXT(section, field, ...)                                                                  \
	{                                                                                          \
		PLACE(section, field), .kind = SCHEMA_TEXT, .size = SIZE(section, field),          \
				       ##__VA_ARGS__                                               \
	}
#define LIST(section, field, entry, ...)                                                           \
	{                                                                                          \
		PLACE(section, field),                                                             \
			.kind = SCHEMA_LIST, .size = SIZE(section, field[0]),                      \
			.max = SIZE(section, field) / SIZE(section, field[0]),                     \
			.count_offset = offsetof(struct config_##section, field##_count),          \
			.entries = &(entry), ##__VA_ARGS__                                         \
	}
#define SECTION(field, ...)                                                                        \
	{                                                                                          \
		.key = #field, .kind = SCHEMA_SECTION, .offset = offsetof(struct config, field),   \
		.section = field##_section, ##__VA_ARGS__                                          \
	}
#define ENTRY(table)                                                                               \
	{                                                                                          \
		.kind = SCHEMA_SECTION, .section = (table)                                         \
	}

static const struct schema tls_section[] = {
	TEXT(tls, certificate, .required = true, .path = true, .live = true),
	TEXT(tls, key, .required = true, .path = true, .live = true),
	TEXT(tls, ca, .required = true, .path = true, .live = true),
	TEXT(tls, tickets, .path = true),
	NUMBER(tls, ticket_rotation, 1, 86400, 43200, .live = true),
	{0},
};

static const struct schema crypto_section[] = {
	TEXT(crypto, engine),
	TEXT(crypto, provider),
	CHOICE(crypto, async, answers, 1),
	CHOICE(crypto, required, answers, 0),
	NUMBER(crypto, threads, 0, POOL_THREADS_MAX, 0),
	{0},
};

static const struct schema listen_entry = {
	.kind = SCHEMA_TEXT,
	.size = ADDRESS_TEXT,
	.good = is_listen,
	.allowed = "an address such as 0.0.0.0:7740 or [::]:7740",
};

static const struct schema relay_entry = {
	.kind = SCHEMA_TEXT,
	.size = CONFIG_RELAY_TEXT,
	.good = address_is_relay,
	.allowed = "host:port or [IPv6 address]:port",
};

static const struct schema control_section[] = {
	LIST(control, listen, listen_entry),
	LIST(control, relays, relay_entry, .live = true),
	TEXT(control, admin, .path = true),
	NUMBER(control, core, -1, CPU_SETSIZE - 1, -1),
	{0},
};

static const struct schema core_entry = {.kind = SCHEMA_NUMBER, .max = CPU_SETSIZE - 1};
static const struct schema address_entry = {
	.kind = SCHEMA_TEXT,
	.size = ADDRESS_TEXT,
	.good = address_is_ip,
	.allowed = "an IP address",
};

static const struct schema data_section[] = {
	TEXT(data, interface, .required = true),
	CHOICE(data, driver, drivers, DATAPLANE_AUTO),
	NUMBER(data, port, 1, 65535, 7740),
	NUMBER(data, workers, 1, CONFIG_WORKERS_MAX, 1),
	LIST(data, cores, core_entry),
	CHOICE(data, polling, pollings, CONFIG_ADAPTIVE),
	NUMBER(data, mtu, WIRE_MTU_MIN, WIRE_MTU_MAX, WIRE_MTU_MIN),
	CHOICE(data, aead, aeads, CONFIG_AEAD_AUTO),
	TEXT(data, aead_device),
	LIST(data, address, address_entry, .live = true),
	{0},
};

static const struct schema cipher_entry = {.kind = SCHEMA_CHOICE, .choices = ciphers};

static const struct schema session_section[] = {
	NUMBER(session, keepalive, 1, 3600, 10, .live = true),
	NUMBER(session, expiry, 2, 86400, 30, .live = true),
	NUMBER(session, rekey, 1, 604800, 3600, .live = true),
	NUMBER(session, lanes_up, 1, WIRE_LANES_MAX, 4, .live = true),
	NUMBER(session, key_records, 64, WIRE_KEY_RECORDS, WIRE_KEY_RECORDS),
	NUMBER(session, max, 1, (WIRE_SLOTS - CONFIG_GROUPS_MAX) / 2, 20000),
	NUMBER(session, groups_max, 0, CONFIG_GROUPS_MAX, 4096),
	LIST(session, ciphers, cipher_entry, .live = true),
	{0},
};

#define RATES(type, prefix)                                                                        \
	{.key = "messages_per_second",                                                             \
	 .offset = offsetof(type, prefix messages_per_second),                                     \
	 .max = INT32_MAX},                                                                        \
		{.key = "bytes_per_second",                                                        \
		 .offset = offsetof(type, prefix bytes_per_second),                                \
		 .max = INT32_MAX},                                                                \
	{                                                                                          \
		.key = "burst", .offset = offsetof(type, prefix burst), .min = 1, .max = 60000     \
	}

static const struct schema rate_section[] = {
	RATES(struct config_rate, ),
	{0},
};

static const struct schema cluster_rate_section[] = {
	TEXT(cluster_rate, name, .required = true),
	RATES(struct config_cluster_rate, rate.),
	{0},
};

static const struct schema rate_entry = ENTRY(rate_section);
static const struct schema cluster_rate_entry = ENTRY(cluster_rate_section);

static const struct schema limits_section[] = {
	NUMBER(limits, tls_timeout, 1, 60, 5),
	NUMBER(limits, hello_timeout, 1, 60, 5),
	NUMBER(limits, close_timeout, 1, 60, 5),
	NUMBER(limits, hello_size, 256, WIRE_LINE_MAX, WIRE_LINE_MAX),
	NUMBER(limits, handshakes, 1, 10000, 256),
	NUMBER(limits, handshakes_per_second, 1, 100000, 5000),
	NUMBER(limits, source_handshakes, 1, 10000, 256),
	NUMBER(limits, source_handshakes_per_second, 1, 100000, 500),
	NUMBER(limits, member_handshakes, 1, 10000, 64),
	NUMBER(limits, member_handshakes_per_second, 1, 100000, 500),
	NUMBER(limits, busy_per_second, 1, 1000, 10),
	NUMBER(limits, waiting, 0, 65536, 16384),
	NUMBER(limits, waiting_timeout, 1, 60, 20),
	NUMBER(limits, takeovers_per_minute, 1, 60000, 6),
	NUMBER(limits, watchers, 0, WIRE_SLOTS / 2, 1000),
	CHOICE(limits, shed, answers, 1),
	NUMBER(limits, control_share, 1, 50, 10),
	{PLACE(limits, peer), .kind = SCHEMA_SECTION, .section = rate_section},
	LIST(limits, levels, rate_entry),
	LIST(limits, clusters, cluster_rate_entry),
	{0},
};

static const struct schema id_entry = {
	.kind = SCHEMA_TEXT,
	.size = WIRE_ID_TEXT + 1,
	.good = is_id,
	.allowed = "a peer's id, of 26 characters",
};

static const struct schema trust_section[] = {
	TEXT(trust, crl, .path = true, .live = true),
	TEXT(trust, revoked, .path = true, .live = true),
	TEXT(trust, pins_file, .path = true, .live = true),
	LIST(trust, pins, id_entry, .live = true),
	TEXT(trust, scores, .path = true),
	NUMBER(trust, score_half_life, 1, 86400, 300, .live = true),
	NUMBER(trust, cut_seconds, 1, 86400, 60, .live = true),
	NUMBER(trust, cut_seconds_max, 1, 604800, 86400, .live = true),
	NUMBER(trust, bad_records_per_second, 0, 1000000000, 1000, .live = true),
	NUMBER(trust, block_seconds, 1, 3600, 10, .live = true),
	NUMBER(trust, block_seconds_max, 1, 86400, 600, .live = true),
	{0},
};

static const struct schema cluster_entry = {.kind = SCHEMA_TEXT, .size = CONFIG_CLUSTER_MAX};

static const struct schema rule_section[] = {
	TEXT(rule, from, .required = true),
	LIST(rule, to, cluster_entry, .required = true, .empty = true),
	{0},
};

static const struct schema rule_entry = ENTRY(rule_section);

static const struct schema policy_section[] = {
	LIST(policy, rules, rule_entry),
	{0},
};

static const struct schema topic_section[] = {
	TEXT(topic, name, .required = true, .good = is_group_name, .allowed = GROUP_NAME),
	LIST(topic, clusters, cluster_entry),
	{0},
};

static const struct schema topic_entry = ENTRY(topic_section);

static const struct schema topics_section[] = {
	NUMBER(topics, max, 0, CONFIG_GROUPS_MAX, 2048),
	NUMBER(topics, members, 1, WIRE_SLOTS, 20000),
	NUMBER(topics, per_peer, 0, CONFIG_GROUPS_MAX, 64),
	NUMBER(topics, rate, 0, 1000000, 10000),
	NUMBER(topics, publisher_rate, 0, 1000000, 1000),
	CHOICE(topics, cluster_joins, answers, 0),
	LIST(topics, configured, topic_entry),
	{0},
};

static const struct schema service_section[] = {
	TEXT(service, name, .required = true, .good = is_group_name, .allowed = GROUP_NAME),
	LIST(service, clusters, cluster_entry),
	CHOICE(service, policy, service_policies, 0),
	CHOICE(service, second, service_policies, 0),
	NUMBER(service, share, 0, 100, 0),
	NUMBER(service, slow_start, 1, CONFIG_SERVICE_MS, 0),
	NUMBER(service, silent, 50, CONFIG_SERVICE_MS, 0),
	NUMBER(service, timeout, 50, CONFIG_SERVICE_MS, 0),
	NUMBER(service, eject, 1, 1000, 0),
	{0},
};

static const struct schema service_entry = ENTRY(service_section);

static const struct schema services_section[] = {
	NUMBER(services, requests, 64, 1 << 22, 65536),
	NUMBER(services, peer_requests, 1, 1 << 22, 4096, .live = true),
	NUMBER(services, peer_services, 0, 4096, 16, .live = true),
	CHOICE(services, policy, service_policies, SERVICE_LEAST_OUTSTANDING + 1, .live = true),
	NUMBER(services, slow_start, 1, CONFIG_SERVICE_MS, 10000, .live = true),
	NUMBER(services, silent, 50, CONFIG_SERVICE_MS, 800, .live = true),
	NUMBER(services, timeout, 50, CONFIG_SERVICE_MS, 5000, .live = true),
	NUMBER(services, eject, 1, 1000, 5, .live = true),
	LIST(services, names, service_entry, .live = true),
	{0},
};

static const struct schema drain_section[] = {
	NUMBER(drain, seconds, 0, 3600, 5),
	{0},
};

static const struct schema log_section[] = {
	CHOICE(log, level, levels, LOG_INFO),
	{0},
};

static const struct schema sections[] = {
	SECTION(tls, .required = true),
	SECTION(crypto),
	SECTION(control),
	SECTION(data, .required = true),
	SECTION(session),
	SECTION(limits, .live = true),
	SECTION(trust),
	SECTION(policy, .live = true),
	SECTION(topics, .live = true),
	SECTION(services),
	SECTION(drain, .live = true),
	SECTION(log, .live = true),
	{0},
};

/* Lists and texts that are left out. */
static void fill_defaults(struct config *config)
{
	if (!config->control.listen_count) {
		config->control.listen_count = 2;
		strcpy(config->control.listen[0], "0.0.0.0:7740");
		strcpy(config->control.listen[1], "[::]:7740");
	}
	if (!*config->control.admin)
		strcpy(config->control.admin, CONFIG_FOLDER "/viaduct.sock");
	if (!config->session.ciphers_count) {
		config->session.ciphers_count = 2;
		config->session.ciphers[0] = WIRE_AES_256_GCM;
		config->session.ciphers[1] = WIRE_CHACHA20_POLY1305;
	}
}

/* Names in a list, `size` bytes from one to the next. */
static int check_names(struct schema_document *document, const char *path, const char *names,
		       size_t size, uint32_t count)
{
	for (uint32_t i = 1; i < count; i++) {
		for (uint32_t j = 0; j < i; j++) {
			if (strcmp(names + i * size, names + j * size) == 0)
				return schema_complain(document, schema_find(document, path),
						       "%s: %s is there twice", path,
						       names + i * size);
		}
	}
	return 0;
}

#define CHECK_NAMES(section, list)                                                                 \
	check_names(document, #section "." #list, config->section.list[0].name,                    \
		    sizeof(config->section.list[0]), config->section.list##_count)

/* A share of the requests needs a policy of its own; one without a share waits for its time. */
static int check_shares(struct schema_document *document, const struct config_services *config)
{
	for (uint32_t i = 0; i < config->names_count; i++) {
		const struct config_service *service = &config->names[i];

		if (service->share && !service->second)
			return schema_complain(
				document, schema_find(document, "services.names"),
				"services.names: %s has a share without a second policy",
				service->name);
	}
	return 0;
}

/* What concerns two settings at once. */
static int check_together(struct schema_document *document, const struct config *config)
{
	const yaml_node_t *node;
	int result;

	if (config->data.cores_count && (int)config->data.cores_count != config->data.workers)
		return schema_complain(document, schema_find(document, "data.cores"),
				       "data.cores: must name %d, one a worker",
				       config->data.workers);
	if (config->session.expiry <= config->session.keepalive) {
		node = schema_find(document, "session.expiry");
		if (!node)
			node = schema_find(document, "session.keepalive");
		return schema_complain(
			document, node,
			"session.expiry: %d s is not allowed; more than session.keepalive, %d s",
			config->session.expiry, config->session.keepalive);
	}
	if ((result = CHECK_NAMES(topics, configured)) || (result = CHECK_NAMES(services, names)) ||
	    (result = CHECK_NAMES(limits, clusters)) ||
	    (result = check_shares(document, &config->services)))
		return result;
	node = schema_find(document, "topics.configured");
	if ((int)config->topics.configured_count > config->topics.max ||
	    (int)config->topics.configured_count > config->session.groups_max)
		return schema_complain(document, node,
				       "topics.configured: more than topics.max or "
				       "session.groups_max allows");
	return 0;
}

int config_parse(const uint8_t *text, size_t length, struct config *config, char *error)
{
	struct schema_document document;
	int result;

	memset(config, 0, sizeof(*config));
	result = schema_read(&document, text, length, sections, config, error, CONFIG_ERROR_MAX);
	if (result)
		return result;
	fill_defaults(config);
	result = check_together(&document, config);
	schema_close(&document);
	return result;
}

/* Makes a path relative to the folder of `file`. */
static int resolve(const char *file, char path[CONFIG_PATH_MAX])
{
	const char *slash = strrchr(file, '/');
	size_t folder = slash ? (size_t)(slash - file) + 1 : 0;
	size_t length = strlen(path) + 1;

	if (!*path || path[0] == '/')
		return 0;
	if (folder + length > CONFIG_PATH_MAX)
		return -ENAMETOOLONG;
	memmove(path + folder, path, length);
	memcpy(path, file, folder);
	return 0;
}

static int resolve_all(const char *file, struct config *config)
{
	int result = 0;

	for (const struct schema *section = sections; section->key; section++) {
		char *values = (char *)config + section->offset;

		for (const struct schema *field = section->section; field->key && !result; field++)
			result = field->path ? resolve(file, values + field->offset) : 0;
	}
	return result;
}

int config_load(const char *file, struct config *config, char *error)
{
	enum { FILE_MAX = 1 << 20 };
	char detail[CONFIG_ERROR_MAX];
	uint8_t *text = malloc(FILE_MAX);
	FILE *stream = NULL;
	const char *why;
	size_t length;
	int result = -ENOMEM;

	if (!text) {
		snprintf(error, CONFIG_ERROR_MAX, "%.512s: out of memory", file);
		goto out;
	}
	result = file_open(&stream, file, 0, &why);
	if (result) {
		snprintf(error, CONFIG_ERROR_MAX, "%.512s: %s", file, why);
		goto out;
	}
	errno = 0;
	length = fread(text, 1, FILE_MAX, stream);
	if (ferror(stream)) {
		result = errno ? -errno : -EIO;
		snprintf(error, CONFIG_ERROR_MAX, "%.512s: %s", file, strerror(-result));
		goto out;
	}
	if (length == FILE_MAX) {
		result = -EFBIG;
		snprintf(error, CONFIG_ERROR_MAX, "%.512s: is too large; less than 1 MiB", file);
		goto out;
	}
	result = config_parse(text, length, config, detail);
	if (result) {
		snprintf(error, CONFIG_ERROR_MAX, "%.512s:%.1000s", file, detail);
		goto out;
	}
	result = resolve_all(file, config);
	if (result)
		snprintf(error, CONFIG_ERROR_MAX, "%.512s: a path in it is too long", file);
out:
	if (stream)
		fclose(stream);
	free(text);
	return result;
}

void config_compare(const struct config *from, const struct config *to,
		    void (*each)(void *arg, const char *setting, const char *before,
				 const char *after, bool live),
		    void *arg)
{
	schema_compare(sections, from, to, each, arg);
}
