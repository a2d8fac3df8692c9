/*
 * The cipher behind records, as an interface: dataplane/ implements it. Works on bursts of whole
 * records, in place; a text that goes into many records is sealed from where it is.
 */
#ifndef VIADUCT_AEAD_H
#define VIADUCT_AEAD_H

#include "wire.h"

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

	/*
	 * Control thread: expands a key, in memory of NUMA node `node` (-1: any). NULL: no memory,
	 * or a cipher that this implementation lacks.
	 */
	struct aead_key *(*key_new)(enum wire_aead aead, const uint8_t secret[WIRE_EXPORT_SIZE],
				    int node);

	/* Any thread, when no worker can see it any more: wipes and frees it. NULL is allowed. */
	void (*key_free)(struct aead_key *key);

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
