/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * scenario_dax.c - who maps, pins and truncates the pages of a DAX file.
 *
 * One file with one page of a device, one area that maps it. The file system
 * is two words: whether it has given the block to somebody else.
 */
#include <errno.h>
#include <string.h>

#include "base/lock.h"
#include "core/dax.h"
#include "core/folio.h"
#include "core/gup.h"
#include "core/pagemap.h"
#include "core/space.h"
#include "explore/explore.h"

#define VA ((uintptr_t)1 << 30)

static struct pgmap *map;
static struct pg_dax dax;
static struct pg_dax_file file;
static struct pg_space space;
static uint64_t pfn;
/* The block is somebody else's. Plain: who looks at it must be ordered after
 * who gave it away, by the very protocol. */
static int given;
static struct pgmap_folio *other; /* it, as he holds it */

enum { PINNED, TRUNCATED };

static int get_block(struct pg_dax_file *f, uint64_t index, unsigned int order,
		     bool write, struct pg_dax_block *block)
{
	(void)f;
	(void)write;
	if (given || index || order)
		return -EIO;
	*block = (struct pg_dax_block){.pfn = pfn, .nr = 1};
	return 0;
}

static int flush(struct pg_dax *d, uint64_t at, uint64_t nr)
{
	(void)d;
	(void)at;
	(void)nr;
	return 0;
}

static void one_page(void)
{
	static const struct pg_dax_ops ops = {
		.get_block = get_block,
		.flush = flush,
	};
	const struct pgmap_desc d = {
		.size = sizeof(d),
		.type = PGMAP_FS_DAX,
		.nr_range = 1,
		.range = {{0, PGMAP_SUBSECTION_PAGES}},
	};
	struct pgmap_range r;

	X_CHECK(!pgmap_create(&d, &map));
	X_CHECK(!pgmap_range_get(map, 0, &r));
	pfn = r.pfn;
	X_CHECK(!pg_dax_init(&dax, map, &ops, NULL));
	pg_dax_file_init(&file, &dax, 1, NULL);
	X_CHECK(!pg_space_init(&space));
	X_CHECK(!pg_space_map(&space, VA, 1, PG_AREA_DAX,
			      PG_AREA_READ | PG_AREA_WRITE | PG_AREA_SHARED,
			      &file.mapping, 0));
	x_ignore(space.rss, sizeof(space.rss));
}

static void one_mapped_page(void)
{
	one_page();
	X_CHECK(pg_touch(&space, VA, true, NULL) == PG_VM_NOPAGE);
	X_CHECK(pgmap_folio_count(pg_map_folio(map, pfn)) == 1);
}

/* Truncation: when the layout is broken the block is somebody else's. */
static void truncate_with(uint32_t flags)
{
	int ret;

	pg_write_lock(&file.mapping.invalidate, LOCK_INVALIDATE);
	ret = pg_break_layout(&file, 0, 1, flags, NULL);
	if (!ret) {
		X_CHECK(!pgmap_folio_count(pg_map_folio(map, pfn)));
		given = 1;
		X_CHECK(!pgmap_get_folio(map, pfn, 0, &other));
		pgmap_folio_unlock(other);
		x_note(TRUNCATED, 1);
	}
	X_CHECK(!ret || (flags & PG_BREAK_NOWAIT && ret == -EBUSY));
	pg_write_unlock(&file.mapping.invalidate, LOCK_INVALIDATE);
}

static void truncate_file(void)
{
	truncate_with(0);
}

static void truncate_unless_held(void)
{
	truncate_with(PG_BREAK_NOWAIT);
}

/* A device that reads the page for a while: it must be the file's. */
static void pin_page(void)
{
	struct pg_gup_run run;
	size_t n;

	if (pg_gup(&space, VA, 1, PG_GUP_PIN | PG_GUP_FAST_ONLY, &run, 1, &n))
		return;
	X_CHECK(!given);
	x_note(PINNED, 1);
	pg_gup_put(&run, n, PG_GUP_PIN);
}

static void unmap_area(void)
{
	pg_space_unmap(&space, VA, 1);
}

/* A store by a CPU: it must hit the file's block, or none. */
static void store(void)
{
	enum pg_fault_code code = pg_touch(&space, VA, true, NULL);

	X_CHECK(code == PG_VM_NOPAGE || code == PG_VM_SIGBUS);
}

static void truncated(void)
{
	struct pgmap_folio *f = pg_map_folio(map, pfn);

	if (!x_note(TRUNCATED, 0))
		truncate_file();
	X_CHECK(x_note(TRUNCATED, 0) == 1);
	X_CHECK(pgmap_folio_count(f) == 1);
	pgmap_folio_put(other);
	X_CHECK(!pgmap_folio_count(f));
	X_CHECK(!pgmap_folio_mapcount(f));
	X_CHECK(!pgmap_folio_pins(f));
	X_CHECK(!f->mapping);
	X_CHECK(!pg_map_refs(map));
}

X_SCENARIO(N29_break_layout_and_pin,
	   .what = "truncation of a mapped page, and who pins it by address",
	   .nr = 2, .setup = one_mapped_page, .body = {truncate_file, pin_page},
	   .check = truncated);
X_SCENARIO(N29_break_layout_and_unmap,
	   .what = "truncation of a mapped page, and munmap of it", .nr = 2,
	   .setup = one_mapped_page, .body = {truncate_file, unmap_area},
	   .check = truncated);
X_SCENARIO(N29_break_layout_pin_and_unmap,
	   .what = "truncation, a pin by address, and munmap, of one page",
	   .nr = 3, .setup = one_mapped_page,

	   .body = {truncate_unless_held, pin_page, unmap_area},
	   .check = truncated);

static void not_mapped_after(void)
{
	enum pg_level level;

	X_CHECK(!pg_entry_get(&space, VA, &level));
	truncated();
}

X_SCENARIO(N49_R154a_break_layout_and_fault,
	   .what = "truncation of a page, and who touches it", .nr = 2,
	   .setup = one_page, .body = {truncate_file, store},
	   .check = not_mapped_after);

X_SCENARIO(N29_N49_break_layout_fault_and_pin,
	   .what = "truncation of a mapped page, a pin, and who touches it",
	   .nr = 3, .setup = one_mapped_page,
	   .body = {truncate_unless_held, pin_page, store}, .check = truncated);

static void mapped_once(void)
{
	struct pgmap_folio *f = pg_map_folio(map, pfn);

	X_CHECK(pgmap_folio_count(f) == 1);
	X_CHECK(pgmap_folio_mapcount(f) == 1);
	X_CHECK(pg_load(&space.table.nr_gigs, relaxed) == 1);
	truncate_file();
	truncated();
}

X_SCENARIO(R140_two_faults_of_one_page,
	   .what = "two who touch a page of a file", .nr = 2, .setup = one_page,
	   .body = {store, store}, .check = mapped_once);
