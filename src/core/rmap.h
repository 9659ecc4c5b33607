/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rmap.h - from a page of a mapping to every entry that names it.
 *
 * A mapping (Linux: address_space, anon_vma) is a file, a device, or what
 * anonymous memory stands for. It knows the areas that map a part of it, and
 * an area knows which part: so a folio's mapping and index lead to every
 * address at which it may be mapped (R115), and the entry there tells which
 * page it names (R51).
 */
#ifndef PG_RMAP_H
#define PG_RMAP_H

#include "core/entry.h"

/** struct pg_mapping_ops - What is behind a mapping. */
struct pg_mapping_ops {
	/**
	 * @fault: Make the entry of @level at @va, whose first page is @index
	 * of the mapping, or say why not. It takes what folio it names to
	 * count 1 or holds it, calls pg_insert_folio() and puts it.
	 *
	 * The entry lies inside @area, has the colour of its place in the
	 * mapping, and there is none, or one of this size that may not be
	 * written. Context: holds area->space->lock for reading.
	 */
	enum pg_fault_code (*fault)(struct pg_area *area, uintptr_t va,
				    uint64_t index, enum pg_level level,
				    bool write);
	/** @may_split: May an area begin or end here? 0 or -EINVAL (R154f).
	 * Optional. */
	int (*may_split)(struct pg_area *area, uintptr_t va);
};

/** struct pg_mapping - Linux: address_space. First member of what has one. */
struct pg_mapping {
	const struct pg_mapping_ops *ops; /* NULL: anonymous */
	struct pg_rwlock lock; /* LOCK_MAPPING: areas. Readers: rmap walks */
	struct pg_area *areas;
	/* LOCK_INVALIDATE: faults for reading, truncation for writing (R154a)
	 */
	struct pg_rwlock invalidate;
};

/** pg_mapping_init() - Zeroed @mapping with @ops. */
void pg_mapping_init(struct pg_mapping *mapping,
		     const struct pg_mapping_ops *ops);

/* The following take mapping->lock for reading, and each ptl. */

/** pg_unmap_mapping_range() - Zap pages [@index, @index + @nr) of @mapping
 * everywhere. Linux: unmap_mapping_range(). */
void pg_unmap_mapping_range(struct pg_mapping *mapping, uint64_t index,
			    uint64_t nr);
/** pg_clean_mapping_range() - Entries of any size become clean and read-only.
 * Linux: pfn_mkclean_range(). Return: how many were dirty (R130, R145). */
unsigned int pg_clean_mapping_range(struct pg_mapping *mapping, uint64_t index,
				    uint64_t nr);
/** pg_entry_names() - Is @e a counted entry of a page of @folio? By the page
 * that it names, and not by its address: it may be any of them (R51). */
bool pg_entry_names(pg_entry_t e, const struct pgmap_folio *folio);
/** pg_rmap_walk() - Call @fn for each entry that names a page of @folio, which
 * is held and locked; until it returns false. Holds the ptl of the entry. */
void pg_rmap_walk(struct pgmap_folio *folio,
		  bool (*fn)(struct pg_area *area, uintptr_t va,
			     enum pg_level level, pg_entry_t entry, void *arg),
		  void *arg);
/** pg_rmap_unmap() - Zap each entry that names a page of @folio, which is held
 * and locked. Linux: try_to_unmap(). */
void pg_rmap_unmap(struct pgmap_folio *folio);

#endif
