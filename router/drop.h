/*
 * What goes no further: it is counted, and who should know is told. A message's sender gets an
 * error; the control thread hears of those who send bad records. The worker's.
 */
#ifndef VIADUCT_DROP_H
#define VIADUCT_DROP_H

#include "forward.h"

/* Drops a record, and gives its buffer back. */
void drop_record(struct forward *forward, struct forward_input *input, enum drop_record reason);

/*
 * The same of a record that names a session, and was not opened. Anybody can send such; so only
 * what comes from the session's address is held against its peer.
 */
void drop_claim(struct forward *forward, const struct forward_record *record,
		enum drop_record reason, enum session_mark mark);

/* Drops a message, and tells its sender. */
void drop_message(struct forward *forward, const struct forward_message *message,
		  enum drop_message reason, uint64_t now_ms);

/* Tells a message's sender why it went no further, if it is one that wants to know. */
void drop_tell(struct forward *forward, const struct forward_message *message,
	       enum drop_message reason, uint64_t now_ms);

#endif
