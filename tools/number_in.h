/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef NUMBER_IN_H
#define NUMBER_IN_H

#include <stdint.h>

/** number_in() - One number out of a small file of /proc or /sys: the first
 * after @key at the beginning of a line, or, @key NULL, the first.
 * Return: it; UINT64_MAX: there is none. */
uint64_t number_in(const char *path, const char *key);

#endif
