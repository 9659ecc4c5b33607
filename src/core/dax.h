/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * dax.h - files whose pages are device memory. Linux: fs/dax.c.
 *
 * A file has a tree of entries: which block of the device is behind which of
 * its pages, so that faults of the same page meet, stores are known as dirty,
 * and truncation finds what it takes away. An entry holds no reference: a
 * block with an entry that nobody maps or pins has count 0 (R121), and may be
 * taken from the file. The blocks themselves are the file system's, which is
 * what struct pg_dax_ops asks.
 *
 * Who takes blocks from a file - truncation, a hole, a block that becomes
 * shared - takes file->mapping.invalidate for writing, calls
 * pg_break_layout(), frees the blocks, and lets go of the lock (R154a).
 */
#ifndef PG_DAX_H
#define PG_DAX_H

#include <pgmap/pgmap.h>

#include "base/radix.h"
#include "core/space.h"

struct pg_dax;
struct pg_dax_file;

/* The file has the block together with others: not to be written. */
#define PG_BLOCK_SHARED (1u << 0)
/* That it is the file's is not durable yet (R144). */
#define PG_BLOCK_VOLATILE (1u << 1)

/** struct pg_dax_block - What is behind a page of a file. */
struct pg_dax_block {
	uint64_t pfn;	/* 0: a hole */
	uint64_t nr;	/* pages from there on that follow each other in both */
	uint64_t copy;	/* what it must be made a copy of first; 0: nothing */
	uint32_t flags; /* PG_BLOCK_* */
};

/**
 * struct pg_dax_ops - What a file system does. All run with the entry locked
 * and the invalidate lock held for reading, unless they say otherwise; they
 * must not fault pages of the file.
 */
struct pg_dax_ops {
	/**
	 * @get_block: What is behind page @index, which is wanted with 2^@order
	 * pages. With @write: a block of the file alone, never a hole; where
	 * others share the old one, a new one with @block->copy the old (R146).
	 * A new block for a hole reads as zeros already.
	 * Return: 0; -ENOMEM; -EHWPOISON; -EAGAIN touch again; else a SIGBUS.
	 */
	int (*get_block)(struct pg_dax_file *file, uint64_t index,
			 unsigned int order, bool write,
			 struct pg_dax_block *block);
	/** @put_block: Once for each 0 of get_block.
	 * @used: The file has @block now, and what it had before no more.
	 * Optional. */
	void (*put_block)(struct pg_dax_file *file, uint64_t index,
			  const struct pg_dax_block *block, bool used);
	/** @sync: Make durable that the file has blocks at [@index, @index +
	 * @nr) (R144). The entry is not locked. Optional. */
	int (*sync)(struct pg_dax_file *file, uint64_t index, uint64_t nr);
	/** @flush: What was stored to the pages is on the medium when this
	 * returns 0. Nobody stores to them through a mapping meanwhile. */
	int (*flush)(struct pg_dax *dax, uint64_t pfn, uint64_t nr);
	/** @address: Where the CPU finds a page; pages of a block follow each
	 * other. Optional: without it no block can be copied. */
	void *(*address)(struct pg_dax *dax, uint64_t pfn);
	/** @relax: pg_break_layout() goes to sleep, or (@sleeps false) comes
	 * back: the file system lets go of locks that a holder of the pages may
	 * need, and takes them again. The invalidate lock is not held.
	 * Optional. */
	void (*relax)(struct pg_dax_file *file, bool sleeps);
};

/* Parts of the device that are gone. */
#define PG_DAX_MAX_GONE PGMAP_MAX_RANGES

/** struct pg_dax - A device with files on it. */
struct pg_dax {
	struct pgmap *map;
	const struct pg_dax_ops *ops;
	void *data;		   /* the file system's */
	struct pg_lock lock;	   /* LOCK_DAX: files; gone, to write */
	struct pg_dax_file *files; /* lock */
	struct pgmap_range gone[PG_DAX_MAX_GONE]; /* below nr_gone: constant */
	pg_atomic32 nr_gone;			  /* release, acquire */
	struct pg_radix_pool nodes;
};

/** struct pg_dax_file - Linux: an inode with S_DAX. */
struct pg_dax_file {
	struct pg_mapping mapping; /* first: it is what areas know */
	struct pg_dax *dax;
	struct pg_dax_file *next; /* dax->lock */
	struct pg_lock lock;	  /* LOCK_ENTRY: tree */
	struct pg_radix tree;
	pg_atomic64 nr_pages; /* its size; invalidate lock to write; relaxed */
	void *data;	      /* the file system's */
};

/** pg_dax_init() - Zeroed @dax on @map, which is FS_DAX and has folios of one
 * page. Return: 0 or -EINVAL. */
int pg_dax_init(struct pg_dax *dax, struct pgmap *map,
		const struct pg_dax_ops *ops, void *data);
/** pg_dax_fini() - It has no files any more. */
void pg_dax_fini(struct pg_dax *dax);

/** pg_dax_file_init() - Zeroed @file has @nr pages and no entry. */
void pg_dax_file_init(struct pg_dax_file *file, struct pg_dax *dax,
		      uint64_t nr_pages, void *data);
/**
 * pg_dax_file_fini() - The file is gone: wait until nobody holds a page of it,
 * whether it is mapped somewhere or not (R153). Then its blocks may be freed.
 *
 * Context: Sleeps, and cannot be interrupted. No area maps the file.
 */
void pg_dax_file_fini(struct pg_dax_file *file);

/* Do not wait: -EBUSY. */
#define PG_BREAK_NOWAIT (1u << 0)
/* The blocks stay the file's: what was stored to them must not be lost. */
#define PG_BREAK_KEEP (1u << 1)

/**
 * pg_break_layout() - Unmap pages [@index, @index + @nr) everywhere, wait until
 * nobody else holds them, and forget what is behind them (R152).
 * @cancel: Give up when this is not 0. NULL: wait for ever.
 *
 * An entry that reaches out of the range goes as a whole. Of a block that other
 * files have, too, only this file's claim goes, at once; whoever is its last
 * owner waits. Nothing is forgotten unless 0 is returned; except when flush
 * fails for a shared block that who pins it has stored to during the break:
 * what went before that is flushed.
 *
 * Context: holds file->mapping.invalidate for writing, which is released while
 *          it sleeps. Nothing is left mapped or held when it returns 0, and
 *          stays so until the lock is released.
 * Return: 0; -EBUSY; -EINTR; with PG_BREAK_KEEP what flush said.
 */
int pg_break_layout(struct pg_dax_file *file, uint64_t index, uint64_t nr,
		    uint32_t flags, pg_atomic32 *cancel);
/** pg_dax_resize() - The file has @nr pages from now on. Holds
 * file->mapping.invalidate for writing; what is cut off was broken before. */
void pg_dax_resize(struct pg_dax_file *file, uint64_t nr);

/**
 * pg_dax_writeback() - What was stored to pages [@index, @index + @nr) before
 * is on the medium when this returns 0; later stores make them dirty again
 * (R145). Linux: dax_writeback_mapping_range(), for WB_SYNC_ALL.
 *
 * Return: 0, or the first error of flush: what it was for stays dirty.
 *         Pages that were removed are no error.
 */
int pg_dax_writeback(struct pg_dax_file *file, uint64_t index, uint64_t nr);
/** pg_dax_invalidate() - Forget clean entries whose blocks nobody uses, through
 * this file or another one that shares them (R148).
 * Return: 0, or -EBUSY: some are dirty or in use, and stay. */
int pg_dax_invalidate(struct pg_dax_file *file, uint64_t index, uint64_t nr);

/**
 * pg_dax_remove() - Pages [@pfn, @pfn + @nr) of the device go away: unmap them
 * from all users, who get SIGBUS from now on (R154b, R186).
 *
 * What was stored to them is flushed. Who pins a page may go on until the map
 * is destroyed, which waits for that. The other pages of a 2 MB block go on one
 * by one; while somebody pins one of them the file keeps all of the block.
 *
 * Context: May sleep; holds no lock.
 * Return: 0; -EINVAL @pfn + @nr wraps around; -ENOSPC too many parts; the first
 *         error of flush, all else done.
 */
int pg_dax_remove(struct pg_dax *dax, uint64_t pfn, uint64_t nr);
/** pg_dax_for_each_owner() - Call @fn for each entry of a file that is about
 * pages [@pfn, @pfn + @nr) of the device: @count pages from @index on are those
 * of the device (R184). It may take LOCK_MAPPING and above. Holds no lock. */
void pg_dax_for_each_owner(struct pg_dax *dax, uint64_t pfn, uint64_t nr,
			   void (*fn)(struct pg_dax_file *file, uint64_t index,
				      uint64_t count, void *arg),
			   void *arg);
/** pg_dax_nr_owners() - How many (file, index) have the block that starts at
 * @pfn; if it is one, and @file is not NULL, which one. */
uint64_t pg_dax_nr_owners(struct pg_dax *dax, uint64_t pfn,
			  struct pg_dax_file **file, uint64_t *index);

enum pg_dax_kind {
	PG_DAX_NONE,
	PG_DAX_PTE,
	PG_DAX_PMD,
	PG_DAX_ZERO,
	PG_DAX_ZERO_PMD
};

/** pg_dax_peek() - What entry page @index of @file has now. @pfn: Out, may be
 * NULL: the page behind it. @dirty: Out, may be NULL. */
enum pg_dax_kind pg_dax_peek(struct pg_dax_file *file, uint64_t index,
			     uint64_t *pfn, bool *dirty);
/** pg_dax_check() - What must be true of a file at rest. Return: 0 or -EUCLEAN
 * and *@what: the rule. */
int pg_dax_check(struct pg_dax_file *file, const char **what);

#endif
