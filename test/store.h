/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * store.h - a store on memory that a test can cut off, and a model of what its
 * files must hold.
 */
#ifndef TEST_STORE_H
#define TEST_STORE_H

#include <errno.h>
#include <sys/mman.h>

#include "dax/store.h"
#include "test.h"

#define BLOCK PGMAP_STORE_BLOCK
#define NR_NAMES 10u
#define MAX_BYTES (24 * BLOCK)

/** image_new() - Memory in which each access behind its end, or before it, is a
 * crash. @shared: with children. */
static inline unsigned char *image_new(uint64_t bytes, bool shared)
{
	unsigned char *p = mmap(
		NULL, bytes + 2 * BLOCK, PROT_NONE,
		(shared ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	CHECK_EQ(mprotect(p + BLOCK, bytes, PROT_READ | PROT_WRITE), 0);
	return p + BLOCK;
}

static inline void image_free(unsigned char *p, uint64_t bytes)
{
	munmap(p - BLOCK, bytes + 2 * BLOCK);
}

struct model_file {
	bool there;
	uint64_t bytes;
	unsigned char data[MAX_BYTES]; /* behind bytes: zeros */
};

struct model {
	struct model_file file[NR_NAMES];
};

enum op_type {
	OP_CREATE,
	OP_UNLINK,
	OP_RENAME,
	OP_REFLINK,
	OP_WRITE,
	OP_TRUNCATE,
	OP_PUNCH,
	OP_ALLOCATE,
	OP_SNAPSHOT,
	OP_NR
};

struct op {
	enum op_type type;
	unsigned int name, other;
	uint64_t at, len;
	unsigned char byte;
};

static inline const char *name_of(unsigned int i)
{
	static const char *const names[NR_NAMES] = {
		"a",
		"b",
		"c",
		"a name of more than eight bytes",
		"eight888",
		"f",
		"g",
		"h",
		"i",
		("0123456789012345678901234567890123456789012345678901234567"
		 "8901234567890123456789012345678901234567890123456789012345"),
	};

	return names[i];
}

static inline struct op op_random(uint64_t *seed)
{
	static const unsigned char weight[OP_NR] = {2, 2, 2, 3, 12, 3, 3, 2, 1};
	uint64_t r = test_random(seed), n = r % 30;
	struct op op = {0};

	while (n >= weight[op.type])
		n -= weight[op.type++];
	op.name = r >> 8 & 0xff ? (unsigned int)((r >> 16) % NR_NAMES) : 0;
	op.other = (unsigned int)((r >> 24) % NR_NAMES);
	r = test_random(seed);
	op.at = (r >> 8) % MAX_BYTES;
	op.len = (r >> 32) % (r & 1 ? 3 * BLOCK : 200) + 1;
	if (r & 2)
		op.at &= ~(uint64_t)(BLOCK - 1);
	if (r & 4)
		op.len = (op.len + BLOCK - 1) & ~(uint64_t)(BLOCK - 1);
	if (op.len > MAX_BYTES - op.at)
		op.len = MAX_BYTES - op.at;
	op.byte = (unsigned char)(1 + (r >> 48) % 255);
	return op;
}

static inline int model_do(struct model *m, const struct op *op)
{
	struct model_file *f = m->file + op->name, *g = m->file + op->other;

	if (op->type == OP_SNAPSHOT)
		return 0;
	if (op->type == OP_CREATE) {
		f->there = true;
		return 0;
	}
	if (!f->there)
		return -ENOENT;
	switch (op->type) {
	case OP_UNLINK:
		memset(f, 0, sizeof(*f));
		return 0;
	case OP_RENAME:
		if (f != g) {
			*g = *f;
			memset(f, 0, sizeof(*f));
		}
		return 0;
	case OP_REFLINK:
		if (g->there)
			return -EEXIST;
		*g = *f;
		return 0;
	case OP_WRITE:
		for (uint64_t i = 0; i < op->len; i++)
			f->data[op->at + i] = (unsigned char)(op->byte + i % 7);
		if (f->bytes < op->at + op->len)
			f->bytes = op->at + op->len;
		return 0;
	case OP_TRUNCATE:
		if (op->at < f->bytes)
			memset(f->data + op->at, 0, f->bytes - op->at);
		f->bytes = op->at;
		return 0;
	case OP_PUNCH:
		memset(f->data + op->at, 0, op->len);
		return 0;
	default:
		return 0;
	}
}

static inline int file_do(struct pgmap_file *f, const struct op *op)
{
	unsigned char data[MAX_BYTES];

	switch (op->type) {
	case OP_WRITE:
		for (uint64_t i = 0; i < op->len; i++)
			data[i] = (unsigned char)(op->byte + i % 7);
		return pgmap_file_write(f, op->at, data, op->len, NULL);
	case OP_TRUNCATE:
		return pgmap_file_truncate(f, op->at);
	case OP_PUNCH:
		return pgmap_file_punch(f, op->at, op->len);
	default:
		return pgmap_file_allocate(f, op->at, op->len);
	}
}

static inline int store_do(struct pgmap_store *s, const struct op *op)
{
	const char *name = name_of(op->name), *other = name_of(op->other);
	struct pgmap_file *f;
	int ret;

	switch (op->type) {
	case OP_UNLINK:
		return pgmap_store_unlink(s, name);
	case OP_RENAME:
		return pgmap_store_rename(s, name, other, 0);
	case OP_REFLINK:
		return pgmap_store_reflink(s, name, other);
	case OP_SNAPSHOT:
		pg_write_lock(&s->lock, LOCK_STORE);
		ret = pg_store_snapshot(s);
		pg_write_unlock(&s->lock, LOCK_STORE);
		return ret;
	default:
		ret = pgmap_file_open(
			s, name, op->type == OP_CREATE ? PGMAP_FILE_CREATE : 0,
			&f);
		if (ret)
			return ret;
		if (op->type != OP_CREATE)
			ret = file_do(f, op);
		pgmap_file_close(f);
		return ret;
	}
}

/** model_read() - What the store has. */
static inline void model_read(struct pgmap_store *s, struct model *m)
{
	memset(m, 0, sizeof(*m));
	for (unsigned int i = 0; i < NR_NAMES; i++) {
		struct model_file *to = m->file + i;
		struct pgmap_file_info info = {.size = sizeof(info)};
		struct pgmap_file *f;
		size_t n;

		if (pgmap_file_open(s, name_of(i), 0, &f))
			continue;
		to->there = true;
		CHECK_EQ(pgmap_file_get_info(f, &info), 0);
		to->bytes = info.bytes;
		CHECK(to->bytes <= MAX_BYTES);
		CHECK_EQ(pgmap_file_read(f, 0, to->data, MAX_BYTES, &n), 0);
		CHECK_EQ(n, to->bytes);
		pgmap_file_close(f);
	}
}

static inline bool file_is(const struct model_file *a,
			   const struct model_file *b)
{
	return a->there == b->there && a->bytes == b->bytes &&
	       !memcmp(a->data, b->data, MAX_BYTES);
}

static inline bool model_is(const struct model *a, const struct model *b)
{
	for (unsigned int i = 0; i < NR_NAMES; i++)
		if (!file_is(a->file + i, b->file + i))
			return false;
	return true;
}

/** model_between() - Is @m what a crash may leave of @op, which makes @after of
 * @before? */
static inline bool model_between(const struct model *m,
				 const struct model *before,
				 const struct model *after, const struct op *op)
{
	const struct model_file *f, *b, *a;

	if (model_is(m, before) || model_is(m, after))
		return true;
	if (op->type != OP_WRITE && op->type != OP_PUNCH)
		return false;
	for (unsigned int i = 0; i < NR_NAMES; i++)
		if (i != op->name && !file_is(m->file + i, before->file + i))
			return false;
	f = m->file + op->name;
	b = before->file + op->name;
	a = after->file + op->name;
	if (!f->there || f->bytes < b->bytes || f->bytes > a->bytes)
		return false;
	for (uint64_t i = 0; i < MAX_BYTES; i++)
		if (f->data[i] != b->data[i] &&
		    (f->data[i] != a->data[i] || i >= f->bytes))
			return false;
	return true;
}

static inline void say(void *arg, const char *line)
{
	*(bool *)arg = true;
	print_message("# %s\n", line);
}

#endif
