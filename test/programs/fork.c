/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fork.c - every way to make a process, while pages are away.
 */
#include "behaviour.h"

#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/syscall.h>

extern char **environ;

/* Both sides see what was there, write something else, and keep it. */
static void both_sides(pid_t (*do_fork)(void))
{
	char *p = filled(WORK, 1);
	pid_t pid = do_fork();

	CHECK(pid >= 0);
	if (!pid) {
		char *heap = malloc(3 * MB);

		CHECK(heap);
		fill(heap, 3 * MB, 9);
		CHECK(is_filled(p, WORK, 1));
		fill(p, WORK, 2);
		push_out();
		CHECK(is_filled(p, WORK, 2));
		CHECK(is_filled(heap, 3 * MB, 9));
		_exit(7);
	}
	CHECK(is_filled(p, WORK / 2, 1));
	fill(p, WORK / 2, 3);
	push_out();
	CHECK(is_filled(p, WORK / 2, 3));
	check_child(pid, 7);
	CHECK(is_filled(p, WORK / 2, 3));
	/* The half that the parent did not write is what it was. */
	for (size_t i = WORK / 16; i < WORK / 8; i += 512)
		CHECK(((uint64_t *)(void *)p)[i] == word_of(1, i));
}

static pid_t raw_clone(void)
{
	return (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
}

static pid_t raw_fork(void)
{
	return (pid_t)syscall(SYS_fork);
}

CASE(fork_both_sides)
{
	both_sides(fork);
}

CASE(underscore_fork)
{
	both_sides(_Fork);
}

CASE(clone_system_call)
{
	both_sides(raw_clone);
}

CASE(fork_system_call)
{
	both_sides(raw_fork);
}

static int in_clone(void *arg)
{
	CHECK(is_filled(arg, WORK, 4));
	fill(arg, WORK, 5);
	return 5;
}

CASE(clone_function_with_its_own_stack)
{
	char *p = filled(WORK, 4), *stack = map(MB);
	pid_t pid = clone(in_clone, stack + MB, SIGCHLD, p);

	CHECK(is_filled(p, WORK, 4));
	check_child(pid, 5);
	CHECK(is_filled(p, WORK, 4));
}

static int in_shared_clone(void *arg)
{
	CHECK(is_filled(arg, WORK, 4));
	fill(arg, WORK / 2, 6);
	return 6;
}

CASE(clone_that_shares_memory)
{
	char *p = filled(WORK, 4), *stack = map(MB);
	pid_t pid = clone(in_shared_clone, stack + MB,
			  CLONE_VM | CLONE_VFORK | SIGCHLD, p);

	check_child(pid, 6);
	CHECK(is_filled(p, WORK / 2, 6));
}

static void generation(char *p, uint64_t seed, int left)
{
	pid_t pid;

	CHECK(is_filled(p, WORK / 2, seed));
	fill(p, WORK / 2, seed + 1);
	if (!left)
		return;
	push_out();
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		generation(p, seed + 1, left - 1);
		_exit(20 + left);
	}
	check_child(pid, 20 + left);
	CHECK(is_filled(p, WORK / 2, seed + 1));
}

CASE(grandchildren)
{
	generation(filled(WORK / 2, 1), 1, 4);
}

CASE(children_at_once)
{
	char *p = filled(WORK / 2, 1);
	pid_t pid[6];

	for (int i = 0; i < 6; i++) {
		pid[i] = fork();
		CHECK(pid[i] >= 0);
		if (!pid[i]) {
			CHECK(is_filled(p, WORK / 2, 1));
			fill(p, WORK / 2, (uint64_t)i + 10);
			CHECK(is_filled(p, WORK / 2, (uint64_t)i + 10));
			_exit(i);
		}
	}
	CHECK(is_filled(p, WORK / 2, 1));
	for (int i = 0; i < 6; i++)
		check_child(pid[i], i);
}

CASE(child_that_outlives_its_parent)
{
	char *p = filled(WORK, 1), byte = 0;
	int report[2];
	pid_t pid;

	CHECK(!pipe(report));
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		pid_t orphan = fork();

		CHECK(orphan >= 0);
		if (orphan)
			_exit(3);
		usleep(20000);
		CHECK(is_filled(p, WORK, 1));
		fill(p, WORK, 2);
		CHECK(is_filled(p, WORK, 2));
		CHECK(write(report[1], "y", 1) == 1);
		_exit(0);
	}
	close(report[1]);
	check_child(pid, 3);
	munmap(p, WORK);
	CHECK(read(report[0], &byte, 1) == 1);
	CHECK(byte == 'y');
}

static _Atomic bool stop;
static _Atomic unsigned int nr_touched;

static void *touch(void *arg)
{
	char *p = arg;
	uint64_t x = (uintptr_t)&x;

	while (!stop) {
		size_t i;

		x = x * 6364136223846793005u + 1442695040888963407u;
		i = (x >> 33) % (WORK / PAGE) * (PAGE / 8);
		CHECK(((uint64_t *)(void *)p)[i] == word_of(1, i));
		nr_touched++;
	}
	return NULL;
}

CASE(N59_fork_while_threads_fault)
{
	char *p = filled(WORK, 1);
	pthread_t t[2];

	for (int i = 0; i < 2; i++)
		CHECK(!pthread_create(&t[i], NULL, touch, p));
	while (nr_touched < 100)
		usleep(100);
	for (int n = 0; n < 30; n++) {
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (!pid) {
			char *heap = malloc(200000);

			CHECK(heap);
			memset(heap, n, 200000);
			CHECK(is_filled(p, WORK / 16, 1));
			free(heap);
			_exit(n);
		}
		check_child(pid, n);
	}
	stop = true;
	for (int i = 0; i < 2; i++)
		CHECK(!pthread_join(t[i], NULL));
	CHECK(is_filled(p, WORK, 1));
}

static void *fork_and_check(void *arg)
{
	for (int n = 0; n < 8; n++) {
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (!pid) {
			CHECK(is_filled(arg, WORK / 8, 1));
			_exit(11);
		}
		check_child(pid, 11);
	}
	return NULL;
}

CASE(N59_fork_from_two_threads)
{
	char *p = filled(WORK, 1);
	pthread_t t[2];

	for (int i = 0; i < 2; i++)
		CHECK(!pthread_create(&t[i], NULL, fork_and_check, p));
	for (int i = 0; i < 2; i++)
		CHECK(!pthread_join(t[i], NULL));
	CHECK(is_filled(p, WORK, 1));
}

CASE(vfork_and_exec)
{
	char *p = filled(WORK, 1);

	for (int n = 0; n < 20; n++) {
		pid_t pid = vfork();

		CHECK(pid >= 0);
		if (!pid) {
			/* The child borrows this memory, absent pages too. */
			if (((uint64_t *)(void *)p)[n * 512] !=
			    word_of(1, (size_t)n * 512))
				_exit(98);
			execl("/bin/sh", "sh", "-c", "exit 12", NULL);
			_exit(97);
		}
		check_child(pid, 12);
	}
	CHECK(is_filled(p, WORK, 1));
}

CASE(posix_spawn_and_system)
{
	char sh[] = "sh", dash_c[] = "-c", script[] = "exit 13";
	char *p = filled(WORK, 1), *argv[] = {sh, dash_c, script, NULL};
	char line[32] = "";
	pid_t pid;
	FILE *f;

	CHECK(!posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, environ));
	check_child(pid, 13);
	CHECK(WEXITSTATUS(system("exit 14")) == 14);
	f = popen("echo hello", "r");
	CHECK(f && fgets(line, sizeof(line), f));
	CHECK(!strcmp(line, "hello\n"));
	CHECK(!pclose(f));
	CHECK(is_filled(p, WORK, 1));
}

CASE(a_thousand_short_lived_children)
{
	char name[] = "true";
	char *p = filled(WORK, 1), *argv[] = {name, NULL};

	for (int n = 0; n < 1000; n++) {
		pid_t pid;

		if (n % 4) {
			CHECK(!posix_spawn(&pid, "/bin/true", NULL, NULL, argv,
					   environ));
		} else {
			pid = fork();
			CHECK(pid >= 0);
			if (!pid) {
				execv("/bin/true", argv);
				_exit(97);
			}
		}
		check_child(pid, 0);
	}
	CHECK(is_filled(p, WORK, 1));
}

CASE(shared_memory_stays_shared)
{
	char *p = filled(WORK, 1);
	char *s = mmap(NULL, 4 * MB, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid;

	CHECK(s != MAP_FAILED);
	fill(s, 4 * MB, 2);
	push_out();
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		CHECK(is_filled(s, 4 * MB, 2));
		fill(s, 4 * MB, 3);
		_exit(1);
	}
	check_child(pid, 1);
	CHECK(is_filled(s, 4 * MB, 3));
	CHECK(is_filled(p, WORK, 1));
}

CASE(wipe_on_fork_and_dont_fork)
{
	char *p = filled(WORK, 1), *wiped = map(8 * MB), *gone = map(8 * MB);
	int status;
	pid_t pid;

	fill(wiped, 8 * MB, 2);
	fill(gone, 8 * MB, 3);
	CHECK(!madvise(wiped, 8 * MB, MADV_WIPEONFORK));
	CHECK(!madvise(gone, 8 * MB, MADV_DONTFORK));
	push_out();
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		CHECK(is_zero(wiped, 8 * MB));
		CHECK(is_filled(p, WORK / 4, 1));
		_exit(gone[0] != 0);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	CHECK(is_filled(wiped, 8 * MB, 2));
	CHECK(is_filled(gone, 8 * MB, 3));
	CHECK(is_filled(p, WORK, 1));
}

CASE(fork_again_and_again_while_memory_changes)
{
	char *p = filled(WORK / 2, 1);

	for (uint64_t n = 1; n < 12; n++) {
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (!pid) {
			CHECK(is_filled(p, WORK / 2, n));
			_exit(2);
		}
		fill(p, WORK / 2, n + 1);
		check_child(pid, 2);
	}
	CHECK(is_filled(p, WORK / 2, 12));
}

CASES_MAIN()
