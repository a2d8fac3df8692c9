/*
 * Bursts through the forwarding core with a cipher that does nothing, the same ones every time: for
 * counting instructions (perf/regress). Usage: burst lone|packed|spread|topic BURSTS
 *
 *   lone    one message a record, each for a random receiver
 *   packed  eight messages a record, all of a record for one receiver
 *   spread  eight messages a record, each for a random one of 64 receivers
 *   topic   one message a burst, for all but its sender
 */
#include <stdio.h>
#include <stdlib.h>

#include "forward.h"

enum {
	SESSIONS = 1000,
	TOPIC = SESSIONS, // its slot
	PAYLOAD = 120,    // eight fit into a record
	RECORD_MAX = 1232,
	BUFFER = 2048,
	HEADROOM = 128,
};

static uint8_t buffers[FORWARD_BURST + FORWARD_SPARES + FORWARD_OUTPUTS][BUFFER]
	__attribute__((aligned(64)));
static void *spare[sizeof(buffers) / BUFFER];
static unsigned int spare_count;
static struct aead_key key = {.aead = WIRE_AES_256_GCM};
static uint64_t random_state;

static uint32_t random_below(uint32_t n)
{
	random_state = random_state * UINT64_C(6364136223846793005) + 1442695040888963407;
	return (uint32_t)((random_state >> 33) % n);
}

static void open_all(void *worker, struct aead_job *jobs, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		jobs[i].ok = true;
}

static void seal_all(void *worker, struct aead_job *jobs, unsigned int n)
{
}

static void seal_texts(void *worker, struct aead_job *jobs, const uint8_t *const *texts,
		       unsigned int n)
{
}

static const struct aead_ops no_cipher = {
	.name = "none", .open = open_all, .seal = seal_all, .seal_texts = seal_texts};

static unsigned int spares(void *worker, struct forward_spare *out, unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n && spare_count; i++) {
		out[i].buffer = spare[--spare_count];
		out[i].record = (uint8_t *)out[i].buffer + HEADROOM;
	}
	return i;
}

static void release(void *worker, void **buffer, unsigned int n)
{
	while (n--)
		spare[spare_count++] = *buffer++;
}

static unsigned int transmit(void *worker, const struct aead_job *records,
			     struct forward_output *outputs, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		spare[spare_count++] = outputs[i].buffer;
	return n;
}

static bool handover(void *worker, unsigned int owner, struct forward_input *input)
{
	return false;
}

static bool event(void *worker, const struct forward_event *what)
{
	return false;
}

static const struct forward_ops ops = {spares, release, transmit, handover, event, NULL, NULL};

static struct session *make_session(struct region_pool *regions, uint32_t slot)
{
	struct region *region = region_new(regions);
	struct session_state *state = region ? session_state_new(region, 1, 1) : NULL;
	struct session *session = state ? region_take(region, sizeof(*session)) : NULL;

	if (!session)
		exit(1);
	session->index = slot;
	session->tx_budget = WIRE_KEY_RECORDS;
	session->record_max = RECORD_MAX;
	session->lanes_up = session->lanes_down = 1;
	session->rx[0] = session->tx = &key;
	session->state = state;
	session->header.length = 42;
	memset(&session->relay, 0xff, sizeof(session->relay));
	wire_put32(session->id.bytes, slot);
	return session;
}

static void make_topic(struct session_table *sessions, struct wire_id *id)
{
	static struct topic topic = {.group.kind = GROUP_TOPIC};
	struct topic_members *members =
		malloc(sizeof(*members) + SESSIONS * sizeof(members->slots[0]));

	if (!members)
		exit(1);
	members->count = SESSIONS;
	for (uint32_t slot = 0; slot < SESSIONS; slot++)
		members->slots[slot] = slot;
	topic.members = members;
	sessions->slot[TOPIC].group = &topic.group;
	memcpy(id->bytes, "topic", 5);
}

int main(int argc, char **argv)
{
	static const uint8_t secret[32] = "a secret of thirty-two bytes....";
	static struct forward forward;
	static uint64_t sequences[SESSIONS];
	static struct rates no_limits; // as a relay has, if none are configured
	struct session_table *sessions = session_table_new(NODE_ANY, SESSIONS, 1);
	struct region_pool *regions =
		session_pool_new(NODE_ANY, 1, 1, sizeof(struct session), sizeof(key));
	unsigned int pack, spread, records = FORWARD_BURST;
	struct wire_id topic = {0};
	struct route_table routes;
	bool publish;
	uint64_t messages = 0;
	int bursts;

	if (argc != 3 || (bursts = atoi(argv[2])) <= 0) {
		fprintf(stderr, "usage: burst lone|packed|spread|topic BURSTS\n");
		return 2;
	}
	publish = strcmp(argv[1], "topic") == 0;
	pack = publish || strcmp(argv[1], "lone") == 0 ? 1 : 8;
	spread = strcmp(argv[1], "spread") ? 0 : 64;
	if (!sessions || !regions || route_table_init(&routes, sessions, SESSIONS + 1, secret))
		return 1;
	for (uint32_t slot = 0; slot < SESSIONS; slot++) {
		struct session *session = make_session(regions, slot);

		sessions->slot[slot].current = session;
		if (route_set(&routes, &session->id, slot))
			return 1;
	}
	make_topic(sessions, &topic);
	if (route_set(&routes, &topic, TOPIC))
		return 1;
	if (publish)
		records = 1;
	for (unsigned int i = 0; i < sizeof(buffers) / BUFFER; i++)
		spare[spare_count++] = buffers[i];
	forward.ops = &ops;
	sessions->rates = &no_limits;
	forward.sessions = sessions;
	forward.routes = &routes;
	forward.aead = &no_cipher;
	for (int burst = 0; burst < bursts; burst++) {
		struct forward_input inputs[FORWARD_BURST] = {0};

		for (unsigned int i = 0; i < records; i++) {
			uint32_t from = random_below(SESSIONS), to = random_below(SESSIONS);
			struct wire_record header = {
				.class = WIRE_NORMAL,
				.index = from,
				.sequence = sequences[from]++,
			};
			uint8_t *at;

			inputs[i].buffer = spare[--spare_count];
			inputs[i].record = at = (uint8_t *)inputs[i].buffer + HEADROOM;
			wire_record_put(at, &header);
			at += WIRE_RECORD_HEADER;
			for (unsigned int m = 0; m < pack; m++) {
				if (spread)
					to = random_below(spread);
				wire_message_put(at, PAYLOAD, publish ? WIRE_PUBLISH : WIRE_SEND,
						 WIRE_HOP_LIMIT, 0, m,
						 publish ? &topic : &sessions->slot[to].id);
				at += WIRE_MESSAGE_HEADER + PAYLOAD;
			}
			inputs[i].length = (uint16_t)(at + WIRE_TAG_SIZE - inputs[i].record);
		}
		messages += publish ? SESSIONS - 1 : records * pack;
		forward_burst(&forward, inputs, records, 1000 + (uint64_t)burst);
		while (forward_resume(&forward, 1000 + (uint64_t)burst))
			continue;
	}
	if (forward.counters.messages_delivered != messages ||
	    !counters_balance(&forward.counters)) {
		fprintf(stderr, "burst: messages were lost\n");
		return 1;
	}
	printf("%lu\n", (unsigned long)messages);
	return 0;
}
