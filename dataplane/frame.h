/*
 * Ethernet, IP and UDP in front of records. Pure functions of (pointer, length); no EAL needed.
 */
#ifndef VIADUCT_FRAME_H
#define VIADUCT_FRAME_H

#include "session.h"

enum {
	FRAME_MAC_SIZE = 6,
	FRAME_GROUP = 0x01, // in a MAC's first byte
	FRAME_TYPE_IPV4 = 0x0800,
	FRAME_FRAGMENT = 0x3fff, // IPv4: more fragments, offset
	FRAME_PROTOCOL_UDP = 17,
	FRAME_ETHERNET = 14, // sizes of headers, without a VLAN tag
	FRAME_IPV4 = 20,
	FRAME_IPV4_CHECKSUM = 10, // offset
	FRAME_UDP = 8,
	FRAME_USUAL = FRAME_ETHERNET + FRAME_IPV4 + FRAME_UDP,
};

/* A received datagram. */
struct frame {
	uint16_t header_length; // Ethernet to UDP, at most SESSION_HEADER_MAX; 0: none
	uint16_t record_length; // what the UDP header says; the record follows the header
	uint16_t port;          // UDP, of the destination
};

/* frame_parse() of anything but what it does itself. */
struct frame frame_parse_other(struct endpoint *source, const uint8_t *data, size_t length);

static inline uint64_t frame_word(const uint8_t *at)
{
	uint64_t word;

	memcpy(&word, at, sizeof(word));
	return word;
}

static inline void frame_put_word(uint8_t *at, uint64_t word)
{
	memcpy(at, &word, sizeof(word));
}

/*
 * Reads an Ethernet frame (optional 802.1Q tag; IPv4, or IPv6 without extension headers; UDP, not
 * fragmented) of `length` bytes, and where it came from. None if it is anything else, isn't
 * unicast, or is cut short; then what was written says nothing.
 */
static inline struct frame frame_parse(struct endpoint *source, const uint8_t *data, size_t length)
{
	const uint8_t *ip = data + FRAME_ETHERNET, *udp = ip + FRAME_IPV4;
	uint8_t *words = (uint8_t *)source;
	bool usual;

	// the usual, checked by the word: no VLAN tag, IPv4 without options, nothing behind it
	usual = length >= FRAME_USUAL &&
		(wire_get32(data + 12) & 0xffffff00) == (FRAME_TYPE_IPV4 << 16 | 0x4500) &&
		(wire_get32(ip + 6) & (FRAME_FRAGMENT << 16 | 0xff)) == FRAME_PROTOCOL_UDP &&
		!((data[0] | data[6]) & FRAME_GROUP) &&
		wire_get16(ip + 2) == (uint16_t)(length - FRAME_ETHERNET) &&
		wire_get16(udp + 4) == (uint16_t)(length - FRAME_ETHERNET - FRAME_IPV4) &&
		wire_get16(udp) != 0;
	if (!__builtin_expect(usual, 1))
		return frame_parse_other(source, data, length);
	// whole words, as they are read soon: the processor would have to wait for pieces
	frame_put_word(words, 0);
	frame_put_word(words + 8, (frame_word(ip + 8) & htobe64(UINT32_MAX)) |
					  htobe64(UINT64_C(0xffff) << 32));
	frame_put_word(words + 16, (frame_word(data + 4) & htobe64(UINT64_MAX >> 16)) |
					   (frame_word(udp) & htobe64(~(UINT64_MAX >> 16))));
	return (struct frame){.header_length = FRAME_USUAL,
			      .record_length = (uint16_t)(length - FRAME_USUAL),
			      .port = wire_get16(udp + 2)};
}

/*
 * Writes an IPv4 header's length, and the checksum that follows from `without`, that for a length
 * of zero: RFC 1624, equation 4. In whatever byte order, as the sum is in the same.
 */
static inline void frame_put_length(uint8_t *ip, const uint8_t *without, uint16_t length)
{
	uint16_t checksum;
	uint32_t difference;

	length = htobe16(length);
	memcpy(ip + 2, &length, sizeof(length));
	memcpy(&checksum, without, sizeof(checksum));
	difference = (uint32_t)checksum - length;
	checksum = (uint16_t)(difference + (difference >> 16));
	memcpy(ip + FRAME_IPV4_CHECKSUM, &checksum, sizeof(checksum));
}

/*
 * Completes a header that was copied from a struct session_header in front of its sealed record:
 * lengths and checksums: IPv4's own, and UDP's where the header asks for it, as over IPv6 it must.
 */
void frame_finish(uint8_t *data, size_t header_length, size_t record_length);

/* frame_put() of anything but what it does itself. */
uint8_t *frame_put_other(uint8_t *record, size_t record_length,
			 const struct session_header *header);

/* Puts a session's header right in front of a sealed record and completes it; returns where it
 * begins. */
static inline uint8_t *frame_put(uint8_t *record, size_t record_length,
				 const struct session_header *header)
{
	uint8_t *data = record - FRAME_USUAL, *ip = data + FRAME_ETHERNET, *udp = ip + FRAME_IPV4;
	uint16_t size = (uint16_t)(FRAME_UDP + record_length);
	// IPv4 without a VLAN tag, and UDP without a checksum
	bool usual =
		header->length == FRAME_USUAL && wire_get16(header->bytes + FRAME_USUAL - 2) == 0;

	if (!__builtin_expect(usual, 1))
		return frame_put_other(record, record_length, header);
	memcpy(data, header->bytes, FRAME_USUAL);
	frame_put_length(ip, header->bytes + FRAME_ETHERNET + FRAME_IPV4_CHECKSUM,
			 FRAME_IPV4 + size);
	wire_put16(udp + 4, size);
	return data;
}

#endif
