#include "tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509_vfy.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "file.h"
#include "offload.h"
#include "proof.h"

/* What a connection remembers. */
struct connection {
	const char *why;    // our own reason for refusing a certificate
	struct proof proof; // of a full authentication
};

/* Where a context keeps its struct identity, so that both go when its last connection does. */
static int relay_index = -1;
static int connection_index; // where a connection keeps its struct connection

static void free_data(void *parent, void *data, CRYPTO_EX_DATA *all, int index, long argl,
		      void *arg)
{
	free(data);
}

static struct connection *connection_of(const SSL *ssl)
{
	return SSL_get_ex_data(ssl, connection_index);
}

const struct identity *tls_relay(const SSL *ssl)
{
	return SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), relay_index);
}

static void refuse(SSL *ssl, const char *why)
{
	connection_of(ssl)->why = why;
}

/* OpenSSL calls the ALPN callback only where the client offers any. */
static int need_alpn(SSL *ssl, int *alert, void *arg)
{
	const unsigned char *extension;
	size_t length;

	if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_application_layer_protocol_negotiation,
				      &extension, &length))
		return SSL_CLIENT_HELLO_SUCCESS;
	*alert = TLS1_AD_NO_APPLICATION_PROTOCOL;
	refuse(ssl, "no ALPN");
	return SSL_CLIENT_HELLO_ERROR;
}

static int choose_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_length,
		       const unsigned char *in, unsigned int in_length, void *arg)
{
	static const unsigned char ours[] = {
		sizeof(WIRE_ALPN) - 1, 'v', 'i', 'a', 'd', 'u', 'c', 't', '/', '1'};

	if (SSL_select_next_proto((unsigned char **)out, out_length, ours, sizeof(ours), in,
				  in_length) == OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_OK;
	refuse(ssl, "ALPN is not " WIRE_ALPN);
	return SSL_TLSEXT_ERR_ALERT_FATAL;
}

/* Why a peer of the federation is not wanted, NULL: it is. */
static const char *refusal(const struct tls *tls, const struct identity *peer)
{
	return tls->trust ? trust_refuses(tls->trust, &peer->id, &peer->certificate) : NULL;
}

/* On top of the chain: role and name, and whether it is trusted. */
static int check_peer(int ok, X509_STORE_CTX *store)
{
	SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
	const struct tls *tls = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
	struct proof *proof = &connection_of(ssl)->proof;
	X509 *certificate = X509_STORE_CTX_get_current_cert(store);
	const char *why;

	// another CA that goes by the same name: as unknown as any other
	if (X509_STORE_CTX_get_error(store) == X509_V_ERR_CERT_SIGNATURE_FAILURE)
		X509_STORE_CTX_set_error(store, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY);
	if (!ok || X509_STORE_CTX_get_error_depth(store) != 0)
		return ok;
	if (identity_read(&proof->peer, certificate, IDENTITY_PEER, tls_relay(ssl)->federation,
			  &why) ||
	    proof_read(proof, certificate, time(NULL))) {
		refuse(ssl, why ? why : "the certificate's dates can't be read");
		X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
		return 0;
	}
	why = refusal(tls, &proof->peer);
	if (!why)
		return 1;
	refuse(ssl, why);
	X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REVOKED);
	return 0;
}

static int session_proof(struct proof *proof, SSL_SESSION *session)
{
	size_t length;
	void *data;

	if (!session || !SSL_SESSION_get0_ticket_appdata(session, &data, &length))
		return -EINVAL;
	return proof_unpack(proof, data, length);
}

/* What a session needs to be resumed, without the certificate. */
static SSL_SESSION *resumable(const SSL *ssl, SSL_SESSION *session)
{
	uint8_t key[SSL_MAX_MASTER_KEY_LENGTH], packed[PROOF_MAX];
	size_t key_length = SSL_SESSION_get_master_key(session, key, sizeof(key)), length;
	SSL_SESSION *lean = SSL_SESSION_new();
	unsigned int name_length;
	const unsigned char *name = SSL_SESSION_get0_id_context(session, &name_length);
	struct proof resumed;
	const struct proof *proof = &connection_of(ssl)->proof;
	bool ok;

	if (!session_proof(&resumed, session))
		proof = &resumed; // which it stays, so that a chain of tickets ends
	length = proof_pack(packed, proof);
	ok = lean && SSL_SESSION_set_protocol_version(lean, TLS1_3_VERSION) &&
	     SSL_SESSION_set_cipher(lean, SSL_SESSION_get0_cipher(session)) &&
	     SSL_SESSION_set1_master_key(lean, key, key_length) &&
	     SSL_SESSION_set1_id_context(lean, name, name_length) &&
	     SSL_SESSION_set_timeout(lean, TLS_CHAIN_SECONDS) &&
	     SSL_SESSION_set1_ticket_appdata(lean, packed, length);
	OPENSSL_cleanse(key, sizeof(key));
	if (ok)
		return lean;
	SSL_SESSION_free(lean);
	return NULL;
}

/*
 * OpenSSL seals the connection's session, so that is read anew, without the certificate: decoding
 * that took OpenSSL 3.0 a third of a resumed handshake.
 */
static int seal_ticket(SSL *ssl, void *arg)
{
	SSL_SESSION *session = SSL_get_session(ssl), *lean = resumable(ssl, session);
	unsigned char *encoded = NULL;
	const unsigned char *at;
	int length = lean ? i2d_SSL_SESSION(lean, NULL) : 0;
	bool ok = false;

	if (length > 0 && (encoded = OPENSSL_malloc((size_t)length))) {
		unsigned char *to = encoded;

		i2d_SSL_SESSION(lean, &to);
		at = encoded;
		ok = d2i_SSL_SESSION(&session, &at, length);
		OPENSSL_clear_free(encoded, (size_t)length);
	}
	SSL_SESSION_free(lean);
	return ok;
}

/*
 * Resumption skips the check of certificates, so what may have changed since is checked here. What
 * doesn't pass gets a full handshake, with all its checks and alerts.
 */
static SSL_TICKET_RETURN open_ticket(SSL *ssl, SSL_SESSION *session, const unsigned char *name,
				     size_t name_length, SSL_TICKET_STATUS status, void *arg)
{
	const struct tls *tls = arg;
	const char *federation = tls_relay(ssl)->federation;
	struct proof proof;

	if ((status != SSL_TICKET_SUCCESS && status != SSL_TICKET_SUCCESS_RENEW) ||
	    session_proof(&proof, session) || !proof_holds(&proof, time(NULL), TLS_CHAIN_SECONDS) ||
	    (proof.peer.federation[0] && strcmp(proof.peer.federation, federation) != 0) ||
	    refusal(tls, &proof.peer))
		return SSL_TICKET_RETURN_IGNORE_RENEW;
	return SSL_TICKET_RETURN_USE_RENEW;
}

static int seal_with_keys(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
			  EVP_MAC_CTX *mac, int seal)
{
	const struct tls *tls = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));

	return tickets_seal(tls->tickets, name, iv, cipher, mac, seal);
}

void tls_use_tickets(struct tls *tls, struct tickets *tickets)
{
	tls->tickets = tickets;
	SSL_CTX_set_tlsext_ticket_key_evp_cb(tls->context, seal_with_keys);
}

/* A passphrase can't be asked for. */
static int no_passphrase(char *buffer, int size, int writing, void *arg)
{
	return -1;
}

static const char *library_reason(void)
{
	const char *reason = ERR_reason_error_string(ERR_peek_last_error());

	return reason ? reason : "unknown reason";
}

/* OpenSSL opens them itself, and doesn't say why it can't; nor does it mind a FIFO. */
static int readable(const char *setting, const char *file, char *error)
{
	const char *why;
	FILE *stream;
	int result = file_open(&stream, file, 0, &why);

	if (result)
		snprintf(error, CONFIG_ERROR_MAX, "%s: %s: %s", setting, file, why);
	else
		fclose(stream);
	return result;
}

static int read_files(struct tls *tls, const struct config *config, char *error)
{
	const char *certificate = config->tls.certificate, *key = config->tls.key;
	const char *ca = config->tls.ca;
	int result;

	if ((result = readable("tls.certificate", certificate, error)) ||
	    (result = readable("tls.key", key, error)) || (result = readable("tls.ca", ca, error)))
		return result;
	if (SSL_CTX_load_verify_file(tls->context, ca) != 1)
		snprintf(error, CONFIG_ERROR_MAX, "tls.ca: %s: holds no CA certificate in PEM (%s)",
			 ca, library_reason());
	else if (SSL_CTX_use_certificate_chain_file(tls->context, certificate) != 1)
		snprintf(error, CONFIG_ERROR_MAX,
			 "tls.certificate: %s: holds no certificate in PEM (%s)", certificate,
			 library_reason());
	else if (SSL_CTX_use_PrivateKey_file(tls->context, key, SSL_FILETYPE_PEM) != 1)
		snprintf(error, CONFIG_ERROR_MAX,
			 "tls.key: %s: is not the certificate's private key in PEM, without a "
			 "passphrase (%s)",
			 key, library_reason());
	else
		return 0;
	return -EINVAL;
}

/* Whether peers will accept our certificate: better to learn it now than from each of them. */
static int check_own(struct tls *tls, const struct config *config, char *error)
{
	X509 *certificate = SSL_CTX_get0_certificate(tls->context);
	X509_STORE_CTX *store = X509_STORE_CTX_new();
	STACK_OF(X509) *chain = NULL;
	struct identity *relay = malloc(sizeof(*relay));
	const char *why = "out of memory";
	int result = -EINVAL;

	SSL_CTX_get0_chain_certs(tls->context, &chain);
	if (!relay || !SSL_CTX_set_ex_data(tls->context, relay_index, relay)) {
		free(relay);
		goto out;
	}
	tls->relay = relay;
	if (!store ||
	    !X509_STORE_CTX_init(store, SSL_CTX_get_cert_store(tls->context), certificate, chain))
		goto out;
	X509_STORE_CTX_set_default(store, "ssl_server");
	result = identity_read(relay, certificate, IDENTITY_RELAY, NULL, &why);
	if (!result && X509_verify_cert(store) != 1) {
		result = -EINVAL;
		why = X509_verify_cert_error_string(X509_STORE_CTX_get_error(store));
	}
out:
	if (result)
		snprintf(error, CONFIG_ERROR_MAX, "tls.certificate: %s: peers would refuse it: %s",
			 config->tls.certificate, why);
	X509_STORE_CTX_free(store);
	return result;
}

/*
 * Tickets hold only as long as the CA by whose word they were given, and the key of the relay that
 * gave them: who resumes takes us for that one.
 */
static void bind_tickets(SSL_CTX *context, const struct wire_id *relay)
{
	STACK_OF(X509_OBJECT) *all = X509_STORE_get0_objects(SSL_CTX_get_cert_store(context));
	unsigned char name[SSL_MAX_SID_CTX_LENGTH] = WIRE_ALPN, hash[EVP_MAX_MD_SIZE];

	for (int i = 0; i < sk_X509_OBJECT_num(all); i++) {
		const X509 *ca = X509_OBJECT_get0_X509(sk_X509_OBJECT_value(all, i));
		unsigned int size = 0;

		if (ca && X509_digest(ca, EVP_sha256(), hash, &size) == 1)
			for (unsigned int j = 0; j < size; j++)
				name[j] ^= hash[j];
	}
	for (size_t i = 0; i < sizeof(*relay); i++)
		name[i] ^= relay->bytes[i];
	SSL_CTX_set_session_id_context(context, name, sizeof(name));
}

int tls_init(struct tls *tls, const struct config *config, char *error)
{
	SSL_CTX *context = SSL_CTX_new(TLS_server_method());
	int result;

	memset(tls, 0, sizeof(*tls));
	tls->context = context;
	if (relay_index < 0) {
		relay_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, free_data);
		connection_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, free_data);
	}
	if (!context) {
		snprintf(error, CONFIG_ERROR_MAX, "TLS: %s", library_reason());
		return -ENOMEM;
	}
	SSL_CTX_set_app_data(context, tls);
	SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
	SSL_CTX_set_default_passwd_cb(context, no_passphrase);
	SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, check_peer);
	SSL_CTX_set_client_hello_cb(context, need_alpn, NULL);
	SSL_CTX_set_alpn_select_cb(context, choose_alpn, NULL);
	SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF); // tickets keep no state here
	SSL_CTX_set_timeout(context, TLS_CHAIN_SECONDS);
	SSL_CTX_set_num_tickets(context, 1);
	SSL_CTX_set_session_ticket_cb(context, seal_ticket, open_ticket, tls);
	SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
	// OpenSSL 3.5's hybrid key exchanges ask an engine's X25519 for what engines don't know
	if (offload_is_engine())
		SSL_CTX_set1_groups_list(context, "X25519:P-256:P-384");
	if (offload_pauses())
		SSL_CTX_set_mode(context, SSL_MODE_ASYNC);
	result = read_files(tls, config, error);
	if (!result)
		result = check_own(tls, config, error);
	if (!result)
		bind_tickets(context, &tls->relay->id);
	ERR_clear_error();
	if (result)
		tls_fini(tls);
	return result;
}

void tls_fini(struct tls *tls)
{
	SSL_CTX_free(tls->context);
	tls->context = NULL;
	tls->relay = NULL;
}

void tls_replace(struct tls *tls, struct tls *next)
{
	SSL_CTX *old = tls->context;

	SSL_CTX_set_app_data(next->context, tls);
	SSL_CTX_set_session_ticket_cb(next->context, seal_ticket, open_ticket, tls);
	SSL_CTX_set_tlsext_ticket_key_evp_cb(next->context, seal_with_keys);
	tls->context = next->context;
	tls->relay = next->relay;
	next->context = NULL;
	SSL_CTX_free(old);
}

SSL *tls_accept(struct tls *tls, int fd)
{
	SSL *ssl = SSL_new(tls->context);
	struct connection *connection = calloc(1, sizeof(*connection));

	if (!ssl || !connection || !SSL_set_ex_data(ssl, connection_index, connection)) {
		free(connection);
		SSL_free(ssl);
		return NULL;
	}
	if (!SSL_set_fd(ssl, fd)) {
		SSL_free(ssl);
		return NULL;
	}
	SSL_set_accept_state(ssl);
	return ssl;
}

int tls_peer(struct tls *tls, SSL *ssl, struct identity *peer, const char **why)
{
	struct proof resumed;
	const struct proof *proof = &connection_of(ssl)->proof;

	if (SSL_session_reused(ssl)) {
		*why = "no such ticket";
		if (session_proof(&resumed, SSL_get_session(ssl)))
			return -EINVAL;
		proof = &resumed;
	}
	*peer = proof->peer;
	// it may have changed since the handshake began
	*why = refusal(tls, peer);
	return *why ? -EINVAL : 0;
}

const char *tls_reason(const SSL *ssl)
{
	const char *own = connection_of(ssl)->why;
	long verified = SSL_get_verify_result(ssl);

	if (own)
		return own;
	if (!SSL_session_reused(ssl) && verified != X509_V_OK)
		return X509_verify_cert_error_string(verified);
	return library_reason();
}
