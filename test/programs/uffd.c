/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * uffd.c - a program that watches memory of its own with userfaultfd.
 */
#include "behaviour.h"

#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#define OWN (8 * MB)

static int uffd;
static _Atomic uint64_t nr_served;

static void open_uffd(void)
{
	struct uffdio_api api = {.api = UFFD_API};

	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	if (uffd < 0)
		SKIP("no right to use userfaultfd");
	CHECK(!ioctl(uffd, UFFDIO_API, &api));
}

/* Fill each page with what its place says. */
static void *serve(void *arg)
{
	static char page[PAGE] __attribute__((aligned(PAGE)));
	char *base = arg;

	for (;;) {
		struct uffd_msg msg;
		struct uffdio_copy copy = {.src = (uintptr_t)page, .len = PAGE};

		CHECK(read(uffd, &msg, sizeof(msg)) == sizeof(msg));
		CHECK(msg.event == UFFD_EVENT_PAGEFAULT);
		copy.dst = msg.arg.pagefault.address & ~(uint64_t)(PAGE - 1);
		CHECK(copy.dst >= (uintptr_t)base &&
		      copy.dst < (uintptr_t)base + OWN);
		fill(page, PAGE, 100 + (copy.dst - (uintptr_t)base) / PAGE);
		nr_served++;
		if (ioctl(uffd, UFFDIO_COPY, &copy))
			CHECK(errno == EEXIST);
	}
	return NULL;
}

static void watch(char *own)
{
	struct uffdio_register reg = {
		{(uintptr_t)own, OWN}, UFFDIO_REGISTER_MODE_MISSING, 0};
	pthread_t t;

	CHECK(!ioctl(uffd, UFFDIO_REGISTER, &reg));
	CHECK(!pthread_create(&t, NULL, serve, own));
}

static void check_own(const char *own)
{
	for (size_t i = 0; i < OWN / PAGE; i++)
		CHECK(is_filled(own + i * PAGE, PAGE, 100 + i));
}

CASE(N56_own_range_watched_from_the_start)
{
	char *own, *p;

	open_uffd();
	own = map(OWN);
	watch(own);
	p = filled(WORK, 1);
	check_own(own);
	CHECK(nr_served == OWN / PAGE);
	push_out();
	check_own(own);
	CHECK(nr_served == OWN / PAGE);
	CHECK(is_filled(p, WORK, 1));
}

CASE(N56_own_range_watched_later)
{
	char *own, *p;

	p = filled(WORK, 1);
	own = map(OWN);
	open_uffd();
	watch(own);
	push_out();
	check_own(own);
	push_out();
	check_own(own);
	CHECK(nr_served == OWN / PAGE);
	CHECK(is_filled(p, WORK, 1));
}

/* Memory that is managed, and partly away, becomes the program's to watch:
 * its contents stay, and only what the program drops is served by it. */
CASE(N56_managed_range_is_given_to_the_program)
{
	char *p = filled(WORK, 1), *own = p + WORK / 2;

	open_uffd();
	watch(own);
	for (size_t i = 0; i < OWN / 8; i += 512)
		CHECK(((uint64_t *)(void *)own)[i] ==
		      word_of(1, WORK / 2 / 8 + i));
	CHECK(nr_served == 0);
	CHECK(!madvise(own, OWN, MADV_DONTNEED));
	check_own(own);
	push_out();
	check_own(own);
	CHECK(nr_served == OWN / PAGE);
	CHECK(is_filled(p, WORK / 2, 1));
}

CASES_MAIN()
