/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * shard.h - which copy of a thing that exists once per few threads is ours.
 *
 * Our threads have no thread-local storage, so a thread is told by where its
 * stack is. Two threads may get the same number, and one thread another number
 * in a deep call: a hint for speed and nothing else.
 */
#ifndef PG_SHARD_H
#define PG_SHARD_H

#include <stdint.h>

#define PG_NR_SHARDS 16u

/** pg_shard() - 0 .. PG_NR_SHARDS - 1; mostly the same for one thread. */
static inline __attribute__((always_inline)) uint32_t pg_shard(void)
{
	uint64_t granule = (uintptr_t)__builtin_frame_address(0) >> 14;

	return (uint32_t)(granule * 0x9e3779b97f4a7c15u >> 60);
}

_Static_assert(PG_NR_SHARDS == 1u << 4, "the top four bits of the hash");

#endif
