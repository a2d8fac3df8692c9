#include "fuzz.h"

#include "wire.h"

static void parse_record(const uint8_t *data, size_t size)
{
	struct wire_record record;
	uint8_t header[WIRE_RECORD_HEADER];

	if (wire_record_get(&record, data, size) != WIRE_OK)
		return;
	assert(size >= WIRE_RECORD_MIN);
	// every bit of an accepted header means something
	wire_record_put(header, &record);
	assert(memcmp(header, data, sizeof(header)) == 0);
}

static void walk_bundle(const uint8_t *data, size_t size)
{
	size_t begin, end = WIRE_BUNDLE_HEADER, before;

	while (end < size) {
		before = end;
		end = wire_bundle_get(&begin, data, size, end);
		if (!end)
			return;
		assert(begin == before + WIRE_BUNDLE_LENGTH && end >= begin + WIRE_RECORD_MIN);
		assert(end <= size && wire_get16(data + before) == end - begin);
	}
}

static void walk_messages(uint8_t *text, size_t size)
{
	size_t at = 0, end;

	for (; at < size; at = end) {
		struct wire_message message;
		uint8_t header[WIRE_MESSAGE_HEADER];
		struct wire_id address;

		end = wire_message_get(&message, text, size, at);
		if (!end)
			return;
		assert(end > at && end <= size);
		assert(message.data == text + at && message.size == end - at);
		assert(message.size >= WIRE_MESSAGE_HEADER + message.length);
		memcpy(&address, message.data + 8, sizeof(address));
		wire_message_put(header, message.length, message.kind, message.hop_limit,
				 message.flags, wire_message_tag(message.data), &address);
		assert(memcmp(header, message.data, sizeof(header)) == 0);
	}
	assert(at == size);
}

static void parse_id(const uint8_t *data, size_t size)
{
	char again[WIRE_ID_TEXT + 1], *text = malloc(size + 1);
	struct wire_id id;

	assert(text);
	memcpy(text, data, size);
	text[size] = '\0';
	if (wire_id_parse(&id, text) == 0) {
		wire_id_format(again, &id);
		assert(strcmp(again, text) == 0);
	}
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy = fuzz_copy(data, size);

	parse_record(copy, size);
	walk_bundle(copy, size);
	walk_messages(copy, size);
	if (size)
		parse_id(copy, size);
	free(copy);
	return 0;
}
