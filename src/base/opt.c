/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * opt.c - parsing of sizes and of option lists.
 */
#include "base/opt.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/log.h"

/* More digits behind the point than a size of 2^64 can make use of. */
#define FRACTION_DIGITS 20

/* An item of a list that is being parsed, and where its error goes. */
struct item {
	const struct pg_opt *opt;
	char text[4096]; /* the value, NUL-terminated */
	char *error;
	size_t error_len;
};

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* The suffix @s as a power of two. Return: false if it is none. */
static bool suffix_shift(const char *s, unsigned int *shift)
{
	static const char units[] = "KkMmGgTt";
	const char *u;

	*shift = 0;
	if (!*s)
		return true;
	u = strchr(units, *s);
	if (!u)
		return false;
	*shift = 10 * (1 + (unsigned int)(u - units) / 2);
	return !s[1] || !strcmp(s + 1, "iB");
}

/* Digits at *@p. Return: 0, -EINVAL if there are none, -ERANGE. */
static int parse_digits(const char **p, uint64_t *value)
{
	uint64_t v = 0;

	if (!is_digit(**p))
		return -EINVAL;
	for (; is_digit(**p); (*p)++)
		if (__builtin_mul_overflow(v, 10u, &v) ||
		    __builtin_add_overflow(v, (unsigned int)(**p - '0'), &v))
			return -ERANGE;
	*value = v;
	return 0;
}

/* ".25" at *@p as a part of 1 << @shift, rounded down. */
static int parse_fraction(const char *p, const char *end, unsigned int shift,
			  uint64_t *part)
{
	unsigned __int128 v = 0, scale = 1;

	if (p == end || end - p > FRACTION_DIGITS || !shift)
		return -EINVAL; /* "1.", or parts of a byte */
	for (; p < end; p++) {
		v = v * 10 + (unsigned int)(*p - '0');
		scale *= 10;
	}
	*part = (uint64_t)((v << shift) / scale);
	return 0;
}

int pg_opt_size(const char *text, uint64_t *bytes)
{
	const char *p = text, *fraction = NULL, *end;
	uint64_t whole = 0, part = 0;
	unsigned int shift;
	int range = parse_digits(&p, &whole);

	if (range == -EINVAL)
		return range;
	/* "99999999999999999999Q" is not a size, whatever its length. */
	while (is_digit(*p))
		p++;
	end = p;
	if (*p == '.') {
		fraction = ++p;
		while (is_digit(*p))
			p++;
		end = p;
	}
	if (!suffix_shift(end, &shift))
		return -EINVAL;
	if (fraction && parse_fraction(fraction, end, shift, &part))
		return -EINVAL;
	if (range || whole > UINT64_MAX >> shift ||
	    __builtin_add_overflow(whole << shift, part, bytes))
		return -ERANGE;
	return 0;
}

static int parse_uint(const char *text, uint64_t *value)
{
	const char *p = text;
	int ret = parse_digits(&p, value);

	if (ret != -EINVAL)
		while (is_digit(*p))
			p++;
	return *p ? -EINVAL : ret;
}

static const char *takes(const struct pg_opt *o)
{
	switch (o->kind) {
	case PG_OPT_SIZE:
		return "a size such as 64M or 1.5G";
	case PG_OPT_UINT:
		return "a whole number";
	case PG_OPT_STRING:
		break;
	}
	return "a text";
}

/* A zero maximum would allow nothing, so it stands for "no limit". */
static uint64_t max_of(const struct pg_opt *o)
{
	return o->max ? o->max : UINT64_MAX;
}

static int set_number(const struct item *it)
{
	const struct pg_opt *o = it->opt;
	uint64_t v = 0;
	int ret = o->kind == PG_OPT_SIZE ? pg_opt_size(it->text, &v)
					 : parse_uint(it->text, &v);

	if (ret == -EINVAL) {
		pg_format(it->error, it->error_len,
			  "option %s: \"%s\" is not valid, give %s", o->name,
			  it->text, takes(o));
		return -EINVAL;
	}
	if (ret || v < o->min || v > max_of(o)) {
		pg_format(it->error, it->error_len,
			  "option %s: %s is out of range, give %lu to %lu",
			  o->name, it->text, (unsigned long)o->min,
			  (unsigned long)max_of(o));
		return -EINVAL;
	}
	*(uint64_t *)o->value = v;
	return 0;
}

static int set_string(const struct item *it)
{
	const struct pg_opt *o = it->opt;
	size_t len = strlen(it->text);

	if (len >= o->len) {
		pg_format(it->error, it->error_len,
			  "option %s: the text is too long, give at most %zu "
			  "bytes",
			  o->name, o->len - 1);
		return -EINVAL;
	}
	memcpy(o->value, it->text, len + 1);
	return 0;
}

/* "unknown option "x", known are size, path" */
static int unknown(const char *name, size_t len, const struct pg_opt *table,
		   char *error, size_t error_len)
{
	char shown[64];
	size_t n = len < sizeof(shown) ? len : sizeof(shown) - 1;

	memcpy(shown, name, n);
	shown[n] = '\0';
	if (!table->name) {
		pg_format(error, error_len,
			  "unknown option \"%s\", there are no options", shown);
		return -EINVAL;
	}
	n = pg_format(error, error_len, "unknown option \"%s\", known are",
		      shown);
	for (const struct pg_opt *o = table; o->name; o++)
		n += pg_format(error + n, error_len - n, "%s %s",
			       o == table ? "" : ",", o->name);
	return -EINVAL;
}

static const struct pg_opt *lookup(const struct pg_opt *table, const char *name,
				   size_t len)
{
	for (const struct pg_opt *o = table; o->name; o++)
		if (strlen(o->name) == len && !memcmp(o->name, name, len))
			return o;
	return NULL;
}

/* One item, @text up to @len. @first: it may leave the name out. */
static int parse_item(const char *text, size_t len, bool first,
		      const struct pg_opt *table, uint64_t *seen,
		      struct item *it)
{
	const char *eq = memchr(text, '=', len);
	const char *value = eq ? eq + 1 : text;
	size_t name_len = eq ? (size_t)(eq - text) : len;
	size_t value_len = len - (size_t)(value - text);

	if (!eq && first && table->name && len)
		it->opt = table;
	else
		it->opt = lookup(table, text, name_len);
	if (!it->opt)
		return unknown(text, name_len, table, it->error, it->error_len);
	if ((!eq && !first) || !value_len) {
		pg_format(it->error, it->error_len,
			  "option %s needs a value: %s=%s", it->opt->name,
			  it->opt->name, takes(it->opt));
		return -EINVAL;
	}
	if (*seen & 1ull << (it->opt - table)) {
		pg_format(it->error, it->error_len,
			  "option %s is given twice, give it once",
			  it->opt->name);
		return -EINVAL;
	}
	*seen |= 1ull << (it->opt - table);
	if (value_len >= sizeof(it->text)) {
		pg_format(it->error, it->error_len,
			  "option %s: the value is too long, give at most %zu "
			  "bytes",
			  it->opt->name, sizeof(it->text) - 1);
		return -EINVAL;
	}
	memcpy(it->text, value, value_len);
	it->text[value_len] = '\0';
	return it->opt->kind == PG_OPT_STRING ? set_string(it) : set_number(it);
}

int pg_opt_parse(const char *text, const struct pg_opt *table, char *error,
		 size_t error_len)
{
	struct item it = {.error = error, .error_len = error_len};
	uint64_t seen = 0;
	const char *p = text;

	if (!*p)
		return 0;
	for (;;) {
		size_t len = strcspn(p, ",");
		int ret = parse_item(p, len, p == text, table, &seen, &it);

		if (ret)
			return ret;
		if (!p[len])
			return 0;
		p += len + 1;
	}
}
