/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * evict.h - what leaves first, and how much of it.
 *
 * Two queues of the blocks (aligned, one folio long) that have a page in RAM,
 * each in the order in which they came: new ones, and ones that had left and
 * came back soon. The first of the new ones leaves first. When more than half
 * are such that came back, the oldest of them is new again. All have a second
 * chance in standby (pool.h): what is touched there counts as come back.
 *
 * Soon is before as many pages as the budget has had to leave, and only what
 * comes back alone counts: what runs through memory brings runs of pages, and
 * is over when they have been used once. So a scan passes through half of the
 * RAM, and what is used again and again stays in the other. doc/eviction.md
 * tells why it is this and not something else.
 */
#ifndef PG_EVICT_H
#define PG_EVICT_H

#include <stddef.h>
#include <stdint.h>

#include "base/lock.h"

struct pgmap_mm;
struct pg_buf;

/** struct pg_ring - Blocks, the first that came first. */
struct pg_ring {
	uintptr_t *block;  /* addresses */
	size_t size;	   /* a power of two */
	size_t head, tail; /* tail - head blocks; both only grow */
};

struct pg_queue {
	struct pg_lock lock;  /* LOCK_EVICT: all below */
	struct pg_ring fresh; /* new blocks */
	struct pg_ring again; /* blocks that came back soon */
	uint32_t epoch;	      /* grows as pages leave: see evict.c */
	uint64_t left;	      /* pages that have left in it */
};

int pg_queue_init(struct pg_queue *q, size_t size);
void pg_queue_fini(struct pg_queue *q);
size_t pg_queue_length(struct pg_queue *q);

/** pg_evict_note() - A page of the block of @va is in RAM: it can leave.
 * Holds LOCK_MM. */
void pg_evict_note(struct pgmap_mm *mm, uintptr_t va);

/**
 * pg_evict() - Make @nr pages free.
 *
 * What came first goes to standby, and what has waited there longest to the
 * device: a page that is touched in between comes back at once, and last in
 * the queue. Each block is tried once at most, and a limited number: pinned
 * pages stay.
 * Holds LOCK_MM for reading. Return: pages that are free now.
 */
size_t pg_evict(struct pgmap_mm *mm, size_t nr);

/**
 * pg_evict_ahead() - One step of the evicting thread: if the budget is near
 * and few filled buffers lie ready, evict a block. Takes LOCK_MM for reading.
 * Return: pages that left; 0: nothing to do, or nothing can leave.
 */
size_t pg_evict_ahead(struct pgmap_mm *mm);

/**
 * pg_evict_buffer() - A buffer with pages [0, nr) present, within the budget
 * if that can be: reused, new while there is room, or evicted for.
 * Holds LOCK_MM. Return: the buffer, or NULL: no memory at all.
 */
struct pg_buf *pg_evict_buffer(struct pgmap_mm *mm, uint32_t nr);

#endif
