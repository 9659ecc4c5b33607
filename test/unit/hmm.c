/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a device may know of an address space.
 */
#include "core/hmm.h"
#include "core/unit.h"
#include "world.h"

#define OWNER 3

static void ignore(struct pg_notifier *n, const struct pg_notify_range *range)
{
	(void)n;
	(void)range;
}

static struct pg_notifier notifier;
static uint64_t got[16];

static void open_all(size_t nr)
{
	world_open(nr, 1024, 1);
	notifier =
		(struct pg_notifier){.end = UINTPTR_MAX, .invalidate = ignore};
	pgmap_mm_change_begin(&w.mm);
	pg_notifier_insert(&w.mm, &notifier);
	pgmap_mm_change_end(&w.mm);
}

static void close_all(void)
{
	pgmap_mm_change_begin(&w.mm);
	pg_notifier_remove(&w.mm, &notifier);
	pgmap_mm_change_end(&w.mm);
	world_close();
}

/* What a device of @owner sees of pages [i, i + nr), asking for @asked. */
static int see_as(uint8_t owner, size_t i, size_t nr, uint64_t asked)
{
	struct pg_hmm_range r = {
		.notifier = &notifier,
		.seq = pg_notifier_read_begin(&notifier),
		.start = AT(i),
		.end = AT(i + nr),
		.entry = got,
		.common = asked,
		.owner = owner,
	};

	return pg_hmm_range_fault(&w.mm, &r);
}

static int see(size_t i, size_t nr, uint64_t asked)
{
	return see_as(OWNER, i, nr, asked);
}

static void take(size_t i, size_t nr, bool coherent)
{
	pg_read_lock(&w.mm.lock, LOCK_MM);
	pg_unit_take(&w.mm, AT(i), nr, OWNER, coherent);
	pg_read_unlock(&w.mm.lock, LOCK_MM);
}

static size_t give(size_t i, size_t nr, uint8_t owner)
{
	size_t moved;

	pg_read_lock(&w.mm.lock, LOCK_MM);
	moved = pg_unit_give(&w.mm, AT(i), nr, owner);
	pg_read_unlock(&w.mm.lock, LOCK_MM);
	return moved;
}

TEST(R169_what_is_not_asked_for_does_not_come)
{
	open_all(8);
	fill(0, 2);
	take(0, 1, false);
	migrate(1, 1, true);
	CHECK_EQ(see(0, 3, 0), 0);
	CHECK_EQ(got[0] & ~PG_HMM_PFN,
		 PG_HMM_VALID | PG_HMM_WRITE | PG_HMM_PRIVATE);
	CHECK_EQ(got[0] & PG_HMM_PFN, pg_pte_value(entry(0)));
	CHECK_EQ(got[1], 0);
	CHECK_EQ(got[2], 0);
	CHECK_EQ(state_of(0), PG_PTE_DEVICE);
	CHECK_EQ(state_of(1), PG_PTE_DEVICE);
	CHECK_EQ(state_of(2), PG_PTE_HOLE);
	close_all();
}

TEST(R169_what_is_asked_for_comes)
{
	open_all(8);
	fill(0, 2);
	migrate(1, 1, true);
	CHECK_EQ(see(0, 3, PG_HMM_REQ_FAULT | PG_HMM_REQ_WRITE), 0);
	for (size_t i = 0; i < 3; i++)
		CHECK_EQ(got[i], PG_HMM_VALID | PG_HMM_WRITE);
	CHECK_EQ(count_of(0, 3, PG_PTE_PRESENT), 3);
	check_filled(0, 2);
	close_all();
}

TEST(R169_private_pages_of_another_come_back_and_ones_own_stay)
{
	open_all(8);
	fill(0, 2);
	take(0, 2, false);
	CHECK_EQ(see(0, 1, PG_HMM_REQ_FAULT), 0);
	CHECK(got[0] & PG_HMM_PRIVATE);
	CHECK_EQ(see_as(OWNER + 1, 1, 1, 0), 0);
	CHECK_EQ(got[0], 0);
	CHECK_EQ(state_of(1), PG_PTE_DEVICE);
	CHECK_EQ(see_as(OWNER + 1, 1, 1, PG_HMM_REQ_FAULT), 0);
	CHECK_EQ(got[0] & ~PG_HMM_WRITE, PG_HMM_VALID);
	CHECK_EQ(count_of(0, 2, PG_PTE_DEVICE), 1);
	check_filled(0, 2);
	close_all();
}

TEST(R170_a_write_where_none_is_allowed_is_refused)
{
	open_all(8);
	fill(0, 2);
	pg_soft_protect(w.mmu, AT(0), 1, PG_LOOK_WRITE, 0);
	CHECK_EQ(see(0, 2, PG_HMM_REQ_FAULT), 0);
	CHECK_EQ(got[0], PG_HMM_VALID);
	CHECK_EQ(got[1], PG_HMM_VALID | PG_HMM_WRITE);
	CHECK_EQ(see(0, 2, PG_HMM_REQ_FAULT | PG_HMM_REQ_WRITE), -EPERM);
	close_all();
}

TEST(R170_what_nobody_may_read_is_an_error_only_if_it_is_asked_for)
{
	open_all(8);
	fill(0, 3);
	pg_soft_protect(w.mmu, AT(0), 1, PG_LOOK_READ | PG_LOOK_WRITE, 0);
	pg_soft_protect(w.mmu, AT(1), 1, PG_LOOK_MAPPED, 0);
	pg_soft_protect(w.mmu, AT(2), 1, 0, PG_LOOK_SPECIAL);
	CHECK_EQ(see(0, 4, 0), 0);
	for (size_t i = 0; i < 3; i++) {
		CHECK_EQ(got[i], PG_HMM_ERROR);
		CHECK_EQ(see(i, 1, PG_HMM_REQ_FAULT), -EFAULT);
	}
	CHECK_EQ(see(3, 0, 0), -EINVAL);
	close_all();
}

TEST(R167_each_page_may_be_asked_for_by_itself)
{
	struct pg_hmm_range r = {.notifier = &notifier,
				 .start = AT(0),
				 .end = AT(3),
				 .entry = got,
				 .mask = PG_HMM_REQ_FAULT | PG_HMM_REQ_WRITE};

	open_all(8);
	r.seq = pg_notifier_read_begin(&notifier);
	got[0] = 0;
	got[1] = PG_HMM_REQ_FAULT;
	got[2] = PG_HMM_REQ_FAULT | PG_HMM_REQ_WRITE;
	CHECK_EQ(pg_hmm_range_fault(&w.mm, &r), 0);
	CHECK_EQ(got[0], 0);
	CHECK(got[1] & PG_HMM_VALID);
	CHECK_EQ(got[2], PG_HMM_VALID | PG_HMM_WRITE);
	CHECK_EQ(state_of(0), PG_PTE_HOLE);
	close_all();
}

TEST(R168_a_large_page_says_its_order)
{
	open_all(8);
	fill(0, 1);
	pg_soft_protect(w.mmu, AT(0), 1, 0, PG_LOOK_PMD);
	CHECK_EQ(see(0, 1, 0), 0);
	CHECK_EQ(pg_hmm_order(got[0]), 9);
	close_all();
}

TEST(R16_units_do_not_give_each_others_pages)
{
	open_all(8);
	fill(0, 4);
	take(0, 2, false);
	take(2, 2, true);
	CHECK_EQ(give(0, 4, OWNER + 1), 0);
	CHECK_EQ(count_of(0, 2, PG_PTE_DEVICE), 2);
	CHECK_EQ(see(2, 1, 0), 0);
	CHECK(got[0] & PG_HMM_PFN);
	CHECK_EQ(give(0, 4, OWNER), 4);
	CHECK_EQ(count_of(0, 4, PG_PTE_PRESENT), 4);
	CHECK_EQ(see(2, 1, 0), 0);
	CHECK_EQ(got[0], PG_HMM_VALID | PG_HMM_WRITE);
	check_filled(0, 4);
	close_all();
}

/* What a coherent unit has is not evicted: the CPU uses it there. */
TEST(R2_coherent_pages_stay_in_the_page_table)
{
	open_all(8);
	fill(0, 2);
	take(0, 2, true);
	CHECK_EQ(count_of(0, 2, PG_PTE_PRESENT), 2);
	CHECK_EQ(migrate(0, 2, true), 0);
	CHECK_EQ(pg_mm_drop_copies(&w.mm), 0);
	CHECK_EQ(see(0, 1, 0), 0);
	CHECK(got[0] & PG_HMM_PFN && !(got[0] & PG_HMM_PRIVATE));
	drop(0, 1);
	CHECK_EQ(give(0, 2, OWNER), 1);
	close_all();
}

/* Of a page that a device has for itself. */
TEST(R177_a_touch_ends_exclusive_access_and_loses_nothing)
{
	open_all(8);
	fill(0, 2);
	pg_read_lock(&w.mm.lock, LOCK_MM);
	CHECK_EQ(pg_unit_exclusive(&w.mm, AT(0), 2, OWNER), 2);
	pg_read_unlock(&w.mm.lock, LOCK_MM);
	CHECK(!pg_soft_is_present(w.mmu, AT(0)));
	*((char *)pg_unit_exclusive_at(&w.mm, AT(0)) + 5) = 77;
	CHECK_EQ(see(0, 1, 0), 0);
	CHECK_EQ(got[0], 0);
	CHECK_EQ(get_byte(0, 5), 77);
	CHECK(!pg_unit_exclusive_at(&w.mm, AT(0)));
	CHECK(pg_unit_exclusive_at(&w.mm, AT(1)));
	check_filled(0, 2);
	close_all();
}

TEST(R168_the_page_of_zeros_is_told)
{
	open_all(8);
	fill(0, 1);
	pg_soft_protect(w.mmu, AT(0), 1, PG_LOOK_WRITE, PG_LOOK_ZERO);
	CHECK_EQ(see(0, 1, 0), 0);
	CHECK_EQ(got[0], PG_HMM_VALID | PG_HMM_ZERO);
	close_all();
}

static int load_fails(const struct pgmap_io *io)
{
	(void)io;
	return -EIO;
}

TEST(R170_a_page_that_is_lost_is_an_error)
{
	uint8_t v;

	open_all(8);
	fill(0, 2);
	migrate(0, 2, true);
	tdev.on_load = load_fails;
	log_catch();
	CHECK_EQ(pg_soft_read(w.mmu, AT(0), &v), -EHWPOISON);
	CHECK_EQ(see(0, 1, 0), 0);
	CHECK_EQ(got[0], PG_HMM_ERROR);
	CHECK_EQ(see(0, 1, PG_HMM_REQ_FAULT), -EFAULT);
	/* It gets lost by being asked for. */
	CHECK_EQ(see(1, 1, PG_HMM_REQ_FAULT), -EFAULT);
	CHECK_EQ(state_of(1), PG_PTE_POISON);
	log_release();
	close_all();
}

TEST(R167_between_pages_that_come_others_stay_away)
{
	struct pg_hmm_range r = {.notifier = &notifier,
				 .start = AT(0),
				 .end = AT(3),
				 .entry = got,
				 .mask = PG_HMM_REQ_FAULT};

	open_all(8);
	fill(0, 3);
	migrate(0, 3, true);
	r.seq = pg_notifier_read_begin(&notifier);
	got[0] = got[2] = PG_HMM_REQ_FAULT;
	got[1] = 0;
	CHECK_EQ(pg_hmm_range_fault(&w.mm, &r), 0);
	CHECK_EQ(state_of(0), PG_PTE_PRESENT);
	CHECK_EQ(state_of(1), PG_PTE_DEVICE);
	CHECK_EQ(state_of(2), PG_PTE_PRESENT);
	close_all();
}

TEST(R170_a_range_that_is_none_and_a_walk_that_is_too_old)
{
	static uint64_t many[PG_HMM_MAX + 1];
	struct pg_hmm_range r = {.notifier = &notifier,
				 .start = AT(0),
				 .end = AT(1) - 8,
				 .entry = many,
				 .common = PG_HMM_REQ_FAULT};

	open_all(8);
	CHECK_EQ(pg_hmm_range_fault(&w.mm, &r), -EINVAL);
	r.end = AT(PG_HMM_MAX + 1);
	CHECK_EQ(pg_hmm_range_fault(&w.mm, &r), -EINVAL);
	r.end = AT(1);
	r.seq = pg_notifier_read_begin(&notifier) + 1;
	CHECK_EQ(pg_hmm_range_fault(&w.mm, &r), -EBUSY);
	CHECK_EQ(state_of(0), PG_PTE_HOLE);
	close_all();
}

static unsigned int nr_runs;

static int run_here(struct pgmap_mm *mm, int (*fn)(struct pgmap_mm *, void *),
		    void *arg)
{
	nr_runs++;
	return fn(mm, arg);
}

TEST(a_walk_is_run_where_the_descriptors_are)
{
	open_all(8);
	fill(0, 1);
	nr_runs = 0;
	w.mm.run = run_here;
	CHECK_EQ(see(0, 1, 0), 0);
	w.mm.run = NULL;
	CHECK_EQ(nr_runs, 1);
	CHECK(got[0] & PG_HMM_VALID);
	close_all();
}

static bool is_coherent(size_t i)
{
	return entry(i) & PG_PTE_COHERENT;
}

/* A fork shares the pages. */
TEST(R2_what_a_coherent_unit_has_it_can_leave_all_at_once)
{
	open_all(8);
	fill(0, 4);
	take(1, 2, true);
	/* What it has already stays as it is. */
	take(1, 2, true);
	CHECK(!is_coherent(0) && is_coherent(1) && is_coherent(2));
	pgmap_mm_change_begin(&w.mm);
	pg_unit_leave_coherent(&w.mm);
	pgmap_mm_change_end(&w.mm);
	for (size_t i = 0; i < 4; i++)
		CHECK(!is_coherent(i));
	CHECK_EQ(count_of(0, 4, PG_PTE_PRESENT), 4);
	check_filled(0, 4);
	close_all();
}

TEST(R2_a_page_with_a_copy_becomes_a_coherent_units)
{
	open_all(8);
	fill(0, 1);
	migrate(0, 1, true);
	pg_store(&w.mm.same, 256, relaxed);
	check_filled(0, 1);
	CHECK(pg_pte_value(entry(0)));
	take(0, 1, true);
	CHECK(is_coherent(0));
	/* What was stored is not needed any more. */
	CHECK_EQ(tdev.stored, 0);
	CHECK_EQ(give(0, 1, OWNER), 1);
	check_filled(0, 1);
	close_all();
}

TEST(R73_without_room_on_the_device_pages_stay_nobodys)
{
	struct pgmap_folio *folio[4096];
	size_t nr = 0;

	open_all(8);
	fill(0, 2);
	while (nr < 4096 && !pg_device_alloc(w.dev, 0, &folio[nr]))
		nr++;
	CHECK(nr && nr < 4096);
	take(0, 2, true);
	CHECK(!is_coherent(0) && !is_coherent(1));
	take(0, 2, false);
	CHECK_EQ(count_of(0, 2, PG_PTE_PRESENT), 2);
	while (nr--) {
		pgmap_folio_unlock(folio[nr]);
		pgmap_folio_put(folio[nr]);
	}
	check_filled(0, 2);
	close_all();
}

TEST(what_is_in_standby_is_taken_too)
{
	open_all(8);
	fill(0, 2);
	pg_read_lock(&w.mm.lock, LOCK_MM);
	CHECK_EQ(pg_migrate_to_standby(&w.mm, AT(0)), 1);
	pg_read_unlock(&w.mm.lock, LOCK_MM);
	take(0, 2, false);
	CHECK_EQ(count_of(0, 2, PG_PTE_DEVICE), 2);
	CHECK_EQ(give(0, 2, OWNER), 2);
	check_filled(0, 2);
	close_all();
}

TEST(R94_what_cannot_be_given_back_is_not_counted)
{
	open_all(8);
	fill(0, 4);
	take(0, 4, false);
	pgmap_mm_change_begin(&w.mm);
	pgmap_mm_unmap(&w.mm, PTR(3), PAGE);
	pgmap_mm_change_end(&w.mm);
	CHECK_EQ(give(2, 2, OWNER), 1);
	tdev.on_load = load_fails;
	log_catch();
	CHECK_EQ(give(0, 2, OWNER), 0);
	CHECK_EQ(count_of(0, 2, PG_PTE_POISON), 2);
	log_release();
	close_all();
}

/* ... and writes it, where the driver lets it. */
TEST(R2_a_device_reads_what_it_has)
{
	static char buf[PG_PAGE_SIZE];
	uint64_t pfn;

	open_all(8);
	fill(0, 1);
	take(0, 1, false);
	pfn = pg_pte_value(entry(0));
	CHECK_EQ(pg_unit_read(&w.mm, pfn, buf), 0);
	CHECK_EQ((uint8_t)buf[0], byte_of(0));
	buf[100] = 55;
	CHECK_EQ(pg_unit_write(&w.mm, pfn, buf), -EIO);
	CHECK_EQ(get_byte(0, 100), 0);
	check_filled(0, 1);
	close_all();
}

TEST_MAIN()
