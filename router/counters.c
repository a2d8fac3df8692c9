#include "counters.h"

#include <stddef.h>

enum { WORDS = sizeof(struct counters) / sizeof(uint64_t) };

void counters_publish(struct counters_published *to, const struct counters *counters)
{
	uint64_t *out = (uint64_t *)&to->counters;
	const uint64_t *in = (const uint64_t *)counters;
	uint32_t sequence = to->sequence;

	__atomic_store_n(&to->sequence, sequence + 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	for (size_t i = 0; i < WORDS; i++)
		__atomic_store_n(&out[i], in[i], __ATOMIC_RELAXED);
	__atomic_store_n(&to->sequence, sequence + 2, __ATOMIC_RELEASE);
}

void counters_add(struct counters *sum, const struct counters_published *from)
{
	const uint64_t *in = (const uint64_t *)&from->counters;
	uint64_t *out = (uint64_t *)sum;
	uint64_t copy[WORDS];
	uint32_t before, after;

	do {
		before = __atomic_load_n(&from->sequence, __ATOMIC_ACQUIRE);
		for (size_t i = 0; i < WORDS; i++)
			copy[i] = __atomic_load_n(&in[i], __ATOMIC_RELAXED);
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		after = __atomic_load_n(&from->sequence, __ATOMIC_RELAXED);
	} while (before != after || (before & 1));
	for (size_t i = 0; i < WORDS; i++)
		out[i] += copy[i];
}

bool counters_balance(const struct counters *counters)
{
	uint64_t records = counters->records_opened;
	uint64_t messages = counters->messages_delivered + counters->messages_consumed;

	for (int i = 0; i < DROP_RECORD_COUNT; i++)
		records += counters->records_dropped[i];
	for (int i = 0; i < DROP_MESSAGE_COUNT; i++)
		messages += counters->messages_dropped[i];
	return counters->records_received == records &&
	       counters->messages_opened + counters->messages_made + counters->messages_copies ==
		       messages;
}

bool counters_balance_classes(const struct counters *counters)
{
	const struct counters_classes *classes = &counters->classes;
	uint64_t opened = 0, delivered = 0, all = 0;

	for (int class = 0; class < WIRE_CLASSES; class ++) {
		uint64_t in = classes->messages_opened[class] + classes->messages_made[class] +
			      classes->messages_copies[class];
		uint64_t out =
			classes->messages_delivered[class] + classes->messages_consumed[class];

		for (int i = 0; i < DROP_MESSAGE_COUNT; i++)
			out += classes->messages_dropped[class][i];
		if (in != out)
			return false;
		all += in;
		opened += classes->records_opened[class];
		delivered += classes->messages_delivered[class];
	}
	for (int i = 0; i < DROP_RECORD_COUNT; i++) {
		uint64_t dropped = 0;

		if (DROP_RECORD_CLASSLESS >> i & 1)
			continue;
		for (int class = 0; class < WIRE_CLASSES; class ++)
			dropped += classes->records_dropped[class][i];
		if (dropped != counters->records_dropped[i])
			return false;
	}
	return opened == counters->records_opened && delivered == counters->messages_delivered &&
	       all == counters->messages_opened + counters->messages_made +
			       counters->messages_copies;
}

const char *drop_record_name(enum drop_record reason)
{
	static const char *const names[DROP_RECORD_COUNT] = {
#define X(name, text, help) text,
		DROP_RECORDS(X)
#undef X
	};

	return names[reason];
}

const char *drop_message_name(enum drop_message reason)
{
	static const char *const names[DROP_MESSAGE_COUNT] = {
#define X(name, text, reason, help) text,
		DROP_MESSAGES(X)
#undef X
	};

	return names[reason];
}
