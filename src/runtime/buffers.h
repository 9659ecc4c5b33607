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

/** Holds for a call with a vector of buffers, or of strings. More than their
 * ranges are held together with what lies between. */
#define PG_BUFFERS_HOLDS 8u

/** pg_buffers_holds() - Return: how many holds call @nr should be given. */
unsigned int pg_buffers_holds(long nr);

/**
 * pg_buffers_find() - Add what @call uses to @h[0] .. @h[@nr - 1].
 * @mm: The instance, NULL before there is one.
 * @h:  As from pg_hold_init(). Those that stay empty come last.
 *
 * At least what the kernel looks at or writes until the call returns; where
 * that is not known exactly, more. Also reads what arguments point at (vectors
 * of buffers, message headers), which may fault.
 * Context: the program's thread; no lock held.
 */
void pg_buffers_find(struct pgmap_mm *mm, const struct pg_call *call,
		     struct pg_hold *h, unsigned int nr);

/** pg_buffers_read() - Copy [@p, @p + @len), which an argument of @call points
 * at, to @to. Return: false: it cannot be read. */
bool pg_buffers_read(struct pgmap_mm *mm, const struct pg_call *call, void *to,
		     uintptr_t p, size_t len);

/** pg_buffers_readable() - Can [@p, @p + @len) be read without a signal? What
 * is managed and away can. */
bool pg_buffers_readable(struct pgmap_mm *mm, uintptr_t p, size_t len);

#endif
