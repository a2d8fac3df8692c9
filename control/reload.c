#include "reload.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "fairness.h"
#include "log.h"
#include "revoke.h"
#include "services.h"

/* What has been read and is good. */
struct candidate {
	struct config config;
	struct tls tls;
	struct trust trust;
	struct policy *policy;
	struct rates *rates;
};

struct differences {
	json_t *changes;
	char fixed[256]; // settings that need a restart, with commas between
};

static void on_difference(void *arg, const char *setting, const char *from, const char *to,
			  bool live)
{
	struct differences *differences = arg;
	size_t length = strlen(differences->fixed);

	json_array_append_new(differences->changes,
			      json_pack("{ss ss ss sb}", "setting", setting, "from", from, "to", to,
					"live", live));
	if (!live)
		snprintf(differences->fixed + length, sizeof(differences->fixed) - length, "%s%s",
			 length ? ", " : "", setting);
}

/* Another key is not seen in the settings, but makes it another relay for newcomers. */
static void compare_ids(const struct identity *from, const struct identity *to,
			struct differences *differences)
{
	char before[WIRE_ID_TEXT + 1], after[WIRE_ID_TEXT + 1];

	wire_id_format(before, &from->id);
	wire_id_format(after, &to->id);
	if (!wire_id_equal(&from->id, &to->id))
		on_difference(differences, "relay id", before, after, true);
}

/* Nor is a renewed certificate. */
static void compare_certificates(const struct tls *from, const struct tls *to,
				 struct differences *differences)
{
	const struct tls *both[] = {from, to};
	char until[2][64] = {"?", "?"};
	struct tm tm;

	if (wire_id_equal(&from->relay->certificate, &to->relay->certificate))
		return;
	for (int i = 0; i < 2; i++) {
		const X509 *certificate = SSL_CTX_get0_certificate(both[i]->context);

		if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &tm) == 1)
			strftime(until[i], sizeof(until[i]), "valid until %F %T UTC", &tm);
	}
	on_difference(differences, "relay certificate", until[0], until[1], true);
}

/* Nor is what a list says: that is told by its length. */
static void compare_sets(const char *setting, const struct trust_set *from,
			 const struct trust_set *to, struct differences *differences)
{
	char before[24], after[24];

	if (from->count == to->count &&
	    (!to->count || !memcmp(from->ids, to->ids, to->count * sizeof(to->ids[0]))))
		return;
	snprintf(before, sizeof(before), "%zu", from->count);
	snprintf(after, sizeof(after), "%zu", to->count);
	on_difference(differences, setting, before, after, true);
}

/* Whether those whom an operator has revoked would come back, for want of the file. */
static int check_revoked(const struct trust *from, const struct trust *to, char *error)
{
	if (!to->absent || !from->revoked.count || from->unsaved)
		return 0;
	snprintf(
		error, CONFIG_ERROR_MAX,
		"trust.revoked: %s: isn't there, but peers are revoked; put it there, or undo that",
		to->path);
	return -ENOENT;
}

static void forget(struct candidate *next)
{
	tls_fini(&next->tls);
	trust_fini(&next->trust);
	free(next->policy);
	free(next->rates);
}

/* Reads all files. Returns 0, or a negative errno with one sentence in `error`. */
static int prepare(const struct reload *reload, struct candidate *next,
		   struct differences *differences, char *error)
{
	int result = config_load(reload->file, &next->config, error);

	if (result)
		return result;
	config_compare(reload->config, &next->config, on_difference, differences);
	if (*differences->fixed) {
		snprintf(error, CONFIG_ERROR_MAX, "%s: can't be changed without a restart",
			 differences->fixed);
		return -ENOTSUP;
	}
	result = tls_init(&next->tls, &next->config, error);
	if (result)
		return result;
	compare_ids(reload->tls->relay, next->tls.relay, differences);
	compare_certificates(reload->tls, &next->tls, differences);
	if (strcmp(next->tls.relay->federation, reload->tls->relay->federation) != 0) {
		result = -ENOTSUP;
		snprintf(error, CONFIG_ERROR_MAX,
			 "tls.certificate: %s: is of another federation; that needs a restart",
			 next->config.tls.certificate);
	}
	if (!result)
		result = trust_init(&next->trust, &next->config, error);
	if (result) {
		tls_fini(&next->tls);
		return result;
	}
	compare_sets("pinned peers", &reload->trust->pins, &next->trust.pins, differences);
	compare_sets("revoked certificates", &reload->trust->certificates,
		     &next->trust.certificates, differences);
	result = check_revoked(reload->trust, &next->trust, error);
	if (result) {
		forget(next);
		return result;
	}
	// numbers that nobody uses do no harm, if there is another failure
	result = clusters_compile(reload->clusters, &next->config.policy, &next->policy);
	if (!result)
		result = fairness_compile(reload->clusters, &next->config.limits, &next->rates);
	if (!result)
		result = members_number(reload->members);
	if (result) {
		snprintf(error, CONFIG_ERROR_MAX, "policy and limits: %s",
			 result == -ENOSPC ? "too many clusters; at most 255, those of earlier "
					     "configurations included"
					   : "out of memory");
		forget(next);
	}
	return result;
}

/* Nothing in here can fail. */
static void apply(const struct reload *reload, struct candidate *next, uint64_t now_ms)
{
	struct config *config = reload->config;

	*config = next->config;
	log_level_set((enum log_level)config->log.level);
	tls_replace(reload->tls, &next->tls);
	trust_replace(reload->trust, &next->trust);
	reload->tickets->rotation = config->tls.ticket_rotation;
	listener_limit(reload->listener, &config->limits);
	reload->members->config.lanes_up = (unsigned int)config->session.lanes_up;
	reload->members->config.expiry_ms = (unsigned int)config->session.expiry * 1000;
	reload->members->config.takeovers_per_minute =
		(unsigned int)config->limits.takeovers_per_minute;
	members_set_relays(reload->members, &config->control);
	reload->members->watches.max = (unsigned int)config->limits.watchers;
	reputation_configure(reload->reputation, &config->trust);
	blocklist_configure(reload->blocklist, &config->trust, reload->members->sessions);
	clusters_publish(&reload->members->sessions->policy, next->policy);
	fairness_publish(&reload->members->sessions->rates, next->rates);
	if (topics_configure(reload->members, &config->topics))
		log_error("topics missing", "reason=%s",
			  "no room for all of topics.configured, see topics.max");
	services_configure(reload->members->services, &config->services);
	revoke_enforce(reload->trust, reload->members, now_ms);
}

json_t *reload_answer(const struct reload *reload, bool dry_run, uint64_t now_ms)
{
	struct differences differences = {.changes = json_array()};
	struct candidate *next = calloc(1, sizeof(*next));
	char error[CONFIG_ERROR_MAX] = "out of memory";
	json_t *answer;
	int result = -ENOMEM;

	if (next)
		result = prepare(reload, next, &differences, error);
	if (result) {
		answer = json_pack("{sb ss so}", "ok", 0, "error", error, "changes",
				   differences.changes);
	} else {
		if (dry_run) {
			forget(next);
		} else {
			apply(reload, next, now_ms);
		}
		answer = json_pack("{sb sb so}", "ok", 1, "applied", !dry_run, "changes",
				   differences.changes);
	}
	free(next);
	return answer;
}

void reload_now(const struct reload *reload, uint64_t now_ms)
{
	json_t *answer = reload_answer(reload, false, now_ms);
	const char *error = json_string_value(json_object_get(answer, "error"));

	if (error)
		log_error("nothing reloaded", "reason=%s", error);
	else
		log_info("reloaded", "file=%s changes=%zu", reload->file,
			 json_array_size(json_object_get(answer, "changes")));
	json_decref(answer);
}
