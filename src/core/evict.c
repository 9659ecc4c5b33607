/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/evict.h"

#include <errno.h>
#include <string.h>

#include "base/bug.h"
#include "base/mem.h"
#include "base/mutant.h"
#include "core/migrate.h"
#include "core/mm.h"

/* Blocks that keep pages, tried in one go: a fault must not wait for a long
 * row of pages that cannot leave. */
#define MOST_BLOCKS ((size_t)64)
/* Rounds of eviction for one buffer before the budget is exceeded. */
#define TRIES 64
/* Faults that go above the budget before one of them tries to evict again. */
#define HOPELESS_FAULTS 64u

int pg_queue_init(struct pg_queue *q, size_t size)
{
	q->ring = pg_mem_map(size * sizeof(*q->ring));
	q->size = size;
	return q->ring ? 0 : -ENOMEM;
}

void pg_queue_fini(struct pg_queue *q)
{
	pg_mem_unmap(q->ring, q->size * sizeof(*q->ring));
	q->ring = NULL;
}

size_t pg_queue_length(struct pg_queue *q)
{
	size_t n;

	pg_lock(&q->lock, LOCK_EVICT);
	n = q->tail - q->head;
	pg_unlock(&q->lock, LOCK_EVICT);
	return n;
}

/* Holds LOCK_EVICT. Without memory for a longer queue the block is left out:
 * its next fault brings it in again. */
static bool grow(struct pg_queue *q)
{
	uintptr_t *ring = pg_mem_map(2 * q->size * sizeof(*ring));

	if (!ring)
		return false;
	for (size_t i = q->head; i != q->tail; i++)
		ring[i & (2 * q->size - 1)] = q->ring[i & (q->size - 1)];
	pg_mem_unmap(q->ring, q->size * sizeof(*ring));
	q->ring = ring;
	q->size *= 2;
	return true;
}

void pg_evict_note(struct pgmap_mm *mm, uintptr_t va)
{
	struct pg_queue *q = &mm->queue;
	uintptr_t block = pg_block_of(mm, va);
	uint8_t *queued;

	pg_lock(&q->lock, LOCK_EVICT);
	queued = pg_pt_queued(&mm->pt, block);
	if (!*queued && (q->tail - q->head < q->size || grow(q))) {
		q->ring[q->tail++ & (q->size - 1)] = block;
		*queued = 1;
	}
	pg_unlock(&q->lock, LOCK_EVICT);
}

static bool pop(struct pgmap_mm *mm, uintptr_t *block)
{
	struct pg_queue *q = &mm->queue;
	bool any;

	pg_lock(&q->lock, LOCK_EVICT);
	any = q->head != q->tail;
	if (any) {
		*block = q->ring[q->head++ & (q->size - 1)];
		*pg_pt_queued(&mm->pt, *block) = 0;
	}
	pg_unlock(&q->lock, LOCK_EVICT);
	return any;
}

static bool has_present(struct pgmap_mm *mm, uintptr_t block)
{
	for (size_t i = 0; i < pg_block_pages(mm); i++)
		if (pg_pte_state(
			    pg_pte_read(&mm->pt, block + i * PG_PAGE_SIZE)) ==
		    PG_PTE_PRESENT)
			return true;
	return false;
}

size_t pg_evict(struct pgmap_mm *mm, size_t nr)
{
	size_t n = pg_queue_length(&mm->queue), left = 0, kept = 0;
	uintptr_t block;

	/* A block without a page, or that goes, costs little: not counted. */
	for (; n && left < nr && kept < MOST_BLOCKS; n--) {
		size_t moved;

		if (!pop(mm, &block))
			break;
		moved = pg_migrate_to_device(mm, block, pg_block_pages(mm),
					     false);
		left += moved;
		pg_count(&mm->stat, evictions, moved);
		if (!has_present(mm, block))
			continue;
		pg_evict_note(mm, block);
		kept++;
	}
	return left;
}

size_t pg_evict_ahead(struct pgmap_mm *mm)
{
	uint64_t budget = pg_load(&mm->budget, relaxed);
	uint64_t used = pg_mm_used(mm);
	size_t moved;

	if (used + 2 * pg_block_pages(mm) <= budget ||
	    (used <= budget &&
	     pg_load(&mm->pool.nr_full, relaxed) >= mm->pool.keep / 2))
		return 0;
	/* Never wait for a writer: it may be waiting for our thread. */
	if (!pg_read_trylock(&mm->lock, LOCK_MM))
		return 0;
	moved = pg_evict(mm, pg_block_pages(mm));
	if (moved)
		pg_store(&mm->hopeless, 0, relaxed);
	pg_read_unlock(&mm->lock, LOCK_MM);
	return moved;
}

/* When nothing could leave, faults do not try again for a while; the evicting
 * thread does. */
static size_t evict_unless_hopeless(struct pgmap_mm *mm, size_t nr)
{
	uint32_t left = pg_load(&mm->hopeless, relaxed);
	size_t moved;

	if (left) {
		pg_store(&mm->hopeless, left - 1, relaxed);
		return 0;
	}
	moved = pg_evict(mm, nr);
	if (!moved)
		pg_store(&mm->hopeless, HOPELESS_FAULTS, relaxed);
	return moved;
}

struct pg_buf *pg_evict_buffer(struct pgmap_mm *mm, uint32_t nr)
{
	struct pg_pool *pool = &mm->pool;
	struct pg_buf *b;

	for (int i = 0;; i++) {
		uint32_t missing;

		b = pg_pool_get_full(pool);
		if (b)
			pg_buf_choose(b, nr);
		missing = b ? pg_buf_missing(b, nr) : nr;
		if (!missing ||
		    pg_mm_used(mm) + missing <= pg_load(&mm->budget, relaxed) ||
		    pg_mutant("budget_is_not_looked_at"))
			break;
		if (i == TRIES && pg_mutant("budget_stops_loads"))
			return NULL;
		if (i == TRIES || mm->releasing)
			break;
		if (b)
			pg_pool_put_empty(pool, b);
		b = NULL;
		if (!evict_unless_hopeless(mm, missing))
			i = TRIES - 1; /* nothing can leave: go above it */
	}
	if (!b)
		b = pg_pool_get_empty(pool);
	if (pg_buf_fill(pool, b, nr)) {
		pg_pool_put(pool, b);
		return NULL;
	}
	return b;
}
