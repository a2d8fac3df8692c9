/*
 * What peers prove their identity with, as their files say it: read once and kept by the context,
 * also for peers that come again, until a file changes.
 */
#ifndef CLIENT_CREDENTIALS_H
#define CLIENT_CREDENTIALS_H

#include "trust.h"

struct credentials {
	X509 *certificate;
	STACK_OF(X509) * chain; // what follows it in its file
	EVP_PKEY *key;
	struct identity identity;
};

/*
 * What is in these files. Reading them costs more than a resumed handshake, seeing that they are as
 * they were a hundredth of it. The credentials belong to the context and are good until the next
 * call. Returns 0, or a negative errno and says why in `text`.
 */
int credentials_get(const struct credentials **credentials, struct viaduct *v,
		    const char *certificate, const char *key, char *text, size_t size);
void credentials_free_all(struct viaduct *v);

#endif
