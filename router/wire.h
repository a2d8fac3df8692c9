/*
 * The wire format of records and messages: docs/protocol.md sections 1, 4 and 5.
 * Pure functions of (pointer, length); all integers big-endian. Shared with libviaduct.
 */
#ifndef VIADUCT_WIRE_H
#define VIADUCT_WIRE_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
	WIRE_ID_SIZE = 16, // a peer id
	WIRE_ID_TEXT = 26, // its base32 form, without the NUL
	WIRE_RECORD_HEADER = 16,
	WIRE_TAG_SIZE = 16, // AEAD tag
	WIRE_RECORD_OVERHEAD = WIRE_RECORD_HEADER + WIRE_TAG_SIZE,
	WIRE_MESSAGE_HEADER = 24,
	WIRE_VIA_SIZE = 16,
	WIRE_RECORD_MIN = WIRE_RECORD_OVERHEAD + WIRE_MESSAGE_HEADER,
	WIRE_IP_OVERHEAD = 48, // IPv6 and UDP; the mtu less this is the largest record
	WIRE_MTU_MIN = 1280,
	WIRE_MTU_MAX = 9000,
	WIRE_PAYLOAD_OVERHEAD =
		WIRE_IP_OVERHEAD + WIRE_RECORD_OVERHEAD + WIRE_MESSAGE_HEADER + WIRE_VIA_SIZE,

	WIRE_VERSION_TYPE = 0x10, // version 1, type data
	WIRE_BUNDLE = 0x11,       // version 1, several records in a datagram; then a zero
	WIRE_BUNDLE_HEADER = 2,
	WIRE_BUNDLE_LENGTH = 2, // before each record of a bundle
	WIRE_CLASS_SHIFT = 6,
	WIRE_PHASE = 0x20,
	WIRE_FLAGS_RESERVED = 0x1f,
	WIRE_SLOT_BITS = 20,
	WIRE_SLOTS = 1 << WIRE_SLOT_BITS,
	WIRE_GENERATIONS = 1 << (32 - WIRE_SLOT_BITS),
	WIRE_LANES_MAX = 8, // up; and down

	WIRE_HOP_LIMIT = 8, // what a peer starts with
	WIRE_HOP_SHIFT = 4,
	WIRE_FLAG_VIA = 0x1,
	WIRE_FLAG_SEALED = 0x2,
	WIRE_FLAG_KEY = 0x4,    // of a send or request: a service's key stands before the payload
	WIRE_FLAG_FAILED = 0x4, // of a response: who was asked couldn't
	WIRE_MESSAGE_RESERVED = 0x8,
	WIRE_SERVICE_KEY = 8, // bytes

	WIRE_KEY_SIZE = 32,
	WIRE_IV_SIZE = 12,
	WIRE_EXPORT_SIZE = WIRE_KEY_SIZE + WIRE_IV_SIZE,
	WIRE_CONTEXT_SIZE = 44,
	WIRE_REKEY_SECRET_SIZE = 32,
	WIRE_LINE_MAX = 4096, // hello and welcome, with the LF
};

#define WIRE_SEQUENCE_MAX   ((UINT64_C(1) << 56) - 1)
#define WIRE_KEY_RECORDS    (UINT32_C(1) << 28)
#define WIRE_ALPN           "viaduct/1"
#define WIRE_EXPORT_DATA    "EXPORTER-viaduct-data"
#define WIRE_EXPORT_REKEY   "EXPORTER-viaduct-rekey"
#define WIRE_EXPORT_BINDING "EXPORTER-Channel-Binding"
#define WIRE_REKEY_ASKS     "viaduct rekey"
#define WIRE_REKEY_GRANTS   "viaduct grant"
#define WIRE_SERVICE_PREFIX "viaduct service " // what an id is the hash of, before the name
#define WIRE_TOPIC_PREFIX   "viaduct topic "

enum wire_class {
	WIRE_BULK,
	WIRE_NORMAL,
	WIRE_CRITICAL,
	WIRE_CONTROL,
	WIRE_CLASSES,
};

enum wire_kind {
	WIRE_SEND = 1,
	WIRE_REQUEST,
	WIRE_RESPONSE,
	WIRE_PUBLISH,
	WIRE_PING,
	WIRE_PONG,
	WIRE_KIND_CONTROL,
	WIRE_ERROR = 0x80, // or'ed with a reason
};

/* Why a relay could not forward a message: the low 7 bits of an error's kind. Never renumber. */
#define WIRE_REASONS(X)                                                                            \
	X(NO_ROUTE, 1, "no_route")                                                                 \
	X(TOO_LARGE, 2, "too_large")                                                               \
	X(HOP_LIMIT, 3, "hop_limit")                                                               \
	X(UNSUPPORTED, 4, "unsupported")                                                           \
	X(TX_FULL, 5, "tx_full")                                                                   \
	X(KEY_EXHAUSTED, 6, "key_exhausted")                                                       \
	X(NO_BUFFER, 7, "no_buffer")                                                               \
	X(POLICY, 8, "policy")                                                                     \
	X(NO_INSTANCE, 9, "no_instance")                                                           \
	X(INSTANCE_GONE, 10, "instance_gone")                                                      \
	X(TIMEOUT, 11, "timeout")                                                                  \
	X(BUSY, 12, "busy")                                                                        \
	X(PUBLISHER_RATE, 16, "publisher_rate")                                                    \
	X(TOPIC_RATE, 17, "topic_rate")                                                            \
	X(TOPIC_FULL, 18, "topic_full")                                                            \
	X(RATE, 24, "rate")

enum wire_reason {
	WIRE_REASON_NONE,
#define X(name, number, text) WIRE_REASON_##name = number,
	WIRE_REASONS(X)
#undef X
};

/* AEAD ids of IANA's registry, RFC 5116. */
enum wire_aead {
	WIRE_AES_256_GCM = 2,
	WIRE_CHACHA20_POLY1305 = 29,
};

enum wire_direction {
	WIRE_UP,   // peer to relay
	WIRE_DOWN, // relay to peer
	WIRE_REKEY_SECRET,
};

struct wire_id {
	uint8_t bytes[WIRE_ID_SIZE];
};

/* The clear header of a record, in host form. */
struct wire_record {
	enum wire_class class;
	uint8_t phase; // 0 or 1
	uint8_t lane;
	uint32_t index;
	uint64_t sequence;
};

/* A message inside an opened record. Pointers go into the record's plaintext. */
struct wire_message {
	uint8_t *data;   // its header
	uint16_t size;   // header, via and payload
	uint16_t length; // payload
	uint8_t kind;
	uint8_t hop_limit;
	uint8_t flags;
};

static inline bool wire_id_equal(const struct wire_id *a, const struct wire_id *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

static inline uint32_t wire_slot(uint32_t index)
{
	return index & (WIRE_SLOTS - 1);
}

static inline uint32_t wire_generation(uint32_t index)
{
	return index >> WIRE_SLOT_BITS;
}

static inline uint16_t wire_get16(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return be16toh(v);
}

static inline uint32_t wire_get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return be32toh(v);
}

static inline uint64_t wire_get64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return be64toh(v);
}

static inline void wire_put16(uint8_t *p, uint16_t v)
{
	v = htobe16(v);
	memcpy(p, &v, sizeof(v));
}

static inline void wire_put32(uint8_t *p, uint32_t v)
{
	v = htobe32(v);
	memcpy(p, &v, sizeof(v));
}

static inline void wire_put64(uint8_t *p, uint64_t v)
{
	v = htobe64(v);
	memcpy(p, &v, sizeof(v));
}

/* The clear header as two numbers: what is first and the session's index, lane and sequence. */
struct wire_words {
	uint64_t first;
	uint64_t counter;
};

enum { WIRE_CLASS_BIT = 48 + WIRE_CLASS_SHIFT }; // of wire_words.first, the lower one

static inline uint64_t wire_first(enum wire_class class, uint8_t phase, uint32_t index)
{
	uint64_t flags = (uint64_t) class << WIRE_CLASS_SHIFT | (uint64_t)phase * WIRE_PHASE;

	return (uint64_t)WIRE_VERSION_TYPE << 56 | flags << 48 | index;
}

static inline uint64_t wire_counter(uint8_t lane, uint64_t sequence)
{
	return (uint64_t)lane << 56 | sequence;
}

static inline enum wire_class wire_words_class(const struct wire_words *words)
{
	return words->first >> WIRE_CLASS_BIT & (WIRE_CLASSES - 1);
}

static inline unsigned int wire_words_phase(const struct wire_words *words)
{
	return (words->first >> 48) / WIRE_PHASE & 1;
}

static inline uint32_t wire_words_index(const struct wire_words *words)
{
	return (uint32_t)words->first;
}

static inline uint8_t wire_words_lane(const struct wire_words *words)
{
	return words->counter >> 56;
}

static inline uint64_t wire_words_sequence(const struct wire_words *words)
{
	return words->counter & WIRE_SEQUENCE_MAX;
}

/*
 * Writes the 16 bytes of clear header. `record` must be in range (lane < WIRE_LANES_MAX, sequence
 * <= WIRE_SEQUENCE_MAX).
 */
static inline void wire_record_put(uint8_t header[WIRE_RECORD_HEADER],
				   const struct wire_record *record)
{
	wire_put64(header, wire_first(record->class, record->phase, record->index));
	wire_put64(header + 8, wire_counter(record->lane, record->sequence));
}

/* Nonce of a record: IV xor (four zero bytes, counter), RFC 8446 section 5.3. */
static inline void wire_nonce(uint8_t nonce[WIRE_IV_SIZE], const uint8_t iv[WIRE_IV_SIZE],
			      const uint8_t header[WIRE_RECORD_HEADER])
{
	memcpy(nonce, iv, 4);
	for (int i = 0; i < 8; i++)
		nonce[4 + i] = iv[4 + i] ^ header[8 + i];
}

enum wire_parse {
	WIRE_OK,
	WIRE_BAD_SIZE,     // shorter than any record
	WIRE_BAD_VERSION,  // of another version or type
	WIRE_BAD_RESERVED, // a reserved bit is set
};

/* Reads a record's clear header of `length` bytes of datagram. Touches only the first 16 bytes. */
static inline enum wire_parse wire_words_get(struct wire_words *words, const uint8_t *data,
					     size_t length)
{
	const uint32_t fixed = ~((uint32_t)(uint8_t)~WIRE_FLAGS_RESERVED << 16);
	uint64_t first;

	if (length < WIRE_RECORD_MIN)
		return WIRE_BAD_SIZE;
	first = wire_get64(data);
	if ((first >> 32 & fixed) != (uint32_t)WIRE_VERSION_TYPE << 24)
		return data[0] == WIRE_VERSION_TYPE ? WIRE_BAD_RESERVED : WIRE_BAD_VERSION;
	words->first = first;
	words->counter = wire_get64(data + 8);
	return WIRE_OK;
}

/* The same, taken apart. */
static inline enum wire_parse wire_record_get(struct wire_record *record, const uint8_t *data,
					      size_t length)
{
	struct wire_words words;
	enum wire_parse result = wire_words_get(&words, data, length);

	if (result != WIRE_OK)
		return result;
	record->class = wire_words_class(&words);
	record->phase = wire_words_phase(&words);
	record->index = wire_words_index(&words);
	record->lane = wire_words_lane(&words);
	record->sequence = wire_words_sequence(&words);
	return WIRE_OK;
}

/* Whether a datagram holds several records. Touches only the first two bytes. */
static inline bool wire_is_bundle(const uint8_t *datagram, size_t size)
{
	return size >= WIRE_RECORD_MIN && wire_get16(datagram) == WIRE_BUNDLE << 8;
}

/*
 * Reads the record at `offset` (at first WIRE_BUNDLE_HEADER) of a bundle of `size` bytes: sets
 * where it begins and returns the offset behind it, or 0 if it doesn't fit.
 */
static inline size_t wire_bundle_get(size_t *begin, const uint8_t *bundle, size_t size,
				     size_t offset)
{
	size_t length;

	*begin = offset + WIRE_BUNDLE_LENGTH;
	if (*begin > size)
		return 0;
	length = wire_get16(bundle + offset);
	return length >= WIRE_RECORD_MIN && length <= size - *begin ? *begin + length : 0;
}

/*
 * Reads the message at `offset` of a plaintext of `length` bytes. Returns the offset behind it, or
 * 0 if it doesn't fit or has a reserved flag set.
 */
static inline size_t wire_message_get(struct wire_message *message, uint8_t *plaintext,
				      size_t length, size_t offset)
{
	uint8_t *p = plaintext + offset;
	size_t size;

	if (length - offset < WIRE_MESSAGE_HEADER)
		return 0;
	message->length = wire_get16(p);
	message->flags = p[3] & 0xf;
	size = WIRE_MESSAGE_HEADER + message->length;
	if (message->flags & WIRE_FLAG_VIA)
		size += WIRE_VIA_SIZE;
	if ((message->flags & WIRE_MESSAGE_RESERVED) || size > length - offset)
		return 0;
	message->data = p;
	message->size = (uint16_t)size;
	message->kind = p[2];
	message->hop_limit = p[3] >> WIRE_HOP_SHIFT;
	return offset + size;
}

/* Writes a message's header without a via. */
static inline void wire_message_put(uint8_t header[WIRE_MESSAGE_HEADER], uint16_t length,
				    uint8_t kind, uint8_t hop_limit, uint8_t flags, uint32_t tag,
				    const struct wire_id *address)
{
	wire_put16(header, length);
	header[2] = kind;
	header[3] = (uint8_t)(hop_limit << WIRE_HOP_SHIFT) | flags;
	wire_put32(header + 4, tag);
	memcpy(header + 8, address, WIRE_ID_SIZE);
}

static inline uint32_t wire_message_tag(const uint8_t *header)
{
	return wire_get32(header + 4);
}

/* Writes the id's base32 text and a NUL: WIRE_ID_TEXT + 1 bytes. RFC 4648 section 6, lower case. */
void wire_id_format(char *text, const struct wire_id *id);

/* Reads a base32 id of exactly WIRE_ID_TEXT characters and a NUL. Returns 0 or -EINVAL. */
int wire_id_parse(struct wire_id *id, const char *text);

/* Writes the exporter's context, section 3. */
void wire_context(uint8_t context[WIRE_CONTEXT_SIZE], enum wire_aead aead,
		  enum wire_direction direction, uint32_t index, uint32_t epoch,
		  const struct wire_id *peer, const struct wire_id *relay);

/*
 * Writes what the MAC of a rekey's hello (`prefix` WIRE_REKEY_ASKS) or welcome (WIRE_REKEY_GRANTS)
 * covers, section 7. `epoch` is the current one.
 */
enum { WIRE_REKEY_INPUT = sizeof(WIRE_REKEY_ASKS) - 1 + 32 + 4 + 4 };
void wire_rekey_input(uint8_t input[WIRE_REKEY_INPUT], const char *prefix,
		      const uint8_t binding[32], uint32_t index, uint32_t epoch);

/* "aes-256-gcm" or "chacha20-poly1305"; 0 for any other text. */
enum wire_aead wire_aead_parse(const char *text);
const char *wire_aead_name(enum wire_aead aead);

/* The wire's name of a reason, NULL if unknown. */
const char *wire_reason_name(unsigned int reason);

/* "bulk", "normal", "critical", "control". */
const char *wire_class_name(enum wire_class class);

#endif
