/* SPDX-License-Identifier: BSD-3-Clause */
#include "dax/blocks.h"

#include "base/bug.h"
#include "base/mutant.h"

#define WORD 64u
#define LARGE 512u

void pg_blocks_init(struct pg_blocks *b, uint64_t *used, uint16_t *more,
		    uint64_t first, uint64_t end)
{
	*b = (struct pg_blocks){
		.used = used,
		.more = more,
		.first = first,
		.end = end,
		.nr_free = end - first,
		.cursor = first,
	};
}

/* Those of [@i, @end) that lie in the word of @i. */
static uint64_t mask_of(uint64_t i, uint64_t end)
{
	uint64_t nr = end - i < WORD - i % WORD ? end - i : WORD - i % WORD;

	return (nr == WORD ? ~0ull : (1ull << nr) - 1) << i % WORD;
}

static uint64_t next_word(uint64_t i)
{
	return (i | (WORD - 1)) + 1;
}

/* The first block of [@i, @end) that is used, or free; @end: none is. */
static uint64_t first_that(const struct pg_blocks *b, uint64_t i, uint64_t end,
			   bool used)
{
	for (; i < end; i = next_word(i)) {
		uint64_t w = used ? b->used[i / WORD] : ~b->used[i / WORD];

		w &= mask_of(i, end);
		if (w)
			return (i & ~(uint64_t)(WORD - 1)) +
			       (uint64_t)__builtin_ctzll(w);
	}
	return end;
}

bool pg_blocks_are_free(const struct pg_blocks *b, uint64_t block, uint64_t nr)
{
	return first_that(b, block, block + nr, true) == block + nr;
}

uint64_t pg_blocks_nr_shared(const struct pg_blocks *b, uint64_t block,
			     uint64_t nr)
{
	uint64_t n = 0;

	if (!b->nr_shared)
		return 0;
	for (uint64_t i = block; i < block + nr; i++)
		n += !!b->more[i];
	return n;
}

bool pg_blocks_are_own(const struct pg_blocks *b, uint64_t block, uint64_t nr)
{
	return !pg_blocks_nr_shared(b, block, nr) ||
	       pg_mutant("dax_shared_block_is_own");
}

bool pg_blocks_can_share(const struct pg_blocks *b, uint64_t block, uint64_t nr)
{
	if (!b->nr_shared)
		return true;
	for (uint64_t i = block; i < block + nr; i++)
		if (b->more[i] == UINT16_MAX &&
		    !pg_mutant("dax_owners_wrap_around"))
			return false;
	return true;
}

void pg_blocks_get(struct pg_blocks *b, uint64_t block, uint64_t nr)
{
	uint64_t end = block + nr;

	while (block < end) {
		uint64_t used = first_that(b, block, end, true);
		uint64_t free;

		for (uint64_t i = block; i < used; i = next_word(i))
			b->used[i / WORD] |= mask_of(i, used);
		b->nr_free -= used - block;
		free = first_that(b, used, end, false);
		for (uint64_t i = used; i < free; i++)
			b->more[i]++;
		b->nr_shared += free - used;
		block = free;
	}
}

void pg_blocks_put(struct pg_blocks *b, uint64_t block, uint64_t nr)
{
	uint64_t end = block + nr;

	if (!b->nr_shared) {
		for (uint64_t i = block; i < end; i = next_word(i))
			b->used[i / WORD] &= ~mask_of(i, end);
		b->nr_free += nr;
		return;
	}
	for (uint64_t i = block; i < end; i++) {
		if (b->more[i]) {
			b->more[i]--;
			b->nr_shared--;
		} else {
			b->used[i / WORD] &= ~(1ull << i % WORD);
			b->nr_free++;
		}
	}
}

/* A run of at most @want free blocks of [@from, @end); a long one is preferred
 * to the first one. */
static uint64_t find_in(const struct pg_blocks *b, uint64_t from, uint64_t end,
			uint64_t want, uint64_t *nr)
{
	uint64_t best = 0, best_nr = 0;

	/* Not to look at all of a full device for each block. */
	for (unsigned int tries = 0; tries < 16 && from < end; tries++) {
		uint64_t at = first_that(b, from, end, false), n;

		if (at == end)
			break;
		n = first_that(b, at, at + want < end ? at + want : end, true) -
		    at;
		if (n > best_nr) {
			best = at;
			best_nr = n;
		}
		if (n == want)
			break;
		from = at + n;
	}
	*nr = best_nr;
	return best;
}

static uint64_t find_aligned(const struct pg_blocks *b, uint64_t from,
			     uint64_t end, uint64_t want, uint64_t *nr)
{
	for (uint64_t i = (from + LARGE - 1) & ~(uint64_t)(LARGE - 1);
	     i + LARGE <= end; i += LARGE) {
		uint64_t n;

		if (!pg_blocks_are_free(b, i, LARGE))
			continue;
		n = first_that(b, i, i + want < end ? i + want : end, true) - i;
		*nr = n & ~(uint64_t)(LARGE - 1);
		return i;
	}
	return 0;
}

uint64_t pg_blocks_find(struct pg_blocks *b, uint64_t want, uint64_t goal,
			uint64_t *nr)
{
	uint64_t at;

	if (!b->nr_free || !want)
		return 0;
	if (want >= LARGE && (!goal || goal % LARGE)) {
		at = find_aligned(b, b->cursor, b->end, want, nr);
		if (!at)
			at = find_aligned(b, b->first, b->end, want, nr);
		if (at)
			goto found;
	}
	if (goal >= b->first && goal < b->end &&
	    pg_blocks_are_free(b, goal, 1)) {
		*nr = first_that(b, goal,
				 goal + want < b->end ? goal + want : b->end,
				 true) -
		      goal;
		return goal;
	}
	at = find_in(b, b->cursor, b->end, want, nr);
	if (!at)
		at = find_in(b, b->first, b->end, want, nr);
	pg_bug_on(!at);
found:
	b->cursor = at + *nr;
	return at;
}
