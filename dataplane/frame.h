/*
 * Ethernet, IP and UDP in front of records. Pure functions of (pointer, length); no EAL needed.
 */
#ifndef VIADUCT_FRAME_H
#define VIADUCT_FRAME_H

#include "session.h"

enum {
	FRAME_MAC_SIZE = 6,
	FRAME_USUAL = 14 + 20 + 8, // size of the headers with IPv4 and without a VLAN tag
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
	enum { ETHERNET = 14, IP = 20, GROUP = 0x01 };
	const uint8_t *ip = data + ETHERNET, *udp = ip + IP;
	uint8_t *words = (uint8_t *)source;

	// the usual, checked by the word: IPv4 without options, no VLAN tag, nothing behind it
	if (length < FRAME_USUAL || (wire_get32(data + 12) & 0xffffff00) != 0x08004500 ||
	    (wire_get32(ip + 6) & 0x3fff00ff) != 17 || ((data[0] | data[6]) & GROUP) ||
	    wire_get16(ip + 2) + (size_t)ETHERNET != length ||
	    wire_get16(udp + 4) + (size_t)ETHERNET + IP != length || wire_get16(udp) == 0)
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
 * Completes a header that was copied from a struct session_header in front of its sealed record:
 * lengths and checksums: IPv4's own, and UDP's where the header asks for it, as over IPv6 it must.
 */
void frame_finish(uint8_t *data, size_t header_length, size_t record_length);

/* Puts a session's header right in front of a sealed record and completes it; returns where it
 * begins. */
static inline uint8_t *frame_put(uint8_t *record, size_t record_length,
				 const struct session_header *header)
{
	uint8_t *data = record - header->length;

	if (header->length == FRAME_USUAL) // a copy of constant size is inlined
		memcpy(data, header->bytes, FRAME_USUAL);
	else
		memcpy(data, header->bytes, header->length);
	frame_finish(data, header->length, record_length);
	return data;
}

#endif
