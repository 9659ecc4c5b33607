/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * mmu.h - what core needs of the machine: the "arch code" of pgmap.
 *
 * Core decides; a back end changes real page tables and delivers faults.
 * uffd.c does it for a running program, soft.c in memory for tests.
 *
 * All addresses and lengths are multiples of PG_PAGE_SIZE. All operations may
 * be called from several threads at once. A range operation works from the
 * front and stops at the first page that refuses: it sets *done to the pages
 * that were done before it and returns that page's error, so the caller can
 * deal with the page and go on behind it.
 */
#ifndef PG_MMU_H
#define PG_MMU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PG_PAGE_SHIFT 12
#define PG_PAGE_SIZE 4096u

struct pg_mmu; /* an instance of a back end */

/** What is at a page, as @look says. */
#define PG_LOOK_MAPPED (1u << 0)   /* there is a mapping */
#define PG_LOOK_READ (1u << 1)	   /* which may be read */
#define PG_LOOK_WRITE (1u << 2)	   /* ... written */
#define PG_LOOK_SPECIAL (1u << 3)  /* its pages are not ordinary memory */
#define PG_LOOK_PRIVATE (1u << 4)  /* and are the program's alone */
#define PG_LOOK_PRESENT (1u << 5)  /* a page is there */
#define PG_LOOK_WRITABLE (1u << 6) /* which can be written without a fault */
#define PG_LOOK_ZERO (1u << 7)	   /* the shared page of zeros */
#define PG_LOOK_PMD (1u << 8)	   /* 2 MB of it by one entry */
#define PG_LOOK_ANON (1u << 9)	   /* the mapping is of no file */
#define PG_LOOK_EXEC (1u << 10)	   /* and may be executed */
#define PG_LOOK_OWN (1u << 11)	   /* a page is there that is of no file */

/** What a fault wanted. */
#define PG_FAULT_WRITE (1u << 0)
/** The touch came from the kernel on the program's behalf. */
#define PG_FAULT_KERNEL (1u << 1)

struct pg_mmu_ops {
	/** @name: "uffd", "soft". */
	const char *name;

	/**
	 * @watch: From now on a touch of an absent page of the range is a
	 * fault that is delivered to core.
	 * Return: 0; -EBUSY somebody else watches (a part of) it; -EINVAL not
	 *         a kind of memory that can be watched; -ENOMEM not mapped.
	 *         Then nothing of the range is watched.
	 */
	int (*watch)(struct pg_mmu *m, uintptr_t va, size_t nr);
	/** @unwatch: Absent pages of the range read as zeros again. */
	void (*unwatch)(struct pg_mmu *m, uintptr_t va, size_t nr);

	/**
	 * @take: Move pages out of the program into @buf, atomically: a store
	 * by the program is either in @buf or has not happened. @buf is
	 * pool memory (see @pool_map) with no page in it.
	 * Return: 0; -EBUSY the page is pinned; -ENOENT no page there;
	 *         -EAGAIN lost a race, try again; -EINVAL a kind of page or
	 *         range that cannot be taken; -ENOMEM.
	 */
	int (*take)(struct pg_mmu *m, uintptr_t va, void *buf, size_t nr,
		    size_t *done);
	/**
	 * @give: Move the pages of @buf (pool memory) into absent pages of the
	 * program. Where it was done, @buf may still have pages, or not.
	 * Does not wake.
	 * Return: 0; -EEXIST a page is there; -ENOENT nothing is mapped there;
	 *         -EAGAIN; -ENOMEM; -EFAULT @buf has no page there.
	 */
	int (*give)(struct pg_mmu *m, uintptr_t va, void *buf, size_t nr,
		    size_t *done);
	/** @zero: Put pages of zeros into absent pages. Return: as @give. */
	int (*zero)(struct pg_mmu *m, uintptr_t va, size_t nr, size_t *done);
	/** @poison: From now on a touch is a SIGBUS. Return: 0, -EEXIST,
	 *           -EOPNOTSUPP (Linux before 6.6). */
	int (*poison)(struct pg_mmu *m, uintptr_t va, size_t nr);
	/** @wake: Threads that wait for a page in the range try again. */
	void (*wake)(struct pg_mmu *m, uintptr_t va, size_t nr);
	/** @present: Set bit i of @bits if page i is there. Return: 0 or the
	 *            errno of what the kernel said. */
	int (*present)(struct pg_mmu *m, uintptr_t va, size_t nr,
		       uint64_t *bits);

	/** @absent: Return: how many pages from @va on, at most @nr, are surely
	 *           absent; 0 where that cannot be told cheaply. */
	size_t (*absent)(struct pg_mmu *m, uintptr_t va, size_t nr);

	/** @look: What is at each page of the range, PG_LOOK_* in @bits[@nr].
	 * Context: holds what keeps mappings from changing. Return: 0 or what
	 * the kernel said. */
	int (*look)(struct pg_mmu *m, uintptr_t va, size_t nr, uint16_t *bits);
	/**
	 * @populate: Touch each page of the range as a load or a store would,
	 * without changing it.
	 * Context: any thread of the program; holds no lock, as faults are
	 * served meanwhile. Return: 0; -EFAULT a page cannot be had so.
	 */
	int (*populate)(struct pg_mmu *m, uintptr_t va, size_t nr, bool write);

	/** @pool_map: Reserve @nr pages of pool memory: what take and give work
	 *             with. 2 MB aligned. Return: NULL when there is none. */
	void *(*pool_map)(struct pg_mmu *m, size_t nr);
	void (*pool_unmap)(struct pg_mmu *m, void *buf, size_t nr);
	/**
	 * @pool_fill: Make absent pages of the pool present, so that plain
	 * stores to them do not fault. Pages that are there stay as they are.
	 * Return: 0 or -ENOMEM.
	 */
	int (*pool_fill)(struct pg_mmu *m, void *buf, size_t nr);
	/** @pool_drop: Give the pages of a part of the pool back to the OS. */
	void (*pool_drop)(struct pg_mmu *m, void *buf, size_t nr);
	/** @now_ns: A clock for latencies and rates. */
	uint64_t (*now_ns)(struct pg_mmu *m);
};

/** struct pg_mmu - The part that all back ends share; the rest follows it. */
struct pg_mmu {
	const struct pg_mmu_ops *ops;
};

#endif
