/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * alloc.h - every test, with its n-th allocation failing, for every n.
 *
 * A test does not expect that, so one of its checks may fail: then it has been
 * told that there is no memory, which is all it could be told. What must not
 * be: a crash, a broken invariant (pg_bug_on aborts), a sanitizer's complaint,
 * a hang. Each run is a process of its own.
 */
#ifndef TEST_ALLOC_H
#define TEST_ALLOC_H

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"

/* A run may take so long, and the runs of a test together; for all of a few
 * allocations there is more time. A test of threads does the same thousands of
 * times, or as often as they get to it. */
#define TEST_ALLOC_HANG 60
#define TEST_ALLOC_SECONDS 1
#define TEST_ALLOC_FEW 100
#define TEST_ALLOC_FEW_SECONDS 8
/* Far behind the last allocation of any test. */
#define TEST_ALLOC_NEVER (1u << 30)

static const struct CMUnitTest *test_alloc_now;

/* cmocka takes a crash for a check that failed; here it is none. */
static inline void test_alloc_call(void **state)
{
	static const int crashes[] = {SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS};

	for (size_t i = 0; i < sizeof(crashes) / sizeof(crashes[0]); i++)
		signal(crashes[i], SIG_DFL);
	test_alloc_now->test_func(state);
}

/* In a child: the test, with its @nth allocation failing. Exits with 0, 1 a
 * check failed; *left: how many calls it would have taken to fail one more, 0
 * that it failed. */
static inline void test_alloc_child(const struct CMUnitTest *t,
				    unsigned int nth, unsigned int *left)
{
	struct CMUnitTest call = {t->name, test_alloc_call, NULL, NULL, NULL};
	int null = open("/dev/null", O_WRONLY), ret;

	test_alloc_now = t;
	alarm(TEST_ALLOC_HANG);
	dup2(null, 1);
	dup2(null, 2);
	pg_mem_fail_nth(nth);
	ret = _cmocka_run_group_tests(t->name, &call, 1, NULL, NULL);
	*left = pg_mem_fail_nth(0);
	_exit(ret != 0);
}

/* Return: the status of that child. */
static inline int test_alloc_run(const struct CMUnitTest *t, unsigned int nth,
				 unsigned int *left)
{
	int status = 0;
	pid_t pid;

	/* Should it die, the allocation was reached. */
	*left = 0;
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		test_alloc_child(t, nth, left);
	waitpid(pid, &status, 0);
	return status;
}

static inline bool test_alloc_bad(int status)
{
	return !WIFEXITED(status) || WEXITSTATUS(status) > 1;
}

/* All runs of a test. Return: did it no worse than to fail? */
static inline bool test_alloc_one(const struct CMUnitTest *t, size_t i,
				  unsigned int *left)
{
	unsigned int nth = 0, all, noticed = 0;
	int status = test_alloc_run(t, TEST_ALLOC_NEVER, left);
	time_t end = time(NULL);

	all = TEST_ALLOC_NEVER - *left;
	end += all > TEST_ALLOC_FEW ? TEST_ALLOC_SECONDS
				    : TEST_ALLOC_FEW_SECONDS;
	if (!status && !*left) {
		printf("ok %zu - %s: lets allocations fail itself\n", i,
		       t->name);
		return true;
	}
	while (!status && nth < all && time(NULL) <= end) {
		status = test_alloc_run(t, ++nth, left);
		if (test_alloc_bad(status))
			break;
		noticed += status != 0;
		/* What it does after a failure need not be the same always. */
		if (*left)
			all = nth;
		status = 0;
	}
	if (!status) {
		printf("ok %zu - %s: %u of %u allocations, %u noticed\n", i,
		       t->name, nth, all, noticed);
		return true;
	}
	printf("not ok %zu - %s: status %#x when allocation %u fails; "
	       "PGMAP_TEST=%s PGMAP_TEST_ALLOC=1 runs it\n",
	       i, t->name, (unsigned int)status, nth, t->name);
	return false;
}

/* Return: 0, or 1 when a test did worse than to fail. */
static inline int test_alloc(const struct CMUnitTest *list, size_t n)
{
	unsigned int *left = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int ret = 0;

	printf("1..%zu\n", n);
	for (size_t i = 0; i < n; i++)
		if (!test_alloc_one(&list[i], i + 1, left))
			ret = 1;
	return ret;
}

#endif
