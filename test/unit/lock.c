/* SPDX-License-Identifier: BSD-3-Clause */
/* Tests of src/base/lock.c. */
#include "base/lock.h"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/sys.h"
#include "test.h"

static struct pg_lock mm, folio;
static struct pg_rwlock rw;

/* Run @f in a child; return the signal that killed it, or 0. */
static int death_of(void (*f)(void))
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		if (!freopen("/dev/null", "w", stderr))
			_exit(1);
		f();
		_exit(0);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	if (!WIFSIGNALED(status))
		CHECK_EQ(WEXITSTATUS(status), 0);
	return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void nap(void)
{
	struct timespec t = {.tv_nsec = 2000000};

	nanosleep(&t, NULL);
}

static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ----- order ----- */

static void forwards(void)
{
	pg_lock(&mm, LOCK_MM);
	pg_lock(&folio, LOCK_FOLIO);
	pg_unlock(&mm, LOCK_MM);
	pg_unlock(&folio, LOCK_FOLIO);
	pg_lock(&mm, LOCK_MM);
	pg_unlock(&mm, LOCK_MM);
}

static void backwards(void)
{
	pg_lock(&folio, LOCK_FOLIO);
	pg_lock(&mm, LOCK_MM);
}

static void same_rank(void)
{
	struct pg_lock other = {0};

	pg_lock(&folio, LOCK_FOLIO);
	pg_lock(&other, LOCK_FOLIO);
}

static void same_rank_by_try(void)
{
	struct pg_lock other = {0};

	pg_lock(&folio, LOCK_FOLIO);
	if (!pg_trylock(&other, LOCK_FOLIO))
		_exit(1);
	pg_unlock(&other, LOCK_FOLIO);
	pg_unlock(&folio, LOCK_FOLIO);
}

static void read_backwards(void)
{
	pg_lock(&folio, LOCK_FOLIO);
	pg_read_lock(&rw, LOCK_MM);
}

static void read_twice(void)
{
	pg_read_lock(&rw, LOCK_MM);
	pg_read_lock(&rw, LOCK_MM);
}

static void write_backwards(void)
{
	pg_lock(&folio, LOCK_FOLIO);
	pg_write_lock(&rw, LOCK_MM);
}

TEST(locks_in_the_order_of_lock_h_are_fine)
{
	CHECK_EQ(death_of(forwards), 0);
	CHECK_EQ(death_of(same_rank_by_try), 0);
}

TEST(locks_against_the_order_of_lock_h_abort_at_once)
{
#ifndef PG_LOCK_CHECK
	SKIP("needs a build that checks the order");
#endif
	CHECK_EQ(death_of(backwards), SIGABRT);
	CHECK_EQ(death_of(same_rank), SIGABRT);
	CHECK_EQ(death_of(read_backwards), SIGABRT);
	CHECK_EQ(death_of(read_twice), SIGABRT);
	CHECK_EQ(death_of(write_backwards), SIGABRT);
}

TEST(a_thread_knows_which_ranks_it_holds)
{
#ifndef PG_LOCK_CHECK
	SKIP("needs a build that checks the order");
#endif
	CHECK(!pg_lock_held(LOCK_MM));
	pg_read_lock(&rw, LOCK_MM);
	CHECK(pg_lock_held(LOCK_MM));
	CHECK(!pg_lock_held(LOCK_FOLIO));
	CHECK(pg_trylock(&folio, LOCK_FOLIO));
	CHECK(pg_lock_held(LOCK_FOLIO));
	pg_unlock(&folio, LOCK_FOLIO);
	CHECK(!pg_lock_held(LOCK_FOLIO));
	pg_read_unlock(&rw, LOCK_MM);
	CHECK(!pg_lock_held(LOCK_MM));
	pg_write_lock(&rw, LOCK_MM);
	CHECK(pg_lock_held(LOCK_MM));
	pg_write_unlock(&rw, LOCK_MM);
	CHECK(!pg_lock_held(LOCK_MM));
}

/* ----- misuse ----- */

static void unlock_free(void)
{
	pg_unlock(&mm, LOCK_MM);
}

static void read_unlock_free(void)
{
	pg_read_unlock(&rw, LOCK_MM);
}

static void write_unlock_read(void)
{
	pg_read_lock(&rw, LOCK_MM);
	pg_write_unlock(&rw, LOCK_MM);
}

static void read_unlock_written(void)
{
	pg_write_lock(&rw, LOCK_MM);
	pg_read_unlock(&rw, LOCK_MM);
}

TEST(unlocking_what_is_not_locked_aborts)
{
	CHECK_EQ(death_of(unlock_free), SIGABRT);
	CHECK_EQ(death_of(read_unlock_free), SIGABRT);
	CHECK_EQ(death_of(write_unlock_read), SIGABRT);
	CHECK_EQ(death_of(read_unlock_written), SIGABRT);
}

/* ----- exclusion ----- */

#define THREADS 4
#define ROUNDS 30000

static uint64_t counter, shadow;
static pg_atomic32 bad;

static void *count_locked(void *arg)
{
	uint64_t seed = (uint64_t)(uintptr_t)arg | 1;

	for (int i = 0; i < ROUNDS; i++) {
		if (test_random(&seed) % 4)
			pg_lock(&mm, LOCK_MM);
		else
			while (!pg_trylock(&mm, LOCK_MM))
				pg_yield();
		if (counter != shadow)
			pg_fetch_add(&bad, 1, relaxed);
		counter++;
		if (test_random(&seed) % 64 == 0)
			pg_yield(); /* so that others have to sleep */
		shadow++;
		pg_unlock(&mm, LOCK_MM);
	}
	return NULL;
}

static void on_threads(void *(*f)(void *))
{
	uint64_t seed = test_seed();
	pthread_t t[THREADS];

	counter = shadow = 0;
	pg_store(&bad, 0, relaxed);
	for (int i = 0; i < THREADS; i++)
		CHECK_EQ(pthread_create(&t[i], NULL, f,
					(void *)(uintptr_t)test_random(&seed)),
			 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	CHECK_EQ(pg_load(&bad, relaxed), 0);
}

TEST(one_thread_at_a_time_holds_a_lock_and_no_wake_up_is_lost)
{
	on_threads(count_locked);
	CHECK_EQ(counter, (uint64_t)THREADS * ROUNDS);
	CHECK_EQ(pg_load(&mm.word, relaxed), 0);
}

static pg_atomic32 readers_now, readers_most;

static void *read_and_write(void *arg)
{
	uint64_t seed = (uint64_t)(uintptr_t)arg | 1;

	for (int i = 0; i < ROUNDS; i++) {
		uint64_t r = test_random(&seed) % 8;

		if (r == 0) {
			pg_write_lock(&rw, LOCK_MM);
			if (pg_load(&readers_now, relaxed) || counter != shadow)
				pg_fetch_add(&bad, 1, relaxed);
			counter++;
			if (test_random(&seed) % 16 == 0)
				pg_yield();
			shadow++;
			if (!pg_write_held(&rw))
				pg_fetch_add(&bad, 1, relaxed);
			pg_write_unlock(&rw, LOCK_MM);
			continue;
		}
		if (r == 1) {
			if (!pg_read_trylock(&rw, LOCK_MM))
				continue;
		} else {
			pg_read_lock(&rw, LOCK_MM);
		}
		if (pg_fetch_add(&readers_now, 1, relaxed) > 0)
			pg_store(&readers_most, 2, relaxed);
		if (counter != shadow || pg_write_held(&rw))
			pg_fetch_add(&bad, 1, relaxed);
		if (test_random(&seed) % 16 == 0)
			pg_yield();
		pg_fetch_sub(&readers_now, 1, relaxed);
		pg_read_unlock(&rw, LOCK_MM);
	}
	return NULL;
}

TEST(readers_share_writers_exclude_and_no_wake_up_is_lost)
{
	on_threads(read_and_write);
	CHECK(counter > 0);
	CHECK_EQ(pg_load(&readers_most, relaxed), 2);
	CHECK_EQ(pg_load(&rw.word, relaxed), 0);
	CHECK_EQ(pg_load(&rw.writers, relaxed), 0);
	CHECK_EQ(pg_load(&rw.waiters, relaxed), 0);
}

/* ----- sleeping ----- */

static pg_atomic32 step;

static void *lock_once(void *arg)
{
	(void)arg;
	pg_lock(&mm, LOCK_MM);
	pg_store(&step, 1, release);
	pg_unlock(&mm, LOCK_MM);
	return NULL;
}

static void *write_once(void *arg)
{
	(void)arg;
	pg_write_lock(&rw, LOCK_MM);
	pg_fetch_add(&step, 1, release);
	pg_write_unlock(&rw, LOCK_MM);
	return NULL;
}

static void *read_once(void *arg)
{
	(void)arg;
	pg_read_lock(&rw, LOCK_MM);
	pg_fetch_add(&step, 1, release);
	pg_read_unlock(&rw, LOCK_MM);
	return NULL;
}

TEST(who_waits_for_a_lock_sleeps)
{
	uint64_t cpu;
	pthread_t t;

	pg_store(&step, 0, relaxed);
	pg_lock(&mm, LOCK_MM);
	CHECK_EQ(pthread_create(&t, NULL, lock_once, NULL), 0);
	while (pg_load(&mm.word, relaxed) != 2)
		nap();
	cpu = cpu_ns();
	for (int i = 0; i < 50; i++)
		nap();
	/* 100 ms have passed. */
	CHECK(cpu_ns() - cpu < 50000000u);
	CHECK_EQ(pg_load(&step, acquire), 0);
	CHECK(!pg_trylock(&mm, LOCK_MM));
	pg_unlock(&mm, LOCK_MM);
	pthread_join(t, NULL);
	CHECK_EQ(pg_load(&step, acquire), 1);
}

TEST(a_waiting_writer_keeps_new_readers_out)
{
	pthread_t w, r;

	pg_store(&step, 0, relaxed);
	pg_read_lock(&rw, LOCK_MM);
	CHECK(!pg_write_held(&rw));
	CHECK_EQ(pthread_create(&w, NULL, write_once, NULL), 0);
	while (!pg_load(&rw.waiters, relaxed))
		nap();
	CHECK(!pg_read_trylock(&rw, LOCK_MM));
	CHECK_EQ(pthread_create(&r, NULL, read_once, NULL), 0);
	while (pg_load(&rw.waiters, relaxed) < 2)
		nap();
	nap();
	CHECK_EQ(pg_load(&step, acquire), 0);
	pg_read_unlock(&rw, LOCK_MM);
	pthread_join(w, NULL);
	pthread_join(r, NULL);
	CHECK_EQ(pg_load(&step, acquire), 2);
}

TEST(when_a_writer_leaves_all_who_wait_go_on)
{
	pthread_t t[6];

	pg_store(&step, 0, relaxed);
	pg_write_lock(&rw, LOCK_MM);
	for (int i = 0; i < 6; i++)
		CHECK_EQ(pthread_create(&t[i], NULL,
					i < 2 ? write_once : read_once, NULL),
			 0);
	while (pg_load(&rw.waiters, relaxed) < 6)
		nap();
	CHECK_EQ(pg_load(&step, acquire), 0);
	pg_write_unlock(&rw, LOCK_MM);
	for (int i = 0; i < 6; i++)
		pthread_join(t[i], NULL);
	CHECK_EQ(pg_load(&step, acquire), 6);
}

TEST(a_wait_ends_by_time_by_value_and_by_wake)
{
	pg_atomic32 word = 5;
	uint64_t t = pg_now_ns();

	pg_wait(&word, 4, 0); /* would be for ever */
	pg_wait(&word, 5, 20000000);
	CHECK(pg_now_ns() - t >= 20000000u);
	CHECK(pg_now_ns() - t < 5000000000u);
}

static pg_atomic32 gate;

static void *wait_at_gate(void *arg)
{
	(void)arg;
	while (!pg_load(&gate, acquire))
		pg_wait(&gate, 0, 0);
	pg_fetch_add(&step, 1, relaxed);
	return NULL;
}

TEST(wake_wakes_all)
{
	pthread_t t[4];

	pg_store(&step, 0, relaxed);
	pg_store(&gate, 0, relaxed);
	for (int i = 0; i < 4; i++)
		CHECK_EQ(pthread_create(&t[i], NULL, wait_at_gate, NULL), 0);
	nap();
	pg_store(&gate, 1, release);
	pg_wake(&gate);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	CHECK_EQ(pg_load(&step, relaxed), 4);
}

TEST_MAIN()
