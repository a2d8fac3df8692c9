/*
 * Has the keys of tickets rotated, and written by libuv's threads, so that a slow disk makes nobody
 * wait. Control thread.
 */
#ifndef VIADUCT_TICKET_FILE_H
#define VIADUCT_TICKET_FILE_H

#include <uv.h>

#include "tickets.h"

struct ticket_file {
	struct tickets *tickets;
	uv_timer_t timer;
	uv_work_t work;
	struct ticket_key copy[2]; // being written
	bool busy;
	int result;
};

/* Returns 0 or a negative errno. */
int ticket_file_start(struct ticket_file *file, struct tickets *tickets, uv_loop_t *loop);

/* The loop must run on until nothing in it is left. */
void ticket_file_stop(struct ticket_file *file);

#endif
