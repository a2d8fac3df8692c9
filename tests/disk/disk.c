/*
 * For the lab tests: a disk that takes its time. Loaded before the C library into a process, it has
 * fsync() wait as long as the file DISK_HELD is there.
 */
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

int fsync(int fd)
{
	int (*real)(int fd) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
	const char *path = getenv("DISK_HELD");

	while (path && access(path, F_OK) == 0)
		usleep(1000);
	return real(fd);
}
