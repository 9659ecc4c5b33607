/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * proc.h - what the kernel says of pages in /proc/PID/pagemap, and advice, as
 * far as the headers of Linux 6.1 lack them.
 */
#ifndef PG_MMU_PROC_H
#define PG_MMU_PROC_H

#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

/* Linux 5.14. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

/* Bits of an entry. EXCLUSIVE: no other page table has the page. */
#define PAGEMAP_PRESENT ((uint64_t)1 << 63)
#define PAGEMAP_SWAPPED ((uint64_t)1 << 62)
#define PAGEMAP_FILE ((uint64_t)1 << 61)
#define PAGEMAP_EXCLUSIVE ((uint64_t)1 << 56)

/* PAGEMAP_SCAN of Linux 6.7, which skips what has no page table. */
struct scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t inverted, all_of, any_of, returned;
};

struct scan_region {
	uint64_t start, end, categories;
};

#define IOC_PAGEMAP_SCAN _IOWR('f', 16, struct scan_arg)
#define SCAN_PRESENT ((uint64_t)1 << 3)
#define SCAN_SWAPPED ((uint64_t)1 << 4)
#define SCAN_ZERO ((uint64_t)1 << 5)
#define SCAN_HUGE ((uint64_t)1 << 6)

#endif
