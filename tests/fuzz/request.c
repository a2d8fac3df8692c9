#include "fuzz.h"

#include "requests.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *payload = fuzz_copy(data, size);
	struct request request;
	const char *detail = NULL;

	if (request_parse(&request, payload, size, &detail) == 0) {
		assert(request.op < REQUEST_COUNT);
		assert(memchr(request.name, '\0', sizeof(request.name)));
		assert(memchr(request.cluster, '\0', sizeof(request.cluster)));
		assert(memchr(request.token, '\0', sizeof(request.token)));
		assert(memchr(request.region, '\0', sizeof(request.region)));
		assert(memchr(request.reason, '\0', sizeof(request.reason)));
	} else {
		assert(detail);
	}
	free(payload);
	return 0;
}
