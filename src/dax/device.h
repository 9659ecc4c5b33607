/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * device.h - memory that stays, mapped whole.
 *
 * pg_daxdev_flush() is the one place where bytes become durable, and the only
 * order there is: what was stored before it is on the medium before what is
 * stored after it. A test puts a function of its own there, and so sees every
 * state that a crash can leave behind.
 */
#ifndef PG_DAX_DEVICE_H
#define PG_DAX_DEVICE_H

#include <pgmap/dax.h>

struct pgmap_dax {
	unsigned char *base;
	uint64_t bytes;
	uint64_t align;
	uint64_t page_size;
	const char *kind;
	bool readonly;
	int fd; /* -1: there is none */
	/* Return: 0 or -EIO. NULL: memory is the medium. */
	int (*flush)(struct pgmap_dax *dax, uint64_t at, uint64_t len);
	void *data; /* a test's */
};

/** pg_daxdev_init() - Zeroed @dax is @bytes of memory at @base, which the
 * caller keeps. */
void pg_daxdev_init(struct pgmap_dax *dax, void *base, uint64_t bytes);
/** pg_daxdev_flush() - As pgmap_dax_flush(), of bytes that are there. */
int pg_daxdev_flush(struct pgmap_dax *dax, uint64_t at, uint64_t len);

#endif
