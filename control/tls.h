/*
 * TLS as the relay's side speaks it: 1.3 only, certificates on both sides, ALPN viaduct/1,
 * resumption by tickets with psk_dhe_ke, no early data. docs/protocol.md sections 1 and 2.
 */
#ifndef VIADUCT_TLS_H
#define VIADUCT_TLS_H

#include <openssl/ssl.h>

#include "config.h"
#include "identity.h"
#include "tickets.h"
#include "trust.h"

enum { TLS_CHAIN_SECONDS = 24 * 3600 }; // full authentication at least this often

struct tls {
	SSL_CTX *context;
	const struct identity *relay; // who we are; the context's
	struct tickets *tickets;
	struct trust *trust; // NULL: the CA alone
};

/*
 * Reads the files that `config` names. `tls` must stay where it is until tls_fini(). Returns 0, or
 * a negative errno with one sentence in `error` (CONFIG_ERROR_MAX bytes).
 */
int tls_init(struct tls *tls, const struct config *config, char *error);
void tls_fini(struct tls *tls);

/* Seals tickets with these keys, which must outlive `tls`, instead of ones of its own. */
void tls_use_tickets(struct tls *tls, struct tickets *tickets);

/*
 * Takes over what `next` has read, which must be of the same federation, and frees the rest of it.
 * Connections that exist go on as they began: under another id, if the key has changed.
 */
void tls_replace(struct tls *tls, struct tls *next);

/* A connection on a connected, non-blocking socket, which stays the caller's. NULL: no memory. */
SSL *tls_accept(struct tls *tls, int fd);

/* As whom the relay speaks on this connection. Any thread. */
const struct identity *tls_relay(const SSL *ssl);

/*
 * After a handshake: the peer's identity, which it has proved. Returns 0, or -EINVAL with the
 * reason in `why` (static).
 */
int tls_peer(struct tls *tls, SSL *ssl, struct identity *peer, const char **why);

/* Why the last operation on this connection has failed: a text that is valid until the next. */
const char *tls_reason(const SSL *ssl);

#endif
