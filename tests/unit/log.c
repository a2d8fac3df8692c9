#include "test.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

static char text[65536];

/* Standard error goes into a pipe while `write_lines` runs, and from there into `text`. */
static void capture(void (*write_lines)(void))
{
	int pipes[2], before = dup(STDERR_FILENO);
	ssize_t length;

	assert_int_equal(pipe(pipes), 0);
	dup2(pipes[1], STDERR_FILENO);
	close(pipes[1]);
	write_lines();
	dup2(before, STDERR_FILENO); // the last writer
	close(before);
	length = read(pipes[0], text, sizeof(text) - 1);
	close(pipes[0]);
	assert_true(length >= 0);
	text[length] = '\0';
}

/* The rest of a line behind its time, which must look like one. */
static const char *behind_time(const char *line)
{
	static const char like[] = "ts=dddd-dd-ddTdd:dd:dd.dddZ ";

	for (size_t i = 0; i < sizeof(like) - 1; i++) {
		if (like[i] == 'd')
			assert_in_range(line[i], '0', '9');
		else
			assert_int_equal(line[i], like[i]);
	}
	return line + sizeof(like) - 1;
}

static void write_values(void)
{
	log_info("two words", "d=%d u=%u ld=%ld lu=%lu zu=%zu s=%s", INT_MIN, UINT_MAX, LONG_MIN,
		 ULONG_MAX, (size_t)7, "plain-text_1.5:/");
}

static void write_hostile(void)
{
	log_error("x", "a=%s b=%s c=%s d=%s e=%s", "", "two words", "quo\"te\\", "k=v",
		  "line\nts=\x7f\x1b");
}

static void write_levels(void)
{
	log_level_set(LOG_WARNING);
	log_debug("no", "a=%d", 1);
	log_info("no", "a=%d", 1);
	log_text(LOG_INFO, "msg=no");
	log_warning("yes", "a=%d", 1);
	log_text(LOG_ERROR, "msg=\"as it is\"");
	log_level_set(LOG_INFO);
}

static void write_long(void)
{
	char value[5000];

	memset(value, 'x', sizeof(value) - 1);
	value[sizeof(value) - 1] = '\0';
	log_info("long", "a=%s b=%s", value, "never seen");
	value[0] = ' ';
	log_info("long", "a=%s b=%s", value, "x y");
}

static void test_values(void **state)
{
	capture(write_values);
	assert_string_equal(behind_time(text),
			    "level=info msg=\"two words\" d=-2147483648 u=4294967295 "
			    "ld=-9223372036854775808 lu=18446744073709551615 zu=7 "
			    "s=plain-text_1.5:/\n");
}

static void test_hostile(void **state)
{
	capture(write_hostile);
	assert_string_equal(behind_time(text),
			    "level=error msg=x a=\"\" b=\"two words\" c=\"quo\\\"te\\\\\" "
			    "d=\"k=v\" e=\"line\\u000ats=\\u007f\\u001b\"\n");
}

static void test_levels(void **state)
{
	const char *second;

	capture(write_levels);
	second = strchr(text, '\n') + 1;
	assert_memory_equal(behind_time(text), "level=warning msg=yes a=1\n", 26);
	assert_string_equal(behind_time(second), "level=error msg=\"as it is\"\n");
}

static void test_long(void **state)
{
	const char *second;

	capture(write_long);
	second = strchr(text, '\n') + 1;
	assert_int_equal(second - text, 2048);
	assert_int_equal(strlen(second), 2048);
	assert_int_equal(second[2047], '\n');
}

static unsigned int count(const char *what)
{
	unsigned int found = 0;

	for (const char *at = text; (at = strstr(at, what)); at++)
		found++;
	return found;
}

static void write_much(void)
{
	for (int i = 0; i < 200; i++)
		write_long();
}

/* Who doesn't read what goes into a pipe holds up nobody, and sees how much he has missed. */
static void test_nobody_reads(void **state)
{
	int pipes[2], before = dup(STDERR_FILENO);
	unsigned int got, lost;
	ssize_t length;

	assert_int_equal(pipe(pipes), 0);
	dup2(pipes[1], STDERR_FILENO);
	write_much();
	length = read(pipes[0], text, sizeof(text) - 1);
	text[length > 0 ? length : 0] = '\0';
	got = count("msg=long");
	log_info("again", "a=%d", 1);
	dup2(before, STDERR_FILENO);
	close(before);
	close(pipes[1]);
	length = read(pipes[0], text, sizeof(text) - 1);
	text[length > 0 ? length : 0] = '\0';
	close(pipes[0]);
	assert_int_equal(
		sscanf(behind_time(text), "level=warning msg=\"log lines lost\" count=%u", &lost),
		1);
	assert_int_equal(got + lost, 400);
	assert_int_equal(count("msg=again a=1\n"), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values),       cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_levels),       cmocka_unit_test(test_long),
		cmocka_unit_test(test_nobody_reads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
