/*
 * Taking apart what was received with several records in a datagram: docs/protocol.md section 4.
 *
 * It is done at the entrance, so that all that follows sees records as if each had come alone. Each
 * is copied to a buffer of its own, in which it can be sealed again and sent, behind the headers of
 * its frame: two hundred bytes, where a packet more would have cost a kernel several times that.
 */
#ifndef VIADUCT_UNBUNDLE_H
#define VIADUCT_UNBUNDLE_H

#include "forward.h"

/*
 * Takes up to `n` records out of a bundle, from `*at` (at first WIRE_BUNDLE_HEADER) on, into
 * buffers of the core's reserve. Returns how many; those for which there is no buffer are dropped.
 * With the last record, or behind it what is none, the bundle's buffer is given back and set to
 * NULL. The rules are forward_burst()'s.
 */
unsigned int unbundle(struct forward *forward, struct forward_input *bundle, size_t *at,
		      struct forward_input *records, unsigned int n, uint64_t now_ms);

#endif
