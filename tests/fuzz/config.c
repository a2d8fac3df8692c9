#include "fuzz.h"

#include "config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct config config;
	char error[CONFIG_ERROR_MAX] = "";
	uint8_t *text = fuzz_copy(data, size);
	int r = config_parse(text, size, &config, error);

	assert(memchr(error, '\0', sizeof(error)));
	if (r)
		assert(error[0] && !strchr(error, '\n')); // one line, of use to somebody
	free(text);
	return 0;
}
