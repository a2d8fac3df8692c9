/*
 * What happened to every record and every message, and the names of the reasons why some went no
 * further. One list each gives the enum, the names and the counters.
 *
 * Two ledgers, exact in every published copy:
 *   records:  received = opened + every record reason
 *   messages: opened + made + copies = delivered + consumed + every message reason
 * and so for each class. Records of no known class (truncated, version, reserved, bundle) are in
 * the sum only.
 */
#ifndef VIADUCT_COUNTERS_H
#define VIADUCT_COUNTERS_H

#include <stdbool.h>
#include <stdint.h>

#include "wire.h"

/* Why a record was not opened. */
#define DROP_RECORDS(X)                                                                            \
	X(TRUNCATED, "truncated", "shorter than the smallest record")                              \
	X(VERSION, "version", "of another version or type")                                        \
	X(RESERVED, "reserved", "a reserved bit is set")                                           \
	X(SESSION_UNKNOWN, "session_unknown", "nobody has this session index")                     \
	X(SESSION_STALE, "session_stale", "the index of a session that ended")                     \
	X(REVOKED, "revoked", "of an identity that was revoked")                                   \
	X(OVERSIZED, "oversized", "longer than the session's mtu allows")                          \
	X(LANE, "lane", "a lane that was not agreed")                                              \
	X(KEY_PHASE, "key_phase", "no key for this key phase")                                     \
	X(KEY_LIMIT, "key_limit", "too many failed opens under this key")                          \
	X(REPLAY_OLD, "replay_old", "from below the replay window")                                \
	X(REPLAY_SEEN, "replay_seen", "came before")                                               \
	X(AUTH, "auth", "failed authentication")                                                   \
	X(MALFORMED, "malformed", "authentic, but its messages are not well-formed")               \
	X(HANDOVER_FULL, "handover_full", "the worker that owns the lane was too far behind")      \
	X(SHED_BULK, "shed_bulk", "of class bulk, when there was too much to do")                  \
	X(SHED_NORMAL, "shed_normal", "of class normal, when there was too much to do")            \
	X(SHED_CRITICAL, "shed_critical", "of class critical, when there was too much to do")      \
	X(SHED_CONTROL, "shed_control", "of class control, when there was too much to do")         \
	X(STRANGER, "stranger", "not from its session's address, when there was too much to do")   \
	X(RATE, "rate", "over the rate of its sender, who was just told so")                       \
	X(BUNDLE, "bundle", "the rest of a bundle, behind its last whole record")                  \
	X(NO_BUFFER, "no_buffer", "came in a bundle, when there were no buffers")

/* Why a message went no further; the third says what its sender is told (0: nothing). */
#define DROP_MESSAGES(X)                                                                           \
	X(NO_ROUTE, "no_route", WIRE_REASON_NO_ROUTE, "no peer of this id is here")                \
	X(TOO_LARGE, "too_large", WIRE_REASON_TOO_LARGE, "longer than the receiver allows")        \
	X(HOP_LIMIT, "hop_limit", WIRE_REASON_HOP_LIMIT, "came with a hop limit of zero")          \
	X(UNSUPPORTED, "unsupported", WIRE_REASON_UNSUPPORTED, "a kind that is not forwarded")     \
	X(TX_FULL, "tx_full", WIRE_REASON_TX_FULL, "the port took no more")                        \
	X(KEY_EXHAUSTED, "key_exhausted", WIRE_REASON_KEY_EXHAUSTED, "the receiver must rekey")    \
	X(NO_BUFFER, "no_buffer", WIRE_REASON_NO_BUFFER, "out of buffers")                         \
	X(POLICY, "policy", WIRE_REASON_POLICY, "its cluster may not talk to that one")            \
	X(PUBLISHER_RATE, "publisher_rate", WIRE_REASON_PUBLISHER_RATE,                            \
	  "more than one peer may publish")                                                        \
	X(TOPIC_RATE, "topic_rate", WIRE_REASON_TOPIC_RATE,                                        \
	  "more than may be published to one topic")                                               \
	X(TOPIC_FULL, "topic_full", WIRE_REASON_TOPIC_FULL,                                        \
	  "too much waits for a topic's members")                                                  \
	X(RATE, "rate", WIRE_REASON_RATE, "over the rate of its sender, or of the cluster")        \
	X(NO_INSTANCE, "no_instance", WIRE_REASON_NO_INSTANCE, "the service has no instance")      \
	X(BUSY, "busy", WIRE_REASON_BUSY, "too many requests to services are under way")           \
	X(UNASKED, "unasked", 0, "a response through a service that nobody waits for")             \
	X(CONTROL_FULL, "control_full", 0, "too much waited for the control thread")               \
	X(SESSION_GONE, "session_gone", 0, "the relay's own, for a session that has ended")

enum drop_record {
#define X(name, text, help) DROP_RECORD_##name,
	DROP_RECORDS(X)
#undef X
		DROP_RECORD_COUNT,
	// bits of the reasons for which there is no class to count
	DROP_RECORD_CLASSLESS = 1 << DROP_RECORD_TRUNCATED | 1 << DROP_RECORD_VERSION |
				1 << DROP_RECORD_RESERVED | 1 << DROP_RECORD_BUNDLE,
};

enum drop_message {
#define X(name, text, reason, help) DROP_MESSAGE_##name,
	DROP_MESSAGES(X)
#undef X
		DROP_MESSAGE_COUNT,
};

/*
 * What of the sums below was of which class, which is the sender's claim where nothing was opened.
 * An array each, since those that count every message must be cheap to index.
 */
struct counters_classes {
	uint64_t records_opened[WIRE_CLASSES];
	uint64_t messages_opened[WIRE_CLASSES];
	uint64_t messages_made[WIRE_CLASSES];
	uint64_t messages_copies[WIRE_CLASSES];
	uint64_t messages_delivered[WIRE_CLASSES];
	uint64_t messages_consumed[WIRE_CLASSES];
	uint64_t records_dropped[WIRE_CLASSES][DROP_RECORD_COUNT];
	uint64_t messages_dropped[WIRE_CLASSES][DROP_MESSAGE_COUNT];
};

/* Counted by one worker; others read published copies. Plain sums, so that readers add them up. */
struct counters {
	uint64_t records_received;
	uint64_t records_opened;
	uint64_t records_dropped[DROP_RECORD_COUNT];
	uint64_t messages_opened;
	uint64_t messages_made;      // by the relay itself: pongs, errors, control
	uint64_t messages_copies;    // fan-out
	uint64_t messages_delivered; // accepted by the port
	uint64_t messages_consumed;  // by the relay itself
	uint64_t messages_dropped[DROP_MESSAGE_COUNT];
	uint64_t records_sent;
	uint64_t handed_over; // to other workers, which count them as received
	uint64_t foreign;     // packets that were no datagrams for the data port
	uint64_t blocked;     // packets of blocked sources, see filter.h
	struct counters_classes classes;
};

/* Of what both the sum and the class tell; worker. */
static inline void counters_made(struct counters *counters, uint8_t class)
{
	counters->messages_made++;
	counters->classes.messages_made[class]++;
}

static inline void counters_copied(struct counters *counters, uint8_t class, uint32_t messages)
{
	counters->messages_copies += messages;
	counters->classes.messages_copies[class] += messages;
}

static inline void counters_delivered(struct counters *counters, uint8_t class, uint32_t messages)
{
	counters->messages_delivered += messages;
	counters->classes.messages_delivered[class] += messages;
}

static inline void counters_consumed(struct counters *counters, uint8_t class)
{
	counters->messages_consumed++;
	counters->classes.messages_consumed[class]++;
}

static inline void counters_dropped(struct counters *counters, uint8_t class,
				    enum drop_message reason, uint32_t messages)
{
	counters->messages_dropped[reason] += messages;
	counters->classes.messages_dropped[class][reason] += messages;
}

static inline void counters_opened(struct counters *counters, uint8_t class, uint32_t records,
				   uint32_t messages)
{
	counters->records_received += records;
	counters->records_opened += records;
	counters->messages_opened += messages;
	counters->classes.records_opened[class] += records;
	counters->classes.messages_opened[class] += messages;
}

/* A record that wasn't opened, or wasn't well-formed. `header`: its first WIRE_RECORD_HEADER bytes.
 */
static inline void counters_refused(struct counters *counters, enum drop_record reason,
				    const uint8_t *header)
{
	counters->records_received++;
	counters->records_dropped[reason]++;
	if (!(DROP_RECORD_CLASSLESS >> reason & 1))
		counters->classes.records_dropped[header[1] >> WIRE_CLASS_SHIFT][reason]++;
}

/*
 * A copy for readers of other threads, behind a sequence lock. The worker writes it now and then
 * and before it sleeps; it never waits.
 */
struct counters_published {
	uint32_t sequence; // odd while the worker writes
	struct counters counters;
} __attribute__((aligned(64)));

/* Worker: makes `counters` visible to readers. */
void counters_publish(struct counters_published *to, const struct counters *counters);

/* Any thread: adds the last published copy to `sum`. */
void counters_add(struct counters *sum, const struct counters_published *from);

/* Whether both ledgers balance. */
bool counters_balance(const struct counters *counters);

/* Whether those of each class do, and add up to the sums. */
bool counters_balance_classes(const struct counters *counters);

const char *drop_record_name(enum drop_record reason);
const char *drop_message_name(enum drop_message reason);

#endif
