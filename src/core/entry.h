/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * entry.h - entries of 4 KB, 2 MB and 1 GB that name device pages.
 *
 * A table has a place for each gigabyte, and for each of those in use the
 * places of its 2 MB and 4 KB entries. A table page is made once for its
 * addresses and stays there until the space is gone: so a reader without a
 * lock never sees the entry of another address, and one that is late sees
 * none. Entries change under the space's ptl, only young and dirty by CPUs
 * without it; so an entry that the CPU can touch leaves by an exchange.
 *
 * One entry, of any size, holds one reference and one mapcount on its folio
 * (R118); special entries and the pages of zeros hold none (R58, R124). The
 * mapcount is that of the whole folio: nothing is written for a tail, so the
 * records of tails need not exist (R120).
 */
#ifndef PG_ENTRY_H
#define PG_ENTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/atomic.h"
#include "base/lock.h"
#include "mmu/mmu.h"

struct pg_area;
struct pg_space;
struct pgmap_folio;

enum pg_level { PG_PTE, PG_PMD, PG_PUD, PG_NR_LEVELS };

static inline unsigned int pg_level_order(enum pg_level l)
{
	return 9u * (unsigned int)l;
}

static inline uint64_t pg_level_pages(enum pg_level l)
{
	return (uint64_t)1 << pg_level_order(l);
}

static inline uintptr_t pg_level_size(enum pg_level l)
{
	return (uintptr_t)PG_PAGE_SIZE << pg_level_order(l);
}

/** pg_level_supported() - Can this build make entries of that size? (R131) */
static inline bool pg_level_supported(enum pg_level l)
{
#ifdef PG_NO_PUD
	if (l == PG_PUD)
		return false;
#endif
#ifdef PG_NO_PMD
	if (l == PG_PMD)
		return false;
#endif
	return l < PG_NR_LEVELS;
}

/* An entry: pfn << 12 and these. 0 is none. One that names a page and is
 * neither PRESENT nor PRIVATE may not be touched now: PROT_NONE. */
typedef uint64_t pg_entry_t;
#define PG_E_PRESENT (1u << 0) /* the CPU can read it */
#define PG_E_PRIVATE (1u << 1) /* a device page that the CPU cannot touch */
#define PG_E_WRITE (1u << 2)
#define PG_E_DIRTY (1u << 3)
#define PG_E_YOUNG (1u << 4)
#define PG_E_SPECIAL (1u << 5) /* names no folio: not counted (R124) */
#define PG_E_ZERO (1u << 6)    /* the page of zeros, of the entry's size */
#define PG_E_TABLE (1u << 7)   /* inside: there are smaller entries */

/** pg_entry_pfn() - The page that an entry names, or the first of them. */
static inline uint64_t pg_entry_pfn(pg_entry_t e)
{
	return e >> 12;
}

/** pg_entry_is_counted() - Does it hold a reference and a mapcount? */
static inline bool pg_entry_is_counted(pg_entry_t e)
{
	return e && !(e & (PG_E_SPECIAL | PG_E_ZERO | PG_E_TABLE));
}

/** enum pg_rss - What an entry counts as (R118, R133, R181). */
enum pg_rss { PG_RSS_FILE, PG_RSS_ANON, PG_NR_RSS };

/** What a fault or an insert came to. Linux: vm_fault_t. */
enum pg_fault_code {
	PG_VM_NOPAGE,	/* the entry is there now, or somebody else's is */
	PG_VM_FALLBACK, /* try a smaller entry */
	PG_VM_SIGBUS,
	PG_VM_SIGSEGV,
	PG_VM_HWPOISON, /* SIGBUS, BUS_MCEERR_AR */
	PG_VM_OOM,
	PG_VM_RETRY /* lost a race, or waited: touch again */
};

/* Bits of an address; the upper half is not a program's. */
#define PG_VA_BITS (sizeof(uintptr_t) > 4 ? 47u : 31u)
#define PG_NR_GIGS ((size_t)1 << (PG_VA_BITS - 30))

/** struct pg_gig - The entries of a gigabyte, backed where touched. */
struct pg_gig {
	pg_atomic64 pte[512][512]; /* ptl to write */
	pg_atomic64 pmd[512];	   /* ptl to write */
	uint16_t ptes[512];	   /* PTEs that are not none; ptl */
	uint32_t pmds;		   /* PMDs that are not none; ptl */
	struct pg_gig *next;	   /* of the table; ptl */
};

/** struct pg_table - All entries of a space. */
struct pg_table {
	/* Places from lo to hi - 1 have been used; ptl. */
	size_t lo, hi;
	struct pg_gig *gigs;	       /* all; ptl */
	pg_atomic32 nr_gigs;	       /* made and not given back; relaxed */
	pg_atomic64 *pud;	       /* PG_NR_GIGS; ptl to write */
	_Atomic(struct pg_gig *) *gig; /* PG_NR_GIGS; set once each, release */
};

/** pg_table_init() - Return: 0 or -ENOMEM. */
int pg_table_init(struct pg_table *t);
/** pg_table_fini() - There are no entries any more. */
void pg_table_fini(struct pg_table *t);
/** pg_table_populate() - Make the places for PMDs and PTEs around @va, so that
 * nothing need be allocated under ptl. Return: 0 or -ENOMEM. */
int pg_table_populate(struct pg_space *space, uintptr_t va);

/** pg_entry_get() - The entry of @va and its size, a hint without ptl. 0 and
 * the size of the hole when there is none. Lock-free. */
pg_entry_t pg_entry_get(struct pg_space *space, uintptr_t va,
			enum pg_level *level);
/** pg_entry_at() - The place of the entry of @va, for who changes its bits;
 * NULL when there is none. Lock-free. */
pg_atomic64 *pg_entry_at(struct pg_space *space, uintptr_t va,
			 enum pg_level *level);
/**
 * pg_entry_next() - The first entry that has an address of [*@va, @end).
 * @va: Out: where the entry begins, which may be before.
 *
 * Context: holds ptl. Return: its place, or NULL: no more.
 */
pg_atomic64 *pg_entry_next(struct pg_space *space, uintptr_t *va, uintptr_t end,
			   enum pg_level *level);
/** pg_entry_set() - Write an entry where there is none, and nothing smaller.
 * Counts nothing. Context: holds ptl; @va is populated. */
void pg_entry_set(struct pg_space *space, uintptr_t va, enum pg_level level,
		  pg_entry_t e);
/** pg_entry_clear() - Take an entry away. Uncounts nothing. Context: holds ptl.
 * Return: what it was. */
pg_entry_t pg_entry_clear(struct pg_space *space, uintptr_t va,
			  enum pg_level level);
/** pg_entry_folio() - The folio of a counted entry. Context: holds ptl. */
struct pgmap_folio *pg_entry_folio(pg_entry_t e);
/** pg_entry_count() - An entry names @folio now: mapcount and rss (R118). The
 * reference is the caller's. Context: holds ptl. */
void pg_entry_count(struct pg_space *space, struct pgmap_folio *folio,
		    enum pg_level level);
/** pg_folio_rss() - What pages of @folio count as. */
enum pg_rss pg_folio_rss(const struct pgmap_folio *folio);

/* References that entries held, to be dropped when ptl is not held. Linux:
 * struct mmu_gather. */
#define PG_GATHER_MAX 32u
struct pg_gather {
	uint32_t n;
	struct pgmap_folio *folio[PG_GATHER_MAX];
	uint32_t refs[PG_GATHER_MAX];
};
/** pg_gather_put() - Drop them. Context: does not hold ptl. */
void pg_gather_put(struct pg_space *space, struct pg_gather *g);
/** pg_gather_relax() - Drop them if there is room for no more. Context: holds
 * ptl, and may let go of it for a moment. */
void pg_gather_relax(struct pg_space *space, struct pg_gather *g);
/** pg_entry_zap() - Take an entry away with all that it counts for; what it
 * knew of young and dirty goes to the folio. Context: holds ptl. */
void pg_entry_zap(struct pg_space *space, uintptr_t va, enum pg_level level,
		  struct pg_gather *g);
/** pg_entry_split() - Make room for smaller entries in the place of that of
 * @level at @va: an anonymous one becomes PTEs, which name the same pages; any
 * other goes, and is faulted again. Context: holds ptl. */
void pg_entry_split(struct pg_space *space, uintptr_t va, enum pg_level level,
		    struct pg_gather *g);

/* ---- The caller holds space->lock for reading at least, and no ptl. ---- */

/**
 * pg_insert_folio() - Make @va's entry of size @level name @pfn of @folio.
 * @flags: PG_E_WRITE, and PG_E_PRIVATE for a device-private entry.
 *
 * The caller holds a reference, and keeps it: the entry takes its own, and a
 * mapcount. R122, R123: an entry that is there stays; one for the same page
 * becomes young, and with PG_E_WRITE dirty and writable.
 *
 * Return: PG_VM_NOPAGE; PG_VM_FALLBACK smaller entries are there, or this
 *         build has no such size; PG_VM_SIGBUS the folio's order does not fit
 *         @level (PMD, PUD) or @pfn is not its first page, nobody holds it,
 *         its type or @flags do not fit the area, or the range is not inside
 *         the area or not aligned;
 *         PG_VM_OOM; PG_VM_RETRY the entry there names another page, or is
 *         larger and may not be written.
 */
enum pg_fault_code pg_insert_folio(struct pg_area *area, uintptr_t va,
				   enum pg_level level,
				   struct pgmap_folio *folio, uint64_t pfn,
				   uint32_t flags);
/** pg_insert_special() - As above for a page without a folio (R124), or with
 * @pfn 0 for the page of zeros, which is never writable. */
enum pg_fault_code pg_insert_special(struct pg_area *area, uintptr_t va,
				     enum pg_level level, uint64_t pfn,
				     uint32_t flags);
/** pg_zap_range() - Remove every entry of [@va, @end) of @area; entries that
 * reach out of it are split first (R125, R126, R128, R132). Holding
 * mapping->lock will do instead of space->lock. */
void pg_zap_range(struct pg_area *area, uintptr_t va, uintptr_t end);
/** pg_split_at() - No entry of @area reaches across @va any more. */
void pg_split_at(struct pg_area *area, uintptr_t va);

#endif
