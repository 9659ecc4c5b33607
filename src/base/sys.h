/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sys.h - system calls that touch neither errno nor libc.
 *
 * Our threads inside somebody else's program have no errno, and our calls must
 * not pass through the system-call sites of libc that the runtime rewrites.
 * Return: what the kernel returns, so errors are negative errnos.
 */
#ifndef PG_SYS_H
#define PG_SYS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>

#if defined(__x86_64__)
static inline long pg_sys6(long nr, long a, long b, long c, long d, long e,
			   long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8),
			   "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}
#else
#error "pgmap: only x86-64 is supported so far; port src/base/sys.h first"
#endif

/* Unused arguments are 0; pointers and integers may be given as they are. */
#define pg_sys_(nr, a, b, c, d, e, f, ...)                                     \
	pg_sys6(SYS_##nr, (long)(a), (long)(b), (long)(c), (long)(d),          \
		(long)(e), (long)(f))
#define pg_sys(...) pg_sys_(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)

/** pg_sys_failed() - Is @ret of a call that returns an address an error? */
static inline int pg_sys_failed(long ret)
{
	return (unsigned long)ret >= (unsigned long)-4095L;
}

/** pg_now_ns() - Return: CLOCK_MONOTONIC in ns. Context: any (vDSO). */
uint64_t pg_now_ns(void);

#endif
