#include "ciphers.h"

#include <intel-ipsec-mb.h>
#include <pthread.h>

#include "node.h"

enum { LINE = 64, AHEAD = 6, POWERS = 8, FEW_LINES = 4 };

#if IMB_VERSION_NUM < IMB_VERSION(2, 0, 0)
/*
 * 16 cache lines. The library's struct of 1,008 bytes asks for 64-byte alignment, but its code
 * loads no more than 16 bytes at once from an address that it takes for aligned; 16 bytes in, the
 * cipher's IV and round keys fill four lines, and the powers of the hash key, the highest first,
 * the other twelve.
 */
struct key {
	struct aead_key base;
	uint8_t expanded[sizeof(struct gcm_key_data)]; // of ChaCha20-Poly1305: just the key
} __attribute__((aligned(LINE)));

_Static_assert(sizeof(struct key) == 16 * LINE, "a key's parts lie in whole cache lines");

enum { KEY_LINES = 4, POWERS_LAST = 15 };
#else
/*
 * Version 2 keeps each of 32 powers twice, and is given the alignment that it asks for: the
 * cipher's IV, four lines with the round keys, and 16 with the powers, the highest of either kind
 * first.
 */
struct key {
	struct aead_key base;
	uint8_t expanded[sizeof(struct gcm_key_data)] __attribute__((aligned(LINE)));
};

_Static_assert(sizeof(struct key) == 21 * LINE, "a key's parts are where they are fetched");

enum { KEY_LINES = 5, POWERS_LAST = 20, POWERS_TWICE = 8 };
#endif

static IMB_MGR *manager_new(int node)
{
	void *memory = node_alloc(node, 64, imb_get_mb_mgr_size());
	IMB_MGR *manager = memory ? imb_set_pointers_mb_mgr(memory, 0, 1) : NULL;

	if (manager)
		init_mb_mgr_auto(manager, NULL);
	return manager;
}

// expands keys, which needs no state but the choice of code for this CPU
static IMB_MGR *expander;

/*
 * Cache lines of a key that this CPU's code has a use for, from the beginning: code without AVX-512
 * keeps only the first eight powers of the hash key. Keys take no more memory than that, so that
 * those of a burst are spread over all sets of a cache.
 */
static int lines_used;

/* The library doesn't say which of its layouts it is, but the end of a key stays as it was. */
static void expander_init(void)
{
	static const uint8_t secret[WIRE_KEY_SIZE];
	struct key key = {.base.aead = WIRE_AES_256_GCM};
	const uint8_t *end = key.expanded + sizeof(key.expanded);

	expander = manager_new(NODE_ANY);
	if (!expander)
		return;
	IMB_AES256_GCM_PRE(expander, secret, (struct gcm_key_data *)(void *)key.expanded);
	while (end[-1] == 0)
		end--;
	lines_used = (int)((end - (const uint8_t *)&key + LINE - 1) / LINE);
}

static size_t key_size(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, expander_init);
	return expander ? (size_t)lines_used * LINE : sizeof(struct key);
}

static bool key_init(struct aead_key *base, enum wire_aead aead,
		     const uint8_t secret[WIRE_EXPORT_SIZE])
{
	struct key *key = (struct key *)base;

	key_size(); // the first one makes the expander
	if (!expander || (aead != WIRE_AES_256_GCM && aead != WIRE_CHACHA20_POLY1305))
		return false;
	key->base.aead = aead;
	memcpy(key->base.iv, secret + WIRE_KEY_SIZE, WIRE_IV_SIZE);
	if (aead == WIRE_AES_256_GCM)
		IMB_AES256_GCM_PRE(expander, secret, (struct gcm_key_data *)(void *)key->expanded);
	else
		memcpy(key->expanded, secret, WIRE_KEY_SIZE);
	return true;
}

static void key_fini(struct aead_key *key)
{
	explicit_bzero(key, key_size());
}

static void *worker_new(int node)
{
	return manager_new(node);
}

static void worker_free(void *worker)
{
	node_free(worker);
}

// without branches on the difference
static inline bool tag_equal(const uint8_t *a, const uint8_t *b)
{
	uint64_t x[2], y[2];

	memcpy(x, a, WIRE_TAG_SIZE);
	memcpy(y, b, WIRE_TAG_SIZE);
	return ((x[0] ^ y[0]) | (x[1] ^ y[1])) == 0;
}

static inline void run(IMB_MGR *manager, const struct aead_job *job, const uint8_t *from,
		       uint8_t *tag, bool seal)
{
	const struct key *key = (const struct key *)job->key;
	uint8_t *text = job->record + WIRE_RECORD_HEADER;
	uint64_t length = job->length - WIRE_RECORD_OVERHEAD;
	uint8_t nonce[WIRE_IV_SIZE];

	wire_nonce(nonce, key->base.iv, job->record);
	if (key->base.aead == WIRE_AES_256_GCM) {
		const void *gcm = key->expanded;
		struct gcm_context_data context;

		if (seal)
			IMB_AES256_GCM_ENC(manager, gcm, &context, text, from, length, nonce,
					   job->record, WIRE_RECORD_HEADER, tag, WIRE_TAG_SIZE);
		else
			IMB_AES256_GCM_DEC(manager, gcm, &context, text, from, length, nonce,
					   job->record, WIRE_RECORD_HEADER, tag, WIRE_TAG_SIZE);
	} else {
		struct chacha20_poly1305_context_data context;

		IMB_CHACHA20_POLY1305_INIT(manager, key->expanded, &context, nonce, job->record,
					   WIRE_RECORD_HEADER);
		if (seal)
			IMB_CHACHA20_POLY1305_ENC_UPDATE(manager, key->expanded, &context, text,
							 from, length);
		else
			IMB_CHACHA20_POLY1305_DEC_UPDATE(manager, key->expanded, &context, text,
							 from, length);
		IMB_CHACHA20_POLY1305_ENC_FINALIZE(manager, &context, tag, WIRE_TAG_SIZE);
	}
}

/*
 * Fetches what a record will touch of its key: with thousands of sessions keys are in no cache. Of
 * the hash key's powers all if there are only eight, or else as many as the text has blocks, up to
 * 32; the processor sees by itself that it goes on with those before. (Not inlined, a function that
 * only fetches is nothing to gcc, and goes.)
 */
static inline void __attribute__((always_inline)) prefetch(const struct aead_job *job)
{
	const char *key = (const char *)job->key;
	int lines = (job->length - WIRE_RECORD_OVERHEAD + LINE - 1) / LINE;
	bool few = lines_used <= KEY_LINES + FEW_LINES;

	for (int i = 0; i < (few ? lines_used : KEY_LINES); i++)
		__builtin_prefetch(key + i * LINE);
	if (few)
		return;
	for (int i = 0; i < POWERS && i < lines; i++) {
		__builtin_prefetch(key + (POWERS_LAST - i) * LINE);
#if IMB_VERSION_NUM >= IMB_VERSION(2, 0, 0)
		__builtin_prefetch(key + (POWERS_LAST - POWERS_TWICE - i) * LINE);
#endif
	}
}

/*
 * Fetches some records ahead of number `i`, so that it goes on while others are computed. Two at a
 * time at most: for more short ones than that a processor has no room, and drops them. Returns how
 * many of the `n` have been fetched, `fetched` of them before.
 */
static inline unsigned int __attribute__((always_inline))
fetch_ahead(const struct aead_job *jobs, unsigned int n, unsigned int i, unsigned int fetched,
	    bool open)
{
	unsigned int end = i + AHEAD + 1;

	if (end > fetched + 2)
		end = fetched + 2;
	for (; fetched < n && fetched < end; fetched++) {
		prefetch(&jobs[fetched]);
		if (open)
			cipher_fetch(&jobs[fetched]);
	}
	return fetched;
}

static void open_burst(void *worker, struct aead_job *jobs, unsigned int n)
{
	uint8_t tag[WIRE_TAG_SIZE];
	unsigned int fetched = 0;

	for (unsigned int i = 0; i < n; i++) {
		fetched = fetch_ahead(jobs, n, i, fetched, true);
		run(worker, &jobs[i], jobs[i].record + WIRE_RECORD_HEADER, tag, false);
		jobs[i].ok = tag_equal(tag, jobs[i].record + jobs[i].length - WIRE_TAG_SIZE);
	}
}

static inline void __attribute__((always_inline))
seal_each(void *worker, struct aead_job *jobs, const uint8_t *const *texts, unsigned int n)
{
	unsigned int fetched = 0;

	for (unsigned int i = 0; i < n; i++) {
		const uint8_t *from = jobs[i].record + WIRE_RECORD_HEADER;

		fetched = fetch_ahead(jobs, n, i, fetched, false);
		if (texts && texts[i])
			from = texts[i];
		run(worker, &jobs[i], from, jobs[i].record + jobs[i].length - WIRE_TAG_SIZE, true);
	}
}

static void seal_burst(void *worker, struct aead_job *jobs, unsigned int n)
{
	seal_each(worker, jobs, NULL, n);
}

static void seal_texts(void *worker, struct aead_job *jobs, const uint8_t *const *texts,
		       unsigned int n)
{
	seal_each(worker, jobs, texts, n);
}

const struct aead_ops aead_ipsec_mb = {
	.name = "ipsec_mb",
	.key_size = key_size,
	.key_init = key_init,
	.key_fini = key_fini,
	.worker_new = worker_new,
	.worker_free = worker_free,
	.open = open_burst,
	.seal = seal_burst,
	.seal_texts = seal_texts,
};
