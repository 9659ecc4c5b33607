/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Folios: the one way up from 0 and the one way down.
 */
#include "world.h"

#define SUB ((uint64_t)PGMAP_SUBSECTION_PAGES)

static struct pgmap *map;
static uint64_t first;

/* What folio_free saw, and what it is to do. */
static struct pgmap_folio *freed_folio;
static unsigned int freed_order, nr_freed;
static void (*in_free)(struct pgmap_folio *folio);

static void on_free(struct pgmap_folio *folio)
{
	freed_folio = folio;
	freed_order = pgmap_folio_order(folio);
	nr_freed++;
	if (in_free)
		in_free(folio);
}

static int no_fault(struct pgmap_fault *fault)
{
	(void)fault;
	return 0;
}

static void map_open(uint64_t nr)
{
	static const struct pgmap_ops ops = {
		.size = sizeof(ops),
		.folio_free = on_free,
		.migrate_to_ram = no_fault,
	};
	struct pgmap_desc d = {
		.size = sizeof(d),
		.type = PGMAP_PRIVATE,
		.nr_range = 1,
		.range = {{0, nr}},
		.ops = &ops,
		.owner = &first,
	};
	struct pgmap_range r;

	nr_freed = 0;
	in_free = NULL;
	CHECK_EQ(pgmap_create(&d, &map), 0);
	CHECK_EQ(pgmap_range_get(map, 0, &r), 0);
	first = r.pfn;
}

static void map_close(void)
{
	CHECK_EQ(pg_map_refs(map), 0);
	CHECK_EQ(pgmap_destroy(map), 0);
}

static struct pgmap_folio *get(uint64_t i, unsigned int order)
{
	struct pgmap_folio *folio = NULL;

	CHECK_EQ(pgmap_get_folio(map, first + i, order, &folio), 0);
	pgmap_folio_unlock(folio);
	return folio;
}

static struct pgmap_folio *rec(uint64_t i)
{
	return pg_map_folio(map, first + i);
}

TEST(R30_counts_are_zero_at_the_start_and_after_every_free)
{
	map_open(SUB);
	for (uint64_t i = 0; i < SUB; i++)
		CHECK_EQ(pgmap_folio_count(rec(i)), 0);
	for (unsigned int o = 0; o <= PGMAP_MAX_ORDER; o++) {
		struct pgmap_folio *folio = get(0, o);

		CHECK_EQ(pgmap_folio_count(folio), 1);
		for (uint64_t i = 1; i < SUB; i++)
			CHECK_EQ(pgmap_folio_count(rec(i)), 0);
		pgmap_folio_put(folio);
		CHECK_EQ(pgmap_folio_count(folio), 0);
	}
	map_close();
}

#define CONTENDERS 3
#define ROUNDS 1000
static _Atomic(int) winners, losers, round_nr;

static void *request_thread(void *arg)
{
	(void)arg;
	for (int r = 1; r <= ROUNDS; r++) {
		struct pgmap_folio *folio = NULL;
		int ret;

		for (int spin = 0; round_nr < r; spin++)
			if (spin > 1000)
				sched_yield();
		ret = pgmap_get_folio(map, first, 0, &folio);
		MUST(ret == 0 || ret == -EBUSY);
		if (!ret)
			winners++;
		else
			losers++;
	}
	return NULL;
}

TEST(R33_of_many_who_request_a_page_one_gets_it)
{
	pthread_t t[CONTENDERS];

	map_open(SUB);
	winners = losers = round_nr = 0;
	for (int i = 0; i < CONTENDERS; i++)
		CHECK_EQ(pthread_create(&t[i], NULL, request_thread, NULL), 0);
	for (int r = 1; r <= ROUNDS; r++) {
		round_nr = r;
		while (winners + losers < CONTENDERS * r)
			sched_yield();
		MUST(winners == r);
		MUST(pgmap_folio_count(rec(0)) == 1);
		MUST(pg_map_refs(map) == 1);
		pgmap_folio_unlock(rec(0));
		pgmap_folio_put(rec(0));
	}
	for (int i = 0; i < CONTENDERS; i++)
		pthread_join(t[i], NULL);
	map_close();
}

TEST(R34_nobody_takes_a_reference_on_an_idle_page_or_a_tail)
{
	struct pgmap_folio *folio;

	map_open(SUB);
	CHECK(!pgmap_folio_tryget(rec(0)));
	CHECK_EQ(pgmap_folio_count(rec(0)), 0);
	folio = get(8, 3);
	CHECK(pgmap_folio_tryget(folio));
	CHECK_EQ(pgmap_folio_count(folio), 2);
	for (uint64_t i = 9; i < 16; i++)
		CHECK(!pgmap_folio_tryget(rec(i)));
	pgmap_folio_put(folio);
	pgmap_folio_put(folio);
	CHECK(!pgmap_folio_tryget(folio));
	CHECK_EQ(nr_freed, 1);
	map_close();
}

/* Every page of a folio of @order at @i leads to it, and no other. */
static void check_folio(uint64_t i, unsigned int order)
{
	struct pgmap_folio *folio = rec(i);

	CHECK_EQ(pgmap_folio_order(folio), order);
	CHECK_EQ(pgmap_folio_pfn(folio), first + i);
	CHECK(pgmap_folio_map(folio) == map);
	CHECK_EQ(folio->mapping, 0);
	for (uint64_t k = 0; k < 1u << order; k++) {
		CHECK(pg_map_head(map, first + i + k) == folio);
		CHECK_EQ(pgmap_folio_count(rec(i + k)), k == 0);
	}
}

static void one_life(unsigned int order)
{
	for (uint64_t i = 0; i < SUB; i += 1u << order)
		get(i, order);
	for (uint64_t i = 0; i < SUB; i += 1u << order)
		check_folio(i, order);
	for (uint64_t i = 0; i < SUB; i += 1u << order)
		pgmap_folio_put(rec(i));
}

TEST(R35_a_page_forgets_its_last_life)
{
	static const unsigned int lives[] = {9, 0, 4, 9, 1, 8, 0, 9};

	map_open(SUB);
	for (size_t i = 0; i < sizeof(lives) / sizeof(lives[0]); i++)
		one_life(lives[i]);
	map_close();
}

TEST(R35_folios_of_all_orders_live_side_by_side)
{
	uint64_t seed = test_seed();
	unsigned int order[512] = {0};
	bool used[512] = {false};

	map_open(SUB);
	for (int step = 0; step < 20000; step++) {
		unsigned int o = (unsigned int)(test_random(&seed) % 6);
		uint64_t i = test_random(&seed) % SUB;
		bool free = true;

		if (used[i] && pgmap_folio_count(rec(i))) {
			check_folio(i, order[i]);
			pgmap_folio_put(rec(i));
			for (uint64_t k = 0; k < 1u << order[i]; k++)
				used[i + k] = false;
			continue;
		}
		i &= ~((1ull << o) - 1);
		for (uint64_t k = 0; k < 1u << o; k++)
			free = free && !used[i + k];
		if (!free)
			continue;
		get(i, o);
		order[i] = o;
		check_folio(i, o);
		for (uint64_t k = 0; k < 1u << o; k++)
			used[i + k] = true;
	}
	for (uint64_t i = 0; i < SUB; i++)
		if (pgmap_folio_count(rec(i)))
			pgmap_folio_put(rec(i));
	map_close();
}

TEST(R36_a_page_comes_locked_with_one_reference_and_unmapped)
{
	struct pgmap_folio *folio;

	map_open(SUB);
	CHECK_EQ(pgmap_get_folio(map, first + 4, 2, &folio), 0);
	CHECK(pg_folio_is_locked(folio));
	CHECK(!pgmap_folio_trylock(folio));
	CHECK_EQ(pgmap_folio_count(folio), 1);
	CHECK_EQ(folio->mapping, 0);
	CHECK_EQ(folio->index, 0);
	CHECK_EQ(pg_load(&folio->mapcount, relaxed), 0);
	pgmap_folio_unlock(folio);
	CHECK(pgmap_folio_trylock(folio));
	pgmap_folio_unlock(folio);
	pgmap_folio_put(folio);
	map_close();
}

TEST(R39_R45_folio_free_gets_the_whole_folio_once)
{
	map_open(SUB);
	for (unsigned int o = 0; o <= PGMAP_MAX_ORDER; o++) {
		struct pgmap_folio *folio = get(0, o);

		pgmap_folio_get(folio);
		pgmap_folio_put(folio);
		CHECK_EQ(nr_freed, o);
		pgmap_folio_put(folio);
		CHECK_EQ(nr_freed, o + 1);
		CHECK(freed_folio == folio);
		CHECK_EQ(freed_order, o);
	}
	map_close();
}

/* The next life begins before the last one has quite ended. */

static unsigned int next_order;

static void hand_out_again(struct pgmap_folio *folio)
{
	struct pgmap_folio *again;

	in_free = NULL;
	MUST(!pgmap_get_folio(map, pgmap_folio_pfn(folio), next_order, &again));
	pgmap_folio_get(again);
	again->mapping = 0x1234;
	again->index = 0x5678;
}

TEST(N1_R40_nothing_touches_a_page_after_it_was_given_away)
{
	struct pgmap_folio *folio;

	map_open(SUB);
	folio = get(8, 3);
	next_order = 3;
	in_free = hand_out_again;
	pgmap_folio_put(folio);
	CHECK_EQ(nr_freed, 1);
	CHECK_EQ(pgmap_folio_count(folio), 2);
	CHECK(pg_folio_is_locked(folio));
	CHECK_EQ(pgmap_folio_order(folio), 3);
	CHECK_EQ(folio->mapping, 0x1234);
	CHECK_EQ(folio->index, 0x5678);
	CHECK_EQ(pg_map_refs(map), 8);
	pgmap_folio_unlock(folio);
	pg_folio_put_many(folio, 2);
	map_close();
}

TEST(N20_R38_what_a_free_drops_is_what_was_taken)
{
	struct pgmap_folio *folio;

	map_open(SUB);
	for (unsigned int o = 0; o <= PGMAP_MAX_ORDER; o++)
		for (next_order = 0; next_order <= PGMAP_MAX_ORDER;
		     next_order++) {
			folio = get(0, o);
			in_free = hand_out_again;
			pgmap_folio_put(folio);
			CHECK_EQ(pg_map_refs(map), 1u << next_order);
			CHECK_EQ(pgmap_folio_order(folio), next_order);
			CHECK_EQ(pgmap_folio_count(folio), 2);
			pgmap_folio_unlock(folio);
			pg_folio_put_many(folio, 2);
			CHECK_EQ(pg_map_refs(map), 0);
		}
	map_close();
}

static uint64_t mapping_at_free;

static void look_at_mapping(struct pgmap_folio *folio)
{
	mapping_at_free = folio->mapping;
}

TEST(R46_the_mapping_is_gone_at_free_and_at_hand_out)
{
	struct pgmap_folio *folio;

	map_open(SUB);
	folio = get(0, 0);
	folio->mapping = 0x1234;
	folio->index = 7;
	in_free = look_at_mapping;
	mapping_at_free = 1;
	pgmap_folio_put(folio);
	CHECK_EQ(mapping_at_free, 0);
	/* An allocator may have used the words meanwhile. */
	folio->mapping = 0x4321;
	folio->index = 9;
	folio = get(0, 0);
	CHECK_EQ(folio->mapping, 0);
	CHECK_EQ(folio->index, 0);
	pgmap_folio_put(folio);
	map_close();
}

TEST(R47_a_frozen_folio_is_not_free_and_takes_no_reference)
{
	struct pgmap_folio *folio;

	map_open(SUB);
	folio = get(0, 4);
	pgmap_folio_get(folio);
	CHECK(pg_folio_freeze(folio, 2));
	CHECK_EQ(pgmap_folio_count(folio), 0);
	CHECK(!pgmap_folio_tryget(folio));
	CHECK_EQ(nr_freed, 0);
	CHECK(pg_map_head(map, first + 15) == folio);
	CHECK_EQ(pg_map_refs(map), 16);
	pg_folio_unfreeze(folio, 2);
	CHECK(pgmap_folio_tryget(folio));
	CHECK_EQ(pgmap_folio_count(folio), 3);
	pg_folio_put_many(folio, 3);
	CHECK_EQ(nr_freed, 1);
	map_close();
}

TEST(R48_a_freeze_fails_when_there_is_a_reference_too_many)
{
	struct pgmap_folio *folio;

	map_open(SUB);
	folio = get(0, 0);
	pgmap_folio_get(folio);
	CHECK(!pg_folio_freeze(folio, 1));
	CHECK(!pg_folio_freeze(folio, 3));
	CHECK(!pg_folio_freeze(folio, 0));
	CHECK_EQ(pgmap_folio_count(folio), 2);
	pg_folio_put_many(folio, 2);
	map_close();
}

/* ---- What must not happen ---- */

static struct pgmap_folio *victim;

static void put_once_more(void)
{
	pgmap_folio_put(victim);
}

static void get_an_idle_one(void)
{
	pgmap_folio_get(victim);
}

static void unlock_again(void)
{
	pgmap_folio_unlock(victim);
}

static void put_too_many(void)
{
	pg_folio_put_many(victim, 2);
}

static void nothing(void)
{
}

TEST(R55_wrong_counting_ends_the_process)
{
	map_open(SUB);
	CHECK(!dies(nothing));
	victim = get(0, 2);
	CHECK(dies(put_too_many));
	CHECK(dies(unlock_again));
	pgmap_folio_put(victim);
	CHECK(dies(put_once_more));
	CHECK(dies(get_an_idle_one));
	map_close();
}

/* ---- Locking ---- */

static _Atomic(int) inside, turns;

static void *lock_thread(void *arg)
{
	struct pgmap_folio *folio = arg;

	for (int i = 0; i < 20000; i++) {
		pg_folio_lock(folio);
		MUST(inside++ == 0);
		turns++;
		MUST(--inside == 0);
		pgmap_folio_unlock(folio);
	}
	return NULL;
}

TEST(the_lock_of_a_folio_lets_one_in)
{
	pthread_t t[3];

	map_open(SUB);
	alarm(60);
	victim = get(0, 0);
	turns = 0;
	for (int i = 0; i < 3; i++)
		CHECK_EQ(pthread_create(&t[i], NULL, lock_thread, victim), 0);
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	alarm(0);
	CHECK_EQ(turns, 60000);
	CHECK(!pg_folio_is_locked(victim));
	pgmap_folio_put(victim);
	map_close();
}

TEST_MAIN()
