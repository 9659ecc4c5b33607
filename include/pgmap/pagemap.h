/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pagemap.h - page maps: who owns which device pages, and how long they live.
 *
 * The ZONE_DEVICE model of Linux (semantics.md 2, 3, 4, 8, 10). Part of
 * pgmap.h, whose rules for errors and threads hold here too.
 *
 * The one idea: an allocator keeps its pages at count 0 until it hands them
 * out. One way up (pgmap_get_folio() and its kin, 0 to 1), one way down (the
 * last pgmap_folio_put()), one counter to wait for when a map is destroyed.
 */
#ifndef PGMAP_PAGEMAP_H
#define PGMAP_PAGEMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct pgmap;	    /* a page map          Linux: struct dev_pagemap */
struct pgmap_folio; /* 2^order pages       Linux: struct folio */
struct pgmap_fault; /* a CPU fault being handled; opaque */
struct pgmap_group; /* who pays for pages  Linux: struct mem_cgroup */

/** enum pgmap_type - What the pages of a map are (R1, R2). 0 is invalid on
 * purpose: a zeroed struct must not work by chance. */
enum pgmap_type {
	PGMAP_PRIVATE = 1,   /* the CPU cannot address it */
	PGMAP_COHERENT = 2,  /* it can; the driver manages it */
	PGMAP_FS_DAX = 3,    /* it can; a file system allocates it */
	PGMAP_GENERIC = 4,   /* it can; a device file maps it */
	PGMAP_PCI_P2PDMA = 5 /* device BAR memory for peers */
};

/** Page frame numbers below this are system memory's (R4) ... */
#define PGMAP_FIRST_DEVICE_PFN ((uint64_t)1 << 36)
/** ... and no address bus has more: 2^52 bytes. */
#define PGMAP_END_PFN ((uint64_t)1 << 40)
#define PGMAP_MAX_RANGES 8
/** Ranges are multiples of a subsection: 2 MB (R5). */
#define PGMAP_SUBSECTION_PAGES 512u
/** Orders that the CPU maps with one entry: 2 MB and 1 GB. */
#define PGMAP_PMD_ORDER 9u
#define PGMAP_PUD_ORDER 18u
/** The largest folio is 2^PGMAP_MAX_ORDER pages. */
#define PGMAP_MAX_ORDER PGMAP_PUD_ORDER

struct pgmap_range {
	uint64_t pfn;
	uint64_t nr; /* pages */
};

/**
 * struct pgmap_ops - What the driver of a map does (R3).
 * @folio_free:     The last reference is gone: put the folio's pages on your
 *                  free list. Context: any last put; must not sleep, must not
 *                  take a lock that is held around a put (R44). The folio may
 *                  be handed out again before it returns. PRIVATE and COHERENT
 *                  need it; others may have it.
 * @migrate_to_ram: The CPU touched a page of the folio, which is locked and
 *                  referenced by the caller: bring it back. Return: 0 or a
 *                  negative errno, which is final for the thread (R90).
 *                  PRIVATE needs it.
 * @memory_failure: Pages [@pfn, @pfn + @nr) are bad. Return: 0 dealt with;
 *                  -EOPNOTSUPP do what you do without me; another negative
 *                  errno. Optional (R182).
 * @folio_split:    @tail was cut off @head and is a folio now; @tail NULL:
 *                  that was the last, @head has its new order (R108). Optional.
 */
struct pgmap_ops {
	size_t size;
	void (*folio_free)(struct pgmap_folio *folio);
	int (*migrate_to_ram)(struct pgmap_fault *fault);
	int (*memory_failure)(struct pgmap *map, uint64_t pfn, uint64_t nr);
	void (*folio_split)(struct pgmap_folio *head, struct pgmap_folio *tail);
};

/**
 * struct pgmap_desc - What to create.
 * @range:       Where; pfn 0 in the only range: choose for me.
 * @ops:         What its driver does; copied. May be NULL for FS_DAX, GENERIC
 *               and PCI_P2PDMA.
 * @owner:       Who; equal owners may see each other's private pages (R16).
 *               PRIVATE and COHERENT need one.
 * @data:        The driver's.
 * @folio_order: The smallest folio, as a power of two of pages; ranges are
 *               multiples of it. There is one record for so many pages (R17,
 *               R191). Linux: vmemmap_shift.
 * @reserve:     Pages at the start of the first range that hold the device's
 *               own data (a label, a bad block list): never handed out.
 */
struct pgmap_desc {
	size_t size;
	enum pgmap_type type;
	uint32_t nr_range;
	struct pgmap_range range[PGMAP_MAX_RANGES];
	const struct pgmap_ops *ops;
	void *owner;
	void *data;
	uint32_t folio_order;
	uint64_t reserve;
};

/**
 * pgmap_create() - Make a page map. Linux: memremap_pages().
 *
 * All pages are idle: count 0, whatever the type. Nothing is written for them
 * until they are handed out, so a map of any size costs the same.
 *
 * Context: May sleep. Takes LOCK_PAGEMAP.
 * Return: 0; -EINVAL unknown type, no range, range not a multiple of a
 *         subsection or of the folio order, wrapping or beyond PGMAP_END_PFN,
 *         ops or owner missing that the type needs, folio order or reserve too
 *         large (R1, R3, R4, R5); -ENXIO intersects system memory; -ENOMEM
 *         overlaps another map, a dying one too (R6), or no memory; -ENOSPC
 *         too many maps. Nothing is left behind (R7).
 */
int pgmap_create(const struct pgmap_desc *desc, struct pgmap **map);
/** pgmap_kill() - No new lookups and hand-outs once it has returned; holders
 * go on. One-way, idempotent, and by many at a time (R9, R12, R21). */
void pgmap_kill(struct pgmap *map);
/**
 * pgmap_destroy() - Kill, wait until no page is held, free (R10, R13).
 *
 * Context: Sleeps as long as any page of the map has a count, or somebody a
 *          reference from pgmap_lookup(). Must not hold either.
 * Return: 0, or -EINVAL: there is no such map any more (R21); that is seen only
 *         until another map is created, which may get the same address.
 */
int pgmap_destroy(struct pgmap *map);
/**
 * pgmap_lookup() - Find the live map of a page. Linux: get_dev_pagemap().
 * @hint: Result of an earlier call, whose reference is used up, or NULL.
 *
 * Context: Any; lock-free.
 * Return: the map with a reference for pgmap_put(), or NULL: no map there, or
 *         a dying one (R8, R9).
 */
struct pgmap *pgmap_lookup(uint64_t pfn, struct pgmap *hint);
/** pgmap_put() - Drop a reference from pgmap_lookup(). */
void pgmap_put(struct pgmap *map);
/** pgmap_is_dying() - Has it been killed? Advisory: may become true right
 * after (R67). */
bool pgmap_is_dying(const struct pgmap *map);
enum pgmap_type pgmap_get_type(const struct pgmap *map);
void *pgmap_get_owner(const struct pgmap *map);
void *pgmap_get_data(const struct pgmap *map);
/** pgmap_range_get() - The @i-th range. Return: 0 or -EINVAL. */
int pgmap_range_get(const struct pgmap *map, uint32_t i,
		    struct pgmap_range *range);

/* ---- 0 to 1: for the allocator of the map ---- */

/**
 * pgmap_get_folio() - Hand out 2^@order pages from @pfn: count 0 to 1 (R60).
 *
 * The folio comes locked, with count 1, not mapped anywhere (R35, R36).
 *
 * Return: 0; -EINVAL outside the map, reserved, not aligned to its order, or
 *         below the map's folio order; -ENODEV the map is dying; -EBUSY a page
 *         of it is in use, or its last put is not quite through; -EHWPOISON a
 *         page of it is bad. Nothing changed then (R12, R33).
 */
int pgmap_get_folio(struct pgmap *map, uint64_t pfn, unsigned int order,
		    struct pgmap_folio **folio);
/**
 * pgmap_get_folios() - Hand out exactly [@pfn, @pfn + @nr), all or nothing, as
 * the fewest folios that alignment allows (R61).
 * @folios: Out: the folios in order of pfn, each as from pgmap_get_folio().
 * @max:    Room at @folios.
 * @n:      Out: how many; set on -ENOSPC too.
 *
 * Return: 0; -ENOSPC more than @max folios; as pgmap_get_folio(), -EINVAL also
 *         when it is not in one range of the map.
 */
int pgmap_get_folios(struct pgmap *map, uint64_t pfn, uint64_t nr,
		     struct pgmap_folio **folios, size_t max, size_t *n);
/**
 * pgmap_construct_folio() - Make one folio of 2^@order pages that the caller
 * holds: each in a locked folio of lower order with one reference, his (R62).
 *
 * The references become the one of the new folio, which is locked.
 *
 * The mapping and index of the first page are the folio's.
 *
 * Return: 0; -EINVAL outside the map, not aligned, a page that is in no locked
 *         folio of a lower order, or that another group pays for; -EBUSY
 *         somebody else holds, maps or pins a page. Nothing changed then.
 */
int pgmap_construct_folio(struct pgmap *map, uint64_t pfn, unsigned int order,
			  struct pgmap_folio **folio);
/**
 * pgmap_split_folio() - Cut a locked folio, held once and mapped nowhere, into
 * folios of 2^@order pages, each locked, with a reference of the caller's.
 *
 * Calls folio_split for each but the first, in order of pfn, then once with
 * NULL (R108); nobody can take a reference on any of them until it is through.
 *
 * Return: 0; -EINVAL not locked, @order not below its own or below the map's;
 *         -EAGAIN others hold, map or pin it: nothing changed (R48, N18).
 */
int pgmap_split_folio(struct pgmap_folio *folio, unsigned int order);

/* ---- References ---- */

/** pgmap_folio_tryget() - Take a reference unless the count is 0 (R34).
 * The caller must look again at what led it to the folio. */
bool pgmap_folio_tryget(struct pgmap_folio *folio);
/** pgmap_tryget_pfn() - The folio that has page @pfn, with a reference, or NULL
 * if it is in none, or is just changing hands (R102, N52).
 * Context: Any; lock-free; nothing need be held. */
struct pgmap_folio *pgmap_tryget_pfn(uint64_t pfn);
/** pgmap_folio_get() - Take one more reference; a count of 0 is a bug (R55). */
void pgmap_folio_get(struct pgmap_folio *folio);
/** pgmap_folio_put() - Drop a reference; the last one frees (R38). */
void pgmap_folio_put(struct pgmap_folio *folio);
/** pgmap_folio_wait_idle() - Wait until nobody holds @folio: count 0 (R42).
 * Its map must not be destroyed before this is called; pgmap_destroy() waits
 * for who is in it.
 * @timeout_ns: At most so long; 0 for ever.
 * Return: 0 or -ETIMEDOUT. It may be held again by then. */
int pgmap_folio_wait_idle(struct pgmap_folio *folio, uint64_t timeout_ns);
/** pgmap_folio_pin() - A reference that the caller holds becomes a pin: it
 * stands for somebody who reads or writes the pages by other means than a page
 * table (R157, R158, R166). */
void pgmap_folio_pin(struct pgmap_folio *folio);
/** pgmap_folio_unpin() - Drop a pin and its reference. Who has written tells
 * first that the pages are dirty (R164). */
void pgmap_folio_unpin(struct pgmap_folio *folio);
bool pgmap_folio_trylock(struct pgmap_folio *folio);
void pgmap_folio_unlock(struct pgmap_folio *folio);

/* What follows means something only while the caller holds a reference. */
unsigned int pgmap_folio_order(const struct pgmap_folio *folio);
uint32_t pgmap_folio_count(const struct pgmap_folio *folio);
/** pgmap_folio_mapcount() - Page-table entries of any size that name it. */
uint32_t pgmap_folio_mapcount(const struct pgmap_folio *folio);
/** pgmap_folio_pins() - Pins; exact at every order (R158). */
uint32_t pgmap_folio_pins(const struct pgmap_folio *folio);
uint64_t pgmap_folio_pfn(const struct pgmap_folio *folio);
struct pgmap *pgmap_folio_map(const struct pgmap_folio *folio);
/** The reserved bit says "not ordinary RAM" to whoever asks, and decides
 * nothing (R190). */
bool pgmap_folio_reserved(const struct pgmap_folio *folio);
void pgmap_folio_set_reserved(struct pgmap_folio *folio, bool reserved);

/* ---- An allocator for who has none ---- */

struct pgmap_allocator;

/**
 * pgmap_allocator_create() - A buddy allocator over page maps (R20, R63).
 *
 * Context: All functions of an allocator may be called from any thread;
 *          pgmap_allocator_free() from folio_free.
 * Return: 0 or -ENOMEM.
 */
int pgmap_allocator_create(struct pgmap_allocator **a);
/** pgmap_allocator_add() - Let it hand out the pages of @map, which are all
 * idle, and which nobody else hands out from now on. Nothing is written for
 * them. Return: 0, -ENOMEM, -EINVAL it has it already, -EBUSY somebody holds a
 * page of it, or it. */
int pgmap_allocator_add(struct pgmap_allocator *a, struct pgmap *map);
/** pgmap_allocator_remove() - Hand out no more pages of @map, once it has
 * returned; those in use stay in use, and are forgotten when freed (R14). Must
 * come before pgmap_destroy(), unless the allocator goes too. */
void pgmap_allocator_remove(struct pgmap_allocator *a, struct pgmap *map);
/** pgmap_allocator_get() - Hand out 2^@order free pages, as pgmap_get_folio().
 * Return: 0; -ENOSPC none free; -ENODEV all its maps are dying; -EINVAL the
 *         order is too large, or too small for each of its maps; -EBUSY
 *         somebody else has handed out what it has. */
int pgmap_allocator_get(struct pgmap_allocator *a, unsigned int order,
			struct pgmap_folio **folio);
/** pgmap_allocator_free() - Take the pages of @folio back: for folio_free. */
void pgmap_allocator_free(struct pgmap_allocator *a, struct pgmap_folio *folio);
/** pgmap_allocator_nr_free() - Pages that could be handed out. */
uint64_t pgmap_allocator_nr_free(struct pgmap_allocator *a);
/** pgmap_allocator_destroy() - All its pages are idle, and its maps are removed
 * or destroyed. NULL is fine. */
void pgmap_allocator_destroy(struct pgmap_allocator *a);

/* ---- Memory groups ---- */

/**
 * pgmap_group_create() - Something that pays for pages, with a limit in pages.
 * Return: 0; -ENOMEM; -ENOSPC too many groups.
 */
int pgmap_group_create(uint64_t limit, struct pgmap_group **group);
/** pgmap_group_destroy() - Return: 0, or -EBUSY: it pays for pages. */
int pgmap_group_destroy(struct pgmap_group *group);
/** pgmap_group_charged() - Pages it pays for, RAM and device alike. */
uint64_t pgmap_group_charged(const struct pgmap_group *group);
/** pgmap_group_charge() - Make it pay for @nr pages of RAM.
 * Return: 0, or -ENOMEM: over its limit, nothing charged. */
int pgmap_group_charge(struct pgmap_group *group, uint64_t nr);
void pgmap_group_uncharge(struct pgmap_group *group, uint64_t nr);
/**
 * pgmap_folio_charge() - From now on @group pays for the folio, until its last
 * put, or until pgmap_folio_uncharge() moves the charge to RAM.
 * @moved: The charge of as many pages of RAM becomes the folio's: cannot fail
 *         (R92, R180). Otherwise it is a new charge.
 *
 * Only PRIVATE and COHERENT pages are charged; others cost nothing (R181).
 * Context: holds the folio's lock.
 * Return: 0; -ENOMEM over the limit; -EINVAL somebody pays for it already.
 */
int pgmap_folio_charge(struct pgmap_folio *folio, struct pgmap_group *group,
		       bool moved);
/** pgmap_folio_uncharge() - The folio's charge becomes that of RAM (the pages
 * it stood for came back). Return: its group, or NULL if it had none. */
struct pgmap_group *pgmap_folio_uncharge(struct pgmap_folio *folio);

#ifdef __cplusplus
}
#endif

#endif
