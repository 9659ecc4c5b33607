/* SPDX-License-Identifier: BSD-3-Clause */
/* pgmap_migrate() to the mirror device and back, beside memcpy. */
#include <pgmap/pgmap.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "bench/bench.h"

#define PAGE ((size_t)4096)
#define HUGE ((size_t)2 << 20)
#define ROUNDS 9
#define GOAL 0.8
/* What has left must be at hand for what comes, so that memory is moved and not
 * asked from the kernel: as buffers, a sixteenth of the budget. */
#define RAM_TIMES 16
#define RAM_MIN ((uint64_t)128 << 20)

struct bench {
	struct pgmap_mm *mm;
	char *p, *from, *to; /* what moves; what is copied */
	size_t size;
	uint64_t nr; /* of this round */
};

/* What one way took, beside a memcpy next to it. */
struct way {
	double gb_s[ROUNDS], ratio[ROUNDS];
};

static uint64_t word(size_t page, uint64_t round)
{
	return page * 0x9e3779b97f4a7c15u + round;
}

/* Every page changes, so that every page has to be copied. */
static void change(const struct bench *b)
{
	for (size_t i = 0; i < b->size / PAGE; i++) {
		uint64_t w = word(i, b->nr);

		memcpy(b->p + i * PAGE + i % 511 * 8, &w, sizeof(w));
	}
}

static bool is_as_written(const struct bench *b)
{
	for (size_t i = 0; i < b->size / PAGE; i++) {
		uint64_t w;

		memcpy(&w, b->p + i * PAGE + i % 511 * 8, sizeof(w));
		if (w != word(i, b->nr))
			return false;
	}
	return true;
}

static double copy_ms(const struct bench *b)
{
	double began = bench_ms(CLOCK_MONOTONIC);

	memcpy(b->to, b->from, b->size);
	return bench_ms(CLOCK_MONOTONIC) - began;
}

/* Return: ms, or negative: not all of it has moved. */
static double move_ms(const struct bench *b, bool to_device)
{
	double began = bench_ms(CLOCK_MONOTONIC), ms;
	size_t moved;
	int ret = pgmap_migrate(b->mm, b->p, b->size, to_device, &moved);

	ms = bench_ms(CLOCK_MONOTONIC) - began;
	if (!ret && moved == b->size)
		return ms;
	fprintf(stderr,
		"pgmap: bench migrate: %zu of %zu bytes have moved to %s\n",
		moved, b->size, to_device ? "the device" : "RAM");
	return -1;
}

static bool run_round(struct bench *b, struct way way[2], int i)
{
	b->nr++;
	change(b);
	for (int k = 0; k < 2; k++) {
		double copy = copy_ms(b), ms = move_ms(b, k == 0);

		if (ms < 0)
			return false;
		if (i < 0)
			continue; /* the first time, memory comes from the
				   * kernel */
		way[k].gb_s[i] = (double)b->size / 1e6 / ms;
		way[k].ratio[i] = copy / ms;
	}
	if (is_as_written(b))
		return true;
	fprintf(stderr, "pgmap: bench migrate: other bytes came back\n");
	return false;
}

static bool run_rounds(struct bench *b, struct way way[2])
{
	for (int i = -1; i < ROUNDS; i++)
		if (!run_round(b, way, i))
			return false;
	return true;
}

static void print(const struct bench_lines *t, uint64_t folio, size_t size,
		  struct way way[2])
{
	static const char *const to[] = {"to the mirror", "back to RAM"};
	char folio_text[BENCH_SIZE], size_text[BENCH_SIZE], what[64];

	for (int k = 0; k < 2; k++) {
		double *v = way[k].gb_s, *r = way[k].ratio;

		qsort(v, ROUNDS, sizeof(*v), bench_by_value);
		qsort(r, ROUNDS, sizeof(*r), bench_by_value);
		snprintf(what, sizeof(what), "%s in %s, %s",
			 bench_size(size_text, size),
			 bench_size(folio_text, folio), to[k]);
		bench_line(t,
			   &(struct bench_line){
				   .what = what,
				   .median = v[ROUNDS / 2],
				   .low = v[0],
				   .high = v[ROUNDS - 1],
				   .of = "memcpy",
				   .ratio = r[ROUNDS / 2],
				   .goal = folio == HUGE && size >= HUGE ? GOAL
									 : 0});
	}
}

static bool measure(const struct bench_lines *t, uint64_t folio, size_t size)
{
	char device[32], error[256];
	struct pgmap_mm_config config = {
		.size = sizeof(config),
		.ram = RAM_TIMES * size + RAM_MIN,
		.device = device,
		.folio_size = folio,
	};
	struct bench b = {.size = size};
	struct way way[2];
	bool ok = false;

	snprintf(device, sizeof(device), "mirror:keep=%zu", size);
	if (pgmap_mm_create(&config, &b.mm, error, sizeof(error))) {
		fprintf(stderr, "pgmap: bench migrate: %s\n", error);
		return false;
	}
	/* Huge pages where the folios are as large. */
	b.p = bench_map_memory(size, folio == HUGE);
	b.from = bench_map_memory(size, true);
	b.to = bench_map_memory(size, true);
	if (b.p && b.from && b.to && !pgmap_mm_adopt(b.mm, b.p, size)) {
		memset(b.p, 1, size);
		memset(b.from, 2, size);
		memset(b.to, 3, size);
		ok = run_rounds(&b, way);
	} else {
		fprintf(stderr, "pgmap: bench migrate: no memory\n");
	}
	pgmap_mm_destroy(b.mm);
	bench_unmap(b.p, size);
	bench_unmap(b.from, size);
	bench_unmap(b.to, size);
	if (ok)
		print(t, folio, size, way);
	return ok;
}

int bench_migrate(bool json, uint64_t only)
{
	static const uint64_t some[] = {512 << 10, 2 << 20, 16 << 20, 64 << 20,
					256 << 20};
	static const uint64_t folios[] = {4 << 10, 64 << 10, 2 << 20};
	const uint64_t *sizes = only ? &only : some;
	size_t nr = only ? 1 : sizeof(some) / sizeof(some[0]);
	const struct bench_lines t = {
		.json = json,
		.title = "pgmap_migrate(), SIZE in folios of SIZE; 9 rounds, "
			 "each beside a memcpy of as much",
		.unit = "GB/s",
		.low = "min",
		.high = "max",
	};

	bench_lines_begin(&t);
	for (size_t f = 0; f < sizeof(folios) / sizeof(folios[0]); f++)
		for (size_t s = 0; s < nr; s++)
			if (!measure(&t, folios[f], sizes[s]))
				return 1;
	bench_lines_end(&t);
	return 0;
}
