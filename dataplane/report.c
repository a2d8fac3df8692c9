#include "report.h"

#include <bpf/libbpf.h>
#include <errno.h>
#include <rte_log.h>
#include <stdarg.h>
#include <stdio.h>
#include <xdp/libxdp.h>

enum { TEXT_MAX = 512 };

static dataplane_log *sink;
static FILE *stream;
static _Thread_local char last[128];

void report(enum report_level level, const char *format, ...)
{
	char line[TEXT_MAX];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	sink(level, line);
}

void report_forget(void)
{
	last[0] = 0;
}

const char *report_last(void)
{
	return last;
}

// One line of a library's, without what would break logfmt.
static void chatter(const char *source, bool complaint, char *text)
{
	size_t length = strcspn(text, "\r\n");

	text[length] = 0;
	for (char *c = text; *c; c++) {
		if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ')
			*c = '\'';
	}
	if (!length)
		return;
	if (complaint)
		snprintf(last, sizeof(last), "%.*s", (int)sizeof(last) - 1, text);
	report(REPORT_DEBUG, "msg=\"%s\" source=%s", text, source);
}

static int bpf_print(enum libbpf_print_level level, const char *format, va_list arguments)
{
	char text[TEXT_MAX];

	if (level == LIBBPF_DEBUG)
		return 0;
	vsnprintf(text, sizeof(text), format, arguments);
	chatter("libbpf", level == LIBBPF_WARN, text);
	return 0;
}

static int xdp_print(enum libxdp_print_level level, const char *format, va_list arguments)
{
	char text[TEXT_MAX];

	if (level == LIBXDP_DEBUG)
		return 0;
	vsnprintf(text, sizeof(text), format, arguments);
	chatter("libxdp", level == LIBXDP_WARN, text);
	return 0;
}

// DPDK flushes after each message.
static ssize_t dpdk_write(void *cookie, const char *data, size_t size)
{
	char text[TEXT_MAX];

	snprintf(text, sizeof(text), "%.*s", (int)size, data);
	chatter("dpdk", rte_log_cur_msg_loglevel() <= (int)RTE_LOG_ERR, text);
	return (ssize_t)size;
}

int report_init(dataplane_log *log)
{
	sink = log;
	stream = fopencookie(NULL, "w", (cookie_io_functions_t){.write = dpdk_write});
	if (!stream)
		return -ENOMEM;
	rte_openlog_stream(stream);
	libbpf_set_print(bpf_print);
	libxdp_set_print(xdp_print);
	return 0;
}

void report_fini(void)
{
	rte_openlog_stream(NULL);
	fclose(stream);
}
