#include "frame.h"

#include "dataplane.h"

#include <errno.h>

enum {
	VLAN_SIZE = 4,
	IPV6_SIZE = 40,
	TYPE_VLAN = 0x8100,
	TYPE_IPV6 = 0x86dd,
	IPV4_DONT_FRAGMENT = 0x4000,
	HOP_LIMIT = 64,
};

// Where the parts of a frame's headers are.
struct layout {
	uint16_t type;     // of what is in the Ethernet frame
	uint16_t ethernet; // size of its header
	uint16_t ip;       // size of the IP header
	uint16_t rest;     // IP payload, as the IP header says
};

static bool layout_parse(struct layout *layout, const uint8_t *data, size_t length)
{
	const uint8_t *ip;
	size_t rest, total;

	if (length < FRAME_ETHERNET + VLAN_SIZE + FRAME_IPV4 || ((data[0] | data[6]) & FRAME_GROUP))
		return false;
	layout->type = wire_get16(data + 12);
	layout->ethernet = FRAME_ETHERNET;
	if (layout->type == TYPE_VLAN) {
		layout->type = wire_get16(data + 16);
		layout->ethernet += VLAN_SIZE;
	}
	ip = data + layout->ethernet;
	rest = length - layout->ethernet;
	if (layout->type == FRAME_TYPE_IPV4) {
		layout->ip = 4 * (ip[0] & 0xf);
		if (ip[0] >> 4 != 4 || layout->ip < FRAME_IPV4 || ip[9] != FRAME_PROTOCOL_UDP ||
		    (wire_get16(ip + 6) & FRAME_FRAGMENT))
			return false;
		total = wire_get16(ip + 2);
	} else if (layout->type == TYPE_IPV6) {
		layout->ip = IPV6_SIZE;
		if (rest < IPV6_SIZE || ip[0] >> 4 != 6 || ip[6] != FRAME_PROTOCOL_UDP)
			return false;
		total = IPV6_SIZE + (size_t)wire_get16(ip + 4);
	} else {
		return false;
	}
	if (rest < (size_t)layout->ip + FRAME_UDP || total < (size_t)layout->ip + FRAME_UDP)
		return false;
	layout->rest = (uint16_t)(total - layout->ip);
	return true;
}

struct frame frame_parse_other(struct endpoint *source, const uint8_t *data, size_t length)
{
	struct layout layout;
	struct frame none = {0};
	const uint8_t *ip, *udp;
	size_t header;
	uint16_t size;

	if (!layout_parse(&layout, data, length))
		return none;
	ip = data + layout.ethernet;
	udp = ip + layout.ip;
	header = layout.ethernet + layout.ip + FRAME_UDP;
	size = wire_get16(udp + 4);
	if (header > SESSION_HEADER_MAX || wire_get16(udp) == 0 || size < FRAME_UDP ||
	    size > layout.rest || header - FRAME_UDP + layout.rest > length)
		return none;
	if (layout.type == FRAME_TYPE_IPV4) {
		memset(source->ip, 0, 10);
		memset(source->ip + 10, 0xff, 2);
		memcpy(source->ip + 12, ip + 12, 4);
	} else {
		memcpy(source->ip, ip + 8, 16);
	}
	memcpy(source->port, udp, 2);
	memcpy(source->mac, data + 6, FRAME_MAC_SIZE);
	return (struct frame){.header_length = (uint16_t)header,
			      .record_length = size - FRAME_UDP,
			      .port = wire_get16(udp + 2)};
}

// One's complement sum, RFC 1071: in the machine's byte order, which the result then has too.
static inline uint64_t sum_add(uint64_t sum, const uint8_t *data, size_t length)
{
	uint32_t word;

	for (; length >= sizeof(word); data += sizeof(word), length -= sizeof(word)) {
		memcpy(&word, data, sizeof(word));
		sum += word;
	}
	word = 0;
	memcpy(&word, data, length);
	return sum + word;
}

static inline uint16_t sum_fold(uint64_t sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)(sum + (sum >> 16));
}

static inline void sum_put(uint8_t *to, uint64_t sum)
{
	uint16_t checksum = (uint16_t)~sum_fold(sum);

	memcpy(to, &checksum, sizeof(checksum));
}

int dataplane_reply_header(struct session_header *header, const uint8_t *frame, size_t length,
			   bool checksum)
{
	struct layout layout;
	const uint8_t *ip, *udp;
	uint8_t *out = header->bytes;

	if (!layout_parse(&layout, frame, length))
		return -EINVAL;
	ip = frame + layout.ethernet;
	udp = ip + layout.ip;
	memset(header, 0, sizeof(*header));
	memcpy(out, frame + FRAME_MAC_SIZE, FRAME_MAC_SIZE);
	memcpy(out + FRAME_MAC_SIZE, frame, FRAME_MAC_SIZE);
	memcpy(out + 12, frame + 12, layout.ethernet - 12);
	out += layout.ethernet;
	if (layout.type == FRAME_TYPE_IPV4) {
		out[0] = 0x45;
		wire_put16(out + 6, IPV4_DONT_FRAGMENT);
		out[8] = HOP_LIMIT;
		out[9] = FRAME_PROTOCOL_UDP;
		memcpy(out + 12, ip + 16, 4);
		memcpy(out + 16, ip + 12, 4);
		// for a length of zero: frame_finish() adds the real one
		sum_put(out + 10, sum_add(0, out, FRAME_IPV4));
		out += FRAME_IPV4;
	} else {
		out[0] = 0x60;
		out[6] = FRAME_PROTOCOL_UDP;
		out[7] = HOP_LIMIT;
		memcpy(out + 8, ip + 24, 16);
		memcpy(out + 24, ip + 8, 16);
		out += IPV6_SIZE;
	}
	memcpy(out, udp + 2, 2);
	memcpy(out + 2, udp, 2);
	header->length = (uint8_t)(out + FRAME_UDP - header->bytes);
	if (checksum || layout.type == TYPE_IPV6) {
		// what doesn't depend on the record: pseudo-header (RFC 768, RFC 8200 section 8.1)
		// and ports; never zero, which says that no checksum is wanted
		size_t addresses = layout.type == FRAME_TYPE_IPV4 ? 8 : 32;
		uint16_t sum = sum_fold(
			sum_add(htobe16(FRAME_PROTOCOL_UDP), out - addresses, addresses + 4));

		memcpy(out + 6, &sum, sizeof(sum));
	}
	return 0;
}

void frame_finish(uint8_t *data, size_t header_length, size_t record_length)
{
	uint8_t *udp = data + header_length - FRAME_UDP;
	uint16_t size = (uint16_t)(FRAME_UDP + record_length), sum;
	uint8_t *ip;

	wire_put16(udp + 4, size);
	memcpy(&sum, udp + 6, sizeof(sum));
	if (header_length <= FRAME_ETHERNET + VLAN_SIZE + FRAME_IPV4 + FRAME_UDP) {
		ip = udp - FRAME_IPV4;
		frame_put_length(ip, ip + FRAME_IPV4_CHECKSUM, FRAME_IPV4 + size);
	} else {
		ip = udp - IPV6_SIZE;
		wire_put16(ip + 4, size);
	}
	if (sum) {
		// the length stands in the pseudo-header and in the header
		sum_put(udp + 6,
			sum_add(sum + 2 * (uint64_t)htobe16(size), udp + FRAME_UDP, record_length));
		if (wire_get16(udp + 6) == 0) // would say that there is none
			wire_put16(udp + 6, 0xffff);
	}
}

uint8_t *frame_put_other(uint8_t *record, size_t record_length, const struct session_header *header)
{
	uint8_t *data = record - header->length;

	memcpy(data, header->bytes, header->length);
	frame_finish(data, header->length, record_length);
	return data;
}
