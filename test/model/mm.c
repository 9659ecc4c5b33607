/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Random operations on an address space against an array of what it must hold,
 * for every folio size and on two drivers; then the same from several threads.
 * PGMAP_STEPS is the number of steps of the first.
 */
#include <time.h>

#include "driver/driver.h"
#include "world.h"

#define NR 2048u
#define BYTES 3u /* that are used of a page, far apart */

#ifdef __SANITIZE_THREAD__
#define STEPS 10000
#else
#define STEPS 40000
#endif

static uint64_t seed;

static size_t rnd(size_t n)
{
	return test_random(&seed) % n;
}

/* ---- A real driver that fails now and then ---- */

static const struct pgmap_device_ops *inner;
static struct pgmap_device_ops outer;
/* Failures per 64 calls; read by several threads. */
static _Atomic(unsigned int) store_fails, load_fails;
static _Atomic(int) store_error;
static _Atomic(uint32_t) dice;

static bool fails(unsigned int per_64)
{
	uint32_t x = dice++ * 2654435761u;

	return per_64 && (x >> 16) % 64 < per_64;
}

static int outer_store(void *priv, struct pgmap_io *io, unsigned int n)
{
	int ret = 0;

	for (unsigned int i = 0; i < n; i++) {
		if (fails(store_fails))
			io[i].status = store_error;
		else
			inner->store(priv, &io[i], 1);
		if (!ret)
			ret = io[i].status;
	}
	return ret;
}

/* What is loaded with others fails, a page by itself does not: nothing is lost
 * by it. */
static int outer_load(void *priv, struct pgmap_io *io, unsigned int n)
{
	int ret = 0;

	for (unsigned int i = 0; i < n; i++) {
		if ((n > 1 || io[i].nr > 1) && fails(load_fails)) {
			memset(io[i].buf, 0xbb, PAGE);
			io[i].status = -EIO;
		} else {
			inner->load(priv, &io[i], 1);
		}
		if (!ret)
			ret = io[i].status;
	}
	return ret;
}

static struct pgmap_device *driver_open(const char *name)
{
	char error[200] = "";
	struct pgmap_device_args args = {.options = "",
					 .nr_slots = 16 * NR,
					 .error = error,
					 .error_len = sizeof(error)};
	struct pgmap_device *dev = NULL;
	int ret;

	inner = pg_driver_find(name);
	if (!inner)
		return NULL;
	outer = *inner;
	outer.store = outer_store;
	outer.load = outer_load;
	store_fails = load_fails = 0;
	ret = pg_device_open(&outer, &args, pg_fault_migrate_to_ram, &dev);
	if (ret)
		printf("# %s: %s\n", name, error);
	CHECK_EQ(ret, 0);
	return dev;
}

/* ---- What it must hold ---- */

static uint8_t model[NR][BYTES];
static bool managed[NR], pinned[NR];

static uintptr_t addr(size_t i, size_t k)
{
	return AT(i) + k * 2003;
}

static void step_write(void)
{
	size_t i = rnd(NR), n = rnd(4) ? 1 : 1 + rnd(64);

	for (; n-- && i < NR; i++) {
		size_t k = rnd(BYTES);
		uint8_t v = (uint8_t)rnd(256);

		CHECK_EQ(pg_soft_write(w.mmu, addr(i, k), v), 0);
		model[i][k] = v;
	}
}

static void check_page(size_t i)
{
	for (size_t k = 0; k < BYTES; k++) {
		uint8_t v = 0;

		CHECK_EQ(pg_soft_read(w.mmu, addr(i, k), &v), 0);
		if (v != model[i][k])
			printf("# page %zu byte %zu\n", i, k);
		CHECK_EQ(v, model[i][k]);
	}
}

static void step_read(void)
{
	size_t i = rnd(NR), n = rnd(4) ? 1 : 1 + rnd(64);

	for (; n-- && i < NR; i++)
		check_page(i);
}

static size_t some(size_t *i)
{
	size_t n = 1 + (rnd(4) ? rnd(40) : rnd(NR));

	*i = rnd(NR);
	return n < NR - *i ? n : NR - *i;
}

static void unpin(size_t i, size_t n)
{
	for (; n--; i++) {
		pinned[i] = false;
		pg_soft_pin(w.mmu, AT(i), false);
	}
}

static void forget(size_t i, size_t n)
{
	memset(model[i], 0, n * BYTES);
	unpin(i, n);
	pg_soft_zap(w.mmu, AT(i), n);
}

static void step_drop(void)
{
	size_t i, n = some(&i);

	if (n > 200)
		return;
	pgmap_mm_change_begin(&w.mm);
	pgmap_mm_remove(&w.mm, PTR(i), n * PAGE);
	forget(i, n);
	pgmap_mm_change_end(&w.mm);
}

static void step_unmap(void)
{
	size_t i, n = some(&i);

	if (n > 200)
		return;
	pgmap_mm_change_begin(&w.mm);
	pgmap_mm_unmap(&w.mm, PTR(i), n * PAGE);
	w.mmu->ops->unwatch(w.mmu, AT(i), n);
	forget(i, n);
	memset(&managed[i], 0, n);
	pgmap_mm_change_end(&w.mm);
}

static void step_adopt(void)
{
	size_t i, n = some(&i);

	CHECK_EQ(pgmap_mm_adopt(&w.mm, PTR(i), n * PAGE), 0);
	memset(&managed[i], 1, n);
}

static void step_release(void)
{
	size_t i, n = some(&i);

	CHECK_EQ(pgmap_mm_release(&w.mm, PTR(i), n * PAGE), 0);
	memset(&managed[i], 0, n);
}

/* What mremap() of a managed range does, in the order of the runtime. */
static void step_remap(void)
{
	size_t from = rnd(NR), to = rnd(NR), n = 1 + rnd(100), d;
	uint8_t old[100][BYTES];

	d = from > to ? from - to : to - from;
	if (d < n || from + n > NR || to + n > NR)
		return;
	for (size_t i = 0; i < n; i++)
		if (!managed[from + i])
			return;
	pgmap_mm_change_begin(&w.mm);
	unpin(from, n);
	CHECK_EQ(pgmap_mm_remap_begin(&w.mm, PTR(from), n * PAGE), 0);
	memcpy(old, model[from], n * BYTES);
	forget(to, n);
	for (size_t i = 0; i < n; i++) {
		char buf[PG_PAGE_SIZE];
		size_t done;

		if (!w.mmu->ops->take(w.mmu, AT(from + i), buf, 1, &done))
			w.mmu->ops->give(w.mmu, AT(to + i), buf, 1, &done);
	}
	w.mmu->ops->unwatch(w.mmu, AT(from), n);
	w.mmu->ops->unwatch(w.mmu, AT(to), n);
	pgmap_mm_remap(&w.mm, PTR(from), n * PAGE, PTR(to), n * PAGE);
	pgmap_mm_unmap(&w.mm, PTR(from), n * PAGE);
	forget(from, n);
	CHECK_EQ(pg_mm_adopt(&w.mm, AT(to), n), 0);
	pgmap_mm_change_end(&w.mm);
	memcpy(model[to], old, n * BYTES);
	memset(&managed[from], 0, n);
	memset(&managed[to], 1, n);
	if (rnd(8)) {
		CHECK_EQ(pgmap_mm_adopt(&w.mm, PTR(from), n * PAGE), 0);
		memset(&managed[from], 1, n);
	}
}

static void step_migrate(void)
{
	size_t i, n = some(&i), moved = 1;
	bool ours = true;
	int ret;

	for (size_t k = 0; k < n; k++)
		ours = ours && managed[i + k];
	ret = pgmap_migrate(&w.mm, PTR(i), n * PAGE, rnd(2), &moved);
	CHECK_EQ(ret, ours ? 0 : -EFAULT);
	CHECK(moved <= n * PAGE);
	CHECK(ours || !moved);
}

static void step_pin(void)
{
	size_t i = rnd(NR);

	if (pinned[i] || !pg_soft_is_present(w.mmu, AT(i))) {
		unpin(i, 1);
		return;
	}
	pinned[i] = true;
	pg_soft_pin(w.mmu, AT(i), true);
}

static void step_weather(uint64_t budget)
{
	store_fails = rnd(2) ? 0 : (unsigned int)rnd(65);
	load_fails = rnd(2) ? 0 : (unsigned int)rnd(20);
	store_error = rnd(2) ? -ENOSPC : -EIO;
	pg_store(&w.mm.budget, budget / 2 + rnd(budget), relaxed);
}

static void step(uint64_t budget)
{
	switch (rnd(64)) {
	default:
		step_read();
		break;
	case 0 ... 19:
		step_write();
		break;
	case 20 ... 21:
		step_drop();
		break;
	case 22:
		step_unmap();
		break;
	case 23 ... 25:
		step_adopt();
		break;
	case 26:
		if (rnd(8) == 0)
			step_release();
		break;
	case 27 ... 28:
		step_remap();
		break;
	case 29 ... 31:
		step_migrate();
		break;
	case 32:
		step_pin();
		break;
	case 33 ... 36:
		pg_evict_ahead(&w.mm);
		break;
	case 37:
		pg_evict(&w.mm, 1 + rnd(NR));
		break;
	case 38:
		if (rnd(16) == 0)
			step_weather(budget);
		break;
	}
}

static void check_all(void)
{
	uint64_t n = 0;

	world_check();
	for (size_t i = 0; i < NR; i++)
		n += managed[i];
	CHECK_EQ(counter("managed"), n * PAGE);
	CHECK_EQ(counter("poisoned"), 0);
}

static void random_steps(const char *name, unsigned int order, size_t steps)
{
	uint64_t budget = (4u << order) + 64;
	struct pgmap_device *dev = driver_open(name);

	world_open_on(dev, NR, budget, (size_t)1 << order);
	log_catch();
	memset(model, 0, sizeof(model));
	memset(pinned, 0, sizeof(pinned));
	memset(managed, 1, sizeof(managed));
	for (size_t i = 0; i < steps; i++) {
		step(budget);
		if (i % 512 == 0)
			check_all();
	}
	/* Good weather: all is well again. */
	store_fails = load_fails = 0;
	unpin(0, NR);
	pg_store(&w.mm.budget, budget, relaxed);
	for (size_t i = 0; i < NR; i++)
		check_page(i);
	while (pg_evict_ahead(&w.mm))
		;
	CHECK(pg_mm_used(&w.mm) <= budget);
	check_all();
	CHECK_EQ(pgmap_mm_release(&w.mm, PTR(0), NR * PAGE), 0);
	CHECK_EQ(pg_map_refs(dev->map), 0);
	for (size_t i = 0; i < NR; i++)
		check_page(i);
	log_release();
	world_close();
}

TEST(memory_holds_what_was_written_to_it)
{
	const char *s = getenv("PGMAP_STEPS");
	size_t steps = s ? strtoull(s, NULL, 0) : STEPS;
	static const char *const name[] = {"mirror", "lz4"};

	seed = test_seed();
	for (unsigned int o = 0; o <= PGMAP_PMD_ORDER; o++)
		for (int d = 0; d < 2; d++)
			if (pg_driver_find(name[d]))
				random_steps(name[d], o, steps / 20);
}

/* ---- Threads ---- */

#define TOUCHERS 2
static _Atomic(bool) stop;
static _Atomic(uint64_t) touches;

/* Each thread has pages of its own, between those of the others, and is sure
 * what they hold. Pages of the others it only touches. */
static bool is_mine(size_t i, size_t me)
{
	return i % (TOUCHERS + 1) == me;
}

static void *touch_thread(void *arg)
{
	size_t me = (size_t)(uintptr_t)arg;
	uint64_t s = (me + 1) * 7919;

	while (!stop) {
		size_t i = test_random(&s) % NR, n = 1;
		uint8_t v = 0;

		if (test_random(&s) % 16 == 0)
			n = test_random(&s) % 64;
		for (; n-- && i < NR; i++) {
			MUST(!pg_soft_read(w.mmu, addr(i, me), &v));
			MUST(!is_mine(i, me) || v == model[i][me]);
			if (!is_mine(i, me))
				continue;
			MUST(!pg_soft_write(w.mmu, addr(i, me), ++v));
			model[i][me] = v;
			touches++;
		}
	}
	return NULL;
}

static void *evict_thread(void *arg)
{
	(void)arg;
	while (!stop)
		if (!pg_evict_ahead(&w.mm))
			sched_yield();
	return NULL;
}

static void *migrate_thread(void *arg)
{
	uint64_t s = 4711;

	(void)arg;
	while (!stop) {
		size_t i = test_random(&s) % NR, n = test_random(&s) % 100;

		if (n > NR - i)
			n = NR - i;
		MUST(!pgmap_migrate(&w.mm, PTR(i), n * PAGE,
				    test_random(&s) % 2, NULL));
		store_fails = test_random(&s) % 64 ? 0 : 32;
		load_fails = test_random(&s) % 64 ? 0 : 8;
	}
	return NULL;
}

/* The main thread changes mappings, of pages that are its own. */
static void change_steps(uint64_t end_ns)
{
	struct timespec t;

	do {
		size_t i = rnd(NR / 3) * 3 + TOUCHERS;
		uint8_t v = 0;

		if (i >= NR)
			continue;
		for (size_t k = 0; k < BYTES; k++) {
			MUST(!pg_soft_read(w.mmu, addr(i, k), &v));
			MUST(v == model[i][k]);
		}
		if (rnd(32)) {
			size_t k = rnd(BYTES);

			MUST(!pg_soft_write(w.mmu, addr(i, k), ++v));
			model[i][k] = v;
		} else {
			drop(i, 1);
			memset(model[i], 0, BYTES);
		}
		if (rnd(256) == 0)
			world_check();
		clock_gettime(CLOCK_MONOTONIC, &t);
	} while ((uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec <
		 end_ns);
}

static void threads(const char *name, unsigned int order, uint64_t ms)
{
	uint64_t budget = (4u << order) + 64;
	struct pgmap_device *dev = driver_open(name);
	pthread_t t[TOUCHERS + 2];
	struct timespec now;

	alarm(100);
	world_open_on(dev, NR, budget, (size_t)1 << order);
	log_catch();
	memset(model, 0, sizeof(model));
	store_error = -ENOSPC;
	stop = false;
	for (size_t i = 0; i < TOUCHERS; i++)
		CHECK_EQ(pthread_create(&t[i], NULL, touch_thread,
					(void *)(uintptr_t)i),
			 0);
	CHECK_EQ(pthread_create(&t[TOUCHERS], NULL, evict_thread, NULL), 0);
	CHECK_EQ(pthread_create(&t[TOUCHERS + 1], NULL, migrate_thread, NULL),
		 0);
	clock_gettime(CLOCK_MONOTONIC, &now);
	change_steps((uint64_t)now.tv_sec * 1000000000u +
		     (uint64_t)now.tv_nsec + ms * 1000000u);
	stop = true;
	for (size_t i = 0; i < TOUCHERS + 2; i++)
		pthread_join(t[i], NULL);
	alarm(0);
	store_fails = load_fails = 0;
	for (size_t i = 0; i < NR; i++) {
		uint8_t v = 0;
		size_t me = i % (TOUCHERS + 1);

		CHECK_EQ(pg_soft_read(w.mmu, addr(i, me), &v), 0);
		CHECK_EQ(v, model[i][me]);
	}
	CHECK_EQ(counter("poisoned"), 0);
	log_release();
	world_close();
}

TEST(threads_that_touch_evict_migrate_and_drop_lose_nothing)
{
	static const unsigned int orders[] = {0, 2, 5, 9};

	seed = test_seed();
	touches = 0;
	for (int i = 0; i < 4; i++) {
		threads("mirror", orders[i], 150);
		if (pg_driver_find("lz4"))
			threads("lz4", orders[i], 100);
	}
	printf("# %ju touches\n", (uintmax_t)touches);
	CHECK(touches);
}

TEST_MAIN()
