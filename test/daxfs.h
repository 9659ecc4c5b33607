/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * daxfs.h - the smallest file system on a DAX device that can go wrong: it
 * knows who has a block, fills what is free with poison, and has a medium
 * that holds what was flushed.
 */
#ifndef TEST_DAXFS_H
#define TEST_DAXFS_H

#include "core/dax.h"
#include "spaces.h"

#define FS_BLOCKS (8 * 512u) /* pages of the device */
#define FILE_PAGES (3 * 512u)
#define FREE_BYTE 0xdd

struct fs_file {
	struct pg_dax_file f;	    /* first */
	uint32_t block[FILE_PAGES]; /* 0: a hole; fs.lock */
	bool large;		    /* allocate 2 MB when asked for it */
};

static struct fs {
	struct pg_dax dax;
	struct pgmap *map;
	uint64_t first;
	unsigned char *mem, *medium;
	uint8_t refs[FS_BLOCKS]; /* files that have it; lock */
	bool durable;		 /* new blocks need no sync */
	pthread_mutex_t lock;
	_Atomic(unsigned int) gets, used, unused, syncs, flushes, naps;
	/* Called at the beginning of each; not 0 is its error. */
	int (*on_get)(struct fs_file *f, uint64_t index, unsigned int order);
	void (*on_put)(struct fs_file *f, uint64_t index); /* used */
	/* May change what get_block says. */
	void (*on_block)(struct fs_file *f, uint64_t index, unsigned int order,
			 bool write, struct pg_dax_block *b);
	int (*on_sync)(struct fs_file *f, uint64_t index);
	int (*on_flush)(uint64_t pfn);
	void (*on_relax)(bool sleeps);
} fs;

static inline unsigned char *fs_mem(uint64_t pfn)
{
	return fs.mem + (pfn - fs.first) * PAGE;
}

/** fs_byte() - What programs store to, perhaps two at once. */
static inline _Atomic(unsigned char) *fs_byte(uint64_t pfn, uint64_t i)
{
	return (_Atomic(unsigned char) *)fs_mem(pfn) + i % PAGE;
}

static inline void *fs_address(struct pg_dax *dax, uint64_t pfn)
{
	MUST(dax == &fs.dax);
	return fs_mem(pfn);
}

/* Block 0 is never used: it stands for a hole. Holds fs.lock. */
static inline uint32_t fs_alloc(uint32_t nr)
{
	for (uint32_t b = nr; b + nr <= FS_BLOCKS; b += nr) {
		uint32_t n = 0;

		while (n < nr && !fs.refs[b + n])
			n++;
		if (n < nr)
			continue;
		memset(fs.refs + b, 1, nr);
		/* Nobody has touched it since it was freed. */
		for (size_t i = 0; i < nr * PAGE; i += 64)
			MUST(fs.mem[b * PAGE + i] == FREE_BYTE);
		memset(fs.mem + b * PAGE, 0, nr * PAGE);
		return b;
	}
	return 0;
}

/* Holds fs.lock. */
static inline void fs_free(uint32_t b)
{
	MUST(fs.refs[b]);
	if (!--fs.refs[b]) {
		MUST(!pgmap_folio_count(pg_map_folio(fs.map, fs.first + b)));
		memset(fs.mem + b * PAGE, FREE_BYTE, PAGE);
	}
}

static inline int fs_get_block(struct pg_dax_file *file, uint64_t index,
			       unsigned int order, bool write,
			       struct pg_dax_block *b)
{
	struct fs_file *f = (struct fs_file *)file;
	uint32_t *at, n;
	int ret = fs.on_get ? fs.on_get(f, index, order) : 0;

	fs.gets++;
	if (ret)
		return ret;
	MUST(index < FILE_PAGES);
	at = f->block + index;
	pthread_mutex_lock(&fs.lock);
	if (!*at && write) {
		uint32_t nr = order && f->large ? 512 : 1;

		for (uint32_t k = 0; k < nr; k++)
			nr = at[k] ? 1 : nr;
		n = fs_alloc(nr);
		for (uint32_t k = 0; n && k < nr; k++)
			at[k] = n + k;
		if (!fs.durable)
			b->flags |= PG_BLOCK_VOLATILE;
	}
	for (b->nr = 1; index + b->nr < FILE_PAGES; b->nr++)
		if (at[b->nr] != (*at ? *at + b->nr : 0))
			break;
	for (n = 0; n < 1u << order && index + n < FILE_PAGES; n++)
		if (fs.refs[at[n]] > 1)
			b->flags |= PG_BLOCK_SHARED;
	b->pfn = *at ? fs.first + *at : 0;
	if (!*at && write)
		ret = -ENOSPC;
	if (write && !order && b->flags & PG_BLOCK_SHARED) {
		n = fs_alloc(1);
		b->copy = b->pfn;
		b->pfn = fs.first + n;
		b->flags = PG_BLOCK_VOLATILE;
		b->nr = 1;
		if (!n)
			ret = -ENOSPC;
	}
	pthread_mutex_unlock(&fs.lock);
	if (!ret && fs.on_block)
		fs.on_block(f, index, order, write, b);
	return ret;
}

static inline void fs_put_block(struct pg_dax_file *file, uint64_t index,
				const struct pg_dax_block *b, bool used)
{
	struct fs_file *f = (struct fs_file *)file;

	if (used)
		fs.used++;
	else
		fs.unused++;
	if (b->copy) {
		pthread_mutex_lock(&fs.lock);
		fs_free(used ? f->block[index] : (uint32_t)(b->pfn - fs.first));
		if (used)
			f->block[index] = (uint32_t)(b->pfn - fs.first);
		pthread_mutex_unlock(&fs.lock);
	}
	if (used && fs.on_put)
		fs.on_put(f, index);
}

static inline int fs_sync(struct pg_dax_file *file, uint64_t index, uint64_t nr)
{
	(void)nr;
	fs.syncs++;
	return fs.on_sync ? fs.on_sync((struct fs_file *)file, index) : 0;
}

static inline int fs_flush(struct pg_dax *dax, uint64_t pfn, uint64_t nr)
{
	int ret;

	MUST(dax == &fs.dax);
	fs.flushes++;
	memcpy(fs.medium + (pfn - fs.first) * PAGE, fs_mem(pfn), nr * PAGE);
	ret = fs.on_flush ? fs.on_flush(pfn) : 0;
	return ret;
}

static inline void fs_relax(struct pg_dax_file *file, bool sleeps)
{
	/* The lock is not held. */
	if (!sleeps)
		fs.naps++;
	MUST(!pg_write_held(&file->mapping.invalidate));
	if (fs.on_relax)
		fs.on_relax(sleeps);
}

static const struct pg_dax_ops fs_ops = {
	.get_block = fs_get_block,
	.put_block = fs_put_block,
	.sync = fs_sync,
	.flush = fs_flush,
	.address = fs_address,
	.relax = fs_relax,
};

static inline void fs_open(void)
{
	memset(&fs, 0, sizeof(fs));
	pthread_mutex_init(&fs.lock, NULL);
	fs.map = map_new(PGMAP_FS_DAX, FS_BLOCKS);
	fs.first = map_pfn(fs.map);
	fs.mem = mmap(NULL, FS_BLOCKS * PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fs.medium = mmap(NULL, FS_BLOCKS * PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(fs.mem, FREE_BYTE, FS_BLOCKS * PAGE);
	CHECK_EQ(pg_dax_init(&fs.dax, fs.map, &fs_ops, &fs), 0);
	alarm(60);
}

static inline void fs_close(void)
{
	pg_dax_fini(&fs.dax);
	map_end(fs.map);
	for (uint32_t b = 0; b < FS_BLOCKS; b++)
		CHECK_EQ(fs.refs[b], 0);
	munmap(fs.mem, FS_BLOCKS * PAGE);
	munmap(fs.medium, FS_BLOCKS * PAGE);
	alarm(0);
}

static inline void fs_create(struct fs_file *f, uint64_t nr, bool large)
{
	memset(f, 0, sizeof(*f));
	f->large = large;
	pg_dax_file_init(&f->f, &fs.dax, nr, f);
}

/** fs_check() - Entries against what the file system knows. */
static inline void fs_check(struct fs_file *f)
{
	const char *what;

	if (pg_dax_check(&f->f, &what))
		fail_msg("broken: %s", what);
	for (uint64_t i = 0; i < FILE_PAGES; i++) {
		uint64_t pfn;
		enum pg_dax_kind kind = pg_dax_peek(&f->f, i, &pfn, NULL);

		if (kind == PG_DAX_PTE || kind == PG_DAX_PMD)
			CHECK_EQ(pfn, fs.first + f->block[i]);
		else if (kind != PG_DAX_NONE)
			CHECK_EQ(f->block[i], 0);
	}
}

/** fs_punch_at() - Free [@i, @i + @nr) with what follows in @between. */
static inline int fs_punch_at(struct fs_file *f, uint64_t i, uint64_t nr,
			      uint32_t flags, pg_atomic32 *cancel,
			      void (*between)(void))
{
	int ret;

	pg_write_lock(&f->f.mapping.invalidate, LOCK_INVALIDATE);
	ret = pg_break_layout(&f->f, i, nr, flags, cancel);
	if (!ret && between)
		between();
	pthread_mutex_lock(&fs.lock);
	for (uint64_t k = i; !ret && k < i + nr && k < FILE_PAGES; k++) {
		if (f->block[k])
			fs_free(f->block[k]);
		f->block[k] = 0;
	}
	pthread_mutex_unlock(&fs.lock);
	pg_write_unlock(&f->f.mapping.invalidate, LOCK_INVALIDATE);
	return ret;
}

static inline int fs_punch(struct fs_file *f, uint64_t i, uint64_t nr)
{
	return fs_punch_at(f, i, nr, 0, NULL, NULL);
}

static inline void fs_truncate(struct fs_file *f, uint64_t nr)
{
	CHECK_EQ(fs_punch(f, nr, FILE_PAGES - nr), 0);
	pg_write_lock(&f->f.mapping.invalidate, LOCK_INVALIDATE);
	pg_dax_resize(&f->f, nr);
	pg_write_unlock(&f->f.mapping.invalidate, LOCK_INVALIDATE);
}

/** fs_unlink() - Sleeps until its last page is idle. */
static inline void fs_unlink(struct fs_file *f)
{
	pg_dax_file_fini(&f->f);
	pthread_mutex_lock(&fs.lock);
	for (uint64_t i = 0; i < FILE_PAGES; i++) {
		if (f->block[i])
			fs_free(f->block[i]);
		f->block[i] = 0;
	}
	pthread_mutex_unlock(&fs.lock);
}

/** fs_reflink() - @to has the blocks of @from, too. */
static inline void fs_reflink(struct fs_file *from, struct fs_file *to)
{
	pg_write_lock(&from->f.mapping.invalidate, LOCK_INVALIDATE);
	MUST(!pg_break_layout(&from->f, 0, FILE_PAGES, PG_BREAK_KEEP, NULL));
	pthread_mutex_lock(&fs.lock);
	for (uint64_t i = 0; i < FILE_PAGES; i++) {
		MUST(!to->block[i]);
		to->block[i] = from->block[i];
		if (to->block[i])
			fs.refs[to->block[i]]++;
	}
	pthread_mutex_unlock(&fs.lock);
	pg_write_unlock(&from->f.mapping.invalidate, LOCK_INVALIDATE);
}

/* ---- Programs ---- */

#define VA (4 * GB)
#define AT(i) (VA + (uintptr_t)(i)*PAGE)
#define SHARED_RW (RW | PG_AREA_SHARED)

static inline void space_open(struct pg_space *s, struct fs_file *f,
			      uint32_t flags)
{
	CHECK_EQ(pg_space_init(s), 0);
	CHECK_EQ(pg_space_map(s, VA, FILE_PAGES, PG_AREA_DAX, flags,
			      &f->f.mapping, 0),
		 0);
}

/* Threads cannot leave a test: what lacks memory is tried again. */
static inline enum pg_fault_code touch(struct pg_space *s, uint64_t i,
				       bool write, uint64_t *pfn)
{
	enum pg_fault_code ret = pg_touch(s, AT(i), write, pfn);

	return ret == PG_VM_OOM ? pg_touch(s, AT(i), write, pfn) : ret;
}

/** store() - As a CPU does; for one thread, or where nobody unmaps. */
static inline enum pg_fault_code store(struct pg_space *s, uint64_t i,
				       unsigned char v)
{
	uint64_t pfn = 0;
	enum pg_fault_code ret = touch(s, i, true, &pfn);

	if (ret == PG_VM_NOPAGE)
		*fs_byte(pfn, i) = v;
	return ret;
}

/** load() - The byte that store() writes, or minus the fault code. */
static inline int load(struct pg_space *s, uint64_t i)
{
	uint64_t pfn = 0;
	enum pg_fault_code ret = touch(s, i, false, &pfn);

	if (ret != PG_VM_NOPAGE)
		return -(int)ret;
	return pfn ? *fs_byte(pfn, i) : 0;
}

/** pin() - What core/gup.c does in its fast path. NULL: not there. */
static inline struct pgmap_folio *pin(struct pg_space *s, uint64_t i)
{
	enum pg_level level;
	pg_entry_t e = pg_entry_get(s, AT(i), &level);
	uint64_t pfn = pg_entry_pfn(e) + AT(i) / PAGE % pg_level_pages(level);
	struct pgmap_folio *folio;

	if (!pg_entry_is_counted(e))
		return NULL;
	folio = pgmap_tryget_pfn(pfn);
	if (!folio)
		return NULL;
	pg_fence(seq_cst);
	if (pg_entry_pfn(pg_entry_get(s, AT(i), &level)) != pg_entry_pfn(e)) {
		pgmap_folio_put(folio);
		return NULL;
	}
	return folio;
}

static inline uint32_t count_at(uint32_t block)
{
	return pgmap_folio_count(pg_map_folio(fs.map, fs.first + block));
}

static inline bool is_dirty(struct fs_file *f, uint64_t i)
{
	bool dirty;

	pg_dax_peek(&f->f, i, NULL, &dirty);
	return dirty;
}

static inline enum pg_dax_kind kind(struct fs_file *f, uint64_t i)
{
	return pg_dax_peek(&f->f, i, NULL, NULL);
}

#endif
