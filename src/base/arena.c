/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * arena.c - objects of a class lie side by side in a chain of segments.
 *
 * A class is a size; all its objects take the same number of bytes, its
 * stride, and follow each other without gaps through its segments, crossing
 * from one into the next where they must. An object is the number of its owner
 * (4 bytes) and its contents. Freeing one moves the last of its class into its
 * place, and the class ends earlier. Pages behind the end, and those of
 * segments that are free again, go back to the kernel, but for a few.
 */
#include "base/arena.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bug.h"
#include "base/mem.h"
#include "base/sys.h"

#define PAGE 4096u
#define SEGMENT 65536u
#define HEADER ((uint32_t)sizeof(uint32_t))
/* Objects and their parts start at multiples of this, so that a header does
 * not cross from one segment into the next. */
#define UNIT 4u
/* Pages not in use that are kept for the next objects: to get a new one from
 * the kernel takes about as long as to compress one. */
#define SLACK_MIN 32u
#define SLACK_SHIFT 6
/* Classes that a free looks at for them. */
#define SWEEP 8u

struct pg_arena_segment {
	uint32_t prev;	 /* number + 1, of the class; 0: none */
	uint32_t next;	 /* number + 1, of the class or of the free ones */
	uint16_t cl;	 /* its class */
	uint16_t backed; /* pages that we have touched */
};

static uint32_t units_of(uint32_t len)
{
	return (len + UNIT - 1) / UNIT;
}

/* The steps are one unit up to 32 units, then 32 steps per power of two. */
static uint32_t shift_of(uint32_t units)
{
	return units <= 32 ? 0 : 31u - (uint32_t)__builtin_clz(units - 1) - 5u;
}

static uint32_t class_of(uint32_t len)
{
	uint32_t units = units_of(len), shift = shift_of(units);

	return shift * 32 + ((units - 1) >> shift);
}

static uint32_t stride_of(uint32_t len)
{
	uint32_t units = units_of(len), shift = shift_of(units);

	return HEADER + ((((units - 1) >> shift) + 1) << shift) * UNIT;
}

static uint32_t page_up(uint32_t bytes)
{
	return (bytes + PAGE - 1) / PAGE;
}

int pg_arena_init(struct pg_arena *a, uint64_t bytes,
		  void (*moved)(void *arg, uint32_t owner, uint64_t old,
				uint64_t ref),
		  void *arg)
{
	uint64_t nr;

	if (bytes > PG_ARENA_MAX_BYTES)
		return -ENOMEM;
	/* Each class may have one segment that is not full. */
	nr = bytes / SEGMENT + PG_ARENA_CLASSES + 2;
	a->max_segments = (uint32_t)nr;
	a->moved = moved;
	a->arg = arg;
	a->base = pg_mem_map((size_t)nr * SEGMENT);
	a->segments = pg_mem_map((size_t)nr * sizeof(*a->segments));
	if (!a->base || !a->segments) {
		pg_arena_fini(a);
		return -ENOMEM;
	}
	/* A huge page would back what is not in use. */
	pg_sys(madvise, a->base, nr * SEGMENT, MADV_NOHUGEPAGE);
	return 0;
}

void pg_arena_fini(struct pg_arena *a)
{
	pg_mem_unmap(a->base, (size_t)a->max_segments * SEGMENT);
	pg_mem_unmap(a->segments,
		     (size_t)a->max_segments * sizeof(*a->segments));
	memset(a, 0, sizeof(*a));
}

uint64_t pg_arena_bytes(const struct pg_arena *a)
{
	uint64_t segments = a->nr_segments * sizeof(*a->segments);

	return (a->backed + (segments + PAGE - 1) / PAGE) * PAGE;
}

/*
 * A position is a byte of the arena. The end of a segment and the start of the
 * next of its class are the same place, written as the latter.
 */
static uint64_t forward(const struct pg_arena *a, uint64_t pos, uint32_t n)
{
	for (;;) {
		uint32_t seg = (uint32_t)(pos / SEGMENT);
		uint32_t left = SEGMENT - (uint32_t)(pos % SEGMENT);

		if (n < left)
			return pos + n;
		n -= left;
		pos = (uint64_t)(a->segments[seg].next - 1) * SEGMENT;
	}
}

/* The position @n bytes before byte @fill of segment @seg. */
static uint64_t backward(const struct pg_arena *a, uint32_t seg, uint32_t fill,
			 uint32_t n)
{
	while (n > fill) {
		n -= fill;
		pg_bug_on(!a->segments[seg].prev);
		seg = a->segments[seg].prev - 1;
		fill = SEGMENT;
	}
	return (uint64_t)seg * SEGMENT + fill - n;
}

/* The part of @n bytes at @pos that lies in one segment. */
static uint32_t in_segment(uint64_t pos, uint32_t n)
{
	uint32_t left = SEGMENT - (uint32_t)(pos % SEGMENT);

	return n < left ? n : left;
}

static void write_at(struct pg_arena *a, uint64_t pos, const void *from,
		     uint32_t n)
{
	const char *p = from;

	for (;;) {
		uint32_t part = in_segment(pos, n);

		memcpy(a->base + pos, p, part);
		n -= part;
		if (!n)
			return;
		p += part;
		pos = forward(a, pos, part);
	}
}

static void read_at(const struct pg_arena *a, uint64_t pos, void *to,
		    uint32_t n)
{
	char *p = to;

	for (;;) {
		uint32_t part = in_segment(pos, n);

		memcpy(p, a->base + pos, part);
		n -= part;
		if (!n)
			return;
		p += part;
		pos = forward(a, pos, part);
	}
}

void pg_arena_read(const struct pg_arena *a, uint64_t ref, uint32_t from,
		   void *to, uint32_t n)
{
	if (n)
		read_at(a, forward(a, ref * UNIT, HEADER + from), to, n);
}

/* Copy @n bytes from @from to @to, which do not overlap. */
static void copy_at(struct pg_arena *a, uint64_t to, uint64_t from, uint32_t n)
{
	for (;;) {
		uint32_t part = in_segment(from, n);

		write_at(a, to, a->base + from, part);
		n -= part;
		if (!n)
			return;
		from = forward(a, from, part);
		to = forward(a, to, part);
	}
}

/* Pages behind the end of a class. */
static uint32_t slack_of(const struct pg_arena *a,
			 const struct pg_arena_class *c)
{
	if (!c->tail)
		return 0;
	return a->segments[c->tail - 1].backed - page_up(c->fill);
}

static void drop_pages(struct pg_arena *a, uint32_t seg, uint32_t from)
{
	struct pg_arena_segment *s = &a->segments[seg];

	if (s->backed <= from)
		return;
	pg_mem_drop(a->base + (uint64_t)seg * SEGMENT + from * PAGE,
		    (size_t)(s->backed - from) * PAGE);
	a->backed -= s->backed - from;
	s->backed = (uint16_t)from;
}

/* Free segments are in two stacks. */
static void push(struct pg_arena *a, uint32_t *stack, uint32_t nr)
{
	a->segments[nr].next = *stack;
	*stack = nr + 1;
}

static uint32_t pop(struct pg_arena *a, uint32_t *stack)
{
	uint32_t nr = *stack - 1;

	*stack = a->segments[nr].next;
	return nr;
}

/* Append a segment to a class. There must be one, used or not. */
static void add_segment(struct pg_arena *a, uint32_t cl)
{
	struct pg_arena_class *c = &a->classes[cl];
	struct pg_arena_segment *s;
	uint32_t nr;

	pg_bug_on(a->used_segments >= a->max_segments);
	a->used_segments++;
	if (a->kept)
		nr = pop(a, &a->kept);
	else if (a->bare)
		nr = pop(a, &a->bare);
	else
		nr = a->nr_segments++;
	s = &a->segments[nr];
	s->prev = c->tail;
	s->next = 0;
	s->cl = (uint16_t)cl;
	if (c->tail)
		a->segments[c->tail - 1].next = nr + 1;
	c->tail = nr + 1;
	c->fill = 0;
}

/* Cut off the last segment of a class; its pages stay. */
static void del_segment(struct pg_arena *a, struct pg_arena_class *c)
{
	uint32_t nr = c->tail - 1;

	a->in_use -= page_up(c->fill);
	c->tail = a->segments[nr].prev;
	c->fill = c->tail ? SEGMENT : 0;
	if (c->tail)
		a->segments[c->tail - 1].next = 0;
	push(a, &a->kept, nr);
	a->used_segments--;
}

/* Make the class end at @fill bytes of its last segment. */
static void set_fill(struct pg_arena *a, struct pg_arena_class *c,
		     uint32_t fill)
{
	struct pg_arena_segment *s = &a->segments[c->tail - 1];
	uint32_t pages = page_up(fill);

	a->in_use += pages - (uint64_t)page_up(c->fill);
	c->fill = fill;
	if (s->backed < pages) {
		a->backed += pages - s->backed;
		s->backed = (uint16_t)pages;
	}
}

/* Pages that @n more bytes would need. */
static uint64_t growth(const struct pg_arena *a, const struct pg_arena_class *c,
		       uint32_t n)
{
	uint32_t left = c->tail ? SEGMENT - c->fill : 0, need;

	if (n > left)
		need = page_up(n - left) +
		       (c->tail ? SEGMENT / PAGE - page_up(c->fill) : 0);
	else
		need = page_up(c->fill + n) - page_up(c->fill);
	return need > slack_of(a, c) ? need - slack_of(a, c) : 0;
}

/* Move the end of the class by @n bytes, which fit. */
static void extend(struct pg_arena *a, uint32_t cl, uint32_t n)
{
	struct pg_arena_class *c = &a->classes[cl];

	while (n) {
		uint32_t part;

		if (!c->tail || c->fill == SEGMENT)
			add_segment(a, cl);
		part = in_segment(c->fill, n);
		set_fill(a, c, c->fill + part);
		n -= part;
	}
}

/* Make the class end at @pos, which is in it. */
static void cut(struct pg_arena *a, struct pg_arena_class *c, uint64_t pos)
{
	uint32_t seg = (uint32_t)(pos / SEGMENT);

	while (c->tail != seg + 1)
		del_segment(a, c);
	set_fill(a, c, (uint32_t)(pos % SEGMENT));
	if (!c->fill)
		del_segment(a, c);
}

int pg_arena_alloc(struct pg_arena *a, const void *data, uint32_t len,
		   uint32_t owner, uint64_t room, uint64_t *ref)
{
	uint32_t cl = class_of(len), stride = stride_of(len);
	struct pg_arena_class *c = &a->classes[cl];
	uint64_t pos;

	pg_assert(len && len <= PG_ARENA_MAX);
	/* One page more: the list of segments may need it. */
	if ((growth(a, c, stride) + 1) * PAGE > room)
		return -ENOSPC;
	if (a->used_segments + 2 > a->max_segments)
		return -ENOSPC;
	extend(a, cl, stride);
	pos = backward(a, c->tail - 1, c->fill, stride);
	memcpy(a->base + pos, &owner, HEADER);
	write_at(a, forward(a, pos, HEADER), data, len);
	*ref = pos / UNIT;
	return 0;
}

static bool slack_ok(const struct pg_arena *a)
{
	return a->backed - a->in_use <= SLACK_MIN + (a->backed >> SLACK_SHIFT);
}

static void drop_slack_of(struct pg_arena *a, const struct pg_arena_class *c)
{
	if (c->tail)
		drop_pages(a, c->tail - 1, page_up(c->fill));
}

/* Give pages back until few enough are kept: those of @c, then of segments
 * that are free, then of the other classes, some at a time. */
static void drop_slack(struct pg_arena *a, const struct pg_arena_class *c)
{
	if (!slack_ok(a))
		drop_slack_of(a, c);
	while (!slack_ok(a) && a->kept) {
		uint32_t nr = pop(a, &a->kept);

		drop_pages(a, nr, 0);
		push(a, &a->bare, nr);
	}
	for (uint32_t i = 0; i < SWEEP && !slack_ok(a); i++) {
		drop_slack_of(a, &a->classes[a->sweep]);
		a->sweep = (a->sweep + 1) % PG_ARENA_CLASSES;
	}
}

void pg_arena_free(struct pg_arena *a, uint64_t ref, uint32_t len)
{
	uint32_t cl = class_of(len), stride = stride_of(len);
	struct pg_arena_class *c = &a->classes[cl];
	uint64_t pos = ref * UNIT, last;
	uint32_t owner;

	pg_bug_on(pos / SEGMENT >= a->nr_segments || !c->tail ||
		  a->segments[pos / SEGMENT].cl != cl);
	last = backward(a, c->tail - 1, c->fill, stride);
	if (last != pos) {
		copy_at(a, pos, last, stride);
		memcpy(&owner, a->base + pos, HEADER);
		a->moved(a->arg, owner, last / UNIT, ref);
	}
	cut(a, c, last);
	drop_slack(a, c);
}
