/* SPDX-License-Identifier: BSD-3-Clause */
/* XXH3 again, compiled for CPUs with AVX2: see hash.c. */
#include <immintrin.h>
#include <string.h>

#include "base/hash.h"

/* All that follows is for such a CPU only: no header of ours below. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))),                  \
			     apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

#define XXH_VECTOR 2 /* XXH_AVX2 */
#define XXH_INLINE_ALL
#include <xxhash.h>

struct pg_sum pg_hash_avx2(const void *p, size_t len)
{
	XXH128_hash_t h = XXH3_128bits(p, len);

	return (struct pg_sum){h.low64, h.high64};
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
