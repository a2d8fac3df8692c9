#include "flow.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "peer.h"
#include "session.h"

enum {
	SOCKET_BUFFER = 4 << 20,
	READS_MAX = 4, // batches, before others have their turn
};

/* Sends what waits. Returns whether the kernel took it all. */
static bool lane_send(struct session *session, struct lane *lane)
{
	struct viaduct_stats *stats = &session->peer->stats;
	struct mmsghdr headers[VIADUCT_RECORDS_WAITING];
	struct iovec vectors[VIADUCT_RECORDS_WAITING];
	struct viaduct *v = session->peer->v;
	struct record *record;
	bool retried = false;

	while (!STAILQ_EMPTY(&lane->sealed)) {
		unsigned int count = 0;
		int sent;

		STAILQ_FOREACH(record, &lane->sealed, link)
		{
			if (count == VIADUCT_RECORDS_WAITING)
				break;
			vectors[count] = (struct iovec){record->data, record->size};
			headers[count] = (struct mmsghdr){
				.msg_hdr = {.msg_iov = &vectors[count], .msg_iovlen = 1}};
			count++;
		}
		sent = sendmmsg(lane->flow->watch.fd, headers, count, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent < 0 && (errno == EAGAIN || errno == ENOBUFS)) {
			if (!lane->blocked)
				context_rewatch(v, &lane->flow->watch, EPOLLIN | EPOLLOUT);
			lane->blocked = true;
			return false;
		}
		if (sent < 0 && !retried) {
			retried = true; // what an earlier ICMP said; the record may well go out
			continue;
		}
		retried = false;
		if (sent < 0) {
			stats->send_failed++;
			sent = 1;
		} else {
			stats->records_sent += (unsigned int)sent;
		}
		for (int i = 0; i < sent; i++) {
			record = STAILQ_FIRST(&lane->sealed);
			stats->bytes_sent += record->size;
			STAILQ_REMOVE_HEAD(&lane->sealed, link);
			lane->waiting--;
			context_record_free(v, record);
		}
	}
	return true;
}

static uint32_t lane_share(const struct session *session)
{
	return session->welcome.key_records / session->welcome.lanes_up;
}

/* Seals the open record of a class and puts it in line. */
static void lane_seal(struct session *session, struct lane *lane, enum wire_class class)
{
	struct record *record = lane->open[class];
	struct wire_record header = {
		.class = class,
		.phase = session->receiver.current->epoch & 1,
		.lane = (uint8_t)(lane - session->up),
		.index = session->welcome.index,
		.sequence = lane->sequence,
	};
	int size;

	lane->open[class] = NULL;
	lane->open_count--;
	lane->sequence++;
	lane->used++;
	wire_record_put(record->data, &header);
	size = keys_seal(session->receiver.current, record->data,
			 record->size - WIRE_RECORD_HEADER);
	peer_tell(session->peer, sealed, header.index, session->receiver.current->epoch,
		  header.lane, header.sequence);
	if (lane->used >= lane_share(session) / 2)
		session_rekey_soon(session);
	if (size < 0) {
		session->peer->stats.send_failed++;
		context_record_free(session->peer->v, record);
		return;
	}
	record->size = (uint32_t)size;
	STAILQ_INSERT_TAIL(&lane->sealed, record, link);
	lane->waiting++;
}

/* A new open record, if the kernel and the key allow one more. */
static int lane_open(struct session *session, struct lane *lane, enum wire_class class)
{
	struct record *record;

	if (lane->waiting + lane->open_count >= VIADUCT_RECORDS_WAITING &&
	    (lane->blocked || !lane_send(session, lane))) {
		session->peer->starved = true;
		return -EAGAIN;
	}
	if (lane->used + lane->open_count >= lane_share(session)) {
		session_rekey_soon(session);
		return VIADUCT_E_KEY_EXHAUSTED;
	}
	record = context_record(session->peer->v, session->welcome.mtu - WIRE_IP_OVERHEAD);
	if (!record)
		return -ENOMEM;
	record->size = WIRE_RECORD_HEADER;
	lane->open[class] = record;
	lane->open_count++;
	return 0;
}

uint8_t *flow_message(struct session *session, unsigned int number, enum wire_class class,
		      uint8_t kind, const struct wire_id *to, uint32_t tag, size_t length,
		      int *error)
{
	size_t limit = session->welcome.mtu - WIRE_IP_OVERHEAD - WIRE_TAG_SIZE;
	size_t size = WIRE_MESSAGE_HEADER + length;
	struct lane *lane = &session->up[number];
	struct record *record;
	uint8_t *at;

	if (lane->open[class] && lane->open[class]->size + size > limit)
		lane_seal(session, lane, class);
	if (!lane->open[class]) {
		*error = lane_open(session, lane, class);
		if (*error)
			return NULL;
	}
	record = lane->open[class];
	at = record->data + record->size;
	wire_message_put(at, (uint16_t)length, kind, WIRE_HOP_LIMIT, 0, tag, to);
	record->size += (uint32_t)size;
	session->peer->stats.messages_sent++;
	if (!session->dirty) {
		session->dirty = true;
		STAILQ_INSERT_TAIL(&session->peer->v->dirty, session, dirty_link);
	}
	return at + WIRE_MESSAGE_HEADER;
}

void flow_flush(struct session *session)
{
	for (unsigned int i = 0; i < session->welcome.lanes_up; i++) {
		struct lane *lane = &session->up[i];

		for (int class = WIRE_CLASSES - 1; class >= 0 && lane->open_count; class --)
			if (lane->open[class])
				lane_seal(session, lane, class);
		if (i == 0 && lane->waiting)
			session->sent = session->peer->v->now;
		if (!lane->blocked)
			lane_send(session, lane);
	}
}

void flow_drop(struct session *session)
{
	struct viaduct *v = session->peer->v;
	struct record *record;

	for (unsigned int i = 0; i < session->welcome.lanes_up; i++) {
		struct lane *lane = &session->up[i];

		for (int class = 0; class < WIRE_CLASSES; class ++)
			if (lane->open[class])
				context_record_free(v, lane->open[class]);
		while ((record = STAILQ_FIRST(&lane->sealed))) {
			STAILQ_REMOVE_HEAD(&lane->sealed, link);
			context_record_free(v, record);
		}
	}
}

/* The kernel takes records again. */
static void flow_writable(struct flow *flow)
{
	struct session *session = flow->session;
	struct viaduct_peer *peer = session->peer;
	bool blocked = false;

	for (unsigned int i = 0; i < session->welcome.lanes_up; i++) {
		struct lane *lane = &session->up[i];

		if (lane->flow == flow && lane->blocked && lane_send(session, lane)) {
			lane->blocked = false;
			context_rewatch(peer->v, &flow->watch, EPOLLIN);
		}
		blocked |= lane->blocked;
	}
	if (peer->starved && !blocked) {
		peer->starved = false;
		peer_tell(peer, writable);
	}
}

static void flow_readable(struct flow *flow)
{
	struct session *session = flow->session;
	struct viaduct *v = session->peer->v;

	for (int read = 0; read < READS_MAX; read++) {
		int count = recvmmsg(flow->watch.fd, v->headers, CONTEXT_BATCH, MSG_DONTWAIT, NULL);
		if (count < 0) {
			if (errno == EAGAIN)
				return;
			continue; // what an ICMP said
		}
		context_now(v);
		v->received += count;
		for (int i = 0; i < count && !session->dead; i++)
			session_receive(session, flow, v->vectors[i].iov_base,
					v->headers[i].msg_len);
		if (count < CONTEXT_BATCH || session->dead)
			return;
	}
}

static void flow_ready(struct watch *watch, uint32_t events)
{
	struct flow *flow = owner_of(watch, struct flow, watch);

	if (events & EPOLLOUT && !flow->session->dead)
		flow_writable(flow);
	if (events & (EPOLLIN | EPOLLERR) && !flow->session->dead)
		flow_readable(flow);
}

static void set_option(int fd, int level, int option, int value)
{
	setsockopt(fd, level, option, &value, sizeof(value));
}

int flow_open(struct flow **opened, struct session *session)
{
	const struct sockaddr_storage *to = &session->welcome.data;
	struct flow *flow = calloc(1, sizeof(*flow));
	int fd, ret;

	if (!flow)
		return -ENOMEM;
	fd = socket(to->ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	flow->watch = (struct watch){.fd = fd, .ready = flow_ready};
	flow->session = session;
	if (fd < 0) {
		ret = -errno;
		goto out;
	}
	// the first of each pair may go beyond the system's limit but needs privileges
	set_option(fd, SOL_SOCKET, SO_RCVBUF, SOCKET_BUFFER);
	set_option(fd, SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER);
	set_option(fd, SOL_SOCKET, SO_SNDBUF, SOCKET_BUFFER);
	set_option(fd, SOL_SOCKET, SO_SNDBUFFORCE, SOCKET_BUFFER);
	if (to->ss_family == AF_INET6)
		set_option(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
	else
		set_option(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
	if (connect(fd, (const struct sockaddr *)to, sizeof(*to))) {
		ret = -errno;
		goto out;
	}
	ret = context_watch(session->peer->v, &flow->watch, EPOLLIN);
	if (ret)
		goto out;
	LIST_INSERT_HEAD(&session->flows, flow, link);
	*opened = flow;
	return 0;
out:
	context_unwatch(session->peer->v, &flow->watch);
	free(flow);
	return ret;
}

void flow_close(struct flow *flow)
{
	context_unwatch(flow->session->peer->v, &flow->watch);
	LIST_REMOVE(flow, link);
	free(flow);
}
