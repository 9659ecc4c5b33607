/* SPDX-License-Identifier: BSD-3-Clause */
#include "out.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#ifdef PG_HAVE_JANSSON
#include <jansson.h>
#endif

/* Three digits, and a unit. */
static const char *scaled(char buf[OUT_LEN], double v, double step,
			  const char *const *units)
{
	while (v >= step * 0.9995 && units[1]) {
		v /= step;
		units++;
	}
	snprintf(buf, OUT_LEN,
		 v < 9.995   ? "%.2f %s"
		 : v < 99.95 ? "%.1f %s"
			     : "%.0f %s",
		 v, *units);
	return buf;
}

const char *out_bytes(char buf[OUT_LEN], uint64_t bytes)
{
	static const char *const units[] = {"KB", "MB", "GB", "TB", "PB", NULL};

	if (bytes % 1024 == 0 && bytes < 1024 * 1024)
		snprintf(buf, OUT_LEN, "%" PRIu64 " KB", bytes / 1024);
	else if (bytes < 1024)
		snprintf(buf, OUT_LEN, "%" PRIu64 " bytes", bytes);
	else
		scaled(buf, (double)bytes / 1024, 1024, units);
	return buf;
}

const char *out_ns(char buf[OUT_LEN], uint64_t ns)
{
	static const char *const units[] = {"ns", "us", "ms", "s", NULL};

	if (ns < 1000)
		snprintf(buf, OUT_LEN, "%" PRIu64 " ns", ns);
	else
		scaled(buf, (double)ns, 1000, units);
	return buf;
}

const char *out_value(char buf[OUT_LEN], const char *unit, uint64_t value)
{
	if (!strcmp(unit, "bytes"))
		return out_bytes(buf, value);
	if (!strcmp(unit, "ns"))
		return out_ns(buf, value);
	snprintf(buf, OUT_LEN, "%" PRIu64, value);
	return buf;
}

int out_parse_size(const char *text, uint64_t *bytes)
{
	static const char letters[] = "KMGT";
	const char *letter;
	double v;
	char *end;
	int shift = 0;

	if (*text < '0' || *text > '9' || text[1] == 'x' || text[1] == 'X')
		return -EINVAL;
	v = strtod(text, &end);
	if (memchr(text, 'e', (size_t)(end - text)) ||
	    memchr(text, 'E', (size_t)(end - text)))
		return -EINVAL;
	if (*end) {
		letter = strchr(letters, *end >= 'a' ? *end - 'a' + 'A' : *end);
		if (!letter)
			return -EINVAL;
		shift = 10 * (int)(letter - letters + 1);
		end++;
		if (*end == 'i')
			end++;
		if (*end == 'B' || *end == 'b')
			end++;
	}
	if (*end)
		return -EINVAL;
	v *= (double)(1ull << shift);
	if (v >= 18446744073709551616.0)
		return -ERANGE;
	*bytes = (uint64_t)v;
	return 0;
}

/* A struct out_json is a json_t by another name. A piece that could not be
 * had for want of memory is missing in the end, which out_json_write() says. */
#ifdef PG_HAVE_JANSSON
static bool lost;

static json_t *js(struct out_json *o)
{
	return (json_t *)o;
}

static void set(struct out_json *o, const char *key, json_t *value)
{
	if (json_object_set_new(js(o), key, value))
		lost = true;
}

struct out_json *out_json_new(void)
{
	json_t *o = json_object();

	if (!o)
		fprintf(stderr, "pgmap: out of memory\n");
	return (struct out_json *)o;
}

struct out_json *out_json_object(struct out_json *o, const char *key)
{
	set(o, key, json_object());
	return (struct out_json *)json_object_get(js(o), key);
}

void out_json_list(struct out_json *o, const char *key)
{
	set(o, key, json_array());
}

struct out_json *out_json_append(struct out_json *o, const char *key)
{
	json_t *item = json_object();

	if (!json_object_get(js(o), key))
		out_json_list(o, key);
	if (json_array_append_new(json_object_get(js(o), key), item)) {
		lost = true;
		return NULL;
	}
	return (struct out_json *)item;
}

void out_json_u64(struct out_json *o, const char *key, uint64_t value)
{
	set(o, key, json_integer((json_int_t)(value & INT64_MAX)));
}

void out_json_real(struct out_json *o, const char *key, double value)
{
	set(o, key, json_real(value));
}

void out_json_bool(struct out_json *o, const char *key, bool value)
{
	set(o, key, json_boolean(value));
}

void out_json_string(struct out_json *o, const char *key, const char *value)
{
	json_t *s = json_string(value);

	/* Not UTF-8: a file name may be anything. */
	set(o, key, s ? s : json_string("?"));
}

int out_json_write(struct out_json *o, FILE *to)
{
	int ret = json_dumpf(js(o), to, JSON_INDENT(2)) || fputc('\n', to) < 0;

	json_decref(js(o));
	return ret || lost ? -EIO : 0;
}
#else
struct out_json *out_json_new(void)
{
	fprintf(stderr, "pgmap: this build has no JSON; install jansson "
			"(libjansson-dev) and build pgmap again\n");
	return NULL;
}

struct out_json *out_json_object(struct out_json *o, const char *key)
{
	(void)key;
	return o;
}

struct out_json *out_json_append(struct out_json *o, const char *key)
{
	(void)key;
	return o;
}

void out_json_list(struct out_json *o, const char *key)
{
	(void)o;
	(void)key;
}

void out_json_u64(struct out_json *o, const char *key, uint64_t value)
{
	(void)o;
	(void)key;
	(void)value;
}

void out_json_real(struct out_json *o, const char *key, double value)
{
	(void)o;
	(void)key;
	(void)value;
}

void out_json_bool(struct out_json *o, const char *key, bool value)
{
	(void)o;
	(void)key;
	(void)value;
}

void out_json_string(struct out_json *o, const char *key, const char *value)
{
	(void)o;
	(void)key;
	(void)value;
}

int out_json_write(struct out_json *o, FILE *to)
{
	(void)o;
	(void)to;
	return -EIO;
}
#endif

void out_json_stat(struct out_json *o, const struct pgmap_stat *st)
{
#define X(name, unit, doc) out_json_u64(o, #name, st->name);
	PGMAP_COUNTERS(X)
	PGMAP_GAUGES(X)
#undef X
	out_json_u64(o, "fault_p50_ns",
		     pgmap_hist_percentile(st->fault_hist, 500));
	out_json_u64(o, "fault_p99_ns",
		     pgmap_hist_percentile(st->fault_hist, 990));
}
