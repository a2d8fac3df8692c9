/*
 * What the dataplane has to say: through the log function of dataplane_start(). The chatter of
 * DPDK, libbpf and libxdp goes there too, at debug level, and its last complaint is kept for error
 * messages.
 *
 * Any thread, but workers that run have nothing to report.
 */
#ifndef VIADUCT_REPORT_H
#define VIADUCT_REPORT_H

#include "dataplane.h"

enum report_level {
	REPORT_DEBUG,
	REPORT_INFO,
	REPORT_WARNING,
	REPORT_ERROR,
};

/* Control thread, before anything else. Returns 0 or -ENOMEM. */
int report_init(dataplane_log *log);
void report_fini(void);

/* `format`: logfmt. Cut at about 500 characters. */
void report(enum report_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Forgets the last complaint. */
void report_forget(void);

/* What a library last complained about; "" if nothing. Control thread. */
const char *report_last(void);

#endif
