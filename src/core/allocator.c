/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/allocator.h"

#include <errno.h>
#include <string.h>

#include "base/bug.h"
#include "base/mem.h"
#include "base/mutant.h"
#include "core/folio.h"

/* What moves from a shard to the lists at once, and the other way, as a power
 * of two: as many claims as a line of the cache has bits. */
#define BATCH 16u
#define RUN_ORDER 9u
/* Fresh pages are taken in blocks of 2 MB: large enough to be made smaller,
 * small enough that metadata is backed only near pages that are used. */
#define FRESH_ORDER PGMAP_PMD_ORDER
#define PFN_BITS 40
#define PFN_MASK (((uint64_t)1 << PFN_BITS) - 1)
#define NO_ORDER UINT32_MAX

_Static_assert(PGMAP_END_PFN == (uint64_t)1 << PFN_BITS, "a pfn fits");

static uint64_t pages(unsigned int order)
{
	return (uint64_t)1 << order;
}

/*
 * ---- Lists ----
 *
 * A list goes through the records of the blocks' first pages: pfns in both
 * directions, in the 80 bits that are the allocator's while the count is 0.
 * That a record heads a free block, and of which order, is said in its flags,
 * which are atomic: a buddy that is asked may be in use.
 */

static struct pgmap_folio *record(const struct pg_alloc_map *m, uint64_t pfn)
{
	return pg_map_folio(m->map, pfn);
}

static uint64_t next_of(const struct pgmap_folio *f)
{
	return (uint64_t)(f->index >> PFN_BITS) << 32 | f->next;
}

static uint64_t prev_of(const struct pgmap_folio *f)
{
	return f->index & PFN_MASK;
}

static void set_links(struct pgmap_folio *f, uint64_t prev, uint64_t next)
{
	f->index = (prev | next >> 32 << PFN_BITS) & PG_INDEX_MASK;
	f->next = (uint32_t)next;
}

/* The order of the free block that @f heads, plus 1; 0: it heads none. */
static unsigned int listed_order(const struct pgmap_folio *f)
{
	return pg_load(&f->flags, relaxed) >> PG_FOLIO_LISTED_SHIFT;
}

static void push(const struct pg_alloc_map *m, uint64_t *first, uint64_t pfn)
{
	uint64_t next = *first;

	set_links(record(m, pfn), 0, next);
	if (next)
		set_links(record(m, next), pfn, next_of(record(m, next)));
	*first = pfn;
}

static void pull(const struct pg_alloc_map *m, uint64_t *first, uint64_t pfn)
{
	struct pgmap_folio *f = record(m, pfn);
	uint64_t prev = prev_of(f), next = next_of(f);

	if (prev)
		set_links(record(m, prev), prev_of(record(m, prev)), next);
	else
		*first = next;
	if (next)
		set_links(record(m, next), prev, next_of(record(m, next)));
	set_links(f, 0, 0);
}

/* Did somebody take the page past us? Its record is not ours to write then:
 * the block that it heads is left out, and what is freed of it comes back. */
static bool is_taken(const struct pg_alloc_map *m, uint64_t pfn)
{
	return pg_pfn_in_use(m->map, pfn) &&
	       !pg_mutant("block_in_use_is_listed");
}

static void list_add(struct pg_alloc_map *m, uint64_t pfn, unsigned int order)
{
	struct pgmap_folio *f = record(m, pfn);

	if (is_taken(m, pfn)) {
		*m->nr_free -= pages(order);
		return;
	}
	pg_bug_on(listed_order(f)); /* free already */
	push(m, &m->free[order], pfn);
	pg_fetch_or(&f->flags, (order + 1) << PG_FOLIO_LISTED_SHIFT, relaxed);
	m->orders |= 1u << order;
}

static void list_del(struct pg_alloc_map *m, uint64_t pfn, unsigned int order)
{
	pull(m, &m->free[order], pfn);
	pg_fetch_and(&record(m, pfn)->flags, ~PG_FOLIO_LISTED_MASK, relaxed);
	if (!m->free[order])
		m->orders &= ~(1u << order);
}

/* ---- Blocks. All hold the lock. ---- */

/* All but who is in a shard hold the lock, so only that one may find it lower
 * than it is: never below a page that it has. */
static uint64_t fresh_of(const struct pg_alloc_range *r)
{
	return pg_load(&r->fresh, relaxed);
}

/* The range of which a block may be: fresh pages are not ours yet. */
static struct pg_alloc_range *range_of(struct pg_alloc_map *m, uint64_t pfn)
{
	for (uint32_t i = 0; i < m->nr_range; i++)
		if (pfn >= m->range[i].first && pfn < fresh_of(&m->range[i]))
			return &m->range[i];
	return NULL;
}

/* A block is free: it and its other half become one, as often as possible. */
static void insert(struct pg_alloc_map *m, const struct pg_alloc_range *r,
		   uint64_t pfn, unsigned int order)
{
	while (order < PGMAP_MAX_ORDER && !pg_mutant("halves_stay_apart")) {
		uint64_t buddy = pfn ^ pages(order);
		unsigned int listed;

		if (buddy < r->first || buddy + pages(order) > fresh_of(r))
			break;
		listed = listed_order(record(m, buddy));
		if (listed != order + 1 &&
		    !(listed && pg_mutant("half_of_a_half_is_merged")))
			break;
		list_del(m, buddy, listed - 1);
		pfn &= ~pages(order);
		order++;
	}
	list_add(m, pfn, order);
}

/* As few blocks as alignment allows. */
static void insert_all(struct pg_alloc_map *m, const struct pg_alloc_range *r,
		       uint64_t pfn, uint64_t end)
{
	while (pfn < end) {
		unsigned int o = PGMAP_MAX_ORDER;

		while (pfn & (pages(o) - 1) || pfn + pages(o) > end)
			o--;
		insert(m, r, pfn, o);
		pfn += pages(o);
	}
}

/* Of the smallest block that is large enough, the first part. */
static bool take_listed(struct pg_alloc_map *m, unsigned int order,
			uint64_t *pfn)
{
	uint32_t has = m->orders >> order << order;
	unsigned int o;

	if (!has)
		return false;
	o = (unsigned int)__builtin_ctz(has);
	*pfn = m->free[o];
	list_del(m, *pfn, o);
	while (o > order) {
		o--;
		list_add(m, *pfn + pages(o), o);
	}
	return true;
}

/* List the next fresh pages: a block that would do for @order, or what must
 * come before it. */
static bool list_fresh(struct pg_alloc_map *m, unsigned int order)
{
	unsigned int o = order > FRESH_ORDER ? order : FRESH_ORDER;

	for (uint32_t i = 0; i < m->nr_range; i++) {
		struct pg_alloc_range *r = &m->range[i];
		uint64_t pfn = fresh_of(r);

		if (pfn == r->end)
			continue;
		if (is_taken(m, pfn))
			o = m->order;
		while (pfn & (pages(o) - 1) || pfn + pages(o) > r->end)
			o--;
		pg_store(&r->fresh, pfn + pages(o), relaxed);
		insert(m, r, pfn, o);
		return true;
	}
	return false;
}

static bool has_bad(const struct pg_alloc_map *m, uint64_t pfn)
{
	for (uint64_t i = 0; i < pages(m->order); i++)
		if (pg_pfn_poisoned(m->map, pfn + i))
			return true;
	return false;
}

/* A block with a bad page in it: its smallest blocks that have one wait until
 * that page is good again, the rest is free. */
static void set_aside(struct pgmap_allocator *a, struct pg_alloc_map *m,
		      uint64_t pfn, unsigned int order)
{
	const struct pg_alloc_range *r = range_of(m, pfn);
	uint64_t end = pfn + pages(order), good = pfn;

	for (; pfn < end; pfn += pages(m->order)) {
		if (!has_bad(m, pfn))
			continue;
		insert_all(m, r, good, pfn);
		good = pfn + pages(m->order);
		push(m, &m->bad, pfn);
		a->nr_free -= pages(m->order);
	}
	insert_all(m, r, good, end);
}

static void look_at_bad_again(struct pgmap_allocator *a, struct pg_alloc_map *m)
{
	uint64_t pfn = m->bad;

	while (pfn) {
		uint64_t next = next_of(record(m, pfn));

		if (!has_bad(m, pfn) && !pg_mutant("once_bad_always_bad")) {
			pull(m, &m->bad, pfn);
			insert(m, range_of(m, pfn), pfn, m->order);
			a->nr_free += pages(m->order);
		}
		pfn = next;
	}
}

/* pgmap_get_folio() refused a block that is in no list. -EBUSY: as in
 * is_taken(), but any page of it. */
static void take_back(struct pgmap_allocator *a, struct pg_alloc_map *m,
		      uint64_t pfn, unsigned int order, int why)
{
	if (why == -EHWPOISON && !pg_mutant("bad_page_stays_in_its_block"))
		set_aside(a, m, pfn, order);
	else if (why == -EBUSY && !pg_mutant("block_in_use_is_listed"))
		a->nr_free -= pages(order);
	else if (!pg_mutant("refused_page_lost"))
		insert(m, range_of(m, pfn), pfn, order);
}

static bool take(struct pg_alloc_map *m, unsigned int order, bool fresh,
		 uint64_t *pfn)
{
	while (!take_listed(m, order, pfn))
		if (!fresh || !list_fresh(m, order))
			return false;
	return true;
}

static int get_from_map(struct pgmap_allocator *a, struct pg_alloc_map *m,
			unsigned int order, bool fresh,
			struct pgmap_folio **folio)
{
	uint64_t pfn;

	while (take(m, order, fresh, &pfn)) {
		int ret = pgmap_get_folio(m->map, pfn, order, folio);

		if (!ret) {
			a->nr_free -= pages(order);
			return 0;
		}
		take_back(a, m, pfn, order, ret);
		if (ret != -EHWPOISON ||
		    pg_mutant("bad_page_stays_in_its_block"))
			return ret;
	}
	return -ENOSPC;
}

static bool serves(const struct pgmap_allocator *a,
		   const struct pg_alloc_map *m, unsigned int order)
{
	if (m != a->maps && pg_mutant("first_map_only"))
		return false;
	return order >= m->order;
}

/* What was used already, of any map, before what is fresh. */
static int get_from_lists(struct pgmap_allocator *a, unsigned int order,
			  struct pgmap_folio **folio)
{
	int ret, result = a->maps ? -EINVAL : -ENOSPC;

	for (int fresh = 0; fresh < 2; fresh++) {
		for (struct pg_alloc_map *m = a->maps; m; m = m->next) {
			if (!serves(a, m, order))
				continue;
			ret = pgmap_is_dying(m->map)
				      ? -ENODEV
				      : get_from_map(a, m, order, fresh, folio);
			if (ret != -ENODEV && ret != -ENOSPC)
				return ret;
			if (result != -ENOSPC)
				result = ret;
		}
	}
	return result;
}

/* A block came free. */
static void give_back(struct pgmap_allocator *a, struct pg_alloc_map *m,
		      uint64_t pfn, unsigned int order)
{
	const struct pg_alloc_range *r = range_of(m, pfn);

	/* Not handed out since the map was added: forgotten (R14). */
	if (!m->live || !r)
		return;
	insert(m, r, pfn, order);
	a->nr_free += pages(order);
}

/* ---- Shards ---- */

static bool try_enter(struct pg_alloc_shard *s)
{
	uint32_t no = 0;

	return !pg_load(&s->busy, relaxed) && pg_cas(&s->busy, &no, 1, acquire);
}

static void leave(struct pg_alloc_shard *s)
{
	pg_store(&s->busy, 0, release);
}

/* NULL: somebody is in each of them. */
static struct pg_alloc_shard *enter_any(struct pgmap_allocator *a)
{
	uint32_t first = pg_shard();

	for (uint32_t i = 0; i < PG_NR_SHARDS; i++) {
		struct pg_alloc_shard *s =
			&a->shard[(first + i) % PG_NR_SHARDS];

		if (try_enter(s))
			return s;
	}
	return NULL;
}

/* Who is in a shard may wait for the lock, not the other way round; and in one
 * shard for no other but in order. */
static void enter_all(struct pgmap_allocator *a)
{
	for (uint32_t i = 0; i < PG_NR_SHARDS; i++)
		while (!try_enter(&a->shard[i]))
			pg_yield();
	pg_lock(&a->lock, LOCK_DEVICE);
}

static void leave_all(struct pgmap_allocator *a)
{
	pg_unlock(&a->lock, LOCK_DEVICE);
	for (uint32_t i = 0; i < PG_NR_SHARDS; i++)
		leave(&a->shard[i]);
}

static uint64_t block_of(const struct pg_alloc_map *m, uint64_t pfn)
{
	return (uint64_t)pg_map_id(m->map) << PFN_BITS | pfn;
}

static struct pg_alloc_map *map_of(const struct pgmap_allocator *a,
				   uint64_t block)
{
	return a->by_id[block >> PFN_BITS];
}

/* The @n that wait longest. Holds the lock. */
static void empty_shard(struct pgmap_allocator *a, struct pg_alloc_shard *s,
			uint32_t n)
{
	unsigned int order = pg_load(&a->order, relaxed);

	for (uint32_t i = 0; i < n; i++)
		give_back(a, map_of(a, s->block[i]), s->block[i] & PFN_MASK,
			  order);
	s->nr -= n;
	memmove(s->block, s->block + n, s->nr * sizeof(s->block[0]));
}

/* Holds the lock. */
static void empty_run(struct pgmap_allocator *a, struct pg_alloc_shard *s)
{
	uint64_t pfn = s->run & PFN_MASK, nr;
	struct pg_alloc_map *m;

	/* Before the first map there is no order either. */
	if (!s->nr_run)
		return;
	m = map_of(a, s->run);
	nr = s->nr_run << pg_load(&a->order, relaxed);
	s->nr_run = 0;
	insert_all(m, range_of(m, pfn), pfn, pfn + nr);
	a->nr_free += nr;
}

/* Holds the lock. A free block of @m as it is, unless it is too large: what is
 * in pieces already is used up first. */
static bool take_run(struct pg_alloc_map *m, unsigned int order, bool fresh,
		     struct pg_alloc_shard *s)
{
	unsigned int most = order + RUN_ORDER;
	uint32_t has = m->orders >> order << order;
	uint64_t pfn;

	if (has && (unsigned int)__builtin_ctz(has) < most)
		most = (unsigned int)__builtin_ctz(has);
	if (most > PGMAP_MAX_ORDER)
		most = PGMAP_MAX_ORDER;
	while (!take(m, most, fresh, &pfn)) {
		if (most == order)
			return false;
		most--;
	}
	s->run = block_of(m, pfn);
	s->nr_run = pages(most - order);
	return true;
}

/* Holds the lock. */
static void fill_shard(struct pgmap_allocator *a, struct pg_alloc_shard *s,
		       unsigned int order)
{
	for (int fresh = 0; fresh < 2; fresh++)
		for (struct pg_alloc_map *m = a->maps; m; m = m->next)
			if (serves(a, m, order) && !pgmap_is_dying(m->map) &&
			    take_run(m, order, fresh, s)) {
				a->nr_free -= s->nr_run << order;
				return;
			}
}

/* The block that came back last, which is still in a cache; or a new one. */
static uint64_t take_block(struct pgmap_allocator *a, struct pg_alloc_shard *s,
			   unsigned int order)
{
	uint64_t block;

	if (s->nr)
		return s->block[--s->nr];
	if (!s->nr_run) {
		pg_lock(&a->lock, LOCK_DEVICE);
		fill_shard(a, s, order);
		pg_unlock(&a->lock, LOCK_DEVICE);
		if (!s->nr_run)
			return 0;
	}
	block = s->run;
	s->run += pages(order);
	s->nr_run--;
	return block;
}

static void refused(struct pgmap_allocator *a, uint64_t block,
		    unsigned int order, int why)
{
	pg_lock(&a->lock, LOCK_DEVICE);
	a->nr_free += pages(order);
	take_back(a, map_of(a, block), block & PFN_MASK, order, why);
	pg_unlock(&a->lock, LOCK_DEVICE);
}

/* Return: as get_from_lists(), or -EAGAIN: look there. */
static int get_from_shard(struct pgmap_allocator *a, unsigned int order,
			  struct pgmap_folio **folio)
{
	struct pg_alloc_shard *s = enter_any(a);
	int ret = -EHWPOISON;

	if (!s)
		return -EAGAIN;
	/* Before we were in, the first map may have become another one. */
	if (order != pg_load(&a->order, relaxed) &&
	    !pg_mutant("order_seen_from_outside")) {
		leave(s);
		return -EAGAIN;
	}
	while (ret == -EHWPOISON) {
		uint64_t block = take_block(a, s, order);

		if (!block)
			break;
		if (pg_mutant("handed_out_from_outside")) {
			leave(s);
			pg_yield();
		}
		ret = pgmap_get_folio(map_of(a, block)->map, block & PFN_MASK,
				      order, folio);
		if (ret)
			refused(a, block, order, ret);
	}
	leave(s);
	return ret == -EHWPOISON || ret == -ENODEV ? -EAGAIN : ret;
}

/* Nothing is free but perhaps in shards. */
static int get_with_shards(struct pgmap_allocator *a, unsigned int order,
			   struct pgmap_folio **folio)
{
	int ret;

	enter_all(a);
	for (uint32_t i = 0; i < PG_NR_SHARDS; i++) {
		if (pg_mutant("shards_keep_theirs"))
			break;
		empty_shard(a, &a->shard[i], a->shard[i].nr);
		empty_run(a, &a->shard[i]);
	}
	for (struct pg_alloc_map *m = a->maps; m; m = m->next)
		look_at_bad_again(a, m);
	ret = get_from_lists(a, order, folio);
	leave_all(a);
	return ret;
}

/* ---- pagemap.h ---- */

int pgmap_allocator_get(struct pgmap_allocator *a, unsigned int order,
			struct pgmap_folio **folio)
{
	int ret = -EAGAIN;

	if (order > PGMAP_MAX_ORDER)
		return -EINVAL;
	if (order == pg_load(&a->order, relaxed)) {
		if (pg_mutant("order_seen_from_outside"))
			pg_wait(&a->order, order, 2000000);
		ret = get_from_shard(a, order, folio);
	}
	if (ret == -EAGAIN) {
		pg_lock(&a->lock, LOCK_DEVICE);
		ret = get_from_lists(a, order, folio);
		pg_unlock(&a->lock, LOCK_DEVICE);
	}
	if (ret == -ENOSPC)
		ret = get_with_shards(a, order, folio);
	return ret;
}

void pgmap_allocator_free(struct pgmap_allocator *a, struct pgmap_folio *folio)
{
	struct pg_alloc_map *m = a->by_id[pg_map_id(pgmap_folio_map(folio))];
	unsigned int order = pgmap_folio_order(folio);
	uint64_t pfn = pgmap_folio_pfn(folio);
	struct pg_alloc_shard *s;

	if (!m)
		return;
	if (pg_mutant("free_forgets_the_order"))
		order = m->order;
	s = order == pg_load(&a->order, relaxed) ? enter_any(a) : NULL;
	/* As in get_from_shard(). */
	if (s && order != pg_load(&a->order, relaxed) &&
	    !pg_mutant("order_seen_from_outside")) {
		leave(s);
		s = NULL;
	}
	if (s) {
		if (s->nr == PG_SHARD_BLOCKS) {
			pg_lock(&a->lock, LOCK_DEVICE);
			empty_shard(a, s, BATCH);
			pg_unlock(&a->lock, LOCK_DEVICE);
		}
		if ((m->live && (range_of(m, pfn) ||
				 pg_mutant("fresh_page_comes_free"))) ||
		    pg_mutant("removed_map_takes_back"))
			s->block[s->nr++] = block_of(m, pfn);
		leave(s);
		return;
	}
	pg_lock(&a->lock,
		pg_mutant("free_takes_a_low_lock") ? LOCK_FOLIO : LOCK_DEVICE);
	give_back(a, m, pfn, order);
	pg_unlock(&a->lock, LOCK_DEVICE);
}

static void add_ranges(struct pgmap_allocator *a, struct pg_alloc_map *m,
		       uint64_t nr)
{
	struct pgmap_range range;
	uint64_t unit = pages(m->order);

	m->nr_range = 0;
	for (uint32_t i = 0; !pgmap_range_get(m->map, i, &range) && nr; i++) {
		struct pg_alloc_range *r = &m->range[m->nr_range];
		uint64_t skip = i || pg_mutant("reserve_not_skipped")
					? 0
					: m->map->reserve;

		if (range.nr > nr)
			range.nr = nr;
		nr -= range.nr;
		r->first = range.pfn + (skip + unit - 1) / unit * unit;
		r->end = range.pfn + range.nr / unit * unit;
		pg_store(&r->fresh, r->first, relaxed);
		if (r->first >= r->end)
			continue;
		a->nr_free += r->end - r->first;
		m->nr_range++;
		while (pg_mutant("fresh_pages_are_listed") &&
		       list_fresh(m, m->order))
			;
	}
}

/* Holds everything. */
static void add_map(struct pgmap_allocator *a, struct pg_alloc_map *m,
		    struct pgmap *map, uint64_t nr)
{
	struct pg_alloc_map **last = &a->maps;

	memset(m, 0, sizeof(*m));
	m->map = map;
	m->nr_free = &a->nr_free;
	m->order = map->folio_order;
	add_ranges(a, m, nr);
	/* Where there is no map, shards are empty. */
	if (!a->maps)
		pg_store(&a->order, m->order, relaxed);
	while (*last)
		last = &(*last)->next;
	*last = m;
	m->live = true;
	a->by_id[pg_map_id(map)] = m;
}

int pg_allocator_add_part(struct pgmap_allocator *a, struct pgmap *map,
			  uint64_t nr)
{
	struct pg_alloc_map *m = pg_mem_map(sizeof(*m)), *had;
	int ret = 0;

	if (!m)
		return -ENOMEM;
	enter_all(a);
	had = a->by_id[pg_map_id(map)];
	if (had && had->live)
		ret = -EINVAL;
	/* What was handed out before it was removed came back as if we had
	 * handed it out now. */
	else if (pg_map_refs(map) && !pg_mutant("map_in_use_is_added"))
		ret = -EBUSY;
	else
		add_map(a, had ? had : m, map, nr);
	leave_all(a);
	if (had)
		pg_mem_unmap(m, sizeof(*m));
	return ret;
}

int pgmap_allocator_add(struct pgmap_allocator *a, struct pgmap *map)
{
	return pg_allocator_add_part(a, map, UINT64_MAX);
}

/* The records are as if we had never seen them. */
static void forget_lists(struct pgmap_allocator *a, struct pg_alloc_map *m)
{
	for (unsigned int o = 0; o <= PGMAP_MAX_ORDER; o++)
		while (m->free[o]) {
			list_del(m, m->free[o], o);
			a->nr_free -= pages(o);
		}
	while (m->bad)
		pull(m, &m->bad, m->bad);
	for (uint32_t i = 0; i < m->nr_range; i++)
		a->nr_free -= m->range[i].end - fresh_of(&m->range[i]);
}

static void forget_shard(struct pgmap_allocator *a, struct pg_alloc_shard *s,
			 const struct pg_alloc_map *m)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < s->nr; i++)
		if (map_of(a, s->block[i]) != m)
			s->block[n++] = s->block[i];
	s->nr = n;
	if (s->nr_run && map_of(a, s->run) == m)
		s->nr_run = 0;
}

void pgmap_allocator_remove(struct pgmap_allocator *a, struct pgmap *map)
{
	struct pg_alloc_map *m, **at = &a->maps;

	enter_all(a);
	m = a->by_id[pg_map_id(map)];
	if (m && m->live) {
		m->live = false;
		while (*at != m)
			at = &(*at)->next;
		*at = m->next;
		forget_lists(a, m);
		for (uint32_t i = 0; i < PG_NR_SHARDS; i++)
			if (!pg_mutant("shards_keep_a_removed_map"))
				forget_shard(a, &a->shard[i], m);
	}
	leave_all(a);
}

uint64_t pgmap_allocator_nr_free(struct pgmap_allocator *a)
{
	uint64_t nr, blocks = 0;

	enter_all(a);
	for (uint32_t i = 0; i < PG_NR_SHARDS; i++)
		blocks += a->shard[i].nr + a->shard[i].nr_run;
	nr = a->nr_free;
	if (blocks)
		nr += blocks * pages(pg_load(&a->order, relaxed));
	leave_all(a);
	return nr;
}

int pgmap_allocator_create(struct pgmap_allocator **a)
{
	*a = pg_mem_map(sizeof(**a));
	if (!*a)
		return -ENOMEM;
	pg_store(&(*a)->order, NO_ORDER, relaxed);
	return 0;
}

void pgmap_allocator_destroy(struct pgmap_allocator *a)
{
	if (!a)
		return;
	for (uint32_t id = 1; id <= PG_NR_MAPS; id++)
		pg_mem_unmap(a->by_id[id], sizeof(*a->by_id[id]));
	pg_mem_unmap(a, sizeof(*a));
}

/* ---- allocator.h ---- */

uint64_t pg_allocator_used(struct pgmap_allocator *a, const struct pgmap *map)
{
	const struct pg_alloc_map *m;
	struct pgmap_range range;
	uint64_t used = 0;

	pgmap_range_get(map, 0, &range);
	pg_lock(&a->lock, LOCK_DEVICE);
	m = a->by_id[pg_map_id(map)];
	if (m && m->nr_range)
		used = fresh_of(&m->range[0]) - range.pfn;
	pg_unlock(&a->lock, LOCK_DEVICE);
	return used;
}

#define MUST(cond, rule)                                                       \
	do {                                                                   \
		if (!(cond))                                                   \
			return rule ": " #cond;                                \
	} while (0)

static const char *check_block(struct pg_alloc_map *m, uint64_t pfn,
			       unsigned int order)
{
	const struct pg_alloc_range *r = range_of(m, pfn);

	MUST(r && pfn + pages(order) <= fresh_of(r), "R45");
	MUST(order >= m->order, "R45");
	MUST((pfn & (pages(order) - 1)) == 0, "R45");
	MUST(pgmap_folio_count(record(m, pfn)) == 0, "R30");
	return NULL;
}

static const char *check_lists(struct pgmap_allocator *a,
			       struct pg_alloc_map *m, uint64_t *nr)
{
	const char *broken;

	for (unsigned int o = 0; o <= PGMAP_MAX_ORDER; o++) {
		uint64_t prev = 0, pfn = m->free[o];

		MUST(!pfn == !(m->orders & 1u << o), "R45");
		for (; pfn; prev = pfn, pfn = next_of(record(m, pfn))) {
			const struct pgmap_folio *f = record(m, pfn);

			broken = check_block(m, pfn, o);
			if (broken)
				return broken;
			MUST(listed_order(f) == o + 1, "R45");
			MUST(prev_of(f) == prev, "R45");
			*nr += pages(o);
			MUST(*nr <= a->nr_free, "R45");
		}
	}
	for (uint32_t i = 0; i < m->nr_range; i++)
		*nr += m->range[i].end - fresh_of(&m->range[i]);
	return NULL;
}

static const char *check_at_hand(const struct pgmap_allocator *a,
				 uint64_t block, unsigned int order)
{
	struct pg_alloc_map *m = map_of(a, block);
	const char *broken;

	MUST(m && m->live, "R14");
	broken = check_block(m, block & PFN_MASK, order);
	if (broken)
		return broken;
	/* Nor is any part of it elsewhere. */
	for (uint64_t i = 0; i < pages(order); i += pages(m->order)) {
		const struct pgmap_folio *f = record(m, (block & PFN_MASK) + i);

		MUST(!listed_order(f), "R45");
		MUST(pgmap_folio_count(f) == 0, "R30");
	}
	return NULL;
}

static const char *check_shard(const struct pgmap_allocator *a,
			       const struct pg_alloc_shard *s,
			       unsigned int order, uint64_t *nr)
{
	const char *broken = NULL;

	for (uint32_t i = 0; i < s->nr && !broken; i++)
		broken = check_at_hand(a, s->block[i], order);
	for (uint64_t i = 0; i < s->nr_run && !broken; i++)
		broken = check_at_hand(a, s->run + (i << order), order);
	if (s->nr || s->nr_run)
		*nr += (s->nr + s->nr_run) << order;
	return broken;
}

static const char *check_all(struct pgmap_allocator *a, uint64_t *nr_free)
{
	unsigned int order = pg_load(&a->order, relaxed);
	const char *broken = NULL;
	uint64_t nr = 0;

	for (struct pg_alloc_map *m = a->maps; m && !broken; m = m->next)
		broken = check_lists(a, m, &nr);
	if (broken)
		return broken;
	MUST(nr == a->nr_free, "R45");
	for (uint32_t i = 0; i < PG_NR_SHARDS && !broken; i++)
		broken = check_shard(a, &a->shard[i], order, &nr);
	if (broken)
		return broken;
	*nr_free = nr;
	return NULL;
}

const char *pg_allocator_check(struct pgmap_allocator *a, uint64_t *nr_free)
{
	const char *broken;

	*nr_free = 0;
	enter_all(a);
	broken = check_all(a, nr_free);
	leave_all(a);
	return broken;
}
