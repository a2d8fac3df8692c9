/*
 * What a full authentication has proved, as a ticket carries it. Pure.
 *
 * A ticket holds this in place of the peer's certificate, which OpenSSL would take apart again with
 * each resumed handshake.
 */
#ifndef VIADUCT_PROOF_H
#define VIADUCT_PROOF_H

#include "identity.h"

enum {
	PROOF_FIXED = 60, // bytes before the name
	PROOF_MAX = PROOF_FIXED + IDENTITY_NAME_MAX,
};

struct proof {
	int64_t proved;                // when; all of these in seconds since 1970
	int64_t not_before, not_after; // the certificate's validity
	struct identity peer;
};

/* Reads the rest from the certificate that `proof->peer` is of. Returns 0 or -EINVAL. */
int proof_read(struct proof *proof, const X509 *certificate, int64_t now);

/* Returns the length. */
size_t proof_pack(uint8_t to[PROOF_MAX], const struct proof *proof);

/* Returns 0, or -EINVAL if that isn't one, or one of another version. */
int proof_unpack(struct proof *proof, const uint8_t *from, size_t length);

/* Whether it still counts: `age` seconds at most since it was proved, and the certificate holds. */
bool proof_holds(const struct proof *proof, int64_t now, int64_t age);

#endif
