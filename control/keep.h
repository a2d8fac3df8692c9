/*
 * Keeps what the relay knows of its peers in a file, over restarts. The file is written by libuv's
 * threads, so that a slow disk makes nobody wait, and replaced as a whole, so that whoever reads
 * sees an old or a new one. Control thread.
 */
#ifndef VIADUCT_KEEP_H
#define VIADUCT_KEEP_H

#include <uv.h>

#include "config.h"
#include "reputation.h"

struct keep {
	char path[CONFIG_PATH_MAX]; // "": kept nowhere
	struct reputation *reputation;
	struct reputation copy; // being written
	uint64_t copied_ms;
	int64_t copied_s; // time of day
	uint64_t due_ms;  // not before
	uv_work_t work;
	bool busy;
	bool failing; // and it has been said
	int result;
};

/*
 * Reads the file, if there is one. What can't be read is laid aside, with a word in the log; a
 * relay does without rather than not start.
 */
void keep_start(struct keep *keep, const char *path, struct reputation *reputation,
		uint64_t now_ms);

/* Begins to write what has changed. Call it every second. */
void keep_tick(struct keep *keep, uv_loop_t *loop, uint64_t now_ms);

/* Writes what is left; waits for the disk. */
void keep_stop(struct keep *keep, uv_loop_t *loop, uint64_t now_ms);

#endif
