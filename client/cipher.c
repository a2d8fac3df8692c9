#include "cipher.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>

#ifdef VIADUCT_IPSEC_MB
#include <intel-ipsec-mb.h>
#include <pthread.h>

static IMB_MGR *manager; // only its choice of code is used, so that threads may share it

static void manager_init(void)
{
	const uint64_t needed = IMB_FEATURE_AESNI | IMB_FEATURE_PCLMULQDQ;

	manager = alloc_mb_mgr(0);
	if (!manager)
		return;
	init_mb_mgr_auto(manager, NULL);
	if ((manager->features & needed) == needed)
		return;
	free_mb_mgr(manager); // it would emulate them
	manager = NULL;
}

/* Whether ipsec-mb does it. */
static bool gcm_usable(enum wire_aead aead)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, manager_init);
	return manager && aead == WIRE_AES_256_GCM;
}

static int gcm_init(struct cipher *cipher, const uint8_t key[WIRE_KEY_SIZE])
{
	cipher->gcm = aligned_alloc(_Alignof(struct gcm_key_data), sizeof(*cipher->gcm));
	if (!cipher->gcm)
		return -ENOMEM;
	IMB_AES256_GCM_PRE(manager, key, cipher->gcm);
	return 0;
}

static void gcm_fini(struct cipher *cipher)
{
	if (cipher->gcm)
		OPENSSL_cleanse(cipher->gcm, sizeof(*cipher->gcm));
	free(cipher->gcm);
}

static void gcm_seal(const struct cipher *cipher, const uint8_t nonce[WIRE_IV_SIZE],
		     uint8_t *record, size_t length)
{
	uint8_t *text = record + WIRE_RECORD_HEADER;
	struct gcm_context_data context;

	IMB_AES256_GCM_ENC(manager, cipher->gcm, &context, text, text, length, nonce, record,
			   WIRE_RECORD_HEADER, text + length, WIRE_TAG_SIZE);
}

static int gcm_open(const struct cipher *cipher, const uint8_t nonce[WIRE_IV_SIZE], uint8_t *record,
		    size_t length)
{
	uint8_t *text = record + WIRE_RECORD_HEADER, tag[WIRE_TAG_SIZE];
	struct gcm_context_data context;

	IMB_AES256_GCM_DEC(manager, cipher->gcm, &context, text, text, length, nonce, record,
			   WIRE_RECORD_HEADER, tag, WIRE_TAG_SIZE);
	return CRYPTO_memcmp(tag, text + length, WIRE_TAG_SIZE) ? -EBADMSG : 0;
}
#else
static bool gcm_usable(enum wire_aead aead)
{
	return false;
}

static int gcm_init(struct cipher *cipher, const uint8_t key[WIRE_KEY_SIZE])
{
	return -ENOTSUP;
}

static void gcm_fini(struct cipher *cipher)
{
}

static void gcm_seal(const struct cipher *cipher, const uint8_t nonce[WIRE_IV_SIZE],
		     uint8_t *record, size_t length)
{
}

static int gcm_open(const struct cipher *cipher, const uint8_t nonce[WIRE_IV_SIZE], uint8_t *record,
		    size_t length)
{
	return -ENOTSUP;
}
#endif

int cipher_init(struct cipher *cipher, enum wire_aead aead, const uint8_t key[WIRE_KEY_SIZE],
		bool seals)
{
	const EVP_CIPHER *kind =
		aead == WIRE_AES_256_GCM ? EVP_aes_256_gcm() : EVP_chacha20_poly1305();

	*cipher = (struct cipher){0};
	if (gcm_usable(aead))
		return gcm_init(cipher, key);
	cipher->evp = EVP_CIPHER_CTX_new();
	if (!cipher->evp || EVP_CipherInit_ex(cipher->evp, kind, NULL, key, NULL, seals) != 1)
		return -ENOMEM;
	return 0;
}

void cipher_fini(struct cipher *cipher)
{
	gcm_fini(cipher);
	EVP_CIPHER_CTX_free(cipher->evp); // wipes
}

int cipher_seal(const struct cipher *cipher, const uint8_t nonce[WIRE_IV_SIZE], uint8_t *record,
		size_t length)
{
	uint8_t *text = record + WIRE_RECORD_HEADER;
	int n;

	if (cipher->gcm) {
		gcm_seal(cipher, nonce, record, length);
		return 0;
	}
	if (EVP_EncryptInit_ex(cipher->evp, NULL, NULL, NULL, nonce) != 1 ||
	    EVP_EncryptUpdate(cipher->evp, NULL, &n, record, WIRE_RECORD_HEADER) != 1 ||
	    EVP_EncryptUpdate(cipher->evp, text, &n, text, (int)length) != 1 ||
	    EVP_EncryptFinal_ex(cipher->evp, text + length, &n) != 1 ||
	    EVP_CIPHER_CTX_ctrl(cipher->evp, EVP_CTRL_AEAD_GET_TAG, WIRE_TAG_SIZE, text + length) !=
		    1)
		return -EIO;
	return 0;
}

int cipher_open(const struct cipher *cipher, const uint8_t nonce[WIRE_IV_SIZE], uint8_t *record,
		size_t length)
{
	uint8_t *text = record + WIRE_RECORD_HEADER;
	int n;

	if (cipher->gcm)
		return gcm_open(cipher, nonce, record, length);
	if (EVP_DecryptInit_ex(cipher->evp, NULL, NULL, NULL, nonce) != 1 ||
	    EVP_DecryptUpdate(cipher->evp, NULL, &n, record, WIRE_RECORD_HEADER) != 1 ||
	    EVP_DecryptUpdate(cipher->evp, text, &n, text, (int)length) != 1 ||
	    EVP_CIPHER_CTX_ctrl(cipher->evp, EVP_CTRL_AEAD_SET_TAG, WIRE_TAG_SIZE, text + length) !=
		    1 ||
	    EVP_DecryptFinal_ex(cipher->evp, text + length, &n) != 1)
		return -EBADMSG;
	return 0;
}
