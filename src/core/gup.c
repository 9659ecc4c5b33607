/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/gup.h"

#include <errno.h>

#include "base/mutant.h"
#include "core/fault.h"
#include "core/folio.h"
#include "core/pagemap.h"
#include "core/space.h"

/* How often a page may slip away between the fault and the look. */
#define TRIES 1000

/* What may not change between the two looks: all but what a CPU does. */
#define SAME(e) ((e) & ~(pg_entry_t)(PG_E_YOUNG | PG_E_DIRTY))

struct gup {
	struct pg_space *space;
	uint32_t flags;
	struct pg_gup_run *runs;
	size_t max, n;
};

/* May a page of this folio be held so? (R155, R156, R162) */
static int check_type(const struct gup *g, const struct pgmap_folio *folio)
{
	bool longterm = g->flags & PG_GUP_LONGTERM;

	switch (pgmap_get_type(pgmap_folio_map(folio))) {
	case PGMAP_FS_DAX:
		return longterm && !pg_mutant("longterm_on_a_file")
			       ? -EOPNOTSUPP
			       : 0;
	case PGMAP_COHERENT:
		return longterm && !pg_mutant("longterm_on_coherent") ? -EBUSY
								      : 0;
	case PGMAP_PCI_P2PDMA:
		return g->flags & PG_GUP_P2PDMA || pg_mutant("peer_unasked")
			       ? 0
			       : -EREMOTEIO;
	case PGMAP_GENERIC:
		return 0;
	case PGMAP_PRIVATE:
		break;
	}
	return -EFAULT; /* the CPU cannot map it */
}

static void drop(const struct gup *g, struct pgmap_folio *folio)
{
	if (g->flags & PG_GUP_PIN)
		pgmap_folio_unpin(folio);
	else
		pgmap_folio_put(folio);
}

static int add_run(struct gup *g, struct pgmap_folio *folio, uint64_t pfn,
		   uint64_t nr)
{
	if (g->n == g->max) {
		if (folio)
			drop(g, folio);
		return -ENOSPC;
	}
	g->runs[g->n++] = (struct pg_gup_run){folio, pfn, nr};
	return 0;
}

/*
 * Without a lock (R159): entry, reference, and the entry again. The fence is
 * the partner of the one in pg_break_layout(), which removes entries and then
 * looks at counts: either it sees our reference, or we see its removal (R154).
 *
 * Return: 0 and the pages held; -EAGAIN a fault must see to it first; or why
 * they cannot be held at all.
 */
static int grab(struct gup *g, uintptr_t va, uint64_t nr, uint64_t *done)
{
	enum pg_level level, again;
	pg_entry_t e = pg_entry_get(g->space, va, &level);
	uint64_t pages = pg_level_pages(level);
	uint64_t in = va / PG_PAGE_SIZE & (pages - 1);
	struct pgmap_folio *folio;
	int ret;

	if (!(e & PG_E_PRESENT) &&
	    !(e & PG_E_PRIVATE && pg_mutant("private_page_is_pinned")))
		return -EAGAIN;
	if (g->flags & PG_GUP_WRITE && !(e & PG_E_WRITE) &&
	    !pg_mutant("pin_ignores_permission"))
		return -EAGAIN;
	*done = nr < pages - in ? nr : pages - in;
	if (e & PG_E_ZERO)
		return add_run(g, NULL, 0, *done);
	if (e & PG_E_SPECIAL)
		return -EFAULT;
	if (pg_mutant("pin_without_second_look"))
		pg_yield();
	folio = pgmap_tryget_pfn(pg_entry_pfn(e) + in);
	if (!folio)
		return -EAGAIN;
	if (g->flags & PG_GUP_PIN)
		pgmap_folio_pin(folio);
	pg_fence(seq_cst);
	if ((SAME(pg_entry_get(g->space, va, &again)) != SAME(e) ||
	     again != level) &&
	    !pg_mutant("pin_without_second_look")) {
		drop(g, folio);
		return -EAGAIN;
	}
	if (pg_mutant("pin_holds_the_map"))
		pg_map_tryget_live(pgmap_folio_map(folio), 1);
	ret = check_type(g, folio);
	if (!ret && pg_folio_marked(folio, PG_FOLIO_POISON) &&
	    !pg_mutant("poison_is_pinned"))
		ret = -EHWPOISON;
	if (ret) {
		drop(g, folio);
		return ret;
	}
	return add_run(g, folio, pg_entry_pfn(e) + in, *done);
}

/* Long term, the page must be where it can stay (R155). Return: 0 look again,
 * or -EBUSY. */
static int bring_to_ram(struct gup *g, uintptr_t va)
{
	enum pg_level level;
	pg_entry_t e = pg_entry_get(g->space, va, &level);
	uint64_t in = va / PG_PAGE_SIZE & (pg_level_pages(level) - 1);
	struct pgmap_fault fault = {
		.space = g->space, .va = va, .pfn = pg_entry_pfn(e) + in};
	struct pgmap *map;
	int ret = -EBUSY;

	if (!(e & PG_E_PRESENT))
		return 0;
	fault.folio = pgmap_tryget_pfn(fault.pfn);
	if (!fault.folio)
		return 0;
	map = pgmap_folio_map(fault.folio);
	if (!map->ops.migrate_to_ram) {
		pgmap_folio_put(fault.folio);
		return -EBUSY;
	}
	pg_read_lock(&g->space->lock, LOCK_MM);
	if (pgmap_folio_trylock(fault.folio)) {
		ret = map->ops.migrate_to_ram(&fault);
		pgmap_folio_unlock(fault.folio);
	}
	pg_read_unlock(&g->space->lock, LOCK_MM);
	pgmap_folio_put(fault.folio);
	return ret ? -EBUSY : 0;
}

static int fault_in(struct gup *g, uintptr_t va)
{
	switch (pg_touch(g->space, va, g->flags & PG_GUP_WRITE, NULL)) {
	case PG_VM_NOPAGE:
	case PG_VM_RETRY:
	case PG_VM_FALLBACK:
		return 0;
	case PG_VM_OOM:
		return -ENOMEM;
	case PG_VM_HWPOISON:
		return -EHWPOISON;
	case PG_VM_SIGBUS:
	case PG_VM_SIGSEGV:
		break;
	}
	return -EFAULT;
}

static int grab_slow(struct gup *g, uintptr_t va, uint64_t nr, uint64_t *done)
{
	int ret = -EAGAIN;

	for (int i = 0; i < TRIES && ret == -EAGAIN; i++) {
		ret = fault_in(g, va);
		if (!ret)
			ret = grab(g, va, nr, done);
		if (ret == -EBUSY && g->flags & PG_GUP_LONGTERM &&
		    !bring_to_ram(g, va))
			ret = -EAGAIN;
	}
	return ret;
}

int pg_gup(struct pg_space *space, uintptr_t va, uint64_t nr, uint32_t flags,
	   struct pg_gup_run *runs, size_t max, size_t *n)
{
	struct gup g = {
		.space = space, .flags = flags, .runs = runs, .max = max};
	uint64_t done = 0;
	int ret = 0;

	if (!nr || va % PG_PAGE_SIZE)
		return -EINVAL;
	if (flags & PG_GUP_LONGTERM &&
	    (!(flags & PG_GUP_PIN) || flags & PG_GUP_P2PDMA) &&
	    !pg_mutant("longterm_without_pin"))
		return -EINVAL;
	while (nr && !ret) {
		ret = grab(&g, va, nr, &done);
		if ((ret == -EAGAIN || ret == -EBUSY) &&
		    !(flags & PG_GUP_FAST_ONLY))
			ret = grab_slow(&g, va, nr, &done);
		nr -= done;
		va += done * PG_PAGE_SIZE;
	}
	if (ret) {
		pg_gup_put(g.runs, g.n, flags & ~PG_GUP_WRITE);
		return ret == -EAGAIN && !(flags & PG_GUP_FAST_ONLY) ? -EBUSY
								     : ret;
	}
	*n = g.n;
	return 0;
}

void pg_gup_put(const struct pg_gup_run *runs, size_t n, uint32_t flags)
{
	for (size_t i = 0; i < n; i++) {
		struct pgmap_folio *folio = runs[i].folio;

		if (!folio)
			continue;
		if (flags & PG_GUP_WRITE && !pg_mutant("unpin_leaves_clean"))
			pg_folio_mark(folio, PG_FOLIO_DIRTY);
		if (flags & PG_GUP_PIN)
			pgmap_folio_unpin(folio);
		else
			pgmap_folio_put(folio);
	}
}
