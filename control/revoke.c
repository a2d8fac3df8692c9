#include "revoke.h"

#include <stdio.h>
#include <stdlib.h>

#include "log.h"

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

json_t *revoke_answer(struct trust *trust, struct members *members, const json_t *question,
		      uint64_t now_ms)
{
	const char *peer = json_string_value(json_object_get(question, "peer"));
	bool undo = json_is_true(json_object_get(question, "undo"));
	char error[CONFIG_ERROR_MAX] = "", text[WIRE_ID_TEXT + 1];
	struct trust_set changed = {0};
	unsigned int cut = 0;
	json_t *answer;

	if (!json_object_get(question, "peer"))
		return json_pack("{sb so}", "ok", 1, "revoked", list(&trust->revoked));
	if (!peer)
		return failure("peer must be an id or a name");
	changed.count = find(members, peer, &changed.ids);
	if (!changed.count) {
		trust_set_free(&changed);
		return failure("nobody here has this name; give the peer's id");
	}
	for (size_t i = 0; i < changed.count; i++) {
		const struct wire_id *id = &changed.ids[i];
		bool was = trust_is_revoked(trust, id);

		if ((undo && was) || (!undo && (!was || trust->unsaved)))
			trust_revoke(trust, id, undo, error);
		if (!undo)
			cut += throw_out(members, id, now_ms);
		wire_id_format(text, id);
		log_info(undo ? "revocation undone" : "revocation", "id=%s kept=%s", text,
			 trust->unsaved ? "no" : "yes");
	}
	answer = json_pack("{sb so si sb}", "ok", !*error, undo ? "undone" : "revoked",
			   list(&changed), "cut", (int)cut, "kept", !trust->unsaved);
	if (*error)
		json_object_set_new(answer, "error", json_string(error));
	trust_set_free(&changed);
	return answer;
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
