/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Faults: the first touch, the way back, and many threads at once.
 */
#include "world.h"

#include <pthread.h>
#include <unistd.h>

/* ---- Holes ---- */

TEST(a_first_touch_gives_zeros_to_the_holes_of_its_block)
{
	world_open(64, 1024, 16);
	CHECK_EQ(get_byte(20, 0), 0);
	CHECK_EQ(count_of(16, 16, PG_PTE_PRESENT), 16);
	CHECK_EQ(count_of(0, 64, PG_PTE_PRESENT), 16);
	CHECK_EQ(counter("hole_faults"), 1);
	/* Between what is there and what is away. */
	migrate(16, 16, true);
	drop(20, 4);
	put_byte(21, 0, 1);
	CHECK_EQ(count_of(16, 16, PG_PTE_DEVICE), 12);
	CHECK_EQ(count_of(20, 4, PG_PTE_PRESENT), 4);
	world_check();
	world_close();
}

TEST(a_first_touch_stays_inside_its_range)
{
	world_open(64, 1024, 16);
	CHECK_EQ(pgmap_mm_release(&w.mm, PTR(0), 64 * PAGE), 0);
	CHECK_EQ(pgmap_mm_adopt(&w.mm, PTR(5), 4 * PAGE), 0);
	CHECK_EQ(get_byte(6, 0), 0);
	CHECK_EQ(count_of(0, 64, PG_PTE_PRESENT), 4);
	CHECK(!pg_soft_is_present(w.mmu, AT(4)));
	CHECK(!pg_soft_is_present(w.mmu, AT(9)));
	world_check();
	world_close();
}

static bool late;

static int page_appears(enum pg_soft_op op, uintptr_t va)
{
	if (op == PG_SOFT_ZERO && va == AT(3))
		return -EEXIST;
	if (op == PG_SOFT_GIVE && va == AT(3) && !late) {
		late = true;
		return -EEXIST;
	}
	return 0;
}

static unsigned int nr_zeroed, nr_moved;

static int count_how(enum pg_soft_op op, uintptr_t va)
{
	(void)va;
	nr_zeroed += op == PG_SOFT_ZERO;
	nr_moved += op == PG_SOFT_GIVE;
	return 0;
}

TEST(a_hole_is_filled_in_place_while_there_is_room)
{
	world_open(2048, 1024, 16);
	nr_zeroed = nr_moved = 0;
	w.on_op = count_how;
	CHECK_EQ(get_byte(3, 0), 0);
	CHECK_EQ(count_of(0, 16, PG_PTE_PRESENT), 16);
	CHECK_EQ(nr_zeroed, 16);
	CHECK_EQ(nr_moved, 0);
	/* Near the budget something else has to go first. */
	for (size_t i = 16; i < 2048; i += 16)
		CHECK_EQ(get_byte(i, 0), 0);
	w.on_op = NULL;
	CHECK(nr_moved);
	CHECK(pg_mm_used(&w.mm) <= 1024);
	world_check();
	world_close();
}

TEST(a_page_that_is_there_after_all_is_left_alone)
{
	world_open(16, 1024, 16);
	late = false;
	w.on_op = page_appears;
	CHECK_EQ(get_byte(0, 0), 0);
	CHECK(late);
	CHECK_EQ(count_of(0, 16, PG_PTE_PRESENT), 16);
	w.on_op = NULL;
	world_check();
	/* It was not, in truth: the next touch finds that out. */
	CHECK_EQ(get_byte(3, 0), 0);
	world_check();
	world_close();
}

TEST(a_page_that_was_dropped_behind_our_back_reads_as_zeros)
{
	world_open(16, 1024, 16);
	fill(0, 16);
	pg_soft_zap(w.mmu, AT(4), 2);
	CHECK_EQ(get_byte(4, 4), 0);
	CHECK_EQ(get_byte(5, 5), 0);
	world_check();
	check_filled(0, 4);
	check_filled(6, 10);
	world_close();
}

TEST(a_second_message_for_one_fault_does_no_harm)
{
	world_open(64, 1024, 16);
	fill(0, 16);
	CHECK_EQ(pg_fault(&w.mm, AT(3), PG_FAULT_WRITE), PG_FAULT_DONE);
	check_filled(0, 16);
	world_check();
	world_close();
}

TEST(what_is_watched_but_managed_no_more_reads_as_zeros)
{
	world_open(64, 1024, 16);
	fill(0, 16);
	migrate(0, 16, true);
	/* MREMAP_DONTUNMAP leaves the old range watched. */
	pgmap_mm_change_begin(&w.mm);
	pgmap_mm_remap(&w.mm, PTR(0), 16 * PAGE, PTR(32), 16 * PAGE);
	pgmap_mm_unmap(&w.mm, PTR(0), 16 * PAGE);
	CHECK_EQ(pg_mm_adopt(&w.mm, AT(32), 16), 0);
	pgmap_mm_change_end(&w.mm);
	CHECK_EQ(get_byte(3, 3), 0);
	CHECK_EQ(get_byte(35, 3), byte_of(3));
	world_close();
}

/* ---- The way back ---- */

TEST(R51_a_touch_brings_the_page_that_its_entry_names)
{
	world_open(512, 4096, 64);
	fill(0, 512);
	migrate(0, 512, true);
	for (size_t i = 0; i < 512; i += 67)
		CHECK_EQ(get_byte(i, i), byte_of(i));
	world_check();
	CHECK_EQ(count_of(0, 512, PG_PTE_PRESENT), 8);
	world_close();
}

TEST(R91_a_stream_brings_whole_folios_and_a_single_touch_one_page)
{
	world_open(512, 4096, 64);
	fill(0, 512);
	migrate(0, 512, true);
	CHECK_EQ(get_byte(10, 10), byte_of(10));
	CHECK_EQ(count_of(0, 512, PG_PTE_PRESENT), 1);
	/* Close to a touch before: now its whole folio is wanted. */
	CHECK_EQ(get_byte(40, 40), byte_of(40));
	CHECK_EQ(count_of(0, 64, PG_PTE_PRESENT), 64);
	CHECK_EQ(count_of(64, 448, PG_PTE_PRESENT), 0);
	/* From a tail as from the head. */
	CHECK_EQ(get_byte(100, 100), byte_of(100));
	CHECK_EQ(count_of(64, 64, PG_PTE_PRESENT), 64);
	world_check();
	check_filled(0, 512);
	world_close();
}

TEST(what_follows_a_stream_is_loaded_ahead)
{
	world_open(1024, 8192, 16);
	fill(0, 1024);
	migrate(0, 1024, true);
	/* One fault is no stream; a second one, in the next block, is. */
	CHECK_EQ(get_byte(3, 3), byte_of(3));
	CHECK(!pg_load_ahead(&w.mm));
	CHECK_EQ(get_byte(16, 16), byte_of(16));
	CHECK_EQ(count_of(16, 16, PG_PTE_PRESENT), 16);
	/* The block behind it is left for a fault that tells that the stream
	 * goes on. */
	while (pg_load_ahead(&w.mm))
		;
	CHECK_EQ(count_of(32, 16, PG_PTE_PRESENT), 0);
	CHECK_EQ(count_of(48, 16, PG_PTE_PRESENT), 16);
	CHECK_EQ(count_of(64, 960, PG_PTE_PRESENT), 0);
	/* Each time twice as much. */
	CHECK_EQ(get_byte(32, 32), byte_of(32));
	while (pg_load_ahead(&w.mm))
		;
	CHECK_EQ(count_of(64, 16, PG_PTE_PRESENT), 0);
	CHECK_EQ(count_of(80, 32, PG_PTE_PRESENT), 32);
	CHECK_EQ(count_of(112, 912, PG_PTE_PRESENT), 0);
	world_check();
	check_filled(0, 1024);
	world_close();
}

TEST(what_lies_before_a_stream_that_goes_down_is_loaded_ahead)
{
	world_open(1024, 8192, 16);
	fill(0, 1024);
	migrate(0, 1024, true);
	get_byte(1020, 0);
	get_byte(1007, 0);
	while (pg_load_ahead(&w.mm))
		;
	CHECK_EQ(count_of(992, 16, PG_PTE_PRESENT), 16);
	CHECK_EQ(count_of(976, 16, PG_PTE_PRESENT), 0);
	CHECK_EQ(count_of(960, 16, PG_PTE_PRESENT), 16);
	CHECK_EQ(count_of(0, 960, PG_PTE_PRESENT), 0);
	get_byte(991, 0);
	/* The next ones first. */
	CHECK(pg_load_ahead(&w.mm));
	CHECK_EQ(count_of(928, 16, PG_PTE_PRESENT), 16);
	CHECK_EQ(count_of(912, 16, PG_PTE_PRESENT), 0);
	while (pg_load_ahead(&w.mm))
		;
	CHECK_EQ(count_of(912, 16, PG_PTE_PRESENT), 16);
	CHECK_EQ(count_of(0, 912, PG_PTE_PRESENT), 0);
	check_filled(0, 1024);
	world_close();
}

TEST(two_streams_are_loaded_ahead_side_by_side)
{
	world_open(4096, 8192, 16);
	fill(0, 4096);
	migrate(0, 4096, true);
	get_byte(0, 0);
	get_byte(4095, 0);
	get_byte(16, 0);
	get_byte(4079, 0);
	while (pg_load_ahead(&w.mm))
		;
	CHECK_EQ(count_of(48, 16, PG_PTE_PRESENT), 16);
	CHECK_EQ(count_of(4032, 16, PG_PTE_PRESENT), 16);
	check_filled(0, 4096);
	world_close();
}

TEST(a_stream_that_goes_down_ends_with_page_0)
{
	struct pg_stream *s = &w.mm.stream[0];

	world_open(64, 2048, 16);
	/* Nothing is away there. */
	pg_store(&s->down, 1, relaxed);
	pg_store(&s->ahead, (uint64_t)0 << 12 | 16, relaxed);
	pg_store(&w.mm.asked, 1, relaxed);
	CHECK(pg_load_ahead(&w.mm));
	CHECK_EQ(pg_load(&s->ahead, relaxed), 0);
	CHECK(!pg_load_ahead(&w.mm));
	world_close();
}

/* Nobody loads what is asked for: the stream must not ask for all there is. */
TEST(a_stream_asks_again_only_where_the_last_request_ends)
{
	world_open(4096, 16384, 16);
	fill(0, 4096);
	migrate(0, 4096, true);
	for (size_t i = 0; i < 1024; i += 16)
		get_byte(i, 0);
	while (pg_load_ahead(&w.mm))
		;
	/* 1024, a block, and as much again at most. */
	CHECK(count_of(0, 4096, PG_PTE_PRESENT) <= 2 * 1024 + 32);
	CHECK(count_of(1024, 3072, PG_PTE_PRESENT) > 256);
	check_filled(0, 4096);
	world_close();
}

TEST(nothing_is_loaded_ahead_of_touches_without_order)
{
	uint64_t rng = 1;

	world_open(4096, 8192, 16);
	fill(0, 4096);
	migrate(0, 4096, true);
	for (int i = 0; i < 20; i++) {
		rng = rng * 6364136223846793005u + 1442695040888963407u;
		/* Far from each other: each in a part of its own. */
		get_byte((size_t)i * 200 + (rng >> 33) % 64, 0);
		CHECK(!pg_load_ahead(&w.mm));
	}
	CHECK_EQ(count_of(0, 4096, PG_PTE_PRESENT), 20);
	world_close();
}

TEST(what_is_loaded_ahead_ends_with_its_range)
{
	world_open(64, 8192, 16);
	fill(0, 64);
	migrate(0, 64, true);
	CHECK_EQ(get_byte(16, 16), byte_of(16));
	CHECK_EQ(get_byte(32, 32), byte_of(32));
	drop(50, 14);
	while (pg_load_ahead(&w.mm))
		;
	CHECK_EQ(count_of(50, 14, PG_PTE_HOLE), 14);
	world_check();
	check_filled(0, 50);
	world_close();
}

TEST(R91_after_a_partial_unmap_only_the_rest_comes)
{
	world_open(512, 4096, 64);
	fill(0, 64);
	migrate(0, 64, true);
	drop(8, 8);
	CHECK_EQ(migrate(0, 64, false), 56);
	CHECK_EQ(count_of(8, 8, PG_PTE_HOLE), 8);
	CHECK_EQ(counter("loads") + counter("prefetched"), 56);
	CHECK_EQ(tdev.stored, 0);
	world_check();
	check_filled(0, 8);
	check_filled(16, 48);
	CHECK_EQ(get_byte(9, 9), 0);
	world_close();
}

static unsigned int fills_to_fail;

static int fail_fill(enum pg_soft_op op, uintptr_t va)
{
	(void)va;
	if ((op != PG_SOFT_FILL && op != PG_SOFT_ZERO) || !fills_to_fail)
		return 0;
	fills_to_fail--;
	return -ENOMEM;
}

TEST(R90_without_memory_for_a_folio_the_one_page_comes)
{
	world_open(512, 4096, 64);
	fill(0, 128);
	migrate(0, 128, true);
	CHECK_EQ(get_byte(10, 10), byte_of(10));
	empty_pool();
	world_check();
	fills_to_fail = 1;
	w.on_op = fail_fill;
	/* The whole folio would come, if there were room for it. */
	CHECK_EQ(get_byte(40, 40), byte_of(40));
	CHECK_EQ(fills_to_fail, 0);
	CHECK_EQ(count_of(0, 64, PG_PTE_PRESENT), 2);
	CHECK_EQ(counter("poisoned"), 0);
	world_check();
	check_filled(0, 128);
	world_close();
}

TEST(R90_without_any_memory_a_fault_waits_and_nothing_is_lost)
{
	uint8_t v;

	world_open(512, 4096, 64);
	fill(0, 64);
	migrate(0, 64, true);
	empty_pool();
	fills_to_fail = 1000;
	w.on_op = fail_fill;
	CHECK_EQ(pg_soft_read(w.mmu, AT(10), &v), -EAGAIN);
	CHECK_EQ(pg_soft_read(w.mmu, AT(100), &v), -EAGAIN);
	CHECK_EQ(count_of(0, 64, PG_PTE_DEVICE), 64);
	world_check();
	w.on_op = NULL;
	check_filled(0, 64);
	CHECK_EQ(get_byte(100, 0), 0);
	world_close();
}

static int give_error;

static int fail_give(enum pg_soft_op op, uintptr_t va)
{
	return (op == PG_SOFT_GIVE || op == PG_SOFT_ZERO) && va == AT(40)
		       ? give_error
		       : 0;
}

TEST(a_page_that_cannot_be_given_stays_on_the_device)
{
	struct pgmap_folio *folio;
	uint64_t pfn;

	world_open(512, 4096, 64);
	fill(0, 64);
	migrate(0, 64, true);
	give_error = -ENOMEM;
	w.on_op = fail_give;
	CHECK(pg_migrate_get_folio(&w.mm, AT(3), &folio, &pfn));
	CHECK_EQ(pg_migrate_to_ram(&w.mm, folio, AT(3), true), -ENOMEM);
	pgmap_folio_unlock(folio);
	pgmap_folio_put(folio);
	CHECK_EQ(count_of(0, 40, PG_PTE_PRESENT), 40);
	CHECK_EQ(count_of(40, 24, PG_PTE_DEVICE), 24);
	world_check();
	w.on_op = NULL;
	check_filled(0, 64);
	world_close();
}

TEST(a_range_that_was_unmapped_under_a_load_becomes_a_hole)
{
	world_open(512, 4096, 64);
	fill(0, 64);
	migrate(0, 64, true);
	give_error = -ENOENT;
	w.on_op = fail_give;
	CHECK_EQ(migrate(0, 64, false), 64);
	CHECK_EQ(state_of(40), PG_PTE_HOLE);
	CHECK_EQ(count_of(0, 64, PG_PTE_PRESENT), 63);
	w.on_op = NULL;
	world_check();
	world_close();
}

TEST(R90_zeros_that_cannot_be_given_are_given_later)
{
	uint8_t v;

	world_open(512, 4096, 64);
	give_error = -ENOMEM;
	w.on_op = fail_give;
	CHECK_EQ(pg_soft_read(w.mmu, AT(40), &v), -EAGAIN);
	CHECK_EQ(state_of(40), PG_PTE_HOLE);
	world_check();
	/* Any other reason is no lack of memory: the touch comes again. */
	give_error = -EIO;
	CHECK_EQ(pg_fault(&w.mm, AT(40), 0), PG_FAULT_DONE);
	CHECK_EQ(state_of(40), PG_PTE_HOLE);
	w.on_op = NULL;
	CHECK_EQ(get_byte(40, 0), 0);
	CHECK_EQ(state_of(40), PG_PTE_PRESENT);
	world_check();
	world_close();
}

TEST(a_stuck_page_that_was_dropped_behind_our_back_is_stuck_no_more)
{
	world_open(64, 1024, 16);
	fill(0, 16);
	pg_soft_pin(w.mmu, AT(5), true);
	CHECK_EQ(migrate(0, 16, true), 15);
	CHECK_EQ(pg_load(&w.mm.stuck, relaxed), 1);
	pg_soft_pin(w.mmu, AT(5), false);
	pg_soft_zap(w.mmu, AT(5), 1);
	CHECK_EQ(get_byte(5, 5), 0);
	CHECK_EQ(pg_load(&w.mm.stuck, relaxed), 0);
	world_check();
	world_close();
}

TEST(a_page_is_there_by_our_books_when_nobody_can_tell)
{
	struct pg_mmu_ops ops;
	const struct pg_mmu_ops *soft;

	world_open(64, 1024, 16);
	fill(0, 16);
	soft = w.mmu->ops;
	ops = *soft;
	ops.present = present_fails;
	w.mmu->ops = &ops;
	CHECK_EQ(pg_fault(&w.mm, AT(3), 0), PG_FAULT_DONE);
	CHECK_EQ(state_of(3), PG_PTE_PRESENT);
	w.mmu->ops = soft;
	check_filled(0, 16);
	world_close();
}

static int no_load(const struct pgmap_io *io)
{
	(void)io;
	return -EIO;
}

TEST(a_page_that_is_lost_is_poisoned_again_by_its_fault)
{
	uint8_t v;

	world_open(64, 1024, 1);
	fill(0, 2);
	migrate(0, 1, true);
	tdev.on_load = no_load;
	log_catch();
	CHECK_EQ(migrate(0, 1, false), 0);
	log_release();
	CHECK_EQ(state_of(0), PG_PTE_POISON);
	CHECK_EQ(pg_fault(&w.mm, AT(0), 0), PG_FAULT_LOST);
	CHECK_EQ(pg_fault_here(&w.mm, AT(0), 0), PG_FAULT_LOST);
	CHECK_EQ(pg_soft_read(w.mmu, AT(0), &v), -EHWPOISON);
	check_filled(1, 1);
	world_close();
}

static pg_atomic32 changing;

static void *change(void *arg)
{
	pgmap_mm_change_begin(&w.mm);
	pg_store(&changing, 1, release);
	usleep(20000);
	pgmap_mm_change_end(&w.mm);
	return arg;
}

TEST(a_thread_that_serves_itself_waits_for_who_is_in_the_way)
{
	pthread_t t;

	world_open(64, 1024, 16);
	fill(0, 4);
	migrate(0, 4, true);
	CHECK_EQ(pthread_create(&t, NULL, change, NULL), 0);
	while (!pg_load(&changing, acquire))
		pg_yield();
	CHECK_EQ(pg_fault(&w.mm, AT(1), 0), PG_FAULT_PARKED);
	CHECK_EQ(pg_fault_here(&w.mm, AT(1), 0), PG_FAULT_DONE);
	CHECK_EQ(pthread_join(t, NULL), 0);
	CHECK_EQ(state_of(1), PG_PTE_PRESENT);
	check_filled(0, 4);
	world_close();
}

/* Another moves the page. */
static void *let_go(void *arg)
{
	usleep(20000);
	pg_pt_lock(&w.mm.pt, AT(1));
	pg_pte_write(&w.mm.pt, AT(1), *(pg_pte_t *)arg);
	pg_pt_unlock(&w.mm.pt, AT(1));
	return NULL;
}

TEST(a_thread_that_serves_itself_waits_for_a_page_in_flight)
{
	pthread_t t;
	pg_pte_t e;

	world_open(64, 1024, 16);
	fill(0, 4);
	migrate(0, 4, true);
	pg_pt_lock(&w.mm.pt, AT(1));
	e = pg_pte_read(&w.mm.pt, AT(1));
	pg_pte_write(&w.mm.pt, AT(1), pg_pte_make(PG_PTE_MIGRATING, 7777));
	pg_pt_unlock(&w.mm.pt, AT(1));
	CHECK_EQ(pthread_create(&t, NULL, let_go, &e), 0);
	CHECK_EQ(pg_fault_here(&w.mm, AT(1), 0), PG_FAULT_DONE);
	CHECK_EQ(pthread_join(t, NULL), 0);
	check_filled(0, 4);
	world_close();
}

TEST(memory_that_nobody_watches_is_foreign)
{
	world_open(64, 1024, 16);
	CHECK_EQ(pg_fault_here(&w.mm, AT(100000), 0), PG_FAULT_FOREIGN);
	world_close();
}

TEST(R92_a_load_succeeds_when_the_budget_is_used_up_by_pinned_pages)
{
	world_open(512, 64, 16);
	fill(0, 16);
	migrate(0, 16, true);
	for (size_t i = 16; i < 64; i += 16) {
		fill(i, 16);
		for (size_t k = i; k < i + 16; k++)
			pg_soft_pin(w.mmu, AT(k), true);
	}
	pg_store(&w.mm.budget, 48, relaxed);
	check_filled(0, 16);
	fill(100, 1);
	world_check();
	CHECK(pg_mm_used(&w.mm) > 48);
	for (size_t k = 16; k < 64; k++)
		pg_soft_pin(w.mmu, AT(k), false);
	/* Back under it as soon as that is possible. */
	while (pg_evict_ahead(&w.mm))
		;
	CHECK(pg_mm_used(&w.mm) <= 48);
	check_filled(0, 64);
	world_close();
}

/* ---- The writer ---- */

TEST(a_fault_never_waits_for_a_writer_and_comes_again)
{
	world_open(64, 1024, 16);
	fill(0, 16);
	migrate(0, 16, true);
	pgmap_mm_change_begin(&w.mm);
	CHECK_EQ(pg_fault(&w.mm, AT(3), 0), PG_FAULT_PARKED);
	CHECK_EQ(pg_load(&w.mm.parked, relaxed), 1);
	pgmap_mm_change_end(&w.mm);
	CHECK_EQ(pg_load(&w.mm.parked, relaxed), 0);
	check_filled(0, 16);
	world_close();
}

static unsigned int ends;

static void count_end(struct pgmap_mm *mm)
{
	MUST(mm == &w.mm);
	ends++;
}

TEST(the_end_of_a_change_wakes_only_if_a_fault_was_parked)
{
	world_open(64, 1024, 16);
	w.mm.change_end = count_end;
	ends = 0;
	pgmap_mm_change_begin(&w.mm);
	pgmap_mm_change_end(&w.mm);
	CHECK_EQ(ends, 0);
	pgmap_mm_change_begin(&w.mm);
	CHECK_EQ(pg_fault(&w.mm, AT(3), 0), PG_FAULT_PARKED);
	pgmap_mm_change_end(&w.mm);
	CHECK_EQ(ends, 1);
	world_close();
}

TEST(a_try_to_change_that_fails_wakes_who_was_sent_away_by_it)
{
	world_open(64, 1024, 16);
	w.mm.change_end = count_end;
	ends = 0;
	CHECK(pg_mm_change_trybegin(&w.mm));
	CHECK_EQ(pg_fault(&w.mm, AT(3), 0), PG_FAULT_PARKED);
	pgmap_mm_change_end(&w.mm);
	CHECK_EQ(ends, 1);
	/* A reader is there, and a fault met the attempt, not the reader. */
	pg_read_lock(&w.mm.lock, LOCK_MM);
	pg_store(&w.mm.parked, 1, relaxed);
	CHECK(!pg_mm_change_trybegin(&w.mm));
	CHECK_EQ(ends, 2);
	CHECK(!pg_mm_change_trybegin(&w.mm));
	CHECK_EQ(ends, 2);
	pg_read_unlock(&w.mm.lock, LOCK_MM);
	world_close();
}

/* ---- Many threads ---- */

#define READERS 16
static _Atomic(unsigned int) gathered, done, hooked;
static pthread_t readers[READERS];

static void *read_thread(void *arg)
{
	uint8_t v = 0;

	(void)arg;
	gathered++;
	MUST(!pg_soft_read(w.mmu, AT(7) + 7, &v));
	MUST(v == byte_of(7));
	done++;
	return NULL;
}

/* Whoever comes first has the folio's lock here; the others then wait. */
static int gather(enum pg_soft_op op, uintptr_t va)
{
	(void)va;
	if (op != PG_SOFT_FILL || hooked++)
		return 0;
	for (int i = 0; i < READERS; i++)
		MUST(!pthread_create(&readers[i], NULL, read_thread, NULL));
	while (gathered < READERS)
		usleep(1000);
	usleep(100000);
	MUST(done == 0);
	MUST(state_of(7) == PG_PTE_DEVICE);
	return 0;
}

TEST(N12_R89_R93_of_many_who_fault_one_page_one_loads_it)
{
	alarm(60);
	world_open(64, 1024, 16);
	fill(0, 16);
	migrate(0, 16, true);
	empty_pool();
	gathered = done = hooked = 0;
	w.on_op = gather;
	CHECK_EQ(get_byte(7, 7), byte_of(7));
	for (int i = 0; i < READERS; i++)
		pthread_join(readers[i], NULL);
	alarm(0);
	w.on_op = NULL;
	CHECK_EQ(done, READERS);
	/* The first try of whoever was first. */
	CHECK_EQ(hooked, 1);
	CHECK_EQ(tdev.loads, 1);
	/* Nobody looked more often than once in vain. */
	CHECK(counter("retries") <= READERS);
	world_check();
	world_close();
}

/* A few pages that a few threads fault all the time, while a third evicts
 * them, so that their slots are freed and used again at once. */

static _Atomic(bool) stop;

static void *touch_thread(void *arg)
{
	uint64_t seed = (uint64_t)(uintptr_t)arg | 1;

	while (!stop) {
		size_t i = test_random(&seed) % 8;
		uint8_t v = 0;

		MUST(!pg_soft_read(w.mmu, AT(i) + i, &v));
		MUST(v == byte_of(i));
		done++;
	}
	return NULL;
}

TEST(N10_R88_R93_a_slot_that_was_freed_meanwhile_is_not_taken)
{
	uint64_t seed = test_seed();
	pthread_t t[3];

	alarm(60);
	world_open(64, 1024, 4);
	fill(0, 8);
	stop = false;
	done = 0;
	for (int i = 0; i < 3; i++)
		CHECK_EQ(pthread_create(
				 &t[i], NULL, touch_thread,
				 (void *)(uintptr_t)(seed + (unsigned)i * 2)),
			 0);
	while (!done)
		sched_yield();
	for (int i = 0; i < 20000; i++) {
		MUST(!pgmap_migrate(&w.mm, PTR(0), 8 * PAGE, true, NULL));
		if (i % 64 == 0)
			sched_yield();
	}
	stop = true;
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	alarm(0);
	check_filled(0, 8);
	world_close();
}

TEST_MAIN()
