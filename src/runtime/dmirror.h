/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * dmirror.h - a device that uses the program's memory by its own page table.
 *
 * What a driver with HMM does, on the memory of this process: dmirror.c fills
 * and uses the table, dmirror_file.c shows it as files, in the way of the test
 * driver of Linux. A mirror belongs to one process.
 */
#ifndef PG_DMIRROR_H
#define PG_DMIRROR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/lock.h"
#include "base/radix.h"
#include "core/notifier.h"
#include "runtime/syscall.h"

struct pgmap_mm;

/** struct pg_dmirror - A mirror. Zeroed but for @mm, @owner and @coherent. */
struct pg_dmirror {
	struct pgmap_mm *mm;
	uint8_t owner; /* of its unit */
	bool coherent;
	struct pg_notifier notifier;
	struct pg_lock lock;	   /* LOCK_MIRROR */
	struct pg_radix table;	   /* lock; by page number */
	struct pg_radix_pool pool; /* lock */
};

/** struct pg_dmirror_done - What came of a command. */
struct pg_dmirror_done {
	uint64_t pages;
	uint64_t faults; /* rounds in which the table was filled */
};

/** pg_dmirror_start() - From now on it is told of changes. Context: signals
 * blocked; no lock held, as for all below. */
void pg_dmirror_start(struct pg_dmirror *m);
/** pg_dmirror_stop() - It is told no more, its table is empty, and what its
 * unit has of this process is in RAM (R179). */
void pg_dmirror_stop(struct pg_dmirror *m);

/*
 * The commands, on @nr pages from @va on. @buf: their bytes; one byte a page
 * for pg_dmirror_snapshot(), as dmirror_file.c shows it. Return: 0; -EFAULT,
 * -EPERM as pg_hmm_range_fault(); -EBUSY for a second; -EINVAL something in the
 * range is no memory that can be read; -ENOENT some pages did not come to the
 * unit; -ENOMEM; -EIO.
 */
int pg_dmirror_read(struct pg_dmirror *m, uintptr_t va, size_t nr, char *buf,
		    struct pg_dmirror_done *done);
int pg_dmirror_write(struct pg_dmirror *m, uintptr_t va, size_t nr, char *buf,
		     struct pg_dmirror_done *done);
int pg_dmirror_to_device(struct pg_dmirror *m, uintptr_t va, size_t nr,
			 char *buf, struct pg_dmirror_done *done);
int pg_dmirror_to_system(struct pg_dmirror *m, uintptr_t va, size_t nr,
			 struct pg_dmirror_done *done);
int pg_dmirror_exclusive(struct pg_dmirror *m, uintptr_t va, size_t nr,
			 char *buf, struct pg_dmirror_done *done);
/** Return: -EPERM it has some of it for itself. */
int pg_dmirror_check_exclusive(struct pg_dmirror *m, uintptr_t va, size_t nr);
int pg_dmirror_snapshot(struct pg_dmirror *m, uintptr_t va, size_t nr,
			uint8_t *buf, struct pg_dmirror_done *done);
/** pg_dmirror_release() - Bring back all that the unit has. */
int pg_dmirror_release(struct pg_dmirror *m);
/** pg_dmirror_pin() - As somebody does who wants to use pages for a while, by
 * get_user_pages() (R155). @longterm: for good, so not on a device. */
int pg_dmirror_pin(struct pgmap_mm *mm, uintptr_t va, size_t nr, bool longterm);

/* ---- dmirror_file.c ---- */

/** pg_dmirror_init() - See the calls below. After pg_syscall_set_hook(). */
void pg_dmirror_init(void);
/** pg_dmirror_wants() - Is it a call for a file of ours? */
bool pg_dmirror_wants(const struct pg_call *call);
/** pg_dmirror_call() - Make it. Context: signals blocked. Return: as a hook. */
int pg_dmirror_call(struct pg_call *call);
/** pg_dmirror_mapped() - Such a file, perhaps, was mapped: its pages are there.
 */
void pg_dmirror_mapped(const struct pg_call *call);
/** pg_dmirror_fork() - Before a fork: what is shared from now on is looked at
 * again. Holds LOCK_MM for writing. */
void pg_dmirror_fork(struct pgmap_mm *mm);
/** pg_dmirror_forked() - In a fork child: its parent's mirrors mirror nothing
 * here. */
void pg_dmirror_forked(struct pgmap_mm *mm);

#endif
