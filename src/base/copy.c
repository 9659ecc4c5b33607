/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/copy.h"

#include <emmintrin.h>

#include "base/mutant.h"

void pg_copy_away(void *to, const void *from, size_t len)
{
	const __m128i *s = from;
	__m128i *d = to;

	if (pg_mutant("copy_stops_early"))
		len -= 64;
	for (size_t i = 0; i < len / sizeof(*s); i += 4) {
		__m128i a = _mm_load_si128(s + i);
		__m128i b = _mm_load_si128(s + i + 1);
		__m128i c = _mm_load_si128(s + i + 2);
		__m128i e = _mm_load_si128(s + i + 3);

		_mm_stream_si128(d + i, a);
		_mm_stream_si128(d + i + 1, b);
		_mm_stream_si128(d + i + 2, c);
		_mm_stream_si128(d + i + 3, e);
	}
	/* Such stores are ordered by nothing else. */
	_mm_sfence();
}
