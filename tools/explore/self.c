/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * self.c - small programs on which the explorer is compared with itself.
 *
 * What the reduced search visits must be what brute force visits: each way in
 * which reads take their values from writes, and writes and locks follow one
 * another. The programs have one of everything that makes that hard.
 */
#include "explore/self.h"

#include "base/atomic.h"
#include "base/lock.h"
#include "explore/explore.h"

static pg_atomic32 a, b, c;
static struct pg_lock l;
static struct pg_rwlock rw;
static uint32_t plain, out[X_THREADS];

/* ---- Atomics ---- */

static void chain_0(void)
{
	pg_store(&a, 1, relaxed);
	out[0] = pg_load(&b, relaxed);
	pg_store(&c, 1, release);
}

static void chain_1(void)
{
	pg_fetch_add(&b, 2, acq_rel);
	out[1] = pg_load(&c, acquire) * 8 + pg_load(&a, relaxed);
}

static void chain_2(void)
{
	uint32_t old = 0;

	pg_cas(&c, &old, 5, release);
	pg_store(&a, 7, relaxed);
	out[2] = old;
}

X_SCENARIO(atomics, .kind = X_SELF, .nr = 3,
	   .body = {chain_0, chain_1, chain_2});

/* Readers of what one writer writes: where the first reduction of this kind
 * skipped classes. */
static void count_down(void)
{
	pg_fetch_sub(&a, 1, acq_rel);
	if (!pg_load(&a, acquire))
		pg_store(&b, 1, release);
}

static void look_twice(void)
{
	out[2] = pg_load(&a, acquire) + pg_load(&b, acquire);
}

X_SCENARIO(readers, .kind = X_SELF, .nr = 3,
	   .body = {count_down, look_twice, count_down});

static void fence_0(void)
{
	pg_store(&a, 1, relaxed);
	pg_fence(seq_cst);
	out[0] = pg_load(&b, relaxed);
}

static void fence_1(void)
{
	pg_store(&b, 1, relaxed);
	pg_fence(seq_cst);
	out[1] = pg_load(&a, relaxed);
	pg_fence(release);
	pg_store(&c, 1, relaxed);
}

static void fence_2(void)
{
	out[2] = pg_load(&c, relaxed);
	pg_fence(acquire);
	out[2] += pg_load(&b, relaxed);
}

X_SCENARIO(fences, .kind = X_SELF, .nr = 3,
	   .body = {fence_0, fence_1, fence_2});

static void two_orders_0(void)
{
	pg_store(&a, 1, seq_cst);
	out[0] = pg_load(&b, seq_cst);
	pg_store(&c, 1, relaxed);
}

static void two_orders_1(void)
{
	pg_store(&b, 1, seq_cst);
	out[1] = pg_load(&a, acquire) + pg_load(&c, relaxed);
}

static void two_orders_2(void)
{
	out[2] = pg_load(&c, seq_cst) + pg_load(&a, seq_cst);
}

X_SCENARIO(sequential, .kind = X_SELF, .nr = 3,
	   .body = {two_orders_0, two_orders_1, two_orders_2});

static void choose_0(void)
{
	if (x_choose(3) == 2)
		pg_store(&a, 1, release);
	pg_store(&b, 1, release);
}

static void choose_1(void)
{
	if (pg_load(&b, acquire) && x_choose(2))
		out[1] = pg_load(&a, acquire);
	pg_store(&b, 2, relaxed);
}

X_SCENARIO(choices, .kind = X_SELF, .nr = 2, .body = {choose_0, choose_1});

/* ---- Locks ---- */

static void locked_0(void)
{
	pg_store(&a, 1, relaxed);
	pg_lock(&l, LOCK_LEAF);
	plain++;
	pg_unlock(&l, LOCK_LEAF);
	out[0] = pg_load(&b, relaxed);
}

static void locked_1(void)
{
	pg_lock(&l, LOCK_LEAF);
	plain++;
	out[1] = pg_load(&a, relaxed);
	pg_unlock(&l, LOCK_LEAF);
	pg_store(&b, 1, relaxed);
}

static void locked_2(void)
{
	if (pg_trylock(&l, LOCK_LEAF)) {
		plain++;
		pg_unlock(&l, LOCK_LEAF);
	}
	pg_store(&b, 2, relaxed);
}

X_SCENARIO(locks, .kind = X_SELF, .nr = 3,
	   .body = {locked_0, locked_1, locked_2});

static void reader(void)
{
	pg_read_lock(&rw, LOCK_MM);
	out[0] = plain;
	pg_fetch_add(&a, 1, relaxed);
	pg_read_unlock(&rw, LOCK_MM);
}

static void other_reader(void)
{
	pg_read_lock(&rw, LOCK_MM);
	out[1] = plain + pg_load(&a, relaxed);
	pg_read_unlock(&rw, LOCK_MM);
}

static void try_reader(void)
{
	if (!pg_read_trylock(&rw, LOCK_MM))
		return;
	out[1] = plain;
	pg_read_unlock(&rw, LOCK_MM);
	pg_store(&b, 1, relaxed);
}

static void writer(void)
{
	pg_write_lock(&rw, LOCK_MM);
	plain++;
	out[2] = pg_load(&a, relaxed);
	pg_write_unlock(&rw, LOCK_MM);
	out[2] += pg_load(&b, relaxed);
}

static void try_writer(void)
{
	if (!pg_write_trylock(&rw, LOCK_MM))
		return;
	plain++;
	pg_write_unlock(&rw, LOCK_MM);
}

X_SCENARIO(rwlock, .kind = X_SELF, .nr = 3,
	   .body = {reader, try_reader, writer});
X_SCENARIO(rwlock_writers, .kind = X_SELF, .nr = 3,
	   .body = {writer, try_writer, reader});
X_SCENARIO(rwlock_readers, .kind = X_SELF, .nr = 3,
	   .body = {reader, writer, other_reader});

/* ---- Sleeping ---- */

static void sleep_0(void)
{
	uint32_t v;

	while (!(v = pg_load(&a, acquire)))
		pg_wait(&a, v, 0);
	out[0] = v;
}

static void wake_1(void)
{
	pg_store(&b, 1, relaxed);
	pg_store(&a, 1, release);
	pg_wake(&a);
}

static void wake_2(void)
{
	pg_store(&a, 2, release);
	pg_wake(&a);
	out[2] = pg_load(&b, relaxed);
}

X_SCENARIO(futex, .kind = X_SELF, .nr = 3, .body = {sleep_0, wake_1, wake_2});

static void sleep_a_while(void)
{
	pg_wait(&a, 0, 5);
	out[0] = pg_load(&a, relaxed) + pg_load(&b, relaxed);
}

X_SCENARIO(timeout, .kind = X_SELF, .nr = 2, .body = {sleep_a_while, wake_1});

/* One that is lost: deadlocks count, too. */
static void sleep_blindly(void)
{
	if (!pg_load(&a, relaxed))
		pg_wait(&b, 0, 0);
}

static void wake_who_waits(void)
{
	pg_store(&a, 1, relaxed);
	pg_wake(&b);
}

X_SCENARIO(lost, .kind = X_SELF, .nr = 3,
	   .body = {sleep_blindly, wake_who_waits, sleep_blindly});

static void spin(void)
{
	while (!pg_load(&a, acquire))
		pg_yield();
	out[0] = pg_load(&b, relaxed);
}

X_SCENARIO(spin, .kind = X_SELF, .nr = 2, .body = {spin, wake_1});

/* ---- Programs that nobody thought of ---- */

#define OPS 4

enum { LOAD, STORE, ADD, CAS, WAIT, WAKE, LOCKED, TRY, FENCE, YIELD, NR_OPS };

static struct {
	uint8_t op, where, order;
} program[3][OPS];

static pg_atomic32 *const place[2] = {&a, &b};

void x_self_generate(uint64_t seed, bool spin)
{
	for (int t = 0; t < 3; t++)
		for (int i = 0; i < OPS; i++) {
			uint32_t r;

			seed = seed * 6364136223846793005u +
			       1442695040888963407u;
			r = (uint32_t)(seed >> 33);
			program[t][i].op =
				(uint8_t)(r % (spin ? NR_OPS : YIELD));
			program[t][i].where = r >> 8 & 1;
			program[t][i].order = (uint8_t)((r >> 9) % 3);
		}
}

static void run_load(pg_atomic32 *p, int order, uint32_t *found)
{
	*found = order == 0   ? pg_load(p, relaxed)
		 : order == 1 ? pg_load(p, acquire)
			      : pg_load(p, seq_cst);
}

static void run_store(pg_atomic32 *p, int order, uint32_t v)
{
	if (order == 0)
		pg_store(p, v, relaxed);
	else if (order == 1)
		pg_store(p, v, release);
	else
		pg_store(p, v, seq_cst);
}

static void run_op(int t, int i)
{
	pg_atomic32 *p = place[program[t][i].where];
	int order = program[t][i].order;
	uint32_t v = 0;

	switch (program[t][i].op) {
	case LOAD:
		run_load(p, order, &v);
		break;
	case STORE:
		run_store(p, order, (uint32_t)(t * OPS + i + 1));
		break;
	case ADD:
		v = order ? pg_fetch_add(p, 16, acq_rel)
			  : pg_fetch_add(p, 16, relaxed);
		break;
	case CAS:
		pg_cas(p, &v, 7, acquire);
		break;
	case WAIT:
		/* Timed, or most programs end in a deadlock. */
		pg_wait(p, 0, (uint64_t)order);
		break;
	case WAKE:
		pg_store(p, 9, release);
		pg_wake(p);
		break;
	case LOCKED:
		pg_lock(&l, LOCK_LEAF);
		plain++;
		run_load(p, order, &v);
		pg_unlock(&l, LOCK_LEAF);
		break;
	case TRY:
		if (!pg_trylock(&l, LOCK_LEAF))
			break;
		run_store(p, order, 3);
		pg_unlock(&l, LOCK_LEAF);
		break;
	case FENCE:
		if (order)
			pg_fence(acq_rel);
		else
			pg_fence(seq_cst);
		break;
	case YIELD:
		while (!pg_load(p, relaxed) && pg_load(&c, relaxed) < 2)
			pg_yield();
		break;
	}
	out[t] = out[t] * 31 + v;
}

uint64_t x_self_outcome(void)
{
	uint64_t h = pg_load(&a, relaxed);

	h = h * 1000003 + pg_load(&b, relaxed);
	for (int t = 0; t < 3; t++)
		h = h * 1000003 + out[t];
	return h * 0x9e3779b97f4a7c15u;
}

static void run_program(int t, int n)
{
	for (int i = 0; i < n; i++)
		run_op(t, i);
	pg_fetch_add(&c, 1, release); /* for those who spin */
}

static void generated_0(void)
{
	run_program(0, 2);
}

static void generated_1(void)
{
	run_program(1, 2);
}

static void generated_2(void)
{
	run_program(2, 2);
}

static void generated_long(void)
{
	run_program(1, 3);
}

struct x_scenario x_generated[2] = {
	{.name = "generated for 3 threads",
	 .kind = X_SELF,
	 .generated = true,
	 .nr = 3,
	 .body = {generated_0, generated_1, generated_2}},
	{.name = "generated for 2 threads",
	 .kind = X_SELF,
	 .generated = true,
	 .nr = 2,
	 .body = {generated_0, generated_long}},
};
