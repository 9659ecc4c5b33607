/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pgmap.h - device memory behind ordinary pointers: what a program calls.
 *
 * Here: an address space whose cold pages live on a device (struct pgmap_mm).
 * In pagemap.h: page maps, the ZONE_DEVICE model that it stands on (struct
 * pgmap). Rules that hold for every function of both:
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

#include <pgmap/pagemap.h>
#include <pgmap/stat.h>

#ifdef __cplusplus
extern "C" {
#endif

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
 * One thread serves faults and one evicts; both are unknown to libc. After
 * fork() the child has no mapping at addresses that are managed: a touch there
 * is a SIGSEGV. `pgmap run` is for programs that fork.
 *
 * Return: 0; what the device's open said; -EPERM no right to use userfaultfd;
 *         -EINVAL less than 8 MB or 32 folios, or no device; -ENOMEM.
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
/** pgmap_mm_remap_begin() - mremap() is about to move a range. Inside
 * begin/end, before the system call.
 * Return: 0; -EINVAL not aligned; -ENOMEM: then the range must not move. */
int pgmap_mm_remap_begin(struct pgmap_mm *mm, void *old, size_t old_len);
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
