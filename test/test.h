/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * test.h - a test program in cmocka with the names of this house.
 *
 *   TEST(R12_a_dying_map_hands_out_no_page) { CHECK_EQ(f(), -ENODEV); }
 *   TEST_MAIN()
 *
 * Tests register themselves in the order of the file. PGMAP_TEST=<name> runs
 * those whose name contains it. SKIP(why) ends a test as skipped.
 * PGMAP_TEST_ALLOC=1 runs each test again and again, with the 1st, 2nd, 3rd ...
 * allocation of it failing: see test/alloc.h.
 */
#ifndef TEST_H
#define TEST_H

/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEST_MAX 400

__attribute__((unused)) static struct CMUnitTest test_list[TEST_MAX];
__attribute__((unused)) static size_t test_nr;

#define TEST(test_name)                                                        \
	static void test_name(void **state);                                   \
	__attribute__((constructor)) static void register_##test_name(void)    \
	{                                                                      \
		test_list[test_nr++] = (struct CMUnitTest){                    \
			#test_name, test_name, NULL, NULL, NULL};              \
	}                                                                      \
	static void test_name(__attribute__((unused)) void **state)

#define CHECK(cond) assert_true(cond)
#define CHECK_EQ(a, b) assert_int_equal((intmax_t)(a), (intmax_t)(b))
#define SKIP(why)                                                              \
	do {                                                                   \
		print_message("SKIP: %s\n", why);                              \
		skip();                                                        \
	} while (0)

#include "alloc.h"

#define TEST_MAIN()                                                            \
	int main(void)                                                         \
	{                                                                      \
		const char *only = getenv("PGMAP_TEST");                       \
		size_t n = 0;                                                  \
                                                                               \
		setvbuf(stdout, NULL, _IOLBF, 0);                              \
		for (size_t i = 0; i < test_nr; i++)                           \
			if (!only || strstr(test_list[i].name, only))          \
				test_list[n++] = test_list[i];                 \
		if (getenv("PGMAP_TEST_ALLOC"))                                \
			return test_alloc(test_list, n);                       \
		return _cmocka_run_group_tests(__FILE__, test_list, n, NULL,   \
					       NULL);                          \
	}

/** test_seed() - The seed of this run: PGMAP_SEED or one of the clock; it is
 * printed, so that a failure can be repeated. */
static inline uint64_t test_seed(void)
{
	const char *s = getenv("PGMAP_SEED");
	char *end = NULL;
	uint64_t seed = s ? strtoull(s, &end, 0)
			  : (uint64_t)__builtin_ia32_rdtsc() % 1000000007u;

	if (s && (end == s || *end)) {
		fprintf(stderr, "PGMAP_SEED=%s: not a number\n", s);
		exit(2);
	}
	printf("# PGMAP_SEED=%ju\n", (uintmax_t)seed);
	return seed | 1;
}

/** test_random() - The next number of a run; xorshift64*. */
static inline uint64_t test_random(uint64_t *seed)
{
	*seed ^= *seed >> 12;
	*seed ^= *seed << 25;
	*seed ^= *seed >> 27;
	return *seed * 0x2545f4914f6cdd1dull;
}

#endif
