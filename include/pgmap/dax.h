/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * dax.h - memory that is the file: DAX devices, and a store of files on one.
 *
 * A device is memory that stays: a file on tmpfs, hugetlbfs or a disk, a
 * persistent memory, or memory of this process alone. It is mapped whole, and
 * used by load and store.
 *
 * A store keeps files on a device, in blocks of 4 KB. What a function of it
 * has returned 0 for is durable: after a crash at any instruction of a later
 * one it is there. What a crash interrupts is done or is not, except for
 * pgmap_file_write(), pgmap_file_allocate() and pgmap_file_copy(), which may be
 * done in part. How it lies on the device is told in doc/store.md.
 *
 * Rules and errors are those of pgmap.h. Besides:
 *   -EUCLEAN  the store is damaged; pgmap_store_check() tells where
 *   -EROFS    it was opened to be read only
 */
#ifndef PGMAP_DAX_H
#define PGMAP_DAX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Devices ---- */

struct pgmap_dax;

/* May be created, and grows to @bytes. */
#define PGMAP_DAX_CREATE (1u << 0)
/* Is only read; others may read it too. */
#define PGMAP_DAX_READONLY (1u << 1)

/**
 * struct pgmap_dax_config - Which memory.
 * @size:  sizeof(struct pgmap_dax_config), set by the caller.
 * @path:  A regular file, a file on tmpfs or hugetlbfs, a block device or a
 *         /dev/dax. NULL: memory of this process, which ends with it.
 * @bytes: How large; with @path and without PGMAP_DAX_CREATE 0 means all of it.
 * @align: 4 KB, 2 MB or 1 GB: where it may be mapped and how large it is are
 *         multiples of it. 0: the size of the file's pages.
 * @huge:  For @path NULL: huge pages of 2 MB or 1 GB; 0: ordinary ones.
 * @flags: PGMAP_DAX_*.
 */
struct pgmap_dax_config {
	size_t size;
	const char *path;
	uint64_t bytes;
	uint64_t align;
	uint64_t huge;
	unsigned int flags;
};

/** struct pgmap_dax_info - @kind: "memory", "file", "tmpfs", "hugetlb", "block"
 * or "dax". @page_size: of the CPU's mapping, if it is certain; 0 else. */
struct pgmap_dax_info {
	size_t size;
	const char *kind;
	void *address;
	uint64_t bytes;
	uint64_t align;
	uint64_t page_size;
};

/**
 * pgmap_dax_open() - Map a device.
 * @error: Out, on failure: one line that names the cause and the way out.
 *
 * Room for all of a file is taken, so that a store to it cannot fail. While it
 * is open no other process can open it, unless both only read.
 *
 * Return: 0; -EBUSY somebody has it open; -EINVAL bad @config, or no such
 *         size or alignment; -ENODEV it is no memory, or one that cannot be
 *         mapped; -ENOENT; -EACCES; -ENOSPC; -ENOMEM no room to map it, or no
 *         huge pages; what else open(2) and mmap(2) say.
 */
int pgmap_dax_open(const struct pgmap_dax_config *config,
		   struct pgmap_dax **dax, char *error, size_t error_len);
/** pgmap_dax_close() - Unmap it. NULL is fine. No store is open on it. */
void pgmap_dax_close(struct pgmap_dax *dax);
/** pgmap_dax_get_info() - @info->size must be set first.
 * Return: 0 or -EINVAL. */
int pgmap_dax_get_info(const struct pgmap_dax *dax,
		       struct pgmap_dax_info *info);
/** pgmap_dax_flush() - What was stored to bytes [@at, @at + @len) of it is on
 * the medium when this returns 0.
 * Return: 0; -EINVAL it has no such bytes; -EIO. */
int pgmap_dax_flush(struct pgmap_dax *dax, uint64_t at, uint64_t len);

/* ---- A store of files ---- */

struct pgmap_store;
struct pgmap_file;

#define PGMAP_STORE_BLOCK 4096u
/** The longest name, without the 0 at its end. */
#define PGMAP_NAME_MAX 255u

/**
 * pgmap_store_format() - Make an empty store of all of @dax.
 * @journal: Bytes for each half of the journal, rounded up to a block: how
 *           many files and extents there can be. 0: a 64th of the device.
 *           A file takes 24 bytes and its name, an extent 32; seven eighths
 *           can be used. What is there is overwritten.
 *
 * Return: 0; -EINVAL @dax is too small for it; -EROFS; -EIO.
 */
int pgmap_store_format(struct pgmap_dax *dax, uint64_t journal);
/** pgmap_store_exists() - Does @dax look as if there was a store on it? */
bool pgmap_store_exists(const struct pgmap_dax *dax);
/**
 * pgmap_store_open() - Use the store on @dax, which stays the caller's.
 * @error: Out, on failure: one line.
 *
 * Nothing is written. What a crash left behind is dealt with here.
 *
 * Return: 0; -EUCLEAN there is no store, or it is damaged; -ENOMEM.
 */
int pgmap_store_open(struct pgmap_dax *dax, struct pgmap_store **store,
		     char *error, size_t error_len);
/** pgmap_store_close() - All its files are closed. NULL is fine.
 * Return: 0; -EIO it could not be marked as closed; nothing is lost. */
int pgmap_store_close(struct pgmap_store *store);

/**
 * struct pgmap_store_info - How full it is; in bytes but for the numbers.
 * @journal:      Half of the journal: what files and extents can take.
 * @journal_used: What they take.
 * @generation:   How often the journal was rewritten.
 * @clean:        It was closed before it was opened now.
 */
struct pgmap_store_info {
	size_t size;
	uint64_t bytes;
	uint64_t free;
	uint64_t shared; /* saved by blocks that several files have */
	uint64_t journal;
	uint64_t journal_used;
	uint64_t generation;
	uint64_t nr_files;
	uint64_t nr_extents;
	uint64_t clean;
};

/** pgmap_store_get_info() - @info->size must be set first.
 * Return: 0 or -EINVAL. */
int pgmap_store_get_info(struct pgmap_store *store,
			 struct pgmap_store_info *info);

/**
 * pgmap_store_check() - Look at all of a store, and change nothing.
 * @report: Called with a line for each damage that is found.
 *
 * Return: 0 it is sound; -EUCLEAN it is not, and @report was called; -ENOMEM.
 */
int pgmap_store_check(struct pgmap_dax *dax,
		      void (*report)(void *arg, const char *line), void *arg);

/** struct pgmap_file_info - A file. @allocated: Bytes of blocks; @shared: of
 * them, in blocks that other files have, too. */
struct pgmap_file_info {
	size_t size;
	char name[PGMAP_NAME_MAX + 1]; /* "": it was unlinked */
	uint64_t id;
	uint64_t bytes;
	uint64_t allocated;
	uint64_t shared;
	uint64_t nr_extents;
};

/**
 * pgmap_store_next() - The next file, in no order. Files that come or go
 * meanwhile may be told or not.
 * @cursor: 0 at first.
 * @info:   Its size must be set first.
 * Return: 0; -ENOENT there is none; -EINVAL.
 */
int pgmap_store_next(struct pgmap_store *store, uint64_t *cursor,
		     struct pgmap_file_info *info);

/** pgmap_store_unlink() - Remove a name. The blocks of a file that is open
 * stay its own until it is closed. Works when all space is used.
 * Return: 0; -ENOENT; -EINVAL no name can be so; -EROFS; -EIO. */
int pgmap_store_unlink(struct pgmap_store *store, const char *name);

/* @to must not be there: -EEXIST. */
#define PGMAP_RENAME_NOREPLACE (1u << 0)

/** pgmap_store_rename() - @from is called @to from now on; what was called so
 * is unlinked, at the same instant.
 * Return: 0; -ENOENT; -EEXIST; -EINVAL; -ENOSPC; -EROFS; -EIO. */
int pgmap_store_rename(struct pgmap_store *store, const char *from,
		       const char *to, unsigned int flags);
/** pgmap_store_reflink() - @to is a new file with the bytes of @from; the
 * blocks are both's until one of them is written to.
 * Return: 0; -ENOENT; -EEXIST; -EINVAL; -ENOSPC; -EMLINK a block has 65536
 *         owners; -EROFS; -EIO. */
int pgmap_store_reflink(struct pgmap_store *store, const char *from,
			const char *to);

/* The file is made if there is none. */
#define PGMAP_FILE_CREATE (1u << 0)
/* ... and there must be none: -EEXIST. */
#define PGMAP_FILE_EXCL (1u << 1)

/** pgmap_file_open() - Names are 1 to 255 bytes, all but '/' and 0.
 * Return: 0; -ENOENT; -EEXIST; -EINVAL no name can be so; -ENOSPC; -EROFS;
 *         -EIO. */
int pgmap_file_open(struct pgmap_store *store, const char *name,
		    unsigned int flags, struct pgmap_file **file);
/** pgmap_file_close() - As often as it was opened. NULL is fine. */
void pgmap_file_close(struct pgmap_file *file);
/** pgmap_file_get_info() - @info->size must be set first.
 * Return: 0 or -EINVAL. */
int pgmap_file_get_info(struct pgmap_file *file, struct pgmap_file_info *info);

/** pgmap_file_read() - Copy at most @len bytes from @at on. Holes are zeros.
 * @done: Out: how many; fewer than @len only at the end of the file.
 * Return: 0. */
int pgmap_file_read(struct pgmap_file *file, uint64_t at, void *to, size_t len,
		    size_t *done);
/**
 * pgmap_file_write() - Store @len bytes at @at, which may be past its end.
 * @done: Out, set on error too: how many are durable. May be NULL.
 *
 * Return: 0; -EFBIG no file is so long; -ENOSPC; -EROFS; -EIO.
 */
int pgmap_file_write(struct pgmap_file *file, uint64_t at, const void *from,
		     size_t len, size_t *done);
/** pgmap_file_allocate() - Give the file blocks of its own wherever it has
 * holes in [@at, @at + @len); they read as zeros. Its size stays. Parts of 2 MB
 * are aligned to 2 MB on the device where that is possible.
 * Return: 0; -EFBIG; -ENOSPC; -EROFS; -EIO. */
int pgmap_file_allocate(struct pgmap_file *file, uint64_t at, uint64_t len);
/** pgmap_file_truncate() - It has @size bytes; new ones are zeros. Blocks
 * behind it are freed.
 * Return: 0; -EFBIG; -ENOSPC; -EROFS; -EIO. */
int pgmap_file_truncate(struct pgmap_file *file, uint64_t size);
/** pgmap_file_punch() - [@at, @at + @len) are zeros; whole blocks are freed.
 * Return: 0; -EFBIG; -ENOSPC; -EROFS; -EIO. */
int pgmap_file_punch(struct pgmap_file *file, uint64_t at, uint64_t len);

/** struct pgmap_extent - Bytes [@at, @at + @len) of a file are those from
 * @device on of the device. @device 0: they are a hole. @shared: Perhaps other
 * files have them too: not to be written. */
struct pgmap_extent {
	size_t size;
	uint64_t at;
	uint64_t len;
	uint64_t device;
	uint64_t shared;
};

/** pgmap_file_extent() - The extent, or the hole, that byte @at is in; a hole
 * at the end of all extents ends with 1 << 63. @extent->size must be set first.
 * It is so until the file is changed.
 * Return: 0; -EFBIG; -EINVAL. */
int pgmap_file_extent(struct pgmap_file *file, uint64_t at,
		      struct pgmap_extent *extent);

#ifdef __cplusplus
}
#endif
#endif
