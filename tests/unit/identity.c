#include "test.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <openssl/x509v3.h>

#include "identity.h"

static EVP_PKEY *key;

static int make_key(void **state)
{
	key = EVP_EC_gen("P-256");
	return key ? 0 : -1;
}

static int free_key(void **state)
{
	EVP_PKEY_free(key);
	return 0;
}

static void add_extension(X509 *certificate, int nid, const char *value)
{
	X509_EXTENSION *extension;

	if (!value)
		return;
	extension = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
	assert_non_null(extension);
	assert_int_equal(X509_add_ext(certificate, extension, -1), 1);
	X509_EXTENSION_free(extension);
}

/* A certificate with these, each as in openssl.cnf; NULL: without. */
static X509 *make(const char *usage, const char *names, const char *cn)
{
	X509 *certificate = X509_new();

	assert_non_null(certificate);
	X509_set_version(certificate, X509_VERSION_3);
	X509_set_pubkey(certificate, key);
	for (; cn && *cn; cn = strchr(cn, '|') ? strchr(cn, '|') + 1 : "")
		X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_UTF8,
					   (const unsigned char *)cn, (int)strcspn(cn, "|"), -1, 0);
	add_extension(certificate, NID_ext_key_usage, usage);
	add_extension(certificate, NID_subject_alt_name, names);
	assert_true(X509_sign(certificate, key, EVP_sha256()));
	return certificate;
}

static const char *read_as(enum identity_role role, const char *usage, const char *names,
			   const char *cn, struct identity *identity)
{
	X509 *certificate = make(usage, names, cn);
	const char *why;
	int result = identity_read(identity, certificate, role, "lab", &why);

	assert_int_equal(result, why ? -EINVAL : 0);
	X509_free(certificate);
	return why;
}

static void test_peer(void **state)
{
	struct identity identity;
	uint8_t *der = NULL, hash[SHA256_DIGEST_LENGTH];
	int length = i2d_PUBKEY(key, &der);

	assert_null(read_as(IDENTITY_PEER, "clientAuth", "URI:spiffe://lab/team/alice", "x",
			    &identity));
	assert_string_equal(identity.name, "spiffe://lab/team/alice");
	assert_string_equal(identity.federation, "lab");
	assert_string_equal(identity.cluster, "team");
	assert_memory_equal(identity.id.bytes, SHA256(der, (size_t)length, hash), WIRE_ID_SIZE);
	OPENSSL_free(der);
	// other names don't count
	assert_null(read_as(IDENTITY_PEER, "clientAuth",
			    "DNS:a.example,URI:spiffe://lab/team/alice,IP:10.0.0.1", NULL,
			    &identity));
	assert_null(
		read_as(IDENTITY_PEER, "clientAuth", "DNS:a.example", "just a name", &identity));
	assert_string_equal(identity.name, "just a name");
	assert_string_equal(identity.cluster, "");
}

static void test_relay(void **state)
{
	struct identity identity;

	assert_null(read_as(IDENTITY_RELAY, "serverAuth", "URI:spiffe://lab/relay/one", NULL,
			    &identity));
	assert_string_equal(identity.cluster, "relay");
	assert_non_null(read_as(IDENTITY_RELAY, "clientAuth", "URI:spiffe://lab/relay/one", NULL,
				&identity));
	assert_non_null(read_as(IDENTITY_RELAY, "serverAuth", "URI:spiffe://lab/team/one", NULL,
				&identity));
	assert_non_null(read_as(IDENTITY_RELAY, "serverAuth", NULL, "relay", &identity));
}

static const struct {
	const char *usage;
	const char *names;
	const char *cn;
	const char *why;
} refused[] = {
	{NULL, "URI:spiffe://lab/team/a", NULL,
	 "the certificate's extended key usage is not clientAuth alone"},
	{"serverAuth", "URI:spiffe://lab/team/a", NULL,
	 "the certificate's extended key usage is not clientAuth alone"},
	{"clientAuth,serverAuth", "URI:spiffe://lab/team/a", NULL,
	 "the certificate's extended key usage is not clientAuth alone"},
	{"clientAuth,anyExtendedKeyUsage", "URI:spiffe://lab/team/a", NULL,
	 "the certificate's extended key usage is not clientAuth alone"},
	{"clientAuth", "URI:spiffe://lab/relay/a", NULL, "the certificate has a relay's name"},
	{"clientAuth", "URI:spiffe://other/team/a", NULL,
	 "the certificate is of another federation"},
	{"clientAuth", "URI:spiffe://lab/team/a,URI:spiffe://lab/team/b", NULL,
	 "the certificate has several URI names"},
	{"clientAuth", "URI:https://lab/team/a", "a",
	 "the certificate's URI name is not spiffe://FEDERATION/CLUSTER/NAME"},
	{"clientAuth", NULL, NULL,
	 "the certificate has neither a SPIFFE ID nor a usable common name"},
	{"clientAuth", NULL, "one|two",
	 "the certificate has neither a SPIFFE ID nor a usable common name"},
	{"clientAuth", NULL, "a\nb",
	 "the certificate has neither a SPIFFE ID nor a usable common name"},
	{"clientAuth", NULL, "spiffe://lab/team/a",
	 "the certificate has neither a SPIFFE ID nor a usable common name"},
};

static void test_refused(void **state)
{
	struct identity identity;

	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
		assert_string_equal(read_as(IDENTITY_PEER, refused[i].usage, refused[i].names,
					    refused[i].cn, &identity),
				    refused[i].why);
}

static int parse(const char *uri)
{
	struct identity identity;

	return identity_parse(&identity, uri, strlen(uri));
}

static void test_spiffe(void **state)
{
	char uri[300] = "spiffe://lab/team/";

	assert_int_equal(parse("spiffe://lab/team/alice"), 0);
	assert_int_equal(parse("spiffe://lab-1.example_x/Team.1/a/b/c"), 0);
	assert_int_equal(parse("spiffe://lab/..."), -EINVAL);
	assert_int_equal(parse("spiffe://lab/.../x"), 0);
	memset(uri + strlen(uri), 'x', IDENTITY_NAME_MAX - strlen(uri));
	assert_int_equal(parse(uri), 0);
	uri[strlen(uri)] = 'x';
	assert_int_equal(parse(uri), -EINVAL);

	static const char *const bad[] = {
		"",
		"spiffe:/",
		"spiffe://",
		"spiffe://lab",
		"spiffe://lab/",
		"spiffe://lab/team",
		"spiffe://lab/team/",
		"spiffe://lab//alice",
		"spiffe:///team/alice",
		"spiffe://lab/team//alice",
		"spiffe://lab/./alice",
		"spiffe://lab/team/..",
		"spiffe://Lab/team/alice",
		"SPIFFE://lab/team/alice",
		"spiffe://lab:1/team/alice",
		"spiffe://a@lab/team/alice",
		"spiffe://lab/team/alice?x",
		"spiffe://lab/team/alice#x",
		"spiffe://lab/te%61m/alice",
		"spiffe://lab/team/al ice",
		"spiffe://lab/team/\xc3\xa4",
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(parse(bad[i]), -EINVAL);
	// a NUL inside
	struct identity identity;

	assert_int_equal(identity_parse(&identity, "spiffe://lab/team/a\0b", 21), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_peer),
		cmocka_unit_test(test_relay),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_spiffe),
	};

	return cmocka_run_group_tests(tests, make_key, free_key);
}
