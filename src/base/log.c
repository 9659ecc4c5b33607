/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * log.c - formatting without libc, and the one place that writes messages.
 */
#include "base/log.h"

#include <stdbool.h>
#include <stdint.h>

#include "base/atomic.h"
#include "base/sys.h"

/* A longer line is cut; its newline is kept. */
#define LINE_MAX_BYTES 512

typedef void (*log_sink)(const char *line, size_t len);

/* atomic, relaxed: set before threads start, or by one that does not mind
 * that a line of another thread still goes to the old place. */
static pg_atomic32 log_level = PG_LOG_WARN;
static pg_atomic32 log_fd = 2;
static _Atomic(log_sink) log_to;

void pg_log_set(enum pg_log_level level, int fd,
		void (*sink)(const char *line, size_t len))
{
	pg_store(&log_level, (uint32_t)level, relaxed);
	pg_store(&log_fd, (uint32_t)fd, relaxed);
	pg_store(&log_to, sink, relaxed);
}

/* struct out - Where text goes. @len counts what fits, less the NUL. */
struct out {
	char *buf;
	size_t size, len;
};

static void put(struct out *o, char c)
{
	if (o->len + 1 < o->size)
		o->buf[o->len++] = c;
}

static void put_string(struct out *o, const char *s)
{
	if (!s)
		s = "(null)";
	while (*s)
		put(o, *s++);
}

static void put_number(struct out *o, unsigned long v, unsigned int base,
		       unsigned int width)
{
	char digits[64];
	unsigned int n = 0;

	do {
		digits[n++] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	for (; width > n; width--)
		put(o, '0');
	while (n)
		put(o, digits[--n]);
}

static void put_signed(struct out *o, long v)
{
	if (v < 0)
		put(o, '-');
	/* Not -v: the smallest long has no positive twin. */
	put_number(o, v < 0 ? 0ul - (unsigned long)v : (unsigned long)v, 10, 0);
}

static unsigned int parse_width(const char **p)
{
	unsigned int width = 0;

	if (**p != '0')
		return 0;
	while (**p >= '0' && **p <= '9' && width < 100)
		width = width * 10 + (unsigned int)(*(*p)++ - '0');
	return width;
}

size_t pg_vformat(char *buf, size_t size, const char *fmt, va_list ap)
{
	struct out o = {.buf = buf, .size = size};

	for (const char *p = fmt; *p; p++) {
		const char *start = p;
		unsigned int width;
		bool wide;

		if (*p != '%') {
			put(&o, *p);
			continue;
		}
		p++;
		width = parse_width(&p);
		wide = *p == 'l' || *p == 'z';
		p += wide;
		switch (*p) {
		case '%':
			put(&o, '%');
			break;
		case 's':
			put_string(&o, va_arg(ap, const char *));
			break;
		case 'c':
			put(&o, (char)va_arg(ap, int));
			break;
		case 'd':
			put_signed(&o,
				   wide ? va_arg(ap, long) : va_arg(ap, int));
			break;
		case 'u':
		case 'x':
			put_number(&o,
				   wide ? va_arg(ap, unsigned long)
					: va_arg(ap, unsigned int),
				   *p == 'x' ? 16 : 10, width);
			break;
		case 'p':
			put_string(&o, "0x");
			put_number(&o, (unsigned long)va_arg(ap, void *), 16,
				   0);
			break;
		default:
			/* The arguments are lost from here on, the text is
			 * not. */
			put_string(&o, start);
			goto out;
		}
	}
out:
	if (size)
		buf[o.len] = '\0';
	return o.len;
}

size_t pg_format(char *buf, size_t size, const char *fmt, ...)
{
	va_list ap;
	size_t len;

	va_start(ap, fmt);
	len = pg_vformat(buf, size, fmt, ap);
	va_end(ap);
	return len;
}

void pg_log(enum pg_log_level level, const char *fmt, ...)
{
	char line[LINE_MAX_BYTES];
	log_sink sink = pg_load(&log_to, relaxed);
	va_list ap;
	size_t len;

	if ((uint32_t)level > pg_load(&log_level, relaxed))
		return;
	len = pg_format(line, sizeof(line), "pgmap: ");
	va_start(ap, fmt);
	/* One byte less, so that the newline always fits. */
	len += pg_vformat(line + len, sizeof(line) - 1 - len, fmt, ap);
	va_end(ap);
	line[len++] = '\n';
	line[len] = '\0';
	if (sink)
		sink(line, len);
	else
		pg_sys(write, pg_load(&log_fd, relaxed), line, len);
}
