/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/pt.h"

#include <errno.h>

#include "base/bug.h"
#include "base/mem.h"

/* How often a lost race is tried again before the caller hears of it. */
#define TRIES 64

int pg_pt_init(struct pg_pt *pt)
{
	pt->leaf = pg_mem_map(PG_NR_LEAVES * sizeof(*pt->leaf));
	return pt->leaf ? 0 : -ENOMEM;
}

void pg_pt_fini(struct pg_pt *pt)
{
	if (!pt->leaf)
		return;
	for (size_t i = 0; i < PG_NR_LEAVES; i++)
		pg_mem_unmap(pg_load(&pt->leaf[i], relaxed),
			     sizeof(struct pg_leaf));
	pg_mem_unmap(pt->leaf, PG_NR_LEAVES * sizeof(*pt->leaf));
	pt->leaf = NULL;
}

static size_t leaf_of(uintptr_t va)
{
	size_t i = va >> (PG_PAGE_SHIFT + PG_LEAF_SHIFT);

	pg_bug_on(i >= PG_NR_LEAVES);
	return i;
}

static size_t in_leaf(uintptr_t va)
{
	return (va >> PG_PAGE_SHIFT) & (((size_t)1 << PG_LEAF_SHIFT) - 1);
}

int pg_pt_populate(struct pg_pt *pt, uintptr_t va, size_t nr)
{
	size_t last;

	if (!nr)
		return 0;
	last = leaf_of(va + (nr - 1) * PG_PAGE_SIZE);
	for (size_t i = leaf_of(va); i <= last; i++) {
		struct pg_leaf *leaf;

		if (pg_load(&pt->leaf[i], relaxed))
			continue;
		leaf = pg_mem_map(sizeof(*leaf));
		if (!leaf)
			return -ENOMEM;
		/* Partner: the acquire in find(). */
		pg_store(&pt->leaf[i], leaf, release);
	}
	return 0;
}

static struct pg_lock *lock_of(struct pg_pt *pt, uintptr_t va)
{
	return &pt->lock[va / PG_REGION_SIZE % PG_NR_PT_LOCKS];
}

void pg_pt_lock(struct pg_pt *pt, uintptr_t va)
{
	pg_lock(lock_of(pt, va), LOCK_PT);
}

void pg_pt_unlock(struct pg_pt *pt, uintptr_t va)
{
	pg_unlock(lock_of(pt, va), LOCK_PT);
}

static struct pg_leaf *find(struct pg_pt *pt, uintptr_t va)
{
	return pg_load(&pt->leaf[leaf_of(va)], acquire);
}

pg_atomic64 *pg_pte_at(struct pg_pt *pt, uintptr_t va)
{
	return &find(pt, va)->pte[in_leaf(va)];
}

pg_pte_t pg_pte_read(struct pg_pt *pt, uintptr_t va)
{
	struct pg_leaf *leaf = find(pt, va);

	return leaf ? pg_load(&leaf->pte[in_leaf(va)], relaxed) : PG_PTE_HOLE;
}

void pg_pte_write(struct pg_pt *pt, uintptr_t va, pg_pte_t e)
{
	struct pg_leaf *leaf = find(pt, va);
	size_t region = in_leaf(va) / PG_REGION_PAGES;
	pg_pte_t old = pg_load(&leaf->pte[in_leaf(va)], relaxed);

	pg_assert(pg_lock_held(LOCK_PT));
	leaf->used[region] +=
		(uint16_t)((e != PG_PTE_HOLE) - (old != PG_PTE_HOLE));
	if (!leaf->touched[region]) {
		leaf->touched[region] = true;
		pg_fetch_add(&pt->nr_touched, 1, relaxed);
	}
	pg_store(&leaf->pte[in_leaf(va)], e, relaxed);
}

unsigned int pg_pt_used(struct pg_pt *pt, uintptr_t va)
{
	return find(pt, va)->used[in_leaf(va) / PG_REGION_PAGES];
}

uint8_t *pg_pt_queued(struct pg_pt *pt, uintptr_t va)
{
	return &find(pt, va)->queued[in_leaf(va)];
}

/* A range operation, tried again where it lost a race. */
#define RANGE_OP(op, m, va, buf, nr, done)                                     \
	do {                                                                   \
		int ret_;                                                      \
                                                                               \
		*(done) = 0;                                                   \
		for (int try_ = 0; try_ < TRIES; try_++) {                     \
			size_t part_ = 0;                                      \
                                                                               \
			ret_ = (op);                                           \
			*(done) += part_;                                      \
			if (ret_ != -EAGAIN)                                   \
				break;                                         \
			if (!part_)                                            \
				pg_yield();                                    \
		}                                                              \
		return ret_;                                                   \
	} while (0)

int pg_mmu_take(struct pg_mmu *m, uintptr_t va, void *buf, size_t nr,
		size_t *done)
{
	RANGE_OP(m->ops->take(m, va + *done * PG_PAGE_SIZE,
			      (char *)buf + *done * PG_PAGE_SIZE, nr - *done,
			      &part_),
		 m, va, buf, nr, done);
}

int pg_mmu_give(struct pg_mmu *m, uintptr_t va, void *buf, size_t nr,
		size_t *done)
{
	RANGE_OP(m->ops->give(m, va + *done * PG_PAGE_SIZE,
			      (char *)buf + *done * PG_PAGE_SIZE, nr - *done,
			      &part_),
		 m, va, buf, nr, done);
}

int pg_mmu_zero(struct pg_mmu *m, uintptr_t va, size_t nr, size_t *done)
{
	RANGE_OP(m->ops->zero(m, va + *done * PG_PAGE_SIZE, nr - *done, &part_),
		 m, va, NULL, nr, done);
}

int pg_mmu_poison(struct pg_mmu *m, uintptr_t va, size_t nr)
{
	return m->ops->poison(m, va, nr);
}

void pg_mmu_wake(struct pg_mmu *m, uintptr_t va, size_t nr)
{
	m->ops->wake(m, va, nr);
}

int pg_mmu_present(struct pg_mmu *m, uintptr_t va, size_t nr, uint64_t *bits)
{
	return m->ops->present(m, va, nr, bits);
}

size_t pg_mmu_absent(struct pg_mmu *m, uintptr_t va, size_t nr)
{
	return m->ops->absent(m, va, nr);
}

int pg_mmu_look(struct pg_mmu *m, uintptr_t va, size_t nr, uint16_t *bits)
{
	return m->ops->look(m, va, nr, bits);
}

int pg_mmu_populate(struct pg_mmu *m, uintptr_t va, size_t nr, bool write)
{
	return m->ops->populate(m, va, nr, write);
}

int pg_mmu_watch(struct pg_mmu *m, uintptr_t va, size_t nr)
{
	return m->ops->watch(m, va, nr);
}

void pg_mmu_unwatch(struct pg_mmu *m, uintptr_t va, size_t nr)
{
	m->ops->unwatch(m, va, nr);
}

void *pg_mmu_pool_map(struct pg_mmu *m, size_t nr)
{
	return m->ops->pool_map(m, nr);
}

void pg_mmu_pool_unmap(struct pg_mmu *m, void *buf, size_t nr)
{
	m->ops->pool_unmap(m, buf, nr);
}

int pg_mmu_pool_fill(struct pg_mmu *m, void *buf, size_t nr)
{
	return m->ops->pool_fill(m, buf, nr);
}

void pg_mmu_pool_drop(struct pg_mmu *m, void *buf, size_t nr)
{
	m->ops->pool_drop(m, buf, nr);
}
