/* SPDX-License-Identifier: BSD-3-Clause */
/* What the library is made of: counts, hand-out, lookup, pins, maps. */
#include <inttypes.h>
#include <pgmap/pgmap.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench/bench.h"

#define TB ((uint64_t)1 << 40)
#define CORE_RUNS 5
#define NR_MAPS 64u
#define GB_PAGES ((uint64_t)1 << PGMAP_PUD_ORDER)
#define MB2_PAGES ((uint64_t)1 << PGMAP_PMD_ORDER)

static struct pgmap_allocator *allocator;

static void allocator_free(struct pgmap_folio *folio)
{
	pgmap_allocator_free(allocator, folio);
}

/* A map whose pages are with the allocator. NULL: no memory. */
static struct pgmap *core_map(uint64_t nr, uint32_t folio_order)
{
	static int owner;
	static const struct pgmap_ops core_ops = {
		.size = sizeof(core_ops),
		.folio_free = allocator_free,
		.migrate_to_ram = bench_no_fault,
	};
	struct pgmap_desc desc = {
		.size = sizeof(desc),
		.type = PGMAP_PRIVATE,
		.nr_range = 1,
		.range = {{.nr = nr}},
		.ops = &core_ops,
		.owner = &owner,
		.folio_order = folio_order,
	};
	struct pgmap *map;

	if (pgmap_create(&desc, &map))
		return NULL;
	if (pgmap_allocator_add(allocator, map)) {
		pgmap_destroy(map);
		return NULL;
	}
	return map;
}

static void core_map_drop(struct pgmap *map)
{
	if (!map)
		return;
	pgmap_allocator_remove(allocator, map);
	pgmap_destroy(map);
}

static struct pgmap_folio *core_get(unsigned int order)
{
	struct pgmap_folio *folio;

	if (pgmap_allocator_get(allocator, order, &folio))
		return NULL;
	pgmap_folio_unlock(folio);
	return folio;
}

/* The machine was too busy to run two threads at once, in this row. */
static bool took_turns;

/* What one thread does: a few ms, so that it is rarely interrupted. */
struct job {
	void (*fn)(struct job *);
	uint64_t pairs;
	unsigned int order;
	struct pgmap_folio *folio;
	struct pgmap *const *map; /* NR_MAPS of 1 GB */
	pthread_barrier_t *start;
	double start_ms, end_ms, cpu_ms;
	bool failed;
};

static void hand_out_and_free(struct job *j)
{
	for (uint64_t i = 0; i < j->pairs; i++) {
		struct pgmap_folio *folio;

		if (pgmap_allocator_get(allocator, j->order, &folio)) {
			j->failed = true;
			return;
		}
		pgmap_folio_unlock(folio);
		pgmap_folio_put(folio);
	}
}

static void get_and_put(struct job *j)
{
	for (uint64_t i = 0; i < j->pairs; i++) {
		pgmap_folio_get(j->folio);
		pgmap_folio_put(j->folio);
	}
}

/* Of all maps, in no order. */
static uint64_t some_pfn(const struct job *j, uint64_t i)
{
	struct pgmap_range r;

	i = i * 0x9e3779b97f4a7c15u >> 32;
	pgmap_range_get(j->map[i % NR_MAPS], 0, &r);
	return r.pfn + i / NR_MAPS % r.nr;
}

static void look_up(struct job *j)
{
	for (uint64_t i = 0; i < j->pairs; i++) {
		struct pgmap *map = pgmap_lookup(some_pfn(j, i), NULL);

		if (!map) {
			j->failed = true;
			return;
		}
		pgmap_put(map);
	}
}

static void *thread_main(void *arg)
{
	struct job *j = arg;
	double cpu;

	pthread_barrier_wait(j->start);
	j->start_ms = bench_ms(CLOCK_MONOTONIC);
	cpu = bench_ms(CLOCK_THREAD_CPUTIME_ID);
	j->fn(j);
	j->cpu_ms = bench_ms(CLOCK_THREAD_CPUTIME_ID) - cpu;
	j->end_ms = bench_ms(CLOCK_MONOTONIC);
	return NULL;
}

/*
 * What a thread's CPU spends, so that other work on the machine does not count.
 * @together: Out: the threads did run at the same time.
 * Return: ns for each pair; negative: it failed.
 */
static double run_once(const struct job *what, struct pgmap_folio *second,
		       unsigned int nr_threads, bool *together)
{
	pthread_barrier_t start;
	struct job job[2];
	pthread_t other;
	double cpu_ms = 0;

	pthread_barrier_init(&start, NULL, nr_threads);
	for (unsigned int i = 0; i < 2; i++) {
		job[i] = *what;
		job[i].start = &start;
	}
	if (second)
		job[1].folio = second;
	if (nr_threads == 2 &&
	    pthread_create(&other, NULL, thread_main, &job[1]))
		return -1;
	thread_main(&job[0]);
	if (nr_threads == 2)
		pthread_join(other, NULL);
	pthread_barrier_destroy(&start);
	*together = true;
	for (unsigned int i = 0; i < nr_threads; i++) {
		const struct job *j = &job[i], *o = &job[nr_threads - 1 - i];

		if (j->failed)
			return -1;
		cpu_ms += j->cpu_ms;
		if (j->end_ms - o->start_ms < 0.8 * o->cpu_ms ||
		    j->end_ms - j->start_ms > 1.2 * j->cpu_ms)
			*together = false;
	}
	return cpu_ms / nr_threads * 1e6 / (double)what->pairs;
}

/* Threads that take turns do not get into each other's way: try again. */
static double run_job(const struct job *what, struct pgmap_folio *second,
		      unsigned int nr_threads)
{
	double ns = -1;

	for (int tries = 0; tries < 40; tries++) {
		bool together;

		ns = run_once(what, second, nr_threads, &together);
		if (ns < 0 || together || nr_threads == 1)
			return ns;
	}
	took_turns = true;
	return ns;
}

enum folios { ONE_FOLIO, TWO_FOLIOS };

static double bench_pair(void (*fn)(struct job *), unsigned int order,
			 enum folios folios, unsigned int nr_threads)
{
	struct job j = {.fn = fn,
			.order = order,
			.pairs = fn == get_and_put ? 1u << 19 : 1u << 16};
	struct pgmap *map = core_map(16 * GB_PAGES, 0);
	struct pgmap_folio *second = NULL;
	double ns = -1;

	if (!map)
		return -1;
	/* Two pages' records share a line of the cache; those of two large
	 * folios do not. */
	j.folio = core_get(PGMAP_PMD_ORDER);
	if (folios == TWO_FOLIOS)
		second = core_get(PGMAP_PMD_ORDER);
	if (j.folio && (second || folios == ONE_FOLIO))
		ns = run_job(&j, second, nr_threads);
	if (j.folio)
		pgmap_folio_put(j.folio);
	if (second)
		pgmap_folio_put(second);
	core_map_drop(map);
	return ns;
}

static double page_1(void)
{
	return bench_pair(hand_out_and_free, 0, ONE_FOLIO, 1);
}

static double page_2(void)
{
	return bench_pair(hand_out_and_free, 0, ONE_FOLIO, 2);
}

static double folio_2mb(void)
{
	return bench_pair(hand_out_and_free, PGMAP_PMD_ORDER, ONE_FOLIO, 1);
}

static double get_put_1(void)
{
	return bench_pair(get_and_put, 0, ONE_FOLIO, 1);
}

static double get_put_2_same(void)
{
	return bench_pair(get_and_put, 0, ONE_FOLIO, 2);
}

static double get_put_2_other(void)
{
	return bench_pair(get_and_put, 0, TWO_FOLIOS, 2);
}

static double bench_lookup(unsigned int nr_threads)
{
	struct pgmap *map[NR_MAPS] = {NULL};
	struct job j = {.fn = look_up, .pairs = 1u << 17, .map = map};
	double ns = -1;
	unsigned int n = 0;

	while (n < NR_MAPS && (map[n] = core_map(GB_PAGES, 0)))
		n++;
	if (n == NR_MAPS)
		ns = run_job(&j, NULL, nr_threads);
	while (n)
		core_map_drop(map[--n]);
	return ns;
}

static double lookup_1(void)
{
	return bench_lookup(1);
}

static double lookup_2(void)
{
	return bench_lookup(2);
}

/* Find each folio of 16 GB by its page number, pin it; then unpin all. */
static double pin_all(uint64_t first, uint64_t step, struct pgmap_folio **folio)
{
	uint64_t nr = 16 * GB_PAGES / step;
	double t0 = bench_ms(CLOCK_MONOTONIC);

	for (uint64_t i = 0; i < nr; i++) {
		folio[i] = pgmap_tryget_pfn(first + i * step);
		if (!folio[i])
			return -1;
		pgmap_folio_pin(folio[i]);
	}
	for (uint64_t i = 0; i < nr; i++)
		pgmap_folio_unpin(folio[i]);
	return (bench_ms(CLOCK_MONOTONIC) - t0) * 1e3;
}

static double bench_pin(unsigned int order, uint32_t folio_order)
{
	struct pgmap *map = core_map(16 * GB_PAGES, folio_order);
	uint64_t step = (uint64_t)1 << order, nr = 16 * GB_PAGES / step;
	struct pgmap_folio **folio = calloc(2 * nr, sizeof(*folio));
	struct pgmap_range r;
	double us = -1;
	uint64_t n = 0;

	if (map && folio) {
		pgmap_range_get(map, 0, &r);
		while (n < nr && (folio[n] = core_get(order)))
			n++;
		if (n == nr)
			us = pin_all(r.pfn, step, folio + nr);
		while (n)
			pgmap_folio_put(folio[--n]);
	}
	free(folio);
	core_map_drop(map);
	return us;
}

static double pin_2mb(void)
{
	return bench_pin(PGMAP_PMD_ORDER, PGMAP_PMD_ORDER);
}

static double pin_2mb_of_pages(void)
{
	return bench_pin(PGMAP_PMD_ORDER, 0);
}

static double pin_1gb(void)
{
	return bench_pin(PGMAP_PUD_ORDER, PGMAP_PUD_ORDER);
}

static double create_ms(uint64_t gb)
{
	double t0 = bench_ms(CLOCK_MONOTONIC);
	struct pgmap *map = core_map(gb * GB_PAGES, 0);

	if (!map)
		return -1;
	core_map_drop(map);
	return bench_ms(CLOCK_MONOTONIC) - t0;
}

static double create_kb(uint64_t gb)
{
	uint64_t before = bench_resident();
	struct pgmap *map = core_map(gb * GB_PAGES, 0);
	double kb = (double)bench_grown_since(before) / 1024;

	if (!map)
		return -1;
	core_map_drop(map);
	return kb;
}

#define CREATE(name, gb)                                                       \
	static double create_##name##_ms(void)                                 \
	{                                                                      \
		return create_ms(gb);                                          \
	}                                                                      \
	static double create_##name##_kb(void)                                 \
	{                                                                      \
		return create_kb(gb);                                          \
	}
CREATE(1gb, 1)
CREATE(16gb, 16)
CREATE(128gb, 128)
CREATE(1tb, 1024)
CREATE(16tb, 16384)
#undef CREATE

/* Goals: 0 where nobody has set one. */
static const struct row {
	const char *what, *unit;
	double goal;
	double (*fn)(void);
} rows[] = {
	{"hand-out + free of a page", "ns", 50, page_1},
	{"  2 threads", "ns", 50, page_2},
	{"hand-out + free of 2 MB", "ns", 0, folio_2mb},
	{"get + put", "ns", 0, get_put_1},
	{"  2 threads, same folio", "ns", 0, get_put_2_same},
	{"  2 threads, a folio each", "ns", 0, get_put_2_other},
	{"lookup + put among 64 maps", "ns", 0, lookup_1},
	{"  2 threads", "ns", 0, lookup_2},
	{"pin + unpin 16 GB in 2 MB", "us", 1000, pin_2mb},
	{"  of a map of 4 KB pages", "us", 1000, pin_2mb_of_pages},
	{"pin + unpin 16 GB in 1 GB", "us", 1000, pin_1gb},
	{"create + destroy 1 GB", "ms", 1, create_1gb_ms},
	{"create + destroy 16 GB", "ms", 1, create_16gb_ms},
	{"create + destroy 128 GB", "ms", 1, create_128gb_ms},
	{"create + destroy 1 TB", "ms", 1, create_1tb_ms},
	{"create + destroy 16 TB", "ms", 1, create_16tb_ms},
	{"metadata of 1 GB, unused", "KB", 1024, create_1gb_kb},
	{"metadata of 16 GB, unused", "KB", 1024, create_16gb_kb},
	{"metadata of 128 GB, unused", "KB", 1024, create_128gb_kb},
	{"metadata of 1 TB, unused", "KB", 1024, create_1tb_kb},
	{"metadata of 16 TB, unused", "KB", 1024, create_16tb_kb},
};
#define NR_ROWS (sizeof(rows) / sizeof(rows[0]))

/* Rows of one thing begin with spaces, for people only. */
static void print_json(size_t row, const double *v)
{
	const struct row *r = &rows[row], *of = r;

	while (of->what[0] == ' ')
		of--;
	printf("  {\"what\": \"%s%s%s\", \"unit\": \"%s\", \"median\": %.4f, "
	       "\"min\": %.4f, \"max\": %.4f, \"goal\": ",
	       of->what, r == of ? "" : ",", r == of ? "" : r->what + 1,
	       r->unit, v[CORE_RUNS / 2], v[0], v[CORE_RUNS - 1]);
	if (r->goal > 0)
		printf("%g", r->goal);
	else
		printf("null");
	printf(", \"took_turns\": %s}%s\n", took_turns ? "true" : "false",
	       row == NR_ROWS - 1 ? "" : ",");
}

static void print_row(size_t row, const double *v)
{
	const struct row *r = &rows[row];

	printf("%-28s %10.3f %10.3f %10.3f %-4s", r->what, v[CORE_RUNS / 2],
	       v[0], v[CORE_RUNS - 1], r->unit);
	if (r->goal > 0)
		printf(" < %g", r->goal);
	printf("%s\n", took_turns ? " (no: the machine is too busy)" : "");
}

int bench_core(bool json)
{
	if (pgmap_allocator_create(&allocator)) {
		fprintf(stderr, "pgmap: bench core: no memory\n");
		return 1;
	}
	if (json)
		printf("[\n");
	else
		printf("medians of %d runs\n%-28s %10s %10s %10s %-4s goal\n",
		       CORE_RUNS, "", "median", "min", "max", "");
	for (size_t row = 0; row < NR_ROWS; row++) {
		double v[CORE_RUNS];

		took_turns = false;
		if (isatty(2))
			fprintf(stderr, "\r%-40s\r", rows[row].what);
		for (int i = 0; i < CORE_RUNS; i++) {
			v[i] = rows[row].fn();
			if (v[i] < 0) {
				fprintf(stderr,
					"pgmap: bench core: %s: no memory for "
					"a page map; is RLIMIT_AS set?\n",
					rows[row].what);
				return 1;
			}
		}
		qsort(v, CORE_RUNS, sizeof(v[0]), bench_by_value);
		if (json)
			print_json(row, v);
		else
			print_row(row, v);
		fflush(stdout);
	}
	if (json)
		printf("]\n");
	pgmap_allocator_destroy(allocator);
	return 0;
}
