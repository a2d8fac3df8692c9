/* Services: registering for one, asking one, answering for one. */
#include <errno.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <string.h>

#include "call.h"
#include "peer.h"

void viaduct_service_id(struct viaduct_id *id, const char *name)
{
	EVP_MD_CTX *digest = EVP_MD_CTX_new();
	uint8_t hash[EVP_MAX_MD_SIZE] = {0};

	// without memory it is nobody's id
	if (digest && EVP_DigestInit_ex(digest, EVP_sha256(), NULL) &&
	    EVP_DigestUpdate(digest, WIRE_SERVICE_PREFIX, sizeof(WIRE_SERVICE_PREFIX) - 1) &&
	    EVP_DigestUpdate(digest, name, strlen(name)))
		EVP_DigestFinal_ex(digest, hash, NULL);
	EVP_MD_CTX_free(digest);
	memcpy(id, hash, sizeof(*id));
}

int viaduct_register(struct viaduct_peer *peer, const struct viaduct_registration *registration,
		     viaduct_control_cb *callback, void *user)
{
	unsigned int weight = registration->weight ? registration->weight : 1;

	return call_ask(peer,
			json_pack("{ss ss sI sI ss*}", "op", "register", "service",
				  registration->name, "weight", (json_int_t)weight,
				  "policy_version", (json_int_t)registration->policy_version,
				  "region", registration->region),
			callback, user);
}

int viaduct_unregister(struct viaduct_peer *peer, const char *name, viaduct_control_cb *callback,
		       void *user)
{
	return call_ask(peer, json_pack("{ss ss}", "op", "unregister", "service", name), callback,
			user);
}

int peer_put_flagged(struct viaduct_peer *peer, unsigned int lane, enum viaduct_class class,
		     uint8_t kind, const struct viaduct_id *to, uint32_t tag,
		     const struct peer_flagged *flagged, const void *data, size_t length)
{
	struct wire_id address;
	uint8_t *payload, *header;
	int error;

	memcpy(&address, to, sizeof(address));
	payload = lane_message(peer->session, lane, (enum wire_class) class, kind, &address, tag,
			       flagged->size + length, &error);
	if (!payload)
		return error;
	header = payload - WIRE_MESSAGE_HEADER;
	header[3] |= flagged->flags;
	if (flagged->flags & WIRE_FLAG_VIA) // which doesn't count
		wire_put16(header, (uint16_t)length);
	if (flagged->size)
		memcpy(payload, flagged->bytes, flagged->size);
	if (length)
		memcpy(payload + flagged->size, data, length);
	return 0;
}

static int respond(struct viaduct_peer *peer, unsigned int lane,
		   const struct viaduct_message *request, uint8_t flags, const void *data,
		   size_t length)
{
	static const struct viaduct_id none;
	struct peer_flagged flagged = {.flags = flags, .bytes = &request->through};
	int ret = peer_sendable(peer, lane, request->class, length);

	if (memcmp(&request->through, &none, sizeof(none)) != 0) {
		flagged.flags |= WIRE_FLAG_VIA;
		flagged.size = WIRE_VIA_SIZE;
	}
	return ret ? ret
		   : peer_put_flagged(peer, lane, request->class, WIRE_RESPONSE, &request->from,
				      request->tag, &flagged, data, length);
}

int viaduct_respond(struct viaduct_peer *peer, unsigned int lane,
		    const struct viaduct_message *request, const void *data, size_t length)
{
	return respond(peer, lane, request, 0, data, length);
}

int viaduct_respond_failed(struct viaduct_peer *peer, unsigned int lane,
			   const struct viaduct_message *request, const void *data, size_t length)
{
	return respond(peer, lane, request, WIRE_FLAG_FAILED, data, length);
}
