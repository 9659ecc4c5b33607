/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory that system calls use: it stays, whatever happens beside it.
 */
#include "core/hold.h"

#include "world.h"

static struct pg_holds holds;

static void open_world(size_t nr, uint64_t budget, size_t folio)
{
	world_open(nr, budget, folio);
	memset(&holds, 0, sizeof(holds));
	CHECK_EQ(pg_holds_init(&holds), 0);
	w.mm.holds = &holds;
}

static void close_world(void)
{
	world_close();
	pg_holds_fini(&holds);
}

static void take(struct pg_hold *h, size_t i, size_t nr)
{
	pg_hold_init(h);
	pg_hold_add(h, AT(i), nr * PAGE);
	CHECK(pg_hold_take(&holds, h, 0));
}

static uint32_t in_use(void)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < PG_HOLD_SLOTS; i++)
		n += pg_load(&holds.slot[i].state, relaxed) != 0;
	return n;
}

TEST(what_is_held_does_not_leave_and_the_rest_of_its_block_does)
{
	struct pg_hold h;

	open_world(64, 4096, 16);
	fill(0, 64);
	take(&h, 5, 3);
	CHECK_EQ(migrate(0, 64, true), 61);
	CHECK_EQ(count_of(5, 3, PG_PTE_PRESENT), 3);
	CHECK_EQ(count_of(0, 64, PG_PTE_DEVICE), 61);
	CHECK_EQ(pg_hold_missing(&w.mm, &h), 0);
	CHECK_EQ(pg_evict(&w.mm, 64), 0);
	pg_hold_drop(&holds, &h);
	CHECK_EQ(migrate(0, 64, true), 3);
	check_filled(0, 64);
	close_world();
}

TEST(what_is_away_comes_before_the_call)
{
	struct pg_hold h;

	open_world(64, 4096, 16);
	fill(0, 20); /* the rest are holes */
	CHECK_EQ(migrate(0, 20, true), 20);
	take(&h, 3, 40);
	CHECK_EQ(pg_hold_missing(&w.mm, &h), AT(3));
	CHECK_EQ(pg_hold_bring(&w.mm, &h), 0);
	CHECK_EQ(pg_hold_missing(&w.mm, &h), 0);
	CHECK_EQ(count_of(3, 40, PG_PTE_PRESENT), 40);
	CHECK_EQ(migrate(3, 40, true), 0);
	pg_hold_drop(&holds, &h);
	check_filled(0, 20);
	close_world();
}

TEST(nothing_is_brought_while_mappings_change)
{
	struct pg_hold h;

	open_world(64, 4096, 16);
	fill(0, 16);
	CHECK_EQ(migrate(0, 16, true), 16);
	take(&h, 0, 16);
	pgmap_mm_change_begin(&w.mm);
	CHECK_EQ(pg_hold_bring(&w.mm, &h), -EAGAIN);
	pgmap_mm_change_end(&w.mm);
	CHECK_EQ(pg_hold_bring(&w.mm, &h), 0);
	pg_hold_drop(&holds, &h);
	close_world();
}

TEST(what_is_not_managed_is_not_missing)
{
	struct pg_hold h;

	open_world(64, 4096, 16);
	pgmap_mm_change_begin(&w.mm);
	pgmap_mm_unmap(&w.mm, PTR(10), 20 * PAGE);
	pgmap_mm_change_end(&w.mm);
	take(&h, 10, 20);
	CHECK_EQ(pg_hold_missing(&w.mm, &h), 0);
	CHECK_EQ(pg_hold_bring(&w.mm, &h), 0);
	pg_hold_drop(&holds, &h);
	take(&h, 10, 21);
	CHECK_EQ(pg_hold_missing(&w.mm, &h), AT(30));
	pg_hold_drop(&holds, &h);
	close_world();
}

TEST(held_memory_is_not_adopted_until_it_is_dropped)
{
	struct pg_hold h, front, again;

	open_world(64, 4096, 16);
	CHECK_EQ(pgmap_mm_release(&w.mm, PTR(0), 64 * PAGE), 0);
	take(&h, 10, 5);
	take(&front, 0, 2);
	take(&again, 20, 1);
	CHECK_EQ(pgmap_mm_adopt(&w.mm, PTR(0), 64 * PAGE), 0);
	CHECK_EQ(w.mm.nr_vma, 3);
	CHECK_EQ(w.mm.vma[0].start, AT(2));
	CHECK_EQ(w.mm.vma[0].end, AT(10));
	CHECK_EQ(w.mm.vma[1].start, AT(15));
	CHECK_EQ(w.mm.vma[1].end, AT(20));
	CHECK_EQ(pg_hold_missing(&w.mm, &h), 0);
	pg_hold_drop(&holds, &h);
	pg_hold_drop(&holds, &front);
	pg_hold_drop(&holds, &again);
	CHECK_EQ(pgmap_mm_adopt(&w.mm, PTR(0), 64 * PAGE), 0);
	CHECK_EQ(w.mm.nr_vma, 1);
	close_world();
}

TEST(ranges_that_touch_are_one_and_too_many_are_joined)
{
	struct pg_hold h;
	size_t first = 0, last = 0;

	pg_hold_init(&h);
	pg_hold_add(&h, AT(3) + 100, 10);
	pg_hold_add(&h, AT(4), 2 * PAGE);
	pg_hold_add(&h, AT(2) + 4000, 97);
	CHECK_EQ(h.nr, 1);
	CHECK_EQ(h.range[0].start, AT(2));
	CHECK_EQ(h.range[0].end, AT(6));
	pg_hold_add(&h, AT(9), 0);
	pg_hold_add(&h, 0, 10);
	pg_hold_add(&h, UINTPTR_MAX - 5, 100);
	CHECK_EQ(h.nr, 2); /* the first page is as good as any */
	pg_hold_init(&h);
	for (size_t i = 0; i < 3 * PG_HOLD_OTHERS; i++)
		pg_hold_add(&h, AT(i * 4), PAGE);
	CHECK_EQ(h.nr, PG_HOLD_OTHERS);
	for (size_t i = 0; i < 3 * PG_HOLD_OTHERS; i++) {
		bool in = false;

		for (uint32_t k = 0; k < h.nr; k++)
			in |= h.range[k].start <= AT(i * 4) &&
			      h.range[k].end >= AT(i * 4 + 1);
		first += in;
		last++;
	}
	CHECK_EQ(first, last);
	pg_hold_init(&h);
	pg_hold_add(&h, AT(1), SIZE_MAX);
	CHECK_EQ(h.range[0].end, (uintptr_t)1 << 47);
}

TEST(where_ranges_are_many_the_nearest_ones_are_joined)
{
	struct pg_hold h;

	pg_hold_init(&h);
	for (size_t i = 0; i < PG_HOLD_OTHERS; i++)
		pg_hold_add(&h, AT(i * 100), PAGE);
	/* Behind one, and before one. */
	pg_hold_add(&h, AT(703), PAGE);
	CHECK_EQ(h.range[7].end, AT(704));
	pg_hold_add(&h, AT(1197), PAGE);
	CHECK_EQ(h.range[12].start, AT(1197));
	/* All of it is there. */
	pg_hold_add(&h, AT(701), PAGE);
	CHECK_EQ(h.nr, PG_HOLD_OTHERS);
	for (uint32_t k = 0; k < h.nr; k++)
		CHECK_EQ((h.range[k].end - h.range[k].start) / PAGE,
			 k == 7 || k == 12 ? 4 : 1);
}

TEST(who_serves_another_brings_what_its_slot_holds)
{
	struct pg_hold h, copy = {0};

	open_world(16, 4096, 1);
	fill(0, 16);
	pg_hold_init(&h);
	pg_hold_add(&h, AT(2), 2 * PAGE);
	pg_hold_add(&h, AT(9), PAGE);
	CHECK(pg_hold_take(&holds, &h, 0));
	migrate(0, 16, true);
	pg_hold_copy(&holds, h.slot, &copy);
	CHECK_EQ(copy.nr, 2);
	CHECK_EQ(pg_hold_missing(&w.mm, &copy), 0);
	pg_hold_drop(&holds, &h);
	migrate(0, 16, true);
	CHECK_EQ(pg_hold_missing(&w.mm, &copy), AT(2));
	CHECK_EQ(pg_hold_bring(&w.mm, &copy), 0);
	CHECK_EQ(pg_hold_missing(&w.mm, &copy), 0);
	CHECK_EQ(state_of(9), PG_PTE_PRESENT);
	check_filled(0, 16);
	close_world();
}

TEST(the_stack_is_held_and_not_what_lies_before_it)
{
	struct pg_hold h;
	size_t pages = 0;

	pg_hold_init(&h);
	for (size_t i = 0; i < PG_HOLD_OTHERS; i++)
		pg_hold_add(&h, AT(i * 4), PAGE);
	pg_hold_add_own(&h, AT(100000), 5 * PAGE);
	for (uint32_t k = 0; k < h.nr; k++)
		pages += (h.range[k].end - h.range[k].start) / PAGE;
	CHECK_EQ(pages, PG_HOLD_OTHERS + 5);
}

static bool read_frame(uintptr_t va, uint64_t *word)
{
	memcpy(word, (const void *)va, sizeof(*word));
	return true;
}

static bool read_nothing(uintptr_t va, uint64_t *word)
{
	(void)va;
	(void)word;
	return false;
}

TEST(what_was_left_behind_is_dropped_and_the_rest_is_not)
{
	struct pg_hold live, dead, gone;

	open_world(64, 4096, 16);
	fill(0, 64);
	take(&live, 0, 4);
	take(&dead, 4, 4);
	CHECK_EQ(pg_holds_reap(&holds, read_frame), 0);
	CHECK_EQ(in_use(), 2);
	/* Another function has used its place on the stack. */
	memset(&dead, 0x5a, sizeof(dead));
	CHECK_EQ(pg_holds_reap(&holds, read_frame), 1);
	CHECK_EQ(migrate(0, 16, true), 12);
	pg_hold_drop(&holds, &live);
	take(&gone, 0, 4);
	CHECK_EQ(pg_holds_reap(&holds, read_nothing), 1);
	CHECK_EQ(in_use(), 0);
	close_world();
}

TEST(a_slot_that_has_a_new_owner_is_not_taken_from_him)
{
	struct pg_hold old, new;

	open_world(16, 4096, 16);
	take(&old, 0, 1);
	pg_hold_drop(&holds, &old);
	take(&new, 0, 1);
	CHECK_EQ(new.slot, old.slot);
	CHECK(pg_load(&new.cookie, relaxed) != 0);
	CHECK_EQ(pg_holds_reap(&holds, read_frame), 0);
	pg_hold_drop(&holds, &new);
	CHECK_EQ(in_use(), 0);
	close_world();
}

TEST(a_fork_child_keeps_what_its_own_thread_holds)
{
	struct pg_hold mine, other;

	open_world(16, 4096, 16);
	pg_hold_init(&mine);
	pg_hold_add(&mine, AT(1), 1);
	CHECK(pg_hold_take(&holds, &mine, 0x1000));
	pg_hold_init(&other);
	pg_hold_add(&other, AT(2), 1);
	CHECK(pg_hold_take(&holds, &other, 0x2000));
	pg_holds_forked(&holds, 0x1000);
	fill(0, 16);
	CHECK_EQ(migrate(0, 16, true), 15);
	CHECK_EQ(state_of(1), PG_PTE_PRESENT);
	pg_hold_drop(&holds, &mine);
	close_world();
}

TEST(when_all_slots_are_in_use_it_says_so)
{
	static struct pg_hold h[PG_HOLD_SLOTS + 1];

	open_world(16, 4096, 16);
	for (size_t i = 0; i < PG_HOLD_SLOTS; i++)
		take(&h[i], i % 16, 1);
	pg_hold_init(&h[PG_HOLD_SLOTS]);
	pg_hold_add(&h[PG_HOLD_SLOTS], AT(1), 1);
	CHECK(!pg_hold_take(&holds, &h[PG_HOLD_SLOTS], 0));
	pg_hold_drop(&holds, &h[77]);
	CHECK(pg_hold_take(&holds, &h[PG_HOLD_SLOTS], 0));
	close_world();
}

static int no_memory(enum pg_soft_op op, uintptr_t va)
{
	(void)va;
	return op == PG_SOFT_FILL ? -ENOMEM : 0;
}

static int not_mapped(enum pg_soft_op op, uintptr_t va)
{
	(void)va;
	return op == PG_SOFT_GIVE || op == PG_SOFT_ZERO ? -ENOENT : 0;
}

TEST(what_cannot_come_is_left_so)
{
	struct pg_hold h;

	open_world(64, 4096, 16);
	fill(0, 16);
	CHECK_EQ(migrate(0, 16, true), 16);
	take(&h, 0, 20);
	empty_pool();
	w.on_op = no_memory;
	CHECK_EQ(pg_hold_bring(&w.mm, &h), -ENOMEM);
	w.on_op = NULL;
	CHECK_EQ(pg_hold_bring(&w.mm, &h), 0);
	pg_hold_drop(&holds, &h);
	/* The kernel has no mapping there: the call gets EFAULT. */
	take(&h, 40, 2);
	w.on_op = not_mapped;
	CHECK_EQ(pg_hold_bring(&w.mm, &h), 0);
	CHECK_EQ(count_of(40, 2, PG_PTE_HOLE), 2);
	w.on_op = NULL;
	pg_hold_drop(&holds, &h);
	check_filled(0, 16);
	close_world();
}

static int load_fails(const struct pgmap_io *io)
{
	(void)io;
	return -EIO;
}

TEST(a_page_that_is_lost_is_not_waited_for)
{
	struct pg_hold h;

	open_world(16, 4096, 1);
	fill(0, 2);
	CHECK_EQ(migrate(0, 2, true), 2);
	log_catch();
	tdev.on_load = load_fails;
	take(&h, 0, 1);
	CHECK_EQ(pg_hold_bring(&w.mm, &h), 0);
	CHECK_EQ(state_of(0), PG_PTE_POISON);
	CHECK_EQ(pg_hold_missing(&w.mm, &h), 0);
	CHECK_EQ(pg_hold_bring(&w.mm, &h), 0);
	tdev.on_load = NULL;
	log_release();
	pg_hold_drop(&holds, &h);
	close_world();
}

TEST(without_memory_there_is_no_table)
{
	struct pg_holds t = {0};

	pg_mem_fail_nth(1);
	CHECK_EQ(pg_holds_init(&t), -ENOMEM);
	pg_mem_fail_nth(0);
}

/* Holders and evictors of the same pages, on threads. */
#define ROUNDS 3000
static _Atomic bool holders_done;

static void *hold_and_look(void *arg)
{
	size_t i = *(size_t *)arg;
	struct pg_hold h;

	for (int n = 0; n < ROUNDS; n++) {
		size_t first = (i * 7 + (size_t)n * 5) % 60;

		pg_hold_init(&h);
		pg_hold_add(&h, AT(first), 4 * PAGE);
		MUST(pg_hold_take(&holds, &h, i * PAGE));
		while (pg_hold_missing(&w.mm, &h) && pg_hold_bring(&w.mm, &h))
			sched_yield();
		for (size_t k = first; k < first + 4; k++)
			MUST(pg_soft_is_present(w.mmu, AT(k)));
		pg_hold_drop(&holds, &h);
	}
	return NULL;
}

static void *evict_all(void *arg)
{
	(void)arg;
	while (!holders_done) {
		size_t moved;

		MUST(!pgmap_migrate(&w.mm, PTR(0), 64 * PAGE, true, &moved));
		sched_yield();
	}
	return NULL;
}

TEST(whoever_holds_finds_his_pages_whatever_others_do)
{
	static size_t number[3] = {1, 2, 3};
	pthread_t t[3], e;

	open_world(64, 4096, 16);
	fill(0, 64);
	holders_done = false;
	CHECK_EQ(pthread_create(&e, NULL, evict_all, NULL), 0);
	for (size_t i = 0; i < 3; i++)
		CHECK_EQ(pthread_create(&t[i], NULL, hold_and_look, &number[i]),
			 0);
	for (size_t i = 0; i < 3; i++)
		CHECK_EQ(pthread_join(t[i], NULL), 0);
	holders_done = true;
	CHECK_EQ(pthread_join(e, NULL), 0);
	check_filled(0, 64);
	close_world();
}

TEST_MAIN()
