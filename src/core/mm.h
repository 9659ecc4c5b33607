/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * mm.h - one address space: its ranges, its page table, its budget.
 */
#ifndef PG_MM_H
#define PG_MM_H

#include <pgmap/pgmap.h>

#include "base/lock.h"
#include "core/device.h"
#include "core/evict.h"
#include "core/hold.h"
#include "core/pool.h"
#include "core/pt.h"
#include "core/stat.h"

#define PG_MAX_VMAS 65536u
/* Streams of faults that are told apart. */
#define PG_NR_STREAMS 16u

/* Requests to break large folios that may wait. */
#define PG_NR_BREAKS 256u

/** struct pg_stream - Where faults follow each other, up or down. Relaxed; a
 * lost update costs a page or two. */
struct pg_stream {
	pg_atomic64 page; /* number of the latest one; 0: unused */
	pg_atomic64 edge; /* where what was asked for ahead ends; 0: nothing */
	pg_atomic64 marker; /* the block before it: a fault there asks again */
	pg_atomic32 window; /* pages that were asked for last */
	pg_atomic32 down;
	/* To load ahead: page number << 12 | pages; 0: nothing. */
	pg_atomic64 ahead;
};

/** struct pg_vma - A managed range. */
struct pg_vma {
	uintptr_t start, end;
};

struct pgmap_mm {
	/* Readers: faults and migrations, as long as they last. Writers:
	 * whoever changes mappings. */
	struct pg_rwlock lock;
	struct pg_mmu *mmu;	  /* set once */
	struct pgmap_device *dev; /* set once */
	unsigned int order;	  /* of a block; set once */
	uint64_t standby_pages;	  /* that may wait; set once */
	uint32_t standby_bufs;	  /* ... in so many buffers; set once */

	bool releasing;	    /* LOCK_MM for writing: loads evict nothing */
	struct pg_vma *vma; /* LOCK_MM; sorted, disjoint, not adjacent */
	uint32_t nr_vma;    /* LOCK_MM */
	/* Odd while vma is about to change or changes; seq_cst. See
	 * pg_mm_next_managed(). */
	pg_atomic32 vma_seq;
	struct pg_holds *holds; /* set once; NULL: nobody needs to hold */
	/* Who mirrors the page table. LOCK_MM; to change it, for writing. */
	struct pg_notifier *notifiers;
	struct pg_pt pt;
	struct pg_pool pool;
	struct pg_queue queue;

	struct pg_stream stream[PG_NR_STREAMS];
	pg_atomic32 nr_streams; /* relaxed */
	pg_atomic32 asked;	/* bit: that stream has something to load
				 * ahead; relaxed */
	/* Addresses in blocks whose large folios are to be broken: a ring of
	 * hints, the oldest are lost. Relaxed. */
	pg_atomic64 to_break[PG_NR_BREAKS];
	pg_atomic32 nr_breaks;	/* requests ever */
	pg_atomic32 nr_broken;	/* of them done or lost; changed by K only */
	struct pg_buf *breaker; /* K's, once it needed one */

	pg_atomic64 budget;  /* pages; relaxed */
	pg_atomic64 present; /* entries that are PRESENT or on their way out */
	pg_atomic64 standby; /* entries that are STANDBY; relaxed */
	pg_atomic64 away;    /* entries that are DEVICE or on their way in */
	pg_atomic64 stuck;   /* of present, those marked STUCK; relaxed */
	pg_atomic64 copies;  /* of present and standby, those with a copy;
			      * relaxed */
	/* Of 256 pages with a copy that left lately, how many were the same;
	 * relaxed, a lost update is no matter. */
	pg_atomic32 same;
	pg_atomic32 short_of_space; /* the device is nearly full; relaxed */
	pg_atomic64 token;	    /* of the last migration; relaxed */
	pg_atomic32 parked; /* a fault was dropped for the write lock; seq_cst:
			     * see pg_fault() and pgmap_mm_change_end() */
	pg_atomic32 nobody; /* 0: a futex that nobody wakes */
	pg_atomic32 hopeless; /* faults that do not try to evict; relaxed */
	pg_atomic32 warned;   /* said that the device is full; relaxed */
	struct pg_stat stat;

	/* Set by the owner of the threads (open.c), NULL in tests: run
	 * something where descriptors can be used; parked faults may go on. */
	int (*run)(struct pgmap_mm *mm, int (*fn)(struct pgmap_mm *, void *),
		   void *arg);
	void (*change_end)(struct pgmap_mm *mm);
};

static inline size_t pg_block_pages(const struct pgmap_mm *mm)
{
	return (size_t)1 << mm->order;
}

static inline uintptr_t pg_block_of(const struct pgmap_mm *mm, uintptr_t va)
{
	return va & ~(pg_block_pages(mm) * PG_PAGE_SIZE - 1);
}

/**
 * pg_mm_init() - A zeroed @mm on a MMU and a device, which stay the caller's.
 * @budget: Bytes. @folio_size: a power of two, 4 KB .. 2 MB.
 * Return: 0; -EINVAL; -ENOMEM.
 */
int pg_mm_init(struct pgmap_mm *mm, struct pg_mmu *mmu,
	       struct pgmap_device *dev, uint64_t budget, uint64_t folio_size);
/** pg_mm_fini() - Free it. What is still on the device is dropped. */
void pg_mm_fini(struct pgmap_mm *mm);

/** pg_mm_set_budget() - From now on at most @bytes are in RAM. */
void pg_mm_set_budget(struct pgmap_mm *mm, uint64_t bytes);

/** pg_mm_put_page() - An entry does not name page @pfn of the device any more:
 * its reference goes (R52). */
void pg_mm_put_page(struct pgmap_mm *mm, uint64_t pfn);
/** pg_mm_put_copy() - The same, where the entry is PRESENT. */
void pg_mm_put_copy(struct pgmap_mm *mm, uint64_t pfn);
/** pg_mm_drop_copies() - Forget the copies on the device of all pages that are
 * in RAM, to make room there. Takes LOCK_PT. Return: how many. */
size_t pg_mm_drop_copies(struct pgmap_mm *mm);

/** pg_mm_return_standby() - Give back what of [@va, @end) is in standby.
 * Holds LOCK_MM for writing. Return: 0 or -ENOMEM. */
int pg_mm_return_standby(struct pgmap_mm *mm, uintptr_t va, uintptr_t end);

/** pg_mm_load_page() - Bring the page at @va to RAM, whatever it takes. Holds
 * LOCK_MM. Return: 0; -EIO it is lost; -ENOMEM. */
int pg_mm_load_page(struct pgmap_mm *mm, uintptr_t va);
/** pg_mm_fill_hole() - A page of zeros where nothing is. Holds LOCK_MM. */
void pg_mm_fill_hole(struct pgmap_mm *mm, uintptr_t va);

/** pg_mm_find() - The range that has @va, or NULL. Holds LOCK_MM. */
const struct pg_vma *pg_mm_find(const struct pgmap_mm *mm, uintptr_t va);

/** pg_mm_next_managed() - Return: the first managed address from @va on, or
 * UINTPTR_MAX. Takes no lock; waits for whoever changes the ranges. */
uintptr_t pg_mm_next_managed(struct pgmap_mm *mm, uintptr_t va);

/** pg_mm_change_trybegin() - pgmap_mm_change_begin(), unless somebody holds
 * LOCK_MM. A fault that came during the attempt was sent away; it is woken.
 * Return: is it held now? */
bool pg_mm_change_trybegin(struct pgmap_mm *mm);

/* The functions of pgmap.h, for a caller that holds LOCK_MM for writing. What
 * somebody holds is not adopted. */
int pg_mm_adopt(struct pgmap_mm *mm, uintptr_t va, size_t nr);
int pg_mm_release(struct pgmap_mm *mm, uintptr_t va, size_t nr);
void pg_mm_remove(struct pgmap_mm *mm, uintptr_t va, size_t nr);
void pg_mm_unmap(struct pgmap_mm *mm, uintptr_t va, size_t nr);
void pg_mm_remap(struct pgmap_mm *mm, uintptr_t old, size_t old_nr,
		 uintptr_t to, size_t to_nr);

/** pg_mm_watch_again() - In a fork child: watch all ranges with the new MMU.
 * Ranges that are not there (MADV_DONTFORK) are forgotten. Holds LOCK_MM for
 * writing. Return: 0 or the first errno that is not -ENOMEM. */
int pg_mm_watch_again(struct pgmap_mm *mm);

/**
 * pg_mm_abandon() - In a fork child that cannot be managed: hand every page
 * that is away to @put, which writes it to @va, and forget all ranges.
 *
 * Nothing is watched there, so absent pages can be written like any others.
 * Holds LOCK_MM for writing. Return: 0, or the first errno of a page that
 * could not be had or written: the child must not go on.
 */
int pg_mm_abandon(struct pgmap_mm *mm, int (*put)(uintptr_t va, void *page));

/** pg_mm_gauges() - Bring the levels in mm->stat up to date. */
void pg_mm_gauges(struct pgmap_mm *mm);

/** pg_mm_used() - Pages that count against the budget. */
static inline uint64_t pg_mm_used(const struct pgmap_mm *mm)
{
	return pg_load(&mm->present, relaxed) +
	       pg_load(&mm->pool.filled, relaxed);
}

#endif
