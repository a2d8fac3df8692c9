/*
 * Files that the relay reads, and those that hold its state: these are replaced as a whole, so that
 * whoever reads sees the old one or the new one, also after a crash or when the disk is full.
 */
#ifndef VIADUCT_FILE_H
#define VIADUCT_FILE_H

#include <stdio.h>

/*
 * Opens a file to read it, with open()'s further `flags`. It must be a regular one: others, such as
 * a FIFO, could have us wait. Any thread. Returns 0, or a negative errno and in `why` what is
 * wrong.
 */
int file_open(FILE **file, const char *path, int flags, const char **why);

/*
 * Replaces the file at `path` (below CONFIG_PATH_MAX bytes) by what `write` writes, with mode 0600;
 * it returns 0 or a negative errno. Waits for the disk. Any thread, but one at a time for a path.
 * Returns 0, or a negative errno and the old file is as it was.
 */
int file_replace(const char *path, int (*write)(void *arg, FILE *file), void *arg);

#endif
