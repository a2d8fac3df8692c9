/*
 * What a relay says in JSON: the line after hello, and control messages (docs/protocol.md sections
 * 2 and 6). Pure functions of (pointer, length) over bytes that nobody has vouched for yet.
 */
#ifndef CLIENT_ANSWER_H
#define CLIENT_ANSWER_H

#include <netinet/in.h>

#include "viaduct.h"
#include "wire.h"

enum {
	ANSWER_ADDRESS_TEXT = INET6_ADDRSTRLEN + 8, // "[address]:port" and a NUL
	ANSWER_DETAIL_TEXT = 160,
	ANSWER_TOKEN_TEXT = 128,
	ANSWER_CHANGE_TEXT = 16,
	ANSWER_NAME_TEXT = 256,
	ANSWER_RELAYS = 4,       // that are looked at
	ANSWER_RELAY_TEXT = 264, // "host:port" and a NUL
};

struct welcome {
	struct wire_id id;
	struct wire_id relay;
	uint32_t index;
	uint32_t epoch;
	enum wire_aead aead;
	struct sockaddr_storage data; // ready to be connected to
	unsigned int lanes_up, lanes_down;
	unsigned int mtu, max_payload;         // bytes
	unsigned int keepalive, expiry, rekey; // seconds
	uint32_t key_records;
	uint8_t mac[32]; // of a rekey; else zeros
	bool trains;     // may be sent
	bool bundles;    // likewise
};

/* Why hello was refused, fit to be printed. */
struct refusal {
	char code[32];
	char detail[ANSWER_DETAIL_TEXT];
	double retry_after; // seconds, 0 if the relay didn't say
};

enum event_kind {
	EVENT_UNKNOWN,
	EVENT_PATH,
	EVENT_CHALLENGE,
	EVENT_REKEY,
	EVENT_REPLACED,
	EVENT_REVOKED,
	EVENT_CLOSING,
	EVENT_CUT,
	EVENT_PEER,
};

struct event {
	enum event_kind kind;
	char address[ANSWER_ADDRESS_TEXT]; // of a path
	char token[ANSWER_TOKEN_TEXT];     // of a challenge
	/* of what has happened to a peer: */
	char change[ANSWER_CHANGE_TEXT]; // "missed": nobody in particular
	struct wire_id id;
	char name[ANSWER_NAME_TEXT]; // "" if it was too long to be told
	uint64_t sequence;
	/* of a relay that stops: */
	unsigned int within; // seconds
	char relays[ANSWER_RELAYS][ANSWER_RELAY_TEXT];
	unsigned int relay_count;
};

/* The entries' names belong to the list. */
struct list {
	struct viaduct_entry *entries;
	size_t count;
	bool more;
	void *json;
};

/*
 * Reads the line that answers hello, without its LF. Returns 0 and fills `welcome`; -ECONNREFUSED
 * and fills `refusal`; or -EPROTO if it is neither.
 */
int answer_parse_line(struct welcome *welcome, struct refusal *refusal, const char *line,
		      size_t length);

/* Reads what a relay says unasked. Returns 0, or -EPROTO if it isn't an event. */
int answer_parse_event(struct event *event, const void *text, size_t length);

/*
 * Reads the answer to a control request. Returns 0, -EPROTO if it isn't one, or -ECONNREFUSED if
 * the relay says that it isn't ok.
 */
int answer_parse_ok(const void *text, size_t length);

/* The same for the answer to `watch`, with the number of the last event. */
int answer_parse_watch(uint64_t *sequence, const void *text, size_t length);

/* The same, but with -EACCES fills `refusal` if the relay says that it isn't ok. */
int answer_parse_done(struct refusal *refusal, const void *text, size_t length);

/*
 * Reads the answer to `resolve` or `peers`. Free with list_free(). Returns as answer_parse_ok(), or
 * -ENOMEM.
 */
int answer_parse_list(struct list *list, const void *text, size_t length);
void list_free(struct list *list);

/* Writes "a.b.c.d:port" or "[v6]:port". */
void answer_format_address(char text[ANSWER_ADDRESS_TEXT], const struct sockaddr_storage *address);

#endif
