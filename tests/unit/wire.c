#include "test.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire.h"

static json_t *vectors;

/* Reads a vector's hex field; returns its size. */
static size_t hex(const char *vector, const char *field, uint8_t *bytes, size_t room)
{
	const char *text =
		json_string_value(json_object_get(json_object_get(vectors, vector), field));
	size_t length;

	assert_non_null(text);
	length = strlen(text) / 2;
	assert_true(length <= room);
	for (size_t i = 0; i < length; i++)
		assert_int_equal(sscanf(text + 2 * i, "%2hhx", &bytes[i]), 1);
	return length;
}

static uint64_t number(const char *vector, const char *field)
{
	const json_t *value = json_object_get(json_object_get(vectors, vector), field);

	assert_true(json_is_integer(value));
	return (uint64_t)json_integer_value(value);
}

static const char *text(const char *vector, const char *field)
{
	const char *value =
		json_string_value(json_object_get(json_object_get(vectors, vector), field));

	assert_non_null(value);
	return value;
}

static void test_vector_ids(void **state)
{
	static const char *const names[] = {"peer_id", "relay_id", "zero_id"};

	for (int i = 0; i < 3; i++) {
		struct wire_id id, parsed;
		char formatted[WIRE_ID_TEXT + 1];

		assert_int_equal(hex(names[i], "id", id.bytes, sizeof(id)), sizeof(id));
		wire_id_format(formatted, &id);
		assert_string_equal(formatted, text(names[i], "text"));
		assert_int_equal(wire_id_parse(&parsed, formatted), 0);
		assert_true(wire_id_equal(&parsed, &id));
	}
}

static void test_vector_contexts(void **state)
{
	static const char *const names[] = {"context_up", "context_down", "context_rekey"};

	for (int i = 0; i < 3; i++) {
		uint8_t expected[WIRE_CONTEXT_SIZE], context[WIRE_CONTEXT_SIZE];
		struct wire_id peer, relay;

		hex(names[i], "peer", peer.bytes, sizeof(peer));
		hex(names[i], "relay", relay.bytes, sizeof(relay));
		assert_int_equal(hex(names[i], "context", expected, sizeof(expected)),
				 sizeof(expected));
		assert_int_equal(number(names[i], "direction"), i);
		wire_context(context, number(names[i], "aead"), i, number(names[i], "index"),
			     number(names[i], "epoch"), &peer, &relay);
		assert_memory_equal(context, expected, sizeof(context));
	}
}

static void test_vector_rekey(void **state)
{
	static const char *const names[] = {"rekey", "rekey_grant"};
	static const char *const prefixes[] = {WIRE_REKEY_ASKS, WIRE_REKEY_GRANTS};
	uint8_t expected[WIRE_REKEY_INPUT], input[WIRE_REKEY_INPUT], binding[32];

	for (int i = 0; i < 2; i++) {
		assert_int_equal(hex(names[i], "binding", binding, sizeof(binding)),
				 sizeof(binding));
		assert_int_equal(hex(names[i], "input", expected, sizeof(expected)),
				 sizeof(expected));
		wire_rekey_input(input, prefixes[i], binding, number(names[i], "index"),
				 number(names[i], "epoch"));
		assert_memory_equal(input, expected, sizeof(input));
	}
}

static void test_vector_records(void **state)
{
	static const char *const names[] = {"record_aes", "record_chacha"};

	for (int i = 0; i < 2; i++) {
		uint8_t iv[WIRE_IV_SIZE], nonce[WIRE_IV_SIZE], expected[WIRE_IV_SIZE];
		uint8_t bytes[1024], header[WIRE_RECORD_HEADER];
		size_t length = hex(names[i], "record", bytes, sizeof(bytes));
		struct wire_record record = {0};

		assert_int_equal(wire_record_get(&record, bytes, length), WIRE_OK);
		assert_int_equal(record.class, number(names[i], "class"));
		assert_int_equal(record.phase, number(names[i], "phase"));
		assert_int_equal(record.index, number(names[i], "index"));
		assert_int_equal(record.lane, number(names[i], "lane"));
		assert_int_equal(record.sequence, number(names[i], "sequence"));
		wire_record_put(header, &record);
		assert_memory_equal(header, bytes, sizeof(header));
		hex(names[i], "header", bytes, sizeof(bytes));
		assert_memory_equal(header, bytes, sizeof(header));

		hex(names[i], "iv", iv, sizeof(iv));
		hex(names[i], "nonce", expected, sizeof(expected));
		wire_nonce(nonce, iv, header);
		assert_memory_equal(nonce, expected, sizeof(nonce));

		assert_int_equal(hex(names[i], "plaintext", bytes, sizeof(bytes)),
				 length - WIRE_RECORD_OVERHEAD);
		assert_string_equal(wire_aead_name(wire_aead_parse(text(names[i], "cipher"))),
				    text(names[i], "cipher"));
	}
}

static void expect_message(const char *name, const struct wire_message *message)
{
	uint8_t bytes[256];
	size_t length = hex(name, "message", bytes, sizeof(bytes));
	uint8_t header[WIRE_MESSAGE_HEADER];
	struct wire_id address = {{0}};

	assert_int_equal(message->kind, number(name, "kind"));
	assert_int_equal(message->hop_limit, number(name, "hop_limit"));
	assert_int_equal(message->flags, number(name, "flags"));
	assert_int_equal(wire_message_tag(message->data), number(name, "tag"));
	assert_int_equal(message->length, strlen(text(name, "payload")) / 2);
	assert_int_equal(message->size, length);
	assert_memory_equal(message->data, bytes, length);
	hex(name, "address", address.bytes, sizeof(address));
	wire_message_put(header, message->length, message->kind, message->hop_limit, message->flags,
			 wire_message_tag(message->data), &address);
	assert_memory_equal(header, bytes, sizeof(header));
}

static void test_vector_messages(void **state)
{
	static const char *const names[] = {"message_send", "message_ping", "message_via"};
	uint8_t bytes[512];
	struct wire_message message = {.data = bytes};
	size_t length, at = 0;

	// one by one; and all three, which is what the second record holds
	for (int i = 0; i < 3; i++) {
		length = hex(names[i], "message", bytes, sizeof(bytes));
		assert_int_equal(wire_message_get(&message, bytes, length, 0), length);
		assert_ptr_equal(message.data, bytes);
		expect_message(names[i], &message);
	}
	length = hex("record_chacha", "plaintext", bytes, sizeof(bytes));
	for (int i = 0; i < 3; i++) {
		at = wire_message_get(&message, bytes, length, at);
		assert_int_not_equal(at, 0);
		expect_message(names[i], &message);
	}
	assert_int_equal(at, length);
}

static void test_record_header(void **state)
{
	const struct wire_record records[] = {
		{.class = WIRE_BULK},
		{.class = WIRE_NORMAL, .phase = 1, .lane = 1, .index = 1, .sequence = 1},
		{.class = WIRE_CRITICAL, .lane = 3, .index = 0x89abcdef, .sequence = 0x123456789a},
		{WIRE_CONTROL, 1, WIRE_LANES_MAX - 1, UINT32_MAX, WIRE_SEQUENCE_MAX},
	};

	for (int i = 0; i < 4; i++) {
		uint8_t header[WIRE_RECORD_HEADER];
		struct wire_record got = {0};

		wire_record_put(header, &records[i]);
		assert_int_equal(wire_record_get(&got, header, WIRE_RECORD_MIN), WIRE_OK);
		assert_int_equal(got.class, records[i].class);
		assert_int_equal(got.phase, records[i].phase);
		assert_int_equal(got.lane, records[i].lane);
		assert_int_equal(got.index, records[i].index);
		assert_int_equal(got.sequence, records[i].sequence);
	}
}

static void test_not_a_record(void **state)
{
	const struct wire_record record = {WIRE_CONTROL, 1, 7, UINT32_MAX, WIRE_SEQUENCE_MAX};
	uint8_t header[WIRE_RECORD_HEADER];
	struct wire_record got = {0};

	wire_record_put(header, &record);
	for (size_t length = 0; length < WIRE_RECORD_MIN; length++)
		assert_int_equal(wire_record_get(&got, header, length), WIRE_BAD_SIZE);
	for (int first = 0; first < 256; first++) {
		header[0] = (uint8_t)first;
		assert_int_equal(wire_record_get(&got, header, WIRE_RECORD_MIN),
				 first == 0x10 ? WIRE_OK : WIRE_BAD_VERSION);
	}
	header[0] = WIRE_VERSION_TYPE;
	for (int bit = 0; bit < 21; bit++) {
		uint8_t *byte = &header[bit < 5 ? 1 : 2 + (bit - 5) / 8];
		uint8_t mask = 1 << (bit < 5 ? bit : (bit - 5) % 8);

		*byte |= mask;
		assert_int_equal(wire_record_get(&got, header, WIRE_RECORD_MIN), WIRE_BAD_RESERVED);
		// a version unknown says nothing about what is reserved
		header[0] = 0x20;
		assert_int_equal(wire_record_get(&got, header, WIRE_RECORD_MIN), WIRE_BAD_VERSION);
		header[0] = WIRE_VERSION_TYPE;
		*byte &= ~mask;
	}
	assert_int_equal(wire_record_get(&got, header, WIRE_RECORD_MIN), WIRE_OK);
	assert_int_equal(wire_record_get(&got, header, WIRE_RECORD_MIN - 1), WIRE_BAD_SIZE);
}

static void test_index(void **state)
{
	assert_int_equal(wire_slot(0xfff00001), 1);
	assert_int_equal(wire_generation(0xfff00001), 0xfff);
	assert_int_equal(wire_slot(0x000fffff), WIRE_SLOTS - 1);
	assert_int_equal(wire_generation(0x000fffff), 0);
}

/* Every length against every size of plaintext: never a byte outside is read or promised. */
static void test_message_lengths(void **state)
{
	const struct wire_id id = {{0}};

	for (int via = 0; via < 2; via++) {
		size_t head = WIRE_MESSAGE_HEADER + (via ? WIRE_VIA_SIZE : 0);

		for (size_t size = 0; size < 80; size++) {
			uint8_t *bytes = malloc(size ? size : 1); // exact, for ASan
			struct wire_message message = {.data = bytes};

			assert_non_null(bytes);
			memset(bytes, 0, size);
			for (unsigned int length = 0; length <= UINT16_MAX; length++) {
				uint8_t header[WIRE_MESSAGE_HEADER];
				size_t end;

				wire_message_put(header, length, WIRE_SEND, 1, via, 9, &id);
				memcpy(bytes, header,
				       size < sizeof(header) ? size : sizeof(header));
				end = wire_message_get(&message, bytes, size, 0);
				if (head + length > size) {
					assert_int_equal(end, 0);
					if (length > 100)
						length += 251;
					continue;
				}
				assert_int_equal(end, head + length);
				assert_int_equal(message.size, end);
				assert_int_equal(message.length, length);
			}
			free(bytes);
		}
	}
}

static void test_message_flags(void **state)
{
	const struct wire_id id = {{0}};
	uint8_t bytes[WIRE_MESSAGE_HEADER + WIRE_VIA_SIZE];
	struct wire_message message = {.data = bytes};

	for (int flags = 0; flags < 16; flags++) {
		bool reserved = flags & 0x8;

		wire_message_put(bytes, 0, WIRE_SEND, 15, flags, 9, &id);
		assert_int_equal(wire_message_get(&message, bytes, sizeof(bytes), 0) == 0,
				 reserved);
		if (reserved)
			continue;
		assert_int_equal(message.flags, flags);
		assert_int_equal(message.hop_limit, 15);
	}
}

static void test_id_text(void **state)
{
	static const char good[] = "v5iwnf4uisg67kjkspkl6xpoja";
	struct wire_id id;
	char text[WIRE_ID_TEXT + 2];

	assert_int_equal(wire_id_parse(&id, good), 0);
	assert_int_equal(wire_id_parse(&id, ""), -EINVAL);
	// every length but the right one
	for (int i = 0; i < WIRE_ID_TEXT; i++) {
		strcpy(text, good);
		text[i] = '\0';
		assert_int_equal(wire_id_parse(&id, text), -EINVAL);
	}
	assert_int_equal(wire_id_parse(&id, "v5iwnf4uisg67kjkspkl6xpojaa"), -EINVAL);
	// every character in every place: 32 are right, but the last carries only 3 bits
	for (int i = 0; i < WIRE_ID_TEXT; i++) {
		int right = 0;

		for (int c = 1; c < 256; c++) {
			strcpy(text, good);
			text[i] = (char)c;
			if (wire_id_parse(&id, text) == 0) {
				char again[WIRE_ID_TEXT + 1];

				wire_id_format(again, &id);
				assert_string_equal(again, text);
				right++;
			}
		}
		assert_int_equal(right, i == WIRE_ID_TEXT - 1 ? 8 : 32);
	}
}

static void test_id_round_trip(void **state)
{
	for (int bit = 0; bit < 8 * WIRE_ID_SIZE; bit++) {
		struct wire_id id = {{0}}, parsed;
		char text[WIRE_ID_TEXT + 1];

		id.bytes[bit / 8] = 1 << bit % 8;
		wire_id_format(text, &id);
		assert_int_equal(strlen(text), WIRE_ID_TEXT);
		assert_int_equal(wire_id_parse(&parsed, text), 0);
		assert_true(wire_id_equal(&id, &parsed));
	}
}

static void test_names(void **state)
{
	assert_int_equal(wire_aead_parse("aes-256-gcm"), WIRE_AES_256_GCM);
	assert_int_equal(wire_aead_parse("chacha20-poly1305"), WIRE_CHACHA20_POLY1305);
	assert_int_equal(wire_aead_parse("AES-256-GCM"), 0);
	assert_int_equal(wire_aead_parse(""), 0);
	assert_string_equal(wire_aead_name(WIRE_AES_256_GCM), "aes-256-gcm");
	assert_string_equal(wire_aead_name(WIRE_CHACHA20_POLY1305), "chacha20-poly1305");
	assert_string_equal(wire_reason_name(WIRE_REASON_NO_ROUTE), "no_route");
	assert_string_equal(wire_reason_name(WIRE_REASON_NO_BUFFER), "no_buffer");
	assert_null(wire_reason_name(WIRE_REASON_NONE));
	assert_string_equal(wire_reason_name(WIRE_REASON_POLICY), "policy");
	assert_string_equal(wire_reason_name(WIRE_REASON_BUSY), "busy");
	assert_null(wire_reason_name(13));
	assert_string_equal(wire_class_name(WIRE_BULK), "bulk");
	assert_string_equal(wire_class_name(WIRE_CONTROL), "control");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_vector_ids),      cmocka_unit_test(test_vector_contexts),
		cmocka_unit_test(test_vector_rekey),    cmocka_unit_test(test_vector_records),
		cmocka_unit_test(test_vector_messages), cmocka_unit_test(test_record_header),
		cmocka_unit_test(test_not_a_record),    cmocka_unit_test(test_index),
		cmocka_unit_test(test_message_lengths), cmocka_unit_test(test_message_flags),
		cmocka_unit_test(test_id_text),         cmocka_unit_test(test_id_round_trip),
		cmocka_unit_test(test_names),
	};
	json_error_t error;
	int failed;

	vectors = json_load_file(getenv("VECTORS"), 0, &error);
	if (!vectors) {
		fprintf(stderr, "VECTORS: %s\n", error.text);
		return 2;
	}
	failed = cmocka_run_group_tests_name("wire", tests, NULL, NULL);
	json_decref(vectors);
	return failed;
}
