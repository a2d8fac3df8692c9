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
	uint16_t header_length; // Ethernet to UDP, at most SESSION_HEADER_MAX
	uint16_t record_length; // what the UDP header says; the record follows the header
};

/* frame_parse() of anything but IPv4 without options in a frame without a VLAN tag. */
bool frame_parse_other(struct frame *frame, struct endpoint *source, const uint8_t *data,
		       size_t length);

/*
 * Reads an Ethernet frame (optional 802.1Q tag; IPv4, or IPv6 without extension headers; UDP, not
 * fragmented) of `length` bytes, and where it came from. False if it is anything else, isn't
 * unicast, or is cut short; then what was written says nothing.
 */
static inline bool frame_parse(struct frame *frame, struct endpoint *source, const uint8_t *data,
			       size_t length)
{
	enum { ETHERNET = 14, IP = 20, UDP = 8, GROUP = 0x01, FRAGMENT = 0x3fff };
	const uint8_t *ip = data + ETHERNET, *udp = ip + IP;
	uint8_t *words = (uint8_t *)source;
	uint16_t total, size;

	if (length < FRAME_USUAL || wire_get16(data + 12) != 0x0800 || ip[0] != 0x45)
		return frame_parse_other(frame, source, data, length);
	total = wire_get16(ip + 2);
	size = wire_get16(udp + 4);
	if (((data[0] | data[6]) & GROUP) || ip[9] != 17 || (wire_get16(ip + 6) & FRAGMENT) ||
	    wire_get16(udp) == 0 || size < UDP || IP + size > total ||
	    (size_t)ETHERNET + total > length)
		return false;
	frame->header_length = FRAME_USUAL;
	frame->record_length = size - UDP;
	// whole words, as they are read soon: the processor would have to wait for pieces
	wire_put64(words, 0);
	wire_put64(words + 8, UINT64_C(0xffff) << 32 | wire_get32(ip + 12));
	wire_put64(words + 16, (uint64_t)wire_get16(udp) << 48 | wire_get64(data + 6) >> 16);
	return true;
}

/* UDP destination port of a frame that frame_parse() accepted, in host byte order. */
static inline uint16_t frame_port(const struct frame *frame, const uint8_t *data)
{
	return wire_get16(data + frame->header_length - 6);
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
