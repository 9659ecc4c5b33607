/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * stat.h - counting. The list of counters is in pgmap/stat.h.
 */
#ifndef PG_STAT_H
#define PG_STAT_H

#include <pgmap/stat.h>

#include "base/atomic.h"

/** struct pg_stat - The live counters; atomic, relaxed: nothing depends on
 * them but people. May lie in memory shared between processes. */
struct pg_stat {
#define X(name, unit, doc) pg_atomic64 name;
	PGMAP_COUNTERS(X)
	PGMAP_GAUGES(X)
#undef X
	pg_atomic64 fault_hist[PGMAP_HIST_BUCKETS];
};

#define pg_count(st, name, n) ((void)pg_fetch_add(&(st)->name, n, relaxed))

/** pg_gauge_raise() - Set a peak to @v if that is more. */
static inline void pg_gauge_raise(pg_atomic64 *peak, uint64_t v)
{
	uint64_t old = pg_load(peak, relaxed);

	while (old < v && !pg_cas(peak, &old, v, relaxed))
		;
}

/** pg_stat_copy() - A snapshot; @out->size bytes of it. Return: 0, or -EINVAL
 * if that is 0 or not a multiple of 8. */
int pg_stat_copy(const struct pg_stat *st, struct pgmap_stat *out);

#endif
