/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What one step takes, by folio size: a fault that is served, a move between
 * the program and a buffer, a store and a load of a driver, a checksum. Each
 * beside what the kernel or the CPU takes for the like in the same run.
 */
#include <pgmap/pgmap.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/hash.h"
#include "bench/bench.h"
#include "driver/driver.h"
#include "mmu/uffd.h"

#define PAGE ((size_t)4096)
#define HUGE ((size_t)2 << 20)
#define SAMPLES_MAX 2048u
/* Too short to be timed alone. */
#define BATCH 32u
/* Folios that are faulted lie so many of their sizes apart: no stream. */
#define APART 4u

struct samples {
	double us[SAMPLES_MAX];
	unsigned int nr;
};

/* What others are compared with. */
struct peers {
	double call, fault, huge_fault, copy;
};

struct bench {
	struct bench_lines lines;
	struct peers peer;
	size_t folio;	 /* bytes */
	unsigned int nr; /* folios */
};

static double now_us(void)
{
	return bench_ms(CLOCK_MONOTONIC) * 1e3;
}

static void add(struct samples *s, double us)
{
	if (s->nr < SAMPLES_MAX)
		s->us[s->nr++] = us;
}

/* Return: the median. */
static double print(const struct bench *b, const char *what, struct samples *s,
		    const char *of, double peer)
{
	char text[80], size[BENCH_SIZE];
	double median;

	qsort(s->us, s->nr, sizeof(*s->us), bench_by_value);
	median = s->us[s->nr / 2];
	if (b->folio)
		snprintf(text, sizeof(text), "%s %s",
			 bench_size(size, b->folio), what);
	else
		snprintf(text, sizeof(text), "%s", what);
	bench_line(&b->lines,
		   &(struct bench_line){.what = text,
					.median = median,
					.low = s->us[s->nr - 1 - s->nr / 100],
					.high = s->us[s->nr - 1],
					.of = of,
					.ratio = of ? median / peer : 0});
	return median;
}

static double print_fault(const struct bench *b, const char *what,
			  struct samples *s)
{
	return print(b, what, s, "kernel fault", b->peer.fault);
}

static int fail(const char *what, const char *why)
{
	fprintf(stderr, "pgmap: bench micro: %s: %s\n", what, why);
	return 1;
}

static double touch(volatile char *p)
{
	double began = now_us();

	*p = 1;
	return now_us() - began;
}

/* Half noise, half words of a few bits: lz4 makes a bit less than half of it.
 */
static void fill(char *p, size_t len)
{
	uint64_t x = 88172645463325252u;

	for (size_t i = 0; i < len; i += 16) {
		uint64_t w[2];

		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		w[0] = x;
		w[1] = x >> 60;
		memcpy(p + i, w, sizeof(w));
	}
}

/* ---- The kernel and the CPU ---- */

static void measure_call(struct bench *b)
{
	struct samples s = {.nr = 0};

	for (unsigned int i = 0; i < SAMPLES_MAX; i++) {
		double began = now_us();

		for (unsigned int k = 0; k < BATCH; k++)
			syscall(SYS_getppid);
		add(&s, (now_us() - began) / BATCH);
	}
	b->peer.call = print(b, "system call", &s, NULL, 0);
}

static int measure_kernel_fault(struct bench *b, bool huge)
{
	size_t step = huge ? HUGE : PAGE, nr = huge ? 64 : SAMPLES_MAX;
	char *p = bench_map_memory(nr * step, huge);
	struct samples s = {.nr = 0};
	double median;

	if (!p)
		return fail("kernel fault", "no memory");
	/* What a host has lent to others must come from there first. */
	memset(p, 1, nr * step);
	madvise(p, nr * step, MADV_DONTNEED);
	for (size_t i = 0; i < nr; i++)
		add(&s, touch(p + i * step));
	bench_unmap(p, nr * step);
	median = print(b, huge ? "kernel fault, 2 MB" : "kernel fault", &s,
		       NULL, 0);
	*(huge ? &b->peer.huge_fault : &b->peer.fault) = median;
	return 0;
}

/* From and to memory as cold as a driver's. */
static int measure_copy(struct bench *b)
{
	size_t len = b->nr * b->folio;
	char *from = bench_map_memory(len, true);
	char *to = bench_map_memory(len, true);
	struct samples s = {.nr = 0};
	int ret = 0;

	if (from && to) {
		fill(from, len);
		memset(to, 1, len);
		for (size_t i = 0; i < len; i += b->folio) {
			double began = now_us();

			memcpy(to + i, from + i, b->folio);
			add(&s, now_us() - began);
		}
		b->peer.copy = print(b, "memcpy", &s, NULL, 0);
		s.nr = 0;
		for (size_t i = 0; i < len; i += b->folio) {
			double began = now_us();

			for (size_t k = 0; k < b->folio; k += PAGE)
				pg_hash(from + i + k, PAGE);
			add(&s, now_us() - began);
		}
		print(b, "checksum", &s, "memcpy", b->peer.copy);
	} else {
		ret = fail("memcpy", "no memory");
	}
	bench_unmap(from, len);
	bench_unmap(to, len);
	return ret;
}

/* ---- Faults ---- */

static bool put_away(struct bench *b, struct pgmap_mm *mm, char *p)
{
	size_t step = APART * b->folio, moved;

	for (size_t i = 0; i < b->nr; i++) {
		fill(p + i * step, b->folio);
		if (pgmap_migrate(mm, p + i * step, b->folio, true, &moved) ||
		    moved != b->folio)
			return false;
	}
	return true;
}

static int measure_faults(struct bench *b, struct pgmap_mm *mm,
			  const char *device, char *p)
{
	struct samples hole = {.nr = 0}, page = {.nr = 0}, rest = {.nr = 0};
	size_t step = APART * b->folio;
	char what[64];

	for (size_t i = 0; i < b->nr; i++)
		add(&hole, touch(p + i * step));
	if (!put_away(b, mm, p))
		return fail(device, "not all pages went there");
	for (size_t i = 0; i < b->nr; i++) {
		add(&page, touch(p + i * step));
		/* Two neighbours are a stream: the rest of the folio comes. */
		if (b->folio > PAGE)
			add(&rest, touch(p + i * step + PAGE));
	}
	if (!strcmp(device, "mirror"))
		print(b, "hole fault", &hole,
		      b->folio == HUGE ? "kernel fault, 2 MB" : "kernel fault",
		      b->folio == HUGE ? b->peer.huge_fault : b->peer.fault);
	snprintf(what, sizeof(what), "%s: fault of a page", device);
	print_fault(b, what, &page);
	snprintf(what, sizeof(what), "%s: fault of the rest", device);
	if (rest.nr)
		print_fault(b, what, &rest);
	return 0;
}

static int measure_instance(struct bench *b, const char *device)
{
	size_t len = b->nr * b->folio * APART;
	struct pgmap_mm_config config = {.size = sizeof(config),
					 .ram = 4 * len,
					 .device = device,
					 .folio_size = b->folio};
	char *p = bench_map_memory(len, false), error[256];
	struct pgmap_mm *mm;
	int ret;

	if (!p)
		return fail("faults", "no memory");
	if (pgmap_mm_create(&config, &mm, error, sizeof(error))) {
		bench_unmap(p, len);
		return fail(device, error);
	}
	ret = pgmap_mm_adopt(mm, p, len) ? fail(device, "cannot be watched")
					 : measure_faults(b, mm, device, p);
	pgmap_mm_destroy(mm);
	bench_unmap(p, len);
	return ret;
}

/* ---- Moves ---- */

static int time_moves(struct bench *b, struct pg_mmu *m, char *p, char *buf)
{
	struct samples out = {.nr = 0}, in = {.nr = 0};
	size_t nr = b->folio / PAGE, done;

	for (unsigned int i = 0; i < b->nr; i++) {
		size_t at = i * b->folio;
		double began = now_us();

		if (m->ops->take(m, (uintptr_t)p + at, buf + at, nr, &done))
			return fail("move out", "the kernel refused");
		add(&out, now_us() - began);
	}
	for (unsigned int i = 0; i < b->nr; i++) {
		size_t at = i * b->folio;
		double began = now_us();

		if (m->ops->give(m, (uintptr_t)p + at, buf + at, nr, &done))
			return fail("install", "the kernel refused");
		add(&in, now_us() - began);
	}
	print(b, "move out", &out, "system call", b->peer.call);
	print(b, "install", &in, "system call", b->peer.call);
	return 0;
}

static int measure_moves(struct bench *b)
{
	struct pg_uffd_config config = {.nofork = true};
	size_t len = b->nr * b->folio;
	char *p = bench_map_memory(len, b->folio == HUGE), *buf, error[256];
	struct pg_mmu *m;
	int ret = 1;

	if (!p || pg_uffd_create(&config, &m, error, sizeof(error))) {
		bench_unmap(p, len);
		return fail("moves", p ? error : "no memory");
	}
	memset(p, 1, len);
	buf = m->ops->pool_map(m, len / PAGE);
	if (!buf || m->ops->watch(m, (uintptr_t)p, len / PAGE))
		fail("moves", "no memory");
	else
		ret = time_moves(b, m, p, buf);
	m->ops->unwatch(m, (uintptr_t)p, len / PAGE);
	pg_uffd_destroy(m);
	bench_unmap(p, len);
	return ret;
}

/* ---- Drivers ---- */

static int time_driver(struct bench *b, const struct pgmap_device_ops *ops,
		       void *dev, char *p)
{
	struct samples store = {.nr = 0}, load = {.nr = 0};
	uint32_t nr = (uint32_t)(b->folio / PAGE);
	char what[64];

	/* Store, load and discard all twice: the first time, memory comes
	 * from the kernel, and from its host. */
	for (unsigned int k = 0; k < 4; k++) {
		for (unsigned int i = 0; i < b->nr; i++) {
			struct pgmap_io io = {.slot = (uint64_t)i * nr,
					      .nr = nr,
					      .buf = p + i * b->folio};
			double began = now_us();

			if (k % 2 ? ops->load(dev, &io, 1)
				  : ops->store(dev, &io, 1))
				return fail(ops->name,
					    k % 2 ? "a load failed"
						  : "a store failed");
			if (k >= 2)
				add(k % 2 ? &load : &store, now_us() - began);
		}
		if (k % 2)
			ops->discard(dev, 0, (uint64_t)b->nr * nr);
	}
	snprintf(what, sizeof(what), "%s: store", ops->name);
	print(b, what, &store, "memcpy", b->peer.copy);
	snprintf(what, sizeof(what), "%s: load", ops->name);
	print(b, what, &load, "memcpy", b->peer.copy);
	return 0;
}

static int measure_driver(struct bench *b, const char *name)
{
	const struct pgmap_device_ops *ops = pg_driver_find(name);
	size_t len = b->nr * b->folio;
	char *p = bench_map_memory(len, true), error[256] = "";
	struct pgmap_device_args args = {
		.options = strcmp(name, "mirror") ? "" : "keep=1G",
		.nr_slots = len / PAGE,
		.unit = PGMAP_MAX_FOLIO_PAGES,
		.error = error,
		.error_len = sizeof(error),
	};
	void *dev;
	int ret;

	if (!p || ops->open(&args, &dev)) {
		bench_unmap(p, len);
		return fail(name, p ? error : "no memory");
	}
	fill(p, len);
	ret = time_driver(b, ops, dev, p);
	ops->close(dev);
	bench_unmap(p, len);
	return ret;
}

static int measure_size(struct bench *b)
{
	static const char *const devices[] = {"mirror", "lz4"};
	int ret = measure_copy(b);

	for (size_t i = 0; i < 2 && !ret; i++)
		if (pg_driver_find(devices[i]))
			ret = measure_instance(b, devices[i]);
	if (!ret)
		ret = measure_moves(b);
	for (size_t i = 0; i < 2 && !ret; i++)
		if (pg_driver_find(devices[i]))
			ret = measure_driver(b, devices[i]);
	return ret;
}

int bench_micro(bool json)
{
	static const struct {
		size_t folio;
		unsigned int nr;
	} sizes[] = {{4 << 10, 2048}, {64 << 10, 512}, {2 << 20, 64}};
	struct bench b = {.lines = {.json = json,
				    .title = "one step each, by folio size; "
					     "faults are delivered to a thread",
				    .unit = "us",
				    .low = "p99",
				    .high = "max"}};
	int ret;

	bench_lines_begin(&b.lines);
	measure_call(&b);
	ret = measure_kernel_fault(&b, false) || measure_kernel_fault(&b, true);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]) && !ret; i++) {
		b.folio = sizes[i].folio;
		b.nr = sizes[i].nr;
		ret = measure_size(&b);
	}
	bench_lines_end(&b.lines);
	return ret;
}
