/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * out.h - values for people and for programs: sizes, times, one JSON object.
 */
#ifndef OUT_H
#define OUT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <pgmap/stat.h>

#define OUT_LEN 24

/** out_bytes() - "1.5 GB", "64 KB" into @buf; units are powers of 1024.
 * Return: @buf. */
const char *out_bytes(char buf[OUT_LEN], uint64_t bytes);
/** out_ns() - "9.2 us", "1.3 s" into @buf. Return: @buf. */
const char *out_ns(char buf[OUT_LEN], uint64_t ns);
/** out_value() - @value in the unit that stat.h names: "bytes", "pages", "ns"
 * or "count". Return: @buf. */
const char *out_value(char buf[OUT_LEN], const char *unit, uint64_t value);

/** out_parse_size() - All of @text as bytes: "64M", "1.5G", "2MiB", "4096".
 * Return: 0; -EINVAL not a size; -ERANGE more than fits. */
int out_parse_size(const char *text, uint64_t *bytes);

struct out_json; /* an object that is being put together */

/** out_json_new() - Return: an empty object, or NULL: this build has no JSON,
 * or no memory. Said in one line on stderr. */
struct out_json *out_json_new(void);
/** out_json_object() - Return: a new object called @key in @o. */
struct out_json *out_json_object(struct out_json *o, const char *key);
/** out_json_append() - Return: a new object at the end of the list called
 * @key in @o, which is made when it is not there. */
struct out_json *out_json_append(struct out_json *o, const char *key);
/** out_json_list() - An empty list called @key. */
void out_json_list(struct out_json *o, const char *key);
void out_json_u64(struct out_json *o, const char *key, uint64_t value);
void out_json_real(struct out_json *o, const char *key, double value);
void out_json_bool(struct out_json *o, const char *key, bool value);
void out_json_string(struct out_json *o, const char *key, const char *value);
/** out_json_stat() - Every counter under its name, then the latencies that
 * half and all but 1 % of the faults did not exceed. */
void out_json_stat(struct out_json *o, const struct pgmap_stat *st);
/** out_json_write() - Write @o to @to, and free it. Return: 0 or -EIO. */
int out_json_write(struct out_json *o, FILE *to);

#endif
