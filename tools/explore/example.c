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

/* ---- An endless list of steps ---- */

static void count_for_ever(void)
{
	for (;;)
		pg_fetch_add(&ready, 1, relaxed);
}

X_SCENARIO(example_endless, .what = "a loop that never ends", .nr = 2,
	   .body = {count_for_ever, receive}, .kind = X_EXAMPLE);
