/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Folios: the one way up from 0 and the one way down.
 */
#include <signal.h>
#include <sys/mman.h>

#include "asleep.h"
#include "world.h"

#define SUB ((uint64_t)PGMAP_SUBSECTION_PAGES)

static struct pgmap *map;
static uint64_t first;

/* What folio_free saw, and what it is to do. */
static struct pgmap_folio *_Atomic freed_folio;
static _Atomic(unsigned int) freed_order, nr_freed;
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

static struct pgmap_folio *split_head, *split_tails[600];
static unsigned int nr_split;

static void on_split(struct pgmap_folio *head, struct pgmap_folio *tail)
{
	split_head = head;
	split_tails[nr_split++ % 600] = tail;
}

static void map_open_as(enum pgmap_type type, uint64_t nr, uint32_t folio_order)
{
	static const struct pgmap_ops ops = {
		.size = sizeof(ops),
		.folio_free = on_free,
		.migrate_to_ram = no_fault,
		.folio_split = on_split,
	};
	struct pgmap_desc d = {
		.size = sizeof(d),
		.type = type,
		.nr_range = 1,
		.range = {{0, nr}},
		.ops = &ops,
		.owner = &first,
		.folio_order = folio_order,
	};
	struct pgmap_range r;

	nr_freed = 0;
	nr_split = 0;
	in_free = NULL;
	CHECK_EQ(pgmap_create(&d, &map), 0);
	CHECK_EQ(pgmap_range_get(map, 0, &r), 0);
	first = r.pfn;
}

static void map_open(uint64_t nr)
{
	map_open_as(PGMAP_PRIVATE, nr, 0);
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
	for (unsigned int o = 0; o <= PGMAP_PMD_ORDER; o++) {
		struct pgmap_folio *folio = get(0, o);

		CHECK_EQ(pgmap_folio_count(folio), 1);
		for (uint64_t i = 1; i < SUB; i++)
			CHECK_EQ(pgmap_folio_count(rec(i)), 0);
		pgmap_folio_put(folio);
		CHECK_EQ(pgmap_folio_count(folio), 0);
	}
	map_close();
}

TEST(R31_R53_pages_of_every_type_rest_at_zero)
{
	for (enum pgmap_type t = PGMAP_PRIVATE; t <= PGMAP_PCI_P2PDMA; t++) {
		map_open_as(t, SUB, 0);
		for (unsigned int o = 0; o <= PGMAP_PMD_ORDER; o++) {
			struct pgmap_folio *folio = get(0, o);

			CHECK_EQ(pgmap_folio_count(folio), 1);
			CHECK_EQ(pg_map_refs(map), 1u << o);
			pgmap_folio_put(folio);
			CHECK_EQ(pgmap_folio_count(folio), 0);
			CHECK_EQ(pg_map_refs(map), 0);
			CHECK_EQ(nr_freed, o + 1);
		}
		map_close();
	}
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

TEST(R35_R60_a_folio_may_have_a_gigabyte)
{
	uint64_t gb = 1ull << PGMAP_PUD_ORDER;
	struct pgmap_folio *folio, *no;

	map_open(2 * gb);
	folio = get(gb, PGMAP_PUD_ORDER);
	CHECK_EQ(pgmap_folio_order(folio), PGMAP_PUD_ORDER);
	CHECK_EQ(pgmap_folio_pfn(folio), first + gb);
	CHECK_EQ(pg_map_refs(map), gb);
	for (uint64_t i = gb; i < 2 * gb; i += 4099) {
		CHECK(pgmap_tryget_pfn(first + i) == folio);
		pgmap_folio_put(folio);
		CHECK_EQ(pgmap_get_folio(map, first + i, 0, &no), -EBUSY);
	}
	CHECK(!pgmap_tryget_pfn(first + gb - 1));
	pgmap_folio_put(folio);
	/* And in its place what it was not made of before. */
	one_life(9);
	folio = get(0, PGMAP_PUD_ORDER);
	CHECK_EQ(pgmap_get_folio(map, first + 512, 9, &no), -EBUSY);
	pgmap_folio_put(folio);
	map_close();
}

static void *halves_thread(void *arg)
{
	uint64_t half = (uintptr_t)arg, seed = half + 1;

	for (int i = 0; i < 3000; i++) {
		unsigned int o = (unsigned int)(test_random(&seed) % 9);
		struct pgmap_folio *folio;
		uint64_t at = first + half * 256;

		MUST(!pgmap_get_folio(map, at, o, &folio));
		MUST(pgmap_folio_order(folio) == o);
		MUST(pg_map_head(map, at + (1u << o) - 1) == folio);
		MUST(pgmap_folio_pfn(folio) == at);
		pgmap_folio_unlock(folio);
		pgmap_folio_put(folio);
	}
	return NULL;
}

TEST(R37_the_halves_of_a_freed_folio_are_handed_out_beside_each_other)
{
	pthread_t t[2];

	map_open(SUB);
	pgmap_folio_put(get(0, 9));
	/* One half in use, the other one handed out: by a page that was the
	 * head of both. */
	get(256, 8);
	pgmap_folio_put(get(0, 0));
	check_folio(256, 8);
	pgmap_folio_put(rec(256));
	for (uintptr_t i = 0; i < 2; i++)
		CHECK_EQ(pthread_create(&t[i], NULL, halves_thread, (void *)i),
			 0);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	map_close();
}

/* ---- Readers while folios change ---- */

static _Atomic(bool) stop;

/* A folio that is found by its page has that page, whatever happens to it. */
static void *find_thread(void *arg)
{
	uint64_t seed = (uintptr_t)arg + 1, found = 0;

	while (!stop) {
		uint64_t pfn = first + test_random(&seed) % SUB, head;
		struct pgmap_folio *folio = pgmap_tryget_pfn(pfn);

		if (!folio)
			continue;
		found++;
		head = pgmap_folio_pfn(folio);
		MUST(pgmap_folio_count(folio) >= 1);
		MUST(pgmap_folio_map(folio) == map);
		MUST(pfn >= head &&
		     pfn - head < 1u << pgmap_folio_order(folio));
		MUST(pg_map_head(map, pfn) == folio);
		pgmap_folio_put(folio);
	}
	return (void *)(uintptr_t)found;
}

static uint64_t with_finders(void (*f)(uint64_t *seed))
{
	uint64_t seed = test_seed(), n = 0;
	pthread_t t[2];

	stop = false;
	for (uintptr_t i = 0; i < 2; i++)
		CHECK_EQ(pthread_create(&t[i], NULL, find_thread, (void *)i),
			 0);
	f(&seed);
	stop = true;
	for (int i = 0; i < 2; i++) {
		void *found;

		pthread_join(t[i], &found);
		n += (uintptr_t)found;
	}
	return n;
}

/* pgmap_get_folio() for when a reader may have the last reference. */
static struct pgmap_folio *take(uint64_t i, unsigned int order)
{
	struct pgmap_folio *folio = NULL;
	int ret;

	while ((ret = pgmap_get_folio(map, first + i, order, &folio)) == -EBUSY)
		sched_yield();
	MUST(!ret);
	return folio;
}

static void reuse_at_other_orders(uint64_t *seed)
{
	for (int i = 0; i < 500; i++) {
		unsigned int o = (unsigned int)(test_random(seed) % 10);

		for (uint64_t k = 0; k < SUB; k += 1u << o) {
			struct pgmap_folio *folio = take(k, o);

			MUST(pg_folio_is_locked(folio));
			pgmap_folio_unlock(folio);
		}
		sched_yield();
		for (uint64_t k = 0; k < SUB; k += 1u << o)
			pgmap_folio_put(rec(k));
	}
}

TEST(N16_R102_a_reader_never_gets_a_folio_that_has_not_the_page_it_asked_for)
{
	map_open(SUB);
	printf("# found %ju\n", (uintmax_t)with_finders(reuse_at_other_orders));
	map_close();
}

static void split_and_join(uint64_t *seed)
{
	for (int i = 0; i < 20000; i++) {
		unsigned int o = (unsigned int)(1 + test_random(seed) % 9), to;
		struct pgmap_folio *folio = take(0, o);

		to = (unsigned int)(test_random(seed) % o);
		while (pgmap_split_folio(folio, to))
			sched_yield();
		if (i % 2)
			while (pgmap_construct_folio(map, first, o, &folio))
				sched_yield();
		for (uint64_t k = 0; k < 1u << o;
		     k += i % 2 ? 1u << o : 1u << to) {
			MUST(pg_folio_is_locked(rec(k)));
			pgmap_folio_unlock(rec(k));
			pgmap_folio_put(rec(k));
		}
	}
}

TEST(N52_R47_a_reader_beside_a_split_gets_the_right_head_or_none)
{
	map_open(SUB);
	printf("# found %ju\n", (uintmax_t)with_finders(split_and_join));
	map_close();
}

TEST(N17_each_live_page_is_found_whatever_the_pages_before_it_were_once)
{
	unsigned int found = 0;

	map_open(SUB);
	/* Stale heads of order 9 and 4, and among them folios in use. */
	pgmap_folio_put(get(0, 9));
	pgmap_folio_put(get(16, 4));
	get(17, 0);
	get(20, 2);
	get(511, 0);
	for (uint64_t i = 0; i < SUB; i++) {
		struct pgmap_folio *folio = pgmap_tryget_pfn(first + i);

		if (!folio)
			continue;
		found++;
		CHECK(i == 17 || (i >= 20 && i < 24) || i == 511);
		CHECK(folio == rec(i < 20 || i > 23 ? i : 20));
		pgmap_folio_put(folio);
	}
	CHECK_EQ(found, 6);
	pgmap_folio_put(rec(17));
	pgmap_folio_put(rec(20));
	pgmap_folio_put(rec(511));
	map_close();
}

static _Atomic(uint64_t) at_page;

static void *look_at_new_folios(void *arg)
{
	(void)arg;
	while (!stop) {
		struct pgmap_folio *folio = rec(at_page);

		if (!pgmap_folio_tryget(folio))
			continue;
		/* All of it is there as soon as the count is. */
		MUST(pgmap_folio_order(folio) == 3);
		MUST(pgmap_folio_map(folio) == map);
		MUST(pgmap_folio_reserved(folio));
		pgmap_folio_put(folio);
	}
	return NULL;
}

TEST(R35_who_gets_a_reference_sees_a_folio_that_is_complete)
{
	pthread_t t;

	map_open(64 * SUB);
	stop = false;
	at_page = 0;
	CHECK_EQ(pthread_create(&t, NULL, look_at_new_folios, NULL), 0);
	/* Each record for the first time: there is nothing to be taken for
	 * what it will be. */
	for (uint64_t i = 0; i < 64 * SUB; i += 8) {
		struct pgmap_folio *folio;

		at_page = i;
		folio = get(i, 3);
		if (i % 64 == 0)
			sched_yield();
		pgmap_folio_put(folio);
	}
	stop = true;
	pthread_join(t, NULL);
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
	for (unsigned int o = 0; o <= PGMAP_PMD_ORDER; o++) {
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
	for (unsigned int o = 0; o <= PGMAP_PMD_ORDER; o++)
		for (next_order = 0; next_order <= PGMAP_PMD_ORDER;
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

/* ---- The order of things in a free ---- */

static struct pgmap_group *group;

static void look_at_all(struct pgmap_folio *folio)
{
	struct pgmap_folio *again;

	in_free = NULL;
	MUST(pgmap_folio_count(folio) == 0);
	MUST(!pgmap_group_charged(group));
	MUST(!folio->group);
	MUST(!folio->mapping);
	MUST(!pgmap_tryget_pfn(first + 9));
	/* The references are the last to go ... */
	MUST(pg_map_refs(map) == 8);
	/* ... and the pages can be had already. */
	MUST(!pgmap_get_folio(map, first + 8, 3, &again));
	MUST(again == folio);
	MUST(pg_map_refs(map) == 16);
}

TEST(R38_a_free_has_done_everything_but_let_the_map_go_when_it_tells)
{
	struct pgmap_folio *folio;

	CHECK_EQ(pgmap_group_create(100, &group), 0);
	for (enum pgmap_type t = PGMAP_PRIVATE; t <= PGMAP_COHERENT; t++) {
		map_open_as(t, SUB, 0);
		CHECK_EQ(pgmap_get_folio(map, first + 8, 3, &folio), 0);
		CHECK_EQ(pgmap_folio_charge(folio, group, false), 0);
		folio->mapping = 0x1234;
		pgmap_folio_unlock(folio);
		CHECK_EQ(pgmap_group_charged(group), 8);
		in_free = look_at_all;
		pgmap_folio_put(folio);
		CHECK_EQ(nr_freed, 1);
		CHECK_EQ(pg_map_refs(map), 8);
		pgmap_folio_put(folio);
		map_close();
	}
	CHECK_EQ(pgmap_group_destroy(group), 0);
}

TEST(N40_R54_pages_that_could_not_be_mapped_go_back_to_their_pool)
{
	enum { NR = 16 };

	for (unsigned int k = 0; k <= NR; k++) {
		struct pgmap_folio *folio[NR];
		unsigned int n;

		map_open_as(PGMAP_PCI_P2PDMA, SUB, 0);
		for (n = 0; n < NR; n++) {
			CHECK_EQ(pgmap_get_folio(map, first + n, 0, &folio[n]),
				 0);
			pgmap_folio_unlock(folio[n]);
			/* The mapping takes one of its own, or fails. */
			if (n == k)
				break;
			pgmap_folio_get(folio[n]);
			pgmap_folio_put(folio[n]);
		}
		if (n < NR)
			pgmap_folio_put(folio[n]);
		CHECK_EQ(nr_freed, k < NR);
		CHECK_EQ(pg_map_refs(map), k);
		for (n = 0; n < k && n < NR; n++)
			pgmap_folio_put(folio[n]);
		CHECK_EQ(nr_freed, k < NR ? k + 1 : NR);
		for (n = 0; n < NR; n++)
			CHECK_EQ(pgmap_folio_count(folio[n < k ? n : 0]), 0);
		map_close();
	}
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

TEST(R38_R46_the_mapping_of_a_dax_page_is_its_file_systems)
{
	static const enum pgmap_type types[] = {PGMAP_FS_DAX, PGMAP_GENERIC};

	for (int i = 0; i < 2; i++) {
		struct pgmap_folio *folio;

		map_open_as(types[i], SUB, 0);
		/* It is told whose it is while it is idle (R142). */
		rec(0)->mapping = 0x1234;
		rec(0)->index = 7;
		folio = get(0, 4);
		CHECK_EQ(folio->mapping, 0x1234);
		CHECK_EQ(folio->index, 7);
		in_free = look_at_mapping;
		pgmap_folio_put(folio);
		CHECK_EQ(mapping_at_free, 0x1234);
		CHECK_EQ(folio->mapping, 0x1234);
		CHECK_EQ(folio->index, 7);
		map_close();
	}
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

/* ---- Waiting until it is idle ---- */

static _Atomic(pid_t) waiter;
static _Atomic(bool) woken;

static void *wait_thread(void *folio)
{
	waiter = gettid();
	MUST(!pgmap_folio_wait_idle(folio, 0));
	woken = true;
	return NULL;
}

static pthread_t start_waiter(struct pgmap_folio *folio)
{
	pthread_t t;

	waiter = 0;
	woken = false;
	CHECK_EQ(pthread_create(&t, NULL, wait_thread, folio), 0);
	CHECK(test_wait_asleep(&waiter, &woken));
	return t;
}

TEST(R41_R42_who_waits_for_a_folio_wakes_when_it_is_idle_and_not_before)
{
	struct pgmap_folio *folio;
	pthread_t t;

	map_open_as(PGMAP_FS_DAX, SUB, 0);
	CHECK_EQ(pgmap_folio_wait_idle(rec(0), 0), 0);
	alarm(60);
	folio = get(8, 3);
	pgmap_folio_get(folio);
	t = start_waiter(folio);
	pgmap_folio_put(folio);
	CHECK(test_wait_asleep(&waiter, &woken));
	/* Frozen is not idle. */
	CHECK(pg_folio_freeze(folio, 1));
	CHECK(test_wait_asleep(&waiter, &woken));
	pg_folio_unfreeze(folio, 1);
	pgmap_folio_put(folio);
	pthread_join(t, NULL);
	CHECK_EQ(pgmap_folio_wait_idle(folio, 0), 0);
	alarm(0);
	map_close();
}

TEST(R42_a_wait_may_have_an_end)
{
	struct pgmap_folio *folio;

	map_open_as(PGMAP_FS_DAX, SUB, 0);
	folio = get(0, 0);
	CHECK_EQ(pgmap_folio_wait_idle(folio, 1000000), -ETIMEDOUT);
	CHECK_EQ(pgmap_folio_wait_idle(folio, 1), -ETIMEDOUT);
	pgmap_folio_put(folio);
	CHECK_EQ(pgmap_folio_wait_idle(folio, 1), 0);
	map_close();
}

/* The waiter has it from its last owner, and gives it to the next one. */
static void *take_over(void *folio)
{
	struct pgmap_folio *again;

	MUST(!pgmap_folio_wait_idle(folio, 0));
	MUST(!pgmap_folio_count(folio));
	((struct pgmap_folio *)folio)->mapping = 0x5678;
	MUST(!pgmap_get_folio(map, first, 0, &again));
	return NULL;
}

TEST(N2_R41_who_was_woken_finds_a_page_that_nobody_touches_any_more)
{
	alarm(100);
	map_open_as(PGMAP_FS_DAX, SUB, 0);
	for (int i = 0; i < 2000; i++) {
		struct pgmap_folio *folio = get(0, 0);
		pthread_t t;

		folio->mapping = 0x1234;
		CHECK_EQ(pthread_create(&t, NULL, take_over, folio), 0);
		if (i % 100 == 0)
			usleep(10000);
		else
			sched_yield();
		pgmap_folio_put(folio);
		pthread_join(t, NULL);
		CHECK_EQ(folio->mapping, 0x5678);
		CHECK_EQ(pgmap_folio_count(folio), 1);
		CHECK(pg_folio_is_locked(folio));
		pgmap_folio_unlock(folio);
		pgmap_folio_put(folio);
		CHECK_EQ(pg_map_refs(map), 0);
	}
	alarm(0);
	map_close();
}

TEST(R41_a_page_that_is_used_again_at_once_wakes_who_waited)
{
	struct pgmap_folio *folio;
	pthread_t t;

	alarm(60);
	map_open_as(PGMAP_FS_DAX, SUB, 0);
	folio = get(0, 0);
	t = start_waiter(folio);
	next_order = 0;
	in_free = hand_out_again;
	pgmap_folio_put(folio);
	/* It is held again, but it was idle. */
	pthread_join(t, NULL);
	CHECK_EQ(pgmap_folio_count(folio), 2);
	pg_folio_put_many(folio, 2);
	alarm(0);
	map_close();
}

/* A thread that was told to stop does, wherever it is, until it may go on. */
static _Atomic(bool) stopped, may_go_on;

static void on_stop(int sig)
{
	(void)sig;
	stopped = true;
	while (!may_go_on)
		usleep(1000);
}

static pthread_t start_waiter_and_stop_it(struct pgmap_folio *folio)
{
	struct sigaction sa = {.sa_handler = on_stop};
	pthread_t t = start_waiter(folio);

	stopped = false;
	may_go_on = false;
	CHECK_EQ(sigaction(SIGUSR1, &sa, NULL), 0);
	CHECK_EQ(pthread_kill(t, SIGUSR1), 0);
	while (!stopped)
		sched_yield();
	return t;
}

static bool wakes(pthread_t t)
{
	struct timespec end;

	may_go_on = true;
	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += 10;
	return !pthread_timedjoin_np(t, NULL, &end);
}

TEST(R42_who_waits_is_woken_however_many_lives_the_page_has_had_meanwhile)
{
	struct pgmap_folio *folio;
	pthread_t t;

	alarm(100);
	map_open_as(PGMAP_FS_DAX, SUB, 0);
	for (int lives = 1; lives <= 33; lives++) {
		folio = get(0, 0);
		t = start_waiter_and_stop_it(folio);
		for (int i = 0; i < lives; i++) {
			pgmap_folio_put(folio);
			CHECK(get(0, 0) == folio);
		}
		CHECK(wakes(t));
		pgmap_folio_put(folio);
	}
	alarm(0);
	map_close();
}

TEST(R42_a_wait_that_ends_in_time_leaves_those_of_others)
{
	struct pgmap_folio *folio;
	pthread_t t[2];

	alarm(60);
	map_open_as(PGMAP_FS_DAX, SUB, 0);
	folio = get(0, 0);
	for (int i = 0; i < 2; i++)
		t[i] = start_waiter(folio);
	CHECK_EQ(pgmap_folio_wait_idle(folio, 1000000), -ETIMEDOUT);
	CHECK_EQ(pgmap_folio_wait_idle(get(64, 0), 1000000), -ETIMEDOUT);
	pgmap_folio_put(rec(64));
	CHECK(test_wait_asleep(&waiter, &woken));
	pgmap_folio_put(folio);
	for (int i = 0; i < 2; i++)
		CHECK(wakes(t[i]));
	alarm(0);
	map_close();
}

static _Atomic(pid_t) destroyer;
static _Atomic(bool) destroyed;

static void *destroy_thread(void *arg)
{
	(void)arg;
	destroyer = gettid();
	MUST(!pgmap_destroy(map));
	destroyed = true;
	return NULL;
}

/* Killed before the wait begins, or when it ends. */
TEST(R10_R42_a_map_does_not_go_before_who_waits_for_its_page)
{
	for (int killed = 0; killed < 2; killed++) {
		struct pgmap_folio *folio;
		pthread_t t, d;

		alarm(60);
		map_open_as(PGMAP_FS_DAX, SUB, 0);
		folio = get(0, 0);
		if (killed)
			pgmap_kill(map);
		t = start_waiter_and_stop_it(folio);
		pgmap_folio_put(folio);
		destroyer = 0;
		destroyed = false;
		CHECK_EQ(pthread_create(&d, NULL, destroy_thread, NULL), 0);
		CHECK(test_wait_asleep(&destroyer, &destroyed));
		CHECK(wakes(t));
		pthread_join(d, NULL);
		alarm(0);
	}
	/* Where nothing is held any more nothing is waited for. */
	map_open_as(PGMAP_FS_DAX, SUB, 0);
	pgmap_folio_put(get(0, 0));
	pgmap_kill(map);
	CHECK_EQ(pgmap_folio_wait_idle(rec(0), 0), 0);
	map_close();
}

TEST(R62_what_becomes_a_tail_of_a_file_page_keeps_whose_it_was)
{
	struct pgmap_folio *folio;

	map_open_as(PGMAP_FS_DAX, SUB, 0);
	for (uint64_t i = 0; i < 4; i++) {
		CHECK_EQ(pgmap_get_folio(map, first + i, 0, &folio), 0);
		folio->mapping = 0x1000;
		folio->index = i & PG_INDEX_MASK;
	}
	CHECK_EQ(pgmap_construct_folio(map, first, 2, &folio), 0);
	for (uint64_t i = 0; i < 4; i++) {
		CHECK_EQ(rec(i)->mapping, 0x1000);
		CHECK_EQ(rec(i)->index, i);
	}
	pgmap_folio_put(folio);
	map_close();
}

TEST(R42_R62_who_waits_for_a_folio_that_becomes_a_tail_wakes)
{
	struct pgmap_folio *folio;
	pthread_t t;

	alarm(60);
	map_open(SUB);
	for (uint64_t i = 0; i < 4; i++)
		CHECK_EQ(pgmap_get_folio(map, first + i, 0, &folio), 0);
	t = start_waiter(rec(3));
	CHECK_EQ(pgmap_construct_folio(map, first, 2, &folio), 0);
	pthread_join(t, NULL);
	alarm(0);
	pgmap_folio_put(folio);
	map_close();
}

/* ---- Ranges ---- */

/* The fewest folios, found by the largest that can begin at each page. */
static size_t model(uint64_t pfn, uint64_t nr, uint64_t *heads)
{
	size_t n = 0;

	while (nr) {
		uint64_t size = 1ull << PGMAP_MAX_ORDER;

		while (pfn % size || size > nr)
			size /= 2;
		if (heads)
			heads[n] = size;
		n++;
		pfn += size;
		nr -= size;
	}
	return n;
}

TEST(R61_a_range_becomes_the_fewest_folios)
{
	static struct pgmap_folio *folio[4096];
	static uint64_t size[4096];
	uint64_t seed = test_seed();

	map_open(8 * SUB);
	for (int i = 0; i < 500; i++) {
		uint64_t from = test_random(&seed) % (8 * SUB);
		uint64_t nr = 1 + test_random(&seed) % (8 * SUB - from);
		size_t want = model(first + from, nr, size), n = 77;
		uint64_t at = first + from;

		CHECK_EQ(pgmap_get_folios(map, at, nr, folio, want - 1, &n),
			 -ENOSPC);
		CHECK_EQ(n, want);
		CHECK_EQ(pg_map_refs(map), 0);
		CHECK_EQ(pgmap_get_folios(map, at, nr, folio, 4096, &n), 0);
		CHECK_EQ(n, want);
		CHECK_EQ(pg_map_refs(map), nr);
		for (size_t k = 0; k < n; k++) {
			CHECK_EQ(pgmap_folio_pfn(folio[k]), at);
			CHECK_EQ(1ull << pgmap_folio_order(folio[k]), size[k]);
			CHECK_EQ(pgmap_folio_count(folio[k]), 1);
			CHECK(pg_folio_is_locked(folio[k]));
			at += size[k];
		}
		for (size_t k = 0; k < n; k++) {
			pgmap_folio_unlock(folio[k]);
			pgmap_folio_put(folio[k]);
		}
		CHECK_EQ(pg_map_refs(map), 0);
	}
	map_close();
}

TEST(R61_R65_a_range_that_is_refused_leaves_no_trace)
{
	struct pgmap_folio *folio[64];
	size_t n;

	map_open(2 * SUB);
	CHECK_EQ(pgmap_get_folios(map, first, 0, folio, 64, &n), -EINVAL);
	CHECK_EQ(pgmap_get_folios(map, first, UINT64_MAX, folio, 64, &n),
		 -EINVAL);
	CHECK_EQ(pgmap_get_folios(map, first + SUB, SUB + 1, folio, 64, &n),
		 -EINVAL);
	CHECK_EQ(pgmap_get_folios(map, first - 1, 2, folio, 64, &n), -EINVAL);
	CHECK_EQ(pgmap_get_folios(map, 0, PGMAP_END_PFN + 1, folio, 64, &n),
		 -EINVAL);
	/* A page in use anywhere in it: first, last, in the middle. */
	for (uint64_t busy = 3; busy < 700; busy += 58) {
		struct pgmap_folio *one = get(busy, 0);

		CHECK_EQ(pgmap_get_folios(map, first + 3, 697, folio, 64, &n),
			 -EBUSY);
		CHECK_EQ(pg_map_refs(map), 1);
		for (uint64_t i = 0; i < 2 * SUB; i++)
			if (i != busy) {
				struct pgmap_folio *f = get(i, 0);

				pgmap_folio_put(f);
			}
		pgmap_folio_put(one);
	}
	pgmap_kill(map);
	CHECK_EQ(pgmap_get_folios(map, first, 64, folio, 64, &n), -ENODEV);
	map_close();
}

static void *range_thread(void *arg)
{
	uint64_t seed = (uintptr_t)arg;
	struct pgmap_folio *folio[32];
	size_t n;

	for (int r = 1; r <= ROUNDS; r++) {
		uint64_t from = test_random(&seed) % 64;
		int ret;

		while (round_nr < r)
			sched_yield();
		/* All want the page in the middle, and what is around it. */
		ret = pgmap_get_folios(map, first + from, 321 - from, folio, 32,
				       &n);
		MUST(ret == 0 || ret == -EBUSY);
		losers += ret != 0;
		if (!ret) {
			winners++;
			/* Nobody comes while it is held. */
			while (winners + losers < CONTENDERS * r)
				sched_yield();
			MUST(pg_map_refs(map) == 321 - from);
			for (size_t k = 0; k < n; k++)
				pgmap_folio_put(folio[k]);
		}
	}
	return NULL;
}

TEST(N22_R61_of_many_who_request_a_range_one_gets_all_of_it)
{
	pthread_t t[CONTENDERS];

	map_open(SUB);
	winners = losers = round_nr = 0;
	for (uintptr_t i = 0; i < CONTENDERS; i++)
		CHECK_EQ(pthread_create(&t[i], NULL, range_thread,
					(void *)(i + 1)),
			 0);
	for (int r = 1; r <= ROUNDS; r++) {
		round_nr = r;
		while (winners + losers < CONTENDERS * r)
			sched_yield();
		MUST(winners == r);
		while (pg_map_refs(map))
			sched_yield();
		/* Nothing is left claimed by a loser. */
		if (r % 100 == 0)
			for (uint64_t i = 0; i < SUB; i++)
				pgmap_folio_put(get(i, 0));
	}
	for (int i = 0; i < CONTENDERS; i++)
		pthread_join(t[i], NULL);
	map_close();
}

/* ---- Construct and split ---- */

static void take_pages(uint64_t from, uint64_t nr, unsigned int order)
{
	struct pgmap_folio *folio;

	for (uint64_t i = from; i < from + nr; i += 1u << order)
		CHECK_EQ(pgmap_get_folio(map, first + i, order, &folio), 0);
}

static void put_pages(uint64_t from, uint64_t nr, unsigned int order)
{
	for (uint64_t i = from; i < from + nr; i += 1u << order)
		pgmap_folio_put(rec(i));
}

TEST(R62_pages_that_one_holds_become_one_folio)
{
	struct pgmap_folio *folio;

	map_open(4 * SUB);
	for (unsigned int o = 1; o <= 10; o++) {
		take_pages(0, 1u << o, o / 2);
		pg_folio_mark(rec((1u << o) - (1u << o / 2)), PG_FOLIO_DIRTY);
		CHECK_EQ(pgmap_construct_folio(map, first, o, &folio), 0);
		CHECK(folio == rec(0));
		CHECK(pg_folio_is_locked(folio));
		CHECK(pg_folio_marked(folio, PG_FOLIO_DIRTY));
		CHECK_EQ(pg_map_refs(map), 1u << o);
		check_folio(0, o);
		nr_freed = 0;
		pgmap_folio_put(folio);
		CHECK_EQ(nr_freed, 1);
		CHECK_EQ(pg_map_refs(map), 0);
	}
	/* Of different orders. */
	take_pages(0, 8, 3);
	take_pages(8, 8, 1);
	CHECK_EQ(pgmap_construct_folio(map, first, 4, &folio), 0);
	check_folio(0, 4);
	pgmap_folio_put(folio);
	map_close();
}

TEST(R62_construct_refuses_and_changes_nothing)
{
	struct pgmap_folio *folio = NULL;

	map_open(SUB);
	take_pages(0, 8, 0);
	CHECK_EQ(pgmap_construct_folio(map, first + 2, 2, &folio), -EINVAL);
	CHECK_EQ(pgmap_construct_folio(map, first, 0, &folio), -EINVAL);
	CHECK_EQ(pgmap_construct_folio(map, first, 19, &folio), -EINVAL);
	CHECK_EQ(pgmap_construct_folio(map, first, 10, &folio), -EINVAL);
	CHECK_EQ(pgmap_construct_folio(map, first + SUB, 1, &folio), -EINVAL);
	/* A page that is in no folio. */
	CHECK_EQ(pgmap_construct_folio(map, first, 4, &folio), -EINVAL);
	/* Not locked. */
	pgmap_folio_unlock(rec(5));
	CHECK_EQ(pgmap_construct_folio(map, first, 3, &folio), -EINVAL);
	CHECK(pgmap_folio_trylock(rec(5)));
	/* Somebody else has a page in the middle, maps it or has it pinned. */
	pgmap_folio_get(rec(5));
	CHECK_EQ(pgmap_construct_folio(map, first, 3, &folio), -EBUSY);
	pgmap_folio_put(rec(5));
	pgmap_folio_pin(rec(5));
	CHECK_EQ(pgmap_construct_folio(map, first, 3, &folio), -EBUSY);
	pgmap_folio_get(rec(5));
	pgmap_folio_unpin(rec(5));
	pg_store(&rec(5)->mapcount, 1, relaxed);
	CHECK_EQ(pgmap_construct_folio(map, first, 3, &folio), -EBUSY);
	pg_store(&rec(5)->mapcount, 0, relaxed);
	CHECK(!folio);
	for (uint64_t i = 0; i < 8; i++) {
		CHECK_EQ(pgmap_folio_count(rec(i)), 1);
		CHECK(pg_folio_is_locked(rec(i)));
		check_folio(i, 0);
	}
	CHECK_EQ(pgmap_construct_folio(map, first, 3, &folio), 0);
	/* Not of a lower order. */
	CHECK_EQ(pgmap_construct_folio(map, first, 3, &folio), -EINVAL);
	pgmap_folio_put(folio);
	map_close();
}

TEST(R62_pages_that_different_groups_pay_for_stay_apart)
{
	struct pgmap_group *g;
	struct pgmap_folio *folio;

	map_open(SUB);
	CHECK_EQ(pgmap_group_create(100, &g), 0);
	take_pages(0, 4, 0);
	for (uint64_t i = 0; i < 4; i++) {
		CHECK_EQ(pgmap_construct_folio(map, first, 2, &folio),
			 i ? -EINVAL : 0);
		if (!i)
			CHECK_EQ(pgmap_split_folio(folio, 0), 0);
		CHECK_EQ(pgmap_folio_charge(rec(i), g, false), 0);
	}
	CHECK_EQ(pgmap_group_charged(g), 4);
	CHECK_EQ(pgmap_construct_folio(map, first, 2, &folio), 0);
	CHECK_EQ(pgmap_group_charged(g), 4);
	pgmap_folio_put(folio);
	CHECK_EQ(pgmap_group_charged(g), 0);
	CHECK_EQ(pgmap_group_destroy(g), 0);
	map_close();
}

TEST(R108_a_split_tells_of_each_part_in_order_and_of_its_end)
{
	map_open(SUB);
	for (unsigned int o = 1; o <= 9; o++)
		for (unsigned int to = 0; to < o; to++) {
			uint64_t step = 1u << to, n = (1u << o) / step;

			take_pages(0, 1u << o, o);
			rec(0)->mapping = 0x1230;
			rec(0)->index = 1000;
			pg_folio_mark(rec(0), PG_FOLIO_DIRTY);
			nr_split = 0;
			CHECK_EQ(pgmap_split_folio(rec(0), to), 0);
			CHECK_EQ(nr_split, n);
			CHECK(split_head == rec(0));
			for (uint64_t i = 1; i < n; i++)
				CHECK(split_tails[i - 1] == rec(i * step));
			CHECK(!split_tails[n - 1]);
			CHECK_EQ(pg_map_refs(map), 1u << o);
			for (uint64_t i = 0; i < n; i++) {
				struct pgmap_folio *f = rec(i * step);

				CHECK_EQ(f->mapping, 0x1230);
				CHECK_EQ(f->index, 1000 + i * step);
				CHECK_EQ(pgmap_folio_count(f), 1);
				CHECK(pg_folio_is_locked(f));
				CHECK(pg_folio_marked(f, PG_FOLIO_DIRTY));
				f->mapping = 0;
				check_folio(i * step, to);
			}
			put_pages(0, 1u << o, to);
			CHECK_EQ(pg_map_refs(map), 0);
		}
	map_close();
}

TEST(R11_a_folio_that_was_split_gives_back_what_it_took)
{
	uint64_t seed = test_seed();
	unsigned int left = SUB;

	map_open(SUB);
	take_pages(0, SUB, 9);
	CHECK_EQ(pgmap_split_folio(rec(0), 0), 0);
	while (left) {
		uint64_t i = test_random(&seed) % SUB;

		if (!pgmap_folio_count(rec(i)))
			continue;
		pgmap_folio_put(rec(i));
		CHECK_EQ(pg_map_refs(map), --left);
	}
	map_close();
}

TEST(N18_R48_a_split_that_fails_changes_nothing)
{
	struct pgmap_folio *folio;

	map_open(SUB);
	take_pages(0, 16, 4);
	folio = rec(0);
	/* Others hold it, map it, pin it. */
	pgmap_folio_get(folio);
	CHECK_EQ(pgmap_split_folio(folio, 0), -EAGAIN);
	CHECK_EQ(pgmap_folio_count(folio), 2);
	pgmap_folio_put(folio);
	pg_store(&folio->mapcount, 1, relaxed);
	CHECK_EQ(pgmap_split_folio(folio, 2), -EAGAIN);
	pg_store(&folio->mapcount, 0, relaxed);
	pgmap_folio_pin(folio);
	CHECK_EQ(pgmap_split_folio(folio, 2), -EAGAIN);
	pgmap_folio_get(folio);
	pgmap_folio_unpin(folio);
	CHECK_EQ(pgmap_split_folio(folio, 4), -EINVAL);
	CHECK_EQ(pgmap_split_folio(folio, 5), -EINVAL);
	pgmap_folio_unlock(folio);
	CHECK_EQ(pgmap_split_folio(folio, 0), -EINVAL);
	CHECK_EQ(nr_split, 0);
	CHECK_EQ(pgmap_folio_count(folio), 1);
	check_folio(0, 4);
	CHECK(pgmap_folio_trylock(folio));
	CHECK_EQ(pgmap_split_folio(folio, 0), 0);
	put_pages(0, 16, 0);
	CHECK_EQ(nr_freed, 16);
	map_close();
	/* Nor below what the map has records for. */
	map_open_as(PGMAP_PRIVATE, 4 * SUB, 9);
	take_pages(0, 4 * SUB, 11);
	CHECK_EQ(pgmap_split_folio(rec(0), 8), -EINVAL);
	CHECK_EQ(pgmap_split_folio(rec(0), 9), 0);
	CHECK_EQ(pg_map_refs(map), 4 * SUB);
	CHECK_EQ(pgmap_construct_folio(map, first, 9, &folio), -EINVAL);
	CHECK_EQ(pgmap_construct_folio(map, first, 10, &folio), 0);
	put_pages(0, 2 * SUB, 10);
	put_pages(2 * SUB, 2 * SUB, 9);
	map_close();
}

/* ---- Tails ---- */

TEST(R120_R192_the_records_of_tails_are_not_written)
{
	struct pgmap_folio *folio;
	void *tails;

	map_open(SUB);
	/* 128 records a page: the head's page, and three of tails. */
	tails = rec(128);
	CHECK_EQ((uintptr_t)tails % PAGE, 0);
	CHECK_EQ(mprotect(tails, 3 * PAGE, PROT_READ), 0);
	folio = get(0, 9);
	for (uint64_t i = 0; i < SUB; i++) {
		CHECK(pgmap_tryget_pfn(first + i) == folio);
		pgmap_folio_pin(folio);
	}
	CHECK_EQ(pgmap_folio_pins(folio), SUB);
	pg_folio_lock(folio);
	pg_folio_mark(folio, PG_FOLIO_DIRTY);
	CHECK(!pg_folio_freeze(folio, 1));
	CHECK_EQ(pgmap_split_folio(folio, 0), -EAGAIN);
	for (uint64_t i = 0; i < SUB; i++)
		pgmap_folio_unpin(folio);
	pgmap_folio_put(folio);
	CHECK_EQ(nr_freed, 1);
	CHECK_EQ(mprotect(tails, 3 * PAGE, PROT_READ | PROT_WRITE), 0);
	map_close();
}

/* ---- Pins and marks ---- */

TEST(R158_references_are_not_taken_for_pins)
{
	struct pgmap_folio *folio;

	map_open(SUB);
	for (unsigned int o = 0; o <= 9; o += 9) {
		folio = get(0, o);
		for (int i = 0; i < 2000; i++)
			pgmap_folio_get(folio);
		CHECK_EQ(pgmap_folio_pins(folio), 0);
		pgmap_folio_pin(folio);
		pgmap_folio_pin(folio);
		CHECK_EQ(pgmap_folio_pins(folio), 2);
		CHECK_EQ(pgmap_folio_count(folio), 2001);
		pgmap_folio_unpin(folio);
		CHECK_EQ(pgmap_folio_pins(folio), 1);
		CHECK_EQ(pgmap_folio_count(folio), 2000);
		pgmap_folio_unpin(folio);
		pg_folio_put_many(folio, 1999);
		CHECK_EQ(pg_map_refs(map), 0);
	}
	map_close();
}

TEST(R35_marks_do_not_outlive_the_folio)
{
	static const uint32_t all =
		PG_FOLIO_DIRTY | PG_FOLIO_YOUNG | PG_FOLIO_POISON;
	struct pgmap_folio *folio;

	map_open(SUB);
	folio = get(0, 0);
	CHECK(!pg_folio_marked(folio, all));
	pg_folio_mark(folio, all);
	CHECK(pg_folio_marked(folio, PG_FOLIO_YOUNG));
	pg_folio_unmark(folio, PG_FOLIO_YOUNG);
	CHECK(!pg_folio_marked(folio, PG_FOLIO_YOUNG));
	CHECK(pg_folio_marked(folio, PG_FOLIO_DIRTY));
	pgmap_folio_put(folio);
	folio = get(0, 0);
	CHECK(!pg_folio_marked(folio, all));
	pgmap_folio_put(folio);
	map_close();
}

TEST(R190_the_reserved_bit_decides_nothing)
{
	map_open(SUB);
	for (int reserved = 0; reserved < 2; reserved++) {
		struct pgmap_folio *folio;

		/* As Linux has it, until somebody says otherwise. */
		take_pages(0, 8, 3);
		CHECK(pgmap_folio_reserved(rec(0)));
		pgmap_folio_set_reserved(rec(0), reserved);
		CHECK_EQ(pgmap_folio_reserved(rec(0)), reserved);
		CHECK_EQ(pgmap_split_folio(rec(0), 1), 0);
		CHECK_EQ(pgmap_folio_reserved(rec(2)), reserved);
		CHECK(pgmap_tryget_pfn(first + 3) == rec(2));
		pgmap_folio_put(rec(2));
		CHECK_EQ(pgmap_construct_folio(map, first, 3, &folio), 0);
		CHECK_EQ(pgmap_folio_reserved(folio), reserved);
		pgmap_folio_put(folio);
		CHECK_EQ(pg_map_refs(map), 0);
	}
	map_close();
}

/* ---- Poison ---- */

TEST(R183_a_bad_page_is_not_handed_out_until_it_is_good)
{
	struct pgmap_folio *folio, *f[16];
	size_t n;

	map_open(SUB);
	folio = get(64, 6);
	pg_pfn_poison(map, first + 70, true);
	pg_pfn_poison(map, first + 70, true);
	CHECK(pg_pfn_poisoned(map, first + 70));
	CHECK(!pg_pfn_poisoned(map, first + 71));
	CHECK(!pg_pfn_poisoned(map, first - 1));
	/* Who has it may go on with it. */
	CHECK(pgmap_folio_tryget(folio));
	pg_folio_put_many(folio, 2);
	for (unsigned int o = 0; o <= 9; o++)
		CHECK_EQ(
			pgmap_get_folio(map, (first + 70) >> o << o, o, &folio),
			-EHWPOISON);
	CHECK_EQ(pgmap_get_folios(map, first + 60, 20, f, 16, &n), -EHWPOISON);
	CHECK_EQ(pg_map_refs(map), 0);
	pgmap_folio_put(get(64, 2));
	pgmap_folio_put(get(71, 0));
	pg_pfn_poison(map, first + 70, false);
	pg_pfn_poison(map, first + 70, false);
	CHECK(!pg_pfn_poisoned(map, first + 70));
	pgmap_folio_put(get(0, 9));
	map_close();
}

TEST(R183_the_mark_of_a_bad_page_goes_with_the_page)
{
	struct pgmap_folio *folio;

	map_open(SUB);
	take_pages(0, 16, 4);
	pg_pfn_poison(map, first + 6, true);
	pg_folio_mark(rec(0), PG_FOLIO_POISON);
	CHECK_EQ(pgmap_split_folio(rec(0), 2), 0);
	for (uint64_t i = 0; i < 16; i += 4)
		CHECK_EQ(pg_folio_marked(rec(i), PG_FOLIO_POISON), i == 4);
	CHECK_EQ(pgmap_construct_folio(map, first, 4, &folio), 0);
	CHECK(pg_folio_marked(folio, PG_FOLIO_POISON));
	pg_pfn_poison(map, first + 6, false);
	pgmap_folio_put(folio);
	map_close();
}

static _Atomic(bool) used_while_bad;

static void *poison_thread(void *arg)
{
	(void)arg;
	for (int i = 0; i < 3000; i++) {
		struct pgmap_folio *folio;

		pg_pfn_poison(map, first + 5, true);
		/* It is used by nobody, and cannot be; or we can tell him. */
		folio = pgmap_tryget_pfn(first + 5);
		if (folio)
			pgmap_folio_put(folio);
		else
			MUST(!pgmap_tryget_pfn(first + 5));
		used_while_bad = !folio;
		sched_yield();
		used_while_bad = false;
		pg_pfn_poison(map, first + 5, false);
	}
	stop = true;
	return NULL;
}

TEST(R183_a_page_that_goes_bad_while_it_is_handed_out_is_found_or_refused)
{
	unsigned int got = 0, refused = 0;
	pthread_t t;

	map_open(SUB);
	stop = false;
	used_while_bad = false;
	CHECK_EQ(pthread_create(&t, NULL, poison_thread, NULL), 0);
	while (!stop) {
		struct pgmap_folio *folio;
		bool bad = used_while_bad;
		int ret = pgmap_get_folio(map, first + 4, 2, &folio);

		MUST(!ret || ret == -EHWPOISON || ret == -EBUSY);
		got += !ret;
		refused += ret == -EHWPOISON;
		if (ret)
			continue;
		/* Bad before and after, and nobody was told. */
		MUST(!bad || !used_while_bad);
		pgmap_folio_unlock(folio);
		pgmap_folio_put(folio);
	}
	pthread_join(t, NULL);
	printf("# got %u, refused %u\n", got, refused);
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

static void unpin_what_is_not_pinned(void)
{
	pgmap_folio_unpin(victim);
}

static void free_a_mapped_one(void)
{
	pg_store(&victim->mapcount, 1, relaxed);
	pgmap_folio_put(victim);
}

static void free_a_pinned_one(void)
{
	pgmap_folio_pin(victim);
	pgmap_folio_put(victim);
}

static void put_too_many(void)
{
	pg_folio_put_many(victim, 2);
}

static void take_one_too_many(void)
{
	pg_store(&victim->count, UINT32_MAX, relaxed);
	pgmap_folio_tryget(victim);
}

static void pin_an_idle_one(void)
{
	pgmap_folio_pin(victim);
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
	CHECK(dies(unpin_what_is_not_pinned));
	CHECK(dies(free_a_mapped_one));
	CHECK(dies(free_a_pinned_one));
	CHECK(dies(unlock_again));
	CHECK(dies(take_one_too_many));
	pgmap_folio_put(victim);
	CHECK(dies(put_once_more));
	CHECK(dies(get_an_idle_one));
	CHECK(dies(pin_an_idle_one));
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
