/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * conformance.c - what every driver must do, run against every driver.
 *
 * meson runs this program once per driver with PGMAP_TEST_DEVICE=<name>. A
 * driver adds nothing here: if it is in src/driver/table.c, it is tested.
 */
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "device.h"

#define NR_SLOTS (1ull << 20)
#define MAX PGMAP_MAX_FOLIO_PAGES

static struct dev dev;
static uint64_t seed;
static char *a, *b;

/* Return: false if there is no such device here. */
static bool setup(const char *options)
{
	const struct pgmap_device_ops *ops = test_driver("mirror");
	int ret = ops ? dev_open(&dev, ops, options, NR_SLOTS) : -ENODEV;

	if (!a) {
		seed = test_seed();
		a = pages_new(MAX);
		b = pages_new(MAX);
	}
	/* A machine that is known to have the device sets this. */
	if (ret == -ENODEV && !getenv("PGMAP_TEST_NO_SKIP"))
		return false;
	CHECK_EQ(ret, 0);
	return true;
}

#define SETUP(options)                                                         \
	do {                                                                   \
		if (!setup(options))                                           \
			SKIP("no such hardware, library or kernel here");      \
	} while (0)

/* Pages [first, first + nr) of the folio at @slot are those at @want. */
static void check_pages(uint64_t slot, uint32_t first, uint32_t nr,
			const char *want)
{
	memset(b, 0xa5, (size_t)nr * PAGE);
	CHECK_EQ(dev_load(&dev, slot + first, nr, b), 0);
	assert_memory_equal(b, want + (size_t)first * PAGE, (size_t)nr * PAGE);
}

TEST(a_driver_says_what_driver_h_asks_for)
{
	const struct pgmap_device_ops *ops = test_driver("mirror");

	if (!ops)
		SKIP("not built in");
	CHECK_EQ(ops->size, sizeof(*ops));
	CHECK(ops->name && *ops->name && ops->summary && *ops->summary);
	CHECK(ops->options && ops->open && ops->close);
	CHECK(ops->store && ops->load && ops->discard && ops->usage);
	CHECK_EQ(!(ops->flags & PGMAP_DEV_COHERENT), !ops->direct_access);
	CHECK_EQ(!(ops->flags & PGMAP_DEV_PERSISTENT), !ops->flush);
	for (const char *p = ops->name; *p; p++)
		CHECK((*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9'));
}

TEST(bad_options_are_refused_with_one_line)
{
	const struct pgmap_device_ops *ops = test_driver("mirror");
	static const char *const bad[] = {"colour=red", "size=1Q", "size="};

	if (!ops)
		SKIP("not built in");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		CHECK_EQ(dev_open(&dev, ops, bad[i], NR_SLOTS), -EINVAL);
		CHECK(strlen(dev.error) > 10 && !strchr(dev.error, '\n'));
	}
}

TEST(folios_of_every_order_and_kind_read_back_as_stored)
{
	SETUP("");
	CHECK(dev.nr_slots && dev.nr_slots <= NR_SLOTS);
	for (unsigned int order = 0; order <= 9; order++) {
		for (int kind = 0; kind < CONTENTS_NR; kind++) {
			uint64_t slot = (64 + order) << 9;
			uint32_t nr = 1u << order;

			fill_pages(a, nr, (enum contents)kind, &seed);
			CHECK_EQ(dev_store(&dev, slot, nr, a), 0);
			check_pages(slot, 0, nr, a);
			check_pages(slot, 0, nr, a); /* they stay */
			dev_discard(&dev, slot, nr);
		}
	}
	dev_close(&dev);
}

TEST(any_part_of_a_folio_can_be_loaded)
{
	SETUP("");
	for (int i = 0; i < 60; i++) {
		uint32_t nr = 1u << test_random(&seed) % 10;
		uint64_t slot = test_random(&seed) % 16 * MAX;

		fill_pages(a, nr,
			   (enum contents)(test_random(&seed) % CONTENTS_NR),
			   &seed);
		CHECK_EQ(dev_store(&dev, slot, nr, a), 0);
		for (int j = 0; j < 10; j++) {
			uint32_t first = (uint32_t)test_random(&seed) % nr;
			uint32_t n =
				(uint32_t)test_random(&seed) % (nr - first);

			check_pages(slot, first, n + 1, a);
		}
		dev_discard(&dev, slot, nr);
	}
	dev_close(&dev);
}

TEST(a_part_can_be_discarded_and_the_rest_stays)
{
	static const uint32_t orders[] = {1, 3, 4, 5, 9};

	SETUP("");
	for (size_t i = 0; i < 5; i++) {
		uint32_t nr = 1u << orders[i];

		fill_pages(a, nr, i % 2 ? TEXT : NOISE, &seed);
		CHECK_EQ(dev_store(&dev, MAX, nr, a), 0);
		/* Every odd page, then every even one but the last. */
		for (uint32_t p = 1; p < nr; p += 2)
			dev_discard(&dev, MAX + p, 1);
		CHECK_EQ(dev_usage(&dev).stored_pages, nr / 2);
		for (uint32_t p = 0; p < nr; p += 2)
			check_pages(MAX, p, 1, a);
		dev_discard(&dev, MAX, nr - 2);
		check_pages(MAX, nr - 2, 1, a);
		CHECK_EQ(dev_usage(&dev).stored_pages, 1);
		dev_discard(&dev, MAX, nr);
		CHECK_EQ(dev_usage(&dev).stored_pages, 0);
	}
	dev_close(&dev);
}

TEST(a_discarded_part_takes_a_smaller_folio)
{
	SETUP("");
	for (uint32_t order = 0; order < 6; order++) {
		uint32_t nr = 1u << order;

		fill_pages(a, MAX, TEXT, &seed);
		CHECK_EQ(dev_store(&dev, 0, MAX, a), 0);
		for (uint32_t at = 0; at < 4 * nr; at += 2 * nr) {
			dev_discard(&dev, at, nr);
			fill_pages(a + (size_t)at * PAGE, nr, NOISE, &seed);
			CHECK_EQ(dev_store(&dev, at, nr, a + (size_t)at * PAGE),
				 0);
		}
		for (uint32_t at = 0; at < 4 * nr; at += nr)
			check_pages(0, at, nr, a);
		check_pages(0, 4 * nr, MAX - 4 * nr, a);
		dev_discard(&dev, 0, MAX);
		CHECK_EQ(dev_usage(&dev).stored_pages, 0);
	}
	dev_close(&dev);
}

TEST(one_discard_may_cover_many_folios_and_nothing)
{
	SETUP("");
	fill_pages(a, MAX, TEXT, &seed);
	for (uint64_t slot = 1000; slot < 1100; slot += 2)
		CHECK_EQ(dev_store(&dev, slot, 1, a), 0);
	CHECK_EQ(dev_store(&dev, 16 * MAX, MAX, a), 0);
	CHECK_EQ(dev_usage(&dev).stored_pages, 50 + MAX);
	dev_discard(&dev, 0, 1002);
	CHECK_EQ(dev_usage(&dev).stored_pages, 49 + MAX);
	check_pages(1002, 0, 1, a);
	dev_discard(&dev, 1001, dev.nr_slots - 1001);
	CHECK_EQ(dev_usage(&dev).stored_pages, 0);
	dev_discard(&dev, 0, dev.nr_slots);
	dev_close(&dev);
}

TEST(a_slot_can_be_stored_again_after_a_discard)
{
	SETUP("");
	for (uint64_t i = 0; i < 200; i++) {
		uint32_t nr = 1u << i % 7;

		fill_pages(a, nr, (enum contents)(i % CONTENTS_NR), &seed);
		CHECK_EQ(dev_store(&dev, 128, nr, a), 0);
		check_pages(128, 0, nr, a);
		dev_discard(&dev, 128, nr);
	}
	dev_close(&dev);
}

TEST(a_batch_mixes_sizes_and_kinds)
{
	struct pgmap_io io[40];
	uint32_t at = 0;

	SETUP("");
	for (unsigned int i = 0; i < 40; i++) {
		uint32_t nr = 1u << i % 4;

		io[i] = (struct pgmap_io){.slot = (uint64_t)(40 - i) * 64,
					  .nr = nr,
					  .status = 1,
					  .buf = a + (size_t)at * PAGE};
		fill_pages(io[i].buf, nr, (enum contents)(i % CONTENTS_NR),
			   &seed);
		at += nr;
	}
	CHECK_EQ(dev.ops->store(dev.priv, io, 40), 0);
	CHECK_EQ(dev_usage(&dev).stored_pages, at);
	at = 0;
	for (unsigned int i = 0; i < 40; i++) {
		CHECK_EQ(io[i].status, 0);
		io[i].buf = b + (size_t)at * PAGE;
		io[i].status = 1;
		at += io[i].nr;
	}
	CHECK_EQ(dev.ops->load(dev.priv, io, 40), 0);
	assert_memory_equal(a, b, (size_t)at * PAGE);
	dev_close(&dev);
}

TEST(one_bad_load_of_a_batch_fails_alone)
{
	struct pgmap_io io[3];

	SETUP("");
	fill_pages(a, 2, NOISE, &seed);
	CHECK_EQ(dev_store(&dev, 0, 1, a), 0);
	CHECK_EQ(dev_store(&dev, 2, 1, a + PAGE), 0);
	for (unsigned int i = 0; i < 3; i++)
		io[i] = (struct pgmap_io){i, 1, 1, b + (size_t)i * PAGE};
	CHECK(dev.ops->load(dev.priv, io, 3) < 0);
	CHECK_EQ(io[0].status, 0);
	CHECK(io[1].status < 0); /* slot 1 holds nothing */
	CHECK_EQ(io[2].status, 0);
	assert_memory_equal(b, a, PAGE);
	assert_memory_equal(b + (size_t)2 * PAGE, a + PAGE, PAGE);
	CHECK(dev_load(&dev, 0, 3, b) < 0);
	CHECK(dev_load(&dev, dev.nr_slots, 1, b) < 0);
	dev_close(&dev);
}

TEST(a_full_device_says_so_and_stays_usable)
{
	struct pgmap_device_usage u;
	uint64_t slot = 0, last;
	int ret;

	SETUP("size=4M");
	fill_pages(a, MAX, NOISE, &seed);
	for (;; slot += 16) {
		ret = dev_store(&dev, slot, 16, a + slot / 16 % 32 * 16 * PAGE);
		if (ret)
			break;
		CHECK(slot < 1024);
	}
	CHECK_EQ(ret, -ENOSPC);
	u = dev_usage(&dev);
	CHECK_EQ(u.stored_pages, slot);
	CHECK_EQ(u.limit_bytes, 4 << 20);
	CHECK(u.host_bytes <= 4 << 20 || u.media_bytes);
	CHECK(u.media_bytes <= 4 << 20);
	CHECK(slot * PAGE >= 3u << 20);
	CHECK(dev_load(&dev, slot, 1, b) < 0); /* holds nothing */
	/* A folio that is too large leaves nothing of itself behind. */
	last = (slot + 2 * MAX) & ~(uint64_t)(MAX - 1);
	CHECK_EQ(dev_store(&dev, last, MAX, a), -ENOSPC);
	CHECK_EQ(dev_usage(&dev).stored_pages, slot);
	for (uint64_t s = 0; s < slot; s += 16) {
		CHECK_EQ(dev_load(&dev, s, 16, b), 0);
		assert_memory_equal(b, a + s / 16 % 32 * 16 * PAGE,
				    (size_t)16 * PAGE);
	}
	/* Room that was given back can be had again. */
	for (int i = 0; i < 100; i++) {
		dev_discard(&dev, slot - 16, 16);
		CHECK_EQ(dev_store(&dev, slot - 16, 16, a), 0);
	}
	dev_discard(&dev, 0, dev.nr_slots);
	CHECK_EQ(dev_store(&dev, last, MAX, a), 0);
	check_pages(last, 0, MAX, a);
	dev_close(&dev);
}

TEST(usage_follows_what_is_stored)
{
	struct pgmap_device_usage u;

	SETUP("");
	u = dev_usage(&dev);
	CHECK_EQ(u.stored_pages, 0);
	CHECK_EQ(u.live_bytes, 0);
	CHECK_EQ(u.media_bytes, 0);
	fill_pages(a, MAX, NOISE, &seed);
	for (uint64_t i = 0; i < 16; i++)
		CHECK_EQ(dev_store(&dev, i * MAX, MAX, a), 0);
	u = dev_usage(&dev);
	CHECK_EQ(u.stored_pages, 16 * MAX);
	CHECK(u.live_bytes + u.media_bytes >= 16ull * MAX * PAGE);
	CHECK(u.host_bytes >= u.live_bytes);
	CHECK(u.host_bytes + u.media_bytes <= 18ull * MAX * PAGE);
	dev_discard(&dev, 0, 16 * MAX);
	u = dev_usage(&dev);
	CHECK_EQ(u.stored_pages, 0);
	CHECK_EQ(u.live_bytes, 0);
	CHECK_EQ(u.media_bytes, 0);
	CHECK(u.host_bytes < 2 << 20);
	dev_close(&dev);
}

TEST(direct_access_reaches_what_was_stored)
{
	SETUP("");
	if (!dev.ops->direct_access) {
		dev_close(&dev);
		SKIP("not a coherent device");
	}
	fill_pages(a, 4, NOISE, &seed);
	CHECK_EQ(dev_store(&dev, 8, 4, a), 0);
	assert_memory_equal(dev.ops->direct_access(dev.priv, 9), a + PAGE,
			    PAGE);
	memset(dev.ops->direct_access(dev.priv, 9), 7, PAGE);
	CHECK_EQ(dev_load(&dev, 9, 1, b), 0);
	CHECK_EQ(b[PAGE - 1], 7);
	dev_close(&dev);
}

/* Threads: each has slots of its own; failures are counted, as cmocka's
 * checks may not leave a thread. */
#define NR_THREADS 3

struct worker {
	uint64_t first, seed;
	char *a, *b;
	int rounds, failures;
};

static void *work(void *arg)
{
	struct worker *w = arg;

	for (int i = 0; i < w->rounds; i++) {
		uint32_t nr = 1u << test_random(&w->seed) % 7;
		enum contents kind = test_random(&w->seed) % CONTENTS_NR;
		uint64_t slot = w->first + test_random(&w->seed) % 8 * 64;
		uint32_t part = (uint32_t)test_random(&w->seed) % nr;

		fill_pages(w->a, nr, kind, &w->seed);
		if (dev_store(&dev, slot, nr, w->a) ||
		    dev_load(&dev, slot, nr, w->b) ||
		    memcmp(w->a, w->b, (size_t)nr * PAGE))
			w->failures++;
		dev_discard(&dev, slot, part);
		if (dev_load(&dev, slot + part, nr - part, w->b) ||
		    memcmp(w->a + (size_t)part * PAGE, w->b,
			   (size_t)(nr - part) * PAGE))
			w->failures++;
		dev_discard(&dev, slot, nr);
	}
	return NULL;
}

TEST(threads_use_different_slots_at_once)
{
	pthread_t threads[NR_THREADS];
	struct worker w[NR_THREADS];

	SETUP("");
	for (unsigned int i = 0; i < NR_THREADS; i++) {
		/* Neighbours in the driver's tables, on purpose. */
		w[i] = (struct worker){.first = 512 * i,
				       .seed = test_random(&seed) | 1,
				       .rounds = 200,
				       .a = pages_new(64),
				       .b = pages_new(64)};
		CHECK_EQ(pthread_create(&threads[i], NULL, work, &w[i]), 0);
	}
	for (unsigned int i = 0; i < NR_THREADS; i++) {
		pthread_join(threads[i], NULL);
		CHECK_EQ(w[i].failures, 0);
	}
	CHECK_EQ(dev_usage(&dev).stored_pages, 0);
	dev_close(&dev);
}

#define FORK_NR 8u

/* Both sides: what was there before the fork is right, and what this side
 * stores now stays right while the other side stores something else. */
static int after_fork(uint64_t my_seed)
{
	uint64_t s = my_seed;
	int bad = 0;

	for (uint64_t i = 0; i < 16; i++)
		bad += dev_load(&dev, i * FORK_NR, FORK_NR, b) ||
		       memcmp(b, a + i * FORK_NR * PAGE,
			      (size_t)FORK_NR * PAGE);
	for (int round = 0; round < 20; round++) {
		for (uint64_t i = 0; i < 16; i++) {
			char *p = a + i * FORK_NR * PAGE;

			dev_discard(&dev, i * FORK_NR, FORK_NR);
			fill_pages(p, FORK_NR, MIXED, &s);
			bad += dev_store(&dev, i * FORK_NR, FORK_NR, p) != 0;
		}
		for (uint64_t i = 0; i < 16; i++)
			bad += dev_load(&dev, i * FORK_NR, FORK_NR, b) ||
			       memcmp(b, a + i * FORK_NR * PAGE,
				      (size_t)FORK_NR * PAGE);
	}
	return bad;
}

static int dev_fork(enum pgmap_fork_phase phase)
{
	return dev.ops->fork ? dev.ops->fork(dev.priv, phase) : 0;
}

TEST(parent_and_child_of_a_fork_are_independent)
{
	int status, go[2], bad;
	pid_t child;

	SETUP("");
	fill_pages(a, 16 * FORK_NR, MIXED, &seed);
	for (uint64_t i = 0; i < 16; i++)
		CHECK_EQ(dev_store(&dev, i * FORK_NR, FORK_NR,
				   a + i * FORK_NR * PAGE),
			 0);
	CHECK_EQ(dev_fork(PGMAP_FORK_PREPARE), 0);
	CHECK_EQ(dev_fork(PGMAP_FORK_ABORT), 0);
	CHECK_EQ(dev_fork(PGMAP_FORK_PREPARE), 0);
	CHECK_EQ(pipe(go), 0);
	child = fork();
	CHECK(child >= 0);
	if (!child) {
		char done = 0;

		/* Our threads have no descriptor of the parent's. */
		for (int fd = 3; fd < 100; fd++)
			if (fd != go[1])
				close(fd);
		bad = dev_fork(PGMAP_FORK_CHILD) != 0;
		/* The parent waits for this much. */
		bad += write(go[1], &done, 1) != 1;
		bad += after_fork(test_random(&seed));
		dev_close(&dev);
		_exit(bad > 99 ? 99 : bad);
	}
	CHECK_EQ(read(go[0], &status, 1), 1);
	bad = after_fork(test_random(&seed) ^ 0x1234567);
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK(WIFEXITED(status));
	CHECK_EQ(WEXITSTATUS(status), 0);
	CHECK_EQ(bad, 0);
	close(go[0]);
	close(go[1]);
	dev_discard(&dev, 0, dev.nr_slots);
	CHECK_EQ(dev_usage(&dev).stored_pages, 0);
	dev_close(&dev);
}

TEST_MAIN()
