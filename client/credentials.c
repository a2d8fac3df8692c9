#include "credentials.h"

#include <errno.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	KEPT_MAX = 4096, // more than there are peers: for those that come again; about 10 KB each
	BUCKETS = 256,
};

/* A file, and what it was when it was read. */
struct source {
	char *path;
	struct stat file;
};

struct kept {
	LIST_ENTRY(kept) link;
	TAILQ_ENTRY(kept) link_age;
	struct source certificate, key;
	struct credentials credentials;
};

struct wallet {
	LIST_HEAD(kept_list, kept) buckets[BUCKETS];
	TAILQ_HEAD(, kept) ages; // the one used last is the last, and the last to go
	unsigned int count;
};

/* FNV-1a (Fowler, Noll, Vo). */
static struct kept_list *bucket_of(struct wallet *wallet, const char *path)
{
	uint32_t hash = 2166136261;

	for (; *path; path++)
		hash = (hash ^ (uint8_t)*path) * 16777619;
	return &wallet->buckets[hash % BUCKETS];
}

/* Opens a file of PEM blocks, and notes what it is. */
static int source_open(struct source *source, FILE **file, const char *path, char *text,
		       size_t size)
{
	source->path = strdup(path);
	if (!source->path) {
		snprintf(text, size, "out of memory");
		return -ENOMEM;
	}
	*file = fopen(path, "re");
	if (*file && !fstat(fileno(*file), &source->file))
		return 0;
	snprintf(text, size, "%s: %s", path, strerror(errno));
	if (*file)
		fclose(*file);
	return -errno;
}

/* Keys under a passphrase are not supported; never ask for one on somebody's terminal. */
static int no_passphrase(char *buffer, int size, int writing, void *unused)
{
	return 0;
}

/* The first certificate is the peer's, those behind it lead to the CA. */
static int certificate_read(struct kept *kept, const char *path, char *text, size_t size)
{
	struct credentials *credentials = &kept->credentials;
	FILE *file;
	X509 *next;
	int ret = source_open(&kept->certificate, &file, path, text, size);

	if (ret)
		return ret;
	credentials->certificate = PEM_read_X509(file, NULL, no_passphrase, NULL);
	credentials->chain = sk_X509_new_null();
	while (credentials->chain && (next = PEM_read_X509(file, NULL, no_passphrase, NULL)))
		if (!sk_X509_push(credentials->chain, next))
			X509_free(next);
	fclose(file);
	if (!credentials->certificate) {
		snprintf(text, size, "%s: no certificate in it", path);
		return -EKEYREJECTED;
	}
	if (identity_read(&credentials->identity, credentials->certificate)) {
		snprintf(text, size, "%s: must have one SPIFFE ID as its URI SAN, or a CN", path);
		return -EKEYREJECTED;
	}
	return 0;
}

static int kept_read(struct kept *kept, const char *certificate, const char *key, char *text,
		     size_t size)
{
	struct credentials *credentials = &kept->credentials;
	FILE *file;
	int ret;

	ret = certificate_read(kept, certificate, text, size);
	if (!ret)
		ret = source_open(&kept->key, &file, key, text, size);
	if (ret)
		return ret;
	credentials->key = PEM_read_PrivateKey(file, NULL, no_passphrase, NULL);
	fclose(file);
	if (!credentials->key ||
	    X509_check_private_key(credentials->certificate, credentials->key) != 1) {
		snprintf(text, size, "%s: no private key in it that fits %s", key, certificate);
		return -EKEYREJECTED;
	}
	return 0;
}

static void kept_free(struct kept *kept)
{
	X509_free(kept->credentials.certificate);
	sk_X509_pop_free(kept->credentials.chain, X509_free);
	EVP_PKEY_free(kept->credentials.key);
	free(kept->certificate.path);
	free(kept->key.path);
	free(kept);
}

static void kept_remove(struct wallet *wallet, struct kept *kept)
{
	LIST_REMOVE(kept, link);
	TAILQ_REMOVE(&wallet->ages, kept, link_age);
	wallet->count--;
	kept_free(kept);
}

/* Until there are `most` at most, those that weren't used for longest go. */
static void wallet_trim(struct wallet *wallet, unsigned int most)
{
	struct kept *kept = TAILQ_FIRST(&wallet->ages), *next;

	for (; wallet->count > most; kept = next) {
		next = TAILQ_NEXT(kept, link_age);
		kept_remove(wallet, kept);
	}
}

static bool source_unchanged(const struct source *source)
{
	struct stat file;

	return !stat(source->path, &file) && !access(source->path, R_OK) &&
	       file_same(&source->file, &file);
}

static struct kept *kept_find(struct wallet *wallet, const char *certificate, const char *key)
{
	struct kept *kept;

	LIST_FOREACH(kept, bucket_of(wallet, certificate), link)
	{
		if (!strcmp(kept->certificate.path, certificate) && !strcmp(kept->key.path, key))
			break;
	}
	return kept;
}

static struct wallet *wallet_of(struct viaduct *v)
{
	if (!v->wallet) {
		v->wallet = calloc(1, sizeof(*v->wallet));
		if (v->wallet)
			TAILQ_INIT(&v->wallet->ages);
	}
	return v->wallet;
}

int credentials_get(const struct credentials **credentials, struct viaduct *v,
		    const char *certificate, const char *key, char *text, size_t size)
{
	struct wallet *wallet = wallet_of(v);
	struct kept *kept;
	int ret;

	if (!wallet) {
		snprintf(text, size, "out of memory");
		return -ENOMEM;
	}
	kept = kept_find(wallet, certificate, key);
	if (kept && source_unchanged(&kept->certificate) && source_unchanged(&kept->key)) {
		TAILQ_REMOVE(&wallet->ages, kept, link_age);
		TAILQ_INSERT_TAIL(&wallet->ages, kept, link_age);
		*credentials = &kept->credentials;
		return 0;
	}
	if (kept)
		kept_remove(wallet, kept);
	kept = calloc(1, sizeof(*kept));
	if (!kept) {
		snprintf(text, size, "out of memory");
		return -ENOMEM;
	}
	ret = kept_read(kept, certificate, key, text, size);
	if (ret) {
		kept_free(kept);
		return ret;
	}
	wallet_trim(wallet, KEPT_MAX + v->peer_count - 1);
	LIST_INSERT_HEAD(bucket_of(wallet, certificate), kept, link);
	TAILQ_INSERT_TAIL(&wallet->ages, kept, link_age);
	wallet->count++;
	*credentials = &kept->credentials;
	return 0;
}

void credentials_free_all(struct viaduct *v)
{
	struct kept *kept = v->wallet ? TAILQ_FIRST(&v->wallet->ages) : NULL, *next;

	for (; kept; kept = next) {
		next = TAILQ_NEXT(kept, link_age);
		kept_free(kept);
	}
	free(v->wallet);
}
