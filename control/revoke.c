#include "revoke.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "file.h"
#include "log.h"

/* Who waits for the disk. */
struct asker {
	struct cds_list_head node;
	json_t *answer;
	revoke_answer_fn *done;
	void *arg;
};

static json_t *list(const struct trust_set *set)
{
	json_t *ids = json_array();
	char text[WIRE_ID_TEXT + 1];

	for (size_t i = 0; i < set->count; i++) {
		wire_id_format(text, &set->ids[i]);
		json_array_append_new(ids, json_string(text));
	}
	return ids;
}

/* The ids that `peer` means: itself, or those who go by this name. Returns how many. */
static size_t find(const struct members *members, const char *peer, struct wire_id **ids)
{
	const struct roster_index *names = &members->roster.by_name;
	size_t begin = roster_seek_name(&members->roster, peer), count = 0;
	struct wire_id id;
	bool is_id = !wire_id_parse(&id, peer);

	while (begin + count < names->count &&
	       strcmp(names->members[begin + count]->name, peer) == 0)
		count++;
	*ids = calloc(count + 1, sizeof(**ids));
	if (!*ids)
		return 0;
	for (size_t i = 0; i < count; i++)
		(*ids)[i] = names->members[begin + i]->id;
	if (is_id)
		(*ids)[count++] = id;
	return count;
}

static json_t *failure(const char *error)
{
	return json_pack("{sb ss}", "ok", 0, "error", error);
}

static bool throw_out(struct members *members, const struct wire_id *id, uint64_t now_ms)
{
	struct member *member = roster_find(&members->roster, id);

	return member && member_revoke(members, member, now_ms);
}

/* Writing */

static int write_ids(void *arg, FILE *file)
{
	const struct trust_set *set = arg;
	char id[WIRE_ID_TEXT + 1];

	fputs("# revoked peers, kept by viaductd: an id a line\n", file);
	for (size_t i = 0; i < set->count; i++) {
		wire_id_format(id, &set->ids[i]);
		fprintf(file, "%s\n", id);
	}
	return 0;
}

/* In a thread of libuv's. */
static void on_work(uv_work_t *work)
{
	struct revoke *revoke = work->data;

	revoke->result = file_replace(revoke->path, write_ids, &revoke->copy);
}

static void on_done(uv_work_t *work, int status);

/* Answers all of a list. */
static void answer_all(struct cds_list_head *list, const char *path, int result)
{
	struct asker *asker, *next;

	cds_list_for_each_entry_safe (asker, next, list, node) {
		if (result)
			json_object_set_new(asker->answer, "error",
					    json_sprintf("it holds until the relay ends: %s: %s",
							 path, strerror(-result)));
		json_object_set_new(asker->answer, "ok", json_boolean(!result));
		json_object_set_new(asker->answer, "kept", json_boolean(!result));
		cds_list_del(&asker->node);
		asker->done(asker->arg, asker->answer);
		free(asker);
	}
}

static void write_begin(struct revoke *revoke);

static void write_end(struct revoke *revoke, int result)
{
	struct trust *trust = revoke->trust;

	trust_set_free(&revoke->copy);
	// what was said meanwhile isn't in it, nor is it the file that a reload has named meanwhile
	trust->unsaved =
		result || !cds_list_empty(&revoke->asked) || strcmp(revoke->path, trust->path) != 0;
	if (!trust->unsaved)
		trust_set_free(&trust->undone);
	if (result)
		log_error("revocations not kept", "file=%s reason=%s", revoke->path,
			  strerror(-result));
	answer_all(&revoke->waiting, revoke->path, result);
	// not before: who is answered may ask at once
	trust->saving = false;
	write_begin(revoke);
}

/* Begins to write for all who have asked, unless that is under way. */
static void write_begin(struct revoke *revoke)
{
	struct trust *trust = revoke->trust;
	int result;

	if (trust->saving || cds_list_empty(&revoke->asked))
		return;
	cds_list_splice(&revoke->asked, &revoke->waiting);
	CDS_INIT_LIST_HEAD(&revoke->asked);
	memcpy(revoke->path, trust->path, sizeof(revoke->path));
	revoke->work.data = revoke;
	trust->saving = true;
	result = trust_set_copy(&revoke->copy, &trust->revoked);
	if (!result)
		result = uv_queue_work(revoke->loop, &revoke->work, on_work, on_done);
	if (result)
		write_end(revoke, result);
}

static void on_done(uv_work_t *work, int status)
{
	struct revoke *revoke = work->data;

	write_end(revoke, status ? status : revoke->result);
}

void revoke_start(struct revoke *revoke, struct trust *trust, struct members *members,
		  uv_loop_t *loop)
{
	memset(revoke, 0, sizeof(*revoke));
	revoke->trust = trust;
	revoke->members = members;
	revoke->loop = loop;
	CDS_INIT_LIST_HEAD(&revoke->asked);
	CDS_INIT_LIST_HEAD(&revoke->waiting);
}

void revoke_stop(struct revoke *revoke)
{
	while (revoke->trust->saving)
		uv_run(revoke->loop, UV_RUN_ONCE);
}

/* Asking */

/* Has the answer wait until the file is written. Takes it. */
static void ask_to_write(struct revoke *revoke, json_t *answer, revoke_answer_fn *done, void *arg)
{
	struct asker *asker = calloc(1, sizeof(*asker));

	if (!asker) {
		json_decref(answer);
		done(arg, NULL);
		return;
	}
	asker->answer = answer;
	asker->done = done;
	asker->arg = arg;
	cds_list_add_tail(&asker->node, &revoke->asked);
	write_begin(revoke);
}

static void nobody_hears(void *arg, json_t *answer)
{
	json_decref(answer);
}

static void forget(struct cds_list_head *list, const void *arg)
{
	struct asker *asker;

	cds_list_for_each_entry (asker, list, node) {
		if (asker->arg == arg)
			asker->done = nobody_hears;
	}
}

void revoke_forget(struct revoke *revoke, const void *arg)
{
	forget(&revoke->asked, arg);
	forget(&revoke->waiting, arg);
}

void revoke_ask(struct revoke *revoke, const json_t *question, uint64_t now_ms,
		revoke_answer_fn *done, void *arg)
{
	const char *peer = json_string_value(json_object_get(question, "peer"));
	bool undo = json_is_true(json_object_get(question, "undo"));
	struct trust *trust = revoke->trust;
	struct trust_set changed = {0};
	char text[WIRE_ID_TEXT + 1];
	bool write = false;
	unsigned int cut = 0;
	json_t *answer;
	int result = 0;

	if (!json_object_get(question, "peer")) {
		done(arg, json_pack("{sb so}", "ok", 1, "revoked", list(&trust->revoked)));
		return;
	}
	if (!peer) {
		done(arg, failure("peer must be an id or a name"));
		return;
	}
	changed.count = find(revoke->members, peer, &changed.ids);
	if (!changed.count) {
		trust_set_free(&changed);
		done(arg, failure("nobody here has this name; give the peer's id"));
		return;
	}
	for (size_t i = 0; i < changed.count && !result; i++) {
		const struct wire_id *id = &changed.ids[i];
		bool is = trust_is_revoked(trust, id);

		if (is == undo)
			result = trust_revoke(trust, id, undo);
		write |= is == undo || trust->unsaved;
		if (!undo && !result)
			cut += throw_out(revoke->members, id, now_ms);
		wire_id_format(text, id);
		log_info(undo ? "revocation undone" : "revocation", "id=%s", text);
	}
	answer = json_pack("{sb so si sb}", "ok", 1, undo ? "undone" : "revoked", list(&changed),
			   "cut", (int)cut, "kept", !trust->unsaved);
	trust_set_free(&changed);
	if (result) {
		json_decref(answer);
		done(arg, failure("out of memory"));
	} else if (answer && write && *trust->path) {
		ask_to_write(revoke, answer, done, arg);
	} else {
		done(arg, answer);
	}
}

unsigned int revoke_enforce(struct trust *trust, struct members *members, uint64_t now_ms)
{
	const struct roster_index *all = &members->roster.by_id;
	unsigned int cut = 0;

	// nobody is taken out of the index by this
	for (size_t i = 0; i < all->count; i++) {
		struct member *member = all->members[i];

		if (trust_refuses(trust, &member->id, &member->certificate))
			cut += member_revoke(members, member, now_ms);
	}
	return cut;
}
