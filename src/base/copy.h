/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * copy.h - copies for which memcpy() is the wrong one.
 */
#ifndef PG_COPY_H
#define PG_COPY_H

#include <stddef.h>

/** pg_copy_away() - Copy what will not be read again soon, past the caches: the
 * memory at @to is not read to be overwritten. memcpy() does so from a good
 * part of the last cache on only.
 * @to, @from: Multiples of 16; @len: of 64. Context: any. */
void pg_copy_away(void *to, const void *from, size_t len);

#endif
