/* SPDX-License-Identifier: BSD-3-Clause */
#include "explore/world.h"

struct world w;

/* The driver cleans the page and puts it on its list: until then nobody may
 * ask for it, after that it may be handed out before this returns. */
static void folio_free(struct pgmap_folio *folio)
{
	uint64_t pfn = pgmap_folio_pfn(folio), i = pfn - W_PFN;

	X_CHECK(w.alive);
	X_CHECK(pgmap_folio_map(folio) == w.map);
	if (i >= 4)
		return;
	w.data[i] = 0;
	pg_lock(&w.lock, LOCK_DRIVER);
	X_CHECK(w.nr_free < 4);
	w.free[w.nr_free++] = pfn;
	pg_unlock(&w.lock, LOCK_DRIVER);
}

static int migrate_to_ram(struct pgmap_fault *fault)
{
	(void)fault;
	return -EOPNOTSUPP;
}

void w_map(enum pgmap_type type)
{
	static const struct pgmap_ops ops = {
		.size = sizeof(ops),
		.folio_free = folio_free,
		.migrate_to_ram = migrate_to_ram,
	};
	const struct pgmap_desc desc = {
		.size = sizeof(desc),
		.type = type,
		.nr_range = 1,
		.range = {{.pfn = W_PFN, .nr = W_PAGES}},
		.ops = type == PGMAP_PRIVATE ? &ops : NULL,
		.owner = &w,
		.data = &w,
	};
	static const char *const name[4][2] = {
		{"page 0's count", "page 0's flags"},
		{"page 1's count", "page 1's flags"},
		{"page 2's count", "page 2's flags"},
		{"page 3's count", "page 3's flags"},
	};

	X_CHECK(!pgmap_create(&desc, &w.map));
	w.alive = true;
	for (uint64_t i = 0; i < 4; i++) {
		struct pgmap_folio *f = pg_map_folio(w.map, W_PFN + i);

		w.folio[i] = f;
		x_name(f, sizeof(*f), "a record");
		x_name(&f->count, sizeof(f->count), name[i][0]);
		x_name(&f->flags, sizeof(f->flags), name[i][1]);
	}
	x_name(w.map->shard, sizeof(w.map->shard), "the map's shards");
	x_name(&w.map->exact, sizeof(w.map->exact), "the map's references");
	x_name(&w.map->state, sizeof(w.map->state), "the map's state");
	x_name(&w.map->drained, sizeof(w.map->drained), "map.drained");
	x_name(w.map->range[0].claims, 64, "the map's claims");
}

struct pgmap_folio *w_hold(uint64_t i, unsigned int order)
{
	struct pgmap_folio *folio;

	X_CHECK(!pgmap_get_folio(w.map, W_PFN + i, order, &folio));
	pgmap_folio_unlock(folio);
	return folio;
}

void w_put_on_list(uint64_t i)
{
	w.free[w.nr_free++] = W_PFN + i;
}

struct pgmap_folio *w_alloc(void)
{
	struct pgmap_folio *folio;
	uint64_t pfn = 0;
	int ret;

	pg_lock(&w.lock, LOCK_DRIVER);
	if (w.nr_free)
		pfn = w.free[--w.nr_free];
	pg_unlock(&w.lock, LOCK_DRIVER);
	if (!pfn)
		return NULL;
	ret = pgmap_get_folio(w.map, pfn, 0, &folio);
	X_CHECK(!ret || ret == -ENODEV);
	if (ret)
		return NULL;
	X_CHECK(pgmap_folio_count(folio) == 1);
	X_CHECK(pgmap_folio_pfn(folio) == pfn);
	pgmap_folio_unlock(folio);
	return folio;
}

void w_use(struct pgmap_folio *folio)
{
	uint64_t i = pgmap_folio_pfn(folio) - W_PFN;

	X_CHECK(w.alive);
	X_CHECK(!w.data[i]);
	w.data[i] = 1;
	w.data[i] = 0;
}

void w_all_idle(void)
{
	for (int i = 0; i < 4; i++) {
		X_CHECK(!pgmap_folio_count(w.folio[i]));
		X_CHECK(!pg_range_is_claimed(&w.map->range[0], (uint64_t)i));
	}
	X_CHECK(!pg_map_refs(w.map));
	X_CHECK(!pgmap_destroy(w.map));
}
