/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * lock.h - the locks of pgmap and the one order they are taken in.
 *
 * This enum IS the lock order: a thread may only take a lock of a higher rank
 * than every lock it holds. Two locks of the same rank (two folios) are taken
 * with pg_trylock() for the second, as Linux does for migration. Debug builds
 * enforce it, so no other document repeats the order.
 *
 * Locks are futex words in plain memory and not pthread mutexes: our threads
 * are unknown to libc, the program's threads take them inside system calls,
 * and after fork() the child's one thread must be able to start afresh.
 * Zeroed memory is an unlocked lock.
 */
#ifndef PG_LOCK_H
#define PG_LOCK_H

#include <stdbool.h>

#include "base/atomic.h"

enum pg_lock_rank {
	LOCK_FORK,	 /* the runtime: no fork while we start or stop */
	LOCK_MM,	 /* an instance: its ranges      Linux: mmap_lock */
	LOCK_DAX,	 /* a DAX device: its files */
	LOCK_INVALIDATE, /* a mapping: faults against truncation Linux:
			    invalidate_lock */
	LOCK_ENTRY,	 /* an entry of a DAX file */
	LOCK_STORE,	 /* a store: what files it has, and where */
	LOCK_OWNER,	 /* a block of DAX: which files have it */
	LOCK_FOLIO,	 /* a folio: where its bytes are Linux: folio_lock */
	LOCK_MIRROR,	 /* a device's own page table */
	LOCK_MAPPING,	 /* a mapping: its areas          Linux: i_mmap_rwsem */
	LOCK_PT,	 /* a leaf of the page table     Linux: ptl */
	LOCK_EVICT,	 /* the queue of blocks in RAM   Linux: lru_lock */
	LOCK_POOL,	 /* the free buffers of an instance */
	LOCK_PAGEMAP,	 /* the list of page maps */
	LOCK_DEVICE,	 /* a device: its free slots */
	LOCK_DRIVER,	 /* a driver's own */
	LOCK_LEAF,	 /* log, trace: nothing is taken under it */
	LOCK_NR
};

/** struct pg_lock - A mutex. @word: 0 free, 1 held, 2 held and waited for. */
struct pg_lock {
	pg_atomic32 word; /* acquire to take, release to drop */
};

/**
 * struct pg_rwlock - Many readers or one writer; a waiting writer keeps new
 * readers out.
 * @word: Readers, plus PG_RW_WRITER when a writer holds it.
 * @writers: Writers that hold it or wait. Readers look at it before @word.
 */
struct pg_rwlock {
	pg_atomic32 word;    /* acquire to take, seq_cst to drop */
	pg_atomic32 writers; /* seq_cst: against the readers' look */
	pg_atomic32 waiters; /* somebody sleeps on word; seq_cst */
};

void pg_lock(struct pg_lock *l, enum pg_lock_rank rank);
bool pg_trylock(struct pg_lock *l, enum pg_lock_rank rank);
void pg_unlock(struct pg_lock *l, enum pg_lock_rank rank);

void pg_read_lock(struct pg_rwlock *l, enum pg_lock_rank rank);
bool pg_read_trylock(struct pg_rwlock *l, enum pg_lock_rank rank);
void pg_read_unlock(struct pg_rwlock *l, enum pg_lock_rank rank);
void pg_write_lock(struct pg_rwlock *l, enum pg_lock_rank rank);
bool pg_write_trylock(struct pg_rwlock *l, enum pg_lock_rank rank);
void pg_write_unlock(struct pg_rwlock *l, enum pg_lock_rank rank);
/** pg_write_held() - Does some thread hold @l for writing? */
bool pg_write_held(const struct pg_rwlock *l);

/** pg_lock_held() - Does this thread hold any lock of @rank? True in builds
 * that do not check the order. */
bool pg_lock_held(enum pg_lock_rank rank);

/** pg_wait() - Sleep while *@word is @value, at most @timeout_ns (0: for
 * ever). May return early. */
void pg_wait(pg_atomic32 *word, uint32_t value, uint64_t timeout_ns);
/** pg_wait_left() - As pg_wait(), at most *@left_ns, which becomes less by what
 * it slept. */
void pg_wait_left(pg_atomic32 *word, uint32_t value, uint64_t *left_ns);
/** pg_wake() - Wake all who sleep in pg_wait() on @word. */
void pg_wake(pg_atomic32 *word);
/** pg_yield() - Let another thread run. */
void pg_yield(void);

#endif
