#include "bundle.h"

/* IP address and UDP port end right before UDP's length and checksum. */
static uint8_t *newest(struct bundles *bundles, const struct session_header *header)
{
	const uint8_t *udp = header->bytes + header->length - 8;

	return &bundles->newest[(udp[-1] + udp[2] + udp[3]) % BUNDLE_PLACES];
}

static void put(struct bundle *bundle, const uint8_t *record, uint16_t length)
{
	uint8_t *at = bundle->payload + bundle->length;

	wire_put16(at, length);
	memcpy(at + WIRE_BUNDLE_LENGTH, record, length);
	bundle->length += WIRE_BUNDLE_LENGTH + length;
}

static void begin(struct bundle *bundle)
{
	bundle->payload -= WIRE_BUNDLE_HEADER + WIRE_BUNDLE_LENGTH;
	bundle->payload[0] = WIRE_BUNDLE;
	bundle->payload[1] = 0;
	wire_put16(bundle->payload + WIRE_BUNDLE_HEADER, bundle->length);
	bundle->length += WIRE_BUNDLE_HEADER + WIRE_BUNDLE_LENGTH;
	bundle->several = true;
}

bool bundles_join(struct bundles *bundles, const struct aead_job *record,
		  const struct session_header *header, unsigned int *number)
{
	uint8_t *noted = newest(bundles, header);
	uint32_t size = WIRE_BUNDLE_LENGTH + record->length;
	struct bundle *bundle;

	*number = *noted;
	*noted = (uint8_t)bundles->count;
	if (*number >= bundles->count)
		return false;
	bundle = &bundles->bundle[*number];
	if (bundle->header->length != header->length ||
	    memcmp(bundle->header->bytes, header->bytes, header->length) != 0)
		return false;
	size += bundle->length + (bundle->several ? 0 : WIRE_BUNDLE_HEADER + WIRE_BUNDLE_LENGTH);
	// each may know another limit; what the first record stands in may end soon
	if (size > header->bundle_max || size > bundle->header->bundle_max ||
	    bundle->payload + size > (uint8_t *)bundle->buffer + bundles->room)
		return false;
	*noted = (uint8_t)*number;
	if (!bundle->several)
		begin(bundle);
	put(bundle, record->record, record->length);
	return true;
}
