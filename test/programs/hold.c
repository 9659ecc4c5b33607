/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * hold.c - hold memory that is known page by page, then read all of it.
 *
 *   hold MB        fill, read, say what was found
 *   hold MB wait   in between, say where it is and wait for a line
 *
 * Each page begins with MARK and its number, so that it can be found on a
 * device. A page that raises SIGBUS is reported by the address that came with
 * the signal, one with other contents than were written as wrong.
 */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define WORDS 512u
#define MARK 0x70676d617068656cull

static sigjmp_buf after;
static void *volatile bus_address;

static void on_bus(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	bus_address = info->si_addr;
	siglongjmp(after, 1);
}

static uint64_t word_of(uint64_t page, unsigned int i)
{
	uint64_t x = (page << 9 | i) * 0x9e3779b97f4a7c15ull;

	x ^= x >> 29;
	return i == 0 ? MARK : i == 1 ? page : x * 0xbf58476d1ce4e5b9ull;
}

static bool is_right(const uint64_t *w, uint64_t page)
{
	bool right = true;

	for (unsigned int i = 0; i < WORDS; i++)
		right &= w[i] == word_of(page, i);
	return right;
}

/* What a system call says of a page that raised SIGBUS. */
static const char *given_to_the_kernel(const uint64_t *w)
{
	int fd[2];
	ssize_t n;

	if (pipe(fd))
		return "no pipe";
	n = write(fd[1], w, 8);
	n = n < 0 ? errno : 0;
	close(fd[0]);
	close(fd[1]);
	return n == EFAULT ? "EFAULT" : n ? "another error" : "no error";
}

int main(int argc, char **argv)
{
	struct sigaction sa = {.sa_flags = SA_SIGINFO};
	uint64_t nr = argc > 1 ? strtoull(argv[1], NULL, 10) * 256 : 0;
	volatile unsigned int right = 0;
	uint64_t *base;
	char line[8];

	base = mmap(NULL, nr * WORDS * 8, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!nr || base == MAP_FAILED)
		return 2;
	for (uint64_t page = 0; page < nr; page++)
		for (unsigned int i = 0; i < WORDS; i++)
			base[page * WORDS + i] = word_of(page, i);
	if (argc > 2) {
		printf("%d %" PRIuPTR "\n", (int)getpid(), (uintptr_t)base);
		fflush(stdout);
		if (!fgets(line, sizeof(line), stdin))
			return 3;
	}
	sa.sa_sigaction = on_bus;
	sigaction(SIGBUS, &sa, NULL);
	for (volatile uint64_t page = 0; page < nr; page++) {
		uint64_t *w = base + page * WORDS;

		if (sigsetjmp(after, 1))
			printf("sigbus %td %s\n",
			       ((uint64_t *)bus_address - base) /
				       (ptrdiff_t)WORDS,
			       given_to_the_kernel(base + page * WORDS));
		else if (!is_right(w, page))
			printf("wrong %" PRIu64 "\n", page);
		else
			right = right + 1;
	}
	printf("right %u\n", right);
	return 0;
}
