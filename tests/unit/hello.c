#include "test.h"

#include <jansson.h>

#include "hello.h"

static enum hello_error parse(struct hello *hello, const char *line)
{
	const char *detail;
	enum hello_error error = hello_parse(hello, line, strlen(line), &detail);

	assert_int_equal(detail == NULL, error == HELLO_OK);
	return error;
}

static void test_least(void **state)
{
	struct hello hello;

	assert_int_equal(parse(&hello, "{\"viaduct\":1,\"ciphers\":[\"aes-256-gcm\"]}"), HELLO_OK);
	assert_int_equal(hello.lanes, 1);
	assert_int_equal(hello.mtu, 1280);
	assert_false(hello.checksum);
	assert_false(hello.rekey);
	assert_int_equal(hello.cipher_count, 1);
	assert_int_equal(hello.ciphers[0], WIRE_AES_256_GCM);
}

static void test_all(void **state)
{
	struct hello hello;

	assert_int_equal(
		parse(&hello,
		      " {\"lanes\":8,\"mtu\":9000,\"checksum\":true,\"later\":{\"a\":[null]},"
		      "\"viaduct\":1,"
		      "\"ciphers\":[\"rot13\",\"chacha20-poly1305\",\"aes-256-gcm\"],"
		      "\"rekey\":{\"index\":4294967295,\"epoch\":7,\"mac\":"
		      "\"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eff\"}}\r"),
		HELLO_OK);
	assert_int_equal(hello.lanes, 8);
	assert_int_equal(hello.mtu, 9000);
	assert_true(hello.checksum);
	assert_int_equal(hello.cipher_count, 2);
	assert_int_equal(hello.ciphers[0], WIRE_CHACHA20_POLY1305);
	assert_true(hello.rekey);
	assert_int_equal(hello.rekey_index, UINT32_MAX);
	assert_int_equal(hello.rekey_epoch, 7);
	assert_int_equal(hello.rekey_mac[1], 1);
	assert_int_equal(hello.rekey_mac[31], 0xff);
}

#define MAC   "\"0000000000000000000000000000000000000000000000000000000000000000\""
#define START "{\"viaduct\":1,\"ciphers\":[]"

static const struct {
	const char *line;
	enum hello_error error;
} bad[] = {
	{"", HELLO_MALFORMED},
	{"[]", HELLO_MALFORMED},
	{"{", HELLO_MALFORMED},
	{START "}}", HELLO_MALFORMED},
	{"{\"viaduct\":1,\"viaduct\":1,\"ciphers\":[]}", HELLO_MALFORMED},
	{"{\"ciphers\":[]}", HELLO_MALFORMED},
	{"{\"viaduct\":true,\"ciphers\":[]}", HELLO_MALFORMED},
	{"{\"viaduct\":1.0,\"ciphers\":[]}", HELLO_MALFORMED},
	{"{\"viaduct\":2}", HELLO_VERSION},
	{"{\"viaduct\":-1}", HELLO_VERSION},
	{"{\"viaduct\":1}", HELLO_MALFORMED},
	{"{\"viaduct\":1,\"ciphers\":{}}", HELLO_MALFORMED},
	{"{\"viaduct\":1,\"ciphers\":[[]]}", HELLO_MALFORMED},
	{START ",\"lanes\":null}", HELLO_MALFORMED},
	{START ",\"lanes\":0}", HELLO_LANES},
	{START ",\"lanes\":257}", HELLO_LANES},
	{START ",\"mtu\":\"1280\"}", HELLO_MALFORMED},
	{START ",\"mtu\":66816}", HELLO_MTU}, // 1280 in 16 bits
	{START ",\"checksum\":1}", HELLO_MALFORMED},
	{START ",\"rekey\":[]}", HELLO_MALFORMED},
	{START ",\"rekey\":{\"epoch\":0,\"mac\":" MAC "}}", HELLO_MALFORMED},
	{START ",\"rekey\":{\"index\":1,\"mac\":" MAC "}}", HELLO_MALFORMED},
	{START ",\"rekey\":{\"index\":-1,\"epoch\":0,\"mac\":" MAC "}}", HELLO_MALFORMED},
	{START ",\"rekey\":{\"index\":4294967296,\"epoch\":0,\"mac\":" MAC "}}", HELLO_MALFORMED},
	{START ",\"rekey\":{\"index\":1,\"epoch\":0,\"mac\":\"00\"}}", HELLO_MALFORMED},
	{START ",\"rekey\":{\"index\":1,\"epoch\":0,\"mac\":7}}", HELLO_MALFORMED},
};

static void test_bad(void **state)
{
	struct hello hello;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(parse(&hello, bad[i].line), bad[i].error);
}

static void test_many_ciphers(void **state)
{
	char line[4096] = START;
	struct hello hello;
	size_t length;

	strcpy(line, "{\"viaduct\":1,\"ciphers\":[\"aes-256-gcm\"");
	for (int i = 0; i < 100; i++)
		strcat(line, ",\"chacha20-poly1305\"");
	strcat(line, "]}");
	length = strlen(line);
	assert_true(length < sizeof(line));
	assert_int_equal(parse(&hello, line), HELLO_OK);
	assert_int_equal(hello.cipher_count, HELLO_CIPHERS_MAX);
}

static void test_choice(void **state)
{
	const int both[] = {WIRE_AES_256_GCM, WIRE_CHACHA20_POLY1305};
	struct hello hello = {.ciphers = {WIRE_CHACHA20_POLY1305, WIRE_AES_256_GCM},
			      .cipher_count = 2};

	assert_int_equal(hello_choose_cipher(&hello, both, 2), WIRE_CHACHA20_POLY1305);
	assert_int_equal(hello_choose_cipher(&hello, both, 1), WIRE_AES_256_GCM);
	assert_int_equal(hello_choose_cipher(&hello, both, 0), 0);
	hello.cipher_count = 0;
	assert_int_equal(hello_choose_cipher(&hello, both, 2), 0);
}

static void test_welcome(void **state)
{
	const struct wire_id peer = {{1}}, relay = {{2}};
	char line[WIRE_LINE_MAX], name[256];
	struct welcome welcome = {
		.id = &peer,
		.name = name,
		.relay = &relay,
		.index = UINT32_MAX,
		.epoch = UINT32_MAX,
		.cipher = WIRE_AES_256_GCM,
		.address = "fd77::1",
		.port = 7740,
		.lanes_up = 4,
		.lanes_down = 2,
		.mtu = 1280,
		.keepalive = 10,
		.expiry = 30,
		.rekey = 3600,
		.key_records = WIRE_KEY_RECORDS,
		.trains = true,
		.relays = "[\"b:1\"]",
	};
	const char *text;
	json_t *root, *data, *lanes, *relays;
	int version, port, up, down, mtu, max_payload, keepalive, expiry, rekey, trains, bundles;
	json_int_t index, epoch, key_records;
	size_t length;

	// the longest name there is, in its longest form
	memset(name, '"', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	length = hello_welcome(line, &welcome);
	assert_in_range(length, 1, WIRE_LINE_MAX);
	assert_int_equal(line[length - 1], '\n');
	assert_null(memchr(line, '\n', length - 1));
	root = json_loadb(line, length, 0, NULL);
	assert_int_equal(json_unpack(root, "{si sI sI so so si si si si si sI sb sb so}", "viaduct",
				     &version, "index", &index, "epoch", &epoch, "data", &data,
				     "lanes", &lanes, "mtu", &mtu, "max_payload", &max_payload,
				     "keepalive", &keepalive, "expiry", &expiry, "rekey", &rekey,
				     "key_records", &key_records, "trains", &trains, "bundles",
				     &bundles, "relays", &relays),
			 0);
	assert_int_equal(json_unpack(data, "{ss si}", "address", &text, "port", &port), 0);
	assert_int_equal(json_unpack(lanes, "{si si}", "up", &up, "down", &down), 0);
	assert_int_equal(version, 1);
	assert_int_equal(index, UINT32_MAX);
	assert_int_equal(epoch, UINT32_MAX);
	assert_string_equal(text, "fd77::1");
	assert_int_equal(port, 7740);
	assert_int_equal(up, 4);
	assert_int_equal(down, 2);
	assert_int_equal(mtu, 1280);
	assert_int_equal(max_payload, 1160);
	assert_int_equal(key_records, WIRE_KEY_RECORDS);
	assert_true(trains);
	assert_true(bundles);
	assert_int_equal(json_array_size(relays), 1);
	assert_string_equal(json_string_value(json_array_get(relays, 0)), "b:1");
	json_decref(root);
}

static void test_refusal(void **state)
{
	char line[WIRE_LINE_MAX];
	size_t length;

	length = hello_refusal(line, HELLO_BUSY, "why", 7);
	line[length] = '\0';
	assert_string_equal(line, "{\"error\":\"busy\",\"detail\":\"why\",\"retry_after\":7}\n");
	length = hello_refusal(line, HELLO_TOO_LONG, "why", 0);
	line[length] = '\0';
	assert_string_equal(line, "{\"error\":\"too_long\",\"detail\":\"why\"}\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_least),   cmocka_unit_test(test_all),
		cmocka_unit_test(test_bad),     cmocka_unit_test(test_many_ciphers),
		cmocka_unit_test(test_choice),  cmocka_unit_test(test_welcome),
		cmocka_unit_test(test_refusal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
