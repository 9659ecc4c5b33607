/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/lock.h"

#include <linux/futex.h>
#include <time.h>

#include "base/bug.h"
#include "base/sys.h"

#define PG_RW_WRITER 0x80000000u
/* Tries before it sleeps. */
#ifndef PG_LOCK_SPINS
#define PG_LOCK_SPINS 100
#endif

/*
 * Order checks need thread-local storage, which our own threads inside a
 * program lack; so PG_LOCK_CHECK is set for the test programs only.
 */
#ifdef PG_LOCK_CHECK
static _Thread_local unsigned char held[LOCK_NR];
#define held_inc(rank) (held[rank]++)
#define held_dec(rank) (held[rank]--)

static void check_order(enum pg_lock_rank rank)
{
	for (int r = (int)rank; r < LOCK_NR; r++)
		pg_bug_on(held[r] != 0); /* taken out of order, see lock.h */
}
#else
#define held_inc(rank) ((void)(rank))
#define held_dec(rank) ((void)(rank))
#define check_order(rank) ((void)(rank))
#endif

void pg_wait(pg_atomic32 *word, uint32_t value, uint64_t timeout_ns)
{
	struct timespec t = {
		.tv_sec = (time_t)(timeout_ns / 1000000000u),
		.tv_nsec = (long)(timeout_ns % 1000000000u),
	};

	pg_sys(futex, word, FUTEX_WAIT_PRIVATE, value, timeout_ns ? &t : NULL);
}

void pg_wait_left(pg_atomic32 *word, uint32_t value, uint64_t *left_ns)
{
	uint64_t start = pg_now_ns(), slept;

	pg_wait(word, value, *left_ns);
	slept = pg_now_ns() - start;
	*left_ns = slept < *left_ns ? *left_ns - slept : 0;
}

void pg_wake(pg_atomic32 *word)
{
	pg_sys(futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX);
}

void pg_yield(void)
{
	pg_sys(sched_yield);
}

static bool try_take(struct pg_lock *l)
{
	uint32_t free = 0;

	/* A look first: a failing CAS would take the line from the holder. */
	return !pg_load(&l->word, relaxed) &&
	       pg_cas(&l->word, &free, 1, acquire);
}

bool pg_trylock(struct pg_lock *l, enum pg_lock_rank rank)
{
	if (!try_take(l))
		return false;
	held_inc(rank);
	return true;
}

void pg_lock(struct pg_lock *l, enum pg_lock_rank rank)
{
	check_order(rank);
	for (int i = 0; i < PG_LOCK_SPINS; i++) {
		if (try_take(l))
			goto taken;
		pg_cpu_relax();
	}
	while (pg_xchg(&l->word, 2, acquire))
		pg_wait(&l->word, 2, 0);
taken:
	held_inc(rank);
}

void pg_unlock(struct pg_lock *l, enum pg_lock_rank rank)
{
	uint32_t was = pg_xchg(&l->word, 0, release);

	pg_bug_on(was == 0); /* not locked */
	held_dec(rank);
	if (was == 2)
		pg_sys(futex, &l->word, FUTEX_WAKE_PRIVATE, 1);
}

static bool try_read(struct pg_rwlock *l)
{
	uint32_t v = pg_load(&l->word, relaxed);

	if (pg_load(&l->writers, seq_cst))
		return false;
	while (!(v & PG_RW_WRITER))
		if (pg_cas(&l->word, &v, v + 1, acquire))
			return true;
	return false;
}

/* Sleep until @word changes from what made us fail. */
static void rw_sleep(struct pg_rwlock *l, pg_atomic32 *on, uint32_t value)
{
	pg_fetch_add(&l->waiters, 1, seq_cst);
	pg_wait(on, value, 0);
	pg_fetch_sub(&l->waiters, 1, seq_cst);
}

static void rw_wake(struct pg_rwlock *l)
{
	/* Partner: the add in rw_sleep. The caller changed its word by a
	 * seq_cst operation; a sleeper that we miss here has not entered the
	 * futex, which re-reads that word. */
	if (pg_load(&l->waiters, seq_cst)) {
		pg_wake(&l->word);
		pg_wake(&l->writers);
	}
}

bool pg_read_trylock(struct pg_rwlock *l, enum pg_lock_rank rank)
{
	if (!try_read(l))
		return false;
	held_inc(rank);
	return true;
}

void pg_read_lock(struct pg_rwlock *l, enum pg_lock_rank rank)
{
	check_order(rank);
	while (!try_read(l)) {
		uint32_t w = pg_load(&l->writers, seq_cst);

		if (w)
			rw_sleep(l, &l->writers, w);
	}
	held_inc(rank);
}

void pg_read_unlock(struct pg_rwlock *l, enum pg_lock_rank rank)
{
	uint32_t was = pg_fetch_sub(&l->word, 1, seq_cst);

	pg_bug_on((was & ~PG_RW_WRITER) == 0); /* not locked */
	held_dec(rank);
	if (was == 1)
		rw_wake(l);
}

void pg_write_lock(struct pg_rwlock *l, enum pg_lock_rank rank)
{
	check_order(rank);
	pg_fetch_add(&l->writers, 1, seq_cst);
	for (;;) {
		uint32_t v = 0;

		if (pg_cas(&l->word, &v, PG_RW_WRITER, acquire))
			break;
		rw_sleep(l, &l->word, v);
	}
	held_inc(rank);
}

bool pg_write_trylock(struct pg_rwlock *l, enum pg_lock_rank rank)
{
	uint32_t v = 0;

	pg_fetch_add(&l->writers, 1, seq_cst);
	if (pg_cas(&l->word, &v, PG_RW_WRITER, acquire)) {
		held_inc(rank);
		return true;
	}
	pg_fetch_sub(&l->writers, 1, seq_cst);
	rw_wake(l);
	return false;
}

void pg_write_unlock(struct pg_rwlock *l, enum pg_lock_rank rank)
{
	uint32_t was = pg_fetch_and(&l->word, ~PG_RW_WRITER, seq_cst);

	pg_bug_on(!(was & PG_RW_WRITER)); /* not locked for writing */
	held_dec(rank);
	pg_fetch_sub(&l->writers, 1, seq_cst);
	rw_wake(l);
}

bool pg_write_held(const struct pg_rwlock *l)
{
	return pg_load(&l->word, relaxed) & PG_RW_WRITER;
}

bool pg_lock_held(enum pg_lock_rank rank)
{
#ifdef PG_LOCK_CHECK
	return held[rank] != 0;
#else
	(void)rank;
	return true;
#endif
}
