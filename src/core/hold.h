/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * hold.h - memory that stays in RAM while a system call uses it.
 *
 * Without permission to serve faults of the kernel, a system call that reaches
 * an absent page fails with EFAULT, perhaps after half of its work, and cannot
 * be made again. So its buffers are held: from pg_hold_take() to
 * pg_hold_drop() no page of them leaves, and what is away comes before the
 * call is made.
 *
 * Nobody waits for a holder, and a holder takes no lock. Eviction marks its
 * pages as MIGRATING and then looks who holds them; a holder says what it
 * holds and then looks at the entries. Between each pair there is a fence, so
 * at least one sees the other. In the same way adoption says that the ranges
 * change and then looks who holds, and leaves what is held unmanaged.
 *
 * A signal handler may leave a call for good (siglongjmp), and a thread may be
 * cancelled in it. What it held is found by K: the word on its stack that
 * names the hold has been overwritten, or is mapped no more.
 */
#ifndef PG_HOLD_H
#define PG_HOLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/atomic.h"

struct pgmap_mm;

#define PG_HOLD_RANGES 30u
/** More ranges in one call are held together with what lies between. The last
 * one is for pg_hold_add_own(). */
#define PG_HOLD_OTHERS (PG_HOLD_RANGES - 1)
/** Calls at one time. */
#define PG_HOLD_SLOTS 8192u

/** struct pg_hold - On the stack of who makes the call. Before
 * pg_hold_take() it only collects. */
struct pg_hold {
	pg_atomic64 cookie; /* of its slot while it holds; relaxed */
	uint32_t slot;
	uint32_t nr;
	struct {
		uintptr_t start, end; /* whole pages */
	} range[PG_HOLD_RANGES];
};

/** struct pg_hold_slot - What a struct pg_hold says to others. All relaxed
 * but @state. */
struct pg_hold_slot {
	/* 0: free; 1: being filled in; else the cookie. Store release, load
	 * acquire. */
	_Alignas(64) pg_atomic64 state;
	pg_atomic64 owner;  /* address of its struct pg_hold */
	pg_atomic64 thread; /* whose it is */
	pg_atomic32 serial; /* of its cookies */
	pg_atomic32 nr;
	struct {
		pg_atomic64 start, end;
	} range[PG_HOLD_RANGES];
};

struct pg_holds {
	pg_atomic32 high; /* slots [0, high) may be in use; relaxed */
	struct pg_hold_slot *slot;
};

/** pg_holds_init() - A zeroed @t. Return: 0 or -ENOMEM. */
int pg_holds_init(struct pg_holds *t);
void pg_holds_fini(struct pg_holds *t);

static inline void pg_hold_init(struct pg_hold *h)
{
	pg_store(&h->cookie, 0, relaxed);
	h->nr = 0;
}

/** pg_hold_add() - @h is to hold the pages of [@va, @va + @len), too. Whether
 * anything is there does not matter. */
void pg_hold_add(struct pg_hold *h, uintptr_t va, size_t len);

/** pg_hold_add_own() - The same for one range, once all others are there: what
 * lies between it and them is never held. For the stack that @h is on. */
void pg_hold_add_own(struct pg_hold *h, uintptr_t va, size_t len);

/**
 * pg_hold_take() - From now on nothing of @h leaves or becomes managed.
 * @thread: Any number that the threads do not share.
 *
 * What is away now is so still: see pg_hold_missing().
 * Return: false: all slots are in use.
 */
bool pg_hold_take(struct pg_holds *t, struct pg_hold *h, uintptr_t thread);
void pg_hold_drop(struct pg_holds *t, struct pg_hold *h);

/** pg_hold_missing() - A managed page of @h, which is taken, that may not be
 * in RAM: 0 when all are. They stay so until it is dropped. */
uintptr_t pg_hold_missing(struct pgmap_mm *mm, const struct pg_hold *h);

/** pg_hold_copy() - What slot @i, which stays taken, holds: for who must not
 * read the stack of who took it. */
void pg_hold_copy(const struct pg_holds *t, uint32_t i, struct pg_hold *h);

/**
 * pg_hold_bring() - Load what is missing of @h. On a thread with the
 * descriptors of the MMU.
 *
 * What cannot be there (it is not mapped, or lost) is left so: then the
 * system call fails as it should.
 * Return: 0; -EAGAIN mappings are being changed, or another moves a page: try
 *         again; -ENOMEM.
 */
int pg_hold_bring(struct pgmap_mm *mm, const struct pg_hold *h);

/**
 * pg_holds_find() - The first part of [@start, @end) that somebody holds.
 * @i: Slot to begin with, 0 at first; out: where to go on for the next one,
 *     which may lie anywhere in the range.
 *
 * The caller has said what it is about to do, and made a seq_cst fence.
 * Return: false if there is none.
 */
bool pg_holds_find(struct pg_holds *t, uint32_t *i, uintptr_t start,
		   uintptr_t end, uintptr_t *from, uintptr_t *to);

/** pg_holds_reap() - Drop what was left behind. @read: the word at an address
 * of the program, false if nothing is there. Return: how many. */
unsigned int pg_holds_reap(struct pg_holds *t,
			   bool (*read)(uintptr_t va, uint64_t *word));

/** pg_holds_forked() - In a fork child, whose one thread is @thread: drop what
 * others held. */
void pg_holds_forked(struct pg_holds *t, uintptr_t thread);

#endif
