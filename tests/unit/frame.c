/*
 * Headers in front of records: what is taken for a datagram, and how answers look.
 */
#include "test.h"

#include <stdlib.h>

#include "dataplane.h"
#include "frame.h"

enum {
	RECORD = 100,
	FRAME_MAX = 256,
};

static const uint8_t ours[] = {2, 0, 0, 0, 0, 1}, theirs[] = {2, 0, 0, 0, 0, 2};

/* A frame under construction. */
struct packet {
	uint8_t data[FRAME_MAX];
	size_t ip; // offset
	size_t udp;
	size_t size;
};

enum kind { PLAIN = 0, VLAN = 1, IPV6 = 2 };

/* A datagram of RECORD bytes from port 4000 to 7740; `options`: bytes of IPv4 options. */
static void packet_make(struct packet *packet, int kind, size_t options)
{
	uint8_t *p = packet->data;
	uint16_t type = kind & IPV6 ? 0x86dd : 0x0800;

	memset(packet, 0, sizeof(*packet));
	memcpy(p, ours, 6);
	memcpy(p + 6, theirs, 6);
	packet->ip = 14;
	if (kind & VLAN) {
		wire_put16(p + 12, 0x8100);
		wire_put16(p + 14, 0x2007);
		packet->ip = 18;
	}
	wire_put16(p + packet->ip - 2, type);
	p += packet->ip;
	if (kind & IPV6) {
		p[0] = 0x60;
		wire_put16(p + 4, 8 + RECORD);
		p[6] = 17;
		p[7] = 3;
		memset(p + 8, 0xa1, 16);
		memset(p + 24, 0xa2, 16);
		packet->udp = packet->ip + 40;
	} else {
		p[0] = (uint8_t)(0x45 + options / 4);
		wire_put16(p + 2, (uint16_t)(20 + options + 8 + RECORD));
		p[8] = 3;
		p[9] = 17;
		memset(p + 12, 0xb1, 4);
		memset(p + 16, 0xb2, 4);
		packet->udp = packet->ip + 20 + options;
	}
	p = packet->data + packet->udp;
	wire_put16(p, 4000);
	wire_put16(p + 2, 7740);
	wire_put16(p + 4, 8 + RECORD);
	packet->size = packet->udp + 8 + RECORD;
}

static struct endpoint source; // of what was parsed last

static bool parse(struct frame *frame, const uint8_t *data, size_t length)
{
	// exactly as long as said, so that sanitizers see a read beyond
	uint8_t *copy = malloc(length ? length : 1);

	memcpy(copy, data, length);
	*frame = frame_parse(&source, copy, length);
	free(copy);
	return frame->header_length;
}

static void datagrams(void **state)
{
	for (int kind = 0; kind < 4; kind++) {
		struct endpoint expected = {.ip = {[10] = 0xff, 0xff, 0xb1, 0xb1, 0xb1, 0xb1}};
		struct packet packet;
		struct frame frame;

		packet_make(&packet, kind, 0);
		assert_true(parse(&frame, packet.data, packet.size));
		assert_int_equal(frame.header_length, packet.udp + 8);
		assert_int_equal(frame.record_length, RECORD);
		assert_int_equal(frame.port, 7740);
		if (kind & IPV6)
			memset(expected.ip, 0xa1, 16);
		wire_put16(expected.port, 4000);
		memcpy(expected.mac, theirs, 6);
		assert_true(endpoint_equal(&source, &expected));

		// padded, as short frames are
		assert_true(parse(&frame, packet.data, packet.size + 10));
		assert_int_equal(frame.record_length, RECORD);
		for (size_t length = 0; length < packet.size; length++)
			assert_false(parse(&frame, packet.data, length));
	}
}

static void options(void **state)
{
	struct packet packet;
	struct frame frame;

	for (size_t bytes = 4; bytes <= 40; bytes += 4) {
		packet_make(&packet, PLAIN, bytes);
		assert_int_equal(parse(&frame, packet.data, packet.size),
				 packet.udp + 8 <= SESSION_HEADER_MAX);
	}
}

static void refused(struct packet *packet, size_t offset, uint8_t value)
{
	uint8_t before = packet->data[offset];
	struct frame frame;

	packet->data[offset] = value;
	assert_false(parse(&frame, packet->data, packet->size));
	packet->data[offset] = before;
	assert_true(parse(&frame, packet->data, packet->size));
}

static void others(void **state)
{
	struct packet packet;
	struct frame frame;

	packet_make(&packet, PLAIN, 0);
	refused(&packet, 0, 0xff);              // to a group
	refused(&packet, 6, 0x03);              // from a group
	refused(&packet, 13, 0x06);             // ARP
	refused(&packet, packet.ip, 0x65);      // no such version
	refused(&packet, packet.ip, 0x44);      // header too short
	refused(&packet, packet.ip + 2, 0x40);  // longer than the frame
	refused(&packet, packet.ip + 3, 20);    // no UDP header
	refused(&packet, packet.ip + 6, 0x20);  // first fragment
	refused(&packet, packet.ip + 7, 0x01);  // later fragment
	refused(&packet, packet.ip + 9, 6);     // TCP
	refused(&packet, packet.udp + 5, 7);    // shorter than its header
	refused(&packet, packet.udp + 5, 0xff); // longer than the packet
	packet.data[packet.ip + 6] = 0x40;      // don't fragment
	assert_true(parse(&frame, packet.data, packet.size));
	wire_put16(packet.data + packet.udp, 0); // can't be answered
	assert_false(parse(&frame, packet.data, packet.size));

	packet_make(&packet, IPV6, 0);
	refused(&packet, packet.ip, 0x45);
	refused(&packet, packet.ip + 5, 7);  // no UDP header
	refused(&packet, packet.ip + 4, 1);  // longer than the frame
	refused(&packet, packet.ip + 6, 44); // fragment

	packet_make(&packet, VLAN, 0);
	refused(&packet, 16, 0x81); // two tags
}

/* RFC 1071, as plainly as can be. */
static uint16_t checksum(uint32_t sum, const uint8_t *data, size_t length)
{
	for (size_t i = 0; i < length; i++)
		sum += i & 1 ? data[i] : (uint32_t)data[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

/* What a header says of a record of each length. */
static void replies_with(int kind, bool wanted)
{
	struct session_header header;
	struct packet packet;
	struct frame frame;

	packet_make(&packet, kind, kind & IPV6 ? 0 : 8);
	// headers are enough
	assert_int_equal(dataplane_reply_header(&header, packet.data, packet.udp + 8, wanted), 0);
	assert_int_equal(header.length, packet.udp + 8 - (kind & IPV6 ? 0 : 8));
	assert_memory_equal(header.bytes, theirs, 6);
	assert_memory_equal(header.bytes + 6, ours, 6);
	for (size_t length = 0; length < packet.udp + 8; length++)
		assert_true(dataplane_reply_header(&header, packet.data, length, wanted) < 0);

	for (size_t record = 0; record <= RECORD; record++) {
		uint8_t out[FRAME_MAX];
		const uint8_t *udp = out + header.length - 8;
		const uint8_t *ip = udp - (kind & IPV6 ? 40 : 20);

		memcpy(out, header.bytes, header.length);
		for (size_t i = 0; i < record; i++)
			out[header.length + i] = (uint8_t)(i * 37 + record);
		frame_finish(out, header.length, record);
		assert_true(parse(&frame, out, header.length + record));
		assert_int_equal(frame.header_length, header.length);
		assert_int_equal(frame.record_length, record);
		assert_int_equal(frame.port, 4000);
		assert_int_equal(wire_get16(source.port), 7740);
		if (kind & VLAN)
			assert_memory_equal(out + 12, packet.data + 12, 4);
		if (kind & IPV6) {
			assert_int_equal(
				checksum(17 + 8 + (uint32_t)record, ip + 8, 32 + 8 + record), 0);
			assert_int_not_equal(wire_get16(udp + 6), 0);
			assert_int_equal(ip[7], 64);
			continue;
		}
		assert_int_equal(checksum(0, ip, 20), 0);
		assert_int_equal(wire_get16(ip + 6), 0x4000);
		assert_int_equal(ip[8], 64);
		if (wanted)
			assert_int_equal(
				checksum(17 + 8 + (uint32_t)record, ip + 12, 8 + 8 + record), 0);
		assert_true((wire_get16(udp + 6) != 0) == wanted);
	}
}

static void replies(void **state)
{
	for (int kind = 0; kind < 4; kind++) {
		replies_with(kind, false);
		replies_with(kind, true);
	}
}

/* A checksum that comes out as 0 goes out as 0xffff. */
static void zero_checksum(void **state)
{
	for (int kind = 0; kind < 4; kind++) {
		struct session_header header;
		struct packet packet;
		uint8_t out[FRAME_MAX], *record;

		packet_make(&packet, kind, 0);
		assert_int_equal(dataplane_reply_header(&header, packet.data, packet.size, true),
				 0);
		memset(out, 0, sizeof(out));
		record = out + header.length;
		memcpy(out, header.bytes, header.length);
		frame_finish(out, header.length, 2);
		// now the record takes what the checksum was
		memcpy(record, record - 2, 2);
		memcpy(out, header.bytes, header.length);
		frame_finish(out, header.length, 2);
		assert_int_equal(wire_get16(record - 2), 0xffff);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(datagrams),     cmocka_unit_test(options),
		cmocka_unit_test(others),        cmocka_unit_test(replies),
		cmocka_unit_test(zero_checksum),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
