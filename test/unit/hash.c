/* SPDX-License-Identifier: BSD-3-Clause */
/* Checksums: by which instructions they are computed must not show. */
#include "base/hash.h"

#include <string.h>

#include "test.h"

static unsigned char bytes[8192 + 64];

static void fill(void)
{
	uint64_t x = 1;

	for (size_t i = 0; i < sizeof(bytes); i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		bytes[i] = (unsigned char)(x >> 56);
	}
}

static bool same(struct pg_sum a, struct pg_sum b)
{
	return a.lo == b.lo && a.hi == b.hi;
}

TEST(N60_each_bit_of_a_page_changes_its_sum)
{
	struct pg_sum was;

	fill();
	was = pg_hash(bytes, 4096);
	for (size_t bit = 0; bit < 4096 * 8; bit += 37) {
		bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
		CHECK(!same(pg_hash(bytes, 4096), was));
		bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
	}
	CHECK(same(pg_hash(bytes, 4096), was));
}

TEST(the_sum_is_the_same_with_and_without_avx2)
{
	fill();
	if (!pg_hash_has_avx2())
		SKIP("no AVX2");
	for (size_t len = 1; len <= 8192; len = len * 3 / 2 + 1)
		for (size_t at = 0; at < 64; at += 13)
			CHECK(same(pg_hash_sse2(bytes + at, len),
				   pg_hash_avx2(bytes + at, len)));
}

TEST(the_sum_is_that_of_xxh3)
{
	/* What its authors' tool prints for an empty file. */
	struct pg_sum none = pg_hash(bytes, 0);

	CHECK(none.hi == 0x99aa06d3014798d8u);
	CHECK(none.lo == 0x6001c324468d497fu);
}

TEST_MAIN()
