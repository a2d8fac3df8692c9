/*
 * Whom the relay trusts beyond what the CA says: pins (an allow list), certificates that a CRL
 * revokes, and identities that an operator has revoked, which are kept in a file. Checked at every
 * handshake, resumed or not, and again for those who are there when it changes. trust_refuses() may
 * be called from any thread, all else from the control thread.
 */
#ifndef VIADUCT_TRUST_H
#define VIADUCT_TRUST_H

#include <pthread.h>

#include "config.h"
#include "identity.h"

/* Ids in order. */
struct trust_set {
	struct wire_id *ids;
	size_t count;
	size_t room;
};

struct trust {
	pthread_mutex_t lock; // of the sets
	bool pinned;          // only `pins` may join
	struct trust_set pins;
	struct trust_set certificates; // of the CRL
	struct trust_set revoked;      // by the operator
	char path[CONFIG_PATH_MAX];    // where those are kept; "": nowhere
	bool absent;                   // the file wasn't there
	bool unsaved;                  // it doesn't say what `revoked` does,
	struct trust_set undone;       // and may still have these
	bool saving;                   // but will in a moment: revoke.h
};

/*
 * Reads the files that the configuration names. Returns 0, or a negative errno with one sentence in
 * `error` (CONFIG_ERROR_MAX bytes).
 */
int trust_init(struct trust *trust, const struct config *config, char *error);
void trust_fini(struct trust *trust);

/*
 * Takes over what `next` has read, which is empty then. What couldn't be saved isn't forgotten:
 * whom the operator has revoked stays out, and whom the file still has, but no longer should, may
 * come. What another file says holds, whatever was undone before.
 */
void trust_replace(struct trust *trust, struct trust *next);

/* Why this identity or this certificate of it is refused (static), NULL: it isn't. */
const char *trust_refuses(struct trust *trust, const struct wire_id *id,
			  const struct wire_id *certificate);

bool trust_is_revoked(struct trust *trust, const struct wire_id *id);

/*
 * Revokes an identity, or lets it come back. That holds at once; it is `unsaved` then. Returns 0 or
 * -ENOMEM.
 */
int trust_revoke(struct trust *trust, const struct wire_id *id, bool undo);

/*
 * Reads a list of peer ids, one a line; # begins a comment. Adds them to `set`. Pure. Returns 0,
 * -ENOMEM, or -EINVAL with the number of the `line` that is none.
 */
int trust_parse(struct trust_set *set, const char *text, size_t length, unsigned int *line);

/* Makes `copy` another of the same ids. Returns 0 or -ENOMEM. */
int trust_set_copy(struct trust_set *copy, const struct trust_set *set);
void trust_set_free(struct trust_set *set);

#endif
