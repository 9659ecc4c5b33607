/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * mirror.c - what the mirror driver promises beyond driver.h: huge pages for
 * what is as large, and memory that stays at hand.
 */
#include "../../src/driver/mirror.c"

#undef PAGE
#include "device.h"

#define MB (1ull << 20)
#define NR_SLOTS (1ull << 16)
#define MAX PGMAP_MAX_FOLIO_PAGES

static struct dev dev;
static char *a, *b;

static void setup(const char *options)
{
	if (!a) {
		a = pages_new(MAX);
		b = pages_new(MAX);
	}
	memset(a, 7, (size_t)MAX * PAGE);
	CHECK_EQ(dev_open(&dev, &pgmap_mirror_ops, options, NR_SLOTS), 0);
}

/* A line of smaps for the mappings that reach into [@p, @p + @len), in KB. */
static size_t smaps_kb(const char *line_name, const char *p, size_t len)
{
	char line[256], name[64];
	FILE *f = fopen("/proc/self/smaps", "r");
	uintptr_t start, end;
	bool in = false;
	size_t kb = 0, n;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			in = start < (uintptr_t)p + len && (uintptr_t)p < end;
		if (in && sscanf(line, "%63[^:]: %zu", name, &n) == 2 &&
		    !strcmp(name, line_name))
			kb += n;
	}
	fclose(f);
	return kb;
}

static size_t of_slots(const char *name)
{
	const struct mirror *m = dev.priv;

	return smaps_kb(name, m->pages, NR_SLOTS * PAGE);
}

static bool has_huge_pages(void)
{
	char *p = mmap(NULL, 4 * MB, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool has;

	madvise(p, 4 * MB, MADV_HUGEPAGE);
	memset(p, 1, 4 * MB);
	has = smaps_kb("AnonHugePages", p, 4 * MB);
	munmap(p, 4 * MB);
	return has;
}

TEST(a_folio_of_2_mb_is_a_huge_page_and_a_small_one_after_it_is_not)
{
	if (!has_huge_pages())
		SKIP("no huge pages");
	setup("");
	CHECK_EQ(dev_store(&dev, MAX, MAX, a), 0);
	CHECK_EQ(of_slots("AnonHugePages"), 2048);
	CHECK_EQ(dev_load(&dev, MAX, MAX, b), 0);
	assert_memory_equal(a, b, (size_t)MAX * PAGE);
	dev_discard(&dev, MAX, MAX);
	CHECK_EQ(of_slots("Rss"), 0);
	CHECK_EQ(dev_store(&dev, MAX + 8, 8, a), 0);
	CHECK_EQ(of_slots("Rss"), 8 * PAGE / 1024);
	dev_close(&dev);
}

TEST(freed_memory_is_kept_as_far_as_was_asked_for)
{
	setup("size=16M,keep=4M");
	for (uint64_t i = 0; i < 4; i++)
		CHECK_EQ(dev_store(&dev, i * MAX, MAX, a), 0);
	dev_discard(&dev, 0, MAX);
	dev_discard(&dev, MAX, MAX);
	dev_discard(&dev, 2 * MAX, MAX);
	CHECK_EQ(dev_usage(&dev).stored_pages, MAX);
	CHECK_EQ(dev_usage(&dev).host_bytes, 6 * MB);
	CHECK_EQ(dev_usage(&dev).limit_bytes, 20 * MB);
	CHECK_EQ(of_slots("Rss"), 6 * 1024);
	/* What is kept can be had again, and is nobody's till then. */
	CHECK(dev_load(&dev, 0, MAX, b) < 0);
	CHECK_EQ(dev_store(&dev, 0, MAX, a), 0);
	CHECK_EQ(dev_usage(&dev).host_bytes, 6 * MB);
	CHECK_EQ(dev_store(&dev, MAX, 1, a), 0);
	CHECK_EQ(dev_usage(&dev).host_bytes, 6 * MB);
	CHECK_EQ(of_slots("Rss"), 6 * 1024);
	dev_close(&dev);
}

TEST(without_being_asked_nothing_is_kept)
{
	setup("");
	CHECK_EQ(dev_store(&dev, 0, MAX, a), 0);
	dev_discard(&dev, 0, MAX / 2);
	CHECK_EQ(dev_usage(&dev).host_bytes, MB);
	dev_discard(&dev, 0, MAX);
	CHECK_EQ(dev_usage(&dev).host_bytes, 0);
	CHECK_EQ(of_slots("Rss"), 0);
	dev_close(&dev);
}

TEST_MAIN()
