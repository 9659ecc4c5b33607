/* SPDX-License-Identifier: BSD-3-Clause */
#include "core/device.h"

#include <errno.h>
#include <string.h>

#include "base/bug.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/mutant.h"
#include "core/allocator.h"
#include "core/folio.h"
#include "core/pagemap.h"

/* Pages whose copy, both sides of it, fits the nearest cache. */
#define PIECE 2u

/* ---- Folios ---- */

static uint64_t slot_of(const struct pgmap_device *dev,
			const struct pgmap_folio *folio)
{
	return pgmap_folio_pfn(folio) - dev->first_pfn;
}

int pg_device_alloc(struct pgmap_device *dev, unsigned int order,
		    struct pgmap_folio **folio)
{
	return pgmap_allocator_get(dev->allocator, order, folio);
}

/* The last put: the slots hold nothing and are free (R39, R44, R45). */
static void folio_free(struct pgmap_folio *folio)
{
	struct pgmap_device *dev = pgmap_get_data(pgmap_folio_map(folio));
	uint64_t slot = slot_of(dev, folio);
	uint64_t nr = (uint64_t)1 << pgmap_folio_order(folio);

	dev->ops.discard(dev->priv, slot, nr);
	if (pg_load(&dev->owners, acquire))
		pg_device_set_owner(dev, pgmap_folio_pfn(folio), nr, 0);
	pgmap_allocator_free(dev->allocator, folio);
}

/* ---- Open and close ---- */

/* What each flag promises must be there; what is not promised must not be. */
static int check_ops(const struct pgmap_device_ops *o)
{
	if (!o->name || !o->open || !o->close || !o->store || !o->load ||
	    !o->discard || !o->usage)
		return -EINVAL;
	if (!(o->flags & PGMAP_DEV_COHERENT) != !o->direct_access)
		return -EINVAL;
	if (!(o->flags & PGMAP_DEV_PERSISTENT) != !o->flush)
		return -EINVAL;
	return 0;
}

static void close_map(struct pgmap_device *dev)
{
	pgmap_destroy(dev->map);
	pgmap_allocator_destroy(dev->allocator);
	pg_mem_unmap(dev->sums, dev->nr_slots * sizeof(*dev->sums));
	pg_mem_unmap(pg_load(&dev->owners, relaxed), dev->nr_slots);
}

static int make_map(struct pgmap_device *dev,
		    int (*migrate_to_ram)(struct pgmap_fault *))
{
	const struct pgmap_ops ops = {
		.size = sizeof(ops),
		.folio_free = folio_free,
		.migrate_to_ram = migrate_to_ram,
	};
	const struct pgmap_desc desc = {
		.size = sizeof(desc),
		.type = PGMAP_PRIVATE,
		.nr_range = 1,
		.range = {{.nr = (dev->nr_slots + PGMAP_SUBSECTION_PAGES - 1) /
				 PGMAP_SUBSECTION_PAGES *
				 PGMAP_SUBSECTION_PAGES}},
		.ops = &ops,
		.owner = dev,
		.data = dev,
	};
	struct pgmap_range r;
	int ret = pgmap_create(&desc, &dev->map);

	if (ret)
		return ret;
	pgmap_range_get(dev->map, 0, &r);
	dev->first_pfn = r.pfn;
	dev->sums = pg_mem_map(dev->nr_slots * sizeof(*dev->sums));
	if (dev->sums && !pgmap_allocator_create(&dev->allocator)) {
		/* Behind the last slot the map is larger than the device. */
		ret = pg_allocator_add_part(dev->allocator, dev->map,
					    dev->nr_slots);
		if (!ret)
			return 0;
	}
	close_map(dev);
	return -ENOMEM;
}

int pg_device_open(const struct pgmap_device_ops *ops,
		   struct pgmap_device_args *args,
		   int (*migrate_to_ram)(struct pgmap_fault *),
		   struct pgmap_device **out)
{
	struct pgmap_device *dev;
	uint64_t wanted = args->nr_slots;
	int ret = -EINVAL;

	args->unit = PGMAP_MAX_FOLIO_PAGES;

	if (!ops->size || ops->size > sizeof(*ops)) {
		pg_format(args->error, args->error_len,
			  "the driver was built for a newer pgmap");
		return -EINVAL;
	}
	dev = pg_mem_map(sizeof(*dev));
	if (!dev) {
		pg_format(args->error, args->error_len, "no memory");
		return -ENOMEM;
	}
	memcpy(&dev->ops, ops, ops->size);
	if (check_ops(&dev->ops)) {
		pg_format(args->error, args->error_len,
			  "the driver lacks an operation it must have");
		goto err_free;
	}
	ret = dev->ops.open(args, &dev->priv);
	if (ret)
		goto err_free;
	if (!args->nr_slots || args->nr_slots > wanted ||
	    args->nr_slots >= UINT32_MAX) {
		ret = -EINVAL;
		pg_format(args->error, args->error_len,
			  "the driver gave %lu slots, %lu were asked for",
			  args->nr_slots, wanted);
		goto err_close;
	}
	if (!args->unit || args->unit & (args->unit - 1) ||
	    args->unit > PGMAP_MAX_FOLIO_PAGES) {
		ret = -EINVAL;
		pg_format(args->error, args->error_len,
			  "the driver asks for folios of %u pages", args->unit);
		goto err_close;
	}
	dev->nr_slots = args->nr_slots;
	while (1u << (dev->order + 1) <= args->unit)
		dev->order++;
	ret = make_map(dev, migrate_to_ram);
	if (ret) {
		pg_format(args->error, args->error_len,
			  "no memory for its page map");
		goto err_close;
	}
	*out = dev;
	return 0;

err_close:
	dev->ops.close(dev->priv);
err_free:
	pg_mem_unmap(dev, sizeof(*dev));
	return ret;
}

void pg_device_close(struct pgmap_device *dev)
{
	if (!dev)
		return;
	close_map(dev);
	dev->ops.close(dev->priv);
	pg_mem_unmap(dev, sizeof(*dev));
}

/* ---- Store and load ---- */

void pg_device_store(struct pgmap_device *dev, struct pg_device_io *io,
		     unsigned int n, char *buf, struct pgmap_io *scratch)
{
	for (unsigned int i = 0; i < n; i++) {
		uint64_t slot = slot_of(dev, io[i].folio);
		char *from = buf + (size_t)io[i].first * PGMAP_PAGE_SIZE;
		uint32_t nr = 1u << pgmap_folio_order(io[i].folio);

		for (uint32_t k = 0; k < nr; k++)
			dev->sums[slot + k] =
				pg_hash(from + (size_t)k * PGMAP_PAGE_SIZE,
					PGMAP_PAGE_SIZE);
		scratch[i] = (struct pgmap_io){
			.slot = slot, .nr = nr, .buf = from, .status = -EIO};
	}
	dev->ops.store(dev->priv, scratch, n);
	for (unsigned int i = 0; i < n; i++)
		io[i].status = scratch[i].status;
}

static bool is_intact(struct pgmap_device *dev, const struct pgmap_io *io)
{
	for (uint32_t k = 0; k < io->nr && !pg_mutant("no_checksum"); k++)
		if (!pg_device_holds(dev, dev->first_pfn + io->slot + k,
				     (char *)io->buf + k * PGMAP_PAGE_SIZE))
			return false;
	return true;
}

/* What the CPU can read is copied: a piece at a time, so that the checksum
 * finds it in the cache. */
static void load_in_pieces(struct pgmap_device *dev, struct pgmap_io *io)
{
	struct pgmap_io piece = *io;

	io->status = 0;
	for (uint32_t at = 0; at < io->nr; at += piece.nr) {
		piece.slot = io->slot + at;
		piece.nr = io->nr - at < PIECE ? io->nr - at : PIECE;
		piece.buf = (char *)io->buf + (size_t)at * PGMAP_PAGE_SIZE;
		piece.status = -EIO;
		dev->ops.load(dev->priv, &piece, 1);
		if (piece.status || !is_intact(dev, &piece))
			io->status = -EIO;
	}
}

void pg_device_load(struct pgmap_device *dev, struct pgmap_io *io,
		    unsigned int n)
{
	if (dev->ops.flags & PGMAP_DEV_COHERENT) {
		for (unsigned int i = 0; i < n; i++)
			load_in_pieces(dev, &io[i]);
		return;
	}
	/* A driver that forgets one has failed. */
	for (unsigned int i = 0; i < n; i++)
		io[i].status = -EIO;
	dev->ops.load(dev->priv, io, n);
	for (unsigned int i = 0; i < n; i++)
		if (io[i].status || !is_intact(dev, &io[i]))
			io[i].status = -EIO;
}

bool pg_device_holds(struct pgmap_device *dev, uint64_t pfn, const char *buf)
{
	struct pg_sum is = pg_hash(buf, PGMAP_PAGE_SIZE);
	struct pg_sum was = dev->sums[pfn - dev->first_pfn];

	return is.lo == was.lo && is.hi == was.hi;
}

int pg_device_set_owner(struct pgmap_device *dev, uint64_t pfn, size_t nr,
			uint8_t owner)
{
	pg_atomic8 *owners = pg_load(&dev->owners, acquire), *made;

	if (!owners) {
		made = pg_mem_map(dev->nr_slots);
		if (!made)
			return -ENOMEM;
		if (pg_cas(&dev->owners, &owners, made, acq_rel))
			owners = made;
		else
			pg_mem_unmap(made, dev->nr_slots);
	}
	for (size_t i = 0; i < nr; i++)
		pg_store(&owners[pfn - dev->first_pfn + i], owner, relaxed);
	return 0;
}

uint8_t pg_device_owner(const struct pgmap_device *dev, uint64_t pfn)
{
	pg_atomic8 *owners = pg_load(&dev->owners, acquire);

	return owners ? pg_load(&owners[pfn - dev->first_pfn], relaxed) : 0;
}

int pg_device_write(struct pgmap_device *dev, uint64_t pfn, const char *buf)
{
	uint64_t slot = pfn - dev->first_pfn;

	if (!(dev->ops.flags & PGMAP_DEV_COHERENT))
		return -EOPNOTSUPP;
	memcpy(dev->ops.direct_access(dev->priv, slot), buf, PGMAP_PAGE_SIZE);
	if (!pg_mutant("written_pages_keep_their_sum"))
		dev->sums[slot] = pg_hash(buf, PGMAP_PAGE_SIZE);
	return 0;
}

uint64_t pg_device_metadata(struct pgmap_device *dev)
{
	return pg_allocator_used(dev->allocator, dev->map) *
	       (sizeof(struct pgmap_folio) + sizeof(*dev->sums));
}

void pg_device_usage(struct pgmap_device *dev, struct pgmap_device_usage *usage)
{
	memset(usage, 0, sizeof(*usage));
	dev->ops.usage(dev->priv, usage);
}

int pg_device_fork(struct pgmap_device *dev, enum pgmap_fork_phase phase)
{
	return dev->ops.fork ? dev->ops.fork(dev->priv, phase) : 0;
}
