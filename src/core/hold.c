/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/hold.h"

#include <errno.h>

#include "base/mem.h"
#include "base/mutant.h"
#include "core/fault.h"
#include "core/mm.h"

#define FILLING 1u
/* Threads start to look for a free slot at different places. */
#define SPREAD 64u
#define ADDRESS_END ((uintptr_t)1 << 47)

int pg_holds_init(struct pg_holds *t)
{
	t->slot = pg_mem_map(PG_HOLD_SLOTS * sizeof(*t->slot));
	return t->slot ? 0 : -ENOMEM;
}

void pg_holds_fini(struct pg_holds *t)
{
	pg_mem_unmap(t->slot, PG_HOLD_SLOTS * sizeof(*t->slot));
	t->slot = NULL;
}

/* By how many bytes range @i grows to have [@start, @end) in it. */
static size_t growth(const struct pg_hold *h, uint32_t i, uintptr_t start,
		     uintptr_t end)
{
	size_t below =
		h->range[i].start > start ? h->range[i].start - start : 0;
	size_t above = end > h->range[i].end ? end - h->range[i].end : 0;

	return below + above;
}

static void add(struct pg_hold *h, uintptr_t va, size_t len, uint32_t most)
{
	uintptr_t start = va & ~(uintptr_t)(PG_PAGE_SIZE - 1), end;
	uint32_t at = h->nr;

	if (!len || va >= ADDRESS_END)
		return;
	end = len > ADDRESS_END - va ? ADDRESS_END : va + len;
	end = (end + PG_PAGE_SIZE - 1) & ~(uintptr_t)(PG_PAGE_SIZE - 1);
	for (uint32_t i = 0; i < h->nr; i++)
		if (start <= h->range[i].end && end >= h->range[i].start)
			at = i;
	if (at == most) {
		at = 0;
		for (uint32_t i = 1; i < h->nr; i++)
			if (growth(h, i, start, end) <
			    growth(h, at, start, end))
				at = i;
	}
	if (at == h->nr) {
		h->range[h->nr].start = start;
		h->range[h->nr].end = end;
		h->nr++;
		return;
	}
	if (start < h->range[at].start)
		h->range[at].start = start;
	if (end > h->range[at].end)
		h->range[at].end = end;
}

void pg_hold_add(struct pg_hold *h, uintptr_t va, size_t len)
{
	add(h, va, len, PG_HOLD_OTHERS);
}

void pg_hold_add_own(struct pg_hold *h, uintptr_t va, size_t len)
{
	add(h, va, len,
	    pg_mutant("own_stack_is_joined") ? PG_HOLD_OTHERS : PG_HOLD_RANGES);
}

static struct pg_hold_slot *claim(struct pg_holds *t, uintptr_t thread,
				  uint32_t *index)
{
	uint32_t first = (uint32_t)(thread / PG_PAGE_SIZE % SPREAD);

	for (uint32_t k = 0; k < PG_HOLD_SLOTS; k++) {
		uint32_t i = (first + k) % PG_HOLD_SLOTS;
		uint32_t high = pg_load(&t->high, relaxed);
		uint64_t none = 0;

		if (pg_load(&t->slot[i].state, relaxed) ||
		    !pg_cas(&t->slot[i].state, &none, FILLING, acquire))
			continue;
		while (high <= i && !pg_cas(&t->high, &high, i + 1, relaxed))
			;
		*index = i;
		return &t->slot[i];
	}
	return NULL;
}

bool pg_hold_take(struct pg_holds *t, struct pg_hold *h, uintptr_t thread)
{
	struct pg_hold_slot *s = claim(t, thread, &h->slot);
	uint64_t cookie;
	uint32_t serial;

	if (!s)
		return false;
	serial = pg_load(&s->serial, relaxed) + 1;
	pg_store(&s->serial, serial, relaxed);
	cookie = ((uint64_t)serial << 32 | h->slot << 2) + 2;
	pg_store(&s->owner, (uintptr_t)h, relaxed);
	pg_store(&s->thread, thread, relaxed);
	pg_store(&s->nr, h->nr, relaxed);
	for (uint32_t i = 0; i < h->nr; i++) {
		pg_store(&s->range[i].start, h->range[i].start, relaxed);
		pg_store(&s->range[i].end, h->range[i].end, relaxed);
	}
	pg_store(&h->cookie, cookie, relaxed);
	pg_store(&s->state, cookie, release);
	/* Partners: out_collect() and adopt_gap(). */
	if (!pg_mutant("hold_without_fence"))
		pg_fence(seq_cst);
	return true;
}

void pg_hold_drop(struct pg_holds *t, struct pg_hold *h)
{
	/* In this order: who finds the word changed must not take the slot for
	 * one that was left behind. */
	pg_store(&t->slot[h->slot].state, 0, release);
	pg_store(&h->cookie, 0, relaxed);
}

uintptr_t pg_hold_missing(struct pgmap_mm *mm, const struct pg_hold *h)
{
	for (uint32_t i = 0; i < h->nr; i++) {
		uintptr_t va = h->range[i].start, end = h->range[i].end;

		while (va < end) {
			switch (pg_pte_state(pg_pte_read(&mm->pt, va))) {
			case PG_PTE_PRESENT:
			case PG_PTE_POISON:
				va += PG_PAGE_SIZE;
				break;
			case PG_PTE_HOLE: {
				uintptr_t next = pg_mm_next_managed(mm, va);

				if (next == va)
					return va;
				va = next;
				break;
			}
			case PG_PTE_DEVICE:
			case PG_PTE_MIGRATING:
			default:
				return va;
			}
		}
	}
	return 0;
}

void pg_hold_copy(const struct pg_holds *t, uint32_t i, struct pg_hold *h)
{
	const struct pg_hold_slot *s = &t->slot[i];

	h->slot = i;
	h->nr = pg_load(&s->nr, relaxed);
	for (uint32_t k = 0; k < h->nr; k++) {
		h->range[k].start = pg_load(&s->range[k].start, relaxed);
		h->range[k].end = pg_load(&s->range[k].end, relaxed);
	}
}

int pg_hold_bring(struct pgmap_mm *mm, const struct pg_hold *h)
{
	int ret = 0;

	for (uint32_t i = 0; i < h->nr && !ret; i++)
		ret = pg_fault_in(mm, h->range[i].start, h->range[i].end);
	return ret;
}

bool pg_holds_find(struct pg_holds *t, uint32_t *i, uintptr_t start,
		   uintptr_t end, uintptr_t *from, uintptr_t *to)
{
	uint32_t high = pg_load(&t->high, relaxed);

	/* *i counts ranges, not slots. */
	for (; *i / PG_HOLD_RANGES < high; (*i)++) {
		struct pg_hold_slot *s = &t->slot[*i / PG_HOLD_RANGES];
		uint32_t k = *i % PG_HOLD_RANGES;
		uintptr_t a, b;

		if (pg_load(&s->state, acquire) <= FILLING ||
		    k >= pg_load(&s->nr, relaxed)) {
			*i += PG_HOLD_RANGES - 1 - k;
			continue;
		}
		/* Of one who has dropped it meanwhile, or has only begun: what
		 * is read here is of no matter to either. */
		a = pg_load(&s->range[k].start, relaxed);
		b = pg_load(&s->range[k].end, relaxed);
		if (a >= end || b <= start || a >= b)
			continue;
		*from = a > start ? a : start;
		*to = b < end ? b : end;
		(*i)++;
		return true;
	}
	return false;
}

unsigned int pg_holds_reap(struct pg_holds *t,
			   bool (*read)(uintptr_t va, uint64_t *word))
{
	uint32_t high = pg_load(&t->high, relaxed);
	unsigned int nr = 0;

	for (uint32_t i = 0; i < high; i++) {
		struct pg_hold_slot *s = &t->slot[i];
		uint64_t cookie = pg_load(&s->state, acquire), word;

		if (cookie <= FILLING)
			continue;
		if (read(pg_load(&s->owner, relaxed) +
				 offsetof(struct pg_hold, cookie),
			 &word) &&
		    word == cookie && !pg_mutant("live_holds_are_reaped"))
			continue;
		nr += pg_cas(&s->state, &cookie, 0, acq_rel);
	}
	return nr;
}

void pg_holds_forked(struct pg_holds *t, uintptr_t thread)
{
	for (uint32_t i = 0; i < pg_load(&t->high, relaxed); i++)
		if ((pg_load(&t->slot[i].thread, relaxed) != thread ||
		     pg_mutant("child_forgets_its_own_holds")) &&
		    pg_load(&t->slot[i].state, relaxed) != FILLING)
			pg_store(&t->slot[i].state, 0, relaxed);
}
