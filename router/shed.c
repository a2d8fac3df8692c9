#include "shed.h"

enum {
	PERCENT = 100,
	FILLINGS = 8,     // of steps towards the fair share; it takes few
	FETCH_SIZE = 256, // bytes of a record, at most; a processor fetches on by itself
};

/* The ranks of the classes within a sender's share. */
static const uint8_t within[] = {
	[WIRE_CONTROL] = SHED_CONTROL,
	[WIRE_CRITICAL] = SHED_CRITICAL,
	[WIRE_NORMAL] = SHED_NORMAL,
	[WIRE_BULK] = SHED_BULK,
};

static unsigned int least(unsigned int a, unsigned int b)
{
	return a < b ? a : b;
}

void shed_init(struct shed *shed)
{
	for (unsigned int i = 0; i < SHED_BACKLOG; i++)
		shed->next[i] = (uint16_t)(i + 1);
	shed->share = SHED_FIRST_SHARE;
	shed->room = shed->standing = SHED_BACKLOG;
}

/* The most that each sender may have so that all together have what was handled. */
static uint32_t fair_share(const struct shed *shed)
{
	uint16_t arrived[SHED_SENDERS];
	uint32_t n = 0, all = 0, share = 0;

	for (int i = 0; i < SHED_SENDERS; i++) {
		arrived[n] = shed->senders[i].arrived[WIRE_BULK];
		all += arrived[n];
		n += arrived[n] > 0;
	}
	if (all <= shed->handled)
		return SHED_NO_SHARE;
	for (int i = 0; i < FILLINGS; i++) {
		uint32_t rest = shed->handled, above = 0, next;

		for (uint32_t j = 0; j < n; j++) {
			if (arrived[j] > share)
				above++;
			else
				rest -= least(arrived[j], rest);
		}
		next = above ? rest / above : share;
		if (next <= share)
			break;
		share = next;
	}
	return share ? share : 1;
}

/* Which of the senders. Keyed, so that nobody can choose whom to share counts with. */
static uint16_t sender_of(const struct forward *forward, const struct forward_input *input,
			  uint32_t index)
{
	const uint64_t *secret = forward->routes->secret;
	uint64_t ip[2], hash;

	memcpy(ip, input->source.ip, sizeof(ip));
	hash = route_mix(ip[0] ^ secret[0], ip[1] ^ secret[1]);
	hash ^= (uint64_t)index << 16 | wire_get16(input->source.port);
	return route_mix(hash ^ secret[2], UINT64_C(0x9e3779b97f4a7c15)) % SHED_SENDERS;
}

/* Counts a record; which rank it has then. */
static inline enum shed_rank rank_of(const struct shed *shed, struct shed_sender *sender,
				     enum wire_class class)
{
	static const uint8_t over[] = {
		[WIRE_CONTROL] = SHED_CRITICAL_OVER,
		[WIRE_CRITICAL] = SHED_CRITICAL_OVER,
		[WIRE_NORMAL] = SHED_NORMAL_OVER,
		[WIRE_BULK] = SHED_BULK_OVER,
	};
	static const uint16_t ones[WIRE_CLASSES][WIRE_CLASSES] = {
		[WIRE_CONTROL] = {1, 1, 1, 1},
		[WIRE_CRITICAL] = {1, 1, 1},
		[WIRE_NORMAL] = {1, 1},
		[WIRE_BULK] = {1},
	};
	uint32_t share = class >= WIRE_CRITICAL ? SHED_CRITICAL_SHARES * shed->share : shed->share;
	uint64_t arrived, more;

	// all four at once: none overflows before the first does
	if (sender->arrived[WIRE_BULK] < UINT16_MAX) {
		memcpy(&arrived, sender->arrived, sizeof(arrived));
		memcpy(&more, ones[class], sizeof(more));
		arrived += more;
		memcpy(sender->arrived, &arrived, sizeof(arrived));
	}
	if (sender->arrived[class] <= share)
		return within[class];
	if (sender->arrived[class] <= 2 * share)
		return over[class];
	return over[class] + SHED_CRITICAL_FAR - SHED_CRITICAL_OVER;
}

/* Fetches a record that will soon be opened. */
static inline void __attribute__((always_inline)) fetch(const struct forward_input *input)
{
	unsigned int size = least(input->length, FETCH_SIZE);

	for (unsigned int at = 0; at < size; at += 64)
		__builtin_prefetch(input->record + at, 1);
	__builtin_prefetch(input->record + size - 1, 1);
}

/* Puts an entry at the end of a rank's queue. */
static inline void append(struct shed *shed, enum shed_rank rank, uint16_t number)
{
	struct shed_queue *queue = &shed->queues[rank];

	if (shed->occupied >> rank & 1)
		shed->next[queue->last] = number;
	else
		queue->first = number;
	queue->last = number;
	queue->count++;
	shed->occupied |= 1u << rank;
}

static inline void push(struct shed *shed, enum shed_rank rank, enum wire_class class,
			uint16_t sender, const struct forward_input *input)
{
	uint16_t number = shed->free;
	struct shed_entry *entry = &shed->entries[number];

	shed->free = shed->next[number];
	entry->input = *input;
	entry->sender = sender;
	entry->class = class;
	append(shed, rank, number);
	shed->count++;
	// its turn comes soon; else see fetch_next()
	if (shed->queues[rank].count <= FORWARD_BURST)
		fetch(input);
}

/* Takes the first entry out of a rank's queue: valid until the next one is put in. */
static inline struct shed_entry *pop(struct shed *shed, enum shed_rank rank)
{
	struct shed_queue *queue = &shed->queues[rank];
	uint16_t number = queue->first;
	struct shed_entry *entry = &shed->entries[number];

	queue->first = shed->next[number];
	if (--queue->count == 0)
		shed->occupied &= ~(1u << rank);
	shed->count--;
	shed->next[number] = shed->free;
	shed->free = number;
	return entry;
}

/* In a new window, what waits beyond its sender's share may be within it. */
static void rank_anew(struct shed *shed)
{
	struct shed_queue queues[SHED_RANKS];

	memcpy(queues, shed->queues, sizeof(queues));
	for (unsigned int rank = SHED_CRITICAL_OVER; rank < SHED_RANKS; rank++)
		shed->queues[rank].count = 0;
	shed->occupied &= (1u << SHED_CRITICAL_OVER) - 1;
	for (unsigned int rank = SHED_CRITICAL_OVER; rank < SHED_RANKS; rank++) {
		uint16_t number = queues[rank].first;

		while (queues[rank].count--) {
			struct shed_entry *entry = &shed->entries[number];
			uint16_t next = shed->next[number];

			append(shed, rank_of(shed, &shed->senders[entry->sender], entry->class),
			       number);
			number = next;
		}
	}
}

static void begin_window(struct shed *shed, uint64_t now_ms)
{
	uint32_t share = SHED_FIRST_SHARE;

	// after a pause the counts say nothing
	if (now_ms - shed->window_ms < 2 * SHED_WINDOW_MS) {
		share = fair_share(shed);
		// a worker that the machine has kept from working for a while handled little
		if (shed->share != SHED_NO_SHARE && share < shed->share - shed->share / 4)
			share = shed->share - shed->share / 4;
		// what has always waited was only older when its turn came
		if (shed->standing > SHED_STANDING && shed->standing < SHED_BACKLOG)
			shed->room = SHED_ROOM;
	}
	shed->standing = SHED_BACKLOG;
	shed->share = share;
	shed->handled = 0;
	shed->window_ms = now_ms;
	for (int i = 0; i < SHED_SENDERS; i++)
		memset(shed->senders[i].arrived, 0, sizeof(shed->senders[i].arrived));
	rank_anew(shed);
}

_Static_assert(DROP_RECORD_SHED_CONTROL - DROP_RECORD_SHED_BULK == WIRE_CONTROL - WIRE_BULK,
	       "the reasons are in the order of the classes");

/* What a burst has shed, which is counted and given back together. */
struct refused {
	uint32_t count;
	uint32_t classes[WIRE_CLASSES];
	void *buffers[FORWARD_BURST];
};

static inline void refuse(struct forward *forward, struct refused *refused,
			  struct forward_input *input, enum wire_class class)
{
	if (input->handed) {
		forward_refuse(forward, input, DROP_RECORD_SHED_BULK + class);
		return;
	}
	refused->classes[class]++;
	refused->buffers[refused->count++] = input->buffer;
}

static void give_back(struct forward *forward, struct refused *refused)
{
	struct counters *counters = &forward->counters;

	counters->records_received += refused->count;
	for (enum wire_class class = WIRE_BULK; class < WIRE_CLASSES; class ++) {
		enum drop_record reason = DROP_RECORD_SHED_BULK + class;

		counters->records_dropped[reason] += refused->classes[class];
		counters->classes.records_dropped[class][reason] += refused->classes[class];
	}
	forward->ops->release(forward->worker, refused->buffers, refused->count);
}

/*
 * The rank at whose cost there is room, if somebody of it waits: for higher ones only; SHED_RANKS
 * if there is room anyway.
 */
static inline enum shed_rank lowest(const struct shed *shed, unsigned int reserved)
{
	// the reserve may have been another when what is there came
	unsigned int others = shed->count - shed->queues[SHED_CONTROL].count;
	bool full = others >= SHED_BACKLOG - reserved || shed->count >= SHED_BACKLOG;
	enum shed_rank cut;

	if (!full && others < shed->room)
		return SHED_RANKS;
	cut = shed->occupied ? 31 - __builtin_clz(shed->occupied) : SHED_CONTROL;
	// critical ones have all of it
	return cut < SHED_NORMAL && !full ? SHED_NORMAL : cut;
}

void shed_put(struct shed *shed, struct forward *forward, struct forward_input *inputs,
	      unsigned int n, uint64_t now_ms)
{
	unsigned int reserved = SHED_BACKLOG * shed->control / PERCENT;
	struct refused refused;
	enum shed_rank cut;

	refused.count = 0;
	memset(refused.classes, 0, sizeof(refused.classes));
	if (now_ms - shed->window_ms >= SHED_WINDOW_MS)
		begin_window(shed, now_ms);
	forward->now_ms = now_ms;
	cut = lowest(shed, reserved);
	for (unsigned int i = 0; i < n; i++) {
		struct forward_input *input = &inputs[i];
		struct shed_entry *oldest;
		struct wire_record header;
		enum shed_rank rank;
		uint16_t sender;

		if (wire_record_get(&header, input->record, input->length) != WIRE_OK) {
			forward_parse(forward, input, &header);
			continue;
		}
		// all that waits is of higher classes: who sent it makes no difference
		if (cut < within[header.class]) {
			refuse(forward, &refused, input, header.class);
			continue;
		}
		sender = sender_of(forward, input, header.index);
		rank = rank_of(shed, &shed->senders[sender], header.class);
		if (rank == SHED_CONTROL
			    ? shed->queues[rank].count >= reserved || shed->count >= SHED_BACKLOG
			    : cut <= rank) {
			refuse(forward, &refused, input, header.class);
			continue;
		}
		if (rank != SHED_CONTROL && shed->occupied >> cut & 1) {
			oldest = pop(shed, cut);
			refuse(forward, &refused, &oldest->input, oldest->class);
		}
		push(shed, rank, header.class, sender, input);
		cut = lowest(shed, reserved);
	}
	if (refused.count)
		give_back(forward, &refused);
}

/* Moves up to `n` of a rank to `inputs`; returns how many. */
static unsigned int take(struct shed *shed, enum shed_rank rank, struct forward_input *inputs,
			 unsigned int n)
{
	struct shed_queue *queue = &shed->queues[rank];
	unsigned int number = queue->first;
	unsigned int last = number;

	n = least(n, queue->count);
	if (n == 0)
		return 0;
	for (unsigned int i = 0; i < n; i++) {
		last = number;
		inputs[i] = shed->entries[number].input;
		number = shed->next[number];
	}
	shed->next[last] = shed->free;
	shed->free = queue->first;
	queue->first = (uint16_t)number;
	queue->count -= n;
	shed->count -= n;
	if (queue->count == 0)
		shed->occupied &= ~(1u << rank);
	return n;
}

/* Fetches what will be taken next, as far as it is there already. */
static void fetch_next(const struct shed *shed)
{
	unsigned int room = FORWARD_BURST;

	for (uint32_t ranks = shed->occupied; ranks && room; ranks &= ranks - 1) {
		const struct shed_queue *queue = &shed->queues[__builtin_ctz(ranks)];
		unsigned int n = least(room, queue->count), number = queue->first;

		room -= n;
		for (; n; n--) {
			fetch(&shed->entries[number].input);
			__builtin_prefetch(shed->entries[number].input.buffer, 1);
			number = shed->next[number];
		}
	}
}

unsigned int shed_take(struct shed *shed, struct forward_input *inputs, unsigned int n)
{
	unsigned int reserved = (n * shed->control + PERCENT - 1) / PERCENT;
	unsigned int taken = take(shed, SHED_CONTROL, inputs, reserved);

	for (enum shed_rank rank = SHED_CRITICAL; rank < SHED_RANKS; rank++)
		taken += take(shed, rank, &inputs[taken], n - taken);
	taken += take(shed, SHED_CONTROL, &inputs[taken], n - taken);
	shed->handled += taken;
	shed->standing = least(shed->standing, shed->count);
	// there is time for more again
	if (shed->count == 0)
		shed->room = SHED_BACKLOG;
	fetch_next(shed);
	return taken;
}
