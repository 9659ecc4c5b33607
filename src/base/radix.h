/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * radix.h - from an index to a 64-bit value, for one index or for 512.
 *
 * A value stands for one index (order 0), or for 512 that start at a multiple
 * of 512 (order 9); such a value takes the place of a node with 512. Values
 * have bit 0 set; 0 is none. Nodes are a page, and are there only while there
 * is a value in them; they come from a pool that many trees share.
 *
 * The caller locks the tree; the pool has its own lock. Zeroed memory is an
 * empty pool.
 */
#ifndef PG_RADIX_H
#define PG_RADIX_H

#include <stdint.h>

#include "base/lock.h"

/** Indexes are below 1 << PG_RADIX_INDEX_BITS. */
#define PG_RADIX_INDEX_BITS 45

struct pg_radix_node;

struct pg_radix_pool {
	struct pg_lock lock; /* LOCK_LEAF */
	struct pg_radix_node *free;
	struct pg_radix_node *chunks; /* their first nodes link them */
	uint32_t nr_fresh;	      /* of the first chunk, never used */
	uint64_t nr_used;	      /* nodes in trees */
};

struct pg_radix {
	struct pg_radix_pool *pool;
	uint64_t root; /* as a slot of a node: see radix.c */
	unsigned int levels;
};

void pg_radix_init(struct pg_radix *r, struct pg_radix_pool *pool);
/** pg_radix_pool_fini() - All its trees are empty. */
void pg_radix_pool_fini(struct pg_radix_pool *pool);
/** pg_radix_get() - The value of @index, or 0. @order: Out, of a value. */
uint64_t pg_radix_get(const struct pg_radix *r, uint64_t index,
		      unsigned int *order);
/** pg_radix_next() - The first value of [*@index, @last], or 0; *@index
 * becomes the first index that it stands for, which may be a smaller one. */
uint64_t pg_radix_next(const struct pg_radix *r, uint64_t *index, uint64_t last,
		       unsigned int *order);
/**
 * pg_radix_set() - @index, of @order 0 or 9, has @value from now on.
 *
 * Return: 0; -EEXIST it has, wholly or in part, a value of the other order;
 *         -ENOMEM; -ERANGE no such index. To replace a value of the same
 *         order cannot fail.
 */
int pg_radix_set(struct pg_radix *r, uint64_t index, unsigned int order,
		 uint64_t value);
/** pg_radix_clear() - Remove the value of @index, if there is one. */
void pg_radix_clear(struct pg_radix *r, uint64_t index);

#endif
