/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/radix.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/bug.h"
#include "base/mem.h"
#include "base/mutant.h"

#define BITS 9
#define NR_SLOTS (1u << BITS)
#define MAX_LEVELS (PG_RADIX_INDEX_BITS / BITS)
/* Nodes that are mapped together; the first one links the chunks. */
#define CHUNK_NODES 256u

/*
 * A slot is 0, a value (bit 0 set), or the address of a node, which leaves 12
 * bits free: in them, from bit 1 on, how many slots of that node are not 0.
 */
#define COUNT_ONE 2u
#define COUNT_MASK 0xffeu

struct pg_radix_node {
	union {
		uint64_t slot[NR_SLOTS];
		struct pg_radix_node *next; /* free, or of a chunk */
	};
};

static bool is_value(uint64_t slot)
{
	return slot & 1;
}

static struct pg_radix_node *node_of(uint64_t slot)
{
	return (struct pg_radix_node *)(uintptr_t)(slot &
						   ~(uint64_t)(COUNT_MASK | 1));
}

/* How far the index is shifted for the slot in a node of @level, 0 the leaf. */
static unsigned int shift_of(unsigned int level)
{
	return level * BITS;
}

static uint64_t *slot_in(struct pg_radix_node *node, uint64_t index,
			 unsigned int level)
{
	return &node->slot[index >> shift_of(level) & (NR_SLOTS - 1)];
}

/* ---- The pool ---- */

/* Holds the pool's lock. */
static struct pg_radix_node *node_fresh(struct pg_radix_pool *pool)
{
	if (!pool->nr_fresh) {
		struct pg_radix_node *chunk =
			pg_mem_map(CHUNK_NODES * sizeof(*chunk));

		if (!chunk)
			return NULL;
		chunk->next = pool->chunks;
		pool->chunks = chunk;
		pool->nr_fresh = CHUNK_NODES - 1;
	}
	return &pool->chunks[pool->nr_fresh--];
}

static struct pg_radix_node *node_new(struct pg_radix_pool *pool)
{
	struct pg_radix_node *node;

	pg_lock(&pool->lock, LOCK_LEAF);
	node = pool->free;
	if (node) {
		pool->free = node->next;
		node->next = NULL;
	} else {
		node = node_fresh(pool);
	}
	pool->nr_used += node != NULL;
	pg_unlock(&pool->lock, LOCK_LEAF);
	return node;
}

/* All its slots are 0. */
static void node_free(struct pg_radix_pool *pool, struct pg_radix_node *node)
{
	pg_lock(&pool->lock, LOCK_LEAF);
	node->next = pool->free;
	pool->free = node;
	pool->nr_used--;
	pg_unlock(&pool->lock, LOCK_LEAF);
}

void pg_radix_pool_fini(struct pg_radix_pool *pool)
{
	pg_bug_on(pool->nr_used != 0);
	while (pool->chunks) {
		struct pg_radix_node *chunk = pool->chunks;

		pool->chunks = chunk->next;
		pg_mem_unmap(chunk, CHUNK_NODES * sizeof(*chunk));
	}
	pool->free = NULL;
	pool->nr_fresh = 0;
}

/* ---- The tree ---- */

void pg_radix_init(struct pg_radix *r, struct pg_radix_pool *pool)
{
	*r = (struct pg_radix){.pool = pool};
}

static bool is_inside(const struct pg_radix *r, uint64_t index)
{
	return r->root && !(index >> shift_of(r->levels));
}

uint64_t pg_radix_get(const struct pg_radix *r, uint64_t index,
		      unsigned int *order)
{
	uint64_t slot = is_inside(r, index) ? r->root : 0;
	unsigned int level = r->levels;

	while (slot && !is_value(slot))
		slot = *slot_in(node_of(slot), index, --level);
	if (slot)
		*order = shift_of(level);
	return slot;
}

uint64_t pg_radix_next(const struct pg_radix *r, uint64_t *index, uint64_t last,
		       unsigned int *order)
{
	uint64_t i = *index;

	while (i <= last && is_inside(r, i)) {
		unsigned int level = r->levels;
		uint64_t slot = r->root;
		uint64_t rest;

		while (slot && !is_value(slot))
			slot = *slot_in(node_of(slot), i, --level);
		rest = ((uint64_t)1 << shift_of(level)) - 1;
		if (slot) {
			*index = i & ~rest;
			*order = shift_of(level);
			return slot;
		}
		i = (i | rest) + 1;
	}
	return 0;
}

/* Remove nodes without a value on the way to @index, from below. @path[l]: the
 * slot that names the node of level l. */
static void prune(struct pg_radix *r, uint64_t *path[], unsigned int level)
{
	for (; level < r->levels; level++) {
		uint64_t *up = path[level];

		if (*up & COUNT_MASK)
			return;
		if (pg_mutant("radix_keeps_empty_nodes"))
			return;
		node_free(r->pool, node_of(*up));
		*up = 0;
		if (level + 1 < r->levels)
			*path[level + 1] -= COUNT_ONE;
	}
}

/* Make room for @index above what is there. */
static int grow(struct pg_radix *r, uint64_t index)
{
	if (!r->root) {
		struct pg_radix_node *node = node_new(r->pool);

		if (!node)
			return -ENOMEM;
		r->root = (uintptr_t)node;
		/* Two at least: a value of order 9 lives in the second. */
		r->levels = 2;
		while (index >> shift_of(r->levels))
			r->levels++;
	}
	while (index >> shift_of(r->levels)) {
		struct pg_radix_node *node = node_new(r->pool);

		if (!node)
			return -ENOMEM;
		node->slot[0] = r->root;
		r->root = (uintptr_t)node | COUNT_ONE;
		r->levels++;
	}
	return 0;
}

int pg_radix_set(struct pg_radix *r, uint64_t index, unsigned int order,
		 uint64_t value)
{
	uint64_t *path[MAX_LEVELS], *slot = &r->root;
	unsigned int level;
	int ret;

	pg_assert(is_value(value));
	pg_assert(order == 0 || order == BITS);
	if (index >> PG_RADIX_INDEX_BITS && !pg_mutant("radix_grows_for_ever"))
		return -ERANGE;
	ret = grow(r, index);
	if (ret)
		return ret;
	for (level = r->levels; level > order / BITS;) {
		if (is_value(*slot))
			return -EEXIST;
		if (!*slot) {
			struct pg_radix_node *node = node_new(r->pool);

			if (!node) {
				prune(r, path, level);
				return -ENOMEM;
			}
			*slot = (uintptr_t)node;
			*path[level] += COUNT_ONE;
		}
		path[--level] = slot;
		slot = slot_in(node_of(*slot), index, level);
	}
	if (*slot && !is_value(*slot))
		return -EEXIST;
	if (!*slot)
		*path[level] += COUNT_ONE;
	*slot = value;
	return 0;
}

void pg_radix_clear(struct pg_radix *r, uint64_t index)
{
	uint64_t *path[MAX_LEVELS] = {NULL}, *slot = &r->root;
	unsigned int level = r->levels;

	if (!is_inside(r, index))
		return;
	while (*slot && !is_value(*slot)) {
		path[--level] = slot;
		slot = slot_in(node_of(*slot), index, level);
	}
	if (!*slot)
		return;
	*slot = 0;
	*path[level] -= COUNT_ONE;
	prune(r, path, level);
}
