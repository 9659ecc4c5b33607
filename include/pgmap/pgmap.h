/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pgmap.h - device memory behind ordinary pointers: what a program calls.
 *
 * Two parts: an address space whose cold pages live on a device (struct
 * pgmap_mm), and page maps, the ZONE_DEVICE model that it stands on (struct
 * pgmap). Rules that hold for every function here:
 *  - returns 0 or a negative errno; results come back through the last pointer;
 *  - errno is never read and never set;
 *  - sizes and lengths are in bytes unless the name says pages;
 *  - functions are thread-safe unless their comment says otherwise.
 *
 * What the errors mean:
 *   -EAGAIN       lost a race with another change; nothing happened: again
 *   -EBUSY        pinned, in use, or watched by somebody else: later
 *   -EFAULT       address not ours
 *   -EHWPOISON    contents are lost
 *   -EINVAL       the caller broke the comment
 *   -EIO          device failed; contents unknown
 *   -ENODEV       hardware, library or server absent, or being removed
 *   -ENOMEM       no host memory; -ENOSPC: no space on the device
 *   -EOPNOTSUPP   this device, MMU or build cannot
 */
#ifndef PGMAP_H
#define PGMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <pgmap/stat.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Page maps: who owns which device pages (semantics.md 2, 3, 4) ---- */

struct pgmap;	    /* a page map     Linux: struct dev_pagemap */
struct pgmap_folio; /* 2^order pages  Linux: struct folio */

/** enum pgmap_type - What the pages of a map are (R1, R2). 0 is invalid on
 * purpose: a zeroed struct must not work by chance. */
enum pgmap_type {
	PGMAP_PRIVATE = 1,   /* the CPU cannot address it */
	PGMAP_COHERENT = 2,  /* it can; the driver manages it */
	PGMAP_FS_DAX = 3,    /* it can; a file system allocates it */
	PGMAP_GENERIC = 4,   /* it can; a device file maps it */
	PGMAP_PCI_P2PDMA = 5 /* device BAR memory for peers */
};

/** Page frame numbers below this are system memory's (R4). */
#define PGMAP_FIRST_DEVICE_PFN ((uint64_t)1 << 36)
#define PGMAP_MAX_RANGES 8
/** Ranges are multiples of a subsection: 2 MB (R5). */
#define PGMAP_SUBSECTION_PAGES 512u
/** The largest folio is 2^PGMAP_MAX_ORDER pages. */
#define PGMAP_MAX_ORDER 9u

struct pgmap_range {
	uint64_t pfn;
	uint64_t nr; /* pages */
};

struct pgmap_fault; /* a CPU fault being handled; opaque */

/**
 * struct pgmap_ops - What the driver of a map does (R3).
 * @folio_free:     The last reference is gone: put the folio's pages on your
 *                  free list. Context: any last put; must not sleep, must not
 *                  take a lock that is held around a put (R44). The folio may
 *                  be handed out again before it returns.
 * @migrate_to_ram: The CPU touched a page of the folio, which is locked and
 *                  referenced by the caller: bring it back. Return: 0 or a
 *                  negative errno, which is final for the thread (R90).
 */
struct pgmap_ops {
	size_t size;
	void (*folio_free)(struct pgmap_folio *folio);
	int (*migrate_to_ram)(struct pgmap_fault *fault);
};

/**
 * struct pgmap_desc - What to create.
 * @range: Where; pfn 0 in the only range of a PRIVATE map: choose for me.
 * @owner: Who; equal owners may see each other's private pages (R16).
 * @data:  The driver's.
 */
struct pgmap_desc {
	size_t size;
	enum pgmap_type type;
	uint32_t nr_range;
	struct pgmap_range range[PGMAP_MAX_RANGES];
	const struct pgmap_ops *ops;
	void *owner;
	void *data;
};

/**
 * pgmap_create() - Make a page map. Linux: memremap_pages().
 *
 * All pages are idle: count 0. Nothing is written for them until they are
 * handed out, so a map of any size costs the same.
 *
 * Context: May sleep. Takes LOCK_PAGEMAP.
 * Return: 0; -EINVAL unknown type, no range, range not a multiple of a
 *         subsection or wrapping, ops or owner missing that the type needs
 *         (R1, R3, R4, R5); -EOPNOTSUPP a type this build has not got yet;
 *         -ENXIO intersects system memory; -ENOMEM overlaps another map, a
 *         dying one too (R6), or no memory; -ENOSPC too many maps. Nothing is
 *         left behind (R7).
 */
int pgmap_create(const struct pgmap_desc *desc, struct pgmap **map);

/** pgmap_kill() - No new lookups and hand-outs from now on; holders go on.
 * One-way, idempotent (R9, R12, R21). */
void pgmap_kill(struct pgmap *map);

/**
 * pgmap_destroy() - Kill, wait until no page is held, free (R10, R13).
 *
 * Context: Sleeps as long as any page of the map has a count. Must not hold
 *          a page of it.
 * Return: 0, or -EINVAL: there is no such map any more (R21).
 */
int pgmap_destroy(struct pgmap *map);

/**
 * pgmap_lookup() - Find the live map of a page. Linux: get_dev_pagemap().
 * @hint: Result of an earlier call, whose reference is used up, or NULL.
 *
 * Return: the map with a reference for pgmap_put(), or NULL: no map there, or
 *         a dying one (R8, R9).
 */
struct pgmap *pgmap_lookup(uint64_t pfn, struct pgmap *hint);
/** pgmap_put() - Drop a reference from pgmap_lookup(). */
void pgmap_put(struct pgmap *map);
/** pgmap_is_dying() - Advisory: may become true right after (R67). */
bool pgmap_is_dying(const struct pgmap *map);
enum pgmap_type pgmap_get_type(const struct pgmap *map);
void *pgmap_get_data(const struct pgmap *map);
/** pgmap_range_get() - The @i-th range. Return: 0 or -EINVAL. */
int pgmap_range_get(const struct pgmap *map, uint32_t i,
		    struct pgmap_range *range);

/**
 * pgmap_get_folio() - Hand out 2^@order pages from @pfn: count 0 to 1 (R60).
 *
 * For the allocator of the map only, which knows that the pages are free. The
 * folio comes locked, with count 1, not mapped anywhere (R35, R36).
 *
 * Return: 0; -EINVAL outside the map, or not aligned to its order; -ENODEV the
 *         map is dying; -EBUSY the page is in use. Nothing changed then (R12).
 */
int pgmap_get_folio(struct pgmap *map, uint64_t pfn, unsigned int order,
		    struct pgmap_folio **folio);

/** pgmap_folio_tryget() - Take a reference unless the count is 0 (R34).
 * The caller must look again at what led it to the folio. */
bool pgmap_folio_tryget(struct pgmap_folio *folio);
/** pgmap_folio_get() - Take one more reference; a count of 0 is a bug (R55). */
void pgmap_folio_get(struct pgmap_folio *folio);
/** pgmap_folio_put() - Drop a reference; the last one frees (R38). */
void pgmap_folio_put(struct pgmap_folio *folio);
bool pgmap_folio_trylock(struct pgmap_folio *folio);
void pgmap_folio_unlock(struct pgmap_folio *folio);
unsigned int pgmap_folio_order(const struct pgmap_folio *folio);
uint32_t pgmap_folio_count(const struct pgmap_folio *folio);
uint64_t pgmap_folio_pfn(const struct pgmap_folio *folio);
struct pgmap *pgmap_folio_map(const struct pgmap_folio *folio);

/* ---- An address space whose cold pages live on a device ---- */

struct pgmap_mm; /* Linux: mm_struct */

/**
 * struct pgmap_mm_config - What kind of instance.
 * @ram:        Budget in bytes for managed memory in RAM, buffers included.
 * @device:     "NAME[:OPTIONS]".
 * @folio_size: Bytes that move together: a power of two, 4 KB .. 2 MB.
 */
struct pgmap_mm_config {
	size_t size;
	uint64_t ram;
	const char *device;
	uint64_t folio_size;
};

/**
 * pgmap_mm_create() - Open a device and start to serve faults.
 * @error: Out, on failure: one line that names the cause and the way out.
 *
 * One thread serves faults and one evicts; both are unknown to libc.
 *
 * Return: 0; what the device's open said; -EPERM no right to use userfaultfd;
 *         -EINVAL; -ENOMEM.
 */
int pgmap_mm_create(const struct pgmap_mm_config *config, struct pgmap_mm **mm,
		    char *error, size_t error_len);
/** pgmap_mm_destroy() - Bring everything back to RAM and stop. NULL is fine.
 * Return: 0, or -EIO: pages that could not be loaded are lost; touching them
 * raises SIGBUS as long as they stay mapped. */
int pgmap_mm_destroy(struct pgmap_mm *mm);

/**
 * pgmap_mm_adopt() - Manage a range of private anonymous memory.
 * @addr, @len: Multiples of a page.
 *
 * What is in RAM stays there until it is the coldest. Ranges that are managed
 * already are skipped.
 *
 * Return: 0; -EBUSY another userfaultfd watches it (N56); -EINVAL not private
 *         anonymous memory, or not aligned; -ENOMEM not mapped.
 */
int pgmap_mm_adopt(struct pgmap_mm *mm, void *addr, size_t len);
/** pgmap_mm_release() - Load what is away and stop managing the range.
 * Return: 0; -EIO part of it is lost and reads as SIGBUS; -ENOMEM no memory
 *         for it, or too many ranges: it stays managed. */
int pgmap_mm_release(struct pgmap_mm *mm, void *addr, size_t len);

/**
 * pgmap_mm_change_begin() - The caller is about to change mappings.
 *
 * Until pgmap_mm_change_end() no page of @mm moves and no fault is served:
 * threads that touch an absent page wait. Between the two the caller tells
 * what it does with pgmap_mm_remove() and friends, makes its system call, and
 * must not itself touch managed memory.
 */
void pgmap_mm_change_begin(struct pgmap_mm *mm);
void pgmap_mm_change_end(struct pgmap_mm *mm);
/** pgmap_mm_remove() - The contents of a range are dropped (MADV_DONTNEED):
 * it reads as zeros. Inside begin/end, before the system call. */
void pgmap_mm_remove(struct pgmap_mm *mm, void *addr, size_t len);
/** pgmap_mm_unmap() - The range is unmapped, or mapped over. As remove. */
void pgmap_mm_unmap(struct pgmap_mm *mm, void *addr, size_t len);
/**
 * pgmap_mm_remap() - mremap() has moved @old to @new_ and may have changed its
 * length. Inside begin/end, after the system call.
 *
 * @new_ is managed from here on, @old as far as it is still mapped.
 * Return: 0; -EINVAL not aligned; else as pgmap_mm_adopt(): then what was away
 *         must not be touched at @new_ before that has been tried again.
 */
int pgmap_mm_remap(struct pgmap_mm *mm, void *old, size_t old_len, void *new_,
		   size_t new_len);

/**
 * pgmap_migrate() - Move the pages behind a range to the device, or to RAM.
 * @to_device: Where to.
 * @moved:     Bytes that moved. May be NULL. Set on error too.
 *
 * Best effort, as migrate_vma_setup() is in Linux: a page that is pinned,
 * already in flight or refused by the device stays where it is and is not
 * counted. Contents are preserved. Another thread that touches a page in
 * flight waits until it has arrived.
 *
 * Context: May sleep. Takes LOCK_MM, LOCK_FOLIO, LOCK_PT. Not for use from a
 *          driver operation or a signal handler.
 * Return: 0 when every page was considered, even if none could move.
 *         -EFAULT  part of the range is not managed by @mm; nothing moved
 *         -EINVAL  @addr or @len is not a multiple of a page, or they overflow
 */
int pgmap_migrate(struct pgmap_mm *mm, void *addr, size_t len, bool to_device,
		  size_t *moved);

/** pgmap_stat_get() - Copy the counters. @st->size must be set first.
 * Return: 0, or -EINVAL if @st->size is 0 or not a multiple of 8. */
int pgmap_stat_get(struct pgmap_mm *mm, struct pgmap_stat *st);

/** pgmap_check() - Do all invariants hold? Stops the world for it.
 * @what: Out: the first rule that is broken, "" if none.
 * Return: 0 or -EUCLEAN. */
int pgmap_check(struct pgmap_mm *mm, char *what, size_t what_len);

#ifdef __cplusplus
}
#endif
#endif
