/*
 * The workers' ledgers as JSON, for the admin socket. Control thread.
 */
#ifndef VIADUCT_LEDGER_H
#define VIADUCT_LEDGER_H

#include <jansson.h>

#include "counters.h"

/* Both ledgers, and those of each class as `classes`. A new reference. */
json_t *ledger_describe(const struct counters *counters);

#endif
