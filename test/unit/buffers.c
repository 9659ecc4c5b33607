/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The table of what system calls use, kind by kind, and that it has an answer
 * for every call. What the kernel makes of it is shown by
 * test/programs/buffers.c.
 */
#include "runtime/buffers.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "core/mm.h"
#include "test.h"

#define PAGE ((uintptr_t)PG_PAGE_SIZE)
#define AT(i) (0x100000000ul + (uintptr_t)(i)*PAGE)

static struct pg_hold holds[PG_BUFFERS_HOLDS];
#define h holds[0]

static void find(long nr, long a, long b, long c, long d, long e)
{
	struct pg_call call = {.nr = nr, .arg = {a, b, c, d, e}};

	call.sp = (uintptr_t)&call & ~(PAGE - 1);
	for (size_t i = 0; i < PG_BUFFERS_HOLDS; i++)
		pg_hold_init(&holds[i]);
	pg_buffers_find(NULL, &call, holds, pg_buffers_holds(nr));
}

static bool has(uintptr_t va, size_t len)
{
	for (size_t k = 0; k < PG_BUFFERS_HOLDS; k++)
		for (uint32_t i = 0; i < holds[k].nr; i++)
			if (holds[k].range[i].start <= va &&
			    holds[k].range[i].end >= va + len)
				return true;
	return false;
}

#define P(x) ((long)(x))

TEST(a_length_in_another_argument)
{
	find(SYS_read, 0, P(AT(5) + 10), 3 * PAGE, 0, 0);
	CHECK_EQ(h.nr, 1);
	CHECK_EQ(h.range[0].start, AT(5));
	CHECK_EQ(h.range[0].end, AT(9));
	find(SYS_msgsnd, 0, P(AT(5)), PAGE - 7, 0, 0);
	CHECK(has(AT(5), PAGE + 1)); /* and the type */
	find(SYS_poll, P(AT(5)), 1024, 0, 0, 0);
	CHECK(has(AT(5), 1024 * 8));
	/* The kernel looks at 32 bits of it. */
	find(SYS_epoll_wait, 3, P(AT(5)), (long)(1ul << 32) + 1000, 0, 0);
	CHECK(has(AT(5), 12000));
	CHECK_EQ(h.range[0].end, AT(8));
	find(SYS_select, 70000, 0, P(AT(5)), 0, P(AT(20)));
	CHECK(has(AT(5), 70000 / 8) && has(AT(20), 16));
	find(SYS_mincore, P(AT(100)), 5000 * PAGE, P(AT(5)), 0, 0);
	CHECK(has(AT(5), 5000) && !has(AT(100), 1));
}

TEST(a_length_behind_a_pointer)
{
	uint32_t len = 3 * PAGE;

	find(SYS_getsockopt, 3, 1, 1, P(AT(5)), P(&len));
	CHECK(has(AT(5), len) && has((uintptr_t)&len, 4));
	find(SYS_getsockopt, 3, 1, 1, P(AT(5)), 8);
	CHECK(has(AT(5), 1));
}

TEST(strings_and_structs)
{
	find(SYS_newfstatat, -100, P(AT(5) + 4000), P(AT(9)), 0, 0);
	CHECK(has(AT(5) + 4000, 4096) && has(AT(9), 144));
	find(SYS_rename, P(AT(5)), P(AT(20)), 0, 0, 0);
	CHECK(has(AT(5), 1) && has(AT(20), 1));
	find(SYS_stat, 0, 0, 0, 0, 0);
	CHECK_EQ(h.nr, 1); /* the first page is as good as any */
}

TEST(vectors_and_what_is_in_them)
{
	enum { NR = 230 };
	struct iovec iov[NR];

	for (size_t i = 0; i < NR; i++)
		iov[i] = (struct iovec){(void *)AT(10 * i), 2 * PAGE};
	find(SYS_readv, 3, P(iov), 3, 0, 0);
	CHECK(has((uintptr_t)iov, 3 * sizeof(*iov)));
	for (size_t i = 0; i < 3; i++)
		CHECK(has(AT(10 * i), 2 * PAGE));
	CHECK(!has(AT(30), 1));
	find(SYS_pwritev2, 3, P(iov), NR, 0, 0);
	for (size_t i = 0; i < NR; i++)
		CHECK(has(AT(10 * i), 2 * PAGE) && !has(AT(10 * i + 4), 1));
	/* The kernel says EINVAL, or EFAULT. */
	find(SYS_readv, 3, P(iov), 1025, 0, 0);
	CHECK_EQ(h.nr, 0);
	find(SYS_readv, 3, 16, 3, 0, 0);
	CHECK_EQ(h.nr, 1);
}

TEST(messages_and_what_is_in_them)
{
	struct iovec iov[2] = {{(void *)AT(50), 100}, {(void *)AT(60), PAGE}};
	struct mmsghdr m[2] = {
		{.msg_hdr = {.msg_name = (void *)AT(5),
			     .msg_iov = iov,
			     .msg_iovlen = 2,
			     .msg_control = (void *)AT(10),
			     .msg_controllen = 2 * PAGE}},
		{.msg_hdr = {.msg_iov = iov + 1, .msg_iovlen = 1}},
	};

	find(SYS_sendmsg, 3, P(m), 0, 0, 0);
	CHECK(has((uintptr_t)m, sizeof(struct msghdr)));
	CHECK(has(AT(5), 128) && has(AT(10), 2 * PAGE));
	CHECK(has(AT(50), 100) && has(AT(60), PAGE));
	m[0].msg_hdr.msg_iovlen = 1;
	find(SYS_recvmmsg, 3, P(m), 2, 0, P(AT(90)));
	CHECK(has((uintptr_t)m, sizeof(m)));
	CHECK(has(AT(50), 100) && has(AT(60), PAGE) && has(AT(90), 16));
}

TEST(arguments_of_exec)
{
	const char *argv[3] = {"a", "b", NULL}, *envp[2] = {"c", NULL};

	find(SYS_execve, P(AT(5)), P(argv), P(envp), 0, 0);
	CHECK(has(AT(5), 1) && has((uintptr_t)argv, sizeof(argv)));
	CHECK(has((uintptr_t)argv[1], 2) && has((uintptr_t)envp[0], 2));
	find(SYS_execveat, 3, P(AT(5)), P(argv), P(envp), 0);
	CHECK(has(AT(5), 1) && has((uintptr_t)argv[0], 2));
	find(SYS_execve, P(AT(5)), 8, 0, 0, 0);
	CHECK(has(AT(5), 1));
}

TEST(ioctl_by_what_its_number_says)
{
	static char big[3 * 4096];

	find(SYS_ioctl, 3, 0x5401 /* TCGETS */, P(big), 0, 0);
	CHECK(has((uintptr_t)big, 60));
	/* _IOR('x', 1, char[10000]) */
	find(SYS_ioctl, 3, 2l << 30 | 10000l << 16 | 'x' << 8 | 1, P(big), 0,
	     0);
	CHECK(has((uintptr_t)big, 10000));
	big[24] = 100; /* FIEMAP: what lies behind the struct */
	find(SYS_ioctl, 3, (long)0xc020660b, P(big), 0, 0);
	CHECK(has((uintptr_t)big, 32 + 100 * 56));
	find(SYS_ioctl, 3, 0x5421 /* a number, not a pointer */, 1, 0, 0);
	CHECK_EQ(h.nr, 0);
}

TEST(a_call_that_nobody_knows_is_one_of_pointers)
{
	CHECK(pg_buffers_has(5000));
	find(5000, 1, P(AT(5)), 2, P(AT(9)), 0);
	CHECK(has(AT(5), 1) && has(AT(9), 1));
	CHECK(!pg_buffers_has(SYS_getpid) && !pg_buffers_has(SYS_close));
	CHECK(!pg_buffers_has(SYS_rt_sigreturn) && !pg_buffers_has(SYS_vfork));
	CHECK(!pg_buffers_has(-1));
}

/* Whatever the arguments are, finding out what they name is no accident. */
TEST(wild_arguments_do_no_harm)
{
	static const long wild[] = {
		0,     -1, 1, 8, 4095, 4097, (long)1 << 47, (long)1 << 63,
		-4096, 255};

	for (long nr = 0; nr < 512; nr++)
		for (size_t i = 0; i < 10; i++)
			for (size_t k = 0; k < 10; k++)
				find(nr, wild[i], wild[k], wild[i], wild[k],
				     wild[i]);
	CHECK(h.nr <= PG_HOLD_RANGES);
}

TEST(what_can_be_read)
{
	char *p = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	CHECK(!munmap(p + PAGE, PAGE));
	CHECK(pg_buffers_readable(NULL, (uintptr_t)p + 10, PAGE - 10));
	CHECK(!pg_buffers_readable(NULL, (uintptr_t)p + 10, PAGE));
	CHECK(!pg_buffers_readable(NULL, 0, 1));
	CHECK(!pg_buffers_readable(NULL, 16, 8));
	CHECK(!pg_buffers_readable(NULL, UINTPTR_MAX - 2, 8));
}

TEST_MAIN()
