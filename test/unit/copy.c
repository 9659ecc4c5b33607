/* SPDX-License-Identifier: BSD-3-Clause */
/* Copies past the caches: all of it, and nothing beside it. */
#include "base/copy.h"

#include <string.h>

#include "test.h"

static _Alignas(64) unsigned char from[8192], to[8192];

TEST(a_copy_past_the_caches_is_a_copy)
{
	for (size_t i = 0; i < sizeof(from); i++)
		from[i] = (unsigned char)(i * 7 + i / 256);
	for (size_t len = 64; len <= 4096; len += 64 * 7) {
		memset(to, 0xee, sizeof(to));
		pg_copy_away(to + 16, from + 32, len);
		CHECK(!memcmp(to + 16, from + 32, len));
		CHECK_EQ(to[15], 0xee);
		CHECK_EQ(to[16 + len], 0xee);
	}
}

TEST_MAIN()
