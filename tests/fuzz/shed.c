/*
 * Records through the backlog in front of a worker: what is put comes out once or is shed once, in
 * order, and nothing is shed for what ranks lower or while there is room.
 *
 * An input is a list of steps, two bytes each: the first one's low three bits say what, and the
 * other five how much; the second says what kind of records: two bits of the class, three of the
 * sender, three of the length.
 */
#include "fuzz.h"

#include "shed.h"

enum {
	SENDERS = 8,
	ITEMS = SHED_BACKLOG + FORWARD_BURST,
	LENGTH_STEP = 200,
	PERCENT = 100,
};

enum step {
	STEP_ARRIVE, // for the next burst: so many
	STEP_PUT,    // the burst
	STEP_HANDED, // by another worker: one
	STEP_NOISE,  // one that is no record
	STEP_TAKE,   // so many
	STEP_TIME,   // so many milliseconds pass
	STEP_CONTROL,
};

/* A record; its buffer. Only its header is there, as nobody reads more. */
struct item {
	uint8_t record[WIRE_RECORD_HEADER];
	struct forward_input input;
	enum wire_class class;
	uint8_t sender;
	uint32_t number; // in the order of arrival
	bool out;        // with the code under test
	struct item *next;
};

static struct shed shed;
static struct forward forward;
static struct item items[ITEMS], *burst[FORWARD_BURST], *spare;
static unsigned int arrived, waiting;                 // in the next burst, and all that are out
static uint32_t number, taken[SENDERS][WIRE_CLASSES]; // the newest ones
static uint64_t refused[WIRE_CLASSES], unread, now_ms;

static void give_back(struct item *item)
{
	assert(item->out);
	item->out = false;
	item->next = spare;
	spare = item;
	waiting--;
}

static void release(void *worker, void **buffers, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		struct item *item = buffers[i];

		refused[item->class]++;
		give_back(item);
	}
}

static const struct forward_ops ops = {.release = release};

static struct item *item_new(uint8_t kind)
{
	struct item *item = spare;
	struct wire_record header;

	spare = item->next;
	waiting++;
	item->out = true;
	item->number = ++number;
	item->class = kind & 3;
	item->sender = kind >> 2 & (SENDERS - 1);
	header = (struct wire_record){.class = item->class, .index = item->sender};
	wire_record_put(item->record, &header);
	item->input = (struct forward_input){
		.buffer = item,
		.record = item->record,
		.length = (uint16_t)(WIRE_RECORD_OVERHEAD + WIRE_MESSAGE_HEADER +
				     (kind >> 5) * LENGTH_STEP),
	};
	item->input.source.ip[15] = item->sender;
	return item;
}

static unsigned int others(void)
{
	return shed.count - shed.queues[SHED_CONTROL].count;
}

static unsigned int greater(unsigned int a, unsigned int b)
{
	return a > b ? a : b;
}

/* What must always hold. */
static void check(void)
{
	unsigned int sum = 0;

	for (unsigned int rank = 0; rank < SHED_RANKS; rank++) {
		sum += shed.queues[rank].count;
		assert((shed.occupied >> rank & 1) == (shed.queues[rank].count > 0));
	}
	assert(shed.count == sum && sum == waiting && sum <= SHED_BACKLOG);
	for (enum wire_class class = WIRE_BULK; class < WIRE_CLASSES; class ++)
		assert(forward.counters.records_dropped[DROP_RECORD_SHED_BULK + class] ==
		       refused[class]);
}

/* As shed.h says of a record that was counted. */
static enum shed_rank rank_of(const struct shed_claim *claim)
{
	static const enum shed_rank ranks[] = {
		[WIRE_BULK] = SHED_BULK,
		[WIRE_NORMAL] = SHED_NORMAL,
		[WIRE_CRITICAL] = SHED_CRITICAL,
		[WIRE_CONTROL] = SHED_CRITICAL,
	};
	enum shed_rank rank = ranks[claim->class];
	uint32_t share = rank == SHED_CRITICAL ? SHED_CRITICAL_SHARES * shed.share : shed.share;

	if (claim->arrived > 2 * share)
		return rank + SHED_CRITICAL_FAR - SHED_CRITICAL;
	if (claim->arrived > share)
		return rank + SHED_CRITICAL_OVER - SHED_CRITICAL;
	return claim->class == WIRE_CONTROL ? SHED_CONTROL : rank;
}

/* Whether a record of this rank may be shed. */
static bool may_refuse(enum shed_rank rank)
{
	if (rank == SHED_CONTROL)
		return shed.queues[SHED_CONTROL].count >= shed.reserved ||
		       shed.count >= SHED_BACKLOG;
	// none that ranks lower waits
	return (shed.stands || others() >= SHED_BACKLOG - shed.reserved) &&
	       shed.occupied >> rank <= 1;
}

static void keep(struct item *item, const struct shed_claim *claim)
{
	unsigned int control = shed.queues[SHED_CONTROL].count, before = others();
	bool must = !may_refuse(rank_of(claim));
	struct shed_queue was[SHED_RANKS];
	unsigned int gained = SHED_RANKS, lost = SHED_RANKS;

	memcpy(was, shed.queues, sizeof(was));
	*shed_next(&shed) = item->input;
	shed_keep(&shed, &forward, claim);
	for (unsigned int rank = 0; rank < SHED_RANKS; rank++) {
		if (shed.queues[rank].count > was[rank].count)
			gained = rank;
		if (shed.queues[rank].count < was[rank].count)
			lost = rank;
	}
	assert(!must || gained < SHED_RANKS);
	assert(gained < lost || lost == SHED_RANKS);
	assert(shed.queues[SHED_CONTROL].count <= greater(control, shed.reserved));
	assert(others() <= greater(before, SHED_BACKLOG - shed.reserved));
}

static void put(void)
{
	struct shed_claim claims[FORWARD_BURST];
	unsigned int n = 0;

	shed_begin(&shed, &forward, now_ms);
	for (unsigned int i = 0; i < arrived; i++) {
		struct forward_input *input = &burst[i]->input;
		struct wire_words header;
		enum wire_parse parsed = wire_words_get(&header, input->record, input->length);
		bool kept;

		assert(parsed == WIRE_OK);
		claims[n] = shed_claim(&shed, &forward, &header, &input->source);
		shed_count(&claims[n]);
		kept = shed_sift(&shed, &claims[n], input->buffer);
		assert(kept || may_refuse(rank_of(&claims[n])));
		burst[n] = burst[i];
		n += kept;
	}
	for (unsigned int i = 0; i < n; i++)
		keep(burst[i], &claims[i]);
	shed_end(&shed, &forward);
	arrived = 0;
	check();
}

static void arrive(unsigned int n, uint8_t kind)
{
	for (unsigned int i = 0; i < n; i++) {
		burst[arrived++] = item_new(kind);
		if (arrived == FORWARD_BURST)
			put();
	}
}

/* One by itself, after those that are on their way. */
static void put_one(uint8_t kind, bool handed, bool noise)
{
	struct item *item;

	put();
	item = item_new(kind);
	item->input.handed = handed;
	if (noise) {
		item->input.length = WIRE_RECORD_OVERHEAD - 1;
		unread++;
		refused[item->class]--;
	}
	shed_begin(&shed, &forward, now_ms);
	*shed_next(&shed) = item->input;
	shed_put(&shed, &forward);
	shed_end(&shed, &forward);
	check();
}

static void take(unsigned int n)
{
	struct forward_input inputs[FORWARD_BURST];
	struct shed_queue was[SHED_RANKS];
	unsigned int bytes = 0, count = shed.count, got;
	bool lower = false;

	memcpy(was, shed.queues, sizeof(was));
	got = shed_take(&shed, inputs, n);
	for (unsigned int i = 0; i < got; i++) {
		struct item *item = inputs[i].buffer;
		uint32_t *newest = &taken[item->sender][item->class];

		// what of class control is beyond its share doesn't wait behind the reserve
		assert(item->class == WIRE_CONTROL || item->number > *newest);
		*newest = item->number;
		assert(bytes < SHED_BYTES);
		bytes += inputs[i].length;
		give_back(item);
	}
	assert(got == (n < count ? n : count) || bytes >= SHED_BYTES);
	for (int rank = SHED_RANKS; --rank >= SHED_CRITICAL;) {
		assert(!lower || !shed.queues[rank].count);
		lower |= shed.queues[rank].count < was[rank].count;
	}
	check();
}

/* When none waits: every entry is free, and none is twice. */
static void check_entries(void)
{
	bool seen[SHED_BACKLOG + 1] = {false};
	size_t entry = (size_t)(shed.spare - shed.entries);

	for (int i = 0; i <= SHED_BACKLOG; i++) {
		assert(!seen[entry]);
		seen[entry] = true;
		entry = shed.next[entry];
	}
}

static void start(void)
{
	static struct route_table routes;

	forward.ops = &ops;
	forward.routes = &routes;
	forward.sessions = session_table_new(NODE_ANY, SENDERS, 0);
	assert(forward.sessions);
	for (unsigned int i = 0; i < ITEMS; i++) {
		items[i].next = spare;
		spare = &items[i];
	}
}

static void reset(void)
{
	memset(&shed, 0, sizeof(shed));
	shed_init(&shed);
	memset(&forward.counters, 0, sizeof(forward.counters));
	memset(taken, 0, sizeof(taken));
	memset(refused, 0, sizeof(refused));
	unread = now_ms = number = 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!forward.sessions)
		start();
	reset();
	for (size_t at = 0; at + 1 < size; at += 2) {
		unsigned int amount = data[at] >> 3;
		uint8_t kind = data[at + 1];

		switch ((enum step)(data[at] & 7)) {
		case STEP_ARRIVE:
			arrive(amount + 1, kind);
			break;
		case STEP_PUT:
			put();
			break;
		case STEP_HANDED:
			put_one(kind, true, false);
			break;
		case STEP_NOISE:
			put_one(kind, false, true);
			break;
		case STEP_TAKE:
			put();
			take(amount + 1);
			break;
		case STEP_TIME:
			now_ms += amount;
			break;
		case STEP_CONTROL:
			shed.control = amount * PERCENT / 31;
		}
	}
	put();
	while (shed.count)
		take(FORWARD_BURST);
	assert(waiting == 0);
	assert(forward.counters.records_dropped[DROP_RECORD_TRUNCATED] == unread);
	check_entries();
	return 0;
}
