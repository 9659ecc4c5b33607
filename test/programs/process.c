/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * process.c - descriptors, environment, exec, rights and the end of a process.
 */
#include "behaviour.h"

#include <dirent.h>
#include <grp.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <ucontext.h>

extern char **environ;

static void still_works(char *p)
{
	push_out();
	CHECK(is_filled(p, WORK, 1));
	fill(p, WORK, 2);
	push_out();
	CHECK(is_filled(p, WORK, 2));
}

CASE(N58_close_range_of_all)
{
	char *p = filled(WORK, 1);

	CHECK(!close_range(3, ~0u, 0));
	still_works(p);
}

CASE(N58_close_range_with_unshare)
{
	char *p = filled(WORK, 1);

	CHECK(!close_range(3, ~0u, CLOSE_RANGE_UNSHARE));
	still_works(p);
}

CASE(N58_closefrom)
{
	char *p = filled(WORK, 1);

	closefrom(3);
	still_works(p);
}

CASE(N58_close_one_by_one)
{
	char *p = filled(WORK, 1);

	for (int fd = 3; fd < 5000; fd++)
		close(fd);
	still_works(p);
}

CASE(N58_daemon)
{
	char *p = filled(WORK, 1), byte = 0;
	int report[2];
	pid_t pid;

	CHECK(!pipe(report));
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		CHECK(!daemon(0, 0));
		still_works(p);
		CHECK(write(report[1], "y", 1) == 1);
		_exit(0);
	}
	close(report[1]);
	check_child(pid, 0);
	CHECK(read(report[0], &byte, 1) == 1 && byte == 'y');
	still_works(p);
}

CASE_STATUS(standard_streams_closed, 5)
{
	char *p = filled(WORK, 1);

	close(0);
	close(1);
	close(2);
	still_works(p);
	CHECK(open("/dev/null", O_RDWR) == 0);
	CHECK(open("/dev/null", O_RDWR) == 1);
	_exit(5);
}

CASE(descriptors_are_the_same_as_ever)
{
	char *p = filled(WORK, 1);
	struct dirent *de;
	DIR *dir;
	int n = 0;

	CHECK(open("/dev/null", O_RDONLY) == 3);
	CHECK(open("/dev/null", O_RDONLY) == 4);
	still_works(p);
	CHECK(open("/dev/null", O_RDONLY) == 5);
	dir = opendir("/proc/self/fd");
	CHECK(dir);
	while ((de = readdir(dir)))
		n += de->d_name[0] != '.';
	printf("%d descriptors\n", n);
}

/* Each coroutine maps and unmaps on a stack of ordinary memory, while all of
 * it is too much for the budget. */
static ucontext_t home, co[64];
static char *co_memory;

static void coroutine(int n)
{
	char mine[8 * PAGE];

	for (int round = 0; round < 6; round++) {
		char *p;

		memset(mine, n + round, sizeof(mine));
		p = mmap(NULL, MB, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHECK(p != MAP_FAILED);
		memset(p, n, MB);
		swapcontext(&co[n], &home);
		CHECK(p[MB - 1] == (char)n && mine[0] == (char)(n + round));
		CHECK(!munmap(p, MB));
	}
}

CASE(coroutines_on_managed_stacks)
{
	size_t size = 256 * 1024;

	co_memory = filled(64 * size, 1);
	for (int n = 0; n < 64; n++) {
		getcontext(&co[n]);
		co[n].uc_stack.ss_sp = co_memory + (size_t)n * size;
		co[n].uc_stack.ss_size = size;
		co[n].uc_link = &home;
		makecontext(&co[n], (void (*)(void))coroutine, 1, n);
	}
	for (int round = 0; round < 7; round++)
		for (int n = 0; n < 64; n++)
			swapcontext(&home, &co[n]);
}

static char *map_at(char *at, size_t len)
{
	char *p = mmap(at, len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

/* Is the lowest mapping watched by a userfaultfd? */
static bool lowest_is_watched(int smaps)
{
	char text[4096], *flags, *end;
	ssize_t n = pread(smaps, text, sizeof(text) - 1, 0);

	text[n > 0 ? n : 0] = '\0';
	flags = strstr(text, "VmFlags:");
	end = flags ? strchr(flags, '\n') : NULL;
	if (!end)
		return false;
	*end = '\0';
	return strstr(flags, " um");
}

/*
 * When most of the budget is in RAM all that is mapped is looked at, the lowest
 * first, and is managed from then on. Unmap the lowest when it has been looked
 * at, and the rest, of which there is much, has not: what is mapped there next,
 * too small to be managed, must not be taken for it and leave.
 */
CASE(munmap_while_memory_is_first_looked_at)
{
	const size_t len = 256 << 10, part = 32 << 10, most = 12 * MB;
	size_t used = 9 * MB;
	char *low = (char *)0x10000000, *p = map_at(NULL, most);
	int smaps = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC);

	CHECK(smaps >= 0);
	for (int i = 0; i < 8000; i++)
		CHECK(mmap(NULL, part, i & 2 ? PROT_READ : PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
	CHECK(map_at(low, len) == low);
	memset(low, 1, len);
	memset(p, 1, used);
	while (managed && used < most && !lowest_is_watched(smaps)) {
		p[used] = 1;
		used += PAGE;
	}
	CHECK(!munmap(low, len));
	for (size_t i = 0; i < len; i += part) {
		CHECK(map_at(low + i, part) == low + i);
		memset(low + i, 2, part);
	}
	push_out();
	for (size_t i = 0; i < len; i++)
		CHECK(low[i] == 2);
}

CASE(few_descriptors_allowed)
{
	struct rlimit limit = {16, 16};
	pid_t pid;
	char *p;

	CHECK(!setrlimit(RLIMIT_NOFILE, &limit));
	p = filled(WORK, 1);
	still_works(p);
	CHECK(open("/dev/null", O_RDONLY) == 3);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		CHECK(is_filled(p, WORK, 2));
		_exit(1);
	}
	check_child(pid, 1);
}

CASE(unshare_of_descriptors)
{
	char *p = filled(WORK, 1);

	CHECK(!unshare(CLONE_FILES | CLONE_FS));
	CHECK(!chdir("/"));
	still_works(p);
}

/* Values are shown as checksums: logs are read by many. */
CASE(environment_is_the_plain_one)
{
	(void)filled(WORK, 1);
	for (char **e = environ; *e; e++) {
		int name = (int)strcspn(*e, "=");
		uint32_t sum = 0;

		for (char *c = *e; *c; c++)
			sum = sum * 31 + (unsigned char)*c;
		printf("%.*s %" PRIx32 "\n", name, *e, sum);
	}
	fflush(stdout);
	CHECK(system("env | grep -v '^_=' | cksum") == 0);
	CHECK(!setenv("LD_PRELOAD", "", 1));
	CHECK(system("test \"${LD_PRELOAD-none}\" = ''") == 0);
	CHECK(!unsetenv("LD_PRELOAD"));
	CHECK(system("test \"${LD_PRELOAD-none}\" = none") == 0);
	CHECK(!clearenv());
	CHECK(system("test -z \"${HOME-}${LD_PRELOAD-}\"") == 0);
}

CASE(exec_with_an_environment_of_its_own)
{
	char one[] = "ONE=1", *env[] = {one, NULL};
	char name[] = "env", *argv[] = {name, NULL};

	(void)filled(WORK, 1);
	fflush(stdout);
	execve("/usr/bin/env", argv, env);
	CHECK(false);
}

CASE(exec_of_itself)
{
	const char *left = getenv("LEFT");
	char next[] = {left ? (char)(*left - 1) : '3', 0};
	char *p = filled(WORK, 1);

	still_works(p);
	printf("%s left\n", next);
	fflush(stdout);
	if (*next == '0')
		return;
	CHECK(!setenv("LEFT", next, 1));
	execv("/proc/self/exe", case_argv);
	CHECK(false);
}

static void *exec_self(void *p)
{
	CHECK(is_filled(p, WORK, 1));
	CHECK(!setenv("LEFT", "1", 1));
	execv("/proc/self/exe", case_argv);
	CHECK(false);
	return NULL;
}

CASE(exec_from_a_thread)
{
	char *p = filled(WORK, 1);
	pthread_t t;

	if (getenv("LEFT"))
		return;
	CHECK(!pthread_create(&t, NULL, exec_self, p));
	for (;;)
		CHECK(is_filled(p, WORK, 1));
}

CASE(exec_that_fails)
{
	char name[] = "nothing", *argv[] = {name, NULL};
	char **volatile nowhere = (char **)(uintptr_t)8;
	char *p = filled(WORK, 1);

	for (int n = 0; n < 20; n++) {
		CHECK(execv("/no/such/program", argv) == -1 && errno == ENOENT);
		CHECK(execv("/etc/passwd", argv) == -1 && errno == EACCES);
		CHECK(execve("/bin/true", nowhere, NULL) == -1 &&
		      errno == EFAULT);
	}
	still_works(p);
}

/* Arguments and environment on pages that are away. */
CASE(exec_with_arguments_that_are_away)
{
	enum { NR = 200 };
	char *p = map(WORK), **argv = (void *)(p + WORK - MB);
	pid_t pid;

	strcpy(p, "sh");
	strcpy(p + MB, "-c");
	argv[0] = p;
	argv[1] = p + MB;
	argv[2] = p + 2 * MB;
	strcpy(p + 3 * MB, "sh");
	argv[3] = p + 3 * MB;
	for (size_t i = 4; i < NR + 4; i++) {
		argv[i] = p + 4 * MB + i * 64 * 1024;
		snprintf(argv[i], 20, "%zu", i);
	}
	argv[NR + 4] = NULL;
	strcpy(p + 2 * MB, "test $# = 200 && exit ${200}");
	push_out();
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		execv("/bin/sh", argv);
		_exit(97);
	}
	check_child(pid, 203);
}

CASE(without_rights_from_now_on)
{
	char *p;

	if (geteuid())
		SKIP("not root");
	p = filled(WORK, 1);
	CHECK(!setgroups(0, NULL) && !setgid(65534) && !setuid(65534));
	still_works(p);
	for (int n = 0; n < 3; n++) {
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (!pid) {
			CHECK(is_filled(p, WORK, 2));
			fill(p, WORK, 3);
			push_out();
			CHECK(is_filled(p, WORK, 3));
			_exit(0);
		}
		check_child(pid, 0);
	}
	CHECK(is_filled(p, WORK, 2));
}

CASE_STATUS(exit_3, 3)
{
	(void)filled(WORK, 1);
	puts("bye");
	exit(3);
}

CASE_STATUS(exit_255, 255)
{
	(void)filled(WORK, 1);
	_exit(255);
}

static void at_exit(void)
{
	static char *p;

	if (!p) {
		p = filled(WORK, 1);
		return;
	}
	CHECK(is_filled(p, WORK, 1));
	puts("checked at exit");
}

CASE(handlers_at_exit_find_their_memory)
{
	at_exit();
	CHECK(!atexit(at_exit));
}

static void *exit_from_thread(void *p)
{
	CHECK(is_filled(p, WORK, 1));
	exit(9);
}

CASE_STATUS(exit_from_a_thread, 9)
{
	char *p = filled(WORK, 1);
	pthread_t t;

	CHECK(!pthread_create(&t, NULL, exit_from_thread, p));
	for (;;)
		(void)is_filled(p, WORK, 1);
}

static void *outlive_main(void *p)
{
	usleep(50000);
	still_works(p);
	puts("the last thread");
	return NULL;
}

/* The process lives until its last thread ends, and then ends with 0. */
CASE(main_thread_ends_first)
{
	char *p = filled(WORK, 1);
	pthread_t t;

	CHECK(!pthread_create(&t, NULL, outlive_main, p));
	pthread_exit(NULL);
}

static void *short_lived(void *arg)
{
	char local[30000];
	uint64_t *w = arg;

	memset(local, (int)*w, sizeof(local));
	CHECK(local[*w % sizeof(local)] == (char)*w);
	*w += 1;
	return NULL;
}

CASE(a_thousand_short_lived_threads)
{
	char *p = filled(WORK, 1);

	for (size_t n = 0; n < 1000; n++) {
		uint64_t *w = (void *)(p + n * 8 * PAGE);
		pthread_t t;

		CHECK(!pthread_create(&t, NULL, short_lived, w));
		CHECK(!pthread_join(t, NULL));
		CHECK(*w == word_of(1, n * 8 * 512) + 1);
		*w -= 1;
	}
	still_works(p);
}

CASE(death_of_a_child_by_a_signal)
{
	static const int sigs[] = {SIGKILL, SIGSEGV, SIGABRT, SIGTERM};
	char *p = filled(WORK, 1);

	for (size_t i = 0; i < sizeof(sigs) / sizeof(*sigs); i++) {
		struct rlimit none = {0, 0};
		pid_t pid = fork();
		int status;

		CHECK(pid >= 0);
		if (!pid) {
			setrlimit(RLIMIT_CORE, &none);
			CHECK(is_filled(p, WORK, 1));
			raise(sigs[i]);
			_exit(0);
		}
		CHECK(waitpid(pid, &status, 0) == pid);
		CHECK(WIFSIGNALED(status) && WTERMSIG(status) == sigs[i]);
	}
	still_works(p);
}

CASES_MAIN()
