/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/mem.h"

#include <string.h>
#include <sys/mman.h>

#include "base/atomic.h"
#include "base/bug.h"
#include "base/mutant.h"
#include "base/sys.h"

#define PAGE 4096u
/* A process has a few dozen mappings: one device, a page map, a leaf of the
 * page table per GB that is in use. */
#define NR_MAPPINGS 65536u

/*
 * A slot is free when size is 0. A writer claims it by setting size from 0 to
 * CLAIMED (acq_rel), stores start, then stores the size (release; partner: the
 * acquire in pg_mem_is_own). A mapping is listed before it can be accessed and
 * until it is gone, so that somebody who walks /proc/self/maps never takes a
 * readable one of ours for the program's. While it goes its size is marked
 * LEAVING: the address may already be listed again in another slot. A reader
 * that meets a slot while it changes hands may call memory ours that is not.
 */
#define CLAIMED 1u
#define LEAVING 2u
#define SIZE_MASK (~(uint64_t)(PAGE - 1))

static struct mapping {
	pg_atomic64 start;
	pg_atomic64 size;
} mappings[NR_MAPPINGS];
/* Slots below this have been used. atomic: release by a claim that raises it,
 * acquire by readers. */
static pg_atomic32 nr_used;
/* An address that one thread unmaps may be mapped by another next. The kernel
 * orders the two; this makes the order one that C11 knows. atomic: release
 * before munmap, acquire after mmap. */
static pg_atomic32 unmaps;
/* Bytes mapped. atomic, relaxed. */
static pg_atomic64 mapped;
/* Where the next mapping goes; 0: not chosen. atomic, relaxed. */
static pg_atomic64 next_place;
/* Calls left until one fails; 0: never. atomic, relaxed: tests only. */
static pg_atomic32 fail_in;

static size_t round_up(size_t size)
{
	return (size + PAGE - 1) & ~(size_t)(PAGE - 1);
}

static bool list_add(uintptr_t start, size_t size)
{
	for (uint32_t i = 0; i < NR_MAPPINGS; i++) {
		uint64_t none = 0;
		uint32_t used = pg_load(&nr_used, relaxed);

		if (pg_load(&mappings[i].size, relaxed) ||
		    !pg_cas(&mappings[i].size, &none, CLAIMED, acq_rel))
			continue;
		pg_store(&mappings[i].start, start, relaxed);
		pg_store(&mappings[i].size, size, release);
		while (used <= i && !pg_cas(&nr_used, &used, i + 1, release))
			;
		return true;
	}
	return false;
}

static struct mapping *list_leave(uintptr_t start)
{
	uint32_t n = pg_load(&nr_used, acquire);

	for (uint32_t i = 0; i < n; i++) {
		struct mapping *m = &mappings[i];
		uint64_t size = pg_load(&m->size, acquire);

		if (size & SIZE_MASK && !(size & LEAVING) &&
		    pg_load(&m->start, relaxed) == start &&
		    pg_cas(&m->size, &size, size | LEAVING, relaxed))
			return m;
	}
	return NULL;
}

/*
 * Our memory must not lie where the program's overruns end: whatever a program
 * writes behind its buffers shall hit what it would hit without us. So it lies
 * far from where the kernel puts mappings, which is near the top and near the
 * program, with a gap behind each. The address is only wished for: where
 * something is already the kernel chooses.
 */
#define FAR ((uintptr_t)0x680000000000)
#define FAR_END ((uintptr_t)0x700000000000)
#define GAP ((uintptr_t)64 << 10)

uintptr_t pg_mem_place(size_t len)
{
	uint64_t at = pg_load(&next_place, relaxed);

	for (;;) {
		uint64_t start = at;

		/* As random as the address of our own code is. */
		if (!start || start + len >= FAR_END)
			start = FAR + ((uintptr_t)mappings &
				       (((uintptr_t)1 << 40) - PAGE));
		if (pg_cas(&next_place, &at, start + len + GAP, relaxed))
			return start;
	}
}

/* What was mapped last and is unmapped now was in use for a moment only. */
static void place_back(uintptr_t start, size_t len)
{
	uint64_t next = start + len + GAP;

	pg_cas(&next_place, &next, start, relaxed);
}

static void unmap(uintptr_t start, size_t len)
{
	struct mapping *m = list_leave(start);

	pg_bug_on(!m); /* unmapping what was never mapped */
	pg_fetch_add(&unmaps, 1, release);
	pg_sys(munmap, start, len);
	pg_store(&m->size, 0, release);
	pg_fetch_sub(&mapped, len, relaxed);
	place_back(start, len);
}

static bool fail_now(void)
{
	uint32_t left = pg_load(&fail_in, relaxed);

	while (left)
		if (pg_cas(&fail_in, &left, left - 1, relaxed))
			return left == 1;
	return false;
}

bool pg_mem_first_own(uintptr_t addr, size_t len, uintptr_t *own,
		      uintptr_t *end)
{
	uint32_t n = pg_load(&nr_used, acquire);
	bool found = false;

	for (uint32_t i = 0; i < n; i++) {
		uint64_t size = pg_load(&mappings[i].size, acquire) & SIZE_MASK;
		uint64_t start = pg_load(&mappings[i].start, relaxed);

		if (!size || addr >= start + size || start >= addr + len ||
		    (found && start >= *own && !pg_mutant("last_own_found")))
			continue;
		*own = start;
		*end = start + size;
		found = true;
	}
	return found;
}

bool pg_mem_is_own(uintptr_t addr, size_t len)
{
	uintptr_t own = 0, end = 0;

	return pg_mem_first_own(addr, len, &own, &end);
}

void *pg_mem_map_aligned(size_t size, size_t align)
{
	size_t len = round_up(size);
	size_t extra = align > PAGE ? align : 0;
	uintptr_t start, end;
	long ret;

	if (!size || len < size || len + extra < len)
		return NULL;
	if (fail_now())
		return NULL;
	ret = pg_sys(mmap, pg_mem_place(len + extra), len + extra, PROT_NONE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (pg_sys_failed(ret))
		return NULL;
	(void)pg_load(&unmaps, acquire);
	start = (uintptr_t)ret;
	end = start + len + extra;
	if (extra) {
		uintptr_t a = (start + align - 1) & ~(uintptr_t)(align - 1);

		if (a > start)
			pg_sys(munmap, start, a - start);
		if (a + len < end)
			pg_sys(munmap, a + len, end - a - len);
		start = a;
	}
	if (!list_add(start, len)) {
		pg_sys(munmap, start, len);
		return NULL;
	}
	/* After mlockall() all that is mapped is locked, and would be backed.
	 */
	pg_sys(munlock, start, len);
	/* Sparse arrays must not grow by 2 MB for one touched page. Fails on
	 * a kernel without huge pages, where there is nothing to ask for. */
	pg_sys(madvise, start, len, MADV_NOHUGEPAGE);
	if (pg_sys(mprotect, start, len, PROT_READ | PROT_WRITE)) {
		pg_fetch_add(&mapped, len, relaxed);
		unmap(start, len);
		return NULL;
	}
	pg_fetch_add(&mapped, len, relaxed);
	return (void *)start;
}

uint64_t pg_mem_mapped(void)
{
	return pg_load(&mapped, relaxed);
}

void *pg_mem_map(size_t size)
{
	return pg_mem_map_aligned(size, PAGE);
}

void pg_mem_unmap(void *p, size_t size)
{
	if (!p)
		return;
	unmap((uintptr_t)p, round_up(size));
}

void pg_mem_unlock(void)
{
	uint32_t n = pg_load(&nr_used, acquire);

	for (uint32_t i = 0; i < n; i++) {
		uint64_t size = pg_load(&mappings[i].size, acquire) & SIZE_MASK;

		if (size)
			pg_sys(munlock, pg_load(&mappings[i].start, relaxed),
			       size);
	}
}

void pg_mem_drop(void *p, size_t size)
{
	if (!size || !pg_sys(madvise, p, size, MADV_DONTNEED))
		return;
	/* After the program's mlockall() locked memory stays; ours need not. */
	if (pg_mutant("locked_memory_stays"))
		return;
	pg_sys(munlock, p, size);
	if (pg_sys(madvise, p, size, MADV_DONTNEED))
		memset(p, 0, size);
}

unsigned int pg_mem_fail_nth(unsigned int nth)
{
	return pg_xchg(&fail_in, nth, relaxed);
}
