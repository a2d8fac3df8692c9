#include "member.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>

#include "address.h"
#include "dataplane.h"
#include "fairness.h"
#include "log.h"
#include "services.h"

/* What workers see of a session, and what dies with it when they no longer can. */
struct publication {
	struct session session;
	struct rcu_head rcu;
	const struct aead_ops *aead;
	struct region *region; // that all of it is from
	struct aead_key *keys[3];
	struct session_state *state;
};

static void key_give(const struct aead_ops *aead, struct region *region, struct aead_key *key)
{
	if (!key)
		return;
	aead->key_fini(key);
	region_give(region, key);
}

static void reclaim(struct rcu_head *head)
{
	struct publication *publication = caa_container_of(head, struct publication, rcu);
	struct region *region = publication->region;

	for (size_t i = 0; i < sizeof(publication->keys) / sizeof(publication->keys[0]); i++)
		key_give(publication->aead, region, publication->keys[i]);
	session_state_give(region, publication->state);
	region_give(region, publication);
}

static struct session_slot *slot_of(const struct members *members,
				    const struct member_session *session)
{
	return &members->sessions->slot[session->member->slot];
}

static uint16_t cluster_of(const struct members *members, const struct member *member)
{
	const struct clusters *clusters = members->config.clusters;

	return clusters ? clusters_number(clusters, member->cluster) : 0;
}

static struct publication *publication_new(const struct members *members,
					   const struct member_session *from)
{
	struct publication *publication = region_take(from->region, sizeof(*publication));
	struct session *session;

	if (!publication)
		return NULL;
	publication->aead = members->config.aead;
	publication->region = from->region;
	session = &publication->session;
	session->index = from->index;
	session->tx_epoch = from->epoch;
	session->rx_epoch = from->epoch + (from->rekeying == MEMBER_REKEYING);
	session->tx_budget = members->config.key_records / from->lanes_down;
	session->record_max = from->mtu - WIRE_IP_OVERHEAD;
	session->lanes_up = from->lanes_up;
	session->lanes_down = from->lanes_down;
	session->cluster = cluster_of(members, from->member);
	session->level = from->member->level;
	session->region = from->member->region;
	session->rx[0] = from->rx[0];
	session->rx[1] = from->rx[1];
	session->tx = from->tx;
	session->state = from->state;
	session->endpoint = from->endpoint;
	session->header = from->header;
	session->id = from->member->id;
	session->relay = from->relay;
	return publication;
}

/* Takes a session out of its place, after all that was written before. */
static void unpublish(struct session **place)
{
	// rcu_assign_pointer() leaves the barrier out for a constant NULL
	__atomic_store_n(place, NULL, __ATOMIC_RELEASE);
}

/* `publication` can't be found by workers any more; `key` dies with it (NULL: none). */
static void retire(struct publication *publication, struct aead_key *key)
{
	publication->keys[0] = key;
	call_rcu(&publication->rcu, reclaim);
}

/*
 * Publishes what has changed in a current or next session; `key` is one that it no longer has.
 * Returns 0 or -ENOMEM.
 */
static int publish(struct members *members, struct member_session *session, struct aead_key *key)
{
	struct session_slot *slot = slot_of(members, session);
	struct publication *publication = publication_new(members, session);
	struct publication *old = session->published;

	if (!publication)
		return -ENOMEM;
	if (session == session->member->current)
		rcu_assign_pointer(slot->current, &publication->session);
	else
		rcu_assign_pointer(slot->next, &publication->session);
	session->published = publication;
	retire(old, key);
	return 0;
}

static void clear_hint(struct member_session *session, enum session_hint hint)
{
	__atomic_fetch_and(&session->state->hints, ~(uint32_t)hint, __ATOMIC_ACQ_REL);
}

static bool has_hint(const struct member_session *session, enum session_hint hint)
{
	return __atomic_load_n(&session->state->hints, __ATOMIC_ACQUIRE) & hint;
}

/* Deadlines */

static void deadline_set(struct cds_list_head *list, struct member_session *session, uint64_t at_ms)
{
	cds_list_del(&session->deadline.node);
	session->deadline.at_ms = at_ms;
	cds_list_add_tail(&session->deadline.node, list);
}

static void deadline_clear(struct member_session *session)
{
	cds_list_del_init(&session->deadline.node);
}

/* Calls `due` for the sessions of a list whose time has come. */
static void deadline_check(struct members *members, struct cds_list_head *list, uint64_t now_ms,
			   void (*due)(struct members *members, struct member_session *session,
				       uint64_t now_ms))
{
	struct member_session *session, *next;

	cds_list_for_each_entry_safe (session, next, list, deadline.node) {
		if (session->deadline.at_ms > now_ms)
			break;
		deadline_clear(session);
		due(members, session, now_ms);
	}
}

/* Sessions */

/* Frees a session that workers can't find any more, as soon as none is using it. */
static void session_free(struct members *members, struct member_session *session)
{
	const struct aead_ops *aead = members->config.aead;
	struct publication *publication = session->published;
	struct region *region = session->region;

	watch_end(members, session);
	if (publication) {
		publication->keys[1] = session->rx[0];
		publication->keys[2] = session->rx[1];
		publication->state = session->state;
		retire(publication, session->tx);
	} else {
		key_give(aead, region, session->rx[0]);
		key_give(aead, region, session->tx);
		session_state_give(region, session->state);
	}
	key_give(aead, region, session->tx_next);
	region_close(region);
	cds_list_del(&session->deadline.node);
	OPENSSL_cleanse(session, sizeof(*session));
	free(session);
}

static int export_key(struct members *members, const struct member_ask *ask,
		      const struct member_session *session, enum wire_direction direction,
		      uint32_t epoch, struct aead_key **out)
{
	const struct aead_ops *aead = members->config.aead;
	uint8_t context[WIRE_CONTEXT_SIZE], exported[WIRE_EXPORT_SIZE];
	struct aead_key *key;
	int result;

	wire_context(context, session->aead, direction, session->index, epoch, &session->member->id,
		     ask->relay);
	result = ask->export(ask->arg, WIRE_EXPORT_DATA, context, exported, sizeof(exported));
	if (result)
		return result;
	key = region_take(session->region, aead->key_size());
	if (key && aead->key_init(key, session->aead, exported)) {
		*out = key;
	} else {
		region_give(session->region, key);
		result = -ENOMEM;
	}
	OPENSSL_cleanse(exported, sizeof(exported));
	return result;
}

/* Exports the keys and the secret of an epoch. On failure what it has made stays the caller's. */
static int export_epoch(struct members *members, const struct member_ask *ask,
			const struct member_session *session, uint32_t epoch, struct aead_key **rx,
			struct aead_key **tx, uint8_t secret[WIRE_REKEY_SECRET_SIZE])
{
	uint8_t context[WIRE_CONTEXT_SIZE];
	int result;

	result = export_key(members, ask, session, WIRE_UP, epoch, rx);
	if (!result)
		result = export_key(members, ask, session, WIRE_DOWN, epoch, tx);
	if (result)
		return result;
	wire_context(context, session->aead, WIRE_REKEY_SECRET, session->index, epoch,
		     &session->member->id, ask->relay);
	return ask->export(ask->arg, WIRE_EXPORT_REKEY, context, secret, WIRE_REKEY_SECRET_SIZE);
}

static unsigned int least(unsigned int a, unsigned int b)
{
	return a < b ? a : b;
}

static int session_new(struct members *members, struct member *member, const struct member_ask *ask,
		       uint64_t now_ms, struct member_session **out)
{
	struct member_session *session = calloc(1, sizeof(*session));
	int result = -ENOMEM;

	if (!session)
		return result;
	CDS_INIT_LIST_HEAD(&session->deadline.node);
	session->member = member;
	session->index = roster_index(&members->roster, member);
	session->aead = ask->aead;
	session->mtu = (uint16_t)least(ask->mtu, members->config.mtu);
	session->checksum = ask->checksum;
	session->bundles = ask->bundles;
	session->lanes_up = (uint8_t)least(ask->lanes, members->config.lanes_up);
	session->lanes_down = (uint8_t)members->config.lanes_down;
	session->tls = *ask->remote;
	session->relay = *ask->relay;
	session->expiry_ms = members->config.expiry_ms;
	session->joined_ms = now_ms;
	session->region = region_new(members->regions);
	if (!session->region)
		goto failed;
	session->state = session_state_new(session->region, session->lanes_up, session->lanes_down);
	if (!session->state)
		goto failed;
	result = export_epoch(members, ask, session, 0, &session->rx[0], &session->tx,
			      session->secret);
	if (result)
		goto failed;
	result = -ENOMEM;
	session->published = publication_new(members, session);
	if (!session->published)
		goto failed;
	*out = session;
	return 0;
failed:
	session_free(members, session);
	return result;
}

static bool is_present(const struct member *member)
{
	return member->current || member->next;
}

/* After a change: counts who is there, and lets a slot that is used no more rest. */
static void settle(struct members *members, struct member *member, bool was_present,
		   uint64_t now_ms)
{
	members->present += is_present(member);
	members->present -= was_present;
	if (!is_present(member) && !member->last && cds_list_empty(&member->resting))
		roster_leave(&members->roster, member, now_ms);
}

static void tell(struct members *members, struct member_session *session, const char *event)
{
	if (members->config.tell)
		members->config.tell(members->config.tell_arg,
				     &(struct member_news){.event = event, .session = session});
	watches_tell(members, session, event);
}

static void note_left(struct members *members, struct member_session *session, const char *reason)
{
	watch_end(members, session);
	tell(members, session, reason);
	log_info("left", "id=%s name=%s index=%u reason=%s", session->member->text,
		 session->member->name, session->index, reason);
}

/* Ends the next session, which nobody has heard of. */
static void end_next(struct members *members, struct member *member)
{
	struct member_session *session = member->next;

	unpublish(&slot_of(members, session)->next);
	member->next = NULL;
	members->joining--;
	session_free(members, session);
}

static void forget_silent(struct members *members, struct member_session *session, uint64_t now_ms)
{
	struct member *member = session->member;

	log_info("no first record", "id=%s name=%s index=%u", member->text, member->name,
		 session->index);
	end_next(members, member);
	settle(members, member, true, now_ms);
}

static void forget_last(struct members *members, struct member_session *session, uint64_t now_ms)
{
	struct member *member = session->member;

	unpublish(&slot_of(members, session)->last);
	member->last = NULL;
	session_free(members, session);
	settle(members, member, is_present(member), now_ms);
}

/* The current session becomes the last one: it still gets what the relay has to say. */
static void current_to_last(struct members *members, struct member *member, uint64_t now_ms)
{
	struct member_session *session = member->current;

	topics_go(members, member);
	if (member->last) {
		unpublish(&slot_of(members, session)->last);
		session_free(members, member->last);
	}
	rcu_assign_pointer(slot_of(members, session)->last, &session->published->session);
	member->last = session;
	member->current = NULL;
	deadline_set(&members->ending, session, now_ms + MEMBER_LAST_MS);
	members->joined--;
}

/* Ends the current session, and with it the route. */
static void end_current(struct members *members, struct member *member, const char *reason,
			uint64_t now_ms)
{
	struct member_session *session = member->current;

	note_left(members, session, reason);
	route_remove(&members->routes, &member->id);
	current_to_last(members, member, now_ms);
	unpublish(&slot_of(members, session)->current);
	if (members->services)
		services_ended(members->services, member, false);
	settle(members, member, true, now_ms);
}

/* Saying things */

static void send_to(struct members *members, const struct member_session *session,
		    const struct session_header *header, uint32_t tag, const void *payload,
		    size_t length)
{
	struct forward_command command;

	command.index = session->index;
	command.tag = tag;
	command.kind = WIRE_KIND_CONTROL;
	command.class = WIRE_CONTROL;
	command.payload_length = (uint16_t)length;
	if (header)
		command.header = *header;
	else
		command.header.length = 0;
	memcpy(command.payload, payload, length);
	members->config.send(members->config.arg, &command);
}

void member_send(struct members *members, const struct member_session *session, uint32_t tag,
		 const void *payload, size_t length)
{
	send_to(members, session, NULL, tag, payload, length);
}

static void say(struct members *members, const struct member_session *session, const char *event)
{
	send_to(members, session, NULL, 0, event, strlen(event));
}

static void say_path(struct members *members, const struct member_session *session)
{
	char ip[ADDRESS_TEXT], event[128];

	address_format_ip(ip, &session->endpoint);
	snprintf(event, sizeof(event), "{\"event\":\"path\",\"address\":\"%s\",\"port\":%u}", ip,
		 address_port(&session->endpoint));
	say(members, session, event);
}

void members_set_relays(struct members *members, const struct config_control *config)
{
	char *at = members->relays;

	*at++ = '[';
	for (uint32_t i = 0; i < config->relays_count; i++)
		at += sprintf(at, "%s\"%s\"", i ? "," : "", config->relays[i]);
	strcpy(at, "]");
}

void members_say_closing(struct members *members, unsigned int within_s)
{
	snprintf(members->closing, sizeof(members->closing),
		 "{\"event\":\"closing\",\"within\":%u,\"relays\":%s}", within_s, members->relays);
	for (size_t i = 0; i < members->roster.by_id.count; i++) {
		const struct member *member = members->roster.by_id.members[i];

		if (member->current)
			say(members, member->current, members->closing);
	}
}

/* Addresses */

/* The next session has been heard of: it becomes the current one. Returns 0 or -ENOMEM. */
static int promote(struct members *members, struct member_session *session, uint64_t now_ms)
{
	struct member *member = session->member;
	struct session_slot *slot = slot_of(members, session);
	struct member_session *replaced = member->current;
	struct publication *publication = publication_new(members, session);
	struct publication *old = session->published;
	char address[ADDRESS_TEXT];

	if (!publication)
		return -ENOMEM;
	if (!replaced && route_set(&members->routes, &member->id, member->slot)) {
		region_give(session->region, publication);
		return -ENOMEM;
	}
	if (replaced)
		current_to_last(members, member, now_ms);
	// current before next, so that session_find() sees it in one of them
	rcu_assign_pointer(slot->current, &publication->session);
	unpublish(&slot->next);
	session->published = publication;
	retire(old, NULL);
	member->current = session;
	member->next = NULL;
	members->joining--;
	members->joined++;
	session->joined_ms = now_ms;
	deadline_clear(session);
	topics_come(members, member);

	if (replaced && members->services)
		services_ended(members->services, member, true);
	if (replaced) {
		note_left(members, replaced, "replaced");
		say(members, replaced, "{\"event\":\"replaced\"}");
	}
	tell(members, session, "joined");
	address_format(address, &session->endpoint);
	log_info("joined", "id=%s name=%s index=%u address=%s cipher=%s lanes=%u", member->text,
		 member->name, session->index, address, wire_aead_name(session->aead),
		 (unsigned int)session->lanes_up);
	return 0;
}

/* What is sent to where `event` came from begins like this. Returns 0 or -EINVAL (no such frame).
 */
static int reply_header(struct session_header *header, const struct member_session *session,
			const struct forward_event *event)
{
	int result = dataplane_reply_header(header, event->frame, event->frame_length,
					    session->checksum);

	if (!result && session->bundles)
		header->bundle_max = session->mtu - WIRE_IP_OVERHEAD;
	return result;
}

/* Sends to where `event` came from, from now on. Returns 0, -EINVAL (no such frame) or -ENOMEM. */
static int move(struct members *members, struct member_session *session,
		const struct forward_event *event, uint64_t now_ms)
{
	const struct endpoint before = session->endpoint;
	const struct session_header header = session->header;
	bool first = session == session->member->next;
	bool told = !first && endpoint_same_address(&before, &event->source);
	char address[ADDRESS_TEXT];
	int result;

	result = reply_header(&session->header, session, event);
	if (!result) {
		session->endpoint = event->source;
		result =
			first ? promote(members, session, now_ms) : publish(members, session, NULL);
	}
	if (result) {
		session->endpoint = before;
		session->header = header;
		return result;
	}
	if (told)
		return 0;
	if (!first) {
		address_format(address, &session->endpoint);
		tell(members, session, "moved");
		log_info("moved", "id=%s name=%s index=%u address=%s", session->member->text,
			 session->member->name, session->index, address);
	}
	say_path(members, session);
	if (first && *members->closing)
		say(members, session, members->closing);
	return 0;
}

/* Asks a new address whether the peer is really there. */
static void challenge(struct members *members, struct member_session *session,
		      const struct forward_event *event, uint64_t now_ms)
{
	uint8_t token[MEMBER_TOKEN_TEXT / 2];
	struct session_header header;
	char text[128];
	int length;

	if (session->challenged_ms && now_ms - session->challenged_ms < MEMBER_CHALLENGE_PAUSE_MS)
		return;
	if (reply_header(&header, session, event) || RAND_bytes(token, sizeof(token)) != 1)
		return;
	for (size_t i = 0; i < sizeof(token); i++)
		snprintf(session->token + 2 * i, 3, "%02x", token[i]);
	session->challenged = event->source;
	session->challenged_ms = now_ms;
	length = snprintf(text, sizeof(text), "{\"event\":\"challenge\",\"token\":\"%s\"}",
			  session->token);
	send_to(members, session, &header, 0, text, (size_t)length);
}

bool member_echo(struct members *members, struct member_session *session, const char *token,
		 const struct forward_event *event, uint64_t now_ms)
{
	if (!session->challenged_ms || now_ms - session->challenged_ms > MEMBER_CHALLENGE_MS ||
	    !endpoint_same_address(&session->challenged, &event->source) ||
	    strlen(token) != MEMBER_TOKEN_TEXT ||
	    CRYPTO_memcmp(token, session->token, MEMBER_TOKEN_TEXT) != 0)
		return false;
	// a repeated echo has nothing left to do
	if (session->header.length && endpoint_equal(&session->endpoint, &event->source))
		return true;
	if (move(members, session, event, now_ms))
		return false;
	clear_hint(session, SESSION_HINT_PATH);
	return true;
}

static void on_path(struct members *members, struct member_session *session,
		    const struct forward_event *event, uint64_t now_ms)
{
	bool trusted;

	if (session == session->member->next)
		trusted = memcmp(session->tls.ip, event->source.ip, sizeof(session->tls.ip)) == 0;
	else
		trusted = endpoint_same_address(&session->endpoint, &event->source);
	if (!trusted) {
		// the hint stays until the next sweep, so that proposals are as rare
		challenge(members, session, event, now_ms);
		return;
	}
	if (move(members, session, event, now_ms) != -ENOMEM)
		clear_hint(session, SESSION_HINT_PATH);
}

/* Joining */

static void give(struct member_grant *grant, const struct member_session *session, uint32_t epoch)
{
	grant->index = session->index;
	grant->epoch = epoch;
	grant->aead = session->aead;
	grant->mtu = session->mtu;
	grant->lanes_up = session->lanes_up;
	grant->lanes_down = session->lanes_down;
}

int member_join(struct members *members, const struct member_ask *ask, uint64_t now_ms,
		struct member_grant *grant)
{
	struct member_session *session;
	struct member *member;
	bool was_present;
	int result;

	result = roster_enter(&members->roster, ask->identity, &member);
	if (result)
		return result;
	was_present = is_present(member);
	if (was_present && !roster_may_take_over(member, members->config.takeovers_per_minute,
						 now_ms, &grant->retry_s))
		return -EBUSY;
	result = -ENOSPC;
	if (was_present || members->present < members->config.max)
		result = session_new(members, member, ask, now_ms, &session);
	if (result) {
		settle(members, member, was_present, now_ms);
		return result;
	}

	__atomic_store_n(&slot_of(members, session)->revoked, false, __ATOMIC_RELAXED);
	rcu_assign_pointer(slot_of(members, session)->next, &session->published->session);
	if (member->next)
		session_free(members, member->next);
	else
		members->joining++;
	member->next = session;
	deadline_set(&members->pending, session, now_ms + MEMBER_FIRST_RECORD_MS);
	settle(members, member, was_present, now_ms);

	give(grant, session, 0);
	return 0;
}

/* Rekeying */

/* A record of the new epoch was opened: the relay sends in it, too. */
static void on_phase(struct members *members, struct member_session *session, uint64_t now_ms)
{
	struct aead_key *old = session->tx;

	if (session->rekeying == MEMBER_REKEYING) {
		session->rekeying = MEMBER_OVERLAP;
		session->epoch++;
		session->tx = session->tx_next;
		if (publish(members, session, old)) {
			session->rekeying = MEMBER_REKEYING;
			session->epoch--;
			session->tx = old;
			return;
		}
		session->tx_next = NULL;
		memcpy(session->secret, session->secret_next, sizeof(session->secret));
		OPENSSL_cleanse(session->secret_next, sizeof(session->secret_next));
		deadline_set(&members->overlapping, session, now_ms + MEMBER_OVERLAP_MS);
		log_info("rekeyed", "id=%s name=%s index=%u epoch=%u", session->member->text,
			 session->member->name, session->index, session->epoch);
	}
	clear_hint(session, SESSION_HINT_PHASE);
}

/* The key of the epoch before opens no more. */
static void end_overlap(struct members *members, struct member_session *session, uint64_t now_ms)
{
	struct aead_key **rx = &session->rx[~session->epoch & 1];
	struct aead_key *old = *rx;

	*rx = NULL;
	session->rekeying = MEMBER_SETTLED;
	if (!publish(members, session, old))
		return;
	*rx = old;
	session->rekeying = MEMBER_OVERLAP;
	deadline_set(&members->overlapping, session, now_ms + MEMBER_OVERLAP_MS);
}

/* Proves possession of the session's secret to who is on the new connection. */
static bool prove(const struct member_session *session, const struct member_ask *ask,
		  const char *prefix, uint8_t mac[32])
{
	uint8_t input[WIRE_REKEY_INPUT];

	wire_rekey_input(input, prefix, ask->binding, session->index, session->epoch);
	return HMAC(EVP_sha256(), session->secret, sizeof(session->secret), input, sizeof(input),
		    mac, NULL);
}

/* Whether the peer of the new connection has it. */
static bool is_possessor(const struct member_session *session, const struct member_ask *ask)
{
	uint8_t mac[32];

	return prove(session, ask, WIRE_REKEY_ASKS, mac) &&
	       CRYPTO_memcmp(mac, ask->mac, sizeof(mac)) == 0;
}

int member_rekey(struct members *members, const struct member_ask *ask, uint64_t now_ms,
		 struct member_grant *grant)
{
	struct member_session *session = member_session_find(members, ask->index);
	uint8_t secret[WIRE_REKEY_SECRET_SIZE];
	struct aead_key *rx = NULL, *tx = NULL, **place, *old;
	enum member_rekeying before;
	int result;

	if (!session || session != session->member->current ||
	    !wire_id_equal(&session->member->id, &ask->identity->id))
		return -EPERM;
	if (has_hint(session, SESSION_HINT_PHASE))
		on_phase(members, session, now_ms);
	// while rekeying, a peer that has not seen its welcome may try again
	if (session->rekeying == MEMBER_OVERLAP || session->epoch != ask->epoch ||
	    !is_possessor(session, ask))
		return -EPERM;
	if (!prove(session, ask, WIRE_REKEY_GRANTS, grant->mac))
		return -ENOMEM;
	result = export_epoch(members, ask, session, session->epoch + 1, &rx, &tx, secret);
	if (result)
		goto failed;
	place = &session->rx[(session->epoch + 1) & 1];
	old = *place;
	before = session->rekeying;
	*place = rx;
	session->rekeying = MEMBER_REKEYING;
	result = publish(members, session, old);
	if (result) {
		*place = old;
		session->rekeying = before;
		goto failed;
	}
	session->member->certificate = ask->identity->certificate;
	session->expiry_ms = members->config.expiry_ms;
	key_give(members->config.aead, session->region, session->tx_next);
	session->tx_next = tx;
	memcpy(session->secret_next, secret, sizeof(secret));
	OPENSSL_cleanse(secret, sizeof(secret));
	members->rekeyed++;

	give(grant, session, session->epoch + 1);
	return 0;
failed:
	OPENSSL_cleanse(secret, sizeof(secret));
	key_give(members->config.aead, session->region, rx);
	key_give(members->config.aead, session->region, tx);
	return result;
}

/* Living and leaving */

struct member_session *member_session_find(const struct members *members, uint32_t index)
{
	uint32_t slot = wire_slot(index);
	const struct member *member;

	member = slot < members->roster.slots ? members->roster.by_slot[slot] : NULL;
	if (member && member->current && member->current->index == index)
		return member->current;
	if (member && member->next && member->next->index == index)
		return member->next;
	return NULL;
}

void member_event(struct members *members, const struct forward_event *event, uint64_t now_ms)
{
	struct member_session *session = member_session_find(members, event->index);

	if (!session)
		return;
	switch (event->type) {
	case FORWARD_EVENT_PATH:
		on_path(members, session, event, now_ms);
		break;
	case FORWARD_EVENT_PHASE:
		on_phase(members, session, now_ms);
		break;
	case FORWARD_EVENT_REKEY:
		// the hint stays until the next sweep, so that reminders are as rare
		if (session->rekeying == MEMBER_SETTLED)
			say(members, session, "{\"event\":\"rekey\"}");
		break;
	}
}

void member_leave(struct members *members, struct member_session *session, uint64_t now_ms)
{
	end_current(members, session->member, "left", now_ms);
}

bool member_revoke(struct members *members, struct member *member, uint64_t now_ms)
{
	struct session_slot *slot = &members->sessions->slot[member->slot];
	bool was_present = is_present(member);

	__atomic_store_n(&slot->revoked, true, __ATOMIC_RELAXED);
	if (member->current) {
		end_current(members, member, "revoked", now_ms);
		say(members, member->last, "{\"event\":\"revoked\"}");
	}
	if (member->next) {
		end_next(members, member);
		settle(members, member, true, now_ms);
	}
	return was_present;
}

void member_cut(struct members *members, struct member *member, unsigned int retry_s,
		uint64_t now_ms)
{
	char event[64];

	if (member->current) {
		end_current(members, member, "cut", now_ms);
		snprintf(event, sizeof(event), "{\"event\":\"cut\",\"retry_after\":%u}", retry_s);
		say(members, member->last, event);
	}
	if (member->next) {
		end_next(members, member);
		settle(members, member, true, now_ms);
	}
}

bool member_marks(struct member_session *session, uint32_t marks[SESSION_MARK_COUNT])
{
	const struct session *published = &session->published->session;

	if (!has_hint(session, SESSION_HINT_MARKS))
		return false;
	// cleared first: what is marked from here on sets it again
	clear_hint(session, SESSION_HINT_MARKS);
	for (int mark = 0; mark < SESSION_MARK_COUNT; mark++) {
		uint32_t sum = 0;

		for (unsigned int lane = 0; lane < session->lanes_down; lane++)
			sum += __atomic_load_n(&session_tx_lane(published, lane)->marks[mark],
					       __ATOMIC_RELAXED);
		marks[mark] = sum - session->marks[mark];
		session->marks[mark] = sum;
	}
	return true;
}

/* The number of its cluster, for the policy. */
static uint16_t cluster_number(const struct member_session *session)
{
	return session->published->session.cluster;
}

bool member_may_send(const struct members *members, const struct member_session *from,
		     const struct member_session *to)
{
	const struct policy *policy = members->sessions->policy;

	return !policy || policy_allows(policy, cluster_number(from), cluster_number(to));
}

uint32_t member_idle_ms(const struct member_session *session, uint64_t now_ms)
{
	const struct session *published = &session->published->session;
	uint32_t least_idle = (uint32_t)(now_ms - session->joined_ms);

	for (unsigned int lane = 0; lane < session->lanes_up; lane++) {
		uint32_t seen = __atomic_load_n(&session_rx_lane(published, lane)->seen_ms,
						__ATOMIC_RELAXED);
		int32_t idle = (int32_t)((uint32_t)now_ms - seen);

		if (!seen)
			continue;
		// a worker's clock may be a little ahead
		if (idle < 0)
			return 0;
		if ((uint32_t)idle < least_idle)
			least_idle = (uint32_t)idle;
	}
	return least_idle;
}

void member_set_level(struct members *members, struct member *member, uint8_t level)
{
	uint8_t before = member->level;

	if (level == before)
		return;
	member->level = level;
	if ((member->current && publish(members, member->current, NULL)) ||
	    (member->next && publish(members, member->next, NULL)))
		member->level = before;
}

static int renumber(struct members *members, struct member_session *session)
{
	const struct session *now;

	if (!session)
		return 0;
	now = &session->published->session;
	if (now->cluster == cluster_of(members, session->member) &&
	    now->region == session->member->region)
		return 0;
	return publish(members, session, NULL);
}

int members_number(struct members *members)
{
	int result = 0;

	for (size_t i = 0; i < members->roster.by_id.count && !result; i++) {
		struct member *member = members->roster.by_id.members[i];

		result = renumber(members, member->current);
		if (!result)
			result = renumber(members, member->next);
	}
	return result;
}

void members_tick(struct members *members, uint64_t now_ms)
{
	deadline_check(members, &members->pending, now_ms, forget_silent);
	deadline_check(members, &members->overlapping, now_ms, end_overlap);
	deadline_check(members, &members->ending, now_ms, forget_last);
	roster_expire(&members->roster, now_ms);
	watches_tick(members, now_ms);
	topics_tick(members);
}

static void sweep_session(struct members *members, struct member_session *session, uint64_t now_ms)
{
	if (has_hint(session, SESSION_HINT_PHASE))
		on_phase(members, session, now_ms);
	// workers will give them again
	if (has_hint(session, SESSION_HINT_PATH))
		clear_hint(session, SESSION_HINT_PATH);
	if (has_hint(session, SESSION_HINT_REKEY))
		clear_hint(session, SESSION_HINT_REKEY);
}

void members_sweep(struct members *members, uint64_t now_ms)
{
	// nobody is added to or taken out of the index by this
	for (size_t i = 0; i < members->roster.by_id.count; i++) {
		struct member *member = members->roster.by_id.members[i];

		if (member->next)
			sweep_session(members, member->next, now_ms);
		if (!member->current)
			continue;
		sweep_session(members, member->current, now_ms);
		if (member_idle_ms(member->current, now_ms) > member->current->expiry_ms)
			end_current(members, member, "expired", now_ms);
	}
}

int members_init(struct members *members, const struct member_config *config,
		 const uint8_t secret[MEMBER_SECRET])
{
	// as many again, so that slots can rest while all others are in use
	uint32_t slots = 2 * config->max;

	memset(members, 0, sizeof(*members));
	members->config = *config;
	CDS_INIT_LIST_HEAD(&members->pending);
	CDS_INIT_LIST_HEAD(&members->overlapping);
	CDS_INIT_LIST_HEAD(&members->ending);
	strcpy(members->relays, "[]");
	watches_init(&members->watches, config->watchers);
	if (roster_init(&members->roster, slots, wire_get32(secret + 32)))
		return -ENOMEM;
	// a peer with more lanes has its state elsewhere
	members->regions = session_pool_new(config->node, 1, (uint8_t)config->lanes_down,
					    sizeof(struct publication), config->aead->key_size());
	if (!members->regions)
		goto free_roster;
	members->sessions = session_table_new(config->node, slots, config->groups_max);
	if (!members->sessions)
		goto free_regions;
	if (route_table_init(&members->routes, members->sessions, config->max + config->groups_max,
			     secret))
		goto free_sessions;
	if (groups_init(&members->groups, members->sessions, &members->routes))
		goto free_routes;
	if (topics_init(members))
		goto free_groups;
	return 0;
free_groups:
	groups_fini(&members->groups);
free_routes:
	route_table_fini(&members->routes);
free_sessions:
	session_table_free(members->sessions);
free_regions:
	region_pool_close(members->regions);
free_roster:
	roster_fini(&members->roster);
	return -ENOMEM;
}

void members_fini(struct members *members)
{
	for (size_t i = 0; i < members->roster.by_id.count; i++) {
		struct member *member = members->roster.by_id.members[i];

		if (member->current)
			session_free(members, member->current);
		if (member->next)
			session_free(members, member->next);
		if (member->last)
			session_free(members, member->last);
	}
	clusters_publish(&members->sessions->policy, NULL);
	fairness_publish(&members->sessions->rates, NULL);
	topics_fini(members);
	groups_fini(&members->groups);
	route_table_fini(&members->routes);
	roster_fini(&members->roster);
	session_table_free(members->sessions);
	region_pool_close(members->regions);
}
