/* SPDX-License-Identifier: BSD-3-Clause */
/* One line for each thing measured, beside what it is compared with. */
#include <inttypes.h>
#include <stdio.h>

#include "bench/bench.h"

const char *bench_size(char buf[BENCH_SIZE], uint64_t bytes)
{
	bool mb = bytes >= 1 << 20;

	snprintf(buf, BENCH_SIZE, "%" PRIu64 " %cB", bytes >> (mb ? 20 : 10),
		 mb ? 'M' : 'K');
	return buf;
}

static bool any; /* a line before this one */

void bench_lines_begin(const struct bench_lines *t)
{
	any = false;
	if (t->json)
		printf("[\n");
	else
		printf("%s\n%-34s %10s %10s %10s %-5s ratio\n", t->title, "",
		       "median", t->low, t->high, "");
}

void bench_line(const struct bench_lines *t, const struct bench_line *l)
{
	if (t->json) {
		printf("%s  {\"what\": \"%s\", \"unit\": \"%s\", "
		       "\"median\": %.4f, \"%s\": %.4f, \"%s\": %.4f",
		       any ? ",\n" : "", l->what, t->unit, l->median, t->low,
		       l->low, t->high, l->high);
		if (l->of)
			printf(", \"of\": \"%s\", \"ratio\": %.4f", l->of,
			       l->ratio);
		else
			printf(", \"of\": null, \"ratio\": null");
		if (l->goal > 0)
			printf(", \"goal\": %g}", l->goal);
		else
			printf(", \"goal\": null}");
	} else {
		printf("%-34s %10.3f %10.3f %10.3f %-5s", l->what, l->median,
		       l->low, l->high, t->unit);
		if (l->of)
			printf(" %.2f of %s", l->ratio, l->of);
		if (l->goal > 0)
			printf(" (goal %g)", l->goal);
		printf("\n");
	}
	any = true;
	fflush(stdout);
}

void bench_lines_end(const struct bench_lines *t)
{
	if (t->json)
		printf("\n]\n");
}
