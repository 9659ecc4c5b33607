/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * hash.h - checksums, by xxHash.
 */
#ifndef PG_HASH_H
#define PG_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** struct pg_sum - 128 bits: two pages with the same are the same. */
struct pg_sum {
	uint64_t lo, hi;
};

/** pg_hash() - Return: XXH3 of @len bytes, the same on every CPU; with AVX2 at
 * twice the speed. Context: any. */
struct pg_sum pg_hash(const void *p, size_t len);
/* The two ways to it. The second is for a CPU that has it. */
struct pg_sum pg_hash_sse2(const void *p, size_t len);
struct pg_sum pg_hash_avx2(const void *p, size_t len);
bool pg_hash_has_avx2(void);

#endif
