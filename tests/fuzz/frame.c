#include "fuzz.h"

#include "dataplane.h"
#include "frame.h"

/* What answers a frame is a frame whose ways are the other way round. */
static void answer(const struct frame *frame, const struct endpoint *source, const uint8_t *data)
{
	enum { RECORD = 100 };
	struct session_header header;
	struct endpoint back;
	struct frame parsed;
	uint8_t answered[SESSION_HEADER_MAX + RECORD] = {0};
	int r = dataplane_reply_header(&header, data, frame->header_length,
				       frame->record_length & 1);

	assert(r == 0);
	// the same but for IPv4's options
	assert(header.length <= frame->header_length);
	assert((frame->header_length - header.length) % 4 == 0);
	memcpy(answered, header.bytes, header.length);
	frame_finish(answered, header.length, RECORD);
	parsed = frame_parse(&back, answered, header.length + RECORD);
	// port 0 is nobody's to answer from
	assert(parsed.header_length || frame->port == 0);
	if (!parsed.header_length)
		return;
	assert(parsed.header_length == header.length);
	assert(parsed.record_length == RECORD);
	assert(parsed.port == wire_get16(source->port));
	assert(wire_get16(back.port) == frame->port);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy = fuzz_copy(data, size);
	struct session_header header;
	struct endpoint source;
	struct frame frame;

	frame = frame_parse(&source, copy, size);
	if (frame.header_length) {
		assert(frame.header_length <= SESSION_HEADER_MAX);
		assert((size_t)frame.header_length + frame.record_length <= size);
		answer(&frame, &source, copy);
	}
	// events carry headers cut off behind UDP's, and so may anything else
	dataplane_reply_header(&header, copy, size, size & 1);
	free(copy);
	return 0;
}
