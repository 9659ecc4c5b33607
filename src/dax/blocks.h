/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * blocks.h - which blocks of a store are free, and how many files have each.
 *
 * None of it lies on the device: it is what the extents of all files say.
 */
#ifndef PG_DAX_BLOCKS_H
#define PG_DAX_BLOCKS_H

#include <stdbool.h>
#include <stdint.h>

/** struct pg_blocks - @used: a bit for each; @more: its owners but one. Memory
 * of either is touched where blocks are used, or shared. */
struct pg_blocks {
	uint64_t *used;
	uint16_t *more;
	uint64_t first; /* blocks below are not for files */
	uint64_t end;
	uint64_t nr_free;
	uint64_t nr_shared; /* owners but one of all blocks */
	uint64_t cursor;    /* where the next file begins */
};

/** pg_blocks_init() - @used and @more are zeroed: (@end + 63) / 64 words and
 * @end half words. All blocks from @first to @end are free. */
void pg_blocks_init(struct pg_blocks *b, uint64_t *used, uint16_t *more,
		    uint64_t first, uint64_t end);
/** pg_blocks_are_free() - All of them; they are there. */
bool pg_blocks_are_free(const struct pg_blocks *b, uint64_t block, uint64_t nr);
/** pg_blocks_are_own() - All have one owner. */
bool pg_blocks_are_own(const struct pg_blocks *b, uint64_t block, uint64_t nr);
/** pg_blocks_can_share() - All can have one owner more. */
bool pg_blocks_can_share(const struct pg_blocks *b, uint64_t block,
			 uint64_t nr);
/** pg_blocks_get() - One owner more. */
void pg_blocks_get(struct pg_blocks *b, uint64_t block, uint64_t nr);
/** pg_blocks_put() - One owner less. */
void pg_blocks_put(struct pg_blocks *b, uint64_t block, uint64_t nr);
/** pg_blocks_nr_shared() - How many of them have more than one owner. */
uint64_t pg_blocks_nr_shared(const struct pg_blocks *b, uint64_t block,
			     uint64_t nr);
/**
 * pg_blocks_find() - A run of free blocks.
 * @want: How many at most. 512 and more begin at a multiple of 512, if there
 *        are 512 such.
 * @goal: Take it from there on, if that is free; 0: there is none.
 * @nr:   Out: how many.
 * Return: the first, or 0: all are used.
 */
uint64_t pg_blocks_find(struct pg_blocks *b, uint64_t want, uint64_t goal,
			uint64_t *nr);

#endif
