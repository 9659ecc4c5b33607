/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Page maps: creating, finding, killing and destroying them.
 */
#include <sys/mman.h>

#include "world.h"

#define FIRST PGMAP_FIRST_DEVICE_PFN
#define SUB ((uint64_t)PGMAP_SUBSECTION_PAGES)
/* Ranges of the tests lie above what is chosen for anybody. */
#define FAR (FIRST + (1ull << 30))

static _Atomic(unsigned int) freed;

static void count_free(struct pgmap_folio *folio)
{
	(void)folio;
	freed++;
}

static int no_fault(struct pgmap_fault *fault)
{
	(void)fault;
	return 0;
}

static const struct pgmap_ops ops = {
	.size = sizeof(ops),
	.folio_free = count_free,
	.migrate_to_ram = no_fault,
};

static struct pgmap_desc desc_of(uint64_t pfn, uint64_t nr)
{
	static int owner;

	return (struct pgmap_desc){
		.size = sizeof(struct pgmap_desc),
		.type = PGMAP_PRIVATE,
		.nr_range = 1,
		.range = {{pfn, nr}},
		.ops = &ops,
		.owner = &owner,
		.data = &freed,
	};
}

static struct pgmap_desc desc_of_type(enum pgmap_type type, uint64_t pfn,
				      uint64_t nr)
{
	struct pgmap_desc d = desc_of(pfn, nr);

	d.type = type;
	if (type > PGMAP_COHERENT)
		d.ops = NULL;
	return d;
}

static struct pgmap *map_new(uint64_t pfn, uint64_t nr)
{
	struct pgmap_desc d = desc_of(pfn, nr);
	struct pgmap *map = NULL;

	CHECK_EQ(pgmap_create(&d, &map), 0);
	return map;
}

static int create_at(uint64_t pfn, uint64_t nr)
{
	struct pgmap_desc d = desc_of(pfn, nr);
	struct pgmap *map;
	int ret = pgmap_create(&d, &map);

	if (!ret)
		CHECK_EQ(pgmap_destroy(map), 0);
	return ret;
}

static bool is_known(uint64_t pfn)
{
	struct pgmap *map = pgmap_lookup(pfn, NULL);

	if (map)
		pgmap_put(map);
	return map;
}

/* ---- What create refuses ---- */

TEST(R1_zero_and_unknown_types_are_invalid)
{
	static const int types[] = {0, 6, 7, 1000, -1};

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		struct pgmap_desc d = desc_of(FAR, SUB);
		struct pgmap *map;

		d.type = (enum pgmap_type)types[i];
		CHECK_EQ(pgmap_create(&d, &map), -EINVAL);
	}
	CHECK(!is_known(FAR));
}

TEST(R2_a_map_of_every_type_can_be_made_and_says_what_it_is)
{
	for (enum pgmap_type t = PGMAP_PRIVATE; t <= PGMAP_PCI_P2PDMA; t++) {
		struct pgmap_desc d = desc_of_type(t, FAR, SUB);
		struct pgmap *map = NULL;

		CHECK_EQ(pgmap_create(&d, &map), 0);
		CHECK_EQ(pgmap_get_type(map), t);
		CHECK(pgmap_get_owner(map) == d.owner);
		CHECK(pgmap_get_data(map) == d.data);
		CHECK(is_known(FAR));
		CHECK_EQ(pgmap_destroy(map), 0);
	}
	CHECK(!is_known(FAR));
}

/* One bit for each thing that a desc may have. */
enum { FREE = 1, FAULT = 2, OWNER = 4, NEEDS = 8 };

TEST(R3_R43_each_type_needs_its_operations_and_an_owner)
{
	static const int needs[] = {
		[PGMAP_PRIVATE] = FREE | FAULT | OWNER,
		[PGMAP_COHERENT] = FREE | OWNER,
		[PGMAP_FS_DAX] = 0,
		[PGMAP_GENERIC] = 0,
		[PGMAP_PCI_P2PDMA] = 0,
	};

	for (enum pgmap_type t = PGMAP_PRIVATE; t <= PGMAP_PCI_P2PDMA; t++)
		for (int has = 0; has < NEEDS; has++) {
			struct pgmap_desc d = desc_of_type(t, FAR, SUB);
			struct pgmap_ops o = {.size = sizeof(o)};
			struct pgmap *map = NULL;
			bool ok = (has & needs[t]) == needs[t];

			if (has & FREE)
				o.folio_free = count_free;
			if (has & FAULT)
				o.migrate_to_ram = no_fault;
			d.ops = has & (FREE | FAULT) ? &o : NULL;
			if (!(has & OWNER))
				d.owner = NULL;
			CHECK_EQ(pgmap_create(&d, &map), ok ? 0 : -EINVAL);
			CHECK_EQ(is_known(FAR), ok);
			if (ok)
				CHECK_EQ(pgmap_destroy(map), 0);
		}
}

TEST(R3_operations_are_of_a_size_that_we_know)
{
	struct pgmap_desc d = desc_of(FAR, SUB);
	struct pgmap_ops o = ops;
	struct pgmap *map;

	d.ops = &o;
	o.size = 0;
	CHECK_EQ(pgmap_create(&d, &map), -EINVAL);
	o.size = sizeof(o) + 8; /* of a newer version than ours */
	CHECK_EQ(pgmap_create(&d, &map), -EINVAL);
	/* What lies behind it is not the caller's. */
	o.size = sizeof(size_t);
	CHECK_EQ(pgmap_create(&d, &map), -EINVAL);
	o.size = offsetof(struct pgmap_ops, migrate_to_ram);
	CHECK_EQ(pgmap_create(&d, &map), -EINVAL);
	o.size = offsetof(struct pgmap_ops, migrate_to_ram) + 4;
	CHECK_EQ(pgmap_create(&d, &map), -EINVAL);
	d.type = PGMAP_GENERIC;
	CHECK_EQ(pgmap_create(&d, &map), -EINVAL);
	CHECK(!is_known(FAR));
	/* An older one: what it has not got is not there. */
	o.size = offsetof(struct pgmap_ops, memory_failure);
	d.type = PGMAP_PRIVATE;
	CHECK_EQ(pgmap_create(&d, &map), 0);
	CHECK(!map->ops.folio_split);
	CHECK_EQ(pgmap_destroy(map), 0);
}

TEST(R4_create_says_what_is_wrong)
{
	static const struct {
		uint32_t nr_range;
		struct pgmap_range r[2];
		int ret;
	} t[] = {
		{0, {{FAR, SUB}}, -EINVAL},
		{PGMAP_MAX_RANGES + 1, {{FAR, SUB}}, -EINVAL},
		{1, {{FAR, 0}}, -EINVAL},
		{1, {{UINT64_MAX - SUB + 1, SUB}}, -EINVAL},
		{1, {{UINT64_MAX - 2 * SUB + 1, 4 * SUB}}, -EINVAL},
		{1, {{FAR, 1ull << 52}}, -EINVAL},
		{1, {{FAR, PGMAP_END_PFN - FAR + SUB}}, -EINVAL},
		{1, {{PGMAP_END_PFN, SUB}}, -EINVAL},
		{1, {{0, PGMAP_END_PFN}}, -ENOMEM},
		{1, {{SUB, SUB}}, -ENXIO},
		{1, {{FIRST - SUB, SUB}}, -ENXIO},
		{1, {{FIRST - SUB, 2 * SUB}}, -ENXIO},
		{2, {{0, SUB}, {FAR, SUB}}, -ENXIO},
		{2, {{FAR, SUB}, {FAR, SUB}}, -ENOMEM},
		{2, {{FAR, 2 * SUB}, {FAR + SUB, SUB}}, -ENOMEM},
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct pgmap_desc d = desc_of(0, 0);
		struct pgmap *map = NULL;

		d.nr_range = t[i].nr_range;
		d.range[0] = t[i].r[0];
		d.range[1] = t[i].r[1];
		CHECK_EQ(pgmap_create(&d, &map), t[i].ret);
		CHECK(!map);
		CHECK(!is_known(FAR));
	}
	struct pgmap_desc d = desc_of(FAR, SUB);
	struct pgmap *map;

	d.size--;
	CHECK_EQ(pgmap_create(&d, &map), -EINVAL);
	d.size++;
	d.folio_order = PGMAP_MAX_ORDER + 1;
	CHECK_EQ(pgmap_create(&d, &map), -EINVAL);
	d.folio_order = 0;
	d.reserve = SUB;
	CHECK_EQ(pgmap_create(&d, &map), -EINVAL);
	CHECK(!is_known(FAR));
	CHECK_EQ(create_at(FIRST, SUB), 0);
	CHECK_EQ(create_at(PGMAP_END_PFN - SUB, SUB), 0);
}

TEST(R5_ranges_are_whole_subsections_and_maps_may_be_neighbours)
{
	struct pgmap *a, *b;

	CHECK_EQ(create_at(FAR + 1, SUB), -EINVAL);
	CHECK_EQ(create_at(FAR + SUB / 2, SUB), -EINVAL);
	CHECK_EQ(create_at(FAR, SUB + 1), -EINVAL);
	CHECK_EQ(create_at(FAR, SUB / 2), -EINVAL);
	a = map_new(FAR, SUB);
	b = map_new(FAR + SUB, SUB);
	CHECK_EQ(create_at(FAR + SUB - 1, SUB), -EINVAL);
	CHECK(pgmap_lookup(FAR + SUB - 1, NULL) == a);
	CHECK(pgmap_lookup(FAR + SUB, NULL) == b);
	pgmap_put(a);
	pgmap_put(b);
	CHECK_EQ(pgmap_destroy(a), 0);
	CHECK_EQ(pgmap_destroy(b), 0);
}

TEST(R5_R17_ranges_are_whole_folios_of_the_map)
{
	static const struct {
		uint32_t order;
		uint64_t pfn, nr;
		int ret;
	} t[] = {
		{9, FAR, SUB, 0},
		{10, FAR, SUB, -EINVAL},
		{10, FAR + SUB, 2 * SUB, -EINVAL},
		{10, FAR + 2 * SUB, 2 * SUB, 0},
		{18, FAR, SUB, -EINVAL},
		{18, FAR, 512 * SUB, 0},
		{18, FAR + 256 * SUB, 512 * SUB, -EINVAL},
		{18, 0, 512 * SUB, 0},
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct pgmap_desc d = desc_of(t[i].pfn, t[i].nr);
		struct pgmap *map = NULL;

		d.folio_order = t[i].order;
		CHECK_EQ(pgmap_create(&d, &map), t[i].ret);
		if (!t[i].ret)
			CHECK_EQ(pgmap_destroy(map), 0);
	}
}

TEST(R6_overlaps_are_refused_wherever_they_lie)
{
	struct pgmap *map = map_new(FAR + 2 * SUB, 2 * SUB);

	CHECK_EQ(create_at(FAR, 6 * SUB), -ENOMEM);
	CHECK_EQ(create_at(FAR + 2 * SUB, 2 * SUB), -ENOMEM);
	CHECK_EQ(create_at(FAR + SUB, 2 * SUB), -ENOMEM);
	CHECK_EQ(create_at(FAR + 3 * SUB, 2 * SUB), -ENOMEM);
	CHECK_EQ(create_at(FAR + 2 * SUB, SUB), -ENOMEM);
	CHECK_EQ(create_at(FAR, 2 * SUB), 0);
	CHECK_EQ(create_at(FAR + 4 * SUB, 2 * SUB), 0);
	CHECK_EQ(pgmap_destroy(map), 0);
	CHECK_EQ(create_at(FAR, 6 * SUB), 0);
}

TEST(N21_R6_a_dying_map_still_occupies_its_range)
{
	struct pgmap *map = map_new(FAR + 2 * SUB, 2 * SUB);
	struct pgmap_folio *folio;

	CHECK_EQ(create_at(FAR, 6 * SUB), -ENOMEM);
	CHECK_EQ(pgmap_get_folio(map, FAR + 2 * SUB, 0, &folio), 0);
	pgmap_folio_unlock(folio);
	pgmap_kill(map);
	CHECK_EQ(create_at(FAR + 2 * SUB, 2 * SUB), -ENOMEM);
	CHECK_EQ(create_at(FAR, 6 * SUB), -ENOMEM);
	pgmap_folio_put(folio);
	/* Killed and idle is not destroyed. */
	CHECK_EQ(create_at(FAR + 2 * SUB, 2 * SUB), -ENOMEM);
	CHECK_EQ(pgmap_destroy(map), 0);
	CHECK_EQ(create_at(FAR + 2 * SUB, 2 * SUB), 0);
}

TEST(R7_a_failed_create_leaves_nothing_behind)
{
	struct pgmap *other = map_new(FAR + 8 * SUB, SUB), *map = NULL;
	struct pgmap_desc d = desc_of(FAR, SUB);

	d.nr_range = 3;
	d.range[1] = (struct pgmap_range){FAR + 4 * SUB, SUB};
	d.range[2] = (struct pgmap_range){FAR + 8 * SUB, SUB};
	CHECK_EQ(pgmap_create(&d, &map), -ENOMEM);
	CHECK(!map);
	CHECK(!is_known(FAR));
	CHECK(!is_known(FAR + 4 * SUB));
	/* The same place again, and as if it had never been used. */
	d.range[2].pfn = FAR + 12 * SUB;
	CHECK_EQ(pgmap_create(&d, &map), 0);
	CHECK_EQ(pgmap_destroy(other), 0);
	for (uint64_t i = 0; i < 3; i++) {
		struct pgmap_range r;

		CHECK_EQ(pgmap_range_get(map, (uint32_t)i, &r), 0);
		CHECK_EQ(r.pfn, d.range[i].pfn);
		CHECK_EQ(r.nr, SUB);
		CHECK(is_known(r.pfn));
	}
	struct pgmap_range r;

	CHECK_EQ(pgmap_range_get(map, 3, &r), -EINVAL);
	CHECK_EQ(pgmap_destroy(map), 0);
}

TEST(N23_R7_a_create_that_fails_at_any_range_is_undone)
{
	for (uint32_t n = 1; n <= PGMAP_MAX_RANGES; n++)
		for (uint32_t k = 0; k < n; k++) {
			uint64_t step = 4 * SUB;
			struct pgmap *other = map_new(FAR + k * step, SUB);
			struct pgmap_desc d = desc_of(FAR, SUB);
			struct pgmap *map = NULL;

			d.nr_range = n;
			for (uint32_t i = 0; i < n; i++)
				d.range[i] = (struct pgmap_range){
					FAR + i * step, 2 * SUB};
			CHECK_EQ(pgmap_create(&d, &map), -ENOMEM);
			CHECK(!map);
			CHECK(is_known(FAR + k * step));
			CHECK(!is_known(FAR + k * step + SUB));
			CHECK_EQ(pgmap_destroy(other), 0);
			for (uint32_t i = 0; i < n; i++)
				CHECK(!is_known(FAR + i * step));
			CHECK_EQ(pgmap_create(&d, &map), 0);
			for (uint32_t i = 0; i < n; i++)
				CHECK(is_known(FAR + i * step + SUB));
			CHECK_EQ(pg_map_refs(map), 0);
			CHECK_EQ(pgmap_destroy(map), 0);
		}
}

TEST(R7_create_survives_the_lack_of_memory_at_every_point)
{
	struct pgmap_desc d = desc_of(FAR, SUB);
	struct pgmap *map = NULL;
	unsigned int n;
	int ret;

	d.nr_range = 3;
	d.range[1] = (struct pgmap_range){FAR + 4 * SUB, SUB};
	d.range[2] = (struct pgmap_range){FAR + 8 * SUB, SUB};
	for (n = 1; n < 100; n++) {
		pg_mem_fail_nth(n);
		ret = pgmap_create(&d, &map);
		pg_mem_fail_nth(0);
		if (!ret)
			break;
		CHECK_EQ(ret, -ENOMEM);
		CHECK(!map);
		CHECK(!is_known(FAR));
		CHECK(!is_known(FAR + 4 * SUB));
	}
	/* Two allocations a range; but memory of records is used again. */
	CHECK(n >= 4 && n <= 7);
	CHECK_EQ(pgmap_destroy(map), 0);
	/* Of a size that no map had before. */
	d = desc_of(FAR, 1ull << 29);
	pg_mem_fail_nth(1);
	CHECK_EQ(pgmap_create(&d, &map), -ENOMEM);
	CHECK(!is_known(FAR));
	CHECK_EQ(pgmap_destroy((struct pgmap *)(uintptr_t)4096), -EINVAL);
	CHECK_EQ(pgmap_destroy((struct pgmap *)UINTPTR_MAX), -EINVAL);
}

TEST(there_is_room_for_many_maps_and_no_more)
{
	static struct pgmap *map[PG_NR_MAPS];
	uint32_t n = 0;

	for (; n < PG_NR_MAPS; n++) {
		struct pgmap_desc d = desc_of(0, SUB);

		if (pgmap_create(&d, &map[n]))
			break;
	}
	CHECK_EQ(n, PG_NR_MAPS);
	CHECK_EQ(create_at(0, SUB), -ENOSPC);
	for (uint32_t i = 0; i < n; i++)
		CHECK_EQ(pgmap_destroy(map[i]), 0);
	CHECK_EQ(create_at(0, SUB), 0);
}

/* ---- Finding ---- */

TEST(R8_a_lookup_uses_its_hint_up)
{
	struct pgmap *a = map_new(FAR, 2 * SUB),
		     *b = map_new(FAR + 2 * SUB, SUB);
	struct pgmap *m = pgmap_lookup(FAR, NULL);

	CHECK(m == a);
	CHECK_EQ(pg_map_refs(a), 1);
	m = pgmap_lookup(FAR + SUB, m);
	CHECK(m == a);
	CHECK_EQ(pg_map_refs(a), 1);
	m = pgmap_lookup(FAR + 2 * SUB, m);
	CHECK(m == b);
	CHECK_EQ(pg_map_refs(a), 0);
	CHECK_EQ(pg_map_refs(b), 1);
	CHECK(!pgmap_lookup(FAR + 3 * SUB, m));
	CHECK_EQ(pg_map_refs(b), 0);
	CHECK(!is_known(0));
	CHECK(!is_known(UINT64_MAX));
	/* A hint that dies is used up, too: a chain of lookups ends. */
	m = pgmap_lookup(FAR, NULL);
	pgmap_kill(a);
	CHECK(!pgmap_lookup(FAR, m));
	CHECK_EQ(pg_map_refs(a), 0);
	CHECK_EQ(pgmap_get_type(a), PGMAP_PRIVATE);
	CHECK(pgmap_get_data(a) == &freed);
	CHECK_EQ(pgmap_destroy(a), 0);
	CHECK_EQ(pgmap_destroy(b), 0);
}

static _Atomic(bool) stop;

static void *look_up_for_ever(void *arg)
{
	struct pgmap *m = NULL;
	uint64_t pfn = FAR;

	while (!stop) {
		m = pgmap_lookup(pfn, m);
		if (m) {
			struct pgmap_range r;

			/* A reference keeps it as it is. */
			MUST(pgmap_get_data(m) == &freed);
			MUST(!pgmap_range_get(m, 0, &r));
			MUST(pfn >= r.pfn && pfn < r.pfn + r.nr);
			(*(_Atomic(unsigned int) *)arg)++;
		}
		pfn = pfn == FAR ? FAR + SUB : FAR;
	}
	if (m)
		pgmap_put(m);
	return NULL;
}

TEST(R8_lookups_race_with_create_and_destroy)
{
	static _Atomic(unsigned int) found;
	pthread_t t[2];

	stop = false;
	for (int i = 0; i < 2; i++)
		CHECK_EQ(pthread_create(&t[i], NULL, look_up_for_ever, &found),
			 0);
	for (int i = 0; i < 20000 || (!found && i < 2000000); i++) {
		/* The same place and the same pfns, now as one, now as two. */
		struct pgmap *a = map_new(FAR, i % 2 ? SUB : 2 * SUB), *b;

		if (i % 2) {
			b = map_new(FAR + SUB, SUB);
			CHECK_EQ(pgmap_destroy(b), 0);
		}
		CHECK_EQ(pgmap_destroy(a), 0);
	}
	stop = true;
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	CHECK(found);
	CHECK(!is_known(FAR));
}

static void *create_and_destroy(void *arg)
{
	uint64_t seed = *(uint64_t *)arg;

	while (!stop) {
		struct pgmap *m[4] = {NULL};

		/* Below the one that stays: its place in the index moves. */
		for (uint64_t i = 0; i < 4; i++) {
			struct pgmap_desc d =
				desc_of(FAR + 2 * i * SUB,
					(1 + test_random(&seed) % 2) * SUB);
			int ret = pgmap_create(&d, &m[i]);

			MUST(!ret || ret == -ENOMEM);
		}
		for (int i = 0; i < 4; i++)
			MUST(!m[i] || !pgmap_destroy(m[i]));
	}
	return NULL;
}

TEST(R8_a_lookup_never_misses_a_map_that_stays)
{
	struct pgmap *stays = map_new(FAR + 100 * SUB, SUB);
	uint64_t seed = test_seed();
	pthread_t t;

	stop = false;
	CHECK_EQ(pthread_create(&t, NULL, create_and_destroy, &seed), 0);
	for (int i = 0; i < 100000; i++) {
		MUST(pgmap_lookup(FAR + 100 * SUB, NULL) == stays);
		pgmap_put(stays);
		MUST(!is_known(FAR + 101 * SUB));
	}
	stop = true;
	pthread_join(t, NULL);
	CHECK_EQ(pgmap_destroy(stays), 0);
}

/* ---- What a map says of its pages ---- */

TEST(R16_R17_R18_a_map_is_what_its_desc_said)
{
	struct pgmap_desc d = desc_of(FAR, 4 * SUB);
	struct pgmap_range r;
	struct pgmap *map;

	d.folio_order = 9;
	d.reserve = 3;
	CHECK_EQ(pgmap_create(&d, &map), 0);
	CHECK(pgmap_get_owner(map) == d.owner);
	CHECK_EQ(pgmap_range_get(map, 0, &r), 0);
	CHECK_EQ(r.nr, 4 * SUB);
	/* One record for each folio, whatever page is asked for. */
	for (uint64_t i = 0; i < 4 * SUB; i++)
		CHECK(pg_map_folio(map, FAR + i) ==
		      pg_map_folio(map, FAR) + i / SUB);
	CHECK_EQ(pgmap_destroy(map), 0);
}

TEST(R17_folios_are_not_smaller_than_the_map_says)
{
	struct pgmap_desc d = desc_of(FAR, 4 * SUB);
	struct pgmap_folio *folio, *no = NULL;
	struct pgmap *map;

	d.folio_order = 9;
	CHECK_EQ(pgmap_create(&d, &map), 0);
	CHECK_EQ(pgmap_get_folio(map, FAR, 8, &no), -EINVAL);
	CHECK_EQ(pgmap_get_folio(map, FAR + 1, 0, &no), -EINVAL);
	CHECK(!no);
	CHECK_EQ(pgmap_get_folio(map, FAR + 2 * SUB, 10, &folio), 0);
	CHECK_EQ(pgmap_folio_pfn(folio), FAR + 2 * SUB);
	CHECK_EQ(pgmap_folio_order(folio), 10);
	CHECK_EQ(pg_map_refs(map), 2 * SUB);
	CHECK_EQ(pgmap_get_folio(map, FAR + 3 * SUB, 9, &no), -EBUSY);
	for (uint64_t i = 0; i < 2 * SUB; i++) {
		CHECK(pgmap_tryget_pfn(FAR + 2 * SUB + i) == folio);
		CHECK(!pgmap_tryget_pfn(FAR + i));
	}
	pgmap_folio_unlock(folio);
	pg_folio_put_many(folio, 1 + 2 * (uint32_t)SUB);
	CHECK_EQ(pg_map_refs(map), 0);
	CHECK_EQ(pgmap_destroy(map), 0);
}

TEST(R18_a_reserve_that_leaves_no_folio_is_refused)
{
	uint64_t nr = (uint64_t)1 << PGMAP_PUD_ORDER;
	struct pgmap_desc d = desc_of(FAR, 2 * nr);
	struct pgmap *map;

	d.folio_order = PGMAP_PUD_ORDER;
	d.reserve = nr + 1; /* both folios */
	CHECK_EQ(pgmap_create(&d, &map), -EINVAL);
	d.reserve = 2 * nr;
	CHECK_EQ(pgmap_create(&d, &map), -EINVAL);
	d.reserve = UINT64_MAX;
	CHECK_EQ(pgmap_create(&d, &map), -EINVAL);
	d.reserve = nr;
	CHECK_EQ(pgmap_create(&d, &map), 0);
	CHECK_EQ(pgmap_destroy(map), 0);
}

TEST(R18_what_is_reserved_is_never_handed_out_and_the_rest_is)
{
	struct pgmap_desc d = desc_of(FAR, 2 * SUB);
	struct pgmap_folio *folio;
	uint64_t got = 0;
	struct pgmap *map;
	size_t n;

	d.reserve = 5;
	d.nr_range = 2;
	d.range[1] = (struct pgmap_range){FAR + 4 * SUB, SUB};
	CHECK_EQ(pgmap_create(&d, &map), 0);
	for (uint64_t i = 0; i < 2 * SUB; i++) {
		CHECK_EQ(pg_map_is_reserved(map, FAR + i), i < 5);
		if (pgmap_get_folio(map, FAR + i, 0, &folio))
			continue;
		got++;
		pgmap_folio_unlock(folio);
		pgmap_folio_put(folio);
	}
	CHECK_EQ(got, 2 * SUB - 5);
	CHECK(!pg_map_is_reserved(map, FAR + 4 * SUB));
	CHECK_EQ(pgmap_get_folio(map, FAR, 9, &folio), -EINVAL);
	CHECK_EQ(pgmap_get_folio(map, FAR + 4, 2, &folio), -EINVAL);
	CHECK_EQ(pgmap_get_folios(map, FAR + 4, 8, &folio, 1, &n), -ENOSPC);
	CHECK_EQ(pgmap_get_folios(map, FAR + 4, 4, &folio, 1, &n), -EINVAL);
	CHECK_EQ(pg_map_refs(map), 0);
	CHECK_EQ(pgmap_destroy(map), 0);
}

TEST(R19_R31_pages_of_every_type_are_born_idle)
{
	for (enum pgmap_type t = PGMAP_PRIVATE; t <= PGMAP_PCI_P2PDMA; t++)
		for (uint32_t o = 0; o <= 9; o += 9) {
			struct pgmap_desc d = desc_of_type(t, FAR, 2 * SUB);
			static const struct pgmap_folio none;
			struct pgmap_folio *folio;
			struct pgmap *map;

			d.folio_order = o;
			CHECK_EQ(pgmap_create(&d, &map), 0);
			for (uint64_t i = 0; i < 2 * SUB; i++) {
				CHECK(!memcmp(pg_map_folio(map, FAR + i), &none,
					      sizeof(none)));
				CHECK(!pgmap_tryget_pfn(FAR + i));
			}
			/* What it has been is no concern of the next map. */
			CHECK_EQ(pgmap_get_folio(map, FAR + SUB, 9, &folio), 0);
			pgmap_folio_unlock(folio);
			pgmap_folio_put(folio);
			CHECK_EQ(pgmap_destroy(map), 0);
		}
}

/* ---- The end ---- */

TEST(R9_a_killed_map_is_not_found_but_its_holders_go_on)
{
	struct pgmap *map = map_new(FAR, SUB);
	struct pgmap_folio *folio;

	CHECK_EQ(pgmap_get_folio(map, FAR + 8, 3, &folio), 0);
	CHECK(is_known(FAR));
	pgmap_kill(map);
	CHECK(!is_known(FAR));
	CHECK(!is_known(FAR + 8));
	CHECK(pgmap_folio_map(folio) == map);
	CHECK_EQ(pgmap_folio_pfn(folio), FAR + 8);
	CHECK_EQ(pgmap_folio_order(folio), 3);
	pgmap_folio_unlock(folio);
	pgmap_folio_put(folio);
	CHECK_EQ(pgmap_destroy(map), 0);
}

static _Atomic(bool) destroyed;

static void *destroy_thread(void *map)
{
	MUST(!pgmap_destroy(map));
	destroyed = true;
	return NULL;
}

TEST(R10_R13_destroy_waits_for_the_last_page_and_frees_after_it)
{
	struct pgmap *map = map_new(FAR, SUB);
	struct pgmap_folio *a, *b;
	pthread_t t;

	CHECK_EQ(pgmap_get_folio(map, FAR, 0, &a), 0);
	CHECK_EQ(pgmap_get_folio(map, FAR + 2, 1, &b), 0);
	pgmap_folio_unlock(a);
	pgmap_folio_unlock(b);
	destroyed = false;
	CHECK_EQ(pthread_create(&t, NULL, destroy_thread, map), 0);
	/* First the kill: nobody finds it any more. */
	while (!pgmap_is_dying(map))
		usleep(100);
	CHECK(!is_known(FAR));
	pgmap_folio_put(a);
	usleep(50000);
	CHECK(!destroyed);
	/* What is held is still what it was. */
	CHECK_EQ(pgmap_folio_order(b), 1);
	CHECK_EQ(pgmap_folio_count(b), 1);
	pgmap_folio_put(b);
	pthread_join(t, NULL);
	CHECK(destroyed);
	CHECK_EQ(create_at(FAR, SUB), 0);
}

TEST(R10_a_held_page_of_any_type_keeps_its_map)
{
	for (enum pgmap_type t = PGMAP_PRIVATE; t <= PGMAP_PCI_P2PDMA; t++) {
		struct pgmap_desc d = desc_of_type(t, FAR, SUB);
		struct pgmap_folio *folio;
		struct pgmap *map;
		pthread_t thread;

		CHECK_EQ(pgmap_create(&d, &map), 0);
		CHECK_EQ(pgmap_get_folio(map, FAR, 4, &folio), 0);
		pgmap_folio_unlock(folio);
		destroyed = false;
		CHECK_EQ(pthread_create(&thread, NULL, destroy_thread, map), 0);
		while (!pgmap_is_dying(map))
			usleep(100);
		usleep(5000);
		CHECK(!destroyed);
		CHECK_EQ(pgmap_folio_pfn(folio), FAR);
		CHECK(pgmap_tryget_pfn(FAR + 15) == folio);
		pgmap_folio_put(folio);
		usleep(5000);
		CHECK(!destroyed);
		pgmap_folio_put(folio);
		pthread_join(thread, NULL);
		CHECK(destroyed);
		CHECK(!pgmap_tryget_pfn(FAR));
	}
}

TEST(R11_a_folio_holds_a_reference_for_each_page)
{
	struct pgmap *map = map_new(FAR, SUB);
	struct pgmap_folio *folio[PGMAP_PMD_ORDER + 1];

	for (unsigned int o = 0; o < PGMAP_PMD_ORDER; o++) {
		uint64_t before = pg_map_refs(map);

		CHECK_EQ(pgmap_get_folio(map, FAR + (1u << o), o, &folio[o]),
			 0);
		CHECK_EQ(pg_map_refs(map), before + (1u << o));
		pgmap_folio_unlock(folio[o]);
	}
	for (unsigned int o = 0; o < PGMAP_PMD_ORDER; o++) {
		uint64_t before = pg_map_refs(map);

		pgmap_folio_put(folio[o]);
		CHECK_EQ(pg_map_refs(map), before - (1u << o));
	}
	CHECK_EQ(pg_map_refs(map), 0);
	CHECK_EQ(pgmap_destroy(map), 0);
}

TEST(R12_a_dying_map_hands_out_no_page)
{
	struct pgmap *map = map_new(FAR, SUB);
	struct pgmap_folio *folio = NULL;

	pgmap_kill(map);
	CHECK_EQ(pgmap_get_folio(map, FAR, 0, &folio), -ENODEV);
	CHECK_EQ(pgmap_get_folio(map, FAR, 9, &folio), -ENODEV);
	CHECK(!folio);
	CHECK_EQ(pgmap_folio_count(pg_map_folio(map, FAR)), 0);
	CHECK_EQ(pg_map_refs(map), 0);
	CHECK_EQ(pgmap_destroy(map), 0);
}

TEST(N51_who_holds_a_page_of_a_dying_map_goes_on_and_nobody_new_comes)
{
	struct pgmap *map = map_new(FAR, SUB);
	struct pgmap_folio *folio, *no = NULL;

	CHECK_EQ(pgmap_get_folio(map, FAR, 2, &folio), 0);
	pgmap_folio_unlock(folio);
	pgmap_kill(map);
	/* The holder, and who is led to the page by its entry. */
	pgmap_folio_get(folio);
	CHECK(pgmap_tryget_pfn(FAR + 3) == folio);
	CHECK(pgmap_folio_trylock(folio));
	CHECK_EQ(pgmap_split_folio(folio, 0), -EAGAIN);
	pg_folio_put_many(folio, 2);
	CHECK_EQ(pgmap_split_folio(folio, 0), 0);
	CHECK_EQ(pg_map_refs(map), 4);
	/* Who asks for the map, or for a new page. */
	CHECK(!pgmap_lookup(FAR, NULL));
	CHECK_EQ(pgmap_get_folio(map, FAR + 4, 0, &no), -ENODEV);
	for (uint64_t i = 0; i < 4; i++)
		pgmap_folio_put(pg_map_folio(map, FAR + i));
	CHECK(!pgmap_tryget_pfn(FAR));
	CHECK_EQ(pgmap_destroy(map), 0);
}

TEST(R64_who_holds_a_page_of_a_dying_map_may_take_more_references)
{
	struct pgmap *map = map_new(FAR, SUB);
	struct pgmap_folio *folio;

	CHECK_EQ(pgmap_get_folio(map, FAR, 0, &folio), 0);
	pgmap_folio_unlock(folio);
	pgmap_kill(map);
	pgmap_folio_get(folio);
	CHECK(pgmap_folio_tryget(folio));
	CHECK_EQ(pgmap_folio_count(folio), 3);
	pgmap_folio_put(folio);
	pgmap_folio_put(folio);
	pgmap_folio_put(folio);
	CHECK(!pgmap_folio_tryget(folio));
	CHECK_EQ(pgmap_destroy(map), 0);
}

TEST(R67_a_map_that_was_killed_says_so)
{
	struct pgmap *map = map_new(FAR, SUB);

	CHECK(!pgmap_is_dying(map));
	pgmap_kill(map);
	CHECK(pgmap_is_dying(map));
	CHECK_EQ(pgmap_destroy(map), 0);
}

TEST(R20_a_second_map_takes_other_pages)
{
	struct pgmap *map[8];

	for (int i = 0; i < 8; i++)
		map[i] = map_new(0, SUB * (uint64_t)(i + 1));
	for (int i = 0; i < 8; i++) {
		struct pgmap_range r;

		CHECK_EQ(pgmap_range_get(map[i], 0, &r), 0);
		CHECK(r.pfn >= FIRST);
		CHECK_EQ(r.nr, SUB * (uint64_t)(i + 1));
		CHECK(pgmap_lookup(r.pfn, NULL) == map[i]);
		CHECK(pgmap_lookup(r.pfn + r.nr - 1, map[i]) == map[i]);
		pgmap_put(map[i]);
	}
	for (int i = 0; i < 8; i++)
		CHECK_EQ(pgmap_destroy(map[i]), 0);
}

TEST(R21_a_map_can_be_killed_again_but_not_destroyed_again)
{
	struct pgmap *map = map_new(FAR, SUB);

	pgmap_kill(map);
	pgmap_kill(map);
	CHECK(pgmap_is_dying(map));
	CHECK_EQ(pgmap_destroy(map), 0);
	CHECK_EQ(pgmap_destroy(map), -EINVAL);
	CHECK_EQ(pgmap_destroy(NULL), -EINVAL);
	CHECK_EQ(pgmap_destroy((struct pgmap *)&w), -EINVAL);
}

static void *destroy_if_there(void *map)
{
	return pgmap_destroy(map) ? NULL : map;
}

TEST(R21_of_two_who_destroy_a_map_one_does)
{
	for (int i = 0; i < 500; i++) {
		struct pgmap *map = map_new(FAR, SUB);
		void *a, *b;
		pthread_t t;

		CHECK_EQ(pthread_create(&t, NULL, destroy_if_there, map), 0);
		b = destroy_if_there(map);
		pthread_join(t, &a);
		CHECK(!a != !b);
	}
	CHECK_EQ(create_at(FAR, SUB), 0);
}

/* ---- Racing the end ---- */

static struct pgmap *racing;
static _Atomic(bool) go;
static _Atomic(unsigned int) delay;

static void *kill_thread(void *arg)
{
	unsigned int spin = *(unsigned int *)arg;

	while (!go)
		;
	for (volatile unsigned int i = 0; i < spin; i++)
		;
	MUST(!pgmap_destroy(racing));
	destroyed = true;
	return NULL;
}

TEST(N24_a_request_and_a_kill_race_and_one_of_them_wins)
{
	uint64_t seed = test_seed();
	unsigned int won = 0, lost = 0;

	for (int i = 0; i < 3000 && !(i > 500 && won && lost); i++) {
		unsigned int spin = (unsigned int)(test_random(&seed) % 200);
		struct pgmap_folio *folio = NULL;
		pthread_t t;
		int ret;

		racing = map_new(FAR, SUB);
		go = false;
		destroyed = false;
		CHECK_EQ(pthread_create(&t, NULL, kill_thread, &spin), 0);
		go = true;
		for (volatile uint64_t k =
			     test_random(&seed) % (i % 2 ? 300 : 30000);
		     k; k--)
			;
		/* A place that is dead, or gone, refuses. It is never freed,
		 * so this may be asked at any time. */
		ret = pgmap_get_folio(racing, FAR, 4, &folio);
		if (!ret) {
			won++;
			usleep(i < 20 ? 1000 : 0);
			CHECK(!destroyed);
			CHECK_EQ(pgmap_folio_count(folio), 1);
			pgmap_folio_unlock(folio);
			pgmap_folio_put(folio);
		} else {
			lost++;
			CHECK_EQ(ret, -ENODEV);
			CHECK(!folio);
		}
		pthread_join(t, NULL);
		CHECK_EQ(pg_map_refs(racing), 0);
	}
	printf("# won %u, lost %u\n", won, lost);
	CHECK(won + lost > 500);
}

/* Takes references of every kind and drops them, until it may not. */
static void *get_and_put(void *arg)
{
	uint64_t n = 0;

	(void)arg;
	while (!go)
		sched_yield();
	for (;;) {
		struct pgmap_folio *folio;
		struct pgmap *m = pgmap_lookup(FAR, NULL);

		if (!m)
			break;
		MUST(m == racing);
		if (!pgmap_get_folio(m, FAR + (uintptr_t)arg, 0, &folio)) {
			pgmap_folio_unlock(folio);
			pgmap_folio_put(folio);
		}
		pgmap_put(m);
		n++;
	}
	return (void *)(uintptr_t)n;
}

TEST(R22_no_reference_is_lost_when_a_kill_makes_the_count_exact)
{
	uint64_t seed = test_seed(), n = 0;

	alarm(100);
	for (int i = 0; i < 400; i++) {
		uint32_t drained;
		void *count;
		pthread_t t[3];

		racing = map_new(FAR, SUB);
		drained = pg_load(&racing->drained, relaxed);
		go = false;
		for (uintptr_t k = 0; k < 3; k++)
			CHECK_EQ(pthread_create(&t[k], NULL, get_and_put,
						(void *)k),
				 0);
		go = true;
		usleep((useconds_t)(test_random(&seed) % 500));
		pgmap_kill(racing);
		for (int k = 0; k < 3; k++) {
			pthread_join(t[k], &count);
			n += (uintptr_t)count;
		}
		CHECK_EQ(pg_map_refs(racing), 0);
		/* The last reference, or the kill, and not both. */
		CHECK_EQ(pg_load(&racing->drained, relaxed), drained + 1);
		CHECK_EQ(pgmap_destroy(racing), 0);
	}
	alarm(0);
	printf("# %ju times\n", (uintmax_t)n);
	CHECK(n);
}

TEST(R22_references_may_be_dropped_on_another_thread_than_they_were_taken_on)
{
	pthread_t t[4];

	racing = map_new(FAR, SUB);
	for (int i = 0; i < 4; i++)
		CHECK(pgmap_lookup(FAR, NULL) == racing);
	CHECK_EQ(pg_map_refs(racing), 4);
	for (int i = 0; i < 4; i++)
		CHECK_EQ(pthread_create(
				 &t[i], NULL,
				 (void *(*)(void *))(void (*)(void))pgmap_put,
				 racing),
			 0);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	CHECK_EQ(pg_map_refs(racing), 0);
	CHECK_EQ(pgmap_destroy(racing), 0);
}

static void *kill_and_look(void *arg)
{
	(void)arg;
	while (!go)
		;
	pgmap_kill(racing);
	/* Whoever comes from now on, on whatever thread. */
	for (uint32_t i = 0; i < PG_NR_SHARDS; i++)
		MUST(!pg_load(&racing->shard[i].refs, relaxed));
	MUST(pgmap_is_dying(racing));
	return NULL;
}

TEST(R12_R21_of_two_who_kill_a_map_none_returns_before_it_is_dead)
{
	for (int i = 0; i < 1000; i++) {
		pthread_t t[2];

		racing = map_new(FAR, SUB);
		go = false;
		for (int k = 0; k < 2; k++)
			CHECK_EQ(pthread_create(&t[k], NULL, kill_and_look,
						NULL),
				 0);
		go = true;
		for (int k = 0; k < 2; k++)
			pthread_join(t[k], NULL);
		CHECK_EQ(pgmap_destroy(racing), 0);
	}
}

static void drop_what_was_not_taken(void)
{
	pgmap_put(racing);
	pgmap_kill(racing);
}

static void drop_from_a_dead_map(void)
{
	pgmap_kill(racing);
	pgmap_put(racing);
}

TEST(R55_a_map_that_was_put_too_often_ends_the_process)
{
	racing = map_new(FAR, SUB);
	CHECK(dies(drop_what_was_not_taken));
	CHECK(dies(drop_from_a_dead_map));
	CHECK_EQ(pgmap_destroy(racing), 0);
}

static void *put_thread(void *folio)
{
	while (!go)
		;
	for (volatile unsigned int i = 0; i < delay % 100; i++)
		;
	pgmap_folio_put(folio);
	return NULL;
}

TEST(R42_the_last_put_and_the_wait_for_it_never_miss_each_other)
{
	alarm(60);
	for (int i = 0; i < 2000; i++) {
		struct pgmap *map = map_new(FAR, SUB);
		struct pgmap_folio *folio;
		pthread_t t;

		delay = (unsigned int)i;
		go = false;
		CHECK_EQ(pgmap_get_folio(map, FAR, 0, &folio), 0);
		pgmap_folio_unlock(folio);
		CHECK_EQ(pthread_create(&t, NULL, put_thread, folio), 0);
		go = true;
		CHECK_EQ(pgmap_destroy(map), 0);
		pthread_join(t, NULL);
	}
	alarm(0);
}

/* ---- Handing out by number ---- */

TEST(R60_a_page_is_handed_out_once_and_refusals_change_nothing)
{
	static const struct {
		uint64_t pfn;
		unsigned int order;
		int ret;
	} t[] = {
		{FAR + 8, 0, -EBUSY},	 {FAR + 8, 2, -EBUSY},
		{FAR + 9, 1, -EINVAL},	 {FAR + 4, 3, -EINVAL},
		{FAR + 0, 10, -EINVAL},	 {FAR + 0, 19, -EINVAL},
		{FAR + 0, 31, -EINVAL},	 {FAR + 0, 64, -EINVAL},
		{FAR - 1, 0, -EINVAL},	 {FAR + SUB, 0, -EINVAL},
		{FAR + SUB, 9, -EINVAL}, {0, 0, -EINVAL},
	};
	struct pgmap *map = map_new(FAR, SUB);
	struct pgmap_folio *folio, *no = NULL;

	CHECK_EQ(pgmap_get_folio(map, FAR + 8, 3, &folio), 0);
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		CHECK_EQ(pgmap_get_folio(map, t[i].pfn, t[i].order, &no),
			 t[i].ret);
		CHECK(!no);
		CHECK_EQ(pg_map_refs(map), 8);
		CHECK_EQ(pgmap_folio_count(folio), 1);
		CHECK_EQ(pgmap_folio_order(folio), 3);
	}
	pgmap_folio_unlock(folio);
	pgmap_folio_put(folio);
	CHECK_EQ(pg_map_refs(map), 0);
	CHECK_EQ(pgmap_destroy(map), 0);
}

/* Pages of [p, p + len) that are backed. */
static size_t backed_at(const void *p, size_t len)
{
	static unsigned char vec[1u << 18];
	size_t n = 0;

	CHECK(len / PAGE <= sizeof(vec));
	CHECK_EQ(mincore((void *)(uintptr_t)p, len, vec), 0);
	for (size_t i = 0; i < (len + PAGE - 1) / PAGE; i++)
		n += vec[i] & 1;
	return n;
}

/* Pages of the records of [pfn, pfn + nr) that are backed. */
static size_t backed(const struct pgmap *map, uint64_t pfn, uint64_t nr)
{
	return backed_at(pg_map_folio(map, pfn),
			 nr * sizeof(struct pgmap_folio));
}

/* All that is backed for a map of one range. */
static size_t metadata(const struct pgmap *map)
{
	const struct pg_map_range *r = &map->range[0];
	uint64_t nr = pg_load(&r->nr, relaxed);
	uint64_t records = nr >> map->folio_order;

	return PAGE *
	       (backed_at(r->folios, records * sizeof(*r->folios)) +
		backed_at(r->claims,
			  (uintptr_t)r->bad - (uintptr_t)r->claims + nr / 8));
}

TEST(R191_R193_metadata_is_32_bytes_a_folio_and_a_bit)
{
	static const struct {
		uint32_t folio_order, order;
		uint64_t nr;
		double bytes; /* a folio */
	} t[] = {
		{0, 0, 1ull << 18, 32.125},
		{9, 9, 1ull << 26, 32.125},
		{18, 18, 1ull << 32, 32.125},
		/* A 2 MB folio of small pages: the page that its head is on,
		 * and 512 bits. */
		{0, 9, 1ull << 21, 4096 + 64},
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct pgmap_desc d = desc_of(FAR, t[i].nr);
		uint64_t step = 1ull << t[i].order;
		double folios = (double)(t[i].nr >> t[i].order), bytes;
		struct pgmap_folio *folio;
		struct pgmap *map;

		d.folio_order = t[i].folio_order;
		CHECK_EQ(pgmap_create(&d, &map), 0);
		CHECK_EQ(metadata(map), 0);
		for (uint64_t k = 0; k < t[i].nr; k += step) {
			CHECK_EQ(pgmap_get_folio(map, FAR + k, t[i].order,
						 &folio),
				 0);
			pgmap_folio_unlock(folio);
		}
		bytes = (double)metadata(map);
		printf("# map of order %2u, folios of order %2u: %.2f bytes a "
		       "folio, %.3f MB a TB\n",
		       t[i].folio_order, t[i].order, bytes / folios,
		       bytes / (double)(t[i].nr >> 8));
		CHECK(bytes < 1.01 * t[i].bytes * folios);
		for (uint64_t k = 0; k < t[i].nr; k += step)
			pgmap_folio_put(pgmap_tryget_pfn(FAR + k));
		for (uint64_t k = 0; k < t[i].nr; k += step)
			pgmap_folio_put(pg_map_folio(map, FAR + k));
		CHECK_EQ(pg_map_refs(map), 0);
		CHECK_EQ(pgmap_destroy(map), 0);
	}
}

TEST(R194_a_map_of_any_size_costs_nothing_until_pages_are_used)
{
	uint64_t gb = 1ull << 18, nr = 4 * gb;
	struct pgmap *map = map_new(FAR, nr);
	struct pgmap_folio *folio;

	CHECK_EQ(backed(map, FAR, nr), 0);
	CHECK_EQ(pgmap_folio_count(pg_map_folio(map, FAR + nr / 2)), 0);
	CHECK_EQ(pgmap_get_folio(map, FAR, 9, &folio), 0);
	pgmap_folio_unlock(folio);
	/* Large folios leave most of their records alone. */
	CHECK_EQ(pg_map_folio(map, FAR) + 511, pg_map_folio(map, FAR + 511));
	CHECK(backed(map, FAR, SUB) <= 1);
	CHECK(backed(map, FAR, nr) <= 2);
	pgmap_folio_put(folio);
	CHECK_EQ(pgmap_destroy(map), 0);

	/* 16 TB. */
	map = map_new(FAR, 16 * 1024 * gb);
	CHECK_EQ(backed(map, FAR, nr), 0);
	CHECK(is_known(FAR + 16 * 1024 * gb - 1));
	CHECK_EQ(pgmap_get_folio(map, FAR + 16 * 1024 * gb - 512, 9, &folio),
		 0);
	pgmap_folio_unlock(folio);
	pgmap_folio_put(folio);
	CHECK_EQ(pgmap_destroy(map), 0);
}

TEST_MAIN()
