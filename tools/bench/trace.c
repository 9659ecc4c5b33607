/* SPDX-License-Identifier: BSD-3-Clause */
#include "bench/trace.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE_SHIFT 12
#define REGION_SHIFT 21
#define REGION_PAGES (1u << (REGION_SHIFT - PAGE_SHIFT))
#define ADDRESS_BITS 47
#define MOST ((size_t)1 << 32) /* records; backed where they are used */
#define SLOTS 4096u	       /* pages remembered; must exceed the window */

int work_main(int argc, char **argv);

static struct {
	pthread_mutex_t lock; /* all below */
	uint32_t *touch;
	size_t nr;
	/* By region of 2 MB: its number + 1; 0: not the work's. */
	uint32_t *region;
	uint32_t nr_regions;
	struct slot {
		uint32_t page;
		bool written;
		size_t at; /* record + 1; 0: none */
	} slot[SLOTS];
	/* The work takes the time, then names what it has measured. */
	struct trace_phase phase[TRACE_PHASES + 1];
	unsigned int nr_phases;
	bool timed, on;
} rec = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* What this thread touched last, unless another has touched something since:
 * that makes a touch of the same page cheap. Both are read without the lock: a
 * wrong guess costs a record. */
static _Thread_local struct {
	uintptr_t page;
	size_t nr;
	bool written;
} last;

static void touch_page(uintptr_t page, bool write)
{
	uint32_t region, nr;
	struct slot *s;

	if (page == last.page && (!write || last.written) && rec.nr == last.nr)
		return;
	if (page >> (ADDRESS_BITS - PAGE_SHIFT))
		return;
	region = rec.region[page / REGION_PAGES];
	if (!region)
		return;
	pthread_mutex_lock(&rec.lock);
	nr = (region - 1) * REGION_PAGES + (uint32_t)(page % REGION_PAGES);
	s = &rec.slot[nr % SLOTS];
	if (!s->at || s->page != nr || rec.nr - s->at >= TRACE_WINDOW ||
	    (write && !s->written)) {
		if (rec.nr == MOST) {
			fprintf(stderr, "pgmap-victim: the work is too long; "
					"take a smaller size\n");
			exit(1);
		}
		rec.touch[rec.nr++] = nr << 1 | write;
		*s = (struct slot){nr, write, rec.nr};
	}
	last.page = page;
	last.nr = rec.nr;
	last.written = s->written;
	pthread_mutex_unlock(&rec.lock);
}

static void touch(const volatile void *p, size_t size, bool write)
{
	uintptr_t va = (uintptr_t)p;

	for (uintptr_t page = va >> PAGE_SHIFT;
	     size && page <= (va + size - 1) >> PAGE_SHIFT; page++)
		touch_page(page, write);
}

/* ---- What instrumented code calls ---- */

void __tsan_init(void);
void __tsan_init(void)
{
}

void __tsan_func_entry(const void *pc);
void __tsan_func_entry(const void *pc)
{
	(void)pc;
}

void __tsan_func_exit(void);
void __tsan_func_exit(void)
{
}

#define ACCESS(name, size, write)                                              \
	void __tsan_##name##size(const void *p);                               \
	void __tsan_##name##size(const void *p)                                \
	{                                                                      \
		touch(p, size, write);                                         \
	}
#define ACCESSES(size)                                                         \
	ACCESS(read, size, false)                                              \
	ACCESS(write, size, true)                                              \
	ACCESS(unaligned_read, size, false)                                    \
	ACCESS(unaligned_write, size, true)

ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

void __tsan_read_range(const void *p, size_t size);
void __tsan_read_range(const void *p, size_t size)
{
	touch(p, size, false);
}

void __tsan_write_range(const void *p, size_t size);
void __tsan_write_range(const void *p, size_t size)
{
	touch(p, size, true);
}

/* ---- Calls of libc: the linker sends them here (--wrap) ---- */

void *__real_memcpy(void *to, const void *from, size_t n);
void *__wrap_memcpy(void *to, const void *from, size_t n);
void *__wrap_memcpy(void *to, const void *from, size_t n)
{
	touch(from, n, false);
	touch(to, n, true);
	return __real_memcpy(to, from, n);
}

void *__real_memset(void *to, int c, size_t n);
void *__wrap_memset(void *to, int c, size_t n);
void *__wrap_memset(void *to, int c, size_t n)
{
	touch(to, n, true);
	return __real_memset(to, c, n);
}

/* Newer compilers call these for the copies in instrumented code. */
void *__tsan_memcpy(void *to, const void *from, size_t n);
void *__tsan_memcpy(void *to, const void *from, size_t n)
{
	return __wrap_memcpy(to, from, n);
}

void *__tsan_memset(void *to, int c, size_t n);
void *__tsan_memset(void *to, int c, size_t n)
{
	return __wrap_memset(to, c, n);
}

size_t __real_fread(void *p, size_t size, size_t nr, FILE *f);
size_t __wrap_fread(void *p, size_t size, size_t nr, FILE *f);
size_t __wrap_fread(void *p, size_t size, size_t nr, FILE *f)
{
	touch(p, size * nr, true);
	return __real_fread(p, size, nr, f);
}

/* mmap(), by the name that it has with 64-bit offsets. The work maps its data
 * before it has threads. */
void *__real_mmap64(void *addr, size_t len, int prot, int flags, int fd,
		    off_t offset);
void *__wrap_mmap64(void *addr, size_t len, int prot, int flags, int fd,
		    off_t offset);
void *__wrap_mmap64(void *addr, size_t len, int prot, int flags, int fd,
		    off_t offset)
{
	void *p = __real_mmap64(addr, len, prot, flags, fd, offset);
	uintptr_t va = (uintptr_t)p;

	if (p != MAP_FAILED && rec.region)
		for (uintptr_t r = va >> REGION_SHIFT;
		     r <= (va + len - 1) >> REGION_SHIFT; r++)
			if (!rec.region[r])
				rec.region[r] = ++rec.nr_regions;
	return p;
}

int __real_clock_gettime(clockid_t clock, struct timespec *t);
int __wrap_clock_gettime(clockid_t clock, struct timespec *t);
int __wrap_clock_gettime(clockid_t clock, struct timespec *t)
{
	struct trace_phase *now = &rec.phase[rec.nr_phases];

	if (!rec.timed)
		now->begin = rec.nr;
	now->end = rec.nr;
	rec.timed = true;
	return __real_clock_gettime(clock, t);
}

/* What the work prints is "metric NAME...", or of no interest. */
__attribute__((format(printf, 1, 2))) int __wrap_printf(const char *format,
							...);
int __wrap_printf(const char *format, ...)
{
	struct trace_phase *now = &rec.phase[rec.nr_phases];
	va_list args;
	int ret = 0;

	va_start(args, format);
	if (!rec.on) {
		ret = vprintf(format, args);
	} else if (!strncmp(format, "metric", 6) &&
		   rec.nr_phases < TRACE_PHASES) {
		snprintf(now->name, sizeof(now->name), "%s",
			 va_arg(args, char *));
		rec.nr_phases++;
		rec.timed = false;
	}
	va_end(args);
	return ret;
}

/* ---- */

static void *reserve(size_t len)
{
	void *p = __real_mmap64(NULL, len, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
				0);

	return p == MAP_FAILED ? NULL : p;
}

int trace_record(int argc, char **argv, struct trace *t)
{
	int ret;

	rec.touch = reserve(MOST * sizeof(*rec.touch));
	rec.region =
		reserve(sizeof(*rec.region) << (ADDRESS_BITS - REGION_SHIFT));
	if (!rec.touch || !rec.region) {
		fprintf(stderr, "pgmap-victim: no memory to record in\n");
		return 1;
	}
	rec.on = true;
	ret = work_main(argc, argv);
	rec.on = false;
	*t = (struct trace){.touch = rec.touch,
			    .nr = rec.nr,
			    .nr_pages = rec.nr_regions * REGION_PAGES,
			    .nr_phases = rec.nr_phases};
	memcpy(t->phase, rec.phase, sizeof(t->phase));
	return ret;
}
