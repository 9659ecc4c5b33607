/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * check.c - is a store sound? What opening it checks, and that the blocks are
 * just as the files have them, counted once more in another way.
 */
#include <errno.h>

#include "base/mem.h"
#include "dax/store.h"

#define BLOCK PGMAP_STORE_BLOCK

static void check_file(struct pgmap_file *f, uint32_t *owners,
		       struct pg_report *report)
{
	struct pgmap_store *s = f->store;
	uint64_t end = 0;
	uint32_t nr = 0;
	struct pg_extent e;

	for (uint64_t i = 0; pg_extents_next(&s->pool, &f->extents, i, &e);
	     i = e.index + e.nr, nr++) {
		if (e.index < end || !e.nr || e.block < s->blocks.first ||
		    e.block + e.nr > s->blocks.end) {
			pg_report(report, "file %u: its extents overlap",
				  pg_file_number(f));
			return;
		}
		end = e.index + e.nr;
		for (uint64_t k = 0; k < e.nr; k++)
			owners[e.block + k]++;
	}
	if (nr != f->extents.nr)
		pg_report(report, "file %u: has %u extents, not %u",
			  pg_file_number(f), nr, f->extents.nr);
}

static void check_blocks(struct pgmap_store *s, const uint32_t *owners,
			 struct pg_report *report)
{
	uint64_t free = 0, shared = 0;

	for (uint64_t i = s->blocks.first; i < s->blocks.end; i++) {
		bool is_free = pg_blocks_are_free(&s->blocks, i, 1);

		if (is_free != !owners[i] ||
		    (!is_free && s->blocks.more[i] + 1u != owners[i])) {
			pg_report(report, "block %lu: has %u owners, not %u", i,
				  owners[i],
				  is_free ? 0 : s->blocks.more[i] + 1u);
			return;
		}
		free += is_free;
		shared += owners[i] ? owners[i] - 1 : 0;
	}
	if (free != s->blocks.nr_free || shared != s->blocks.nr_shared)
		pg_report(report,
			  "%lu blocks are free and %lu shared, not "
			  "%lu and %lu",
			  free, shared, s->blocks.nr_free, s->blocks.nr_shared);
}

int pg_store_check(struct pgmap_store *s, struct pg_report *report)
{
	uint64_t bytes = s->blocks.end * sizeof(uint32_t), live = 0;
	uint32_t *owners = pg_mem_map(bytes);
	unsigned int before = report->nr;
	uint32_t nr = 0;

	if (!owners)
		return -ENOMEM;
	for (uint32_t n = 1; n < s->end_file; n++) {
		struct pgmap_file *f = s->files + n;

		if (f->state == PG_FILE_NONE)
			continue;
		check_file(f, owners, report);
		if (f->state != PG_FILE_NAMED)
			continue;
		nr++;
		live += pg_name_items(f->name_len) +
			(uint64_t)f->extents.nr * PG_ITEM_EXTENT_BYTES;
		if (pg_store_find(s, pg_file_name(f), f->name_len) != f)
			pg_report(report,
				  "file %u: its name does not lead to "
				  "it",
				  n);
	}
	if (nr != s->nr_files || live != s->live)
		pg_report(report, "%u files of %lu bytes, not %u of %lu", nr,
			  live, s->nr_files, s->live);
	check_blocks(s, owners, report);
	pg_mem_unmap(owners, bytes);
	return report->nr > before ? -EUCLEAN : 0;
}

int pgmap_store_check(struct pgmap_dax *dax,
		      void (*fn)(void *arg, const char *line), void *arg)
{
	struct pg_report report = {fn, arg, 0};
	struct pgmap_store *s;
	int ret;

	if (!dax)
		return -EINVAL;
	ret = pg_store_open(dax, &s, &report, true);
	if (ret)
		return ret;
	ret = pg_store_check(s, &report);
	pg_store_free(s);
	return ret ? ret : report.nr ? -EUCLEAN : 0;
}
