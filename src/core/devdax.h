/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * devdax.h - a device file: page n of it is page n of the device. Linux:
 * device-dax, drivers/dax/device.c.
 *
 * The pages are those of a GENERIC map. They are idle until a fault takes them
 * from 0 to 1 (R31), always in folios of the file's alignment, which is the
 * one size that it is mapped with.
 */
#ifndef PG_DEVDAX_H
#define PG_DEVDAX_H

#include <pgmap/pgmap.h>

#include "core/space.h"

/** struct pg_devdax - Constant but for the mapping and @dead. There while an
 * area maps it, which may be longer than the device. */
struct pg_devdax {
	struct pg_mapping mapping; /* first: it is what areas know */
	struct pgmap *map;	   /* another one's, once dead and destroyed */
	pg_atomic32 dead;	   /* 1 from kill on; relaxed */
	enum pg_level align;	   /* the size of its entries */
};

/**
 * pg_devdax_create() - Zeroed @dev is a device of @nr ranges.
 * @align: 4 KB, 2 MB or 1 GB, in bytes; ranges are multiples of it.
 * @fixed: The ranges are one that the platform gave, in one piece.
 *
 * Return: 0; -EINVAL; -EBUSY a part of it is somebody else's; as
 *         pgmap_create() (R154h).
 */
int pg_devdax_create(struct pg_devdax *dev, const struct pgmap_range *ranges,
		     uint32_t nr, uint64_t align, bool fixed);
/** pg_devdax_kill() - Unmap all users, who get SIGBUS from now on. */
void pg_devdax_kill(struct pg_devdax *dev);
/** pg_devdax_destroy() - Kill it, and wait until nobody holds a page of it:
 * as long as the longest pin (R15). */
void pg_devdax_destroy(struct pg_devdax *dev);

/**
 * pg_devdax_mmap() - Map pages [@pgoff, @pgoff + @nr) of it at @va (R154c).
 *
 * Return: 0; -ENXIO it was killed; -EINVAL a private mapping, or its start or
 *         end not aligned; as pg_space_map(). A page that the device does not
 *         have, or not at a multiple of the alignment, is a SIGBUS.
 */
int pg_devdax_mmap(struct pg_devdax *dev, struct pg_space *space, uintptr_t va,
		   uint64_t nr, uint32_t flags, uint64_t pgoff);
/** pg_devdax_unmapped_area() - Where @nr pages from @pgoff on may be mapped,
 * from @hint on: free, and of the colour of @pgoff (R154f). Linux:
 * get_unmapped_area(). Return: 0 or -ENOMEM, as for a hint that is no address
 * of a program. */
int pg_devdax_unmapped_area(struct pg_devdax *dev, struct pg_space *space,
			    uintptr_t hint, uint64_t nr, uint64_t pgoff,
			    uintptr_t *va);
/** pg_devdax_pfn() - The page that [@pgoff, @pgoff + @nr) begins with; false:
 * they are not in one range (R154e). */
bool pg_devdax_pfn(const struct pg_devdax *dev, uint64_t pgoff, uint64_t nr,
		   uint64_t *pfn);

#endif
