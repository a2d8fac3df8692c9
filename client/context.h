/*
 * The context: one epoll descriptor, one timer descriptor, and what its peers share.
 */
#ifndef CLIENT_CONTEXT_H
#define CLIENT_CONTEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/queue.h>
#include <sys/socket.h>

#include "timer.h"
#include "viaduct.h"
#include "wire.h"

enum {
	CONTEXT_BATCH = 64, // trains or datagrams received by a system call
	CONTEXT_EVENTS = 128,
	CONTEXT_CONTROL = 64, // bytes beside a datagram
	CONTEXT_FRONT = WIRE_BUNDLE_HEADER + WIRE_BUNDLE_LENGTH,
};

#define MILLISECOND                     UINT64_C(1000000)
#define SECOND                          (1000 * MILLISECOND)

#define owner_of(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))

struct flow;
struct lane;
struct remote;
struct trust;
struct relay;
struct session;
struct tickets;
struct wallet;

/* A descriptor that epoll watches, inside what it belongs to. */
struct watch {
	int fd; // -1 if closed
	void (*ready)(struct watch *watch, uint32_t events);
};

/* A record being filled, or sealed and waiting to be sent. */
struct record {
	STAILQ_ENTRY(record) link;
	struct session *session; // once it is sealed
	struct lane *lane;
	uint32_t capacity;
	uint32_t size;
	uint8_t front[CONTEXT_FRONT]; // what stands before it in a bundle
	uint8_t data[];               // right behind
};
STAILQ_HEAD(record_queue, record);

struct viaduct {
	int epoll;
	struct watch clock; // timerfd
	uint64_t armed;     // when it fires; UINT64_MAX if not at all
	uint64_t now;       // CLOCK_MONOTONIC, ns, as of the last look
	struct timers timers;
	bool processing;
	int received; // datagrams, in this viaduct_process()

	LIST_HEAD(, viaduct_peer) peers;
	unsigned int peer_count;      // of them
	STAILQ_HEAD(, session) dirty; // with something to seal
	STAILQ_HEAD(, flow) flows;    // with something to send
	LIST_HEAD(, remote) remotes;
	LIST_HEAD(, session) ended; // to be freed when nobody looks at them any more
	LIST_HEAD(, viaduct_peer) closed;

	TAILQ_HEAD(dial_line, viaduct_peer) rekeys, joins; // waiting for their turn to shake hands
	unsigned int dialling, dialling_max;
	struct timer dial; // somebody's turn has come

	struct trust *trusts;
	struct tickets *tickets; // NULL: none
	struct wallet *wallet;   // likewise
	struct relay *relays;

	struct record_queue spare; // records to use again
	unsigned int spare_count;

	struct mmsghdr headers[CONTEXT_BATCH]; // for receiving, into
	struct iovec vectors[CONTEXT_BATCH];
	uint8_t controls[CONTEXT_BATCH][CONTEXT_CONTROL] __attribute__((aligned(8)));
	uint8_t *buffers;

	struct epoll_event events[CONTEXT_EVENTS];
	int event, event_count; // being looked at

	char open_error[256];
};

/* Looks at the clock; returns and keeps the time in ns. */
uint64_t context_now(struct viaduct *v);

void context_timer(struct viaduct *v, struct timer *timer, uint64_t due);
void context_timer_in(struct viaduct *v, struct timer *timer, uint64_t ns);
void context_timer_stop(struct viaduct *v, struct timer *timer);

/* Watches a descriptor that the watch owns from now on. Returns 0 or a negative errno. */
int context_watch(struct viaduct *v, struct watch *watch, uint32_t events);

/* Changes what is waited for. */
void context_rewatch(struct viaduct *v, struct watch *watch, uint32_t events);

/* Stops watching and closes the descriptor; fine if it is closed. */
void context_unwatch(struct viaduct *v, struct watch *watch);

/* An empty record of at least this capacity; NULL if memory is out. */
struct record *context_record(struct viaduct *v, size_t capacity);
void context_record_free(struct viaduct *v, struct record *record);

/* Frees the sessions and peers that have ended, which nobody must be looking at. */
void context_reap(struct viaduct *v);

/* Receives into v->headers. Returns how many of them are filled, or -1 and errno. */
int context_receive(struct viaduct *v, int fd);

/* `base` ms, of which the upper half is left to chance, in ns: so that peers don't march in step.
 */
uint64_t context_jitter(uint64_t base_ms);

#endif
