/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * migrate.h - moving pages between RAM and a device, both ways.
 *
 * The protocol is that of migrate_vma in Linux (semantics.md 5.1):
 *   collect   entries become migration entries; faults on them wait
 *   unmap     the pages leave the program's page table, contents kept
 *   copy      destination allocated by its allocator, bytes stored or loaded
 *   pages     look again: is each page still ours to move?
 *   finalize  entries point at the destination, or back at the source; wake
 * Eviction rests after unmap: standby entries point at the buffer, and collect
 * takes them from there.
 * A page that is pinned, refused or raced stays where it was; the rest go on.
 */
#ifndef PG_MIGRATE_H
#define PG_MIGRATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pgmap_mm;
struct pgmap_folio;
struct pgmap_fault;
struct pg_buf;

/**
 * pg_migrate_to_device() - Move what of [@va, @va + @nr pages) is in RAM.
 * @va, @nr: Inside one block.
 * @holes:   Also put pages of zeros on the device where nothing is (R73).
 *
 * Holds LOCK_MM. Return: pages that are on the device now and were not.
 */
size_t pg_migrate_to_device(struct pgmap_mm *mm, uintptr_t va, size_t nr,
			    bool holes);

/** pg_migrate_to_unit() - The same, with holes, to the unit of @owner (unit.h).
 */
size_t pg_migrate_to_unit(struct pgmap_mm *mm, uintptr_t va, size_t nr,
			  uint8_t owner);

/**
 * pg_migrate_to_exclusive() - Take what of [@va, @va + @nr pages), inside one
 * block, is in RAM off the page table, for @owner alone (R176).
 *
 * It is in standby then: its entries name pages of the pool, which hold the
 * bytes, and that is what the device may use until it is told otherwise:
 * whoever touches, moves or drops them tells it first. Holds LOCK_MM. Return:
 * how many; 0 also when too many are in standby.
 */
size_t pg_migrate_to_exclusive(struct pgmap_mm *mm, uintptr_t va, size_t nr,
			       uint8_t owner);

/**
 * pg_migrate_to_standby() - Take what of a block is in RAM off the page table.
 * @va: Of the block.
 *
 * Its pages stay in a buffer, where a fault finds them, until
 * pg_migrate_standby_to_device() comes to it.
 * Holds LOCK_MM. Return: how many.
 */
size_t pg_migrate_to_standby(struct pgmap_mm *mm, uintptr_t va);

/** struct pg_settled - What became of a buffer that was in standby, in pages.
 */
struct pg_settled {
	uintptr_t va;  /* the block */
	size_t waited; /* in it to the end, and */
	size_t moved;  /* ... are on the device now; others are back in RAM */
	size_t room;   /* free now: kept for loads or given back */
};

/** pg_migrate_standby_to_device() - Store what waits longest in standby. Holds
 * LOCK_MM. Return: false: nothing waits. */
bool pg_migrate_standby_to_device(struct pgmap_mm *mm, struct pg_settled *s);

/**
 * pg_migrate_standby_to_ram() - Give back the page at an address.
 * @whole: And those beside it in its buffer.
 *
 * Holds LOCK_MM. Return: 0, also when it was unmapped meanwhile; -EAGAIN it is
 * not, or no longer, in standby: look again; -ENOMEM.
 */
int pg_migrate_standby_to_ram(struct pgmap_mm *mm, uintptr_t va, bool whole);

/**
 * pg_migrate_get_folio() - Lock and reference what the entry of @va names.
 *
 * Entry, lock and reference under one LOCK_PT, so the folio cannot become
 * somebody else's in between (R88, R93). If it is locked, sleeps until it is
 * not, holding no reference: references of waiters would keep whoever moves
 * it from ever finding the count that he expects (R89).
 *
 * Holds LOCK_MM. Return: true with the folio locked, referenced, and @pfn; or
 * false: the entry is not, or may no longer be, a device entry: look again.
 */
bool pg_migrate_get_folio(struct pgmap_mm *mm, uintptr_t va,
			  struct pgmap_folio **folio, uint64_t *pfn);

/**
 * pg_migrate_to_ram() - Bring back the page at an address.
 * @folio: What its entry names. Locked, with a reference of the caller's; both
 *         stay the caller's.
 * @whole: And the pages around it that are away, in its block, as far as their
 *         folios can be had at once.
 *
 * Holds LOCK_MM. Return: 0 when the page at @va is there, or lost and
 * poisoned; -EAGAIN the entry or the folio changed: look again; -ENOMEM.
 */
int pg_migrate_to_ram(struct pgmap_mm *mm, struct pgmap_folio *folio,
		      uintptr_t va, bool whole);

/**
 * pg_migrate_break() - Store a large folio of a block again, page by page.
 * @b:  A buffer that is the caller's.
 * @va: Of the block.
 *
 * For memory whose pages are not used together: loading one of them would
 * decode much of the folio each time, and all of it stays on the device to the
 * last. Holds LOCK_MM. Return: was there one, and could it be had?
 */
bool pg_migrate_break(struct pgmap_mm *mm, struct pg_buf *b, uintptr_t va);

#endif
