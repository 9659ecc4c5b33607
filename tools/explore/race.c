/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * race.c - memory itself: data races, freed memory, and going back.
 *
 * Two accesses of which one is a plain store, or one plain and the other an
 * atomic store, must be ordered by what C11 orders, else they are a race,
 * whichever came first here. Each byte knows the clock of each thread's last
 * accesses of each kind. Copies of whole pages are kept by the page.
 *
 * What a thread changes is announced before it happens, so that the old bytes
 * can be put back for the next execution.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "explore/engine.h"

#define PAGE 4096u
#define WORD 8u
#define WORDS (PAGE / WORD)
#define ARENA ((uintptr_t)0x200000000000)
#define ARENA_SIZE ((size_t)1 << 36)
#define NR_BUCKETS 4096u
#define NR_PAGES 2048u
#define NR_SPLIT 65536u
#define NR_REGIONS 4096u
#define UNDO_BYTES ((size_t)64 << 20)
#define UNDO_ENTRIES ((size_t)1 << 20)

/* The clock of each thread's last access of each kind. */
struct marks {
	uint16_t clock[4][X_CLOCKS];
};

struct word {
	uint32_t epoch;
	/* All accesses so far were to these bytes; size 0: each byte has
	 * marks of its own. */
	uint8_t at, size;
	uint32_t split;
	struct marks marks;
};

struct page {
	uintptr_t addr;
	uint32_t epoch;
	struct marks whole; /* accesses to all of it */
	struct marks some;  /* accesses to a part of it */
	struct word word[WORDS];
};

static struct page *page[NR_PAGES]; /* made when needed, never freed */
static unsigned int nr_pages;
static uint16_t bucket[NR_BUCKETS]; /* index + 1 */
static struct marks (*split)[WORD];
static uint32_t nr_split;

static struct region {
	uintptr_t addr;
	size_t size;
	bool freed;
} region[NR_REGIONS];
static size_t nr_regions, arena_used;

static struct undo {
	uintptr_t addr;
	size_t size, at;
} * undo;
static char *undo_bytes;
static size_t nr_undo, undo_used;

void x_race_begin(void)
{
	nr_split = 0;
	if (split)
		return;
	split = malloc(NR_SPLIT * sizeof(*split));
	undo = malloc(UNDO_ENTRIES * sizeof(*undo));
	undo_bytes = malloc(UNDO_BYTES);
	if (!split || !undo || !undo_bytes ||
	    mmap((void *)ARENA, ARENA_SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE |
			 MAP_FIXED_NOREPLACE,
		 -1, 0) != (void *)ARENA) {
		fprintf(stderr, "pgmap-explore: no memory\n");
		exit(2);
	}
}

/* ---- Undo ---- */

void x_save(uintptr_t addr, size_t size)
{
	if (x_stack_has(addr))
		return;
	if (nr_undo == UNDO_ENTRIES || undo_used + size > UNDO_BYTES)
		x_fail("too many stores in one execution");
	undo[nr_undo++] = (struct undo){addr, size, undo_used};
	memcpy(undo_bytes + undo_used, (const void *)addr, size);
	undo_used += size;
}

size_t x_saved(void)
{
	return nr_undo;
}

void x_restore(size_t mark)
{
	while (nr_undo > mark) {
		const struct undo *u = &undo[--nr_undo];

		memcpy((void *)u->addr, undo_bytes + u->at, u->size);
		undo_used = u->at;
	}
}

/* ---- Memory ---- */

void *x_alloc(size_t size, size_t align)
{
	uintptr_t addr = (ARENA + arena_used + align - 1) & ~(align - 1);
	size_t len = (size + PAGE - 1) & ~(size_t)(PAGE - 1);

	if (nr_regions == NR_REGIONS || addr + len + PAGE > ARENA + ARENA_SIZE)
		x_fail("too much memory for one execution");
	region[nr_regions++] = (struct region){addr, len, false};
	arena_used = addr + len + PAGE - ARENA; /* a page between two */
	return (void *)addr;
}

static struct region *region_of(uintptr_t addr)
{
	size_t lo = 0, hi = nr_regions;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (region[mid].addr + region[mid].size <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < nr_regions && region[lo].addr <= addr ? &region[lo] : NULL;
}

bool x_is_alloc(uintptr_t addr, size_t size)
{
	const struct region *r = region_of(addr);

	return r && !r->freed && addr + size <= r->addr + r->size;
}

struct x_arena_mark x_arena_mark(void)
{
	return (struct x_arena_mark){arena_used, nr_regions};
}

/* What was there at the mark and is freed since comes back. */
void x_arena_restore(struct x_arena_mark m)
{
	arena_used = m.used;
	nr_regions = m.nr;
}

static void check_alive(uintptr_t addr, size_t size, const void *pc)
{
	const struct region *r;

	if (addr < ARENA || addr >= ARENA + ARENA_SIZE)
		return;
	r = region_of(addr);
	if (!r || addr + size > r->addr + r->size)
		x_fail("access outside of any memory: %s\n    %s", x_what(addr),
		       x_where(pc));
	if (r->freed)
		x_fail("access to memory that was unmapped: %s\n    %s",
		       x_what(addr), x_where(pc));
}

/* ---- Races ---- */

static struct page *find_page(uintptr_t addr, bool make)
{
	uintptr_t a = addr & ~(uintptr_t)(PAGE - 1);
	unsigned int b = (unsigned int)((a * 0x9e3779b97f4a7c15u) >> 52);
	struct page *p;

	for (; bucket[b]; b = (b + 1) % NR_BUCKETS) {
		p = page[bucket[b] - 1];
		if (p->addr == a)
			goto found;
	}
	if (!make)
		return NULL;
	if (nr_pages == NR_PAGES)
		x_fail("too many pages of memory are in use");
	p = calloc(1, sizeof(*p));
	if (!p)
		x_fail("no memory");
	p->addr = a;
	page[nr_pages++] = p;
	bucket[b] = (uint16_t)nr_pages;
found:
	if (p->epoch != x.epoch) {
		if (!make)
			return NULL;
		p->epoch = x.epoch;
		memset(&p->whole, 0, sizeof(p->whole));
		memset(&p->some, 0, sizeof(p->some));
	}
	return p;
}

_Noreturn static void race(uintptr_t addr, size_t size, enum x_access kind,
			   const void *pc, int other, enum x_access theirs)
{
	static const char *const name[] = {"plain read", "plain write",
					   "atomic read", "atomic write"};
	const void *their_pc = x_trace_conflict(other, addr, size, theirs);
	char where[200], what[100];

	snprintf(where, sizeof(where), "%s", x_where(pc));
	snprintf(what, sizeof(what), "%s", x_what(addr));
	x_fail("data race on %s:\n    %s by T%d, %s\n    %s by T%d, %s", what,
	       name[kind], x.me, where, name[theirs], other,
	       their_pc ? x_where(their_pc) : "earlier");
}

static const bool conflict[4][4] = {
	[A_READ] = {[A_WRITE] = true, [A_ATOMIC_WRITE] = true},
	[A_WRITE] = {true, true, true, true},
	[A_ATOMIC_READ] = {[A_WRITE] = true},
	[A_ATOMIC_WRITE] = {[A_READ] = true, [A_WRITE] = true},
};

static void check(const struct marks *m, uintptr_t addr, size_t size,
		  enum x_access kind, const void *pc)
{
	const uint16_t *now = x.thread[x.me].now.clock;

	for (int k = 0; k < 4; k++) {
		if (!conflict[kind][k])
			continue;
		for (int i = 0; i < X_THREADS; i++)
			if (m->clock[k][i] > now[i] && i != x.me)
				race(addr, size, kind, pc, i, (enum x_access)k);
	}
}

static void mark(struct marks *m, enum x_access kind)
{
	m->clock[kind][x.me] = x.thread[x.me].now.clock[x.me];
}

static void split_word(struct word *w)
{
	if (nr_split == NR_SPLIT)
		x_fail("too many bytes are in use");
	w->split = nr_split++;
	memset(split[w->split], 0, sizeof(split[0]));
	for (unsigned int i = w->at; i < (unsigned int)w->at + w->size; i++)
		split[w->split][i] = w->marks;
	w->size = 0;
}

/* Inside one word. */
static void access_word(struct page *p, uintptr_t addr, size_t size,
			enum x_access kind, const void *pc)
{
	struct word *w = &p->word[addr % PAGE / WORD];
	uint8_t at = addr % WORD;

	if (w->epoch != x.epoch) {
		memset(&w->marks, 0, sizeof(w->marks));
		w->epoch = x.epoch;
		w->at = at;
		w->size = (uint8_t)size;
	}
	if (w->size && (w->at != at || w->size != size))
		split_word(w);
	if (w->size) {
		check(&w->marks, addr, size, kind, pc);
		mark(&w->marks, kind);
		return;
	}
	for (uint8_t i = at; i < at + size; i++) {
		check(&split[w->split][i], addr, size, kind, pc);
		mark(&split[w->split][i], kind);
	}
}

static void access_page(uintptr_t addr, size_t size, enum x_access kind,
			const void *pc)
{
	struct page *p = find_page(addr, true);

	check(&p->whole, addr, size, kind, pc);
	if (size == PAGE) {
		check(&p->some, addr, size, kind, pc);
		mark(&p->whole, kind);
		return;
	}
	mark(&p->some, kind);
	while (size) {
		size_t n = WORD - addr % WORD;

		if (n > size)
			n = size;
		access_word(p, addr, n, kind, pc);
		addr += n;
		size -= n;
	}
}

void x_access(uintptr_t addr, size_t size, enum x_access kind, const void *pc)
{
	if (!size || x_stack_has(addr))
		return;
	check_alive(addr, size, pc);
	if (!x.running)
		return;
	if (x.tracing)
		x_trace_plain(pc, addr, size, kind);
	while (size) {
		size_t n = PAGE - addr % PAGE;

		if (n > size)
			n = size;
		access_page(addr, n, kind, pc);
		addr += n;
		size -= n;
	}
}

void x_free(uintptr_t addr, size_t size, const void *pc)
{
	struct region *r = region_of(addr);

	if (!r || r->addr != addr || r->freed ||
	    r->size != ((size + PAGE - 1) & ~(size_t)(PAGE - 1)))
		x_fail("unmapping what was not mapped so: %s, %zu bytes",
		       x_what(addr), size);
	for (size_t i = 0; x.running && i < r->size; i += PAGE) {
		struct page *p = find_page(addr + i, false);

		if (!p)
			continue;
		check(&p->whole, addr + i, PAGE, A_WRITE, pc);
		check(&p->some, addr + i, PAGE, A_WRITE, pc);
	}
	x_save((uintptr_t)&r->freed, sizeof(r->freed));
	r->freed = true;
}
