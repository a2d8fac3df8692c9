/*
 * From messages to records: where the gathered messages go, whether they may, and into which record
 * each is packed. The worker's.
 */
#ifndef VIADUCT_WALK_H
#define VIADUCT_WALK_H

#include "forward.h"

/* Whether messages of this kind and class go from peer to peer. */
static inline bool walk_forwards(uint8_t kind, uint8_t class)
{
	static const bool forwarded[UINT8_MAX + 1] = {
		[WIRE_SEND] = true, [WIRE_REQUEST] = true, [WIRE_RESPONSE] = true,
		[WIRE_PING] = true, [WIRE_PONG] = true,
	};

	return forwarded[kind] && class != WIRE_CONTROL;
}

/* Takes all gathered messages through the stages, stage by stage, and sends what becomes of them.
 */
void walk_all(struct forward *forward, uint64_t now_ms);

#endif
