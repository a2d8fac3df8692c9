#include "unbundle.h"

/* Copies a record, and the headers that it came with, to a buffer of its own. False: there is none.
 */
static bool move(struct forward *forward, struct forward_input *record, const uint8_t *frame)
{
	struct forward_spare *spare;

	if (!forward->spare_count)
		forward->spare_count =
			forward->ops->spares(forward->worker, forward->spares, FORWARD_SPARES);
	if (!forward->spare_count)
		return false;
	spare = &forward->spares[--forward->spare_count];
	memcpy(spare->record - record->frame_length, frame, record->frame_length);
	memcpy(spare->record, record->record, record->length);
	record->buffer = spare->buffer;
	record->record = spare->record;
	return true;
}

unsigned int unbundle(struct forward *forward, struct forward_input *bundle, size_t *at,
		      struct forward_input *records, unsigned int n, uint64_t now_ms)
{
	const uint8_t *frame = bundle->record - bundle->frame_length;
	unsigned int count = 0;
	size_t begin;

	forward->now_ms = now_ms;
	while (count < n && *at < bundle->length) {
		struct forward_input *record = &records[count];
		size_t end = wire_bundle_get(&begin, bundle->record, bundle->length, *at);

		*record = *bundle;
		record->buffer = NULL;
		if (!end) {
			record->record += *at;
			*at = bundle->length;
			forward_refuse(forward, record, DROP_RECORD_BUNDLE);
			break;
		}
		record->record += begin;
		record->length = (uint16_t)(end - begin);
		*at = end;
		if (move(forward, record, frame))
			count++;
		else
			forward_refuse(forward, record, DROP_RECORD_NO_BUFFER);
	}
	if (*at >= bundle->length) {
		forward->ops->release(forward->worker, &bundle->buffer, 1);
		bundle->buffer = NULL;
	}
	return count;
}
