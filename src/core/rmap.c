/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/rmap.h"

#include <string.h>

#include "base/mutant.h"
#include "core/folio.h"
#include "core/space.h"

void pg_mapping_init(struct pg_mapping *mapping,
		     const struct pg_mapping_ops *ops)
{
	memset(mapping, 0, sizeof(*mapping));
	mapping->ops = ops;
}

/* The part of @area that maps pages [index, index + nr). */
static bool part_of(const struct pg_area *area, uint64_t index, uint64_t nr,
		    uintptr_t *va, uintptr_t *end)
{
	uint64_t first = area->index;
	uint64_t last = first + (area->end - area->start) / PG_PAGE_SIZE;
	uint64_t stop = index + nr < index ? UINT64_MAX : index + nr;

	if (index > first)
		first = index;
	if (stop < last)
		last = stop;
	if (first >= last)
		return false;
	*va = area->start + (uintptr_t)(first - area->index) * PG_PAGE_SIZE;
	*end = area->start + (uintptr_t)(last - area->index) * PG_PAGE_SIZE;
	return true;
}

void pg_unmap_mapping_range(struct pg_mapping *mapping, uint64_t index,
			    uint64_t nr)
{
	uintptr_t va, end;

	pg_read_lock(&mapping->lock, LOCK_MAPPING);
	for (struct pg_area *a = mapping->areas; a; a = a->next_in_mapping) {
		if (!part_of(a, index, nr, &va, &end))
			continue;
		pg_zap_range(a, va, end);
		if (pg_mutant("unmaps_one_area"))
			break;
	}
	pg_read_unlock(&mapping->lock, LOCK_MAPPING);
}

static unsigned int clean_range(struct pg_area *area, uintptr_t va,
				uintptr_t end)
{
	struct pg_space *space = area->space;
	unsigned int dirty = 0;
	enum pg_level level;
	pg_atomic64 *at;

	pg_lock(&space->ptl, LOCK_PT);
	while ((at = pg_entry_next(space, &va, end, &level))) {
		pg_entry_t keep = ~(pg_entry_t)(PG_E_WRITE | PG_E_DIRTY);

		if (pg_mutant("clean_leaves_writable"))
			keep |= PG_E_WRITE;
		if (level == PG_PTE || !pg_mutant("large_stays_dirty"))
			dirty += !!(pg_fetch_and(at, keep, acq_rel) &
				    PG_E_DIRTY);
		va += pg_level_size(level);
	}
	pg_unlock(&space->ptl, LOCK_PT);
	return dirty;
}

unsigned int pg_clean_mapping_range(struct pg_mapping *mapping, uint64_t index,
				    uint64_t nr)
{
	unsigned int dirty = 0;
	uintptr_t va, end;

	pg_read_lock(&mapping->lock, LOCK_MAPPING);
	for (struct pg_area *a = mapping->areas; a; a = a->next_in_mapping)
		if (part_of(a, index, nr, &va, &end))
			dirty += clean_range(a, va, end);
	pg_read_unlock(&mapping->lock, LOCK_MAPPING);
	return dirty;
}

bool pg_entry_names(pg_entry_t e, const struct pgmap_folio *folio)
{
	uint64_t first = pgmap_folio_pfn(folio);

	return pg_entry_is_counted(e) && pg_entry_pfn(e) >= first &&
	       pg_entry_pfn(e) - first < (uint64_t)1
						 << pgmap_folio_order(folio);
}

/* Calls @fn, or zaps if there is none. False: enough. */
static bool walk_area(struct pg_area *area, const struct pgmap_folio *folio,
		      bool (*fn)(struct pg_area *area, uintptr_t va,
				 enum pg_level level, pg_entry_t entry,
				 void *arg),
		      void *arg)
{
	uint64_t nr = (uint64_t)1 << pgmap_folio_order(folio);
	struct pg_space *space = area->space;
	struct pg_gather g = {0};
	uintptr_t va, end;
	enum pg_level level;
	pg_atomic64 *at;
	bool more = true;

	if (!part_of(area, folio->index, nr, &va, &end))
		return true;
	pg_lock(&space->ptl, LOCK_PT);
	while (more && (at = pg_entry_next(space, &va, end, &level))) {
		pg_entry_t e = pg_load(at, relaxed);
		uintptr_t next = va + pg_level_size(level);

		if (pg_mutant("page_from_the_address"))
			e = (e & 0xfff) |
			    (pgmap_folio_pfn(folio) + area->index +
			     (va - area->start) / PG_PAGE_SIZE - folio->index)
				    << 12;
		if (pg_entry_names(e, folio)) {
			if (fn)
				more = fn(area, va, level, e, arg);
			else
				pg_entry_zap(space, va, level, &g);
		}
		pg_gather_relax(space, &g);
		va = next;
	}
	pg_unlock(&space->ptl, LOCK_PT);
	pg_gather_put(space, &g);
	return more;
}

void pg_rmap_walk(struct pgmap_folio *folio,
		  bool (*fn)(struct pg_area *area, uintptr_t va,
			     enum pg_level level, pg_entry_t entry, void *arg),
		  void *arg)
{
	struct pg_mapping *mapping =
		(struct pg_mapping *)(uintptr_t)folio->mapping;

	if (!mapping)
		return;
	pg_read_lock(&mapping->lock, LOCK_MAPPING);
	for (struct pg_area *a = mapping->areas; a; a = a->next_in_mapping)
		if (!walk_area(a, folio, fn, arg) ||
		    pg_mutant("walk_finds_one_table"))
			break;
	pg_read_unlock(&mapping->lock, LOCK_MAPPING);
}

void pg_rmap_unmap(struct pgmap_folio *folio)
{
	pg_rmap_walk(folio, NULL, NULL);
}
