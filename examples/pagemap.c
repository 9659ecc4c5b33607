/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pagemap.c - a driver's page map: 1 GB of pages that the CPU cannot address,
 * handed out, shared, found again by number, cut, and given back.
 *
 *   cc pagemap.c $(pkg-config --cflags --libs pgmap) && ./a.out
 */
#include <errno.h>
#include <stdio.h>

#include <pgmap/pgmap.h>

static struct pgmap_allocator *allocator;

/* The last reference of a folio is gone: the driver may give it to others. */
static void folio_free(struct pgmap_folio *folio)
{
	pgmap_allocator_free(allocator, folio);
}

/* The CPU has touched a page: a real driver brings the bytes back here. */
static int migrate_to_ram(struct pgmap_fault *fault)
{
	(void)fault;
	return -EIO;
}

int main(void)
{
	static const struct pgmap_ops ops = {
		.size = sizeof(ops),
		.folio_free = folio_free,
		.migrate_to_ram = migrate_to_ram,
	};
	struct pgmap_desc desc = {
		.size = sizeof(desc),
		.type = PGMAP_PRIVATE,
		.nr_range = 1,
		.range = {{.nr = (1 << 30) / 4096}}, /* anywhere */
		.ops = &ops,
		.owner = &allocator,
	};
	struct pgmap_folio *folio, *same;
	struct pgmap *map;

	if (pgmap_create(&desc, &map) || pgmap_allocator_create(&allocator) ||
	    pgmap_allocator_add(allocator, map)) {
		fprintf(stderr, "no memory for a page map\n");
		return 1;
	}
	/* 2 MB: count 0 to 1, and locked while we fill it. */
	if (pgmap_allocator_get(allocator, PGMAP_PMD_ORDER, &folio))
		return 1;
	pgmap_folio_unlock(folio);
	printf("2 MB at page %#llx, count %u\n",
	       (unsigned long long)pgmap_folio_pfn(folio),
	       pgmap_folio_count(folio));

	/* Somebody else knows only the number of a page in it. */
	same = pgmap_tryget_pfn(pgmap_folio_pfn(folio) + 7);
	if (same != folio)
		return 1;
	printf("found by its 8th page, count %u\n", pgmap_folio_count(folio));
	pgmap_folio_put(same);

	/* Each piece comes locked, with a reference of ours. */
	if (!pgmap_folio_trylock(folio) ||
	    pgmap_split_folio(folio, PGMAP_PMD_ORDER - 1))
		return 1;
	same = pgmap_tryget_pfn(pgmap_folio_pfn(folio) + 256);
	printf("cut in two; the second has order %u\n",
	       pgmap_folio_order(same));
	pgmap_folio_put(same); /* what tryget took */
	pgmap_folio_unlock(same);
	pgmap_folio_put(same);
	pgmap_folio_unlock(folio);
	pgmap_folio_put(folio); /* 1 to 0: folio_free() */

	/* Waits until nobody holds a page. */
	pgmap_allocator_remove(allocator, map);
	pgmap_destroy(map);
	pgmap_allocator_destroy(allocator);
	return 0;
}
