/*
 * Cryptography by an OpenSSL engine or provider that the configuration names. Before any key is
 * read; control thread.
 */
#ifndef VIADUCT_OFFLOAD_H
#define VIADUCT_OFFLOAD_H

#include "config.h"

/*
 * Loads them, for the life of the process. One that is missing is a warning, unless it is required.
 * Returns 0, or -ENOENT with one sentence in `error` (CONFIG_ERROR_MAX bytes).
 */
int offload_load(const struct config_crypto *config, char *error);

/* Whether handshakes may be paused by what was loaded. */
bool offload_pauses(void);

/* Whether an engine was loaded. */
bool offload_is_engine(void);

#endif
