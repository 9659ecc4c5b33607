/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/devdax.h"

#include <errno.h>

#include "base/bug.h"
#include "base/lock.h"
#include "base/mutant.h"
#include "core/folio.h"
#include "core/pagemap.h"

/* Where addresses are looked for when there is no hint. */
#define FIRST_VA ((uintptr_t)1 << 30)
#define END_VA ((uintptr_t)1 << PG_VA_BITS)

bool pg_devdax_pfn(const struct pg_devdax *dev, uint64_t pgoff, uint64_t nr,
		   uint64_t *pfn)
{
	struct pgmap_range r;

	for (uint32_t i = 0; !pgmap_range_get(dev->map, i, &r); i++) {
		if (pgoff < r.nr) {
			*pfn = r.pfn + pgoff;
			return nr <= r.nr - pgoff ||
			       pg_mutant("straddles_ranges");
		}
		if (!pg_mutant("one_range_is_all"))
			pgoff -= r.nr;
	}
	return false;
}

/* One more reference on the folio at @pfn, or the first. */
static enum pg_fault_code hold(struct pg_devdax *dev, uint64_t pfn,
			       uint64_t pgoff, struct pgmap_folio **folio)
{
	int ret;

	*folio = pgmap_tryget_pfn(pfn);
	if (*folio) {
		/* There is no smaller size to go around a bad page with. */
		if (!pg_folio_marked(*folio, PG_FOLIO_POISON))
			return PG_VM_NOPAGE;
		pgmap_folio_put(*folio);
		return PG_VM_HWPOISON;
	}
	ret = pgmap_get_folio(dev->map, pfn, pg_level_order(dev->align), folio);
	switch (ret) {
	case 0:
		/* For who finds the page bad (R154g); constant, so it may stay
		 * when the page is idle. */
		if (!pg_mutant("device_page_of_nobody")) {
			(*folio)->mapping = (uintptr_t)&dev->mapping;
			(*folio)->index = pgoff & PG_INDEX_MASK;
		}
		pgmap_folio_unlock(*folio);
		return PG_VM_NOPAGE;
	case -EBUSY:
		return PG_VM_RETRY; /* somebody else is at it */
	case -EHWPOISON:
		return PG_VM_HWPOISON;
	}
	return PG_VM_SIGBUS;
}

/* The map cannot say it: when it is destroyed its place may be another's. */
static bool is_dead(const struct pg_devdax *dev)
{
	return pg_mutant("dead_device_asks_its_map")
		       ? pgmap_is_dying(dev->map)
		       : pg_load(&dev->dead, relaxed) != 0;
}

/* Holds the invalidate lock for reading: the map is not destroyed meanwhile. */
static enum pg_fault_code fault_locked(struct pg_devdax *dev,
				       struct pg_area *area, uintptr_t va,
				       uint64_t pgoff, bool write)
{
	uint64_t nr = pg_level_pages(dev->align), pfn;
	struct pgmap_folio *folio;
	enum pg_fault_code ret;

	if (is_dead(dev) || !pg_devdax_pfn(dev, pgoff, nr, &pfn) ||
	    pfn & (nr - 1))
		return PG_VM_SIGBUS;
	ret = hold(dev, pfn, pgoff, &folio);
	if (ret != PG_VM_NOPAGE)
		return ret;
	if (pg_mutant("bad_device_page_stays_mapped"))
		pg_yield();
	ret = pg_insert_folio(area, va, dev->align, folio, pfn,
			      write ? PG_E_WRITE : 0);
	/* The page may have gone bad since hold() looked. First the entry, then
	 * the mark: partner in pg_memory_failure(), which marks and then looks
	 * for entries (R183). */
	pg_fence(seq_cst);
	if (ret == PG_VM_NOPAGE && pg_folio_marked(folio, PG_FOLIO_POISON) &&
	    !pg_mutant("bad_device_page_stays_mapped")) {
		pg_unmap_mapping_range(&dev->mapping, pgoff, nr);
		ret = PG_VM_HWPOISON;
	}
	if (!pg_mutant("device_fault_keeps_its_reference"))
		pgmap_folio_put(folio);
	return ret;
}

static enum pg_fault_code fault(struct pg_area *area, uintptr_t va,
				uint64_t pgoff, enum pg_level level, bool write)
{
	struct pg_devdax *dev = (struct pg_devdax *)area->mapping;
	enum pg_fault_code ret;

	if (level > dev->align)
		return PG_VM_FALLBACK;
	if (level < dev->align && !pg_mutant("smaller_than_aligned"))
		return PG_VM_SIGBUS;
	pg_read_lock(&dev->mapping.invalidate, LOCK_INVALIDATE);
	ret = fault_locked(dev, area, va, pgoff, write);
	pg_read_unlock(&dev->mapping.invalidate, LOCK_INVALIDATE);
	return ret;
}

static bool is_aligned(const struct pg_devdax *dev, uintptr_t va)
{
	return !(va & (pg_level_size(dev->align) - 1));
}

static int may_split(struct pg_area *area, uintptr_t va)
{
	const struct pg_devdax *dev = (struct pg_devdax *)area->mapping;

	return is_aligned(dev, va) || pg_mutant("device_may_split") ? 0
								    : -EINVAL;
}

/* Why a map could not be made: is there one that has a part of it? */
static bool is_taken(const struct pgmap_range *r)
{
	struct pg_place place;

	for (uint64_t i = 0; i < r->nr; i += PGMAP_SUBSECTION_PAGES)
		if (pg_map_find(r->pfn + i, &place))
			return true;
	return false;
}

int pg_devdax_create(struct pg_devdax *dev, const struct pgmap_range *ranges,
		     uint32_t nr, uint64_t align, bool fixed)
{
	static const struct pg_mapping_ops ops = {
		.fault = fault,
		.may_split = may_split,
	};
	struct pgmap_desc d = {
		.size = sizeof(d),
		.type = PGMAP_GENERIC,
		.nr_range = nr,
		.data = dev,
	};
	enum pg_level level = PG_PTE;
	int ret;

	while (level < PG_NR_LEVELS && pg_level_size(level) != align)
		level++;
	if (!pg_level_supported(level) || !nr || nr > PGMAP_MAX_RANGES ||
	    (fixed && nr > 1 && !pg_mutant("fixed_in_pieces")))
		return -EINVAL;
	d.folio_order = pg_level_order(level);
	for (uint32_t i = 0; i < nr; i++)
		d.range[i] = ranges[i];
	pg_mapping_init(&dev->mapping, &ops);
	dev->align = level;
	ret = pgmap_create(&d, &dev->map);
	for (uint32_t i = 0; ret == -ENOMEM && i < nr; i++)
		if (is_taken(&ranges[i]))
			ret = -EBUSY;
	return ret;
}

void pg_devdax_kill(struct pg_devdax *dev)
{
	pg_store(&dev->dead, 1, relaxed);
	pgmap_kill(dev->map);
	/* Faults that did not see it are over when we have this (N44). */
	pg_write_lock(&dev->mapping.invalidate, LOCK_INVALIDATE);
	if (!pg_mutant("killed_device_stays_mapped"))
		pg_unmap_mapping_range(&dev->mapping, 0, UINT64_MAX);
	pg_write_unlock(&dev->mapping.invalidate, LOCK_INVALIDATE);
}

void pg_devdax_destroy(struct pg_devdax *dev)
{
	int ret;

	pg_devdax_kill(dev);
	ret = pgmap_destroy(dev->map);
	pg_bug_on(ret != 0);
}

int pg_devdax_mmap(struct pg_devdax *dev, struct pg_space *space, uintptr_t va,
		   uint64_t nr, uint32_t flags, uint64_t pgoff)
{
	if (is_dead(dev))
		return -ENXIO;
	if (!(flags & PG_AREA_SHARED) && !pg_mutant("private_device_mapping"))
		return -EINVAL;
	if ((!is_aligned(dev, va) || nr & (pg_level_pages(dev->align) - 1)) &&
	    !pg_mutant("device_mapped_anywhere"))
		return -EINVAL;
	return pg_space_map(space, va, nr, PG_AREA_DAX, flags, &dev->mapping,
			    pgoff);
}

/* The first address from @va on that has the colour of @pgoff. */
static uintptr_t coloured(const struct pg_devdax *dev, uintptr_t va,
			  uint64_t pgoff)
{
	uintptr_t size = pg_level_size(dev->align);
	uintptr_t colour = (uintptr_t)pgoff * PG_PAGE_SIZE & (size - 1);

	if (pg_mutant("address_without_colour"))
		return va;
	return va + ((colour - va) & (size - 1));
}

int pg_devdax_unmapped_area(struct pg_devdax *dev, struct pg_space *space,
			    uintptr_t hint, uint64_t nr, uint64_t pgoff,
			    uintptr_t *out)
{
	uintptr_t va, len = (uintptr_t)nr * PG_PAGE_SIZE;

	if (nr >= END_VA / PG_PAGE_SIZE ||
	    (hint >= END_VA && !pg_mutant("hint_wraps_around")))
		return -ENOMEM;
	va = coloured(dev, hint ? hint : FIRST_VA, pgoff);
	pg_read_lock(&space->lock, LOCK_MM);
	for (const struct pg_area *a = space->areas; a; a = a->next_in_space)
		if (a->start < va + len && va < a->end)
			va = coloured(dev, a->end, pgoff);
	pg_read_unlock(&space->lock, LOCK_MM);
	if (va >= END_VA || len > END_VA - va)
		return -ENOMEM;
	*out = va;
	return 0;
}
