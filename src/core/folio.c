/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/folio.h"

#include <errno.h>

#include "base/bug.h"
#include "base/lock.h"
#include "base/mutant.h"
#include "core/group.h"
#include "core/pagemap.h"

#define F_LOCKED (1u << 0)
#define F_WAITED (1u << 1) /* somebody sleeps for the lock */
#define F_HEAD (1u << 2)   /* handed out; stays while the count is frozen */
/* PG_FOLIO_DIRTY, _YOUNG and _POISON are bits 3, 4 and 5. */
#define F_MARKS (PG_FOLIO_DIRTY | PG_FOLIO_YOUNG | PG_FOLIO_POISON)
#define F_RESERVED (1u << 6)
#define F_ORDER_SHIFT 8
#define F_ORDER_MASK 0x1f00u
#define F_MAP_SHIFT 16
#define F_MAP_MASK 0x7ff0000u
/* Goes up by one when it is handed out: who waits for the end of a life knows
 * that it has ended though the next one has begun. Only where the end did not
 * see who waits: see struct waiter. */
#define F_LIFE (1u << 13)
#define F_LIFE_MASK 0xe000u
/* The rest is the allocator's: PG_FOLIO_LISTED_MASK. */

_Static_assert(PG_NR_MAPS <= F_MAP_MASK >> F_MAP_SHIFT, "11 bits");
_Static_assert(PGMAP_MAX_ORDER <= F_ORDER_MASK >> F_ORDER_SHIFT, "5 bits");

static unsigned int order_of(uint32_t flags)
{
	return (flags & F_ORDER_MASK) >> F_ORDER_SHIFT;
}

unsigned int pgmap_folio_order(const struct pgmap_folio *folio)
{
	return order_of(pg_load(&folio->flags, relaxed));
}

uint32_t pgmap_folio_count(const struct pgmap_folio *folio)
{
	return pg_load(&folio->count, relaxed);
}

uint32_t pgmap_folio_mapcount(const struct pgmap_folio *folio)
{
	return pg_load(&folio->mapcount, relaxed);
}

uint32_t pgmap_folio_pins(const struct pgmap_folio *folio)
{
	if (pg_mutant("pin_is_guessed_from_the_count"))
		return pgmap_folio_count(folio) >= 1024;
	return pg_load(&folio->pins, relaxed);
}

struct pgmap *pgmap_folio_map(const struct pgmap_folio *folio)
{
	return pg_map_of((pg_load(&folio->flags, relaxed) & F_MAP_MASK) >>
			 F_MAP_SHIFT);
}

/* The range of the record, and its number there. */
static struct pg_map_range *range_of(const struct pgmap_folio *folio,
				     uint64_t *i)
{
	struct pgmap *map = pgmap_folio_map(folio);

	for (uint32_t k = 0; k < map->nr_range; k++) {
		struct pg_map_range *r = &map->range[k];
		uint64_t nr = pg_load(&r->nr, relaxed) >> map->folio_order;

		if (folio >= r->folios && folio < r->folios + nr) {
			*i = (uint64_t)(folio - r->folios);
			return r;
		}
	}
	pg_bug("folio outside its map", __FILE__, __LINE__);
}

uint64_t pgmap_folio_pfn(const struct pgmap_folio *folio)
{
	uint64_t i;
	const struct pg_map_range *r = range_of(folio, &i);

	return pg_load(&r->pfn, relaxed) +
	       (i << pgmap_folio_map(folio)->folio_order);
}

static uint64_t nr_pages(const struct pgmap_folio *folio)
{
	return (uint64_t)1 << pgmap_folio_order(folio);
}

/* Records of a folio of @map. */
static uint64_t nr_records(const struct pgmap *map, unsigned int order)
{
	return (uint64_t)1 << (order - map->folio_order);
}

/* Where the file system or the device says what a page is, and not we. */
static bool keeps_mapping(const struct pgmap *map)
{
	return map->type == PGMAP_FS_DAX || map->type == PGMAP_GENERIC;
}

/* ---- From a page to its folio ---- */

/*
 * The one head whose run has the page; tails are no heads. A head of order o
 * is at a multiple of 2^o, so it is the page itself or one that is found by
 * clearing its low bits, one after the other. Only a hint, but under what
 * keeps the folio in use.
 */
static struct pgmap_folio *find_head(const struct pg_place *p, uint64_t pfn)
{
	uint64_t head = pfn & ~(((uint64_t)1 << p->order) - 1);
	uint64_t end = pfn >> PGMAP_MAX_ORDER << PGMAP_MAX_ORDER;

	if (end < p->first)
		end = p->first;
	for (;;) {
		struct pgmap_folio *f =
			p->folios + ((head - p->first) >> p->order);
		uint32_t v = pg_load(&f->flags, relaxed);

		if (v & F_HEAD && pfn - head < (uint64_t)1 << order_of(v))
			return f;
		if (head <= end)
			return NULL;
		head &= head - 1;
		if (head < end)
			return NULL;
	}
}

static struct pgmap_folio *find_in(struct pgmap *map, uint64_t pfn)
{
	const struct pg_map_range *r = pg_map_range_of(map, pfn);
	struct pg_place p;

	pg_bug_on(!r);
	p = (struct pg_place){.first = pg_load(&r->pfn, relaxed),
			      .folios = r->folios,
			      .order = map->folio_order};
	return find_head(&p, pfn);
}

struct pgmap_folio *pg_map_head(const struct pgmap *map, uint64_t pfn)
{
	struct pgmap_folio *head = find_in(pg_map_of(pg_map_id(map)), pfn);

	pg_bug_on(!head); /* page of no folio */
	return head;
}

struct pgmap_folio *pgmap_tryget_pfn(uint64_t pfn)
{
	struct pg_place p;

	while (pg_map_find(pfn, &p)) {
		struct pgmap_folio *folio = find_head(&p, pfn);
		uint64_t first;

		if (pg_mutant("tail_tryget"))
			folio = p.folios + ((pfn - p.first) >> p.order);
		if (pg_mutant("head_not_looked_at_again"))
			pg_yield();
		if (!folio || !pgmap_folio_tryget(folio))
			return NULL;
		if (pg_mutant("reserved_is_special") &&
		    pgmap_folio_reserved(folio)) {
			pgmap_folio_put(folio);
			return NULL;
		}
		/* It holds still now: is it what we were looking for? It may
		 * have been split, or be of another map by now (N52). */
		first = pgmap_folio_pfn(folio);
		if ((pfn >= first && pfn - first < nr_pages(folio)) ||
		    pg_mutant("head_not_looked_at_again"))
			return folio;
		pgmap_folio_put(folio);
	}
	return NULL;
}

struct pgmap_folio *pg_held_folio(uint64_t pfn)
{
	struct pgmap_folio *folio = NULL;
	struct pg_place p;

	if (pg_map_find(pfn, &p))
		folio = find_head(&p, pfn);
	pg_bug_on(!folio);
	return folio;
}

/* ---- Poison ---- */

static bool is_bad(const struct pg_map_range *r, uint64_t k, uint64_t nr)
{
	if (!pg_load(&r->nr_bad, seq_cst))
		return false;
	for (uint64_t end = k + nr; k < end; k++)
		if (pg_load(&r->bad[k / 64], seq_cst) >> k % 64 & 1)
			return true;
	return false;
}

/* Has the folio that begins at the record, with @order, a bad page? Its mark
 * may be still to come. */
static bool range_is_bad(const struct pgmap_folio *folio, unsigned int order)
{
	uint64_t i;
	const struct pg_map_range *r = range_of(folio, &i);

	return is_bad(r, i << pgmap_folio_map(folio)->folio_order,
		      (uint64_t)1 << order);
}

/* Is the page in no folio, or in one that can be held? Not so while it is
 * being handed out, freed, joined or split. */
static bool is_settled(struct pgmap *map, const struct pg_map_range *r,
		       uint64_t pfn)
{
	uint64_t k = pfn - pg_load(&r->pfn, relaxed);
	struct pgmap_folio *folio;

	if (!pg_range_is_claimed(r, k >> map->folio_order))
		return true;
	folio = find_in(map, pfn);
	return folio && pg_load(&folio->count, acquire);
}

void pg_pfn_poison(struct pgmap *map, uint64_t pfn, bool bad)
{
	struct pg_map_range *r = pg_map_range_of(map, pfn);
	uint64_t k, bit;

	pg_bug_on(!r);
	k = pfn - pg_load(&r->pfn, relaxed);
	bit = (uint64_t)1 << k % 64;
	if (!bad) {
		if (pg_fetch_and(&r->bad[k / 64], ~bit, seq_cst) & bit)
			pg_fetch_sub(&r->nr_bad, 1, seq_cst);
		return;
	}
	pg_fetch_add(&r->nr_bad, 1, seq_cst);
	if (pg_fetch_or(&r->bad[k / 64], bit, seq_cst) & bit)
		pg_fetch_sub(&r->nr_bad, 1, seq_cst);
	/* A hand-out claims and then looks whether a page is bad; we said so
	 * and look at the claims: it sees us, or we see it and wait until it
	 * can be held, so that it is told. */
	while (!is_settled(map, r, pfn))
		pg_yield();
}

bool pg_pfn_in_use(const struct pgmap *map, uint64_t pfn)
{
	const struct pg_map_range *r =
		pg_map_range_of(pg_map_of(pg_map_id(map)), pfn);

	return r && pg_range_is_claimed(r, (pfn - pg_load(&r->pfn, relaxed)) >>
						   map->folio_order);
}

bool pg_pfn_poisoned(const struct pgmap *map, uint64_t pfn)
{
	const struct pg_map_range *r =
		pg_map_range_of(pg_map_of(pg_map_id(map)), pfn);

	return r && is_bad(r, pfn - pg_load(&r->pfn, relaxed), 1);
}

/* ---- 0 to 1 ---- */

/*
 * Claim the pages and what keeps the map alive for them. Everything that can
 * fail is here: what follows only writes.
 */
static int claim(struct pgmap *map, uint64_t pfn, uint64_t nr,
		 struct pgmap_folio **first)
{
	struct pg_map_range *r;
	uint64_t k;
	int ret = -EINVAL;

	if (!pg_map_tryget_live(map, nr))
		return -ENODEV;
	r = pg_map_range_of(map, pfn);
	if (!r)
		goto err_put;
	k = pfn - pg_load(&r->pfn, relaxed);
	if (nr > pg_load(&r->nr, relaxed) - k ||
	    (pfn | nr) & (((uint64_t)1 << map->folio_order) - 1))
		goto err_put;
	if (pg_map_is_reserved(map, pfn) && !pg_mutant("own_pages_handed_out"))
		goto err_put;
	/* R33: of many who want a page one gets it. */
	ret = pg_range_claim(r, k >> map->folio_order, nr >> map->folio_order);
	if (ret)
		goto err_put;
	if (is_bad(r, k, nr) && !pg_mutant("poison_handed_out")) {
		pg_range_unclaim(r, k >> map->folio_order,
				 nr >> map->folio_order);
		ret = -EHWPOISON;
		goto err_put;
	}
	*first = &r->folios[k >> map->folio_order];
	return 0;

err_put:
	if (!pg_mutant("refusal_keeps_references"))
		pg_map_put_many(map, nr);
	return ret;
}

/* The record is ours: nobody else can see the folio before its count is up. */
static void hand_out(struct pgmap *map, struct pgmap_folio *folio,
		     unsigned int order)
{
	uint32_t last = pg_load(&folio->flags, relaxed);

	pg_bug_on(pg_load(&folio->count, relaxed) != 0);
	pg_bug_on(pg_load(&folio->mapcount, relaxed) != 0);
	for (uint64_t i = 1;
	     i < nr_records(map, order) && pg_mutant("tails_are_initialised");
	     i++)
		pg_store(&folio[i].flags, 0, relaxed);
	for (uint64_t i = 1; last && i < nr_records(map, order_of(last)) &&
			     pg_mutant("old_folio_is_initialised");
	     i++)
		pg_store(&folio[i].flags, 0, relaxed);
	if (pg_mutant("count_before_the_rest")) {
		pg_store(&folio->count, 1, release);
		pg_yield();
	}
	/* R35: whatever the last life left in the words of the head. */
	if (pg_mutant("stale_order"))
		order = order_of(last);
	pg_store(&folio->flags,
		 (pg_mutant("handed_out_unlocked") ? 0 : F_LOCKED) | F_HEAD |
			 F_RESERVED | order << F_ORDER_SHIFT |
			 pg_map_id(map) << F_MAP_SHIFT |
			 ((last + F_LIFE) & F_LIFE_MASK),
		 relaxed);
	if (!keeps_mapping(map) && !pg_mutant("stale_mapping")) {
		folio->mapping = 0;
		folio->index = 0;
	}
	folio->group = 0;
	pg_store(&folio->pins, 0, relaxed);
	/* The last: whoever takes a reference sees all of it. */
	pg_store(&folio->count, 1, release);
}

int pgmap_get_folio(struct pgmap *map, uint64_t pfn, unsigned int order,
		    struct pgmap_folio **out)
{
	struct pgmap_folio *folio;
	int ret;

	if (order > PGMAP_MAX_ORDER || pfn & (((uint64_t)1 << order) - 1))
		return -EINVAL;
	ret = claim(map, pfn, (uint64_t)1 << order, &folio);
	if (ret)
		return ret;
	hand_out(map, folio, order);
	*out = folio;
	return 0;
}

/* The largest folio that begins at @pfn and fits into @nr pages. */
static unsigned int largest(uint64_t pfn, uint64_t nr)
{
	unsigned int o = 0;

	while (o < PGMAP_MAX_ORDER && !(pfn >> o & 1) && nr >> o > 1)
		o++;
	return o;
}

int pgmap_get_folios(struct pgmap *map, uint64_t pfn, uint64_t nr,
		     struct pgmap_folio **folios, size_t max, size_t *n)
{
	uint64_t end = pfn + nr, at;
	struct pgmap_folio *first;
	int ret;

	if (!nr || end < pfn || nr > PGMAP_END_PFN)
		return -EINVAL;
	*n = 0;
	for (at = pfn; at < end; at += (uint64_t)1 << largest(at, end - at))
		++*n;
	if (*n > max)
		return -ENOSPC;
	ret = claim(map, pfn, nr, &first);
	if (ret)
		return ret;
	for (at = pfn; at < end;) {
		unsigned int o = largest(at, end - at);

		if (pg_mutant("range_as_single_pages"))
			o = map->folio_order;
		*folios = first + ((at - pfn) >> map->folio_order);
		hand_out(map, *folios++, o);
		at += (uint64_t)1 << o;
	}
	return 0;
}

/* ---- Who waits until it is idle ---- */

/*
 * Those who wait are few, so the words that they need are not in the record.
 * Waking a neighbour does no harm: it looks again.
 */
#define NR_QUEUES 64u

/* On the stack of who waits. The end of the folio's life takes it out of the
 * queue and says so, so that lives that follow, however many, are not taken
 * for the one that was waited for. */
struct waiter {
	const struct pgmap_folio *folio;
	struct waiter *next; /* queue's lock; then of who took it out */
	bool queued;	     /* queue's lock */
	pg_atomic32 ended;   /* release up, the last that is done to it */
};

static struct queue {
	_Alignas(64) pg_atomic32 seq; /* release up; acquire */
	pg_atomic32 waiters;	      /* seq_cst */
	struct pg_lock lock;	      /* LOCK_LEAF */
	struct waiter *first;
} queues[NR_QUEUES];

static struct queue *queue_of(const struct pgmap_folio *folio)
{
	return &queues[(uintptr_t)folio / sizeof(*folio) % NR_QUEUES];
}

static void queue_wake(struct queue *q)
{
	if (!pg_load(&q->waiters, seq_cst))
		return;
	pg_fetch_add(&q->seq, 1, release);
	pg_wake(&q->seq);
}

static void idle_wake(const struct pgmap_folio *folio)
{
	queue_wake(queue_of(folio));
}

static void idle_wake_all(void)
{
	for (uint32_t i = 0; i < NR_QUEUES; i++)
		queue_wake(&queues[i]);
}

/*
 * Those who wait for the life that the caller is about to end. Who comes too
 * late to be among them sees that it ends, or is among those of a later life.
 */
static struct waiter *take_waiters(const struct pgmap_folio *folio)
{
	struct queue *q = queue_of(folio);
	struct waiter *taken = NULL, **at = &q->first;

	if (!pg_load(&q->waiters, seq_cst) || pg_mutant("lives_are_counted"))
		return NULL;
	pg_lock(&q->lock, LOCK_LEAF);
	while (*at) {
		struct waiter *w = *at;

		if (w->folio != folio) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		w->queued = false;
		w->next = taken;
		taken = w;
	}
	pg_unlock(&q->lock, LOCK_LEAF);
	return taken;
}

/* The life has ended. Who waits may be gone as soon as it is told. */
static void tell_waiters(struct waiter *w)
{
	while (w) {
		struct waiter *next = w->next;

		pg_store(&w->ended, 1, release);
		w = next;
	}
}

static void enqueue(struct queue *q, struct waiter *w)
{
	pg_lock(&q->lock, LOCK_LEAF);
	w->queued = true;
	w->next = q->first;
	q->first = w;
	pg_unlock(&q->lock, LOCK_LEAF);
	/* seq_cst: either the last put sees us, or we see that it was. */
	pg_fetch_add(&q->waiters, 1, seq_cst);
}

static void dequeue(struct queue *q, struct waiter *w)
{
	struct waiter **at = &q->first;

	pg_lock(&q->lock, LOCK_LEAF);
	if (w->queued) {
		while (*at != w)
			at = &(*at)->next;
		*at = w->next;
	}
	pg_unlock(&q->lock, LOCK_LEAF);
	/* Who has taken us out writes to us once more. */
	while (!w->queued && !pg_load(&w->ended, acquire))
		pg_yield();
	pg_fetch_sub(&q->waiters, 1, release);
}

/* ---- Construct and split ---- */

/* A record that is no head any more, of a folio that is frozen. */
static void make_tail(const struct pgmap *map, struct pgmap_folio *folio)
{
	struct waiter *waiters = take_waiters(folio);
	uint32_t was;

	folio->group = 0;
	if (!keeps_mapping(map)) {
		folio->mapping = 0;
		folio->index = 0;
	}
	was = pg_fetch_and(&folio->flags, ~(F_HEAD | F_LOCKED | F_WAITED),
			   seq_cst);
	tell_waiters(waiters);
	if (was & F_WAITED)
		pg_wake(&folio->flags);
}

static void set_order(struct pgmap_folio *folio, unsigned int order)
{
	/* Others may set F_WAITED meanwhile. */
	pg_fetch_add(&folio->flags,
		     (order - pgmap_folio_order(folio)) << F_ORDER_SHIFT,
		     relaxed);
}

/* May the folio become a part of one that @head begins? */
static int check_piece(const struct pgmap_folio *head,
		       const struct pgmap_folio *f, unsigned int order)
{
	uint32_t v = pg_load(&f->flags, relaxed);

	if (!(v & F_HEAD) || !(v & F_LOCKED) || order_of(v) >= order ||
	    f->group != head->group)
		return -EINVAL;
	return 0;
}

static int freeze_piece(struct pgmap_folio *f)
{
	if (!pg_folio_freeze(f, 1) &&
	    !(pg_mutant("construct_ignores_others") &&
	      pg_folio_freeze(f, pgmap_folio_count(f))))
		return -EBUSY;
	if (pg_load(&f->mapcount, relaxed) || pg_load(&f->pins, relaxed)) {
		pg_folio_unfreeze(f, 1);
		return -EBUSY;
	}
	return 0;
}

int pgmap_construct_folio(struct pgmap *map, uint64_t pfn, unsigned int order,
			  struct pgmap_folio **folio)
{
	struct pgmap_folio *head = pg_map_folio(map, pfn), *end, *f;
	uint32_t marks = 0;
	int ret = 0;

	if (!head || order > PGMAP_MAX_ORDER || order <= map->folio_order ||
	    pfn & (((uint64_t)1 << order) - 1))
		return -EINVAL;
	end = head + nr_records(map, order);
	if (pg_map_folio(map, pfn + ((uint64_t)1 << order) - 1) != end - 1)
		return -EINVAL;
	for (f = head; f < end && !ret;) {
		ret = check_piece(head, f, order);
		if (!ret)
			ret = freeze_piece(f);
		if (!ret)
			f += nr_records(map, pgmap_folio_order(f));
	}
	if (ret) {
		for (end = f, f = head; f < end;) {
			uint64_t n = nr_records(map, pgmap_folio_order(f));

			pg_folio_unfreeze(f, 1);
			f += n;
		}
		return ret;
	}
	/* All are frozen: nobody but us can have to do with them. */
	for (f = head; f < end;) {
		uint64_t n = nr_records(map, pgmap_folio_order(f));

		marks |= pg_load(&f->flags, relaxed) & F_MARKS;
		if (f != head)
			make_tail(map, f);
		f += n;
	}
	set_order(head, order);
	if (range_is_bad(head, order))
		marks |= PG_FOLIO_POISON;
	pg_folio_mark(head, marks);
	pg_folio_unfreeze(head, 1);
	/* Who waited for a folio that is a tail now waits for nothing. */
	idle_wake_all();
	*folio = head;
	return 0;
}

/* Record @i of the frozen folio @head begins one of its own. */
static void cut_off(const struct pgmap *map, struct pgmap_folio *head,
		    uint64_t i, unsigned int order)
{
	uint32_t flags = pg_load(&head->flags, relaxed);
	struct pgmap_folio *tail = head + i;
	uint32_t last = pg_load(&tail->flags, relaxed);

	pg_bug_on(pg_load(&tail->count, relaxed) != 0);
	pg_bug_on(pg_load(&tail->mapcount, relaxed) != 0);
	tail->mapping = head->mapping;
	tail->index = head->mapping ? (head->index + (i << map->folio_order)) &
					      PG_INDEX_MASK
				    : 0;
	tail->group = head->group;
	pg_store(&tail->pins, 0, relaxed);
	pg_store(&tail->flags,
		 (flags & (F_RESERVED | F_MAP_MASK | F_MARKS)) | F_LOCKED |
			 F_HEAD | order << F_ORDER_SHIFT |
			 ((last + F_LIFE) & F_LIFE_MASK),
		 relaxed);
}

/* What the driver is told, in order of pfn (R108). */
static void tell_split(struct pgmap *map, struct pgmap_folio *head, uint64_t nr,
		       uint64_t step)
{
	if (!map->ops.folio_split)
		return;
	for (uint64_t i = step; i < nr; i += step)
		map->ops.folio_split(head, head + i);
	if (!pg_mutant("split_without_an_end"))
		map->ops.folio_split(head, NULL);
}

int pgmap_split_folio(struct pgmap_folio *folio, unsigned int order)
{
	struct pgmap *map = pgmap_folio_map(folio);
	uint32_t flags = pg_load(&folio->flags, relaxed);
	uint64_t nr, step;
	bool bad;

	if (!(flags & F_LOCKED) || order >= order_of(flags) ||
	    order < map->folio_order)
		return -EINVAL;
	if (!pg_folio_freeze(folio, 1)) {
		if (pg_mutant("failed_split_leaks"))
			pgmap_folio_get(folio);
		return -EAGAIN;
	}
	if (pg_load(&folio->mapcount, relaxed) ||
	    (pg_load(&folio->pins, relaxed) &&
	     !pg_mutant("split_ignores_pins"))) {
		pg_folio_unfreeze(folio, 1);
		return -EAGAIN;
	}
	flags = pg_load(&folio->flags, relaxed);
	nr = nr_records(map, order_of(flags));
	step = nr_records(map, order);
	for (uint64_t i = step; i < nr; i += step)
		cut_off(map, folio, i, order);
	set_order(folio, order);
	/* Most have nothing bad. What goes bad after this look is marked by
	 * pg_memory_failure(), which waits until a piece can be held. */
	bad = flags & PG_FOLIO_POISON || range_is_bad(folio, order_of(flags));
	for (uint64_t i = 0; i < nr && bad; i += step) {
		pg_folio_unmark(folio + i, PG_FOLIO_POISON);
		if (range_is_bad(folio + i, order))
			pg_folio_mark(folio + i, PG_FOLIO_POISON);
	}
	tell_split(map, folio, nr, step);
	for (uint64_t i = step; i < nr; i += step)
		pg_folio_unfreeze(folio + i,
				  pg_mutant("split_leaks_a_reference") ? 2 : 1);
	pg_folio_unfreeze(folio, 1);
	return 0;
}

/* ---- References ---- */

bool pgmap_folio_tryget(struct pgmap_folio *folio)
{
	uint32_t v = pg_load(&folio->count, relaxed);

	do {
		if (!v && !pg_mutant("tryget_takes_idle"))
			return false;
		pg_misuse_on(v == UINT32_MAX && !pg_mutant("tryget_wraps"),
			     "a folio is held more often than can be counted");
		if (pg_mutant("dying_map_stops_holders") &&
		    pgmap_is_dying(pgmap_folio_map(folio)))
			return false;
	} while (!pg_cas(&folio->count, &v, v + 1, acquire));
	return true;
}

void pgmap_folio_get(struct pgmap_folio *folio)
{
	uint32_t was = pg_fetch_add(&folio->count, 1, relaxed);

	pg_misuse_on(was == 0 || was == UINT32_MAX,
		     "a reference is taken on a folio that nobody holds (R55)");
}

/* It is no head any more. Only where it is locked can somebody be about to
 * sleep for it. */
static void unlock_last(struct pgmap_folio *folio)
{
	uint32_t v = pg_load(&folio->flags, relaxed);
	uint32_t gone = F_HEAD | F_LOCKED | F_WAITED;

	if (!(v & F_LOCKED))
		pg_store(&folio->flags, v & ~gone, relaxed);
	else if (pg_fetch_and(&folio->flags, ~gone, relaxed) & F_WAITED)
		pg_wake(&folio->flags);
}

/*
 * The end of a life, in this order (R38). The count is 0 and the pages are
 * claimed still: ours alone. After the claims are gone the folio may be
 * somebody else's (R40): only what was saved may be used.
 */
static void free_folio(struct pgmap_folio *folio)
{
	struct pgmap *map = pgmap_folio_map(folio);
	unsigned int order = pgmap_folio_order(folio);
	uint64_t nr = (uint64_t)1 << order, i;
	struct pg_map_range *r = range_of(folio, &i);
	struct waiter *waiters;
	bool told = map->ops.folio_free && !pg_mutant("free_untold") &&
		    !(map->type == PGMAP_PCI_P2PDMA &&
		      pg_mutant("p2pdma_free_untold"));

	pg_bug_on(pg_load(&folio->mapcount, relaxed) != 0);
	pg_bug_on(pg_load(&folio->pins, relaxed) != 0);
	if (pg_mutant("wake_before_the_rest")) {
		idle_wake(folio);
		pg_wait(&folio->count, 0, 10000000); /* who woke is quicker */
	}
	pg_group_release(folio);
	if (!keeps_mapping(map) && !pg_mutant("stale_mapping"))
		folio->mapping = 0;
	if (keeps_mapping(map) && pg_mutant("dax_mapping_lost_at_free"))
		folio->mapping = 0;
	unlock_last(folio);
	waiters = take_waiters(folio);
	/* The last that is done to the page; partner: life(). */
	pg_range_unclaim(r, i, nr_records(map, order));
	tell_waiters(waiters);
	if (pg_mutant("references_dropped_first"))
		pg_map_put_many(map, nr);
	if (told)
		map->ops.folio_free(folio);
	if (pg_mutant("reset_after_free") ||
	    (pg_mutant("generic_rests_at_one") && map->type == PGMAP_GENERIC))
		pg_store(&folio->count, 1, relaxed);
	if (pg_mutant("pgmap_read_after_free")) {
		map = pgmap_folio_map(folio);
		nr = nr_pages(folio);
	}
	if (!pg_mutant("references_dropped_first"))
		pg_map_put_many(map,
				pg_mutant("one_reference_dropped") ? 1 : nr);
	if (!pg_mutant("wake_before_the_rest") &&
	    !(pg_mutant("wake_lost_when_used_again") &&
	      pgmap_folio_count(folio)))
		idle_wake(folio);
}

void pg_folio_put_many(struct pgmap_folio *folio, uint32_t n)
{
	uint32_t was = pg_fetch_sub(&folio->count, n, acq_rel);

	pg_misuse_on(was < n && !pg_mutant("underflow_unnoticed"),
		     "a folio is put more often than it was taken (R55)");
	if (was == n)
		free_folio(folio);
}

void pgmap_folio_put(struct pgmap_folio *folio)
{
	pg_folio_put_many(folio, 1);
}

void pgmap_folio_pin(struct pgmap_folio *folio)
{
	pg_misuse_on(!pg_load(&folio->count, relaxed) &&
			     !pg_mutant("idle_folio_is_pinned"),
		     "a folio is pinned that nobody holds");
	pg_fetch_add(&folio->pins, 1, relaxed);
}

void pgmap_folio_unpin(struct pgmap_folio *folio)
{
	pg_misuse_on(pg_fetch_sub(&folio->pins, 1, relaxed) == 0,
		     "a folio is unpinned more often than it was pinned");
	pgmap_folio_put(folio);
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

/* ---- Waiting until it is idle ---- */

enum { GOES_ON, HAS_ENDED, ENDS };

/* The life that the folio of @map had with @flags: has it ended? */
static int life(struct pgmap *map, struct pgmap_folio *folio, uint32_t flags)
{
	/* seq_cst: partner in make_tail(). */
	uint32_t v = pg_load(&folio->flags, seq_cst);
	struct pg_map_range *r;
	uint64_t i;

	if ((v ^ flags) & (F_LIFE_MASK | F_MAP_MASK))
		return HAS_ENDED;
	r = range_of(folio, &i);
	/* seq_cst: partner in free_folio(). */
	if (!pg_range_is_claimed(r, i))
		return HAS_ENDED;
	if (v & F_HEAD)
		return GOES_ON;
	/* A tail of something larger by now, or a few instructions more. */
	return is_settled(map, r, pgmap_folio_pfn(folio)) ? HAS_ENDED : ENDS;
}

static int wait_idle(struct pgmap *map, struct pgmap_folio *folio,
		     uint32_t flags, uint64_t timeout_ns)
{
	struct waiter w = {.folio = folio};
	struct queue *q = queue_of(folio);
	uint64_t left = timeout_ns;
	int ret = 0;

	enqueue(q, &w);
	for (;;) {
		uint32_t seq = pg_load(&q->seq, acquire);
		int now = pg_load(&w.ended, acquire) ? HAS_ENDED
						     : life(map, folio, flags);

		if (now == HAS_ENDED)
			break;
		if (timeout_ns && !left) {
			ret = -ETIMEDOUT;
			break;
		}
		if (now == ENDS)
			pg_yield();
		else if (timeout_ns)
			pg_wait_left(&q->seq, seq, &left);
		else
			pg_wait(&q->seq, seq, 0);
	}
	dequeue(q, &w);
	return ret;
}

int pgmap_folio_wait_idle(struct pgmap_folio *folio, uint64_t timeout_ns)
{
	uint32_t flags = pg_load(&folio->flags, relaxed);
	struct pgmap *map;
	int ret;

	if (!(flags & F_MAP_MASK))
		return 0; /* never handed out */
	/* The last put may be followed by the end of the map before we have
	 * looked. Where no reference can be had all pages are idle. */
	map = pgmap_folio_map(folio);
	if (!pg_mutant("who_waits_holds_no_map") && !pg_map_tryget(map))
		return 0;
	ret = wait_idle(map, folio, flags, timeout_ns);
	if (!pg_mutant("who_waits_holds_no_map"))
		pg_map_put_many(map, 1);
	return ret;
}

/* ---- Marks ---- */

void pg_folio_mark(struct pgmap_folio *folio, uint32_t marks)
{
	pg_fetch_or(&folio->flags, marks & F_MARKS, relaxed);
}

void pg_folio_unmark(struct pgmap_folio *folio, uint32_t marks)
{
	pg_fetch_and(&folio->flags, ~(marks & F_MARKS), relaxed);
}

bool pg_folio_marked(const struct pgmap_folio *folio, uint32_t mark)
{
	return pg_load(&folio->flags, relaxed) & mark & F_MARKS;
}

bool pgmap_folio_reserved(const struct pgmap_folio *folio)
{
	return pg_load(&folio->flags, relaxed) & F_RESERVED;
}

void pgmap_folio_set_reserved(struct pgmap_folio *folio, bool reserved)
{
	if (reserved)
		pg_fetch_or(&folio->flags, F_RESERVED, relaxed);
	else
		pg_fetch_and(&folio->flags, ~F_RESERVED, relaxed);
}

/* ---- The lock ---- */

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

	pg_misuse_on(!(was & F_LOCKED),
		     "a folio is unlocked that is not locked");
	if (was & F_WAITED)
		pg_wake(&folio->flags);
}
