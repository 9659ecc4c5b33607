/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/migrate.h"

#include <errno.h>

#include "base/bug.h"
#include "base/log.h"
#include "base/mutant.h"
#include "core/folio.h"
#include "core/mm.h"
#include "core/notifier.h"
#include "core/pagemap.h"

#define WORDS (PG_REGION_PAGES / 64)
/* How often a page that cannot leave is put back before it is lost. */
#define GIVE_TRIES 64
/* Copies on the device are kept while so many of 256 are of use, one load of a
 * few to find out whether that is so again. */
#define SAME_ENOUGH 64u
#define PROBE_EVERY 16u
/* They take room on the device: for a quarter of the budget only, or for all of
 * it, where nearly all of them are of use. */
#define SAME_NEARLY_ALL 230u

/* A set of pages of one block or folio. */
struct mask {
	uint64_t w[WORDS];
};

static bool mask_has(const struct mask *m, size_t i)
{
	return m->w[i / 64] >> (i % 64) & 1;
}

static void mask_set(struct mask *m, size_t i)
{
	m->w[i / 64] |= (uint64_t)1 << (i % 64);
}

static void mask_clear(struct mask *m, size_t i)
{
	m->w[i / 64] &= ~((uint64_t)1 << (i % 64));
}

/* The first page at or after @i that is set, or is not; @nr if none. */
static size_t mask_find(const struct mask *m, size_t nr, size_t i, bool set)
{
	while (i < nr) {
		uint64_t w = (set ? m->w[i / 64] : ~m->w[i / 64]) >> i % 64;

		if (w) {
			i += (size_t)__builtin_ctzll(w);
			break;
		}
		i = (i / 64 + 1) * 64;
	}
	return i < nr ? i : nr;
}

/* The next run of set pages at or after *i, below nr; false: none. */
static bool mask_run(const struct mask *m, size_t nr, size_t *i, size_t *len)
{
	*i = mask_find(m, nr, *i, true);
	*len = mask_find(m, nr, *i, false) - *i;
	return *len != 0;
}

static bool mask_any(const struct mask *m)
{
	uint64_t all = 0;

	for (size_t i = 0; i < WORDS; i++)
		all |= m->w[i];
	return all;
}

static uintptr_t page(uintptr_t va, size_t i)
{
	return va + i * PG_PAGE_SIZE;
}

/* Is @e the migration entry of @token, waited for or not? */
static bool is_ours(pg_pte_t e, uint64_t token)
{
	return (e & ~(pg_pte_t)PG_PTE_WAITED) ==
	       pg_pte_make(PG_PTE_MIGRATING, token);
}

static uint64_t new_token(struct pgmap_mm *mm)
{
	return pg_fetch_add(&mm->token, 1, relaxed) + 1;
}

/* Nobody may ever see other bytes than were there. Return: the new state. */
static enum pg_pte_state note_lost(struct pgmap_mm *mm, uintptr_t va)
{
	pg_count(&mm->stat, poisoned, 1);
	pg_log(PG_LOG_ERROR,
	       "the contents of page %p are lost (device %s): touching it "
	       "raises SIGBUS",
	       (void *)va, mm->dev->ops.name);
	pg_mmu_poison(mm->mmu, va, 1);
	return PG_PTE_POISON;
}

/* ---- RAM to device ---- */

struct out {
	struct pgmap_mm *mm;
	uintptr_t va;
	size_t nr;
	uint64_t token;
	struct pg_buf *buf;
	struct mask pages; /* to move: present ones */
	struct mask same;  /* of them, what the device holds already */
	struct mask holes; /* to move: absent ones, as zeros */
	unsigned int nr_io;
	bool waited;
	bool single;   /* a folio for each page */
	bool back;     /* some came back: they can leave another time */
	uint8_t owner; /* whose unit they go to; 0: nobody's */
};

static struct pg_notify_range change(uintptr_t va, size_t nr,
				     enum pg_notify_event event, uint8_t owner)
{
	return (struct pg_notify_range){.start = va,
					.end = va + nr * PG_PAGE_SIZE,
					.event = event,
					.owner = owner};
}

static struct out out_begin(struct pgmap_mm *mm, struct pg_buf *buf,
			    uintptr_t va, size_t nr)
{
	return (struct out){.mm = mm,
			    .va = va,
			    .nr = nr,
			    .token = new_token(mm),
			    .buf = buf};
}

/* What a system call uses stays. Partner: pg_hold_take(). Holds LOCK_PT, so
 * nobody waits for our entries yet. */
static void out_leave_held(struct out *o)
{
	uintptr_t end = page(o->va, o->nr), from, to;
	uint32_t slot = 0;

	pg_fence(seq_cst);
	while (pg_holds_find(o->mm->holds, &slot, o->va, end, &from, &to))
		for (; from < to; from += PG_PAGE_SIZE) {
			size_t i = (from - o->va) / PG_PAGE_SIZE;

			mask_clear(&o->holes, i);
			if (!mask_has(&o->pages, i))
				continue;
			mask_clear(&o->pages, i);
			pg_pte_write(
				&o->mm->pt, from,
				pg_pte_make(PG_PTE_PRESENT, o->buf->copy[i]));
			o->buf->copy[i] = 0;
		}
}

/* R73, R76: present pages get migration entries in one critical section. What
 * a coherent unit has stays there. */
static void out_collect(struct out *o, size_t first, size_t end, bool holes)
{
	struct pg_pt *pt = &o->mm->pt;

	pg_pt_lock(pt, o->va);
	for (size_t i = first; i < end; i++) {
		pg_pte_t e = pg_pte_read(pt, page(o->va, i));

		if ((pg_pte_state(e) == PG_PTE_PRESENT &&
		     !(e & PG_PTE_COHERENT)) ||
		    (pg_pte_state(e) == PG_PTE_MIGRATING &&
		     pg_mutant("collect_takes_migrating"))) {
			if (e & PG_PTE_STUCK)
				pg_fetch_sub(&o->mm->stuck, 1, relaxed);
			o->buf->copy[i] = pg_pte_value(e);
			if (!pg_mutant("collect_leaves_entries"))
				pg_pte_write(pt, page(o->va, i),
					     pg_pte_make(PG_PTE_MIGRATING,
							 o->token));
			mask_set(&o->pages, i);
		} else if (e == PG_PTE_HOLE && holes) {
			mask_set(&o->holes, i);
		}
	}
	if (o->mm->holds && !pg_mutant("held_pages_leave"))
		out_leave_held(o);
	pg_pt_unlock(pt, o->va);
}

/* The copy of page @i, if there is one, is of no use any more. */
static void out_put_copy(struct out *o, size_t i)
{
	if (o->buf->copy[i])
		pg_mm_put_copy(o->mm, o->buf->copy[i]);
	o->buf->copy[i] = 0;
}

/* The page is not moved: its entry becomes @state. Holds LOCK_PT. */
static void out_restore(struct out *o, size_t i, pg_pte_t state)
{
	struct pg_pt *pt = &o->mm->pt;
	pg_pte_t e = pg_pte_read(pt, page(o->va, i));

	if (is_ours(e, o->token)) {
		if (e & PG_PTE_WAITED)
			o->waited = true;
		if (pg_pte_state(state) == PG_PTE_PRESENT)
			state |= pg_pte_make(0, o->buf->copy[i]);
		else
			out_put_copy(o, i);
		pg_pte_write(pt, page(o->va, i), state);
		if (state & PG_PTE_STUCK)
			pg_fetch_add(&o->mm->stuck, 1, relaxed);
	} else {
		/* Dropped or unmapped meanwhile, a mark to wake with it. */
		o->waited = true;
		out_put_copy(o, i);
		state = PG_PTE_HOLE;
	}
	if (pg_pte_state(state) != PG_PTE_PRESENT)
		pg_fetch_sub(&o->mm->present, 1, relaxed);
	mask_clear(&o->pages, i);
}

/* Is there surely no page? A hole would read as zeros for good. */
static bool is_absent(struct pgmap_mm *mm, uintptr_t va)
{
	uint64_t bit = 0;

	return pg_mutant("absent_without_looking") ||
	       (!pg_mmu_present(mm->mmu, va, 1, &bit) && !bit);
}

/* Atomic unmap-and-keep; what the kernel refuses stays (R75, R78, R94). */
static void out_unmap(struct out *o)
{
	struct pgmap_mm *mm = o->mm;
	size_t i = 0, len;

	while (mask_run(&o->pages, o->nr, &i, &len)) {
		size_t done;
		bool gone;
		int ret = pg_mmu_take(mm->mmu, page(o->va, i),
				      pg_buf_at(o->buf, i), len, &done);

		pg_buf_mark(&mm->pool, o->buf, (uint32_t)i, (uint32_t)done,
			    true);
		i += done;
		if (!ret)
			continue;
		/* Absent means that somebody dropped it behind our back. */
		gone = (ret == -ENOENT && is_absent(mm, page(o->va, i))) ||
		       pg_mutant("pinned_is_dropped");
		pg_pt_lock(&mm->pt, o->va);
		out_restore(o, i,
			    gone ? PG_PTE_HOLE : PG_PTE_PRESENT | PG_PTE_STUCK);
		pg_pt_unlock(&mm->pt, o->va);
		if (!gone)
			pg_count(&mm->stat, busy, 1);
		i++;
	}
}

static void out_note_failure(struct pgmap_mm *mm, int status, uint64_t nr)
{
	if (status != -ENOSPC) {
		pg_count(&mm->stat, io_errors, 1);
		return;
	}
	pg_count(&mm->stat, full, nr);
	if (!pg_xchg(&mm->warned, 1, relaxed))
		pg_log(PG_LOG_WARN,
		       "device %s is full: pages stay in RAM, above the "
		       "budget; give it more space or raise --ram",
		       mm->dev->ops.name);
}

/* Folios for a run of pages: as large as their alignment allows (R61). A
 * device without a large one left gives small ones. */
static void out_alloc(struct out *o, size_t i, size_t len)
{
	struct pgmap_mm *mm = o->mm;
	unsigned int limit = mm->dev->order;

	if (pg_mutant("unit_is_ignored"))
		limit = PGMAP_PMD_ORDER;
	if (o->single && !pg_mutant("singles_are_joined"))
		limit = 0;
	while (len) {
		struct pg_device_io *io = &o->buf->io[o->nr_io];
		size_t at = page(o->va, i) / PG_PAGE_SIZE;
		unsigned int order = 0;
		int ret;

		while (order < limit && !pg_mutant("small_folios_only") &&
		       !(at & ((2u << order) - 1)) && (size_t)2 << order <= len)
			order++;
		ret = pg_device_alloc(mm->dev, order, &io->folio);
		if (ret == -ENOSPC && !order && pg_mm_drop_copies(mm))
			continue;
		if (ret == -ENOSPC && order && !pg_mutant("large_or_none")) {
			limit = order - 1;
			continue;
		}
		if (ret) {
			/* Left without a destination: goes back to RAM. */
			if (ret == -ENOSPC)
				out_note_failure(mm, ret, 1);
			i++;
			len--;
			continue;
		}
		io->first = (uint32_t)i;
		if (o->owner)
			pg_device_set_owner(mm->dev, pgmap_folio_pfn(io->folio),
					    (size_t)1 << order, o->owner);
		io->folio->mapping = (uintptr_t)mm;
		io->folio->index = at & PG_INDEX_MASK;
		o->nr_io++;
		i += (size_t)1 << order;
		len -= (size_t)1 << order;
	}
}

/*
 * A page that is what the device holds need not be stored again (N60). It has
 * left the page table, and the kernel refuses to move a page that somebody may
 * still write to, so nothing can change it any more.
 */
static bool out_is_same(const struct out *o, size_t i)
{
	return pg_mutant("same_without_looking") ||
	       (pg_device_holds(o->mm->dev, o->buf->copy[i],
				pg_buf_at(o->buf, i)) &&
		!pg_mutant("same_is_stored_again"));
}

/* Does a quarter of the folio of that copy hold nothing that anybody wants? Its
 * space is free only with its last page: better to store the rest again. */
static bool out_is_mostly_gone(const struct out *o, uint64_t pfn)
{
	struct pgmap_folio *folio = pg_map_head(o->mm->dev->map, pfn);
	uint32_t nr = 1u << pgmap_folio_order(folio);

	return pg_load(&folio->mapcount, relaxed) < nr - nr / 4 &&
	       !pg_mutant("copies_of_a_part_are_kept");
}

static void out_compare(struct out *o)
{
	struct pgmap_mm *mm = o->mm;
	uint32_t nr = 0, nr_same = 0, was = pg_load(&mm->same, relaxed);
	size_t i, len;

	for (i = 0; mask_run(&o->pages, o->nr, &i, &len); i++) {
		if (!o->buf->copy[i])
			continue;
		nr++;
		/* A copy is of the unit that the page came from. */
		if (pg_device_owner(mm->dev, o->buf->copy[i]) == o->owner &&
		    out_is_same(o, i)) {
			mask_set(&o->same, i);
			nr_same++;
		} else {
			/* Before new space is asked for. */
			out_put_copy(o, i);
		}
	}
	for (; nr; nr--)
		was += nr_same && nr_same-- ? (256 - was) / 16 : -(was / 16);
	pg_store(&mm->same, was, relaxed);
	for (i = 0; mask_run(&o->same, o->nr, &i, &len); i++) {
		if (out_is_mostly_gone(o, o->buf->copy[i])) {
			out_put_copy(o, i);
			mask_clear(&o->same, i);
		} else {
			pg_count(&mm->stat, clean, 1);
		}
	}
}

static bool is_full(const struct out *o)
{
	for (unsigned int r = 0; r < o->nr_io; r++)
		if (o->buf->io[r].status == -ENOSPC)
			return true;
	return false;
}

static void out_copy(struct out *o)
{
	struct mask all = o->pages;
	size_t i, len;

	for (i = 0; i < WORDS; i++)
		all.w[i] &= ~o->same.w[i];

	for (i = 0; mask_run(&o->holes, o->nr, &i, &len); i += len) {
		/* R57: never what the page held in an earlier life. */
		if (!pg_mutant("hole_not_cleared"))
			__builtin_memset(pg_buf_at(o->buf, i), 0,
					 len * PG_PAGE_SIZE);
		for (size_t k = i; k < i + len; k++)
			mask_set(&all, k);
	}
	for (i = 0; mask_run(&all, o->nr, &i, &len); i += len)
		out_alloc(o, i, len);
	pg_device_store(o->mm->dev, o->buf->io, o->nr_io, o->buf->mem,
			o->buf->dio);
	if (is_full(o) && pg_mm_drop_copies(o->mm))
		for (unsigned int r = 0; r < o->nr_io; r++)
			if (o->buf->io[r].status)
				pg_device_store(o->mm->dev, &o->buf->io[r], 1,
						o->buf->mem, o->buf->dio);
}

/* R81, R84: publish page @i of the run as @pfn, if it is still ours. @folio:
 * NULL if @pfn is the copy that it had. */
static bool out_publish(struct out *o, struct pgmap_folio *folio, size_t i,
			uint64_t pfn)
{
	struct pgmap_mm *mm = o->mm;
	uintptr_t va = page(o->va, i);
	pg_pte_t e = pg_pte_read(&mm->pt, va);

	if (mask_has(&o->holes, i)) {
		/* N46: filled meanwhile by another: its data wins. */
		if (e != PG_PTE_HOLE && !pg_mutant("hole_not_rechecked"))
			return false;
	} else {
		/* N31, N43: unmapped or dropped meanwhile: stays so. */
		if (e & PG_PTE_WAITED)
			o->waited = true;
		if (!is_ours(e, o->token) && !pg_mutant("finalize_resurrects"))
			return false;
		mask_clear(&o->pages, i);
		pg_fetch_sub(&mm->present, 1, relaxed);
	}
	if (folio) {
		if (!pg_mutant("mapping_without_reference"))
			pgmap_folio_get(folio);
		pg_fetch_add(&folio->mapcount, 1, relaxed);
	} else {
		/* The reference that the entry held before. */
		o->buf->copy[i] = 0;
		pg_fetch_sub(&mm->copies, 1, relaxed);
	}
	pg_pte_write(&mm->pt, va, pg_pte_make(PG_PTE_DEVICE, pfn));
	pg_fetch_add(&mm->away, 1, relaxed);
	return true;
}

/* Return: what the entry of page @i is now. Holds LOCK_PT. */
static enum pg_pte_state out_give_back(struct out *o, size_t i)
{
	struct pgmap_mm *mm = o->mm;
	uintptr_t va = page(o->va, i);
	size_t done = 0;
	int ret = 0;

	if (!is_ours(pg_pte_read(&mm->pt, va), o->token))
		return PG_PTE_HOLE;
	if (pg_mutant("not_given_back"))
		return PG_PTE_PRESENT;
	for (int try = 0; try < GIVE_TRIES && !done; try++) {
		ret = pg_mmu_give(mm->mmu, va, pg_buf_at(o->buf, i), 1, &done);
		if (ret == -EEXIST)
			return PG_PTE_PRESENT;
		if (ret == -ENOENT)
			return PG_PTE_HOLE; /* unmapped meanwhile */
	}
	if (!done)
		return note_lost(mm, va);
	pg_buf_mark(&mm->pool, o->buf, (uint32_t)i, 1, false);
	return PG_PTE_PRESENT;
}

static size_t out_finalize(struct out *o)
{
	struct pgmap_mm *mm = o->mm;
	size_t moved = 0, len;

	pg_pt_lock(&mm->pt, o->va);
	for (unsigned int r = 0; r < o->nr_io; r++) {
		struct pg_device_io *io = &o->buf->io[r];
		size_t nr = (size_t)1 << pgmap_folio_order(io->folio);
		uint64_t pfn = pgmap_folio_pfn(io->folio);
		size_t published = 0;

		if (io->status && !pg_mutant("failed_store_published")) {
			out_note_failure(mm, io->status, nr);
			continue;
		}
		for (size_t k = 0; k < nr; k++)
			published += out_publish(o, io->folio, io->first + k,
						 pfn + k);
		moved += published;
		/* Who faults it next must not find our reference (R79). No
		 * entry can go while we hold the lock: it is not the last. */
		if (published) {
			pgmap_folio_unlock(io->folio);
			pgmap_folio_put(io->folio);
			io->folio = NULL;
		}
	}
	for (size_t i = 0; mask_run(&o->same, o->nr, &i, &len); i++) {
		moved += out_publish(o, NULL, i, o->buf->copy[i]);
	}
	/* What is left in pages goes back where it came from. */
	for (size_t i = 0; mask_run(&o->pages, o->nr, &i, &len); i++) {
		out_restore(o, i, out_give_back(o, i));
		o->waited = o->back = true;
	}
	pg_pt_unlock(&mm->pt, o->va);
	for (unsigned int r = 0; r < o->nr_io; r++) {
		if (!o->buf->io[r].folio)
			continue;
		pgmap_folio_unlock(o->buf->io[r].folio);
		pgmap_folio_put(o->buf->io[r].folio);
	}
	if (o->waited && !pg_mutant("waiters_not_woken"))
		pg_mmu_wake(mm->mmu, o->va, o->nr);
	return moved;
}

static size_t to_unit(struct pgmap_mm *mm, uintptr_t va, size_t nr, bool holes,
		      uint8_t owner)
{
	const struct pg_notify_range range =
		change(va, nr, PG_NOTIFY_MIGRATE, owner);
	struct out o = out_begin(mm, pg_pool_get_empty(&mm->pool), va, nr);
	size_t moved = 0;

	o.owner = owner;
	pg_notify_begin(mm, &range);
	out_collect(&o, 0, nr, holes);
	if (mask_any(&o.pages) || mask_any(&o.holes)) {
		out_unmap(&o);
		out_compare(&o);
		if (mask_any(&o.holes) &&
		    pg_buf_fill(&mm->pool, o.buf, (uint32_t)nr))
			o.holes = (struct mask){0};
		out_copy(&o);
		moved = out_finalize(&o);
		if (o.back)
			pg_evict_note(mm, va);
	}
	pg_notify_end(mm, &range);
	pg_pool_put(&mm->pool, o.buf);
	return moved;
}

size_t pg_migrate_to_device(struct pgmap_mm *mm, uintptr_t va, size_t nr,
			    bool holes)
{
	return to_unit(mm, va, nr, holes, 0);
}

size_t pg_migrate_to_unit(struct pgmap_mm *mm, uintptr_t va, size_t nr,
			  uint8_t owner)
{
	return to_unit(mm, va, nr, true, owner);
}

/* ---- Standby ---- */

/* What was taken waits in its buffer from here on. Return: how much. */
static size_t out_park(struct out *o)
{
	struct pgmap_mm *mm = o->mm;
	size_t parked = 0, len;

	pg_pt_lock(&mm->pt, o->va);
	/* Whoever finds an entry of ours may use the buffer at once. */
	if (!pg_mutant("buffer_is_named_late"))
		o->buf->va = o->va;
	for (size_t i = 0; mask_run(&o->pages, o->nr, &i, &len); i++) {
		uintptr_t va = page(o->va, i);
		pg_pte_t e = pg_pte_read(&mm->pt, va);

		if (!is_ours(e, o->token)) {
			out_restore(o, i, PG_PTE_HOLE);
			continue;
		}
		if (e & PG_PTE_WAITED)
			o->waited = true;
		pg_pte_write(&mm->pt, va,
			     pg_pte_make(PG_PTE_STANDBY,
					 pg_pool_page(&mm->pool, o->buf,
						      (uint32_t)i)));
		parked++;
	}
	pg_fetch_sub(&mm->present, parked, relaxed);
	pg_fetch_add(&mm->standby, parked, relaxed);
	pg_pt_unlock(&mm->pt, o->va);
	if (pg_mutant("buffer_is_named_late"))
		o->buf->va = o->va;
	if (o->waited && !pg_mutant("standby_wakes_nobody"))
		pg_mmu_wake(mm->mmu, o->va, o->nr);
	return parked;
}

/* Of the block at @va, pages [first, end). */
static size_t to_standby(struct pgmap_mm *mm, uintptr_t va, size_t first,
			 size_t end, struct pg_notify_range range)
{
	struct out o = out_begin(mm, pg_pool_get_empty(&mm->pool), va,
				 pg_block_pages(mm));
	size_t parked;

	pg_notify_begin(mm, &range);
	out_collect(&o, first, end, false);
	out_unmap(&o);
	parked = out_park(&o);
	pg_notify_end(mm, &range);
	if (parked)
		pg_pool_put_standby(&mm->pool, o.buf);
	else
		pg_pool_put(&mm->pool, o.buf);
	return parked;
}

size_t pg_migrate_to_standby(struct pgmap_mm *mm, uintptr_t va)
{
	size_t nr = pg_block_pages(mm);

	return to_standby(mm, va, 0, nr, change(va, nr, PG_NOTIFY_CLEAR, 0));
}

size_t pg_migrate_to_exclusive(struct pgmap_mm *mm, uintptr_t va, size_t nr,
			       uint8_t owner)
{
	uintptr_t block = pg_block_of(mm, va);
	size_t first = (va - block) / PG_PAGE_SIZE;

	if (pg_load(&mm->pool.nr_standby, relaxed) >= mm->standby_bufs)
		return 0;
	return to_standby(mm, block, first, first + nr,
			  change(va, nr, PG_NOTIFY_EXCLUSIVE, owner));
}

/* The pages of the buffer that are in standby still. Return: how many. */
static size_t out_collect_standby(struct out *o)
{
	struct pgmap_mm *mm = o->mm;
	size_t nr = 0;

	pg_pt_lock(&mm->pt, o->va);
	for (uint32_t i = 0; i < o->nr; i++) {
		uint64_t at = pg_pool_page(&mm->pool, o->buf, i);
		pg_pte_t e = pg_pte_read(&mm->pt, page(o->va, i));

		if (e != pg_pte_make(PG_PTE_STANDBY, at) &&
		    (e != PG_PTE_HOLE || !pg_mutant("settle_resurrects")))
			continue;
		pg_pte_write(&mm->pt, page(o->va, i),
			     pg_pte_make(PG_PTE_MIGRATING, o->token));
		mask_set(&o->pages, i);
		nr++;
	}
	pg_fetch_sub(&mm->standby, nr, relaxed);
	pg_fetch_add(&mm->present, nr, relaxed);
	pg_pt_unlock(&mm->pt, o->va);
	return nr;
}

bool pg_migrate_standby_to_device(struct pgmap_mm *mm, struct pg_settled *s)
{
	struct pg_buf *b = pg_pool_get_standby(&mm->pool);
	struct pg_notify_range range;
	struct out o;

	if (!b)
		return false;
	o = out_begin(mm, b, b->va, b->nr);
	s->va = b->va;
	range = change(b->va, b->nr, PG_NOTIFY_MIGRATE, 0);
	pg_notify_begin(mm, &range);
	s->waited = out_collect_standby(&o);
	out_compare(&o);
	out_copy(&o);
	s->moved = out_finalize(&o);
	pg_notify_end(mm, &range);
	s->room = b->filled;
	if (o.back)
		pg_evict_note(mm, o.va);
	pg_pool_put(&mm->pool, b);
	return true;
}

/* Page @i of @b is where it belongs again. Holds LOCK_PT. */
static void standby_arrived(struct pgmap_mm *mm, struct pg_buf *b, uint32_t i,
			    enum pg_pte_state state)
{
	uint64_t copy = b->copy[i];

	b->copy[i] = 0;
	pg_fetch_sub(&mm->standby, 1, relaxed);
	if (state == PG_PTE_PRESENT) {
		pg_fetch_add(&mm->present, 1, relaxed);
		pg_count(&mm->stat, standby_hits, 1);
	} else if (copy) {
		pg_mm_put_copy(mm, copy);
		copy = 0;
	}
	pg_pte_write(&mm->pt, page(b->va, i), pg_pte_make(state, copy));
}

/* The run of pages in standby around page @i of @b. Holds LOCK_PT. */
static void standby_run(struct pgmap_mm *mm, const struct pg_buf *b,
			uint32_t *i, uint32_t *len)
{
	uint32_t end = *i + 1;

	while (*i && pg_pte_read(&mm->pt, page(b->va, *i - 1)) ==
			     pg_pte_make(PG_PTE_STANDBY,
					 pg_pool_page(&mm->pool, b, *i - 1)))
		(*i)--;
	while (end < b->nr &&
	       pg_pte_read(&mm->pt, page(b->va, end)) ==
		       pg_pte_make(PG_PTE_STANDBY,
				   pg_pool_page(&mm->pool, b, end)))
		end++;
	*len = end - *i;
}

/* Give pages [i, i + len) of @b, all in standby. Holds LOCK_PT. */
static int standby_give(struct pgmap_mm *mm, struct pg_buf *b, uint32_t i,
			uint32_t len)
{
	while (len) {
		size_t done;
		int ret = pg_mmu_give(mm->mmu, page(b->va, i), pg_buf_at(b, i),
				      len, &done);

		pg_buf_mark(&mm->pool, b, i, (uint32_t)done, false);
		for (; done; done--, len--)
			standby_arrived(mm, b, i++, PG_PTE_PRESENT);
		if (!ret)
			continue;
		if (ret == -EEXIST)
			standby_arrived(mm, b, i, PG_PTE_PRESENT);
		else if (ret == -ENOENT)
			standby_arrived(mm, b, i, PG_PTE_HOLE);
		else
			return ret;
		i++;
		len--;
	}
	return 0;
}

/* The entries of the block of @va do not change meanwhile. */
static int standby_to_ram(struct pgmap_mm *mm, uintptr_t va, bool whole)
{
	struct pg_buf *b;
	uint32_t i, len = 1;
	pg_pte_t e;
	int ret;

	pg_pt_lock(&mm->pt, va);
	e = pg_pte_read(&mm->pt, va);
	if (pg_pte_state(e) != PG_PTE_STANDBY) {
		pg_pt_unlock(&mm->pt, va);
		return -EAGAIN;
	}
	b = pg_pool_buf(&mm->pool, pg_pte_value(e), &i);
	if (whole)
		standby_run(mm, b, &i, &len);
	va = page(b->va, i);
	ret = standby_give(mm, b, i, len);
	pg_pt_unlock(&mm->pt, va);
	if (!pg_mutant("no_second_departure"))
		pg_evict_note(mm, va);
	pg_mmu_wake(mm->mmu, va, len);
	return ret;
}

int pg_migrate_standby_to_ram(struct pgmap_mm *mm, uintptr_t va, bool whole)
{
	/* A device may have had it for itself (R177). */
	const struct pg_notify_range range =
		change(whole ? pg_block_of(mm, va) : va,
		       whole ? pg_block_pages(mm) : 1, PG_NOTIFY_EXCLUSIVE, 0);
	int ret;

	if (!pg_pte_is(&mm->pt, va, PG_PTE_STANDBY))
		return -EAGAIN;
	pg_notify_begin(mm, &range);
	ret = standby_to_ram(mm, va, whole);
	pg_notify_end(mm, &range);
	return ret;
}

/* ---- Device to RAM ---- */

struct in {
	struct pgmap_mm *mm;
	uintptr_t va; /* of page 0 below */
	size_t nr;
	uint64_t token;
	struct pg_buf *buf; /* copy: the pfn of each page; io: other folios */
	struct mask pages;
	struct mask lost;
	uint32_t nr_pages;
	unsigned int nr_io;
	bool keep;  /* the device keeps what it holds: see keeps_copies() */
	bool alone; /* of the first folio only */
};

/* R79: exactly the reference of whoever moves it, and one for each page that
 * is mapped: nobody else looks at the folio. */
static bool in_freeze(struct pgmap_folio *folio)
{
	uint32_t expected = 1 + pg_load(&folio->mapcount, relaxed);

	if (!pg_folio_freeze(folio, expected))
		return false;
	pg_folio_unfreeze(folio, expected);
	return true;
}

/* Is @folio, which an entry names, ours to move? Takes it if it can be had at
 * once. Holds LOCK_PT. */
static bool in_take(struct in *n, struct pgmap_folio *folio,
		    struct pgmap_folio *first)
{
	struct pg_device_io *io = n->buf->io;

	if (folio == first || (n->nr_io && io[n->nr_io - 1].folio == folio))
		return true;
	if (n->alone || !pgmap_folio_trylock(folio))
		return false;
	pgmap_folio_get(folio);
	if (in_freeze(folio)) {
		io[n->nr_io++].folio = folio;
		return true;
	}
	pgmap_folio_unlock(folio);
	pgmap_folio_put(folio);
	return false;
}

static void in_put_folios(struct in *n)
{
	while (n->nr_io) {
		struct pgmap_folio *folio = n->buf->io[--n->nr_io].folio;

		pgmap_folio_unlock(folio);
		pgmap_folio_put(folio);
	}
}

/* Take the entries of the run that name the device, with the references they
 * hold: those of @first, and of what other folios can be had. Holds LOCK_PT. */
static void in_collect(struct in *n, struct pgmap_folio *first)
{
	struct pg_pt *pt = &n->mm->pt;
	uint64_t start = 0, end = 0; /* pages of the folio that was taken */

	for (size_t i = 0; i < n->nr; i++) {
		pg_pte_t e = pg_pte_read(pt, page(n->va, i));
		uint64_t pfn = pg_pte_value(e);

		if (pg_pte_state(e) != PG_PTE_DEVICE)
			continue;
		if (pfn < start || pfn >= end) {
			struct pgmap_folio *folio =
				pg_map_head(n->mm->dev->map, pfn);

			if (!in_take(n, folio, first))
				continue;
			start = pgmap_folio_pfn(folio);
			end = start + 1;
			if (n->mm->order)
				end = start +
				      ((uint64_t)1 << pgmap_folio_order(folio));
		}
		pg_pte_write(pt, page(n->va, i),
			     pg_pte_make(PG_PTE_MIGRATING, n->token));
		n->buf->copy[i] = pfn;
		mask_set(&n->pages, i);
		n->nr_pages++;
	}
}

/* The opposite, for pages that stay. Holds LOCK_PT. Pages whose entry was
 * changed meanwhile are forgotten: they were dropped. */
static void in_restore(struct in *n)
{
	struct pg_pt *pt = &n->mm->pt;
	size_t i = 0, len;

	for (; mask_run(&n->pages, n->nr, &i, &len); i++) {
		mask_clear(&n->pages, i);
		if (!is_ours(pg_pte_read(pt, page(n->va, i)), n->token)) {
			pg_fetch_sub(&n->mm->away, 1, relaxed);
			pg_mm_put_page(n->mm, n->buf->copy[i]);
			continue;
		}
		pg_pte_write(pt, page(n->va, i),
			     pg_pte_make(PG_PTE_DEVICE, n->buf->copy[i]));
	}
}

/* How many of the @len pages from @i on follow each other in one folio. */
static size_t in_folio_run(const struct in *n, size_t i, size_t len)
{
	const uint64_t *pfn = n->buf->copy;
	struct pgmap_folio *folio;
	uint64_t end;
	size_t k = 1;

	if (len == 1)
		return 1;
	folio = pg_map_head(n->mm->dev->map, pfn[i]);
	end = pgmap_folio_pfn(folio) +
	      ((uint64_t)1 << pgmap_folio_order(folio));
	while (k < len && pfn[i] + k < end && pfn[i + k] == pfn[i] + k)
		k++;
	return k;
}

/* Load what was collected; pages that cannot be had go to lost. */
static void in_copy(struct in *n)
{
	struct pgmap_mm *mm = n->mm;
	const uint64_t *pfn = n->buf->copy;
	unsigned int nr_io = 0;
	size_t i = 0, len;

	/* A piece for each run inside one folio. */
	for (; mask_run(&n->pages, n->nr, &i, &len); i += len) {
		len = in_folio_run(n, i, len);
		n->buf->dio[nr_io++] =
			(struct pgmap_io){.slot = pfn[i] - mm->dev->first_pfn,
					  .nr = (uint32_t)len,
					  .buf = pg_buf_at(n->buf, i)};
	}
	pg_device_load(mm->dev, n->buf->dio, nr_io);
	for (unsigned int r = 0; r < nr_io; r++) {
		struct pgmap_io *io = &n->buf->dio[r];

		if (!io->status)
			continue;
		pg_count(&mm->stat, io_errors, 1);
		for (size_t k = 0; k < io->nr; k++) {
			char *at = (char *)io->buf + k * PG_PAGE_SIZE;
			struct pgmap_io one = {
				.slot = io->slot + k, .nr = 1, .buf = at};

			pg_device_load(mm->dev, &one, 1);
			if (one.status)
				mask_set(&n->lost,
					 (size_t)(at - pg_buf_at(n->buf, 0)) /
						 PG_PAGE_SIZE);
		}
	}
}

/* Holds LOCK_PT. The page has arrived, or is lost. */
static void in_arrived(struct in *n, size_t i, enum pg_pte_state state)
{
	struct pgmap_mm *mm = n->mm;

	pg_pte_t e = state;

	mask_clear(&n->pages, i);
	pg_fetch_sub(&mm->away, 1, relaxed);
	if (state == PG_PTE_PRESENT)
		pg_fetch_add(&mm->present, 1, relaxed);
	if (state == PG_PTE_PRESENT && n->keep) {
		e = pg_pte_make(state, n->buf->copy[i]);
		pg_fetch_add(&mm->copies, 1, relaxed);
	} else {
		pg_mm_put_page(mm, n->buf->copy[i]);
	}
	pg_pte_write(&mm->pt, page(n->va, i), e);
}

/* Give pages [i, i + len), which are all ours. Holds LOCK_PT. */
static int in_give(struct in *n, size_t i, size_t len)
{
	struct pgmap_mm *mm = n->mm;

	while (len) {
		size_t done;
		int ret = pg_mmu_give(mm->mmu, page(n->va, i),
				      pg_buf_at(n->buf, i), len, &done);

		pg_buf_mark(&mm->pool, n->buf, (uint32_t)i, (uint32_t)done,
			    false);
		for (size_t k = 0; k < done; k++)
			in_arrived(n, i + k, PG_PTE_PRESENT);
		i += done;
		len -= done;
		if (!ret)
			continue;
		if (ret == -EEXIST)
			in_arrived(n, i, PG_PTE_PRESENT);
		else if (ret == -ENOENT)
			in_arrived(n, i, PG_PTE_HOLE);
		else
			return ret; /* the load did not consume the source */
		i++;
		len--;
	}
	return 0;
}

static int in_finalize(struct in *n)
{
	struct pg_pt *pt = &n->mm->pt;
	int ret = 0;

	pg_pt_lock(pt, n->va);
	for (size_t i = 0; i < n->nr;) {
		size_t len = 0;

		if (!mask_has(&n->pages, i)) {
			i++;
			continue;
		}
		while (i + len < n->nr && mask_has(&n->pages, i + len) &&
		       !mask_has(&n->lost, i + len) &&
		       (is_ours(pg_pte_read(pt, page(n->va, i + len)),
				n->token) ||
			pg_mutant("finalize_resurrects")))
			len++;
		if (!len) {
			/* Changed meanwhile: in_restore() counts it. */
			if (is_ours(pg_pte_read(pt, page(n->va, i)), n->token))
				in_arrived(n, i,
					   note_lost(n->mm, page(n->va, i)));
			i++;
			continue;
		}
		if (!ret)
			ret = in_give(n, i, len);
		i += len;
	}
	in_restore(n);
	pg_pt_unlock(pt, n->va);
	return ret;
}

/* One page, or from the first to the last that is away in its block. */
static void in_range(struct in *n, uintptr_t va, bool whole)
{
	struct pgmap_mm *mm = n->mm;
	uintptr_t lo = pg_block_of(mm, va);
	uintptr_t hi = lo + pg_block_pages(mm) * PG_PAGE_SIZE;
	uintptr_t end = va + PG_PAGE_SIZE;

	if (!whole || pg_mutant("page_by_page")) {
		lo = va;
		hi = end;
	}
	while (lo < va && !pg_pte_is(&mm->pt, lo, PG_PTE_DEVICE))
		lo += PG_PAGE_SIZE;
	while (hi > end &&
	       !pg_pte_is(&mm->pt, hi - PG_PAGE_SIZE, PG_PTE_DEVICE))
		hi -= PG_PAGE_SIZE;
	n->va = lo;
	n->nr = (hi - lo) / PG_PAGE_SIZE;
}

bool pg_migrate_get_folio(struct pgmap_mm *mm, uintptr_t va,
			  struct pgmap_folio **folio, uint64_t *pfn)
{
	pg_pte_t e;
	bool locked;

	pg_pt_lock(&mm->pt, va);
	e = pg_pte_read(&mm->pt, va);
	if (pg_pte_state(e) != PG_PTE_DEVICE) {
		pg_pt_unlock(&mm->pt, va);
		return false;
	}
	*pfn = pg_pte_value(e);
	if (pg_mutant("lookup_then_get")) {
		pg_pt_unlock(&mm->pt, va);
		pg_yield();
		pg_pt_lock(&mm->pt, va);
	}
	*folio = pg_map_head(mm->dev->map, *pfn);
	locked = pgmap_folio_trylock(*folio);
	if (locked || pg_mutant("waiters_hold_references"))
		pgmap_folio_get(*folio);
	pg_pt_unlock(&mm->pt, va);
	if (!locked)
		pg_folio_wait_unlocked(*folio);
	return locked;
}

/* Where most pages are changed before they leave, a copy only costs space. */
static bool keeps_copies(const struct pgmap_mm *mm, uint64_t token)
{
	uint64_t most = pg_load(&mm->budget, relaxed) / 4;
	uint32_t same = pg_load(&mm->same, relaxed);

	if (same >= SAME_NEARLY_ALL)
		most *= 4;
	return !pg_load(&mm->short_of_space, relaxed) &&
	       pg_load(&mm->copies, relaxed) < most &&
	       (pg_mutant("copies_are_always_kept") || same >= SAME_ENOUGH ||
		token % PROBE_EVERY == 0);
}

int pg_migrate_to_ram(struct pgmap_mm *mm, struct pgmap_folio *folio,
		      uintptr_t va, bool whole)
{
	struct in n = {.mm = mm};
	struct pg_notify_range range;
	int ret = -EAGAIN;

	pg_bug_on(!pg_folio_is_locked(folio));
	in_range(&n, va, whole);
	n.buf = pg_evict_buffer(mm, (uint32_t)n.nr);
	if (!n.buf)
		return -ENOMEM;
	n.token = new_token(mm);
	/* Before the bytes are read: a unit may write to them until then. */
	range = change(n.va, n.nr, PG_NOTIFY_MIGRATE, 0);
	pg_notify_begin(mm, &range);
	/* One page out of a large folio: the next time it shall come by itself,
	 * which is faster, and let go of the rest. */
	n.keep = keeps_copies(mm, n.token) &&
		 (whole || !mm->order || !pgmap_folio_order(folio));
	pg_pt_lock(&mm->pt, va);
	if (in_freeze(folio))
		in_collect(&n, folio);
	pg_pt_unlock(&mm->pt, va);
	if (n.nr_pages) {
		in_copy(&n);
		ret = in_finalize(&n);
		pg_count(&mm->stat, loads, 1);
		pg_count(&mm->stat, prefetched, n.nr_pages - 1);
		pg_evict_note(mm, va);
	}
	in_put_folios(&n);
	pg_notify_end(mm, &range);
	/* Whoever saw our migration entries must look again. */
	pg_mmu_wake(mm->mmu, n.va, n.nr);
	pg_pool_put(&mm->pool, n.buf);
	return ret;
}

/* ---- Device to device ---- */

/* The first page of the block at @va, from page @i on, whose entry names a
 * folio of several pages. A page is surely one of a folio only as long as an
 * entry names it: look under the lock. */
static size_t find_large(struct pgmap_mm *mm, uintptr_t va, size_t i)
{
	bool locked = !pg_mutant("large_folios_are_looked_for_unlocked");

	if (locked)
		pg_pt_lock(&mm->pt, va);
	for (; i < pg_block_pages(mm); i++) {
		pg_pte_t e = pg_pte_read(&mm->pt, page(va, i));

		if (pg_pte_state(e) == PG_PTE_DEVICE &&
		    pgmap_folio_order(
			    pg_map_head(mm->dev->map, pg_pte_value(e))))
			break;
	}
	if (locked)
		pg_pt_unlock(&mm->pt, va);
	return i;
}

/* A folio of several pages that an entry of the block at @va names. */
static bool large_folio(struct pgmap_mm *mm, uintptr_t va,
			struct pgmap_folio **folio)
{
	size_t nr = pg_block_pages(mm);
	uint64_t pfn;

	for (size_t i = 0; (i = find_large(mm, va, i)) < nr; i++) {
		if (!pg_migrate_get_folio(mm, page(va, i), folio, &pfn))
			continue;
		if (pgmap_folio_order(*folio))
			return true;
		pgmap_folio_unlock(*folio);
		pgmap_folio_put(*folio);
	}
	return false;
}

/* What was loaded belongs to entries that go out again. Return: how much. */
static size_t break_turn(struct in *n, struct out *o)
{
	size_t nr = 0, len;

	for (size_t i = 0; mask_run(&n->pages, n->nr, &i, &len); i++) {
		if (mask_has(&n->lost, i) && !pg_mutant("lost_is_broken_too"))
			continue;
		pg_mm_put_page(n->mm, n->buf->copy[i]);
		n->buf->copy[i] = 0;
		mask_clear(&n->pages, i);
		mask_set(&o->pages, i);
		nr++;
	}
	pg_fetch_sub(&n->mm->away, nr, relaxed);
	pg_fetch_add(&n->mm->present, nr, relaxed);
	return nr;
}

bool pg_migrate_break(struct pgmap_mm *mm, struct pg_buf *b, uintptr_t va)
{
	struct out o = out_begin(mm, b, va, pg_block_pages(mm));
	struct in n = {.mm = mm,
		       .va = va,
		       .nr = o.nr,
		       .token = o.token,
		       .buf = b,
		       .alone = true};
	const struct pg_notify_range range =
		change(va, n.nr, PG_NOTIFY_MIGRATE, 0);
	struct pgmap_folio *folio;

	o.single = true;
	if (pg_buf_fill(&mm->pool, b, (uint32_t)n.nr) ||
	    !large_folio(mm, va, &folio))
		return false;
	o.owner = pg_device_owner(mm->dev, pgmap_folio_pfn(folio));
	pg_notify_begin(mm, &range);
	pg_pt_lock(&mm->pt, va);
	if (in_freeze(folio))
		in_collect(&n, folio);
	pg_pt_unlock(&mm->pt, va);
	in_copy(&n);
	/* Its space is free before its pages are stored again. */
	pgmap_folio_unlock(folio);
	pgmap_folio_put(folio);
	if (break_turn(&n, &o)) {
		out_copy(&o);
		out_finalize(&o);
		if (o.back && !pg_mutant("what_came_back_is_not_queued"))
			pg_evict_note(mm, va);
	}
	pg_pt_lock(&mm->pt, va);
	in_restore(&n);
	pg_pt_unlock(&mm->pt, va);
	pg_notify_end(mm, &range);
	pg_mmu_wake(mm->mmu, va, n.nr);
	return n.nr_pages;
}
