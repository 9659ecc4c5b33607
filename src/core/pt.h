/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pt.h - the page table: what is behind an address, where it is not ordinary.
 *
 * Two levels: a directory, and a leaf for each gigabyte in use, both zeroed
 * and backed where touched. A zeroed entry is a hole. Entries change under
 * LOCK_PT, one lock for each 2 MB region (hashed); reading one without it is a
 * hint. Nothing here spans a 2 MB boundary.
 *
 * This file is also core's one door to the MMU.
 */
#ifndef PG_PT_H
#define PG_PT_H

#include "base/atomic.h"
#include "base/lock.h"
#include "mmu/mmu.h"

#define PG_REGION_SIZE ((uintptr_t)1 << 21)
#define PG_REGION_PAGES 512u

/** enum pg_pte_state - Low bits of an entry. */
enum pg_pte_state {
	PG_PTE_HOLE = 0,      /* never touched, or dropped */
	PG_PTE_PRESENT = 1,   /* the kernel has the page; bits 12..: pfn of a
			       * copy that was the same when the page came, or
			       * 0; holds a folio reference */
	PG_PTE_DEVICE = 2,    /* bits 12..: pfn; holds a folio reference */
	PG_PTE_MIGRATING = 3, /* bits 12..: token of who moves it */
	PG_PTE_POISON = 4,    /* contents are lost */
	PG_PTE_STANDBY = 5    /* on the way out, but still to be had: bits 12..:
			       * number of the page in the pool */
};
#define PG_PTE_STATE 7u
/** A fault waits for the migration to end: wake when it does. */
#define PG_PTE_WAITED 8u
/** Of a present page: it could not leave when it was to. */
#define PG_PTE_STUCK 16u
/** Of a present page: it is a coherent unit's (unit.h), and the pfn is not that
 * of a copy but of the folio that stands for it. */
#define PG_PTE_COHERENT 32u

typedef uint64_t pg_pte_t;

static inline enum pg_pte_state pg_pte_state(pg_pte_t e)
{
	return (enum pg_pte_state)(e & PG_PTE_STATE);
}

/** pg_pte_value() - The pfn or token of an entry. */
static inline uint64_t pg_pte_value(pg_pte_t e)
{
	return e >> 12;
}

/** pg_pte_flags() - An entry without its pfn or token. */
static inline pg_pte_t pg_pte_flags(pg_pte_t e)
{
	return e & ((1u << 12) - 1);
}

static inline pg_pte_t pg_pte_make(enum pg_pte_state state, uint64_t value)
{
	return value << 12 | state;
}

#define PG_LEAF_SHIFT 18 /* pages a leaf covers: 1 GB */
#define PG_NR_LEAVES ((size_t)1 << (47 - PG_PAGE_SHIFT - PG_LEAF_SHIFT))
#define PG_NR_PT_LOCKS 256u

struct pg_leaf {
	pg_atomic64 pte[(size_t)1 << PG_LEAF_SHIFT]; /* LOCK_PT to write */
	/* Entries of each region that are not holes. LOCK_PT. */
	uint16_t used[((size_t)1 << PG_LEAF_SHIFT) / PG_REGION_PAGES];
	/* Regions that ever had an entry: their part of pte is backed. LOCK_PT.
	 */
	bool touched[((size_t)1 << PG_LEAF_SHIFT) / PG_REGION_PAGES];
	/* Of the block that starts here: whether it is in an eviction queue,
	 * or when it left (evict.c). LOCK_EVICT. */
	uint8_t queued[(size_t)1 << PG_LEAF_SHIFT];
};

struct pg_pt {
	pg_atomic64 nr_touched;		 /* regions, in all leaves; relaxed */
	_Atomic(struct pg_leaf *) *leaf; /* NR_LEAVES; set once each, release */
	struct pg_lock lock[PG_NR_PT_LOCKS];
};

/** pg_pt_init() - Return: 0 or -ENOMEM. */
int pg_pt_init(struct pg_pt *pt);
void pg_pt_fini(struct pg_pt *pt);
/** pg_pt_populate() - Make the leaves for a range. Holds LOCK_MM for writing.
 * Return: 0 or -ENOMEM. */
int pg_pt_populate(struct pg_pt *pt, uintptr_t va, size_t nr);
void pg_pt_lock(struct pg_pt *pt, uintptr_t va);
void pg_pt_unlock(struct pg_pt *pt, uintptr_t va);
/** pg_pte_at() - The entry of @va; its leaf must exist. */
pg_atomic64 *pg_pte_at(struct pg_pt *pt, uintptr_t va);
/** pg_pte_read() - The entry of @va as of now; a hole without a leaf. */
pg_pte_t pg_pte_read(struct pg_pt *pt, uintptr_t va);
/** pg_pte_is() - Is the entry of @va in that state now? */
static inline bool pg_pte_is(struct pg_pt *pt, uintptr_t va,
			     enum pg_pte_state state)
{
	return pg_pte_state(pg_pte_read(pt, va)) == state;
}
/** pg_pte_write() - Change an entry. Holds LOCK_PT. */
void pg_pte_write(struct pg_pt *pt, uintptr_t va, pg_pte_t e);
/** pg_pt_used() - Entries of the region of @va that are no holes. Holds
 * LOCK_PT. */
unsigned int pg_pt_used(struct pg_pt *pt, uintptr_t va);
/** pg_pt_queued() - The queue mark of the block at @va. Holds LOCK_EVICT. */
uint8_t *pg_pt_queued(struct pg_pt *pt, uintptr_t va);

/* The MMU, as in mmu.h; -EAGAIN is retried here for a while. */
int pg_mmu_take(struct pg_mmu *m, uintptr_t va, void *buf, size_t nr,
		size_t *done);
int pg_mmu_give(struct pg_mmu *m, uintptr_t va, void *buf, size_t nr,
		size_t *done);
int pg_mmu_zero(struct pg_mmu *m, uintptr_t va, size_t nr, size_t *done);
int pg_mmu_poison(struct pg_mmu *m, uintptr_t va, size_t nr);
void pg_mmu_wake(struct pg_mmu *m, uintptr_t va, size_t nr);
int pg_mmu_present(struct pg_mmu *m, uintptr_t va, size_t nr, uint64_t *bits);
int pg_mmu_look(struct pg_mmu *m, uintptr_t va, size_t nr, uint16_t *bits);
int pg_mmu_populate(struct pg_mmu *m, uintptr_t va, size_t nr, bool write);
int pg_mmu_watch(struct pg_mmu *m, uintptr_t va, size_t nr);
void pg_mmu_unwatch(struct pg_mmu *m, uintptr_t va, size_t nr);
void *pg_mmu_pool_map(struct pg_mmu *m, size_t nr);
size_t pg_mmu_absent(struct pg_mmu *m, uintptr_t va, size_t nr);
void pg_mmu_pool_unmap(struct pg_mmu *m, void *buf, size_t nr);
int pg_mmu_pool_fill(struct pg_mmu *m, void *buf, size_t nr);
void pg_mmu_pool_drop(struct pg_mmu *m, void *buf, size_t nr);

#endif
