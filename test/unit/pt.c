/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The page table, and the door to the MMU.
 */
#include "world.h"

static struct pg_pt pt;

#define GB ((uintptr_t)1 << 30)

static void set(uintptr_t va, pg_pte_t e)
{
	pg_pt_lock(&pt, va);
	pg_pte_write(&pt, va, e);
	pg_pt_unlock(&pt, va);
}

TEST(what_was_never_set_is_a_hole)
{
	CHECK_EQ(pg_pt_init(&pt), 0);
	CHECK_EQ(pg_pte_read(&pt, 0), PG_PTE_HOLE);
	CHECK_EQ(pg_pte_read(&pt, ((uintptr_t)1 << 47) - PAGE), PG_PTE_HOLE);
	CHECK_EQ(pg_pt_populate(&pt, 5 * GB, 1), 0);
	CHECK_EQ(pg_pte_read(&pt, 5 * GB), PG_PTE_HOLE);
	CHECK_EQ(pg_pte_read(&pt, 6 * GB - PAGE), PG_PTE_HOLE);
	pg_pt_fini(&pt);
	pg_pt_fini(&pt); /* twice is fine */
}

TEST(entries_are_where_they_were_put)
{
	uintptr_t va[] = {0,
			  PAGE,
			  5 * GB - PAGE,
			  5 * GB,
			  5 * GB + PAGE,
			  6 * GB - PAGE,
			  ((uintptr_t)1 << 47) - PAGE};

	CHECK_EQ(pg_pt_init(&pt), 0);
	CHECK_EQ(pg_pt_populate(&pt, 0, 2), 0);
	CHECK_EQ(pg_pt_populate(&pt, 5 * GB - PAGE, GB / PAGE + 1), 0);
	CHECK_EQ(pg_pt_populate(&pt, ((uintptr_t)1 << 47) - PAGE, 1), 0);
	CHECK_EQ(pg_pt_populate(&pt, 0, 0), 0);
	for (size_t i = 0; i < 7; i++)
		set(va[i], pg_pte_make(PG_PTE_DEVICE, 1000 + i));
	for (size_t i = 0; i < 7; i++) {
		CHECK_EQ(pg_pte_value(pg_pte_read(&pt, va[i])), 1000 + i);
		CHECK_EQ(pg_pte_state(pg_pte_read(&pt, va[i])), PG_PTE_DEVICE);
	}
	CHECK_EQ(pg_pte_read(&pt, 2 * PAGE), PG_PTE_HOLE);
	CHECK_EQ(pg_pte_read(&pt, 5 * GB + 2 * PAGE), PG_PTE_HOLE);
	pg_pt_fini(&pt);
}

TEST(marks_do_not_change_state_or_value)
{
	pg_pte_t e = pg_pte_make(PG_PTE_MIGRATING, (1ull << 52) - 1);

	CHECK_EQ(pg_pte_state(e | PG_PTE_WAITED), PG_PTE_MIGRATING);
	CHECK_EQ(pg_pte_value(e | PG_PTE_WAITED), (1ull << 52) - 1);
	CHECK_EQ(pg_pte_state(PG_PTE_PRESENT | PG_PTE_STUCK), PG_PTE_PRESENT);
}

TEST(populate_survives_the_lack_of_memory)
{
	pg_mem_fail_nth(1);
	CHECK_EQ(pg_pt_init(&pt), -ENOMEM);
	pg_pt_fini(&pt);
	CHECK_EQ(pg_pt_init(&pt), 0);
	for (unsigned int n = 1; n <= 3; n++) {
		pg_mem_fail_nth(n);
		CHECK_EQ(pg_pt_populate(&pt, 0, 3 * GB / PAGE),
			 n == 1	  ? -ENOMEM
			 : n == 2 ? -ENOMEM
				  : 0);
	}
	pg_mem_fail_nth(0);
	CHECK_EQ(pg_pte_read(&pt, 3 * GB - PAGE), PG_PTE_HOLE);
	set(3 * GB - PAGE, PG_PTE_PRESENT);
	pg_pt_fini(&pt);
}

#ifdef PG_DEBUG
static void write_without_lock(void)
{
	pg_pte_write(&pt, 0, PG_PTE_PRESENT);
}
#endif

static void read_outside(void)
{
	pg_pte_read(&pt, (uintptr_t)1 << 47);
}

TEST(misuse_ends_the_process)
{
	CHECK_EQ(pg_pt_init(&pt), 0);
	CHECK_EQ(pg_pt_populate(&pt, 0, 1), 0);
#ifdef PG_DEBUG /* pg_assert() */
	CHECK(dies(write_without_lock));
#endif
	CHECK(dies(read_outside));
	pg_pt_fini(&pt);
}

/* ---- The MMU ---- */

static unsigned int races, in_a_row, ops;

static int lose_race(void *ctx, enum pg_soft_op op, uintptr_t va)
{
	(void)ctx;
	(void)op;
	(void)va;
	ops++;
	if (races && ops % (in_a_row + 1)) {
		races--;
		return -EAGAIN;
	}
	return 0;
}

TEST(a_range_operation_goes_on_after_each_lost_race)
{
	struct pg_soft_hooks hooks = {.before = lose_race};
	struct pg_mmu *m;
	char *buf;
	size_t done;

	CHECK_EQ(pg_soft_create(64, &m), 0);
	buf = pg_mmu_pool_map(m, 64);
	CHECK(buf);
	memset(buf, 0x11, 64 * PAGE);
	pg_soft_hook(m, &hooks);
	ops = 0;
	races = 200;
	in_a_row = 1;
	CHECK_EQ(pg_mmu_give(m, AT(0), buf, 32, &done), 0);
	CHECK_EQ(done, 32);
	in_a_row = 3;
	CHECK_EQ(pg_mmu_zero(m, AT(32), 16, &done), 0);
	CHECK_EQ(done, 16);
	/* A page that refuses ends it, and what was done is told. */
	CHECK_EQ(pg_mmu_take(m, AT(40), buf, 16, &done), -ENOENT);
	CHECK_EQ(done, 8);
	/* Not for ever. */
	races = UINT32_MAX;
	in_a_row = UINT32_MAX - 1;
	ops = 0;
	CHECK_EQ(pg_mmu_take(m, AT(0), buf, 16, &done), -EAGAIN);
	CHECK_EQ(done, 0);
	CHECK(ops < 1000);
	CHECK_EQ(pg_mmu_give(m, AT(32), buf, 16, &done), -EAGAIN);
	CHECK_EQ(pg_mmu_zero(m, AT(32), 16, &done), -EAGAIN);
	CHECK(ops < 3000);
	pg_mmu_pool_unmap(m, buf, 64);
	pg_soft_destroy(m);
}

TEST_MAIN()
