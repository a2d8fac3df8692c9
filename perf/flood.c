/*
 * A source of garbage: sends datagrams that are nobody's records, as many as it can, 64 a system
 * call by UDP segmentation. Prints how many as one JSON object.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SEGMENTS = 64, SIZE = 100 };

static volatile sig_atomic_t over;

static void on_signal(int number)
{
	over = 1;
}

static int usage(void)
{
	fprintf(stderr,
		"Usage: flood FROM-IPV4 TO-IPV4 PORT\n\n"
		"Sends garbage of 100 bytes until SIGTERM or SIGINT, and prints how much.\n");
	return 2;
}

/* A socket from one address to another. -1 after having said why not. */
static int open_socket(char **argv)
{
	struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
	const int size = SIZE;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	to.sin_port = htons((uint16_t)atoi(argv[3]));
	if (inet_pton(AF_INET, argv[1], &from.sin_addr) == 1 &&
	    inet_pton(AF_INET, argv[2], &to.sin_addr) == 1 && fd >= 0 &&
	    !bind(fd, (struct sockaddr *)&from, sizeof(from)) &&
	    !connect(fd, (struct sockaddr *)&to, sizeof(to)) &&
	    !setsockopt(fd, SOL_UDP, UDP_SEGMENT, &size, sizeof(size)))
		return fd;
	fprintf(stderr, "flood: %s\n", strerror(errno));
	if (fd >= 0)
		close(fd);
	return -1;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	static char garbage[SEGMENTS * SIZE];
	unsigned long long sent = 0;
	double begin = now(), seconds;
	int fd;

	if (argc != 4)
		return usage();
	fd = open_socket(argv);
	if (fd < 0)
		return EXIT_FAILURE;
	// each as a record of a session that nobody has
	for (int i = 0; i < SEGMENTS; i++) {
		garbage[i * SIZE] = 0x10;
		memset(&garbage[i * SIZE + 4], 0xff, 4);
	}
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	while (!over) {
		if (send(fd, garbage, sizeof(garbage), 0) > 0)
			sent += SEGMENTS;
	}
	seconds = now() - begin;
	printf("{\"sent\":%llu,\"seconds\":%.3f,\"per_s\":%.0f}\n", sent, seconds,
	       (double)sent / seconds);
	close(fd);
	return EXIT_SUCCESS;
}
