/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * hash.h - checksums, by xxHash.
 */
#ifndef PG_HASH_H
#define PG_HASH_H

#include <stddef.h>
#include <stdint.h>

/** struct pg_sum - 128 bits: two pages with the same are the same. */
struct pg_sum {
	uint64_t lo, hi;
};

/** pg_hash() - Return: XXH3 of @len bytes. Context: any. */
struct pg_sum pg_hash(const void *p, size_t len);

#endif
