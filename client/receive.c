#include "receive.h"

bool receive_check(uint8_t *text, size_t length)
{
	struct wire_message message;
	size_t offset = 0;

	do {
		offset = wire_message_get(&message, text, length, offset);
	} while (offset && offset < length);
	return offset == length && length;
}

enum receive_result receive_open(struct received *received, struct receiver *receiver,
				 uint8_t *data, size_t size)
{
	struct wire_record *record = &received->record;
	struct receive_lane *lane;
	struct keys *keys;
	int length;

	if (size > receiver->size_max || wire_record_get(record, data, size) != WIRE_OK ||
	    record->index != receiver->index || record->lane >= receiver->lane_count)
		return RECEIVE_MALFORMED;
	received->current = record->phase == (receiver->current->epoch & 1);
	keys = received->current ? receiver->current : receiver->old;
	if (!keys)
		return RECEIVE_MALFORMED;
	lane = &receiver->lanes[record->lane];
	if (window_check(&lane->window, record->sequence) != WINDOW_NEW)
		return RECEIVE_REPLAYED;
	length = keys_open(keys, data, size);
	if (length < 0)
		return RECEIVE_FORGED;
	window_accept(&lane->window, record->sequence);
	lane->seen++;
	if (received->current)
		lane->used++;
	received->text = data + WIRE_RECORD_HEADER;
	received->length = (size_t)length;
	return receive_check(received->text, received->length) ? RECEIVE_OK : RECEIVE_MALFORMED;
}
