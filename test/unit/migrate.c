/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Migration: what moves, what stays, and what happens in between.
 */
#include "world.h"

static unsigned int calls;

/* ---- What moves ---- */

TEST(R73_holes_move_as_zeros_and_pages_with_their_contents)
{
	world_open(64, 1024, 16);
	fill(0, 8);
	drop(8, 8);
	CHECK_EQ(count_of(8, 8, PG_PTE_HOLE), 8);
	CHECK_EQ(migrate(0, 16, true), 16);
	CHECK_EQ(count_of(0, 16, PG_PTE_DEVICE), 16);
	CHECK_EQ(tdev.stored, 16);
	world_check();
	check_filled(0, 8);
	for (size_t i = 8; i < 16; i++)
		CHECK_EQ(get_byte(i, i), 0);
	world_close();
}

TEST(R86_nothing_to_move_is_no_error)
{
	size_t moved;

	world_open(64, 1024, 16);
	CHECK_EQ(migrate(0, 64, false), 0);
	CHECK_EQ(migrate(0, 64, true), 64);
	CHECK_EQ(migrate(0, 64, true), 0);
	CHECK_EQ(migrate(5, 1, false), 1);
	/* Only a range that is not managed, or none at all, is one. */
	CHECK_EQ(pgmap_migrate(&w.mm, PTR(0), 65 * PAGE, true, &moved),
		 -EFAULT);
	CHECK_EQ(moved, 0);
	CHECK_EQ(pgmap_migrate(&w.mm, PTR(200), PAGE, true, &moved), -EFAULT);
	CHECK_EQ(pgmap_migrate(&w.mm, (char *)PTR(0) + 1, PAGE, true, NULL),
		 -EINVAL);
	CHECK_EQ(pgmap_migrate(&w.mm, PTR(0), PAGE + 1, true, NULL), -EINVAL);
	CHECK_EQ(pgmap_migrate(&w.mm, PTR(0), -PAGE, true, NULL), -EINVAL);
	CHECK_EQ(pgmap_migrate(&w.mm, PTR(0), 0, true, &moved), 0);
	world_close();
}

TEST(both_ways_all_pages_are_counted)
{
	world_open(2048, 8192, 512);
	fill(0, 2048);
	CHECK_EQ(migrate(100, 1500, true), 1500);
	CHECK_EQ(migrate(0, 2048, false), 1500);
	CHECK_EQ(count_of(0, 2048, PG_PTE_PRESENT), 2048);
	check_filled(0, 2048);
	world_close();
}

static unsigned int orders[16], nr_orders;

static int note_order(const struct pgmap_io *io)
{
	MUST(io->slot % io->nr == 0);
	if (nr_orders < 16)
		orders[nr_orders++] = io->nr;
	return 0;
}

TEST(R61_a_run_becomes_folios_as_large_as_its_alignment_allows)
{
	static const unsigned int want[] = {1,	2,   4, 8, 16, 32,
					    64, 128, 4, 2, 1};

	world_open(512, 1024, 512);
	tdev.on_store = note_order;
	nr_orders = 0;
	CHECK_EQ(migrate(1, 262, true), 262);
	CHECK_EQ(nr_orders, 11);
	for (int i = 0; i < 11; i++)
		CHECK_EQ(orders[i], want[i]);
	world_check();
	nr_orders = 0;
	CHECK_EQ(migrate(0, 512, false), 262);
	CHECK_EQ(migrate(0, 512, true), 512);
	CHECK_EQ(nr_orders, 1);
	CHECK_EQ(orders[0], 512);
	CHECK_EQ(pgmap_folio_order(folio_of(511)), 9);
	world_close();
}

/* All there is on the device, the largest first. Return: folios. */
static size_t take_all(struct pgmap_folio *keep[32])
{
	size_t n = 0;

	for (unsigned int o = PGMAP_PMD_ORDER + 1; o-- > 0;)
		while (n < 32 && !pg_device_alloc(w.dev, o, &keep[n]))
			pgmap_folio_unlock(keep[n++]);
	CHECK(n < 32);
	return n;
}

TEST(R112_without_a_large_folio_left_small_ones_do)
{
	struct pgmap_folio *keep[32];
	size_t n;

	world_open(64, 1024, 16);
	fill(0, 16);
	/* Give single slots back. */
	n = take_all(keep);
	CHECK_EQ(pgmap_folio_order(keep[0]), 9);
	pgmap_folio_put(keep[0]);
	static struct pgmap_folio *small[512];

	for (int i = 0; i < 512; i++) {
		CHECK_EQ(pg_device_alloc(w.dev, 0, &small[i]), 0);
		pgmap_folio_unlock(small[i]);
	}
	for (int i = 0; i < 16; i++)
		pgmap_folio_put(small[2 * i]);
	CHECK_EQ(migrate(0, 16, true), 16);
	for (size_t i = 0; i < 16; i++)
		CHECK_EQ(pgmap_folio_order(folio_of(i)), 0);
	check_filled(0, 16);
	for (int i = 0; i < 512; i++)
		if (i >= 32 || i % 2)
			pgmap_folio_put(small[i]);
	while (--n)
		pgmap_folio_put(keep[n]);
	world_close();
}

TEST(R52_each_page_that_is_away_holds_one_reference_of_its_folio)
{
	struct pgmap_folio *folio;

	world_open(64, 1024, 16);
	fill(0, 16);
	migrate(0, 16, true);
	folio = folio_of(0);
	CHECK(folio_of(15) == folio);
	CHECK_EQ(pgmap_folio_count(folio), 16);
	CHECK_EQ(pg_load(&folio->mapcount, relaxed), 16);
	CHECK_EQ(folio->index, AT(0) / PAGE);
	CHECK_EQ(folio->mapping, (uintptr_t)&w.mm);
	drop(3, 2);
	CHECK_EQ(pgmap_folio_count(folio), 14);
	CHECK_EQ(pg_load(&folio->mapcount, relaxed), 14);
	world_check();
	check_filled(0, 3);
	check_filled(5, 11);
	world_close();
}

TEST(N3_R46_a_hole_on_a_used_slot_is_not_taken_for_its_last_owner)
{
	struct pgmap_folio *folio, *keep[32];
	size_t n;

	world_open_on(device_open(1), 64, 1024, 1);
	put_byte(5, 0, 0x55);
	migrate(5, 1, true);
	folio = folio_of(5);
	CHECK_EQ(folio->index, AT(5) / PAGE);
	/* There is no other. */
	n = take_all(keep);
	drop(5, 1);
	CHECK_EQ(folio->mapping, 0);
	migrate(9, 1, true);
	CHECK(folio_of(9) == folio);
	CHECK_EQ(folio->index, AT(9) / PAGE);
	CHECK_EQ(get_byte(9, 0), 0);
	CHECK_EQ(get_byte(5, 0), 0);
	while (n)
		pgmap_folio_put(keep[--n]);
	world_close();
}

TEST(N4_R51_the_page_that_is_unmapped_is_the_one_its_entry_names)
{
	struct pgmap_folio *folio, *single;

	world_open(1024, 4096, 512);
	fill(0, 1024);
	migrate(512, 512, true);
	migrate(7, 1, true); /* order 0 */
	folio = folio_of(512);
	single = folio_of(7);
	CHECK_EQ(pgmap_folio_order(folio), 9);
	CHECK_EQ(pgmap_folio_order(single), 0);
	drop(512 + 300, 1); /* a tail */
	drop(512 + 511, 1);
	CHECK_EQ(pgmap_folio_count(folio), 510);
	CHECK_EQ(pgmap_folio_count(single), 1);
	world_check();
	drop(512, 1); /* the head page; the folio stays */
	CHECK_EQ(pgmap_folio_count(folio), 509);
	drop(7, 1);
	CHECK_EQ(pgmap_folio_count(single), 0);
	world_check();
	check_filled(513, 299);
	check_filled(512 + 301, 210);
	CHECK_EQ(get_byte(512, 512), 0);
	CHECK_EQ(get_byte(7, 7), 0);
	world_close();
}

TEST(N55_R57_a_used_slot_gives_nothing_of_its_last_life_away)
{
	world_open(64, 1024, 16);
	for (size_t i = 0; i < 16; i++)
		for (size_t k = 0; k < PAGE; k += 64)
			put_byte(i, k, 0xee);
	/* The secret goes through a buffer, and to a slot; both get free. */
	migrate(0, 16, true);
	drop(0, 16);
	empty_pool();
	CHECK_EQ(migrate(16, 16, true), 16);
	for (size_t i = 16; i < 32; i++)
		for (size_t k = 0; k < PAGE; k += 64)
			CHECK_EQ(get_byte(i, k), 0);
	/* A fault on a hole uses the buffers, too. */
	for (size_t k = 0; k < PAGE; k += 64)
		CHECK_EQ(get_byte(40, k), 0);
	world_close();
}

TEST(N60_no_page_is_taken_for_clean)
{
	world_open(64, 1024, 16);
	fill(0, 16);
	for (uint8_t round = 0; round < 4; round++) {
		/* All of it, then one page of a folio that stays away. */
		migrate(0, 16, true);
		if (round % 2)
			migrate(0, 16, false);
		put_byte(3, 100, round);
		put_byte(4, 100, (uint8_t)(round + 1));
		migrate(0, 16, true);
		CHECK_EQ(get_byte(3, 100), round);
		CHECK_EQ(get_byte(4, 100), round + 1);
		check_filled(0, 16);
	}
	world_close();
}

/* ---- What stays ---- */

TEST(R75_R94_a_pinned_page_stays_and_the_others_go)
{
	world_open(64, 1024, 16);
	fill(0, 16);
	pg_soft_pin(w.mmu, AT(5), true);
	pg_soft_pin(w.mmu, AT(15), true);
	CHECK_EQ(migrate(0, 16, true), 14);
	CHECK_EQ(state_of(5), PG_PTE_PRESENT);
	CHECK_EQ(state_of(15), PG_PTE_PRESENT);
	CHECK_EQ(entry(5) & PG_PTE_STUCK, PG_PTE_STUCK);
	CHECK_EQ(counter("busy"), 2);
	world_check();
	check_filled(0, 16);
	/* Later it can go. */
	pg_soft_pin(w.mmu, AT(5), false);
	CHECK_EQ(migrate(5, 1, true), 1);
	check_filled(0, 16);
	pg_soft_pin(w.mmu, AT(15), false);
	world_close();
}

/* Pages 3 and 4 vanish behind our back before they are taken. */
static int zap_before_take(enum pg_soft_op op, uintptr_t va)
{
	if (op == PG_SOFT_TAKE && va == AT(3))
		pg_soft_zap(w.mmu, AT(3), 2);
	return 0;
}

static int take_finds_nothing(enum pg_soft_op op, uintptr_t va)
{
	return op == PG_SOFT_TAKE && va == AT(5) ? -ENOENT : 0;
}

TEST(a_page_that_was_not_found_but_is_there_stays)
{
	world_open(64, 1024, 16);
	fill(0, 16);
	w.on_op = take_finds_nothing;
	CHECK_EQ(migrate(0, 16, true), 15);
	CHECK_EQ(state_of(5), PG_PTE_PRESENT);
	w.on_op = NULL;
	world_check();
	check_filled(0, 16);
	world_close();
}

TEST(a_page_that_was_dropped_behind_our_back_becomes_a_hole)
{
	world_open(64, 1024, 16);
	fill(0, 16);
	w.on_op = zap_before_take;
	CHECK_EQ(migrate(0, 16, true), 14);
	CHECK_EQ(state_of(3), PG_PTE_HOLE);
	CHECK_EQ(state_of(4), PG_PTE_HOLE);
	world_check();
	CHECK_EQ(get_byte(3, 3), 0);
	CHECK_EQ(get_byte(4, 4), 0);
	check_filled(0, 3);
	check_filled(5, 11);
	world_close();
}

static enum pg_soft_op fail_op;
static int fail_ret;
static unsigned int fail_times;

static int fail_some(enum pg_soft_op op, uintptr_t va)
{
	(void)va;
	if (op != fail_op || !fail_times)
		return 0;
	fail_times--;
	return fail_ret;
}

static void fail_next(enum pg_soft_op op, int ret, unsigned int times)
{
	fail_op = op;
	fail_ret = ret;
	fail_times = times;
	w.on_op = fail_some;
}

TEST(what_the_kernel_refuses_for_any_reason_stays)
{
	static const int errors[] = {-EBUSY, -EINVAL, -ENOMEM, -EAGAIN};

	for (size_t i = 0; i < 4; i++) {
		world_open(64, 1024, 16);
		fill(0, 16);
		/* -EAGAIN is tried again for a while first. */
		fail_next(PG_SOFT_TAKE, errors[i],
			  errors[i] == -EAGAIN ? 64 : 1);
		CHECK_EQ(migrate(0, 16, true), 15);
		CHECK_EQ(state_of(0), PG_PTE_PRESENT);
		w.on_op = NULL;
		world_check();
		check_filled(0, 16);
		world_close();
	}
}

TEST(a_lost_race_is_tried_again)
{
	world_open(64, 1024, 16);
	fill(0, 16);
	fail_next(PG_SOFT_TAKE, -EAGAIN, 10);
	CHECK_EQ(migrate(0, 16, true), 16);
	fail_next(PG_SOFT_GIVE, -EAGAIN, 10);
	CHECK_EQ(migrate(0, 16, false), 16);
	check_filled(0, 16);
	world_close();
}

TEST(R80_R112_pages_without_a_destination_go_back_to_RAM)
{
	struct pgmap_folio *keep[32];
	size_t n;

	world_open(64, 1024, 16);
	fill(0, 16);
	n = take_all(keep);
	log_catch();
	CHECK_EQ(migrate(0, 16, true), 0);
	CHECK_EQ(count_of(0, 16, PG_PTE_PRESENT), 16);
	CHECK_EQ(counter("full"), 16);
	CHECK_EQ(log_lines, 1);
	CHECK(strstr(log_text, "full"));
	check_filled(0, 16);
	/* It is said once. */
	CHECK_EQ(migrate(0, 16, true), 0);
	CHECK_EQ(log_lines, 1);
	log_release();
	while (n)
		pgmap_folio_put(keep[--n]);
	CHECK_EQ(migrate(0, 16, true), 16);
	check_filled(0, 16);
	world_close();
}

static int store_status;

static int fail_small(const struct pgmap_io *io)
{
	return io->nr < 8 ? store_status : 0;
}

TEST(R84_what_the_device_did_not_take_is_where_it_was)
{
	static const int errors[] = {-ENOSPC, -EIO, -ENOMEM};

	for (size_t i = 0; i < 3; i++) {
		world_open(64, 1024, 16);
		fill(0, 16);
		log_catch();
		store_status = errors[i];
		tdev.on_store = fail_small;
		CHECK_EQ(migrate(0, 12, true), 8);
		CHECK_EQ(count_of(0, 8, PG_PTE_DEVICE), 8);
		CHECK_EQ(count_of(8, 8, PG_PTE_PRESENT), 8);
		CHECK_EQ(counter("full"), errors[i] == -ENOSPC ? 4 : 0);
		CHECK_EQ(counter("io_errors"), errors[i] == -ENOSPC ? 0 : 1);
		CHECK_EQ(log_lines, errors[i] == -ENOSPC);
		log_release();
		world_check();
		check_filled(0, 16);
		tdev.on_store = NULL;
		CHECK_EQ(migrate(0, 16, true), 16);
		check_filled(0, 16);
		world_close();
	}
}

static int refuse_all(const struct pgmap_io *io)
{
	(void)io;
	return -EIO;
}

TEST(a_page_that_can_neither_leave_nor_return_is_lost_and_never_wrong)
{
	uint8_t v;

	world_open(64, 1024, 16);
	fill(0, 16);
	log_catch();
	tdev.on_store = refuse_all;
	fail_next(PG_SOFT_GIVE, -ENOMEM, 64);
	CHECK_EQ(migrate(0, 16, true), 0);
	w.on_op = NULL;
	CHECK_EQ(state_of(0), PG_PTE_POISON);
	CHECK_EQ(log_lines, 1);
	CHECK(strstr(log_text, "lost"));
	log_release();
	world_check();
	CHECK_EQ(pg_soft_read(w.mmu, AT(0), &v), -EHWPOISON);
	check_filled(1, 15);
	/* Dropped, it is an ordinary page again. */
	drop(0, 1);
	CHECK_EQ(get_byte(0, 0), 0);
	world_close();
}

TEST(what_happened_to_a_place_meanwhile_is_not_undone)
{
	/* Somebody has filled it, or unmapped it. */
	static const struct {
		int error;
		enum pg_pte_state state;
	} t[] = {{-EEXIST, PG_PTE_PRESENT}, {-ENOENT, PG_PTE_HOLE}};

	for (size_t i = 0; i < 2; i++) {
		world_open(64, 1024, 16);
		fill(0, 16);
		tdev.on_store = refuse_all;
		fail_next(PG_SOFT_GIVE, t[i].error, 1);
		CHECK_EQ(migrate(0, 16, true), 0);
		w.on_op = NULL;
		CHECK_EQ(state_of(0), t[i].state);
		world_check();
		CHECK_EQ(get_byte(0, 0), 0);
		check_filled(1, 15);
		/* And on the way in. */
		tdev.on_store = NULL;
		CHECK_EQ(migrate(0, 16, true), 16);
		fail_next(PG_SOFT_GIVE, t[i].error, 1);
		migrate(0, 16, false);
		w.on_op = NULL;
		CHECK_EQ(state_of(0), t[i].state);
		world_check();
		CHECK_EQ(get_byte(0, 0), 0);
		check_filled(1, 15);
		world_close();
	}
}

TEST(what_a_dying_device_does_not_take_stays)
{
	world_open(64, 1024, 16);
	fill(0, 16);
	pgmap_kill(w.dev->map);
	CHECK_EQ(migrate(0, 16, true), 0);
	CHECK_EQ(count_of(0, 16, PG_PTE_PRESENT), 16);
	world_check();
	check_filled(0, 16);
	world_close();
}

static int bad_then_none(const struct pgmap_io *io)
{
	return io->nr > 1 || io->slot % 16 == 3 ? -EIO : 0;
}

TEST(a_page_that_is_lost_and_one_that_cannot_be_given_are_two_things)
{
	uint8_t v;

	world_open(64, 1024, 16);
	fill(0, 16);
	migrate(0, 16, true);
	tdev.on_load = bad_then_none;
	log_catch();
	fail_next(PG_SOFT_GIVE, -ENOMEM, 1);
	migrate(0, 16, false);
	log_release();
	w.on_op = NULL;
	tdev.on_load = NULL;
	CHECK_EQ(state_of(3), PG_PTE_POISON);
	CHECK_EQ(pg_soft_read(w.mmu, AT(3), &v), -EHWPOISON);
	world_check();
	check_filled(0, 3);
	check_filled(4, 12);
	world_close();
}

TEST(no_memory_for_zeros_leaves_the_holes)
{
	world_open(64, 1024, 16);
	fill(0, 4);
	drop(4, 12);
	fail_next(PG_SOFT_FILL, -ENOMEM, 1);
	CHECK_EQ(migrate(0, 16, true), 4);
	CHECK_EQ(count_of(4, 12, PG_PTE_HOLE), 12);
	w.on_op = NULL;
	world_check();
	check_filled(0, 4);
	world_close();
}

TEST(R48_R78_R79_a_reference_too_many_keeps_a_page_on_the_device)
{
	struct pgmap_folio *folio, *other;
	uint64_t pfn;

	world_open(64, 1024, 16);
	fill(0, 16);
	migrate(0, 16, true);
	other = folio_of(4);
	CHECK(pgmap_folio_tryget(other));
	CHECK(pg_migrate_get_folio(&w.mm, AT(4), &folio, &pfn));
	CHECK(folio == other);
	CHECK_EQ(pg_migrate_to_ram(&w.mm, folio, AT(4), true), -EAGAIN);
	/* All is undone. */
	CHECK_EQ(count_of(0, 16, PG_PTE_DEVICE), 16);
	CHECK_EQ(pgmap_folio_count(folio), 16 + 2);
	CHECK_EQ(tdev.loads, 0);
	pgmap_folio_put(other);
	CHECK_EQ(pg_migrate_to_ram(&w.mm, folio, AT(4), true), 0);
	CHECK_EQ(count_of(0, 16, PG_PTE_PRESENT), 16);
	pgmap_folio_unlock(folio);
	pgmap_folio_put(folio);
	CHECK_EQ(tdev.stored, 0);
	check_filled(0, 16);
	world_close();
}

/* ---- In between ---- */

/* A fault on page 2, which is on its way out, and another migration of it. */
static int look_meanwhile(const struct pgmap_io *io)
{
	size_t moved = 1;

	if (calls++)
		return 0;
	MUST(io->nr == 16);
	MUST(state_of(2) == PG_PTE_MIGRATING);
	MUST(!pg_soft_is_present(w.mmu, AT(2)));
	MUST(pg_fault(&w.mm, AT(2), 0) == PG_FAULT_PARKED);
	moved = pg_migrate_to_device(&w.mm, AT(0), 16, true);
	MUST(moved == 0);
	MUST(state_of(2) == PG_PTE_MIGRATING);
	return 0;
}

static unsigned int wakes;

static int count_wakes(enum pg_soft_op op, uintptr_t va)
{
	(void)va;
	wakes += op == PG_SOFT_WAKE;
	return 0;
}

TEST(R74_R76_a_page_in_flight_is_touched_and_moved_by_nobody)
{
	world_open(64, 1024, 16);
	fill(0, 16);
	calls = 0;
	tdev.on_store = look_meanwhile;
	CHECK_EQ(migrate(0, 16, true), 16);
	CHECK_EQ(calls, 1);
	world_check();
	check_filled(0, 16);
	world_close();
}

TEST(R84_who_waited_for_a_page_in_flight_is_woken)
{
	world_open(64, 1024, 16);
	fill(0, 16);
	calls = 0;
	wakes = 0;
	w.on_op = count_wakes;
	CHECK_EQ(migrate(16, 8, true), 8);
	CHECK_EQ(wakes, 0); /* nobody waited */
	tdev.on_store = look_meanwhile;
	CHECK_EQ(migrate(0, 16, true), 16);
	CHECK_EQ(calls, 1);
	CHECK_EQ(wakes, 1);
	world_close();
}

/* Core never lets a writer in while pages move; if one came in all the same,
 * what it did must stand. */

static void drop_now(size_t i, size_t nr)
{
	pg_mm_remove(&w.mm, AT(i), nr);
	pg_soft_zap(w.mmu, AT(i), nr);
}

static int drop_in_store(const struct pgmap_io *io)
{
	if (io->nr == 16)
		drop_now(3, 4);
	return 0;
}

TEST(N31_R95_a_page_that_was_unmapped_on_its_way_out_stays_unmapped)
{
	world_open(64, 1024, 16);
	fill(0, 16);
	tdev.on_store = drop_in_store;
	CHECK_EQ(migrate(0, 16, true), 12);
	CHECK_EQ(count_of(3, 4, PG_PTE_HOLE), 4);
	CHECK_EQ(pgmap_folio_count(folio_of(0)), 12);
	world_check();
	for (size_t i = 3; i < 7; i++)
		CHECK_EQ(get_byte(i, i), 0);
	check_filled(0, 3);
	check_filled(7, 9);
	world_close();
}

static int drop_all_in_store(const struct pgmap_io *io)
{
	if (io->nr == 16)
		drop_now(0, 16);
	return 0;
}

TEST(N31_R95_when_all_of_it_was_unmapped_its_folio_is_freed)
{
	world_open(64, 1024, 16);
	fill(0, 16);
	tdev.on_store = drop_all_in_store;
	CHECK_EQ(migrate(0, 16, true), 0);
	CHECK_EQ(count_of(0, 16, PG_PTE_HOLE), 16);
	CHECK_EQ(tdev.stored, 0);
	CHECK_EQ(pg_map_refs(w.dev->map), 0);
	world_check();
	CHECK_EQ(get_byte(0, 0), 0);
	world_close();
}

static int drop_in_load(const struct pgmap_io *io)
{
	if (!calls++)
		drop_now(3, 4);
	(void)io;
	return 0;
}

TEST(N31_R95_a_page_that_was_unmapped_on_its_way_in_stays_unmapped)
{
	world_open(64, 1024, 16);
	fill(0, 16);
	migrate(0, 16, true);
	calls = 0;
	tdev.on_load = drop_in_load;
	migrate(0, 16, false);
	CHECK_EQ(count_of(3, 4, PG_PTE_HOLE), 4);
	CHECK_EQ(count_of(0, 16, PG_PTE_PRESENT), 12);
	CHECK_EQ(tdev.stored, 0);
	world_check();
	for (size_t i = 3; i < 7; i++)
		CHECK_EQ(get_byte(i, i), 0);
	check_filled(0, 3);
	world_close();
}

static pthread_t dropper;
static _Atomic(bool) dropping;

static void *drop_thread(void *arg)
{
	(void)arg;
	dropping = true;
	pgmap_mm_change_begin(&w.mm);
	pgmap_mm_remove(&w.mm, PTR(0), 16 * PAGE);
	pg_soft_zap(w.mmu, AT(0), 16);
	pgmap_mm_change_end(&w.mm);
	return NULL;
}

static int start_drop(const struct pgmap_io *io)
{
	(void)io;
	if (calls++)
		return 0;
	MUST(!pthread_create(&dropper, NULL, drop_thread, NULL));
	while (!dropping)
		;
	usleep(20000);
	/* It waits for us. */
	MUST(state_of(0) == PG_PTE_MIGRATING);
	return 0;
}

TEST(N43_R95_what_was_dropped_while_it_moved_reads_as_zeros)
{
	for (int to_device = 0; to_device < 2; to_device++) {
		world_open(64, 1024, 16);
		fill(0, 16);
		migrate(0, 16, !to_device);
		calls = 0;
		dropping = false;
		tdev.on_store = tdev.on_load = start_drop;
		migrate(0, 16, to_device);
		CHECK_EQ(calls, 1);
		pthread_join(dropper, NULL);
		world_check();
		CHECK_EQ(count_of(0, 16, PG_PTE_HOLE), 16);
		for (size_t i = 0; i < 16; i++)
			CHECK_EQ(get_byte(i, i), 0);
		world_close();
	}
}

/* Page 9 is a hole when the migration starts, and is written meanwhile. */
static int fill_hole(const struct pgmap_io *io)
{
	(void)io;
	if (!calls++)
		MUST(!pg_soft_write(w.mmu, AT(9) + 1, 0x99));
	return 0;
}

TEST(N46_R81_a_hole_that_was_filled_meanwhile_keeps_what_was_written)
{
	world_open(64, 1024, 16);
	fill(0, 4);
	drop(4, 12);
	calls = 0;
	tdev.on_store = fill_hole;
	migrate(0, 16, true);
	CHECK_EQ(state_of(9), PG_PTE_PRESENT);
	world_check();
	CHECK_EQ(get_byte(9, 1), 0x99);
	check_filled(0, 4);
	world_close();
}

/* ---- Losses ---- */

static uint64_t bad_slot;

static int bad_page(const struct pgmap_io *io)
{
	return bad_slot >= io->slot && bad_slot < io->slot + io->nr ? -EIO : 0;
}

TEST(one_page_that_cannot_be_loaded_is_lost_alone)
{
	uint8_t v;

	world_open(64, 1024, 16);
	fill(0, 16);
	migrate(0, 16, true);
	bad_slot = pg_pte_value(entry(6)) - w.dev->first_pfn;
	tdev.on_load = bad_page;
	log_catch();
	CHECK_EQ(migrate(0, 16, false), 15);
	CHECK_EQ(log_lines, 1);
	log_release();
	CHECK_EQ(state_of(6), PG_PTE_POISON);
	CHECK_EQ(counter("poisoned"), 1);
	CHECK_EQ(pg_soft_read(w.mmu, AT(6), &v), -EHWPOISON);
	check_filled(0, 6);
	check_filled(7, 9);
	world_close();
}

TEST(a_flipped_bit_is_noticed_and_its_byte_never_seen)
{
	uint64_t slot;
	uint8_t v = 0;

	world_open(64, 1024, 16);
	fill(0, 16);
	migrate(0, 16, true);
	slot = pg_pte_value(entry(6)) - w.dev->first_pfn;
	tdev.mem[slot * PAGE + 6] ^= 1;
	log_catch();
	CHECK_EQ(pg_soft_read(w.mmu, AT(6) + 6, &v), -EHWPOISON);
	CHECK(strstr(log_text, "0x100006000"));
	CHECK_EQ(v, 0);
	CHECK_EQ(counter("poisoned"), 1);
	check_filled(0, 6);
	check_filled(7, 9);
	log_release();
	CHECK_EQ(pg_soft_write(w.mmu, AT(6), 1), -EHWPOISON);
	world_close();
}

/* ---- Folios in two regions ---- */

TEST(R99_a_folio_that_was_moved_over_a_region_boundary_comes_back)
{
	for (int split = 0; split < 2; split++) {
		world_open(2048, 4096, 512);
		fill(0, 512);
		migrate(0, 512, true);
		pgmap_mm_change_begin(&w.mm);
		if (split) {
			/* In two parts, with a gap between. */
			pgmap_mm_remap(&w.mm, PTR(0), 300 * PAGE, PTR(800),
				       300 * PAGE);
			pgmap_mm_remap(&w.mm, PTR(300), 212 * PAGE, PTR(1500),
				       212 * PAGE);
		} else {
			pgmap_mm_remap(&w.mm, PTR(0), 512 * PAGE, PTR(800),
				       512 * PAGE);
		}
		CHECK_EQ(pg_mm_adopt(&w.mm, AT(0), 2048), 0);
		pgmap_mm_change_end(&w.mm);
		world_check();
		CHECK_EQ(count_of(0, 512, PG_PTE_HOLE), 512);
		CHECK_EQ(count_of(800, 2048 - 800, PG_PTE_DEVICE), 512);
		for (size_t i = 0; i < 512; i++) {
			size_t at = (split && i >= 300 ? 1200 : 800) + i;

			CHECK_EQ(get_byte(at, i), byte_of(i));
			if (i % 64 == 0)
				world_check();
		}
		CHECK_EQ(tdev.stored, 0);
		world_close();
	}
}

/* ---- What the device holds already ---- */

/* As after many pages that came back and left unchanged. */
static void keep_copies(void)
{
	pg_store(&w.mm.same, 256, relaxed);
}

TEST(N60_what_did_not_change_is_not_stored_again)
{
	unsigned int stores;

	world_open(64, 1024, 16);
	fill(0, 64);
	migrate(0, 64, true);
	keep_copies();
	migrate(0, 64, false);
	CHECK_EQ(count_of(0, 64, PG_PTE_PRESENT), 64);
	CHECK_EQ(tdev.stored, 64);
	world_check();
	stores = tdev.stores;
	CHECK_EQ(migrate(0, 64, true), 64);
	CHECK_EQ(tdev.stores, stores);
	CHECK_EQ(counter("clean"), 64);
	world_check();
	check_filled(0, 64);
	world_close();
}

TEST(N60_one_byte_that_changed_makes_a_page_be_stored)
{
	world_open(64, 1024, 16);
	fill(0, 64);
	migrate(0, 64, true);
	for (size_t i = 0; i < 64; i++) {
		keep_copies();
		migrate(i, 1, false);
		put_byte(i, (i * 131) % PAGE, 0xee);
		CHECK_EQ(migrate(i, 1, true), 1);
		CHECK_EQ(get_byte(i, (i * 131) % PAGE), 0xee);
		world_check();
	}
	CHECK_EQ(counter("clean"), 0);
	world_close();
}

/* A large folio takes its space until its last page goes. */
TEST(a_folio_of_which_little_is_the_same_is_not_kept_for_that)
{
	world_open(16, 1024, 16);
	for (size_t changed = 2; changed <= 5; changed += 3) {
		fill(0, 16);
		migrate(0, 16, true);
		keep_copies();
		migrate(0, 16, false);
		CHECK_EQ(tdev.stored, 16);
		for (size_t i = 0; i < changed; i++)
			put_byte(i, 99, 0xee);
		migrate(0, 16, true);
		world_check();
		CHECK_EQ(tdev.stored, changed == 2 ? 18 : 16);
		CHECK_EQ(counter("clean"), 14);
		check_filled(0, 16);
		drop(0, 16);
	}
	world_close();
}

TEST(R52_a_copy_goes_with_its_page)
{
	world_open(64, 1024, 16);
	fill(0, 64);
	migrate(0, 64, true);
	keep_copies();
	migrate(0, 64, false);
	CHECK_EQ(tdev.stored, 64);
	drop(0, 16);
	world_check();
	CHECK_EQ(tdev.stored, 48);
	/* Dropped while it is away from the page table. */
	keep_copies();
	pgmap_mm_change_begin(&w.mm);
	pgmap_mm_unmap(&w.mm, PTR(16), 16 * PAGE);
	pgmap_mm_change_end(&w.mm);
	world_check();
	CHECK_EQ(tdev.stored, 32);
	check_filled(32, 32);
	world_close();
}

TEST(copies_are_kept_only_where_pages_leave_unchanged)
{
	world_open(64, 1024, 16);
	fill(0, 64);
	migrate(0, 64, true);
	keep_copies();
	for (int round = 0; round < 4; round++) {
		migrate(0, 64, false);
		for (size_t i = 0; i < 64; i++)
			put_byte(i, 9, (uint8_t)(round + 1));
		migrate(0, 64, true);
		world_check();
	}
	/* All were changed: no use in keeping more than a probe. */
	migrate(0, 64, false);
	CHECK(tdev.stored <= 16);
	for (size_t i = 0; i < 64; i++)
		CHECK_EQ(get_byte(i, 9), 4);
	world_close();
}

TEST(a_full_device_gives_up_copies_before_pages_must_stay)
{
	world_open_on(device_open(64), 128, 1024, 16);
	fill(0, 128);
	CHECK_EQ(migrate(0, 64, true), 64);
	keep_copies();
	migrate(0, 64, false);
	CHECK_EQ(tdev.stored, 64);
	/* No slot is free; those of the copies are. */
	CHECK_EQ(migrate(64, 64, true), 64);
	CHECK_EQ(counter("full"), 0);
	world_check();
	check_filled(0, 128);
	world_close();
}

TEST_MAIN()
