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

/*
 * What pg_pt_queued() says of a block: nothing is known (0), it is in a queue,
 * or the epoch in which it left, modulo the room in a byte. An epoch ends when
 * a sixteenth of the budget has left, so a mark is young for a budget; it is
 * taken for young again after fifteen.
 */
#define QUEUED 1u
#define FIRST_MARK 2u
#define NR_MARKS (256u - FIRST_MARK)
#define YOUNG 16u

static int ring_init(struct pg_ring *r, size_t size)
{
	r->block = pg_mem_map(size * sizeof(*r->block));
	r->size = size;
	return r->block ? 0 : -ENOMEM;
}

static void ring_fini(struct pg_ring *r)
{
	pg_mem_unmap(r->block, r->size * sizeof(*r->block));
	r->block = NULL;
}

static size_t ring_length(const struct pg_ring *r)
{
	return r->tail - r->head;
}

static bool ring_grow(struct pg_ring *r)
{
	uintptr_t *block = pg_mem_map(2 * r->size * sizeof(*block));

	if (!block)
		return false;
	for (size_t i = r->head; i != r->tail; i++)
		block[i & (2 * r->size - 1)] = r->block[i & (r->size - 1)];
	pg_mem_unmap(r->block, r->size * sizeof(*block));
	r->block = block;
	r->size *= 2;
	return true;
}

/* Return: false without memory for a longer ring. */
static bool ring_push(struct pg_ring *r, uintptr_t block)
{
	if (ring_length(r) == r->size && !ring_grow(r))
		return false;
	r->block[r->tail++ & (r->size - 1)] = block;
	return true;
}

static uintptr_t ring_first(const struct pg_ring *r)
{
	return r->block[r->head & (r->size - 1)];
}

int pg_queue_init(struct pg_queue *q, size_t size)
{
	int ret = ring_init(&q->fresh, size);

	return ret ? ret : ring_init(&q->again, size);
}

void pg_queue_fini(struct pg_queue *q)
{
	ring_fini(&q->fresh);
	ring_fini(&q->again);
}

size_t pg_queue_length(struct pg_queue *q)
{
	size_t n;

	pg_lock(&q->lock, LOCK_EVICT);
	n = ring_length(&q->fresh) + ring_length(&q->again);
	pg_unlock(&q->lock, LOCK_EVICT);
	return n;
}

/* Is neither page beside it there, in its block? */
static bool is_alone(struct pgmap_mm *mm, uintptr_t va)
{
	uintptr_t before = va - PG_PAGE_SIZE, after = va + PG_PAGE_SIZE;
	uintptr_t block = pg_block_of(mm, va);

	return !(pg_block_of(mm, before) == block &&
		 pg_pte_is(&mm->pt, before, PG_PTE_PRESENT)) &&
	       !(pg_block_of(mm, after) == block &&
		 pg_pte_is(&mm->pt, after, PG_PTE_PRESENT));
}

static bool is_young(const struct pg_queue *q, uint8_t mark)
{
	return mark >= FIRST_MARK &&
	       ((q->epoch + NR_MARKS - (mark - FIRST_MARK)) % NR_MARKS <=
			YOUNG ||
		pg_mutant("marks_stay_young"));
}

void pg_evict_note(struct pgmap_mm *mm, uintptr_t va)
{
	struct pg_queue *q = &mm->queue;
	uintptr_t block = pg_block_of(mm, va);
	uint8_t *queued;

	pg_lock(&q->lock, LOCK_EVICT);
	queued = pg_pt_queued(&mm->pt, block);
	/* Without memory for a longer queue the block is left out: its next
	 * fault brings it in again. */
	if (*queued != QUEUED) {
		bool again = is_young(q, *queued) &&
			     (is_alone(mm, va) ||
			      pg_mutant("runs_count_as_used_again")) &&
			     !pg_mutant("nothing_is_used_again");

		if (ring_push(again ? &q->again : &q->fresh, block))
			*queued = QUEUED;
	}
	pg_unlock(&q->lock, LOCK_EVICT);
}

static bool pop(struct pgmap_mm *mm, uintptr_t *block)
{
	struct pg_queue *q = &mm->queue;
	struct pg_ring *r = &q->fresh;
	bool any;

	pg_lock(&q->lock, LOCK_EVICT);
	while (ring_length(&q->again) > ring_length(&q->fresh) &&
	       !pg_mutant("used_again_may_be_all") &&
	       ring_push(&q->fresh, ring_first(&q->again)))
		q->again.head++;
	if (!ring_length(r))
		r = &q->again;
	any = ring_length(r);
	if (any) {
		*block = ring_first(r);
		r->head++;
		*pg_pt_queued(&mm->pt, *block) =
			(uint8_t)(FIRST_MARK + q->epoch);
	}
	pg_unlock(&q->lock, LOCK_EVICT);
	return any;
}

static void count_left(struct pgmap_mm *mm, size_t nr)
{
	struct pg_queue *q = &mm->queue;

	pg_lock(&q->lock, LOCK_EVICT);
	q->left += nr;
	if (nr && q->left >= pg_load(&mm->budget, relaxed) / YOUNG) {
		q->left = 0;
		q->epoch = (q->epoch + 1) % NR_MARKS;
	}
	pg_unlock(&q->lock, LOCK_EVICT);
}

static bool has_present(struct pgmap_mm *mm, uintptr_t block)
{
	for (size_t i = 0; i < pg_block_pages(mm); i++)
		if (pg_pte_is(&mm->pt, block + i * PG_PAGE_SIZE,
			      PG_PTE_PRESENT))
			return true;
	return false;
}

static bool standby_is_full(const struct pgmap_mm *mm)
{
	uint64_t nr = pg_load(&mm->standby, relaxed);

	/* The budget may have become less. */
	return nr >= mm->standby_pages ||
	       nr >= pg_load(&mm->budget, relaxed) / 8 ||
	       pg_load(&mm->pool.nr_standby, relaxed) >= mm->standby_bufs;
}

/* The block that came first goes to standby. False: there is none. */
static bool take_out(struct pgmap_mm *mm, size_t *taken, size_t *kept)
{
	uintptr_t block;
	size_t nr;

	if (!pop(mm, &block))
		return false;
	nr = pg_migrate_to_standby(mm, block);
	*taken += nr;
	count_left(mm, nr);
	if (has_present(mm, block)) {
		pg_evict_note(mm, block);
		(*kept)++;
	}
	return true;
}

/* What waits longest in standby is stored. False: nothing waits. */
static bool settle(struct pgmap_mm *mm, size_t *left, size_t *kept)
{
	struct pg_settled s;

	if (!pg_migrate_standby_to_device(mm, &s))
		return false;
	*left += s.room;
	pg_count(&mm->stat, evictions, s.moved);
	/* A buffer whose pages were all touched is nobody's failure. */
	*kept += !s.moved && (s.waited || pg_mutant("empty_buffers_count"));
	return true;
}

size_t pg_evict(struct pgmap_mm *mm, size_t nr)
{
	size_t n = pg_queue_length(&mm->queue);
	size_t taken = 0, left = 0, kept = 0;

	/* A block without a page, or that goes, costs little: not counted.
	 * Standby fills by and by: whoever wants LOCK_MM must not wait long. */
	while (left < nr && kept < MOST_BLOCKS) {
		if ((standby_is_full(mm) ||
		     (taken >= 2 * nr &&
		      !pg_mutant("standby_is_filled_first"))) &&
		    settle(mm, &left, &kept))
			continue;
		if (n && take_out(mm, &taken, &kept)) {
			n--;
			continue;
		}
		if (!settle(mm, &left, &kept))
			break;
	}
	return left;
}

size_t pg_evict_ahead(struct pgmap_mm *mm)
{
	uint64_t budget = pg_load(&mm->budget, relaxed);
	uint64_t used = pg_mm_used(mm);
	uint64_t keep = pg_load(&mm->pool.keep, relaxed);
	size_t moved;

	if (used + 2 * pg_block_pages(mm) <= budget ||
	    (used <= budget && pg_load(&mm->pool.room, relaxed) >= keep / 2))
		return 0;
	/* Never wait for a writer: it may be waiting for our thread. */
	if (!pg_read_trylock(&mm->lock, LOCK_MM))
		return 0;
	/* The budget has become less, and it is not room that is missing. */
	if (used > budget && pg_load(&mm->pool.room, relaxed) > keep &&
	    !pg_mutant("room_of_the_old_budget_stays"))
		moved = pg_pool_drop_room(&mm->pool);
	else
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

		b = pg_pool_get_room(pool, nr);
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
