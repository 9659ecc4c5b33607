/* SPDX-License-Identifier: BSD-3-Clause */
#include "dax/extents.h"

#include "base/bug.h"
#include "base/mutant.h"

static uint32_t next_rank(struct pg_extent_pool *pool)
{
	pool->seed ^= pool->seed >> 12;
	pool->seed ^= pool->seed << 25;
	pool->seed ^= pool->seed >> 27;
	return (uint32_t)(pool->seed * 0x2545f4914f6cdd1dull >> 32);
}

void pg_extent_pool_init(struct pg_extent_pool *pool,
			 struct pg_extent_node *nodes, uint32_t max,
			 uint64_t seed)
{
	*pool = (struct pg_extent_pool){
		.nodes = nodes,
		.max = max,
		.nr_fresh = 1,
		.seed = seed | 1,
	};
}

bool pg_extents_room(const struct pg_extent_pool *pool)
{
	/* A cut on either side, and the new one. */
	return pool->nr_used + 4 <= pool->max;
}

static uint32_t new_node(struct pg_extent_pool *pool, const struct pg_extent *e)
{
	uint32_t n = pool->free;

	if (n) {
		pool->free = pool->nodes[n].left;
	} else {
		n = pool->nr_fresh++;
		pg_bug_on(n >= pool->max);
	}
	pool->nr_used++;
	pool->nodes[n] = (struct pg_extent_node){*e, 0, 0, next_rank(pool)};
	return n;
}

static void free_node(struct pg_extent_pool *pool, uint32_t n)
{
	pool->nodes[n].left = pool->free;
	pool->free = n;
	pool->nr_used--;
}

/* Nodes that begin before @index to *@a, all others to *@b. */
static void split(struct pg_extent_pool *pool, uint32_t t, uint64_t index,
		  uint32_t *a, uint32_t *b)
{
	struct pg_extent_node *n = pool->nodes + t;

	if (!t) {
		*a = *b = 0;
	} else if (n->e.index < index) {
		*a = t;
		split(pool, n->right, index, &n->right, b);
	} else {
		*b = t;
		split(pool, n->left, index, a, &n->left);
	}
}

/* All of @a begin before all of @b. */
static uint32_t merge(struct pg_extent_pool *pool, uint32_t a, uint32_t b)
{
	struct pg_extent_node *n = pool->nodes;

	if (!a || !b)
		return a ? a : b;
	if (n[a].rank > n[b].rank) {
		n[a].right = merge(pool, n[a].right, b);
		return a;
	}
	n[b].left = merge(pool, a, n[b].left);
	return b;
}

/* The last node that begins before @index, or 0. */
static uint32_t before(const struct pg_extent_pool *pool, uint32_t t,
		       uint64_t index)
{
	uint32_t found = 0;

	while (t) {
		const struct pg_extent_node *n = pool->nodes + t;

		if (n->e.index < index) {
			found = t;
			t = n->right;
		} else {
			t = n->left;
		}
	}
	return found;
}

bool pg_extents_next(const struct pg_extent_pool *pool,
		     const struct pg_extents *x, uint64_t index,
		     struct pg_extent *e)
{
	uint32_t t = x->root, found = 0;

	while (t) {
		const struct pg_extent_node *n = pool->nodes + t;

		if (n->e.index + n->e.nr > index) {
			found = t;
			t = n->left;
		} else {
			t = n->right;
		}
	}
	if (found)
		*e = pool->nodes[found].e;
	return found;
}

/* As split(), and no node reaches over @index. */
static void cut(struct pg_extent_pool *pool, struct pg_extents *x, uint32_t t,
		uint64_t index, uint32_t *a, uint32_t *b)
{
	uint32_t at = before(pool, t, index);

	split(pool, t, index, a, b);
	if (at) {
		struct pg_extent *e = &pool->nodes[at].e, rest;
		uint64_t keep = index - e->index;

		if (keep >= e->nr)
			return;
		rest = (struct pg_extent){index, e->block + keep, e->nr - keep};
		e->nr = keep;
		if (pg_mutant("dax_extent_rest_begins_early"))
			rest.block = e->block;
		*b = merge(pool, new_node(pool, &rest), *b);
		x->nr++;
	}
}

/* The node that begins at @index leaves the tree. */
static void take_out(struct pg_extent_pool *pool, struct pg_extents *x,
		     uint64_t index)
{
	uint32_t a, b, node;

	split(pool, x->root, index, &a, &b);
	split(pool, b, index + 1, &node, &b);
	free_node(pool, node);
	x->nr--;
	x->root = merge(pool, a, b);
}

void pg_extents_add(struct pg_extent_pool *pool, struct pg_extents *x,
		    const struct pg_extent *added)
{
	struct pg_extent e = *added, next;
	uint32_t at = before(pool, x->root, e.index), a, b;

	if (at) {
		struct pg_extent l = pool->nodes[at].e;

		if (l.index + l.nr == e.index && l.block + l.nr == e.block) {
			take_out(pool, x, l.index);
			e = (struct pg_extent){l.index, l.block, l.nr + e.nr};
		}
	}
	if (pg_extents_next(pool, x, e.index, &next) &&
	    next.index == e.index + e.nr && next.block == e.block + e.nr) {
		take_out(pool, x, next.index);
		e.nr += next.nr;
	}
	split(pool, x->root, e.index, &a, &b);
	x->root = merge(pool, merge(pool, a, new_node(pool, &e)), b);
	x->nr++;
}

static void drop(struct pg_extent_pool *pool, struct pg_extents *x, uint32_t t,
		 void (*fn)(void *arg, const struct pg_extent *e), void *arg)
{
	struct pg_extent_node *n = pool->nodes + t;

	if (!t)
		return;
	drop(pool, x, n->left, fn, arg);
	drop(pool, x, n->right, fn, arg);
	fn(arg, &n->e);
	free_node(pool, t);
	x->nr--;
}

void pg_extents_remove(struct pg_extent_pool *pool, struct pg_extents *x,
		       uint64_t index, uint64_t nr,
		       void (*fn)(void *arg, const struct pg_extent *e),
		       void *arg)
{
	uint32_t a, b, c;

	cut(pool, x, x->root, index, &a, &b);
	cut(pool, x, b, index + nr, &b, &c);
	drop(pool, x, b, fn, arg);
	x->root = merge(pool, a, c);
}
