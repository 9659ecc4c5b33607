/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/folio.h"

#include <errno.h>

#include "base/bug.h"
#include "base/lock.h"
#include "base/mutant.h"
#include "core/pagemap.h"

#define F_LOCKED 1u
#define F_WAITED 2u /* somebody sleeps for the lock */
#define F_HEAD 4u   /* handed out; stays while the count is frozen */
#define F_ORDER_SHIFT 8
#define F_ORDER_MASK 0xf00u
#define F_MAP_SHIFT 16

unsigned int pgmap_folio_order(const struct pgmap_folio *folio)
{
	return (pg_load(&folio->flags, relaxed) & F_ORDER_MASK) >>
	       F_ORDER_SHIFT;
}

uint32_t pgmap_folio_count(const struct pgmap_folio *folio)
{
	return pg_load(&folio->count, relaxed);
}

struct pgmap *pgmap_folio_map(const struct pgmap_folio *folio)
{
	return pg_map_of(pg_load(&folio->flags, relaxed) >> F_MAP_SHIFT);
}

uint64_t pgmap_folio_pfn(const struct pgmap_folio *folio)
{
	struct pgmap *map = pgmap_folio_map(folio);

	for (uint32_t i = 0; i < map->nr_range; i++) {
		struct pg_map_range *r = &map->range[i];

		if (folio >= r->folios &&
		    folio < r->folios + pg_load(&r->nr, relaxed))
			return pg_load(&r->pfn, relaxed) +
			       (uint64_t)(folio - r->folios);
	}
	pg_bug("folio outside its map", __FILE__, __LINE__);
}

struct pgmap_folio *pg_map_head(const struct pgmap *map, uint64_t pfn)
{
	struct pgmap_folio *page = pg_map_folio(map, pfn);

	pg_bug_on(!page);
	/* The one head whose run has the page; tails are no heads. */
	for (unsigned int o = 0; o <= PGMAP_MAX_ORDER; o++) {
		uint64_t in = pfn & (((uint64_t)1 << o) - 1);
		struct pgmap_folio *folio = page - in;

		if (pg_load(&folio->flags, relaxed) & F_HEAD &&
		    ((uint64_t)1 << pgmap_folio_order(folio)) > in)
			return folio;
	}
	pg_bug("page of no folio", __FILE__, __LINE__);
}

int pgmap_get_folio(struct pgmap *map, uint64_t pfn, unsigned int order,
		    struct pgmap_folio **out)
{
	struct pgmap_folio *folio;
	uint64_t nr = (uint64_t)1 << order;
	uint32_t zero = 0;

	if (order > PGMAP_MAX_ORDER || pfn & (nr - 1))
		return -EINVAL;
	if (!pg_map_tryget_live(map, nr))
		return -ENODEV;
	folio = pg_map_folio(map, pfn);
	if (!folio || pg_map_folio(map, pfn + nr - 1) != folio + nr - 1) {
		pg_map_put_many(map, nr);
		return -EINVAL;
	}
	/* R33: exclusive. Nobody else can see the page before it is mapped
	 * somewhere, so what follows needs no order beyond the acquire. */
	if (pg_mutant("increment_then_look")) {
		if (pg_fetch_add(&folio->count, 1, acquire) != 0)
			goto err_busy;
	} else if (!pg_cas(&folio->count, &zero, 1, acquire)) {
		goto err_busy;
	}
	/* R35: whatever the last life left in the words of the head. */
	if (pg_mutant("stale_order"))
		order = pgmap_folio_order(folio);
	pg_store(&folio->flags,
		 (pg_mutant("handed_out_unlocked") ? 0 : F_LOCKED) | F_HEAD |
			 order << F_ORDER_SHIFT | pg_map_id(map) << F_MAP_SHIFT,
		 release);
	pg_bug_on(pg_load(&folio->mapcount, relaxed) != 0);
	if (!pg_mutant("stale_mapping")) {
		folio->mapping = 0;
		folio->index = 0;
	}
	*out = folio;
	return 0;

err_busy:
	if (!pg_mutant("refusal_keeps_references"))
		pg_map_put_many(map, nr);
	return -EBUSY;
}

bool pgmap_folio_tryget(struct pgmap_folio *folio)
{
	uint32_t v = pg_load(&folio->count, relaxed);

	do {
		if (!v && !pg_mutant("tryget_takes_idle"))
			return false;
		if (pg_mutant("dying_map_stops_holders") &&
		    pgmap_is_dying(pgmap_folio_map(folio)))
			return false;
	} while (!pg_cas(&folio->count, &v, v + 1, acquire));
	return true;
}

void pgmap_folio_get(struct pgmap_folio *folio)
{
	uint32_t was = pg_fetch_add(&folio->count, 1, relaxed);

	pg_bug_on(was == 0 || was == UINT32_MAX); /* R55 */
}

/* The count is 0 and the folio is not on a free list yet: ours alone. */
static void free_folio(struct pgmap_folio *folio)
{
	struct pgmap *map = pgmap_folio_map(folio);
	uint64_t nr = (uint64_t)1 << pgmap_folio_order(folio);

	pg_bug_on(pg_load(&folio->mapcount, relaxed) != 0);
	if (!pg_mutant("stale_mapping"))
		folio->mapping = 0;
	pg_fetch_and(&folio->flags, ~F_HEAD, relaxed);
	if (!pg_mutant("free_untold"))
		map->ops.folio_free(folio);
	/* From here on the folio may be somebody else's (R38, R40): only what
	 * was saved above may be used. */
	if (pg_mutant("reset_after_free"))
		pg_store(&folio->count, 1, relaxed);
	if (pg_mutant("pgmap_read_after_free")) {
		map = pgmap_folio_map(folio);
		nr = (uint64_t)1 << pgmap_folio_order(folio);
	}
	pg_map_put_many(map, pg_mutant("one_reference_dropped") ? 1 : nr);
}

void pg_folio_put_many(struct pgmap_folio *folio, uint32_t n)
{
	uint32_t was = pg_fetch_sub(&folio->count, n, acq_rel);

	pg_bug_on(was < n && !pg_mutant("underflow_unnoticed")); /* R55 */
	if (was == n)
		free_folio(folio);
}

void pgmap_folio_put(struct pgmap_folio *folio)
{
	pg_folio_put_many(folio, 1);
}

bool pg_folio_freeze(struct pgmap_folio *folio, uint32_t expected)
{
	if (pg_mutant("freeze_is_lenient"))
		expected = pg_load(&folio->count, relaxed);
	return pg_cas(&folio->count, &expected,
		      pg_mutant("freeze_keeps_the_count") ? expected : 0,
		      acq_rel);
}

void pg_folio_unfreeze(struct pgmap_folio *folio, uint32_t count)
{
	pg_store(&folio->count, count, release);
}

bool pgmap_folio_trylock(struct pgmap_folio *folio)
{
	return !(pg_fetch_or(&folio->flags, F_LOCKED, acquire) & F_LOCKED);
}

bool pg_folio_is_locked(const struct pgmap_folio *folio)
{
	return pg_load(&folio->flags, relaxed) & F_LOCKED;
}

void pg_folio_wait_unlocked(struct pgmap_folio *folio)
{
	uint32_t v = pg_load(&folio->flags, relaxed);

	while (v & F_LOCKED) {
		if (!(v & F_WAITED) &&
		    !pg_cas(&folio->flags, &v, v | F_WAITED, relaxed))
			continue;
		pg_wait(&folio->flags, v | F_WAITED, 0);
		v = pg_load(&folio->flags, relaxed);
	}
}

void pg_folio_lock(struct pgmap_folio *folio)
{
	while (!pgmap_folio_trylock(folio))
		pg_folio_wait_unlocked(folio);
}

void pgmap_folio_unlock(struct pgmap_folio *folio)
{
	uint32_t was =
		pg_fetch_and(&folio->flags, ~(F_LOCKED | F_WAITED), release);

	pg_bug_on(!(was & F_LOCKED));
	if (was & F_WAITED)
		pg_wake(&folio->flags);
}
