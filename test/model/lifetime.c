/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Random sequences of every call of pagemap.h against the simplest model of
 * what they mean: which page is in which folio, and who holds it.
 *
 * A sequence starts in an empty world and means the same wherever it is cut,
 * so one that fails is shortened until nothing can be left out, and printed.
 * Each runs in a process of its own: to abort is to fail. PGMAP_STEPS is the
 * number of steps, PGMAP_SEED the first sequence.
 */
#include <errno.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/folio.h"
#include "core/pagemap.h"
#include "test.h"

#ifndef __has_feature
#define __has_feature(x) 0
#endif

#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
#define STEPS 100000u
#elif defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define STEPS 1000000u
#else
#define STEPS 10000000u
#endif
#define LENGTH 1000u /* steps of a sequence */
/* ... and of a process: to start one costs as much as many steps. */
#define BATCH 100u

#define SUB PGMAP_SUBSECTION_PAGES
#define NR_SUBS 8u /* of the world's page numbers */
#define NR_PAGES (NR_SUBS * SUB)
#define BASE (PGMAP_FIRST_DEVICE_PFN + 64 * SUB)
#define NR_SLOTS 4u
#define NR_GROUPS 2u
#define LIMIT 600u

/* ---- The model ---- */

struct folio {
	struct pgmap_folio *real;
	uint32_t slot, first, nr; /* page numbers from BASE */
	uint32_t count, pins;
	uint32_t group; /* + 1; 0 none */
	bool reserved;
};

static struct slot {
	struct pgmap *map; /* NULL: no map */
	enum pgmap_type type;
	bool dying;
	uint32_t order, reserve; /* pages of the first range */
	uint32_t nr_range, first[2], nr[2];
	uint32_t lookups; /* references of ours */
	void *data;
} slots[NR_SLOTS];
static struct folio folios[NR_PAGES]; /* by first page; count 0: none */
static uint32_t folio_of[NR_PAGES];   /* first page + 1; 0: idle */
static bool bad[NR_PAGES];
static struct pgmap_group *groups[NR_GROUPS];
static uint64_t charged[NR_GROUPS];
static uint32_t freed, must_free; /* folio_free calls */
static const char *wrong;
static char wrong_text[200];

#define WANT(cond)                                                             \
	do {                                                                   \
		if (!(cond) && !wrong) {                                       \
			snprintf(wrong_text, sizeof(wrong_text),               \
				 "line %d: %s", __LINE__, #cond);              \
			wrong = wrong_text;                                    \
		}                                                              \
	} while (0)

static void on_free(struct pgmap_folio *folio)
{
	WANT(pgmap_folio_count(folio) == 0);
	freed++;
}

static int on_fault(struct pgmap_fault *fault)
{
	(void)fault;
	return 0;
}

static void on_split(struct pgmap_folio *head, struct pgmap_folio *tail)
{
	WANT(pgmap_folio_count(head) <= 1);
	WANT(!tail || pgmap_folio_map(tail) == pgmap_folio_map(head));
}

static bool in_slot(const struct slot *s, uint32_t page, uint32_t nr)
{
	for (uint32_t i = 0; s->map && i < s->nr_range; i++)
		if (page >= s->first[i] && page + nr <= s->first[i] + s->nr[i])
			return true;
	return false;
}

static bool is_reserved(const struct slot *s, uint32_t page)
{
	return page >= s->first[0] && page - s->first[0] < s->reserve;
}

static struct slot *slot_at(uint32_t page)
{
	for (uint32_t i = 0; i < NR_SLOTS; i++)
		if (in_slot(&slots[i], page, 1))
			return &slots[i];
	return NULL;
}

/* Pages of a slot that are in folios: what its map must count. */
static uint64_t pages_held(const struct slot *s)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < s->nr_range; i++)
		for (uint32_t p = s->first[i]; p < s->first[i] + s->nr[i]; p++)
			n += folio_of[p] != 0;
	return n;
}

static struct folio *add_folio(struct slot *s, uint32_t first, uint32_t nr,
			       struct pgmap_folio *real)
{
	struct folio *f = &folios[first];

	*f = (struct folio){.real = real,
			    .slot = (uint32_t)(s - slots),
			    .first = first,
			    .nr = nr,
			    .count = 1,
			    .reserved = true}; /* R190 */
	for (uint32_t p = first; p < first + nr; p++)
		folio_of[p] = first + 1;
	WANT(pgmap_folio_pfn(real) == BASE + first);
	WANT(1u << pgmap_folio_order(real) == nr);
	WANT(pg_folio_is_locked(real));
	return f;
}

static void model_put(struct folio *f)
{
	if (--f->count)
		return;
	for (uint32_t p = f->first; p < f->first + f->nr; p++)
		folio_of[p] = 0;
	if (f->group)
		charged[f->group - 1] -= f->nr;
	must_free++;
}

/* ---- The steps ---- */

struct step {
	uint8_t op;
	uint8_t a, d;
	uint16_t b, c;
};

static struct folio *pick_folio(uint16_t n)
{
	for (uint32_t i = 0; i < NR_PAGES; i++) {
		uint32_t p = (n + i) % NR_PAGES;

		if (folio_of[p])
			return &folios[folio_of[p] - 1];
	}
	return NULL;
}

static struct slot *pick_slot(uint8_t n)
{
	return &slots[n % NR_SLOTS];
}

/* A page of the slot, mostly. */
static uint32_t pick_page(const struct slot *s, uint16_t n)
{
	if (!s->map || n % 16 == 0)
		return n % NR_PAGES;
	return s->first[n % s->nr_range] + n / 16 % s->nr[n % s->nr_range];
}

static void do_create(const struct step *t)
{
	static const uint32_t orders[] = {0, 0, 0, 2, 9, 10};
	const struct pgmap_ops ops = {
		.size = sizeof(ops),
		.folio_free = on_free,
		.migrate_to_ram = on_fault,
		.folio_split = on_split,
	};
	struct slot *s = pick_slot(t->a);
	struct pgmap_desc d = {
		.size = sizeof(d),
		.type = (enum pgmap_type)(1 + t->b % 5),
		.nr_range = 1 + t->b / 8 % 2,
		.ops = &ops,
		.owner = &slots,
		.data = s,
		.folio_order = orders[t->d % 6],
		.reserve = t->d & 64 ? (t->d & 7) * 8u : 0,
	};
	uint64_t unit = (uint64_t)1 << d.folio_order;
	struct pgmap *map = NULL;
	bool overlaps = false, fits;
	int ret;

	if (s->map)
		return;
	for (uint32_t i = 0; i < d.nr_range; i++) {
		uint32_t sub = (i ? t->c / 64 : t->c) % NR_SUBS;
		uint32_t nr = 1 + t->c / 512 % 2;

		if (sub + nr > NR_SUBS)
			nr = 1;
		d.range[i] = (struct pgmap_range){BASE + sub * SUB, nr * SUB};
		for (uint32_t p = 0; p < nr * SUB; p++)
			overlaps |= slot_at(sub * SUB + p) != NULL;
		if (i && sub * SUB < d.range[0].pfn - BASE + d.range[0].nr &&
		    d.range[0].pfn - BASE < (sub + nr) * SUB)
			overlaps = true;
	}
	ret = pgmap_create(&d, &map);
	/* An order above a subsection's: the ranges must be multiples of it.
	 * And a folio must be left (R18). */
	fits = d.reserve <= d.range[0].nr - unit;
	for (uint32_t i = 0; i < d.nr_range; i++)
		fits &= !((d.range[i].pfn | d.range[i].nr) & (unit - 1));
	WANT((ret == -EINVAL) == !fits);
	if (!fits)
		return;
	WANT(ret == (overlaps ? -ENOMEM : 0));
	if (ret)
		return;
	*s = (struct slot){.map = map,
			   .type = d.type,
			   .order = d.folio_order,
			   .reserve = (uint32_t)d.reserve,
			   .nr_range = d.nr_range,
			   .data = s};
	for (uint32_t i = 0; i < d.nr_range; i++) {
		s->first[i] = (uint32_t)(d.range[i].pfn - BASE);
		s->nr[i] = (uint32_t)d.range[i].nr;
	}
	WANT(pgmap_get_type(map) == d.type);
	WANT(pgmap_get_data(map) == s);
	WANT(pgmap_get_owner(map) == &slots);
}

static void do_kill(const struct step *t)
{
	struct slot *s = pick_slot(t->a);

	if (!s->map)
		return;
	pgmap_kill(s->map);
	s->dying = true;
}

static void do_destroy(const struct step *t)
{
	struct slot *s = pick_slot(t->a);

	if (!s->map || s->lookups || pages_held(s))
		return;
	for (uint32_t i = 0; i < s->nr_range; i++)
		memset(bad + s->first[i], 0, s->nr[i]);
	WANT(pgmap_destroy(s->map) == 0);
	WANT(pgmap_destroy(s->map) == -EINVAL);
	s->map = NULL;
}

static void do_lookup(const struct step *t)
{
	struct slot *hint = pick_slot(t->a), *s;
	uint32_t page = pick_page(pick_slot(t->d), t->c);
	struct pgmap *found;

	s = slot_at(page);
	if (t->b % 2 && hint->map && hint->lookups)
		hint->lookups--;
	else
		hint = NULL;
	found = pgmap_lookup(BASE + page, hint ? hint->map : NULL);
	if (!s || s->dying) {
		WANT(!found);
		return;
	}
	WANT(found == s->map);
	s->lookups++;
}

static void do_put_map(const struct step *t)
{
	struct slot *s = pick_slot(t->a);

	if (!s->map || !s->lookups)
		return;
	s->lookups--;
	pgmap_put(s->map);
}

/* Why pages [page, page + nr) cannot be handed out; 0: they can. */
static bool may_fail(const struct slot *s, uint32_t page, uint32_t nr, int ret)
{
	bool busy = false, poison = false, invalid = !in_slot(s, page, nr);

	for (uint32_t p = page; !invalid && p < page + nr; p++) {
		busy |= folio_of[p] != 0;
		poison |= bad[p];
		invalid |= is_reserved(s, p);
	}
	if (!invalid && !s->dying && !busy && !poison)
		return ret == 0;
	return (ret == -EINVAL && invalid) || (ret == -ENODEV && s->dying) ||
	       (ret == -EBUSY && busy) || (ret == -EHWPOISON && poison);
}

static void do_get(const struct step *t)
{
	struct slot *s = pick_slot(t->a);
	unsigned int order = t->d % 12;
	uint32_t page = pick_page(s, t->c);
	struct pgmap_folio *real = NULL;
	int ret;

	if (!s->map)
		return;
	if (t->b % 8) {
		order = order < s->order ? s->order : order;
		page &= ~((1u << order) - 1);
	}
	ret = pgmap_get_folio(s->map, BASE + page, order, &real);
	if (order < s->order || page & ((1u << order) - 1)) {
		WANT(ret == -EINVAL || (ret == -ENODEV && s->dying));
		return;
	}
	WANT(may_fail(s, page, 1u << order, ret));
	if (ret)
		return;
	add_folio(s, page, 1u << order, real);
	pgmap_folio_unlock(real);
}

static void do_get_many(const struct step *t)
{
	struct slot *s = pick_slot(t->a);
	struct pgmap_folio *real[32];
	uint32_t page = pick_page(s, t->c), nr = 1 + t->b % 700, at;
	size_t n = 0, max = t->d & 128 ? 32 : t->d % 8, k = 0;
	int ret;

	if (!s->map)
		return;
	page &= ~((1u << s->order) - 1);
	nr = (nr + (1u << s->order) - 1) & ~((1u << s->order) - 1);
	ret = pgmap_get_folios(s->map, BASE + page, nr, real, max, &n);
	if (ret == -ENOSPC) {
		WANT(n > max);
		return;
	}
	WANT(may_fail(s, page, nr, ret));
	if (ret)
		return;
	WANT(n <= max);
	for (at = page; at < page + nr && k < n; k++) {
		uint32_t size = 1;

		/* R61: the fewest that alignment allows. */
		while (!(at & (2 * size - 1)) && at + 2 * size <= page + nr &&
		       size < 1u << PGMAP_MAX_ORDER)
			size *= 2;
		add_folio(s, at, size, real[k]);
		pgmap_folio_unlock(real[k]);
		at += size;
	}
	WANT(at == page + nr && k == n);
}

static void do_construct(const struct step *t)
{
	struct slot *s = pick_slot(t->a);
	unsigned int order = 1 + t->d % 10;
	uint32_t page = pick_page(s, t->c) & ~((1u << order) - 1), p;
	uint32_t end = page + (1u << order);
	struct pgmap_folio *real = NULL;
	bool whole = true, mine = true;
	uint32_t group = 0;
	int ret;

	if (!s->map || !in_slot(s, page, 1u << order) || order <= s->order)
		return;
	/* Lock what is there; the call wants all of lower order. */
	for (p = page; p < end && whole; p += folios[p].nr) {
		struct folio *f = &folios[p];

		whole = folio_of[p] == p + 1 && f->nr < 1u << order &&
			p + f->nr <= end;
		if (!whole)
			break;
		mine &= f->count == 1 && !f->pins;
		if (p == page)
			group = f->group;
		else if (f->group != group)
			return; /* of different groups: nobody does that */
	}
	if (!whole)
		return;
	for (p = page; p < end; p += folios[p].nr)
		WANT(pgmap_folio_trylock(folios[p].real));
	ret = pgmap_construct_folio(s->map, BASE + page, order, &real);
	WANT(ret == (mine ? 0 : -EBUSY));
	if (ret) {
		for (p = page; p < end; p += folios[p].nr)
			pgmap_folio_unlock(folios[p].real);
		return;
	}
	for (p = page; p < end; p++)
		folios[p].count = 0;
	add_folio(s, page, end - page, real)->group = group;
	folios[page].reserved = pgmap_folio_reserved(real);
	pgmap_folio_unlock(real);
}

static void do_split(const struct step *t)
{
	struct folio *f = pick_folio(t->c), whole;
	unsigned int order = t->d % 10;
	struct slot *s;
	int ret;

	if (!f)
		return;
	whole = *f;
	s = &slots[f->slot];
	WANT(pgmap_folio_trylock(f->real));
	ret = pgmap_split_folio(f->real, order);
	if (1u << order >= f->nr || order < s->order) {
		WANT(ret == -EINVAL);
	} else {
		WANT(ret == (f->count == 1 && !f->pins ? 0 : -EAGAIN));
	}
	if (ret) {
		pgmap_folio_unlock(f->real);
		return;
	}
	for (uint32_t p = whole.first; p < whole.first + whole.nr;
	     p += 1u << order) {
		struct pgmap_folio *real = pg_map_folio(s->map, BASE + p);
		struct folio *part = add_folio(s, p, 1u << order, real);

		WANT(pgmap_folio_count(real) == 1);
		part->group = whole.group;
		part->reserved = pgmap_folio_reserved(real);
		pgmap_folio_unlock(real);
	}
}

static void do_ref(const struct step *t)
{
	struct folio *f = pick_folio(t->c);

	if (!f)
		return;
	switch (t->a % 6) {
	case 0:
		pgmap_folio_get(f->real);
		f->count++;
		break;
	case 1:
		WANT(pgmap_folio_tryget(f->real));
		f->count++;
		break;
	case 2:
		pgmap_folio_get(f->real);
		pgmap_folio_pin(f->real);
		f->count++;
		f->pins++;
		break;
	case 3:
		if (!f->pins)
			break;
		f->pins--;
		pgmap_folio_unpin(f->real);
		model_put(f);
		break;
	default:
		if (f->count == f->pins)
			break;
		pgmap_folio_put(f->real);
		model_put(f);
	}
}

static void do_tryget_pfn(const struct step *t)
{
	uint32_t page = t->c % NR_PAGES;
	struct pgmap_folio *real = pgmap_tryget_pfn(BASE + page);

	if (!folio_of[page]) {
		WANT(!real);
		return;
	}
	WANT(real == folios[folio_of[page] - 1].real);
	folios[folio_of[page] - 1].count++;
}

static void do_freeze(const struct step *t)
{
	struct folio *f = pick_folio(t->c);
	uint32_t expected;

	if (!f)
		return;
	expected = f->count + t->a % 2;
	WANT(pg_folio_freeze(f->real, expected) == (expected == f->count));
	if (expected != f->count)
		return;
	WANT(!pgmap_folio_tryget(f->real));
	WANT(!pgmap_tryget_pfn(BASE + f->first));
	pg_folio_unfreeze(f->real, expected);
}

static void do_poison(const struct step *t)
{
	uint32_t page = t->c % NR_PAGES;
	struct slot *s = slot_at(page);

	if (!s)
		return;
	page &= ~((1u << s->order) - 1);
	bad[page] = t->a % 2;
	/* One record for so many pages: they go bad together. */
	for (uint32_t p = page; p < page + (1u << s->order); p++)
		bad[p] = bad[page];
	pg_pfn_poison(s->map, BASE + page, bad[page]);
	WANT(pg_pfn_poisoned(s->map, BASE + page) == bad[page]);
}

static void do_charge(const struct step *t)
{
	struct folio *f = pick_folio(t->c);
	uint32_t g = t->a % NR_GROUPS;
	bool counts;
	int ret;

	if (!f)
		return;
	counts = slots[f->slot].type == PGMAP_PRIVATE ||
		 slots[f->slot].type == PGMAP_COHERENT;
	WANT(pgmap_folio_trylock(f->real));
	if (t->d % 4 == 0) {
		struct pgmap_group *was = pgmap_folio_uncharge(f->real);

		WANT(was == (f->group ? groups[f->group - 1] : NULL));
		if (was) {
			pgmap_group_uncharge(was, f->nr);
			charged[f->group - 1] -= f->nr;
		}
		f->group = 0;
	} else if (!f->group) {
		bool moved = t->d & 1;

		/* A charge that moves was RAM's before. */
		if (moved && counts && pgmap_group_charge(groups[g], f->nr)) {
			WANT(charged[g] + f->nr > LIMIT);
			goto out;
		}
		ret = pgmap_folio_charge(f->real, groups[g], moved && counts);
		if (!counts) {
			WANT(ret == 0);
		} else if (!moved && charged[g] + f->nr > LIMIT) {
			WANT(ret == -ENOMEM);
		} else {
			WANT(ret == 0);
			f->group = g + 1;
			charged[g] += f->nr;
		}
	}
out:
	pgmap_folio_unlock(f->real);
}

static void do_marks(const struct step *t)
{
	struct folio *f = pick_folio(t->c);

	if (!f)
		return;
	f->reserved = t->a % 2;
	pgmap_folio_set_reserved(f->real, f->reserved);
	pg_folio_mark(f->real, PG_FOLIO_DIRTY);
	WANT(pg_folio_marked(f->real, PG_FOLIO_DIRTY));
	pg_folio_unmark(f->real, PG_FOLIO_DIRTY);
	WANT(!pg_folio_marked(f->real, PG_FOLIO_DIRTY));
	WANT(pgmap_folio_wait_idle(f->real, 1) == -ETIMEDOUT);
}

static const struct {
	const char *name;
	void (*run)(const struct step *t);
	unsigned int weight;
} ops[] = {
	{"create", do_create, 4},	  {"kill", do_kill, 1},
	{"destroy", do_destroy, 2},	  {"lookup", do_lookup, 4},
	{"put map", do_put_map, 4},	  {"get", do_get, 12},
	{"get many", do_get_many, 4},	  {"construct", do_construct, 6},
	{"split", do_split, 6},		  {"ref", do_ref, 30},
	{"tryget pfn", do_tryget_pfn, 4}, {"freeze", do_freeze, 3},
	{"poison", do_poison, 2},	  {"charge", do_charge, 4},
	{"marks", do_marks, 1},
};
#define NR_OPS (sizeof(ops) / sizeof(ops[0]))

/* ---- What must always be true ---- */

static void check_folio(const struct folio *f)
{
	WANT(pgmap_folio_count(f->real) == f->count);
	WANT(pgmap_folio_pins(f->real) == f->pins);
	WANT(pgmap_folio_mapcount(f->real) == 0);
	WANT(pgmap_folio_pfn(f->real) == BASE + f->first);
	WANT(1u << pgmap_folio_order(f->real) == f->nr);
	WANT(pgmap_folio_map(f->real) == slots[f->slot].map);
	WANT(pgmap_folio_reserved(f->real) == f->reserved);
	WANT(!pg_folio_is_locked(f->real));
}

static void check_world(void)
{
	for (uint32_t i = 0; i < NR_SLOTS; i++) {
		struct slot *s = &slots[i];

		if (!s->map)
			continue;
		WANT(pg_map_refs(s->map) == pages_held(s) + s->lookups);
		WANT(pgmap_is_dying(s->map) == s->dying);
		for (uint32_t r = 0; r < s->nr_range; r++)
			for (uint32_t p = s->first[r];
			     p < s->first[r] + s->nr[r]; p += 1u << s->order)
				if (folio_of[p] == p + 1)
					check_folio(&folios[p]);
				else if (!folio_of[p])
					WANT(pgmap_folio_count(pg_map_folio(
						     s->map, BASE + p)) == 0);
	}
	for (uint32_t g = 0; g < NR_GROUPS; g++)
		WANT(pgmap_group_charged(groups[g]) == charged[g]);
	WANT(freed == must_free);
}

static void close_world(void)
{
	for (uint32_t p = 0; p < NR_PAGES; p++) {
		struct folio *f = &folios[p];

		while (folio_of[p] == p + 1)
			if (f->pins) {
				f->pins--;
				pgmap_folio_unpin(f->real);
				model_put(f);
			} else {
				pgmap_folio_put(f->real);
				model_put(f);
			}
	}
	for (uint32_t i = 0; i < NR_SLOTS; i++) {
		struct slot *s = &slots[i];

		for (; s->map && s->lookups; s->lookups--)
			pgmap_put(s->map);
	}
	check_world();
	for (uint32_t i = 0; i < NR_SLOTS && !wrong; i++) {
		if (slots[i].map)
			WANT(pgmap_destroy(slots[i].map) == 0);
		memset(&slots[i], 0, sizeof(slots[i]));
	}
	for (uint32_t g = 0; g < NR_GROUPS; g++)
		WANT(pgmap_group_destroy(groups[g]) == 0);
	memset(bad, 0, sizeof(bad));
	freed = must_free = 0;
}

/* Return: the number of the step after which something was wrong, 0 none. */
static uint32_t run(const struct step *t, uint32_t n)
{
	wrong = NULL;
	for (uint32_t g = 0; g < NR_GROUPS; g++)
		WANT(pgmap_group_create(LIMIT, &groups[g]) == 0);
	for (uint32_t i = 0; i < n; i++) {
		ops[t[i].op].run(&t[i]);
		WANT(freed == must_free);
		if (i % 16 == 0 || i == n - 1)
			check_world();
		if (wrong)
			return i + 1;
	}
	close_world();
	return wrong ? n : 0;
}

/* ---- Making, shortening and printing them ---- */

static void make(struct step *t, uint32_t n, uint64_t seed)
{
	uint64_t r = seed * 2 + 1;

	for (uint32_t i = 0; i < n; i++) {
		unsigned int sum = 0, w;

		for (size_t k = 0; k < NR_OPS; k++)
			sum += ops[k].weight;
		w = (unsigned int)(test_random(&r) % sum);
		t[i].op = 0;
		while (w >= ops[t[i].op].weight)
			w -= ops[t[i].op++].weight;
		t[i].a = (uint8_t)(test_random(&r) >> 20);
		t[i].d = (uint8_t)(test_random(&r) >> 20);
		t[i].b = (uint16_t)(test_random(&r) >> 20);
		t[i].c = (uint16_t)(test_random(&r) >> 20);
	}
}

/* Does it fail, in a process of its own? What is wrong is at *text. */
static bool fails(const struct step *t, uint32_t n, char *text)
{
	pid_t pid;
	int status;

	strcpy(text, "it died");
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		alarm(20);
		if (!freopen("/dev/null", "w", stderr))
			_exit(2);
		if (!run(t, n))
			_exit(0);
		strcpy(text, wrong);
		_exit(1);
	}
	waitpid(pid, &status, 0);
	return status != 0;
}

static uint32_t shorten(struct step *t, uint32_t n, char *text)
{
	static struct step less[LENGTH];

	for (uint32_t cut = n / 2; cut; cut /= 2)
		for (uint32_t at = 0; at + cut <= n;) {
			memcpy(less, t, at * sizeof(*t));
			memcpy(less + at, t + at + cut,
			       (n - at - cut) * sizeof(*t));
			if (fails(less, n - cut, text)) {
				n -= cut;
				memcpy(t, less, n * sizeof(*t));
			} else {
				at += cut;
			}
		}
	fails(t, n, text);
	return n;
}

static void report(struct step *t, uint64_t seed, char *text)
{
	uint32_t n = shorten(t, LENGTH, text);

	printf("# PGMAP_SEED=%ju fails: %s. The shortest part that does:\n",
	       (uintmax_t)seed, text);
	for (uint32_t i = 0; i < n; i++)
		printf("#   %-10s a=%u b=%u c=%u d=%u\n", ops[t[i].op].name,
		       t[i].a, t[i].b, t[i].c, t[i].d);
}

TEST(every_call_does_what_the_model_says)
{
	static struct step t[LENGTH];
	const char *want = getenv("PGMAP_STEPS");
	uint64_t steps = want ? strtoull(want, NULL, 0) : STEPS;
	uint64_t seed = test_seed(), done = 0;
	char *text = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	for (; done < steps; done += (uint64_t)LENGTH * BATCH) {
		int status;
		pid_t pid;

		fflush(stdout);
		pid = fork();
		if (pid == 0) {
			alarm(100);
			for (uint32_t i = 0; i < BATCH; i++) {
				make(t, LENGTH, seed + i);
				*(uint64_t *)(void *)text = seed + i;
				if (run(t, LENGTH))
					_exit(1);
			}
			_exit(0);
		}
		waitpid(pid, &status, 0);
		if (status) {
			seed = *(uint64_t *)(void *)text;
			make(t, LENGTH, seed);
			report(t, seed, text);
			fail_msg("see above");
		}
		seed += BATCH;
	}
	printf("# %ju steps\n", (uintmax_t)done);
}

TEST_MAIN()
