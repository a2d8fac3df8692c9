/*
 * The implementations of router/aead.h. No EAL needed.
 */
#ifndef VIADUCT_CIPHERS_H
#define VIADUCT_CIPHERS_H

#include "aead.h"

/* OpenSSL EVP: everywhere, and the reference for the others. */
extern const struct aead_ops aead_openssl;

/* Intel's multi-buffer library: x86 only. */
extern const struct aead_ops aead_ipsec_mb;

#endif
