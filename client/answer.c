#include "answer.h"

#include <arpa/inet.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

static json_t *object_load(const void *text, size_t length)
{
	json_t *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL);

	if (root && !json_is_object(root)) {
		json_decref(root);
		root = NULL;
	}
	return root;
}

static bool get_integer(const json_t *object, const char *key, json_int_t min, json_int_t max,
			json_int_t *value)
{
	const json_t *member = json_object_get(object, key);

	*value = json_integer_value(member);
	return json_is_integer(member) && *value >= min && *value <= max;
}

static bool get_unsigned(const json_t *object, const char *key, uint32_t min, uint32_t max,
			 uint32_t *value)
{
	json_int_t integer;

	if (!get_integer(object, key, min, max, &integer))
		return false;
	*value = (uint32_t)integer;
	return true;
}

/* NULL unless it is a string; jansson has made sure that it is UTF-8 without NULs. */
static const char *get_string(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

static bool get_id(const json_t *object, const char *key, struct wire_id *id)
{
	const char *text = get_string(object, key);

	return text && wire_id_parse(id, text) == 0;
}

/* Copies what fits. People will see it in a terminal, so nothing that steers one gets through. */
static void copy_printable(char *to, size_t size, const char *from)
{
	size_t i = 0;

	for (; from && from[i] && i < size - 1; i++)
		to[i] = from[i] >= ' ' && from[i] < 0x7f ? from[i] : '?';
	to[i] = '\0';
}

static bool get_address(const json_t *object, struct sockaddr_storage *address)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)address;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;
	const char *text = get_string(object, "address");
	uint32_t port;

	memset(address, 0, sizeof(*address));
	if (!text || !get_unsigned(object, "port", 1, UINT16_MAX, &port))
		return false;
	if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons((uint16_t)port);
		return true;
	}
	if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons((uint16_t)port);
		return true;
	}
	return false;
}

/* Bytes as lower-case hex digits; none at all are zeros. */
static bool get_bytes(const json_t *object, const char *key, uint8_t *bytes, size_t size)
{
	const char *text = get_string(object, key);
	static const char digits[] = "0123456789abcdef";

	memset(bytes, 0, size);
	if (!json_object_get(object, key))
		return true;
	if (!text || strlen(text) != 2 * size)
		return false;
	for (size_t i = 0; i < 2 * size; i++) {
		const char *digit = strchr(digits, text[i]);

		if (!digit)
			return false;
		bytes[i / 2] = (uint8_t)(bytes[i / 2] << 4 | (digit - digits));
	}
	return true;
}

static bool get_welcome(const json_t *root, struct welcome *welcome)
{
	const json_t *lanes = json_object_get(root, "lanes");
	const char *cipher = get_string(root, "cipher");
	uint32_t version;

	if (!get_unsigned(root, "viaduct", 1, 1, &version) || !cipher)
		return false;
	welcome->aead = wire_aead_parse(cipher);
	welcome->trains = json_is_true(json_object_get(root, "trains"));
	welcome->bundles = json_is_true(json_object_get(root, "bundles"));
	return welcome->aead && get_id(root, "id", &welcome->id) &&
	       get_id(root, "relay", &welcome->relay) &&
	       get_unsigned(root, "index", 0, UINT32_MAX, &welcome->index) &&
	       get_unsigned(root, "epoch", 0, UINT32_MAX, &welcome->epoch) &&
	       get_address(json_object_get(root, "data"), &welcome->data) &&
	       get_unsigned(lanes, "up", 1, WIRE_LANES_MAX, &welcome->lanes_up) &&
	       get_unsigned(lanes, "down", 1, WIRE_LANES_MAX, &welcome->lanes_down) &&
	       get_unsigned(root, "mtu", WIRE_MTU_MIN, WIRE_MTU_MAX, &welcome->mtu) &&
	       get_unsigned(root, "max_payload", 1, welcome->mtu - WIRE_PAYLOAD_OVERHEAD,
			    &welcome->max_payload) &&
	       get_unsigned(root, "keepalive", 1, 3600, &welcome->keepalive) &&
	       get_unsigned(root, "expiry", 1, 86400, &welcome->expiry) &&
	       get_unsigned(root, "rekey", 1, 30 * 86400, &welcome->rekey) &&
	       get_unsigned(root, "key_records", WIRE_LANES_MAX, WIRE_KEY_RECORDS,
			    &welcome->key_records) &&
	       get_bytes(root, "mac", welcome->mac, sizeof(welcome->mac));
}

int answer_parse_line(struct welcome *welcome, struct refusal *refusal, const char *line,
		      size_t length)
{
	json_t *root = object_load(line, length);
	const json_t *retry;
	const char *code;
	int ret = -EPROTO;

	if (!root)
		return -EPROTO;
	code = get_string(root, "error");
	if (code) {
		copy_printable(refusal->code, sizeof(refusal->code), code);
		copy_printable(refusal->detail, sizeof(refusal->detail),
			       get_string(root, "detail"));
		retry = json_object_get(root, "retry_after");
		refusal->retry_after = json_number_value(retry);
		if (!(refusal->retry_after >= 0 && refusal->retry_after <= 3600))
			refusal->retry_after = 0;
		ret = -ECONNREFUSED;
	} else if (get_welcome(root, welcome)) {
		ret = 0;
	}
	json_decref(root);
	return ret;
}

static bool get_change(const json_t *root, struct event *event)
{
	const char *change = get_string(root, "change"), *name = get_string(root, "name");
	json_int_t sequence;

	if (!change || !*change || strlen(change) >= sizeof(event->change) ||
	    (name && strlen(name) >= sizeof(event->name)) ||
	    !get_integer(root, "sequence", 0, INT64_MAX, &sequence) ||
	    (strcmp(change, "missed") != 0 && !get_id(root, "id", &event->id)))
		return false;
	copy_printable(event->change, sizeof(event->change), change);
	strcpy(event->name, name ? name : "");
	event->sequence = (uint64_t)sequence;
	return true;
}

/* Without `within` it is at once. What is no relay is left out. */
static bool get_closing(const json_t *root, struct event *event)
{
	const json_t *relays = json_object_get(root, "relays"), *relay;
	size_t i;

	if (json_object_get(root, "within") &&
	    !get_unsigned(root, "within", 0, 3600, &event->within))
		return false;
	json_array_foreach (relays, i, relay) {
		const char *text = json_string_value(relay);

		if (text && strlen(text) < ANSWER_RELAY_TEXT && event->relay_count < ANSWER_RELAYS)
			strcpy(event->relays[event->relay_count++], text);
	}
	return true;
}

int answer_parse_event(struct event *event, const void *text, size_t length)
{
	static const char *const names[] = {
		[EVENT_PATH] = "path",       [EVENT_CHALLENGE] = "challenge",
		[EVENT_REKEY] = "rekey",     [EVENT_REPLACED] = "replaced",
		[EVENT_REVOKED] = "revoked", [EVENT_CLOSING] = "closing",
		[EVENT_CUT] = "cut",         [EVENT_PEER] = "peer",
	};
	json_t *root = object_load(text, length);
	struct sockaddr_storage address;
	const char *name, *token;
	int ret = -EPROTO;

	memset(event, 0, sizeof(*event));
	name = get_string(root, "event");
	if (!name)
		goto out;
	for (enum event_kind kind = EVENT_PATH; kind <= EVENT_PEER; kind++)
		if (!strcmp(name, names[kind]))
			event->kind = kind;
	if (event->kind == EVENT_PATH) {
		if (!get_address(root, &address))
			goto out;
		answer_format_address(event->address, &address);
	}
	if (event->kind == EVENT_CHALLENGE) {
		token = get_string(root, "token");
		if (!token || strlen(token) >= sizeof(event->token))
			goto out;
		strcpy(event->token, token);
	}
	if (event->kind == EVENT_PEER && !get_change(root, event))
		goto out;
	if (event->kind == EVENT_CLOSING && !get_closing(root, event))
		goto out;
	ret = 0;
out:
	json_decref(root);
	return ret;
}

static int root_ok(const json_t *root)
{
	const json_t *ok = json_object_get(root, "ok");

	if (!json_is_boolean(ok))
		return -EPROTO;
	return json_is_true(ok) ? 0 : -ECONNREFUSED;
}

int answer_parse_ok(const void *text, size_t length)
{
	json_t *root = object_load(text, length);
	int ret = root_ok(root);

	json_decref(root);
	return ret;
}

int answer_parse_watch(uint64_t *sequence, const void *text, size_t length)
{
	json_t *root = object_load(text, length);
	json_int_t number;
	int ret = root_ok(root);

	if (!ret && !get_integer(root, "sequence", 0, INT64_MAX, &number))
		ret = -EPROTO;
	if (!ret)
		*sequence = (uint64_t)number;
	json_decref(root);
	return ret;
}

int answer_parse_done(struct refusal *refusal, const void *text, size_t length)
{
	json_t *root = object_load(text, length);
	int ret = root_ok(root);

	memset(refusal, 0, sizeof(*refusal));
	if (ret == -ECONNREFUSED) {
		copy_printable(refusal->code, sizeof(refusal->code), get_string(root, "error"));
		copy_printable(refusal->detail, sizeof(refusal->detail),
			       get_string(root, "detail"));
		ret = -EACCES;
	}
	json_decref(root);
	return ret;
}

int answer_parse_list(struct list *list, const void *text, size_t length)
{
	json_t *root = object_load(text, length), *peers = json_object_get(root, "peers"), *peer;
	size_t i;
	int ret;

	memset(list, 0, sizeof(*list));
	list->json = root;
	ret = root_ok(root);
	if (ret)
		goto out;
	ret = -EPROTO;
	if (!json_is_array(peers))
		goto out;
	list->more = json_is_true(json_object_get(root, "more"));
	list->entries = calloc(json_array_size(peers) + 1, sizeof(*list->entries));
	if (!list->entries) {
		ret = -ENOMEM;
		goto out;
	}
	json_array_foreach (peers, i, peer) {
		struct viaduct_entry *entry = &list->entries[i];
		struct wire_id id;

		entry->name = get_string(peer, "name");
		if (!entry->name || !get_id(peer, "id", &id))
			goto out;
		memcpy(&entry->id, &id, sizeof(id));
	}
	list->count = json_array_size(peers);
	ret = 0;
out:
	if (ret)
		list_free(list);
	return ret;
}

void list_free(struct list *list)
{
	free(list->entries);
	json_decref(list->json);
	memset(list, 0, sizeof(*list));
}

void answer_format_address(char text[ANSWER_ADDRESS_TEXT], const struct sockaddr_storage *address)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
	char host[INET6_ADDRSTRLEN];

	if (address->ss_family == AF_INET6) {
		inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
		snprintf(text, ANSWER_ADDRESS_TEXT, "[%s]:%u", host, ntohs(v6->sin6_port));
	} else {
		inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
		snprintf(text, ANSWER_ADDRESS_TEXT, "%s:%u", host, ntohs(v4->sin_port));
	}
}
