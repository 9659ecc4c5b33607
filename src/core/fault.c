/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/fault.h"

#include <errno.h>
#include <string.h>

#include "base/bug.h"
#include "base/mutant.h"
#include "core/migrate.h"
#include "core/mm.h"
#include "core/pagemap.h"

/* Pages that are loaded ahead of a stream at once. */
#define MOST_AHEAD 1024u
/* A fault that waits in its own thread lets others run so often before it
 * sleeps; and for how long it does. */
#define YIELDS 16u
#define WAIT_NS 50000u

int pg_fault_migrate_to_ram(struct pgmap_fault *f)
{
	int ret = pg_migrate_to_ram(f->mm, f->folio, f->va, f->whole);

	/* R90: no room for the folio may still be room for the page. */
	if (ret == -ENOMEM && f->whole && !pg_mutant("no_small_fallback"))
		ret = pg_migrate_to_ram(f->mm, f->folio, f->va, false);
	return ret;
}

/* The run of holes around @va inside its block and range. */
static void hole_run(struct pgmap_mm *mm, const struct pg_vma *vma,
		     uintptr_t va, uintptr_t *start, size_t *nr)
{
	uintptr_t lo = pg_block_of(mm, va);
	uintptr_t hi = lo + pg_block_pages(mm) * PG_PAGE_SIZE;
	uintptr_t end = va + PG_PAGE_SIZE;

	if (lo < vma->start)
		lo = vma->start;
	if (hi > vma->end)
		hi = vma->end;
	*start = va;
	while (*start > lo &&
	       pg_pte_read(&mm->pt, *start - PG_PAGE_SIZE) == PG_PTE_HOLE)
		*start -= PG_PAGE_SIZE;
	while (end < hi && pg_pte_read(&mm->pt, end) == PG_PTE_HOLE)
		end += PG_PAGE_SIZE;
	*nr = (end - *start) / PG_PAGE_SIZE;
}

/* Give the pages whose entries are holes still. Holds LOCK_PT. */
static int give_zeros(struct pgmap_mm *mm, struct pg_buf *b, uintptr_t va,
		      size_t nr)
{
	for (size_t i = 0; i < nr; i++) {
		uintptr_t at = va + i * PG_PAGE_SIZE;
		size_t run = 0, done;
		int ret;

		while (i + run < nr &&
		       pg_pte_read(&mm->pt, at + run * PG_PAGE_SIZE) ==
			       PG_PTE_HOLE)
			run++;
		if (!run)
			continue;
		ret = pg_mmu_give(mm->mmu, at, pg_buf_at(b, i), run, &done);
		pg_buf_mark(&mm->pool, b, (uint32_t)i, (uint32_t)done, false);
		/* A page that is there already was left by a MADV_FREE. */
		if (ret == -EEXIST)
			done++;
		for (size_t k = 0; k < done; k++)
			pg_pte_write(&mm->pt, at + k * PG_PAGE_SIZE,
				     PG_PTE_PRESENT);
		pg_fetch_add(&mm->present, done, relaxed);
		if (ret && ret != -EEXIST && ret != -ENOENT)
			return ret;
		i += done - (done != 0);
	}
	return 0;
}

/*
 * Pages straight from the kernel, while there is room for them and no buffer
 * lies ready: that is one call instead of a fill, a clearing and a move. Not
 * where a buffer can be a huge page, which then moves whole for ever after.
 * Return: false: nothing was done.
 */
static bool fill_hole(struct pgmap_mm *mm, uintptr_t va, size_t nr)
{
	size_t done = 0;

	if (nr == PG_REGION_PAGES || pg_load(&mm->pool.nr_room, relaxed) ||
	    (pg_mm_used(mm) + nr > pg_load(&mm->budget, relaxed) &&
	     !pg_mutant("holes_are_filled_beyond_the_budget")) ||
	    pg_mutant("holes_go_through_a_buffer"))
		return false;
	pg_pt_lock(&mm->pt, va);
	while (done < nr &&
	       pg_pte_read(&mm->pt, va + done * PG_PAGE_SIZE) == PG_PTE_HOLE)
		done++;
	if (done == nr)
		pg_mmu_zero(mm->mmu, va, nr, &done);
	else
		done = 0;
	for (size_t k = 0; k < done; k++)
		pg_pte_write(&mm->pt, va + k * PG_PAGE_SIZE, PG_PTE_PRESENT);
	pg_fetch_add(&mm->present, done, relaxed);
	pg_pt_unlock(&mm->pt, va);
	return done == nr;
}

static enum pg_fault_result fault_hole(struct pgmap_mm *mm,
				       const struct pg_vma *vma, uintptr_t va)
{
	struct pg_buf *b;
	uintptr_t start;
	size_t nr;
	int ret;

	hole_run(mm, vma, va, &start, &nr);
	if (fill_hole(mm, start, nr)) {
		pg_evict_note(mm, va);
		pg_count(&mm->stat, hole_faults, 1);
		pg_mmu_wake(mm->mmu, start, nr);
		return PG_FAULT_DONE;
	}
	b = pg_evict_buffer(mm, (uint32_t)nr);
	if (!b) {
		start = va;
		nr = 1;
		b = pg_evict_buffer(mm, 1);
	}
	if (!b)
		return PG_FAULT_OOM;
	memset(pg_buf_at(b, 0), 0, nr * PG_PAGE_SIZE);
	pg_pt_lock(&mm->pt, va);
	ret = give_zeros(mm, b, start, nr);
	pg_pt_unlock(&mm->pt, va);
	pg_pool_put(&mm->pool, b);
	pg_evict_note(mm, va);
	pg_count(&mm->stat, hole_faults, 1);
	pg_mmu_wake(mm->mmu, start, nr);
	return ret == -ENOMEM ? PG_FAULT_OOM : PG_FAULT_DONE;
}

/* The page is there by our books: a second message for one fault, or it was
 * dropped by a call that we did not see, and reads as zeros. */
static enum pg_fault_result
fault_present(struct pgmap_mm *mm, const struct pg_vma *vma, uintptr_t va)
{
	uint64_t bit = 0;
	pg_pte_t e;
	int ret;
	bool gone = false;

	pg_pt_lock(&mm->pt, va);
	e = pg_pte_read(&mm->pt, va);
	ret = pg_mmu_present(mm->mmu, va, 1, &bit);
	if (!ret && !(bit & 1) && pg_pte_state(e) == PG_PTE_PRESENT) {
		if (e & PG_PTE_STUCK)
			pg_fetch_sub(&mm->stuck, 1, relaxed);
		if (pg_pte_value(e))
			pg_mm_put_copy(mm, pg_pte_value(e));
		pg_pte_write(&mm->pt, va, PG_PTE_HOLE);
		pg_fetch_sub(&mm->present, 1, relaxed);
		gone = true;
	}
	pg_pt_unlock(&mm->pt, va);
	if (gone)
		return fault_hole(mm, vma, va);
	pg_mmu_wake(mm->mmu, va, 1);
	return PG_FAULT_DONE;
}

/* The stream that a fault on @page goes on with: near its latest fault, or at
 * most a block behind what was loaded ahead of it. */
static struct pg_stream *stream_of(struct pgmap_mm *mm, uint64_t page)
{
	size_t near = pg_block_pages(mm);

	for (uint32_t i = 0; i < PG_NR_STREAMS; i++) {
		struct pg_stream *s = &mm->stream[i];
		uint64_t lo = pg_load(&s->page, relaxed), hi = lo;
		uint64_t edge = pg_load(&s->edge, relaxed);

		if (!lo)
			continue;
		if (edge && edge < lo)
			lo = edge;
		if (edge > hi)
			hi = edge;
		if (page + near >= lo && page <= hi + near)
			return s;
	}
	return NULL;
}

/* How much to ask for: twice as much each time. */
static size_t next_window(struct pgmap_mm *mm, struct pg_stream *s)
{
	size_t block = pg_block_pages(mm);
	uint64_t most = pg_load(&mm->budget, relaxed) / 16;
	uint64_t window = 2 * (uint64_t)pg_load(&s->window, relaxed);

	if (most > MOST_AHEAD)
		most = MOST_AHEAD;
	if (window < block)
		window = block;
	if (window > most)
		window = most;
	return window - window % block;
}

/*
 * Ask for what comes next, if the last request has been reached. Between the
 * two a block is left out: the fault there tells that the stream goes on, and
 * what it will read until the next one is there, or on its way.
 */
static void ask_ahead(struct pgmap_mm *mm, struct pg_stream *s, uint64_t page,
		      bool down)
{
	size_t block = pg_block_pages(mm), window;
	uint64_t marker, edge, start;

	page -= page % block;
	if (down != pg_load(&s->down, relaxed)) {
		pg_store(&s->down, down, relaxed);
		pg_store(&s->window, 0, relaxed);
		pg_store(&s->edge, 0, relaxed);
	}
	edge = pg_load(&s->edge, relaxed);
	marker = pg_load(&s->marker, relaxed);
	if (edge && (down ? page > marker : page < marker) &&
	    !pg_mutant("each_fault_asks"))
		return;
	window = next_window(mm, s);
	/* Where devices are at work, pages move as they say. */
	if (!window || mm->notifiers || pg_mutant("nothing_is_loaded_ahead"))
		return;
	if (down) {
		marker = edge && edge < page ? edge - block : page - block;
		if (marker <= window || marker > page)
			return;
		start = edge = marker - window;
	} else {
		marker = edge > page + block ? edge : page + block;
		start = marker + block;
		edge = start + window;
		if (edge >> (47 - PG_PAGE_SHIFT))
			return;
	}
	pg_store(&s->window, (uint32_t)window, relaxed);
	pg_store(&s->marker, marker, relaxed);
	pg_store(&s->edge, edge, relaxed);
	pg_store(&s->ahead, start << 12 | window, relaxed);
	pg_fetch_or(&mm->asked, 1u << (s - mm->stream), relaxed);
}

/*
 * Does the fault belong to a stream? Then the rest of its block will be wanted,
 * and what follows it; a fault far from all others gets its one page, which
 * then also leaves alone: so memory that is used at random comes and goes in
 * pages, and streams in blocks.
 */
static bool in_stream(struct pgmap_mm *mm, uintptr_t va)
{
	uint64_t page = va / PG_PAGE_SIZE, was;
	struct pg_stream *s = stream_of(mm, page);
	size_t block = pg_block_pages(mm);
	bool goes_on = s;

	if (!s) {
		s = &mm->stream[pg_fetch_add(&mm->nr_streams, 1, relaxed) %
				PG_NR_STREAMS];
		pg_store(&s->window, 0, relaxed);
		pg_store(&s->edge, 0, relaxed);
	}
	was = pg_load(&s->page, relaxed);
	pg_store(&s->page, page, relaxed);
	if (goes_on && page / block != was / block &&
	    (page > was || !pg_mutant("streams_go_up")))
		ask_ahead(mm, s, page, page < was);
	return goes_on;
}

/* Bring the page at @va, which is away, and those around it. Holds LOCK_MM. */
static void load_ahead(struct pgmap_mm *mm, uintptr_t va)
{
	struct pgmap_folio *folio;
	uint64_t pfn;

	if (!pg_mm_find(mm, va) || !pg_migrate_get_folio(mm, va, &folio, &pfn))
		return;
	pg_migrate_to_ram(mm, folio, va, true);
	pgmap_folio_unlock(folio);
	pgmap_folio_put(folio);
}

/* Load a block of what @s asked for. Holds LOCK_MM. False: that was all. */
static bool stream_ahead(struct pgmap_mm *mm, struct pg_stream *s)
{
	size_t block = pg_block_pages(mm);
	uint64_t asked = pg_load(&s->ahead, relaxed);
	uint64_t start = asked >> 12, end = start + (asked & 4095), page;

	if (pg_load(&s->down, relaxed)) {
		while (start < end &&
		       !pg_pte_is(&mm->pt, (end - 1) << PG_PAGE_SHIFT,
				  PG_PTE_DEVICE))
			end--;
		page = end - 1;
		if (start < end) {
			load_ahead(mm, page << PG_PAGE_SHIFT);
			end = page / block * block;
		}
	} else {
		while (start < end &&
		       !pg_pte_is(&mm->pt, start << PG_PAGE_SHIFT,
				  PG_PTE_DEVICE))
			start++;
		if (start < end)
			load_ahead(mm, start << PG_PAGE_SHIFT);
		start = (start / block + 1) * block;
	}
	/* Somebody may have asked for something else. */
	pg_cas(&s->ahead, &asked, start < end ? start << 12 | (end - start) : 0,
	       relaxed);
	return pg_load(&s->ahead, relaxed);
}

bool pg_load_ahead(struct pgmap_mm *mm)
{
	uint32_t asked = pg_load(&mm->asked, relaxed);

	if (!asked)
		return false;
	/* Never wait for a writer: it may be waiting for our thread. */
	if (!pg_read_trylock(&mm->lock, LOCK_MM))
		return false;
	for (uint32_t i = 0; i < PG_NR_STREAMS; i++) {
		if (!(asked >> i & 1))
			continue;
		pg_fetch_and(&mm->asked, ~(1u << i), relaxed);
		if (stream_ahead(mm, &mm->stream[i]))
			pg_fetch_or(&mm->asked, 1u << i, relaxed);
	}
	pg_read_unlock(&mm->lock, LOCK_MM);
	return true;
}

static void ask_break(struct pgmap_mm *mm, uintptr_t va)
{
	uint32_t at = pg_fetch_add(&mm->nr_breaks, 1, relaxed);

	pg_store(&mm->to_break[at % PG_NR_BREAKS], va, relaxed);
}

bool pg_break_next(struct pgmap_mm *mm)
{
	uint32_t asked = pg_load(&mm->nr_breaks, relaxed);
	uint32_t at = pg_load(&mm->nr_broken, relaxed);
	uintptr_t va;

	if (at == asked)
		return false;
	/* Never wait for a writer: it may be waiting for our thread. */
	if (!pg_read_trylock(&mm->lock, LOCK_MM))
		return false;
	if (asked - at > PG_NR_BREAKS)
		at = asked - PG_NR_BREAKS;
	va = pg_xchg(&mm->to_break[at % PG_NR_BREAKS], 0, relaxed);
	pg_store(&mm->nr_broken, at + 1, relaxed);
	if (!mm->breaker)
		mm->breaker = pg_pool_get_empty(&mm->pool);
	/* It takes more space, for a while all of it twice. */
	if (va && pg_mm_find(mm, va) && !pg_load(&mm->short_of_space, relaxed))
		pg_migrate_break(mm, mm->breaker, pg_block_of(mm, va));
	pg_read_unlock(&mm->lock, LOCK_MM);
	return true;
}

static enum pg_fault_result fault_device(struct pgmap_mm *mm, uintptr_t va,
					 uint32_t flags)
{
	struct pgmap_fault f = {.mm = mm, .va = va, .flags = flags};
	int ret;

	if (!pg_migrate_get_folio(mm, va, &f.folio, &f.pfn)) {
		pg_count(&mm->stat, retries, 1);
		return PG_FAULT_PARKED;
	}
	f.whole = in_stream(mm, va);
	ret = mm->dev->map->ops.migrate_to_ram(&f);
	if (!ret && !f.whole &&
	    (mm->dev->ops.flags & PGMAP_DEV_PACKED ||
	     pg_mutant("all_devices_are_packed")) &&
	    pgmap_folio_order(f.folio) && !pg_mutant("large_folios_stay"))
		ask_break(mm, va);
	pgmap_folio_unlock(f.folio);
	pgmap_folio_put(f.folio);
	if (ret == -EAGAIN) {
		pg_count(&mm->stat, retries, 1);
		return PG_FAULT_PARKED;
	}
	return ret ? PG_FAULT_OOM : PG_FAULT_DONE;
}

static enum pg_fault_result fault_standby(struct pgmap_mm *mm, uintptr_t va)
{
	int ret = pg_migrate_standby_to_ram(mm, va, in_stream(mm, va));

	if (ret == -EAGAIN) {
		pg_count(&mm->stat, retries, 1);
		return PG_FAULT_PARKED;
	}
	return ret ? PG_FAULT_OOM : PG_FAULT_DONE;
}

/* Ask whoever moves the page to wake us; false: it has arrived. */
static bool park(struct pgmap_mm *mm, uintptr_t va)
{
	pg_pte_t e;
	bool moving;

	pg_pt_lock(&mm->pt, va);
	e = pg_pte_read(&mm->pt, va);
	moving = pg_pte_state(e) == PG_PTE_MIGRATING;
	if (moving && !pg_mutant("park_without_mark"))
		pg_pte_write(&mm->pt, va, e | PG_PTE_WAITED);
	pg_pt_unlock(&mm->pt, va);
	return moving;
}

/* Watched but not managed any more: what MREMAP_DONTUNMAP leaves reads as
 * zeros. An entry that is away lies in a range: see del_vma(). */
static enum pg_fault_result fault_unmanaged(struct pgmap_mm *mm, uintptr_t va)
{
	size_t done;
	int ret;

	pg_bug_on(pg_pte_is(&mm->pt, va, PG_PTE_DEVICE));
	ret = pg_mmu_zero(mm->mmu, va, 1, &done);
	pg_mmu_wake(mm->mmu, va, 1);
	return ret == -ENOENT ? PG_FAULT_FOREIGN : PG_FAULT_DONE;
}

static enum pg_fault_result fault_locked(struct pgmap_mm *mm, uintptr_t va,
					 uint32_t flags)
{
	const struct pg_vma *vma = pg_mm_find(mm, va);
	enum pg_fault_result r;

	if (!vma)
		return fault_unmanaged(mm, va);
	for (;;) {
		switch (pg_pte_state(pg_pte_read(&mm->pt, va))) {
		case PG_PTE_HOLE:
			return fault_hole(mm, vma, va);
		case PG_PTE_PRESENT:
			return fault_present(mm, vma, va);
		case PG_PTE_STANDBY:
			r = fault_standby(mm, va);
			if (r != PG_FAULT_PARKED)
				return r;
			break;
		case PG_PTE_DEVICE:
			r = fault_device(mm, va, flags);
			if (r != PG_FAULT_PARKED)
				return r;
			pg_yield();
			break;
		case PG_PTE_MIGRATING:
			if (park(mm, va))
				return PG_FAULT_PARKED;
			break;
		case PG_PTE_POISON:
			pg_mmu_poison(mm->mmu, va, 1);
			pg_mmu_wake(mm->mmu, va, 1);
			return PG_FAULT_LOST;
		}
	}
}

/* Not a hint: what is seen here, and by this thread from now on, is no older
 * than the last change that somebody has finished. */
static enum pg_pte_state state_now(struct pgmap_mm *mm, uintptr_t va)
{
	pg_pte_t e;

	pg_pt_lock(&mm->pt, va);
	e = pg_pte_read(&mm->pt, va);
	pg_pt_unlock(&mm->pt, va);
	return pg_pte_state(e);
}

/* Holds LOCK_MM; @va is managed. */
static int fault_in_page(struct pgmap_mm *mm, uintptr_t va)
{
	for (;;) {
		enum pg_pte_state was =
			pg_mutant("an_old_hole_is_believed")
				? pg_pte_state(pg_pte_read(&mm->pt, va))
				: state_now(mm, va);
		enum pg_fault_result r;

		if (was == PG_PTE_PRESENT || was == PG_PTE_POISON)
			return 0;
		r = fault_locked(mm, va, 0);
		if (r == PG_FAULT_PARKED)
			return -EAGAIN;
		if (r == PG_FAULT_OOM)
			return -ENOMEM;
		/* A hole that is one still cannot be filled: nothing is mapped
		 * there. */
		if (was == PG_PTE_HOLE &&
		    (state_now(mm, va) == PG_PTE_HOLE ||
		     pg_mutant("an_old_hole_is_believed")))
			return 0;
	}
}

int pg_fault_in(struct pgmap_mm *mm, uintptr_t start, uintptr_t end)
{
	uintptr_t va = start;
	int ret = 0;

	while (va < end && !ret) {
		/* Never wait for a writer: it may be waiting for our thread. */
		if (!pg_read_trylock(&mm->lock, LOCK_MM))
			return -EAGAIN;
		va = pg_mm_next_managed(mm, va);
		if (va < end) {
			ret = fault_in_page(mm, va);
			va += PG_PAGE_SIZE;
		}
		pg_read_unlock(&mm->lock, LOCK_MM);
	}
	return ret;
}

enum pg_fault_result pg_fault(struct pgmap_mm *mm, uintptr_t va, uint32_t flags)
{
	enum pg_fault_result r;

	va &= ~(uintptr_t)(PG_PAGE_SIZE - 1);
	if (!pg_read_trylock(&mm->lock, LOCK_MM)) {
		/* Partner: the exchange in pgmap_mm_change_end(): it sees our
		 * mark, or we see the lock free. */
		pg_store(&mm->parked, 1, seq_cst);
		if (!pg_read_trylock(&mm->lock, LOCK_MM)) {
			pg_count(&mm->stat, retries, 1);
			return PG_FAULT_PARKED;
		}
	}
	r = fault_locked(mm, va, flags);
	pg_read_unlock(&mm->lock, LOCK_MM);
	return r;
}

/* Who moves the page does it in some 10 us, or waits for a disk. */
static void wait_a_bit(struct pgmap_mm *mm, unsigned int tries)
{
	if (tries < YIELDS)
		pg_yield();
	else
		pg_wait(&mm->nobody, 0, WAIT_NS);
}

enum pg_fault_result pg_fault_here(struct pgmap_mm *mm, uintptr_t va,
				   uint32_t flags)
{
	va &= ~(uintptr_t)(PG_PAGE_SIZE - 1);
	for (unsigned int i = 0;; i++) {
		enum pg_fault_result r;

		pg_read_lock(&mm->lock, LOCK_MM);
		r = fault_locked(mm, va, flags);
		pg_read_unlock(&mm->lock, LOCK_MM);
		if (r != PG_FAULT_PARKED || pg_mutant("waiters_give_up"))
			return r;
		wait_a_bit(mm, i);
	}
}
