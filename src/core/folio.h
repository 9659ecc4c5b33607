/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * folio.h - 2^order device pages handled as one.
 *
 * The record of a folio is the record of its first page; the records of the
 * other pages stay as they are, so nobody can take a reference on a tail, and
 * where folios are large most of the metadata is never backed. The count is 0
 * at rest: one way up (pgmap_get_folio, 0 to 1), one way down (the last put).
 * The order means something only under a reference (R102).
 *
 * Records are type-stable: the memory of one never becomes anything but a
 * record, even after its map is gone. So pgmap_tryget_pfn() may look at a
 * record without holding anything, and asks afterwards whether it was the
 * right one.
 */
#ifndef PG_FOLIO_H
#define PG_FOLIO_H

#include <pgmap/pgmap.h>

#include "base/atomic.h"

/** struct pgmap_folio - 32 bytes a page. */
struct pgmap_folio {
	pg_atomic32 count; /* 0 at rest; release up, acq_rel down */
	pg_atomic32 flags; /* lock bits, order, map; see folio.c */
	/* Folio lock; while the count is 0, its allocator's or file's. What it
	 * stands for: a struct pgmap_mm or a struct pg_mapping; NULL at rest
	 * but for FS_DAX and GENERIC (R38). */
	uint64_t mapping;
	/* As mapping. Of page 0: va >> PAGE_SHIFT, or its place in the file;
	 * of a free page: the allocator's. */
	uint64_t index : 48;
	uint64_t group : 16;  /* folio lock; who pays, 0 nobody */
	pg_atomic32 mapcount; /* entries of any size that name it; relaxed */
	union {
		pg_atomic32 pins; /* of count, those that are pins; relaxed */
		uint32_t next;	  /* the allocator's, while the count is 0 */
	};
};

_Static_assert(sizeof(struct pgmap_folio) == 32, "aim: 32 bytes a page");

/** Largest value of pgmap_folio.index. */
#define PG_INDEX_MASK (((uint64_t)1 << 48) - 1)

/** pg_held_folio() - The folio of page @pfn, which the caller knows to be held:
 * by an entry, under its ptl. */
struct pgmap_folio *pg_held_folio(uint64_t pfn);
/** pg_folio_lock() - Wait for the lock of a folio. The caller may, but need
 * not, hold a reference; it must hold one on the map or keep it alive. */
void pg_folio_lock(struct pgmap_folio *folio);
bool pg_folio_is_locked(const struct pgmap_folio *folio);
/** pg_folio_wait_unlocked() - Sleep while it is locked, without a reference
 * (R89): the caller looks again at what led it here. */
void pg_folio_wait_unlocked(struct pgmap_folio *folio);
/** pg_folio_freeze() - Set the count from @expected to 0 for a moment: nobody
 * else can take a reference. False if there are others (R47, R48, R79). */
bool pg_folio_freeze(struct pgmap_folio *folio, uint32_t expected);
void pg_folio_unfreeze(struct pgmap_folio *folio, uint32_t count);
/** pg_folio_put_many() - Drop @n references. */
void pg_folio_put_many(struct pgmap_folio *folio, uint32_t n);

/** pg_folio_mark() - Set marks of a folio that is held; pg_folio_marked() asks
 * and pg_folio_unmark() clears. They are gone when it is handed out again. */
#define PG_FOLIO_DIRTY (1u << 3)
#define PG_FOLIO_YOUNG (1u << 4)
/* A page of it is bad: pg_pfn_poisoned() says which. */
#define PG_FOLIO_POISON (1u << 5)
void pg_folio_mark(struct pgmap_folio *folio, uint32_t marks);
void pg_folio_unmark(struct pgmap_folio *folio, uint32_t marks);
bool pg_folio_marked(const struct pgmap_folio *folio, uint32_t mark);

/* In the flags of a folio at rest: the order, plus 1, of the free block that
 * it heads; 0: none. The allocator's, who holds its lock. */
#define PG_FOLIO_LISTED_SHIFT 27
#define PG_FOLIO_LISTED_MASK (31u << PG_FOLIO_LISTED_SHIFT)

/** pg_pfn_poison() - Page @pfn of @map is bad, or good again. Stays so when it
 * is freed: a bad page is never handed out. When it returns, a folio that has
 * the page can be found by pgmap_tryget_pfn(), unless it is frozen later.
 * Context: @map is held or has a page held; may yield. */
void pg_pfn_poison(struct pgmap *map, uint64_t pfn, bool bad);
bool pg_pfn_poisoned(const struct pgmap *map, uint64_t pfn);
/** pg_pfn_in_use() - Is page @pfn of @map in a folio, or on its way into one or
 * out? */
bool pg_pfn_in_use(const struct pgmap *map, uint64_t pfn);

#endif
