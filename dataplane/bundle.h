/*
 * Which sealed records leave in which datagrams: docs/protocol.md section 4. Pure.
 *
 * Records to one address, of peers that have said so, follow each other in a datagram: kernels and
 * cards take most of their time by the packet, and the receiver's kernel too. Nothing waits for
 * more to come. Records to one session stay in order.
 */
#ifndef VIADUCT_BUNDLE_H
#define VIADUCT_BUNDLE_H

#include "forward.h"

enum { BUNDLE_PLACES = 32 }; // a power of two

/* What is to be one datagram. */
struct bundle {
	uint8_t *payload;
	void *buffer; // that it is in
	const struct session_header *header;
	uint16_t length;
	bool several;
};

/* Those of one burst. */
struct bundles {
	size_t room; // from where a buffer begins to where it ends
	unsigned int count;
	struct bundle bundle[FORWARD_OUTPUTS];
	uint8_t newest[BUNDLE_PLACES]; // by hash of the address: which one to try
};

static inline void bundles_init(struct bundles *bundles, size_t room)
{
	bundles->room = room;
	bundles->count = 0;
	memset(bundles->newest, 0xff, sizeof(bundles->newest));
}

/*
 * Copies a record behind those to the same address; false if there are none, or they have no room.
 * The newest then is the one that comes next.
 */
bool bundles_join(struct bundles *bundles, const struct aead_job *record,
		  const struct session_header *header, unsigned int *number);

/*
 * Places a sealed record. In front of it its buffer has room for a header and the WIRE_BUNDLE
 * bytes. Returns the number of its datagram; if that is the last of `count` and new, it is in the
 * record's own buffer, else it was copied.
 */
static inline unsigned int bundles_add(struct bundles *bundles, const struct aead_job *record,
				       const struct session_header *header, void *buffer)
{
	unsigned int number;
	struct bundle *bundle;

	if (header->bundle_max && bundles_join(bundles, record, header, &number))
		return number;
	number = bundles->count++;
	bundle = &bundles->bundle[number];
	bundle->payload = record->record;
	bundle->buffer = buffer;
	bundle->header = header;
	bundle->length = record->length;
	bundle->several = false;
	return number;
}

#endif
