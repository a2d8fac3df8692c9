#include "fuzz.h"

#include "reputation.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct config_trust trust = {
		.score_half_life = 300, .cut_seconds = 60, .cut_seconds_max = 3600};
	static struct members members;
	struct reputation reputation;
	uint8_t *text = fuzz_copy(data, size);
	FILE *file = fmemopen(text, size ? size : 1, "r");
	unsigned int bad = 0;

	assert(file);
	reputation_init(&reputation, &trust, &members, 1000000);
	if (reputation_read(&reputation, file, 1000000, 1700000000, &bad))
		assert(reputation.count == 0);
	for (size_t i = 0; i < reputation.count; i++) {
		const struct record *record = reputation.records[i];

		assert(i == 0 ||
		       memcmp(&reputation.records[i - 1]->id, &record->id, sizeof(record->id)) < 0);
		assert(score_value(&record->score) > 0 && score_value(&record->score) <= 1);
		assert(record->level <= SCORE_CUT && record->strikes <= REPUTATION_STRIKES);
		assert(record->until_ms <= 1000000 + 3600 * 1000);
		assert(memchr(record->reason, '\0', sizeof(record->reason)));
	}
	reputation_fini(&reputation);
	fclose(file);
	free(text);
	return 0;
}
