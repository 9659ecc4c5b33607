/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * arena.h - many objects of 1 to 64 KB, packed so that little is wasted.
 *
 * An object is bytes that are written once, read, and freed; whoever keeps it
 * knows its length. Objects are not addressed but named by a reference,
 * because a free may move another object into the gap: the owner is told the
 * new reference. So there are never gaps, whatever the order of frees, and no
 * search for room: both are one copy of at most 64 KB.
 *
 * Waste: 4 bytes and on average 1 % per object (3 % at most above 128 bytes),
 * and a partly filled page per class of sizes in use, of which there are 320.
 */
#ifndef PG_ARENA_H
#define PG_ARENA_H

#include <stddef.h>
#include <stdint.h>

/** The longest object. */
#define PG_ARENA_MAX 65536u
/** References are below 1 << PG_ARENA_REF_BITS. */
#define PG_ARENA_REF_BITS 40
/** The largest arena. */
#define PG_ARENA_MAX_BYTES (1ull << 41)
#define PG_ARENA_CLASSES 320

struct pg_arena_segment;

/** struct pg_arena - All fields belong to arena.c; the caller locks. */
struct pg_arena {
	char *base; /* sparse; cut into segments of 64 KB */
	struct pg_arena_segment *segments;
	uint32_t max_segments;
	uint32_t nr_segments; /* ever used */
	uint32_t used_segments;
	/* Number + 1 of the first free segment; 0: none. */
	uint32_t kept;	 /* of those that keep their pages */
	uint32_t bare;	 /* of those that have none */
	uint32_t sweep;	 /* the class whose slack goes next */
	uint64_t backed; /* pages */
	uint64_t in_use; /* of them, those with objects in them */
	void (*moved)(void *arg, uint32_t owner, uint64_t old, uint64_t ref);
	void *arg;
	struct pg_arena_class {
		uint32_t tail; /* number + 1 of its last segment; 0: empty */
		uint32_t fill; /* bytes in use there; 0 only when empty */
	} classes[PG_ARENA_CLASSES];
};

/**
 * pg_arena_init() - Make an arena without objects.
 * @a:     Zeroed.
 * @bytes: Most memory it will be allowed, up to PG_ARENA_MAX_BYTES.
 * @moved: Called by pg_arena_free() when @owner's object was @old and is now
 *         @ref.
 * Return: 0 or -ENOMEM.
 */
int pg_arena_init(struct pg_arena *a, uint64_t bytes,
		  void (*moved)(void *arg, uint32_t owner, uint64_t old,
				uint64_t ref),
		  void *arg);
/** pg_arena_fini() - Free it; zeroed is fine. */
void pg_arena_fini(struct pg_arena *a);

/**
 * pg_arena_alloc() - Keep a copy of @len bytes, 1..PG_ARENA_MAX.
 * @room: Bytes by which the arena may grow.
 * Return: 0 and *@ref, or -ENOSPC.
 */
int pg_arena_alloc(struct pg_arena *a, const void *data, uint32_t len,
		   uint32_t owner, uint64_t room, uint64_t *ref);
/** pg_arena_free() - Free an object of @len bytes; may call moved(), once. */
void pg_arena_free(struct pg_arena *a, uint64_t ref, uint32_t len);
/** pg_arena_read() - Copy @n bytes out of an object, from byte @from on.
 * Context: readers may run beside each other. */
void pg_arena_read(const struct pg_arena *a, uint64_t ref, uint32_t from,
		   void *to, uint32_t n);
/** pg_arena_bytes() - System memory in use, bookkeeping included. */
uint64_t pg_arena_bytes(const struct pg_arena *a);

#endif
