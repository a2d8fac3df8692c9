#include "reputation.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "log.h"

static const double forgotten = 0.01; // points that are as good as none
enum { SWEEP_MAX_S = 10 };

void reputation_configure(struct reputation *reputation, const struct config_trust *config)
{
	reputation->half_life_s = (unsigned int)config->score_half_life;
	reputation->cut_s = (unsigned int)config->cut_seconds;
	reputation->cut_max_s = (unsigned int)config->cut_seconds_max;
}

void reputation_init(struct reputation *reputation, const struct config_trust *config,
		     struct members *members, uint64_t now_ms)
{
	*reputation = (struct reputation){.members = members, .swept_ms = now_ms};
	reputation_configure(reputation, config);
}

static void record_free(struct record *record)
{
	if (!record)
		return;
	free(record->name);
	free(record);
}

void reputation_fini(struct reputation *reputation)
{
	for (size_t i = 0; i < reputation->count; i++)
		record_free(reputation->records[i]);
	free(reputation->records);
	reputation->records = NULL;
	reputation->count = reputation->room = 0;
}

/* Records */

/* Where the identity's record is, or would be. */
static size_t place(const struct reputation *reputation, const struct wire_id *id, bool *found)
{
	size_t low = 0, high = reputation->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (memcmp(&reputation->records[middle]->id, id, sizeof(*id)) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	*found = low < reputation->count && wire_id_equal(&reputation->records[low]->id, id);
	return low;
}

static struct record *find(const struct reputation *reputation, const struct wire_id *id)
{
	bool found;
	size_t at = place(reputation, id, &found);

	return found ? reputation->records[at] : NULL;
}

static void take_out(struct reputation *reputation, size_t at)
{
	record_free(reputation->records[at]);
	reputation->count--;
	memmove(&reputation->records[at], &reputation->records[at + 1],
		(reputation->count - at) * sizeof(reputation->records[0]));
}

/* Whether nobody would miss it. Strikes are kept as long as they make a difference. */
static bool is_trifle(const struct record *record)
{
	return !record->pinned && !record->strikes && !record->complaint_count &&
	       score_points(&record->score) < forgotten;
}

/* Forgets the one that there is least to say about. Returns whether there is room now. */
static bool make_room(struct reputation *reputation)
{
	double least = HUGE_VAL;
	size_t at = 0;

	for (size_t i = 0; i < reputation->count; i++) {
		const struct record *record = reputation->records[i];
		double points = score_points(&record->score);

		if (!record->pinned && !record->until_ms && points < least) {
			least = points;
			at = i;
		}
	}
	if (least == HUGE_VAL)
		return false;
	take_out(reputation, at);
	reputation->counters.forgotten++;
	return true;
}

/* The identity's record, made if there is none. NULL: no memory, or no room for more. */
static struct record *record_of(struct reputation *reputation, const struct wire_id *id,
				uint64_t now_ms)
{
	struct record *record = find(reputation, id);
	bool found;
	size_t at;

	if (record)
		return record;
	if (reputation->count == REPUTATION_MAX && !make_room(reputation))
		return NULL;
	if (reputation->count == reputation->room) {
		size_t room = reputation->room ? 2 * reputation->room : 64;
		struct record **records =
			reallocarray(reputation->records, room, sizeof(records[0]));

		if (!records)
			return NULL;
		reputation->records = records;
		reputation->room = room;
	}
	record = calloc(1, sizeof(*record));
	if (!record)
		return NULL;
	record->id = *id;
	record->score.at_ms = now_ms;
	at = place(reputation, id, &found);
	memmove(&reputation->records[at + 1], &reputation->records[at],
		(reputation->count - at) * sizeof(reputation->records[0]));
	reputation->records[at] = record;
	reputation->count++;
	return record;
}

static struct record *record_of_member(struct reputation *reputation, const struct member *member,
				       uint64_t now_ms)
{
	struct record *record = record_of(reputation, &member->id, now_ms);

	if (record && (!record->name || strcmp(record->name, member->name) != 0)) {
		free(record->name);
		record->name = strdup(member->name); // without it goes as well
	}
	return record;
}

/* What is seen */

static void note(struct reputation *reputation, struct record *record, enum score_cause cause,
		 double times, double seconds, uint64_t now_ms)
{
	score_decay(&record->score, reputation->half_life_s, now_ms);
	score_note(&record->score, cause, times, seconds);
	reputation->changed = true;
}

/* Takes what a session has been marked for since the last time. */
static void sample(struct reputation *reputation, struct member_session *session, uint64_t now_ms)
{
	uint32_t times[SCORE_CAUSE_COUNT] = {0};
	struct record *record = NULL;
	double seconds = (double)(now_ms - reputation->swept_ms) / 1000;
	bool marked = member_marks(session, times);

	if (!marked && !session->malformed && !session->excess)
		return;
	if (seconds > SWEEP_MAX_S)
		seconds = SWEEP_MAX_S;
	times[SCORE_CONTROL] = session->malformed;
	times[SCORE_LIMIT] += session->excess;
	session->malformed = session->excess = 0;
	for (int cause = 0; cause <= SCORE_CONTROL; cause++) {
		if (times[cause] && !record)
			record = record_of_member(reputation, session->member, now_ms);
		if (times[cause] && record)
			note(reputation, record, (enum score_cause)cause, times[cause], seconds,
			     now_ms);
	}
}

/* Forgets which complaints of its own were taken a half-life ago. */
static void forget_complaints(const struct reputation *reputation, struct record *record,
			      uint64_t now_ms)
{
	uint64_t life_ms = reputation->half_life_s * UINT64_C(1000);
	unsigned int old = 0;

	while (old < record->complaint_count && now_ms - record->complaints[old].at_ms >= life_ms)
		old++;
	record->complaint_count -= old;
	memmove(&record->complaints[0], &record->complaints[old],
		record->complaint_count * sizeof(record->complaints[0]));
}

static bool has_complained(const struct record *record, const struct wire_id *about)
{
	unsigned int i = 0;

	while (i < record->complaint_count && !wire_id_equal(&record->complaints[i].target, about))
		i++;
	return i < record->complaint_count;
}

int reputation_complain(struct reputation *reputation, struct member_session *by,
			const struct wire_id *about, const char *reason, uint64_t now_ms,
			unsigned int *retry_s)
{
	const struct member *target = roster_find(&reputation->members->roster, about);
	uint64_t life_ms = reputation->half_life_s * UINT64_C(1000);
	struct record *accuser, *accused;

	reputation->counters.complaints_refused++;
	if (wire_id_equal(about, &by->member->id))
		return -EINVAL;
	if (!target || !target->current)
		return -ENOENT;
	accuser = record_of_member(reputation, by->member, now_ms);
	accused = record_of_member(reputation, target, now_ms);
	*retry_s = 1;
	// making one may have made the other one go
	if (!accuser || !accused || accuser != find(reputation, &by->member->id))
		return -EBUSY;
	forget_complaints(reputation, accuser, now_ms);
	if (accuser->complaint_count == REPUTATION_TARGETS && !has_complained(accuser, about)) {
		*retry_s =
			(unsigned int)((life_ms - (now_ms - accuser->complaints[0].at_ms)) / 1000) +
			1;
		by->malformed++;
		return -EBUSY;
	}
	reputation->counters.complaints_refused--;
	reputation->counters.complaints++;
	// once in a half-life is enough; a request may be repeated
	if (!has_complained(accuser, about)) {
		accuser->complaints[accuser->complaint_count++] =
			(struct complaint){.target = *about, .at_ms = now_ms};
		score_decay(&accuser->score, reputation->half_life_s, now_ms);
		// who complains about many says less about each
		note(reputation, accused, SCORE_COMPLAINT,
		     score_value(&accuser->score) / accuser->complaint_count, 1, now_ms);
		accused->accuser = by->member->id;
		snprintf(accused->reason, sizeof(accused->reason), "%s", reason);
		log_info("complaint", "about=%s by=%s reason=%s", target->text, by->member->text,
			 accused->reason);
	}
	return 0;
}

/* What follows */

static void tell(struct reputation *reputation, const char *event, const struct record *record,
		 const struct member *member)
{
	struct member_news news = {
		.event = event,
		.session = member ? member->current : NULL,
		.id = &record->id,
		.name = record->name,
		.level = record->level,
	};
	char id[WIRE_ID_TEXT + 1], score[16];

	wire_id_format(id, &record->id);
	snprintf(score, sizeof(score), "%.2f", score_value(&record->score));
	log_info(event, "id=%s name=%s level=%u score=%s", id, record->name ? record->name : "",
		 (unsigned int)record->level, score);
	if (reputation->tell)
		reputation->tell(reputation->arg, &news);
}

/* For how long the next one: twice as long each time. */
static unsigned int cut_seconds(const struct reputation *reputation, unsigned int strikes)
{
	uint64_t seconds = reputation->cut_s;

	while (--strikes && seconds < reputation->cut_max_s)
		seconds *= 2;
	return seconds < reputation->cut_max_s ? (unsigned int)seconds : reputation->cut_max_s;
}

static void cut(struct reputation *reputation, struct record *record, struct member *member,
		uint64_t now_ms)
{
	unsigned int seconds;

	if (record->strikes < REPUTATION_STRIKES)
		record->strikes++;
	seconds = cut_seconds(reputation, record->strikes);
	record->struck_ms = now_ms;
	score_on_probation(&record->score);
	record->until_ms = now_ms + seconds * UINT64_C(1000);
	reputation->counters.cut++;
	reputation->changed = true;
	log_warning("cut", "id=%s name=%s seconds=%u times=%u", member->text, member->name, seconds,
		    record->strikes);
	member_cut(reputation->members, member, seconds, now_ms);
}

/* One strike is forgiven for each time of the longest absence without another. */
static void forgive(struct reputation *reputation, struct record *record, uint64_t now_ms)
{
	uint64_t pause_ms = reputation->cut_max_s * UINT64_C(1000);

	while (record->strikes && now_ms - record->struck_ms >= pause_ms) {
		record->strikes--;
		record->struck_ms += pause_ms;
		reputation->changed = true;
	}
}

static void judge(struct reputation *reputation, struct record *record, uint64_t now_ms)
{
	struct member *member = roster_find(&reputation->members->roster, &record->id);
	uint8_t before = record->level;

	score_decay(&record->score, reputation->half_life_s, now_ms);
	forget_complaints(reputation, record, now_ms);
	forgive(reputation, record, now_ms);
	if (record->until_ms && now_ms >= record->until_ms)
		record->until_ms = 0;
	record->level = record->pinned ? 0 : (uint8_t)score_level(&record->score, before);
	if (!member)
		return;
	if (record->level == SCORE_CUT && !record->until_ms && (member->current || member->next)) {
		cut(reputation, record, member, now_ms);
		return;
	}
	member_set_level(reputation->members, member,
			 record->level < SCORE_CUT ? record->level : SCORE_CUT - 1);
	if (record->level != before && member->current) {
		reputation->counters.throttled += record->level > before;
		reputation->counters.recovered += record->level < before;
		tell(reputation, record->level > before ? "throttled" : "recovered", record,
		     member);
	}
}

void reputation_sweep(struct reputation *reputation, uint64_t now_ms)
{
	const struct roster_index *all = &reputation->members->roster.by_id;
	size_t i = 0;

	for (size_t at = 0; at < all->count; at++) {
		if (all->members[at]->current)
			sample(reputation, all->members[at]->current, now_ms);
	}
	reputation->swept_ms = now_ms;
	while (i < reputation->count) {
		judge(reputation, reputation->records[i], now_ms);
		if (is_trifle(reputation->records[i]))
			take_out(reputation, i);
		else
			i++;
	}
}

void reputation_news(struct reputation *reputation, const struct member_news *news, uint64_t now_ms)
{
	struct member_session *session = news->session;
	const struct record *record;

	if (strcmp(news->event, "joined") == 0) {
		record = find(reputation, &session->member->id);
		if (record)
			member_set_level(reputation->members, session->member,
					 record->level < SCORE_CUT ? record->level : SCORE_CUT - 1);
	} else if (session) {
		// it may be the last chance
		sample(reputation, session, now_ms);
	}
}

unsigned int reputation_refuses(struct reputation *reputation, const struct wire_id *id,
				uint64_t now_ms)
{
	const struct record *record = find(reputation, id);

	if (!record || now_ms >= record->until_ms)
		return 0;
	reputation->counters.refused++;
	return (unsigned int)((record->until_ms - now_ms + 999) / 1000);
}

/* What an operator asks and says */

static json_t *failure(const char *error)
{
	return json_pack("{sb ss}", "ok", 0, "error", error);
}

static json_int_t seconds_until(uint64_t at_ms, uint64_t now_ms)
{
	return at_ms > now_ms ? (json_int_t)((at_ms - now_ms + 999) / 1000) : 0;
}

static json_t *summary(const struct record *record, uint64_t now_ms)
{
	char id[WIRE_ID_TEXT + 1];

	wire_id_format(id, &record->id);
	return json_pack("{ss ss sf si sb si sI}", "id", id, "name",
			 record->name ? record->name : "", "score", score_value(&record->score),
			 "level", (int)record->level, "pinned", record->pinned, "cuts",
			 (int)record->strikes, "cut_s", seconds_until(record->until_ms, now_ms));
}

static json_t *details(const struct record *record, uint64_t now_ms)
{
	json_t *answer = summary(record, now_ms), *causes = json_array();
	double all = score_points(&record->score);
	char accuser[WIRE_ID_TEXT + 1];

	for (int i = 0; i < SCORE_CAUSE_COUNT; i++) {
		const struct score *score = &record->score;

		if (!score->counts[i])
			continue;
		json_array_append_new(causes,
				      json_pack("{ss sf sf sI sI}", "cause",
						score_cause_name((enum score_cause)i), "points",
						score->points[i], "share",
						all > 0 ? score->points[i] / all : 0, "times",
						(json_int_t)score->counts[i], "ago_s",
						(json_int_t)((now_ms - score->last_ms[i]) / 1000)));
	}
	json_object_set_new(answer, "causes", causes);
	if (*record->reason) {
		wire_id_format(accuser, &record->accuser);
		json_object_set_new(answer, "complaint",
				    json_pack("{ss ss}", "by", accuser, "reason", record->reason));
	}
	json_object_set_new(answer, "ok", json_true());
	return answer;
}

static json_t *overview(const struct reputation *reputation, uint64_t now_ms)
{
	const struct reputation_counters *counters = &reputation->counters;
	json_t *peers = json_array();

	for (size_t i = 0; i < reputation->count; i++)
		json_array_append_new(peers, summary(reputation->records[i], now_ms));
	return json_pack("{sb so s{sI sI sI sI sI sI sI sI}}", "ok", 1, "peers", peers, "counters",
			 "throttled", (json_int_t)counters->throttled, "recovered",
			 (json_int_t)counters->recovered, "cut", (json_int_t)counters->cut,
			 "refused", (json_int_t)counters->refused, "pardoned",
			 (json_int_t)counters->pardoned, "complaints",
			 (json_int_t)counters->complaints, "complaints_refused",
			 (json_int_t)counters->complaints_refused, "forgotten",
			 (json_int_t)counters->forgotten);
}

/* Whom an operator means: by id, or by a name that is known here. */
static bool identify(const struct reputation *reputation, const char *peer, struct wire_id *id)
{
	const struct roster *roster = &reputation->members->roster;
	size_t at = roster_seek_name(roster, peer);

	if (wire_id_parse(id, peer) == 0)
		return true;
	if (at < roster->by_name.count && strcmp(roster->by_name.members[at]->name, peer) == 0) {
		*id = roster->by_name.members[at]->id;
		return true;
	}
	for (size_t i = 0; i < reputation->count; i++) {
		const struct record *record = reputation->records[i];

		if (record->name && strcmp(record->name, peer) == 0) {
			*id = record->id;
			return true;
		}
	}
	return false;
}

static void pardon(struct reputation *reputation, struct record *record)
{
	const struct member *member = roster_find(&reputation->members->roster, &record->id);

	memset(record->score.points, 0, sizeof(record->score.points));
	record->strikes = 0;
	record->until_ms = 0;
	reputation->counters.pardoned++;
	tell(reputation, "pardoned", record, member);
}

json_t *reputation_answer(struct reputation *reputation, const json_t *question, uint64_t now_ms)
{
	const char *peer = json_string_value(json_object_get(question, "peer"));
	const json_t *what = json_object_get(question, "do");
	const char *action = json_string_value(what);
	const struct member *member;
	struct record nothing = {0}, *record;
	struct wire_id id;

	if (!json_object_get(question, "peer") && !what)
		return overview(reputation, now_ms);
	if (!peer)
		return failure("peer must be an id or a name");
	if (!identify(reputation, peer, &id))
		return failure("nobody here has this name; give the peer's id");
	if (what && (!action || (strcmp(action, "pin") != 0 && strcmp(action, "unpin") != 0 &&
				 strcmp(action, "pardon") != 0)))
		return failure("do must be pin, unpin or pardon");
	record = find(reputation, &id);
	member = roster_find(&reputation->members->roster, &id);
	if (!record && action && strcmp(action, "pin") == 0) {
		record = member ? record_of_member(reputation, member, now_ms)
				: record_of(reputation, &id, now_ms);
		if (!record)
			return failure("out of memory, or too many peers are pinned");
	}
	if (!record) {
		// as good as new
		nothing.id = id;
		nothing.name = member ? member->name : NULL;
		return details(&nothing, now_ms);
	}
	if (action) {
		if (strcmp(action, "pardon") == 0)
			pardon(reputation, record);
		else
			record->pinned = strcmp(action, "pin") == 0;
		if (record->pinned)
			record->until_ms = 0;
		reputation->changed = true;
	}
	judge(reputation, record, now_ms);
	return details(record, now_ms);
}

/* Keeping */

enum { FORMAT = 1, AGES_S = 1000000000 };

int reputation_copy(struct reputation *copy, const struct reputation *reputation)
{
	size_t count = reputation->count;

	*copy = (struct reputation){0};
	copy->records = calloc(count + 1, sizeof(copy->records[0]));
	if (!copy->records)
		return -ENOMEM;
	for (copy->room = count + 1; copy->count < count; copy->count++) {
		struct record *record = malloc(sizeof(*record));

		if (!record) {
			reputation_fini(copy);
			return -ENOMEM;
		}
		*record = *reputation->records[copy->count];
		if (record->name)
			record->name = strdup(record->name);
		copy->records[copy->count] = record;
	}
	return 0;
}

static json_t *record_json(const struct record *record, uint64_t now_ms)
{
	json_t *causes = json_object(), *line;
	char id[WIRE_ID_TEXT + 1];

	wire_id_format(id, &record->id);
	for (int i = 0; i < SCORE_CAUSE_COUNT; i++) {
		const struct score *score = &record->score;

		if (score->counts[i])
			json_object_set_new(
				causes, score_cause_name((enum score_cause)i),
				json_pack("[f I I]", score->points[i], (json_int_t)score->counts[i],
					  (json_int_t)((now_ms - score->last_ms[i]) / 1000)));
	}
	line = json_pack("{ss ss si sb si sI sI sI so}", "id", id, "name",
			 record->name ? record->name : "", "level", (int)record->level, "pinned",
			 record->pinned, "cuts", (int)record->strikes, "cut_ago_s",
			 record->strikes ? (json_int_t)((now_ms - record->struck_ms) / 1000) : 0,
			 "cut_s", seconds_until(record->until_ms, now_ms), "age_s",
			 (json_int_t)((now_ms - record->score.at_ms) / 1000), "causes", causes);
	if (*record->reason) {
		wire_id_format(id, &record->accuser);
		json_object_set_new(line, "complaint", json_pack("[s s]", id, record->reason));
	}
	return line;
}

static bool write_line(FILE *file, json_t *line)
{
	bool good = line && !json_dumpf(line, file, JSON_COMPACT) && fputc('\n', file) != EOF;

	json_decref(line);
	return good;
}

int reputation_write(const struct reputation *reputation, FILE *file, uint64_t now_ms,
		     int64_t wall_s)
{
	bool good = write_line(file, json_pack("{si sI}", "viaduct_scores", FORMAT, "written",
					       (json_int_t)wall_s));

	for (size_t i = 0; i < reputation->count && good; i++)
		good = write_line(file, record_json(reputation->records[i], now_ms));
	return good ? 0 : -EIO;
}

/* When it was, as far as this clock goes back. */
static uint64_t ago(uint64_t now_ms, double seconds)
{
	double ms = seconds * 1000;

	return ms < (double)now_ms ? now_ms - (uint64_t)ms : 0;
}

static bool read_causes(struct score *score, const json_t *causes, double since_s, uint64_t now_ms)
{
	for (int i = 0; i < SCORE_CAUSE_COUNT; i++) {
		json_t *entry = json_object_get(causes, score_cause_name((enum score_cause)i));
		json_int_t times, seconds;
		double points;

		if (!entry)
			continue;
		if (json_unpack(entry, "[F I I!]", &points, &times, &seconds) || !(points >= 0) ||
		    times < 0 || seconds < 0)
			return false;
		score->points[i] = fmin(points, score_cap((enum score_cause)i));
		score->counts[i] = (uint64_t)times;
		score->last_ms[i] = ago(now_ms, (double)seconds + since_s);
	}
	return true;
}

/* A line's record, NULL: it makes no sense. `since_s` have passed since it was written. */
static struct record *read_record(const struct reputation *reputation, json_t *line, double since_s,
				  uint64_t now_ms)
{
	struct record *record = calloc(1, sizeof(*record));
	json_int_t cuts, cut_ago_s, cut_s, age_s;
	const char *id, *name, *accuser = NULL, *reason = NULL;
	double pause_s = reputation->cut_max_s, struck_s, level;
	json_t *causes;
	int pinned;

	if (!record)
		return NULL;
	if (json_unpack(line, "{ss ss sF sb sI sI sI sI so s?[ss]}", "id", &id, "name", &name,
			"level", &level, "pinned", &pinned, "cuts", &cuts, "cut_ago_s", &cut_ago_s,
			"cut_s", &cut_s, "age_s", &age_s, "causes", &causes, "complaint", &accuser,
			&reason) ||
	    wire_id_parse(&record->id, id) || !(level >= 0 && level <= SCORE_CUT) || cuts < 0 ||
	    cut_ago_s < 0 || age_s < 0 || !read_causes(&record->score, causes, since_s, now_ms) ||
	    (accuser && wire_id_parse(&record->accuser, accuser))) {
		free(record);
		return NULL;
	}
	record->name = strdup(name);
	record->level = (uint8_t)level;
	record->pinned = pinned;
	snprintf(record->reason, sizeof(record->reason), "%s", reason ? reason : "");
	score_decay(&record->score, reputation->half_life_s,
		    (uint64_t)(fmin((double)age_s + since_s, AGES_S) * 1000));
	record->score.at_ms = now_ms;

	struck_s = (double)cut_ago_s + since_s;
	record->strikes = (unsigned int)fmax(0, fmin((double)cuts, REPUTATION_STRIKES) -
							floor(struck_s / pause_s));
	record->struck_ms = ago(now_ms, fmod(struck_s, pause_s));
	if ((double)cut_s > since_s)
		record->until_ms =
			now_ms + (uint64_t)(fmin((double)cut_s - since_s, pause_s) * 1000);
	return record;
}

int reputation_read(struct reputation *reputation, FILE *file, uint64_t now_ms, int64_t wall_s,
		    unsigned int *bad)
{
	struct record *record, *read;
	json_int_t version, written;
	int result = -EINVAL;
	char *text = NULL;
	size_t size = 0;
	double since_s;
	json_t *line;

	*bad = 0;
	if (getline(&text, &size, file) <= 0)
		goto out;
	line = json_loads(text, 0, NULL);
	if (json_unpack(line, "{sI sI}", "viaduct_scores", &version, "written", &written) ||
	    version != FORMAT) {
		json_decref(line);
		goto out;
	}
	json_decref(line);
	// a clock that was set back makes nothing younger
	since_s = fmax(0, (double)wall_s - (double)written);
	result = 0;
	while (result == 0 && getline(&text, &size, file) > 0) {
		line = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
		read = line ? read_record(reputation, line, since_s, now_ms) : NULL;
		json_decref(line);
		if (!read || find(reputation, &read->id)) {
			*bad += 1;
			record_free(read);
			continue;
		}
		record = record_of(reputation, &read->id, now_ms);
		if (record)
			*record = *read;
		else
			result = -ENOMEM;
		free(read);
	}
out:
	free(text);
	return result;
}
