/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * check.c - what must always be true, in one walk.
 */
#include <errno.h>

#include "base/log.h"
#include "core/allocator.h"
#include "core/folio.h"
#include "core/mm.h"
#include "core/pagemap.h"

struct walk {
	struct pgmap_mm *mm;
	uint64_t present, standby, stuck, away, copies, refs, pages, used;
	const char *broken;
};

#define MUST(w, cond, rule)                                                    \
	do {                                                                   \
		if (!(cond) && !(w)->broken)                                   \
			(w)->broken = rule ": " #cond;                         \
	} while (0)

/* An entry names page @page of the pool. Return: the pfn of its copy, or 0. */
static uint64_t check_standby(struct walk *w, uintptr_t va, uint64_t page)
{
	const struct pg_pool *p = &w->mm->pool;
	const struct pg_buf *b;
	uint32_t i;

	w->standby++;
	MUST(w, page < (uint64_t)p->nr * p->buf_pages, "standby");
	if (w->broken)
		return 0;
	b = pg_pool_buf(p, page, &i);
	MUST(w, b->bits[i / 64] >> (i % 64) & 1, "standby");
	MUST(w, b->va + (size_t)i * PG_PAGE_SIZE == va, "standby");
	w->copies += b->copy[i] != 0;
	return b->copy[i];
}

static void check_entry(struct walk *w, uintptr_t va)
{
	pg_pte_t e = pg_pte_read(&w->mm->pt, va);
	struct pgmap_device *dev = w->mm->dev;
	uint64_t pfn = pg_pte_value(e);

	MUST(w, pg_pte_state(e) <= PG_PTE_STANDBY, "entry");
	MUST(w, pg_pte_state(e) != PG_PTE_MIGRATING, "R84");
	if (pg_pte_state(e) == PG_PTE_PRESENT) {
		w->present++;
		w->copies += pfn != 0;
	}
	if (pg_pte_state(e) == PG_PTE_STANDBY)
		pfn = check_standby(w, va, pfn);
	if (e & PG_PTE_STUCK)
		w->stuck++;
	if (pg_pte_state(e) == PG_PTE_DEVICE)
		w->away++;
	else if (!pfn)
		return;
	MUST(w, pfn >= dev->first_pfn && pfn < dev->first_pfn + dev->nr_slots,
	     "R51");
	if (w->broken)
		return;
	MUST(w, pgmap_folio_count(pg_map_head(dev->map, pfn)) > 0, "R52");
}

/* Each record that was ever used is a head with references or at rest. */
static void check_folios(struct walk *w)
{
	struct pgmap_device *dev = w->mm->dev;

	for (uint64_t slot = 0; slot < w->used; slot++) {
		struct pgmap_folio *f =
			pg_map_folio(dev->map, dev->first_pfn + slot);
		uint32_t count = pgmap_folio_count(f);
		uint64_t nr = (uint64_t)1 << pgmap_folio_order(f);

		if (!count) {
			MUST(w, pg_load(&f->mapcount, relaxed) == 0, "R30");
			MUST(w, f->mapping == 0, "R46");
			continue;
		}
		MUST(w, pgmap_folio_map(f) == dev->map, "R35");
		MUST(w, slot % nr == 0, "R35");
		MUST(w, !pg_folio_is_locked(f), "R84");
		/* All is quiet: a mapping each, and nobody else (R52, R56). */
		MUST(w, count == pg_load(&f->mapcount, relaxed), "R52");
		w->refs += count;
		w->pages += nr;
		for (uint64_t k = 1; k < nr && !w->broken; k++)
			MUST(w, pgmap_folio_count(f + k) == 0, "R35");
	}
}

/* Each slot is in use or free, and never both (R45). */
static void check_allocator(struct walk *w)
{
	struct pgmap_device *dev = w->mm->dev;
	uint64_t nr_free;
	const char *broken = pg_allocator_check(dev->allocator, &nr_free);

	if (broken && !w->broken)
		w->broken = broken;
	MUST(w, w->pages + nr_free == dev->nr_slots, "R45");
}

/* Nobody uses a buffer while the world is stopped. */
static void check_pool(struct walk *w)
{
	struct pg_pool *p = &w->mm->pool;
	uint64_t filled = 0, room = 0;
	uint32_t nr = 0, nr_room = 0, nr_standby = 0;

	for (uint32_t i = p->empty; i && nr <= p->nr; i = p->buf[i - 1].next) {
		MUST(w, p->buf[i - 1].filled == 0, "pool");
		nr++;
	}
	for (int whole = 0; whole < 2; whole++)
		for (uint32_t i = whole ? p->full : p->part; i && nr <= p->nr;
		     i = p->buf[i - 1].next) {
			MUST(w,
			     whole ==
				     (p->buf[i - 1].filled == p->buf[i - 1].nr),
			     "pool");
			room += p->buf[i - 1].filled;
			nr_room++;
			nr++;
		}
	filled = room;
	for (uint32_t i = p->standby; i && nr <= p->nr;
	     i = p->buf[i - 1].next) {
		filled += p->buf[i - 1].filled;
		nr_standby++;
		nr++;
	}
	if (w->mm->breaker) {
		filled += w->mm->breaker->filled;
		nr++;
	}
	MUST(w, nr == p->nr, "pool");
	MUST(w, nr_standby == pg_load(&p->nr_standby, relaxed), "pool");
	MUST(w, room == pg_load(&p->room, relaxed), "pool");
	MUST(w, nr_room == pg_load(&p->nr_room, relaxed), "pool");
	MUST(w, filled == pg_load(&p->filled, relaxed), "pool");
}

static void check_all(struct walk *w)
{
	struct pgmap_mm *mm = w->mm;

	for (uint32_t i = 0; i < mm->nr_vma; i++) {
		const struct pg_vma *v = &mm->vma[i];

		MUST(w, v->start < v->end, "vma");
		MUST(w, i == 0 || mm->vma[i - 1].end < v->start, "vma");
		for (uintptr_t va = v->start; va < v->end && !w->broken;
		     va += PG_PAGE_SIZE)
			check_entry(w, va);
	}
	w->used = pg_allocator_used(mm->dev->allocator, mm->dev->map);
	check_folios(w);
	if (!w->broken)
		check_allocator(w);
	check_pool(w);
	MUST(w, w->present == pg_load(&mm->present, relaxed), "budget");
	MUST(w, w->standby == pg_load(&mm->standby, relaxed), "standby");
	MUST(w, w->stuck == pg_load(&mm->stuck, relaxed), "stuck");
	MUST(w, w->away == pg_load(&mm->away, relaxed), "R52");
	MUST(w, w->copies == pg_load(&mm->copies, relaxed), "R52");
	MUST(w, w->refs == w->away + w->copies, "R52");
	MUST(w, pg_map_refs(mm->dev->map) == w->pages, "R11");
}

int pgmap_check(struct pgmap_mm *mm, char *what, size_t what_len)
{
	struct walk w = {.mm = mm};

	pgmap_mm_change_begin(mm);
	check_all(&w);
	pgmap_mm_change_end(mm);
	pg_format(what, what_len, "%s", w.broken ? w.broken : "");
	return w.broken ? -EUCLEAN : 0;
}
