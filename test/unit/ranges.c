/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Ranges with tags, against an array with an element for each address.
 */
#include "base/ranges.h"

#include <errno.h>

#include "base/mem.h"
#include "test.h"

static void check_sane(const struct pg_ranges *r)
{
	for (uint32_t i = 0; i < r->nr; i++) {
		CHECK(r->range[i].start < r->range[i].end);
		if (!i)
			continue;
		CHECK(r->range[i - 1].end <= r->range[i].start);
		/* Neighbours with the same tag are one. */
		CHECK(r->range[i - 1].end < r->range[i].start ||
		      r->range[i - 1].tag != r->range[i].tag);
	}
}

TEST(an_empty_set_has_nothing)
{
	struct pg_ranges r = {0};
	uintptr_t start = 5, stop;

	CHECK_EQ(pg_ranges_find(&r, 0), 0);
	CHECK(pg_ranges_gap(&r, &start, &stop, 10));
	CHECK_EQ(start, 5);
	CHECK_EQ(stop, 10);
	CHECK(!pg_ranges_gap(&r, &stop, &start, 10));
	pg_ranges_clear(&r, 0, 100);
	CHECK_EQ(pg_ranges_set(&r, 5, 5, 1), 0); /* nothing to set */
	CHECK_EQ(pg_ranges_set(&r, 5, 6, 1), -ENOSPC);
	pg_mem_fail_nth(1);
	CHECK_EQ(pg_ranges_init(&r, 10), -ENOMEM);
	CHECK_EQ(pg_ranges_set(&r, 5, 6, 1), -ENOSPC);
	pg_ranges_fini(&r);
}

TEST(neighbours_join_and_what_is_set_last_counts)
{
	struct pg_ranges r;

	CHECK_EQ(pg_ranges_init(&r, 10), 0);
	CHECK_EQ(pg_ranges_set(&r, 10, 20, 1), 0);
	CHECK_EQ(pg_ranges_set(&r, 30, 40, 1), 0);
	CHECK_EQ(pg_ranges_set(&r, 20, 30, 1), 0);
	CHECK_EQ(r.nr, 1);
	CHECK_EQ(r.range[0].start, 10);
	CHECK_EQ(r.range[0].end, 40);
	CHECK_EQ(pg_ranges_set(&r, 20, 30, 2), 0);
	CHECK_EQ(r.nr, 3);
	CHECK_EQ(r.range[1].tag, 2);
	CHECK_EQ(pg_ranges_set(&r, 0, 100, 3), 0);
	CHECK_EQ(r.nr, 1);
	pg_ranges_clear(&r, 0, 100);
	CHECK_EQ(r.nr, 0);
	pg_ranges_fini(&r);
}

TEST(a_full_set_changes_nothing_that_needs_room)
{
	struct pg_ranges r;

	CHECK_EQ(pg_ranges_init(&r, 3), 0);
	for (uintptr_t i = 0; i < 3; i++)
		CHECK_EQ(pg_ranges_set(&r, i * 10, i * 10 + 5, i), 0);
	CHECK_EQ(pg_ranges_set(&r, 30, 35, 9), -ENOSPC);
	CHECK_EQ(pg_ranges_set(&r, 1, 2, 9), -ENOSPC);
	CHECK_EQ(r.nr, 3);
	pg_ranges_clear(&r, 11, 12); /* would have to split: it stays */
	CHECK_EQ(r.nr, 3);
	CHECK_EQ(r.range[1].start, 10);
	CHECK_EQ(r.range[1].end, 15);
	pg_ranges_clear(&r, 10, 12);
	CHECK_EQ(r.range[1].start, 12);
	CHECK_EQ(pg_ranges_set(&r, 5, 30, 0), 0);
	CHECK_EQ(r.nr, 1);
	pg_ranges_fini(&r);
}

#define SIZE 200u

static size_t model[SIZE]; /* tag + 1, or 0 */

static void check_same(const struct pg_ranges *r)
{
	check_sane(r);
	for (uintptr_t a = 0; a < SIZE; a++) {
		uint32_t i = pg_ranges_find(r, a);
		bool in = i < r->nr && r->range[i].start <= a;

		CHECK_EQ(in ? r->range[i].tag + 1 : 0, model[a]);
		CHECK(i == 0 || r->range[i - 1].end <= a);
	}
}

static void check_gap(const struct pg_ranges *r, uintptr_t start, uintptr_t end)
{
	uintptr_t at = start, stop = 0, want = start, want_stop;
	bool any = pg_ranges_gap(r, &at, &stop, end);

	while (want < end && model[want])
		want++;
	CHECK_EQ(any, want < end);
	if (!any)
		return;
	for (want_stop = want; want_stop < end && !model[want_stop];)
		want_stop++;
	CHECK_EQ(at, want);
	CHECK_EQ(stop, want_stop);
}

TEST(random_changes_against_an_array)
{
	uint64_t seed = test_seed();
	struct pg_ranges r;

	CHECK_EQ(pg_ranges_init(&r, SIZE), 0);
	memset(model, 0, sizeof(model));
	for (int i = 0; i < 20000; i++) {
		uintptr_t start = test_random(&seed) % SIZE;
		uintptr_t end = start + test_random(&seed) % 30;
		size_t tag = test_random(&seed) % 3;
		bool clear = test_random(&seed) % 2;

		if (end > SIZE)
			end = SIZE;
		if (clear)
			pg_ranges_clear(&r, start, end);
		else
			CHECK_EQ(pg_ranges_set(&r, start, end, tag), 0);
		for (uintptr_t a = start; a < end; a++)
			model[a] = clear ? 0 : tag + 1;
		if (i % 8 == 0)
			check_same(&r);
		start = test_random(&seed) % SIZE;
		check_gap(&r, start,
			  start + test_random(&seed) % 50 < SIZE ? start
								 : SIZE);
		check_gap(&r, start, SIZE);
	}
	pg_ranges_fini(&r);
}

TEST_MAIN()
