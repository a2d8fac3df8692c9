/*
 * What the commands that talk as a peer share: options, joining, finding the other peer, the loop.
 */
#ifndef CLIENT_CLI_TALK_H
#define CLIENT_CLI_TALK_H

#include <poll.h>
#include <stdint.h>

#include "cli.h"
#include "viaduct.h"

enum { TALK_EXTRA_MAX = 64 };

struct talk {
	const struct command *command;
	const char *relay, *ca, *certificate, *key;
	const char *target; // a name, an id or "relay"; NULL if the command has none
	enum viaduct_class class;
	bool stay; // join again whenever the session is lost

	/* Joined, and the target is found: the command may begin. Comes again after a rejoin. */
	void (*ready)(struct talk *talk);
	/* At `alarm_ms`, if that isn't 0; cleared before. */
	void (*alarm)(struct talk *talk);
	/* An extra descriptor has something. */
	void (*extra)(struct talk *talk, struct pollfd *fd);
	struct viaduct_callbacks callbacks; // joined and failed are the loop's

	struct viaduct *v;
	struct viaduct_peer *peer;
	struct viaduct_id to; // the target
	bool to_relay;
	bool begun;
	uint64_t alarm_ms; // on talk_now()'s clock
	struct pollfd extras[TALK_EXTRA_MAX];
	unsigned int extra_count;
	bool over;
	int code;
};

/* The options of every talking command, for its list; they come before CLI_OPTIONS. */
#define TALK_OPTIONS                                                                               \
	{"relay", required_argument, NULL, 'R'}, {"ca", required_argument, NULL, 'A'},             \
		{"cert", required_argument, NULL, 'C'}, {"key", required_argument, NULL, 'K'},     \
	{                                                                                          \
		"class", required_argument, NULL, 'L'                                              \
	}

#define TALK_HELP                                                                                  \
	"      --relay HOST:PORT  the relay, [v6]:port too (VIADUCT_RELAY)\n"                      \
	"      --ca FILE          the federation's CA (VIADUCT_CA)\n"                              \
	"      --cert FILE        your certificate (VIADUCT_CERT)\n"                               \
	"      --key FILE         its key (VIADUCT_KEY)\n"                                         \
	"      --json             JSON instead of text\n"
#define TALK_HELP_CLASS "      --class CLASS      bulk, normal (the default) or critical\n"
#define TALK_HELP_PEER                                                                             \
	"PEER is an id of 26 characters or a name, whole or without what it has in common with\n"  \
	"yours: spiffe://lab/default/peer-2, other/peer-2, peer-2. service:NAME is an instance "   \
	"of a\n"                                                                                   \
	"service.\n\n"

/* As cli_option(), and handles TALK_OPTIONS. Sets the talk up at the first call. */
int talk_option(struct talk *talk, int argc, char **argv, const char *letters,
		const struct option *options);

/* Joins and runs until talk_end() or a signal, then leaves. Returns the exit code. */
int talk_run(struct talk *talk);

/* Ends the loop. */
void talk_end(struct talk *talk, int code);

/* Milliseconds, monotonic. */
uint64_t talk_now(void);

/* Prints a payload, or adds it to an object as `text` or, if it is none, `hex`. */
void talk_print_payload(const void *data, size_t length);
void talk_add_payload(json_t *object, const void *data, size_t length);

/* An id as a JSON string. */
json_t *talk_id(const struct viaduct_id *id);

#endif
