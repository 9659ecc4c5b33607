/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * stat.h - every counter pgmap keeps, declared once.
 *
 * These lists are the only place a counter is named. The structs below, the
 * JSON of `pgmap stat --json` and the text of `pgmap stat` are generated from
 * them. To add a counter: add a line at the END of a list, then count where
 * the event happens. Never reorder, never reuse.
 */
#ifndef PGMAP_STAT_H
#define PGMAP_STAT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Events. They only grow; a rate is the difference of two snapshots.
 * X(name, unit, what it counts) */
#define PGMAP_COUNTERS(X)                                                      \
	X(faults, "count", "page faults handled")                              \
	X(fault_ns, "ns", "time spent handling them")                          \
	X(hole_faults, "count", "faults on pages that were never written")     \
	X(loads, "pages", "loaded from the device on a touch")                 \
	X(prefetched, "pages", "loaded beside a touched page")                 \
	X(standby_hits, "pages", "given back before they had left RAM")        \
	X(evictions, "pages", "taken out of RAM")                              \
	X(clean, "pages", "of them not stored: the device held the same")      \
	X(busy, "pages", "left in RAM because pinned, shared or in flight")    \
	X(full, "pages", "left in RAM because the device was full")            \
	X(discards, "pages", "dropped on the device: unmapped or zapped")      \
	X(io_errors, "count", "stores and loads that failed")                  \
	X(poisoned, "pages", "lost: a touch raises SIGBUS")                    \
	X(copied, "pages", "moved by copy because UFFDIO_MOVE could not")      \
	X(retries, "count", "faults that had to be taken again")

/* Levels, as of now.
 * X(name, unit, what it counts) */
#define PGMAP_GAUGES(X)                                                        \
	X(budget, "bytes", "limit for managed memory in RAM, whole tree")      \
	X(managed, "bytes", "address space that is managed")                   \
	X(present, "bytes", "managed memory that is in RAM")                   \
	X(pool, "bytes", "RAM held as buffers between program and device")     \
	X(away, "bytes", "managed memory that is on the device")               \
	X(device_host, "bytes", "RAM that the device uses to hold it")         \
	X(device_media, "bytes", "space outside RAM that the device uses")     \
	X(metadata, "bytes", "RAM that page maps and page tables use")         \
	X(peak_managed, "bytes", "highest present + away")                     \
	X(peak_resident, "bytes", "highest present + pool")                    \
	X(peak_away, "bytes", "highest away")                                  \
	X(peak_device_host, "bytes", "highest device_host")                    \
	X(peak_device_media, "bytes", "highest device_media")

/* Latencies fall into buckets, four to a power of two nanoseconds; bucket b
 * starts at pgmap_hist_value(b). */
#define PGMAP_HIST_BUCKETS 160

/**
 * struct pgmap_stat - A snapshot of the counters of one process or of a tree.
 * @size: sizeof(struct pgmap_stat) as the caller knows it, set by the caller.
 * @fault_hist: Faults by latency; see pgmap_hist_value().
 *
 * Fields are read one by one, so they may be a few events apart.
 */
struct pgmap_stat {
	uint64_t size;
#define X(name, unit, doc) uint64_t name;
	PGMAP_COUNTERS(X)
	PGMAP_GAUGES(X)
#undef X
	uint64_t fault_hist[PGMAP_HIST_BUCKETS];
};

/** pgmap_hist_bucket() - Return: the bucket of a latency of @ns. */
static inline unsigned int pgmap_hist_bucket(uint64_t ns)
{
	unsigned int e, b;

	if (ns < 4)
		return (unsigned int)ns;
	e = 61u - (unsigned int)__builtin_clzll(ns); /* ns >> e is 4..7 */
	b = 4u * (e + 1u) + (unsigned int)((ns >> e) & 3u);
	return b < PGMAP_HIST_BUCKETS ? b : PGMAP_HIST_BUCKETS - 1;
}

/** pgmap_hist_value() - Return: the smallest latency in @bucket, in ns. */
static inline uint64_t pgmap_hist_value(unsigned int bucket)
{
	if (bucket < 4)
		return bucket;
	return (uint64_t)(4u + bucket % 4u) << (bucket / 4u - 1u);
}

/** pgmap_hist_percentile() - Return: the latency in ns that a share of
 * @permille of the samples did not exceed, to a quarter of a power of two; 0
 * when there are none. */
static inline uint64_t
pgmap_hist_percentile(const uint64_t hist[PGMAP_HIST_BUCKETS],
		      unsigned int permille)
{
	uint64_t n = 0, seen = 0;

	for (unsigned int b = 0; b < PGMAP_HIST_BUCKETS; b++)
		n += hist[b];
	for (unsigned int b = 0; b < PGMAP_HIST_BUCKETS; b++) {
		seen += hist[b];
		if (n && seen * 1000 >= n * permille)
			return pgmap_hist_value(b + 1);
	}
	return 0;
}

#ifdef __cplusplus
}
#endif
#endif
