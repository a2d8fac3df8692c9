#include "timer.h"

#include <stddef.h>

/* Makes one heap of two, either of which may be empty. */
static struct timer *meld(struct timer *a, struct timer *b)
{
	struct timer *swap;

	if (!a)
		return b;
	if (!b)
		return a;
	if (b->due < a->due) {
		swap = a;
		a = b;
		b = swap;
	}
	b->prev = a;
	b->next = a->child;
	if (a->child)
		a->child->prev = b;
	a->child = b;
	return a;
}

/* Melds a list of siblings: in pairs from the left, then the pairs from the right. */
static struct timer *meld_siblings(struct timer *list)
{
	struct timer *pairs = NULL, *heap = NULL;

	while (list) {
		struct timer *a = list, *b = a->next, *pair;

		list = b ? b->next : NULL;
		a->next = a->prev = NULL;
		if (b)
			b->next = b->prev = NULL;
		pair = meld(a, b);
		pair->next = pairs;
		pairs = pair;
	}
	while (pairs) {
		struct timer *pair = pairs;

		pairs = pair->next;
		pair->next = NULL;
		heap = meld(heap, pair);
	}
	return heap;
}

void timers_add(struct timers *timers, struct timer *timer, uint64_t due)
{
	timers_remove(timers, timer);
	timer->due = due;
	timer->set = true;
	timers->first = meld(timers->first, timer);
}

void timers_remove(struct timers *timers, struct timer *timer)
{
	struct timer *rest;

	if (!timer->set)
		return;
	rest = meld_siblings(timer->child);
	if (timers->first == timer) {
		timers->first = rest;
	} else {
		if (timer->prev->child == timer)
			timer->prev->child = timer->next;
		else
			timer->prev->next = timer->next;
		if (timer->next)
			timer->next->prev = timer->prev;
		timers->first = meld(timers->first, rest);
	}
	timer->child = timer->next = timer->prev = NULL;
	timer->set = false;
}
