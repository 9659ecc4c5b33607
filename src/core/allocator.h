/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * allocator.h - the allocator of device pages for who has none of his own.
 *
 * A buddy allocator over page maps: free blocks of 2^order pages, aligned to
 * their size, from the map's folio order up; two halves become one as soon as
 * both are free. Pages that were never handed out are in no list: they lie
 * behind a mark, and their records stay untouched.
 *
 * In front of it blocks of the smallest order wait in shards, one for a few
 * threads, so that handing out and freeing a page touches nothing that all
 * share. A shard is entered by who finds it empty of others, for a few
 * instructions; who does not, goes to the next one. Never more than a hint is
 * lost by that, so nobody waits but who needs all of them: who finds no memory
 * anywhere else takes back what the shards have, which makes blocks whole.
 *
 * A page is handed out before the shard or the lock it came from is let go,
 * so that once a map is removed from under them all no page of it follows.
 */
#ifndef PG_ALLOCATOR_H
#define PG_ALLOCATOR_H

#include <pgmap/pgmap.h>

#include "base/lock.h"
#include "base/shard.h"
#include "core/pagemap.h"

#define PG_SHARD_BLOCKS 29u

/**
 * struct pg_alloc_shard - Free blocks at hand. Fields: who is inside.
 * @block: Blocks that came back; a block is its map's number << 40 | its pfn.
 * @run:   When there are none, the next of @nr_run blocks that follow each
 *         other: their records and claims are no other shard's neighbours.
 */
struct pg_alloc_shard {
	_Alignas(64) pg_atomic32 busy; /* acquire to enter, release to leave */
	uint32_t nr;
	uint64_t run;
	uint64_t nr_run;
	uint64_t block[PG_SHARD_BLOCKS];
};

/** struct pg_alloc_range - A range of a map. */
struct pg_alloc_range {
	uint64_t first;
	/* Pages from here on were never handed out. Lock to write; relaxed. */
	pg_atomic64 fresh;
	uint64_t end;
};

/** struct pg_alloc_map - A map's free blocks. Under the allocator's lock. */
struct pg_alloc_map {
	struct pgmap *map;
	struct pg_alloc_map *next;
	uint64_t *nr_free; /* the allocator's */
	bool live;	   /* in the list; to write: inside every shard too */
	uint32_t nr_range;
	unsigned int order;		    /* of its smallest folio */
	uint32_t orders;		    /* bit o: free[o] is not empty */
	uint64_t free[PGMAP_MAX_ORDER + 1]; /* pfn of the first, 0 none */
	uint64_t bad; /* smallest blocks with a bad page; as free */
	struct pg_alloc_range range[PGMAP_MAX_RANGES];
};

struct pgmap_allocator {
	struct pg_alloc_shard shard[PG_NR_SHARDS];
	struct pg_lock lock; /* LOCK_DEVICE: all that follows */
	pg_atomic32 order;   /* of the blocks in shards; inside all to write */
	struct pg_alloc_map *maps;
	uint64_t nr_free; /* pages in lists, and fresh */
	/* By pg_map_id(); stays until the end, for pages that come late. */
	struct pg_alloc_map *by_id[PG_NR_MAPS + 1];
};

/** pg_allocator_add_part() - As pgmap_allocator_add(), for the first @nr pages
 * of @map's ranges only. */
int pg_allocator_add_part(struct pgmap_allocator *a, struct pgmap *map,
			  uint64_t nr);
/** pg_allocator_used() - Pages of @map's first range that were ever touched:
 * those from there on are fresh. */
uint64_t pg_allocator_used(struct pgmap_allocator *a, const struct pgmap *map);
/** pg_allocator_check() - Is every free block free, whole, and there once?
 * @nr_free: Out: pages that could be handed out.
 * Return: NULL or the rule that is broken. */
const char *pg_allocator_check(struct pgmap_allocator *a, uint64_t *nr_free);

#endif
