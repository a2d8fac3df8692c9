#include "hello.h"

#include <jansson.h>

const char *hello_error_name(enum hello_error error)
{
	static const char *const names[] = {[HELLO_OK] = "ok",
#define X(name, text) [HELLO_##name] = text,
					    HELLO_ERRORS(X)
#undef X
	};

	return names[error];
}

/* An optional whole number; `value` keeps its default if there is none. False: of another type. */
static bool get_integer(const json_t *object, const char *key, json_int_t *value)
{
	const json_t *field = json_object_get(object, key);

	if (field && !json_is_integer(field))
		return false;
	if (field)
		*value = json_integer_value(field);
	return true;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

static bool parse_hex(uint8_t *bytes, size_t size, const json_t *field)
{
	const char *text = json_string_value(field);

	if (!text || json_string_length(field) != 2 * size)
		return false;
	for (size_t i = 0; i < size; i++) {
		int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		bytes[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

static bool parse_rekey(struct hello *hello, const json_t *rekey)
{
	json_int_t index = -1, epoch = -1;

	hello->rekey = true;
	if (!json_is_object(rekey) || !get_integer(rekey, "index", &index) ||
	    !get_integer(rekey, "epoch", &epoch))
		return false;
	if (index < 0 || index > UINT32_MAX || epoch < 0 || epoch > UINT32_MAX)
		return false;
	hello->rekey_index = (uint32_t)index;
	hello->rekey_epoch = (uint32_t)epoch;
	return parse_hex(hello->rekey_mac, sizeof(hello->rekey_mac), json_object_get(rekey, "mac"));
}

/* Keeps the ciphers that are known. */
static bool parse_ciphers(struct hello *hello, const json_t *ciphers)
{
	const json_t *name;
	size_t i;

	if (!json_is_array(ciphers))
		return false;
	json_array_foreach (ciphers, i, name) {
		enum wire_aead aead;

		if (!json_is_string(name))
			return false;
		aead = wire_aead_parse(json_string_value(name));
		if (aead && hello->cipher_count < HELLO_CIPHERS_MAX)
			hello->ciphers[hello->cipher_count++] = aead;
	}
	return true;
}

static enum hello_error parse_object(struct hello *hello, const json_t *root, const char **detail)
{
	const json_t *version = json_object_get(root, "viaduct");
	const json_t *rekey = json_object_get(root, "rekey");
	const json_t *checksum = json_object_get(root, "checksum");
	const json_t *bundles = json_object_get(root, "bundles");
	json_int_t lanes = 1, mtu = WIRE_MTU_MIN;

	*detail = "viaduct must be the protocol's version, a whole number";
	if (!json_is_integer(version))
		return HELLO_MALFORMED;
	*detail = "this relay speaks version 1";
	if (json_integer_value(version) != 1)
		return HELLO_VERSION;

	*detail = "ciphers must be an array of strings";
	if (!parse_ciphers(hello, json_object_get(root, "ciphers")))
		return HELLO_MALFORMED;
	*detail = "lanes and mtu must be whole numbers";
	if (!get_integer(root, "lanes", &lanes) || !get_integer(root, "mtu", &mtu))
		return HELLO_MALFORMED;
	*detail = "checksum and bundles must be true or false";
	if ((checksum && !json_is_boolean(checksum)) || (bundles && !json_is_boolean(bundles)))
		return HELLO_MALFORMED;
	*detail = "rekey must have index, epoch and mac (64 digits of lower-case hex)";
	if (rekey && !parse_rekey(hello, rekey))
		return HELLO_MALFORMED;

	*detail = "lanes must be from 1 to 8";
	if (lanes < 1 || lanes > WIRE_LANES_MAX)
		return HELLO_LANES;
	*detail = "mtu must be from 1280 to 9000";
	if (mtu < WIRE_MTU_MIN || mtu > WIRE_MTU_MAX)
		return HELLO_MTU;
	hello->lanes = (uint8_t)lanes;
	hello->mtu = (uint16_t)mtu;
	hello->checksum = json_is_true(checksum);
	hello->bundles = json_is_true(bundles);
	*detail = NULL;
	return HELLO_OK;
}

enum hello_error hello_parse(struct hello *hello, const char *line, size_t length,
			     const char **detail)
{
	json_t *root = json_loadb(line, length, JSON_REJECT_DUPLICATES, NULL);
	enum hello_error error = HELLO_MALFORMED;

	memset(hello, 0, sizeof(*hello));
	*detail = "hello must be one JSON object in one line";
	if (json_is_object(root))
		error = parse_object(hello, root, detail);
	json_decref(root);
	return error;
}

enum wire_aead hello_choose_cipher(const struct hello *hello, const int *allowed,
				   unsigned int count)
{
	for (unsigned int i = 0; i < hello->cipher_count; i++) {
		for (unsigned int j = 0; j < count; j++) {
			if ((int)hello->ciphers[i] == allowed[j])
				return hello->ciphers[i];
		}
	}
	return 0;
}

/* Writes `root`, which it takes over, as a line. */
static size_t write_line(char line[WIRE_LINE_MAX], json_t *root)
{
	size_t length = json_dumpb(root, line, WIRE_LINE_MAX - 1, JSON_COMPACT);

	json_decref(root);
	if (length == 0 || length > WIRE_LINE_MAX - 1)
		return 0;
	line[length] = '\n';
	return length + 1;
}

size_t hello_welcome(char line[WIRE_LINE_MAX], const struct welcome *welcome)
{
	char id[WIRE_ID_TEXT + 1], relay[WIRE_ID_TEXT + 1], mac[2 * HELLO_MAC_SIZE + 1];

	for (size_t i = 0; welcome->mac && i < HELLO_MAC_SIZE; i++)
		snprintf(mac + 2 * i, 3, "%02x", welcome->mac[i]);
	wire_id_format(id, welcome->id);
	wire_id_format(relay, welcome->relay);
	return write_line(
		line,
		json_pack("{si ss ss ss sI sI ss s{ss si} s{si si} si si si si si sI sb sb "
			  "so ss*}",                                                     //
			  "viaduct", 1, "id", id, "name", welcome->name, "relay", relay, //
			  "index", (json_int_t)welcome->index,                           //
			  "epoch", (json_int_t)welcome->epoch,                           //
			  "cipher", wire_aead_name(welcome->cipher),                     //
			  "data", "address", welcome->address, "port", welcome->port,    //
			  "lanes", "up", welcome->lanes_up, "down", welcome->lanes_down, //
			  "mtu", welcome->mtu,                                           //
			  "max_payload", welcome->mtu - WIRE_PAYLOAD_OVERHEAD,           //
			  "keepalive", welcome->keepalive, "expiry", welcome->expiry,    //
			  "rekey", welcome->rekey,                                       //
			  "key_records", (json_int_t)welcome->key_records,               //
			  "trains", welcome->trains, "bundles", 1, "relays",
			  json_loads(welcome->relays, 0, NULL), "mac", welcome->mac ? mac : NULL));
}

size_t hello_refusal(char line[WIRE_LINE_MAX], enum hello_error error, const char *detail,
		     unsigned int retry_after)
{
	json_t *root = json_pack("{ss ss}", "error", hello_error_name(error), "detail", detail);

	if (retry_after)
		json_object_set_new(root, "retry_after", json_integer(retry_after));
	return write_line(line, root);
}
