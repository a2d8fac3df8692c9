#include "fuzz.h"

#include "answer.h"

static void parse_line(const char *text, size_t size)
{
	struct welcome welcome;
	struct refusal refusal;
	char address[ANSWER_ADDRESS_TEXT];
	int r = answer_parse_line(&welcome, &refusal, text, size);

	if (r == 0) {
		answer_format_address(address, &welcome.data);
		assert(welcome.lanes_up >= 1 && welcome.lanes_up <= WIRE_LANES_MAX);
		assert(welcome.lanes_down >= 1 && welcome.lanes_down <= WIRE_LANES_MAX);
		assert(welcome.mtu >= WIRE_MTU_MIN && welcome.mtu <= WIRE_MTU_MAX);
		assert(welcome.max_payload <= welcome.mtu - WIRE_PAYLOAD_OVERHEAD);
		assert(welcome.keepalive && welcome.expiry && welcome.rekey);
		assert(welcome.key_records && welcome.key_records <= WIRE_KEY_RECORDS);
	} else if (r == -ECONNREFUSED) {
		assert(memchr(refusal.code, '\0', sizeof(refusal.code)));
		assert(memchr(refusal.detail, '\0', sizeof(refusal.detail)));
		assert(refusal.retry_after >= 0);
	}
}

static void parse_event(const char *text, size_t size)
{
	struct event event;

	if (answer_parse_event(&event, text, size) == 0) {
		assert(event.kind != EVENT_PATH ||
		       memchr(event.address, '\0', sizeof(event.address)));
		assert(event.kind != EVENT_CHALLENGE ||
		       memchr(event.token, '\0', sizeof(event.token)));
		assert(memchr(event.change, '\0', sizeof(event.change)));
		assert(memchr(event.name, '\0', sizeof(event.name)));
	}
}

static void parse_list(const char *text, size_t size)
{
	struct list list;

	if (answer_parse_list(&list, text, size) == 0) {
		for (size_t i = 0; i < list.count; i++)
			assert(strlen(list.entries[i].name) <= size);
		list_free(&list);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_copy(data, size);
	uint64_t sequence;

	parse_line(text, size);
	parse_event(text, size);
	parse_list(text, size);
	answer_parse_ok(text, size);
	answer_parse_watch(&sequence, text, size);
	free(text);
	return 0;
}
