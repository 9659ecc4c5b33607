/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * model.c - a device against the simplest thing that could be a device.
 *
 * The model is an array of pages. Random operations go to both, and what is
 * loaded must equal the model's. The slots are few and the device is smaller
 * than they are, so that collisions and a full device are common. A failure
 * prints the seed and the step; PGMAP_SEED=<seed> repeats it, PGMAP_STEPS=<n>
 * sets the length, which is otherwise that of two seconds.
 */
#include <time.h>

#include "device.h"

#define NR 2048u
#define MAX PGMAP_MAX_FOLIO_PAGES
#define STEPS 30000ull
#define SECONDS 2
#define BATCH 6u

static char *model, *a, *b;
static bool held[NR];
static uint32_t folio[NR]; /* a number for each folio that was stored */
static uint32_t nr_folios;
static uint64_t seed, step, nr_held, nr_full;
static struct dev dev;

static uint32_t below(uint64_t n)
{
	return (uint32_t)(test_random(&seed) % n);
}

#define AGREE(cond)                                                            \
	do {                                                                   \
		if (!(cond))                                                   \
			fail_msg("step %ju: not so: %s", (uintmax_t)step,      \
				 #cond);                                       \
	} while (0)

static bool none_held(uint32_t slot, uint32_t nr)
{
	for (uint32_t s = slot; s < slot + nr; s++)
		if (held[s])
			return false;
	return true;
}

static void discard(void)
{
	uint32_t slot = below(NR), nr = below(below(8) ? 40 : NR);

	if (nr > NR - slot)
		nr = NR - slot;
	dev_discard(&dev, slot, nr);
	for (uint32_t s = slot; s < slot + nr; s++) {
		nr_held -= held[s];
		held[s] = false;
	}
}

/* Up to BATCH folios to slots that hold nothing. */
static void store(void)
{
	struct pgmap_io io[BATCH];
	uint32_t n = 0, used = 0, want = 1 + below(BATCH);
	int ret, first = 0;

	for (uint32_t tries = 0; n < want && tries < 4 * BATCH; tries++) {
		uint32_t nr = 1u << below(below(4) ? 5 : 10);
		uint32_t slot = below(NR / nr) * nr;

		if (used + nr > MAX || !none_held(slot, nr))
			continue;
		io[n] = (struct pgmap_io){slot, nr, 1, a + (size_t)used * PAGE};
		fill_pages(io[n].buf, nr, below(CONTENTS_NR), &seed);
		used += nr;
		/* Claimed, so that the batch does not overlap itself. */
		for (uint32_t s = slot; s < slot + nr; s++)
			held[s] = true;
		n++;
	}
	if (!n)
		return;
	ret = dev.ops->store(dev.priv, io, n);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t slot = (uint32_t)io[i].slot;

		if (!first)
			first = io[i].status;
		AGREE(io[i].status == 0 || io[i].status == -ENOSPC);
		nr_full += io[i].status != 0;
		nr_folios++;
		for (uint32_t s = slot; s < slot + io[i].nr; s++) {
			held[s] = !io[i].status;
			nr_held += held[s];
			folio[s] = nr_folios;
		}
		if (!io[i].status)
			memcpy(model + (size_t)slot * PAGE, io[i].buf,
			       (size_t)io[i].nr * PAGE);
	}
	AGREE(ret == first);
}

/* Up to BATCH runs of pages that are held and of one folio each. */
static void load(void)
{
	struct pgmap_io io[BATCH];
	uint32_t n = 0, used = 0;

	for (uint32_t tries = 0; n < BATCH && tries < 2 * BATCH; tries++) {
		uint32_t slot = below(NR), want = 1 + below(64), nr = 0;

		while (slot + nr < NR && nr < want && held[slot + nr] &&
		       folio[slot + nr] == folio[slot])
			nr++;
		if (!nr || used + nr > MAX)
			continue;
		io[n++] =
			(struct pgmap_io){slot, nr, 1, b + (size_t)used * PAGE};
		used += nr;
	}
	AGREE(dev.ops->load(dev.priv, io, n) == 0);
	for (uint32_t i = 0; i < n; i++) {
		AGREE(io[i].status == 0);
		AGREE(!memcmp(io[i].buf, model + io[i].slot * PAGE,
			      (size_t)io[i].nr * PAGE));
	}
}

TEST(any_sequence_of_operations_matches_an_array)
{
	const struct pgmap_device_ops *ops = test_driver("mirror");
	const char *steps = getenv("PGMAP_STEPS");
	uint64_t end = steps ? strtoull(steps, NULL, 0) : STEPS;
	time_t stop = time(NULL) + SECONDS + 1;

	if (!ops || dev_open(&dev, ops, "size=2M", NR) == -ENODEV)
		SKIP("no such hardware, library or kernel here");
	CHECK(dev.priv);
	CHECK_EQ(dev.nr_slots, NR);
	model = pages_new(NR);
	a = pages_new(MAX);
	b = pages_new(MAX);
	seed = test_seed();
	for (step = 0; step < end && (steps || time(NULL) < stop); step++) {
		struct pgmap_device_usage u;

		switch (below(8)) {
		case 0:
		case 1:
			discard();
			break;
		case 2:
		case 3:
		case 4:
			store();
			break;
		default:
			load();
		}
		u = dev_usage(&dev);
		AGREE(u.stored_pages == nr_held);
		AGREE(u.live_bytes <= u.host_bytes);
		AGREE(u.host_bytes <= u.limit_bytes || u.media_bytes);
		AGREE(u.media_bytes <= u.limit_bytes);
	}
	printf("# %ju steps, %ju folios did not fit\n", (uintmax_t)step,
	       (uintmax_t)nr_full);
	dev_discard(&dev, 0, NR);
	CHECK_EQ(dev_usage(&dev).stored_pages, 0);
	CHECK_EQ(dev_usage(&dev).live_bytes, 0);
	dev_close(&dev);
}

TEST_MAIN()
