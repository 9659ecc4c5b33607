/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * scenario_lock.c - the real src/base/lock.c on the explorer's futex.
 *
 * All other scenarios take locks for granted; these show that they may.
 */
#include "explore/sys.h"

#include "base/lock.h"
#include "explore/explore.h"

static struct pg_lock l;
static struct pg_rwlock rw;
static uint32_t plain, copy;

static void name_words(void)
{
	x_name(&l.word, sizeof(l.word), "the lock");
	x_name(&rw.word, sizeof(rw.word), "rw.word");
	x_name(&rw.writers, sizeof(rw.writers), "rw.writers");
	x_name(&rw.waiters, sizeof(rw.waiters), "rw.waiters");
	x_name(&plain, sizeof(plain), "what the lock guards");
	x_name(&copy, sizeof(copy), "what the lock guards, too");
}

static void name_words_and_wake_early(void)
{
	name_words();
	x_spurious(true);
}

static void add_one(void)
{
	pg_lock(&l, LOCK_LEAF);
	plain++;
	pg_unlock(&l, LOCK_LEAF);
}

static void try_to_add(void)
{
	if (!pg_trylock(&l, LOCK_LEAF))
		return;
	plain++;
	pg_unlock(&l, LOCK_LEAF);
	x_note(0, 1);
}

static void all_added(void)
{
	X_CHECK(plain == 3);
	X_CHECK(!pg_load(&l.word, relaxed));
}

static void two_or_three_added(void)
{
	X_CHECK(plain == (uint32_t)(2 + x_note(0, 0)));
	X_CHECK(!pg_load(&l.word, relaxed));
}

X_SCENARIO(a_lock_excludes_and_no_wake_up_is_lost,
	   .what = "three threads take one lock", .nr = 3,
	   .setup = name_words_and_wake_early,
	   .body = {add_one, add_one, add_one}, .check = all_added);
X_SCENARIO(a_trylock_never_waits, .what = "two threads lock, one tries to",
	   .nr = 3, .setup = name_words_and_wake_early,
	   .body = {add_one, try_to_add, add_one}, .check = two_or_three_added);

static void write_both(void)
{
	pg_write_lock(&rw, LOCK_MM);
	plain++;
	copy++;
	pg_write_unlock(&rw, LOCK_MM);
}

static void try_to_write_both(void)
{
	if (!pg_write_trylock(&rw, LOCK_MM))
		return;
	plain++;
	copy++;
	pg_write_unlock(&rw, LOCK_MM);
}

static void read_both(void)
{
	pg_read_lock(&rw, LOCK_MM);
	X_CHECK(plain == copy);
	pg_read_unlock(&rw, LOCK_MM);
}

static void try_to_read_both(void)
{
	if (!pg_read_trylock(&rw, LOCK_MM))
		return;
	X_CHECK(plain == copy);
	pg_read_unlock(&rw, LOCK_MM);
}

static void free_again(void)
{
	X_CHECK(plain == copy);
	X_CHECK(!pg_load(&rw.word, relaxed));
	X_CHECK(!pg_load(&rw.writers, relaxed));
	X_CHECK(!pg_load(&rw.waiters, relaxed));
}

X_SCENARIO(a_writer_excludes_readers_and_all_wake_up,
	   .what = "two readers and a writer", .nr = 3, .bound = 3,
	   .setup = name_words, .body = {read_both, write_both, read_both},
	   .check = free_again);
X_SCENARIO(writers_exclude_each_other_and_all_wake_up,
	   .what = "two writers and a reader", .nr = 3, .bound = 3,
	   .setup = name_words, .body = {write_both, write_both, read_both},
	   .check = free_again);
X_SCENARIO(who_tries_a_rwlock_leaves_nobody_asleep,
	   .what = "a reader, a writer and one who tries to write", .nr = 3,
	   .bound = 3, .setup = name_words,
	   .body = {read_both, write_both, try_to_write_both},
	   .check = free_again);
X_SCENARIO(a_writer_excludes_a_reader_and_both_wake_up,
	   .what = "a reader and a writer", .nr = 2, .setup = name_words,
	   .body = {read_both, write_both}, .check = free_again);
X_SCENARIO(two_writers_exclude_each_other_and_wake_up, .what = "two writers",
	   .nr = 2, .setup = name_words, .body = {write_both, write_both},
	   .check = free_again);
X_SCENARIO(who_tries_to_write_leaves_a_writer_awake,
	   .what = "a writer and one who tries to write", .nr = 2,
	   .setup = name_words, .body = {write_both, try_to_write_both},
	   .check = free_again);
X_SCENARIO(who_tries_to_write_leaves_a_reader_awake,
	   .what = "a reader and one who tries to write", .nr = 2,
	   .setup = name_words, .body = {read_both, try_to_write_both},
	   .check = free_again);
X_SCENARIO(who_tries_to_read_never_waits,
	   .what = "a writer, one who tries to read and one who tries to write",
	   .nr = 3, .setup = name_words,
	   .body = {write_both, try_to_read_both, try_to_write_both},
	   .check = free_again);

/* Who comes to read while a writer waits comes after him. */
static void read_after_the_writer(void)
{
	bool late = pg_load(&rw.writers, acquire);

	pg_read_lock(&rw, LOCK_MM);
	X_CHECK(!late || plain == 1);
	pg_read_unlock(&rw, LOCK_MM);
}

X_SCENARIO(a_waiting_writer_comes_before_new_readers,
	   .what = "a reader, a writer, and a reader who may see him wait",
	   .nr = 3, .bound = 3, .setup = name_words,
	   .body = {read_both, write_both, read_after_the_writer},
	   .check = free_again);
