/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * log.h - one line to the user, from anywhere.
 *
 * A line is formatted on the stack and written with one write(2), so it can
 * come out of a fault, a signal handler or somebody's malloc. pg_format()
 * knows %s %c %d %u %x %lu %ld %lx %zu %p and %%, no widths but %0Nx.
 */
#ifndef PG_LOG_H
#define PG_LOG_H

#include <stdarg.h>
#include <stddef.h>

enum pg_log_level { PG_LOG_ERROR, PG_LOG_WARN, PG_LOG_INFO, PG_LOG_DEBUG };

/** pg_log_set() - Send lines up to @level to descriptor @fd, or to @sink if it
 * is not NULL. The default is errors and warnings to descriptor 2. */
void pg_log_set(enum pg_log_level level, int fd,
		void (*sink)(const char *line, size_t len));

/** pg_log() - "pgmap: ...\n" if @level is wanted. */
void pg_log(enum pg_log_level level, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/** pg_format() - snprintf() without libc. Return: bytes that fit, without the
 * NUL that is always written when @size > 0. */
size_t pg_format(char *buf, size_t size, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
size_t pg_vformat(char *buf, size_t size, const char *fmt, va_list ap)
	__attribute__((format(printf, 3, 0)));

#endif
