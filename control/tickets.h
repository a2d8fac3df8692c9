/*
 * The keys that seal TLS tickets (RFC 5077, section 4): rotated, and kept in a file, so that peers
 * resume after a restart of the relay. What has to do with the file never fails: without it the
 * keys live as long as the process. For the control thread, but for where it says otherwise.
 */
#ifndef VIADUCT_TICKETS_H
#define VIADUCT_TICKETS_H

#include <openssl/ssl.h>
#include <pthread.h>
#include <stdbool.h>

#include "config.h"

enum { TICKETS_NAME = 16 };

struct ticket_key {
	uint8_t name[TICKETS_NAME]; // by which a ticket says what it is sealed with
	uint8_t cipher[32];         // AES-256-CBC
	uint8_t mac[32];            // HMAC-SHA256
	int64_t made;               // seconds since 1970; 0: there is none
};

struct tickets {
	char path[CONFIG_PATH_MAX]; // "": kept nowhere
	int64_t rotation;           // s
	pthread_mutex_t lock;       // of `keys`
	struct ticket_key keys[2];  // the one that seals; the one before, which still opens
	EVP_CIPHER *cipher;
	bool kept;     // the file holds these keys
	bool warned;   // that it doesn't
	int64_t tried; // when the file was last written to
};

/* Reads the file, or makes keys. Returns 0, -ENOMEM, or -EIO (no randomness). */
int tickets_init(struct tickets *tickets, const struct config_tls *config, int64_t now);
void tickets_fini(struct tickets *tickets);

/*
 * Makes a new key if it is time to. Call it every second or so. Returns whether the file is to be
 * written now: a copy of the keys by tickets_write(), on any thread, as it waits for the disk;
 * then tickets_written() is told its result.
 */
bool tickets_tick(struct tickets *tickets, int64_t now);
int tickets_write(const char *path, struct ticket_key keys[2]);
void tickets_written(struct tickets *tickets, int result);

/* As SSL_CTX_set_tlsext_ticket_key_evp_cb(3) wants it, but for where the keys are. Any thread. */
int tickets_seal(struct tickets *tickets, unsigned char name[TICKETS_NAME], unsigned char *iv,
		 EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac, int seal);

#endif
