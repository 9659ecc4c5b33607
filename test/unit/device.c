/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A device as a page map: its allocator, its errors, its checksums.
 */
#include "core/allocator.h"
#include "driver/driver.h"
#include "world.h"

static struct pgmap_device_args args_of(uint64_t nr_slots, char *error)
{
	return (struct pgmap_device_args){.options = "",
					  .nr_slots = nr_slots,
					  .error = error,
					  .error_len = 200};
}

static int open_with(const struct pgmap_device_ops *ops,
		     struct pgmap_device **dev, char *error)
{
	struct pgmap_device_args args = args_of(4096, error);

	error[0] = '\0';
	return pg_device_open(ops, &args, pg_fault_migrate_to_ram, dev);
}

static struct pgmap_folio *alloc(struct pgmap_device *dev, unsigned int order)
{
	struct pgmap_folio *folio = NULL;

	CHECK_EQ(pg_device_alloc(dev, order, &folio), 0);
	pgmap_folio_unlock(folio);
	return folio;
}

static uint64_t slot_of(struct pgmap_device *dev, struct pgmap_folio *folio)
{
	return pgmap_folio_pfn(folio) - dev->first_pfn;
}

/* ---- Opening ---- */

static int fails_with;

static int failing_open(struct pgmap_device_args *args, void **priv)
{
	(void)priv;
	pg_format(args->error, args->error_len, "the cause, the way out");
	return fails_with;
}

static int greedy_open(struct pgmap_device_args *args, void **priv)
{
	int ret = tdev_open(args, priv);

	args->nr_slots++;
	return ret;
}

static int endless_open(struct pgmap_device_args *args, void **priv)
{
	uint64_t asked = args->nr_slots;
	int ret;

	args->nr_slots = 1;
	ret = tdev_open(args, priv);
	args->nr_slots = asked;
	return ret;
}

static int empty_open(struct pgmap_device_args *args, void **priv)
{
	int ret = tdev_open(args, priv);

	args->nr_slots = 0;
	return ret;
}

TEST(what_a_driver_says_when_it_cannot_open_is_passed_on)
{
	static const int errors[] = {-EINVAL, -ENODEV, -ENOMEM, -EACCES};
	struct pgmap_device_ops ops = tdev_ops;
	struct pgmap_device *dev = NULL;
	char error[200];

	ops.open = failing_open;
	for (size_t i = 0; i < 4; i++) {
		fails_with = errors[i];
		CHECK_EQ(open_with(&ops, &dev, error), fails_with);
		CHECK(!dev);
		assert_string_equal(error, "the cause, the way out");
	}
}

TEST(a_driver_that_breaks_its_contract_is_refused)
{
	/* Offsets of the operations it must have. */
	static const size_t must[] = {
		offsetof(struct pgmap_device_ops, name),
		offsetof(struct pgmap_device_ops, open),
		offsetof(struct pgmap_device_ops, close),
		offsetof(struct pgmap_device_ops, store),
		offsetof(struct pgmap_device_ops, load),
		offsetof(struct pgmap_device_ops, discard),
		offsetof(struct pgmap_device_ops, usage),
	};
	struct pgmap_device_args args;
	struct pgmap_device_ops ops;
	struct pgmap_device *dev = NULL;
	char error[200];

	for (size_t i = 0; i < sizeof(must) / sizeof(must[0]); i++) {
		ops = tdev_ops;
		memset((char *)&ops + must[i], 0, sizeof(void *));
		CHECK_EQ(open_with(&ops, &dev, error), -EINVAL);
		CHECK(error[0]);
	}
	ops = tdev_ops;
	ops.size = 0;
	CHECK_EQ(open_with(&ops, &dev, error), -EINVAL);
	ops.size = sizeof(ops) + 8;
	CHECK_EQ(open_with(&ops, &dev, error), -EINVAL);
	CHECK(strstr(error, "newer"));
	/* Flags and operations promise the same. */
	ops = tdev_ops;
	ops.flags = PGMAP_DEV_COHERENT;
	CHECK_EQ(open_with(&ops, &dev, error), -EINVAL);
	ops.flags = PGMAP_DEV_PERSISTENT;
	CHECK_EQ(open_with(&ops, &dev, error), -EINVAL);
	/* More slots than asked for, or none. */
	ops = tdev_ops;
	ops.open = greedy_open;
	CHECK_EQ(open_with(&ops, &dev, error), -EINVAL);
	CHECK(strstr(error, "4097 slots"));
	ops.open = empty_open;
	CHECK_EQ(open_with(&ops, &dev, error), -EINVAL);
	CHECK(!dev);
	CHECK_EQ(tdev.opened, 0);
	/* Slots are counted in 32 bits. */
	ops.open = endless_open;
	args = args_of(UINT32_MAX, error);
	CHECK_EQ(pg_device_open(&ops, &args, pg_fault_migrate_to_ram, &dev),
		 -EINVAL);
	CHECK_EQ(tdev.opened, 0);
}

static enum pgmap_fork_phase last_phase;

static int note_phase(void *priv, enum pgmap_fork_phase phase)
{
	MUST(priv == &tdev);
	last_phase = phase;
	return phase == PGMAP_FORK_CHILD ? -EIO : 0;
}

TEST(a_driver_is_told_of_a_fork_and_may_refuse)
{
	struct pgmap_device_ops ops = tdev_ops;
	struct pgmap_device *dev = NULL;
	char error[200];

	ops.fork = note_phase;
	CHECK_EQ(open_with(&ops, &dev, error), 0);
	CHECK_EQ(pg_device_fork(dev, PGMAP_FORK_PREPARE), 0);
	CHECK_EQ(last_phase, PGMAP_FORK_PREPARE);
	CHECK_EQ(pg_device_fork(dev, PGMAP_FORK_CHILD), -EIO);
	CHECK_EQ(last_phase, PGMAP_FORK_CHILD);
	pg_device_close(dev);
}

TEST(an_older_driver_lacks_only_what_it_does_not_know)
{
	struct pgmap_device_ops ops = tdev_ops;
	struct pgmap_device *dev = NULL;
	char error[200];

	ops.size = offsetof(struct pgmap_device_ops, fork);
	ops.fork = (int (*)(void *, enum pgmap_fork_phase))(uintptr_t)1;
	CHECK_EQ(open_with(&ops, &dev, error), 0);
	CHECK_EQ(pg_device_fork(dev, PGMAP_FORK_PREPARE), 0);
	pg_device_close(dev);
	pg_device_close(NULL);
}

TEST(open_survives_the_lack_of_memory_at_every_point)
{
	struct pgmap_device *dev = NULL;
	char error[200];
	unsigned int n;

	/* Records of a map that is gone are used again. */
	CHECK_EQ(open_with(&tdev_ops, &dev, error), 0);
	pg_device_close(dev);
	dev = NULL;
	for (n = 1; n < 100; n++) {
		int ret;

		pg_mem_fail_nth(n);
		ret = open_with(&tdev_ops, &dev, error);
		pg_mem_fail_nth(0);
		if (!ret)
			break;
		CHECK_EQ(ret, -ENOMEM);
		CHECK(!dev);
		/* The driver's part fails without a word here. */
		CHECK(error[0] || n == 2 || n == 3);
		CHECK_EQ(tdev.opened, 0);
		CHECK(!pgmap_lookup(PGMAP_FIRST_DEVICE_PFN, NULL));
	}
	/* The device, its two, the claims, the checksums, the allocator, its
	 * view of the map. */
	CHECK_EQ(n, 8);
	pg_device_close(dev);
	CHECK(!pgmap_lookup(PGMAP_FIRST_DEVICE_PFN, NULL));
}

/* ---- The allocator ---- */

TEST(R45_what_is_freed_can_be_had_again_at_its_order)
{
	struct pgmap_device *dev = device_open(512);
	struct pgmap_folio *folio = alloc(dev, 9), *no = NULL;

	CHECK_EQ(pg_device_alloc(dev, 0, &no), -ENOSPC);
	for (unsigned int o = 9; o <= 9; o--) {
		pgmap_folio_put(folio);
		folio = alloc(dev, o);
		CHECK_EQ(pgmap_folio_order(folio), o);
	}
	pgmap_folio_put(folio);
	CHECK_EQ(pg_map_refs(dev->map), 0);
	pg_device_close(dev);
}

TEST(R61_every_slot_is_handed_out_once_and_aligned)
{
	struct pgmap_device *dev = device_open(2048);
	static struct pgmap_folio *folio[2048];
	bool used[2048] = {false};
	uint64_t seed = test_seed();
	size_t n = 0;
	uint64_t pages = 0;

	for (;; n++) {
		unsigned int o = (unsigned int)(test_random(&seed) % 10);

		while (pg_device_alloc(dev, o, &folio[n]) && o)
			o--;
		if (!folio[n])
			break;
		pgmap_folio_unlock(folio[n]);
		CHECK_EQ(slot_of(dev, folio[n]) & ((1u << o) - 1), 0);
		for (uint64_t k = 0; k < 1u << o; k++) {
			uint64_t s = slot_of(dev, folio[n]) + k;

			CHECK(s < 2048 && !used[s]);
			used[s] = true;
		}
		pages += 1u << o;
	}
	CHECK_EQ(pages, 2048);
	CHECK_EQ(pg_map_refs(dev->map), 2048);
	while (n--)
		pgmap_folio_put(folio[n]);
	CHECK_EQ(pg_map_refs(dev->map), 0);
	pg_device_close(dev);
	memset(folio, 0, sizeof(folio));
}

TEST(R61_slots_behind_the_last_whole_chunk_are_used_too)
{
	static const uint64_t nr[] = {1, 2, 511, 513, 700, 1023};

	for (size_t i = 0; i < sizeof(nr) / sizeof(nr[0]); i++) {
		struct pgmap_device *dev = device_open(nr[i]);
		static struct pgmap_folio *folio[1024];
		uint64_t n = 0;

		while (!pg_device_alloc(dev, 0, &folio[n])) {
			CHECK(slot_of(dev, folio[n]) < nr[i]);
			pgmap_folio_unlock(folio[n++]);
		}
		CHECK_EQ(n, nr[i]);
		while (n)
			pgmap_folio_put(folio[--n]);
		CHECK_EQ(pg_map_refs(dev->map), 0);
		pg_device_close(dev);
	}
}

TEST(a_device_that_is_removed_hands_out_nothing)
{
	struct pgmap_device *dev = device_open(1024);
	struct pgmap_folio *folio = alloc(dev, 3), *no = NULL;

	pgmap_kill(dev->map);
	CHECK_EQ(pg_device_alloc(dev, 3, &no), -ENODEV);
	CHECK(!no);
	pgmap_folio_put(folio);
	CHECK_EQ(pg_map_refs(dev->map), 0);
	pg_device_close(dev);
}

TEST(R39_the_last_put_discards_what_the_slots_held)
{
	struct pgmap_device *dev = device_open(1024);
	char *buf = pg_mem_map(8 * PAGE);
	struct pg_device_io io = {.folio = alloc(dev, 3)};
	struct pgmap_io scratch;

	CHECK(buf);
	pg_device_store(dev, &io, 1, buf, &scratch);
	CHECK_EQ(io.status, 0);
	CHECK_EQ(tdev.stored, 8);
	pgmap_folio_get(io.folio);
	pgmap_folio_put(io.folio);
	CHECK_EQ(tdev.stored, 8);
	pgmap_folio_put(io.folio);
	CHECK_EQ(tdev.stored, 0);
	pg_mem_unmap(buf, 8 * PAGE);
	pg_device_close(dev);
}

/* N5: whatever happens, a page on a free list has count 0. */

static struct pgmap_device *storm;
static _Atomic(bool) stop;

static void *alloc_thread(void *arg)
{
	uint64_t seed = (uint64_t)(uintptr_t)arg;
	struct pgmap_folio *mine[16] = {NULL};

	while (!stop) {
		struct pgmap_folio **f = &mine[test_random(&seed) % 16];

		if (*f) {
			if (pgmap_folio_tryget(*f))
				pgmap_folio_put(*f);
			pgmap_folio_put(*f);
			*f = NULL;
		} else if (!pg_device_alloc(
				   storm,
				   (unsigned int)(test_random(&seed) % 10),
				   f)) {
			pgmap_folio_unlock(*f);
		}
	}
	for (int i = 0; i < 16; i++)
		if (mine[i])
			pgmap_folio_put(mine[i]);
	return NULL;
}

TEST(N5_R30_a_page_on_a_free_list_never_has_a_count)
{
	uint64_t seed = test_seed();
	uint64_t seen = 0, nr;
	pthread_t t[2];

	storm = device_open(2048);
	stop = false;
	for (int i = 0; i < 2; i++)
		CHECK_EQ(pthread_create(
				 &t[i], NULL, alloc_thread,
				 (void *)(uintptr_t)(seed + 2u * (unsigned)i)),
			 0);
	alarm(60);
	for (int i = 0; i < 3000 || seen < 1000; i++) {
		MUST(!pg_allocator_check(storm->allocator, &nr));
		seen += nr;
		if (i % 16 == 0)
			sched_yield();
	}
	alarm(0);
	stop = true;
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	CHECK_EQ(pg_map_refs(storm->map), 0);
	pg_device_close(storm);
}

/* ---- Store and load ---- */

static int load(struct pgmap_device *dev, uint64_t pfn, uint32_t nr, char *buf)
{
	struct pgmap_io io = {
		.slot = pfn - dev->first_pfn, .nr = nr, .buf = buf};

	pg_device_load(dev, &io, 1);
	return io.status;
}

TEST(pages_come_back_as_they_were_and_any_other_byte_is_an_error)
{
	struct pgmap_device *dev = device_open(1024);
	char *buf = pg_mem_map(16 * PAGE), *back = pg_mem_map(16 * PAGE);
	struct pg_device_io io[2] = {{.folio = alloc(dev, 3), .first = 8},
				     {.folio = alloc(dev, 2), .first = 4}};
	struct pgmap_io scratch[2];
	uint64_t pfn = pgmap_folio_pfn(io[0].folio);

	CHECK(buf && back);
	for (size_t i = 0; i < 16 * PAGE; i++)
		buf[i] = (char)(i * 31 >> 3);
	pg_device_store(dev, io, 2, buf, scratch);
	CHECK_EQ(io[0].status, 0);
	CHECK_EQ(io[1].status, 0);
	CHECK_EQ(load(dev, pfn, 8, back), 0);
	assert_memory_equal(back, buf + 8 * PAGE, 8 * PAGE);
	CHECK_EQ(load(dev, pgmap_folio_pfn(io[1].folio) + 1, 3, back), 0);
	assert_memory_equal(back, buf + 5 * PAGE, 3 * PAGE);

	/* One bit. */
	tdev.mem[(slot_of(dev, io[0].folio) + 5) * PAGE + 1234] ^= 4;
	CHECK_EQ(load(dev, pfn, 8, back), -EIO);
	CHECK_EQ(load(dev, pfn + 5, 1, back), -EIO);
	CHECK_EQ(load(dev, pfn, 5, back), 0);
	CHECK_EQ(load(dev, pfn + 6, 2, back), 0);
	for (int i = 0; i < 2; i++)
		pgmap_folio_put(io[i].folio);
	pg_mem_unmap(buf, 16 * PAGE);
	pg_mem_unmap(back, 16 * PAGE);
	pg_device_close(dev);
}

static int lazy_store(void *priv, struct pgmap_io *io, unsigned int n)
{
	(void)priv;
	(void)io;
	(void)n;
	return 0;
}

TEST(a_driver_that_forgets_a_status_has_failed)
{
	struct pgmap_device_ops ops = tdev_ops;
	struct pgmap_device *dev = NULL;
	char error[200], *buf = pg_mem_map(PAGE);
	struct pgmap_io scratch;

	CHECK(buf);
	ops.store = lazy_store;
	CHECK_EQ(open_with(&ops, &dev, error), 0);
	struct pg_device_io io = {.folio = alloc(dev, 0)};

	pg_device_store(dev, &io, 1, buf, &scratch);
	CHECK_EQ(io.status, -EIO);
	pgmap_folio_put(io.folio);
	pg_mem_unmap(buf, PAGE);
	pg_device_close(dev);
}

TEST(core_stores_no_larger_folios_than_the_driver_asks_for)
{
	tdev.unit = 4;
	world_open_on(device_open(64), 64, 1024, 16);
	fill(0, 32);
	CHECK_EQ(migrate(0, 32, true), 32);
	CHECK_EQ(tdev.stores, 8);
	check_filled(0, 32);
	world_close();
}

TEST(a_unit_that_cannot_be_is_refused)
{
	static const uint32_t bad[] = {3, 1024, UINT32_MAX};
	struct pgmap_device *dev = NULL;
	char error[200];

	for (size_t i = 0; i < 3; i++) {
		tdev.unit = bad[i];
		CHECK_EQ(open_with(&tdev_ops, &dev, error), -EINVAL);
		CHECK(strstr(error, "asks for folios of"));
		CHECK(!tdev.opened);
	}
}

TEST_MAIN()
