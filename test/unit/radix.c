/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * From an index to a value, for one or for 512.
 */
#include <errno.h>

#include "base/mem.h"
#include "base/radix.h"
#include "test.h"

#define V(n) ((uint64_t)(n) << 1 | 1)
#define LAST (((uint64_t)1 << PG_RADIX_INDEX_BITS) - 1)

static struct pg_radix_pool pool;
static struct pg_radix tree;

static void tree_open(void)
{
	memset(&pool, 0, sizeof(pool));
	pg_radix_init(&tree, &pool);
}

/* Empty, it has no nodes. */
static void tree_close(void)
{
	CHECK_EQ(pool.nr_used, 0);
	CHECK_EQ(tree.root, 0);
	pg_radix_pool_fini(&pool);
}

static uint64_t get(uint64_t index)
{
	unsigned int order = 0;

	return pg_radix_get(&tree, index, &order);
}

static const uint64_t places[] = {0,	      1,	511,	512,
				  513,	      262143,	262144, 1ull << 27,
				  1ull << 36, LAST - 1, LAST};
#define NR_PLACES (sizeof(places) / sizeof(places[0]))

TEST(what_is_set_is_found_until_it_is_cleared)
{
	tree_open();
	for (size_t i = 0; i < NR_PLACES; i++) {
		CHECK_EQ(get(places[i]), 0);
		CHECK_EQ(pg_radix_set(&tree, places[i], 0, V(i)), 0);
	}
	for (size_t i = 0; i < NR_PLACES; i++)
		CHECK_EQ(get(places[i]), V(i));
	CHECK_EQ(get(2), 0);
	CHECK_EQ(pg_radix_set(&tree, 512, 0, V(99)), 0);
	CHECK_EQ(get(512), V(99));
	pg_radix_clear(&tree, 2);
	pg_radix_clear(&tree, 1ull << 30);
	for (size_t i = NR_PLACES; i-- > 0;) {
		pg_radix_clear(&tree, places[i]);
		CHECK_EQ(get(places[i]), 0);
	}
	pg_radix_clear(&tree, 0);
	tree_close();
}

TEST(a_tree_grows_from_either_end)
{
	tree_open();
	CHECK_EQ(pg_radix_set(&tree, LAST, 0, V(1)), 0);
	CHECK_EQ(pg_radix_set(&tree, 0, 0, V(2)), 0);
	CHECK_EQ(get(LAST), V(1));
	pg_radix_clear(&tree, LAST);
	CHECK_EQ(get(0), V(2));
	pg_radix_clear(&tree, 0);
	tree_close();
}

TEST(R141_there_is_no_index_behind_the_last)
{
	tree_open();
	for (uint64_t i = LAST + 1; i; i <<= 1) {
		CHECK_EQ(pg_radix_set(&tree, i, 0, V(1)), -ERANGE);
		CHECK_EQ(pg_radix_set(&tree, i, 9, V(1)), -ERANGE);
		CHECK_EQ(get(i), 0);
		CHECK_EQ(pool.nr_used, 0);
	}
	/* Nor is it mistaken for one that has a value. */
	CHECK_EQ(pg_radix_set(&tree, 0, 0, V(1)), 0);
	CHECK_EQ(pg_radix_set(&tree, LAST, 0, V(2)), 0);
	CHECK_EQ(pg_radix_set(&tree, LAST + 1, 0, V(3)), -ERANGE);
	CHECK_EQ(get(LAST + 1), 0);
	pg_radix_clear(&tree, LAST + 1);
	CHECK_EQ(get(0), V(1));
	pg_radix_clear(&tree, 0);
	pg_radix_clear(&tree, LAST);
	tree_close();
}

TEST(a_value_for_512_excludes_values_for_one)
{
	unsigned int order = 7;

	tree_open();
	CHECK_EQ(pg_radix_set(&tree, 1024, 9, V(1)), 0);
	CHECK_EQ(pg_radix_get(&tree, 1024 + 300, &order), V(1));
	CHECK_EQ(order, 9);
	CHECK_EQ(pg_radix_set(&tree, 1024 + 5, 0, V(2)), -EEXIST);
	CHECK_EQ(pg_radix_set(&tree, 1024, 9, V(3)), 0);
	CHECK_EQ(get(1535), V(3));
	CHECK_EQ(get(1536), 0);
	CHECK_EQ(pg_radix_set(&tree, 3, 0, V(4)), 0);
	CHECK_EQ(pg_radix_set(&tree, 0, 9, V(5)), -EEXIST);
	pg_radix_clear(&tree, 3);
	CHECK_EQ(pg_radix_set(&tree, 0, 9, V(5)), 0);
	pg_radix_clear(&tree, 511);
	CHECK_EQ(get(0), 0);
	pg_radix_clear(&tree, 1030);
	tree_close();
}

TEST(values_are_found_in_order)
{
	uint64_t at = 0;
	unsigned int order = 0;

	tree_open();
	CHECK_EQ(pg_radix_next(&tree, &at, LAST, &order), 0);
	CHECK_EQ(pg_radix_set(&tree, 2048, 9, V(50)), 0);
	for (size_t i = 0; i < NR_PLACES; i++)
		CHECK_EQ(pg_radix_set(&tree, places[i], 0, V(i)), 0);
	for (size_t i = 0; i < NR_PLACES; i++) {
		if (i == 5) {
			/* It begins before the place that is asked about. */
			at = 2100;
			CHECK_EQ(pg_radix_next(&tree, &at, 2100, &order),
				 V(50));
			CHECK_EQ(at, 2048);
			CHECK_EQ(order, 9);
			at += 512;
		}
		CHECK_EQ(pg_radix_next(&tree, &at, LAST, &order), V(i));
		CHECK_EQ(at, places[i]);
		CHECK_EQ(order, 0);
		at++;
	}
	at = 2;
	CHECK_EQ(pg_radix_next(&tree, &at, 510, &order), 0);
	CHECK_EQ(at, 2);
	for (size_t i = 0; i < NR_PLACES; i++)
		pg_radix_clear(&tree, places[i]);
	pg_radix_clear(&tree, 2048);
	tree_close();
}

TEST(without_memory_nothing_changes)
{
	tree_open();
	pg_mem_fail_nth(1);
	CHECK_EQ(pg_radix_set(&tree, 5, 0, V(1)), -ENOMEM);
	CHECK_EQ(get(5), 0);
	CHECK_EQ(pg_radix_set(&tree, 5, 0, V(1)), 0);
	/* The chunk has so many nodes left, and there is no other: a node
	 * begins with the link to the next free one. */
	CHECK_EQ(pg_radix_set(&tree, LAST, 0, V(2)), 0);
	pg_radix_clear(&tree, LAST);
	pg_radix_clear(&tree, 5);
	CHECK_EQ(pg_radix_set(&tree, 5, 0, V(1)), 0);
	pool.nr_fresh = 0;
	for (uint32_t left = 0; left < 9; left++) {
		struct pg_radix_node **at = &pool.free, *rest;
		int ret;

		for (uint32_t k = 0; k < left && *at; k++)
			at = (struct pg_radix_node **)*at;
		rest = *at;
		*at = NULL;
		pg_mem_fail_nth(1);
		ret = pg_radix_set(&tree, LAST, 0, V(2));
		pg_mem_fail_nth(0);
		/* It grew as far as it could, and keeps that. */
		CHECK_EQ(ret, left < 4 ? -ENOMEM : 0);
		CHECK_EQ(get(LAST), ret ? 0 : V(2));
		CHECK_EQ(get(5), V(1));
		if (!ret)
			pg_radix_clear(&tree, LAST);
		for (at = &pool.free; *at;)
			at = (struct pg_radix_node **)*at;
		*at = rest;
	}
	pg_radix_clear(&tree, 5);
	tree_close();
}

/* ---- Against an array ---- */

#define NR 4096u

TEST(a_tree_does_what_an_array_does)
{
	static uint64_t value[NR], large[NR / 512];
	uint64_t seed = test_seed();

	tree_open();
	memset(value, 0, sizeof(value));
	memset(large, 0, sizeof(large));
	for (int step = 0; step < 200000; step++) {
		uint64_t i = test_random(&seed) % NR, v = V(step), r = i / 512;
		bool any = false;
		int ret;

		switch (test_random(&seed) % 8) {
		case 0:
			for (uint64_t k = r * 512; k < r * 512 + 512; k++)
				any = any || value[k];
			ret = pg_radix_set(&tree, r * 512, 9, v);
			CHECK_EQ(ret, any ? -EEXIST : 0);
			if (!ret)
				large[r] = v;
			break;
		case 1:
		case 2:
			ret = pg_radix_set(&tree, i, 0, v);
			CHECK_EQ(ret, large[r] ? -EEXIST : 0);
			if (!ret)
				value[i] = v;
			break;
		default:
			if (step % 20000 > 10000)
				i = r * 512 + i % 4;
			pg_radix_clear(&tree, i);
			if (large[r])
				large[r] = 0;
			else
				value[i] = 0;
		}
		i = test_random(&seed) % NR;
		CHECK_EQ(get(i), large[i / 512] ? large[i / 512] : value[i]);
	}
	for (uint64_t i = 0; i < NR; i++)
		pg_radix_clear(&tree, i);
	tree_close();
}

TEST_MAIN()
