/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * memory_failure.h - a page of a device went bad. Linux: memory_failure().
 */
#ifndef PG_MEMORY_FAILURE_H
#define PG_MEMORY_FAILURE_H

#include <stdint.h>

struct pg_space;

/** struct pg_mce - Somebody whose page is gone. Linux: SIGBUS with
 * BUS_MCEERR_AR, si_addr and si_addr_lsb. */
struct pg_mce {
	struct pg_space *space;
	uintptr_t va;	  /* of the bad page */
	unsigned int lsb; /* log2 of the bytes that went: the entry's size */
};

/**
 * pg_memory_failure() - Page @pfn is bad: nobody gets it any more.
 * @kill: Told each user of it, before the entry goes.
 *
 * The map's memory_failure is asked first. Otherwise the page is marked, and
 * every entry that covers it removed, whole, so that a touch faults and is
 * told so (R183). A file that shares the block with others must find them by
 * its own memory_failure (R184).
 *
 * Context: May sleep: takes the folio's lock. Holds no lock.
 * Return: 0; -EBUSY it is marked, but files share it, so that who maps it was
 *         neither told nor unmapped (R184); -ENXIO no such page, one of the
 *         device's own data, or PRIVATE or COHERENT and the driver did not
 *         deal with it (R182, N34); what the driver said.
 */
int pg_memory_failure(uint64_t pfn,
		      void (*kill)(const struct pg_mce *mce, void *arg),
		      void *arg);

#endif
