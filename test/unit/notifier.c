/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who mirrors the page table is told of each change before it is made.
 */
#include "core/notifier.h"
#include "core/unit.h"
#include "world.h"

static struct pg_notifier notifier;
static struct pg_notify_range told;
static unsigned int nr_told;
/* What the page table said when it was told. */
static enum pg_pte_state state_then;

static void note(struct pg_notifier *n, const struct pg_notify_range *range)
{
	CHECK(n == &notifier);
	told = *range;
	nr_told++;
	state_then = state_of((range->start - AT(0)) / PAGE);
}

static void open_all(void)
{
	world_open(64, 1024, 1);
	nr_told = 0;
	notifier = (struct pg_notifier){
		.start = AT(0), .end = AT(32), .invalidate = note};
	pgmap_mm_change_begin(&w.mm);
	pg_notifier_insert(&w.mm, &notifier);
	pgmap_mm_change_end(&w.mm);
}

static void close_all(void)
{
	pgmap_mm_change_begin(&w.mm);
	pg_notifier_remove(&w.mm, &notifier);
	pgmap_mm_change_end(&w.mm);
	world_close();
}

static void check_told(enum pg_notify_event event, uint8_t owner,
		       enum pg_pte_state state)
{
	CHECK_EQ(nr_told, 1);
	CHECK_EQ(told.event, event);
	CHECK_EQ(told.owner, owner);
	CHECK_EQ(state_then, state);
	nr_told = 0;
}

TEST(R85_a_migration_is_told_before_it_begins_with_its_owner)
{
	open_all();
	fill(0, 1);
	pg_read_lock(&w.mm.lock, LOCK_MM);
	pg_unit_take(&w.mm, AT(0), 1, 3, false);
	pg_read_unlock(&w.mm.lock, LOCK_MM);
	check_told(PG_NOTIFY_MIGRATE, 3, PG_PTE_PRESENT);
	check_filled(0, 1);
	check_told(PG_NOTIFY_MIGRATE, 0, PG_PTE_DEVICE);
	close_all();
}

TEST(R171_eviction_is_told_too)
{
	open_all();
	fill(0, 1);
	pg_read_lock(&w.mm.lock, LOCK_MM);
	CHECK_EQ(pg_migrate_to_standby(&w.mm, AT(0)), 1);
	pg_read_unlock(&w.mm.lock, LOCK_MM);
	check_told(PG_NOTIFY_CLEAR, 0, PG_PTE_PRESENT);
	check_filled(0, 1);
	check_told(PG_NOTIFY_EXCLUSIVE, 0, PG_PTE_STANDBY);
	close_all();
}

TEST(R171_only_of_its_own_range)
{
	open_all();
	fill(32, 1);
	migrate(32, 1, true);
	CHECK_EQ(nr_told, 0);
	close_all();
}

TEST(R171_a_walk_that_a_change_overtook_begins_again)
{
	const struct pg_notify_range r = {.start = AT(0), .end = AT(1)};
	uint64_t seq;

	open_all();
	seq = pg_notifier_read_begin(&notifier);
	CHECK(!pg_notifier_read_retry(&notifier, seq));
	pg_read_lock(&w.mm.lock, LOCK_MM);
	pg_notify_begin(&w.mm, &r);
	CHECK(pg_notifier_read_retry(&notifier, seq));
	pg_notify_end(&w.mm, &r);
	pg_read_unlock(&w.mm.lock, LOCK_MM);
	CHECK(pg_notifier_read_retry(&notifier, seq));
	seq = pg_notifier_read_begin(&notifier);
	CHECK(!pg_notifier_read_retry(&notifier, seq));
	close_all();
}

static _Atomic(bool) began;

static void *begin(void *arg)
{
	(void)arg;
	pg_notifier_read_begin(&notifier);
	began = true;
	return NULL;
}

/* Else it could see what is about to change, and believe it. */
TEST(R171_no_walk_begins_while_a_change_goes_on)
{
	const struct pg_notify_range r = {.start = AT(0), .end = AT(1)};
	pthread_t thread;

	open_all();
	began = false;
	pg_read_lock(&w.mm.lock, LOCK_MM);
	pg_notify_begin(&w.mm, &r);
	CHECK_EQ(pthread_create(&thread, NULL, begin, NULL), 0);
	usleep(20000);
	CHECK(!began);
	pg_notify_end(&w.mm, &r);
	pg_read_unlock(&w.mm.lock, LOCK_MM);
	pthread_join(thread, NULL);
	CHECK(began);
	close_all();
}

static unsigned int nr_others;

static void note_other(struct pg_notifier *n,
		       const struct pg_notify_range *range)
{
	(void)n;
	(void)range;
	nr_others++;
}

TEST(R171_each_is_told_of_its_own_until_it_goes)
{
	struct pg_notifier other = {
		.start = AT(16), .end = AT(64), .invalidate = note_other};

	open_all();
	nr_others = 0;
	fill(0, 64);
	pgmap_mm_change_begin(&w.mm);
	pg_notifier_insert(&w.mm, &other);
	pgmap_mm_change_end(&w.mm);
	migrate(0, 1, true);
	CHECK(nr_told == 1 && nr_others == 0);
	migrate(20, 1, true);
	CHECK(nr_told == 2 && nr_others == 1);
	migrate(40, 1, true);
	CHECK(nr_told == 2 && nr_others == 2);
	/* That which is not the latest. */
	pgmap_mm_change_begin(&w.mm);
	pg_notifier_remove(&w.mm, &notifier);
	pgmap_mm_change_end(&w.mm);
	migrate(21, 1, true);
	CHECK(nr_told == 2 && nr_others == 3);
	pgmap_mm_change_begin(&w.mm);
	pg_notifier_remove(&w.mm, &other);
	pgmap_mm_change_end(&w.mm);
	migrate(22, 1, true);
	CHECK(nr_told == 2 && nr_others == 3);
	/* One that is not there is left alone. */
	close_all();
}

TEST_MAIN()
