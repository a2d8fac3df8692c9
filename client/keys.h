/*
 * The keys of one epoch: exported from its TLS connection (docs/protocol.md section 3), and the
 * sealing and opening of records with them (section 4).
 */
#ifndef CLIENT_KEYS_H
#define CLIENT_KEYS_H

#include <openssl/ssl.h>

#include "cipher.h"

/* Failed opens after which a key opens no more: the limit of ChaCha20-Poly1305, section 7. */
#define KEYS_FAILED_MAX (UINT64_C(1) << 36)

struct keys {
	uint32_t epoch;
	uint64_t failed; // records that didn't open
	struct cipher seal, open;
	uint8_t seal_iv[WIRE_IV_SIZE], open_iv[WIRE_IV_SIZE];
	uint8_t rekey_secret[WIRE_REKEY_SECRET_SIZE];
};

/*
 * Makes the keys of an epoch from the 44 bytes that were exported for each direction. Free with
 * keys_free(). Returns 0 or -ENOMEM.
 */
int keys_new(struct keys **keys, enum wire_aead aead, uint32_t epoch,
	     const uint8_t seal[WIRE_EXPORT_SIZE], const uint8_t open[WIRE_EXPORT_SIZE]);

/* What the keys are bound to, beside the connection. */
struct keys_binding {
	enum wire_aead aead;
	uint32_t index;
	uint32_t epoch;
	struct wire_id peer;
	struct wire_id relay;
};

/*
 * Exports the keys of an epoch from a finished handshake. `seals` is the direction that this side
 * seals: WIRE_UP for a peer. Free with keys_free(). Returns 0, -EPROTO if the exporter refuses, or
 * -ENOMEM.
 */
int keys_export(struct keys **keys, SSL *ssl, const struct keys_binding *binding,
		enum wire_direction seals);

/* Wipes and frees. NULL is fine. */
void keys_free(struct keys *keys);

/*
 * Seals a record in place: its header is written, `length` bytes of plaintext follow it, and there
 * is room for the tag behind them. Returns the record's size, or -EIO if the cipher fails.
 */
int keys_seal(struct keys *keys, uint8_t *record, size_t length);

/*
 * Opens a record of `size` bytes (at least WIRE_RECORD_MIN) in place. Returns the length of the
 * plaintext behind the header, or -EBADMSG if it isn't authentic.
 */
int keys_open(struct keys *keys, uint8_t *record, size_t size);

/*
 * The MAC with which a rekey's hello (`prefix` WIRE_REKEY_ASKS) or welcome (WIRE_REKEY_GRANTS)
 * proves possession of the current epoch, section 7. Returns 0, -EPROTO or -ENOMEM.
 */
int keys_rekey_mac(const struct keys *keys, SSL *ssl, const char *prefix, uint32_t index,
		   uint8_t mac[32]);

#endif
