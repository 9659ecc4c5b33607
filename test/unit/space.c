/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Spaces: areas, the CPU's touch, and what fork, mprotect, munmap and mremap
 * do to entries.
 */
#include "spaces.h"

#define AT (2 * GB)

static struct pg_space s, child;
static struct pgmap *map;
static struct test_file file;

static void open_world(enum pgmap_type type, enum pg_area_kind kind,
		       uint64_t nr)
{
	map = map_new(type, (nr + 511) & ~(uint64_t)511);
	file_init(&file, map);
	CHECK_EQ(pg_space_init(&s), 0);
	CHECK_EQ(pg_space_map(&s, AT, nr, kind, RW,
			      kind == PG_AREA_DAX ? &file.mapping : NULL, 0),
		 0);
	check(&s);
}

static void close_world(void)
{
	check(&s);
	pg_space_fini(&s);
	for (int i = 0; i < PG_NR_RSS; i++)
		CHECK_EQ(rss(&s, (enum pg_rss)i), 0);
	map_end(map);
}

/* A private folio of one entry at @va, held by nothing else. */
static void put_private(uintptr_t va, uint64_t i, enum pg_level level)
{
	struct pgmap_folio *folio = folio_new(map, i, pg_level_order(level));

	CHECK_EQ(insert(&s, va, level, folio, map_pfn(map) + i,
			PG_E_PRIVATE | PG_E_WRITE),
		 PG_VM_NOPAGE);
	pgmap_folio_put(folio);
}

/* ---- Areas ---- */

TEST(R118_areas_are_mapped_where_nothing_is)
{
	static const struct {
		uintptr_t va;
		uint64_t nr;
		int ret;
	} t[] = {
		{AT, 1, -EEXIST},
		{AT - PAGE, 2, -EEXIST},
		{AT - PAGE, 100, -EEXIST},
		{AT + 3 * PAGE, 5, -EEXIST},
		{AT + 1, 1, -EINVAL},
		{AT, 0, -EINVAL},
		{(uintptr_t)1 << PG_VA_BITS, 1, -EINVAL},
		{((uintptr_t)1 << PG_VA_BITS) - PAGE, 2, -EINVAL},
		{AT, UINT64_MAX / 2, -EINVAL},
		{AT - PAGE, 1, 0},
		{AT + 4 * PAGE, 1, 0},
		{((uintptr_t)1 << PG_VA_BITS) - PAGE, 1, 0},
	};

	static const struct pg_mapping_ops no_ops;
	struct pg_mapping bare = {0}, silent;

	open_world(PGMAP_FS_DAX, PG_AREA_DAX, 4);
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		CHECK_EQ(pg_space_map(&s, t[i].va, t[i].nr, PG_AREA_ANON, RW,
				      NULL, 0),
			 t[i].ret);
	CHECK_EQ(pg_space_map(&s, AT + GB, 1, PG_AREA_DAX, RW, NULL, 0),
		 -EINVAL);
	CHECK_EQ(pg_space_map(&s, AT + GB, 1, PG_AREA_ANON, PG_AREA_WRITE, NULL,
			      0),
		 -EINVAL);
	CHECK_EQ(pg_space_map(&s, AT + GB, 1, PG_AREA_ANON, 1u << 9, NULL, 0),
		 -EINVAL);
	CHECK_EQ(pg_space_map(&s, AT + GB, 2, PG_AREA_ANON, RW, NULL,
			      UINT64_MAX),
		 -EINVAL);
	CHECK_EQ(pg_space_map(&s, AT + GB, 2, PG_AREA_ANON, RW, NULL,
			      PG_INDEX_MASK),
		 -EINVAL);
	CHECK_EQ(pg_space_map(&s, AT + GB, 1, PG_AREA_DAX, RW, &bare, 0),
		 -EINVAL);
	/* Without anybody to ask, every touch is an error. */
	CHECK_EQ(pg_space_map(&s, AT + GB, 1, PG_AREA_PFNMAP, RW, &bare, 0), 0);
	CHECK_EQ(pg_touch(&s, AT + GB, false, NULL), PG_VM_SIGBUS);
	pg_mapping_init(&silent, &no_ops);
	CHECK_EQ(pg_space_map(&s, AT + 2 * GB, 1, PG_AREA_PFNMAP, RW, &silent,
			      0),
		 0);
	CHECK_EQ(pg_touch(&s, AT + 2 * GB, false, NULL), PG_VM_SIGBUS);
	CHECK_EQ(pg_touch(&s, (uintptr_t)1 << PG_VA_BITS, false, NULL),
		 PG_VM_SIGSEGV);
	CHECK(pg_find_area(&s, AT)->kind == PG_AREA_DAX);
	CHECK(!pg_find_area(&s, AT + 5 * PAGE));
	close_world();
}

TEST(R127_munmap_leaves_what_lies_beside_it)
{
	open_world(PGMAP_FS_DAX, PG_AREA_DAX, 64);
	file.largest = PG_PTE;
	for (uintptr_t i = 0; i < 64; i++)
		CHECK_EQ(pg_touch(&s, AT + i * PAGE, false, NULL),
			 PG_VM_NOPAGE);
	/* A hole in the middle, and one over both its edges. */
	CHECK_EQ(pg_space_unmap(&s, AT + 10 * PAGE, 10), 0);
	CHECK_EQ(pg_space_unmap(&s, AT + 5 * PAGE, 30), 0);
	CHECK_EQ(rss(&s, PG_RSS_FILE), 5 + 29);
	/* What is left is still the same part of the file. */
	zap(&s, AT + 35 * PAGE, AT + 64 * PAGE);
	for (uintptr_t i = 35; i < 64; i++) {
		uint64_t pfn;

		CHECK_EQ(pg_touch(&s, AT + i * PAGE, false, &pfn),
			 PG_VM_NOPAGE);
		CHECK_EQ(pfn, map_pfn(map) + i);
	}
	CHECK_EQ(pg_touch(&s, AT + 20 * PAGE, false, NULL), PG_VM_SIGSEGV);
	CHECK_EQ(pg_space_unmap(&s, AT, 64), 0);
	CHECK_EQ(pg_space_unmap(&s, AT, 64), 0); /* nothing there: fine */
	CHECK_EQ(pg_space_unmap(&s, AT, 0), -EINVAL);
	CHECK(!s.areas);
	CHECK(!file.mapping.areas);
	close_world();
}

static int only_2mb(struct pg_area *area, uintptr_t va)
{
	(void)area;
	return va % (2 * MB) ? -EINVAL : 0;
}

TEST(R154f_an_area_is_not_split_where_its_device_cannot)
{
	static const struct pg_mapping_ops ops = {
		.fault = file_fault,
		.may_split = only_2mb,
	};
	struct pgmap_folio *folio;

	open_world(PGMAP_GENERIC, PG_AREA_PFNMAP, 512);
	pg_mapping_init(&file.mapping, &ops);
	CHECK_EQ(pg_space_map(&s, AT + GB, 1024, PG_AREA_DAX, RW, &file.mapping,
			      0),
		 0);
	folio = folio_new(map, 0, 0);
	CHECK_EQ(insert(&s, AT + GB, PG_PTE, folio, map_pfn(map), 0),
		 PG_VM_NOPAGE);
	pgmap_folio_put(folio);
	CHECK_EQ(pg_space_unmap(&s, AT + GB, 1), -EINVAL);
	CHECK_EQ(pg_space_unmap(&s, AT + GB + PAGE, 1023), -EINVAL);
	CHECK_EQ(pg_space_protect(&s, AT + GB, 1, 0), -EINVAL);
	CHECK_EQ(pg_space_move(&s, AT + GB, 1, AT + 2 * GB, false), -EINVAL);
	CHECK_EQ(page_at(&s, AT + GB), map_pfn(map));
	CHECK_EQ(pg_find_area(&s, AT + GB)->end, AT + GB + 4 * MB);
	CHECK_EQ(pg_space_unmap(&s, AT + GB + 2 * MB, 512), 0);
	CHECK_EQ(pg_space_unmap(&s, AT + GB, 512), 0);
	close_world();
}

TEST(R154f_an_area_is_not_moved_where_its_device_cannot)
{
	static const struct pg_mapping_ops ops = {
		.fault = file_fault,
		.may_split = only_2mb,
	};

	open_world(PGMAP_GENERIC, PG_AREA_PFNMAP, 512);
	pg_mapping_init(&file.mapping, &ops);
	CHECK_EQ(pg_space_map(&s, AT + GB, 1024, PG_AREA_DAX, RW, &file.mapping,
			      0),
		 0);
	CHECK_EQ(pg_touch(&s, AT + GB, true, NULL), PG_VM_NOPAGE);
	for (int keep = 0; keep < 2; keep++) {
		CHECK_EQ(pg_space_move(&s, AT + GB, 1024, AT + 2 * GB + PAGE,
				       keep),
			 -EINVAL);
		CHECK_EQ(
			pg_space_move(&s, AT + GB, 512, AT + 2 * GB + MB, keep),
			-EINVAL);
	}
	CHECK(!pg_find_area(&s, AT + 2 * GB + PAGE));
	CHECK_EQ(pg_find_area(&s, AT + GB)->end, AT + GB + 4 * MB);
	CHECK_EQ(page_at(&s, AT + GB), map_pfn(map));
	CHECK_EQ(pg_space_move(&s, AT + GB, 512, AT + 2 * GB + 2 * MB, false),
		 0);
	CHECK_EQ(page_at(&s, AT + 2 * GB + 2 * MB), map_pfn(map));
	close_world();
}

/* ---- The CPU ---- */

TEST(R130_a_touch_marks_the_entry_as_a_CPU_does)
{
	const pg_entry_t there = PG_E_PRESENT | PG_E_YOUNG;
	uint64_t pfn;

	open_world(PGMAP_FS_DAX, PG_AREA_DAX, 16);
	CHECK_EQ(pg_touch(&s, AT + 3 * PAGE + 77, false, &pfn), PG_VM_NOPAGE);
	CHECK_EQ(pfn, map_pfn(map) + 3);
	CHECK_EQ(entry(&s, AT + 3 * PAGE), pfn << 12 | there);
	CHECK_EQ(file.faults, 1);
	/* A load is no store: the first store asks the file. */
	CHECK_EQ(pg_touch(&s, AT + 3 * PAGE, false, &pfn), PG_VM_NOPAGE);
	CHECK_EQ(file.faults, 1);
	CHECK_EQ(pg_touch(&s, AT + 3 * PAGE, true, &pfn), PG_VM_NOPAGE);
	CHECK_EQ(file.faults, 2);
	CHECK_EQ(entry(&s, AT + 3 * PAGE),
		 pfn << 12 | there | PG_E_WRITE | PG_E_DIRTY);
	/* Nobody asks about the next ones. */
	CHECK_EQ(pg_touch(&s, AT + 3 * PAGE, true, &pfn), PG_VM_NOPAGE);
	CHECK_EQ(file.faults, 2);
	CHECK_EQ(pg_touch(&s, AT - 1, false, NULL), PG_VM_SIGSEGV);
	CHECK_EQ(pg_touch(&s, AT + 16 * PAGE, false, NULL), PG_VM_SIGSEGV);
	close_world();
}

TEST(R131_a_fault_makes_the_largest_entry_that_fits)
{
	enum pg_level large = pg_level_supported(PG_PMD) ? PG_PMD : PG_PTE;
	enum pg_level huge = pg_level_supported(PG_PUD) ? PG_PUD : large;

	open_world(PGMAP_FS_DAX, PG_AREA_DAX, 1u << 18);
	CHECK_EQ(pg_touch(&s, AT + 700 * MB, true, NULL), PG_VM_NOPAGE);
	CHECK_EQ(level_at(&s, AT + 700 * MB), huge);
	CHECK_EQ(pg_space_unmap(&s, AT, 1u << 18), 0);
	/* A page too few for 1 GB. */
	CHECK_EQ(pg_space_map(&s, AT, (1u << 18) - 1, PG_AREA_DAX, RW,
			      &file.mapping, 0),
		 0);
	CHECK_EQ(pg_touch(&s, AT + 700 * MB, true, NULL), PG_VM_NOPAGE);
	CHECK_EQ(level_at(&s, AT + 700 * MB), large);
	CHECK_EQ(pg_touch(&s, AT + GB - 2 * PAGE, true, NULL), PG_VM_NOPAGE);
	CHECK_EQ(level_at(&s, AT + GB - 2 * PAGE), PG_PTE);
	/* Where there is a small entry already, another small one. */
	CHECK_EQ(pg_touch(&s, AT + GB - 3 * PAGE, true, NULL), PG_VM_NOPAGE);
	check(&s);
	CHECK_EQ(nr_entries(&s), 3);
	close_world();
}

TEST(R141_N48_an_address_of_another_colour_never_has_a_large_entry)
{
	uint64_t pfn;

	open_world(PGMAP_FS_DAX, PG_AREA_DAX, 512);
	/* A part of the file that starts at 2 MB, at an address 4 KB off. */
	CHECK_EQ(pg_space_map(&s, AT + GB + PAGE, 2048, PG_AREA_DAX, RW,
			      &file.mapping, 0),
		 0);
	map_end(map);
	map = map_new(PGMAP_FS_DAX, 4096);
	file.map = map;
	for (uintptr_t i = 0; i < 2048; i += 37) {
		uintptr_t va = AT + GB + (i + 1) * PAGE;

		CHECK_EQ(pg_touch(&s, va, true, &pfn), PG_VM_NOPAGE);
		CHECK_EQ(pfn, map_pfn(map) + i);
		CHECK_EQ(level_at(&s, va), PG_PTE);
	}
	/* The same colour, not from the start of either. */
	CHECK_EQ(pg_space_map(&s, AT + 2 * GB + 6 * PAGE, 1536, PG_AREA_DAX, RW,
			      &file.mapping, 2048 + 6),
		 0);
	CHECK_EQ(pg_touch(&s, AT + 2 * GB + 2 * MB + 9 * PAGE, true, &pfn),
		 PG_VM_NOPAGE);
	CHECK_EQ(pfn, map_pfn(map) + 2048 + 512 + 9);
	CHECK_EQ(level_at(&s, AT + 2 * GB + 2 * MB),
		 pg_level_supported(PG_PMD) ? PG_PMD : PG_PTE);
	/* Its first 2 MB are not all in the area. */
	CHECK_EQ(pg_touch(&s, AT + 2 * GB + 9 * PAGE, true, &pfn),
		 PG_VM_NOPAGE);
	CHECK_EQ(level_at(&s, AT + 2 * GB + 9 * PAGE), PG_PTE);
	close_world();
}

TEST(R123_a_store_to_a_large_entry_that_only_small_ones_can_answer_splits_it)
{
	struct pgmap_folio *folio;
	uint64_t pfn;

	NEEDS(PG_PMD);
	open_world(PGMAP_FS_DAX, PG_AREA_DAX, 512);
	CHECK_EQ(pg_touch(&s, AT, false, NULL), PG_VM_NOPAGE);
	CHECK_EQ(level_at(&s, AT), PG_PMD);
	folio = rec(map, 0);
	file.largest = PG_PTE;
	CHECK_EQ(pg_touch(&s, AT + 7 * PAGE, true, &pfn), PG_VM_NOPAGE);
	CHECK_EQ(pfn, map_pfn(map) + 7);
	CHECK_EQ(level_at(&s, AT + 7 * PAGE), PG_PTE);
	CHECK_EQ(rss(&s, PG_RSS_FILE), 1);
	CHECK_EQ(pgmap_folio_mapcount(folio), 0); /* another one, of a page */
	close_world();
}

TEST(R58_untouched_anonymous_memory_reads_as_zeros)
{
	uint64_t pfn = 1;

	open_world(PGMAP_PRIVATE, PG_AREA_ANON, 512);
	CHECK_EQ(pg_touch(&s, AT, false, &pfn), PG_VM_NOPAGE);
	CHECK_EQ(pfn, 0);
	CHECK_EQ(entry(&s, AT), PG_E_ZERO | PG_E_PRESENT | PG_E_YOUNG);
	CHECK_EQ(rss(&s, PG_RSS_ANON) + rss(&s, PG_RSS_FILE), 0);
	/* There is no RAM here to store to. */
	CHECK_EQ(pg_touch(&s, AT, true, &pfn), PG_VM_SIGBUS);
	CHECK_EQ(pg_touch(&s, AT + PAGE, true, &pfn), PG_VM_SIGBUS);
	close_world();
}

static struct pgmap_fault seen;
static unsigned int nr_seen;

/* Bring it back: into RAM, which this world shows as zeros. */
static int bring_back(struct pgmap_fault *f)
{
	seen = *f;
	nr_seen++;
	MUST(pg_folio_is_locked(f->folio));
	MUST(pgmap_folio_count(f->folio) == pgmap_folio_mapcount(f->folio) + 1);
	MUST(!pg_lock_held(LOCK_PT));
	pg_zap_range(pg_find_area(f->space, f->va), f->va, f->va + PAGE);
	return 0;
}

static int no_memory(struct pgmap_fault *f)
{
	seen = *f;
	return -ENOMEM;
}

TEST(R51_R88_a_touch_of_a_private_page_asks_its_driver_with_the_page_locked)
{
	uint64_t pfn;

	open_world(PGMAP_PRIVATE, PG_AREA_ANON, 1024);
	put_private(AT + PAGE, 601, PG_PTE);
	on_fault = bring_back;
	nr_seen = 0;
	CHECK_EQ(pg_touch(&s, AT + PAGE + 9, false, &pfn), PG_VM_NOPAGE);
	CHECK_EQ(pfn, 0);
	CHECK_EQ(nr_seen, 1);
	CHECK(seen.space == &s);
	CHECK_EQ(seen.pfn, map_pfn(map) + 601);
	CHECK(seen.folio == rec(map, 601));
	CHECK(!seen.whole);
	CHECK(!(seen.flags & PG_FAULT_WRITE));
	CHECK_EQ(pgmap_folio_count(rec(map, 601)), 0);
	CHECK(!pg_folio_is_locked(rec(map, 601)));
	if (pg_level_supported(PG_PMD)) {
		put_private(AT + 2 * MB, 0, PG_PMD);
		CHECK_EQ(pg_touch(&s, AT + 2 * MB + 9 * PAGE, false, &pfn),
			 PG_VM_NOPAGE);
		CHECK_EQ(seen.pfn, map_pfn(map) + 9);
		CHECK(seen.folio == rec(map, 0));
		CHECK(seen.whole);
		CHECK_EQ(pgmap_folio_count(rec(map, 0)), 511);
		check(&s);
		/* Now page by page. */
		CHECK_EQ(pg_touch(&s, AT + 2 * MB + 11 * PAGE, false, &pfn),
			 PG_VM_NOPAGE);
		CHECK(!seen.whole);
		CHECK_EQ(pgmap_folio_count(rec(map, 0)), 510);
	}
	close_world();
}

TEST(R90_what_the_driver_cannot_bring_back_is_an_error_for_the_thread)
{
	open_world(PGMAP_PRIVATE, PG_AREA_ANON, 512);
	put_private(AT, 0, PG_PTE);
	CHECK_EQ(pg_touch(&s, AT, false, NULL), PG_VM_SIGBUS);
	on_fault = no_memory;
	CHECK_EQ(pg_touch(&s, AT, true, NULL), PG_VM_OOM);
	CHECK(seen.flags & PG_FAULT_WRITE);
	CHECK_EQ(pgmap_folio_count(rec(map, 0)), 1);
	CHECK(!pg_folio_is_locked(rec(map, 0)));
	close_world();
}

static int busy_once(struct pgmap_fault *f)
{
	return nr_seen++ ? bring_back(f) : -EAGAIN;
}

TEST(R90_a_driver_that_lost_a_race_is_asked_again)
{
	open_world(PGMAP_PRIVATE, PG_AREA_ANON, 512);
	put_private(AT, 0, PG_PTE);
	on_fault = busy_once;
	nr_seen = 0;
	CHECK_EQ(pg_touch(&s, AT, false, NULL), PG_VM_NOPAGE);
	CHECK_EQ(nr_seen, 3);
	close_world();
}

static _Atomic(int) round_no, round_done;
static _Atomic(enum pg_fault_code) other_code;

static void *touch_each_round(void *arg)
{
	int rounds = *(int *)arg;

	for (int i = 1; i <= rounds; i++) {
		while (round_no < i)
			sched_yield();
		other_code = pg_touch(&s, AT, false, NULL);
		round_done = i;
	}
	return NULL;
}

TEST(R93_of_two_who_fault_one_page_one_brings_it_back)
{
	int rounds = 5000;
	unsigned int bad = 0;
	pthread_t t;

	open_world(PGMAP_PRIVATE, PG_AREA_ANON, 512);
	put_private(AT, 0, PG_PTE);
	on_fault = bring_back;
	round_no = round_done = 0;
	CHECK_EQ(pthread_create(&t, NULL, touch_each_round, &rounds), 0);
	for (int i = 1; i <= rounds; i++) {
		nr_seen = 0;
		round_no = i;
		bad += pg_touch(&s, AT, false, NULL) != PG_VM_NOPAGE;
		while (round_done < i)
			sched_yield();
		bad += other_code != PG_VM_NOPAGE || nr_seen != 1 ||
		       pgmap_folio_count(rec(map, 0)) != 0;
		/* The page of zeros goes, the next one comes. */
		zap(&s, AT, AT + PAGE);
		if (i < rounds)
			put_private(AT, 0, PG_PTE);
	}
	pthread_join(t, NULL);
	CHECK_EQ(bad, 0);
	close_world();
}

static void *touch_thread(void *arg)
{
	*(enum pg_fault_code *)arg = pg_touch(&s, AT, false, NULL);
	return NULL;
}

TEST(N10_R88_R93_a_page_that_was_freed_meanwhile_is_not_taken)
{
	enum pg_fault_code code = PG_VM_OOM;
	struct pg_gather g = {0};
	struct pgmap_folio *folio;
	pthread_t t;

	open_world(PGMAP_PRIVATE, PG_AREA_ANON, 512);
	put_private(AT, 0, PG_PTE);
	on_fault = bring_back;
	nr_seen = 0;
	/* T1 has read the entry and is about to look at it again. */
	pg_lock(&s.ptl, LOCK_PT);
	CHECK_EQ(pthread_create(&t, NULL, touch_thread, &code), 0);
	while (pg_load(&s.ptl.word, relaxed) != 2)
		sched_yield();
	/* T2 frees the page; T3 gets it, for another address. */
	pg_entry_zap(&s, AT, PG_PTE, &g);
	pg_gather_put(&s, &g);
	folio = folio_new(map, 0, 0);
	pg_entry_count(&s, folio, PG_PTE);
	pg_entry_set(&s, AT + PAGE, PG_PTE, map_pfn(map) << 12 | PG_E_PRIVATE);
	pg_unlock(&s.ptl, LOCK_PT);
	pthread_join(t, NULL);
	CHECK_EQ(code, PG_VM_NOPAGE);
	CHECK_EQ(nr_seen, 0);
	CHECK_EQ(page_at(&s, AT + PAGE), map_pfn(map));
	CHECK_EQ(pgmap_folio_count(folio), 1);
	close_world();
}

TEST(R89_who_waits_for_a_locked_page_holds_no_reference)
{
	enum pg_fault_code code = PG_VM_OOM;
	struct pgmap_folio *folio;
	pthread_t t;

	open_world(PGMAP_PRIVATE, PG_AREA_ANON, 512);
	put_private(AT, 0, PG_PTE);
	folio = rec(map, 0);
	on_fault = bring_back;
	nr_seen = 0;
	CHECK(pgmap_folio_trylock(folio));
	CHECK_EQ(pthread_create(&t, NULL, touch_thread, &code), 0);
	for (int i = 0; i < 200; i++) {
		CHECK_EQ(pgmap_folio_count(folio), 1);
		usleep(100);
	}
	/* Nor a lock: who holds the page may do with the space what he will. */
	CHECK_EQ(pg_space_protect(&s, AT, 1, PG_AREA_READ), 0);
	CHECK_EQ(nr_seen, 0);
	pgmap_folio_unlock(folio);
	pthread_join(t, NULL);
	CHECK_EQ(code, PG_VM_NOPAGE);
	CHECK_EQ(nr_seen, 1);
	close_world();
}

/* ---- mprotect ---- */

TEST(R98_a_private_page_that_may_not_be_written_stays_on_the_device)
{
	enum pg_level levels[] = {PG_PTE, PG_PMD};

	for (int i = 0; i < 2; i++) {
		enum pg_level level = levels[i];
		pg_entry_t e;

		if (!pg_level_supported(level))
			continue;
		open_world(PGMAP_PRIVATE, PG_AREA_ANON, 512);
		on_fault = bring_back;
		nr_seen = 0;
		put_private(AT, 0, level);
		e = entry(&s, AT);
		CHECK(e & PG_E_WRITE);
		CHECK_EQ(pg_space_protect(&s, AT, 512, PG_AREA_READ), 0);
		CHECK_EQ(entry(&s, AT), e & ~(pg_entry_t)PG_E_WRITE);
		check(&s);
		CHECK_EQ(pg_touch(&s, AT, true, NULL), PG_VM_SIGSEGV);
		/* Not at all: SIGSEGV, and no migration. */
		CHECK_EQ(pg_space_protect(&s, AT, 512, 0), 0);
		CHECK_EQ(pg_touch(&s, AT, false, NULL), PG_VM_SIGSEGV);
		CHECK_EQ(nr_seen, 0);
		CHECK_EQ(entry(&s, AT), e & ~(pg_entry_t)PG_E_WRITE);
		CHECK_EQ(pg_space_protect(&s, AT, 512, RW), 0);
		CHECK_EQ(pg_touch(&s, AT, true, NULL), PG_VM_SIGBUS);
		CHECK_EQ(nr_seen, 1);
		close_world();
	}
}

TEST(R98_a_present_page_that_may_not_be_touched_stays_mapped)
{
	unsigned int faults;
	uint64_t pfn;

	open_world(PGMAP_FS_DAX, PG_AREA_DAX, 16);
	CHECK_EQ(pg_touch(&s, AT, true, &pfn), PG_VM_NOPAGE);
	faults = file.faults;
	CHECK_EQ(pg_space_protect(&s, AT, 16, 0), 0);
	CHECK_EQ(pg_touch(&s, AT, false, NULL), PG_VM_SIGSEGV);
	CHECK_EQ(rss(&s, PG_RSS_FILE), 1);
	check(&s);
	CHECK_EQ(pg_space_protect(&s, AT, 16, PG_AREA_READ), 0);
	CHECK_EQ(pg_touch(&s, AT, false, &pfn), PG_VM_NOPAGE);
	CHECK_EQ(pfn, map_pfn(map));
	CHECK_EQ(file.faults, faults);
	CHECK_EQ(pg_touch(&s, AT, true, NULL), PG_VM_SIGSEGV);
	/* May be written again: the file is asked first. */
	CHECK_EQ(pg_space_protect(&s, AT, 16, RW), 0);
	CHECK_EQ(pg_touch(&s, AT, true, NULL), PG_VM_NOPAGE);
	CHECK_EQ(file.faults, faults + 1);
	CHECK_EQ(pg_space_protect(&s, AT, 17, RW), -ENOMEM);
	CHECK_EQ(pg_space_protect(&s, AT, 16, PG_AREA_WRITE), -EINVAL);
	CHECK_EQ(pg_space_protect(&s, AT, 16, PG_AREA_SHARED), -EINVAL);
	CHECK_EQ(pg_space_protect(&s, AT, 0, RW), -EINVAL);
	close_world();
}

TEST(R107_R128_protecting_a_part_of_a_private_PMD_splits_it)
{
	NEEDS(PG_PMD);
	open_world(PGMAP_PRIVATE, PG_AREA_ANON, 512);
	put_private(AT, 0, PG_PMD);
	CHECK_EQ(pg_space_protect(&s, AT + 100 * PAGE, 50, PG_AREA_READ), 0);
	for (uintptr_t i = 0; i < 512; i++)
		CHECK_EQ(entry(&s, AT + i * PAGE),
			 (map_pfn(map) + i) << 12 | PG_E_PRIVATE |
				 (i >= 100 && i < 150 ? 0 : PG_E_WRITE));
	CHECK_EQ(pgmap_folio_count(rec(map, 0)), 512);
	CHECK_EQ(pgmap_folio_mapcount(rec(map, 0)), 512);
	close_world();
}

/* ---- fork ---- */

static void fork_space(void)
{
	CHECK_EQ(pg_space_init(&child), 0);
	CHECK_EQ(pg_space_fork(&s, &child), 0);
	check(&s);
	check(&child);
}

TEST(R96_fork_copies_a_private_entry_and_both_may_only_read)
{
	struct pgmap_folio *folio;

	open_world(PGMAP_PRIVATE, PG_AREA_ANON, 512);
	put_private(AT, 5, PG_PTE);
	folio = rec(map, 5);
	fork_space();
	CHECK_EQ(pgmap_folio_count(folio), 2);
	CHECK_EQ(pgmap_folio_mapcount(folio), 2);
	CHECK_EQ(rss(&child, PG_RSS_ANON), 1);
	CHECK_EQ(entry(&s, AT), (map_pfn(map) + 5) << 12 | PG_E_PRIVATE);
	CHECK_EQ(entry(&child, AT), entry(&s, AT));
	pg_space_fini(&child);
	CHECK_EQ(pgmap_folio_count(folio), 1);
	CHECK_EQ(pgmap_folio_mapcount(folio), 1);
	close_world();
}

TEST(R97_fork_copies_a_private_PMD_as_one_entry)
{
	struct pgmap_folio *folio;

	NEEDS(PG_PMD);
	open_world(PGMAP_PRIVATE, PG_AREA_ANON, 512);
	put_private(AT, 0, PG_PMD);
	folio = rec(map, 0);
	fork_space();
	CHECK_EQ(pgmap_folio_count(folio), 2);
	CHECK_EQ(pgmap_folio_mapcount(folio), 2);
	CHECK_EQ(level_at(&child, AT), PG_PMD);
	CHECK_EQ(rss(&child, PG_RSS_ANON), 512);
	CHECK(!(entry(&s, AT) & PG_E_WRITE));
	CHECK(!(entry(&child, AT) & PG_E_WRITE));
	/* One of the two splits its own. */
	CHECK_EQ(pg_space_unmap(&child, AT, 12), 0);
	CHECK_EQ(pgmap_folio_count(folio), 501);
	CHECK_EQ(level_at(&s, AT), PG_PMD);
	check(&child);
	pg_space_fini(&child);
	CHECK_EQ(pgmap_folio_count(folio), 1);
	close_world();
}

TEST(R96_a_page_that_both_have_is_written_by_neither)
{
	struct pgmap_folio *folio;

	open_world(PGMAP_COHERENT, PG_AREA_ANON, 512);
	folio = folio_new(map, 0, 0);
	CHECK_EQ(insert(&s, AT, PG_PTE, folio, map_pfn(map), PG_E_WRITE),
		 PG_VM_NOPAGE);
	pgmap_folio_put(folio);
	fork_space();
	CHECK_EQ(pg_touch(&s, AT, false, NULL), PG_VM_NOPAGE);
	CHECK_EQ(pg_touch(&child, AT, false, NULL), PG_VM_NOPAGE);
	/* There is no RAM for the copy. */
	CHECK_EQ(pg_touch(&s, AT, true, NULL), PG_VM_SIGBUS);
	CHECK_EQ(pg_touch(&child, AT, true, NULL), PG_VM_SIGBUS);
	pg_space_fini(&child);
	/* Alone again. */
	CHECK_EQ(pg_touch(&s, AT, true, NULL), PG_VM_NOPAGE);
	CHECK(entry(&s, AT) & PG_E_DIRTY);
	close_world();
}

/* Of order 2, all of it at @va, held by nothing else. */
static struct pgmap_folio *put_four(uintptr_t va)
{
	struct pgmap_folio *folio = folio_new(map, 0, 2);

	for (uintptr_t i = 0; i < 4; i++)
		CHECK_EQ(insert(&s, va + i * PAGE, PG_PTE, folio,
				map_pfn(map) + i, PG_E_WRITE),
			 PG_VM_NOPAGE);
	pgmap_folio_put(folio);
	return folio;
}

static void store_to_four(struct pg_space *space, enum pg_fault_code code)
{
	for (uintptr_t i = 0; i < 4; i++)
		CHECK_EQ(pg_touch(space, AT + i * PAGE, true, NULL), code);
}

TEST(R96_who_alone_has_a_folio_may_write_it_however_many_entries_he_has)
{
	struct pgmap_folio *folio;

	open_world(PGMAP_COHERENT, PG_AREA_ANON, 512);
	folio = put_four(AT);
	fork_space();
	CHECK_EQ(pgmap_folio_mapcount(folio), 8);
	store_to_four(&s, PG_VM_SIGBUS);
	/* One page of it is enough to be another who has it. */
	CHECK_EQ(pg_space_unmap(&child, AT, 3), 0);
	store_to_four(&s, PG_VM_SIGBUS);
	CHECK_EQ(pg_touch(&child, AT + 3 * PAGE, true, NULL), PG_VM_SIGBUS);
	pg_space_fini(&child);
	store_to_four(&s, PG_VM_NOPAGE);
	check(&s);
	/* The child, when it is the parent who goes. */
	fork_space();
	CHECK_EQ(pg_space_unmap(&s, AT, 512), 0);
	store_to_four(&child, PG_VM_NOPAGE);
	check(&child);
	pg_space_fini(&child);
	CHECK_EQ(pgmap_folio_count(folio), 0);
	close_world();
}

TEST(R96_R99_who_alone_has_a_folio_may_write_it_wherever_its_pages_lie)
{
	open_world(PGMAP_COHERENT, PG_AREA_ANON, 512);
	put_four(AT);
	fork_space();
	CHECK_EQ(pg_space_move(&s, AT, 2, AT + 3 * GB, false), 0);
	CHECK_EQ(pg_space_move(&s, AT + 3 * PAGE, 1, PAGE, false), 0);
	CHECK_EQ(pg_touch(&s, AT + 3 * GB, true, NULL), PG_VM_SIGBUS);
	CHECK_EQ(pg_touch(&s, PAGE, true, NULL), PG_VM_SIGBUS);
	pg_space_fini(&child);
	CHECK_EQ(pg_touch(&s, AT + 3 * GB, true, NULL), PG_VM_NOPAGE);
	CHECK_EQ(pg_touch(&s, AT + 3 * GB + PAGE, true, NULL), PG_VM_NOPAGE);
	CHECK_EQ(pg_touch(&s, AT + 2 * PAGE, true, NULL), PG_VM_NOPAGE);
	CHECK_EQ(pg_touch(&s, PAGE, true, NULL), PG_VM_NOPAGE);
	close_world();
}

TEST(R96_R98_a_part_of_a_large_page_may_be_written_again)
{
	struct pgmap_folio *folio;

	NEEDS(PG_PMD);
	open_world(PGMAP_COHERENT, PG_AREA_ANON, 512);
	folio = folio_new(map, 0, 9);
	CHECK_EQ(insert(&s, AT, PG_PMD, folio, map_pfn(map), PG_E_WRITE),
		 PG_VM_NOPAGE);
	pgmap_folio_put(folio);
	CHECK_EQ(pg_space_protect(&s, AT, 256, PG_AREA_READ), 0);
	CHECK_EQ(pgmap_folio_mapcount(folio), 512);
	CHECK_EQ(pg_touch(&s, AT + PAGE, true, NULL), PG_VM_SIGSEGV);
	CHECK_EQ(pg_space_protect(&s, AT, 256, RW), 0);
	for (uintptr_t i = 0; i < 512; i++)
		CHECK_EQ(pg_touch(&s, AT + i * PAGE, true, NULL), PG_VM_NOPAGE);
	close_world();
}

static struct pg_mapping first, second;
static _Atomic(bool) in_child, forked;

static void *fork_thread(void *arg)
{
	*(int *)arg = pg_space_fork(&s, &child);
	forked = true;
	return NULL;
}

/* Stays at the child's entry until fork wants its lock. */
static bool stay_in_child(struct pg_area *area, uintptr_t va,
			  enum pg_level level, pg_entry_t e, void *arg)
{
	(void)va, (void)level, (void)e, (void)arg;
	if (area->space != &child || in_child)
		return true;
	in_child = true;
	while (!pg_load(&s.ptl.word, relaxed))
		sched_yield();
	usleep(1000);
	return true;
}

static void *walk_thread(void *arg)
{
	struct pgmap_folio *folio = arg;

	while (!pgmap_folio_trylock(folio))
		sched_yield();
	while (!in_child && !forked) {
		pg_rmap_walk(folio, stay_in_child, NULL);
		sched_yield();
	}
	pgmap_folio_unlock(folio);
	return NULL;
}

TEST(R96_R115_fork_waits_for_who_is_at_an_area_that_the_child_has_already)
{
	struct pgmap_folio *folio;
	pthread_t fork, walk;
	int ret = 1;

	map = map_new(PGMAP_COHERENT, 512);
	pg_mapping_init(&first, NULL);
	pg_mapping_init(&second, NULL);
	CHECK_EQ(pg_space_init(&s), 0);
	CHECK_EQ(pg_space_init(&child), 0);
	CHECK_EQ(pg_space_map(&s, AT, 1, PG_AREA_ANON, RW, &first, 0), 0);
	CHECK_EQ(pg_space_map(&s, AT + MB, 1, PG_AREA_ANON, RW, &second, 0), 0);
	folio = folio_new(map, 0, 0);
	folio->mapping = (uintptr_t)&first;
	CHECK_EQ(insert(&s, AT, PG_PTE, folio, map_pfn(map), PG_E_WRITE),
		 PG_VM_NOPAGE);
	/* Fork has copied one area and is about to copy the other. */
	in_child = forked = false;
	pg_read_lock(&second.lock, LOCK_MAPPING);
	CHECK_EQ(pthread_create(&fork, NULL, fork_thread, &ret), 0);
	CHECK_EQ(pthread_create(&walk, NULL, walk_thread, folio), 0);
	while (!in_child && !forked)
		sched_yield();
	pg_read_unlock(&second.lock, LOCK_MAPPING);
	pthread_join(fork, NULL);
	pthread_join(walk, NULL);
	CHECK_EQ(ret, 0);
	check(&s);
	check(&child);
	CHECK_EQ(pgmap_folio_mapcount(folio), 2);
	pgmap_folio_put(folio);
	pg_space_fini(&child);
	close_world();
}

TEST(N47_R129_fork_does_not_copy_entries_of_files)
{
	for (int l = PG_PTE; l < PG_NR_LEVELS; l++) {
		enum pg_level level = (enum pg_level)l;
		struct pgmap_folio *folio;

		if (!pg_level_supported(level))
			continue;
		open_world(PGMAP_FS_DAX, PG_AREA_DAX, 1u << 18);
		file.largest = level;
		CHECK_EQ(pg_touch(&s, AT, true, NULL), PG_VM_NOPAGE);
		folio = rec(map, 0);
		CHECK_EQ(level_at(&s, AT), level);
		fork_space();
		CHECK_EQ(nr_entries(&child), 0);
		CHECK_EQ(pgmap_folio_count(folio), 1);
		/* The parent's stays as it is, writable. */
		CHECK(entry(&s, AT) & PG_E_WRITE);
		/* The child faults for itself. */
		CHECK_EQ(pg_touch(&child, AT, false, NULL), PG_VM_NOPAGE);
		CHECK_EQ(level_at(&child, AT), level);
		CHECK_EQ(pgmap_folio_count(folio), 2);
		pg_space_fini(&child);
		CHECK_EQ(pgmap_folio_count(folio), 1);
		CHECK_EQ(pgmap_folio_mapcount(folio), 1);
		close_world();
	}
}

/* ---- mremap ---- */

/* Every combination of size, alignment of source and destination, part, and
 * MREMAP_DONTUNMAP. */
TEST(R99_N15_mremap_takes_private_entries_along)
{
	for (unsigned int i = 0; i < 32; i++) {
		bool keep = i & 1, aligned = i & 2, large = i & 4;
		bool part = i & 8, hole = i & 16;
		uintptr_t to = AT + 5 * GB + (aligned ? 0 : 3 * PAGE);
		uintptr_t from = part ? 100 : 0, n = part ? 300 : 512;
		struct pgmap_folio *folio;
		uint64_t left;

		if (large && !pg_level_supported(PG_PMD))
			continue;
		open_world(PGMAP_PRIVATE, PG_AREA_ANON, 512);
		folio = folio_new(map, 0, 9);
		if (large)
			CHECK_EQ(insert(&s, AT, PG_PMD, folio, map_pfn(map),
					PG_E_PRIVATE | PG_E_WRITE),
				 PG_VM_NOPAGE);
		for (uintptr_t k = 0; !large && k < 512; k++)
			CHECK_EQ(insert(&s, AT + k * PAGE, PG_PTE, folio,
					map_pfn(map) + k,
					PG_E_PRIVATE | PG_E_WRITE),
				 PG_VM_NOPAGE);
		pgmap_folio_put(folio);
		left = 512;
		if (hole) {
			zap(&s, AT + 200 * PAGE, AT + 210 * PAGE);
			left -= 10;
		}
		CHECK_EQ(pg_space_move(&s, AT + from * PAGE, n, to, keep), 0);
		check(&s);
		/* Nothing was dropped, and nothing is there twice. */
		CHECK_EQ(rss(&s, PG_RSS_ANON), left);
		CHECK_EQ(pgmap_folio_count(folio), pgmap_folio_mapcount(folio));
		CHECK_EQ(nr_entries(&s), pgmap_folio_mapcount(folio));
		if (large && aligned && !part && !hole)
			CHECK_EQ(level_at(&s, to), PG_PMD);
		for (uintptr_t k = 0; k < 512; k++) {
			bool moved = k >= from && k < from + n;
			uintptr_t va =
				moved ? to + (k - from) * PAGE : AT + k * PAGE;

			if (hole && k >= 200 && k < 210)
				CHECK_EQ(entry(&s, va), 0);
			else
				CHECK_EQ(page_at(&s, va), map_pfn(map) + k);
			if (moved)
				CHECK_EQ(entry(&s, AT + k * PAGE), 0);
		}
		/* The old place reads as zeros, or is gone. */
		CHECK_EQ(pg_touch(&s, AT + 150 * PAGE, false, NULL),
			 keep ? PG_VM_NOPAGE : PG_VM_SIGSEGV);
		/* Who faults at the new place finds the page. */
		on_fault = bring_back;
		CHECK_EQ(pg_touch(&s, to + 10 * PAGE, false, NULL),
			 PG_VM_NOPAGE);
		CHECK_EQ(seen.pfn, map_pfn(map) + from + 10);
		check(&s);
		CHECK_EQ(pg_space_unmap(&s, to, n), 0);
		CHECK_EQ(rss(&s, PG_RSS_ANON), part ? 512 - n : 0);
		close_world();
	}
}

TEST(R99_mremap_of_a_file_shows_the_same_part_of_it)
{
	uint64_t pfn;

	open_world(PGMAP_FS_DAX, PG_AREA_DAX, 1024);
	CHECK_EQ(pg_touch(&s, AT + 5 * PAGE, true, NULL), PG_VM_NOPAGE);
	CHECK_EQ(pg_touch(&s, AT + 2 * MB, true, NULL), PG_VM_NOPAGE);
	CHECK_EQ(pg_space_move(&s, AT, 1024, AT + GB + PAGE, false), 0);
	for (uintptr_t i = 0; i < 1024; i += 31) {
		CHECK_EQ(pg_touch(&s, AT + GB + PAGE + i * PAGE, false, &pfn),
			 PG_VM_NOPAGE);
		CHECK_EQ(pfn, map_pfn(map) + i);
	}
	check(&s);
	CHECK_EQ(pg_touch(&s, AT, false, NULL), PG_VM_SIGSEGV);
	close_world();
}

TEST(R99_mremap_says_what_is_wrong)
{
	open_world(PGMAP_PRIVATE, PG_AREA_ANON, 16);
	CHECK_EQ(
		pg_space_map(&s, AT + 16 * PAGE, 16, PG_AREA_ANON, RW, NULL, 0),
		0);
	put_private(AT, 0, PG_PTE);
	CHECK_EQ(pg_space_move(&s, AT, 17, AT + GB, false), -EFAULT);
	CHECK_EQ(pg_space_move(&s, AT - PAGE, 2, AT + GB, false), -EFAULT);
	CHECK_EQ(pg_space_move(&s, AT, 8, AT + 7 * PAGE, false), -EINVAL);
	CHECK_EQ(pg_space_move(&s, AT, 8, AT + 8 * PAGE, false), -EEXIST);
	CHECK_EQ(pg_space_move(&s, AT, 8, AT + 1, false), -EINVAL);
	CHECK_EQ(pg_space_move(&s, AT + 7 * PAGE, 8, AT, false), -EINVAL);
	CHECK_EQ(pg_space_move(&s, AT, 0, AT + GB, false), -EINVAL);
	CHECK_EQ(page_at(&s, AT), map_pfn(map));
	CHECK_EQ(pg_find_area(&s, AT)->end, AT + 16 * PAGE);
	close_world();
}

/* ---- The checker ---- */

/* Put @e in the place at @va, which has an entry; what is said of it? */
static const char *told(uintptr_t va, pg_entry_t e)
{
	enum pg_level level;
	pg_atomic64 *at = pg_entry_at(&s, va, &level);
	pg_entry_t was = pg_load(at, relaxed);
	const char *what;

	pg_store(at, e, relaxed);
	CHECK_EQ(pg_space_check(&s, &what), -EUCLEAN);
	pg_store(at, was, relaxed);
	check(&s);
	return what;
}

#define TOLD(va, e, w) assert_string_equal(told(va, e), w)
#define BROKEN(broken, repaired, w)                                            \
	do {                                                                   \
		const char *said;                                              \
                                                                               \
		broken;                                                        \
		CHECK_EQ(pg_space_check(&s, &said), -EUCLEAN);                 \
		assert_string_equal(said, w);                                  \
		repaired;                                                      \
		check(&s);                                                     \
	} while (0)

TEST(R118_whatever_is_wrong_with_a_space_is_told)
{
	static const char write[] =
		"what may not be written has no writable entry";
	static const char read[] = "what may not be read has no present entry";
	static const char zeros[] = "the page of zeros is nobody's to write";
	static const char marks[] = "a PMD knows of its PTEs";
	static const char pmds[] = "a PUD knows of its PMDs";
	static const char refs[] = "each mapping holds a reference";
	static const char sorted[] = "areas are sorted and disjoint";
	static const char private[] =
		"private pages have private entries, in anonymous memory";
	uintptr_t none = AT + GB, ro = AT + 2 * GB, zero = AT + 3 * GB;
	struct pgmap_folio *folio;
	struct pg_area *area;
	struct pg_gig *gig;
	size_t i = AT >> 30;
	pg_entry_t e;

	open_world(PGMAP_FS_DAX, PG_AREA_DAX, 512);
	file.largest = PG_PTE;
	for (int k = 1; k < 3; k++)
		CHECK_EQ(pg_space_map(&s, AT + (uintptr_t)k * GB, 1,
				      PG_AREA_DAX, RW, &file.mapping,
				      (uint64_t)k),
			 0);
	CHECK_EQ(pg_space_map(&s, zero, 1, PG_AREA_ANON, RW, NULL, 0), 0);
	for (uintptr_t k = 0; k < 4; k++)
		CHECK_EQ(pg_touch(&s, AT + k * GB, false, NULL), PG_VM_NOPAGE);
	CHECK_EQ(pg_space_protect(&s, none, 1, 0), 0);
	CHECK_EQ(pg_space_protect(&s, ro, 1, PG_AREA_READ), 0);
	e = entry(&s, AT);
	folio = rec(map, 0);
	gig = s.table.gig[i];
	area = pg_find_area(&s, AT);

	TOLD(ro, entry(&s, ro) | PG_E_WRITE, write);
	TOLD(none, entry(&s, none) | PG_E_PRESENT, read);
	TOLD(AT, e | PG_E_PRIVATE, read);
	TOLD(AT, (e | PG_E_PRIVATE) & ~(pg_entry_t)PG_E_PRESENT, private);
	TOLD(zero, entry(&s, zero) | PG_E_WRITE, zeros);
	TOLD(zero, entry(&s, zero) | 1 << 12, zeros);
	TOLD(AT, e | PG_E_SPECIAL, "special entries are those of a pfn map");
	TOLD(AT, e + (9 << 12), "an entry holds its folio");
	BROKEN(pg_fetch_add(&s.rss[0], 1, relaxed),
	       pg_fetch_sub(&s.rss[0], 1, relaxed),
	       "rss is the pages of the entries");
	BROKEN(pg_store(&folio->mapcount, 0, relaxed),
	       pg_store(&folio->mapcount, 1, relaxed),
	       "an entry is in the mapcount of its folio");
	BROKEN(pg_store(&folio->mapcount, 2, relaxed),
	       pg_store(&folio->mapcount, 1, relaxed), refs);
	BROKEN(gig->ptes[0]++, gig->ptes[0]--, marks);
	BROKEN(pg_store(&gig->pmd[0], e, relaxed),
	       pg_store(&gig->pmd[0], PG_E_TABLE, relaxed), marks);
	BROKEN(gig->pmds++, gig->pmds--, pmds);
	BROKEN(pg_store(&s.table.pud[i], 0, relaxed),
	       pg_store(&s.table.pud[i], PG_E_TABLE, relaxed), pmds);
	BROKEN(pg_fetch_add(&s.table.nr_gigs, 1, relaxed),
	       pg_fetch_sub(&s.table.nr_gigs, 1, relaxed),
	       "every table page has its place");
	BROKEN(area->start += PAGE, area->start -= PAGE,
	       "an entry lies in one area");
	BROKEN(area->end = none + PAGE, area->end = AT + 2 * MB, sorted);
	BROKEN(area->end = area->start, area->end = AT + 2 * MB, sorted);
	if (pg_level_supported(PG_PMD)) {
		/* A large entry of a small folio; one that reaches out. */
		CHECK_EQ(pg_space_map(&s, AT + 4 * GB, 1024, PG_AREA_DAX, RW,
				      &file.mapping, 0),
			 0);
		CHECK_EQ(insert_special(&s, AT + 4 * GB, PG_PMD, 0, 0),
			 PG_VM_NOPAGE);
		TOLD(AT + 4 * GB, e, "a large entry is a whole folio");
		area = pg_find_area(&s, AT + 4 * GB);
		BROKEN(area->end -= 3 * MB, area->end += 3 * MB,
		       "an entry lies in one area");
	}
	close_world();
}

TEST(R118_R123_a_large_entry_that_begins_inside_its_folio_is_told)
{
	struct pgmap_folio *folio;

	NEEDS(PG_PMD);
	open_world(PGMAP_COHERENT, PG_AREA_ANON, 512);
	folio = folio_new(map, 0, 9);
	CHECK_EQ(insert(&s, AT, PG_PMD, folio, map_pfn(map), 0), PG_VM_NOPAGE);
	pgmap_folio_put(folio);
	TOLD(AT, entry(&s, AT) + (5 << 12), "a large entry is a whole folio");
	close_world();
}

/* ---- No memory ---- */

/* Everything that may allocate, once. Return: the first error. */
static int all_of_it(void)
{
	struct pgmap_folio *folio = folio_new(map, 0, 0);
	int ret = pg_space_init(&s);
	enum pg_fault_code code = PG_VM_OOM;
	const char *what;

	if (ret) {
		pgmap_folio_put(folio);
		return ret;
	}
	ret = pg_space_map(&s, AT, 512, PG_AREA_ANON, RW, NULL, 0);
	if (!ret)
		code = insert(&s, AT + 205 * PAGE, PG_PTE, folio, map_pfn(map),
			      PG_E_PRIVATE);
	pgmap_folio_put(folio);
	if (!ret && code != PG_VM_NOPAGE) {
		MUST(code == PG_VM_OOM);
		ret = -ENOMEM;
	}
	for (uintptr_t i = 0; i < 100 && !ret; i += 2)
		ret = pg_space_protect(&s, AT + i * PAGE, 1, PG_AREA_READ);
	if (!ret)
		ret = pg_space_move(&s, AT + 204 * PAGE, 2, AT + 3 * GB - PAGE,
				    false);
	if (!ret) {
		ret = pg_space_init(&child);
		if (!ret) {
			ret = pg_space_fork(&s, &child);
			MUST(!pg_space_check(&child, &what));
			MUST(!ret || !child.areas);
			pg_space_fini(&child);
		}
	}
	if (!ret) {
		enum pg_fault_code c = pg_touch(&s, AT, false, NULL);

		MUST(c == PG_VM_NOPAGE);
		ret = pg_space_unmap(&s, AT + 100 * PAGE, 1);
	}
	MUST(!pg_space_check(&s, &what));
	pg_space_fini(&s);
	return ret;
}

TEST(R110_without_memory_at_every_point_nothing_is_left_behind)
{
	unsigned int n = 1;

	map = map_new(PGMAP_PRIVATE, 512);
	for (;; n++) {
		int ret;

		pg_mem_fail_nth(n);
		ret = all_of_it();
		pg_mem_fail_nth(0);
		CHECK_EQ(pg_map_refs(map), 0);
		if (!ret)
			break;
		CHECK_EQ(ret, -ENOMEM);
	}
	printf("# %u places\n", n - 1);
	CHECK(n > 8);
	map_end(map);
}
TEST_MAIN()
