/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Counters: snapshots of any size, and latencies in buckets.
 */
#include "core/stat.h"

#include <errno.h>

#include "test.h"

static struct pg_stat st;

static void count_up(void)
{
	uint64_t n = 100;

#define X(name, unit, doc) pg_store(&st.name, n++, relaxed);
	PGMAP_COUNTERS(X)
	PGMAP_GAUGES(X)
#undef X
	for (int b = 0; b < PGMAP_HIST_BUCKETS; b++)
		pg_store(&st.fault_hist[b], n++, relaxed);
}

TEST(a_snapshot_has_every_counter)
{
	struct pgmap_stat out = {.size = sizeof(out)};
	uint64_t n = 100;

	count_up();
	CHECK_EQ(pg_stat_copy(&st, &out), 0);
	CHECK_EQ(out.size, sizeof(out));
#define X(name, unit, doc) CHECK_EQ(out.name, n++);
	PGMAP_COUNTERS(X)
	PGMAP_GAUGES(X)
#undef X
	for (int b = 0; b < PGMAP_HIST_BUCKETS; b++)
		CHECK_EQ(out.fault_hist[b], n++);
}

TEST(a_caller_of_another_version_gets_what_it_knows)
{
	struct {
		struct pgmap_stat st;
		uint64_t more[4];
	} out;

	count_up();
	for (size_t size = 8; size <= sizeof(out); size += 8) {
		memset(&out, 0xaa, sizeof(out));
		out.st.size = size;
		CHECK_EQ(pg_stat_copy(&st, &out.st), 0);
		CHECK_EQ(out.st.size, size);
		if (size >= 16)
			CHECK_EQ(out.st.faults, 100);
		for (size_t i = sizeof(out.st); i < sizeof(out); i += 8)
			CHECK_EQ(out.more[(i - sizeof(out.st)) / 8],
				 i < size ? 0 : 0xaaaaaaaaaaaaaaaa);
		/* Nothing behind what it has room for. */
		if (size + 8 <= sizeof(out.st))
			CHECK_EQ(((uint64_t *)&out)[size / 8],
				 0xaaaaaaaaaaaaaaaa);
	}
}

TEST(a_size_that_cannot_be_is_refused)
{
	struct pgmap_stat out = {.size = 0, .faults = 77};

	CHECK_EQ(pg_stat_copy(&st, &out), -EINVAL);
	out.size = 12;
	CHECK_EQ(pg_stat_copy(&st, &out), -EINVAL);
	CHECK_EQ(out.faults, 77);
}

TEST(a_peak_only_grows)
{
	pg_atomic64 peak = 0;

	pg_gauge_raise(&peak, 5);
	pg_gauge_raise(&peak, 3);
	CHECK_EQ(pg_load(&peak, relaxed), 5);
	pg_gauge_raise(&peak, 9);
	CHECK_EQ(pg_load(&peak, relaxed), 9);
}

TEST(a_latency_lies_in_its_bucket)
{
	unsigned int last = 0;

	for (uint64_t ns = 0; ns < 1ull << 40; ns += 1 + ns / 7) {
		unsigned int b = pgmap_hist_bucket(ns);

		CHECK(b >= last && b < PGMAP_HIST_BUCKETS);
		last = b;
		if (b == PGMAP_HIST_BUCKETS - 1)
			break;
		CHECK(pgmap_hist_value(b) <= ns);
		CHECK(ns < pgmap_hist_value(b + 1));
		/* A bucket is a quarter of a power of two at most. */
		CHECK(ns < 4 || pgmap_hist_value(b + 1) - pgmap_hist_value(b) <=
					ns / 4 + 1);
	}
	CHECK_EQ(pgmap_hist_bucket(UINT64_MAX), PGMAP_HIST_BUCKETS - 1);
	for (unsigned int b = 0; b < PGMAP_HIST_BUCKETS; b++)
		CHECK_EQ(pgmap_hist_bucket(pgmap_hist_value(b)), b);
}

TEST(percentiles_are_found)
{
	uint64_t hist[PGMAP_HIST_BUCKETS] = {0};

	CHECK_EQ(pgmap_hist_percentile(hist, 500), 0);
	for (uint64_t ns = 1; ns <= 1000; ns++)
		hist[pgmap_hist_bucket(ns)]++;
	for (unsigned int p = 1; p <= 1000; p++) {
		uint64_t v = pgmap_hist_percentile(hist, p);

		CHECK(v >= p && v <= p + p / 4 + 1);
	}
}

TEST_MAIN()
