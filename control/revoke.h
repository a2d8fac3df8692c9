/*
 * What an operator says of peers: revoke them, or let them come back. That holds at once; the file
 * that it is kept in is written by libuv's threads, so that a slow disk makes nobody wait but who
 * has said so. Control thread.
 */
#ifndef VIADUCT_REVOKE_H
#define VIADUCT_REVOKE_H

#include <jansson.h>
#include <urcu/list.h>
#include <uv.h>

#include "member.h"
#include "trust.h"

struct revoke {
	struct trust *trust;
	struct members *members;
	uv_loop_t *loop;
	struct cds_list_head asked;   // who waits for the next writing, and
	struct cds_list_head waiting; // for this one
	uv_work_t work;
	char path[CONFIG_PATH_MAX]; // being written
	struct trust_set copy;      // to it
	int result;
};

void revoke_start(struct revoke *revoke, struct trust *trust, struct members *members,
		  uv_loop_t *loop);

/* Waits for the disk. Nobody may wait for an answer any more. */
void revoke_stop(struct revoke *revoke);

/* Hears the answer, which it takes; NULL: no memory. */
typedef void revoke_answer_fn(void *arg, json_t *answer);

/*
 * Does what the admin socket's {"cmd":"revoke"} says: docs/operating.md. `peer` is an id, or a name
 * that somebody here has. Calls back at once, or when the disk has it or refuses it.
 */
void revoke_ask(struct revoke *revoke, const json_t *question, uint64_t now_ms,
		revoke_answer_fn *done, void *arg);

/* Nobody with this `arg` wants an answer any more. */
void revoke_forget(struct revoke *revoke, const void *arg);

/* Throws out whoever `trust` refuses. Returns how many have lost a session. */
unsigned int revoke_enforce(struct trust *trust, struct members *members, uint64_t now_ms);

#endif
