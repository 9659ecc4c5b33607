/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * store.h - the files of a device, in memory, and how they change.
 *
 * What a store knows is made from its journal when it is opened, and each
 * change of it is a record that is made durable first and then done, by the
 * function that does the records when it is opened: so the two cannot differ.
 *
 * An operation takes the lock, gathers items with pg_store_item(), and calls
 * pg_store_commit(). Bytes of files are durable before the record that shows
 * them. Blocks are free for others when the record that frees them is durable.
 *
 * A file without a name that is open is not in the journal: changes of it are
 * done only in memory.
 */
#ifndef PG_DAX_STORE_H
#define PG_DAX_STORE_H

#include "base/lock.h"
#include "dax/blocks.h"
#include "dax/extents.h"
#include "dax/journal.h"

/* Blocks of a file are below it. */
#define PG_FILE_BLOCKS (1ull << 51)

enum pg_file_state { PG_FILE_NONE, PG_FILE_NAMED, PG_FILE_UNLINKED };

/** struct pgmap_file - A file; store->lock, but for @store. */
struct pgmap_file {
	struct pgmap_store *store;
	uint64_t name; /* the byte of the device that it begins at */
	uint64_t bytes;
	struct pg_extents extents;
	uint32_t hash;
	uint32_t next; /* with the same hash */
	uint32_t opens;
	uint8_t name_len;
	uint8_t state;
};

struct pgmap_store {
	struct pgmap_dax *dax;
	struct pg_rwlock lock; /* LOCK_STORE: all but dax, super, max_* */
	struct pg_super super;
	struct pg_journal journal;
	struct pg_blocks blocks;
	struct pg_extent_pool pool;
	struct pgmap_file *files; /* number 0 is none */
	uint32_t max_files;
	uint32_t end_file; /* numbers from here on were never used */
	uint32_t last_file;
	uint32_t nr_files;
	uint32_t *buckets;
	uint32_t nr_buckets; /* a power of two */
	uint64_t seed;
	uint64_t live; /* bytes of items that a snapshot has */
	char *items;   /* of the change that is being made */
	uint64_t items_len;
	bool clean;    /* the journal ends with CLOSED */
	int failed;    /* the device: nothing is changed any more */
	size_t mapped; /* all of this */
};

/* Where damage is told: @fn with a line; NULL: nowhere. */
struct pg_report {
	void (*fn)(void *arg, const char *line);
	void *arg;
	unsigned int nr;
};

void pg_report(struct pg_report *r, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/** pg_store_open() - As pgmap_store_open().
 * @strict: What does not keep it from being used is damage, too. */
int pg_store_open(struct pgmap_dax *dax, struct pgmap_store **store,
		  struct pg_report *report, bool strict);
/** pg_store_free() - Forget it; nothing is written. */
void pg_store_free(struct pgmap_store *store);
/** pg_store_check() - Is what is in memory sound, by itself? For tests, at any
 * time. Return: 0; -EUCLEAN; -ENOMEM. */
int pg_store_check(struct pgmap_store *store, struct pg_report *report);
/** pg_store_find() - The file of a name, or NULL. */
struct pgmap_file *pg_store_find(struct pgmap_store *store, const char *name,
				 size_t len);
/** pg_store_new_number() - Of a file that is not there; 0: there are too many
 * files. */
uint32_t pg_store_new_number(struct pgmap_store *store);
uint32_t pg_file_number(const struct pgmap_file *file);
const char *pg_file_name(const struct pgmap_file *file);
/** pg_file_free() - It has no name and is not open: its blocks are free. */
void pg_file_free(struct pgmap_file *file);

/** pg_store_begin() - A change that makes the snapshot at most @more bytes
 * longer. Holds the lock for writing.
 * Return: 0; -EROFS; -EIO; -ENOSPC. */
int pg_store_begin(struct pgmap_store *store, uint64_t more);
void pg_store_name(struct pgmap_store *store, uint32_t file, const char *name,
		   size_t len);
void pg_store_item(struct pgmap_store *store, enum pg_item_type type,
		   unsigned int flags, uint32_t file, uint64_t a, uint64_t b,
		   uint64_t c);
/** pg_store_commit() - The items are durable, and done.
 * @file: The file that they are about, if it is one.
 * Return: 0; -EIO nothing is changed, now or later; -ENOSPC. */
int pg_store_commit(struct pgmap_store *store, struct pgmap_file *file);
/** pg_store_snapshot() - Go on in the other half of the journal.
 * Return: 0 or -EIO. */
int pg_store_snapshot(struct pgmap_store *store);

/** pg_name_items() - What the name of a file, and its size, take. */
uint64_t pg_name_items(size_t len);

#endif
