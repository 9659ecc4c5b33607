/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Eviction: who leaves first, and that the budget is kept.
 */
#include "world.h"

/* One call tries so many blocks and no more. */
static size_t evict(size_t nr)
{
	size_t left = 0, now;

	do {
		now = pg_evict(&w.mm, nr - left);
		left += now;
	} while (now && left < nr);
	return left;
}

TEST(who_came_first_leaves_first)
{
	world_open(256, 4096, 16);
	no_standby();
	for (size_t b = 0; b < 16; b++)
		fill(((b * 5) % 16) * 16, 16);
	for (size_t b = 0; b < 16; b++) {
		size_t i = ((b * 5) % 16) * 16;

		CHECK_EQ(count_of(i, 16, PG_PTE_PRESENT), 16);
		CHECK_EQ(pg_evict(&w.mm, 1), 16);
		CHECK_EQ(count_of(i, 16, PG_PTE_DEVICE), 16);
	}
	CHECK_EQ(pg_queue_length(&w.mm.queue), 0);
	CHECK_EQ(pg_evict(&w.mm, 1), 0);
	CHECK_EQ(counter("evictions"), 256);
	check_filled(0, 256);
	world_close();
}

TEST(a_block_is_queued_once)
{
	world_open(64, 4096, 16);
	for (int i = 0; i < 100; i++)
		pg_evict_note(&w.mm, AT(i % 16));
	CHECK_EQ(pg_queue_length(&w.mm.queue), 1);
	CHECK_EQ(pg_evict(&w.mm, 1), 0); /* nothing was there */
	CHECK_EQ(pg_queue_length(&w.mm.queue), 0);
	world_close();
}

TEST(the_queue_grows_and_keeps_its_order)
{
	size_t nr = 200000;

	world_open(nr, 1u << 20, 1);
	no_standby();
	for (size_t i = 0; i < nr; i++) {
		put_byte(i, 0, (uint8_t)i);
		/* Not from an aligned start. */
		if (i == 40000)
			CHECK_EQ(evict(30000), 30000);
	}
	CHECK_EQ(pg_queue_length(&w.mm.queue), nr - 30000);
	CHECK_EQ(evict(100000), 100000);
	CHECK_EQ(count_of(0, 130000, PG_PTE_DEVICE), 130000);
	CHECK_EQ(count_of(130000, nr - 130000, PG_PTE_PRESENT), nr - 130000);
	world_check();
	world_close();
}

TEST(without_memory_for_a_longer_queue_a_block_stays)
{
	size_t nr = 65536 + 1;

	world_open(nr, 1u << 20, 1);
	for (size_t i = 0; i < nr; i++) {
		if (i == nr - 1)
			pg_mem_fail_nth(1);
		put_byte(i, 0, (uint8_t)i);
	}
	pg_mem_fail_nth(0);
	CHECK_EQ(pg_queue_length(&w.mm.queue), nr - 1);
	CHECK_EQ(evict(nr), nr - 1);
	CHECK_EQ(state_of(nr - 1), PG_PTE_PRESENT);
	CHECK_EQ(get_byte(nr - 1, 0), (uint8_t)(nr - 1));
	world_check();
	world_close();
}

TEST(R180_the_budget_is_never_exceeded_while_pages_can_leave)
{
	static const size_t folios[] = {1, 4, 64, 512};
	uint64_t seed = test_seed();

	for (size_t f = 0; f < 4; f++) {
		uint64_t budget = folios[f] * 4 + 64;
		size_t nr = (size_t)budget * 8;

		world_open(nr, budget, folios[f]);
		for (int i = 0; i < 4000; i++) {
			size_t p = test_random(&seed) % nr;

			if (i % 2)
				p = (size_t)i * 3 % nr;
			put_byte(p, p % PAGE, byte_of(p));
			CHECK(pg_mm_used(&w.mm) <= budget);
			if (i % 16 == 0)
				pg_evict_ahead(&w.mm);
			CHECK(pg_mm_used(&w.mm) <= budget);
		}
		CHECK_EQ(counter("poisoned"), 0);
		world_check();
		world_close();
	}
}

TEST(R180_a_smaller_budget_is_reached_again)
{
	world_open(512, 512, 16);
	fill(0, 480);
	pg_store(&w.mm.budget, 100, relaxed);
	while (pg_evict_ahead(&w.mm))
		;
	CHECK(pg_mm_used(&w.mm) <= 100);
	world_check();
	check_filled(0, 480);
	CHECK(pg_mm_used(&w.mm) <= 100);
	world_close();
}

TEST(eviction_ahead_of_need_stops_when_room_is_ready)
{
	world_open(512, 128, 16);
	CHECK_EQ(pg_evict_ahead(&w.mm), 0);
	fill(0, 64);
	CHECK_EQ(pg_evict_ahead(&w.mm), 0);
	fill(64, 64);
	while (pg_evict_ahead(&w.mm))
		;
	CHECK(pg_load(&w.mm.pool.room, relaxed) >= w.mm.pool.keep / 2);
	/* A writer is not waited for. */
	pg_store(&w.mm.budget, 1, relaxed);
	pgmap_mm_change_begin(&w.mm);
	CHECK_EQ(pg_evict_ahead(&w.mm), 0);
	pgmap_mm_change_end(&w.mm);
	CHECK(pg_evict_ahead(&w.mm));
	world_close();
}

/* ---- What came back soon ---- */

static size_t length(const struct pg_ring *r)
{
	return r->tail - r->head;
}

/* @nr pages, each alone in its block and far from the others. */
static void touch_alone(size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		get_byte(i * 64, 0);
}

/* Nothing leaves but by evict(): all of it fits the budget. */
static void open_with_all_away(size_t nr, uint64_t budget)
{
	world_open(nr, budget, 16);
	no_standby();
	fill(0, nr);
	CHECK_EQ(evict(nr), nr);
}

TEST(what_came_back_soon_stays_while_a_scan_passes)
{
	open_with_all_away(4096, 8192);
	touch_alone(16);
	for (int scan = 0; scan < 3; scan++) {
		for (size_t i = 1024; i < 3072; i++)
			get_byte(i, 0);
		/* Half of what stays may be the sixteen. */
		CHECK_EQ(evict(1600), 1600);
		for (size_t i = 0; i < 16; i++)
			CHECK_EQ(state_of(i * 64), PG_PTE_PRESENT);
	}
	check_filled(0, 4096);
	world_check();
	world_close();
}

TEST(what_comes_back_in_a_run_is_new)
{
	open_with_all_away(4096, 8192);
	/* Of a stream only the first page comes alone. */
	for (size_t i = 1024; i < 3072; i++)
		get_byte(i, 0);
	CHECK_EQ(length(&w.mm.queue.again), 1);
	CHECK_EQ(length(&w.mm.queue.fresh), 127);
	world_check();
	world_close();
}

TEST(of_what_came_back_soon_half_may_leave_as_if_it_were_new)
{
	open_with_all_away(4096, 8192);
	touch_alone(64);
	CHECK_EQ(length(&w.mm.queue.again), 64);
	CHECK_EQ(evict(1), 1);
	CHECK_EQ(state_of(0), PG_PTE_DEVICE);
	CHECK_EQ(length(&w.mm.queue.again), 32);
	CHECK_EQ(length(&w.mm.queue.fresh), 31);
	/* And then all of it, the oldest first. */
	for (size_t i = 1; i < 64; i++) {
		CHECK_EQ(state_of(i * 64), PG_PTE_PRESENT);
		CHECK_EQ(evict(1), 1);
		CHECK_EQ(state_of(i * 64), PG_PTE_DEVICE);
	}
	CHECK_EQ(pg_queue_length(&w.mm.queue), 0);
	world_close();
}

TEST(what_comes_back_after_a_budget_has_left_is_new)
{
	open_with_all_away(4096, 4096);
	for (int round = 0; round < 2; round++) {
		for (size_t i = 2048; i < 4096; i++)
			get_byte(i, 0);
		CHECK_EQ(evict(2048), 2048);
	}
	get_byte(2048, 0);
	CHECK_EQ(length(&w.mm.queue.again), 1);
	get_byte(0, 0);
	CHECK_EQ(length(&w.mm.queue.again), 1);
	CHECK_EQ(length(&w.mm.queue.fresh), 1);
	world_close();
}

/* ---- Devices that are full or broken ---- */

static unsigned int room;

static int store_while_room(const struct pgmap_io *io)
{
	if (io->nr > room)
		return -ENOSPC;
	room -= io->nr;
	return 0;
}

TEST(with_a_full_device_pages_stay_above_the_budget_and_one_line_says_so)
{
	world_open(512, 64, 16);
	log_catch();
	room = 100;
	tdev.on_store = store_while_room;
	fill(0, 512);
	CHECK_EQ(log_lines, 1);
	CHECK(strstr(log_text, "is full"));
	CHECK(pg_mm_used(&w.mm) > 64);
	CHECK(counter("full") > 0);
	CHECK_EQ(counter("io_errors"), 0);
	world_check();
	check_filled(0, 512);
	/* Space again: back to the budget. */
	room = 10000;
	while (pg_evict_ahead(&w.mm))
		;
	CHECK(pg_mm_used(&w.mm) <= 64);
	check_filled(0, 512);
	CHECK_EQ(log_lines, 1);
	log_release();
	world_close();
}

static bool broken;

static int store_if_well(const struct pgmap_io *io)
{
	(void)io;
	return broken ? -EIO : 0;
}

TEST(with_a_device_that_stores_nothing_pages_stay)
{
	world_open(512, 64, 16);
	broken = true;
	tdev.on_store = store_if_well;
	fill(0, 256);
	CHECK(counter("io_errors") > 0);
	CHECK_EQ(counter("away"), 0);
	world_check();
	check_filled(0, 256);
	broken = false;
	while (pg_evict_ahead(&w.mm))
		;
	CHECK(pg_mm_used(&w.mm) <= 64);
	check_filled(0, 256);
	world_close();
}

TEST(pinned_pages_are_passed_over_and_tried_again)
{
	world_open(256, 4096, 16);
	fill(0, 64);
	for (size_t i = 0; i < 16; i++)
		pg_soft_pin(w.mmu, AT(i), true);
	CHECK_EQ(pg_evict(&w.mm, 16), 16);
	CHECK_EQ(count_of(0, 16, PG_PTE_PRESENT), 16);
	CHECK_EQ(count_of(16, 16, PG_PTE_DEVICE), 16);
	CHECK_EQ(pg_load(&w.mm.stuck, relaxed), 16);
	CHECK_EQ(pg_evict(&w.mm, 1000), 32);
	world_check();
	for (size_t i = 0; i < 16; i++)
		pg_soft_pin(w.mmu, AT(i), false);
	CHECK_EQ(pg_evict(&w.mm, 1000), 16);
	CHECK_EQ(pg_load(&w.mm.stuck, relaxed), 0);
	check_filled(0, 64);
	world_close();
}

TEST_MAIN()
