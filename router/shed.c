#include "shed.h"

enum {
	PERCENT = 100,
	FILLINGS = 8, // of steps towards the fair share; it takes few
};

/* The ranks of the classes within a sender's share. */
static const uint8_t within[] = {
	[WIRE_CONTROL] = SHED_CONTROL,
	[WIRE_CRITICAL] = SHED_CRITICAL,
	[WIRE_NORMAL] = SHED_NORMAL,
	[WIRE_BULK] = SHED_BULK,
};

/* Beyond it, and beyond twice the share. */
static const uint8_t over[] = {
	[WIRE_CONTROL] = SHED_CRITICAL_OVER,
	[WIRE_CRITICAL] = SHED_CRITICAL_OVER,
	[WIRE_NORMAL] = SHED_NORMAL_OVER,
	[WIRE_BULK] = SHED_BULK_OVER,
};
static const uint8_t far[] = {
	[WIRE_CONTROL] = SHED_CRITICAL_FAR,
	[WIRE_CRITICAL] = SHED_CRITICAL_FAR,
	[WIRE_NORMAL] = SHED_NORMAL_FAR,
	[WIRE_BULK] = SHED_BULK_FAR,
};

static unsigned int least(unsigned int a, unsigned int b)
{
	return a < b ? a : b;
}

void shed_init(struct shed *shed)
{
	for (unsigned int i = 0; i < SHED_BACKLOG; i++)
		shed->next[i] = (uint16_t)(i + 1);
	shed->spare = shed->entries;
	shed->share = SHED_FIRST_SHARE;
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

/* So many of a class may a sender send in a window to be within its share. */
static inline uint32_t share_of(const struct shed *shed, enum wire_class class)
{
	return class >= WIRE_CRITICAL ? SHED_CRITICAL_SHARES * shed->share : shed->share;
}

static inline enum shed_rank rank_of(const struct shed *shed, enum wire_class class,
				     uint32_t arrived)
{
	uint32_t share = share_of(shed, class);

	if (arrived <= share)
		return within[class];
	return arrived <= 2 * share ? over[class] : far[class];
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

static inline void set_spare(struct shed *shed, uint16_t number)
{
	shed->spare = &shed->entries[number];
}

/* Puts the spare entry at the end of a rank's queue. */
static inline void push(struct shed *shed, enum shed_rank rank, const struct shed_claim *claim)
{
	struct shed_entry *entry = shed->spare;
	uint16_t number = (uint16_t)(entry - shed->entries);

	set_spare(shed, shed->next[number]);
	entry->sender = (uint16_t)(claim->sender - shed->senders);
	entry->class = claim->class;
	append(shed, rank, number);
	shed->count++;
}

/* Takes the first entry out of a rank's queue: valid until the next record is described. */
static inline struct shed_entry *pop(struct shed *shed, enum shed_rank rank)
{
	struct shed_queue *queue = &shed->queues[rank];
	uint16_t number = queue->first;

	queue->first = shed->next[number];
	if (--queue->count == 0)
		shed->occupied &= ~(1u << rank);
	shed->count--;
	shed->next[number] = (uint16_t)(shed->spare - shed->entries);
	set_spare(shed, number);
	return shed->spare;
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
			const struct shed_entry *entry = &shed->entries[number];
			uint16_t next = shed->next[number];
			uint32_t arrived =
				shed_count_one(&shed->senders[entry->sender], entry->class);

			append(shed, rank_of(shed, entry->class, arrived), number);
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
	}
	shed->share = share;
	shed->handled = 0;
	shed->window_ms = now_ms;
	for (int i = 0; i < SHED_SENDERS; i++)
		memset(shed->senders[i].arrived, 0, sizeof(shed->senders[i].arrived));
	rank_anew(shed);
}

_Static_assert(DROP_RECORD_SHED_CONTROL - DROP_RECORD_SHED_BULK == WIRE_CONTROL - WIRE_BULK,
	       "the reasons are in the order of the classes");

/* Finds out which ranks there is room for, and what that means for each class. */
static void find_room(struct shed *shed)
{
	// the reserve may have been another when what is there came
	unsigned int others = shed->count - shed->queues[SHED_CONTROL].count;
	unsigned int all = SHED_BACKLOG - shed->reserved, end = all;
	enum shed_rank waits = shed->occupied ? 31 - __builtin_clz(shed->occupied) : SHED_CONTROL;

	if (others >= all || shed->count >= SHED_BACKLOG) {
		// more than any pile
		shed->stands = true;
		shed->roomy = SHED_CONTROL;
	} else if (shed->stands && others >= SHED_ROOM) {
		shed->roomy = SHED_NORMAL;
	} else if (shed->stands && others >= SHED_ROOM / 2) {
		shed->roomy = SHED_BULK;
		end = least(all, SHED_ROOM);
	} else {
		shed->roomy = SHED_RANKS;
		if (shed->stands)
			end = least(all, SHED_ROOM / 2);
	}
	shed->left = least(end - others, SHED_BACKLOG - shed->count);
	shed->cut = waits > shed->roomy ? waits : shed->roomy;
	for (enum wire_class class = WIRE_BULK; class < WIRE_CLASSES; class ++) {
		uint32_t share = share_of(shed, class);

		if (shed->cut > far[class])
			share = UINT32_MAX;
		else if (shed->cut > over[class])
			share *= 2;
		else if (shed->cut <= within[class])
			share = 0;
		shed->admitted[class] = share;
	}
	// which has a reserve
	if (shed->admitted[WIRE_CONTROL] == 0)
		shed->admitted[WIRE_CONTROL] = share_of(shed, WIRE_CONTROL);
}

void shed_begin(struct shed *shed, struct forward *forward, uint64_t now_ms)
{
	if (now_ms - shed->window_ms >= SHED_WINDOW_MS)
		begin_window(shed, now_ms);
	shed->reserved = SHED_BACKLOG * shed->control / PERCENT;
	forward->now_ms = now_ms;
	find_room(shed);
}

void shed_end(struct shed *shed, struct forward *forward)
{
	struct shed_refused *refused = &shed->refused;
	struct counters *counters = &forward->counters;

	if (!refused->count)
		return;
	counters->records_received += refused->count;
	for (enum wire_class class = WIRE_BULK; class < WIRE_CLASSES; class ++) {
		enum drop_record reason = DROP_RECORD_SHED_BULK + class;

		counters->records_dropped[reason] += refused->classes[class];
		counters->classes.records_dropped[class][reason] += refused->classes[class];
		refused->classes[class] = 0;
	}
	forward->ops->release(forward->worker, refused->buffers, refused->count);
	refused->count = 0;
}

/* Refuses also what another worker has received. */
static void refuse(struct shed *shed, struct forward *forward, struct forward_input *input,
		   enum wire_class class)
{
	struct shed_refused *refused = &shed->refused;

	if (input->handed) {
		forward_refuse(forward, input, DROP_RECORD_SHED_BULK + class);
		return;
	}
	refused->classes[class]++;
	refused->buffers[refused->count++] = input->buffer;
	if (refused->count == FORWARD_BURST)
		shed_end(shed, forward);
}

void shed_keep(struct shed *shed, struct forward *forward, const struct shed_claim *claim)
{
	enum shed_rank rank = rank_of(shed, claim->class, claim->arrived);
	struct shed_entry *oldest;

	// what was kept since may have taken the last place
	if (!shed_admits(shed, claim) ||
	    (rank == SHED_CONTROL &&
	     (shed->queues[SHED_CONTROL].count >= shed->reserved || shed->count >= SHED_BACKLOG))) {
		refuse(shed, forward, shed_next(shed), claim->class);
		return;
	}
	push(shed, rank, claim);
	if (rank < shed->roomy || rank == SHED_CONTROL) {
		if (--shed->left == 0)
			find_room(shed);
		return;
	}
	oldest = pop(shed, shed->cut);
	refuse(shed, forward, &oldest->input, oldest->class);
	if (!(shed->occupied >> shed->cut & 1))
		find_room(shed);
}

void shed_put(struct shed *shed, struct forward *forward)
{
	struct forward_input *input = shed_next(shed);
	struct shed_claim claim;
	struct wire_words header;
	enum wire_parse result = wire_words_get(&header, input->record, input->length);

	if (result != WIRE_OK) {
		forward_drop_unread(forward, input, result);
		return;
	}
	claim = shed_claim(shed, forward, &header, &input->source);
	shed_count(&claim);
	shed_keep(shed, forward, &claim);
}

/* Moves up to `n` of a rank to `inputs`, until they have `bytes`; returns how many. */
static unsigned int take(struct shed *shed, enum shed_rank rank, struct forward_input *inputs,
			 unsigned int n, int *bytes)
{
	struct shed_queue *queue = &shed->queues[rank];
	unsigned int number = queue->first;
	unsigned int last = number, taken = 0;

	n = least(n, queue->count);
	while (*bytes > 0 && taken < n) {
		last = number;
		inputs[taken] = shed->entries[number].input;
		*bytes -= inputs[taken++].length;
		number = shed->next[number];
	}
	if (taken == 0)
		return 0;
	shed->next[last] = (uint16_t)(shed->spare - shed->entries);
	set_spare(shed, queue->first);
	queue->first = (uint16_t)number;
	queue->count -= taken;
	shed->count -= taken;
	if (queue->count == 0)
		shed->occupied &= ~(1u << rank);
	return taken;
}

unsigned int shed_take(struct shed *shed, struct forward_input *inputs, unsigned int n)
{
	unsigned int reserved = (n * shed->control + PERCENT - 1) / PERCENT;
	int bytes = SHED_BYTES;
	unsigned int taken = take(shed, SHED_CONTROL, inputs, reserved, &bytes);

	for (enum shed_rank rank = SHED_CRITICAL; rank < SHED_RANKS; rank++)
		taken += take(shed, rank, &inputs[taken], n - taken, &bytes);
	taken += take(shed, SHED_CONTROL, &inputs[taken], n - taken, &bytes);
	shed->handled += taken;
	shed->waited = shed->count > SHED_FEW ? shed->waited + taken : 0;
	// what has always waited was only older when its turn came
	if (shed->waited > SHED_STANDING)
		shed->stands = true;
	// there is time for more again
	if (shed->count == 0)
		shed->stands = false;
	return taken;
}
