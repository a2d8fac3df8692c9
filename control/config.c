#include "config.h"

#include <cyaml/cyaml.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <yaml.h>

#include "dataplane.h"
#include "groups.h"
#include "log.h"
#include "pool.h"

static const cyaml_strval_t drivers[] = {
	{"auto", DATAPLANE_AUTO},
	{"af_xdp", DATAPLANE_AF_XDP},
	{"af_packet", DATAPLANE_AF_PACKET},
};

static const cyaml_strval_t answers[] = {{"no", 0}, {"yes", 1}};

static const cyaml_strval_t pollings[] = {{"adaptive", CONFIG_ADAPTIVE}, {"busy", CONFIG_BUSY}};

static const cyaml_strval_t aeads[] = {
	{"auto", CONFIG_AEAD_AUTO},
	{"ipsec_mb", CONFIG_AEAD_IPSEC_MB},
	{"openssl", CONFIG_AEAD_OPENSSL},
	{"cryptodev", CONFIG_AEAD_CRYPTODEV},
};

static const cyaml_strval_t ciphers[] = {
	{"aes-256-gcm", WIRE_AES_256_GCM},
	{"chacha20-poly1305", WIRE_CHACHA20_POLY1305},
};

static const cyaml_strval_t levels[] = {
	{"debug", LOG_DEBUG},
	{"info", LOG_INFO},
	{"warning", LOG_WARNING},
	{"error", LOG_ERROR},
};

static const cyaml_strval_t service_policies[] = {
#define X(name, text) {text, SERVICE_##name + 1},
	SERVICE_POLICY_LIST(X)
#undef X
};

static const cyaml_schema_value_t address_value = {
	CYAML_VALUE_STRING(CYAML_FLAG_DEFAULT, char[ADDRESS_TEXT], 1, ADDRESS_TEXT - 1)};
static const cyaml_schema_value_t id_value = {
	CYAML_VALUE_STRING(CYAML_FLAG_DEFAULT, char[WIRE_ID_TEXT + 1], WIRE_ID_TEXT, WIRE_ID_TEXT)};
static const cyaml_schema_value_t core_value = {CYAML_VALUE_INT(CYAML_FLAG_DEFAULT, int)};
static const cyaml_schema_value_t cipher_value = {
	CYAML_VALUE_ENUM(CYAML_FLAG_STRICT, int, ciphers, CYAML_ARRAY_LEN(ciphers))};

#define TEXT(section, key, flags)                                                                  \
	CYAML_FIELD_STRING(#key, CYAML_FLAG_##flags, struct config_##section, key, 1)
#define NUMBER(section, key)                                                                       \
	CYAML_FIELD_INT(#key, CYAML_FLAG_OPTIONAL, struct config_##section, key)
#define CHOICE(section, key, names)                                                                \
	CYAML_FIELD_ENUM(#key, CYAML_FLAG_OPTIONAL | CYAML_FLAG_STRICT, struct config_##section,   \
			 key, names, CYAML_ARRAY_LEN(names))
#define LIST(section, key, entry, max)                                                             \
	CYAML_FIELD_SEQUENCE(#key, CYAML_FLAG_OPTIONAL, struct config_##section, key, entry, 1, max)
#define SECTION(section, flags)                                                                    \
	CYAML_FIELD_MAPPING(#section, CYAML_FLAG_##flags, struct config, section, section##_fields)

static const cyaml_schema_field_t tls_fields[] = {
	TEXT(tls, certificate, DEFAULT), TEXT(tls, key, DEFAULT),      TEXT(tls, ca, DEFAULT),
	TEXT(tls, tickets, OPTIONAL),    NUMBER(tls, ticket_rotation), CYAML_FIELD_END,
};

static const cyaml_schema_field_t crypto_fields[] = {
	TEXT(crypto, engine, OPTIONAL), TEXT(crypto, provider, OPTIONAL),
	CHOICE(crypto, async, answers), CHOICE(crypto, required, answers),
	NUMBER(crypto, threads),        CYAML_FIELD_END,
};

static const cyaml_schema_field_t control_fields[] = {
	LIST(control, listen, &address_value, CONFIG_LISTEN_MAX),
	TEXT(control, admin, OPTIONAL),
	NUMBER(control, core),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t data_fields[] = {
	TEXT(data, interface, DEFAULT),
	CHOICE(data, driver, drivers),
	NUMBER(data, port),
	NUMBER(data, workers),
	LIST(data, cores, &core_value, CONFIG_WORKERS_MAX),
	CHOICE(data, polling, pollings),
	NUMBER(data, mtu),
	CHOICE(data, aead, aeads),
	TEXT(data, aead_device, OPTIONAL),
	LIST(data, address, &address_value, CONFIG_ADDRESSES_MAX),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t session_fields[] = {
	NUMBER(session, keepalive),
	NUMBER(session, expiry),
	NUMBER(session, rekey),
	NUMBER(session, lanes_up),
	NUMBER(session, key_records),
	NUMBER(session, max),
	NUMBER(session, groups_max),
	LIST(session, ciphers, &cipher_value, CONFIG_CIPHERS_MAX),
	CYAML_FIELD_END,
};

#define RATE_FIELDS(type, prefix)                                                                  \
	CYAML_FIELD_INT("messages_per_second", CYAML_FLAG_OPTIONAL, type,                          \
			prefix messages_per_second),                                               \
		CYAML_FIELD_INT("bytes_per_second", CYAML_FLAG_OPTIONAL, type,                     \
				prefix bytes_per_second),                                          \
		CYAML_FIELD_INT("burst", CYAML_FLAG_OPTIONAL, type, prefix burst)

static const cyaml_schema_field_t rate_fields[] = {
	RATE_FIELDS(struct config_rate, ),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t cluster_rate_fields[] = {
	TEXT(cluster_rate, name, DEFAULT),
	RATE_FIELDS(struct config_cluster_rate, rate.),
	CYAML_FIELD_END,
};

static const cyaml_schema_value_t level_value = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct config_rate, rate_fields)};
static const cyaml_schema_value_t cluster_rate_value = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct config_cluster_rate, cluster_rate_fields)};

static const cyaml_schema_field_t limits_fields[] = {
	NUMBER(limits, tls_timeout),
	NUMBER(limits, hello_timeout),
	NUMBER(limits, close_timeout),
	NUMBER(limits, hello_size),
	NUMBER(limits, handshakes),
	NUMBER(limits, handshakes_per_second),
	NUMBER(limits, source_handshakes),
	NUMBER(limits, source_handshakes_per_second),
	NUMBER(limits, member_handshakes),
	NUMBER(limits, member_handshakes_per_second),
	NUMBER(limits, busy_per_second),
	NUMBER(limits, waiting),
	NUMBER(limits, waiting_timeout),
	NUMBER(limits, takeovers_per_minute),
	NUMBER(limits, watchers),
	CHOICE(limits, shed, answers),
	NUMBER(limits, control_share),
	CYAML_FIELD_MAPPING("peer", CYAML_FLAG_OPTIONAL, struct config_limits, peer, rate_fields),
	LIST(limits, levels, &level_value, CONFIG_LEVELS_MAX),
	LIST(limits, clusters, &cluster_rate_value, CONFIG_CLUSTERS_MAX),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t trust_fields[] = {
	TEXT(trust, crl, OPTIONAL),
	TEXT(trust, revoked, OPTIONAL),
	TEXT(trust, pins_file, OPTIONAL),
	LIST(trust, pins, &id_value, CONFIG_PINS_MAX),
	TEXT(trust, scores, OPTIONAL),
	NUMBER(trust, score_half_life),
	NUMBER(trust, cut_seconds),
	NUMBER(trust, cut_seconds_max),
	NUMBER(trust, bad_records_per_second),
	NUMBER(trust, block_seconds),
	NUMBER(trust, block_seconds_max),
	CYAML_FIELD_END,
};

static const cyaml_schema_value_t cluster_value = {CYAML_VALUE_STRING(
	CYAML_FLAG_DEFAULT, char[CONFIG_CLUSTER_MAX], 1, CONFIG_CLUSTER_MAX - 1)};

static const cyaml_schema_field_t rule_fields[] = {
	TEXT(rule, from, DEFAULT),
	CYAML_FIELD_SEQUENCE("to", CYAML_FLAG_DEFAULT, struct config_rule, to, &cluster_value, 0,
			     CONFIG_RULE_MAX),
	CYAML_FIELD_END,
};

static const cyaml_schema_value_t rule_value = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct config_rule, rule_fields)};

static const cyaml_schema_field_t policy_fields[] = {
	LIST(policy, rules, &rule_value, CONFIG_RULES_MAX),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t topic_fields[] = {
	TEXT(topic, name, DEFAULT),
	LIST(topic, clusters, &cluster_value, CONFIG_TOPIC_CLUSTERS),
	CYAML_FIELD_END,
};

static const cyaml_schema_value_t topic_value = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct config_topic, topic_fields)};

static const cyaml_schema_field_t topics_fields[] = {
	NUMBER(topics, max),
	NUMBER(topics, members),
	NUMBER(topics, per_peer),
	NUMBER(topics, rate),
	NUMBER(topics, publisher_rate),
	CHOICE(topics, cluster_joins, answers),
	LIST(topics, configured, &topic_value, CONFIG_TOPICS_MAX),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t service_fields[] = {
	TEXT(service, name, DEFAULT),
	LIST(service, clusters, &cluster_value, CONFIG_SERVICE_CLUSTERS_MAX),
	CHOICE(service, policy, service_policies),
	CHOICE(service, second, service_policies),
	NUMBER(service, share),
	NUMBER(service, slow_start),
	NUMBER(service, silent),
	NUMBER(service, timeout),
	NUMBER(service, eject),
	CYAML_FIELD_END,
};

static const cyaml_schema_value_t service_value = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct config_service, service_fields)};

static const cyaml_schema_field_t services_fields[] = {
	NUMBER(services, requests),
	NUMBER(services, peer_requests),
	NUMBER(services, peer_services),
	CHOICE(services, policy, service_policies),
	NUMBER(services, slow_start),
	NUMBER(services, silent),
	NUMBER(services, timeout),
	NUMBER(services, eject),
	LIST(services, names, &service_value, CONFIG_SERVICES_MAX),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t drain_fields[] = {
	NUMBER(drain, seconds),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t log_fields[] = {
	CHOICE(log, level, levels),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t config_fields[] = {
	SECTION(tls, DEFAULT),
	SECTION(crypto, OPTIONAL),
	SECTION(control, OPTIONAL),
	SECTION(data, DEFAULT),
	SECTION(session, OPTIONAL),
	SECTION(limits, OPTIONAL),
	SECTION(trust, OPTIONAL),
	SECTION(policy, OPTIONAL),
	SECTION(topics, OPTIONAL),
	SECTION(services, OPTIONAL),
	SECTION(drain, OPTIONAL),
	SECTION(log, OPTIONAL),
	CYAML_FIELD_END,
};

static const cyaml_schema_value_t config_schema = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct config, config_fields)};

/* What the schema can't say of numbers: their range, and what they are where they are left out. */
static const struct limit {
	const char *path;
	size_t offset; // 0: of a section inside one, or a list's; 0 where it is left out
	int min;
	int max;
	int otherwise;
} limits[] = {
#define LIMIT(section, key, min, max, otherwise)                                                   \
	{                                                                                          \
#section "." #key, offsetof(struct config, section.key), min, max, otherwise       \
	}
	LIMIT(tls, ticket_rotation, 1, 86400, 43200),
	LIMIT(crypto, async, 0, 1, 1),
	LIMIT(crypto, threads, 0, POOL_THREADS_MAX, 0),
	LIMIT(control, core, -1, CPU_SETSIZE - 1, -1),
	LIMIT(data, port, 1, 65535, 7740),
	LIMIT(data, workers, 1, CONFIG_WORKERS_MAX, 1),
	{"data.cores", 0, 0, CPU_SETSIZE - 1, 0},
	LIMIT(data, mtu, WIRE_MTU_MIN, WIRE_MTU_MAX, WIRE_MTU_MIN),
	LIMIT(session, keepalive, 1, 3600, 10),
	LIMIT(session, expiry, 2, 86400, 30),
	LIMIT(session, rekey, 1, 604800, 3600),
	LIMIT(session, lanes_up, 1, WIRE_LANES_MAX, 4),
	LIMIT(session, key_records, 64, WIRE_KEY_RECORDS, WIRE_KEY_RECORDS),
	LIMIT(session, max, 1, (WIRE_SLOTS - CONFIG_GROUPS_MAX) / 2, 20000),
	LIMIT(session, groups_max, 0, CONFIG_GROUPS_MAX, 4096),
	LIMIT(limits, tls_timeout, 1, 60, 5),
	LIMIT(limits, hello_timeout, 1, 60, 5),
	LIMIT(limits, close_timeout, 1, 60, 5),
	LIMIT(limits, hello_size, 256, WIRE_LINE_MAX, WIRE_LINE_MAX),
	LIMIT(limits, handshakes, 1, 10000, 256),
	LIMIT(limits, handshakes_per_second, 1, 100000, 5000),
	LIMIT(limits, source_handshakes, 1, 10000, 256),
	LIMIT(limits, source_handshakes_per_second, 1, 100000, 500),
	LIMIT(limits, member_handshakes, 1, 10000, 64),
	LIMIT(limits, member_handshakes_per_second, 1, 100000, 500),
	LIMIT(limits, busy_per_second, 1, 1000, 10),
	LIMIT(limits, waiting, 0, 65536, 16384),
	LIMIT(limits, waiting_timeout, 1, 60, 20),
	LIMIT(limits, takeovers_per_minute, 1, 60000, 6),
	LIMIT(limits, watchers, 0, WIRE_SLOTS / 2, 1000),
	LIMIT(trust, score_half_life, 1, 86400, 300),
	LIMIT(trust, cut_seconds, 1, 86400, 60),
	LIMIT(trust, cut_seconds_max, 1, 604800, 86400),
	LIMIT(trust, bad_records_per_second, 0, 1000000000, 1000),
	LIMIT(trust, block_seconds, 1, 3600, 10),
	LIMIT(trust, block_seconds_max, 1, 86400, 600),
	LIMIT(limits, shed, 0, 1, 1),
	LIMIT(limits, control_share, 1, 50, 10),
	{"limits.peer.messages_per_second", 0, 0, INT32_MAX, 0},
	{"limits.peer.bytes_per_second", 0, 0, INT32_MAX, 0},
	{"limits.peer.burst", 0, 1, 60000, 0},
	{"limits.levels.messages_per_second", 0, 0, INT32_MAX, 0},
	{"limits.levels.bytes_per_second", 0, 0, INT32_MAX, 0},
	{"limits.levels.burst", 0, 1, 60000, 0},
	{"limits.clusters.messages_per_second", 0, 0, INT32_MAX, 0},
	{"limits.clusters.bytes_per_second", 0, 0, INT32_MAX, 0},
	{"limits.clusters.burst", 0, 1, 60000, 0},
	LIMIT(topics, max, 0, CONFIG_GROUPS_MAX, 2048),
	LIMIT(topics, members, 1, WIRE_SLOTS, 20000),
	LIMIT(topics, per_peer, 0, CONFIG_GROUPS_MAX, 64),
	LIMIT(topics, rate, 0, 1000000, 10000),
	LIMIT(topics, publisher_rate, 0, 1000000, 1000),
	LIMIT(topics, cluster_joins, 0, 1, 0),
	LIMIT(services, requests, 64, 1 << 22, 65536),
	LIMIT(services, peer_requests, 1, 1 << 22, 4096),
	LIMIT(services, peer_services, 0, 4096, 16),
	LIMIT(services, policy, 1, SERVICE_POLICIES, SERVICE_LEAST_OUTSTANDING + 1),
	LIMIT(services, slow_start, 1, CONFIG_SERVICE_MS, 10000),
	LIMIT(services, silent, 50, CONFIG_SERVICE_MS, 800),
	LIMIT(services, timeout, 50, CONFIG_SERVICE_MS, 5000),
	LIMIT(services, eject, 1, 1000, 5),
	{"services.names.share", 0, 0, 100, 0},
	{"services.names.slow_start", 0, 1, CONFIG_SERVICE_MS, 0},
	{"services.names.silent", 0, 50, CONFIG_SERVICE_MS, 0},
	{"services.names.timeout", 0, 50, CONFIG_SERVICE_MS, 0},
	{"services.names.eject", 0, 1, 1000, 0},
	LIMIT(drain, seconds, 0, 3600, 5),
	LIMIT(log, level, LOG_DEBUG, LOG_ERROR, LOG_INFO),
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

/* And of texts. */
static const struct form {
	const char *path;
	bool (*good)(const char *text);
	const char *allowed;
} forms[] = {
	{"control.listen", is_listen, "an address such as 0.0.0.0:7740 or [::]:7740"},
	{"data.address", address_is_ip, "an IP address"},
	{"trust.pins", is_id, "a peer's id, of 26 characters"},
	{"topics.configured.name", is_group_name,
	 "a-z, 0-9, '.', '_', '-' and '/', first a letter or digit, not beginning with viaduct or "
	 "relay"},
	{"services.names.name", is_group_name,
	 "a-z, 0-9, '.', '_', '-' and '/', first a letter or digit, not beginning with viaduct or "
	 "relay"},
};

enum { PATH_TEXT = 128, NAMES_TEXT = 512 };

struct check {
	yaml_document_t document;
	char *error;
};

static int complain(struct check *check, const yaml_node_t *node, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static int complain(struct check *check, const yaml_node_t *node, const char *format, ...)
{
	va_list values;
	int length;

	length = snprintf(check->error, CONFIG_ERROR_MAX, "%zu:%zu: ", node->start_mark.line + 1,
			  node->start_mark.column + 1);
	va_start(values, format);
	vsnprintf(check->error + length, CONFIG_ERROR_MAX - (size_t)length, format, values);
	va_end(values);
	// the file's text may hold anything, and this goes to a terminal
	for (char *c = check->error; *c; c++) {
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
	}
	return -EINVAL;
}

static const char *scalar(const yaml_node_t *node)
{
	return (const char *)node->data.scalar.value;
}

/* Whether the node is text without a NUL in it. */
static bool is_text(const yaml_node_t *node)
{
	return node->type == YAML_SCALAR_NODE && strlen(scalar(node)) == node->data.scalar.length;
}

/* Whole decimal numbers as people write them, so that libcyaml reads the same. */
static bool is_number(const char *text, int *number)
{
	const char *digits = text + (*text == '-');
	char *end;
	long value;

	if (*digits < '0' || *digits > '9' || (*digits == '0' && digits[1]))
		return false;
	errno = 0;
	value = strtol(text, &end, 10);
	if (errno || *end || value < INT32_MIN || value > INT32_MAX)
		return false;
	*number = (int)value;
	return true;
}

static int check_number(struct check *check, const yaml_node_t *node, const char *path)
{
	const struct limit *limit = limits;
	int number;

	while (strcmp(limit->path, path) != 0)
		limit++;
	if (!is_text(node) || !*scalar(node))
		return complain(check, node, "%s: must be a whole number from %d to %d", path,
				limit->min, limit->max);
	if (!is_number(scalar(node), &number) || number < limit->min || number > limit->max)
		return complain(check, node,
				"%s: %.40s is not allowed; a whole number from %d to %d", path,
				scalar(node), limit->min, limit->max);
	return 0;
}

static int check_text(struct check *check, const cyaml_schema_value_t *schema,
		      const yaml_node_t *node, const char *path)
{
	if (!is_text(node))
		return complain(check, node, "%s: must be text", path);
	if (node->data.scalar.length < schema->string.min)
		return complain(check, node, "%s: must not be empty", path);
	if (node->data.scalar.length > schema->string.max)
		return complain(check, node, "%s: is too long; at most %u bytes", path,
				schema->string.max);
	for (size_t i = 0; i < CYAML_ARRAY_LEN(forms); i++) {
		if (strcmp(forms[i].path, path) == 0 && !forms[i].good(scalar(node)))
			return complain(check, node, "%s: %.40s is not allowed; %s", path,
					scalar(node), forms[i].allowed);
	}
	return 0;
}

/* Adds `name` to a list such as "a, b, c" in `text` of NAMES_TEXT bytes. */
static void enumerate(char *text, const char *name)
{
	size_t length = strlen(text);

	snprintf(text + length, NAMES_TEXT - length, "%s%s", length ? ", " : "", name);
}

static int check_choice(struct check *check, const cyaml_schema_value_t *schema,
			const yaml_node_t *node, const char *path)
{
	char names[NAMES_TEXT] = "";

	for (uint32_t i = 0; i < schema->enumeration.count; i++) {
		const char *name = schema->enumeration.strings[i].str;

		if (is_text(node) && strcmp(scalar(node), name) == 0)
			return 0;
		enumerate(names, name);
	}
	return complain(check, node, "%s: %.40s is not allowed; one of %s", path,
			is_text(node) ? scalar(node) : "this", names);
}

static int check_value(struct check *check, const cyaml_schema_value_t *schema,
		       const yaml_node_t *node, const char *path);

static int check_list(struct check *check, const cyaml_schema_value_t *schema,
		      const yaml_node_t *node, const char *path)
{
	uint32_t count = 0;
	int result = 0;

	if (node->type != YAML_SEQUENCE_NODE)
		return complain(check, node, "%s: must be a list", path);
	for (const yaml_node_item_t *item = node->data.sequence.items.start;
	     item < node->data.sequence.items.top && !result; item++) {
		const yaml_node_t *entry = yaml_document_get_node(&check->document, *item);

		if (++count > schema->sequence.max)
			return complain(check, entry, "%s: too many; at most %u", path,
					schema->sequence.max);
		result = check_value(check, schema->sequence.entry, entry, path);
	}
	if (!result && count < schema->sequence.min)
		return complain(check, node, "%s: must not be empty", path);
	return result;
}

/* The value of a mapping's key; with `twice` set if there is another one behind. */
static const yaml_node_t *find(struct check *check, const yaml_node_t *mapping, const char *key,
			       const yaml_node_t **twice)
{
	const yaml_node_t *found = NULL;

	for (const yaml_node_pair_t *pair = mapping->data.mapping.pairs.start;
	     pair < mapping->data.mapping.pairs.top; pair++) {
		const yaml_node_t *name = yaml_document_get_node(&check->document, pair->key);

		if (!is_text(name) || strcmp(scalar(name), key) != 0)
			continue;
		if (found) {
			*twice = name;
			break;
		}
		found = yaml_document_get_node(&check->document, pair->value);
	}
	return found;
}

static int check_keys(struct check *check, const cyaml_schema_field_t *fields,
		      const yaml_node_t *mapping, const char *path)
{
	char names[NAMES_TEXT] = "";

	for (const cyaml_schema_field_t *field = fields; field->key; field++)
		enumerate(names, field->key);
	for (const yaml_node_pair_t *pair = mapping->data.mapping.pairs.start;
	     pair < mapping->data.mapping.pairs.top; pair++) {
		const yaml_node_t *key = yaml_document_get_node(&check->document, pair->key);
		const cyaml_schema_field_t *field = fields;

		while (field->key && (!is_text(key) || strcmp(scalar(key), field->key) != 0))
			field++;
		if (!field->key)
			return complain(check, key, "%s%s%.40s: unknown; one of %s", path,
					*path ? "." : "", is_text(key) ? scalar(key) : "this",
					names);
	}
	return 0;
}

static int check_mapping(struct check *check, const cyaml_schema_value_t *schema,
			 const yaml_node_t *node, const char *path)
{
	const cyaml_schema_field_t *field = schema->mapping.fields;
	int result;

	if (node->type != YAML_MAPPING_NODE)
		return complain(check, node, "%s: must be a section with settings in it",
				*path ? path : "the file");
	result = check_keys(check, field, node, path);
	for (; field->key && !result; field++) {
		const yaml_node_t *twice = NULL;
		const yaml_node_t *value = find(check, node, field->key, &twice);
		char name[PATH_TEXT];

		snprintf(name, sizeof(name), "%s%s%s", path, *path ? "." : "", field->key);
		if (twice)
			result = complain(check, twice, "%s: is there twice", name);
		else if (value)
			result = check_value(check, &field->value, value, name);
		else if (!(field->value.flags & CYAML_FLAG_OPTIONAL))
			result = complain(check, node, "%s: is missing", name);
	}
	return result;
}

static int check_value(struct check *check, const cyaml_schema_value_t *schema,
		       const yaml_node_t *node, const char *path)
{
	switch (schema->type) {
	case CYAML_MAPPING:
		return check_mapping(check, schema, node, path);
	case CYAML_SEQUENCE:
		return check_list(check, schema, node, path);
	case CYAML_ENUM:
		return check_choice(check, schema, node, path);
	case CYAML_STRING:
		return check_text(check, schema, node, path);
	default:
		return check_number(check, node, path);
	}
}

/* The node of "section.key", or NULL. */
static const yaml_node_t *find_path(struct check *check, const char *path)
{
	const yaml_node_t *node = yaml_document_get_root_node(&check->document);
	const yaml_node_t *twice;
	char section[PATH_TEXT];
	const char *key = strchr(path, '.') + 1;

	snprintf(section, sizeof(section), "%.*s", (int)(key - 1 - path), path);
	node = find(check, node, section, &twice);
	return node ? find(check, node, key, &twice) : NULL;
}

static void fill_defaults(struct check *check, struct config *config)
{
	for (size_t i = 0; i < CYAML_ARRAY_LEN(limits); i++) {
		if (limits[i].offset && !find_path(check, limits[i].path))
			memcpy((char *)config + limits[i].offset, &limits[i].otherwise,
			       sizeof(limits[i].otherwise));
	}
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

/* What concerns two settings at once. */
static int check_together(struct check *check, const struct config *config)
{
	const yaml_node_t *node;

	if (config->data.cores_count && (int)config->data.cores_count != config->data.workers) {
		node = find_path(check, "data.cores");
		return complain(check, node, "data.cores: must name %d, one a worker",
				config->data.workers);
	}
	if (config->session.expiry <= config->session.keepalive) {
		node = find_path(check, "session.expiry");
		if (!node)
			node = find_path(check, "session.keepalive");
		return complain(
			check, node,
			"session.expiry: %d s is not allowed; more than session.keepalive, %d s",
			config->session.expiry, config->session.keepalive);
	}
	node = find_path(check, "topics.configured");
	for (uint32_t i = 0; i < config->topics.configured_count; i++) {
		const char *name = config->topics.configured[i].name;

		for (uint32_t j = 0; j < i; j++) {
			if (strcmp(config->topics.configured[j].name, name) == 0)
				return complain(check, node, "topics.configured: %s is there twice",
						name);
		}
	}
	if ((int)config->topics.configured_count > config->topics.max ||
	    (int)config->topics.configured_count > config->session.groups_max)
		return complain(check, node,
				"topics.configured: more than topics.max or session.groups_max "
				"allows");
	return 0;
}

/* Reads the one document that there must be; on success it is the caller's to delete. */
static int load_document(struct check *check, const uint8_t *text, size_t length)
{
	yaml_parser_t parser;
	yaml_document_t second;
	const yaml_node_t *root;
	int result = -EINVAL;

	if (!yaml_parser_initialize(&parser)) {
		snprintf(check->error, CONFIG_ERROR_MAX, "1:1: out of memory");
		return -ENOMEM;
	}
	yaml_parser_set_input_string(&parser, text, length);
	if (!yaml_parser_load(&parser, &check->document))
		goto bad_yaml;
	root = yaml_document_get_root_node(&check->document);
	if (!root) {
		snprintf(check->error, CONFIG_ERROR_MAX, "1:1: the file is empty");
		goto out;
	}
	if (!yaml_parser_load(&parser, &second))
		goto bad_yaml_document;
	if (yaml_document_get_root_node(&second)) {
		complain(check, yaml_document_get_root_node(&second), "a second document");
		yaml_document_delete(&second);
		goto out;
	}
	yaml_document_delete(&second);
	yaml_parser_delete(&parser);
	return 0;
bad_yaml_document:
	yaml_document_delete(&check->document);
bad_yaml:
	snprintf(check->error, CONFIG_ERROR_MAX, "%zu:%zu: this is not YAML: %s",
		 parser.problem_mark.line + 1, parser.problem_mark.column + 1,
		 parser.problem ? parser.problem : "out of memory");
	yaml_parser_delete(&parser);
	return result;
out:
	yaml_document_delete(&check->document);
	yaml_parser_delete(&parser);
	return result;
}

int config_parse(const uint8_t *text, size_t length, struct config *config, char *error)
{
	static const cyaml_config_t cyaml = {.mem_fn = cyaml_mem, .flags = CYAML_CFG_NO_ALIAS};
	struct check check = {.error = error};
	struct config *loaded = NULL;
	cyaml_err_t failure;
	int result;

	result = load_document(&check, text, length);
	if (result)
		return result;
	result = check_mapping(&check, &config_schema, yaml_document_get_root_node(&check.document),
			       "");
	if (result)
		goto out;
	failure = cyaml_load_data(text, length, &cyaml, &config_schema, (cyaml_data_t **)&loaded,
				  NULL);
	if (failure) {
		snprintf(error, CONFIG_ERROR_MAX, "1:1: %s",
			 failure == CYAML_ERR_ALIAS ? "aliases (*name) are not supported"
						    : cyaml_strerror(failure));
		result = failure == CYAML_ERR_OOM ? -ENOMEM : -EINVAL;
		goto out;
	}
	*config = *loaded;
	cyaml_free(&cyaml, &config_schema, loaded, 0);
	fill_defaults(&check, config);
	result = check_together(&check, config);
out:
	yaml_document_delete(&check.document);
	return result;
}

/* Settings that are paths. */
static const size_t paths[] = {
	offsetof(struct config, tls.certificate), offsetof(struct config, tls.key),
	offsetof(struct config, tls.ca),          offsetof(struct config, tls.tickets),
	offsetof(struct config, control.admin),   offsetof(struct config, trust.crl),
	offsetof(struct config, trust.revoked),   offsetof(struct config, trust.pins_file),
	offsetof(struct config, trust.scores),
};

/* Makes a path relative to the folder of `file`. */
static int resolve(const char *file, char path[CONFIG_PATH_MAX])
{
	const char *slash = strrchr(file, '/');
	size_t folder = slash ? (size_t)(slash - file) + 1 : 0;
	size_t length = strlen(path) + 1;

	if (path[0] == '/')
		return 0;
	if (folder + length > CONFIG_PATH_MAX)
		return -ENAMETOOLONG;
	memmove(path + folder, path, length);
	memcpy(path, file, folder);
	return 0;
}

int config_load(const char *file, struct config *config, char *error)
{
	enum { FILE_MAX = 1 << 20 };
	char detail[CONFIG_ERROR_MAX];
	uint8_t *text = malloc(FILE_MAX);
	FILE *stream = NULL;
	size_t length;
	int result = -ENOMEM;

	if (!text) {
		snprintf(error, CONFIG_ERROR_MAX, "%.512s: out of memory", file);
		goto out;
	}
	errno = 0;
	stream = fopen(file, "re");
	length = stream ? fread(text, 1, FILE_MAX, stream) : 0;
	if (!stream || ferror(stream)) {
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
	for (size_t i = 0; i < CYAML_ARRAY_LEN(paths); i++) {
		char *path = (char *)config + paths[i];

		if (*path && resolve(file, path)) {
			result = -ENAMETOOLONG;
			snprintf(error, CONFIG_ERROR_MAX, "%.512s: a path in it is too long", file);
		}
	}
out:
	if (stream)
		fclose(stream);
	free(text);
	return result;
}

/* What a relay that runs can change: whole sections, and single settings. */
static const char *const live[] = {
	"tls.certificate",
	"tls.key",
	"tls.ca",
	"tls.ticket_rotation",
	"data.address",
	"session.keepalive",
	"session.expiry",
	"session.rekey",
	"session.lanes_up",
	"session.ciphers",
	"limits.",
	"trust.crl",
	"trust.revoked",
	"trust.pins_file",
	"trust.pins",
	"trust.score_half_life",
	"trust.cut_seconds",
	"trust.cut_seconds_max",
	"trust.bad_records_per_second",
	"trust.block_seconds",
	"trust.block_seconds_max",
	"policy.",
	"topics.",
	"services.peer_requests",
	"services.peer_services",
	"services.policy",
	"services.slow_start",
	"services.silent",
	"services.timeout",
	"services.eject",
	"services.names",
	"drain.",
	"log.",
};

static bool is_live(const char *path)
{
	for (size_t i = 0; i < CYAML_ARRAY_LEN(live); i++) {
		size_t length = strlen(live[i]);

		if (strncmp(live[i], path, length) == 0 &&
		    (live[i][length - 1] == '.' || !path[length]))
			return true;
	}
	return false;
}

/* Writes a value, of a list the `count` entries. */
static void describe(FILE *out, const cyaml_schema_value_t *schema, const void *value,
		     uint32_t count)
{
	int number;

	switch (schema->type) {
	case CYAML_STRING:
		fputs(value, out);
		break;
	case CYAML_SEQUENCE:
		for (uint32_t i = 0; i < count; i++) {
			fputs(i ? ", " : "", out);
			describe(out, schema->sequence.entry,
				 (const char *)value + i * schema->sequence.entry->data_size, 0);
		}
		break;
	case CYAML_MAPPING:
		for (const cyaml_schema_field_t *field = schema->mapping.fields; field->key;
		     field++) {
			const char *at = (const char *)value + field->data_offset;

			memcpy(&count, (const char *)value + field->count_offset, sizeof(count));
			fprintf(out, "%s%s: ", field == schema->mapping.fields ? "" : " ",
				field->key);
			describe(out, &field->value, at, count);
		}
		break;
	default:
		memcpy(&number, value, sizeof(number));
		for (uint32_t i = 0; schema->type == CYAML_ENUM && i < schema->enumeration.count;
		     i++) {
			if (schema->enumeration.strings[i].val == number) {
				fputs(schema->enumeration.strings[i].str, out);
				return;
			}
		}
		fprintf(out, "%d", number);
	}
}

static char *description(const cyaml_schema_field_t *field, const void *section)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	uint32_t count = 0;

	if (!out)
		return NULL;
	if (field->value.type == CYAML_SEQUENCE)
		memcpy(&count, (const char *)section + field->count_offset, sizeof(count));
	describe(out, &field->value, (const char *)section + field->data_offset, count);
	fclose(out);
	return text;
}

void config_compare(const struct config *from, const struct config *to,
		    void (*each)(void *arg, const char *setting, const char *before,
				 const char *after, bool live),
		    void *arg)
{
	for (const cyaml_schema_field_t *section = config_fields; section->key; section++) {
		const char *old = (const char *)from + section->data_offset;
		const char *new = (const char *)to + section->data_offset;

		for (const cyaml_schema_field_t *field = section->value.mapping.fields; field->key;
		     field++) {
			char *before = description(field, old), *after = description(field, new);
			char path[PATH_TEXT];

			snprintf(path, sizeof(path), "%s.%s", section->key, field->key);
			if (!before || !after || strcmp(before, after) != 0)
				each(arg, path, before ? before : "?", after ? after : "?",
				     is_live(path));
			free(before);
			free(after);
		}
	}
}
