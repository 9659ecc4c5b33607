/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * world.h - a small world for tests of core: an address space in memory, and
 * a device whose every store and load can be watched, delayed or broken.
 */
#ifndef TEST_WORLD_H
#define TEST_WORLD_H

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bug.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/fault.h"
#include "core/folio.h"
#include "core/migrate.h"
#include "core/mm.h"
#include "core/pagemap.h"
#include "mmu/soft.h"
#include "test.h"

#define PAGE ((size_t)PG_PAGE_SIZE)

/** MUST() - CHECK() for threads: cmocka cannot leave those. */
#define MUST(cond)                                                             \
	do {                                                                   \
		if (!(cond)) {                                                 \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__,     \
				#cond);                                        \
			abort();                                               \
		}                                                              \
	} while (0)

/* ---- A device ---- */

struct test_device {
	char *mem;
	uint64_t nr_slots;
	uint8_t *held; /* by slot */
	/* Called before each store and load of a folio; not 0 is its status. */
	int (*on_store)(const struct pgmap_io *io);
	int (*on_load)(const struct pgmap_io *io);
	void (*on_discard)(uint64_t slot, uint64_t nr);
	_Atomic(unsigned int) stores, loads, opened;
	_Atomic(uint64_t) stored; /* pages held */
	uint32_t unit;		  /* asked for by open; 0: no wish */
};

/* One at a time is open. */
static struct test_device tdev;

static inline int tdev_open(struct pgmap_device_args *args, void **priv)
{
	tdev.nr_slots = args->nr_slots;
	if (tdev.unit)
		args->unit = tdev.unit;
	tdev.mem = pg_mem_map(tdev.nr_slots * PAGE);
	if (!tdev.mem)
		return -ENOMEM;
	tdev.held = pg_mem_map(tdev.nr_slots);
	if (!tdev.held) {
		pg_mem_unmap(tdev.mem, tdev.nr_slots * PAGE);
		return -ENOMEM;
	}
	tdev.opened++;
	*priv = &tdev;
	return 0;
}

static inline void tdev_close(void *priv)
{
	MUST(priv == &tdev && tdev.opened == 1);
	pg_mem_unmap(tdev.mem, tdev.nr_slots * PAGE);
	pg_mem_unmap(tdev.held, tdev.nr_slots);
	memset(&tdev, 0, sizeof(tdev));
}

static inline int tdev_store(void *priv, struct pgmap_io *io, unsigned int n)
{
	int ret = 0;

	MUST(priv == &tdev);
	for (unsigned int i = 0; i < n; i++) {
		tdev.stores++;
		io[i].status = tdev.on_store ? tdev.on_store(&io[i]) : 0;
		for (uint32_t k = 0; !io[i].status && k < io[i].nr; k++) {
			/* A slot is stored to once before it is discarded. */
			MUST(!tdev.held[io[i].slot + k]);
			tdev.held[io[i].slot + k] = 1;
			tdev.stored++;
		}
		if (!io[i].status)
			memcpy(tdev.mem + io[i].slot * PAGE, io[i].buf,
			       io[i].nr * PAGE);
		else if (!ret)
			ret = io[i].status;
	}
	return ret;
}

static inline int tdev_load(void *priv, struct pgmap_io *io, unsigned int n)
{
	int ret = 0;

	MUST(priv == &tdev);
	for (unsigned int i = 0; i < n; i++) {
		tdev.loads++;
		for (uint32_t k = 0; k < io[i].nr; k++)
			MUST(tdev.held[io[i].slot + k]);
		io[i].status = tdev.on_load ? tdev.on_load(&io[i]) : 0;
		if (!io[i].status)
			memcpy(io[i].buf, tdev.mem + io[i].slot * PAGE,
			       io[i].nr * PAGE);
		else if (!ret)
			ret = io[i].status;
	}
	return ret;
}

static inline void tdev_discard(void *priv, uint64_t slot, uint64_t nr)
{
	MUST(priv == &tdev);
	if (tdev.on_discard)
		tdev.on_discard(slot, nr);
	for (uint64_t s = slot; s < slot + nr; s++) {
		if (!tdev.held[s])
			continue;
		tdev.held[s] = 0;
		tdev.stored--;
		/* Whoever reads it now has not asked for it. */
		memset(tdev.mem + s * PAGE, 0xdd, PAGE);
	}
}

static inline void tdev_usage(void *priv, struct pgmap_device_usage *usage)
{
	MUST(priv == &tdev);
	usage->stored_pages = tdev.stored;
	usage->host_bytes = tdev.stored * PAGE;
	usage->live_bytes = usage->host_bytes;
	usage->limit_bytes = UINT64_MAX;
}

static const struct pgmap_device_ops tdev_ops = {
	.size = sizeof(struct pgmap_device_ops),
	.name = "test",
	.summary = "for tests",
	.options = "",
	.flags = PGMAP_DEV_PACKED,
	.open = tdev_open,
	.close = tdev_close,
	.store = tdev_store,
	.load = tdev_load,
	.discard = tdev_discard,
	.usage = tdev_usage,
};

static inline struct pgmap_device *device_open(uint64_t nr_slots)
{
	char error[200] = "";
	struct pgmap_device_args args = {.options = "",
					 .nr_slots = nr_slots,
					 .error = error,
					 .error_len = sizeof(error)};
	struct pgmap_device *dev = NULL;

	CHECK_EQ(
		pg_device_open(&tdev_ops, &args, pg_fault_migrate_to_ram, &dev),
		0);
	return dev;
}

/* ---- The world ---- */

/* For pg_mmu_ops.present: nobody can tell. */
static inline int present_fails(struct pg_mmu *m, uintptr_t va, size_t nr,
				uint64_t *bits)
{
	(void)m;
	(void)va;
	(void)nr;
	(void)bits;
	return -EIO;
}

#define AT(i) (PG_SOFT_BASE + (uintptr_t)(i)*PAGE)
#define PTR(i) ((void *)AT(i))

struct world {
	struct pgmap_mm mm;
	struct pg_mmu *mmu;
	struct pgmap_device *dev;
	size_t nr;
	/* Called before each operation of the MMU; not 0 is its error. */
	int (*on_op)(enum pg_soft_op op, uintptr_t va);
};

/* One at a time. Too large for a stack. */
static struct world w;

/* A fault that is parked comes again: that is what the wake-up does. */
static inline bool world_fault(void *ctx, uintptr_t va, uint32_t flags)
{
	enum pg_fault_result r = pg_fault(&w.mm, va, flags);

	(void)ctx;
	if (r == PG_FAULT_PARKED)
		sched_yield();
	return r != PG_FAULT_OOM;
}

static inline int world_before(void *ctx, enum pg_soft_op op, uintptr_t va)
{
	(void)ctx;
	return w.on_op ? w.on_op(op, va) : 0;
}

/** world_open_on() - @nr pages, all managed, a budget and a folio in pages, on
 * @dev, which is closed with it; NULL: a test device. */
static inline void world_open_on(struct pgmap_device *dev, size_t nr,
				 uint64_t budget, size_t folio)
{
	struct pg_soft_hooks hooks = {.fault = world_fault,
				      .before = world_before};

	/* What a test that failed has left. */
	memset(&w, 0, sizeof(w));
	if (!dev)
		memset(&tdev, 0, sizeof(tdev));
	w.nr = nr;
	w.dev = dev ? dev : device_open(nr * 2 + 2048);
	CHECK_EQ(pg_soft_create(nr, &w.mmu), 0);
	pg_soft_hook(w.mmu, &hooks);
	CHECK_EQ(pg_mm_init(&w.mm, w.mmu, w.dev, budget * PAGE, folio * PAGE),
		 0);
	CHECK_EQ(pgmap_mm_adopt(&w.mm, PTR(0), nr * PAGE), 0);
}

static inline void world_open(size_t nr, uint64_t budget, size_t folio)
{
	world_open_on(NULL, nr, budget, folio);
}

/** no_standby() - What is evicted is stored at once. */
static inline void no_standby(void)
{
	w.mm.standby_pages = 0;
}

/** world_check() - Do all invariants hold? */
static inline void world_check(void)
{
	char what[200] = "";
	int ret = pgmap_check(&w.mm, what, sizeof(what));

	if (ret)
		printf("# pgmap_check: %s\n", what);
	CHECK_EQ(ret, 0);
}

static inline void world_close(void)
{
	uint64_t pfn = w.dev->first_pfn;

	w.on_op = NULL;
	tdev.on_store = NULL;
	tdev.on_load = NULL;
	tdev.on_discard = NULL;
	world_check();
	pg_mm_fini(&w.mm);
	CHECK_EQ(pg_map_refs(w.dev->map), 0);
	CHECK_EQ(tdev.stored, 0);
	pg_device_close(w.dev);
	CHECK(!pgmap_lookup(pfn, NULL));
	pg_soft_destroy(w.mmu);
}

/** put_byte() - Store @v to byte @k of page @i, as the program does. */
static inline void put_byte(size_t i, size_t k, uint8_t v)
{
	CHECK_EQ(pg_soft_write(w.mmu, AT(i) + k, v), 0);
}

static inline uint8_t get_byte(size_t i, size_t k)
{
	uint8_t v = 0;

	CHECK_EQ(pg_soft_read(w.mmu, AT(i) + k, &v), 0);
	return v;
}

static inline uint8_t byte_of(size_t i)
{
	return (uint8_t)(i * 7 + 1);
}

/** fill() - Write pages [i, i + nr), each its own byte. */
static inline void fill(size_t i, size_t nr)
{
	for (; nr--; i++)
		put_byte(i, i % PAGE, byte_of(i));
}

static inline void check_filled(size_t i, size_t nr)
{
	for (; nr--; i++)
		CHECK_EQ(get_byte(i, i % PAGE), byte_of(i));
}

/** migrate() - Return: pages that moved. */
static inline size_t migrate(size_t i, size_t nr, bool to_device)
{
	size_t moved = 77;

	CHECK_EQ(pgmap_migrate(&w.mm, PTR(i), nr * PAGE, to_device, &moved), 0);
	return moved / PAGE;
}

static inline pg_pte_t entry(size_t i)
{
	return pg_pte_read(&w.mm.pt, AT(i));
}

static inline enum pg_pte_state state_of(size_t i)
{
	return pg_pte_state(entry(i));
}

/** count_of() - How many of pages [i, i + nr) are in @state. */
static inline size_t count_of(size_t i, size_t nr, enum pg_pte_state state)
{
	size_t n = 0;

	for (; nr--; i++)
		n += state_of(i) == state;
	return n;
}

/** folio_of() - The folio that page @i is away in. */
static inline struct pgmap_folio *folio_of(size_t i)
{
	CHECK_EQ(state_of(i), PG_PTE_DEVICE);
	return pg_map_head(w.dev->map, pg_pte_value(entry(i)));
}

/** drop() - What a MADV_DONTNEED of the program does. */
static inline void drop(size_t i, size_t nr)
{
	pgmap_mm_change_begin(&w.mm);
	pgmap_mm_remove(&w.mm, PTR(i), nr * PAGE);
	pg_soft_zap(w.mmu, AT(i), nr);
	pgmap_mm_change_end(&w.mm);
}

/** empty_pool() - No buffer has a page: the next one must be filled. */
static inline void empty_pool(void)
{
	while (w.mm.pool.full || w.mm.pool.part)
		pg_pool_put_empty(&w.mm.pool, pg_pool_get_room(&w.mm.pool, 1));
}

static inline uint64_t counter(const char *name)
{
	struct pgmap_stat st = {.size = sizeof(st)};

	CHECK_EQ(pgmap_stat_get(&w.mm, &st), 0);
#define X(n, unit, doc)                                                        \
	if (!strcmp(name, #n))                                                 \
		return st.n;
	PGMAP_COUNTERS(X)
	PGMAP_GAUGES(X)
#undef X
	fail_msg("no counter %s", name);
	return 0;
}

/* ---- Lines of the log ---- */

static char log_text[4096];
static unsigned int log_lines;

static inline void log_sink(const char *line, size_t len)
{
	size_t at = strlen(log_text);

	log_lines++;
	if (at + len < sizeof(log_text))
		memcpy(log_text + at, line, len);
}

static inline void log_catch(void)
{
	memset(log_text, 0, sizeof(log_text));
	log_lines = 0;
	pg_log_set(PG_LOG_WARN, -1, log_sink);
}

static inline void log_release(void)
{
	pg_log_set(PG_LOG_WARN, 2, NULL);
}

/* ---- Death ---- */

/** dies() - Does @f abort the process? */
static inline bool dies(void (*f)(void))
{
	pid_t pid;
	int status = 0;

	fflush(NULL);
	pid = fork();
	if (!pid) {
		/* What it says of itself is not news. */
		close(2);
		signal(SIGABRT, SIG_DFL);
		f();
		_exit(0);
	}
	CHECK(pid > 0);
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

#endif
