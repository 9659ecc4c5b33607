/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/mm.h"

#include <errno.h>
#include <string.h>

#include "base/bug.h"
#include "base/mem.h"
#include "base/mutant.h"
#include "core/folio.h"
#include "core/migrate.h"
#include "core/pagemap.h"

/* Of the budget, what may be room for loads, and the same again in standby. */
#define POOL_PART 16u
/* Buffers for either; those that are in somebody's hands come on top. */
#define MAX_BUFFERS 8192u
#define SPARE_BUFFERS 32u

static uintptr_t bytes(size_t nr)
{
	return nr * PG_PAGE_SIZE;
}

/* A buffer may hold a single page. Their address space is bounded, too. */
static uint32_t buffers_for(const struct pgmap_mm *mm, uint64_t pages)
{
	uint64_t nr = pages / POOL_PART;

	if (nr > 2 * pages >> mm->order)
		nr = 2 * pages >> mm->order;
	if (nr > MAX_BUFFERS)
		nr = MAX_BUFFERS;
	return nr < 2 ? 2 : (uint32_t)nr;
}

void pg_mm_set_budget(struct pgmap_mm *mm, uint64_t bytes)
{
	pg_store(&mm->budget, bytes / PG_PAGE_SIZE, relaxed);
	pg_store(&mm->pool.keep, bytes / PG_PAGE_SIZE / POOL_PART, relaxed);
}

int pg_mm_init(struct pgmap_mm *mm, struct pg_mmu *mmu,
	       struct pgmap_device *dev, uint64_t budget, uint64_t folio_size)
{
	uint64_t pages = budget / PG_PAGE_SIZE;
	uint32_t bufs;
	int ret;

	if (folio_size < PG_PAGE_SIZE || folio_size & (folio_size - 1) ||
	    folio_size > PG_REGION_SIZE)
		return -EINVAL;
	mm->order = (unsigned int)__builtin_ctzll(folio_size / PG_PAGE_SIZE);
	bufs = buffers_for(mm, pages);
	mm->mmu = mmu;
	mm->dev = dev;
	pg_store(&mm->budget, pages, relaxed);
	pg_store(&mm->stat.budget, budget, relaxed);
	mm->vma = pg_mem_map(PG_MAX_VMAS * sizeof(*mm->vma));
	if (!mm->vma)
		return -ENOMEM;
	ret = pg_pt_init(&mm->pt);
	if (!ret)
		ret = pg_queue_init(&mm->queue, 65536);
	if (!ret)
		ret = pg_pool_init(&mm->pool, mmu, 2 * bufs + SPARE_BUFFERS,
				   (uint32_t)pg_block_pages(mm),
				   pages / POOL_PART, bufs);
	mm->standby_pages = pages / POOL_PART;
	mm->standby_bufs = bufs;
	if (ret)
		pg_mm_fini(mm);
	return ret;
}

void pg_mm_fini(struct pgmap_mm *mm)
{
	if (!mm->vma)
		return;
	pg_write_lock(&mm->lock, LOCK_MM);
	while (mm->nr_vma) {
		struct pg_vma v = mm->vma[0];

		pg_mm_unmap(mm, v.start, (v.end - v.start) / PG_PAGE_SIZE);
	}
	pg_write_unlock(&mm->lock, LOCK_MM);
	pg_pool_fini(&mm->pool);
	pg_queue_fini(&mm->queue);
	pg_pt_fini(&mm->pt);
	pg_mem_unmap(mm->vma, PG_MAX_VMAS * sizeof(*mm->vma));
	mm->vma = NULL;
}

/* ---- Ranges ---- */

/* The first range that ends behind @va. */
static uint32_t first_behind(const struct pgmap_mm *mm, uintptr_t va)
{
	uint32_t lo = 0, hi = mm->nr_vma;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (mm->vma[mid].end <= va)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

const struct pg_vma *pg_mm_find(const struct pgmap_mm *mm, uintptr_t va)
{
	uint32_t i = first_behind(mm, va);

	return i < mm->nr_vma && mm->vma[i].start <= va ? &mm->vma[i] : NULL;
}

/*
 * Between these two the ranges change. From the first on, who holds memory
 * waits before it looks at them, unless it had looked already; then
 * adopt_gap() sees what it holds.
 */
static void vma_begin(struct pgmap_mm *mm)
{
	pg_fetch_add(&mm->vma_seq, 1, seq_cst);
	pg_fence(seq_cst);
}

static void vma_end(struct pgmap_mm *mm)
{
	pg_fetch_add(&mm->vma_seq, 1, release);
}

/* What a writer may be changing; the seq tells afterwards. */
static uintptr_t peek(const uintptr_t *p)
{
	return pg_load((const pg_atomic64 *)(const void *)p, relaxed);
}

/* The table is there for good, and what a change tears is looked at again. */
static uintptr_t next_managed(const struct pgmap_mm *mm, uintptr_t va)
{
	uint32_t lo = 0, hi, nr;
	uintptr_t start;

	nr = pg_load((const pg_atomic32 *)(const void *)&mm->nr_vma, relaxed);
	hi = nr = nr < PG_MAX_VMAS ? nr : PG_MAX_VMAS;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (peek(&mm->vma[mid].end) <= va)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == nr)
		return UINTPTR_MAX;
	start = peek(&mm->vma[lo].start);
	return start > va ? start : va;
}

uintptr_t pg_mm_next_managed(struct pgmap_mm *mm, uintptr_t va)
{
	for (;;) {
		uint32_t seq = pg_load(&mm->vma_seq, acquire);
		uintptr_t at;

		if (seq & 1) {
			pg_yield();
			continue;
		}
		at = next_managed(mm, va);
		pg_fence(acquire);
		if (pg_load(&mm->vma_seq, relaxed) == seq)
			return at;
	}
}

static int make_room(struct pgmap_mm *mm, uint32_t i)
{
	if (mm->nr_vma == PG_MAX_VMAS)
		return -ENOMEM;
	memmove(&mm->vma[i + 1], &mm->vma[i],
		(mm->nr_vma - i) * sizeof(*mm->vma));
	mm->nr_vma++;
	return 0;
}

static void close_gap(struct pgmap_mm *mm, uint32_t i)
{
	mm->nr_vma--;
	memmove(&mm->vma[i], &mm->vma[i + 1],
		(mm->nr_vma - i) * sizeof(*mm->vma));
}

/* Add a range that touches none that is there; neighbours are joined. */
static int add_vma(struct pgmap_mm *mm, uintptr_t start, uintptr_t end)
{
	uint32_t i = first_behind(mm, start);
	bool left = i && mm->vma[i - 1].end == start;
	bool right = i < mm->nr_vma && mm->vma[i].start == end;

	if (left && right) {
		mm->vma[i - 1].end = mm->vma[i].end;
		close_gap(mm, i);
	} else if (left) {
		mm->vma[i - 1].end = end;
	} else if (right) {
		mm->vma[i].start = start;
	} else {
		if (make_room(mm, i))
			return -ENOMEM;
		mm->vma[i] = (struct pg_vma){start, end};
	}
	return 0;
}

/* Take [start, end) out of the ranges. A range that would have to be split
 * when the table is full stays as it is: entries behind the gap may be away,
 * and must be found by their fault. */
static void cut_vma(struct pgmap_mm *mm, uintptr_t start, uintptr_t end)
{
	uint32_t i = first_behind(mm, start);

	while (i < mm->nr_vma && mm->vma[i].start < end) {
		struct pg_vma *v = &mm->vma[i];

		if (v->start < start && v->end > end) {
			uintptr_t old_end = v->end;

			if (make_room(mm, i + 1))
				return;
			mm->vma[i].end = start;
			mm->vma[i + 1] = (struct pg_vma){end, old_end};
			return;
		}
		if (v->start < start) {
			v->end = start;
			i++;
		} else if (v->end > end) {
			v->start = end;
			return;
		} else {
			close_gap(mm, i);
		}
	}
}

static void del_vma(struct pgmap_mm *mm, uintptr_t start, uintptr_t end)
{
	vma_begin(mm);
	cut_vma(mm, start, end);
	vma_end(mm);
}

/* ---- Adopt and release ---- */

static bool any(const uint64_t bits[PG_REGION_PAGES / 64])
{
	uint64_t all = 0;

	for (size_t i = 0; i < PG_REGION_PAGES / 64; i++)
		all |= bits[i];
	return all;
}

/* What is in RAM already can leave. Holds LOCK_MM for writing. */
static void note_present(struct pgmap_mm *mm, uintptr_t va, size_t nr)
{
	uint64_t bits[PG_REGION_PAGES / 64];

	for (size_t at = 0; at < nr;) {
		uintptr_t start;
		size_t n;

		/* Much of a large range was never touched. */
		at += pg_mmu_absent(mm->mmu, va + bytes(at), nr - at);
		if (at == nr)
			break;
		start = va + bytes(at);
		n = PG_REGION_PAGES - (start / PG_PAGE_SIZE) % PG_REGION_PAGES;
		if (n > nr - at)
			n = nr - at;
		memset(bits, 0, sizeof(bits));
		at += n;
		if (pg_mmu_present(mm->mmu, start, n, bits) || !any(bits))
			continue;
		pg_pt_lock(&mm->pt, start);
		for (size_t i = 0; i < n; i++) {
			uintptr_t p = start + bytes(i);

			if (!(bits[i / 64] >> (i % 64) & 1) ||
			    pg_pte_read(&mm->pt, p) != PG_PTE_HOLE)
				continue;
			pg_pte_write(&mm->pt, p, PG_PTE_PRESENT);
			pg_fetch_add(&mm->present, 1, relaxed);
		}
		pg_pt_unlock(&mm->pt, start);
		for (size_t i = 0; i < n; i++)
			if (pg_pte_state(
				    pg_pte_read(&mm->pt, start + bytes(i))) ==
			    PG_PTE_PRESENT)
				pg_evict_note(mm, start + bytes(i));
	}
}

static int adopt_part(struct pgmap_mm *mm, uintptr_t start, uintptr_t end)
{
	size_t nr = (end - start) / PG_PAGE_SIZE;
	int ret = pg_pt_populate(&mm->pt, start, nr);

	if (!ret)
		ret = pg_mmu_watch(mm->mmu, start, nr);
	if (ret)
		return ret;
	ret = add_vma(mm, start, end);
	if (ret) {
		pg_mmu_unwatch(mm->mmu, start, nr);
		return ret;
	}
	note_present(mm, start, nr);
	return 0;
}

/* The first part of [@va, @end) that somebody holds; both @end: none. */
static void first_held(struct pgmap_mm *mm, uintptr_t va, uintptr_t end,
		       uintptr_t *from, uintptr_t *to)
{
	uintptr_t a, b;
	uint32_t i = 0;

	*from = *to = end;
	while (mm->holds && !pg_mutant("held_memory_is_adopted") &&
	       pg_holds_find(mm->holds, &i, va, end, &a, &b))
		if (a < *from) {
			*from = a;
			*to = b;
		}
}

/* A system call that uses memory now did not know that it would be managed:
 * what it holds is left out, until somebody adopts it again. */
static int adopt_gap(struct pgmap_mm *mm, uintptr_t start, uintptr_t end,
		     bool held)
{
	int ret = 0;

	vma_begin(mm);
	while (start < end && !ret) {
		uintptr_t from = end, to = end;

		if (!held)
			first_held(mm, start, end, &from, &to);
		if (start < from)
			ret = adopt_part(mm, start, from);
		start = to;
	}
	vma_end(mm);
	return ret;
}

static int adopt(struct pgmap_mm *mm, uintptr_t va, size_t nr, bool held)
{
	uintptr_t end = va + bytes(nr);
	int first_error = 0;

	while (va < end) {
		uint32_t i = first_behind(mm, va);
		uintptr_t stop = end;
		int ret;

		if (i < mm->nr_vma && mm->vma[i].start <= va) {
			va = mm->vma[i].end;
			continue;
		}
		if (i < mm->nr_vma && mm->vma[i].start < end)
			stop = mm->vma[i].start;
		ret = adopt_gap(mm, va, stop, held);
		if (ret && !first_error)
			first_error = ret;
		va = stop;
	}
	return first_error;
}

int pg_mm_adopt(struct pgmap_mm *mm, uintptr_t va, size_t nr)
{
	return adopt(mm, va, nr, false);
}

/* The first managed part of [va, end); false: there is none. */
static bool next_part(const struct pgmap_mm *mm, uintptr_t va, uintptr_t end,
		      uintptr_t *start, uintptr_t *stop)
{
	uint32_t i = first_behind(mm, va);

	if (va >= end || i == mm->nr_vma || mm->vma[i].start >= end)
		return false;
	*start = mm->vma[i].start > va ? mm->vma[i].start : va;
	*stop = mm->vma[i].end < end ? mm->vma[i].end : end;
	return true;
}

void pg_mm_put_page(struct pgmap_mm *mm, uint64_t pfn)
{
	/* R95: the page named in the entry, and no other (R51). */
	struct pgmap_folio *folio = pg_map_head(mm->dev->map, pfn);

	if (pg_mutant("tail_taken_for_head"))
		folio = pg_map_folio(mm->dev->map, pfn);
	pg_fetch_sub(&folio->mapcount, 1, relaxed);
	if (!pg_mutant("unmap_keeps_the_reference"))
		pgmap_folio_put(folio);
}

void pg_mm_put_copy(struct pgmap_mm *mm, uint64_t pfn)
{
	pg_fetch_sub(&mm->copies, 1, relaxed);
	pg_mm_put_page(mm, pfn);
}

/* Page @page of the pool, which is in standby, has no copy any more. Holds
 * LOCK_PT. Return: how many it had. */
static size_t drop_standby_copy(struct pgmap_mm *mm, uint64_t page)
{
	uint32_t i;
	struct pg_buf *b = pg_pool_buf(&mm->pool, page, &i);

	if (!b->copy[i] || pg_mutant("standby_keeps_its_copy"))
		return 0;
	pg_mm_put_copy(mm, b->copy[i]);
	b->copy[i] = 0;
	return 1;
}

/* [@start, @end) lies in one region. */
static size_t drop_copies_in(struct pgmap_mm *mm, uintptr_t start,
			     uintptr_t end)
{
	size_t nr = 0;

	pg_pt_lock(&mm->pt, start);
	for (uintptr_t va = start; pg_pt_used(&mm->pt, start) && va < end;
	     va += PG_PAGE_SIZE) {
		pg_pte_t e = pg_pte_read(&mm->pt, va);

		if (pg_pte_state(e) == PG_PTE_STANDBY)
			nr += drop_standby_copy(mm, pg_pte_value(e));
		if (pg_pte_state(e) != PG_PTE_PRESENT || !pg_pte_value(e) ||
		    e & PG_PTE_COHERENT)
			continue;
		pg_pte_write(&mm->pt, va, pg_pte_flags(e));
		pg_mm_put_copy(mm, pg_pte_value(e));
		nr++;
	}
	pg_pt_unlock(&mm->pt, start);
	return nr;
}

size_t pg_mm_drop_copies(struct pgmap_mm *mm)
{
	size_t nr = 0;

	for (uint32_t i = 0;
	     i < mm->nr_vma && !pg_mutant("copies_fill_the_device"); i++)
		for (uintptr_t va = mm->vma[i].start, end;
		     va < mm->vma[i].end && pg_load(&mm->copies, relaxed);
		     va = end) {
			end = (va | (PG_REGION_SIZE - 1)) + 1;
			if (end > mm->vma[i].end)
				end = mm->vma[i].end;
			nr += drop_copies_in(mm, va, end);
		}
	return nr;
}

static void drop_entry(struct pgmap_mm *mm, uintptr_t va)
{
	pg_pte_t e = pg_pte_read(&mm->pt, va);

	switch (pg_pte_state(e)) {
	case PG_PTE_HOLE:
		return;
	case PG_PTE_PRESENT:
		if (e & PG_PTE_STUCK)
			pg_fetch_sub(&mm->stuck, 1, relaxed);
		pg_fetch_sub(&mm->present, 1, relaxed);
		if (pg_pte_value(e) && !pg_mutant("copy_outlives_its_page"))
			pg_mm_put_copy(mm, pg_pte_value(e));
		break;
	case PG_PTE_STANDBY:
		/* The page stays in its buffer as room. */
		pg_fetch_sub(&mm->standby, 1, relaxed);
		drop_standby_copy(mm, pg_pte_value(e));
		break;
	case PG_PTE_DEVICE:
		pg_fetch_sub(&mm->away, 1, relaxed);
		pg_mm_put_page(mm, pg_pte_value(e));
		pg_count(&mm->stat, discards, 1);
		break;
	case PG_PTE_MIGRATING:
	case PG_PTE_POISON:
		break; /* whoever moves it sees that its entry is gone */
	}
	pg_pte_write(&mm->pt, va, PG_PTE_HOLE);
}

void pg_mm_fill_hole(struct pgmap_mm *mm, uintptr_t va)
{
	size_t done = 0;

	pg_pt_lock(&mm->pt, va);
	if (pg_pte_read(&mm->pt, va) == PG_PTE_HOLE) {
		int ret = pg_mmu_zero(mm->mmu, va, 1, &done);

		if (done || ret == -EEXIST) {
			pg_pte_write(&mm->pt, va, PG_PTE_PRESENT);
			pg_fetch_add(&mm->present, 1, relaxed);
		}
	}
	pg_pt_unlock(&mm->pt, va);
	if (done)
		pg_evict_note(mm, va);
}

int pg_mm_load_page(struct pgmap_mm *mm, uintptr_t va)
{
	for (;;) {
		struct pgmap_folio *folio;
		uint64_t pfn;
		int ret;

		switch (pg_pte_state(pg_pte_read(&mm->pt, va))) {
		case PG_PTE_POISON:
			return -EIO;
		case PG_PTE_MIGRATING:
			pg_yield();
			continue;
		case PG_PTE_STANDBY:
			ret = pg_migrate_standby_to_ram(mm, va, true);
			if (ret && ret != -EAGAIN)
				return ret;
			continue;
		case PG_PTE_DEVICE:
			break;
		case PG_PTE_HOLE:
		case PG_PTE_PRESENT:
			return 0;
		}
		if (!pg_migrate_get_folio(mm, va, &folio, &pfn))
			continue;
		ret = pg_migrate_to_ram(mm, folio, va, true);
		pgmap_folio_unlock(folio);
		pgmap_folio_put(folio);
		if (ret && ret != -EAGAIN)
			return ret;
		if (ret)
			pg_yield();
	}
}

static int return_page(struct pgmap_mm *mm, uintptr_t va, bool whole)
{
	while (pg_pte_state(pg_pte_read(&mm->pt, va)) == PG_PTE_STANDBY &&
	       !pg_mutant("standby_is_moved_along")) {
		int ret = pg_migrate_standby_to_ram(mm, va, whole);

		if (ret != -EAGAIN)
			return ret;
		pg_yield();
	}
	return 0;
}

int pg_mm_return_standby(struct pgmap_mm *mm, uintptr_t va, uintptr_t end)
{
	const struct pg_pool *p = &mm->pool;

	/* Nobody puts or gets a buffer: we are alone. */
	for (uint32_t at = p->standby; at; at = p->buf[at - 1].next) {
		const struct pg_buf *b = &p->buf[at - 1];

		for (uint32_t i = 0; i < b->nr; i++) {
			uintptr_t page = b->va + bytes(i);
			bool all = b->va >= va && b->va + bytes(b->nr) <= end;
			int ret = 0;

			if (page >= va && page < end &&
			    pg_pte_read(&mm->pt, page) ==
				    pg_pte_make(PG_PTE_STANDBY,
						pg_pool_page(p, b, i)))
				ret = return_page(mm, page, all);
			if (ret)
				return ret;
		}
	}
	return 0;
}

int pg_mm_release(struct pgmap_mm *mm, uintptr_t va, size_t nr)
{
	uintptr_t start, end, at;
	uint32_t k = first_behind(mm, va);
	int first_error = 0;

	if (mm->nr_vma == PG_MAX_VMAS && k < mm->nr_vma &&
	    mm->vma[k].start < va && mm->vma[k].end > va + bytes(nr))
		return -ENOMEM; /* see del_vma() */
	/* What comes back here stays, budget or not. */
	mm->releasing = true;
	for (at = va; next_part(mm, at, va + bytes(nr), &start, &end); at = end)
		for (uintptr_t p = start; p < end; p += PG_PAGE_SIZE) {
			int ret = pg_mm_load_page(mm, p);

			/* What could be had later comes before what is lost. */
			if (ret && (!first_error || first_error == -EIO))
				first_error = ret;
		}
	mm->releasing = false;
	/* A page that could not be loaded keeps its range: its fault loads it
	 * later. A page that is lost keeps raising SIGBUS by itself. */
	if (first_error && first_error != -EIO)
		return first_error;
	pg_mm_remove(mm, va, nr);
	for (at = va; next_part(mm, at, va + bytes(nr), &start, &end);
	     at = end) {
		pg_mmu_unwatch(mm->mmu, start, (end - start) / PG_PAGE_SIZE);
		del_vma(mm, start, end);
	}
	return first_error;
}

/* ---- What the program does to its mappings ---- */

void pg_mm_remove(struct pgmap_mm *mm, uintptr_t va, size_t nr)
{
	uintptr_t end = va + bytes(nr), start, stop;

	/* Only what is managed: a range may reach over terabytes of nothing. */
	for (; next_part(mm, va, end, &start, &stop); va = stop)
		for (uintptr_t p = start, next; p < stop; p = next) {
			next = (p | (PG_REGION_SIZE - 1)) + 1;
			if (next > stop)
				next = stop;
			pg_pt_lock(&mm->pt, p);
			if (pg_pt_used(&mm->pt, p))
				for (uintptr_t q = p; q < next;
				     q += PG_PAGE_SIZE)
					drop_entry(mm, q);
			pg_pt_unlock(&mm->pt, p);
		}
}

void pg_mm_unmap(struct pgmap_mm *mm, uintptr_t va, size_t nr)
{
	pg_mm_remove(mm, va, nr);
	del_vma(mm, va, va + bytes(nr));
}

/* R99: entries move as they are. No migration is under way: we are alone. */
void pg_mm_remap(struct pgmap_mm *mm, uintptr_t old, size_t old_nr,
		 uintptr_t to, size_t to_nr)
{
	size_t nr = old_nr < to_nr ? old_nr : to_nr;

	if (old == to) {
		if (old_nr > to_nr)
			pg_mm_unmap(mm, old + bytes(to_nr), old_nr - to_nr);
		return;
	}
	pg_mm_unmap(mm, to, to_nr);
	if (pg_pt_populate(&mm->pt, to, to_nr))
		pg_bug("no memory for the page table of a moved range",
		       __FILE__, __LINE__);
	for (size_t i = 0; i < nr; i++) {
		pg_pte_t e = pg_pte_read(&mm->pt, old + bytes(i));

		if (e == PG_PTE_HOLE)
			continue;
		/* Its buffer would not know where it belongs. */
		pg_bug_on(pg_pte_state(e) == PG_PTE_STANDBY);
		pg_pt_lock(&mm->pt, old + bytes(i));
		pg_pte_write(&mm->pt, old + bytes(i), PG_PTE_HOLE);
		pg_pt_unlock(&mm->pt, old + bytes(i));
		pg_pt_lock(&mm->pt, to + bytes(i));
		if (!pg_mutant("remap_loses_entries"))
			pg_pte_write(&mm->pt, to + bytes(i), e);
		pg_pt_unlock(&mm->pt, to + bytes(i));
		if (pg_pte_state(e) == PG_PTE_PRESENT)
			pg_evict_note(mm, to + bytes(i));
	}
	pg_mm_remove(mm, old, old_nr);
}

int pg_mm_watch_again(struct pgmap_mm *mm)
{
	int first_error = 0;

	for (uint32_t i = 0; i < mm->nr_vma;) {
		struct pg_vma v = mm->vma[i];
		size_t nr = (v.end - v.start) / PG_PAGE_SIZE;
		int ret = pg_mmu_watch(mm->mmu, v.start, nr);

		if (!ret) {
			i++;
			continue;
		}
		if (ret != -ENOMEM && !first_error)
			first_error = ret;
		pg_mm_unmap(mm, v.start, nr);
	}
	return first_error;
}

int pg_mm_abandon(struct pgmap_mm *mm, int (*put)(uintptr_t va, void *page))
{
	char *buf = pg_mem_map(PG_PAGE_SIZE);
	int ret = buf ? 0 : -ENOMEM;
	struct pgmap_io io;

	for (uint32_t i = 0; i < mm->nr_vma && !ret; i++) {
		struct pg_vma v = mm->vma[i];

		for (uintptr_t va = v.start; va < v.end && !ret;
		     va += PG_PAGE_SIZE) {
			pg_pte_t e = pg_pte_read(&mm->pt, va);

			if (pg_pte_state(e) == PG_PTE_POISON)
				ret = -EIO;
			if (pg_pte_state(e) != PG_PTE_DEVICE)
				continue;
			io = (struct pgmap_io){.slot = pg_pte_value(e) -
						       mm->dev->first_pfn,
					       .nr = 1,
					       .buf = buf};
			pg_device_load(mm->dev, &io, 1);
			ret = io.status ? io.status : put(va, buf);
		}
	}
	pg_mem_unmap(buf, PG_PAGE_SIZE);
	while (mm->nr_vma) {
		struct pg_vma v = mm->vma[0];

		pg_mm_unmap(mm, v.start, (v.end - v.start) / PG_PAGE_SIZE);
	}
	return ret;
}

/* ---- Levels ---- */

void pg_mm_gauges(struct pgmap_mm *mm)
{
	struct pg_stat *st = &mm->stat;
	struct pgmap_device_usage u;
	uint64_t present = bytes(pg_load(&mm->present, relaxed));
	uint64_t pool = bytes(pg_load(&mm->pool.filled, relaxed));
	uint64_t away = bytes(pg_load(&mm->away, relaxed));
	uint64_t standby = bytes(pg_load(&mm->standby, relaxed));

	pg_device_usage(mm->dev, &u);
	pg_store(&st->present, present, relaxed);
	pg_store(&st->pool, pool, relaxed);
	pg_store(&st->away, away, relaxed);
	/* Entries and queue marks of each region that was ever used. */
	pg_store(&st->metadata,
		 pg_load(&mm->pt.nr_touched, relaxed) * PG_REGION_PAGES *
				 (sizeof(pg_pte_t) + 1) +
			 pg_device_metadata(mm->dev),
		 relaxed);
	pg_store(&st->device_host, u.host_bytes, relaxed);
	pg_store(&st->device_media, u.media_bytes, relaxed);
	/* Nearer to its limit than an eighth. */
	pg_store(&mm->short_of_space,
		 (u.host_bytes > u.media_bytes ? u.host_bytes : u.media_bytes) >
			 u.limit_bytes - u.limit_bytes / 8,
		 relaxed);
	pg_gauge_raise(&st->peak_managed, present + standby + away);
	pg_gauge_raise(&st->peak_resident, present + pool);
	pg_gauge_raise(&st->peak_away, away);
	pg_gauge_raise(&st->peak_device_host, u.host_bytes);
	pg_gauge_raise(&st->peak_device_media, u.media_bytes);
}

/* ---- pgmap.h ---- */

static int check_range(const void *addr, size_t len)
{
	uintptr_t va = (uintptr_t)addr;

	if (va % PG_PAGE_SIZE || len % PG_PAGE_SIZE || va + len < va ||
	    (va + len) >> 47)
		return -EINVAL;
	return 0;
}

void pgmap_mm_change_begin(struct pgmap_mm *mm)
{
	pg_write_lock(&mm->lock, LOCK_MM);
}

static void wake_parked(struct pgmap_mm *mm)
{
	/* Partner: the store in pg_fault(). */
	if (pg_xchg(&mm->parked, 0, seq_cst) && mm->change_end)
		mm->change_end(mm);
}

bool pg_mm_change_trybegin(struct pgmap_mm *mm)
{
	if (pg_write_trylock(&mm->lock, LOCK_MM))
		return true;
	if (!pg_mutant("failed_try_wakes_nobody"))
		wake_parked(mm);
	return false;
}

void pgmap_mm_change_end(struct pgmap_mm *mm)
{
	pg_write_unlock(&mm->lock, LOCK_MM);
	wake_parked(mm);
}

/* Two ranges, and what came of it: arguments of what runs on mm->run. */
struct job {
	uintptr_t va, to;
	size_t nr, to_nr;
	bool to_device;
	size_t moved;
};

static int run(struct pgmap_mm *mm, int (*fn)(struct pgmap_mm *, void *),
	       struct job *j)
{
	return mm->run ? mm->run(mm, fn, j) : fn(mm, j);
}

/* Dropping pages reaches the device; only where that needs a descriptor does
 * it have to go to another thread. */
static void run_drop(struct pgmap_mm *mm, int (*fn)(struct pgmap_mm *, void *),
		     struct job *j)
{
	if (!mm->nr_vma)
		return;
	if (mm->dev->ops.flags & PGMAP_DEV_DESCRIPTORS)
		run(mm, fn, j);
	else
		fn(mm, j);
}

static int adopt_job(struct pgmap_mm *mm, void *arg)
{
	const struct job *j = arg;

	return pg_mm_adopt(mm, j->va, j->nr);
}

static int release_job(struct pgmap_mm *mm, void *arg)
{
	const struct job *j = arg;

	return pg_mm_release(mm, j->va, j->nr);
}

static int remove_job(struct pgmap_mm *mm, void *arg)
{
	const struct job *j = arg;

	pg_mm_remove(mm, j->va, j->nr);
	return 0;
}

static int unmap_job(struct pgmap_mm *mm, void *arg)
{
	const struct job *j = arg;

	pg_mm_unmap(mm, j->va, j->nr);
	return 0;
}

static int return_job(struct pgmap_mm *mm, void *arg)
{
	const struct job *j = arg;

	return pg_mm_return_standby(mm, j->va, j->va + bytes(j->nr));
}

static int remap_job(struct pgmap_mm *mm, void *arg)
{
	const struct job *j = arg;

	pg_mm_remap(mm, j->va, j->nr, j->to, j->to_nr);
	/* The kernel has taken its watch off what it moved. Some of it may be
	 * away, and who holds the addresses knew nothing of that. */
	return adopt(mm, j->to, j->to_nr, true);
}

int pgmap_mm_adopt(struct pgmap_mm *mm, void *addr, size_t len)
{
	struct job j = {.va = (uintptr_t)addr, .nr = len / PG_PAGE_SIZE};
	int ret = check_range(addr, len);

	if (ret)
		return ret;
	pgmap_mm_change_begin(mm);
	ret = run(mm, adopt_job, &j);
	pgmap_mm_change_end(mm);
	return ret;
}

int pgmap_mm_release(struct pgmap_mm *mm, void *addr, size_t len)
{
	struct job j = {.va = (uintptr_t)addr, .nr = len / PG_PAGE_SIZE};
	int ret = check_range(addr, len);

	if (ret)
		return ret;
	pgmap_mm_change_begin(mm);
	ret = run(mm, release_job, &j);
	pgmap_mm_change_end(mm);
	return ret;
}

void pgmap_mm_remove(struct pgmap_mm *mm, void *addr, size_t len)
{
	struct job j = {.va = (uintptr_t)addr, .nr = len / PG_PAGE_SIZE};

	if (!check_range(addr, len))
		run_drop(mm, remove_job, &j);
}

void pgmap_mm_unmap(struct pgmap_mm *mm, void *addr, size_t len)
{
	struct job j = {.va = (uintptr_t)addr, .nr = len / PG_PAGE_SIZE};

	if (!check_range(addr, len))
		run_drop(mm, unmap_job, &j);
}

int pgmap_mm_remap_begin(struct pgmap_mm *mm, void *old, size_t old_len)
{
	struct job j = {.va = (uintptr_t)old, .nr = old_len / PG_PAGE_SIZE};
	int ret = check_range(old, old_len);

	return ret ? ret : run(mm, return_job, &j);
}

int pgmap_mm_remap(struct pgmap_mm *mm, void *old, size_t old_len, void *new_,
		   size_t new_len)
{
	struct job j = {.va = (uintptr_t)old,
			.nr = old_len / PG_PAGE_SIZE,
			.to = (uintptr_t)new_,
			.to_nr = new_len / PG_PAGE_SIZE};

	if (check_range(old, old_len) || check_range(new_, new_len))
		return -EINVAL;
	return run(mm, remap_job, &j);
}

static bool covered(const struct pgmap_mm *mm, uintptr_t va, uintptr_t end)
{
	while (va < end) {
		const struct pg_vma *v = pg_mm_find(mm, va);

		if (!v)
			return false;
		va = v->end;
	}
	return true;
}

/* What waits there is in RAM again. Holds LOCK_MM for reading. */
static void leave_standby(struct pgmap_mm *mm, uintptr_t va, uintptr_t end)
{
	for (; va < end && pg_load(&mm->standby, relaxed); va += PG_PAGE_SIZE)
		pg_migrate_standby_to_ram(mm, va, false);
}

/* Holds LOCK_MM for reading. */
static size_t migrate_out(struct pgmap_mm *mm, uintptr_t va, uintptr_t end)
{
	size_t moved = 0;

	while (va < end) {
		uintptr_t stop =
			pg_block_of(mm, va) + bytes(pg_block_pages(mm));

		if (stop > end)
			stop = end;
		leave_standby(mm, va, stop);
		moved +=
			pg_migrate_to_device(mm, va, (stop - va) / PG_PAGE_SIZE,
					     !pg_mutant("holes_stay"));
		va = stop;
	}
	return moved;
}

static size_t migrate_in(struct pgmap_mm *mm, uintptr_t va, uintptr_t end)
{
	bool away[PG_REGION_PAGES];
	size_t moved = 0;

	while (va < end) {
		size_t nr =
			PG_REGION_PAGES - va / PG_PAGE_SIZE % PG_REGION_PAGES;

		if (nr > (end - va) / PG_PAGE_SIZE)
			nr = (end - va) / PG_PAGE_SIZE;
		/* One load brings a whole folio: look at all before it. */
		leave_standby(mm, va, va + bytes(nr));
		for (size_t i = 0; i < nr; i++)
			away[i] = pg_pte_state(pg_pte_read(&mm->pt,
							   va + bytes(i))) ==
				  PG_PTE_DEVICE;
		for (size_t i = 0; i < nr; i++)
			moved += away[i] && !pg_mm_load_page(mm, va + bytes(i));
		va += bytes(nr);
	}
	return moved;
}

static int migrate_job(struct pgmap_mm *mm, void *arg)
{
	struct job *j = arg;
	uintptr_t end = j->va + bytes(j->nr);

	if (!covered(mm, j->va, end))
		return -EFAULT;
	j->moved = j->to_device ? migrate_out(mm, j->va, end)
				: migrate_in(mm, j->va, end);
	if (!j->moved && pg_mutant("nothing_moved_is_an_error"))
		return -EBUSY;
	return 0;
}

int pgmap_migrate(struct pgmap_mm *mm, void *addr, size_t len, bool to_device,
		  size_t *moved)
{
	struct job j = {.va = (uintptr_t)addr,
			.nr = len / PG_PAGE_SIZE,
			.to_device = to_device};
	int ret = check_range(addr, len);

	if (!ret) {
		pg_read_lock(&mm->lock, LOCK_MM);
		ret = run(mm, migrate_job, &j);
		pg_read_unlock(&mm->lock, LOCK_MM);
	}
	if (moved)
		*moved = bytes(j.moved);
	return ret;
}

int pgmap_stat_get(struct pgmap_mm *mm, struct pgmap_stat *st)
{
	uint64_t managed = 0;

	pg_mm_gauges(mm);
	pg_read_lock(&mm->lock, LOCK_MM);
	for (uint32_t i = 0; i < mm->nr_vma; i++)
		managed += mm->vma[i].end - mm->vma[i].start;
	pg_read_unlock(&mm->lock, LOCK_MM);
	pg_store(&mm->stat.managed, managed, relaxed);
	return pg_stat_copy(&mm->stat, st);
}
