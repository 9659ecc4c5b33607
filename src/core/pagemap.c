/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/pagemap.h"

#include <errno.h>
#include <string.h>

#include "base/bug.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/mutant.h"
#include "core/folio.h"

#define LIVE ((uint64_t)1 << 63)

static struct pgmap maps[PG_NR_MAPS];
static struct pg_lock maps_lock; /* LOCK_PAGEMAP: used, and who may create */
static pg_atomic32 nr_maps;	 /* places below are or were used; release */

uint32_t pg_map_id(const struct pgmap *map)
{
	return (uint32_t)(map - maps) + 1;
}

struct pgmap *pg_map_of(uint32_t id)
{
	pg_bug_on(id == 0 || id > PG_NR_MAPS);
	return &maps[id - 1];
}

bool pg_map_tryget_live(struct pgmap *map, uint64_t n)
{
	uint64_t v = pg_load(&map->refs, relaxed);

	do {
		if (!(v & LIVE) && !pg_mutant("hand_out_from_dying"))
			return false;
	} while (!pg_cas(&map->refs, &v, v + n, acquire));
	return true;
}

void pg_map_put_many(struct pgmap *map, uint64_t n)
{
	uint64_t was = pg_fetch_sub(&map->refs, n, acq_rel);

	pg_bug_on((was & ~LIVE) < n); /* R55 */
	if (was == n && !pg_mutant("wake_up_lost")) {
		/* Dead and drained; partner: the loop in pgmap_destroy(). */
		pg_fetch_add(&map->drained, 1, release);
		pg_wake(&map->drained);
	}
}

uint64_t pg_map_refs(const struct pgmap *map)
{
	return pg_load(&map->refs, acquire) & ~LIVE;
}

static const struct pg_map_range *range_of(const struct pgmap *map,
					   uint64_t pfn)
{
	for (uint32_t i = 0; i < PGMAP_MAX_RANGES; i++) {
		const struct pg_map_range *r = &map->range[i];
		uint64_t first = pg_load(&r->pfn, relaxed);

		if (pfn >= first && pfn - first < pg_load(&r->nr, relaxed))
			return r;
	}
	return NULL;
}

struct pgmap_folio *pg_map_folio(const struct pgmap *map, uint64_t pfn)
{
	const struct pg_map_range *r = range_of(map, pfn);

	return r ? &r->folios[pfn - pg_load(&r->pfn, relaxed)] : NULL;
}

struct pgmap *pgmap_lookup(uint64_t pfn, struct pgmap *hint)
{
	uint32_t n = pg_load(&nr_maps, acquire);

	if (hint && range_of(hint, pfn) && !pgmap_is_dying(hint))
		return hint;
	if (hint && !pg_mutant("hint_not_put"))
		pg_map_put_many(hint, 1);
	for (uint32_t i = 0; i < n; i++) {
		struct pgmap *map = &maps[i];

		if (!range_of(map, pfn) || !pg_map_tryget_live(map, 1))
			continue;
		/* The place may have changed its map before we got hold. */
		if (range_of(map, pfn))
			return map;
		pg_map_put_many(map, 1);
	}
	return NULL;
}

void pgmap_put(struct pgmap *map)
{
	pg_map_put_many(map, 1);
}

bool pgmap_is_dying(const struct pgmap *map)
{
	return !(pg_load(&map->refs, acquire) & LIVE) &&
	       !pg_mutant("dying_unnoticed");
}

enum pgmap_type pgmap_get_type(const struct pgmap *map)
{
	return map->type;
}

void *pgmap_get_data(const struct pgmap *map)
{
	return map->data;
}

int pgmap_range_get(const struct pgmap *map, uint32_t i,
		    struct pgmap_range *range)
{
	if (i >= map->nr_range)
		return -EINVAL;
	range->pfn = pg_load(&map->range[i].pfn, relaxed);
	range->nr = pg_load(&map->range[i].nr, relaxed);
	return 0;
}

static int check_desc(const struct pgmap_desc *d)
{
	if (d->size != sizeof(*d) || d->type < PGMAP_PRIVATE ||
	    (d->type > PGMAP_PCI_P2PDMA && !pg_mutant("unknown_type_accepted")))
		return -EINVAL;
	if (d->type != PGMAP_PRIVATE && !pg_mutant("other_types_accepted"))
		return -EOPNOTSUPP;
	if (!d->nr_range || d->nr_range > PGMAP_MAX_RANGES)
		return -EINVAL;
	if (!d->ops || !d->ops->size || d->ops->size > sizeof(*d->ops))
		return -EINVAL;
	if ((!d->ops->folio_free || !d->ops->migrate_to_ram || !d->owner) &&
	    !pg_mutant("ops_not_checked"))
		return -EINVAL;
	for (uint32_t i = 0; i < d->nr_range; i++) {
		const struct pgmap_range *r = &d->range[i];
		bool choose = d->nr_range == 1 && !r->pfn;

		if (!r->nr || r->pfn + r->nr < r->pfn ||
		    r->pfn + r->nr > 1ull << 51)
			return -EINVAL;
		if ((r->nr | r->pfn) % PGMAP_SUBSECTION_PAGES &&
		    !pg_mutant("any_granularity"))
			return -EINVAL;
		if (!choose && r->pfn < PGMAP_FIRST_DEVICE_PFN &&
		    !pg_mutant("system_memory_accepted"))
			return -ENXIO;
	}
	return 0;
}

/* Does [pfn, pfn + nr) touch a map, dying ones included (R6)? If so, *after
 * is the first pfn behind that map. */
static bool overlaps(uint64_t pfn, uint64_t nr, uint64_t *after)
{
	for (uint32_t i = 0; i < PG_NR_MAPS; i++) {
		if (!pg_load(&maps[i].used, relaxed))
			continue;
		if (pg_mutant("overlap_ignores_dying") &&
		    pgmap_is_dying(&maps[i]))
			continue;
		for (uint32_t k = 0; k < maps[i].nr_range; k++) {
			uint64_t p = pg_load(&maps[i].range[k].pfn, relaxed);
			uint64_t n = pg_load(&maps[i].range[k].nr, relaxed);
			bool hit = pfn < p + n && p < pfn + nr;

			if (pg_mutant("overlap_checks_ends_only"))
				hit = (pfn >= p && pfn < p + n) ||
				      (pfn + nr - 1 >= p &&
				       pfn + nr - 1 < p + n);
			if (hit) {
				*after = p + n;
				return true;
			}
		}
	}
	return false;
}

static void drop_ranges(struct pgmap *map)
{
	for (uint32_t i = 0; i < PGMAP_MAX_RANGES; i++) {
		struct pg_map_range *r = &map->range[i];
		uint64_t nr = pg_load(&r->nr, relaxed);

		pg_store(&r->nr, 0, relaxed);
		pg_store(&r->pfn, 0, relaxed);
		pg_mem_unmap(r->folios, nr * sizeof(*r->folios));
		r->folios = NULL;
	}
	map->nr_range = 0;
}

static int add_range(struct pgmap *map, uint64_t pfn, uint64_t nr)
{
	struct pg_map_range *r = &map->range[map->nr_range];
	uint64_t after = 0;

	if (!pfn) {
		pfn = PGMAP_FIRST_DEVICE_PFN;
		while (overlaps(pfn, nr, &after) &&
		       !pg_mutant("chosen_range_overlaps"))
			pfn = after;
	} else if (overlaps(pfn, nr, &after)) {
		return -ENOMEM;
	}
	if (nr > SIZE_MAX / sizeof(*r->folios))
		return -ENOMEM;
	/* Zero-filled and backed where touched: idle pages, born ready. */
	r->folios = pg_mem_map(nr * sizeof(*r->folios));
	if (!r->folios)
		return -ENOMEM;
	for (uint64_t i = 0; i < nr && pg_mutant("metadata_written"); i++)
		r->folios[i].next = 0;
	pg_store(&r->pfn, pfn, relaxed);
	pg_store(&r->nr, nr, relaxed);
	map->nr_range++;
	return 0;
}

/* Holds LOCK_PAGEMAP. */
static int create(const struct pgmap_desc *desc, struct pgmap **out)
{
	struct pgmap *map = NULL;
	uint32_t n;

	for (n = 0; n < PG_NR_MAPS && !map; n++)
		if (!pg_load(&maps[n].used, relaxed))
			map = &maps[n];
	if (!map)
		return -ENOSPC;
	map->type = desc->type;
	memset(&map->ops, 0, sizeof(map->ops));
	memcpy(&map->ops, desc->ops, desc->ops->size);
	map->owner = desc->owner;
	map->data = desc->data;
	pg_store(&map->used, 1, relaxed);
	for (uint32_t i = 0; i < desc->nr_range; i++) {
		int ret = add_range(map, desc->range[i].pfn, desc->range[i].nr);

		if (ret) {
			if (!pg_mutant("unwind_leaves_ranges"))
				drop_ranges(map);
			pg_store(&map->used, 0, relaxed);
			return ret;
		}
	}
	pg_bug_on(pg_load(&map->refs, relaxed) != 0);
	if (n > pg_load(&nr_maps, relaxed))
		pg_store(&nr_maps, n, release);
	/* From here on lookups find it; partner: the acquire in tryget. */
	pg_store(&map->refs, LIVE, release);
	*out = map;
	return 0;
}

int pgmap_create(const struct pgmap_desc *desc, struct pgmap **map)
{
	int ret = check_desc(desc);

	if (ret)
		return ret;
	pg_lock(&maps_lock, LOCK_PAGEMAP);
	ret = create(desc, map);
	pg_unlock(&maps_lock, LOCK_PAGEMAP);
	return ret;
}

void pgmap_kill(struct pgmap *map)
{
	pg_fetch_and(&map->refs, ~LIVE, acq_rel);
}

int pgmap_destroy(struct pgmap *map)
{
	if (!map || map < maps || map >= maps + PG_NR_MAPS ||
	    (!pg_load(&map->used, relaxed) && !pg_mutant("destroyed_twice")))
		return -EINVAL;
	pgmap_kill(map);
	for (;;) {
		uint32_t seen = pg_load(&map->drained, acquire);

		if (!pg_map_refs(map) || pg_mutant("destroy_does_not_wait"))
			break;
		pg_wait(&map->drained, seen, 0);
	}
	pg_lock(&maps_lock, LOCK_PAGEMAP);
	drop_ranges(map);
	pg_store(&map->used, 0, relaxed);
	pg_unlock(&maps_lock, LOCK_PAGEMAP);
	return 0;
}
