/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * driver.h - what you implement to put memory on a new kind of device.
 *
 * A driver is one file, src/driver/<name>.c, that defines one constant,
 * pgmap_<name>_ops, and includes nothing of pgmap but this header and
 * src/base/. It stores and loads folios by slot number. It knows nothing of
 * addresses, page tables, faults or who uses a page: that is core's job.
 *
 * Memory: a driver runs inside faults and evictions of somebody else's
 * program, which may have faulted inside its own malloc. So a driver never
 * calls malloc, stdio or anything else of libc that allocates, locks or reads
 * errno; it takes memory from base/mem.h and makes system calls by base/sys.h.
 * Only open and close may be slow; still they run on a thread that libc does
 * not know, and keep to the same rules.
 */
#ifndef PGMAP_DRIVER_H
#define PGMAP_DRIVER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** A slot of a device holds one page of this many bytes. */
#define PGMAP_PAGE_SIZE 4096u
/** The largest folio that a driver is given: 2 MB. */
#define PGMAP_MAX_FOLIO_PAGES 512u

/**
 * struct pgmap_io - One folio, or a part of one, to store or load.
 * @slot:   First slot. For a store: the folio's first slot, a multiple of @nr.
 * @nr:     Pages. For a store: a power of two, 1..PGMAP_MAX_FOLIO_PAGES, the
 *          whole folio. For a load: any run of pages inside one stored folio.
 * @status: Out: 0 or a negative errno for this folio alone.
 * @buf:    @nr pages of system memory, page aligned. The driver's only while
 *          the call runs.
 */
struct pgmap_io {
	uint64_t slot;
	uint32_t nr;
	int32_t status;
	void *buf;
};

/**
 * struct pgmap_device_args - What a device is opened with.
 * @options:   The text after "NAME:", "" if there was none. Not NULL.
 * @nr_slots:  In: how many slots the caller would like. Out: how many there
 *             are; never more than asked for. Slots cost nothing until used.
 * @unit:      In: PGMAP_MAX_FOLIO_PAGES, the largest folio that core stores at
 *             once. Out: a power of two; a driver may ask for smaller ones.
 * @error:     Out, on failure: one line that names the cause and the way out,
 *             without the device's name and without a newline.
 * @error_len: Bytes at @error.
 */
struct pgmap_device_args {
	const char *options;
	uint64_t nr_slots;
	uint32_t unit;
	char *error;
	size_t error_len;
};

/**
 * struct pgmap_device_usage - How full a device is.
 * @stored_pages: Pages (of PGMAP_PAGE_SIZE) whose contents the device holds.
 * @host_bytes:   System memory in use for them, bookkeeping and waste included.
 * @live_bytes:   Of @host_bytes, what holds contents (for lz4: compressed
 *                bytes). @host_bytes - @live_bytes is waste.
 * @media_bytes:  Bytes in use outside of system memory (a file, a GPU).
 * @limit_bytes:  What @host_bytes or @media_bytes, whichever the device
 *                bounds, may not exceed; UINT64_MAX when unbounded.
 */
struct pgmap_device_usage {
	uint64_t stored_pages;
	uint64_t host_bytes;
	uint64_t live_bytes;
	uint64_t media_bytes;
	uint64_t limit_bytes;
};

/** enum pgmap_fork_phase - Where in a fork() of the program we are. */
enum pgmap_fork_phase {
	PGMAP_FORK_PREPARE, /* parent, before the fork; may fail */
	PGMAP_FORK_ABORT,   /* parent, after the fork failed */
	PGMAP_FORK_CHILD    /* child, on its new fault thread, before any I/O */
};

/* The device is byte addressable by the CPU; direct_access is set. */
#define PGMAP_DEV_COHERENT (1u << 0)
/* The contents survive close and open; flush is set. */
#define PGMAP_DEV_PERSISTENT (1u << 1)
/* Operations, discard too, use descriptors: they run on pgmap's own threads,
 * which have a descriptor table apart from the program's. */
#define PGMAP_DEV_DESCRIPTORS (1u << 2)
/* Pages that are stored together are packed together: to load one costs nearly
 * as much as to load all of the folio. Where pages are not used together core
 * stores them again one by one. */
#define PGMAP_DEV_PACKED (1u << 3)

/**
 * struct pgmap_device_ops - A device driver.
 *
 * Core checks the required operations once, when the device is opened, and
 * calls an optional one only where it is not NULL: drivers write no stubs.
 * Core never calls two operations for the same slot at once; it does call
 * different slots from different threads. Core computes and checks the
 * checksum of every page itself: a driver need not.
 */
struct pgmap_device_ops {
	/** @size: sizeof(struct pgmap_device_ops). Lets the struct grow. */
	size_t size;
	/** @name: [a-z0-9]+, as in `--device name:options`. */
	const char *name;
	/** @summary: One line for `pgmap check`: where the bytes live. */
	const char *summary;
	/** @options: One line for help: "size=SIZE (default ...), ...". */
	const char *options;
	/** @flags: PGMAP_DEV_*. */
	uint32_t flags;

	/* Required. */

	/**
	 * @open: Make a device with no folio stored.
	 *
	 * Context: May sleep. Called once, before any other operation.
	 * Return: 0 and *@priv; -EINVAL bad options; -ENODEV the hardware,
	 *         library, server or kernel support is not there; -ENOMEM;
	 *         another negative errno of what failed. args->error is set.
	 */
	int (*open)(struct pgmap_device_args *args, void **priv);
	/** @close: Free everything. Context: No operation is running. */
	void (*close)(void *priv);
	/**
	 * @store: Write @n folios to their slots, which hold nothing.
	 *
	 * Context: May sleep. Any thread. Must not call pgmap: the folios
	 *          are locked.
	 * Return: 0 if every @io[].status is 0, else the first error; every
	 *         status is set. A folio whose status is not 0 leaves its
	 *         slots as they were: holding nothing. -ENOSPC tells core to
	 *         keep the pages in RAM and is not an I/O error.
	 */
	int (*store)(void *priv, struct pgmap_io *io, unsigned int n);
	/**
	 * @load: Read @n runs of pages, each inside one stored folio.
	 *
	 * The slots still hold their contents afterwards. Context: as @store.
	 * Return: as @store; -EIO if the contents cannot be had.
	 */
	int (*load)(void *priv, struct pgmap_io *io, unsigned int n);
	/**
	 * @discard: The contents of @nr slots from @slot are not needed.
	 *
	 * May cover any page-aligned part of a stored folio; the rest stays
	 * loadable. May cover several whole folios. Slots that hold nothing
	 * are fine. Space is given back at the latest when no page of a folio
	 * is left. Context: Any thread, must not fail.
	 */
	void (*discard)(void *priv, uint64_t slot, uint64_t nr);
	/** @usage: Fill in *@usage. Context: Any thread; cheap; may be off by
	 *          what other threads do meanwhile. */
	void (*usage)(void *priv, struct pgmap_device_usage *usage);

	/* Optional. */

	/**
	 * @fork: The program forks. Private memory is copied by the kernel, so
	 * a driver that keeps everything in base/mem.h memory needs nothing.
	 * One that shares something else (a file, a server) makes parent and
	 * child independent here, without loss for either. The child has none
	 * of the parent's descriptors.
	 *
	 * Context: No other operation is running.
	 * Return: 0 or a negative errno, which makes the fork fail with EAGAIN
	 *         (PREPARE only; the other phases must succeed or, in CHILD,
	 *         let later loads fail with -EIO).
	 */
	int (*fork)(void *priv, enum pgmap_fork_phase phase);
	/** @direct_access: Address of @slot, for PGMAP_DEV_COHERENT. */
	void *(*direct_access)(void *priv, uint64_t slot);
	/** @flush: Make earlier stores durable, for PGMAP_DEV_PERSISTENT. */
	int (*flush)(void *priv);
};

#ifdef __cplusplus
}
#endif
#endif
