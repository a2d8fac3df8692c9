#include "wire.h"

#include <errno.h>

static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz234567";

void wire_id_format(char *text, const struct wire_id *id)
{
	unsigned int bits = 0, value = 0;

	for (int i = 0; i < WIRE_ID_SIZE; i++) {
		value = value << 8 | id->bytes[i];
		for (bits += 8; bits >= 5; bits -= 5)
			*text++ = alphabet[value >> (bits - 5) & 31];
	}
	*text++ = alphabet[value << (5 - bits) & 31];
	*text = '\0';
}

int wire_id_parse(struct wire_id *id, const char *text)
{
	unsigned int bits = 0, value = 0, n = 0;

	for (int i = 0; i < WIRE_ID_TEXT; i++) {
		const char *at = text[i] ? strchr(alphabet, text[i]) : NULL;

		if (!at)
			return -EINVAL;
		value = value << 5 | (unsigned int)(at - alphabet);
		bits += 5;
		if (bits >= 8) {
			bits -= 8;
			id->bytes[n++] = (uint8_t)(value >> bits);
		}
	}
	// 26 characters carry 130 bits: the last two must be zero, so that an id has one text
	if (text[WIRE_ID_TEXT] || (value & ((1U << bits) - 1)))
		return -EINVAL;
	return 0;
}

void wire_context(uint8_t context[WIRE_CONTEXT_SIZE], enum wire_aead aead,
		  enum wire_direction direction, uint32_t index, uint32_t epoch,
		  const struct wire_id *peer, const struct wire_id *relay)
{
	context[0] = WIRE_VERSION_TYPE >> 4;
	wire_put16(context + 1, (uint16_t)aead);
	context[3] = (uint8_t)direction;
	wire_put32(context + 4, index);
	wire_put32(context + 8, epoch);
	memcpy(context + 12, peer, WIRE_ID_SIZE);
	memcpy(context + 28, relay, WIRE_ID_SIZE);
}

void wire_rekey_input(uint8_t input[WIRE_REKEY_INPUT], const char *prefix,
		      const uint8_t binding[32], uint32_t index, uint32_t epoch)
{
	enum { PREFIX = sizeof(WIRE_REKEY_ASKS) - 1 };

	_Static_assert(sizeof(WIRE_REKEY_GRANTS) == sizeof(WIRE_REKEY_ASKS), "same length");
	memcpy(input, prefix, PREFIX);
	memcpy(input + PREFIX, binding, 32);
	wire_put32(input + PREFIX + 32, index);
	wire_put32(input + PREFIX + 36, epoch);
}

enum wire_aead wire_aead_parse(const char *text)
{
	if (!strcmp(text, "aes-256-gcm"))
		return WIRE_AES_256_GCM;
	if (!strcmp(text, "chacha20-poly1305"))
		return WIRE_CHACHA20_POLY1305;
	return 0;
}

const char *wire_aead_name(enum wire_aead aead)
{
	return aead == WIRE_AES_256_GCM ? "aes-256-gcm" : "chacha20-poly1305";
}

const char *wire_reason_name(unsigned int reason)
{
	switch (reason) {
#define X(name, number, text)                                                                      \
	case number:                                                                               \
		return text;
		WIRE_REASONS(X)
#undef X
	default:
		return NULL;
	}
}

const char *wire_class_name(enum wire_class class)
{
	static const char *const names[WIRE_CLASSES] = {"bulk", "normal", "critical", "control"};

	return names[class];
}
