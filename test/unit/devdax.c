/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Device files: linear, of one size of entry.
 */
#include "asleep.h"
#include "core/devdax.h"
#include "spaces.h"

#define GIG_PAGES ((uint64_t)1 << 18)
/* Where nothing else of the tests is. */
#define FIRST (PGMAP_FIRST_DEVICE_PFN + ((uint64_t)1 << 32))
#define SECOND (FIRST + 64 * GIG_PAGES)
#define VA (64 * GB)
#define SHARED_RW (RW | PG_AREA_SHARED)

static struct pg_devdax dev;
static struct pg_space s;

static const uint64_t sizes[] = {PAGE, 2 * MB, GB};

static void open_at(uint64_t align, uint64_t nr1, uint64_t nr2)
{
	const struct pgmap_range r[] = {{FIRST, nr1}, {SECOND, nr2}};

	memset(&dev, 0, sizeof(dev));
	CHECK_EQ(pg_devdax_create(&dev, r, nr2 ? 2 : 1, align, false), 0);
	CHECK_EQ(pg_space_init(&s), 0);
	alarm(60);
}

static void close_it(void)
{
	check(&s);
	pg_space_fini(&s);
	CHECK_EQ(pg_map_refs(dev.map), 0);
	pg_devdax_destroy(&dev);
	alarm(0);
}

static int map_at(uintptr_t va, uint64_t nr, uint64_t pgoff)
{
	return pg_devdax_mmap(&dev, &s, va, nr, SHARED_RW, pgoff);
}

static enum pg_fault_code fault_at(uintptr_t va, uint64_t pgoff,
				   enum pg_level level)
{
	enum pg_fault_code ret = PG_VM_SIGSEGV;
	struct pg_area *a;

	pg_read_lock(&s.lock, LOCK_MM);
	a = pg_find_area(&s, va);
	if (a)
		ret = dev.mapping.ops->fault(a, va, pgoff, level, true);
	pg_read_unlock(&s.lock, LOCK_MM);
	return ret;
}

TEST(R31_a_device_page_goes_from_0_to_1_in_the_fault)
{
	for (int i = 0; i < 3; i++) {
		struct pgmap_folio *head;
		uint64_t pfn;

		if (!pg_level_supported((enum pg_level)i))
			continue;
		open_at(sizes[i], GIG_PAGES, 0);
		head = pg_map_folio(dev.map, FIRST);
		CHECK_EQ(pgmap_folio_count(head), 0);
		CHECK_EQ(map_at(VA, GIG_PAGES, 0), 0);
		CHECK_EQ(pgmap_folio_count(head), 0);
		CHECK_EQ(pg_touch(&s, VA, false, &pfn), PG_VM_NOPAGE);
		CHECK_EQ(pfn, FIRST);
		CHECK_EQ(pgmap_folio_count(head), 1);
		CHECK_EQ(pgmap_folio_mapcount(head), 1);
		CHECK_EQ(pgmap_folio_order(head), 9 * i);
		CHECK_EQ(level_at(&s, VA), (enum pg_level)i);
		/* A second mapping: one more, not a first one. */
		CHECK_EQ(map_at(VA + 2 * GB, GIG_PAGES, 0), 0);
		CHECK_EQ(pg_touch(&s, VA + 2 * GB, true, &pfn), PG_VM_NOPAGE);
		CHECK_EQ(pgmap_folio_count(head), 2);
		CHECK_EQ(pg_space_unmap(&s, VA, GIG_PAGES), 0);
		CHECK_EQ(pg_space_unmap(&s, VA + 2 * GB, GIG_PAGES), 0);
		CHECK_EQ(pgmap_folio_count(head), 0);
		close_it();
	}
}

TEST(R154c_where_and_how_a_device_can_be_mapped)
{
	for (int i = 0; i < 3; i++) {
		uint64_t a = sizes[i] / PAGE;

		if (!pg_level_supported((enum pg_level)i))
			continue;
		open_at(sizes[i], 4 * GIG_PAGES, 0);
		CHECK_EQ(pg_devdax_mmap(&dev, &s, VA, a, RW, 0), -EINVAL);
		CHECK_EQ(pg_devdax_mmap(&dev, &s, VA, a, PG_AREA_WRITE, 0),
			 -EINVAL);
		CHECK_EQ(map_at(VA, 0, 0), -EINVAL);
		if (i) {
			CHECK_EQ(map_at(VA + PAGE, a, 0), -EINVAL);
			CHECK_EQ(map_at(VA + sizes[i] / 2, a, 0), -EINVAL);
			CHECK_EQ(map_at(VA, a - 1, 0), -EINVAL);
			CHECK_EQ(map_at(VA, a + 1, 0), -EINVAL);
		}
		CHECK_EQ(map_at(VA, a, 0), 0);
		CHECK_EQ(map_at(VA, a, 0), -EEXIST);
		pg_devdax_kill(&dev);
		CHECK_EQ(map_at(VA + 4 * GB, a, 0), -ENXIO);
		close_it();
	}
}

TEST(R154d_entries_are_of_the_size_that_the_device_has)
{
	for (int i = 0; i < 3; i++)
		for (int level = 0; level < 3; level++) {
			enum pg_fault_code want = PG_VM_NOPAGE;

			if (!pg_level_supported((enum pg_level)i))
				continue;
			open_at(sizes[i], GIG_PAGES, 0);
			CHECK_EQ(map_at(VA, GIG_PAGES, 0), 0);
			if (level > i)
				want = PG_VM_FALLBACK;
			if (level < i)
				want = PG_VM_SIGBUS;
			CHECK_EQ(fault_at(VA, 0, (enum pg_level)level), want);
			CHECK_EQ(nr_entries(&s), level == i);
			close_it();
		}
}

TEST(R154d_what_the_device_does_not_have_is_a_bus_error)
{
	uint64_t pfn;

	NEEDS(PG_PMD);
	open_at(2 * MB, 2 * 512, 0);
	CHECK_EQ(map_at(VA, 3 * 512, 0), 0);
	CHECK_EQ(pg_touch(&s, VA + 2 * MB, true, &pfn), PG_VM_NOPAGE);
	CHECK_EQ(pfn, FIRST + 512);
	CHECK_EQ(pg_touch(&s, VA + 4 * MB, false, NULL), PG_VM_SIGBUS);
	/* A folio does not fit where the area has another colour. */
	CHECK_EQ(map_at(VA + GB, 2 * 512, 1), 0);
	CHECK_EQ(pg_touch(&s, VA + GB, false, NULL), PG_VM_SIGBUS);
	CHECK_EQ(fault_at(VA + GB, 1, PG_PMD), PG_VM_SIGBUS);
	close_it();
	/* 1 GB entries, and an area that is not so long. */
	open_at(2 * MB, GIG_PAGES, 0);
	CHECK_EQ(map_at(VA, 512, 0), 0);
	CHECK_EQ(pg_touch(&s, VA, false, NULL), PG_VM_NOPAGE);
	CHECK_EQ(level_at(&s, VA), PG_PMD);
	close_it();
}

/* Page @pgoff of a device of two ranges. */
static uint64_t model(uint64_t pgoff, uint64_t nr1, uint64_t nr2)
{
	if (pgoff < nr1)
		return FIRST + pgoff;
	return pgoff - nr1 < nr2 ? SECOND + (pgoff - nr1) : 0;
}

TEST(N45_R154e_a_device_is_linear_over_all_its_ranges)
{
	const uint64_t nr1 = 3 * 512, nr2 = 2 * 512;

	for (int i = 0; i < 2; i++)
		for (uint64_t at = 0; at < 6 * 512; at += i ? 256 : 173) {
			uint64_t pfn = 77, want = model(at, nr1, nr2);
			enum pg_fault_code code;

			if (!pg_level_supported((enum pg_level)i))
				continue;
			open_at(sizes[i], nr1, nr2);
			CHECK_EQ(map_at(VA, 512, at), 0);
			code = pg_touch(&s, VA, true, &pfn);
			if (!want || (i && at % 512)) {
				CHECK_EQ(code, PG_VM_SIGBUS);
			} else {
				CHECK_EQ(code, PG_VM_NOPAGE);
				CHECK_EQ(pfn, want);
			}
			close_it();
		}
}

TEST(R154e_a_large_page_is_in_one_range)
{
	uint64_t pfn;

	open_at(PAGE, 512, 512);
	CHECK(pg_devdax_pfn(&dev, 0, 512, &pfn));
	CHECK_EQ(pfn, FIRST);
	CHECK(pg_devdax_pfn(&dev, 512, 512, &pfn));
	CHECK_EQ(pfn, SECOND);
	CHECK(!pg_devdax_pfn(&dev, 1, 512, &pfn));
	CHECK(!pg_devdax_pfn(&dev, 511, 2, &pfn));
	CHECK(pg_devdax_pfn(&dev, 1023, 1, &pfn));
	CHECK(!pg_devdax_pfn(&dev, 1024, 1, &pfn));
	close_it();
}

TEST(R154f_an_area_ends_where_an_entry_may_end)
{
	NEEDS(PG_PMD);
	open_at(2 * MB, 4 * 512, 0);
	CHECK_EQ(map_at(VA, 4 * 512, 0), 0);
	CHECK_EQ(pg_touch(&s, VA, true, NULL), PG_VM_NOPAGE);
	CHECK_EQ(pg_space_unmap(&s, VA, 1), -EINVAL);
	CHECK_EQ(pg_space_unmap(&s, VA + 3 * MB, 256), -EINVAL);
	CHECK_EQ(pg_space_protect(&s, VA, 256, PG_AREA_READ), -EINVAL);
	CHECK_EQ(level_at(&s, VA), PG_PMD);
	CHECK_EQ(pg_touch(&s, VA + 3 * MB, true, NULL), PG_VM_NOPAGE);
	CHECK_EQ(pg_space_unmap(&s, VA + 2 * MB, 512), 0);
	CHECK_EQ(pg_touch(&s, VA + 2 * MB, true, NULL), PG_VM_SIGSEGV);
	CHECK_EQ(pg_touch(&s, VA + 4 * MB, true, NULL), PG_VM_NOPAGE);
	close_it();
}

TEST(R154f_addresses_have_the_colour_of_what_they_map)
{
	uintptr_t va;

	NEEDS(PG_PMD);
	open_at(2 * MB, 8 * 512, 0);
	CHECK_EQ(pg_devdax_unmapped_area(&dev, &s, 0, 512, 0, &va), 0);
	CHECK_EQ(va % (2 * MB), 0);
	CHECK_EQ(map_at(va, 512, 0), 0);
	/* Beside what is there, wherever one begins to look. */
	for (uintptr_t hint = va - 4 * MB; hint < va + 4 * MB;
	     hint += 3 * PAGE) {
		uintptr_t at;

		CHECK_EQ(
			pg_devdax_unmapped_area(&dev, &s, hint, 1024, 512, &at),
			0);
		CHECK_EQ(at % (2 * MB), 0);
		CHECK(at >= hint);
		CHECK(at >= va + 2 * MB || at + 4 * MB <= va);
	}
	CHECK_EQ(pg_devdax_unmapped_area(&dev, &s, va, 512, 700, &va), 0);
	CHECK_EQ(va % (2 * MB), (700 - 512) * PAGE);
	CHECK_EQ(pg_devdax_unmapped_area(&dev, &s, 0,
					 ((uint64_t)1 << PG_VA_BITS) / PAGE, 0,
					 &va),
		 -ENOMEM);
	CHECK_EQ(pg_devdax_unmapped_area(&dev, &s, UINTPTR_MAX - 4 * MB + 1, 1,
					 0, &va),
		 -ENOMEM);
	CHECK_EQ(pg_devdax_unmapped_area(&dev, &s,
					 ((uintptr_t)1 << PG_VA_BITS) - 2 * MB,
					 1024, 0, &va),
		 -ENOMEM);
	close_it();
}

TEST(R154f_an_area_moves_to_where_it_could_be_mapped)
{
	uintptr_t to = VA + 4 * GB;
	uint64_t pfn;

	NEEDS(PG_PMD);
	open_at(2 * MB, 4 * 512, 0);
	CHECK_EQ(map_at(VA, 4 * 512, 0), 0);
	CHECK_EQ(pg_touch(&s, VA, true, NULL), PG_VM_NOPAGE);
	CHECK_EQ(pg_space_move(&s, VA, 4 * 512, to + PAGE, false), -EINVAL);
	CHECK_EQ(pg_space_move(&s, VA, 4 * 512, to + MB, true), -EINVAL);
	CHECK_EQ(level_at(&s, VA), PG_PMD);
	CHECK_EQ(pg_touch(&s, VA + 2 * MB, true, NULL), PG_VM_NOPAGE);
	CHECK_EQ(pg_space_move(&s, VA, 4 * 512, to, false), 0);
	CHECK_EQ(level_at(&s, to), PG_PMD);
	CHECK_EQ(pg_touch(&s, to + 4 * MB, true, &pfn), PG_VM_NOPAGE);
	CHECK_EQ(pfn, FIRST + 2 * 512);
	CHECK_EQ(pg_space_unmap(&s, to, 4 * 512), 0);
	close_it();
}

TEST(R154f_nothing_is_found_from_beyond_the_last_address_on)
{
	const uintptr_t end = (uintptr_t)1 << PG_VA_BITS;
	const uintptr_t beyond[] = {end, end + PAGE, UINTPTR_MAX - GB,
				    UINTPTR_MAX - PAGE + 1, UINTPTR_MAX};

	for (size_t i = 0; i < 2; i++) {
		if (!pg_level_supported((enum pg_level)i))
			continue;
		open_at(sizes[i], 512, 0);
		for (size_t k = 0; k < sizeof(beyond) / sizeof(beyond[0]);
		     k++) {
			uintptr_t va = 77;

			CHECK_EQ(pg_devdax_unmapped_area(&dev, &s, beyond[k], 1,
							 0, &va),
				 -ENOMEM);
			CHECK_EQ(va, 77);
		}
		close_it();
	}
}

TEST(R154g_a_device_page_knows_its_place)
{
	struct pgmap_folio *folio;

	NEEDS(PG_PMD);
	open_at(2 * MB, 4 * 512, 4 * 512);
	CHECK_EQ(map_at(VA, 8 * 512, 0), 0);
	CHECK_EQ(pg_touch(&s, VA + 13 * MB, true, NULL), PG_VM_NOPAGE);
	folio = pgmap_tryget_pfn(SECOND + 2 * 512 + 300);
	CHECK(folio);
	CHECK_EQ(folio->mapping, (uintptr_t)&dev.mapping);
	CHECK_EQ(folio->index, 6 * 512);
	pgmap_folio_put(folio);
	close_it();
}

TEST(R154h_what_a_device_cannot_be)
{
	const struct pgmap_range r[] = {{FIRST, GIG_PAGES},
					{SECOND, GIG_PAGES}};
	const struct pgmap_range odd[] = {{FIRST + 512, GIG_PAGES}};
	struct pg_devdax d = {0};

	CHECK_EQ(pg_devdax_create(&d, r, 2, PAGE, true), -EINVAL);
	CHECK_EQ(pg_devdax_create(&d, r, 0, PAGE, false), -EINVAL);
	CHECK_EQ(pg_devdax_create(&d, r, PGMAP_MAX_RANGES + 1, PAGE, false),
		 -EINVAL);
	CHECK_EQ(pg_devdax_create(&d, r, 1, 2 * PAGE, false), -EINVAL);
	CHECK_EQ(pg_devdax_create(&d, r, 1, 0, false), -EINVAL);
	if (pg_level_supported(PG_PUD))
		CHECK_EQ(pg_devdax_create(&d, odd, 1, GB, false), -EINVAL);
	/* Somebody has it. */
	open_at(PAGE, 512, 0);
	CHECK_EQ(pg_devdax_create(&d, r, 2, PAGE, false), -EBUSY);
	close_it();
	pg_mem_fail_nth(1);
	CHECK_EQ(pg_devdax_create(&d, r, 2, PAGE, false), -ENOMEM);
	pg_mem_fail_nth(0);
	CHECK_EQ(pg_devdax_create(&d, r, 1, PAGE, true), 0);
	pg_devdax_destroy(&d);
}

TEST(R183_a_bad_device_page_is_mapped_no_more)
{
	struct pgmap_folio *folio;

	NEEDS(PG_PMD);
	open_at(2 * MB, 4 * 512, 0);
	CHECK_EQ(map_at(VA, 4 * 512, 0), 0);
	CHECK_EQ(pg_touch(&s, VA, true, NULL), PG_VM_NOPAGE);
	folio = pgmap_tryget_pfn(FIRST);
	CHECK(folio);
	pg_pfn_poison(dev.map, FIRST + 5, true);
	pg_folio_mark(folio, PG_FOLIO_POISON);
	pg_unmap_mapping_range(&dev.mapping, 0, 512);
	/* Held by somebody, and idle. */
	CHECK_EQ(pg_touch(&s, VA, true, NULL), PG_VM_HWPOISON);
	pgmap_folio_put(folio);
	CHECK_EQ(pg_touch(&s, VA, true, NULL), PG_VM_HWPOISON);
	CHECK_EQ(pg_touch(&s, VA + 2 * MB, true, NULL), PG_VM_NOPAGE);
	close_it();
}

TEST(a_fault_waits_for_who_is_at_the_same_page)
{
	struct pg_map_range *r;

	open_at(PAGE, 512, 0);
	CHECK_EQ(map_at(VA, 512, 0), 0);
	r = pg_map_range_of(dev.map, FIRST);
	CHECK_EQ(pg_range_claim(r, 5, 1), 0);
	CHECK_EQ(fault_at(VA + 5 * PAGE, 5, PG_PTE), PG_VM_RETRY);
	pg_range_unclaim(r, 5, 1);
	CHECK_EQ(pg_touch(&s, VA + 5 * PAGE, true, NULL), PG_VM_NOPAGE);
	close_it();
}

static _Atomic(pid_t) destroyer;
static _Atomic(bool) destroyed;

static void *destroy_thread(void *arg)
{
	(void)arg;
	destroyer = gettid();
	pg_devdax_destroy(&dev);
	destroyed = true;
	return NULL;
}

TEST(N44_R15_a_device_that_goes_leaves_no_mapping_and_waits_for_pins)
{
	struct pgmap_folio *folio;
	pthread_t t;

	open_at(PAGE, 512, 0);
	CHECK_EQ(map_at(VA, 512, 0), 0);
	for (uintptr_t i = 0; i < 10; i++)
		CHECK_EQ(pg_touch(&s, VA + i * PAGE, true, NULL), PG_VM_NOPAGE);
	folio = pgmap_tryget_pfn(FIRST + 3);
	CHECK(folio);
	destroyer = 0;
	destroyed = false;
	CHECK_EQ(pthread_create(&t, NULL, destroy_thread, NULL), 0);
	while (nr_entries(&s))
		usleep(100);
	CHECK(test_wait_asleep(&destroyer, &destroyed));
	CHECK_EQ(pg_touch(&s, VA + 3 * PAGE, false, NULL), PG_VM_SIGBUS);
	CHECK_EQ(pg_touch(&s, VA + 20 * PAGE, false, NULL), PG_VM_SIGBUS);
	pgmap_folio_put(folio);
	pthread_join(t, NULL);
	CHECK(destroyed);
	CHECK_EQ(pg_touch(&s, VA + 3 * PAGE, false, NULL), PG_VM_SIGBUS);
	pg_space_fini(&s);
	alarm(0);
}

/* The place of a map that is gone is given to the next one. */
TEST(N44_R154_an_area_of_a_device_that_is_gone_never_maps_another)
{
	const struct pgmap_range r = {SECOND, 512};
	struct pg_devdax other = {0};

	open_at(PAGE, 512, 0);
	CHECK_EQ(map_at(VA, 512, 0), 0);
	CHECK_EQ(pg_touch(&s, VA, true, NULL), PG_VM_NOPAGE);
	pg_devdax_destroy(&dev);
	CHECK_EQ(pg_devdax_create(&other, &r, 1, PAGE, false), 0);
	CHECK(other.map == dev.map);
	CHECK_EQ(pg_touch(&s, VA, true, NULL), PG_VM_SIGBUS);
	CHECK_EQ(pg_touch(&s, VA + PAGE, false, NULL), PG_VM_SIGBUS);
	CHECK_EQ(nr_entries(&s), 0);
	CHECK_EQ(map_at(VA + 4 * GB, 512, 0), -ENXIO);
	CHECK_EQ(pg_devdax_mmap(&other, &s, VA + 4 * GB, 512, SHARED_RW, 0), 0);
	CHECK_EQ(pg_touch(&s, VA + 4 * GB, true, NULL), PG_VM_NOPAGE);
	check(&s);
	pg_space_fini(&s);
	pg_devdax_destroy(&other);
	alarm(0);
}

#define STORM_ROUNDS 300
static _Atomic(bool) stop;

static void *touch_thread(void *arg)
{
	uint64_t seed = (uintptr_t)arg;

	while (!stop) {
		uintptr_t va = VA + test_random(&seed) % 8 * PAGE;
		enum pg_fault_code code = pg_touch(&s, va, true, NULL);

		MUST(code == PG_VM_NOPAGE || code == PG_VM_RETRY ||
		     code == PG_VM_SIGBUS || code == PG_VM_OOM);
	}
	return NULL;
}

TEST(N44_faults_race_with_the_end_of_the_device)
{
	for (int i = 0; i < STORM_ROUNDS; i++) {
		pthread_t t[2];

		open_at(PAGE, 512, 0);
		CHECK_EQ(map_at(VA, 512, 0), 0);
		stop = false;
		for (uintptr_t k = 0; k < 2; k++)
			CHECK_EQ(pthread_create(&t[k], NULL, touch_thread,
						(void *)(k + 1)),
				 0);
		while (!nr_entries(&s))
			sched_yield();
		/* Waits for whoever is in a fault, and for nobody after it. */
		pg_devdax_kill(&dev);
		CHECK_EQ(nr_entries(&s), 0);
		stop = true;
		for (int k = 0; k < 2; k++)
			pthread_join(t[k], NULL);
		CHECK_EQ(nr_entries(&s), 0);
		close_it();
	}
}

TEST_MAIN()
