/* SPDX-License-Identifier: BSD-3-Clause */
/* pgmap_migrate() to the mirror device and back, beside memcpy. */
#include <inttypes.h>
#include <pgmap/pgmap.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "bench/bench.h"
#include "out.h"

#define PAGE ((size_t)4096)
#define HUGE ((size_t)2 << 20)
#define ROUNDS 7
/* All that is measured fits: nothing is evicted. */
#define RAM ((uint64_t)1 << 32)

/* What one round took, in ms. */
struct round {
	double to_device, to_ram, copy;
};

struct bench {
	struct pgmap_mm *mm;
	char *p, *from, *to; /* what moves; what is copied */
	size_t size;
	uint64_t nr; /* of this round */
};

/* 2 MB aligned; in huge pages if they are what moves. NULL: no memory. */
static char *map(size_t size, bool huge)
{
	size_t len = size + HUGE;
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *at;

	if (p == MAP_FAILED)
		return NULL;
	at = p + (HUGE - (uintptr_t)p % HUGE) % HUGE;
	munmap(p, (size_t)(at - p));
	munmap(at + size, (size_t)(p + len - (at + size)));
	madvise(at, size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	memset(at, 1, size);
	return at;
}

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

static bool move(const struct bench *b, bool to_device, double *ms)
{
	double began = bench_ms(CLOCK_MONOTONIC);
	size_t moved;
	int ret = pgmap_migrate(b->mm, b->p, b->size, to_device, &moved);

	*ms = bench_ms(CLOCK_MONOTONIC) - began;
	if (!ret && moved == b->size)
		return true;
	fprintf(stderr,
		"pgmap: bench migrate: %zu of %zu bytes moved to %s\n", moved,
		b->size, to_device ? "the device" : "RAM");
	return false;
}

static bool run_round(struct bench *b, struct round *r)
{
	double began;

	b->nr++;
	change(b);
	began = bench_ms(CLOCK_MONOTONIC);
	memcpy(b->to, b->from, b->size);
	r->copy = bench_ms(CLOCK_MONOTONIC) - began;
	if (!move(b, true, &r->to_device) || !move(b, false, &r->to_ram))
		return false;
	if (is_as_written(b))
		return true;
	fprintf(stderr, "pgmap: bench migrate: other bytes came back\n");
	return false;
}

int bench_migrate(bool json, uint64_t only)
{
	static const uint64_t sizes[] = {512 << 10, 2 << 20, 16 << 20, 64<<20, 256 << 20};
	static const uint64_t folios[] = {4096, 65536, 2 << 20};
	(void)json;
	(void)only;
	for (int f = getenv("F") ? atoi(getenv("F")) : 0; f < 3; f++)
		for (int s = getenv("S") ? atoi(getenv("S")) : 0; s < 5; s++) {
			struct pgmap_mm_config config = {.size = sizeof(config),
							 .ram = RAM,
							 .device = getenv("D")?getenv("D"):"mirror",
							 .folio_size =
								 folios[f]};
			struct bench b = {.size = sizes[s]};
			char error[256];
			struct round r[ROUNDS + 1];
			double v[4][ROUNDS];

			if (pgmap_mm_create(&config, &b.mm, error,
					    sizeof(error))) {
				fprintf(stderr, "%s\n", error);
				return 1;
			}
			b.p = map(b.size, folios[f] == HUGE);
			b.from = map(b.size, true);
			b.to = map(b.size, true);
			pgmap_mm_adopt(b.mm, b.p, b.size);
			for (int i = 0; i <= ROUNDS; i++)
				if (!run_round(&b, &r[i]))
					return 1;
			for (int i = 0; i < ROUNDS; i++) {
				double gb = (double)b.size / 1e6;
				v[0][i] = gb / r[i + 1].copy;
				v[1][i] = gb / r[i + 1].to_device;
				v[2][i] = gb / r[i + 1].to_ram;
			}
			for (int i = 0; i < 3; i++)
				qsort(v[i], ROUNDS, sizeof(double),
				      bench_by_value);
			printf("folio %7lu size %9zu memcpy %6.2f out %6.2f "
			       "(%.2f) in %6.2f (%.2f)\n",
			       folios[f], b.size, v[0][3], v[1][3],
			       v[1][3] / v[0][3], v[2][3], v[2][3] / v[0][3]);
			pgmap_mm_destroy(b.mm);
			munmap(b.p, b.size);
			munmap(b.from, b.size);
			munmap(b.to, b.size);
		}
	return 0;
}
