/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * atomic.h - the only way our code touches an atomic.
 *
 * Each use names its C11 order: pg_load(&x, acquire). A test build can route
 * every one of them through a scheduler by replacing this header, so nothing
 * else may include <stdatomic.h>.
 */
#ifndef PG_ATOMIC_H
#define PG_ATOMIC_H

#include <stdatomic.h>
#include <stdint.h>

typedef _Atomic(uint8_t) pg_atomic8;
typedef _Atomic(uint32_t) pg_atomic32;
typedef _Atomic(uint64_t) pg_atomic64;

#define pg_load(p, order) atomic_load_explicit(p, memory_order_##order)
#define pg_store(p, v, order) atomic_store_explicit(p, v, memory_order_##order)
#define pg_xchg(p, v, order)                                                   \
	atomic_exchange_explicit(p, v, memory_order_##order)
#define pg_fetch_add(p, v, order)                                              \
	atomic_fetch_add_explicit(p, v, memory_order_##order)
#define pg_fetch_sub(p, v, order)                                              \
	atomic_fetch_sub_explicit(p, v, memory_order_##order)
#define pg_fetch_or(p, v, order)                                               \
	atomic_fetch_or_explicit(p, v, memory_order_##order)
#define pg_fetch_and(p, v, order)                                              \
	atomic_fetch_and_explicit(p, v, memory_order_##order)
/* Strong compare-and-set; on failure *old gets the value found, relaxed. */
#define pg_cas(p, old, v, order)                                               \
	atomic_compare_exchange_strong_explicit(                               \
		p, old, v, memory_order_##order, memory_order_relaxed)
#define pg_fence(order) atomic_thread_fence(memory_order_##order)

/** pg_cpu_relax() - Tell the CPU that we spin. */
static inline void pg_cpu_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#endif
}

#endif
