/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * DAX files: entries, faults, writing back, and taking blocks away.
 */
#include <time.h>

#include "asleep.h"
#include "daxfs.h"

static struct fs_file file, other;
static struct pg_space p1, p2;

static void open_one(uint64_t nr, bool large)
{
	fs_open();
	fs_create(&file, nr, large);
	space_open(&p1, &file, SHARED_RW);
}

static void close_one(void)
{
	check(&p1);
	fs_check(&file);
	pg_space_fini(&p1);
	fs_unlink(&file);
	fs_close();
}

static void open_two(uint64_t nr, bool large)
{
	open_one(nr, large);
	space_open(&p2, &file, SHARED_RW);
}

static void close_two(void)
{
	check(&p2);
	pg_space_fini(&p2);
	close_one();
}

static void unmap(struct pg_space *s)
{
	CHECK_EQ(pg_space_unmap(s, VA, FILE_PAGES), 0);
}

static void map(struct pg_space *s, struct fs_file *f)
{
	CHECK_EQ(pg_space_map(s, VA, FILE_PAGES, PG_AREA_DAX, SHARED_RW,
			      &f->f.mapping, 0),
		 0);
}

/* ---- Threads ---- */

struct job {
	pthread_t t;
	void (*f)(void);
	_Atomic(pid_t) tid;
	_Atomic(bool) done;
};

static void *run_job(void *arg)
{
	struct job *j = arg;

	j->tid = gettid();
	j->f();
	j->done = true;
	return NULL;
}

static void start(struct job *j, void (*f)(void))
{
	j->f = f;
	j->tid = 0;
	j->done = false;
	MUST(!pthread_create(&j->t, NULL, run_job, j));
}

/* It waits, and what it waits for is not there. */
static bool is_stuck(struct job *j)
{
	return test_wait_asleep(&j->tid, &j->done);
}

static void join(struct job *j)
{
	pthread_join(j->t, NULL);
}

/* ---- Entries ---- */

TEST(R121_a_block_with_an_entry_that_nobody_uses_is_idle)
{
	open_one(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 3, 7), PG_VM_NOPAGE);
	CHECK_EQ(kind(&file, 3), PG_DAX_PTE);
	CHECK_EQ(count_at(file.block[3]), 1);
	unmap(&p1);
	CHECK_EQ(kind(&file, 3), PG_DAX_PTE);
	CHECK_EQ(count_at(file.block[3]), 0);
	CHECK_EQ(pg_map_refs(fs.map), 0);
	CHECK_EQ(
		pg_dax_nr_owners(&fs.dax, fs.first + file.block[3], NULL, NULL),
		1);
	/* And from 0 to 1 again. */
	map(&p1, &file);
	CHECK_EQ(load(&p1, 3), 7);
	CHECK_EQ(count_at(file.block[3]), 1);
	close_one();
}

TEST(N6_R53_a_page_that_was_mapped_and_unmapped_holds_nothing_back)
{
	open_one(FILE_PAGES, false);
	alarm(30);
	CHECK_EQ(store(&p1, 0, 1), PG_VM_NOPAGE);
	unmap(&p1);
	CHECK_EQ(fs_punch_at(&file, 0, 1, PG_BREAK_NOWAIT, NULL, NULL), 0);
	CHECK_EQ(kind(&file, 0), PG_DAX_NONE);
	/* Nor one that is still mapped: that goes first. */
	map(&p1, &file);
	CHECK_EQ(store(&p1, 0, 1), PG_VM_NOPAGE);
	CHECK_EQ(fs_punch_at(&file, 0, 1, PG_BREAK_NOWAIT, NULL, NULL), 0);
	CHECK_EQ(entry(&p1, AT(0)), 0);
	CHECK_EQ(fs.naps, 0);
	close_one();
}

/* What is there, and what comes: the entry and its size afterwards. */
enum { R4K, W4K, R2M, W2M };

static enum pg_fault_code fault_at(struct pg_space *s, uint64_t i, bool write)
{
	enum pg_fault_code ret = PG_VM_SIGSEGV;
	struct pg_area *a;

	pg_read_lock(&s->lock, LOCK_MM);
	a = pg_find_area(s, AT(i));
	if (a)
		ret = a->mapping->ops->fault(a, AT(i), i, PG_PTE, write);
	pg_read_unlock(&s->lock, LOCK_MM);
	return ret;
}

static enum pg_fault_code fault_of(struct pg_space *s, int what)
{
	enum pg_fault_code ret = PG_VM_SIGSEGV;
	struct pg_area *a;

	pg_read_lock(&s->lock, LOCK_MM);
	a = pg_find_area(s, VA);
	if (a)
		ret = a->mapping->ops->fault(a, VA, 0,
					     what < R2M ? PG_PTE : PG_PMD,
					     what == W4K || what == W2M);
	pg_read_unlock(&s->lock, LOCK_MM);
	return ret;
}

TEST(R140_small_entries_win_over_large_ones)
{
	static const struct {
		enum pg_dax_kind there;
		struct {
			enum pg_fault_code code;
			enum pg_dax_kind becomes;
		} after[4];
	} t[] = {
		{PG_DAX_PTE,
		 {{PG_VM_NOPAGE, PG_DAX_PTE},
		  {PG_VM_NOPAGE, PG_DAX_PTE},
		  {PG_VM_FALLBACK, PG_DAX_PTE},
		  {PG_VM_FALLBACK, PG_DAX_PTE}}},
		{PG_DAX_PMD,
		 {{PG_VM_NOPAGE, PG_DAX_PMD},
		  {PG_VM_NOPAGE, PG_DAX_PMD},
		  {PG_VM_NOPAGE, PG_DAX_PMD},
		  {PG_VM_NOPAGE, PG_DAX_PMD}}},
		{PG_DAX_ZERO,
		 {{PG_VM_NOPAGE, PG_DAX_ZERO},
		  {PG_VM_NOPAGE, PG_DAX_PTE},
		  {PG_VM_FALLBACK, PG_DAX_ZERO},
		  {PG_VM_FALLBACK, PG_DAX_ZERO}}},
		{PG_DAX_ZERO_PMD,
		 {{PG_VM_NOPAGE, PG_DAX_ZERO},
		  {PG_VM_NOPAGE, PG_DAX_PTE},
		  {PG_VM_NOPAGE, PG_DAX_ZERO_PMD},
		  {PG_VM_NOPAGE, PG_DAX_PMD}}},
	};
	static const int makes[] = {W4K, W2M, R4K, R2M};

	NEEDS(PG_PMD);
	for (size_t there = 0; there < 4; there++)
		for (int what = R4K; what <= W2M; what++) {
			/* A small fault makes a small block in a hole. */
			open_one(FILE_PAGES, true);
			CHECK_EQ(fault_of(&p1, makes[there]), PG_VM_NOPAGE);
			CHECK_EQ(kind(&file, 0), t[there].there);
			/* As another process finds it. */
			unmap(&p1);
			map(&p1, &file);
			CHECK_EQ(fault_of(&p1, what),
				 t[there].after[what].code);
			CHECK_EQ(kind(&file, 0), t[there].after[what].becomes);
			close_one();
		}
}

TEST(R140_a_large_hole_that_is_taken_apart_is_mapped_nowhere)
{
	NEEDS(PG_PMD);
	open_two(FILE_PAGES, false);
	CHECK_EQ(load(&p1, 5), 0);
	CHECK_EQ(kind(&file, 5), PG_DAX_ZERO_PMD);
	CHECK_EQ(level_at(&p1, AT(5)), PG_PMD);
	/* Page 9 becomes a block, and page 5 may become one at any time: the
	 * large page of zeros must not hide them. */
	CHECK_EQ(store(&p2, 9, 1), PG_VM_NOPAGE);
	CHECK_EQ(load(&p1, 9), 1);
	CHECK_EQ(store(&p2, 5, 2), PG_VM_NOPAGE);
	CHECK_EQ(load(&p1, 5), 2);
	close_two();
}

static struct job job;
static _Atomic(bool) parked, go;

/* A fault of 2 MB stops where the file system is asked. */
static int park_large(struct fs_file *f, uint64_t index, unsigned int order)
{
	(void)f;
	(void)index;
	if (order != PGMAP_PMD_ORDER || parked)
		return 0;
	parked = true;
	while (!go)
		usleep(100);
	return 0;
}

static int park_small(struct fs_file *f, uint64_t index, unsigned int order)
{
	(void)f;
	(void)index;
	if (order || parked)
		return 0;
	parked = true;
	while (!go)
		usleep(100);
	return 0;
}

static void wait_parked(void)
{
	while (!parked)
		usleep(100);
}

static void store_0(void)
{
	MUST(store(&p1, 0, 1) == PG_VM_NOPAGE);
}

static void load_5(void)
{
	MUST(load(&p2, 5) == 0);
}

TEST(R140_a_small_fault_waits_for_a_large_one_and_is_woken)
{
	struct job small;

	NEEDS(PG_PMD);
	open_two(FILE_PAGES, true);
	alarm(30);
	/* One page is mapped: no room for a large entry. */
	unmap(&p2);
	CHECK_EQ(pg_space_map(&p2, AT(5), 1, PG_AREA_DAX, SHARED_RW,
			      &file.f.mapping, 5),
		 0);
	parked = go = false;
	fs.on_get = park_large;
	start(&job, store_0);
	wait_parked();
	start(&small, load_5);
	CHECK(is_stuck(&small));
	go = true;
	join(&small);
	join(&job);
	CHECK_EQ(fs.used, 2);
	CHECK_EQ(kind(&file, 5), PG_DAX_PMD);
	CHECK_EQ(level_at(&p2, AT(5)), PG_PTE);
	close_two();
}

TEST(R140_of_two_faults_of_a_page_one_makes_the_block)
{
	struct job second;

	open_two(FILE_PAGES, false);
	parked = go = false;
	fs.on_get = park_small;
	start(&job, store_0);
	wait_parked();
	start(&second, store_0);
	CHECK(is_stuck(&second));
	go = true;
	join(&job);
	join(&second);
	CHECK_EQ(count_at(file.block[0]), 1);
	close_two();
}

TEST(R141_what_makes_a_large_fault_small)
{
	struct pgmap_desc large = {.size = sizeof(large),
				   .type = PGMAP_FS_DAX,
				   .nr_range = 1,
				   .folio_order = 9};
	struct pgmap *m;

	NEEDS(PG_PMD);
	/* It fits. */
	open_one(512, true);
	CHECK_EQ(fault_of(&p1, W2M), PG_VM_NOPAGE);
	CHECK_EQ(level_at(&p1, AT(0)), PG_PMD);
	close_one();
	/* Its end is behind that of the file. */
	open_one(511, true);
	CHECK_EQ(fault_of(&p1, W2M), PG_VM_FALLBACK);
	CHECK_EQ(store(&p1, 510, 1), PG_VM_NOPAGE);
	CHECK_EQ(store(&p1, 511, 1), PG_VM_SIGBUS);
	CHECK_EQ(load(&p1, 511), -(int)PG_VM_SIGBUS);
	close_one();
	/* The extent is short, or not aligned; or the hole is. */
	open_one(FILE_PAGES, false);
	CHECK_EQ(fault_of(&p1, W2M), PG_VM_FALLBACK);
	CHECK_EQ(kind(&file, 0), PG_DAX_NONE);
	CHECK_EQ(fault_of(&p1, R2M), PG_VM_FALLBACK);
	CHECK_EQ(store(&p1, 600, 1), PG_VM_NOPAGE);
	for (uint64_t i = 0; i < 512; i++)
		CHECK_EQ(store(&p1, i, (unsigned char)i), PG_VM_NOPAGE);
	CHECK_EQ(file.block[511], file.block[1] + 510);
	unmap(&p1);
	map(&p1, &file);
	CHECK_EQ(pg_dax_writeback(&file.f, 0, FILE_PAGES), 0);
	CHECK_EQ(pg_dax_invalidate(&file.f, 0, FILE_PAGES), 0);
	CHECK_EQ(fault_of(&p1, R2M), PG_VM_FALLBACK);
	CHECK_EQ(fault_of(&p1, R4K), PG_VM_NOPAGE);
	close_one();
	/* A store to a private mapping. */
	open_one(FILE_PAGES, true);
	unmap(&p1);
	CHECK_EQ(pg_space_map(&p1, VA, FILE_PAGES, PG_AREA_DAX, RW,
			      &file.f.mapping, 0),
		 0);
	CHECK_EQ(fault_of(&p1, W2M), PG_VM_FALLBACK);
	CHECK_EQ(fault_of(&p1, W4K), PG_VM_SIGBUS);
	CHECK_EQ(load(&p1, 0), 0);
	CHECK_EQ(file.block[0], 0);
	close_one();
	/* 1 GB. */
	open_one(FILE_PAGES, true);
	pg_read_lock(&p1.lock, LOCK_MM);
	CHECK_EQ(file.f.mapping.ops->fault(pg_find_area(&p1, VA), VA, 0, PG_PUD,
					   true),
		 PG_VM_FALLBACK);
	pg_read_unlock(&p1.lock, LOCK_MM);
	close_one();
	/* What is no map for files. */
	m = map_new(PGMAP_GENERIC, 512);
	CHECK_EQ(pg_dax_init(&fs.dax, m, &fs_ops, NULL), -EINVAL);
	map_end(m);
	large.range[0] = (struct pgmap_range){PGMAP_FIRST_DEVICE_PFN, 512};
	CHECK_EQ(pgmap_create(&large, &m), 0);
	CHECK_EQ(pg_dax_init(&fs.dax, m, &fs_ops, NULL), -EINVAL);
	map_end(m);
}

static int no_block(struct fs_file *f, uint64_t index, unsigned int order)
{
	(void)f;
	(void)index;
	(void)order;
	return -ENOMEM;
}

TEST(R141_a_page_behind_the_last_that_a_file_can_have_is_a_bus_error)
{
	static const struct {
		uint64_t index;
		enum pg_fault_code code;
	} t[] = {
		{((uint64_t)1 << PG_RADIX_INDEX_BITS) - 1, PG_VM_OOM},
		{(uint64_t)1 << PG_RADIX_INDEX_BITS, PG_VM_SIGBUS},
		{(uint64_t)1 << (PG_RADIX_INDEX_BITS + 1), PG_VM_SIGBUS},
	};

	open_one(UINT64_MAX, false);
	fs.on_get = no_block;
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		unmap(&p1);
		CHECK_EQ(pg_space_map(&p1, VA, 1, PG_AREA_DAX, SHARED_RW,
				      &file.f.mapping, t[i].index),
			 0);
		CHECK_EQ(pg_touch(&p1, VA, false, NULL), t[i].code);
	}
	close_one();
}

TEST(N48_R141_a_file_that_is_mapped_at_another_colour_has_small_entries)
{
	NEEDS(PG_PMD);
	open_one(FILE_PAGES, true);
	unmap(&p1);
	CHECK_EQ(pg_space_map(&p1, VA + PAGE, 1024, PG_AREA_DAX, SHARED_RW,
			      &file.f.mapping, 0),
		 0);
	/* The first is in the middle of 2 MB of either. */
	for (uint64_t i = 1024 - 37 * 5; i < 1024; i -= 37) {
		uint64_t pfn;

		CHECK_EQ(pg_touch(&p1, AT(i + 1), true, &pfn), PG_VM_NOPAGE);
		CHECK_EQ(level_at(&p1, AT(i + 1)), PG_PTE);
		CHECK_EQ(pfn, fs.first + file.block[i]);
	}
	close_one();
}

static void look_at_block(struct fs_file *f, uint64_t index)
{
	/* The block is behind the page, and nobody holds it yet. */
	MUST(kind(f, index) == PG_DAX_PTE);
	MUST(pg_dax_nr_owners(&fs.dax, fs.first + f->block[index], NULL,
			      NULL) == 1);
	MUST(count_at(f->block[index]) == 0);
	MUST(entry(&p1, AT(index)) == 0);
}

TEST(R142_a_block_is_in_the_file_before_it_is_held_and_held_before_it_is_mapped)
{
	open_one(FILE_PAGES, false);
	fs.on_put = look_at_block;
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	CHECK_EQ(fs.used, 1);
	CHECK_EQ(count_at(file.block[7]), 1);
	CHECK_EQ(rec(fs.map, file.block[7])->mapping,
		 (uintptr_t)&file.f.mapping);
	CHECK_EQ(rec(fs.map, file.block[7])->index, 7);
	close_one();
}

TEST(N27_R143_a_hole_that_is_written_is_seen_by_who_has_read_it)
{
	NEEDS(PG_PMD);
	/* 4 KB, and 2 MB. */
	for (int large = 0; large < 2; large++) {
		enum pg_level level = large ? PG_PMD : PG_PTE;

		open_two(large ? FILE_PAGES : 511, large);
		CHECK_EQ(load(&p1, 5), 0);
		CHECK_EQ(kind(&file, 5), large ? PG_DAX_ZERO_PMD : PG_DAX_ZERO);
		CHECK_EQ(level_at(&p1, AT(5)), level);
		CHECK(entry(&p1, AT(5)) & PG_E_ZERO);
		CHECK_EQ(store(&p2, 5, 9), PG_VM_NOPAGE);
		CHECK_EQ(load(&p1, 5), 9);
		CHECK_EQ(page_at(&p1, AT(5)), page_at(&p2, AT(5)));
		CHECK_EQ(level_at(&p2, AT(5)), level);
		CHECK_EQ(count_at(file.block[large ? 0 : 5]), 2);
		close_two();
	}
}

/* ---- Synchronous faults ---- */

static int not_mapped_yet(struct fs_file *f, uint64_t index)
{
	MUST(!entry(&p1, AT(index)));
	MUST(kind(f, index) == PG_DAX_PTE);
	return 0;
}

static void open_sync(void)
{
	fs_open();
	fs_create(&file, FILE_PAGES, false);
	space_open(&p1, &file, SHARED_RW | PG_AREA_SYNC);
}

TEST(R144_a_block_is_durable_before_it_can_be_stored_to)
{
	open_sync();
	fs.on_sync = not_mapped_yet;
	CHECK_EQ(store(&p1, 3, 1), PG_VM_NOPAGE);
	CHECK_EQ(fs.syncs, 1);
	CHECK(is_dirty(&file, 3));
	/* Nothing to sync: a load; a store to what is durable. */
	CHECK_EQ(load(&p1, 3), 1);
	CHECK_EQ(load(&p1, 4), 0);
	unmap(&p1);
	map(&p1, &file);
	CHECK_EQ(store(&p1, 3, 1), PG_VM_NOPAGE);
	/* Somebody who did not ask for it. */
	CHECK_EQ(store(&p1, 4, 1), PG_VM_NOPAGE);
	CHECK_EQ(fs.syncs, 1);
	close_one();
}

static int drop_entry(struct fs_file *f, uint64_t index)
{
	if (fs.syncs > 1)
		return 0;
	MUST(!pg_dax_writeback(&f->f, index, 1));
	MUST(!pg_dax_invalidate(&f->f, index, 1));
	return 0;
}

static int no_sync(struct fs_file *f, uint64_t index)
{
	(void)f;
	(void)index;
	return -EIO;
}

static int no_sync_and_gone(struct fs_file *f, uint64_t index)
{
	drop_entry(f, index);
	return -EIO;
}

TEST(R144_an_entry_that_goes_during_a_sync_is_faulted_again)
{
	open_sync();
	fs.on_sync = drop_entry;
	CHECK_EQ(store(&p1, 3, 1), PG_VM_NOPAGE);
	CHECK_EQ(fs.syncs, 1);
	CHECK_EQ(fs.used, 2);
	CHECK(is_dirty(&file, 3));
	fs.on_sync = no_sync;
	CHECK_EQ(store(&p1, 4, 1), PG_VM_SIGBUS);
	CHECK_EQ(entry(&p1, AT(4)), 0);
	fs.syncs = 0;
	fs.on_sync = no_sync_and_gone;
	CHECK_EQ(store(&p1, 5, 1), PG_VM_SIGBUS);
	CHECK_EQ(kind(&file, 5), PG_DAX_NONE);
	close_one();
}

/* ---- Writing back ---- */

static bool is_on_medium(struct fs_file *f, uint64_t i, unsigned char v)
{
	return fs.medium[f->block[i] * PAGE + i % PAGE] == v;
}

TEST(R145_what_is_stored_is_dirty_until_it_is_written_back)
{
	NEEDS(PG_PMD);
	for (int large = 0; large < 2; large++) {
		open_two(FILE_PAGES, large);
		CHECK_EQ(load(&p1, 7), 0);
		CHECK(!is_dirty(&file, 7));
		CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
		CHECK_EQ(store(&p2, 7, 2), PG_VM_NOPAGE);
		CHECK(is_dirty(&file, 7));
		CHECK_EQ(pg_dax_writeback(&file.f, 7, 1), 0);
		CHECK(is_on_medium(&file, 7, 2));
		CHECK(!is_dirty(&file, 7));
		/* Every mapping of it, of any size, may only read. */
		CHECK(!(entry(&p1, AT(7)) & (PG_E_WRITE | PG_E_DIRTY)));
		CHECK(!(entry(&p2, AT(7)) & (PG_E_WRITE | PG_E_DIRTY)));
		CHECK_EQ(level_at(&p1, AT(7)), large ? PG_PMD : PG_PTE);
		/* Clean: nothing to do. */
		fs.flushes = 0;
		CHECK_EQ(pg_dax_writeback(&file.f, 0, FILE_PAGES), 0);
		CHECK_EQ(fs.flushes, 0);
		/* And dirty again. */
		CHECK_EQ(store(&p2, 7, 3), PG_VM_NOPAGE);
		CHECK(is_dirty(&file, 7));
		CHECK_EQ(pg_dax_writeback(&file.f, 0, FILE_PAGES), 0);
		CHECK(is_on_medium(&file, 7, 3));
		close_two();
	}
}

static unsigned int nr_stored;

/* The CPU stores where its page table lets it, without asking anybody. */
static int store_beside(uint64_t pfn)
{
	if (entry(&p1, AT(7)) & PG_E_WRITE && !nr_stored++)
		fs_mem(pfn)[7] = 42;
	return 0;
}

static int fail_once(uint64_t pfn)
{
	(void)pfn;
	return fs.flushes == 1 ? -EIO : 0;
}

TEST(N28_R145_a_store_beside_a_flush_is_not_lost)
{
	open_one(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	nr_stored = 0;
	fs.on_flush = store_beside;
	CHECK_EQ(pg_dax_writeback(&file.f, 0, FILE_PAGES), 0);
	/* It was not let, or the next writeback knows of it. */
	fs.on_flush = NULL;
	CHECK_EQ(pg_dax_writeback(&file.f, 0, FILE_PAGES), 0);
	CHECK(is_on_medium(&file, 7, nr_stored ? 42 : 1));
	CHECK_EQ(nr_stored, 0);
	close_one();
}

static void store_43(void)
{
	MUST(store(&p1, 7, 43) == PG_VM_NOPAGE);
}

static int fault_beside(uint64_t pfn)
{
	(void)pfn;
	if (!nr_stored++) {
		start(&job, store_43);
		is_stuck(&job);
	}
	return 0;
}

TEST(N28_R145_a_fault_beside_a_flush_waits_for_its_end)
{
	open_one(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	nr_stored = 0;
	fs.on_flush = fault_beside;
	CHECK_EQ(pg_dax_writeback(&file.f, 0, FILE_PAGES), 0);
	join(&job);
	CHECK(is_dirty(&file, 7));
	CHECK_EQ(pg_dax_writeback(&file.f, 0, FILE_PAGES), 0);
	CHECK(is_on_medium(&file, 7, 43));
	close_one();
}

TEST(N28_R145_what_could_not_be_flushed_stays_dirty)
{
	open_one(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	CHECK_EQ(store(&p1, 9, 1), PG_VM_NOPAGE);
	fs.on_flush = fail_once;
	CHECK_EQ(pg_dax_writeback(&file.f, 0, FILE_PAGES), -EIO);
	CHECK(is_dirty(&file, 7));
	CHECK(!is_dirty(&file, 9));
	CHECK_EQ(pg_dax_writeback(&file.f, 0, FILE_PAGES), 0);
	CHECK_EQ(fs.flushes, 3);
	CHECK(is_on_medium(&file, 7, 1));
	close_one();
}

TEST(N33_R164_what_a_device_stores_after_a_writeback_is_dirty_when_unpinned)
{
	struct pgmap_folio *folio;

	open_one(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	folio = pin(&p1, 7);
	CHECK(folio);
	CHECK_EQ(pg_dax_writeback(&file.f, 0, FILE_PAGES), 0);
	fs_mem(page_at(&p1, AT(7)))[7] = 99;
	/* What who unpins does. */
	pg_folio_mark(folio, PG_FOLIO_DIRTY);
	pgmap_folio_put(folio);
	CHECK(is_dirty(&file, 7));
	/* Also when the page is idle, and mapped again, in between. */
	unmap(&p1);
	CHECK(is_dirty(&file, 7));
	map(&p1, &file);
	CHECK_EQ(load(&p1, 7), 99);
	CHECK(is_dirty(&file, 7));
	CHECK_EQ(pg_dax_invalidate(&file.f, 7, 1), -EBUSY);
	CHECK_EQ(pg_dax_writeback(&file.f, 0, FILE_PAGES), 0);
	CHECK(is_on_medium(&file, 7, 99));
	CHECK(!is_dirty(&file, 7));
	close_one();
}

/* ---- Shared blocks ---- */

TEST(R146_a_store_to_a_shared_block_goes_to_a_copy_of_it)
{
	uint32_t block;

	open_two(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	fs_create(&other, FILE_PAGES, false);
	fs_reflink(&file, &other);
	block = file.block[7];
	/* One reads, the other writes, the third is the other file. */
	CHECK_EQ(load(&p1, 7), 1);
	CHECK(!(entry(&p1, AT(7)) & PG_E_WRITE));
	fs_mem(fs.first + block)[100] = 5;
	CHECK_EQ(store(&p2, 7, 2), PG_VM_NOPAGE);
	CHECK(file.block[7] != block);
	CHECK_EQ(other.block[7], block);
	CHECK_EQ(fs.refs[block], 1);
	CHECK_EQ(load(&p1, 7), 2);
	CHECK_EQ(fs_mem(page_at(&p1, AT(7)))[100], 5);
	CHECK(is_dirty(&file, 7));
	/* All of it but what was stored is on the medium, too. */
	CHECK_EQ(fs.medium[file.block[7] * PAGE + 100], 5);
	CHECK_EQ(fs.medium[file.block[7] * PAGE + 7], 1);
	unmap(&p2);
	map(&p2, &other);
	CHECK_EQ(load(&p2, 7), 1);
	/* It is the other's alone now. */
	CHECK_EQ(store(&p2, 7, 3), PG_VM_NOPAGE);
	CHECK_EQ(other.block[7], block);
	unmap(&p2);
	fs_unlink(&other);
	close_two();
}

TEST(R146_a_block_that_cannot_be_copied_is_not_stored_to)
{
	struct pg_dax_ops ops = fs_ops;

	open_one(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	fs_create(&other, FILE_PAGES, false);
	fs_reflink(&file, &other);
	ops.address = NULL;
	fs.dax.ops = &ops;
	CHECK_EQ(load(&p1, 7), 1);
	CHECK_EQ(store(&p1, 7, 2), PG_VM_SIGBUS);
	CHECK_EQ(fs.refs[file.block[7]], 2);
	fs.dax.ops = &fs_ops;
	CHECK_EQ(load(&p1, 7), 1);
	CHECK_EQ(store(&p1, 7, 2), PG_VM_NOPAGE);
	fs_unlink(&other);
	close_one();
}

TEST(R141_R146_shared_blocks_have_small_entries)
{
	NEEDS(PG_PMD);
	open_one(FILE_PAGES, true);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	CHECK_EQ(kind(&file, 7), PG_DAX_PMD);
	fs_create(&other, FILE_PAGES, true);
	fs_reflink(&file, &other);
	CHECK_EQ(load(&p1, 7), 1);
	CHECK_EQ(kind(&file, 7), PG_DAX_PTE);
	CHECK_EQ(store(&p1, 7, 2), PG_VM_NOPAGE);
	CHECK_EQ(store(&p1, 8, 3), PG_VM_NOPAGE);
	CHECK_EQ(load(&p1, 7), 2);
	space_open(&p2, &other, SHARED_RW);
	CHECK_EQ(load(&p2, 7), 1);
	CHECK_EQ(load(&p2, 8), 0);
	unmap(&p2);
	pg_space_fini(&p2);
	fs_unlink(&other);
	close_one();
}

static uint64_t owners(uint32_t block)
{
	return pg_dax_nr_owners(&fs.dax, fs.first + block, NULL, NULL);
}

TEST(R149_R150_a_block_knows_its_owner_or_how_many_there_are)
{
	struct pg_dax_file *f;
	uint64_t index;
	uint32_t block;
	struct fs_file third;

	open_one(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	block = file.block[7];
	CHECK_EQ(pg_dax_nr_owners(&fs.dax, fs.first + block, &f, &index), 1);
	CHECK(f == &file.f);
	CHECK_EQ(index, 7);
	fs_create(&other, FILE_PAGES, false);
	fs_create(&third, FILE_PAGES, false);
	fs_reflink(&file, &other);
	fs_reflink(&other, &third);
	CHECK_EQ(owners(block), 0);
	/* Each that has an entry counts, the first as well. */
	CHECK_EQ(load(&p1, 7), 1);
	space_open(&p2, &other, SHARED_RW);
	CHECK_EQ(load(&p2, 7), 1);
	CHECK_EQ(owners(block), 2);
	CHECK_EQ(pg_dax_nr_owners(&fs.dax, fs.first + block, &f, &index), 2);
	CHECK(!f);
	unmap(&p1);
	map(&p1, &third);
	CHECK_EQ(load(&p1, 7), 1);
	CHECK_EQ(owners(block), 3);
	/* The last one that goes leaves nothing. */
	unmap(&p2);
	fs_unlink(&other);
	CHECK_EQ(owners(block), 2);
	unmap(&p1);
	fs_unlink(&third);
	CHECK_EQ(owners(block), 1);
	CHECK_EQ(fs_punch(&file, 7, 1), 0);
	CHECK_EQ(owners(block), 0);
	CHECK_EQ(rec(fs.map, block)->mapping, 0);
	CHECK_EQ(rec(fs.map, block)->index, 0);
	pg_space_fini(&p2);
	map(&p1, &file);
	close_one();
}

TEST(R150_N25_the_last_owner_waits_for_who_holds_the_block)
{
	struct pgmap_folio *folio;

	open_one(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	fs_create(&other, FILE_PAGES, false);
	fs_reflink(&file, &other);
	CHECK_EQ(load(&p1, 7), 1);
	space_open(&p2, &other, SHARED_RW);
	CHECK_EQ(load(&p2, 7), 1);
	folio = pin(&p1, 7);
	CHECK(folio);
	/* It stays the other's: nothing happens to who holds it. */
	CHECK_EQ(fs_punch_at(&file, 7, 1, PG_BREAK_NOWAIT, NULL, NULL), 0);
	CHECK_EQ(fs_punch_at(&other, 7, 1, PG_BREAK_NOWAIT, NULL, NULL),
		 -EBUSY);
	CHECK_EQ(load(&p2, 7), 1);
	pgmap_folio_put(folio);
	CHECK_EQ(fs_punch_at(&other, 7, 1, PG_BREAK_NOWAIT, NULL, NULL), 0);
	unmap(&p2);
	pg_space_fini(&p2);
	fs_unlink(&other);
	close_one();
}

TEST(R150_a_copy_leaves_a_block_only_when_nobody_holds_it)
{
	struct pgmap_folio *folio;
	uint32_t block;

	open_one(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	fs_create(&other, FILE_PAGES, false);
	fs_reflink(&file, &other);
	CHECK_EQ(load(&p1, 7), 1);
	block = file.block[7];
	folio = pin(&p1, 7);
	/* The other has it, but no entry: here, this is the last owner. */
	fs.unused = 0;
	CHECK_EQ(fault_at(&p1, 7, true), PG_VM_RETRY);
	CHECK_EQ(file.block[7], block);
	CHECK_EQ(owners(block), 1);
	CHECK_EQ(fs.unused, 1);
	pgmap_folio_put(folio);
	CHECK_EQ(store(&p1, 7, 2), PG_VM_NOPAGE);
	CHECK(file.block[7] != block);
	CHECK_EQ(owners(block), 0);
	fs_unlink(&other);
	close_one();
}

#define SHARE_ROUNDS 20000
#define SHARE_SECONDS 5
static _Atomic(unsigned int) at_start;

static void share(struct fs_file *f, struct pg_space *s)
{
	time_t end = time(NULL) + SHARE_SECONDS;

	at_start++;
	while (at_start < 2)
		sched_yield();
	for (int i = 0; i < SHARE_ROUNDS && time(NULL) < end; i++) {
		MUST(load(s, 7) == 1);
		pg_write_lock(&f->f.mapping.invalidate, LOCK_INVALIDATE);
		MUST(!pg_break_layout(&f->f, 7, 1, 0, NULL));
		pg_write_unlock(&f->f.mapping.invalidate, LOCK_INVALIDATE);
	}
	MUST(load(s, 7) == 1);
}

static void share_file(void)
{
	share(&file, &p1);
}

static void share_other(void)
{
	share(&other, &p2);
}

TEST(N26_R151_two_files_take_and_leave_a_block_at_once)
{
	struct job a, b;
	uint32_t block;

	open_one(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	block = file.block[7];
	fs_create(&other, FILE_PAGES, false);
	fs_reflink(&file, &other);
	space_open(&p2, &other, SHARED_RW);
	at_start = 0;
	start(&a, share_file);
	start(&b, share_other);
	join(&a);
	join(&b);
	CHECK_EQ(owners(block), 2);
	CHECK_EQ(rec(fs.map, block)->mapping, 0);
	CHECK_EQ(count_at(block), 2);
	check(&p2);
	unmap(&p2);
	pg_space_fini(&p2);
	fs_unlink(&other);
	CHECK_EQ(owners(block), 1);
	close_one();
}

/* ---- Poison ---- */

TEST(R147_a_bad_block_is_a_bus_error_and_its_neighbours_are_not)
{
	NEEDS(PG_PMD);
	open_one(FILE_PAGES, true);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	CHECK_EQ(level_at(&p1, AT(7)), PG_PMD);
	unmap(&p1);
	map(&p1, &file);
	pg_pfn_poison(fs.map, fs.first + file.block[7], true);
	CHECK_EQ(load(&p1, 7), -(int)PG_VM_HWPOISON);
	CHECK_EQ(store(&p1, 7, 2), PG_VM_HWPOISON);
	CHECK_EQ(load(&p1, 6), 0);
	CHECK_EQ(store(&p1, 8, 1), PG_VM_NOPAGE);
	CHECK_EQ(level_at(&p1, AT(8)), PG_PTE);
	pg_pfn_poison(fs.map, fs.first + file.block[7], false);
	CHECK_EQ(load(&p1, 7), 1);
	close_one();
}

TEST(R147_a_block_that_goes_bad_while_it_is_held)
{
	struct pgmap_folio *folio;

	NEEDS(PG_PMD);
	open_one(FILE_PAGES, true);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	folio = pin(&p1, 7);
	CHECK(folio);
	/* What pg_memory_failure() does. */
	pg_pfn_poison(fs.map, fs.first + file.block[7], true);
	pg_folio_mark(folio, PG_FOLIO_POISON);
	pg_unmap_mapping_range(&file.f.mapping, 0, 512);
	CHECK_EQ(load(&p1, 7), -(int)PG_VM_HWPOISON);
	CHECK_EQ(load(&p1, 8), 0);
	CHECK_EQ(level_at(&p1, AT(8)), PG_PTE);
	pgmap_folio_put(folio);
	pg_pfn_poison(fs.map, fs.first + file.block[7], false);
	close_one();
}

struct owner {
	struct pg_dax_file *file;
	uint64_t index, count;
};
static struct owner owner[8];
static unsigned int nr_found;

static void found(struct pg_dax_file *f, uint64_t index, uint64_t count,
		  void *arg)
{
	CHECK(arg == owner);
	owner[nr_found++] = (struct owner){f, index, count};
}

TEST(R184_a_block_is_found_through_every_file_that_shares_it)
{
	open_one(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	CHECK_EQ(store(&p1, 8, 1), PG_VM_NOPAGE);
	fs_create(&other, FILE_PAGES, false);
	fs_reflink(&file, &other);
	CHECK_EQ(load(&p1, 7), 1);
	CHECK_EQ(load(&p1, 8), 1);
	space_open(&p2, &other, SHARED_RW);
	CHECK_EQ(load(&p2, 7), 1);
	nr_found = 0;
	pg_dax_for_each_owner(&fs.dax, fs.first + file.block[7], 1, found,
			      owner);
	CHECK_EQ(nr_found, 2);
	CHECK(owner[0].file != owner[1].file);
	CHECK_EQ(owner[0].index, 7);
	CHECK_EQ(owner[1].index, 7);
	CHECK_EQ(owner[1].count, 1);
	unmap(&p2);
	pg_space_fini(&p2);
	fs_unlink(&other);
	close_one();
	/* A part of a large one. */
	open_one(FILE_PAGES, true);
	CHECK_EQ(store(&p1, 520, 1), PG_VM_NOPAGE);
	nr_found = 0;
	pg_dax_for_each_owner(&fs.dax, fs.first + file.block[600], 9, found,
			      owner);
	if (pg_level_supported(PG_PMD)) {
		CHECK_EQ(nr_found, 1);
		CHECK_EQ(owner[0].index, 600);
		CHECK_EQ(owner[0].count, 9);
	}
	close_one();
}

/* ---- Taking blocks away ---- */

TEST(R148_only_what_is_clean_and_unused_is_forgotten)
{
	open_one(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	unmap(&p1);
	CHECK_EQ(pg_dax_invalidate(&file.f, 0, FILE_PAGES), -EBUSY);
	CHECK_EQ(kind(&file, 7), PG_DAX_PTE);
	CHECK_EQ(pg_dax_writeback(&file.f, 0, FILE_PAGES), 0);
	map(&p1, &file);
	CHECK_EQ(load(&p1, 7), 1);
	CHECK_EQ(pg_dax_invalidate(&file.f, 0, FILE_PAGES), -EBUSY);
	CHECK_EQ(kind(&file, 7), PG_DAX_PTE);
	unmap(&p1);
	CHECK_EQ(pg_dax_invalidate(&file.f, 0, FILE_PAGES), 0);
	CHECK_EQ(kind(&file, 7), PG_DAX_NONE);
	CHECK_EQ(owners(file.block[7]), 0);
	/* A hole that is mapped: who writes to it next knows of no other. */
	map(&p1, &file);
	CHECK_EQ(load(&p1, 9), 0);
	CHECK_EQ(pg_dax_invalidate(&file.f, 0, FILE_PAGES), 0);
	CHECK_EQ(entry(&p1, AT(9)), 0);
	close_one();
}

TEST(R148_a_shared_block_that_is_mapped_is_not_forgotten)
{
	open_two(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	fs_create(&other, FILE_PAGES, false);
	fs_reflink(&file, &other);
	CHECK_EQ(load(&p1, 7), 1);
	unmap(&p2);
	map(&p2, &other);
	CHECK_EQ(load(&p2, 7), 1);
	CHECK_EQ(owners(file.block[7]), 2);
	CHECK_EQ(pg_dax_invalidate(&file.f, 0, FILE_PAGES), -EBUSY);
	CHECK_EQ(kind(&file, 7), PG_DAX_PTE);
	/* So it is found when the block is written to. */
	CHECK_EQ(store(&p2, 7, 2), PG_VM_NOPAGE);
	CHECK_EQ(load(&p1, 7), 1);
	CHECK_EQ(store(&p1, 7, 3), PG_VM_NOPAGE);
	unmap(&p2);
	fs_unlink(&other);
	/* Nobody uses it any more. */
	CHECK_EQ(pg_dax_writeback(&file.f, 0, FILE_PAGES), 0);
	unmap(&p1);
	CHECK_EQ(pg_dax_invalidate(&file.f, 0, FILE_PAGES), 0);
	CHECK_EQ(kind(&file, 7), PG_DAX_NONE);
	close_two();
}

static struct pgmap_folio *_Atomic held;
static _Atomic(int) result;

static void punch_7(void)
{
	result = fs_punch(&file, 7, 1);
}

TEST(R152_a_break_waits_as_long_as_somebody_holds_a_page)
{
	struct pgmap_folio *folio;

	open_one(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	folio = pin(&p1, 7);
	CHECK(folio);
	CHECK_EQ(fs_punch_at(&file, 7, 1, PG_BREAK_NOWAIT, NULL, NULL), -EBUSY);
	CHECK_EQ(kind(&file, 7), PG_DAX_PTE);
	/* Elsewhere in the file nobody is in the way. */
	CHECK_EQ(fs_punch_at(&file, 8, FILE_PAGES, PG_BREAK_NOWAIT, NULL, NULL),
		 0);
	start(&job, punch_7);
	CHECK(is_stuck(&job));
	/* While it sleeps the file can be used; who maps the page is no
	 * obstacle when it wakes up. */
	CHECK_EQ(load(&p1, 7), 1);
	CHECK_EQ(store(&p1, 8, 1), PG_VM_NOPAGE);
	pgmap_folio_put(folio);
	join(&job);
	CHECK_EQ(result, 0);
	CHECK(fs.naps > 0);
	CHECK_EQ(file.block[7], 0);
	CHECK_EQ(entry(&p1, AT(7)), 0);
	CHECK_EQ(load(&p1, 7), 0);
	close_one();
}

/* Who is woken may find that another one holds the page by now. */
static void pin_again(bool sleeps)
{
	if (sleeps || held)
		return;
	MUST(load(&p1, 7) == 1);
	held = pin(&p1, 7);
	MUST(held);
}

TEST(R152_who_was_woken_looks_again)
{
	struct pgmap_folio *folio;

	open_one(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	folio = pin(&p1, 7);
	held = NULL;
	fs.on_relax = pin_again;
	start(&job, punch_7);
	CHECK(is_stuck(&job));
	pgmap_folio_put(folio);
	while (!held)
		usleep(100);
	CHECK(is_stuck(&job));
	CHECK_EQ(entry(&p1, AT(7)), 0);
	CHECK_EQ(fs_mem(fs.first + file.block[7])[7], 1);
	pgmap_folio_put(held);
	join(&job);
	CHECK_EQ(result, 0);
	close_one();
}

static pg_atomic32 cancel;

static void punch_cancelled(void)
{
	result = fs_punch_at(&file, 0, FILE_PAGES, 0, &cancel, NULL);
}

TEST(N50_R152_a_break_that_is_interrupted_changes_nothing)
{
	struct pgmap_folio *folio;

	open_one(FILE_PAGES, false);
	for (uint64_t i = 5; i < 10; i++)
		CHECK_EQ(store(&p1, i, (unsigned char)i), PG_VM_NOPAGE);
	folio = pin(&p1, 7);
	pg_store(&cancel, 0, relaxed);
	start(&job, punch_cancelled);
	CHECK(is_stuck(&job));
	pg_store(&cancel, 1, release);
	join(&job);
	CHECK_EQ(result, -EINTR);
	for (uint64_t i = 5; i < 10; i++) {
		CHECK_EQ(kind(&file, i), PG_DAX_PTE);
		CHECK(is_dirty(&file, i));
		CHECK_EQ(owners(file.block[i]), 1);
		CHECK_EQ(load(&p1, i), (int)i);
	}
	fs_check(&file);
	pgmap_folio_put(folio);
	pg_store(&cancel, 0, relaxed);
	CHECK_EQ(fs_punch_at(&file, 0, FILE_PAGES, 0, &cancel, NULL), 0);
	for (uint64_t i = 5; i < 10; i++)
		CHECK_EQ(load(&p1, i), 0);
	close_one();
}

TEST(R152_a_large_entry_goes_as_a_whole_and_what_stays_is_not_lost)
{
	NEEDS(PG_PMD);
	open_two(FILE_PAGES, true);
	CHECK_EQ(store(&p1, 520, 1), PG_VM_NOPAGE);
	CHECK_EQ(store(&p1, 900, 2), PG_VM_NOPAGE);
	CHECK_EQ(kind(&file, 520), PG_DAX_PMD);
	/* Another maps no more than a page of the half that stays. */
	unmap(&p2);
	CHECK_EQ(pg_space_map(&p2, AT(520), 1, PG_AREA_DAX, SHARED_RW,
			      &file.f.mapping, 520),
		 0);
	CHECK_EQ(load(&p2, 520), 1);
	alarm(30);
	/* Its second half. The first is on the medium afterwards: nobody
	 * knows any more that it was dirty. */
	CHECK_EQ(fs_punch(&file, 512 + 256, 256), 0);
	CHECK_EQ(kind(&file, 520), PG_DAX_NONE);
	CHECK_EQ(entry(&p1, AT(520)), 0);
	CHECK_EQ(entry(&p2, AT(520)), 0);
	CHECK(is_on_medium(&file, 520, 1));
	CHECK_EQ(load(&p1, 520), 1);
	CHECK_EQ(load(&p1, 900), 0);
	CHECK_EQ(level_at(&p1, AT(520)), PG_PTE);
	/* And truncation, with nothing to flush. */
	fs_truncate(&file, 520);
	CHECK_EQ(load(&p2, 520), -(int)PG_VM_SIGBUS);
	CHECK_EQ(load(&p1, 519), 0);
	close_two();
}

TEST(R152_what_stays_in_the_file_is_flushed_first)
{
	open_one(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	fs_create(&other, FILE_PAGES, false);
	fs_reflink(&file, &other);
	CHECK_EQ(kind(&file, 7), PG_DAX_NONE);
	CHECK(is_on_medium(&file, 7, 1));
	fs_unlink(&other);
	/* If that fails nothing is forgotten. */
	CHECK_EQ(store(&p1, 7, 2), PG_VM_NOPAGE);
	fs.flushes = 0;
	fs.on_flush = fail_once;
	pg_write_lock(&file.f.mapping.invalidate, LOCK_INVALIDATE);
	CHECK_EQ(pg_break_layout(&file.f, 0, FILE_PAGES, PG_BREAK_KEEP, NULL),
		 -EIO);
	CHECK_EQ(pg_break_layout(&file.f, 5, 0, 0, NULL), 0);
	CHECK_EQ(pg_break_layout(&file.f, UINT64_MAX, 1, 0, NULL), 0);
	pg_write_unlock(&file.f.mapping.invalidate, LOCK_INVALIDATE);
	CHECK(is_dirty(&file, 7));
	close_one();
}

static int fail_second(uint64_t pfn)
{
	(void)pfn;
	return fs.flushes == 2 ? -EIO : 0;
}

static int break_at(uint64_t i, uint64_t nr, uint32_t flags)
{
	int ret;

	pg_write_lock(&file.f.mapping.invalidate, LOCK_INVALIDATE);
	ret = pg_break_layout(&file.f, i, nr, flags, NULL);
	pg_write_unlock(&file.f.mapping.invalidate, LOCK_INVALIDATE);
	return ret;
}

TEST(R152_nothing_is_forgotten_before_all_is_flushed)
{
	open_one(FILE_PAGES, false);
	for (uint64_t i = 3; i < 6; i++)
		CHECK_EQ(store(&p1, i, 7), PG_VM_NOPAGE);
	fs.flushes = 0;
	fs.on_flush = fail_second;
	CHECK_EQ(break_at(0, FILE_PAGES, PG_BREAK_KEEP), -EIO);
	for (uint64_t i = 3; i < 6; i++) {
		CHECK_EQ(kind(&file, i), PG_DAX_PTE);
		CHECK_EQ(owners(file.block[i]), 1);
	}
	CHECK(!is_dirty(&file, 3));
	CHECK(is_dirty(&file, 4));
	CHECK(is_dirty(&file, 5));
	/* What is clean is not flushed again. */
	CHECK_EQ(break_at(0, FILE_PAGES, PG_BREAK_KEEP), 0);
	CHECK_EQ(fs.flushes, 4);
	for (uint64_t i = 3; i < 6; i++)
		CHECK_EQ(kind(&file, i), PG_DAX_NONE);
	close_one();
	if (!pg_level_supported(PG_PMD))
		return;
	/* A hole is not made, for what reaches out of it cannot be flushed:
	 * the other pages keep what was stored to them. */
	open_one(FILE_PAGES, true);
	CHECK_EQ(load(&p1, 3), 0);
	unmap(&p1);
	CHECK_EQ(pg_space_map(&p1, AT(3), 1024, PG_AREA_DAX, SHARED_RW,
			      &file.f.mapping, 3),
		 0);
	CHECK_EQ(store(&p1, 3, 7), PG_VM_NOPAGE);
	CHECK_EQ(store(&p1, 600, 7), PG_VM_NOPAGE);
	CHECK_EQ(kind(&file, 3), PG_DAX_PTE);
	CHECK_EQ(kind(&file, 600), PG_DAX_PMD);
	fs.flushes = 0;
	fs.on_flush = fail_once;
	CHECK_EQ(break_at(0, 600, 0), -EIO);
	CHECK(is_dirty(&file, 3));
	CHECK(is_dirty(&file, 600));
	close_one();
}

static void unlink_file(void)
{
	fs_unlink(&file);
}

TEST(N25_R153_a_file_that_nobody_maps_waits_for_who_pins_its_pages)
{
	struct pgmap_folio *folio;
	uint32_t block;

	open_one(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	block = file.block[7];
	folio = pin(&p1, 7);
	CHECK(folio);
	unmap(&p1);
	start(&job, unlink_file);
	CHECK(is_stuck(&job));
	CHECK_EQ(fs.refs[block], 1);
	CHECK_EQ(fs_mem(fs.first + block)[7], 1);
	pgmap_folio_put(folio);
	join(&job);
	CHECK_EQ(fs.refs[block], 0);
	pg_space_fini(&p1);
	fs_close();
}

/* The break is over, the blocks are not free yet. */
static void fault_between(void)
{
	start(&job, store_0);
	is_stuck(&job);
}

TEST(N49_R154a_no_fault_gets_in_before_the_blocks_are_free)
{
	uint64_t pfn;

	open_one(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 0, 7), PG_VM_NOPAGE);
	CHECK_EQ(fs_punch_at(&file, 0, 1, 0, NULL, fault_between), 0);
	join(&job);
	CHECK_EQ(pg_touch(&p1, AT(0), false, &pfn), PG_VM_NOPAGE);
	CHECK_EQ(pfn, fs.first + file.block[0]);
	CHECK_EQ(load(&p1, 0), 1);
	close_one();
}

/* ---- All at once ---- */

#define STRESS_PAGES 24u
#define STRESS_MS 400
static _Atomic(bool) stop;
static _Atomic(unsigned int) pinned, punched;
static _Atomic(unsigned int) nr_threads;

/* While it is pinned the page is the file's, and not free. */
static void use_pages(void)
{
	uint64_t seed = 12345 + nr_threads++;
	struct pg_space *s = seed % 2 ? &p1 : &p2;

	while (!stop) {
		uint64_t i = test_random(&seed) % STRESS_PAGES;
		bool write = test_random(&seed) % 2;
		enum pg_fault_code code = touch(s, i, write, NULL);
		struct pgmap_folio *folio;
		unsigned char *mem;

		MUST(code == PG_VM_NOPAGE || code == PG_VM_RETRY);
		folio = pin(s, i);
		if (!folio)
			continue;
		pinned++;
		mem = fs_mem(pgmap_folio_pfn(folio)) +
		      (i % (1u << pgmap_folio_order(folio))) * PAGE;
		for (int k = 0; k < 20; k++)
			MUST(*(volatile unsigned char *)mem != FREE_BYTE);
		pgmap_folio_put(folio);
	}
}

static void punch_pages(void)
{
	uint64_t seed = 777;

	while (!stop) {
		uint64_t i = test_random(&seed) % STRESS_PAGES;

		MUST(!fs_punch(&file, i, 1 + test_random(&seed) % 4));
		punched++;
		if (punched % 8 == 0)
			MUST(!pg_dax_writeback(&file.f, 0, STRESS_PAGES));
		if (punched % 16 == 0)
			pg_dax_invalidate(&file.f, 0, STRESS_PAGES);
	}
}

TEST(N29_N49_R154_what_is_held_is_never_free)
{
	struct job user[2], puncher;

	open_two(FILE_PAGES, true);
	stop = false;
	pinned = punched = nr_threads = 0;
	start(&user[0], use_pages);
	start(&user[1], use_pages);
	start(&puncher, punch_pages);
	usleep(STRESS_MS * 1000);
	stop = true;
	join(&user[0]);
	join(&user[1]);
	join(&puncher);
	printf("# pinned %u, punched %u\n", pinned, punched);
	CHECK(pinned);
	CHECK(punched);
	close_two();
}

/* The litmus of R154 alone: one page, pin against break. */
#define LITMUS_ROUNDS 20000
#define LITMUS_SECONDS 3
static _Atomic(int) litmus_ready, litmus_round, litmus_decided;
static _Atomic(bool) granted;

static void wait_for(_Atomic(int) *word, int value)
{
	for (int spin = 0; *word != value && *word >= 0; spin++)
		if (spin > 5000)
			sched_yield();
}

static void litmus_pin(void)
{
	for (int r = 1; litmus_round >= 0; r++) {
		struct pgmap_folio *folio;

		litmus_ready = r;
		wait_for(&litmus_round, r);
		folio = pin(&p1, 0);
		wait_for(&litmus_decided, r);
		if (folio) {
			/* Ours: so nobody else may have been given it. */
			MUST(!granted);
			pinned++;
			pgmap_folio_put(folio);
		}
	}
}

TEST(N29_R154_either_the_break_sees_the_pin_or_the_pin_sees_the_break)
{
	uint64_t seed = test_seed();
	unsigned int won = 0;
	time_t end = time(NULL) + LITMUS_SECONDS;
	int r;

	open_one(FILE_PAGES, false);
	pinned = 0;
	litmus_ready = litmus_round = litmus_decided = 0;
	granted = false;
	start(&job, litmus_pin);
	for (r = 1; r <= LITMUS_ROUNDS && time(NULL) < end; r++) {
		int ret;

		wait_for(&litmus_ready, r);
		granted = false;
		CHECK_EQ(store(&p1, 0, 1), PG_VM_NOPAGE);
		pg_write_lock(&file.f.mapping.invalidate, LOCK_INVALIDATE);
		litmus_round = r;
		for (volatile uint64_t k = test_random(&seed) % 400; k; k--)
			;
		ret = pg_break_layout(&file.f, 0, 1, PG_BREAK_NOWAIT, NULL);
		granted = !ret;
		won += !ret;
		litmus_decided = r;
		pg_write_unlock(&file.f.mapping.invalidate, LOCK_INVALIDATE);
	}
	litmus_decided = litmus_round = -1;
	join(&job);
	printf("# pinned %u, granted %u of %d\n", pinned, won, r - 1);
	close_one();
}

/* ---- The device goes ---- */

TEST(R23_R154b_R186_what_is_removed_is_unmapped_and_stays_so)
{
	struct pgmap_folio *folio;
	uint32_t block[3];

	open_two(FILE_PAGES, false);
	for (uint64_t i = 0; i < 3; i++)
		CHECK_EQ(store(&p1, i, (unsigned char)(i + 1)), PG_VM_NOPAGE);
	CHECK_EQ(load(&p2, 1), 2);
	CHECK_EQ(load(&p2, 8), 0);
	memcpy(block, file.block, sizeof(block));
	folio = pin(&p1, 1);
	CHECK_EQ(pg_dax_remove(&fs.dax, fs.first + block[1], 1), 0);
	CHECK_EQ(entry(&p1, AT(1)), 0);
	CHECK_EQ(entry(&p2, AT(1)), 0);
	CHECK(is_on_medium(&file, 1, 2));
	CHECK_EQ(load(&p1, 1), -(int)PG_VM_SIGBUS);
	CHECK_EQ(store(&p2, 1, 1), PG_VM_SIGBUS);
	CHECK_EQ(kind(&file, 1), PG_DAX_NONE);
	CHECK_EQ(owners(block[1]), 0);
	/* The rest goes on. */
	CHECK_EQ(load(&p1, 0), 1);
	CHECK_EQ(load(&p2, 2), 3);
	pgmap_folio_put(folio);
	for (int i = 1; i < (int)PG_DAX_MAX_GONE; i++)
		CHECK_EQ(pg_dax_remove(&fs.dax, fs.first + 4000, 1), 0);
	CHECK_EQ(pg_dax_remove(&fs.dax, fs.first + 4000, 1), -ENOSPC);
	close_two();
}

TEST(R154b_a_flush_that_fails_holds_no_removal_back)
{
	open_one(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	CHECK_EQ(store(&p1, 8, 1), PG_VM_NOPAGE);
	fs.flushes = 0;
	fs.on_flush = fail_once;
	CHECK_EQ(pg_dax_remove(&fs.dax, fs.first, FS_BLOCKS), -EIO);
	CHECK_EQ(fs.flushes, 2);
	CHECK_EQ(kind(&file, 7), PG_DAX_NONE);
	CHECK_EQ(nr_entries(&p1), 0);
	close_one();
}

/* A medium that takes no flush with a page that is bad, or one of these. */
static uint64_t refused, nr_refused;

static int flush_refusing(struct pg_dax *dax, uint64_t pfn, uint64_t nr)
{
	if (refused < pfn + nr && pfn < refused + nr_refused)
		return -EIO;
	for (uint64_t k = pfn; k < pfn + nr; k++)
		if (pg_pfn_poisoned(dax->map, k))
			return -EIO;
	return fs_flush(dax, pfn, nr);
}

static struct pg_dax_ops refusing(uint64_t pfn, uint64_t nr)
{
	struct pg_dax_ops ops = fs_ops;

	refused = pfn;
	nr_refused = nr;
	ops.flush = flush_refusing;
	return ops;
}

TEST(R154b_a_large_block_of_which_a_page_is_removed_goes_on_in_small_ones)
{
	NEEDS(PG_PMD);
	open_two(FILE_PAGES, true);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	CHECK_EQ(load(&p2, 7), 1);
	CHECK_EQ(level_at(&p2, AT(7)), PG_PMD);
	CHECK_EQ(pg_dax_remove(&fs.dax, fs.first + file.block[5], 1), 0);
	CHECK_EQ(nr_entries(&p1) + nr_entries(&p2), 0);
	CHECK_EQ(kind(&file, 7), PG_DAX_NONE);
	CHECK(is_on_medium(&file, 7, 1));
	CHECK_EQ(load(&p1, 7), 1);
	CHECK_EQ(store(&p2, 0, 2), PG_VM_NOPAGE);
	CHECK_EQ(store(&p2, 511, 3), PG_VM_NOPAGE);
	CHECK_EQ(level_at(&p2, AT(0)), PG_PTE);
	CHECK_EQ(load(&p1, 5), -(int)PG_VM_SIGBUS);
	CHECK_EQ(store(&p2, 5, 1), PG_VM_SIGBUS);
	/* Its neighbour is whole. */
	CHECK_EQ(store(&p1, 600, 1), PG_VM_NOPAGE);
	CHECK_EQ(level_at(&p1, AT(600)), PG_PMD);
	close_two();
}

TEST(R150_R154b_what_is_pinned_with_a_removed_page_stays_the_files)
{
	struct pgmap_folio *folio;
	uint32_t block;

	NEEDS(PG_PMD);
	open_two(FILE_PAGES, true);
	alarm(30);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	block = file.block[0];
	folio = pin(&p1, 7);
	CHECK(folio);
	CHECK_EQ(pg_dax_remove(&fs.dax, fs.first + block + 5, 1), 0);
	CHECK_EQ(nr_entries(&p1), 0);
	CHECK_EQ(owners(block), 1);
	CHECK(!is_dirty(&file, 7));
	CHECK_EQ(fs_punch_at(&file, 7, 1, PG_BREAK_NOWAIT, NULL, NULL), -EBUSY);
	/* The pages that stay can be used meanwhile, the first one, too. */
	CHECK_EQ(load(&p2, 7), 1);
	CHECK_EQ(store(&p2, 0, 2), PG_VM_NOPAGE);
	CHECK_EQ(level_at(&p2, AT(0)), PG_PTE);
	CHECK_EQ(load(&p2, 5), -(int)PG_VM_SIGBUS);
	CHECK(is_dirty(&file, 7));
	fs_check(&file);
	pg_folio_mark(folio, PG_FOLIO_DIRTY);
	pgmap_folio_put(folio);
	/* Idle, it is taken apart: nobody gets the removed page with it. */
	unmap(&p2);
	map(&p2, &file);
	CHECK_EQ(kind(&file, 7), PG_DAX_PMD);
	CHECK_EQ(load(&p2, 7), 1);
	CHECK_EQ(kind(&file, 7), PG_DAX_PTE);
	CHECK_EQ(kind(&file, 0), PG_DAX_NONE);
	CHECK(is_on_medium(&file, 0, 2));
	CHECK_EQ(count_at(block), 0);
	CHECK_EQ(count_at(block + 7), 1);
	CHECK_EQ(load(&p2, 5), -(int)PG_VM_SIGBUS);
	CHECK_EQ(load(&p2, 0), 2);
	CHECK_EQ(fs_punch_at(&file, 7, 1, PG_BREAK_NOWAIT, NULL, NULL), 0);
	close_two();
}

TEST(R154b_a_removed_page_that_cannot_be_flushed_holds_no_other_back)
{
	struct pg_dax_ops ops;
	struct pgmap_folio *folio;

	NEEDS(PG_PMD);
	open_one(FILE_PAGES, true);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	ops = refusing(fs.first + file.block[5], 1);
	fs.dax.ops = &ops;
	folio = pin(&p1, 7);
	CHECK(folio);
	CHECK_EQ(pg_dax_remove(&fs.dax, fs.first + file.block[5], 1), -EIO);
	CHECK(is_on_medium(&file, 7, 1));
	CHECK(!is_dirty(&file, 7));
	CHECK_EQ(store(&p1, 8, 2), PG_VM_NOPAGE);
	CHECK_EQ(pg_dax_writeback(&file.f, 0, FILE_PAGES), 0);
	CHECK(is_on_medium(&file, 8, 2));
	CHECK(!is_dirty(&file, 8));
	/* One that stays: what was stored is not forgotten. */
	CHECK_EQ(store(&p1, 8, 3), PG_VM_NOPAGE);
	pgmap_folio_put(folio);
	nr_refused = 8;
	CHECK_EQ(pg_dax_remove(&fs.dax, fs.first + file.block[6], 1), -EIO);
	CHECK_EQ(kind(&file, 8), PG_DAX_PMD);
	CHECK(is_dirty(&file, 8));
	CHECK_EQ(load(&p1, 8), -(int)PG_VM_SIGBUS);
	nr_refused = 0;
	CHECK_EQ(load(&p1, 8), 3);
	CHECK_EQ(kind(&file, 8), PG_DAX_PTE);
	CHECK(is_on_medium(&file, 8, 3));
	close_one();
}

TEST(R154b_only_pages_that_there_can_be_are_removed)
{
	open_one(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	CHECK_EQ(pg_dax_remove(&fs.dax, fs.first, UINT64_MAX), -EINVAL);
	CHECK_EQ(pg_dax_remove(&fs.dax, fs.first, UINT64_MAX - fs.first + 1),
		 -EINVAL);
	CHECK_EQ(pg_dax_remove(&fs.dax, fs.first + file.block[7], 0), 0);
	CHECK(entry(&p1, AT(7)));
	CHECK_EQ(load(&p1, 7), 1);
	/* None of them takes a place. */
	CHECK_EQ(pg_load(&fs.dax.nr_gone, relaxed), 0);
	/* The last that can be named. */
	CHECK_EQ(pg_dax_remove(&fs.dax, fs.first, UINT64_MAX - fs.first), 0);
	CHECK_EQ(entry(&p1, AT(7)), 0);
	CHECK_EQ(load(&p1, 7), -(int)PG_VM_SIGBUS);
	close_one();
}

static _Atomic(bool) removed;

static void destroy_map(void)
{
	pgmap_kill(fs.map);
	MUST(!pg_dax_remove(&fs.dax, fs.first, FS_BLOCKS));
	removed = true;
	MUST(!pgmap_destroy(fs.map));
}

TEST(N44_R154b_a_device_that_goes_leaves_no_mapping)
{
	struct pgmap_folio *folio;

	open_two(FILE_PAGES, true);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	CHECK_EQ(store(&p2, 600, 1), PG_VM_NOPAGE);
	folio = pin(&p1, 7);
	removed = false;
	start(&job, destroy_map);
	while (!removed)
		usleep(100);
	/* It waits for the pin, and for no mapping. */
	CHECK(is_stuck(&job));
	CHECK_EQ(nr_entries(&p1) + nr_entries(&p2), 0);
	CHECK_EQ(load(&p1, 7), -(int)PG_VM_SIGBUS);
	CHECK_EQ(store(&p2, 1000, 1), PG_VM_SIGBUS);
	pgmap_folio_put(folio);
	join(&job);
	CHECK_EQ(load(&p1, 7), -(int)PG_VM_SIGBUS);
	/* The file outlives the device. */
	unmap(&p1);
	unmap(&p2);
	pg_space_fini(&p1);
	pg_space_fini(&p2);
	pg_dax_file_fini(&file.f);
	pg_dax_fini(&fs.dax);
	alarm(0);
}

TEST(R165_a_dying_map_is_mapped_no_more)
{
	struct pgmap_folio *folio;

	open_one(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	pgmap_kill(fs.map);
	/* By what is mapped it can be pinned. */
	folio = pin(&p1, 7);
	CHECK(folio);
	unmap(&p1);
	map(&p1, &file);
	CHECK_EQ(load(&p1, 7), -(int)PG_VM_SIGBUS);
	pgmap_folio_put(folio);
	CHECK_EQ(load(&p1, 7), -(int)PG_VM_SIGBUS);
	close_one();
}

/* ---- What others do meanwhile ---- */

static struct pg_map_range *claims_of(uint32_t block, uint64_t *i)
{
	struct pg_map_range *r = pg_map_range_of(fs.map, fs.first + block);

	*i = fs.first + block - pg_load(&r->pfn, relaxed);
	return r;
}

static void load_p2_7(void)
{
	MUST(load(&p2, 7) == 1);
}

TEST(R41_a_block_that_is_just_being_freed_is_not_idle_yet)
{
	struct pg_map_range *r;
	uint64_t i;

	open_one(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	fs_create(&other, FILE_PAGES, false);
	fs_reflink(&file, &other);
	CHECK_EQ(load(&p1, 7), 1);
	pg_unmap_mapping_range(&file.f.mapping, 0, FILE_PAGES);
	/* The last put has made the count 0, and goes on. */
	r = claims_of(file.block[7], &i);
	CHECK_EQ(pg_range_claim(r, i, 1), 0);
	pg_write_lock(&file.f.mapping.invalidate, LOCK_INVALIDATE);
	CHECK_EQ(pg_break_layout(&file.f, 7, 1, PG_BREAK_NOWAIT, NULL), -EBUSY);
	pg_write_unlock(&file.f.mapping.invalidate, LOCK_INVALIDATE);
	CHECK_EQ(fault_at(&p1, 7, false), PG_VM_RETRY);
	/* A second owner would write to a record that is not his. */
	space_open(&p2, &other, SHARED_RW);
	start(&job, load_p2_7);
	CHECK(is_stuck(&job));
	pg_range_unclaim(r, i, 1);
	join(&job);
	CHECK_EQ(owners(file.block[7]), 2);
	unmap(&p2);
	pg_space_fini(&p2);
	fs_unlink(&other);
	close_one();
}

static void touch_0(void)
{
	MUST(touch(&p1, 0, true, NULL) == PG_VM_NOPAGE);
}

static void write_back(void)
{
	MUST(!pg_dax_writeback(&file.f, 0, UINT64_MAX));
}

TEST(R140_who_looks_for_entries_waits_for_those_that_are_decided_on)
{
	struct job second;
	const char *what;

	open_one(FILE_PAGES, false);
	parked = go = false;
	fs.on_get = park_small;
	start(&job, touch_0);
	wait_parked();
	CHECK_EQ(kind(&file, 0), PG_DAX_NONE);
	CHECK_EQ(pg_dax_check(&file.f, &what), -EUCLEAN);
	start(&second, write_back);
	CHECK(is_stuck(&second));
	go = true;
	join(&job);
	join(&second);
	CHECK(fs.flushes >= 1);
	close_one();
}

/* Page 7 is somewhere else now, or nowhere. */
static bool to_hole;

static void move_7(void)
{
	uint32_t old = file.block[7];

	pthread_mutex_lock(&fs.lock);
	file.block[7] = 0;
	fs_free(old);
	fs.refs[old]++; /* keep it from being found again */
	if (!to_hole)
		file.block[7] = fs_alloc(1);
	fs.refs[old]--;
	pthread_mutex_unlock(&fs.lock);
	MUST(load(&p2, 7) == 0);
}

static int move_entry(struct fs_file *f, uint64_t index)
{
	if (fs.syncs > 1)
		return 0;
	MUST(index == 7);
	drop_entry(f, index);
	start(&job, move_7);
	join(&job);
	return 0;
}

TEST(R144_a_block_that_changes_during_a_sync_is_faulted_again)
{
	for (int hole = 0; hole < 2; hole++) {
		open_sync();
		space_open(&p2, &file, SHARED_RW);
		/* So that there is no large hole. */
		CHECK_EQ(store(&p2, 9, 1), PG_VM_NOPAGE);
		to_hole = hole;
		fs.on_sync = move_entry;
		CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
		CHECK_EQ(load(&p2, 7), 1);
		CHECK_EQ(page_at(&p1, AT(7)), fs.first + file.block[7]);
		close_two();
	}
}

static struct pgmap_folio *pin_of_7;

static void other_lets_go(void)
{
	MUST(!fs_punch_at(&other, 7, 1, PG_BREAK_NOWAIT, NULL, NULL));
}

static int other_goes(uint64_t pfn)
{
	struct job j;

	(void)pfn;
	if (fs.flushes == 1) {
		start(&j, other_lets_go);
		join(&j);
	}
	return 0;
}

static void break_now(void)
{
	pg_write_lock(&file.f.mapping.invalidate, LOCK_INVALIDATE);
	result = pg_break_layout(&file.f, 0, FILE_PAGES,
				 PG_BREAK_KEEP | PG_BREAK_NOWAIT, &cancel);
	pg_write_unlock(&file.f.mapping.invalidate, LOCK_INVALIDATE);
}

/* Page 7 is shared, and pinned; the other owner leaves during the break. */
static void open_leaving(void)
{
	open_one(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	fs_create(&other, FILE_PAGES, false);
	fs_reflink(&file, &other);
	CHECK_EQ(load(&p1, 7), 1);
	space_open(&p2, &other, SHARED_RW);
	CHECK_EQ(load(&p2, 7), 1);
	CHECK_EQ(owners(file.block[7]), 2);
	pin_of_7 = pin(&p1, 7);
	pg_store(&cancel, 1, relaxed);
	fs.flushes = 0;
	fs.on_flush = other_goes;
}

static void close_leaving(void)
{
	CHECK_EQ(owners(file.block[7]), 0);
	unmap(&p2);
	pg_space_fini(&p2);
	fs_unlink(&other);
	close_one();
}

TEST(R150_R152_who_becomes_the_last_owner_during_a_break_waits)
{
	open_leaving();
	/* Before anything is forgotten there is a way back. */
	pg_folio_mark(pin_of_7, PG_FOLIO_DIRTY);
	break_now();
	CHECK_EQ(result, -EBUSY);
	CHECK_EQ(kind(&file, 7), PG_DAX_PTE);
	CHECK_EQ(owners(file.block[7]), 1);
	pgmap_folio_put(pin_of_7);
	break_now();
	CHECK_EQ(result, 0);
	close_leaving();

	open_leaving();
	/* Afterwards there is none. */
	CHECK_EQ(store(&p1, 5, 1), PG_VM_NOPAGE);
	start(&job, break_now);
	CHECK(is_stuck(&job));
	pgmap_folio_put(pin_of_7);
	join(&job);
	CHECK_EQ(result, 0);
	CHECK(is_on_medium(&file, 5, 1));
	close_leaving();
}

/* ---- What a file system may say ---- */

static uint32_t say_block;
static uint32_t say_flags;

static void say_a_hole(struct fs_file *f, uint64_t index, unsigned int order,
		       bool write, struct pg_dax_block *b)
{
	(void)f;
	(void)index;
	(void)order;
	(void)write;
	b->pfn = 0;
}

static void say_shared(struct fs_file *f, uint64_t index, unsigned int order,
		       bool write, struct pg_dax_block *b)
{
	say_a_hole(f, index, order, write, b);
	b->pfn = fs.first + f->block[index];
	b->flags |= PG_BLOCK_SHARED;
}

TEST(a_file_system_that_contradicts_itself_is_a_bus_error)
{
	open_one(FILE_PAGES, false);
	fs.on_block = say_a_hole;
	CHECK_EQ(fault_at(&p1, 3, true), PG_VM_SIGBUS);
	fs.on_block = NULL;
	CHECK_EQ(store(&p1, 4, 1), PG_VM_NOPAGE);
	fs.on_block = say_a_hole;
	CHECK_EQ(fault_at(&p1, 4, false), PG_VM_SIGBUS);
	fs.on_block = say_shared;
	CHECK_EQ(fault_at(&p1, 4, true), PG_VM_SIGBUS);
	fs.on_block = NULL;
	CHECK_EQ(load(&p1, 4), 1);
	close_one();
}

/* Another block is behind the page: what it has is copied. */
static void say_moved(struct fs_file *f, uint64_t index, unsigned int order,
		      bool write, struct pg_dax_block *b)
{
	(void)order;
	(void)write;
	if (index != 7 || f->block[7] == say_block)
		return;
	pthread_mutex_lock(&fs.lock);
	say_block = fs_alloc(1);
	pthread_mutex_unlock(&fs.lock);
	b->copy = b->pfn;
	b->pfn = fs.first + say_block;
	b->nr = 1;
	b->flags = say_flags;
}

static int fail_flush(uint64_t pfn)
{
	return pfn == fs.first + file.block[0] ? -EIO : 0;
}

TEST(R140_a_large_block_of_which_a_page_moves_is_taken_apart)
{
	uint32_t first;

	NEEDS(PG_PMD);
	open_two(FILE_PAGES, true);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	CHECK_EQ(store(&p1, 8, 2), PG_VM_NOPAGE);
	first = file.block[0];
	say_block = 0;
	fs.on_block = say_moved;
	/* What was stored to the others must not be forgotten. */
	fs.on_flush = fail_flush;
	CHECK_EQ(fault_at(&p2, 7, true), PG_VM_SIGBUS);
	CHECK_EQ(kind(&file, 7), PG_DAX_PMD);
	CHECK(is_dirty(&file, 7));
	fs.on_flush = NULL;
	CHECK_EQ(fault_at(&p2, 7, true), PG_VM_NOPAGE);
	CHECK(is_on_medium(&file, 8, 2));
	CHECK_EQ(kind(&file, 7), PG_DAX_PTE);
	CHECK_EQ(kind(&file, 8), PG_DAX_NONE);
	CHECK_EQ(file.block[7], say_block);
	CHECK_EQ(file.block[8], first + 8);
	CHECK_EQ(owners(first), 0);
	CHECK_EQ(load(&p1, 7), 1);
	CHECK_EQ(load(&p1, 8), 2);
	close_two();
}

TEST(R140_taking_a_large_block_apart_may_lack_memory)
{
	uint32_t fresh;

	NEEDS(PG_PMD);
	open_two(FILE_PAGES, true);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	say_block = 0;
	fs.on_block = say_moved;
	fresh = fs.dax.nodes.nr_fresh;
	fs.dax.nodes.free = NULL;
	fs.dax.nodes.nr_fresh = 0;
	pg_mem_fail_nth(1);
	CHECK_EQ(fault_at(&p2, 7, true), PG_VM_OOM);
	pg_mem_fail_nth(0);
	fs.dax.nodes.nr_fresh = fresh;
	CHECK_EQ(kind(&file, 7), PG_DAX_NONE);
	CHECK_EQ(fs.refs[say_block], 0);
	fs.on_block = NULL;
	CHECK_EQ(load(&p1, 7), 1);
	close_two();
}

TEST(R147_a_large_block_with_a_bad_page_is_taken_apart)
{
	NEEDS(PG_PMD);
	open_two(FILE_PAGES, true);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	unmap(&p1);
	map(&p1, &file);
	pg_pfn_poison(fs.map, fs.first + file.block[9], true);
	/* What was stored to the others is flushed, or it stays as it is. */
	fs.on_flush = fail_flush;
	CHECK_EQ(fault_at(&p1, 7, false), PG_VM_SIGBUS);
	CHECK_EQ(kind(&file, 7), PG_DAX_PMD);
	fs.on_flush = NULL;
	CHECK_EQ(fault_at(&p1, 7, false), PG_VM_RETRY);
	CHECK_EQ(kind(&file, 7), PG_DAX_NONE);
	CHECK(is_on_medium(&file, 7, 1));
	CHECK_EQ(fault_at(&p1, 7, false), PG_VM_NOPAGE);
	CHECK_EQ(load(&p2, 7), 1);
	CHECK_EQ(load(&p2, 9), -(int)PG_VM_HWPOISON);
	pg_pfn_poison(fs.map, fs.first + file.block[9], false);
	close_two();
}

TEST(R147_a_bad_page_that_cannot_be_flushed_takes_no_other_with_it)
{
	struct pg_dax_ops ops;

	NEEDS(PG_PMD);
	open_two(FILE_PAGES, true);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	CHECK_EQ(store(&p1, 511, 2), PG_VM_NOPAGE);
	unmap(&p1);
	map(&p1, &file);
	ops = refusing(0, 0);
	fs.dax.ops = &ops;
	pg_pfn_poison(fs.map, fs.first + file.block[9], true);
	/* Nobody is told that all of it is on the medium. */
	CHECK_EQ(pg_dax_writeback(&file.f, 0, FILE_PAGES), -EIO);
	CHECK(is_dirty(&file, 7));
	CHECK_EQ(load(&p1, 7), 1);
	CHECK_EQ(kind(&file, 7), PG_DAX_PTE);
	CHECK(is_on_medium(&file, 7, 1));
	CHECK(is_on_medium(&file, 511, 2));
	CHECK_EQ(load(&p2, 511), 2);
	CHECK_EQ(store(&p2, 9, 1), PG_VM_HWPOISON);
	pg_pfn_poison(fs.map, fs.first + file.block[9], false);
	close_two();
}

TEST(a_file_system_need_not_do_all)
{
	static const struct pg_dax_ops ops = {
		.get_block = fs_get_block,
		.flush = fs_flush,
	};
	struct pgmap_folio *folio;

	open_sync();
	fs.dax.ops = &ops;
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	folio = pin(&p1, 7);
	start(&job, punch_7);
	CHECK(is_stuck(&job));
	pgmap_folio_put(folio);
	join(&job);
	CHECK_EQ(result, 0);
	CHECK_EQ(pg_dax_writeback(&file.f, 0, 0), 0);
	CHECK_EQ(pg_dax_invalidate(&file.f, 0, 0), 0);
	close_one();
}

/* ---- The check ---- */

#define RAW(pfn, bits) ((pfn) << 8 | 1 | (bits))

TEST(the_check_notices_what_is_wrong)
{
	const char *what;
	struct pgmap_folio *r;
	uint64_t pfn;

	open_one(FILE_PAGES, false);
	CHECK_EQ(store(&p1, 7, 1), PG_VM_NOPAGE);
	pfn = fs.first + file.block[7];
	r = pg_map_folio(fs.map, pfn);
	CHECK_EQ(pg_dax_check(&file.f, &what), 0);
	r->mapping = 0;
	r->index = 0;
	CHECK_EQ(pg_dax_check(&file.f, &what), -EUCLEAN);
	r->mapping = (uintptr_t)&other.f.mapping;
	CHECK_EQ(pg_dax_check(&file.f, &what), -EUCLEAN);
	r->mapping = (uintptr_t)&file.f.mapping;
	CHECK_EQ(pg_dax_check(&file.f, &what), -EUCLEAN);
	r->index = 7;
	CHECK_EQ(pg_dax_check(&file.f, &what), 0);
	/* A dirty hole; a large block where none can be. */
	CHECK_EQ(pg_radix_set(&file.f.tree, 8, 0, RAW((uint64_t)0, 8 | 16)), 0);
	CHECK_EQ(pg_dax_check(&file.f, &what), -EUCLEAN);
	pg_radix_clear(&file.f.tree, 8);
	CHECK_EQ(pg_radix_set(&file.f.tree, 512, 9, RAW(pfn, 0)), 0);
	CHECK_EQ(pg_dax_check(&file.f, &what), -EUCLEAN);
	pg_radix_clear(&file.f.tree, 512);
	close_one();
}

static int say;

static int say_it(struct fs_file *f, uint64_t index, unsigned int order)
{
	(void)f;
	(void)index;
	(void)order;
	return say;
}

TEST(what_the_file_system_says_is_what_a_fault_says)
{
	static const struct {
		int err;
		enum pg_fault_code code;
	} t[] = {
		{-ENOMEM, PG_VM_OOM},	{-EHWPOISON, PG_VM_HWPOISON},
		{-EAGAIN, PG_VM_RETRY}, {-EBUSY, PG_VM_RETRY},
		{-EIO, PG_VM_SIGBUS},	{-ENOSPC, PG_VM_SIGBUS},
	};

	open_one(FILE_PAGES, false);
	fs.on_get = say_it;
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		say = t[i].err;
		CHECK_EQ(fault_of(&p1, R4K), t[i].code);
		CHECK_EQ(kind(&file, 0), PG_DAX_NONE);
	}
	fs.on_get = NULL;
	CHECK_EQ(load(&p1, 0), 0);
	close_one();
}

TEST(a_full_device_and_a_lack_of_memory_are_survived)
{
	open_one(FILE_PAGES, false);
	for (uint64_t i = 1; i < FS_BLOCKS; i++)
		fs.refs[i]++;
	CHECK_EQ(store(&p1, 0, 1), PG_VM_SIGBUS);
	CHECK_EQ(load(&p1, 0), 0);
	for (uint64_t i = 1; i < FS_BLOCKS; i++)
		fs.refs[i]--;
	CHECK_EQ(store(&p1, 0, 1), PG_VM_NOPAGE);
	close_one();
	open_one(FILE_PAGES, false);
	pg_mem_fail_nth(1);
	CHECK_EQ(fault_of(&p1, R4K), PG_VM_OOM);
	CHECK_EQ(kind(&file, 0), PG_DAX_NONE);
	CHECK_EQ(load(&p1, 0), 0);
	close_one();
}

TEST_MAIN()
