/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * hook.c - what each system call of the program means for us.
 *
 * A call that changes mappings is made here, with LOCK_MM held for writing, so
 * that nothing moves and no fault is served between the kernel's change and
 * ours. Signals stay blocked while a lock is held: a handler could come back
 * here. Calls that read or write the program's memory are never made under
 * the lock, for their faults would wait for it.
 *
 * Where the kernel's faults are not served, every call that uses memory comes
 * here. What it uses is held (core/hold.h) and the call is made here, so that
 * something can be done after it: a call that blocks is seen by a debugger
 * inside our library. Restarts after a signal happen at our instruction, and
 * asynchronous cancellation unwinds through our frames, as in glibc before
 * 2.41; later ones look whether the thread is at an instruction of their own,
 * and cancel it only at its next call that is let through. What the kernel uses
 * at times that no call names is never managed: areas that are announced
 * (signal stacks, thread blocks), and all memory of a process that starts
 * asynchronous I/O.
 */
#include <errno.h>
#include <limits.h>
#include <linux/sched.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/mutant.h"
#include "core/mm.h"
#include "core/notifier.h"
#include "mmu/uffd.h"
#include "runtime/buffers.h"
#include "runtime/dmirror.h"
#include "runtime/runtime.h"
#include "runtime/sigbus.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

static uintptr_t page_down(uintptr_t v)
{
	return v & ~(uintptr_t)(PG_PAGE_SIZE - 1);
}

static uintptr_t page_up(uintptr_t v)
{
	return page_down(v + PG_PAGE_SIZE - 1);
}

static long make(const struct pg_call *c)
{
	return pg_sys6(c->nr, c->arg[0], c->arg[1], c->arg[2], c->arg[3],
		       c->arg[4], c->arg[5]);
}

/* Is memory managed? Then the instance. */
static struct pgmap_mm *armed(void)
{
	return pg_load(&pg_rt.armed, acquire) ? pg_load(&pg_rt.mm, relaxed)
					      : NULL;
}

/* May memory be managed? That which devices were asked for is before all of it
 * is. */
static struct pgmap_mm *managing(void)
{
	return pg_rt.control->dmirror ? pg_load(&pg_rt.mm, acquire) : armed();
}

/*
 * A thread that waits for LOCK_MM, or holds it, must not fault: F would park
 * the fault until it lets go. Its stack may be managed, if the program made it
 * of ordinary memory (coroutines do). Hold the part that we use, then keep it
 * apart for good.
 */
#define STACK_BELOW ((uintptr_t)64 << 10)
#define STACK_ABOVE ((uintptr_t)16 << 10)

static void keep_stack(struct pgmap_mm *mm, uintptr_t sp)
{
	uintptr_t start = page_down(sp) - STACK_BELOW;
	uintptr_t end = page_up(sp) + STACK_ABOVE;

	if (pg_pte_state(pg_pte_read(&mm->pt, sp)) == PG_PTE_HOLE)
		return;
	if (pg_rt.holds) {
		struct pg_hold h;

		uint64_t mask;

		pg_hold_init(&h);
		pg_hold_add(&h, start, end - start);
		pg_hook_hold(&h);
		mask = pg_signals_block();
		pg_apart_release(start, end,
				 offsetof(struct pgmap_left_alone, stacks));
		pg_signals_restore(mask);
		pg_hold_drop(pg_rt.holds, &h);
		return;
	}
	/* Locked pages do not leave. What lies beyond the stack may be no
	 * memory at all: lock page by page. */
	for (uintptr_t p = start; p < end; p += PG_PAGE_SIZE)
		pg_sys(mlock, p, PG_PAGE_SIZE);
	pg_apart_release(start, end, offsetof(struct pgmap_left_alone, stacks));
	for (uintptr_t p = start; p < end; p += PG_PAGE_SIZE)
		pg_sys(munlock, p, PG_PAGE_SIZE);
}

/*
 * A call is about to change what is mapped. Return: the instance, with LOCK_MM
 * held for writing, also before memory is managed: K may be looking at what is
 * mapped, to manage it. NULL: there is none yet, and arm() waits for us.
 */
static struct pgmap_mm *change_begin(const struct pg_call *c)
{
	struct pgmap_mm *mm = pg_load(&pg_rt.mm, acquire);

	if (!mm) {
		/* Partner: arm(). */
		pg_fetch_add(&pg_rt.changing, 1, seq_cst);
		mm = pg_load(&pg_rt.mm, seq_cst);
		if (!mm)
			return NULL;
		pg_fetch_sub(&pg_rt.changing, 1, seq_cst);
	}
	/* Perhaps managed only since the call began, by ourselves. */
	if (managing())
		keep_stack(mm, c->sp);
	pgmap_mm_change_begin(mm);
	return mm;
}

static void change_end(struct pgmap_mm *mm)
{
	if (mm)
		pgmap_mm_change_end(mm);
	else
		pg_fetch_sub(&pg_rt.changing, 1, seq_cst);
}

/* Devices forget what they know of a range that the call is about to change.
 * Holds LOCK_MM for writing, if there is an instance. */
static void tell(struct pgmap_mm *mm, uintptr_t start, size_t len,
		 enum pg_notify_event event)
{
	const struct pg_notify_range range = {
		.start = page_down(start),
		.end = page_up(start + len),
		.event = event,
	};

	if (!mm || !mm->notifiers || range.start >= range.end)
		return;
	/* Who looks again needs the lock, and so waits for the call. */
	pg_notify_begin(mm, &range);
	pg_notify_end(mm, &range);
}

/* Holds LOCK_MM for writing, if there is an instance. */
static void unmapped(struct pgmap_mm *mm, uintptr_t start, size_t len)
{
	if (mm)
		pgmap_mm_unmap(mm, (void *)start, len);
	pg_ranges_unmapped(start, start + len);
}

struct span {
	uintptr_t start, end;
};

static int adopt_job(struct pgmap_mm *mm, void *arg)
{
	const struct span *s = arg;

	pg_adopt_range(mm, s->start, s->end);
	return 0;
}

/* Holds LOCK_MM for writing. */
static void adopt(struct pgmap_mm *mm, uintptr_t start, uintptr_t end)
{
	struct span s = {start, end};

	if (!pg_load(&pg_rt.off, relaxed))
		pg_host_run(mm, adopt_job, &s);
}

static bool worth(long flags, size_t len)
{
	const long never = MAP_STACK | MAP_GROWSDOWN | MAP_HUGETLB | MAP_LOCKED;

	return (flags & (MAP_PRIVATE | MAP_ANONYMOUS)) ==
		       (MAP_PRIVATE | MAP_ANONYMOUS) &&
	       !(flags & never) && len >= PG_ADOPT_MIN;
}

static void keep_apart(long flags, uintptr_t start, uintptr_t end)
{
	if (!(flags & MAP_ANONYMOUS))
		return;
	if (flags & (MAP_STACK | MAP_GROWSDOWN))
		pg_apart_add(start, end, stacks);
	else if (flags & MAP_HUGETLB)
		pg_apart_add(start, end, special);
	else if (flags & MAP_LOCKED)
		pg_apart_add(start, end, locked);
}

static void hook_mmap(struct pg_call *c)
{
	size_t len = page_up((size_t)c->arg[1]);
	long flags = c->arg[3];
	size_t coming = worth(flags, len) ? len : 0;
	/* A small one takes no place that we know of. */
	bool changes = flags & MAP_FIXED || coming;
	struct pgmap_mm *mm = NULL;
	bool managed = false;

	pg_adopt_begin(coming);
	if (changes)
		mm = change_begin(c);
	if (flags & MAP_FIXED)
		tell(mm, (uintptr_t)c->arg[0], len, PG_NOTIFY_UNMAP);
	c->ret = make(c);
	if (!pg_sys_failed(c->ret)) {
		uintptr_t start = (uintptr_t)c->ret;

		/* A mapping that was replaced, or that went by a way we did
		 * not see: what we know of it is void. */
		if (changes)
			unmapped(mm, start, len);
		keep_apart(flags, start, start + len);
		managed = mm && armed();
		if (coming && managed)
			adopt(mm, start, start + len);
	}
	if (changes)
		change_end(mm);
	pg_adopt_end(coming, managed);
}

static void hook_munmap(struct pg_call *c)
{
	struct pgmap_mm *mm = change_begin(c);

	tell(mm, (uintptr_t)c->arg[0], (size_t)c->arg[1], PG_NOTIFY_UNMAP);
	c->ret = make(c);
	if (!c->ret)
		unmapped(mm, (uintptr_t)c->arg[0], page_up((size_t)c->arg[1]));
	change_end(mm);
}

/* What was said of the old addresses, or of others that lay where the mapping
 * is now, is void: it must not keep moved pages from being watched. What a
 * fork does with the mapping goes with it. */
static void forget_moved(uintptr_t old, size_t old_len, uintptr_t to,
			 size_t new_len, bool stays)
{
	int advice;

	if (to == old) {
		if (new_len < old_len)
			pg_ranges_unmapped(old + new_len, old + old_len);
		return;
	}
	advice = pg_nofork_get(old);
	pg_ranges_unmapped(to, to + new_len);
	if (!stays)
		pg_ranges_unmapped(old, old + old_len);
	if (advice)
		pg_nofork_set(to, to + new_len, advice);
}

static void hook_mremap(struct pg_call *c)
{
	uintptr_t old = (uintptr_t)c->arg[0], to;
	size_t old_len = page_up((size_t)c->arg[1]);
	size_t new_len = page_up((size_t)c->arg[2]);
	bool stays = c->arg[3] & MREMAP_DONTUNMAP;
	size_t coming = new_len > old_len ? new_len - old_len : 0;
	struct pgmap_mm *mm;
	bool ours, managed;

	pg_adopt_begin(coming);
	mm = change_begin(c);
	managed = mm && armed();
	ours = mm && pg_mm_find(mm, old);
	tell(mm, old, old_len, PG_NOTIFY_UNMAP);
	if (c->arg[3] & MREMAP_FIXED)
		tell(mm, (uintptr_t)c->arg[4], new_len, PG_NOTIFY_UNMAP);
	c->ret = ours ? pgmap_mm_remap_begin(mm, (void *)old, old_len) : 0;
	if (!c->ret)
		c->ret = make(c);
	if (!pg_sys_failed(c->ret)) {
		to = (uintptr_t)c->ret;
		forget_moved(old, old_len, to, new_len, stays);
		if (ours)
			pgmap_mm_remap(mm, (void *)old, old_len, (void *)to,
				       new_len);
		else if (mm && to != old)
			pgmap_mm_unmap(mm, (void *)to, new_len);
		else if (mm && new_len < old_len)
			pgmap_mm_unmap(mm, (void *)(old + new_len),
				       old_len - new_len);
		if (mm && to != old && !stays)
			pgmap_mm_unmap(mm, (void *)old, old_len);
	}
	change_end(mm);
	pg_adopt_end(coming, managed);
}

/* LOCK_MM before rt.lock, as in fork. */
static void hook_brk(struct pg_call *c)
{
	uintptr_t want = (uintptr_t)c->arg[0], old, now;
	struct pgmap_mm *mm;
	size_t coming;
	bool managed;

	old = pg_rt.brk;
	coming = want > old && old ? want - old : 0;
	pg_adopt_begin(coming);
	mm = change_begin(c);
	managed = mm && armed();
	old = page_up(pg_rt.brk);
	if (want && want < old)
		tell(mm, want, old - want, PG_NOTIFY_UNMAP);
	c->ret = make(c);
	pg_rt.brk = (uintptr_t)c->ret;
	now = page_up(pg_rt.brk);
	if (mm && now < old)
		pgmap_mm_unmap(mm, (void *)now, old - now);
	/* The heap grows in small steps: take it from its managed end on. */
	if (managed && now > old) {
		const struct pg_vma *v = pg_mm_find(mm, old - PG_PAGE_SIZE);

		if (v || now - old >= PG_ADOPT_MIN)
			adopt(mm, v ? v->start : old, now);
	}
	change_end(mm);
	pg_adopt_end(coming, managed);
}

static bool all_managed(struct pgmap_mm *mm, uintptr_t start, uintptr_t end)
{
	while (start < end) {
		const struct pg_vma *v = pg_mm_find(mm, start);

		if (!v)
			return false;
		start = v->end;
	}
	return true;
}

static void hook_madvise(struct pg_call *c)
{
	uintptr_t start = (uintptr_t)c->arg[0];
	size_t len = page_up((size_t)c->arg[1]);
	struct pg_call made = *c;
	struct pgmap_mm *mm;

	/* A page that the kernel takes later, when it likes, would be missed
	 * by the first system call that uses it. Of a file it takes none. */
	if (c->arg[2] == MADV_FREE && pg_rt.holds) {
		c->ret = make(c);
		if (c->ret && c->ret != -ENOMEM)
			return;
		made.arg[2] = MADV_DONTNEED;
	}
	switch (c->arg[2]) {
	case MADV_DONTFORK:
	case MADV_DOFORK:
	case MADV_WIPEONFORK:
	case MADV_KEEPONFORK:
		c->ret = make(c);
		if (!c->ret)
			pg_nofork_set(start, start + len, (int)c->arg[2]);
		return;
	case MADV_FREE:
	case MADV_DONTNEED:
	case 24: /* MADV_DONTNEED_LOCKED, Linux 5.18 */
	case MADV_GUARD_INSTALL:
		break;
	default:
		c->ret = make(&made);
		return;
	}
	mm = change_begin(c);
	/* After MADV_FREE contents are undefined until written again: zeros
	 * will do, and free the memory at once. */
	if (mm && c->arg[2] == MADV_FREE && all_managed(mm, start, start + len))
		made.arg[2] = MADV_DONTNEED;
	tell(mm, start, len, PG_NOTIFY_CLEAR);
	c->ret = make(&made);
	/* ENOMEM: part of it is not mapped; the rest was dropped. */
	if (mm && made.arg[2] != MADV_FREE && (!c->ret || c->ret == -ENOMEM))
		pgmap_mm_remove(mm, (void *)start, len);
	change_end(mm);
}

static void hook_mprotect(struct pg_call *c)
{
	size_t coming = c->arg[2] & PROT_WRITE ? (size_t)c->arg[1] : 0;
	struct pgmap_mm *mm = NULL;

	pg_adopt_begin(coming);
	if (pg_rt.control->dmirror)
		mm = change_begin(c);
	tell(mm, (uintptr_t)c->arg[0], (size_t)c->arg[1], PG_NOTIFY_PROTECTION);
	c->ret = make(c);
	if (pg_rt.control->dmirror)
		change_end(mm);
	pg_adopt_end(coming, false);
}

static void hook_mlock(const struct pg_call *c)
{
	uintptr_t start = (uintptr_t)c->arg[0];

	pg_apart_release(page_down(start), start + (size_t)c->arg[1],
			 offsetof(struct pgmap_left_alone, locked));
}

static int release_all(struct pgmap_mm *mm, void *arg)
{
	uintptr_t at = 0;

	(void)arg;
	for (uint32_t i = 0; i < mm->nr_vma;) {
		struct pg_vma v = mm->vma[i];

		if (v.start < at) {
			i++; /* could not be released: lost pages stay ours */
			continue;
		}
		at = v.end;
		pg_mm_release(mm, v.start, (v.end - v.start) / PG_PAGE_SIZE);
	}
	return 0;
}

/* Manage nothing of this process any more. */
static void stop(const char *why)
{
	struct pgmap_mm *mm = pg_load(&pg_rt.mm, acquire);

	if (pg_load(&pg_rt.off, relaxed))
		return;
	pg_store(&pg_rt.off, 1, relaxed);
	pg_control_unmanaged(pg_rt.control, pg_rt.proc, pg_rt.pid, why);
	if (mm) {
		pgmap_mm_change_begin(mm);
		pg_host_run(mm, release_all, NULL);
		pgmap_mm_change_end(mm);
	}
}

static void hook_mlockall(struct pg_call *c)
{
	stop("it locked all of its memory (mlockall)");
	c->ret = pg_adopt_lock(c->arg[0]);
}

/* Where the kernel's faults are not served: it uses [@p, @p + @len) whenever
 * it likes. */
static void keep(uintptr_t p, size_t len)
{
	if (pg_rt.holds && p && len)
		pg_apart_release(p, p + len,
				 offsetof(struct pgmap_left_alone, stacks));
}

static uint64_t clone_flags(const struct pg_call *c)
{
	if (c->nr == SYS_fork)
		return 0;
	if (c->nr == SYS_clone3 && c->arg[0] && c->arg[1] >= 8)
		return *(const uint64_t *)c->arg[0];
	return (uint64_t)c->arg[0];
}

/* A thread's stack and thread block: the kernel writes to them where a fault
 * cannot be served. */
static void hook_thread(const struct pg_call *c)
{
	uintptr_t sp, size, tls;

	if (c->nr == SYS_clone3) {
		struct clone_args a = {0};
		size_t n = (size_t)c->arg[1];

		memcpy(&a, (const void *)c->arg[0],
		       n < sizeof(a) ? n : sizeof(a));
		sp = a.stack;
		size = a.stack_size;
		tls = a.tls;
		keep((uintptr_t)c->arg[0], n);
		keep(a.parent_tid, sizeof(int));
		keep(a.child_tid, sizeof(int));
	} else {
		/* Only the top is known; glibc names the size. */
		size = (size_t)256 << 10;
		sp = (uintptr_t)c->arg[1] - size;
		tls = (uintptr_t)c->arg[4];
		keep((uintptr_t)c->arg[2], sizeof(int));
		keep((uintptr_t)c->arg[3], sizeof(int));
	}
	if (sp && size)
		pg_apart_release(sp, sp + size,
				 offsetof(struct pgmap_left_alone, stacks));
	if (tls && pg_rt.signal && clone_flags(c) & CLONE_SETTLS)
		pg_sigbus_expect(tls);
	if (tls)
		pg_apart_release(tls - PG_PAGE_SIZE, tls + PG_PAGE_SIZE,
				 offsetof(struct pgmap_left_alone, stacks));
}

static void hook_foreign(struct pg_call *c)
{
	const struct uffdio_register *r = (const void *)c->arg[2];

	if (r && pg_buffers_readable(armed(), (uintptr_t)r, sizeof(*r)))
		pg_apart_release((uintptr_t)r->range.start,
				 (uintptr_t)(r->range.start + r->range.len),
				 offsetof(struct pgmap_left_alone, foreign));
}

/* Zero-copy sends: a page may leave, but not be used again (N61). */
static void hook_zerocopy(void)
{
	struct pgmap_mm *mm = pg_load(&pg_rt.mm, acquire);

	pg_store(&pg_rt.zerocopy, 1, release);
	if (mm)
		pg_pool_no_recycle(&mm->pool);
}

/* A pipe gets the pages themselves and sees what is written to them later, so
 * they must stay what they are; nobody says until when (N61). */
static void hook_vmsplice(const struct pg_call *c)
{
	struct iovec got, part;

	for (long i = 0; i < c->arg[2] && i < IOV_MAX; i++) {
		struct iovec to = {&part, sizeof(part)};

		got = (struct iovec){(struct iovec *)c->arg[1] + i,
				     sizeof(part)};
		if (pg_sys(process_vm_readv, pg_sys(getpid), &to, 1, &got, 1,
			   0) != sizeof(part))
			return; /* the kernel will say EFAULT */
		pg_apart_release((uintptr_t)part.iov_base,
				 (uintptr_t)part.iov_base + part.iov_len,
				 offsetof(struct pgmap_left_alone, pinned));
	}
}

/* What the kernel would refuse is not ours to look at. */
static bool readable(const struct pg_call *c)
{
	return c->nr != SYS_clone3 || (c->arg[0] && c->arg[1] >= 64);
}

static int hook_call(struct pg_call *c)
{
	struct pgmap_mm *mm = pg_load(&pg_rt.mm, acquire);
	int answer = PG_CALL_DONE;
	uint64_t mask;

	switch (c->nr) {
	case SYS_munlock:
	case SYS_munlockall:
		return PG_CALL_NATIVE;
	case SYS_execve:
	case SYS_execveat:
		pg_exec(c);
		return PG_CALL_DONE;
	case SYS_clone:
	case SYS_clone3:
	case SYS_fork:
		if (!readable(c))
			return PG_CALL_NATIVE;
		break;
	case SYS_ioctl:
		if ((uint32_t)c->arg[1] != UFFDIO_REGISTER)
			return PG_CALL_NATIVE;
		break;
	case SYS_io_uring_setup:
		/* Without UFFDIO_MOVE pinned buffers cannot be told. */
		if (mm && !pg_uffd_features(mm->mmu)->move) {
			c->ret = -ENOSYS;
			return PG_CALL_DONE;
		}
		return PG_CALL_NATIVE;
	case SYS_mprotect:
		/* What becomes writable counts as what is mapped so. */
		if (!pg_rt.control->dmirror &&
		    (armed() || !(c->arg[2] & PROT_WRITE) ||
		     (size_t)c->arg[1] < PG_ADOPT_MIN))
			return PG_CALL_NATIVE;
		break;
	case SYS_mmap:
	case SYS_munmap:
	case SYS_mremap:
	case SYS_brk:
	case SYS_madvise:
	case SYS_exit_group:
	case SYS_mlock:
	case SYS_mlock2:
	case SYS_mlockall:
	case SYS_vmsplice:
	case SYS_setsockopt:
		break;
	default: /* what userfaultfd registers is seen as an ioctl */
		return PG_CALL_NATIVE;
	}
	mask = pg_signals_block();
	/* Not the one from above: another thread may have started it since. */
	mm = managing();
	if (mm && !pg_rt.holds)
		keep_stack(mm, c->sp);
	switch (c->nr) {
	case SYS_mmap:
		hook_mmap(c);
		break;
	case SYS_munmap:
		hook_munmap(c);
		break;
	case SYS_mremap:
		hook_mremap(c);
		break;
	case SYS_brk:
		hook_brk(c);
		break;
	case SYS_madvise:
		hook_madvise(c);
		break;
	case SYS_mprotect:
		hook_mprotect(c);
		break;
	case SYS_clone:
	case SYS_clone3:
	case SYS_fork:
		if (clone_flags(c) & CLONE_VM) {
			if (clone_flags(c) & CLONE_THREAD)
				hook_thread(c);
			answer = PG_CALL_NATIVE;
		} else {
			pg_fork(c);
		}
		break;
	case SYS_exit_group:
		if (pg_sys(getpid) == pg_rt.pid)
			pg_runtime_publish();
		answer = PG_CALL_NATIVE;
		break;
	case SYS_mlock:
	case SYS_mlock2:
		hook_mlock(c);
		answer = PG_CALL_NATIVE;
		break;
	case SYS_mlockall:
		hook_mlockall(c);
		break;
	case SYS_ioctl:
		hook_foreign(c);
		answer = PG_CALL_NATIVE;
		break;
	case SYS_vmsplice:
		hook_vmsplice(c);
		answer = PG_CALL_NATIVE;
		break;
	case SYS_setsockopt:
		hook_zerocopy();
		answer = PG_CALL_NATIVE;
		break;
	default:
		answer = PG_CALL_NATIVE;
	}
	pg_signals_restore(mask);
	return answer;
}

/* ---- Where the kernel's faults are not served ---- */

/* On K, who has nobody to serve its faults: the stack of who asks may just be
 * on its way out. */
static int bring_job(struct pgmap_mm *mm, void *arg)
{
	struct pg_hold h;

	pg_hold_copy(pg_rt.holds, (uint32_t)(uintptr_t)arg, &h);
	return pg_hold_bring(mm, &h);
}

/* Not by a load: the stack that it was on may be gone. In a vfork child the
 * runtime's process is another. */
static bool read_word(uintptr_t va, uint64_t *word)
{
	struct iovec to = {word, sizeof(*word)};
	struct iovec from = {(void *)va, sizeof(*word)};

	return pg_sys(process_vm_readv, pg_sys(getpid), &to, 1, &from, 1, 0) ==
	       sizeof(*word);
}

unsigned int pg_hook_reap(void)
{
	uint64_t known = 1, word;

	/* A filter may refuse the call: then nothing is known of any word. */
	if (!read_word((uintptr_t)&known, &word))
		return 0;
	return pg_holds_reap(pg_rt.holds, read_word);
}

/* So many calls at a time are more than most programs make. */
static pg_atomic32 reap_from = 256;

/* More than a signal's frame: it may come while the call blocks. */
#define FRAME ((uintptr_t)16 << 10)

void pg_hook_hold(struct pg_hold *h)
{
	uintptr_t sp = (uintptr_t)__builtin_frame_address(0) - FRAME;
	struct pgmap_mm *mm;

	/* Should the stack be managed: what we use of it ourselves. */
	pg_hold_add_own(h, sp, (uintptr_t)(h + 1) - sp);

	while (!pg_hold_take(pg_rt.holds, h, pg_hook_thread())) {
		pg_hook_reap();
		pg_yield();
	}
	/* K may not run, or be late; and the longer the table, the slower is
	 * whoever looks for what is held. */
	if (h->slot >= pg_load(&reap_from, relaxed) &&
	    pg_hook_reap() < h->slot / 2)
		pg_store(&reap_from, 2 * h->slot, relaxed);
	mm = pg_load(&pg_rt.mm, acquire);
	while (mm && pg_hold_missing(mm, h)) {
		uint64_t mask = pg_signals_block();
		int ret =
			pg_host_run(mm, bring_job, (void *)(uintptr_t)h->slot);

		pg_signals_restore(mask);
		if (!ret)
			return;
		pg_yield();
	}
}

/* Populating holds so much at a time. */
#define POPULATE_PART ((size_t)1 << 20)

static long populate(const struct pg_call *c)
{
	struct pg_call part = *c;
	size_t left = page_up((size_t)c->arg[1]);
	long ret = 0;

	while (left && !ret) {
		struct pg_hold h;

		part.arg[1] =
			(long)(left < POPULATE_PART ? left : POPULATE_PART);
		pg_hold_init(&h);
		pg_hold_add(&h, (uintptr_t)part.arg[0], (size_t)part.arg[1]);
		pg_hook_hold(&h);
		ret = make(&part);
		pg_hold_drop(pg_rt.holds, &h);
		part.arg[0] += part.arg[1];
		left -= (size_t)part.arg[1];
	}
	return ret;
}

/* The kernel keeps these addresses, and writes there later. */
static void keep_area(const struct pg_call *c)
{
	const stack_t *ss = (const void *)c->arg[0];

	switch (c->nr) {
	case SYS_sigaltstack:
		if (ss &&
		    pg_buffers_readable(armed(), (uintptr_t)ss, sizeof(*ss)) &&
		    !(ss->ss_flags & SS_DISABLE))
			keep((uintptr_t)ss->ss_sp, ss->ss_size);
		break;
	case SYS_set_robust_list:
		keep((uintptr_t)c->arg[0], (size_t)c->arg[1]);
		break;
	case SYS_set_tid_address:
		keep((uintptr_t)c->arg[0], sizeof(int));
		break;
	case SYS_rseq:
		keep((uintptr_t)c->arg[0], (size_t)c->arg[1]);
		break;
	default: /* PR_SET_SYSCALL_USER_DISPATCH */
		keep((uintptr_t)c->arg[4], 1);
		break;
	}
}

#define KVM_SET_USER_MEMORY_REGION 0x4020ae46u
#define KVM_SET_USER_MEMORY_REGION2 0x40a0ae49u
#define VHOST_SET_MEM_TABLE 0x4008af03u
#define USBDEVFS_SUBMITURB 0x8038550au
#define PR_USER_DISPATCH 59

static void stop_for(const char *why)
{
	uint64_t mask = pg_signals_block();

	stop(why);
	pg_signals_restore(mask);
}

/* Where faults are signals: calls that would stand in their way. */
static void stop_if_needed(const struct pg_call *c)
{
	uint64_t set;

	switch (c->nr) {
	case SYS_seccomp:
	case SYS_prctl:
		if (c->nr == SYS_prctl ? c->arg[0] == PR_SET_SECCOMP
				       : c->arg[0] <= SECCOMP_SET_MODE_FILTER)
			stop_for("it filters its system calls, and its threads "
				 "serve their page faults");
		break;
	case SYS_signalfd:
	case SYS_signalfd4:
		if (c->arg[2] != sizeof(set) ||
		    !pg_buffers_read(pg_load(&pg_rt.mm, acquire), c, &set,
				     (uintptr_t)c->arg[1], sizeof(set)) ||
		    !(set >> (SIGBUS - 1) & 1))
			break;
		stop_for("it reads SIGBUS from a descriptor, and page faults "
			 "are signals");
		pg_sigbus_give_up();
		break;
	default:
		break;
	}
}

/* What a call that uses memory means beside that. Return: as a hook. */
static int hook_special(struct pg_call *c)
{
	uint64_t mask;

	if (pg_rt.signal)
		stop_if_needed(c);
	switch (c->nr) {
	case SYS_ioctl:
		if ((uint32_t)c->arg[1] == UFFDIO_REGISTER)
			return hook_call(c);
		if ((uint32_t)c->arg[1] == KVM_SET_USER_MEMORY_REGION ||
		    (uint32_t)c->arg[1] == KVM_SET_USER_MEMORY_REGION2 ||
		    (uint32_t)c->arg[1] == VHOST_SET_MEM_TABLE ||
		    (uint32_t)c->arg[1] == USBDEVFS_SUBMITURB)
			stop_for("a device uses its memory");
		return PG_CALL_NATIVE;
	case SYS_setsockopt:
		return c->arg[1] == SOL_SOCKET && c->arg[2] == SO_ZEROCOPY
			       ? hook_call(c)
			       : PG_CALL_NATIVE;
	case SYS_vmsplice:
		return hook_call(c);
	case SYS_prctl:
		if (c->arg[0] != PR_USER_DISPATCH)
			return PG_CALL_NATIVE;
		__attribute__((fallthrough));
	case SYS_sigaltstack:
	case SYS_set_robust_list:
	case SYS_set_tid_address:
	case SYS_rseq:
		mask = pg_signals_block();
		keep_area(c);
		pg_signals_restore(mask);
		return pg_rt.signal ? pg_sigbus_call(c) : PG_CALL_NATIVE;
	case SYS_io_setup:
	case SYS_io_uring_setup:
		stop_for("it uses asynchronous I/O, and nobody may serve the "
			 "kernel's page faults");
		return PG_CALL_NATIVE;
	default:
		return pg_rt.signal ? pg_sigbus_call(c) : PG_CALL_NATIVE;
	}
}

bool pg_hook_find(const struct pg_call *c, struct pg_hold *h, unsigned int nr)
{
	unsigned int i;

	for (i = 0; i < nr; i++)
		pg_hold_init(&h[i]);
	pg_buffers_find(pg_load(&pg_rt.mm, acquire), c, h, nr);
	for (i = 0; i < nr && h[i].nr; i++)
		pg_hook_hold(&h[i]);
	return i;
}

void pg_hook_drop(struct pg_hold *h, unsigned int nr)
{
	for (unsigned int i = 0; i < nr && h[i].nr; i++)
		pg_hold_drop(pg_rt.holds, &h[i]);
}

static int hold_and_make(struct pg_call *c, struct pg_hold *h, unsigned int nr)
{
	if (!pg_hook_find(c, h, nr))
		return hook_special(c);
	if (hook_special(c) == PG_CALL_NATIVE)
		c->ret = make(c);
	pg_hook_drop(h, nr);
	return PG_CALL_DONE;
}

static __attribute__((noinline)) int hook_vectors(struct pg_call *c)
{
	struct pg_hold h[PG_BUFFERS_HOLDS];

	return hold_and_make(c, h, PG_BUFFERS_HOLDS);
}

/* Without the room on the stack that the other needs. */
static __attribute__((noinline)) int hook_buffers(struct pg_call *c)
{
	struct pg_hold h;

	return hold_and_make(c, &h, 1);
}

static bool is_populate(const struct pg_call *c)
{
	return c->nr == SYS_madvise &&
	       (c->arg[2] == 22 /* MADV_POPULATE_READ, Linux 5.14 */ ||
		c->arg[2] == 23 /* MADV_POPULATE_WRITE */);
}

/* The descriptors of the MMU are in the program's table. */
static bool is_own_fd(long fd)
{
	unsigned int first = (unsigned int)fd, last = first;
	const struct pgmap_mm *mm = pg_load(&pg_rt.mm, acquire);

	return mm && pg_host_owns_fd(mm, &first, &last) &&
	       !pg_mutant("descriptors_are_closed");
}

/* All but ours. */
static long close_range_around(const struct pg_call *c)
{
	const struct pgmap_mm *mm = pg_load(&pg_rt.mm, acquire);
	unsigned int at = (unsigned int)c->arg[0], last, own, own_end;
	struct pg_call part = *c;
	long ret = 0;

	last = (unsigned int)c->arg[1];
	if (!mm || at > last || pg_mutant("descriptors_are_closed"))
		return make(c);
	for (;;) {
		own = at;
		own_end = last;
		if (!pg_host_owns_fd(mm, &own, &own_end))
			break;
		part.arg[0] = at;
		part.arg[1] = (long)own - 1;
		if (own > at)
			ret = make(&part);
		if (ret || own == last)
			return ret;
		at = own + 1;
	}
	part.arg[0] = at;
	part.arg[1] = last;
	return make(&part);
}

/* Where faults are signals, of calls without buffers. Return: as a hook. */
static int hook_signal(struct pg_call *c)
{
	switch (c->nr) {
	case SYS_exit:
		pg_sigbus_exit((int)c->arg[0]);
	case SYS_close:
		if (!is_own_fd(c->arg[0]))
			return PG_CALL_NATIVE;
		break;
	case SYS_dup2:
	case SYS_dup3:
		if (!is_own_fd(c->arg[0]) && !is_own_fd(c->arg[1]))
			return PG_CALL_NATIVE;
		break;
	case SYS_close_range:
		c->ret = close_range_around(c);
		return PG_CALL_DONE;
	default:
		return PG_CALL_NATIVE;
	}
	c->ret = -EBADF;
	return PG_CALL_DONE;
}

/* With devices, which need that faults of the kernel are served. */
static int hook_devices(struct pg_call *c)
{
	struct pgmap_mm *mm = managing();
	uint64_t mask;
	int answer;

	if (!pg_dmirror_wants(c)) {
		answer = hook_call(c);
		if (answer == PG_CALL_DONE)
			pg_dmirror_mapped(c);
		return answer;
	}
	mask = pg_signals_block();
	if (mm)
		keep_stack(mm, c->sp);
	answer = pg_dmirror_call(c);
	pg_signals_restore(mask);
	return answer;
}

int pg_hook(struct pg_call *c)
{
	struct pgmap_mm *mm;

	if (!pg_rt.holds)
		return pg_rt.control->dmirror ? hook_devices(c) : hook_call(c);
	mm = armed();
	if (mm)
		keep_stack(mm, c->sp);
	if (pg_rt.signal) {
		pg_sigbus_thread();
		if (hook_signal(c) == PG_CALL_DONE)
			return PG_CALL_DONE;
	}
	if (c->nr == SYS_execve || c->nr == SYS_execveat)
		return hook_call(c);
	if (pg_buffers_has(c->nr))
		return pg_buffers_holds(c->nr) > 1 ? hook_vectors(c)
						   : hook_buffers(c);
	switch (c->nr) {
	case SYS_set_tid_address:
	case SYS_rseq:
	case SYS_io_setup:
	case SYS_io_uring_setup:
		return hook_special(c);
	case SYS_madvise:
		if (!is_populate(c))
			break;
		c->ret = populate(c);
		return PG_CALL_DONE;
	default:
		break;
	}
	return hook_call(c);
}

void pg_hook_init(void)
{
	static const int signal_calls[] = {PG_SITE_SIGNAL};

	pg_syscall_set_hook(pg_hook);
	if (pg_rt.control->dmirror)
		pg_dmirror_init();
	if (!pg_rt.holds)
		return;
	for (long nr = 0; nr < 512; nr++)
		if (pg_buffers_has(nr))
			pg_syscall_want(nr);
	pg_syscall_want(SYS_set_tid_address);
	pg_syscall_want(SYS_rseq);
	pg_syscall_want(SYS_io_setup);
	if (!pg_rt.control->signal)
		return;
	for (size_t i = 0; i < sizeof(signal_calls) / sizeof(signal_calls[0]);
	     i++)
		pg_syscall_want(signal_calls[i]);
}
