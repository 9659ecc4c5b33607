/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An address space: its ranges, and what the program does to its mappings.
 */
#include "asleep.h"
#include "world.h"

/* [from, to) in pages, ended by {0, 0}. */
struct span {
	size_t from, to;
};

static void check_ranges(const struct span *want)
{
	uint32_t n = 0;

	for (; want->to; want++, n++) {
		CHECK(n < w.mm.nr_vma);
		CHECK_EQ(w.mm.vma[n].start, AT(want->from));
		CHECK_EQ(w.mm.vma[n].end, AT(want->to));
	}
	CHECK_EQ(w.mm.nr_vma, n);
}

#define RANGES(...) check_ranges((struct span[]){__VA_ARGS__, {0, 0}})

static int adopt(size_t i, size_t nr)
{
	return pgmap_mm_adopt(&w.mm, PTR(i), nr * PAGE);
}

static int release(size_t i, size_t nr)
{
	return pgmap_mm_release(&w.mm, PTR(i), nr * PAGE);
}

static void unmap(size_t i, size_t nr)
{
	pgmap_mm_change_begin(&w.mm);
	pgmap_mm_unmap(&w.mm, PTR(i), nr * PAGE);
	pg_soft_zap(w.mmu, AT(i), nr);
	pgmap_mm_change_end(&w.mm);
}

static void empty_world(size_t nr)
{
	world_open(nr, 4096, 16);
	CHECK_EQ(release(0, nr), 0);
	check_ranges((struct span[]){{0, 0}});
}

/* ---- Init ---- */

TEST(init_refuses_a_folio_that_is_no_folio)
{
	static const uint64_t sizes[] = {
		0, 1, 4095, 4097, 3 * 4096, 2097153, 4u << 20, 1ull << 63};
	static struct pgmap_mm mm;

	empty_world(16);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		CHECK_EQ(pg_mm_init(&mm, w.mmu, w.dev, 1 << 20, sizes[i]),
			 -EINVAL);
	for (uint64_t s = 4096; s <= 2 << 20; s *= 2) {
		memset(&mm, 0, sizeof(mm));
		CHECK_EQ(pg_mm_init(&mm, w.mmu, w.dev, 1 << 20, s), 0);
		CHECK_EQ(pg_block_pages(&mm) * PAGE, s);
		pg_mm_fini(&mm);
	}
	pg_mm_fini(&mm);
	world_close();
}

TEST(init_survives_the_lack_of_memory_at_every_point)
{
	static struct pgmap_mm mm;
	unsigned int n;

	empty_world(16);
	for (n = 1; n < 100; n++) {
		int ret;

		memset(&mm, 0, sizeof(mm));
		pg_mem_fail_nth(n);
		ret = pg_mm_init(&mm, w.mmu, w.dev, 1 << 20, 65536);
		pg_mem_fail_nth(0);
		if (!ret)
			break;
		CHECK_EQ(ret, -ENOMEM);
		CHECK(!mm.vma && !mm.pool.buf && !mm.pt.leaf);
	}
	/* Ranges, directory, queues, buffers, their arrays and memory. */
	CHECK_EQ(n, 8);
	pg_mm_fini(&mm);
	world_close();
}

/* ---- Adopt and release ---- */

TEST(ranges_join_and_split)
{
	empty_world(64);
	CHECK_EQ(adopt(10, 5), 0);
	RANGES({10, 15});
	CHECK_EQ(adopt(20, 5), 0);
	CHECK_EQ(adopt(0, 5), 0);
	RANGES({0, 5}, {10, 15}, {20, 25});
	CHECK_EQ(adopt(15, 5), 0); /* joins both neighbours */
	RANGES({0, 5}, {10, 25});
	CHECK_EQ(adopt(5, 2), 0);
	CHECK_EQ(adopt(9, 1), 0);
	RANGES({0, 7}, {9, 25});
	CHECK_EQ(adopt(0, 64), 0); /* fills all gaps */
	RANGES({0, 64});
	CHECK_EQ(adopt(3, 20), 0);
	RANGES({0, 64});
	CHECK_EQ(release(30, 4), 0);
	RANGES({0, 30}, {34, 64});
	unmap(0, 3);
	unmap(60, 4);
	RANGES({3, 30}, {34, 60});
	unmap(20, 20);
	RANGES({3, 20}, {40, 60});
	unmap(0, 64);
	CHECK_EQ(w.mm.nr_vma, 0);
	world_close();
}

TEST(bad_ranges_are_refused)
{
	char *p = PTR(0);

	empty_world(64);
	CHECK_EQ(pgmap_mm_adopt(&w.mm, p + 1, PAGE), -EINVAL);
	CHECK_EQ(pgmap_mm_adopt(&w.mm, p, PAGE - 1), -EINVAL);
	CHECK_EQ(pgmap_mm_adopt(&w.mm, p, -PAGE), -EINVAL);
	CHECK_EQ(pgmap_mm_adopt(&w.mm, (void *)(1ull << 47), PAGE), -EINVAL);
	CHECK_EQ(pgmap_mm_adopt(&w.mm, p, 0), 0);
	CHECK_EQ(adopt(60, 10), -ENOMEM); /* not mapped */
	CHECK_EQ(w.mm.nr_vma, 0);
	CHECK_EQ(pgmap_mm_release(&w.mm, p + 1, PAGE), -EINVAL);
	CHECK_EQ(pgmap_mm_release(&w.mm, p, 0), 0);
	CHECK_EQ(adopt(0, 8), 0);
	pgmap_mm_change_begin(&w.mm);
	pgmap_mm_remove(&w.mm, p + 1, 8 * PAGE);
	pgmap_mm_unmap(&w.mm, p, 8 * PAGE - 1);
	CHECK_EQ(pgmap_mm_remap(&w.mm, p + 1, PAGE, p, PAGE), -EINVAL);
	CHECK_EQ(pgmap_mm_remap(&w.mm, p, PAGE, p, PAGE + 1), -EINVAL);
	pgmap_mm_change_end(&w.mm);
	RANGES({0, 8});
	world_close();
}

TEST(adopt_goes_on_behind_a_part_that_cannot_be_watched)
{
	unsigned int n;

	empty_world(64);
	CHECK_EQ(adopt(0, 70), -ENOMEM);
	CHECK_EQ(adopt(20, 10), 0);
	CHECK_EQ(adopt(0, 70), -ENOMEM);
	RANGES({0, 30}); /* up to the managed part; what follows is not there */
	CHECK_EQ(release(0, 64), 0);
	/* No memory for the page table. */
	pg_pt_fini(&w.mm.pt);
	CHECK_EQ(pg_pt_init(&w.mm.pt), 0);
	for (n = 1; n < 10; n++) {
		int ret;

		pg_mem_fail_nth(n);
		ret = adopt(0, 64);
		pg_mem_fail_nth(0);
		if (!ret)
			break;
		CHECK_EQ(ret, -ENOMEM);
		CHECK_EQ(w.mm.nr_vma, 0);
	}
	CHECK_EQ(n, 2);
	RANGES({0, 64});
	world_close();
}

TEST(what_is_in_RAM_at_adoption_can_leave)
{
	empty_world(64);
	fill(0, 20);
	CHECK_EQ(adopt(0, 64), 0);
	CHECK_EQ(count_of(0, 64, PG_PTE_PRESENT), 20);
	CHECK_EQ(counter("present"), 20 * PAGE);
	world_check();
	CHECK_EQ(pg_evict(&w.mm, 20), 20);
	CHECK_EQ(count_of(0, 64, PG_PTE_DEVICE), 20);
	check_filled(0, 20);
	world_close();
}

TEST(release_brings_everything_back_and_lets_go)
{
	empty_world(64);
	CHECK_EQ(adopt(0, 64), 0);
	fill(0, 64);
	migrate(0, 64, true);
	pg_store(&w.mm.budget, 1, relaxed); /* does not matter here */
	CHECK_EQ(release(8, 40), 0);
	RANGES({0, 8}, {48, 64});
	CHECK_EQ(count_of(8, 40, PG_PTE_HOLE), 40);
	for (size_t i = 8; i < 48; i++)
		CHECK(pg_soft_is_present(w.mmu, AT(i)));
	CHECK_EQ(pg_load(&w.mm.away, relaxed) + pg_load(&w.mm.present, relaxed),
		 24);
	world_check();
	check_filled(0, 64);
	world_close();
}

static int no_load(const struct pgmap_io *io)
{
	return io->nr == 16 || io->slot % 16 == 3 ? -EIO : 0;
}

TEST(release_goes_on_when_a_page_is_lost)
{
	uint8_t v;

	empty_world(64);
	CHECK_EQ(adopt(0, 64), 0);
	fill(0, 32);
	migrate(0, 16, true);
	tdev.on_load = no_load;
	log_catch();
	CHECK_EQ(release(0, 32), -EIO);
	log_release();
	RANGES({32, 64});
	world_check();
	check_filled(0, 3);
	check_filled(4, 28);
	CHECK_EQ(pg_soft_read(w.mmu, AT(3), &v), -EHWPOISON);
	/* New memory at the old place is not ill. */
	pg_soft_zap(w.mmu, AT(0), 32);
	CHECK_EQ(adopt(0, 32), 0);
	CHECK_EQ(get_byte(3, 3), 0);
	world_close();
}

static int no_fill(enum pg_soft_op op, uintptr_t va)
{
	(void)va;
	return op == PG_SOFT_FILL ? -ENOMEM : 0;
}

TEST(release_without_memory_keeps_the_range)
{
	empty_world(64);
	CHECK_EQ(adopt(0, 64), 0);
	fill(0, 32);
	migrate(0, 16, true);
	empty_pool();
	w.on_op = no_fill;
	CHECK_EQ(release(0, 32), -ENOMEM);
	RANGES({0, 64});
	CHECK_EQ(count_of(0, 16, PG_PTE_DEVICE), 16);
	CHECK_EQ(count_of(16, 16, PG_PTE_PRESENT), 16);
	w.on_op = NULL;
	world_check();
	CHECK_EQ(release(0, 32), 0);
	check_filled(0, 32);
	world_close();
}

TEST(fini_drops_what_is_away)
{
	empty_world(64);
	CHECK_EQ(adopt(0, 64), 0);
	fill(0, 64);
	migrate(0, 64, true);
	CHECK_EQ(tdev.stored, 64);
	world_close(); /* checks that nothing is stored any more */
}

/* ---- Very many, and very large ---- */

TEST(a_full_table_of_ranges_loses_nothing)
{
	size_t nr = 2 * PG_MAX_VMAS;

	empty_world(nr + 16);
	for (size_t i = 0; i < PG_MAX_VMAS - 1; i++)
		CHECK_EQ(pg_mm_adopt(&w.mm, AT(2 * i), 1), 0);
	CHECK_EQ(adopt(nr, 16), 0);
	CHECK_EQ(w.mm.nr_vma, PG_MAX_VMAS);
	CHECK_EQ(adopt(nr - 2, 1), -ENOMEM);
	fill(nr, 16);
	migrate(nr, 16, true);
	/* No room for the two parts: what is behind the gap stays ours. */
	unmap(nr + 4, 4);
	CHECK_EQ(w.mm.nr_vma, PG_MAX_VMAS);
	CHECK_EQ(count_of(nr + 4, 4, PG_PTE_HOLE), 4);
	world_check();
	check_filled(nr, 4);
	check_filled(nr + 8, 8);
	CHECK_EQ(release(nr + 4, 4), -ENOMEM);
	CHECK_EQ(release(nr + 16, 4), 0);
	CHECK_EQ(release(nr + 4, 12), 0);
	CHECK_EQ(w.mm.vma[w.mm.nr_vma - 1].end, AT(nr + 4));
	CHECK_EQ(release(0, 1), 0);
	CHECK_EQ(adopt(nr - 2, 1), 0);
	world_check();
	world_close();
}

TEST(a_change_of_all_there_is_costs_what_is_managed)
{
	void *all = NULL;
	size_t len = (size_t)1 << 46;

	empty_world(4096);
	CHECK_EQ(adopt(0, 1000), 0);
	CHECK_EQ(adopt(2000, 1000), 0);
	fill(0, 100);
	fill(2500, 100);
	migrate(0, 100, true);
	migrate(2500, 100, true);
	alarm(60);
	CHECK_EQ(pgmap_migrate(&w.mm, all, len, true, NULL), -EFAULT);
	pgmap_mm_change_begin(&w.mm);
	pgmap_mm_remove(&w.mm, all, len);
	pg_soft_zap(w.mmu, AT(0), 4096);
	pgmap_mm_change_end(&w.mm);
	CHECK_EQ(count_of(0, 4096, PG_PTE_HOLE), 4096);
	CHECK_EQ(tdev.stored, 0);
	RANGES({0, 1000}, {2000, 3000});
	world_check();
	CHECK_EQ(pgmap_mm_release(&w.mm, all, len), 0);
	CHECK_EQ(w.mm.nr_vma, 0);
	alarm(0);
	world_close();
}

/* ---- Dropping ---- */

TEST(R95_dropping_what_is_away_frees_it_at_once)
{
	world_open(64, 4096, 16);
	fill(0, 32);
	migrate(0, 32, true);
	CHECK_EQ(tdev.stored, 32);
	drop(0, 16);
	CHECK_EQ(tdev.stored, 16);
	CHECK_EQ(pg_map_refs(w.dev->map), 16);
	CHECK_EQ(counter("discards"), 16);
	world_check();
	unmap(16, 16);
	CHECK_EQ(tdev.stored, 0);
	CHECK_EQ(pg_map_refs(w.dev->map), 0);
	RANGES({0, 16}, {32, 64});
	world_check();
	for (size_t i = 0; i < 16; i++)
		CHECK_EQ(get_byte(i, i), 0);
	world_close();
}

TEST(R44_a_folio_is_freed_under_the_lock_of_the_page_table)
{
	/* This build aborts where a lock is taken out of order. */
	CHECK(pg_lock_held(LOCK_PT) == false);
	world_open(64, 4096, 16);
	fill(0, 16);
	migrate(0, 16, true);
	drop(0, 16);
	CHECK_EQ(tdev.stored, 0);
	fill(0, 16);
	migrate(0, 16, true);
	migrate(0, 16, false);
	CHECK_EQ(tdev.stored, 0);
	world_close();
}

static unsigned int runs;

static int count_run(struct pgmap_mm *mm, int (*fn)(struct pgmap_mm *, void *),
		     void *arg)
{
	runs++;
	return fn(mm, arg);
}

TEST(what_may_need_a_descriptor_runs_where_descriptors_are)
{
	world_open(64, 4096, 16);
	w.mm.run = count_run;
	runs = 0;
	fill(0, 16);
	migrate(0, 16, true);
	CHECK_EQ(runs, 1);
	drop(0, 4);
	CHECK_EQ(runs, 1); /* this device needs none to discard */
	w.dev->ops.flags |= PGMAP_DEV_DESCRIPTORS;
	drop(4, 4);
	CHECK_EQ(runs, 2);
	unmap(8, 4);
	CHECK_EQ(runs, 3);
	CHECK_EQ(adopt(8, 4), 0);
	CHECK_EQ(release(0, 4), 0);
	CHECK_EQ(runs, 5);
	w.dev->ops.flags &= ~PGMAP_DEV_DESCRIPTORS;
	world_close();
}

/* ---- mremap ---- */

/* Move the program's pages as mremap() does. */
static void soft_move(size_t from, size_t to, size_t nr)
{
	for (size_t i = 0; i < nr; i++) {
		char buf[PG_PAGE_SIZE];
		size_t done;

		if (!w.mmu->ops->take(w.mmu, AT(from + i), buf, 1, &done))
			CHECK_EQ(w.mmu->ops->give(w.mmu, AT(to + i), buf, 1,
						  &done),
				 0);
	}
}

static void remap(size_t from, size_t nr, size_t to, size_t to_nr)
{
	pgmap_mm_change_begin(&w.mm);
	pg_soft_zap(w.mmu, AT(to), to_nr);
	soft_move(from, to, nr < to_nr ? nr : to_nr);
	pgmap_mm_remap(&w.mm, PTR(from), nr * PAGE, PTR(to), to_nr * PAGE);
	pgmap_mm_unmap(&w.mm, PTR(from), nr * PAGE);
	pg_soft_zap(w.mmu, AT(from), nr);
	CHECK_EQ(pg_mm_adopt(&w.mm, AT(to), to_nr), 0);
	pgmap_mm_change_end(&w.mm);
}

static void check_moved(size_t from, size_t to, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		CHECK_EQ(get_byte(to + i, from + i), byte_of(from + i));
}

TEST(R99_entries_move_as_they_are)
{
	static const struct {
		size_t from, nr, to, to_nr;
	} t[] = {
		{0, 48, 128, 48},  {0, 48, 133, 48}, {3, 40, 128, 40},
		{0, 48, 128, 20},  {0, 48, 128, 60}, {500, 48, 1030, 48},
		{500, 48, 20, 48}, {5, 1, 600, 1},
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		size_t n = t[i].nr < t[i].to_nr ? t[i].nr : t[i].to_nr;

		world_open(2048, 8192, 16);
		fill(t[i].from, t[i].nr);
		fill(t[i].to, 8); /* what lies there goes */
		migrate(t[i].from + t[i].nr / 4, t[i].nr / 2, true);
		migrate(t[i].to, 4, true);
		if (t[i].nr > 20) {
			drop(t[i].from + 18, 1);
			pg_soft_pin(w.mmu, AT(t[i].from + 1), true);
			migrate(t[i].from + 1, 1, true);
			pg_soft_pin(w.mmu, AT(t[i].from + 1), false);
		}
		remap(t[i].from, t[i].nr, t[i].to, t[i].to_nr);
		world_check();
		check_moved(t[i].from, t[i].to, n > 18 ? 18 : n);
		if (n > 19)
			check_moved(t[i].from + 19, t[i].to + 19, n - 19);
		if (n > 18)
			CHECK_EQ(get_byte(t[i].to + 18, 18), 0);
		for (size_t k = n; k < t[i].to_nr; k++)
			CHECK_EQ(get_byte(t[i].to + k, 0), 0);
		/* The old place is new memory when it is adopted again. */
		CHECK_EQ(adopt(t[i].from, t[i].nr), 0);
		CHECK_EQ(get_byte(t[i].from, t[i].from), 0);
		world_check();
		world_close();
	}
}

TEST(R99_a_range_shrinks_in_place)
{
	world_open(64, 4096, 16);
	fill(0, 64);
	migrate(0, 64, true);
	pgmap_mm_change_begin(&w.mm);
	pgmap_mm_remap(&w.mm, PTR(0), 64 * PAGE, PTR(0), 10 * PAGE);
	pgmap_mm_change_end(&w.mm);
	RANGES({0, 10});
	CHECK_EQ(counter("away"), 10 * PAGE);
	world_check();
	check_filled(0, 10);
	/* Or grows. */
	pgmap_mm_change_begin(&w.mm);
	CHECK_EQ(pgmap_mm_remap(&w.mm, PTR(0), 10 * PAGE, PTR(0), 20 * PAGE),
		 0);
	pgmap_mm_change_end(&w.mm);
	RANGES({0, 20});
	world_check();
	check_filled(0, 10);
	world_close();
}

/* ---- fork ---- */

TEST(a_child_forgets_ranges_that_it_does_not_have)
{
	world_open(64, 4096, 16);
	CHECK_EQ(release(0, 64), 0);
	CHECK_EQ(adopt(0, 16), 0);
	CHECK_EQ(adopt(32, 16), 0);
	fill(0, 16);
	fill(32, 16);
	migrate(0, 16, true);
	migrate(32, 16, true);
	/* A range that the MMU does not know any more. */
	pgmap_mm_change_begin(&w.mm);
	w.mm.vma[1].start = AT(64);
	w.mm.vma[1].end = AT(80);
	CHECK_EQ(pg_mm_watch_again(&w.mm), 0);
	RANGES({0, 16});
	/* Back, for the end of the test. */
	w.mm.vma[1] = (struct pg_vma){AT(32), AT(48)};
	w.mm.nr_vma = 2;
	pgmap_mm_change_end(&w.mm);
	check_filled(0, 16);
	check_filled(32, 16);
	world_close();
}

static int watch_fails(struct pg_mmu *m, uintptr_t va, size_t nr)
{
	(void)m;
	(void)nr;
	return va == AT(0) ? -EBUSY : -EINVAL;
}

TEST(a_child_that_cannot_watch_its_ranges_says_why)
{
	const struct pg_mmu_ops *soft;
	struct pg_mmu_ops ops;

	world_open(64, 4096, 16);
	CHECK_EQ(release(16, 16), 0);
	fill(0, 16);
	migrate(0, 16, true);
	soft = w.mmu->ops;
	ops = *soft;
	ops.watch = watch_fails;
	w.mmu->ops = &ops;
	pgmap_mm_change_begin(&w.mm);
	CHECK_EQ(pg_mm_watch_again(&w.mm), -EBUSY);
	pgmap_mm_change_end(&w.mm);
	w.mmu->ops = soft;
	CHECK_EQ(w.mm.nr_vma, 0);
	CHECK_EQ(tdev.stored, 0);
	world_close();
}

static unsigned int nr_put;
static int put_result;

static int put_page(uintptr_t va, void *page)
{
	size_t i = (va - AT(0)) / PAGE;

	MUST(((uint8_t *)page)[i % PAGE] == byte_of(i));
	nr_put++;
	return put_result;
}

static int abandon(void)
{
	int ret;

	nr_put = 0;
	pgmap_mm_change_begin(&w.mm);
	ret = pg_mm_abandon(&w.mm, put_page);
	pgmap_mm_change_end(&w.mm);
	CHECK_EQ(w.mm.nr_vma, 0);
	CHECK_EQ(tdev.stored, 0);
	world_check();
	return ret;
}

static void open_split(void)
{
	world_open(64, 4096, 16);
	fill(0, 64);
	migrate(0, 20, true);
	migrate(40, 10, true);
	CHECK_EQ(release(24, 8), 0);
	put_result = 0;
}

TEST(a_child_that_cannot_be_managed_gets_all_its_pages)
{
	open_split();
	CHECK_EQ(abandon(), 0);
	CHECK_EQ(nr_put, 30);
	world_close();
	/* It ends at the first page that cannot be had or written. */
	open_split();
	put_result = -EFAULT;
	CHECK_EQ(abandon(), -EFAULT);
	CHECK_EQ(nr_put, 1);
	world_close();
	open_split();
	tdev.on_load = no_load;
	CHECK_EQ(abandon(), -EIO);
	world_close();
	open_split();
	tdev.on_load = no_load;
	log_catch();
	migrate(3, 1, false);
	log_release();
	tdev.on_load = NULL;
	CHECK_EQ(state_of(3), PG_PTE_POISON);
	/* The rest of its folio came back. */
	CHECK_EQ(abandon(), -EIO);
	CHECK_EQ(nr_put, 0);
	pg_soft_zap(w.mmu, AT(3), 1);
	world_close();
	open_split();
	pg_mem_fail_nth(1);
	CHECK_EQ(abandon(), -ENOMEM);
	CHECK_EQ(nr_put, 0);
	world_close();
}

static _Atomic(pid_t) releaser;
static _Atomic(bool) released;

static void *release_thread(void *arg)
{
	(void)arg;
	releaser = gettid();
	MUST(!release(0, 16));
	released = true;
	return NULL;
}

TEST(R78_release_waits_for_who_holds_a_page_for_a_moment)
{
	struct pgmap_folio *folio;
	pthread_t t;

	world_open(64, 4096, 16);
	fill(0, 16);
	migrate(0, 16, true);
	folio = folio_of(3);
	pgmap_folio_get(folio);
	releaser = 0;
	released = false;
	CHECK_EQ(pthread_create(&t, NULL, release_thread, NULL), 0);
	CHECK(test_wait_asleep(&releaser, &released));
	pgmap_folio_put(folio);
	pthread_join(t, NULL);
	CHECK_EQ(tdev.stored, 0);
	check_filled(0, 16);
	world_close();
}

static int none_present(struct pg_mmu *m, uintptr_t va, size_t nr,
			uint64_t *bits)
{
	(void)m;
	(void)va;
	(void)nr;
	(void)bits;
	return 0;
}

TEST(what_nobody_can_tell_at_adoption_is_a_hole_and_found_by_its_fault)
{
	const struct pg_mmu_ops *soft;
	struct pg_mmu_ops ops;

	for (int i = 0; i < 2; i++) {
		empty_world(64);
		fill(0, 20);
		soft = w.mmu->ops;
		ops = *soft;
		ops.present = i ? none_present : present_fails;
		w.mmu->ops = &ops;
		CHECK_EQ(adopt(0, 64), 0);
		w.mmu->ops = soft;
		CHECK_EQ(count_of(0, 64, PG_PTE_HOLE), 64);
		/* It is there for the program. */
		check_filled(0, 20);
		CHECK_EQ(pg_fault(&w.mm, AT(3), 0), PG_FAULT_DONE);
		CHECK_EQ(state_of(3), PG_PTE_PRESENT);
		check_filled(0, 20);
		world_close();
	}
}

TEST(metadata_is_counted_where_it_is_used)
{
	struct pgmap_stat st = {.size = sizeof(st)};
	uint64_t before;

	world_open(1024, 64, 4);
	CHECK_EQ(pgmap_stat_get(&w.mm, &st), 0);
	before = st.metadata;
	CHECK_EQ(pg_soft_write(w.mmu, AT(0), 1), 0);
	CHECK_EQ(pg_soft_write(w.mmu, AT(600), 1), 0);
	CHECK_EQ(pgmap_stat_get(&w.mm, &st), 0);
	CHECK_EQ(st.metadata - before, 2 * 512 * 9); /* two regions */
	world_close();
}

TEST_MAIN()
