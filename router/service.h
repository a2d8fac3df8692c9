/*
 * Services: a request to a service's id reaches one of the peers that registered for it. Here is
 * which one, what is known of each, and what is under way.
 *
 * struct service is immutable once published: a change of members or settings publishes a
 * successor. What requests change is in struct service_instance and service_state, which outlive
 * it. docs/services.md says how each policy chooses, and where it comes from.
 */
#ifndef VIADUCT_SERVICE_H
#define VIADUCT_SERVICE_H

#include <urcu-qsbr.h>

#include "session.h"

enum {
	SERVICE_INSTANCES_MAX = 256,
	SERVICE_WEIGHT_MAX = 1000,
	SERVICE_READY = 256,      // an instance that is not new any more
	SERVICE_STICKY_FLOOR = 8, // requests that an instance may always owe for a key
	SERVICE_HISTOGRAM = 224,  // eight to each power of two of microseconds, up to 2^28
	SERVICE_BUCKET = 8,       // requests under way that share a hash
	SERVICE_PROBES = 4,       // buckets that are looked at
};

#define SERVICE_POLICY_LIST(X)                                                                     \
	X(ROUND_ROBIN, "round_robin")                                                              \
	X(WEIGHTED, "weighted")                                                                    \
	X(LEAST_OUTSTANDING, "least_outstanding")                                                  \
	X(RESPONSE_TIME, "response_time")                                                          \
	X(PROXIMITY, "proximity")

enum service_policy {
#define X(name, text) SERVICE_##name,
	SERVICE_POLICY_LIST(X)
#undef X
		SERVICE_POLICIES,
};

/* What came of requests; any worker adds, anybody reads (relaxed). */
struct service_counts {
	uint64_t requests;
	uint64_t answered;
	uint64_t failed;    // answered, but the instance said that it couldn't
	uint64_t timed_out; // not answered in time
	uint64_t gone;      // under way to an instance that ended or fell silent
};

/* Requests that one policy gave to instances, and when their responses came. */
struct service_stats {
	struct service_counts counts;
	uint64_t histogram[SERVICE_HISTOGRAM]; // of microseconds, see service_histogram_at()
};

/* A worker's own place in a service, or in the turns of an instance. */
struct service_turn {
	int64_t current;
} __attribute__((aligned(64)));

struct service_settings {
	uint8_t policy[2]; // enum service_policy; the second one chooses for
	uint8_t share;     // percent of the requests
	uint32_t slow_start_us;
	uint32_t silent_us; // who owes an answer for so long is avoided
};

/* What of a service lives on while it is published anew. Followed by a turn for each worker. */
struct service_state {
	struct wire_id id;
	uint32_t eject;      // failures in a row that eject an instance; control writes (relaxed)
	uint32_t timeout_us; // a request without response for so long has failed: control's
	struct service_stats stats[SERVICE_POLICIES];
	struct service_turn turns[];
} __attribute__((aligned(64)));

/*
 * An instance. But for the last three fields, workers and control write all of it (relaxed): it
 * may be a little off where two write at once.
 */
struct service_instance {
	uint32_t outstanding; // requests under way
	uint32_t failures;    // in a row
	uint32_t ejections;   // since it last answered well
	bool dead;            // silent, and nothing at all comes from it: control's
	uint64_t waiting_us;  // since when it owes an answer: the last one, or its first request
	uint64_t average_ns;  // response time, quick to rise; 0: none yet
	uint64_t averaged_us; // when that was computed
	uint64_t ready_us;    // when its slow start began
	uint64_t ejected_us;  // until when it is left out; 0: it isn't
	uint64_t cut_us;      // requests from before then are lost: control's
	struct service_counts counts;
	struct service_state *service;
	uint32_t slot;               // of its sessions
	struct service_turn turns[]; // by worker
} __attribute__((aligned(64)));

/* An instance as published. */
struct service_member {
	struct service_instance *instance;
	const struct session_slot *slot;
	uint64_t hash; // of its id, for keys
	uint16_t weight;
	uint8_t region;
};

struct service {
	struct group group;
	struct service_settings settings;
	struct service_state *state;
	struct rcu_head rcu; // control
	unsigned int count;
	struct service_member members[];
};

/* A request under way. */
struct service_entry {
	uint64_t word; // atomic, who changes it owns the rest; see service.c
	struct service_instance *instance;
	uint64_t sent_us;
	uint32_t requester; // session index
	uint8_t policy;     // enum service_policy that chose
	uint8_t class;
	uint16_t unused;
} __attribute__((aligned(32)));

/* All requests under way, for all workers. */
struct service_requests {
	uint64_t secret[2];
	uint32_t mask;     // buckets - 1
	uint32_t peer_max; // that one peer may have under way; control writes, workers read
			   // (relaxed)
	struct service_entry entries[][SERVICE_BUCKET] __attribute__((aligned(64)));
};

/* Control thread. Room for `entries` requests, rounded up to a power of two, in memory of a NUMA
 * node. `secret`: random. NULL: no memory. */
struct service_requests *service_requests_new(int node, uint32_t entries, const uint8_t secret[16]);
void service_requests_free(struct service_requests *requests);

/* Who asks for an instance. */
struct service_choice {
	const struct service *service;
	const struct session *from;
	const struct policy *policy; // clusters'; NULL: all may talk to all
	uint64_t now_us;
	uint64_t *random;       // the worker's state
	unsigned int worker;    // its number
	const uint8_t *key;     // WIRE_SERVICE_KEY bytes to stick to; NULL: none
	enum service_policy by; // out: what chose
};

/*
 * Worker, in a read-side section: an instance, and in `to` its session; NULL: there is none that
 * could be asked.
 */
const struct service_member *service_choose(struct service_choice *choice,
					    const struct session **to);

/*
 * Worker: notes a request on its way to `instance`; it must be sent then or undone. NULL: there are
 * too many, of this peer or in all.
 */
struct service_entry *service_enter(struct service_requests *requests, const struct session *from,
				    uint32_t tag, uint8_t class, struct service_instance *instance,
				    enum service_policy by, uint64_t now_us);

/* Worker: the request has not been sent. */
void service_undo(struct service_entry *entry, const struct session *from, uint32_t tag);

/*
 * Worker: `from` responds through service `via` to a request of `to`. Returns whether that was
 * asked for; then it is no longer.
 */
bool service_answered(struct service_requests *requests, const struct session *from,
		      const struct session *to, uint32_t tag, const struct wire_id *via,
		      bool failed, uint64_t now_us);

/* A request that control has taken out of those under way. */
struct service_overdue {
	struct service_instance *instance;
	uint32_t requester; // session index
	uint32_t tag;
	uint8_t class;
	enum wire_reason reason; // why there will be no response
};

/*
 * Control thread, online: looks at `count` buckets from `first` on, cyclically; takes out the
 * requests that will not be answered any more, and calls `each` for those that somebody waits for.
 */
void service_sweep(struct service_requests *requests, const struct session_table *sessions,
		   uint32_t first, uint32_t count, uint64_t now_us,
		   void (*each)(void *arg, const struct service_overdue *overdue), void *arg);

/* The bucket of a response time, and the response time at a bucket's upper end, in us. */
unsigned int service_histogram_at(uint64_t us);
uint64_t service_histogram_us(unsigned int bucket);

/* "round_robin" and so on; SERVICE_POLICIES: no such policy. */
const char *service_policy_name(enum service_policy policy);
enum service_policy service_policy_parse(const char *name);

#endif
