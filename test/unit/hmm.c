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

TEST_MAIN()
