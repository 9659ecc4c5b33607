/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/space.h"

#include <errno.h>
#include <string.h>

#include "base/bug.h"
#include "base/mem.h"
#include "base/mutant.h"
#include "core/fault.h"
#include "core/folio.h"
#include "core/pagemap.h"

/* How often others may be quicker. */
#define TRIES 1000

#define VA_END ((uintptr_t)1 << PG_VA_BITS)
#define PROT (PG_AREA_READ | PG_AREA_WRITE)

/* Memory of areas. */
#define BLOCK_SIZE 4096u
struct pg_area_block {
	struct pg_area_block *next;
	struct pg_area
		area[(BLOCK_SIZE - sizeof(void *)) / sizeof(struct pg_area)];
};

/* ---- Areas. All but pg_find_area() hold space->lock for writing. ---- */

/* Make sure that @n areas can be had without failing. */
static int reserve(struct pg_space *space, unsigned int n)
{
	struct pg_area_block *b;

	for (struct pg_area *a = space->spare; a && n; a = a->next_in_space)
		n--;
	if (!n)
		return 0;
	b = pg_mem_map(sizeof(*b));
	if (!b)
		return -ENOMEM;
	b->next = space->blocks;
	space->blocks = b;
	for (size_t i = 0; i < sizeof(b->area) / sizeof(b->area[0]); i++) {
		b->area[i].next_in_space = space->spare;
		space->spare = &b->area[i];
	}
	return 0;
}

static struct pg_area *new_area(struct pg_space *space,
				const struct pg_area *like)
{
	struct pg_area *a = space->spare;

	pg_bug_on(!a);
	space->spare = a->next_in_space;
	*a = *like;
	a->space = space;
	a->next_in_space = NULL;
	a->next_in_mapping = NULL;
	return a;
}

static void lock_mapping(const struct pg_area *a)
{
	if (a->mapping)
		pg_write_lock(&a->mapping->lock, LOCK_MAPPING);
}

static void unlock_mapping(const struct pg_area *a)
{
	if (a->mapping)
		pg_write_unlock(&a->mapping->lock, LOCK_MAPPING);
}

/* Holds mapping->lock for writing, if there is a mapping. */
static void link_area(struct pg_area *a)
{
	struct pg_area **p = &a->space->areas;

	while (*p && (*p)->start < a->start)
		p = &(*p)->next_in_space;
	a->next_in_space = *p;
	*p = a;
	if (!a->mapping)
		return;
	a->next_in_mapping = a->mapping->areas;
	a->mapping->areas = a;
}

/* As link_area(). It has no entries any more. */
static void unlink_area(struct pg_area *a)
{
	struct pg_area **p = &a->space->areas;

	while (*p != a)
		p = &(*p)->next_in_space;
	*p = a->next_in_space;
	if (a->mapping) {
		p = &a->mapping->areas;
		while (*p != a)
			p = &(*p)->next_in_mapping;
		*p = a->next_in_mapping;
	}
	a->next_in_space = a->space->spare;
	a->space->spare = a;
}

/* The first area that ends behind @va. */
static struct pg_area *area_from(const struct pg_space *space, uintptr_t va)
{
	struct pg_area *a = space->areas;

	while (a && a->end <= va)
		a = a->next_in_space;
	return a;
}

struct pg_area *pg_find_area(struct pg_space *space, uintptr_t va)
{
	struct pg_area *a = area_from(space, va);

	return a && a->start <= va ? a : NULL;
}

/* May an area like @a begin or end at @va? */
static int may_border(struct pg_area *a, uintptr_t va)
{
	if (!a->mapping || !a->mapping->ops || !a->mapping->ops->may_split)
		return 0;
	return a->mapping->ops->may_split(a, va);
}

static int may_split(struct pg_space *space, uintptr_t va)
{
	struct pg_area *a = pg_find_area(space, va);

	if (!a || a->start == va || pg_mutant("any_area_may_split"))
		return 0;
	return may_border(a, va);
}

/* If an area reaches across @va, make it two, with no entry across. An area is
 * in reserve. */
static void split_area(struct pg_space *space, uintptr_t va)
{
	struct pg_area *a = pg_find_area(space, va), *b;

	if (!a || a->start == va)
		return;
	pg_split_at(a, va);
	lock_mapping(a);
	b = new_area(space, a);
	b->start = va;
	if (!pg_mutant("split_area_keeps_index"))
		b->index += (va - a->start) / PG_PAGE_SIZE;
	a->end = va;
	link_area(b);
	unlock_mapping(a);
}

static void remove_area(struct pg_area *a)
{
	struct pg_area was = *a;

	pg_zap_range(a, a->start, a->end);
	lock_mapping(&was);
	unlink_area(a);
	unlock_mapping(&was);
}

static int check_range(uintptr_t va, uint64_t nr)
{
	if (va % PG_PAGE_SIZE || !nr || va >= VA_END ||
	    nr > (VA_END - va) / PG_PAGE_SIZE)
		return -EINVAL;
	return 0;
}

/* What every change of a part of the areas does first: then areas begin and
 * end where the range does. */
static int cut(struct pg_space *space, uintptr_t va, uintptr_t end)
{
	int ret = may_split(space, va);

	if (!ret)
		ret = may_split(space, end);
	if (!ret)
		ret = reserve(space, 3);
	if (ret)
		return ret;
	split_area(space, va);
	split_area(space, end);
	return 0;
}

int pg_space_init(struct pg_space *space)
{
	memset(space, 0, sizeof(*space));
	return pg_table_init(&space->table);
}

void pg_space_fini(struct pg_space *space)
{
	while (space->areas)
		remove_area(space->areas);
	while (space->blocks) {
		struct pg_area_block *b = space->blocks;

		space->blocks = b->next;
		pg_mem_unmap(b, sizeof(*b));
	}
	pg_table_fini(&space->table);
}

int pg_space_map(struct pg_space *space, uintptr_t va, uint64_t nr,
		 enum pg_area_kind kind, uint32_t flags,
		 struct pg_mapping *mapping, uint64_t index)
{
	struct pg_area a = {
		.start = va,
		.index = index,
		.flags = flags,
		.kind = kind,
		.mapping = mapping,
	};
	struct pg_area *next;
	int ret = check_range(va, nr);

	if (ret)
		return ret;
	a.end = va + (uintptr_t)nr * PG_PAGE_SIZE;
	if (flags & ~(PROT | PG_AREA_SHARED | PG_AREA_SYNC) ||
	    (flags & PROT) == PG_AREA_WRITE || index + nr < index ||
	    index + nr > PG_INDEX_MASK ||
	    (kind == PG_AREA_DAX && (!mapping || !mapping->ops)))
		return -EINVAL;
	pg_write_lock(&space->lock, LOCK_MM);
	next = area_from(space, va);
	if (next && next->start < a.end)
		ret = -EEXIST;
	else
		ret = reserve(space, 1);
	if (!ret) {
		lock_mapping(&a);
		link_area(new_area(space, &a));
		unlock_mapping(&a);
	}
	pg_write_unlock(&space->lock, LOCK_MM);
	return ret;
}

int pg_space_unmap(struct pg_space *space, uintptr_t va, uint64_t nr)
{
	uintptr_t end = va + (uintptr_t)nr * PG_PAGE_SIZE;
	struct pg_area *a;
	int ret = check_range(va, nr);

	if (ret)
		return ret;
	pg_write_lock(&space->lock, LOCK_MM);
	ret = cut(space, va, end);
	while (!ret && (a = area_from(space, va)) && a->start < end)
		remove_area(a);
	pg_write_unlock(&space->lock, LOCK_MM);
	return ret;
}

/* R98: an entry that loses a right keeps its page, wherever that is. */
static void protect_entries(struct pg_area *area)
{
	struct pg_space *space = area->space;
	uintptr_t va = area->start;
	enum pg_level level;
	pg_atomic64 *at;

	pg_lock(&space->ptl, LOCK_PT);
	while ((at = pg_entry_next(space, &va, area->end, &level))) {
		pg_entry_t drop = 0;

		if (!(area->flags & PG_AREA_WRITE))
			drop |= PG_E_WRITE;
		if (!(area->flags & PG_AREA_READ))
			drop |= PG_E_PRESENT;
		if (!pg_mutant("protect_leaves_entries"))
			pg_fetch_and(at, ~drop, acq_rel);
		if (area->flags & PG_AREA_READ &&
		    !(pg_load(at, relaxed) & PG_E_PRIVATE))
			pg_fetch_or(at, PG_E_PRESENT, acq_rel);
		va += pg_level_size(level);
	}
	pg_unlock(&space->ptl, LOCK_PT);
}

static bool is_mapped(const struct pg_space *space, uintptr_t va, uintptr_t end)
{
	for (const struct pg_area *a = area_from(space, va);
	     a && a->start <= va && va < end; a = a->next_in_space)
		va = a->end;
	return va >= end;
}

int pg_space_protect(struct pg_space *space, uintptr_t va, uint64_t nr,
		     uint32_t flags)
{
	uintptr_t end = va + (uintptr_t)nr * PG_PAGE_SIZE;
	int ret = check_range(va, nr);

	if (!ret && (flags & ~PROT || flags == PG_AREA_WRITE))
		ret = -EINVAL;
	if (ret)
		return ret;
	pg_write_lock(&space->lock, LOCK_MM);
	ret = is_mapped(space, va, end) ? cut(space, va, end) : -ENOMEM;
	for (struct pg_area *a = area_from(space, va);
	     !ret && a && a->start < end; a = a->next_in_space) {
		a->flags = (a->flags & ~PROT) | flags;
		protect_entries(a);
	}
	pg_write_unlock(&space->lock, LOCK_MM);
	return ret;
}

/* Make places wherever @area has entries, at @to of @space. Nobody makes new
 * entries: its space is locked for writing. */
static int populate_like(const struct pg_area *area, struct pg_space *space,
			 uintptr_t to)
{
	for (uintptr_t va = area->start; va < area->end;) {
		uintptr_t next = (va | (((uintptr_t)1 << 30) - 1)) + 1;
		uintptr_t at = to + (va - area->start);

		if (next > area->end)
			next = area->end;
		if (pg_load(&area->space->table.pud[va >> 30], relaxed) &&
		    (pg_table_populate(space, at) ||
		     pg_table_populate(space, at + (next - va) - 1)))
			return -ENOMEM;
		va = next;
	}
	return 0;
}

/* From where @from lies to @to, as they are: what an entry counts for goes
 * with it (R99). */
static void move_entries(struct pg_area *from, uintptr_t to)
{
	struct pg_space *space = from->space;
	struct pg_gather g = {0};
	uintptr_t va = from->start;
	enum pg_level level;

	pg_lock(&space->ptl, LOCK_PT);
	while (pg_entry_next(space, &va, from->end, &level)) {
		uintptr_t at = to + (va - from->start);

		if (at & (pg_level_size(level) - 1)) {
			pg_entry_split(space, va, level, &g);
			pg_gather_relax(space, &g);
			continue;
		}
		pg_entry_set(space, at, level,
			     pg_entry_clear(space, va, level));
		va += pg_level_size(level);
	}
	pg_unlock(&space->ptl, LOCK_PT);
	pg_gather_put(space, &g);
}

/* Holds space->lock for writing. */
static int move(struct pg_space *space, uintptr_t va, uintptr_t end,
		uintptr_t to, bool keep)
{
	struct pg_area *a = pg_find_area(space, va), *b;
	int ret;

	if (!a || a->end < end)
		return -EFAULT;
	b = area_from(space, to);
	if (b && b->start < to + (end - va))
		return -EEXIST;
	/* What it is here it must be there: its end is as its beginning. */
	ret = pg_mutant("area_moved_anywhere") ? 0 : may_border(a, to);
	if (!ret)
		ret = cut(space, va, end);
	if (ret)
		return ret;
	a = pg_find_area(space, va);
	ret = populate_like(a, space, to);
	if (ret)
		return ret;
	/* A reverse walk sees each entry in one of the two places: it waits. */
	lock_mapping(a);
	b = new_area(space, a);
	b->start = to;
	b->end = to + (end - va);
	link_area(b);
	if (pg_mutant("move_lets_walks_pass")) {
		unlock_mapping(a);
		pg_yield();
		move_entries(a, to);
		lock_mapping(a);
	}
	if (!pg_mutant("move_leaves_entries"))
		move_entries(a, to);
	unlock_mapping(a);
	if (!keep)
		remove_area(a);
	return 0;
}

int pg_space_move(struct pg_space *space, uintptr_t va, uint64_t nr,
		  uintptr_t to, bool keep)
{
	uintptr_t len = (uintptr_t)nr * PG_PAGE_SIZE;
	int ret = check_range(va, nr);

	if (!ret)
		ret = check_range(to, nr);
	if (!ret && va < to + len && to < va + len)
		ret = -EINVAL;
	if (ret)
		return ret;
	pg_write_lock(&space->lock, LOCK_MM);
	ret = move(space, va, va + len, to, keep);
	pg_write_unlock(&space->lock, LOCK_MM);
	return ret;
}

/* ---- fork ---- */

/* Both may read the page from now on, and the first to write gets a copy. */
static void copy_entries(struct pg_area *from, struct pg_area *to)
{
	struct pg_space *parent = from->space, *child = to->space;
	uintptr_t va = from->start;
	enum pg_level level;
	pg_atomic64 *at;

	pg_lock(&parent->ptl, LOCK_PT);
	/* The second of its rank. Who walks a mapping whose area the child has
	 * already may hold it; who does wants no second one, so he lets go. */
	while (!pg_trylock(&child->ptl, LOCK_PT)) {
		pg_bug_on(pg_mutant("nobody_walks_the_child"));
		pg_yield();
	}
	while ((at = pg_entry_next(parent, &va, from->end, &level))) {
		pg_entry_t e = pg_load(at, relaxed);

		if (pg_entry_is_counted(e)) {
			struct pgmap_folio *folio = pg_entry_folio(e);

			if (!pg_mutant("fork_leaves_writable"))
				e = pg_fetch_and(at, ~(pg_entry_t)PG_E_WRITE,
						 acq_rel);
			e &= ~(pg_entry_t)(PG_E_WRITE | PG_E_DIRTY |
					   PG_E_YOUNG);
			if (!pg_mutant("fork_copies_files") ||
			    from->kind == PG_AREA_ANON) {
				pgmap_folio_get(folio);
				pg_entry_count(child, folio, level);
			}
			pg_entry_set(child, va, level, e);
		}
		va += pg_level_size(level);
	}
	pg_unlock(&child->ptl, LOCK_PT);
	pg_unlock(&parent->ptl, LOCK_PT);
}

static int copy_area(struct pg_area *a, struct pg_space *child)
{
	/* R129: what is a file's the child faults again. */
	bool copy = a->kind == PG_AREA_ANON || pg_mutant("fork_copies_files");
	struct pg_area *b;
	int ret = reserve(child, 1);

	if (!ret && copy)
		ret = populate_like(a, child, a->start);
	if (ret)
		return ret;
	lock_mapping(a);
	b = new_area(child, a);
	link_area(b);
	if (copy)
		copy_entries(a, b);
	unlock_mapping(a);
	return 0;
}

int pg_space_fork(struct pg_space *parent, struct pg_space *child)
{
	int ret = 0;

	pg_write_lock(&parent->lock, LOCK_MM);
	/* The second of its rank; nobody else knows the child. */
	pg_bug_on(!pg_write_trylock(&child->lock, LOCK_MM));
	for (struct pg_area *a = parent->areas; a && !ret; a = a->next_in_space)
		ret = copy_area(a, child);
	while (ret && child->areas && !pg_mutant("fork_forgets_its_areas"))
		remove_area(child->areas);
	pg_write_unlock(&child->lock, LOCK_MM);
	pg_write_unlock(&parent->lock, LOCK_MM);
	return ret;
}

/* ---- The CPU ---- */

static bool allows(pg_entry_t e, bool write)
{
	return e & PG_E_PRESENT && (!write || e & PG_E_WRITE);
}

/* What a CPU does without asking anybody. Partner of the CAS: the exchange in
 * pg_entry_clear(). */
static bool hit(struct pg_space *space, uintptr_t va, bool write, uint64_t *pfn)
{
	pg_entry_t marks = PG_E_YOUNG | (write ? PG_E_DIRTY : 0);
	enum pg_level level;

	for (;;) {
		pg_atomic64 *at = pg_entry_at(space, va, &level);
		pg_entry_t e = at ? pg_load(at, acquire) : 0;
		uint64_t in = (va & (pg_level_size(level) - 1)) / PG_PAGE_SIZE;

		if (e & PG_E_TABLE)
			continue;
		if (!allows(e, write))
			return false;
		if ((e & marks) != marks && !pg_cas(at, &e, e | marks, acq_rel))
			continue;
		if (pfn)
			*pfn = e & PG_E_ZERO ? 0 : pg_entry_pfn(e) + in;
		return true;
	}
}

/* R88, R89, R93. @wait: Out: a folio to wait for, when nothing is held. */
static enum pg_fault_code fault_private(struct pg_area *area, uintptr_t va,
					pg_entry_t e, enum pg_level level,
					bool write, struct pgmap_folio **wait)
{
	struct pg_space *space = area->space;
	uint64_t in = (va & (pg_level_size(level) - 1)) / PG_PAGE_SIZE;
	struct pgmap_fault f = {
		.space = space,
		.pfn = pg_entry_pfn(e) +
		       (pg_mutant("fault_names_the_head") ? 0 : in),
		.va = va,
		.flags = write ? PG_FAULT_WRITE : 0,
		.whole = level != PG_PTE,
	};
	enum pg_level now;
	bool locked;
	int ret;

	pg_lock(&space->ptl, LOCK_PT);
	if ((pg_entry_get(space, va, &now) != e || now != level) &&
	    !pg_mutant("entry_not_looked_at_again")) {
		pg_unlock(&space->ptl, LOCK_PT);
		return PG_VM_RETRY;
	}
	f.folio = pg_entry_folio(e);
	locked = pgmap_folio_trylock(f.folio);
	if (locked || pg_mutant("waiter_holds_a_reference"))
		pgmap_folio_get(f.folio);
	if (!locked)
		*wait = f.folio;
	pg_unlock(&space->ptl, LOCK_PT);
	if (!locked)
		return PG_VM_RETRY;
	ret = pgmap_folio_map(f.folio)->ops.migrate_to_ram(&f);
	pgmap_folio_unlock(f.folio);
	pgmap_folio_put(f.folio);
	if (!ret || ret == -EAGAIN || pg_mutant("driver_error_is_retried"))
		return PG_VM_RETRY;
	return ret == -ENOMEM ? PG_VM_OOM : PG_VM_SIGBUS;
}

/* How many entries of [@va, @end) name a page of @folio. Holds ptl. */
static uint32_t nr_naming(struct pg_space *space,
			  const struct pgmap_folio *folio, uintptr_t va,
			  uintptr_t end)
{
	enum pg_level level;
	pg_atomic64 *at;
	uint32_t n = 0;

	while ((at = pg_entry_next(space, &va, end, &level))) {
		n += pg_entry_names(pg_load(at, relaxed), folio);
		va += pg_level_size(level);
	}
	return n;
}

/* Does no other space map @e's folio? One entry of it is at @va. Holds ptl: so
 * who has none gets none from us, and our own stay as many as we count. */
static bool is_alone(struct pg_space *space, uintptr_t va, pg_entry_t e)
{
	struct pgmap_folio *folio = pg_entry_folio(e);
	uintptr_t size = PG_PAGE_SIZE << pgmap_folio_order(folio);
	uint32_t nr = pgmap_folio_mapcount(folio);

	if (nr == 1 || pg_mutant("shared_page_is_written"))
		return true;
	if (pg_mutant("one_mapping_is_alone"))
		return false;
	/* Mostly its pages lie side by side; after mremap() anywhere. */
	return nr_naming(space, folio, va > size ? va - size : 0, va + size) ==
		       nr ||
	       (nr_naming(space, folio, 0, VA_END) == nr &&
		!pg_mutant("alone_side_by_side"));
}

/* A store to a page that is there, and that nobody else has. */
static enum pg_fault_code reuse_anon(struct pg_area *area, uintptr_t va)
{
	struct pg_space *space = area->space;
	enum pg_fault_code ret = PG_VM_SIGBUS;
	enum pg_level level;
	pg_atomic64 *at;

	pg_lock(&space->ptl, LOCK_PT);
	at = pg_entry_at(space, va, &level);
	if (!at) {
		ret = PG_VM_RETRY;
	} else if (pg_entry_is_counted(pg_load(at, relaxed)) &&
		   is_alone(space, va, pg_load(at, relaxed))) {
		pg_fetch_or(at, PG_E_WRITE, acq_rel);
		ret = PG_VM_NOPAGE;
	}
	pg_unlock(&space->ptl, LOCK_PT);
	return ret;
}

static enum pg_fault_code fault_anon(struct pg_area *area, uintptr_t va,
				     bool write, struct pgmap_folio **wait)
{
	enum pg_level level;
	pg_entry_t e = pg_entry_get(area->space, va, &level);

	if (e & PG_E_PRIVATE)
		return fault_private(area, va, e, level, write, wait);
	if (allows(e, write))
		return PG_VM_NOPAGE; /* others were quicker */
	if (e & PG_E_PRESENT)
		return reuse_anon(area, va);
	if (e)
		return PG_VM_RETRY;
	if (write)
		return PG_VM_SIGBUS;
	return pg_insert_special(area, va, PG_PTE, 0, 0);
}

/* Does the whole entry lie inside the area, and is the address a multiple of
 * its size where the place in the mapping is? (R141) */
static bool level_fits(const struct pg_area *area, uintptr_t va,
		       enum pg_level level)
{
	uintptr_t size = pg_level_size(level);
	uintptr_t start = va & ~(size - 1);
	uint64_t colour = area->start / PG_PAGE_SIZE - area->index;

	if (colour & (pg_level_pages(level) - 1) && !pg_mutant("any_colour"))
		return false;
	return start >= area->start && start < area->end &&
	       area->end - start >= size;
}

static enum pg_fault_code fault_mapping(struct pg_area *area, uintptr_t va,
					bool write)
{
	const struct pg_mapping *m = area->mapping;

	if (!m || !m->ops || !m->ops->fault)
		return PG_VM_SIGBUS;
	for (int l = pg_mutant("smallest_first") ? PG_PTE : PG_PUD; l >= PG_PTE;
	     l--) {
		enum pg_level level = (enum pg_level)l, found;
		pg_entry_t e = pg_entry_get(area->space, va, &found);
		uintptr_t at = va & ~(pg_level_size(level) - 1);
		enum pg_fault_code ret;

		if (allows(e, write))
			return PG_VM_NOPAGE; /* others were quicker */
		if (!pg_level_supported(level) ||
		    !level_fits(area, va, level) || found < level)
			continue;
		/* A larger one that could not be made writable (R126). */
		if (e && found > level)
			pg_zap_range(area, va & ~(pg_level_size(found) - 1),
				     (va | (pg_level_size(found) - 1)) + 1);
		ret = m->ops->fault(area, at,
				    area->index +
					    (at - area->start) / PG_PAGE_SIZE,
				    level, write);
		if (ret != PG_VM_FALLBACK)
			return ret;
	}
	return PG_VM_SIGBUS;
}

static enum pg_fault_code fault(struct pg_space *space, uintptr_t va,
				bool write, struct pgmap_folio **wait)
{
	enum pg_fault_code ret;
	struct pg_area *area;

	pg_read_lock(&space->lock, LOCK_MM);
	area = pg_find_area(space, va);
	if (!area || !(area->flags & PG_AREA_READ) ||
	    (write && !(area->flags & PG_AREA_WRITE)))
		ret = PG_VM_SIGSEGV;
	else if (area->kind == PG_AREA_ANON)
		ret = fault_anon(area, va, write, wait);
	else
		ret = fault_mapping(area, va, write);
	pg_read_unlock(&space->lock, LOCK_MM);
	return ret;
}

enum pg_fault_code pg_touch(struct pg_space *space, uintptr_t va, bool write,
			    uint64_t *pfn)
{
	va &= ~(uintptr_t)(PG_PAGE_SIZE - 1);
	for (int i = 0; i < TRIES; i++) {
		struct pgmap_folio *wait = NULL;
		enum pg_fault_code ret;

		if (hit(space, va, write, pfn))
			return PG_VM_NOPAGE;
		ret = fault(space, va, write, &wait);
		if (ret != PG_VM_NOPAGE && ret != PG_VM_RETRY)
			return ret;
		if (wait)
			pg_folio_wait_unlocked(wait);
		else if (ret == PG_VM_RETRY)
			pg_yield();
	}
	return PG_VM_RETRY;
}

/* ---- Checking ---- */

static const char *check_folio(const struct pg_area *a, pg_entry_t e,
			       enum pg_level level,
			       uint64_t pages[static PG_NR_RSS])
{
	struct pgmap_folio *folio = pgmap_tryget_pfn(pg_entry_pfn(e));
	const char *what = NULL;
	bool private;

	if (!folio)
		return "an entry holds its folio";
	private = pgmap_get_type(pgmap_folio_map(folio)) == PGMAP_PRIVATE;
	pages[pg_folio_rss(folio)] += pg_level_pages(level);
	if (!pgmap_folio_mapcount(folio))
		what = "an entry is in the mapcount of its folio";
	else if (pgmap_folio_count(folio) - 1 < pgmap_folio_mapcount(folio))
		what = "each mapping holds a reference";
	else if (level != PG_PTE &&
		 (pgmap_folio_order(folio) != pg_level_order(level) ||
		  (pgmap_folio_pfn(folio) != pg_entry_pfn(e) &&
		   !pg_mutant("large_entry_begins_anywhere"))))
		what = "a large entry is a whole folio";
	else if (private != !!(e & PG_E_PRIVATE) || (private && a->kind))
		what = "private pages have private entries, in anonymous "
		       "memory";
	pgmap_folio_put(folio);
	return what;
}

static const char *check_entry(struct pg_space *space, uintptr_t va,
			       enum pg_level level, pg_entry_t e,
			       uint64_t pages[static PG_NR_RSS])
{
	const struct pg_area *a = pg_find_area(space, va);

	if (!a || a->end - va < pg_level_size(level))
		return "an entry lies in one area";
	if (!pg_level_supported(level))
		return "entries have the sizes of this build";
	if (e & PG_E_WRITE && !(a->flags & PG_AREA_WRITE))
		return "what may not be written has no writable entry";
	if (e & PG_E_PRESENT &&
	    (!(a->flags & PG_AREA_READ) || e & PG_E_PRIVATE))
		return "what may not be read has no present entry";
	if (e & PG_E_ZERO)
		return e & PG_E_WRITE || pg_entry_pfn(e)
			       ? "the page of zeros is nobody's to write"
			       : NULL;
	if (e & PG_E_SPECIAL)
		return a->kind == PG_AREA_PFNMAP
			       ? NULL
			       : "special entries are those of a pfn map";
	return check_folio(a, e, level, pages);
}

/* The marks that say where smaller entries are, and how many places there
 * are. Holds ptl. */
static const char *check_table(const struct pg_table *t)
{
	uint32_t gigs = 0;

	for (const struct pg_gig *g = t->gigs; g; g = g->next)
		gigs++;
	if (gigs != pg_load(&t->nr_gigs, relaxed))
		return "every table page has its place";
	for (size_t i = t->lo; i < t->hi; i++) {
		const struct pg_gig *g = pg_load(&t->gig[i], relaxed);
		uint32_t pmds = 0;

		for (size_t k = 0; g && g->pmds && k < 512; k++) {
			pg_entry_t e = pg_load(&g->pmd[k], relaxed);
			uint32_t ptes = 0;

			for (size_t p = 0; g->ptes[k] && p < 512; p++)
				ptes += !!pg_load(&g->pte[k][p], relaxed);
			if (ptes != g->ptes[k] || !!(e & PG_E_TABLE) != !!ptes)
				return "a PMD knows of its PTEs";
			pmds += !!e;
		}
		if ((g ? g->pmds : 0) != pmds ||
		    !!(pg_load(&t->pud[i], relaxed) & PG_E_TABLE) != !!pmds)
			return "a PUD knows of its PMDs";
	}
	return NULL;
}

int pg_space_check(struct pg_space *space, const char **what)
{
	uint64_t pages[PG_NR_RSS] = {0};
	enum pg_level level;
	uintptr_t va = 0;
	pg_atomic64 *at;

	*what = NULL;
	pg_read_lock(&space->lock, LOCK_MM);
	for (const struct pg_area *a = space->areas; a; a = a->next_in_space)
		if (a->start >= a->end ||
		    (a->next_in_space && a->next_in_space->start < a->end))
			*what = "areas are sorted and disjoint";
	pg_lock(&space->ptl, LOCK_PT);
	if (!*what)
		*what = check_table(&space->table);
	while (!*what && (at = pg_entry_next(space, &va, VA_END, &level))) {
		*what = check_entry(space, va, level, pg_load(at, relaxed),
				    pages);
		va += pg_level_size(level);
	}
	for (int i = 0; i < PG_NR_RSS && !*what; i++)
		if (pg_load(&space->rss[i], relaxed) != pages[i])
			*what = "rss is the pages of the entries";
	pg_unlock(&space->ptl, LOCK_PT);
	pg_read_unlock(&space->lock, LOCK_MM);
	return *what && !pg_mutant("check_sees_nothing") ? -EUCLEAN : 0;
}
