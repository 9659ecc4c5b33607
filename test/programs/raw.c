/* SPDX-License-Identifier: BSD-3-Clause */
/* raw.c - a program that makes system calls by itself, past libc. */
#include "behaviour.h"

#include <sys/syscall.h>

/* The number right before the instruction, as compilers and assemblers of
 * language runtimes put it. */
static long raw_write(int fd, const void *p, size_t n)
{
	long ret;

	__asm__ volatile("mov %1, %%eax\n\tsyscall"
			 : "=&a"(ret)
			 : "i"(SYS_write), "D"(fd), "S"(p), "d"(n)
			 : "rcx", "r11", "memory");
	return ret;
}

CASE(calls_past_the_c_library)
{
	char *p = map(WORK);
	int fd[2];

	CHECK(!pipe(fd));
	fill(p, WORK, 1);
	push_out();
	for (size_t i = 0; i < WORK; i += MB) {
		char got[64];

		CHECK(raw_write(fd[1], p + i, 64) == 64);
		CHECK(read(fd[0], got, 64) == 64 && !memcmp(got, p + i, 64));
	}
	CHECK(is_filled(p, WORK, 1));
}

CASES_MAIN()
