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
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"

/* A run may take so long, and the runs of a test together; a loop that maps
 * and unmaps for ever does the same after a while. */
#define TEST_ALLOC_HANG 60
#define TEST_ALLOC_SECONDS 3

/* In a child: the test, with its nth allocation failing. Exits with 0, 1 a
 * check failed; *failed says whether the allocation was reached. */
static inline void test_alloc_run(const struct CMUnitTest *t, unsigned int nth,
				  bool *failed)
{
	int null = open("/dev/null", O_WRONLY), ret;

	alarm(TEST_ALLOC_HANG);
	dup2(null, 1);
	dup2(null, 2);
	pg_mem_fail_nth(nth);
	ret = _cmocka_run_group_tests(t->name, t, 1, NULL, NULL);
	*failed = !pg_mem_fail_nth(0);
	_exit(ret != 0);
}

/* Return: how many tests did worse than to fail. */
static inline int test_alloc(const struct CMUnitTest *list, size_t n)
{
	bool *failed = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int bad = 0;

	printf("1..%zu\n", n);
	for (size_t i = 0; i < n; i++) {
		time_t end = time(NULL) + TEST_ALLOC_SECONDS;
		unsigned int nth = 1, refused = 0;
		int status = 0;

		do {
			pid_t pid = fork();

			/* Should it die, the allocation was reached. */
			*failed = true;
			if (pid == 0)
				test_alloc_run(&list[i], nth, failed);
			waitpid(pid, &status, 0);
			refused += WIFEXITED(status) && WEXITSTATUS(status);
		} while (*failed &&
			 (WIFEXITED(status) && WEXITSTATUS(status) <= 1) &&
			 nth++ && time(NULL) <= end);
		if (WIFEXITED(status) &&
		    WEXITSTATUS(status) <= (*failed ? 1 : 0)) {
			printf("ok %zu - %s: %u allocations, %u noticed\n",
			       i + 1, list[i].name, nth - 1, refused);
			continue;
		}
		bad++;
		printf("not ok %zu - %s: status %#x when allocation %u fails; "
		       "PGMAP_TEST=%s PGMAP_TEST_ALLOC=1 runs it\n",
		       i + 1, list[i].name, (unsigned int)status, nth,
		       list[i].name);
	}
	return bad;
}

#endif
