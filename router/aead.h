/*
 * The cipher behind records, as an interface: dataplane/ implements it. Works on bursts of whole
 * records, in place; a text that goes into many records is sealed from where it is.
 */
#ifndef VIADUCT_AEAD_H
#define VIADUCT_AEAD_H

#include "node.h"
#include "wire.h"

enum { AEAD_KEY_ALIGN = 64 };

/*
 * A key of one direction and epoch. Immutable once made, so any number of threads may use it;
 * implementations put their expanded key behind this.
 */
struct aead_key {
	enum wire_aead aead;
	uint8_t iv[WIRE_IV_SIZE];
};

/* One record to open or seal. */
struct aead_job {
	const struct aead_key *key;
	uint8_t *record; // header, text, tag
	uint16_t length; // of all three, at least WIRE_RECORD_OVERHEAD
	bool ok;         // out, open: whether it is authentic; if not, the text is undefined
};

struct aead_ops {
	const char *name;

	/* Any thread: bytes of a key, always the same. */
	size_t (*key_size)(void);

	/*
	 * Control thread: expands a key into so many bytes, aligned to AEAD_KEY_ALIGN, which stay
	 * the caller's. False: no memory, or a cipher that this implementation lacks.
	 */
	bool (*key_init)(struct aead_key *key, enum wire_aead aead,
			 const uint8_t secret[WIRE_EXPORT_SIZE]);

	/* Any thread, when no worker can see it any more: wipes it. */
	void (*key_fini)(struct aead_key *key);

	/* A worker's own scratch state, made and freed by the control thread. NULL: no memory. */
	void *(*worker_new)(int node);
	void (*worker_free)(void *worker);

	/* The worker: opens or seals `n` records in place. Never fails to seal. */
	void (*open)(void *worker, struct aead_job *jobs, unsigned int n);
	void (*seal)(void *worker, struct aead_job *jobs, unsigned int n);

	/*
	 * The worker: seals `n` records, the text of which is in `texts`, by number; it doesn't
	 * overlap them. NULL: in the record already. Never fails.
	 */
	void (*seal_texts)(void *worker, struct aead_job *jobs, const uint8_t *const *texts,
			   unsigned int n);
};

/* A key in memory of its own, of NUMA node `node` (-1: any); else as key_init(). NULL: false. */
static inline struct aead_key *aead_key_new(const struct aead_ops *aead, enum wire_aead cipher,
					    const uint8_t secret[WIRE_EXPORT_SIZE], int node)
{
	struct aead_key *key = node_alloc(node, AEAD_KEY_ALIGN, aead->key_size());

	if (key && aead->key_init(key, cipher, secret))
		return key;
	node_free(key);
	return NULL;
}

/* Wipes and frees it; NULL is allowed. */
static inline void aead_key_free(const struct aead_ops *aead, struct aead_key *key)
{
	if (key)
		aead->key_fini(key);
	node_free(key);
}

/* seal_texts() for what can only seal in place: copies the texts to where they are sealed. */
static inline void aead_place_texts(struct aead_job *jobs, const uint8_t *const *texts,
				    unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		if (texts[i])
			memcpy(jobs[i].record + WIRE_RECORD_HEADER, texts[i],
			       jobs[i].length - WIRE_RECORD_OVERHEAD);
	}
}

#endif
