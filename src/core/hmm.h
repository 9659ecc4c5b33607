/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * hmm.h - what a device may know of an address space: HMM of Linux.
 *
 * A walk tells, page by page, what the program's page table has, and brings
 * what is not there if it is asked to (semantics.md 9). A device fills its own
 * table with the answer, by the protocol of notifier.h.
 */
#ifndef PG_HMM_H
#define PG_HMM_H

#include "core/notifier.h"

/* What is asked for a page. */
#define PG_HMM_REQ_FAULT ((uint64_t)1 << 63)
#define PG_HMM_REQ_WRITE ((uint64_t)1 << 62)
/* What it is: VALID the device may read it, WRITE write it. ERROR: nobody may.
 */
#define PG_HMM_VALID ((uint64_t)1 << 63)
#define PG_HMM_WRITE ((uint64_t)1 << 62)
#define PG_HMM_ERROR ((uint64_t)1 << 61)
/* It is the shared page of zeros. */
#define PG_HMM_ZERO ((uint64_t)1 << 60)
/* The page is on the device, off the page table. */
#define PG_HMM_PRIVATE ((uint64_t)1 << 59)
/* 2^order pages are mapped by one entry. */
#define PG_HMM_ORDER_SHIFT 53
/* Of a page on the device its pfn, also where the CPU can use it; 0 for RAM,
 * whose pages have no number here. */
#define PG_HMM_PFN (((uint64_t)1 << PG_HMM_ORDER_SHIFT) - 1)

/** Most pages of one walk. */
#define PG_HMM_MAX 512u

static inline unsigned int pg_hmm_order(uint64_t entry)
{
	return (unsigned int)(entry >> PG_HMM_ORDER_SHIFT & 31);
}

/**
 * struct pg_hmm_range - A walk. Linux: struct hmm_range (R167, R168).
 * @seq:     From pg_notifier_read_begin(@notifier).
 * @entry:   A word for each page; in: what is asked for it, as far as @mask
 *           lets it, and @common for all; out: what it is.
 * @owner:   Whose private pages need not come back (unit.h).
 */
struct pg_hmm_range {
	struct pg_notifier *notifier;
	uint64_t seq;
	uintptr_t start, end;
	uint64_t *entry;
	uint64_t common, mask;
	uint8_t owner;
};

/**
 * pg_hmm_range_fault() - Linux: hmm_range_fault().
 *
 * A page for which nothing is asked is never brought (R169).
 *
 * Context: any thread of the program; holds no lock.
 * Return: 0; -EBUSY the notifier was told of a change: begin again; -EPERM a
 *         write was asked for where none is allowed; -EFAULT a page was asked
 *         for that nobody may read, or that is lost; -EINVAL an empty or
 *         unaligned range, or more than PG_HMM_MAX pages; -ENOMEM (R170).
 */
int pg_hmm_range_fault(struct pgmap_mm *mm, struct pg_hmm_range *range);

#endif
