#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config.h"

int file_open(FILE **file, const char *path, int flags, const char **why)
{
	// without a word to a terminal, and without waiting for a FIFO's other end
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | flags);
	struct stat status;
	int result;

	*file = NULL;
	if (fd >= 0 && !fstat(fd, &status)) {
		if (S_ISREG(status.st_mode))
			*file = fdopen(fd, "r");
		else
			errno = EINVAL;
	}
	if (*file)
		return 0;
	result = -errno;
	*why = result == -EINVAL ? "is not a regular file" : strerror(-result);
	if (fd >= 0)
		close(fd);
	return result;
}

/* Has the disk hold what the folder says. */
static int sync_folder(const char *path)
{
	char copy[CONFIG_PATH_MAX];
	int fd, result = 0;

	snprintf(copy, sizeof(copy), "%s", path);
	fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd))
		result = -errno;
	if (fd >= 0)
		close(fd);
	return result;
}

int file_replace(const char *path, int (*write)(void *arg, FILE *file), void *arg)
{
	char next[CONFIG_PATH_MAX + 8];
	FILE *file = NULL;
	int fd, result;

	snprintf(next, sizeof(next), "%s.new", path);
	unlink(next);
	fd = open(next, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd >= 0)
		file = fdopen(fd, "w");
	if (!file) {
		result = -errno;
		if (fd >= 0)
			close(fd);
		return result;
	}
	errno = 0;
	result = write(arg, file);
	if (fflush(file) || ferror(file) || fsync(fd))
		result = errno ? -errno : -EIO;
	if (fclose(file) && !result)
		result = -errno;
	if (!result && rename(next, path))
		result = -errno;
	if (result)
		unlink(next);
	else
		result = sync_folder(path);
	return result;
}
