/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * folio.h - 2^order device pages handled as one.
 *
 * The record of a folio is the record of its first page; the records of the
 * other pages stay zero, so nobody can take a reference on a tail, and where
 * folios are large most of the metadata is never backed. The count is 0 at
 * rest: one way up (pgmap_get_folio, 0 to 1), one way down (the last put).
 * The order means something only under a reference (R102).
 */
#ifndef PG_FOLIO_H
#define PG_FOLIO_H

#include <pgmap/pgmap.h>

#include "base/atomic.h"

/** struct pgmap_folio - 32 bytes a page. */
struct pgmap_folio {
	pg_atomic32 count;    /* 0 at rest; acquire up, acq_rel down */
	pg_atomic32 flags;    /* lock bits, order, map; see folio.c */
	uint64_t mapping;     /* folio lock; the mm it stands for, 0 free */
	uint64_t index;	      /* folio lock; va >> PAGE_SHIFT of page 0 */
	pg_atomic32 mapcount; /* page-table entries that name a page of it */
	uint32_t next;	      /* the allocator's, while the count is 0 */
};

_Static_assert(sizeof(struct pgmap_folio) == 32, "aim: 32 bytes a page");

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

#endif
