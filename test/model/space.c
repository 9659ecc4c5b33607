/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Spaces against a list: whatever is mapped, touched, protected, moved, forked
 * and removed, the entries are those of a list that knows no tables, no locks
 * and no counts; each folio is held as often as the list names it.
 */
#include "spaces.h"

#define AT (4 * GB)
#define NR_SPACES 2
#define MAX_ENTRIES 6000
#define MAX_AREAS 4000

/* What a file is made of, in pages: a folio of 1 GB, two of 2 MB, and some of
 * one page. */
#define LARGE (1u << 18)
#define SMALL (LARGE + 1024)
#define FILE_PAGES (SMALL + 64)

struct model_entry {
	int space;
	uintptr_t va;
	enum pg_level level;
	pg_entry_t e;
};

struct model_area {
	int space;
	uintptr_t start, end;
	uint64_t index;
	uint32_t flags;
	enum pg_area_kind kind;
};

static struct model_entry entries[MAX_ENTRIES];
static size_t nr;
static struct model_area areas[MAX_AREAS];
static size_t nr_areas;
static bool alive[NR_SPACES];

static struct pg_space spaces[NR_SPACES];
static struct pg_mapping file, anon;
static uint64_t seed;

/* The folios, all of them held by the test. */
#define MAX_FOLIOS 100
static struct model_folio {
	struct pgmap_folio *folio;
	uint64_t pfn;
	unsigned int order;
	bool private, anon;
	uint32_t marks;
} folios[MAX_FOLIOS];
static size_t nr_folios;

static uint64_t rnd(uint64_t n)
{
	return test_random(&seed) % n;
}

static struct model_folio *folio_of(uint64_t pfn)
{
	for (size_t i = 0; i < nr_folios; i++)
		if (pfn - folios[i].pfn < 1ull << folios[i].order)
			return &folios[i];
	fail_msg("page of no folio");
	return NULL;
}

static void add_folio(struct pgmap *map, uint64_t i, unsigned int order)
{
	struct model_folio *f = &folios[nr_folios++];

	f->folio = folio_new(map, i, order);
	f->pfn = map_pfn(map) + i;
	f->order = order;
	f->private = pgmap_get_type(map) == PGMAP_PRIVATE;
	f->anon = pgmap_get_type(map) != PGMAP_FS_DAX;
}

/* ---- The list ---- */

static uintptr_t end_of(const struct model_entry *m)
{
	return m->va + pg_level_size(m->level);
}

static struct model_entry *find(int space, uintptr_t va)
{
	for (size_t i = 0; i < nr; i++)
		if (entries[i].space == space && va >= entries[i].va &&
		    va < end_of(&entries[i]))
			return &entries[i];
	return NULL;
}

static bool any_inside(int space, uintptr_t va, enum pg_level level)
{
	for (size_t i = 0; i < nr; i++)
		if (entries[i].space == space && entries[i].level < level &&
		    entries[i].va - va < pg_level_size(level))
			return true;
	return false;
}

static void add(int space, uintptr_t va, enum pg_level level, pg_entry_t e)
{
	CHECK(nr < MAX_ENTRIES);
	entries[nr++] = (struct model_entry){space, va, level, e};
}

/* Does @space alone have @f? */
static bool is_alone(int space, const struct model_folio *f)
{
	for (size_t i = 0; i < nr; i++)
		if (entries[i].space != space &&
		    pg_entry_is_counted(entries[i].e) &&
		    folio_of(pg_entry_pfn(entries[i].e)) == f)
			return false;
	return true;
}

static void drop(struct model_entry *m)
{
	if (pg_entry_is_counted(m->e) && !(m->e & PG_E_PRIVATE)) {
		struct model_folio *f = folio_of(pg_entry_pfn(m->e));

		if (m->e & PG_E_DIRTY)
			f->marks |= PG_FOLIO_DIRTY;
		if (m->e & PG_E_YOUNG)
			f->marks |= PG_FOLIO_YOUNG;
	}
	*m = entries[--nr];
}

static void split(struct model_entry *m)
{
	struct model_entry was = *m;

	if (was.level != PG_PMD || !pg_entry_is_counted(was.e) ||
	    !folio_of(pg_entry_pfn(was.e))->anon) {
		drop(m);
		return;
	}
	*m = entries[--nr];
	for (uint64_t i = 0; i < 512; i++)
		add(was.space, was.va + i * PAGE, PG_PTE, was.e + (i << 12));
}

static void split_across(int space, uintptr_t va)
{
	struct model_entry *m = find(space, va);

	if (m && m->va < va)
		split(m);
}

static void drop_range(int space, uintptr_t va, uintptr_t end)
{
	split_across(space, va);
	split_across(space, end);
	for (size_t i = 0; i < nr;) {
		if (entries[i].space == space && entries[i].va >= va &&
		    entries[i].va < end)
			drop(&entries[i]);
		else
			i++;
	}
}

static struct model_area *area_of(int space, uintptr_t va)
{
	for (size_t i = 0; i < nr_areas; i++)
		if (areas[i].space == space && va >= areas[i].start &&
		    va < areas[i].end)
			return &areas[i];
	return NULL;
}

static bool is_free(int space, uintptr_t va, uintptr_t end)
{
	for (size_t i = 0; i < nr_areas; i++)
		if (areas[i].space == space && areas[i].start < end &&
		    va < areas[i].end)
			return false;
	return true;
}

static void cut_area(int space, uintptr_t va)
{
	struct model_area *a = area_of(space, va);

	if (!a || a->start == va)
		return;
	split_across(space, va);
	CHECK(nr_areas < MAX_AREAS);
	areas[nr_areas] = *a;
	areas[nr_areas].start = va;
	areas[nr_areas++].index += (va - a->start) / PAGE;
	a->end = va;
}

static void drop_areas(int space, uintptr_t va, uintptr_t end)
{
	cut_area(space, va);
	cut_area(space, end);
	drop_range(space, va, end);
	for (size_t i = 0; i < nr_areas;) {
		if (areas[i].space == space && areas[i].start >= va &&
		    areas[i].start < end)
			areas[i] = areas[--nr_areas];
		else
			i++;
	}
}

/* ---- What a fault or an insert comes to ---- */

static enum pg_fault_code model_insert(int space, uintptr_t va,
				       enum pg_level level, pg_entry_t e)
{
	const pg_entry_t kind = PG_E_SPECIAL | PG_E_ZERO | PG_E_PRIVATE;
	struct model_entry *m = find(space, va);
	uint64_t in;

	if (any_inside(space, va, level))
		return PG_VM_FALLBACK;
	if (!m) {
		add(space, va, level, e);
		return PG_VM_NOPAGE;
	}
	in = e & PG_E_ZERO ? 0 : (va - m->va) / PAGE;
	if ((m->e ^ e) & kind || pg_entry_pfn(m->e) + in != pg_entry_pfn(e))
		return PG_VM_RETRY;
	if (!(m->e & PG_E_PRESENT))
		return m->e & PG_E_PRIVATE ? PG_VM_NOPAGE : PG_VM_RETRY;
	if (e & PG_E_WRITE) {
		if (m->level > level && !(m->e & PG_E_WRITE))
			return PG_VM_RETRY;
		m->e |= PG_E_WRITE | PG_E_DIRTY;
	}
	m->e |= PG_E_YOUNG;
	return PG_VM_NOPAGE;
}

static pg_entry_t make(const struct model_area *a, uint64_t pfn, bool private,
		       bool write)
{
	pg_entry_t e = pfn << 12;

	write = write && a->flags & PG_AREA_WRITE;
	if (private)
		return e | PG_E_PRIVATE | (write ? PG_E_WRITE : 0);
	e |= PG_E_YOUNG | (a->flags & PG_AREA_READ ? PG_E_PRESENT : 0);
	return e | (write ? PG_E_WRITE | PG_E_DIRTY : 0);
}

static bool inside(const struct model_area *a, uintptr_t va,
		   enum pg_level level)
{
	return va % pg_level_size(level) == 0 && va >= a->start &&
	       va + pg_level_size(level) <= a->end;
}

static enum pg_fault_code model_file_fault(int space, uintptr_t va, bool write)
{
	for (int l = PG_PUD; l >= PG_PTE; l--) {
		enum pg_level level = (enum pg_level)l;
		uintptr_t at = va & ~(pg_level_size(level) - 1);
		struct model_area *a = area_of(space, va);
		struct model_entry *m = find(space, va);
		uint64_t i = a->index + (at - a->start) / PAGE;
		struct model_folio *f;

		if (!pg_level_supported(level) || !inside(a, at, level) ||
		    i % pg_level_pages(level) ||
		    (m ? m->level < level : any_inside(space, at, level)))
			continue;
		if (m && m->level > level)
			drop(m);
		if (i >= FILE_PAGES)
			return PG_VM_SIGBUS;
		f = folio_of(folios[0].pfn + i);
		if (level != PG_PTE && f->order != pg_level_order(level))
			continue;
		return model_insert(space, at, level,
				    make(a, folios[0].pfn + i, false, write));
	}
	return PG_VM_SIGBUS;
}

static enum pg_fault_code model_touch(int space, uintptr_t va, bool write,
				      uint64_t *pfn)
{
	struct model_area *a = area_of(space, va);
	struct model_entry *m = find(space, va);

	if (!a || !(a->flags & PG_AREA_READ) ||
	    (write && !(a->flags & PG_AREA_WRITE)))
		return PG_VM_SIGSEGV;
	if (!m || !(m->e & PG_E_PRESENT) || (write && !(m->e & PG_E_WRITE))) {
		enum pg_fault_code ret = PG_VM_SIGBUS;

		if (a->kind == PG_AREA_DAX) {
			ret = model_file_fault(space, va, write);
		} else if (a->kind == PG_AREA_ANON && !m && !write) {
			add(space, va, PG_PTE,
			    PG_E_ZERO | PG_E_PRESENT | PG_E_YOUNG);
			ret = PG_VM_NOPAGE;
		} else if (a->kind == PG_AREA_ANON && m &&
			   m->e & PG_E_PRESENT && pg_entry_is_counted(m->e) &&
			   is_alone(space, folio_of(pg_entry_pfn(m->e)))) {
			m->e |= PG_E_WRITE;
			ret = PG_VM_NOPAGE;
		}
		if (ret != PG_VM_NOPAGE)
			return ret;
		m = find(space, va);
	}
	m->e |= PG_E_YOUNG | (write ? PG_E_DIRTY : 0);
	*pfn = m->e & PG_E_ZERO ? 0 : pg_entry_pfn(m->e) + (va - m->va) / PAGE;
	return PG_VM_NOPAGE;
}

static enum pg_fault_code real_file_fault(struct pg_area *area, uintptr_t va,
					  uint64_t index, enum pg_level level,
					  bool write)
{
	struct model_folio *f;

	if (index >= FILE_PAGES)
		return PG_VM_SIGBUS;
	f = folio_of(folios[0].pfn + index);
	if (level != PG_PTE && f->order != pg_level_order(level))
		return PG_VM_FALLBACK;
	return pg_insert_folio(area, va, level, f->folio, folios[0].pfn + index,
			       write ? PG_E_WRITE : 0);
}

/* ---- Steps ---- */

static int some_space(void)
{
	return alive[1] && rnd(2);
}

/* Addresses that often meet: few, at and beside the edges of entries. */
static uintptr_t some_va(void)
{
	static const uintptr_t off[] = {0,	2 * MB,	     4 * MB,
					6 * MB, GB - 2 * MB, 512 * MB};
	uintptr_t va = AT + rnd(3) * GB + off[rnd(6)];

	if (nr_areas && rnd(2)) {
		const struct model_area *a = &areas[rnd(nr_areas)];
		uint64_t n = (a->end - a->start) / (2 * MB) + 1;

		if (a->start < AT + 3 * GB)
			va = a->start + rnd(n) * 2 * MB;
	}
	switch (rnd(4)) {
	case 0:
		return va + rnd(4) * PAGE;
	case 1:
		return va + rnd(512) * PAGE;
	default:
		return va;
	}
}

static uint64_t some_len(void)
{
	static const uint64_t len[] = {1,   2,	 100,  511,
				       512, 513, 1024, 1u << 18};

	return len[rnd(8)];
}

/* How much goes at once: mostly little, or there would never be much. */
static uint64_t some_loss(void)
{
	return rnd(8) ? 1 + rnd(16) : some_len();
}

static uint32_t some_prot(void)
{
	static const uint32_t prot[] = {0, PG_AREA_READ, RW, RW, RW};

	return prot[rnd(5)];
}

static void step_map(void)
{
	struct model_area a = {
		.space = some_space(),
		.start = some_va(),
		.kind = (enum pg_area_kind)rnd(3),
		.flags = some_prot(),
	};
	struct pg_mapping *m = NULL;
	int ret;

	a.end = a.start + some_len() * PAGE;
	switch (a.kind) {
	case PG_AREA_DAX:
		m = &file;
		a.index = (rnd(2) ? 0 : LARGE) + a.start / PAGE % 512;
		if (rnd(8) == 0)
			a.index += rnd(700);
		break;
	case PG_AREA_ANON:
		m = rnd(2) ? &anon : NULL;
		a.index = a.start / PAGE;
		break;
	case PG_AREA_PFNMAP:
		break;
	}
	ret = pg_space_map(&spaces[a.space], a.start, (a.end - a.start) / PAGE,
			   a.kind, a.flags, m, a.index);
	if (!is_free(a.space, a.start, a.end)) {
		CHECK_EQ(ret, -EEXIST);
		return;
	}
	CHECK_EQ(ret, 0);
	areas[nr_areas++] = a;
}

static void step_unmap(void)
{
	int space = some_space();
	uintptr_t va = some_va();
	uint64_t n = some_loss();

	CHECK_EQ(pg_space_unmap(&spaces[space], va, n), 0);
	drop_areas(space, va, va + n * PAGE);
}

static void step_protect(void)
{
	int space = some_space();
	uintptr_t va = some_va(), end = va + some_len() * PAGE, at = va;
	uint32_t flags = some_prot();
	int ret =
		pg_space_protect(&spaces[space], va, (end - va) / PAGE, flags);

	while (at < end && area_of(space, at))
		at = area_of(space, at)->end;
	if (at < end) {
		CHECK_EQ(ret, -ENOMEM);
		return;
	}
	CHECK_EQ(ret, 0);
	cut_area(space, va);
	cut_area(space, end);
	for (size_t i = 0; i < nr_areas; i++)
		if (areas[i].space == space && areas[i].start >= va &&
		    areas[i].start < end)
			areas[i].flags = flags;
	for (size_t i = 0; i < nr; i++) {
		pg_entry_t *e = &entries[i].e;

		if (entries[i].space != space || entries[i].va < va ||
		    entries[i].va >= end)
			continue;
		if (!(flags & PG_AREA_WRITE))
			*e &= ~(pg_entry_t)PG_E_WRITE;
		if (!(flags & PG_AREA_READ))
			*e &= ~(pg_entry_t)PG_E_PRESENT;
		else if (!(*e & PG_E_PRIVATE))
			*e |= PG_E_PRESENT;
	}
}

static void step_move(void)
{
	int space = some_space();
	uintptr_t va = some_va(), len = some_len() * PAGE, to = some_va();
	bool keep = rnd(2);
	struct model_area *a = area_of(space, va), new;
	int ret = pg_space_move(&spaces[space], va, len / PAGE, to, keep);

	if (va < to + len && to < va + len) {
		CHECK_EQ(ret, -EINVAL);
		return;
	}
	if (!a || a->end < va + len) {
		CHECK_EQ(ret, -EFAULT);
		return;
	}
	if (!is_free(space, to, to + len)) {
		CHECK_EQ(ret, -EEXIST);
		return;
	}
	CHECK_EQ(ret, 0);
	cut_area(space, va);
	cut_area(space, va + len);
	new = *area_of(space, va);
	for (size_t i = 0; i < nr;) {
		struct model_entry *m = &entries[i];

		if (m->space != space || m->va < va || m->va >= va + len) {
			i++;
		} else if ((m->va - va + to) % pg_level_size(m->level)) {
			split(m); /* another one is in its place */
		} else {
			m->va += to - va;
			i++;
		}
	}
	if (!keep)
		drop_areas(space, va, va + len);
	new.start = to;
	new.end = to + len;
	areas[nr_areas++] = new;
}

static void step_touch(void)
{
	int space = some_space();
	uintptr_t va = some_va();
	bool write = rnd(2);
	uint64_t pfn = 1, want = 1;
	enum pg_fault_code code;

	/* Where there is something, since that is little of all there is. */
	if (nr && rnd(2)) {
		const struct model_entry *m = &entries[rnd(nr)];

		space = m->space;
		va = m->va + rnd(pg_level_pages(m->level)) * PAGE;
	}
	code = pg_touch(&spaces[space], va, write, &pfn);
	CHECK_EQ(code, model_touch(space, va, write, &want));
	CHECK_EQ(pfn, want);
}

static void step_insert(void)
{
	int space = some_space();
	struct model_folio *f = &folios[rnd(nr_folios)];
	enum pg_level level = (enum pg_level)rnd(3);
	uintptr_t va = some_va() & ~(rnd(2) ? pg_level_size(level) - 1 : 0);
	uint64_t pfn =
		f->pfn + (level == PG_PTE || !rnd(4) ? rnd(1u << f->order) : 0);
	struct model_area *a = area_of(space, va);
	enum pg_fault_code ret, want;
	bool write = rnd(2), fits;

	if (!a)
		return;
	ret = insert(&spaces[space], va, level, f->folio, pfn,
		     (write ? PG_E_WRITE : 0) |
			     (f->private ? PG_E_PRIVATE : 0));
	fits = inside(a, va, level) && f->anon == (a->kind == PG_AREA_ANON) &&
	       a->kind != PG_AREA_PFNMAP &&
	       (level == PG_PTE ||
		(f->order == pg_level_order(level) && pfn == f->pfn));
	if (!pg_level_supported(level))
		want = PG_VM_FALLBACK;
	else if (!fits)
		want = PG_VM_SIGBUS;
	else
		want = model_insert(space, va, level,
				    make(a, pfn, f->private, write));
	CHECK_EQ(ret, want);
}

static void step_special(void)
{
	int space = some_space();
	enum pg_level level = (enum pg_level)rnd(3);
	uintptr_t va = some_va() & ~(pg_level_size(level) - 1);
	struct model_area *a = area_of(space, va);
	uint64_t pfn = rnd(2) ? 0 : (1 + rnd(3)) << 18;
	enum pg_fault_code ret, want;
	bool write = rnd(2);
	pg_entry_t e;

	if (!a)
		return;
	ret = insert_special(&spaces[space], va, level, pfn,
			     write ? PG_E_WRITE : 0);
	e = make(a, pfn, false, write && pfn) |
	    (pfn ? PG_E_SPECIAL : PG_E_ZERO);
	if (!pg_level_supported(level))
		want = PG_VM_FALLBACK;
	else if (!inside(a, va, level) || (pfn && a->kind != PG_AREA_PFNMAP))
		want = PG_VM_SIGBUS;
	else
		want = model_insert(space, va, level, e);
	CHECK_EQ(ret, want);
}

static void step_zap(void)
{
	int space = some_space();
	uintptr_t va = some_va(), end = va + some_loss() * PAGE;
	struct model_area *a = area_of(space, va);

	if (!a)
		return;
	if (end > a->end)
		end = a->end;
	zap(&spaces[space], va, end);
	drop_range(space, va, end);
}

/* Calls @fn for the part of each area that maps [index, index + n) of the
 * file. */
static void for_parts(uint64_t index, uint64_t n,
		      void (*fn)(int space, uintptr_t va, uintptr_t end))
{
	for (size_t i = 0; i < nr_areas; i++) {
		struct model_area *a = &areas[i];
		uint64_t pages = (a->end - a->start) / PAGE;
		uint64_t lo = index > a->index ? index : a->index;
		uint64_t hi = index + n < a->index + pages ? index + n
							   : a->index + pages;

		if (a->kind == PG_AREA_DAX && lo < hi)
			fn(a->space, a->start + (lo - a->index) * PAGE,
			   a->start + (hi - a->index) * PAGE);
	}
}

static unsigned int nr_dirty;

static void clean(int space, uintptr_t va, uintptr_t end)
{
	for (size_t i = 0; i < nr; i++) {
		if (entries[i].space != space || end_of(&entries[i]) <= va ||
		    entries[i].va >= end)
			continue;
		nr_dirty += !!(entries[i].e & PG_E_DIRTY);
		entries[i].e &= ~(pg_entry_t)(PG_E_DIRTY | PG_E_WRITE);
	}
}

static void step_mapping(void)
{
	uint64_t index = (rnd(2) ? 0 : LARGE) + rnd(1100), n = some_loss();

	if (rnd(2)) {
		pg_unmap_mapping_range(&file, index, n);
		for_parts(index, n, drop_range);
	} else {
		unsigned int got = pg_clean_mapping_range(&file, index, n);

		nr_dirty = 0;
		for_parts(index, n, clean);
		CHECK_EQ(got, nr_dirty);
	}
}

static void step_fork(void)
{
	size_t n = nr, m = nr_areas;

	if (alive[1]) {
		pg_space_fini(&spaces[1]);
		drop_areas(1, 0, (uintptr_t)1 << PG_VA_BITS);
		alive[1] = false;
		return;
	}
	CHECK_EQ(pg_space_init(&spaces[1]), 0);
	CHECK_EQ(pg_space_fork(&spaces[0], &spaces[1]), 0);
	alive[1] = true;
	for (size_t i = 0; i < m; i++) {
		areas[nr_areas] = areas[i];
		areas[nr_areas++].space = 1;
	}
	for (size_t i = 0; i < n; i++) {
		struct model_entry *p = &entries[i];

		if (!pg_entry_is_counted(p->e) ||
		    area_of(0, p->va)->kind != PG_AREA_ANON)
			continue;
		p->e &= ~(pg_entry_t)PG_E_WRITE;
		add(1, p->va, p->level,
		    p->e & ~(pg_entry_t)(PG_E_DIRTY | PG_E_YOUNG));
	}
}

/* ---- Comparing ---- */

static void compare(void)
{
	uint64_t pages[NR_SPACES][PG_NR_RSS] = {{0}};
	size_t n[NR_SPACES] = {0}, maps[MAX_FOLIOS] = {0};

	for (size_t i = 0; i < nr; i++) {
		const struct model_entry *m = &entries[i];
		enum pg_level level;

		CHECK_EQ(pg_entry_get(&spaces[m->space], m->va, &level), m->e);
		CHECK_EQ(level, m->level);
		n[m->space]++;
		if (pg_entry_is_counted(m->e)) {
			struct model_folio *f = folio_of(pg_entry_pfn(m->e));

			maps[f - folios]++;
			pages[m->space][f->anon ? PG_RSS_ANON : PG_RSS_FILE] +=
				pg_level_pages(m->level);
		}
	}
	for (size_t i = 0; i < nr_folios; i++) {
		const struct model_folio *f = &folios[i];

		CHECK_EQ(pgmap_folio_mapcount(f->folio), maps[i]);
		CHECK_EQ(pgmap_folio_count(f->folio), maps[i] + 1);
		CHECK_EQ(pg_folio_marked(f->folio, PG_FOLIO_DIRTY),
			 !!(f->marks & PG_FOLIO_DIRTY));
		CHECK_EQ(pg_folio_marked(f->folio, PG_FOLIO_YOUNG),
			 !!(f->marks & PG_FOLIO_YOUNG));
	}
	for (int i = 0; i < NR_SPACES; i++) {
		if (!alive[i])
			continue;
		check(&spaces[i]);
		CHECK_EQ(nr_entries(&spaces[i]), n[i]);
		for (int k = 0; k < PG_NR_RSS; k++)
			CHECK_EQ(rss(&spaces[i], (enum pg_rss)k), pages[i][k]);
	}
	for (size_t i = 0; i < nr_areas; i++) {
		struct pg_area *a =
			pg_find_area(&spaces[areas[i].space], areas[i].start);

		CHECK(a && a->start == areas[i].start &&
		      a->end == areas[i].end && a->flags == areas[i].flags &&
		      a->kind == areas[i].kind && a->index == areas[i].index);
	}
}

TEST(R107_R116_R123_R128_entries_are_those_of_a_list)
{
	static const struct pg_mapping_ops ops = {.fault = real_file_fault};
	static void (*const steps[])(void) = {
		step_map,    step_map,	   step_unmap,	step_protect,
		step_move,   step_touch,   step_touch,	step_touch,
		step_touch,  step_insert,  step_insert, step_insert,
		step_insert, step_special, step_zap,	step_mapping,
	};
	const char *want = getenv("PGMAP_STEPS");
	unsigned long nr_steps = want ? strtoul(want, NULL, 0) : 30000;
	struct pgmap *map[3];
	size_t most = 0;

	seed = test_seed();
	nr = nr_areas = nr_folios = 0;
	pg_mapping_init(&file, &ops);
	pg_mapping_init(&anon, NULL);
	map[0] = map_new(PGMAP_FS_DAX, LARGE + 2048);
	map[1] = map_new(PGMAP_PRIVATE, 2048);
	map[2] = map_new(PGMAP_COHERENT, 2048);
	add_folio(map[0], 0, PGMAP_PUD_ORDER);
	add_folio(map[0], LARGE, PGMAP_PMD_ORDER);
	add_folio(map[0], LARGE + 512, PGMAP_PMD_ORDER);
	for (unsigned int i = 0; i < 64; i++)
		add_folio(map[0], SMALL + i, 0);
	for (unsigned int i = 1; i < 3; i++) {
		add_folio(map[i], 0, PGMAP_PMD_ORDER);
		add_folio(map[i], 512, PGMAP_PMD_ORDER);
		add_folio(map[i], 1024, 3);
		add_folio(map[i], 1033, 0);
		add_folio(map[i], 1034, 0);
	}
	CHECK_EQ(pg_space_init(&spaces[0]), 0);
	alive[0] = true;
	alive[1] = false;
	for (unsigned long i = 0; i < nr_steps; i++) {
		if (rnd(100) == 0)
			step_fork();
		else
			steps[rnd(sizeof(steps) / sizeof(steps[0]))]();
		if (nr > MAX_ENTRIES / 8 || nr_areas > 60) {
			int space = some_space();

			CHECK_EQ(pg_space_unmap(&spaces[space], AT, 6u << 18),
				 0);
			drop_areas(space, AT, AT + 6 * GB);
		}
		most = nr > most ? nr : most;
		compare();
	}
	printf("# %lu steps, at most %zu entries\n", nr_steps, most);
	for (int i = 0; i < NR_SPACES; i++)
		if (alive[i])
			pg_space_fini(&spaces[i]);
	CHECK(!file.areas);
	CHECK(!anon.areas);
	for (size_t i = 0; i < nr_folios; i++) {
		CHECK_EQ(pgmap_folio_count(folios[i].folio), 1);
		pgmap_folio_put(folios[i].folio);
	}
	for (int i = 0; i < 3; i++)
		map_end(map[i]);
}

TEST_MAIN()
