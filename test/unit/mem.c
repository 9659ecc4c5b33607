/* SPDX-License-Identifier: BSD-3-Clause */
/* Tests of src/base/mem.c. */
#include "base/mem.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/atomic.h"
#include "test.h"

#define PAGE 4096u
#define MB ((size_t)1 << 20)

/* Run @f in a child; return the signal that killed it, or 0. */
static int death_of(void (*f)(void))
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		if (!freopen("/dev/null", "w", stderr))
			_exit(1);
		f();
		_exit(0);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	if (!WIFSIGNALED(status))
		CHECK_EQ(WEXITSTATUS(status), 0);
	return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static size_t resident(void *p, size_t size)
{
	size_t nr = size / PAGE, n = 0;
	unsigned char *vec = calloc(nr, 1);

	CHECK_EQ(mincore(p, size, vec), 0);
	for (size_t i = 0; i < nr; i++)
		n += vec[i] & 1;
	free(vec);
	return n;
}

TEST(memory_is_zeroed_page_aligned_and_writable)
{
	char *p = pg_mem_map(3 * PAGE + 1);

	CHECK(p);
	CHECK_EQ((uintptr_t)p % PAGE, 0);
	for (size_t i = 0; i < 4 * PAGE; i++)
		CHECK_EQ(p[i], 0);
	memset(p, 1, 4 * PAGE);
	pg_mem_unmap(p, 3 * PAGE + 1);
}

TEST(alignment_is_as_asked)
{
	for (size_t align = PAGE; align <= 64 * MB; align *= 2) {
		char *p = pg_mem_map_aligned(5 * PAGE, align);

		CHECK(p);
		CHECK_EQ((uintptr_t)p % align, 0);
		p[0] = 1;
		p[5 * PAGE - 1] = 1;
		pg_mem_unmap(p, 5 * PAGE);
	}
}

TEST(a_terabyte_costs_only_what_is_touched)
{
	const size_t size = (size_t)1 << 40;
	struct rlimit lim;
	char *p;

	CHECK_EQ(getrlimit(RLIMIT_AS, &lim), 0);
	if (lim.rlim_cur != RLIM_INFINITY)
		SKIP("the address space is limited");
	p = pg_mem_map(size);
	if (!p)
		SKIP("this machine does not reserve more than it has");
	p[size / 2] = 1;
	/* One page, never a huge one. */
	CHECK_EQ(resident(p + size / 2 - 4 * MB, 8 * MB), 1);
	pg_mem_unmap(p, size);
}

TEST(our_memory_is_never_huge)
{
	char line[256], *p = pg_mem_map_aligned(4 * MB, 2 * MB);
	FILE *f = fopen("/proc/self/smaps", "r");
	bool in = false, told = false, no_huge = false;
	uintptr_t start, end;

	CHECK(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			in = start <= (uintptr_t)p && (uintptr_t)p < end;
		if (in && !strncmp(line, "VmFlags:", 8)) {
			told = true;
			no_huge = strstr(line, " nh ");
		}
	}
	fclose(f);
	pg_mem_unmap(p, 4 * MB);
	if (access("/sys/kernel/mm/transparent_hugepage", F_OK))
		SKIP("this kernel has no huge pages");
	CHECK(told);
	CHECK(no_huge);
}

TEST(own_memory_is_known_to_the_byte)
{
	char *p = pg_mem_map(2 * PAGE);
	uintptr_t a = (uintptr_t)p;

	CHECK(pg_mem_is_own(a, 1));
	CHECK(pg_mem_is_own(a + 2 * PAGE - 1, 1));
	CHECK(pg_mem_is_own(a - 1, 2));
	CHECK(pg_mem_is_own(a - 10 * PAGE, 100 * PAGE));
	CHECK(!pg_mem_is_own((uintptr_t)&a, sizeof(a)));
	pg_mem_unmap(p, 2 * PAGE);
	CHECK(!pg_mem_is_own(a, 1));
	/* Alone in its surroundings, so that the neighbours are nobody's. */
	p = pg_mem_map_aligned(2 * PAGE, 64 * MB);
	a = (uintptr_t)p;
	CHECK(!pg_mem_is_own(a - 1, 1));
	CHECK(!pg_mem_is_own(a + 2 * PAGE, 1));
	pg_mem_unmap(p, 2 * PAGE);
}

TEST(the_first_own_mapping_of_a_range_is_found_with_its_bounds)
{
	char *p = pg_mem_map_aligned(2 * PAGE, 64 * MB);
	char *q = pg_mem_map_aligned(3 * PAGE, 64 * MB);
	uintptr_t a = (uintptr_t)p, b = (uintptr_t)q, own, end;
	uintptr_t lo = a < b ? a : b, hi = a < b ? b : a;

	CHECK(pg_mem_first_own(lo - PAGE, hi - lo + 2 * PAGE, &own, &end));
	CHECK_EQ(own, lo);
	CHECK_EQ(end - own, lo == a ? 2 * PAGE : 3 * PAGE);
	CHECK(pg_mem_first_own(b + PAGE, PAGE, &own, &end));
	CHECK_EQ(own, b);
	CHECK_EQ(end, b + 3 * PAGE);
	CHECK(!pg_mem_first_own(a + 2 * PAGE, PAGE, &own, &end));
	pg_mem_unmap(p, 2 * PAGE);
	pg_mem_unmap(q, 3 * PAGE);
}

TEST(sizes_that_cannot_be_are_refused)
{
	CHECK(!pg_mem_map(0));
	CHECK(!pg_mem_map(SIZE_MAX));
	CHECK(!pg_mem_map(SIZE_MAX - PAGE));
	CHECK(!pg_mem_map_aligned(SIZE_MAX / 2 + 1, SIZE_MAX / 2 + 1));
	CHECK(!pg_mem_map((size_t)1 << 60));
	pg_mem_unmap(NULL, 5);
}

TEST(dropped_memory_reads_as_zeros)
{
	char *p = pg_mem_map(4 * PAGE);

	memset(p, 7, 4 * PAGE);
	pg_mem_drop(p + PAGE, 2 * PAGE);
	pg_mem_drop(p, 0);
	CHECK_EQ(p[0], 7);
	CHECK_EQ(resident(p, 4 * PAGE), 2);
	CHECK_EQ(p[PAGE], 0);
	CHECK_EQ(p[3 * PAGE - 1], 0);
	CHECK_EQ(p[3 * PAGE], 7);
	pg_mem_unmap(p, 4 * PAGE);
}

TEST(memory_that_the_program_has_locked_can_be_dropped)
{
	char *p = pg_mem_map(2 * PAGE);

	memset(p, 7, 2 * PAGE);
	if (mlock(p, 2 * PAGE)) {
		pg_mem_unmap(p, 2 * PAGE);
		SKIP("no right to lock memory");
	}
	pg_mem_drop(p, 2 * PAGE);
	CHECK_EQ(p[0], 0);
	CHECK_EQ(p[2 * PAGE - 1], 0);
	pg_mem_unmap(p, 2 * PAGE);
}

TEST(the_nth_call_fails_once)
{
	void *a, *b, *c;

	pg_mem_fail_nth(2);
	a = pg_mem_map(1);
	b = pg_mem_map(1);
	c = pg_mem_map(1);
	CHECK(a && !b && c);
	pg_mem_fail_nth(1);
	pg_mem_fail_nth(0);
	b = pg_mem_map(1);
	CHECK(b);
	pg_mem_unmap(a, 1);
	pg_mem_unmap(b, 1);
	pg_mem_unmap(c, 1);
}

static void unmap_foreign(void)
{
	void *p =
		mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	pg_mem_unmap(p, PAGE);
}

static void unmap_twice(void)
{
	void *p = pg_mem_map(PAGE);

	pg_mem_unmap(p, PAGE);
	pg_mem_unmap(p, PAGE);
}

TEST(unmapping_what_is_not_ours_aborts_at_once)
{
	CHECK_EQ(death_of(unmap_foreign), SIGABRT);
	CHECK_EQ(death_of(unmap_twice), SIGABRT);
}

TEST(no_memory_for_a_mapping_is_null_and_nothing_stays)
{
	struct rlimit old, low;
	size_t big = (size_t)1 << 45;

	/* More than the address space takes in one piece with its alignment. */
	CHECK(!pg_mem_map_aligned(big * 2, big * 2));
	CHECK_EQ(getrlimit(RLIMIT_AS, &old), 0);
	low = old;
	low.rlim_cur = 4 * PAGE;
	CHECK_EQ(setrlimit(RLIMIT_AS, &low), 0);
	CHECK(!pg_mem_map(64 * MB));
	CHECK_EQ(setrlimit(RLIMIT_AS, &old), 0);
}

TEST(a_forked_child_has_a_copy)
{
	char *p = pg_mem_map(PAGE);
	int status;
	pid_t pid;

	p[0] = 1;
	pid = fork();
	if (pid == 0) {
		bool ok = pg_mem_is_own((uintptr_t)p, 1) && p[0] == 1;

		p[0] = 2;
		pg_mem_unmap(p, PAGE);
		_exit(ok && !pg_mem_is_own((uintptr_t)p, 1) ? 0 : 1);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, 0);
	CHECK_EQ(p[0], 1);
	CHECK(pg_mem_is_own((uintptr_t)p, 1));
	pg_mem_unmap(p, PAGE);
}

/* What is mapped is listed, whatever other threads do; and what another thread
 * unmaps never takes a neighbour's entry with it. */
static pg_atomic32 bad, stop;

static void *churn(void *arg)
{
	uint64_t seed = (uint64_t)(uintptr_t)arg;
	char *p[8] = {NULL};
	size_t size[8];

	for (int i = 0; i < 4000; i++) {
		size_t k = test_random(&seed) % 8;

		if (p[k]) {
			if (p[k][size[k] - 1] != (char)k ||
			    !pg_mem_is_own((uintptr_t)p[k] + size[k] - 1, 1))
				pg_fetch_add(&bad, 1, relaxed);
			pg_mem_unmap(p[k], size[k]);
			p[k] = NULL;
		} else {
			size[k] = (1 + test_random(&seed) % 8) * PAGE;
			p[k] = pg_mem_map(size[k]);
			if (!p[k] || p[k][size[k] - 1] != 0)
				pg_fetch_add(&bad, 1, relaxed);
			else
				p[k][size[k] - 1] = (char)k;
		}
	}
	for (size_t k = 0; k < 8; k++)
		pg_mem_unmap(p[k], p[k] ? size[k] : 0);
	return NULL;
}

static void *watch_stable(void *p)
{
	while (!pg_load(&stop, acquire))
		if (!pg_mem_is_own((uintptr_t)p, 1))
			pg_fetch_add(&bad, 1, relaxed);
	return NULL;
}

TEST(threads_map_and_unmap_at_once)
{
	char *stable = pg_mem_map(PAGE);
	uint64_t seed = test_seed();
	pthread_t t[3], w;

	pg_store(&bad, 0, relaxed);
	pg_store(&stop, 0, relaxed);
	CHECK_EQ(pthread_create(&w, NULL, watch_stable, stable), 0);
	for (uintptr_t i = 0; i < 3; i++)
		CHECK_EQ(pthread_create(&t[i], NULL, churn,
					(void *)(uintptr_t)(seed + 2 * i)),
			 0);
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	pg_store(&stop, 1, release);
	pthread_join(w, NULL);
	CHECK_EQ(pg_load(&bad, relaxed), 0);
	pg_mem_unmap(stable, PAGE);
}

/*
 * Somebody who walks /proc/self/maps must never meet memory of ours that can
 * be read and is not listed, or it would adopt it. Look from inside the system
 * calls: a filter turns them into signals, whose handler answers.
 */
static struct {
	bool listed, readable;
	int nr;
} at_mprotect, at_munmap;

static void on_call(int sig, siginfo_t *si, void *context)
{
	ucontext_t *uc = context;
	char *addr = (char *)uc->uc_mcontext.gregs[REG_RDI];
	bool listed = pg_mem_is_own((uintptr_t)addr, 1);
	int p[2];

	(void)sig;
	if (si->si_syscall == SYS_mprotect) {
		at_mprotect.listed = listed;
		at_mprotect.nr++;
		if (pipe(p))
			_exit(9);
		at_mprotect.readable = write(p[1], addr, 1) == 1;
		uc->uc_mcontext.gregs[REG_RAX] = -ENOMEM;
	} else {
		at_munmap.listed = listed;
		at_munmap.nr++;
		uc->uc_mcontext.gregs[REG_RAX] = 0;
	}
}

static bool trap_calls(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_munmap, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {.len = 5, .filter = code};
	struct sigaction sa = {.sa_sigaction = on_call, .sa_flags = SA_SIGINFO};

	return !sigaction(SIGSYS, &sa, NULL) &&
	       !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
	       !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
}

TEST(memory_is_listed_before_it_can_be_read_and_until_it_is_gone)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		if (!trap_calls())
			_exit(2);
		/* Without mprotect() there is no memory, and a clean end. */
		if (pg_mem_map(PAGE))
			_exit(3);
		if (at_mprotect.nr != 1 || at_munmap.nr != 1)
			_exit(4);
		if (!at_mprotect.listed || at_mprotect.readable)
			_exit(5);
		_exit(at_munmap.listed ? 0 : 6);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK(WIFEXITED(status));
	if (WEXITSTATUS(status) == 2)
		SKIP("no system-call filters here");
	CHECK_EQ(WEXITSTATUS(status), 0);
}

TEST_MAIN()
