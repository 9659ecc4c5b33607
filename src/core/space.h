/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * space.h - device pages in address spaces: areas and the CPU's touch.
 *
 * A space is an address space (Linux: mm_struct) with areas (vm_area_struct)
 * and a table of entries (entry.h), which name pages of page maps: present
 * ones, which the CPU can touch, and device-private ones, which it cannot
 * (R96, R97, R106). An area maps a part of a mapping (rmap.h).
 */
#ifndef PG_SPACE_H
#define PG_SPACE_H

#include <pgmap/pgmap.h>

#include "base/lock.h"
#include "core/entry.h"
#include "core/rmap.h"

enum pg_area_kind {
	PG_AREA_ANON,  /* private anonymous: device pages, the page of zeros */
	PG_AREA_DAX,   /* a mapping of device memory that is counted */
	PG_AREA_PFNMAP /* special entries (R124) */
};
#define PG_AREA_READ (1u << 0)
#define PG_AREA_WRITE (1u << 1)
#define PG_AREA_SHARED (1u << 2)
/* What is stored is where it will be found after a crash. Linux: MAP_SYNC. */
#define PG_AREA_SYNC (1u << 3)

struct pg_area {
	uintptr_t start, end; /* space->lock and mapping->lock to write */
	uint64_t index;	      /* of start in the mapping, in pages; as start */
	uint32_t flags;	      /* PG_AREA_*; space->lock */
	enum pg_area_kind kind;
	struct pg_space *space;
	struct pg_mapping *mapping;	 /* NULL: none, of ANON and PFNMAP */
	struct pg_area *next_in_space;	 /* by address; space->lock */
	struct pg_area *next_in_mapping; /* mapping->lock */
};

struct pg_area_block;

/** struct pg_space - Linux: mm_struct. */
struct pg_space {
	struct pg_rwlock lock;	      /* LOCK_MM: areas */
	struct pg_area *areas;	      /* sorted, disjoint; never merged */
	struct pg_area *spare;	      /* by next_in_space; lock */
	struct pg_area_block *blocks; /* memory of areas; lock */
	struct pg_lock ptl;	      /* LOCK_PT: every entry, to write */
	struct pg_table table;
	pg_atomic64 rss[PG_NR_RSS]; /* pages; relaxed */
};

/** pg_space_init() - Zeroes it first. Return: 0 or -ENOMEM. */
int pg_space_init(struct pg_space *space);
/** pg_space_fini() - Unmaps all areas first. Nobody uses it any more. */
void pg_space_fini(struct pg_space *space);

/** pg_space_map() - Linux: mmap with MAP_FIXED_NOREPLACE.
 * @mapping: What an area of kind DAX maps; of ANON, what makes its folios
 *           known to the reverse map, or NULL.
 * Return: 0; -EEXIST something is there; -EINVAL; -ENOMEM. */
int pg_space_map(struct pg_space *space, uintptr_t va, uint64_t nr,
		 enum pg_area_kind kind, uint32_t flags,
		 struct pg_mapping *mapping, uint64_t index);
/** pg_space_unmap() - Linux: munmap. Return: 0; -EINVAL an area may not be
 * split there (nothing changed); -ENOMEM. */
int pg_space_unmap(struct pg_space *space, uintptr_t va, uint64_t nr);
/** pg_space_protect() - Linux: mprotect. @flags: PG_AREA_READ, PG_AREA_WRITE.
 * Return: as pg_space_unmap(); -ENOMEM a part is not mapped, too. */
int pg_space_protect(struct pg_space *space, uintptr_t va, uint64_t nr,
		     uint32_t flags);
/** pg_space_move() - Linux: mremap to an address that is free (R99).
 * @keep: MREMAP_DONTUNMAP.
 * Return: 0; -EINVAL as pg_space_unmap(), or no area may begin at @to, or the
 *         two overlap; -EEXIST @to is not free; -EFAULT the range is not all
 *         in one area; -ENOMEM. */
int pg_space_move(struct pg_space *space, uintptr_t va, uint64_t nr,
		  uintptr_t to, bool keep);
/** pg_space_fork() - @child, initialised and empty, gets the areas of @parent.
 * Anonymous entries are copied (R96, R97), those of files are not: the child
 * faults them again (R129). Return: 0 or -ENOMEM with the child as it was. */
int pg_space_fork(struct pg_space *parent, struct pg_space *child);

/**
 * pg_touch() - The CPU loads from or stores to @va.
 * @pfn: Out, may be NULL: the page, 0 the page of zeros.
 *
 * Finds the entry and marks it young and dirty as a CPU does, without a lock;
 * or faults, from the largest size that fits on, until that is settled.
 *
 * Context: holds no lock of rank LOCK_MM or above.
 * Return: PG_VM_NOPAGE done; PG_VM_RETRY others were quicker for too long;
 *         PG_VM_SIGSEGV no area there, or not allowed; PG_VM_OOM;
 *         PG_VM_HWPOISON; PG_VM_SIGBUS: a store to anonymous memory that has
 *         no device page to write to, too, for there is no RAM here.
 */
enum pg_fault_code pg_touch(struct pg_space *space, uintptr_t va, bool write,
			    uint64_t *pfn);

/** pg_find_area() - Holds space->lock. Return: the area of @va or NULL. */
struct pg_area *pg_find_area(struct pg_space *space, uintptr_t va);

/** pg_space_check() - What must always be true of a space that is at rest: rss
 * against the entries, each entry against its folio. Return: 0 or -EUCLEAN and
 * *@what: the rule. */
int pg_space_check(struct pg_space *space, const char **what);

#endif
