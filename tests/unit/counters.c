#include "test.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "counters.h"
#include "wire.h"

enum { ROUNDS = 100000 };

static uint64_t *words(struct counters *counters)
{
	return (uint64_t *)counters;
}

static void test_names(void **state)
{
	// operators read them: none is missing, none is there twice
	for (int i = 0; i < DROP_RECORD_COUNT; i++) {
		assert_true(strlen(drop_record_name(i)) > 0);
		for (int j = 0; j < i; j++)
			assert_string_not_equal(drop_record_name(i), drop_record_name(j));
	}
	for (int i = 0; i < DROP_MESSAGE_COUNT; i++) {
		assert_true(strlen(drop_message_name(i)) > 0);
		for (int j = 0; j < i; j++)
			assert_string_not_equal(drop_message_name(i), drop_message_name(j));
	}
	assert_string_equal(drop_record_name(DROP_RECORD_REPLAY_SEEN), "replay_seen");
	assert_string_equal(drop_message_name(DROP_MESSAGE_TX_FULL), "tx_full");
	// what a sender is told has the same name on the wire
#define X(name, text, reason, help)                                                                \
	if (reason)                                                                                \
		assert_string_equal(text, wire_reason_name(reason));
	DROP_MESSAGES(X)
#undef X
}

static void test_balance(void **state)
{
	struct counters counters = {0};

	assert_true(counters_balance(&counters));
	counters.records_received = 10;
	assert_false(counters_balance(&counters));
	counters.records_opened = 10 - DROP_RECORD_COUNT + 3;
	for (int i = 0; i < DROP_RECORD_COUNT - 3; i++)
		counters.records_dropped[i] = 1;
	assert_true(counters_balance(&counters));
	counters.records_dropped[DROP_RECORD_COUNT - 1] = 1;
	assert_false(counters_balance(&counters));
	counters.records_received++;
	assert_true(counters_balance(&counters));

	counters.messages_opened = 5;
	counters.messages_made = 6;
	counters.messages_copies = 7;
	counters.messages_delivered = 8;
	counters.messages_consumed = 9;
	assert_false(counters_balance(&counters));
	counters.messages_dropped[DROP_MESSAGE_COUNT - 1] = 1;
	assert_true(counters_balance(&counters));
	// records and messages are two ledgers
	counters.messages_dropped[0]++;
	counters.records_received++;
	assert_false(counters_balance(&counters));
	// what is no part of them
	counters.messages_dropped[0]--;
	counters.records_received--;
	counters.records_sent = counters.handed_over = counters.foreign = counters.blocked = 99;
	assert_true(counters_balance(&counters));
}

static void test_classes(void **state)
{
	static const uint8_t header[WIRE_RECORD_HEADER] = {0x10, WIRE_CRITICAL << WIRE_CLASS_SHIFT};
	struct counters counters = {0};

	assert_true(counters_balance_classes(&counters));
	counters_opened(&counters, WIRE_NORMAL, 1, 3);
	assert_false(counters_balance_classes(&counters));
	counters_delivered(&counters, WIRE_NORMAL, 2);
	counters_dropped(&counters, WIRE_NORMAL, DROP_MESSAGE_TX_FULL, 1);
	assert_true(counters_balance_classes(&counters));
	// what is missing in one class doesn't make up for too much in another
	counters_made(&counters, WIRE_BULK);
	counters_consumed(&counters, WIRE_CONTROL);
	assert_true(counters_balance(&counters));
	assert_false(counters_balance_classes(&counters));
	counters_consumed(&counters, WIRE_BULK);
	counters_copied(&counters, WIRE_CONTROL, 1);
	assert_true(counters_balance_classes(&counters));

	counters_refused(&counters, DROP_RECORD_AUTH, header);
	assert_int_equal(counters.classes.records_dropped[WIRE_CRITICAL][DROP_RECORD_AUTH], 1);
	// the class of what isn't a record is nobody's claim
	counters_refused(&counters, DROP_RECORD_VERSION, header);
	assert_int_equal(counters.classes.records_dropped[WIRE_CRITICAL][DROP_RECORD_VERSION], 0);
	assert_true(counters_balance(&counters) && counters_balance_classes(&counters));
	counters.records_dropped[DROP_RECORD_AUTH]++;
	assert_false(counters_balance_classes(&counters));
}

static void test_sum(void **state)
{
	struct counters_published published[2];
	struct counters counters, sum = {0};

	memset(published, 0, sizeof(published));
	for (unsigned int i = 0; i < 2; i++) {
		for (size_t j = 0; j < sizeof(counters) / 8; j++)
			words(&counters)[j] = 1000 * (i + 1) + j;
		counters_publish(&published[i], &counters);
		counters_publish(&published[i], &counters);
	}
	for (unsigned int i = 0; i < 2; i++)
		counters_add(&sum, &published[i]);
	for (size_t j = 0; j < sizeof(counters) / 8; j++)
		assert_int_equal(words(&sum)[j], 3000 + 2 * j);
}

struct shared {
	struct counters_published published;
	bool started; // reader writes, writer waits for it (atomic)
};

static void *publish(void *arg)
{
	struct shared *shared = arg;
	struct counters counters = {0};

	while (!__atomic_load_n(&shared->started, __ATOMIC_RELAXED))
		;
	for (uint64_t i = 0; i < ROUNDS; i++) {
		// both ledgers move in their first and last words, and balance at the end only
		counters.records_received += 2;
		counters.records_opened++;
		counters.messages_opened += 3;
		counters.messages_delivered += 2;
		counters.records_dropped[DROP_RECORD_COUNT - 1]++;
		counters.messages_dropped[DROP_MESSAGE_COUNT - 1]++;
		counters.foreign++;
		counters_publish(&shared->published, &counters);
		// between none and a good many times as long as reading takes
		for (volatile uint64_t pause = i % 1024; pause; pause--)
			;
	}
	return NULL;
}

static void test_copies_are_whole(void **state)
{
	struct shared shared;
	struct counters sum, last = {0};
	unsigned long different = 0;
	pthread_t writer;

	memset(&shared, 0, sizeof(shared));
	assert_int_equal(pthread_create(&writer, NULL, publish, &shared), 0);
	do {
		memset(&sum, 0, sizeof(sum));
		counters_add(&sum, &shared.published);
		__atomic_store_n(&shared.started, true, __ATOMIC_RELAXED);
		assert_true(counters_balance(&sum));
		assert_int_equal(sum.records_received, 2 * sum.foreign);
		assert_int_equal(sum.messages_opened, 3 * sum.foreign);
		assert_true(sum.foreign >= last.foreign);
		different += sum.foreign != last.foreign;
		last = sum;
	} while (sum.foreign < ROUNDS);
	assert_int_equal(pthread_join(writer, NULL), 0);
	print_message("%lu copies\n", different);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_balance),
		cmocka_unit_test(test_classes),
		cmocka_unit_test(test_sum),
		cmocka_unit_test(test_copies_are_whole),
	};

	return cmocka_run_group_tests_name("counters", tests, NULL, NULL);
}
