/*
 * What a worker does with more than it can handle: a backlog in front of the forwarding core.
 *
 * While a worker keeps up, none of this runs. When its port has given it a full burst it reads on,
 * and what it reads waits here, by rank: as much as a ring holds, so that nothing is shed of what
 * came while others had the worker's core. It takes the highest ranks first, and when there is no
 * room, what is oldest in the lowest is shed: nothing that costs more than reading a header has
 * been paid for it, and nothing is shed that there would have been time for.
 *
 * The rank is the class that the header claims, as far as the sender (session index and source
 * address, so that nobody can speak for others) has not had its fair share of the worker in this
 * window of some milliseconds. What goes beyond that ranks below all that doesn't; so claiming to
 * be critical gains nobody more than twice its share. Higher classes use up the share first. The
 * fair share is the one at which all senders' records of the last window, cut at it, are what the
 * worker handled in that time (max-min fairness). What exceeds
 * it twice ranks lower still, since those who send little more than their share would otherwise
 * lose to those who send much more. In a new window all that waits beyond a share is ranked anew,
 * before what comes; so a sender's records of one class stay in order.
 *
 * Class control has a part of the backlog and of each burst to itself, and no more while others
 * wait. A burst of large records is one of fewer, since what comes meanwhile waits for its end.
 *
 * A backlog that is never empty makes all records late, and its frames cold. So when it has been
 * full, or many have waited while twice as many as it holds were taken, what is less than critical
 * has little room until all has been taken, and what is less than normal half of that, so that it
 * isn't let in only to be displaced.
 *
 * What is shed must cost little. So a record is first counted, by its header alone, and joins the
 * backlog only if there is room. Whoever's record is shed is counted all the same: otherwise a
 * share would be found without those whose records are all shed, and one sender could have theirs.
 *
 * One worker's own. Time is an argument.
 */
#ifndef VIADUCT_SHED_H
#define VIADUCT_SHED_H

#include "forward.h"

enum {
	SHED_BACKLOG = 2048, // records: a full ring of a port, with the reserve for control
	SHED_FEW = 64,       // when more than so many have waited
	SHED_STANDING = 2 * SHED_BACKLOG, // while so many were taken,
	SHED_ROOM = 128,    // there is room for normal ones while fewer than so many wait
	SHED_BYTES = 12288, // at once: what comes meanwhile waits as long as for 32 small ones
	SHED_ENOUGH = 3 * FORWARD_BURST, // critical ones: when more wait, it is a pile
	SHED_SENDERS = 4096,             // counted apart; more share counts by chance
	SHED_WINDOW_MS = 4,
	SHED_CRITICAL_SHARES = 2,
	SHED_NO_SHARE = 1 << 16,             // no sender is cut
	SHED_FIRST_SHARE = SHED_BACKLOG / 4, // as long as nothing is known
};

enum shed_rank {
	SHED_CONTROL,
	SHED_CRITICAL,
	SHED_NORMAL,
	SHED_BULK,
	SHED_CRITICAL_OVER, // the sender's share
	SHED_NORMAL_OVER,
	SHED_BULK_OVER,
	SHED_CRITICAL_FAR, // beyond twice the share
	SHED_NORMAL_FAR,
	SHED_BULK_FAR,
	SHED_RANKS,
};

struct shed_sender {
	uint16_t arrived[WIRE_CLASSES]; // in this window, of this class or a higher one
};

/* What decides whether a record is kept. */
struct shed_claim {
	struct shed_sender *sender;
	uint32_t arrived; // of its sender's, with it
	enum wire_class class;
};

/* A record that waits, or the next one. */
struct shed_entry {
	struct forward_input input;
	uint16_t sender;
	uint8_t class;
} __attribute__((aligned(64)));

struct shed_queue {
	uint16_t first;
	uint16_t last;
	unsigned int count;
};

/* What has been shed, which is counted and given back together. */
struct shed_refused {
	uint32_t count;
	uint32_t classes[WIRE_CLASSES];
	void *buffers[FORWARD_BURST + 1]; // the last one is never used
};

struct shed {
	/* what every record needs */
	uint32_t admitted[WIRE_CLASSES]; // so many of a sender's in a window, as claims count them
	struct shed_entry *spare;        // the first of the entries that are free
	struct shed_refused refused;

	unsigned int count;    // records in the backlog
	uint32_t occupied;     // bits of the ranks that have some
	enum shed_rank roomy;  // the ranks before this one have room,
	unsigned int left;     // for so many, before that changes
	enum shed_rank cut;    // those from this one on are shed; those between displace it
	unsigned int control;  // percent, set by the caller at any time
	unsigned int reserved; // so many records, for class control
	uint32_t share;        // of a sender, records a window; SHED_NO_SHARE
	uint32_t handled;      // records taken in this window
	unsigned int waited;   // records taken since few waited
	bool stands;           // a backlog that is never empty
	uint64_t window_ms;    // when it began
	struct shed_queue queues[SHED_RANKS];
	uint16_t next[SHED_BACKLOG + 1]; // of each entry in its queue
	struct shed_entry entries[SHED_BACKLOG + 1];
	struct shed_sender senders[SHED_SENDERS];
};

/* `shed` is zeroed. */
void shed_init(struct shed *shed);

/* Before records are counted and kept, those of a turn. */
void shed_begin(struct shed *shed, struct forward *forward, uint64_t now_ms);

/* After that: counts what was shed, by the counters of `forward`, and gives it back. */
void shed_end(struct shed *shed, struct forward *forward);

/*
 * Where a record is to be described. It is not the backlog's before shed_keep(): otherwise the next
 * one overwrites it.
 */
static inline struct forward_input *shed_next(struct shed *shed)
{
	return &shed->spare->input;
}

/* Counts a record of a sender; how many that are of its class or a higher one. */
static inline uint32_t shed_count_one(struct shed_sender *sender, enum wire_class class)
{
	static const uint16_t ones[WIRE_CLASSES][WIRE_CLASSES] = {
		[WIRE_CONTROL] = {1, 1, 1, 1},
		[WIRE_CRITICAL] = {1, 1, 1},
		[WIRE_NORMAL] = {1, 1},
		[WIRE_BULK] = {1},
	};
	uint64_t arrived, more;

	// all four at once: none overflows before the first does
	if (sender->arrived[WIRE_BULK] < UINT16_MAX) {
		memcpy(&arrived, sender->arrived, sizeof(arrived));
		memcpy(&more, ones[class], sizeof(more));
		arrived += more;
		memcpy(sender->arrived, &arrived, sizeof(arrived));
	}
	return sender->arrived[class];
}

/*
 * Whose record it is, and of which class; fetches the count. Senders are keyed, so that nobody can
 * choose whom to share one with.
 */
static inline struct shed_claim shed_claim(struct shed *shed, const struct forward *forward,
					   const struct wire_words *header,
					   const struct endpoint *source)
{
	const uint64_t *secret = forward->routes->secret;
	struct shed_claim claim = {.class = wire_words_class(header)};
	uint64_t ip[2], hash;
	uint16_t port;

	memcpy(ip, source->ip, sizeof(ip));
	memcpy(&port, source->port, sizeof(port));
	hash = route_mix(ip[0] ^ secret[0], ip[1] ^ secret[1]);
	hash ^= (uint64_t)wire_words_index(header) << 16 | port;
	hash = route_mix(hash ^ secret[2], UINT64_C(0x9e3779b97f4a7c15));
	claim.sender = &shed->senders[hash % SHED_SENDERS];
	__builtin_prefetch(claim.sender, 1);
	return claim;
}

/* Counts the record. */
static inline void shed_count(struct shed_claim *claim)
{
	claim->arrived = shed_count_one(claim->sender, claim->class);
}

/* Whether to keep a record that was counted, or to refuse it. */
static inline bool shed_admits(const struct shed *shed, const struct shed_claim *claim)
{
	return claim->arrived <= shed->admitted[claim->class];
}

/*
 * The same; a record to be refused, which this worker has received in `buffer`, is shed. For up to
 * a burst of them, before any is kept.
 */
static inline bool shed_sift(struct shed *shed, const struct shed_claim *claim, void *buffer)
{
	struct shed_refused *refused = &shed->refused;
	bool keep = shed_admits(shed, claim);

	refused->classes[claim->class] += !keep;
	refused->buffers[refused->count] = buffer;
	refused->count += !keep;
	return keep;
}

/* Takes over the record in shed_next(); sheds it after all, or another, if there is no room. */
void shed_keep(struct shed *shed, struct forward *forward, const struct shed_claim *claim);

/* Whether more wait than what came at once. */
static inline bool shed_overloaded(const struct shed *shed)
{
	return shed->stands && shed->count > SHED_ROOM / 2;
}

/*
 * Whether critical records alone fill the next burst, if all are as large as the first, and are no
 * pile.
 */
static inline bool shed_has_enough(const struct shed *shed)
{
	const struct shed_queue *queue = &shed->queues[SHED_CRITICAL];

	return queue->count <= SHED_ENOUGH &&
	       (queue->count >= FORWARD_BURST ||
		queue->count * shed->entries[queue->first].input.length >= SHED_BYTES);
}

/* All of that with the record in shed_next(), whoever received it. */
void shed_put(struct shed *shed, struct forward *forward);

/* Moves up to `n` records to `inputs`, for forward_burst(), until they have SHED_BYTES; returns how
 * many. */
unsigned int shed_take(struct shed *shed, struct forward_input *inputs, unsigned int n);

#endif
