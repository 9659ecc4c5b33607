/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * mirror.c - keep pages in plain system memory: the reference driver.
 *
 * A slot is a page at a fixed place of one sparse mapping, so there is nothing
 * to allocate, nothing to lock and nothing to go wrong. A bitmap knows which
 * slots hold something.
 */
#include <pgmap/driver.h>

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/atomic.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/opt.h"

#define PAGE PGMAP_PAGE_SIZE

struct mirror {
	uint64_t nr_slots; /* set once */
	uint64_t limit;	   /* pages; set once */
	char *pages;
	/* Bit: the slot holds a page. relaxed: core orders what it does to one
	 * slot, and the bits of others only share the word. */
	pg_atomic64 *held;
	pg_atomic64 stored; /* set bits, and stores under way; relaxed */
};

static size_t held_size(uint64_t nr_slots)
{
	return (size_t)(nr_slots / 64 + 1) * sizeof(pg_atomic64);
}

static void mirror_close(void *priv)
{
	struct mirror *m = priv;

	pg_mem_unmap(m->pages, (size_t)m->nr_slots * PAGE);
	pg_mem_unmap(m->held, held_size(m->nr_slots));
	pg_mem_unmap(m, sizeof(*m));
}

static int mirror_open(struct pgmap_device_args *args, void **priv)
{
	uint64_t size = UINT64_MAX;
	const struct pg_opt options[] = {
		{.name = "size",
		 .kind = PG_OPT_SIZE,
		 .value = &size,
		 .min = PAGE},
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
	m->pages = pg_mem_map((size_t)m->nr_slots * PAGE);
	m->held = pg_mem_map(held_size(m->nr_slots));
	if (!m->pages || !m->held) {
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

static bool is_held(struct mirror *m, uint64_t slot)
{
	return pg_load(&m->held[slot / 64], relaxed) >> slot % 64 & 1;
}

static bool runs_inside(const struct mirror *m, uint64_t slot, uint64_t nr)
{
	return nr && slot < m->nr_slots && nr <= m->nr_slots - slot;
}

static int store_one(struct mirror *m, const struct pgmap_io *io)
{
	if (!runs_inside(m, io->slot, io->nr))
		return -EINVAL;
	if (pg_fetch_add(&m->stored, io->nr, relaxed) + io->nr > m->limit) {
		pg_fetch_sub(&m->stored, io->nr, relaxed);
		return -ENOSPC;
	}
	memcpy(m->pages + io->slot * PAGE, io->buf, (size_t)io->nr * PAGE);
	for (uint64_t s = io->slot; s < io->slot + io->nr; s++)
		pg_fetch_or(&m->held[s / 64], 1ull << s % 64, relaxed);
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

/* Give back the pages of a run of held slots at @slot. Return: its end. */
static uint64_t drop_run(struct mirror *m, uint64_t slot, uint64_t end)
{
	uint64_t s = slot;

	for (; s < end && is_held(m, s); s++)
		pg_fetch_and(&m->held[s / 64], ~(1ull << s % 64), relaxed);
	pg_mem_drop(m->pages + slot * PAGE, (size_t)(s - slot) * PAGE);
	pg_fetch_sub(&m->stored, s - slot, relaxed);
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
		.host_bytes = stored * PAGE,
		.live_bytes = stored * PAGE,
		.limit_bytes = m->limit < UINT64_MAX / PAGE ? m->limit * PAGE
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
	.options = "size=SIZE (default no limit)",
	.flags = PGMAP_DEV_COHERENT,
	.open = mirror_open,
	.close = mirror_close,
	.store = mirror_store,
	.load = mirror_load,
	.discard = mirror_discard,
	.usage = mirror_usage,
	.direct_access = mirror_direct_access,
};
