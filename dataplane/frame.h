/*
 * Ethernet, IP and UDP in front of records. Pure functions of (pointer, length); no EAL needed.
 */
#ifndef VIADUCT_FRAME_H
#define VIADUCT_FRAME_H

#include "session.h"

enum { FRAME_MAC_SIZE = 6 };

/* A received datagram. */
struct frame {
	uint16_t header_length; // Ethernet to UDP, at most SESSION_HEADER_MAX
	uint16_t record_length; // what the UDP header says; the record follows the header
	struct endpoint source;
};

/*
 * Reads an Ethernet frame (optional 802.1Q tag; IPv4, or IPv6 without extension headers; UDP, not
 * fragmented) of `length` bytes. False if it is anything else, isn't unicast, or is cut short.
 */
bool frame_parse(struct frame *frame, const uint8_t *data, size_t length);

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
	enum { USUAL = 14 + 20 + 8 }; // IPv4 without a VLAN tag: a copy of constant size is inlined
	uint8_t *data = record - header->length;

	if (header->length == USUAL)
		memcpy(data, header->bytes, USUAL);
	else
		memcpy(data, header->bytes, header->length);
	frame_finish(data, header->length, record_length);
	return data;
}

#endif
