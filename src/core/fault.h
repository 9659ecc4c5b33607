/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fault.h - one CPU fault, one decision.
 */
#ifndef PG_FAULT_H
#define PG_FAULT_H

#include <stdbool.h>
#include <stdint.h>

#include "mmu/mmu.h"

struct pg_space;
struct pgmap_mm;
struct pgmap_folio;

/** struct pgmap_fault - What migrate_to_ram is called with. */
struct pgmap_fault {
	struct pgmap_mm *mm;	   /* whose address it is, or */
	struct pg_space *space;	   /* ... whose */
	struct pgmap_folio *folio; /* locked, referenced */
	uint64_t pfn;		   /* the page that the entry names (R51) */
	uintptr_t va;
	uint32_t flags; /* PG_FAULT_* of mmu.h */
	bool whole;	/* neighbours will be wanted, too */
};

enum pg_fault_result {
	PG_FAULT_DONE,	 /* served and woken */
	PG_FAULT_PARKED, /* will be woken by whoever is in the way */
	PG_FAULT_OOM,	 /* no memory at all; the thread still waits */
	PG_FAULT_LOST,	 /* woken; the contents are lost */
	PG_FAULT_FOREIGN /* woken; not memory that is watched */
};

/**
 * pg_fault() - A thread touched an absent page of a watched range.
 *
 * Never waits for a writer of LOCK_MM: it parks the fault, and
 * pgmap_mm_change_end() sees to it that it comes again.
 */
enum pg_fault_result pg_fault(struct pgmap_mm *mm, uintptr_t va,
			      uint32_t flags);

/**
 * pg_fault_here() - As pg_fault(), for the thread that touched the page:
 * nobody wakes it, so it waits for whoever is in the way.
 *
 * Context: holds no lock, and whoever changes mappings does not wait for it.
 * Return: never PARKED.
 */
enum pg_fault_result pg_fault_here(struct pgmap_mm *mm, uintptr_t va,
				   uint32_t flags);

/**
 * pg_fault_in() - Load what is managed of [@start, @end) and not there, as if
 * each page were touched. Return: 0 when each page was there, or cannot be;
 * -EAGAIN a writer of LOCK_MM or another who moves the page is in the way;
 * -ENOMEM.
 */
int pg_fault_in(struct pgmap_mm *mm, uintptr_t start, uintptr_t end);

/** pg_load_ahead() - One step of the thread that loads ahead of streams of
 * faults: a block. Takes LOCK_MM for reading. Return: false: nothing to do. */
bool pg_load_ahead(struct pgmap_mm *mm);

/** pg_break_next() - One step of the thread that breaks large folios whose
 * pages are not used together. One thread at a time. Takes LOCK_MM for reading.
 * Return: false: nothing to do. */
bool pg_break_next(struct pgmap_mm *mm);

/** pg_fault_migrate_to_ram() - For pg_device_open(). */
int pg_fault_migrate_to_ram(struct pgmap_fault *fault);

#endif
