/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory groups: who pays for pages.
 */
#include "core/group.h"
#include "world.h"

#define SUB ((uint64_t)PGMAP_SUBSECTION_PAGES)

static struct pgmap *map;
static uint64_t first;

static void no_free(struct pgmap_folio *folio)
{
	(void)folio;
}

static int no_fault(struct pgmap_fault *fault)
{
	(void)fault;
	return 0;
}

static void map_open(enum pgmap_type type)
{
	static const struct pgmap_ops ops = {
		.size = sizeof(ops),
		.folio_free = no_free,
		.migrate_to_ram = no_fault,
	};
	struct pgmap_desc d = {
		.size = sizeof(d),
		.type = type,
		.nr_range = 1,
		.range = {{0, 2 * SUB}},
		.ops = &ops,
		.owner = &first,
	};
	struct pgmap_range r;

	CHECK_EQ(pgmap_create(&d, &map), 0);
	CHECK_EQ(pgmap_range_get(map, 0, &r), 0);
	first = r.pfn;
}

static struct pgmap_folio *get(uint64_t i, unsigned int order)
{
	struct pgmap_folio *folio = NULL;

	CHECK_EQ(pgmap_get_folio(map, first + i, order, &folio), 0);
	return folio;
}

static struct pgmap_group *group_new(uint64_t limit)
{
	struct pgmap_group *g = NULL;

	CHECK_EQ(pgmap_group_create(limit, &g), 0);
	CHECK_EQ(pgmap_group_charged(g), 0);
	return g;
}

TEST(R180_a_group_pays_for_device_pages_as_for_RAM_up_to_its_limit)
{
	for (enum pgmap_type t = PGMAP_PRIVATE; t <= PGMAP_COHERENT; t++) {
		struct pgmap_group *g = group_new(20);
		struct pgmap_folio *a, *b;

		map_open(t);
		a = get(0, 4);
		b = get(16, 3);
		CHECK_EQ(pgmap_group_charge(g, 4), 0);
		CHECK_EQ(pgmap_folio_charge(a, g, false), 0);
		CHECK_EQ(pgmap_group_charged(g), 20);
		CHECK_EQ(pgmap_group_charge(g, 1), -ENOMEM);
		CHECK_EQ(pgmap_folio_charge(b, g, false), -ENOMEM);
		CHECK_EQ(pgmap_group_charged(g), 20);
		CHECK_EQ(pgmap_folio_charge(a, g, false), -EINVAL);
		CHECK_EQ(pgmap_group_destroy(g), -EBUSY);
		/* Nobody pays for what is free. */
		pgmap_folio_put(a);
		CHECK_EQ(pgmap_group_charged(g), 4);
		CHECK_EQ(pgmap_folio_charge(b, g, false), 0);
		pgmap_folio_put(b);
		pgmap_group_uncharge(g, 4);
		CHECK_EQ(pgmap_group_charged(g), 0);
		CHECK_EQ(pgmap_group_destroy(g), 0);
		CHECK_EQ(pgmap_destroy(map), 0);
	}
}

TEST(R92_R180_moving_there_and_back_costs_nothing_and_never_fails)
{
	struct pgmap_group *g = group_new(512);

	map_open(PGMAP_PRIVATE);
	CHECK_EQ(pgmap_group_charge(g, 512), 0);
	for (int i = 0; i < 1000; i++) {
		struct pgmap_folio *folio = get(0, 9);

		/* The limit is used up: a charge could only fail. */
		CHECK_EQ(pgmap_folio_charge(folio, g, true), 0);
		CHECK_EQ(pgmap_group_charged(g), 512);
		CHECK(pgmap_folio_uncharge(folio) == g);
		CHECK(!pgmap_folio_uncharge(folio));
		CHECK_EQ(pgmap_group_charged(g), 512);
		pgmap_folio_put(folio);
		CHECK_EQ(pgmap_group_charged(g), 512);
	}
	pgmap_group_uncharge(g, 512);
	CHECK_EQ(pgmap_group_destroy(g), 0);
	CHECK_EQ(pgmap_destroy(map), 0);
}

TEST(R181_pages_of_files_and_devices_cost_nothing)
{
	for (enum pgmap_type t = PGMAP_FS_DAX; t <= PGMAP_PCI_P2PDMA; t++) {
		struct pgmap_group *g = group_new(8);
		struct pgmap_folio *folio;

		map_open(t);
		folio = get(0, 9);
		CHECK_EQ(pgmap_folio_charge(folio, g, false), 0);
		CHECK_EQ(pgmap_group_charged(g), 0);
		CHECK(!pgmap_folio_uncharge(folio));
		pgmap_folio_put(folio);
		/* What it replaces is gone, and so is its charge. */
		CHECK_EQ(pgmap_group_charge(g, 8), 0);
		folio = get(0, 3);
		CHECK_EQ(pgmap_folio_charge(folio, g, true), 0);
		CHECK_EQ(pgmap_group_charged(g), 0);
		pgmap_folio_put(folio);
		CHECK_EQ(pgmap_group_charged(g), 0);
		CHECK_EQ(pgmap_group_destroy(g), 0);
		CHECK_EQ(pgmap_destroy(map), 0);
	}
}

TEST(R180_each_part_of_a_split_folio_is_paid_for)
{
	struct pgmap_group *g = group_new(16);
	struct pgmap_folio *folio;

	map_open(PGMAP_PRIVATE);
	folio = get(0, 4);
	CHECK_EQ(pgmap_folio_charge(folio, g, false), 0);
	CHECK_EQ(pgmap_split_folio(folio, 2), 0);
	for (uint64_t i = 0; i < 16; i += 4) {
		CHECK_EQ(pgmap_group_charged(g), 16 - i);
		pgmap_folio_put(pg_map_folio(map, first + i));
	}
	CHECK_EQ(pgmap_group_charged(g), 0);
	CHECK_EQ(pgmap_group_destroy(g), 0);
	CHECK_EQ(pgmap_destroy(map), 0);
}

static void *charge_thread(void *arg)
{
	struct pgmap_group *g = arg;
	uint64_t held = 0, most = 0;

	for (int i = 0; i < 200000; i++) {
		if (held < 40 && !pgmap_group_charge(g, 7)) {
			held += 7;
		} else {
			pgmap_group_uncharge(g, held);
			held = 0;
		}
		if (pgmap_group_charged(g) > most)
			most = pgmap_group_charged(g);
	}
	pgmap_group_uncharge(g, held);
	return (void *)(uintptr_t)most;
}

TEST(R180_the_limit_holds_for_many_who_charge)
{
	struct pgmap_group *g = group_new(50);
	pthread_t t[3];
	void *most;

	for (int i = 0; i < 3; i++)
		CHECK_EQ(pthread_create(&t[i], NULL, charge_thread, g), 0);
	for (int i = 0; i < 3; i++) {
		pthread_join(t[i], &most);
		CHECK((uintptr_t)most <= 50);
		CHECK((uintptr_t)most > 20);
	}
	CHECK_EQ(pgmap_group_charged(g), 0);
	CHECK_EQ(pgmap_group_destroy(g), 0);
}

TEST(there_is_room_for_many_groups_and_no_more)
{
	static struct pgmap_group *g[PG_NR_GROUPS];
	struct pgmap_group *no = NULL;

	for (uint32_t i = 0; i < PG_NR_GROUPS; i++)
		g[i] = group_new(i);
	CHECK_EQ(pgmap_group_create(1, &no), -ENOSPC);
	CHECK(!no);
	/* Each has its own limit. */
	for (uint32_t i = 0; i < PG_NR_GROUPS; i++) {
		CHECK_EQ(pgmap_group_charge(g[i], i + 1), -ENOMEM);
		CHECK_EQ(pgmap_group_charge(g[i], UINT64_MAX), -ENOMEM);
	}
	for (uint32_t i = 0; i < PG_NR_GROUPS; i++)
		CHECK_EQ(pgmap_group_destroy(g[i]), 0);
	CHECK_EQ(pgmap_group_create(UINT64_MAX, &g[0]), 0);
	CHECK_EQ(pgmap_group_charge(g[0], 1ull << 40), 0);
	/* A sum that would not fit is above any limit. */
	for (unsigned int o = 41; o < 64; o++)
		if (!pgmap_group_charge(g[0], 1ull << o))
			pgmap_group_uncharge(g[0], 1ull << o);
	CHECK_EQ(pgmap_group_charge(g[0], UINT64_MAX >> 2), -ENOMEM);
	CHECK_EQ(pgmap_group_charged(g[0]), 1ull << 40);
	pgmap_group_uncharge(g[0], 1ull << 40);
	CHECK_EQ(pgmap_group_destroy(g[0]), 0);
}

static void uncharge_too_much(void)
{
	struct pgmap_group *g = group_new(8);

	pgmap_group_uncharge(g, 1);
}

TEST(R55_a_group_that_is_uncharged_too_much_ends_the_process)
{
	CHECK(dies(uncharge_too_much));
}

TEST_MAIN()
