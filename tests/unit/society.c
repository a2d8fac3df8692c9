#include "society.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>

#include "log.h"

static int keys;

static size_t key_size(void)
{
	return sizeof(struct aead_key);
}

static bool key_init(struct aead_key *key, enum wire_aead aead,
		     const uint8_t secret[WIRE_EXPORT_SIZE])
{
	key->aead = aead;
	memcpy(key->iv, secret + WIRE_KEY_SIZE, WIRE_IV_SIZE);
	__atomic_add_fetch(&keys, 1, __ATOMIC_RELAXED);
	return true;
}

static void key_fini(struct aead_key *key)
{
	__atomic_sub_fetch(&keys, 1, __ATOMIC_RELAXED);
}

static const struct aead_ops aead = {
	.name = "none", .key_size = key_size, .key_init = key_init, .key_fini = key_fini};

static void settle_rcu(void)
{
	rcu_thread_offline();
	rcu_barrier();
	rcu_thread_online();
}

int society_keys(void)
{
	settle_rcu();
	return __atomic_load_n(&keys, __ATOMIC_RELAXED);
}

static void note(void *arg, const struct forward_command *command)
{
	struct society *society = arg;
	struct forward_command *said = &society->said[society->said_count++];

	assert_true(society->said_count <= SOCIETY_SAID);
	assert_true(command->payload_length < sizeof(said->payload));
	*said = *command;
	said->payload[command->payload_length] = '\0';
}

static int begin(void **state, unsigned int max)
{
	static const uint8_t secret[MEMBER_SECRET];
	struct society *society = calloc(1, sizeof(*society));
	const struct config_trust trust = {
		.score_half_life = 300,
		.cut_seconds = 60,
		.cut_seconds_max = 3600,
	};
	struct member_config config = {
		.max = max,
		.groups_max = SOCIETY_GROUPS,
		.lanes_up = 4,
		.lanes_down = 2,
		.mtu = 1500,
		.expiry_ms = 30000,
		.takeovers_per_minute = 6,
		.watchers = 2,
		.key_records = 1000,
		.aead = &aead,
		.send = note,
		.arg = society,
	};

	rcu_register_thread();
	log_level_set(LOG_WARNING);
	society->now_ms = 1000000;
	society->relay.bytes[0] = 0xff;
	*state = society;
	reputation_init(&society->reputation, &trust, &society->members, society->now_ms);
	return members_init(&society->members, &config, secret);
}

int society_begin(void **state)
{
	return begin(state, SOCIETY_MAX);
}

int society_begin_many(void **state)
{
	return begin(state, SOCIETY_MANY);
}

int society_end(void **state)
{
	struct society *society = *state;

	reputation_fini(&society->reputation);
	members_fini(&society->members);
	settle_rcu();
	rcu_unregister_thread();
	free(society);
	return keys;
}

struct identity society_identity(uint8_t number)
{
	struct identity identity = {.id = {{number}}};

	strcpy(identity.cluster, number % 2 ? "odd" : "even");
	snprintf(identity.name, sizeof(identity.name), "spiffe://lab/%s/%u", identity.cluster,
		 number);
	return identity;
}

struct endpoint society_address(uint8_t host, uint16_t port)
{
	struct endpoint endpoint = {
		.ip = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, host},
		.port = {(uint8_t)(port >> 8), (uint8_t)port},
		.mac = {2, 0, 0, 0, 0, host},
	};

	return endpoint;
}

/* Every export is another: of label and context. */
static int export_bytes(void *arg, const char *label, const uint8_t context[WIRE_CONTEXT_SIZE],
			uint8_t *out, size_t size)
{
	const struct society *society = arg;

	memset(out, label[sizeof("EXPORTER-viaduct-") - 1], size);
	memcpy(out + size - 8, context + 4, 8); // index, epoch
	out[size - 9] = context[3];             // direction
	return society->exporter_error;
}

static struct member_ask ask(struct society *society, const struct identity *identity,
			     const struct endpoint *remote)
{
	struct member_ask out = {
		.identity = identity,
		.remote = remote,
		.relay = &society->relay,
		.aead = WIRE_AES_256_GCM,
		.lanes = 2,
		.mtu = 1400,
		.export = export_bytes,
		.arg = society,
	};

	return out;
}

int society_join(struct society *society, uint8_t number, struct member_grant *grant)
{
	struct identity identity = society_identity(number);
	const struct endpoint remote = society_address(number, 50000);
	const struct member_ask asked = ask(society, &identity, &remote);

	if (society->cluster) {
		strcpy(identity.cluster, society->cluster);
		snprintf(identity.name, sizeof(identity.name), "spiffe://lab/%s/%u",
			 society->cluster, number);
	}
	memset(grant, 0, sizeof(*grant));
	return member_join(&society->members, &asked, society->now_ms, grant);
}

struct forward_event society_event(enum forward_event_type type, uint32_t index,
				   struct endpoint source)
{
	// Ethernet, IPv4, UDP
	struct forward_event event = {
		.type = (uint8_t)type,
		.index = index,
		.source = source,
		.frame_length = 42,
	};

	memset(event.frame, 2, 12);
	wire_put16(event.frame + 12, 0x0800);
	event.frame[14] = 0x45;
	wire_put16(event.frame + 16, 20 + 8 + 100);
	event.frame[22] = 64;
	event.frame[23] = 17;
	memcpy(event.frame + 26, source.ip + 12, 4);
	memcpy(event.frame + 34, source.port, 2);
	wire_put16(event.frame + 36, 7740);
	wire_put16(event.frame + 38, 8 + 100);
	return event;
}

struct member_session *society_settle(struct society *society, uint8_t number)
{
	struct member_session *session;
	struct member_grant grant;
	struct forward_event event;

	assert_int_equal(society_join(society, number, &grant), 0);
	event = society_event(FORWARD_EVENT_PATH, grant.index, society_address(number, 4000));
	member_event(&society->members, &event, society->now_ms);
	session = member_session_find(&society->members, grant.index);
	assert_non_null(session);
	assert_ptr_equal(session->member->current, session);
	assert_non_null(strstr(society_said(society, grant.index), "\"event\":\"path\""));
	return session;
}

int society_rekey(struct society *society, uint8_t number, uint32_t index, uint32_t epoch,
		  const uint8_t *secret, struct member_grant *grant)
{
	static const uint8_t binding[32] = {7};
	const struct identity identity = society_identity(number);
	const struct endpoint remote = society_address(number, 50001);
	struct member_ask asked = ask(society, &identity, &remote);
	uint8_t input[WIRE_REKEY_INPUT], mac[32];

	wire_rekey_input(input, WIRE_REKEY_ASKS, binding, index, epoch);
	HMAC(EVP_sha256(), secret, WIRE_REKEY_SECRET_SIZE, input, sizeof(input), mac, NULL);
	asked.index = index;
	asked.epoch = epoch;
	asked.mac = mac;
	asked.binding = binding;
	return member_rekey(&society->members, &asked, society->now_ms, grant);
}

const struct session *society_find(const struct society *society, uint32_t index)
{
	bool stale;

	return session_find(society->members.sessions, index, &stale);
}

const char *society_said(struct society *society, uint32_t index)
{
	static struct forward_command taken;

	assert_true(society->said_count > 0);
	taken = society->said[0];
	society->said_count--;
	memmove(&society->said[0], &society->said[1],
		society->said_count * sizeof(society->said[0]));
	assert_int_equal(taken.index, index);
	return (const char *)taken.payload;
}

void society_silent(const struct society *society)
{
	assert_int_equal(society->said_count, 0);
}
