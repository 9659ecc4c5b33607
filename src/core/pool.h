/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pool.h - buffers between the program and the device.
 *
 * A buffer is a block's worth of pool memory. What eviction takes out of the
 * program lands in one; when it has been stored, its pages stay and become the
 * room for the next load, so in steady state no page is asked from or given
 * to the kernel. Each buffer knows which of its pages are there, because they
 * count against the budget.
 */
#ifndef PG_POOL_H
#define PG_POOL_H

#include <stdbool.h>

#include "base/atomic.h"
#include "base/lock.h"
#include "core/device.h"
#include "mmu/mmu.h"

#define PG_BUF_WORDS (PGMAP_MAX_FOLIO_PAGES / 64)

/** struct pg_buf - One buffer; its holder's alone. */
struct pg_buf {
	char *mem;
	uint32_t nr;		     /* pages in it, there or not */
	uint32_t filled;	     /* pages there */
	uint64_t bits[PG_BUF_WORDS]; /* which */
	uint32_t next;		     /* LOCK_POOL: free list, index + 1 */
	/* Scratch for whoever holds it. */
	uint32_t first; /* where what pg_evict_buffer() gave begins */
	struct pg_device_io io[PGMAP_MAX_FOLIO_PAGES];
	struct pgmap_io dio[PGMAP_MAX_FOLIO_PAGES];
	uint64_t copy[PGMAP_MAX_FOLIO_PAGES]; /* pfn of each page's copy; 0 */
};

struct pg_pool {
	struct pg_mmu *mmu;
	char *mem;
	struct pg_buf *buf;
	uint32_t nr; /* buffers */
	uint32_t buf_pages;
	uint32_t keep;		/* filled buffers that may lie idle */
	struct pg_lock lock;	/* LOCK_POOL: the lists */
	uint32_t empty;		/* buffers without a page; index + 1 */
	uint32_t full;		/* buffers with some pages */
	pg_atomic32 nr_full;	/* in that list; relaxed outside the lock */
	pg_atomic64 filled;	/* pages there in all buffers; relaxed */
	pg_atomic32 no_recycle; /* relaxed; see pg_pool_no_recycle() */
};

/** pg_pool_init() - @nr buffers of @buf_pages. Return: 0 or -ENOMEM. */
int pg_pool_init(struct pg_pool *p, struct pg_mmu *mmu, uint32_t nr,
		 uint32_t buf_pages, uint32_t keep);
void pg_pool_fini(struct pg_pool *p);
/** pg_pool_get_empty() - A buffer with no page in it. Waits for one. */
struct pg_buf *pg_pool_get_empty(struct pg_pool *p);
/** pg_pool_get_full() - A buffer with pages, or NULL if none is idle. */
struct pg_buf *pg_pool_get_full(struct pg_pool *p);
/** pg_pool_put() - Give a buffer back; its pages are kept for later or
 * dropped. */
void pg_pool_put(struct pg_pool *p, struct pg_buf *b);
/** pg_pool_put_empty() - As pg_pool_put(), but drop its pages. */
void pg_pool_put_empty(struct pg_pool *p, struct pg_buf *b);
/** pg_buf_choose() - Set @b->first so that as many as can be of @nr pages from
 * there on are present. */
void pg_buf_choose(struct pg_buf *b, uint32_t nr);
/** pg_buf_at() - The memory of page @first + @i. */
static inline char *pg_buf_at(const struct pg_buf *b, size_t i)
{
	return b->mem + (b->first + i) * PG_PAGE_SIZE;
}
/** pg_buf_fill() - Make @nr pages from @first on present. Return: 0 or -ENOMEM.
 */
int pg_buf_fill(struct pg_pool *p, struct pg_buf *b, uint32_t nr);
/** pg_buf_missing() - How many of @nr pages from @first on are absent. */
uint32_t pg_buf_missing(const struct pg_buf *b, uint32_t nr);
/** pg_buf_mark() - @nr pages from @first + @i on came or went. */
void pg_buf_mark(struct pg_pool *p, struct pg_buf *b, uint32_t i, uint32_t nr,
		 bool there);
/** pg_pool_no_recycle() - From now on a page that left the program is given
 * back to the kernel and never reused: something outside (a pipe, a socket)
 * may still read it (N61). */
void pg_pool_no_recycle(struct pg_pool *p);

#endif
