/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * world.h - a page map, and an allocator of a page or two, for scenarios.
 *
 * What a page holds is plain memory, so two users who are not kept apart are a
 * data race; who owns a page is noted in x_note() too, by page.
 */
#ifndef EXPLORE_WORLD_H
#define EXPLORE_WORLD_H

#include <errno.h>
#include <pgmap/pgmap.h>

#include "base/lock.h"
#include "core/folio.h"
#include "core/pagemap.h"
#include "explore/explore.h"

#define W_PFN PGMAP_FIRST_DEVICE_PFN
#define W_PAGES PGMAP_SUBSECTION_PAGES

struct world {
	struct pgmap *map;
	struct pgmap_folio *folio[4]; /* those of the first pages */
	bool alive;		      /* the map's driver is there */
	uint32_t data[4];	      /* what a page holds */
	/* The driver's free list: pages of order 0. lock */
	struct pg_lock lock; /* LOCK_DRIVER */
	uint32_t nr_free;
	uint64_t free[4];
};

extern struct world w;

/** w_map() - Make the map of @type; one of PGMAP_PRIVATE has a driver. */
void w_map(enum pgmap_type type);
/** w_hold() - Hand the page @i out, of @order; unlocked. For setup(). */
struct pgmap_folio *w_hold(uint64_t i, unsigned int order);
/** w_put_on_list() - Page @i is free to be had by w_alloc(). */
void w_put_on_list(uint64_t i);
/** w_alloc() - A page of the list as a driver gets it: off the list, handed
 * out, unlocked. Return: NULL: none free, or the map is dying. */
struct pgmap_folio *w_alloc(void);
/** w_use() - The holder of @folio uses it. */
void w_use(struct pgmap_folio *folio);
/** w_all_idle() - Nothing is held any more; all of it can be destroyed. */
void w_all_idle(void);

#endif
