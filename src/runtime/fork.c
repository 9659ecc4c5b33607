/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fork.c - fork and exec at the call itself.
 *
 * All of our memory is private, so the kernel copies page tables, metadata
 * and what a device keeps in RAM for the child, as of one moment. The child's
 * mappings have lost their userfaultfd: it opens one of its own and watches
 * them again before any code of the program runs in it.
 */
#include <errno.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "base/log.h"
#include "base/mem.h"
#include "core/mm.h"
#include "runtime/buffers.h"
#include "runtime/dmirror.h"
#include "runtime/runtime.h"
#include "runtime/sigbus.h"

/* Variables of an environment that is copied on the stack. */
#define MAX_ENV 1024u
/* A child that lives longer takes its part of the budget. */
#define CHILD_GRACE_NS 10000000u

static void in_child(struct pgmap_mm *mm, bool shares_fds)
{
	pg_rt.pid = (pid_t)pg_sys(getpid);
	pg_rt.proc = NULL;
	if (pg_control_claim(pg_rt.control, pg_rt.pid, &pg_rt.proc))
		pg_control_unmanaged(pg_rt.control, NULL, pg_rt.pid,
				     "too many processes");
	if (pg_rt.holds)
		pg_holds_forked(pg_rt.holds, pg_hook_thread());
	if (pg_rt.signal)
		pg_sigbus_forked();
	memset(&pg_rt.lock, 0, sizeof(pg_rt.lock));
	memset(&pg_rt.ranges_lock, 0, sizeof(pg_rt.ranges_lock));
	/* Of threads that are not here. */
	pg_store(&pg_rt.coming, 0, relaxed);
	pg_store(&pg_rt.changing, 0, relaxed);
	pg_rt.count_from = pg_now_ns() + CHILD_GRACE_NS;
	if (!mm)
		return;
	pg_dmirror_forked(mm);
	memset(&mm->stat, 0, sizeof(mm->stat));
	pg_store(&mm->stat.budget, pg_rt.control->budget, relaxed);
	pg_nofork_child(mm);
	switch (pg_host_fork_child(mm, shares_fds)) {
	case 0:
		break;
	case 1:
		pg_store(&pg_rt.off, 1, relaxed);
		pg_store(&pg_rt.armed, 0, relaxed);
		pg_store(&pg_rt.looked, 0, relaxed);
		pg_store(&pg_rt.mm, NULL, relaxed);
		pg_control_unmanaged(pg_rt.control, pg_rt.proc, pg_rt.pid,
				     "a child had no right to userfaultfd");
		return;
	default:
		/* Stop before what is away is read as zeros. */
		pg_sys(kill, pg_rt.pid, SIGKILL);
	}
	if (pg_rt.proc && pg_load(&pg_rt.armed, relaxed))
		pg_control_managed(pg_rt.control, pg_rt.proc);
}

/* What the call asks for; of clone() the flags only. Reads memory of the
 * program. Return: 0 or -E2BIG. */
static int read_args(const struct pg_call *c, struct clone_args *a)
{
	*a = (struct clone_args){0};
	if (c->nr == SYS_clone)
		a->flags = (uint64_t)c->arg[0];
	if (c->nr != SYS_clone3)
		return 0;
	if ((size_t)c->arg[1] > sizeof(*a))
		return -E2BIG;
	memcpy(a, (const void *)c->arg[0], (size_t)c->arg[1]);
	return 0;
}

/* The call without the stack it asks for: ours is copied, and ours it must
 * be until we return. Return: what the kernel said. */
static long clone_here(const struct pg_call *c, struct clone_args *a,
		       uintptr_t *sp)
{
	*sp = 0;
	switch (c->nr) {
	case SYS_fork:
		return pg_sys(fork);
	case SYS_clone:
		*sp = (uintptr_t)c->arg[1];
		return pg_sys6(SYS_clone, c->arg[0], 0, c->arg[2], c->arg[3],
			       c->arg[4], 0);
	default:
		*sp = a->stack ? a->stack + a->stack_size : 0;
		a->stack = 0;
		a->stack_size = 0;
		return pg_sys(clone3, a, c->arg[1]);
	}
}

/*
 * A device with descriptors: the child opens them again by way of ours, which
 * must last until then. @word is shared with the child.
 */
static void wait_for_child(pg_atomic32 *word, long pid)
{
	const struct timespec wait = {.tv_nsec = 10000000};

	for (int i = 0; i < 500 && !pg_load(word, acquire); i++) {
		siginfo_t info = {0};

		/* 0 without a child that has ended; it stays to be waited. */
		if (!pg_sys(waitid, P_PID, pid, &info,
			    WEXITED | WNOHANG | WNOWAIT | __WALL, 0) &&
		    info.si_pid)
			return;
		pg_sys(futex, word, FUTEX_WAIT, 0, &wait);
	}
}

static pg_atomic32 *shared_word(const struct pgmap_mm *mm)
{
	long p;

	if (!mm || !(mm->dev->ops.flags & PGMAP_DEV_DESCRIPTORS))
		return NULL;
	p = pg_sys(mmap, 0, PG_PAGE_SIZE, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return pg_sys_failed(p) ? NULL : (pg_atomic32 *)p;
}

void pg_fork(struct pg_call *c)
{
	struct clone_args args;
	struct pgmap_mm *mm;
	pg_atomic32 *word;
	uintptr_t sp;

	c->ret = read_args(c, &args);
	if (c->ret)
		return;
	/* Not while another thread starts F and K. */
	pg_lock(&pg_rt.lock, LOCK_FORK);
	mm = pg_load(&pg_rt.mm, acquire);
	word = shared_word(mm);
	if (mm && pg_host_fork_prepare(mm)) {
		c->ret = -EAGAIN;
		pg_unlock(&pg_rt.lock, LOCK_FORK);
		goto out;
	}
	if (mm)
		pg_dmirror_fork(mm);
	pg_control_fork_begin(pg_rt.control);
	/* Nor while one is half-way through a change of the range tables. The
	 * child forgets both locks. */
	pg_lock(&pg_rt.ranges_lock, LOCK_LEAF);
	c->ret = clone_here(c, &args, &sp);
	if (c->ret != 0)
		pg_unlock(&pg_rt.ranges_lock, LOCK_LEAF);
	if (c->ret == 0) {
		in_child(mm, args.flags & CLONE_FILES);
		pg_control_fork_end(pg_rt.control);
		if (sp)
			c->sp = sp;
		if (word) {
			pg_store(word, 1, release);
			pg_sys(futex, word, FUTEX_WAKE, 1);
		}
		goto out;
	}
	if (c->ret < 0)
		pg_control_fork_end(pg_rt.control);
	else if (word)
		wait_for_child(word, c->ret);
	if (mm)
		pg_host_fork_parent(mm, c->ret < 0);
	pg_unlock(&pg_rt.lock, LOCK_FORK);
out:
	if (word)
		pg_sys(munmap, word, PG_PAGE_SIZE);
}

static bool is_var(const char *s, const char *name, size_t n)
{
	return !strncmp(s, name, n) && s[n] == '=';
}

static void exec(struct pg_call *c);

void pg_exec(struct pg_call *c)
{
	struct pg_hold h[PG_BUFFERS_HOLDS];

	if (!pg_rt.holds) {
		exec(c);
		return;
	}
	/* When the new program runs, nobody drops this: then it is gone with
	 * all of the old one, or, in a vfork child, is reaped. */
	pg_hook_find(c, h, PG_BUFFERS_HOLDS);
	exec(c);
	pg_hook_drop(h, PG_BUFFERS_HOLDS);
}

static void exec(struct pg_call *c)
{
	long *envp = &c->arg[c->nr == SYS_execveat ? 3 : 2];
	const char **old = (const char **)*envp;
	const char *env[MAX_ENV + 3];
	char control[PG_CONTROL_NAME_MAX + 32], *preload;
	size_t n = 0, size = sizeof(pg_rt.preload) + 32;
	const char *theirs = NULL;
	int in_vfork = pg_sys(getpid) != pg_rt.pid;

	for (; old && *old; old++) {
		if (is_var(*old, "LD_PRELOAD", 10)) {
			theirs = *old + 11;
			continue;
		}
		/* A `pgmap run` below us has set its own. */
		if (is_var(*old, PG_CONTROL_ENV, sizeof(PG_CONTROL_ENV) - 1) ||
		    n == MAX_ENV)
			goto plain;
		env[n++] = *old;
	}
	if (theirs)
		size += strlen(theirs);
	preload = size <= 4096 ? __builtin_alloca(size) : pg_mem_map(size);
	if (!preload)
		goto plain;
	pg_format(preload, size, "LD_PRELOAD=%s%s%s", pg_rt.preload,
		  theirs ? ":" : "", theirs ? theirs : "");
	pg_format(control, sizeof(control), "%s=%s", PG_CONTROL_ENV,
		  pg_rt.name);
	env[n++] = preload;
	env[n++] = control;
	env[n] = NULL;
	if (!in_vfork) {
		uint64_t mask = pg_signals_block();

		pg_runtime_publish();
		pg_signals_restore(mask);
	}
	if (pg_rt.signal)
		pg_sigbus_exec(false);
	if (c->nr == SYS_execveat)
		c->ret = pg_sys(execveat, c->arg[0], c->arg[1], c->arg[2], env,
				c->arg[4]);
	else
		c->ret = pg_sys(execve, c->arg[0], c->arg[1], env);
	if (pg_rt.signal)
		pg_sigbus_exec(true);
	if (size > 4096)
		pg_mem_unmap(preload, size);
	return;

plain:
	/* More variables than we can copy: the program runs without us. */
	if (pg_rt.signal)
		pg_sigbus_exec(false);
	c->ret = pg_sys6(c->nr, c->arg[0], c->arg[1], c->arg[2], c->arg[3],
			 c->arg[4], 0);
	if (pg_rt.signal)
		pg_sigbus_exec(true);
}
