/*
 * The pure parts of libviaduct: nothing here needs a socket, a clock or a relay. VECTORS names
 * tests/vectors.json.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "answer.h"
#include "receive.h"
#include "timer.h"

/* ---- Timers ---- */

static void timers_come_in_order(void **state)
{
	enum { COUNT = 1000 };
	static struct timer timers[COUNT];
	struct timers heap = {0};
	uint64_t random = 1, last = 0;
	unsigned int count = 0;

	for (int round = 0; round < 3; round++)
		for (int i = 0; i < COUNT; i++) {
			random = random * 6364136223846793005U + 1442695040888963407U;
			timers_add(&heap, &timers[i], random >> 40); // twice: moves it
		}
	for (int i = 0; i < COUNT; i += 3)
		timers_remove(&heap, &timers[i]);
	for (struct timer *timer; (timer = heap.first); count++) {
		assert_true(timer->due >= last);
		last = timer->due;
		timers_remove(&heap, timer);
		assert_false(timer->set);
	}
	assert_int_equal(count, COUNT - (COUNT + 2) / 3);
}

/* ---- Keys and records ---- */

static size_t unhex(uint8_t *out, const char *hex)
{
	size_t size = strlen(hex) / 2;

	for (size_t i = 0; i < size; i++)
		sscanf(hex + 2 * i, "%2hhx", &out[i]);
	return size;
}

/* The test vectors say the same as this code, for sealing and for opening. */
static void records_match_vectors(void **state)
{
	static const char *const names[] = {"record_aes", "record_chacha"};
	json_t *vectors = json_load_file(getenv("VECTORS"), 0, NULL);

	assert_non_null(vectors);
	for (size_t i = 0; i < 2; i++) {
		json_t *vector = json_object_get(vectors, names[i]);
		uint8_t export[WIRE_EXPORT_SIZE], text[WIRE_MTU_MAX], want[WIRE_MTU_MAX],
			record[WIRE_MTU_MAX];
		struct wire_record header = {0};
		size_t length, size;
		struct keys *keys;

		assert_non_null(vector);
		unhex(export, json_string_value(json_object_get(vector, "export")));
		length = unhex(text, json_string_value(json_object_get(vector, "plaintext")));
		size = unhex(want, json_string_value(json_object_get(vector, "record")));
		assert_int_equal(keys_new(&keys,
					  wire_aead_parse(json_string_value(
						  json_object_get(vector, "cipher"))),
					  0, export, export),
				 0);
		assert_int_equal(wire_record_get(&header, want, size), WIRE_OK);
		wire_record_put(record, &header);
		memcpy(record + WIRE_RECORD_HEADER, text, length);
		assert_int_equal(keys_seal(keys, record, length), size);
		assert_memory_equal(record, want, size);
		assert_int_equal(keys_open(keys, record, size), length);
		assert_memory_equal(record + WIRE_RECORD_HEADER, text, length);
		keys_free(keys);
	}
	json_decref(vectors);
}

enum { INDEX = 0x00500001 };

static struct keys *keys_of(uint32_t epoch)
{
	uint8_t export[WIRE_EXPORT_SIZE];
	struct keys *keys;

	memset(export, 0x11 * (int)(epoch + 1), sizeof(export));
	assert_int_equal(keys_new(&keys, WIRE_AES_256_GCM, epoch, export, export), 0);
	return keys;
}

/* A record of one send with ten bytes of payload. */
static size_t record_make(uint8_t *record, struct keys *keys, uint8_t lane, uint64_t sequence)
{
	struct wire_record header = {.class = WIRE_NORMAL,
				     .phase = keys->epoch & 1,
				     .lane = lane,
				     .index = INDEX,
				     .sequence = sequence};
	static const struct wire_id id = {{1, 2, 3}};

	wire_record_put(record, &header);
	wire_message_put(record + WIRE_RECORD_HEADER, 10, WIRE_SEND, 8, 0, 7, &id);
	memset(record + WIRE_RECORD_HEADER + WIRE_MESSAGE_HEADER, 'x', 10);
	return (size_t)keys_seal(keys, record, WIRE_MESSAGE_HEADER + 10);
}

static void receiver_refuses_what_is_wrong(void **state)
{
	struct receive_lane lanes[2] = {0};
	struct receiver receiver = {.index = INDEX,
				    .size_max = 1232,
				    .lane_count = 2,
				    .lanes = lanes,
				    .current = keys_of(0)};
	uint8_t good[128], data[128];
	struct received received;
	size_t size = record_make(good, receiver.current, 1, 5);

	for (size_t i = 0; i < size; i++) { // a flipped bit in each byte
		memcpy(data, good, size);
		data[i] ^= 0x04;
		assert_int_not_equal(receive_open(&received, &receiver, data, size), RECEIVE_OK);
	}
	for (size_t i = 0; i < size; i++) { // cut short
		memcpy(data, good, size);
		assert_int_not_equal(receive_open(&received, &receiver, data, i), RECEIVE_OK);
	}
	memcpy(data, good, size);
	assert_int_equal(receive_open(&received, &receiver, data, 1233), RECEIVE_MALFORMED);
	memcpy(data, good, size);
	assert_int_equal(receive_open(&received, &receiver, data, size), RECEIVE_OK);
	assert_int_equal(received.length, WIRE_MESSAGE_HEADER + 10);
	memcpy(data, good, size);
	assert_int_equal(receive_open(&received, &receiver, data, size), RECEIVE_REPLAYED);
	size = record_make(data, receiver.current, 2, 0); // a lane that was not agreed
	assert_int_equal(receive_open(&received, &receiver, data, size), RECEIVE_MALFORMED);
	keys_free(receiver.current);
}

static void receiver_opens_both_phases(void **state)
{
	struct receive_lane lane = {0};
	struct receiver receiver = {.index = INDEX,
				    .size_max = 1232,
				    .lane_count = 1,
				    .lanes = &lane,
				    .current = keys_of(1),
				    .old = keys_of(0)};
	struct received received;
	uint8_t data[128];
	size_t size;

	size = record_make(data, receiver.old, 0, 0);
	assert_int_equal(receive_open(&received, &receiver, data, size), RECEIVE_OK);
	assert_false(received.current);
	size = record_make(data, receiver.current, 0, 1);
	assert_int_equal(receive_open(&received, &receiver, data, size), RECEIVE_OK);
	assert_true(received.current);
	assert_int_equal(lane.used, 1);
	size = record_make(data, receiver.current, 0, 0); // one window serves both
	assert_int_equal(receive_open(&received, &receiver, data, size), RECEIVE_REPLAYED);

	size = record_make(data, receiver.old, 0, 2);
	keys_free(receiver.old);
	receiver.old = NULL;
	assert_int_equal(receive_open(&received, &receiver, data, size), RECEIVE_MALFORMED);
	keys_free(receiver.current);
}

static void plaintext_is_whole_messages(void **state)
{
	uint8_t text[3 * WIRE_MESSAGE_HEADER + 8];
	static const struct wire_id id;

	wire_message_put(text, 8, WIRE_SEND, 8, 0, 1, &id);
	wire_message_put(text + WIRE_MESSAGE_HEADER + 8, 0, WIRE_PING, 8, 0, 2, &id);
	assert_true(receive_check(text, 2 * WIRE_MESSAGE_HEADER + 8));
	assert_false(receive_check(text, 0));
	assert_false(receive_check(text, 2 * WIRE_MESSAGE_HEADER + 7)); // cut
	assert_false(receive_check(text, 2 * WIRE_MESSAGE_HEADER + 9)); // a byte more
	text[1] = 200;                                                  // a length that lies
	assert_false(receive_check(text, 2 * WIRE_MESSAGE_HEADER + 8));
	text[1] = 8;
	text[3] |= 8; // a reserved flag
	assert_false(receive_check(text, 2 * WIRE_MESSAGE_HEADER + 8));
	text[3] = 0x80 | WIRE_FLAG_VIA; // there is no room for a via
	text[1] = 200;
	assert_false(receive_check(text, 2 * WIRE_MESSAGE_HEADER + 8));
}

/* ---- Answers ---- */

#define ID "aaaaaaaaaaaaaaaaaaaaaaaaaa"

static const char welcome_line[] =
	"{\"viaduct\":1,\"id\":\"" ID "\",\"name\":\"spiffe://lab/a/b\",\"relay\":\"" ID "\","
	"\"index\":4294967295,\"epoch\":0,\"cipher\":\"aes-256-gcm\","
	"\"data\":{\"address\":\"fd77::1\",\"port\":7740},\"lanes\":{\"up\":2,\"down\":3},"
	"\"mtu\":1280,\"max_payload\":1160,\"keepalive\":10,\"expiry\":30,\"rekey\":3600,"
	"\"key_records\":268435456,\"relays\":[],\"unknown\":null}";

static int parse(const char *line)
{
	struct welcome welcome;
	struct refusal refusal;

	return answer_parse_line(&welcome, &refusal, line, strlen(line));
}

static void welcome_is_read(void **state)
{
	char address[ANSWER_ADDRESS_TEXT];
	struct welcome welcome;
	struct refusal refusal;

	assert_int_equal(answer_parse_line(&welcome, &refusal, welcome_line, strlen(welcome_line)),
			 0);
	assert_int_equal(welcome.index, UINT32_MAX);
	assert_int_equal(welcome.aead, WIRE_AES_256_GCM);
	assert_int_equal(welcome.lanes_up, 2);
	assert_int_equal(welcome.lanes_down, 3);
	assert_int_equal(welcome.key_records, WIRE_KEY_RECORDS);
	answer_format_address(address, &welcome.data);
	assert_string_equal(address, "[fd77::1]:7740");
}

/* Each field is needed and has its range. */
static void welcome_is_checked(void **state)
{
	static const struct {
		const char *key;
		const char *bad[8];
	} fields[] = {
		{"viaduct", {"2", "\"1\"", "1.0"}},
		{"id", {"\"\"", "\"aaaaaaaaaaaaaaaaaaaaaaaaab\"", "1", "null"}},
		{"relay", {"\"AAAAAAAAAAAAAAAAAAAAAAAAAA\"", "[]"}},
		{"index", {"-1", "4294967296"}},
		{"epoch", {"-1", "true"}},
		{"cipher", {"\"rot13\"", "2"}},
		{"data",
		 {"{\"address\":\"relay.example\",\"port\":1}",
		  "{\"address\":\"10.0.0.1\",\"port\":0}", "{\"port\":1}", "\"10.0.0.1:1\""}},
		{"lanes", {"{\"up\":0,\"down\":1}", "{\"up\":9,\"down\":1}", "{\"up\":1}", "1"}},
		{"mtu", {"1279", "9001"}},
		{"max_payload", {"0", "1161"}},
		{"keepalive", {"0", "-5"}},
		{"expiry", {"0"}},
		{"rekey", {"0"}},
		{"key_records", {"0", "268435457"}},
	};
	json_t *root;
	char *line;

	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		root = json_loads(welcome_line, 0, NULL);
		json_object_del(root, fields[i].key);
		line = json_dumps(root, 0);
		assert_int_equal(parse(line), -EPROTO);
		free(line);
		for (int j = 0; fields[i].bad[j]; j++) {
			json_object_set_new(root, fields[i].key,
					    json_loads(fields[i].bad[j], JSON_DECODE_ANY, NULL));
			line = json_dumps(root, 0);
			assert_int_equal(parse(line), -EPROTO);
			free(line);
		}
		json_decref(root);
	}
}

static void nonsense_is_no_answer(void **state)
{
	static const char *const lines[] = {
		"",
		"{}",
		"[]",
		"null",
		"{\"error\":1}",
		"{",
		"\xff",
		"{\"a\":1}x",
		"{\"a\":1}{}",
		"{\"error\":\"busy\",\"error\":\"x\"}",
		"HTTP/1.1 400 Bad Request",
	};
	static char deep[WIRE_LINE_MAX];

	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
		assert_int_equal(parse(lines[i]), -EPROTO);
	memset(deep, '[', sizeof(deep) - 1);
	assert_int_equal(parse(deep), -EPROTO);
	for (size_t i = 0; i < strlen(welcome_line); i++) {
		struct welcome welcome;
		struct refusal refusal;

		assert_int_equal(answer_parse_line(&welcome, &refusal, welcome_line, i), -EPROTO);
	}
}

static void refusal_is_read(void **state)
{
	static const char line[] = "{\"error\":\"busy\",\"detail\":\"a \\u001b[31mred\\nlie\","
				   "\"retry_after\":2.5}";
	struct welcome welcome;
	struct refusal refusal;

	assert_int_equal(answer_parse_line(&welcome, &refusal, line, strlen(line)), -ECONNREFUSED);
	assert_string_equal(refusal.code, "busy");
	assert_string_equal(refusal.detail, "a ?[31mred?lie");
	assert_true(refusal.retry_after == 2.5);
	assert_int_equal(
		answer_parse_line(&welcome, &refusal, "{\"error\":\"x\",\"retry_after\":-1}", 30),
		-ECONNREFUSED);
	assert_true(refusal.retry_after == 0);
}

static int parse_event(struct event *event, const char *text)
{
	return answer_parse_event(event, text, strlen(text));
}

static void events_are_read(void **state)
{
	struct event event;
	char text[256];

	assert_int_equal(parse_event(&event, "{\"event\":\"path\",\"address\":\"10.0.0.1\","
					     "\"port\":5}"),
			 0);
	assert_int_equal(event.kind, EVENT_PATH);
	assert_string_equal(event.address, "10.0.0.1:5");
	assert_int_equal(parse_event(&event, "{\"event\":\"challenge\",\"token\":\"t\"}"), 0);
	assert_int_equal(event.kind, EVENT_CHALLENGE);
	assert_string_equal(event.token, "t");
	assert_int_equal(parse_event(&event, "{\"event\":\"replaced\"}"), 0);
	assert_int_equal(event.kind, EVENT_REPLACED);
	assert_int_equal(parse_event(&event, "{\"event\":\"peer\",\"change\":\"left\",\"id\":\"" ID
					     "\",\"name\":\"n\",\"sequence\":7}"),
			 0);
	assert_int_equal(event.kind, EVENT_PEER);
	assert_string_equal(event.change, "left");
	assert_string_equal(event.name, "n");
	assert_int_equal(event.sequence, 7);
	assert_int_equal(parse_event(&event, "{\"event\":\"peer\",\"change\":\"missed\","
					     "\"sequence\":9}"),
			 0);
	assert_string_equal(event.name, "");
	assert_int_equal(parse_event(&event, "{\"event\":\"party\"}"), 0);
	assert_int_equal(event.kind, EVENT_UNKNOWN);

	assert_int_equal(parse_event(&event, "{\"event\":\"path\",\"address\":\"x\",\"port\":5}"),
			 -EPROTO);
	assert_int_equal(parse_event(&event, "{\"event\":\"challenge\"}"), -EPROTO);
	assert_int_equal(parse_event(&event, "{\"event\":\"peer\",\"change\":\"left\","
					     "\"sequence\":7}"),
			 -EPROTO); // who?
	assert_int_equal(parse_event(&event, "{\"event\":\"peer\",\"change\":\"missed\"}"),
			 -EPROTO);
	assert_int_equal(parse_event(&event, "{\"event\":5}"), -EPROTO);
	assert_int_equal(parse_event(&event, "{}"), -EPROTO);
	snprintf(text, sizeof(text), "{\"event\":\"challenge\",\"token\":\"%0200d\"}", 0);
	assert_int_equal(parse_event(&event, text), -EPROTO); // longer than we keep
}

static int parse_list(struct list *list, const char *text)
{
	return answer_parse_list(list, text, strlen(text));
}

static void lists_are_read(void **state)
{
	struct list list;

	assert_int_equal(parse_list(&list, "{\"ok\":true,\"peers\":[{\"id\":\"" ID "\",\"name\":"
					   "\"n\"}],\"more\":true}"),
			 0);
	assert_int_equal(list.count, 1);
	assert_true(list.more);
	assert_string_equal(list.entries[0].name, "n");
	list_free(&list);
	assert_int_equal(parse_list(&list, "{\"ok\":true,\"peers\":[]}"), 0);
	assert_int_equal(list.count, 0);
	list_free(&list);
	assert_int_equal(parse_list(&list, "{\"ok\":false,\"error\":\"malformed\"}"),
			 -ECONNREFUSED);
	assert_int_equal(parse_list(&list, "{\"ok\":true}"), -EPROTO);
	assert_int_equal(
		parse_list(&list, "{\"ok\":true,\"peers\":[{\"id\":\"x\",\"name\":\"n\"}]}"),
		-EPROTO);
	assert_int_equal(parse_list(&list, "{\"ok\":1,\"peers\":[]}"), -EPROTO);
	assert_int_equal(parse_list(&list, "{\"ok\":true,\"peers\":[1]}"), -EPROTO);
}

/* ---- Words ---- */

static void ids_have_one_text(void **state)
{
	char text[VIADUCT_ID_TEXT + 1];
	struct viaduct_id id, again;

	for (int i = 0; i < 256; i++) {
		memset(&id, i, sizeof(id));
		viaduct_id_format(text, &id);
		assert_int_equal(viaduct_id_parse(&again, text), 0);
		assert_memory_equal(&id, &again, sizeof(id));
	}
	assert_int_equal(viaduct_id_parse(&id, ""), -EINVAL);
	assert_int_equal(viaduct_id_parse(&id, ID "a"), -EINVAL);
	assert_int_equal(viaduct_id_parse(&id, "aaaaaaaaaaaaaaaaaaaaaaaaab"), -EINVAL);
}

static void errors_have_words(void **state)
{
	assert_string_equal(viaduct_strerror(VIADUCT_E_BUSY), "busy, try again later");
	assert_string_equal(viaduct_strerror(-ENOENT), "No such file or directory");
	assert_string_equal(viaduct_strerror(-99999), "unknown error");
	assert_string_equal(viaduct_reason_name(VIADUCT_NO_ROUTE), "no_route");
	assert_string_equal(viaduct_reason_name(99), "unknown");
}

static int done(struct refusal *refusal, const char *text)
{
	return answer_parse_done(refusal, text, strlen(text));
}

static void requests_are_done_or_refused(void **state)
{
	struct refusal refusal;

	assert_int_equal(done(&refusal, "{\"ok\":true}"), 0);
	assert_int_equal(
		done(&refusal, "{\"ok\":false,\"error\":\"limit\",\"detail\":\"no\\u0007\"}"),
		-EACCES);
	assert_string_equal(refusal.code, "limit");
	assert_string_equal(refusal.detail, "no?");
	assert_int_equal(done(&refusal, "{\"ok\":false}"), -EACCES);
	assert_string_equal(refusal.code, "");
	assert_int_equal(done(&refusal, "{}"), -EPROTO);
	assert_int_equal(done(&refusal, "no"), -EPROTO);
}

static void topics_and_services_have_ids(void **state)
{
	struct viaduct_id id;
	char text[VIADUCT_ID_TEXT + 1];

	// printf 'viaduct topic build/status' | sha256sum
	viaduct_topic_id(&id, "build/status");
	viaduct_id_format(text, &id);
	assert_string_equal(text, "uwyikoefciqp7xcaisuk4ln2m4");
	// printf 'viaduct service build/status' | sha256sum
	viaduct_service_id(&id, "build/status");
	viaduct_id_format(text, &id);
	assert_string_equal(text, "6v6knvchtuc5juqkxjfun5nom4");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(timers_come_in_order),
		cmocka_unit_test(records_match_vectors),
		cmocka_unit_test(receiver_refuses_what_is_wrong),
		cmocka_unit_test(receiver_opens_both_phases),
		cmocka_unit_test(plaintext_is_whole_messages),
		cmocka_unit_test(welcome_is_read),
		cmocka_unit_test(welcome_is_checked),
		cmocka_unit_test(nonsense_is_no_answer),
		cmocka_unit_test(refusal_is_read),
		cmocka_unit_test(events_are_read),
		cmocka_unit_test(lists_are_read),
		cmocka_unit_test(ids_have_one_text),
		cmocka_unit_test(errors_have_words),
		cmocka_unit_test(requests_are_done_or_refused),
		cmocka_unit_test(topics_and_services_have_ids),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
