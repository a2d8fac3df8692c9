#include "ticket_file.h"

#include <openssl/crypto.h>
#include <string.h>
#include <time.h>

/* In a thread of libuv's. */
static void on_work(uv_work_t *work)
{
	struct ticket_file *file = work->data;

	file->result = tickets_write(file->tickets->path, file->copy);
}

static void on_done(uv_work_t *work, int status)
{
	struct ticket_file *file = work->data;

	OPENSSL_cleanse(file->copy, sizeof(file->copy));
	file->busy = false;
	tickets_written(file->tickets, status ? status : file->result);
}

static void on_timer(uv_timer_t *timer)
{
	struct ticket_file *file = timer->data;

	if (file->busy || !tickets_tick(file->tickets, time(NULL)))
		return;
	memcpy(file->copy, file->tickets->keys, sizeof(file->copy));
	file->work.data = file;
	file->busy = !uv_queue_work(timer->loop, &file->work, on_work, on_done);
}

int ticket_file_start(struct ticket_file *file, struct tickets *tickets, uv_loop_t *loop)
{
	file->tickets = tickets;
	uv_timer_init(loop, &file->timer);
	file->timer.data = file;
	return uv_timer_start(&file->timer, on_timer, 1000, 1000);
}

void ticket_file_stop(struct ticket_file *file)
{
	uv_close((uv_handle_t *)&file->timer, NULL);
}
