/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/pool.h"

#include <errno.h>

#include "base/bug.h"
#include "base/mem.h"
#include "base/mutant.h"
#include "core/pt.h"

/* Bytes of the arrays that belong to a buffer. */
static size_t arrays_size(const struct pg_pool *p)
{
	const struct pg_buf *b = p->buf;

	return p->buf_pages *
	       (sizeof(*b->copy) + sizeof(*b->io) + sizeof(*b->dio));
}

int pg_pool_init(struct pg_pool *p, struct pg_mmu *mmu, uint32_t nr,
		 uint32_t buf_pages, uint64_t keep, uint32_t keep_bufs)
{
	char *arrays;

	p->mmu = mmu;
	p->nr = nr;
	p->buf_pages = buf_pages;
	pg_store(&p->keep, keep, relaxed);
	p->keep_bufs = keep_bufs;
	p->buf = pg_mem_map(nr * sizeof(*p->buf));
	p->arrays = arrays = pg_mem_map(nr * arrays_size(p));
	p->mem = pg_mmu_pool_map(mmu, (size_t)nr * buf_pages);
	if (!p->buf || !p->arrays || !p->mem) {
		pg_pool_fini(p);
		return -ENOMEM;
	}
	for (uint32_t i = nr; i-- > 0;) {
		struct pg_buf *b = &p->buf[i];
		char *a = arrays + i * arrays_size(p);

		b->mem = p->mem + (size_t)i * buf_pages * PG_PAGE_SIZE;
		b->nr = buf_pages;
		b->copy = (uint64_t *)(void *)a;
		b->io = (struct pg_device_io *)(void *)(b->copy + buf_pages);
		b->dio = (struct pgmap_io *)(void *)(b->io + buf_pages);
		b->next = p->empty;
		p->empty = i + 1;
	}
	return 0;
}

void pg_pool_fini(struct pg_pool *p)
{
	if (p->mem)
		pg_mmu_pool_unmap(p->mmu, p->mem, (size_t)p->nr * p->buf_pages);
	pg_mem_unmap(p->arrays, p->nr * arrays_size(p));
	pg_mem_unmap(p->buf, p->nr * sizeof(*p->buf));
	p->buf = NULL;
	p->mem = p->arrays = NULL;
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

struct pg_buf *pg_pool_get_room(struct pg_pool *p, uint32_t nr)
{
	struct pg_buf *b;

	pg_lock(&p->lock, LOCK_POOL);
	b = pop(p, nr > 1 ? &p->full : &p->part);
	if (!b)
		b = pop(p, nr > 1 ? &p->part : &p->full);
	if (b) {
		pg_fetch_sub(&p->nr_room, 1, relaxed);
		pg_fetch_sub(&p->room, b->filled, relaxed);
	}
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
		b = pg_pool_get_room(p, 1);
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
	if (keep)
		push(p, b->filled == b->nr ? &p->full : &p->part, b);
	else
		push(p, &p->empty, b);
	if (keep) {
		pg_fetch_add(&p->nr_room, 1, relaxed);
		pg_fetch_add(&p->room, b->filled, relaxed);
	}
	pg_unlock(&p->lock, LOCK_POOL);
}

void pg_pool_put(struct pg_pool *p, struct pg_buf *b)
{
	put(p, b,
	    b->filled && !pg_load(&p->no_recycle, relaxed) &&
		    pg_load(&p->nr_room, relaxed) < p->keep_bufs &&
		    pg_load(&p->room, relaxed) < pg_load(&p->keep, relaxed));
}

void pg_pool_put_empty(struct pg_pool *p, struct pg_buf *b)
{
	put(p, b, false);
}

uint32_t pg_pool_drop_room(struct pg_pool *p)
{
	struct pg_buf *b = pg_pool_get_room(p, 1);
	uint32_t nr = b ? b->filled : 0;

	if (b)
		pg_pool_put_empty(p, b);
	return nr;
}

void pg_pool_put_standby(struct pg_pool *p, struct pg_buf *b)
{
	uint32_t at = (uint32_t)(b - p->buf) + 1;

	pg_lock(&p->lock, LOCK_POOL);
	b->next = 0;
	if (p->standby)
		p->buf[p->newest - 1].next = at;
	else
		p->standby = at;
	p->newest = at;
	pg_fetch_add(&p->nr_standby, 1, relaxed);
	pg_unlock(&p->lock, LOCK_POOL);
}

struct pg_buf *pg_pool_get_standby(struct pg_pool *p)
{
	struct pg_buf *b;

	pg_lock(&p->lock, LOCK_POOL);
	b = pop(p, &p->standby);
	if (b)
		pg_fetch_sub(&p->nr_standby, 1, relaxed);
	pg_unlock(&p->lock, LOCK_POOL);
	return b;
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
