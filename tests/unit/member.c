#include "society.h"

#include <errno.h>

static const uint8_t *secret_of(const struct member_session *session)
{
	return session->secret;
}

static void pass(struct society *society, uint64_t ms)
{
	society->now_ms += ms;
	members_tick(&society->members, society->now_ms);
}

static bool has_route(const struct society *society, uint8_t number)
{
	const struct route_table *routes = &society->members.routes;
	const struct identity identity = society_identity(number);

	return route_find(routes, &identity.id, route_hash(routes, &identity.id)) != NULL;
}

/* The worker heard of it just now. */
static void hear(struct society *society, uint32_t index)
{
	const struct session *session = society_find(society, index);

	session_rx_lane(session, 0)->seen_ms = (uint32_t)society->now_ms;
}

static void set_hint(const struct society *society, uint32_t index, enum session_hint hint)
{
	society_find(society, index)->state->hints |= hint;
}

static uint32_t hints(const struct society *society, uint32_t index)
{
	return society_find(society, index)->state->hints;
}

static void test_join(void **state)
{
	struct society *society = *state;
	struct member_grant grant;
	const struct session *session;

	assert_int_equal(society_join(society, 1, &grant), 0);
	assert_int_equal(grant.epoch, 0);
	assert_int_equal(grant.aead, WIRE_AES_256_GCM);
	assert_int_equal(grant.mtu, 1400);
	assert_int_equal(grant.lanes_up, 2);
	assert_int_equal(grant.lanes_down, 2);
	assert_int_equal(society->members.joining, 1);
	assert_int_equal(society->members.joined, 0);
	assert_int_equal(society_keys(), 2);

	// it may send, but nobody sends to it
	session = society_find(society, grant.index);
	assert_non_null(session);
	assert_int_equal(session->header.length, 0);
	assert_int_equal(session->record_max, 1400 - WIRE_IP_OVERHEAD);
	assert_int_equal(session->tx_budget, 500);
	assert_non_null(session->rx[0]);
	assert_null(session->rx[1]);
	assert_non_null(session->tx);
	assert_ptr_not_equal(session->rx[0], session->tx);
	assert_memory_not_equal(session->rx[0]->iv, session->tx->iv, WIRE_IV_SIZE);
	assert_false(has_route(society, 1));
	society_silent(society);
}

static void test_first_record(void **state)
{
	struct society *society = *state;
	struct endpoint address = society_address(1, 4000);
	struct forward_event event;
	struct member_grant grant;
	const struct session *session;

	assert_int_equal(society_join(society, 1, &grant), 0);
	set_hint(society, grant.index, SESSION_HINT_PATH);
	event = society_event(FORWARD_EVENT_PATH, grant.index, address);
	member_event(&society->members, &event, society->now_ms);
	session = society_find(society, grant.index);
	assert_int_equal(session->header.length, 42);
	assert_true(endpoint_equal(&session->endpoint, &address));
	assert_true(has_route(society, 1));
	assert_int_equal(hints(society, grant.index), 0);
	assert_int_equal(society->members.joining, 0);
	assert_int_equal(society->members.joined, 1);
	assert_string_equal(society_said(society, grant.index),
			    "{\"event\":\"path\",\"address\":\"10.0.0.1\",\"port\":4000}");
	society_silent(society);
	// it stays
	pass(society, MEMBER_FIRST_RECORD_MS);
	assert_non_null(society_find(society, grant.index));
	assert_int_equal(society_keys(), 2);
}

static void test_no_first_record(void **state)
{
	struct society *society = *state;
	struct member_grant grant;

	assert_int_equal(society_join(society, 1, &grant), 0);
	pass(society, MEMBER_FIRST_RECORD_MS - 1);
	assert_non_null(society_find(society, grant.index));
	pass(society, 1);
	assert_null(society_find(society, grant.index));
	assert_null(member_session_find(&society->members, grant.index));
	assert_int_equal(society->members.joining, 0);
	assert_int_equal(society->members.present, 0);
	assert_int_equal(society_keys(), 0);
}

static void test_exporter_fails(void **state)
{
	struct society *society = *state;
	struct member_grant grant;

	society->exporter_error = -EIO;
	assert_int_equal(society_join(society, 1, &grant), -EIO);
	assert_int_equal(society->members.present, 0);
	assert_int_equal(society_keys(), 0);
	society->exporter_error = 0;
	assert_int_equal(society_join(society, 1, &grant), 0);
}

/* The token of a challenge, and that it went to this host. */
static void take_challenge(struct society *society, uint32_t index, uint8_t host, char *token)
{
	const uint8_t wanted[4] = {10, 0, 0, host};

	assert_int_equal(society->said_count, 1);
	assert_int_equal(society->said[0].header.length, 42);
	assert_memory_equal(society->said[0].header.bytes + 14 + 16, wanted, 4);
	assert_int_equal(sscanf(society_said(society, index),
				"{\"event\":\"challenge\",\"token\":\"%32[0-9a-f]\"}", token),
			 1);
	assert_int_equal(strlen(token), MEMBER_TOKEN_TEXT);
}

static bool echo(struct society *society, uint32_t index, const char *token, struct endpoint from)
{
	struct forward_event event = society_event(FORWARD_EVENT_CONTROL, index, from);
	struct member_session *session = member_session_find(&society->members, index);

	return member_echo(&society->members, session, token, &event, society->now_ms);
}

static void test_first_address_is_another(void **state)
{
	struct society *society = *state;
	struct endpoint elsewhere = society_address(99, 4000);
	char token[MEMBER_TOKEN_TEXT + 1], wrong[] = "00000000000000000000000000000000";
	struct forward_event event;
	struct member_grant grant;

	assert_int_equal(society_join(society, 1, &grant), 0);
	event = society_event(FORWARD_EVENT_PATH, grant.index, elsewhere);
	member_event(&society->members, &event, society->now_ms);
	assert_false(has_route(society, 1));
	take_challenge(society, grant.index, 99, token);

	// not twice a second
	society->now_ms += MEMBER_CHALLENGE_PAUSE_MS - 1;
	member_event(&society->members, &event, society->now_ms);
	society_silent(society);
	society->now_ms += 1;
	member_event(&society->members, &event, society->now_ms);
	take_challenge(society, grant.index, 99, token);

	assert_false(echo(society, grant.index, wrong, elsewhere));
	assert_false(echo(society, grant.index, "", elsewhere));
	assert_false(echo(society, grant.index, token, society_address(99, 4001)));
	assert_false(echo(society, grant.index, token, society_address(98, 4000)));
	assert_false(has_route(society, 1));
	assert_true(echo(society, grant.index, token, elsewhere));
	assert_true(has_route(society, 1));
	assert_string_equal(society_said(society, grant.index),
			    "{\"event\":\"path\",\"address\":\"10.0.0.99\",\"port\":4000}");
	// its answer may have got lost
	assert_true(echo(society, grant.index, token, elsewhere));
	society_silent(society);
}

static void test_late_echo(void **state)
{
	struct society *society = *state;
	struct endpoint elsewhere = society_address(99, 4000);
	char token[MEMBER_TOKEN_TEXT + 1];
	uint32_t index = society_settle(society, 1)->index;
	struct forward_event event = society_event(FORWARD_EVENT_PATH, index, elsewhere);

	assert_false(echo(society, index, "", elsewhere)); // without any challenge
	member_event(&society->members, &event, society->now_ms);
	take_challenge(society, index, 99, token);
	society->now_ms += MEMBER_CHALLENGE_MS + 1;
	assert_false(echo(society, index, token, elsewhere));
}

static void test_roaming(void **state)
{
	struct society *society = *state;
	struct member_session *session = society_settle(society, 1);
	struct endpoint other_port = society_address(1, 4001);
	struct endpoint other_mac = society_address(1, 4001);
	struct forward_event event;
	char token[MEMBER_TOKEN_TEXT + 1];
	uint32_t index = session->index;
	const struct session_state *state_before = session->state;

	// also within its own host
	set_hint(society, index, SESSION_HINT_PATH);
	event = society_event(FORWARD_EVENT_PATH, index, other_port);
	member_event(&society->members, &event, society->now_ms);
	assert_int_equal(hints(society, index), SESSION_HINT_PATH);
	take_challenge(society, index, 1, token);
	assert_int_equal(wire_get16(society_find(society, index)->endpoint.port), 4000);
	assert_true(echo(society, index, token, other_port));
	assert_int_equal(wire_get16(society_find(society, index)->endpoint.port), 4001);
	assert_int_equal(hints(society, index), 0);
	assert_string_equal(society_said(society, index),
			    "{\"event\":\"path\",\"address\":\"10.0.0.1\",\"port\":4001}");

	// another way to the same address needs no word
	other_mac.mac[0] = 0xee;
	event = society_event(FORWARD_EVENT_PATH, index, other_mac);
	member_event(&society->members, &event, society->now_ms);
	assert_int_equal(society_find(society, index)->endpoint.mac[0], 0xee);
	society_silent(society);

	// what the workers count in is the same all the time
	assert_ptr_equal(society_find(society, index)->state, state_before);
	assert_int_equal(society_keys(), 2);
}

static void test_return(void **state)
{
	struct society *society = *state;
	uint32_t old = society_settle(society, 1)->index;
	struct forward_event event;
	struct member_grant grant;
	bool stale = false;

	assert_int_equal(society_join(society, 1, &grant), 0);
	assert_int_equal(wire_slot(grant.index), wire_slot(old));
	assert_int_equal(wire_generation(grant.index),
			 (wire_generation(old) + 1) % WIRE_GENERATIONS);
	// until its first record the old session goes on
	assert_non_null(society_find(society, old));
	assert_non_null(society_find(society, grant.index));
	assert_int_equal(society->members.present, 1);

	event = society_event(FORWARD_EVENT_PATH, grant.index, society_address(1, 4001));
	member_event(&society->members, &event, society->now_ms);
	assert_null(session_find(society->members.sessions, old, &stale));
	assert_true(stale);
	assert_int_equal(society->members.sessions->slot[wire_slot(old)].current->index,
			 grant.index);
	assert_true(has_route(society, 1));
	assert_int_equal(route_count(&society->members.routes), 1);
	assert_int_equal(society->members.joined, 1);
	assert_string_equal(society_said(society, old), "{\"event\":\"replaced\"}");
	assert_non_null(strstr(society_said(society, grant.index), "path"));

	// the old one can be told so for a while
	assert_non_null(session_find_any(society->members.sessions, old));
	assert_int_equal(society_keys(), 4);
	pass(society, MEMBER_LAST_MS);
	assert_null(session_find_any(society->members.sessions, old));
	assert_int_equal(society_keys(), 2);
}

static void test_next_is_replaced(void **state)
{
	struct society *society = *state;
	struct member_grant first, second;

	assert_int_equal(society_join(society, 1, &first), 0);
	assert_int_equal(society_join(society, 1, &second), 0);
	assert_null(society_find(society, first.index));
	assert_non_null(society_find(society, second.index));
	assert_int_equal(society->members.joining, 1);
	assert_int_equal(society_keys(), 2);
}

static void test_takeovers_are_limited(void **state)
{
	struct society *society = *state;
	struct member_grant grant;
	uint32_t last;

	for (int i = 0; i < 1 + 6; i++)
		assert_int_equal(society_join(society, 1, &grant), 0);
	last = grant.index;
	assert_int_equal(society_join(society, 1, &grant), -EBUSY);
	assert_int_equal(grant.retry_s, 10);
	assert_non_null(society_find(society, last));
	assert_int_equal(society_join(society, 2, &grant), 0);
}

static void test_full(void **state)
{
	struct society *society = *state;
	struct member_session *first = society_settle(society, 1);
	struct member_grant grant;

	for (unsigned int i = 2; i <= SOCIETY_MAX; i++)
		society_settle(society, (uint8_t)i);
	assert_int_equal(society_join(society, 100, &grant), -ENOSPC);
	// who is there may return, and keeps the place while doing so
	assert_int_equal(society_join(society, 1, &grant), 0);
	member_leave(&society->members, first, society->now_ms);
	assert_int_equal(society_join(society, 100, &grant), -ENOSPC);
	pass(society, MEMBER_FIRST_RECORD_MS);
	assert_int_equal(society_join(society, 100, &grant), 0);
}

static void test_rekey_by_another_relay_id(void **state)
{
	struct society *society = *state;
	struct member_session *session = society_settle(society, 1);
	uint32_t index = session->index;
	const struct wire_id before = society->relay;
	uint8_t first[32];
	struct member_grant grant;

	assert_int_equal(society_rekey(society, 1, index, 0, secret_of(session), &grant), 0);
	memcpy(first, grant.mac, sizeof(first));
	society->relay.bytes[0]++;
	assert_int_equal(society_rekey(society, 1, index, 0, secret_of(session), &grant), 0);
	// the proof is about the old epoch and the connection, the address is the session's
	assert_memory_equal(grant.mac, first, sizeof(first));
	assert_true(wire_id_equal(&society_find(society, index)->relay, &before));
	assert_int_equal(society_join(society, 1, &grant), 0);
	assert_true(wire_id_equal(&society_find(society, grant.index)->relay, &society->relay));
}

static void test_rekey(void **state)
{
	struct society *society = *state;
	struct member_session *session = society_settle(society, 1);
	struct forward_event event =
		society_event(FORWARD_EVENT_PHASE, session->index, society_address(1, 4000));
	struct member_grant grant;
	const struct session *found;
	const struct aead_key *rx, *tx, *rx_new;
	uint32_t index = session->index;

	found = society_find(society, index);
	rx = found->rx[0];
	tx = found->tx;
	assert_int_equal(society_rekey(society, 1, index, 0, secret_of(session), &grant), 0);
	assert_int_equal(grant.index, index);
	assert_int_equal(grant.epoch, 1);
	assert_int_equal(grant.mtu, 1400);

	// opens both, still seals with the old one
	found = society_find(society, index);
	assert_ptr_equal(found->rx[0], rx);
	rx_new = found->rx[1];
	assert_non_null(rx_new);
	assert_ptr_equal(found->tx, tx);
	assert_int_equal(found->tx_epoch, 0);
	assert_int_equal(found->rx_epoch, 1);
	assert_int_equal(society_keys(), 4);

	// until the peer uses the new one
	set_hint(society, index, SESSION_HINT_PHASE);
	member_event(&society->members, &event, society->now_ms);
	found = society_find(society, index);
	assert_ptr_equal(found->rx[0], rx);
	assert_ptr_equal(found->rx[1], rx_new);
	assert_ptr_not_equal(found->tx, tx);
	assert_int_equal(found->tx_epoch, 1);
	assert_int_equal(found->rx_epoch, 1);
	assert_int_equal(hints(society, index), 0);
	assert_int_equal(society_keys(), 3);
	member_event(&society->members, &event, society->now_ms); // too often
	assert_int_equal(society_find(society, index)->tx_epoch, 1);

	// no second rekey meanwhile
	assert_int_equal(society_rekey(society, 1, index, 1, secret_of(session), &grant), -EPERM);
	pass(society, MEMBER_OVERLAP_MS - 1);
	assert_non_null(society_find(society, index)->rx[0]);
	pass(society, 1);
	assert_null(society_find(society, index)->rx[0]);
	assert_int_equal(society_keys(), 2);
	assert_int_equal(society_rekey(society, 1, index, 1, secret_of(session), &grant), 0);
	assert_int_equal(grant.epoch, 2);
	assert_non_null(society_find(society, index)->rx[0]);
	assert_int_equal(society->members.rekeyed, 2);
	society_silent(society);
}

/* What workers see of a session stays where it is: what is new takes the places of what has gone.
 */
static void test_rekeys_in_place(void **state)
{
	struct society *society = *state;
	struct member_session *session = society_settle(society, 1);
	struct forward_event event =
		society_event(FORWARD_EVENT_PHASE, session->index, society_address(1, 4000));
	const struct aead_key *rx[2], *tx[2];
	struct member_grant grant;

	for (uint32_t epoch = 0; epoch < 6; epoch++) {
		const struct session *found = society_find(society, session->index);

		assert_int_equal(found->tx_epoch, epoch);
		if (epoch >= 2) {
			assert_ptr_equal(found->rx[epoch & 1], rx[epoch & 1]);
			assert_ptr_equal(found->tx, tx[epoch & 1]);
		}
		rx[epoch & 1] = found->rx[epoch & 1];
		tx[epoch & 1] = found->tx;
		assert_int_equal(society_rekey(society, 1, session->index, epoch,
					       secret_of(session), &grant),
				 0);
		set_hint(society, session->index, SESSION_HINT_PHASE);
		member_event(&society->members, &event, society->now_ms);
		pass(society, MEMBER_OVERLAP_MS);
		assert_int_equal(society_keys(), 2); // after a grace period
	}
}

static void test_rekey_whose_welcome_got_lost(void **state)
{
	struct society *society = *state;
	struct member_session *session = society_settle(society, 1);
	uint32_t index = session->index;
	struct member_grant grant;
	const struct aead_key *rx;

	assert_int_equal(society_rekey(society, 1, index, 0, secret_of(session), &grant), 0);
	rx = society_find(society, index)->rx[1];
	assert_int_equal(society_rekey(society, 1, index, 0, secret_of(session), &grant), 0);
	assert_int_equal(grant.epoch, 1);
	assert_ptr_not_equal(society_find(society, index)->rx[1], rx);
	assert_int_equal(society_keys(), 4);

	// the word that the new key is in use may come late
	set_hint(society, index, SESSION_HINT_PHASE);
	assert_int_equal(society_rekey(society, 1, index, 0, secret_of(session), &grant), -EPERM);
	assert_int_equal(society_find(society, index)->tx_epoch, 1);
}

static void test_rekey_refused(void **state)
{
	struct society *society = *state;
	struct member_session *session = society_settle(society, 1);
	uint32_t index = session->index;
	uint8_t wrong[WIRE_REKEY_SECRET_SIZE] = {0};
	struct member_grant grant;

	society_settle(society, 2);
	assert_int_equal(society_rekey(society, 1, index, 0, wrong, &grant), -EPERM);
	assert_int_equal(society_rekey(society, 1, index, 1, secret_of(session), &grant), -EPERM);
	assert_int_equal(society_rekey(society, 2, index, 0, secret_of(session), &grant), -EPERM);
	assert_int_equal(society_rekey(society, 1, index + (1 << WIRE_SLOT_BITS), 0,
				       secret_of(session), &grant),
			 -EPERM);
	assert_int_equal(society_rekey(society, 1, UINT32_MAX, 0, secret_of(session), &grant),
			 -EPERM);
	society->exporter_error = -EIO;
	assert_int_equal(society_rekey(society, 1, index, 0, secret_of(session), &grant), -EIO);
	society->exporter_error = 0;
	assert_null(society_find(society, index)->rx[1]);
	assert_int_equal(society_keys(), 4);

	// a session that nobody has heard of yet
	assert_int_equal(society_join(society, 3, &grant), 0);
	session = member_session_find(&society->members, grant.index);
	assert_int_equal(society_rekey(society, 3, grant.index, 0, secret_of(session), &grant),
			 -EPERM);
}

static void test_rekey_reminder(void **state)
{
	struct society *society = *state;
	struct member_session *session = society_settle(society, 1);
	struct forward_event event =
		society_event(FORWARD_EVENT_REKEY, session->index, society_address(1, 4000));
	struct member_grant grant;

	set_hint(society, session->index, SESSION_HINT_REKEY);
	member_event(&society->members, &event, society->now_ms);
	assert_string_equal(society_said(society, session->index), "{\"event\":\"rekey\"}");
	// the worker may say it again after a second
	members_sweep(&society->members, society->now_ms);
	assert_int_equal(hints(society, session->index), 0);
	assert_int_equal(society_rekey(society, 1, session->index, 0, secret_of(session), &grant),
			 0);
	member_event(&society->members, &event, society->now_ms);
	society_silent(society);
}

static void test_lost_hints(void **state)
{
	struct society *society = *state;
	struct member_session *session = society_settle(society, 1);
	struct member_grant grant;

	assert_int_equal(society_rekey(society, 1, session->index, 0, secret_of(session), &grant),
			 0);
	set_hint(society, session->index, SESSION_HINT_PHASE | SESSION_HINT_PATH);
	members_sweep(&society->members, society->now_ms);
	assert_int_equal(hints(society, session->index), 0);
	assert_int_equal(society_find(society, session->index)->tx_epoch, 1);

	assert_int_equal(society_join(society, 2, &grant), 0);
	set_hint(society, grant.index, SESSION_HINT_PATH);
	members_sweep(&society->members, society->now_ms);
	assert_int_equal(hints(society, grant.index), 0);
}

static void test_expiry(void **state)
{
	struct society *society = *state;
	struct member_session *session = society_settle(society, 1);
	uint32_t index = session->index;

	society->now_ms += 20000;
	hear(society, index);
	society->now_ms += 30000;
	assert_int_equal(member_idle_ms(session, society->now_ms), 30000);
	members_sweep(&society->members, society->now_ms);
	assert_non_null(society_find(society, index));
	society->now_ms += 1;
	members_sweep(&society->members, society->now_ms);
	assert_null(society_find(society, index));
	assert_false(has_route(society, 1));
	assert_int_equal(society->members.joined, 0);
	pass(society, MEMBER_LAST_MS);
	assert_int_equal(society_keys(), 0);
	society_silent(society);
}

static void test_revoke(void **state)
{
	struct society *society = *state;
	struct member_session *session = society_settle(society, 1);
	struct member *member = session->member;
	uint32_t index = session->index;
	struct member_grant grant;

	assert_true(member_revoke(&society->members, member, society->now_ms));
	assert_null(society_find(society, index));
	assert_false(has_route(society, 1));
	assert_true(session_is_revoked(society->members.sessions, index));
	assert_string_equal(society_said(society, index), "{\"event\":\"revoked\"}");
	assert_false(member_revoke(&society->members, member, society->now_ms));
	// it is remembered when the session's last words are said
	pass(society, MEMBER_LAST_MS);
	assert_true(session_is_revoked(society->members.sessions, index));
	assert_int_equal(society->members.present, 0);
	// not only those who are heard of
	assert_int_equal(society_join(society, 1, &grant), 0);
	assert_false(session_is_revoked(society->members.sessions, grant.index));
	assert_true(member_revoke(&society->members, member, society->now_ms));
	assert_null(society_find(society, grant.index));
	assert_int_equal(society->members.joining, 0);
	assert_int_equal(society->members.present, 0);
}

/* The workers' 32 bits of time wrap around after 49 days, and their clock may be a little ahead. */
static void test_clock_wraps(void **state)
{
	struct society *society = *state;
	struct member_session *session;

	society->now_ms = UINT64_C(0x2fffffff0);
	session = society_settle(society, 1);
	hear(society, session->index);
	society->now_ms += 32;
	assert_int_equal(member_idle_ms(session, society->now_ms), 32);
	society->now_ms += 100;
	hear(society, session->index);
	assert_int_equal(member_idle_ms(session, society->now_ms - 5), 0);
}

static void test_leave(void **state)
{
	const struct identity identity = society_identity(1);
	struct society *society = *state;
	struct member_session *session = society_settle(society, 1);
	uint32_t index = session->index;
	struct member_grant grant;

	member_leave(&society->members, session, society->now_ms);
	assert_false(has_route(society, 1));
	assert_null(society_find(society, index));
	assert_non_null(session_find_any(society->members.sessions, index));
	assert_int_equal(society->members.joined, 0);
	assert_int_equal(society->members.present, 0);

	// back at once, in the same slot, and not counted as a takeover
	for (int i = 0; i < 10; i++) {
		assert_int_equal(wire_slot(index), wire_slot(society_settle(society, 1)->index));
		session = member_session_find(
			&society->members,
			society->members.sessions->slot[wire_slot(index)].current->index);
		member_leave(&society->members, session, society->now_ms);
	}
	pass(society, MEMBER_LAST_MS);
	assert_int_equal(society_keys(), 0);
	assert_int_equal(society_join(society, 1, &grant), 0);
	pass(society, ROSTER_REST_MS);
	pass(society, ROSTER_REST_MS);
	assert_null(roster_find(&society->members.roster, &identity.id));
}

static void test_leave_beside_a_return(void **state)
{
	struct society *society = *state;
	struct member_session *session = society_settle(society, 1);
	struct forward_event event;
	struct member_grant grant;

	assert_int_equal(society_join(society, 1, &grant), 0);
	member_leave(&society->members, session, society->now_ms);
	assert_false(has_route(society, 1));
	event = society_event(FORWARD_EVENT_PATH, grant.index, society_address(1, 4001));
	member_event(&society->members, &event, society->now_ms);
	assert_true(has_route(society, 1));
	assert_int_equal(society->members.joined, 1);
}

static void test_unknown_sessions(void **state)
{
	struct society *society = *state;
	uint32_t index = society_settle(society, 1)->index;
	const uint32_t unknown[] = {0, UINT32_MAX, index + 1, index + (1 << WIRE_SLOT_BITS)};

	for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++) {
		for (int type = FORWARD_EVENT_PATH; type <= FORWARD_EVENT_REKEY; type++) {
			struct forward_event event = society_event(
				(enum forward_event_type)type, unknown[i], society_address(9, 9));

			member_event(&society->members, &event, society->now_ms);
		}
	}
	society_silent(society);
}

static void test_closing(void **state)
{
	struct society *society = *state;
	uint32_t index = society_settle(society, 1)->index;
	struct member_grant grant;

	assert_int_equal(society_join(society, 2, &grant), 0);
	members_say_closing(&society->members, 2);
	assert_string_equal(society_said(society, index),
			    "{\"event\":\"closing\",\"within\":2,\"relays\":[]}");
	members_set_relays(&society->members, &(struct config_control){.relays = {"a:1", "[::1]:2"},
								       .relays_count = 2});
	members_say_closing(&society->members, 1);
	assert_string_equal(
		society_said(society, index),
		"{\"event\":\"closing\",\"within\":1,\"relays\":[\"a:1\",\"[::1]:2\"]}");
	society_silent(society);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, society_begin, society_end)
	const struct CMUnitTest tests[] = {
		TEST(join),
		TEST(first_record),
		TEST(no_first_record),
		TEST(exporter_fails),
		TEST(revoke),
		TEST(first_address_is_another),
		TEST(late_echo),
		TEST(roaming),
		TEST(return ),
		TEST(next_is_replaced),
		TEST(takeovers_are_limited),
		TEST(full),
		TEST(rekey),
		TEST(rekeys_in_place),
		TEST(rekey_by_another_relay_id),
		TEST(rekey_whose_welcome_got_lost),
		TEST(rekey_refused),
		TEST(rekey_reminder),
		TEST(lost_hints),
		TEST(expiry),
		TEST(clock_wraps),
		TEST(leave),
		TEST(leave_beside_a_return),
		TEST(unknown_sessions),
		TEST(closing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
