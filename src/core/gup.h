/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * gup.h - references to the pages behind addresses, for who is not the CPU.
 * Linux: get_user_pages() and pin_user_pages().
 *
 * A pin says that somebody reads or writes the page by other means than a
 * page table, for a moment or for good (long term). It holds a reference and
 * is counted apart, exactly, at every order (R158). It holds back whatever
 * would take the page away - truncation, splitting, migration - and nothing
 * else: not munmap, fork or mprotect (R166). The page keeps its map alive, so
 * no reference on a map is needed (R157).
 */
#ifndef PG_GUP_H
#define PG_GUP_H

#include <stddef.h>
#include <stdint.h>

struct pg_space;
struct pgmap_folio;

#define PG_GUP_WRITE (1u << 0)
/* A pin, not just a reference. Linux: FOLL_PIN. */
#define PG_GUP_PIN (1u << 1)
/* For longer than an I/O. Needs PG_GUP_PIN (R163). */
#define PG_GUP_LONGTERM (1u << 2)
/* The caller can deal with peer memory (R156). */
#define PG_GUP_P2PDMA (1u << 3)
/* Fault nothing in and do not sleep. Linux: FOLL_FAST_ONLY. */
#define PG_GUP_FAST_ONLY (1u << 4)

/** struct pg_gup_run - Pages that follow each other, of one folio. @folio is
 * NULL for the page of zeros, which is held by nobody. */
struct pg_gup_run {
	struct pgmap_folio *folio;
	uint64_t pfn;
	uint64_t nr;
};

/**
 * pg_gup() - Hold the pages of [@va, @va + @nr pages), all or none.
 * @runs: Out: at most @max; one reference, and pin, each.
 * @n:    Out: how many.
 *
 * Pages that are not there, or may not be written, are faulted in first.
 *
 * Context: Holds no lock of rank LOCK_MM or above. May sleep, but with
 *          PG_GUP_FAST_ONLY, which needs no lock at all.
 * Return: 0; -EINVAL flags that exclude each other (R163); -EFAULT not mapped,
 *         not allowed, or special; -EOPNOTSUPP long term on FS_DAX (R155,
 *         R162); -EBUSY long term on a COHERENT or PRIVATE page that could not
 *         be brought to RAM; -EREMOTEIO peer memory without PG_GUP_P2PDMA;
 *         -EHWPOISON; -ENOMEM; -ENOSPC more than @max runs; -EAGAIN
 *         PG_GUP_FAST_ONLY, and a page would have to be faulted in.
 */
int pg_gup(struct pg_space *space, uintptr_t va, uint64_t nr, uint32_t flags,
	   struct pg_gup_run *runs, size_t max, size_t *n);
/** pg_gup_put() - Let go of what pg_gup() gave. @flags: as there; with
 * PG_GUP_WRITE the folios become dirty first (R164). */
void pg_gup_put(const struct pg_gup_run *runs, size_t n, uint32_t flags);

#endif
