/* SPDX-License-Identifier: BSD-3-Clause */
#include "mmu/soft.h"

#include <errno.h>
#include <string.h>

#include "base/bug.h"
#include "base/lock.h"
#include "base/mem.h"

struct page {
	bool present, watched, pinned, poisoned;
	bool zero; /* the shared page of zeros */
	/* What cannot be done to its mapping; all can if zeroed. PG_LOOK_READ,
	 * _WRITE and _MAPPED. */
	uint16_t denied;
	uint16_t also; /* other PG_LOOK_* bits of it */
};

struct soft {
	struct pg_mmu mmu;
	size_t nr;
	struct page *page;     /* lock */
	char *data;	       /* lock; contents of page i at i * PAGE_SIZE */
	struct pg_rwlock lock; /* LOCK_LEAF */
	struct pg_soft_hooks hooks;
	uint64_t clock;
};

static struct soft *soft_of(struct pg_mmu *m)
{
	return (struct soft *)m;
}

static struct page *page_of(struct soft *s, uintptr_t va)
{
	size_t i = (va - PG_SOFT_BASE) / PG_PAGE_SIZE;

	return va >= PG_SOFT_BASE && i < s->nr ? &s->page[i] : NULL;
}

static char *data_of(struct soft *s, uintptr_t va)
{
	return s->data + (va - PG_SOFT_BASE) / PG_PAGE_SIZE * PG_PAGE_SIZE;
}

static int before(struct soft *s, enum pg_soft_op op, uintptr_t va)
{
	return s->hooks.before ? s->hooks.before(s->hooks.ctx, op, va) : 0;
}

static int soft_watch(struct pg_mmu *m, uintptr_t va, size_t nr)
{
	struct soft *s = soft_of(m);

	if (!page_of(s, va) || !page_of(s, va + (nr - 1) * PG_PAGE_SIZE))
		return -ENOMEM;
	pg_write_lock(&s->lock, LOCK_LEAF);
	for (size_t i = 0; i < nr; i++)
		page_of(s, va + i * PG_PAGE_SIZE)->watched = true;
	pg_write_unlock(&s->lock, LOCK_LEAF);
	return 0;
}

static void soft_unwatch(struct pg_mmu *m, uintptr_t va, size_t nr)
{
	struct soft *s = soft_of(m);

	pg_write_lock(&s->lock, LOCK_LEAF);
	for (size_t i = 0; i < nr; i++)
		page_of(s, va + i * PG_PAGE_SIZE)->watched = false;
	pg_write_unlock(&s->lock, LOCK_LEAF);
}

/* One page of a range operation; holds the lock. */
typedef int (*page_op)(struct soft *s, struct page *p, uintptr_t va, char *buf);

static int take_page(struct soft *s, struct page *p, uintptr_t va, char *buf)
{
	if (!p->present)
		return -ENOENT;
	if (p->pinned)
		return -EBUSY;
	memcpy(buf, data_of(s, va), PG_PAGE_SIZE);
	p->present = false;
	return 0;
}

static int give_page(struct soft *s, struct page *p, uintptr_t va, char *buf)
{
	if (p->present)
		return -EEXIST;
	if (buf)
		memcpy(data_of(s, va), buf, PG_PAGE_SIZE);
	else
		memset(data_of(s, va), 0, PG_PAGE_SIZE);
	p->present = true;
	return 0;
}

static int each(struct pg_mmu *m, enum pg_soft_op op, page_op f, uintptr_t va,
		char *buf, size_t nr, size_t *done)
{
	struct soft *s = soft_of(m);

	for (*done = 0; *done < nr; (*done)++) {
		uintptr_t at = va + *done * PG_PAGE_SIZE;
		struct page *p = page_of(s, at);
		int ret = before(s, op, at);

		if (ret)
			return ret;
		if (!p)
			return -ENOENT;
		pg_write_lock(&s->lock, LOCK_LEAF);
		ret = f(s, p, at, buf ? buf + *done * PG_PAGE_SIZE : NULL);
		pg_write_unlock(&s->lock, LOCK_LEAF);
		if (ret)
			return ret;
	}
	return 0;
}

static int soft_take(struct pg_mmu *m, uintptr_t va, void *buf, size_t nr,
		     size_t *done)
{
	return each(m, PG_SOFT_TAKE, take_page, va, buf, nr, done);
}

static int soft_give(struct pg_mmu *m, uintptr_t va, void *buf, size_t nr,
		     size_t *done)
{
	return each(m, PG_SOFT_GIVE, give_page, va, buf, nr, done);
}

static int soft_zero(struct pg_mmu *m, uintptr_t va, size_t nr, size_t *done)
{
	return each(m, PG_SOFT_ZERO, give_page, va, NULL, nr, done);
}

static int soft_poison(struct pg_mmu *m, uintptr_t va, size_t nr)
{
	struct soft *s = soft_of(m);

	pg_write_lock(&s->lock, LOCK_LEAF);
	for (size_t i = 0; i < nr; i++)
		page_of(s, va + i * PG_PAGE_SIZE)->poisoned = true;
	pg_write_unlock(&s->lock, LOCK_LEAF);
	return 0;
}

static void soft_wake(struct pg_mmu *m, uintptr_t va, size_t nr)
{
	(void)nr;
	before(soft_of(m), PG_SOFT_WAKE, va);
}

static int soft_present(struct pg_mmu *m, uintptr_t va, size_t nr,
			uint64_t *bits)
{
	struct soft *s = soft_of(m);

	pg_read_lock(&s->lock, LOCK_LEAF);
	for (size_t i = 0; i < nr; i++)
		if (page_of(s, va + i * PG_PAGE_SIZE)->present)
			bits[i / 64] |= (uint64_t)1 << (i % 64);
	pg_read_unlock(&s->lock, LOCK_LEAF);
	return 0;
}

static size_t soft_absent(struct pg_mmu *m, uintptr_t va, size_t nr)
{
	struct soft *s = soft_of(m);
	size_t n = 0;

	pg_read_lock(&s->lock, LOCK_LEAF);
	while (n < nr && !page_of(s, va + n * PG_PAGE_SIZE)->present)
		n++;
	pg_read_unlock(&s->lock, LOCK_LEAF);
	return n;
}

static int soft_look(struct pg_mmu *m, uintptr_t va, size_t nr, uint16_t *bits)
{
	const uint16_t all = PG_LOOK_MAPPED | PG_LOOK_READ | PG_LOOK_WRITE |
			     PG_LOOK_PRIVATE | PG_LOOK_ANON;
	struct soft *s = soft_of(m);

	pg_read_lock(&s->lock, LOCK_LEAF);
	for (size_t i = 0; i < nr; i++) {
		const struct page *p = page_of(s, va + i * PG_PAGE_SIZE);
		unsigned int b = p ? (all | p->also) & ~p->denied : 0;

		if (p && p->present)
			b |= PG_LOOK_PRESENT;
		if (p && p->present && p->zero)
			b |= PG_LOOK_ZERO;
		else if (p && p->present && b & PG_LOOK_WRITE)
			b |= PG_LOOK_WRITABLE;
		bits[i] = (uint16_t)b;
	}
	pg_read_unlock(&s->lock, LOCK_LEAF);
	return 0;
}

static int soft_populate(struct pg_mmu *m, uintptr_t va, size_t nr, bool write)
{
	for (size_t i = 0; i < nr; i++) {
		uintptr_t at = va + i * PG_PAGE_SIZE;
		uint8_t v;

		if (pg_soft_read(m, at, &v) ||
		    (write && pg_soft_write(m, at, v)))
			return -EFAULT;
	}
	return 0;
}

static void *soft_pool_map(struct pg_mmu *m, size_t nr)
{
	(void)m;
	return pg_mem_map_aligned(nr * PG_PAGE_SIZE, (size_t)1 << 21);
}

static void soft_pool_unmap(struct pg_mmu *m, void *buf, size_t nr)
{
	(void)m;
	pg_mem_unmap(buf, nr * PG_PAGE_SIZE);
}

static int soft_pool_fill(struct pg_mmu *m, void *buf, size_t nr)
{
	(void)nr;
	return before(soft_of(m), PG_SOFT_FILL, (uintptr_t)buf);
}

static void soft_pool_drop(struct pg_mmu *m, void *buf, size_t nr)
{
	(void)m;
	/* Nobody may rely on what a page holds when it is filled again. */
	memset(buf, 0xdb, nr * PG_PAGE_SIZE);
}

static uint64_t soft_now_ns(struct pg_mmu *m)
{
	return soft_of(m)->clock++;
}

static const struct pg_mmu_ops soft_ops = {
	.name = "soft",
	.watch = soft_watch,
	.unwatch = soft_unwatch,
	.take = soft_take,
	.give = soft_give,
	.zero = soft_zero,
	.poison = soft_poison,
	.wake = soft_wake,
	.present = soft_present,
	.absent = soft_absent,
	.look = soft_look,
	.populate = soft_populate,
	.pool_map = soft_pool_map,
	.pool_unmap = soft_pool_unmap,
	.pool_fill = soft_pool_fill,
	.pool_drop = soft_pool_drop,
	.now_ns = soft_now_ns,
};

int pg_soft_create(size_t nr, struct pg_mmu **m)
{
	struct soft *s = pg_mem_map(sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->mmu.ops = &soft_ops;
	s->nr = nr;
	s->page = pg_mem_map(nr * sizeof(*s->page));
	s->data = pg_mem_map(nr * PG_PAGE_SIZE);
	*m = &s->mmu;
	if (s->page && s->data)
		return 0;
	pg_soft_destroy(*m);
	return -ENOMEM;
}

void pg_soft_destroy(struct pg_mmu *m)
{
	struct soft *s = soft_of(m);

	pg_mem_unmap(s->data, s->nr * PG_PAGE_SIZE);
	pg_mem_unmap(s->page, s->nr * sizeof(*s->page));
	pg_mem_unmap(s, sizeof(*s));
}

void pg_soft_hook(struct pg_mmu *m, const struct pg_soft_hooks *hooks)
{
	soft_of(m)->hooks = *hooks;
}

/* As a CPU, which reads beside others: only a store, and a page that comes into
 * being, have the lock to themselves. */
static int touch(struct pg_mmu *m, uintptr_t va, uint8_t *value, bool write)
{
	struct soft *s = soft_of(m);
	struct page *p = page_of(s, va);
	bool alone = write;

	if (!p)
		return -EFAULT;
	for (;;) {
		bool absent, watched, poisoned;

		if (alone)
			pg_write_lock(&s->lock, LOCK_LEAF);
		else
			pg_read_lock(&s->lock, LOCK_LEAF);
		poisoned = p->poisoned;
		watched = p->watched;
		absent = !p->present;
		if (absent && !watched && alone) {
			p->present = true; /* the kernel's zero-filled page */
			p->zero = !write;
			memset(data_of(s, va), 0, PG_PAGE_SIZE);
			absent = false;
		}
		if (!absent && !poisoned) {
			uint8_t *at =
				(uint8_t *)data_of(s, va) + va % PG_PAGE_SIZE;

			if (write) {
				*at = *value;
				p->zero = false;
			} else {
				*value = *at;
			}
		}
		if (alone)
			pg_write_unlock(&s->lock, LOCK_LEAF);
		else
			pg_read_unlock(&s->lock, LOCK_LEAF);
		if (poisoned)
			return -EHWPOISON;
		if (!absent)
			return 0;
		if (!watched)
			alone = true;
		else if (!s->hooks.fault(s->hooks.ctx, va,
					 write ? PG_FAULT_WRITE : 0))
			return -EAGAIN;
	}
}

int pg_soft_read(struct pg_mmu *m, uintptr_t va, uint8_t *value)
{
	return touch(m, va, value, false);
}

int pg_soft_write(struct pg_mmu *m, uintptr_t va, uint8_t value)
{
	return touch(m, va, &value, true);
}

void pg_soft_zap(struct pg_mmu *m, uintptr_t va, size_t nr)
{
	struct soft *s = soft_of(m);

	pg_write_lock(&s->lock, LOCK_LEAF);
	for (size_t i = 0; i < nr; i++) {
		struct page *p = page_of(s, va + i * PG_PAGE_SIZE);

		p->present = false;
		p->poisoned = false;
	}
	pg_write_unlock(&s->lock, LOCK_LEAF);
}

void pg_soft_pin(struct pg_mmu *m, uintptr_t va, bool pinned)
{
	struct soft *s = soft_of(m);

	pg_write_lock(&s->lock, LOCK_LEAF);
	page_of(s, va)->pinned = pinned;
	pg_write_unlock(&s->lock, LOCK_LEAF);
}

void pg_soft_protect(struct pg_mmu *m, uintptr_t va, size_t nr, uint16_t denied,
		     uint16_t also)
{
	struct soft *s = soft_of(m);

	pg_write_lock(&s->lock, LOCK_LEAF);
	for (size_t i = 0; i < nr; i++) {
		struct page *p = page_of(s, va + i * PG_PAGE_SIZE);

		p->denied = denied;
		p->also = also;
	}
	pg_write_unlock(&s->lock, LOCK_LEAF);
}

bool pg_soft_is_present(struct pg_mmu *m, uintptr_t va)
{
	struct soft *s = soft_of(m);
	bool is;

	pg_read_lock(&s->lock, LOCK_LEAF);
	is = page_of(s, va)->present;
	pg_read_unlock(&s->lock, LOCK_LEAF);
	return is;
}
