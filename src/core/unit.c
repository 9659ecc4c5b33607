/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/unit.h"

#include <errno.h>

#include "base/mutant.h"
#include "core/folio.h"
#include "core/migrate.h"
#include "core/mm.h"
#include "core/notifier.h"

static uintptr_t page(uintptr_t va, size_t i)
{
	return va + i * PG_PAGE_SIZE;
}

uint8_t pg_unit_of(struct pgmap_mm *mm, pg_pte_t e)
{
	if (pg_pte_state(e) != PG_PTE_DEVICE && !(e & PG_PTE_COHERENT))
		return 0;
	return pg_device_owner(mm->dev, pg_pte_value(e));
}

/* The page stays where it is, and is the unit's. */
static void mark(struct pgmap_mm *mm, uintptr_t va, uint8_t owner)
{
	struct pgmap_folio *folio;
	pg_pte_t e;

	if (pg_device_alloc(mm->dev, 0, &folio))
		return;
	pg_device_set_owner(mm->dev, pgmap_folio_pfn(folio), 1, owner);
	pg_pt_lock(&mm->pt, va);
	e = pg_pte_read(&mm->pt, va);
	if (pg_pte_state(e) == PG_PTE_PRESENT && !(e & PG_PTE_COHERENT)) {
		if (pg_pte_value(e))
			pg_mm_put_copy(mm, pg_pte_value(e));
		pgmap_folio_get(folio);
		pg_fetch_add(&folio->mapcount, 1, relaxed);
		/* Counted as a copy is, and dropped as one. */
		pg_fetch_add(&mm->copies, 1, relaxed);
		pg_pte_write(
			&mm->pt, va,
			pg_pte_make(PG_PTE_PRESENT, pgmap_folio_pfn(folio)) |
				(e & PG_PTE_STUCK) | PG_PTE_COHERENT);
	}
	pg_pt_unlock(&mm->pt, va);
	pgmap_folio_unlock(folio);
	pgmap_folio_put(folio);
}

/* Return: was it the page of @owner? */
static bool unmark(struct pgmap_mm *mm, uintptr_t va, uint8_t owner)
{
	pg_pte_t e;
	bool is;

	pg_pt_lock(&mm->pt, va);
	e = pg_pte_read(&mm->pt, va);
	is = e & PG_PTE_COHERENT && pg_unit_of(mm, e) == owner;
	if (is) {
		pg_pte_write(&mm->pt, va, PG_PTE_PRESENT | (e & PG_PTE_STUCK));
		pg_mm_put_copy(mm, pg_pte_value(e));
	}
	pg_pt_unlock(&mm->pt, va);
	return is;
}

static void take_coherent(struct pgmap_mm *mm, uintptr_t va, size_t nr,
			  uint8_t owner)
{
	const struct pg_notify_range range = {
		.start = va,
		.end = page(va, nr),
		.event = PG_NOTIFY_MIGRATE,
		.owner = owner,
	};

	pg_notify_begin(mm, &range);
	for (size_t i = 0; i < nr; i++) {
		pg_mm_fill_hole(mm, page(va, i));
		mark(mm, page(va, i), owner);
	}
	pg_notify_end(mm, &range);
}

/* What is in standby is in RAM. */
static void leave_standby(struct pgmap_mm *mm, uintptr_t va, size_t nr)
{
	for (size_t i = 0; i < nr && pg_load(&mm->standby, relaxed); i++)
		pg_migrate_standby_to_ram(mm, page(va, i), false);
}

void pg_unit_take(struct pgmap_mm *mm, uintptr_t va, size_t nr, uint8_t owner,
		  bool coherent)
{
	uintptr_t end = page(va, nr);

	while (va < end) {
		uintptr_t stop =
			pg_block_of(mm, va) + page(0, pg_block_pages(mm));

		if (stop > end)
			stop = end;
		nr = (stop - va) / PG_PAGE_SIZE;
		leave_standby(mm, va, nr);
		if (coherent)
			take_coherent(mm, va, nr, owner);
		else
			pg_migrate_to_unit(mm, va, nr, owner);
		va = stop;
	}
}

size_t pg_unit_give(struct pgmap_mm *mm, uintptr_t va, size_t nr, uint8_t owner)
{
	size_t moved = 0;

	for (size_t i = 0; i < nr; i++) {
		uintptr_t at = page(va, i);
		pg_pte_t e;
		bool is;

		if (!pg_mm_find(mm, at))
			continue;
		if (pg_pte_read(&mm->pt, at) & PG_PTE_COHERENT) {
			const struct pg_notify_range range = {
				.start = at,
				.end = at + PG_PAGE_SIZE,
				.event = PG_NOTIFY_MIGRATE,
			};

			pg_notify_begin(mm, &range);
			moved += unmark(mm, at, owner);
			pg_notify_end(mm, &range);
			continue;
		}
		pg_pt_lock(&mm->pt, at);
		e = pg_pte_read(&mm->pt, at);
		is = pg_pte_state(e) == PG_PTE_DEVICE &&
		     (pg_unit_of(mm, e) == owner ||
		      pg_mutant("units_give_each_others_pages"));
		pg_pt_unlock(&mm->pt, at);
		moved += is && !pg_mm_load_page(mm, at);
	}
	return moved;
}

void pg_unit_leave_coherent(struct pgmap_mm *mm)
{
	for (uint32_t i = 0; i < mm->nr_vma; i++)
		for (uintptr_t va = mm->vma[i].start;
		     va < mm->vma[i].end && pg_load(&mm->copies, relaxed);
		     va += PG_PAGE_SIZE) {
			pg_pte_t e = pg_pte_read(&mm->pt, va);

			if (e & PG_PTE_COHERENT)
				unmark(mm, va, pg_unit_of(mm, e));
		}
}

size_t pg_unit_exclusive(struct pgmap_mm *mm, uintptr_t va, size_t nr,
			 uint8_t owner)
{
	uintptr_t end = page(va, nr);
	size_t taken = 0;

	while (va < end) {
		uintptr_t stop =
			pg_block_of(mm, va) + page(0, pg_block_pages(mm));

		if (stop > end)
			stop = end;
		taken += pg_migrate_to_exclusive(
			mm, va, (stop - va) / PG_PAGE_SIZE, owner);
		va = stop;
	}
	return taken;
}

void *pg_unit_exclusive_at(struct pgmap_mm *mm, uintptr_t va)
{
	pg_pte_t e = pg_pte_read(&mm->pt, va);
	const struct pg_buf *b;
	uint32_t i;

	if (pg_pte_state(e) != PG_PTE_STANDBY)
		return NULL;
	b = pg_pool_buf(&mm->pool, pg_pte_value(e), &i);
	return pg_buf_at(b, i);
}

int pg_unit_read(struct pgmap_mm *mm, uint64_t pfn, void *buf)
{
	struct pgmap_io io = {
		.slot = pfn - mm->dev->first_pfn, .nr = 1, .buf = buf};

	pg_device_load(mm->dev, &io, 1);
	return io.status;
}

int pg_unit_write(struct pgmap_mm *mm, uint64_t pfn, const void *buf)
{
	return pg_device_write(mm->dev, pfn, buf) ? -EIO : 0;
}
