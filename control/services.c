#include "services.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "log.h"

enum {
	SWEEP_TURNS = 16, // ticks in which all requests are looked at
	CHECK_US = 50000, // between looks at who is silent
	MEASURE_US = 1000000,
	REGIONS = 256, // 0: not known
	REGION_MAX = 32,
	VERSION_MAX = 1000000000,
};

#define load(at)        __atomic_load_n(at, __ATOMIC_RELAXED)
#define store(at, what) __atomic_store_n(at, what, __ATOMIC_RELAXED)

/* A service of some name. */
struct named {
	struct cds_list_head node;
	char name[GROUPS_NAME_MAX + 1];
	bool configured; // stays, also without instances
	bool stale;      // workers see another one, for want of memory
	bool quiet;      // once it is removed: no worker sees it (reclaimer sets)
	uint32_t slot;
	struct service_settings settings;
	uint64_t requests; // ever, and
	uint64_t asked_us; // when there was a new one; 0: not yet
	struct service *published;
	struct service_state *state;
	struct cds_list_head instances; // who was there first comes first
	unsigned int count;
	unsigned int kept; // registrations that are not freed
	struct rcu_head rcu;
};

/* One peer's registration for one service. */
struct registration {
	struct cds_list_head of_service; // or of services.gone
	struct cds_list_head of_member;
	struct member *member;
	struct named *named;
	struct service_instance *instance;
	uint16_t weight;
	int policy_version;
	uint64_t pinged_us;
	uint64_t unheard_us; // of the first ping of those since something last came from it
	uint64_t died_us;
	bool hidden; // from workers that look for it from now on
	bool quiet;  // no worker has it any more (reclaimer sets)
	struct rcu_head rcu;
};

struct services {
	struct members *members;
	const struct config_services *config;
	unsigned int workers;
	uint64_t (*now_us)(void);
	struct service_requests *requests;
	uint32_t swept;  // bucket to go on with
	uint32_t urgent; // buckets from there on that can't wait for their turn
	uint64_t checked_us;
	struct cds_list_head named;
	struct cds_list_head removed; // named that may not be freed yet
	struct cds_list_head gone;    // registrations likewise
	unsigned int region_count;
	char regions[REGIONS][REGION_MAX + 1];
};

/* Settings */

/* What the configuration says about a name; NULL: nothing. */
static const struct config_service *find_config(const struct config_services *config,
						const char *name)
{
	for (uint32_t i = 0; i < config->names_count; i++) {
		if (strcmp(config->names[i].name, name) == 0)
			return &config->names[i];
	}
	return NULL;
}

static int either(int own, int otherwise)
{
	return own ? own : otherwise;
}

static void apply_settings(const struct services *services, struct named *named)
{
	static const struct config_service none;
	const struct config_services *config = services->config;
	const struct config_service *own = find_config(config, named->name);
	int policy;

	named->configured = own;
	if (!own)
		own = &none;
	policy = either(own->policy, config->policy);
	named->settings.policy[0] = (uint8_t)(policy - 1);
	named->settings.policy[1] = (uint8_t)(either(own->second, policy) - 1);
	named->settings.share = (uint8_t)own->share;
	named->settings.slow_start_us =
		(uint32_t)either(own->slow_start, config->slow_start) * 1000;
	named->settings.silent_us = (uint32_t)either(own->silent, config->silent) * 1000;
	store(&named->state->timeout_us, (uint32_t)either(own->timeout, config->timeout) * 1000);
	store(&named->state->eject, (uint32_t)either(own->eject, config->eject));
}

/* Publishing */

static size_t turns_size(const struct services *services)
{
	return services->workers * sizeof(struct service_turn);
}

static uint64_t hash_of(const struct wire_id *id)
{
	return wire_get64(id->bytes) ^ wire_get64(id->bytes + 8);
}

static void service_free(struct rcu_head *head)
{
	free(caa_container_of(head, struct service, rcu));
}

/* The service as it is now. NULL: no memory. */
static struct service *make_service(const struct services *services, const struct named *named)
{
	const struct session_slot *slots = services->members->sessions->slot;
	struct registration *registration;
	struct service *service;

	service = calloc(1, sizeof(*service) + named->count * sizeof(service->members[0]));
	if (!service)
		return NULL;
	service->group.kind = GROUP_SERVICE;
	service->settings = named->settings;
	service->state = named->state;
	cds_list_for_each_entry (registration, &named->instances, of_service) {
		const struct member *member = registration->member;

		service->members[service->count++] = (struct service_member){
			.instance = registration->instance,
			.slot = &slots[member->slot],
			.hash = hash_of(&member->id),
			.weight = registration->weight,
			.region = member->region,
		};
	}
	return service;
}

/* Returns 0 or -ENOMEM: workers see what they saw. */
static int publish(struct services *services, struct named *named)
{
	struct service *service = make_service(services, named), *old = named->published;

	named->stale = !service;
	if (!service)
		return -ENOMEM;
	named->published = service;
	groups_publish(&services->members->groups, named->slot, &service->group);
	if (old)
		call_rcu(&old->rcu, service_free);
	return 0;
}

static void named_quiet(struct rcu_head *head)
{
	struct named *named = caa_container_of(head, struct named, rcu);

	__atomic_store_n(&named->quiet, true, __ATOMIC_RELEASE);
}

static void registration_quiet(struct rcu_head *head)
{
	struct registration *registration = caa_container_of(head, struct registration, rcu);

	__atomic_store_n(&registration->quiet, true, __ATOMIC_RELEASE);
}

static struct named *find_named(const struct services *services, const char *name)
{
	struct named *named;
	uint32_t slot;

	if (groups_find(&services->members->groups, GROUP_SERVICE, name, &slot))
		return NULL;
	cds_list_for_each_entry (named, &services->named, node) {
		if (named->slot == slot)
			return named;
	}
	return NULL;
}

/* Returns 0, -ENOSPC (no free slot) or -ENOMEM. */
static int named_new(struct services *services, const char *name, struct named **out)
{
	struct named *named = calloc(1, sizeof(*named));
	size_t size = sizeof(*named->state) + turns_size(services);
	int result = -ENOMEM;

	if (!named)
		return result;
	named->state = aligned_alloc(64, size);
	if (!named->state)
		goto failed;
	memset(named->state, 0, size);
	CDS_INIT_LIST_HEAD(&named->instances);
	strcpy(named->name, name);
	groups_id(&named->state->id, GROUP_SERVICE, name);
	apply_settings(services, named);
	named->published = make_service(services, named);
	if (!named->published)
		goto failed;
	result = groups_add(&services->members->groups, GROUP_SERVICE, name,
			    &named->published->group, &named->slot);
	if (result)
		goto failed;
	cds_list_add_tail(&named->node, &services->named);
	*out = named;
	return 0;
failed:
	free(named->published);
	free(named->state);
	free(named);
	return result;
}

static void named_remove(struct services *services, struct named *named)
{
	groups_remove(&services->members->groups, named->slot);
	named->stale = false;
	call_rcu(&named->published->rcu, service_free);
	cds_list_del(&named->node);
	cds_list_add_tail(&named->node, &services->removed);
	call_rcu(&named->rcu, named_quiet);
}

/* Has all requests looked at as soon as there is room to tell of them. */
static void sweep_all(struct services *services)
{
	services->urgent = services->requests->mask + 1;
}

/* Registrations */

static struct registration *find_registration(const struct member *member, const char *name)
{
	struct registration *registration;

	cds_list_for_each_entry (registration, &member->registrations, of_member) {
		if (strcmp(registration->named->name, name) == 0)
			return registration;
	}
	return NULL;
}

static unsigned int count_registrations(const struct member *member)
{
	const struct cds_list_head *node;
	unsigned int count = 0;

	cds_list_for_each(node, &member->registrations) count++;
	return count;
}

/* Takes a registration away; requests under way are answered at the next tick. */
static void take_out(struct services *services, struct registration *registration)
{
	cds_list_del(&registration->of_service);
	cds_list_del(&registration->of_member);
	registration->named->count--;
	// workers that don't get to know of it find it dead
	store(&registration->instance->dead, true);
	store(&registration->instance->cut_us, UINT64_MAX);
	registration->member = NULL;
	cds_list_add_tail(&registration->of_service, &services->gone);
	sweep_all(services);
}

/* What workers see after a change; for want of memory that is made up for later. */
static void settle(struct services *services, struct named *named)
{
	if (!named->count && !named->configured)
		named_remove(services, named);
	else
		publish(services, named);
}

static void end_registration(struct services *services, struct registration *registration)
{
	struct named *named = registration->named;

	take_out(services, registration);
	settle(services, named);
}

static const char *check_name(const char *name, const char **detail)
{
	*detail = "1 to 64 of a-z, 0-9, '.', '_', '-' and '/', the first a letter or digit";
	if (!groups_name_good(name))
		return "name";
	*detail = "names that begin with viaduct or relay are the relay's own";
	return groups_name_reserved(name) ? "reserved" : NULL;
}

/* The cluster that the name belongs to: of who was there first, `but` left out. NULL: nobody's. */
static const char *holder(const struct named *named, const struct registration *but)
{
	const struct registration *registration;

	cds_list_for_each_entry (registration, &named->instances, of_service) {
		if (!but || registration != but)
			return registration->member->cluster;
	}
	return NULL;
}

/* Whether members of the cluster may register for it. */
static bool may_register(const struct services *services, const char *name, const char *holds,
			 const char *cluster)
{
	const struct config_service *own = find_config(services->config, name);

	if (own && own->clusters_count) {
		for (uint32_t i = 0; i < own->clusters_count; i++) {
			if (strcmp(own->clusters[i], cluster) == 0)
				return true;
		}
		return false;
	}
	return !holds || strcmp(holds, cluster) == 0;
}

static int registration_new(struct services *services, struct named *named, struct member *member,
			    struct registration **out)
{
	struct registration *registration = calloc(1, sizeof(*registration));
	size_t size = sizeof(*registration->instance) + turns_size(services);

	if (!registration)
		return -ENOMEM;
	registration->instance = aligned_alloc(64, size);
	if (!registration->instance) {
		free(registration);
		return -ENOMEM;
	}
	memset(registration->instance, 0, size);
	registration->instance->service = named->state;
	registration->instance->slot = member->slot;
	registration->instance->ready_us = services->now_us();
	registration->named = named;
	registration->member = member;
	cds_list_add_tail(&registration->of_service, &named->instances);
	cds_list_add_tail(&registration->of_member, &member->registrations);
	named->count++;
	named->kept++;
	*out = registration;
	return 0;
}

static const char *refuse(int result, const char **detail)
{
	*detail = "out of memory";
	if (result == -ENOSPC)
		*detail = "the relay has no room for another name";
	return result ? "limit" : NULL;
}

const char *services_register(struct services *services, struct member *member,
			      const struct services_registration *asked, const char **detail)
{
	struct named *named = NULL;
	struct registration *registration;
	const char *code = check_name(asked->name, detail);

	if (code)
		return code;
	*detail = "weight must be a whole number from 1 to 1000";
	if (asked->weight < 1 || asked->weight > SERVICE_WEIGHT_MAX)
		return "weight";
	*detail = "policy_version must be a whole number from 0 to 1000000000";
	if (asked->policy_version < 0 || asked->policy_version > VERSION_MAX)
		return "malformed";
	named = find_named(services, asked->name);
	*detail = "the name belongs to another cluster";
	if (!may_register(services, asked->name, named ? holder(named, NULL) : NULL,
			  member->cluster))
		return "taken";
	registration = find_registration(member, asked->name);
	if (!registration) {
		*detail = "too many names for one peer";
		if (count_registrations(member) >= (unsigned int)services->config->peer_services)
			return "limit";
		*detail = "the service has 256 instances already";
		if (named && named->count == SERVICE_INSTANCES_MAX)
			return "limit";
	}
	if (*asked->region) {
		code = services_region(services, member, asked->region, detail);
		if (code)
			return code;
	}
	if (!named)
		code = refuse(named_new(services, asked->name, &named), detail);
	if (!code && !registration) {
		code = refuse(registration_new(services, named, member, &registration), detail);
		if (!code)
			log_info("registered", "id=%s name=%s service=%s", member->text,
				 member->name, named->name);
	}
	if (code) {
		if (named && !named->count && !named->configured)
			named_remove(services, named);
		return code;
	}
	registration->weight = (uint16_t)asked->weight;
	registration->policy_version = (int)asked->policy_version;
	// for want of memory it is as before, and the peer asks again
	return refuse(publish(services, named), detail);
}

const char *services_unregister(struct services *services, struct member *member, const char *name,
				const char **detail)
{
	const char *code = check_name(name, detail);
	struct registration *registration = code ? NULL : find_registration(member, name);

	if (registration) {
		log_info("unregistered", "id=%s name=%s service=%s", member->text, member->name,
			 name);
		end_registration(services, registration);
	}
	return code;
}

/* The region's number; a new one if need be, of which nobody is any more. REGIONS: there is none.
 */
static unsigned int region_number(struct services *services, const char *region)
{
	const struct roster_index *all = &services->members->roster.by_id;
	bool used[REGIONS] = {true};
	unsigned int number = 1;

	while (number < services->region_count && strcmp(services->regions[number], region) != 0)
		number++;
	if (number == REGIONS) {
		for (size_t i = 0; i < all->count; i++)
			used[all->members[i]->region] = true;
		for (number = 1; number < REGIONS && used[number];)
			number++;
	}
	if (number == services->region_count)
		services->region_count++;
	if (number < REGIONS)
		strcpy(services->regions[number], region);
	return number;
}

const char *services_region(struct services *services, struct member *member, const char *region,
			    const char **detail)
{
	struct registration *registration;
	unsigned int number;

	*detail = "a region is a name like a service's, of at most 32 characters";
	if (!groups_name_good(region) || strlen(region) > REGION_MAX)
		return "name";
	number = region_number(services, region);
	*detail = "the relay knows too many regions";
	if (number == REGIONS)
		return "limit";
	if (member->region == number)
		return NULL;
	member->region = (uint8_t)number;
	if (members_number(services->members))
		return refuse(-ENOMEM, detail);
	cds_list_for_each_entry (registration, &member->registrations, of_member) {
		publish(services, registration->named);
	}
	return NULL;
}

void services_ended(struct services *services, struct member *member, bool replaced)
{
	struct registration *registration, *next;

	sweep_all(services);
	cds_list_for_each_entry_safe (registration, next, &member->registrations, of_member) {
		const struct named *named = registration->named;

		// it may have come back as one of another cluster
		if (replaced && may_register(services, named->name, holder(named, registration),
					     member->cluster))
			store(&registration->instance->cut_us, services->now_us());
		else
			end_registration(services, registration);
	}
}

/* Time */

static void say(const struct services *services, uint32_t index, uint32_t tag, uint8_t kind,
		uint8_t class)
{
	struct forward_command command;

	command.index = index;
	command.tag = tag;
	command.kind = kind;
	command.class = class;
	command.payload_length = 0;
	command.header.length = 0;
	services->members->config.send(services->members->config.arg, &command);
}

static void tell_overdue(void *arg, const struct service_overdue *overdue)
{
	say(arg, overdue->requester, overdue->tag, WIRE_ERROR | (uint8_t)overdue->reason,
	    overdue->class);
}

static void sweep(struct services *services, uint64_t now_us)
{
	const struct member_config *config = &services->members->config;
	uint32_t buckets = services->requests->mask + 1, count = buckets / SWEEP_TURNS + 1;

	if (services->urgent > count)
		count = services->urgent;
	// each is told, if not now
	for (; count && !(config->behind && config->behind(config->arg)); count--) {
		service_sweep(services->requests, services->members->sessions, services->swept, 1,
			      now_us, tell_overdue, services);
		services->swept = (services->swept + 1) % buckets;
		services->urgent -= services->urgent > 0;
	}
}

/* Whether somebody asks a service these days. */
static bool is_used(struct named *named, uint64_t now_us)
{
	uint64_t requests = 0;

	for (unsigned int policy = 0; policy < SERVICE_POLICIES; policy++)
		requests += load(&named->state->stats[policy].counts.requests);
	if (requests != named->requests) {
		named->requests = requests;
		named->asked_us = now_us;
	}
	return named->asked_us && now_us - named->asked_us < MEASURE_US;
}

/*
 * Whether an instance answers pings, if it doesn't answer requests; or has none to answer, while
 * others of its service have: so that it isn't found dead by the next one.
 */
static void check(struct services *services, struct registration *registration, bool used,
		  uint64_t now_us)
{
	const struct service_settings *settings = &registration->named->settings;
	struct service_instance *instance = registration->instance;
	const struct member_session *session = registration->member->current;
	uint64_t silent_us = settings->silent_us, waiting_us = load(&instance->waiting_us);
	uint64_t owed_us = 0, unheard_us = 0, idle_us, pause_us;
	bool doubtful;

	if (!session)
		return;
	if (load(&instance->outstanding) && now_us > waiting_us)
		owed_us = now_us - waiting_us;
	idle_us = (uint64_t)member_idle_ms(session, now_us / 1000) * 1000;
	if (registration->unheard_us + idle_us > now_us)
		unheard_us = now_us - registration->unheard_us;
	if (!instance->dead && idle_us >= silent_us &&
	    (owed_us ? owed_us >= silent_us : unheard_us >= silent_us / 2)) {
		log_warning("instance silent", "id=%s name=%s service=%s",
			    registration->member->text, registration->member->name,
			    registration->named->name);
		store(&instance->dead, true);
		store(&instance->cut_us, now_us);
		registration->died_us = now_us;
		sweep_all(services);
	} else if (instance->dead && idle_us < now_us - registration->died_us) {
		log_info("instance back", "id=%s name=%s service=%s", registration->member->text,
			 registration->member->name, registration->named->name);
		store(&instance->ready_us, now_us);
		store(&instance->dead, false);
	}
	doubtful = owed_us || unheard_us || (used && idle_us >= silent_us / 2);
	pause_us = doubtful || instance->dead ? silent_us / 4 : MEASURE_US;
	if (now_us - registration->pinged_us < pause_us)
		return;
	if ((doubtful && (owed_us == 0 || owed_us >= pause_us)) || instance->dead ||
	    settings->policy[0] == SERVICE_PROXIMITY ||
	    (settings->share && settings->policy[1] == SERVICE_PROXIMITY)) {
		registration->pinged_us = now_us;
		if (!unheard_us)
			registration->unheard_us = now_us;
		say(services, session->index, 0, WIRE_PING, WIRE_CONTROL);
	}
}

/* Once no worker can find a registration any more, it is a question of time until none has it. */
static void hide(struct services *services, struct registration *registration)
{
	struct named *named = registration->named;

	if (registration->hidden || (named->stale && publish(services, named)))
		return;
	registration->hidden = true;
	call_rcu(&registration->rcu, registration_quiet);
}

/* Frees what no worker can come by any more. */
static void reap(struct services *services)
{
	struct registration *registration, *next;
	struct named *named, *next_named;

	cds_list_for_each_entry_safe (registration, next, &services->gone, of_service) {
		bool quiet = __atomic_load_n(&registration->quiet, __ATOMIC_ACQUIRE);
		bool idle =
			!__atomic_load_n(&registration->instance->outstanding, __ATOMIC_ACQUIRE);

		if (!idle)
			sweep_all(services);
		hide(services, registration);
		if (!quiet || !idle)
			continue;
		cds_list_del(&registration->of_service);
		registration->named->kept--;
		free(registration->instance);
		free(registration);
	}
	cds_list_for_each_entry_safe (named, next_named, &services->removed, node) {
		if (named->kept || !__atomic_load_n(&named->quiet, __ATOMIC_ACQUIRE))
			continue;
		cds_list_del(&named->node);
		free(named->state);
		free(named);
	}
}

void services_tick(struct services *services)
{
	uint64_t now_us = services->now_us();
	struct registration *registration;
	struct named *named;

	if (cds_list_empty(&services->named) && cds_list_empty(&services->gone) &&
	    cds_list_empty(&services->removed))
		return;
	if (now_us - services->checked_us >= CHECK_US) {
		services->checked_us = now_us;
		cds_list_for_each_entry (named, &services->named, node) {
			bool used = is_used(named, now_us);

			cds_list_for_each_entry (registration, &named->instances, of_service) {
				check(services, registration, used, now_us);
			}
		}
	}
	sweep(services, now_us);
	reap(services);
}

/* Beginning and end */

void services_configure(struct services *services, const struct config_services *config)
{
	struct registration *registration, *next_registration;
	struct named *named, *next;

	services->config = config;
	store(&services->requests->peer_max, (uint32_t)config->peer_requests);
	for (uint32_t i = 0; i < config->names_count; i++) {
		// for want of room it is made when somebody registers
		if (!find_named(services, config->names[i].name))
			named_new(services, config->names[i].name, &named);
	}
	cds_list_for_each_entry_safe (named, next, &services->named, node) {
		apply_settings(services, named);
		// whose name it was before, if it is another's now
		cds_list_for_each_entry_safe (registration, next_registration, &named->instances,
					      of_service) {
			if (!may_register(services, named->name, holder(named, NULL),
					  registration->member->cluster)) {
				log_info("unregistered", "id=%s name=%s service=%s",
					 registration->member->text, registration->member->name,
					 named->name);
				take_out(services, registration);
			}
		}
		settle(services, named);
	}
}

int services_new(struct services **out, struct members *members,
		 const struct config_services *config, unsigned int workers,
		 uint64_t (*now_us)(void), const uint8_t secret[16])
{
	struct services *services = calloc(1, sizeof(*services));

	if (!services)
		return -ENOMEM;
	services->requests =
		service_requests_new(members->sessions->node, (uint32_t)config->requests, secret);
	if (!services->requests) {
		free(services);
		return -ENOMEM;
	}
	services->members = members;
	services->workers = workers;
	services->now_us = now_us;
	services->region_count = 1;
	CDS_INIT_LIST_HEAD(&services->named);
	CDS_INIT_LIST_HEAD(&services->removed);
	CDS_INIT_LIST_HEAD(&services->gone);
	services_configure(services, config);
	*out = services;
	return 0;
}

void services_free(struct services *services)
{
	struct registration *registration, *next;
	struct named *named, *next_named;

	cds_list_for_each_entry_safe (named, next_named, &services->named, node) {
		named->configured = false;
		cds_list_for_each_entry_safe (registration, next, &named->instances, of_service) {
			end_registration(services, registration);
		}
	}
	cds_list_for_each_entry_safe (named, next_named, &services->named, node) {
		named_remove(services, named);
	}
	cds_list_for_each_entry (registration, &services->gone, of_service) {
		hide(services, registration);
	}
	rcu_thread_offline();
	rcu_barrier();
	rcu_thread_online();
	cds_list_for_each_entry (registration, &services->gone, of_service) {
		registration->instance->outstanding = 0;
	}
	reap(services);
	service_requests_free(services->requests);
	free(services);
}

struct service_requests *services_requests(const struct services *services)
{
	return services->requests;
}

/* The admin socket */

/* The response time that `share` of the responses stayed within, in us; 0: there are none. */
static json_int_t percentile(const struct service_stats *stats, double share)
{
	uint64_t counts[SERVICE_HISTOGRAM], total = 0, sum = 0;
	unsigned int at = 0;

	for (int i = 0; i < SERVICE_HISTOGRAM; i++) {
		counts[i] = load(&stats->histogram[i]);
		total += counts[i];
	}
	if (!total)
		return 0;
	while ((double)(sum += counts[at]) < share * (double)total)
		at++;
	return (json_int_t)service_histogram_us(at);
}

static json_t *counts_json(const struct service_counts *counts)
{
	return json_pack("{sI sI sI sI sI}", "requests", (json_int_t)load(&counts->requests),
			 "answered", (json_int_t)load(&counts->answered), "failed",
			 (json_int_t)load(&counts->failed), "timed_out",
			 (json_int_t)load(&counts->timed_out), "gone",
			 (json_int_t)load(&counts->gone));
}

static const char *state_name(const struct registration *registration, uint64_t now_us)
{
	const struct service_settings *settings = &registration->named->settings;
	const struct service_instance *instance = registration->instance;

	if (instance->dead)
		return "dead";
	if (load(&instance->ejected_us) > now_us)
		return "ejected";
	if (now_us - load(&instance->ready_us) < settings->slow_start_us)
		return "new";
	return "ready";
}

static json_t *instance_json(const struct services *services,
			     const struct registration *registration, uint64_t now_us)
{
	const struct service_instance *instance = registration->instance;
	const struct member *member = registration->member;
	json_t *json = counts_json(&instance->counts);

	json_object_update_missing_new(
		json,
		json_pack("{ss ss ss si ss si sI sI sI}", "id", member->text, "name", member->name,
			  "state", state_name(registration, now_us), "weight",
			  (int)registration->weight, "region", services->regions[member->region],
			  "policy_version", registration->policy_version, "outstanding",
			  (json_int_t)load(&instance->outstanding), "response_us",
			  (json_int_t)(load(&instance->average_ns) / 1000), "round_trip_us",
			  (json_int_t)(member->current
					       ? load(&member->current->state->round_trip_us)
					       : 0)));
	return json;
}

static json_t *settings_json(const struct named *named)
{
	const struct service_settings *settings = &named->settings;

	return json_pack("{ss ss si sI sI sI sI}", "policy",
			 service_policy_name(settings->policy[0]), "second",
			 service_policy_name(settings->policy[1]), "share", (int)settings->share,
			 "slow_start", (json_int_t)settings->slow_start_us / 1000, "silent",
			 (json_int_t)settings->silent_us / 1000, "timeout",
			 (json_int_t)named->state->timeout_us / 1000, "eject",
			 (json_int_t)named->state->eject);
}

static json_t *named_json(const struct services *services, const struct named *named)
{
	json_t *instances = json_array(), *policies = json_object();
	uint64_t now_us = services->now_us();
	const struct registration *registration;
	const char *cluster = holder(named, NULL);
	char id[WIRE_ID_TEXT + 1];

	cds_list_for_each_entry (registration, &named->instances, of_service) {
		json_array_append_new(instances, instance_json(services, registration, now_us));
	}
	for (enum service_policy policy = 0; policy < SERVICE_POLICIES; policy++) {
		const struct service_stats *stats = &named->state->stats[policy];
		json_t *counts;

		if (!load(&stats->counts.requests))
			continue;
		counts = counts_json(&stats->counts);
		json_object_set_new(counts, "p50_us", json_integer(percentile(stats, 0.5)));
		json_object_set_new(counts, "p99_us", json_integer(percentile(stats, 0.99)));
		json_object_set_new(policies, service_policy_name(policy), counts);
	}
	wire_id_format(id, &named->state->id);
	return json_pack("{ss ss ss so so so}", "name", named->name, "id", id, "cluster",
			 cluster ? cluster : "", "settings", settings_json(named), "policies",
			 policies, "instances", instances);
}

json_t *services_answer(const struct services *services)
{
	const struct named *named;
	json_t *list = json_array();

	cds_list_for_each_entry (named, &services->named, node) {
		json_array_append_new(list, named_json(services, named));
	}
	return json_pack("{sb so}", "ok", 1, "services", list);
}

/* Reads a number that may be there. False: it is none, or out of range. */
static bool get_number(const json_t *question, const char *key, json_int_t min, json_int_t max,
		       json_int_t *number)
{
	const json_t *value = json_object_get(question, key);

	if (!value)
		return true;
	*number = json_integer_value(value);
	return json_is_integer(value) && *number >= min && *number <= max;
}

static bool get_policy(const json_t *question, const char *key, uint8_t *policy)
{
	const json_t *value = json_object_get(question, key);

	if (!value)
		return true;
	*policy = json_is_string(value) ? (uint8_t)service_policy_parse(json_string_value(value))
					: SERVICE_POLICIES;
	return *policy < SERVICE_POLICIES;
}

json_t *services_set(struct services *services, const json_t *question)
{
	static const char allowed[] = "policy and second must be one of"
#define X(name, text) " " text
		SERVICE_POLICY_LIST(X)
#undef X
			"; share 0 to 100; slow_start milliseconds from 1, silent and timeout from "
			"50, up to 600000; eject 1 to 1000";
	const char *name = json_string_value(json_object_get(question, "name"));
	struct named *named = name ? find_named(services, name) : NULL;
	struct service_settings settings, before;
	json_int_t share, slow_start, silent, timeout, eject;
	bool good;

	if (!named)
		return json_pack("{sb ss}", "ok", 0, "error", "no such service");
	before = settings = named->settings;
	share = settings.share;
	slow_start = settings.slow_start_us / 1000;
	silent = settings.silent_us / 1000;
	timeout = named->state->timeout_us / 1000;
	eject = named->state->eject;
	good = get_policy(question, "policy", &settings.policy[0]) &&
	       get_policy(question, "second", &settings.policy[1]) &&
	       get_number(question, "share", 0, 100, &share) &&
	       get_number(question, "slow_start", 1, CONFIG_SERVICE_MS, &slow_start) &&
	       get_number(question, "silent", 50, CONFIG_SERVICE_MS, &silent) &&
	       get_number(question, "timeout", 50, CONFIG_SERVICE_MS, &timeout) &&
	       get_number(question, "eject", 1, 1000, &eject);
	if (!good)
		return json_pack("{sb ss}", "ok", 0, "error", allowed);
	settings.share = (uint8_t)share;
	settings.slow_start_us = (uint32_t)slow_start * 1000;
	settings.silent_us = (uint32_t)silent * 1000;
	named->settings = settings;
	if (publish(services, named)) {
		named->settings = before;
		return json_pack("{sb ss}", "ok", 0, "error", "out of memory");
	}
	store(&named->state->timeout_us, (uint32_t)timeout * 1000);
	store(&named->state->eject, (uint32_t)eject);
	return json_pack("{sb so}", "ok", 1, "settings", settings_json(named));
}
