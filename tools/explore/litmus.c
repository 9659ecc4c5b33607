/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * litmus.c - does the memory model allow what C11 allows, and no more?
 *
 * Each is a small program whose "weak" result check() reports as a failure.
 * They are instrumented like the core, so the orders that they name take the
 * same way to the engine.
 */
#include "base/atomic.h"
#include "explore/explore.h"

static pg_atomic32 X, Y;
static uint32_t seen[4];

static void weak(bool is)
{
	if (is)
		x_fail("weak");
}

#define STORE_BUFFER(name, so, lo, fence)                                      \
	static void name##_0(void)                                             \
	{                                                                      \
		pg_store(&X, 1, so);                                           \
		fence;                                                         \
		seen[0] = pg_load(&Y, lo);                                     \
	}                                                                      \
	static void name##_1(void)                                             \
	{                                                                      \
		pg_store(&Y, 1, so);                                           \
		fence;                                                         \
		seen[1] = pg_load(&X, lo);                                     \
	}

static void store_buffer_check(void)
{
	weak(!seen[0] && !seen[1]);
}

STORE_BUFFER(sb_relaxed, relaxed, relaxed, )
STORE_BUFFER(sb_acq_rel, release, acquire, )
STORE_BUFFER(sb_seq_cst, seq_cst, seq_cst, )
STORE_BUFFER(sb_fence, relaxed, relaxed, pg_fence(seq_cst))

#define MESSAGE(name, so, lo, release_fence, acquire_fence)                    \
	static void name##_0(void)                                             \
	{                                                                      \
		pg_store(&X, 1, relaxed);                                      \
		release_fence;                                                 \
		pg_store(&Y, 1, so);                                           \
	}                                                                      \
	static void name##_1(void)                                             \
	{                                                                      \
		seen[0] = pg_load(&Y, lo);                                     \
		acquire_fence;                                                 \
		seen[1] = pg_load(&X, relaxed);                                \
	}

static void message_check(void)
{
	weak(seen[0] && !seen[1]);
}

MESSAGE(mp_relaxed, relaxed, relaxed, , )
MESSAGE(mp_acq_rel, release, acquire, , )
MESSAGE(mp_release_only, release, relaxed, , )
MESSAGE(mp_fences, relaxed, relaxed, pg_fence(release), pg_fence(acquire))

/* A relaxed read-modify-write continues a release sequence. */
static void add_to_y(void)
{
	pg_fetch_add(&Y, 1, relaxed);
}

static void mp_sequence_1(void)
{
	seen[0] = pg_load(&Y, acquire) == 2;
	seen[1] = pg_load(&X, relaxed);
}

/* ... a store by another thread ends it. */
static void store_to_y(void)
{
	uint32_t one = 1;

	while (pg_load(&Y, relaxed) != one)
		return;
	pg_store(&Y, 2, relaxed);
}

#define INDEPENDENT(name, so, lo)                                              \
	static void name##_0(void)                                             \
	{                                                                      \
		pg_store(&X, 1, so);                                           \
	}                                                                      \
	static void name##_1(void)                                             \
	{                                                                      \
		pg_store(&Y, 1, so);                                           \
	}                                                                      \
	static void name##_2(void)                                             \
	{                                                                      \
		seen[0] = pg_load(&X, lo);                                     \
		seen[1] = pg_load(&Y, lo);                                     \
	}                                                                      \
	static void name##_3(void)                                             \
	{                                                                      \
		seen[2] = pg_load(&Y, lo);                                     \
		seen[3] = pg_load(&X, lo);                                     \
	}

static void independent_check(void)
{
	weak(seen[0] && !seen[1] && seen[2] && !seen[3]);
}

INDEPENDENT(iriw_acq_rel, release, acquire)
INDEPENDENT(iriw_seq_cst, seq_cst, seq_cst)

static void coherence_0(void)
{
	pg_store(&X, 1, relaxed);
	pg_store(&X, 2, relaxed);
}

static void coherence_1(void)
{
	seen[0] = pg_load(&X, relaxed);
	seen[1] = pg_load(&X, relaxed);
}

static void coherence_check(void)
{
	weak(seen[0] > seen[1]);
}

static void load_buffer_0(void)
{
	seen[0] = pg_load(&X, relaxed);
	pg_store(&Y, 1, relaxed);
}

static void load_buffer_1(void)
{
	seen[1] = pg_load(&Y, relaxed);
	pg_store(&X, 1, relaxed);
}

static void load_buffer_check(void)
{
	weak(seen[0] && seen[1]);
}

static void past_store_0(void)
{
	pg_store(&X, 1, relaxed);
	pg_store(&Y, 2, relaxed);
}

static void past_store_1(void)
{
	pg_store(&Y, 1, relaxed);
	pg_store(&X, 2, relaxed);
}

static void past_store_check(void)
{
	weak(pg_load(&X, relaxed) == 1 && pg_load(&Y, relaxed) == 1);
}

/* Two read-modify-writes never take the same value. */
static void update_0(void)
{
	seen[0] = pg_fetch_add(&X, 1, relaxed);
}

static void update_1(void)
{
	seen[1] = pg_fetch_add(&X, 1, relaxed);
}

static void update_check(void)
{
	weak(seen[0] == seen[1]);
}

/* ... but a compare-and-set may fail on an old value. */
static void failing_cas_0(void)
{
	pg_store(&X, 1, relaxed);
	pg_store(&Y, 1, release);
}

static void failing_cas_1(void)
{
	uint32_t old = 1;

	seen[0] = pg_load(&Y, relaxed);
	seen[1] = pg_cas(&X, &old, 2, relaxed);
}

static void failing_cas_check(void)
{
	weak(seen[0] && !seen[1]);
}

/* Write to read causality needs the middle thread to publish. */
#define CAUSALITY(name, so, lo)                                                \
	static void name##_0(void)                                             \
	{                                                                      \
		pg_store(&X, 1, relaxed);                                      \
	}                                                                      \
	static void name##_1(void)                                             \
	{                                                                      \
		seen[0] = pg_load(&X, relaxed);                                \
		pg_store(&Y, 1, so);                                           \
	}                                                                      \
	static void name##_2(void)                                             \
	{                                                                      \
		seen[1] = pg_load(&Y, lo);                                     \
		seen[2] = pg_load(&X, relaxed);                                \
	}

static void causality_check(void)
{
	weak(seen[0] && seen[1] && !seen[2]);
}

CAUSALITY(wrc_relaxed, relaxed, relaxed)
CAUSALITY(wrc_acq_rel, release, acquire)

#define LITMUS(id, n, checks, can, ...)                                        \
	X_SCENARIO(id, .what = "", .nr = n, .body = {__VA_ARGS__},             \
		   .check = checks, .kind = X_LITMUS, .allowed = can)

LITMUS(SB_relaxed, 2, store_buffer_check, true, sb_relaxed_0, sb_relaxed_1);
LITMUS(SB_release_acquire, 2, store_buffer_check, true, sb_acq_rel_0,
       sb_acq_rel_1);
LITMUS(SB_seq_cst, 2, store_buffer_check, false, sb_seq_cst_0, sb_seq_cst_1);
LITMUS(SB_seq_cst_fences, 2, store_buffer_check, false, sb_fence_0, sb_fence_1);
LITMUS(MP_relaxed, 2, message_check, true, mp_relaxed_0, mp_relaxed_1);
LITMUS(MP_release_acquire, 2, message_check, false, mp_acq_rel_0, mp_acq_rel_1);
LITMUS(MP_release_only, 2, message_check, true, mp_release_only_0,
       mp_release_only_1);
LITMUS(MP_fences, 2, message_check, false, mp_fences_0, mp_fences_1);
LITMUS(MP_through_a_relaxed_update, 3, message_check, false, mp_acq_rel_0,
       add_to_y, mp_sequence_1);
LITMUS(MP_through_a_relaxed_store, 3, message_check, true, mp_acq_rel_0,
       store_to_y, mp_sequence_1);
LITMUS(IRIW_release_acquire, 4, independent_check, true, iriw_acq_rel_0,
       iriw_acq_rel_1, iriw_acq_rel_2, iriw_acq_rel_3);
LITMUS(IRIW_seq_cst, 4, independent_check, false, iriw_seq_cst_0,
       iriw_seq_cst_1, iriw_seq_cst_2, iriw_seq_cst_3);
LITMUS(WRC_relaxed, 3, causality_check, true, wrc_relaxed_0, wrc_relaxed_1,
       wrc_relaxed_2);
LITMUS(WRC_release_acquire, 3, causality_check, false, wrc_acq_rel_0,
       wrc_acq_rel_1, wrc_acq_rel_2);
LITMUS(CoRR, 2, coherence_check, false, coherence_0, coherence_1);
LITMUS(atomic_update, 2, update_check, false, update_0, update_1);
LITMUS(failing_cas_on_an_old_value, 2, failing_cas_check, true, failing_cas_0,
       failing_cas_1);

X_SCENARIO(LB_relaxed, .what = "", .nr = 2,
	   .body = {load_buffer_0, load_buffer_1}, .check = load_buffer_check,
	   .kind = X_LITMUS, .allowed = true, .limit = true);
X_SCENARIO(store_in_the_past, .what = "", .nr = 2,
	   .body = {past_store_0, past_store_1}, .check = past_store_check,
	   .kind = X_LITMUS, .allowed = true, .limit = true);
