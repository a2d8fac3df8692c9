#include "test.h"

#include "bundle.h"

enum {
	MAX = 1232,
	RECORD = 100,
	HEADROOM = 128,
	BUFFER = 2048,
};

static struct session_header headers[3];
static uint8_t buffers[FORWARD_OUTPUTS][BUFFER];
static struct bundles bundles;

static struct aead_job record(unsigned int number, uint16_t length)
{
	struct aead_job job = {.record = buffers[number] + HEADROOM, .length = length};

	memset(job.record, (int)number + 1, length);
	return job;
}

static unsigned int add(unsigned int number, uint16_t length, const struct session_header *header)
{
	struct aead_job job = record(number, length);

	return bundles_add(&bundles, &job, header, buffers[number]);
}

/* Three addresses of one host, which differ in their ports. */
static int begin(void **state)
{
	for (uint8_t i = 0; i < 3; i++) {
		headers[i] = (struct session_header){.bundle_max = MAX, .length = 42};
		headers[i].bytes[37] = i;
	}
	bundles_init(&bundles, BUFFER);
	return 0;
}

/* The numbers of the records in a datagram, as who receives it would find them. */
static unsigned int read_bundle(const struct bundle *bundle, uint16_t length, uint8_t *numbers)
{
	size_t at, end = WIRE_BUNDLE_HEADER;
	unsigned int n = 0;

	if (!bundle->several) {
		assert_int_equal(bundle->length, length);
		numbers[0] = bundle->payload[0] - 1;
		return 1;
	}
	assert_int_equal(bundle->payload[0], WIRE_BUNDLE);
	assert_int_equal(bundle->payload[1], 0);
	while (end < bundle->length) {
		end = wire_bundle_get(&at, bundle->payload, bundle->length, end);
		assert_int_equal(end - at, length);
		numbers[n++] = bundle->payload[at] - 1;
		for (size_t i = at; i < end; i++)
			assert_int_equal(bundle->payload[i], bundle->payload[at]);
	}
	assert_int_equal(end, bundle->length);
	return n;
}

/* Every record once, in order for each address, in as few datagrams as they fit. */
static void test_addresses(void **state)
{
	const unsigned int fit = (MAX - WIRE_BUNDLE_HEADER) / (WIRE_BUNDLE_LENGTH + RECORD);
	unsigned int next[3] = {0, 1, 2}, datagrams = 0;
	uint8_t numbers[FORWARD_OUTPUTS];

	for (unsigned int i = 0; i < FORWARD_OUTPUTS; i++)
		add(i, RECORD, &headers[i % 3]);
	for (unsigned int i = 0; i < bundles.count; i++) {
		const struct bundle *bundle = &bundles.bundle[i];
		unsigned int n = read_bundle(bundle, RECORD, numbers), of = numbers[0] % 3;

		assert_ptr_equal(bundle->header, &headers[of]);
		assert_true(bundle->length <= MAX);
		for (unsigned int j = 0; j < n; j++) {
			assert_int_equal(numbers[j], next[of]);
			next[of] += 3;
		}
	}
	for (unsigned int i = 0; i < 3; i++) {
		assert_int_equal(next[i], FORWARD_OUTPUTS + i);
		datagrams += (FORWARD_OUTPUTS / 3 + fit - 1) / fit;
	}
	assert_int_equal(bundles.count, datagrams);
}

static void test_who_has_not_asked(void **state)
{
	headers[0].bundle_max = 0;
	assert_int_equal(add(0, RECORD, &headers[0]), 0);
	assert_int_equal(add(1, RECORD, &headers[0]), 1);
	// two sessions of one address, of which one has asked
	headers[1] = headers[0];
	headers[1].bundle_max = MAX;
	assert_int_equal(add(2, RECORD, &headers[1]), 2);
	assert_int_equal(add(3, RECORD, &headers[0]), 3);
	assert_int_equal(add(4, RECORD, &headers[1]), 2);
	assert_int_equal(bundles.count, 4);
}

static void test_limits(void **state)
{
	const uint16_t half = (MAX - WIRE_BUNDLE_HEADER) / 2 - WIRE_BUNDLE_LENGTH;
	struct aead_job job;

	assert_int_equal(add(0, half, &headers[0]), 0);
	assert_int_equal(add(1, half, &headers[0]), 0);
	assert_int_equal(bundles.bundle[0].length, MAX);
	assert_int_equal(add(2, half, &headers[0]), 1);
	assert_int_equal(add(3, half + 1, &headers[0]), 2);
	// the lower of two limits
	headers[1] = headers[0];
	headers[1].bundle_max = MAX - 1;
	assert_int_equal(add(4, half, &headers[1]), 3);
	assert_int_equal(add(5, half, &headers[0]), 4);
	// a record far back in its buffer
	job = record(6, RECORD);
	job.record = buffers[6] + BUFFER - (RECORD + WIRE_BUNDLE_LENGTH + RECORD - 1);
	assert_int_equal(bundles_add(&bundles, &job, &headers[2], buffers[6]), 5);
	assert_int_equal(add(7, RECORD, &headers[2]), 6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_addresses, begin),
		cmocka_unit_test_setup(test_who_has_not_asked, begin),
		cmocka_unit_test_setup(test_limits, begin),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
