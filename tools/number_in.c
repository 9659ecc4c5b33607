/* SPDX-License-Identifier: BSD-3-Clause */
#include "number_in.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

uint64_t number_in(const char *path, const char *key)
{
	char line[256];
	uint64_t value = UINT64_MAX;
	FILE *f = fopen(path, "re");

	while (f && fgets(line, sizeof(line), f)) {
		size_t n = key ? strlen(key) : 0;

		if ((!key || !strncmp(line, key, n)) &&
		    sscanf(line + n, " %" SCNu64, &value) == 1)
			break;
	}
	if (f)
		fclose(f);
	return value;
}
