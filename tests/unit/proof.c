#include "test.h"

#include <errno.h>

#include "proof.h"

static const struct proof alice = {
	.proved = 1800000000,
	.not_before = 1700000000,
	.not_after = 1900000000,
	.peer = {{"0123456789abcdef"},
		 {"fedcba9876543210"},
		 "spiffe://lab/team/alice",
		 "lab",
		 "team"},
};

static void test_kept(void **state)
{
	struct proof other = alice, proof;
	uint8_t packed[PROOF_MAX];

	assert_int_equal(proof_unpack(&proof, packed, proof_pack(packed, &alice)), 0);
	assert_memory_equal(&proof, &alice, sizeof(proof));
	// a common name, and the longest
	other.peer = (struct identity){.id = alice.peer.id};
	memset(other.peer.name, 'x', IDENTITY_NAME_MAX);
	assert_int_equal(proof_pack(packed, &other), PROOF_MAX);
	assert_int_equal(proof_unpack(&proof, packed, PROOF_MAX), 0);
	assert_memory_equal(&proof, &other, sizeof(proof));
}

static void test_not_one(void **state)
{
	struct proof proof;
	uint8_t packed[PROOF_MAX + 1] = {0};
	size_t length = proof_pack(packed, &alice);

	for (size_t i = 0; i < PROOF_FIXED + 1; i++)
		assert_int_equal(proof_unpack(&proof, packed, i), -EINVAL);
	assert_int_equal(proof_unpack(&proof, packed, PROOF_MAX + 1), -EINVAL);
	// a SPIFFE ID cut off, or with a control character
	assert_int_equal(proof_unpack(&proof, packed, length - sizeof("alice")), -EINVAL);
	packed[length - 1] = '\n';
	assert_int_equal(proof_unpack(&proof, packed, length), -EINVAL);
	packed[length - 1] = 'e';
	assert_int_equal(proof_unpack(&proof, packed, length), 0);
	packed[0] ^= 1;
	assert_int_equal(proof_unpack(&proof, packed, length), -EINVAL);
}

static void test_holds(void **state)
{
	enum { AGE = 1000 };
	struct proof proof = alice;

	assert_true(proof_holds(&proof, proof.proved, AGE));
	assert_true(proof_holds(&proof, proof.proved + AGE - 1, AGE));
	assert_false(proof_holds(&proof, proof.proved + AGE, AGE));
	assert_false(proof_holds(&proof, proof.proved - 1, AGE)); // from the future
	proof.not_before = proof.proved + 1;
	assert_false(proof_holds(&proof, proof.proved, AGE));
	assert_true(proof_holds(&proof, proof.proved + 1, AGE));
	proof.not_after = proof.proved + 1;
	assert_true(proof_holds(&proof, proof.proved + 1, AGE));
	assert_false(proof_holds(&proof, proof.proved + 2, AGE));
	proof = (struct proof){INT64_MIN, INT64_MIN, INT64_MAX, alice.peer};
	assert_false(proof_holds(&proof, alice.proved, AGE));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kept),
		cmocka_unit_test(test_not_one),
		cmocka_unit_test(test_holds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
