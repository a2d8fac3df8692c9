#include "flow.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>

#include "peer.h"
#include "session.h"

enum {
	SOCKET_BUFFER = 4 << 20,
	READS_MAX = 4,        // batches, before others have their turn
	SEND_RECORDS = 256,   // a system call
	TRAIN_DATAGRAMS = 64, // all kernels that know trains take so many
	TRAIN_BYTES = 65000,  // with headers it must fit an IP packet
	BUCKETS_MIN = 16,
};

/* ---- Sessions by index ---- */

static struct session **bucket_of(const struct remote *remote, uint32_t index)
{
	return &remote->buckets[index & (remote->bucket_count - 1)];
}

static int buckets_grow(struct remote *remote)
{
	unsigned int before = remote->bucket_count;
	struct session **old = remote->buckets;
	unsigned int count = before ? 2 * before : BUCKETS_MIN;
	struct session **made = calloc(count, sizeof(struct session *));

	if (!made)
		return -ENOMEM;
	remote->buckets = made;
	remote->bucket_count = count;
	for (unsigned int i = 0; i < before; i++) {
		struct session *session = old[i], *next;

		for (; session; session = next) {
			struct session **bucket = bucket_of(remote, session->welcome.index);

			next = session->remote_next;
			session->remote_next = *bucket;
			*bucket = session;
		}
	}
	free(old);
	return 0;
}

static struct session *session_find(const struct remote *remote, uint32_t index)
{
	struct session *session = *bucket_of(remote, index);

	while (session && session->welcome.index != index)
		session = session->remote_next;
	return session;
}

static void remote_free(struct remote *remote)
{
	if (remote->session_count || !LIST_EMPTY(&remote->flows))
		return;
	LIST_REMOVE(remote, link);
	free(remote->buckets);
	free(remote);
}

int remote_enter(struct session *session)
{
	const struct sockaddr_storage *address = &session->welcome.data;
	struct viaduct *v = session->peer->v;
	struct session **bucket;
	struct remote *remote;

	LIST_FOREACH(remote, &v->remotes, link)
	if (!memcmp(&remote->address, address, sizeof(*address)))
		break;
	if (!remote) {
		remote = calloc(1, sizeof(*remote));
		if (!remote)
			return -ENOMEM;
		remote->v = v;
		remote->address = *address;
		LIST_INIT(&remote->flows);
		LIST_INSERT_HEAD(&v->remotes, remote, link);
	}
	if (remote->session_count == remote->bucket_count && buckets_grow(remote)) {
		remote_free(remote);
		return -ENOMEM;
	}
	bucket = bucket_of(remote, session->welcome.index);
	session->remote = remote;
	session->remote_next = *bucket;
	*bucket = session;
	remote->session_count++;
	return 0;
}

void remote_leave(struct session *session)
{
	struct remote *remote = session->remote;
	struct session **at;

	if (!remote)
		return;
	at = bucket_of(remote, session->welcome.index);
	while (*at != session)
		at = &(*at)->remote_next;
	*at = session->remote_next;
	session->remote = NULL;
	remote->session_count--;
	remote_free(remote);
}

/* ---- Sending ---- */

union segment_control {
	char bytes[CMSG_SPACE(sizeof(uint16_t))];
	struct cmsghdr align;
};

/* What one sendmmsg() is asked to send: a vector for each record. */
struct batch {
	unsigned int count;
	struct mmsghdr headers[SEND_RECORDS];
	struct iovec vectors[SEND_RECORDS];
	union segment_control controls[SEND_RECORDS];
};

static void segment_put(struct msghdr *header, union segment_control *control, size_t size)
{
	const uint16_t segment = (uint16_t)size;

	header->msg_control = control;
	header->msg_controllen = sizeof(control->bytes);
	*CMSG_FIRSTHDR(header) = (struct cmsghdr){.cmsg_level = SOL_UDP,
						  .cmsg_type = UDP_SEGMENT,
						  .cmsg_len = CMSG_LEN(sizeof(segment))};
	memcpy(CMSG_DATA(CMSG_FIRSTHDR(header)), &segment, sizeof(segment));
}

/* Bytes of a bundle that may hold this record; 0: none may. */
static size_t bundle_max(const struct flow *flow, const struct record *record)
{
	const struct welcome *welcome = &record->session->welcome;

	return flow->bundles && welcome->bundles ? welcome->mtu - WIRE_IP_OVERHEAD : 0;
}

/* With what stands before it in a bundle, if anything. */
static struct iovec record_vector(struct record *record, size_t front)
{
	return (struct iovec){record->front + CONTEXT_FRONT - front, front + record->size};
}

static void length_put(struct record *record)
{
	wire_put16(record->front + CONTEXT_FRONT - WIRE_BUNDLE_LENGTH, (uint16_t)record->size);
}

/*
 * Gathers the next datagram, which is the record at `*next` or a bundle of those from there on that
 * fit, into `vectors`, of which there are `room`. Returns how many it took; sets its size.
 */
static unsigned int datagram_gather(const struct flow *flow, struct record **next,
				    struct iovec *vectors, unsigned int room, size_t *size)
{
	struct record *first = *next, *record = STAILQ_NEXT(first, link);
	size_t most = bundle_max(flow, first), sum = CONTEXT_FRONT + first->size;
	unsigned int count = 1;

	for (; record && count < room; record = STAILQ_NEXT(record, link)) {
		size_t limit = bundle_max(flow, record);

		most = limit < most ? limit : most;
		if (sum + WIRE_BUNDLE_LENGTH + record->size > most)
			break;
		length_put(record);
		vectors[count++] = record_vector(record, WIRE_BUNDLE_LENGTH);
		sum += WIRE_BUNDLE_LENGTH + record->size;
	}
	if (count > 1) {
		wire_put16(first->front, WIRE_BUNDLE << 8);
		length_put(first);
	}
	vectors[0] = record_vector(first, count > 1 ? CONTEXT_FRONT : 0);
	*size = count > 1 ? sum : first->size;
	*next = record;
	return count;
}

/* Datagrams of the same size, and one behind them that is smaller, are a train. */
static void batch_gather(struct batch *batch, const struct flow *flow)
{
	size_t segment = 0, last = 0, sum = 0, size;
	struct record *record = STAILQ_FIRST(&flow->sealed);
	unsigned int used = 0, cars = 0, n;
	struct msghdr *header = NULL;

	batch->count = 0;
	for (; record && used < SEND_RECORDS; used += n) {
		n = datagram_gather(flow, &record, &batch->vectors[used], SEND_RECORDS - used,
				    &size);
		if (header && flow->trains && cars < TRAIN_DATAGRAMS && last == segment &&
		    size <= segment && sum + size <= TRAIN_BYTES) {
			if (cars++ == 1)
				segment_put(header, &batch->controls[batch->count - 1], segment);
			header->msg_iovlen += n;
			sum += size;
		} else {
			header = &batch->headers[batch->count++].msg_hdr;
			*header =
				(struct msghdr){.msg_iov = &batch->vectors[used], .msg_iovlen = n};
			segment = sum = size;
			cars = 1;
		}
		last = size;
	}
}

/* The first `count` records in line are done with. */
static void line_advance(struct flow *flow, size_t count, bool sent)
{
	while (count--) {
		struct record *record = STAILQ_FIRST(&flow->sealed);
		struct viaduct_stats *stats = &record->session->peer->stats;

		if (sent)
			stats->records_sent++;
		else
			stats->send_failed++;
		stats->bytes_sent += record->size;
		record->lane->waiting--;
		STAILQ_REMOVE_HEAD(&flow->sealed, link);
		context_record_free(flow->remote->v, record);
	}
}

static void set_blocked(struct flow *flow, bool blocked)
{
	if (flow->blocked != blocked)
		context_rewatch(flow->remote->v, &flow->watch, EPOLLIN | (blocked ? EPOLLOUT : 0));
	flow->blocked = blocked;
}

/* Whether a message's first datagram is one. */
static bool is_bundle(const struct msghdr *header)
{
	return wire_is_bundle(header->msg_iov->iov_base, header->msg_iov->iov_len);
}

bool flow_send(struct flow *flow)
{
	bool retried = false;
	struct batch batch;
	const struct msghdr *first = &batch.headers[0].msg_hdr;

	while (!STAILQ_EMPTY(&flow->sealed)) {
		int sent;

		batch_gather(&batch, flow);
		sent = sendmmsg(flow->watch.fd, batch.headers, batch.count,
				MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent < 0 && (errno == EAGAIN || errno == ENOBUFS)) {
			set_blocked(flow, true);
			return false;
		}
		if (sent < 0 && !retried) {
			retried = true; // what an earlier ICMP said; the record may well go out
		} else if (sent < 0 && errno == EMSGSIZE && is_bundle(first)) {
			flow->bundles = false; // records may still be small enough
			retried = false;
		} else if (sent < 0 && first->msg_controllen) {
			flow->trains = false; // the kernel or the interface can't
			retried = false;
		} else if (sent < 0) {
			line_advance(flow, first->msg_iovlen, false);
			retried = false;
		} else {
			for (int i = 0; i < sent; i++)
				line_advance(flow, batch.headers[i].msg_hdr.msg_iovlen, true);
			retried = false;
		}
	}
	set_blocked(flow, false);
	return true;
}

void flow_queue(struct flow *flow, struct record *record)
{
	STAILQ_INSERT_TAIL(&flow->sealed, record, link);
	record->lane->waiting++;
	if (flow->dirty)
		return;
	flow->dirty = true;
	STAILQ_INSERT_TAIL(&flow->remote->v->flows, flow, dirty_link);
}

void flow_send_all(struct viaduct *v)
{
	struct flow *flow;

	while ((flow = STAILQ_FIRST(&v->flows))) {
		STAILQ_REMOVE_HEAD(&v->flows, dirty_link);
		flow->dirty = false;
		if (!flow->blocked)
			flow_send(flow);
	}
}

/* Takes a lane's records out of line. */
static void line_leave(struct flow *flow, const struct lane *lane, struct record_queue *left)
{
	struct record_queue keep = STAILQ_HEAD_INITIALIZER(keep);
	struct record *record;

	STAILQ_INIT(left);
	while ((record = STAILQ_FIRST(&flow->sealed))) {
		STAILQ_REMOVE_HEAD(&flow->sealed, link);
		if (record->lane == lane)
			STAILQ_INSERT_TAIL(left, record, link);
		else
			STAILQ_INSERT_TAIL(&keep, record, link);
	}
	STAILQ_CONCAT(&flow->sealed, &keep);
}

void flow_drop(struct flow *flow, const struct lane *lane)
{
	struct record_queue dropped;
	struct record *record;

	if (!flow || !lane->waiting)
		return;
	line_leave(flow, lane, &dropped);
	while ((record = STAILQ_FIRST(&dropped))) {
		STAILQ_REMOVE_HEAD(&dropped, link);
		context_record_free(flow->remote->v, record);
	}
}

void flow_exchange(struct lane *lane, struct flow_use *other)
{
	struct flow *before = lane->use.flow, *after = other->flow;
	struct record_queue moved;
	struct record *record;

	line_leave(before, lane, &moved);
	LIST_REMOVE(&lane->use, link);
	LIST_REMOVE(other, link);
	lane->use.flow = after;
	other->flow = before;
	LIST_INSERT_HEAD(&after->uses, &lane->use, link);
	LIST_INSERT_HEAD(&before->uses, other, link);
	lane->waiting = 0;
	while ((record = STAILQ_FIRST(&moved))) {
		STAILQ_REMOVE_HEAD(&moved, link);
		flow_queue(after, record);
	}
}

/* The kernel takes records again. */
static void flow_writable(struct flow *flow)
{
	struct flow_use *use, *next;

	if (!flow_send(flow))
		return;
	for (use = LIST_FIRST(&flow->uses); use; use = next) {
		struct session *session = use->session;
		struct viaduct_peer *peer = session->peer;

		// what it closes is freed later, see context_reap()
		next = LIST_NEXT(use, link);
		if (peer->starved && !session->dead) {
			peer->starved = false;
			peer_tell(peer, writable);
		}
	}
}

/* ---- Receiving ---- */

static void count_malformed(struct flow *flow)
{
	LIST_FIRST(&flow->uses)->session->peer->stats.malformed++;
}

/* Whose record it is only its index says. What names no session counts for one of the flow's. */
static void take_record(struct flow *flow, uint8_t *data, size_t size)
{
	struct session *session = NULL;

	if (size >= WIRE_RECORD_MIN)
		session = session_find(flow->remote, wire_get32(data + 4));
	if (session)
		session_receive(session, flow, data, size);
	else
		count_malformed(flow);
}

static void take_datagram(struct flow *flow, uint8_t *data, size_t size)
{
	size_t begin, end = WIRE_BUNDLE_HEADER;

	if (!wire_is_bundle(data, size)) {
		take_record(flow, data, size);
		return;
	}
	do {
		end = wire_bundle_get(&begin, data, size, end);
		if (!end) {
			count_malformed(flow);
			return;
		}
		take_record(flow, data + begin, end - begin);
	} while (end < size);
}

/* The size of each datagram in a train of `length` bytes; the last may be smaller. */
static size_t segment_get(struct msghdr *header, size_t length)
{
	const struct cmsghdr *control = CMSG_FIRSTHDR(header);
	int size;

	if (!control || control->cmsg_level != SOL_UDP || control->cmsg_type != UDP_GRO)
		return length;
	memcpy(&size, CMSG_DATA(control), sizeof(size));
	return size > 0 ? (size_t)size : length;
}

static void take_train(struct flow *flow, struct mmsghdr *received)
{
	size_t length = received->msg_len, size = segment_get(&received->msg_hdr, length);
	uint8_t *data = received->msg_hdr.msg_iov->iov_base;

	do {
		size_t n = size < length ? size : length;

		flow->remote->v->received++;
		take_datagram(flow, data, n);
		data += n;
		length -= n;
	} while (length);
}

static void flow_readable(struct flow *flow)
{
	struct viaduct *v = flow->remote->v;

	for (int read = 0; read < READS_MAX; read++) {
		int count = context_receive(v, flow->watch.fd);

		if (count < 0) {
			if (errno == EAGAIN)
				return;
			continue; // what an ICMP said
		}
		context_now(v);
		for (int i = 0; i < count; i++)
			take_train(flow, &v->headers[i]);
		if (count < CONTEXT_BATCH)
			return;
	}
}

static void flow_ready(struct watch *watch, uint32_t events)
{
	struct flow *flow = owner_of(watch, struct flow, watch);

	if (events & EPOLLOUT)
		flow_writable(flow);
	if (events & (EPOLLIN | EPOLLERR))
		flow_readable(flow);
}

/* ---- Beginning and end ---- */

static void set_option(int fd, int level, int option, int value)
{
	setsockopt(fd, level, option, &value, sizeof(value));
}

static int flow_new(struct flow **opened, struct remote *remote, unsigned int number, bool shared,
		    bool trains)
{
	const struct sockaddr_storage *to = &remote->address;
	struct flow *flow = calloc(1, sizeof(*flow));
	int fd, ret;

	if (!flow)
		return -ENOMEM;
	fd = socket(to->ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	flow->watch = (struct watch){.fd = fd, .ready = flow_ready};
	flow->remote = remote;
	flow->number = number;
	flow->shared = shared;
	flow->trains = trains;
	flow->bundles = true;
	LIST_INIT(&flow->uses);
	STAILQ_INIT(&flow->sealed);
	if (fd < 0) {
		ret = -errno;
		goto out;
	}
	// the first of each pair may go beyond the system's limit but needs privileges
	set_option(fd, SOL_SOCKET, SO_RCVBUF, SOCKET_BUFFER);
	set_option(fd, SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER);
	set_option(fd, SOL_SOCKET, SO_SNDBUF, SOCKET_BUFFER);
	set_option(fd, SOL_SOCKET, SO_SNDBUFFORCE, SOCKET_BUFFER);
	set_option(fd, SOL_UDP, UDP_GRO, 1);
	if (to->ss_family == AF_INET6)
		set_option(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
	else
		set_option(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
	if (connect(fd, (const struct sockaddr *)to, sizeof(*to))) {
		ret = -errno;
		goto out;
	}
	ret = context_watch(remote->v, &flow->watch, EPOLLIN);
	if (ret)
		goto out;
	LIST_INSERT_HEAD(&remote->flows, flow, link);
	*opened = flow;
	return 0;
out:
	context_unwatch(remote->v, &flow->watch);
	free(flow);
	return ret;
}

int flow_open(struct flow_use *use, struct session *session, unsigned int number, bool shared)
{
	struct remote *remote = session->remote;
	struct flow *flow = NULL;
	int ret;

	if (shared) {
		LIST_FOREACH(flow, &remote->flows, link)
		if (flow->shared && flow->number == number && flow->use_count < FLOW_LANES)
			break;
	}
	if (!flow) {
		ret = flow_new(&flow, remote, number, shared, session->welcome.trains);
		if (ret)
			return ret;
	}
	use->session = session;
	use->flow = flow;
	LIST_INSERT_HEAD(&flow->uses, use, link);
	flow->use_count++;
	return 0;
}

void flow_close(struct flow_use *use)
{
	struct flow *flow = use->flow;
	struct remote *remote;

	if (!flow)
		return;
	use->flow = NULL;
	LIST_REMOVE(use, link);
	if (--flow->use_count)
		return;
	remote = flow->remote;
	if (flow->dirty)
		STAILQ_REMOVE(&remote->v->flows, flow, flow, dirty_link);
	context_unwatch(remote->v, &flow->watch);
	LIST_REMOVE(flow, link);
	free(flow);
	remote_free(remote);
}
