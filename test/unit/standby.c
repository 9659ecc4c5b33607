/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Standby: pages off the page table that are still in RAM, and large folios
 * whose pages are not used together.
 */
#include "world.h"

static size_t to_standby(size_t i)
{
	size_t nr;

	pg_read_lock(&w.mm.lock, LOCK_MM);
	nr = pg_migrate_to_standby(&w.mm, AT(i));
	pg_read_unlock(&w.mm.lock, LOCK_MM);
	return nr;
}

/* Store what waits longest. Return: pages that are on the device now. */
static size_t settle(void)
{
	struct pg_settled s;

	pg_read_lock(&w.mm.lock, LOCK_MM);
	CHECK(pg_migrate_standby_to_device(&w.mm, &s));
	pg_read_unlock(&w.mm.lock, LOCK_MM);
	return s.moved;
}

TEST(a_touch_in_standby_needs_no_device)
{
	world_open(64, 1024, 16);
	fill(0, 64);
	CHECK_EQ(to_standby(0), 16);
	CHECK_EQ(to_standby(16), 16);
	CHECK_EQ(count_of(0, 32, PG_PTE_STANDBY), 32);
	world_check();
	CHECK_EQ(pg_mm_used(&w.mm), 64);
	check_filled(0, 32);
	CHECK_EQ(count_of(0, 32, PG_PTE_PRESENT), 32);
	CHECK_EQ(tdev.stores, 0);
	CHECK_EQ(counter("standby_hits"), 32);
	CHECK_EQ(pg_mm_used(&w.mm), 64);
	world_close();
}

TEST(what_was_not_touched_is_stored_when_its_turn_comes)
{
	world_open(64, 1024, 16);
	fill(0, 64);
	to_standby(16);
	to_standby(0);
	get_byte(19, 0);
	CHECK_EQ(settle(), 15);
	CHECK_EQ(state_of(19), PG_PTE_PRESENT);
	CHECK_EQ(count_of(16, 16, PG_PTE_DEVICE), 15);
	CHECK_EQ(count_of(0, 16, PG_PTE_STANDBY), 16);
	world_check();
	CHECK_EQ(settle(), 16);
	check_filled(0, 64);
	world_close();
}

TEST(what_came_back_from_standby_can_leave_again)
{
	world_open(64, 1024, 16);
	fill(0, 64);
	CHECK_EQ(pg_evict(&w.mm, 24), 32);
	CHECK_EQ(count_of(0, 32, PG_PTE_DEVICE), 32);
	CHECK_EQ(count_of(32, 16, PG_PTE_STANDBY), 16);
	CHECK_EQ(pg_queue_length(&w.mm.queue), 1);
	get_byte(36, 0);
	CHECK_EQ(pg_queue_length(&w.mm.queue), 2);
	CHECK_EQ(pg_evict(&w.mm, 32), 32);
	CHECK_EQ(count_of(0, 64, PG_PTE_DEVICE), 64);
	check_filled(0, 64);
	world_close();
}

/* One call may take long for nobody who waits for LOCK_MM. */
TEST(standby_fills_by_and_by)
{
	world_open(4096, 8192, 16);
	fill(0, 4096);
	for (size_t i = 1; i <= 8; i++) {
		CHECK_EQ(pg_evict(&w.mm, 16), 16);
		CHECK(count_of(0, 4096, PG_PTE_STANDBY) <= i * 32);
	}
	CHECK(count_of(0, 4096, PG_PTE_STANDBY) > 64);
	world_close();
}

/* Of many buffers in standby all pages came back: that is no reason to think
 * that nothing can leave. */
TEST(buffers_that_were_emptied_by_touches_do_not_stop_eviction)
{
	world_open(4096, 8192, 16);
	fill(0, 2048);
	for (size_t i = 0; i < 100; i++)
		CHECK_EQ(to_standby(i * 16), 16);
	pgmap_mm_change_begin(&w.mm);
	CHECK_EQ(pg_mm_return_standby(&w.mm, 0, UINTPTR_MAX), 0);
	pgmap_mm_change_end(&w.mm);
	CHECK_EQ(count_of(0, 2048, PG_PTE_PRESENT), 2048);
	w.mm.standby_pages = 0;
	CHECK_EQ(pg_evict(&w.mm, 16), 16);
	check_filled(0, 2048);
	world_close();
}

/* The budget of a tree is shared out anew as processes come. */
TEST(a_smaller_budget_needs_less_room)
{
	world_open(2048, 2048, 16);
	fill(0, 2048);
	while (pg_load(&w.mm.pool.room, relaxed) < 64)
		CHECK(pg_evict(&w.mm, 16));
	pg_mm_set_budget(&w.mm, 256 * PAGE);
	while (pg_evict_ahead(&w.mm))
		;
	CHECK(pg_mm_used(&w.mm) <= 256);
	CHECK(pg_load(&w.mm.pool.room, relaxed) <= 32);
	CHECK(pg_load(&w.mm.present, relaxed) >= 128);
	check_filled(0, 2048);
	world_close();
}

/* FIFO with a second chance: of as many blocks as fit, the one that is touched
 * now and then stays. */
TEST(a_page_that_is_touched_in_standby_outlives_others)
{
	unsigned int loads = 0;

	world_open(4096, 1024, 1);
	for (size_t i = 0; i < 4096; i++) {
		put_byte(i, 0, 1);
		if (i >= 2048 && !(i % 8)) {
			loads = tdev.loads;
			get_byte(1, 0);
			CHECK(i == 2048 || tdev.loads == loads);
		}
		while (pg_mm_used(&w.mm) > 1000)
			CHECK(pg_evict(&w.mm, 1));
	}
	CHECK(counter("standby_hits") > 0);
	CHECK_EQ(count_of(0, 1, PG_PTE_DEVICE), 1);
	world_close();
}

TEST(N31_what_is_dropped_in_standby_stays_dropped)
{
	world_open(64, 1024, 16);
	fill(0, 64);
	to_standby(0);
	drop(0, 8);
	world_check();
	CHECK_EQ(count_of(0, 8, PG_PTE_HOLE), 8);
	CHECK_EQ(settle(), 8);
	CHECK_EQ(tdev.stored, 8);
	for (size_t i = 0; i < 8; i++)
		CHECK_EQ(get_byte(i, i), 0);
	check_filled(8, 56);
	world_close();
}

static int store_fails(const struct pgmap_io *io)
{
	(void)io;
	return -EIO;
}

TEST(R94_what_cannot_be_stored_comes_back_from_standby)
{
	world_open(64, 1024, 16);
	fill(0, 64);
	to_standby(0);
	tdev.on_store = store_fails;
	CHECK_EQ(settle(), 0);
	CHECK_EQ(count_of(0, 16, PG_PTE_PRESENT), 16);
	world_check();
	/* And can leave another time. */
	to_standby(0);
	CHECK_EQ(pg_evict(&w.mm, 16), 0);
	tdev.on_store = NULL;
	CHECK(pg_evict(&w.mm, 64) >= 64);
	CHECK_EQ(count_of(0, 64, PG_PTE_DEVICE), 64);
	check_filled(0, 64);
	world_close();
}

/* Pages [0, 32) are in standby, each with a copy on the device. */
static void with_copies(void)
{
	world_open(64, 1024, 16);
	fill(0, 64);
	migrate(0, 32, true);
	pg_store(&w.mm.same, 256, relaxed);
	migrate(0, 32, false);
	CHECK_EQ(to_standby(0), 16);
	CHECK_EQ(to_standby(16), 16);
	CHECK_EQ(tdev.stored, 32);
	world_check();
}

TEST(R52_a_copy_goes_through_standby_with_its_page)
{
	unsigned int stores;

	with_copies();
	get_byte(0, 0);
	drop(16, 16);
	CHECK_EQ(tdev.stored, 16);
	world_check();
	stores = tdev.stores;
	CHECK_EQ(settle(), 15);
	CHECK_EQ(tdev.stores, stores);
	/* Back in RAM it is the same still. */
	CHECK_EQ(migrate(0, 1, true), 1);
	CHECK_EQ(tdev.stores, stores);
	check_filled(0, 16);
	check_filled(32, 32);
	world_close();
}

TEST(a_full_device_gives_up_copies_of_pages_in_standby_too)
{
	with_copies();
	CHECK_EQ(pg_mm_drop_copies(&w.mm), 32);
	CHECK_EQ(tdev.stored, 0);
	world_check();
	CHECK_EQ(settle(), 16);
	check_filled(0, 64);
	world_close();
}

TEST(before_a_range_moves_what_is_in_standby_comes_back)
{
	world_open(64, 1024, 16);
	fill(0, 64);
	to_standby(0);
	to_standby(16);
	pgmap_mm_change_begin(&w.mm);
	CHECK_EQ(pgmap_mm_remap_begin(&w.mm, PTR(8), 16 * PAGE), 0);
	CHECK_EQ(pgmap_mm_remap_begin(&w.mm, PTR(8), 100), -EINVAL);
	pgmap_mm_change_end(&w.mm);
	CHECK_EQ(count_of(0, 8, PG_PTE_STANDBY), 8);
	CHECK_EQ(count_of(8, 16, PG_PTE_PRESENT), 16);
	CHECK_EQ(count_of(24, 8, PG_PTE_STANDBY), 8);
	check_filled(0, 64);
	world_close();
}

TEST(R73_a_migration_takes_what_is_in_standby)
{
	world_open(64, 1024, 16);
	fill(0, 64);
	to_standby(0);
	CHECK_EQ(migrate(0, 32, true), 32);
	CHECK_EQ(count_of(0, 32, PG_PTE_DEVICE), 32);
	to_standby(32);
	CHECK_EQ(pgmap_mm_release(&w.mm, PTR(32), 16 * PAGE), 0);
	check_filled(0, 64);
	world_close();
}

static int give_says;

static int on_give(enum pg_soft_op op, uintptr_t va)
{
	(void)va;
	return op == PG_SOFT_GIVE ? give_says : 0;
}

static int give_back(size_t i, int error)
{
	int ret;

	give_says = error;
	w.on_op = on_give;
	pg_read_lock(&w.mm.lock, LOCK_MM);
	ret = pg_migrate_standby_to_ram(&w.mm, AT(i), false);
	pg_read_unlock(&w.mm.lock, LOCK_MM);
	w.on_op = NULL;
	return ret;
}

TEST(R95_what_the_kernel_says_when_a_page_comes_back_from_standby)
{
	with_copies();
	/* No memory for a page table: it stays where it is. */
	CHECK_EQ(give_back(3, -ENOMEM), -ENOMEM);
	CHECK_EQ(state_of(3), PG_PTE_STANDBY);
	give_says = -ENOMEM;
	w.on_op = on_give;
	CHECK(pg_soft_write(w.mmu, AT(3), 1));
	w.on_op = NULL;
	/* Unmapped: gone, and its copy with it. */
	CHECK_EQ(give_back(4, -ENOENT), 0);
	CHECK_EQ(state_of(4), PG_PTE_HOLE);
	CHECK_EQ(pg_load(&w.mm.copies, relaxed), 31);
	world_check();
	/* Taken again, it is in RAM: nothing to do. */
	CHECK_EQ(give_back(3, 0), 0);
	CHECK_EQ(give_back(3, 0), -EAGAIN);
	world_check();
	put_byte(4, 4, byte_of(4));
	check_filled(0, 64);
	world_close();
}

/* Budget, room and standby in balance: what evict-ahead makes ready is used. */
TEST(eviction_works_with_any_share_of_standby)
{
	static const size_t share[] = {0, 1, 7, 100, 100000};

	for (size_t k = 0; k < sizeof(share) / sizeof(*share); k++) {
		world_open(512, 128, 16);
		w.mm.standby_pages = share[k];
		for (int round = 0; round < 4; round++)
			for (size_t i = 0; i < 512; i++) {
				put_byte(i, 3, (uint8_t)(i + (size_t)round));
				CHECK(pg_mm_used(&w.mm) <= 128);
			}
		for (size_t i = 0; i < 512; i++)
			CHECK_EQ(get_byte(i, 3), (uint8_t)(i + 3));
		world_close();
	}
}

/* ---- Large folios ---- */

static bool break_block(size_t i)
{
	bool ret;

	pg_read_lock(&w.mm.lock, LOCK_MM);
	ret = pg_migrate_break(&w.mm, w.mm.breaker, AT(i));
	pg_read_unlock(&w.mm.lock, LOCK_MM);
	return ret;
}

static void large_folios(void)
{
	world_open(64, 1024, 16);
	fill(0, 64);
	migrate(0, 64, true);
	CHECK_EQ(pgmap_folio_order(folio_of(0)), 4);
	w.mm.breaker = pg_pool_get_empty(&w.mm.pool);
}

static void large_folios_end(void)
{
	check_filled(0, 64);
	world_close();
}

TEST(a_large_folio_is_stored_again_page_by_page)
{
	large_folios();
	get_byte(5, 0);
	CHECK_EQ(state_of(5), PG_PTE_PRESENT);
	CHECK(break_block(0));
	for (size_t i = 0; i < 16; i++)
		CHECK(i == 5 || !pgmap_folio_order(folio_of(i)));
	CHECK_EQ(tdev.stored, 63);
	CHECK_EQ(pgmap_folio_order(folio_of(16)), 4);
	/* There is no other in the block. */
	CHECK(!break_block(0));
	large_folios_end();
}

TEST(a_single_touch_asks_for_it_and_a_stream_does_not)
{
	large_folios();
	get_byte(5, 0);
	CHECK(pg_break_next(&w.mm));
	CHECK(!pgmap_folio_order(folio_of(6)));
	CHECK(!pg_break_next(&w.mm));
	for (size_t i = 16; i < 48; i++)
		get_byte(i, 0);
	/* The first touch of a stream cannot be told from a single one. */
	while (pg_break_next(&w.mm))
		;
	CHECK_EQ(count_of(32, 16, PG_PTE_PRESENT), 16);
	CHECK_EQ(pgmap_folio_order(folio_of(48)), 4);
	large_folios_end();
}

TEST(where_a_part_is_cheap_large_folios_stay)
{
	large_folios();
	w.dev->ops.flags &= ~PGMAP_DEV_PACKED;
	get_byte(5, 0);
	CHECK(!pg_break_next(&w.mm));
	CHECK_EQ(pgmap_folio_order(folio_of(6)), 4);
	large_folios_end();
}

TEST(who_works_ahead_waits_for_no_writer)
{
	large_folios();
	get_byte(5, 0);
	get_byte(16, 0);
	pgmap_mm_change_begin(&w.mm);
	CHECK(!pg_break_next(&w.mm));
	CHECK(!pg_load_ahead(&w.mm));
	CHECK(!pg_evict_ahead(&w.mm));
	pgmap_mm_change_end(&w.mm);
	CHECK(pg_break_next(&w.mm));
	CHECK(pg_load_ahead(&w.mm));
	large_folios_end();
}

TEST(of_too_many_requests_the_oldest_are_lost)
{
	size_t nr = PG_NR_BREAKS + 40, broken = 0;

	world_open(nr * 64, nr * 128, 16);
	for (size_t i = 0; i < nr; i++)
		fill(i * 64, 16);
	migrate(0, nr * 64, true);
	for (size_t i = 0; i < nr; i++)
		get_byte(i * 64 + 3, 0);
	while (pg_break_next(&w.mm))
		;
	for (size_t i = 0; i < nr; i++)
		broken += !pgmap_folio_order(folio_of(i * 64));
	CHECK_EQ(broken, PG_NR_BREAKS);
	/* Not while space is scarce. */
	get_byte(4, 0);
	pg_store(&w.mm.short_of_space, 1, relaxed);
	CHECK(pg_break_next(&w.mm));
	CHECK(pgmap_folio_order(folio_of(0)));
	world_close();
}

static int load_fails(const struct pgmap_io *io)
{
	(void)io;
	return -EIO;
}

TEST(R94_a_large_folio_that_cannot_be_loaded_stays)
{
	large_folios();
	tdev.on_load = load_fails;
	break_block(0);
	CHECK_EQ(count_of(0, 16, PG_PTE_DEVICE), 16);
	CHECK_EQ(counter("poisoned"), 0);
	tdev.on_load = NULL;
	world_check();
	large_folios_end();
}

TEST(R94_a_large_folio_that_cannot_be_stored_again_comes_to_RAM)
{
	large_folios();
	CHECK_EQ(pg_evict(&w.mm, 1), 0);
	CHECK_EQ(pg_queue_length(&w.mm.queue), 0);
	tdev.on_store = store_fails;
	CHECK(break_block(0));
	CHECK_EQ(count_of(0, 16, PG_PTE_PRESENT), 16);
	tdev.on_store = NULL;
	/* And can leave again. */
	CHECK_EQ(pg_queue_length(&w.mm.queue), 1);
	large_folios_end();
}

TEST(R79_a_large_folio_that_somebody_holds_stays)
{
	struct pgmap_folio *folio;

	large_folios();
	folio = folio_of(0);
	pgmap_folio_get(folio);
	CHECK(!break_block(0));
	CHECK_EQ(count_of(0, 16, PG_PTE_DEVICE), 16);
	CHECK(folio_of(3) == folio);
	pgmap_folio_put(folio);
	CHECK(break_block(0));
	large_folios_end();
}

static size_t zap_at;

static int load_drops(const struct pgmap_io *io)
{
	(void)io;
	pg_mm_remove(&w.mm, AT(zap_at), 1);
	return 0;
}

TEST(N31_what_is_dropped_while_its_folio_breaks_stays_dropped)
{
	large_folios();
	zap_at = 3;
	tdev.on_load = load_drops;
	CHECK(break_block(0));
	tdev.on_load = NULL;
	CHECK_EQ(state_of(3), PG_PTE_HOLE);
	CHECK_EQ(tdev.stored, 63);
	put_byte(3, 3, byte_of(3));
	large_folios_end();
}

TEST_MAIN()
