#include "toy.h"

#include <assert.h>
#include <stdlib.h>

struct toy_key {
	struct aead_key key;
	uint64_t secret;
	uint64_t sealed[WIRE_LANES_MAX]; // one above the highest sequence; a lane has one writer
};

static uint64_t stir(uint64_t x)
{
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

static uint64_t digest(uint64_t h, const uint8_t *data, size_t length)
{
	for (size_t i = 0; i < length; i++)
		h = (h ^ data[i]) * UINT64_C(0x100000001b3);
	return stir(h);
}

static size_t key_size(void)
{
	return sizeof(struct toy_key);
}

static bool key_init(struct aead_key *base, enum wire_aead aead,
		     const uint8_t secret[WIRE_EXPORT_SIZE])
{
	struct toy_key *key = (struct toy_key *)base;

	key->key.aead = aead;
	memcpy(key->key.iv, secret + WIRE_KEY_SIZE, WIRE_IV_SIZE);
	key->secret = digest(aead, secret, WIRE_EXPORT_SIZE);
	return true;
}

static void key_fini(struct aead_key *key)
{
}

static void *worker_new(int node)
{
	return malloc(1);
}

static void crypt_text(const struct toy_key *key, uint8_t *record, uint16_t length)
{
	uint64_t stream = stir(key->secret ^ stir(wire_get64(record + 8)) ^ wire_get32(record + 4));

	for (int i = WIRE_RECORD_HEADER; i < length - WIRE_TAG_SIZE; i++) {
		if (i % 8 == 0)
			stream = stir(stream + 1);
		record[i] ^= (uint8_t)(stream >> i % 8 * 8);
	}
}

static void make_tag(const struct toy_key *key, const uint8_t *record, uint16_t length,
		     uint8_t tag[WIRE_TAG_SIZE])
{
	uint64_t h = digest(key->secret, record, length - WIRE_TAG_SIZE);

	wire_put64(tag, h);
	wire_put64(tag + 8, stir(h));
}

static bool open_one(const struct aead_key *key, uint8_t *record, uint16_t length)
{
	const struct toy_key *toy = (const struct toy_key *)key;
	uint8_t tag[WIRE_TAG_SIZE];

	assert(length >= WIRE_RECORD_OVERHEAD);
	make_tag(toy, record, length, tag);
	crypt_text(toy, record, length);
	return memcmp(tag, record + length - WIRE_TAG_SIZE, WIRE_TAG_SIZE) == 0;
}

static void seal_one(const struct aead_key *key, uint8_t *record, uint16_t length)
{
	const struct toy_key *toy = (const struct toy_key *)key;

	crypt_text(toy, record, length);
	make_tag(toy, record, length, record + length - WIRE_TAG_SIZE);
}

static void open_all(void *worker, struct aead_job *jobs, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		jobs[i].ok = open_one(jobs[i].key, jobs[i].record, jobs[i].length);
}

static void seal_all(void *worker, struct aead_job *jobs, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		struct toy_key *toy = (struct toy_key *)jobs[i].key;
		uint8_t lane = jobs[i].record[8];
		uint64_t sequence = wire_get64(jobs[i].record + 8) & WIRE_SEQUENCE_MAX;

		assert(lane < WIRE_LANES_MAX && sequence >= toy->sealed[lane]);
		toy->sealed[lane] = sequence + 1;
		seal_one(jobs[i].key, jobs[i].record, jobs[i].length);
		jobs[i].ok = true; // not an answer to anybody: nobody may rely on it
	}
}

static void seal_texts(void *worker, struct aead_job *jobs, const uint8_t *const *texts,
		       unsigned int n)
{
	aead_place_texts(jobs, texts, n);
	seal_all(worker, jobs, n);
}

const struct aead_ops toy_aead = {
	.name = "toy",
	.key_size = key_size,
	.key_init = key_init,
	.key_fini = key_fini,
	.worker_new = worker_new,
	.worker_free = free,
	.open = open_all,
	.seal = seal_all,
	.seal_texts = seal_texts,
};
