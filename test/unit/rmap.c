/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The reverse map: from a folio, or a part of a file, to all its entries.
 */
#include "spaces.h"

#define AT (2 * GB)
#define NR_SPACES 4

static struct pg_space s[NR_SPACES];
static struct pg_mapping anon;
static struct pgmap *map;
static struct test_file file;

static void open_world(enum pgmap_type type, int nr_spaces)
{
	map = map_new(type, 1u << 18);
	file_init(&file, map);
	pg_mapping_init(&anon, NULL);
	for (int i = 0; i < nr_spaces; i++)
		CHECK_EQ(pg_space_init(&s[i]), 0);
}

static void close_world(int nr_spaces)
{
	for (int i = 0; i < nr_spaces; i++) {
		check(&s[i]);
		pg_space_fini(&s[i]);
	}
	CHECK(!file.mapping.areas);
	CHECK(!anon.areas);
	map_end(map);
}

static void map_file(int i, uintptr_t va, uint64_t nr, uint64_t index)
{
	CHECK_EQ(pg_space_map(&s[i], va, nr, PG_AREA_DAX, RW, &file.mapping,
			      index),
		 0);
}

static void touch(int i, uintptr_t va, bool write)
{
	CHECK_EQ(pg_touch(&s[i], va, write, NULL), PG_VM_NOPAGE);
}

/* A private folio that stands for page @index of the anonymous mapping. */
static struct pgmap_folio *anon_folio(uint64_t i, unsigned int order,
				      uint64_t index)
{
	struct pgmap_folio *folio = folio_new(map, i, order);

	folio->mapping = (uintptr_t)&anon;
	folio->index = index & PG_INDEX_MASK;
	return folio;
}

static bool count(struct pg_area *area, uintptr_t va, enum pg_level level,
		  pg_entry_t e, void *arg)
{
	MUST(va >= area->start && va < area->end);
	MUST(pg_lock_held(LOCK_PT));
	MUST(e && level < PG_NR_LEVELS);
	++*(unsigned int *)arg;
	return true;
}

static bool count_one(struct pg_area *area, uintptr_t va, enum pg_level level,
		      pg_entry_t e, void *arg)
{
	count(area, va, level, e, arg);
	return false;
}

TEST(R115_after_three_forks_every_table_is_found)
{
	enum pg_level levels[] = {PG_PTE, PG_PMD};

	for (int l = 0; l < 2; l++) {
		struct pgmap_folio *folio;
		unsigned int n = 0;

		if (!pg_level_supported(levels[l]))
			continue;
		open_world(PGMAP_PRIVATE, NR_SPACES);
		CHECK_EQ(pg_space_map(&s[0], AT, 1024, PG_AREA_ANON, RW, &anon,
				      AT / PAGE),
			 0);
		folio = anon_folio(0, pg_level_order(levels[l]),
				   (AT + 2 * MB) / PAGE);
		CHECK_EQ(insert(&s[0], AT + 2 * MB, levels[l], folio,
				map_pfn(map), PG_E_PRIVATE),
			 PG_VM_NOPAGE);
		for (int i = 1; i < NR_SPACES; i++)
			CHECK_EQ(pg_space_fork(&s[i - 1], &s[i]), 0);
		/* One of them has it elsewhere by now. */
		CHECK_EQ(pg_space_move(&s[2], AT + 2 * MB, 512, AT + GB, false),
			 0);
		CHECK_EQ(pgmap_folio_mapcount(folio), NR_SPACES);
		CHECK(pgmap_folio_trylock(folio));
		pg_rmap_walk(folio, count, &n);
		CHECK_EQ(n, NR_SPACES);
		n = 0;
		pg_rmap_walk(folio, count_one, &n);
		CHECK_EQ(n, 1);
		pg_rmap_unmap(folio);
		CHECK_EQ(pgmap_folio_mapcount(folio), 0);
		CHECK_EQ(pgmap_folio_count(folio), 1);
		for (int i = 0; i < NR_SPACES; i++) {
			CHECK_EQ(nr_entries(&s[i]), 0);
			CHECK_EQ(rss(&s[i], PG_RSS_ANON), 0);
		}
		pgmap_folio_unlock(folio);
		pgmap_folio_put(folio);
		close_world(NR_SPACES);
	}
}

static uint64_t found[8];

static bool note(struct pg_area *area, uintptr_t va, enum pg_level level,
		 pg_entry_t e, void *arg)
{
	(void)level;
	(void)arg;
	found[(va - area->start) / PAGE] = pg_entry_pfn(e);
	return true;
}

TEST(N4_R51_the_page_of_an_entry_is_the_one_that_it_names)
{
	struct pgmap_folio *small, *large;
	struct pgmap_folio before, after;

	open_world(PGMAP_PRIVATE, 1);
	CHECK_EQ(pg_space_map(&s[0], AT, 8, PG_AREA_ANON, RW, &anon, 4096), 0);
	/* One page, with an odd number; and of a large folio eight, in an
	 * order that no formula knows. */
	small = anon_folio(777, 0, 4096);
	large = anon_folio(1024, 9, 4096);
	CHECK_EQ(insert(&s[0], AT, PG_PTE, small, map_pfn(map) + 777,
			PG_E_PRIVATE),
		 PG_VM_NOPAGE);
	for (uint64_t i = 1; i < 8; i++)
		CHECK_EQ(insert(&s[0], AT + i * PAGE, PG_PTE, large,
				map_pfn(map) + 1024 + 511 - i, PG_E_PRIVATE),
			 PG_VM_NOPAGE);
	memset(found, 0, sizeof(found));
	pg_rmap_walk(small, note, NULL);
	CHECK_EQ(found[0], map_pfn(map) + 777);
	CHECK_EQ(found[1], 0);
	memset(found, 0, sizeof(found));
	pg_rmap_walk(large, note, NULL);
	CHECK_EQ(found[0], 0);
	for (uint64_t i = 1; i < 8; i++)
		CHECK_EQ(found[i], map_pfn(map) + 1024 + 511 - i);
	/* What goes is that, and the neighbours' records stay as they are. */
	memcpy(&before, rec(map, 776), sizeof(before));
	pg_rmap_unmap(small);
	memcpy(&after, rec(map, 776), sizeof(after));
	CHECK(!memcmp(&before, &after, sizeof(before)));
	CHECK_EQ(pgmap_folio_count(small), 1);
	CHECK_EQ(pgmap_folio_mapcount(large), 7);
	pg_rmap_unmap(large);
	CHECK_EQ(pgmap_folio_count(large), 1);
	CHECK_EQ(nr_entries(&s[0]), 0);
	pgmap_folio_put(small);
	pgmap_folio_put(large);
	close_world(1);
}

TEST(R115_a_folio_that_stands_for_nothing_has_no_entries)
{
	struct pgmap_folio *folio;
	unsigned int n = 0;

	open_world(PGMAP_FS_DAX, 1);
	folio = folio_new(map, 0, 0);
	folio->mapping = 0;
	pg_rmap_walk(folio, count, &n);
	CHECK_EQ(n, 0);
	pgmap_folio_put(folio);
	close_world(1);
}

TEST(R128_a_part_of_a_file_is_unmapped_wherever_it_is_mapped)
{
	open_world(PGMAP_FS_DAX, 3);
	map_file(0, AT, 100, 0);
	map_file(1, AT + 3 * PAGE, 50, 20);
	map_file(1, AT + GB, 1, 39);
	map_file(2, AT, 10, 200);
	file.largest = PG_PTE;
	for (uintptr_t i = 0; i < 100; i++)
		touch(0, AT + i * PAGE, false);
	for (uintptr_t i = 0; i < 50; i++)
		touch(1, AT + (3 + i) * PAGE, false);
	touch(1, AT + GB, false);
	for (uintptr_t i = 0; i < 10; i++)
		touch(2, AT + i * PAGE, false);
	pg_unmap_mapping_range(&file.mapping, 30, 10);
	CHECK_EQ(rss(&s[0], PG_RSS_FILE), 90);
	CHECK_EQ(rss(&s[1], PG_RSS_FILE), 40);
	CHECK_EQ(rss(&s[2], PG_RSS_FILE), 10);
	for (uint64_t i = 0; i < 100; i++) {
		bool gone = i >= 30 && i < 40;

		CHECK_EQ(!entry(&s[0], AT + i * PAGE), gone);
		CHECK_EQ(pgmap_folio_mapcount(rec(map, i)),
			 gone ? 0 : 1 + (i >= 20 && i < 70));
	}
	/* An end behind all numbers is the end. */
	pg_unmap_mapping_range(&file.mapping, 60, UINT64_MAX);
	CHECK_EQ(rss(&s[0], PG_RSS_FILE), 50);
	pg_unmap_mapping_range(&file.mapping, 0, UINT64_MAX);
	for (int i = 0; i < 3; i++)
		CHECK_EQ(nr_entries(&s[i]), 0);
	close_world(3);
}

TEST(R128_truncation_in_the_middle_of_a_large_entry_removes_it_all)
{
	NEEDS(PG_PMD);
	open_world(PGMAP_FS_DAX, 2);
	map_file(0, AT, 512, 0);
	map_file(1, AT, 512, 0);
	touch(0, AT, true);
	touch(1, AT, false);
	CHECK_EQ(pgmap_folio_mapcount(rec(map, 0)), 2);
	pg_unmap_mapping_range(&file.mapping, 300, 1);
	CHECK_EQ(pgmap_folio_count(rec(map, 0)), 0);
	close_world(2);
}

TEST(R130_cleaning_takes_dirty_and_write_at_every_size_and_everywhere)
{
	for (int l = PG_PTE; l < PG_NR_LEVELS; l++) {
		enum pg_level level = (enum pg_level)l;
		pg_entry_t e;

		if (!pg_level_supported(level))
			continue;
		open_world(PGMAP_FS_DAX, 3);
		for (int i = 0; i < 3; i++)
			map_file(i, AT, 1u << 18, 0);
		file.largest = level;
		touch(0, AT, true);
		touch(1, AT, true);
		touch(2, AT, false);
		e = entry(&s[2], AT);
		/* Beside it: nothing. */
		CHECK_EQ(pg_clean_mapping_range(&file.mapping,
						pg_level_pages(level), 1),
			 0);
		CHECK(entry(&s[0], AT) & PG_E_DIRTY);
		CHECK_EQ(pg_clean_mapping_range(&file.mapping, 0, 1), 2);
		for (int i = 0; i < 3; i++)
			CHECK_EQ(entry(&s[i], AT), e);
		CHECK_EQ(pg_clean_mapping_range(&file.mapping, 0, 1), 0);
		/* The next store asks the file again. */
		file.faults = 0;
		touch(0, AT, true);
		CHECK(file.faults > 0);
		CHECK_EQ(pg_clean_mapping_range(&file.mapping, 0, 1), 1);
		CHECK_EQ(pgmap_folio_mapcount(rec(map, 0)), 3);
		close_world(3);
	}
}

static _Atomic(bool) stop;
static _Atomic(unsigned int) moves;

/* mremap there and back, and a child that comes and goes. */
static void *move_for_ever(void *arg)
{
	_Atomic(int) *ret = arg;

	while (!stop && !*ret) {
		struct pg_space c;

		*ret = pg_space_move(&s[0], AT, 8, AT + GB, false);
		if (!*ret)
			*ret = pg_space_init(&c);
		if (!*ret) {
			*ret = pg_space_fork(&s[0], &c);
			pg_space_fini(&c);
		}
		if (!*ret)
			*ret = pg_space_move(&s[0], AT + GB, 8, AT, false);
		moves++;
	}
	return NULL;
}

TEST(R115_a_walk_misses_no_entry_that_moves_meanwhile)
{
	struct pgmap_folio *folio;
	unsigned int bad = 0;
	_Atomic(int) ret = 0;
	pthread_t t;

	open_world(PGMAP_PRIVATE, 1);
	CHECK_EQ(pg_space_map(&s[0], AT, 8, PG_AREA_ANON, RW, &anon, 0), 0);
	folio = anon_folio(0, 0, 5);
	CHECK_EQ(insert(&s[0], AT + 5 * PAGE, PG_PTE, folio, map_pfn(map),
			PG_E_PRIVATE),
		 PG_VM_NOPAGE);
	stop = false;
	moves = 0;
	CHECK_EQ(pthread_create(&t, NULL, move_for_ever, &ret), 0);
	for (int i = 0; i < 3000 || moves < 2000; i++) {
		unsigned int n = 0;

		pg_rmap_walk(folio, count, &n);
		/* The child's, too. */
		bad += n != 1 && n != 2;
		if (ret)
			break;
	}
	stop = true;
	pthread_join(t, NULL);
	CHECK_EQ(ret, 0);
	CHECK_EQ(bad, 0);
	pgmap_folio_put(folio);
	close_world(1);
}

TEST_MAIN()
