/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * opt.c - sizes and option lists, the good and above all the bad ones.
 */
#include <errno.h>

#include "base/opt.h"
#include "test.h"

static uint64_t size, level;
static char path[16], error[160];

static const struct pg_opt table[] = {
	{.name = "size", .kind = PG_OPT_SIZE, .value = &size, .min = 4096},
	{.name = "level", .kind = PG_OPT_UINT, .value = &level, .max = 12},
	{.name = "path",
	 .kind = PG_OPT_STRING,
	 .value = path,
	 .len = sizeof(path)},
	{0},
};

static int parse(const char *text)
{
	size = level = 0;
	memset(path, 0, sizeof(path));
	memset(error, 0, sizeof(error));
	return pg_opt_parse(text, table, error, sizeof(error));
}

/* Refused, with one line that contains @word. */
static void check_refused(const char *text, const char *word)
{
	CHECK_EQ(parse(text), -EINVAL);
	if (!strstr(error, word))
		fail_msg("\"%s\": \"%s\" lacks \"%s\"", text, error, word);
	CHECK(!strchr(error, '\n'));
}

static uint64_t size_of(const char *text)
{
	uint64_t v = 12345;

	CHECK_EQ(pg_opt_size(text, &v), 0);
	return v;
}

static int size_error(const char *text)
{
	uint64_t v;

	return pg_opt_size(text, &v);
}

TEST(a_size_is_digits_with_a_binary_suffix)
{
	CHECK_EQ(size_of("0"), 0);
	CHECK_EQ(size_of("4096"), 4096);
	CHECK_EQ(size_of("64M"), 64ll << 20);
	CHECK_EQ(size_of("64m"), 64ll << 20);
	CHECK_EQ(size_of("2MiB"), 2ll << 20);
	CHECK_EQ(size_of("3K"), 3072);
	CHECK_EQ(size_of("3T"), 3ll << 40);
	CHECK_EQ(size_of("000001G"), 1ll << 30);
	CHECK(size_of("18446744073709551615") == UINT64_MAX);
	CHECK(size_of("16777215T") == 16777215ull << 40);
}

TEST(a_size_may_have_a_fraction_of_a_unit)
{
	CHECK_EQ(size_of("1.5G"), 3ll << 29);
	CHECK_EQ(size_of("0.25K"), 256);
	CHECK_EQ(size_of("1.0GiB"), 1ll << 30);
	CHECK_EQ(size_of("0.00000000000000000001T"), 0);
	CHECK(size_of("16777215.99999999999T") > 16777215ull << 40);
}

TEST(what_is_not_a_size_is_refused)
{
	static const char *const bad[] = {
		"",
		" 1",
		"1 ",
		"-1",
		"+1",
		"1Q",
		"M",
		"1.",
		".5M",
		"1.M",
		"1.5",
		"1.5.5G",
		"1KB",
		"1Mi",
		"1MiBx",
		"0x10",
		"1e6",
		"1,5G",
		"64MM",
		"64M ",
		"1.5Q",
		"99999999999999999999999Q",
		"1.000000000000000000001G",
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (size_error(bad[i]) != -EINVAL)
			fail_msg("\"%s\" gives %d", bad[i], size_error(bad[i]));
}

TEST(a_size_beyond_64_bits_is_out_of_range)
{
	CHECK_EQ(size_error("99999999T"), -ERANGE);
	CHECK_EQ(size_error("16777216T"), -ERANGE);
	CHECK_EQ(size_error("18446744073709551616"), -ERANGE);
	CHECK_EQ(size_error("99999999999999999999999"), -ERANGE);
	CHECK_EQ(size_error("18014398509481984.5K"), -ERANGE);
}

TEST(options_come_by_name_in_any_order)
{
	CHECK_EQ(parse("path=/tmp/a=b,size=1M,level=3"), 0);
	CHECK_EQ(size, 1 << 20);
	CHECK_EQ(level, 3);
	CHECK(!strcmp(path, "/tmp/a=b"));
}

TEST(no_text_leaves_the_defaults)
{
	CHECK_EQ(parse(""), 0);
	CHECK_EQ(size, 0);
}

TEST(a_first_item_without_a_name_is_the_first_option)
{
	CHECK_EQ(parse("8G"), 0);
	CHECK_EQ(size, 8ll << 30);
	CHECK_EQ(parse("8G,level=2"), 0);
	CHECK_EQ(level, 2);
	check_refused("level=2,8G", "unknown option \"8G\"");
	check_refused("8G,size=8G", "twice");
}

TEST(an_unknown_option_is_named_with_those_that_exist)
{
	check_refused("colour=red", "unknown option \"colour\", known are "
				    "size, level, path");
	check_refused("siz=1M", "unknown");
	check_refused("sizes=1M", "unknown");
	check_refused("=1M", "unknown");
	check_refused("level=1,,path=x", "unknown");
	check_refused("level=1,", "unknown");
	check_refused(",", "unknown");
	check_refused(",level=1", "unknown");
}

TEST(a_missing_value_is_refused)
{
	check_refused("size=", "option size needs a value: size=a size such");
	check_refused("level=1,size", "option size needs a value");
	check_refused("level=1,path=", "option path needs a value");
}

TEST(an_option_given_twice_is_refused)
{
	check_refused("size=1M,size=1M", "option size is given twice");
	check_refused("path=a,level=1,path=b", "option path is given twice");
}

TEST(a_value_that_is_no_number_is_shown_with_what_is_wanted)
{
	check_refused("1Q", "option size: \"1Q\" is not valid, give a size");
	check_refused("level=three", "give a whole number");
	check_refused("level=-1", "\"-1\" is not valid");
	check_refused("level=1K", "not valid");
}

TEST(a_number_outside_its_limits_is_refused)
{
	check_refused("4095", "out of range, give 4096 to");
	check_refused("level=13", "13 is out of range, give 0 to 12");
	check_refused("level=99999999999999999999", "out of range");
	check_refused("99999999T", "out of range");
	CHECK_EQ(parse("level=12"), 0);
	CHECK_EQ(parse("4096"), 0);
}

TEST(a_text_that_does_not_fit_is_refused)
{
	static char long_text[6000] = "path=";

	CHECK_EQ(parse("path=123456789012345"), 0);
	check_refused("path=1234567890123456", "at most 15 bytes");
	memset(long_text + 5, 'x', sizeof(long_text) - 6);
	check_refused(long_text, "too long");
	memset(long_text, 'x', sizeof(long_text) - 1);
	check_refused(long_text, "too long");
	memset(long_text, 'x', 4000);
	memcpy(long_text + 2000, "=1", 2);
	check_refused(long_text, "unknown option");
}

TEST(an_error_is_cut_to_the_room_there_is)
{
	char small[24];

	memset(small, 'Z', sizeof(small));
	CHECK_EQ(pg_opt_parse("colour=red", table, small, 10), -EINVAL);
	CHECK(!strcmp(small, "unknown o"));
	CHECK_EQ(small[10], 'Z');
	CHECK_EQ(pg_opt_parse("colour=red", table, small, 1), -EINVAL);
	CHECK_EQ(small[0], 0);
}

TEST(a_table_without_options_refuses_everything_but_nothing)
{
	static const struct pg_opt none[] = {{0}};

	CHECK_EQ(pg_opt_parse("", none, error, sizeof(error)), 0);
	CHECK_EQ(pg_opt_parse("x", none, error, sizeof(error)), -EINVAL);
	CHECK(strstr(error, "no options"));
}

TEST_MAIN()
