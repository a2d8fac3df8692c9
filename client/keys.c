#include "keys.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>

static int export(SSL *ssl, const char *label, const struct keys_binding *binding,
		  enum wire_direction direction, uint8_t *out, size_t size)
{
	uint8_t context[WIRE_CONTEXT_SIZE];

	wire_context(context, binding->aead, direction, binding->index, binding->epoch,
		     &binding->peer, &binding->relay);
	return SSL_export_keying_material(ssl, out, size, label, strlen(label), context,
					  sizeof(context), 1) == 1
		       ? 0
		       : -EPROTO;
}

static EVP_CIPHER_CTX *direction_new(enum wire_aead aead, const uint8_t *key, int encrypt)
{
	const EVP_CIPHER *cipher =
		aead == WIRE_AES_256_GCM ? EVP_aes_256_gcm() : EVP_chacha20_poly1305();
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();

	if (ctx && EVP_CipherInit_ex(ctx, cipher, NULL, key, NULL, encrypt) != 1) {
		EVP_CIPHER_CTX_free(ctx);
		ctx = NULL;
	}
	return ctx;
}

int keys_new(struct keys **keys, enum wire_aead aead, uint32_t epoch,
	     const uint8_t seal[WIRE_EXPORT_SIZE], const uint8_t open[WIRE_EXPORT_SIZE])
{
	struct keys *made = calloc(1, sizeof(*made));

	if (!made)
		return -ENOMEM;
	made->epoch = epoch;
	made->seal = direction_new(aead, seal, 1);
	made->open = direction_new(aead, open, 0);
	if (!made->seal || !made->open) {
		keys_free(made);
		return -ENOMEM;
	}
	memcpy(made->seal_iv, seal + WIRE_KEY_SIZE, WIRE_IV_SIZE);
	memcpy(made->open_iv, open + WIRE_KEY_SIZE, WIRE_IV_SIZE);
	*keys = made;
	return 0;
}

int keys_export(struct keys **keys, SSL *ssl, const struct keys_binding *binding,
		enum wire_direction seals)
{
	enum wire_direction opens = seals == WIRE_UP ? WIRE_DOWN : WIRE_UP;
	uint8_t seal[WIRE_EXPORT_SIZE], open[WIRE_EXPORT_SIZE];
	struct keys *made = NULL;
	int ret;

	ret = export(ssl, WIRE_EXPORT_DATA, binding, seals, seal, sizeof(seal));
	if (!ret)
		ret = export(ssl, WIRE_EXPORT_DATA, binding, opens, open, sizeof(open));
	if (!ret)
		ret = keys_new(&made, binding->aead, binding->epoch, seal, open);
	if (!ret)
		ret = export(ssl, WIRE_EXPORT_REKEY, binding, WIRE_REKEY_SECRET, made->rekey_secret,
			     sizeof(made->rekey_secret));
	if (ret)
		keys_free(made);
	else
		*keys = made;
	OPENSSL_cleanse(seal, sizeof(seal));
	OPENSSL_cleanse(open, sizeof(open));
	return ret;
}

void keys_free(struct keys *keys)
{
	if (!keys)
		return;
	EVP_CIPHER_CTX_free(keys->seal); // wipes
	EVP_CIPHER_CTX_free(keys->open);
	OPENSSL_cleanse(keys, sizeof(*keys));
	free(keys);
}

int keys_seal(struct keys *keys, uint8_t *record, size_t length)
{
	uint8_t nonce[WIRE_IV_SIZE], *text = record + WIRE_RECORD_HEADER;
	int n;

	wire_nonce(nonce, keys->seal_iv, record);
	if (EVP_EncryptInit_ex(keys->seal, NULL, NULL, NULL, nonce) != 1 ||
	    EVP_EncryptUpdate(keys->seal, NULL, &n, record, WIRE_RECORD_HEADER) != 1 ||
	    EVP_EncryptUpdate(keys->seal, text, &n, text, (int)length) != 1 ||
	    EVP_EncryptFinal_ex(keys->seal, text + length, &n) != 1 ||
	    EVP_CIPHER_CTX_ctrl(keys->seal, EVP_CTRL_AEAD_GET_TAG, WIRE_TAG_SIZE, text + length) !=
		    1)
		return -EIO;
	return (int)length + WIRE_RECORD_OVERHEAD;
}

int keys_open(struct keys *keys, uint8_t *record, size_t size)
{
	uint8_t nonce[WIRE_IV_SIZE], *text = record + WIRE_RECORD_HEADER;
	size_t length = size - WIRE_RECORD_OVERHEAD;
	int n;

	if (keys->failed >= KEYS_FAILED_MAX)
		return -EBADMSG;
	wire_nonce(nonce, keys->open_iv, record);
	if (EVP_DecryptInit_ex(keys->open, NULL, NULL, NULL, nonce) != 1 ||
	    EVP_DecryptUpdate(keys->open, NULL, &n, record, WIRE_RECORD_HEADER) != 1 ||
	    EVP_DecryptUpdate(keys->open, text, &n, text, (int)length) != 1 ||
	    EVP_CIPHER_CTX_ctrl(keys->open, EVP_CTRL_AEAD_SET_TAG, WIRE_TAG_SIZE, text + length) !=
		    1 ||
	    EVP_DecryptFinal_ex(keys->open, text + length, &n) != 1) {
		keys->failed++;
		return -EBADMSG;
	}
	return (int)length;
}

int keys_rekey_mac(const struct keys *keys, SSL *ssl, const char *prefix, uint32_t index,
		   uint8_t mac[32])
{
	uint8_t binding[32], input[WIRE_REKEY_INPUT];

	if (SSL_export_keying_material(ssl, binding, sizeof(binding), WIRE_EXPORT_BINDING,
				       strlen(WIRE_EXPORT_BINDING), NULL, 0, 0) != 1)
		return -EPROTO;
	wire_rekey_input(input, prefix, binding, index, keys->epoch);
	return HMAC(EVP_sha256(), keys->rekey_secret, sizeof(keys->rekey_secret), input,
		    sizeof(input), mac, NULL)
		       ? 0
		       : -ENOMEM;
}
