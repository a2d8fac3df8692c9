#include "keys.h"

#include <errno.h>
#include <openssl/crypto.h>
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

int keys_new(struct keys **keys, enum wire_aead aead, uint32_t epoch,
	     const uint8_t seal[WIRE_EXPORT_SIZE], const uint8_t open[WIRE_EXPORT_SIZE])
{
	struct keys *made = calloc(1, sizeof(*made));

	if (!made)
		return -ENOMEM;
	made->epoch = epoch;
	if (cipher_init(&made->seal, aead, seal, true) ||
	    cipher_init(&made->open, aead, open, false)) {
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
	cipher_fini(&keys->seal);
	cipher_fini(&keys->open);
	OPENSSL_cleanse(keys, sizeof(*keys));
	free(keys);
}

int keys_seal(struct keys *keys, uint8_t *record, size_t length)
{
	uint8_t nonce[WIRE_IV_SIZE];

	wire_nonce(nonce, keys->seal_iv, record);
	return cipher_seal(&keys->seal, nonce, record, length) ? -EIO
							       : (int)length + WIRE_RECORD_OVERHEAD;
}

int keys_open(struct keys *keys, uint8_t *record, size_t size)
{
	size_t length = size - WIRE_RECORD_OVERHEAD;
	uint8_t nonce[WIRE_IV_SIZE];

	if (keys->failed >= KEYS_FAILED_MAX)
		return -EBADMSG;
	wire_nonce(nonce, keys->open_iv, record);
	if (cipher_open(&keys->open, nonce, record, length)) {
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
