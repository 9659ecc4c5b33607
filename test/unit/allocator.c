/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The stock allocator: blocks, shards, several maps, their removal.
 */
#include <sys/mman.h>

#include "core/allocator.h"
#include "world.h"

#define FAR (PGMAP_FIRST_DEVICE_PFN + (1ull << 30))
#define SUB ((uint64_t)PGMAP_SUBSECTION_PAGES)
#define GB ((uint64_t)1 << PGMAP_PUD_ORDER)

/* One at a time, as in a driver. */
static struct pgmap_allocator *a;

static void folio_free(struct pgmap_folio *folio)
{
	pgmap_allocator_free(a, folio);
}

static int no_fault(struct pgmap_fault *fault)
{
	(void)fault;
	return 0;
}

static struct pgmap *map_with(uint64_t pfn, uint64_t nr, uint32_t folio_order,
			      uint64_t reserve)
{
	static const struct pgmap_ops ops = {
		.size = sizeof(ops),
		.folio_free = folio_free,
		.migrate_to_ram = no_fault,
	};
	struct pgmap_desc d = {
		.size = sizeof(d),
		.type = PGMAP_PRIVATE,
		.nr_range = 1,
		.range = {{pfn, nr}},
		.ops = &ops,
		.owner = &a,
		.folio_order = folio_order,
		.reserve = reserve,
	};
	struct pgmap *map = NULL;

	CHECK_EQ(pgmap_create(&d, &map), 0);
	return map;
}

/* A map of @nr pages whose pages are to be had. */
static struct pgmap *map_add(uint64_t pfn, uint64_t nr)
{
	struct pgmap *map = map_with(pfn, nr, 0, 0);

	CHECK_EQ(pgmap_allocator_add(a, map), 0);
	return map;
}

static struct pgmap *open_one(uint64_t nr)
{
	CHECK_EQ(pgmap_allocator_create(&a), 0);
	return map_add(FAR, nr);
}

static uint64_t free_pages(void)
{
	uint64_t nr = 0;
	const char *broken = pg_allocator_check(a, &nr);

	if (broken)
		printf("# pg_allocator_check: %s\n", broken);
	CHECK(!broken);
	CHECK_EQ(pgmap_allocator_nr_free(a), nr);
	return nr;
}

/* Every page is free. */
static void close_one(struct pgmap *map)
{
	CHECK_EQ(pg_map_refs(map), 0);
	pgmap_allocator_remove(a, map);
	CHECK_EQ(pgmap_destroy(map), 0);
	pgmap_allocator_destroy(a);
}

static struct pgmap_folio *get(unsigned int order)
{
	struct pgmap_folio *folio = NULL;

	CHECK_EQ(pgmap_allocator_get(a, order, &folio), 0);
	pgmap_folio_unlock(folio);
	return folio;
}

static int get_fails(unsigned int order)
{
	struct pgmap_folio *folio = NULL;
	int ret = pgmap_allocator_get(a, order, &folio);

	CHECK(!folio);
	return ret;
}

/* ---- What is handed out ---- */

TEST(R63_pages_come_as_from_who_asks_for_them_by_number)
{
	struct pgmap *map = open_one(2 * GB);
	struct pgmap_folio *folio;

	for (unsigned int o = 0; o <= PGMAP_MAX_ORDER; o++) {
		uint64_t nr = 1ull << o;

		CHECK_EQ(pgmap_allocator_get(a, o, &folio), 0);
		CHECK_EQ(pgmap_folio_count(folio), 1);
		CHECK_EQ(pgmap_folio_order(folio), o);
		CHECK_EQ(pgmap_folio_pfn(folio) % nr, 0);
		CHECK(pgmap_folio_map(folio) == map);
		CHECK(!pgmap_folio_trylock(folio));
		CHECK_EQ(pg_load(&folio->mapcount, relaxed), 0);
		CHECK_EQ(pg_map_refs(map), nr);
		CHECK_EQ(free_pages(), 2 * GB - nr);
		pgmap_folio_unlock(folio);
		pgmap_folio_put(folio);
		CHECK_EQ(free_pages(), 2 * GB);
	}
	close_one(map);
}

TEST(R60_orders_that_cannot_be_are_refused)
{
	struct pgmap *map, *second;

	CHECK_EQ(pgmap_allocator_create(&a), 0);
	CHECK_EQ(get_fails(0), -ENOSPC);
	map = map_with(FAR, 4 * SUB, PGMAP_PMD_ORDER, 0);
	CHECK_EQ(pgmap_allocator_add(a, map), 0);
	CHECK_EQ(pgmap_allocator_add(a, map), -EINVAL);
	CHECK_EQ(free_pages(), 4 * SUB);
	CHECK_EQ(get_fails(PGMAP_MAX_ORDER + 1), -EINVAL);
	CHECK_EQ(get_fails(PGMAP_PMD_ORDER - 1), -EINVAL);
	CHECK_EQ(get_fails(PGMAP_PMD_ORDER + 3), -ENOSPC);
	/* What one map is too coarse for comes from another. */
	second = map_add(FAR + GB, SUB);
	for (uint64_t i = 0; i < 4; i++)
		CHECK(pgmap_folio_map(get(PGMAP_PMD_ORDER)) == map);
	CHECK(pgmap_folio_map(get(3)) == second);
	for (uint64_t i = 0; i < 4; i++)
		pgmap_folio_put(pg_map_head(map, FAR + i * SUB));
	pgmap_folio_put(pg_map_head(second, FAR + GB));
	CHECK_EQ(free_pages(), 5 * SUB);
	pgmap_allocator_remove(a, second);
	CHECK_EQ(pgmap_destroy(second), 0);
	close_one(map);
}

TEST(R18_what_is_reserved_is_not_handed_out)
{
	struct pgmap *map;
	struct pgmap_folio *folio[64];
	size_t n = 0;

	CHECK_EQ(pgmap_allocator_create(&a), 0);
	map = map_with(FAR, 8 * SUB, 6, 100);
	CHECK_EQ(pgmap_allocator_add(a, map), 0);
	/* Whole folios of 64 pages behind 100 pages. */
	CHECK_EQ(free_pages(), 8 * SUB - 128);
	for (; n < 62; n++) {
		folio[n] = get(6);
		CHECK(pgmap_folio_pfn(folio[n]) >= FAR + 128);
	}
	CHECK_EQ(get_fails(6), -ENOSPC);
	while (n)
		pgmap_folio_put(folio[--n]);
	CHECK_EQ(free_pages(), 8 * SUB - 128);
	close_one(map);
}

TEST(R20_pages_of_all_maps_are_to_be_had_and_found)
{
	static struct pgmap_folio *folio[3 * SUB];
	struct pgmap *map[3];
	size_t n = 0;

	CHECK_EQ(pgmap_allocator_create(&a), 0);
	for (uint64_t i = 0; i < 3; i++)
		map[i] = map_add(FAR + i * 4 * SUB, SUB);
	for (; n < 3 * SUB; n++)
		folio[n] = get(0);
	CHECK_EQ(get_fails(0), -ENOSPC);
	for (int i = 0; i < 3; i++)
		CHECK_EQ(pg_map_refs(map[i]), SUB);
	while (n) {
		uint64_t pfn = pgmap_folio_pfn(folio[--n]);
		struct pgmap *found = pgmap_lookup(pfn, NULL);

		CHECK(found == pgmap_folio_map(folio[n]));
		pgmap_put(found);
		pgmap_folio_put(folio[n]);
	}
	CHECK_EQ(free_pages(), 3 * SUB);
	for (int i = 2; i; i--) {
		pgmap_allocator_remove(a, map[i]);
		CHECK_EQ(pgmap_destroy(map[i]), 0);
	}
	close_one(map[0]);
}

TEST(R17_R20_ranges_of_one_map_and_folios_of_1_GB)
{
	struct pgmap_desc d = {
		.size = sizeof(d),
		.type = PGMAP_GENERIC,
		.nr_range = 3,
		.range = {{FAR, 2 * GB},
			  {FAR + 4 * GB, GB},
			  {FAR + 9 * GB, GB}},
		.ops = &(struct pgmap_ops){.size = sizeof(struct pgmap_ops),
					   .folio_free = folio_free},
		.folio_order = PGMAP_PUD_ORDER,
		.reserve = 1,
	};
	struct pgmap_folio *folio[3];
	struct pgmap *map;

	CHECK_EQ(pgmap_allocator_create(&a), 0);
	CHECK_EQ(pgmap_create(&d, &map), 0);
	CHECK_EQ(pgmap_allocator_add(a, map), 0);
	/* The first page is reserved, and its folio with it. */
	CHECK_EQ(free_pages(), 3 * GB);
	for (int i = 0; i < 3; i++)
		folio[i] = get(PGMAP_PUD_ORDER);
	CHECK_EQ(pgmap_folio_pfn(folio[0]), FAR + GB);
	CHECK_EQ(pgmap_folio_pfn(folio[1]), FAR + 4 * GB);
	CHECK_EQ(pgmap_folio_pfn(folio[2]), FAR + 9 * GB);
	CHECK_EQ(get_fails(PGMAP_PUD_ORDER), -ENOSPC);
	for (int i = 0; i < 3; i++)
		pgmap_folio_put(folio[i]);
	CHECK_EQ(free_pages(), 3 * GB);
	close_one(map);
}

TEST(R44_nobody_waits_for_who_is_in_a_shard)
{
	struct pgmap *map = open_one(SUB);
	struct pgmap_folio *folio[2];

	for (int round = 0; round < 2; round++) {
		/* In all of them, then in all but one. */
		for (uint32_t i = 0; i < PG_NR_SHARDS - (uint32_t)round; i++)
			pg_store(&a->shard[i].busy, 1, relaxed);
		for (int i = 0; i < 2; i++)
			folio[i] = get(0);
		for (int i = 0; i < 2; i++)
			pgmap_folio_put(folio[i]);
		for (uint32_t i = 0; i < PG_NR_SHARDS; i++)
			pg_store(&a->shard[i].busy, 0, relaxed);
		CHECK_EQ(free_pages(), SUB);
	}
	close_one(map);
}

TEST(R63_who_hands_out_pages_past_the_allocator_is_told)
{
	struct pgmap *map = open_one(SUB);
	struct pgmap_folio *mine;

	/* Not the first of a block, which is seen before it is asked for. */
	CHECK_EQ(pgmap_get_folio(map, FAR + 1, 0, &mine), 0);
	pgmap_folio_unlock(mine);
	CHECK_EQ(get_fails(3), -EBUSY);
	/* Left out until it comes free. */
	CHECK_EQ(free_pages(), SUB - 8);
	pgmap_folio_put(mine);
	CHECK_EQ(free_pages(), SUB - 7);
	CHECK_EQ(pgmap_folio_pfn(get(0)), FAR + 1);
	pgmap_folio_put(mine);
	pgmap_allocator_remove(a, map);
	CHECK_EQ(pgmap_allocator_add(a, map), 0);
	CHECK_EQ(free_pages(), SUB);
	close_one(map);
}

/* Its record says how often it is pinned where a free one says what is next. */
TEST(R63_a_page_that_somebody_else_handed_out_is_not_written)
{
	struct pgmap *map = open_one(2 * SUB);
	struct pgmap_folio *mine[2];

	for (uint64_t i = 0; i < 2; i++) {
		/* The first of all, and where a block is halved. */
		CHECK_EQ(pgmap_get_folio(map, FAR + i * 8, 0, &mine[i]), 0);
		pgmap_folio_unlock(mine[i]);
		pgmap_folio_pin(mine[i]);
		mine[i]->index = 1234;
	}
	for (uint64_t i = 0; i < 16; i++) {
		struct pgmap_folio *folio;
		int ret = pgmap_allocator_get(a, i % 4, &folio);

		CHECK(!ret || ret == -EBUSY);
		if (!ret) {
			pgmap_folio_unlock(folio);
			pgmap_folio_put(folio);
		}
		for (int k = 0; k < 2; k++) {
			CHECK_EQ(pgmap_folio_pins(mine[k]), 1);
			CHECK_EQ(mine[k]->index, 1234);
		}
		free_pages();
	}
	for (uint64_t i = 0; i < 2; i++)
		pgmap_folio_unpin(mine[i]);
	free_pages();
	close_one(map);
}

TEST(R14_R63_what_it_has_not_handed_out_does_not_come_back_to_it)
{
	struct pgmap *map = open_one(2 * SUB);
	struct pgmap_folio *mine;

	pgmap_folio_put(get(0));
	CHECK_EQ(pgmap_get_folio(map, FAR + SUB + 5, 0, &mine), 0);
	pgmap_folio_unlock(mine);
	pgmap_folio_put(mine);
	CHECK_EQ(free_pages(), 2 * SUB);
	/* As if it had handed it out before the map was removed. */
	mine = get(0);
	pgmap_allocator_remove(a, map);
	CHECK_EQ(pgmap_allocator_add(a, map), -EBUSY);
	CHECK_EQ(free_pages(), 0);
	pgmap_folio_put(mine);
	CHECK_EQ(pgmap_allocator_add(a, map), 0);
	CHECK_EQ(free_pages(), 2 * SUB);
	close_one(map);
}

static _Atomic(bool) enough;

static void *get_until_enough(void *order)
{
	while (!enough) {
		struct pgmap_folio *folio;

		if (!pgmap_allocator_get(a, (unsigned int)(uintptr_t)order,
					 &folio)) {
			pgmap_folio_unlock(folio);
			pgmap_folio_put(folio);
		}
	}
	return NULL;
}

/* Who has looked which order that is must not enter with it later. */
TEST(R45_shards_have_blocks_of_one_order_whichever_map_comes)
{
	const char *broken;
	struct pgmap *map;
	pthread_t t[3];
	uint64_t nr;

	alarm(60);
	CHECK_EQ(pgmap_allocator_create(&a), 0);
	enough = false;
	for (uintptr_t i = 0; i < 3; i++)
		CHECK_EQ(pthread_create(
				 &t[i], NULL, get_until_enough,
				 (void *)(i ? 0 : (uintptr_t)PGMAP_PMD_ORDER)),
			 0);
	for (uint32_t i = 0; i < 400; i++) {
		map = map_with(FAR, 8 * SUB, i % 2 ? PGMAP_PMD_ORDER : 0, 0);
		CHECK_EQ(pgmap_allocator_add(a, map), 0);
		usleep(500);
		broken = pg_allocator_check(a, &nr);
		/* All but the three that are in use. */
		CHECK(!broken);
		CHECK(nr <= 8 * SUB && nr >= 8 * SUB - SUB - 2);
		pgmap_allocator_remove(a, map);
		CHECK_EQ(pgmap_allocator_nr_free(a), 0);
		CHECK_EQ(pgmap_destroy(map), 0);
	}
	enough = true;
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	pgmap_allocator_destroy(a);
	alarm(0);
}

TEST(R63_pages_of_a_map_that_it_never_had_are_nothing_to_it)
{
	struct pgmap *map = open_one(SUB);
	struct pgmap *other = map_with(FAR + GB, SUB, 0, 0);
	struct pgmap_folio *folio;

	CHECK_EQ(pgmap_get_folio(other, FAR + GB, 0, &folio), 0);
	pgmap_folio_unlock(folio);
	pgmap_folio_put(folio);
	pgmap_allocator_remove(a, other);
	CHECK_EQ(pg_allocator_used(a, other), 0);
	CHECK_EQ(free_pages(), SUB);
	CHECK_EQ(pgmap_destroy(other), 0);
	/* One that has nothing for it: its only folio is partly reserved. */
	other = map_with(FAR + GB, 2 * SUB, PGMAP_PMD_ORDER, 1);
	CHECK_EQ(pg_allocator_add_part(a, other, SUB), 0);
	CHECK_EQ(pg_allocator_used(a, other), 0);
	CHECK_EQ(free_pages(), SUB);
	for (uint64_t i = 0; i < SUB; i++)
		CHECK(pgmap_folio_map(get(0)) == map);
	CHECK_EQ(get_fails(0), -ENOSPC);
	for (uint64_t i = 0; i < SUB; i++)
		pgmap_folio_put(pg_map_head(map, FAR + i));
	pgmap_allocator_remove(a, other);
	CHECK_EQ(pgmap_destroy(other), 0);
	close_one(map);
}

TEST(a_part_of_a_map_is_a_part_of_its_ranges)
{
	struct pgmap_desc d = {
		.size = sizeof(d),
		.type = PGMAP_GENERIC,
		.nr_range = 2,
		.range = {{FAR, 2 * SUB}, {FAR + GB, SUB}},
		.ops = &(struct pgmap_ops){.size = sizeof(struct pgmap_ops),
					   .folio_free = folio_free},
	};
	static const uint64_t nr[] = {1, SUB, 2 * SUB, 2 * SUB + 7, 3 * SUB};
	struct pgmap *map;

	CHECK_EQ(pgmap_allocator_create(&a), 0);
	CHECK_EQ(pgmap_create(&d, &map), 0);
	for (size_t i = 0; i < sizeof(nr) / sizeof(nr[0]); i++) {
		CHECK_EQ(pg_allocator_add_part(a, map, nr[i]), 0);
		CHECK_EQ(free_pages(), nr[i]);
		for (uint64_t k = 0; k < nr[i]; k++)
			pgmap_folio_put(get(0));
		CHECK_EQ(free_pages(), nr[i]);
		pgmap_allocator_remove(a, map);
	}
	close_one(map);
}

/* ---- Blocks ---- */

TEST(R45_halves_become_whole_again_in_whatever_order_they_come_free)
{
	static struct pgmap_folio *folio[512];
	struct pgmap *map = open_one(GB);
	uint64_t seed = test_seed();

	for (int round = 0; round < 10; round++) {
		for (int i = 0; i < 512; i++)
			folio[i] = get(PGMAP_PMD_ORDER);
		CHECK_EQ(get_fails(0), -ENOSPC);
		for (uint64_t i = 512; i; i--) {
			uint64_t k = test_random(&seed) % i;

			pgmap_folio_put(folio[k]);
			folio[k] = folio[i - 1];
		}
		pgmap_folio_put(get(PGMAP_PUD_ORDER));
	}
	close_one(map);
}

TEST(R45_pages_at_hand_are_given_back_for_a_larger_folio)
{
	static struct pgmap_folio *folio[SUB];
	struct pgmap *map = open_one(SUB);

	for (uint64_t i = 0; i < SUB; i++)
		folio[i] = get(0);
	for (uint64_t i = 0; i < SUB; i++)
		pgmap_folio_put(folio[i]);
	CHECK_EQ(free_pages(), SUB);
	pgmap_folio_put(get(PGMAP_PMD_ORDER));
	close_one(map);
}

TEST(R62_R108_what_was_split_or_joined_meanwhile_is_whole_again)
{
	struct pgmap *map = open_one(SUB);
	struct pgmap_folio *folio = NULL, *piece[4];

	CHECK_EQ(pgmap_allocator_get(a, 6, &folio), 0);
	CHECK_EQ(pgmap_split_folio(folio, 4), 0);
	for (uint64_t i = 0; i < 4; i++) {
		piece[i] = pg_map_head(map, pgmap_folio_pfn(folio) + 16 * i);
		CHECK_EQ(pgmap_folio_order(piece[i]), 4);
	}
	CHECK_EQ(pgmap_construct_folio(map, pgmap_folio_pfn(piece[2]), 5,
				       &piece[2]),
		 0);
	for (int i = 0; i < 3; i++) {
		pgmap_folio_unlock(piece[i]);
		pgmap_folio_put(piece[i]);
	}
	pgmap_folio_put(get(PGMAP_PMD_ORDER));
	CHECK_EQ(free_pages(), SUB);
	close_one(map);
}

TEST(R44_pages_come_free_under_the_lock_of_a_page_table)
{
	struct pgmap *map = open_one(SUB);
	struct pgmap_folio *page = get(0), *folio = get(3);
	static struct pg_lock ptl;

	/* This build aborts where a lock is taken out of order. */
	pg_lock(&ptl, LOCK_PT);
	pgmap_folio_put(page);
	pgmap_folio_put(folio);
	pg_unlock(&ptl, LOCK_PT);
	CHECK_EQ(free_pages(), SUB);
	close_one(map);
}

/* Pages of the records of [pfn, pfn + nr) that are backed. */
static size_t backed(const struct pgmap *map, uint64_t pfn, uint64_t nr)
{
	static unsigned char vec[1u << 16];
	size_t len = nr * sizeof(struct pgmap_folio), n = 0;

	CHECK(len / PAGE <= sizeof(vec));
	CHECK_EQ(mincore((void *)pg_map_folio(map, pfn), len, vec), 0);
	for (size_t i = 0; i < len / PAGE; i++)
		n += vec[i] & 1;
	return n;
}

TEST(R194_pages_that_were_never_used_cost_nothing)
{
	struct pgmap *map = open_one(16 * GB);
	struct pgmap_folio *folio;

	CHECK_EQ(backed(map, FAR, 16 * GB), 0);
	CHECK_EQ(pg_allocator_used(a, map), 0);
	folio = get(0);
	/* The records of one block of 2 MB. */
	CHECK(backed(map, FAR, 16 * GB) <= 4);
	CHECK_EQ(pg_allocator_used(a, map), SUB);
	for (int i = 0; i < 1000; i++) {
		pgmap_folio_put(folio);
		folio = get((unsigned int)i % 8);
	}
	pgmap_folio_put(folio);
	CHECK(backed(map, FAR, 16 * GB) <= 4);
	CHECK_EQ(free_pages(), 16 * GB);
	close_one(map);
}

TEST(R182_a_bad_page_is_not_handed_out_until_it_is_good_again)
{
	static struct pgmap_folio *folio[SUB];
	struct pgmap *map = open_one(SUB);
	uint64_t bad[] = {FAR + 3, FAR + 300};

	/* One in a page at hand, one in a block. */
	pgmap_folio_put(get(0));
	for (int i = 0; i < 2; i++)
		pg_pfn_poison(map, bad[i], true);
	CHECK_EQ(get_fails(PGMAP_PMD_ORDER), -ENOSPC);
	for (uint64_t i = 0; i < SUB - 2; i++) {
		folio[i] = get(0);
		for (int k = 0; k < 2; k++)
			CHECK(pgmap_folio_pfn(folio[i]) != bad[k]);
	}
	CHECK_EQ(get_fails(0), -ENOSPC);
	CHECK_EQ(free_pages(), 0);
	pg_pfn_poison(map, bad[1], false);
	folio[SUB - 2] = get(0);
	CHECK_EQ(pgmap_folio_pfn(folio[SUB - 2]), bad[1]);
	for (uint64_t i = 0; i < SUB - 1; i++)
		pgmap_folio_put(folio[i]);
	CHECK_EQ(free_pages(), SUB - 1);
	pg_pfn_poison(map, bad[0], false);
	pgmap_folio_put(get(PGMAP_PMD_ORDER));
	CHECK_EQ(free_pages(), SUB);
	/* A map that is removed takes its bad pages along. */
	pg_pfn_poison(map, bad[0], true);
	CHECK_EQ(get_fails(PGMAP_PMD_ORDER), -ENOSPC);
	CHECK_EQ(free_pages(), SUB - 1);
	pgmap_allocator_remove(a, map);
	CHECK_EQ(free_pages(), 0);
	pg_pfn_poison(map, bad[0], false);
	CHECK_EQ(pgmap_allocator_add(a, map), 0);
	pgmap_folio_put(get(PGMAP_PMD_ORDER));
	close_one(map);
}

/* ---- Maps that go ---- */

TEST(R12_pages_of_a_dying_map_stay_free_and_the_next_map_is_asked)
{
	struct pgmap *map = open_one(SUB), *next;
	struct pgmap_folio *folio;

	pgmap_folio_put(get(0)); /* some are at hand */
	pgmap_kill(map);
	for (unsigned int o = 0; o < 3; o++)
		CHECK_EQ(get_fails(o), -ENODEV);
	CHECK_EQ(free_pages(), SUB);
	next = map_add(FAR + GB, SUB);
	for (unsigned int o = 0; o < 3; o++) {
		folio = get(o);
		CHECK(pgmap_folio_map(folio) == next);
		pgmap_folio_put(folio);
	}
	CHECK_EQ(free_pages(), 2 * SUB);
	pgmap_allocator_remove(a, next);
	CHECK_EQ(pgmap_destroy(next), 0);
	/* A map that dies before anything of it was used. */
	pgmap_allocator_remove(a, map);
	next = map_add(FAR + GB, SUB);
	pgmap_kill(next);
	CHECK_EQ(get_fails(0), -ENODEV);
	CHECK_EQ(free_pages(), SUB);
	pgmap_allocator_remove(a, next);
	CHECK_EQ(pgmap_destroy(next), 0);
	close_one(map);
}

TEST(R14_no_page_of_a_removed_map_comes_and_those_in_use_are_forgotten)
{
	struct pgmap *map = open_one(4 * SUB), *other;
	struct pgmap_folio *used[3] = {get(0), get(4), get(PGMAP_PMD_ORDER)};

	pgmap_folio_put(get(0));
	pgmap_allocator_remove(a, map);
	pgmap_allocator_remove(a, map);
	CHECK_EQ(free_pages(), 0);
	CHECK_EQ(get_fails(0), -ENOSPC);
	other = map_add(FAR + GB, SUB);
	CHECK_EQ(free_pages(), SUB);
	for (int i = 0; i < 3; i++)
		pgmap_folio_put(used[i]);
	CHECK_EQ(free_pages(), SUB);
	for (uint64_t i = 0; i < SUB; i++)
		CHECK(pgmap_folio_map(get(0)) == other);
	CHECK_EQ(get_fails(0), -ENOSPC);
	for (uint64_t i = 0; i < SUB; i++)
		pgmap_folio_put(pg_map_head(other, FAR + GB + i));
	/* Its pages are idle: the map can go, or come back. */
	CHECK_EQ(pgmap_allocator_add(a, map), 0);
	CHECK_EQ(free_pages(), 5 * SUB);
	pgmap_allocator_remove(a, other);
	CHECK_EQ(pgmap_destroy(other), 0);
	pgmap_folio_put(get(PGMAP_PMD_ORDER));
	close_one(map);
}

static _Atomic(bool) stop;

static void *get_and_put(void *arg)
{
	uint64_t seed = (uint64_t)(uintptr_t)arg;
	struct pgmap_folio *mine[40] = {NULL};

	while (!stop) {
		struct pgmap_folio **f = &mine[test_random(&seed) % 40];

		if (*f) {
			pgmap_folio_put(*f);
			*f = NULL;
		} else if (!pgmap_allocator_get(
				   a, test_random(&seed) % 4 ? 0 : 2, f)) {
			pgmap_folio_unlock(*f);
		}
	}
	for (int i = 0; i < 40; i++)
		if (mine[i])
			pgmap_folio_put(mine[i]);
	return NULL;
}

/* Which pages of [FAR, FAR + SUB) are in use? None but those that @were. */
static void look_who_is_used(bool were[SUB], bool *is)
{
	for (uint64_t i = 0; i < SUB; i++) {
		struct pgmap_folio *f = pgmap_tryget_pfn(FAR + i);

		if (is)
			is[i] = f;
		if (!f)
			continue;
		MUST(were[i]);
		pgmap_folio_put(f);
	}
}

TEST(R14_after_a_removal_not_one_page_follows)
{
	uint64_t seed = test_seed();
	bool all[SUB], used[SUB];
	pthread_t t[2];

	memset(all, true, sizeof(all));
	alarm(60);
	for (uint64_t round = 0; round < 100; round++) {
		struct pgmap *map = open_one(SUB), *stays;

		stays = map_add(FAR + GB, SUB);
		stop = false;
		for (uint64_t i = 0; i < 2; i++)
			CHECK_EQ(pthread_create(
					 &t[i], NULL, get_and_put,
					 (void *)(seed + 4 * round + 2 * i)),
				 0);
		usleep(500);
		pgmap_allocator_remove(a, map);
		/* A driver would bring these to RAM now, and no others. */
		look_who_is_used(all, used);
		usleep(100);
		look_who_is_used(used, NULL);
		stop = true;
		/* Ends when the threads have let go of what they had. */
		CHECK_EQ(pgmap_destroy(map), 0);
		for (int i = 0; i < 2; i++)
			pthread_join(t[i], NULL);
		CHECK_EQ(free_pages(), SUB);
		close_one(stays);
	}
	alarm(0);
}

/* ---- Threads ---- */

/* Who has a page, by page of the one map. */
static _Atomic(uint8_t) holder[8 * SUB];

static void take_pages(struct pgmap_folio *f, uint8_t who)
{
	uint64_t first = pgmap_folio_pfn(f) - FAR;

	for (uint64_t i = 0; i < 1ull << pgmap_folio_order(f); i++)
		MUST(atomic_exchange(&holder[first + i], who) == 0);
}

static void leave_pages(struct pgmap_folio *f, uint8_t who)
{
	uint64_t first = pgmap_folio_pfn(f) - FAR;

	for (uint64_t i = 0; i < 1ull << pgmap_folio_order(f); i++)
		MUST(atomic_exchange(&holder[first + i], 0) == who);
}

static _Atomic(uint64_t) handed_out;

static void *use_again(void *arg)
{
	uint8_t who = (uint8_t)(uintptr_t)arg;
	uint64_t seed = (uint64_t)(uintptr_t)arg, n = 0;
	struct pgmap_folio *mine[64] = {NULL};

	while (!stop) {
		struct pgmap_folio **f = &mine[test_random(&seed) % 64];
		unsigned int o = (unsigned int)(test_random(&seed) % 20);

		if (*f) {
			leave_pages(*f, who);
			pgmap_folio_put(*f);
			*f = NULL;
		} else if (!pgmap_allocator_get(a, o < 11 ? o : 0, f)) {
			MUST(pgmap_folio_order(*f) == (o < 11 ? o : 0));
			take_pages(*f, who);
			pgmap_folio_unlock(*f);
			n++;
		}
	}
	for (int i = 0; i < 64; i++)
		if (mine[i]) {
			leave_pages(mine[i], who);
			pgmap_folio_put(mine[i]);
		}
	handed_out += n;
	return NULL;
}

/* Whoever finds a page by its number finds it in a folio that has it. */
static void look_at_pages(uint64_t *seed)
{
	for (int i = 0; i < 100; i++) {
		uint64_t pfn = FAR + test_random(seed) % (8 * SUB);
		struct pgmap_folio *f = pgmap_tryget_pfn(pfn);
		uint64_t first;

		if (!f)
			continue;
		first = pgmap_folio_pfn(f);
		MUST(pfn >= first &&
		     pfn - first < 1ull << pgmap_folio_order(f));
		pgmap_folio_put(f);
	}
}

TEST(N5_N16_R30_pages_change_hands_and_orders_and_are_never_had_twice)
{
	struct pgmap *map = open_one(8 * SUB);
	uint64_t seed = test_seed(), nr, seen = 0;
	pthread_t t[2];

	stop = false;
	handed_out = 0;
	for (uint64_t i = 0; i < 2; i++)
		CHECK_EQ(
			pthread_create(&t[i], NULL, use_again,
				       (void *)(seed % 1000 * 256 + 2 * i + 1)),
			0);
	alarm(60);
	for (int i = 0; i < 3000 || seen < 1000; i++) {
		MUST(!pg_allocator_check(a, &nr));
		seen += nr;
		look_at_pages(&seed);
		if (i % 16 == 0)
			sched_yield();
	}
	alarm(0);
	stop = true;
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	CHECK(handed_out > 1000);
	CHECK_EQ(free_pages(), 8 * SUB);
	pgmap_folio_put(get(12));
	close_one(map);
}

static pthread_barrier_t barrier;

static void *take_half(void *arg)
{
	struct pgmap_folio *folio = NULL;

	for (int i = 0; i < 5000; i++) {
		pthread_barrier_wait(&barrier);
		MUST(!pgmap_allocator_get(a, 8, &folio));
		MUST(pgmap_folio_order(folio) == 8);
		MUST(pgmap_folio_count(folio) == 1);
		MUST((pgmap_folio_pfn(folio) & 255) == 0);
		pgmap_folio_unlock(folio);
		take_pages(folio, 1);
		pthread_barrier_wait(&barrier);
		leave_pages(folio, 1);
		pgmap_folio_put(folio);
		pthread_barrier_wait(&barrier);
		/* The whole, so that its record has seen order 9. */
		if (arg) {
			MUST(!pgmap_allocator_get(a, 9, &folio));
			pgmap_folio_unlock(folio);
			pgmap_folio_put(folio);
		}
	}
	return NULL;
}

TEST(R37_two_threads_take_the_halves_of_what_was_one)
{
	struct pgmap *map = open_one(SUB);
	pthread_t t;

	pthread_barrier_init(&barrier, NULL, 2);
	alarm(60);
	CHECK_EQ(pthread_create(&t, NULL, take_half, NULL), 0);
	take_half(&t);
	pthread_join(t, NULL);
	alarm(0);
	pthread_barrier_destroy(&barrier);
	CHECK_EQ(free_pages(), SUB);
	close_one(map);
}

/* ---- Against the simplest model ---- */

#define NR_HELD 400

static struct model {
	struct pgmap *map;
	uint64_t pfn, nr;
	uint8_t *used; /* by page */
} model[2];

static bool model_has_room(unsigned int order)
{
	uint64_t nr = 1ull << order;

	for (int m = 0; m < 2; m++) {
		uint64_t at = (model[m].pfn + nr - 1) & ~(nr - 1);

		for (; at + nr <= model[m].pfn + model[m].nr; at += nr) {
			uint8_t *p = model[m].used + (at - model[m].pfn);

			if (!memchr(p, 1, nr))
				return true;
		}
	}
	return false;
}

static void model_set(struct pgmap_folio *f, uint8_t to)
{
	struct model *m = &model[pgmap_folio_map(f) == model[1].map];
	uint64_t first = pgmap_folio_pfn(f) - m->pfn;
	uint64_t nr = 1ull << pgmap_folio_order(f);

	CHECK(first + nr <= m->nr);
	CHECK(!memchr(m->used + first, to, nr));
	memset(m->used + first, to, nr);
}

/* An order; small ones, and those of the CPU's entries, more often. */
static unsigned int some_order(uint64_t *seed)
{
	uint64_t r = test_random(seed);

	if (r % 4 == 0)
		return 0;
	if (r % 4 == 1)
		return r / 4 % 8 ? PGMAP_PMD_ORDER : PGMAP_PUD_ORDER;
	return (unsigned int)(r / 4 % (PGMAP_MAX_ORDER + 1));
}

TEST(R45_whatever_is_free_can_be_had)
{
	static struct pgmap_folio *held[NR_HELD];
	uint64_t seed = test_seed(), in_use = 0, refused = 0, all;

	CHECK_EQ(pgmap_allocator_create(&a), 0);
	model[0] = (struct model){.pfn = FAR + 3 * SUB, .nr = 5 * SUB};
	model[1] = (struct model){.pfn = FAR + 4 * GB - 7 * SUB,
				  .nr = GB + 30 * SUB};
	all = model[0].nr + model[1].nr;
	for (int m = 0; m < 2; m++) {
		model[m].map = map_add(model[m].pfn, model[m].nr);
		model[m].used = calloc(1, model[m].nr);
	}
	for (int step = 0; step < 60000; step++) {
		struct pgmap_folio **f = &held[test_random(&seed) % NR_HELD];
		unsigned int o = some_order(&seed);

		if (*f) {
			model_set(*f, 0);
			in_use -= 1ull << pgmap_folio_order(*f);
			pgmap_folio_put(*f);
			*f = NULL;
		} else if (!pgmap_allocator_get(a, o, f)) {
			pgmap_folio_unlock(*f);
			CHECK_EQ(pgmap_folio_order(*f), o);
			model_set(*f, 1);
			in_use += 1ull << o;
		} else {
			CHECK(!*f);
			CHECK(!model_has_room(o));
			refused++;
		}
		if (step % 64 == 0)
			CHECK_EQ(free_pages(), all - in_use);
	}
	CHECK(refused > 100);
	for (int i = 0; i < NR_HELD; i++) {
		if (held[i])
			pgmap_folio_put(held[i]);
		held[i] = NULL;
	}
	CHECK_EQ(free_pages(), all);
	pgmap_allocator_remove(a, model[0].map);
	CHECK_EQ(pgmap_destroy(model[0].map), 0);
	close_one(model[1].map);
	for (int m = 0; m < 2; m++)
		free(model[m].used);
}

/* ---- The check itself ---- */

static bool notices(const char *rule)
{
	uint64_t nr;
	const char *broken = pg_allocator_check(a, &nr);

	return broken && strstr(broken, rule) == broken;
}

TEST(the_check_notices_lists_that_are_wrong)
{
	struct pgmap *map = open_one(4 * SUB);
	struct pgmap_folio *used = get(3), *f;
	struct pg_alloc_map *m = a->maps;
	unsigned int o = 3;
	uint64_t first = m->free[o], fresh = m->range[0].fresh, all;

	CHECK(first);
	f = pg_map_folio(map, first);
	all = a->nr_free;
	a->nr_free = 1;
	CHECK(notices("R45"));
	a->nr_free = all;
	m->free[o] = first + 1; /* not aligned */
	CHECK(notices("R45"));
	m->free[o] = first;
	pg_store(&m->range[0].fresh, first, relaxed); /* not ours */
	CHECK(notices("R45"));
	pg_store(&m->range[0].fresh, first + 1, relaxed);
	CHECK(notices("R45"));
	pg_store(&m->range[0].fresh, fresh, relaxed);
	f->flags ^= 1u << PG_FOLIO_LISTED_SHIFT;
	CHECK(notices("R45"));
	f->flags ^= 1u << PG_FOLIO_LISTED_SHIFT;
	f->index++;
	CHECK(notices("R45"));
	f->index--;
	pg_store(&f->count, 1, relaxed);
	CHECK(notices("R30"));
	pg_store(&f->count, 0, relaxed);
	pgmap_folio_put(used);
	CHECK_EQ(free_pages(), 4 * SUB);
	close_one(map);
}

TEST(the_check_notices_blocks_at_hand_that_are_wrong)
{
	struct pgmap *map = open_one(4 * SUB), *second = map_add(FAR + GB, SUB);
	struct pg_alloc_shard *s = a->shard;
	uint64_t id = (uint64_t)pg_map_id(map) << 40, listed;

	pgmap_folio_put(get(3));
	listed = a->maps->free[PGMAP_PMD_ORDER];
	s->nr = 1;
	s->block[0] = 1000ull << 40 | FAR; /* no such map */
	CHECK(notices("R14"));
	s->block[0] = id | listed;
	CHECK(notices("R45"));
	s->nr = 0;
	s->nr_run = 2;
	s->run = id | (listed - 1);
	CHECK(notices("R45"));
	s->nr_run = 0;
	/* Removed, but not from here. */
	pgmap_allocator_remove(a, second);
	s->nr = 2;
	s->block[0] = s->block[1] =
		(uint64_t)pg_map_id(second) << 40 | (FAR + GB);
	CHECK(notices("R14"));
	s->nr = 0;
	CHECK_EQ(free_pages(), 4 * SUB);
	CHECK_EQ(pgmap_destroy(second), 0);
	close_one(map);
}

static void free_again(void)
{
	struct pgmap_folio *folio = get(3);

	pgmap_folio_put(folio);
	pgmap_allocator_free(a, folio);
}

TEST(R55_what_is_free_cannot_come_free)
{
	struct pgmap *map = open_one(SUB);

	CHECK(dies(free_again));
	close_one(map);
}

/* ---- Without memory ---- */

TEST(without_memory_there_is_no_allocator_and_no_map_in_it)
{
	struct pgmap *map = map_with(FAR, SUB, 0, 0);

	pg_mem_fail_nth(1);
	CHECK_EQ(pgmap_allocator_create(&a), -ENOMEM);
	CHECK_EQ(pgmap_allocator_create(&a), 0);
	pg_mem_fail_nth(1);
	CHECK_EQ(pgmap_allocator_add(a, map), -ENOMEM);
	CHECK_EQ(get_fails(0), -ENOSPC);
	CHECK_EQ(pgmap_allocator_add(a, map), 0);
	CHECK_EQ(free_pages(), SUB);
	close_one(map);
	pgmap_allocator_destroy(NULL);
}

TEST_MAIN()
