/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pagemap.h - page maps: who owns which device pages.
 *
 * A map is a place in a fixed table that is never freed, so a reader that
 * comes too late finds a dead map and not freed memory (R8). A zeroed place is
 * a dead map.
 *
 * References are counted by shards, each with a bit of its own that says that
 * the map lives: taking one and asking whether the map is dying are the same
 * atomic operation (R12), and threads do not meet in it (R22). A kill takes
 * the shards away one by one and adds what they counted to one exact counter;
 * who finds his shard gone drops his reference there.
 *
 * From a page number to its record leads an index of all ranges, sorted, in
 * two copies: while a writer changes one, readers use the other.
 */
#ifndef PG_PAGEMAP_H
#define PG_PAGEMAP_H

#include <pgmap/pgmap.h>

#include "base/atomic.h"
#include "base/shard.h"

#define PG_NR_MAPS 1024u

struct pgmap_folio;

struct pg_map_range {
	/* Written while the map is dead, read at any time: relaxed; what a
	 * reader finds counts only under a reference. */
	pg_atomic64 pfn, nr;
	/* The rest is set before the map is alive. */
	struct pgmap_folio *folios; /* never unmapped: see folio.h */
	/* A bit for each record: its pages are in a folio, or on their way
	 * into one or out. seq_cst: partners in pg_pfn_poison() and
	 * pgmap_folio_wait_idle(). */
	pg_atomic64 *claims;
	pg_atomic64 *bad;   /* a bit for each page: poisoned; seq_cst */
	pg_atomic64 nr_bad; /* at least as many as bits are set; seq_cst */
};

struct pg_map_shard {
	_Alignas(64) pg_atomic64 refs; /* live bit, references << 1 */
};

enum pg_map_state {
	PG_MAP_FREE,	/* a place for a map */
	PG_MAP_LIVE,	/* alive, or just being made */
	PG_MAP_KILLING, /* some of its shards are gone */
	PG_MAP_DEAD,	/* all are */
	PG_MAP_GOING	/* its end waits for the last reference */
};

struct pgmap {
	/* enum pg_map_state. LOCK_PAGEMAP to leave and enter FREE; else CAS,
	 * acq_rel. Sleepers wait for the end of KILLING. */
	pg_atomic32 state;
	pg_atomic32 drained; /* bumped when a dead map's last ref goes */
	/* References of a dead map; before that, a bias and what was dropped
	 * while the kill went on. acq_rel. */
	pg_atomic64 exact;
	/* Set before it is alive. */
	enum pgmap_type type;
	uint32_t nr_range;
	uint32_t folio_order;
	uint64_t reserve;
	struct pgmap_ops ops;
	void *owner;
	void *data;
	struct pg_map_range range[PGMAP_MAX_RANGES];
	struct pg_map_shard shard[PG_NR_SHARDS];
};

/** pg_map_tryget_live() - Take @n references, unless the map is dying. */
bool pg_map_tryget_live(struct pgmap *map, uint64_t n);
/** pg_map_tryget() - Take a reference, of a dying map too, unless it has none
 * left: then each page of it is idle. */
bool pg_map_tryget(struct pgmap *map);
/** pg_map_put_many() - Drop @n references. */
void pg_map_put_many(struct pgmap *map, uint64_t n);
/** pg_map_refs() - References held; exact when nobody takes or drops one. */
uint64_t pg_map_refs(const struct pgmap *map);
/** pg_map_id() - The number of a map, 1..PG_NR_MAPS; pg_map_of() reverses. */
uint32_t pg_map_id(const struct pgmap *map);
struct pgmap *pg_map_of(uint32_t id);

/* The caller of what follows holds a reference on the map or a page of it. */

/** pg_map_range_of() - The range that has @pfn, or NULL. */
static inline struct pg_map_range *pg_map_range_of(struct pgmap *map,
						   uint64_t pfn)
{
	for (uint32_t i = 0; i < PGMAP_MAX_RANGES; i++) {
		struct pg_map_range *r = &map->range[i];
		uint64_t first = pg_load(&r->pfn, relaxed);

		if (pfn >= first && pfn - first < pg_load(&r->nr, relaxed))
			return r;
	}
	return NULL;
}

/** pg_map_folio() - The record of @pfn, or NULL outside the map. */
struct pgmap_folio *pg_map_folio(const struct pgmap *map, uint64_t pfn);
/** pg_map_head() - The folio that page @pfn belongs to. The caller knows that
 * the folio is handed out and stays so. */
struct pgmap_folio *pg_map_head(const struct pgmap *map, uint64_t pfn);
/** pg_map_is_reserved() - Is @pfn of the device's own pages (R18)? */
bool pg_map_is_reserved(const struct pgmap *map, uint64_t pfn);

/** pg_range_claim() - Claim records [@i, @i + @n), all or none. Return: 0 or
 * -EBUSY: somebody has one of them. */
int pg_range_claim(struct pg_map_range *r, uint64_t i, uint64_t n);
void pg_range_unclaim(struct pg_map_range *r, uint64_t i, uint64_t n);
bool pg_range_is_claimed(const struct pg_map_range *r, uint64_t i);

/** struct pg_place - Where the records of a range of some map are. */
struct pg_place {
	uint64_t first;		    /* pfn */
	struct pgmap_folio *folios; /* of it and what follows */
	uint32_t order;		    /* pages a record, as a power of two */
	uint32_t map;		    /* its number */
};

/** pg_map_find() - The range that has @pfn, of a map alive or dead. Context:
 * any; lock-free. By the time it returns the map may be gone, but not the
 * memory of the records. */
bool pg_map_find(uint64_t pfn, struct pg_place *place);

#endif
