/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * file.c - what is done with names and with the bytes of files.
 *
 * Bytes behind the end of a file, in blocks that it has, are anything: whoever
 * moves the end makes them zeros before.
 */
#include <errno.h>
#include <string.h>

#include "base/bug.h"
#include "base/mutant.h"
#include "dax/store.h"

#define BLOCK PGMAP_STORE_BLOCK
#define FILE_MAX (PG_FILE_BLOCKS * BLOCK - 1)
/* What an extent that is put into the middle of another adds to a snapshot. */
#define EXTENT_MORE (2 * PG_ITEM_EXTENT_BYTES)

static uint64_t min(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t max(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static uint64_t blocks_of(uint64_t bytes)
{
	return (bytes + BLOCK - 1) / BLOCK;
}

/* ---- Names ---- */

/* Return: its length; 0: no name can be so. */
static size_t name_len(const char *name)
{
	size_t len = name ? strnlen(name, PGMAP_NAME_MAX + 1) : 0;

	return len > PGMAP_NAME_MAX || (name && strchr(name, '/')) ? 0 : len;
}

int pgmap_store_unlink(struct pgmap_store *s, const char *name)
{
	size_t len = name_len(name);
	struct pgmap_file *f;
	int ret;

	if (!s || !len)
		return -EINVAL;
	pg_write_lock(&s->lock, LOCK_STORE);
	f = pg_store_find(s, name, len);
	ret = f ? pg_store_begin(s, 0) : -ENOENT;
	if (!ret) {
		pg_store_item(s, PG_ITEM_DROP, 0, pg_file_number(f), 0, 0, 0);
		ret = pg_store_commit(s, NULL);
	}
	pg_write_unlock(&s->lock, LOCK_STORE);
	return ret;
}

static int do_rename(struct pgmap_store *s, struct pgmap_file *f,
		     const char *to, size_t to_len, unsigned int flags)
{
	struct pgmap_file *old = pg_store_find(s, to, to_len);
	int ret;

	if (!f)
		return -ENOENT;
	if (old && flags & PGMAP_RENAME_NOREPLACE)
		return -EEXIST;
	if (old == f)
		return 0;
	ret = pg_store_begin(s, pg_name_items(to_len));
	if (ret)
		return ret;
	if (old)
		pg_store_item(s, PG_ITEM_DROP, 0, pg_file_number(old), 0, 0, 0);
	if (old && pg_mutant("dax_rename_in_two_steps")) {
		ret = pg_store_commit(s, NULL);
		s->items_len = 0;
		if (ret)
			return ret;
	}
	pg_store_name(s, pg_file_number(f), to, to_len);
	return pg_store_commit(s, NULL);
}

int pgmap_store_rename(struct pgmap_store *s, const char *from, const char *to,
		       unsigned int flags)
{
	size_t from_len = name_len(from), to_len = name_len(to);
	int ret;

	if (!s || !from_len || !to_len || flags & ~PGMAP_RENAME_NOREPLACE)
		return -EINVAL;
	pg_write_lock(&s->lock, LOCK_STORE);
	ret = do_rename(s, pg_store_find(s, from, from_len), to, to_len, flags);
	pg_write_unlock(&s->lock, LOCK_STORE);
	return ret;
}

/* As pg_extents_next(), of what lies below block @end. */
static bool next_below(struct pgmap_file *f, uint64_t index, uint64_t end,
		       struct pg_extent *e)
{
	if (index >= end ||
	    !pg_extents_next(&f->store->pool, &f->extents, index, e) ||
	    e->index >= end)
		return false;
	e->nr = min(e->nr, end - e->index);
	return true;
}

/* By trying: a hostile store may have a block twice in one file. */
static bool can_share(struct pgmap_file *f, uint64_t end)
{
	struct pg_blocks *b = &f->store->blocks;
	uint64_t last = end;
	struct pg_extent e;

	if (!b->nr_shared)
		return true;
	for (uint64_t i = 0; next_below(f, i, end, &e); i = e.index + e.nr) {
		if (!pg_blocks_can_share(b, e.block, e.nr)) {
			last = e.index;
			break;
		}
		pg_blocks_get(b, e.block, e.nr);
	}
	for (uint64_t i = 0; next_below(f, i, last, &e); i = e.index + e.nr)
		pg_blocks_put(b, e.block, e.nr);
	return last == end;
}

static int do_reflink(struct pgmap_store *s, struct pgmap_file *f,
		      const char *to, size_t to_len)
{
	uint64_t end, more;
	struct pg_extent e;
	uint32_t number;
	int ret;

	if (!f)
		return -ENOENT;
	if (pg_store_find(s, to, to_len))
		return -EEXIST;
	end = blocks_of(f->bytes);
	more = pg_name_items(to_len) +
	       (uint64_t)f->extents.nr * PG_ITEM_EXTENT_BYTES;
	ret = pg_store_begin(s, more);
	if (ret)
		return ret;
	if (!can_share(f, end))
		return -EMLINK;
	number = pg_store_new_number(s);
	if (!number)
		return -ENOSPC;
	pg_store_name(s, number, to, to_len);
	if (f->bytes)
		pg_store_item(s, PG_ITEM_SIZE, 0, number, f->bytes, 0, 0);
	for (uint64_t i = 0; next_below(f, i, end, &e); i = e.index + e.nr)
		pg_store_item(s, PG_ITEM_EXTENT, PG_ITEM_SHARED, number,
			      e.index, e.block, e.nr);
	return pg_store_commit(s, NULL);
}

int pgmap_store_reflink(struct pgmap_store *s, const char *from, const char *to)
{
	size_t from_len = name_len(from), to_len = name_len(to);
	int ret;

	if (!s || !from_len || !to_len)
		return -EINVAL;
	pg_write_lock(&s->lock, LOCK_STORE);
	ret = do_reflink(s, pg_store_find(s, from, from_len), to, to_len);
	pg_write_unlock(&s->lock, LOCK_STORE);
	return ret;
}

static int create(struct pgmap_store *s, const char *name, size_t len,
		  struct pgmap_file **f)
{
	int ret = pg_store_begin(s, pg_name_items(len));
	uint32_t number;

	if (ret)
		return ret;
	number = pg_store_new_number(s);
	if (!number)
		return -ENOSPC;
	pg_store_name(s, number, name, len);
	ret = pg_store_commit(s, NULL);
	*f = s->files + number;
	return ret;
}

int pgmap_file_open(struct pgmap_store *s, const char *name, unsigned int flags,
		    struct pgmap_file **file)
{
	size_t len = name_len(name);
	struct pgmap_file *f;
	int ret = 0;

	if (!s || !len || !file ||
	    flags & ~(PGMAP_FILE_CREATE | PGMAP_FILE_EXCL))
		return -EINVAL;
	pg_write_lock(&s->lock, LOCK_STORE);
	f = pg_store_find(s, name, len);
	if (f && flags & PGMAP_FILE_EXCL)
		ret = -EEXIST;
	else if (!f)
		ret = flags & PGMAP_FILE_CREATE ? create(s, name, len, &f)
						: -ENOENT;
	if (!ret) {
		f->opens++;
		*file = f;
	}
	pg_write_unlock(&s->lock, LOCK_STORE);
	return ret;
}

void pgmap_file_close(struct pgmap_file *f)
{
	struct pgmap_store *s;

	if (!f)
		return;
	s = f->store;
	pg_write_lock(&s->lock, LOCK_STORE);
	pg_misuse_on(!f->opens, "a file was closed more often than opened");
	if (!--f->opens && f->state == PG_FILE_UNLINKED)
		pg_file_free(f);
	pg_write_unlock(&s->lock, LOCK_STORE);
}

/* Holds the lock. */
static void tell(struct pgmap_file *f, struct pgmap_file_info *info)
{
	struct pgmap_store *s = f->store;
	struct pg_extent e;

	*info = (struct pgmap_file_info){
		.size = sizeof(*info),
		.id = pg_file_number(f),
		.bytes = f->bytes,
		.nr_extents = f->extents.nr,
	};
	if (f->state == PG_FILE_NAMED)
		memcpy(info->name, pg_file_name(f), f->name_len);
	for (uint64_t i = 0; pg_extents_next(&s->pool, &f->extents, i, &e);
	     i = e.index + e.nr) {
		info->allocated += e.nr * BLOCK;
		info->shared +=
			BLOCK * pg_blocks_nr_shared(&s->blocks, e.block, e.nr);
	}
}

int pgmap_file_get_info(struct pgmap_file *f, struct pgmap_file_info *info)
{
	if (!f || !info || info->size != sizeof(*info))
		return -EINVAL;
	pg_read_lock(&f->store->lock, LOCK_STORE);
	tell(f, info);
	pg_read_unlock(&f->store->lock, LOCK_STORE);
	return 0;
}

int pgmap_store_next(struct pgmap_store *s, uint64_t *cursor,
		     struct pgmap_file_info *info)
{
	int ret = -ENOENT;

	if (!s || !cursor || !info || info->size != sizeof(*info))
		return -EINVAL;
	pg_read_lock(&s->lock, LOCK_STORE);
	while (ret && *cursor + 1 < s->end_file) {
		struct pgmap_file *f = s->files + ++*cursor;

		if (f->state == PG_FILE_NAMED) {
			tell(f, info);
			ret = 0;
		}
	}
	pg_read_unlock(&s->lock, LOCK_STORE);
	return ret;
}

/* ---- Bytes ---- */

static unsigned char *byte_of(struct pgmap_store *s, const struct pg_extent *e,
			      uint64_t at)
{
	return s->dax->base + e->block * BLOCK + (at - e->index * BLOCK);
}

/* Bytes that the file has there; behind its end, zeros. */
static void copy_out(struct pgmap_file *f, uint64_t at, unsigned char *to,
		     uint64_t len)
{
	struct pgmap_store *s = f->store;
	uint64_t there = at < f->bytes ? min(len, f->bytes - at) : 0;
	struct pg_extent e;

	memset(to + there, 0, len - there);
	while (there) {
		uint64_t n = there;

		if (!pg_extents_next(&s->pool, &f->extents, at / BLOCK, &e)) {
			memset(to, 0, n);
		} else if (e.index * BLOCK > at) {
			n = min(n, e.index * BLOCK - at);
			memset(to, 0, n);
		} else {
			n = min(n, (e.index + e.nr) * BLOCK - at);
			memcpy(to, byte_of(s, &e, at), n);
		}
		at += n;
		to += n;
		there -= n;
	}
}

int pgmap_file_read(struct pgmap_file *f, uint64_t at, void *to, size_t len,
		    size_t *done)
{
	pg_read_lock(&f->store->lock, LOCK_STORE);
	*done = at < f->bytes ? min(len, f->bytes - at) : 0;
	copy_out(f, at, to, *done);
	pg_read_unlock(&f->store->lock, LOCK_STORE);
	return 0;
}

/* Bytes to be stored; NULL: zeros. */
static void copy_in(unsigned char *to, const unsigned char *from, uint64_t len)
{
	if (from)
		memcpy(to, from, len);
	else
		memset(to, 0, len);
}

static int flush(struct pgmap_store *s, const unsigned char *p, uint64_t len)
{
	if (pg_mutant("dax_bytes_are_not_flushed"))
		return 0;
	return pg_daxdev_flush(s->dax, (uint64_t)(p - s->dax->base), len);
}

/* Where a new block behind @index of the file best lies. */
static uint64_t goal_of(struct pgmap_file *f, uint64_t index)
{
	struct pg_extent e;

	if (!index ||
	    !pg_extents_next(&f->store->pool, &f->extents, index - 1, &e) ||
	    e.index >= index)
		return 0;
	return e.block + (index - e.index);
}

/*
 * Give the file new blocks for [@at, @at + @len), which is in holes or in
 * blocks that others have too, or for the beginning of it, with the bytes @from
 * there and, in the rest of the blocks, what is there. *@done: how much.
 */
static int write_new(struct pgmap_file *f, uint64_t at,
		     const unsigned char *from, uint64_t len, uint64_t *done)
{
	struct pgmap_store *s = f->store;
	uint64_t index = at / BLOCK, start = index * BLOCK, nr, block, n;
	unsigned char *p;
	int ret =
		pg_store_begin(s, f->state == PG_FILE_NAMED ? EXTENT_MORE : 1);

	if (ret)
		return ret;
	block = pg_blocks_find(&s->blocks, blocks_of(at + len) - index,
			       goal_of(f, index), &nr);
	if (!block)
		return -ENOSPC;
	n = min(len, (index + nr) * BLOCK - at);
	p = s->dax->base + block * BLOCK;
	copy_out(f, start, p, at - start);
	copy_in(p + (at - start), from, n);
	copy_out(f, at + n, p + (at - start) + n, start + nr * BLOCK - at - n);
	ret = flush(s, p, nr * BLOCK);
	if (ret)
		return ret;
	pg_store_item(s, PG_ITEM_EXTENT, 0, pg_file_number(f), index, block,
		      nr);
	if (at + n > f->bytes)
		pg_store_item(s, PG_ITEM_SIZE, 0, pg_file_number(f), at + n, 0,
			      0);
	ret = pg_store_commit(s, f);
	if (!ret)
		*done = n;
	return ret;
}

/* The same in blocks that are the file's alone: in place. */
static int write_old(struct pgmap_file *f, const struct pg_extent *e,
		     uint64_t at, const unsigned char *from, uint64_t len,
		     uint64_t *done)
{
	struct pgmap_store *s = f->store;
	unsigned char *p = byte_of(s, e, at);
	int ret = pg_store_begin(s, 0);

	if (ret)
		return ret;
	copy_in(p, from, len);
	ret = flush(s, p, len);
	if (!ret && at + len > f->bytes) {
		pg_store_item(s, PG_ITEM_SIZE, 0, pg_file_number(f), at + len,
			      0, 0);
		ret = pg_store_commit(s, f);
	}
	if (!ret)
		*done = len;
	return ret;
}

/* Blocks of @e from @index on, at most @nr, that are alike in being shared. */
static uint64_t alike(struct pgmap_store *s, const struct pg_extent *e,
		      uint64_t index, uint64_t nr, bool *own)
{
	uint64_t block = e->block + (index - e->index), n = 1;

	*own = pg_blocks_are_own(&s->blocks, block, 1);
	if (pg_blocks_are_own(&s->blocks, block, nr))
		return nr;
	while (n < nr && pg_blocks_are_own(&s->blocks, block + n, 1) == *own)
		n++;
	return n;
}

/* A part of it, from its beginning. */
static int write_some(struct pgmap_file *f, uint64_t at,
		      const unsigned char *from, uint64_t len, uint64_t *done)
{
	struct pgmap_store *s = f->store;
	uint64_t index = at / BLOCK, end;
	struct pg_extent e;
	bool own;

	if (!pg_extents_next(&s->pool, &f->extents, index, &e))
		return write_new(f, at, from, len, done);
	if (e.index > index)
		return write_new(f, at, from, min(len, e.index * BLOCK - at),
				 done);
	end = min(e.index + e.nr, blocks_of(at + len));
	end = index + alike(s, &e, index, end - index, &own);
	len = min(len, end * BLOCK - at);
	return own ? write_old(f, &e, at, from, len, done)
		   : write_new(f, at, from, len, done);
}

static int write_all(struct pgmap_file *f, uint64_t at,
		     const unsigned char *from, uint64_t len, uint64_t *done)
{
	*done = 0;
	while (*done < len) {
		uint64_t n = 0;
		int ret = write_some(f, at + *done, from ? from + *done : NULL,
				     len - *done, &n);

		if (ret)
			return ret;
		*done += n;
	}
	return 0;
}

/* What the file has of [@from, @to) is zeros, though its size may be less. */
static int make_zeros(struct pgmap_file *f, uint64_t from, uint64_t to)
{
	struct pgmap_store *s = f->store;
	struct pg_extent e;
	int ret = 0;

	while (!ret && from < to &&
	       pg_extents_next(&s->pool, &f->extents, from / BLOCK, &e)) {
		uint64_t at = max(from, e.index * BLOCK), nr, done = 0;
		bool own;

		if (at >= to)
			break;
		nr = min(e.index + e.nr, blocks_of(to)) - at / BLOCK;
		nr = alike(s, &e, at / BLOCK, nr, &own);
		from = min(to, (at / BLOCK + nr) * BLOCK);
		if (own) {
			memset(byte_of(s, &e, at), 0, from - at);
			ret = flush(s, byte_of(s, &e, at), from - at);
			continue;
		}
		/* The block that the file ends in becomes its own; of others
		 * behind the end, a sound store has none that are shared. */
		if (at % BLOCK) {
			ret = write_new(f, at, NULL, 0, &done);
			from = min(to, (at / BLOCK + 1) * BLOCK);
			continue;
		}
		ret = pg_store_begin(s, PG_ITEM_EXTENT_BYTES);
		if (!ret) {
			pg_store_item(s, PG_ITEM_HOLE, 0, pg_file_number(f),
				      at / BLOCK, nr, 0);
			ret = pg_store_commit(s, f);
		}
	}
	return ret;
}

/* The file is about to end at @to or later. */
static int expose(struct pgmap_file *f, uint64_t to)
{
	uint64_t bytes = f->bytes;
	int ret;

	if (to <= bytes || pg_mutant("dax_old_bytes_are_exposed"))
		return 0;
	ret = pg_store_begin(f->store, 0);
	return ret ? ret : make_zeros(f, bytes, to);
}

int pgmap_file_write(struct pgmap_file *f, uint64_t at, const void *from,
		     size_t len, size_t *done)
{
	uint64_t n = 0;
	int ret = 0;

	if (done)
		*done = 0;
	if (at > FILE_MAX || len > FILE_MAX - at)
		return -EFBIG;
	pg_write_lock(&f->store->lock, LOCK_STORE);
	if (len)
		ret = expose(f, at);
	if (!ret)
		ret = write_all(f, at, from, len, &n);
	pg_write_unlock(&f->store->lock, LOCK_STORE);
	if (done)
		*done = n;
	return ret;
}

/* Blocks for one hole of [@index, @end), or the beginning of one. *@next: how
 * far there is none. */
static int allocate_some(struct pgmap_file *f, uint64_t index, uint64_t end,
			 uint64_t *next)
{
	struct pgmap_store *s = f->store;
	uint64_t block, nr, want = end - index;
	struct pg_extent e;
	int ret;

	if (pg_extents_next(&s->pool, &f->extents, index, &e)) {
		if (e.index <= index) {
			*next = e.index + e.nr;
			return 0;
		}
		want = min(want, e.index - index);
	}
	ret = pg_store_begin(s, f->state == PG_FILE_NAMED ? EXTENT_MORE : 1);
	if (ret)
		return ret;
	block = pg_blocks_find(&s->blocks, want, goal_of(f, index), &nr);
	if (!block)
		return -ENOSPC;
	if (index * BLOCK < f->bytes) {
		unsigned char *p = s->dax->base + block * BLOCK;

		memset(p, 0, nr * BLOCK);
		ret = flush(s, p, nr * BLOCK);
		if (ret)
			return ret;
	}
	pg_store_item(s, PG_ITEM_EXTENT, 0, pg_file_number(f), index, block,
		      nr);
	*next = index + nr;
	return pg_store_commit(s, f);
}

int pgmap_file_allocate(struct pgmap_file *f, uint64_t at, uint64_t len)
{
	uint64_t index = at / BLOCK, end;
	int ret = 0;

	if (at > FILE_MAX || len > FILE_MAX - at)
		return -EFBIG;
	end = len ? blocks_of(at + len) : index;
	pg_write_lock(&f->store->lock, LOCK_STORE);
	while (!ret && index < end)
		ret = allocate_some(f, index, end, &index);
	pg_write_unlock(&f->store->lock, LOCK_STORE);
	return ret;
}

int pgmap_file_truncate(struct pgmap_file *f, uint64_t size)
{
	struct pgmap_store *s = f->store;
	uint32_t number = pg_file_number(f);
	uint64_t end = blocks_of(size);
	int ret;

	if (size > FILE_MAX)
		return -EFBIG;
	pg_write_lock(&s->lock, LOCK_STORE);
	ret = expose(f, size);
	if (!ret)
		ret = pg_store_begin(s, 0);
	if (!ret) {
		pg_store_item(s, PG_ITEM_SIZE, 0, number, size, 0, 0);
		if (size <= f->bytes)
			pg_store_item(s, PG_ITEM_HOLE, 0, number, end,
				      PG_FILE_BLOCKS - end, 0);
		ret = pg_store_commit(s, f);
	}
	pg_write_unlock(&s->lock, LOCK_STORE);
	return ret;
}

/* [@at, @at + @len), a part of one block: zeros, if it is no hole. */
static int punch_part(struct pgmap_file *f, uint64_t at, uint64_t len)
{
	struct pg_extent e;
	uint64_t done;

	if (!len ||
	    !pg_extents_next(&f->store->pool, &f->extents, at / BLOCK, &e) ||
	    e.index > at / BLOCK)
		return 0;
	return write_all(f, at, NULL, len, &done);
}

int pgmap_file_punch(struct pgmap_file *f, uint64_t at, uint64_t len)
{
	struct pgmap_store *s = f->store;
	uint64_t first = blocks_of(at), last, end;
	int ret = 0;

	if (at > FILE_MAX || len > FILE_MAX - at)
		return -EFBIG;
	pg_write_lock(&s->lock, LOCK_STORE);
	/* What is behind the end is anything. */
	end = at + len >= f->bytes ? blocks_of(at + len) * BLOCK : at + len;
	last = end / BLOCK;
	if (at < f->bytes) {
		end = min(end, f->bytes);
		ret = punch_part(f, at, min(end, first * BLOCK) - at);
		if (!ret && last >= first && end > last * BLOCK)
			ret = punch_part(f, last * BLOCK, end - last * BLOCK);
	}
	if (!ret && last > first) {
		ret = pg_store_begin(s, PG_ITEM_EXTENT_BYTES);
		if (!ret) {
			pg_store_item(s, PG_ITEM_HOLE, 0, pg_file_number(f),
				      first, last - first, 0);
			ret = pg_store_commit(s, f);
		}
	}
	pg_write_unlock(&s->lock, LOCK_STORE);
	return ret;
}

int pgmap_file_extent(struct pgmap_file *f, uint64_t at, struct pgmap_extent *x)
{
	struct pgmap_store *s = f->store;
	struct pg_extent e;
	bool own;

	if (!x || x->size != sizeof(*x))
		return -EINVAL;
	if (at > FILE_MAX)
		return -EFBIG;
	pg_read_lock(&s->lock, LOCK_STORE);
	*x = (struct pgmap_extent){.size = sizeof(*x), .at = at};
	if (!pg_extents_next(&s->pool, &f->extents, at / BLOCK, &e)) {
		x->len = PG_FILE_BLOCKS * BLOCK - at;
	} else if (e.index * BLOCK > at) {
		x->len = e.index * BLOCK - at;
	} else {
		uint64_t nr = alike(s, &e, at / BLOCK,
				    e.index + e.nr - at / BLOCK, &own);

		x->len = (at / BLOCK + nr) * BLOCK - at;
		x->device = (e.block - e.index) * BLOCK + at;
		x->shared = !own;
	}
	pg_read_unlock(&s->lock, LOCK_STORE);
	return 0;
}
