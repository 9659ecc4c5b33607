/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * mirror.c - keep pages in plain system memory: the reference driver.
 *
 * A slot is a page at a fixed place of one sparse mapping, so there is nothing
 * to allocate, nothing to lock and nothing to go wrong. A bitmap knows which
 * slots hold something. A folio of 2 MB lies in a huge page: 512 faults of the
 * kernel cost more than the copy. What is discarded goes back to the kernel,
 * but for as much as keep= allows: to get it again the kernel would clear it,
 * which takes half as long as the copy.
 */
#include <pgmap/driver.h>

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#include "base/atomic.h"
#include "base/copy.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/mutant.h"
#include "base/opt.h"
#include "base/sys.h"

#define PAGE PGMAP_PAGE_SIZE
#define MANY 16u		    /* pages that are not wanted back at once */
#define BLOCK PGMAP_MAX_FOLIO_PAGES /* pages; what a huge page has */

struct mirror {
	uint64_t nr_slots; /* set once */
	uint64_t limit;	   /* pages; set once */
	uint64_t keep;	   /* pages; set once */
	char *pages;
	/* Bit: the slot holds a page. relaxed: core orders what it does to one
	 * slot, and the bits of others only share the word. */
	pg_atomic64 *held;
	pg_atomic64 stored; /* set bits, and stores under way; relaxed */
	/* Bit: the slot holds nothing, and its memory waits for a store. */
	pg_atomic64 *kept;
	pg_atomic64 nr_kept; /* set bits, at most keep; relaxed */
};

static size_t bitmap_size(uint64_t nr_slots)
{
	return (size_t)(nr_slots / 64 + 1) * sizeof(pg_atomic64);
}

static void mirror_close(void *priv)
{
	struct mirror *m = priv;

	pg_mem_unmap(m->pages, (size_t)m->nr_slots * PAGE);
	pg_mem_unmap(m->held, bitmap_size(m->nr_slots));
	pg_mem_unmap(m->kept, bitmap_size(m->nr_slots));
	pg_mem_unmap(m, sizeof(*m));
}

static int mirror_open(struct pgmap_device_args *args, void **priv)
{
	uint64_t size = UINT64_MAX, keep = 0;
	const struct pg_opt options[] = {
		{.name = "size",
		 .kind = PG_OPT_SIZE,
		 .value = &size,
		 .min = PAGE},
		{.name = "keep", .kind = PG_OPT_SIZE, .value = &keep},
		{0},
	};
	struct mirror *m;
	int ret = pg_opt_parse(args->options, options, args->error,
			       args->error_len);

	if (ret)
		return ret;
	if (!args->nr_slots || args->nr_slots > SIZE_MAX / PAGE) {
		pg_format(args->error, args->error_len,
			  "%lu slots cannot be addressed, ask for fewer",
			  (unsigned long)args->nr_slots);
		return -EINVAL;
	}
	m = pg_mem_map(sizeof(*m));
	if (!m)
		goto err_nomem;
	m->nr_slots = args->nr_slots;
	m->limit = size / PAGE;
	m->keep = keep / PAGE;
	m->pages = pg_mem_map_aligned((size_t)m->nr_slots * PAGE,
				      (size_t)BLOCK * PAGE);
	m->held = pg_mem_map(bitmap_size(m->nr_slots));
	m->kept = pg_mem_map(bitmap_size(m->nr_slots));
	if (!m->pages || !m->held || !m->kept) {
		mirror_close(m);
		goto err_nomem;
	}
	*priv = m;
	return 0;

err_nomem:
	pg_format(args->error, args->error_len,
		  "no address space for %lu pages, raise the limit (ulimit -v)",
		  (unsigned long)args->nr_slots);
	return -ENOMEM;
}

static bool get_bit(pg_atomic64 *bits, uint64_t slot)
{
	return pg_load(&bits[slot / 64], relaxed) >> slot % 64 & 1;
}

static bool is_held(struct mirror *m, uint64_t slot)
{
	return get_bit(m->held, slot);
}

/* Set or clear the bits of a run, a word at a time. Return: how many changed.
 */
static uint64_t put_bits(pg_atomic64 *bits, uint64_t slot, uint64_t nr,
			 bool set)
{
	uint64_t changed = 0;

	while (nr) {
		uint64_t n = 64 - slot % 64 < nr ? 64 - slot % 64 : nr;
		uint64_t mask = (n < 64 ? ((uint64_t)1 << n) - 1 : UINT64_MAX)
				<< slot % 64;
		pg_atomic64 *w = &bits[slot / 64];
		uint64_t was = set ? pg_fetch_or(w, mask, relaxed)
				   : pg_fetch_and(w, ~mask, relaxed);

		changed += (uint64_t)__builtin_popcountll((set ? ~was : was) &
							  mask);
		slot += n;
		nr -= n;
	}
	return changed;
}

static bool runs_inside(const struct mirror *m, uint64_t slot, uint64_t nr)
{
	return nr && slot < m->nr_slots && nr <= m->nr_slots - slot;
}

/* May the kernel back the blocks that lie in a run with huge pages? Only while
 * they hold folios as large, or one touched page would cost 2 MB. */
static void make_huge(struct mirror *m, uint64_t slot, uint64_t nr, bool huge)
{
	uint64_t start = (slot + BLOCK - 1) / BLOCK * BLOCK;
	uint64_t end = (slot + nr) / BLOCK * BLOCK;

	if (huge ? pg_mutant("nothing_is_huge") : pg_mutant("huge_for_ever"))
		return;
	if (start < end)
		pg_sys(madvise, m->pages + start * PAGE, (end - start) * PAGE,
		       huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

static int store_one(struct mirror *m, const struct pgmap_io *io)
{
	char *at = m->pages + io->slot * PAGE;
	uint64_t was_kept = 0;

	if (!runs_inside(m, io->slot, io->nr))
		return -EINVAL;
	if (pg_fetch_add(&m->stored, io->nr, relaxed) + io->nr > m->limit) {
		pg_fetch_sub(&m->stored, io->nr, relaxed);
		return -ENOSPC;
	}
	if (m->keep)
		was_kept = put_bits(m->kept, io->slot, io->nr, false);
	if (was_kept)
		pg_fetch_sub(&m->nr_kept, was_kept, relaxed);
	if (!was_kept)
		make_huge(m, io->slot, io->nr, true);
	if (io->nr < MANY)
		memcpy(at, io->buf, (size_t)io->nr * PAGE);
	else
		pg_copy_away(at, io->buf, (size_t)io->nr * PAGE);
	put_bits(m->held, io->slot, io->nr, true);
	return 0;
}

static int load_one(struct mirror *m, const struct pgmap_io *io)
{
	if (!runs_inside(m, io->slot, io->nr))
		return -EINVAL;
	for (uint64_t s = io->slot; s < io->slot + io->nr; s++)
		if (!is_held(m, s))
			return -EINVAL;
	memcpy(io->buf, m->pages + io->slot * PAGE, (size_t)io->nr * PAGE);
	return 0;
}

static int mirror_store(void *priv, struct pgmap_io *io, unsigned int n)
{
	int ret = 0;

	for (unsigned int i = 0; i < n; i++) {
		io[i].status = store_one(priv, &io[i]);
		if (!ret)
			ret = io[i].status;
	}
	return ret;
}

static int mirror_load(void *priv, struct pgmap_io *io, unsigned int n)
{
	int ret = 0;

	for (unsigned int i = 0; i < n; i++) {
		io[i].status = load_one(priv, &io[i]);
		if (!ret)
			ret = io[i].status;
	}
	return ret;
}

/* Are the @nr pages among those that may be kept? Then they count as such. */
static bool keep(struct mirror *m, uint64_t nr)
{
	uint64_t n = pg_load(&m->nr_kept, relaxed);

	do {
		if (n + nr > m->keep && !pg_mutant("all_is_kept"))
			return false;
	} while (!pg_cas(&m->nr_kept, &n, n + nr, relaxed));
	return true;
}

/* Give back, or keep, the pages of a run of held slots at @slot. Return: its
 * end. */
static uint64_t drop_run(struct mirror *m, uint64_t slot, uint64_t end)
{
	uint64_t s = slot, nr;

	while (s < end && is_held(m, s))
		s++;
	nr = s - slot;
	put_bits(m->held, slot, nr, false);
	if (keep(m, nr)) {
		put_bits(m->kept, slot, nr, true);
	} else {
		pg_mem_drop(m->pages + slot * PAGE, (size_t)nr * PAGE);
		make_huge(m, slot, nr, false);
	}
	pg_fetch_sub(&m->stored, nr, relaxed);
	return s;
}

static void mirror_discard(void *priv, uint64_t slot, uint64_t nr)
{
	struct mirror *m = priv;
	uint64_t end = slot + nr;

	while (slot < end) {
		if (slot % 64 == 0 && !pg_load(&m->held[slot / 64], relaxed))
			slot += 64;
		else if (is_held(m, slot))
			slot = drop_run(m, slot, end);
		else
			slot++;
	}
}

static void mirror_usage(void *priv, struct pgmap_device_usage *usage)
{
	struct mirror *m = priv;
	uint64_t stored = pg_load(&m->stored, relaxed);

	*usage = (struct pgmap_device_usage){
		.stored_pages = stored,
		.host_bytes = (stored + pg_load(&m->nr_kept, relaxed)) * PAGE,
		.live_bytes = stored * PAGE,
		.limit_bytes = m->limit < UINT64_MAX / PAGE
				       ? (m->limit + m->keep) * PAGE
				       : UINT64_MAX,
	};
}

static void *mirror_direct_access(void *priv, uint64_t slot)
{
	struct mirror *m = priv;

	return m->pages + slot * PAGE;
}

const struct pgmap_device_ops pgmap_mirror_ops = {
	.size = sizeof(struct pgmap_device_ops),
	.name = "mirror",
	.summary = "plain system memory, for tests and measurements",
	.options =
		"size=SIZE (default no limit), keep=SIZE beyond it for memory "
		"that is free and stays at hand (default 0)",
	.flags = PGMAP_DEV_COHERENT,
	.open = mirror_open,
	.close = mirror_close,
	.store = mirror_store,
	.load = mirror_load,
	.discard = mirror_discard,
	.usage = mirror_usage,
	.direct_access = mirror_direct_access,
};
