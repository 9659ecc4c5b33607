/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * dmirror.c - see dmirror.h.
 *
 * The table names, for each page that the device may use, where its bytes are:
 * on the unit, by pfn; in the pool, if the device has the page for itself; or
 * in RAM, where it is used at the program's own address, which is the page that
 * the program would use. Whoever takes a page away tells the mirror first, and
 * waits for its lock: under it nothing that the table names can go, and so
 * nothing that is done there can fault.
 */
#include "runtime/dmirror.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#include "base/bug.h"
#include "base/mem.h"
#include "base/mutant.h"
#include "core/hmm.h"
#include "core/mm.h"
#include "core/unit.h"
#include "runtime/runtime.h"

/* Pages of a walk. */
#define CHUNK 64u
/* For so long a busy range is tried again (R173). */
#define TIMEOUT_NS 1000000000u

/* A value of the table; bit 0 is the tree's. */
#define TABLE_SET ((uint64_t)1)
#define TABLE_WRITE ((uint64_t)1 << 1)
#define TABLE_UNIT ((uint64_t)1 << 2) /* the rest is a pfn */
#define TABLE_EXCLUSIVE                                                        \
	((uint64_t)1 << 3) /* it is where it is: in the pool                   \
			    */
#define TABLE_SHIFT 12

static uintptr_t bytes(size_t nr)
{
	return nr * PG_PAGE_SIZE;
}

static struct pg_dmirror *mirror_of(struct pg_notifier *n)
{
	return (struct pg_dmirror *)(void *)((char *)n -
					     offsetof(struct pg_dmirror,
						      notifier));
}

/* ---- The table ---- */

static uint64_t get(const struct pg_dmirror *m, uintptr_t va)
{
	unsigned int order;

	return pg_radix_get(&m->table, va >> PG_PAGE_SHIFT, &order);
}

static int set(struct pg_dmirror *m, uintptr_t va, uint64_t value)
{
	return pg_radix_set(&m->table, va >> PG_PAGE_SHIFT, 0,
			    value | TABLE_SET);
}

static void clear(struct pg_dmirror *m, uintptr_t start, uintptr_t end)
{
	uint64_t at = start >> PG_PAGE_SHIFT, last = (end - 1) >> PG_PAGE_SHIFT;
	unsigned int order;

	if (last >> PG_RADIX_INDEX_BITS)
		last = ((uint64_t)1 << PG_RADIX_INDEX_BITS) - 1;
	while (at <= last && pg_radix_next(&m->table, &at, last, &order))
		pg_radix_clear(&m->table, at++);
}

/* Its own events as well: it looks again at what came of them. */
static void invalidate(struct pg_notifier *n,
		       const struct pg_notify_range *range)
{
	struct pg_dmirror *m = mirror_of(n);

	pg_lock(&m->lock, LOCK_MIRROR);
	clear(m, range->start, range->end);
	pg_unlock(&m->lock, LOCK_MIRROR);
}

/* What a walk found, as the table says it; 0: nothing that it may use. */
static uint64_t value_of(uint64_t e)
{
	uint64_t v = TABLE_SET;

	if (!(e & PG_HMM_VALID))
		return 0;
	if (e & PG_HMM_WRITE)
		v |= TABLE_WRITE;
	if (e & PG_HMM_PRIVATE)
		v |= TABLE_UNIT | (e & PG_HMM_PFN) << TABLE_SHIFT;
	return v;
}

/* ---- Filling it ---- */

struct chunk {
	struct pg_hmm_range r;
	uint64_t entry[CHUNK];
};

static void chunk_init(struct pg_dmirror *m, struct chunk *c, uintptr_t va,
		       uintptr_t end, uint64_t asked)
{
	c->r = (struct pg_hmm_range){
		.notifier = &m->notifier,
		.start = va,
		.end = end - va > bytes(CHUNK) ? va + bytes(CHUNK) : end,
		.entry = c->entry,
		.common = asked,
		.owner = m->owner,
	};
}

/* Walk until what was seen is so, and hold the lock then. */
static int chunk_walk(struct pg_dmirror *m, struct chunk *c)
{
	uint64_t until = pg_now_ns() + TIMEOUT_NS;
	int ret;

	do {
		c->r.seq = pg_notifier_read_begin(&m->notifier);
		ret = pg_hmm_range_fault(m->mm, &c->r);
		if (ret && ret != -EBUSY)
			return ret;
		if (!ret) {
			pg_lock(&m->lock, LOCK_MIRROR);
			if (!pg_notifier_read_retry(&m->notifier, c->r.seq))
				return 0;
			pg_unlock(&m->lock, LOCK_MIRROR);
		}
		pg_yield();
	} while (pg_now_ns() < until);
	return -EBUSY;
}

static int fill(struct pg_dmirror *m, uintptr_t va, uintptr_t end, bool write)
{
	uint64_t asked = PG_HMM_REQ_FAULT | (write ? PG_HMM_REQ_WRITE : 0);
	struct chunk c;
	int ret = 0;

	for (; va < end && !ret; va = c.r.end) {
		chunk_init(m, &c, va, end, asked);
		ret = chunk_walk(m, &c);
		if (ret)
			return ret;
		for (size_t i = 0; va + bytes(i) < c.r.end && !ret; i++)
			ret = set(m, va + bytes(i), value_of(c.entry[i]));
		pg_unlock(&m->lock, LOCK_MIRROR);
	}
	return ret;
}

/* ---- Using it ---- */

/* RAM, at the program's address: what is mapped there may be gone by a way that
 * nobody sees. */
static int copy_ram(uintptr_t va, char *buf, size_t nr, bool write)
{
	struct iovec ram = {(void *)va, bytes(nr)};
	struct iovec own = {buf, bytes(nr)};
	long n = write ? pg_sys(process_vm_writev, pg_rt.pid, &own, 1, &ram, 1,
				0)
		       : pg_sys(process_vm_readv, pg_rt.pid, &own, 1, &ram, 1,
				0);

	return n == (long)bytes(nr) ? 0 : -EFAULT;
}

static bool is_ram(uint64_t v)
{
	return v && !(v & (TABLE_UNIT | TABLE_EXCLUSIVE));
}

/* Holds the lock. Return: -ENOENT it is not in the table, or not for writing.
 */
static int use_page(struct pg_dmirror *m, uintptr_t va, char *buf, bool write)
{
	uint64_t v = get(m, va);
	const void *at;

	if (!v || (write && !(v & TABLE_WRITE)))
		return -ENOENT;
	if (v & TABLE_UNIT)
		return write ? pg_unit_write(m->mm, v >> TABLE_SHIFT, buf)
			     : pg_unit_read(m->mm, v >> TABLE_SHIFT, buf);
	if (v & TABLE_EXCLUSIVE) {
		at = pg_unit_exclusive_at(m->mm, va);
		pg_bug_on(!at);
		memcpy(buf, at, PG_PAGE_SIZE);
		return 0;
	}
	return copy_ram(va, buf, 1, write);
}

/* Use pages until one is not in the table. *@i: how many were used. */
static int use(struct pg_dmirror *m, uintptr_t va, size_t nr, char *buf,
	       bool write, size_t *i)
{
	int ret = 0;

	pg_lock(&m->lock, LOCK_MIRROR);
	while (*i < nr && !ret) {
		size_t run = 0;

		while (*i + run < nr && is_ram(get(m, va + bytes(*i + run))) &&
		       (!write || get(m, va + bytes(*i + run)) & TABLE_WRITE))
			run++;
		if (run)
			ret = copy_ram(va + bytes(*i), buf + bytes(*i), run,
				       write);
		else
			ret = use_page(m, va + bytes(*i), buf + bytes(*i),
				       write);
		if (!ret)
			*i += run ? run : 1;
	}
	pg_unlock(&m->lock, LOCK_MIRROR);
	return ret;
}

static int use_filled(struct pg_dmirror *m, uintptr_t va, size_t nr, char *buf,
		      bool write, struct pg_dmirror_done *done)
{
	size_t i = 0;
	int ret;

	while ((ret = use(m, va, nr, buf, write, &i)) == -ENOENT) {
		ret = fill(m, va + bytes(i),
			   va + bytes(pg_mutant("one_page_is_filled") ? i + 1
								      : nr),
			   write);
		if (ret)
			break;
		done->faults++;
	}
	done->pages = i;
	return ret;
}

int pg_dmirror_read(struct pg_dmirror *m, uintptr_t va, size_t nr, char *buf,
		    struct pg_dmirror_done *done)
{
	return use_filled(m, va, nr, buf, false, done);
}

int pg_dmirror_write(struct pg_dmirror *m, uintptr_t va, size_t nr, char *buf,
		     struct pg_dmirror_done *done)
{
	return use_filled(m, va, nr, buf, true, done);
}

/* ---- Jobs, which need the descriptors ---- */

struct job {
	struct pg_dmirror *m;
	uintptr_t va;
	size_t nr;
	size_t moved;
	int (*fn)(struct pgmap_mm *mm, void *job);
};

/* Under LOCK_MM for reading. */
static int run(struct job *j)
{
	struct pgmap_mm *mm = j->m->mm;
	int ret;

	pg_read_lock(&mm->lock, LOCK_MM);
	ret = mm->run(mm, j->fn, j);
	pg_read_unlock(&mm->lock, LOCK_MM);
	return ret;
}

/* Migration is of mappings that can be read (R72). */
static int check_job(struct pgmap_mm *mm, void *arg)
{
	const struct job *j = arg;
	uint16_t bits[CHUNK];

	for (size_t i = 0; i < j->nr; i += CHUNK) {
		size_t n = j->nr - i < CHUNK ? j->nr - i : CHUNK;
		int ret = pg_mmu_look(mm->mmu, j->va + bytes(i), n, bits);

		if (ret)
			return ret;
		for (size_t k = 0; k < n; k++)
			if ((!(bits[k] & PG_LOOK_READ) ||
			     bits[k] & PG_LOOK_SPECIAL) &&
			    !pg_mutant("anything_is_migrated"))
				return -EINVAL;
	}
	return 0;
}

static int adopt_job(struct pgmap_mm *mm, void *arg)
{
	const struct job *j = arg;

	pg_adopt_mappings(mm, j->va, j->va + bytes(j->nr));
	return 0;
}

static void adopt(struct pg_dmirror *m, uintptr_t va, size_t nr)
{
	struct job j = {.m = m, .va = va, .nr = nr};

	pgmap_mm_change_begin(m->mm);
	m->mm->run(m->mm, adopt_job, &j);
	pgmap_mm_change_end(m->mm);
}

static int take_job(struct pgmap_mm *mm, void *arg)
{
	const struct job *j = arg;

	for (size_t i = 0; i < j->nr; i++)
		if (pg_mm_find(mm, j->va + bytes(i)))
			pg_unit_take(mm, j->va + bytes(i), 1, j->m->owner,
				     j->m->coherent);
	return 0;
}

static int give_job(struct pgmap_mm *mm, void *arg)
{
	struct job *j = arg;

	j->moved = pg_unit_give(mm, j->va, j->nr, j->m->owner);
	return 0;
}

static int give_all_job(struct pgmap_mm *mm, void *arg)
{
	struct job *j = arg;

	for (uint32_t i = 0; i < mm->nr_vma; i++)
		j->moved += pg_unit_give(mm, mm->vma[i].start,
					 (mm->vma[i].end - mm->vma[i].start) /
						 PG_PAGE_SIZE,
					 j->m->owner);
	return 0;
}

static int exclusive_job(struct pgmap_mm *mm, void *arg)
{
	struct job *j = arg;

	for (size_t i = 0; i < j->nr; i++)
		if (pg_mm_find(mm, j->va + bytes(i)))
			pg_unit_exclusive(mm, j->va + bytes(i), 1, j->m->owner);
	return 0;
}

/* ---- To the device and back ---- */

/* Note what the unit has of a range. */
static int publish(struct pg_dmirror *m, uintptr_t va, uintptr_t end)
{
	struct chunk c;
	int ret = 0;

	for (; va < end && !ret; va = c.r.end) {
		chunk_init(m, &c, va, end, 0);
		ret = chunk_walk(m, &c);
		if (ret)
			return ret;
		for (size_t i = 0; va + bytes(i) < c.r.end && !ret; i++)
			if (c.entry[i] & PG_HMM_PFN &&
			    pg_device_owner(m->mm->dev,
					    c.entry[i] & PG_HMM_PFN) ==
				    m->owner)
				ret = set(m, va + bytes(i),
					  value_of(c.entry[i]));
		pg_unlock(&m->lock, LOCK_MIRROR);
	}
	return ret;
}

int pg_dmirror_to_device(struct pg_dmirror *m, uintptr_t va, size_t nr,
			 char *buf, struct pg_dmirror_done *done)
{
	struct job j = {.m = m, .va = va, .nr = nr, .fn = check_job};
	size_t i = 0;
	int ret = run(&j);

	if (ret)
		return ret;
	adopt(m, va, nr);
	j.fn = take_job;
	run(&j);
	ret = publish(m, va, va + bytes(nr));
	if (!ret)
		ret = use(m, va, nr, buf, false, &i);
	done->pages = i;
	return ret;
}

int pg_dmirror_to_system(struct pg_dmirror *m, uintptr_t va, size_t nr,
			 struct pg_dmirror_done *done)
{
	struct job j = {.m = m, .va = va, .nr = nr, .fn = check_job};
	int ret = run(&j);

	if (ret)
		return ret;
	j.fn = give_job;
	run(&j);
	done->pages = j.moved;
	return 0;
}

int pg_dmirror_release(struct pg_dmirror *m)
{
	struct job j = {.m = m, .fn = give_all_job};

	return run(&j);
}

/* ---- Exclusive access ---- */

/* Note those pages that are still off the page table. False: not all are. */
static bool publish_exclusive(struct pg_dmirror *m, uintptr_t va, uintptr_t end)
{
	uint64_t seq = pg_notifier_read_begin(&m->notifier);
	bool all = true;

	/* Who is told of a call of the program sees what came of it only when
	 * the call is over. */
	pg_read_lock(&m->mm->lock, LOCK_MM);
	pg_lock(&m->lock, LOCK_MIRROR);
	for (uintptr_t at = va; at < end && all; at += PG_PAGE_SIZE)
		all = pg_unit_exclusive_at(m->mm, at) &&
		      !set(m, at, TABLE_EXCLUSIVE);
	if (pg_notifier_read_retry(&m->notifier, seq))
		all = false;
	if (!all)
		clear(m, va, end);
	pg_unlock(&m->lock, LOCK_MIRROR);
	pg_read_unlock(&m->mm->lock, LOCK_MM);
	return all;
}

static int make_exclusive(struct pg_dmirror *m, uintptr_t va, uintptr_t end)
{
	struct job j = {.m = m,
			.va = va,
			.nr = (end - va) / PG_PAGE_SIZE,
			.fn = exclusive_job};
	int ret = fill(m, va, end, true);

	if (ret)
		return ret;
	run(&j);
	return publish_exclusive(m, va, end) ? 0 : -EBUSY;
}

int pg_dmirror_exclusive(struct pg_dmirror *m, uintptr_t va, size_t nr,
			 char *buf, struct pg_dmirror_done *done)
{
	uintptr_t end = va + bytes(nr), stop;
	size_t i = 0;
	int ret = 0;

	adopt(m, va, nr);
	for (uintptr_t at = va; at < end && !ret; at = stop) {
		stop = end - at > bytes(CHUNK) ? at + bytes(CHUNK) : end;
		ret = make_exclusive(m, at, stop);
	}
	if (!ret)
		ret = use(m, va, nr, buf, false, &i);
	done->pages = i;
	return ret;
}

int pg_dmirror_check_exclusive(struct pg_dmirror *m, uintptr_t va, size_t nr)
{
	int ret = 0;

	pg_lock(&m->lock, LOCK_MIRROR);
	for (size_t i = 0; i < nr && !ret; i++)
		if (get(m, va + bytes(i)) & TABLE_EXCLUSIVE)
			ret = -EPERM;
	pg_unlock(&m->lock, LOCK_MIRROR);
	return ret;
}

/* ---- Looking ---- */

/* Bytes of the public interface. */
enum {
	SEEN_ERROR = 0xff,
	SEEN_NONE = 0,
	SEEN_READ = 1,
	SEEN_WRITE = 2,
	SEEN_PMD = 4,
	SEEN_ZERO = 0x10,
	SEEN_PRIVATE_LOCAL = 0x20,
	SEEN_COHERENT_LOCAL = 0x40,
	SEEN_COHERENT_REMOTE = 0x50
};

static uint8_t seen(const struct pg_dmirror *m, uint64_t e)
{
	unsigned int b = e & PG_HMM_WRITE ? SEEN_WRITE : SEEN_READ;

	if (e & PG_HMM_ERROR)
		return SEEN_ERROR;
	if (!(e & PG_HMM_VALID))
		return SEEN_NONE;
	if (e & PG_HMM_PRIVATE)
		b |= SEEN_PRIVATE_LOCAL;
	else if (e & PG_HMM_PFN)
		b |= pg_device_owner(m->mm->dev, e & PG_HMM_PFN) == m->owner
			     ? SEEN_COHERENT_LOCAL
			     : SEEN_COHERENT_REMOTE;
	else if (e & PG_HMM_ZERO)
		b |= SEEN_ZERO;
	if (pg_hmm_order(e) == 9)
		b |= SEEN_PMD;
	return (uint8_t)b;
}

int pg_dmirror_snapshot(struct pg_dmirror *m, uintptr_t va, size_t nr,
			uint8_t *buf, struct pg_dmirror_done *done)
{
	uintptr_t end = va + bytes(nr);
	struct chunk c;

	for (uintptr_t at = va; at < end; at = c.r.end) {
		int ret;

		chunk_init(m, &c, at, end, 0);
		ret = chunk_walk(m, &c);
		if (ret)
			return ret;
		for (size_t i = 0; at + bytes(i) < c.r.end; i++)
			buf[(at - va) / PG_PAGE_SIZE + i] = seen(m, c.entry[i]);
		pg_unlock(&m->lock, LOCK_MIRROR);
	}
	done->pages = nr;
	return 0;
}

/* ---- Pins ---- */

struct pin {
	struct pgmap_mm *mm;
	uintptr_t va;
	size_t nr;
};

/* R155: what is to stay for good leaves a coherent unit first. */
static int leave_units_job(struct pgmap_mm *mm, void *arg)
{
	const struct pin *p = arg;

	for (size_t i = 0; i < p->nr; i++) {
		uintptr_t va = p->va + bytes(i);
		pg_pte_t e = pg_pte_read(&mm->pt, va);
		uint8_t owner = pg_unit_of(mm, e);

		if (e & PG_PTE_COHERENT && owner)
			pg_unit_give(mm, va, 1, owner);
	}
	return 0;
}

int pg_dmirror_pin(struct pgmap_mm *mm, uintptr_t va, size_t nr, bool longterm)
{
	struct pin p = {mm, va, nr};
	int ret = pg_mmu_populate(mm->mmu, va, nr, true);

	if (ret || !longterm)
		return ret;
	pg_read_lock(&mm->lock, LOCK_MM);
	ret = mm->run(mm, leave_units_job, &p);
	pg_read_unlock(&mm->lock, LOCK_MM);
	return ret;
}

/* ---- Start and stop ---- */

void pg_dmirror_start(struct pg_dmirror *m)
{
	pg_radix_init(&m->table, &m->pool);
	m->notifier.start = 0;
	m->notifier.end = UINTPTR_MAX;
	m->notifier.invalidate = invalidate;
	pgmap_mm_change_begin(m->mm);
	pg_notifier_insert(m->mm, &m->notifier);
	pgmap_mm_change_end(m->mm);
}

void pg_dmirror_stop(struct pg_dmirror *m)
{
	pgmap_mm_change_begin(m->mm);
	pg_notifier_remove(m->mm, &m->notifier);
	pgmap_mm_change_end(m->mm);
	clear(m, 0, UINTPTR_MAX);
	pg_radix_pool_fini(&m->pool);
	pg_dmirror_release(m);
}
