/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ranges.h - disjoint ranges of addresses, each with a tag.
 *
 * Sorted, neighbours with the same tag joined, so a look-up is a binary
 * search. The caller locks. Zeroed memory is an empty set.
 */
#ifndef PG_RANGES_H
#define PG_RANGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pg_range {
	uintptr_t start, end;
	size_t tag;
};

struct pg_ranges {
	struct pg_range *range; /* sorted, disjoint */
	uint32_t nr, max;
};

/** pg_ranges_init() - Room for @max ranges, backed when used. Return: 0 or
 * -ENOMEM. */
int pg_ranges_init(struct pg_ranges *r, uint32_t max);
void pg_ranges_fini(struct pg_ranges *r);
/** pg_ranges_set() - [@start, @end) has @tag from now on. Return: 0, or
 * -ENOSPC with nothing changed. */
int pg_ranges_set(struct pg_ranges *r, uintptr_t start, uintptr_t end,
		  size_t tag);
/** pg_ranges_clear() - [@start, @end) is in the set no more. A set that is
 * full keeps what it would have to split. */
void pg_ranges_clear(struct pg_ranges *r, uintptr_t start, uintptr_t end);
/** pg_ranges_find() - The first range that ends behind @addr; r->nr: none. */
uint32_t pg_ranges_find(const struct pg_ranges *r, uintptr_t addr);
/** pg_ranges_gap() - The first part of [*@start, @end) that is in no range.
 * Return: false if there is none; else *@start and *@stop are its bounds. */
bool pg_ranges_gap(const struct pg_ranges *r, uintptr_t *start, uintptr_t *stop,
		   uintptr_t end);

#endif
