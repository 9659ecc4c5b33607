/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * hash.h - checksums, by xxHash.
 */
#ifndef PG_HASH_H
#define PG_HASH_H

#include <stddef.h>
#include <stdint.h>

/** pg_hash() - Return: XXH3 of @len bytes. Context: any. */
uint64_t pg_hash(const void *p, size_t len);

#endif
