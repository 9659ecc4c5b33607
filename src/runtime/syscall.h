/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * syscall.h - see and replace the system calls that a library makes.
 *
 * The sites of runtime/site.h are rewritten to jump to stubs, the stubs call
 * one hook. Calls that nobody wants run on after a look into a table.
 */
#ifndef PG_SYSCALL_H
#define PG_SYSCALL_H

#include <signal.h>
#include <stddef.h>
#include <stdint.h>

#include "base/sys.h"
#include "runtime/site.h"

/**
 * struct pg_call - A system call about to be made.
 * @nr, @arg: As the program gave them.
 * @ret:      What the program gets if the hook returns PG_CALL_DONE: the
 *            result or a negative errno, as of the kernel.
 * @sp:       The program's stack pointer. The hook may change it together with
 *            PG_CALL_DONE: it is how the child of a fork-like clone() goes on
 *            with the stack that the caller asked for.
 * @ip:       Where the program goes on.
 */
struct pg_call {
	long nr;
	long arg[6];
	long ret;
	uintptr_t sp;
	uintptr_t ip;
};

enum pg_call_answer {
	PG_CALL_NATIVE, /* make the call, as if there were no hook */
	PG_CALL_DONE	/* do not, return @ret */
};

/**
 * typedef pg_call_hook_t - Look at a call, or make it in the program's stead.
 *
 * Runs on the program's thread and stack, with the program's signal mask and
 * thread pointer. What it may and must not do:
 * - It makes calls through pg_sys() only, never through libc.
 * - clone with CLONE_VM, and vfork: NATIVE. The child runs on a stack that the
 *   caller chose, or on the caller's own, where no frame of ours may be.
 *   Without CLONE_VM the hook may clone itself and return DONE in both.
 * - A signal handler may interrupt it, call hooked functions and leave by
 *   siglongjmp(). Before it takes a lock it blocks signals, see
 *   pg_signals_block().
 * - It may run in a vfork child or in the child of posix_spawn: another
 *   process in the same address space. What it knows about memory holds there
 *   as well; what it does for an exec or an exit must not be done there.
 * - It may change @arg and return NATIVE; the changes stay in the program's
 *   registers, where libc's compiled code may rely on the old values. With
 *   DONE they are undone.
 * - No x87 and no MMX (long double); all other registers are saved.
 * - Small frames: see pg_syscall_stack().
 */
typedef int (*pg_call_hook_t)(struct pg_call *call);

/** pg_syscall_set_hook() - Show the calls of PG_SITE_WANTED to @hook; NULL:
 * let all run on.
 *
 * Of ioctl only UFFDIO_REGISTER is shown, of setsockopt only SO_ZEROCOPY. The
 * hook may see numbers that it does not want, and answers NATIVE.
 * Context: Any. Calls in flight may still see the hook before.
 */
void pg_syscall_set_hook(pg_call_hook_t hook);

/** pg_syscall_want() - Show call @nr, too, where its site is rewritten; of
 * ioctl and setsockopt all. Context: after pg_syscall_set_hook(). */
void pg_syscall_want(long nr);

/** struct pg_syscall_patch - What pg_syscall_install() did to one object. */
struct pg_syscall_patch {
	uintptr_t base;
	const struct pg_site_list *list;
	void *stubs;
	size_t stubs_size;
};

/**
 * pg_syscall_install() - Rewrite the sites of a loaded object.
 * @base:  Its load address; the ELF header is there.
 * @list:  Its sites. Must stay where it is.
 * @patch: Out: for pg_syscall_remove().
 *
 * All or nothing: every byte is compared with @list before one is changed.
 * No page is writable and executable at any time, and no protection changes:
 * bytes are written through /proc/self/mem.
 *
 * Context: The process has one thread. Before pg_syscall_set_hook().
 * Return: 0, or with nothing changed
 *         -ESTALE      the object in memory is not the one of @list
 *         -EBUSY       the process has other threads
 *         -EOPNOTSUPP  a CPU whose registers we cannot save
 *         -ENOSPC      no room for stubs within reach of a jump
 *         -EIO         the kernel does not let us write to our own text
 *         or what the system said
 */
int pg_syscall_install(uintptr_t base, const struct pg_site_list *list,
		       struct pg_syscall_patch *patch);

/** pg_syscall_remove() - Put the original bytes back. Context: no other thread
 * is inside a system call of the object. */
void pg_syscall_remove(struct pg_syscall_patch *patch);

/** pg_syscall_stack() - Return: bytes of the program's stack in use when the
 * hook is entered. */
size_t pg_syscall_stack(void);

/** pg_signals_block() - Block the signals that others send; those of a fault
 * stay. Return: the mask for pg_signals_restore(). */
static inline uint64_t pg_signals_block(void)
{
	const uint64_t faults = 1u << (SIGILL - 1) | 1u << (SIGTRAP - 1) |
				1u << (SIGBUS - 1) | 1u << (SIGFPE - 1) |
				1u << (SIGSEGV - 1);
	const uint64_t block = ~faults;
	uint64_t old = 0; /* its page is there when the kernel writes to it */

	pg_sys(rt_sigprocmask, SIG_BLOCK, &block, &old, sizeof(old));
	return old;
}

static inline void pg_signals_restore(uint64_t mask)
{
	pg_sys(rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof(mask));
}

#endif
