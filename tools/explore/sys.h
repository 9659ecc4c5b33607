/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sys.h - the real src/base/lock.c among its stand-ins: its functions have
 * other names, and its system calls are those of the explorer. Included before
 * everything in lock.c, in place of base/sys.h, and in its scenarios.
 */
#ifndef PG_SYS_H
#define PG_SYS_H

#include <stddef.h>
#include <stdint.h>

#define pg_sys(...) pg_sys_(__VA_ARGS__, NULL, 0)
#define pg_sys_(nr, ...) x_sys_##nr(__VA_ARGS__)

long x_sys_futex(volatile void *word, int op, uint32_t value,
		 const void *timeout, ...);
long x_sys_sched_yield(const void *none, ...);
uint64_t pg_now_ns(void);

#ifdef X_REAL_LOCKS
#define pg_lock real_lock
#define pg_trylock real_trylock
#define pg_unlock real_unlock
#define pg_rwlock real_rwlock
#define pg_read_lock real_read_lock
#define pg_read_trylock real_read_trylock
#define pg_read_unlock real_read_unlock
#define pg_write_lock real_write_lock
#define pg_write_trylock real_write_trylock
#define pg_write_unlock real_write_unlock
#define pg_write_held real_write_held
#define pg_lock_held real_lock_held
#define pg_wait real_wait
#define pg_wait_left real_wait_left
#define pg_wake real_wake
#define pg_yield real_yield
/* Each look before going to sleep is like the one before. */
#define PG_LOCK_SPINS 1
#endif

#endif
