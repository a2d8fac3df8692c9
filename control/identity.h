/*
 * Who a certificate is about: docs/protocol.md section 1. Pure.
 */
#ifndef VIADUCT_IDENTITY_H
#define VIADUCT_IDENTITY_H

#include <openssl/x509.h>

#include "wire.h"

enum { IDENTITY_NAME_MAX = 255 }; // bytes, without the NUL

struct identity {
	struct wire_id id;
	struct wire_id certificate;             // see identity_certificate()
	char name[IDENTITY_NAME_MAX + 1];       // SPIFFE ID or CN
	char federation[IDENTITY_NAME_MAX + 1]; // trust domain; "" for a CN
	char cluster[IDENTITY_NAME_MAX + 1];    // "" for a CN
};

/*
 * What tells a CA's certificates apart: the first 16 bytes of SHA-256 over the hash of the issuer's
 * name and the serial number. Returns 0 or -ENOMEM.
 */
int identity_certificate(struct wire_id *certificate, const X509_NAME *issuer,
			 const ASN1_INTEGER *serial);

enum identity_role {
	IDENTITY_PEER,
	IDENTITY_RELAY,
};

/*
 * Reads a SPIFFE ID (SPIFFE-ID section 2) of at least two path segments into name, federation and
 * cluster. Returns 0 or -EINVAL.
 */
int identity_parse(struct identity *identity, const char *uri, size_t length);

/* Reads a name that identity_read() has given. Returns 0 or -EINVAL. */
int identity_name(struct identity *identity, const char *name, size_t length);

/*
 * Reads a certificate, which must be one of `role` and, unless `federation` is NULL and as far as
 * it says so, of that federation. Returns 0, or -EINVAL with the reason in `why` (static).
 */
int identity_read(struct identity *identity, X509 *certificate, enum identity_role role,
		  const char *federation, const char **why);

#endif
