/*
 * Who is who: identities in certificates (docs/protocol.md section 1), and the TLS configuration
 * that all peers of the same CA share.
 */
#ifndef CLIENT_TRUST_H
#define CLIENT_TRUST_H

#include <openssl/ssl.h>
#include <sys/stat.h>

#include "context.h"
#include "wire.h"

enum { TRUST_NAME_TEXT = 256 };

struct identity {
	struct wire_id id;
	char name[TRUST_NAME_TEXT];
	char federation[TRUST_NAME_TEXT]; // the trust domain; "" if the name is no SPIFFE ID
	char cluster[TRUST_NAME_TEXT];    // "" likewise
};

/*
 * Reads a certificate's identity. Returns 0, or -EKEYREJECTED if it has several URI SANs, one that
 * isn't a SPIFFE ID with at least one path segment, or neither that nor a CN.
 */
int identity_read(struct identity *identity, X509 *certificate);

/*
 * The TLS configuration for the CA file `ca`, read anew if the file has changed. It belongs to the
 * context; what SSL objects need of it they keep. Returns 0 or a negative errno, and says why in
 * `text`.
 */
int trust_get(SSL_CTX **ctx, struct viaduct *v, const char *ca, char *text, size_t size);
void trust_free_all(struct viaduct *v);

/* Whether a file is what it was, as far as its metadata tells. */
bool file_same(const struct stat *a, const struct stat *b);

/*
 * What a connection's verification of the relay needs and leaves behind; SSL_set_app_data() it
 * before the handshake.
 */
struct trust_check {
	const char *federation; // what the relay must be of; "" for any
	SSL_SESSION **ticket;   // the latest ticket goes here, the one before is freed
	char text[160];         // why the relay was refused, or ""
};

/*
 * The relay's id, once the handshake is over. A resumed handshake verifies nothing, so this looks
 * at the dates again. Returns 0 or -EKEYREJECTED.
 */
int trust_relay(struct wire_id *relay, SSL *ssl);

#endif
