/*
 * The stand-in for a relay as a process: client-stub DIR prints its address and works until its
 * standard input ends.
 */
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include "stub.h"

int main(int argc, char **argv)
{
	char certificate[256], key[256], ca[256];
	struct stub *stub;

	if (argc != 2)
		return 2;
	snprintf(certificate, sizeof(certificate), "%s/relay.pem", argv[1]);
	snprintf(key, sizeof(key), "%s/relay.key", argv[1]);
	snprintf(ca, sizeof(ca), "%s/ca.pem", argv[1]);
	stub = stub_new(certificate, key, ca);
	printf("%s\n", stub->address);
	fflush(stdout);
	for (;;) {
		struct pollfd fds[] = {{.fd = stub->epoll, .events = POLLIN},
				       {.fd = STDIN_FILENO, .events = POLLIN}};

		poll(fds, 2, -1);
		if (fds[1].revents)
			break;
		stub_process(stub);
	}
	stub_free(stub);
	return 0;
}
