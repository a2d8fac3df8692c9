/*
 * Every cipher implementation against the protocol's test vectors, against the others, and against
 * every flipped bit.
 */
#include "test.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "dataplane.h"

enum {
	TEXT_MAX = 1500,
	RECORD_MAX = WIRE_RECORD_OVERHEAD + TEXT_MAX,
	BURST = 37, // odd, and more than any implementation may handle at once
};

static const char *const names[] = {"ipsec_mb", "openssl"};
static const enum wire_aead aeads[] = {WIRE_AES_256_GCM, WIRE_CHACHA20_POLY1305};

static const struct aead_ops *reference;

/* An implementation with a worker and keys: two, so that bursts switch between them. */
struct engine {
	const struct aead_ops *ops;
	void *worker;
	struct aead_key *keys[2];
};

static void engine_init(struct engine *engine, const struct aead_ops *ops, enum wire_aead aead)
{
	uint8_t secret[WIRE_EXPORT_SIZE];

	engine->ops = ops;
	engine->worker = ops->worker_new(-1);
	assert_non_null(engine->worker);
	for (int i = 0; i < 2; i++) {
		for (int j = 0; j < WIRE_EXPORT_SIZE; j++)
			secret[j] = (uint8_t)(131 * i + 7 * j + aead);
		engine->keys[i] = aead_key_new(ops, aead, secret, -1);
		assert_non_null(engine->keys[i]);
		assert_int_equal(engine->keys[i]->aead, aead);
		assert_memory_equal(engine->keys[i]->iv, secret + WIRE_KEY_SIZE, WIRE_IV_SIZE);
	}
}

static void engine_fini(struct engine *engine)
{
	for (int i = 0; i < 2; i++)
		aead_key_free(engine->ops, engine->keys[i]);
	engine->ops->worker_free(engine->worker);
}

static void plain_record(uint8_t *record, size_t text, uint64_t sequence)
{
	const struct wire_record header = {
		.class = WIRE_NORMAL, .lane = 3, .index = 0x12345678, .sequence = sequence};

	wire_record_put(record, &header);
	for (size_t i = 0; i < text; i++)
		record[WIRE_RECORD_HEADER + i] = (uint8_t)(sequence * 31 + i * 17);
}

static void seal(struct engine *engine, int key, uint8_t *record, size_t length)
{
	struct aead_job job = {
		.key = engine->keys[key], .record = record, .length = (uint16_t)length};

	engine->ops->seal(engine->worker, &job, 1);
}

static bool open_one(struct engine *engine, int key, uint8_t *record, size_t length)
{
	struct aead_job job = {
		.key = engine->keys[key], .record = record, .length = (uint16_t)length};

	engine->ops->open(engine->worker, &job, 1);
	return job.ok;
}

static size_t unhex(uint8_t *out, const json_t *object, const char *field)
{
	const char *text = json_string_value(json_object_get(object, field));
	size_t n;

	assert_non_null(text);
	n = strlen(text) / 2;
	assert_true(n <= RECORD_MAX);
	for (size_t i = 0; i < n; i++) {
		unsigned int byte;

		assert_int_equal(sscanf(text + 2 * i, "%2x", &byte), 1);
		out[i] = (uint8_t)byte;
	}
	return n;
}

static void vectors(void **state)
{
	static const char *const records[] = {"record_aes", "record_chacha"};
	const struct aead_ops *ops = *state;
	json_error_t error;
	json_t *all = json_load_file(getenv("VECTORS"), 0, &error);
	void *worker = ops->worker_new(-1);

	assert_non_null(all);
	for (int i = 0; i < 2; i++) {
		const json_t *vector = json_object_get(all, records[i]);
		uint8_t secret[RECORD_MAX], plain[RECORD_MAX], sealed[RECORD_MAX], work[RECORD_MAX];
		size_t text, length;
		struct aead_key *key;
		struct aead_job job;

		assert_int_equal(unhex(secret, vector, "export"), WIRE_EXPORT_SIZE);
		assert_int_equal(unhex(plain, vector, "header"), WIRE_RECORD_HEADER);
		text = unhex(plain + WIRE_RECORD_HEADER, vector, "plaintext");
		length = unhex(sealed, vector, "record");
		assert_int_equal(length, WIRE_RECORD_OVERHEAD + text);
		key = aead_key_new(
			ops, wire_aead_parse(json_string_value(json_object_get(vector, "cipher"))),
			secret, -1);
		assert_non_null(key);

		job = (struct aead_job){.key = key, .record = work, .length = (uint16_t)length};
		memcpy(work, plain, WIRE_RECORD_HEADER + text);
		ops->seal(worker, &job, 1);
		assert_memory_equal(work, sealed, length);
		ops->open(worker, &job, 1);
		assert_true(job.ok);
		assert_memory_equal(work, plain, WIRE_RECORD_HEADER + text);
		aead_key_free(ops, key);
	}
	ops->worker_free(worker);
	json_decref(all);
}

static void every_length(void **state)
{
	static uint8_t ours[RECORD_MAX], theirs[RECORD_MAX], plain[RECORD_MAX];

	for (int i = 0; i < 2; i++) {
		struct engine engine, other;

		engine_init(&engine, *state, aeads[i]);
		engine_init(&other, reference, aeads[i]);
		for (size_t text = 0; text <= TEXT_MAX; text++) {
			size_t length = WIRE_RECORD_OVERHEAD + text;

			plain_record(plain, text, text << 40 | text);
			memcpy(ours, plain, length);
			memcpy(theirs, plain, length);
			seal(&engine, text & 1, ours, length);
			seal(&other, text & 1, theirs, length);
			assert_memory_equal(ours, theirs, length);
			assert_true(open_one(&engine, text & 1, ours, length));
			assert_true(open_one(&other, text & 1, theirs, length));
			assert_memory_equal(ours, plain, WIRE_RECORD_HEADER + text);
			assert_memory_equal(theirs, plain, WIRE_RECORD_HEADER + text);
		}
		engine_fini(&engine);
		engine_fini(&other);
	}
}

static void bursts(void **state)
{
	static uint8_t records[BURST][RECORD_MAX], plain[RECORD_MAX];

	for (int i = 0; i < 2; i++) {
		struct aead_job jobs[BURST];
		struct engine engine, other;

		engine_init(&engine, *state, aeads[i]);
		engine_init(&other, reference, aeads[i]);
		for (int j = 0; j < BURST; j++) {
			size_t text = (size_t)(j * 41);

			plain_record(records[j], text, (uint64_t)j);
			jobs[j] = (struct aead_job){
				.key = engine.keys[j % 3 == 0],
				.record = records[j],
				.length = (uint16_t)(WIRE_RECORD_OVERHEAD + text)};
		}
		engine.ops->seal(engine.worker, jobs, BURST);
		for (int j = 0; j < BURST; j++) {
			memcpy(plain, records[j], jobs[j].length);
			assert_true(open_one(&other, j % 3 == 0, plain, jobs[j].length));
		}
		records[BURST / 2][WIRE_RECORD_HEADER] ^= 1;
		engine.ops->open(engine.worker, jobs, BURST);
		for (int j = 0; j < BURST; j++) {
			plain_record(plain, (size_t)(j * 41), (uint64_t)j);
			assert_int_equal(jobs[j].ok, j != BURST / 2);
			if (jobs[j].ok)
				assert_memory_equal(records[j], plain,
						    jobs[j].length - WIRE_TAG_SIZE);
		}
		engine_fini(&engine);
		engine_fini(&other);
	}
}

/* Texts that are elsewhere come out as if they had been in their records; some are there. */
static void from_elsewhere(void **state)
{
	static uint8_t records[BURST][RECORD_MAX], plain[RECORD_MAX], shared[TEXT_MAX];

	for (int i = 0; i < 2; i++) {
		const uint8_t *texts[BURST];
		struct aead_job jobs[BURST];
		struct engine engine;

		engine_init(&engine, *state, aeads[i]);
		plain_record(plain, TEXT_MAX, 7);
		memcpy(shared, plain + WIRE_RECORD_HEADER, TEXT_MAX);
		for (int j = 0; j < BURST; j++) {
			size_t text = (size_t)(j * 41 % TEXT_MAX);

			texts[j] = j % 4 ? shared : NULL;
			plain_record(records[j], texts[j] ? 0 : text, (uint64_t)j);
			jobs[j] = (struct aead_job){
				.key = engine.keys[j % 3 == 0],
				.record = records[j],
				.length = (uint16_t)(WIRE_RECORD_OVERHEAD + text)};
		}
		engine.ops->seal_texts(engine.worker, jobs, texts, BURST);
		assert_memory_equal(shared, plain + WIRE_RECORD_HEADER, TEXT_MAX);
		for (int j = 0; j < BURST; j++) {
			plain_record(plain, jobs[j].length - WIRE_RECORD_OVERHEAD, (uint64_t)j);
			if (texts[j])
				memcpy(plain + WIRE_RECORD_HEADER, shared, TEXT_MAX);
			seal(&engine, j % 3 == 0, plain, jobs[j].length);
			assert_memory_equal(records[j], plain, jobs[j].length);
		}
		engine_fini(&engine);
	}
}

static void flipped_bits(void **state)
{
	static const size_t texts[] = {0, 1, 15, 16, 24, 152, 280};
	uint8_t sealed[RECORD_MAX], work[RECORD_MAX];

	for (int i = 0; i < 2; i++) {
		struct engine engine;

		engine_init(&engine, *state, aeads[i]);
		for (size_t j = 0; j < sizeof(texts) / sizeof(texts[0]); j++) {
			size_t length = WIRE_RECORD_OVERHEAD + texts[j];

			plain_record(sealed, texts[j], 99);
			seal(&engine, 0, sealed, length);
			for (size_t bit = 0; bit < 8 * length; bit++) {
				memcpy(work, sealed, length);
				work[bit / 8] ^= (uint8_t)(1 << bit % 8);
				assert_false(open_one(&engine, 0, work, length));
			}
			memcpy(work, sealed, length);
			assert_false(open_one(&engine, 1, work, length)); // another key
			assert_true(open_one(&engine, 0, sealed, length));
		}
		engine_fini(&engine);
	}
}

static void refusals(void **state)
{
	const struct aead_ops *ops = *state;
	const uint8_t secret[WIRE_EXPORT_SIZE] = {0};

	assert_null(aead_key_new(ops, (enum wire_aead)1, secret, -1));
	aead_key_free(ops, NULL);
	assert_null(dataplane_aead("rot13"));
}

int main(void)
{
	int failed = 0;

	reference = dataplane_aead("openssl");
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		void *ops = (void *)dataplane_aead(names[i]);
		const struct CMUnitTest tests[] = {
			cmocka_unit_test_prestate(vectors, ops),
			cmocka_unit_test_prestate(every_length, ops),
			cmocka_unit_test_prestate(bursts, ops),
			cmocka_unit_test_prestate(from_elsewhere, ops),
			cmocka_unit_test_prestate(flipped_bits, ops),
			cmocka_unit_test_prestate(refusals, ops),
		};

		if (ops) // otherwise not for this machine
			failed += cmocka_run_group_tests_name(names[i], tests, NULL, NULL);
	}
	return failed;
}
