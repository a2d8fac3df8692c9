/*
 * A record's AEAD under one key, in one direction: AES-256-GCM by ipsec-mb where the processor has
 * instructions for it, which takes a third of OpenSSL's time for a short record, and less than that
 * when its code is in no cache; all else by OpenSSL. Not thread-safe.
 */
#ifndef CLIENT_CIPHER_H
#define CLIENT_CIPHER_H

#include <openssl/types.h>
#include <stdbool.h>

#include "wire.h"

struct cipher {
	struct gcm_key_data *gcm; // ipsec-mb's; NULL: not used
	EVP_CIPHER_CTX *evp;      // keyed once; only the nonce is set for each record
};

/* For sealing, or for opening. Returns 0 or -ENOMEM; cipher_fini() is fine in any case. */
int cipher_init(struct cipher *cipher, enum wire_aead aead, const uint8_t key[WIRE_KEY_SIZE],
		bool seals);

/* Wipes the key. */
void cipher_fini(struct cipher *cipher);

/*
 * Seals a record in place: the header is authenticated, the `length` bytes behind it are encrypted,
 * the tag is put behind these. Returns 0, or -EIO if the cipher fails.
 */
int cipher_seal(const struct cipher *cipher, const uint8_t nonce[WIRE_IV_SIZE], uint8_t *record,
		size_t length);

/* The reverse. Returns 0, or -EBADMSG if the record isn't authentic. */
int cipher_open(const struct cipher *cipher, const uint8_t nonce[WIRE_IV_SIZE], uint8_t *record,
		size_t length);

#endif
