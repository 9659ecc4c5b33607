/* SPDX-License-Identifier: BSD-3-Clause */
/* A page map of 1 TB: made, used here and there, destroyed. */
#include <inttypes.h>
#include <pgmap/pgmap.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench/bench.h"

#define TB ((uint64_t)1 << 40)
#define PAGE 4096u
#define RUNS 3

/* The driver of the map that is measured: pages are chosen by the caller. */
static void drop_free(struct pgmap_folio *folio)
{
	(void)folio;
}

static const struct pgmap_ops ops = {
	.size = sizeof(ops),
	.folio_free = drop_free,
	.migrate_to_ram = bench_no_fault,
};

enum pattern { EMPTY, EVERY_512TH, RANDOM_1_PERCENT, NR_PATTERNS };

static const char *const pattern_name[NR_PATTERNS] = {
	"empty", "every 512th page", "1 % of pages at random"};

struct result {
	double create_ms, use_ms, destroy_ms;
	uint64_t used_pages, bytes;
};

static bool use_page(struct pgmap *map, uint64_t pfn)
{
	struct pgmap_folio *folio;

	if (pgmap_get_folio(map, pfn, 0, &folio))
		return false;
	pgmap_folio_unlock(folio);
	pgmap_folio_put(folio);
	return true;
}

/* Return: pages that were handed out, or 0 on failure. */
static uint64_t use_pages(struct pgmap *map, const struct pgmap_range *r,
			  enum pattern pattern)
{
	uint64_t seed = 0x9e3779b97f4a7c15u, used = 0;

	if (pattern == EVERY_512TH) {
		for (uint64_t i = 0; i < r->nr; i += 512, used++)
			if (!use_page(map, r->pfn + i))
				return 0;
	} else if (pattern == RANDOM_1_PERCENT) {
		for (; used < r->nr / 100; used++) {
			seed ^= seed << 13;
			seed ^= seed >> 7;
			seed ^= seed << 17;
			if (!use_page(map, r->pfn + seed % r->nr))
				return 0;
		}
	}
	return used;
}

static bool measure(enum pattern pattern, struct result *out)
{
	static int owner;
	struct pgmap_desc desc = {
		.size = sizeof(desc),
		.type = PGMAP_PRIVATE,
		.nr_range = 1,
		.range = {{.nr = TB / PAGE}},
		.ops = &ops,
		.owner = &owner,
	};
	uint64_t before = bench_resident();
	double t0 = bench_ms(CLOCK_MONOTONIC), t1, t2;
	struct pgmap_range r;
	struct pgmap *map;

	if (pgmap_create(&desc, &map))
		return false;
	t1 = bench_ms(CLOCK_MONOTONIC);
	pgmap_range_get(map, 0, &r);
	out->used_pages = use_pages(map, &r, pattern);
	t2 = bench_ms(CLOCK_MONOTONIC);
	out->bytes = bench_grown_since(before);
	out->create_ms = t1 - t0;
	out->use_ms = t2 - t1;
	t2 = bench_ms(CLOCK_MONOTONIC);
	pgmap_destroy(map);
	out->destroy_ms = bench_ms(CLOCK_MONOTONIC) - t2;
	return pattern == EMPTY || out->used_pages;
}

static int by_total(const void *a, const void *b)
{
	const struct result *x = a, *y = b;
	double d = (x->create_ms + x->use_ms + x->destroy_ms) -
		   (y->create_ms + y->use_ms + y->destroy_ms);

	return (d > 0) - (d < 0);
}

static void print(const char *name, const struct result *r, bool json,
		  bool last)
{
	double per_page =
		r->used_pages ? (double)r->bytes / (double)r->used_pages : 0;

	if (json) {
		printf("  {\"pattern\": \"%s\", \"create_ms\": %.4f, "
		       "\"use_ms\": %.3f, \"destroy_ms\": %.4f, "
		       "\"used_pages\": %" PRIu64 ", \"bytes\": %" PRIu64
		       ", \"bytes_per_used_page\": %.1f}%s\n",
		       name, r->create_ms, r->use_ms, r->destroy_ms,
		       r->used_pages, r->bytes, per_page, last ? "" : ",");
		return;
	}
	printf("%-24s %10.3f %10.1f %10.3f %12" PRIu64 " %10.2f %10.1f\n", name,
	       r->create_ms, r->use_ms, r->destroy_ms, r->used_pages,
	       (double)r->bytes / 1048576.0, per_page);
}

/* The median of RUNS runs of each pattern. */
int bench_map(bool json)
{
	if (json)
		printf("[\n");
	else
		printf("page map of 1 TB, medians of %d runs\n"
		       "%-24s %10s %10s %10s %12s %10s %10s\n",
		       RUNS, "pages used", "create ms", "use ms", "destroy ms",
		       "used pages", "MB", "B/page");
	for (int p = 0; p < NR_PATTERNS; p++) {
		struct result r[RUNS];

		for (int i = 0; i < RUNS; i++) {
			if (isatty(2))
				fprintf(stderr, "\r%s: run %d of %d ",
					pattern_name[p], i + 1, RUNS);
			if (!measure((enum pattern)p, &r[i])) {
				fprintf(stderr, "pgmap: bench map: no memory "
						"for a page map of 1 TB; is "
						"RLIMIT_AS set?\n");
				return 1;
			}
		}
		if (isatty(2))
			fprintf(stderr, "\r%40s\r", "");
		qsort(r, RUNS, sizeof(r[0]), by_total);
		print(pattern_name[p], &r[RUNS / 2], json,
		      p == NR_PATTERNS - 1);
		fflush(stdout);
	}
	if (json)
		printf("]\n");
	return 0;
}
