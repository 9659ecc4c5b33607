/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * evict.h - what leaves first, and how much of it.
 *
 * A queue of the blocks (aligned, one folio long) that have a page in RAM, in
 * the order in which they came. The first leaves first.
 */
#ifndef PG_EVICT_H
#define PG_EVICT_H

#include <stddef.h>
#include <stdint.h>

#include "base/lock.h"

struct pgmap_mm;
struct pg_buf;

struct pg_queue {
	struct pg_lock lock; /* LOCK_EVICT: all below */
	uintptr_t *ring;     /* addresses of blocks */
	size_t size;	     /* a power of two */
	size_t head, tail;   /* tail - head blocks; both only grow */
};

int pg_queue_init(struct pg_queue *q, size_t size);
void pg_queue_fini(struct pg_queue *q);
size_t pg_queue_length(struct pg_queue *q);

/** pg_evict_note() - A page of the block of @va is in RAM: it can leave.
 * Holds LOCK_MM. */
void pg_evict_note(struct pgmap_mm *mm, uintptr_t va);

/**
 * pg_evict() - Move blocks to the device until @nr pages have left.
 *
 * Each block is tried once at most, and a limited number: pinned pages stay.
 * Holds LOCK_MM for reading. Return: pages that left.
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
