/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pool.h - buffers between the program and the device.
 *
 * A buffer is a block's worth of pool memory. What eviction takes out of the
 * program lands in one, and waits there in standby, in the order of arrival,
 * until its turn comes to be stored; who touches it before that gets it back
 * by a move. When it has been stored, its pages stay and become the room for
 * the next load, so in steady state no page is asked from or given to the
 * kernel. Each buffer knows which of its pages are there, because they count
 * against the budget.
 */
#ifndef PG_POOL_H
#define PG_POOL_H

#include <stdbool.h>

#include "base/atomic.h"
#include "base/lock.h"
#include "core/device.h"
#include "mmu/mmu.h"

#define PG_BUF_WORDS (PGMAP_MAX_FOLIO_PAGES / 64)

/** struct pg_buf - One buffer; its holder's alone. In standby it has none:
 * then what is named by an entry belongs to who holds the LOCK_PT of @va. */
struct pg_buf {
	char *mem;
	uint32_t nr;		     /* pages in it, there or not */
	uint32_t filled;	     /* pages there */
	uint64_t bits[PG_BUF_WORDS]; /* which */
	uint32_t next;		     /* LOCK_POOL: its list, index + 1 */
	uint32_t first; /* where what pg_evict_buffer() gave begins */
	uintptr_t va;	/* standby: where page 0 belongs; LOCK_PT */
	uint64_t *copy; /* [nr] pfn of each page's copy on the device; 0 */
	/* [nr] each: scratch. */
	struct pg_device_io *io;
	struct pgmap_io *dio;
};

struct pg_pool {
	struct pg_mmu *mmu;
	char *mem;
	char *arrays; /* of the buffers */
	struct pg_buf *buf;
	uint32_t nr; /* buffers */
	uint32_t buf_pages;
	pg_atomic64 keep;    /* pages that may lie idle as room; relaxed */
	uint32_t keep_bufs;  /* ... in so many buffers; set once */
	struct pg_lock lock; /* LOCK_POOL: the lists; index + 1 each */
	uint32_t empty;	     /* buffers without a page */
	/* Buffers with pages that nobody wants: some, and all. */
	uint32_t part, full;
	uint32_t standby; /* buffers that wait to be stored; the oldest */
	uint32_t newest;  /* of them */
	/* In these lists; changed under the lock, relaxed outside it. */
	pg_atomic32 nr_room, nr_standby;
	pg_atomic64 room;	/* pages in part and full; likewise */
	pg_atomic64 filled;	/* pages there in all buffers; relaxed */
	pg_atomic32 no_recycle; /* relaxed; see pg_pool_no_recycle() */
};

/** pg_pool_init() - @nr buffers of @buf_pages.
 * @keep, @keep_bufs: Pages, and buffers, that may lie idle with pages in them.
 * Return: 0 or -ENOMEM. */
int pg_pool_init(struct pg_pool *p, struct pg_mmu *mmu, uint32_t nr,
		 uint32_t buf_pages, uint64_t keep, uint32_t keep_bufs);
void pg_pool_fini(struct pg_pool *p);
/** pg_pool_get_empty() - A buffer with no page in it. Waits for one. */
struct pg_buf *pg_pool_get_empty(struct pg_pool *p);
/** pg_pool_get_room() - A buffer with pages, or NULL if none is idle. One
 * page is taken where there are only some, many are taken together. */
struct pg_buf *pg_pool_get_room(struct pg_pool *p, uint32_t nr);
/** pg_pool_drop_room() - Give the pages of an idle buffer back to the OS.
 * Return: how many. */
uint32_t pg_pool_drop_room(struct pg_pool *p);
/** pg_pool_put() - Give a buffer back; its pages are kept for later or
 * dropped. */
void pg_pool_put(struct pg_pool *p, struct pg_buf *b);
/** pg_pool_put_empty() - As pg_pool_put(), but drop its pages. */
void pg_pool_put_empty(struct pg_pool *p, struct pg_buf *b);
/** pg_pool_put_standby() - Its pages belong to entries: queue it behind those
 * that wait. The caller's last touch of it. */
void pg_pool_put_standby(struct pg_pool *p, struct pg_buf *b);
/** pg_pool_get_standby() - The buffer that waits longest, or NULL. */
struct pg_buf *pg_pool_get_standby(struct pg_pool *p);
/** pg_pool_page() - The number of page @i of @b in the pool. */
static inline uint64_t pg_pool_page(const struct pg_pool *p,
				    const struct pg_buf *b, uint32_t i)
{
	return (uint64_t)(b - p->buf) * p->buf_pages + i;
}
/** pg_pool_buf() - The other way round: the buffer; *@i the page in it. */
static inline struct pg_buf *pg_pool_buf(const struct pg_pool *p, uint64_t page,
					 uint32_t *i)
{
	*i = (uint32_t)(page % p->buf_pages);
	return &p->buf[page / p->buf_pages];
}
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
