/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * runtime.h - pgmap inside a program that knows nothing of it.
 *
 * runtime.c starts (constructor, environment, system-call layer), hook.c
 * decides what each system call means for us, adopt.c knows which memory is
 * the program's and when it must be managed, fork.c forks.
 *
 * Three stages, each entered when the one before may not be enough:
 *   joined   only the bytes that are mapped are counted
 *   started  those of the tree are a part of its budget: F and K run, K
 *            watches what is resident
 *   armed    that nears the budget in all of the tree: memory is managed
 *            from now on
 */
#ifndef PG_RUNTIME_H
#define PG_RUNTIME_H

#include "base/atomic.h"
#include "base/lock.h"
#include "base/ranges.h"
#include "core/mm.h"
#include "open.h"
#include "runtime/control.h"
#include "runtime/syscall.h"

/** Mappings below this are not worth managing. */
#define PG_ADOPT_MIN ((size_t)64 << 10)
#define PG_MAX_RANGES 65536u

struct pg_runtime {
	char name[PG_CONTROL_NAME_MAX]; /* of the control socket */
	size_t name_len;
	char preload[256];
	pid_t pid;
	struct pg_control *control;
	struct pg_control_proc *proc; /* NULL: no slot was free */

	/* Stage: NULL before started. Set by the thread that starts, under
	 * lock; release, acquire. */
	_Atomic(struct pgmap_mm *) mm;
	pg_atomic32 armed;  /* release by K, acquire by hooks */
	pg_atomic32 off;    /* gave up: manage nothing more; relaxed */
	pg_atomic32 looked; /* K may have begun to look what is mapped; seq_cst,
			     * see pg_adopt_end() */
	/* At most this much can become resident: what was private and writable
	 * when last asked, and what was mapped since; relaxed. */
	pg_atomic64 reach;
	pg_atomic64 coming;   /* of it, in calls that have not ended; seq_cst */
	pg_atomic32 changing; /* calls that change mappings and hold no LOCK_MM,
			       * for there is no mm; seq_cst, see arm() */
	pg_atomic32 zerocopy; /* pages may sit in a socket; release */
	/* Where the faults of system calls are not served: who holds what.
	 * NULL where they are. Set once, before there is another thread. */
	struct pg_holds *holds;
	bool signal; /* with holds: faults are signals; likewise */

	struct pg_lock lock;	    /* LOCK_FORK: starting, brk */
	uintptr_t brk;		    /* lock; end of the heap, 0 not known */
	pg_atomic32 foreign;	    /* something of apart may be; relaxed */
	struct pg_lock ranges_lock; /* LOCK_LEAF: the next three */
	/* Never managed; tag: offset in struct pgmap_left_alone. */
	struct pg_ranges apart;
	/* Not in a fork child, or zeros there; tag: the MADV_ value. */
	struct pg_ranges nofork;
	struct pgmap_left_alone left; /* K only */
	uint64_t rescan_at;	      /* K only */
	uint64_t count_from; /* K only; of a fork child: see the tick */
};

extern struct pg_runtime pg_rt;

/** pg_runtime_start() - From the constructor of the preload library. */
void pg_runtime_start(char **environ_);
/** pg_runtime_publish() - Bring the shared counters up to date. Any thread. */
void pg_runtime_publish(void);

/* hook.c */
int pg_hook(struct pg_call *call);
/** pg_hook_init() - Show pg_hook() the calls it needs. */
void pg_hook_init(void);
/** pg_hook_hold() - Bring what @h names to RAM and keep it there until
 * pg_hold_drop(). Context: a thread of the program that holds no lock. */
void pg_hook_hold(struct pg_hold *h);
/** pg_hook_reap() - Drop what was left behind. Return: how many. */
unsigned int pg_hook_reap(void);
/** pg_hook_find() - Hold all that @call uses in @h[0] .. @h[@nr - 1], which are
 * filled in. Context: as above. Return: is there anything? */
bool pg_hook_find(const struct pg_call *call, struct pg_hold *h,
		  unsigned int nr);
/** pg_hook_drop() - The opposite. */
void pg_hook_drop(struct pg_hold *h, unsigned int nr);
/** pg_hook_thread() - What tells the threads of the program apart. */
static inline uintptr_t pg_hook_thread(void)
{
	return (uintptr_t)__builtin_thread_pointer();
}

/* fork.c */
/** pg_fork() - Make the fork-like call @call; returns in both processes. */
void pg_fork(struct pg_call *call);
/** pg_exec() - Make the exec call @call with our variables in its
 * environment. Returns only when it failed. */
void pg_exec(struct pg_call *call);

/* adopt.c */
/** pg_adopt_init() - Note what must stay apart from the start. */
void pg_adopt_init(void);
/** pg_adopt_begin() - A call is about to map @len more bytes, or to make them
 * writable; may start F and K. Context: signals blocked; no lock held. */
void pg_adopt_begin(size_t len);
/** pg_adopt_end() - It has, or has failed. @managed: it knew that memory is
 * managed, and saw to it. Context: as pg_adopt_begin(). */
void pg_adopt_end(size_t len, bool managed);
/** pg_adopt_lock() - mlockall(@flags), but of the program's memory only.
 * Return: as the call. */
long pg_adopt_lock(long flags);
/** pg_adopt_tick() - K's regular work. */
uint64_t pg_adopt_tick(void *ctx, struct pgmap_mm *mm);
/** pg_apart_add() - Never manage [@start, @end): reason is the name in
 * PGMAP_LEFT_ALONE. What is managed of it is released. */
#define pg_apart_add(start, end, why)                                          \
	pg_apart_add_(start, end, offsetof(struct pgmap_left_alone, why))
void pg_apart_add_(uintptr_t start, uintptr_t end, size_t reason);
/** pg_apart_foreign() - Is @addr watched by a userfaultfd of the program? */
bool pg_apart_foreign(uintptr_t addr);
/** pg_ranges_unmapped() - [@start, @end) is unmapped, or mapped anew: nothing
 * that was said of it holds. */
void pg_ranges_unmapped(uintptr_t start, uintptr_t end);
/** pg_nofork_set() - What MADV_DONTFORK, DOFORK, WIPEONFORK, KEEPONFORK said.
 */
void pg_nofork_set(uintptr_t start, uintptr_t end, int advice);
/** pg_nofork_get() - The MADV_ value that holds at @addr, or 0. */
int pg_nofork_get(uintptr_t addr);
/** pg_nofork_child() - In a fork child: forget what is not there. Holds
 * LOCK_MM for writing. */
void pg_nofork_child(struct pgmap_mm *mm);
/** pg_apart_release() - Bring [@start, @end) to RAM, stop managing it and
 * keep it apart from now on. */
void pg_apart_release(uintptr_t start, uintptr_t end, size_t reason);
/** pg_adopt_start() - Start F and K if they do not run yet. Context: signals
 * blocked; no lock held. Return: the instance, or NULL. */
struct pgmap_mm *pg_adopt_start(void);
/** pg_adopt_mappings() - Manage what may be managed of each mapping that has a
 * part of a range. Context: as pg_adopt_range(). */
void pg_adopt_mappings(struct pgmap_mm *mm, uintptr_t start, uintptr_t end);
/** pg_adopt_threads() - How many there are, ours with them. */
long pg_adopt_threads(void);
/** pg_private_file_replace() - Make the program's own pages of private mappings
 * of files anonymous in [@start, @end). Context: as pg_adopt_range(). Return:
 * 0; -EBUSY there are other threads; what the kernel said. */
int pg_private_file_replace(struct pgmap_mm *mm, uintptr_t start,
			    uintptr_t end);
/** pg_adopt_range() - Manage what may be managed of a mapping of the program.
 * Context: on K, or by pg_host_run(); holds LOCK_MM for writing. */
void pg_adopt_range(struct pgmap_mm *mm, uintptr_t start, uintptr_t end);

#endif
