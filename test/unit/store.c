/* SPDX-License-Identifier: BSD-3-Clause */
/* Single promises of a store; random ones are in test/model/store.c. */
#include <time.h>

#include "store.h"

#define BYTES (512u * 1024)
#define HALF (32u * 1024)

static struct {
	unsigned char *mem;
	uint64_t bytes;
	struct pgmap_dax dax;
	struct pgmap_store *s;
	char error[256];
	bool bad;
} t;

static int reopen(void)
{
	int ret;

	t.error[0] = 0;
	ret = pgmap_store_open(&t.dax, &t.s, t.error, sizeof(t.error));
	if (ret)
		t.s = NULL;
	return ret;
}

static void start_with(uint64_t bytes, uint64_t half)
{
	memset(&t, 0, sizeof(t));
	t.bytes = bytes;
	t.mem = image_new(bytes, false);
	pg_daxdev_init(&t.dax, t.mem, bytes);
	CHECK_EQ(pgmap_store_format(&t.dax, half), 0);
	CHECK_EQ(reopen(), 0);
}

static void start(void)
{
	start_with(BYTES, HALF);
}

static void end(void)
{
	pgmap_store_close(t.s);
	image_free(t.mem, t.bytes);
}

static struct pgmap_file *open_file(const char *name)
{
	struct pgmap_file *f = NULL;

	CHECK_EQ(pgmap_file_open(t.s, name, PGMAP_FILE_CREATE, &f), 0);
	return f;
}

/* @len times @byte at @at. */
static int fill(struct pgmap_file *f, uint64_t at, size_t len, int byte)
{
	char *p = malloc(len);
	int ret;

	memset(p, byte, len);
	ret = pgmap_file_write(f, at, p, len, NULL);
	free(p);
	return ret;
}

static int make(const char *name, size_t len, int byte)
{
	struct pgmap_file *f;
	int ret = pgmap_file_open(t.s, name, PGMAP_FILE_CREATE, &f);

	if (ret)
		return ret;
	if (len)
		ret = fill(f, 0, len, byte);
	pgmap_file_close(f);
	return ret;
}

static unsigned char byte_at(struct pgmap_file *f, uint64_t at)
{
	unsigned char c = 0xee;
	size_t n;

	CHECK_EQ(pgmap_file_read(f, at, &c, 1, &n), 0);
	return c;
}

static uint64_t nr_free(void)
{
	struct pgmap_store_info info = {.size = sizeof(info)};

	CHECK_EQ(pgmap_store_get_info(t.s, &info), 0);
	return info.free / BLOCK;
}

static struct pgmap_extent extent(struct pgmap_file *f, uint64_t at)
{
	struct pgmap_extent x = {.size = sizeof(x)};

	CHECK_EQ(pgmap_file_extent(f, at, &x), 0);
	return x;
}

TEST(what_was_written_is_there_after_it_was_closed)
{
	struct pgmap_file *f;

	start();
	CHECK_EQ(make("a", 10000, 'x'), 0);
	CHECK_EQ(pgmap_store_close(t.s), 0);
	CHECK_EQ(reopen(), 0);
	CHECK_EQ(pgmap_file_open(t.s, "a", 0, &f), 0);
	CHECK_EQ(byte_at(f, 9999), 'x');
	CHECK_EQ(byte_at(f, 10000), 0xee);
	pgmap_file_close(f);
	end();
}

TEST(names_that_no_file_has)
{
	char longest[PGMAP_NAME_MAX + 2];
	struct pgmap_file *f;

	start();
	memset(longest, 'n', sizeof(longest));
	longest[PGMAP_NAME_MAX + 1] = 0;
	CHECK_EQ(make(longest, 0, 0), -EINVAL);
	longest[PGMAP_NAME_MAX] = 0;
	CHECK_EQ(make(longest, 0, 0), 0);
	CHECK_EQ(make("", 0, 0), -EINVAL);
	CHECK_EQ(make("a/b", 0, 0), -EINVAL);
	CHECK_EQ(pgmap_file_open(t.s, "a", 0, &f), -ENOENT);
	CHECK_EQ(pgmap_store_unlink(t.s, "a"), -ENOENT);
	CHECK_EQ(pgmap_store_rename(t.s, "a", "b", 0), -ENOENT);
	CHECK_EQ(pgmap_store_rename(t.s, longest, "a/b", 0), -EINVAL);
	CHECK_EQ(make("b", 0, 0), 0);
	CHECK_EQ(pgmap_store_rename(t.s, longest, "b", PGMAP_RENAME_NOREPLACE),
		 -EEXIST);
	CHECK_EQ(pgmap_file_open(t.s, "b", PGMAP_FILE_CREATE | PGMAP_FILE_EXCL,
				 &f),
		 -EEXIST);
	end();
}

TEST(an_open_file_that_is_unlinked_keeps_its_blocks_until_it_is_closed)
{
	struct pgmap_file *f;
	uint64_t before;

	start();
	before = nr_free();
	f = open_file("a");
	CHECK_EQ(fill(f, 0, 5 * BLOCK, 'a'), 0);
	CHECK_EQ(pgmap_store_unlink(t.s, "a"), 0);
	CHECK_EQ(nr_free(), before - 5);
	CHECK_EQ(make("b", (before - 5) * BLOCK, 'b'), 0);
	CHECK_EQ(byte_at(f, 5 * BLOCK - 1), 'a');
	/* It can be written to, though nothing of it is in the journal. */
	CHECK_EQ(fill(f, BLOCK, BLOCK, 'c'), 0);
	CHECK_EQ(pgmap_file_truncate(f, 2 * BLOCK), 0);
	CHECK_EQ(byte_at(f, BLOCK), 'c');
	CHECK_EQ(nr_free(), 3);
	pgmap_file_close(f);
	CHECK_EQ(nr_free(), 5);
	CHECK_EQ(pgmap_store_close(t.s), 0);
	CHECK_EQ(reopen(), 0);
	CHECK_EQ(nr_free(), 5);
	end();
}

TEST(what_is_behind_the_end_of_a_file_never_shows)
{
	struct pgmap_file *f;

	start();
	f = open_file("a");
	CHECK_EQ(fill(f, 0, BLOCK, 'a'), 0);
	CHECK_EQ(pgmap_file_truncate(f, 10), 0);
	CHECK_EQ(fill(f, 100, 1, 'b'), 0);
	CHECK_EQ(byte_at(f, 9), 'a');
	for (uint64_t i = 10; i < 100; i++)
		CHECK_EQ(byte_at(f, i), 0);
	CHECK_EQ(byte_at(f, 100), 'b');
	CHECK_EQ(pgmap_file_truncate(f, 50), 0);
	CHECK_EQ(pgmap_store_reflink(t.s, "a", "shared"), 0);
	CHECK_EQ(pgmap_file_truncate(f, BLOCK), 0);
	CHECK_EQ(byte_at(f, 100), 0);
	/* Blocks that were allocated behind the end held other bytes once. */
	CHECK_EQ(pgmap_file_truncate(f, 0), 0);
	CHECK_EQ(make("b", nr_free() * BLOCK, 'z'), 0);
	CHECK_EQ(pgmap_store_unlink(t.s, "b"), 0);
	CHECK_EQ(pgmap_file_allocate(f, 0, 4 * BLOCK), 0);
	CHECK_EQ(pgmap_file_truncate(f, 4 * BLOCK), 0);
	for (uint64_t i = 0; i < 4 * BLOCK; i += 64)
		CHECK_EQ(byte_at(f, i), 0);
	pgmap_file_close(f);
	end();
}

TEST(files_share_blocks_until_one_is_written_to)
{
	struct pgmap_file *a, *b;
	uint64_t before;

	start();
	a = open_file("a");
	CHECK_EQ(fill(a, 0, 4 * BLOCK, 'a'), 0);
	before = nr_free();
	CHECK_EQ(pgmap_store_reflink(t.s, "a", "b"), 0);
	CHECK_EQ(pgmap_store_reflink(t.s, "a", "b"), -EEXIST);
	CHECK_EQ(nr_free(), before);
	b = open_file("b");
	CHECK_EQ(extent(a, 0).device, extent(b, 0).device);
	CHECK(extent(b, 0).shared);
	CHECK_EQ(fill(b, BLOCK + 5, 1, 'b'), 0);
	CHECK_EQ(nr_free(), before - 1);
	CHECK_EQ(byte_at(a, BLOCK + 5), 'a');
	CHECK_EQ(byte_at(b, BLOCK + 5), 'b');
	CHECK_EQ(byte_at(b, BLOCK + 4), 'a');
	CHECK(!extent(b, BLOCK).shared);
	CHECK_EQ(extent(b, BLOCK).len, BLOCK);
	CHECK(extent(b, 0).shared);
	pgmap_file_close(a);
	pgmap_file_close(b);
	end();
}

TEST(a_full_store_takes_nothing_and_lets_go)
{
	struct pgmap_file *f;

	start();
	f = open_file("a");
	CHECK_EQ(make("b", nr_free() * BLOCK, 'b'), 0);
	CHECK_EQ(nr_free(), 0);
	CHECK_EQ(fill(f, 0, 1, 'a'), -ENOSPC);
	CHECK_EQ(pgmap_file_allocate(f, 0, 1), -ENOSPC);
	CHECK_EQ(pgmap_file_truncate(f, 1 << 20), 0);
	CHECK_EQ(byte_at(f, 1000), 0);
	CHECK_EQ(pgmap_store_unlink(t.s, "b"), 0);
	CHECK_EQ(fill(f, 0, 1, 'a'), 0);
	pgmap_file_close(f);
	end();
}

TEST(a_full_journal_takes_no_file_and_lets_go)
{
	char name[32];
	unsigned int n = 0;
	int ret;

	start();
	do {
		snprintf(name, sizeof(name), "file %u", n++);
		ret = make(name, 0, 0);
	} while (!ret);
	CHECK_EQ(ret, -ENOSPC);
	CHECK(n > HALF / 8 * 7 / 40);
	/* Changes that make it no longer go on for ever. */
	for (unsigned int i = 0; i < 1000; i++) {
		struct pgmap_file *f;

		CHECK_EQ(pgmap_file_open(t.s, "file 0", 0, &f), 0);
		CHECK_EQ(pgmap_file_truncate(f, i), 0);
		pgmap_file_close(f);
	}
	CHECK_EQ(pgmap_store_unlink(t.s, "file 1"), 0);
	CHECK_EQ(make("file 1", 0, 0), 0);
	CHECK_EQ(make("one more", 0, 0), -ENOSPC);
	CHECK_EQ(pgmap_store_close(t.s), 0);
	CHECK_EQ(reopen(), 0);
	CHECK_EQ(t.s->nr_files, n - 1);
	end();
}

TEST(a_block_has_at_most_65536_owners)
{
	char name[32];

	start_with(16 << 20, 6 << 20);
	CHECK_EQ(make("a", 1, 'a'), 0);
	for (unsigned int i = 0; i < 65535; i++) {
		snprintf(name, sizeof(name), "%u", i);
		CHECK_EQ(pgmap_store_reflink(t.s, "a", name), 0);
	}
	CHECK_EQ(pgmap_store_reflink(t.s, "a", "more"), -EMLINK);
	CHECK_EQ(pgmap_store_unlink(t.s, "7"), 0);
	CHECK_EQ(pgmap_store_reflink(t.s, "a", "more"), 0);
	end();
}

TEST(what_is_opened_to_be_read_is_not_written)
{
	struct pgmap_file *f;

	start();
	CHECK_EQ(make("a", 100, 'a'), 0);
	pg_store_free(t.s);
	t.dax.readonly = true;
	CHECK_EQ(mprotect(t.mem, BYTES, PROT_READ), 0);
	CHECK_EQ(reopen(), 0);
	CHECK_EQ(make("b", 0, 0), -EROFS);
	CHECK_EQ(pgmap_store_unlink(t.s, "a"), -EROFS);
	CHECK_EQ(pgmap_store_rename(t.s, "a", "b", 0), -EROFS);
	CHECK_EQ(pgmap_store_reflink(t.s, "a", "b"), -EROFS);
	f = open_file("a");
	CHECK_EQ(fill(f, 0, 1, 'b'), -EROFS);
	CHECK_EQ(fill(f, 5000, 1, 'b'), -EROFS);
	CHECK_EQ(pgmap_file_truncate(f, 5000), -EROFS);
	CHECK_EQ(pgmap_file_truncate(f, 1), -EROFS);
	CHECK_EQ(pgmap_file_punch(f, 0, 4096), -EROFS);
	CHECK_EQ(pgmap_file_allocate(f, 0, 8192), -EROFS);
	pgmap_file_close(f);
	CHECK_EQ(pgmap_store_format(&t.dax, 0), -EROFS);
	end();
}

static int fail_flush(struct pgmap_dax *dax, uint64_t at, uint64_t len)
{
	(void)dax;
	(void)at;
	(void)len;
	return -EIO;
}

TEST(a_device_that_fails_changes_nothing_any_more)
{
	struct pgmap_file *f;

	start();
	CHECK_EQ(make("a", 100, 'a'), 0);
	t.dax.flush = fail_flush;
	CHECK_EQ(pgmap_store_unlink(t.s, "a"), -EIO);
	t.dax.flush = NULL;
	CHECK_EQ(make("b", 0, 0), -EIO);
	f = open_file("a");
	CHECK_EQ(byte_at(f, 99), 'a');
	pgmap_file_close(f);
	end();
}

/* ---- Damage ---- */

static int check_quietly(void)
{
	return pgmap_store_check(&t.dax, NULL, NULL);
}

TEST(each_flipped_bit_of_what_the_store_knows_is_noticed)
{
	uint64_t seed = test_seed(), used, closed;

	start();
	for (unsigned int i = 0; i < 20; i++) {
		char name[32];

		snprintf(name, sizeof(name), "file %u", i);
		CHECK_EQ(make(name, i * 1000, 'a'), 0);
	}
	used = t.s->journal.tail;
	CHECK_EQ(pgmap_store_close(t.s), 0);
	t.s = NULL;
	CHECK_EQ(check_quietly(), 0);
	closed = BLOCK + used;
	for (uint64_t i = 0; i < closed; i++) {
		unsigned char bit;

		if (i == sizeof(struct pg_super))
			i = BLOCK;
		bit = (unsigned char)(1u << (test_random(&seed) >> 32 & 7));
		t.mem[i] ^= bit;
		if (check_quietly() != -EUCLEAN)
			fail_msg("bit of byte %ju", (uintmax_t)i);
		t.mem[i] ^= bit;
	}
	for (uint64_t i = 0; i < sizeof(struct pg_super); i++) {
		t.mem[BYTES - BLOCK + i] ^= 4;
		CHECK_EQ(check_quietly(), -EUCLEAN);
		/* It can be used all the same. */
		CHECK_EQ(reopen(), 0);
		pg_store_free(t.s);
		t.mem[BYTES - BLOCK + i] ^= 4;
	}
	t.s = NULL;
	memset(t.mem, 0, sizeof(struct pg_super));
	CHECK_EQ(reopen(), 0);
	CHECK_EQ(t.s->nr_files, 20);
	end();
}

TEST(a_damaged_superblock_is_not_used)
{
	struct pg_super super;

	start();
	pgmap_store_close(t.s);
	memcpy(&super, t.mem, sizeof(super));
	super.nr_blocks -= 7;
	memcpy(t.mem, &super, sizeof(super));
	CHECK_EQ(reopen(), 0);
	CHECK_EQ(t.s->super.nr_blocks, BYTES / BLOCK);
	end();
}

TEST(an_older_half_does_not_stand_in_for_a_damaged_one)
{
	unsigned char *half;

	start();
	CHECK_EQ(make("a", 100, 'a'), 0);
	pg_write_lock(&t.s->lock, LOCK_STORE);
	CHECK_EQ(pg_store_snapshot(t.s), 0);
	pg_write_unlock(&t.s->lock, LOCK_STORE);
	CHECK_EQ(make("b", 100, 'b'), 0);
	half = pg_journal_at(&t.s->journal, t.s->journal.half, 0);
	pg_store_free(t.s);
	half[20] ^= 1;
	CHECK_EQ(reopen(), -EUCLEAN);
	CHECK(strstr(t.error, "generation 1"));
	half[20] ^= 1;
	CHECK_EQ(reopen(), 0);
	CHECK_EQ(t.s->nr_files, 2);
	end();
}

TEST(what_a_crash_left_of_a_snapshot_is_no_part_of_the_next_one)
{
	char name[256];

	start();
	for (unsigned int i = 0; i < 65; i++) {
		snprintf(name, sizeof(name), "%0200u", i);
		CHECK_EQ(make(name, 0, 0), 0);
	}
	/* Its first records are on the medium, but not the last one. */
	t.dax.flush = fail_flush;
	pg_write_lock(&t.s->lock, LOCK_STORE);
	CHECK_EQ(pg_store_snapshot(t.s), -EIO);
	pg_write_unlock(&t.s->lock, LOCK_STORE);
	t.dax.flush = NULL;
	pg_store_free(t.s);
	memset(t.mem + BLOCK + HALF + 12200, 0, HALF - 12200);
	CHECK_EQ(reopen(), 0);
	CHECK_EQ(t.s->journal.generation, 1);
	for (unsigned int i = 0; i < 65; i++) {
		snprintf(name, sizeof(name), "%0200u", i);
		CHECK_EQ(pgmap_store_unlink(t.s, name), 0);
	}
	pg_write_lock(&t.s->lock, LOCK_STORE);
	CHECK_EQ(pg_store_snapshot(t.s), 0);
	pg_write_unlock(&t.s->lock, LOCK_STORE);
	pg_store_free(t.s);
	if (reopen())
		fail_msg("%s", t.error);
	CHECK_EQ(t.s->journal.generation, 2);
	end();
}

TEST(an_image_that_is_cut_off_is_refused)
{
	start();
	pgmap_store_close(t.s);
	t.s = NULL;
	t.dax.bytes = BYTES - BLOCK;
	CHECK_EQ(reopen(), -EUCLEAN);
	CHECK(strstr(t.error, "cut off"));
	t.dax.bytes = BLOCK;
	CHECK_EQ(reopen(), -EUCLEAN);
	t.dax.bytes = BYTES;
	memset(t.mem, 0, BYTES);
	CHECK_EQ(reopen(), -EUCLEAN);
	CHECK_EQ(pgmap_store_format(&t.dax, BYTES), -EINVAL);
	end();
}

/* A change with a right sum, that no store has made. */
static void forge(const struct pg_item *it)
{
	struct pg_journal *j = &t.s->journal;
	uint32_t n = pg_item_bytes(it);

	if (!n)
		n = 24;
	CHECK_EQ(pg_journal_append(j, PG_RECORD_CHANGE, it, n), 0);
	pg_store_free(t.s);
}

static void refused(const struct pg_item *it, const char *why)
{
	start();
	CHECK_EQ(make("a", BLOCK, 'a'), 0);
	CHECK_EQ(make("b", BLOCK, 'b'), 0);
	forge(it);
	CHECK_EQ(reopen(), -EUCLEAN);
	if (!strstr(t.error, why))
		fail_msg("\"%s\", not \"%s\"", t.error, why);
	CHECK_EQ(check_quietly(), -EUCLEAN);
	end();
}

#define ITEM(t, f, ...)                                                        \
	(&(struct pg_item){.type = PG_ITEM_##t, .file = f, __VA_ARGS__})

TEST(a_forged_record_is_refused)
{
	uint64_t first = (BLOCK + 2 * HALF) / BLOCK, last = BYTES / BLOCK - 2;

	refused(ITEM(EXTENT, 1, .a = 5, .b = first, .c = 1), "another file");
	refused(ITEM(EXTENT, 1, .a = 5, .b = first - 1, .c = 1), "not on");
	refused(ITEM(EXTENT, 1, .a = 5, .b = last + 1, .c = 1), "not on");
	refused(ITEM(EXTENT, 1, .a = 5, .b = last, .c = 1ull << 40), "not on");
	refused(ITEM(EXTENT, 1, .a = 5, .b = last, .c = UINT64_MAX), "behind");
	refused(ITEM(EXTENT, 1, .a = PG_FILE_BLOCKS - 1, .b = last, .c = 2),
		"behind");
	refused(ITEM(EXTENT, 1, .a = 5, .b = last, .c = 0), "behind");
	refused(ITEM(EXTENT, 3, .a = 5, .b = last, .c = 1), "not there");
	refused(ITEM(EXTENT, 0, .a = 5, .b = last, .c = 1), "no file has");
	refused(ITEM(SIZE, HALF / 32 + 1, .a = 5), "no file has");
	refused(ITEM(SIZE, UINT32_MAX, .a = 5), "no file has");
	refused(ITEM(SIZE, 1, .a = UINT64_MAX), "no file has");
	refused(ITEM(HOLE, 1, .a = 5, .b = UINT64_MAX), "behind");
	refused(ITEM(DROP, 3), "not there");
	refused(ITEM(NAME, 3, .len = 1, .name = "b"), "one name");
	refused(ITEM(NAME, 3, .len = 3, .name = "a/b"), "so");
	refused(ITEM(NAME, 3, .len = 0), "so");
	refused(&(struct pg_item){.type = 77, .file = 1}, "is none");
}

TEST(a_record_does_not_reach_out_of_its_half)
{
	struct pg_record *r;
	struct pg_journal j;

	/* The second half ends where the device ends, but for two blocks. */
	start_with(19 * BLOCK, HALF);
	CHECK_EQ(make("a", 0, 0), 0);
	pg_write_lock(&t.s->lock, LOCK_STORE);
	CHECK_EQ(pg_store_snapshot(t.s), 0);
	pg_write_unlock(&t.s->lock, LOCK_STORE);
	j = t.s->journal;
	r = pg_journal_at(&j, j.half, j.tail);
	*r = (struct pg_record){
		.id = j.id,
		.generation = j.generation,
		.nonce = j.nonce,
		.seq = j.seq,
		.bytes = 1u << 30,
		.kind = PG_RECORD_CHANGE,
	};
	pg_store_free(t.s);
	CHECK_EQ(reopen(), 0);
	CHECK_EQ(t.s->nr_files, 1);
	end();
}

static double ms(const struct timespec *a, const struct timespec *b)
{
	return (double)(b->tv_sec - a->tv_sec) * 1e3 +
	       (double)(b->tv_nsec - a->tv_nsec) / 1e6;
}

TEST(a_store_of_100000_files_opens_soon)
{
	struct timespec at[5];
	char name[32];

	start_with(512 << 20, 16 << 20);
	clock_gettime(CLOCK_MONOTONIC, &at[0]);
	for (unsigned int i = 0; i < 100000; i++) {
		snprintf(name, sizeof(name), "file number %u", i);
		CHECK_EQ(make(name, 100, 'x'), 0);
	}
	clock_gettime(CLOCK_MONOTONIC, &at[1]);
	CHECK_EQ(pgmap_store_close(t.s), 0);
	clock_gettime(CLOCK_MONOTONIC, &at[2]);
	CHECK_EQ(reopen(), 0);
	clock_gettime(CLOCK_MONOTONIC, &at[3]);
	CHECK_EQ(t.s->nr_files, 100000);
	for (unsigned int i = 0; i < 100000; i++) {
		snprintf(name, sizeof(name), "file number %u", i);
		CHECK_EQ(pgmap_store_unlink(t.s, name), 0);
	}
	clock_gettime(CLOCK_MONOTONIC, &at[4]);
	printf("# create and write: %.0f/s; opened in %.1f ms; unlink: "
	       "%.0f/s\n",
	       1e8 / ms(&at[0], &at[1]), ms(&at[2], &at[3]),
	       1e8 / ms(&at[3], &at[4]));
	CHECK(ms(&at[2], &at[3]) < 3000);
	end();
}

TEST_MAIN()
