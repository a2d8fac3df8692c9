/*
 * libviaduct: be a peer of a Viaduct relay.
 *
 * A `struct viaduct` is a context: an event loop's worth of peers behind one file descriptor. A
 * `struct viaduct_peer` is one identity that joins one relay and sends and receives messages. A
 * context carries one peer as well as 10,000.
 *
 *	struct viaduct *v = viaduct_new();
 *	struct viaduct_peer *peer;
 *
 *	viaduct_peer_open(&peer, v, &config, &callbacks);
 *	while (running)
 *		viaduct_wait(v, 1000);
 *	viaduct_free(v);
 *
 * client/example.c is a whole program.
 *
 * Threads: a context and all of its peers belong to one thread at a time. Contexts are independent
 * of each other and may live in different threads. The library starts a thread of its own only to
 * look up a relay's host name, and installs no signal handler.
 *
 * Nothing blocks except viaduct_wait(), and reading the certificate files. Callbacks run inside
 * viaduct_process() and viaduct_wait() only, never inside the call that asked for something. They
 * may call every function here except viaduct_free(), viaduct_process() and viaduct_wait().
 *
 * Errors: functions return 0, or a negative errno, or a negative value of `enum viaduct_error`,
 * which are errno values with a meaning of their own; viaduct_strerror() words them all.
 *
 * Delivery: a message is delivered once or not at all, unless a request or control callback says
 * otherwise. Messages of one lane and class to one receiver usually arrive in order, but the
 * network may reorder or lose records; what the relay can't forward comes back as `error`.
 */
#ifndef VIADUCT_H
#define VIADUCT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>

#pragma GCC visibility push(default)

struct viaduct;
struct viaduct_peer;

enum {
	VIADUCT_ID_SIZE = 16,
	VIADUCT_ID_TEXT = 26,         // characters of an id as text, without the NUL
	VIADUCT_LANES_MAX = 8,        // lanes in each direction
	VIADUCT_REQUESTS_MAX = 65536, // requests that may be outstanding at one peer
	VIADUCT_TAG_MAX = 0x7fffffff, // larger tags are the library's own
	VIADUCT_RECORDS_WAITING = 64, // sealed records a lane holds when the kernel takes no more
	VIADUCT_NAME_MAX = 64,        // bytes of a topic's name
	VIADUCT_COMPLAINT_MAX = 64,   // bytes of the reason of one
};

/* A message's priority. Overloaded relays shed bulk first. */
enum viaduct_class {
	VIADUCT_BULK,
	VIADUCT_NORMAL,
	VIADUCT_CRITICAL,
};

/* What `message` hands out. Responses go to the callback of their request instead. */
enum viaduct_kind {
	VIADUCT_SEND = 1,
	VIADUCT_REQUEST = 2,
	VIADUCT_RESPONSE = 3,
	VIADUCT_PUBLISH = 4, // to a topic, which is `via`
};

/* Why the relay could not forward a message. viaduct_reason_name() gives the protocol's name. */
enum viaduct_reason {
	VIADUCT_NO_ROUTE = 1,        // no peer of this id is here
	VIADUCT_TOO_LARGE = 2,       // longer than the receiver's session allows
	VIADUCT_HOP_LIMIT = 3,       // too many relays on the way
	VIADUCT_UNSUPPORTED = 4,     // a kind that this relay doesn't forward
	VIADUCT_TX_FULL = 5,         // the relay's port took no more
	VIADUCT_KEY_EXHAUSTED = 6,   // the receiver must rekey before it can be sent more
	VIADUCT_NO_BUFFER = 7,       // the relay was out of buffers
	VIADUCT_POLICY = 8,          // this peer's cluster may not talk to that one
	VIADUCT_NO_INSTANCE = 9,     // the service has no instance that could be asked
	VIADUCT_INSTANCE_GONE = 10,  // the instance has left, or fallen silent
	VIADUCT_TIMEOUT = 11,        // the instance has not responded in time
	VIADUCT_REQUESTS_FULL = 12,  // too many requests to services are under way
	VIADUCT_PUBLISHER_RATE = 16, // this peer publishes too much
	VIADUCT_TOPIC_RATE = 17,     // too much is published to this topic
	VIADUCT_TOPIC_FULL = 18,     // too much waits for the topic's members
};

/* Errors with a meaning of their own. Other negative values are plain errno. */
enum viaduct_error {
	VIADUCT_E_DATA_PORT = -EHOSTDOWN, // joined, but the data port doesn't answer (3 s)
	VIADUCT_E_EXPIRED = -ENOLINK,     // nothing authentic from the relay for `expiry` seconds
	VIADUCT_E_REPLACED = -ESTALE,     // another join of this identity took over
	VIADUCT_E_REVOKED = -EPERM,       // the relay's operator has revoked this identity
	VIADUCT_E_CLOSING = -ESHUTDOWN,   // the relay stops
	VIADUCT_E_TLS = -EKEYREJECTED,    // a certificate was refused, by us or by the relay
	VIADUCT_E_PROTOCOL = -EPROTO, // the relay refused hello, or said what we don't understand
	VIADUCT_E_BUSY = -EBUSY,      // the relay is busy and said when to come again
	VIADUCT_E_FULL = -EUSERS,     // the relay has no free session
	VIADUCT_E_CUT = -EACCES,      // this peer has misbehaved, and has to stay away for a while
	VIADUCT_E_IDENTITY = -EKEYREVOKED,      // the certificate files are another identity's now
	VIADUCT_E_KEY_EXHAUSTED = -EKEYEXPIRED, // the lane's share of the key is used up
};

struct viaduct_id {
	uint8_t bytes[VIADUCT_ID_SIZE];
};

/* A received message. It and what it points at are valid until the callback returns. */
struct viaduct_message {
	struct viaduct_id from;
	const struct viaduct_id *via; // the service or topic that it came through, or NULL
	enum viaduct_kind kind;
	enum viaduct_class class;
	uint32_t tag;              // the sender's
	bool sealed;               // the payload is sealed end to end, so not readable as it is
	bool failed;               // of a response: who was asked couldn't
	struct viaduct_id through; // the same as `via`, for a copy of this; zero if that is NULL
	const void *data;
	size_t length; // bytes
};

/* An id and the name it goes by. */
struct viaduct_entry {
	struct viaduct_id id;
	const char *name;
};

/* What has happened to another peer. It and what it points at are valid until the callback returns.
 */
struct viaduct_change {
	const char *what; // "joined", "left", "expired", "moved", "revoked", "cut"; "missed": see
			  // `missed`
	struct viaduct_id id;
	const char *name; // "" if it is longer than a message, and with "missed"
	uint64_t missed;  // events before this one that got lost; viaduct_peers() says who is there
};

/* What a peer is told. Every member may be NULL. The struct is not copied and must outlive it. */
struct viaduct_callbacks {
	/* The session works in both directions. Comes again after each automatic rejoin. */
	void (*joined)(struct viaduct_peer *peer);

	/* A send, request or publication has come; answer requests with viaduct_respond(). */
	void (*message)(struct viaduct_peer *peer, const struct viaduct_message *message);

	/*
	 * The relay could not forward the message that viaduct_send() or viaduct_publish() sent
	 * with this tag.
	 */
	void (*error)(struct viaduct_peer *peer, uint32_t tag, enum viaduct_reason reason);

	/* The answer to viaduct_ping(), and the nanoseconds from the call to its arrival. */
	void (*pong)(struct viaduct_peer *peer, const struct viaduct_id *from, uint32_t tag,
		     uint64_t rtt_ns);

	/* The address that the relay now sends to ("10.77.0.2:40000"): after a join or a roam. */
	void (*path)(struct viaduct_peer *peer, const char *address);

	/* Something has happened to a peer that viaduct_watch() is about. */
	void (*changed)(struct viaduct_peer *peer, const struct viaduct_change *change);

	/* The session has moved on to the keys of this epoch. No message is lost by it. */
	void (*rekeyed)(struct viaduct_peer *peer, uint32_t epoch);

	/*
	 * Something went wrong that does not end the session and that the library tries again,
	 * such as a rekey that was refused. `text` is one sentence for people.
	 */
	void (*warning)(struct viaduct_peer *peer, int error, const char *text);

	/*
	 * The peer is now a member of a topic (`error` 0), again after each automatic rejoin; or
	 * the relay refused (-EACCES, or another error): then the topic is forgotten. `text` is one
	 * sentence for people.
	 */
	void (*topic)(struct viaduct_peer *peer, const char *name, int error, const char *text);

	/* There is room again after viaduct_send() and its like have returned -EAGAIN. */
	void (*writable)(struct viaduct_peer *peer);

	/*
	 * The session is lost, or a join did not succeed. `text` is one sentence for people.
	 * `retry_ms` says in how many milliseconds the library will try again; it is negative if it
	 * won't (after VIADUCT_E_REPLACED or _REVOKED, or with config.no_reconnect): then
	 * only viaduct_peer_close() is left to do. Open requests have been told before.
	 */
	void (*failed)(struct viaduct_peer *peer, int error, const char *text, int retry_ms);

	/* The end of viaduct_peer_close(peer, true). The peer is freed when this returns. */
	void (*closed)(struct viaduct_peer *peer);

	/*
	 * A record has been sealed: for tests that prove that no nonce (lane and sequence) is ever
	 * used twice under one key (session index and epoch). Must not call back into the library,
	 * and may come inside any call.
	 */
	void (*sealed)(struct viaduct_peer *peer, uint32_t index, uint32_t epoch, unsigned int lane,
		       uint64_t sequence);
};

/* How to join. Zero everything first: zero means the default. Strings are copied. */
struct viaduct_config {
	// "host:port", "[v6 address]:port"; a number needs no look-up. One that stops may send the
	// peer to others.
	const char *relay;
	const char *ca;          // path of the federation's CA certificates, PEM
	const char *certificate; // path of the peer's certificate (and chain), PEM
	const char *key;         // path of its private key, PEM
	const char *federation;  // NULL: the trust domain of the peer's own certificate
	const char *ciphers;     // NULL: "aes-256-gcm,chacha20-poly1305", best first
	unsigned int lanes;      // lanes to ask for, 1 to VIADUCT_LANES_MAX; default 1
	unsigned int mtu;        // largest IP packet, 1,280 to 9,000 bytes; default 1,280
	bool checksum; // UDP checksums over IPv4, so that the kernel can put together what comes in
	bool no_reconnect; // give up at the first failure instead of trying again
	void *user;        // for viaduct_peer_user()
};

/* What was agreed with the relay. Strings live as long as the session. */
struct viaduct_session {
	struct viaduct_id relay;
	const char *data; // where records go, "address:port"
	const char *path; // where the relay sends to, or ""
	const char *cipher;
	uint32_t index;
	uint32_t epoch;
	unsigned int lanes_up, lanes_down;
	unsigned int mtu;       // bytes
	unsigned int keepalive; // seconds
	unsigned int expiry;    // seconds
	unsigned int rekey;     // seconds
	uint32_t key_records;
};

/*
 * Counters since viaduct_peer_open(), over all sessions. A datagram that names no session counts
 * for one of the peers that share the socket.
 */
struct viaduct_stats {
	uint64_t records_sent, records_received; // received: authentic ones
	uint64_t messages_sent, messages_received;
	uint64_t bytes_sent, bytes_received; // UDP payload
	uint64_t lost;      // gaps in what the relay has sent; sinks when a late record arrives
	uint64_t replayed;  // dropped: seen before, or older than the window
	uint64_t forged;    // dropped: doesn't open
	uint64_t malformed; // dropped: no record, wrong session, lane or phase; or its lengths lie
	uint64_t unmatched; // answers to no open request
	uint64_t send_failed; // records that the kernel refused
	uint64_t joins, rekeys, roams;
	unsigned int requests; // open now
};

/* Counters of one lane of the present session. */
struct viaduct_lane_stats {
	uint64_t records;
	uint64_t lost; // of a lane of the relay's
};

/* ---- The context ---- */

/* Makes a context. Returns NULL with errno set if the process is out of memory or descriptors. */
struct viaduct *viaduct_new(void);

/* Closes all peers without leaving (see viaduct_peer_close) and frees the context. NULL is fine. */
void viaduct_free(struct viaduct *v);

/*
 * The context's descriptor: readable (POLLIN) when viaduct_process() has something to do, timers
 * included. It stays the same for the context's life and belongs to it.
 */
int viaduct_fd(const struct viaduct *v);

/*
 * Does what is due, timers included, calls the callbacks, and sends what they and others have
 * queued. Never blocks and does a bounded amount of work: if there is more, viaduct_fd() stays
 * readable. Returns the number of datagrams received, or a negative errno if epoll fails.
 */
int viaduct_process(struct viaduct *v);

/*
 * Sends what is queued, waits until something is due but at most `timeout_ms` (negative: as long as
 * it takes), then does as viaduct_process(). Returns the same; 0 if time ran out or a signal came.
 */
int viaduct_wait(struct viaduct *v, int timeout_ms);

/*
 * Sends all that is queued. Needed only after viaduct_send() and its like from outside a callback,
 * when no viaduct_process() or viaduct_wait() follows at once.
 */
void viaduct_flush(struct viaduct *v);

/*
 * How many TLS handshakes the context does at the same time (default 64; at least 1). Others wait
 * in line, rekeys first.
 */
void viaduct_handshakes_limit(struct viaduct *v, unsigned int limit);

/* ---- Peers ---- */

/*
 * Opens a peer and starts to join; `joined` or `failed` says how that went. Reads the certificate
 * files, and looks at each later handshake whether they have changed, so renewed ones are picked
 * up; a new key makes it another identity, which joins anew. The context keeps what it has read,
 * the key as well, so who was open before is opened again without reading, and comes back by a
 * shorter handshake. The peer belongs to the context. Returns 0; -EINVAL (a bad
 * config), -ENOENT, -EACCES… (a file can't be read), -EKEYREJECTED (a file holds no certificate or
 * key, or they don't belong together), -ENOMEM. viaduct_open_error() words what is wrong.
 */
int viaduct_peer_open(struct viaduct_peer **peer, struct viaduct *v,
		      const struct viaduct_config *config,
		      const struct viaduct_callbacks *callbacks);

/* One sentence on why the context's last viaduct_peer_open() failed. Valid until the next. */
const char *viaduct_open_error(const struct viaduct *v);

/*
 * Ends a peer. With `leave` what is queued is sent, the relay is told, and told again until it
 * answers, for a second at most; `closed` follows. Without, or if the peer isn't joined, the peer
 * is gone at once: no further callback, and the pointer is invalid. Open requests get no answer.
 */
void viaduct_peer_close(struct viaduct_peer *peer, bool leave);

/* The config's `user`. */
void *viaduct_peer_user(const struct viaduct_peer *peer);
struct viaduct *viaduct_peer_context(const struct viaduct_peer *peer);

/* The peer's own id and name, from its certificate. Valid as long as the peer. */
const struct viaduct_id *viaduct_peer_id(const struct viaduct_peer *peer);
const char *viaduct_peer_name(const struct viaduct_peer *peer);

/* Whether messages can be sent: between `joined` and `failed`. */
bool viaduct_peer_joined(const struct viaduct_peer *peer);

/* What was agreed. Returns 0, or -ENOTCONN if the peer isn't joined. */
int viaduct_peer_session(const struct viaduct_peer *peer, struct viaduct_session *session);

/* The largest payload of a message, in bytes; 0 if the peer isn't joined. */
size_t viaduct_payload_max(const struct viaduct_peer *peer);

void viaduct_peer_stats(const struct viaduct_peer *peer, struct viaduct_stats *stats);

/*
 * Counters of one lane: `up` is what the peer sends, else what the relay sends. Returns 0,
 * -EINVAL (no such lane) or -ENOTCONN.
 */
int viaduct_lane_stats(const struct viaduct_peer *peer, bool up, unsigned int lane,
		       struct viaduct_lane_stats *stats);

/*
 * Rekeys now instead of when it is due; `rekeyed` follows. Returns 0, -ENOTCONN, or -EALREADY
 * while the last rekey is not over (5 s).
 */
int viaduct_rekey(struct viaduct_peer *peer);

/*
 * Moves lane 0 to a new UDP socket, as after a change of network: the relay checks the new address
 * and sends there; `path` follows. The old socket is listened on until 5 s after that, so nothing
 * is lost. Returns 0, -ENOTCONN, -EBUSY (the last move isn't over, or four old sockets are still
 * open), or why there is no socket.
 */
int viaduct_roam(struct viaduct_peer *peer);

/* ---- Messages ---- */

/*
 * Sends `length` bytes to peer `to` (its own id is fine). The bytes are copied. Messages of the
 * same lane and class are packed into one record until it is full or the queue is flushed, so many
 * cost little more than one; what the context's peers have queued for a relay leaves in one system
 * call. `lane` is below the session's lanes_up; each has a UDP flow of its own. `tag` is at most
 * VIADUCT_TAG_MAX and returns in `error`.
 *
 * Returns 0: queued. -ENOTCONN: not joined. -EMSGSIZE: longer than viaduct_payload_max(). -EINVAL:
 * no such lane or class, or the tag is too large. -EAGAIN: the kernel takes no more, wait for
 * `writable`. VIADUCT_E_KEY_EXHAUSTED: the lane's share of the key is used up before a rekey could
 * be had; wait for `rekeyed`. -ENOMEM.
 */
int viaduct_send(struct viaduct_peer *peer, unsigned int lane, enum viaduct_class class,
		 const struct viaduct_id *to, uint32_t tag, const void *data, size_t length);

/*
 * The end of a request, told once. `result` is 0 with the response; a positive `enum
 * viaduct_reason` if the relay couldn't forward it; -ETIMEDOUT; or -ENOTCONN if the session was
 * lost, in which case the request may have been acted upon. `response` is NULL unless `result` is
 * 0.
 */
typedef void viaduct_response_cb(struct viaduct_peer *peer, void *user, int result,
				 const struct viaduct_message *response);

/*
 * As viaduct_send(), but the receiver is asked to respond within `timeout_ms` (at least 1). The
 * library finds the tag. A request is sent once and not repeated. Returns as viaduct_send(), and
 * -EBUSY if VIADUCT_REQUESTS_MAX are open.
 */
int viaduct_request(struct viaduct_peer *peer, unsigned int lane, enum viaduct_class class,
		    const struct viaduct_id *to, const void *data, size_t length,
		    unsigned int timeout_ms, viaduct_response_cb *callback, void *user);

/*
 * Responds to a request: in its callback, or later with a copy of the struct (only `from`, `tag`,
 * `class` and `through` are used). Returns as viaduct_send().
 */
int viaduct_respond(struct viaduct_peer *peer, unsigned int lane,
		    const struct viaduct_message *request, const void *data, size_t length);

/* The same, saying that it couldn't be done: the response is `failed` at who asked. */
int viaduct_respond_failed(struct viaduct_peer *peer, unsigned int lane,
			   const struct viaduct_message *request, const void *data, size_t length);

/*
 * Pings peer `to`, or the relay if NULL, with `padding` further bytes each way. `pong` follows if
 * it answers; pings are not repeated. libviaduct answers pings by itself. Returns as
 * viaduct_send().
 */
int viaduct_ping(struct viaduct_peer *peer, unsigned int lane, enum viaduct_class class,
		 const struct viaduct_id *to, uint32_t tag, size_t padding);

/* ---- Topics ---- */

/*
 * Makes the peer a member of a topic: what others publish to it comes as a `message` with the
 * topic's id in `via`. `name`: 1 to VIADUCT_NAME_MAX of a-z, 0-9, '.', '_', '-' and '/', the first
 * a letter or digit; copied. `cluster`: the peer's own, to have all of its peers be members as long
 * as this one is (if the relay allows it); else NULL. May be called at any time; `topic` says when
 * it has come true, and the library repeats it for every new session. Returns 0; -EEXIST or -EBUSY
 * (it is, or just was, joined for another cluster), -ENAMETOOLONG, -ENOMEM, or as viaduct_send().
 */
int viaduct_topic_join(struct viaduct_peer *peer, const char *name, const char *cluster);

/* Ends that. A few messages may still come. Returns 0, -ENOENT (not joined), or as above. */
int viaduct_topic_leave(struct viaduct_peer *peer, const char *name);

/* The id of the topic of this name, which anybody can compute. */
void viaduct_topic_id(struct viaduct_id *id, const char *name);

/*
 * As viaduct_send(), to all members of a topic but this peer, which need not be one itself. That
 * the relay could not reach a member is not told; that it didn't take the message at all is:
 * `error` with VIADUCT_NO_ROUTE (nobody has joined such a topic), or because too much is published.
 */
int viaduct_publish(struct viaduct_peer *peer, unsigned int lane, enum viaduct_class class,
		    const struct viaduct_id *topic, uint32_t tag, const void *data, size_t length);

/* ---- Questions to the relay, repeated until answered, for 5 s at most ---- */

/*
 * A list of peers, none that the relay's policy keeps this one from sending to. `error` is 0,
 * -ETIMEDOUT, -ENOTCONN or VIADUCT_E_PROTOCOL (the relay refused). A long list comes in parts;
 * `more` says that another call follows. Valid until it returns.
 */
typedef void viaduct_list_cb(struct viaduct_peer *peer, void *user, int error,
			     const struct viaduct_entry *entries, size_t count, bool more);

/* Who goes by this name (full SPIFFE ID, or CN)? Returns 0, -ENOTCONN, -EMSGSIZE, -ENOMEM… */
int viaduct_resolve(struct viaduct_peer *peer, const char *name, viaduct_list_cb *callback,
		    void *user);

/* Who is in this cluster, or with NULL at this relay? Returns as viaduct_resolve(). */
int viaduct_peers(struct viaduct_peer *peer, const char *cluster, viaduct_list_cb *callback,
		  void *user);

/*
 * Has the relay say what happens to peer `id` (NULL: to all) of `cluster` (NULL: any), as far as
 * this peer may send to them: `changed` follows, each time. Instead of what was watched before, and
 * until the session ends: ask again in `joined`. If the relay refuses or doesn't answer, `warning`
 * says so. Returns as viaduct_resolve().
 */
int viaduct_watch(struct viaduct_peer *peer, const char *cluster, const struct viaduct_id *id);

/* Ends that. Returns the same. */
int viaduct_unwatch(struct viaduct_peer *peer);

/*
 * The answer to any control request: JSON text of `length` bytes, NUL-terminated, NULL if `error`
 * is not 0. Valid until the callback returns.
 */
typedef void viaduct_control_cb(struct viaduct_peer *peer, void *user, int error,
				const char *answer, size_t length);

/*
 * Asks the relay with a JSON object of the caller's, such as {"op":"relays"}. Must be idempotent.
 * Returns as viaduct_resolve().
 */
int viaduct_control(struct viaduct_peer *peer, const char *request, viaduct_control_cb *callback,
		    void *user);

/*
 * Complains to the relay about peer `about`; `reason` is for people, at most VIADUCT_COMPLAINT_MAX
 * bytes. What follows from it, docs/trust.md says: little, unless the relay has seen something
 * itself. Returns -EMSGSIZE if the reason is longer, else as viaduct_resolve(); the answer has
 * `ok`, and if that is false `error` and `detail`.
 */
int viaduct_complain(struct viaduct_peer *peer, const struct viaduct_id *about, const char *reason,
		     viaduct_control_cb *callback, void *user);

/* ---- Services ---- */

/*
 * The id that stands for a service: what is sent to it, or asked of it, reaches one of the peers
 * that registered for it. A request ends, besides as others do, with VIADUCT_NO_INSTANCE,
 * VIADUCT_INSTANCE_GONE, VIADUCT_TIMEOUT or VIADUCT_REQUESTS_FULL.
 */
void viaduct_service_id(struct viaduct_id *id, const char *name);

/* What a peer registers for. Zero everything first. */
struct viaduct_registration {
	const char *name;
	const char *region;  // where the peer is, for services that prefer near ones; NULL: unsaid
	unsigned int weight; // what it can, beside the others, 1 to 1000; 0: 1
	unsigned int policy_version; // shown to operators
};

/*
 * Registers for a service, or changes that. A registration lasts as long as the session: do it
 * again in each `joined`. Returns as viaduct_resolve(); the answer has `ok`, and if that is false
 * `error` and `detail`.
 */
int viaduct_register(struct viaduct_peer *peer, const struct viaduct_registration *registration,
		     viaduct_control_cb *callback, void *user);
int viaduct_unregister(struct viaduct_peer *peer, const char *name, viaduct_control_cb *callback,
		       void *user);

/*
 * As viaduct_request() to a service's id. Requests of the same key go to the same instance, as
 * long as that isn't overloaded and none comes or goes.
 */
int viaduct_request_sticky(struct viaduct_peer *peer, unsigned int lane, enum viaduct_class class,
			   const struct viaduct_id *service, uint64_t key, const void *data,
			   size_t length, unsigned int timeout_ms, viaduct_response_cb *callback,
			   void *user);

/* ---- Words ---- */

/* Writes an id's text and a NUL. */
void viaduct_id_format(char text[VIADUCT_ID_TEXT + 1], const struct viaduct_id *id);

/* Reads the text of an id. Returns 0, or -EINVAL if it isn't one. */
int viaduct_id_parse(struct viaduct_id *id, const char *text);

/* A short phrase for any error of this library, without a full stop. Static. */
const char *viaduct_strerror(int error);

/* The protocol's name of a reason, "no_route"; "unknown" for others. Static. */
const char *viaduct_reason_name(enum viaduct_reason reason);

/* The library's version, "0.1.0". */
const char *viaduct_version(void);

#pragma GCC visibility pop

#endif
