/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/pool.h"

#include <errno.h>

#include "base/bug.h"
#include "base/mem.h"
#include "base/mutant.h"
#include "core/pt.h"

int pg_pool_init(struct pg_pool *p, struct pg_mmu *mmu, uint32_t nr,
		 uint32_t buf_pages, uint32_t keep)
{
	p->mmu = mmu;
	p->nr = nr;
	p->buf_pages = buf_pages;
	p->keep = keep;
	p->buf = pg_mem_map(nr * sizeof(*p->buf));
	if (!p->buf)
		return -ENOMEM;
	p->mem = pg_mmu_pool_map(mmu, (size_t)nr * buf_pages);
	if (!p->mem) {
		pg_mem_unmap(p->buf, nr * sizeof(*p->buf));
		p->buf = NULL;
		return -ENOMEM;
	}
	for (uint32_t i = nr; i-- > 0;) {
		p->buf[i].mem = p->mem + (size_t)i * buf_pages * PG_PAGE_SIZE;
		p->buf[i].nr = buf_pages;
		p->buf[i].next = p->empty;
		p->empty = i + 1;
	}
	return 0;
}

void pg_pool_fini(struct pg_pool *p)
{
	if (!p->buf)
		return;
	pg_mmu_pool_unmap(p->mmu, p->mem, (size_t)p->nr * p->buf_pages);
	pg_mem_unmap(p->buf, p->nr * sizeof(*p->buf));
	p->buf = NULL;
}

static struct pg_buf *pop(struct pg_pool *p, uint32_t *list)
{
	struct pg_buf *b;

	if (!*list)
		return NULL;
	b = &p->buf[*list - 1];
	*list = b->next;
	return b;
}

static void push(struct pg_pool *p, uint32_t *list, struct pg_buf *b)
{
	b->next = *list;
	*list = (uint32_t)(b - p->buf) + 1;
}

static void drop_pages(struct pg_pool *p, struct pg_buf *b)
{
	if (b->filled)
		pg_mmu_pool_drop(p->mmu, b->mem, b->nr);
	b->first = 0;
	pg_buf_mark(p, b, 0, b->nr, false);
}

struct pg_buf *pg_pool_get_full(struct pg_pool *p)
{
	struct pg_buf *b;

	pg_lock(&p->lock, LOCK_POOL);
	b = pop(p, &p->full);
	if (b)
		pg_fetch_sub(&p->nr_full, 1, relaxed);
	pg_unlock(&p->lock, LOCK_POOL);
	return b;
}

struct pg_buf *pg_pool_get_empty(struct pg_pool *p)
{
	for (;;) {
		struct pg_buf *b;

		pg_lock(&p->lock, LOCK_POOL);
		b = pop(p, &p->empty);
		pg_unlock(&p->lock, LOCK_POOL);
		if (b) {
			b->first = 0;
			return b;
		}
		b = pg_pool_get_full(p);
		if (b) {
			drop_pages(p, b);
			return b;
		}
		/* All are in somebody's hands, who wait for nobody here. */
		pg_yield();
	}
}

static void put(struct pg_pool *p, struct pg_buf *b, bool keep)
{
	if (!keep)
		drop_pages(p, b);
	pg_lock(&p->lock, LOCK_POOL);
	push(p, keep ? &p->full : &p->empty, b);
	if (keep)
		pg_fetch_add(&p->nr_full, 1, relaxed);
	pg_unlock(&p->lock, LOCK_POOL);
}

void pg_pool_put(struct pg_pool *p, struct pg_buf *b)
{
	put(p, b,
	    b->filled && !pg_load(&p->no_recycle, relaxed) &&
		    pg_load(&p->nr_full, relaxed) < p->keep);
}

void pg_pool_put_empty(struct pg_pool *p, struct pg_buf *b)
{
	put(p, b, false);
}

static bool is_there(const struct pg_buf *b, uint32_t i)
{
	return b->bits[i / 64] >> (i % 64) & 1;
}

uint32_t pg_buf_missing(const struct pg_buf *b, uint32_t nr)
{
	uint32_t n = 0;

	if (b->filled == b->nr)
		return 0;
	for (uint32_t i = b->first; i < b->first + nr; i++)
		n += !is_there(b, i);
	return n;
}

void pg_buf_choose(struct pg_buf *b, uint32_t nr)
{
	uint32_t there = 0, most = 0, first = 0;

	for (uint32_t i = 0; i < b->nr && most < nr; i++) {
		there += is_there(b, i);
		if (i >= nr)
			there -= is_there(b, i - nr);
		if (i + 1 >= nr && there > most) {
			most = there;
			first = i + 1 - nr;
		}
	}
	b->first = pg_mutant("room_from_the_start") ? 0 : first;
}

int pg_buf_fill(struct pg_pool *p, struct pg_buf *b, uint32_t nr)
{
	int ret;

	if (!pg_buf_missing(b, nr))
		return 0;
	ret = pg_mmu_pool_fill(p->mmu, pg_buf_at(b, 0), nr);
	if (!ret)
		pg_buf_mark(p, b, 0, nr, true);
	return ret;
}

void pg_buf_mark(struct pg_pool *p, struct pg_buf *b, uint32_t i, uint32_t nr,
		 bool there)
{
	uint32_t was = b->filled;

	for (i += b->first; nr--; i++) {
		if (is_there(b, i) == there)
			continue;
		b->bits[i / 64] ^= (uint64_t)1 << (i % 64);
		b->filled += there ? 1u : -1u;
	}
	pg_fetch_add(&p->filled, (uint64_t)b->filled - was, relaxed);
}

void pg_pool_no_recycle(struct pg_pool *p)
{
	if (!pg_mutant("recycle_spliced_pages"))
		pg_store(&p->no_recycle, 1, relaxed);
}
