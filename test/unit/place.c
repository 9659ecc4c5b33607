/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Where F and K run. One thread plays both here.
 */
#include "place.h"

#include <sched.h>
#include <unistd.h>

#include "test.h"

#define MS 1000000u

static struct pg_place place;
static struct pg_stat st;
static uint64_t now;
static bool waits;
static cpu_set_t any;

static bool waiting(struct pg_mmu *mmu)
{
	(void)mmu;
	return waits;
}

static void begin(void)
{
	now = 1;
	waits = false;
	CHECK_EQ(sched_getaffinity(0, sizeof(any), &any), 0);
	pg_place_init(&place, false, false);
	if (!place.can_idle)
		SKIP("who becomes SCHED_IDLE here may not come back");
}

static void end(void)
{
	struct sched_param none = {0};

	sched_setscheduler(0, SCHED_OTHER, &none);
	sched_setaffinity(0, sizeof(any), &any);
	pg_place_fini(&place);
}

/* @nr faults, of so many threads by turns, and a look at what came of it. */
static void faults(unsigned int nr, unsigned int threads)
{
	for (unsigned int i = 0; i < nr; i++)
		pg_place_served(&place, (int)gettid() + (int)(i % threads));
	now = pg_place_look(&place, &st, now, waiting, NULL);
	pg_place_before_sleep(&place);
}

/* So long that no more are to come. */
static void calm(void)
{
	for (uint64_t end = now + 250 * MS; now < end;)
		faults(0, 1);
}

static int nr_cpus(void)
{
	cpu_set_t set;

	CHECK_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
	return CPU_COUNT(&set);
}

TEST(where_one_thread_faults_its_cpu_is_shared_until_that_ends)
{
	begin();
	CHECK_EQ(sched_getscheduler(0), SCHED_OTHER);
	faults(100, 1);
	CHECK_EQ(sched_getscheduler(0), SCHED_IDLE);
	CHECK_EQ(nr_cpus(), 1);
	CHECK(CPU_ISSET((size_t)sched_getcpu(), &any));
	/* A pause is not the end. */
	faults(0, 1);
	CHECK_EQ(sched_getscheduler(0), SCHED_IDLE);
	CHECK_EQ(nr_cpus(), 1);
	calm();
	CHECK_EQ(sched_getscheduler(0), SCHED_OTHER);
	CHECK_EQ(nr_cpus(), CPU_COUNT(&any));
	end();
}

TEST(who_says_later_where_threads_may_run_is_heard)
{
	cpu_set_t one;

	begin();
	CPU_ZERO(&one);
	CPU_SET((size_t)sched_getcpu(), &one);
	CHECK_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
	faults(100, 1);
	calm();
	CHECK_EQ(nr_cpus(), 1);
	end();
}

TEST(where_many_threads_fault_the_fault_thread_is_as_any)
{
	begin();
	faults(100, 2);
	CHECK_EQ(sched_getscheduler(0), SCHED_OTHER);
	faults(100, 1);
	CHECK_EQ(sched_getscheduler(0), SCHED_IDLE);
	faults(100, 4);
	CHECK_EQ(sched_getscheduler(0), SCHED_OTHER);
	end();
}

TEST(a_look_before_its_time_changes_nothing)
{
	uint64_t next;

	begin();
	faults(100, 1);
	next = pg_place_look(&place, &st, now - 1, waiting, NULL);
	CHECK_EQ(next, now);
	CHECK_EQ(sched_getscheduler(0), SCHED_IDLE);
	end();
}

/* A fault waits, and nobody takes it. Return: for how long F was left as it
 * is, ns. */
static uint64_t starve(void)
{
	uint64_t since = now;

	waits = true;
	while (sched_getscheduler(0) == SCHED_IDLE && now < since + 500 * MS)
		faults(0, 1);
	waits = false;
	CHECK_EQ(sched_getscheduler(0), SCHED_OTHER);
	return now - since;
}

/* Faults come. Return: when F was on its place again. */
static uint64_t recover(void)
{
	do
		faults(100, 1);
	while (sched_getscheduler(0) != SCHED_IDLE);
	return now;
}

TEST(a_fault_that_nobody_takes_ends_the_idle_policy_for_a_while)
{
	uint64_t rest[4];

	begin();
	recover();
	for (int i = 0; i < 4; i++) {
		/* It has gone well for long. */
		for (uint64_t end = now + 500 * MS; i == 3 && now < end;)
			faults(100, 1);
		/* It may just have come, or the host was away. */
		CHECK(starve() >= 12 * MS);
		CHECK_EQ(nr_cpus(), CPU_COUNT(&any));
		rest[i] = now;
		rest[i] = recover() - rest[i];
		CHECK(rest[i] >= 90 * MS);
	}
	CHECK(rest[2] > 3 * rest[0]);
	CHECK(rest[3] < 2 * rest[0]);
	end();
}

TEST(a_fault_thread_that_does_not_get_on_with_one_is_seen)
{
	begin();
	faults(100, 1);
	pg_store(&place.busy, 1, relaxed);
	for (int i = 0; i < 10; i++)
		faults(0, 1);
	CHECK_EQ(sched_getscheduler(0), SCHED_OTHER);
	end();
}

TEST(a_slow_fault_is_not_taken_for_a_lost_one)
{
	begin();
	faults(100, 1);
	waits = true;
	for (int i = 0; i < 30; i++)
		faults(1, 1);
	CHECK_EQ(place.idle_from, 0);
	faults(100, 1);
	CHECK_EQ(sched_getscheduler(0), SCHED_IDLE);
	end();
}

TEST(single_pages_are_evicted_by_the_fault_thread_where_flushes_are_dear)
{
	begin();
	faults(100, 1);
	/* As if flushes were dear. */
	place.nr_flushes = 15;
	place.nr_dear = 15;
	faults(100, 1);
	CHECK_EQ(pg_load(&place.leaves, relaxed), 1);
	/* Blocks: K is wanted. */
	pg_fetch_add(&st.prefetched, 1600, relaxed);
	faults(100, 1);
	CHECK_EQ(pg_load(&place.leaves, relaxed), 0);
	faults(100, 1);
	CHECK_EQ(pg_load(&place.leaves, relaxed), 1);
	/* Of many threads: it is wanted, too. */
	faults(100, 4);
	CHECK_EQ(pg_load(&place.leaves, relaxed), 0);
	faults(100, 1);
	CHECK_EQ(pg_load(&place.leaves, relaxed), 1);
	calm();
	CHECK_EQ(pg_load(&place.leaves, relaxed), 0);
	end();
}

TEST(the_fault_thread_follows_before_it_sleeps)
{
	cpu_set_t other = any;
	int was;

	begin();
	if (CPU_COUNT(&any) < 2)
		SKIP("one CPU");
	faults(100, 1);
	was = sched_getcpu();
	/* The test is both F and the program: to another CPU. */
	other = any;
	CPU_CLR((size_t)was, &other);
	CHECK_EQ(sched_setaffinity(0, sizeof(other), &other), 0);
	CHECK(sched_getcpu() != was);
	pg_place_before_sleep(&place);
	CHECK_EQ(pg_load(&place.fault_cpu, relaxed), sched_getcpu());
	CHECK_EQ(nr_cpus(), 1);
	calm();
	CHECK_EQ(nr_cpus(), CPU_COUNT(&any));
	/* No longer. */
	pg_place_before_sleep(&place);
	CHECK_EQ(nr_cpus(), CPU_COUNT(&any));
	end();
}

TEST(flushes_are_measured_while_single_pages_come)
{
	begin();
	for (int i = 0; i < 20; i++)
		faults(100, 1);
	CHECK_EQ(place.nr_flushes, 15);
	/* Nobody else runs here, so there is nobody to interrupt. */
	CHECK_EQ(pg_load(&place.leaves, relaxed), 0);
	end();
}

/* The same, where they are signals. */
static void signals(unsigned int nr, unsigned int threads)
{
	for (unsigned int i = 0; i < nr; i++)
		pg_place_signal(&place, 1000 + (int)(i % threads),
				sched_getcpu());
	now = pg_place_look(&place, &st, now, NULL, NULL);
}

TEST(where_faults_are_signals_the_evicting_thread_leaves_single_pages_alone)
{
	CHECK_EQ(sched_getaffinity(0, sizeof(any), &any), 0);
	pg_place_init(&place, true, false);
	now = 1;
	signals(100, 1);
	place.nr_flushes = 15;
	place.nr_dear = 15;
	for (int turn = 0; turn < 3; turn++) {
		signals(100, 1);
		CHECK_EQ(pg_load(&place.leaves, relaxed), 1);
		CHECK_EQ(nr_cpus(), 1);
		/* A few say nothing. */
		signals(2, 1);
		CHECK_EQ(pg_load(&place.leaves, relaxed), 1);
		/* Where many fault there is no place beside them. */
		signals(100, 4);
		CHECK_EQ(pg_load(&place.leaves, relaxed), 1);
		CHECK_EQ(nr_cpus(), CPU_COUNT(&any));
		/* Blocks: it is wanted. */
		pg_fetch_add(&st.prefetched, 1600, relaxed);
		signals(100, 1);
		CHECK_EQ(pg_load(&place.leaves, relaxed), 0);
		CHECK_EQ(nr_cpus(), CPU_COUNT(&any));
	}
	/* Nor where a flush costs little. */
	place.nr_dear = 3;
	signals(100, 1);
	CHECK_EQ(pg_load(&place.leaves, relaxed), 0);
	CHECK_EQ(sched_getscheduler(0), SCHED_OTHER);
	end();
}

TEST(beside_a_disk_the_fault_thread_is_as_any_and_does_not_evict)
{
	CHECK_EQ(sched_getaffinity(0, sizeof(any), &any), 0);
	for (int signal = 0; signal < 2; signal++) {
		pg_place_init(&place, signal, true);
		now = 1;
		place.nr_flushes = 15;
		place.nr_dear = 15;
		for (int i = 0; i < 2; i++)
			if (signal)
				signals(100, 1);
			else
				faults(100, 1);
		CHECK_EQ(sched_getscheduler(0), SCHED_OTHER);
		CHECK_EQ(pg_load(&place.leaves, relaxed), 0);
		end();
	}
}

TEST_MAIN()
