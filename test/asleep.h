/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * asleep.h - has a thread come as far as to wait?
 *
 * Time does not tell: on a busy machine a thread that was started long ago may
 * not have begun. What the kernel says of it does.
 */
#ifndef TEST_ASLEEP_H
#define TEST_ASLEEP_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

/* It must be found asleep so often in a row, for it may sleep on its way; or it
 * spins, and has used the CPU for so many ticks. */
#define TEST_ASLEEP_LOOKS 4
#define TEST_ASLEEP_TICKS 3

/** struct test_thread_state - Of proc(5). */
struct test_thread_state {
	char state;
	unsigned long user, system;
};

static inline struct test_thread_state test_thread_state(pid_t tid)
{
	struct test_thread_state s = {0};
	char path[64], buf[512], *end;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return s;
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	buf[n > 0 ? n : 0] = 0;
	end = strrchr(buf, ')');
	if (end)
		sscanf(end + 1,
		       " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
		       &s.state, &s.user, &s.system);
	return s;
}

/** test_wait_asleep() - Until thread *@tid waits for something (*@tid is 0 as
 * long as it has not begun), or *@done. Return: !*@done. */
static inline bool test_wait_asleep(const _Atomic(pid_t) *tid,
				    const _Atomic(bool) *done)
{
	int asleep = 0;

	while (!*done && asleep < TEST_ASLEEP_LOOKS) {
		struct test_thread_state s;

		usleep(5000);
		if (!*tid)
			continue;
		s = test_thread_state(*tid);
		asleep = s.state == 'S' ? asleep + 1 : 0;
		if (s.user + s.system >= TEST_ASLEEP_TICKS)
			break;
	}
	return !*done;
}

#endif
