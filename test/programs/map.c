/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * map.c - calls that change the address space, while pages are away.
 */
#include "behaviour.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdatomic.h>

#ifndef MADV_COLD
#define MADV_COLD 20
#define MADV_PAGEOUT 21
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

/* Run an access that must raise SIGSEGV. */
static sigjmp_buf after_segv;
static void *volatile segv_at;
static volatile int segv_code;

static void on_segv(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	segv_at = info->si_addr;
	segv_code = info->si_code;
	siglongjmp(after_segv, 1);
}

static void catch_segv(void)
{
	struct sigaction sa = {.sa_flags = SA_SIGINFO};

	sa.sa_sigaction = on_segv;
	CHECK(!sigaction(SIGSEGV, &sa, NULL));
}

static bool writing_faults(char *p)
{
	segv_at = NULL;
	if (!sigsetjmp(after_segv, 1)) {
		*(volatile char *)p = 1;
		return false;
	}
	return segv_at == p;
}

static bool reading_faults(const char *p)
{
	segv_at = NULL;
	if (!sigsetjmp(after_segv, 1)) {
		(void)*(const volatile char *)p;
		return false;
	}
	return segv_at == p;
}

CASE(mremap_grows_and_moves)
{
	char *p = filled(WORK / 2, 1), *q;

	q = mremap(p, WORK / 2, WORK, MREMAP_MAYMOVE);
	CHECK(q != MAP_FAILED);
	CHECK(is_filled(q, WORK / 2, 1));
	CHECK(is_zero(q + WORK / 2, WORK / 2));
	fill(q, WORK, 2);
	push_out();
	CHECK(is_filled(q, WORK, 2));
}

CASE(mremap_step_by_step_as_realloc_does)
{
	char *p = malloc(MB);

	fill(p, MB, 1);
	for (size_t size = MB; size < WORK; size += 3 * MB) {
		p = realloc(p, size + 3 * MB);
		CHECK(p);
		if (size % (12 * MB) == MB)
			push_out();
		CHECK(is_filled(p, MB, 1));
		fill(p + size, 3 * MB, 2);
	}
	CHECK(is_filled(p, MB, 1));
	for (size_t size = MB; size < WORK; size += 3 * MB)
		CHECK(is_filled(p + size, 3 * MB, 2));
	free(p);
}

CASE(mremap_shrinks)
{
	char *p = filled(WORK, 1);

	CHECK(mremap(p, WORK, WORK / 4, 0) == p);
	push_out();
	CHECK(is_filled(p, WORK / 4, 1));
	catch_segv();
	CHECK(reading_faults(p + WORK / 4));
}

CASE(mremap_onto_a_range_that_is_away)
{
	char *p = filled(WORK / 2, 1), *q = filled(WORK / 2, 2);

	CHECK(mremap(p, WORK / 2, WORK / 2, MREMAP_MAYMOVE | MREMAP_FIXED, q) ==
	      q);
	CHECK(is_filled(q, WORK / 2, 1));
	push_out();
	CHECK(is_filled(q, WORK / 2, 1));
	catch_segv();
	CHECK(reading_faults(p));
	CHECK(reading_faults(p + WORK / 4));
}

CASE(mremap_in_the_middle_of_a_range)
{
	char *p = filled(WORK, 1), *q = map(WORK / 4);
	size_t off = WORK / 2;

	CHECK(mremap(p + off, WORK / 4, WORK / 4, MREMAP_MAYMOVE | MREMAP_FIXED,
		     q) == q);
	push_out();
	CHECK(is_filled(p, off, 1));
	for (size_t i = 0; i < WORK / 4 / 8; i += 4)
		CHECK(((uint64_t *)(void *)q)[i] == word_of(1, off / 8 + i));
}

CASE(mremap_dontunmap_leaves_zeros)
{
	char *p = filled(WORK / 2, 1), *q;

	q = mremap(p, WORK / 2, WORK / 2, MREMAP_MAYMOVE | MREMAP_DONTUNMAP,
		   NULL);
	CHECK(q != MAP_FAILED && q != p);
	CHECK(is_filled(q, WORK / 2, 1));
	CHECK(is_zero(p, WORK / 2));
	fill(p, WORK / 2, 2);
	push_out();
	CHECK(is_filled(p, WORK / 2, 2));
	CHECK(is_filled(q, WORK / 2, 1));
}

CASE(munmap_makes_holes)
{
	char *p = filled(WORK, 1);

	for (size_t i = 0; i < WORK / MB; i += 3)
		CHECK(!munmap(p + i * MB, MB));
	push_out();
	for (size_t i = 0; i < WORK / MB; i++) {
		uint64_t *w = (void *)(p + i * MB);

		if (i % 3 == 0) {
			CHECK(mmap(w, MB, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS |
					   MAP_FIXED_NOREPLACE,
				   -1, 0) == w);
			CHECK(is_zero(w, MB));
			fill(w, MB, 2);
		}
	}
	push_out();
	for (size_t i = 0; i < WORK / MB; i++) {
		uint64_t *w = (void *)(p + i * MB);

		for (size_t k = 0; k < MB / 8; k += 4)
			CHECK(w[k] == (i % 3 == 0
					       ? word_of(2, k)
					       : word_of(1, i * MB / 8 + k)));
	}
}

CASE(munmap_and_mmap_a_thousand_times)
{
	char *keep = filled(WORK / 2, 1);

	for (uint64_t n = 0; n < 1000; n++) {
		size_t size = (n % 7 + 1) * MB / 2;
		char *p = map(size);

		CHECK(is_zero(p, size));
		fill(p, size, n);
		CHECK(is_filled(p, size, n));
		CHECK(!munmap(p, size));
	}
	CHECK(is_filled(keep, WORK / 2, 1));
}

CASE(mmap_over_a_range_that_is_away)
{
	char *p = filled(WORK, 1);

	CHECK(mmap(p + 4 * MB, 8 * MB, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		   0) == p + 4 * MB);
	CHECK(is_zero(p + 4 * MB, 8 * MB));
	fill(p + 4 * MB, 8 * MB, 2);
	push_out();
	CHECK(is_filled(p + 4 * MB, 8 * MB, 2));
	CHECK(is_filled(p, 4 * MB, 1));
}

CASE(many_mappings)
{
	enum { NR = 700 };
	static char *p[NR];
	size_t size = 96 * 1024;

	for (uint64_t i = 0; i < NR; i++) {
		p[i] = map(size);
		/* A guard page keeps them apart. */
		CHECK(!mprotect(p[i], PAGE, PROT_NONE));
		fill(p[i] + PAGE, size - PAGE, i);
	}
	push_out();
	for (uint64_t i = 0; i < NR; i++) {
		CHECK(is_filled(p[i] + PAGE, size - PAGE, i));
		if (i % 2)
			CHECK(!munmap(p[i], size));
	}
	push_out();
	for (uint64_t i = 0; i < NR; i += 2)
		CHECK(is_filled(p[i] + PAGE, size - PAGE, i));
}

CASE(dontneed_reads_zeros)
{
	char *p = filled(WORK, 1);

	CHECK(!madvise(p + WORK / 4, WORK / 2, MADV_DONTNEED));
	CHECK(is_zero(p + WORK / 4, WORK / 2));
	CHECK(is_filled(p, WORK / 4, 1));
	push_out();
	CHECK(is_zero(p + WORK / 4, WORK / 2));
	fill(p, WORK, 2);
	push_out();
	CHECK(!madvise(p, WORK, MADV_DONTNEED));
	push_out();
	CHECK(is_zero(p, WORK));
}

static _Atomic bool stop;

static void *churn(void *arg)
{
	char *p = arg;

	while (!stop)
		for (size_t i = 0; i < 32 * MB && !stop; i += PAGE)
			p[i]++;
	return NULL;
}

/* Pages are pushed out by another thread all the time; a page that was given
 * up must never come back with its old contents. */
CASE(N57_dontneed_while_pages_leave)
{
	char *p = map(8 * MB), *other = map(32 * MB);
	pthread_t t;
	uint64_t x = 1;

	fill(p, 8 * MB, 1);
	CHECK(!pthread_create(&t, NULL, churn, other));
	for (int n = 0; n < 6000; n++) {
		size_t page, nr;
		uint64_t *w;

		x = x * 6364136223846793005u + 1442695040888963407u;
		page = (x >> 33) % (8 * MB / PAGE - 16);
		nr = (x >> 20) % 16 + 1;
		w = (void *)(p + page * PAGE);
		CHECK(!madvise(w, nr * PAGE, MADV_DONTNEED));
		for (size_t i = 0; i < nr; i++)
			CHECK(w[i * 512] == 0 && w[i * 512 + 511] == 0);
		if (n % 3 == 0)
			usleep(50);
		CHECK(is_zero(w, nr * PAGE));
		fill(w, nr * PAGE, x >> 50);
		CHECK(is_filled(w, nr * PAGE, x >> 50));
	}
	stop = true;
	CHECK(!pthread_join(t, NULL));
}

struct half {
	char *p;
	uint64_t seed;
};

static void *zap_and_fill(void *arg)
{
	struct half *h = arg;

	for (uint64_t n = 0; n < 25; n++) {
		CHECK(!madvise(h->p, 4 * MB, MADV_DONTNEED));
		CHECK(is_zero(h->p, 4 * MB));
		fill(h->p, 4 * MB, h->seed + n);
		CHECK(is_filled(h->p, 4 * MB, h->seed + n));
	}
	return NULL;
}

CASE(N43_dontneed_of_neighbours_from_threads)
{
	char *p = map(32 * MB);
	struct half half[4];
	pthread_t t[4];

	for (size_t i = 0; i < 4; i++) {
		half[i] = (struct half){p + i * 8 * MB, 100 * (i + 1)};
		fill(half[i].p + 4 * MB, 4 * MB, i);
		CHECK(!pthread_create(&t[i], NULL, zap_and_fill, &half[i]));
	}
	push_out();
	for (size_t i = 0; i < 4; i++) {
		CHECK(!pthread_join(t[i], NULL));
		CHECK(is_filled(half[i].p + 4 * MB, 4 * MB, i));
	}
}

CASE(madv_free_keeps_or_zeroes_and_takes_writes)
{
	char *p = filled(WORK / 2, 1);

	CHECK(!madvise(p, WORK / 2, MADV_FREE));
	push_out();
	for (size_t i = 0; i < WORK / 2 / PAGE; i++) {
		uint64_t *w = (void *)(p + i * PAGE);
		uint64_t first = w[0], later = w[508];

		CHECK((first == word_of(1, i * 512) &&
		       later == word_of(1, i * 512 + 508)) ||
		      (first == 0 && later == 0));
		w[1] = i;
	}
	push_out();
	for (size_t i = 0; i < WORK / 2 / PAGE; i++)
		CHECK(((uint64_t *)(void *)(p + i * PAGE))[1] == i);
}

CASE(advice_that_changes_nothing)
{
	static const int advice[] = {
		MADV_NORMAL,	    MADV_RANDOM,	 MADV_SEQUENTIAL,
		MADV_WILLNEED,	    MADV_COLD,		 MADV_PAGEOUT,
		MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_HUGEPAGE,
		MADV_NOHUGEPAGE,    MADV_DONTDUMP,	 MADV_DODUMP,
	};
	char *p = filled(WORK, 1);

	for (size_t i = 0; i < sizeof(advice) / sizeof(*advice); i++) {
		size_t off = i % 3 * 4 * MB;

		/* Some kernels are built without one or the other. */
		(void)madvise(p + off, 8 * MB, advice[i]);
		CHECK(is_filled(p, 16 * MB, 1));
		push_out();
	}
	CHECK(is_filled(p, WORK, 1));
}

CASE(huge_pages_by_advice)
{
	char *p = map(WORK + 2 * MB);

	p = (char *)(((uintptr_t)p + 2 * MB - 1) & ~(2 * MB - 1));
	CHECK(!madvise(p, WORK, MADV_HUGEPAGE) || errno == EINVAL);
	fill(p, WORK, 1);
	push_out_range(p, WORK);
	CHECK(is_filled(p, WORK, 1));
	CHECK(!munmap(p + WORK / 2 + PAGE, PAGE));
	push_out();
	CHECK(is_filled(p, WORK / 2, 1));
}

/* Two threads that take neighbours out of one huge page meet in the kernel. */
CASE(huge_pages_made_again_and_again)
{
	char *p = map(10 * MB);

	p = (char *)(((uintptr_t)p + 2 * MB - 1) & ~(2 * MB - 1));
	for (uint64_t n = 1; n < 25; n++) {
		fill(p, 8 * MB, n);
		/* Older kernels, and memory in pieces: small pages, then. */
		(void)madvise(p, 8 * MB, MADV_COLLAPSE);
		push_out();
		CHECK(is_filled(p, 8 * MB, n));
		(void)madvise(p, 8 * MB, MADV_COLLAPSE);
		CHECK(is_filled(p, 8 * MB, n));
	}
}

CASE(mprotect_read_only_and_back)
{
	char *p = filled(WORK, 1);

	catch_segv();
	CHECK(!mprotect(p, WORK, PROT_READ));
	for (size_t i = 0; i < WORK; i += 5 * MB) {
		CHECK(writing_faults(p + i));
		CHECK(segv_code == SEGV_ACCERR);
	}
	CHECK(is_filled(p, WORK, 1));
	push_out();
	CHECK(is_filled(p, WORK, 1));
	CHECK(!mprotect(p, WORK, PROT_READ | PROT_WRITE));
	CHECK(is_filled(p, WORK, 1));
	fill(p, WORK, 2);
	push_out();
	CHECK(is_filled(p, WORK, 2));
}

CASE(mprotect_none_and_back)
{
	char *p = filled(WORK, 1);

	catch_segv();
	CHECK(!mprotect(p, WORK, PROT_NONE));
	for (size_t i = 0; i < WORK; i += 3 * MB) {
		CHECK(reading_faults(p + i));
		CHECK(segv_code == SEGV_ACCERR);
		CHECK(writing_faults(p + i));
	}
	push_out();
	CHECK(!mprotect(p, WORK, PROT_READ | PROT_WRITE));
	CHECK(is_filled(p, WORK, 1));
}

CASE(mprotect_of_every_other_page)
{
	char *p = filled(WORK, 1);
	size_t step = 64 * PAGE;

	catch_segv();
	for (size_t i = 0; i < WORK; i += step)
		CHECK(!mprotect(p + i, PAGE, PROT_READ));
	push_out();
	CHECK(is_filled(p, WORK, 1));
	for (size_t i = 0; i < WORK; i += 16 * step) {
		CHECK(writing_faults(p + i));
		CHECK(!writing_faults(p + i + PAGE));
	}
	for (size_t i = 0; i < WORK; i += step)
		CHECK(!mprotect(p + i, PAGE, PROT_READ | PROT_WRITE));
	fill(p, WORK, 2);
	push_out();
	CHECK(is_filled(p, WORK, 2));
}

static void *toggle(void *arg)
{
	while (!stop) {
		CHECK(!mprotect(arg, WORK / 2, PROT_READ));
		CHECK(!mprotect(arg, WORK / 2, PROT_READ | PROT_WRITE));
		usleep(200);
	}
	return NULL;
}

CASE(mprotect_while_others_read)
{
	char *p = filled(WORK, 1);
	pthread_t t;

	CHECK(!pthread_create(&t, NULL, toggle, p));
	for (int n = 0; n < 5; n++)
		CHECK(is_filled(p, WORK, 1));
	stop = true;
	CHECK(!pthread_join(t, NULL));
}

CASE(a_write_to_nowhere_is_still_sigsegv)
{
	char *p = filled(WORK, 1);

	catch_segv();
	CHECK(!munmap(p + MB, MB));
	for (int n = 0; n < 1000; n++) {
		CHECK(writing_faults(p + MB + n));
		CHECK(segv_code == SEGV_MAPERR);
		CHECK(reading_faults(NULL));
	}
	CHECK(is_filled(p, MB, 1));
}

CASE(mlock_and_munlock)
{
	char *p = filled(WORK, 1);

	CHECK(!mlock(p + 4 * MB, 4 * MB));
	CHECK(nr_absent(p + 4 * MB, 4 * MB) == 0);
	push_out();
	CHECK(nr_absent(p + 4 * MB, 4 * MB) == 0);
	CHECK(is_filled(p, WORK, 1));
	CHECK(!munlock(p + 4 * MB, 4 * MB));
	push_out();
	CHECK(is_filled(p, WORK, 1));
}

/* What lies behind a buffer is what lies there without us: soon nothing that
 * can be written. */
CASE_STATUS(an_overrun_of_a_large_buffer_crashes, -SIGSEGV)
{
	char *p = malloc(80 * MB), *q = malloc(80 * MB);
	volatile char *top = p > q ? p : q;
	volatile size_t end = 80 * MB; /* the compiler must not see it */

	CHECK(p && q);
	fill(p, 80 * MB, 1);
	fill(q, 80 * MB, 2);
	push_out();
	printf("behind\n");
	fflush(stdout);
	for (size_t i = end; i < end + MB; i++)
		top[i] = 3;
}

CASE(mlockall_and_munlockall)
{
	char *p = filled(WORK / 2, 1), *q;

	CHECK(!mlockall(MCL_CURRENT | MCL_FUTURE));
	CHECK(nr_absent(p, WORK / 2) == 0);
	q = map(4 * MB);
	CHECK(nr_absent(q, 4 * MB) == 0);
	fill(q, 4 * MB, 2);
	CHECK(is_filled(p, WORK / 2, 1));
	CHECK(!munlockall());
	push_out();
	CHECK(is_filled(p, WORK / 2, 1));
	CHECK(is_filled(q, 4 * MB, 2));
}

CASE(brk_grows_and_shrinks)
{
	char *p = sbrk(0);
	size_t skip = (size_t)(-(uintptr_t)p & (PAGE - 1));

	CHECK(sbrk((intptr_t)(skip + WORK)) == p);
	p += skip;
	CHECK(is_zero(p, WORK));
	fill(p, WORK, 1);
	push_out_range(p, WORK);
	CHECK(is_filled(p, WORK, 1));
	CHECK(sbrk(-(intptr_t)(WORK / 2)) == p + WORK);
	push_out();
	CHECK(is_filled(p, WORK / 2, 1));
	CHECK(sbrk((intptr_t)WORK) == p + WORK / 2);
	CHECK(is_zero(p + WORK / 2, WORK));
	fill(p + WORK / 2, WORK, 2);
	push_out();
	CHECK(is_filled(p, WORK / 2, 1));
	CHECK(is_filled(p + WORK / 2, WORK, 2));
}

CASE(large_arrays_of_the_program)
{
	static char bss[WORK] __attribute__((aligned(8)));

	CHECK(is_zero(bss, WORK));
	fill(bss, WORK, 1);
	push_out();
	CHECK(is_filled(bss, WORK, 1));
	fill(bss, WORK, 2);
	push_out();
	CHECK(is_filled(bss, WORK, 2));
}

CASE(N62_faults_inside_malloc)
{
	enum { NR = 200000 };
	char **p = calloc(NR, sizeof(*p));

	CHECK(p);
	for (int round = 0; round < 3; round++) {
		for (size_t i = 0; i < NR; i++) {
			size_t size = 24 + i * 37 % 400;

			if (p[i])
				continue;
			p[i] = malloc(size);
			CHECK(p[i]);
			memset(p[i], (int)i, size);
		}
		push_out();
		/* free() and malloc() read and write beside the chunks. */
		for (size_t i = (size_t)round; i < NR; i += 2 + i % 3) {
			CHECK(p[i][0] == (char)i);
			free(p[i]);
			p[i] = NULL;
		}
		push_out();
	}
	for (size_t i = 0; i < NR; i++) {
		size_t size = 24 + i * 37 % 400;

		for (size_t k = 0; p[i] && k < size; k++)
			CHECK(p[i][k] == (char)i);
		free(p[i]);
	}
	free(p);
}

CASE(calloc_gives_zeros)
{
	for (int n = 0; n < 12; n++) {
		size_t size = WORK / 2 + (size_t)n * MB;
		char *p = calloc(1, size);

		CHECK(p && is_zero(p, size & ~(size_t)7));
		fill(p, size, 1);
		free(p);
	}
}

static void *deep(void *arg)
{
	char stack[1024 * 1024];

	fill(stack, sizeof(stack), (uintptr_t)arg & 0xff);
	push_out();
	CHECK(is_filled(stack, sizeof(stack), (uintptr_t)arg & 0xff));
	return arg;
}

CASE(stacks_of_threads)
{
	char *p = filled(WORK, 1);

	for (uintptr_t n = 0; n < 24; n += 4) {
		pthread_t t[4];
		void *got;

		for (uintptr_t i = 0; i < 4; i++)
			CHECK(!pthread_create(&t[i], NULL, deep,
					      (void *)(n + i)));
		for (uintptr_t i = 0; i < 4; i++) {
			CHECK(!pthread_join(t[i], &got));
			CHECK(got == (void *)(n + i));
		}
	}
	CHECK(is_filled(p, WORK, 1));
}

CASES_MAIN()
