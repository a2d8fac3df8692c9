#include "trust.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "file.h"
#include "log.h"

enum { FILE_MAX = 64 << 20 };

/* Sets */

static int compare(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct wire_id));
}

static bool set_has(const struct trust_set *set, const struct wire_id *id)
{
	return set->count && bsearch(id, set->ids, set->count, sizeof(*id), compare);
}

/* Adds at the end; set_order() is to follow. Returns 0 or -ENOMEM. */
static int set_append(struct trust_set *set, const struct wire_id *id)
{
	if (set->count == set->room) {
		size_t room = set->room ? 2 * set->room : 16;
		struct wire_id *ids = reallocarray(set->ids, room, sizeof(*ids));

		if (!ids)
			return -ENOMEM;
		set->ids = ids;
		set->room = room;
	}
	set->ids[set->count++] = *id;
	return 0;
}

static void set_order(struct trust_set *set)
{
	size_t kept = 0;

	if (!set->count)
		return;
	qsort(set->ids, set->count, sizeof(set->ids[0]), compare);
	for (size_t i = 1; i < set->count; i++) {
		if (!wire_id_equal(&set->ids[i], &set->ids[kept]))
			set->ids[++kept] = set->ids[i];
	}
	set->count = kept + 1;
}

static void set_remove(struct trust_set *set, const struct wire_id *id)
{
	size_t kept = 0;

	for (size_t i = 0; i < set->count; i++) {
		if (!wire_id_equal(&set->ids[i], id))
			set->ids[kept++] = set->ids[i];
	}
	set->count = kept;
}

int trust_set_copy(struct trust_set *copy, const struct trust_set *set)
{
	copy->ids = malloc((set->count + 1) * sizeof(*set->ids));
	if (!copy->ids)
		return -ENOMEM;
	memcpy(copy->ids, set->ids, set->count * sizeof(*set->ids));
	copy->count = set->count;
	copy->room = set->count + 1;
	return 0;
}

void trust_set_free(struct trust_set *set)
{
	free(set->ids);
	memset(set, 0, sizeof(*set));
}

/* Files */

/* Reads a line's id. Returns 1, 0 (nothing but a comment) or -EINVAL. */
static int parse_line(struct wire_id *id, const char *text, size_t length)
{
	const char *comment = memchr(text, '#', length);
	char word[WIRE_ID_TEXT + 1];

	if (comment)
		length = (size_t)(comment - text);
	while (length && memchr(" \t\r", text[length - 1], 3))
		length--;
	while (length && memchr(" \t", *text, 2)) {
		text++;
		length--;
	}
	if (!length)
		return 0;
	if (length != WIRE_ID_TEXT || memchr(text, '\0', length))
		return -EINVAL;
	memcpy(word, text, length);
	word[length] = '\0';
	return wire_id_parse(id, word) ? -EINVAL : 1;
}

int trust_parse(struct trust_set *set, const char *text, size_t length, unsigned int *line)
{
	const char *end = text + length;
	int result = 0;

	for (*line = 1; text < end && result >= 0; ++*line) {
		const char *stop = memchr(text, '\n', (size_t)(end - text));
		struct wire_id id;

		result = parse_line(&id, text, (size_t)((stop ? stop : end) - text));
		if (result > 0)
			result = set_append(set, &id);
		if (result < 0)
			return result;
		text = stop ? stop + 1 : end;
	}
	set_order(set);
	return 0;
}

/* Reads a whole file to `text`, the caller's to free. Returns 0, or a negative errno and `why`. */
static int read_file(const char *path, char **text, size_t *length, const char **why)
{
	struct stat status;
	FILE *file;
	int result = file_open(&file, path, 0, why);

	*text = NULL;
	if (result)
		return result;
	if (fstat(fileno(file), &status)) {
		result = -errno;
	} else if (status.st_size > FILE_MAX) {
		result = -EFBIG;
	} else {
		*text = malloc((size_t)status.st_size + 1);
		*length = *text ? fread(*text, 1, (size_t)status.st_size, file) : 0;
		if (!*text)
			result = -ENOMEM;
		else if (ferror(file))
			result = -EIO;
	}
	fclose(file);
	*why = strerror(-result);
	return result;
}

static int read_ids(struct trust_set *set, const char *setting, const char *path, char *error)
{
	unsigned int line;
	size_t length = 0;
	const char *why;
	char *text;
	int result = read_file(path, &text, &length, &why);

	if (result) {
		snprintf(error, CONFIG_ERROR_MAX, "%s: %s: %s", setting, path, why);
	} else {
		result = trust_parse(set, text, length, &line);
		if (result)
			snprintf(error, CONFIG_ERROR_MAX, "%s: %s:%u: %s", setting, path, line,
				 result == -EINVAL ? "this is not a peer's id" : "out of memory");
	}
	free(text);
	return result;
}

/* The CRL */

/* Whether one of the CA's certificates has signed it. */
static bool is_signed(X509_CRL *crl, const STACK_OF(X509_INFO) * authorities)
{
	for (int i = 0; i < sk_X509_INFO_num(authorities); i++) {
		X509 *ca = sk_X509_INFO_value(authorities, i)->x509;

		if (ca && X509_NAME_cmp(X509_get_subject_name(ca), X509_CRL_get_issuer(crl)) == 0 &&
		    X509_CRL_verify(crl, X509_get0_pubkey(ca)) == 1)
			return true;
	}
	return false;
}

static int take_crl(struct trust_set *set, X509_CRL *crl, const char *path)
{
	STACK_OF(X509_REVOKED) *all = X509_CRL_get_REVOKED(crl);
	const ASN1_TIME *next = X509_CRL_get0_nextUpdate(crl);

	if (next && X509_cmp_time(next, NULL) < 0)
		log_warning("CRL is old", "file=%s advice=%s", path,
			    "it should have had a successor by now; it holds nevertheless");
	for (int i = 0; i < sk_X509_REVOKED_num(all); i++) {
		struct wire_id certificate;

		if (identity_certificate(
			    &certificate, X509_CRL_get_issuer(crl),
			    X509_REVOKED_get0_serialNumber(sk_X509_REVOKED_value(all, i))) ||
		    set_append(set, &certificate))
			return -ENOMEM;
	}
	return 0;
}

/* What is in a file; NULL: nothing. Returns 0, or a negative errno and `why`. */
static int read_pem(STACK_OF(X509_INFO) * *all, const char *path, const char **why)
{
	FILE *file;
	int result = file_open(&file, path, 0, why);

	*all = NULL;
	if (result)
		return result;
	*all = PEM_X509_INFO_read(file, NULL, NULL, NULL);
	fclose(file);
	return 0;
}

static int read_crl(struct trust_set *set, const char *path, const char *ca, char *error)
{
	STACK_OF(X509_INFO) * lists, *authorities = NULL;
	const char *why;
	int result = read_pem(&lists, path, &why);

	if (!result)
		result = read_pem(&authorities, ca, &why);
	if (!result) {
		result = -EINVAL;
		why = "holds no CRL in PEM";
	}
	for (int i = 0; i < sk_X509_INFO_num(lists); i++) {
		X509_CRL *crl = sk_X509_INFO_value(lists, i)->crl;

		if (!crl)
			continue;
		result = is_signed(crl, authorities) ? take_crl(set, crl, path) : -EKEYREJECTED;
		if (result) {
			why = result == -ENOMEM ? "out of memory" : "is not signed by the CA";
			break;
		}
	}
	set_order(set);
	if (result)
		snprintf(error, CONFIG_ERROR_MAX, "trust.crl: %s: %s", path, why);
	sk_X509_INFO_pop_free(lists, X509_INFO_free);
	sk_X509_INFO_pop_free(authorities, X509_INFO_free);
	ERR_clear_error();
	return result;
}

/* All together */

static int read_pins(struct trust *trust, const struct config_trust *config, char *error)
{
	trust->pinned = config->pins_count || *config->pins_file;
	for (uint32_t i = 0; i < config->pins_count; i++) {
		struct wire_id id;

		if (wire_id_parse(&id, config->pins[i]) || set_append(&trust->pins, &id)) {
			snprintf(error, CONFIG_ERROR_MAX, "trust.pins: out of memory");
			return -ENOMEM;
		}
	}
	set_order(&trust->pins);
	return *config->pins_file
		       ? read_ids(&trust->pins, "trust.pins_file", config->pins_file, error)
		       : 0;
}

int trust_init(struct trust *trust, const struct config *config, char *error)
{
	int result;

	memset(trust, 0, sizeof(*trust));
	pthread_mutex_init(&trust->lock, NULL);
	memcpy(trust->path, config->trust.revoked, sizeof(trust->path));
	result = read_pins(trust, &config->trust, error);
	if (!result && *config->trust.crl)
		result = read_crl(&trust->certificates, config->trust.crl, config->tls.ca, error);
	// the first revocation makes the file
	trust->absent = *trust->path && access(trust->path, F_OK) && errno == ENOENT;
	if (!result && *trust->path && !trust->absent)
		result = read_ids(&trust->revoked, "trust.revoked", trust->path, error);
	if (result)
		trust_fini(trust);
	return result;
}

void trust_fini(struct trust *trust)
{
	trust_set_free(&trust->pins);
	trust_set_free(&trust->certificates);
	trust_set_free(&trust->revoked);
	trust_set_free(&trust->undone);
	pthread_mutex_destroy(&trust->lock);
}

static void exchange(struct trust_set *a, struct trust_set *b)
{
	struct trust_set set = *a;

	*a = *b;
	*b = set;
}

void trust_replace(struct trust *trust, struct trust *next)
{
	bool unsaved = trust->unsaved, same = !strcmp(trust->path, next->path);
	bool kept = trust->saving && same;

	if (!same)
		trust_set_free(&trust->undone);
	for (size_t i = 0; i < trust->undone.count; i++)
		set_remove(&next->revoked, &trust->undone.ids[i]);
	for (size_t i = 0; unsaved && i < trust->revoked.count; i++)
		unsaved = !set_append(&next->revoked, &trust->revoked.ids[i]);
	set_order(&next->revoked);
	pthread_mutex_lock(&trust->lock);
	trust->pinned = next->pinned;
	exchange(&trust->pins, &next->pins);
	exchange(&trust->certificates, &next->certificates);
	if (!kept) // else the file is about to say what is in memory
		exchange(&trust->revoked, &next->revoked);
	pthread_mutex_unlock(&trust->lock);
	memcpy(trust->path, next->path, sizeof(trust->path));
	trust_fini(next);
}

bool trust_is_revoked(struct trust *trust, const struct wire_id *id)
{
	bool is;

	pthread_mutex_lock(&trust->lock);
	is = set_has(&trust->revoked, id);
	pthread_mutex_unlock(&trust->lock);
	return is;
}

const char *trust_refuses(struct trust *trust, const struct wire_id *id,
			  const struct wire_id *certificate)
{
	const char *why = NULL;

	pthread_mutex_lock(&trust->lock);
	if (set_has(&trust->revoked, id))
		why = "the identity is revoked";
	else if (set_has(&trust->certificates, certificate))
		why = "the certificate is revoked";
	else if (trust->pinned && !set_has(&trust->pins, id))
		why = "the identity is not among the pins";
	pthread_mutex_unlock(&trust->lock);
	return why;
}

int trust_revoke(struct trust *trust, const struct wire_id *id, bool undo)
{
	int result = 0;

	pthread_mutex_lock(&trust->lock);
	if (undo) {
		result = set_append(&trust->undone, id);
		if (!result)
			set_remove(&trust->revoked, id);
	} else {
		result = set_append(&trust->revoked, id);
		set_order(&trust->revoked);
		set_remove(&trust->undone, id);
	}
	pthread_mutex_unlock(&trust->lock);
	trust->unsaved |= result == 0;
	return result;
}
