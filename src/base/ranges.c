/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/ranges.h"

#include <errno.h>
#include <string.h>

#include "base/mem.h"

int pg_ranges_init(struct pg_ranges *r, uint32_t max)
{
	r->range = pg_mem_map(max * sizeof(*r->range));
	r->nr = 0;
	r->max = r->range ? max : 0;
	return r->range ? 0 : -ENOMEM;
}

void pg_ranges_fini(struct pg_ranges *r)
{
	pg_mem_unmap(r->range, r->max * sizeof(*r->range));
	memset(r, 0, sizeof(*r));
}

uint32_t pg_ranges_find(const struct pg_ranges *r, uintptr_t addr)
{
	uint32_t lo = 0, hi = r->nr;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (r->range[mid].end <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Replace ranges [i, i + del) by @n others; n <= del + 2. */
static void splice(struct pg_ranges *r, uint32_t i, uint32_t del,
		   const struct pg_range *with, uint32_t n)
{
	memmove(&r->range[i + n], &r->range[i + del],
		(r->nr - i - del) * sizeof(*r->range));
	if (n)
		memcpy(&r->range[i], with, n * sizeof(*with));
	r->nr = r->nr - del + n;
}

/* What is left of the ranges in [start, end), with @mid between, if given. */
static int replace(struct pg_ranges *r, uintptr_t start, uintptr_t end,
		   const struct pg_range *mid)
{
	struct pg_range with[3];
	uint32_t i = pg_ranges_find(r, start), j = i, n = 0;

	while (j < r->nr && r->range[j].start < end)
		j++;
	if (i == j && !mid)
		return 0;
	if (i < j && r->range[i].start < start)
		with[n++] = (struct pg_range){r->range[i].start, start,
					      r->range[i].tag};
	if (mid)
		with[n++] = *mid;
	if (i < j && r->range[j - 1].end > end)
		with[n++] = (struct pg_range){end, r->range[j - 1].end,
					      r->range[j - 1].tag};
	if (r->nr - (j - i) + n > r->max)
		return -ENOSPC;
	splice(r, i, j - i, with, n);
	return 0;
}

static void join(struct pg_ranges *r, uint32_t i)
{
	struct pg_range *a = &r->range[i];

	if (i + 1 >= r->nr || a->end != a[1].start || a->tag != a[1].tag)
		return;
	a->end = a[1].end;
	splice(r, i + 1, 1, NULL, 0);
}

int pg_ranges_set(struct pg_ranges *r, uintptr_t start, uintptr_t end,
		  size_t tag)
{
	const struct pg_range mid = {start, end, tag};
	uint32_t i;

	if (start >= end)
		return 0;
	if (replace(r, start, end, &mid))
		return -ENOSPC;
	i = pg_ranges_find(r, start);
	join(r, i);
	if (i)
		join(r, i - 1);
	return 0;
}

void pg_ranges_clear(struct pg_ranges *r, uintptr_t start, uintptr_t end)
{
	if (start < end)
		replace(r, start, end, NULL);
}

bool pg_ranges_gap(const struct pg_ranges *r, uintptr_t *start, uintptr_t *stop,
		   uintptr_t end)
{
	uint32_t i = pg_ranges_find(r, *start);

	while (i < r->nr && r->range[i].start <= *start)
		*start = r->range[i++].end;
	*stop = end;
	if (i < r->nr && r->range[i].start < end)
		*stop = r->range[i].start;
	return *start < end;
}
