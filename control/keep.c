#include "keep.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "file.h"
#include "log.h"

enum {
	PAUSE_MS = 10000, // between two writings
	AGAIN_MS = 60000, // after a failed one
};

static int write_scores(void *arg, FILE *file)
{
	const struct keep *keep = arg;

	return reputation_write(&keep->copy, file, keep->copied_ms, keep->copied_s);
}

static int save(struct keep *keep)
{
	return file_replace(keep->path, write_scores, keep);
}

static void lay_aside(const struct keep *keep, const char *why)
{
	char path[CONFIG_PATH_MAX + 8];

	snprintf(path, sizeof(path), "%s.bad", keep->path);
	log_error("scores not read", "file=%s reason=%s advice=%s", keep->path, why,
		  rename(keep->path, path)
			  ? "all peers begin as new"
			  : "all peers begin as new; the file is now that name with .bad");
}

void keep_start(struct keep *keep, const char *path, struct reputation *reputation, uint64_t now_ms)
{
	unsigned int bad = 0;
	const char *why;
	FILE *file;
	int result;

	memset(keep, 0, sizeof(*keep));
	snprintf(keep->path, sizeof(keep->path), "%s", path);
	keep->reputation = reputation;
	keep->due_ms = now_ms + PAUSE_MS;
	if (!*path)
		return;
	result = file_open(&file, path, 0, &why);
	if (result) {
		if (result != -ENOENT)
			lay_aside(keep, why);
		return;
	}
	result = reputation_read(reputation, file, now_ms, time(NULL), &bad);
	if (result)
		lay_aside(keep, result == -EINVAL ? "it doesn't begin as a file of scores does"
						  : strerror(-result));
	else if (bad)
		log_warning("scores not read", "file=%s lines=%u reason=%s", path, bad,
			    "they make no sense; all others were read");
	fclose(file);
}

/* Takes a copy for the file. Returns 0 or -ENOMEM. */
static int copy(struct keep *keep, uint64_t now_ms)
{
	int result = reputation_copy(&keep->copy, keep->reputation);

	keep->copied_ms = now_ms;
	keep->copied_s = time(NULL);
	if (!result)
		keep->reputation->changed = false;
	return result;
}

static void note(struct keep *keep, int result)
{
	if (result)
		keep->reputation->changed = true;
	if (result && !keep->failing)
		log_warning("scores not kept", "file=%s reason=%s advice=%s", keep->path,
			    strerror(-result),
			    "they would be lost by a restart; this is tried again");
	else if (!result && keep->failing)
		log_info("scores kept", "file=%s", keep->path);
	keep->failing = result != 0;
}

/* In a thread of libuv's. */
static void on_work(uv_work_t *work)
{
	struct keep *keep = work->data;

	keep->result = save(keep);
}

static void on_done(uv_work_t *work, int status)
{
	struct keep *keep = work->data;

	reputation_fini(&keep->copy);
	keep->busy = false;
	note(keep, status ? status : keep->result);
	if (keep->failing)
		keep->due_ms += AGAIN_MS;
}

void keep_tick(struct keep *keep, uv_loop_t *loop, uint64_t now_ms)
{
	if (!*keep->path || keep->busy || !keep->reputation->changed || now_ms < keep->due_ms)
		return;
	keep->due_ms = now_ms + PAUSE_MS;
	if (copy(keep, now_ms))
		return;
	keep->work.data = keep;
	keep->busy = uv_queue_work(loop, &keep->work, on_work, on_done) == 0;
	if (!keep->busy) {
		keep->reputation->changed = true;
		reputation_fini(&keep->copy);
	}
}

void keep_stop(struct keep *keep, uv_loop_t *loop, uint64_t now_ms)
{
	while (keep->busy)
		uv_run(loop, UV_RUN_ONCE);
	if (!*keep->path || !keep->reputation->changed || copy(keep, now_ms))
		return;
	note(keep, save(keep));
	reputation_fini(&keep->copy);
}
