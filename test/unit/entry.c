/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Entries of three sizes: what they hold, and what is left when they go.
 */
#include "spaces.h"

#define AT (2 * GB) /* where areas begin */

static struct pg_space s;
static struct pgmap *map;
static struct test_file file;

/* A space with an area of @nr pages, and a map of @type for its pages. */
static void open_world(enum pgmap_type type, enum pg_area_kind kind,
		       uint64_t nr)
{
	map = map_new(type, (nr + 511) & ~(uint64_t)511);
	file_init(&file, map);
	CHECK_EQ(pg_space_init(&s), 0);
	CHECK_EQ(pg_space_map(&s, AT, nr, kind, RW,
			      kind == PG_AREA_PFNMAP ? NULL : &file.mapping, 0),
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

/* One entry of each size, its folio held by nobody else. */
static void map_one(enum pg_level level, uint32_t flags)
{
	struct pgmap_folio *folio = folio_new(map, 0, pg_level_order(level));

	CHECK_EQ(insert(&s, AT, level, folio, map_pfn(map), flags),
		 PG_VM_NOPAGE);
	pgmap_folio_put(folio);
	check(&s);
}

static void holds_one(enum pgmap_type type, enum pg_area_kind kind,
		      enum pg_rss class)
{
	uint32_t flags = type == PGMAP_PRIVATE ? PG_E_PRIVATE : 0;

	for (int l = PG_PTE; l < PG_NR_LEVELS; l++) {
		enum pg_level level = (enum pg_level)l;

		if (!pg_level_supported(level) ||
		    (kind == PG_AREA_ANON && level == PG_PUD))
			continue;
		open_world(type, kind, 1u << 18);
		map_one(level, flags);
		CHECK_EQ(pgmap_folio_count(rec(map, 0)), 1);
		CHECK_EQ(pgmap_folio_mapcount(rec(map, 0)), 1);
		CHECK_EQ(rss(&s, class), pg_level_pages(level));
		CHECK_EQ(rss(&s, !class), 0);
		CHECK_EQ(level_at(&s, AT + pg_level_size(level) - 1), level);
		CHECK_EQ(nr_entries(&s), 1);
		zap(&s, AT, AT + pg_level_size(level));
		CHECK_EQ(pgmap_folio_count(rec(map, 0)), 0);
		CHECK_EQ(pgmap_folio_mapcount(rec(map, 0)), 0);
		CHECK_EQ(rss(&s, class), 0);
		CHECK_EQ(nr_entries(&s), 0);
		close_world();
	}
}

TEST(R118_R181_an_entry_of_any_size_is_one_reference_one_mapcount_and_its_pages)
{
	holds_one(PGMAP_FS_DAX, PG_AREA_DAX, PG_RSS_FILE);
	holds_one(PGMAP_GENERIC, PG_AREA_DAX, PG_RSS_FILE);
	holds_one(PGMAP_PCI_P2PDMA, PG_AREA_DAX, PG_RSS_FILE);
	holds_one(PGMAP_COHERENT, PG_AREA_ANON, PG_RSS_ANON);
	holds_one(PGMAP_PRIVATE, PG_AREA_ANON, PG_RSS_ANON);
}

TEST(R118_an_entry_of_a_tail_holds_the_folio)
{
	struct pgmap_folio *folio;

	open_world(PGMAP_FS_DAX, PG_AREA_DAX, 512);
	folio = folio_new(map, 64, 6);
	for (uint64_t i = 0; i < 64; i++)
		CHECK_EQ(insert(&s, AT + i * PAGE, PG_PTE, folio,
				map_pfn(map) + 64 + i, 0),
			 PG_VM_NOPAGE);
	/* Not a page of it. */
	CHECK_EQ(insert(&s, AT + 64 * PAGE, PG_PTE, folio, map_pfn(map) + 128,
			0),
		 PG_VM_SIGBUS);
	pgmap_folio_put(folio);
	check(&s);
	/* D11: one mapcount, of the folio, and none of its pages'. */
	CHECK_EQ(pgmap_folio_mapcount(folio), 64);
	CHECK_EQ(pgmap_folio_count(folio), 64);
	for (uint64_t i = 1; i < 64; i++) {
		CHECK_EQ(pgmap_folio_mapcount(folio + i), 0);
		CHECK_EQ(page_at(&s, AT + i * PAGE), map_pfn(map) + 64 + i);
	}
	zap(&s, AT + PAGE, AT + 64 * PAGE);
	CHECK_EQ(pgmap_folio_mapcount(folio), 1);
	CHECK_EQ(pgmap_folio_count(folio), 1);
	close_world();
}

/* ---- Inserting ---- */

TEST(R122_a_page_that_nobody_holds_is_not_mapped)
{
	struct pgmap_folio *folio;

	open_world(PGMAP_FS_DAX, PG_AREA_DAX, 512);
	folio = folio_new(map, 0, 0);
	pgmap_folio_put(folio);
	CHECK_EQ(insert(&s, AT, PG_PTE, folio, map_pfn(map), 0), PG_VM_SIGBUS);
	CHECK_EQ(nr_entries(&s), 0);
	close_world();
}

/* What an insert does where there is: nothing, the same, another one. */
static void insert_matrix(enum pg_level level)
{
	uint64_t n = pg_level_pages(level), pfn;
	struct pgmap_folio *a, *b;
	pg_entry_t e;

	open_world(PGMAP_FS_DAX, PG_AREA_DAX, 2 * n < 512 ? 512 : 2 * n);
	pfn = map_pfn(map);
	a = folio_new(map, 0, pg_level_order(level));
	b = folio_new(map, n, pg_level_order(level));
	/* None, and read. */
	CHECK_EQ(insert(&s, AT, level, a, pfn, 0), PG_VM_NOPAGE);
	e = entry(&s, AT);
	CHECK_EQ(e, pfn << 12 | PG_E_PRESENT | PG_E_YOUNG);
	/* The same, and read: it stays; and write. */
	CHECK_EQ(insert(&s, AT, level, a, pfn, 0), PG_VM_NOPAGE);
	CHECK_EQ(entry(&s, AT), e);
	CHECK_EQ(insert(&s, AT, level, a, pfn, PG_E_WRITE), PG_VM_NOPAGE);
	e |= PG_E_WRITE | PG_E_DIRTY;
	CHECK_EQ(entry(&s, AT), e);
	CHECK_EQ(insert(&s, AT, level, a, pfn, 0), PG_VM_NOPAGE);
	CHECK_EQ(entry(&s, AT), e);
	/* Another one. */
	CHECK_EQ(insert(&s, AT, level, b, pfn + n, 0), PG_VM_RETRY);
	CHECK_EQ(insert(&s, AT, level, b, pfn + n, PG_E_WRITE), PG_VM_RETRY);
	CHECK_EQ(insert_special(&s, AT, level, 0, 0), PG_VM_RETRY);
	CHECK_EQ(entry(&s, AT), e);
	CHECK_EQ(pgmap_folio_count(a), 2);
	CHECK_EQ(pgmap_folio_mapcount(a), 1);
	CHECK_EQ(pgmap_folio_count(b), 1);
	CHECK_EQ(pgmap_folio_mapcount(b), 0);
	check(&s);
	/* None, and write. */
	zap(&s, AT, AT + pg_level_size(level));
	CHECK_EQ(insert(&s, AT, level, b, pfn + n, PG_E_WRITE), PG_VM_NOPAGE);
	CHECK_EQ(entry(&s, AT), (pfn + n) << 12 | PG_E_PRESENT | PG_E_YOUNG |
					PG_E_WRITE | PG_E_DIRTY);
	/* Over the page of zeros. */
	zap(&s, AT, AT + pg_level_size(level));
	CHECK_EQ(insert_special(&s, AT, level, 0, PG_E_WRITE), PG_VM_NOPAGE);
	CHECK_EQ(entry(&s, AT), PG_E_ZERO | PG_E_PRESENT | PG_E_YOUNG);
	CHECK_EQ(insert_special(&s, AT, level, 0, 0), PG_VM_NOPAGE);
	CHECK_EQ(insert(&s, AT, level, b, pfn + n, PG_E_WRITE), PG_VM_RETRY);
	CHECK_EQ(pgmap_folio_mapcount(b), 0);
	pgmap_folio_put(a);
	pgmap_folio_put(b);
	close_world();
}

TEST(R122_inserting_a_PTE_where_there_is_none_the_same_or_another)
{
	insert_matrix(PG_PTE);
}

TEST(R123_inserting_a_PMD_where_there_is_none_the_same_or_another)
{
	NEEDS(PG_PMD);
	insert_matrix(PG_PMD);
}

TEST(R123_inserting_a_PUD_where_there_is_none_the_same_or_another)
{
	NEEDS(PG_PUD);
	insert_matrix(PG_PUD);
}

TEST(R123_a_large_entry_is_a_whole_folio_inside_its_area)
{
	struct pgmap_folio *f9, *f8;
	uint64_t pfn;

	NEEDS(PG_PMD);
	open_world(PGMAP_FS_DAX, PG_AREA_DAX, 1024 + 511);
	pfn = map_pfn(map);
	f9 = folio_new(map, 512, 9);
	f8 = folio_new(map, 0, 8);
	CHECK_EQ(insert(&s, AT, PG_PMD, f8, pfn, 0), PG_VM_SIGBUS);
	CHECK_EQ(insert(&s, AT, PG_PUD, f9, pfn + 512, 0),
		 pg_level_supported(PG_PUD) ? PG_VM_SIGBUS : PG_VM_FALLBACK);
	CHECK_EQ(insert(&s, AT + PAGE, PG_PMD, f9, pfn + 512, 0), PG_VM_SIGBUS);
	CHECK_EQ(insert(&s, AT + 4 * MB, PG_PMD, f9, pfn + 512, 0),
		 PG_VM_SIGBUS);
	CHECK_EQ(insert(&s, AT, PG_PTE, f9, pfn + 511, 0), PG_VM_SIGBUS);
	CHECK_EQ(insert(&s, AT, PG_PTE, f9, pfn + 512, PG_E_ZERO),
		 PG_VM_SIGBUS);
	CHECK_EQ(insert_special(&s, AT, PG_PTE, 0, PG_E_PRIVATE), PG_VM_SIGBUS);
	CHECK_EQ(insert_special(&s, AT + PAGE, PG_PMD, 0, 0), PG_VM_SIGBUS);
	CHECK_EQ(nr_entries(&s), 0);
	CHECK_EQ(insert(&s, AT + 2 * MB, PG_PMD, f9, pfn + 512, 0),
		 PG_VM_NOPAGE);
	pgmap_folio_put(f8);
	pgmap_folio_put(f9);
	close_world();
}

/* Its first page, and the entry's: or it would name pages of the next one. */
TEST(R123_a_large_entry_begins_where_its_folio_does)
{
	for (int l = PG_PMD; l < PG_NR_LEVELS; l++) {
		enum pg_level level = (enum pg_level)l;
		uint64_t nr = pg_level_pages(level);
		struct pgmap_folio *folio;

		if (!pg_level_supported(level))
			continue;
		open_world(PGMAP_FS_DAX, PG_AREA_DAX, nr);
		folio = folio_new(map, 0, pg_level_order(level));
		CHECK_EQ(insert(&s, AT, level, folio, map_pfn(map) + 1, 0),
			 PG_VM_SIGBUS);
		CHECK_EQ(insert(&s, AT, level, folio, map_pfn(map) + nr - 1, 0),
			 PG_VM_SIGBUS);
		CHECK_EQ(nr_entries(&s), 0);
		CHECK_EQ(insert(&s, AT, level, folio, map_pfn(map), 0),
			 PG_VM_NOPAGE);
		pgmap_folio_put(folio);
		close_world();
	}
}

TEST(R119_a_large_folio_has_entries_of_its_size_or_PTEs)
{
	struct pgmap_folio *folio;

	/* 1 GB: no PMDs. */
	open_world(PGMAP_FS_DAX, PG_AREA_DAX, 1u << 18);
	folio = folio_new(map, 0, PGMAP_PUD_ORDER);
	if (pg_level_supported(PG_PMD))
		CHECK_EQ(insert(&s, AT, PG_PMD, folio, map_pfn(map), 0),
			 PG_VM_SIGBUS);
	CHECK_EQ(insert(&s, AT, PG_PTE, folio, map_pfn(map), 0), PG_VM_NOPAGE);
	if (pg_level_supported(PG_PUD))
		CHECK_EQ(insert(&s, AT, PG_PUD, folio, map_pfn(map), 0),
			 PG_VM_FALLBACK);
	pgmap_folio_put(folio);
	close_world();
	/* Anonymous: no PUDs. */
	open_world(PGMAP_COHERENT, PG_AREA_ANON, 1u << 18);
	folio = folio_new(map, 0, PGMAP_PUD_ORDER);
	CHECK_EQ(insert(&s, AT, PG_PUD, folio, map_pfn(map), 0),
		 pg_level_supported(PG_PUD) ? PG_VM_SIGBUS : PG_VM_FALLBACK);
	pgmap_folio_put(folio);
	close_world();
}

TEST(R123_smaller_entries_are_not_covered_and_larger_ones_not_broken)
{
	struct pgmap_folio *f9, *f0;
	uint64_t pfn;

	NEEDS(PG_PMD);
	open_world(PGMAP_FS_DAX, PG_AREA_DAX, 1024);
	pfn = map_pfn(map);
	f9 = folio_new(map, 0, 9);
	f0 = folio_new(map, 512, 0);
	CHECK_EQ(insert(&s, AT + 511 * PAGE, PG_PTE, f0, pfn + 512, 0),
		 PG_VM_NOPAGE);
	CHECK_EQ(insert(&s, AT, PG_PMD, f9, pfn, 0), PG_VM_FALLBACK);
	CHECK_EQ(insert_special(&s, AT, PG_PMD, 0, 0), PG_VM_FALLBACK);
	CHECK_EQ(page_at(&s, AT + 511 * PAGE), pfn + 512);
	CHECK_EQ(pgmap_folio_count(f9), 1);
	/* Nothing is left of the small ones: now the large one fits. */
	zap(&s, AT + 511 * PAGE, AT + 512 * PAGE);
	check(&s);
	CHECK_EQ(insert(&s, AT, PG_PMD, f9, pfn, 0), PG_VM_NOPAGE);
	/* The page is there already, in a larger entry. */
	CHECK_EQ(insert(&s, AT + 3 * PAGE, PG_PTE, f9, pfn + 3, 0),
		 PG_VM_NOPAGE);
	CHECK_EQ(insert(&s, AT + 3 * PAGE, PG_PTE, f9, pfn + 4, 0),
		 PG_VM_RETRY);
	/* Who answers for one page cannot make 512 writable. */
	CHECK_EQ(insert(&s, AT + 3 * PAGE, PG_PTE, f9, pfn + 3, PG_E_WRITE),
		 PG_VM_RETRY);
	CHECK(!(entry(&s, AT) & PG_E_WRITE));
	CHECK_EQ(insert(&s, AT, PG_PMD, f9, pfn, PG_E_WRITE), PG_VM_NOPAGE);
	CHECK_EQ(insert(&s, AT + 3 * PAGE, PG_PTE, f9, pfn + 3, PG_E_WRITE),
		 PG_VM_NOPAGE);
	CHECK_EQ(pgmap_folio_mapcount(f9), 1);
	pgmap_folio_put(f9);
	pgmap_folio_put(f0);
	close_world();
}

TEST(R105_N9_what_is_counted_is_never_special)
{
	struct pgmap_folio *folio;

	for (int l = PG_PTE; l < PG_NR_LEVELS; l++) {
		enum pg_level level = (enum pg_level)l;

		if (!pg_level_supported(level))
			continue;
		open_world(PGMAP_FS_DAX, PG_AREA_DAX, 1u << 18);
		map_one(level, PG_E_WRITE);
		CHECK(!(entry(&s, AT) & PG_E_SPECIAL));
		/* ... and the other way round: neither in the other's area. */
		CHECK_EQ(insert_special(&s, AT, level, 1u << 18, 0),
			 PG_VM_SIGBUS);
		zap(&s, AT, AT + pg_level_size(level));
		/* Or the map could never go. */
		CHECK_EQ(pg_map_refs(map), 0);
		close_world();
	}
	open_world(PGMAP_GENERIC, PG_AREA_PFNMAP, 512);
	folio = folio_new(map, 0, 0);
	CHECK_EQ(insert(&s, AT, PG_PTE, folio, map_pfn(map), 0), PG_VM_SIGBUS);
	pgmap_folio_put(folio);
	close_world();
}

TEST(R106_private_pages_have_private_entries_in_anonymous_memory_only)
{
	struct pgmap_folio *folio;

	open_world(PGMAP_PRIVATE, PG_AREA_ANON, 512);
	folio = folio_new(map, 0, 0);
	CHECK_EQ(insert(&s, AT, PG_PTE, folio, map_pfn(map), 0), PG_VM_SIGBUS);
	CHECK_EQ(insert(&s, AT, PG_PTE, folio, map_pfn(map),
			PG_E_PRIVATE | PG_E_WRITE),
		 PG_VM_NOPAGE);
	CHECK_EQ(entry(&s, AT), map_pfn(map) << 12 | PG_E_PRIVATE | PG_E_WRITE);
	/* It is there: nothing more to say. */
	CHECK_EQ(insert(&s, AT, PG_PTE, folio, map_pfn(map), PG_E_PRIVATE),
		 PG_VM_NOPAGE);
	pgmap_folio_put(folio);
	close_world();
	open_world(PGMAP_PRIVATE, PG_AREA_DAX, 512);
	folio = folio_new(map, 0, 0);
	CHECK_EQ(insert(&s, AT, PG_PTE, folio, map_pfn(map), PG_E_PRIVATE),
		 PG_VM_SIGBUS);
	pgmap_folio_put(folio);
	close_world();
	open_world(PGMAP_FS_DAX, PG_AREA_ANON, 512);
	folio = folio_new(map, 0, 0);
	CHECK_EQ(insert(&s, AT, PG_PTE, folio, map_pfn(map), 0), PG_VM_SIGBUS);
	pgmap_folio_put(folio);
	close_world();
}

/* ---- Removing ---- */

TEST(R124_R125_N8_a_special_entry_goes_without_a_trace_and_a_counted_one_with)
{
	for (int l = PG_PTE; l < PG_NR_LEVELS; l++) {
		enum pg_level level = (enum pg_level)l;
		struct pgmap_folio *folio;

		if (!pg_level_supported(level))
			continue;
		/* Of a page that is in use, so that a put would be seen. */
		open_world(PGMAP_GENERIC, PG_AREA_PFNMAP, 1u << 18);
		folio = folio_new(map, 0, pg_level_order(level));
		if (level != PG_PTE)
			CHECK_EQ(insert_special(&s, AT, level, map_pfn(map) + 1,
						0),
				 PG_VM_SIGBUS);
		CHECK_EQ(insert_special(&s, AT, level, map_pfn(map), 0),
			 PG_VM_NOPAGE);
		CHECK_EQ(pgmap_folio_count(folio), 1);
		CHECK_EQ(pgmap_folio_mapcount(folio), 0);
		CHECK_EQ(rss(&s, PG_RSS_FILE), 0);
		check(&s);
		CHECK_EQ(pg_space_unmap(&s, AT, 1u << 18), 0);
		CHECK_EQ(pgmap_folio_count(folio), 1);
		CHECK_EQ(rss(&s, PG_RSS_FILE), 0);
		pgmap_folio_put(folio);
		close_world();

		open_world(PGMAP_GENERIC, PG_AREA_DAX, 1u << 18);
		folio = folio_new(map, 0, pg_level_order(level));
		CHECK_EQ(insert(&s, AT, level, folio, map_pfn(map), 0),
			 PG_VM_NOPAGE);
		CHECK_EQ(pgmap_folio_count(folio), 2);
		CHECK_EQ(pg_space_unmap(&s, AT, 1u << 18), 0);
		CHECK_EQ(pgmap_folio_count(folio), 1);
		CHECK_EQ(pgmap_folio_mapcount(folio), 0);
		pgmap_folio_put(folio);
		close_world();
	}
}

TEST(R58_N42_pages_of_zeros_are_counted_by_nobody)
{
	enum pg_level level = pg_level_supported(PG_PMD) ? PG_PMD : PG_PTE;

	open_world(PGMAP_COHERENT, PG_AREA_ANON, 1024);
	for (int i = 0; i < 100000; i++) {
		CHECK_EQ(insert_special(&s, AT, level, 0, 0), PG_VM_NOPAGE);
		if (i % 3 == 0) /* in part: it is split */
			zap(&s, AT, AT + PAGE);
		else
			zap(&s, AT, AT + 2 * MB);
		CHECK(!(entry(&s, AT) & PG_E_ZERO));
		if (i % 10000 == 0)
			check(&s);
		CHECK_EQ(rss(&s, PG_RSS_ANON) + rss(&s, PG_RSS_FILE), 0);
		if (i % 3 == 0)
			zap(&s, AT, AT + 2 * MB);
	}
	CHECK_EQ(pg_map_refs(map), 0);
	close_world();
}

static uint64_t rss_at_free[PG_NR_RSS];
static unsigned int nr_freed;

static void look_at_free(struct pgmap_folio *folio)
{
	nr_freed++;
	MUST(!pgmap_folio_mapcount(folio));
	MUST(!pg_lock_held(LOCK_PT));
	for (int i = 0; i < PG_NR_RSS; i++)
		rss_at_free[i] = rss(&s, (enum pg_rss)i);
}

TEST(R132_first_the_reverse_map_then_the_counter_and_last_the_reference)
{
	for (int l = PG_PTE; l < PG_NR_LEVELS; l++) {
		if (!pg_level_supported((enum pg_level)l))
			continue;
		open_world(PGMAP_FS_DAX, PG_AREA_DAX, 1u << 18);
		on_free = look_at_free;
		nr_freed = 0;
		map_one((enum pg_level)l, 0);
		rss_at_free[PG_RSS_FILE] = 1;
		zap(&s, AT, AT + GB);
		CHECK_EQ(nr_freed, 1);
		CHECK_EQ(rss_at_free[PG_RSS_FILE], 0);
		close_world();
	}
}

static struct pgmap *other_map;

/* The folio is somebody else's now, and of another kind. */
static void become_anonymous(struct pgmap_folio *folio)
{
	uint32_t flags = pg_load(&folio->flags, relaxed);

	flags = (flags & 0xffff) |
		(pg_load(&rec(other_map, 0)->flags, relaxed) & 0xffff0000);
	pg_store(&folio->flags, flags, relaxed);
	nr_freed++;
}

TEST(R126_R133_N7_the_kind_of_a_folio_is_not_read_after_its_put)
{
	struct pgmap_folio *folio;

	NEEDS(PG_PUD);
	other_map = map_new(PGMAP_COHERENT, 512);
	folio = folio_new(other_map, 0, 0);
	open_world(PGMAP_FS_DAX, PG_AREA_DAX, 1u << 18);
	on_free = become_anonymous;
	nr_freed = 0;
	map_one(PG_PUD, PG_E_WRITE);
	CHECK_EQ(rss(&s, PG_RSS_FILE), 1u << 18);
	/* The upper half: the entry held the only reference. */
	CHECK_EQ(pg_space_unmap(&s, AT + GB / 2, 1u << 17), 0);
	CHECK_EQ(nr_freed, 1);
	CHECK_EQ(rss(&s, PG_RSS_FILE), 0);
	CHECK_EQ(rss(&s, PG_RSS_ANON), 0);
	on_free = NULL;
	close_world();
	pgmap_folio_put(folio);
	map_end(other_map);
}

TEST(R126_what_an_entry_knew_goes_to_the_folio)
{
	for (int l = PG_PTE; l < PG_NR_LEVELS; l++) {
		enum pg_level level = (enum pg_level)l;
		struct pgmap_folio *folio;

		if (!pg_level_supported(level))
			continue;
		for (int dirty = 0; dirty < 2; dirty++) {
			open_world(PGMAP_FS_DAX, PG_AREA_DAX, 1u << 18);
			folio = folio_new(map, 0, pg_level_order(level));
			CHECK_EQ(insert(&s, AT, level, folio, map_pfn(map),
					dirty ? PG_E_WRITE : 0),
				 PG_VM_NOPAGE);
			CHECK(!pg_folio_marked(folio, PG_FOLIO_DIRTY));
			/* In part or whole, it is the same to the folio. */
			zap(&s, AT,
			    AT + (level == PG_PTE ? PAGE
						  : pg_level_size(level) / 2));
			CHECK_EQ(nr_entries(&s), 0);
			CHECK_EQ(pg_folio_marked(folio, PG_FOLIO_DIRTY), dirty);
			CHECK(pg_folio_marked(folio, PG_FOLIO_YOUNG));
			pgmap_folio_put(folio);
			close_world();
		}
	}
}

TEST(R127_a_part_of_a_large_file_entry_goes_and_the_rest_is_faulted_again)
{
	struct pgmap_folio *folio;

	NEEDS(PG_PMD);
	open_world(PGMAP_FS_DAX, PG_AREA_DAX, 512);
	CHECK_EQ(pg_touch(&s, AT + 5 * PAGE, true, NULL), PG_VM_NOPAGE);
	CHECK_EQ(level_at(&s, AT), PG_PMD);
	folio = rec(map, 0);
	CHECK_EQ(pgmap_folio_count(folio), 1);
	CHECK_EQ(pg_space_unmap(&s, AT, 256), 0);
	CHECK_EQ(pgmap_folio_count(folio), 0);
	CHECK_EQ(pg_touch(&s, AT, false, NULL), PG_VM_SIGSEGV);
	CHECK_EQ(pg_touch(&s, AT + MB, false, NULL), PG_VM_NOPAGE);
	CHECK_EQ(level_at(&s, AT + MB), PG_PTE);
	CHECK_EQ(page_at(&s, AT + MB), map_pfn(map) + 256);
	CHECK_EQ(rss(&s, PG_RSS_FILE), 1);
	close_world();
}

/* Page i of the folio is at page i, from @from to @to, and nowhere else. */
static void check_ptes(uint64_t from, uint64_t to, pg_entry_t bits)
{
	for (uint64_t i = 0; i < 512; i++) {
		pg_entry_t e = entry(&s, AT + i * PAGE);

		if (i < from || i >= to)
			CHECK_EQ(e, 0);
		else
			CHECK_EQ(e, (map_pfn(map) + i) << 12 | bits);
	}
	CHECK_EQ(pgmap_folio_mapcount(rec(map, 0)), to - from);
	CHECK_EQ(pgmap_folio_count(rec(map, 0)), to - from);
	CHECK_EQ(rss(&s, PG_RSS_ANON), to - from);
	check(&s);
}

TEST(R107_a_private_PMD_becomes_512_PTEs_with_511_more_references)
{
	struct pgmap_folio *folio;
	uint32_t marks[] = {0, PG_E_WRITE};

	NEEDS(PG_PMD);
	for (int i = 0; i < 2; i++) {
		open_world(PGMAP_PRIVATE, PG_AREA_ANON, 512);
		map_one(PG_PMD, PG_E_PRIVATE | marks[i]);
		folio = rec(map, 0);
		CHECK_EQ(pgmap_folio_count(folio), 1);
		pg_split_at(pg_find_area(&s, AT), AT + 77 * PAGE);
		check_ptes(0, 512, PG_E_PRIVATE | marks[i]);
		/* The folio stays what it is. */
		CHECK_EQ(pgmap_folio_order(folio), 9);
		CHECK_EQ(pgmap_folio_pfn(folio), map_pfn(map));
		/* There is nothing across that address any more. */
		pg_split_at(pg_find_area(&s, AT), AT + 77 * PAGE);
		CHECK_EQ(pgmap_folio_count(folio), 512);
		zap(&s, AT, AT + 2 * MB);
		CHECK_EQ(pgmap_folio_count(folio), 0);
		close_world();
	}
}

TEST(R127_a_present_anonymous_PMD_keeps_its_marks_when_it_is_split)
{
	NEEDS(PG_PMD);
	open_world(PGMAP_COHERENT, PG_AREA_ANON, 512);
	map_one(PG_PMD, PG_E_WRITE);
	pg_split_at(pg_find_area(&s, AT), AT + PAGE);
	check_ptes(0, 512, PG_E_PRESENT | PG_E_WRITE | PG_E_DIRTY | PG_E_YOUNG);
	close_world();
}

TEST(R128_a_zap_of_a_part_splits_at_both_edges)
{
	NEEDS(PG_PMD);
	for (int i = 0; i < 3; i++) {
		uint64_t from = i ? 100 : 0, to = i == 1 ? 512 : 200;

		open_world(PGMAP_PRIVATE, PG_AREA_ANON, 512);
		map_one(PG_PMD, PG_E_PRIVATE | PG_E_WRITE);
		zap(&s, AT + from * PAGE, AT + to * PAGE);
		CHECK_EQ(pgmap_folio_mapcount(rec(map, 0)), 512 - (to - from));
		CHECK_EQ(rss(&s, PG_RSS_ANON), 512 - (to - from));
		for (uint64_t k = 0; k < 512; k++)
			CHECK_EQ(entry(&s, AT + k * PAGE),
				 k >= from && k < to
					 ? 0
					 : (map_pfn(map) + k) << 12 |
						   PG_E_PRIVATE | PG_E_WRITE);
		close_world();
	}
}

TEST(R120_D11_mappings_of_every_size_write_nothing_for_tails)
{
	struct pgmap_folio *folio;
	uintptr_t tails;
	size_t len;

	NEEDS(PG_PMD);
	open_world(PGMAP_PRIVATE, PG_AREA_ANON, 1024);
	folio = folio_new(map, 0, 9);
	tails = ((uintptr_t)folio + PAGE) & ~(PAGE - 1);
	len = 3 * PAGE;
	CHECK(tails + len <= (uintptr_t)(folio + 512));
	CHECK_EQ(mprotect((void *)tails, len, PROT_READ), 0);
	for (int i = 0; i < 2; i++) {
		CHECK_EQ(insert(&s, AT, PG_PMD, folio, map_pfn(map),
				PG_E_PRIVATE | PG_E_WRITE),
			 PG_VM_NOPAGE);
		if (i) {
			zap(&s, AT + PAGE, AT + 2 * PAGE);
			CHECK_EQ(pg_space_move(&s, AT, 512, AT + GB + PAGE,
					       false),
				 0);
		}
		CHECK_EQ(pg_space_unmap(&s, AT, 512), 0);
		CHECK_EQ(pg_space_unmap(&s, AT + GB, 1024), 0);
		CHECK_EQ(pg_space_map(&s, AT, 512, PG_AREA_ANON, RW, NULL, 0),
			 0);
	}
	CHECK_EQ(pgmap_folio_count(folio), 1);
	pgmap_folio_put(folio);
	CHECK_EQ(mprotect((void *)tails, len, PROT_READ | PROT_WRITE), 0);
	close_world();
}

TEST(R116_a_folio_is_mapped_while_any_entry_of_any_size_names_it)
{
	struct pgmap_folio *folio;

	NEEDS(PG_PMD);
	open_world(PGMAP_FS_DAX, PG_AREA_DAX, 1024);
	folio = folio_new(map, 0, 9);
	CHECK_EQ(insert(&s, AT, PG_PMD, folio, map_pfn(map), 0), PG_VM_NOPAGE);
	for (uint64_t i = 0; i < 10; i++)
		CHECK_EQ(insert(&s, AT + 2 * MB + i * PAGE, PG_PTE, folio,
				map_pfn(map) + i, 0),
			 PG_VM_NOPAGE);
	CHECK_EQ(pgmap_folio_mapcount(folio), 11);
	check(&s);
	zap(&s, AT, AT + 2 * MB);
	CHECK_EQ(pgmap_folio_mapcount(folio), 10);
	zap(&s, AT + 2 * MB, AT + 4 * MB);
	CHECK_EQ(pgmap_folio_mapcount(folio), 0);
	pgmap_folio_put(folio);
	close_world();
}

TEST(an_entry_lies_inside_its_area)
{
	struct pgmap_folio *folio;

	open_world(PGMAP_FS_DAX, PG_AREA_DAX, 512);
	folio = folio_new(map, 0, 0);
	for (int i = 0; i < 2; i++) {
		uintptr_t va = i ? AT + 512 * PAGE : AT - PAGE;
		enum pg_fault_code ret;

		pg_read_lock(&s.lock, LOCK_MM);
		ret = pg_insert_folio(pg_find_area(&s, AT), va, PG_PTE, folio,
				      map_pfn(map), 0);
		pg_read_unlock(&s.lock, LOCK_MM);
		CHECK_EQ(ret, PG_VM_SIGBUS);
	}
	/* And is of a size that there is. */
	CHECK_EQ(insert(&s, AT, (enum pg_level)PG_NR_LEVELS, folio,
			map_pfn(map), 0),
		 PG_VM_FALLBACK);
	CHECK_EQ(insert_special(&s, AT, (enum pg_level)PG_NR_LEVELS, 0, 0),
		 PG_VM_FALLBACK);
	CHECK_EQ(nr_entries(&s), 0);
	CHECK_EQ(pgmap_folio_count(folio), 1);
	pgmap_folio_put(folio);
	close_world();
}

TEST(R131_N35_sizes_that_a_build_has_not_got_fall_back)
{
	struct pgmap_folio *folio;

	open_world(PGMAP_FS_DAX, PG_AREA_DAX, 1u << 18);
	for (int l = PG_PMD; l < PG_NR_LEVELS; l++) {
		enum pg_level level = (enum pg_level)l;

		folio = folio_new(map, 0, pg_level_order(level));
		CHECK_EQ(insert(&s, AT, level, folio, map_pfn(map), 0),
			 pg_level_supported(level) ? PG_VM_NOPAGE
						   : PG_VM_FALLBACK);
		zap(&s, AT, AT + GB);
		CHECK_EQ(insert_special(&s, AT, level, 0, 0),
			 pg_level_supported(level) ? PG_VM_NOPAGE
						   : PG_VM_FALLBACK);
		zap(&s, AT, AT + GB);
		pgmap_folio_put(folio);
	}
	/* A fault takes the largest there is. */
	CHECK_EQ(pg_touch(&s, AT, true, NULL), PG_VM_NOPAGE);
	CHECK_EQ(level_at(&s, AT), pg_level_supported(PG_PUD)	? PG_PUD
				   : pg_level_supported(PG_PMD) ? PG_PMD
								: PG_PTE);
#ifdef PG_NO_PUD
	CHECK(!pg_level_supported(PG_PUD));
#endif
#ifdef PG_NO_PMD
	CHECK(!pg_level_supported(PG_PMD));
#endif
	CHECK(pg_level_supported(PG_PTE));
	close_world();
}

/* ---- Two at once ---- */

static _Atomic(int) together;

static void meet(void)
{
	together--;
	while (together > 0)
		sched_yield();
}

static struct pgmap_folio *small_folio;

static struct pgmap_folio *large_folio;

static void *insert_large(void *arg)
{
	*(enum pg_fault_code *)arg =
		insert(&s, AT, PG_PMD, large_folio, map_pfn(map), PG_E_PRIVATE);
	return NULL;
}

TEST(R110_N19_a_large_insert_that_finds_its_place_taken_changes_nothing)
{
	enum pg_fault_code code = PG_VM_OOM;
	pthread_t t;

	NEEDS(PG_PMD);
	open_world(PGMAP_PRIVATE, PG_AREA_ANON, 1024);
	large_folio = folio_new(map, 0, 9);
	small_folio = folio_new(map, 512, 0);
	CHECK_EQ(pg_table_populate(&s, AT), 0);
	/* T1 has all that it needs but the lock; then a page is there. */
	pg_lock(&s.ptl, LOCK_PT);
	CHECK_EQ(pthread_create(&t, NULL, insert_large, &code), 0);
	while (pg_load(&s.ptl.word, relaxed) != 2)
		sched_yield();
	pgmap_folio_get(small_folio);
	pg_entry_count(&s, small_folio, PG_PTE);
	pg_entry_set(&s, AT + 7 * PAGE, PG_PTE,
		     (map_pfn(map) + 512) << 12 | PG_E_PRIVATE);
	pg_unlock(&s.ptl, LOCK_PT);
	pthread_join(t, NULL);
	CHECK_EQ(code, PG_VM_FALLBACK);
	CHECK_EQ(nr_entries(&s), 1);
	CHECK_EQ(page_at(&s, AT + 7 * PAGE), map_pfn(map) + 512);
	CHECK_EQ(pgmap_folio_count(large_folio), 1);
	CHECK_EQ(pgmap_folio_mapcount(large_folio), 0);
	pgmap_folio_put(large_folio);
	pgmap_folio_put(small_folio);
	close_world();
}

static void *insert_small(void *arg)
{
	meet();
	*(enum pg_fault_code *)arg =
		insert(&s, AT + 9 * PAGE, PG_PTE, small_folio,
		       pgmap_folio_pfn(small_folio), PG_E_WRITE);
	return NULL;
}

TEST(R110_N19_a_large_insert_gives_way_to_who_was_quicker)
{
	unsigned int large = 0, small = 0;

	NEEDS(PG_PMD);
	for (int i = 0; i < 2000 && (i < 300 || !large || !small); i++) {
		struct pgmap_folio *folio;
		enum pg_fault_code mine, his;
		pthread_t t;

		open_world(PGMAP_COHERENT, PG_AREA_ANON, 1024);
		folio = folio_new(map, 0, 9);
		small_folio = folio_new(map, 512, 0);
		together = 2;
		CHECK_EQ(pthread_create(&t, NULL, insert_small, &his), 0);
		meet();
		for (volatile int k = i % 64; k; k--)
			;
		mine = insert(&s, AT, PG_PMD, folio, map_pfn(map), PG_E_WRITE);
		pthread_join(t, NULL);
		/* One of them is there, whole; no table page too many, no lock
		 * left (check), and both folios as they ought to be. */
		check(&s);
		if (his == PG_VM_NOPAGE) {
			CHECK_EQ(mine, PG_VM_FALLBACK);
			CHECK_EQ(page_at(&s, AT + 9 * PAGE),
				 map_pfn(map) + 512);
			CHECK_EQ(pgmap_folio_count(folio), 1);
			small++;
		} else {
			CHECK_EQ(his, PG_VM_RETRY);
			CHECK_EQ(mine, PG_VM_NOPAGE);
			CHECK_EQ(pgmap_folio_count(small_folio), 1);
			large++;
		}
		pgmap_folio_put(folio);
		pgmap_folio_put(small_folio);
		close_world();
	}
	printf("# large first %u, small first %u\n", large, small);
}

static void *populate(void *arg)
{
	meet();
	for (uintptr_t i = 0; i < 64; i++)
		*(int *)arg |= pg_table_populate(&s, AT + i * GB);
	return NULL;
}

TEST(R110_N19_a_table_that_was_not_needed_is_given_back)
{
	for (int i = 0; i < 50; i++) {
		int mine = 0, his = 0;
		pthread_t t;

		CHECK_EQ(pg_space_init(&s), 0);
		together = 2;
		CHECK_EQ(pthread_create(&t, NULL, populate, &his), 0);
		populate(&mine);
		pthread_join(t, NULL);
		CHECK_EQ(mine, 0);
		CHECK_EQ(his, 0);
		CHECK_EQ(pg_load(&s.table.nr_gigs, relaxed), 64);
		check(&s);
		pg_space_fini(&s);
	}
}

static _Atomic(int) round_no, round_begun, round_done;
static enum pg_fault_code stored;

/* A CPU that stores once a round. */
static void *store(void *arg)
{
	int rounds = *(int *)arg;

	for (int i = 1; i <= rounds; i++) {
		while (round_no < i)
			sched_yield();
		round_begun = i;
		stored = pg_touch(&s, AT, true, NULL);
		round_done = i;
	}
	return NULL;
}

TEST(R126_no_store_is_lost_between_a_CPU_and_a_zap)
{
	unsigned int before = 0, after = 0, lost = 0, delay = 200;
	struct pgmap_folio *folio;
	int rounds = 20000;
	pthread_t t;

	open_world(PGMAP_COHERENT, PG_AREA_ANON, 512);
	folio = folio_new(map, 0, 0);
	/* So that nothing is made while they run. */
	CHECK_EQ(pg_table_populate(&s, AT), 0);
	round_no = round_begun = round_done = 0;
	CHECK_EQ(pthread_create(&t, NULL, store, &rounds), 0);
	for (int i = 1; i <= rounds; i++) {
		/* There, clean, and nobody else's: the CPU itself marks it.
		 * The delay seeks the moment when both do it at once. */
		pg_folio_unmark(folio, PG_FOLIO_DIRTY);
		MUST(insert(&s, AT, PG_PTE, folio, map_pfn(map), 0) ==
		     PG_VM_NOPAGE);
		round_no = i;
		while (round_begun < i)
			sched_yield();
		for (volatile unsigned int k = delay + (unsigned int)i % 32; k;
		     k--)
			;
		zap(&s, AT, AT + PAGE);
		while (round_done < i)
			sched_yield();
		if (stored == PG_VM_NOPAGE) {
			before++;
			delay -= delay > 0;
			lost += !pg_folio_marked(folio, PG_FOLIO_DIRTY);
		} else {
			after++;
			delay += 3;
		}
	}
	pthread_join(t, NULL);
	printf("# %u stores before the zap, %u after\n", before, after);
	CHECK_EQ(lost, 0);
	CHECK(before);
	pgmap_folio_put(folio);
	close_world();
}

TEST_MAIN()
