/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * soft.h - an address space in memory, for tests: deterministic, no kernel.
 *
 * A touch is a function call, and so is a fault. Everything that a kernel may
 * refuse or do behind core's back can be asked for: pins, zaps, failures.
 */
#ifndef PG_SOFT_H
#define PG_SOFT_H

#include "mmu/mmu.h"

/** Where the pages of a soft address space begin; not dereferenceable. */
#define PG_SOFT_BASE ((uintptr_t)0x100000000)

enum pg_soft_op {
	PG_SOFT_TAKE,
	PG_SOFT_GIVE,
	PG_SOFT_ZERO,
	PG_SOFT_FILL,
	PG_SOFT_WAKE
};

struct pg_soft_hooks {
	/** @fault: A touch of an absent watched page. It is touched again
	 * when this returns true; false gives the touch up. */
	bool (*fault)(void *ctx, uintptr_t va, uint32_t flags);
	/** @before: Called with nothing locked before each operation; not 0 is
	 * the error that it fails with. May be NULL. */
	int (*before)(void *ctx, enum pg_soft_op op, uintptr_t va);
	void *ctx;
};

/** pg_soft_create() - @nr pages at PG_SOFT_BASE, all absent. Return: 0 or
 * -ENOMEM. */
int pg_soft_create(size_t nr, struct pg_mmu **m);
void pg_soft_destroy(struct pg_mmu *m);
void pg_soft_hook(struct pg_mmu *m, const struct pg_soft_hooks *hooks);

/** pg_soft_read() - Load a byte as the program would. Return: 0; -EHWPOISON a
 * SIGBUS; -EFAULT outside; -EAGAIN the fault was given up. */
int pg_soft_read(struct pg_mmu *m, uintptr_t va, uint8_t *value);
int pg_soft_write(struct pg_mmu *m, uintptr_t va, uint8_t value);
/** pg_soft_zap() - What MADV_DONTNEED does to the page table. */
void pg_soft_zap(struct pg_mmu *m, uintptr_t va, size_t nr);
/** pg_soft_pin() - Pinned pages cannot be taken. */
void pg_soft_pin(struct pg_mmu *m, uintptr_t va, bool pinned);
/** pg_soft_protect() - What pg_mmu_look() says of a range from now on:
 * PG_LOOK_* bits that it lacks, and others that it has. */
void pg_soft_protect(struct pg_mmu *m, uintptr_t va, size_t nr, uint16_t denied,
		     uint16_t also);
/** pg_soft_is_present() - Is there a page? */
bool pg_soft_is_present(struct pg_mmu *m, uintptr_t va);

#endif
