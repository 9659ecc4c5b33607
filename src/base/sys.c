/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/sys.h"

#include <time.h>

uint64_t pg_now_ns(void)
{
	struct timespec t;

	/* The vDSO does not fail for this clock, so errno stays untouched. */
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
