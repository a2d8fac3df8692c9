#include "tickets.h"

#include <stdlib.h>
#include <string.h>

#include "peer.h"

enum {
	TICKETS_MAX = 4096, // the oldest ones go first; about 4 KB each
	BUCKETS = 256,
};

struct ticket {
	LIST_ENTRY(ticket) link;
	TAILQ_ENTRY(ticket) link_age;
	struct wire_id id;
	char *name, *federation;
	SSL_CTX *ctx;
	SSL_SESSION *session;
};

struct tickets {
	LIST_HEAD(ticket_list, ticket) buckets[BUCKETS];
	TAILQ_HEAD(, ticket) ages;
	unsigned int count;
};

/* An id is a hash already. */
static struct ticket_list *bucket_of(struct tickets *tickets, const struct wire_id *id)
{
	return &tickets->buckets[id->bytes[0]];
}

static void ticket_free(struct ticket *ticket)
{
	free(ticket->name);
	free(ticket->federation);
	SSL_SESSION_free(ticket->session);
	SSL_CTX_free(ticket->ctx);
	free(ticket);
}

static void ticket_remove(struct tickets *tickets, struct ticket *ticket)
{
	LIST_REMOVE(ticket, link);
	TAILQ_REMOVE(&tickets->ages, ticket, link_age);
	tickets->count--;
	ticket_free(ticket);
}

void tickets_keep(struct viaduct_peer *peer)
{
	struct tickets *tickets = peer->v->tickets;
	struct ticket *ticket;

	if (!peer->ticket)
		return;
	if (!tickets) {
		tickets = calloc(1, sizeof(*tickets));
		if (!tickets)
			return;
		TAILQ_INIT(&tickets->ages);
		peer->v->tickets = tickets;
	}
	ticket = calloc(1, sizeof(*ticket));
	if (!ticket)
		return;
	ticket->id = peer->id;
	ticket->name = peer->name;
	ticket->federation = peer->federation;
	ticket->ctx = peer->ctx;
	ticket->session = peer->ticket;
	peer->name = peer->federation = NULL;
	peer->ctx = NULL;
	peer->ticket = NULL;
	if (tickets->count == TICKETS_MAX)
		ticket_remove(tickets, TAILQ_FIRST(&tickets->ages));
	LIST_INSERT_HEAD(bucket_of(tickets, &ticket->id), ticket, link);
	TAILQ_INSERT_TAIL(&tickets->ages, ticket, link_age);
	tickets->count++;
}

void tickets_recall(struct viaduct_peer *peer)
{
	struct tickets *tickets = peer->v->tickets;
	struct ticket *ticket;

	if (!tickets)
		return;
	LIST_FOREACH(ticket, bucket_of(tickets, &peer->id), link)
	{
		if (wire_id_equal(&ticket->id, &peer->id) && !strcmp(ticket->name, peer->name) &&
		    !strcmp(ticket->federation, peer->federation))
			break;
	}
	if (!ticket)
		return;
	peer->ctx = ticket->ctx;
	peer->ticket = ticket->session;
	ticket->ctx = NULL;
	ticket->session = NULL;
	ticket_remove(tickets, ticket);
}

void tickets_free_all(struct viaduct *v)
{
	struct ticket *ticket = v->tickets ? TAILQ_FIRST(&v->tickets->ages) : NULL, *next;

	for (; ticket; ticket = next) {
		next = TAILQ_NEXT(ticket, link_age);
		ticket_free(ticket);
	}
	free(v->tickets);
}
