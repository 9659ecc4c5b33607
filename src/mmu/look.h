/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * look.h - what the kernel has mapped where, and what of it is there.
 */
#ifndef PG_LOOK_H
#define PG_LOOK_H

#include "mmu/mmu.h"

/** pg_look() - struct pg_mmu_ops.look. @pagemap: /proc/self/pagemap, open.
 * Before Linux 6.7 nothing is ever ZERO or PMD. */
int pg_look(int pagemap, uintptr_t va, size_t nr, uint16_t *bits);
/** pg_look_populate() - struct pg_mmu_ops.populate. */
int pg_look_populate(uintptr_t va, size_t nr, bool write);

#endif
