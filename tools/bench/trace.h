/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * trace.h - which pages the work of `pgmap bench` touches, in their order.
 *
 * work.c is compiled as for a thread sanitizer, so that the compiler announces
 * each access, and linked with trace.c in place of the sanitizer's library.
 */
#ifndef BENCH_TRACE_H
#define BENCH_TRACE_H

#include <stddef.h>
#include <stdint.h>

/* A page that was recorded so many records ago is not recorded again: no
 * policy would have let go of it since. */
#define TRACE_WINDOW 32u

#define TRACE_PHASES 8

/** struct trace_phase - What the work measured, as records [begin, end). */
struct trace_phase {
	char name[24];
	size_t begin, end;
};

/**
 * struct trace - Touches of memory that the work mapped.
 * @touch: Number of the page << 1, and 1 if it was written. Numbers keep the
 *         alignment of addresses up to 2 MB, and leave no large gaps.
 * @nr_pages: One more than the largest number.
 * @phase: In their order. What lies before and between them is not measured.
 */
struct trace {
	const uint32_t *touch;
	size_t nr;
	uint32_t nr_pages;
	unsigned int nr_phases;
	struct trace_phase phase[TRACE_PHASES];
};

/** trace_record() - Run pgmap-work's main() and record it. Its output is
 * dropped. Return: 0; or what is wrong has been said. */
int trace_record(int argc, char **argv, struct trace *t);

#endif
