#include "certificate.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool extension_add(X509 *x509, X509V3_CTX *ctx, int nid, const char *value)
{
	X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, ctx, nid, value);
	bool good = extension && X509_add_ext(x509, extension, -1) == 1;

	X509_EXTENSION_free(extension);
	return good;
}

static bool name_add(GENERAL_NAMES *names, int type, const void *data, int length)
{
	GENERAL_NAME *name = GENERAL_NAME_new();
	ASN1_STRING *text = type == GEN_IPADD ? ASN1_OCTET_STRING_new() : ASN1_IA5STRING_new();

	if (!name || !text || !ASN1_STRING_set(text, data, length) ||
	    !sk_GENERAL_NAME_push(names, name)) {
		GENERAL_NAME_free(name);
		ASN1_STRING_free(text);
		return false;
	}
	GENERAL_NAME_set0_value(name, type, text);
	return true;
}

static bool address_add(GENERAL_NAMES *names, const char *address)
{
	uint8_t binary[16];

	if (inet_pton(AF_INET, address, binary) == 1)
		return name_add(names, GEN_IPADD, binary, 4);
	if (inet_pton(AF_INET6, address, binary) == 1)
		return name_add(names, GEN_IPADD, binary, 16);
	return name_add(names, GEN_DNS, address, (int)strlen(address));
}

/* The SPIFFE ID and the addresses, as values and never as configuration text. */
static bool names_add(X509 *x509, const char *uri, const char *const *addresses)
{
	GENERAL_NAMES *names = sk_GENERAL_NAME_new_null();
	bool good = names && name_add(names, GEN_URI, uri, (int)strlen(uri));

	for (; good && addresses && *addresses; addresses++)
		good = address_add(names, *addresses);
	good = good && X509_add1_ext_i2d(x509, NID_subject_alt_name, names, 0, 0) == 1;
	GENERAL_NAMES_free(names);
	return good;
}

static bool basics_set(X509 *x509, EVP_PKEY *key, const char *common_name, time_t not_before,
		       time_t not_after)
{
	X509_NAME *subject = X509_get_subject_name(x509);
	BIGNUM *serial = BN_new();
	bool good;

	good = serial && BN_rand(serial, 127, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY) == 1 &&
	       BN_to_ASN1_INTEGER(serial, X509_get_serialNumber(x509)) &&
	       X509_set_version(x509, X509_VERSION_3) == 1 &&
	       X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8,
					  (const uint8_t *)common_name, -1, -1, 0) == 1 &&
	       ASN1_TIME_set(X509_getm_notBefore(x509), not_before) &&
	       ASN1_TIME_set(X509_getm_notAfter(x509), not_after) &&
	       X509_set_pubkey(x509, key) == 1;
	BN_free(serial);
	return good;
}

/* A new key in a certificate without extensions. */
static bool start(struct certificate *certificate, const char *common_name, time_t not_before,
		  time_t not_after)
{
	certificate->x509 = X509_new();
	certificate->key = EVP_EC_gen("P-256");
	return certificate->x509 && certificate->key &&
	       basics_set(certificate->x509, certificate->key, common_name, not_before, not_after);
}

int certificate_authority(struct certificate *authority, const char *federation, time_t not_before,
			  time_t not_after)
{
	char common_name[64], uri[256];
	X509V3_CTX ctx;

	snprintf(common_name, sizeof(common_name), "%.55s CA", federation);
	snprintf(uri, sizeof(uri), "spiffe://%s", federation);
	if (!start(authority, common_name, not_before, not_after))
		return -EINVAL;
	X509V3_set_ctx(&ctx, authority->x509, authority->x509, NULL, NULL, 0);
	if (X509_set_issuer_name(authority->x509, X509_get_subject_name(authority->x509)) != 1 ||
	    !extension_add(authority->x509, &ctx, NID_basic_constraints,
			   "critical,CA:TRUE,pathlen:0") ||
	    !extension_add(authority->x509, &ctx, NID_key_usage, "critical,keyCertSign,cRLSign") ||
	    !extension_add(authority->x509, &ctx, NID_subject_key_identifier, "hash") ||
	    !names_add(authority->x509, uri, NULL) ||
	    !X509_sign(authority->x509, authority->key, EVP_sha256()))
		return -EINVAL;
	return 0;
}

int certificate_issue(struct certificate *issued, const struct certificate *authority,
		      const struct certificate_request *request)
{
	bool relay = !strcmp(request->cluster, "relay");
	char uri[256], common_name[64];
	X509V3_CTX ctx;

	if (snprintf(uri, sizeof(uri), "spiffe://%s/%s/%s", request->federation, request->cluster,
		     request->name) >= (int)sizeof(uri))
		return -EINVAL;
	snprintf(common_name, sizeof(common_name), "%s", request->name);
	if (!start(issued, common_name, request->not_before, request->not_after))
		return -EINVAL;
	X509V3_set_ctx(&ctx, authority->x509, issued->x509, NULL, NULL, 0);
	if (X509_set_issuer_name(issued->x509, X509_get_subject_name(authority->x509)) != 1 ||
	    !extension_add(issued->x509, &ctx, NID_basic_constraints, "critical,CA:FALSE") ||
	    !extension_add(issued->x509, &ctx, NID_key_usage, "critical,digitalSignature") ||
	    !extension_add(issued->x509, &ctx, NID_ext_key_usage,
			   relay ? "serverAuth" : "clientAuth") ||
	    !extension_add(issued->x509, &ctx, NID_subject_key_identifier, "hash") ||
	    !extension_add(issued->x509, &ctx, NID_authority_key_identifier, "keyid") ||
	    !names_add(issued->x509, uri, request->addresses) ||
	    !X509_sign(issued->x509, authority->key, EVP_sha256()))
		return -EINVAL;
	return 0;
}

void certificate_fini(struct certificate *certificate)
{
	X509_free(certificate->x509);
	EVP_PKEY_free(certificate->key);
	memset(certificate, 0, sizeof(*certificate));
}

static FILE *file_create(const char *directory, const char *name, const char *suffix, mode_t mode,
			 bool force, int *error)
{
	char path[4096];
	FILE *file = NULL;
	int fd = -1;

	*error = -ENAMETOOLONG;
	if (snprintf(path, sizeof(path), "%s/%s.%s", directory, name, suffix) >= (int)sizeof(path))
		return NULL;
	// a file of its own even with force: the old one's mode and readers are not for this key
	if (force)
		unlink(path);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	if (fd >= 0)
		file = fdopen(fd, "w");
	*error = file ? 0 : -errno;
	if (!file && fd >= 0)
		close(fd);
	return file;
}

int certificate_write(const struct certificate *certificate, const char *directory,
		      const char *name, bool force)
{
	FILE *file;
	bool good;
	int ret;

	file = file_create(directory, name, "key", 0600, force, &ret);
	if (!file)
		return ret;
	good = PEM_write_PKCS8PrivateKey(file, certificate->key, NULL, NULL, 0, NULL, NULL) == 1;
	if (fclose(file) || !good)
		return -EIO;
	file = file_create(directory, name, "pem", 0644, force, &ret);
	if (!file)
		return ret;
	good = PEM_write_X509(file, certificate->x509) == 1;
	return fclose(file) || !good ? -EIO : 0;
}

static FILE *file_open(const char *directory, const char *name, const char *suffix)
{
	char path[4096];

	snprintf(path, sizeof(path), "%s/%s.%s", directory, name, suffix);
	return fopen(path, "re");
}

int certificate_read(struct certificate *certificate, const char *directory, const char *name)
{
	FILE *file;

	file = file_open(directory, name, "pem");
	if (!file)
		return -errno;
	certificate->x509 = PEM_read_X509(file, NULL, NULL, NULL);
	fclose(file);
	file = file_open(directory, name, "key");
	if (!file)
		return -errno;
	certificate->key = PEM_read_PrivateKey(file, NULL, NULL, NULL);
	fclose(file);
	if (!certificate->x509 || !certificate->key ||
	    X509_check_private_key(certificate->x509, certificate->key) != 1)
		return -EINVAL;
	return 0;
}

void certificate_federation(char *federation, size_t size, const struct certificate *authority)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(authority->x509, NID_subject_alt_name, NULL, NULL);

	federation[0] = '\0';
	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);

		if (name->type == GEN_URI)
			sscanf((const char *)ASN1_STRING_get0_data(
				       name->d.uniformResourceIdentifier),
			       "spiffe://%255[^/]", federation);
	}
	GENERAL_NAMES_free(names);
}
