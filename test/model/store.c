/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The store against a model: random operations, crashes in them, processes
 * killed in them.
 *
 * A crash: of what was stored since it was last flushed, any part may have
 * reached the medium. At each flush, and after each operation, some of these
 * states are opened: each must be sound, and hold what was before the
 * operation, or after it. PGMAP_STEPS: how many states.
 */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/sys.h"
#include "store.h"

#define BYTES (400u * 1024)
#define HALF (32u * 1024)

static uint64_t steps(uint64_t n)
{
	const char *s = getenv("PGMAP_STEPS");

	return s ? strtoull(s, NULL, 0) : n;
}

static struct {
	uint64_t seed;
	unsigned char *mem;    /* what the program sees */
	unsigned char *medium; /* what is certain to be there */
	unsigned char *state;  /* what a crash leaves */
	struct pgmap_dax dax;
	struct pgmap_store *store;
	struct model before, after;
	struct op op;
	uint64_t nr_states, nr_flushes, nr_restarts;
	bool crashed; /* it goes on with state */
} w;

/* Each unit of @unit bytes that is not certain is there or not. */
static void make_state(uint64_t unit, unsigned int how)
{
	memcpy(w.state, w.medium, BYTES);
	for (uint64_t page = 0; page < BYTES; page += BLOCK) {
		if (!memcmp(w.mem + page, w.medium + page, BLOCK))
			continue;
		for (uint64_t i = page; i < page + BLOCK; i += unit) {
			uint64_t r = test_random(&w.seed);

			if (how == 0 || (how == 1 && r >> 32 & 1) ||
			    (how == 2 && !(r >> 32 & 15)) ||
			    (how == 3 && r >> 32 & 15))
				memcpy(w.state + i, w.mem + i, unit);
		}
	}
}

static void check_state(void)
{
	static struct model found;
	struct pgmap_dax dax = {0};
	struct pgmap_store *s;
	bool bad = false;
	char error[256] = "";

	w.nr_states++;
	pg_daxdev_init(&dax, w.state, BYTES);
	if (pgmap_store_check(&dax, say, &bad) || bad)
		fail_msg("state %ju is damaged", (uintmax_t)w.nr_states);
	/* To look is not to write. */
	CHECK_EQ(mprotect(w.state, BYTES, PROT_READ), 0);
	dax.readonly = true;
	if (pgmap_store_open(&dax, &s, error, sizeof(error)))
		fail_msg("state %ju: %s", (uintmax_t)w.nr_states, error);
	model_read(s, &found);
	if (!model_between(&found, &w.before, &w.after, &w.op))
		fail_msg("state %ju: not what was before operation %d, nor "
			 "after it",
			 (uintmax_t)w.nr_states, w.op.type);
	CHECK_EQ(pgmap_store_close(s), 0);
	CHECK_EQ(mprotect(w.state, BYTES, PROT_READ | PROT_WRITE), 0);
}

static void check_states(unsigned int nr)
{
	static const uint64_t units[] = {8, 64, 64, 512, 4096};

	for (unsigned int i = 0; i < nr; i++) {
		uint64_t r = test_random(&w.seed) >> 32;

		make_state(units[r % 5], r / 8 % 4);
		check_state();
	}
}

static int flush(struct pgmap_dax *dax, uint64_t at, uint64_t len)
{
	CHECK(dax == &w.dax && at <= BYTES && len <= BYTES - at);
	w.nr_flushes++;
	if (w.crashed)
		return -EIO;
	check_states(2);
	if (!(test_random(&w.seed) >> 32 & 63)) {
		w.crashed = true;
		return -EIO;
	}
	memcpy(w.medium + at, w.mem + at, len);
	return 0;
}

static void open_store(void)
{
	char error[256] = "";

	w.dax = (struct pgmap_dax){0};
	pg_daxdev_init(&w.dax, w.mem, BYTES);
	if (pgmap_store_open(&w.dax, &w.store, error, sizeof(error)))
		fail_msg("%s", error);
	w.dax.flush = flush;
}

static void start(void)
{
	memset(&w, 0, sizeof(w));
	w.seed = test_seed();
	w.mem = image_new(BYTES, false);
	w.medium = image_new(BYTES, false);
	w.state = image_new(BYTES, false);
	pg_daxdev_init(&w.dax, w.mem, BYTES);
	CHECK_EQ(pgmap_store_format(&w.dax, HALF), 0);
	memcpy(w.medium, w.mem, BYTES);
	open_store();
	alarm(600);
}

static void end(void)
{
	pg_store_free(w.store);
	image_free(w.mem, BYTES);
	image_free(w.medium, BYTES);
	image_free(w.state, BYTES);
	alarm(0);
}

/* The machine starts again with what the crash left. */
static void restart(void)
{
	pg_store_free(w.store);
	memcpy(w.mem, w.state, BYTES);
	memcpy(w.medium, w.state, BYTES);
	w.crashed = false;
	w.nr_restarts++;
	open_store();
	model_read(w.store, &w.before);
}

TEST(a_crash_loses_nothing_that_was_acknowledged)
{
	uint64_t want = steps(12000), ops = 0;

	start();
	for (; w.nr_states < want; ops++) {
		int ret, expect;

		w.op = op_random(&w.seed);
		w.after = w.before;
		expect = model_do(&w.after, &w.op);
		ret = store_do(w.store, &w.op);
		if (w.crashed) {
			restart();
			continue;
		}
		if (ret == -ENOSPC) {
			struct model now;

			model_read(w.store, &now);
			CHECK(model_between(&now, &w.before, &w.after, &w.op));
			w.after = now;
		} else {
			CHECK_EQ(ret, expect);
		}
		w.before = w.after;
		check_states(1);
	}
	printf("# %ju states of %ju flushes in %ju operations; %ju restarts\n",
	       (uintmax_t)w.nr_states, (uintmax_t)w.nr_flushes, (uintmax_t)ops,
	       (uintmax_t)w.nr_restarts);
	CHECK(w.nr_restarts > 0 && w.store->journal.generation > 1);
	end();
}

TEST(random_operations_do_what_the_model_does)
{
	uint64_t want = steps(20000), full = 0;
	struct pg_report report = {0};
	bool bad = false;

	start();
	w.dax.flush = NULL;
	report.fn = say;
	report.arg = &bad;
	for (uint64_t i = 0; i < want; i++) {
		static struct model now;
		int ret, expect;

		w.op = op_random(&w.seed);
		w.after = w.before;
		expect = model_do(&w.after, &w.op);
		ret = store_do(w.store, &w.op);
		if (ret != -ENOSPC)
			CHECK_EQ(ret, expect);
		full += ret == -ENOSPC;
		model_read(w.store, &now);
		if (ret == -ENOSPC)
			w.after = now;
		if (!model_is(&now, &w.after))
			fail_msg("operation %ju, %d, did something else",
				 (uintmax_t)i, w.op.type);
		if (pg_store_check(w.store, &report))
			fail_msg("operation %ju, %d", (uintmax_t)i, w.op.type);
		w.before = w.after;
		if (!(test_random(&w.seed) >> 32 & 63)) {
			CHECK_EQ(pgmap_store_close(w.store), 0);
			CHECK_EQ(pgmap_store_check(&w.dax, say, &bad), 0);
			open_store();
			w.dax.flush = NULL;
			CHECK(w.store->clean);
		}
	}
	printf("# %ju operations found no space\n", (uintmax_t)full);
	end();
}

/* Shared with a child that is killed. */
struct progress {
	pg_atomic64 done; /* operations that were acknowledged; release */
};

static void work(struct pgmap_dax *dax, uint64_t seed, struct progress *p)
{
	struct pgmap_store *s;
	char error[256];

	if (pgmap_store_open(dax, &s, error, sizeof(error)))
		_exit(1);
	for (;;) {
		struct op op = op_random(&seed);

		store_do(s, &op);
		pg_fetch_add(&p->done, 1, release);
	}
}

TEST(a_process_that_is_killed_loses_nothing_that_was_acknowledged)
{
	uint64_t times = steps(12000) / 80, all = 0;
	struct progress *p;

	start();
	pg_store_free(w.store);
	image_free(w.mem, BYTES);
	w.mem = image_new(BYTES, true);
	memcpy(w.mem, w.medium, BYTES);
	p = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (uint64_t i = 0; i < times; i++) {
		uint64_t seed = test_random(&w.seed) | 1, done;
		struct timespec nap = {
			.tv_nsec = (long)(test_random(&w.seed) >> 42)};
		struct pgmap_dax dax = {0};
		pid_t child;
		int status;

		pg_store(&p->done, 0, relaxed);
		pg_daxdev_init(&dax, w.mem, BYTES);
		memcpy(w.medium, w.mem, BYTES);
		child = fork();
		CHECK(child >= 0);
		if (!child)
			work(&dax, seed, p);
		while (!pg_load(&p->done, acquire) &&
		       !waitpid(child, &status, WNOHANG))
			;
		nanosleep(&nap, NULL);
		kill(child, SIGKILL);
		CHECK_EQ(waitpid(child, &status, 0), child);
		CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		/* The same operations, on what there was before. */
		done = pg_load(&p->done, acquire);
		all += done;
		pg_daxdev_init(&dax, w.medium, BYTES);
		CHECK_EQ(pgmap_store_open(&dax, &w.store, NULL, 0), 0);
		for (uint64_t k = 0; k < done; k++) {
			w.op = op_random(&seed);
			store_do(w.store, &w.op);
		}
		model_read(w.store, &w.before);
		w.op = op_random(&seed);
		w.after = w.before;
		model_do(&w.after, &w.op);
		pg_store_free(w.store);
		memcpy(w.state, w.mem, BYTES);
		check_state();
	}
	printf("# %ju kills, %ju operations\n", (uintmax_t)times,
	       (uintmax_t)all);
	CHECK(all > times);
	pg_daxdev_init(&w.dax, w.mem, BYTES);
	open_store();
	munmap(p, BLOCK);
	end();
}

TEST_MAIN()
