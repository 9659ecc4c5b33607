/* SPDX-License-Identifier: BSD-3-Clause */
/* Tests of src/base/thread.c. */
#include "base/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/single_threaded.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/lock.h"
#include "base/mem.h"
#include "base/sys.h"
#include "test.h"

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
#define TSAN 1
#else
#define TSAN 0
#endif
#if TSAN || defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define SANITIZER 1
#else
#define SANITIZER 0
#endif

#define SKIP_SANITIZER()                                                       \
	do {                                                                   \
		if (SANITIZER)                                                 \
			SKIP("sanitizer builds use pthreads");                 \
	} while (0)

static void nap(void)
{
	struct timespec t = {.tv_nsec = 1000000};

	nanosleep(&t, NULL);
}

/* Run @f in a child; return its exit status, or minus the signal. */
static int in_child(int (*f)(void))
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		alarm(20);
		_exit(f());
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

/* What a thread saw, written by it and read after the join. */
static struct seen {
	void *arg;
	long tid, pid;
	uint64_t sigmask;
	uintptr_t fs0, fs10, canary;
	long fd, opened;
	int cwd_ok;
} seen;

static void look(void *arg)
{
	seen.arg = arg;
	seen.tid = pg_sys(gettid);
	seen.pid = pg_sys(getpid);
	pg_sys(rt_sigprocmask, SIG_BLOCK, NULL, &seen.sigmask, 8);
	__asm__("mov %%fs:0, %0" : "=r"(seen.fs0));
	__asm__("mov %%fs:0x10, %0" : "=r"(seen.fs10));
	__asm__("mov %%fs:0x28, %0" : "=r"(seen.canary));
	seen.opened = pg_sys(openat, AT_FDCWD, "/dev/null", O_RDONLY);
}

static void run(void (*body)(void *), void *arg, bool own_files)
{
	struct pg_thread t = {0};

	memset(&seen, 0, sizeof(seen));
	CHECK_EQ(pg_thread_start(&t, body, arg, own_files), 0);
	pg_thread_join(&t);
	CHECK_EQ(pg_load(&t.tid, relaxed), 0);
	CHECK(!t.stack);
}

TEST(a_thread_runs_its_body_once_in_this_process)
{
	int x;

	run(look, &x, false);
	CHECK_EQ((uintptr_t)seen.arg, (uintptr_t)&x);
	CHECK_EQ(seen.pid, getpid());
	CHECK(seen.tid != getpid());
	close((int)seen.opened);
}

static pg_atomic32 gate;

static void wait_at_gate(void *arg)
{
	(void)arg;
	while (!pg_load(&gate, acquire))
		pg_wait(&gate, 0, 0);
}

TEST(the_tid_is_known_while_it_runs_and_the_stack_is_ours)
{
	struct pg_thread t = {0};
	char path[64];

	pg_store(&gate, 0, relaxed);
	CHECK_EQ(pg_thread_start(&t, wait_at_gate, NULL, false), 0);
	snprintf(path, sizeof(path), "/proc/self/task/%u",
		 pg_load(&t.tid, acquire));
	CHECK_EQ(access(path, F_OK), 0);
	if (!SANITIZER)
		CHECK(pg_mem_is_own((uintptr_t)t.stack, 4096));
	pg_store(&gate, 1, release);
	pg_wake(&gate);
	pg_thread_join(&t);
	for (int i = 0; !access(path, F_OK) && i < 5000; i++)
		nap();
	CHECK_EQ(access(path, F_OK), -1);
	pg_thread_join(&t); /* of none is fine */
}

TEST(all_signals_are_blocked_in_it_and_not_in_its_creator)
{
	uint64_t before, after;

	pg_sys(rt_sigprocmask, SIG_BLOCK, NULL, &before, 8);
	run(look, NULL, false);
	close((int)seen.opened);
	pg_sys(rt_sigprocmask, SIG_BLOCK, NULL, &after, 8);
	CHECK_EQ(before, after);
	/* All but SIGKILL and SIGSTOP, which cannot be; libc and sanitizers
	 * keep one or two of their own open. */
	if (SANITIZER)
		CHECK_EQ(~seen.sigmask & 0x7ffbfeffu, 0);
	else
		CHECK_EQ(~seen.sigmask,
			 1ull << (SIGKILL - 1) | 1ull << (SIGSTOP - 1));
}

TEST(the_thread_block_is_what_compilers_and_libc_expect)
{
	uintptr_t canary;

	SKIP_SANITIZER();
	__asm__("mov %%fs:0x28, %0" : "=r"(canary));
	run(look, NULL, false);
	close((int)seen.opened);
	CHECK_EQ(seen.fs0, seen.fs10);
	CHECK(seen.fs0 != 0);
	CHECK_EQ(seen.canary, canary);
}

TEST(libc_does_not_notice)
{
	SKIP_SANITIZER();
	if (!__libc_single_threaded)
		SKIP("another test has made libc multithreaded");
	run(look, NULL, false);
	close((int)seen.opened);
	CHECK(__libc_single_threaded);
}

static volatile char sink;

static void deep(void *arg)
{
	volatile char room[200 << 10];

	(void)arg;
	for (size_t i = 0; i < sizeof(room); i += 512)
		room[i] = (char)i;
	sink = room[1024];
}

static void too_deep(void *arg)
{
	struct pg_thread *t = arg;

	*(volatile char *)t->stack = 1; /* the guard page */
}

static int overflow(void)
{
	struct pg_thread t = {0};

	signal(SIGSEGV, SIG_DFL);
	if (pg_thread_start(&t, too_deep, &t, false))
		return 1;
	pg_thread_join(&t);
	return 0;
}

TEST(there_are_200_kb_of_stack_and_a_guard_below_it)
{
	run(deep, NULL, false);
	SKIP_SANITIZER();
	CHECK_EQ(in_child(overflow), -SIGSEGV);
}

static void use_vectors(void *arg)
{
	double d[8];

	/* Aligned stores that crash on a stack that is not aligned. */
	for (int i = 0; i < 8; i++)
		d[i] = (double)i * *(double *)arg;
	*(double *)arg = d[3] + d[7];
}

TEST(the_stack_is_aligned_for_vector_code)
{
	double d = 1.5;

	run(use_vectors, &d, false);
	CHECK(d == 15);
}

/* ----- descriptors ----- */

TEST(without_own_files_it_shares_the_descriptors)
{
	run(look, NULL, false);
	CHECK(seen.opened >= 0);
	CHECK_EQ(fcntl((int)seen.opened, F_GETFD), 0);
	close((int)seen.opened);
}

TEST(with_own_files_its_table_is_empty_and_its_own)
{
	run(look, NULL, true);
	CHECK_EQ(seen.opened, SANITIZER ? 3 : 0);
}

static long kept[4];

static void look_at_kept(void *arg)
{
	const int *fd = arg;

	for (int i = 0; i < 4; i++)
		kept[i] = pg_sys(fcntl, fd[i], F_GETFD);
}

TEST(descriptors_that_are_named_stay_in_its_table)
{
	struct pg_thread t = {0};
	int fd[4];

	for (int i = 0; i < 4; i++)
		fd[i] = fcntl(1, F_DUPFD, 100);
	CHECK(fd[3] == fd[0] + 3);
	CHECK_EQ(pg_thread_start_keeping(&t, look_at_kept, fd,
					 (int[]){fd[1], fd[2]}, 2),
		 0);
	pg_thread_join(&t);
	CHECK(kept[0] == -EBADF && kept[1] >= 0 && kept[2] >= 0 &&
	      kept[3] == -EBADF);
	for (int i = 0; i < 4; i++)
		close(fd[i]);
}

/* Nobody but us may hold the pipe when pg_thread_start() has returned. */
static int pipe_is_ours(void)
{
	struct pg_thread t = {0};
	char c;
	int p[2], ret;

	pg_store(&gate, 0, relaxed);
	if (pipe(p) || pg_thread_start(&t, wait_at_gate, NULL, true))
		return 1;
	close(p[1]);
	fcntl(p[0], F_SETFL, O_NONBLOCK);
	ret = (int)read(p[0], &c, 1); /* 0: no writer is left */
	close(p[0]);
	pg_store(&gate, 1, release);
	pg_wake(&gate);
	pg_thread_join(&t);
	return ret == 0 ? 0 : 2;
}

TEST(no_pipe_of_the_program_is_kept_open)
{
	for (int i = 0; i < 20; i++)
		CHECK_EQ(pipe_is_ours(), 0);
}

static int filter(uint32_t nr, uint32_t error)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {.len = 4, .filter = code};

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	       prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
}

static int pipe_is_ours_without_close_range(void)
{
	int high = fcntl(0, F_DUPFD, 1000);

	if (high < 0 || filter(436 /* close_range */, ENOSYS))
		return 77;
	return pipe_is_ours();
}

TEST(nor_where_the_kernel_has_no_close_range)
{
	int ret;

	if (TSAN)
		SKIP("TSan starts no thread in a child of many threads");
	ret = in_child(pipe_is_ours_without_close_range);
	if (ret == 77)
		SKIP("no system-call filters here");
	CHECK_EQ(ret, 0);
}

static void where(void *arg)
{
	pg_atomic32 *step = arg;
	char cwd[64] = "";

	pg_store(step, 1, release);
	pg_wake(step);
	while (pg_load(step, acquire) != 2)
		pg_wait(step, 1, 0);
	pg_sys(getcwd, cwd, sizeof(cwd));
	seen.cwd_ok = !strcmp(cwd, "/");
}

static int chdir_after_start(void)
{
	struct pg_thread t = {0};
	pg_atomic32 step = 0;

	if (chdir("/") || pg_thread_start(&t, where, &step, true))
		return 1;
	while (!pg_load(&step, acquire))
		nap();
	if (chdir("/proc"))
		return 1;
	pg_store(&step, 2, release);
	pg_wake(&step);
	pg_thread_join(&t);
	return seen.cwd_ok ? 0 : 2;
}

TEST(with_own_files_the_program_does_not_move_its_working_directory)
{
	SKIP_SANITIZER();
	CHECK_EQ(in_child(chdir_after_start), 0);
}

/* ----- failures ----- */

static int no_clone(void)
{
	struct pg_thread t = {0};
	uint64_t before, after;

	if (filter(SYS_clone, EAGAIN))
		return 77;
	pg_sys(rt_sigprocmask, SIG_BLOCK, NULL, &before, 8);
	if (pg_thread_start(&t, look, NULL, true) != -EAGAIN)
		return 1;
	pg_sys(rt_sigprocmask, SIG_BLOCK, NULL, &after, 8);
	if (before != after || t.stack || pg_load(&t.tid, relaxed))
		return 2;
	pg_thread_join(&t);
	return 0;
}

TEST(what_clone_says_is_returned_and_nothing_stays)
{
	int ret;

	SKIP_SANITIZER();
	ret = in_child(no_clone);
	if (ret == 77)
		SKIP("no system-call filters here");
	CHECK_EQ(ret, 0);
}

TEST(without_memory_it_is_enomem)
{
	struct pg_thread t = {0};

	SKIP_SANITIZER();
	pg_mem_fail_nth(1);
	CHECK_EQ(pg_thread_start(&t, look, NULL, false), -ENOMEM);
	CHECK(!t.stack);
}

/* ----- many ----- */

static pg_atomic32 ran;

static void count(void *arg)
{
	(void)arg;
	pg_fetch_add(&ran, 1, relaxed);
}

static void *start_and_join(void *arg)
{
	(void)arg;
	for (int i = 0; i < 100; i++) {
		struct pg_thread t[3] = {{0}};

		for (int k = 0; k < 3; k++)
			if (pg_thread_start(&t[k], count, NULL, k == 1))
				return (void *)1;
		for (int k = 0; k < 3; k++)
			pg_thread_join(&t[k]);
	}
	return NULL;
}

TEST(threads_start_and_end_from_several_threads_at_once)
{
	pthread_t t[2];
	void *ret;

	pg_store(&ran, 0, relaxed);
	for (int i = 0; i < 2; i++)
		CHECK_EQ(pthread_create(&t[i], NULL, start_and_join, NULL), 0);
	for (int i = 0; i < 2; i++) {
		pthread_join(t[i], &ret);
		CHECK(!ret);
	}
	CHECK_EQ(pg_load(&ran, relaxed), 600);
}

/* ----- life of the process ----- */

static struct pg_thread outer;

static int forget(void)
{
	uintptr_t stack = (uintptr_t)outer.stack;

	pg_thread_forget(&outer);
	if (outer.stack || pg_load(&outer.tid, relaxed))
		return 1;
	return stack && pg_mem_is_own(stack, 1) ? 2 : 0;
}

TEST(a_fork_child_forgets_a_thread_and_frees_its_stack)
{
	pg_store(&gate, 0, relaxed);
	CHECK_EQ(pg_thread_start(&outer, wait_at_gate, NULL, false), 0);
	CHECK_EQ(in_child(forget), 0);
	CHECK(pg_load(&outer.tid, acquire) != 0);
	pg_store(&gate, 1, release);
	pg_wake(&gate);
	pg_thread_join(&outer);
}

static int leave_it_running(void)
{
	static struct pg_thread t;

	pg_store(&gate, 0, relaxed);
	if (pg_thread_start(&t, wait_at_gate, NULL, true))
		return 1;
	exit(7);
}

TEST(it_does_not_keep_the_process_from_ending)
{
	if (TSAN)
		SKIP("TSan starts no thread in a child of many threads");
	CHECK_EQ(in_child(leave_it_running), 7);
}

static int exec_true(void)
{
	static struct pg_thread t;

	pg_store(&gate, 0, relaxed);
	if (pg_thread_start(&t, wait_at_gate, NULL, true))
		return 1;
	execl("/bin/sh", "sh", "-c", "exit 5", (char *)NULL);
	return 2;
}

TEST(it_does_not_survive_exec)
{
	if (TSAN)
		SKIP("TSan starts no thread in a child of many threads");
	CHECK_EQ(in_child(exec_true), 5);
}

static pg_atomic32 got_signal;

static void on_term(int sig)
{
	(void)sig;
	pg_store(&got_signal, (uint32_t)syscall(SYS_gettid), relaxed);
}

TEST(signals_of_the_process_go_to_the_program_and_not_to_it)
{
	struct sigaction sa = {.sa_handler = on_term}, old;
	struct pg_thread t = {0};

	pg_store(&gate, 0, relaxed);
	CHECK_EQ(pg_thread_start(&t, wait_at_gate, NULL, false), 0);
	sigaction(SIGTERM, &sa, &old);
	CHECK_EQ(kill(getpid(), SIGTERM), 0);
	for (int i = 0; !pg_load(&got_signal, relaxed) && i < 5000; i++)
		nap();
	sigaction(SIGTERM, &old, NULL);
	CHECK_EQ(pg_load(&got_signal, relaxed), getpid());
	pg_store(&gate, 1, release);
	pg_wake(&gate);
	pg_thread_join(&t);
}

TEST_MAIN()
