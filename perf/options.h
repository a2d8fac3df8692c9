/* Values of benchmarks' options. */
#ifndef VIADUCT_PERF_OPTIONS_H
#define VIADUCT_PERF_OPTIONS_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { EXIT_USAGE = 2 };

/* A whole number from `low` to `high`, as the value of --`option`, or the end of the program. */
static inline unsigned int option_number(const char *option, const char *text, unsigned int low,
					 unsigned int high)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (end == text || *end || value < low || value > high) {
		fprintf(stderr, "%s: --%s wants a whole number from %u to %u, not '%s'\n",
			program_invocation_short_name, option, low, high, text);
		exit(EXIT_USAGE);
	}
	return (unsigned int)value;
}

#endif
