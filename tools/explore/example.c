/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * example.c - scenarios that are wrong on purpose, to see a report.
 *
 * They run only when they are named in full.
 */
#include "base/atomic.h"
#include "base/lock.h"
#include "explore/explore.h"

static pg_atomic32 ready, waiting;
static uint32_t message;

/* ---- The flag does not carry the message ---- */

static void send(void)
{
	message = 1;
	pg_store(&ready, 1, relaxed);
}

static void receive(void)
{
	if (pg_load(&ready, acquire))
		X_CHECK(message == 1);
}

X_SCENARIO(example_data_race, .what = "a flag that is stored relaxed", .nr = 2,
	   .body = {send, receive}, .kind = X_EXAMPLE);

/* ---- Nobody looks again before going to sleep ---- */

static void sleep_until_ready(void)
{
	if (pg_load(&ready, acquire))
		return;
	pg_store(&waiting, 1, release);
	pg_wait(&waiting, 1, 0);
}

static void make_ready(void)
{
	pg_store(&ready, 1, release);
	if (pg_xchg(&waiting, 0, acq_rel))
		pg_wake(&waiting);
}

X_SCENARIO(example_lost_wake_up, .what = "a sleep without a second look",
	   .nr = 2, .body = {sleep_until_ready, make_ready}, .kind = X_EXAMPLE);

/* ---- Both believe to be first ---- */

static pg_atomic32 here[2];

static void enter(uint32_t me)
{
	pg_store(&here[me], 1, release);
	if (pg_load(&here[!me], acquire))
		return;
	X_CHECK(x_note(0, 1) == 1);
}

static void enter_0(void)
{
	enter(0);
}

static void enter_1(void)
{
	enter(1);
}

X_SCENARIO(example_stale_value, .what = "Dekker's algorithm without seq_cst",
	   .nr = 2, .body = {enter_0, enter_1}, .kind = X_EXAMPLE);

/* ---- It takes many switches, and a value that was overwritten ---- */

static pg_atomic32 turn;

/* Return: all steps of thread @me came in turn. */
static bool take_turns(uint32_t me)
{
	for (uint32_t i = 0; i < 3; i++) {
		uint32_t old = 2 * i + me;

		if (!pg_cas(&turn, &old, old + 1, relaxed))
			return false;
	}
	return true;
}

static void store_and_take_turns(void)
{
	for (uint32_t v = 1; v < 4; v++)
		pg_store(&ready, v, relaxed);
	take_turns(0);
}

static void take_turns_and_load(void)
{
	if (take_turns(1))
		X_CHECK(pg_load(&ready, relaxed) != 2);
}

X_SCENARIO(example_many_switches, .what = "an old value after five switches",
	   .nr = 2, .body = {store_and_take_turns, take_turns_and_load},
	   .kind = X_EXAMPLE);

/* ---- A schedule without end ---- */

static void count(void)
{
	for (int i = 0; i < 100; i++)
		pg_fetch_add(&ready, 1, relaxed);
}

static void watch_for_ever(void)
{
	while (pg_load(&ready, acquire) != UINT32_MAX)
		;
}

X_SCENARIO(example_endless, .what = "a loop that never ends", .nr = 2,
	   .body = {count, watch_for_ever}, .kind = X_EXAMPLE);
