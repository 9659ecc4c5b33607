/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/entry.h"

#include <errno.h>

#include "base/bug.h"
#include "base/mem.h"
#include "base/mutant.h"
#include "core/folio.h"
#include "core/pagemap.h"
#include "core/space.h"

static size_t gig_no(uintptr_t va)
{
	return va >> 30;
}

static size_t pmd_no(uintptr_t va)
{
	return va >> 21 & 511;
}

static size_t pte_no(uintptr_t va)
{
	return va >> 12 & 511;
}

static struct pg_gig *gig_of(const struct pg_table *t, uintptr_t va)
{
	return pg_load(&t->gig[gig_no(va)], acquire);
}

int pg_table_init(struct pg_table *t)
{
	t->lo = PG_NR_GIGS;
	t->pud = pg_mem_map(PG_NR_GIGS * sizeof(*t->pud));
	if (!t->pud)
		return -ENOMEM;
	t->gig = pg_mem_map(PG_NR_GIGS * sizeof(*t->gig));
	if (!t->gig) {
		pg_mem_unmap(t->pud, PG_NR_GIGS * sizeof(*t->pud));
		t->pud = NULL;
		return -ENOMEM;
	}
	return 0;
}

void pg_table_fini(struct pg_table *t)
{
	while (t->gigs) {
		struct pg_gig *g = t->gigs;

		t->gigs = g->next;
		pg_mem_unmap(g, sizeof(*g));
	}
	pg_mem_unmap(t->gig, PG_NR_GIGS * sizeof(*t->gig));
	pg_mem_unmap(t->pud, PG_NR_GIGS * sizeof(*t->pud));
}

int pg_table_populate(struct pg_space *space, uintptr_t va)
{
	struct pg_table *t = &space->table;
	struct pg_gig *g, *none = NULL;

	if (gig_of(t, va))
		return 0;
	g = pg_mem_map(sizeof(*g));
	if (!g)
		return -ENOMEM;
	pg_fetch_add(&t->nr_gigs, 1, relaxed);
	if (pg_mutant("unused_table_leaks"))
		pg_yield(); /* there is a race to lose */
	if (!pg_cas(&t->gig[gig_no(va)], &none, g, acq_rel)) {
		/* Somebody was quicker (R110). */
		if (pg_mutant("unused_table_leaks"))
			return 0;
		pg_mem_unmap(g, sizeof(*g));
		pg_fetch_sub(&t->nr_gigs, 1, relaxed);
		return 0;
	}
	pg_lock(&space->ptl, LOCK_PT);
	g->next = t->gigs;
	t->gigs = g;
	pg_unlock(&space->ptl, LOCK_PT);
	return 0;
}

pg_atomic64 *pg_entry_at(struct pg_space *space, uintptr_t va,
			 enum pg_level *level)
{
	struct pg_table *t = &space->table;
	pg_atomic64 *at;
	struct pg_gig *g;
	pg_entry_t e;

	*level = PG_PUD;
	if (gig_no(va) >= PG_NR_GIGS)
		return NULL;
	at = &t->pud[gig_no(va)];
	e = pg_load(at, acquire);
	if (!(e & PG_E_TABLE))
		return e ? at : NULL;
	g = gig_of(t, va);
	*level = PG_PMD;
	at = &g->pmd[pmd_no(va)];
	e = pg_load(at, acquire);
	if (!(e & PG_E_TABLE))
		return e ? at : NULL;
	*level = PG_PTE;
	at = &g->pte[pmd_no(va)][pte_no(va)];
	return pg_load(at, acquire) ? at : NULL;
}

pg_entry_t pg_entry_get(struct pg_space *space, uintptr_t va,
			enum pg_level *level)
{
	for (;;) {
		pg_atomic64 *at = pg_entry_at(space, va, level);
		pg_entry_t e = at ? pg_load(at, acquire) : 0;

		if (!(e & PG_E_TABLE))
			return e;
		/* It became smaller ones since. */
	}
}

pg_atomic64 *pg_entry_next(struct pg_space *space, uintptr_t *va, uintptr_t end,
			   enum pg_level *level)
{
	const struct pg_table *t = &space->table;
	uintptr_t at = *va, lo = (uintptr_t)t->lo << 30;

	if (at < lo)
		at = lo;
	while (at < end && gig_no(at) < t->hi) {
		pg_atomic64 *place = pg_entry_at(space, at, level);

		at &= ~(pg_level_size(*level) - 1);
		if (place) {
			*va = at;
			return place;
		}
		at += pg_level_size(*level);
	}
	return NULL;
}

void pg_entry_set(struct pg_space *space, uintptr_t va, enum pg_level level,
		  pg_entry_t e)
{
	struct pg_table *t = &space->table;
	struct pg_gig *g = gig_of(t, va);
	size_t no = gig_no(va), i = pmd_no(va);

	if (no < t->lo)
		t->lo = no;
	if (no >= t->hi)
		t->hi = no + 1;
	/* From below, so that a reader who is sent down finds it. */
	if (level == PG_PUD) {
		pg_bug_on(pg_load(&t->pud[no], relaxed) != 0);
		pg_store(&t->pud[no], e, release);
		return;
	}
	if (level == PG_PTE) {
		pg_bug_on(pg_load(&g->pte[i][pte_no(va)], relaxed) != 0);
		pg_store(&g->pte[i][pte_no(va)], e, release);
		if (g->ptes[i]++)
			return;
		e = PG_E_TABLE;
	}
	pg_bug_on(pg_load(&g->pmd[i], relaxed) != 0);
	pg_store(&g->pmd[i], e, release);
	if (!g->pmds++)
		pg_store(&t->pud[no], PG_E_TABLE, release);
}

/* An exchange: what a CPU marked until now is in it, and what it marks from now
 * on fails. Partner: the CAS in hit(). */
static pg_entry_t take(pg_atomic64 *at)
{
	if (pg_mutant("zap_reads_then_writes")) {
		pg_entry_t e = pg_load(at, acquire);
		pg_atomic32 never = 0;

		pg_wait(&never, 0, 10000); /* others get on, even on one CPU */
		pg_store(at, 0, release);
		return e;
	}
	return pg_xchg(at, 0, acq_rel);
}

pg_entry_t pg_entry_clear(struct pg_space *space, uintptr_t va,
			  enum pg_level level)
{
	struct pg_table *t = &space->table;
	struct pg_gig *g = gig_of(t, va);
	size_t i = pmd_no(va);
	pg_entry_t e;

	if (level == PG_PUD)
		return take(&t->pud[gig_no(va)]);
	if (level == PG_PTE) {
		e = take(&g->pte[i][pte_no(va)]);
		if (--g->ptes[i])
			return e;
		pg_store(&g->pmd[i], 0, release);
	} else {
		e = take(&g->pmd[i]);
	}
	if (!--g->pmds)
		pg_store(&t->pud[gig_no(va)], 0, release);
	return e;
}

struct pgmap_folio *pg_entry_folio(pg_entry_t e)
{
	/* The entry holds a reference, and keeps it while we hold ptl. */
	return pg_held_folio(pg_entry_pfn(e));
}

enum pg_rss pg_folio_rss(const struct pgmap_folio *folio)
{
	switch (pgmap_get_type(pgmap_folio_map(folio))) {
	case PGMAP_PRIVATE:
	case PGMAP_COHERENT:
		return PG_RSS_ANON;
	case PGMAP_FS_DAX:
	case PGMAP_GENERIC:
	case PGMAP_PCI_P2PDMA:
		break;
	}
	return pg_mutant("files_count_as_anon") ? PG_RSS_ANON : PG_RSS_FILE;
}

void pg_entry_count(struct pg_space *space, struct pgmap_folio *folio,
		    enum pg_level level)
{
	if (!pg_mutant("entry_not_mapcounted"))
		pg_fetch_add(&folio->mapcount, 1, relaxed);
	if (pg_mutant("mapcount_of_tails"))
		pg_fetch_add(&folio[pg_level_pages(level) - 1].mapcount, 1,
			     relaxed);
	pg_fetch_add(&space->rss[pg_folio_rss(folio)],
		     pg_mutant("rss_counts_entries") ? 1
						     : pg_level_pages(level),
		     relaxed);
}

void pg_gather_put(struct pg_space *space, struct pg_gather *g)
{
	for (uint32_t i = 0; i < g->n; i++) {
		uint64_t nr = (uint64_t)1 << pgmap_folio_order(g->folio[i]);

		pg_folio_put_many(g->folio[i], g->refs[i]);
		if (pg_mutant("rss_after_put"))
			pg_fetch_sub(&space->rss[pg_folio_rss(g->folio[i])], nr,
				     relaxed);
	}
	g->n = 0;
}

void pg_gather_relax(struct pg_space *space, struct pg_gather *g)
{
	if (g->n < PG_GATHER_MAX)
		return;
	pg_unlock(&space->ptl, LOCK_PT);
	pg_gather_put(space, g);
	pg_lock(&space->ptl, LOCK_PT);
}

static void gather(struct pg_gather *g, struct pgmap_folio *folio)
{
	if (g->n && g->folio[g->n - 1] == folio) {
		g->refs[g->n - 1]++;
		return;
	}
	g->folio[g->n] = folio;
	g->refs[g->n++] = 1;
}

void pg_entry_zap(struct pg_space *space, uintptr_t va, enum pg_level level,
		  struct pg_gather *g)
{
	pg_entry_t e = pg_entry_clear(space, va, level);
	struct pgmap_folio *folio;
	uint32_t marks = 0;

	if (!pg_entry_is_counted(e) &&
	    !(e & PG_E_SPECIAL && pg_mutant("special_is_put")) &&
	    !(e & PG_E_ZERO && pg_mutant("zero_page_is_put")))
		return;
	folio = pg_entry_folio(e);
	if (e & PG_E_DIRTY && !pg_mutant("zap_loses_dirty"))
		marks |= PG_FOLIO_DIRTY;
	if (e & PG_E_YOUNG)
		marks |= PG_FOLIO_YOUNG;
	if (marks && !(e & PG_E_PRIVATE))
		pg_folio_mark(folio, marks);
	/* R132, R133: the reverse map, the counter, whose kind the folio
	 * tells, and last the reference, when nobody holds ptl. */
	if (pg_mutant("put_before_the_counter"))
		pgmap_folio_put(folio);
	if (!pg_mutant("zap_keeps_mapcount"))
		pg_fetch_sub(&folio->mapcount, 1, relaxed);
	if (!pg_mutant("rss_after_put"))
		pg_fetch_sub(&space->rss[pg_folio_rss(folio)],
			     pg_level_pages(level), relaxed);
	if (!pg_mutant("put_before_the_counter"))
		gather(g, folio);
}

/* The bits that the small entries of a split one have (R107). */
static void make_ptes(struct pg_space *space, uintptr_t va, pg_entry_t e)
{
	struct pg_gig *g = gig_of(&space->table, va);
	size_t i = pmd_no(va);

	for (size_t k = 0; k < 512; k++) {
		/* R51: the pages that the entry names. */
		uint64_t pfn = pg_entry_pfn(e) +
			       (pg_mutant("split_names_the_head") ? 0 : k);

		pg_store(&g->pte[i][k], pfn << 12 | (e & 0xfff), release);
	}
	g->ptes[i] = 512;
	pg_store(&g->pmd[i], PG_E_TABLE, release);
}

void pg_entry_split(struct pg_space *space, uintptr_t va, enum pg_level level,
		    struct pg_gather *g)
{
	enum pg_level found;
	pg_atomic64 *at = pg_entry_at(space, va, &found);
	struct pgmap_folio *folio;
	pg_entry_t e;

	pg_bug_on(!at || found != level);
	e = pg_load(at, relaxed);
	if (level != PG_PMD || !pg_entry_is_counted(e) ||
	    (pg_folio_rss(pg_entry_folio(e)) != PG_RSS_ANON &&
	     !pg_mutant("file_is_split_like_anon"))) {
		pg_entry_zap(space, va, level, g);
		return;
	}
	/* First no CPU can use it: what it marks must not be lost. */
	e = pg_fetch_and(at, ~(pg_entry_t)PG_E_PRESENT, acq_rel);
	folio = pg_entry_folio(e);
	if (!pg_mutant("split_without_references"))
		pg_fetch_add(&folio->count, 511, relaxed);
	pg_fetch_add(&folio->mapcount, 511, relaxed);
	make_ptes(space, va, e);
}

/* ---- From outside, without ptl ---- */

static bool fits(const struct pg_area *area, uintptr_t va, enum pg_level level)
{
	uintptr_t size = pg_level_size(level);

	return !(va & (size - 1)) && va >= area->start && va < area->end &&
	       area->end - va >= size;
}

/* The reference that the caller holds keeps the folio as it is. */
static bool folio_fits(const struct pg_area *area, enum pg_level level,
		       const struct pgmap_folio *folio, uint64_t pfn,
		       uint32_t flags)
{
	bool private;
	uint64_t first;

	if (!pgmap_folio_count(folio) && !pg_mutant("idle_page_is_mapped"))
		return false; /* R122 */
	private = pgmap_get_type(pgmap_folio_map(folio)) == PGMAP_PRIVATE;
	first = pgmap_folio_pfn(folio);
	if (pfn < first || (pfn - first) >> pgmap_folio_order(folio))
		return false;
	/* R119, R123: a large entry is the whole of its folio. */
	if (level != PG_PTE &&
	    (pgmap_folio_order(folio) != pg_level_order(level) &&
	     !pg_mutant("any_order_at_any_level")))
		return false;
	if (level != PG_PTE && pfn != first &&
	    !pg_mutant("large_entry_begins_anywhere"))
		return false;
	if (private != !!(flags & PG_E_PRIVATE) &&
	    !pg_mutant("private_page_is_present"))
		return false;
	if (area->kind == PG_AREA_ANON)
		return pg_folio_rss(folio) == PG_RSS_ANON && level != PG_PUD;
	/* R105: nor is it mixed with special ones. */
	return area->kind == PG_AREA_DAX && pg_folio_rss(folio) == PG_RSS_FILE;
}

/* An entry is there. Holds ptl. */
static enum pg_fault_code insert_over(pg_atomic64 *at, enum pg_level found,
				      enum pg_level level, uintptr_t va,
				      pg_entry_t e)
{
	pg_entry_t old = pg_load(at, relaxed);
	pg_entry_t kind = PG_E_SPECIAL | PG_E_ZERO | PG_E_PRIVATE;
	uint64_t in = (va & (pg_level_size(found) - 1)) / PG_PAGE_SIZE;
	uint32_t marks = PG_E_YOUNG;

	if (found < level)
		return PG_VM_FALLBACK;
	if ((old ^ e) & kind ||
	    (!(e & PG_E_ZERO) && pg_entry_pfn(old) + in != pg_entry_pfn(e)))
		return PG_VM_RETRY;
	if (!(old & PG_E_PRESENT))
		return old & PG_E_PRIVATE ? PG_VM_NOPAGE : PG_VM_RETRY;
	if (e & PG_E_WRITE && !pg_mutant("write_fault_changes_nothing")) {
		/* Larger than the caller can answer for. */
		if (found > level && !(old & PG_E_WRITE))
			return PG_VM_RETRY;
		marks |= PG_E_WRITE | PG_E_DIRTY;
	}
	pg_fetch_or(at, marks, acq_rel);
	return PG_VM_NOPAGE;
}

static enum pg_fault_code insert(struct pg_area *area, uintptr_t va,
				 enum pg_level level, pg_entry_t e,
				 struct pgmap_folio *folio)
{
	struct pg_space *space = area->space;
	enum pg_fault_code ret = PG_VM_NOPAGE;
	enum pg_level found;
	uintptr_t first = va;
	pg_atomic64 *at;

	if (level != PG_PUD && pg_table_populate(space, va))
		return PG_VM_OOM;
	pg_lock(&space->ptl, LOCK_PT);
	at = pg_entry_next(space, &first, va + pg_level_size(level), &found);
	if (at && !pg_mutant("insert_takes_a_place_twice")) {
		ret = insert_over(at, found, level, va, e);
	} else if (at && found >= level) {
		pg_store(at, e, release);
	} else {
		if (folio) {
			pgmap_folio_get(folio);
			pg_entry_count(space, folio, level);
		}
		pg_entry_set(space, va, level, e);
	}
	pg_unlock(&space->ptl, LOCK_PT);
	return ret;
}

enum pg_fault_code pg_insert_folio(struct pg_area *area, uintptr_t va,
				   enum pg_level level,
				   struct pgmap_folio *folio, uint64_t pfn,
				   uint32_t flags)
{
	pg_entry_t e = pfn << 12 | PG_E_YOUNG;

	if (!pg_level_supported(level) &&
	    !pg_mutant("every_size_in_every_build"))
		return PG_VM_FALLBACK;
	if (flags & ~(PG_E_WRITE | PG_E_PRIVATE) || !fits(area, va, level) ||
	    !folio_fits(area, level, folio, pfn, flags))
		return PG_VM_SIGBUS;
	if (!(area->flags & PG_AREA_WRITE))
		flags &= ~PG_E_WRITE;
	if (flags & PG_E_PRIVATE)
		e = pfn << 12 | PG_E_PRIVATE;
	else if (area->flags & PG_AREA_READ)
		e |= PG_E_PRESENT;
	if (flags & PG_E_WRITE)
		e |= PG_E_WRITE | (flags & PG_E_PRIVATE ? 0 : PG_E_DIRTY);
	if (level != PG_PTE && pg_mutant("counted_is_special"))
		e |= PG_E_SPECIAL;
	return insert(area, va, level, e, folio);
}

enum pg_fault_code pg_insert_special(struct pg_area *area, uintptr_t va,
				     enum pg_level level, uint64_t pfn,
				     uint32_t flags)
{
	pg_entry_t e = pfn << 12 | PG_E_YOUNG;

	if (!pg_level_supported(level))
		return PG_VM_FALLBACK;
	if (flags & ~PG_E_WRITE || !fits(area, va, level) ||
	    pfn & (pg_level_pages(level) - 1) ||
	    (pfn && area->kind != PG_AREA_PFNMAP))
		return PG_VM_SIGBUS;
	e |= pfn ? PG_E_SPECIAL : PG_E_ZERO;
	if (area->flags & PG_AREA_READ)
		e |= PG_E_PRESENT;
	if (pfn && flags & PG_E_WRITE && area->flags & PG_AREA_WRITE)
		e |= PG_E_WRITE | PG_E_DIRTY;
	return insert(area, va, level, e, NULL);
}

void pg_zap_range(struct pg_area *area, uintptr_t va, uintptr_t end)
{
	struct pg_space *space = area->space;
	struct pg_gather g = {0};
	enum pg_level level;
	uintptr_t at = va;

	pg_lock(&space->ptl, LOCK_PT);
	while (pg_entry_next(space, &at, end, &level)) {
		uintptr_t next = at + pg_level_size(level);

		if ((at < va || next > end) &&
		    !pg_mutant("partial_zap_without_split")) {
			/* It may be small entries afterwards. */
			pg_entry_split(space, at, level, &g);
			next = at < va ? va : at;
		} else {
			pg_entry_zap(space, at, level, &g);
		}
		pg_gather_relax(space, &g);
		at = next;
	}
	pg_unlock(&space->ptl, LOCK_PT);
	pg_gather_put(space, &g);
}

void pg_split_at(struct pg_area *area, uintptr_t va)
{
	struct pg_space *space = area->space;
	struct pg_gather g = {0};
	enum pg_level level;
	uintptr_t at = va;

	pg_lock(&space->ptl, LOCK_PT);
	while (pg_entry_next(space, &at, va + 1, &level) && at < va) {
		pg_entry_split(space, at, level, &g);
		at = va;
	}
	pg_unlock(&space->ptl, LOCK_PT);
	pg_gather_put(space, &g);
}
