#include "stub.h"

#include <arpa/inet.h>
#include <errno.h>
#include <jansson.h>
#include <netinet/udp.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

static int alpn_select(SSL *ssl, const uint8_t **out, uint8_t *length, const uint8_t *offered,
		       unsigned int offered_length, void *unused)
{
	*out = offered + 1;
	*length = offered[0];
	return SSL_TLSEXT_ERR_OK;
}

/* Loopback sockets on any port; both have the same number where that is free. */
static int bind_any(int type, struct sockaddr_in *address)
{
	int fd = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	socklen_t size = sizeof(*address);

	*address = (struct sockaddr_in){.sin_family = AF_INET,
					.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	if (bind(fd, (struct sockaddr *)address, size) ||
	    getsockname(fd, (struct sockaddr *)address, &size))
		abort();
	return fd;
}

static void watch(struct stub *stub, int fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

	epoll_ctl(stub->epoll, EPOLL_CTL_ADD, fd, &event);
}

struct stub *stub_new(const char *certificate, const char *key, const char *ca)
{
	struct stub *stub = calloc(1, sizeof(*stub));
	struct identity identity;
	struct sockaddr_in control;

	for (int i = 0; i < STUB_CONNECTIONS; i++)
		stub->connections[i].fd = -1;
	stub->keepalive = 10;
	stub->expiry = 30;
	stub->key_records = 1 << 20;
	stub->lanes_down = 1;
	stub->ctx = SSL_CTX_new(TLS_server_method());
	SSL_CTX_set_verify(stub->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	SSL_CTX_set_session_id_context(stub->ctx, (const uint8_t *)"stub", 4);
	SSL_CTX_set_alpn_select_cb(stub->ctx, alpn_select, NULL);
	if (SSL_CTX_use_certificate_chain_file(stub->ctx, certificate) != 1 ||
	    SSL_CTX_use_PrivateKey_file(stub->ctx, key, SSL_FILETYPE_PEM) != 1 ||
	    SSL_CTX_load_verify_file(stub->ctx, ca) != 1 ||
	    identity_read(&identity, SSL_CTX_get0_certificate(stub->ctx)))
		abort();
	stub->id = identity.id;
	stub->listener = bind_any(SOCK_STREAM, &control);
	stub->udp = bind_any(SOCK_DGRAM, &stub->data);
	listen(stub->listener, STUB_CONNECTIONS);
	snprintf(stub->address, sizeof(stub->address), "127.0.0.1:%u", ntohs(control.sin_port));
	stub->epoll = epoll_create1(EPOLL_CLOEXEC);
	watch(stub, stub->listener);
	watch(stub, stub->udp);
	return stub;
}

static void session_drop(struct stub_session *session)
{
	keys_free(session->receiver.current);
	keys_free(session->receiver.old);
	memset(session, 0, sizeof(*session));
}

static void connection_close(struct stub_connection *connection)
{
	SSL_shutdown(connection->ssl);
	SSL_free(connection->ssl);
	close(connection->fd);
	connection->fd = -1;
}

void stub_free(struct stub *stub)
{
	for (int i = 0; i < STUB_CONNECTIONS; i++)
		if (stub->connections[i].fd >= 0)
			connection_close(&stub->connections[i]);
	for (int i = 0; i < STUB_SESSIONS; i++)
		session_drop(&stub->sessions[i]);
	SSL_CTX_free(stub->ctx);
	close(stub->listener);
	close(stub->udp);
	close(stub->epoll);
	free(stub);
}

struct stub_session *stub_session(struct stub *stub, const struct wire_id *id)
{
	for (int i = 0; i < STUB_SESSIONS; i++)
		if (stub->sessions[i].used && wire_id_equal(&stub->sessions[i].id, id))
			return &stub->sessions[i];
	return NULL;
}

/* ---- Hello ---- */

static void answer(struct stub_connection *connection, const char *line)
{
	SSL_write(connection->ssl, line, (int)strlen(line));
	SSL_write(connection->ssl, "\n", 1);
	SSL_shutdown(connection->ssl);
}

static void welcome(struct stub *stub, struct stub_connection *connection,
		    const struct stub_session *session, int lanes, int mtu, const char *cipher,
		    uint32_t epoch, const char *mac)
{
	char id[27], relay[27], *line;
	json_t *root, *patch;

	wire_id_format(id, &session->id);
	wire_id_format(relay, &stub->id);
	root = json_pack("{si ss ss ss sI si ss s{ss si} s{si si} si si si si si sI sb s[] ss*}",
			 "viaduct", 1, "id", id, "name", session->name, "relay", relay, "index",
			 (json_int_t)session->index, "epoch", (int)epoch, "cipher", cipher, "data",
			 "address", "127.0.0.1", "port", ntohs(stub->data.sin_port), "lanes", "up",
			 lanes, "down", (int)stub->lanes_down, "mtu", mtu, "max_payload", mtu - 120,
			 "keepalive", (int)stub->keepalive, "expiry", (int)stub->expiry, "rekey",
			 3600, "key_records", (json_int_t)stub->key_records, "trains", 1, "relays",
			 "mac", mac);
	if (stub->patch) {
		patch = json_loads(stub->patch, 0, NULL);
		json_object_update(root, patch);
		json_decref(patch);
	}
	line = json_dumps(root, JSON_COMPACT);
	answer(connection, line);
	free(line);
	json_decref(root);
}

static void make_mac(struct stub_session *session, SSL *ssl, const char *prefix, char hex[65])
{
	uint8_t mac[32];

	keys_rekey_mac(session->receiver.current, ssl, prefix, session->index, mac);
	for (int i = 0; i < 32; i++)
		sprintf(hex + 2 * i, "%02x", mac[i]);
}

static bool mac_right(struct stub_session *session, SSL *ssl, const char *hex)
{
	char right[65];

	make_mac(session, ssl, WIRE_REKEY_ASKS, right);
	return !strcmp(right, hex);
}

static void rekey(struct stub *stub, struct stub_connection *connection,
		  struct stub_session *session, json_t *asked, struct keys_binding *binding,
		  int lanes, int mtu)
{
	const char *mac = json_string_value(json_object_get(asked, "mac"));
	json_int_t index = json_integer_value(json_object_get(asked, "index"));
	json_int_t epoch = json_integer_value(json_object_get(asked, "epoch"));
	char grant[65];
	struct keys *keys;

	if (!session || !mac || index != session->index ||
	    epoch != session->receiver.current->epoch ||
	    session->sends != session->receiver.current ||
	    !mac_right(session, connection->ssl, mac)) {
		answer(connection, "{\"error\":\"rekey\",\"detail\":\"no\"}");
		return;
	}
	make_mac(session, connection->ssl, WIRE_REKEY_GRANTS, grant);
	binding->index = session->index;
	binding->epoch = session->receiver.current->epoch + 1;
	if (keys_export(&keys, connection->ssl, binding, WIRE_DOWN))
		abort();
	keys_free(session->receiver.old);
	session->receiver.old = session->receiver.current;
	session->receiver.current = keys;
	stub->rekeys++;
	welcome(stub, connection, session, lanes, mtu, wire_aead_name(binding->aead),
		binding->epoch, grant);
}

static void join(struct stub *stub, struct stub_connection *connection,
		 const struct identity *identity, struct keys_binding *binding, int lanes, int mtu)
{
	struct stub_session *session = stub_session(stub, &identity->id);
	static uint32_t generation;

	for (int i = 0; !session; i++)
		if (!stub->sessions[i].used)
			session = &stub->sessions[i];
	session_drop(session);
	session->used = true;
	session->id = identity->id;
	snprintf(session->name, sizeof(session->name), "%s", identity->name);
	session->index = ++generation % WIRE_GENERATIONS << WIRE_SLOT_BITS |
			 (uint32_t)(session - stub->sessions);
	binding->index = session->index;
	session->receiver = (struct receiver){.index = session->index,
					      .size_max = (size_t)mtu - WIRE_IP_OVERHEAD,
					      .lane_count = (unsigned int)lanes,
					      .lanes = session->lanes};
	if (keys_export(&session->receiver.current, connection->ssl, binding, WIRE_DOWN))
		abort();
	session->sends = session->receiver.current;
	welcome(stub, connection, session, lanes, mtu, wire_aead_name(binding->aead), 0, NULL);
}

static void hello(struct stub *stub, struct stub_connection *connection)
{
	json_t *root = json_loads(connection->line, 0, NULL);
	json_t *asked = json_object_get(root, "rekey");
	int lanes = (int)json_integer_value(json_object_get(root, "lanes"));
	int mtu = (int)json_integer_value(json_object_get(root, "mtu"));
	json_t *ciphers = json_object_get(root, "ciphers");
	struct keys_binding binding = {.relay = stub->id};
	struct identity identity;

	stub->hellos++;
	stub->resumed += (unsigned int)SSL_session_reused(connection->ssl);
	strcpy(stub->last_hello, connection->line);
	if (identity_read(&identity, SSL_get0_peer_certificate(connection->ssl)))
		abort();
	binding.peer = identity.id;
	binding.aead = wire_aead_parse(json_string_value(json_array_get(ciphers, 0)));
	if (stub->answer)
		answer(connection, stub->answer);
	else if (asked)
		rekey(stub, connection, stub_session(stub, &identity.id), asked, &binding, lanes,
		      mtu);
	else
		join(stub, connection, &identity, &binding, lanes, mtu);
	json_decref(root);
}

static void connection_ready(struct stub *stub, struct stub_connection *connection)
{
	int ret;

	ERR_clear_error();
	ret = SSL_read(connection->ssl, connection->line + connection->length,
		       (int)(sizeof(connection->line) - 1 - connection->length));
	if (ret > 0) {
		connection->length += (size_t)ret;
		connection->line[connection->length] = '\0';
		if (strchr(connection->line, '\n'))
			hello(stub, connection);
	} else if (SSL_get_error(connection->ssl, ret) != SSL_ERROR_WANT_READ) {
		connection_close(connection);
	}
}

static void accept_one(struct stub *stub)
{
	int fd = accept4(stub->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	for (int i = 0; i < STUB_CONNECTIONS; i++) {
		struct stub_connection *connection = &stub->connections[i];

		if (connection->fd >= 0)
			continue;
		connection->fd = fd;
		connection->length = 0;
		connection->ssl = SSL_new(stub->ctx);
		SSL_set_fd(connection->ssl, fd);
		SSL_set_accept_state(connection->ssl);
		watch(stub, fd);
		return;
	}
	close(fd);
}

/* ---- Records ---- */

void stub_transmit(struct stub *stub, struct stub_session *session, const void *data, size_t size)
{
	sendto(stub->udp, data, size, 0, (struct sockaddr *)&session->address,
	       sizeof(session->address));
}

void stub_transmit_train(struct stub *stub, struct stub_session *session, const void *data,
			 size_t size, size_t segment)
{
	const int before = (int)segment, after = 0;

	setsockopt(stub->udp, SOL_UDP, UDP_SEGMENT, &before, sizeof(before));
	stub_transmit(stub, session, data, size);
	setsockopt(stub->udp, SOL_UDP, UDP_SEGMENT, &after, sizeof(after));
}

static size_t seal(struct stub_session *session, uint8_t *record, enum wire_class class,
		   uint8_t kind, uint8_t flags, uint32_t tag, const struct wire_id *from,
		   const void *data, size_t length)
{
	struct wire_record header = {.class = class,
				     .phase = session->sends->epoch & 1,
				     .index = session->index,
				     .sequence = session->sequence++};

	wire_record_put(record, &header);
	wire_message_put(record + WIRE_RECORD_HEADER, (uint16_t)length, kind, WIRE_HOP_LIMIT - 1,
			 flags, tag, from);
	memcpy(record + WIRE_RECORD_HEADER + WIRE_MESSAGE_HEADER, data, length);
	return (size_t)keys_seal(session->sends, record, WIRE_MESSAGE_HEADER + length);
}

size_t stub_seal(struct stub_session *session, uint8_t *record, enum wire_class class, uint8_t kind,
		 uint32_t tag, const struct wire_id *from, const void *data, size_t length)
{
	return seal(session, record, class, kind, 0, tag, from, data, length);
}

static void send_flagged(struct stub *stub, struct stub_session *to, enum wire_class class,
			 uint8_t kind, uint8_t flags, uint32_t tag, const struct wire_id *from,
			 const void *data, size_t length)
{
	uint8_t record[WIRE_MTU_MAX];
	size_t size = seal(to, record, class, kind, flags, tag, from, data, length);

	stub_transmit(stub, to, record, size);
}

static void send_message(struct stub *stub, struct stub_session *to, enum wire_class class,
			 uint8_t kind, uint32_t tag, const struct wire_id *from, const void *data,
			 size_t length)
{
	send_flagged(stub, to, class, kind, 0, tag, from, data, length);
}

void stub_say(struct stub *stub, struct stub_session *session, const char *json)
{
	send_message(stub, session, WIRE_CONTROL, WIRE_KIND_CONTROL, 0, &stub->id, json,
		     strlen(json));
}

static void say_path(struct stub *stub, struct stub_session *session)
{
	char text[128];

	session->reachable = true;
	snprintf(text, sizeof(text), "{\"event\":\"path\",\"address\":\"127.0.0.1\",\"port\":%u}",
		 ntohs(session->address.sin_port));
	stub_say(stub, session, text);
}

/* Sends a challenge to where the peer seems to be now. */
static void challenge(struct stub *stub, struct stub_session *session)
{
	struct sockaddr_in address = session->address;
	char text[64];

	session->token++;
	snprintf(text, sizeof(text), "{\"event\":\"challenge\",\"token\":\"%u\"}", session->token);
	session->address = session->candidate;
	stub_say(stub, session, text);
	session->address = address;
}

/* All sessions in order of id, one a page, to show that the client asks for the rest. */
static char *list_page(struct stub *stub, const char *after)
{
	const struct stub_session *found = NULL;
	struct wire_id last;
	char id[27], *page;
	int behind = 0;
	json_t *root;

	for (int i = 0; i < STUB_SESSIONS; i++) {
		const struct stub_session *session = &stub->sessions[i];

		if (!session->used || (!wire_id_parse(&last, after) &&
				       memcmp(&session->id, &last, sizeof(last)) <= 0))
			continue;
		behind++;
		if (!found || memcmp(&session->id, &found->id, sizeof(found->id)) < 0)
			found = session;
	}
	root = json_pack("{sb s[] sb}", "ok", 1, "peers", "more", behind > 1);
	if (found) {
		wire_id_format(id, &found->id);
		json_array_append_new(json_object_get(root, "peers"),
				      json_pack("{ss ss}", "id", id, "name", found->name));
	}
	page = json_dumps(root, JSON_COMPACT);
	json_decref(root);
	return page;
}

static void control(struct stub *stub, struct stub_session *session, uint32_t tag, const char *text,
		    size_t length)
{
	json_t *root = json_loadb(text, length, 0, NULL);
	const char *op = json_string_value(json_object_get(root, "op"));
	const char *after = json_string_value(json_object_get(root, "after"));
	const char *token = json_string_value(json_object_get(root, "token"));
	char *reply = NULL;
	bool leave = false;

	snprintf(stub->last_control, sizeof(stub->last_control), "%.*s", (int)length, text);
	if (stub->control_answer) {
		reply = strdup(stub->control_answer);
	} else if (!op) {
		reply = strdup("{\"ok\":false,\"error\":\"malformed\",\"detail\":\"no op\"}");
	} else if (!strcmp(op, "peers") || !strcmp(op, "resolve")) {
		reply = list_page(stub, after ? after : "");
	} else if (!strcmp(op, "echo") && token && atoi(token) == (int)session->token) {
		session->address = session->candidate;
		reply = strdup("{\"ok\":true}");
		say_path(stub, session);
	} else if (!strcmp(op, "watch")) {
		reply = strdup("{\"ok\":true,\"sequence\":3}");
	} else if (!strcmp(op, "leave")) {
		reply = strdup("{\"ok\":true}");
		leave = true;
	} else {
		reply = strdup("{\"ok\":false,\"error\":\"unsupported\",\"detail\":\"what?\"}");
	}
	send_message(stub, session, WIRE_CONTROL, WIRE_KIND_CONTROL, tag, &stub->id, reply,
		     strlen(reply));
	free(reply);
	json_decref(root);
	if (leave)
		session_drop(session);
}

static void forward(struct stub *stub, struct stub_session *from, enum wire_class class,
		    const struct wire_message *message)
{
	const void *payload = message->data + WIRE_MESSAGE_HEADER;
	uint32_t tag = wire_message_tag(message->data);
	struct stub_session *to;
	struct wire_id id;

	memcpy(&id, message->data + 8, sizeof(id));
	if (wire_id_equal(&id, &stub->id)) {
		if (message->kind == WIRE_PING) {
			stub->pings++;
			send_message(stub, from, class, WIRE_PONG, tag, &id, payload,
				     message->length);
		} else if (message->kind == WIRE_KIND_CONTROL) {
			control(stub, from, tag, payload, message->length);
		}
		return;
	}
	stub->last_to = id;
	stub->last_kind = message->kind;
	stub->last_flags = message->flags;
	stub->last_size = message->size - WIRE_MESSAGE_HEADER;
	memcpy(stub->last_payload, payload,
	       stub->last_size < sizeof(stub->last_payload) ? stub->last_size
							    : sizeof(stub->last_payload));
	to = stub_session(stub, &id);
	if (to)
		send_flagged(stub, to, class, message->kind, message->flags & WIRE_FLAG_FAILED, tag,
			     &from->id, payload, message->length);
	else if (message->kind == WIRE_SEND || message->kind == WIRE_REQUEST)
		send_message(stub, from, class, WIRE_ERROR | WIRE_REASON_NO_ROUTE, tag, &stub->id,
			     "", 0);
}

static void moved(struct stub *stub, struct stub_session *session,
		  const struct sockaddr_in *address, const struct received *received)
{
	if (received->record.lane || received->record.sequence < session->highest)
		return;
	session->highest = received->record.sequence + 1;
	if (!session->reachable) {
		session->address = *address;
		say_path(stub, session);
	} else if (address->sin_port != session->address.sin_port &&
		   address->sin_port != session->candidate.sin_port) {
		session->candidate = *address;
		challenge(stub, session);
	}
}

static void take_record(struct stub *stub, const struct sockaddr_in *address, uint8_t *data,
			size_t size)
{
	struct stub_session *session =
		&stub->sessions[wire_slot(wire_get32(data + 4)) % STUB_SESSIONS];
	struct wire_message message;
	struct received received;
	unsigned int batch = 0;
	size_t offset = 0;

	if (!session->used || receive_open(&received, &session->receiver, data, size) != RECEIVE_OK)
		return;
	stub->records++;
	session->lane_records[received.record.lane]++;
	if (received.current)
		session->sends = session->receiver.current;
	moved(stub, session, address, &received);
	while (session->used && offset < received.length) {
		offset = wire_message_get(&message, received.text, received.length, offset);
		if (!offset)
			break;
		forward(stub, session, received.record.class, &message);
		batch++;
	}
	if (batch > stub->largest_batch)
		stub->largest_batch = batch;
}

static void datagram_ready(struct stub *stub)
{
	struct sockaddr_in address = {0};
	socklen_t address_size = sizeof(address);
	size_t begin, end = WIRE_BUNDLE_HEADER;
	uint8_t data[WIRE_MTU_MAX];
	ssize_t size = recvfrom(stub->udp, data, sizeof(data), 0, (struct sockaddr *)&address,
				&address_size);

	if (size < WIRE_RECORD_MIN || stub->mute)
		return;
	if (stub->lose) {
		stub->lose--;
		return;
	}
	stub->datagrams++;
	if ((size_t)size > stub->largest_datagram)
		stub->largest_datagram = (size_t)size;
	if (!wire_is_bundle(data, (size_t)size)) {
		take_record(stub, &address, data, (size_t)size);
		return;
	}
	do {
		end = wire_bundle_get(&begin, data, (size_t)size, end);
		if (end)
			take_record(stub, &address, data + begin, end - begin);
	} while (end && end < (size_t)size);
}

void stub_process(struct stub *stub)
{
	struct epoll_event events[16];
	int count = epoll_wait(stub->epoll, events, 16, 0);

	for (int i = 0; i < count; i++) {
		int fd = events[i].data.fd;

		if (fd == stub->listener)
			accept_one(stub);
		else if (fd == stub->udp)
			datagram_ready(stub);
		for (int j = 0; j < STUB_CONNECTIONS; j++)
			if (stub->connections[j].fd == fd)
				connection_ready(stub, &stub->connections[j]);
	}
}
