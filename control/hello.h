/*
 * The lines of joining: docs/protocol.md section 2. Pure.
 */
#ifndef VIADUCT_HELLO_H
#define VIADUCT_HELLO_H

#include "address.h"
#include "wire.h"

#define HELLO_ERRORS(X)                                                                            \
	X(MALFORMED, "malformed")                                                                  \
	X(TOO_LONG, "too_long")                                                                    \
	X(VERSION, "version")                                                                      \
	X(CIPHER, "cipher")                                                                        \
	X(LANES, "lanes")                                                                          \
	X(MTU, "mtu")                                                                              \
	X(ROLE, "role")                                                                            \
	X(NAME, "name")                                                                            \
	X(REKEY, "rekey")                                                                          \
	X(BUSY, "busy")                                                                            \
	X(FULL, "full")                                                                            \
	X(CUT, "cut")

enum hello_error {
	HELLO_OK,
#define X(name, text) HELLO_##name,
	HELLO_ERRORS(X)
#undef X
};

enum { HELLO_CIPHERS_MAX = 8, HELLO_MAC_SIZE = 32 };

struct hello {
	enum wire_aead ciphers[HELLO_CIPHERS_MAX]; // known ones, best first
	unsigned int cipher_count;
	uint8_t lanes;
	uint16_t mtu;
	bool checksum;
	bool bundles;
	bool rekey;
	uint32_t rekey_index;
	uint32_t rekey_epoch;
	uint8_t rekey_mac[HELLO_MAC_SIZE];
};

struct welcome {
	const struct wire_id *id;
	const char *name;
	const struct wire_id *relay;
	uint32_t index;
	uint32_t epoch;
	enum wire_aead cipher;
	const char *address;
	uint16_t port;
	uint8_t lanes_up;
	uint8_t lanes_down;
	uint16_t mtu;
	int keepalive; // s
	int expiry;    // s
	int rekey;     // s
	uint32_t key_records;
	const uint8_t *mac; // of a rekey, HELLO_MAC_SIZE bytes; else NULL
	bool trains;
	const char *relays; // other ones, a JSON array
};

/*
 * Reads a hello of `length` bytes without its LF. Returns HELLO_OK, or what is wrong with it, and
 * says so in `detail` (static).
 */
enum hello_error hello_parse(struct hello *hello, const char *line, size_t length,
			     const char **detail);

/* The first of the peer's ciphers that is among `allowed`, 0 if none is. */
enum wire_aead hello_choose_cipher(const struct hello *hello, const int *allowed,
				   unsigned int count);

/* Writes a line with its LF. Returns its length, or 0 if there is no memory. */
size_t hello_welcome(char line[WIRE_LINE_MAX], const struct welcome *welcome);

/* The same for an error; `retry_after` (s) is left out if it is 0. */
size_t hello_refusal(char line[WIRE_LINE_MAX], enum hello_error error, const char *detail,
		     unsigned int retry_after);

const char *hello_error_name(enum hello_error error);

#endif
