/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * behaviour.h - small programs that do one thing with memory that is away.
 *
 *   CASE(fork_both_sides) { ...; CHECK(x); }
 *   CASE_STATUS(dies_by_signal, -SIGKILL) { ... }
 *   CASES_MAIN()
 *
 * PROG --list names the cases and what each ends with; PROG CASE runs one. The
 * same case must print and return the same plainly and under pgmap with a
 * budget far below WORK. behaviour.py does both. PROG CASE managed is how it
 * says that pages must be away after push_out().
 */
#ifndef BEHAVIOUR_H
#define BEHAVIOUR_H

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096u
#define MB ((size_t)1 << 20)
/* What a case works on; the budget is 16 MB. */
#define WORK (48 * MB)
#define CASES_MAX 64

struct test_case {
	const char *name;
	int status;
	void (*run)(void);
};

static struct test_case cases[CASES_MAX];
static size_t nr_cases;
static bool managed;
static char **case_argv;

#define CASE_STATUS(name, status)                                              \
	static void name(void);                                                \
	__attribute__((constructor)) static void register_##name(void)         \
	{                                                                      \
		cases[nr_cases++] = (struct test_case){#name, status, name};   \
	}                                                                      \
	static void name(void)
#define CASE(name) CASE_STATUS(name, 0)

/* Also in children and handlers: no stdio, no exit handlers. */
#define CHECK(cond)                                                            \
	do {                                                                   \
		if (!(cond)) {                                                 \
			dprintf(2, "%s:%d: %s (errno %d)\n", __FILE__,         \
				__LINE__, #cond, errno);                       \
			_exit(99);                                             \
		}                                                              \
	} while (0)

/* This machine cannot do it; why is printed and the same in a plain run. */
#define SKIP(why)                                                              \
	do {                                                                   \
		puts("SKIP " why);                                             \
		exit(77);                                                      \
	} while (0)

static inline uint64_t word_of(uint64_t seed, size_t i)
{
	uint64_t x = (seed << 40 | i) * 0x9e3779b97f4a7c15ull;

	return i % 4 ? x : x ^ x >> 29;
}

/* Random words, with a quarter of zeros so that compression does something. */
static inline void fill(void *p, size_t size, uint64_t seed)
{
	uint64_t *w = p;

	for (size_t i = 0; i < size / 8; i++)
		w[i] = i % 4 == 3 ? 0 : word_of(seed, i);
}

static inline bool is_filled(const void *p, size_t size, uint64_t seed)
{
	const uint64_t *w = p;

	for (size_t i = 0; i < size / 8; i++) {
		uint64_t want = i % 4 == 3 ? 0 : word_of(seed, i);

		if (w[i] != want) {
			dprintf(2,
				"%p (%zu of %zu pages in) is %" PRIx64
				", want %" PRIx64 "\n",
				(const void *)&w[i], i / 512, size / PAGE, w[i],
				want);
			return false;
		}
	}
	return true;
}

static inline bool is_zero(const void *p, size_t size)
{
	const uint64_t *w = p;

	for (size_t i = 0; i < size / 8; i++)
		if (w[i]) {
			dprintf(2, "%p is %" PRIx64 ", want 0\n",
				(const void *)&w[i], w[i]);
			return false;
		}
	return true;
}

static inline void *map(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

/* Pages of a range that are not in RAM, whatever the reason. */
static inline size_t nr_absent(const void *p, size_t size)
{
	static uint64_t entry[512];
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	size_t first = (uintptr_t)p / PAGE, left = size / PAGE, n = 0;

	CHECK(fd >= 0);
	while (left) {
		size_t now = left < 512 ? left : 512;
		ssize_t got = pread(fd, entry, now * 8, (off_t)(first * 8));

		CHECK(got == (ssize_t)(now * 8));
		for (size_t i = 0; i < now; i++)
			n += !(entry[i] >> 63);
		first += now;
		left -= now;
	}
	close(fd);
	return n;
}

/* Write the first @size bytes of memory that is for nothing else. */
#define BALLAST (32 * MB)
static inline void write_ballast(size_t size)
{
	static char *ballast;
	static char round;

	if (!ballast)
		ballast = map(BALLAST);
	round++;
	for (size_t i = 0; i < size; i += 64)
		ballast[i] = (char)((i >> 12) + (size_t)round);
}

/* Other memory, twice the budget, so that what was there leaves. */
static inline void push_out(void)
{
	write_ballast(BALLAST);
}

/*
 * Push a written range out, and see that most of it went: soon, for what is
 * above the budget when management begins leaves in the background. What came
 * back again and again stays while other memory only goes by, until there is
 * more that comes back: less memory than two budgets, written several times.
 */
static inline void push_out_range(const void *p, size_t size)
{
	push_out();
	for (int i = 0; managed && nr_absent(p, size) <= size / PAGE / 2; i++) {
		CHECK(i < 100);
		write_ballast(BALLAST * 3 / 4);
		usleep(10000);
	}
}

static inline char *filled(size_t size, uint64_t seed)
{
	char *p = map(size);

	fill(p, size, seed);
	push_out_range(p, size);
	return p;
}

/* The child must end with this exit code. */
static inline void check_child(pid_t pid, int code)
{
	int status;

	CHECK(pid > 0);
	while (waitpid(pid, &status, 0) < 0)
		CHECK(errno == EINTR);
	CHECK(WIFEXITED(status));
	CHECK(WEXITSTATUS(status) == code);
}

#define CASES_MAIN()                                                           \
	int main(int argc, char **argv)                                        \
	{                                                                      \
		case_argv = argv;                                              \
		managed = argc > 2 && !strcmp(argv[2], "managed");             \
		for (size_t i = 0; i < nr_cases && argc > 1; i++) {            \
			if (!strcmp(argv[1], "--list"))                        \
				printf("%s %d\n", cases[i].name,               \
				       cases[i].status);                       \
			if (strcmp(argv[1], cases[i].name))                    \
				continue;                                      \
			cases[i].run();                                        \
			printf("OK %s\n", cases[i].name);                      \
			return 0;                                              \
		}                                                              \
		return argc > 1 && !strcmp(argv[1], "--list") ? 0 : 2;         \
	}

#endif
