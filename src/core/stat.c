/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/stat.h"

#include <errno.h>
#include <string.h>

int pg_stat_copy(const struct pg_stat *st, struct pgmap_stat *out)
{
	struct pgmap_stat all = {.size = out->size};

	if (!out->size || out->size % sizeof(uint64_t))
		return -EINVAL;
#define X(name, unit, doc) all.name = pg_load(&st->name, relaxed);
	PGMAP_COUNTERS(X)
	PGMAP_GAUGES(X)
#undef X
	for (int b = 0; b < PGMAP_HIST_BUCKETS; b++)
		all.fault_hist[b] = pg_load(&st->fault_hist[b], relaxed);
	if (out->size > sizeof(all))
		memset((char *)out + sizeof(all), 0, out->size - sizeof(all));
	memcpy(out, &all, out->size < sizeof(all) ? out->size : sizeof(all));
	return 0;
}
