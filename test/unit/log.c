/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * log.c - formatting without libc against libc's, and where lines go.
 */
#include <limits.h>
#include <unistd.h>

#include "base/log.h"
#include "test.h"

static char got[1024];
static size_t got_len;
static int nr_lines;

static void sink(const char *line, size_t len)
{
	CHECK(len < sizeof(got));
	memcpy(got, line, len);
	got[len] = '\0';
	got_len = len;
	nr_lines++;
}

/* Both must write the same. */
#define CHECK_LIKE_LIBC(...)                                                   \
	do {                                                                   \
		char a_[128], b_[128];                                         \
		int n_ = snprintf(a_, sizeof(a_), __VA_ARGS__);                \
                                                                               \
		CHECK_EQ(pg_format(b_, sizeof(b_), __VA_ARGS__), n_);          \
		assert_string_equal(b_, a_);                                   \
	} while (0)

TEST(each_conversion_writes_what_printf_writes)
{
	CHECK_LIKE_LIBC("plain");
	CHECK_LIKE_LIBC("%s and %c, 100%%", "text", 'x');
	CHECK_LIKE_LIBC("%d %d %d %d", 0, -1, INT_MAX, INT_MIN);
	CHECK_LIKE_LIBC("%u %u %x %x", 0u, UINT_MAX, 0u, 0xdeadbeefu);
	CHECK_LIKE_LIBC("%ld %ld %ld", -1l, LONG_MAX, LONG_MIN);
	CHECK_LIKE_LIBC("%lu %lx %zu", ULONG_MAX, ULONG_MAX, SIZE_MAX);
	CHECK_LIKE_LIBC("%08x %016lx %02x", 0x1234u, 0x1234ul, 0x123u);
	CHECK_LIKE_LIBC("%p", (void *)&nr_lines);
	CHECK_LIKE_LIBC("%s", "");
}

TEST(what_does_not_fit_is_cut_and_ends_in_nul)
{
	char buf[8];

	memset(buf, 'Z', sizeof(buf));
	CHECK_EQ(pg_format(buf, 4, "%d", 123456), 3);
	assert_string_equal(buf, "123");
	CHECK_EQ(buf[4], 'Z');
	CHECK_EQ(pg_format(buf, 1, "abc"), 0);
	CHECK_EQ(buf[0], 0);
	buf[0] = 'Z';
	CHECK_EQ(pg_format(buf, 0, "abc"), 0);
	CHECK_EQ(buf[0], 'Z');
	CHECK_EQ(pg_format(buf, sizeof(buf), "1234567"), 7);
}

TEST(a_missing_string_is_no_crash)
{
	char buf[16];
	const char *volatile none = NULL;

	CHECK_EQ(pg_format(buf, sizeof(buf), "<%s>", none), 8);
	assert_string_equal(buf, "<(null)>");
}

TEST(a_line_has_a_name_and_one_newline)
{
	nr_lines = 0;
	pg_log_set(PG_LOG_DEBUG, 2, sink);
	pg_log(PG_LOG_INFO, "slot %d", 7);
	CHECK_EQ(nr_lines, 1);
	assert_string_equal(got, "pgmap: slot 7\n");
	CHECK_EQ(got_len, strlen(got));
}

TEST(only_the_wanted_levels_are_written)
{
	nr_lines = 0;
	pg_log_set(PG_LOG_WARN, 2, sink);
	pg_log(PG_LOG_INFO, "no");
	pg_log(PG_LOG_DEBUG, "no");
	CHECK_EQ(nr_lines, 0);
	pg_log(PG_LOG_WARN, "yes");
	pg_log(PG_LOG_ERROR, "yes");
	CHECK_EQ(nr_lines, 2);
}

TEST(a_long_line_is_cut_before_its_newline)
{
	char text[2000];

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	pg_log_set(PG_LOG_WARN, 2, sink);
	pg_log(PG_LOG_WARN, "%s", text);
	CHECK_EQ(got_len, 511);
	CHECK_EQ(got[got_len - 1], '\n');
	CHECK_EQ(got[got_len - 2], 'x');
}

TEST(without_a_sink_a_line_is_one_write_to_the_descriptor)
{
	char buf[64];
	int fds[2];

	CHECK_EQ(pipe(fds), 0);
	pg_log_set(PG_LOG_ERROR, fds[1], NULL);
	pg_log(PG_LOG_ERROR, "full: %s", "lz4");
	CHECK_EQ(read(fds[0], buf, sizeof(buf)), 17);
	CHECK(!memcmp(buf, "pgmap: full: lz4\n", 17));
	close(fds[0]);
	close(fds[1]);
}

TEST_MAIN()
