/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * spaces.h - a small world for tests of spaces: page maps of several types,
 * and a file that is nothing but a run of pages.
 */
#ifndef TEST_SPACES_H
#define TEST_SPACES_H

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "core/fault.h"
#include "core/folio.h"
#include "core/pagemap.h"
#include "core/space.h"
#include "test.h"

#define PAGE ((uintptr_t)PG_PAGE_SIZE)
#define MB ((uintptr_t)1 << 20)
#define GB ((uintptr_t)1 << 30)
#define RW (PG_AREA_READ | PG_AREA_WRITE)

/** MUST() - CHECK() for threads: cmocka cannot leave those. */
#define MUST(cond)                                                             \
	do {                                                                   \
		if (!(cond)) {                                                 \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__,     \
				#cond);                                        \
			abort();                                               \
		}                                                              \
	} while (0)

/* Tests of a size that this build does not have (R131). */
#define NEEDS(level)                                                           \
	do {                                                                   \
		if (!pg_level_supported(level))                                \
			SKIP("built without entries of that size");            \
	} while (0)

/* ---- Page maps ---- */

static void (*on_free)(struct pgmap_folio *folio);
static int (*on_fault)(struct pgmap_fault *fault);

static inline void world_free(struct pgmap_folio *folio)
{
	if (on_free)
		on_free(folio);
}

static inline int world_fault(struct pgmap_fault *fault)
{
	return on_fault ? on_fault(fault) : -EIO;
}

static inline struct pgmap *map_new(enum pgmap_type type, uint64_t nr)
{
	static const struct pgmap_ops ops = {
		.size = sizeof(ops),
		.folio_free = world_free,
		.migrate_to_ram = world_fault,
	};
	static uint64_t next = PGMAP_FIRST_DEVICE_PFN;
	struct pgmap_desc d = {
		.size = sizeof(d),
		.type = type,
		.nr_range = 1,
		.range = {{next, nr}},
		.ops = &ops,
		.owner = &next,
	};
	struct pgmap *map;

	on_free = NULL;
	on_fault = NULL;
	next += (nr + (1u << 18) - 1) & ~(uint64_t)((1u << 18) - 1);
	CHECK_EQ(pgmap_create(&d, &map), 0);
	return map;
}

static inline uint64_t map_pfn(struct pgmap *map)
{
	struct pgmap_range r;

	CHECK_EQ(pgmap_range_get(map, 0, &r), 0);
	return r.pfn;
}

/** folio_new() - 2^@order pages at page @i of @map; unlocked, count 1. */
static inline struct pgmap_folio *folio_new(struct pgmap *map, uint64_t i,
					    unsigned int order)
{
	struct pgmap_folio *folio = NULL;

	CHECK_EQ(pgmap_get_folio(map, map_pfn(map) + i, order, &folio), 0);
	pgmap_folio_unlock(folio);
	return folio;
}

static inline struct pgmap_folio *rec(struct pgmap *map, uint64_t i)
{
	return pg_map_folio(map, map_pfn(map) + i);
}

/** map_end() - Nothing of @map is held any more. */
static inline void map_end(struct pgmap *map)
{
	CHECK_EQ(pg_map_refs(map), 0);
	CHECK_EQ(pgmap_destroy(map), 0);
}

/* ---- Spaces ---- */

static inline void check(struct pg_space *s)
{
	const char *what;

	if (pg_space_check(s, &what))
		fail_msg("broken: %s", what);
}

static inline uint64_t rss(struct pg_space *s, enum pg_rss kind)
{
	return pg_load(&s->rss[kind], relaxed);
}

static inline pg_entry_t entry(struct pg_space *s, uintptr_t va)
{
	enum pg_level level;

	return pg_entry_get(s, va, &level);
}

static inline enum pg_level level_at(struct pg_space *s, uintptr_t va)
{
	enum pg_level level;

	pg_entry_get(s, va, &level);
	return level;
}

static inline uint64_t page_at(struct pg_space *s, uintptr_t va)
{
	enum pg_level level;
	pg_entry_t e = pg_entry_get(s, va, &level);

	return pg_entry_pfn(e) + va / PAGE % pg_level_pages(level);
}

/** nr_entries() - How many there are, of any size. */
static inline size_t nr_entries(struct pg_space *s)
{
	enum pg_level level;
	uintptr_t va = 0;
	size_t n = 0;

	pg_lock(&s->ptl, LOCK_PT);
	while (pg_entry_next(s, &va, (uintptr_t)1 << PG_VA_BITS, &level)) {
		va += pg_level_size(level);
		n++;
	}
	pg_unlock(&s->ptl, LOCK_PT);
	return n;
}

static inline enum pg_fault_code insert(struct pg_space *s, uintptr_t va,
					enum pg_level level,
					struct pgmap_folio *folio, uint64_t pfn,
					uint32_t flags)
{
	enum pg_fault_code ret = PG_VM_SIGSEGV;
	struct pg_area *a;

	pg_read_lock(&s->lock, LOCK_MM);
	a = pg_find_area(s, va);
	if (a)
		ret = pg_insert_folio(a, va, level, folio, pfn, flags);
	pg_read_unlock(&s->lock, LOCK_MM);
	return ret;
}

static inline enum pg_fault_code insert_special(struct pg_space *s,
						uintptr_t va,
						enum pg_level level,
						uint64_t pfn, uint32_t flags)
{
	enum pg_fault_code ret = PG_VM_SIGSEGV;
	struct pg_area *a;

	pg_read_lock(&s->lock, LOCK_MM);
	a = pg_find_area(s, va);
	if (a)
		ret = pg_insert_special(a, va, level, pfn, flags);
	pg_read_unlock(&s->lock, LOCK_MM);
	return ret;
}

/** zap() - Of one area, as truncation does it. */
static inline void zap(struct pg_space *s, uintptr_t va, uintptr_t end)
{
	pg_read_lock(&s->lock, LOCK_MM);
	pg_zap_range(pg_find_area(s, va), va, end);
	pg_read_unlock(&s->lock, LOCK_MM);
}

/* ---- A file: page @index is page @index of a map ---- */

struct test_file {
	struct pg_mapping mapping;
	struct pgmap *map;
	unsigned int faults;
	enum pg_level largest; /* entries it makes */
};

static inline enum pg_fault_code file_fault(struct pg_area *area, uintptr_t va,
					    uint64_t index, enum pg_level level,
					    bool write)
{
	struct test_file *f = (struct test_file *)area->mapping;
	uint64_t pfn = map_pfn(f->map) + index;
	struct pgmap_folio *folio;
	enum pg_fault_code ret;

	f->faults++;
	if (level > f->largest)
		return PG_VM_FALLBACK;
	for (;;) {
		int err = pgmap_get_folio(f->map, pfn, pg_level_order(level),
					  &folio);

		if (!err) {
			folio->mapping = (uintptr_t)&f->mapping;
			folio->index = index & PG_INDEX_MASK;
			pgmap_folio_unlock(folio);
			break;
		}
		if (err != -EBUSY)
			return PG_VM_SIGBUS;
		folio = pgmap_tryget_pfn(pfn);
		if (folio && (level == PG_PTE || pgmap_folio_order(folio) ==
							 pg_level_order(level)))
			break;
		/* Held at another size, or in part, or no more. */
		if (folio)
			pgmap_folio_put(folio);
		if (level != PG_PTE)
			return PG_VM_FALLBACK;
	}
	ret = pg_insert_folio(area, va, level, folio, pfn,
			      write ? PG_E_WRITE : 0);
	pgmap_folio_put(folio);
	return ret;
}

static inline void file_init(struct test_file *f, struct pgmap *map)
{
	static const struct pg_mapping_ops ops = {.fault = file_fault};

	memset(f, 0, sizeof(*f));
	pg_mapping_init(&f->mapping, &ops);
	f->map = map;
	f->largest = PG_PUD;
}

#endif
