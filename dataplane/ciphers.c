#include "ciphers.h"

#include "dataplane.h"

static const struct aead_ops *const ciphers[] = {
// the first is the default
#ifdef VIADUCT_IPSEC_MB
	&aead_ipsec_mb,
#endif
	&aead_openssl,
	&aead_cryptodev,
};

const struct aead_ops *dataplane_aead(const char *name)
{
	for (size_t i = 0; i < sizeof(ciphers) / sizeof(ciphers[0]); i++) {
		if (strcmp(ciphers[i]->name, name) == 0)
			return ciphers[i];
	}
	return NULL;
}

const struct aead_ops *dataplane_aead_default(void)
{
	return ciphers[0];
}
