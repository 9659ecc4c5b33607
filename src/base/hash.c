/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t pg_hash(const void *p, size_t len)
{
	return XXH3_64bits(p, len);
}
