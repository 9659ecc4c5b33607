/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * thread.c - threads that libc does not know, by a bare clone().
 *
 * The memory of a thread, from low to high: a guard page, the stack, zeroed
 * room for static thread-local storage, the thread block that fs points to.
 */
#include "base/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "base/lock.h"
#include "base/mem.h"
#include "base/mutant.h"
#include "base/sys.h"

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__) ||           \
	__has_feature(thread_sanitizer) || __has_feature(address_sanitizer) || \
	__has_feature(memory_sanitizer)
#include <pthread.h>
#define USE_PTHREAD 1
#else
#define USE_PTHREAD 0
#endif

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

/* What the new thread needs to know. Lives on the creator's stack, so the
 * creator waits for @started. */
struct start {
	void (*body)(void *arg);
	void *arg;
	pg_atomic32 *tid;
	bool own_files;
	const int *keep; /* descriptors that stay; rising */
	unsigned int nr_keep;
	pg_atomic32 started; /* release: the table is empty; acquire: creator */
};

/* A sanitizer writes its reports to 0..2. */
#define FIRST_CLOSED (USE_PTHREAD ? 3u : 0u)

static void close_part(unsigned int first, unsigned int last)
{
	struct rlimit lim = {0, 0};
	unsigned int end;

	if (first > last || !pg_sys(close_range, first, last, 0))
		return;
	/* Linux before 5.9. The limit may have been lowered below a number in
	 * use, but never above the hard one without privilege. */
	pg_sys(prlimit64, 0, RLIMIT_NOFILE, NULL, &lim);
	end = lim.rlim_max < 1u << 20 ? (unsigned int)lim.rlim_max : 1u << 20;
	for (unsigned int fd = first; fd < end && fd <= last; fd++)
		pg_sys(close, fd);
}

static void close_all(const struct start *s)
{
	unsigned int first = FIRST_CLOSED;

	for (unsigned int i = 0;
	     i < s->nr_keep && !pg_mutant("all_descriptors_are_closed"); i++) {
		close_part(first, (unsigned int)s->keep[i] - 1);
		first = (unsigned int)s->keep[i] + 1;
	}
	close_part(first, ~0u);
}

/* Runs on the new thread. */
static void thread_main(struct start *s)
{
	void (*body)(void *arg) = s->body;
	void *arg = s->arg;
	long fd;

	if (s->own_files) {
		close_all(s);
		/* A descriptor of ours called 2 would get what is meant for
		 * stderr. */
		fd = pg_sys(openat, -100, "/dev/null", O_RDWR);
		if (fd >= 0 && fd < 2)
			pg_sys(dup3, fd, 2, 0);
		if (fd >= 0 && fd != 2)
			pg_sys(close, fd);
	}
	pg_store(&s->started, 1, release);
	pg_wake(&s->started); /* a stale wake-up does no harm */
	body(arg);
}

static void wait_started(struct start *s)
{
	while (!pg_load(&s->started, acquire))
		pg_wait(&s->started, 0, 0);
}

/* The signal mask of the kernel: 64 bits, whatever libc's sigset_t is. */
static uint64_t block_signals(uint64_t mask)
{
	uint64_t old = 0;

	pg_sys(rt_sigprocmask, 2 /* SIG_SETMASK */, &mask, &old, sizeof(mask));
	return old;
}

#if USE_PTHREAD

static void *pthread_main(void *arg)
{
	struct start *s = arg;
	pg_atomic32 *tid = s->tid;

	pg_store(tid, (uint32_t)pg_sys(gettid), relaxed);
	if (s->own_files)
		pg_sys(unshare, CLONE_FILES);
	thread_main(s);
	return NULL;
}

static int start_thread(struct pg_thread *t, void (*body)(void *), void *arg,
			bool own_files, const int *keep, unsigned int nr_keep)
{
	struct start s = {.body = body,
			  .arg = arg,
			  .tid = &t->tid,
			  .own_files = own_files,
			  .keep = keep,
			  .nr_keep = nr_keep};
	uint64_t mask = block_signals(~(uint64_t)0);
	pthread_t p;
	int ret = pthread_create(&p, NULL, pthread_main, &s);

	block_signals(mask);
	if (ret)
		return -ret;
	t->pthread = (uint64_t)p;
	t->body = body;
	t->arg = arg;
	wait_started(&s);
	return 0;
}

void pg_thread_join(struct pg_thread *t)
{
	if (!pg_load(&t->tid, acquire))
		return;
	pthread_join((pthread_t)t->pthread, NULL);
	pg_store(&t->tid, 0, relaxed);
}

void pg_thread_forget(struct pg_thread *t)
{
	pg_store(&t->tid, 0, relaxed);
}

#else

#define GUARD 4096u
#define STACK (256u << 10)
#define TLS_ROOM (8u << 10)
#define BLOCK 4096u
#define THREAD_MEM (GUARD + STACK + TLS_ROOM + BLOCK)

/* What compilers and libc expect at fs:0. Our code uses no thread-local
 * storage, but it may have been built with a stack protector. */
struct thread_block {
	void *self;
	void *dtv;
	void *self_again;
	uint32_t libc[4];
	uintptr_t canary;
	uintptr_t pointer_guard;
};

_Static_assert(offsetof(struct thread_block, self_again) == 0x10, "ABI");
_Static_assert(offsetof(struct thread_block, canary) == 0x28, "ABI");

static _Noreturn void raw_main(struct start *s)
{
	thread_main(s);
	for (;;)
		pg_sys(exit, 0);
}

/*
 * The child comes back from the system call on another stack, so nothing of
 * the frame of this function may be used there: it goes straight to @main,
 * with everything it needs in registers.
 */
static long clone_to(unsigned long flags, void *stack, pg_atomic32 *tid,
		     void *block, void (*main)(struct start *), struct start *s)
{
	register long r10 __asm__("r10") = (long)tid;
	register long r8 __asm__("r8") = (long)block;
	register long r12 __asm__("r12") = (long)s;
	register long r13 __asm__("r13") = (long)main;
	long ret;

	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "mov %%r12, %%rdi\n\t"
			 "call *%%r13\n\t"
			 "ud2\n"
			 "1:"
			 : "=a"(ret)
			 : "a"(SYS_clone), "D"(flags), "S"(stack), "d"(tid),
			   "r"(r10), "r"(r8), "r"(r12), "r"(r13)
			 : "rcx", "r11", "cc", "memory");
	return ret;
}

static int start_thread(struct pg_thread *t, void (*body)(void *), void *arg,
			bool own_files, const int *keep, unsigned int nr_keep)
{
	struct start s = {.body = body,
			  .arg = arg,
			  .tid = &t->tid,
			  .own_files = own_files,
			  .keep = keep,
			  .nr_keep = nr_keep};
	unsigned long flags = CLONE_VM | CLONE_SIGHAND | CLONE_THREAD |
			      CLONE_SYSVSEM | CLONE_SETTLS |
			      CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
	char *mem = pg_mem_map(THREAD_MEM);
	struct thread_block *block;
	uint64_t mask;
	long ret;

	if (!mem)
		return -ENOMEM;
	ret = pg_sys(mprotect, mem, GUARD, PROT_NONE);
	if (ret)
		goto err_unmap;
	block = (struct thread_block *)(mem + GUARD + STACK + TLS_ROOM);
	block->self = block;
	block->self_again = block;
	__asm__("mov %%fs:0x28, %0" : "=r"(block->canary));
	__asm__("mov %%fs:0x30, %0" : "=r"(block->pointer_guard));

	if (!own_files)
		flags |= CLONE_FILES | CLONE_FS;
	t->stack = mem;
	t->body = body;
	t->arg = arg;
	mask = block_signals(~(uint64_t)0);
	ret = clone_to(flags, mem + GUARD + STACK, &t->tid, block, raw_main,
		       &s);
	block_signals(mask);
	if (ret < 0)
		goto err_unmap;
	wait_started(&s);
	return 0;

err_unmap:
	pg_mem_unmap(mem, THREAD_MEM);
	t->stack = NULL;
	return (int)ret;
}

void pg_thread_join(struct pg_thread *t)
{
	uint32_t tid;

	/* The kernel clears the word when the thread has left its stack, and
	 * wakes without FUTEX_PRIVATE_FLAG. */
	while ((tid = pg_load(&t->tid, acquire)) != 0)
		pg_sys(futex, &t->tid, FUTEX_WAIT, tid, NULL);
	pg_mem_unmap(t->stack, THREAD_MEM);
	t->stack = NULL;
}

void pg_thread_forget(struct pg_thread *t)
{
	pg_store(&t->tid, 0, relaxed);
	pg_mem_unmap(t->stack, THREAD_MEM);
	t->stack = NULL;
}

#endif

int pg_thread_start(struct pg_thread *t, void (*body)(void *), void *arg,
		    bool own_files)
{
	return start_thread(t, body, arg, own_files, NULL, 0);
}

int pg_thread_start_keeping(struct pg_thread *t, void (*body)(void *),
			    void *arg, const int *keep, unsigned int nr)
{
	return start_thread(t, body, arg, true, keep, nr);
}
