/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/pagemap.h"

#include <errno.h>
#include <string.h>

#include "base/bug.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/mutant.h"
#include "core/folio.h"

/* Of a shard. The references above it may be less than none, where they were
 * taken on another: they count modulo 2^63. */
#define LIVE ((uint64_t)1)
/* Of the exact counter, until all shards are in it. */
#define BIAS ((uint64_t)1 << 62)

#define NR_PLACES (PG_NR_MAPS * PGMAP_MAX_RANGES)
#define PAGE 4096u

static struct pgmap maps[PG_NR_MAPS];
static struct pg_lock maps_lock; /* LOCK_PAGEMAP: all below */

uint32_t pg_map_id(const struct pgmap *map)
{
	return (uint32_t)(map - maps) + 1;
}

struct pgmap *pg_map_of(uint32_t id)
{
	pg_bug_on(id == 0 || id > PG_NR_MAPS);
	return &maps[id - 1];
}

/* ---- References ---- */

bool pg_map_tryget_live(struct pgmap *map, uint64_t n)
{
	pg_atomic64 *refs = &map->shard[pg_shard()].refs;
	uint64_t v = pg_load(refs, relaxed);

	do {
		if (!(v & LIVE) && !pg_mutant("hand_out_from_dying"))
			return false;
	} while (!pg_cas(refs, &v, v + (n << 1), acquire));
	return true;
}

bool pg_map_tryget(struct pgmap *map)
{
	uint64_t v;

	if (pg_map_tryget_live(map, 1))
		return true;
	/* While it is being killed the bias is in it still: not 0. */
	v = pg_load(&map->exact, relaxed);
	while (v)
		if (pg_cas(&map->exact, &v, v + 1, acquire))
			return true;
	return false;
}

static void note_drained(struct pgmap *map)
{
	if (pg_mutant("wake_up_lost"))
		return;
	/* Partner: the loop in pgmap_destroy(). */
	pg_fetch_add(&map->drained, 1, release);
	pg_wake(&map->drained);
}

void pg_map_put_many(struct pgmap *map, uint64_t n)
{
	pg_atomic64 *refs = &map->shard[pg_shard()].refs;
	uint64_t v = pg_load(refs, relaxed), was;

	while (v & LIVE)
		if (pg_cas(refs, &v, v - (n << 1), release))
			return;
	was = pg_fetch_sub(&map->exact, n, acq_rel);
	pg_misuse_on(was < n,
		     "a page map is put more often than it was taken (R55)");
	if (was == n)
		note_drained(map);
}

uint64_t pg_map_refs(const struct pgmap *map)
{
	uint64_t exact = pg_load(&map->exact, acquire), sum = 0;

	for (uint32_t i = 0; i < PG_NR_SHARDS; i++)
		sum += pg_load(&map->shard[i].refs, acquire) & ~LIVE;
	return (sum >> 1) + exact - (exact > BIAS / 2 ? BIAS : 0);
}

void pgmap_put(struct pgmap *map)
{
	pg_map_put_many(map, 1);
}

bool pgmap_is_dying(const struct pgmap *map)
{
	uint32_t state = pg_load(&map->state, acquire);

	/* While it is being killed it may still be found: not yet. */
	return state != PG_MAP_LIVE && state != PG_MAP_KILLING &&
	       !pg_mutant("dying_unnoticed");
}

/* What a shard holds, and from now on no more. */
static uint64_t shard_close(struct pg_map_shard *s)
{
	uint64_t v;

	if (pg_mutant("shard_switch_loses_a_get")) {
		v = pg_load(&s->refs, acquire);
		pg_yield();
		pg_store(&s->refs, 0, release);
		return v;
	}
	return pg_xchg(&s->refs, 0, acq_rel);
}

void pgmap_kill(struct pgmap *map)
{
	uint32_t was = PG_MAP_LIVE;
	uint64_t sum = 0;

	if (!pg_cas(&map->state, &was, PG_MAP_KILLING, acq_rel)) {
		while (was == PG_MAP_KILLING &&
		       !pg_mutant("second_kill_does_not_wait")) {
			pg_wait(&map->state, PG_MAP_KILLING, 0);
			was = pg_load(&map->state, acquire);
		}
		return;
	}
	for (uint32_t i = 0; i < PG_NR_SHARDS; i++) {
		sum += shard_close(&map->shard[i]) & ~LIVE;
		if (pg_mutant("second_kill_does_not_wait"))
			pg_yield();
	}
	sum = (sum >> 1) - BIAS;
	sum += pg_fetch_add(&map->exact, sum, acq_rel);
	pg_misuse_on(sum > BIAS,
		     "a page map was put more often than it was taken (R55)");
	if (!sum)
		note_drained(map);
	pg_store(&map->state, PG_MAP_DEAD, release);
	pg_wake(&map->state);
}

/* ---- The index ---- */

struct place {
	/* Written by holders of the lock, with release: who sees a word of a
	 * change sees that the other copy is the one to use. */
	pg_atomic64 first, end;
	pg_atomic64 folios;
	pg_atomic32 order, map;
};

static struct index {
	pg_atomic32 nr;
	struct place place[NR_PLACES];
} copies[2];
/* Readers use the copy of its lowest bit. release; acquire. */
static pg_atomic32 index_seq;

/* The first place that ends behind @pfn. */
static uint32_t index_search(const struct index *x, uint64_t pfn)
{
	uint32_t lo = 0, hi = pg_load(&x->nr, acquire);

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (pg_load(&x->place[mid].end, acquire) <= pfn)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static bool index_find(const struct index *x, uint64_t pfn, struct pg_place *p)
{
	uint32_t i = index_search(x, pfn);
	const struct place *at = &x->place[i];

	if (i >= pg_load(&x->nr, acquire))
		return false;
	p->first = pg_load(&at->first, acquire);
	p->folios =
		(struct pgmap_folio *)(uintptr_t)pg_load(&at->folios, acquire);
	p->order = pg_load(&at->order, acquire);
	p->map = pg_load(&at->map, acquire);
	return pfn >= p->first;
}

bool pg_map_find(uint64_t pfn, struct pg_place *p)
{
	uint32_t seq, again;
	bool found;

	do {
		seq = pg_load(&index_seq, acquire);
		if (pg_mutant("index_read_once"))
			pg_yield();
		found = index_find(&copies[seq & 1], pfn, p);
		again = pg_load(&index_seq, relaxed);
	} while (seq != again && !pg_mutant("index_read_once"));
	return found;
}

static void place_copy(struct place *to, const struct place *from)
{
	pg_store(&to->first, pg_load(&from->first, relaxed), release);
	pg_store(&to->end, pg_load(&from->end, relaxed), release);
	pg_store(&to->folios, pg_load(&from->folios, relaxed), release);
	pg_store(&to->order, pg_load(&from->order, relaxed), release);
	pg_store(&to->map, pg_load(&from->map, relaxed), release);
}

static void index_insert(struct index *x, const struct place *p)
{
	uint32_t i = index_search(x, pg_load(&p->first, relaxed));
	uint32_t nr = pg_load(&x->nr, relaxed);

	for (uint32_t k = nr; k > i; k--)
		place_copy(&x->place[k], &x->place[k - 1]);
	place_copy(&x->place[i], p);
	pg_store(&x->nr, nr + 1, release);
}

static void index_remove(struct index *x, const struct place *p)
{
	uint32_t i = index_search(x, pg_load(&p->first, relaxed));
	uint32_t nr = pg_load(&x->nr, relaxed);

	for (; i + 1 < nr; i++)
		place_copy(&x->place[i], &x->place[i + 1]);
	pg_store(&x->nr, nr - 1, release);
}

/* Change one copy while readers use the other, twice. */
static void index_change(void (*change)(struct index *, const struct place *),
			 const struct place *p)
{
	uint32_t seq = pg_load(&index_seq, relaxed);

	for (uint32_t i = 0; i < 2; i++) {
		pg_store(&index_seq, seq + 1 + i, release);
		change(&copies[i], p);
	}
}

static bool has_pfn(const struct pgmap *map, uint64_t pfn)
{
	return pg_map_range_of(&maps[map - maps], pfn);
}

struct pgmap_folio *pg_map_folio(const struct pgmap *map, uint64_t pfn)
{
	struct pg_map_range *r = pg_map_range_of(&maps[map - maps], pfn);

	return r ? &r->folios[(pfn - pg_load(&r->pfn, relaxed)) >>
			      map->folio_order]
		 : NULL;
}

bool pg_map_is_reserved(const struct pgmap *map, uint64_t pfn)
{
	uint64_t first = pg_load(&map->range[0].pfn, relaxed);

	return pfn >= first && pfn - first < map->reserve;
}

struct pgmap *pgmap_lookup(uint64_t pfn, struct pgmap *hint)
{
	struct pg_place p;

	if (hint && has_pfn(hint, pfn) && !pgmap_is_dying(hint))
		return hint;
	if (hint && !pg_mutant("hint_not_put"))
		pg_map_put_many(hint, 1);
	while (pg_map_find(pfn, &p)) {
		struct pgmap *map = pg_map_of(p.map);

		if (pg_mutant("lookup_looks_once"))
			pg_yield();
		if (!pg_map_tryget_live(map, 1))
			return NULL;
		/* The place may have changed its map before we got hold. */
		if (has_pfn(map, pfn) || pg_mutant("lookup_looks_once"))
			return map;
		pg_map_put_many(map, 1);
	}
	return NULL;
}

enum pgmap_type pgmap_get_type(const struct pgmap *map)
{
	return map->type;
}

void *pgmap_get_owner(const struct pgmap *map)
{
	return map->owner;
}

void *pgmap_get_data(const struct pgmap *map)
{
	return map->data;
}

int pgmap_range_get(const struct pgmap *map, uint32_t i,
		    struct pgmap_range *range)
{
	if (i >= map->nr_range)
		return -EINVAL;
	range->pfn = pg_load(&map->range[i].pfn, relaxed);
	range->nr = pg_load(&map->range[i].nr, relaxed);
	return 0;
}

/* ---- Records: memory that is never anything else ---- */

/* Sizes are powers of two. Holds LOCK_PAGEMAP: the first free of each; the
 * next one's address is in the mapping of its first record. */
static struct pgmap_folio *free_records[64];

static unsigned int record_class(uint64_t nr)
{
	unsigned int c = 12;

	while ((uint64_t)1 << c < nr * sizeof(struct pgmap_folio))
		c++;
	return c;
}

static struct pgmap_folio *records_get(uint64_t nr)
{
	unsigned int c = record_class(nr);
	struct pgmap_folio *f = free_records[c];

	/* Zero-filled and backed where touched: idle pages, born ready. */
	if (!f)
		return pg_mem_map((size_t)1 << c);
	free_records[c] = (struct pgmap_folio *)(uintptr_t)f->mapping;
	pg_mem_drop(f, PAGE);
	return f;
}

static void records_put(struct pgmap_folio *f, uint64_t nr)
{
	unsigned int c = record_class(nr);

	if (!pg_mutant("records_not_dropped"))
		pg_mem_drop(f, (size_t)1 << c);
	f->mapping = (uintptr_t)free_records[c];
	free_records[c] = f;
}

/* ---- Claims ---- */

/* Those of bits [i, end) that are in the word of bit i. */
static uint64_t mask_of(uint64_t i, uint64_t end)
{
	uint64_t n = end - i < 64 - i % 64 ? end - i : 64 - i % 64;

	return (UINT64_MAX >> (64 - n)) << i % 64;
}

/* Highest word first, and the one that is looked at by who waits for the folio
 * last; whole words are ours alone. */
void pg_range_unclaim(struct pg_map_range *r, uint64_t i, uint64_t n)
{
	for (uint64_t end = i + n; end > i;) {
		uint64_t at = (end - 1) & ~(uint64_t)63;
		uint64_t mask;

		if (at < i)
			at = i;
		mask = mask_of(at, end);
		if (mask == UINT64_MAX && at > i)
			pg_store(&r->claims[at / 64], 0, release);
		else
			pg_fetch_and(&r->claims[at / 64], ~mask, seq_cst);
		end = at;
	}
}

/* Claim what @mask says of a word. */
static bool claim_word(pg_atomic64 *word, uint64_t mask)
{
	uint64_t v = pg_load(word, relaxed);

	while (!(v & mask)) {
		if (pg_mutant("increment_then_look")) {
			pg_yield();
			pg_fetch_or(word, mask, seq_cst);
			return true;
		}
		if (pg_cas(word, &v, v | mask, seq_cst))
			return true;
	}
	return false;
}

/* Lowest word first: of two who want the same pages one gets them. */
int pg_range_claim(struct pg_map_range *r, uint64_t i, uint64_t n)
{
	uint64_t end = i + n;

	for (uint64_t at = i; at < end; at = (at | 63) + 1) {
		if (claim_word(&r->claims[at / 64], mask_of(at, end)))
			continue;
		if (pg_mutant("rollback_forgets_a_word") && at > i)
			i = (i | 63) + 1;
		pg_range_unclaim(r, i, at - i);
		return -EBUSY;
	}
	return 0;
}

bool pg_range_is_claimed(const struct pg_map_range *r, uint64_t i)
{
	return pg_load(&r->claims[i / 64], seq_cst) >> i % 64 & 1;
}

/* ---- Create and destroy ---- */

/* What an older caller does not know is NULL. */
static int copy_ops(const struct pgmap_ops *from, struct pgmap_ops *to)
{
	memset(to, 0, sizeof(*to));
	if (!from)
		return 0;
	if (!from->size || from->size > sizeof(*to) ||
	    from->size % sizeof(void *))
		return -EINVAL;
	memcpy(to, from,
	       pg_mutant("ops_size_ignored") ? sizeof(*to) : from->size);
	return 0;
}

static int check_ops(const struct pgmap_desc *d)
{
	bool private = d->type == PGMAP_PRIVATE;
	struct pgmap_ops o;

	if (copy_ops(d->ops, &o))
		return -EINVAL;
	if ((!private && d->type != PGMAP_COHERENT) ||
	    pg_mutant("ops_not_checked"))
		return 0;
	if (!o.folio_free || !d->owner)
		return -EINVAL;
	return private && !o.migrate_to_ram ? -EINVAL : 0;
}

static int check_range(const struct pgmap_desc *d, const struct pgmap_range *r)
{
	uint64_t unit = (uint64_t)1 << d->folio_order;
	bool choose = d->nr_range == 1 && !r->pfn;

	if (!r->nr || r->pfn + r->nr < r->pfn || r->pfn + r->nr > PGMAP_END_PFN)
		return -EINVAL;
	if (((r->nr | r->pfn) % PGMAP_SUBSECTION_PAGES ||
	     (r->nr | r->pfn) % unit) &&
	    !pg_mutant("any_granularity"))
		return -EINVAL;
	if (!choose && r->pfn < PGMAP_FIRST_DEVICE_PFN &&
	    !pg_mutant("system_memory_accepted"))
		return -ENXIO;
	return 0;
}

static int check_desc(const struct pgmap_desc *d)
{
	uint64_t unit;
	int ret;

	if (d->size != sizeof(*d) || d->type < PGMAP_PRIVATE ||
	    (d->type > PGMAP_PCI_P2PDMA && !pg_mutant("unknown_type_accepted")))
		return -EINVAL;
	if (d->type != PGMAP_PRIVATE && pg_mutant("only_private_maps"))
		return -EOPNOTSUPP;
	if (!d->nr_range || d->nr_range > PGMAP_MAX_RANGES ||
	    d->folio_order > PGMAP_MAX_ORDER)
		return -EINVAL;
	unit = (uint64_t)1 << d->folio_order;
	ret = check_ops(d);
	for (uint32_t i = 0; i < d->nr_range && !ret; i++)
		ret = check_range(d, &d->range[i]);
	/* It takes whole folios (R18). */
	if (!ret && d->reserve > d->range[0].nr - unit &&
	    !pg_mutant("reserve_of_a_whole_map"))
		return -EINVAL;
	return ret;
}

/* Holds LOCK_PAGEMAP. Does [pfn, pfn + nr) touch a map, dying ones included
 * (R6)? If so, *after is the first pfn behind what it touches first. */
static bool overlaps(uint64_t pfn, uint64_t nr, uint64_t *after)
{
	const struct index *x = &copies[0];
	uint32_t n = pg_load(&x->nr, relaxed);

	for (uint32_t i = index_search(x, pfn); i < n; i++) {
		const struct place *p = &x->place[i];
		uint64_t first = pg_load(&p->first, relaxed);
		uint64_t end = pg_load(&p->end, relaxed);

		if (first >= pfn + nr)
			return false;
		if (pg_mutant("overlap_ignores_dying") &&
		    pgmap_is_dying(pg_map_of(pg_load(&p->map, relaxed))))
			continue;
		if (pg_mutant("overlap_checks_ends_only") && pfn < first &&
		    pfn + nr > end)
			continue;
		*after = end;
		return true;
	}
	return false;
}

/* Holds LOCK_PAGEMAP. Where there is room for @nr pages: on a multiple of 1 GB
 * if there are so many, else of what they are made of. Return: 0 nowhere. */
static uint64_t choose(uint64_t nr, uint32_t folio_order)
{
	uint64_t pfn = PGMAP_FIRST_DEVICE_PFN, unit = PGMAP_SUBSECTION_PAGES;

	if (unit < (uint64_t)1 << folio_order)
		unit = (uint64_t)1 << folio_order;
	if (nr >= (uint64_t)1 << PGMAP_MAX_ORDER)
		unit = (uint64_t)1 << PGMAP_MAX_ORDER;
	while (overlaps(pfn, nr, &pfn) && !pg_mutant("chosen_range_overlaps"))
		pfn = (pfn + unit - 1) & ~(unit - 1);
	return pfn + nr <= PGMAP_END_PFN ? pfn : 0;
}

static size_t claims_bytes(const struct pgmap *map, uint64_t nr)
{
	size_t bytes = ((nr >> map->folio_order) + 7) / 8;

	return (bytes + PAGE - 1) & ~(size_t)(PAGE - 1);
}

static struct place place_of(const struct pgmap *map,
			     const struct pg_map_range *r)
{
	uint64_t pfn = pg_load(&r->pfn, relaxed);

	return (struct place){.first = pfn,
			      .end = pfn + pg_load(&r->nr, relaxed),
			      .folios = (uintptr_t)r->folios,
			      .order = map->folio_order,
			      .map = pg_map_id(map)};
}

static void drop_ranges(struct pgmap *map)
{
	for (uint32_t i = 0; i < map->nr_range; i++) {
		struct pg_map_range *r = &map->range[i];
		uint64_t nr = pg_load(&r->nr, relaxed);
		struct place p = place_of(map, r);

		index_change(index_remove, &p);
		pg_store(&r->nr, 0, relaxed);
		pg_store(&r->pfn, 0, relaxed);
		records_put(r->folios, nr >> map->folio_order);
		pg_mem_unmap(r->claims, claims_bytes(map, nr) + nr / 8);
		r->folios = NULL;
		r->claims = NULL;
		r->bad = NULL;
		pg_store(&r->nr_bad, 0, relaxed);
	}
	map->nr_range = 0;
}

static int add_range(struct pgmap *map, uint64_t pfn, uint64_t nr)
{
	struct pg_map_range *r = &map->range[map->nr_range];
	size_t claims = claims_bytes(map, nr);
	uint64_t after;
	struct place p;

	if (!pfn)
		pfn = choose(nr, map->folio_order);
	else if (overlaps(pfn, nr, &after))
		return -ENOMEM;
	if (!pfn)
		return -ENOMEM;
	r->folios = records_get(nr >> map->folio_order);
	if (!r->folios)
		return -ENOMEM;
	r->claims = pg_mem_map(claims + nr / 8);
	if (!r->claims) {
		records_put(r->folios, nr >> map->folio_order);
		return -ENOMEM;
	}
	r->bad = r->claims + claims / sizeof(*r->claims);
	for (uint64_t i = 0; i < nr && pg_mutant("metadata_written"); i++)
		r->folios[i >> map->folio_order].next = 0;
	pg_store(&r->pfn, pfn, relaxed);
	pg_store(&r->nr, nr, relaxed);
	map->nr_range++;
	p = place_of(map, r);
	index_change(index_insert, &p);
	return 0;
}

static void bring_to_life(struct pgmap *map)
{
	pg_bug_on(pg_map_refs(map) != 0);
	pg_store(&map->exact, BIAS, relaxed);
	pg_store(&map->state, PG_MAP_LIVE, release);
	/* From here on lookups find it; partner: the acquire in tryget. */
	for (uint32_t i = 0; i < PG_NR_SHARDS; i++)
		pg_store(&map->shard[i].refs, LIVE, release);
}

/* Holds LOCK_PAGEMAP. */
static int create(const struct pgmap_desc *desc, struct pgmap **out)
{
	struct pgmap *map = NULL;

	for (uint32_t n = 0; n < PG_NR_MAPS && !map; n++)
		if (pg_load(&maps[n].state, relaxed) == PG_MAP_FREE)
			map = &maps[n];
	if (!map)
		return -ENOSPC;
	map->type = desc->type;
	map->folio_order =
		pg_mutant("folio_order_ignored") ? 0 : desc->folio_order;
	map->reserve = desc->reserve;
	copy_ops(desc->ops, &map->ops);
	map->owner = desc->owner;
	map->data = desc->data;
	for (uint32_t i = 0; i < desc->nr_range; i++) {
		int ret = add_range(map, desc->range[i].pfn, desc->range[i].nr);

		if (ret) {
			if (!pg_mutant("unwind_leaves_ranges"))
				drop_ranges(map);
			return ret;
		}
	}
	bring_to_life(map);
	*out = map;
	return 0;
}

int pgmap_create(const struct pgmap_desc *desc, struct pgmap **map)
{
	int ret = desc && map ? check_desc(desc) : -EINVAL;

	if (ret)
		return ret;
	pg_lock(&maps_lock, LOCK_PAGEMAP);
	ret = create(desc, map);
	pg_unlock(&maps_lock, LOCK_PAGEMAP);
	return ret;
}

int pgmap_destroy(struct pgmap *map)
{
	uint32_t dead = PG_MAP_DEAD;

	if (!map || map < maps || map >= maps + PG_NR_MAPS)
		return -EINVAL;
	pgmap_kill(map);
	if (!pg_cas(&map->state, &dead, PG_MAP_GOING, acq_rel) &&
	    !pg_mutant("destroyed_twice"))
		return -EINVAL;
	for (;;) {
		uint32_t seen = pg_load(&map->drained, acquire);

		if (!pg_load(&map->exact, acquire) ||
		    pg_mutant("destroy_does_not_wait"))
			break;
		pg_wait(&map->drained, seen, 0);
	}
	pg_lock(&maps_lock, LOCK_PAGEMAP);
	drop_ranges(map);
	pg_store(&map->state, PG_MAP_FREE, relaxed);
	pg_unlock(&maps_lock, LOCK_PAGEMAP);
	return 0;
}
