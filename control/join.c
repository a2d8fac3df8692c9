#include "join.h"

#include <errno.h>
#include <stdio.h>

#include "dataplane.h"
#include "hello.h"
#include "log.h"

enum { RETRY_MAX_S = 3600 };

static int export_bytes(SSL *ssl, const char *label, const uint8_t *context, size_t context_size,
			uint8_t *out, size_t size)
{
	return SSL_export_keying_material(ssl, out, size, label, strlen(label), context,
					  context_size, context != NULL) == 1
		       ? 0
		       : -EIO;
}

static int export_with_context(void *arg, const char *label,
			       const uint8_t context[WIRE_CONTEXT_SIZE], uint8_t *out, size_t size)
{
	return export_bytes(arg, label, context, WIRE_CONTEXT_SIZE, out, size);
}

/* Where the peer is to send its records to: as configured, or where it has found us already. */
static void data_address(const struct config *config, const struct endpoint *local,
			 char text[ADDRESS_TEXT])
{
	const struct config_data *data = &config->data;
	uint32_t chosen = 0;

	address_format_ip(text, local);
	for (uint32_t i = data->address_count; i-- > 0;) {
		// the first of the same IP version
		if (!strchr(data->address[i], ':') == address_is_v4(local))
			chosen = i;
	}
	if (data->address_count)
		strcpy(text, data->address[chosen]);
}

static size_t refuse(const struct handshake_hello *hello, const struct identity *peer,
		     char answer[WIRE_LINE_MAX], enum hello_error error, const char *detail,
		     unsigned int retry_s)
{
	char id[WIRE_ID_TEXT + 1], remote[ADDRESS_TEXT];

	wire_id_format(id, &peer->id);
	address_format(remote, hello->remote);
	log_warning("hello refused", "address=%s id=%s name=%s error=%s reason=%s", remote, id,
		    peer->name, hello_error_name(error), detail);
	return hello_refusal(answer, error, detail, retry_s);
}

/* Joins or rekeys. Returns HELLO_OK, or why not. */
static enum hello_error ask_member(struct join *join, const struct handshake_hello *hello,
				   const struct hello *parsed, const struct identity *peer,
				   struct member_grant *grant, const char **detail)
{
	const struct config_session *config = &join->config->session;
	uint8_t binding[32];
	struct member_ask ask = {
		.identity = peer,
		.remote = hello->remote,
		.relay = &tls_relay(hello->ssl)->id,
		.aead = hello_choose_cipher(parsed, config->ciphers, config->ciphers_count),
		.lanes = parsed->lanes,
		.mtu = parsed->mtu,
		.checksum = parsed->checksum,
		.bundles = parsed->bundles,
		.index = parsed->rekey_index,
		.epoch = parsed->rekey_epoch,
		.mac = parsed->rekey_mac,
		.binding = binding,
		.export = export_with_context,
		.arg = hello->ssl,
	};
	int result;

	grant->retry_s = reputation_refuses(join->reputation, &peer->id, dataplane_now_ms());
	if (grant->retry_s) {
		// peers ask again after an hour at the latest
		grant->retry_s = grant->retry_s < RETRY_MAX_S ? grant->retry_s : RETRY_MAX_S;
		*detail = "this identity has misbehaved, and may not join for a while";
		return HELLO_CUT;
	}
	if (parsed->rekey) {
		result = export_bytes(hello->ssl, WIRE_EXPORT_BINDING, NULL, 0, binding,
				      sizeof(binding));
		if (!result)
			result = member_rekey(join->members, &ask, dataplane_now_ms(), grant);
	} else if (!ask.aead) {
		*detail = "none of these ciphers is allowed here";
		return HELLO_CIPHER;
	} else {
		result = member_join(join->members, &ask, dataplane_now_ms(), grant);
	}
	switch (result) {
	case 0:
		return HELLO_OK;
	case -EPERM:
		*detail = "no such session, wrong epoch or MAC, or a rekey is under way";
		return HELLO_REKEY;
	case -EBUSY:
		*detail = "this identity joins too often";
		return HELLO_BUSY;
	case -ENOSPC:
		*detail = "no free session";
		return HELLO_FULL;
	default:
		*detail = "out of memory";
		grant->retry_s = 1;
		return HELLO_BUSY;
	}
}

size_t join_answer(void *arg, const struct handshake_hello *hello, char answer[WIRE_LINE_MAX],
		   bool *welcome)
{
	struct join *join = arg;
	const struct config *config = join->config;
	struct identity peer;
	struct hello parsed;
	struct member_grant grant = {0};
	char address[ADDRESS_TEXT], text[64];
	const char *detail;
	enum hello_error error;

	if (tls_peer(join->tls, hello->ssl, &peer, &detail))
		return refuse(hello, &peer, answer, HELLO_ROLE, detail, 0);
	if (!hello->line) {
		snprintf(text, sizeof(text), "hello must be at most %zu bytes", hello->length_max);
		return refuse(hello, &peer, answer, HELLO_TOO_LONG, text, 0);
	}
	error = hello_parse(&parsed, hello->line, hello->length, &detail);
	// a rekey costs nothing more now, and can wait less than others
	if (error == HELLO_OK && hello->retry_s && !parsed.rekey)
		return hello_refusal(answer, HELLO_BUSY, "the relay is overloaded", hello->retry_s);
	if (error == HELLO_OK && join->closing_s && !parsed.rekey)
		return hello_refusal(answer, HELLO_BUSY, "the relay stops", join->closing_s);
	if (error == HELLO_OK)
		error = ask_member(join, hello, &parsed, &peer, &grant, &detail);
	if (error != HELLO_OK)
		return refuse(hello, &peer, answer, error, detail, grant.retry_s);
	data_address(config, hello->local, address);
	*welcome = true;
	blocklist_lift(join->blocklist, hello->remote, dataplane_now_ms());
	return hello_welcome(answer, &(struct welcome){
					     .id = &peer.id,
					     .name = peer.name,
					     .relay = &tls_relay(hello->ssl)->id,
					     .index = grant.index,
					     .epoch = grant.epoch,
					     .cipher = grant.aead,
					     .address = address,
					     .port = (uint16_t)config->data.port,
					     .lanes_up = grant.lanes_up,
					     .lanes_down = grant.lanes_down,
					     .mtu = grant.mtu,
					     .keepalive = config->session.keepalive,
					     .expiry = config->session.expiry,
					     .rekey = config->session.rekey,
					     .key_records = (uint32_t)config->session.key_records,
					     .mac = parsed.rekey ? grant.mac : NULL,
					     .trains = join->trains,
					     .relays = join->members->relays,
				     });
}
