/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/mem.h"

#include <sys/mman.h>

#include "base/atomic.h"
#include "base/bug.h"
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

static void unmap(uintptr_t start, size_t len)
{
	struct mapping *m = list_leave(start);

	pg_bug_on(!m); /* unmapping what was never mapped */
	pg_fetch_add(&unmaps, 1, release);
	pg_sys(munmap, start, len);
	pg_store(&m->size, 0, release);
}

static bool fail_now(void)
{
	uint32_t left = pg_load(&fail_in, relaxed);

	while (left)
		if (pg_cas(&fail_in, &left, left - 1, relaxed))
			return left == 1;
	return false;
}

bool pg_mem_is_own(uintptr_t addr, size_t len)
{
	uint32_t n = pg_load(&nr_used, acquire);

	for (uint32_t i = 0; i < n; i++) {
		uint64_t size = pg_load(&mappings[i].size, acquire) & SIZE_MASK;
		uint64_t start = pg_load(&mappings[i].start, relaxed);

		if (size && addr < start + size && start < addr + len)
			return true;
	}
	return false;
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
	ret = pg_sys(mmap, 0, len + extra, PROT_NONE,
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
	/* Sparse arrays must not grow by 2 MB for one touched page. Fails on
	 * a kernel without huge pages, where there is nothing to ask for. */
	pg_sys(madvise, start, len, MADV_NOHUGEPAGE);
	if (pg_sys(mprotect, start, len, PROT_READ | PROT_WRITE)) {
		unmap(start, len);
		return NULL;
	}
	return (void *)start;
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

void pg_mem_drop(void *p, size_t size)
{
	if (size)
		pg_sys(madvise, p, size, MADV_DONTNEED);
}

void pg_mem_fail_nth(unsigned int nth)
{
	pg_store(&fail_in, nth, relaxed);
}
