/*
 * The implementations of router/aead.h. Only cryptodev needs EAL.
 */
#ifndef VIADUCT_CIPHERS_H
#define VIADUCT_CIPHERS_H

#include <stddef.h>

#include "aead.h"

enum { CIPHERS_ERROR_MAX = 256 };

/* OpenSSL EVP: everywhere, and the reference for the others. */
extern const struct aead_ops aead_openssl;

/* Intel's multi-buffer library: x86 only. */
extern const struct aead_ops aead_ipsec_mb;

/*
 * A crypto device of DPDK's: a card, or one made of software. Between cryptodev_start() and
 * cryptodev_stop() only; before and after there are no keys and no workers.
 */
extern const struct aead_ops aead_cryptodev;

/*
 * Fetches a record that will soon be opened, but for its first cache line, which has been read. Not
 * for many at once: a processor drops what it can't have under way (more than 24 lines with Zen 3).
 */
static inline void __attribute__((always_inline)) cipher_fetch(const struct aead_job *job)
{
	enum { LINE = 64 };

	for (int at = LINE; at < job->length; at += LINE)
		__builtin_prefetch(job->record + at, 1);
}

/* Bytes of EAL's memory that so many keys need. */
size_t cryptodev_memory(unsigned int keys);

/* Whether a device's name is a PCI address; EAL must be told of these when it starts. */
bool cryptodev_is_pci(const char *device);

/*
 * Control thread, EAL running with virtual addresses for devices: starts `device` (PCI address, or
 * name of a vdev such as crypto_aesni_mb) for up to `queues` workers and `keys` keys at a time.
 * Returns 0 or a negative errno and a sentence in `error` (CIPHERS_ERROR_MAX bytes).
 */
int cryptodev_start(const char *device, unsigned int queues, unsigned int keys, char *error);
void cryptodev_stop(void);

#endif
