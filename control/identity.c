#include "identity.h"

#include <errno.h>
#include <openssl/sha.h>
#include <openssl/x509v3.h>
#include <stdlib.h>

#define SCHEME  "spiffe://"
#define CLUSTER "relay" // what a relay has in a cluster's place

static bool is_segment_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '-' || c == '.' || c == '_';
}

static bool is_segment(const char *text, size_t length)
{
	if (length == 0 || (length == 1 && text[0] == '.') ||
	    (length == 2 && text[0] == '.' && text[1] == '.'))
		return false;
	for (size_t i = 0; i < length; i++) {
		if (!is_segment_char(text[i]))
			return false;
	}
	return true;
}

static size_t segment_length(const char *at, const char *end)
{
	const char *slash = memchr(at, '/', (size_t)(end - at));

	return (size_t)((slash ? slash : end) - at);
}

static void copy(char *to, const char *from, size_t length)
{
	memcpy(to, from, length);
	to[length] = '\0';
}

int identity_parse(struct identity *identity, const char *uri, size_t length)
{
	const size_t scheme = sizeof(SCHEME) - 1;
	const char *end = uri + length, *at = uri + scheme;
	unsigned int segments = 0;

	if (length > IDENTITY_NAME_MAX || length < scheme || memcmp(uri, SCHEME, scheme) != 0)
		return -EINVAL;
	for (;; segments++, at++) {
		size_t n = segment_length(at, end);

		if (!is_segment(at, n))
			return -EINVAL;
		if (segments == 0) {
			for (size_t i = 0; i < n; i++) {
				if (at[i] >= 'A' && at[i] <= 'Z')
					return -EINVAL;
			}
			copy(identity->federation, at, n);
		} else if (segments == 1) {
			copy(identity->cluster, at, n);
		}
		at += n;
		if (at == end)
			break;
	}
	if (segments < 2)
		return -EINVAL;
	copy(identity->name, uri, length);
	return 0;
}

/* A SPIFFE ID's scheme would pass for a name that the CA has not certified as one. */
static bool is_common_name(const char *name, size_t length)
{
	if (length < 1 || length > IDENTITY_NAME_MAX)
		return false;
	for (size_t i = 0; i < length; i++) {
		if ((unsigned char)name[i] < ' ' || name[i] == 0x7f)
			return false;
	}
	return length < sizeof(SCHEME) - 1 || memcmp(name, SCHEME, sizeof(SCHEME) - 1) != 0;
}

int identity_name(struct identity *identity, const char *name, size_t length)
{
	if (!is_common_name(name, length))
		return identity_parse(identity, name, length);
	copy(identity->name, name, length);
	return 0;
}

static int read_id(struct wire_id *id, X509 *certificate)
{
	uint8_t hash[SHA256_DIGEST_LENGTH];
	unsigned char *der = NULL;
	int length = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(certificate), &der);

	if (length <= 0)
		return -EINVAL;
	SHA256(der, (size_t)length, hash);
	memcpy(id, hash, sizeof(*id));
	OPENSSL_free(der);
	return 0;
}

int identity_certificate(struct wire_id *certificate, const X509_NAME *issuer,
			 const ASN1_INTEGER *serial)
{
	uint8_t hash[SHA256_DIGEST_LENGTH], *input = NULL;
	int ok, length = i2d_ASN1_INTEGER(serial, NULL);
	// of the canonical form, as a CRL may write the name in another way
	unsigned long name = X509_NAME_hash_ex(issuer, NULL, NULL, &ok);
	uint8_t *at;

	if (!ok || length <= 0 || !(input = malloc(4 + (size_t)length)))
		return -ENOMEM;
	wire_put32(input, (uint32_t)name);
	at = input + 4;
	i2d_ASN1_INTEGER(serial, &at);
	SHA256(input, 4 + (size_t)length, hash);
	memcpy(certificate, hash, sizeof(*certificate));
	free(input);
	return 0;
}

/* Counts the URIs among the alternative names and reads the last one. */
static int read_uris(struct identity *identity, X509 *certificate, unsigned int *count)
{
	int critical, result = 0;
	GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, &critical, NULL);

	*count = 0;
	if (!names)
		return critical == -1 ? 0 : -EINVAL; // not there, or not to be understood
	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
		const ASN1_STRING *uri = name->d.uniformResourceIdentifier;

		if (name->type != GEN_URI)
			continue;
		++*count;
		result = identity_parse(identity, (const char *)ASN1_STRING_get0_data(uri),
					(size_t)ASN1_STRING_length(uri));
	}
	GENERAL_NAMES_free(names);
	return result;
}

static int read_common_name(struct identity *identity, X509 *certificate)
{
	X509_NAME *subject = X509_get_subject_name(certificate);
	int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
	unsigned char *text = NULL;
	int length, result = -EINVAL;

	if (at < 0 || X509_NAME_get_index_by_NID(subject, NID_commonName, at) >= 0)
		return -EINVAL;
	length = ASN1_STRING_to_UTF8(&text,
				     X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
	if (length > 0 && is_common_name((char *)text, (size_t)length)) {
		copy(identity->name, (char *)text, (size_t)length);
		result = 0;
	}
	OPENSSL_free(text);
	return result;
}

static bool has_role(X509 *certificate, enum identity_role role)
{
	const uint32_t wanted = role == IDENTITY_RELAY ? XKU_SSL_SERVER : XKU_SSL_CLIENT;
	uint32_t usage = X509_get_extended_key_usage(certificate);

	// UINT32_MAX: it has no such extension
	if (usage == UINT32_MAX || !(usage & wanted) || (usage & XKU_ANYEKU))
		return false;
	return role == IDENTITY_RELAY || !(usage & XKU_SSL_SERVER);
}

int identity_read(struct identity *identity, X509 *certificate, enum identity_role role,
		  const char *federation, const char **why)
{
	unsigned int uris;
	int result;

	memset(identity, 0, sizeof(*identity));
	*why = NULL;
	if (!has_role(certificate, role))
		*why = role == IDENTITY_RELAY
			       ? "the certificate's extended key usage is not serverAuth"
			       : "the certificate's extended key usage is not clientAuth alone";
	else if (read_id(&identity->id, certificate))
		*why = "the certificate's public key can't be read";
	else if (identity_certificate(&identity->certificate, X509_get_issuer_name(certificate),
				      X509_get0_serialNumber(certificate)))
		*why = "the certificate's number can't be read";
	if (*why)
		return -EINVAL;

	result = read_uris(identity, certificate, &uris);
	if (uris > 1)
		*why = "the certificate has several URI names";
	else if (result)
		*why = "the certificate's URI name is not spiffe://FEDERATION/CLUSTER/NAME";
	else if (uris == 0 && role == IDENTITY_RELAY)
		*why = "the certificate has no URI name spiffe://FEDERATION/relay/NAME";
	else if (uris == 0 && read_common_name(identity, certificate))
		*why = "the certificate has neither a SPIFFE ID nor a usable common name";
	else if (uris == 1 && federation && strcmp(identity->federation, federation) != 0)
		*why = "the certificate is of another federation";
	else if (role == IDENTITY_PEER && strcmp(identity->cluster, CLUSTER) == 0)
		*why = "the certificate has a relay's name";
	else if (role == IDENTITY_RELAY && strcmp(identity->cluster, CLUSTER) != 0)
		*why = "the certificate's name is not spiffe://FEDERATION/relay/NAME";
	return *why ? -EINVAL : 0;
}
