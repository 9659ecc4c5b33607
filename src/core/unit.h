/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * unit.h - the units of a device, each with an owner, and what each has.
 *
 * Pages of a private unit are off the page table: DEVICE entries. Pages of a
 * coherent unit can be used by the CPU where they are: their entries are
 * PRESENT, with a mark and a folio of the device that stands for them. Owners
 * are numbers from 1 on; 0 is what was evicted, and nobody's (R16).
 */
#ifndef PG_UNIT_H
#define PG_UNIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/pt.h"

struct pgmap_mm;

/**
 * pg_unit_take() - Move what of [@va, @va + @nr pages) is in RAM to a unit, and
 * put pages of zeros there where nothing is (R73). What another unit has
 * stays. Holds LOCK_MM; has the descriptors of the MMU.
 */
void pg_unit_take(struct pgmap_mm *mm, uintptr_t va, size_t nr, uint8_t owner,
		  bool coherent);
/** pg_unit_give() - Bring back to RAM what @owner has of a range. Context: as
 * above. Return: pages. */
size_t pg_unit_give(struct pgmap_mm *mm, uintptr_t va, size_t nr,
		    uint8_t owner);
/** pg_unit_leave_coherent() - Coherent units have nothing here any more: a fork
 * shares the pages, and whose copy is the unit's cannot be told afterwards.
 * Holds LOCK_MM for writing. */
void pg_unit_leave_coherent(struct pgmap_mm *mm);

/**
 * pg_unit_exclusive() - Take [@va, @va + @nr pages), which can be written, off
 * the page table, for @owner alone (R176). Context: as above. Return: pages.
 */
size_t pg_unit_exclusive(struct pgmap_mm *mm, uintptr_t va, size_t nr,
			 uint8_t owner);
/** pg_unit_exclusive_at() - Where the page is that pg_unit_exclusive() took
 * from @va; NULL: it is not. A hint, but under the protocol of notifier.h. */
void *pg_unit_exclusive_at(struct pgmap_mm *mm, uintptr_t va);

/* As a device uses what it has; nobody may take the page away meanwhile: who
 * does tells every notifier first. Return: 0 or -EIO. */
int pg_unit_read(struct pgmap_mm *mm, uint64_t pfn, void *buf);
int pg_unit_write(struct pgmap_mm *mm, uint64_t pfn, const void *buf);

/** pg_unit_of() - Whose page entry @e names: 0 nobody's, or of RAM. Holds
 * LOCK_PT, or what it names cannot go. */
uint8_t pg_unit_of(struct pgmap_mm *mm, pg_pte_t e);

#endif
