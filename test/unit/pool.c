/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Buffers: each knows which of its pages are there, and they are counted.
 */
#include "world.h"

#define NR 8u
#define PAGES 16u

static struct pg_pool pool;

static void pool_open(uint32_t keep)
{
	CHECK_EQ(pg_soft_create(1, &w.mmu), 0);
	memset(&pool, 0, sizeof(pool));
	CHECK_EQ(pg_pool_init(&pool, w.mmu, NR, PAGES, (uint64_t)keep * PAGES,
			      keep),
		 0);
}

static void pool_close(void)
{
	pg_pool_fini(&pool);
	pg_soft_destroy(w.mmu);
}

static uint64_t filled(void)
{
	return pg_load(&pool.filled, relaxed);
}

static struct pg_buf *full_buffer(uint32_t nr)
{
	struct pg_buf *b = pg_pool_get_empty(&pool);

	CHECK_EQ(pg_buf_fill(&pool, b, nr), 0);
	return b;
}

TEST(buffers_are_apart_and_aligned)
{
	struct pg_buf *b[NR];

	pool_open(4);
	for (uint32_t i = 0; i < NR; i++) {
		b[i] = pg_pool_get_empty(&pool);
		CHECK_EQ((uintptr_t)b[i]->mem % (PAGES * PAGE), 0);
		CHECK_EQ(b[i]->nr, PAGES);
		for (uint32_t k = 0; k < i; k++)
			CHECK(b[k]->mem != b[i]->mem);
		memset(b[i]->mem, (int)i, PAGES * PAGE);
	}
	for (uint32_t i = 0; i < NR; i++)
		CHECK_EQ(b[i]->mem[PAGES * PAGE - 1], (int)i);
	for (uint32_t i = 0; i < NR; i++)
		pg_pool_put(&pool, b[i]);
	pool_close();
}

TEST(pages_that_are_there_are_counted)
{
	struct pg_buf *b;

	pool_open(4);
	b = full_buffer(10);
	CHECK_EQ(b->filled, 10);
	CHECK_EQ(filled(), 10);
	CHECK_EQ(pg_buf_missing(b, 10), 0);
	CHECK_EQ(pg_buf_missing(b, 16), 6);
	pg_buf_mark(&pool, b, 3, 4, false);
	pg_buf_mark(&pool, b, 5, 4, false); /* some are gone already */
	CHECK_EQ(filled(), 4);
	CHECK_EQ(pg_buf_missing(b, 10), 6);
	CHECK_EQ(pg_buf_fill(&pool, b, 16), 0);
	CHECK_EQ(filled(), 16);
	CHECK_EQ(pg_buf_missing(b, 16), 0);
	pg_pool_put_empty(&pool, b);
	CHECK_EQ(filled(), 0);
	CHECK_EQ(pool.full, 0);
	pool_close();
}

TEST(a_single_page_is_loaded_into_any_that_is_there)
{
	struct pg_buf *b;

	pool_open(4);
	b = full_buffer(PAGES);
	/* 5, 9, 10, 11 and 15 are left. */
	pg_buf_mark(&pool, b, 0, 5, false);
	pg_buf_mark(&pool, b, 6, 3, false);
	pg_buf_mark(&pool, b, 12, 3, false);
	pg_buf_choose(b, 1);
	CHECK_EQ(b->first, 5);
	CHECK_EQ(pg_buf_missing(b, 1), 0);
	pg_buf_choose(b, 3);
	CHECK_EQ(b->first, 9);
	CHECK_EQ(pg_buf_missing(b, 3), 0);
	CHECK(pg_buf_at(b, 1) == b->mem + 10 * PAGE);
	pg_buf_choose(b, 4);
	CHECK_EQ(pg_buf_missing(b, 4), 1);
	/* Counted from there on. */
	pg_buf_choose(b, 3);
	pg_buf_mark(&pool, b, 1, 1, false);
	CHECK_EQ(b->filled, 4);
	pg_buf_choose(b, PAGES);
	CHECK_EQ(b->first, 0);
	CHECK_EQ(pg_buf_fill(&pool, b, PAGES), 0);
	CHECK_EQ(filled(), PAGES);
	pg_pool_put_empty(&pool, b);
	CHECK_EQ(filled(), 0);
	pool_close();
}

TEST(full_buffers_are_kept_up_to_a_number)
{
	struct pg_buf *b[NR];

	pool_open(3);
	CHECK(!pg_pool_get_room(&pool, PAGES));
	for (int i = 0; i < 5; i++)
		b[i] = full_buffer(PAGES);
	for (int i = 0; i < 5; i++)
		pg_pool_put(&pool, b[i]);
	CHECK_EQ(pg_load(&pool.nr_room, relaxed), 3);
	CHECK_EQ(filled(), 3 * PAGES);
	/* An empty one can always be had: a full one is emptied for it. */
	for (uint32_t i = 0; i < NR; i++) {
		b[i] = pg_pool_get_empty(&pool);
		CHECK_EQ(b[i]->filled, 0);
	}
	CHECK_EQ(filled(), 0);
	for (uint32_t i = 0; i < NR; i++)
		pg_pool_put(&pool, b[i]);
	CHECK_EQ(pg_load(&pool.nr_room, relaxed), 0);
	pool_close();
}

TEST(a_full_buffer_comes_as_it_was_put)
{
	struct pg_buf *b;

	pool_open(3);
	b = full_buffer(7);
	memset(b->mem, 0x5a, 7 * PAGE);
	pg_pool_put(&pool, b);
	CHECK(pg_pool_get_room(&pool, PAGES) == b);
	CHECK_EQ(b->filled, 7);
	CHECK_EQ(b->mem[7 * PAGE - 1], 0x5a);
	pg_pool_put(&pool, b);
	pool_close();
}

TEST(a_page_that_somebody_else_may_read_is_not_used_again)
{
	pool_open(3);
	pg_pool_no_recycle(&pool);
	pg_pool_put(&pool, full_buffer(PAGES));
	CHECK_EQ(filled(), 0);
	CHECK(!pg_pool_get_room(&pool, PAGES));
	pool_close();
}

static int no_fill(void *ctx, enum pg_soft_op op, uintptr_t va)
{
	(void)ctx;
	(void)va;
	return op == PG_SOFT_FILL ? -ENOMEM : 0;
}

TEST(a_fill_that_fails_counts_nothing)
{
	struct pg_soft_hooks hooks = {.before = no_fill};
	struct pg_buf *b;

	pool_open(3);
	b = full_buffer(2);
	pg_soft_hook(w.mmu, &hooks);
	CHECK_EQ(pg_buf_fill(&pool, b, 2), 0); /* they are there */
	CHECK_EQ(pg_buf_fill(&pool, b, 3), -ENOMEM);
	CHECK_EQ(filled(), 2);
	pg_pool_put(&pool, b);
	pool_close();
}

static void *use_buffers(void *arg)
{
	uint64_t seed = (uint64_t)(uintptr_t)arg;

	for (int i = 0; i < 5000; i++) {
		struct pg_buf *b = pg_pool_get_room(&pool, PAGES);

		if (!b)
			b = pg_pool_get_empty(&pool);
		MUST(!pg_buf_fill(&pool, b,
				  1 + (uint32_t)(test_random(&seed) % PAGES)));
		b->mem[0]++;
		pg_buf_mark(&pool, b, 0, (uint32_t)(test_random(&seed) % 4),
			    false);
		if (test_random(&seed) % 4)
			pg_pool_put(&pool, b);
		else
			pg_pool_put_empty(&pool, b);
	}
	return NULL;
}

TEST(threads_share_the_buffers)
{
	uint64_t seed = test_seed();
	uint64_t sum = 0;
	uint32_t n = 0;
	pthread_t t[3];

	pool_open(4);
	for (unsigned int i = 0; i < 3; i++)
		CHECK_EQ(pthread_create(&t[i], NULL, use_buffers,
					(void *)(uintptr_t)(seed + 2 * i)),
			 0);
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	for (uint32_t i = 0; i < NR; i++)
		sum += pool.buf[i].filled;
	CHECK_EQ(sum, filled());
	while (pool.full || pool.part) {
		pg_pool_put_empty(&pool, pg_pool_get_room(&pool, PAGES));
		n++;
	}
	CHECK(n <= NR);
	CHECK_EQ(filled(), 0);
	pool_close();
}

TEST_MAIN()
