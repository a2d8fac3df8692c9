/*
 * A toy cipher behind struct aead_ops: reversible, keyed, and with a tag that notices any changed
 * bit, a wrong key and a wrong header. It protects nothing, and is as fast as tests want.
 *
 * It insists that what is sealed under one key has, in each lane, a rising sequence: no nonce comes
 * twice.
 */
#ifndef TOY_H
#define TOY_H

#include "aead.h"

extern const struct aead_ops toy_aead;

#endif
