/*
 * Services as the control thread knows them: who registered for which, what the operator set, and
 * which instances are alive. What workers see of it is published from here: router/service.h.
 * docs/services.md. For the control thread, online as an RCU reader.
 */
#ifndef VIADUCT_SERVICES_H
#define VIADUCT_SERVICES_H

#include <jansson.h>

#include "config.h"
#include "member.h"
#include "service.h"

struct services;

/* What a peer registers for. */
struct services_registration {
	const char *name;
	const char *region; // "": as before
	int64_t weight;
	int64_t policy_version;
};

/* `now_us`: the workers' clock. `secret`: random bytes. Returns 0 or -ENOMEM. */
int services_new(struct services **services, struct members *members,
		 const struct config_services *config, unsigned int workers,
		 uint64_t (*now_us)(void), const uint8_t secret[16]);

/* When the workers are gone, before the members are. */
void services_free(struct services *services);

/* The requests under way, for the workers. */
struct service_requests *services_requests(const struct services *services);

/*
 * Registers a member, or changes its registration. Returns NULL, or the error's code with a
 * sentence in `detail` (both static): docs/protocol.md section 6.
 */
const char *services_register(struct services *services, struct member *member,
			      const struct services_registration *registration,
			      const char **detail);

/* Ends a registration, if there is one. Returns as services_register(). */
const char *services_unregister(struct services *services, struct member *member, const char *name,
				const char **detail);

/* Says which region a member is in. Returns as services_register(). */
const char *services_region(struct services *services, struct member *member, const char *region,
			    const char **detail);

/*
 * A member's current session has ended: for good, or (`replaced`) because it has another one, which
 * keeps the registrations. What it was asked or asked itself is lost either way.
 */
void services_ended(struct services *services, struct member *member, bool replaced);

/* Does what is due. Call it every 10 ms or so. */
void services_tick(struct services *services);

/* Another configuration, which must outlive this: what was set by the admin socket is over. */
void services_configure(struct services *services, const struct config_services *config);

/* The answers to the admin socket's {"cmd":"services"} and {"cmd":"service",…}. */
json_t *services_answer(const struct services *services);
json_t *services_set(struct services *services, const json_t *question);

#endif
