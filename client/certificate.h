/*
 * Certificates for a test federation: P-256, the roles and names of docs/protocol.md section 1.
 */
#ifndef CLIENT_CERTIFICATE_H
#define CLIENT_CERTIFICATE_H

#include <openssl/x509.h>
#include <stdbool.h>
#include <stddef.h>
#include <time.h>

/* A certificate and its key. Zero it first. */
struct certificate {
	X509 *x509;
	EVP_PKEY *key;
};

struct certificate_request {
	const char *federation;
	const char *cluster; // "relay" makes a relay's
	const char *name;
	const char *const *addresses; // DNS names and IP addresses, NULL at the end; or NULL
	time_t not_before, not_after;
};

/* Makes a self-signed CA. Returns 0, or -EINVAL if OpenSSL refuses the name. */
int certificate_authority(struct certificate *authority, const char *federation, time_t not_before,
			  time_t not_after);

/* Issues one. Returns 0, or -EINVAL if OpenSSL refuses a name or an address. */
int certificate_issue(struct certificate *issued, const struct certificate *authority,
		      const struct certificate_request *request);
void certificate_fini(struct certificate *certificate);

/*
 * Writes `DIR/NAME.pem` and `DIR/NAME.key`, the key for its owner only. Returns 0 or a negative
 * errno: -EEXIST if one is there, unless `force`.
 */
int certificate_write(const struct certificate *certificate, const char *directory,
		      const char *name, bool force);

/* Reads them. Returns 0, -EINVAL if they are not what they should be, or another negative errno. */
int certificate_read(struct certificate *certificate, const char *directory, const char *name);

/* The federation that an authority made here is for: "" if its certificate doesn't say. */
void certificate_federation(char *federation, size_t size, const struct certificate *authority);

#endif
