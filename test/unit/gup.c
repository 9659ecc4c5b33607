/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * References to the pages behind addresses: pins, and what they hold back.
 */
#include "spaces.h"

#include "core/devdax.h"
#include "core/gup.h"
#include "core/memory_failure.h"

#define VA (4 * GB)
#define PIN PG_GUP_PIN
#define WRITE PG_GUP_WRITE
#define LONG (PG_GUP_PIN | PG_GUP_LONGTERM)

static struct pg_space space;
static struct test_file file;
static struct pgmap *map;
static struct pg_gup_run runs[1024];
static size_t nr_runs;

/* @nr pages of a file on a map of @type, mapped at VA with entries of up to
 * @largest. */
static void open_file(enum pgmap_type type, uint64_t nr, enum pg_level largest)
{
	map = map_new(type, nr);
	file_init(&file, map);
	file.largest = largest;
	CHECK_EQ(pg_space_init(&space), 0);
	CHECK_EQ(pg_space_map(&space, VA, nr, PG_AREA_DAX, RW | PG_AREA_SHARED,
			      &file.mapping, 0),
		 0);
	nr_runs = 0;
}

static void close_file(void)
{
	check(&space);
	pg_space_fini(&space);
	map_end(map);
}

static int gup(uintptr_t va, uint64_t nr, uint32_t flags)
{
	return pg_gup(&space, va, nr, flags, runs, 1024, &nr_runs);
}

static void put(uint32_t flags)
{
	pg_gup_put(runs, nr_runs, flags);
	nr_runs = 0;
}

TEST(R158_pins_are_counted_exactly_at_every_order)
{
	open_file(PGMAP_FS_DAX, 1u << PGMAP_PUD_ORDER, PG_PTE);
	CHECK_EQ(gup(VA, 1, PIN), 0);
	CHECK_EQ(nr_runs, 1);
	CHECK_EQ(pgmap_folio_pins(rec(map, 0)), 1);
	/* Mapping and pin. */
	CHECK_EQ(pgmap_folio_count(rec(map, 0)), 2);
	/* Never taken for a pin, however many they are. */
	for (int i = 0; i < 2000; i++)
		pgmap_folio_get(rec(map, 0));
	CHECK_EQ(pgmap_folio_pins(rec(map, 0)), 1);
	for (int i = 0; i < 2000; i++)
		pgmap_folio_put(rec(map, 0));
	put(PIN);
	CHECK_EQ(pgmap_folio_pins(rec(map, 0)), 0);
	file.largest = PG_PMD;
	CHECK_EQ(gup(VA + 2 * MB, 512, PIN), 0);
	CHECK_EQ(nr_runs, 1);
	CHECK_EQ(runs[0].nr, 512);
	CHECK_EQ(pgmap_folio_pins(rec(map, 512)), 1);
	CHECK_EQ(pgmap_folio_count(rec(map, 512)), 2);
	put(PIN);
	CHECK_EQ(pgmap_folio_pins(rec(map, 512)), 0);
	CHECK_EQ(pgmap_folio_count(rec(map, 512)), 1);
	close_file();
}

TEST(a_range_is_held_in_runs_or_not_at_all)
{
	open_file(PGMAP_GENERIC, 4096, PG_PMD);
	/* From inside one 2 MB page to inside the third. */
	CHECK_EQ(gup(VA + 100 * PAGE, 1024, PIN), 0);
	CHECK_EQ(nr_runs, 3);
	CHECK_EQ(runs[0].pfn, map_pfn(map) + 100);
	CHECK_EQ(runs[0].nr, 412);
	CHECK_EQ(runs[1].nr, 512);
	CHECK_EQ(runs[2].nr, 100);
	put(PIN);
	/* Its end is not mapped: nothing is held. */
	CHECK_EQ(gup(VA + 4000 * PAGE, 200, PIN), -EFAULT);
	CHECK_EQ(pgmap_folio_pins(rec(map, 7 * 512)), 0);
	/* No room for all runs. */
	CHECK_EQ(pg_gup(&space, VA, 1024, PIN, runs, 1, &nr_runs), -ENOSPC);
	CHECK_EQ(pgmap_folio_pins(rec(map, 0)), 0);
	CHECK_EQ(pgmap_folio_pins(rec(map, 512)), 0);
	CHECK_EQ(gup(VA + 1, 1, PIN), -EINVAL);
	CHECK_EQ(gup(VA, 0, PIN), -EINVAL);
	nr_runs = 0;
	close_file();
}

TEST(R163_long_term_means_a_pin_and_no_peer_memory)
{
	open_file(PGMAP_GENERIC, 512, PG_PTE);
	CHECK_EQ(gup(VA, 1, PG_GUP_LONGTERM), -EINVAL);
	CHECK_EQ(gup(VA, 1, LONG | PG_GUP_P2PDMA), -EINVAL);
	CHECK_EQ(gup(VA, 1, LONG), 0);
	put(LONG);
	close_file();
}

TEST(R155_R162_each_type_has_its_rule_for_short_and_long)
{
	static const struct {
		enum pgmap_type type;
		uint32_t flags;
		int want;
	} t[] = {
		{PGMAP_FS_DAX, PIN, 0},
		{PGMAP_FS_DAX, PIN | WRITE, 0},
		{PGMAP_FS_DAX, LONG, -EOPNOTSUPP},
		{PGMAP_FS_DAX, LONG | WRITE, -EOPNOTSUPP},
		{PGMAP_GENERIC, PIN, 0},
		{PGMAP_GENERIC, LONG | WRITE, 0},
		{PGMAP_PCI_P2PDMA, PIN, -EREMOTEIO},
		{PGMAP_PCI_P2PDMA, LONG, -EREMOTEIO},
		{PGMAP_PCI_P2PDMA, PIN | PG_GUP_P2PDMA, 0},
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		open_file(t[i].type, 512, PG_PTE);
		CHECK_EQ(gup(VA, 1, t[i].flags), t[i].want);
		if (!t[i].want)
			put(t[i].flags);
		CHECK_EQ(pgmap_folio_pins(rec(map, 0)), 0);
		close_file();
	}
}

TEST(R156_peer_memory_only_for_who_asks_for_it)
{
	open_file(PGMAP_PCI_P2PDMA, 512, PG_PTE);
	CHECK_EQ(gup(VA, 1, 0), -EREMOTEIO);
	CHECK_EQ(pgmap_folio_count(rec(map, 0)), 1);
	CHECK_EQ(gup(VA, 1, PG_GUP_P2PDMA), 0);
	CHECK_EQ(pgmap_folio_count(rec(map, 0)), 2);
	put(PG_GUP_P2PDMA);
	close_file();
}

/* Anonymous memory, and what stands for RAM: a page of another map. */
static struct pg_mapping anon;
static struct pgmap *ram;

static int bring_to_ram(struct pgmap_fault *f)
{
	struct pgmap_folio *to;
	struct pg_area *a;
	enum pg_fault_code r;

	if (pgmap_folio_map(f->folio) == ram)
		return -EIO;
	to = folio_new(ram, 3, 0);
	to->mapping = (uintptr_t)&anon;

	a = pg_find_area(f->space, f->va);
	pg_zap_range(a, f->va, f->va + PAGE);
	r = pg_insert_folio(a, f->va, PG_PTE, to, pgmap_folio_pfn(to),
			    PG_E_WRITE);
	pgmap_folio_put(to);
	return r == PG_VM_NOPAGE ? 0 : -EIO;
}

/* At VA is page 5 of a map of @type. */
static void open_anon(enum pgmap_type type, uint32_t flags)
{
	struct pgmap_folio *f;

	map = map_new(type, 512);
	ram = map_new(PGMAP_COHERENT, 512);
	pg_mapping_init(&anon, NULL);
	CHECK_EQ(pg_space_init(&space), 0);
	CHECK_EQ(pg_space_map(&space, VA, 1, PG_AREA_ANON, RW, &anon, 0), 0);
	f = folio_new(map, 5, 0);
	f->mapping = (uintptr_t)&anon;
	CHECK_EQ(insert(&space, VA, PG_PTE, f, pgmap_folio_pfn(f),
			flags | PG_E_WRITE),
		 PG_VM_NOPAGE);
	pgmap_folio_put(f);
	on_fault = bring_to_ram;
}

static void close_anon(void)
{
	check(&space);
	pg_space_fini(&space);
	map_end(map);
	map_end(ram);
}

TEST(R155_a_coherent_page_must_go_to_ram_before_it_is_pinned_for_long)
{
	open_anon(PGMAP_COHERENT, 0);
	CHECK_EQ(gup(VA, 1, PIN), 0);
	CHECK_EQ(runs[0].pfn, map_pfn(map) + 5);
	put(PIN);
	/* It cannot: a lock is in the way. */
	CHECK(pgmap_folio_trylock(rec(map, 5)));
	CHECK_EQ(gup(VA, 1, LONG), -EBUSY);
	pgmap_folio_unlock(rec(map, 5));
	/* It does: what stands for RAM here is COHERENT too, so the pin is
	 * refused again, but the page has left. */
	CHECK_EQ(gup(VA, 1, LONG), -EBUSY);
	CHECK_EQ(pgmap_folio_count(rec(map, 5)), 0);
	close_anon();
}

TEST(R157_a_pin_keeps_the_map_without_a_reference_on_it)
{
	open_file(PGMAP_GENERIC, 512, PG_PTE);
	CHECK_EQ(gup(VA, 1, PIN), 0);
	CHECK_EQ(pg_map_refs(map), 1); /* the page's own */
	CHECK_EQ(pg_space_unmap(&space, VA, 512), 0);
	CHECK_EQ(pg_map_refs(map), 1);
	pgmap_kill(map);
	CHECK_EQ(pgmap_folio_count(runs[0].folio), 1);
	put(PIN);
	CHECK_EQ(pg_map_refs(map), 0);
	close_file();
}

TEST(R160_a_device_private_page_is_brought_back_first)
{
	open_anon(PGMAP_PRIVATE, PG_E_PRIVATE);
	CHECK_EQ(gup(VA, 1, PIN | WRITE), 0);
	CHECK_EQ(runs[0].pfn, map_pfn(ram) + 3);
	CHECK_EQ(pgmap_folio_count(rec(map, 5)), 0);
	put(PIN | WRITE);
	close_anon();
}

TEST(R159_permission_and_special_entries)
{
	open_file(PGMAP_GENERIC, 512, PG_PTE);
	CHECK_EQ(pg_space_protect(&space, VA, 512, PG_AREA_READ), 0);
	CHECK_EQ(pg_touch(&space, VA, false, NULL), PG_VM_NOPAGE);
	CHECK_EQ(gup(VA, 1, PIN | WRITE), -EFAULT);
	CHECK_EQ(gup(VA, 1, PIN), 0);
	put(PIN);
	CHECK_EQ(pg_space_protect(&space, VA, 512, 0), 0);
	CHECK_EQ(gup(VA + PAGE, 1, PIN), -EFAULT);
	CHECK_EQ(pg_space_map(&space, VA + GB, 1, PG_AREA_PFNMAP,
			      RW | PG_AREA_SHARED, &file.mapping, 0),
		 0);
	CHECK_EQ(insert_special(&space, VA + GB, PG_PTE, map_pfn(map) + 9,
				PG_E_WRITE),
		 PG_VM_NOPAGE);
	CHECK_EQ(gup(VA + GB, 1, PIN), -EFAULT);
	CHECK_EQ(pgmap_folio_count(rec(map, 9)), 0);
	close_file();
}

TEST(R159_the_fast_path_alone_faults_nothing_in)
{
	open_file(PGMAP_GENERIC, 512, PG_PTE);
	CHECK_EQ(gup(VA, 1, PIN | PG_GUP_FAST_ONLY), -EAGAIN);
	CHECK_EQ(file.faults, 0);
	CHECK_EQ(pg_touch(&space, VA, false, NULL), PG_VM_NOPAGE);
	CHECK_EQ(gup(VA, 1, PIN | PG_GUP_FAST_ONLY), 0);
	put(PIN);
	close_file();
}

TEST(R58_the_page_of_zeros_is_held_by_nobody)
{
	pg_mapping_init(&anon, NULL);
	CHECK_EQ(pg_space_init(&space), 0);
	CHECK_EQ(pg_space_map(&space, VA, 512, PG_AREA_ANON, RW, &anon, 0), 0);
	CHECK_EQ(gup(VA, 2, PIN), 0);
	for (size_t i = 0; i < nr_runs; i++)
		CHECK(runs[i].folio == NULL);
	put(PIN);
	CHECK_EQ(pg_gup(&space, VA, 2, PIN, runs, 1, &nr_runs), -ENOSPC);
	nr_runs = 0;
	check(&space);
	pg_space_fini(&space);
}

TEST(R164_who_wrote_leaves_the_page_dirty)
{
	open_file(PGMAP_FS_DAX, 512, PG_PTE);
	CHECK_EQ(gup(VA, 1, PIN), 0);
	put(PIN);
	CHECK(!pg_folio_marked(rec(map, 0), PG_FOLIO_DIRTY));
	CHECK_EQ(gup(VA, 1, PIN | WRITE), 0);
	put(PIN | WRITE);
	CHECK(pg_folio_marked(rec(map, 0), PG_FOLIO_DIRTY));
	close_file();
}

TEST(R165_mapped_pages_of_a_dying_map_can_be_pinned_and_no_others)
{
	open_file(PGMAP_GENERIC, 512, PG_PTE);
	CHECK_EQ(pg_touch(&space, VA, false, NULL), PG_VM_NOPAGE);
	pgmap_kill(map);
	CHECK_EQ(gup(VA, 1, PIN), 0);
	put(PIN);
	CHECK_EQ(gup(VA + PAGE, 1, PIN), -EFAULT);
	close_file();
}

TEST(R166_a_pin_stops_a_split_and_neither_munmap_nor_fork_nor_mprotect)
{
	struct pg_space child;
	struct pgmap_folio *f;

	open_file(PGMAP_GENERIC, 1024, PG_PMD);
	CHECK_EQ(gup(VA, 1, PIN), 0);
	f = runs[0].folio;
	CHECK_EQ(pg_space_init(&child), 0);
	CHECK_EQ(pg_space_fork(&space, &child), 0);
	pg_space_fini(&child);
	CHECK_EQ(pg_space_protect(&space, VA, 1024, PG_AREA_READ), 0);
	CHECK_EQ(pg_space_unmap(&space, VA, 512), 0);
	CHECK_EQ(pgmap_folio_count(f), 1);
	CHECK_EQ(pgmap_folio_pins(f), 1);
	CHECK(pgmap_folio_trylock(f));
	CHECK_EQ(pgmap_split_folio(f, 0), -EAGAIN);
	pgmap_folio_unlock(f);
	put(PIN);
	close_file();
}

/* One thread unmaps and gives the page another use; another pins by address.
 * A pin must never be on a page that the address did not name. */
/* One thread truncates a page and, when nobody holds it, gives it to somebody
 * else for a while; the other pins it by its address. */
static pg_atomic32 others, stop;

static enum pg_fault_code fault_if_not_truncated(struct pg_area *area,
						 uintptr_t va, uint64_t index,
						 enum pg_level level,
						 bool write)
{
	enum pg_fault_code ret;

	if (!pg_read_trylock(&file.mapping.invalidate, LOCK_INVALIDATE))
		return PG_VM_RETRY;
	ret = file_fault(area, va, index, level, write);
	pg_read_unlock(&file.mapping.invalidate, LOCK_INVALIDATE);
	return ret;
}

static const struct pg_mapping_ops truncated_ops = {
	.fault = fault_if_not_truncated,
};

static bool truncate_and_give(void)
{
	struct pgmap_folio *f;
	bool given = false;

	pg_write_lock(&file.mapping.invalidate, LOCK_INVALIDATE);
	pg_unmap_mapping_range(&file.mapping, 0, 1);
	if (!pgmap_get_folio(map, map_pfn(map), 0, &f)) {
		pg_store(&others, 1, seq_cst);
		given = true;
		for (int i = 0; i < 50; i++)
			pg_cpu_relax();
		pg_store(&others, 0, seq_cst);
		pgmap_folio_unlock(f);
		pgmap_folio_put(f);
	}
	pg_write_unlock(&file.mapping.invalidate, LOCK_INVALIDATE);
	return given;
}

static void *pin_and_look(void *arg)
{
	struct pg_gup_run run;
	uint64_t *n = arg;
	size_t nr;

	while (!pg_load(&stop, relaxed)) {
		if (pg_gup(&space, VA, 1, PIN, &run, 1, &nr))
			continue;
		for (int i = 0; i < 20; i++)
			MUST(!pg_load(&others, seq_cst));
		pg_gup_put(&run, nr, PIN);
		(*n)++;
	}
	return NULL;
}

TEST(N29_R154_a_pin_by_address_never_holds_what_the_address_lost)
{
	uint64_t pinned = 0, given = 0;
	pthread_t t;

	open_file(PGMAP_FS_DAX, 512, PG_PTE);
	file.mapping.ops = &truncated_ops;
	pg_store(&stop, 0, relaxed);
	pthread_create(&t, NULL, pin_and_look, &pinned);
	for (int i = 0; i < 500000; i++)
		given += truncate_and_give();
	pg_store(&stop, 1, relaxed);
	pthread_join(t, NULL);
	CHECK(pinned && given);
	close_file();
}

/* ---- Pages that went bad ---- */

static struct pg_mce told[8];
static size_t nr_told;

static void tell(const struct pg_mce *mce, void *arg)
{
	(void)arg;
	if (nr_told < 8)
		told[nr_told++] = *mce;
}

TEST(N34_R182_what_is_no_page_of_ours_to_fail)
{
	static const struct pgmap_ops ops = {
		.size = sizeof(ops),
		.folio_free = world_free,
		.migrate_to_ram = world_fault,
	};
	struct pgmap_desc d = {
		.size = sizeof(d),
		.type = PGMAP_GENERIC,
		.nr_range = 1,
		.range = {{0, 512}},
		.reserve = 16,
	};

	nr_told = 0;
	CHECK_EQ(pg_memory_failure(42, tell, NULL), -ENXIO);
	CHECK_EQ(pgmap_create(&d, &map), 0);
	/* The device's own data. */
	CHECK_EQ(pg_memory_failure(map_pfn(map) + 15, tell, NULL), -ENXIO);
	CHECK_EQ(pg_memory_failure(map_pfn(map) + 16, tell, NULL), 0);
	map_end(map);
	d.reserve = 0;
	d.ops = &ops;
	d.owner = &d;
	d.type = PGMAP_PRIVATE;
	CHECK_EQ(pgmap_create(&d, &map), 0);
	CHECK_EQ(pg_memory_failure(map_pfn(map), tell, NULL), -ENXIO);
	map_end(map);
	CHECK_EQ(nr_told, 0);
}

static int nr_asked, answer;

static int driver_says(struct pgmap *m, uint64_t pfn, uint64_t nr)
{
	CHECK(m == map);
	CHECK_EQ(pfn, map_pfn(map) + 3);
	CHECK_EQ(nr, 1);
	nr_asked++;
	return answer;
}

TEST(R182_the_driver_is_asked_first)
{
	static const struct pgmap_ops ops = {
		.size = sizeof(ops),
		.folio_free = world_free,
		.migrate_to_ram = world_fault,
		.memory_failure = driver_says,
	};
	struct pgmap_desc d = {
		.size = sizeof(d),
		.type = PGMAP_PRIVATE,
		.nr_range = 1,
		.range = {{0, 512}},
		.ops = &ops,
		.owner = &d,
	};
	struct pgmap_folio *f;

	CHECK_EQ(pgmap_create(&d, &map), 0);
	nr_asked = 0;
	answer = 0;
	CHECK_EQ(pg_memory_failure(map_pfn(map) + 3, tell, NULL), 0);
	CHECK_EQ(nr_asked, 1);
	/* It dealt with it: the page is not marked. */
	CHECK_EQ(pgmap_get_folio(map, map_pfn(map) + 3, 0, &f), 0);
	pgmap_folio_unlock(f);
	pgmap_folio_put(f);
	answer = -EIO;
	CHECK_EQ(pg_memory_failure(map_pfn(map) + 3, tell, NULL), -EIO);
	answer = -EOPNOTSUPP;
	CHECK_EQ(pg_memory_failure(map_pfn(map) + 3, tell, NULL), -ENXIO);
	map_end(map);
}

TEST(R183_who_maps_a_bad_page_is_told_how_much_is_gone)
{
	struct pg_space second;
	struct pgmap_folio *f;

	open_file(PGMAP_GENERIC, 1024, PG_PMD);
	CHECK_EQ(pg_space_init(&second), 0);
	CHECK_EQ(pg_space_map(&second, 8 * GB, 1024, PG_AREA_DAX,
			      RW | PG_AREA_SHARED, &file.mapping, 0),
		 0);
	CHECK_EQ(pg_touch(&space, VA + 2 * MB, true, NULL), PG_VM_NOPAGE);
	CHECK_EQ(pg_touch(&second, 8 * GB + 2 * MB, true, NULL), PG_VM_NOPAGE);
	CHECK_EQ(pgmap_folio_mapcount(rec(map, 512)), 2);
	nr_told = 0;
	CHECK_EQ(pg_memory_failure(map_pfn(map) + 512 + 7, tell, NULL), 0);
	CHECK_EQ(nr_told, 2);
	for (size_t i = 0; i < 2; i++) {
		CHECK_EQ(told[i].lsb, 21);
		CHECK_EQ(told[i].va, (told[i].space == &space ? VA : 8 * GB) +
					     2 * MB + 7 * PAGE);
	}
	CHECK(told[0].space != told[1].space);
	/* Unmapped, and never handed out again while it is bad. */
	CHECK_EQ(pgmap_folio_count(rec(map, 512)), 0);
	CHECK_EQ(pgmap_get_folio(map, map_pfn(map) + 512, 9, &f), -EHWPOISON);
	CHECK_EQ(pgmap_get_folio(map, map_pfn(map) + 519, 0, &f), -EHWPOISON);
	CHECK_EQ(pgmap_get_folio(map, map_pfn(map) + 520, 0, &f), 0);
	pgmap_folio_unlock(f);
	pgmap_folio_put(f);
	pg_pfn_poison(map, map_pfn(map) + 519, false);
	CHECK_EQ(pgmap_get_folio(map, map_pfn(map) + 512, 9, &f), 0);
	pgmap_folio_unlock(f);
	pgmap_folio_put(f);
	pg_space_fini(&second);
	close_file();
}

/* Several files have it: its mapping is nobody's. */
TEST(R184_a_bad_page_whose_users_only_its_files_know_is_not_said_to_be_gone)
{
	struct pgmap_folio *f;

	open_file(PGMAP_FS_DAX, 512, PG_PTE);
	CHECK_EQ(pg_touch(&space, VA, true, NULL), PG_VM_NOPAGE);
	rec(map, 0)->mapping = 0;
	nr_told = 0;
	CHECK_EQ(pg_memory_failure(map_pfn(map), tell, NULL), -EBUSY);
	CHECK_EQ(nr_told, 0);
	CHECK_EQ(pgmap_folio_mapcount(rec(map, 0)), 1);
	CHECK(pg_folio_marked(rec(map, 0), PG_FOLIO_POISON));
	CHECK(!pg_folio_is_locked(rec(map, 0)));
	/* When those who had it are gone, nobody gets it. */
	CHECK_EQ(pg_space_unmap(&space, VA, 1), 0);
	CHECK_EQ(pgmap_get_folio(map, map_pfn(map), 0, &f), -EHWPOISON);
	/* Held and not mapped: there was nobody to tell. */
	f = folio_new(map, 7, 0);
	CHECK_EQ(pg_memory_failure(map_pfn(map) + 7, tell, NULL), 0);
	pgmap_folio_put(f);
	close_file();
}

TEST(R183_a_pinned_page_that_went_bad_is_pinned_by_nobody_else)
{
	open_file(PGMAP_FS_DAX, 512, PG_PTE);
	CHECK_EQ(gup(VA, 1, PIN), 0);
	nr_told = 0;
	CHECK_EQ(pg_memory_failure(runs[0].pfn, tell, NULL), 0);
	CHECK_EQ(nr_told, 1);
	CHECK_EQ(told[0].lsb, 12);
	CHECK_EQ(pgmap_folio_mapcount(runs[0].folio), 0);
	/* This file maps it again, since the page is held; the mark tells. */
	{
		struct pg_gup_run run;
		size_t n;

		CHECK_EQ(pg_gup(&space, VA, 1, PIN, &run, 1, &n), -EHWPOISON);
	}
	put(PIN);
	close_file();
}

static void tell_nobody(const struct pg_mce *mce, void *arg)
{
	(void)mce;
	(void)arg;
}

static struct pg_devdax device;
static _Atomic(int) fault_nr, begun_nr, faulted_nr;

static void *fault_when_told(void *arg)
{
	(void)arg;
	for (int i = 1;; i++) {
		while (fault_nr != i) {
			if (fault_nr < 0)
				return NULL;
			sched_yield();
		}
		begun_nr = i;
		pg_touch(&space, VA, true, NULL);
		faulted_nr = i;
	}
}

TEST(R183_a_page_that_goes_bad_while_it_is_faulted_in_is_not_mapped)
{
	struct pgmap_range r = {PGMAP_FIRST_DEVICE_PFN + (1ull << 32), 512};
	uint64_t seed = test_seed();
	enum pg_level level;
	int missed = 0;
	pthread_t t;

	CHECK_EQ(pg_devdax_create(&device, &r, 1, PAGE, false), 0);
	CHECK_EQ(pg_space_init(&space), 0);
	fault_nr = 0;
	CHECK_EQ(pthread_create(&t, NULL, fault_when_told, NULL), 0);
	for (int i = 1; i <= 20000; i++) {
		CHECK_EQ(pg_devdax_mmap(&device, &space, VA, 512,
					RW | PG_AREA_SHARED, 0),
			 0);
		fault_nr = i;
		/* Where both share a CPU the fault would always be the last. */
		while (i % 2 && begun_nr != i)
			sched_yield();
		for (uint64_t n = test_random(&seed) % 400; n; n--)
			__asm__ volatile("");
		CHECK_EQ(pg_memory_failure(r.pfn, tell_nobody, NULL), 0);
		while (faulted_nr != i)
			sched_yield();
		missed += !!(pg_entry_get(&space, VA, &level) & PG_E_PRESENT);
		CHECK_EQ(pg_space_unmap(&space, VA, 512), 0);
		pg_pfn_poison(device.map, r.pfn, false);
	}
	fault_nr = -1;
	pthread_join(t, NULL);
	CHECK_EQ(missed, 0);
	pg_space_fini(&space);
	pg_devdax_destroy(&device);
}

TEST_MAIN()
