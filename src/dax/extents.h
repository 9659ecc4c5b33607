/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * extents.h - which blocks of the device are behind which blocks of a file.
 *
 * A tree by the file's block for each file, of nodes that all files share. Its
 * depth is that of a random tree, whatever a hostile image says: what a node's
 * rank is nobody outside this process knows. Extents that follow each other in
 * the file and on the device are one.
 */
#ifndef PG_DAX_EXTENTS_H
#define PG_DAX_EXTENTS_H

#include <stdbool.h>
#include <stdint.h>

/** struct pg_extent - Blocks [@index, @index + @nr) of a file are those from
 * @block on. */
struct pg_extent {
	uint64_t index;
	uint64_t block;
	uint64_t nr;
};

struct pg_extent_node {
	struct pg_extent e;
	uint32_t left, right; /* 0: none */
	uint32_t rank;
};

/** struct pg_extent_pool - @nodes: zeroed; @max of them, node 0 is none. */
struct pg_extent_pool {
	struct pg_extent_node *nodes;
	uint32_t max;
	uint32_t nr_fresh; /* were never used: from here on */
	uint32_t free;
	uint32_t nr_used;
	uint64_t seed;
};

/** struct pg_extents - Those of a file. Zeroed, it has none. */
struct pg_extents {
	uint32_t root;
	uint32_t nr;
};

void pg_extent_pool_init(struct pg_extent_pool *pool,
			 struct pg_extent_node *nodes, uint32_t max,
			 uint64_t seed);
/** pg_extents_next() - The first extent that ends behind @index. false: there
 * is none. */
bool pg_extents_next(const struct pg_extent_pool *pool,
		     const struct pg_extents *x, uint64_t index,
		     struct pg_extent *e);
/** pg_extents_room() - Are there nodes for one call of add or remove? */
bool pg_extents_room(const struct pg_extent_pool *pool);
/** pg_extents_add() - @e was a hole. There is room. */
void pg_extents_add(struct pg_extent_pool *pool, struct pg_extents *x,
		    const struct pg_extent *e);
/** pg_extents_remove() - [@index, @index + @nr) is a hole; @fn is called for
 * each piece that it had. There is room. */
void pg_extents_remove(struct pg_extent_pool *pool, struct pg_extents *x,
		       uint64_t index, uint64_t nr,
		       void (*fn)(void *arg, const struct pg_extent *e),
		       void *arg);

#endif
