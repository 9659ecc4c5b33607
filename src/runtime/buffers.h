/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * buffers.h - which memory a system call uses, for every call of Linux x86-64.
 */
#ifndef PG_BUFFERS_H
#define PG_BUFFERS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/mm.h"
#include "runtime/syscall.h"

/** pg_buffers_has() - May call @nr use memory? */
bool pg_buffers_has(long nr);

/**
 * pg_buffers_find() - Add what @call uses to @h, which is empty.
 * @mm: The instance, NULL before there is one.
 *
 * At least what the kernel looks at or writes until the call returns; where
 * that is not known exactly, more. Also reads what arguments point at (vectors
 * of buffers, message headers), which may fault.
 * Context: the program's thread; no lock held.
 */
void pg_buffers_find(struct pgmap_mm *mm, const struct pg_call *call,
		     struct pg_hold *h);

/** pg_buffers_readable() - Can [@p, @p + @len) be read without a signal? What
 * is managed and away can. */
bool pg_buffers_readable(struct pgmap_mm *mm, uintptr_t p, size_t len);

#endif
