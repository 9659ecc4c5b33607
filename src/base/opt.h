/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * opt.h - "size=1G,level=3" into variables, with an error that says where.
 */
#ifndef PG_OPT_H
#define PG_OPT_H

#include <stddef.h>
#include <stdint.h>

enum pg_opt_kind {
	PG_OPT_SIZE,  /* bytes, with K M G T or KiB.. suffix; uint64_t */
	PG_OPT_UINT,  /* a number; uint64_t */
	PG_OPT_STRING /* char[len], NUL-terminated */
};

/**
 * struct pg_opt - One option.
 * @name:  NULL ends a table.
 * @value: uint64_t *, or char * for PG_OPT_STRING.
 * @len:   Bytes at @value for PG_OPT_STRING.
 * @min, @max: Inclusive limits of a number.
 */
struct pg_opt {
	const char *name;
	enum pg_opt_kind kind;
	void *value;
	size_t len;
	uint64_t min, max;
};

/** pg_opt_size() - Parse all of @text as a size: "64M", "1.5G", "4096", "2MiB".
 * Return: 0, -EINVAL (not a size) or -ERANGE (does not fit 64 bits). */
int pg_opt_size(const char *text, uint64_t *bytes);

/**
 * pg_opt_parse() - Parse "a=1,b=2"; a first item without "=" is the value of
 * the first option of the table, so "8G" can mean "size=8G".
 * @error: Out, on failure: one line, names the option and what it takes.
 *
 * Uses neither malloc nor stdio. Return: 0 or -EINVAL.
 */
int pg_opt_parse(const char *text, const struct pg_opt *table, char *error,
		 size_t error_len);

#endif
