#include "log.h"

#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct line {
	size_t length;
	char text[2048];
};

static enum log_level lowest = LOG_INFO;
static unsigned int lost; // lines that nobody was there to read (atomic)

void log_level_set(enum log_level level)
{
	lowest = level;
}

static void put(struct line *line, char c)
{
	// room for the newline
	if (line->length < sizeof(line->text) - 1)
		line->text[line->length++] = c;
}

static void put_text(struct line *line, const char *text)
{
	while (*text)
		put(line, *text++);
}

static bool is_plain(const char *value)
{
	for (const char *c = value; *c; c++) {
		if ((unsigned char)*c <= ' ' || *c == '"' || *c == '=' || *c == '\\' || *c == 0x7f)
			return false;
	}
	return *value;
}

/* A value with quotes around it, escaped as in JSON. */
static void put_quoted(struct line *line, const char *value)
{
	put(line, '"');
	for (; *value; value++) {
		unsigned char c = (unsigned char)*value;
		char escape[8];

		if (c == '"' || c == '\\') {
			put(line, '\\');
			put(line, *value);
		} else if (c < ' ' || c == 0x7f) {
			snprintf(escape, sizeof(escape), "\\u%04x", c);
			put_text(line, escape);
		} else {
			put(line, *value);
		}
	}
	put(line, '"');
}

static void put_value(struct line *line, const char *value)
{
	if (is_plain(value))
		put_text(line, value);
	else
		put_quoted(line, value);
}

static void begin(struct line *line, enum log_level level)
{
	static const char *const levels[] = {"debug", "info", "warning", "error"};
	struct timespec now;
	struct tm utc;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &utc);
	line->length = strftime(line->text, sizeof(line->text), "ts=%FT%T", &utc);
	line->length +=
		(size_t)snprintf(line->text + line->length, sizeof(line->text) - line->length,
				 ".%03ldZ level=%s ", now.tv_nsec / 1000000, levels[level]);
}

/* Returns whether there was room: a pipe that nobody reads must not hold us up. */
static bool end(struct line *line)
{
	struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};

	line->text[line->length++] = '\n';
	// if there is any, then for PIPE_BUF bytes; and nobody to tell if it fails
	return poll(&out, 1, 0) == 1 && write(STDERR_FILENO, line->text, line->length) != 0;
}

/* Writes it, after how many were not. */
static void finish(struct line *line)
{
	unsigned int missing = __atomic_exchange_n(&lost, 0, __ATOMIC_RELAXED);
	struct line note;

	if (missing) {
		begin(&note, LOG_WARNING);
		note.length +=
			(size_t)snprintf(note.text + note.length, sizeof(note.text) - note.length,
					 "msg=\"log lines lost\" count=%u", missing);
		if (end(&note))
			missing = 0;
	}
	if (!end(line))
		missing++;
	__atomic_fetch_add(&lost, missing, __ATOMIC_RELAXED);
}

void log_write(enum log_level level, const char *message, const char *format, ...)
{
	struct line line;
	char number[24];
	va_list values;

	if (level < lowest)
		return;
	begin(&line, level);
	put_text(&line, "msg=");
	put_value(&line, message);
	put(&line, ' ');
	va_start(values, format);
	for (; *format; format++) {
		if (*format != '%') {
			put(&line, *format);
			continue;
		}
		switch (*++format) {
		case 's':
			put_value(&line, va_arg(values, const char *));
			continue;
		case 'd':
			snprintf(number, sizeof(number), "%d", va_arg(values, int));
			break;
		case 'u':
			snprintf(number, sizeof(number), "%u", va_arg(values, unsigned int));
			break;
		case 'l':
			format++;
			snprintf(number, sizeof(number), *format == 'd' ? "%ld" : "%lu",
				 va_arg(values, unsigned long));
			break;
		default: // zu
			format++;
			snprintf(number, sizeof(number), "%zu", va_arg(values, size_t));
		}
		put_text(&line, number);
	}
	va_end(values);
	finish(&line);
}

void log_text(enum log_level level, const char *text)
{
	struct line line;

	if (level < lowest)
		return;
	begin(&line, level);
	put_text(&line, text);
	finish(&line);
}
