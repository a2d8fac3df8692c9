#include "ciphers.h"

#include <openssl/evp.h>
#include <stdatomic.h>

#include "node.h"

struct key {
	struct aead_key base;
	uint64_t serial; // tells keys apart that had the same address one after the other
	uint8_t secret[WIRE_KEY_SIZE];
};

// A cipher and direction, with the key that it was last used with.
struct context {
	EVP_CIPHER_CTX *evp;
	uint64_t serial; // 0: none
};

enum { OPEN, SEAL };

struct worker {
	EVP_CIPHER *aes;
	EVP_CIPHER *chacha;
	struct context contexts[2][2]; // AES and ChaCha, open and seal
};

static size_t key_size(void)
{
	return sizeof(struct key);
}

static bool key_init(struct aead_key *base, enum wire_aead aead,
		     const uint8_t secret[WIRE_EXPORT_SIZE])
{
	static atomic_uint_fast64_t serial;
	struct key *key = (struct key *)base;

	if (aead != WIRE_AES_256_GCM && aead != WIRE_CHACHA20_POLY1305)
		return false;
	key->base.aead = aead;
	key->serial = atomic_fetch_add(&serial, 1) + 1;
	memcpy(key->secret, secret, WIRE_KEY_SIZE);
	memcpy(key->base.iv, secret + WIRE_KEY_SIZE, WIRE_IV_SIZE);
	return true;
}

static void key_fini(struct aead_key *key)
{
	explicit_bzero(key, sizeof(struct key));
}

static void worker_free(void *arg)
{
	struct worker *worker = arg;

	for (int i = 0; i < 2; i++) {
		for (int j = 0; j < 2; j++)
			EVP_CIPHER_CTX_free(worker->contexts[i][j].evp);
	}
	EVP_CIPHER_free(worker->aes);
	EVP_CIPHER_free(worker->chacha);
	node_free(worker);
}

static void *worker_new(int node)
{
	struct worker *worker = node_alloc(node, 64, sizeof(*worker));

	if (!worker)
		return NULL;
	worker->aes = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
	worker->chacha = EVP_CIPHER_fetch(NULL, "ChaCha20-Poly1305", NULL);
	if (!worker->aes || !worker->chacha)
		goto out;
	for (int i = 0; i < 2; i++) {
		for (int direction = OPEN; direction <= SEAL; direction++) {
			struct context *context = &worker->contexts[i][direction];

			context->evp = EVP_CIPHER_CTX_new();
			if (!context->evp ||
			    !EVP_CipherInit_ex2(context->evp, i ? worker->chacha : worker->aes,
						NULL, NULL, direction, NULL))
				goto out;
		}
	}
	return worker;
out:
	worker_free(worker);
	return NULL;
}

static bool run(struct worker *worker, const struct aead_job *job, const uint8_t *from,
		int direction)
{
	const struct key *key = (const struct key *)job->key;
	struct context *context =
		&worker->contexts[key->base.aead == WIRE_CHACHA20_POLY1305][direction];
	uint8_t *text = job->record + WIRE_RECORD_HEADER;
	uint8_t *tag = job->record + job->length - WIRE_TAG_SIZE;
	int length = job->length - WIRE_RECORD_OVERHEAD;
	const uint8_t *secret = NULL;
	uint8_t nonce[WIRE_IV_SIZE];
	int n;

	wire_nonce(nonce, key->base.iv, job->record);
	if (context->serial != key->serial)
		secret = key->secret;
	context->serial = 0;
	if (!EVP_CipherInit_ex2(context->evp, NULL, secret, nonce, direction, NULL))
		return false;
	context->serial = key->serial;
	if (!EVP_CipherUpdate(context->evp, NULL, &n, job->record, WIRE_RECORD_HEADER) ||
	    (length && !EVP_CipherUpdate(context->evp, text, &n, from, length)))
		return false;
	if (direction == OPEN &&
	    !EVP_CIPHER_CTX_ctrl(context->evp, EVP_CTRL_AEAD_SET_TAG, WIRE_TAG_SIZE, tag))
		return false;
	if (EVP_CipherFinal_ex(context->evp, text + length, &n) != 1)
		return false;
	return direction == OPEN ||
	       EVP_CIPHER_CTX_ctrl(context->evp, EVP_CTRL_AEAD_GET_TAG, WIRE_TAG_SIZE, tag) == 1;
}

static void open_burst(void *worker, struct aead_job *jobs, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		if (i + 1 < n)
			cipher_fetch(&jobs[i + 1]);
		jobs[i].ok = run(worker, &jobs[i], jobs[i].record + WIRE_RECORD_HEADER, OPEN);
	}
}

static void seal_one(struct worker *worker, const struct aead_job *job, const uint8_t *from)
{
	// whatever OpenSSL may do, plaintext never leaves
	if (!run(worker, job, from, SEAL))
		memset(job->record + WIRE_RECORD_HEADER, 0, job->length - WIRE_RECORD_HEADER);
}

static void seal_burst(void *worker, struct aead_job *jobs, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		seal_one(worker, &jobs[i], jobs[i].record + WIRE_RECORD_HEADER);
}

static void seal_texts(void *worker, struct aead_job *jobs, const uint8_t *const *texts,
		       unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		seal_one(worker, &jobs[i],
			 texts[i] ? texts[i] : jobs[i].record + WIRE_RECORD_HEADER);
}

const struct aead_ops aead_openssl = {
	.name = "openssl",
	.key_size = key_size,
	.key_init = key_init,
	.key_fini = key_fini,
	.worker_new = worker_new,
	.worker_free = worker_free,
	.open = open_burst,
	.seal = seal_burst,
	.seal_texts = seal_texts,
};
