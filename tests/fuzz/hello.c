#include "fuzz.h"

#include <jansson.h>

#include "hello.h"

static void check_parsed(const struct hello *hello)
{
	assert(hello->cipher_count <= HELLO_CIPHERS_MAX);
	for (unsigned int i = 0; i < hello->cipher_count; i++) {
		const int allowed[] = {hello->ciphers[i]};

		assert(hello->ciphers[i] == WIRE_AES_256_GCM ||
		       hello->ciphers[i] == WIRE_CHACHA20_POLY1305);
		assert(hello_choose_cipher(hello, allowed, 1) == hello->ciphers[i]);
	}
	assert(hello->lanes >= 1 && hello->lanes <= WIRE_LANES_MAX);
	assert(hello->mtu >= WIRE_MTU_MIN && hello->mtu <= WIRE_MTU_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *line = fuzz_copy(data, size), answer[WIRE_LINE_MAX];
	struct hello hello;
	const char *detail = NULL;
	enum hello_error error = hello_parse(&hello, line, size, &detail);
	size_t length;
	json_t *json;

	if (error == HELLO_OK) {
		check_parsed(&hello);
	} else {
		assert(detail && hello_error_name(error));
		// whatever it was, the answer is one line of JSON
		length = hello_refusal(answer, error, detail, 0);
		assert(length > 0 && length <= sizeof(answer));
		assert(memchr(answer, '\n', length) == answer + length - 1);
		json = json_loadb(answer, length, 0, NULL);
		assert(json);
		json_decref(json);
	}
	free(line);
	return 0;
}
