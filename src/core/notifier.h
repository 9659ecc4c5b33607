/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * notifier.h - tell those who keep a copy of the page table that it changes.
 *
 * A device that mirrors an address space keeps a table of its own. Before
 * entries of a range become something else, pg_notify_begin() has every
 * notifier on it drop what it knows; pg_notify_end() says that the new entries
 * can be seen. Who fills a table follows this protocol (R171):
 *
 *	seq = pg_notifier_read_begin(n);
 *	look at the page table;
 *	take the lock that @invalidate takes;
 *	if pg_notifier_read_retry(n, seq): unlock, again from the start;
 *	fill the table; unlock.
 */
#ifndef PG_NOTIFIER_H
#define PG_NOTIFIER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/atomic.h"

struct pgmap_mm;

/** enum pg_notify_event - Why entries change. Linux: enum mmu_notifier_event.
 */
enum pg_notify_event {
	PG_NOTIFY_UNMAP,      /* the mapping goes, or moves */
	PG_NOTIFY_CLEAR,      /* its pages go */
	PG_NOTIFY_PROTECTION, /* what may be done changes, or a fork shares it
			       */
	PG_NOTIFY_MIGRATE,  /* pages move to the device of @owner, or to RAM */
	PG_NOTIFY_EXCLUSIVE /* @owner alone may use it; 0: not any more */
};

/** struct pg_notify_range - What changes. @owner: 0 nobody. */
struct pg_notify_range {
	uintptr_t start, end;
	enum pg_notify_event event;
	uint8_t owner;
};

/**
 * struct pg_notifier - Who wants to know of [@start, @end).
 * @invalidate: Forget the range, under the lock of the table. An event of its
 *              own owner may be passed over (R172).
 *              Context: holds LOCK_MM, perhaps LOCK_FOLIO. Takes LOCK_MIRROR
 *              at most, which nobody may hold while he waits for a page.
 */
struct pg_notifier {
	uintptr_t start, end;
	void (*invalidate)(struct pg_notifier *n,
			   const struct pg_notify_range *range);
	pg_atomic64 seq;    /* of changes that began; seq_cst */
	pg_atomic32 active; /* changes that go on; seq_cst */
	struct pg_notifier *next;
};

/** pg_notifier_insert() - Linux: mmu_interval_notifier_insert(). The rest of
 * @n is filled in by the caller. Holds LOCK_MM for writing. */
void pg_notifier_insert(struct pgmap_mm *mm, struct pg_notifier *n);
/** pg_notifier_remove() - @invalidate does not run, and will not again (R179).
 * Holds LOCK_MM for writing. */
void pg_notifier_remove(struct pgmap_mm *mm, struct pg_notifier *n);

/** pg_notifier_read_begin() - Waits until no change goes on. Context: holds no
 * lock. */
uint64_t pg_notifier_read_begin(struct pg_notifier *n);
/** pg_notifier_read_retry() - Has a change begun since? Context: holds the lock
 * that @invalidate takes; without it the answer is a hint. */
bool pg_notifier_read_retry(const struct pg_notifier *n, uint64_t seq);

/** pg_notify_begin() - Entries of @range are about to change. Holds LOCK_MM;
 * no LOCK_PT. pg_notify_end() follows. */
void pg_notify_begin(struct pgmap_mm *mm, const struct pg_notify_range *range);
/** pg_notify_end() - They have. The same @range; the same or no lock. */
void pg_notify_end(struct pgmap_mm *mm, const struct pg_notify_range *range);

#endif
