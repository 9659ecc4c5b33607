/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/hash.h"

#include <cpuid.h>
#include <stdbool.h>

#include "base/atomic.h"
#include "base/mutant.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define HAS_OSXSAVE (1u << 27) /* CPUID 1, ECX: OSXSAVE */
#define HAS_AVX2 (1u << 5)     /* CPUID 7, EBX */
#define SAVES_YMM 6u	       /* XCR0: SSE and AVX state */

enum { NOT_ASKED, HAS_NONE, HAS_ALL };

static bool ask_cpu(void)
{
	unsigned int a, b, c, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & HAS_OSXSAVE) ||
	    !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & HAS_AVX2))
		return false;
	/* The kernel saves what AVX uses. */
	__asm__("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
	return (a & SAVES_YMM) == SAVES_YMM;
}

bool pg_hash_has_avx2(void)
{
	/* Asking is slow in a virtual machine. atomic, relaxed: all who ask
	 * hear the same. */
	static pg_atomic32 answer;
	uint32_t is = pg_load(&answer, relaxed);

	if (is == NOT_ASKED) {
		is = ask_cpu() ? HAS_ALL : HAS_NONE;
		pg_store(&answer, is, relaxed);
	}
	return is == HAS_ALL;
}

struct pg_sum pg_hash_sse2(const void *p, size_t len)
{
	XXH128_hash_t h = XXH3_128bits(p, len);

	return (struct pg_sum){h.low64, h.high64};
}

struct pg_sum pg_hash(const void *p, size_t len)
{
	if (pg_mutant("hash_of_the_first_half"))
		len /= 2;
	return pg_hash_has_avx2() ? pg_hash_avx2(p, len) : pg_hash_sse2(p, len);
}
