/*
 * The log: logfmt on stderr, one write a line. Any thread.
 *
 *	log_info("joined", "id=%s index=%u", text, index);
 *
 * prints ts=… level=info msg=joined id=… index=…, with quotes where a value needs them. Never
 *waits: lines that find no room are counted, and the next one that does says so.
 */
#ifndef VIADUCT_LOG_H
#define VIADUCT_LOG_H

enum log_level {
	LOG_DEBUG,
	LOG_INFO,
	LOG_WARNING,
	LOG_ERROR,
};

/* Lines below this level are not written. */
void log_level_set(enum log_level level);

/*
 * Writes a line. `format` is key=%conversion, with spaces between; conversions are d, u, ld, lu, zu
 * and s. Values are escaped, so they may come from anywhere. A line too long is cut.
 */
void log_write(enum log_level level, const char *message, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Writes a line of `text`, which is logfmt already. */
void log_text(enum log_level level, const char *text);

#define log_debug(...)   log_write(LOG_DEBUG, __VA_ARGS__)
#define log_info(...)    log_write(LOG_INFO, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, __VA_ARGS__)
#define log_error(...)   log_write(LOG_ERROR, __VA_ARGS__)

#endif
