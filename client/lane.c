#include "lane.h"

#include <errno.h>

#include "peer.h"
#include "session.h"

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
	record->session = session;
	record->lane = lane;
	flow_queue(lane->use.flow, record);
}

/* A new open record, if the kernel and the key allow one more. */
static int lane_open(struct session *session, struct lane *lane, enum wire_class class)
{
	struct flow *flow = lane->use.flow;
	struct record *record;

	if (lane->waiting + lane->open_count >= VIADUCT_RECORDS_WAITING &&
	    (flow->blocked || !flow_send(flow))) {
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

uint8_t *lane_message(struct session *session, unsigned int number, enum wire_class class,
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

void lane_seal_all(struct session *session)
{
	for (unsigned int i = 0; i < session->welcome.lanes_up; i++) {
		struct lane *lane = &session->up[i];

		for (int class = WIRE_CLASSES - 1; class >= 0 && lane->open_count; class --)
			if (lane->open[class])
				lane_seal(session, lane, class);
		if (i == 0 && lane->waiting)
			session->sent = session->peer->v->now;
	}
}

void lane_flush(struct session *session)
{
	lane_seal_all(session);
	for (unsigned int i = 0; i < session->welcome.lanes_up; i++) {
		struct flow *flow = session->up[i].use.flow;

		if (!flow->blocked)
			flow_send(flow);
	}
}

void lane_fini(struct session *session, struct lane *lane)
{
	for (int class = 0; class < WIRE_CLASSES; class ++)
		if (lane->open[class])
			context_record_free(session->peer->v, lane->open[class]);
	flow_drop(lane->use.flow, lane);
	flow_close(&lane->use);
}
