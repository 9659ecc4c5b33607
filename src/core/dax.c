/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/dax.h"

#include <errno.h>
#include <string.h>

#include "base/bug.h"
#include "base/mutant.h"
#include "core/folio.h"
#include "core/pagemap.h"

/* An entry: the first pfn << 8 and these. D_VALUE is what the tree asks for. */
#define D_VALUE 1u
#define D_LOCKED 2u /* somebody decides what it is; sleep until he has */
#define D_EMPTY 4u  /* nothing but the lock; never stays */
#define D_ZERO 8u   /* a hole that is mapped */
#define D_DIRTY 16u /* stored to since the last writeback */
#define D_PFN_SHIFT 8

#define PMD_ORDER PGMAP_PMD_ORDER
#define PMD_PAGES ((uint64_t)1 << PMD_ORDER)
#define LAST_INDEX (((uint64_t)1 << PG_RADIX_INDEX_BITS) - 1)

/* How long a fault waits for a block that somebody else holds. */
#define FAULT_WAIT_NS 1000000u
/* And a break, before it looks again: it may be cancelled, and while it sleeps
 * the page may be mapped again, which holds it as a pin does. */
#define BREAK_WAIT_NS 10000000u

/* The last of @nr pages from @index on; @nr may be "all". */
static uint64_t last_of(uint64_t index, uint64_t nr)
{
	return nr > LAST_INDEX - index ? LAST_INDEX : index + nr - 1;
}

/* ---- Entries, and waiting for them ---- */

static bool is_real(uint64_t e)
{
	return e && !(e & (D_EMPTY | D_ZERO));
}

static uint64_t pfn_of(uint64_t e)
{
	return e >> D_PFN_SHIFT;
}

/*
 * Who finds an entry locked sleeps on one of these words. All entries of 2 MB
 * share one, whatever their size: who waits for a large one may find small
 * ones in its place, and the other way round (R140).
 *
 * A waiter adds himself with the file locked, and who unlocks an entry locks
 * the file for it: so he sees the waiter, who has seen seq before.
 */
#define NR_WAITS 1024u
static struct entry_wait {
	pg_atomic32 seq;
	pg_atomic32 waiters;
} waits[NR_WAITS];

static struct entry_wait *wait_of(const struct pg_dax_file *file,
				  uint64_t index)
{
	uint64_t key = pg_mutant("wait_for_a_page") ? index : index / PMD_PAGES;

	key = (key + (uintptr_t)file / 64) * 0x9e3779b97f4a7c15u;
	return &waits[key >> 32 & (NR_WAITS - 1)];
}

/* Holds file->lock, and lets go of it for a while. */
static void sleep_on(struct pg_dax_file *file, uint64_t index)
{
	struct entry_wait *w = wait_of(file, index);
	uint32_t seen = pg_load(&w->seq, acquire);

	pg_fetch_add(&w->waiters, 1, relaxed);
	pg_unlock(&file->lock, LOCK_ENTRY);
	pg_wait(&w->seq, seen, 0);
	pg_fetch_sub(&w->waiters, 1, relaxed);
	pg_lock(&file->lock, LOCK_ENTRY);
}

static void wake(struct pg_dax_file *file, uint64_t index)
{
	struct entry_wait *w = wait_of(file, index);

	if (!pg_load(&w->waiters, relaxed))
		return;
	pg_fetch_add(&w->seq, 1, release);
	pg_wake(&w->seq);
}

/** struct held - An entry that this thread has locked. */
struct held {
	struct pg_dax_file *file; /* NULL: it is not held any more */
	uint64_t index;		  /* its first page */
	unsigned int order;
	uint64_t e; /* what it becomes when unlocked; 0 or empty: nothing */
};

static uint64_t held_pages(const struct held *h)
{
	return (uint64_t)1 << h->order;
}

/* Nothing is allocated where a value was. Holds file->lock. */
static void tree_replace(struct pg_dax_file *file, uint64_t index,
			 unsigned int order, uint64_t e)
{
	int ret = pg_radix_set(&file->tree, index, order, e | D_VALUE);

	pg_bug_on(ret != 0);
}

static void unlock_entry(struct held *h)
{
	if (!h->file)
		return;
	pg_lock(&h->file->lock, LOCK_ENTRY);
	if (!h->e || h->e & D_EMPTY)
		pg_radix_clear(&h->file->tree, h->index);
	else
		tree_replace(h->file, h->index, h->order,
			     h->e & ~(uint64_t)D_LOCKED);
	pg_unlock(&h->file->lock, LOCK_ENTRY);
	wake(h->file, h->index);
}

static void unmap_entry(struct pg_dax_file *file, uint64_t index,
			unsigned int order)
{
	pg_unmap_mapping_range(&file->mapping, index, (uint64_t)1 << order);
}

/* A large hole at @index, which is not locked, makes room for small entries.
 * Holds file->lock, and lets go of it for a while. */
static void downgrade(struct pg_dax_file *file, uint64_t index, uint64_t e)
{
	tree_replace(file, index, PMD_ORDER, e | D_LOCKED);
	pg_unlock(&file->lock, LOCK_ENTRY);
	if (!pg_mutant("downgrade_leaves_mapped"))
		unmap_entry(file, index, PMD_ORDER);
	pg_lock(&file->lock, LOCK_ENTRY);
	pg_radix_clear(&file->tree, index);
	wake(file, index);
}

/*
 * Lock the entry of @index, for a fault of @order; make one if there is none
 * (R140). Small ones win: they make a large fault small (-EEXIST). A small
 * fault uses a large block, and takes a large hole apart.
 */
static int lock_entry(struct pg_dax_file *file, uint64_t index,
		      unsigned int order, struct held *h)
{
	int ret = 0;

	pg_lock(&file->lock, LOCK_ENTRY);
	for (;;) {
		uint64_t at = index, last = index + ((uint64_t)1 << order) - 1;
		unsigned int has = order;
		uint64_t e = pg_radix_next(&file->tree, &at, last, &has);

		if (!e) {
			e = D_VALUE | D_EMPTY;
			at = index;
			ret = pg_radix_set(&file->tree, at, order,
					   e | D_LOCKED);
		} else if (has < order) {
			ret = -EEXIST;
		} else if (e & D_LOCKED && !pg_mutant("entry_lock_ignored")) {
			sleep_on(file, index);
			continue;
		} else if (has > order && e & D_ZERO) {
			downgrade(file, at, e);
			continue;
		} else {
			tree_replace(file, at, has, e | D_LOCKED);
		}
		*h = (struct held){file, at, has, e};
		break;
	}
	pg_unlock(&file->lock, LOCK_ENTRY);
	return ret;
}

/* The first entry of [*@at, @last], when it is not locked; 0: none. Holds
 * file->lock, and may let go of it for a while. */
static uint64_t next_unlocked(struct pg_dax_file *file, uint64_t *at,
			      uint64_t last, unsigned int *order)
{
	uint64_t from = *at;

	for (;;) {
		uint64_t e;

		*at = from;
		e = pg_radix_next(&file->tree, at, last, order);
		if (!(e & D_LOCKED))
			return e;
		sleep_on(file, *at);
	}
}

/* Lock the first entry of [@at, @last]. False: there is none. */
static bool lock_next(struct pg_dax_file *file, uint64_t at, uint64_t last,
		      struct held *h)
{
	unsigned int order = 0;
	uint64_t e;

	pg_lock(&file->lock, LOCK_ENTRY);
	e = next_unlocked(file, &at, last, &order);
	if (e)
		tree_replace(file, at, order, e | D_LOCKED);
	*h = (struct held){file, at, order, e};
	pg_unlock(&file->lock, LOCK_ENTRY);
	return e;
}

/* ---- Who has a block ---- */

/*
 * The record of the first page of a block says whose it is, whether it is idle
 * or not: mapping and index of the one owner; or no mapping and in index how
 * many owners; or nothing (R149, R150). Several files may have the block, each
 * with entries and locks of its own, so there is a lock for the record (R151).
 * Nobody but us hands out pages of the map, and we do it with that lock: so
 * what is idle stays idle. Who holds a folio reads mapping under the folio's
 * lock, so we take that one, too, if somebody does.
 */
#define NR_OWNER_LOCKS 64u
static struct pg_lock owner_locks[NR_OWNER_LOCKS];

static struct pg_lock *owner_lock_of(const struct pgmap_folio *rec)
{
	return &owner_locks[(uintptr_t)rec / sizeof(*rec) % NR_OWNER_LOCKS];
}

static void lock_owner(const struct pgmap_folio *rec)
{
	if (!pg_mutant("share_without_a_lock"))
		pg_lock(owner_lock_of(rec), LOCK_OWNER);
}

static void unlock_owner(const struct pgmap_folio *rec)
{
	if (!pg_mutant("share_without_a_lock"))
		pg_unlock(owner_lock_of(rec), LOCK_OWNER);
}

/* Is it in a folio that is held, or on its way in or out? Its record is then
 * somebody else's, too. */
static bool is_claimed(const struct pg_dax *dax, uint64_t pfn)
{
	const struct pg_map_range *r = pg_map_range_of(dax->map, pfn);

	return pg_range_is_claimed(r, pfn - pg_load(&r->pfn, relaxed)) &&
	       !pg_mutant("idle_before_the_put_is_over");
}

/* Return: is it held by somebody, and so by us, too, now? */
static bool lock_live(const struct pg_dax *dax, uint64_t pfn,
		      struct pgmap_folio *rec)
{
	while (!pgmap_folio_tryget(rec)) {
		if (!is_claimed(dax, pfn))
			return false;
		pg_yield(); /* being freed */
	}
	pg_folio_lock(rec);
	return true;
}

static void unlock_live(struct pgmap_folio *rec, bool live)
{
	if (!live)
		return;
	pgmap_folio_unlock(rec);
	pgmap_folio_put(rec);
}

static uint64_t nr_owners(const struct pgmap_folio *rec)
{
	return rec->mapping ? 1 : rec->index;
}

static void set_owners(struct pgmap_folio *rec, uint64_t n)
{
	if (pg_mutant("share_without_a_lock"))
		pg_yield();
	rec->mapping = 0;
	rec->index = n & PG_INDEX_MASK;
}

/* The page of a block that somebody holds, or NULL: nobody does, and the last
 * put is over and done with, too (R41). */
static struct pgmap_folio *busy_page(const struct pg_dax *dax, uint64_t pfn,
				     unsigned int order)
{
	for (uint64_t end = pfn + ((uint64_t)1 << order); pfn < end; pfn++) {
		struct pgmap_folio *rec = pg_map_folio(dax->map, pfn);
		uint32_t idle = pg_mutant("idle_is_one") ? 1 : 0;

		if (pg_mutant("scan_before_unmap") &&
		    pgmap_folio_count(rec) == pgmap_folio_mapcount(rec))
			continue;
		if (pg_load(&rec->count, acquire) != idle ||
		    is_claimed(dax, pfn))
			return rec;
	}
	return NULL;
}

static void associate(struct held *h)
{
	const struct pg_dax *dax = h->file->dax;
	uint64_t pfn = pfn_of(h->e), n;
	struct pgmap_folio *rec = pg_map_folio(dax->map, pfn);
	bool live;

	lock_owner(rec);
	live = lock_live(dax, pfn, rec);
	n = nr_owners(rec);
	if (!n) {
		pg_bug_on(live); /* a free block that somebody uses */
		rec->mapping = (uintptr_t)&h->file->mapping;
		rec->index = h->index & PG_INDEX_MASK;
		/* Of a file that had it before. */
		pg_folio_unmark(rec, PG_FOLIO_DIRTY | PG_FOLIO_YOUNG);
	} else {
		set_owners(rec, pg_mutant("share_counts_the_new") && n == 1 &&
						rec->mapping
					? 1
					: n + 1);
	}
	unlock_live(rec, live);
	unlock_owner(rec);
}

/*
 * The file has the block no more. Whoever is its last owner must not leave it
 * while somebody holds it (R150), unless he is @forced to: then nobody gets it
 * any more. Return: the page that is held, or NULL: done.
 */
static struct pgmap_folio *disassociate(const struct pg_dax *dax, uint64_t pfn,
					unsigned int order, bool forced)
{
	struct pgmap_folio *rec = pg_map_folio(dax->map, pfn), *busy = NULL;
	bool live = false;
	uint64_t n;

	if (pg_mutant("leaves_what_is_held"))
		forced = true;
	lock_owner(rec);
	n = nr_owners(rec);
	pg_bug_on(n == 0 && !pg_mutant("share_without_a_lock") &&
		  !pg_mutant("share_counts_the_new"));
	if (n <= 1 && !forced)
		busy = busy_page(dax, pfn, order);
	if (!busy) {
		if (n > 1 || forced)
			live = lock_live(dax, pfn, rec);
		set_owners(rec, n - 1);
		unlock_live(rec, live);
	}
	unlock_owner(rec);
	return busy;
}

uint64_t pg_dax_nr_owners(struct pg_dax *dax, uint64_t pfn,
			  struct pg_dax_file **file, uint64_t *index)
{
	struct pgmap_folio *rec = pg_map_folio(dax->map, pfn);
	uint64_t n;

	lock_owner(rec);
	n = nr_owners(rec);
	if (file) {
		*file = (struct pg_dax_file *)(uintptr_t)rec->mapping;
		*index = rec->index;
	}
	unlock_owner(rec);
	return n;
}

/* ---- Faults ---- */

struct dax_fault {
	struct pg_area *area;
	uintptr_t va;
	uint64_t index; /* first page that is wanted */
	enum pg_level level;
	unsigned int order;
	bool write;
	struct pg_dax_file *file;
	struct pg_dax *dax;
	struct held h; /* has index, perhaps with others around it */
	struct pg_dax_block b;
	bool used;		  /* b is in the tree */
	struct pgmap_folio *wait; /* ... until nobody holds that */
};

static enum pg_fault_code code_of(int err)
{
	switch (err) {
	case -ENOMEM:
		return PG_VM_OOM;
	case -EHWPOISON:
		return PG_VM_HWPOISON;
	case -EAGAIN:
	case -EBUSY:
		return PG_VM_RETRY;
	}
	return PG_VM_SIGBUS;
}

/* Was one of these pages removed? */
static bool is_removed(struct pg_dax *dax, uint64_t pfn, uint64_t nr)
{
	uint32_t n = pg_load(&dax->nr_gone, acquire);

	for (uint32_t i = 0; i < n; i++) {
		const struct pgmap_range *g = &dax->gone[i];

		if (pfn < g->pfn + g->nr && g->pfn < pfn + nr)
			return !pg_mutant("gone_page_is_mapped");
	}
	return false;
}

/* Nobody gets one of these pages any more, though some may be held (R154b,
 * R165). */
static bool is_gone(struct pg_dax *dax, uint64_t pfn, uint64_t nr)
{
	return (pgmap_is_dying(dax->map) &&
		!pg_mutant("dying_map_is_mapped")) ||
	       is_removed(dax, pfn, nr);
}

static int flush(struct pg_dax *dax, const struct held *h)
{
	return dax->ops->flush(dax, pfn_of(h->e), held_pages(h));
}

/*
 * The medium refused a block, with @said, which may be for a page that is lost
 * anyway: the other pages must not be lost with it (R147, R154b). @bad: Bad
 * pages are lost, for the entry goes, and who wants them hears of it; removed
 * ones are always. Return: 0, or the first error for another page.
 */
static int flush_rest(struct pg_dax *dax, const struct held *h, bool bad,
		      int said)
{
	uint64_t pfn = pfn_of(h->e), end = pfn + held_pages(h), from = pfn;
	int ret = 0;

	if (pg_mutant("lost_page_holds_back_a_flush"))
		return said;
	for (; pfn <= end; pfn++) {
		int err = 0;

		if (pfn < end && !is_removed(dax, pfn, 1) &&
		    !(bad && pg_pfn_poisoned(dax->map, pfn)))
			continue;
		if (pfn - from == held_pages(h))
			err = said;
		else if (from < pfn)
			err = dax->ops->flush(dax, from, pfn - from);
		if (!ret)
			ret = err;
		from = pfn + 1;
	}
	return ret;
}

static int flush_what_can_be(struct pg_dax *dax, const struct held *h, bool bad)
{
	int ret = flush(dax, h);

	return ret && h->order ? flush_rest(dax, h, bad, ret) : ret;
}

/* Has it been stored to, by a CPU or, since it was written back, by who pins
 * it (R164)? */
static bool is_dirty(const struct pg_dax *dax, uint64_t e)
{
	return is_real(e) &&
	       (e & D_DIRTY ||
		(pg_folio_marked(pg_map_folio(dax->map, pfn_of(e)),
				 PG_FOLIO_DIRTY) &&
		 !pg_mutant("store_of_a_pin_is_lost")));
}

/*
 * The locked entry goes: nobody sees what it stood for any more (R143), and
 * its block is the file's no more. What was stored goes to the medium first.
 */
static int drop_held(struct dax_fault *f)
{
	struct held *h = &f->h;
	int ret = 0;

	if (!pg_mutant("hole_stays_mapped") || is_real(h->e))
		unmap_entry(f->file, h->index, h->order);
	if (is_real(h->e)) {
		pg_fence(seq_cst); /* as in pg_break_layout() */
		if (is_dirty(f->dax, h->e))
			ret = flush_what_can_be(f->dax, h, true);
		if (ret)
			return ret;
		f->wait = disassociate(f->dax, pfn_of(h->e), h->order, false);
		if (f->wait)
			return -EBUSY;
	}
	h->e = D_VALUE | D_EMPTY;
	return 0;
}

/* R146: all of it, for what is stored next may be a byte. */
static int copy_block(struct dax_fault *f)
{
	struct pg_dax *dax = f->dax;
	uint64_t nr = (uint64_t)1 << f->order;
	const void *from;
	void *to;

	if (!f->b.copy || pg_mutant("shared_block_not_copied"))
		return 0;
	if (!dax->ops->address)
		return -EOPNOTSUPP;
	from = dax->ops->address(dax, f->b.copy);
	to = dax->ops->address(dax, f->b.pfn);
	memcpy(to, from, nr * PG_PAGE_SIZE);
	/* Durable before the file can be said to have it. */
	return dax->ops->flush(dax, f->b.pfn, nr);
}

/* The entry is of another size than what comes: it is replaced. */
static int resize_held(struct dax_fault *f)
{
	struct held *h = &f->h;
	uint64_t old = h->index;
	int ret;

	pg_lock(&f->file->lock, LOCK_ENTRY);
	pg_radix_clear(&f->file->tree, h->index);
	h->index = f->index;
	h->order = f->order;
	ret = pg_radix_set(&f->file->tree, h->index, h->order, h->e | D_LOCKED);
	if (ret)
		h->file = NULL; /* what is there next is somebody else's */
	pg_unlock(&f->file->lock, LOCK_ENTRY);
	if (ret)
		wake(f->file, old);
	return ret;
}

/* The block is behind the entry from now on. First the tree, then the record,
 * and all that before it has a count (R142). */
static int install(struct dax_fault *f)
{
	struct held *h = &f->h;
	int ret = copy_block(f);

	if (!ret && !(h->e & D_EMPTY))
		ret = drop_held(f);
	if (!ret && h->order != f->order)
		ret = resize_held(f);
	if (ret)
		return ret;
	h->e = f->b.pfn << D_PFN_SHIFT | D_VALUE;
	pg_lock(&f->file->lock, LOCK_ENTRY);
	if (!pg_mutant("block_enters_the_tree_late"))
		tree_replace(f->file, h->index, h->order, h->e | D_LOCKED);
	pg_unlock(&f->file->lock, LOCK_ENTRY);
	associate(h);
	return 0;
}

static enum pg_fault_code fault_hole(struct dax_fault *f)
{
	/* A file does not get holes but by pg_break_layout(). */
	if (f->write || is_real(f->h.e))
		return PG_VM_SIGBUS;
	if (f->b.nr < (uint64_t)1 << f->order)
		return PG_VM_FALLBACK;
	f->h.e = D_VALUE | D_ZERO;
	return pg_insert_special(f->area, f->va, f->level, 0, 0);
}

/* Decide what the entry is. Return: PG_VM_NOPAGE: a block, to be mapped. */
static enum pg_fault_code fault_block(struct dax_fault *f)
{
	const struct pg_dax_block *b = &f->b;
	uint64_t nr = (uint64_t)1 << f->order, e = f->h.e;
	int ret;

	/* R141. Shared blocks are mapped page by page, so that the record of
	 * the first page is that of each owner. */
	if (f->order && (((b->nr < nr || b->pfn & (nr - 1)) &&
			  !pg_mutant("small_extent_mapped_large")) ||
			 (b->flags & PG_BLOCK_SHARED &&
			  !pg_mutant("shared_block_mapped_large"))))
		return PG_VM_FALLBACK;
	if (is_gone(f->dax, b->pfn, nr))
		/* The other pages of a large block may be there. */
		return f->order && !pg_mutant("gone_page_takes_its_block")
			       ? PG_VM_FALLBACK
			       : PG_VM_SIGBUS;
	if (f->write && b->flags & PG_BLOCK_SHARED)
		return PG_VM_SIGBUS;
	if (!is_real(e) || pfn_of(e) + (f->index - f->h.index) != b->pfn) {
		ret = install(f);
		if (ret)
			return code_of(ret);
	}
	f->used = true;
	if (f->write && !pg_mutant("store_leaves_clean"))
		f->h.e |= D_DIRTY;
	return PG_VM_NOPAGE;
}

/* A page of a large block is bad, or gone: the others are used one by one. */
static enum pg_fault_code take_apart(struct dax_fault *f)
{
	int ret = drop_held(f);

	if (ret)
		return code_of(ret);
	return f->order ? PG_VM_FALLBACK : PG_VM_RETRY;
}

/* May the folio, which is in use, not be mapped? */
static bool is_bad(const struct dax_fault *f, const struct pgmap_folio *folio)
{
	return pg_folio_marked(folio, PG_FOLIO_POISON) &&
	       (f->order || pg_pfn_poisoned(f->dax->map, f->b.pfn));
}

/* Count 0 to 1, or one more. */
static enum pg_fault_code hold(struct dax_fault *f, struct pgmap_folio **folio)
{
	struct pgmap_folio *rec;
	struct held *h = &f->h;
	int ret;

	*folio = pgmap_tryget_pfn(f->b.pfn);
	if (*folio) {
		if (!is_bad(f, *folio) || pg_mutant("bad_page_is_mapped"))
			return PG_VM_NOPAGE;
		pgmap_folio_put(*folio);
		return f->order ? PG_VM_FALLBACK : PG_VM_HWPOISON;
	}
	if (h->order && is_removed(f->dax, pfn_of(h->e), held_pages(h)) &&
	    !pg_mutant("gone_page_is_handed_out"))
		return take_apart(f);
	rec = pg_map_folio(f->dax->map, pfn_of(h->e));
	lock_owner(rec);
	/* The mark of a store by who pinned it ends with this hand-out. */
	if (is_dirty(f->dax, h->e))
		h->e |= D_DIRTY;
	ret = pgmap_get_folio(f->dax->map, pfn_of(h->e), h->order, folio);
	unlock_owner(rec);
	if (ret == -EHWPOISON)
		return h->order ? take_apart(f) : PG_VM_HWPOISON;
	if (ret)
		/* -EBUSY: on its way to us or from us; -ENODEV: R165. */
		return code_of(ret);
	pgmap_folio_unlock(*folio);
	return PG_VM_NOPAGE;
}

static enum pg_fault_code map_block(struct dax_fault *f)
{
	struct pgmap_folio *folio;
	enum pg_fault_code ret = hold(f, &folio);

	if (ret != PG_VM_NOPAGE)
		return ret;
	ret = pg_insert_folio(f->area, f->va, f->level, folio, f->b.pfn,
			      f->write ? PG_E_WRITE : 0);
	/* It may have gone bad since hold() looked. First the entry, then the
	 * mark: partner in pg_memory_failure() (R183). */
	pg_fence(seq_cst);
	if (ret == PG_VM_NOPAGE && is_bad(f, folio) &&
	    !pg_mutant("bad_page_is_mapped")) {
		pg_unmap_mapping_range(&f->file->mapping, f->index,
				       (uint64_t)1 << f->order);
		ret = f->order ? PG_VM_FALLBACK : PG_VM_HWPOISON;
	}
	if (!pg_mutant("fault_keeps_its_reference"))
		pgmap_folio_put(folio);
	return ret;
}

/* R144: that the file has the block must be durable before a store can be.
 * Then the entry is looked at again: it was not locked meanwhile. */
static enum pg_fault_code sync_and_map(struct dax_fault *f)
{
	struct held was = f->h;
	enum pg_fault_code ret;
	int err;

	unlock_entry(&f->h);
	err = f->dax->ops->sync(f->file, was.index, held_pages(&was));
	if (!lock_next(f->file, was.index, was.index, &f->h))
		return err ? code_of(err) : PG_VM_RETRY;
	if (err)
		ret = code_of(err);
	else if (f->h.order != was.order || !is_real(f->h.e) ||
		 pfn_of(f->h.e) != pfn_of(was.e))
		ret = PG_VM_RETRY;
	else {
		f->h.e |= D_DIRTY;
		ret = map_block(f);
	}
	unlock_entry(&f->h);
	return ret;
}

/* Holds the invalidate lock for reading. */
static enum pg_fault_code fault_locked(struct dax_fault *f)
{
	const struct pg_dax_ops *ops = f->dax->ops;
	uint64_t nr = (uint64_t)1 << f->order;
	enum pg_fault_code ret;
	bool sync;
	int err;

	if (f->index > LAST_INDEX ||
	    (f->index + nr > pg_load(&f->file->nr_pages, relaxed) &&
	     !pg_mutant("mapped_behind_the_end")))
		return f->order ? PG_VM_FALLBACK : PG_VM_SIGBUS;
	err = lock_entry(f->file, f->index, f->order, &f->h);
	if (err)
		return err == -EEXIST ? PG_VM_FALLBACK : code_of(err);
	err = ops->get_block(f->file, f->index, f->order, f->write, &f->b);
	if (err) {
		unlock_entry(&f->h);
		return code_of(err);
	}
	ret = f->b.pfn ? fault_block(f) : fault_hole(f);
	if (ops->put_block)
		ops->put_block(f->file, f->index, &f->b, f->used);
	sync = f->write && f->b.flags & PG_BLOCK_VOLATILE &&
	       f->area->flags & PG_AREA_SYNC && ops->sync;
	if (f->used && sync && !pg_mutant("mapped_before_sync"))
		return sync_and_map(f);
	if (f->used)
		ret = map_block(f);
	unlock_entry(&f->h);
	return ret;
}

static enum pg_fault_code fault(struct pg_area *area, uintptr_t va,
				uint64_t index, enum pg_level level, bool write)
{
	struct pg_dax_file *file = (struct pg_dax_file *)area->mapping;
	struct dax_fault f = {
		.area = area,
		.va = va,
		.index = index,
		.level = level,
		.order = pg_level_order(level),
		.write = write,
		.file = file,
		.dax = file->dax,
	};
	enum pg_fault_code ret;

	if (level == PG_PUD)
		return PG_VM_FALLBACK;
	/* The copy would be anonymous memory, which is not ours to make. */
	if (write && !(area->flags & PG_AREA_SHARED))
		return level == PG_PTE ? PG_VM_SIGBUS : PG_VM_FALLBACK;
	if (!pg_mutant("fault_beside_truncation"))
		pg_read_lock(&file->mapping.invalidate, LOCK_INVALIDATE);
	ret = fault_locked(&f);
	if (!pg_mutant("fault_beside_truncation"))
		pg_read_unlock(&file->mapping.invalidate, LOCK_INVALIDATE);
	if (f.wait)
		pgmap_folio_wait_idle(f.wait, FAULT_WAIT_NS);
	return ret;
}

/* ---- Taking blocks away ---- */

/* Entries that reach out of [*first, *last] go as a whole. */
static void extend(struct pg_dax_file *file, uint64_t *first, uint64_t *last)
{
	unsigned int order;
	uint64_t at = *first, end = *last;

	if (pg_mutant("straddling_entry_stays_mapped"))
		return;
	pg_lock(&file->lock, LOCK_ENTRY);
	if (pg_radix_next(&file->tree, &at, *first, &order))
		*first = at;
	at = end;
	if (pg_radix_next(&file->tree, &at, end, &order))
		*last = at + ((uint64_t)1 << order) - 1;
	pg_unlock(&file->lock, LOCK_ENTRY);
}

/* A page of [@at, @last] that somebody holds and that is nobody's but this
 * file's; NULL: none. */
static struct pgmap_folio *find_busy(struct pg_dax_file *file, uint64_t at,
				     uint64_t last)
{
	const struct pg_dax *dax = file->dax;
	struct pgmap_folio *busy = NULL;
	unsigned int order;
	uint64_t e;

	pg_lock(&file->lock, LOCK_ENTRY);
	while (!busy && (e = next_unlocked(file, &at, last, &order))) {
		if (is_real(e) &&
		    pg_dax_nr_owners(file->dax, pfn_of(e), NULL, NULL) <= 1)
			busy = busy_page(dax, pfn_of(e), order);
		at += (uint64_t)1 << order;
	}
	pg_unlock(&file->lock, LOCK_ENTRY);
	return busy;
}

struct breaking {
	struct pg_dax_file *file;
	uint64_t index, last; /* what is to go */
	bool keep;
	bool forced;
	bool begun;		  /* entries are gone: it must be done */
	struct pgmap_folio *busy; /* held by somebody */
};

/* What was stored to a block that nobody maps goes to the medium, as far as it
 * stays the file's. Return: 0 or what flush said. */
static int save(const struct breaking *b, struct held *h)
{
	struct pg_dax *dax = b->file->dax;
	bool whole =
		h->index >= b->index && h->index + held_pages(h) - 1 <= b->last;
	int ret;

	if ((!b->keep && whole) || !is_dirty(dax, h->e) ||
	    pg_mutant("break_forgets_stores"))
		return 0;
	/* Who pins it marks it again when he has stored his last. */
	pg_folio_unmark(pg_map_folio(dax->map, pfn_of(h->e)), PG_FOLIO_DIRTY);
	ret = flush_what_can_be(dax, h, true);
	h->e = ret ? h->e | D_DIRTY : h->e & ~(uint64_t)D_DIRTY;
	return ret;
}

static int save_all(const struct breaking *b, uint64_t first, uint64_t last)
{
	struct held h;
	int ret = 0;

	while (!ret && lock_next(b->file, first, last, &h)) {
		ret = save(b, &h);
		unlock_entry(&h);
		first = h.index + held_pages(&h);
	}
	return ret;
}

/* Return: 0; -EBUSY and b->busy; what flush said. */
static int forget_one(struct breaking *b, struct held *h)
{
	int ret;

	if (!is_real(h->e))
		return 0;
	/* Who pins a shared block may have stored to it again. */
	ret = save(b, h);
	if (ret)
		return ret;
	b->busy = disassociate(b->file->dax, pfn_of(h->e), h->order, b->forced);
	return b->busy ? -EBUSY : 0;
}

/* Entries of [@first, @last] go, which nobody maps. */
static int forget(struct breaking *b, uint64_t first, uint64_t last)
{
	struct held h;
	int ret = 0;

	while (!ret && lock_next(b->file, first, last, &h)) {
		ret = forget_one(b, &h);
		if (!ret) {
			h.e = 0;
			b->begun = true;
		}
		unlock_entry(&h);
		first = h.index + held_pages(&h);
	}
	return ret;
}

/* One round. Return: 0 done; -EBUSY and b->busy; what flush said. */
static int try_break(struct breaking *b)
{
	struct pg_dax_file *file = b->file;
	uint64_t first = b->index, last = b->last;
	int ret = 0;

	extend(file, &first, &last);
	if (pg_mutant("unmapped_file_not_scanned") && !file->mapping.areas)
		b->forced = true;
	if (pg_mutant("scan_before_unmap")) {
		b->busy = find_busy(file, first, last);
		b->forced = true;
		pg_yield();
	}
	pg_unmap_mapping_range(&file->mapping, first, last - first + 1);
	/*
	 * First no entry, then no count: partner: the fence in pg_gup(), which
	 * takes a reference and then looks at the entry again. Either we see
	 * its reference, or it sees that the entry has gone (R154).
	 */
	pg_fence(seq_cst);
	if (!b->forced)
		b->busy = find_busy(file, first, last);
	if (b->busy)
		return -EBUSY;
	/* Before anything is forgotten: if it fails all stays the file's, dirty
	 * or not. */
	if ((b->keep || first < b->index || last > b->last) &&
	    !pg_mutant("forgotten_before_all_is_flushed"))
		ret = save_all(b, first, last);
	return ret ? ret : forget(b, first, last);
}

int pg_break_layout(struct pg_dax_file *file, uint64_t index, uint64_t nr,
		    uint32_t flags, pg_atomic32 *cancel)
{
	const struct pg_dax_ops *ops = file->dax->ops;
	struct breaking b = {
		.file = file,
		.index = index,
		.last = last_of(index, nr),
		.keep = flags & PG_BREAK_KEEP,
	};
	int ret;

	if (!nr || index > LAST_INDEX)
		return 0;
	for (;;) {
		ret = try_break(&b);
		if (!b.busy)
			return ret;
		/*
		 * What other files let go of meanwhile may have made us the
		 * last owner of a block that is held, after entries have gone:
		 * there is no way back then.
		 */
		if (!b.begun && flags & PG_BREAK_NOWAIT)
			return -EBUSY;
		if (!b.begun && cancel && pg_load(cancel, acquire)) {
			if (pg_mutant("interrupted_break_forgets")) {
				b.forced = true;
				forget(&b, index, b.last);
			}
			return -EINTR;
		}
		pg_write_unlock(&file->mapping.invalidate, LOCK_INVALIDATE);
		if (ops->relax)
			ops->relax(file, true);
		pgmap_folio_wait_idle(b.busy, BREAK_WAIT_NS);
		if (ops->relax)
			ops->relax(file, false);
		pg_write_lock(&file->mapping.invalidate, LOCK_INVALIDATE);
		b.busy = NULL;
		if (pg_mutant("wait_without_recheck"))
			b.forced = true;
	}
}

void pg_dax_resize(struct pg_dax_file *file, uint64_t nr)
{
	pg_assert(pg_write_held(&file->mapping.invalidate));
	pg_store(&file->nr_pages, nr, relaxed);
}

/* Others may have the block, so this file need not be its last owner; but who
 * maps it through this file is found through the entry only. */
static bool is_in_use(const struct held *h)
{
	return busy_page(h->file->dax, pfn_of(h->e), h->order) &&
	       !pg_mutant("invalidate_leaves_mapped");
}

int pg_dax_invalidate(struct pg_dax_file *file, uint64_t index, uint64_t nr)
{
	uint64_t last = last_of(index, nr);
	struct held h;
	int ret = 0;

	if (!nr)
		return 0;
	while (lock_next(file, index, last, &h)) {
		bool stays = is_dirty(file->dax, h.e) &&
			     !pg_mutant("invalidate_drops_dirty");

		/* A hole may be mapped; nobody holds its page of zeros. */
		if (!is_real(h.e))
			unmap_entry(file, h.index, h.order);
		else if (!stays)
			stays = is_in_use(&h) ||
				disassociate(file->dax, pfn_of(h.e), h.order,
					     false);
		if (stays)
			ret = -EBUSY;
		else
			h.e = 0;
		unlock_entry(&h);
		index = h.index + held_pages(&h);
	}
	return ret;
}

/* ---- Writing back ---- */

/*
 * A store that comes after the protection faults, and waits for the entry; one
 * that came before it is flushed. So what is dirty when it is called clean is
 * nothing (R145).
 */
static int write_back_one(struct held *h)
{
	struct pg_dax *dax = h->file->dax;
	struct pgmap_folio *rec = pg_map_folio(dax->map, pfn_of(h->e));
	int ret;

	if (pg_mutant("flush_before_protect"))
		flush(dax, h);
	if (!pg_mutant("writeback_leaves_writable"))
		pg_clean_mapping_range(&h->file->mapping, h->index,
				       held_pages(h));
	/* Who pins it marks it again when he has stored his last. */
	pg_folio_unmark(rec, PG_FOLIO_DIRTY);
	if (pg_mutant("writeback_unlocks_early")) {
		struct held again = *h;

		unlock_entry(&again);
	}
	ret = pg_mutant("flush_before_protect")
		      ? 0
		      : flush_what_can_be(dax, h, false);
	if (pg_mutant("failed_flush_is_clean"))
		h->e &= ~(uint64_t)D_DIRTY;
	else if (ret)
		h->e |= D_DIRTY;
	else
		h->e &= ~(uint64_t)D_DIRTY;
	return ret;
}

/* One pass from the front to the back ends, whatever is stored meanwhile. */
int pg_dax_writeback(struct pg_dax_file *file, uint64_t index, uint64_t nr)
{
	uint64_t last = last_of(index, nr);
	struct held h;
	int ret = 0;

	if (!nr)
		return 0;
	while (lock_next(file, index, last, &h)) {
		int err = is_dirty(file->dax, h.e) ? write_back_one(&h) : 0;

		if (!ret)
			ret = err;
		unlock_entry(&h);
		index = h.index + held_pages(&h);
	}
	return ret;
}

/* ---- The device ---- */

/* Pages of entry @e that are among [@pfn, @pfn + @nr). */
static bool is_about(uint64_t e, unsigned int order, uint64_t pfn, uint64_t nr,
		     uint64_t *from, uint64_t *count)
{
	uint64_t start = pfn_of(e), end = start + ((uint64_t)1 << order);

	if (!is_real(e) || start >= pfn + nr || end <= pfn)
		return false;
	*from = start > pfn ? 0 : pfn - start;
	*count = (end < pfn + nr ? end : pfn + nr) - start - *from;
	return true;
}

/*
 * Some pages of the locked entry are gone, or (@whole) all. Who pins a block of
 * which others stay holds them as well: then the entry stays, so that they are
 * not free and who breaks the layout waits (R150).
 *
 * Return: 0 or what flush said.
 */
static int remove_entry(struct held *h, bool whole)
{
	struct pg_dax *dax = h->file->dax;
	int ret = 0, lost = 0;

	if (!pg_mutant("removed_page_stays_mapped"))
		unmap_entry(h->file, h->index, h->order);
	pg_fence(seq_cst); /* as in pg_break_layout() */
	if (is_dirty(dax, h->e)) {
		pg_folio_unmark(pg_map_folio(dax->map, pfn_of(h->e)),
				PG_FOLIO_DIRTY);
		ret = flush(dax, h);
		lost = ret;
		if (ret && !whole)
			lost = flush_rest(dax, h, false, ret);
		h->e = lost ? h->e | D_DIRTY : h->e & ~(uint64_t)D_DIRTY;
	}
	whole = whole || pg_mutant("partly_gone_is_forgotten");
	if ((whole || !lost) &&
	    !disassociate(dax, pfn_of(h->e), h->order, whole))
		h->e = 0;
	return ret;
}

/* Holds the invalidate lock for writing: no fault is under way. */
static int remove_from_file(struct pg_dax_file *file, uint64_t pfn, uint64_t nr)
{
	uint64_t at = 0, from, count;
	struct held h;
	int ret = 0;

	while (lock_next(file, at, LAST_INDEX, &h)) {
		if (is_about(h.e, h.order, pfn, nr, &from, &count)) {
			int err = remove_entry(&h, count == held_pages(&h));

			if (!ret)
				ret = err;
		}
		unlock_entry(&h);
		at = h.index + held_pages(&h);
	}
	return ret;
}

int pg_dax_remove(struct pg_dax *dax, uint64_t pfn, uint64_t nr)
{
	uint32_t n;
	int ret = 0;

	if (nr > UINT64_MAX - pfn && !pg_mutant("removed_pages_wrap"))
		return -EINVAL;
	if (!nr)
		return 0;
	pg_lock(&dax->lock, LOCK_DAX);
	n = pg_load(&dax->nr_gone, relaxed);
	if (n == PG_DAX_MAX_GONE) {
		pg_unlock(&dax->lock, LOCK_DAX);
		return -ENOSPC;
	}
	dax->gone[n] = (struct pgmap_range){pfn, nr};
	pg_store(&dax->nr_gone, n + 1, release);
	for (struct pg_dax_file *f = dax->files; f; f = f->next) {
		int err;

		/* Faults that did not know it yet are over when we have this.
		 */
		pg_write_lock(&f->mapping.invalidate, LOCK_INVALIDATE);
		err = remove_from_file(f, pfn, nr);
		pg_write_unlock(&f->mapping.invalidate, LOCK_INVALIDATE);
		if (!ret)
			ret = err;
	}
	pg_unlock(&dax->lock, LOCK_DAX);
	return ret;
}

void pg_dax_for_each_owner(struct pg_dax *dax, uint64_t pfn, uint64_t nr,
			   void (*fn)(struct pg_dax_file *file, uint64_t index,
				      uint64_t count, void *arg),
			   void *arg)
{
	pg_lock(&dax->lock, LOCK_DAX);
	for (struct pg_dax_file *f = dax->files; f; f = f->next) {
		uint64_t at = 0, from, count, e;
		unsigned int order;

		pg_lock(&f->lock, LOCK_ENTRY);
		while ((e = pg_radix_next(&f->tree, &at, LAST_INDEX, &order))) {
			if (is_about(e, order, pfn, nr, &from, &count))
				fn(f, at + from, count, arg);
			at += (uint64_t)1 << order;
		}
		pg_unlock(&f->lock, LOCK_ENTRY);
		if (pg_mutant("one_file_is_told"))
			break;
	}
	pg_unlock(&dax->lock, LOCK_DAX);
}

int pg_dax_init(struct pg_dax *dax, struct pgmap *map,
		const struct pg_dax_ops *ops, void *data)
{
	/* Blocks are pages: two may be in one record otherwise. */
	if (pgmap_get_type(map) != PGMAP_FS_DAX || map->folio_order)
		return -EINVAL;
	dax->map = map;
	dax->ops = ops;
	dax->data = data;
	return 0;
}

void pg_dax_fini(struct pg_dax *dax)
{
	pg_bug_on(dax->files != NULL);
	pg_radix_pool_fini(&dax->nodes);
}

void pg_dax_file_init(struct pg_dax_file *file, struct pg_dax *dax,
		      uint64_t nr_pages, void *data)
{
	static const struct pg_mapping_ops ops = {.fault = fault};

	pg_mapping_init(&file->mapping, &ops);
	pg_radix_init(&file->tree, &dax->nodes);
	file->dax = dax;
	file->data = data;
	pg_store(&file->nr_pages, nr_pages, relaxed);
	pg_lock(&dax->lock, LOCK_DAX);
	file->next = dax->files;
	dax->files = file;
	pg_unlock(&dax->lock, LOCK_DAX);
}

void pg_dax_file_fini(struct pg_dax_file *file)
{
	struct pg_dax *dax = file->dax;
	struct pg_dax_file **p;
	int ret;

	pg_bug_on(file->mapping.areas != NULL);
	pg_write_lock(&file->mapping.invalidate, LOCK_INVALIDATE);
	ret = pg_break_layout(file, 0, LAST_INDEX + 1, 0, NULL);
	pg_write_unlock(&file->mapping.invalidate, LOCK_INVALIDATE);
	pg_bug_on(ret != 0);
	pg_lock(&dax->lock, LOCK_DAX);
	for (p = &dax->files; *p != file; p = &(*p)->next)
		;
	*p = file->next;
	pg_unlock(&dax->lock, LOCK_DAX);
}

/* ---- Looking ---- */

enum pg_dax_kind pg_dax_peek(struct pg_dax_file *file, uint64_t index,
			     uint64_t *pfn, bool *dirty)
{
	unsigned int order = 0;
	uint64_t e, in;

	pg_lock(&file->lock, LOCK_ENTRY);
	e = pg_radix_get(&file->tree, index, &order);
	if (dirty)
		*dirty = is_dirty(file->dax, e);
	pg_unlock(&file->lock, LOCK_ENTRY);
	in = index & (((uint64_t)1 << order) - 1);
	if (pfn)
		*pfn = is_real(e) ? pfn_of(e) + in : 0;
	if (!e || e & D_EMPTY)
		return PG_DAX_NONE;
	if (e & D_ZERO)
		return order ? PG_DAX_ZERO_PMD : PG_DAX_ZERO;
	return order ? PG_DAX_PMD : PG_DAX_PTE;
}

int pg_dax_check(struct pg_dax_file *file, const char **what)
{
	uint64_t at = 0, e;
	unsigned int order;

	*what = NULL;
	pg_lock(&file->lock, LOCK_ENTRY);
	while (!*what &&
	       (e = pg_radix_next(&file->tree, &at, LAST_INDEX, &order))) {
		uint64_t index = at, nr = (uint64_t)1 << order;
		struct pg_dax_file *owner;

		at += nr;
		if (e & (D_LOCKED | D_EMPTY))
			*what = "no entry is locked at rest";
		else if (e & D_ZERO)
			*what = e & D_DIRTY ? "a hole is clean" : NULL;
		else if (pfn_of(e) & (nr - 1))
			*what = "a block is aligned to its size";
		else if (!pg_dax_nr_owners(file->dax, pfn_of(e), &owner,
					   &index))
			*what = "a block in a file is owned";
		else if (owner && (owner != file || index != at - nr))
			*what = "a block of one owner knows him";
	}
	pg_unlock(&file->lock, LOCK_ENTRY);
	return *what ? -EUCLEAN : 0;
}
