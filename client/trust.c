#include "trust.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define SPIFFE "spiffe://"

struct trust {
	struct trust *next;
	char *ca;
	struct stat file;
	SSL_CTX *ctx;
};

static bool text_copy(char to[TRUST_NAME_TEXT], const char *from, size_t length)
{
	if (!length || length >= TRUST_NAME_TEXT)
		return false;
	for (size_t i = 0; i < length; i++)
		if ((uint8_t)from[i] < ' ' || from[i] == 0x7f)
			return false; // people will see it in a terminal
	memcpy(to, from, length);
	to[length] = '\0';
	return true;
}

static bool spiffe_read(struct identity *identity, const ASN1_STRING *uri)
{
	const char *domain, *path, *end;

	if (!text_copy(identity->name, (const char *)ASN1_STRING_get0_data(uri),
		       (size_t)ASN1_STRING_length(uri)) ||
	    strncmp(identity->name, SPIFFE, strlen(SPIFFE)))
		return false;
	domain = identity->name + strlen(SPIFFE);
	path = strchr(domain, '/');
	if (!path)
		return false;
	end = strchrnul(path + 1, '/');
	return text_copy(identity->federation, domain, (size_t)(path - domain)) &&
	       text_copy(identity->cluster, path + 1, (size_t)(end - path - 1));
}

static bool common_name_read(struct identity *identity, X509 *certificate)
{
	X509_NAME *subject = X509_get_subject_name(certificate);
	int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
	uint8_t *text = NULL;
	bool good;
	int length;

	if (at < 0)
		return false;
	length = ASN1_STRING_to_UTF8(&text,
				     X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
	if (length < 0)
		return false;
	good = text_copy(identity->name, (const char *)text, (size_t)length);
	OPENSSL_free(text);
	return good;
}

static bool id_read(struct wire_id *id, X509 *certificate)
{
	uint8_t *der = NULL, digest[32];
	int length = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(certificate), &der);
	bool good;

	if (length < 0)
		return false;
	good = EVP_Digest(der, (size_t)length, digest, NULL, EVP_sha256(), NULL) == 1;
	memcpy(id, digest, sizeof(*id));
	OPENSSL_free(der);
	return good;
}

int identity_read(struct identity *identity, X509 *certificate)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
	const ASN1_STRING *uri = NULL;
	int uris = 0;
	bool good;

	memset(identity, 0, sizeof(*identity));
	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);

		if (name->type == GEN_URI) {
			uri = name->d.uniformResourceIdentifier;
			uris++;
		}
	}
	if (uris == 0)
		good = common_name_read(identity, certificate);
	else
		good = uris == 1 && spiffe_read(identity, uri);
	GENERAL_NAMES_free(names);
	return good && id_read(&identity->id, certificate) ? 0 : -EKEYREJECTED;
}

/* Refuses a certificate for a reason of ours. */
__attribute__((format(printf, 3, 4))) static int refuse(X509_STORE_CTX *store,
							struct trust_check *check,
							const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(check->text, sizeof(check->text), format, arguments);
	va_end(arguments);
	X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
	return 0;
}

/* Chain and dates as always, then the role and the federation. */
static int relay_verify(X509_STORE_CTX *store, void *unused)
{
	SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
	struct trust_check *check = SSL_get_app_data(ssl);
	X509 *certificate = X509_STORE_CTX_get0_cert(store);
	struct identity relay;

	if (X509_verify_cert(store) != 1)
		return refuse(store, check, "%s",
			      X509_verify_cert_error_string(X509_STORE_CTX_get_error(store)));
	if (identity_read(&relay, certificate))
		return refuse(store, check, "it names nobody");
	if (strcmp(relay.cluster, "relay"))
		return refuse(store, check, "%s is no relay", relay.name);
	if (!(X509_get_extension_flags(certificate) & EXFLAG_XKUSAGE) ||
	    !(X509_get_extended_key_usage(certificate) & XKU_SSL_SERVER))
		return refuse(store, check, "%s may not be a server", relay.name);
	if (check->federation[0] && strcmp(relay.federation, check->federation))
		return refuse(store, check, "%s is not of federation %s", relay.name,
			      check->federation);
	return 1;
}

static int ticket_keep(SSL *ssl, SSL_SESSION *ticket)
{
	struct trust_check *check = SSL_get_app_data(ssl);

	SSL_SESSION_free(*check->ticket);
	*check->ticket = ticket;
	return 1; // we own it now
}

static SSL_CTX *ctx_new(const char *ca)
{
	static const uint8_t alpn[] = "\x09" WIRE_ALPN;
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());

	if (!ctx)
		return NULL;
	SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_cert_verify_callback(ctx, relay_verify, NULL);
	SSL_CTX_set_session_cache_mode(ctx,
				       SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL_STORE);
	SSL_CTX_sess_set_new_cb(ctx, ticket_keep);
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
	if (SSL_CTX_set_alpn_protos(ctx, alpn, sizeof(alpn) - 1) ||
	    SSL_CTX_load_verify_file(ctx, ca) != 1) {
		SSL_CTX_free(ctx);
		ctx = NULL;
	}
	return ctx;
}

bool file_same(const struct stat *a, const struct stat *b)
{
	return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->st_size == b->st_size &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

int trust_get(SSL_CTX **ctx, struct viaduct *v, const char *ca, char *text, size_t size)
{
	struct trust *trust = v->trusts;
	SSL_CTX *made = NULL;
	struct stat file;
	int ret;

	if (stat(ca, &file) || access(ca, R_OK)) {
		ret = -errno;
		snprintf(text, size, "%s: %s", ca, strerror(errno));
		return ret;
	}
	while (trust && strcmp(trust->ca, ca))
		trust = trust->next;
	if (trust && file_same(&trust->file, &file)) {
		*ctx = trust->ctx;
		return 0;
	}

	ERR_clear_error();
	made = ctx_new(ca);
	if (!made) {
		snprintf(text, size, "%s: no CA certificates in it", ca);
		return -EKEYREJECTED;
	}
	if (!trust) {
		trust = calloc(1, sizeof(*trust));
		if (trust)
			trust->ca = strdup(ca);
		if (!trust || !trust->ca) {
			free(trust);
			SSL_CTX_free(made);
			snprintf(text, size, "out of memory");
			return -ENOMEM;
		}
		trust->next = v->trusts;
		v->trusts = trust;
	}
	SSL_CTX_free(trust->ctx);
	trust->ctx = made;
	trust->file = file;
	*ctx = made;
	return 0;
}

void trust_free_all(struct viaduct *v)
{
	struct trust *trust;

	while ((trust = v->trusts)) {
		v->trusts = trust->next;
		SSL_CTX_free(trust->ctx);
		free(trust->ca);
		free(trust);
	}
}

int trust_relay(struct wire_id *relay, SSL *ssl)
{
	X509 *certificate = SSL_get0_peer_certificate(ssl);

	if (!certificate || X509_cmp_current_time(X509_get0_notAfter(certificate)) <= 0 ||
	    !id_read(relay, certificate))
		return -EKEYREJECTED;
	return 0;
}
