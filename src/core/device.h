/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * device.h - a driver's slots as a page map.
 *
 * The one door from core to drivers. It opens a driver, makes a PRIVATE page
 * map with a page for each slot, hands folios out from an allocator of its
 * own, takes them back at the last put, and keeps a checksum of every stored
 * page, so that bytes that changed on the device are noticed and never used.
 */
#ifndef PG_DEVICE_H
#define PG_DEVICE_H

#include <pgmap/driver.h>
#include <pgmap/pgmap.h>

#include "base/atomic.h"
#include "base/hash.h"

/** struct pgmap_device - One open device. */
struct pgmap_device {
	struct pgmap_device_ops ops; /* core's copy; unknown ones are NULL */
	void *priv;
	struct pgmap *map;
	uint64_t first_pfn; /* of slot 0 */
	uint64_t nr_slots;
	unsigned int order;  /* of the largest folio; set once */
	struct pg_sum *sums; /* by slot; valid while the slot is stored */
	/* By slot: whose page it holds (unit.h), 0 nobody's. NULL until there
	 * is an owner. Written under the folio's lock or by its last put;
	 * relaxed: who reads without is told of changes. */
	_Atomic(pg_atomic8 *) owners;
	struct pgmap_allocator *allocator;
};

/**
 * pg_device_open() - Open a driver and make its page map.
 * @args:           nr_slots and options as for the driver; error is filled in.
 * @migrate_to_ram: What a CPU fault on a page of the map does.
 *
 * Return: 0; -EINVAL the driver breaks driver.h; what its open said; -ENOMEM.
 */
int pg_device_open(const struct pgmap_device_ops *ops,
		   struct pgmap_device_args *args,
		   int (*migrate_to_ram)(struct pgmap_fault *),
		   struct pgmap_device **dev);
/** pg_device_close() - Waits until no page of it is held. NULL is fine. */
void pg_device_close(struct pgmap_device *dev);

/** pg_device_alloc() - Hand out a folio: locked, count 1, holding nothing.
 * Return: 0; -ENOSPC no run of free slots of that order; -ENODEV removing. */
int pg_device_alloc(struct pgmap_device *dev, unsigned int order,
		    struct pgmap_folio **folio);

/** struct pg_device_io - A folio and where its bytes are or go. */
struct pg_device_io {
	struct pgmap_folio *folio;
	uint32_t first; /* pages into the buffer of the batch */
	int32_t status; /* out */
};

/**
 * pg_device_store() - Store @n whole folios from @buf + first pages each.
 * @scratch: @n struct pgmap_io.
 * Context: holds the folios' locks. May sleep. Sets every status.
 */
void pg_device_store(struct pgmap_device *dev, struct pg_device_io *io,
		     unsigned int n, char *buf, struct pgmap_io *scratch);

/** pg_device_load() - Load @n runs of pages, each inside one folio, and check
 * them. Sets every status: 0, or -EIO the device failed or the bytes are not
 * the same. */
void pg_device_load(struct pgmap_device *dev, struct pgmap_io *io,
		    unsigned int n);

/** pg_device_holds() - Is the page at @buf what is stored as @pfn? By its
 * checksum. Context: holds a reference to the folio. */
bool pg_device_holds(struct pgmap_device *dev, uint64_t pfn, const char *buf);

/** pg_device_set_owner() - @nr pages from @pfn on, just handed out, are
 * @owner's until they are free. Return: 0 or -ENOMEM. */
int pg_device_set_owner(struct pgmap_device *dev, uint64_t pfn, size_t nr,
			uint8_t owner);
uint8_t pg_device_owner(const struct pgmap_device *dev, uint64_t pfn);

/** pg_device_write() - Change a page that is stored, from @buf. Context: nobody
 * else uses the slot. Return: 0; -EOPNOTSUPP the CPU cannot write there. */
int pg_device_write(struct pgmap_device *dev, uint64_t pfn, const char *buf);

/** pg_device_metadata() - Bytes of records and checksums of slots that were
 * ever used. */
uint64_t pg_device_metadata(struct pgmap_device *dev);

/** pg_device_usage() - As the driver sees it. */
void pg_device_usage(struct pgmap_device *dev,
		     struct pgmap_device_usage *usage);

/** pg_device_fork() - As struct pgmap_device_ops.fork; 0 if it has none. */
int pg_device_fork(struct pgmap_device *dev, enum pgmap_fork_phase phase);

#endif
