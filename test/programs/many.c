/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * many.c - many processes of which none is large.
 *
 *   many N MB MS       N children fill MB each, wait MS, and read all of it
 *   many N MB MS grow  they fill it in pieces, a little later each
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PIECE ((size_t)64 << 10)

static uint64_t word(unsigned int child, size_t i)
{
	uint64_t x = ((uint64_t)child << 40 | i) * 0x9e3779b97f4a7c15ull;

	return x ^ x >> 31;
}

static int child(unsigned int me, size_t size, unsigned int ms, int grow)
{
	uint64_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return 2;
	for (size_t i = 0; i < size / 8; i++) {
		if (grow && i % (PIECE / 8) == 0)
			usleep(2000);
		p[i] = word(me, i);
	}
	usleep(ms * 1000);
	for (size_t i = 0; i < size / 8; i++)
		if (p[i] != word(me, i))
			return 1;
	return 0;
}

int main(int argc, char **argv)
{
	unsigned int nr, ms;
	int bad = 0, status;
	size_t size;

	if (argc < 4)
		return 2;
	nr = (unsigned int)atoi(argv[1]);
	size = (size_t)atoi(argv[2]) << 20;
	ms = (unsigned int)atoi(argv[3]);
	for (unsigned int i = 0; i < nr; i++) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(child(i, size, ms, argc > 4));
		bad += pid < 0;
	}
	while (wait(&status) > 0)
		bad += status != 0;
	printf("%d of %u went wrong\n", bad, nr);
	return bad != 0;
}
