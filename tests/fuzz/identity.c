#include "fuzz.h"

#include "identity.h"

static void check_text(const struct identity *identity)
{
	size_t federation = strlen(identity->federation), cluster = strlen(identity->cluster);

	assert(memchr(identity->name, '\0', sizeof(identity->name)));
	// the parts are cut out of the name, in their places
	assert(strncmp(identity->name, "spiffe://", 9) == 0);
	assert(strncmp(identity->name + 9, identity->federation, federation) == 0);
	assert(federation && cluster && identity->name[9 + federation] == '/');
	assert(strncmp(identity->name + 9 + federation + 1, identity->cluster, cluster) == 0);
}

static void read_certificate(const uint8_t *data, size_t size)
{
	const unsigned char *der = data;
	X509 *certificate = d2i_X509(NULL, &der, (long)size);

	if (!certificate)
		return;
	for (int role = IDENTITY_PEER; role <= IDENTITY_RELAY; role++) {
		struct identity identity;
		const char *why = NULL;

		if (identity_read(&identity, certificate, role, NULL, &why) == 0)
			assert(memchr(identity.name, '\0', sizeof(identity.name)));
		else
			assert(why);
	}
	X509_free(certificate);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *uri = fuzz_copy(data, size);
	struct identity identity;

	memset(&identity, 0, sizeof(identity));
	if (identity_parse(&identity, uri, size) == 0)
		check_text(&identity);
	read_certificate((const uint8_t *)uri, size);
	free(uri);
	return 0;
}
