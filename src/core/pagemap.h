/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pagemap.h - page maps: who owns which device pages.
 *
 * A map is a place in a fixed table that is never freed, so a reader that
 * comes too late finds a dead map and not freed memory (R8). Its references
 * are one counter whose top bit says that it is alive: taking one and asking
 * whether the map is dying are the same atomic operation (R12). A zeroed place
 * is a dead map.
 */
#ifndef PG_PAGEMAP_H
#define PG_PAGEMAP_H

#include <pgmap/pgmap.h>

#include "base/atomic.h"

#define PG_NR_MAPS 1024u

struct pgmap_folio;

struct pg_map_range {
	/* Written while the map is dead, read at any time: relaxed; what a
	 * reader finds counts only under a reference. */
	pg_atomic64 pfn, nr;
	struct pgmap_folio *folios; /* base/mem.h; set before it is alive */
};

struct pgmap {
	pg_atomic64 refs;    /* live bit + references; acq_rel */
	pg_atomic32 used;    /* LOCK_PAGEMAP; a place in use, dying included */
	pg_atomic32 drained; /* bumped when a dead map's last ref goes */
	enum pgmap_type type;
	uint32_t nr_range;
	struct pgmap_ops ops;
	void *owner;
	void *data;
	struct pg_map_range range[PGMAP_MAX_RANGES];
};

/** pg_map_tryget_live() - Take @n references, unless the map is dying. */
bool pg_map_tryget_live(struct pgmap *map, uint64_t n);
/** pg_map_put_many() - Drop @n references. */
void pg_map_put_many(struct pgmap *map, uint64_t n);
/** pg_map_refs() - References held. */
uint64_t pg_map_refs(const struct pgmap *map);
/** pg_map_id() - The number of a map, 1..PG_NR_MAPS; pg_map_of() reverses. */
uint32_t pg_map_id(const struct pgmap *map);
struct pgmap *pg_map_of(uint32_t id);
/** pg_map_folio() - The record of @pfn, or NULL outside the map. The caller
 * holds a reference on the map or a page of it. */
struct pgmap_folio *pg_map_folio(const struct pgmap *map, uint64_t pfn);
/** pg_map_head() - The folio that page @pfn belongs to. The caller knows that
 * the folio is handed out and stays so. */
struct pgmap_folio *pg_map_head(const struct pgmap *map, uint64_t pfn);

#endif
