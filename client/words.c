/* Errors, reasons and ids as text. */
#include "viaduct.h"

#include <string.h>

#include "wire.h"

void viaduct_id_format(char text[VIADUCT_ID_TEXT + 1], const struct viaduct_id *id)
{
	struct wire_id wire;

	memcpy(&wire, id, sizeof(wire));
	wire_id_format(text, &wire);
}

int viaduct_id_parse(struct viaduct_id *id, const char *text)
{
	struct wire_id wire;
	int ret = wire_id_parse(&wire, text);

	if (!ret)
		memcpy(id, &wire, sizeof(wire));
	return ret;
}

const char *viaduct_strerror(int error)
{
	const char *text;

	switch (error) {
	case VIADUCT_E_DATA_PORT:
		return "joined, but the data port can't be reached";
	case VIADUCT_E_EXPIRED:
		return "the relay has fallen silent";
	case VIADUCT_E_REPLACED:
		return "replaced by another join of the same identity";
	case VIADUCT_E_REVOKED:
		return "this identity is revoked";
	case VIADUCT_E_CLOSING:
		return "the relay stops";
	case VIADUCT_E_TLS:
		return "a certificate was refused";
	case VIADUCT_E_PROTOCOL:
		return "the relay and this client don't understand each other";
	case VIADUCT_E_BUSY:
		return "busy, try again later";
	case VIADUCT_E_FULL:
		return "the relay has no free session";
	case VIADUCT_E_CUT:
		return "this peer has misbehaved, and has to stay away for a while";
	case VIADUCT_E_IDENTITY:
		return "the certificate files are another identity's now";
	case VIADUCT_E_KEY_EXHAUSTED:
		return "the key is used up and could not be renewed yet";
	case -ENOTCONN:
		return "not joined";
	}
	text = strerrordesc_np(-error);
	return text ? text : "unknown error";
}

const char *viaduct_reason_name(enum viaduct_reason reason)
{
	const char *name = wire_reason_name(reason);

	return name ? name : "unknown";
}

const char *viaduct_version(void)
{
	return VIADUCT_VERSION;
}
