#include "commands.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ledger.h"
#include "services.h"

enum { SOURCES_MAX = 64 }; // blocked ones that are listed

/* What the process holds: resident pages and huge pages. */
static json_int_t memory_mb(void)
{
	FILE *status = fopen("/proc/self/status", "re");
	unsigned long kib, total = 0;
	char line[256];

	if (!status)
		return 0;
	while (fgets(line, sizeof(line), status)) {
		if (sscanf(line, "VmRSS: %lu kB", &kib) == 1 ||
		    sscanf(line, "HugetlbPages: %lu kB", &kib) == 1)
			total += kib;
	}
	fclose(status);
	return (json_int_t)(total / 1024);
}

static json_t *status_workers(const struct commands_subject *subject)
{
	json_t *workers = json_array();

	for (int i = 0; i < subject->config->data.workers; i++) {
		struct dataplane_worker worker;

		dataplane_worker(subject->dataplane, (unsigned int)i, &worker);
		json_array_append_new(
			workers, json_pack("{si sI sI sI sb}", "core", worker.core, "queue",
					   (json_int_t)worker.queue, "records",
					   (json_int_t)worker.counters.records_received, "messages",
					   (json_int_t)worker.counters.messages_delivered,
					   "sleeping", worker.sleeping));
	}
	return workers;
}

static json_t *status_handshakes(const struct commands_subject *subject)
{
	const struct listener_counters counters = listener_counters(subject->listener);
	json_t *handshakes = json_pack(
		"{sI sI sI sI sI sI sI sI sI sI sI sI sI si si si}", //
		"ok", (json_int_t)counters.welcomed, "failed", (json_int_t)counters.failed,
		"refused", (json_int_t)counters.refused, "timed_out",
		(json_int_t)counters.timed_out, "resumed", (json_int_t)counters.resumed, "rekeyed",
		(json_int_t)subject->members->rekeyed, "offloaded", (json_int_t)counters.offloaded,
		"threaded", (json_int_t)counters.threaded, "of_members",
		(json_int_t)counters.of_members, "busy", (json_int_t)counters.busy, "closed",
		(json_int_t)counters.closed, "evicted", (json_int_t)counters.evicted,
		"no_descriptors", (json_int_t)counters.no_descriptors, "open", (int)counters.open,
		"waiting", (int)counters.waiting, "silent", (int)counters.silent);

	for (int limit = ADMISSION_FREE + 1; limit < ADMISSION_LIMIT_COUNT; limit++)
		json_object_set_new(handshakes, admission_limit_name((enum admission_limit)limit),
				    json_integer((json_int_t)counters.over[limit]));
	return handshakes;
}

static json_t *status(const struct commands_subject *subject, uint64_t uptime_ms)
{
	const struct members *members = subject->members;
	const struct identity *relay = subject->tls->relay;
	char id[WIRE_ID_TEXT + 1];

	wire_id_format(id, &relay->id);
	return json_pack("{sb ss ss ss ss si sI ss ss si sb sI so s{sI sI si} sI so}",            //
			 "ok", 1, "name", relay->name, "id", id, "federation", relay->federation, //
			 "version", VIADUCT_VERSION, "pid", (int)getpid(),                        //
			 "uptime_s", (json_int_t)(uptime_ms / 1000),                              //
			 "driver", dataplane_driver_name(dataplane_driver(subject->dataplane)),   //
			 "interface", subject->config->data.interface,                            //
			 "data_port", subject->config->data.port,                                 //
			 "huge_pages", dataplane_huge_pages(subject->dataplane),                  //
			 "memory_mb", memory_mb(), "workers", status_workers(subject),            //
			 "sessions", "joined", (json_int_t)members->joined, "joining",
			 (json_int_t)members->joining, "max", subject->config->session.max, //
			 "routes", (json_int_t)route_count(&members->routes),               //
			 "handshakes", status_handshakes(subject));
}

static json_t *peer(const struct member_session *session, const char *state, uint64_t now_ms)
{
	const struct member *member = session->member;
	char address[ADDRESS_TEXT] = "";

	if (session->header.length)
		address_format(address, &session->endpoint);
	return json_pack("{ss ss ss ss sI sI ss ss s{si si} si si sI sI}",                     //
			 "id", member->text, "name", member->name, "cluster", member->cluster, //
			 "state", state, "index", (json_int_t)session->index, "epoch",
			 (json_int_t)session->epoch, "cipher", wire_aead_name(session->aead),
			 "address", address, "lanes", "up", (int)session->lanes_up, "down",
			 (int)session->lanes_down, "mtu", (int)session->mtu, "level",
			 (int)member->level, "idle_ms", (json_int_t)member_idle_ms(session, now_ms),
			 "joined_s", (json_int_t)((now_ms - session->joined_ms) / 1000));
}

static json_t *peers(const struct commands_subject *subject)
{
	const struct roster_index *all = &subject->members->roster.by_id;
	uint64_t now_ms = dataplane_now_ms();
	json_t *list = json_array();

	for (size_t i = 0; i < all->count; i++) {
		const struct member *member = all->members[i];

		if (member->current)
			json_array_append_new(list, peer(member->current, "joined", now_ms));
		else if (member->next)
			json_array_append_new(list, peer(member->next, "joining", now_ms));
	}
	return json_pack("{sb so}", "ok", 1, "peers", list);
}

struct routes_walk {
	const struct members *members;
	json_t *list;
};

static int append_route(void *arg, const struct wire_id *id, uint32_t slot)
{
	const struct routes_walk *walk = arg;
	const struct groups_place *place = groups_place(&walk->members->groups, slot);
	char text[WIRE_ID_TEXT + 1], hop[GROUPS_NAME_MAX + 16];

	wire_id_format(text, id);
	if (place)
		snprintf(hop, sizeof(hop), "%s %s",
			 place->kind == GROUP_SERVICE ? "service" : "topic", place->name);
	else
		snprintf(hop, sizeof(hop), "session %u",
			 walk->members->roster.by_slot[slot]->current->index);
	json_array_append_new(walk->list, json_pack("{ss ss}", "id", text, "next_hop", hop));
	return 0;
}

static void append_topic(void *arg, const struct topic_report *report)
{
	json_array_append_new(arg, json_pack("{ss si sb sI sI sI}", "name", report->name, "members",
					     (int)report->members, "configured", report->configured,
					     "published", (json_int_t)report->counts.published,
					     "copies", (json_int_t)report->counts.copies, "refused",
					     (json_int_t)report->counts.refused));
}

static json_t *topics(const struct commands_subject *subject)
{
	json_t *list = json_array();

	topics_walk(subject->members, append_topic, list);
	return json_pack("{sb so}", "ok", 1, "topics", list);
}

static json_t *routes(const struct commands_subject *subject)
{
	struct routes_walk walk = {.members = subject->members, .list = json_array()};

	route_walk(&subject->members->routes, append_route, &walk);
	return json_pack("{sb so}", "ok", 1, "routes", walk.list);
}

static json_t *drain(const struct commands_subject *subject, const json_t *question)
{
	const json_t *seconds = json_object_get(question, "seconds");
	json_int_t number = seconds ? json_integer_value(seconds) : subject->config->drain.seconds;

	if ((seconds && !json_is_integer(seconds)) || number < 0 || number > 3600)
		return json_pack("{sb ss}", "ok", 0, "error",
				 "seconds must be a whole number from 0 to 3600");
	subject->drain(subject->arg, (unsigned int)number);
	return json_pack("{sb sI sI}", "ok", 1, "peers", (json_int_t)subject->members->present,
			 "seconds", number);
}

static void add_up(struct counters *total, const struct counters *counters)
{
	const uint64_t *from = (const uint64_t *)counters;
	uint64_t *to = (uint64_t *)total;

	for (size_t i = 0; i < sizeof(*counters) / sizeof(*from); i++)
		to[i] += from[i];
}

/* What of blocked sources is dropped, and which they are; some of them, if there are many. */
static json_t *garbage(const struct commands_subject *subject)
{
	const struct blocklist *list = subject->blocklist;
	json_t *sources = json_array();
	uint64_t now_ms = dataplane_now_ms();

	for (unsigned int i = 0; i < list->count && json_array_size(sources) < SOURCES_MAX; i++) {
		const struct blocked *entry = &list->entries[i];
		struct endpoint at = {0};
		char address[ADDRESS_TEXT];

		if (entry->state != BLOCKED_NOW)
			continue;
		memcpy(at.ip, entry->source, sizeof(at.ip));
		address_format_ip(address, &at);
		json_array_append_new(
			sources, json_pack("{ss sI si sI}", "source", address, "dropped",
					   (json_int_t)dataplane_dropped_from(subject->dataplane,
									      entry->source),
					   "times", (int)entry->times, "for_s",
					   entry->until_ms > now_ms
						   ? (json_int_t)((entry->until_ms - now_ms) / 1000)
						   : 0));
	}
	return json_pack("{sI sI sI sI sI sI so}", "dropped",
			 (json_int_t)dataplane_dropped(subject->dataplane), "blocked",
			 (json_int_t)list->now, "times", (json_int_t)list->blocked, "lifted",
			 (json_int_t)list->lifted, "spared", (json_int_t)list->spared, "full",
			 (json_int_t)list->full, "sources", sources);
}

static json_t *drops(const struct commands_subject *subject)
{
	json_t *answer = json_pack("{sb}", "ok", 1), *workers = json_array(), *sum;
	struct dataplane_kernel_drops kernel;
	struct counters total;

	memset(&total, 0, sizeof(total));
	for (int i = 0; i < subject->config->data.workers; i++) {
		struct dataplane_worker worker;

		dataplane_worker(subject->dataplane, (unsigned int)i, &worker);
		add_up(&total, &worker.counters);
		json_array_append_new(workers, ledger_describe(&worker.counters));
	}
	sum = ledger_describe(&total);
	json_object_update(answer, sum);
	json_decref(sum);
	json_object_set_new(answer, "workers", workers);
	dataplane_kernel_drops(subject->dataplane, &kernel);
	json_object_set_new(answer, "kernel",
			    json_pack("{sI sI sI}", "rx_dropped", (json_int_t)kernel.rx_dropped,
				      "rx_ring_full", (json_int_t)kernel.rx_ring_full,
				      "rx_fill_empty", (json_int_t)kernel.rx_fill_empty));
	json_object_set_new(answer, "garbage", garbage(subject));
	json_object_set_new(answer, "foreign", json_integer((json_int_t)total.foreign));
	return answer;
}

json_t *commands_answer(const struct commands_subject *subject, uint64_t uptime_ms,
			const char *command, const json_t *question)
{
	if (strcmp(command, "status") == 0)
		return status(subject, uptime_ms);
	if (strcmp(command, "peers") == 0)
		return peers(subject);
	if (strcmp(command, "routes") == 0)
		return routes(subject);
	if (strcmp(command, "topics") == 0)
		return topics(subject);
	if (strcmp(command, "drops") == 0)
		return drops(subject);
	if (strcmp(command, "trust") == 0)
		return reputation_answer(subject->reputation, question, dataplane_now_ms());
	if (strcmp(command, "reload") == 0)
		return reload_answer(subject->reload,
				     json_is_true(json_object_get(question, "dry_run")),
				     dataplane_now_ms());
	if (strcmp(command, "services") == 0)
		return services_answer(subject->members->services);
	if (strcmp(command, "service") == 0)
		return services_set(subject->members->services, question);
	if (strcmp(command, "drain") == 0)
		return drain(subject, question);
	return json_pack("{sb ss}", "ok", 0, "error",
			 "no such cmd; one of status, peers, routes, topics, drops, events, "
			 "revoke, trust, reload, services, service, drain");
}
