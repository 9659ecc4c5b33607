/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pgmap_check() notices every kind of damage. Each test breaks one thing,
 * asks, and puts it back.
 */
#include "core/allocator.h"
#include "world.h"

static char what[200];

static bool noticed(const char *rule)
{
	int ret;

	memset(what, 1, sizeof(what));
	ret = pgmap_check(&w.mm, what, sizeof(what));
	if (!ret) {
		CHECK_EQ(what[0], 0);
		return false;
	}
	CHECK_EQ(ret, -EUCLEAN);
	printf("# %s\n", what);
	return !strncmp(what, rule, strlen(rule));
}

static void set(size_t i, pg_pte_t e)
{
	pg_pt_lock(&w.mm.pt, AT(i));
	pg_pte_write(&w.mm.pt, AT(i), e);
	pg_pt_unlock(&w.mm.pt, AT(i));
}

static void open_used(void)
{
	world_open(64, 1024, 16);
	fill(0, 32);
	migrate(0, 16, true);
	CHECK(!noticed(""));
}

TEST(an_entry_that_cannot_be)
{
	pg_pte_t e;

	open_used();
	e = entry(3);
	set(3, pg_pte_make(PG_PTE_DEVICE, 1));
	CHECK(noticed("R51"));
	set(3, pg_pte_make(PG_PTE_DEVICE, w.dev->first_pfn + w.dev->nr_slots));
	CHECK(noticed("R51"));
	set(3, pg_pte_make(PG_PTE_MIGRATING, 5));
	CHECK(noticed("R84"));
	set(3, 7);
	CHECK(noticed("entry"));
	set(3, e);
	CHECK(!noticed(""));
	world_close();
}

TEST(a_lost_or_doubled_entry)
{
	pg_pte_t e;

	open_used();
	e = entry(3);
	set(3, PG_PTE_HOLE);
	CHECK(noticed("R52"));
	set(3, e);
	set(40, e);
	CHECK(noticed("R52"));
	set(40, PG_PTE_PRESENT);
	CHECK(noticed("budget"));
	set(40, PG_PTE_HOLE);
	e = entry(20);
	set(20, e | PG_PTE_STUCK);
	CHECK(noticed("stuck"));
	set(20, e);
	CHECK(!noticed(""));
	world_close();
}

TEST(a_folio_that_was_miscounted)
{
	struct pgmap_folio *folio;

	open_used();
	folio = folio_of(3);
	pgmap_folio_get(folio);
	CHECK(noticed("R52"));
	pgmap_folio_put(folio);
	pg_fetch_add(&folio->mapcount, 1, relaxed);
	CHECK(noticed("R52"));
	pg_fetch_sub(&folio->mapcount, 1, relaxed);
	CHECK(pgmap_folio_trylock(folio));
	CHECK(noticed("R84"));
	pgmap_folio_unlock(folio);
	/* A tail with a count of its own. */
	pg_store(&folio[1].flags, pg_load(&folio->flags, relaxed), relaxed);
	pg_store(&folio[1].count, 1, relaxed);
	CHECK(noticed("R35"));
	pg_store(&folio[1].count, 0, relaxed);
	pg_store(&folio[1].flags, 0, relaxed);
	CHECK(!noticed(""));
	world_close();
}

TEST(an_idle_page_with_a_past)
{
	struct pgmap_folio *folio;

	open_used();
	/* Inside the first chunk, behind the one folio that is in use. */
	folio = folio_of(0) + 100;
	folio->mapping = 5;
	CHECK(noticed("R46"));
	folio->mapping = 0;
	pg_store(&folio->mapcount, 1, relaxed);
	CHECK(noticed("R30"));
	pg_store(&folio->mapcount, 0, relaxed);
	CHECK(!noticed(""));
	world_close();
}

TEST(slots_that_are_lost_or_free_twice)
{
	struct pgmap_allocator *a;
	struct pg_alloc_map *m;
	uint64_t at, used;
	unsigned int o = 0;

	open_used();
	a = w.dev->allocator;
	m = a->maps;
	used = pgmap_folio_pfn(folio_of(0));
	while (!m->free[o])
		o++;
	at = m->free[o];
	m->free[o] = 0;
	CHECK(noticed("R45"));
	m->free[o] = used;
	CHECK(noticed("R30"));
	m->free[o] = at;
	a->nr_free--;
	CHECK(noticed("R45"));
	a->nr_free++;
	/* The first that is found is told. */
	pg_fetch_add(&w.mm.away, 1, relaxed);
	a->nr_free--;
	CHECK(noticed("R52") || noticed("R45"));
	a->nr_free++;
	pg_fetch_sub(&w.mm.away, 1, relaxed);
	a->shard[3].block[0] = (uint64_t)pg_map_id(w.dev->map) << 40 | used;
	a->shard[3].nr = 1;
	CHECK(noticed("R30"));
	a->shard[3].nr = 0;
	CHECK(!noticed(""));
	CHECK(pg_map_tryget_live(w.dev->map, 1));
	CHECK(noticed("R11"));
	pgmap_put(w.dev->map);
	CHECK(!noticed(""));
	world_close();
}

TEST(ranges_that_overlap_or_are_empty)
{
	open_used();
	w.mm.vma[1] = (struct pg_vma){AT(32), AT(40)};
	w.mm.nr_vma = 2;
	CHECK(noticed("vma"));
	w.mm.vma[1] = (struct pg_vma){AT(64), AT(65)}; /* should be joined */
	CHECK(noticed("vma"));
	w.mm.nr_vma = 1;
	w.mm.vma[0].end = w.mm.vma[0].start;
	CHECK(noticed("vma"));
	w.mm.vma[0].end = AT(64);
	CHECK(!noticed(""));
	world_close();
}

TEST(buffers_that_are_lost_or_miscounted)
{
	struct pg_buf *b;
	uint32_t next;

	open_used();
	CHECK(w.mm.pool.empty && w.mm.pool.full);
	b = pg_pool_get_empty(&w.mm.pool);
	CHECK(noticed("pool"));
	pg_pool_put(&w.mm.pool, b);
	/* A list that has no end. */
	b = &w.mm.pool.buf[w.mm.pool.empty - 1];
	next = b->next;
	b->next = w.mm.pool.empty;
	CHECK(noticed("pool"));
	b->next = next;
	b = &w.mm.pool.buf[w.mm.pool.full - 1];
	next = b->next;
	b->next = w.mm.pool.full;
	CHECK(noticed("pool"));
	b->next = next;
	pg_fetch_add(&w.mm.pool.filled, 1, relaxed);
	CHECK(noticed("pool"));
	pg_fetch_sub(&w.mm.pool.filled, 1, relaxed);
	pg_fetch_add(&w.mm.away, 1, relaxed);
	CHECK(noticed("R52"));
	pg_fetch_sub(&w.mm.away, 1, relaxed);
	CHECK(!noticed(""));
	world_close();
}

TEST(a_short_buffer_gets_a_short_answer)
{
	char small[4];

	open_used();
	pg_fetch_add(&w.mm.away, 1, relaxed);
	CHECK_EQ(pgmap_check(&w.mm, small, sizeof(small)), -EUCLEAN);
	assert_string_equal(small, "R52");
	pg_fetch_sub(&w.mm.away, 1, relaxed);
	world_close();
}

TEST_MAIN()
