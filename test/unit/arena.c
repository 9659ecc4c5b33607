/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * arena.c - objects of all sizes against copies of them, and the waste.
 */
#include <errno.h>

#include "base/arena.h"
#include "base/mem.h"
#include "test.h"

#define NR 3000u
#define PAGE 4096u
#define ALL UINT64_MAX

struct object {
	uint64_t ref;
	uint32_t len, stamp;
};

static struct object objects[NR];
static struct pg_arena arena;
static uint64_t seed;
static unsigned int nr_moved;
static char buf[PG_ARENA_MAX], got[PG_ARENA_MAX];

static void moved(void *arg, uint32_t owner, uint64_t old, uint64_t ref)
{
	CHECK(arg == objects);
	CHECK(owner < NR);
	CHECK_EQ(objects[owner].ref, old);
	objects[owner].ref = ref;
	nr_moved++;
}

static void setup(uint64_t bytes)
{
	if (!seed)
		seed = test_seed();
	memset(objects, 0, sizeof(objects));
	nr_moved = 0;
	CHECK_EQ(pg_arena_init(&arena, bytes, moved, objects), 0);
}

/* Contents that follow from a number. */
static void fill(uint32_t stamp, uint32_t len)
{
	uint64_t s = stamp * 2654435761ull | 1;

	for (uint32_t i = 0; i < len; i += 8) {
		uint64_t word = test_random(&s);

		memcpy(buf + i, &word, len - i < 8 ? len - i : 8);
	}
}

static void check(const struct object *o)
{
	uint32_t from = (uint32_t)test_random(&seed) % o->len;

	fill(o->stamp, o->len);
	pg_arena_read(&arena, o->ref, 0, got, o->len);
	assert_memory_equal(got, buf, o->len);
	pg_arena_read(&arena, o->ref, from, got, o->len - from);
	assert_memory_equal(got, buf + from, o->len - from);
}

static int put(uint32_t i, uint32_t len, uint64_t room)
{
	int ret;

	objects[i].stamp = (uint32_t)test_random(&seed);
	fill(objects[i].stamp, len);
	ret = pg_arena_alloc(&arena, buf, len, i, room, &objects[i].ref);
	objects[i].len = ret ? 0 : len;
	return ret;
}

static void del(uint32_t i)
{
	uint32_t len = objects[i].len;

	objects[i].len = 0; /* first: a moved object is another one */
	pg_arena_free(&arena, objects[i].ref, len);
}

/* Small ones are common, and each power of two and its neighbours come. */
static uint32_t any_len(void)
{
	uint32_t bits = (uint32_t)test_random(&seed) % 17;
	uint32_t len = (1u << bits) + (uint32_t)test_random(&seed) % 3 - 1;

	if (test_random(&seed) % 2)
		len = (uint32_t)test_random(&seed) % ((1u << bits) + 1);
	return len < 1 ? 1 : len > PG_ARENA_MAX ? PG_ARENA_MAX : len;
}

TEST(objects_stay_what_they_are_while_others_come_and_go)
{
	setup(1ull << 30);
	for (int step = 0; step < 30000; step++) {
		uint32_t i = (uint32_t)test_random(&seed) % NR;

		if (!objects[i].len) {
			CHECK_EQ(put(i, any_len(), ALL), 0);
		} else {
			check(&objects[i]);
			if (test_random(&seed) % 2)
				del(i);
		}
	}
	CHECK(nr_moved > 100);
	for (uint32_t i = 0; i < NR; i++)
		if (objects[i].len) {
			check(&objects[i]);
			del(i);
		}
	CHECK(pg_arena_bytes(&arena) <= 1 << 20);
	pg_arena_fini(&arena);
}

TEST(every_length_is_kept_whole)
{
	setup(1ull << 30);
	for (uint32_t len = 1; len <= PG_ARENA_MAX;
	     len += len < 2100 ? 1 : 53) {
		CHECK_EQ(put(0, len, ALL), 0);
		CHECK_EQ(put(1, len, ALL), 0);
		check(&objects[0]);
		del(0);
		check(&objects[1]);
		del(1);
	}
	CHECK_EQ(put(0, PG_ARENA_MAX, ALL), 0);
	check(&objects[0]);
	pg_arena_fini(&arena);
}

TEST(an_arena_does_not_grow_beyond_the_room_it_is_given)
{
	uint64_t before;
	uint32_t i = 0;

	setup(1ull << 30);
	CHECK_EQ(put(0, 1, 0), -ENOSPC);
	CHECK_EQ(pg_arena_bytes(&arena), 0);
	for (;;) {
		uint64_t room = (1 << 20) - pg_arena_bytes(&arena);

		if (put(i, any_len(), room))
			break;
		CHECK(pg_arena_bytes(&arena) <= 1 << 20);
		i++;
	}
	CHECK(pg_arena_bytes(&arena) > 900 << 10);
	before = pg_arena_bytes(&arena);
	CHECK_EQ(put(i, 60000, 4 * PAGE), -ENOSPC);
	CHECK_EQ(pg_arena_bytes(&arena), before);
	while (i--)
		check(&objects[i]);
	pg_arena_fini(&arena);
}

TEST(memory_goes_back_when_objects_of_any_size_go)
{
	uint64_t live = 0;

	setup(1ull << 30);
	for (uint32_t i = 0; i < NR; i++)
		CHECK_EQ(put(i, 1 + (uint32_t)test_random(&seed) % PG_ARENA_MAX,
			     ALL),
			 0);
	/* Nine of ten, in no order. */
	for (uint32_t i = 0; i < NR; i++)
		if (i % 10)
			del(i * 7 % NR);
	for (uint32_t i = 0; i < NR; i++)
		live += objects[i].len;
	CHECK(live > 5 << 20);
	CHECK(pg_arena_bytes(&arena) < live + live / 25 + (1 << 20));
	pg_arena_fini(&arena);
}

TEST(init_survives_the_failure_of_any_mapping)
{
	for (unsigned int nth = 1; nth <= 2; nth++) {
		memset(&arena, 0, sizeof(arena));
		pg_mem_fail_nth(nth);
		CHECK_EQ(pg_arena_init(&arena, 1 << 20, moved, NULL), -ENOMEM);
	}
	pg_mem_fail_nth(0);
	CHECK_EQ(pg_arena_init(&arena, ALL, moved, NULL), -ENOMEM);
}

TEST_MAIN()
