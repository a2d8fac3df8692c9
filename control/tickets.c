#include "tickets.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file.h"
#include "log.h"

enum { AGAIN_S = 60 }; // before the file is tried again

/* Only this machine reads it, so it is as in memory. */
struct file {
	char magic[16];
	struct ticket_key keys[2];
};

static const char magic[16] = "viaduct tickets";

/* Reads keys that nobody else can have read. Returns 0 or a negative errno. */
static int load(struct tickets *tickets, const char **why)
{
	struct stat status;
	struct file file;
	FILE *stream;
	int result = file_open(&stream, tickets->path, O_NOFOLLOW, why);

	if (result)
		return result;
	result = -EINVAL;
	*why = "is not of mode 0600 and of this user";
	if (fstat(fileno(stream), &status) || status.st_mode & 077 || status.st_uid != geteuid())
		goto out;
	*why = "holds no ticket keys";
	// no copy that isn't wiped
	if (read(fileno(stream), &file, sizeof(file)) != sizeof(file) ||
	    memcmp(file.magic, magic, sizeof(magic)) != 0 || !file.keys[0].made)
		goto out;
	memcpy(tickets->keys, file.keys, sizeof(file.keys));
	result = 0;
out:
	OPENSSL_cleanse(&file, sizeof(file));
	fclose(stream);
	return result;
}

static int write_keys(void *arg, FILE *file)
{
	struct file content;
	int result = 0;

	memcpy(content.magic, magic, sizeof(magic));
	memcpy(content.keys, arg, sizeof(content.keys));
	setvbuf(file, NULL, _IONBF, 0); // no copy that isn't wiped
	if (fwrite(&content, sizeof(content), 1, file) != 1)
		result = -errno;
	OPENSSL_cleanse(&content, sizeof(content));
	return result;
}

int tickets_write(const char *path, struct ticket_key keys[2])
{
	return file_replace(path, write_keys, keys);
}

void tickets_written(struct tickets *tickets, int result)
{
	tickets->kept = !result;
	if (result && !tickets->warned)
		log_warning("ticket keys not kept", "file=%s reason=%s advice=%s", tickets->path,
			    strerror(-result),
			    "after a restart peers will need full handshakes; this is tried again "
			    "every minute");
	else if (!result && tickets->warned)
		log_info("ticket keys kept", "file=%s", tickets->path);
	tickets->warned = result;
}

/* Returns 0 or -EIO. */
static int rotate(struct tickets *tickets, int64_t now)
{
	struct ticket_key key = {.made = now};

	if (RAND_bytes(key.name, sizeof(key.name)) != 1 ||
	    RAND_priv_bytes(key.cipher, sizeof(key.cipher)) != 1 ||
	    RAND_priv_bytes(key.mac, sizeof(key.mac)) != 1)
		return -EIO;
	pthread_mutex_lock(&tickets->lock);
	tickets->keys[1] = tickets->keys[0];
	tickets->keys[0] = key;
	pthread_mutex_unlock(&tickets->lock);
	OPENSSL_cleanse(&key, sizeof(key));
	tickets->kept = false;
	return 0;
}

/* Of the sealing key; a clock that was set back can't make it immortal. */
static bool is_due(const struct tickets *tickets, int64_t now)
{
	int64_t age = now - tickets->keys[0].made;

	return age < 0 || age >= tickets->rotation;
}

int tickets_init(struct tickets *tickets, const struct config_tls *config, int64_t now)
{
	const char *why;
	int result = -ENOENT;

	memset(tickets, 0, sizeof(*tickets));
	memcpy(tickets->path, config->tickets, sizeof(tickets->path));
	tickets->rotation = config->ticket_rotation;
	tickets->cipher = EVP_CIPHER_fetch(NULL, "AES-256-CBC", NULL);
	if (!tickets->cipher)
		return -ENOMEM;
	pthread_mutex_init(&tickets->lock, NULL);
	if (*tickets->path)
		result = load(tickets, &why);
	tickets->kept = !result;
	if (result && result != -ENOENT)
		log_warning("ticket keys not read", "file=%s reason=%s advice=%s", tickets->path,
			    why, "new ones are made; peers will need full handshakes");
	if (is_due(tickets, now)) {
		result = rotate(tickets, now);
		if (result) {
			tickets_fini(tickets);
			return result;
		}
	}
	// the one before opens as long as it would have without a restart
	if (now - tickets->keys[1].made >= 2 * tickets->rotation)
		memset(&tickets->keys[1], 0, sizeof(tickets->keys[1]));
	if (!tickets->kept && *tickets->path)
		tickets_written(tickets, tickets_write(tickets->path, tickets->keys));
	tickets->tried = now;
	return 0;
}

void tickets_fini(struct tickets *tickets)
{
	EVP_CIPHER_free(tickets->cipher);
	pthread_mutex_destroy(&tickets->lock);
	OPENSSL_cleanse(tickets, sizeof(*tickets));
}

bool tickets_tick(struct tickets *tickets, int64_t now)
{
	bool due = is_due(tickets, now) && !rotate(tickets, now);

	// a clock that was set back doesn't put it off
	due |= !tickets->kept && (now < tickets->tried || now - tickets->tried >= AGAIN_S);
	if (due)
		tickets->tried = now;
	return due && *tickets->path;
}

/* Finds the key by its name, or takes the newest if `name` is NULL. Returns its place, or -1. */
static int take_key(struct tickets *tickets, const unsigned char *name, struct ticket_key *key)
{
	int place = 0;

	pthread_mutex_lock(&tickets->lock);
	while (place < 2 && name &&
	       (!tickets->keys[place].made ||
		memcmp(name, tickets->keys[place].name, sizeof(key->name)) != 0))
		place++;
	if (place < 2)
		*key = tickets->keys[place];
	pthread_mutex_unlock(&tickets->lock);
	return place < 2 ? place : -1;
}

int tickets_seal(struct tickets *tickets, unsigned char name[TICKETS_NAME], unsigned char *iv,
		 EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac, int seal)
{
	struct ticket_key key;
	OSSL_PARAM parameters[] = {
		OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key.mac, sizeof(key.mac)),
		OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char[]){"SHA256"}, 0),
		OSSL_PARAM_construct_end(),
	};
	int place = take_key(tickets, seal ? NULL : name, &key);
	int result = -1;

	if (place < 0)
		return 0; // an older one, or another relay's: full handshake
	if (seal) {
		memcpy(name, key.name, sizeof(key.name));
		if (RAND_bytes(iv, EVP_CIPHER_get_iv_length(tickets->cipher)) != 1)
			goto out;
	}
	if (EVP_CipherInit_ex(cipher, tickets->cipher, NULL, key.cipher, iv, seal) == 1 &&
	    EVP_MAC_CTX_set_params(mac, parameters) == 1)
		result = 1 + (place == 1); // 2: opens, and let the peer have a newer one
out:
	OPENSSL_cleanse(&key, sizeof(key));
	return result;
}
